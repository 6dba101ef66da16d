/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Streams: life and sending. Receiving is in stream_rx.c.
 *
 * Sending: pieces are queued; a deferred task gathers up to IOV_MAX vectors of them into one
 * sendmsg at the end of the turn. One send is in flight at a time, and what comes meanwhile makes
 * the next one larger: batches grow with load by themselves. The vectors live in the reactor's
 * scratch memory, which the kernel copies at submission. A partial send completes the pieces that
 * it covers and notes how much of the next one has gone.
 *
 * Ending is always asynchronous: what is in flight is cancelled, and when the last op has
 * completed, a deferred task fails what is queued, closes the socket, and calls closed(). So every
 * callback may close its stream.
 *
 * After a flush the sending direction is shut down and what the peer has sent meanwhile is
 * discarded before the close: bytes left unread would turn the close into a reset, and a reset
 * may overtake the last response.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "event/stream_private.h"

#define FLUSH_NS      (5 * NSEC_PER_SEC)
#define SEND_MAX      (2u << 20) /* bytes a sendmsg; sockets take less at a time anyway */
#define DISCARD_TURNS 512	 /* of 16 KiB: more than a receive queue holds */

static size_t tx_len(const struct stream_tx *tx)
{
	size_t len = 0;

	for (int i = 0; i < tx->niov; i++)
		len += tx->iov[i].iov_len;
	return len;
}

static struct stream_tx *tx_first(const struct stream *s)
{
	return container_of(s->tx_queue.next, struct stream_tx, link);
}

static void tx_pop(struct stream *s, int err)
{
	struct stream_tx *tx = container_of(list_pop(&s->tx_queue), struct stream_tx, link);

	s->tx_head_sent = 0;
	tx->sent(tx, err); /* @tx may be gone */
}

/* The kernel has taken @n bytes; completes pieces that have gone, empty ones too. */
static void tx_consume(struct stream *s, size_t n)
{
	s->tx_bytes -= n;
	while (!list_empty(&s->tx_queue)) {
		size_t left = tx_len(tx_first(s)) - s->tx_head_sent;

		if (n < left) {
			s->tx_head_sent += n;
			break;
		}
		n -= left;
		tx_pop(s, 0);
	}
	if (s->full && s->tx_bytes <= s->opt.tx_low && s->state == STREAM_OPEN) {
		s->full = false;
		if (s->ops->drained)
			s->ops->drained(s, s->ctx);
	}
}

/* Gathers the queue into @iov; returns the number of vectors. */
static unsigned tx_gather(struct stream *s, struct iovec *iov, unsigned max)
{
	size_t skip = s->tx_head_sent, bytes = 0;
	struct stream_tx *tx;
	unsigned n = 0;

	list_for_each_entry (tx, &s->tx_queue, link) {
		for (int i = 0; i < tx->niov; i++) {
			struct iovec v = tx->iov[i];

			if (skip >= v.iov_len) {
				skip -= v.iov_len;
				continue;
			}
			if (n == max || bytes >= SEND_MAX)
				return n;
			iov[n].iov_base = (uint8_t *)v.iov_base + skip;
			iov[n].iov_len = v.iov_len - skip;
			bytes += iov[n++].iov_len;
			skip = 0;
		}
	}
	return n;
}

static void tx_start(struct stream *s)
{
	unsigned n, max = IOV_MAX;
	struct iovec *iov;

	if (s->sending || list_empty(&s->tx_queue) || s->state == STREAM_ENDING)
		return;
	iov = reactor_scratch(s->r, max);
	n = tx_gather(s, iov ? iov : s->tx_iov, iov ? max : STREAM_FEW_IOV);
	if (iov)
		reactor_scratch_trim(s->r, max - n);
	else
		iov = s->tx_iov;
	if (!n) {
		tx_consume(s, 0);
		if (s->state == STREAM_FLUSHING && list_empty(&s->tx_queue))
			stream_end(s, s->err);
		return;
	}
	s->sending = true;
	if (n == 1) {
		io_uring_prep_send(reactor_sqe(s->r, &s->tx_op), s->fd, iov->iov_base, iov->iov_len,
				   MSG_NOSIGNAL);
		return;
	}
	s->tx_msg.msg_iov = iov;
	s->tx_msg.msg_iovlen = n;
	io_uring_prep_sendmsg(reactor_sqe(s->r, &s->tx_op), s->fd, &s->tx_msg, MSG_NOSIGNAL);
}

static void tx_task_run(struct reactor_task *t)
{
	tx_start(container_of(t, struct stream, tx_task));
}

static void tx_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct stream *s = container_of(op, struct stream, tx_op);

	s->sending = false;
	if (res > 0)
		tx_consume(s, (size_t)res);
	if (s->state == STREAM_ENDING) {
		reactor_defer(s->r, &s->end_task);
		return;
	}
	if (res < 0 && res != -EINTR && res != -EAGAIN) {
		stream_end(s, res);
		return;
	}
	if (!list_empty(&s->tx_queue))
		reactor_defer(s->r, &s->tx_task);
	else if (s->state == STREAM_FLUSHING)
		stream_end(s, s->err);
}

void stream_send(struct stream *s, struct stream_tx *tx)
{
	list_add_tail(&s->tx_queue, &tx->link);
	s->tx_bytes += tx_len(tx);
	if (s->tx_bytes > s->opt.tx_high)
		s->full = true;
	if (!s->sending && s->state != STREAM_ENDING)
		reactor_defer(s->r, &s->tx_task);
}

bool stream_tx_full(const struct stream *s)
{
	return s->full;
}

size_t stream_tx_bytes(const struct stream *s)
{
	return s->tx_bytes;
}

/* --- the end --- */

void stream_end(struct stream *s, int err)
{
	if (s->state == STREAM_ENDING)
		return;
	s->state = STREAM_ENDING;
	s->err = err;
	stream_rx_stop(s);
	reactor_task_cancel(&s->tx_task);
	reactor_timer_cancel(s->r, &s->flush_timer);
	if (s->sending)
		reactor_cancel(s->r, &s->tx_op);
	reactor_defer(s->r, &s->end_task);
}

void stream_flush_and_end(struct stream *s, int err)
{
	if (s->state != STREAM_OPEN)
		return;
	if (list_empty(&s->tx_queue) && !s->sending) {
		stream_end(s, err);
		return;
	}
	s->state = STREAM_FLUSHING;
	s->err = err;
	stream_rx_stop(s);
	reactor_timer_arm(s->r, &s->flush_timer, reactor_now(s->r) + FLUSH_NS);
}

static void flush_late(struct reactor_timer *t)
{
	struct stream *s = container_of(t, struct stream, flush_timer);

	stream_end(s, s->err);
}

/* Lets the peer have what was sent before it learns of the end. */
static void discard_input(struct stream *s)
{
	uint8_t waste[16 << 10];

	shutdown(s->fd, SHUT_WR);
	for (int i = 0; i < DISCARD_TURNS; i++)
		if (recv(s->fd, waste, sizeof(waste), MSG_DONTWAIT) <= 0)
			break;
}

static void end_task_run(struct reactor_task *t)
{
	struct stream *s = container_of(t, struct stream, end_task);

	if (s->rx_to != RX_NONE || s->sending)
		return; /* their completions come here again */
	stream_rx_release(s);
	if (list_empty(&s->tx_queue) && (s->err == 0 || s->err == -ECANCELED))
		discard_input(s);
	while (!list_empty(&s->tx_queue))
		tx_pop(s, s->err ? s->err : -ECANCELED);
	reactor_task_cancel(&s->tx_task);
	close(s->fd);
	s->fd = -1;
	s->ops->closed(s, s->ctx, s->err);
	free(s);
}

void stream_close(struct stream *s, bool flush)
{
	if (flush)
		stream_flush_and_end(s, -ECANCELED);
	else
		stream_end(s, -ECANCELED);
}

/* --- the beginning --- */

static void socket_prepare(struct stream *s)
{
	int flags = fcntl(s->fd, F_GETFL), domain = AF_UNSPEC, one = 1;
	socklen_t len = sizeof(domain);

	/* io_uring waits by itself; on a non-blocking socket it would return -EAGAIN instead. */
	if (flags >= 0 && flags & O_NONBLOCK)
		fcntl(s->fd, F_SETFL, flags & ~O_NONBLOCK);
	getsockopt(s->fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	if (domain == AF_INET || domain == AF_INET6)
		setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int stream_open(struct reactor *r, int fd, const struct stream_options *opt,
		const struct stream_ops *ops, void *ctx, struct stream **ret_stream)
{
	struct stream *s = NULL;
	int ret = -EINVAL;

	if (opt->rx_size && opt->rx_size <= IOBUF_MAX && opt->tx_low <= opt->tx_high) {
		s = calloc(1, sizeof(*s));
		ret = -ENOMEM;
	}
	if (!s) {
		close(fd);
		return ret;
	}
	s->r = r;
	s->fd = fd;
	s->opt = *opt;
	s->ops = ops;
	s->ctx = ctx;
	s->tx_op.done = tx_done;
	list_init(&s->tx_queue);
	reactor_task_init(&s->tx_task, tx_task_run);
	reactor_task_init(&s->end_task, end_task_run);
	reactor_timer_init(&s->flush_timer, flush_late);
	socket_prepare(s);
	stream_rx_init(s);
	*ret_stream = s;
	stream_rx_arm(s);
	return 0;
}

int stream_fd(const struct stream *s)
{
	return s->fd;
}

struct reactor *stream_reactor(const struct stream *s)
{
	return s->r;
}
