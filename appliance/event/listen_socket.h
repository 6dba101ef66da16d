/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sockets that listen, bound to an address in words, for whoever accepts on them: a listener of a
 * reactor (stream.h), a process that inherits them, a server of packets.
 *
 * A Unix socket file that exists is connected to: when nobody listens it is stale, and replaced.
 * listen_socket_close() removes the file only if it is still the one that was made: a later
 * instance may have put its own there.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/reason.h"

#define LISTEN_UNIX	   "unix:" /* before the path of a Unix socket */
#define LISTEN_ADDRESS_MAX (sizeof(LISTEN_UNIX) + sizeof(((struct sockaddr_un *)0)->sun_path))

struct listen_socket {
	int fd;				  /* -1: none */
	char address[LISTEN_ADDRESS_MAX]; /* as bound, in the form that listen_socket_open takes */
	dev_t dev;			  /* of the Unix socket's file; else 0 */
	ino_t ino;
};

struct listen_options {
	int type; /* SOCK_STREAM or SOCK_SEQPACKET */
	int backlog;
	mode_t mode;	  /* of a Unix socket's file; 0: what the umask leaves */
	const gid_t *gid; /* whom that file is given to; NULL: as it is */
};

/**
 * Listens on @addr: "1.2.3.4:3260", "[::1]:3260", or "unix:PATH". Port 0 lets the kernel choose.
 * Errors are explained in @why: those of bind(2) and listen(2), -EEXIST for a path that is there
 * and is no socket.
 */
int listen_socket_open(const char *addr, const struct listen_options *opt,
		       struct listen_socket *ret_socket, struct reason *why);
/** Takes note of an address, as bound, that another process listens on; there is no fd. */
void listen_socket_adopt(const char *addr, struct listen_socket *ret_socket);
/** Removes the file of a Unix socket; who is connected stays so. Idempotent. */
void listen_socket_unlink(struct listen_socket *s);
/** Closes it, and removes the file. Idempotent. */
void listen_socket_close(struct listen_socket *s);

/**
 * For a loop around an attempt to listen: whether to try again after @err, asked after a nap. Yes
 * while the address is in use and @until_ns (CLOCK_MONOTONIC) has not come. An instance that was
 * killed a moment ago seems to listen still: the kernel ends the accept of its io_uring, which
 * holds the socket, in the background.
 */
bool listen_again(int err, uint64_t until_ns);
/** How long to believe that: seconds, where the machine is busy with what the killed one leaves. */
#define LISTEN_IN_USE_NS (5 * NSEC_PER_SEC)
