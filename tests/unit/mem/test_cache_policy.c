/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the cache keeps, on traces, beside LRU and the best there can be. */
#include "cache_harness.h"

#include "tools/trace.h"

#define PAGES 2048u

/* Per cent of the counted accesses. */
static double share(const struct trace *t, size_t hits)
{
	return 100.0 * (double)hits / (double)(t->n - trace_counted_from(t));
}

static double run(const struct trace *t, uint64_t pages, unsigned shards, uint64_t tmem_bytes)
{
	struct rig rig;
	struct cache_object *o;
	size_t hits;

	rig_open(&rig, pages, shards, tmem_bytes);
	o = rig_object(&rig, 0, 0);
	hits = trace_hits_cache(t, o);
	check_consistency(rig.c);
	cache_object_destroy(o);
	rig_close(&rig);
	return share(t, hits);
}

/* Hits of the cache are between LRU's, plus @gain, and the best. */
static void check_trace(enum trace_kind kind, double gain)
{
	struct trace t = trace_make(kind, PAGES);
	double lru = share(&t, trace_hits_lru(&t, PAGES));
	double best = share(&t, trace_hits_best(&t, PAGES));
	double ours = run(&t, PAGES, 1, 0);

	print_message("  %-16s LRU %.2f, cache %.2f, best %.2f\n", trace_name(kind), lru, ours,
		      best);
	assert_true(ours >= lru + gain);
	assert_true(ours <= best);
	trace_free(&t);
}

static void test_a_scan_does_not_wash_out_what_is_used(void **state)
{
	check_trace(TRACE_ZIPF_SCAN, 4);
}
static void test_a_loop_longer_than_the_cache_hits(void **state)
{
	check_trace(TRACE_LOOP, 40);
}
static void test_popular_pages_are_kept_better_than_by_lru(void **state)
{
	check_trace(TRACE_ZIPF_08, 4);
	check_trace(TRACE_ZIPF_10, 2);
	check_trace(TRACE_ZIPF_12, 0);
}
static void test_where_nothing_is_popular_nothing_is_lost(void **state)
{
	check_trace(TRACE_UNIFORM, -0.5);
}

static void test_shards_cost_little(void **state)
{
	struct trace t = trace_make(TRACE_ZIPF_SCAN, PAGES);
	double one = run(&t, PAGES, 1, 0), four = run(&t, PAGES, 4, 0);

	print_message("  1 shard %.2f, 4 of 512 pages each %.2f\n", one, four);
	assert_true(four > one - 1.5);
	trace_free(&t);
}

static void test_a_quarter_for_tmem_brings_more_hits(void **state)
{
	for (unsigned k = 0; k < TRACE_KINDS; k++) {
		struct trace t = trace_make((enum trace_kind)k, PAGES);
		double whole = run(&t, PAGES, 1, 0);
		double divided = run(&t, PAGES * 3 / 4, 1, PAGES / 4 * CACHE_PAGE);

		print_message("  %-16s %.2f, divided %.2f\n", trace_name((enum trace_kind)k), whole,
			      divided);
		/* Where a few pages take nearly all hits there is nothing to win. */
		assert_true(divided > whole - 0.5);
		if (k == TRACE_ZIPF_08 || k == TRACE_ZIPF_10 || k == TRACE_UNIFORM)
			assert_true(divided > whole + 1);
		trace_free(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_scan_does_not_wash_out_what_is_used),
		cmocka_unit_test(test_a_loop_longer_than_the_cache_hits),
		cmocka_unit_test(test_popular_pages_are_kept_better_than_by_lru),
		cmocka_unit_test(test_where_nothing_is_popular_nothing_is_lost),
		cmocka_unit_test(test_shards_cost_little),
		cmocka_unit_test(test_a_quarter_for_tmem_brings_more_hits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
