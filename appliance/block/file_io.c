/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plans carried out by the reactor's io_uring. A hot read or write is one SQE; what can only block
 * goes to a worker.
 *
 * Buffered writes are special. Where the file system can write to the page cache without
 * blocking (FMODE_NOWAIT for buffered writes: XFS, btrfs), io_uring does so at submission. Where it
 * cannot (ext4), io_uring hands every such write to a kernel thread. Measured on ext4 (Linux 6.18,
 * 2 cores), 4 KiB at random, by the ring and by a plain pwritev2(2) on the reactor's thread:
 *
 *	depth 1		28,000-72,000 a second, 11-25 s of CPU a million	540,000, 1.9 s
 *	depth 32	480,000-690,000, 2.6-3.4 s				490,000, 2.1 s
 *
 * 256 KiB, over iSCSI at depth 8: 4,110 a second, 218 us of CPU each, and 4,780, 115 us.
 *
 * So there writes of up to INLINE_MAX are made by the reactor's own thread, which longer ones would
 * keep from others - as long as they do not block: one that took more than INLINE_SLOW_NS (dirty
 * page throttling, a page that had to be read first) sends the following ones through the ring for
 * a while, twice as long each time it happens again.
 */
#include "block/file_private.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>

#include "base/clock.h"

#define INLINE_MAX	   (256u << 10)
#define INLINE_SLOW_NS	   (4 * NSEC_PER_MSEC)
#define INLINE_BACKOFF_MIN (10 * NSEC_PER_MSEC)
#define INLINE_BACKOFF_MAX (2 * NSEC_PER_SEC)
#define MISSES_MAX	   4u
#define MISS_PROBE	   32u

static void drive(struct file_store *f, struct block_io *io);

static void finish(struct block_io *io, int err)
{
	file_plan_end(io);
	io->done(io, err);
}

static void take_result(struct block_io *io, int res)
{
	struct file_store *f = file_store_of(io->store);
	int err = file_plan_result(f, io, res);

	if (err)
		finish(io, err);
	else if (io->progress == io->len && io->step == FILE_STEP_RUN)
		io->done(io, 0); /* the hot path: nothing bounced, nothing to do */
	else
		drive(f, io);
}

static void on_cqe(struct reactor_op *op, int res, uint32_t flags)
{
	take_result(container_of(op, struct block_io, rop), res);
}

static void on_worker(struct worker_job *j)
{
	struct block_io *io = container_of(j, struct block_io, job);

	io->err = file_blocking(file_store_of(io->store), io);
}

static void on_worker_done(struct worker_job *j)
{
	struct block_io *io = container_of(j, struct block_io, job);

	take_result(io, io->err);
}

static void prep_rw(struct io_uring_sqe *sqe, int fd, const struct file_prim *p)
{
	const struct iovec *v = p->iov;
	bool write = p->kind == FILE_PRIM_WRITE;
	unsigned n = (unsigned)p->niov;

	if (n == 1 && p->reg_index >= 0 && write)
		io_uring_prep_write_fixed(sqe, fd, v->iov_base, (unsigned)v->iov_len, p->off,
					  p->reg_index);
	else if (n == 1 && p->reg_index >= 0)
		io_uring_prep_read_fixed(sqe, fd, v->iov_base, (unsigned)v->iov_len, p->off,
					 p->reg_index);
	else if (n == 1 && write)
		io_uring_prep_write(sqe, fd, v->iov_base, (unsigned)v->iov_len, p->off);
	else if (n == 1)
		io_uring_prep_read(sqe, fd, v->iov_base, (unsigned)v->iov_len, p->off);
	else if (write)
		io_uring_prep_writev(sqe, fd, v, n, p->off);
	else
		io_uring_prep_readv(sqe, fd, v, n, p->off);
	sqe->rw_flags = p->rwf;
}

static void issue(struct file_store *f, struct block_io *io, const struct file_prim *p)
{
	struct io_uring_sqe *sqe;

	if (p->kind == FILE_PRIM_BLOCKING) {
		io->job = (struct worker_job){
			.run = on_worker, .done = on_worker_done, .reactor = io->reactor};
		worker_submit(&io->job);
		return;
	}
	io->rop.done = on_cqe;
	sqe = reactor_sqe(io->reactor, &io->rop);
	switch (p->kind) {
	case FILE_PRIM_FSYNC:
		io_uring_prep_fsync(sqe, f->fd, IORING_FSYNC_DATASYNC);
		break;
	case FILE_PRIM_FALLOCATE:
		io_uring_prep_fallocate(sqe, f->fd, p->mode, (off_t)p->off, (off_t)p->len);
		break;
	case FILE_PRIM_WILLNEED:
		/* The SQE's length has 32 bits; advice may fall short. */
		io_uring_prep_fadvise(sqe, f->fd, p->off,
				      (off_t)(p->len < (1u << 30) ? p->len : 1u << 30),
				      POSIX_FADV_WILLNEED);
		break;
	default:
		prep_rw(sqe, f->fd, p);
		break;
	}
}

/* --- buffered writes on this thread --- */

static uint64_t relaxed(_Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

/* Learns, from its first write, whether the file system writes without blocking. */
static int write_way(struct file_store *f, const struct file_prim *p, ssize_t *ret_res)
{
	int way = atomic_load_explicit(&f->write_way, memory_order_relaxed);

	if (way != FILE_WRITE_UNKNOWN)
		return way;
	*ret_res = pwritev2(f->fd, p->iov, p->niov, (off_t)p->off, RWF_NOWAIT);
	way = *ret_res < 0 && errno == EOPNOTSUPP ? FILE_WRITE_INLINE : FILE_WRITE_RING;
	atomic_store_explicit(&f->write_way, way, memory_order_relaxed);
	return way;
}

static void took(struct file_store *f, uint64_t ns, uint64_t now)
{
	uint64_t backoff = relaxed(&f->inline_backoff);

	if (ns < INLINE_SLOW_NS) {
		/* Quick for as long again as it was kept away: forgiven. */
		if (backoff && now > relaxed(&f->inline_after) + backoff)
			atomic_store_explicit(&f->inline_backoff, 0, memory_order_relaxed);
		return;
	}
	backoff = backoff ? backoff * 2 : INLINE_BACKOFF_MIN;
	if (backoff > INLINE_BACKOFF_MAX)
		backoff = INLINE_BACKOFF_MAX;
	atomic_store_explicit(&f->inline_backoff, backoff, memory_order_relaxed);
	atomic_store_explicit(&f->inline_after, now + backoff, memory_order_relaxed);
}

/* Writes on the calling thread if that is the way; true: *@ret_res is the result. */
static bool write_inline(struct file_store *f, const struct file_prim *p, int *ret_res)
{
	uint64_t start, end;
	ssize_t n = -1;

	if (p->kind != FILE_PRIM_WRITE || f->direct || f->device || p->rwf || p->len > INLINE_MAX)
		return false;
	if (write_way(f, p, &n) != FILE_WRITE_INLINE) {
		*ret_res = (int)n;
		return n > 0;
	}
	start = clock_now_ns();
	if (start < relaxed(&f->inline_after))
		return false;
	n = pwritev2(f->fd, p->iov, p->niov, (off_t)p->off, 0);
	*ret_res = n < 0 ? -errno : (int)n;
	end = clock_now_ns();
	took(f, end - start, end);
	return true;
}

/* --- buffered reads on this thread --- */

/*
 * Reads on the calling thread what the page cache has; true: *@ret_res is the result. That costs
 * less than the ring (port, 4 KiB at random, a command a turn: 5.0 against 7.3 us of CPU an I/O),
 * and the caller has its answer in this turn. What is not there goes through the ring; after some
 * misses in a row only a few reads are tried.
 */
static bool read_inline(struct file_store *f, const struct file_prim *p, int *ret_res)
{
	unsigned misses;
	ssize_t n = -1;

	if (p->kind != FILE_PRIM_READ || f->direct || f->device || p->len > INLINE_MAX)
		return false;
	misses = atomic_load_explicit(&f->read_misses, memory_order_relaxed);
	if (misses < MISSES_MAX || misses % MISS_PROBE == 0)
		n = preadv2(f->fd, p->iov, p->niov, (off_t)p->off, RWF_NOWAIT);
	if (n <= 0 || misses)
		atomic_store_explicit(&f->read_misses, n > 0 ? 0 : misses + 1,
				      memory_order_relaxed);
	*ret_res = (int)n;
	return n > 0;
}

/* A loop, not recursion: a primitive is under way when this returns, or the I/O is done. */
static void drive(struct file_store *f, struct block_io *io)
{
	struct file_prim p;
	int res, err = 0;

	do {
		if (!err)
			err = file_plan_next(f, io, &p);
		if (err || p.kind == FILE_PRIM_NONE) {
			finish(io, err);
			return;
		}
		if (!write_inline(f, &p, &res) && !read_inline(f, &p, &res)) {
			issue(f, io, &p);
			return;
		}
		err = file_plan_result(f, io, res);
	} while (true);
}

void file_io_submit(struct block_store *s, struct block_io *io)
{
	file_plan_start(io);
	drive(file_store_of(s), io);
}
