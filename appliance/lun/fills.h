/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The reads of the store that are under way for the cache of one LUN, so that who misses the same
 * pages waits for them instead of reading twice.
 *
 * A fill stands here from before its store I/O until its pages are in the cache, or will not be.
 * Who waits is told once, and then looks into the cache again. Nobody who has a fill here waits for
 * another: so whoever waits, waits for one store I/O and for nothing else.
 *
 * The ranges stand side by side in an array and are looked through one by one: there are about as
 * many as misses in flight, and few fit into a cache line.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/lock.h"
#include "event/reactor.h"

#define FILLS_MAX 128u /* more are not told of: their pages may be read twice */

struct fill {
	uint64_t first, end; /* pages [first, end) */
	unsigned slot;
	struct list_node waiters; /* under fills.lock */
};

struct fill_waiter {
	/* --- set by the waiter --- */
	struct reactor *reactor; /* NULL: a thread that blocks in fills_wait() */
	void (*over)(struct fill_waiter *w);
	/* --- the table's --- */
	struct list_node link;
	struct reactor_msg msg;
	pthread_cond_t *cond; /* under fills.lock: of the blocked thread */
	bool told;	      /* under fills.lock */
};

struct fills {
	_Atomic uint64_t left; /* fills that have left; changed under lock */
	struct mutex lock;
	unsigned n; /* under lock, as all below */
	struct {
		uint64_t first, end;
	} range[FILLS_MAX];
	struct fill *fill[FILLS_MAX];
};

enum fills_verdict {
	FILLS_OWN,   /* @f is in the table: read, then fills_leave() */
	FILLS_WAIT,  /* another reads @first: @w is told when that is over */
	FILLS_TAKEN, /* the same, but the caller does not wait */
	FILLS_FULL,  /* there is no room for @f: read without */
};

void fills_init(struct fills *t);
void fills_destroy(struct fills *t);
/**
 * Asks to read [@f->first, @f->end). When only a later part of it is being read already, f->end is
 * moved to where that begins. @w NULL: does not wait.
 */
enum fills_verdict fills_enter(struct fills *t, struct fill *f, struct fill_waiter *w);
/** Changes with every fills_leave(): who sees the same twice has missed none. */
static inline uint64_t fills_left(struct fills *t)
{
	return atomic_load_explicit(&t->left, memory_order_acquire);
}
/** The pages of @f are in the cache, or will not be: tells who waits. */
void fills_leave(struct fills *t, struct fill *f);
/** Blocks until @w, which has no reactor, is told. */
void fills_wait(struct fills *t, struct fill_waiter *w);
