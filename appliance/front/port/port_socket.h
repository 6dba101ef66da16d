/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unix SOCK_SEQPACKET sockets of the port: addresses, and packets with descriptors. */
#pragma once

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/reason.h"

#define PORT_FDS_MAX 3

/** -ENAMETOOLONG. */
int port_socket_address(const char *path, struct sockaddr_un *ret_sa, struct reason *why);
/** Sends one packet with @n_fds descriptors. 0 or -errno; -EAGAIN with MSG_DONTWAIT in @flags. */
int port_socket_send(int fd, const void *buf, size_t len, const int *fds, unsigned n_fds,
		     int flags);
/**
 * Receives one packet. Returns its length (0: the peer has gone), or -errno; -EMSGSIZE when it is
 * longer than @size, or brings more than PORT_FDS_MAX descriptors. The caller owns the descriptors
 * received (close-on-exec), *@ret_n of them.
 */
ssize_t port_socket_recv(int fd, void *buf, size_t size, int ret_fds[PORT_FDS_MAX], unsigned *ret_n,
			 int flags);
