/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's slots: which may be used, and which hold pages that nobody needs any more.
 *
 * Which slots have pages, which to use next and which to empty is decided by a data area
 * (data_area/data_area.h) whose blocks are the slots. But a request must not pay for that: so slots
 * are taken from the area once, and stay *ours* when a request is done with them. Those of ours
 * that nobody uses are bits of one word, and taking the lowest is a compare-and-swap. Only when
 * there is none, which is when more requests are in flight than before, is the area asked, under a
 * lock.
 *
 * Every idle_ms the keeper calls port_slots_trim(): what nobody uses at that moment goes back to
 * the area, to be taken again by the next request. What was not taken again by the time of the
 * next call is idle, and then the area's policy empties as many of them as have not been needed
 * lately. No request reads a clock for it, unless it asks the area.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "front/port/port_spec.h"

static_assert(PORT_SLOTS == 64, "a bit a slot");

struct data_area;
struct data_budget;

/** Frees the pages at [off, off + len) of the data area. */
typedef void port_punch(void *ctx, uint64_t off, uint64_t len);

struct port_slots {
	/* constant */
	struct data_budget *budget; /* without a limit */
	struct data_area *area;
	port_punch *punch;
	void *ctx;

	_Atomic uint64_t free;	  /* bit i: slot i is ours and nobody uses it */
	_Atomic bool more;	  /* the area may have a slot for us; written under lock */
	_Atomic uint32_t waiters; /* threads that wait for `freed` */
	struct mutex lock;
	pthread_cond_t freed; /* with lock */
	/* under lock */
	uint64_t ours; /* bit i: slot i is taken from the area */
	bool closed;   /* all are in one hand */
};

/** -ENOMEM. @punch is called by port_slots_trim() and _forget(), without locks held. */
int port_slots_init(struct port_slots *s, uint32_t idle_ms, port_punch *punch, void *ctx);
/** Nobody uses a slot. One of zeros is fine. */
void port_slots_destroy(struct port_slots *s);
/** Takes the lowest slot that is ready; waits for one when all are taken. Returns its number. */
uint32_t port_slots_take(struct port_slots *s);
/** As port_slots_take(), but it does not wait: -1 when there is none. */
int port_slots_try(struct port_slots *s);
/** Whether port_slots_try() is worth trying. */
bool port_slots_any(struct port_slots *s);
void port_slots_put(struct port_slots *s, uint32_t tag);

/** Takes all slots if nobody uses any. */
bool port_slots_try_all(struct port_slots *s);
/** Waits until nobody uses a slot, and takes them all. */
void port_slots_wait_all(struct port_slots *s);
void port_slots_put_all(struct port_slots *s);

/** Empties slots that were idle. Returns whether any still has, or may get, pages. One thread. */
bool port_slots_trim(struct port_slots *s);
/** All slots are in hand: none has pages any more. */
void port_slots_forget(struct port_slots *s);
/**
 * Until port_slots_unpin() nobody takes all slots. False: somebody has them. For a moment only: no
 * slot but those that are ready can be taken meanwhile.
 */
bool port_slots_pin(struct port_slots *s);
void port_slots_unpin(struct port_slots *s);
