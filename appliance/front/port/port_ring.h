/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's end of a ring: takes commands out of shared memory that a hostile client may be
 * changing at this very moment, and puts results back. Nothing here believes what it reads: a
 * command is copied out once, then checked, then used.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "front/port/port_spec.h"

/** Private to the daemon. Used by one thread. */
struct port_ring {
	void *shm;
	unsigned version;
	uint32_t head;	   /* commands ever taken, modulo 2^32 */
	uint64_t inflight; /* bit i: slot i has a command that is not completed */
	uint64_t notify;   /* bit i: and its end is told in port_box.done */
	/* Who is to be woken by port_ring_wake(): */
	uint64_t sleepers; /* bit i: the waiter of slot i */
	bool reaper;	   /* who takes port_box.done, should he sleep */
};

/** A checked command. */
struct port_request {
	uint32_t tag;
	enum port_op op;
	unsigned flags;
	uint64_t off, len; /* off + len does not overflow; len fits the op */
	uint32_t room;
};

static_assert(PORT_SLOTS == 64, "port_ring.inflight has a bit for each slot");

/** @shm: PORT_META_SIZE bytes at least, zeroed. @version: of the protocol, as HELLO settled it. */
void port_ring_init(struct port_ring *r, void *shm, unsigned version);
/**
 * Returns 1 and the next command, its slot being in flight from now on; 0 when there is none;
 * -EPROTO when the client has broken the protocol, *@ret_what saying how (a static string).
 */
int port_ring_take(struct port_ring *r, struct port_request *ret_req, const char **ret_what);
/** The COMPARE_AND_WRITE of slot @tag has compared equal, and writes from now on. */
void port_ring_matched(struct port_ring *r, uint32_t tag);
/**
 * Publishes the result of the command of slot @tag, which is in flight, and frees the slot. Returns
 * whether port_ring_wake() is due.
 */
bool port_ring_complete(struct port_ring *r, uint32_t tag, int32_t result);
/** Whether port_ring_wake() is due. */
bool port_ring_wake_due(const struct port_ring *r);
/** Wakes all who sleep and whose commands are done. Returns how many. */
unsigned port_ring_wake(struct port_ring *r);
/** Whether there is something to take, be it a breach. */
bool port_ring_ready(const struct port_ring *r);
/**
 * Asks for the doorbell to be rung from now on. Returns false when a command has come in the
 * meantime: then take it; the doorbell need not ring, but may.
 */
bool port_ring_sleep(struct port_ring *r);
