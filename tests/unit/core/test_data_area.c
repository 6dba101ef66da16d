// SPDX-License-Identifier: GPL-2.0-or-later
/* The data area, one behaviour a test. */
#include "data_area_harness.h"

#include <string.h>

#define ME	1u
#define MAX_N	8192u
#define IDLE_MS 10000u

static u32 got[MAX_N]; /* of the last take() */

static void open_area(struct test_host *host, struct test_area *area, u32 max_blocks, u32 reserve)
{
	struct data_area_spec spec = {.max_blocks = max_blocks,
				      .pages_per_block = 1,
				      .reserve = reserve,
				      .idle_ms = IDLE_MS};

	assert_int_equal(area_open(host, area, &spec), 0);
}

static int take_at(struct test_area *area, u32 n, u64 now)
{
	assert_true(n <= MAX_N);
	return area_take(area, n, now, ME, got);
}

static int take(struct test_area *area, u32 n)
{
	return take_at(area, n, 0);
}

static void put_range(struct test_area *area, u32 first, u32 n)
{
	u32 blocks[MAX_N];

	for (u32 i = 0; i < n; i++)
		blocks[i] = first + i;
	area_put(area, blocks, n, ME);
}

/* @n blocks above the reserve come and go: they are cached now. */
static void fill(struct test_area *area, u32 n, u64 now)
{
	assert_int_equal(take_at(area, n, now), 0);
	area_put(area, got, n, ME);
}

static void check_states(struct test_area *area, const char *states)
{
	static const char name[] = {[DATA_AREA_EMPTY] = '.',
				    [DATA_AREA_CACHED] = 'c',
				    [DATA_AREA_BUSY] = 'B',
				    [DATA_AREA_RELEASING] = 'r'};
	char found[128] = "";

	for (u32 i = 0; i < strlen(states); i++)
		found[i] = name[data_area_state(area->a, i)];
	assert_string_equal(found, states);
}

/* --- one area --- */

static void reuses_the_lowest_before_it_grows(void **state)
{
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &area, 300, 300);
	assert_int_equal(take(&area, 5), 0);
	for (u32 i = 0; i < 5; i++)
		assert_int_equal(got[i], i);
	put_range(&area, 3, 1);
	put_range(&area, 1, 1);
	check_states(&area, "BcBcB.");
	assert_int_equal(take(&area, 3), 0);
	assert_int_equal(got[0], 1);
	assert_int_equal(got[1], 3);
	assert_int_equal(got[2], 5);
	assert_int_equal(area_stats(&area).blocks_reused, 2);
	assert_int_equal(area_stats(&area).blocks_grown, 6);
	assert_int_equal(area_stats(&area).high_water, 6);
	area_close(&area);
	host_close(&host);
}

static void takes_all_or_nothing_and_tells_when_to_try_again(void **state)
{
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &area, 4, 4);
	assert_int_equal(take(&area, 5), -E2BIG);
	assert_int_equal(take(&area, 3), 0);
	assert_int_equal(take(&area, 2), -ENOSPC);
	check_states(&area, "BBB.");
	assert_int_equal(area_stats(&area).full_area, 1);
	assert_int_equal(area.wakes, 0);
	put_range(&area, 2, 1);
	put_range(&area, 1, 1);
	assert_int_equal(area.wakes, 1);
	assert_int_equal(take(&area, 3), 0);
	assert_int_equal(take(&area, 1), -ENOSPC);
	data_area_stop_waiting(area.a);
	put_range(&area, 0, 4);
	assert_int_equal(area.wakes, 1);
	area_close(&area);
	host_close(&host);
}

static void cancelled_blocks_are_empty_and_not_charged(void **state)
{
	struct test_host host;
	struct test_area area;
	u32 reused, blocks[4];

	(void)state;
	host_open(&host, 10);
	open_area(&host, &area, 10, 2);
	assert_int_equal(data_area_take(area.a, 4, 0, blocks, &reused), 0);
	assert_int_equal(reused, 0);
	assert_int_equal(host_stats(&host).charged, 4);
	assert_int_equal(take(&area, 7), -ENOSPC);
	data_area_cancel(area.a, blocks + 1, 3);
	assert_int_equal(area.wakes, 1);
	check_states(&area, "B.........");
	data_area_cancel(area.a, blocks, 1);
	data_area_stop_waiting(area.a);
	assert_int_equal(host_stats(&host).charged, 2);
	area_close(&area);
	host_close(&host);
}

static void any_cached_run_is_released_and_no_busy_block(void **state)
{
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &area, 12, 0);
	assert_int_equal(take(&area, 10), 0);
	put_range(&area, 2, 3);
	put_range(&area, 7, 1);
	check_states(&area, "BBcccBBcBB..");
	assert_int_equal(data_area_shrink(area.a, 8), 2); /* from above */
	check_states(&area, "BBcc.BB.BB..");
	assert_int_equal(data_area_shrink(area.a, 0), 2);
	check_states(&area, "BB...BB.BB..");
	assert_int_equal(data_area_shrink(area.a, 0), 0);
	assert_int_equal(area_stats(&area).shrinks_asked, 2);
	assert_int_equal(area_stats(&area).pages_returned, 4);
	assert_int_equal(area.releases, 3); /* one a run */
	/* Holes are filled from below again. */
	assert_int_equal(take(&area, 5), 0);
	assert_int_equal(got[0], 2);
	assert_int_equal(got[4], 10);
	area_close(&area);
	host_close(&host);
}

static void a_block_that_cannot_be_freed_stays_and_others_go(void **state)
{
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &area, 10, 0);
	fill(&area, 10, 0);
	area.refuse = 6;
	assert_int_equal(data_area_shrink(area.a, 0), 9);
	check_states(&area, "......c...");
	assert_int_equal(area_stats(&area).release_failed, 1);
	area.refuse = NOTHING;
	assert_int_equal(data_area_shrink(area.a, 0), 1);
	area_close(&area);
	host_close(&host);
}

static void check_release(struct test_host *host, void *area_)
{
	struct test_area *area = area_;

	(void)host;
	assert_int_equal(area_stats(area).releasing, 4);
	check_states(area, "rrrr");
	/* Nobody gets a block that is on its way out. */
	assert_int_equal(take(area, 1), -ENOSPC);
}

static void blocks_on_their_way_out_are_out_of_reach(void **state)
{
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &area, 4, 0);
	fill(&area, 4, 0);
	host.on_release = check_release;
	assert_int_equal(data_area_shrink(area.a, 0), 4);
	host.on_release = NULL;
	assert_int_equal(area.wakes, 1);
	assert_int_equal(take(&area, 4), 0);
	area_close(&area);
	host_close(&host);
}

static void shrink_to_four(struct test_host *host, void *area_)
{
	struct test_area *area = area_;

	host->on_release = NULL;
	assert_int_equal(data_area_shrink(area->a, 4), 0);
}

static void what_two_release_at_once_is_counted_once(void **state)
{
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &area, 100, 0);
	fill(&area, 10, 0);
	host.on_release = shrink_to_four;
	assert_int_equal(data_area_shrink(area.a, 4), 6);
	assert_int_equal(area_stats(&area).cached, 4);
	area_close(&area);
	host_close(&host);
}

static void holes_far_apart_are_found(void **state)
{
	static const u32 size = 65 * 4096;
	u32 *blocks = calloc(size, sizeof(*blocks));
	struct test_host host;
	struct test_area area;

	(void)state;
	assert_non_null(blocks);
	host_open(&host, 0);
	open_area(&host, &area, size, 0);
	assert_int_equal(area_take(&area, size - 10, 0, ME, blocks), 0);
	put_range(&area, 5, 1);
	put_range(&area, 4096 + 7, 1);
	assert_int_equal(data_area_shrink(area.a, 0), 2);
	assert_int_equal(take(&area, 4), 0);
	assert_int_equal(got[0], 5);
	assert_int_equal(got[1], 4096 + 7);
	assert_int_equal(got[2], size - 10);
	assert_int_equal(got[3], size - 9);
	area_close(&area);
	host_close(&host);
	free(blocks);
}

static void records_are_made_when_needed_and_go_again(void **state)
{
	struct test_host host;
	struct test_area area;
	u64 idle, made;

	(void)state;
	host_open(&host, 0);
	idle = host.meta_bytes;
	open_area(&host, &area, 1u << 18, 0); /* 1 GiB of 4 KiB blocks */
	made = host.meta_bytes - idle;
	assert_true(made < 4096);
	assert_int_equal(made, area_stats(&area).meta_bytes);
	fill(&area, 4096, 0); /* the records of the first blocks are always there */
	assert_int_equal(host.meta_bytes - idle, made);
	fill(&area, MAX_N, 0);
	assert_int_equal(host.meta_bytes - idle, made + 1024);
	assert_int_equal(host.meta_bytes - idle, area_stats(&area).meta_bytes);
	assert_int_equal(data_area_shrink(area.a, 0), MAX_N);
	assert_int_equal(host.meta_bytes - idle, made);
	area_close(&area);
	host_close(&host);
}

static void the_largest_area_has_64_bit_offsets(void **state)
{
	struct test_host host;
	struct test_area area;
	u32 *blocks = calloc(DATA_AREA_BLOCKS_MAX, sizeof(*blocks));

	(void)state;
	assert_non_null(blocks);
	host_open(&host, 0);
	open_area(&host, &area, DATA_AREA_BLOCKS_MAX, 0);
	assert_int_equal(area_take(&area, DATA_AREA_BLOCKS_MAX, 0, ME, blocks), 0);
	assert_int_equal(blocks[DATA_AREA_BLOCKS_MAX - 1], DATA_AREA_BLOCKS_MAX - 1);
	assert_int_equal(data_area_page(DATA_AREA_BLOCKS_MAX - 1, 256) << 12,
			 0xffffffull * 256 * 4096);
	area_put(&area, blocks + DATA_AREA_BLOCKS_MAX - 1, 1, ME);
	area_put(&area, blocks + 5000, 1, ME);
	assert_int_equal(take(&area, 2), 0);
	assert_int_equal(got[0], 5000);
	assert_int_equal(got[1], DATA_AREA_BLOCKS_MAX - 1);
	area_put(&area, blocks, DATA_AREA_BLOCKS_MAX, ME);
	assert_int_equal(data_area_shrink(area.a, 3), DATA_AREA_BLOCKS_MAX - 3);
	check_states(&area, "ccc...");
	area_close(&area);
	host_close(&host);
	free(blocks);
}

/* Sizes around the borders of words, leaves and tops. */
static void every_size_has_all_its_blocks_and_no_more(void **state)
{
	static const u32 sizes[] = {1,	  63,	64,   65,	 4095,	       4096,
				    4097, 8191, 8192, 64 * 4096, 64 * 4096 + 1};
	u32 *blocks = calloc(64 * 4096 + 1, sizeof(*blocks));

	(void)state;
	assert_non_null(blocks);
	for (u32 i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		u32 n = sizes[i];
		struct test_host host;
		struct test_area area;

		host_open(&host, 0);
		open_area(&host, &area, n, 0);
		assert_int_equal(area_take(&area, n, 0, ME, blocks), 0);
		for (u32 j = 0; j < n; j++)
			assert_int_equal(blocks[j], j);
		assert_int_equal(take(&area, 1), -ENOSPC);
		area_put(&area, blocks, n, ME);
		assert_int_equal(data_area_shrink(area.a, n - 1), 1);
		assert_int_equal(data_area_state(area.a, n - 1), DATA_AREA_EMPTY);
		assert_int_equal(data_area_shrink(area.a, 0), n - 1);
		assert_int_equal(area.released, n);
		area_close(&area);
		host_close(&host);
	}
	free(blocks);
}

static void bad_specs_and_failed_allocations_change_nothing(void **state)
{
	struct data_area_spec spec = {.max_blocks = 8, .pages_per_block = 1, .reserve = 2}, bad;
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 100);
	bad = spec;
	bad.max_blocks = 0;
	assert_int_equal(area_open(&host, &area, &bad), -EINVAL);
	bad.max_blocks = DATA_AREA_BLOCKS_MAX + 1;
	assert_int_equal(area_open(&host, &area, &bad), -EINVAL);
	bad = spec;
	bad.pages_per_block = 0;
	assert_int_equal(area_open(&host, &area, &bad), -EINVAL);
	bad = spec;
	bad.reserve = 9;
	assert_int_equal(area_open(&host, &area, &bad), -EINVAL);
	for (u32 i = 1; i <= 2; i++) {
		host.fail_at = host.allocs + i;
		assert_int_equal(area_open(&host, &area, &spec), -ENOMEM);
		assert_int_equal(host_stats(&host).charged, 0);
	}
	spec.max_blocks = 5000;
	assert_int_equal(area_open(&host, &area, &spec), 0);
	assert_int_equal(data_budget_set_limit(host.b, 0), 0);
	assert_int_equal(take(&area, 4000), 0);
	host.fail_at = host.allocs + 1;
	assert_int_equal(take(&area, 97), -ENOMEM); /* the 4097th has records of its own */
	assert_int_equal(host_stats(&host).charged, 4000);
	assert_int_equal(data_area_state(area.a, 4000), DATA_AREA_EMPTY);
	host.fail_at = host.allocs + 1;
	assert_int_equal(take(&area, 96), 0);
	assert_int_equal(take(&area, 1), -ENOMEM);
	assert_int_equal(take(&area, 1), 0);
	area_close(&area);
	host_close(&host);
}

/* --- many areas, one budget --- */

static void the_limit_is_hard_and_cached_blocks_are_stolen(void **state)
{
	struct test_host host;
	struct test_area a, b;

	(void)state;
	host_open(&host, 8);
	open_area(&host, &a, 100, 2);
	open_area(&host, &b, 100, 2);
	assert_int_equal(take(&a, 6), 0);
	assert_int_equal(host_stats(&host).charged, 8);
	assert_int_equal(take(&b, 2), 0); /* its reserve: always */
	assert_int_equal(take(&b, 1), -ENOSPC);
	assert_int_equal(area_stats(&b).full_budget, 1);
	assert_int_equal(host_stats(&host).waiting, 1);
	assert_int_equal(host.serve_asked, 1);
	data_budget_serve(host.b);
	assert_int_equal(b.wakes, 0); /* all is busy */
	put_range(&a, 0, 3);
	assert_int_equal(host.serve_asked, 2);
	data_budget_serve(host.b);
	check_states(&a, "cc.BBB"); /* no more than is needed, from above */
	assert_int_equal(b.wakes, 1);
	assert_int_equal(host_stats(&host).charged, 8);
	assert_int_equal(take(&b, 1), 0);
	assert_int_equal(area_stats(&a).shrinks_steal, 1);
	put_range(&a, 3, 3);
	assert_int_equal(host.serve_asked, 2); /* no shortage any more */
	area_close(&a);
	area_close(&b);
	host_close(&host);
}

static void steals_from_the_area_used_least_recently(void **state)
{
	struct test_host host;
	struct test_area a, b, c, d;

	(void)state;
	host_open(&host, 12);
	open_area(&host, &a, 100, 0);
	open_area(&host, &b, 100, 0);
	open_area(&host, &c, 100, 0);
	open_area(&host, &d, 100, 0);
	fill(&a, 4, 1000);
	fill(&b, 4, 2000);
	fill(&c, 4, 3000);
	fill(&a, 1, 4000); /* uses what it has */
	assert_int_equal(take(&d, 4), -ENOSPC);
	data_budget_serve(host.b);
	assert_int_equal(a.released, 0);
	assert_int_equal(b.released, 4);
	assert_int_equal(c.released, 0);
	assert_int_equal(take(&d, 4), 0);
	assert_int_equal(take(&d, 6), -ENOSPC);
	data_budget_serve(host.b);
	assert_int_equal(c.released, 4);
	assert_int_equal(a.released, 2);
	assert_int_equal(take(&d, 6), 0);
	area_close(&a);
	area_close(&b);
	area_close(&c);
	area_close(&d);
	host_close(&host);
}

static void reserves_are_not_stolen_nor_what_the_head_has(void **state)
{
	struct test_host host;
	struct test_area a, b;

	(void)state;
	host_open(&host, 10);
	open_area(&host, &a, 100, 4);
	open_area(&host, &b, 100, 0);
	fill(&a, 4, 0);
	assert_int_equal(take(&b, 6), 0);
	put_range(&b, 0, 3);
	assert_int_equal(take(&b, 4), -ENOSPC);
	data_budget_serve(host.b);
	assert_int_equal(a.released, 0);
	assert_int_equal(b.released, 0);
	put_range(&b, 3, 1);
	assert_int_equal(b.wakes, 1); /* its own put: now there are four */
	assert_int_equal(take(&b, 4), 0);
	assert_int_equal(host_stats(&host).waiting, 0);
	area_close(&a);
	area_close(&b);
	host_close(&host);
}

static void nobody_overtakes_in_the_queue(void **state)
{
	struct test_host host;
	struct test_area a, b, c;

	(void)state;
	host_open(&host, 8);
	open_area(&host, &a, 100, 0);
	open_area(&host, &b, 100, 0);
	open_area(&host, &c, 100, 0);
	assert_int_equal(take(&a, 6), 0);
	assert_int_equal(take(&b, 4), -ENOSPC);
	assert_int_equal(host_stats(&host).charged, 8); /* the rest is b's already */
	assert_int_equal(take(&c, 1), -ENOSPC);
	put_range(&a, 0, 1);
	data_budget_serve(host.b);
	assert_int_equal(b.wakes + c.wakes, 0);
	assert_int_equal(take(&c, 1), -ENOSPC);
	assert_int_equal(take(&b, 4), -ENOSPC); /* keeps its place and its grant */
	assert_int_equal(host_stats(&host).waiting, 2);
	put_range(&a, 1, 1);
	data_budget_serve(host.b);
	assert_int_equal(b.wakes, 1);
	assert_int_equal(c.wakes, 0);
	assert_int_equal(take(&b, 4), 0);
	put_range(&a, 2, 1);
	data_budget_serve(host.b);
	assert_int_equal(c.wakes, 1);
	assert_int_equal(take(&c, 1), 0);
	area_close(&a);
	area_close(&b);
	area_close(&c);
	host_close(&host);
}

static void who_needs_more_than_it_was_granted_keeps_its_turn(void **state)
{
	struct test_host host;
	struct test_area a, b, c;

	(void)state;
	host_open(&host, 10);
	open_area(&host, &a, 100, 0);
	open_area(&host, &b, 100, 0);
	open_area(&host, &c, 100, 0);
	assert_int_equal(take(&c, 10), 0);
	assert_int_equal(take(&a, 6), -ENOSPC);
	assert_int_equal(take(&b, 6), -ENOSPC);
	put_range(&c, 0, 6);
	data_budget_serve(host.b);
	assert_int_equal(a.wakes, 1);
	put_range(&c, 6, 2);
	data_budget_serve(host.b); /* b has two of six, c has two, a has been told of six */
	assert_int_equal(take(&a, 9), -ENOSPC);
	assert_int_equal(take(&a, 8), 0); /* b's go to who is before it: else both would wait */
	assert_int_equal(b.wakes, 0);
	put_range(&a, 0, 8);
	data_budget_serve(host.b);
	assert_int_equal(b.wakes, 1);
	assert_int_equal(take(&b, 6), 0);
	area_close(&a);
	area_close(&b);
	area_close(&c);
	host_close(&host);
}

static void who_stops_waiting_hands_on_what_it_was_granted(void **state)
{
	struct test_host host;
	struct test_area a, b, c, d;

	(void)state;
	host_open(&host, 8);
	open_area(&host, &a, 100, 0);
	open_area(&host, &b, 100, 0);
	open_area(&host, &c, 100, 0);
	open_area(&host, &d, 100, 0);
	assert_int_equal(take(&a, 6), 0);
	assert_int_equal(take(&b, 8), -ENOSPC);
	assert_int_equal(take(&c, 4), -ENOSPC);
	assert_int_equal(take(&d, 2), -ENOSPC);
	data_area_stop_waiting(b.a);
	assert_int_equal(c.wakes + d.wakes, 0);
	area_close(&c); /* so does who dies */
	assert_int_equal(d.wakes, 1);
	assert_int_equal(take(&d, 2), 0);
	/* Having been told, but not taken, is waiting too. */
	put_range(&d, 0, 2);
	assert_int_equal(take(&b, 2), -ENOSPC);
	data_budget_serve(host.b);
	assert_int_equal(b.wakes, 1);
	assert_int_equal(host_stats(&host).charged, 8);
	data_area_stop_waiting(b.a);
	assert_int_equal(host_stats(&host).charged, 6);
	area_close(&a);
	area_close(&b);
	area_close(&d);
	host_close(&host);
}

static void a_grant_that_is_not_needed_goes_back(void **state)
{
	struct test_host host;
	struct test_area a, b;

	(void)state;
	host_open(&host, 8);
	open_area(&host, &a, 100, 0);
	open_area(&host, &b, 100, 0);
	assert_int_equal(take(&a, 4), 0);
	assert_int_equal(take(&b, 2), 0);
	assert_int_equal(take(&b, 4), -ENOSPC);
	assert_int_equal(host_stats(&host).charged, 8);
	put_range(&b, 0, 2);
	assert_int_equal(take(&b, 2), 0); /* something smaller, from what it has */
	assert_int_equal(host_stats(&host).charged, 6);
	assert_int_equal(host_stats(&host).waiting, 0);
	area_close(&a);
	area_close(&b);
	host_close(&host);
}

static void what_can_never_be_is_refused_at_once(void **state)
{
	struct test_host host;
	struct test_area a, b;

	(void)state;
	host_open(&host, 8);
	open_area(&host, &a, 100, 3);
	open_area(&host, &b, 100, 2);
	assert_int_equal(take(&b, 6), -E2BIG);
	assert_int_equal(take(&a, 5), 0);
	assert_int_equal(take(&b, 5), -ENOSPC);
	assert_int_equal(data_budget_set_limit(host.b, 4), -EINVAL);
	assert_int_equal(host_stats(&host).limit, 8);
	/* Possible when it began to wait, and now no longer. */
	assert_int_equal(data_budget_set_limit(host.b, 7), 0);
	assert_int_equal(b.wakes, 1);
	assert_int_equal(take(&b, 5), -E2BIG);
	assert_int_equal(take(&b, 2), 0);
	area_close(&a);
	area_close(&b);
	host_close(&host);
}

static void a_lowered_limit_takes_what_becomes_free(void **state)
{
	struct test_host host;
	struct test_area a, b;
	u64 asked;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &a, 100, 1);
	open_area(&host, &b, 100, 1);
	assert_int_equal(take(&a, 10), 0);
	fill(&b, 10, 0);
	asked = host.serve_asked;
	assert_int_equal(data_budget_set_limit(host.b, 6), 0);
	assert_true(host.serve_asked > asked);
	data_budget_serve(host.b);
	assert_int_equal(host_stats(&host).charged, 11);
	assert_int_equal(area_stats(&b).shrinks_limit, 1);
	assert_int_equal(area_stats(&b).cached, 1);
	assert_int_equal(take(&b, 2), -ENOSPC);
	put_range(&a, 0, 10);
	data_budget_serve(host.b);
	assert_int_equal(host_stats(&host).charged, 6);
	assert_int_equal(b.wakes, 1);
	assert_int_equal(take(&b, 2), 0);
	area_close(&a);
	area_close(&b);
	host_close(&host);
}

static void a_new_area_waits_for_its_reserve(void **state)
{
	struct data_area_spec spec = {.max_blocks = 8, .pages_per_block = 1, .reserve = 6};
	struct test_host host;
	struct test_area a, b, c;

	(void)state;
	host_open(&host, 8);
	open_area(&host, &a, 100, 3);
	assert_int_equal(area_open(&host, &b, &spec), -ENOSPC); /* never */
	assert_int_equal(take(&a, 7), 0);
	open_area(&host, &b, 100, 5);
	assert_int_equal(host_stats(&host).charged, 8);
	assert_int_equal(take(&b, 1), -ENOSPC);
	data_area_stop_waiting(b.a); /* the request gives up, the area does not */
	assert_int_equal(host_stats(&host).waiting, 1);
	put_range(&a, 0, 7);
	data_budget_serve(host.b);
	assert_int_equal(b.wakes, 1);
	assert_int_equal(host_stats(&host).charged, 8);
	assert_int_equal(take(&b, 5), 0);
	area_close(&b);
	/* One that dies while it waits was never charged. */
	assert_int_equal(take(&a, 7), 0);
	open_area(&host, &c, 100, 2);
	area_close(&c);
	assert_int_equal(host_stats(&host).charged, 7);
	area_close(&a);
	host_close(&host);
}

static void pressure_frees_what_was_used_longest_ago_and_no_reserve(void **state)
{
	struct data_area_spec spec = {.max_blocks = 100, .pages_per_block = 4, .reserve = 2};
	struct test_host host;
	struct test_area a, b;

	(void)state;
	host_open(&host, 0);
	assert_int_equal(area_open(&host, &a, &spec), 0);
	assert_int_equal(area_open(&host, &b, &spec), 0);
	fill(&a, 10, 1000);
	fill(&b, 10, 2000);
	assert_int_equal(take_at(&b, 3, 2000), 0);
	assert_int_equal(data_budget_shrinkable(host.b), 64);
	assert_int_equal(data_budget_shrink(host.b, 9), 12);
	assert_int_equal(a.released, 3);
	assert_int_equal(data_budget_shrink(host.b, 1000), 20 + 28);
	assert_int_equal(area_stats(&a).cached, 2);
	assert_int_equal(area_stats(&b).busy, 3);
	assert_int_equal(area_stats(&b).cached, 0);
	assert_int_equal(data_budget_shrink(host.b, 1000), 0);
	assert_int_equal(area_stats(&b).shrinks_pressure, 1);
	assert_int_equal(area_stats(&b).pages_returned, 28);
	area_close(&a);
	area_close(&b);
	host_close(&host);
}

/* --- idleness --- */

static void an_idle_area_goes_down_to_its_reserve_and_then_nothing_ticks(void **state)
{
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &area, 1000, 16);
	fill(&area, 16, 5000);
	assert_int_equal(host.tick_asked, 0); /* nothing to do for a tick */
	fill(&area, 200, 50000);
	assert_int_equal(host.tick_asked, 1);
	assert_int_equal(data_budget_tick(host.b, 50000), IDLE_MS);
	fill(&area, 100, 53000);
	assert_int_equal(host.tick_asked, 1);
	/* The window ends before the area is idle; it keeps what it needed in it. */
	assert_int_equal(data_budget_tick(host.b, 60000), 3000);
	assert_int_equal(area_stats(&area).cached, 100);
	assert_int_equal(data_budget_tick(host.b, 62999), 1);
	assert_int_equal(area_stats(&area).cached, 100);
	assert_int_equal(data_budget_tick(host.b, 63000), 0);
	assert_int_equal(area_stats(&area).cached, 16);
	assert_int_equal(area_stats(&area).shrinks_idle, 2);
	fill(&area, 17, 70000);
	assert_int_equal(host.tick_asked, 2);
	area_close(&area);
	host_close(&host);
}

static void a_burst_is_forgotten_by_halves(void **state)
{
	static const u32 kept[] = {512, 256, 128, 64, 32, 20, 20};
	struct test_host host;
	struct test_area area;
	u64 now = 100000;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &area, 1000, 16);
	fill(&area, 512, now);
	data_budget_tick(host.b, now);
	for (u32 i = 0; i < sizeof(kept) / sizeof(*kept); i++) {
		for (u32 j = 0; j < 10; j++, now += IDLE_MS / 10)
			fill(&area, i ? 20 : 512, now);
		assert_true(data_budget_tick(host.b, now));
		assert_int_equal(area_stats(&area).cached, kept[i]);
	}
	area_close(&area);
	host_close(&host);
}

static void busy_blocks_outlast_idleness(void **state)
{
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &area, 1000, 4);
	assert_int_equal(take_at(&area, 10, 0), 0);
	put_range(&area, 0, 5);
	assert_int_equal(data_budget_tick(host.b, 20000), IDLE_MS);
	check_states(&area, ".....BBBBB");
	put_range(&area, 5, 5);
	assert_int_equal(data_budget_tick(host.b, 30000), 0);
	check_states(&area, ".....cccc.");
	area_close(&area);
	host_close(&host);
}

static void without_an_idle_time_an_area_keeps_its_pages(void **state)
{
	struct data_area_spec spec = {.max_blocks = 100, .pages_per_block = 1};
	struct test_host host;
	struct test_area area;

	(void)state;
	host_open(&host, 0);
	assert_int_equal(area_open(&host, &area, &spec), 0);
	fill(&area, 10, 0);
	assert_int_equal(host.tick_asked, 0);
	assert_int_equal(data_budget_tick(host.b, 1u << 30), 0);
	assert_int_equal(area_stats(&area).cached, 10);
	data_area_set_idle(area.a, 50);
	assert_int_equal(host.tick_asked, 1);
	assert_int_equal(data_budget_tick(host.b, 1u << 30), 0);
	assert_int_equal(area_stats(&area).cached, 0);
	area_close(&area);
	host_close(&host);
}

static void the_tick_tries_again_what_could_not_be_stolen(void **state)
{
	struct test_host host;
	struct test_area a, b;

	(void)state;
	host_open(&host, 8);
	open_area(&host, &a, 100, 0);
	open_area(&host, &b, 100, 0);
	fill(&a, 8, 1000);
	a.refuse_one_in = 1;
	assert_true(data_budget_tick(host.b, 1000) > 100);
	assert_int_equal(take_at(&b, 2, 1000), -ENOSPC);
	assert_int_equal(host.tick_asked, 2); /* earlier than it was going to */
	data_budget_serve(host.b);
	assert_int_equal(b.wakes, 0);
	assert_int_equal(data_budget_tick(host.b, 1000), 100);
	assert_int_equal(b.wakes, 0);
	a.refuse_one_in = 0;
	assert_true(data_budget_tick(host.b, 1100) > 100);
	assert_int_equal(b.wakes, 1);
	assert_int_equal(take_at(&b, 2, 1100), 0);
	area_close(&a);
	area_close(&b);
	host_close(&host);
}

static struct test_area *late;

static void use_late(struct test_host *host, void *area)
{
	(void)area;
	host->on_release = NULL;
	fill(late, 10, 20000);
}

static void an_area_that_grows_during_a_tick_is_looked_at_in_time(void **state)
{
	struct data_area_spec spec = {.max_blocks = 100, .pages_per_block = 1, .idle_ms = 50};
	struct test_host host;
	struct test_area a, b;

	(void)state;
	host_open(&host, 0);
	open_area(&host, &a, 100, 0);
	assert_int_equal(area_open(&host, &b, &spec), 0);
	fill(&a, 10, 0);
	late = &b;
	host.on_release = use_late;
	assert_int_equal(data_budget_tick(host.b, 20000), 1);
	assert_int_equal(host.tick_asked, 2);
	assert_int_equal(data_budget_tick(host.b, 20001), 49);
	assert_int_equal(data_budget_tick(host.b, 20050), 0);
	area_close(&a);
	area_close(&b);
	host_close(&host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reuses_the_lowest_before_it_grows),
		cmocka_unit_test(takes_all_or_nothing_and_tells_when_to_try_again),
		cmocka_unit_test(cancelled_blocks_are_empty_and_not_charged),
		cmocka_unit_test(any_cached_run_is_released_and_no_busy_block),
		cmocka_unit_test(a_block_that_cannot_be_freed_stays_and_others_go),
		cmocka_unit_test(blocks_on_their_way_out_are_out_of_reach),
		cmocka_unit_test(what_two_release_at_once_is_counted_once),
		cmocka_unit_test(holes_far_apart_are_found),
		cmocka_unit_test(records_are_made_when_needed_and_go_again),
		cmocka_unit_test(the_largest_area_has_64_bit_offsets),
		cmocka_unit_test(every_size_has_all_its_blocks_and_no_more),
		cmocka_unit_test(bad_specs_and_failed_allocations_change_nothing),
		cmocka_unit_test(the_limit_is_hard_and_cached_blocks_are_stolen),
		cmocka_unit_test(steals_from_the_area_used_least_recently),
		cmocka_unit_test(reserves_are_not_stolen_nor_what_the_head_has),
		cmocka_unit_test(nobody_overtakes_in_the_queue),
		cmocka_unit_test(who_needs_more_than_it_was_granted_keeps_its_turn),
		cmocka_unit_test(who_stops_waiting_hands_on_what_it_was_granted),
		cmocka_unit_test(a_grant_that_is_not_needed_goes_back),
		cmocka_unit_test(what_can_never_be_is_refused_at_once),
		cmocka_unit_test(a_lowered_limit_takes_what_becomes_free),
		cmocka_unit_test(a_new_area_waits_for_its_reserve),
		cmocka_unit_test(pressure_frees_what_was_used_longest_ago_and_no_reserve),
		cmocka_unit_test(an_idle_area_goes_down_to_its_reserve_and_then_nothing_ticks),
		cmocka_unit_test(a_burst_is_forgotten_by_halves),
		cmocka_unit_test(busy_blocks_outlast_idleness),
		cmocka_unit_test(without_an_idle_time_an_area_keeps_its_pages),
		cmocka_unit_test(the_tick_tries_again_what_could_not_be_stolen),
		cmocka_unit_test(an_area_that_grows_during_a_tick_is_looked_at_in_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
