/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A store in memory that fails on demand: every errno reaches the caller as itself, from every op,
 * by both ways in, and leaves nothing locked or allocated behind. */
#include "fake_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Block ops that each LUN op may be failed by, and after how many good ones. */
static const struct {
	enum lun_op op;
	enum block_op on;
	int at;
} faults[] = {
	{LUN_READ, BLOCK_READ, 0},
	{LUN_WRITE, BLOCK_WRITE, 0},
	{LUN_FLUSH, BLOCK_FLUSH, 0},
	{LUN_UNMAP, BLOCK_DISCARD, 0},
	{LUN_ZERO, BLOCK_ZERO, 0},
	{LUN_WRITE_SAME, BLOCK_WRITE, 0},
	{LUN_WRITE_SAME, BLOCK_WRITE, 2},
	{LUN_VERIFY, BLOCK_READ, 0},
	{LUN_VERIFY, BLOCK_READ, 3},
	{LUN_COMPARE_AND_WRITE, BLOCK_READ, 1},
	{LUN_COMPARE_AND_WRITE, BLOCK_WRITE, 0},
	{LUN_OR_WRITE, BLOCK_READ, 1},
	{LUN_OR_WRITE, BLOCK_WRITE, 1},
	{LUN_COPY, BLOCK_COPY, 0},
	{LUN_COPY, BLOCK_READ, 0},
	{LUN_COPY, BLOCK_WRITE, 0},
	{LUN_STATUS, BLOCK_STATUS, 0},
	{LUN_PREFETCH, BLOCK_PREFETCH, 0},
};

static const int errnos[] = {-EIO, -ENOSPC, -EROFS, -ENODATA, -ENOMEM, -ETIMEDOUT};

static void every_errno_reaches_the_caller(void **state)
{
	uint8_t *buf = malloc(FAKE_SIZE);
	struct block_extent ext[4];
	struct lun *lun;
	struct fake *f = make_fake(&lun, false);

	for (int way = WAY_SYNC; way <= WAY_ASYNC; way++)
		for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
			for (size_t e = 0; e < sizeof(errnos) / sizeof(errnos[0]); e++) {
				struct iovec v = {buf, FAKE_SIZE};
				struct lun_io io = {.op = faults[i].op,
						    .len = 1u << 20,
						    .iov = &v,
						    .niov = 1,
						    .reg_index = -1,
						    .pattern_len = 512,
						    .src = lun,
						    .src_off = 2u << 20,
						    .extents = ext,
						    .n_extents = 4};

				/* Nothing is cached: the store is asked. */
				assert_int_equal(
					do_range(lun, WAY_SYNC, LUN_UNMAP, 0, 0, FAKE_SIZE), 0);
				memset(buf, 1, FAKE_SIZE);
				memset(f->data, 1, FAKE_SIZE);
				f->err = errnos[e];
				f->on = faults[i].on;
				if (f->on == BLOCK_PREFETCH && harness_cached)
					f->on = BLOCK_READ;
				f->at = faults[i].at;
				assert_int_equal(do_io(lun, &io, (enum way)way), errnos[e]);
				assert_int_equal(f->at, -1); /* the fault was met */
				/* The same again, with no fault: nothing stayed locked. */
				f->err = 0;
				if (io.op == LUN_STATUS)
					io.n_extents = 4;
				assert_int_equal(do_io(lun, &io, (enum way)way), 0);
			}
	assert_int_equal(metric_read(&lun_counters(lun)->inflight), 0);
	lun_unref(lun);
	free(buf);
}

static const enum lun_op writes[] = {LUN_WRITE,
				     LUN_ZERO,
				     LUN_UNMAP,
				     LUN_WRITE_SAME,
				     LUN_COPY,
				     LUN_OR_WRITE,
				     LUN_COMPARE_AND_WRITE};
#define N_WRITES (sizeof(writes) / sizeof(writes[0]))

static void fua_reaches_every_write_of_the_store(void **state)
{
	uint8_t *buf = malloc(8192);
	struct lun *lun;
	struct fake *f = make_fake(&lun, false);

	for (int way = WAY_SYNC; way <= WAY_ASYNC; way++)
		for (size_t i = 0; i < N_WRITES; i++) {
			struct iovec v = {buf, 8192};
			struct lun_io io = {.op = writes[i],
					    .flags = LUN_IO_FUA,
					    .len = 4096,
					    .iov = &v,
					    .niov = 1,
					    .reg_index = -1,
					    .pattern_len = 512,
					    .src = lun,
					    .src_off = 65536};

			memset(buf, 7, 8192);
			memset(f->data, 7, FAKE_SIZE);
			assert_int_equal(do_io(lun, &io, (enum way)way), 0);
			assert_true(f->last_flags & BLOCK_FUA);
		}
	lun_unref(lun);
	free(buf);
}

static void a_read_only_lun_takes_no_write(void **state)
{
	uint8_t buf[1024] = {0};
	struct lun *lun;
	struct fake *f = make_fake(&lun, true);

	assert_true(lun_read_only(lun));
	for (int way = WAY_SYNC; way <= WAY_ASYNC; way++) {
		for (size_t i = 0; i < N_WRITES; i++) {
			struct iovec v = {buf, sizeof(buf)};
			struct lun_io io = {.op = writes[i],
					    .flags = LUN_IO_AUTHORIZED,
					    .len = 512,
					    .iov = &v,
					    .niov = 1,
					    .reg_index = -1,
					    .pattern_len = 512,
					    .src = lun};

			assert_int_equal(do_io(lun, &io, (enum way)way), -EROFS);
		}
		assert_int_equal(do_read(lun, (enum way)way, 0, buf, 512), 0);
		assert_int_equal(do_range(lun, (enum way)way, LUN_FLUSH, 0, 0, 0), 0);
	}
	assert_int_equal(f->calls[BLOCK_WRITE] + f->calls[BLOCK_ZERO] + f->calls[BLOCK_DISCARD] +
				 f->calls[BLOCK_COPY],
			 0);
	lun_unref(lun);
}

/* Of a fake store that is compared and written: how often, and what it had been asked by then. */
static struct fake *matched_on;
static int matches, writes_at_match;

static void on_match(struct lun_io *io)
{
	matches++;
	writes_at_match = matched_on->calls[BLOCK_WRITE];
}

static void what_compares_equal_is_told_before_it_is_written(void **state)
{
	uint8_t buf[1024] = {0};
	struct iovec v = {buf, sizeof(buf)};
	struct lun_io io = {.op = LUN_COMPARE_AND_WRITE,
			    .len = 512,
			    .iov = &v,
			    .niov = 1,
			    .reg_index = -1,
			    .matched = on_match};
	struct lun *lun;

	matched_on = make_fake(&lun, false);
	matches = 0;
	for (int way = WAY_SYNC; way <= WAY_ASYNC; way++) {
		assert_int_equal(do_io(lun, &io, (enum way)way), 0);
		assert_int_equal(matches, way + 1);
		assert_int_equal(writes_at_match, way);
		assert_int_equal(matched_on->calls[BLOCK_WRITE], way + 1);
	}
	lun_unref(lun);
}

static void a_failed_compare_does_not_write(void **state)
{
	uint8_t buf[1024];
	struct iovec v = {buf, sizeof(buf)};
	struct lun_io io = {.op = LUN_COMPARE_AND_WRITE,
			    .len = 512,
			    .iov = &v,
			    .niov = 1,
			    .reg_index = -1,
			    .matched = on_match};
	struct lun *lun;
	struct fake *f = make_fake(&lun, false);

	memset(buf, 9, sizeof(buf));
	matches = 0;
	for (int way = WAY_SYNC; way <= WAY_ASYNC; way++) {
		assert_int_equal(do_io(lun, &io, (enum way)way), -EILSEQ);
		assert_int_equal(io.miscompare_off, 0);
	}
	assert_int_equal(matches, 0);
	assert_int_equal(f->calls[BLOCK_WRITE], 0);
	assert_int_equal(metric_read(&lun_counters(lun)->errors[LUN_CLASS_WRITE]), 0);
	lun_unref(lun);
}

static void malformed_ops_are_refused(void **state)
{
	uint8_t buf[512] = {0};
	struct iovec v = {buf, sizeof(buf)};
	struct lun_io io = {.op = LUN_COMPARE_AND_WRITE,
			    .len = 512, /* wants 1024 bytes of data */
			    .iov = &v,
			    .niov = 1,
			    .reg_index = -1};
	struct lun *lun;
	struct fake *f = make_fake(&lun, false);

	assert_int_equal(lun_run(lun, &io), -EINVAL);
	io.op = LUN_OR_WRITE;
	io.len = 1024;
	assert_int_equal(lun_run(lun, &io), -EINVAL);
	io.op = LUN_WRITE_SAME;
	io.pattern_len = 0;
	assert_int_equal(lun_run(lun, &io), -EINVAL);
	io.op = LUN_COPY;
	io.src = NULL;
	assert_int_equal(lun_run(lun, &io), -EINVAL);
	for (int i = 0; i <= BLOCK_PREFETCH; i++)
		assert_int_equal(f->calls[i], 0);
	lun_unref(lun);
}

/* --- order, seen from outside --- */

struct shot {
	struct reactor_msg msg;
	struct fake *f;
	struct lun *lun;
	struct lun_io first, second;
	struct iovec v;
	bool second_early, first_done;
	sem_t sem;
};

static struct shot *shot;

static void first_done(struct lun_io *io)
{
	shot->first_done = true;
}

static void second_done(struct lun_io *io)
{
	shot->second_early = !shot->first_done;
	sem_post(&shot->sem);
}

static void shoot(struct reactor_msg *m)
{
	struct shot *s = container_of(m, struct shot, msg);

	s->f->hold = true;
	lun_submit(s->lun, &s->first);
	assert_non_null(s->f->held);
	lun_submit(s->lun, &s->second);
	s->f->held->done(s->f->held, 0);
	sem_post(&s->sem);
}

/* Both are done, and the reactor has let go of both. */
static void wait_for_both(struct shot *s)
{
	for (int i = 0; i < 2; i++)
		while (sem_wait(&s->sem))
			;
}

static void an_overlapping_write_waits_for_the_first(void **state)
{
	uint8_t buf[1024] = {0};
	struct shot s = {.msg.fn = shoot, .v = {buf, sizeof(buf)}};

	shot = &s;
	s.f = make_fake(&s.lun, false);
	sem_init(&s.sem, 0, 0);
	s.first = (struct lun_io){.op = LUN_WRITE,
				  .len = 512,
				  .iov = &s.v,
				  .niov = 1,
				  .reg_index = -1,
				  .reactor = harness_reactor(),
				  .done = first_done};
	s.second = s.first;
	s.second.done = second_done;
	s.second.off = 511;
	s.second.len = 10;
	reactor_post(harness_reactor(), &s.msg);
	wait_for_both(&s);
	assert_false(s.second_early);
	assert_int_equal(metric_read(&lun_counters(s.lun)->conflicts), 1);
	/* A read beside a plain write does not wait. */
	s.first_done = false;
	s.second.op = LUN_READ;
	reactor_post(harness_reactor(), &s.msg);
	wait_for_both(&s);
	assert_true(s.second_early);
	/* Beside an atomic one it does. */
	s.first_done = false;
	s.first.flags = LUN_IO_ATOMIC;
	reactor_post(harness_reactor(), &s.msg);
	wait_for_both(&s);
	assert_false(s.second_early);
	lun_unref(s.lun);
}

/* --- no memory in the pool --- */

struct squeeze {
	struct reactor_msg msg;
	struct lun *lun;
	struct iobuf *hoard[64];
	int n;
	struct lun_io copy, or_;
	struct iovec v;
	bool copy_early, or_late;
	sem_t sem;
};

static struct squeeze *squeeze;

static void squeezed_or_done(struct lun_io *io)
{
	squeeze->or_late = false;
}

static void squeezed_copy_done(struct lun_io *io)
{
	squeeze->copy_early = squeeze->n > 0;
	sem_post(&squeeze->sem);
}

static void squeeze_pool(struct reactor_msg *m)
{
	struct squeeze *s = container_of(m, struct squeeze, msg);
	struct iobuf_pool *pool = reactor_iobufs(reactor_self());

	for (size_t len = IOBUF_MAX; len >= IOBUF_MIN; len /= 2)
		while (s->n < 64 && (s->hoard[s->n] = iobuf_get(pool, len)))
			s->n++;
	assert_true(s->n < 64);
	s->or_late = true;
	lun_submit(s->lun, &s->or_);
	assert_false(s->or_late); /* brings memory of its own: must not wait for the pool */
	lun_submit(s->lun, &s->copy);
	while (s->n)
		iobuf_put(s->hoard[--s->n]);
}

static void an_empty_pool_delays_but_does_not_fail(void **state)
{
	struct reactor_options opt = {.name = "small", .iobuf_limit = IOBUF_MAX};
	uint8_t *buf = calloc(1, 1u << 20);
	struct squeeze s = {.msg.fn = squeeze_pool, .v = {buf, 1u << 20}};
	struct reactor_set *set;

	squeeze = &s;
	make_fake(&s.lun, false);
	sem_init(&s.sem, 0, 0);
	assert_int_equal(reactor_set_start(1, &opt, &set), 0);
	s.copy = (struct lun_io){.op = LUN_COPY,
				 .len = 2u << 20,
				 .src = s.lun,
				 .src_off = 2u << 20,
				 .reg_index = -1,
				 .reactor = reactor_set_get(set, 0),
				 .done = squeezed_copy_done};
	s.or_ = (struct lun_io){.op = LUN_OR_WRITE,
				.len = 1u << 20,
				.iov = &s.v,
				.niov = 1,
				.reg_index = -1,
				.reactor = s.copy.reactor,
				.done = squeezed_or_done};
	reactor_post(s.copy.reactor, &s.msg);
	while (sem_wait(&s.sem))
		;
	reactor_set_stop(set);
	assert_int_equal(s.copy.err, 0);
	assert_int_equal(s.or_.err, 0);
	assert_false(s.copy_early);
	lun_unref(s.lun);
	free(buf);
}

static struct {
	unsigned n;
	enum lun_op op;
	uint64_t off, len;
	int err;
} told;

static void note_error(const struct lun *lun, const struct lun_io *io)
{
	assert_string_equal(lun_name(lun), "fake");
	told.n++;
	told.op = io->op;
	told.off = io->off;
	told.len = io->len;
	told.err = io->err;
}

static void errors_of_the_store_are_told_and_refusals_are_not(void **state)
{
	uint8_t buf[8192] = {0};
	struct iovec v = {buf, 4096}, both = {buf, 8192};
	struct lun *lun;
	struct fake *f = make_fake(&lun, false);

	lun_set_error_fn(note_error);
	for (int way = WAY_SYNC; way <= WAY_ASYNC; way++) {
		struct lun_io io = {.op = LUN_WRITE,
				    .off = 12288,
				    .len = 4096,
				    .iov = &v,
				    .niov = 1,
				    .reg_index = -1};
		struct lun_io cmp = io;

		memset(&told, 0, sizeof(told));
		f->err = -EIO;
		f->on = BLOCK_WRITE;
		f->at = 0;
		assert_int_equal(do_io(lun, &io, (enum way)way), -EIO);
		assert_int_equal(told.n, 1);
		assert_int_equal(told.op, LUN_WRITE);
		assert_int_equal(told.off, 12288);
		assert_int_equal(told.len, 4096);
		assert_int_equal(told.err, -EIO);
		f->err = 0;
		assert_int_equal(do_io(lun, &io, (enum way)way), 0);
		io.off = FAKE_SIZE;
		assert_int_equal(do_io(lun, &io, (enum way)way), -EINVAL);
		io.off = 0;
		lun_set_fence(lun, LUN_FENCE_WRITES);
		assert_int_equal(do_io(lun, &io, (enum way)way), -EPERM);
		lun_set_fence(lun, LUN_FENCE_NONE);
		memset(f->data, 1, 4096);
		cmp.op = LUN_COMPARE_AND_WRITE;
		cmp.off = 0;
		cmp.iov = &both;
		assert_int_equal(do_io(lun, &cmp, (enum way)way), -EILSEQ);
		assert_int_equal(told.n, 1);
	}
	lun_set_error_fn(NULL);
	lun_unref(lun);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_errno_reaches_the_caller),
		cmocka_unit_test(fua_reaches_every_write_of_the_store),
		cmocka_unit_test(a_read_only_lun_takes_no_write),
		cmocka_unit_test(what_compares_equal_is_told_before_it_is_written),
		cmocka_unit_test(a_failed_compare_does_not_write),
		cmocka_unit_test(malformed_ops_are_refused),
		cmocka_unit_test(an_overlapping_write_waits_for_the_first),
		cmocka_unit_test(an_empty_pool_delays_but_does_not_fail),
		cmocka_unit_test(errors_of_the_store_are_told_and_refusals_are_not),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	harness_cached = true;
	failed += cmocka_run_group_tests_name("with the cache", tests, NULL, NULL);
	harness_stop();
	return failed;
}
