/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** iscsi://HOST:PORT/TARGET/LUN, taken apart. */
struct target_url {
	char host[256];
	char port[8];
	char target[256];
	unsigned lun;
};

/** One logged-in session of one connection. Sequence numbers are those of RFC 7143 §4.2.2. */
struct session {
	int fd;
	uint32_t cmdsn;	    /* of the next command */
	uint32_t maxcmdsn;  /* the last one the target takes */
	uint32_t expstatsn; /* acknowledges every status before it */
	uint8_t lun[8];

	/* negotiated, constant after login */
	uint32_t max_send_segment; /* bytes of data a PDU to the target may carry */
	uint32_t max_burst;
	uint32_t first_burst;
	bool initial_r2t;
	bool immediate_data;
};

struct session_options {
	uint32_t max_recv_segment; /* declared to the target, bytes */
	uint32_t max_burst;	   /* proposed */
	uint32_t first_burst;	   /* proposed */
	bool initial_r2t;	   /* proposed */
	bool immediate_data;	   /* proposed */
	const char *initiator_name;
};

/** Parses @text. Returns 0 or -EINVAL. */
int target_url_parse(const char *text, struct target_url *ret_url);

/**
 * Connects and logs in as session number @index (it makes the ISID unique). Returns 0 or -errno
 * with a line on stderr; the caller releases with session_close().
 */
int session_open(struct session *s, const struct target_url *url,
		 const struct session_options *options, unsigned index);

/** Closes the connection; harmless on one that never opened (fd -1). */
void session_close(struct session *s);

/**
 * Runs one read-type command to its end, alone on the connection (only before the load starts).
 * @data receives up to @len bytes. Returns the SCSI status, or -errno.
 */
int session_command_read(struct session *s, const uint8_t *cdb, size_t cdb_len, void *data,
			 uint32_t len);

/** Waits until the unit is ready and reads its size. Returns 0 or -errno. */
int session_probe(struct session *s, uint64_t *ret_blocks, uint32_t *ret_block_size);

/** Takes StatSN, ExpCmdSN and MaxCmdSN from a PDU of the target; @status says that it carries a
 * status. */
void session_take_numbers(struct session *s, const uint8_t *bhs, bool status);

/** Writes the header of a SCSI command, but for its tag, flags and CDB. */
void session_command_header(struct session *s, uint8_t *bhs, uint32_t expected_len);
