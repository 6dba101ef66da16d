/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A file (of `ebb mount`) by io_uring; every other client with O_DIRECT. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"

#define ENTRIES 1024

struct file_client {
	struct client client; /* first */
	struct io_uring ring;
	int fd; /* -1: not connected, and no ring */
};

static struct file_client *of(struct client *client)
{
	return container_of(client, struct file_client, client);
}

static uint64_t bytes_of(const struct client *client, const struct request *q)
{
	return (uint64_t)q->count * client->block_size;
}

static int submit(struct client *client, struct request *q)
{
	struct file_client *c = of(client);
	uint64_t off = q->lba * client->block_size, len = bytes_of(client, q);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&c->ring);

	if (!sqe)
		return -EBUSY;
	switch (q->kind) {
	case REQUEST_READ:
		io_uring_prep_read(sqe, c->fd, q->data, (unsigned)len, off);
		break;
	case REQUEST_WRITE:
		io_uring_prep_write(sqe, c->fd, q->data, (unsigned)len, off);
		sqe->rw_flags = q->fua ? RWF_DSYNC : 0;
		break;
	case REQUEST_ZERO:
		io_uring_prep_fallocate(sqe, c->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
					(off_t)off, (off_t)len);
		break;
	case REQUEST_UNMAP:
		io_uring_prep_fallocate(sqe, c->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)off, (off_t)len);
		break;
	default:
		io_uring_prep_fsync(sqe, c->fd, IORING_FSYNC_DATASYNC);
	}
	io_uring_sqe_set_data(sqe, q);
	return io_uring_submit(&c->ring) < 0 ? -ENOTCONN : 0;
}

static void finish(struct client *client, struct request *q, int res)
{
	bool moves = q->kind == REQUEST_READ || q->kind == REQUEST_WRITE;

	if (res == (moves ? (int)bytes_of(client, q) : 0)) {
		client_finish(client, q, RESULT_OK);
	} else if (res == -ENOTCONN || res == -ECONNABORTED) {
		client_finish(client, q, RESULT_LOST);
	} else {
		snprintf(q->error, sizeof(q->error), "%s",
			 res < 0 ? strerror(-res) : "only a part was done");
		client_finish(client, q, RESULT_ERROR);
	}
}

static int service(struct client *client, short revents)
{
	struct file_client *c = of(client);
	struct io_uring_cqe *cqe;

	while (!client->lost && io_uring_peek_cqe(&c->ring, &cqe) == 0) {
		struct request *q = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&c->ring, cqe);
		finish(client, q, res);
	}
	return 0;
}

/* What was in flight has ended: the kernel fails it all when a file system goes. */
static void disconnect(struct client *client)
{
	struct file_client *c = of(client);

	if (c->fd < 0)
		return;
	io_uring_queue_exit(&c->ring);
	close(c->fd);
	c->fd = -1;
}

static int connect_client(struct client *client)
{
	struct file_client *c = of(client);
	int flags = O_RDWR | O_CLOEXEC | (client->index % 2 ? O_DIRECT : 0), r;
	struct stat st;

	c->fd = open(client->url, flags);
	if (c->fd < 0)
		return -errno;
	r = io_uring_queue_init(ENTRIES, &c->ring, 0);
	if (r) {
		close(c->fd);
		c->fd = -1;
		return r;
	}
	if (fstat(c->fd, &st) < 0) {
		disconnect(client);
		return -EIO;
	}
	client->blocks = (uint64_t)st.st_size / client->block_size;
	for (int i = 0; i < REQUEST_KINDS; i++)
		client->max[i] = (32u << 20) / client->block_size;
	client->can[REQUEST_READ] = client->can[REQUEST_WRITE] = client->can[REQUEST_ZERO] =
		client->can[REQUEST_UNMAP] = client->can[REQUEST_FLUSH] = true;
	return 0;
}

static int get_fd(struct client *client)
{
	return of(client)->ring.ring_fd;
}

static short get_events(struct client *client)
{
	return POLLIN;
}

static const struct client_ops file_ops = {
	.connect = connect_client,
	.disconnect = disconnect,
	.get_fd = get_fd,
	.get_events = get_events,
	.service = service,
	.submit = submit,
};

struct client *client_new_file(const char *path, unsigned index, uint32_t block_size)
{
	struct client *c = client_alloc(sizeof(struct file_client), &file_ops, path, index);

	if (!c)
		return NULL;
	of(c)->fd = -1;
	c->block_size = block_size;
	return c;
}
