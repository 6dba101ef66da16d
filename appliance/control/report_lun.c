/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Counters of LUNs, as JSON: of one in full, of all in short for who asks every second. */
#include "base/clock.h"
#include "control/appliance_private.h"
#include "control/json_text.h"
#include "control/memory.h"
#include "mem/budget/budget.h"

static json_t *number(uint64_t v)
{
	return json_integer((json_int_t)v);
}

static double seconds(uint64_t ns)
{
	return (double)ns / (double)NSEC_PER_SEC;
}

/* --- in short --- */

static json_t *class_in_short(struct lun *lun, enum lun_class class)
{
	const struct lun_counters *c = lun_counters(lun);

	return json_pack("{s:o, s:o, s:o, s:f}", "ops", number(lun_counters_ops(c, class)), "bytes",
			 number(metric_read(&c->bytes[class])), "errors",
			 number(metric_read(&c->errors[class])), "seconds",
			 seconds(metric_read(&c->latency[class].sum_ns)));
}

static json_t *lun_in_short(struct lun *lun)
{
	struct lun_cache_stats s;
	json_t *o = json_pack("{s:o, s:o, s:o}", "name", json_text(lun_name(lun)), "size",
			      number(lun_size(lun)), "inflight",
			      number(metric_read(&lun_counters(lun)->inflight)));

	for (int i = 0; o && i < LUN_CLASS_COUNT; i++)
		json_object_set_new(o, lun_class_name(i), class_in_short(lun, i));
	if (o && lun_cache_stats(lun, &s)) {
		json_object_set_new(
			o, "hits",
			number(s.cache.hits_memory + s.cache.hits_zero + s.cache.hits_tmem));
		json_object_set_new(o, "misses", number(s.cache.misses));
		json_object_set_new(o, "cached", number(s.cache.resident));
	}
	return o;
}

json_t *appliance_report_counters(struct appliance *app)
{
	json_t *list = json_array(), *o;
	struct budget_stats b;
	struct lun **luns;
	size_t n;

	if (!list || lun_table_list(app->table, &luns, &n)) {
		json_decref(list);
		return NULL;
	}
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, lun_in_short(luns[i]));
	lun_table_free_list(luns, n);
	budget_stats(memory_budget(app->memory), &b);
	o = json_pack("{s:f, s:o, s:{s:o, s:o, s:o, s:o, s:o, s:o}}", "now_s",
		      seconds(clock_now_ns()), "luns", list, "memory", "floor", number(b.floor),
		      "ceiling", number(b.ceiling), "target", number(b.target), "held",
		      number(b.held), "reclaimable", number(b.reclaimable), "returned",
		      number(b.returned));
	return o;
}

/* --- in full --- */

static json_t *class_in_full(struct lun *lun, enum lun_class class)
{
	const struct metric_hist *h = &lun_counters(lun)->latency[class];
	json_t *o = class_in_short(lun, class);

	json_object_set_new(o, "p50_us", number(metric_hist_quantile_us(h, 0.5)));
	json_object_set_new(o, "p99_us", number(metric_hist_quantile_us(h, 0.99)));
	return o;
}

static json_t *stages_of(struct lun *lun, enum lun_class class)
{
	struct lun_stages s;

	lun_get_stages(lun, class, &s);
	return json_pack("{s:f, s:f, s:f}", "queue_s", seconds(s.queue_ns), "cache_s",
			 seconds(s.cache_ns), "disk_s", seconds(s.disk_ns));
}

/* Plain reads and writes that there were, by length and alignment. */
static json_t *requests_of(const struct lun_detail *d)
{
	json_t *list = json_array();

	for (int op = LUN_READ; op <= LUN_WRITE; op++)
		for (unsigned s = 0; s < LUN_SIZES; s++)
			for (unsigned a = 0; a < LUN_ALIGNMENTS; a++) {
				uint64_t n = metric_read(&d->shapes[op][s][a]);
				json_t *size = s + 1 < LUN_SIZES ? number(lun_request_size(s))
								 : json_null();

				if (n)
					json_array_append_new(
						list, json_pack("{s:s, s:O, s:i, s:o}", "op",
								lun_op_name(op), "size", size,
								"alignment",
								(int)lun_request_alignment(a),
								"ops", number(n)));
				json_decref(size);
			}
	return list;
}

static json_t *commands_of(const struct lun_detail *d)
{
	json_t *o = json_object();

	for (int op = LUN_WRITE + 1; op < LUN_OP_COUNT; op++)
		if (op != LUN_FLUSH)
			json_object_set_new(o, lun_op_name(op), number(metric_read(&d->kinds[op])));
	return o;
}

json_t *app_report_lun_counters(struct lun *lun)
{
	const struct lun_counters *c = lun_counters(lun);
	const struct lun_detail *d = lun_detail(lun);
	json_t *o = json_object();

	for (int i = 0; i < LUN_CLASS_COUNT; i++)
		json_object_set_new(o, lun_class_name(i), class_in_full(lun, i));
	json_object_set_new(o, "inflight", number(metric_read(&c->inflight)));
	json_object_set_new(o, "conflicts", number(metric_read(&c->conflicts)));
	json_object_set_new(o, "miscompares", number(metric_read(&d->miscompares)));
	json_object_set_new(o, "stages",
			    json_pack("{s:o, s:o}", "read", stages_of(lun, LUN_CLASS_READ), "write",
				      stages_of(lun, LUN_CLASS_WRITE)));
	json_object_set_new(o, "requests", requests_of(d));
	json_object_set_new(o, "commands", commands_of(d));
	return o;
}
