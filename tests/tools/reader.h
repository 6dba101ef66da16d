/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 4 KiB reads of a LUN in this process, by one reactor, so many at a time; and their latencies. */
#pragma once

#include <stdint.h>

struct lun;
struct reactor;

#define READER_PAGE	 4096u
#define READER_DEPTH_MAX 256u
#define READER_END	 UINT64_MAX

struct reader_spec {
	struct lun *lun;
	struct reactor *reactor;
	unsigned depth;	    /* 1 to READER_DEPTH_MAX */
	uint64_t length_ns; /* no read begins later; 0: as long as there are pages */
	/* The next page to read, or READER_END; on the reactor, as is done(). */
	uint64_t (*next)(void *arg);
	/* A read took @ns; may be NULL. */
	void (*done)(void *arg, uint64_t ns);
	void *arg;
};

struct reader_result {
	uint64_t reads;
	double seconds;
	double cpu; /* seconds, of the whole process */
};

/** Reads until there is nothing left to read. -ENOMEM: no I/O buffers; the first read's error. */
int reader_run(const struct reader_spec *spec, struct reader_result *ret_result);

/* --- latencies: 16 buckets a power of two of ns --- */

#define LATENCY_BUCKETS (64 * 16)

struct latency {
	uint64_t n, bucket[LATENCY_BUCKETS];
};

void latency_add(struct latency *l, uint64_t ns);
/** 0 when it is empty. */
double latency_quantile_us(const struct latency *l, double q);
