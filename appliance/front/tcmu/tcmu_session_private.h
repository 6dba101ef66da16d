/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the session and its commands share. All of it is on the session's reactor, but as marked. */
#pragma once

#include "base/metric.h"
#include "front/tcmu/tcmu_session.h"

#define TCMU_SEGS 4 /* pieces of data for which a command has room of its own */

/** A command being carried out. */
struct tcmu_cmd {
	struct scsi_cmd scsi;
	struct tcmu_session *session;
	struct list_node link;	    /* session->live, in order of arrival; ->untold; ->spare */
	struct list_node once_link; /* session->once */
	uint64_t seq;		    /* of arrival */
	uint32_t at;		    /* its entry, offset in the ring */
	uint16_t id;
	bool ended;
	struct tcmu_result result; /* then */
	bool waiting;		   /* for memory of data-out */
	bool aborted;		   /* by others: ends with TASK ABORTED */
	struct iobuf_waiter mem_wait;
	uint8_t cdb[TCMU_RING_CDB_MAX];
	/* its data in the map: */
	uint32_t total; /* bytes */
	int n_seg;
	struct iovec *seg; /* @own, or malloc'ed */
	struct iovec own[TCMU_SEGS];
};

struct tcmu_session {
	/* --- constant --- */
	struct reactor *reactor, *home;
	struct tcmu_channel channel;
	struct scsi_target *target;
	char *name;
	void (*ended)(struct tcmu_session *s, const char *broken);
	void *owner;
	uint64_t since_ns;

	/* --- the session's thread --- */
	enum tcmu_session_state state;
	const char *broken; /* NULL: not */
	struct tcmu_ring ring;
	struct scsi_nexus nexus;
	bool attached; /* the nexus */
	struct reactor_op poll_op;
	bool armed;		      /* the device is watched */
	struct reactor_poller poller; /* on while the kernel brings commands */
	unsigned idle_turns;
	struct reactor_task kick; /* tells the kernel what has ended, once a turn */
	bool owed;		  /* something has since the last one ... */
	uint64_t owed_bytes;	  /* ... which is so much to copy for the kernel */
	struct worker_job aside;  /* a kick by another thread */
	bool kicking;		  /* it is under way */
	struct list_node live, spare;
	struct list_node untold;  /* have ended: the next entry is one's of @once */
	struct list_node once;	  /* commands not to be carried out twice, live or ended */
	unsigned n_live, n_spare; /* n_live: with those that have ended */
	uint64_t seq;
	struct list_node aborts; /* struct tcmu_abort, waiting for commands to end */
	unsigned n_tmfs;	 /* device server's task management on its way */
	struct worker_job release;

	/* --- any thread --- */
	struct reactor_msg start_msg, stop_msg, ended_msg, free_msg;
	atomic_uint aborts_posted;
	struct lun_counters counters;
	metric_counter commands, errors;
	atomic_uint inflight; /* n_live, for others to look at */
};

/* tcmu_command.c */
/** For a command that is going to be taken, or NULL. */
struct tcmu_cmd *tcmu_command_get(struct tcmu_session *s);
/** Of one that was not taken, or that was told. */
void tcmu_command_put(struct tcmu_cmd *c);
/** Carries out the command just taken; it ends now or later. */
void tcmu_command_start(struct tcmu_cmd *c, const struct tcmu_entry *e);
/** Aborts @c; it ends soon. */
void tcmu_command_abort(struct tcmu_cmd *c);
void tcmu_command_free_spare(struct tcmu_session *s);

/* tcmu_session.c */
/** The ring is not to be used any more. */
void tcmu_session_fail(struct tcmu_session *s, const char *what);
/** A command has ended: whoever has waited for it goes on. */
void tcmu_session_ended_one(struct tcmu_session *s);
/** @c has ended, with its result: tells the kernel, maybe later, and puts it. */
void tcmu_session_tell(struct tcmu_cmd *c);

/* tcmu_abort.c */
extern const struct scsi_nexus_ops tcmu_nexus_ops;
void tcmu_abort_take(struct tcmu_session *s, const struct tcmu_entry *e);
/** Calls back those aborts whose commands have all ended. */
void tcmu_abort_check(struct tcmu_session *s);
