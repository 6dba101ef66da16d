/* SPDX-License-Identifier: GPL-2.0-or-later */
/* NBD by libnbd. */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "client.h"

#define CONNECT_SECONDS 3

struct nbd_client {
	struct client client; /* first */
	struct nbd_handle *nbd;
	bool can_fua;
};

struct flight {
	struct client *client;
	struct request *q;
};

static struct nbd_client *of(struct client *client)
{
	return container_of(client, struct nbd_client, client);
}

static int on_answer(void *user_data, int *error)
{
	struct flight *flight = user_data;
	struct client *client = flight->client;
	struct request *q = flight->q;

	if (*error == 0) {
		client_finish(client, q, RESULT_OK);
	} else if (*error == ENOTCONN || *error == ESHUTDOWN) {
		client_finish(client, q, RESULT_LOST);
	} else if (*error == ENOTSUP) {
		client_finish(client, q, RESULT_UNSUPPORTED);
	} else {
		snprintf(q->error, sizeof(q->error), "%s", strerror(*error));
		client_finish(client, q, RESULT_ERROR);
	}
	return 1; /* retired */
}

static int64_t start(struct nbd_client *c, struct request *q, nbd_completion_callback done)
{
	uint32_t fua = q->fua && c->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;
	uint64_t offset = q->lba * c->client.block_size;
	uint64_t len = (uint64_t)q->count * c->client.block_size;

	switch (q->kind) {
	case REQUEST_READ:
		return nbd_aio_pread(c->nbd, q->data, len, offset, done, 0);
	case REQUEST_WRITE:
		return nbd_aio_pwrite(c->nbd, q->data, len, offset, done, fua);
	case REQUEST_ZERO:
		return nbd_aio_zero(c->nbd, len, offset, done,
				    fua | (q->lba & 1 ? LIBNBD_CMD_FLAG_NO_HOLE : 0));
	case REQUEST_UNMAP:
		return nbd_aio_trim(c->nbd, len, offset, done, fua);
	case REQUEST_FLUSH:
		return nbd_aio_flush(c->nbd, done, 0);
	default:
		return -1;
	}
}

static int submit(struct client *client, struct request *q)
{
	struct flight *flight = malloc(sizeof(*flight));

	if (!flight)
		return -ENOMEM;
	*flight = (struct flight){client, q};
	nbd_completion_callback done = {.callback = on_answer, .user_data = flight, .free = free};

	return start(of(client), q, done) >= 0 ? 0 : -ENOTCONN;
}

static void disconnect(struct client *client)
{
	struct nbd_client *c = of(client);

	nbd_close(c->nbd);
	c->nbd = NULL;
}

static void read_limits(struct nbd_client *c)
{
	struct client *client = &c->client;

	for (int i = 0; i < REQUEST_KINDS; i++)
		client->max[i] = (32u << 20) / client->block_size;
	client->can[REQUEST_READ] = true;
	client->can[REQUEST_WRITE] = nbd_is_read_only(c->nbd) == 0;
	client->can[REQUEST_ZERO] = nbd_can_zero(c->nbd) > 0;
	client->can[REQUEST_UNMAP] = nbd_can_trim(c->nbd) > 0;
	client->can[REQUEST_FLUSH] = nbd_can_flush(c->nbd) > 0;
	c->can_fua = nbd_can_fua(c->nbd) > 0;
}

/* A server that is about to end may accept and never say a word: waits, but not for ever. */
static int handshake(struct nbd_client *c)
{
	uint64_t deadline = clock_now_ns() + CONNECT_SECONDS * NSEC_PER_SEC;

	if (nbd_set_uri_allow_local_file(c->nbd, true) ||
	    nbd_aio_connect_uri(c->nbd, c->client.url))
		return -ECONNREFUSED;
	while (nbd_aio_is_connecting(c->nbd)) {
		if (clock_now_ns() > deadline)
			return -ETIMEDOUT;
		if (nbd_poll(c->nbd, 100) < 0)
			return -ECONNREFUSED;
	}
	return nbd_aio_is_ready(c->nbd) ? 0 : -ECONNREFUSED;
}

static int connect_client(struct client *client)
{
	struct nbd_client *c = of(client);
	int64_t size = -1, minimum = 0;

	c->nbd = nbd_create();
	int r = c->nbd ? handshake(c) : -ENOMEM;

	if (!r) {
		size = nbd_get_size(c->nbd);
		minimum = nbd_get_block_size(c->nbd, LIBNBD_SIZE_MINIMUM);
		r = size < 0 ? -EIO : minimum > client->block_size ? -EINVAL : 0;
	}
	if (r) {
		disconnect(client);
		return r;
	}
	client->blocks = (uint64_t)size / client->block_size;
	read_limits(c);
	return 0;
}

static int get_fd(struct client *client)
{
	return nbd_aio_get_fd(of(client)->nbd);
}

static short get_events(struct client *client)
{
	unsigned direction = nbd_aio_get_direction(of(client)->nbd);

	return (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
		       (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
}

static int service(struct client *client, short revents)
{
	struct nbd_handle *nbd = of(client)->nbd;
	unsigned direction = nbd_aio_get_direction(nbd);

	if ((revents & (POLLIN | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ))
		nbd_aio_notify_read(nbd);
	else if ((revents & POLLOUT) && (direction & LIBNBD_AIO_DIRECTION_WRITE))
		nbd_aio_notify_write(nbd);
	return nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd) ? -ENOTCONN : 0;
}

static const struct client_ops nbd_ops = {
	.connect = connect_client,
	.disconnect = disconnect,
	.get_fd = get_fd,
	.get_events = get_events,
	.service = service,
	.submit = submit,
};

struct client *client_new_nbd(const char *uri, unsigned index, uint32_t block_size)
{
	struct client *c = client_alloc(sizeof(struct nbd_client), &nbd_ops, uri, index);

	if (!c)
		return NULL;
	c->block_size = block_size;
	return c;
}
