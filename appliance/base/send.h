/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whole buffers into blocking sockets. */
#pragma once

#include <errno.h>
#include <sys/socket.h>

/** Sends all @len bytes of @buf; a peer that is gone is -EPIPE, not a signal. 0 or -errno. */
static inline int send_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}
