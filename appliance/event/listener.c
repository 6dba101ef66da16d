/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Listeners: one accept in flight, a multishot one where the kernel has it.
 *
 * Out of descriptors or memory, accept fails at once and would fail again at once, so the listener
 * pauses for PAUSE_NS: the connection stays in the backlog, and the process does not spin. Errors
 * that belong to one connection (accept(2): network errors that were pending on it) are passed
 * over.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "event/listen_socket.h"
#include "event/reactor_private.h"
#include "event/stream.h"

#define PAUSE_NS (100 * NSEC_PER_MSEC)
#define BACKLOG	 1024

struct listener {
	struct reactor *r;
	struct listen_socket socket;
	listener_accept_fn fn;
	void *ctx;
	struct reactor_op op;
	bool armed, closing, calling; /* calling: fn is running */
	struct reactor_timer pause;
};

static void listener_free(struct listener *l)
{
	listen_socket_close(&l->socket);
	free(l);
}

static void listener_arm(struct listener *l)
{
	struct io_uring_sqe *sqe;

	if (l->armed || l->closing)
		return;
	sqe = reactor_sqe(l->r, &l->op);
	if (l->r->features.multishot_accept)
		io_uring_prep_multishot_accept(sqe, l->socket.fd, NULL, NULL, SOCK_CLOEXEC);
	else
		io_uring_prep_accept(sqe, l->socket.fd, NULL, NULL, SOCK_CLOEXEC);
	l->armed = true;
}

static void pause_over(struct reactor_timer *t)
{
	listener_arm(container_of(t, struct listener, pause));
}

static void accepted(struct listener *l, int fd)
{
	struct sockaddr_storage peer = {0};
	socklen_t len = sizeof(peer);

	if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0) {
		close(fd); /* it has gone already */
		return;
	}
	l->calling = true;
	l->fn(l->ctx, fd, &peer); /* may close the listener */
	l->calling = false;
}

static bool is_shortage(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOBUFS || err == -ENOMEM;
}

static bool is_broken(int err)
{
	return err == -EBADF || err == -EINVAL || err == -ENOTSOCK || err == -EOPNOTSUPP ||
	       err == -EFAULT || err == -ECANCELED;
}

static void accept_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct listener *l = container_of(op, struct listener, op);

	l->armed = flags & IORING_CQE_F_MORE;
	if (res >= 0 && l->closing)
		close(res);
	else if (res >= 0)
		accepted(l, res);
	if (l->armed)
		return;
	if (l->closing)
		listener_free(l);
	else if (is_shortage(res) || (is_broken(res) && !reactor_stopping(l->r)))
		reactor_timer_arm(l->r, &l->pause, reactor_now(l->r) + PAUSE_NS);
	else if (!reactor_stopping(l->r))
		listener_arm(l);
}

/* --- life --- */

int listener_open(struct reactor *r, const char *addr, listener_accept_fn fn, void *ctx,
		  struct listener **ret_listener, struct reason *why)
{
	static const struct listen_options opt = {
		.type = SOCK_STREAM, .backlog = BACKLOG, .mode = 0600, .lasting = true};
	struct listener *l = calloc(1, sizeof(*l));
	int ret;

	if (!l)
		return reason_set(why, ENOMEM, "%s: out of memory", addr);
	ret = listen_socket_open(addr, &opt, &l->socket, why);
	if (ret < 0) {
		free(l);
		return ret;
	}
	l->r = r;
	l->fn = fn;
	l->ctx = ctx;
	l->op.done = accept_done;
	reactor_timer_init(&l->pause, pause_over);
	listener_arm(l);
	*ret_listener = l;
	return 0;
}

const char *listener_address(const struct listener *l)
{
	return l->socket.address;
}

void listener_close(struct listener *l)
{
	l->closing = true;
	listen_socket_shut(&l->socket); /* no connection is taken from now on */
	listen_socket_unlink(&l->socket);
	reactor_timer_cancel(l->r, &l->pause);
	if (l->armed)
		reactor_cancel(l->r, &l->op);
	else if (!l->calling)
		listener_free(l);
}
