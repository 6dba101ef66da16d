/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmem: arenas that hand out pieces of an integer range - addresses, block numbers, tags, session
 * ids - after Bonwick and Adams, "Magazines and Vmem", USENIX 2001. An arena never looks at what
 * its integers name: it keeps its records elsewhere, so it can rule memory that is not there.
 *
 * Units are the caller's. Every size is rounded up to the arena's quantum. All functions may be
 * called by any thread, holding only locks of a rank before VMEM_THREADS; none of them sleeps for
 * want of resources. Errors are -ENOMEM (not now) and -EINVAL (never).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VMEM_QCACHE_CLASSES 16u		 /* a quantum cache serves 1..16 quanta */
#define VMEM_CACHED_ARENAS  256u	 /* arenas with quantum caches, in a process, at once */
#define VMEM_SIZE_MAX	    (1ull << 60) /* of a span or a request */

struct vmem;
struct vmem_tag_store;

/**
 * How to choose among free segments. The default, instant fit, takes any segment of the smallest
 * power-of-two list in which all fit: constant time. Sizes that a quantum cache serves ignore it.
 */
#define VMEM_BEST_FIT 1u /* the smallest that fits: least waste, searches one list */
#define VMEM_NEXT_FIT                                                               \
	2u /* the next after the last one: an integer is reused as late as possible \
	    */

/**
 * Brings @size or more contiguous integers into an arena: 0, *@ret_addr; or -errno. Called without
 * locks of the arena. vmem_import_arena() is the one that stacks an arena on another.
 */
typedef int vmem_import_fn(void *source, uint64_t size, uint64_t *ret_addr);
/** Takes back what an import brought, whole. Must not fail. */
typedef void vmem_release_fn(void *source, uint64_t addr, uint64_t size);

struct vmem_spec {
	const char *name;	      /* for reports; copied, 31 characters */
	struct vmem_tag_store *store; /* where the records live; outlives the arena */
	uint64_t base, size;	      /* first span; size 0: none */
	uint64_t quantum;	      /* a power of two; every span and size is a multiple */
	vmem_import_fn *import;	      /* or NULL: the arena has what vmem_add() gave it */
	vmem_release_fn *release;     /* or NULL: what was imported stays until the end */
	void *source;		      /* handed to import and release */
	uint64_t import_min;	      /* import at least this much at once; 0: what is needed */
	uint64_t qcache_max;	      /* largest cached size, <= 16 quanta; 0: no quantum cache */
};

/** Makes an arena. -EINVAL: the spec contradicts itself; -ENOSPC: VMEM_CACHED_ARENAS exist. */
int vmem_create(const struct vmem_spec *spec, struct vmem **ret_vm);

/** Somebody did not free [@addr, @addr + @size). */
typedef void vmem_leak_fn(void *arg, uint64_t addr, uint64_t size);
/**
 * Ends an arena that nobody uses any more (NULL is fine), tells @leak (may be NULL) of all that is
 * still allocated, and returns how much that is. Imported spans go back, except those with leaks.
 */
uint64_t vmem_destroy(struct vmem *vm, vmem_leak_fn *leak, void *arg);

/** Adds the span [@addr, @addr + @size), which must not overlap what the arena has. */
int vmem_add(struct vmem *vm, uint64_t addr, uint64_t size);

/** Takes @size integers. To be returned by vmem_free() with the same size, all at once. */
int vmem_alloc(struct vmem *vm, uint64_t size, unsigned flags, uint64_t *ret_addr);
/** Never fails, never allocates. Aborts when [@addr, @addr + @size) was not allocated so. */
void vmem_free(struct vmem *vm, uint64_t addr, uint64_t size);

struct vmem_request {
	uint64_t size;
	uint64_t align;	  /* a power of two; 0: the quantum */
	uint64_t phase;	  /* addr % align == phase; < align */
	uint64_t nocross; /* a power of two: no multiple of it inside the allocation; 0: any */
	uint64_t min;	  /* the allocation is within [min, max) */
	uint64_t max;	  /* 0: no bound */
};
/**
 * Takes integers under constraints, past the quantum caches. To be returned by vmem_xfree(). Only
 * requests without nocross, min and max may import.
 */
int vmem_xalloc(struct vmem *vm, const struct vmem_request *req, unsigned flags,
		uint64_t *ret_addr);
void vmem_xfree(struct vmem *vm, uint64_t addr, uint64_t size);

/** Import and release from another arena: source is its struct vmem. */
int vmem_import_arena(void *source, uint64_t size, uint64_t *ret_addr);
void vmem_release_arena(void *source, uint64_t addr, uint64_t size);

/**
 * Gives back what is only kept to be fast: magazines in depots, empty slabs (and the imported
 * spans that become free by it), hash segments no longer used, spare tags. For memory pressure and
 * before reading exact figures.
 */
void vmem_reap(struct vmem *vm);
/** The calling thread's magazines of @vm, emptied. A thread that goes idle for long may do so. */
void vmem_thread_flush(struct vmem *vm);

enum vmem_what {
	VMEM_ALLOCATED, /* what is not free, quantum caches included */
	VMEM_FREE,	/* sum of the free segments */
	VMEM_MAX,	/* the largest free segment (searches one list) */
};
uint64_t vmem_size(struct vmem *vm, enum vmem_what what);

enum vmem_seg {
	VMEM_SEG_SPAN = 1,     /* added */
	VMEM_SEG_IMPORTED = 2, /* imported span */
	VMEM_SEG_ALLOC = 4,
	VMEM_SEG_FREE = 8,
	VMEM_SEG_SLAB = 16, /* an allocation cut up by a quantum cache */
};
/** Returns 0 to go on; anything else ends the walk. */
typedef int vmem_walk_fn(void *arg, enum vmem_seg seg, uint64_t addr, uint64_t size);
/**
 * Calls @fn for each segment whose type is in @mask, span by span, by address within a span. The
 * arena is locked: @fn must not call it. Returns what @fn returned last, or 0.
 */
int vmem_walk(struct vmem *vm, unsigned mask, vmem_walk_fn *fn, void *arg);

struct vmem_stats {
	uint64_t total, allocated, free; /* sizes: total is allocated + free */
	uint64_t in_use;		 /* of allocated: handed to callers */
	uint64_t cached;		 /* of allocated: in quantum caches, ready */
	uint64_t spans, imported, segments_allocated, segments_free, slabs;
	uint64_t allocs, frees, fails; /* calls; cached ones included */
	uint64_t imports, import_fails, releases;
	uint64_t looks;			   /* free segments looked at by searches */
	uint64_t tags, spare_tags;	   /* records used; kept at hand */
	uint64_t hash_buckets, meta_bytes; /* meta_bytes: tags, hash and magazines */
	uint64_t depot_visits, depot_contended, magazine_cap; /* cap: the largest in use */
};
/** Consistent but for operations of other threads that pass through quantum caches meanwhile. */
void vmem_stats(struct vmem *vm, struct vmem_stats *ret_stats);
const char *vmem_name(const struct vmem *vm);

/**
 * A store of boundary tags over [@base, @base + @size): page-aligned address space, reserved and
 * not accessible; at least 1 MiB. Pages are made accessible as tags are needed, and freed tags are
 * kept for reuse. Tags and hash tables are taken from the store's own arena, the meta arena.
 */
int vmem_tag_store_create(void *base, size_t size, struct vmem_tag_store **ret_store);
/** After all arenas that use it. The range becomes inaccessible again. NULL is fine. */
void vmem_tag_store_destroy(struct vmem_tag_store *store);
/** The meta arena, for its statistics. */
struct vmem *vmem_tag_store_meta(struct vmem_tag_store *store);
/** Bytes of a boundary tag. */
size_t vmem_tag_size(void);
