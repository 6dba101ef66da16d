/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's slots: which are free, and which hold pages that nobody needs any more.
 *
 * Taking is one compare-and-swap, always of the lowest free slot: a client with few requests in
 * flight stays on few slots, whose pages are warm, and the pages of the others go back. Time is
 * counted in the ticks of the keeper, so that a request reads no clock.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "front/port/port_spec.h"

static_assert(PORT_SLOTS == 64, "a bit a slot");
#define PORT_SLOTS_ALL UINT64_MAX

struct port_slots {
	_Atomic uint64_t free;	  /* bit i: slot i is free */
	_Atomic uint32_t waiters; /* threads in port_slots_take() or _wait_all() that wait */
	_Atomic uint32_t tick;	  /* advanced by port_slots_tick() */
	struct mutex lock;	  /* for waiting only */
	pthread_cond_t freed;	  /* with lock */
	/* Owned by whoever has taken the slot: */
	uint32_t touched[PORT_SLOTS];	/* bytes from the slot's start that may have pages */
	uint32_t last_tick[PORT_SLOTS]; /* when it was last used */
};

void port_slots_init(struct port_slots *s);
void port_slots_destroy(struct port_slots *s);
/** Takes the lowest free slot; waits for one when all are taken. Returns its number. */
uint32_t port_slots_take(struct port_slots *s);
/** Takes the lowest free slot. Returns its number, or -1 when all are taken. */
int port_slots_try_lowest(struct port_slots *s);
/** Takes slot @tag if it is free. */
bool port_slots_try(struct port_slots *s, uint32_t tag);
/** Takes all slots if all are free. */
bool port_slots_try_all(struct port_slots *s);
void port_slots_put(struct port_slots *s, uint32_t tag);
void port_slots_put_all(struct port_slots *s);
/** Waits until all slots are free, and takes them. */
void port_slots_wait_all(struct port_slots *s);
/** The holder of @tag is about to touch @bytes from its start. */
void port_slots_touch(struct port_slots *s, uint32_t tag, uint32_t bytes);
