/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket: a Unix socket (mode 0600) on one reactor, carrying the messages of
 * protocol.h. A connection has one request at work; it is not read from meanwhile. Requests are
 * carried out on worker threads, those that change something one after another.
 */
#pragma once

#include "base/reason.h"
#include "control/appliance.h"

struct control_server;

/** Blocks; not on a reactor. @path: of the socket; a stale one is replaced. */
int control_server_start(struct appliance *app, const char *path, struct control_server **ret_srv,
			 struct reason *why);
/** Blocks until requests at work are done and connections closed. Before appliance_stop(). */
void control_server_stop(struct control_server *srv); /* NULL is fine */

struct protocol_request;
/** Carries @req out. Blocks. Returns the response line (malloc'ed) or NULL: no memory. */
char *control_handle(struct appliance *app, const struct protocol_request *req, size_t *ret_len);
