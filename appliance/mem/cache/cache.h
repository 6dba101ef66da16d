/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The read cache: pages of objects (LUNs), in memory that the kernel may take at any instant.
 *
 * Pages live in a volatile range; the index, which is all that is wired, knows which page is where.
 * What capacity evicts is offered to tmem and comes back by an exclusive get; what the kernel took
 * is a miss. A page of zeros is only noted. Nothing here does I/O: who misses reads the store and
 * offers what it read. See docs/cache.md; any thread may call, no call waits for I/O.
 *
 * No stale byte: a writer brackets its store I/O by cache_write_begin() and cache_write_end(), a
 * reader that wants to insert what it reads by cache_fill_begin() and cache_fill_end(). When
 * cache_write_begin() has returned, no read hits the range, whichever tier the page was in, and no
 * fill that began before cache_write_end() inserts a page of it. So all reads of a range that is
 * being written see the store, and the page is found again only with what the store has then.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/metric.h"

#define CACHE_PAGE 4096u

struct address_space; /* mem/address_space.h */
struct tmem_host;     /* mem/tmem/host.h */
struct cache;
struct cache_object;

struct cache_spec {
	struct address_space *as; /* outlives the cache */
	uint64_t max;		  /* bytes of pages it may ever hold: addresses and index */
	uint64_t target;	  /* bytes it may hold now; 0: max */
	unsigned shards;	  /* of the index, a power of two; 0: chosen by the processors */
	struct tmem_host *tmem;	  /* where evicted pages go; NULL: nowhere. Outlives the cache */
};

/** -EINVAL, -ENOMEM, -ENOSPC (no addresses left). */
int cache_create(const struct cache_spec *spec, struct cache **ret_c);
/** No object is left. NULL is fine. */
void cache_destroy(struct cache *c);

struct cache_object_spec {
	const char *name; /* copied: for tmem's accounts */
	uint32_t weight;  /* its share when the cache must evict, relative to others'; 0: 100 */
	uint64_t floor;	  /* bytes that others' fills do not take from it */
};

/** -ENOMEM, -ENOSPC: more objects than an index entry can name. */
int cache_object_create(struct cache *c, const struct cache_object_spec *spec,
			struct cache_object **ret_o);
/** Drops its pages in all tiers. No call on it runs. NULL is fine. */
void cache_object_destroy(struct cache_object *o);

/* --- reading --- */

/**
 * Copies @len bytes from @off of page @page (both within the page) to @dst. 0: a hit. -ENODATA: a
 * miss; @dst is then undefined. A hit in memory costs no system call, no lock and no write but the
 * page's mark of use and the counters.
 */
int cache_read(struct cache_object *o, uint64_t page, uint32_t off, uint32_t len, void *dst);
/** Whether a read of the page would probably hit; touches and counts nothing. */
bool cache_has(struct cache_object *o, uint64_t page);

/* --- filling --- */

/**
 * Whether pages that were missed are worth a fill. False where of late next to nothing that came
 * was asked for again, and there is no room left; then they are remembered, and wanted when they
 * are missed again. Who asks has read the pages whole; what is read ahead of its reader is wanted.
 */
bool cache_wants(struct cache_object *o, uint64_t first, uint64_t n);

struct cache_fill {
	struct cache_object *o;
	uint64_t first; /* page */
	uint64_t n;	/* pages */
	uint64_t ticket;
	uint64_t ahead; /* from this page on nobody has asked for them yet; begin: none */
};

/**
 * Before the store is read. False: a write that overlaps is under way; then insert nothing and do
 * not call cache_fill_end().
 */
bool cache_fill_begin(struct cache_object *o, struct cache_fill *f, uint64_t first, uint64_t n);
/**
 * After the store was read: @iov, from byte @skip on, has the @n pages' bytes. Inserts the pages
 * unless a write began meanwhile. @niov 0 gives the fill up (the read failed, or LUN_IO_DPO).
 */
void cache_fill_end(struct cache_fill *f, const struct iovec *iov, int niov, uint64_t skip);

/* --- writing --- */

#define CACHE_WRITE_REGIONS 2u /* that 64 pages can be in */

struct cache_write {
	struct cache_object *o;
	uint64_t off, len;
	uint64_t had; /* pages of the range that were cached when it began, at most 64 told apart */
	uint64_t seen[CACHE_WRITE_REGIONS]; /* when it entered each of their regions */
};

/**
 * Before the store is written, discarded, zeroed. Drops the range's pages in all tiers. @len may be
 * the whole object: the cost is bounded by the pages in the cache.
 */
void cache_write_begin(struct cache_object *o, struct cache_write *w, uint64_t off, uint64_t len);
/**
 * After the store's completion, before the acknowledgement. With @niov (the range's bytes, from
 * byte @skip of @iov on) pages that were cached when it began are inserted anew, if no other write
 * overlapped; without (a failure, say, or a discard) they stay out.
 */
void cache_write_end(struct cache_write *w, const struct iovec *iov, int niov, uint64_t skip);

/* --- memory --- */

/**
 * What it may hold from now on, bytes <= max. Less than it holds: evicts (into tmem only if
 * @demote) and gives the memory back before it returns. Returns the bytes given back.
 */
uint64_t cache_set_target(struct cache *c, uint64_t bytes, bool demote);
uint64_t cache_target(const struct cache *c);
/**
 * Whether it may hold more than its target, of the memory that tmem may have and has not; it does
 * not at first. What it holds too much then goes with the next call of those beside.
 */
void cache_borrow(struct cache *c, bool may);
/** To be called when tmem's limit fell: gives back what can no longer be borrowed; bytes. */
uint64_t cache_give_back(struct cache *c);
/**
 * Gives to the kernel what waits for its batch, and forgets a part of the pages that the kernel
 * took; to be called now and then while the cache is used or memory is short. Returns the bytes
 * found taken since the last call. @max_pages bounds the pages looked at.
 */
uint64_t cache_settle(struct cache *c, uint32_t max_pages);

#define CACHE_COUNTERS(X)                                                    \
	X(hits_memory, "reads served from a page in memory")                 \
	X(hits_zero, "reads of a page noted as zeros")                       \
	X(hits_tmem, "reads served from the compressed second-chance cache") \
	X(misses, "reads that found no page")                                \
	X(purged, "misses because the kernel had taken the page")            \
	X(fills, "pages inserted after a read")                              \
	X(fills_lost, "pages read but not inserted: a write overlapped")     \
	X(updates, "pages inserted after a write")                           \
	X(invalidated, "pages dropped because they were written")            \
	X(evicted, "pages dropped for capacity")                             \
	X(demoted, "evicted pages that tmem took")

struct cache_stats {
#define X(name, help) uint64_t name;
	CACHE_COUNTERS(X)
#undef X
	uint64_t pages;	      /* in the index, with memory */
	uint64_t zero_pages;  /* in the index, noted only */
	uint64_t wired_pages; /* of them not (yet) given to the kernel */
	uint64_t resident;    /* bytes of pages in memory, those taken but not yet found included */
	uint64_t index_bytes; /* wired memory of the index and its tables, when all of it is used */
	uint64_t index_resident; /* of it used so far; of objects: 0 */
	uint64_t tmem_pages;	 /* compressed */
	uint64_t tmem_bytes;	 /* all memory charged for them */
	uint64_t target, max;	 /* bytes; of objects: floor and 0 */
	uint64_t returned;	 /* bytes given back by cache_set_target(), ever */
};
void cache_stats(struct cache *c, struct cache_stats *ret_stats);
/** Of the range in which its pages live. */
struct volatile_stats;
void cache_volatile_stats(struct cache *c, struct volatile_stats *ret_stats);
void cache_object_stats(struct cache_object *o, struct cache_stats *ret_stats);
