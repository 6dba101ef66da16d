/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "client.h"

struct run_options {
	uint64_t base;	     /* first block of the region */
	uint64_t blocks;     /* of the region; the counter's block comes after it */
	unsigned depth;	     /* requests in flight a client */
	uint32_t max_blocks; /* of a request */
	double seconds;
	const volatile sig_atomic_t *end; /* set by a signal: the load ends now */
	double reconnect_seconds; /* how long a client may try to come back; 0: a lost connection is
				     a failure */
	uint64_t seed;
	bool atomic_reads;
	bool torn_reads;   /* a block read while it is written may be a mixture */
	bool unmap_zeroes; /* UNMAP and TRIM must zero */
};

/**
 * Runs the load on @clients (all unconnected) and checks it. Prints a summary on stdout, what went
 * wrong on stderr. Returns 0, -EILSEQ on a violation, or another -errno when the run itself failed.
 */
int run_check(const struct run_options *options, struct client **clients, unsigned nclients);
