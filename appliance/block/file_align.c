/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Alignment for direct I/O. open(2), "O_DIRECT": offset, length and memory must be multiples of
 * what the file system and device say (statx(2), STATX_DIOALIGN).
 *
 * What is aligned goes as it is: the longest run of the caller's segments at the current place.
 * The rest goes through a window of aligned memory:
 *
 *         lo          pos                    pos + piece      hi
 *         |-----------|======================|----------------|      lo, hi: multiples of off_align
 *          head: read  the caller's bytes      tail: read
 *
 * A read takes the window in and copies the piece out. A write reads the first and the last unit
 * when they are not covered whole, puts the piece in, and writes the window: two writers of one
 * unit must be kept apart by the caller (block.h). With iov NULL the piece is zeros; that is how
 * zeros are written where fallocate cannot make them, in buffered mode too (off_align is 1 there).
 * A direct transfer falls short by whole units; one that ends inside a unit is the file's end.
 *
 * The bounce memory comes from the reactor's pool when it has some, else from malloc; it never
 * waits for the pool, because whoever bounces holds a range lock and the owners of the pool's
 * memory may be waiting for that.
 */
#include "block/file_private.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define RUN_MAX	      (1u << 30) /* of one call; the kernel's own limit is 2 GiB - 4 KiB */
#define BOUNCE_POOL   (256u << 10)
#define BOUNCE_MALLOC (64u << 10)

static uint64_t round_down(uint64_t v, uint64_t unit)
{
	return v & ~(unit - 1);
}

static uint64_t round_up(uint64_t v, uint64_t unit)
{
	return (v + unit - 1) & ~(unit - 1);
}

/* The segment that holds byte @at of the I/O, and how far into it. */
static int iov_find(const struct block_io *io, uint64_t at, size_t *ret_skip)
{
	int i = 0;

	at += io->iov_off;
	while (i < io->niov && at >= io->iov[i].iov_len)
		at -= io->iov[i++].iov_len;
	assert(i < io->niov && "the segments are shorter than the I/O");
	*ret_skip = at;
	return i;
}

/* How many bytes from @at of the I/O one call can take, and by which segments. */
static uint64_t find_run(const struct file_store *f, const struct block_io *io, uint64_t at,
			 struct iovec *ret_one, const struct iovec **ret_iov, int *ret_niov)
{
	uint64_t left = io->len - at, total = 0;
	uint32_t off_mask = f->off_align - 1, mem_mask = f->mem_align - 1;
	size_t skip, n;
	int i, j;

	if (((io->off + at) & off_mask) || !io->iov)
		return 0;
	if (left > RUN_MAX)
		left = RUN_MAX;
	i = iov_find(io, at, &skip);
	for (j = i; !skip && j < io->niov && j - i < IOV_MAX && total < left; j++) {
		const struct iovec *v = &io->iov[j];

		if (v->iov_len > left - total || (v->iov_len & off_mask) ||
		    ((uintptr_t)v->iov_base & mem_mask))
			break;
		total += v->iov_len;
	}
	if (total) {
		*ret_iov = &io->iov[i];
		*ret_niov = j - i;
		return total;
	}
	/* A part of one segment. */
	n = io->iov[i].iov_len - skip;
	if (n > left)
		n = left;
	n &= ~(size_t)off_mask;
	*ret_one = (struct iovec){(uint8_t *)io->iov[i].iov_base + skip, n};
	if (!n || ((uintptr_t)ret_one->iov_base & mem_mask))
		return 0;
	*ret_iov = ret_one;
	*ret_niov = 1;
	return n;
}

uint64_t file_align_run(const struct file_store *f, struct block_io *io, struct file_prim *ret_prim)
{
	uint64_t n = find_run(f, io, io->progress, &io->iov1, &ret_prim->iov, &ret_prim->niov);

	ret_prim->reg_index = io->niov == 1 ? io->reg_index : -1;
	return n;
}

static int bounce_get(const struct file_store *f, struct block_io *io, uint64_t want)
{
	size_t align = f->mem_align < 4096 ? 4096 : f->mem_align;
	uint64_t cap;
	void *p;

	if (io->bounce)
		return 0;
	if (io->reactor) {
		cap = want < BOUNCE_POOL ? want : BOUNCE_POOL;
		io->bounce_buf = iobuf_get(reactor_iobufs(io->reactor), cap);
		if (io->bounce_buf) {
			io->bounce = io->bounce_buf->data;
			io->bounce_cap = io->bounce_buf->cap;
			return 0;
		}
	}
	cap = want < BOUNCE_MALLOC ? round_up(want, align) : BOUNCE_MALLOC;
	if (posix_memalign(&p, align, cap))
		return -ENOMEM;
	io->bounce = p;
	io->bounce_cap = (uint32_t)cap;
	return 0;
}

void file_align_free(struct block_io *io)
{
	if (io->bounce_buf)
		iobuf_put(io->bounce_buf);
	else
		free(io->bounce);
	io->bounce = NULL;
	io->bounce_buf = NULL;
}

struct window {
	uint64_t lo, pos, end, hi; /* as in the drawing; end = pos + piece */
};

static struct window window_of(const struct file_store *f, const struct block_io *io)
{
	struct window w;

	w.pos = io->off + io->progress;
	w.end = w.pos + io->piece;
	w.lo = round_down(w.pos, f->off_align);
	w.hi = round_up(w.end, f->off_align);
	return w;
}

/* Copies between the bounce buffer and the caller's segments. */
static void copy_piece(const struct block_io *io, uint8_t *p, uint64_t n, bool to_caller)
{
	size_t skip;
	int i = iov_find(io, io->progress, &skip);

	for (; n; i++, skip = 0) {
		uint8_t *q = (uint8_t *)io->iov[i].iov_base + skip;
		size_t part = io->iov[i].iov_len - skip;

		if (part > n)
			part = n;
		if (to_caller)
			memcpy(q, p, part);
		else
			memcpy(p, q, part);
		p += part;
		n -= part;
	}
}

static void prim_bounce(struct block_io *io, const struct window *w, uint64_t off, uint64_t len,
			enum file_prim_kind kind, enum file_step step, struct file_prim *ret)
{
	io->step = step;
	io->iov1 = (struct iovec){io->bounce + (off - w->lo), len};
	ret->kind = kind;
	ret->iov = &io->iov1;
	ret->niov = 1;
	ret->reg_index = io->bounce_buf ? io->bounce_buf->reg_index : -1;
	ret->off = off;
	ret->len = len;
	ret->rwf = kind == FILE_PRIM_WRITE && (io->flags & BLOCK_FUA) ? RWF_DSYNC : 0;
}

static void prim_window_write(struct block_io *io, const struct window *w, struct file_prim *ret)
{
	if (io->iov)
		copy_piece(io, io->bounce + (w->pos - w->lo), io->piece, false);
	else
		memset(io->bounce + (w->pos - w->lo), 0, io->piece);
	prim_bounce(io, w, w->lo, w->hi - w->lo, FILE_PRIM_WRITE, FILE_STEP_BOUNCE_WRITE, ret);
}

/* Where a window that starts at the current place had best end. */
static uint64_t window_end(const struct file_store *f, const struct block_io *io, uint64_t end)
{
	uint64_t pos = io->off + io->progress, next = round_up(pos, f->off_align);
	const struct iovec *iov;
	struct iovec one;
	int niov;

	/* An odd head only, when what follows it is aligned. */
	if (io->iov && next != pos && next < end &&
	    find_run(f, io, next - io->off, &one, &iov, &niov))
		return next;
	return end;
}

int file_align_window(struct file_store *f, struct block_io *io, uint64_t end,
		      struct file_prim *ret_prim)
{
	uint64_t pos = io->off + io->progress, lo = round_down(pos, f->off_align);
	uint32_t unit = f->off_align;
	struct window w;
	int err;

	end = window_end(f, io, end);
	err = bounce_get(f, io, round_up(end, unit) - lo);
	if (err)
		return err;
	if (round_up(end, unit) - lo > io->bounce_cap)
		end = lo + round_down(io->bounce_cap, unit);
	io->piece = end - pos;
	w = window_of(f, io);
	if (io->op == BLOCK_READ)
		prim_bounce(io, &w, w.lo, w.hi - w.lo, FILE_PRIM_READ, FILE_STEP_BOUNCE_READ,
			    ret_prim);
	else if (w.lo != w.pos)
		prim_bounce(io, &w, w.lo, unit, FILE_PRIM_READ, FILE_STEP_HEAD, ret_prim);
	else if (w.hi != w.end)
		prim_bounce(io, &w, w.hi - unit, unit, FILE_PRIM_READ, FILE_STEP_TAIL, ret_prim);
	else
		prim_window_write(io, &w, ret_prim);
	return 0;
}

void file_align_next(struct file_store *f, struct block_io *io, struct file_prim *ret_prim)
{
	struct window w = window_of(f, io);
	uint32_t unit = f->off_align;

	if (io->step == FILE_STEP_HEAD && w.hi != w.end && w.hi - unit != w.lo)
		prim_bounce(io, &w, w.hi - unit, unit, FILE_PRIM_READ, FILE_STEP_TAIL, ret_prim);
	else
		prim_window_write(io, &w, ret_prim);
}

int file_align_result(struct file_store *f, struct block_io *io, int res)
{
	struct window w = window_of(f, io);
	uint64_t got = (unsigned)res;

	if (io->step == FILE_STEP_HEAD || io->step == FILE_STEP_TAIL)
		return got < f->off_align ? -ENODATA : 0;
	got = got > w.pos - w.lo ? got - (w.pos - w.lo) : 0;
	if (!got)
		return io->step == FILE_STEP_BOUNCE_READ ? -ENODATA : -EIO;
	if (got > io->piece)
		got = io->piece;
	if (io->step == FILE_STEP_BOUNCE_READ)
		copy_piece(io, io->bounce + (w.pos - w.lo), got, true);
	io->progress += got;
	return 0;
}
