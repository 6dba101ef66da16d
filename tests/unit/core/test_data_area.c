// SPDX-License-Identifier: GPL-2.0-or-later
/* The data area, one behaviour a test. */
#include "data_area_harness.h"

#include <string.h>

#define ME	1u
#define MAX_N	8192u
#define IDLE_MS 10000u

/* What each test begins with, a budget without a limit, and the areas it opens; see at the end. */
static struct test_host host;
static struct test_area a, b, c, d;

static u32 got[MAX_N]; /* of the last take() */

static void open_area(struct test_area *area, u32 max_blocks, u32 reserve)
{
	struct data_area_spec spec = {.max_blocks = max_blocks,
				      .pages_per_block = 1,
				      .reserve = reserve,
				      .idle_ms = IDLE_MS};

	assert_int_equal(area_open(&host, area, &spec), 0);
}

static void set_limit(u64 pages)
{
	assert_int_equal(data_budget_set_limit(host.b, pages), 0);
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
	(void)state;
	open_area(&a, 300, 300);
	assert_int_equal(take(&a, 5), 0);
	for (u32 i = 0; i < 5; i++)
		assert_int_equal(got[i], i);
	put_range(&a, 3, 1);
	put_range(&a, 1, 1);
	check_states(&a, "BcBcB.");
	assert_int_equal(take(&a, 3), 0);
	assert_int_equal(got[0], 1);
	assert_int_equal(got[1], 3);
	assert_int_equal(got[2], 5);
	assert_int_equal(area_stats(&a).blocks_reused, 2);
	assert_int_equal(area_stats(&a).blocks_grown, 6);
	assert_int_equal(area_stats(&a).high_water, 6);
}

static void takes_all_or_nothing_and_tells_when_to_try_again(void **state)
{
	(void)state;
	open_area(&a, 4, 4);
	assert_int_equal(take(&a, 5), -E2BIG);
	assert_int_equal(take(&a, 3), 0);
	assert_int_equal(take(&a, 2), -ENOSPC);
	check_states(&a, "BBB.");
	assert_int_equal(area_stats(&a).full_area, 1);
	assert_int_equal(a.wakes, 0);
	put_range(&a, 2, 1);
	put_range(&a, 1, 1);
	assert_int_equal(a.wakes, 1);
	assert_int_equal(take(&a, 3), 0);
	assert_int_equal(take(&a, 1), -ENOSPC);
	data_area_stop_waiting(a.a);
	put_range(&a, 0, 4);
	assert_int_equal(a.wakes, 1);
}

static void who_is_served_first_leaves_the_others_of_the_area_heard(void **state)
{
	(void)state;
	open_area(&a, 4, 4);
	assert_int_equal(take(&a, 2), 0);
	assert_int_equal(take(&a, 3), -ENOSPC);
	assert_int_equal(take(&a, 1), 0); /* another one's */
	assert_int_equal(a.wakes, 1);
	assert_int_equal(take(&a, 3), -ENOSPC);
	put_range(&a, 0, 2);
	assert_int_equal(a.wakes, 2);
	/* The same where it is the budget that has no room. */
	set_limit(12);
	open_area(&b, 100, 0);
	open_area(&c, 100, 0);
	assert_int_equal(take(&c, 6), 0);
	assert_int_equal(take(&b, 4), -ENOSPC);
	assert_int_equal(take(&b, 1), 0);
	assert_int_equal(b.wakes, 1);
	assert_int_equal(take(&b, 4), -ENOSPC);
	put_range(&c, 0, 6);
	data_budget_serve(host.b);
	assert_int_equal(b.wakes, 2);
	assert_int_equal(take(&b, 4), 0);
}

static void cancelled_blocks_are_empty_and_not_charged(void **state)
{
	u32 reused, blocks[4];

	(void)state;
	set_limit(10);
	open_area(&a, 10, 2);
	assert_int_equal(data_area_take(a.a, 4, 0, blocks, &reused), 0);
	assert_int_equal(reused, 0);
	assert_int_equal(host_stats(&host).charged, 4);
	assert_int_equal(take(&a, 7), -ENOSPC);
	data_area_cancel(a.a, blocks + 1, 3);
	assert_int_equal(a.wakes, 1);
	check_states(&a, "B.........");
	data_area_cancel(a.a, blocks, 1);
	data_area_stop_waiting(a.a);
	assert_int_equal(host_stats(&host).charged, 2);
	assert_int_equal(host_stats(&host).charged_high, 4);
}

static void any_cached_run_is_released_and_no_busy_block(void **state)
{
	(void)state;
	open_area(&a, 12, 0);
	assert_int_equal(take(&a, 10), 0);
	put_range(&a, 2, 3);
	put_range(&a, 7, 1);
	check_states(&a, "BBcccBBcBB..");
	assert_int_equal(data_area_shrink(a.a, 8), 2); /* from above */
	check_states(&a, "BBcc.BB.BB..");
	assert_int_equal(data_area_shrink(a.a, 0), 2);
	check_states(&a, "BB...BB.BB..");
	assert_int_equal(data_area_shrink(a.a, 0), 0);
	assert_int_equal(area_stats(&a).shrinks_asked, 2);
	assert_int_equal(area_stats(&a).pages_returned, 4);
	assert_int_equal(a.releases, 3); /* one a run */
	/* Holes are filled from below again. */
	assert_int_equal(take(&a, 5), 0);
	assert_int_equal(got[0], 2);
	assert_int_equal(got[4], 10);
}

static void a_block_that_cannot_be_freed_stays_and_others_go(void **state)
{
	(void)state;
	open_area(&a, 10, 0);
	fill(&a, 10, 0);
	a.refuse = 6;
	assert_int_equal(data_area_shrink(a.a, 0), 9);
	check_states(&a, "......c...");
	assert_int_equal(area_stats(&a).release_failed, 1);
	a.refuse = NOTHING;
	assert_int_equal(data_area_shrink(a.a, 0), 1);
}

static void check_release(struct test_host *h, void *area_)
{
	struct test_area *area = area_;

	(void)h;
	assert_int_equal(area_stats(area).releasing, 4);
	check_states(area, "rrrr");
	/* Nobody gets a block that is on its way out. */
	assert_int_equal(take(area, 1), -ENOSPC);
}

static void blocks_on_their_way_out_are_out_of_reach(void **state)
{
	(void)state;
	open_area(&a, 4, 0);
	fill(&a, 4, 0);
	host.on_release = check_release;
	assert_int_equal(data_area_shrink(a.a, 0), 4);
	host.on_release = NULL;
	assert_int_equal(a.wakes, 1);
	assert_int_equal(take(&a, 4), 0);
}

static void shrink_to_four(struct test_host *h, void *area_)
{
	struct test_area *area = area_;

	h->on_release = NULL;
	assert_int_equal(data_area_shrink(area->a, 4), 0);
}

static void what_two_release_at_once_is_counted_once(void **state)
{
	(void)state;
	open_area(&a, 100, 0);
	fill(&a, 10, 0);
	host.on_release = shrink_to_four;
	assert_int_equal(data_area_shrink(a.a, 4), 6);
	assert_int_equal(area_stats(&a).cached, 4);
}

static void holes_far_apart_are_found(void **state)
{
	static const u32 size = 65 * 4096;
	u32 *blocks = calloc(size, sizeof(*blocks));

	(void)state;
	assert_non_null(blocks);
	open_area(&a, size, 0);
	assert_int_equal(area_take(&a, size - 10, 0, ME, blocks), 0);
	put_range(&a, 5, 1);
	put_range(&a, 4096 + 7, 1);
	assert_int_equal(data_area_shrink(a.a, 0), 2);
	assert_int_equal(take(&a, 4), 0);
	assert_int_equal(got[0], 5);
	assert_int_equal(got[1], 4096 + 7);
	assert_int_equal(got[2], size - 10);
	assert_int_equal(got[3], size - 9);
	free(blocks);
}

static void records_are_made_when_needed_and_go_again(void **state)
{
	u64 idle, made;

	(void)state;
	idle = host.meta_bytes;
	open_area(&a, 1u << 18, 0); /* 1 GiB of 4 KiB blocks */
	made = host.meta_bytes - idle;
	assert_true(made < 4096);
	assert_int_equal(made, area_stats(&a).meta_bytes);
	fill(&a, 4096, 0); /* the records of the first blocks are always there */
	assert_int_equal(host.meta_bytes - idle, made);
	fill(&a, MAX_N, 0);
	assert_int_equal(host.meta_bytes - idle, made + 1024);
	assert_int_equal(host.meta_bytes - idle, area_stats(&a).meta_bytes);
	assert_int_equal(data_area_shrink(a.a, 0), MAX_N);
	assert_int_equal(host.meta_bytes - idle, made);
}

static void the_largest_area_has_64_bit_offsets(void **state)
{
	u32 *blocks = calloc(DATA_AREA_BLOCKS_MAX, sizeof(*blocks));

	(void)state;
	assert_non_null(blocks);
	open_area(&a, DATA_AREA_BLOCKS_MAX, 0);
	assert_int_equal(area_take(&a, DATA_AREA_BLOCKS_MAX, 0, ME, blocks), 0);
	assert_int_equal(blocks[DATA_AREA_BLOCKS_MAX - 1], DATA_AREA_BLOCKS_MAX - 1);
	assert_int_equal(data_area_page(DATA_AREA_BLOCKS_MAX - 1, 256) << 12,
			 0xffffffull * 256 * 4096);
	area_put(&a, blocks + DATA_AREA_BLOCKS_MAX - 1, 1, ME);
	area_put(&a, blocks + 5000, 1, ME);
	assert_int_equal(take(&a, 2), 0);
	assert_int_equal(got[0], 5000);
	assert_int_equal(got[1], DATA_AREA_BLOCKS_MAX - 1);
	area_put(&a, blocks, DATA_AREA_BLOCKS_MAX, ME);
	assert_int_equal(data_area_shrink(a.a, 3), DATA_AREA_BLOCKS_MAX - 3);
	check_states(&a, "ccc...");
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

		open_area(&a, n, 0);
		assert_int_equal(area_take(&a, n, 0, ME, blocks), 0);
		for (u32 j = 0; j < n; j++)
			assert_int_equal(blocks[j], j);
		assert_int_equal(take(&a, 1), -ENOSPC);
		area_put(&a, blocks, n, ME);
		assert_int_equal(data_area_shrink(a.a, n - 1), 1);
		assert_int_equal(data_area_state(a.a, n - 1), DATA_AREA_EMPTY);
		assert_int_equal(data_area_shrink(a.a, 0), n - 1);
		assert_int_equal(a.released, n);
		area_close(&a);
	}
	free(blocks);
}

static void bad_specs_and_failed_allocations_change_nothing(void **state)
{
	struct data_area_spec spec = {.max_blocks = 8, .pages_per_block = 1, .reserve = 2}, bad;

	(void)state;
	set_limit(100);
	bad = spec;
	bad.max_blocks = 0;
	assert_int_equal(area_open(&host, &a, &bad), -EINVAL);
	bad.max_blocks = DATA_AREA_BLOCKS_MAX + 1;
	assert_int_equal(area_open(&host, &a, &bad), -EINVAL);
	bad = spec;
	bad.pages_per_block = 0;
	assert_int_equal(area_open(&host, &a, &bad), -EINVAL);
	bad = spec;
	bad.reserve = 9;
	assert_int_equal(area_open(&host, &a, &bad), -EINVAL);
	for (u32 i = 1; i <= 2; i++) {
		host.fail_at = host.allocs + i;
		assert_int_equal(area_open(&host, &a, &spec), -ENOMEM);
		assert_int_equal(host_stats(&host).charged, 0);
	}
	spec.max_blocks = 5000;
	assert_int_equal(area_open(&host, &a, &spec), 0);
	set_limit(0);
	assert_int_equal(take(&a, 4000), 0);
	host.fail_at = host.allocs + 1;
	assert_int_equal(take(&a, 97), -ENOMEM); /* the 4097th has records of its own */
	assert_int_equal(host_stats(&host).charged, 4000);
	assert_int_equal(data_area_state(a.a, 4000), DATA_AREA_EMPTY);
	host.fail_at = host.allocs + 1;
	assert_int_equal(take(&a, 96), 0);
	assert_int_equal(take(&a, 1), -ENOMEM);
	assert_int_equal(take(&a, 1), 0);
}

/* --- many areas, one budget --- */

static void the_limit_is_hard_and_cached_blocks_are_stolen(void **state)
{
	(void)state;
	set_limit(8);
	open_area(&a, 100, 2);
	open_area(&b, 100, 2);
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
}

static void steals_from_the_area_used_least_recently(void **state)
{
	(void)state;
	set_limit(12);
	open_area(&a, 100, 0);
	open_area(&b, 100, 0);
	open_area(&c, 100, 0);
	open_area(&d, 100, 0);
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
}

static void reserves_are_not_stolen_nor_what_the_head_has(void **state)
{
	(void)state;
	set_limit(10);
	open_area(&a, 100, 4);
	open_area(&b, 100, 0);
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
}

static void nobody_overtakes_in_the_queue(void **state)
{
	(void)state;
	set_limit(8);
	open_area(&a, 100, 0);
	open_area(&b, 100, 0);
	open_area(&c, 100, 0);
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
}

static void who_needs_more_than_it_was_granted_keeps_its_turn(void **state)
{
	(void)state;
	set_limit(10);
	open_area(&a, 100, 0);
	open_area(&b, 100, 0);
	open_area(&c, 100, 0);
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
}

static void who_stops_waiting_hands_on_what_it_was_granted(void **state)
{
	(void)state;
	set_limit(8);
	open_area(&a, 100, 0);
	open_area(&b, 100, 0);
	open_area(&c, 100, 0);
	open_area(&d, 100, 0);
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
}

static void a_grant_that_is_not_needed_goes_back(void **state)
{
	(void)state;
	set_limit(8);
	open_area(&a, 100, 0);
	open_area(&b, 100, 0);
	assert_int_equal(take(&a, 4), 0);
	assert_int_equal(take(&b, 2), 0);
	assert_int_equal(take(&b, 4), -ENOSPC);
	assert_int_equal(host_stats(&host).charged, 8);
	put_range(&b, 0, 2);
	assert_int_equal(take(&b, 2), 0); /* something smaller, from what it has */
	assert_int_equal(host_stats(&host).charged, 6);
	assert_int_equal(host_stats(&host).waiting, 0);
}

static void what_can_never_be_is_refused_at_once(void **state)
{
	(void)state;
	set_limit(8);
	open_area(&a, 100, 3);
	open_area(&b, 100, 2);
	assert_int_equal(take(&b, 6), -E2BIG);
	assert_int_equal(take(&a, 5), 0);
	assert_int_equal(take(&b, 5), -ENOSPC);
	assert_int_equal(data_budget_set_limit(host.b, 4), -EINVAL);
	assert_int_equal(host_stats(&host).limit, 8);
	/* Possible when it began to wait, and now no longer. */
	set_limit(7);
	assert_int_equal(b.wakes, 1);
	assert_int_equal(take(&b, 5), -E2BIG);
	assert_int_equal(take(&b, 2), 0);
}

static void a_lowered_limit_takes_what_becomes_free(void **state)
{
	u64 asked;

	(void)state;
	open_area(&a, 100, 1);
	open_area(&b, 100, 1);
	assert_int_equal(take(&a, 10), 0);
	fill(&b, 10, 0);
	asked = host.serve_asked;
	set_limit(6);
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
}

static void a_new_area_waits_for_its_reserve(void **state)
{
	struct data_area_spec spec = {.max_blocks = 8, .pages_per_block = 1, .reserve = 6};

	(void)state;
	set_limit(8);
	open_area(&a, 100, 3);
	assert_int_equal(area_open(&host, &b, &spec), -ENOSPC); /* never */
	assert_int_equal(take(&a, 7), 0);
	open_area(&b, 100, 5);
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
	open_area(&c, 100, 2);
	area_close(&c);
	assert_int_equal(host_stats(&host).charged, 7);
}

static void pressure_frees_what_was_used_longest_ago_and_no_reserve(void **state)
{
	struct data_area_spec spec = {.max_blocks = 100, .pages_per_block = 4, .reserve = 2};

	(void)state;
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
}

/* --- idleness --- */

static void an_idle_area_goes_down_to_its_reserve_and_then_nothing_ticks(void **state)
{
	(void)state;
	open_area(&a, 1000, 16);
	fill(&a, 16, 5000);
	assert_int_equal(host.tick_asked, 0); /* nothing to do for a tick */
	fill(&a, 200, 50000);
	assert_int_equal(host.tick_asked, 1);
	assert_int_equal(data_budget_tick(host.b, 50000), IDLE_MS);
	fill(&a, 100, 53000);
	assert_int_equal(host.tick_asked, 1);
	/* The window ends before the area is idle; it keeps what it needed in it. */
	assert_int_equal(data_budget_tick(host.b, 60000), 3000);
	assert_int_equal(area_stats(&a).cached, 100);
	assert_int_equal(data_budget_tick(host.b, 62999), 1);
	assert_int_equal(area_stats(&a).cached, 100);
	assert_int_equal(data_budget_tick(host.b, 63000), 0);
	assert_int_equal(area_stats(&a).cached, 16);
	assert_int_equal(area_stats(&a).shrinks_idle, 2);
	fill(&a, 17, 70000);
	assert_int_equal(host.tick_asked, 2);
}

static void a_burst_is_forgotten_by_halves(void **state)
{
	static const u32 kept[] = {512, 256, 128, 64, 32, 20, 20};
	u64 now = 100000;

	(void)state;
	open_area(&a, 1000, 16);
	fill(&a, 512, now);
	data_budget_tick(host.b, now);
	for (u32 i = 0; i < sizeof(kept) / sizeof(*kept); i++) {
		for (u32 j = 0; j < 10; j++, now += IDLE_MS / 10)
			fill(&a, i ? 20 : 512, now);
		assert_true(data_budget_tick(host.b, now));
		assert_int_equal(area_stats(&a).cached, kept[i]);
	}
}

static void busy_blocks_outlast_idleness(void **state)
{
	(void)state;
	open_area(&a, 1000, 4);
	assert_int_equal(take_at(&a, 10, 0), 0);
	put_range(&a, 0, 5);
	assert_int_equal(data_budget_tick(host.b, 20000), IDLE_MS);
	check_states(&a, ".....BBBBB");
	put_range(&a, 5, 5);
	assert_int_equal(data_budget_tick(host.b, 30000), 0);
	check_states(&a, ".....cccc.");
}

static void without_an_idle_time_an_area_keeps_its_pages(void **state)
{
	struct data_area_spec spec = {.max_blocks = 100, .pages_per_block = 1};

	(void)state;
	assert_int_equal(area_open(&host, &a, &spec), 0);
	fill(&a, 10, 0);
	assert_int_equal(host.tick_asked, 0);
	assert_int_equal(data_budget_tick(host.b, 1u << 30), 0);
	assert_int_equal(area_stats(&a).cached, 10);
	data_area_set_idle(a.a, 50);
	assert_int_equal(host.tick_asked, 1);
	assert_int_equal(data_budget_tick(host.b, 1u << 30), 0);
	assert_int_equal(area_stats(&a).cached, 0);
}

static void the_tick_tries_again_what_could_not_be_stolen(void **state)
{
	(void)state;
	set_limit(8);
	open_area(&a, 100, 0);
	open_area(&b, 100, 0);
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
}

static void use_b(struct test_host *h, void *area)
{
	(void)area;
	h->on_release = NULL;
	fill(&b, 10, 20000);
}

static void an_area_that_grows_during_a_tick_is_looked_at_in_time(void **state)
{
	struct data_area_spec spec = {.max_blocks = 100, .pages_per_block = 1, .idle_ms = 50};

	(void)state;
	open_area(&a, 100, 0);
	assert_int_equal(area_open(&host, &b, &spec), 0);
	fill(&a, 10, 0);
	host.on_release = use_b;
	assert_int_equal(data_budget_tick(host.b, 20000), 1);
	assert_int_equal(host.tick_asked, 2);
	assert_int_equal(data_budget_tick(host.b, 20001), 49);
	assert_int_equal(data_budget_tick(host.b, 20050), 0);
}

/* --- around each --- */

static int open_host(void **state)
{
	(void)state;
	host_open(&host, 0);
	return 0;
}

/* Closes what the test has not. */
static int close_all(void **state)
{
	struct test_area *areas[] = {&a, &b, &c, &d};

	(void)state;
	for (u32 i = 0; i < sizeof(areas) / sizeof(*areas); i++) {
		if (areas[i]->a)
			area_close(areas[i]);
	}
	host_close(&host);
	return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, open_host, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(reuses_the_lowest_before_it_grows),
		TEST(takes_all_or_nothing_and_tells_when_to_try_again),
		TEST(who_is_served_first_leaves_the_others_of_the_area_heard),
		TEST(cancelled_blocks_are_empty_and_not_charged),
		TEST(any_cached_run_is_released_and_no_busy_block),
		TEST(a_block_that_cannot_be_freed_stays_and_others_go),
		TEST(blocks_on_their_way_out_are_out_of_reach),
		TEST(what_two_release_at_once_is_counted_once),
		TEST(holes_far_apart_are_found),
		TEST(records_are_made_when_needed_and_go_again),
		TEST(the_largest_area_has_64_bit_offsets),
		TEST(every_size_has_all_its_blocks_and_no_more),
		TEST(bad_specs_and_failed_allocations_change_nothing),
		TEST(the_limit_is_hard_and_cached_blocks_are_stolen),
		TEST(steals_from_the_area_used_least_recently),
		TEST(reserves_are_not_stolen_nor_what_the_head_has),
		TEST(nobody_overtakes_in_the_queue),
		TEST(who_needs_more_than_it_was_granted_keeps_its_turn),
		TEST(who_stops_waiting_hands_on_what_it_was_granted),
		TEST(a_grant_that_is_not_needed_goes_back),
		TEST(what_can_never_be_is_refused_at_once),
		TEST(a_lowered_limit_takes_what_becomes_free),
		TEST(a_new_area_waits_for_its_reserve),
		TEST(pressure_frees_what_was_used_longest_ago_and_no_reserve),
		TEST(an_idle_area_goes_down_to_its_reserve_and_then_nothing_ticks),
		TEST(a_burst_is_forgotten_by_halves),
		TEST(busy_blocks_outlast_idleness),
		TEST(without_an_idle_time_an_area_keeps_its_pages),
		TEST(the_tick_tries_again_what_could_not_be_stolen),
		TEST(an_area_that_grows_during_a_tick_is_looked_at_in_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
