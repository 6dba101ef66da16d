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

	/* --- requests that are submitted: port_async.c; unused without opt.async --- */
	pthread_t reaper;
	_Atomic bool reaper_stops;
	bool reaper_inside; /* it may be using the link; under state_lock */
	struct mutex waiting_lock;
	struct list_node waiting; /* under waiting_lock: those that have no slot yet */
	_Atomic uint32_t n_waiting;
	_Atomic uint64_t in_flight; /* bit i: in_slot[i] is sent. Who clears it has the request */
	struct port_async *in_slot[PORT_SLOTS];
	_Atomic uint32_t holds[PORT_SLOTS]; /* of a slot with a request: who sends it, and it */

	_Atomic uint32_t replaying;  /* changes that a lost link left unanswered */
	_Atomic uint32_t trim_armed; /* 1: the keeper ticks until all pages are back */
	_Atomic uint32_t kicked;     /* 1: the peer misbehaves, drop the link */
	_Atomic uint32_t stopping;
	_Atomic uint64_t ops, reconnects, replays, doorbells, sleeps;
	_Atomic uint32_t spin_score; /* 0..64, how often spinning has paid lately; a hint */
};

/* --- port_client.c --- */

/** Puts @cmd into the ring. Its slot is the caller's. */
void port_client_push(struct port_client *c, const struct port_cmd_image *cmd);
/** Lets a slot go, for whoever waits for one. */
void port_client_put_slot(struct port_client *c, uint32_t tag);
/** Has the keeper look after the pages of the slots from now on. */
void port_client_arm_trim(struct port_client *c);
/** From now on @cmd is one that the lost daemon may have carried out. The caller holds a slot. */
void port_client_mark_replay(struct port_client *c, struct port_cmd_image *cmd);
/** @cmd has come to its end. */
void port_client_end_replay(struct port_client *c, struct port_cmd_image *cmd);
/** Looks for some microseconds whether @ready(@at), as long as that pays; returns whether it is. */
bool port_client_spin(struct port_client *c, bool (*ready)(void *at), void *at);
/** What @result of an op without a count means: 0 or -errno, whatever the daemon gave. */
int port_client_result(int result);

/* --- port_async.c --- */

int port_async_start(struct port_client *c);
/** Ends the reaper. No request is in flight. */
void port_async_stop(struct port_client *c);
/** Any thread: the reaper looks at the state and at what waits. */
void port_async_kick(struct port_client *c);
/** Waits until the reaper does not use the link. The state is not UP. */
void port_async_wait_outside(struct port_client *c);

/* --- port_keeper.c --- */

/** Starts a thread that gets no signals. 0 or -errno. */
int port_thread_start(pthread_t *ret_thread, size_t stack, void *(*main)(void *), void *arg);
int port_keeper_start(struct port_client *c);
/** Ends the thread. No request is in flight. */
void port_keeper_stop(struct port_client *c);
/** Any thread. */
void port_keeper_wake(struct port_client *c);
/** A port_punch: frees pages of the link's memory. The keeper's thread. */
void port_keeper_punch(void *client, uint64_t off, uint64_t len);
/** Any thread: lets the claim of a lost link go unless there are replays. */
void port_keeper_drop_claim(struct port_client *c);
