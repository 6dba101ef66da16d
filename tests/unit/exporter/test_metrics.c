/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "exporter/metrics.h"

static char *rendered(struct metrics *m)
{
	struct text t = {0};

	assert_int_equal(metrics_render(m, &t), 0);
	text_putc(&t, '\0');
	assert_false(t.failed);
	metrics_free(m);
	return t.data;
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);

	return n >= k && !strcmp(s + n - k, end);
}

/* --- the table --- */

static void test_names_follow_the_rules(void **state)
{
	for (size_t i = 0; i < metrics_table_count; i++) {
		const struct metric *m = &metrics_table[i];
		char base[128];

		assert_true(!strncmp(m->name, "ebb_", 4));
		for (const char *p = m->name; *p; p++)
			assert_true(islower((unsigned char)*p) || isdigit((unsigned char)*p) ||
				    *p == '_');
		assert_int_equal(ends_with(m->name, "_total"), m->type == METRIC_COUNTER);
		assert_int_equal(ends_with(m->name, "_info"), m->type == METRIC_INFO);
		snprintf(base, sizeof(base), "%.*s",
			 (int)(strlen(m->name) - (m->type == METRIC_COUNTER ? 6 : 0)), m->name);
		assert_int_equal(ends_with(base, "_bytes"), m->unit == METRIC_BYTES);
		assert_int_equal(ends_with(base, "_seconds"), m->unit == METRIC_SECONDS);
		assert_true(m->help[0] && !strpbrk(m->help, "\\\n|"));
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(m->name, metrics_table[j].name);
	}
}

/* --- rendering --- */

static void test_families_are_whole_and_in_order(void **state)
{
	struct metrics m = {0};
	char *text, *at;

	for (int i = 0; i < 3; i++) {
		char name[8];

		snprintf(name, sizeof(name), "l%d", i);
		metrics_add(&m, METRIC_GROUP_lun,
			    metrics_label(&m, METRICS_NO_LABELS, "lun", name));
	}
	text = at = rendered(&m);
	for (size_t i = 0; i < metrics_table_count; i++) {
		const struct metric *row = &metrics_table[i];
		char head[512];

		snprintf(head, sizeof(head), "# HELP %s %s\n# TYPE %s %s\n", row->name, row->help,
			 row->name, metric_type_name(row->type));
		assert_true(!strncmp(at, head, strlen(head)));
		at += strlen(head);
		for (int k = 0; k < 3 && row->group == METRIC_GROUP_lun; k++) {
			snprintf(head, sizeof(head), "%s{lun=\"l%d\"} 0\n", row->name, k);
			assert_true(!strncmp(at, head, strlen(head)));
			at += strlen(head);
		}
	}
	assert_string_equal(at, "");
	free(text);
}

static void test_a_value_that_is_not_there_is_not_told(void **state)
{
	struct metrics m = {0};
	size_t lun = metrics_label(&m, METRICS_NO_LABELS, "lun", "a");
	struct lun_op_record *r =
		metrics_add(&m, METRIC_GROUP_lun_op, metrics_label(&m, lun, "op", "flush"));
	char *text;

	r->ops = 7;
	r->bytes = r->latency.sum_ns = METRIC_NONE;
	text = rendered(&m);
	assert_non_null(strstr(text, "\nebb_lun_operations_total{lun=\"a\",op=\"flush\"} 7\n"));
	assert_null(strstr(text, "\nebb_lun_bytes_total{"));
	assert_null(strstr(text, "\nebb_lun_latency_seconds_"));
	free(text);
}

/* The number behind NAME{...le="LE"}; *@at moves behind it. */
static uint64_t take_bucket(char **at, double *ret_le)
{
	char *p = strstr(*at, "\nebb_lun_latency_seconds_bucket{lun=\"a\",op=\"read\",le=\"");

	assert_non_null(p);
	p = strstr(p, "le=\"") + 4;
	*ret_le = strtod(p, &p);
	assert_true(!strncmp(p, "\"} ", 3));
	return strtoull(p + 3, at, 10);
}

static void test_histograms_are_cumulative_and_their_bounds_true(void **state)
{
	struct metric_hist h = {0};
	struct metrics m = {0};
	size_t lun = metrics_label(&m, METRICS_NO_LABELS, "lun", "a");
	struct lun_op_record *r =
		metrics_add(&m, METRIC_GROUP_lun_op, metrics_label(&m, lun, "op", "read"));
	uint64_t ns[] = {0,	  31999,    32001,     100000,	   127999,
			 2000000, 90000000, 524287000, 3000000000, 60000000000};
	uint64_t n = sizeof(ns) / sizeof(ns[0]), sum = 0;
	char *text, *at, line[128];
	double le, last = 0;

	for (size_t i = 0; i < n; i++) {
		metric_hist_add(&h, ns[i]);
		sum += ns[i];
	}
	for (int i = 0; i < METRIC_HIST_BUCKETS; i++)
		r->latency.bucket[i] = metric_read(&h.bucket[i]);
	r->latency.sum_ns = metric_read(&h.sum_ns);
	text = at = rendered(&m);
	do {
		uint64_t got = take_bucket(&at, &le), want = 0;

		assert_true(le > last);
		for (size_t i = 0; i < n; i++)
			want += (double)ns[i] <= le * 1e9;
		assert_int_equal(got, want);
		last = le;
	} while (le < 1e300);
	assert_true(at == strstr(at, "\nebb_lun_latency_seconds_sum{lun=\"a\",op=\"read\"} "));
	assert_int_equal(strtod(strchr(at, '}') + 1, &at) * 1e9 + 0.5, sum);
	snprintf(line, sizeof(line), "\nebb_lun_latency_seconds_count{lun=\"a\",op=\"read\"} %d\n",
		 (int)n);
	assert_true(!strncmp(at, line, strlen(line)));
	free(text);
}

static void add_value(struct metrics *m, enum metric_group group, size_t labels, const char *name,
		      const char *value)
{
	struct lun_stage_record *r = metrics_add(m, group, metrics_label(m, labels, name, value));

	r->ns = 12345678901;
}

/* Where the time goes, and what kind of I/O there is: what a guest with a file system does. */
static void add_busy_detail(struct metrics *m, size_t lun)
{
	static const char *const stages[] = {"queue", "cache", "disk"},
				 *const ops[] = {"read", "write"},
				 *const sizes[] = {"4096", "32768", "262144"};

	for (int op = 0; op < 2; op++) {
		size_t labels = metrics_label(m, lun, "op", ops[op]);

		for (int i = op ? 0 : 1; i < 3; i++) /* reads seldom wait */
			add_value(m, METRIC_GROUP_lun_stage, labels, "stage", stages[i]);
		for (int i = 0; i < 3; i++)
			add_value(m, METRIC_GROUP_lun_shape,
				  metrics_label(m, labels, "size", sizes[i]), "alignment", "4096");
	}
	add_value(m, METRIC_GROUP_lun_command, lun, "command", "status");
}

/* All that a busy LUN has to tell, with long numbers, must leave room in 5 MB for a thousand. */
static void test_a_thousand_busy_luns_fit(void **state)
{
	struct metrics m = {0};
	char *text;

	for (int i = 0; i < 1000; i++) {
		char name[80];
		size_t lun, lun_info;
		struct lun_record *l;
		uint64_t *values;

		snprintf(name, sizeof(name), "vm-disk-%04d", i);
		lun = metrics_label(&m, METRICS_NO_LABELS, "lun", name);
		l = metrics_add(&m, METRIC_GROUP_lun, lun);
		l->size = l->conflicts = 1ull << 42;
		l->miscompares = METRIC_NONE;
		snprintf(name, sizeof(name), "/srv/ebb/images/tenant-%04d/vm-disk-%04d.img", i, i);
		lun_info = metrics_label(&m, lun, "uuid", "b39e14c1-7f0e-4a8b-9e1c-3b6f2d1c0a55");
		metrics_add(&m, METRIC_GROUP_lun_info, metrics_label(&m, lun_info, "path", name));
		values = (uint64_t *)metrics_add(&m, METRIC_GROUP_lun_cache, lun);
		for (size_t k = 1; k < sizeof(struct lun_cache_record) / sizeof(*values); k++)
			values[k] = 123456789;
		add_busy_detail(&m, lun);
		for (int tier = 0; tier < 3; tier++)
			metrics_add(&m, METRIC_GROUP_lun_tier,
				    metrics_label(&m, lun, "tier", "memory"));
		for (int op = 0; op < LUN_CLASS_COUNT; op++) {
			struct lun_op_record *r = metrics_add(
				&m, METRIC_GROUP_lun_op, metrics_label(&m, lun, "op", "write"));

			r->ops = r->latency.bucket[0] = 123456789;
			r->bytes = 12345678901234;
			r->latency.coarse = op == 2;
			r->latency.sum_ns = op < 3 ? 123456789012345 : METRIC_NONE;
		}
	}
	text = rendered(&m);
	print_message("%zu bytes\n", strlen(text));
	assert_true(strlen(text) < 5000000);
	free(text);
}

static void test_no_memory_is_told(void **state)
{
	struct metrics m = {.failed = true};
	struct text t = {0};

	assert_int_equal(metrics_render(&m, &t), -12);
	metrics_free(&m);
	m.labels.failed = true;
	metrics_add(&m, METRIC_GROUP_lun, metrics_label(&m, METRICS_NO_LABELS, "lun", "a"));
	metrics_add(&m, METRIC_GROUP_lun, metrics_label(&m, 0, "op", "a"));
	assert_int_equal(metrics_render(&m, &t), -12);
	metrics_free(&m);
	text_clear(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_follow_the_rules),
		cmocka_unit_test(test_families_are_whole_and_in_order),
		cmocka_unit_test(test_a_value_that_is_not_there_is_not_told),
		cmocka_unit_test(test_histograms_are_cumulative_and_their_bounds_true),
		cmocka_unit_test(test_a_thousand_busy_luns_fit),
		cmocka_unit_test(test_no_memory_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
