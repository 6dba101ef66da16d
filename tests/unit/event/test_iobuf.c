/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "event/iobuf.h"
#include "event/reactor.h"

#define CHUNK ((uint64_t)IOBUF_MAX)

static struct iobuf_stats stats_of(struct iobuf_pool *p)
{
	struct iobuf_stats st;

	iobuf_pool_stats(p, &st);
	return st;
}

/* Without a running reactor the pool works too, unregistered: enough for the buddy scheme. */
static struct reactor *pool_make(uint64_t limit, struct iobuf_pool **ret_pool)
{
	struct reactor_options opt = {.iobuf_limit = limit};
	struct reactor *r;

	assert_int_equal(reactor_create(&opt, &r), 0);
	*ret_pool = reactor_iobufs(r);
	return r;
}

static void buffers_are_aligned_and_of_the_next_power_of_two(void **state)
{
	static const struct {
		size_t len;
		uint32_t cap;
	} want[] = {{1, 4096},
		    {4096, 4096},
		    {4097, 8192},
		    {8192, 8192},
		    {8193, 16384},
		    {100000, 131072},
		    {1 << 20, 1 << 20},
		    {(1 << 20) + 1, 2 << 20},
		    {IOBUF_MAX, IOBUF_MAX}};
	struct iobuf_pool *p;
	struct reactor *r = pool_make(64 << 20, &p);

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		struct iobuf *b = iobuf_get(p, want[i].len);

		assert_non_null(b);
		assert_int_equal(b->cap, want[i].cap);
		assert_int_equal((uintptr_t)b->data % 4096, 0);
		assert_int_equal(b->reg_index, -1);
		memset(b->data, 0x5a, b->cap);
		assert_int_equal(stats_of(p).used_bytes, b->cap);
		iobuf_put(b);
	}
	iobuf_put(NULL);
	assert_null(iobuf_get(p, IOBUF_MAX + 1));
	assert_int_equal(stats_of(p).used_bytes, 0);
	reactor_destroy(r);
}

/* Random gets and puts against a model: no two buffers overlap, and all memory comes back whole. */
static void random_use_never_overlaps_and_merges_back(void **state)
{
	enum { N = 600, LIMIT_CHUNKS = 8 };
	struct iobuf *held[N] = {NULL};
	struct iobuf_pool *p;
	struct reactor *r = pool_make(LIMIT_CHUNKS * CHUNK, &p);
	unsigned refused = 0;

	srandom(11);
	for (int step = 0; step < 200000; step++) {
		int i = (int)(random() % N);

		if (held[i]) {
			for (uint32_t k = 0; k < held[i]->cap; k += 4096)
				assert_int_equal(*(int *)(held[i]->data + k), i);
			iobuf_put(held[i]);
			held[i] = NULL;
			continue;
		}
		held[i] = iobuf_get(p, 1ul << (random() % 8 ? random() % 15 : random() % 23));
		refused += !held[i];
		for (uint32_t k = 0; held[i] && k < held[i]->cap; k += 4096)
			*(int *)(held[i]->data + k) = i;
		assert_true(stats_of(p).mapped_bytes <= LIMIT_CHUNKS * CHUNK);
	}
	assert_true(refused > 0);
	for (int i = 0; i < N; i++)
		iobuf_put(held[i]);
	assert_int_equal(stats_of(p).used_bytes, 0);
	/* Whole again: as many of the largest as the limit allows. */
	for (int i = 0; i < LIMIT_CHUNKS; i++)
		assert_non_null(held[i] = iobuf_get(p, IOBUF_MAX));
	assert_null(iobuf_get(p, 1));
	for (int i = 0; i < LIMIT_CHUNKS; i++)
		iobuf_put(held[i]);
	assert_int_equal(iobuf_pool_trim(p), LIMIT_CHUNKS * CHUNK);
	assert_int_equal(stats_of(p).mapped_bytes, 0);
	reactor_destroy(r);
}

static void one_page_makes_the_rest_available(void **state)
{
	struct iobuf_pool *p;
	struct reactor *r = pool_make(CHUNK, &p);
	struct iobuf *page = iobuf_get(p, 1), *b[10];

	assert_null(iobuf_get(p, IOBUF_MAX));
	for (int i = 0; i < 10; i++) /* 2 MiB, 1 MiB, ... 4 KiB */
		assert_non_null(b[i] = iobuf_get(p, (2u << 20) >> i));
	assert_null(iobuf_get(p, 1));
	iobuf_put(page);
	for (int i = 0; i < 10; i++)
		iobuf_put(b[i]);
	assert_non_null(page = iobuf_get(p, IOBUF_MAX));
	iobuf_put(page);
	reactor_destroy(r);
}

static void lowered_limit_gives_memory_back_as_it_becomes_free(void **state)
{
	struct iobuf_pool *p;
	struct reactor *r = pool_make(4 * CHUNK, &p);
	struct iobuf *b[4];

	for (int i = 0; i < 4; i++)
		b[i] = iobuf_get(p, IOBUF_MAX);
	iobuf_put(b[3]);
	iobuf_pool_set_limit(p, CHUNK);
	assert_int_equal(stats_of(p).mapped_bytes, 3 * CHUNK);
	iobuf_put(b[0]);
	assert_int_equal(stats_of(p).mapped_bytes, 2 * CHUNK);
	iobuf_put(b[1]);
	assert_int_equal(stats_of(p).mapped_bytes, CHUNK);
	iobuf_put(b[2]);
	assert_int_equal(stats_of(p).mapped_bytes, CHUNK);
	assert_int_equal(stats_of(p).returned_bytes, 3 * CHUNK);
	reactor_destroy(r);
}

/* --- on a running reactor --- */

struct boot {
	struct reactor_msg msg;
	void (*fn)(struct reactor *r);
};

static void boot_run(struct reactor_msg *m)
{
	container_of(m, struct boot, msg)->fn(reactor_self());
}

static void run_with(uint64_t limit, void (*fn)(struct reactor *r))
{
	struct boot b = {.msg.fn = boot_run, .fn = fn};
	struct iobuf_pool *p;
	struct reactor *r = pool_make(limit, &p);

	reactor_post(r, &b.msg);
	assert_int_equal(reactor_run(r), 0);
	reactor_destroy(r);
}

/* --- waiters --- */

static struct {
	struct reactor *r;
	struct iobuf *whole;
	struct waiting {
		struct iobuf_waiter w;
		size_t len;
		struct iobuf *got;
		int calls;
	} wait[6];
	int order[8], n_order;
	struct reactor_timer step;
	int steps;
} wt;

static void waiting_try(struct iobuf_waiter *w)
{
	struct waiting *x = container_of(w, struct waiting, w);

	x->calls++;
	x->got = iobuf_get(reactor_iobufs(wt.r), x->len);
	if (x->got)
		wt.order[wt.n_order++] = (int)(x - wt.wait);
	else
		iobuf_wait(reactor_iobufs(wt.r), w);
}

static void waiters_step(struct reactor_timer *t)
{
	switch (wt.steps++) {
	case 0:
		assert_int_equal(wt.n_order, 0);
		iobuf_wait_cancel(&wt.wait[2].w);
		iobuf_put(wt.whole);
		assert_int_equal(wt.n_order, 0); /* not from within the put */
		break;
	case 1:
		/* In order; 3 does not fit beside 0 and 1, what is smaller passes it. */
		assert_int_equal(wt.n_order, 4);
		assert_int_equal(wt.order[0], 0);
		assert_int_equal(wt.order[1], 1);
		assert_int_equal(wt.order[2], 4);
		assert_int_equal(wt.order[3], 5);
		assert_int_equal(wt.wait[2].calls, 0);
		assert_null(wt.wait[3].got);
		iobuf_put(wt.wait[0].got);
		iobuf_put(wt.wait[1].got);
		break;
	case 2:
		assert_int_equal(wt.n_order, 4);
		iobuf_put(wt.wait[4].got);
		iobuf_put(wt.wait[5].got);
		break;
	default:
		assert_int_equal(wt.n_order, 5);
		assert_int_equal(wt.order[4], 3);
		iobuf_put(wt.wait[3].got);
		assert_true(stats_of(reactor_iobufs(wt.r)).waits >= 6);
		reactor_stop(wt.r);
		return;
	}
	reactor_timer_arm(wt.r, t, reactor_now(wt.r) + NSEC_PER_MSEC);
}

static void waiters_begin(struct reactor *r)
{
	static const size_t len[] = {1 << 20, 1 << 20, 4096, IOBUF_MAX, 4096, 8192};

	memset(&wt, 0, sizeof(wt));
	wt.r = r;
	wt.whole = iobuf_get(reactor_iobufs(r), IOBUF_MAX);
	assert_non_null(wt.whole);
	for (int i = 0; i < 6; i++) {
		wt.wait[i].len = len[i];
		iobuf_waiter_init(&wt.wait[i].w, waiting_try);
		assert_null(iobuf_get(reactor_iobufs(r), len[i]));
		iobuf_wait(reactor_iobufs(r), &wt.wait[i].w);
	}
	reactor_timer_init(&wt.step, waiters_step);
	reactor_timer_arm(r, &wt.step, reactor_now(r) + NSEC_PER_MSEC);
}

/* What is put while somebody waits is not for who comes before the waiter has had its turn. */
static void newcomer_step(struct reactor_timer *t)
{
	struct iobuf_pool *p = reactor_iobufs(wt.r);
	struct iobuf *small;

	if (wt.steps++ == 0) {
		iobuf_put(wt.whole);
		assert_null(iobuf_get(p, 8192));
		small = iobuf_get(p, 4096); /* nobody waits for so little */
		assert_non_null(small);
		iobuf_put(small);
		reactor_timer_arm(wt.r, t, reactor_now(wt.r) + NSEC_PER_MSEC);
		return;
	}
	assert_non_null(wt.wait[0].got);
	small = iobuf_get(p, 8192); /* nobody waits any more */
	assert_non_null(small);
	iobuf_put(small);
	iobuf_put(wt.wait[0].got);
	reactor_stop(wt.r);
}

static void newcomer_begin(struct reactor *r)
{
	memset(&wt, 0, sizeof(wt));
	wt.r = r;
	wt.whole = iobuf_get(reactor_iobufs(r), IOBUF_MAX);
	wt.wait[0].len = 8192;
	iobuf_waiter_init(&wt.wait[0].w, waiting_try);
	assert_null(iobuf_get(reactor_iobufs(r), 8192));
	iobuf_wait(reactor_iobufs(r), &wt.wait[0].w);
	reactor_timer_init(&wt.step, newcomer_step);
	reactor_timer_arm(r, &wt.step, reactor_now(r) + NSEC_PER_MSEC);
}

static void who_waits_comes_before_who_comes(void **state)
{
	run_with(CHUNK, newcomer_begin);
	assert_int_equal(wt.steps, 2);
}

static void waiters_are_served_in_order(void **state)
{
	run_with(CHUNK, waiters_begin);
	assert_int_equal(wt.steps, 4);
}

/* --- giving back --- */

static struct {
	struct reactor *r;
	struct reactor_timer t;
	struct iobuf *keep;
	uint64_t turns;
	int steps;
} gb;

static void give_back_step(struct reactor_timer *t)
{
	struct iobuf_stats st = stats_of(reactor_iobufs(gb.r));
	struct reactor_stats rs;

	reactor_stats(gb.r, &rs);
	switch (gb.steps++) {
	case 0:
		/* The chunk in use stays, the idle one has gone. */
		assert_int_equal(st.mapped_bytes, CHUNK);
		assert_int_equal(st.returned_bytes, CHUNK);
		gb.turns = rs.turns;
		reactor_timer_arm(gb.r, t, reactor_now(gb.r) + 6 * NSEC_PER_SEC);
		return;
	default:
		/* With nothing to give back, no timer runs: this turn is the only one. */
		assert_int_equal(st.mapped_bytes, CHUNK);
		assert_int_equal(rs.turns, gb.turns + 1);
		iobuf_put(gb.keep);
		reactor_stop(gb.r);
	}
}

static void give_back_begin(struct reactor *r)
{
	struct iobuf *b;

	gb.r = r;
	assert_non_null(gb.keep = iobuf_get(reactor_iobufs(r), IOBUF_MAX));
	assert_non_null(b = iobuf_get(reactor_iobufs(r), 4096));
	assert_int_equal(stats_of(reactor_iobufs(r)).mapped_bytes, 2 * CHUNK);
	iobuf_put(b);
	reactor_timer_init(&gb.t, give_back_step);
	reactor_timer_arm(r, &gb.t, reactor_now(r) + 5500 * NSEC_PER_MSEC);
}

static void idle_memory_is_given_back_and_then_nothing_ticks(void **state)
{
	run_with(8 * CHUNK, give_back_begin);
	assert_int_equal(gb.steps, 2);
}

/* --- registration --- */

static struct {
	struct reactor *r;
	struct iobuf *b[4];
	struct reactor_op op;
	int fd, res;
} rg;

static void registered_read_done(struct reactor_op *op, int res, uint32_t flags)
{
	rg.res = res;
	for (int i = 0; i < 4; i++)
		iobuf_put(rg.b[i]);
	reactor_stop(rg.r);
}

static void registered_begin(struct reactor *r)
{
	struct iobuf_stats st;

	rg.r = r;
	rg.op.done = registered_read_done;
	assert_non_null(rg.b[0] = iobuf_get(reactor_iobufs(r), 4096));
	assert_non_null(rg.b[1] = iobuf_get(reactor_iobufs(r), 8192));
	assert_non_null(rg.b[2] = iobuf_get(reactor_iobufs(r), IOBUF_MAX));
	assert_non_null(rg.b[3] = iobuf_get(reactor_iobufs(r), IOBUF_MAX));
	st = stats_of(reactor_iobufs(r));
	if (rg.b[1]->reg_index >= 0) {
		assert_true(st.registered_bytes >= CHUNK);
		assert_int_equal(rg.b[0]->reg_index, rg.b[1]->reg_index);
		io_uring_prep_read_fixed(reactor_sqe(r, &rg.op), rg.fd, rg.b[1]->data, 8192, 0,
					 rg.b[1]->reg_index);
	} else {
		assert_int_equal(st.registered_bytes, 0);
		io_uring_prep_read(reactor_sqe(r, &rg.op), rg.fd, rg.b[1]->data, 8192, 0);
	}
}

static void registered_or_not_the_buffer_serves_io(void **state)
{
	struct rlimit old, none = {0, 0};
	char path[] = "/tmp/ebb-iobuf-XXXXXX";

	rg.fd = mkstemp(path);
	unlink(path);
	assert_int_equal(ftruncate(rg.fd, 8192), 0);
	getrlimit(RLIMIT_MEMLOCK, &old);
	none.rlim_max = old.rlim_max;
	for (int locked = 1; locked >= 0; locked--) {
		if (!locked) /* nothing can be registered: used all the same */
			setrlimit(RLIMIT_MEMLOCK, &none);
		run_with(8 * CHUNK, registered_begin);
		assert_int_equal(rg.res, 8192);
	}
	setrlimit(RLIMIT_MEMLOCK, &old);
	close(rg.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buffers_are_aligned_and_of_the_next_power_of_two),
		cmocka_unit_test(random_use_never_overlaps_and_merges_back),
		cmocka_unit_test(one_page_makes_the_rest_available),
		cmocka_unit_test(lowered_limit_gives_memory_back_as_it_becomes_free),
		cmocka_unit_test(waiters_are_served_in_order),
		cmocka_unit_test(who_waits_comes_before_who_comes),
		cmocka_unit_test(idle_memory_is_given_back_and_then_nothing_ticks),
		cmocka_unit_test(registered_or_not_the_buffer_serves_io),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
