/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port's client: plain blocking calls for any number of threads, or requests that are submitted
 * and called back; no reactor. Used by programs that bring LUNs to a wire of their own (the nbdkit
 * plugin, the handler of tcmu-runner).
 *
 * A daemon that dies or is restarted is not an error: requests in flight wait, the client connects
 * again (with backoff) and sends them again. docs/port.md, "A daemon that dies", says why that is
 * safe for every op there is.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"
#include "base/reason.h"
#include "front/port/port_spec.h"

#define PORT_DEFAULT_SOCKET   "/run/ebb/port.sock"
#define PORT_DEFAULT_RETRY_MS 120000u
#define PORT_DEFAULT_IDLE_MS  2000u
#define PORT_ASYNC_VERSION    3u

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
	bool async;	   /* for port_client_submit(); the daemon must speak PORT_ASYNC_VERSION */
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

/**
 * Whether port_client_open() would work now, with the same errors, and what it would find. Blocks
 * as long.
 */
int port_client_check(const struct port_client_options *opt, struct port_export *ret_export,
		      struct reason *why);

void port_client_get_export(struct port_client *c, struct port_export *ret_export);

/**
 * Does one request (READ to ZERO, or PREFETCH) on the calling thread and returns when it is done: 0
 * or -errno as the LUN gave it. @buf: READ fills it, WRITE takes from it, others NULL. Any length;
 * requests longer than a
 * slot are carried out in pieces, one after another. -ESHUTDOWN: the LUN was removed, or the daemon
 * did not come back in time.
 */
int port_client_io(struct port_client *c, enum port_op op, unsigned flags, uint64_t off,
		   uint64_t len, void *buf);

/** A request that its caller does not wait for. Zero-filled but for what the caller sets. */
struct port_async {
	/* --- set by the caller, constant until done --- */
	enum port_op op; /* but EXTENTS */
	unsigned flags;	 /* PORT_FUA, PORT_MAY_TRIM, PORT_FAST */
	/* Bytes. @len: above 0, 0 for FLUSH; any, but COMPARE_AND_WRITE: PORT_COMPARE_MAX at most.
	 */
	uint64_t off, len;
	uint32_t pattern_len; /* WRITE_SAME: divides @len; PORT_PATTERN_MAX at most */
	/*
	 * READ fills it; WRITE: @len bytes; WRITE_SAME: @pattern_len bytes; COMPARE_AND_WRITE: what
	 * is compared, then what is written, @len bytes each. The caller's until done.
	 */
	const struct iovec *iov;
	int niov;
	/*
	 * READ; may be NULL: is given the bytes where they are instead of their being copied to
	 * @iov, piece by piece. Until it returns the daemon's side may change them. Before done,
	 * on the same thread.
	 */
	void (*view)(struct port_async *a, const void *data, uint64_t len);
	/* Runs on a thread of the client's, once; @result as port_client_io() returns it. It may
	 * submit, and must not wait for other requests. */
	void (*done)(struct port_async *a, int result);

	/* --- result --- */
	uint64_t
		miscompare_off; /* COMPARE_AND_WRITE with -EILSEQ: of the first byte that differs */

	/* --- the client's --- */
	struct port_cmd_image cmd; /* of the piece that is being carried out */
	uint64_t pos;		   /* bytes done */
	uint64_t skip;		   /* bytes of iov that are passed over */
	struct list_node link;
};

/**
 * Starts @a, in a client that was opened with `async`, and returns; never blocks. Requests in
 * flight at the same time are carried out in any order. A daemon that goes away and comes back is
 * waited for as everywhere; COMPARE_AND_WRITE is carried out once all the same (docs/port.md).
 */
void port_client_submit(struct port_client *c, struct port_async *a);

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
