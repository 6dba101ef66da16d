/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A data area: address space that is large and mapped once, of which only what is used has pages.
 * It is divided into blocks of a fixed number of pages. Pages come when a block is taken for the
 * first time, stay with it for the next one who takes it, and leave when nobody has needed them
 * for a while, when memory is short, or when another area has a better use for them. Any block may
 * leave, not only the last. docs/data-area.md has the why.
 *
 *		take		       put
 *	EMPTY ------> BUSY ---------------------> CACHED	pages: CACHED and RELEASING have
 *	  ^ ^          | ^           take            |		them; BUSY has, or is about to
 *	  | |  cancel  | +---------------------------+ begin
 *	  | +----------+                             v
 *	  +------------------------------------- RELEASING ---> CACHED (could not be freed)
 *			   pages are freed
 *
 * The core knows numbers of blocks only; the host keeps the pages, whatever they are, and frees
 * them when asked to (ops->release). A block that is BUSY never leaves. Reuse comes before growth,
 * and lower blocks before higher ones, so that the cached blocks nobody needs are found on top.
 *
 * Many areas share one *budget*, a hard limit: no area grows before the budget has been charged,
 * and the budget is never charged above its limit. Each area has a *reserve*, charged for as long
 * as the area exists: that many blocks it may always have, and keeps when it shrinks, so that an
 * area whose reserve is as large as its largest request makes progress whatever others do. What
 * areas have above their reserve is theirs only while they use it: when the budget is exhausted,
 * cached blocks are stolen from the areas used least recently. Who finds nothing to steal waits in
 * a queue (first come, first served: what becomes free is granted to the head, nobody overtakes)
 * and is told when to try again.
 *
 * How a host lives with it
 *
 *	submit:	  r = data_area_take(a, n, now, blocks, &reused);
 *		  -ENOSPC: where it may sleep, data_budget_serve() and once more; then the request
 *			waits for ops->wake
 *		  allocate pages for blocks[reused..n), with no lock of the core held;
 *		  on failure data_area_cancel(those) and data_area_put(the others)
 *	complete: data_area_put(a, blocks, n);
 *	worker:	  ops->serve_soon has it call data_budget_serve(),
 *		  ops->tick_soon data_budget_tick()
 *	shrinker: data_budget_shrinkable(), data_budget_shrink()
 *
 * Locking. An area has a lock, the budget has one; both are the core's own, short, never sleep, and
 * are never asked for from outside, so every function below may be called by any thread, in any
 * order, with or without locks of the host held, but for those marked "sleeps": they call
 * ops->alloc or ops->release, always with no lock of the core held. Order: area, then budget; no
 * two areas at once, and therefore nothing to try: a thief holds no lock when it comes.
 *
 * Time is the host's: milliseconds of any monotonic clock, handed in.
 * Errors are negative errno values. Memory is counted in pages, places in blocks.
 */
#pragma once

#include "core_port.h"

struct data_budget;
struct data_area;

struct data_area_ops {
	/** @size bytes of zeros, aligned for a u64, or NULL. Sleeps if it wants; no locks held. */
	void *(*alloc)(void *host, size_t size);
	/** Called by what "sleeps" and by data_area_take(); no locks held. */
	void (*free)(void *host, void *p, size_t size);
	/**
	 * Frees the pages of blocks [first, first + n), from the top down, and returns of how many
	 * blocks (the highest) it did. It stops at a block whose pages it cannot have, which stays
	 * cached with all below. No locks of the core are held; the blocks are RELEASING: nobody
	 * takes them. When it returns nobody can reach the freed pages any more.
	 */
	u32 (*release)(void *area_host, u32 first, u32 n);
	/**
	 * Keeps the area from being destroyed until put(). False: it is about to be. hold() is
	 * called with locks held: it must not sleep nor call the core. put() is called with none.
	 */
	bool (*hold)(void *area_host);
	void (*put)(void *area_host);
	/*
	 * The rest only schedule work: they are called with locks held, must not sleep, and must
	 * not call the core.
	 */
	/**
	 * A take that returned -ENOSPC may succeed now, or waits no more because another of the
	 * area was served: try again.
	 */
	void (*wake)(void *area_host);
	/** Areas wait, or the limit was lowered, and there may be something to steal. */
	void (*serve_soon)(void *host);
	/** An area has grown above its reserve and data_budget_tick() is not going to be called. */
	void (*tick_soon)(void *host);
};

/* --- the budget --- */

struct data_budget_spec {
	const struct data_area_ops *ops; /* outlives the budget */
	void *host;			 /* handed to alloc, free, serve_soon, tick_soon */
	u64 limit;			 /* pages; 0: none */
};

/** Sleeps. -ENOMEM. */
int data_budget_create(const struct data_budget_spec *spec, struct data_budget **ret_b);
/** No area may be left. NULL is fine. */
void data_budget_destroy(struct data_budget *b);
/**
 * Changes the limit; 0: none. -EINVAL: the areas' reserves alone are more; nothing changed. What is
 * above a lower limit leaves as it becomes free (serve_soon is called); until then nobody grows.
 */
int data_budget_set_limit(struct data_budget *b, u64 pages);
/**
 * Steals for those who wait, and what is above the limit, until they are served or nothing is left
 * to steal. Sleeps. Any number of threads may.
 */
void data_budget_serve(struct data_budget *b);
/**
 * Has every area give back what it has not needed lately: one that was not used for its idle time
 * goes down to its reserve; a busy one keeps as much as it needed at once in its last window of
 * that length, or half of what it kept before, whichever is more. Returns after how many
 * milliseconds it wants to be called again; 0: not before ops->tick_soon. Sleeps. One thread at a
 * time.
 */
u64 data_budget_tick(struct data_budget *b, u64 now);
/** At most so many pages data_budget_shrink() can free: what areas have above their reserves. */
u64 data_budget_shrinkable(struct data_budget *b);
/**
 * Memory is short: frees cached pages, those of the areas used least recently first, until @pages
 * are free or none is left above the reserves. Returns how many. Sleeps.
 */
u64 data_budget_shrink(struct data_budget *b, u64 pages);

struct data_budget_stats {
	u64 limit, charged, reserved; /* pages; charged has the reserves in it */
	u64 charged_high;	      /* the most that ever was charged */
	u64 areas, waiting;
};
void data_budget_stats(struct data_budget *b, struct data_budget_stats *ret_stats);

/* --- an area --- */

struct data_area_spec {
	u32 max_blocks;	     /* 1 .. DATA_AREA_BLOCKS_MAX: its address space */
	u32 pages_per_block; /* >= 1 */
	u32 reserve;	     /* blocks, <= max_blocks */
	u32 idle_ms;	     /* 0: it never shrinks for being idle */
};
#define DATA_AREA_BLOCKS_MAX (1u << 24)

/**
 * Makes an area of empty blocks. @host is handed to release, hold, put and wake; its hold() may be
 * called from now on. Sleeps. -EINVAL; -ENOMEM; -ENOSPC: the reserves of all areas would be above
 * the limit (a smaller one may fit). When only what others have above their reserves is in the way,
 * the area is made, and waits: its takes return -ENOSPC until ops->wake.
 */
int data_area_create(struct data_budget *b, const struct data_area_spec *spec, void *host,
		     struct data_area **ret_a);
/**
 * Forgets the area with all its blocks, whose pages the host frees itself. Nobody else uses or
 * holds it. NULL is fine.
 */
void data_area_destroy(struct data_area *a);
/** As in the spec. */
void data_area_set_idle(struct data_area *a, u32 idle_ms);

/**
 * Takes @n blocks, all or none: blocks[0..*ret_reused) have pages, with whatever they last held;
 * blocks[*ret_reused..n) have none, and the budget is charged for them. Each part ascends. Sleeps
 * in ops->alloc only, and rarely: when it is the first to use a part of the area, and never for
 * what the reserve covers.
 * -E2BIG: more than the area or the limit can ever give. -ENOMEM: no memory for records.
 * -ENOSPC: the area is full, or the budget is and nothing was free; ops->wake tells when to try
 * again. Who does not mean to calls data_area_stop_waiting(), else what was granted stays with it.
 */
int data_area_take(struct data_area *a, u32 n, u64 now, u32 *blocks, u32 *ret_reused);
/** Blocks that were taken, with their pages in place, are free for reuse. */
void data_area_put(struct data_area *a, const u32 *blocks, u32 n);
/** Blocks that were taken and have no pages, because the host got none, are empty again. */
void data_area_cancel(struct data_area *a, const u32 *blocks, u32 n);
/** Nobody waits for this area any more: leaves the queue, and what was granted goes to the next. */
void data_area_stop_waiting(struct data_area *a);
/** Releases the cached blocks, all above @keep resident ones. Sleeps. Returns the pages freed. */
u64 data_area_shrink(struct data_area *a, u32 keep);

enum data_area_state { DATA_AREA_EMPTY, DATA_AREA_CACHED, DATA_AREA_BUSY, DATA_AREA_RELEASING };
/** Of one block, at some moment; for tests and debugging. */
enum data_area_state data_area_state(struct data_area *a, u32 block);

/** Where @block begins, in pages: 64 bits, since an area may be larger than 4 GiB. */
static inline u64 data_area_page(u32 block, u32 pages_per_block)
{
	return (u64)block * pages_per_block;
}

/* One table makes struct data_area_stats and its export. */
#define DATA_AREA_COUNTERS(X)                                                      \
	X(takes, "requests for blocks that were served")                           \
	X(blocks_reused, "blocks taken that had their pages")                      \
	X(blocks_grown, "blocks taken that needed pages")                          \
	X(full_area, "requests that found the area's address space used up")       \
	X(full_budget, "requests that found the budget used up")                   \
	X(shrinks_idle, "times that blocks were released for not being used")      \
	X(shrinks_pressure, "times that blocks were released for want of memory")  \
	X(shrinks_limit, "times that blocks were released for a lowered limit")    \
	X(shrinks_steal, "times that blocks were released for another area")       \
	X(shrinks_asked, "times that blocks were released because the host asked") \
	X(release_failed, "times that the host could not free a block")            \
	X(pages_returned, "pages given back, for all causes")

struct data_area_stats {
#define X(name, help) u64 name;
	DATA_AREA_COUNTERS(X)
#undef X
	u32 busy, cached, releasing; /* blocks, now */
	u32 high_water;		     /* most blocks that ever were busy at once */
	u32 resident_high;	     /* most blocks that ever had pages */
	u32 reserve;
	u64 meta_bytes; /* of records that are the area's own */
};
void data_area_stats(struct data_area *a, struct data_area_stats *ret_stats);
