/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests on open files. The reader that got one submits it to the port and goes back to read the
 * next; the port's thread that learns of its end answers the kernel. So a request takes no thread
 * while it waits, however many there are.
 *
 * What is read goes to the kernel from where the daemon has put it, without a copy in between. What
 * is written lies in the buffer it was received in, which is the request's own until it is done: a
 * daemon that dies is sent it again.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <unistd.h>

#include "front/fuse/mount_private.h"

/* Linux 6.2 (protocol 7.38); older kernels take no notice, nor do older headers know of it. */
#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1u << 6)
#endif

#define EXTENTS_AT_ONCE 256u

struct io {
	struct port_async async;
	struct mount *m;
	fuse_req_t req;
	struct iovec iov;
	void *buffer; /* of mount_take_buffer(), or NULL */
};

/* --- open files --- */

/*
 * libfuse 3.14 has no name for parallel direct writes, so the answer is written as the protocol has
 * it. Without them the kernel lets one write(2) at a time into a file.
 */
static int answer_open(const struct mount *m, fuse_req_t req)
{
	const struct fuse_open_out out = {
		.open_flags = m->opt->cached ? 0 : FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES,
	};

	return fuse_reply_buf(req, (const char *)&out, sizeof(out));
}

void mount_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount_node *node = mount_node_of(ino);
	struct mount *m = node->m;
	struct port_export e;
	int err;

	mount_begin_slow(m);
	err = mount_node_attach(node, req);
	mount_end_slow(m);
	if (err) {
		fuse_reply_err(req, mount_errno(err));
		return;
	}
	port_client_get_export(node->client, &e);
	if ((fi->flags & O_ACCMODE) != O_RDONLY && mount_read_only(&e, &m->owner))
		fuse_reply_err(req, EROFS);
	else if (answer_open(m, req) == 0)
		return;
	/* Refused, or whoever opened it has gone: no release will come. */
	mount_node_detach(node);
}

void mount_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount_node *node = mount_node_of(ino);
	struct mount *m = node->m;

	mount_begin_slow(m);
	mount_node_detach(node);
	mount_end_slow(m);
	fuse_reply_err(req, 0);
}

/* --- requests to the LUN --- */

/* The kernel has its answer. */
static void end(struct io *io)
{
	struct mount *m = io->m;

	mount_put_buffer(m, io->buffer);
	free(io);
	if (atomic_fetch_sub(&m->in_flight, 1) > 1 || !atomic_load(&m->draining))
		return;
	mutex_scope(&m->lock);
	pthread_cond_broadcast(&m->changed);
}

static void read_view(struct port_async *a, const void *data, uint64_t len)
{
	fuse_reply_buf(container_of(a, struct io, async)->req, data, len);
}

static void read_done(struct port_async *a, int result)
{
	struct io *io = container_of(a, struct io, async);

	if (result)
		fuse_reply_err(io->req, mount_errno(result));
	end(io);
}

static void write_done(struct port_async *a, int result)
{
	struct io *io = container_of(a, struct io, async);

	if (result)
		fuse_reply_err(io->req, mount_errno(result));
	else
		fuse_reply_write(io->req, a->len);
	end(io);
}

static void other_done(struct port_async *a, int result)
{
	struct io *io = container_of(a, struct io, async);

	fuse_reply_err(io->req, mount_errno(result));
	end(io);
}

/* Submits what @async says. @taken: the data are in the reader's buffer. */
static void start(struct mount_node *node, fuse_req_t req, const struct port_async *async,
		  const void *taken)
{
	struct io *io = malloc(sizeof(*io));

	if (!io) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	*io = (struct io){.async = *async, .m = node->m, .req = req};
	if (taken) {
		io->iov = (struct iovec){(void *)taken, async->len};
		io->async.iov = &io->iov;
		io->async.niov = 1;
		io->buffer = mount_take_buffer();
	}
	atomic_fetch_add(&node->m->in_flight, 1);
	mount_node_submit(node, &io->async);
}

void mount_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct mount_node *node = mount_node_of(ino);
	uint64_t len = mount_clip(atomic_load(&node->size), (uint64_t)off, size);

	if (!len) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	start(node, req,
	      &(struct port_async){.op = PORT_READ,
				   .off = (uint64_t)off,
				   .len = len,
				   .view = read_view,
				   .done = read_done},
	      NULL);
}

void mount_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		 struct fuse_file_info *fi)
{
	struct mount_node *node = mount_node_of(ino);
	uint64_t len = mount_clip(atomic_load(&node->size), (uint64_t)off, size);

	if (!len) {
		/* As block devices have it. */
		fuse_reply_err(req, ENOSPC);
		return;
	}
	mount_node_touch(node);
	start(node, req,
	      &(struct port_async){.op = PORT_WRITE,
				   .flags = fi->flags & O_DSYNC ? PORT_FUA : 0,
				   .off = (uint64_t)off,
				   .len = len,
				   .done = write_done},
	      buf);
}

void mount_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	start(mount_node_of(ino), req, &(struct port_async){.op = PORT_FLUSH, .done = other_done},
	      NULL);
}

void mount_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
		     struct fuse_file_info *fi)
{
	struct mount_node *node = mount_node_of(ino);
	struct mount_change c;
	int err = mount_plan_fallocate(mode, (uint64_t)off, (uint64_t)len, atomic_load(&node->size),
				       &c);

	if (err || !c.len) {
		fuse_reply_err(req, -err);
		return;
	}
	mount_node_touch(node);
	start(node, req,
	      &(struct port_async){
		      .op = c.op, .flags = c.flags, .off = c.off, .len = c.len, .done = other_done},
	      NULL);
}

/* --- SEEK_HOLE and SEEK_DATA --- */

/* Returns 0 with the position, or -errno. Blocks. */
static int seek(struct mount_node *node, bool hole, uint64_t *pos)
{
	uint64_t size = atomic_load(&node->size);

	if (*pos >= size)
		return -ENXIO;
	while (*pos < size) {
		struct port_extent extents[EXTENTS_AT_ONCE];
		unsigned n = EXTENTS_AT_ONCE;
		int err = port_client_extents(node->client, *pos, size - *pos, extents, &n);

		if (err || mount_seek(extents, n, hole, pos))
			return err;
	}
	/* The end of a file counts as a hole. */
	*pos = size;
	return hole ? 0 : -ENXIO;
}

void mount_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct mount_node *node = mount_node_of(ino);
	uint64_t pos = (uint64_t)off;
	int err;

	if (whence != SEEK_HOLE && whence != SEEK_DATA) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	mount_begin_slow(node->m);
	err = seek(node, whence == SEEK_HOLE, &pos);
	mount_end_slow(node->m);
	if (err)
		fuse_reply_err(req, mount_errno(err));
	else
		fuse_reply_lseek(req, (off_t)pos);
}

/* --- the end --- */

void mount_drain(struct mount *m)
{
	mutex_scope(&m->lock);
	atomic_store(&m->draining, true);
	while (atomic_load(&m->in_flight))
		mutex_wait(&m->lock, &m->changed);
}
