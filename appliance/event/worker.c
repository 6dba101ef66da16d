/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The worker pool: one for the process. A thread is started when a job comes and none waits for
 * one, up to WORKER_MAX; a thread that has waited IDLE_S in vain ends, so that an idle process has
 * none. The thread that ends joins the one that ended before it, and worker_drain() the last: none
 * is left behind and none is detached. When not one thread can be started the submitter runs the
 * job itself: slow, but it runs.
 */
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "base/lock.h"
#include "event/worker.h"

#define IDLE_S 5

static struct {
	struct mutex lock;
	pthread_cond_t work, ended;
	/* under lock: */
	struct list_node queue;
	unsigned queued, threads, waiting;
	bool draining, have_corpse;
	pthread_t corpse; /* ended, not yet joined */
} pool = {
	.lock = MUTEX_INIT(LOCK_RANK_WORKER),
	.work = PTHREAD_COND_INITIALIZER,
	.ended = PTHREAD_COND_INITIALIZER,
	.queue = LIST_INIT(pool.queue),
};

static void job_run(struct worker_job *j)
{
	struct reactor *r = j->reactor;

	j->run(j);
	if (r)
		reactor_post(r, &j->msg);
}

/* The next job, or NULL when the thread is to end. */
static struct worker_job *next_job_locked(void)
{
	struct timespec until;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_S;
	while (list_empty(&pool.queue) && !pool.draining && ret == 0) {
		pool.waiting++;
		ret = pthread_cond_clockwait(&pool.work, &pool.lock.m, CLOCK_MONOTONIC, &until);
		pool.waiting--;
	}
	if (list_empty(&pool.queue))
		return NULL;
	pool.queued--;
	return container_of(list_pop(&pool.queue), struct worker_job, link);
}

static void *worker_main(void *arg)
{
	struct worker_job *j;
	pthread_t before;
	bool join;

	pthread_setname_np(pthread_self(), "worker");
	mutex_lock(&pool.lock);
	while ((j = next_job_locked())) {
		mutex_unlock(&pool.lock);
		job_run(j);
		mutex_lock(&pool.lock);
	}
	join = pool.have_corpse;
	before = pool.corpse;
	pool.corpse = pthread_self();
	pool.have_corpse = true;
	pool.threads--;
	pthread_cond_broadcast(&pool.ended);
	mutex_unlock(&pool.lock);
	if (join)
		pthread_join(before, NULL);
	return NULL;
}

static int thread_start(void)
{
	sigset_t all, old;
	pthread_t t;
	int ret;

	sigfillset(&all);
	sigdelset(&all, SIGBUS); /* of memory shared with the kernel: whoever maps it handles it */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&t, NULL, worker_main, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -ret;
}

static void job_done(struct reactor_msg *m)
{
	struct worker_job *j = container_of(m, struct worker_job, msg);

	j->done(j);
}

void worker_submit(struct worker_job *j)
{
	bool start, alone = false;

	j->msg.fn = job_done;
	mutex_lock(&pool.lock);
	list_add_tail(&pool.queue, &j->link);
	pool.queued++;
	start = pool.queued > pool.waiting && pool.threads < WORKER_MAX;
	if (start)
		pool.threads++;
	pthread_cond_signal(&pool.work);
	mutex_unlock(&pool.lock);
	if (!start || thread_start() == 0)
		return;
	mutex_lock(&pool.lock);
	alone = --pool.threads == 0 && !list_empty(&j->link);
	if (alone) {
		list_del(&j->link);
		pool.queued--;
	}
	pthread_cond_broadcast(&pool.ended);
	mutex_unlock(&pool.lock);
	if (alone)
		job_run(j);
}

void worker_drain(void)
{
	mutex_lock(&pool.lock);
	pool.draining = true;
	pthread_cond_broadcast(&pool.work);
	while (pool.threads)
		mutex_wait(&pool.lock, &pool.ended);
	pool.draining = false;
	if (pool.have_corpse)
		pthread_join(pool.corpse, NULL);
	pool.have_corpse = false;
	mutex_unlock(&pool.lock);
}
