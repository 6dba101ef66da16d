// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Puts, gets, exclusive gets, flushes of pages, objects and pools, failing puts and eviction, all
 * on the same few objects at once.
 *
 * Each page belongs to one thread, which alone puts it, with versions that rise. What that thread
 * must find it knows exactly in the persistent pool (nobody else removes its pages) and up to
 * misses in the ephemeral one (evicted, or its object flushed by another thread); after its own
 * flush, exclusive get or failed put it must find nothing. All threads also read each other's
 * pages: these must be whole, of that name, and never older than what the reader saw before.
 *
 * EBB_TMEM_OPS: operations a thread.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "tmem_harness.h"

#define THREADS 4u
#define OIDS	3u
#define PAGES	8u /* of an object and a thread */
#define EPH	0u
#define PER	1u

struct page_name {
	u32 pool, oid, owner, nr;
};

struct shared {
	struct test_host host;
	struct tmem *t;
	struct tmem_client *c[THREADS];
	u32 pool[2];
	u64 ops;
	bool stop; /* atomic */
};

struct worker {
	struct shared *w;
	u32 me;
	u64 rnd;
	u64 version;
	u64 mine[2][OIDS][PAGES];	    /* version, 0: nothing */
	u64 seen[2][OIDS][THREADS * PAGES]; /* newest version read */
};

#define REQUIRE(c)                                                              \
	do {                                                                    \
		if (!(c)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #c); \
			abort();                                                \
		}                                                               \
	} while (0)

static struct tmem_oid oid_of(u32 n)
{
	return (struct tmem_oid){{n, 11, 12}};
}

static u64 index_of(u32 owner, u32 nr)
{
	return (u64)nr * 37 * THREADS + owner;
}

/* A value says whose page it is and which version. */
static u64 value_of(const struct page_name *n, u64 version)
{
	return version << 16 | n->pool << 12 | n->oid << 8 | (n->owner * PAGES + n->nr);
}

static u64 version_of(const struct page_name *n, const uint8_t *page)
{
	u64 v, w;

	memcpy(&v, page, 8);
	for (u32 i = 8; i < TEST_PAGE; i += 8) {
		memcpy(&w, page + i, 8);
		REQUIRE(v == w);
	}
	REQUIRE((v & 0xffff) == value_of(n, 0));
	return v >> 16;
}

static int read_page(struct worker *k, const struct page_name *n, bool exclusive, u64 *ret_version)
{
	struct shared *w = k->w;
	struct tmem_oid oid = oid_of(n->oid);
	uint8_t page[TEST_PAGE];
	int r = (exclusive ? tmem_get_and_flush : tmem_get)(w->c[k->me], w->pool[n->pool], &oid,
							    index_of(n->owner, n->nr), page);

	REQUIRE(!r || r == -ENOENT);
	if (!r) {
		u64 *seen = &k->seen[n->pool][n->oid][n->owner * PAGES + n->nr];
		u64 v = version_of(n, page);

		REQUIRE(v >= *seen);
		*seen = *ret_version = v;
	}
	return r;
}

/* Reads a page of our own: we know what must be there. */
static void read_mine(struct worker *k, const struct page_name *n, bool exclusive)
{
	u64 *mine = &k->mine[n->pool][n->oid][n->nr], version = 0;
	int r = read_page(k, n, exclusive, &version);

	if (r && n->pool == EPH)
		*mine = 0;
	REQUIRE(version == *mine);
	if (exclusive)
		*mine = 0;
}

static void put_mine(struct worker *k, const struct page_name *n, bool fail)
{
	struct tmem_oid oid = oid_of(n->oid);
	uint8_t page[TEST_PAGE];
	int r;

	page_fill(page, value_of(n, ++k->version));
	if (fail) /* maybe another thread's put will be the one; both must cope */
		__atomic_add_fetch(&k->w->host.refuse, 1, __ATOMIC_RELAXED);
	r = tmem_put(k->w->c[k->me], k->w->pool[n->pool], &oid, index_of(n->owner, n->nr), page);
	REQUIRE(!r || r == -E2BIG);
	k->mine[n->pool][n->oid][n->nr] = r ? 0 : k->version;
}

static void flush_mine(struct worker *k, const struct page_name *n)
{
	struct tmem_oid oid = oid_of(n->oid);
	int r = tmem_flush_page(k->w->c[k->me], k->w->pool[n->pool], &oid,
				index_of(n->owner, n->nr));
	u64 *mine = &k->mine[n->pool][n->oid][n->nr];

	REQUIRE(r == 0 || r == -ENOENT);
	REQUIRE(n->pool == EPH || r == (*mine ? 0 : -ENOENT));
	*mine = 0;
	REQUIRE(read_page(k, n, false, mine) == -ENOENT);
}

static void step(struct worker *k)
{
	u64 r = next_random(&k->rnd);
	struct page_name n = {
		.pool = r & 1, .oid = (r >> 8) % OIDS, .owner = k->me, .nr = (r >> 16) % PAGES};
	struct tmem_oid oid = oid_of(n.oid);
	u32 op = (r >> 32) % 100;
	u64 ignored;

	if (op < 35) {
		put_mine(k, &n, op < 4);
	} else if (op < 50) {
		read_mine(k, &n, false);
	} else if (op < 60) {
		read_mine(k, &n, true);
	} else if (op < 70) {
		flush_mine(k, &n);
	} else if (op < 88) {
		n.owner = (r >> 24) % THREADS;
		if (n.owner != k->me)
			read_page(k, &n, false, &ignored);
	} else if (op < 95) {
		tmem_flush_object(k->w->c[k->me], k->w->pool[EPH], &oid);
	} else if (op < 96) {
		tmem_pool_flush(k->w->c[k->me], k->w->pool[EPH]);
	} else {
		tmem_evict(k->w->t, op & 1 ? k->w->c[k->me] : NULL, 200);
	}
}

static void *work(void *arg)
{
	struct worker *k = arg;

	for (u64 i = 0; i < k->w->ops; i++)
		step(k);
	return NULL;
}

static void *evict(void *arg)
{
	struct shared *w = arg;

	while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED))
		tmem_evict(w->t, NULL, 500);
	return NULL;
}

/* Joins and leaves a shared pool, and makes and destroys one with pages, all the time. */
static void *churn(void *arg)
{
	struct shared *w = arg;
	struct tmem_oid oid = oid_of(0);
	uint8_t page[TEST_PAGE];

	page_fill(page, 1);
	while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED)) {
		static const struct tmem_uuid uuid = {{3, 4}};
		struct tmem_client *c;
		u32 pool, other;
		int r;

		REQUIRE(!tmem_client_create(w->t, "churn", 5, 0, &c));
		REQUIRE(!tmem_pool_new(c, 0, NULL, &pool));
		REQUIRE(!tmem_pool_new(c, TMEM_SHARED, &uuid, &other));
		for (u64 i = 0; i < 20; i++) {
			r = tmem_put(c, i & 1 ? pool : other, &oid, i, page);
			REQUIRE(!r || r == -E2BIG);
		}
		REQUIRE(!tmem_pool_destroy(c, pool));
		REQUIRE(tmem_pool_flush(c, pool) == -ENOENT);
		tmem_client_destroy(c);
	}
	return NULL;
}

static u64 ops_wanted(u64 dflt)
{
	const char *s = getenv("EBB_TMEM_OPS");

	return s ? strtoull(s, NULL, 0) : dflt;
}

static void make_pools(struct shared *w)
{
	static const struct tmem_uuid uuid[2] = {{{1, 0}}, {{2, 0}}};

	for (u32 i = 0; i < THREADS; i++) {
		assert_int_equal(tmem_client_create(w->t, "w", 1 + i, 0, &w->c[i]), 0);
		assert_int_equal(tmem_pool_new(w->c[i], TMEM_SHARED, &uuid[0], &w->pool[EPH]), 0);
		assert_int_equal(tmem_pool_new(w->c[i], TMEM_SHARED | TMEM_PERSISTENT, &uuid[1],
					       &w->pool[PER]),
				 0);
	}
}

static void test_races(void **state)
{
	static struct shared w;
	static struct worker k[THREADS];
	pthread_t thread[THREADS], evictor, churner[2];
	struct tmem_stats s;

	w.t = test_open(&w.host, 16);
	w.ops = ops_wanted(30000);
	make_pools(&w);
	assert_int_equal(pthread_create(&evictor, NULL, evict, &w), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&churner[i], NULL, churn, &w), 0);
	for (u32 i = 0; i < THREADS; i++) {
		k[i] = (struct worker){.w = &w, .me = i, .rnd = 0x1234567 + i};
		assert_int_equal(pthread_create(&thread[i], NULL, work, &k[i]), 0);
	}
	for (u32 i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	__atomic_store_n(&w.stop, true, __ATOMIC_RELAXED);
	pthread_join(evictor, NULL);
	for (int i = 0; i < 2; i++)
		pthread_join(churner[i], NULL);
	tmem_stats(w.t, &s);
	print_message("puts %lu hits %lu of %lu, retried %lu, evicted %lu, objects flushed %lu\n",
		      (unsigned long)s.puts, (unsigned long)s.hits, (unsigned long)s.gets,
		      (unsigned long)s.puts_retried, (unsigned long)s.evicted_pages,
		      (unsigned long)s.flushed_objects);
	assert_true(s.evicted_pages && s.flushed_objects && s.puts_replaced && s.puts_refused);
	check_accounts(w.t, &w.host);
	for (u32 i = 0; i < THREADS; i++)
		tmem_client_destroy(w.c[i]);
	test_close(w.t, &w.host);
}

/* Of several exclusive gets of one page exactly one has it; nothing is ever had twice. */
struct race {
	struct shared *w;
	u32 me;
	u64 got;
	pthread_barrier_t *gate;
};

static void *grab(void *arg)
{
	struct race *k = arg;
	struct tmem_oid oid = oid_of(0);
	uint8_t page[TEST_PAGE];

	for (u64 i = 0; i < k->w->ops; i++) {
		page_fill(page, i + 1);
		if (!k->me)
			REQUIRE(!tmem_put(k->w->c[0], k->w->pool[PER], &oid, 0, page));
		pthread_barrier_wait(k->gate);
		if (!tmem_get_and_flush(k->w->c[k->me], k->w->pool[PER], &oid, 0, page)) {
			u64 v;

			memcpy(&v, page, sizeof(v));
			REQUIRE(v == i + 1);
			k->got++;
		}
		pthread_barrier_wait(k->gate);
	}
	return NULL;
}

static void test_one_wins(void **state)
{
	static struct shared w;
	struct race k[3];
	pthread_t thread[3];
	pthread_barrier_t gate;
	u64 got = 0;

	w.t = test_open(&w.host, 16);
	w.ops = ops_wanted(30000) / 30;
	make_pools(&w);
	pthread_barrier_init(&gate, NULL, 3);
	for (u32 i = 0; i < 3; i++) {
		k[i] = (struct race){.w = &w, .me = i, .gate = &gate};
		assert_int_equal(pthread_create(&thread[i], NULL, grab, &k[i]), 0);
	}
	for (u32 i = 0; i < 3; i++) {
		pthread_join(thread[i], NULL);
		got += k[i].got;
	}
	pthread_barrier_destroy(&gate);
	assert_int_equal(got, w.ops);
	for (u32 i = 0; i < THREADS; i++)
		tmem_client_destroy(w.c[i]);
	test_close(w.t, &w.host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_races),
		cmocka_unit_test(test_one_wins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
