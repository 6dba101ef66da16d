/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Many threads on one LUN, half of them through a reactor: indivisible ops stay so, and copies in
 * all directions come to an end. */
#include "harness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 4
#define ADDS	300
#define COPIES	60

static struct lun *lun, *other;

struct waiter {
	struct lun_io io;
	struct reactor_msg msg;
	struct lun *lun;
	sem_t sem;
};

static void on_done(struct lun_io *io)
{
	sem_post(&container_of(io, struct waiter, io)->sem);
}

static void on_reactor(struct reactor_msg *m)
{
	struct waiter *w = container_of(m, struct waiter, msg);

	lun_submit(w->lun, &w->io);
}

/* Like do_io(), but for many threads at once. */
static int run(struct lun *l, struct lun_io *io, bool async)
{
	struct waiter w = {.io = *io, .msg.fn = on_reactor, .lun = l};

	if (!async)
		return lun_run(l, io);
	w.io.reactor = harness_reactor();
	w.io.done = on_done;
	sem_init(&w.sem, 0, 0);
	reactor_post(w.io.reactor, &w.msg);
	while (sem_wait(&w.sem))
		;
	return w.io.err;
}

/* Adds one to the number in the first block, by compare and write. */
static void add_one(bool async, uint8_t *buf)
{
	int err;

	do {
		struct iovec v = {buf, 1024};
		struct iovec half = {buf, 512};
		struct lun_io rd = {
			.op = LUN_READ, .len = 512, .iov = &half, .niov = 1, .reg_index = -1};
		struct lun_io caw = {.op = LUN_COMPARE_AND_WRITE,
				     .len = 512,
				     .iov = &v,
				     .niov = 1,
				     .reg_index = -1};
		uint64_t n;

		assert_int_equal(run(lun, &rd, async), 0);
		memcpy(buf + 512, buf, 512);
		memcpy(&n, buf, sizeof(n));
		n++;
		memcpy(buf + 512, &n, sizeof(n));
		err = run(lun, &caw, async);
	} while (err == -EILSEQ);
	assert_int_equal(err, 0);
}

static void *adder(void *arg)
{
	uint8_t *buf = aligned_alloc(4096, 4096);

	for (int i = 0; i < ADDS; i++)
		add_one((uintptr_t)arg % 2, buf);
	free(buf);
	return NULL;
}

static void run_threads(void *(*fn)(void *))
{
	pthread_t t[THREADS];

	harness_reactor();
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, fn, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
}

static void no_compare_and_write_is_lost(void **state)
{
	uint8_t buf[512];
	uint64_t n;

	for (int mode = BLOCK_MODE_DIRECT; mode <= BLOCK_MODE_BUFFERED; mode++) {
		lun = make_lun("caw", (enum block_mode)mode, 1u << 20);
		run_threads(adder);
		assert_int_equal(do_read(lun, WAY_SYNC, 0, buf, sizeof(buf)), 0);
		memcpy(&n, buf, sizeof(n));
		assert_int_equal(n, THREADS * ADDS);
		lun_unref(lun);
	}
}

/* Writers of atomic writes of one byte value; readers must see one value only. */
#define ATOMIC_LEN (192u << 10)

static void *atomic_writer(void *arg)
{
	uint8_t *buf = aligned_alloc(4096, ATOMIC_LEN);

	for (int i = 0; i < 100; i++) {
		struct iovec v = {buf, ATOMIC_LEN};
		struct lun_io io = {.op = (uintptr_t)arg < 2 ? LUN_WRITE : LUN_READ,
				    .flags = LUN_IO_ATOMIC,
				    .off = 512,
				    .len = ATOMIC_LEN,
				    .iov = &v,
				    .niov = 1,
				    .reg_index = -1};

		if (io.op == LUN_WRITE)
			memset(buf, i * 2 + (int)(uintptr_t)arg, ATOMIC_LEN);
		assert_int_equal(run(lun, &io, (uintptr_t)arg % 2), 0);
		assert_memory_equal(buf, buf + 1, ATOMIC_LEN - 1);
	}
	free(buf);
	return NULL;
}

static void atomic_writes_are_never_seen_in_part(void **state)
{
	lun = make_lun("atomic", BLOCK_MODE_AUTO, 1u << 20);
	run_threads(atomic_writer);
	lun_unref(lun);
}

/* Plain writes and reads of many blocks: each block a reader sees is of one write. */
#define BLOCKS_LEN (64u << 10)

static void *block_writer(void *arg)
{
	uint8_t *buf = aligned_alloc(4096, BLOCKS_LEN);

	for (int i = 0; i < 1500; i++) {
		struct iovec v = {buf, BLOCKS_LEN};
		struct lun_io io = {.op = (uintptr_t)arg < 2 ? LUN_WRITE : LUN_READ,
				    .len = BLOCKS_LEN,
				    .iov = &v,
				    .niov = 1,
				    .reg_index = -1};

		if (io.op == LUN_WRITE)
			memset(buf, i * 2 + (int)(uintptr_t)arg, BLOCKS_LEN);
		assert_int_equal(run(lun, &io, (uintptr_t)arg % 2), 0);
		for (unsigned b = 0; b < BLOCKS_LEN; b += lun_block_size(lun))
			assert_memory_equal(buf + b, buf + b + 1, lun_block_size(lun) - 1);
	}
	free(buf);
	return NULL;
}

static void no_reader_sees_half_a_block(void **state)
{
	lun = make_lun("blocks", BLOCK_MODE_BUFFERED, 1u << 20);
	run_threads(block_writer);
	lun_unref(lun);
}

/* Neighbours in one unit of direct I/O: each thread owns every fourth run of 100 bytes. */
static void *neighbour(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;
	uint8_t buf[100];

	for (unsigned i = 0; i < 400; i++) {
		unsigned slot = (i * 7 % 100) * THREADS + me;
		struct iovec v = {buf, sizeof(buf)};
		struct lun_io io = {.op = LUN_WRITE,
				    .off = slot * 100,
				    .len = 100,
				    .iov = &v,
				    .niov = 1,
				    .reg_index = -1};

		memset(buf, (int)(slot % 251) + 1, sizeof(buf));
		assert_int_equal(run(lun, &io, me % 2), 0);
	}
	return NULL;
}

static void neighbours_in_one_unit_do_not_hurt_each_other(void **state)
{
	uint8_t buf[100];

	lun = make_lun("unit", BLOCK_MODE_DIRECT, 1u << 20);
	run_threads(neighbour);
	for (unsigned slot = 0; slot < 100 * THREADS; slot++) {
		assert_int_equal(do_read(lun, WAY_SYNC, slot * 100, buf, 100), 0);
		for (int i = 0; i < 100; i++)
			assert_int_equal(buf[i], slot % 251 + 1);
	}
	lun_unref(lun);
}

/* Copies within and between two LUNs, with indivisible ops queueing in between: the recipe for a
 * deadlock. That this returns is the test. */
static void *copier(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg + 1;
	uint8_t *buf = aligned_alloc(4096, 8192);

	for (int i = 0; i < COPIES; i++) {
		struct lun *from = rand_r(&seed) % 2 ? lun : other;
		struct lun *to = rand_r(&seed) % 2 ? lun : other;
		struct iovec v = {buf, 8192};
		struct lun_io copy = {.op = LUN_COPY,
				      .off = (uint64_t)(rand_r(&seed) % 40) * 4096,
				      .len = 65536,
				      .src = from,
				      .src_off = (uint64_t)(rand_r(&seed) % 40) * 4096,
				      .reg_index = -1};
		struct lun_io or = {.op = LUN_OR_WRITE,
				    .off = (uint64_t)(rand_r(&seed) % 50) * 4096,
				    .len = 8192,
				    .iov = &v,
				    .niov = 1,
				    .reg_index = -1};

		memset(buf, 0, 8192);
		assert_int_equal(run(to, &copy, (uintptr_t)arg % 2), 0);
		assert_int_equal(run(from, & or, (uintptr_t)arg % 2), 0);
	}
	free(buf);
	return NULL;
}

static void copies_in_all_directions_end(void **state)
{
	lun = make_lun("copy1", BLOCK_MODE_AUTO, 1u << 20);
	other = make_lun("copy2", BLOCK_MODE_AUTO, 1u << 20);
	run_threads(copier);
	lun_unref(lun);
	lun_unref(other);
}

/* --- what is settled is told before anybody else gets the range --- */

static struct waiter first, second;
static uint8_t byte_one[4096], byte_two[4096];
static struct iovec iov_one = {byte_one, 4096}, iov_two = {byte_two, 4096};
static bool second_done;

static void second_is_done(struct lun_io *io)
{
	second_done = true;
	on_done(io);
}

/** Holds the range still: an op that overlaps must wait. */
static void first_is_settled(struct lun_io *io)
{
	uint64_t conflicts = metric_read(&lun_counters(lun)->conflicts);

	assert_int_equal(io->err, 0);
	lun_submit(lun, &second.io);
	assert_int_equal(metric_read(&lun_counters(lun)->conflicts), conflicts + 1);
}

static void first_is_done(struct lun_io *io)
{
	assert_false(second_done);
	on_done(io);
}

static void settled_comes_before_the_next_in_the_range(void **state)
{
	struct lun_io write = {
		.op = LUN_WRITE, .off = 4096, .len = 4096, .niov = 1, .reg_index = -1};

	lun = make_lun("settled", BLOCK_MODE_AUTO, 1u << 20);
	memset(byte_one, 1, 4096);
	memset(byte_two, 2, 4096);
	second_done = false;
	first = (struct waiter){.io = write, .msg.fn = on_reactor, .lun = lun};
	second = (struct waiter){.io = write};
	first.io.iov = &iov_one;
	second.io.iov = &iov_two;
	first.io.reactor = second.io.reactor = harness_reactor();
	first.io.settled = first_is_settled;
	first.io.done = first_is_done;
	second.io.done = second_is_done;
	sem_init(&first.sem, 0, 0);
	sem_init(&second.sem, 0, 0);
	reactor_post(first.io.reactor, &first.msg);
	while (sem_wait(&second.sem))
		;
	assert_int_equal(do_read(lun, WAY_SYNC, 4096, byte_one, 4096), 0);
	assert_memory_equal(byte_one, byte_two, 4096);
	lun_unref(lun);
}

static void count_settled(struct lun_io *io)
{
	assert_int_equal(io->err, -EINVAL);
	sem_post(&second.sem);
}

static void what_is_refused_is_settled_too(void **state)
{
	struct lun_io past = {.op = LUN_WRITE,
			      .off = 1u << 20,
			      .len = 4096,
			      .iov = &iov_one,
			      .niov = 1,
			      .reg_index = -1,
			      .settled = count_settled};

	lun = make_lun("refused", BLOCK_MODE_AUTO, 1u << 20);
	sem_init(&second.sem, 0, 0);
	assert_int_equal(run(lun, &past, true), -EINVAL);
	assert_int_equal(sem_trywait(&second.sem), 0);
	lun_unref(lun);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_compare_and_write_is_lost),
		cmocka_unit_test(atomic_writes_are_never_seen_in_part),
		cmocka_unit_test(no_reader_sees_half_a_block),
		cmocka_unit_test(neighbours_in_one_unit_do_not_hurt_each_other),
		cmocka_unit_test(copies_in_all_directions_end),
		cmocka_unit_test(settled_comes_before_the_next_in_the_range),
		cmocka_unit_test(what_is_refused_is_settled_too),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	harness_cached = true;
	failed += cmocka_run_group_tests_name("with the cache", tests, NULL, NULL);
	harness_stop();
	return failed;
}
