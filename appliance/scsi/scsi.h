/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The SCSI device server: CDBs become LUN I/O. Knows nothing of iSCSI or TCMU.
 *
 *   scsi_target   a SCSI target device: its map of LUN numbers to logical units, its I_T nexuses
 *   scsi_lu       a logical unit: the SCSI face of one struct lun (reservations, mode pages, UAs);
 *                 one LUN has one, however many targets show it
 *   scsi_nexus    an I_T nexus: one initiator port on one target port (an iSCSI session)
 *   scsi_cmd      a command in flight, owned by the front
 *
 * Life of a command, all on nexus->reactor's thread:
 *   1. the front fills the "in" part and calls scsi_cmd_parse(): the CDB is found in the opcode
 * table, dir and data_len tell what the CDB moves. A refusal here is remembered, data_len is then
 * 0.
 *   2. the front brings min(data_len, its own expected length) bytes of data-out into cmd->out.
 *   3. scsi_cmd_execute(): later, done() is called exactly once with status, sense, and data-in in
 *      cmd->in. scsi_cmd_release() then gives back what the command holds.
 * Ordering: task attributes SIMPLE, ORDERED, HEAD OF QUEUE are accepted; SIMPLE may be reordered
 * (QUEUE ALGORITHM MODIFIER 1), overlapping writes are kept in order of arrival by the LUN.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"
#include "base/lock.h"
#include "base/reason.h"
#include "event/iobuf.h"
#include "event/reactor.h"
#include "lun/lun.h"

#define SCSI_SENSE_MAX 64
#define SCSI_CDB_MAX   260
#define SCSI_LUNS_MAX  256 /* per target */

enum scsi_status {
	SCSI_GOOD = 0x00,
	SCSI_CHECK_CONDITION = 0x02,
	SCSI_CONDITION_MET = 0x04,
	SCSI_BUSY = 0x08,
	SCSI_RESERVATION_CONFLICT = 0x18,
	SCSI_TASK_SET_FULL = 0x28,
	SCSI_ACA_ACTIVE = 0x30,
	SCSI_TASK_ABORTED = 0x40,
};

enum scsi_dir { SCSI_DIR_NONE, SCSI_DIR_OUT /* initiator -> target */, SCSI_DIR_IN };

struct scsi_target;
struct scsi_lu;
struct scsi_nexus;
struct scsi_opcode; /* a row of the opcode table */
struct scsi_itl;    /* an I_T_L nexus */

struct scsi_cmd {
	/* --- in: set by the front before scsi_cmd_parse() --- */
	struct scsi_nexus *nexus;
	uint64_t lun;	    /* the 8 byte LUN field as a big-endian number (SAM-5 4.7) */
	const uint8_t *cdb; /* stays valid until done */
	uint16_t cdb_len;
	uint8_t attr; /* task attribute: 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA */
	void (*done)(struct scsi_cmd *cmd);
	/*
	 * Of a command that is @once, for fronts whose transport outlives the process; may be NULL;
	 * must not block. matched(): the command is going to change the medium; settled(): it has
	 * (io.err 0), or it failed. Nobody else gets at its blocks between the two, and before
	 * settled() has returned. Without matched() nothing was changed.
	 */
	void (*matched)(struct scsi_cmd *cmd);
	void (*settled)(struct scsi_cmd *cmd);

	/* --- after parse --- */
	enum scsi_dir dir;
	uint32_t data_len; /* bytes the CDB moves in that direction at most (<= IOBUF_MAX) */
	bool direct;	   /* @seg may be used */
	bool once;	   /* COMPARE AND WRITE: to be carried out twice would fail or do harm */

	/*
	 * --- the front's memory for exactly data_len bytes, which the LUN reads or writes without
	 * a copy of ours: set before execute instead of @out (and no @in is made); untouched by
	 * others until done ---
	 */
	const struct iovec *seg;
	int n_seg; /* 0: not used */

	/* --- data-out: set by the front before execute --- */
	struct iobuf *out; /* the front's; NULL when there is none */
	uint32_t out_len;  /* bytes of data-out that arrived (may be less than data_len) */
	bool out_excess; /* the initiator has more than data_len to send; it is not asked for it */

	/* --- result --- */
	enum scsi_status status;
	uint8_t sense[SCSI_SENSE_MAX];
	uint8_t sense_len;
	struct iobuf *in; /* data-in, the command's until scsi_cmd_release(); may be NULL */
	uint32_t in_len;  /* valid bytes in it (also with CHECK CONDITION: what was moved before) */

	/* --- the device server's --- */
	const struct scsi_opcode *op;
	struct scsi_lu *lu;   /* valid from parse to release; NULL: no such logical unit */
	struct scsi_itl *itl; /* what holds it */
	uint64_t lba;	      /* of the CDB, where it has one */
	uint32_t blocks;      /* likewise: the number of logical blocks */
	struct lun_io io;
	struct iovec iov; /* io's */
	struct iobuf_waiter mem_wait;
	void *priv; /* state of a command of several steps (EXTENDED COPY, UNMAP lists) */
	void (*priv_free)(void *priv);
	void (*next)(struct scsi_cmd *cmd);	/* goes on when there is memory */
	void (*on_abort)(struct scsi_cmd *cmd); /* of a command that waits long: may end it */
	int step;
	bool aborted;
	bool parsing, refused; /* within scsi_cmd_parse(); it has set status and sense */
	bool waiting;	       /* queued on the pool for memory */
};

void scsi_cmd_parse(struct scsi_cmd *cmd);
void scsi_cmd_execute(struct scsi_cmd *cmd);
/** Drops what @cmd holds. Also after scsi_cmd_parse() alone. */
void scsi_cmd_release(struct scsi_cmd *cmd);
/**
 * Ends what a process before this one began: the write of a command that is @once, with the CDB
 * @cdb (16 bytes) and @len bytes of data-out, which that process had told to be matched, and not to
 * be settled. Nobody else may have written since. Blocks. -EINVAL: it is no such command; or as
 * lun_run().
 */
int scsi_redo(struct scsi_lu *lu, const uint8_t *cdb, const void *data_out, size_t len);
/**
 * Asks a running command to end early: commands of several steps stop between them. done() still
 * runs; whether a response is sent is the front's business (it is not, after ABORT TASK).
 */
void scsi_cmd_abort(struct scsi_cmd *cmd);

/* --- I_T nexus --- */

enum scsi_event {
	SCSI_EVENT_LUNS_CHANGED,     /* 3F/0E: it came or went */
	SCSI_EVENT_CAPACITY_CHANGED, /* 2A/09 */
	SCSI_EVENT_COUNT
};

/** What a device server asks its front for. */
struct scsi_nexus_ops {
	/*
	 * Any thread. On another thread than the nexus's own, locks of the device server are held:
	 * post a message and return. Abort all commands of
	 * this nexus on @lu (NULL: on all), because another nexus said so (CLEAR TASK SET, LUN
	 * RESET, PREEMPT AND ABORT) - with status TASK ABORTED when @tas, silently otherwise; call
	 * fin(arg) when none is left.
	 */
	void (*abort_all)(struct scsi_nexus *nx, struct scsi_lu *lu, bool tas,
			  void (*fin)(void *arg), void *arg);
	/* Any thread, locks of the device server are held: do not call back into it. LUN @lun
	 * (0..255) came, went or changed: the front may tell the initiator (iSCSI async message).
	 * Optional. */
	void (*event)(struct scsi_nexus *nx, unsigned lun, enum scsi_event ev);
};

struct scsi_nexus {
	/* --- set by the front, constant until scsi_nexus_detach() --- */
	const struct scsi_nexus_ops *ops;
	const char *protocol; /* of the front: exports are called PROTOCOL/TARGET/LUN */
	struct scsi_target *target;
	struct reactor *reactor;
	uint8_t transport_id[256]; /* SPC-4 7.6.4, of the initiator port */
	uint16_t transport_id_len;
	uint16_t rel_port;	  /* relative target port identifier of the target port, 1.. */
	char initiator_name[224]; /* for ACL checks and reports */
	/* Whether @initiator may see LUs of another target, for third-party copy; NULL: only its
	 * own target. */
	bool (*may_see)(struct scsi_nexus *nx, struct scsi_target *other);
	struct lun_counters *counters; /* the session's, its I/O is counted there too; or NULL */
	/* The initiators have not noticed that it is new: no POWER ON unit attention. */
	bool seamless;

	/* --- the device server's --- */
	struct list_node link; /* target's nexuses; under its lock */
	struct list_node itls; /* per-LU state of this nexus */
	uint64_t id;	       /* unique in the process, never reused */
	uint64_t name_hash;    /* of its name in registrations; constant */
};

/**
 * Enters @nx in its target; a unit attention (power on / reset) is pending for each LU, unless it
 * is seamless. -ENOMEM.
 */
int scsi_nexus_attach(struct scsi_nexus *nx);
/**
 * I_T nexus loss (SAM-5 6.3.4): RESERVE(6) reservations and prevents go; persistent ones stay. All
 * commands of @nx have been released.
 */
void scsi_nexus_detach(struct scsi_nexus *nx);

/* --- task management (SAM-5 clause 7) --- */

enum scsi_tmf {
	SCSI_TMF_ABORT_TASK_SET,
	SCSI_TMF_CLEAR_TASK_SET,
	SCSI_TMF_CLEAR_ACA,
	SCSI_TMF_LUN_RESET,
	SCSI_TMF_TARGET_WARM_RESET,
	SCSI_TMF_TARGET_COLD_RESET, /* the front drops the sessions afterwards */
};
enum scsi_tmf_result { SCSI_TMF_COMPLETE, SCSI_TMF_REJECTED, SCSI_TMF_NO_LUN };

struct scsi_tmf_req {
	struct scsi_nexus *nexus;
	enum scsi_tmf fn;
	uint64_t lun;
	void (*done)(struct scsi_tmf_req *req); /* on nexus->reactor */
	enum scsi_tmf_result result;
	/* the device server's */
	_Atomic int pending;
	struct reactor_msg msg;
	struct scsi_lu *lu;
};
/** Own-nexus tasks are aborted through nexus->ops->abort_all like those of others. */
void scsi_tmf(struct scsi_tmf_req *req);

/* --- targets and logical units --- */

/** @name: the SCSI device name (the iSCSI name; in VPD 83h designators). @tpg: target port group
 * id. */
int scsi_target_create(const char *name, struct scsi_target **ret_target);
struct scsi_target *scsi_target_ref(struct scsi_target *t);
void scsi_target_unref(struct scsi_target *t);
const char *scsi_target_name(const struct scsi_target *t);
/** Sets the target's ports (relative identifiers 1..@n, all in one target port group), for RTPG and
 * VPD 83h/88h. */
int scsi_target_set_ports(struct scsi_target *t, unsigned n);
/** Shows @lu as LUN @number (0..255). -EEXIST, -ENOMEM. Initiators get REPORTED LUNS DATA HAS
 * CHANGED. */
int scsi_target_map(struct scsi_target *t, unsigned number, struct scsi_lu *lu);
/** -ENOENT. Commands in flight end by themselves; new ones get LOGICAL UNIT NOT SUPPORTED. */
int scsi_target_unmap(struct scsi_target *t, unsigned number);
/** A new reference to the LU that @lun addresses, or NULL. */
struct scsi_lu *scsi_target_find(struct scsi_target *t, uint64_t lun);

struct scsi_lu_options {
	const char *vendor, *product, *revision; /* NULL: "EBB", "VIRTUAL-DISK", version */
	bool thin; /* report as thin provisioned where the store can discard; default true */
};

/**
 * Makes the SCSI face of @lun (takes a reference) and loads what it keeps (APTPL registrations,
 * saved mode pages) from lun_state_dirfd(). Blocks.
 */
int scsi_lu_create(struct lun *lun, const struct scsi_lu_options *opt, struct scsi_lu **ret_lu,
		   struct reason *why);
/** Removes what was kept for the LU of LUN @name: reservations, mode pages, a sanitize. Blocks. */
int scsi_lu_forget(int state_dirfd, const char *name);
struct scsi_lu *scsi_lu_ref(struct scsi_lu *lu);
void scsi_lu_unref(struct scsi_lu *lu);
struct lun *scsi_lu_lun(struct scsi_lu *lu);

/** How a sanitize stands, or ended. */
struct scsi_sanitize_status {
	bool running;
	bool failed;	      /* the LU takes nothing but another sanitize */
	int error;	      /* of the last, -errno: why it failed, or had not begun */
	uint64_t done, total; /* bytes */
};
/**
 * Begins what SANITIZE does, on behalf of the owner: @overwrite: a pass of zeros over all of the
 * LUN, else its blocks are deallocated. It goes on whatever happens, and begins anew in the next
 * process. Any thread; blocks for a short while. -EBUSY: one runs; -EAGAIN: no thread is to be had.
 */
int scsi_lu_sanitize(struct scsi_lu *lu, bool overwrite);
void scsi_lu_sanitize_status(struct scsi_lu *lu, struct scsi_sanitize_status *ret_status);

/** Name for reports: "READ(10)", or NULL for an opcode that is not in the table. */
const char *scsi_opcode_name(const uint8_t *cdb, unsigned len);
