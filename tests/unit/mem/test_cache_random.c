/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random calls by one thread against a model: what the store has, and which writes are under way.
 * Fills and writes are begun, left open over other calls, and ended; pages are purged, targets
 * change, tmem loses pages, objects come and go. A hit must bring what the store has, and there
 * must be none where a write is under way; queues, index and accounts must agree all the while.
 */
#include "cache_harness.h"

#include <stdlib.h>
#include <string.h>

#define FRAMES	64u
#define PAGES	400u /* of an object */
#define OBJECTS 3u
#define OPEN	4u
#define SPAN	12u

#ifdef __SANITIZE_THREAD__ /* one thread: nothing to find, and slow */
#define STEPS 20000u
#else
#define STEPS 200000u
#endif

struct open_fill {
	bool open;
	struct cache_fill f;
	unsigned object;
	uint32_t version[SPAN]; /* as the store had them when it was read */
};
struct open_write {
	bool open;
	struct cache_write w;
	unsigned object;
	uint64_t first, n;
	uint32_t version[SPAN];
};

static struct rig rig;
static struct cache_object *object[OBJECTS];
static uint32_t store[OBJECTS][PAGES];
static unsigned writing[OBJECTS][PAGES];
static struct open_fill fills[OPEN];
static struct open_write writes[OPEN];
static uint64_t seed = 88172645463325252ull, hits, reads;
static uint8_t bytes[(SPAN + 1) * CACHE_PAGE];

static uint64_t below(uint64_t n)
{
	return next_random(&seed) % n;
}

/* Some pages are hot. */
static uint64_t any_page(void)
{
	return below(2) ? below(PAGES / 8) : below(PAGES);
}

static void do_read(void)
{
	unsigned k = (unsigned)below(OBJECTS);
	uint64_t page = any_page();
	int64_t v = get(object[k], page);

	reads++;
	if (v < 0)
		return;
	hits++;
	assert_int_equal(writing[k][page], 0);
	assert_int_equal(v, store[k][page]);
}

static void end_fill(struct open_fill *f)
{
	struct iovec iov[2] = {{bytes, 1000}, {bytes + 1000, sizeof(bytes) - 1000}};

	for (uint64_t i = 0; i < f->f.n; i++)
		stamp(bytes + 24 + i * CACHE_PAGE, f->f.first + i, f->version[i]);
	cache_fill_end(&f->f, iov, below(20) ? 2 : 0, 24);
	f->open = false;
}

static void do_fill(void)
{
	struct open_fill *f = &fills[below(OPEN)];
	uint64_t first = any_page(), n = 1 + below(SPAN);

	if (f->open) {
		end_fill(f);
		return;
	}
	if (n > PAGES - first)
		n = PAGES - first;
	f->object = (unsigned)below(OBJECTS);
	cache_wants(object[f->object], first, n);
	f->open = cache_fill_begin(object[f->object], &f->f, first, n);
	if (f->open && !below(4))
		f->f.ahead = first + below(n);
	for (uint64_t i = 0; i < n; i++) {
		f->version[i] = store[f->object][first + i];
		if (f->open)
			assert_int_equal(writing[f->object][first + i], 0);
	}
	if (f->open && below(2))
		end_fill(f);
}

static void write_store(unsigned k, uint64_t page)
{
	/* Zeros now and then. Other versions are never used again. */
	static uint32_t last;

	store[k][page] = below(6) ? ++last : 0;
}

static void end_write(struct open_write *w)
{
	struct iovec iov[2] = {{bytes, 5}, {bytes + 5, sizeof(bytes) - 5}};
	bool give = w->n <= SPAN && below(3);

	memset(bytes, 0xee, sizeof(bytes));
	for (uint64_t i = 0; give && i < w->n; i++) {
		uint64_t at = (w->first + i) * CACHE_PAGE;

		/* Pages that are written in part stay poison: nobody may find them. */
		if (at >= w->w.off && at + CACHE_PAGE <= w->w.off + w->w.len)
			stamp(bytes + 7 + (at - w->w.off), w->first + i, w->version[i]);
	}
	cache_write_end(&w->w, iov, give ? 2 : 0, 7);
	for (uint64_t i = 0; i < w->n; i++)
		writing[w->object][w->first + i]--;
	w->open = false;
}

static void do_write(void)
{
	struct open_write *w = &writes[below(OPEN)];
	uint64_t off = any_page() * CACHE_PAGE + (below(2) ? below(CACHE_PAGE) : 0);
	uint64_t pages = below(30) ? 1 + below(SPAN - 1) : PAGES;
	uint64_t len = pages * CACHE_PAGE - (below(2) ? below(CACHE_PAGE) : 0);

	if (w->open) {
		end_write(w);
		return;
	}
	w->object = (unsigned)below(OBJECTS);
	w->first = off / CACHE_PAGE;
	w->n = (off + len - 1) / CACHE_PAGE - w->first + 1;
	if (pages == PAGES && below(2))
		len = UINT64_MAX - off; /* all there may ever be */
	if (w->n > PAGES - w->first)
		w->n = PAGES - w->first;
	cache_write_begin(object[w->object], &w->w, off, len);
	w->open = true;
	for (uint64_t i = 0; i < w->n; i++) {
		writing[w->object][w->first + i]++;
		write_store(w->object, w->first + i);
		if (i < SPAN)
			w->version[i] = store[w->object][w->first + i];
	}
	if (below(2))
		end_write(w);
}

static bool in_use(unsigned k)
{
	for (unsigned i = 0; i < OPEN; i++)
		if ((fills[i].open && fills[i].object == k) ||
		    (writes[i].open && writes[i].object == k))
			return true;
	return false;
}

static void do_replace_object(void)
{
	unsigned k = (unsigned)below(OBJECTS);

	if (in_use(k))
		return;
	cache_object_destroy(object[k]);
	object[k] = rig_object(&rig, 1 + (uint32_t)below(300), below(FRAMES / 4));
	/* Another object, another store. */
	for (unsigned i = 0; i < PAGES; i++)
		write_store(k, i);
}

static void do_memory(void)
{
	switch (below(6)) {
	case 0:
		cache_set_target(rig.c, below(FRAMES + 1) * CACHE_PAGE, below(2));
		break;
	case 1:
		cache_set_target(rig.c, FRAMES * CACHE_PAGE, false);
		break;
	case 2:
		cache_settle(rig.c, (uint32_t)below(2 * FRAMES));
		break;
	case 3:
		if (rig.tmem)
			tmem_evict(tmem_host_instance(rig.tmem), NULL, below(64 << 10));
		break;
	default:
		for (unsigned i = 0; i < 40; i++)
			inject_purge(object[below(OBJECTS)], any_page());
	}
}

static bool writes_open(void)
{
	for (unsigned i = 0; i < OPEN; i++)
		if (writes[i].open)
			return true;
	return false;
}

static void step(void)
{
	uint64_t what = below(1000);

	if (what < 600)
		do_read();
	else if (what < 850)
		do_fill();
	else if (what < 960)
		do_write();
	else if (what < 998)
		do_memory();
	else
		do_replace_object();
}

static void run_random(unsigned shards, uint64_t tmem_bytes)
{
	hits = reads = 0;
	rig_open(&rig, FRAMES, shards, tmem_bytes);
	for (unsigned k = 0; k < OBJECTS; k++)
		object[k] = rig_object(&rig, 100, 0);
	memset(store, 0, sizeof(store));
	for (unsigned i = 0; i < STEPS; i++) {
		step();
		if (i % 512 == 0 && !writes_open())
			check_consistency(rig.c);
	}
	for (unsigned i = 0; i < OPEN; i++) {
		if (fills[i].open)
			end_fill(&fills[i]);
		if (writes[i].open)
			end_write(&writes[i]);
	}
	check_consistency(rig.c);
	for (unsigned k = 0; k < OBJECTS; k++)
		cache_object_destroy(object[k]);
	print_message("  %lu reads, %lu hits (%lu zero, %lu tmem), %lu purged, %lu updates\n",
		      reads, hits, stats_of(rig.c).hits_zero, stats_of(rig.c).hits_tmem,
		      stats_of(rig.c).purged, stats_of(rig.c).updates);
	assert_true(hits > reads / 20 && stats_of(rig.c).purged && stats_of(rig.c).updates);
	assert_int_equal(stats_of(rig.c).hits_tmem != 0, tmem_bytes != 0);
	rig_close(&rig);
}

static void test_without_tmem(void **state)
{
	run_random(1, 0);
	run_random(4, 0);
}
static void test_with_tmem(void **state)
{
	run_random(1, 1 << 20);
	run_random(2, 256 << 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_without_tmem),
		cmocka_unit_test(test_with_tmem),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
