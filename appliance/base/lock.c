// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/lock.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef NDEBUG
static const char *const rank_name[LOCK_RANK_COUNT] = {
#define X(name, what) #name,
	LOCK_RANKS(X)
#undef X
};

#define HELD_MAX 16
static _Thread_local struct mutex *held[HELD_MAX];
static _Thread_local int n_held;

static void check_order(const struct mutex *m)
{
	for (int i = 0; i < n_held; i++) {
		if (held[i]->rank < m->rank)
			continue;
		fprintf(stderr, "lock order: %s taken while %s is held\n", rank_name[m->rank],
			rank_name[held[i]->rank]);
		abort();
	}
}

static void note_taken(struct mutex *m)
{
	assert(n_held < HELD_MAX);
	held[n_held++] = m;
}

static void note_dropped(struct mutex *m)
{
	int i = n_held;

	while (i > 0 && held[i - 1] != m)
		i--;
	assert(i > 0 && "unlock of a mutex this thread does not hold");
	for (; i < n_held; i++)
		held[i - 1] = held[i];
	n_held--;
}
#else
static void check_order(const struct mutex *m)
{
}
static void note_taken(struct mutex *m)
{
}
static void note_dropped(struct mutex *m)
{
}
#endif

void mutex_init(struct mutex *m, enum lock_rank rank)
{
	pthread_mutex_init(&m->m, NULL);
	m->rank = rank;
}

void mutex_destroy(struct mutex *m)
{
	pthread_mutex_destroy(&m->m);
}

void mutex_lock(struct mutex *m)
{
	check_order(m);
	pthread_mutex_lock(&m->m);
	note_taken(m);
}

bool mutex_trylock(struct mutex *m)
{
	check_order(m);
	if (pthread_mutex_trylock(&m->m))
		return false;
	note_taken(m);
	return true;
}

void mutex_unlock(struct mutex *m)
{
	note_dropped(m);
	pthread_mutex_unlock(&m->m);
}

void mutex_wait(struct mutex *m, pthread_cond_t *cond)
{
	note_dropped(m);
	pthread_cond_wait(cond, &m->m);
	note_taken(m);
}

void mutex_assert_held(struct mutex *m)
{
#ifndef NDEBUG
	for (int i = 0; i < n_held; i++)
		if (held[i] == m)
			return;
	fprintf(stderr, "lock %s is not held where it must be\n", rank_name[m->rank]);
	abort();
#endif
}
