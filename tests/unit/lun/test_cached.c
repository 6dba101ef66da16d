/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads through the cache: what reaches the store, who waits for whom, and that no byte is stale
 * whatever runs side by side. That every op does what it should with the cache is test_lun_ops. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake_store.h"

#define PAGE   CACHE_PAGE
#define READER 8

static const enum way ways[] = {WAY_SYNC, WAY_ASYNC};

struct fixture {
	enum way way;
	struct lun *lun;
	struct fake *f;
	uint8_t *buf;
};

static int set_up(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	x->way = *(const enum way *)*state;
	x->f = make_fake(&x->lun, false);
	x->buf = aligned_alloc(PAGE, FAKE_SIZE);
	fill(x->f->data, FAKE_SIZE, 1);
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *x = *state;

	lun_unref(x->lun);
	free(x->buf);
	free(x);
	return 0;
}

/* Reads, checks, and returns how many reads of the store it took. */
static int read_cost(struct fixture *x, uint64_t off, uint64_t len)
{
	int before = x->f->calls[BLOCK_READ];

	memset(x->buf, 0xee, len);
	assert_int_equal(do_read(x->lun, x->way, off, x->buf, len), 0);
	assert_memory_equal(x->buf, x->f->data + off, len);
	return x->f->calls[BLOCK_READ] - before;
}

/* The same with flags. */
static int flagged_cost(struct fixture *x, unsigned flags, uint64_t off, uint64_t len)
{
	struct iovec v = {x->buf, len};
	struct lun_io io = {.op = LUN_READ,
			    .flags = flags,
			    .off = off,
			    .len = len,
			    .iov = &v,
			    .niov = 1,
			    .reg_index = -1};
	int before = x->f->calls[BLOCK_READ];

	assert_int_equal(do_io(x->lun, &io, x->way), 0);
	assert_memory_equal(x->buf, x->f->data + off, len);
	return x->f->calls[BLOCK_READ] - before;
}

static struct lun_cache_stats stats_of(struct fixture *x)
{
	struct lun_cache_stats s;

	assert_true(lun_cache_stats(x->lun, &s));
	return s;
}

static void a_second_read_does_not_reach_the_store(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(read_cost(x, 8 * PAGE, PAGE), 1);
	assert_int_equal(read_cost(x, 8 * PAGE, PAGE), 0);
	assert_int_equal(read_cost(x, 8 * PAGE + 512, 1024), 0);
	assert_int_equal(read_cost(x, 100 * PAGE, 64 * PAGE), 1);
	assert_int_equal(read_cost(x, 100 * PAGE, 64 * PAGE), 0);
	assert_int_equal(read_cost(x, 101 * PAGE + 77, 5 * PAGE), 0);
	assert_true(stats_of(x).cache.hits_memory >= 1 + 1 + 64 + 6);
}

static void a_small_read_brings_its_page(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(read_cost(x, 512, 512), 1);
	for (int i = 0; i < 8; i++)
		assert_int_equal(read_cost(x, (uint64_t)i * 512, 512), 0);
	/* Not aligned, as a guest's old partition: it finds both pages the next time. */
	assert_int_equal(read_cost(x, 20 * PAGE + 3584, PAGE), 1);
	assert_int_equal(read_cost(x, 20 * PAGE + 3584, PAGE), 0);
	assert_int_equal(read_cost(x, 20 * PAGE, 2 * PAGE), 0);
}

static void holes_are_read_in_few_runs(void **state)
{
	struct fixture *x = *state;

	for (int i = 0; i < 64; i += 2)
		assert_true(read_cost(x, (uint64_t)(300 + i) * PAGE, PAGE) <= 1);
	assert_in_range(read_cost(x, 300 * PAGE, 64 * PAGE), 1, 4);
	assert_int_equal(read_cost(x, 300 * PAGE, 64 * PAGE), 0);
}

static void flags_bypass(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(flagged_cost(x, LUN_IO_DPO, 8 * PAGE, PAGE), 1);
	assert_int_equal(flagged_cost(x, LUN_IO_DPO, 8 * PAGE, PAGE), 1); /* was not kept */
	assert_int_equal(read_cost(x, 8 * PAGE, PAGE), 1);
	assert_int_equal(flagged_cost(x, LUN_IO_DPO, 8 * PAGE, PAGE), 0);
	assert_int_equal(flagged_cost(x, LUN_IO_FUA, 8 * PAGE, PAGE), 1);
}

/* What the caller's memory becomes after the read must not be what others read. */
static void nothing_is_cached_from_memory_of_others(void **state)
{
	struct fixture *x = *state;
	int before;

	assert_int_equal(flagged_cost(x, LUN_IO_UNSTABLE, 8 * PAGE, 4 * PAGE), 1);
	assert_int_equal(read_cost(x, 8 * PAGE, 4 * PAGE), 0);
	/* A write from such memory is found in the store, not in the cache. */
	before = x->f->calls[BLOCK_READ];
	struct iovec v = {x->buf, PAGE};
	struct lun_io io = {.op = LUN_WRITE,
			    .flags = LUN_IO_UNSTABLE,
			    .off = 8 * PAGE,
			    .len = PAGE,
			    .iov = &v,
			    .niov = 1,
			    .reg_index = -1};
	fill(x->buf, PAGE, 5);
	assert_int_equal(do_io(x->lun, &io, x->way), 0);
	assert_int_equal(read_cost(x, 8 * PAGE, PAGE), 1);
	assert_int_equal(x->f->calls[BLOCK_READ], before + 1);
}

static void a_write_replaces_what_was_cached(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(read_cost(x, 8 * PAGE, 4 * PAGE), 1);
	fill(x->buf, 2 * PAGE, 9);
	assert_int_equal(do_write(x->lun, x->way, 9 * PAGE, x->buf, 2 * PAGE), 0);
	assert_int_equal(read_cost(x, 8 * PAGE, 4 * PAGE), 0);
	/* A part of a page takes it out. */
	assert_int_equal(do_write(x->lun, x->way, 8 * PAGE + 512, x->buf, 512), 0);
	assert_int_equal(read_cost(x, 8 * PAGE, PAGE), 1);
	/* As does a write that fails. */
	x->f->err = -EIO;
	x->f->on = BLOCK_WRITE;
	x->f->at = 0;
	assert_int_equal(do_write(x->lun, x->way, 9 * PAGE, x->buf, PAGE), -EIO);
	assert_int_equal(read_cost(x, 9 * PAGE, PAGE), 1);
}

/* The next read of the store finds that it has ended before. */
static void cut_store(struct fixture *x)
{
	x->f->err = -ENODATA;
	x->f->on = BLOCK_READ;
	x->f->at = 0;
}

static void read_cut(struct fixture *x)
{
	cut_store(x);
	assert_int_equal(do_read(x->lun, x->way, 600 * PAGE, x->buf, PAGE), -ENODATA);
}

static void a_truncated_store_is_not_hidden(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(read_cost(x, 700 * PAGE, 16 * PAGE), 1);
	read_cut(x);
	assert_int_equal(read_cost(x, 700 * PAGE, PAGE), 1);
	/* What is beyond is not walked for each error ... */
	read_cut(x);
	assert_int_equal(read_cost(x, 700 * PAGE, PAGE), 0);
	/* ... but again when the store reached as far meanwhile. */
	fill(x->buf, PAGE, 1);
	assert_int_equal(do_write(x->lun, x->way, 710 * PAGE, x->buf, PAGE), 0);
	read_cut(x);
	assert_int_equal(read_cost(x, 700 * PAGE, PAGE), 1);
}

static void a_truncated_source_is_not_hidden(void **state)
{
	struct fixture *x = *state, to = {.way = x->way, .buf = x->buf};
	struct lun_io io = {.op = LUN_COPY,
			    .off = 100 * PAGE,
			    .len = PAGE,
			    .src = x->lun,
			    .src_off = 600 * PAGE,
			    .reg_index = -1};

	to.f = make_fake(&to.lun, false);
	assert_int_equal(read_cost(x, 700 * PAGE, PAGE), 1);
	assert_int_equal(read_cost(&to, 700 * PAGE, PAGE), 1);
	cut_store(x);
	assert_int_equal(do_io(to.lun, &io, x->way), -ENODATA);
	assert_int_equal(read_cost(x, 700 * PAGE, PAGE), 1);
	assert_int_equal(read_cost(&to, 700 * PAGE, PAGE), 0);
	lun_unref(to.lun);
}

static void prefetch_fills_the_cache(void **state)
{
	struct fixture *x = *state;
	int before;

	assert_int_equal(read_cost(x, 17 * PAGE, PAGE), 1);
	assert_int_equal(do_range(x->lun, x->way, LUN_PREFETCH, 0, 10 * PAGE + 5, 500 * PAGE), 0);
	assert_int_equal(read_cost(x, 10 * PAGE + 5, 500 * PAGE), 0);
	before = x->f->calls[BLOCK_READ];
	assert_int_equal(do_range(x->lun, x->way, LUN_PREFETCH, 0, 10 * PAGE + 5, 500 * PAGE), 0);
	assert_int_equal(x->f->calls[BLOCK_READ], before);
}

/* --- readahead --- */

static void a_sequential_reader_hits(void **state)
{
	struct fixture *x = *state;
	int cost = 0;

	for (uint64_t off = 0; off < FAKE_SIZE; off += PAGE)
		cost += read_cost(x, off, PAGE);
	/* 1024 reads; windows of 128, 256, 512 KiB and 1 MiB; in the background they come in
	 * pieces of 256 KiB, which complete at once here. */
	assert_in_range(cost, 4, 24);
	assert_in_range(x->f->read_bytes, FAKE_SIZE, FAKE_SIZE);
	assert_in_range(stats_of(x).readahead_pages, 900, 1024);
	assert_in_range(stats_of(x).readahead_used, 800, stats_of(x).readahead_pages);
}

static void a_sequential_reader_of_sectors_hits(void **state)
{
	struct fixture *x = *state;
	int cost = 0;

	for (uint64_t off = 0; off < FAKE_SIZE / 2; off += 512)
		cost += read_cost(x, off, 512);
	assert_in_range(cost, 2, 24);
}

static void several_streams_at_once(void **state)
{
	struct fixture *x = *state;
	int cost = 0;

	for (uint64_t i = 0; i < 128; i++)
		for (uint64_t s = 0; s < 8; s++)
			cost += read_cost(x, s * 128 * PAGE + i * PAGE, PAGE);
	assert_in_range(cost, 8, 8 * 10);
}

/* Reads of far more than the cache in an order in which nothing comes again soon. */
static void what_does_not_come_again_is_not_kept(void **state)
{
	struct fixture *x = *state;
	struct lun_cache_stats before;

	harness_squeeze(1);
	for (uint64_t n = 0; n < 4096; n++)
		read_cost(x, n * 389 % 1024 * PAGE, PAGE);
	before = stats_of(x);
	for (uint64_t n = 0; n < 1024; n++)
		read_cost(x, n * 389 % 1024 * PAGE, PAGE);
	assert_in_range(stats_of(x).cache.fills - before.cache.fills, 50, 300);
	/* But the page of a sector is: the next sector is read from it. */
	assert_int_equal(read_cost(x, 512, 512), 1);
	assert_int_equal(read_cost(x, 1024, 512), 0);
	harness_squeeze(2);
}

static void a_random_reader_reads_nothing_ahead(void **state)
{
	struct fixture *x = *state;
	unsigned seed = 7;
	int cost = 0, n;

	for (n = 0; n < 3000; n++)
		cost += read_cost(x, (uint64_t)(rand_r(&seed) % 1024) * PAGE, PAGE);
	assert_int_equal(x->f->read_bytes, (uint64_t)cost * PAGE);
	assert_int_equal(stats_of(x).readahead_pages, 0);
}

/* --- coalescing --- */

struct reader {
	pthread_t thread;
	struct fixture *x;
	bool async;
	uint64_t off, len;
	int err;
	uint8_t *buf;
};

struct posted {
	struct lun_io io;
	struct reactor_msg msg;
	struct lun *lun;
	sem_t sem;
};

static void posted_done(struct lun_io *io)
{
	sem_post(&container_of(io, struct posted, io)->sem);
}

static void post(struct reactor_msg *m)
{
	struct posted *p = container_of(m, struct posted, msg);

	lun_submit(p->lun, &p->io);
}

static int run_io(struct lun *lun, struct lun_io *io, bool async)
{
	struct posted p = {.io = *io, .msg.fn = post, .lun = lun};

	if (!async)
		return lun_run(lun, io);
	p.io.reactor = harness_reactor();
	p.io.done = posted_done;
	sem_init(&p.sem, 0, 0);
	reactor_post(p.io.reactor, &p.msg);
	while (sem_wait(&p.sem))
		;
	return p.io.err;
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;
	struct iovec v = {r->buf, r->len};
	struct lun_io io = {.op = LUN_READ,
			    .off = r->off,
			    .len = r->len,
			    .iov = &v,
			    .niov = 1,
			    .reg_index = -1};

	r->err = run_io(r->x->lun, &io, r->async);
	return NULL;
}

static void wait_until_coalesced(struct fixture *x, uint64_t n)
{
	struct timespec ms = {.tv_nsec = 1000000};

	for (int i = 0; i < 10000 && stats_of(x).coalesced < n; i++)
		nanosleep(&ms, NULL);
	assert_int_equal(stats_of(x).coalesced, n);
}

/* The first reader is a thread that blocks in the store; of the others every second comes by the
 * reactor. */
static void start_readers(struct fixture *x, struct reader *r)
{
	harness_reactor();
	fake_gate(x->f, true);
	for (int i = 0; i < READER; i++) {
		r[i] = (struct reader){
			.x = x, .async = i % 2, .off = 50 * PAGE, .len = PAGE, .buf = malloc(PAGE)};
		assert_int_equal(pthread_create(&r[i].thread, NULL, reader_main, &r[i]), 0);
		wait_until_coalesced(x, (uint64_t)i);
		while (!x->f->calls[BLOCK_READ])
			sched_yield();
	}
}

/* Lets the store answer; all of them get what it has. */
static void end_readers(struct fixture *x, struct reader *r)
{
	fake_gate(x->f, false);
	for (int i = 0; i < READER; i++) {
		pthread_join(r[i].thread, NULL);
		assert_int_equal(r[i].err, 0);
		assert_memory_equal(r[i].buf, x->f->data + 50 * PAGE, PAGE);
		free(r[i].buf);
	}
}

static void concurrent_misses_read_once(void **state)
{
	struct fixture *x = *state;
	struct reader r[READER];

	start_readers(x, r);
	end_readers(x, r);
	assert_int_equal(x->f->calls[BLOCK_READ], 1);
}

static void who_waited_for_a_failure_reads_itself(void **state)
{
	struct fixture *x = *state;
	struct reader r[READER];

	x->f->on = BLOCK_READ;
	start_readers(x, r);
	/* A write that is still under way when the fill ends: the fill is lost, and no new one
	 * may begin. */
	struct cache_write w;

	cache_write_begin(lun_cache_object(x->lun), &w, 50 * PAGE, PAGE);
	end_readers(x, r);
	cache_write_end(&w, NULL, 0, 0);
	assert_int_equal(x->f->calls[BLOCK_READ], READER);
}

/* --- many threads: no stale byte --- */

#define WORKERS 4
#define ROUNDS	4000
#define SECTORS 256u /* they work in; 32 pages */

static struct lun *shared;

/* Sector s is worker s % WORKERS'; all that stands in it is a count of its writes. */
static void *worker_main(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg, seed = me + 1;
	uint32_t count[SECTORS] = {0};
	_Alignas(4096) uint8_t buf[64 * 512];

	for (int n = 0; n < ROUNDS; n++) {
		unsigned s = (rand_r(&seed) % SECTORS) / WORKERS * WORKERS + me;
		unsigned len = rand_r(&seed) % 2 ? 1 : 1 + rand_r(&seed) % 64;
		struct iovec v = {buf, 512};
		struct lun_io io = {
			.off = s * 512, .len = 512, .iov = &v, .niov = 1, .reg_index = -1};
		uint32_t got;

		if (rand_r(&seed) % 3 == 0) {
			count[s]++;
			for (unsigned i = 0; i < 128; i++)
				memcpy(buf + 4 * i, &count[s], 4);
			io.op = LUN_WRITE;
			assert_int_equal(run_io(shared, &io, me % 2), 0);
			continue;
		}
		if (len > SECTORS - s)
			len = SECTORS - s;
		io.op = LUN_READ;
		io.len = v.iov_len = 512ull * len;
		assert_int_equal(run_io(shared, &io, me % 2), 0);
		for (unsigned i = 0; i < len; i++) {
			memcpy(&got, buf + 512 * i, 4);
			if ((s + i) % WORKERS == me)
				assert_int_equal(got, count[s + i]);
			assert_memory_equal(buf + 512 * i, buf + 512 * i + 4, 508);
		}
	}
	return NULL;
}

static _Atomic bool squeezing;

static void *squeezer_main(void *arg)
{
	struct timespec pause = {.tv_nsec = 200000};
	unsigned seed = 1;

	while (squeezing) {
		harness_squeeze((unsigned)rand_r(&seed) >> 4);
		nanosleep(&pause, NULL);
	}
	harness_squeeze(2); /* for the tests to come */
	return NULL;
}

static void no_stale_or_torn_sector(void **state)
{
	struct lun_cache_stats s;
	pthread_t t[WORKERS], squeezer;

	harness_reactor();
	for (int mode = BLOCK_MODE_DIRECT; mode <= BLOCK_MODE_BUFFERED; mode++) {
		shared = make_lun("shared", (enum block_mode)mode, 1u << 20);
		squeezing = true;
		assert_int_equal(pthread_create(&squeezer, NULL, squeezer_main, NULL), 0);
		for (uintptr_t i = 0; i < WORKERS; i++)
			assert_int_equal(pthread_create(&t[i], NULL, worker_main, (void *)i), 0);
		for (int i = 0; i < WORKERS; i++)
			pthread_join(t[i], NULL);
		squeezing = false;
		pthread_join(squeezer, NULL);
		assert_true(lun_cache_stats(shared, &s));
		print_message("%llu hits in memory, %llu in tmem, %llu purged, %llu evicted\n",
			      (unsigned long long)s.cache.hits_memory,
			      (unsigned long long)s.cache.hits_tmem,
			      (unsigned long long)s.cache.purged,
			      (unsigned long long)s.cache.evicted);
		assert_true(s.cache.hits_memory + s.cache.hits_tmem > 0);
		assert_true(s.cache.evicted > 0);
		lun_unref(shared);
	}
}

/* --- the page that the LUN ends in --- */

static void growing_shows_no_old_end(void **state)
{
	uint64_t size = (1u << 20) + 1536;
	struct reason why = {""};
	uint8_t buf[PAGE], want[PAGE] = {0};
	struct lun *lun = make_lun("grow", BLOCK_MODE_AUTO, size);

	fill(want, 1536, 3);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(do_write(lun, ways[i], 1u << 20, want, 1536), 0);
		for (int n = 0; n < 3; n++)
			assert_int_equal(do_read(lun, ways[i], 1u << 20, buf, 1536), 0);
		assert_memory_equal(buf, want, 1536);
	}
	assert_int_equal(lun_resize(lun, size + 8192 - 1536, &why), 0);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(do_read(lun, ways[i % 2], 1u << 20, buf, PAGE), 0);
		assert_memory_equal(buf, want, PAGE);
	}
	lun_unref(lun);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest each_way[] = {
		TEST(a_second_read_does_not_reach_the_store),
		TEST(a_small_read_brings_its_page),
		TEST(holes_are_read_in_few_runs),
		TEST(flags_bypass),
		TEST(nothing_is_cached_from_memory_of_others),
		TEST(a_write_replaces_what_was_cached),
		TEST(a_truncated_store_is_not_hidden),
		TEST(a_truncated_source_is_not_hidden),
		TEST(prefetch_fills_the_cache),
		TEST(a_sequential_reader_hits),
		TEST(a_sequential_reader_of_sectors_hits),
		TEST(several_streams_at_once),
		TEST(what_does_not_come_again_is_not_kept),
		TEST(a_random_reader_reads_nothing_ahead),
	};
	const struct CMUnitTest together[] = {
		TEST(concurrent_misses_read_once),
		TEST(who_waited_for_a_failure_reads_itself),
		cmocka_unit_test(no_stale_or_torn_sector),
		cmocka_unit_test(growing_shows_no_old_end),
	};
	struct CMUnitTest run[sizeof(each_way) / sizeof(each_way[0])];
	int failed = 0;

	harness_cached = true;
	for (int w = 0; w < 2; w++) {
		memcpy(run, each_way, sizeof(run));
		for (size_t i = 0; i < sizeof(run) / sizeof(run[0]); i++)
			run[i].initial_state = (void *)(uintptr_t)&ways[w];
		failed += cmocka_run_group_tests_name(w ? "by a reactor" : "by a thread", run, NULL,
						      NULL);
	}
	memcpy(run, together, sizeof(together));
	for (int i = 0; i < 2; i++)
		run[i].initial_state = (void *)(uintptr_t)&ways[WAY_SYNC];
	memcpy(run + 2, together + 2, 2 * sizeof(run[0]));
	failed += _cmocka_run_group_tests("side by side", run, 4, NULL, NULL);
	harness_stop();
	return failed;
}
