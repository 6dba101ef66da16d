/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Plans carried out by plain system calls on the calling thread; no reactor, no io_uring. */
#include "block/file_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/uio.h>

static int carry_out(struct file_store *f, struct block_io *io, const struct file_prim *p)
{
	ssize_t n = 0;

	switch (p->kind) {
	case FILE_PRIM_NONE:
		break;
	case FILE_PRIM_READ:
		n = preadv2(f->fd, p->iov, p->niov, (off_t)p->off, p->rwf);
		break;
	case FILE_PRIM_WRITE:
		n = pwritev2(f->fd, p->iov, p->niov, (off_t)p->off, p->rwf);
		break;
	case FILE_PRIM_FSYNC:
		n = fdatasync(f->fd);
		break;
	case FILE_PRIM_FALLOCATE:
		n = fallocate(f->fd, p->mode, (off_t)p->off, (off_t)p->len);
		break;
	case FILE_PRIM_WILLNEED:
		posix_fadvise(f->fd, (off_t)p->off, (off_t)p->len, POSIX_FADV_WILLNEED);
		break;
	case FILE_PRIM_BLOCKING:
		return file_blocking(f, io);
	}
	return n < 0 ? -errno : (int)n;
}

int file_sync_run(struct block_store *s, struct block_io *io)
{
	struct file_store *f = file_store_of(s);
	struct file_prim p;
	int err;

	io->reactor = NULL;
	file_plan_start(io);
	for (;;) {
		err = file_plan_next(f, io, &p);
		if (err || p.kind == FILE_PRIM_NONE)
			break;
		err = file_plan_result(f, io, carry_out(f, io, &p));
		if (err)
			break;
	}
	file_plan_end(io);
	return err;
}
