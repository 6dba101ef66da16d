/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of event/ share of a reactor. All but the inbox and the counters belong to the
 * reactor's thread. */
#pragma once

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/uio.h>

#include "event/reactor.h"

#define REACTOR_CACHE_LINE  64
#define REACTOR_SCRATCH_IOV 4096

struct rx_ring;

/* Written by the reactor's thread, read by any: plain loads and stores, no locked instruction. */
struct reactor_counters {
	_Atomic uint64_t turns, sleeps, cqes, messages, timers, spins;
};

static inline void reactor_count(_Atomic uint64_t *c, uint64_t n)
{
	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

struct reactor {
	/* constant after creation */
	unsigned entries, index;
	uint64_t spin_max_ns;
	char name[16];
	int wake_fd; /* eventfd; written by whoever posts to a sleeping reactor */

	/* the thread's */
	struct io_uring ring;
	bool ring_up, stopping, wake_armed;
	int err; /* why the loop broke */
	struct reactor_features features;
	struct reactor_op wake_op;
	uint64_t now;
	uint64_t issued;   /* ops handed to the ring, ever */
	uint64_t inflight; /* of these, not yet completed */
	struct list_node deferred, pollers;
	struct reactor_timer *timers; /* root of the heap */
	uint64_t spin_ns;	 /* the present length of a spin; adapts within 0..spin_max_ns */
	unsigned spin_score;	 /* how often spinning has paid lately, 0..SPIN_SCORE_MAX */
	unsigned spins_left_out; /* because it does not pay */
	struct iovec *scratch;
	unsigned scratch_used;
	struct iobuf_pool *iobufs;
	struct rx_ring *rx_ring;
	struct reactor_counters count;

	/* any thread's */
	alignas(REACTOR_CACHE_LINE) _Atomic(struct reactor_msg *) inbox;
	struct reactor_msg stop_msg;
	atomic_bool stop_asked;
};

/** Sets the ring up on the calling thread; reactor_loop() then runs it and tears it down. */
int reactor_setup(struct reactor *r);
int reactor_loop(struct reactor *r);

/** Makes the ring and fills r->features. */
int reactor_ring_create(struct reactor *r);

/**
 * Room for @n iovecs that stay valid until they have been submitted, or NULL when there is none
 * this turn. The kernel copies iovecs at submission, so that connections need none of their own.
 */
struct iovec *reactor_scratch(struct reactor *r, unsigned n);
/** Gives back the last @n that were got and turned out not to be needed. */
void reactor_scratch_trim(struct reactor *r, unsigned n);

/** Runs the timers that are due at r->now. */
void reactor_timers_run(struct reactor *r);
/** Deadline of the earliest timer, or UINT64_MAX. */
uint64_t reactor_timers_next(const struct reactor *r);

/* iobuf.c */
int iobuf_pool_create(struct reactor *r, uint64_t limit, struct iobuf_pool **ret_pool);
void iobuf_pool_destroy(struct iobuf_pool *p);

/* rx_ring.c */
int rx_ring_create(struct reactor *r, struct rx_ring **ret_ring);
void rx_ring_destroy(struct rx_ring *x);
