/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The range lock of a LUN: which byte ranges are being read, written, or changed indivisibly.
 *
 *   holds:            SHARED  EXCLUSIVE  ATOMIC
 *   wants SHARED       yes      yes       no     plain reads; a torn plain write is the initiator's
 *   wants EXCLUSIVE    yes      no        no     plain writes
 *   wants ATOMIC       no       no        no     COMPARE AND WRITE, atomic writes
 *
 * A request that conflicts with a holder, or with an earlier waiter, waits; waiters are granted in
 * order. Grants are delivered on the waiter's reactor by message (or to the blocked thread).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/lock.h"
#include "event/reactor.h"

enum range_lock_mode { RANGE_SHARED, RANGE_EXCLUSIVE, RANGE_ATOMIC };

struct range_lock {
	struct mutex lock;
	struct list_node held[3]; /* by mode; under lock */
	struct list_node waiting; /* FIFO; under lock */
	uint64_t unit;		  /* ranges are widened to it for writers; a power of two */
};

struct range_lock_req {
	/* --- set by range_lock_acquire --- */
	uint64_t start, end; /* [start, end) */
	enum range_lock_mode mode;
	struct reactor *reactor; /* NULL: a blocking thread waits */
	void (*granted)(struct range_lock_req *q);
	/* --- the table's --- */
	struct range_lock_req *pair; /* granted together with this one; NULL: none */
	struct list_node link;
	struct list_node post; /* granted, to be told */
	bool held;
	struct reactor_msg msg;
	pthread_cond_t *cond;
};

void range_lock_init(struct range_lock *rl, uint64_t unit);
void range_lock_destroy(struct range_lock *rl);
/**
 * Returns true when the range is held at once (granted is not called), false when @q waits: granted
 * is then called once on @reactor's thread. @len 0 is held at once and conflicts with nothing.
 */
bool range_lock_acquire(struct range_lock *rl, struct range_lock_req *q, enum range_lock_mode mode,
			uint64_t off, uint64_t len, struct reactor *reactor,
			void (*granted)(struct range_lock_req *q));
/**
 * The same for two ranges at once: both are granted together, and do not conflict with each other.
 * granted is called with @q. Each is released by itself. Whoever needs two ranges of one lock must
 * ask this way: waiting for the second with the first in hand can deadlock.
 */
bool range_lock_acquire_pair(struct range_lock *rl, struct range_lock_req *q,
			     enum range_lock_mode mode, uint64_t off, struct range_lock_req *q2,
			     enum range_lock_mode mode2, uint64_t off2, uint64_t len,
			     struct reactor *reactor, void (*granted)(struct range_lock_req *q));
/** Both blocking forms: wait until it is held. Return whether they had to wait. */
bool range_lock_acquire_pair_blocking(struct range_lock *rl, struct range_lock_req *q,
				      enum range_lock_mode mode, uint64_t off,
				      struct range_lock_req *q2, enum range_lock_mode mode2,
				      uint64_t off2, uint64_t len);
/** Blocks the calling thread until the range is held. Returns whether it had to wait. */
bool range_lock_acquire_blocking(struct range_lock *rl, struct range_lock_req *q,
				 enum range_lock_mode mode, uint64_t off, uint64_t len);
void range_lock_release(struct range_lock *rl, struct range_lock_req *q);
