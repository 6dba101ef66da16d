/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The rules of the read cache, one at a time and by one thread. */
#include "cache_harness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGES 256u

static struct rig rig;
static struct cache_object *o;

static int open_plain(void **state)
{
	rig_open(&rig, PAGES, 1, 0);
	o = rig_object(&rig, 0, 0);
	return 0;
}
static int open_tmem(void **state)
{
	rig_open(&rig, PAGES, 1, 4 << 20);
	o = rig_object(&rig, 0, 0);
	return 0;
}
static int close_all(void **state)
{
	check_consistency(rig.c);
	cache_object_destroy(o);
	check_consistency(rig.c);
	rig_close(&rig);
	return 0;
}

static void test_a_page_is_found_after_its_fill(void **state)
{
	uint8_t part[100], whole[CACHE_PAGE];

	assert_int_equal(get(o, 7), -1);
	assert_true(fill(o, 7, 1, 3));
	assert_true(cache_has(o, 7));
	assert_false(cache_has(o, 8));
	assert_int_equal(get(o, 7), 3);
	stamp(whole, 7, 3);
	assert_int_equal(cache_read(o, 7, 1000, 100, part), 0);
	assert_memory_equal(part, whole + 1000, 100);
	assert_int_equal(stats_of(rig.c).hits_memory, 2);
	assert_int_equal(stats_of(rig.c).misses, 1);
	assert_int_equal(stats_of(rig.c).fills, 1);
}

static void test_a_fill_takes_many_pages_from_many_vectors(void **state)
{
	static uint8_t bytes[100 * CACHE_PAGE + 10];
	struct iovec iov[] = {
		{bytes, 5000}, {bytes + 5000, 3}, {bytes + 5003, sizeof(bytes) - 5003}};
	struct cache_fill f;

	for (unsigned k = 0; k < 100; k++)
		stamp(bytes + 10 + k * CACHE_PAGE, 50 + k, k + 1);
	assert_true(cache_fill_begin(o, &f, 50, 100));
	cache_fill_end(&f, iov, 3, 10);
	for (unsigned k = 0; k < 100; k++)
		assert_int_equal(get(o, 50 + k), k + 1);
	assert_int_equal(stats_of(rig.c).pages, 100);
}

static void test_a_fill_with_too_few_bytes_inserts_nothing_wrong(void **state)
{
	static uint8_t bytes[3 * CACHE_PAGE];
	struct iovec iov = {bytes, 2 * CACHE_PAGE + 5};
	struct cache_fill f;

	for (unsigned k = 0; k < 3; k++)
		stamp(bytes + k * CACHE_PAGE, k, 1);
	assert_true(cache_fill_begin(o, &f, 0, 3));
	cache_fill_end(&f, &iov, 1, 0);
	for (unsigned k = 0; k < 3; k++)
		get(o, k); /* which checks what it finds */
	assert_int_equal(get(o, 2), -1);
}

static void test_a_fill_given_up_inserts_nothing(void **state)
{
	struct cache_fill f;

	assert_true(cache_fill_begin(o, &f, 0, 4));
	cache_fill_end(&f, NULL, 0, 0);
	assert_int_equal(stats_of(rig.c).pages, 0);
}

static void test_zeros_are_noted_not_stored(void **state)
{
	static const uint8_t zeros[CACHE_PAGE];
	uint8_t buf[CACHE_PAGE];

	assert_true(fill(o, 0, 10, 0));
	assert_int_equal(stats_of(rig.c).pages, 0);
	assert_int_equal(stats_of(rig.c).zero_pages, 10);
	memset(buf, 1, sizeof(buf));
	assert_int_equal(cache_read(o, 3, 0, CACHE_PAGE, buf), 0);
	assert_memory_equal(buf, zeros, CACHE_PAGE);
	assert_int_equal(stats_of(rig.c).hits_zero, 1);
	/* They do not crowd out pages, and there is an end to them. */
	assert_true(fill(o, 0, 10 * PAGES, 0));
	assert_true(stats_of(rig.c).zero_pages <= PAGES);
	assert_true(fill(o, 5000, PAGES, 1));
	assert_int_equal(stats_of(rig.c).pages, PAGES);
}

static void test_a_write_drops_and_keeps_out(void **state)
{
	struct cache_write w;
	struct cache_fill before, during;
	uint8_t buf[CACHE_PAGE];
	struct iovec iov = {buf, CACHE_PAGE};

	fill(o, 0, 3, 1);
	fill(o, 3, 1, 0);
	assert_true(cache_fill_begin(o, &before, 10, 1));
	cache_write_begin(o, &w, 1 * CACHE_PAGE + 1, 9 * CACHE_PAGE);
	assert_int_equal(w.had, 7);
	assert_int_equal(get(o, 0), 1);
	assert_int_equal(get(o, 1), -1);
	assert_int_equal(get(o, 3), -1);
	assert_false(cache_fill_begin(o, &during, 5, 1));
	stamp(buf, 10, 1);
	cache_fill_end(&before, &iov, 1, 0);
	assert_int_equal(get(o, 10), -1);
	cache_write_end(&w, NULL, 0, 0);
	assert_int_equal(get(o, 1), -1);
	assert_true(fill(o, 1, 1, 2));
	assert_int_equal(get(o, 1), 2);
	assert_int_equal(stats_of(rig.c).invalidated, 3);
	assert_int_equal(stats_of(rig.c).fills_lost, 2);
}

/* A range of as many regions as there are cells, of an object that has yet more pages cached. */
static void test_a_wide_write_drops_what_a_larger_object_has(void **state)
{
	const uint64_t wide = (uint64_t)CELLS << REGION_SHIFT;
	struct cache_write w;

	/* One entry in nine is for zeros, which cost the test no memory. */
	rig_open(&rig, 8 * wide, 1, 0);
	o = rig_object(&rig, 0, 0);
	assert_true(fill(o, 0, wide + 1, 0));
	assert_true(stats_of(rig.c).zero_pages > wide);
	cache_write_begin(o, &w, 0, wide * CACHE_PAGE);
	for (uint64_t page = 0; page < wide; page++)
		assert_false(cache_has(o, page));
	assert_true(cache_has(o, wide));
	cache_write_end(&w, NULL, 0, 0);
	assert_int_equal(get(o, wide - 1), -1);
	close_all(state);
}

static void test_a_fill_that_began_before_a_whole_write_is_lost(void **state)
{
	struct cache_write w;
	struct cache_fill f;
	uint8_t buf[CACHE_PAGE];

	assert_true(cache_fill_begin(o, &f, 10, 1));
	cache_write_begin(o, &w, 10 * CACHE_PAGE, 512);
	cache_write_end(&w, NULL, 0, 0);
	stamp(buf, 10, 1);
	cache_fill_end(&f, &(struct iovec){buf, CACHE_PAGE}, 1, 0);
	assert_int_equal(get(o, 10), -1);
}

/* Writes pages [first, first + n) plus @head bytes before them, with what it wrote. */
static void write_through(struct cache_write *w, uint64_t first, unsigned n, unsigned head,
			  uint32_t version)
{
	static uint8_t bytes[64 * CACHE_PAGE];
	struct iovec iov = {bytes, sizeof(bytes)};

	for (unsigned k = 0; k < n; k++)
		stamp(bytes + 3 + head + k * CACHE_PAGE, first + k, version);
	cache_write_end(w, &iov, 1, 3);
}

static void test_what_was_cached_is_updated_by_a_write(void **state)
{
	struct cache_write w;

	fill(o, 60, 2, 1);
	fill(o, 64, 1, 1);
	/* Pages 59 (in part) to 66: over the border of a region. */
	cache_write_begin(o, &w, 60 * CACHE_PAGE - 100, 7 * CACHE_PAGE + 100);
	write_through(&w, 60, 7, 100, 2);
	assert_int_equal(get(o, 60), 2);
	assert_int_equal(get(o, 61), 2);
	assert_int_equal(get(o, 62), -1);
	assert_int_equal(get(o, 64), 2);
	assert_int_equal(stats_of(rig.c).updates, 3);
}

static void test_writes_that_overlap_update_nothing(void **state)
{
	struct cache_write a, b;

	for (unsigned first_ends = 0; first_ends < 2; first_ends++) {
		fill(o, 5, 1, 1);
		cache_write_begin(o, &a, 5 * CACHE_PAGE, CACHE_PAGE);
		cache_write_begin(o, &b, 5 * CACHE_PAGE, CACHE_PAGE);
		b.had = 1; /* even so */
		write_through(first_ends ? &a : &b, 5, 1, 0, 2);
		assert_int_equal(get(o, 5), -1);
		write_through(first_ends ? &b : &a, 5, 1, 0, 3);
		assert_int_equal(get(o, 5), -1);
	}
}

static void test_a_purged_page_is_a_miss_and_its_frame_bare(void **state)
{
	uint64_t before;

	fill(o, 0, PAGES, 1);
	cache_settle(rig.c, 0);
	before = stats_of(rig.c).resident;
	assert_true(inject_purge(o, 9));
	assert_int_equal(get(o, 9), -1);
	assert_int_equal(stats_of(rig.c).purged, 1);
	assert_int_equal(stats_of(rig.c).resident, before - CACHE_PAGE);
	assert_false(cache_has(o, 9));
	assert_int_equal(get(o, 8), 1);
	assert_int_equal(cache_settle(rig.c, 0), CACHE_PAGE);
	assert_int_equal(cache_settle(rig.c, 0), 0);
	fill(o, 9, 1, 2);
	assert_int_equal(get(o, 9), 2);
	assert_int_equal(stats_of(rig.c).resident, before);
}

static void test_settling_finds_what_the_kernel_took(void **state)
{
	fill(o, 0, PAGES, 1);
	cache_settle(rig.c, 0);
	assert_int_equal(stats_of(rig.c).wired_pages, 0);
	for (unsigned k = 10; k < 60; k++)
		assert_true(inject_purge(o, k));
	assert_int_equal(cache_settle(rig.c, PAGES), 50 * CACHE_PAGE);
	assert_int_equal(stats_of(rig.c).pages, PAGES - 50);
	assert_int_equal(stats_of(rig.c).resident, (PAGES - 50) * CACHE_PAGE);
	for (unsigned k = 0; k < PAGES; k++)
		assert_int_equal(get(o, k), k >= 10 && k < 60 ? -1 : 1);
}

static void test_capacity_evicts_and_frames_are_reused(void **state)
{
	fill(o, 0, 10 * PAGES, 1);
	assert_int_equal(stats_of(rig.c).pages, PAGES);
	assert_int_equal(stats_of(rig.c).evicted, 9 * PAGES);
	assert_int_equal(stats_of(rig.c).resident, PAGES * CACHE_PAGE);
}

static void test_a_lower_target_gives_memory_back_at_once(void **state)
{
	unsigned kept = 0;

	fill(o, 0, PAGES, 1);
	assert_int_equal(cache_set_target(rig.c, PAGES / 4 * CACHE_PAGE, false),
			 PAGES / 4 * 3 * CACHE_PAGE);
	assert_int_equal(stats_of(rig.c).resident, PAGES / 4 * CACHE_PAGE);
	assert_int_equal(stats_of(rig.c).returned, PAGES / 4 * 3 * CACHE_PAGE);
	for (unsigned k = 0; k < PAGES; k++)
		kept += get(o, k) == 1;
	assert_int_equal(kept, PAGES / 4);
	fill(o, 1000, PAGES, 1);
	assert_int_equal(stats_of(rig.c).pages, PAGES / 4);

	assert_int_equal(cache_set_target(rig.c, PAGES * CACHE_PAGE, false), 0);
	fill(o, 2000, PAGES, 1);
	assert_int_equal(stats_of(rig.c).pages, PAGES);

	cache_set_target(rig.c, 0, false);
	assert_int_equal(stats_of(rig.c).resident, 0);
	fill(o, 0, 10, 1);
	assert_int_equal(stats_of(rig.c).pages, 0);
	assert_int_equal(get(o, 0), -1);
}

static unsigned queue_of(uint64_t page)
{
	struct place at = place_of(o, page);
	uint64_t seen;
	uint32_t i = index_find(at.s, at.key, at.hash, &seen);

	assert_int_not_equal(i, NO_ENTRY);
	return at.s->entry[i].queue;
}

static void test_what_comes_back_soon_is_taken_for_good(void **state)
{
	fill(o, 0, PAGES + 10, 1);
	assert_int_equal(get(o, 3), -1);
	fill(o, 3, 1, 1);
	assert_int_equal(queue_of(3), QUEUE_MAIN);
	fill(o, 9999, 1, 1);
	assert_int_equal(queue_of(9999), QUEUE_SMALL);
	/* But not for ever. */
	fill(o, 20000, 4 * PAGES, 1);
	fill(o, 5, 1, 1);
	assert_int_equal(queue_of(5), QUEUE_SMALL);
}

/* However many second chances pages have. */
static void test_a_lower_target_is_reached_with_hot_pages(void **state)
{
	const uint64_t pages = 8192;
	struct rig big;
	struct cache_object *p;

	rig_open(&big, pages, 1, 0);
	p = rig_object(&big, 0, pages / 2);
	for (uint64_t k = 0; k < pages; k++) {
		fill(p, k, 1, 1);
		for (unsigned hits = 0; hits < 4; hits++)
			get(p, k);
	}
	cache_set_target(big.c, pages / 8 * CACHE_PAGE, false);
	assert_int_equal(stats_of(big.c).resident, pages / 8 * CACHE_PAGE);
	check_consistency(big.c);
	cache_object_destroy(p);
	rig_close(&big);
}

/* Pages that were hit often enough to be worth keeping. */
static void fill_hot(struct cache_object *obj, uint64_t first, unsigned n, uint32_t version)
{
	for (unsigned k = 0; k < n; k++) {
		fill(obj, first + k, 1, version);
		for (unsigned hits = 0; hits < 2; hits++)
			assert_int_equal(get(obj, first + k), version);
	}
}

static void test_what_was_used_goes_to_tmem_and_comes_back(void **state)
{
	struct cache_stats st;
	unsigned back = 0;

	fill_hot(o, 0, PAGES, 1);
	cache_set_target(rig.c, PAGES / 2 * CACHE_PAGE, true);
	st = stats_of(rig.c);
	assert_int_equal(st.demoted, PAGES / 2);
	for (unsigned k = 0; k < PAGES; k++)
		back += get(o, k) == 1;
	assert_int_equal(back, PAGES);
	assert_true(stats_of(rig.c).hits_tmem >= PAGES / 2);
}

/* Once tmem is full; before, nothing else would use the memory. */
static void test_what_was_not_used_goes_to_tmem_while_that_is_empty(void **state)
{
	fill(o, 0, PAGES, 1);
	cache_set_target(rig.c, 0, true);
	assert_int_equal(stats_of(rig.c).demoted, PAGES);
	assert_int_equal(get(o, 7), 1);
	cache_set_target(rig.c, PAGES * CACHE_PAGE, false);
	tmem_set_limit(tmem_host_instance(rig.tmem), 1 << 18);
	fill(o, 5000, PAGES, 1);
	cache_set_target(rig.c, 0, true);
	/* A page may be taken for a ghost's. */
	assert_in_range(stats_of(rig.c).demoted, PAGES, PAGES + 8);
}

static void test_a_page_in_tmem_comes_back_when_it_is_asked_for_twice(void **state)
{
	uint64_t sent, page = 0;

	fill_hot(o, 0, PAGES, 1);
	cache_set_target(rig.c, PAGES / 2 * CACHE_PAGE, true);
	sent = stats_of(rig.c).demoted;
	while (cache_has(o, page))
		page++;
	assert_int_equal(get(o, page), 1);
	assert_false(cache_has(o, page));
	assert_int_equal(stats_of(rig.c).demoted, sent);
	assert_int_equal(get(o, page), 1);
	assert_true(cache_has(o, page));
	assert_int_equal(stats_of(rig.c).demoted, sent + 1);
	assert_int_equal(stats_of(rig.c).hits_tmem, 2);
	assert_int_equal(queue_of(page), QUEUE_MAIN);
}

/* A part of a page, and from tmem into nothing but the reader's memory. */
static void test_a_part_of_a_page_in_tmem_is_read(void **state)
{
	uint8_t whole[CACHE_PAGE], part[102];

	fill_hot(o, 3, 1, 9);
	cache_set_target(rig.c, 0, true);
	stamp(whole, 3, 9);
	memset(part, 0xaa, sizeof(part));
	assert_int_equal(cache_read(o, 3, 1001, 100, part + 1), 0);
	assert_memory_equal(part + 1, whole + 1001, 100);
	assert_int_equal(part[0], 0xaa);
	assert_int_equal(part[101], 0xaa);
	assert_int_equal(stats_of(rig.c).hits_tmem, 1);
}

static void fill_ahead(uint64_t first, unsigned n)
{
	static uint8_t bytes[PAGES * CACHE_PAGE];
	struct cache_fill f;

	for (unsigned k = 0; k < n; k++)
		stamp(bytes + k * CACHE_PAGE, first + k, 1);
	assert_true(cache_fill_begin(o, &f, first, n));
	f.ahead = first;
	cache_fill_end(&f, &(struct iovec){bytes, n * CACHE_PAGE}, 1, 0);
}

static void test_what_was_read_ahead_and_then_once_is_not_compressed(void **state)
{
	for (unsigned reads = 1; reads <= 2; reads++) {
		fill_ahead(reads * 1000, PAGES / 2);
		for (unsigned i = 0; i < reads; i++)
			for (unsigned k = 0; k < PAGES / 2; k++)
				assert_int_equal(get(o, reads * 1000 + k), 1);
		cache_set_target(rig.c, 0, true);
		assert_int_equal(stats_of(rig.c).demoted, reads == 1 ? 0 : PAGES / 2);
		cache_set_target(rig.c, PAGES * CACHE_PAGE, false);
	}
}

static void test_what_tmem_has_not_is_borrowed_and_given_back(void **state)
{
	const uint64_t limit = 8 << 20;
	struct tmem *t;
	uint64_t pages, before;

	rig_open(&rig, 16 * PAGES, 1, limit);
	cache_borrow(rig.c, true);
	t = tmem_host_instance(rig.tmem);
	o = rig_object(&rig, 0, 0);
	cache_set_target(rig.c, PAGES * CACHE_PAGE, false);
	/* Pages that do not go to tmem. */
	for (unsigned k = 0; k < 16; k++)
		fill_ahead(k * PAGES, PAGES);
	before = stats_of(rig.c).pages;
	assert_in_range(before, PAGES + limit / 2 / CACHE_PAGE, PAGES + limit / CACHE_PAGE);
	assert_int_equal(stats_of(rig.c).demoted, 0);
	/* tmem fills: so much less is borrowed, all the while. */
	for (unsigned k = 0; k < 32; k++) {
		fill_hot(o, 100000 + k * PAGES, PAGES, 1);
		pages = stats_of(rig.c).pages;
		assert_true(pages <= before + 64); /* a step, until the next fill */
		assert_true((pages - PAGES) * CACHE_PAGE + limit - tmem_room(t) <=
			    limit + (64 << 12));
		before = pages;
	}
	assert_in_range(before, PAGES, PAGES + 64 + limit / 8 / CACHE_PAGE);
	/* Its limit falls. */
	tmem_set_limit(t, 1);
	cache_give_back(rig.c);
	assert_int_equal(stats_of(rig.c).pages, PAGES);
	close_all(state);
}

/* As a LUN does on a miss; returns whether it was wanted. */
static bool miss(uint64_t page)
{
	assert_int_equal(get(o, page), -1);
	return cache_wants(o, page, 1) && fill(o, page, 1, 1);
}

static void test_where_nothing_comes_again_little_is_taken_in(void **state)
{
	const struct shard *s = &rig.c->shards[0];
	struct cache_write w;
	unsigned taken = 0, k;

	for (k = 0; k < 10 * PAGES; k++)
		miss(k);
	for (k = 0; k < 1000; k++)
		taken += miss(10000 + k);
	assert_true(s->picky);
	assert_in_range(taken, 100, 150);
	/* What is asked for again is taken in; when that is common, so is the rest. */
	for (k = 0; s->picky; k++) {
		assert_true(k < 2000);
		if (!miss(20000 + k))
			assert_true(miss(20000 + k));
	}
	for (k = 0; k < 100; k++)
		assert_true(miss(30000 + k));
	/* A run is judged as one; each of its pages is remembered. */
	for (k = 0; k < 3000; k++)
		miss(40000 + k);
	assert_true(s->picky);
	while (cache_wants(o, 50000, 100))
		;
	assert_true(cache_wants(o, 49990, 30) && cache_wants(o, 50099, 1));
	/* Where there is room everything is wanted. */
	cache_write_begin(o, &w, 0, UINT64_MAX);
	cache_write_end(&w, NULL, 0, 0);
	for (k = 0; k < PAGES; k++)
		assert_true(miss(60000 + k));
}

static void test_a_write_drops_what_is_in_tmem(void **state)
{
	static const uint64_t lens[] = {1, 70, 2000, UINT64_MAX / CACHE_PAGE};
	struct cache_write w;

	for (unsigned k = 0; k < 4; k++) {
		fill_hot(o, 0, PAGES, k + 1);
		cache_set_target(rig.c, CACHE_PAGE, true);
		assert_true(demote_may_have(o));
		cache_write_begin(o, &w, 3 * CACHE_PAGE, lens[k] * CACHE_PAGE);
		for (unsigned i = 0; i < PAGES; i++) {
			bool written = i >= 3 && i - 3 < lens[k];
			int64_t v = get(o, i);

			assert_true(v == -1 || (!written && v == k + 1));
		}
		cache_write_end(&w, NULL, 0, 0);
		cache_set_target(rig.c, PAGES * CACHE_PAGE, false);
		cache_write_begin(o, &w, 0, UINT64_MAX);
		cache_write_end(&w, NULL, 0, 0);
		assert_int_equal(stats_of(rig.c).pages, 0);
	}
}

static void test_an_empty_tmem_is_not_asked(void **state)
{
	struct tmem_stats before, after;
	struct cache_write w;

	for (unsigned k = 0; k < 100; k++)
		get(o, k);
	tmem_client_stats(o->client, &before);
	assert_int_equal(before.gets, 0);
	fill_hot(o, 0, PAGES, 1);
	cache_set_target(rig.c, CACHE_PAGE, true);
	cache_write_begin(o, &w, 0, UINT64_MAX);
	cache_write_end(&w, NULL, 0, 0);
	for (unsigned k = 0; k < 100; k++)
		get(o, k);
	assert_false(demote_may_have(o));
	tmem_client_stats(o->client, &before);
	for (unsigned k = 0; k < 100; k++)
		get(o, k);
	tmem_client_stats(o->client, &after);
	assert_int_equal(after.gets, before.gets);
}

static void test_objects_do_not_see_each_other(void **state)
{
	struct cache_object *p = rig_object(&rig, 0, 0);
	struct cache_stats st;

	fill(o, 1, 1, 1);
	fill(p, 1, 1, 2);
	assert_int_equal(get(o, 1), 1);
	assert_int_equal(get(p, 1), 2);
	cache_object_stats(p, &st);
	assert_int_equal(st.pages, 1);
	assert_int_equal(st.hits_memory, 1);
	cache_object_destroy(p);
	assert_int_equal(get(o, 1), 1);
	assert_int_equal(stats_of(rig.c).pages, 1);
	/* What it counted is not lost, and its number can be another's. */
	assert_int_equal(stats_of(rig.c).hits_memory, 3);
	p = rig_object(&rig, 0, 0);
	assert_int_equal(get(p, 1), -1);
	cache_object_destroy(p);
}

static void test_a_floor_is_not_taken_by_others(void **state)
{
	struct cache_object *p = rig_object(&rig, 0, PAGES / 2);
	struct cache_stats st;

	fill(p, 0, PAGES, 1);
	fill(o, 0, 10 * PAGES, 1);
	cache_object_stats(p, &st);
	assert_int_equal(st.pages, PAGES / 2);
	/* It may take its own. */
	fill(p, 5000, PAGES, 1);
	cache_object_stats(p, &st);
	assert_true(st.pages >= PAGES / 2);
	cache_object_destroy(p);
}

static void test_weights_decide_who_loses(void **state)
{
	struct cache_object *heavy = rig_object(&rig, 400, 0);
	struct cache_stats a, b;
	uint64_t seed = 42;

	for (unsigned k = 0; k < 100 * PAGES; k++) {
		struct cache_object *p = k % 2 ? heavy : o;
		uint64_t page = next_random(&seed) % (2 * PAGES);

		if (get(p, page) < 0)
			fill(p, page, 1, 1);
	}
	cache_object_stats(heavy, &a);
	cache_object_stats(o, &b);
	print_message("  weight 4: %lu pages, weight 1: %lu\n", a.pages, b.pages);
	assert_true(a.pages > 3 * b.pages / 2);
	cache_object_destroy(heavy);
}

static void test_a_page_costs_at_most_32_bytes(void **state)
{
	static const uint64_t pages[] = {4096, 65536, 262144, 1 << 20};

	for (unsigned k = 0; k < 4; k++) {
		struct rig big;
		double bytes;

		rig_open(&big, pages[k], 0, 0);
		bytes = (double)stats_of(big.c).index_bytes / (double)pages[k];
		print_message("  %lu pages: %.2f bytes of index a page, and volatile's 4\n",
			      pages[k], bytes);
		/* A table of objects and the write counters weigh in a very small one. */
		assert_true(bytes <= 32 || pages[k] < 65536);
		rig_close(&big);
	}
}

static void test_what_cannot_be_is_refused(void **state)
{
	struct cache_fill f;
	struct cache *c;
	uint8_t buf[CACHE_PAGE];

	assert_int_equal(cache_create(&(struct cache_spec){.as = rig.as, .max = 4095}, &c),
			 -EINVAL);
	assert_int_equal(
		cache_create(&(struct cache_spec){.as = rig.as, .max = 1 << 20, .shards = 3}, &c),
		-EINVAL);
	assert_int_equal(cache_create(&(struct cache_spec){.as = rig.as, .max = 1ull << 50}, &c),
			 -EINVAL);
	assert_false(cache_fill_begin(o, &f, PAGE_MAX, 2));
	assert_false(cache_fill_begin(o, &f, UINT64_MAX, 2));
	assert_int_equal(cache_read(o, PAGE_MAX + 1, 0, 1, buf), -ENODATA);
	assert_false(cache_has(o, UINT64_MAX));
	cache_destroy(NULL);
	cache_object_destroy(NULL);
}

#define plain(f) cmocka_unit_test_setup_teardown(f, open_plain, close_all)
#define tmem(f)	 cmocka_unit_test_setup_teardown(f, open_tmem, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
		plain(test_a_page_is_found_after_its_fill),
		plain(test_a_fill_takes_many_pages_from_many_vectors),
		plain(test_a_fill_with_too_few_bytes_inserts_nothing_wrong),
		plain(test_a_fill_given_up_inserts_nothing),
		plain(test_zeros_are_noted_not_stored),
		plain(test_a_write_drops_and_keeps_out),
		cmocka_unit_test(test_a_wide_write_drops_what_a_larger_object_has),
		plain(test_a_fill_that_began_before_a_whole_write_is_lost),
		plain(test_what_was_cached_is_updated_by_a_write),
		plain(test_writes_that_overlap_update_nothing),
		plain(test_a_purged_page_is_a_miss_and_its_frame_bare),
		plain(test_settling_finds_what_the_kernel_took),
		plain(test_capacity_evicts_and_frames_are_reused),
		plain(test_a_lower_target_gives_memory_back_at_once),
		plain(test_what_comes_back_soon_is_taken_for_good),
		cmocka_unit_test(test_a_lower_target_is_reached_with_hot_pages),
		tmem(test_what_was_used_goes_to_tmem_and_comes_back),
		tmem(test_what_was_not_used_goes_to_tmem_while_that_is_empty),
		tmem(test_a_page_in_tmem_comes_back_when_it_is_asked_for_twice),
		tmem(test_a_part_of_a_page_in_tmem_is_read),
		tmem(test_what_was_read_ahead_and_then_once_is_not_compressed),
		plain(test_where_nothing_comes_again_little_is_taken_in),
		tmem(test_a_write_drops_what_is_in_tmem),
		cmocka_unit_test(test_what_tmem_has_not_is_borrowed_and_given_back),
		tmem(test_an_empty_tmem_is_not_asked),
		plain(test_objects_do_not_see_each_other),
		plain(test_a_floor_is_not_taken_by_others),
		plain(test_weights_decide_who_loses),
		cmocka_unit_test(test_a_page_costs_at_most_32_bytes),
		plain(test_what_cannot_be_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
