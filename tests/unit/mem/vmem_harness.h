/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What vmem's tests share: a store of their own, a random source, a source of spans that refuses.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "mem/vmem/vmem.h"

#define STORE_BYTES (256ull << 20)

/** A store over @bytes of its own reservation. */
struct vmem_tag_store *store_open(size_t bytes);
void store_close(struct vmem_tag_store *s, size_t bytes);

/** xorshift64*: the same numbers for the same seed. */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

/** Operations of the long tests: EBB_VMEM_OPS if set, else @dflt. */
uint64_t ops_wanted(uint64_t dflt);

/** An import function's source: spans from an integer line, until it refuses. */
struct line_source {
	uint64_t next, outstanding;
	uint64_t imports, releases;
	uint64_t refuse_after; /* imports */
};
int line_import(void *source, uint64_t size, uint64_t *ret_addr);
void line_release(void *source, uint64_t addr, uint64_t size);

/**
 * Walks the arena and fails the test unless segments tile their spans, no two free ones touch, and
 * sums agree with vmem_size() and the statistics.
 */
void check_arena(struct vmem *vm);
