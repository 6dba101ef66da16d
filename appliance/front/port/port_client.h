/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port's client: plain blocking calls for any number of threads, no reactor. Used by programs
 * that bring LUNs to a wire of their own (the nbdkit plugin).
 *
 * A daemon that dies or is restarted is not an error: requests in flight wait, the client connects
 * again (with backoff) and sends them again. docs/port.md, "A daemon that dies", says why that is
 * safe for every op there is.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"
#include "front/port/port_spec.h"

#define PORT_DEFAULT_SOCKET   "/run/ebb/port.sock"
#define PORT_DEFAULT_RETRY_MS 120000u
#define PORT_DEFAULT_IDLE_MS  2000u

struct port_client;

/** An export as the daemon describes it. */
struct port_export {
	char name[PORT_NAME_MAX];
	char description[PORT_DESCRIPTION_MAX];
	uint8_t uuid[16];
	uint64_t size;	     /* bytes */
	uint32_t block_size; /* bytes */
	uint32_t flags;	     /* PORT_EXPORT_* */
};

struct port_client_options {
	const char *socket; /* path; NULL: PORT_DEFAULT_SOCKET */
	const char *lun;    /* name of the LUN */
	const char *name;   /* what to call ourselves in the daemon's lists */
	bool read_only;
	unsigned retry_ms; /* how long requests wait for a daemon that has gone; 0: default */
	unsigned idle_ms;  /* after which unused pages of the data area go back; 0: default */
	/* Something about the export has changed (port_client_get_export). May be NULL. Runs on a
	 * thread of the client's. */
	void (*changed)(void *ctx);
	void *ctx;
};

/**
 * Connects and attaches. Does not wait for a daemon that is not there. Blocks for 10 s at most.
 * Errors: -EHOSTDOWN (no daemon there, or it has just gone), -ENOENT (no such LUN), -EACCES,
 * -EPROTO, -EROFS, -EMFILE.
 */
int port_client_open(const struct port_client_options *opt, struct port_client **ret_client,
		     struct reason *why);
/** No request may be in flight. NULL is fine. */
void port_client_close(struct port_client *c);

void port_client_get_export(struct port_client *c, struct port_export *ret_export);

/**
 * Does one request on the calling thread and returns when it is done: 0 or -errno as the LUN gave
 * it. @buf: READ fills it, WRITE takes from it, others NULL. Any length; requests longer than a
 * slot are carried out in pieces, one after another. -ESHUTDOWN: the LUN was removed, or the daemon
 * did not come back in time.
 */
int port_client_io(struct port_client *c, enum port_op op, unsigned flags, uint64_t off,
		   uint64_t len, void *buf);

struct port_extent {
	uint64_t len;
	uint32_t flags; /* PORT_EXTENT_* */
};
/**
 * Extents of [off, off + len), from its start; they may cover less. @n: in: room (at least 1), out:
 * filled. Every extent has a length, and their sum is not above @len.
 */
int port_client_extents(struct port_client *c, uint64_t off, uint64_t len,
			struct port_extent *extents, unsigned *n);

/** Lists what a daemon exports. malloc'ed array, to be freed by the caller. -EHOSTDOWN as above. */
int port_client_list(const char *socket, struct port_export **ret_exports, size_t *ret_n,
		     struct reason *why);

/**
 * Connects to the daemon for its company alone: *@ret_sock becomes readable when it has ended. The
 * caller closes it. Errors as port_client_open().
 */
int port_client_watch(const char *socket, int *ret_sock);

struct port_client_stats {
	uint64_t ops, reconnects, replays, doorbells, sleeps;
	uint64_t resident_bytes; /* of the shared memory */
};
void port_client_get_stats(struct port_client *c, struct port_client_stats *ret_stats);
