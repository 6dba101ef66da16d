/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "event/listen_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "event/listen_provided.h"
#include "event/stream.h"

#define NAP_MS 10

static void (*keeper)(int fd);
static atomic_bool leaving;

/** The path of a Unix socket's address; NULL: it is another kind of address. */
static const char *path_of(const char *addr)
{
	return strncmp(addr, LISTEN_UNIX, strlen(LISTEN_UNIX)) ? NULL : addr + strlen(LISTEN_UNIX);
}

/** Removes a socket file that nobody listens on; -EADDRINUSE when somebody does. */
static int remove_stale(const struct sockaddr_un *un, int type, struct reason *why)
{
	_cleanup_close_ int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	if (lstat(un->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return reason_set(why, EEXIST, "%s: exists and is not a socket", un->sun_path);
	if (fd < 0)
		return reason_set(why, errno, "socket: %s", strerror(errno));
	/* EAGAIN: its backlog is full; EPROTOTYPE: it is of another type. */
	if (connect(fd, (const struct sockaddr *)un, sizeof(*un)) == 0 || errno == EAGAIN ||
	    errno == EPROTOTYPE)
		return reason_set(why, EADDRINUSE, "%s: in use by another instance", un->sun_path);
	if (errno != ECONNREFUSED)
		return reason_set(why, errno, "%s: %s", un->sun_path, strerror(errno));
	unlink(un->sun_path);
	return 0;
}

static int parse(const char *addr, struct sockaddr_storage *sa, socklen_t *len, struct reason *why)
{
	struct sockaddr_un *un = (struct sockaddr_un *)sa;
	const char *path = path_of(addr);

	if (!path)
		return stream_parse_address(addr, sa, len, why);
	if (!*path || strlen(path) >= sizeof(un->sun_path))
		return reason_set(why, EINVAL, "%s: the path is empty or longer than %zu bytes",
				  addr, sizeof(un->sun_path) - 1);
	memset(sa, 0, sizeof(*sa));
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path, path);
	*len = sizeof(*un);
	return 0;
}

/** Where a predecessor listened on an address that is declared no more, its socket makes way. */
static int bind_ip(int fd, const struct sockaddr_storage *sa, socklen_t len)
{
	const struct sockaddr *addr = (const struct sockaddr *)sa;
	int one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (sa->ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, addr, len) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	if (!listen_provided_make_way(sa))
		return -EADDRINUSE;
	return bind(fd, addr, len) < 0 ? -errno : 0;
}

/** Makes the file, and takes note of it in @s. */
static int bind_unix(int fd, const struct sockaddr_un *un, const struct listen_options *opt,
		     struct listen_socket *s)
{
	struct stat st;
	int err;

	/* On a socket not bound yet, the mode of its inode is the mode that the file gets. */
	if ((opt->mode && fchmod(fd, opt->mode) < 0) ||
	    bind(fd, (const struct sockaddr *)un, sizeof(*un)) < 0)
		return -errno;
	if ((opt->gid && chown(un->sun_path, (uid_t)-1, *opt->gid) < 0) ||
	    lstat(un->sun_path, &st) < 0) {
		err = -errno;
		unlink(un->sun_path);
		return err;
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	return 0;
}

static void note_address(struct listen_socket *s, const char *addr)
{
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);

	if (path_of(addr)) {
		snprintf(s->address, sizeof(s->address), "%s", addr);
		return;
	}
	getsockname(s->fd, (struct sockaddr *)&sa, &len);
	stream_format_address(&sa, s->address, sizeof(s->address));
}

/** Takes note of the file that @addr names: it is ours to remove. */
static void note_file(struct listen_socket *s, const char *addr)
{
	const char *path = path_of(addr);
	struct stat st;

	if (path && lstat(path, &st) == 0) {
		s->dev = st.st_dev;
		s->ino = st.st_ino;
	}
}

/** Copies the socket that is provided for an address; -ENOENT: none is. */
static int take_provided(const char *addr, const struct sockaddr_storage *sa,
			 const struct listen_options *opt, struct listen_socket *ret_socket)
{
	struct listen_socket s = {.fd = -1};
	struct listen_provided p;

	if (!opt->lasting || !listen_provided_find(sa, opt->type, &p))
		return -ENOENT;
	s.fd = fcntl(p.fd, F_DUPFD_CLOEXEC, 0);
	if (s.fd < 0)
		return -errno;
	s.shared = p.shared;
	note_address(&s, addr);
	if (!s.shared)
		note_file(&s, addr);
	listen(s.fd, opt->backlog); /* it listens already: this is about the backlog alone */
	*ret_socket = s;
	return 0;
}

int listen_socket_open(const char *addr, const struct listen_options *opt,
		       struct listen_socket *ret_socket, struct reason *why)
{
	struct sockaddr_storage sa;
	const struct sockaddr_un *un = (const struct sockaddr_un *)&sa;
	struct listen_socket s = {.fd = -1};
	socklen_t len;
	int err = parse(addr, &sa, &len, why);

	if (err)
		return err;
	err = take_provided(addr, &sa, opt, ret_socket);
	if (err != -ENOENT)
		return err ? reason_set(why, -err, "%s: %s", addr, strerror(-err)) : 0;
	err = sa.ss_family == AF_UNIX ? remove_stale(un, opt->type, why) : 0;
	if (err)
		return err;
	s.fd = socket(sa.ss_family, opt->type | SOCK_CLOEXEC, 0);
	if (s.fd < 0)
		return reason_set(why, errno, "%s: socket: %s", addr, strerror(errno));
	err = sa.ss_family == AF_UNIX ? bind_unix(s.fd, un, opt, &s) : bind_ip(s.fd, &sa, len);
	if (err) {
		close(s.fd);
		return reason_set(why, -err, "%s: cannot bind: %s", addr, strerror(-err));
	}
	note_address(&s, addr);
	if (listen(s.fd, opt->backlog) < 0) {
		err = errno;
		listen_socket_close(&s);
		return reason_set(why, err, "%s: cannot listen: %s", addr, strerror(err));
	}
	if (opt->lasting && keeper)
		keeper(s.fd);
	*ret_socket = s;
	return 0;
}

void listen_socket_adopt(const char *addr, struct listen_socket *ret_socket)
{
	struct sockaddr_storage sa;
	struct listen_provided p = {.shared = false};
	socklen_t len;

	*ret_socket = (struct listen_socket){.fd = -1};
	snprintf(ret_socket->address, sizeof(ret_socket->address), "%s", addr);
	if (!parse(addr, &sa, &len, NULL) && listen_provided_find(&sa, SOCK_STREAM, &p))
		ret_socket->shared = p.shared;
	if (!ret_socket->shared)
		note_file(ret_socket, addr);
}

void listen_socket_shut(struct listen_socket *s)
{
	if (!s->shared && !atomic_load(&leaving))
		shutdown(s->fd, SHUT_RDWR);
}

void listen_socket_unlink(struct listen_socket *s)
{
	const char *path = path_of(s->address);
	struct stat st;

	if (atomic_load(&leaving))
		return;
	if (path && s->ino && lstat(path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
		unlink(path);
	s->ino = 0;
}

void listen_socket_close(struct listen_socket *s)
{
	listen_socket_unlink(s);
	if (s->fd >= 0)
		close(take_fd(s->fd));
}

void listen_socket_set_keeper(void (*keep)(int fd))
{
	keeper = keep;
}

void listen_socket_leave(void)
{
	atomic_store(&leaving, true);
}

bool listen_again(int err, uint64_t until_ns)
{
	if (err != -EADDRINUSE || clock_now_ns() >= until_ns)
		return false;
	poll(NULL, 0, NAP_MS);
	return true;
}
