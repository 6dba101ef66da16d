/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * No stale byte: threads read through the cache, write, take pages away, squeeze, and evict from
 * tmem, all at once, over few pages.
 *
 * The store is a version a page. A write makes the next version at some moment between the begin
 * and the end of its bracket; that is the store's order, also where writes overlap. Every page
 * read, from the cache or the store, says its version, and it must not be older than any that was
 * written (completely) or read (by anybody) before this read began. Some versions are pages of
 * zeros, which say only that one of these was there at the time.
 *
 * The calls at which threads should meet are wrapped, so that there they let others run first. Two
 * ways to lose pages: the kernel's own reclaim, and MADV_DONTNEED at once, which must be kept off
 * frames that are being filled; hence the wrapped volatile_take().
 *
 * EBB_CACHE_SECONDS lengthens it.
 */
#include "cache_harness.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "mem/volatile/volatile_private.h"

#define FRAMES	  96u
#define PAGES	  192u /* of an object: three regions */
#define OBJECTS	  2u
#define SPAN	  8u
#define ZERO_EACH 7u /* versions that are zeros */

struct page {
	_Atomic uint32_t store;	   /* version there now */
	_Atomic uint32_t at_least; /* nobody who begins to read now may see an older one */
};

static struct rig rig;
static struct cache_object *object[OBJECTS];
static struct page page_of[OBJECTS][PAGES];
static pthread_mutex_t filling[FRAMES];
static _Atomic bool stop;
static _Atomic uint64_t reads, hits, writes, injected, squeezes, wrong;

static _Thread_local uint64_t seed;

static uint64_t below(uint64_t n)
{
	if (!seed)
		seed = (uint64_t)(uintptr_t)&seed * 0x9e3779b97f4a7c15ull | 1;
	return next_random(&seed) % n;
}

/* --- meetings --- */

/* Mostly goes on, sometimes lets others run, seldom for long. */
static void meet(void)
{
	uint64_t n = below(64);

	if (n < 16)
		sched_yield();
	else if (n == 16)
		nanosleep(&(struct timespec){.tv_nsec = (long)below(300000)}, NULL);
}

/* What a test of one thread does in place of others, once. */
static void (*before_ticket)(void), (*after_read)(void);

static void do_once(void (**what)(void))
{
	void (*now)(void) = *what;

	if (!now)
		return;
	*what = NULL;
	now();
}

int __real_volatile_take(struct volatile_range *r, uint32_t page);
int __wrap_volatile_take(struct volatile_range *r, uint32_t page);
int __wrap_volatile_take(struct volatile_range *r, uint32_t page)
{
	int ret;

	pthread_mutex_lock(&filling[page]);
	ret = __real_volatile_take(r, page);
	pthread_mutex_unlock(&filling[page]);
	return ret;
}

int __real_volatile_read(struct volatile_range *r, uint32_t page, volatile_ticket t, uint32_t off,
			 uint32_t len, void *dst);
int __wrap_volatile_read(struct volatile_range *r, uint32_t page, volatile_ticket t, uint32_t off,
			 uint32_t len, void *dst);
int __wrap_volatile_read(struct volatile_range *r, uint32_t page, volatile_ticket t, uint32_t off,
			 uint32_t len, void *dst)
{
	int ret;

	if (len)
		meet();
	ret = __real_volatile_read(r, page, t, off, len, dst);
	if (len)
		meet();
	do_once(&after_read);
	return ret;
}

/* Between a look at the index and the ticket, the frame may have got another page. */
volatile_ticket __real_volatile_ticket_of(const struct volatile_range *r, uint32_t page);
volatile_ticket __wrap_volatile_ticket_of(const struct volatile_range *r, uint32_t page);
volatile_ticket __wrap_volatile_ticket_of(const struct volatile_range *r, uint32_t page)
{
	meet();
	do_once(&before_ticket);
	return __real_volatile_ticket_of(r, page);
}

int __real_tmem_put(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
		    const void *page);
int __wrap_tmem_put(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
		    const void *page);
int __wrap_tmem_put(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
		    const void *page)
{
	int ret;

	meet();
	ret = __real_tmem_put(c, pool, oid, index, page);
	meet();
	return ret;
}

int __real_tmem_get_once(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
			 void *page);
int __wrap_tmem_get_once(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
			 void *page);
int __wrap_tmem_get_once(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
			 void *page)
{
	int ret;

	meet();
	ret = __real_tmem_get_once(c, pool, oid, index, page);
	meet();
	return ret;
}

int __real_tmem_get_and_flush(struct tmem_client *c, u32 pool, const struct tmem_oid *oid,
			      u64 index, void *page);
int __wrap_tmem_get_and_flush(struct tmem_client *c, u32 pool, const struct tmem_oid *oid,
			      u64 index, void *page);
int __wrap_tmem_get_and_flush(struct tmem_client *c, u32 pool, const struct tmem_oid *oid,
			      u64 index, void *page)
{
	int ret;

	meet();
	ret = __real_tmem_get_and_flush(c, pool, oid, index, page);
	meet();
	return ret;
}

int __real_tmem_flush_page(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index);
int __wrap_tmem_flush_page(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index);
int __wrap_tmem_flush_page(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index)
{
	meet();
	return __real_tmem_flush_page(c, pool, oid, index);
}

/* --- versions --- */

static void stamp_page(void *buf, uint64_t page, uint32_t version)
{
	stamp(buf, page, version % ZERO_EACH ? version : 0);
}

static void raise(_Atomic uint32_t *v, uint32_t to)
{
	uint32_t now = *v;

	while (now < to && !atomic_compare_exchange_weak(v, &now, to))
		;
}

static void say_wrong(unsigned k, uint64_t page, uint32_t got, uint32_t least, const char *where)
{
	if (wrong++ < 5)
		print_message("  object %u page %lu: %u from %s, should be %u at least\n", k, page,
			      got, where, least);
}

/* @least: what was there or more when the read began. */
static void check_page(unsigned k, uint64_t page, const void *buf, uint32_t least,
		       const char *where)
{
	uint32_t now = page_of[k][page].store, v;

	if (!stamp_read(buf, page, &v)) {
		say_wrong(k, page, v, least, "a torn page");
		return;
	}
	if (!v) { /* the last version of zeros, at best */
		if (now - now % ZERO_EACH < least)
			say_wrong(k, page, now - now % ZERO_EACH, least, where);
		return;
	}
	if (v < least || v > now)
		say_wrong(k, page, v, least, where);
	raise(&page_of[k][page].at_least, v);
}

/* --- readers --- */

/* As a LUN does on a miss: reads the store, answers, offers what it read. */
static void read_through(unsigned k, uint64_t first, uint64_t n)
{
	static _Thread_local uint8_t bytes[SPAN * CACHE_PAGE];
	struct iovec iov[2] = {{bytes, 100}, {bytes + 100, sizeof(bytes) - 100}};
	uint32_t least[SPAN];
	struct cache_fill f;
	bool may;

	for (uint64_t i = 0; i < n; i++)
		least[i] = page_of[k][first + i].at_least;
	may = cache_fill_begin(object[k], &f, first, n);
	meet();
	for (uint64_t i = 0; i < n; i++)
		stamp_page(bytes + i * CACHE_PAGE, first + i, page_of[k][first + i].store);
	meet();
	if (may)
		cache_fill_end(&f, iov, below(30) ? 2 : 0, 0);
	for (uint64_t i = 0; i < n; i++)
		check_page(k, first + i, bytes + i * CACHE_PAGE, least[i], "the store");
}

static void read_one(unsigned k, uint64_t page)
{
	uint8_t buf[CACHE_PAGE];
	uint32_t least = page_of[k][page].at_least;

	reads++;
	if (!cache_read(object[k], page, 0, CACHE_PAGE, buf)) {
		hits++;
		check_page(k, page, buf, least, "the cache");
		return;
	}
	if (below(4))
		read_through(k, page, 1 + below(SPAN < PAGES - page ? SPAN : PAGES - page));
}

/* Half of the reads go to a few pages. */
static uint64_t any_page(void)
{
	return below(2) ? below(PAGES) : below(PAGES / 8) * 8;
}

static void *run_reader(void *arg)
{
	while (!stop)
		read_one((unsigned)below(OBJECTS), any_page());
	return NULL;
}

/* --- writers --- */

/* The write reaches the store, page by page. */
static void write_store(unsigned k, uint64_t first, uint64_t n, uint32_t *ret_version)
{
	for (uint64_t i = 0; i < n; i++) {
		uint32_t v = atomic_fetch_add(&page_of[k][first + i].store, 1) + 1;

		ret_version[i] = v;
		if (below(4) == 0)
			meet();
	}
}

static void write_some(unsigned k, uint64_t first, uint64_t n, uint64_t head, bool give)
{
	static _Thread_local uint8_t bytes[(SPAN + 1) * CACHE_PAGE];
	uint64_t off = first * CACHE_PAGE + head;
	uint64_t len = n > SPAN ? UINT64_MAX - off : n * CACHE_PAGE;
	uint64_t touched = n + (head != 0);
	uint32_t version[PAGES];
	struct cache_write w;

	if (touched > PAGES - first)
		touched = PAGES - first;
	cache_write_begin(object[k], &w, off, len);
	meet();
	write_store(k, first, touched, version);
	meet();
	memset(bytes, 0xee, sizeof(bytes));
	for (uint64_t i = 0; i < touched && n <= SPAN; i++) {
		/* What is written in part stays poison. */
		uint64_t at = i * CACHE_PAGE;

		if (at >= head && at + CACHE_PAGE <= head + len)
			stamp_page(bytes + at - head, first + i, version[i]);
	}
	cache_write_end(&w, &(struct iovec){bytes, sizeof(bytes)}, give && n <= SPAN, 0);
	for (uint64_t i = 0; i < touched; i++)
		raise(&page_of[k][first + i].at_least, version[i]);
}

static void *run_writer(void *arg)
{
	while (!stop) {
		uint64_t first = any_page(), n = 1 + below(SPAN);

		if (below(200) == 0) {
			first = 0;
			n = PAGES;
		} else if (n > PAGES - first) {
			n = PAGES - first;
		}
		write_some((unsigned)below(OBJECTS), first, n, below(4) ? 0 : below(CACHE_PAGE),
			   below(4));
		writes++;
		for (uint64_t i = below(12); i; i--)
			sched_yield();
	}
	return NULL;
}

/* --- losses, squeezes --- */

static void inject(uint32_t frame)
{
	struct volatile_range *r = rig.c->range;
	unsigned life;

	pthread_mutex_lock(&filling[frame]);
	life = word_life(page_word(r, frame));
	if (life != PAGE_HELD && madvise(volatile_page(r, frame), CACHE_PAGE, MADV_DONTNEED) == 0)
		injected++;
	pthread_mutex_unlock(&filling[frame]);
}

static void *run_injector(void *arg)
{
	while (!stop) {
		inject((uint32_t)below(FRAMES));
		if (below(8) == 0)
			madvise(volatile_page(rig.c->range, 0), FRAMES * CACHE_PAGE, MADV_PAGEOUT);
		for (uint64_t i = below(8); i; i--)
			sched_yield();
	}
	return NULL;
}

/* An object that comes and goes beside the others. */
static void visit(void)
{
	struct cache_object *o = rig_object(&rig, 50, 0);

	for (unsigned i = 0; i < 20; i++) {
		uint64_t page = below(PAGES / 4);
		uint8_t buf[CACHE_PAGE];
		uint32_t v = 0;

		if (cache_read(o, page, 0, CACHE_PAGE, buf))
			fill(o, page, 1, 77);
		else if (!stamp_read(buf, page, &v) || v != 77)
			say_wrong(9, page, v, 77, "another object");
	}
	cache_object_destroy(o);
}

static void *run_squeezer(void *arg)
{
	while (!stop) {
		switch (below(6)) {
		case 0:
			cache_set_target(rig.c, below(FRAMES) * CACHE_PAGE, below(4));
			break;
		case 1:
			visit();
			break;
		case 2:
			cache_settle(rig.c, FRAMES);
			break;
		case 3:
			if (rig.tmem)
				tmem_evict(tmem_host_instance(rig.tmem), NULL, below(32 << 10));
			break;
		case 4:
			if (rig.tmem)
				tmem_host_compact(rig.tmem);
			break;
		default:
			cache_set_target(rig.c, FRAMES * CACHE_PAGE, false);
			break;
		}
		squeezes++;
		nanosleep(&(struct timespec){.tv_nsec = (long)below(3000000)}, NULL);
	}
	return NULL;
}

/* --- the run --- */

static uint64_t stress_ns(void)
{
	const char *s = getenv("EBB_CACHE_SECONDS");

	return (s ? strtoull(s, NULL, 10) : 4) * NSEC_PER_SEC;
}

/* All that should happen has happened, were the machine ever so busy. */
static bool has_met_all(bool tmem)
{
	struct cache_stats st = stats_of(rig.c);
	struct tmem_stats ts = {0};

	if (tmem)
		tmem_stats(tmem_host_instance(rig.tmem), &ts);
	/* Of the hits in tmem some left their page there and some took it. */
	return st.hits_memory && st.hits_zero && st.updates && st.fills_lost && st.purged &&
	       (!tmem || (ts.exclusive && ts.hits > ts.exclusive));
}

static void run_stress(unsigned shards, uint64_t tmem_bytes)
{
	void *(*const runs[])(void *) = {run_reader, run_reader,   run_reader,	run_writer,
					 run_writer, run_injector, run_squeezer};
	const unsigned n = sizeof(runs) / sizeof(runs[0]);
	pthread_t threads[sizeof(runs) / sizeof(runs[0])];
	struct cache_stats st;
	bool met;
	uint64_t end = clock_now_ns() + stress_ns(), last = end + 60 * NSEC_PER_SEC;

	stop = false;
	reads = hits = writes = injected = squeezes = wrong = 0;
	memset((void *)page_of, 0, sizeof(page_of));
	rig_open(&rig, FRAMES, shards, tmem_bytes);
	for (unsigned k = 0; k < OBJECTS; k++)
		object[k] = rig_object(&rig, 100 * (k + 1), k * FRAMES / 8);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, runs[i], NULL), 0);
	while (!wrong &&
	       (clock_now_ns() < end || (clock_now_ns() < last && !has_met_all(tmem_bytes != 0))))
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	stop = true;
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	check_consistency(rig.c);
	met = has_met_all(tmem_bytes != 0);
	st = stats_of(rig.c);
	print_message(
		"  %lu reads, %lu hits (%lu zero, %lu tmem), %lu writes, %lu updates,\n"
		"  %lu invalidated, %lu fills, %lu lost, %lu losses found of %lu, %lu demoted, "
		"%lu squeezes: %lu wrong\n",
		reads, hits, st.hits_zero, st.hits_tmem, writes, st.updates, st.invalidated,
		st.fills, st.fills_lost, st.purged, injected, st.demoted, squeezes, wrong);
	for (unsigned k = 0; k < OBJECTS; k++)
		cache_object_destroy(object[k]);
	check_consistency(rig.c);
	rig_close(&rig);
	assert_int_equal(wrong, 0);
	assert_true(met);
}

static void test_no_stale_byte_without_tmem(void **state)
{
	run_stress(2, 0);
}
static void test_no_stale_byte_with_tmem(void **state)
{
	run_stress(1, 512 << 10);
	run_stress(4, 64 << 10);
}

static void fill_other(void)
{
	assert_true(fill(object[0], 2, 1, 1));
}
static void fill_same(void)
{
	assert_true(fill(object[0], 1, 1, 1));
}

/* The one frame has page 1, then 2 while it is copied, then 1 again when its key is looked at. */
static void test_a_frame_that_went_and_came_back_is_not_mistaken(void **state)
{
	rig_open(&rig, 1, 1, 0);
	object[0] = rig_object(&rig, 0, 0);
	fill_same();
	before_ticket = fill_other;
	after_read = fill_same;
	assert_int_equal(get(object[0], 1), 1); /* which checks the bytes */
	assert_null(before_ticket);
	assert_null(after_read);
	cache_object_destroy(object[0]);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_frame_that_went_and_came_back_is_not_mistaken),
		cmocka_unit_test(test_no_stale_byte_without_tmem),
		cmocka_unit_test(test_no_stale_byte_with_tmem),
	};

	for (unsigned i = 0; i < FRAMES; i++)
		pthread_mutex_init(&filling[i], NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
