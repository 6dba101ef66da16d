/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Records of one kind stand in the order in which their things were collected: the ops of a LUN
 * behind one another, its part in the cache, if it has one, under the LUN's own labels; a session
 * and what it is to, one for one.
 */
#include "exporter/status.h"

#include <errno.h>
#include <stdio.h>

#include "base/clock.h"

/* The records of a group, and how many. */
#define RECORDS(m, name) ((const struct name##_record *)(m)->group[METRIC_GROUP_##name].records)
#define COUNT(m, name)	 ((m)->group[METRIC_GROUP_##name].n)

/* --- JSON --- */

/* "key": within an object; begins it, or goes on. */
static void put_key(struct text *out, const char *key)
{
	char last = out->len ? out->data[out->len - 1] : '{';

	if (last != '{' && last != '[')
		text_putc(out, ',');
	text_putc(out, '"');
	text_puts(out, key);
	text_puts(out, "\":");
}

static void put_number(struct text *out, const char *key, uint64_t v)
{
	put_key(out, key);
	if (v == METRIC_NONE)
		text_puts(out, "null");
	else
		text_put_u64(out, v);
}

static void put_seconds(struct text *out, const char *key, uint64_t ns)
{
	put_key(out, key);
	if (ns == METRIC_NONE)
		text_puts(out, "null");
	else
		text_put_seconds(out, ns);
}

/* Opens an element of a list that is an object. */
static void put_element(struct text *out)
{
	if (out->len && out->data[out->len - 1] == '}')
		text_putc(out, ',');
	text_putc(out, '{');
}

/*
 * The value of label @name, whose escapes (\\ \" \n) are JSON's; other control characters are
 * escaped here.
 */
static void put_label(struct text *out, const struct metrics *m, size_t labels, const char *key,
		      const char *name)
{
	const char *p = m->labels.data + labels;
	size_t len = strlen(name);
	char code[8];

	put_key(out, key);
	text_putc(out, '"');
	while (p && (strncmp(p, name, len) || strncmp(p + len, "=\"", 2))) {
		p = strstr(p, "\","); /* may be within a value, but no NAME=" is: quotes there have
					 a backslash */
		p = p ? p + 2 : NULL;
	}
	for (p = p ? p + len + 2 : ""; *p && *p != '"'; p++) {
		if (*p == '\\') {
			text_putc(out, *p++);
			text_putc(out, *p);
		} else if ((unsigned char)*p < ' ') {
			snprintf(code, sizeof(code), "\\u%04x", (unsigned char)*p);
			text_puts(out, code);
		} else {
			text_putc(out, *p);
		}
	}
	text_putc(out, '"');
}

/* --- the whole --- */

static void put_process(struct text *out, const struct metrics *m)
{
	const struct process_record *p = RECORDS(m, process);
	const struct build_record *b = RECORDS(m, build);

	put_label(out, m, b->labels, "version", "version");
	put_seconds(out, "now", clock_get_ns(CLOCK_REALTIME));
	put_seconds(out, "start", p->start_ns);
	put_seconds(out, "cpu", p->cpu_ns);
	put_number(out, "resident", p->resident);
	put_number(out, "open_files", p->open_files);
	put_number(out, "max_files", p->max_files);
}

static void put_budget(struct text *out, const struct metrics *m)
{
	const struct budget_stats *s = &RECORDS(m, budget)->s;

	put_key(out, "budget");
	text_putc(out, '{');
	put_number(out, "floor", s->floor);
	put_number(out, "ceiling", s->ceiling);
	put_number(out, "target", s->target);
	put_number(out, "held", s->held);
	put_number(out, "reclaimable", s->reclaimable);
	put_number(out, "reserved", s->reserved);
	put_number(out, "limit", s->limit);
	put_number(out, "available", s->available);
	put_number(out, "returned", s->returned);
	put_key(out, "shrinks");
	text_putc(out, '{');
	for (unsigned i = 0; i < BUDGET_CAUSES; i++)
		put_number(out, budget_cause_name((enum budget_cause)i), s->shrinks[i]);
	text_puts(out, "}}");
}

static void put_pools(struct text *out, const struct metrics *m)
{
	const struct pool_record *r = RECORDS(m, pool);

	put_key(out, "pools");
	text_putc(out, '[');
	for (size_t i = 0; i < COUNT(m, pool); i++, r++) {
		put_element(out);
		put_label(out, m, r->labels, "name", "pool");
		put_number(out, "bytes", r->s.use.bytes);
		put_number(out, "reclaimable", r->s.use.reclaimable);
		put_number(out, "volatile", r->s.use.loose);
		put_number(out, "wired", r->s.use.wired);
		put_number(out, "target", r->s.target);
		put_number(out, "returned", r->s.returned);
		put_number(out, "purged_pages", r->s.purged_pages);
		text_putc(out, '}');
	}
	text_putc(out, ']');
}

static void put_op(struct text *out, const char *name, const struct lun_op_record *r)
{
	put_key(out, name);
	text_putc(out, '{');
	put_number(out, "ops", r->ops);
	put_number(out, "bytes", r->bytes);
	put_number(out, "errors", r->errors);
	put_seconds(out, "seconds", r->latency.sum_ns);
	text_putc(out, '}');
}

static void put_luns(struct text *out, const struct metrics *m)
{
	const struct lun_op_record *op = RECORDS(m, lun_op);
	const struct lun_cache_record *cache = RECORDS(m, lun_cache);
	const struct lun_cache_record *end = cache + COUNT(m, lun_cache);
	const struct lun_record *r = RECORDS(m, lun);

	put_key(out, "luns");
	text_putc(out, '[');
	for (size_t i = 0; i < COUNT(m, lun); i++, r++, op += LUN_CLASS_COUNT) {
		put_element(out);
		put_label(out, m, r->labels, "name", "lun");
		put_number(out, "size", r->size);
		put_number(out, "inflight", r->inflight);
		for (int k = 0; k < LUN_CLASS_COUNT; k++)
			put_op(out, lun_class_name(k), &op[k]);
		if (cache < end && cache->labels == r->labels) {
			const struct cache_stats *s = &cache->s.cache;

			put_number(out, "hits", s->hits_memory + s->hits_zero + s->hits_tmem);
			put_number(out, "misses", s->misses);
			put_number(out, "cached", s->resident);
			cache++;
		}
		text_putc(out, '}');
	}
	text_putc(out, ']');
}

static void put_sessions(struct text *out, const struct metrics *m)
{
	const struct session_info_record *info = RECORDS(m, session_info);
	const struct session_record *r = RECORDS(m, session);

	put_key(out, "sessions");
	text_putc(out, '[');
	for (size_t i = 0; i < COUNT(m, session); i++, r++, info++) {
		put_element(out);
		put_label(out, m, info->labels, "id", "session");
		put_label(out, m, info->labels, "protocol", "protocol");
		put_label(out, m, r->labels, "client", "initiator");
		put_label(out, m, info->labels, "export", "export");
		put_label(out, m, info->labels, "address", "address");
		put_seconds(out, "since", r->since_ns);
		put_number(out, "commands", r->commands);
		put_number(out, "inflight", r->inflight);
		put_number(out, "read_bytes", r->read_bytes);
		put_number(out, "written_bytes", r->written_bytes);
		put_number(out, "errors", r->errors);
		text_putc(out, '}');
	}
	text_putc(out, ']');
}

int status_render(const struct metrics *m, struct text *out)
{
	if (m->failed || m->labels.failed)
		return -ENOMEM;
	text_putc(out, '{');
	put_process(out, m);
	put_budget(out, m);
	put_pools(out, m);
	put_luns(out, m);
	put_sessions(out, m);
	text_puts(out, "}\n");
	return out->failed ? -ENOMEM : 0;
}
