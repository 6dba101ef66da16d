/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One connection to the device under test, over iSCSI or NBD or as a file, with any number of
 * requests in flight. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

enum request_kind {
	REQUEST_READ,
	REQUEST_WRITE,
	REQUEST_WRITE_SAME,
	REQUEST_ZERO,
	REQUEST_UNMAP,
	REQUEST_CAW,
	REQUEST_ATOMIC,
	REQUEST_FLUSH,
	REQUEST_KINDS,
};

enum request_result {
	RESULT_OK,
	RESULT_MISCOMPARE,
	RESULT_REFUSED,	    /* it did not happen; may be sent again */
	RESULT_UNSUPPORTED, /* it did not happen and never will */
	RESULT_ERROR,	    /* the device failed; request.error says how */
	RESULT_LOST,	    /* the connection went before the answer */
};

struct client;

struct request {
	struct list_node in_flight; /* of its client */
	enum request_kind kind;
	bool fua;
	uint64_t lba;	/* in blocks of the client's block size */
	uint32_t count; /* likewise */
	uint8_t *data; /* of @count blocks; of one for WRITE SAME; for CAW compared, then written */
	enum request_result result;
	char error[160];
	void (*done)(struct client *client, struct request *request);
};

struct client_ops {
	/** Connects (again), waiting for it; fills block_size, blocks, can[] and max[]. Returns 0
	 * or -errno. */
	int (*connect)(struct client *client);
	/** Drops the connection. Requests in flight get no answer any more. */
	void (*disconnect)(struct client *client);
	int (*get_fd)(struct client *client);
	short (*get_events)(struct client *client);
	/** Sends and receives; calls client_finish(). Returns -ENOTCONN when the connection is
	 * gone. */
	int (*service)(struct client *client, short revents);
	/** Starts a request. Returns 0 or -errno (the connection is to be dropped then). */
	int (*submit)(struct client *client, struct request *request);
};

struct client {
	const struct client_ops *ops;
	const char *url;
	unsigned index;
	bool connected;
	bool lost; /* a request went unanswered: the connection is of no more use */
	struct list_node in_flight;
	bool can[REQUEST_KINDS];
	uint32_t max[REQUEST_KINDS]; /* blocks in a request */
	uint32_t block_size;	     /* NBD, file: given by whoever creates it */
	uint64_t blocks;
	void *owner;
};

struct client *client_new_iscsi(const char *url, unsigned index);
struct client *client_new_nbd(const char *uri, unsigned index, uint32_t block_size);
struct client *client_new_file(const char *path, unsigned index, uint32_t block_size);

/** Sends @request; its done() is called from within service(). */
int client_submit(struct client *client, struct request *request);

/** Ends @client, connected or not; NULL is fine. */
void client_free(struct client *client);

/** For implementations: a client at the start of @size bytes of zeros; NULL: no memory. */
struct client *client_alloc(size_t size, const struct client_ops *ops, const char *url,
			    unsigned index);
/** For implementations: the answer to @request has come. */
void client_finish(struct client *client, struct request *request, enum request_result result);
