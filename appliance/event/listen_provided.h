/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sockets that listen before we do: the service manager's, for its socket units, or those that a
 * predecessor left with it. Who opens an address (listen_socket.h) is given the one that is bound
 * to it; so the address is never unbound between two daemons, and a client that connects meanwhile
 * waits in the backlog.
 *
 * They are given before any thread is started; everything else may be called on any.
 */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

#include "base/reason.h"

#define LISTEN_PROVIDED_MAX 64

/**
 * Takes @fd over, for the life of the process. @shared: its owner goes on listening whatever we do,
 * so it is never shut down by us. Errors, each explained in @why: -ENOTSOCK, -EINVAL (does not
 * listen), -EAFNOSUPPORT, -ENOSPC. @fd is then the caller's still.
 */
int listen_provide(int fd, bool shared, struct reason *why);

struct listen_provided {
	int fd; /* the list's; who takes it makes a copy */
	bool shared;
};

/** Finds the one of @type (SOCK_STREAM, ...) that listens on @sa, and marks it used. */
bool listen_provided_find(const struct sockaddr_storage *sa, int type,
			  struct listen_provided *ret_provided);

/**
 * Ends a predecessor's sockets that nobody has used and that are in the way of one on @sa: of the
 * same port, where one of the two is any address. True: there was one.
 */
bool listen_provided_make_way(const struct sockaddr_storage *sa);

/**
 * Ends those that nobody has used: a predecessor's are closed, @tell is called with the address of
 * one that is shared.
 */
void listen_provided_settle(void (*tell)(const char *address));
