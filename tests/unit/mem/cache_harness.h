/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of the read cache share: one to test, pages that tell whose they are, losses. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "mem/cache/cache_private.h"

struct rig {
	struct address_space *as;
	struct tmem_host *tmem; /* or NULL */
	struct cache *c;
};
/** A cache of @pages in @shards (0: its choice); with tmem of at most @tmem_bytes, 0: none. */
void rig_open(struct rig *rig, uint64_t pages, unsigned shards, uint64_t tmem_bytes);
/** Fails if any memory was not returned. */
void rig_close(struct rig *rig);
struct cache_object *rig_object(struct rig *rig, uint32_t weight, uint64_t floor_pages);

/* Contents: of page @page, in its version @version. Version 0 is zeros. About half compresses. */
void stamp(void *buf, uint64_t page, uint32_t version);
/** Whether @buf is a page of @page, whole, and of which version. */
bool stamp_read(const void *buf, uint64_t page, uint32_t *ret_version);

/** Fills pages as a reader of the store would; returns whether cache_fill_begin() let it. */
bool fill(struct cache_object *o, uint64_t first, uint64_t n, uint32_t version);
/** Reads a page: its version, or -1: a miss. */
int64_t get(struct cache_object *o, uint64_t page);

struct cache_stats stats_of(struct cache *c);
/** Takes a page's memory as the kernel does; false: it is not in memory. */
bool inject_purge(struct cache_object *o, uint64_t page);

static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

/** Fails unless queues, index and accounts agree. Nobody else uses the cache. */
void check_consistency(struct cache *c);
