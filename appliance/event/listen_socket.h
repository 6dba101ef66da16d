/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sockets that listen, bound to an address in words, for whoever accepts on them: a listener of a
 * reactor (stream.h), a process that inherits them, a server of packets.
 *
 * A Unix socket file that exists is connected to: when nobody listens it is stale, and replaced.
 * listen_socket_close() removes the file only if it is still the one that was made: a later
 * instance may have put its own there.
 *
 * A daemon that ends for a successor leaves its lasting sockets listening: somebody (the service
 * manager) keeps copies meanwhile, and provides them to the next one (listen_provided.h).
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
	bool shared;			  /* its owner goes on listening whatever we do */
	dev_t dev;			  /* of the Unix socket's file, if it is ours; else 0 */
	ino_t ino;
};

struct listen_options {
	int type; /* SOCK_STREAM or SOCK_SEQPACKET */
	int backlog;
	mode_t mode;	  /* of a Unix socket's file; 0: what the umask leaves */
	const gid_t *gid; /* whom that file is given to; NULL: as it is */
	bool lasting;	  /* may be provided, and is kept for a successor */
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
/** Ends it for all who have copies, but for one that others own or that a successor is to get. */
void listen_socket_shut(struct listen_socket *s);
/** Removes the file of a Unix socket; who is connected stays so. Idempotent. */
void listen_socket_unlink(struct listen_socket *s);
/** Closes it, and removes the file. Idempotent. */
void listen_socket_close(struct listen_socket *s);

/**
 * @keep is called, on any thread, with each lasting socket that is opened and was not provided, so
 * that somebody gets a copy for a successor. To be set before any thread is started.
 */
void listen_socket_set_keeper(void (*keep)(int fd));
/** A successor follows: from now on no socket is shut down and no file removed. */
void listen_socket_leave(void);

/**
 * For a loop around an attempt to listen: whether to try again after @err, asked after a nap. Yes
 * while the address is in use and @until_ns (CLOCK_MONOTONIC) has not come. An instance that was
 * killed a moment ago seems to listen still: the kernel ends the accept of its io_uring, which
 * holds the socket, in the background.
 */
bool listen_again(int err, uint64_t until_ns);
/** How long to believe that: seconds, where the machine is busy with what the killed one leaves. */
#define LISTEN_IN_USE_NS (5 * NSEC_PER_SEC)
