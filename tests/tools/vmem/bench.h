/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of vmem_bench share. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "mem/address_space.h"

struct live {
	uint64_t addr, size;
};

static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

/** Ends the program when what must succeed did not. */
static inline void must(int r, const char *what)
{
	if (!r)
		return;
	fprintf(stderr, "vmem_bench: %s: error %d\n", what, -r);
	exit(1);
}

static inline double ns_each(uint64_t start, uint64_t ops)
{
	return (double)(clock_now_ns() - start) / (double)ops;
}

struct address_space *bench_space(void);

/** Three ways to give @max live allocations of one to three pages. */
void bench_ways(uint64_t max);
/** ns an operation from 10^3 to @max live segments. */
void bench_flat(uint64_t max);
/** Quantum-size allocations beside malloc(3), whichever is loaded. */
void bench_peer(unsigned threads);
/** Worst cases of fragmentation, by policy. */
void bench_frag(void);
