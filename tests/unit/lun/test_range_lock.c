/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The range lock: what conflicts, who is first, pairs; and many threads against a plain model. */
#include "harness.h"

#include <stdlib.h>
#include <string.h>

static sem_t granted;

static void on_granted(struct range_lock_req *q)
{
	sem_post(&granted);
}

/* q has been granted: the message to the reactor is on its way, and q must live until then. */
static bool told(const struct range_lock_req *q)
{
	if (!q->held)
		return false;
	while (sem_wait(&granted))
		;
	return true;
}

static bool take(struct range_lock *rl, struct range_lock_req *q, enum range_lock_mode mode,
		 uint64_t off, uint64_t len)
{
	return range_lock_acquire(rl, q, mode, off, len, harness_reactor(), on_granted);
}

static void modes_conflict_as_the_table_says(void **state)
{
	static const bool compatible[3][3] = {{true, true, false}, {true, false, false}, {0}};
	struct range_lock rl;
	struct range_lock_req a, b;

	range_lock_init(&rl, 1);
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < 3; j++) {
			assert_true(take(&rl, &a, (enum range_lock_mode)i, 100, 100));
			assert_int_equal(take(&rl, &b, (enum range_lock_mode)j, 199, 1),
					 compatible[i][j]);
			range_lock_release(&rl, &a);
			assert_true(compatible[i][j] ? b.held : told(&b));
			range_lock_release(&rl, &b);
			assert_true(take(&rl, &a, (enum range_lock_mode)i, 100, 100));
			assert_true(take(&rl, &b, (enum range_lock_mode)j, 200, 1));
			range_lock_release(&rl, &a);
			range_lock_release(&rl, &b);
		}
	range_lock_destroy(&rl);
}

static void writers_are_widened_to_the_unit(void **state)
{
	struct range_lock rl;
	struct range_lock_req a, b, c, d;

	range_lock_init(&rl, 4096);
	assert_true(take(&rl, &a, RANGE_EXCLUSIVE, 512, 512));
	assert_false(take(&rl, &b, RANGE_EXCLUSIVE, 2048, 512));
	assert_true(take(&rl, &c, RANGE_EXCLUSIVE, 4096, 1));
	assert_true(take(&rl, &d, RANGE_SHARED, 0, 8192));
	range_lock_release(&rl, &a);
	assert_true(told(&b));
	range_lock_release(&rl, &b);
	range_lock_release(&rl, &c);
	range_lock_release(&rl, &d);
	range_lock_destroy(&rl);
}

static void nobody_overtakes_a_waiter_in_his_way(void **state)
{
	struct range_lock rl;
	struct range_lock_req read1, atomic, read2, beside, write;

	range_lock_init(&rl, 1);
	assert_true(take(&rl, &read1, RANGE_SHARED, 0, 100));
	assert_false(take(&rl, &atomic, RANGE_ATOMIC, 50, 100));
	assert_false(take(&rl, &read2, RANGE_SHARED, 140, 20)); /* meets only the waiter */
	assert_true(take(&rl, &beside, RANGE_SHARED, 150, 20));
	assert_false(take(&rl, &write, RANGE_EXCLUSIVE, 149, 1));
	range_lock_release(&rl, &read1);
	assert_true(told(&atomic));
	assert_false(read2.held);
	assert_false(write.held);
	range_lock_release(&rl, &atomic);
	assert_true(told(&read2));
	assert_true(told(&write));
	range_lock_release(&rl, &read2);
	range_lock_release(&rl, &write);
	range_lock_release(&rl, &beside);
	range_lock_destroy(&rl);
}

static void an_empty_range_conflicts_with_nothing(void **state)
{
	struct range_lock rl;
	struct range_lock_req a, b;

	range_lock_init(&rl, 512);
	assert_true(take(&rl, &a, RANGE_ATOMIC, 0, 4096));
	assert_true(take(&rl, &b, RANGE_ATOMIC, 100, 0));
	range_lock_release(&rl, &b);
	range_lock_release(&rl, &a);
	range_lock_destroy(&rl);
}

static void a_pair_is_granted_whole(void **state)
{
	struct range_lock rl;
	struct range_lock_req src, dst, a, b, c;

	range_lock_init(&rl, 1);
	/* Its own ranges may overlap. */
	assert_true(range_lock_acquire_pair(&rl, &dst, RANGE_EXCLUSIVE, 0, &src, RANGE_SHARED, 50,
					    100, harness_reactor(), on_granted));
	assert_true(dst.held && src.held);
	range_lock_release(&rl, &dst);
	range_lock_release(&rl, &src);

	assert_true(take(&rl, &a, RANGE_ATOMIC, 1000, 10));
	assert_false(range_lock_acquire_pair(&rl, &dst, RANGE_EXCLUSIVE, 0, &src, RANGE_SHARED,
					     1000, 10, harness_reactor(), on_granted));
	assert_false(dst.held || src.held);
	assert_false(take(&rl, &b, RANGE_EXCLUSIVE, 5, 1)); /* behind the pair's first */
	assert_true(take(&rl, &c, RANGE_SHARED, 5, 1));
	range_lock_release(&rl, &a);
	assert_true(told(&dst) && src.held);
	assert_false(b.held);
	range_lock_release(&rl, &dst);
	assert_true(told(&b));
	range_lock_release(&rl, &src);
	range_lock_release(&rl, &b);
	range_lock_release(&rl, &c);
	range_lock_destroy(&rl);
}

/* --- many threads --- */

#define CELLS	64
#define THREADS 6
#define ROUNDS	4000

/* The model: who is on each cell now. A conflict that the lock lets through is seen here. */
static struct {
	_Atomic int shared, exclusive, atomic;
} cell[CELLS];
static struct range_lock stress;
static _Atomic int violations;

static void enter(enum range_lock_mode mode, unsigned from, unsigned n)
{
	for (unsigned i = from; i < from + n; i++) {
		_Atomic int *mine = mode == RANGE_SHARED      ? &cell[i].shared
				    : mode == RANGE_EXCLUSIVE ? &cell[i].exclusive
							      : &cell[i].atomic;

		(*mine)++;
		if (cell[i].atomic + cell[i].exclusive > 1 || (cell[i].atomic && cell[i].shared))
			violations++;
	}
}

static void leave(enum range_lock_mode mode, unsigned from, unsigned n)
{
	for (unsigned i = from; i < from + n; i++) {
		if (mode == RANGE_SHARED)
			cell[i].shared--;
		else if (mode == RANGE_EXCLUSIVE)
			cell[i].exclusive--;
		else
			cell[i].atomic--;
	}
}

static void *stress_thread(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		unsigned n = (unsigned)rand_r(&seed) % 8 + 1;
		unsigned a = (unsigned)rand_r(&seed) % (CELLS - n);
		unsigned b = (unsigned)rand_r(&seed) % (CELLS - n);
		enum range_lock_mode mode = (enum range_lock_mode)(rand_r(&seed) % 3);
		struct range_lock_req q, q2;

		if (rand_r(&seed) % 4 == 0 && (a + n <= b || b + n <= a)) {
			range_lock_acquire_pair_blocking(&stress, &q, RANGE_EXCLUSIVE, a, &q2,
							 RANGE_SHARED, b, n);
			enter(RANGE_EXCLUSIVE, a, n);
			enter(RANGE_SHARED, b, n);
			if (rand_r(&seed) % 8 == 0)
				sched_yield();
			leave(RANGE_SHARED, b, n);
			range_lock_release(&stress, &q2);
			leave(RANGE_EXCLUSIVE, a, n);
		} else {
			range_lock_acquire_blocking(&stress, &q, mode, a, n);
			enter(mode, a, n);
			if (rand_r(&seed) % 8 == 0)
				sched_yield();
			leave(mode, a, n);
		}
		range_lock_release(&stress, &q);
	}
	return NULL;
}

static void threads_never_meet_where_they_must_not(void **state)
{
	pthread_t t[THREADS];

	range_lock_init(&stress, 1);
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, stress_thread, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(violations, 0);
	range_lock_destroy(&stress); /* asserts that nothing is left */
}

/* A stream of readers that always overlap one another must not keep an indivisible op out. */
static _Atomic bool atomic_done;

static void *reader_thread(void *arg)
{
	while (!atomic_done) {
		struct range_lock_req q;

		range_lock_acquire_blocking(&stress, &q, RANGE_SHARED, 0, 100);
		sched_yield();
		range_lock_release(&stress, &q);
	}
	return NULL;
}

static void readers_do_not_starve_a_writer(void **state)
{
	struct range_lock_req q;
	pthread_t t[4];

	range_lock_init(&stress, 1);
	atomic_done = false;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, reader_thread, NULL), 0);
	for (int i = 0; i < 200; i++) {
		range_lock_acquire_blocking(&stress, &q, RANGE_ATOMIC, 0, 100);
		range_lock_release(&stress, &q);
	}
	atomic_done = true;
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	range_lock_destroy(&stress);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(modes_conflict_as_the_table_says),
		cmocka_unit_test(writers_are_widened_to_the_unit),
		cmocka_unit_test(nobody_overtakes_a_waiter_in_his_way),
		cmocka_unit_test(an_empty_range_conflicts_with_nothing),
		cmocka_unit_test(a_pair_is_granted_whole),
		cmocka_unit_test(threads_never_meet_where_they_must_not),
		cmocka_unit_test(readers_do_not_starve_a_writer),
	};
	int failed;

	sem_init(&granted, 0, 0);
	failed = cmocka_run_group_tests(tests, NULL, NULL);

	harness_stop();
	return failed;
}
