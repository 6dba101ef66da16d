/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Metric cells: relaxed atomics that any thread may add to and any may read. A histogram counts
 * durations in powers of two of a microsecond: bucket 0 is < 1 us, bucket i is < 2^i us, the last
 * takes the rest (> ~1 s and more).
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t metric_counter;

static inline void metric_add(metric_counter *c, uint64_t n)
{
	atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}
static inline void metric_sub(metric_counter *c, uint64_t n)
{
	atomic_fetch_sub_explicit(c, n, memory_order_relaxed);
}
static inline uint64_t metric_read(const metric_counter *c)
{
	return atomic_load_explicit((metric_counter *)c, memory_order_relaxed);
}

#define METRIC_HIST_BUCKETS 24

struct metric_hist {
	metric_counter bucket[METRIC_HIST_BUCKETS];
	metric_counter sum_ns;
};

/** Counts one duration of @ns nanoseconds. */
static inline void metric_hist_add(struct metric_hist *h, uint64_t ns)
{
	uint64_t us = ns / 1000;
	unsigned i = us ? 64 - (unsigned)__builtin_clzll(us) : 0;

	if (i >= METRIC_HIST_BUCKETS)
		i = METRIC_HIST_BUCKETS - 1;
	metric_add(&h->bucket[i], 1);
	metric_add(&h->sum_ns, ns);
}
/** How many durations were counted. */
uint64_t metric_hist_count(const struct metric_hist *h);
/** Upper bound, in microseconds, of the bucket that holds quantile @q (0..1); 0 when empty. */
uint64_t metric_hist_quantile_us(const struct metric_hist *h, double q);
