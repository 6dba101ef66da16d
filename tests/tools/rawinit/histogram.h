/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Latencies in nanoseconds, kept in buckets 1/32 of a power of two wide (3 % resolution). */
#pragma once

#include <stdint.h>

#define HISTOGRAM_STEPS 32u

struct histogram {
	uint64_t count;
	uint64_t sum;
	uint64_t max;
	uint64_t bucket[64 * HISTOGRAM_STEPS];
};

static inline unsigned histogram_index(uint64_t ns)
{
	if (ns < HISTOGRAM_STEPS)
		return (unsigned)ns;
	unsigned shift = 58 - (unsigned)__builtin_clzll(ns); /* leaves 6 bits, the top one set */

	return (shift + 1) * HISTOGRAM_STEPS + (unsigned)(ns >> shift) - HISTOGRAM_STEPS;
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
	h->count++;
	h->sum += ns;
	if (ns > h->max)
		h->max = ns;
	h->bucket[histogram_index(ns)]++;
}

/** The smallest latency of the bucket where the fraction @p (0..1) of all samples is reached. */
static inline uint64_t histogram_quantile(const struct histogram *h, double p)
{
	uint64_t want = (uint64_t)((double)h->count * p), seen = 0;

	for (unsigned i = 0; i < 64 * HISTOGRAM_STEPS; i++) {
		seen += h->bucket[i];
		if (seen <= want)
			continue;
		if (i < HISTOGRAM_STEPS)
			return i;
		return (uint64_t)(HISTOGRAM_STEPS + i % HISTOGRAM_STEPS)
		       << (i / HISTOGRAM_STEPS - 1);
	}
	return h->max;
}
