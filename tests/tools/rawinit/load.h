/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "histogram.h"
#include "session.h"

struct load_config {
	unsigned connections;
	unsigned depth;	     /* commands in flight a connection */
	uint32_t block_size; /* bytes of an I/O, a multiple of the LUN's block size */
	unsigned write_percent;
	bool random;
	bool fua;
	bool verify; /* writes stamp a pattern made of place and seed, reads expect it */
	uint64_t seed;
	uint64_t region; /* bytes of the LUN in use, from 0 */
	uint32_t lun_block_size;
};

struct load_result {
	uint64_t ios;
	uint64_t errors;
	uint64_t mismatches;
	double seconds;
	struct histogram latency;
	char first_error[160];
};

struct load;

/** Takes over @sessions (an array of config->connections). Returns NULL without memory. */
struct load *load_new(const struct load_config *config, struct session *sessions);
void load_free(struct load *load);

/**
 * Keeps every connection at its depth for @seconds, or until @count I/Os (0: no bound) were issued,
 * then drains. Returns 0 with @result filled, or -errno when a connection or the protocol failed.
 * May be called again.
 */
int load_run(struct load *load, double seconds, uint64_t count, struct load_result *result);
