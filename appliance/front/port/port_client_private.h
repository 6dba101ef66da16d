/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the port's client share. */
#pragma once

#include <pthread.h>

#include "base/lock.h"
#include "front/port/port_client.h"
#include "front/port/port_slots.h"

/** A connection that is attached. */
struct port_link {
	int sock, doorbell, memfd; /* -1: none */
	int claim;		   /* has the next daemon wait for our replays; -1: none */
	void *shm;		   /* PORT_SHM_SIZE bytes, or NULL */
	struct port_export export;
};
#define PORT_LINK_NONE ((struct port_link){.sock = -1, .doorbell = -1, .memfd = -1, .claim = -1})

/** Connects, shakes hands and attaches. Errors as port_client_open(). */
int port_link_open(struct port_link *ret_link, const struct port_client_options *opt,
		   struct reason *why);
/** Idempotent. */
void port_link_close(struct port_link *l);
/** Copies a checked export. */
void port_export_from_wire(struct port_export *ret_export, const struct port_export_wire *w);

enum client_state {
	CLIENT_UP,     /* attached */
	CLIENT_DOWN,   /* the daemon has gone; requests wait */
	CLIENT_FAILED, /* for too long: requests fail, the keeper goes on trying */
	CLIENT_GONE,   /* the LUN was removed: for good */
};
/* UP -> DOWN -> UP | FAILED; FAILED -> UP; UP | DOWN | FAILED -> GONE */

struct port_client {
	/* constant after open */
	struct port_client_options opt; /* strings are ours */
	int wake;			/* eventfd: the keeper has something to look at */
	pthread_t keeper;

	/*
	 * The link may be used by who holds a slot and has seen CLIENT_UP since he took it. The
	 * keeper changes it while it holds all slots.
	 */
	struct port_link link;
	struct port_slots slots;

	struct mutex ring_lock; /* one submitter at a time */
	uint32_t tail;		/* under ring_lock */

	_Atomic int state;	 /* enum client_state; changed by the keeper under state_lock */
	struct mutex state_lock; /* also export and old_claim */
	pthread_cond_t state_changed;
	struct port_export export;
	int old_claim; /* of the link that was lost, while there are replays; else -1 */

	_Atomic uint32_t replaying;  /* changes that a lost link left unanswered */
	_Atomic uint32_t trim_armed; /* 1: the keeper ticks until all pages are back */
	_Atomic uint32_t kicked;     /* 1: the peer misbehaves, drop the link */
	_Atomic uint32_t stopping;
	_Atomic uint64_t ops, reconnects, replays, doorbells, sleeps;
	_Atomic uint32_t spin_score; /* 0..64, how often spinning has paid lately; a hint */
};

int port_keeper_start(struct port_client *c);
/** Ends the thread. No request is in flight. */
void port_keeper_stop(struct port_client *c);
/** Any thread. */
void port_keeper_wake(struct port_client *c);
/** Any thread: lets the claim of a lost link go unless there are replays. */
void port_keeper_drop_claim(struct port_client *c);
