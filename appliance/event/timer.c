/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Timers in a pairing heap (Fredman, Sedgewick, Sleator, Tarjan 1986): arming is O(1), cancelling
 * and taking the earliest O(log n) amortized, and the links live in the timer, so nothing can fail.
 *
 * A node points at its first child; children are chained by sibling. prev is the left sibling, or
 * the parent for a first child, or NULL for the root: enough to cut a node out anywhere. No
 * recursion: the children of a removed node are paired left to right, then the pairs are melded
 * right to left.
 *
 * A callback may arm any timer, its own too. To keep one that always re-arms itself in the past
 * from holding the loop, a turn runs at most TIMERS_A_TURN; what is left is run in the next turn,
 * after completions have had theirs.
 */
#include "event/reactor_private.h"

#define TIMERS_A_TURN 256

static struct reactor_timer *meld(struct reactor_timer *a, struct reactor_timer *b)
{
	if (!a)
		return b;
	if (!b)
		return a;
	if (b->deadline_ns < a->deadline_ns) {
		struct reactor_timer *t = a;

		a = b;
		b = t;
	}
	b->sibling = a->child;
	b->prev = a;
	if (a->child)
		a->child->prev = b;
	a->child = b;
	return a;
}

/* Melds a chain of siblings into one heap. */
static struct reactor_timer *merge_children(struct reactor_timer *first)
{
	struct reactor_timer *pairs = NULL, *root = NULL;

	while (first) {
		struct reactor_timer *a = first, *b = a->sibling;

		first = b ? b->sibling : NULL;
		a->sibling = a->prev = NULL;
		if (b)
			b->sibling = b->prev = NULL;
		a = meld(a, b);
		a->sibling = pairs; /* a stack of pairs, last on top */
		pairs = a;
	}
	while (pairs) {
		struct reactor_timer *next = pairs->sibling;

		pairs->sibling = NULL;
		root = meld(root, pairs);
		pairs = next;
	}
	return root;
}

static void heap_remove(struct reactor *r, struct reactor_timer *t)
{
	struct reactor_timer *rest = merge_children(t->child);

	if (t == r->timers) {
		r->timers = rest;
	} else {
		if (t->prev->child == t)
			t->prev->child = t->sibling;
		else
			t->prev->sibling = t->sibling;
		if (t->sibling)
			t->sibling->prev = t->prev;
		r->timers = meld(r->timers, rest);
	}
	if (r->timers)
		r->timers->prev = NULL;
	t->child = t->sibling = t->prev = NULL;
	t->armed = false;
}

void reactor_timer_init(struct reactor_timer *t, void (*fn)(struct reactor_timer *t))
{
	*t = (struct reactor_timer){.fn = fn};
}

void reactor_timer_arm(struct reactor *r, struct reactor_timer *t, uint64_t deadline_ns)
{
	if (t->armed)
		heap_remove(r, t);
	t->deadline_ns = deadline_ns;
	t->armed = true;
	r->timers = meld(r->timers, t);
}

void reactor_timer_cancel(struct reactor *r, struct reactor_timer *t)
{
	if (t->armed)
		heap_remove(r, t);
}

void reactor_timers_run(struct reactor *r)
{
	unsigned n = 0;

	while (r->timers && r->timers->deadline_ns <= r->now && n < TIMERS_A_TURN) {
		struct reactor_timer *t = r->timers;

		heap_remove(r, t);
		n++;
		t->fn(t);
	}
	if (n)
		reactor_count(&r->count.timers, n);
}

uint64_t reactor_timers_next(const struct reactor *r)
{
	return r->timers ? r->timers->deadline_ns : UINT64_MAX;
}
