/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "event/stream.h"
#include "front/nbd/nbd_private.h"

#define BACKLOG	    128
#define UNIX_PREFIX "unix:"

/** Removes the file of a socket that nobody listens on. */
static int remove_stale(const struct sockaddr_un *sa, struct reason *why)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct stat st;

	if (lstat(sa->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return reason_set(why, EEXIST, "%s: exists and is no socket", sa->sun_path);
	if (fd < 0)
		return reason_set(why, errno, "socket: %s", strerror(errno));
	if (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0)
		return reason_set(why, EADDRINUSE, "%s: in use", sa->sun_path);
	if (errno != ECONNREFUSED)
		return reason_set(why, errno, "%s: %s", sa->sun_path, strerror(errno));
	unlink(sa->sun_path);
	return 0;
}

static int open_unix(struct nbd_listener *l, const char *path, struct reason *why)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = -1;
	struct stat st;
	int err;

	if (!path[0] || strlen(path) >= sizeof(sa.sun_path))
		return reason_set(why, EINVAL, "%s: no path of a Unix socket", path);
	strcpy(sa.sun_path, path);
	err = remove_stale(&sa, why);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return reason_set(why, errno, "%s: %s", path, strerror(errno));
	l->path = strdup(path);
	if (!l->path || stat(path, &st) < 0 || listen(fd, BACKLOG) < 0) {
		err = errno;
		unlink(path);
		free(take_ptr(l->path));
		return reason_set(why, err, "%s: %s", path, strerror(err));
	}
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	l->fd = take_fd(fd);
	snprintf(l->address, sizeof(l->address), UNIX_PREFIX "%s", path);
	return 0;
}

static int open_tcp(struct nbd_listener *l, const char *address, struct reason *why)
{
	struct sockaddr_storage sa;
	socklen_t len;
	_cleanup_close_ int fd = -1;
	int err = stream_parse_address(address, &sa, &len, why), one = 1;

	if (err)
		return err;
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return reason_set(why, errno, "%s: %s", address, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (sa.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, BACKLOG) < 0)
		return reason_set(why, errno, "%s: %s", address, strerror(errno));
	len = sizeof(sa);
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return reason_set(why, errno, "%s: %s", address, strerror(errno));
	stream_format_address(&sa, l->address, sizeof(l->address));
	l->fd = take_fd(fd);
	return 0;
}

int nbd_listener_open(struct nbd_listener *l, const char *address, unsigned patience_ms,
		      struct reason *why)
{
	bool is_unix = strncmp(address, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0;
	uint64_t until = clock_now_ns() + patience_ms * NSEC_PER_MSEC;
	int err;

	do {
		*l = (struct nbd_listener){.fd = -1};
		err = is_unix ? open_unix(l, address + strlen(UNIX_PREFIX), why)
			      : open_tcp(l, address, why);
	} while (err == -EADDRINUSE && clock_now_ns() < until && poll(NULL, 0, 20) == 0);
	return reason_prefix(why, err, "NBD");
}

int nbd_listener_adopt(struct nbd_listener *l, const char *address)
{
	struct stat st;

	*l = (struct nbd_listener){.fd = -1};
	snprintf(l->address, sizeof(l->address), "%s", address);
	if (strncmp(address, UNIX_PREFIX, strlen(UNIX_PREFIX)) != 0)
		return 0;
	l->path = strdup(address + strlen(UNIX_PREFIX));
	if (!l->path)
		return -ENOMEM;
	if (stat(l->path, &st) == 0) {
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
	return 0;
}

void nbd_listener_close(struct nbd_listener *l)
{
	struct stat st;

	/* Only the file that we made: a later instance may have put its own there. */
	if (l->path && stat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
	free(take_ptr(l->path));
	if (l->fd >= 0)
		close(take_fd(l->fd));
}

static void append(char *buf, size_t size, const char *text)
{
	size_t len = strlen(buf);

	snprintf(buf + len, size - len, "%s", text);
}

/** Appends @text with everything but unreserved characters and '/' percent-encoded (RFC 3986). */
static void append_encoded(char *buf, size_t size, const char *text)
{
	for (; *text; text++) {
		char one[4] = {*text};

		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/",
			    *text))
			snprintf(one, sizeof(one), "%%%02X", (unsigned char)*text);
		append(buf, size, one);
	}
}

void nbd_format_url(const char *addr, enum nbd_tls tls, const char *export_name, char *buf,
		    size_t size)
{
	bool is_unix = strncmp(addr, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0;

	snprintf(buf, size, "%s%s://", tls == NBD_TLS_REQUIRE ? "nbds" : "nbd",
		 is_unix ? "+unix" : "");
	if (!is_unix)
		append(buf, size, addr);
	append(buf, size, "/");
	append_encoded(buf, size, export_name);
	if (is_unix) {
		append(buf, size, "?socket=");
		append_encoded(buf, size, addr + strlen(UNIX_PREFIX));
	}
}
