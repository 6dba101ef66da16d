/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Logical block provisioning: UNMAP, WRITE SAME, GET LBA STATUS (SBC-4 4.7, 5.5, 5.35, 5.50).
 *
 * UNMAP's list is read once, checked whole and copied before the first block is deallocated, so a
 * refused list has changed nothing. WRITE SAME with UNMAP deallocates when the block is all zeros
 * (LBPRZ is 1: a deallocated block reads as zeros) and writes otherwise.
 */
#include <stdlib.h>
#include <string.h>

#include "scsi/scsi_commands.h"
#include "scsi/scsi_internal.h"

/* --- UNMAP --- */

struct unmap_range {
	uint64_t lba;
	uint32_t blocks;
	uint32_t rest; /* ranges that follow */
};

static void unmap_next(struct scsi_cmd *cmd);

static void unmapped_one(struct lun_io *io)
{
	struct scsi_cmd *cmd = scsi_cmd_of_io(io);

	if (io->err)
		scsi_io_finish(io);
	else if (cmd->aborted)
		scsi_finish(cmd, SCSI_TASK_ABORTED);
	else
		unmap_next(cmd);
}

static void unmap_next(struct scsi_cmd *cmd)
{
	const struct unmap_range *r = (const struct unmap_range *)cmd->in->data + cmd->step;
	unsigned shift = cmd->lu->block_shift;

	if ((unsigned)cmd->step == cmd->blocks) {
		scsi_good(cmd);
		return;
	}
	cmd->step++;
	cmd->lba = r->lba;
	scsi_io(cmd, cmd->lu->lun, LUN_UNMAP, 0, r->lba << shift, (uint64_t)r->blocks << shift,
		NULL, 0, unmapped_one);
}

/* Checks the list and leaves its non-empty ranges in cmd->in, their number in cmd->blocks. */
static bool take_ranges(struct scsi_cmd *cmd, const uint8_t *d, unsigned n)
{
	struct unmap_range *r = (struct unmap_range *)cmd->in->data;
	uint64_t cap = atomic_load_explicit(&cmd->lu->blocks, memory_order_relaxed);
	uint64_t total = 0;

	cmd->blocks = 0;
	for (unsigned i = 0; i < n; i++, d += 16) {
		uint64_t lba = get_be64(d);
		uint32_t blocks = get_be32(d + 8);

		if (lba > cap || blocks > cap - lba) {
			scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
			return false;
		}
		total += blocks;
		if (total > SCSI_UNMAP_MAX_BLOCKS) {
			scsi_bad_param_field(cmd, 8 + i * 16 + 8, -1);
			return false;
		}
		if (blocks)
			r[cmd->blocks++] = (struct unmap_range){lba, blocks, n - i - 1};
	}
	return true;
}

static void unmap_start(struct scsi_cmd *cmd)
{
	const uint8_t *p = cmd->out->data;
	unsigned n = get_be16(p + 2);

	/* Descriptors past the end of the parameter list, and a part of one, are ignored
	 * (SBC-4 5.35.2). */
	if (n > cmd->out_len - 8)
		n = cmd->out_len - 8;
	n /= 16;
	if (n > SCSI_UNMAP_MAX_DESC) {
		scsi_bad_param_field(cmd, 2, -1);
		return;
	}
	if (take_ranges(cmd, p + 8, n))
		unmap_next(cmd);
}

void scsi_unmap(struct scsi_cmd *cmd)
{
	if (!cmd->data_len)
		scsi_good(cmd);
	else if (cmd->out_len < 8)
		scsi_bad_param_length(cmd);
	else
		scsi_alloc_in(cmd, SCSI_UNMAP_MAX_DESC * sizeof(struct unmap_range), unmap_start);
}

/* --- WRITE SAME --- */

#define WS_UNMAP 0x08
#define WS_NDOB	 0x01

static bool has_ndob(const struct scsi_cmd *cmd)
{
	return cmd->op->cdb_len == 16 && (cmd->cdb[1] & WS_NDOB);
}

bool scsi_write_same_length(struct scsi_cmd *cmd)
{
	uint64_t blocks = cmd->blocks, cap;

	if ((cmd->cdb[1] & WS_UNMAP) && !cmd->lu->thin) {
		scsi_bad_cdb_field(cmd, 1, 3);
		return false;
	}
	if (!blocks) { /* WSNZ is 0: to the end of the medium */
		cap = atomic_load_explicit(&cmd->lu->blocks, memory_order_relaxed);
		blocks = cap > cmd->lba ? cap - cmd->lba : 0;
	}
	if (blocks > SCSI_WS_MAX) {
		scsi_bad_cdb_field(cmd, cmd->op->len_off, -1);
		return false;
	}
	cmd->blocks = (uint32_t)blocks;
	cmd->data_len = has_ndob(cmd) ? 0 : cmd->lu->block_size;
	return true;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return !p[0] && !memcmp(p, p + 1, n - 1);
}

void scsi_write_same(struct scsi_cmd *cmd)
{
	uint32_t bs = cmd->lu->block_size;
	unsigned flags = 0;
	uint64_t off = cmd->lba << cmd->lu->block_shift, len = (uint64_t)cmd->blocks * bs;

	if (cmd->data_len && (cmd->out_len != bs || cmd->out_excess)) {
		scsi_bad_cdb_field(cmd, cmd->op->len_off, -1);
		return;
	}
	if (!len) {
		scsi_good(cmd);
		return;
	}
	if (atomic_load_explicit(&cmd->lu->mode.wce_off, memory_order_relaxed))
		flags |= LUN_IO_FUA;
	if (!cmd->data_len || all_zero(cmd->out->data, bs)) {
		if (cmd->cdb[1] & WS_UNMAP)
			flags |= LUN_IO_MAY_UNMAP;
		scsi_io(cmd, cmd->lu->lun, LUN_ZERO, flags, off, len, NULL, 0, scsi_io_finish);
		return;
	}
	scsi_io(cmd, cmd->lu->lun, LUN_WRITE_SAME, flags, off, len, cmd->out->data, bs,
		scsi_io_finish);
}

/* --- GET LBA STATUS --- */

#define STATUS_EXTENTS 64
#define STATUS_SPAN    (1ull << 40) /* bytes looked at by one command */

/* Appends [@from, @to) to the descriptors at @b, joining it with the last where it is alike. */
static unsigned add_run(uint8_t *b, unsigned n, uint64_t from, uint64_t to, uint8_t prov)
{
	while (from < to) {
		uint64_t blocks = to - from > UINT32_MAX ? UINT32_MAX : to - from;
		uint8_t *last = n ? b + (n - 1) * 16 : NULL;

		if (last && last[12] == prov && get_be32(last + 8) + blocks <= UINT32_MAX) {
			put_be32(last + 8, get_be32(last + 8) + (uint32_t)blocks);
		} else if (n < STATUS_EXTENTS) {
			memset(b + n * 16, 0, 16);
			put_be64(b + n * 16, from);
			put_be32(b + n * 16 + 8, (uint32_t)blocks);
			b[n * 16 + 12] = prov;
			n++;
		} else {
			break;
		}
		from += blocks;
	}
	return n;
}

static void got_status(struct lun_io *io)
{
	struct scsi_cmd *cmd = scsi_cmd_of_io(io);
	uint8_t b[8 + STATUS_EXTENTS * 16] = {0};
	uint64_t pos = io->off, mask = cmd->lu->block_size - 1, lba = cmd->lba;
	unsigned n = 0, shift = cmd->lu->block_shift;

	if (io->err) {
		scsi_io_finish(io);
		return;
	}
	/* A block that is only in part a hole counts as mapped. */
	for (unsigned i = 0; i < io->n_extents; i++) {
		const struct block_extent *e = &io->extents[i];
		bool hole = e->flags & BLOCK_EXTENT_HOLE;
		uint64_t end = pos + e->len < io->off + io->len ? pos + e->len : io->off + io->len;
		uint64_t to = (hole ? end : end + mask) >> shift;

		if (hole)
			n = add_run(b + 8, n, lba, (pos + mask) >> shift, 0);
		if (hole && lba < (pos + mask) >> shift)
			lba = (pos + mask) >> shift;
		if (to > lba) {
			n = add_run(b + 8, n, lba, to, hole);
			lba = to;
		}
		pos += e->len;
	}
	put_be32(b, 4 + n * 16);
	scsi_reply(cmd, b, 8 + n * 16);
}

void scsi_get_lba_status(struct scsi_cmd *cmd)
{
	uint64_t cap = atomic_load_explicit(&cmd->lu->blocks, memory_order_relaxed);
	uint64_t len = (cap - cmd->lba) << cmd->lu->block_shift;
	struct block_extent *ext;

	if (cmd->lba >= cap) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
		return;
	}
	ext = calloc(STATUS_EXTENTS, sizeof(*ext));
	if (!ext) {
		scsi_finish(cmd, SCSI_BUSY);
		return;
	}
	cmd->priv = ext;
	cmd->priv_free = free;
	scsi_io_status(cmd, cmd->lba << cmd->lu->block_shift, len < STATUS_SPAN ? len : STATUS_SPAN,
		       ext, STATUS_EXTENTS, got_status);
}
