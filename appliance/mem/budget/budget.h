/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One byte budget over every pool of memory: a floor, a ceiling, and a target between them that
 * follows what the host can spare. See docs/budget.md.
 *
 * A controller thread sleeps until the kernel tells of memory pressure (a PSI trigger on the
 * cgroup's memory.pressure or on /proc/pressure/memory), the cgroup's memory.high or limit comes
 * near, or a pool has lost pages to the kernel; then it lowers the target at once and lets pools
 * shrink in the order of what it costs to rebuild them. While nothing presses it raises the target
 * slowly, and when the target is the ceiling it sleeps for good: idle means no wake-ups.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metric.h"
#include "base/reason.h"

#define BUDGET_POOLS_MAX 32

struct budget;

/** What a pool holds now, bytes. */
struct budget_use {
	uint64_t bytes;	      /* held: of pages that may be volatile, what is believed resident */
	uint64_t reclaimable; /* of them: could be given back right now */
	uint64_t loose;	      /* of the reclaimable: volatile, the kernel takes them by itself */
	uint64_t wired;	      /* of them: neither volatile nor reclaimable */
};

struct budget_pool_ops {
	/** Any thread; cheap. */
	void (*use)(void *pool, struct budget_use *ret_use);
	/**
	 * From now on the pool may hold @bytes. Shrinks to it before it returns, as far as it can
	 * on the calling thread (a pool that belongs to other threads sends them a message), and
	 * returns the bytes given back. NULL: the pool takes what it needs and gives back by
	 * itself; it is only accounted.
	 */
	uint64_t (*set_target)(void *pool, uint64_t bytes);
	/**
	 * Looks for pages that the kernel took; returns their bytes. NULL: it cannot take any.
	 * Called while memory is short, and before the target is raised.
	 */
	uint64_t (*settle)(void *pool);
	/**
	 * Told before targets are set: whether the pool's is what it has at the ceiling. Only then
	 * may it hold what another pool lends it, and that in the other's account. NULL: no matter.
	 */
	void (*whole)(void *pool, bool whole);
};

/** What a pool costs to rebuild: pools of a lower rank shrink first. */
enum budget_rank {
	BUDGET_SPARE,	/* free buffers kept for reuse */
	BUDGET_CACHE,	/* cached pages: one read each */
	BUDGET_TMEM,	/* compressed pages: several pages in the memory of one */
	BUDGET_WORKING, /* in use: never shrunk, only accounted */
};

struct budget_pool_spec {
	const char *name; /* of the metrics' label; copied */
	const struct budget_pool_ops *ops;
	void *pool;
	enum budget_rank rank;
	uint32_t share; /* of what is to be shared out among pools of shares, relative */
	uint64_t floor; /* bytes that it is never shrunk below */
	uint64_t max;	/* bytes that it could use; what is above goes to others; 0: any number */
};
struct budget_pool;

struct budget_spec {
	uint64_t floor, ceiling; /* bytes; 0 < floor <= ceiling */
	const char *proc;	 /* where /proc is, for tests; NULL: "/proc" */
	const char *cgroup;	 /* directory of the cgroup to watch; NULL: the process's own */
	/*
	 * Where pressure is told of; NULL: the cgroup's memory.pressure, else the host's. A FIFO or
	 * what else can be read is no trigger: each time there is something to read, memory is
	 * short (systemd's MEMORY_PRESSURE_WATCH has such).
	 */
	const char *psi;
	unsigned regrow_ms; /* from floor to ceiling at least this long; 0: 60,000 */
};

/**
 * Sane defaults for this machine and cgroup: what `memory:` means when nothing is declared. The
 * ceiling is half of what the host or the cgroup has, the floor 64 MiB; everything else is 0.
 */
void budget_defaults(struct budget_spec *ret_spec);
/** The narrowest place that we live in. */
struct budget_room {
	uint64_t size, available; /* bytes; available: without swapping */
	bool cgroup;		  /* a control group's limit; else the host's memory */
};
/** Looks, with @proc and @cgroup as in struct budget_spec. Nothing to be seen: UINT64_MAX bytes. */
void budget_look(const char *proc, const char *cgroup, struct budget_room *ret_room);
/** Starts the controller. -EINVAL, -ENOMEM, -EAGAIN. No PSI is no error: budget_stats says so. */
int budget_create(const struct budget_spec *spec, struct budget **ret_b, struct reason *why);
/** All pools are removed. Joins the controller. NULL is fine. */
void budget_destroy(struct budget *b);
/** Changes floor and ceiling while running; shrinks at once when it must. -EINVAL. */
int budget_set(struct budget *b, uint64_t floor, uint64_t ceiling, struct reason *why);

/** -ENOMEM, also for more than BUDGET_POOLS_MAX. The pool gets its first target before this
 * returns. */
int budget_add(struct budget *b, const struct budget_pool_spec *spec, struct budget_pool **ret_p);
/** After return its ops are not running and will not be called. NULL is fine. */
void budget_remove(struct budget_pool *p);

/**
 * Sets aside @bytes of wired memory that a LUN or a connection may come to need, out of the floor.
 * -ENOSPC: the floor would not cover what is promised already; refuse the newcomer.
 */
int budget_reserve(struct budget *b, uint64_t bytes, const char *what, struct reason *why);
void budget_release(struct budget *b, uint64_t bytes);
/**
 * Gives at least @bytes back now, if the pools' floors allow, as if memory were short: the target
 * falls and grows again later. Returns what was given back.
 */
uint64_t budget_shrink(struct budget *b, uint64_t bytes);

#define BUDGET_CAUSES_TABLE(X)                                  \
	X(PSI, "psi", "the kernel told of pressure")            \
	X(CGROUP, "cgroup", "a cgroup is near its limit")       \
	X(HOST, "host", "the host has little memory available") \
	X(LOSS, "loss", "the kernel had taken pages by itself") \
	X(COMMAND, "command", "the budget was changed by command")

enum budget_cause {
#define X(id, name, help) BUDGET_CAUSE_##id,
	BUDGET_CAUSES_TABLE(X)
#undef X
		BUDGET_CAUSES
};
const char *budget_cause_name(enum budget_cause cause);

#define BUDGET_STATES(X)                                               \
	X(STEADY, "steady", "the target is the ceiling")               \
	X(PRESSED, "pressed", "memory is short: looks often")          \
	X(RESTING, "resting", "no longer short: waits before growing") \
	X(GROWING, "growing", "raises the target step by step")

enum budget_state {
#define X(id, name, help) BUDGET_##id,
	BUDGET_STATES(X)
#undef X
};
const char *budget_state_name(enum budget_state state);

struct budget_pool_stats {
	char name[32];
	struct budget_use use;
	uint64_t target, floor;
	uint64_t returned;	   /* bytes given back on demand, ever */
	uint64_t purged_pages;	   /* pages that the kernel took, ever */
	struct metric_hist shrink; /* how long its shrinks took */
	enum budget_rank rank;
};
struct budget_stats {
	uint64_t floor, ceiling, target; /* bytes */
	uint64_t held, reclaimable, reserved;
	uint64_t limit, available;	 /* of the cgroup and the host; UINT64_MAX: unknown */
	uint64_t shrinks[BUDGET_CAUSES]; /* by cause */
	uint64_t looks;			 /* times that the controller woke up, ever */
	enum budget_state state;
	uint64_t returned;	 /* bytes, ever */
	uint64_t last_shrink_ns; /* CLOCK_MONOTONIC; 0: never */
	uint64_t last_shrink_bytes;
	char source[96]; /* what is watched, or why nothing is */
};
void budget_stats(struct budget *b, struct budget_stats *ret_stats);
/** Fills up to @n of @ret_pools, in the order of their ranks; returns how many there are. */
size_t budget_pools(struct budget *b, struct budget_pool_stats *ret_pools, size_t n);
