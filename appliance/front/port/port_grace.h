/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The grace period of a daemon that starts: clients of an earlier one finish what they had in
 * flight before anybody else begins (docs/port.md, "Replays"; NFSv4 servers do the same for locks,
 * RFC 8881 8.4.2.1).
 *
 *	REPLAYS: replayed commands are let in, others wait
 *	   | no claim of an earlier generation is left, or the time is up
 *	CLOSING: replayed commands are refused; those let in are being submitted
 *	   | they have been
 *	OVER:	 replayed commands are refused, others are let in
 *
 * A claim is a lock (fcntl(2), F_OFD_SETLK) on a byte of the file PORT.grace beside the port's
 * socket. Its offset is the generation: the time since boot, in nanoseconds, when the daemon
 * started. The daemon takes it for each client, in an open file description of the client's own,
 * hands that over and keeps no copy. So it lasts until the client lets it go or dies, whatever
 * becomes of the daemon; the kernel keeps the record, and it cannot be stale.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/reason.h"
#include "event/reactor.h"

enum port_grace_state { PORT_GRACE_REPLAYS, PORT_GRACE_CLOSING, PORT_GRACE_OVER };

struct port_grace {
	/* constant after open */
	int fd; /* of PORT.grace */
	uint64_t generation;
	struct reactor *reactor;
	void (*over)(struct port_grace *g);

	/* any thread */
	_Atomic int state;	   /* enum port_grace_state; set on the reactor's thread */
	_Atomic unsigned entering; /* replays between port_grace_enter() and _leave() */

	/* owned by the reactor's thread */
	struct reactor_timer timer;
	uint64_t begun_ns;
};

/** Opens the file beside @port_socket, and begins a generation. -errno, with a reason. */
int port_grace_open(struct port_grace *g, const char *port_socket, struct reason *why);
/** The file stays, as claims may. */
void port_grace_close(struct port_grace *g);
/** Makes a claim for a client: a descriptor to be handed over and closed. -errno. */
int port_grace_claim(const struct port_grace *g, int *ret_fd);
/** Begins the period; @over is called at its end. Both on the thread of @r. */
void port_grace_begin(struct port_grace *g, struct reactor *r, void (*over)(struct port_grace *g));
/** Whether it has begun or not; on the same thread. It does not end any more. */
void port_grace_stop(struct port_grace *g);

/** Any thread; all that is asked of a command that is not replayed. */
static inline bool port_grace_is_over(const struct port_grace *g)
{
	return atomic_load_explicit((_Atomic int *)&g->state, memory_order_acquire) ==
	       PORT_GRACE_OVER;
}

/** Returns whether a replayed command is let in: then it is submitted, and the caller leaves. */
bool port_grace_enter(struct port_grace *g);
void port_grace_leave(struct port_grace *g);
