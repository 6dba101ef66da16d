/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plans. An I/O is a sequence of primitives, one system call each; the same plan is carried out
 * by io_uring (file_io.c) and by plain calls (file_sync.c), so that read-modify-write, continued
 * short transfers, fallbacks and FUA exist once.
 *
 * A plan is a loop over io->progress: next() looks where the I/O stands and names the primitive,
 * result() moves progress on, or fails. A short transfer is thus continued by itself. Where a plan
 * has inner steps (read-modify-write), io->step tells which is under way.
 */
#include "block/file_private.h"

#include <errno.h>

void file_plan_start(struct block_io *io)
{
	io->progress = 0;
	io->piece = 0;
	io->step = FILE_STEP_START;
	io->bounce = NULL;
	io->bounce_buf = NULL;
}

void file_plan_end(struct block_io *io)
{
	if (io->bounce)
		file_align_free(io);
}

static int next_data(struct file_store *f, struct block_io *io, struct file_prim *ret)
{
	if (io->step == FILE_STEP_HEAD || io->step == FILE_STEP_TAIL) {
		file_align_next(f, io, ret);
		return 0;
	}
	if (io->progress == io->len) {
		ret->kind = FILE_PRIM_NONE;
		return 0;
	}
	ret->kind = io->op == BLOCK_READ ? FILE_PRIM_READ : FILE_PRIM_WRITE;
	ret->rwf = io->op == BLOCK_WRITE && (io->flags & BLOCK_FUA) ? RWF_DSYNC : 0;
	ret->off = io->off + io->progress;
	io->piece = ret->len = file_align_run(f, io, ret);
	if (!io->piece)
		return file_align_window(f, io, io->off + io->len, ret);
	io->step = FILE_STEP_RUN;
	return 0;
}

/* Ops that are one primitive. */
static int next_single(struct block_io *io, enum file_prim_kind kind, enum file_step step,
		       struct file_prim *ret)
{
	ret->kind = io->step == FILE_STEP_START ? kind : FILE_PRIM_NONE;
	ret->off = io->off;
	ret->len = io->len;
	io->step = step;
	return 0;
}

static int next_copy(struct block_io *io, struct file_prim *ret)
{
	if (io->step == FILE_STEP_BLOCKING && (io->flags & BLOCK_FUA)) {
		io->step = FILE_STEP_SYNC;
		ret->kind = FILE_PRIM_FSYNC;
		return 0;
	}
	return next_single(io, FILE_PRIM_BLOCKING, FILE_STEP_BLOCKING, ret);
}

int file_plan_next(struct file_store *f, struct block_io *io, struct file_prim *ret_prim)
{
	switch (io->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return next_data(f, io, ret_prim);
	case BLOCK_FLUSH:
		return next_single(io, f->base.read_only ? FILE_PRIM_NONE : FILE_PRIM_FSYNC,
				   FILE_STEP_SYNC, ret_prim);
	case BLOCK_DISCARD:
	case BLOCK_ZERO:
		return file_range_next(f, io, ret_prim);
	case BLOCK_STATUS:
		return next_single(io, FILE_PRIM_BLOCKING, FILE_STEP_BLOCKING, ret_prim);
	case BLOCK_COPY:
		return next_copy(io, ret_prim);
	case BLOCK_PREFETCH:
		return next_single(io, f->direct ? FILE_PRIM_NONE : FILE_PRIM_WILLNEED,
				   FILE_STEP_WILLNEED, ret_prim);
	}
	return -EOPNOTSUPP;
}

static int run_result(struct block_io *io, int res)
{
	if (res == 0) /* the end of the file is before the end of the store */
		return io->op == BLOCK_READ ? -ENODATA : -EIO;
	io->progress += (unsigned)res;
	return 0;
}

int file_plan_result(struct file_store *f, struct block_io *io, int res)
{
	if (res == -EINTR) {
		/* Steps that are named by progress are found again; the others start over. */
		if (io->step == FILE_STEP_SYNC)
			io->step = io->op == BLOCK_FLUSH  ? FILE_STEP_START
				   : io->op == BLOCK_COPY ? FILE_STEP_BLOCKING
							  : FILE_STEP_RUN;
		else if (io->step == FILE_STEP_BLOCKING || io->step == FILE_STEP_HEAD ||
			 io->step == FILE_STEP_TAIL)
			io->step = FILE_STEP_START;
		return 0;
	}
	/* A limit on the size of files (RLIMIT_FSIZE, the file system's own) that the store's size
	 * is beyond: to whoever writes there is no room. */
	if (res == -EFBIG)
		res = -ENOSPC;
	switch ((enum file_step)io->step) {
	case FILE_STEP_FALLOCATE:
		return file_range_result(f, io, res);
	case FILE_STEP_WILLNEED:
		return 0; /* advice */
	default:
		break;
	}
	if (res < 0)
		return res;
	switch ((enum file_step)io->step) {
	case FILE_STEP_RUN:
		return run_result(io, res);
	case FILE_STEP_BOUNCE_READ:
	case FILE_STEP_HEAD:
	case FILE_STEP_TAIL:
	case FILE_STEP_BOUNCE_WRITE:
		return file_align_result(f, io, res);
	default:
		return 0;
	}
}
