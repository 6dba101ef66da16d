/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The range lock. What is held stands in three lists, one a mode; a request looks only into those
 * that can conflict with it, so that a read that meets no indivisible op looks at nothing. What
 * waits stands in one list in order of arrival. Lists, not a tree: their length is the number of
 * ops in flight, and a tree's constant is more than a short scan.
 *
 * A request is granted when it conflicts with nothing held and with no earlier waiter. The second
 * condition makes it fair: whoever waits is passed only by requests that are out of its way. On a
 * release the waiters are looked at in order.
 *
 * No deadlock: a request for one lock is granted whole (two ranges of one lock: as a pair), and
 * whoever holds one LUN's lock while it waits for another's takes them in the order of their
 * addresses. Suppose a cycle of waiters. Each waits for a holder or an earlier waiter of the same
 * lock; a holder that waits, waits for a lock of higher address. So along the cycle addresses never
 * fall, hence all are equal, hence each waits for one that came earlier: no cycle.
 *
 * Locking: rl->lock, held for the scans only. A blocked thread's request is signalled under it,
 * because the request is gone as soon as the thread has seen it granted; a reactor's is posted
 * after it is dropped, the request being alive until granted() has run.
 */
#include "lun/range_lock.h"

#include <assert.h>
#include <stddef.h>

static bool modes_conflict(enum range_lock_mode a, enum range_lock_mode b)
{
	return a == RANGE_ATOMIC || b == RANGE_ATOMIC ||
	       (a == RANGE_EXCLUSIVE && b == RANGE_EXCLUSIVE);
}

static bool overlap(const struct range_lock_req *a, const struct range_lock_req *b)
{
	return a->start < b->end && b->start < a->end;
}

static bool list_conflicts(const struct list_node *head, const struct range_lock_req *q)
{
	const struct range_lock_req *h;

	list_for_each_entry (h, head, link)
		if (overlap(h, q))
			return true;
	return false;
}

static bool held_conflicts(const struct range_lock *rl, const struct range_lock_req *q)
{
	for (enum range_lock_mode m = RANGE_SHARED; m <= RANGE_ATOMIC; m++)
		if (modes_conflict(m, q->mode) && list_conflicts(&rl->held[m], q))
			return true;
	return false;
}

static bool reqs_conflict(const struct range_lock_req *a, const struct range_lock_req *b)
{
	return modes_conflict(a->mode, b->mode) && overlap(a, b);
}

/* Whether waiter @w, or its pair, is in the way of @q alone. */
static bool waiter_conflicts(const struct range_lock_req *w, const struct range_lock_req *q)
{
	return reqs_conflict(w, q) || (w->pair && reqs_conflict(w->pair, q));
}

/* Whether @q must wait, given the waiters before @until. */
static bool must_wait_locked(const struct range_lock *rl, const struct range_lock_req *q,
			     const struct list_node *until)
{
	const struct range_lock_req *pair = q->pair;
	const struct list_node *n;

	if (held_conflicts(rl, q) || (pair && held_conflicts(rl, pair)))
		return true;
	for (n = rl->waiting.next; n != until; n = n->next) {
		const struct range_lock_req *w = container_of(n, struct range_lock_req, link);

		if (waiter_conflicts(w, q) || (pair && waiter_conflicts(w, pair)))
			return true;
	}
	return false;
}

static void hold_locked(struct range_lock *rl, struct range_lock_req *q)
{
	list_add_tail(&rl->held[q->mode], &q->link);
	q->held = true;
	if (!q->pair)
		return;
	list_add_tail(&rl->held[q->pair->mode], &q->pair->link);
	q->pair->held = true;
}

void range_lock_init(struct range_lock *rl, uint64_t unit)
{
	assert(unit && !(unit & (unit - 1)));
	mutex_init(&rl->lock, LOCK_RANK_LUN_RANGE);
	for (int i = 0; i < 3; i++)
		list_init(&rl->held[i]);
	list_init(&rl->waiting);
	rl->unit = unit;
}

void range_lock_destroy(struct range_lock *rl)
{
	for (int i = 0; i < 3; i++)
		assert(list_empty(&rl->held[i]));
	assert(list_empty(&rl->waiting));
	mutex_destroy(&rl->lock);
}

static void set_range(const struct range_lock *rl, struct range_lock_req *q,
		      enum range_lock_mode mode, uint64_t off, uint64_t len)
{
	uint64_t unit = mode == RANGE_SHARED ? 1 : rl->unit;

	q->start = off & ~(unit - 1);
	q->end = len ? (off + len + unit - 1) & ~(unit - 1) : q->start;
	q->mode = mode;
	q->pair = NULL;
	q->held = false;
	list_init(&q->link);
}

static void on_granted(struct reactor_msg *m)
{
	struct range_lock_req *q = container_of(m, struct range_lock_req, msg);

	q->granted(q);
}

static bool acquire(struct range_lock *rl, struct range_lock_req *q, struct reactor *reactor,
		    void (*granted)(struct range_lock_req *q))
{
	bool wait;

	q->reactor = reactor;
	q->granted = granted;
	q->cond = NULL;
	q->msg.fn = on_granted;
	mutex_lock(&rl->lock);
	wait = must_wait_locked(rl, q, &rl->waiting);
	if (wait)
		list_add_tail(&rl->waiting, &q->link);
	else
		hold_locked(rl, q);
	mutex_unlock(&rl->lock);
	return !wait;
}

static bool acquire_blocking(struct range_lock *rl, struct range_lock_req *q)
{
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	bool wait;

	q->reactor = NULL;
	q->granted = NULL;
	mutex_lock(&rl->lock);
	wait = must_wait_locked(rl, q, &rl->waiting);
	if (!wait) {
		hold_locked(rl, q);
	} else {
		q->cond = &cond;
		list_add_tail(&rl->waiting, &q->link);
		while (!q->held)
			mutex_wait(&rl->lock, &cond);
	}
	mutex_unlock(&rl->lock);
	pthread_cond_destroy(&cond);
	return wait;
}

bool range_lock_acquire(struct range_lock *rl, struct range_lock_req *q, enum range_lock_mode mode,
			uint64_t off, uint64_t len, struct reactor *reactor,
			void (*granted)(struct range_lock_req *q))
{
	set_range(rl, q, mode, off, len);
	return !len || acquire(rl, q, reactor, granted);
}

bool range_lock_acquire_blocking(struct range_lock *rl, struct range_lock_req *q,
				 enum range_lock_mode mode, uint64_t off, uint64_t len)
{
	set_range(rl, q, mode, off, len);
	return len && acquire_blocking(rl, q);
}

bool range_lock_acquire_pair(struct range_lock *rl, struct range_lock_req *q,
			     enum range_lock_mode mode, uint64_t off, struct range_lock_req *q2,
			     enum range_lock_mode mode2, uint64_t off2, uint64_t len,
			     struct reactor *reactor, void (*granted)(struct range_lock_req *q))
{
	set_range(rl, q, mode, off, len);
	set_range(rl, q2, mode2, off2, len);
	q->pair = q2;
	return !len || acquire(rl, q, reactor, granted);
}

bool range_lock_acquire_pair_blocking(struct range_lock *rl, struct range_lock_req *q,
				      enum range_lock_mode mode, uint64_t off,
				      struct range_lock_req *q2, enum range_lock_mode mode2,
				      uint64_t off2, uint64_t len)
{
	set_range(rl, q, mode, off, len);
	set_range(rl, q2, mode2, off2, len);
	q->pair = q2;
	return len && acquire_blocking(rl, q);
}

/* Grants what can be granted now. Reactors' requests are gathered in @to_post. */
static void grant_locked(struct range_lock *rl, struct list_node *to_post)
{
	struct list_node *n, *next;

	list_for_each_safe (n, next, &rl->waiting) {
		struct range_lock_req *q = container_of(n, struct range_lock_req, link);

		if (must_wait_locked(rl, q, n))
			continue;
		list_del(n);
		hold_locked(rl, q);
		if (q->reactor)
			list_add_tail(to_post, &q->post);
		else
			pthread_cond_signal(q->cond);
	}
}

void range_lock_release(struct range_lock *rl, struct range_lock_req *q)
{
	struct list_node to_post, *n;

	if (q->start == q->end)
		return;
	list_init(&to_post);
	mutex_lock(&rl->lock);
	assert(q->held);
	q->held = false;
	list_del(&q->link);
	if (!list_empty(&rl->waiting))
		grant_locked(rl, &to_post);
	mutex_unlock(&rl->lock);
	while ((n = list_pop(&to_post))) {
		struct range_lock_req *g = container_of(n, struct range_lock_req, post);

		reactor_post(g->reactor, &g->msg);
	}
}
