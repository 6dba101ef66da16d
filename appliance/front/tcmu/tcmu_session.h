/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A TCMU device that is open: its commands go from the ring to the device server and back, all on
 * one reactor. LIO merges the initiators of a backstore, so that there is one I_T nexus.
 *
 *	RUNNING --stop, or a broken ring--> DRAINING --nothing in flight--> RELEASING --> ENDED
 *
 * Its owner lives on another reactor, @home, and is the only one to call stop and free.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "event/worker.h"
#include "front/tcmu/tcmu_kernel.h"
#include "front/tcmu/tcmu_ring.h"
#include "scsi/scsi.h"

#define TCMU_DEPTH 256 /* commands in flight, at most: LIO has 128; the rest waits in the ring */

enum tcmu_session_state {
	TCMU_RUNNING,
	TCMU_DRAINING,
	TCMU_RELEASING,
	TCMU_ENDED,
};

struct tcmu_session;

struct tcmu_session_options {
	struct reactor *reactor, *home;
	const char *name;	     /* of the SCSI target, and in the log */
	struct scsi_lu *lu;	     /* shown as LUN 0 */
	struct tcmu_channel channel; /* taken over, with what is in its ring */
	/* On @home, once: all is released. @broken: the reason (constant text), NULL: it was
	 * stopped. */
	void (*ended)(struct tcmu_session *s, const char *broken);
	void *owner;
};

/** Any thread. -ENOMEM, -EPROTO with a reason: then the channel is still the caller's. */
int tcmu_session_start(const struct tcmu_session_options *opt, struct tcmu_session **ret_s,
		       struct reason *why);
/**
 * On @home. Takes nothing more from the ring, ends what was taken, closes the channel: ended()
 * comes. What was not taken waits in the kernel. To be called once at most, not after ended().
 */
void tcmu_session_stop(struct tcmu_session *s);
/** On @home, from ended() on. */
void tcmu_session_free(struct tcmu_session *s);
void *tcmu_session_owner(const struct tcmu_session *s);

struct tcmu_session_info {
	uint64_t since_ns; /* CLOCK_MONOTONIC */
	uint64_t commands, read_bytes, written_bytes, errors;
	unsigned inflight;
};
/** Any thread, while the session is there. */
void tcmu_session_get_info(const struct tcmu_session *s, struct tcmu_session_info *ret_info);
