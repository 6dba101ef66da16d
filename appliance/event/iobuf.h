/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * I/O buffers: contiguous, page-aligned, one pool a reactor, used on its thread only (so no lock).
 * Chunks of IOBUF_MAX bytes are mapped when needed, registered with the ring where the kernel and
 * RLIMIT_MEMLOCK allow (READ_FIXED/WRITE_FIXED), split by a buddy scheme, and given back to the
 * system when they have been idle.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

#define IOBUF_MIN 4096u
#define IOBUF_MAX (4u << 20) /* also the longest transfer of one SCSI command */

struct reactor;
struct iobuf_pool;

struct iobuf {
	uint8_t *data;
	uint32_t cap;  /* bytes, a power of two, >= what was asked for */
	int reg_index; /* index of the registered buffer that holds it, or -1 */
	struct iobuf_pool *pool;
	/* the pool's: */
	void *chunk;
	uint8_t order; /* cap == IOBUF_MIN << order */
	uint8_t state;
	struct list_node link;
};

/** Somebody who waits for memory of a pool. */
struct iobuf_waiter {
	void (*fn)(struct iobuf_waiter *w); /* memory may be there now: try again */
	uint32_t want;			    /* the pool's: bytes that could not be had */
	struct list_node link;
};

/**
 * Returns a buffer of at least @len (1..IOBUF_MAX) bytes, contents undefined, or NULL when the
 * pool's limit or the system's memory does not allow it, or others wait for as much: then wait
 * (iobuf_wait) or refuse.
 */
struct iobuf *iobuf_get(struct iobuf_pool *p, size_t len);
void iobuf_put(struct iobuf *b); /* NULL is fine */
void iobuf_waiter_init(struct iobuf_waiter *w, void (*fn)(struct iobuf_waiter *w));
/**
 * Queues @w (first come, first served); it is called once, from a deferred task. To be called right
 * after the iobuf_get() that failed. One that waits again keeps its place.
 */
void iobuf_wait(struct iobuf_pool *p, struct iobuf_waiter *w);
void iobuf_wait_cancel(struct iobuf_waiter *w);

/** Changes the limit. Memory above it goes back as it becomes free. */
void iobuf_pool_set_limit(struct iobuf_pool *p, uint64_t bytes);
/** Gives all that is not in use back to the system now. Returns the bytes given back. */
uint64_t iobuf_pool_trim(struct iobuf_pool *p);

struct iobuf_stats {
	uint64_t mapped_bytes, used_bytes, limit_bytes, registered_bytes, waits, returned_bytes;
};
/** Any thread. */
void iobuf_pool_stats(const struct iobuf_pool *p, struct iobuf_stats *ret_stats);
