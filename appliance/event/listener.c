/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Listeners: one accept in flight, a multishot one where the kernel has it.
 *
 * Out of descriptors or memory, accept fails at once and would fail again at once, so the listener
 * pauses for PAUSE_NS: the connection stays in the backlog, and the process does not spin. Errors
 * that belong to one connection (accept(2): network errors that were pending on it) are passed
 * over.
 *
 * A Unix socket file that exists is connected to: when nobody listens it is stale, and replaced.
 * listener_close() removes the file only if it is still the one that was made.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "event/reactor_private.h"
#include "event/stream.h"

#define PAUSE_NS (100 * NSEC_PER_MSEC)
#define BACKLOG	 1024
#define UNIX	 "unix:"

struct listener {
	struct reactor *r;
	int fd;
	listener_accept_fn fn;
	void *ctx;
	struct reactor_op op;
	bool armed, closing, calling; /* calling: fn is running */
	struct reactor_timer pause;
	struct stat file; /* of the socket file */
	char address[sizeof(UNIX) + sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static void listener_free(struct listener *l)
{
	close(l->fd);
	free(l);
}

static void listener_arm(struct listener *l)
{
	struct io_uring_sqe *sqe;

	if (l->armed || l->closing)
		return;
	sqe = reactor_sqe(l->r, &l->op);
	if (l->r->features.multishot_accept)
		io_uring_prep_multishot_accept(sqe, l->fd, NULL, NULL, SOCK_CLOEXEC);
	else
		io_uring_prep_accept(sqe, l->fd, NULL, NULL, SOCK_CLOEXEC);
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

/* --- opening --- */

/* Removes a socket file that nobody listens on; -EADDRINUSE when somebody does. */
static int remove_stale(const struct sockaddr_un *un, struct reason *why)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	if (lstat(un->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return reason_set(why, EEXIST, "%s: exists and is not a socket", un->sun_path);
	if (fd < 0)
		return reason_set(why, errno, "socket: %s", strerror(errno));
	if (connect(fd, (const struct sockaddr *)un, sizeof(*un)) == 0 || errno == EAGAIN)
		return reason_set(why, EADDRINUSE, "%s: in use", un->sun_path);
	if (errno != ECONNREFUSED)
		return reason_set(why, errno, "%s: %s", un->sun_path, strerror(errno));
	unlink(un->sun_path);
	return 0;
}

static int parse(const char *addr, struct sockaddr_storage *sa, socklen_t *len, struct reason *why)
{
	struct sockaddr_un *un = (struct sockaddr_un *)sa;
	const char *path = addr + strlen(UNIX);

	if (strncmp(addr, UNIX, strlen(UNIX)))
		return stream_parse_address(addr, sa, len, why);
	if (!*path || strlen(path) >= sizeof(un->sun_path))
		return reason_set(why, EINVAL, "%s: the path is empty or longer than %zu bytes",
				  addr, sizeof(un->sun_path) - 1);
	memset(sa, 0, sizeof(*sa));
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path, path);
	*len = sizeof(*un);
	return remove_stale(un, why);
}

static int bind_and_listen(const char *addr, const struct sockaddr_storage *sa, socklen_t len,
			   struct reason *why)
{
	_cleanup_close_ int fd = socket(sa->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	if (fd < 0)
		return reason_set(why, errno, "%s: socket: %s", addr, strerror(errno));
	if (sa->ss_family != AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (sa->ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)sa, len) < 0)
		return reason_set(why, errno, "%s: cannot bind: %s", addr, strerror(errno));
	if (listen(fd, BACKLOG) < 0)
		return reason_set(why, errno, "%s: cannot listen: %s", addr, strerror(errno));
	return take_fd(fd);
}

static void note_address(struct listener *l, const char *addr)
{
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);

	getsockname(l->fd, (struct sockaddr *)&sa, &len);
	if (sa.ss_family == AF_UNIX) {
		snprintf(l->address, sizeof(l->address), "%s", addr);
		if (lstat(addr + strlen(UNIX), &l->file) < 0)
			l->file.st_ino = 0;
	} else {
		stream_format_address(&sa, l->address, sizeof(l->address));
	}
}

int listener_open(struct reactor *r, const char *addr, listener_accept_fn fn, void *ctx,
		  struct listener **ret_listener, struct reason *why)
{
	struct sockaddr_storage sa;
	struct listener *l;
	socklen_t len;
	int ret;

	ret = parse(addr, &sa, &len, why);
	if (ret < 0)
		return ret;
	l = calloc(1, sizeof(*l));
	if (!l)
		return reason_set(why, ENOMEM, "%s: out of memory", addr);
	l->fd = bind_and_listen(addr, &sa, len, why);
	if (l->fd < 0) {
		ret = l->fd;
		free(l);
		return ret;
	}
	l->r = r;
	l->fn = fn;
	l->ctx = ctx;
	l->op.done = accept_done;
	reactor_timer_init(&l->pause, pause_over);
	note_address(l, addr);
	listener_arm(l);
	*ret_listener = l;
	return 0;
}

const char *listener_address(const struct listener *l)
{
	return l->address;
}

void listener_close(struct listener *l)
{
	const char *path = l->address + strlen(UNIX);
	struct stat st;

	if (!strncmp(l->address, UNIX, strlen(UNIX)) && lstat(path, &st) == 0 &&
	    st.st_ino == l->file.st_ino && st.st_dev == l->file.st_dev)
		unlink(path);
	l->closing = true;
	shutdown(l->fd, SHUT_RDWR); /* no connection is taken from now on */
	reactor_timer_cancel(l->r, &l->pause);
	if (l->armed)
		reactor_cancel(l->r, &l->op);
	else if (!l->calling)
		listener_free(l);
}
