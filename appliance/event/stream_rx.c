/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Receiving.
 *
 * At most one receive is in flight. Which kind is decided anew each time:
 *
 *  1. input() has asked for a payload of at least DIRECT_MIN more bytes: straight into its buffer,
 *     all in one request (MSG_WAITALL).
 *  2. Bytes are left over (an incomplete unit): behind them, into a buffer of the pool that they
 *     were moved to.
 *  3. Otherwise: into a buffer of the reactor's ring of provided buffers. The kernel takes one when
 *     there are bytes, input() reads them in place, and the buffer goes back at once. So a
 *     connection that waits, however many there are, holds no memory.
 *
 * Without buffer rings, 3 is a poll for readiness followed by 2. With the ring exhausted (-ENOBUFS:
 * bytes are there) it is 2 at once. With the pool exhausted the leftovers move to the front of the
 * ring's buffer and use the room behind them: a stream must not wait for the pool to receive what
 * would let its owner give memory back. Only with no room at all does it wait.
 *
 * A pause takes effect on the next receive: what is in flight may still bring one buffer, which is
 * kept and offered after the resume.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "event/rx_ring.h"
#include "event/stream_private.h"

#define DIRECT_MIN (8u << 10)

static uint32_t rx_held(const struct stream *s)
{
	return s->rx_end - s->rx_off;
}

static void rx_set(struct stream *s, uint8_t *mem, uint32_t cap, int bid, struct iobuf *b)
{
	s->rx = mem;
	s->rx_cap = cap;
	s->rx_bid = bid;
	s->rx_buf = b;
}

void stream_rx_release(struct stream *s)
{
	if (s->rx_bid >= 0)
		rx_ring_recycle(s->r->rx_ring, (unsigned)s->rx_bid);
	iobuf_put(s->rx_buf);
	rx_set(s, NULL, 0, -1, NULL);
	s->rx_off = s->rx_end = 0;
}

/* Moves what is held to the front of its buffer. */
static void rx_compact(struct stream *s)
{
	uint32_t held = rx_held(s);

	if (s->rx_off)
		memmove(s->rx, s->rx + s->rx_off, held);
	s->rx_off = 0;
	s->rx_end = held;
}

/* Makes the stream's own buffer the storage, with what is held and room for more. */
static bool rx_own(struct stream *s)
{
	uint32_t held = rx_held(s);
	struct iobuf *b;

	if (s->rx_buf) {
		rx_compact(s);
		return true;
	}
	b = iobuf_get(reactor_iobufs(s->r), s->opt.rx_size > held ? s->opt.rx_size : held + 1);
	if (!b) {
		if (s->rx_bid >= 0)
			rx_compact(s);
		return false;
	}
	if (held)
		memcpy(b->data, s->rx + s->rx_off, held);
	stream_rx_release(s);
	rx_set(s, b->data, b->cap, -1, b);
	s->rx_end = held;
	return true;
}

/* --- offering --- */

static void rx_fill_into(struct stream *s)
{
	uint32_t n = rx_held(s);

	if (n > s->into_left)
		n = (uint32_t)s->into_left;
	memcpy(s->into, s->rx + s->rx_off, n);
	s->into += n;
	s->into_left -= n;
	s->rx_off += n;
}

static void rx_filled(struct stream *s)
{
	int ret;

	s->into_active = false;
	ret = s->ops->filled(s, s->ctx);
	if (ret < 0)
		stream_end(s, ret);
}

/* Offers what is held until the stream's owner takes no more. */
static void rx_offer(struct stream *s)
{
	while (s->state == STREAM_OPEN && !s->paused) {
		ssize_t n;

		if (s->into_active) {
			if (s->into_left && rx_held(s))
				rx_fill_into(s);
			if (s->into_left)
				break;
			rx_filled(s);
			continue;
		}
		if (!rx_held(s))
			break;
		n = s->ops->input(s, s->ctx, s->rx + s->rx_off, rx_held(s));
		if (n < 0) {
			stream_end(s, (int)n);
			break;
		}
		s->rx_off += (uint32_t)n;
		if (n == 0 && !s->into_active)
			break;
	}
	if (s->state != STREAM_OPEN || !rx_held(s))
		stream_rx_release(s);
	else if (s->rx_bid >= 0)
		rx_own(s); /* or else it stays where it is */
}

/* --- the receive in flight --- */

static struct io_uring_sqe *rx_sqe(struct stream *s, enum stream_rx to)
{
	s->rx_to = to;
	return reactor_sqe(s->r, &s->rx_op);
}

static void rx_hint(struct stream *s, struct io_uring_sqe *sqe)
{
	/* The last receive emptied the socket: wait first, rather than try in vain. */
	if (s->poll_first)
		sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
}

static void arm_ring(struct stream *s)
{
	struct io_uring_sqe *sqe = rx_sqe(s, RX_RING);

	io_uring_prep_recv(sqe, s->fd, NULL, RX_RING_BUFFER_SIZE, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = RX_RING_GROUP;
	rx_hint(s, sqe);
}

static void arm_own(struct stream *s)
{
	struct io_uring_sqe *sqe;

	if (!rx_own(s) && s->rx_end == s->rx_cap) {
		iobuf_wait(reactor_iobufs(s->r), &s->rx_wait);
		return;
	}
	if (s->rx_end == s->rx_cap) {
		stream_end(s, -EMSGSIZE); /* input() waits for more than rx_size */
		return;
	}
	sqe = rx_sqe(s, RX_OWN);
	io_uring_prep_recv(sqe, s->fd, s->rx + s->rx_end, s->rx_cap - s->rx_end, 0);
	rx_hint(s, sqe);
}

/* Waits for bytes without holding memory. */
static void arm_idle(struct stream *s)
{
	stream_rx_release(s);
	if (s->r->rx_ring)
		arm_ring(s);
	else
		io_uring_prep_poll_add(rx_sqe(s, RX_POLL), s->fd, POLLIN);
}

void stream_rx_arm(struct stream *s)
{
	if (s->state != STREAM_OPEN || s->rx_to != RX_NONE || s->paused ||
	    !list_empty(&s->rx_task.link))
		return;
	if (s->into_active && (s->into_left >= DIRECT_MIN || !s->r->rx_ring))
		io_uring_prep_recv(rx_sqe(s, RX_INTO), s->fd, s->into, s->into_left, MSG_WAITALL);
	else if (rx_held(s))
		arm_own(s);
	else
		arm_idle(s);
}

/* Returns whether bytes were stored that can be offered. */
static bool rx_take(struct stream *s, enum stream_rx to, int res)
{
	switch (to) {
	case RX_INTO:
		s->into += res;
		s->into_left -= (size_t)res;
		return true;
	case RX_OWN:
		s->rx_end += (uint32_t)res;
		return true;
	case RX_RING:
		s->rx_off = 0;
		s->rx_end = (uint32_t)res;
		return true;
	default:
		return false;
	}
}

static void rx_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct stream *s = container_of(op, struct stream, rx_op);
	enum stream_rx to = s->rx_to;

	s->rx_to = RX_NONE;
	if (flags & IORING_CQE_F_BUFFER) {
		unsigned bid = flags >> IORING_CQE_BUFFER_SHIFT;

		rx_ring_take(s->r->rx_ring, bid);
		rx_set(s, rx_ring_buffer(s->r->rx_ring, bid), RX_RING_BUFFER_SIZE, (int)bid, NULL);
	}
	if (s->state != STREAM_OPEN) {
		stream_rx_release(s);
		if (s->state == STREAM_ENDING)
			reactor_defer(s->r, &s->end_task);
		return;
	}
	if (res == -ENOBUFS && to == RX_RING) {
		s->poll_first = false;
		arm_own(s);
		return;
	}
	if (res == 0 && to != RX_POLL) {
		stream_rx_release(s);
		stream_flush_and_end(s, 0);
		return;
	}
	if (res < 0 && res != -EINTR && res != -EAGAIN) {
		stream_end(s, res);
		return;
	}
	s->poll_first = s->r->features.multishot_recv && !(flags & IORING_CQE_F_SOCK_NONEMPTY);
	if (res > 0 && to == RX_POLL) {
		arm_own(s);
		return;
	}
	if (res > 0 && rx_take(s, to, res))
		rx_offer(s);
	stream_rx_arm(s);
}

static void rx_task_run(struct reactor_task *t)
{
	struct stream *s = container_of(t, struct stream, rx_task);

	if (s->rx_to == RX_NONE) /* else its completion offers, with more */
		rx_offer(s);
	stream_rx_arm(s);
}

static void rx_memory(struct iobuf_waiter *w)
{
	struct stream *s = container_of(w, struct stream, rx_wait);

	if (s->state == STREAM_OPEN && s->rx_to == RX_NONE && !s->paused)
		arm_own(s);
}

void stream_rx_init(struct stream *s)
{
	s->rx_op.done = rx_done;
	s->rx_bid = -1;
	reactor_task_init(&s->rx_task, rx_task_run);
	iobuf_waiter_init(&s->rx_wait, rx_memory);
}

void stream_rx_stop(struct stream *s)
{
	iobuf_wait_cancel(&s->rx_wait);
	reactor_task_cancel(&s->rx_task);
	if (s->rx_to != RX_NONE)
		reactor_cancel(s->r, &s->rx_op);
}

/* --- the owner's --- */

void stream_read_into(struct stream *s, void *buf, size_t len)
{
	s->into = buf;
	s->into_left = len;
	s->into_active = true;
}

void stream_pause(struct stream *s)
{
	s->paused = true;
	iobuf_wait_cancel(&s->rx_wait);
}

void stream_resume(struct stream *s)
{
	if (!s->paused)
		return;
	s->paused = false;
	if (s->state == STREAM_OPEN)
		reactor_defer(s->r, &s->rx_task);
}
