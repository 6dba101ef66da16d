/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a CDB to its handler.
 *
 * scsi_cmd_parse() makes every check that needs no data, so that the initiator is not asked for
 * data that would be thrown away. In this order (SAM-5 5.3.3 and 5.14 leave some of it to us):
 *
 *   1. the LUN has a logical unit               05/25/00   (but INQUIRY, REPORT LUNS, REQUEST
 * SENSE)
 *   2. a unit attention is pending              06/..      (but the same three)
 *   3. the opcode, then its service action      05/20/00, 05/24/00 -> byte 1
 *   4. reservation of another                   RESERVATION CONFLICT
 *   5. sanitize, medium present                 02/04/1B.., 02/3A/00
 *   6. reserved bits                            05/24/00 with a field pointer
 *   7. the LBA range, then lengths              05/21/00, 05/24/00
 *   8. write protection                         07/27/..
 *
 * 4, 5 and 8 can only change while data is being fetched, so commands with data-out pass them again
 * in scsi_cmd_execute(). On the fast path all of 4, 5, 8 is one load of lu->gates that yields 0.
 */
#include <errno.h>
#include <string.h>

#include "scsi/scsi_internal.h"

static uint64_t get_be(const uint8_t *p, unsigned n)
{
	switch (n) {
	case 1:
		return p[0];
	case 2:
		return get_be16(p);
	case 3:
		return get_be24(p);
	case 4:
		return get_be32(p);
	case 8:
		return get_be64(p);
	default:
		return 0;
	}
}

/* Bits that the row does not know must be zero; the field pointer names the first that is not. */
static bool check_reserved_bits(struct scsi_cmd *cmd, const struct scsi_opcode *op)
{
	for (unsigned i = 1; i < op->cdb_len; i++) {
		uint8_t known = op->usage[i];
		uint8_t bad;

		if (i == 1 && (op->flags & SCSI_OP_SA))
			known |= 0x1f;
		bad = cmd->cdb[i] & (uint8_t)~known;
		if (bad) {
			scsi_bad_cdb_field(cmd, i, 31 - __builtin_clz(bad));
			return false;
		}
	}
	return true;
}

static bool take_byte_length(struct scsi_cmd *cmd, const struct scsi_opcode *op)
{
	uint64_t len = get_be(cmd->cdb + op->len_off, op->len_len);
	uint32_t max = op->data_max;

	if (!max)
		max = op->dir == SCSI_DIR_IN ? 4096 : 65536;
	if (len > max) {
		if (op->dir == SCSI_DIR_OUT) {
			scsi_bad_cdb_field(cmd, op->len_off, -1);
			return false;
		}
		len = max;
	}
	cmd->data_len = (uint32_t)len;
	return true;
}

static bool take_block_length(struct scsi_cmd *cmd, const struct scsi_opcode *op)
{
	if (cmd->blocks > scsi_max_transfer(cmd->lu)) {
		scsi_bad_cdb_field(cmd, op->len_off, -1);
		return false;
	}
	cmd->data_len = cmd->blocks << cmd->lu->block_shift;
	return true;
}

static void take_lba(struct scsi_cmd *cmd, const struct scsi_opcode *op)
{
	cmd->lba = get_be(cmd->cdb + op->lba_off, op->lba_len);
	cmd->blocks = (uint32_t)get_be(cmd->cdb + op->len_off, op->len_len);
	if (op->flags & SCSI_OP_SIX) {
		cmd->lba &= 0x1fffff;
		if (!cmd->blocks)
			cmd->blocks = 256;
	}
}

static bool take_length(struct scsi_cmd *cmd, const struct scsi_opcode *op)
{
	switch (op->len_kind) {
	case SCSI_LEN_BYTES:
		return take_byte_length(cmd, op);
	case SCSI_LEN_BLOCKS:
		return take_block_length(cmd, op);
	case SCSI_LEN_FN:
		return op->length(cmd);
	default:
		return true;
	}
}

static bool check_range(struct scsi_cmd *cmd)
{
	uint64_t cap = atomic_load_explicit(&cmd->lu->blocks, memory_order_relaxed);

	if (cmd->lba > cap || cmd->blocks > cap - cmd->lba) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
		return false;
	}
	return true;
}

/* Reservation, sanitize and medium; false: the command has been refused. */
static bool check_states(struct scsi_cmd *cmd, uint32_t gates)
{
	const struct scsi_opcode *op = cmd->op;

	if ((gates & SCSI_GATE_RESERVED) && op->resv != SCSI_RESV_ANY &&
	    op->resv != SCSI_RESV_OWN && !scsi_pr_check(cmd)) {
		scsi_finish(cmd, SCSI_RESERVATION_CONFLICT);
		return false;
	}
	if ((gates & SCSI_GATE_SANITIZE) && !(op->flags & SCSI_OP_SANITIZE)) {
		struct scsi_sense s = {0};

		scsi_sanitize_refusal(cmd->lu, &s);
		scsi_check_sense(cmd, &s);
		return false;
	}
	if ((gates & SCSI_GATE_EJECTED) && (op->flags & SCSI_OP_MEDIUM)) {
		scsi_check(cmd, SENSE_NOT_READY, ASC_MEDIUM_NOT_PRESENT);
		return false;
	}
	return true;
}

static bool check_write_protection(struct scsi_cmd *cmd, uint32_t gates)
{
	if (!(cmd->op->flags & SCSI_OP_WRITES))
		return true;
	if (gates & SCSI_GATE_READ_ONLY)
		scsi_check(cmd, SENSE_DATA_PROTECT, ASC_WRITE_PROTECTED);
	else if (gates & SCSI_GATE_SWP)
		scsi_check(cmd, SENSE_DATA_PROTECT, ASC_SOFTWARE_WRITE_PROTECTED);
	else
		return true;
	return false;
}

static void report_unit_attention(struct scsi_cmd *cmd, int ua)
{
	struct scsi_sense s = {.key = SENSE_UNIT_ATTENTION, .asc = scsi_ua_asc((enum scsi_ua)ua)};

	scsi_check_sense(cmd, &s);
}

static bool check_nexus(struct scsi_cmd *cmd, const struct scsi_opcode *op)
{
	if (!cmd->lu) {
		if (op && (op->flags & SCSI_OP_NO_LU))
			return true;
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_LU_NOT_SUPPORTED);
		return false;
	}
	if (atomic_load_explicit(&cmd->itl->ua, memory_order_acquire) &&
	    !(op && (op->flags & SCSI_OP_NO_UA))) {
		int ua = scsi_ua_take(cmd->itl);

		if (ua >= 0) {
			report_unit_attention(cmd, ua);
			return false;
		}
	}
	return true;
}

static bool check_opcode(struct scsi_cmd *cmd, const struct scsi_opcode *op, bool known)
{
	if (!op && known) {
		scsi_bad_cdb_field(cmd, 1, 4);
		return false;
	}
	if (!op || cmd->cdb_len < op->cdb_len ||
	    (cmd->lu && (op->flags & SCSI_OP_THIN) && !cmd->lu->thin)) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
		return false;
	}
	return true;
}

static void parse(struct scsi_cmd *cmd)
{
	bool known;
	const struct scsi_opcode *op = scsi_opcode_find(cmd->cdb, cmd->cdb_len, &known);
	uint32_t gates;

	if (!check_nexus(cmd, op) || !check_opcode(cmd, op, known))
		return;
	cmd->op = op;
	gates = cmd->lu ? scsi_lu_gates(cmd->lu) : 0;
	if (gates && !check_states(cmd, gates))
		return;
	if (!check_reserved_bits(cmd, op))
		return;
	cmd->dir = (enum scsi_dir)op->dir;
	cmd->direct = op->flags & SCSI_OP_DIRECT;
	cmd->once = op->flags & SCSI_OP_ONCE;
	if (op->lba_len)
		take_lba(cmd, op);
	if ((op->flags & SCSI_OP_LBA) && !check_range(cmd))
		return;
	if (!take_length(cmd, op))
		return;
	if (gates && !check_write_protection(cmd, gates))
		return;
	if (!cmd->data_len)
		cmd->dir = SCSI_DIR_NONE;
}

void scsi_cmd_parse(struct scsi_cmd *cmd)
{
	int err = 0;

	cmd->dir = SCSI_DIR_NONE;
	cmd->data_len = 0;
	cmd->direct = cmd->once = false;
	cmd->seg = NULL;
	cmd->n_seg = 0;
	cmd->status = SCSI_GOOD;
	cmd->sense_len = 0;
	cmd->in = NULL;
	cmd->in_len = 0;
	cmd->op = NULL;
	cmd->lu = NULL;
	cmd->lba = 0;
	cmd->blocks = 0;
	cmd->priv = NULL;
	cmd->priv_free = NULL;
	cmd->on_abort = NULL;
	cmd->step = 0;
	cmd->out_excess = false;
	cmd->aborted = cmd->refused = cmd->waiting = false;
	cmd->parsing = true;
	cmd->itl = scsi_itl_find(cmd->nexus, cmd->lun, &err);
	if (cmd->itl) {
		scsi_itl_get(cmd->itl);
		cmd->lu = cmd->itl->lu;
	}
	if (err)
		scsi_finish(cmd, SCSI_BUSY);
	else
		parse(cmd);
	cmd->parsing = false;
}

void scsi_cmd_execute(struct scsi_cmd *cmd)
{
	if (cmd->refused) {
		cmd->done(cmd);
		return;
	}
	if (cmd->dir == SCSI_DIR_IN && !cmd->n_seg) {
		scsi_alloc_in(cmd, cmd->data_len, cmd->op->exec);
		return;
	}
	if (cmd->dir == SCSI_DIR_OUT && cmd->lu) {
		uint32_t gates = scsi_lu_gates(cmd->lu);

		if (gates && (!check_states(cmd, gates) || !check_write_protection(cmd, gates)))
			return;
		if (!cmd->out && !cmd->n_seg)
			cmd->out_len = 0;
	}
	cmd->op->exec(cmd);
}

void scsi_cmd_release(struct scsi_cmd *cmd)
{
	if (cmd->priv_free)
		cmd->priv_free(cmd->priv);
	cmd->priv = NULL;
	cmd->priv_free = NULL;
	iobuf_put(cmd->in);
	cmd->in = NULL;
	cmd->lu = NULL;
	if (cmd->itl)
		scsi_itl_put(cmd->itl);
	cmd->itl = NULL;
}

void scsi_cmd_abort(struct scsi_cmd *cmd)
{
	cmd->aborted = true;
	if (cmd->waiting) {
		cmd->waiting = false;
		iobuf_wait_cancel(&cmd->mem_wait);
		scsi_finish(cmd, SCSI_TASK_ABORTED);
	} else if (cmd->on_abort) {
		cmd->on_abort(cmd);
	}
}

/* --- memory and I/O --- */

static void memory_came(struct iobuf_waiter *w)
{
	struct scsi_cmd *cmd = container_of(w, struct scsi_cmd, mem_wait);

	cmd->waiting = false;
	scsi_alloc_in(cmd, cmd->iov.iov_len, cmd->next);
}

void scsi_alloc_in(struct scsi_cmd *cmd, uint32_t len, void (*next)(struct scsi_cmd *cmd))
{
	struct iobuf_pool *pool = reactor_iobufs(cmd->nexus->reactor);

	cmd->in = iobuf_get(pool, len);
	if (cmd->in) {
		next(cmd);
		return;
	}
	cmd->next = next;
	cmd->iov.iov_len = len;
	cmd->waiting = true;
	iobuf_waiter_init(&cmd->mem_wait, memory_came);
	iobuf_wait(pool, &cmd->mem_wait);
}

/* Whether @p lies in @b, whose registered buffer the ring can then use. */
static bool within(const struct iobuf *b, const void *p)
{
	return b && (const uint8_t *)p >= b->data && (const uint8_t *)p < b->data + b->cap;
}

static void prepare_io(struct scsi_cmd *cmd, enum lun_op op, unsigned flags, uint64_t off,
		       uint64_t len, void (*done)(struct lun_io *io))
{
	struct lun_io *io = &cmd->io;

	io->op = op;
	io->flags = flags | LUN_IO_AUTHORIZED;
	io->off = off;
	io->len = len;
	io->iov = &cmd->iov;
	io->niov = 0;
	io->reg_index = -1;
	io->pattern_len = 0;
	io->src = NULL;
	io->extents = NULL;
	io->n_extents = 0;
	io->reactor = cmd->nexus->reactor;
	io->session = cmd->nexus->counters;
	io->export = cmd->itl->export;
	io->done = done;
	io->err = 0;
}

void scsi_io(struct scsi_cmd *cmd, struct lun *lun, enum lun_op op, unsigned flags, uint64_t off,
	     uint64_t len, void *buf, size_t len_buf, void (*done)(struct lun_io *io))
{
	struct lun_io *io = &cmd->io;

	prepare_io(cmd, op, flags, off, len, done);
	if (buf) {
		cmd->iov.iov_base = buf;
		cmd->iov.iov_len = len_buf;
		io->niov = 1;
		if (within(cmd->in, buf))
			io->reg_index = cmd->in->reg_index;
		else if (within(cmd->out, buf))
			io->reg_index = cmd->out->reg_index;
		if (op == LUN_WRITE_SAME)
			io->pattern_len = (uint32_t)len_buf;
	}
	lun_submit(lun, io);
}

void scsi_io_data(struct scsi_cmd *cmd, enum lun_op op, unsigned flags, uint64_t off, uint32_t len,
		  void (*done)(struct lun_io *io))
{
	const struct iobuf *buf = cmd->dir == SCSI_DIR_IN ? cmd->in : cmd->out;

	if (!cmd->n_seg) {
		scsi_io(cmd, cmd->lu->lun, op, flags, off, len, buf->data, len, done);
		return;
	}
	prepare_io(cmd, op, flags, off, len, done);
	cmd->io.iov = cmd->seg;
	cmd->io.niov = cmd->n_seg;
	lun_submit(cmd->lu->lun, &cmd->io);
}

void scsi_io_status(struct scsi_cmd *cmd, uint64_t off, uint64_t len, struct block_extent *ext,
		    unsigned n, void (*done)(struct lun_io *io))
{
	prepare_io(cmd, LUN_STATUS, 0, off, len, done);
	cmd->io.extents = ext;
	cmd->io.n_extents = n;
	lun_submit(cmd->lu->lun, &cmd->io);
}

void scsi_io_finish(struct lun_io *io)
{
	struct scsi_cmd *cmd = scsi_cmd_of_io(io);
	struct scsi_sense s;

	if (!io->err) {
		scsi_good(cmd);
		return;
	}
	if (io->err == -EILSEQ) {
		scsi_sense_from_errno(io->err, false, &s);
		s.has_info = true;
		s.info = io->miscompare_off;
		scsi_check_sense(cmd, &s);
		return;
	}
	scsi_fail_errno(cmd, io->err, cmd->op->flags & SCSI_OP_WRITES, cmd->lba);
}
