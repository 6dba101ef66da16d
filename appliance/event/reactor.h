/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A reactor: one thread, one io_uring, timers, and messages from other threads.
 *
 * Everything that a reactor calls runs on its thread, one callback at a time, and must not block:
 * blocking work goes to worker.h. All functions take the calling thread to be the reactor's own,
 * but for those marked "any thread". An idle reactor sleeps in the kernel and is woken by a
 * completion, its earliest timer, or a message; it spins for a bounded time after recent work only.
 *
 * Objects are intrusive: the caller embeds the op, message, task or timer, and owns it until its
 * callback has run. Nothing here allocates after reactor_create().
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <liburing.h>

#include "base/list.h"

struct reactor;
struct iobuf_pool;

/** What the running kernel has, probed once at creation. */
struct reactor_features {
	bool defer_taskrun;    /* IORING_SETUP_DEFER_TASKRUN | SINGLE_ISSUER (6.1) */
	bool multishot_accept; /* 5.19 */
	bool multishot_recv;   /* 6.0 */
	bool buffer_ring;      /* provided buffers by ring, 5.19 */
	bool send_zc;	       /* IORING_OP_SEND_ZC / SENDMSG_ZC, 6.0 / 6.1 */
	bool msg_ring;	       /* IORING_OP_MSG_RING, 5.18 */
	bool fixed_buffers;    /* sparse table of registered buffers */
};

struct reactor_options {
	unsigned entries;     /* SQ size; 0: default */
	unsigned spin_us;     /* longest spin before sleeping; it adapts below that; 0: none */
	uint64_t iobuf_limit; /* bytes of I/O buffers at most; 0: default */
	const char *name;     /* of the thread, at most 15 characters */
};

/* --- completions --- */

struct reactor_op {
	/* @res and @flags as in struct io_uring_cqe. Called once for each CQE (multishot: several).
	 */
	void (*done)(struct reactor_op *op, int res, uint32_t flags);
};

/**
 * Returns a free SQE whose user_data is @op, submitting what is queued when the ring is full; never
 * NULL. The caller fills it with io_uring_prep_*() (which keep user_data) before it returns to the
 * reactor; it is submitted at the end of the loop's turn, all of a turn in one system call.
 */
struct io_uring_sqe *reactor_sqe(struct reactor *r, struct reactor_op *op);
/** Asks the kernel to cancel @op; its done() still runs, with -ECANCELED or its own result. */
void reactor_cancel(struct reactor *r, struct reactor_op *op);

/* --- messages: any thread -> reactor --- */

struct reactor_msg {
	void (*fn)(struct reactor_msg *m);
	_Atomic(struct reactor_msg *) next; /* the reactor's */
};

/** Any thread. Runs m->fn(m) on @r's thread; messages of one sender arrive in order. Never fails.
 */
void reactor_post(struct reactor *r, struct reactor_msg *m);

/* --- deferred tasks: once, at the end of this turn, before submission --- */

struct reactor_task {
	void (*fn)(struct reactor_task *t);
	struct list_node link; /* the reactor's; list_init()ed by reactor_task_init() */
};

void reactor_task_init(struct reactor_task *t, void (*fn)(struct reactor_task *t));
/** Queues @t; nothing happens when it is queued already. */
void reactor_defer(struct reactor *r, struct reactor_task *t);
void reactor_task_cancel(struct reactor_task *t);

/* --- pollers: work that comes through memory shared with another process --- */

/**
 * A queue that a peer fills. The owner adds the poller when the peer has rung for us; from then on
 * the reactor looks at the queue in every turn, and while it spins, and the peer need not ring.
 * Before it sleeps, the reactor takes the poller off again.
 */
struct reactor_poller {
	/* Whether there is work: a look and nothing else. */
	bool (*ready)(struct reactor_poller *p);
	/* Does the work there is. May remove this poller, and no other. */
	void (*run)(struct reactor_poller *p);
	/*
	 * Asks the peer to ring from now on, and then looks again; false: there is work after all,
	 * and the peer need not ring yet. Starts nothing.
	 */
	bool (*sleep)(struct reactor_poller *p);
	struct list_node link; /* the reactor's; list_init()ed by the owner */
};

/** Has @p looked at from the next turn on; nothing happens when it is already. */
void reactor_poller_add(struct reactor *r, struct reactor_poller *p);
/** Harmless when it is not there. */
void reactor_poller_remove(struct reactor_poller *p);

/* --- timers --- */

struct reactor_timer {
	void (*fn)(struct reactor_timer *t);
	uint64_t deadline_ns;			      /* CLOCK_MONOTONIC */
	struct reactor_timer *child, *sibling, *prev; /* the reactor's (pairing heap) */
	bool armed;
};

void reactor_timer_init(struct reactor_timer *t, void (*fn)(struct reactor_timer *t));
/** Arms (or moves) @t to fire once at @deadline_ns. O(log n), cannot fail. */
void reactor_timer_arm(struct reactor *r, struct reactor_timer *t, uint64_t deadline_ns);
void reactor_timer_cancel(struct reactor *r, struct reactor_timer *t);

/* --- life --- */

/**
 * Makes a reactor; its ring is set up by the thread that runs it.
 * Errors: -ENOMEM, -ENOSYS/-EPERM when io_uring is not to be had.
 */
int reactor_create(const struct reactor_options *opt, struct reactor **ret_reactor);
/**
 * Runs @r on the calling thread until reactor_stop(). Returns 0 or -errno of set-up. Returning, it
 * has run all messages posted before the stop; ops still in flight are cancelled and waited for.
 */
int reactor_run(struct reactor *r);
/** Any thread. Makes reactor_run() return once its current turn ends. */
void reactor_stop(struct reactor *r);
/** After reactor_run() returned (or was never called). NULL is fine. */
void reactor_destroy(struct reactor *r);

/** The reactor whose thread is calling, or NULL. */
struct reactor *reactor_self(void);
/** Time at the start of this turn, in ns of CLOCK_MONOTONIC; cheap. */
uint64_t reactor_now(const struct reactor *r);
const struct reactor_features *reactor_features(const struct reactor *r);
struct io_uring *reactor_ring(struct reactor *r);
/** The reactor's pool of I/O buffers (event/iobuf.h). */
struct iobuf_pool *reactor_iobufs(struct reactor *r);
unsigned reactor_index(const struct reactor *r);
/** Whether the loop is ending: what is cancelled now must not be started again. */
bool reactor_stopping(const struct reactor *r);

struct reactor_stats {
	uint64_t turns;	 /* of the loop: an idle reactor makes none */
	uint64_t sleeps; /* system calls that may have blocked */
	uint64_t spins;	 /* spins that found work */
	uint64_t completions, messages, timers;
};

/** Any thread. */
void reactor_stats(const struct reactor *r, struct reactor_stats *ret_stats);

/* --- a set of N reactors, each on a thread of its own --- */

struct reactor_set;

/** Starts @n (>= 1) threads; returns when all rings are set up, or -errno with none left running.
 */
int reactor_set_start(unsigned n, const struct reactor_options *opt, struct reactor_set **ret_set);
unsigned reactor_set_count(const struct reactor_set *s);
struct reactor *reactor_set_get(struct reactor_set *s, unsigned i);
/** Any thread. The reactor that has been given the fewest objects: round robin. */
struct reactor *reactor_set_next(struct reactor_set *s);
/** Stops all, joins the threads, frees. */
void reactor_set_stop(struct reactor_set *s);
