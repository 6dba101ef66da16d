/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "event/worker.h"

#define JOBS 2000

static struct reactor_set *set;
static atomic_int running, most, ran;

struct job {
	struct worker_job j;
	int plain;   /* handed over without an atomic: the pool must order it */
	int *n_done; /* of its reactor's thread */
	sem_t *done;
};

static void job_run(struct worker_job *j)
{
	struct job *x = container_of(j, struct job, j);
	int now = atomic_fetch_add(&running, 1) + 1, seen = most;

	assert_null(reactor_self());
	while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now))
		;
	if (x->plain % 10 == 0)
		usleep(500);
	x->plain++;
	atomic_fetch_add(&ran, 1);
	atomic_fetch_sub(&running, 1);
}

static void job_done(struct worker_job *j)
{
	struct job *x = container_of(j, struct job, j);

	assert_ptr_equal(reactor_self(), j->reactor);
	x->plain++;
	++*x->n_done;
	sem_post(x->done);
}

static void jobs_run_on_workers_and_complete_on_their_reactor(void **state)
{
	struct job *jobs = calloc(JOBS, sizeof(*jobs));
	int done[2] = {0, 0};
	sem_t sem;

	sem_init(&sem, 0, 0);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < JOBS; i++) {
			jobs[i].plain = i;
			jobs[i].n_done = &done[i % 2];
			jobs[i].done = &sem;
			jobs[i].j = (struct worker_job){.run = job_run, .done = job_done};
			jobs[i].j.reactor = reactor_set_get(set, (unsigned)i % 2);
			worker_submit(&jobs[i].j);
		}
		if (round == 1)
			worker_drain(); /* all have run, though not all done() have */
		assert_true(round == 0 || ran == 2 * JOBS);
		for (int i = 0; i < JOBS; i++)
			while (sem_wait(&sem) < 0)
				;
		for (int i = 0; i < JOBS; i++)
			assert_int_equal(jobs[i].plain, i + 2);
	}
	assert_int_equal(done[0] + done[1], 2 * JOBS);
	assert_true(most > 1);
	assert_true(most <= WORKER_MAX);
	sem_destroy(&sem);
	free(jobs);
}

static void slow_run(struct worker_job *j)
{
	usleep(100000);
	atomic_fetch_add(&ran, 1);
}

static void slow_done(struct worker_job *j)
{
}

static void drain_waits_for_what_runs(void **state)
{
	static struct worker_job j[WORKER_MAX + 4];

	ran = 0;
	for (int i = 0; i < WORKER_MAX + 4; i++) {
		j[i] = (struct worker_job){
			.run = slow_run, .done = slow_done, .reactor = reactor_set_get(set, 0)};
		worker_submit(&j[i]);
	}
	worker_drain();
	assert_int_equal(ran, WORKER_MAX + 4);
	worker_drain();
}

static int set_up(void **state)
{
	return reactor_set_start(2, NULL, &set);
}

static int tear_down(void **state)
{
	reactor_set_stop(set);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(jobs_run_on_workers_and_complete_on_their_reactor),
		cmocka_unit_test(drain_waits_for_what_runs),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
