/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of data_area share. The theory stands at the heads of map.c and budget.c. */
#pragma once

#include "data_area.h"

#define WORD_BLOCKS  64u
#define LEAF_WORDS   64u
#define LEAF_BLOCKS  (LEAF_WORDS * WORD_BLOCKS)
#define NOWHERE	     (~0u)
#define LIST_STEP_MS 100u /* the list of areas is in order of use to this */

/* --- map.c: the state of every block of one area. All under the area's lock. --- */

/* The states of 4096 blocks, two bits each, in two planes. */
struct map_leaf {
	u64 kept[LEAF_WORDS]; /* CACHED, RELEASING */
	u64 held[LEAF_WORDS]; /* BUSY, RELEASING */
};

enum map_kind { MAP_CACHED, MAP_EMPTY, MAP_KINDS };

struct map_node {
	struct map_leaf *leaf; /* NULL: all its blocks are empty */
	u64 has[MAP_KINDS];    /* bit i: word i has such a block */
	u32 blocks, empty; /* blocks in all (less than LEAF_BLOCKS in the last leaf), and empty */
};

struct map {
	u32 n_nodes, n_fixed;	/* leaves [0, n_fixed) never go */
	u64 root[MAP_KINDS];	/* bit i: tops[i] is not zero */
	u64 (*tops)[MAP_KINDS]; /* bit i of tops[t]: node 64 t + i has such a block */
	struct map_node *nodes;
};

/* Blocks that lie side by side. */
struct map_run {
	u32 first, n;
};

/** Bytes of the tables of a map of @blocks. */
size_t map_size(u32 blocks);
/**
 * @tables: map_size() bytes of zeros that stay the caller's. All blocks are empty. Leaves
 * [0, n_fixed) are to be installed at once.
 */
void map_init(struct map *m, u32 blocks, u32 reserve, void *tables);
enum data_area_state map_state(const struct map *m, u32 block);
/**
 * A leaf that must be installed before the @n lowest empty blocks can be taken, or NOWHERE. There
 * are that many.
 */
u32 map_missing_leaf(const struct map *m, u32 n);
/** @leaf: zeroes. False: there is one by now. */
bool map_install_leaf(struct map *m, u32 index, struct map_leaf *leaf);
/** Removes and returns the leaf with @block if all its blocks are empty and it may go, or NULL. */
struct map_leaf *map_remove_leaf(struct map *m, u32 block);
/** The @n lowest blocks of @kind become busy; they exist, and their leaves. */
void map_take(struct map *m, enum map_kind kind, u32 n, u32 *blocks);
/** Any blocks that all are in state @from. */
void map_move(struct map *m, const u32 *blocks, u32 n, enum data_area_state from,
	      enum data_area_state to);
void map_move_run(struct map *m, struct map_run run, enum data_area_state from,
		  enum data_area_state to);
/** The highest run of cached blocks below @below, at most @max long; n is 0 if there is none. */
struct map_run map_highest_run(const struct map *m, u32 below, u32 max);

/* --- areas --- */

enum counter {
#define X(name, help) COUNTER_##name,
	DATA_AREA_COUNTERS(X)
#undef X
		N_COUNTERS
};

/* Who is on the budget's list: an area, or somebody who walks it and remembers where he is. */
struct list_place {
	struct core_list link;
	struct data_area *area; /* NULL: a walker */
};

struct data_area {
	/* constant */
	struct data_budget *budget;
	void *host;
	u32 max_blocks, pages_per_block, reserve;
	size_t size; /* of this record with the map's tables */

	struct core_lock lock;
	/* under lock */
	struct map map;
	u32 busy, cached, releasing; /* blocks; resident is their sum */
	u32 leaves;
	u32 idle_ms;
	u32 keep;	  /* what the last window let it keep */
	u32 window_high;  /* most blocks busy at once in this window */
	u64 window_start; /* ms */
	u64 last_used;	  /* ms */
	u64 listed_at;	  /* ms: its place in the budget's list is that of this moment */
	bool full;	  /* a take found no block */
	bool queued;	  /* a take found no room in the budget: it waits, or has a grant */
	u32 high_water, resident_high;
	u64 counters[N_COUNTERS];

	/* under the budget's lock */
	bool joined;		 /* its reserve has been charged; until then it waits for that */
	struct list_place place; /* linked exactly while resident > reserve */
	struct core_list queue;	 /* linked: it waits */
	u64 want;		 /* pages that the take it waits for needs */
	u64 total;		 /* pages it must be able to have for that */
	u64 grant;		 /* pages charged for that already */
	u64 turn; /* its number in the queue, until it has what it waited for; 0: none */
};

static inline u32 area_resident(const struct data_area *a)
{
	return a->busy + a->cached + a->releasing;
}

/** What an area with so many resident blocks is charged beyond its reserve: pages. */
static inline u64 area_excess(const struct data_area *a, u32 resident)
{
	return resident > a->reserve ? (u64)(resident - a->reserve) * a->pages_per_block : 0;
}

static inline u64 area_reserved(const struct data_area *a)
{
	return (u64)a->reserve * a->pages_per_block;
}

/**
 * Releases cached blocks, highest first: at most @max, and only while more than @keep blocks are
 * busy or cached. @cause: one of the shrinks_* counters. No locks held. Returns the pages freed.
 */
u64 area_release(struct data_area *a, u32 max, u32 keep, enum counter cause);
/** The idle policy. Returns after how many ms it wants to be asked again; 0: it does not. */
u64 area_tick(struct data_area *a, u64 now);

/* --- budget.c --- */

struct data_budget {
	/* constant */
	const struct data_area_ops *ops;
	void *host;

	struct core_atomic
		shortage; /* 1: areas wait, or the limit is exceeded; written under lock */
	struct core_lock lock;
	/* under lock */
	u64 limit;	  /* pages; ~0: none */
	u64 charged;	  /* pages: reserves, excesses and grants */
	u64 charged_high; /* the most it ever was */
	u64 reserved;	  /* pages: the reserves */
	u64 excess;	  /* pages: what areas have above them */
	u64 areas, listed, waiting;
	u64 turns;	 /* the last number given out in the queue */
	u64 tick_wait;	 /* ms, what data_budget_tick() asked for; 0: nobody is going to call */
	bool tick_asked; /* tick_soon() was called since the tick that runs began */
	struct core_list list;	/* of places, those used last first */
	struct core_list queue; /* of areas that wait: the longest at prev */
};

/** Charges the reserve of a new area, or queues for it. -ENOSPC: there can never be room. */
int budget_join(struct data_budget *b, struct data_area *a);
void budget_leave(struct data_budget *b, struct data_area *a);
/**
 * For the rest but budget_reclaim() the area's lock is held. budget_charge(): the area is to have
 * @grow more resident blocks for a take of @n. -ENOSPC: it waits. -E2BIG: it never can.
 */
int budget_charge(struct data_area *a, u32 n, u32 grow);
/** The area had @before resident blocks, more than now. */
void budget_uncharge(struct data_area *a, u32 before);
/** The area does not wait (any more); a grant goes to the next. */
void budget_forget(struct data_area *a);
/** The area is in use: its place is at the front. */
void budget_touch(struct data_area *a);
/** The area's idle time has changed. */
void budget_want_tick(struct data_area *a);
/** Frees cached pages above the reserves, @pages of them if there are. @cause: as above. */
u64 budget_reclaim(struct data_budget *b, u64 pages, enum counter cause);
