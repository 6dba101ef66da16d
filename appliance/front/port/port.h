/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port: LUNs of the daemon for other processes on the same host (the nbdkit plugin, a
 * tcmu-runner handler), through shared memory. docs/port.md tells why and how; port_spec.h is the
 * layout; port_client.h the other side. This is the daemon's side, on its reactors.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/reason.h"
#include "event/reactor.h"
#include "lun/lun.h"

/** What a client costs beside its rings and data area, bytes. */
#define PORT_CLIENT_BYTES (64u << 10)

struct budget;
struct port_server;

struct port_options {
	const char *path;	 /* of the Unix socket; a stale one is replaced */
	mode_t socket_mode;	 /* 0: 0600, or 0660 when a gid is given */
	gid_t gid;		 /* whose members may connect too; (gid_t)-1: nobody else */
	unsigned max_clients;	 /* connections at most; 0: 1024 */
	bool held;		 /* clients wait, connected, until port_server_release() */
	struct reactor_set *set; /* clients are spread over it */
	struct lun_table *luns;	 /* must outlive the server */
	struct budget *budget; /* of memory, that has room for a client or refuses it; NULL: none */
};

/**
 * Listens. Any thread. Peers are checked by SO_PEERCRED: root, the daemon's own uid, or members of
 * @gid. Errors: those of bind(2), -EADDRINUSE when somebody listens there, with a reason.
 */
int port_server_start(const struct port_options *opt, struct port_server **ret_server,
		      struct reason *why);
/**
 * Lets the clients in that a held server has kept waiting. Once; any thread. What clients of the
 * daemon before this one had in flight is carried out first (port_grace.h).
 */
void port_server_release(struct port_server *s);
/** Blocks until that is done, or the time for it is up: 10 s. Not on a reactor's thread. */
void port_server_await_replays(struct port_server *s);
/**
 * Stops listening, ends every connection (I/O in flight is finished first; clients that see their
 * connection end try to connect again) and frees. Any thread. @stopped is called at the end on some
 * reactor's thread; when it is NULL the call blocks until then (so: not on a reactor's thread).
 */
void port_server_stop(struct port_server *s, void (*stopped)(void *ctx), void *ctx);
const char *port_server_path(const struct port_server *s);

struct port_client_info {
	uint64_t id; /* unique in this server */
	pid_t pid;
	uid_t uid;
	char name[32];		    /* what the client calls itself */
	char lun[LUN_NAME_MAX + 1]; /* "": not attached */
	bool read_only;
	uint64_t connected_ns;	 /* CLOCK_MONOTONIC */
	uint64_t resident_bytes; /* of its shared memory: rings and data area */
	unsigned inflight;
	uint64_t ops, bytes_read, bytes_written, errors, doorbells, wakeups;
};
/** Any thread. malloc'ed array, to be freed by the caller. -ENOMEM. */
int port_server_list(struct port_server *s, struct port_client_info **ret_clients, size_t *ret_n);

/** Returns whether process @pid is connected. Any thread. */
bool port_server_has_peer(struct port_server *s, pid_t pid);

struct port_stats {
	uint64_t clients, accepted, refused; /* refused: by credentials or max_clients */
	uint64_t violations;		     /* connections ended for breaking the protocol */
	uint64_t stale_replays;		     /* commands refused because they came too late */
	uint64_t resident_bytes;
};
/** Any thread. */
void port_server_stats(struct port_server *s, struct port_stats *ret_stats);
