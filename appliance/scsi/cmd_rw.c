/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands that read, write and compare logical blocks: READ, WRITE, WRITE AND VERIFY, VERIFY,
 * ORWRITE, COMPARE AND WRITE, WRITE ATOMIC (SBC-4 clause 5).
 *
 * When less data-out arrives than the CDB asks for (the transport's expected length was smaller),
 * commands that treat each block by itself carry out the whole blocks that came and end with GOOD;
 * the transport reports the residual. Commands that are all or nothing (COMPARE AND WRITE, WRITE
 * ATOMIC, VERIFY with BYTCHK 3) are refused, pointing at the number of blocks, when more or less
 * data than that is offered.
 */
#include <errno.h>
#include <string.h>

#include "scsi/scsi_commands.h"
#include "scsi/scsi_internal.h"

#define CDB1_DPO 0x10
#define CDB1_FUA 0x08

static uint64_t byte_offset(const struct scsi_cmd *cmd)
{
	return cmd->lba << cmd->lu->block_shift;
}

static unsigned cache_flags(const struct scsi_cmd *cmd)
{
	unsigned flags = 0;

	if (cmd->op->flags & SCSI_OP_SIX)
		return atomic_load_explicit(&cmd->lu->mode.wce_off, memory_order_relaxed)
			       ? LUN_IO_FUA
			       : 0;
	if (cmd->cdb[1] & CDB1_DPO)
		flags |= LUN_IO_DPO;
	if ((cmd->cdb[1] & CDB1_FUA) ||
	    atomic_load_explicit(&cmd->lu->mode.wce_off, memory_order_relaxed))
		flags |= LUN_IO_FUA;
	return flags;
}

/* Bytes of the whole blocks that arrived. */
static uint32_t whole_blocks(const struct scsi_cmd *cmd)
{
	return cmd->out_len & ~(cmd->lu->block_size - 1);
}

static bool check_all_arrived(struct scsi_cmd *cmd)
{
	if (cmd->out_len == cmd->data_len && !cmd->out_excess)
		return true;
	scsi_bad_cdb_field(cmd, cmd->op->len_off, -1);
	return false;
}

/* --- READ --- */

static void read_done(struct lun_io *io)
{
	struct scsi_cmd *cmd = scsi_cmd_of_io(io);

	if (!io->err)
		cmd->in_len = cmd->data_len;
	scsi_io_finish(io);
}

void scsi_read(struct scsi_cmd *cmd)
{
	unsigned flags;

	if (!cmd->data_len) {
		scsi_good(cmd);
		return;
	}
	flags = cache_flags(cmd);
	if (!(cmd->op->flags & SCSI_OP_SIX) && (cmd->cdb[1] & CDB1_FUA))
		flags |= LUN_IO_FUA;
	else
		flags &= ~(unsigned)LUN_IO_FUA;
	scsi_io_data(cmd, LUN_READ, flags, byte_offset(cmd), cmd->data_len, read_done);
}

/* --- WRITE --- */

void scsi_write(struct scsi_cmd *cmd)
{
	uint32_t len = whole_blocks(cmd);

	if (!len) {
		scsi_good(cmd);
		return;
	}
	scsi_io_data(cmd, LUN_WRITE, cache_flags(cmd), byte_offset(cmd), len, scsi_io_finish);
}

void scsi_orwrite(struct scsi_cmd *cmd)
{
	uint32_t len = whole_blocks(cmd);

	if (!len) {
		scsi_good(cmd);
		return;
	}
	scsi_io(cmd, cmd->lu->lun, LUN_OR_WRITE, cache_flags(cmd), byte_offset(cmd), len,
		cmd->out->data, len, scsi_io_finish);
}

bool scsi_write_atomic_length(struct scsi_cmd *cmd)
{
	if (get_be16(cmd->cdb + 10)) { /* ATOMIC BOUNDARY: B0h reports a maximum of 0 */
		scsi_bad_cdb_field(cmd, 10, -1);
		return false;
	}
	if (cmd->blocks > SCSI_ATOMIC_MAX) {
		scsi_bad_cdb_field(cmd, 12, -1);
		return false;
	}
	cmd->data_len = cmd->blocks << cmd->lu->block_shift;
	return true;
}

void scsi_write_atomic(struct scsi_cmd *cmd)
{
	if (!check_all_arrived(cmd))
		return;
	if (!cmd->data_len) {
		scsi_good(cmd);
		return;
	}
	scsi_io(cmd, cmd->lu->lun, LUN_WRITE, cache_flags(cmd) | LUN_IO_ATOMIC, byte_offset(cmd),
		cmd->data_len, cmd->out->data, cmd->data_len, scsi_io_finish);
}

/* --- WRITE AND VERIFY: write through, then compare (BYTCHK 1) or read back (0) --- */

static unsigned bytchk(const struct scsi_cmd *cmd)
{
	return cmd->cdb[1] >> 1 & 3;
}

bool scsi_write_verify_length(struct scsi_cmd *cmd)
{
	if (bytchk(cmd) > 1) {
		scsi_bad_cdb_field(cmd, 1, 2);
		return false;
	}
	if (cmd->blocks > scsi_max_transfer(cmd->lu)) {
		scsi_bad_cdb_field(cmd, cmd->op->len_off, -1);
		return false;
	}
	cmd->data_len = cmd->blocks << cmd->lu->block_shift;
	return true;
}

static void written(struct lun_io *io)
{
	struct scsi_cmd *cmd = scsi_cmd_of_io(io);
	uint32_t len = whole_blocks(cmd);

	if (io->err) {
		scsi_io_finish(io);
		return;
	}
	scsi_io(cmd, cmd->lu->lun, LUN_VERIFY, 0, byte_offset(cmd), len,
		bytchk(cmd) ? cmd->out->data : NULL, bytchk(cmd) ? len : 0, scsi_io_finish);
}

void scsi_write_verify(struct scsi_cmd *cmd)
{
	uint32_t len = whole_blocks(cmd);

	if (!len) {
		scsi_good(cmd);
		return;
	}
	scsi_io(cmd, cmd->lu->lun, LUN_WRITE,
		LUN_IO_FUA | (cmd->cdb[1] & CDB1_DPO ? LUN_IO_DPO : 0), byte_offset(cmd), len,
		cmd->out->data, len, written);
}

/* --- VERIFY --- */

bool scsi_verify_length(struct scsi_cmd *cmd)
{
	if (cmd->blocks > scsi_max_transfer(cmd->lu)) {
		scsi_bad_cdb_field(cmd, cmd->op->len_off, -1);
		return false;
	}
	switch (bytchk(cmd)) {
	case 0:
		cmd->data_len = 0;
		return true;
	case 1:
		cmd->data_len = cmd->blocks << cmd->lu->block_shift;
		return true;
	case 3:
		cmd->data_len = cmd->blocks ? cmd->lu->block_size : 0;
		return true;
	default:
		scsi_bad_cdb_field(cmd, 1, 2);
		return false;
	}
}

/* BYTCHK 3: one block of data-out is compared with each block, so it is repeated. */
static void verify_repeated(struct scsi_cmd *cmd)
{
	uint32_t bs = cmd->lu->block_size, len = cmd->blocks * bs;

	for (uint32_t off = 0; off < len; off += bs)
		memcpy(cmd->in->data + off, cmd->out->data, bs);
	scsi_io(cmd, cmd->lu->lun, LUN_VERIFY, 0, byte_offset(cmd), len, cmd->in->data, len,
		scsi_io_finish);
}

void scsi_verify(struct scsi_cmd *cmd)
{
	uint32_t len;

	switch (cmd->blocks ? bytchk(cmd) : 4) {
	case 0:
		len = cmd->blocks << cmd->lu->block_shift;
		scsi_io(cmd, cmd->lu->lun, LUN_VERIFY, 0, byte_offset(cmd), len, NULL, 0,
			scsi_io_finish);
		break;
	case 1:
		len = whole_blocks(cmd);
		if (len)
			scsi_io(cmd, cmd->lu->lun, LUN_VERIFY, 0, byte_offset(cmd), len,
				cmd->out->data, len, scsi_io_finish);
		else
			scsi_good(cmd);
		break;
	case 3:
		if (check_all_arrived(cmd))
			scsi_alloc_in(cmd, cmd->blocks << cmd->lu->block_shift, verify_repeated);
		break;
	default:
		scsi_good(cmd);
		break;
	}
}

/* --- COMPARE AND WRITE --- */

bool scsi_compare_and_write_length(struct scsi_cmd *cmd)
{
	uint64_t bytes = 2ull * cmd->blocks << cmd->lu->block_shift;

	if (bytes > IOBUF_MAX) {
		scsi_bad_cdb_field(cmd, 13, -1);
		return false;
	}
	cmd->data_len = (uint32_t)bytes;
	return true;
}

static void tell_matched(struct lun_io *io)
{
	struct scsi_cmd *cmd = scsi_cmd_of_io(io);

	cmd->matched(cmd);
}

static void tell_settled(struct lun_io *io)
{
	struct scsi_cmd *cmd = scsi_cmd_of_io(io);

	cmd->settled(cmd);
}

void scsi_compare_and_write(struct scsi_cmd *cmd)
{
	if (!check_all_arrived(cmd))
		return;
	if (!cmd->data_len) {
		scsi_good(cmd);
		return;
	}
	cmd->io.matched = cmd->matched ? tell_matched : NULL;
	cmd->io.settled = cmd->settled ? tell_settled : NULL;
	scsi_io(cmd, cmd->lu->lun, LUN_COMPARE_AND_WRITE, cache_flags(cmd), byte_offset(cmd),
		cmd->data_len / 2, cmd->out->data, cmd->data_len, scsi_io_finish);
}

int scsi_redo(struct scsi_lu *lu, const uint8_t *cdb, const void *data_out, size_t len)
{
	uint64_t lba = get_be64(cdb + 2), blocks = atomic_load(&lu->blocks);
	size_t half = (size_t)cdb[13] << lu->block_shift;
	struct iovec iov = {(uint8_t *)data_out + half, half};
	struct lun_io io = {.op = LUN_WRITE,
			    .flags = LUN_IO_FUA | LUN_IO_ATOMIC | LUN_IO_AUTHORIZED,
			    .off = lba << lu->block_shift,
			    .len = half,
			    .iov = &iov,
			    .niov = 1,
			    .reg_index = -1};

	if (cdb[0] != SCSI_COMPARE_AND_WRITE || !half || len != 2 * half || lba >= blocks)
		return -EINVAL;
	return lun_run(lu->lun, &io);
}
