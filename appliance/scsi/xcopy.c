/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * EXTENDED COPY(LID1) (SPC-4 6.4, 5.16): block to block copies between logical units that the
 * initiator may see.
 *
 * Two phases. The parameter list is checked as a whole (header, lengths, descriptor types, counts)
 * and refused with ILLEGAL REQUEST before anything is copied. Then the segments are carried out in
 * order; the first that fails ends the command with COPY ABORTED, its number in the
 * COMMAND-SPECIFIC INFORMATION of the record and a segment pointer in the sense key specific field.
 *
 * A target descriptor (CSCD) is resolved by its designator among what the initiator's own nexus may
 * see and nowhere else; one that names something else is not reachable, exactly as one that names
 * nothing (CVE-2020-28374). Reservations, write protection and sanitize of each LU are looked at
 * before each piece, since a copy may take long. Pieces are COPY_PIECE bytes so that an abort and a
 * new reservation take effect soon; ranges of one LU that overlap are copied in one piece, which
 * the LUN layer does as memmove(3) would.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scsi/scsi_commands_b.h"
#include "scsi/xcopy.h"

#define HEADER_LEN     16
#define TARGET_LEN     32
#define TARGET_IDENT   0xe4
#define SEG_BLOCKS     0x02 /* block device to block device */
#define SEG_BLOCKS_LEN 28
#define SEG_BYTES      0x0a /* the same with byte offsets */
#define SEG_BYTES_LEN  32
#define COPY_PIECE     (8ull << 20)

struct xcopy_segment {
	uint16_t offset;   /* of its descriptor in the parameter list */
	uint16_t src, dst; /* indices */
	bool bytes;	   /* SEG_BYTES */
	bool dc;	   /* NUMBER OF BLOCKS counts destination blocks */
	uint64_t count;	   /* blocks or bytes */
	uint64_t src_lba, dst_lba;
	uint16_t src_off, dst_off;
};

struct xcopy {
	struct scsi_cmd *cmd;
	struct xcopy_record *rec;			/* NULL: no list identifier */
	struct scsi_lu *target[SCSI_XCOPY_MAX_TARGETS]; /* references; NULL: not reachable */
	unsigned n_targets;
	struct xcopy_segment segment[SCSI_XCOPY_MAX_SEGMENTS];
	unsigned n_segments;
	/* where we are */
	unsigned cur;
	struct scsi_lu *src, *dst;
	uint64_t src_pos, dst_pos, left; /* bytes of the current segment */
	uint64_t copied;
	struct lun_io io;
	bool submitting, inline_done;
};

static void xcopy_free(void *priv)
{
	struct xcopy *x = priv;

	for (unsigned i = 0; i < x->n_targets; i++)
		scsi_lu_unref(x->target[i]);
	free(x);
}

/* --- the parameter list --- */

static bool bad(struct scsi_cmd *cmd, enum scsi_asc asc, unsigned byte, int bit)
{
	struct scsi_sense s = {.key = SENSE_ILLEGAL_REQUEST, .asc = asc};

	scsi_sense_field(&s, false, byte, bit);
	scsi_check_sense(cmd, &s);
	return false;
}

/** One CSCD descriptor (SPC-4 6.4.5). What it names is looked up, not yet judged. */
static bool take_target(struct xcopy *x, unsigned off)
{
	struct scsi_cmd *cmd = x->cmd;
	const uint8_t *d = cmd->out->data + off;
	struct scsi_lu *lu;

	if (d[0] != TARGET_IDENT)
		return bad(cmd, ASC_UNSUPPORTED_TARGET_DESCRIPTOR, off, -1);
	if (d[1] & 0x20) /* NUL */
		return bad(cmd, ASC_INVALID_FIELD_IN_PARAMETERS, off + 1, 5);
	if (d[1] & 0x1f) /* PERIPHERAL DEVICE TYPE: only direct access */
		return bad(cmd, ASC_INVALID_FIELD_IN_PARAMETERS, off + 1, 4);
	if (d[7] > 20)
		return bad(cmd, ASC_INVALID_FIELD_IN_PARAMETERS, off + 7, -1);
	lu = scsi_lu_find_designator(cmd->nexus, d + 4, 4u + d[7]);
	x->target[x->n_targets++] = lu;
	if (lu && get_be24(d + 29) && get_be24(d + 29) != lu->block_size)
		return bad(cmd, ASC_INVALID_FIELD_IN_PARAMETERS, off + 29, -1);
	return true;
}

/** One segment descriptor (SPC-4 6.4.6.5, 6.4.6.12) of at most @room bytes; 0: refused. */
static unsigned take_segment(struct xcopy *x, unsigned off, unsigned room)
{
	struct scsi_cmd *cmd = x->cmd;
	const uint8_t *d = cmd->out->data + off;
	struct xcopy_segment *s;
	unsigned len;

	if (d[0] != SEG_BLOCKS && d[0] != SEG_BYTES) {
		bad(cmd, ASC_UNSUPPORTED_SEGMENT_DESCRIPTOR, off, -1);
		return 0;
	}
	if (x->n_segments == SCSI_XCOPY_MAX_SEGMENTS) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_TOO_MANY_SEGMENT_DESCRIPTORS);
		return 0;
	}
	len = d[0] == SEG_BLOCKS ? SEG_BLOCKS_LEN : SEG_BYTES_LEN;
	if (room < len) {
		scsi_bad_param_length(cmd);
		return 0;
	}
	if (get_be16(d + 2) != len - 4) {
		bad(cmd, ASC_INVALID_FIELD_IN_PARAMETERS, off + 2, -1);
		return 0;
	}
	s = &x->segment[x->n_segments++];
	s->offset = (uint16_t)off;
	s->src = get_be16(d + 4);
	s->dst = get_be16(d + 6);
	s->bytes = d[0] == SEG_BYTES;
	s->dc = !s->bytes && d[1] & 0x02;
	s->count = s->bytes ? get_be32(d + 8) : get_be16(d + 10);
	s->src_lba = get_be64(d + 12);
	s->dst_lba = get_be64(d + 20);
	s->src_off = s->bytes ? get_be16(d + 28) : 0;
	s->dst_off = s->bytes ? get_be16(d + 30) : 0;
	return len;
}

static bool take_segments(struct xcopy *x, unsigned off, unsigned end)
{
	while (off < end) {
		unsigned n;

		if (end - off < 8) {
			scsi_bad_param_length(x->cmd);
			return false;
		}
		n = take_segment(x, off, end - off);
		if (!n)
			return false;
		off += n;
	}
	return true;
}

/** The whole list. False: the command has ended. */
static bool take_list(struct xcopy *x)
{
	struct scsi_cmd *cmd = x->cmd;
	const uint8_t *p = cmd->out->data;
	uint64_t targets = get_be16(p + 2), segments = get_be32(p + 8),
		 inline_len = get_be32(p + 12);

	if (HEADER_LEN + targets + segments + inline_len > cmd->out_len ||
	    targets + segments > SCSI_XCOPY_MAX_LIST) {
		scsi_bad_param_length(cmd);
		return false;
	}
	if (inline_len)
		return bad(cmd, ASC_INLINE_DATA_LENGTH_EXCEEDED, 12, -1);
	if (targets % TARGET_LEN)
		return bad(cmd, ASC_INVALID_FIELD_IN_PARAMETERS, 2, -1);
	if (targets / TARGET_LEN > SCSI_XCOPY_MAX_TARGETS) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_TOO_MANY_TARGET_DESCRIPTORS);
		return false;
	}
	for (unsigned off = HEADER_LEN; off < HEADER_LEN + targets; off += TARGET_LEN)
		if (!take_target(x, off))
			return false;
	return take_segments(x, HEADER_LEN + (unsigned)targets,
			     HEADER_LEN + (unsigned)(targets + segments));
}

/* --- ending --- */

static void end(struct xcopy *x, const struct scsi_sense *failure)
{
	struct scsi_cmd *cmd = x->cmd;

	if (x->rec) {
		xcopy_record_progress(cmd->lu, x->rec, (uint16_t)x->cur, x->copied);
		xcopy_record_end(cmd->lu, x->rec, failure);
	}
	x->rec = NULL;
	if (failure)
		scsi_check_sense(cmd, failure);
	else
		scsi_good(cmd);
}

/**
 * COPY ABORTED at the current segment (SPC-4 5.16.7.4): the field at @field of its descriptor is
 * at fault (negative: none), SD says that the pointer counts from there.
 */
static void fail_segment(struct xcopy *x, enum scsi_asc asc, int field)
{
	struct scsi_sense s = {.key = SENSE_COPY_ABORTED, .asc = asc};

	if (field >= 0) {
		scsi_sense_field(&s, false, (unsigned)field, -1);
		s.sks[0] |= 0x20; /* SD */
	}
	s.has_cmd_info = true;
	s.cmd_info = x->cur & 0xffff;
	end(x, &s);
}

/** A LUN op of the current segment failed. */
static void fail_io(struct xcopy *x, int err)
{
	struct scsi_sense why;

	scsi_sense_from_errno(err, true, &why);
	/* Out of space and the like keep their additional sense code: it says what to do. */
	fail_segment(x, err == -ENOSPC ? (enum scsi_asc)why.asc : ASC_THIRD_PARTY_DEVICE_FAILURE,
		     -1);
}

/* --- segments --- */

/** Byte ranges of the current segment; false: it has been refused. */
static bool locate(struct xcopy *x, const struct xcopy_segment *s)
{
	uint64_t src_cap = atomic_load(&x->src->blocks), dst_cap = atomic_load(&x->dst->blocks);
	uint32_t sb = x->src->block_size, db = x->dst->block_size;
	uint64_t len = s->bytes ? s->count : s->count * (s->dc ? db : sb);

	if (len > SCSI_XCOPY_MAX_SEGMENT_LEN || len % sb || len % db || s->src_off % sb ||
	    s->dst_off % db) {
		fail_segment(x, ASC_COPY_SEGMENT_GRANULARITY, s->bytes ? 8 : 10);
		return false;
	}
	/* Each term is checked before it is added: nothing can wrap. */
	if (s->src_lba > src_cap || (s->src_off + len) / sb > src_cap - s->src_lba) {
		fail_segment(x, ASC_NONE, 12);
		return false;
	}
	if (s->dst_lba > dst_cap || (s->dst_off + len) / db > dst_cap - s->dst_lba) {
		fail_segment(x, ASC_NONE, 20);
		return false;
	}
	x->src_pos = s->src_lba * sb + s->src_off;
	x->dst_pos = s->dst_lba * db + s->dst_off;
	x->left = len;
	return true;
}

static struct scsi_lu *target_at(struct xcopy *x, uint16_t index)
{
	return index < x->n_targets ? x->target[index] : NULL;
}

/** Begins segment x->cur; false: the command has ended. */
static bool begin_segment(struct xcopy *x)
{
	const struct xcopy_segment *s = &x->segment[x->cur];

	x->src = target_at(x, s->src);
	x->dst = target_at(x, s->dst);
	if (!x->src || !x->dst) {
		fail_segment(x, ASC_UNREACHABLE_COPY_TARGET, x->src ? 6 : 4);
		return false;
	}
	return locate(x, s);
}

/** What would stop a READ from @x->src or a WRITE to @x->dst now; false: the command has ended. */
static bool check_states(struct xcopy *x)
{
	const uint32_t busy = SCSI_GATE_EJECTED | SCSI_GATE_SANITIZE;
	const uint32_t protect = SCSI_GATE_READ_ONLY | SCSI_GATE_SWP;
	struct scsi_nexus *nx = x->cmd->nexus;

	if (scsi_lu_gates(x->src) & busy || !scsi_pr_initiator_allowed(x->src, nx, PR_CLASS_READ)) {
		fail_segment(x, ASC_THIRD_PARTY_DEVICE_FAILURE, 4);
		return false;
	}
	if (scsi_lu_gates(x->dst) & (busy | protect) ||
	    !scsi_pr_initiator_allowed(x->dst, nx, PR_CLASS_WRITE)) {
		fail_segment(x, ASC_THIRD_PARTY_DEVICE_FAILURE, 6);
		return false;
	}
	return true;
}

static bool overlapping(const struct xcopy *x)
{
	return x->src->lun == x->dst->lun && x->src_pos < x->dst_pos + x->left &&
	       x->dst_pos < x->src_pos + x->left;
}

static void run(struct xcopy *x);

/** False: the command has ended. */
static bool piece_ended(struct xcopy *x)
{
	if (x->io.err) {
		fail_io(x, x->io.err);
		return false;
	}
	x->src_pos += x->io.len;
	x->dst_pos += x->io.len;
	x->left -= x->io.len;
	x->copied += x->io.len;
	if (!x->left)
		x->cur++;
	if (x->rec)
		xcopy_record_progress(x->cmd->lu, x->rec, (uint16_t)x->cur, x->copied);
	return true;
}

static void piece_done(struct lun_io *io)
{
	struct xcopy *x = container_of(io, struct xcopy, io);

	if (x->submitting) {
		x->inline_done = true; /* run() goes on, without recursion */
		return;
	}
	if (piece_ended(x))
		run(x);
}

/** Starts the next piece; true: it is done already, and piece_ended() is to be asked. */
static bool submit_piece(struct xcopy *x)
{
	bool fua = atomic_load(&x->dst->mode.wce_off);

	x->io = (struct lun_io){
		.op = LUN_COPY,
		.flags = LUN_IO_AUTHORIZED | (fua ? LUN_IO_FUA : 0),
		.off = x->dst_pos,
		.len = x->left > COPY_PIECE && !overlapping(x) ? COPY_PIECE : x->left,
		.reg_index = -1,
		.src = x->src->lun,
		.src_off = x->src_pos,
		.reactor = x->cmd->nexus->reactor,
		.done = piece_done,
	};
	x->submitting = true;
	x->inline_done = false;
	lun_submit(x->dst->lun, &x->io);
	x->submitting = false;
	return x->inline_done;
}

static void run(struct xcopy *x)
{
	while (x->cur < x->n_segments) {
		if (x->cmd->aborted) {
			fail_segment(x, ASC_NONE, -1);
			return;
		}
		if (!x->left) {
			if (!begin_segment(x))
				return;
			if (!x->left) { /* nothing to copy is no error */
				x->cur++;
				continue;
			}
		}
		if (!check_states(x))
			return;
		if (!submit_piece(x))
			return;
		if (!piece_ended(x))
			return;
	}
	end(x, NULL);
}

/** LIST IDENTIFIER and LIST ID USAGE (SPC-4 table 122). False: the command has ended. */
static bool open_record(struct xcopy *x)
{
	struct scsi_cmd *cmd = x->cmd;
	uint8_t id = cmd->out->data[0], usage = cmd->out->data[1] >> 3 & 3;
	struct scsi_sense s = {.key = SENSE_ILLEGAL_REQUEST, .asc = ASC_OPERATION_IN_PROGRESS};

	if (usage == 1)
		return bad(cmd, ASC_INVALID_FIELD_IN_PARAMETERS, 1, 4);
	if (usage == 3) {
		if (id)
			return bad(cmd, ASC_INVALID_FIELD_IN_PARAMETERS, 0, -1);
		return true;
	}
	switch (xcopy_record_begin(cmd->lu, cmd->nexus->id, id, usage == 0, &x->rec)) {
	case 0:
		return true;
	case -EBUSY:
		scsi_sense_field(&s, false, 0, -1);
		scsi_check_sense(cmd, &s);
		return false;
	case -EAGAIN:
		scsi_finish(cmd, SCSI_BUSY);
		return false;
	default:
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return false;
	}
}

void scsi_extended_copy(struct scsi_cmd *cmd)
{
	uint32_t len = get_be32(cmd->cdb + 10);
	struct xcopy *x;

	if (!len) {
		scsi_good(cmd);
		return;
	}
	if (len < HEADER_LEN || cmd->out_len < len) {
		scsi_bad_param_length(cmd);
		return;
	}
	x = calloc(1, sizeof(*x));
	if (!x) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return;
	}
	x->cmd = cmd;
	cmd->priv = x;
	cmd->priv_free = xcopy_free;
	if (take_list(x) && open_record(x))
		run(x);
}
