/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SYNCHRONIZE CACHE and PRE-FETCH (SBC-4 5.38, 5.13), and the medium itself: READ CAPACITY, START
 * STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, READ DEFECT DATA, TEST UNIT READY.
 *
 * A virtual disk has no spindle: START STOP UNIT without LOEJ, and every power condition, is
 * accepted and leaves the unit ready; stopping flushes first unless NO_FLUSH. With LOEJ a removable
 * medium is ejected for all initiators (02/3A/00) and loaded again, unless some nexus prevents it.
 */
#include "scsi/scsi_commands.h"
#include "scsi/scsi_internal.h"

#define PREFETCH_MAX (64ull << 20) /* bytes; more is not expected to stay in a cache */

/* A number of blocks of 0 means to the end of the medium. */
static uint64_t span_bytes(const struct scsi_cmd *cmd)
{
	uint64_t cap = atomic_load_explicit(&cmd->lu->blocks, memory_order_relaxed);
	uint64_t n = cmd->blocks;

	if (!n)
		n = cap > cmd->lba ? cap - cmd->lba : 0;
	return n << cmd->lu->block_shift;
}

/* IMMED allows an early status; it comes when the data is safe all the same. */
void scsi_synchronize_cache(struct scsi_cmd *cmd)
{
	scsi_io(cmd, cmd->lu->lun, LUN_FLUSH, 0, 0, 0, NULL, 0, scsi_io_finish);
}

static void prefetched(struct lun_io *io)
{
	struct scsi_cmd *cmd = scsi_cmd_of_io(io);

	if (io->err)
		scsi_io_finish(io);
	else
		scsi_finish(cmd, span_bytes(cmd) > io->len ? SCSI_GOOD : SCSI_CONDITION_MET);
}

void scsi_prefetch(struct scsi_cmd *cmd)
{
	uint64_t len = span_bytes(cmd);

	if (!len) {
		scsi_finish(cmd, SCSI_CONDITION_MET);
		return;
	}
	scsi_io(cmd, cmd->lu->lun, LUN_PREFETCH, 0, cmd->lba << cmd->lu->block_shift,
		len < PREFETCH_MAX ? len : PREFETCH_MAX, NULL, 0, prefetched);
}

void scsi_test_unit_ready(struct scsi_cmd *cmd)
{
	scsi_good(cmd); /* the conditions that matter were checked before */
}

/* --- capacity --- */

bool scsi_read_capacity_10_length(struct scsi_cmd *cmd)
{
	cmd->data_len = 8;
	return true;
}

void scsi_read_capacity_10(struct scsi_cmd *cmd)
{
	uint64_t blocks = atomic_load_explicit(&cmd->lu->blocks, memory_order_relaxed);
	uint64_t last = blocks ? blocks - 1 : 0;
	uint8_t b[8];

	put_be32(b, last > UINT32_MAX - 1 ? UINT32_MAX : (uint32_t)last);
	put_be32(b + 4, cmd->lu->block_size);
	scsi_reply(cmd, b, sizeof(b));
}

void scsi_read_capacity_16(struct scsi_cmd *cmd)
{
	uint64_t blocks = atomic_load_explicit(&cmd->lu->blocks, memory_order_relaxed);
	uint8_t b[32] = {0};

	put_be64(b, blocks ? blocks - 1 : 0);
	put_be32(b + 8, cmd->lu->block_size);
	b[13] = (uint8_t)cmd->lu->physical_shift;
	if (cmd->lu->thin)
		b[14] = 0x80 | 0x40; /* LBPME, LBPRZ */
	scsi_reply(cmd, b, sizeof(b));
}

/* --- removable media --- */

static void load_or_eject(struct scsi_cmd *cmd, bool load)
{
	struct scsi_lu *lu = cmd->lu;
	bool was_out;

	mutex_lock(&lu->lock);
	if (lu->prevents) {
		mutex_unlock(&lu->lock);
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_MEDIUM_REMOVAL_PREVENTED);
		return;
	}
	was_out = scsi_lu_gates(lu) & SCSI_GATE_EJECTED;
	scsi_lu_set_gate(lu, SCSI_GATE_EJECTED, !load);
	if (load && was_out)
		scsi_ua_raise_locked(lu, SCSI_UA_MEDIUM_CHANGED, cmd->nexus);
	mutex_unlock(&lu->lock);
	scsi_good(cmd);
}

static void flushed_for_stop(struct lun_io *io)
{
	struct scsi_cmd *cmd = scsi_cmd_of_io(io);

	if (!io->err && (cmd->cdb[4] & 0x02))
		load_or_eject(cmd, false);
	else
		scsi_io_finish(io);
}

void scsi_start_stop_unit(struct scsi_cmd *cmd)
{
	bool power_condition = cmd->cdb[4] & 0xf0, no_flush = cmd->cdb[4] & 0x04;
	bool loej = cmd->cdb[4] & 0x02, start = cmd->cdb[4] & 0x01;

	if (power_condition) { /* LOEJ and START are ignored then */
		scsi_good(cmd);
	} else if (loej && !cmd->lu->removable) {
		scsi_bad_cdb_field(cmd, 4, 1);
	} else if (!start && !(no_flush && !loej)) {
		scsi_io(cmd, cmd->lu->lun, LUN_FLUSH, 0, 0, 0, NULL, 0, flushed_for_stop);
	} else if (loej) {
		load_or_eject(cmd, true);
	} else {
		scsi_good(cmd);
	}
}

void scsi_prevent_allow(struct scsi_cmd *cmd)
{
	struct scsi_lu *lu = cmd->lu;

	mutex_lock(&lu->lock);
	if (!(cmd->cdb[4] & 1)) {
		scsi_itl_allow_removal_locked(cmd->itl);
	} else if (!cmd->itl->prevent && !cmd->itl->stale) {
		cmd->itl->prevent = true;
		lu->prevents++;
	}
	mutex_unlock(&lu->lock);
	scsi_good(cmd);
}

/* --- READ DEFECT DATA: a virtual disk has no defects, so both lists are empty --- */

static bool defect_format_ok(struct scsi_cmd *cmd, unsigned byte)
{
	unsigned format = cmd->cdb[byte] & 7;

	if (format != 7)
		return true;
	scsi_bad_cdb_field(cmd, byte, 2);
	return false;
}

void scsi_read_defect_data_10(struct scsi_cmd *cmd)
{
	uint8_t b[4] = {0};

	if (!defect_format_ok(cmd, 2))
		return;
	b[1] = cmd->cdb[2] & 0x1f;
	scsi_reply(cmd, b, sizeof(b));
}

void scsi_read_defect_data_12(struct scsi_cmd *cmd)
{
	uint8_t b[8] = {0};

	if (!defect_format_ok(cmd, 1))
		return;
	b[1] = cmd->cdb[1] & 0x1f;
	scsi_reply(cmd, b, sizeof(b));
}
