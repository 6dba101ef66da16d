/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Locking: fills.lock, for the scan only. As in range_lock.c a blocked thread is signalled under
 * it, because its waiter is gone as soon as it has seen that it was told; a reactor's is posted
 * after it was dropped, since it lives until over() has run.
 */
#include "lun/fills.h"

#include <assert.h>
#include <stddef.h>

void fills_init(struct fills *t)
{
	mutex_init(&t->lock, LOCK_RANK_LEAF);
	t->n = 0;
	atomic_init(&t->left, 0);
}

void fills_destroy(struct fills *t)
{
	assert(!t->n);
	mutex_destroy(&t->lock);
}

static void on_over(struct reactor_msg *m)
{
	struct fill_waiter *w = container_of(m, struct fill_waiter, msg);

	w->over(w);
}

/* The fill that reads page f->first, or NULL; then f->end is before all others. */
static struct fill *find_locked(struct fills *t, struct fill *f)
{
	for (unsigned i = 0; i < t->n; i++) {
		if (t->range[i].first >= f->end || t->range[i].end <= f->first)
			continue;
		if (t->range[i].first <= f->first)
			return t->fill[i];
		f->end = t->range[i].first;
	}
	return NULL;
}

enum fills_verdict fills_enter(struct fills *t, struct fill *f, struct fill_waiter *w)
{
	struct fill *other;

	mutex_scope(&t->lock);
	other = find_locked(t, f);
	if (other && !w)
		return FILLS_TAKEN;
	if (other) {
		w->msg.fn = on_over;
		w->cond = NULL;
		w->told = false;
		list_add_tail(&other->waiters, &w->link);
		return FILLS_WAIT;
	}
	if (t->n == FILLS_MAX)
		return FILLS_FULL;
	list_init(&f->waiters);
	f->slot = t->n++;
	t->range[f->slot].first = f->first;
	t->range[f->slot].end = f->end;
	t->fill[f->slot] = f;
	return FILLS_OWN;
}

static void remove_locked(struct fills *t, struct fill *f)
{
	unsigned last = --t->n;

	assert(t->fill[f->slot] == f);
	t->range[f->slot] = t->range[last];
	t->fill[f->slot] = t->fill[last];
	t->fill[f->slot]->slot = f->slot;
}

void fills_leave(struct fills *t, struct fill *f)
{
	struct list_node to_post, *n;

	list_init(&to_post);
	mutex_lock(&t->lock);
	remove_locked(t, f);
	atomic_store_explicit(&t->left, t->left + 1, memory_order_release);
	while ((n = list_pop(&f->waiters))) {
		struct fill_waiter *w = container_of(n, struct fill_waiter, link);

		w->told = true;
		if (w->reactor)
			list_add_tail(&to_post, n);
		else if (w->cond)
			pthread_cond_signal(w->cond);
	}
	mutex_unlock(&t->lock);
	while ((n = list_pop(&to_post))) {
		struct fill_waiter *w = container_of(n, struct fill_waiter, link);

		reactor_post(w->reactor, &w->msg);
	}
}

void fills_wait(struct fills *t, struct fill_waiter *w)
{
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

	mutex_lock(&t->lock);
	w->cond = &cond;
	while (!w->told)
		mutex_wait(&t->lock, &cond);
	mutex_unlock(&t->lock);
	pthread_cond_destroy(&cond);
}
