/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of this folder share: the opcode table's row, the logical unit, sense building,
 * and the steps a command handler is made of.
 *
 * A handler (row->exec) runs on cmd->nexus->reactor's thread after every check that the table can
 * express has passed: LUN, unit attention, reservation, medium and write protection, reserved CDB
 * bits, transfer length, LBA range. It ends the command exactly once, now or later, with one of
 *   scsi_good() scsi_reply() scsi_finish() scsi_check() scsi_bad_cdb_field() scsi_bad_param_field()
 *   scsi_fail_errno() scsi_check_sense()
 * Data-in handlers find cmd->in allocated (NULL when the allocation length is 0): min(allocation
 * length, row->data_max) bytes; fill it through scsi_reply(), which truncates. Data-out handlers
 * find cmd->out_len bytes at cmd->out->data (NULL when 0); a parameter list shorter than the CDB
 * said is for them to judge.
 * Blocking work (state files) goes to worker.h.
 *
 * pr*.c, mode.c, log_sense.c, sanitize.c, xcopy.c and alua.c add their rows to opcodes_b.inc and
 * their handlers to scsi_commands_b.h (both included by opcodes.c).
 *
 * Hooks named scsi_pr_*, scsi_mode_*, scsi_sanitize_* are implemented by pr.c, mode.c, sanitize.c.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/endian.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/reason.h"
#include "lun/lun.h"
#include "scsi/scsi.h"
#include "scsi/scsi_spec.h"

/* --- the opcode table (opcodes.c; rows of reservations, mode, log, sanitize, copy, ALUA are in
 * opcodes_b.inc, included into the same array) --- */

enum scsi_op_flags {
	SCSI_OP_SA = 1 << 0,	   /* has a service action: byte 1 bits 4..0 */
	SCSI_OP_WRITES = 1 << 1,   /* changes the medium: 07/27/00 when it is write protected */
	SCSI_OP_MEDIUM = 1 << 2,   /* needs a medium that is there and ready */
	SCSI_OP_NO_UA = 1 << 3,	   /* runs in spite of a unit attention, and leaves it pending */
	SCSI_OP_NO_LU = 1 << 4,	   /* runs on a LUN that has no logical unit (cmd->lu is NULL) */
	SCSI_OP_SANITIZE = 1 << 5, /* runs while the medium is being, or failed to be, sanitized */
	SCSI_OP_LBA = 1 << 6,	   /* [lba, lba+blocks) must lie on the medium */
	SCSI_OP_SIX = 1 << 7,	   /* READ(6), WRITE(6): 21 bits of LBA, 0 blocks means 256 */
	SCSI_OP_THIN = 1 << 8,	   /* exists on thin provisioned logical units only */
	SCSI_OP_DIRECT = 1 << 9,   /* its data may be the front's segments: uses scsi_io_data() */
	SCSI_OP_ONCE = 1 << 10,	   /* COMPARE AND WRITE: see scsi_cmd.once */
};

/** Which reservations of others a command runs under (SPC-4 table 66, SBC-3 table 13). */
enum scsi_resv_class {
	SCSI_RESV_ANY,	  /* under all: INQUIRY, REPORT LUNS, ... */
	SCSI_RESV_READ,	  /* conflicts with exclusive access by others */
	SCSI_RESV_WRITE,  /* conflicts with write exclusive too */
	SCSI_RESV_LEGACY, /* conflicts with another's RESERVE(6) only */
	SCSI_RESV_OWN,	  /* judged by the handler: PERSISTENT RESERVE, RESERVE(6), RELEASE(6) */
};

/** How row->len_off/len_len of the CDB gives the number of bytes that move. */
enum scsi_len_kind {
	SCSI_LEN_NONE,
	SCSI_LEN_BYTES,	 /* an allocation or parameter list length */
	SCSI_LEN_BLOCKS, /* times the block size; at most IOBUF_MAX bytes */
	SCSI_LEN_FN,	 /* row->length() decides */
};

struct scsi_opcode {
	const char *name; /* "READ(10)" */
	uint8_t opcode;
	uint8_t sa; /* with SCSI_OP_SA */
	uint8_t cdb_len;
	uint16_t flags;
	uint8_t resv; /* enum scsi_resv_class */
	uint8_t dir;  /* enum scsi_dir */
	uint8_t len_kind;
	uint8_t lba_off, lba_len; /* in the CDB, bytes; lba_len 0: no LBA */
	uint8_t len_off, len_len; /* likewise: number of blocks or bytes */
	uint32_t data_max; /* SCSI_LEN_BYTES: data-in is cut to it, a longer data-out is refused.
			      0: 4096 in, 65536 out */
	/*
	 * CDB usage data (SPC-4 6.35.3): a bit the device server evaluates (or tolerates) is 1.
	 * A CDB that sets a bit which is 0 here is refused with a field pointer to it. Byte 0 and,
	 * for SCSI_OP_SA, the service action itself are filled in by the table's readers.
	 */
	uint8_t usage[16];
	/* SCSI_LEN_FN: sets cmd->data_len (and may set cmd->dir NONE), or refuses by a scsi_bad_*
	 * and returns false. The CDB's reserved bits have been checked, cmd->lba/blocks are set. */
	bool (*length)(struct scsi_cmd *cmd);
	void (*exec)(struct scsi_cmd *cmd);
};

extern const struct scsi_opcode scsi_opcodes[];
extern const unsigned scsi_n_opcodes;
/** The row for @cdb, or NULL; *@ret_known tells whether the opcode (with other service actions)
 * exists. */
const struct scsi_opcode *scsi_opcode_find(const uint8_t *cdb, unsigned len, bool *ret_known);

/* --- unit attentions: one bit each, in order of priority (SAM-5 5.14) --- */

#define SCSI_UNIT_ATTENTIONS(X)                                                                    \
	X(POWER_ON, 0x29, 0x00)		       /* power on, reset, or bus device reset occurred */ \
	X(LU_RESET, 0x29, 0x03)		       /* bus device reset function occurred */            \
	X(NEXUS_LOSS, 0x29, 0x07)	       /* I_T nexus loss occurred */                       \
	X(RESERVATIONS_PREEMPTED, 0x2A, 0x03)  /* */                                               \
	X(RESERVATIONS_RELEASED, 0x2A, 0x04)   /* */                                               \
	X(REGISTRATIONS_PREEMPTED, 0x2A, 0x05) /* */                                               \
	X(COMMANDS_CLEARED, 0x2F, 0x00)	       /* commands cleared by another initiator */         \
	X(MEDIUM_CHANGED, 0x28, 0x00)	       /* not ready to ready change */                     \
	X(CAPACITY_CHANGED, 0x2A, 0x09)	       /* */                                               \
	X(MODE_CHANGED, 0x2A, 0x01)	       /* */                                               \
	X(LOG_CHANGED, 0x2A, 0x02)	       /* */                                               \
	X(ALUA_CHANGED, 0x2A, 0x06)	       /* asymmetric access state changed */               \
	X(INQUIRY_CHANGED, 0x3F, 0x03)	       /* */                                               \
	X(LUNS_CHANGED, 0x3F, 0x0E)	       /* reported LUNs data has changed */                \
	X(THIN_THRESHOLD, 0x38, 0x07)	       /* thin provisioning soft threshold reached */

enum scsi_ua {
#define X(name, asc, ascq) SCSI_UA_##name,
	SCSI_UNIT_ATTENTIONS(X)
#undef X
		SCSI_UA_COUNT
};

/* --- the state of one nexus on one logical unit, made by the first command --- */

struct scsi_itl {
	struct scsi_nexus *nexus;
	struct scsi_lu *lu;	   /* referenced */
	struct lun_export *export; /* NULL: not counted */
	uint64_t lun;
	struct list_node lu_link;    /* lu->itls; under lu->lock */
	_Atomic uint32_t ua;	     /* pending unit attentions, 1 << enum scsi_ua; any thread */
	_Atomic bool prevent;	     /* PREVENT ALLOW MEDIUM REMOVAL; changed under lu->lock */
	struct list_node nexus_link; /* nexus->itls; nexus's thread */
	uint64_t map_gen;	     /* target's map generation it was checked against; ditto */
	_Atomic uint32_t cmds;	     /* commands that hold it; written by the nexus's thread */
	bool stale;		     /* no longer in nexus->itls; freed with its last command */
	_Atomic bool
		told; /* @look is on its way: set under lu->lock, cleared by the nexus's thread */
	struct reactor_msg look; /* the map has changed */
};

/** The state of @nx on LUN @lun, made when it is not there yet; NULL: no such LUN (*@ret_err 0) or
 * -ENOMEM. On the nexus's thread. */
struct scsi_itl *scsi_itl_find(struct scsi_nexus *nx, uint64_t lun, int *ret_err);
/**
 * LUN numbers of @t that named @lu name it no more: nexuses that have state there look again, and
 * let go of @lu, which would otherwise live (and keep its store open) until each sends its next
 * command. Any thread, lu->lock not held.
 */
void scsi_itl_tell_unmapped(struct scsi_target *t, struct scsi_lu *lu);
/** A command holds on to it, lets go of it. On the nexus's thread. */
void scsi_itl_get(struct scsi_itl *itl);
void scsi_itl_put(struct scsi_itl *itl);
/** Ends a nexus's say over medium removal. lu->lock held. */
void scsi_itl_allow_removal_locked(struct scsi_itl *itl);

/* --- the logical unit --- */

/** Conditions that most LUs never have: one load on the hot path tells that none is there. */
enum scsi_gate {
	SCSI_GATE_READ_ONLY = 1 << 0, /* the LUN is read-only */
	SCSI_GATE_SWP = 1 << 1,	      /* software write protect: the control mode page's SWP */
	SCSI_GATE_RESERVED = 1 << 2,  /* some reservation exists: ask scsi_pr_check() */
	SCSI_GATE_EJECTED = 1 << 3,   /* 02/3A/00 */
	SCSI_GATE_SANITIZE = 1 << 4,  /* in progress or failed: ask scsi_sanitize_refusal() */
};

struct scsi_pr;	      /* pr.c */
struct scsi_sanitize; /* sanitize.c */
struct scsi_xcopy;    /* xcopy_results.c */

/** mode.c's. The current values that the rest of the device server obeys; relaxed atomics. */
struct scsi_mode {
	_Atomic bool d_sense; /* descriptor format sense data */
	_Atomic bool tas;     /* tasks aborted by others end with TASK ABORTED */
	_Atomic bool wce_off; /* write cache disabled: every write is FUA */
	_Atomic uint8_t ua_intlck;
	void *priv; /* pages: current, saved, ...; under lu->lock */
};

struct scsi_lu {
	/* --- constant after scsi_lu_create() --- */
	struct lun *lun;
	uint32_t block_size;
	uint8_t block_shift;
	bool read_only, removable, thin, rotational;
	uint32_t physical_shift;		  /* physical block = logical << this */
	char vendor[9], product[17], revision[5]; /* padded with spaces, NUL-terminated */
	struct lun_watcher watcher;

	_Atomic unsigned refs;
	_Atomic uint32_t gates;	 /* enum scsi_gate */
	_Atomic uint64_t blocks; /* capacity; follows lun_resize() */
	struct mutex lock;	 /* rank SCSI_LU: everything below */
	struct list_node itls;
	unsigned prevents; /* nexuses that prevent medium removal */

	/* --- owned by their files --- */
	struct scsi_pr *pr;
	struct scsi_mode mode;
	struct scsi_sanitize *sanitize;
	struct scsi_xcopy *xcopy; /* NULL until the first copy; under lock */
};

static inline uint32_t scsi_lu_gates(struct scsi_lu *lu)
{
	return atomic_load_explicit(&lu->gates, memory_order_acquire);
}
/** LUN or target reset: everything but the aborting of tasks. lu->lock not held. */
void scsi_lu_reset(struct scsi_lu *lu, enum scsi_ua ua);
/** Any thread. */
void scsi_lu_set_gate(struct scsi_lu *lu, enum scsi_gate gate, bool on);

/** The most urgent unit attention of @itl, taken off; -1: none. */
int scsi_ua_take(struct scsi_itl *itl);
uint16_t scsi_ua_asc(enum scsi_ua ua);

/** Any thread, lu->lock not held. Raises @ua for every nexus that has used @lu, but @except (may
 * be NULL). */
void scsi_ua_raise(struct scsi_lu *lu, enum scsi_ua ua, const struct scsi_nexus *except);
void scsi_ua_raise_locked(struct scsi_lu *lu, enum scsi_ua ua, const struct scsi_nexus *except);

/**
 * The LU (a new reference) among those that @nx may see - its own target's, and other targets' for
 * which nx->may_see says so - which the identification descriptor at @desig names: code set, type,
 * 2 bytes header + length as in VPD page 83h (SPC-4 7.8.6.1). NULL when there is none.
 */
struct scsi_lu *scsi_lu_find_designator(struct scsi_nexus *nx, const uint8_t *desig, unsigned len);
/** Number of target ports (relative identifiers 1..n), all in target port group SCSI_TPG_ID. */
unsigned scsi_target_ports(struct scsi_target *t);
/** Writes the numbers of @t's LUNs, ascending, into @buf as 8 byte LUN fields; returns how many. */
unsigned scsi_target_list_luns(struct scsi_target *t, uint8_t buf[SCSI_LUNS_MAX * 8]);
#define SCSI_TPG_ID 1

/** Calls nx->ops->abort_all for the nexus with id @nexus_id if it is attached to a target that
 * maps @lu, and fin(arg) when that is done (at once when there is no such nexus). For PREEMPT AND
 * ABORT. */
void scsi_nexus_abort(struct scsi_lu *lu, uint64_t nexus_id, bool tas, void (*fin)(void *arg),
		      void *arg);

/* --- sense data --- */

struct scsi_sense {
	uint8_t key;
	uint16_t asc;  /* enum scsi_asc */
	bool has_info; /* INFORMATION field valid */
	uint64_t info;
	bool has_cmd_info; /* COMMAND-SPECIFIC INFORMATION */
	uint32_t cmd_info;
	bool has_sks; /* sense key specific valid: sks[] */
	uint8_t sks[3];
	bool deferred;
};

/** Writes @s in fixed (18 bytes) or descriptor format; returns the length. @buf: SCSI_SENSE_MAX. */
unsigned scsi_sense_build(const struct scsi_sense *s, bool descriptor, uint8_t *buf);
/** Sense key specific: field pointer to byte @byte, bit @bit (-1: whole byte) of CDB or data. */
void scsi_sense_field(struct scsi_sense *s, bool in_cdb, unsigned byte, int bit);
/** Sense key specific: progress indication, @part of 65536. */
void scsi_sense_progress(struct scsi_sense *s, uint16_t part);

/* --- ending a command --- */

/** Sets the status and calls cmd->done. */
void scsi_finish(struct scsi_cmd *cmd, enum scsi_status status);
static inline void scsi_good(struct scsi_cmd *cmd)
{
	scsi_finish(cmd, SCSI_GOOD);
}
/** CHECK CONDITION with @s in the format that the LU's control mode page asks for. */
void scsi_check_sense(struct scsi_cmd *cmd, const struct scsi_sense *s);
void scsi_check(struct scsi_cmd *cmd, enum scsi_sense_key key, enum scsi_asc asc);
/** 05/24/00 INVALID FIELD IN CDB pointing to @byte; @bit is the field's most significant bit, -1:
 * the whole byte. */
void scsi_bad_cdb_field(struct scsi_cmd *cmd, unsigned byte, int bit);
/** 05/26/00 INVALID FIELD IN PARAMETER LIST, likewise. */
void scsi_bad_param_field(struct scsi_cmd *cmd, unsigned byte, int bit);
/** 05/1A/00 PARAMETER LIST LENGTH ERROR. */
void scsi_bad_param_length(struct scsi_cmd *cmd);
/** Copies min(@len, cmd->data_len, room) bytes of @buf to the data-in and ends with GOOD. */
void scsi_reply(struct scsi_cmd *cmd, const void *buf, size_t len);
/** Ends with the sense that -errno @err of a LUN op deserves; 0 is GOOD. @write: it changed, or
 * would have changed, the medium. @info_lba: reported in INFORMATION with medium errors. */
void scsi_fail_errno(struct scsi_cmd *cmd, int err, bool write, uint64_t info_lba);
/** The sense for -errno @err, as above; @err != 0. */
void scsi_sense_from_errno(int err, bool write, struct scsi_sense *ret_s);

/* --- limits that VPD page B0h tells and the handlers hold to (blocks, unless said) --- */

#define SCSI_UNMAP_MAX_DESC   256u
#define SCSI_UNMAP_MAX_BLOCKS (1u << 20)
#define SCSI_WS_MAX	      32768u
#define SCSI_CAW_MAX	      255u
#define SCSI_ATOMIC_MAX	      256u

/** The unit in which VPD page B2h lets the log page count what is used, bytes: 256 TiB fit. */
#define SCSI_THRESHOLD_SET (64u << 10)

static inline uint32_t scsi_max_transfer(const struct scsi_lu *lu)
{
	return IOBUF_MAX >> lu->block_shift;
}

/* --- LUN I/O of a command --- */

/**
 * Starts cmd->io: @op on [off, off+len) bytes with @len_buf bytes at @buf (NULL, 0: none), flags
 * LUN_IO_AUTHORIZED added. @done is called on the nexus's thread with cmd->io.err set. One at a
 * time a command.
 */
void scsi_io(struct scsi_cmd *cmd, struct lun *lun, enum lun_op op, unsigned flags, uint64_t off,
	     uint64_t len, void *buf, size_t len_buf, void (*done)(struct lun_io *io));
/** The same on cmd->lu with the first @len bytes of the command's data, wherever they are. */
void scsi_io_data(struct scsi_cmd *cmd, enum lun_op op, unsigned flags, uint64_t off, uint32_t len,
		  void (*done)(struct lun_io *io));
/** Gets cmd->in with room for @len bytes (1..IOBUF_MAX), then calls @next: now, or when there is
 * memory. */
void scsi_alloc_in(struct scsi_cmd *cmd, uint32_t len, void (*next)(struct scsi_cmd *cmd));
/** Starts LUN_STATUS on [off, off+len) into @n extents at @ext, likewise. */
void scsi_io_status(struct scsi_cmd *cmd, uint64_t off, uint64_t len, struct block_extent *ext,
		    unsigned n, void (*done)(struct lun_io *io));
/** What most commands do when their LUN I/O is done: GOOD, or the sense for io->err. */
void scsi_io_finish(struct lun_io *io);
static inline struct scsi_cmd *scsi_cmd_of_io(struct lun_io *io)
{
	return container_of(io, struct scsi_cmd, io);
}

/* --- hooks implemented by pr.c --- */

/** Makes lu->pr and loads persistent registrations from lun_state_dirfd(). Blocks. */
int scsi_pr_create(struct scsi_lu *lu, struct reason *why);
void scsi_pr_destroy(struct scsi_lu *lu);
/** With SCSI_GATE_RESERVED, for rows not SCSI_RESV_ANY/OWN: may @cmd run (cmd->op->resv)? */
bool scsi_pr_check(struct scsi_cmd *cmd);
/** Hash of the name of @nx in registrations. */
uint64_t scsi_pr_name_hash(const struct scsi_nexus *nx);
/** The nexus has gone: a RESERVE(6) reservation of its goes too. lu->lock not held. */
void scsi_pr_nexus_loss(struct scsi_lu *lu, struct scsi_nexus *nx);
/** LUN or target reset: a RESERVE(6) reservation goes. lu->lock not held. */
void scsi_pr_reset(struct scsi_lu *lu);

/* --- hooks implemented by mode.c --- */

/** Fills lu->mode with defaults and what was saved. Blocks. */
int scsi_mode_create(struct scsi_lu *lu, struct reason *why);
void scsi_mode_destroy(struct scsi_lu *lu);
/** LUN or target reset: back to saved values. lu->lock not held. */
void scsi_mode_reset(struct scsi_lu *lu);

/* --- hooks implemented by sanitize.c --- */

int scsi_sanitize_create(struct scsi_lu *lu, struct reason *why);
void scsi_sanitize_destroy(struct scsi_lu *lu);
/** With SCSI_GATE_SANITIZE, for rows without SCSI_OP_SANITIZE: the refusal (02/04/1B with
 * progress, 03/31/03). Also what REQUEST SENSE reports. */
void scsi_sanitize_refusal(struct scsi_lu *lu, struct scsi_sense *ret_s);
