/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plans carried out by the reactor's io_uring. A hot read or write is one SQE; what can only block
 * goes to a worker. A loop, not recursion: a primitive either is under way when drive() returns,
 * or the I/O is done.
 */
#include "block/file_private.h"

#include <errno.h>
#include <fcntl.h>

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

static void drive(struct file_store *f, struct block_io *io)
{
	struct file_prim p;
	int err = file_plan_next(f, io, &p);

	if (err || p.kind == FILE_PRIM_NONE)
		finish(io, err);
	else
		issue(f, io, &p);
}

void file_io_submit(struct block_store *s, struct block_io *io)
{
	file_plan_start(io);
	drive(file_store_of(s), io);
}
