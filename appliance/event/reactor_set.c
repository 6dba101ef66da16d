/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * N reactors on N threads. A thread sets its ring up, tells the starter how that went, and runs
 * the loop; signals are blocked in it, so that the process handles them where it chose to.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "event/reactor_private.h"

struct member {
	struct reactor *r;
	pthread_t thread;
	bool started;
	int setup; /* result; written before the semaphore is posted */
	sem_t *ready;
};

struct reactor_set {
	unsigned n;
	_Atomic unsigned next;
	struct member member[];
};

static void *member_main(void *arg)
{
	struct member *m = arg;

	pthread_setname_np(pthread_self(), m->r->name);
	m->setup = reactor_setup(m->r);
	sem_post(m->ready);
	if (m->setup == 0)
		reactor_loop(m->r);
	return NULL;
}

static int member_start(struct member *m, const struct reactor_options *opt, unsigned i,
			sem_t *ready)
{
	struct reactor_options o = opt ? *opt : (struct reactor_options){0};
	sigset_t all, old;
	char name[16];
	int ret;

	snprintf(name, sizeof(name), "%.10s-%u", o.name ? o.name : "reactor", i % 1000);
	o.name = name;
	ret = reactor_create(&o, &m->r);
	if (ret < 0)
		return ret;
	m->r->index = i;
	m->ready = ready;
	sigfillset(&all);
	sigdelset(&all, SIGBUS); /* of memory shared with the kernel: whoever maps it handles it */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = -pthread_create(&m->thread, NULL, member_main, m);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	m->started = ret == 0;
	return ret;
}

int reactor_set_start(unsigned n, const struct reactor_options *opt, struct reactor_set **ret_set)
{
	struct reactor_set *s;
	unsigned started = 0;
	int ret = 0;
	sem_t ready;

	if (!n)
		return -EINVAL;
	s = calloc(1, sizeof(*s) + n * sizeof(s->member[0]));
	if (!s)
		return -ENOMEM;
	s->n = n;
	sem_init(&ready, 0, 0);
	for (; started < n && ret == 0; started += ret == 0)
		ret = member_start(&s->member[started], opt, started, &ready);
	for (unsigned i = 0; i < started; i++)
		while (sem_wait(&ready) < 0 && errno == EINTR)
			;
	for (unsigned i = 0; i < started && ret == 0; i++)
		ret = s->member[i].setup;
	if (ret < 0)
		reactor_set_stop(s);
	else
		*ret_set = s;
	sem_destroy(&ready);
	return ret;
}

unsigned reactor_set_count(const struct reactor_set *s)
{
	return s->n;
}

struct reactor *reactor_set_get(struct reactor_set *s, unsigned i)
{
	return s->member[i].r;
}

struct reactor *reactor_set_next(struct reactor_set *s)
{
	return s->member[atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed) % s->n].r;
}

void reactor_set_stop(struct reactor_set *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->n; i++)
		if (s->member[i].started)
			reactor_stop(s->member[i].r);
	for (unsigned i = 0; i < s->n; i++)
		if (s->member[i].started)
			pthread_join(s->member[i].thread, NULL);
	/* Only now: a reactor may post to another until both have ended. */
	for (unsigned i = 0; i < s->n; i++)
		reactor_destroy(s->member[i].r);
	free(s);
}
