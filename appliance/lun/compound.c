/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an op does, as a sequence of block I/Os. Plain ops are one. The compound ones go through the
 * range in chunks of their bounce buffer, under the range lock that was taken for the whole:
 *
 *   VERIFY             read, compare (or only read)
 *   COMPARE_AND_WRITE  read and compare it all; then one write of the second half of the iov
 *   OR_WRITE           read, OR, write
 *   WRITE_SAME         the bounce buffer is filled with the pattern once, and written
 *   COPY               the store's own copy; when it has none, read and write. Ranges of one LUN
 *                      that overlap are copied as memmove(3) does
 *
 * A chunk that fails ends the op: what was written stays written, as SBC-4 has it for a failed
 * write; COMPARE_AND_WRITE writes only after all has compared equal.
 */
#include "lun/lun_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"

#define BOUNCE_MALLOC (64u << 10)
#define PATTERN_MAX   BOUNCE_MALLOC

enum { STEP_START, STEP_READ, STEP_WRITE, STEP_STORE_COPY, STEP_ONLY };

int lun_compound_check(const struct lun *lun, const struct lun_io *io)
{
	uint64_t have = 0, need = io->len;

	if (io->op == LUN_COPY)
		return io->src ? 0 : -EINVAL;
	if (io->op == LUN_PREFETCH)
		return 0;
	if (io->op == LUN_VERIFY && !io->niov)
		return 0;
	if (io->op == LUN_WRITE_SAME) {
		if (!io->pattern_len || io->pattern_len > PATTERN_MAX || io->len % io->pattern_len)
			return -EINVAL;
		need = io->pattern_len;
	} else if (io->op == LUN_COMPARE_AND_WRITE) {
		need = 2 * io->len;
	}
	for (int i = 0; i < io->niov; i++)
		have += io->iov[i].iov_len;
	return have >= need ? 0 : -EINVAL;
}

/* Ops that hold no memory of the pool themselves may wait for it; the others could wait for each
 * other, and get theirs from malloc when the pool has none. */
static bool may_wait(const struct lun_io *io)
{
	return io->op == LUN_COPY || !io->niov;
}

static bool bounce_from_pool(struct lun_io *io, uint64_t want)
{
	io->bounce_buf = iobuf_get(reactor_iobufs(io->reactor), want);
	if (!io->bounce_buf)
		return false;
	io->bounce = io->bounce_buf->data;
	io->bounce_cap = io->bounce_buf->cap;
	return true;
}

static bool bounce_from_malloc(struct lun_io *io, uint64_t want)
{
	void *p;

	if (want < 4096)
		want = 4096;
	if (posix_memalign(&p, 4096, want))
		return false;
	io->bounce = p;
	io->bounce_cap = (uint32_t)want;
	return true;
}

#define SPARES (sizeof(((struct lun_cache *)0)->spare) / sizeof(void *))

static bool bounce_from_spares(struct lun_io *io)
{
	for (unsigned i = 0; i < SPARES; i++) {
		io->bounce = atomic_exchange(&io->lun->cache->spare[i], NULL);
		if (io->bounce) {
			io->bounce_cap = LUN_BOUNCE_MAX;
			return true;
		}
	}
	return bounce_from_malloc(io, LUN_BOUNCE_MAX);
}

static bool bounce_to_spares(struct lun_io *io)
{
	for (unsigned i = 0; i < SPARES; i++) {
		void *none = NULL;

		if (atomic_compare_exchange_strong(&io->lun->cache->spare[i], &none, io->bounce))
			return true;
	}
	return false;
}

bool lun_bounce_try(struct lun_io *io, uint32_t want)
{
	if (io->reactor)
		return bounce_from_pool(io, want);
	return want > BOUNCE_MALLOC ? bounce_from_spares(io) : bounce_from_malloc(io, want);
}

bool lun_bounce_get(struct lun_io *io)
{
	uint64_t want = lun_op_traits[io->op].bounce;

	if (io->op == LUN_PREFETCH && !io->lun->cache)
		return true;
	if (io->op == LUN_WRITE_SAME && want > io->len)
		want = io->len > io->pattern_len ? io->len : io->pattern_len;
	else if (want > io->len)
		want = io->len ? io->len : 1;
	if (io->reactor && bounce_from_pool(io, want))
		return true;
	if (io->reactor && may_wait(io))
		return false;
	if (want > BOUNCE_MALLOC && (io->reactor || !may_wait(io)))
		want = BOUNCE_MALLOC;
	return bounce_from_malloc(io, want);
}

void lun_bounce_put(struct lun_io *io)
{
	if (io->bounce_buf)
		iobuf_put(io->bounce_buf);
	else if (io->bounce &&
		 !(io->bounce_cap == LUN_BOUNCE_MAX && io->lun->cache && bounce_to_spares(io)))
		free(io->bounce);
	io->bounce = NULL;
	io->bounce_buf = NULL;
}

static unsigned block_flags(const struct lun_io *io)
{
	unsigned flags = 0;

	if (io->flags & LUN_IO_FUA)
		flags |= BLOCK_FUA;
	if (io->flags & LUN_IO_MAY_UNMAP)
		flags |= BLOCK_MAY_UNMAP;
	if (io->flags & LUN_IO_FAST)
		flags |= BLOCK_FAST;
	return flags;
}

/* The next block I/O moves the caller's memory. */
static bool set_bio(struct lun_io *io, enum block_op op, unsigned flags, uint64_t off, uint64_t len)
{
	struct block_io *b = &io->bio;

	b->op = op;
	b->flags = flags;
	b->off = off;
	b->len = len;
	b->iov = io->iov;
	b->niov = io->niov;
	b->reg_index = io->reg_index;
	b->iov_off = 0;
	return true;
}

/* The next chunk is read or written by the bounce buffer. */
static bool bounce_bio(struct lun_io *io, enum block_op op, uint64_t off)
{
	lun_bounce_bio(io, op, off, io->chunk);
	return true;
}

enum lun_plan lun_caller_bio(struct lun_io *io, enum block_op op, uint64_t off, uint64_t len,
			     uint64_t iov_off)
{
	set_bio(io, op, block_flags(io), off, len);
	io->bio.iov_off = iov_off;
	return LUN_PLAN_IO;
}

enum lun_plan lun_bounce_bio(struct lun_io *io, enum block_op op, uint64_t off, uint64_t len)
{
	set_bio(io, op, op == BLOCK_WRITE ? block_flags(io) & BLOCK_FUA : 0, off, len);
	io->iov1 = (struct iovec){io->bounce, len};
	io->bio.iov = &io->iov1;
	io->bio.niov = 1;
	io->bio.reg_index = io->bounce_buf ? io->bounce_buf->reg_index : -1;
	return LUN_PLAN_IO;
}

/* Sets the chunk that starts at progress; false when there is none left. */
static bool next_chunk(struct lun_io *io)
{
	uint64_t left = io->len - io->progress;

	io->chunk = left < io->bounce_cap ? left : io->bounce_cap;
	return left;
}

static bool end_with(struct lun_io *io, int err)
{
	io->err = err;
	return false;
}

static size_t first_difference(const uint8_t *a, const uint8_t *b, size_t n)
{
	size_t i = 0;

	while (i < n && a[i] == b[i])
		i++;
	return i;
}

/* Compares the chunk in the bounce buffer with the caller's data. 0 or -EILSEQ. */
static int compare_chunk(struct lun_io *io)
{
	struct cursor c = cursor_at(io->iov, io->niov, io->progress);
	size_t done = 0, n;

	for (; done < io->chunk; done += n) {
		const uint8_t *p = cursor_part(&c, io->chunk - done, &n);

		if (!memcmp(io->bounce + done, p, n))
			continue;
		io->miscompare_off =
			io->progress + done + first_difference(io->bounce + done, p, n);
		return -EILSEQ;
	}
	return 0;
}

static void or_chunk(struct lun_io *io)
{
	struct cursor c = cursor_at(io->iov, io->niov, io->progress);
	size_t done = 0, n;

	for (; done < io->chunk; done += n) {
		const uint8_t *p = cursor_part(&c, io->chunk - done, &n);

		for (size_t i = 0; i < n; i++)
			io->bounce[done + i] |= p[i];
	}
}

/* --- plans --- */

static bool next_verify(struct lun_io *io)
{
	if (io->step == STEP_READ) {
		if (io->niov && compare_chunk(io))
			return end_with(io, -EILSEQ);
		io->progress += io->chunk;
	}
	io->step = STEP_READ;
	return next_chunk(io) && bounce_bio(io, BLOCK_READ, io->off + io->progress);
}

static bool next_compare_and_write(struct lun_io *io)
{
	if (io->step == STEP_WRITE)
		return false;
	if (next_verify(io))
		return true;
	if (io->err || !io->len)
		return false;
	if (io->matched)
		io->matched(io);
	io->step = STEP_WRITE;
	set_bio(io, BLOCK_WRITE, block_flags(io) & BLOCK_FUA, io->off, io->len);
	io->bio.iov_off = io->len;
	return true;
}

static bool next_or_write(struct lun_io *io)
{
	if (io->step == STEP_READ) {
		or_chunk(io);
		io->step = STEP_WRITE;
		return bounce_bio(io, BLOCK_WRITE, io->off + io->progress);
	}
	if (io->step == STEP_WRITE)
		io->progress += io->chunk;
	io->step = STEP_READ;
	return next_chunk(io) && bounce_bio(io, BLOCK_READ, io->off + io->progress);
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

static void fill_pattern(struct lun_io *io)
{
	struct cursor c = cursor_at(io->iov, io->niov, 0);
	size_t have = 0, n;

	for (; have < io->pattern_len; have += n) {
		const uint8_t *p = cursor_part(&c, io->pattern_len - have, &n);

		memcpy(io->bounce + have, p, n);
	}
	io->bounce_cap -= io->bounce_cap % io->pattern_len;
	for (; have < io->bounce_cap && have < io->len; have += n) {
		n = have < io->bounce_cap - have ? have : io->bounce_cap - have;
		memcpy(io->bounce + have, io->bounce, n);
	}
}

static bool next_write_same(struct lun_io *io)
{
	if (io->step == STEP_ONLY || !io->len)
		return false;
	if (io->step == STEP_START) {
		fill_pattern(io);
		if (is_zero(io->bounce, io->pattern_len)) {
			io->step = STEP_ONLY;
			return set_bio(io, BLOCK_ZERO, block_flags(io) & ~(unsigned)BLOCK_FAST,
				       io->off, io->len);
		}
	} else {
		io->progress += io->chunk;
	}
	io->step = STEP_WRITE;
	return next_chunk(io) && bounce_bio(io, BLOCK_WRITE, io->off + io->progress);
}

/* Where, in the range, the chunk lies: from the end when the ranges overlap that way round. */
static uint64_t copy_at(const struct lun_io *io)
{
	if (io->src == io->lun && io->src_off < io->off && io->off < io->src_off + io->len)
		return io->len - io->progress - io->chunk;
	return io->progress;
}

static bool next_copy(struct lun_io *io, int err, struct block_store **ret_store)
{
	if (io->step == STEP_START) {
		io->step = STEP_STORE_COPY;
		set_bio(io, BLOCK_COPY, block_flags(io) & BLOCK_FUA, io->off, io->len);
		io->bio.src = io->src->store;
		io->bio.src_off = io->src_off;
		return true;
	}
	if (io->step == STEP_STORE_COPY && err != -EOPNOTSUPP)
		return end_with(io, err);
	if (io->step == STEP_READ) {
		io->step = STEP_WRITE;
		return bounce_bio(io, BLOCK_WRITE, io->off + copy_at(io));
	}
	if (io->step == STEP_WRITE)
		io->progress += io->chunk;
	io->step = STEP_READ;
	*ret_store = io->src->store;
	return next_chunk(io) && bounce_bio(io, BLOCK_READ, io->src_off + copy_at(io));
}

static bool next_plain(struct lun_io *io, enum block_op op)
{
	if (io->step == STEP_ONLY) {
		if (op == BLOCK_STATUS)
			io->n_extents = io->bio.n_extents;
		return false;
	}
	io->step = STEP_ONLY;
	set_bio(io, op, block_flags(io), io->off, io->len);
	io->bio.extents = io->extents;
	io->bio.n_extents = io->n_extents;
	return true;
}

enum lun_plan lun_plan_end(struct lun_io *io, int err)
{
	io->err = err;
	return LUN_PLAN_DONE;
}

/* The ops whose block I/Os follow one another without a wait. */
static bool next_io(struct lun_io *io, int err, struct block_store **ret_store)
{
	switch (io->op) {
	case LUN_WRITE:
		return next_plain(io, BLOCK_WRITE);
	case LUN_FLUSH:
		return next_plain(io, BLOCK_FLUSH);
	case LUN_UNMAP:
		return next_plain(io, BLOCK_DISCARD);
	case LUN_ZERO:
		return next_plain(io, BLOCK_ZERO);
	case LUN_STATUS:
		return next_plain(io, BLOCK_STATUS);
	case LUN_WRITE_SAME:
		return next_write_same(io);
	case LUN_VERIFY:
		return next_verify(io);
	case LUN_COMPARE_AND_WRITE:
		return next_compare_and_write(io);
	case LUN_OR_WRITE:
		return next_or_write(io);
	case LUN_COPY:
		return next_copy(io, err, ret_store);
	default:
		return end_with(io, -EINVAL);
	}
}

enum lun_plan lun_plan_next(struct lun_io *io, int err, struct block_store **ret_store)
{
	bool more;

	*ret_store = io->lun->store;
	if (io->op == LUN_READ)
		return lun_read_next(io, err);
	if (io->op == LUN_PREFETCH)
		return lun_prefetch_next(io, err);
	if (err && !(err == -EOPNOTSUPP && io->step == STEP_STORE_COPY))
		return lun_plan_end(io, err);
	more = next_io(io, err, ret_store);
	return more ? LUN_PLAN_IO : LUN_PLAN_DONE;
}
