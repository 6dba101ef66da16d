/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What LUNs do a second, from two answers of lun.counters, for `ebb top`. */
#pragma once

#include <stdint.h>
#include <jansson.h>

struct rate_row {
	const char *name;	   /* of the newer answer, as long as that lives */
	double ops, read, written; /* a second; bytes of the latter two */
	double latency;		   /* of a read or write, seconds; negative: there was none */
	double depth;		   /* reads and writes under way, on average */
	double hits; /* part of pages that the cache had; negative: none was read, or no cache */
	uint64_t size, cached, errors; /* errors: all told */
};

struct rates {
	struct rate_row *rows; /* in the order of the answer */
	size_t n;
	struct rate_row all; /* its name is NULL */
	double seconds;	     /* between the two answers */
};

/** Makes rates of @now; @before may be NULL: then all are 0. Aborts without memory. */
void rates_make(const json_t *before, const json_t *now, struct rates *ret_rates);
void rates_free(struct rates *r);

/* What rows can be sorted by, with the title of the column. */
#define RATE_KEYS(X)                       \
	X(NAME, "name", "LUN")             \
	X(OPS, "ops", "OPS/S")             \
	X(READ, "read", "READ/S")          \
	X(WRITTEN, "written", "WRITTEN/S") \
	X(LATENCY, "latency", "LATENCY")   \
	X(DEPTH, "depth", "DEPTH")         \
	X(HITS, "hits", "HITS")            \
	X(CACHED, "cached", "CACHED")      \
	X(ERRORS, "errors", "ERRORS")

enum rate_key {
#define X(id, word, title) RATE_##id,
	RATE_KEYS(X)
#undef X
		RATE_KEYS_COUNT
};
extern const char *const rate_words[RATE_KEYS_COUNT], *const rate_titles[RATE_KEYS_COUNT];
/** Sorts by @key, the largest first (names: the first first); @reverse: the other way. */
void rates_sort(struct rates *r, enum rate_key key, int reverse);
