/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/port/port_socket.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

int port_socket_address(const char *path, struct sockaddr_un *ret_sa, struct reason *why)
{
	if (strlen(path) >= sizeof(ret_sa->sun_path))
		return reason_set(why, ENAMETOOLONG, "%s: too long for a Unix socket", path);
	memset(ret_sa, 0, sizeof(*ret_sa));
	ret_sa->sun_family = AF_UNIX;
	strcpy(ret_sa->sun_path, path);
	return 0;
}

union control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(PORT_FDS_MAX * sizeof(int))];
};

int port_socket_send(int fd, const void *buf, size_t len, const int *fds, unsigned n_fds, int flags)
{
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	union control control;
	ssize_t n;

	if (n_fds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	do
		n = sendmsg(fd, &msg, flags | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/** Collects the descriptors of @msg; those beyond PORT_FDS_MAX were cut off by the kernel. */
static unsigned collect_fds(struct msghdr *msg, int ret_fds[PORT_FDS_MAX])
{
	unsigned n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count && n < PORT_FDS_MAX; i++)
			memcpy(&ret_fds[n++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
	return n;
}

ssize_t port_socket_recv(int fd, void *buf, size_t size, int ret_fds[PORT_FDS_MAX], unsigned *ret_n,
			 int flags)
{
	struct iovec iov = {.iov_base = buf, .iov_len = size};
	union control control;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	unsigned n_fds;
	ssize_t n;

	do
		n = recvmsg(fd, &msg, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	n_fds = collect_fds(&msg, ret_fds);
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		while (n_fds)
			close(ret_fds[--n_fds]);
		return -EMSGSIZE;
	}
	*ret_n = n_fds;
	return n;
}
