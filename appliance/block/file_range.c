/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ranges as a whole: discard, zero, extents, copies.
 *
 * Discard and zero are fallocate(2) where it works, zeros written where it does not:
 *   discard          PUNCH_HOLE, else ZERO_RANGE, else zeros
 *   zero, may unmap  the same
 *   zero             ZERO_RANGE (the space stays allocated), else zeros
 * BLOCK_FAST ends with -EOPNOTSUPP where zeros would have to be written. What a file system does
 * not know is remembered, so that it is asked once. File systems zero the odd edges of a hole
 * themselves; a block device wants whole logical blocks (fall_unit), and its edges are written.
 *
 * Extents are SEEK_DATA and SEEK_HOLE of lseek(2). Copies are reflinks (FICLONERANGE) where the
 * ranges are whole file system blocks, else copy_file_range(2), which some file systems do on their
 * server or in metadata; -EOPNOTSUPP leaves it to the caller to read and write.
 */
#include "block/file_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static bool learnt(_Atomic bool *b)
{
	return atomic_load_explicit(b, memory_order_relaxed);
}

/** The fallocate mode to try next, or 0 when zeros have to be written. */
static int range_mode(struct file_store *f, const struct block_io *io)
{
	bool unmap = io->op == BLOCK_DISCARD || (io->flags & BLOCK_MAY_UNMAP);

	if (unmap && !learnt(&f->no_punch))
		return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	/* A device's ZERO_RANGE may be the kernel writing zeros: not fast. */
	if (!learnt(&f->no_zero_range) && !(f->device && (io->flags & BLOCK_FAST)))
		return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
	return 0;
}

static int range_done(struct block_io *io, struct file_prim *ret)
{
	if ((io->flags & BLOCK_FUA) && io->step != FILE_STEP_SYNC) {
		io->step = FILE_STEP_SYNC;
		ret->kind = FILE_PRIM_FSYNC;
	} else {
		ret->kind = FILE_PRIM_NONE;
	}
	return 0;
}

int file_range_next(struct file_store *f, struct block_io *io, struct file_prim *ret_prim)
{
	uint64_t pos = io->off + io->progress, end = io->off + io->len, unit = f->fall_unit;
	uint64_t up = (pos + unit - 1) & ~(unit - 1), down = end & ~(unit - 1);
	int mode = range_mode(f, io);

	io->iov = NULL; /* zeros */
	if (io->step == FILE_STEP_HEAD || io->step == FILE_STEP_TAIL) {
		file_align_next(f, io, ret_prim);
		return 0;
	}
	if (pos == end)
		return range_done(io, ret_prim);
	if (!mode && (io->flags & BLOCK_FAST))
		return -EOPNOTSUPP;
	if (!mode || down <= up)
		return file_align_window(f, io, end, ret_prim);
	if (pos != up)
		return file_align_window(f, io, up, ret_prim);
	if (pos >= down)
		return file_align_window(f, io, end, ret_prim);
	io->step = FILE_STEP_FALLOCATE;
	io->piece = down - pos;
	ret_prim->kind = FILE_PRIM_FALLOCATE;
	ret_prim->mode = mode;
	ret_prim->off = pos;
	ret_prim->len = io->piece;
	return 0;
}

static bool means_unsupported(const struct file_store *f, int err)
{
	return err == -EOPNOTSUPP || err == -ENOSYS || (f->device && err == -EINVAL);
}

int file_range_result(struct file_store *f, struct block_io *io, int res)
{
	if (means_unsupported(f, res)) {
		bool punch = range_mode(f, io) & FALLOC_FL_PUNCH_HOLE;

		atomic_store_explicit(punch ? &f->no_punch : &f->no_zero_range, true,
				      memory_order_relaxed);
		return 0;
	}
	if (res < 0)
		return res;
	io->progress += io->piece;
	return 0;
}

static void add_extent(struct block_io *io, unsigned room, uint64_t len, uint32_t flags)
{
	struct block_extent *last = io->n_extents ? &io->extents[io->n_extents - 1] : NULL;

	if (last && last->flags == flags)
		last->len += len;
	else if (io->n_extents < room)
		io->extents[io->n_extents++] = (struct block_extent){len, flags};
}

static int list_extents(struct file_store *f, struct block_io *io)
{
	uint64_t pos = io->off, end = io->off + io->len;
	unsigned room = io->n_extents;

	io->n_extents = 0;
	while (pos < end && io->n_extents < room) {
		off_t data = f->device ? (off_t)pos : lseek(f->fd, (off_t)pos, SEEK_DATA);
		off_t hole;

		if (data < 0 && errno != ENXIO && errno != EINVAL)
			return -errno;
		if (data < 0) /* no data from here on; or no such knowledge */
			data = errno == ENXIO ? (off_t)end : (off_t)pos;
		if ((uint64_t)data > end)
			data = (off_t)end;
		if ((uint64_t)data > pos) {
			add_extent(io, room, (uint64_t)data - pos,
				   BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO);
			pos = (uint64_t)data;
			continue;
		}
		hole = f->device ? (off_t)end : lseek(f->fd, (off_t)pos, SEEK_HOLE);
		/* ENXIO: the file has become shorter; the next round sees a hole. */
		if (hole < 0 && errno == ENXIO)
			continue;
		if (hole < 0 || (uint64_t)hole > end)
			hole = (off_t)end;
		add_extent(io, room, (uint64_t)hole - pos, 0);
		pos = (uint64_t)hole;
	}
	return 0;
}

static bool no_such_copy(int err)
{
	return err == EINVAL || err == EOPNOTSUPP || err == ENOSYS || err == EXDEV ||
	       err == ENOTTY || err == EBADF || err == EISDIR || err == ETXTBSY || err == EPERM;
}

static bool try_reflink(struct file_store *f, struct file_store *src, const struct block_io *io)
{
	struct file_clone_range r = {.src_fd = src->fd,
				     .src_offset = io->src_off,
				     .src_length = io->len,
				     .dest_offset = io->off};

	return !((io->src_off | io->off | io->len) & 4095) && !ioctl(f->fd, FICLONERANGE, &r);
}

static int copy_range(struct file_store *f, struct block_io *io)
{
	struct file_store *src = file_store_of(io->src);
	uint64_t done = 0;

	if (learnt(&f->no_copy) || f->device || src->device)
		return -EOPNOTSUPP;
	/* Ranges that overlap are the caller's to copy in the right direction. */
	if (src == f && io->src_off < io->off + io->len && io->off < io->src_off + io->len)
		return -EOPNOTSUPP;
	if (try_reflink(f, src, io))
		return 0;
	while (done < io->len) {
		off_t from = (off_t)(io->src_off + done), to = (off_t)(io->off + done);
		uint64_t left = io->len - done;
		ssize_t n = copy_file_range(src->fd, &from, f->fd, &to,
					    left < (1u << 30) ? left : 1u << 30, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && no_such_copy(errno)) {
			if (src != f || errno != EINVAL)
				atomic_store_explicit(&f->no_copy, errno != EXDEV,
						      memory_order_relaxed);
			return -EOPNOTSUPP;
		}
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		done += (uint64_t)n;
	}
	return 0;
}

int file_blocking(struct file_store *f, struct block_io *io)
{
	return io->op == BLOCK_COPY ? copy_range(f, io) : list_extents(f, io);
}
