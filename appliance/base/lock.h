/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mutexes with ranks. A thread may take a lock only when its rank is higher than that of every lock
 * it holds; builds without NDEBUG check this at each lock and abort with both names, so that a
 * wrong order is found by the first test that walks the path, not by the deadlock. All ranks of
 * the appliance stand in one table below, outermost first. No lock is held across I/O.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#define LOCK_RANKS(X)                                                              \
	X(CONTROL, "control: declared configuration and the objects made from it") \
	X(BUDGET, "the memory budget's pools and targets")                         \
	X(REGISTRY, "tables of LUNs, targets, exports by name")                    \
	X(SCSI_TARGET, "a SCSI target: its LU map and its nexuses")                \
	X(SCSI_LU, "a logical unit: reservations, mode pages, unit attentions")    \
	X(FRONT, "a front's shared state")                                         \
	X(LUN_SLOW, "a LUN's slow state: size, holders, sessions")                 \
	X(LUN_RANGE, "a LUN's range lock table")                                   \
	X(STORE, "a backing store's own state")                                    \
	X(WORKER, "the worker pool's queue")                                       \
	X(TMEM_TABLE, "a tmem instance's clients and pools")                       \
	X(TMEM_SHARD, "the hash chains of a part of a tmem pool")                  \
	X(TMEM_OBJECT, "a tmem object's index; no two at once")                    \
	X(TMEM_LRU, "a tmem client's list of ephemeral pages")                     \
	X(TMEM_CLASS, "a size class of the store of compressed pages")             \
	X(VMEM_THREADS, "the threads that hold magazines of arenas")               \
	X(VMEM_DEPOT, "a quantum cache's depot of magazines")                      \
	X(VMEM_GROW, "the growth of a store of boundary tags")                     \
	X(VMEM_ARENA, "an arena's segments; no two at once")                       \
	X(VMEM_TAGS, "a store's list of free boundary tags")                       \
	X(PORT_SLOTS, "the slots of a port's client, when none is ready")          \
	X(DATA_AREA, "the blocks of a data area; no two at once")                  \
	X(DATA_BUDGET, "a budget of data areas: charges, queue, list")             \
	X(LEAF, "a short leaf lock that takes no other")                           \
	X(LOG, "the log's rate limiter")

enum lock_rank {
#define X(name, what) LOCK_RANK_##name,
	LOCK_RANKS(X)
#undef X
		LOCK_RANK_COUNT
};

struct mutex {
	pthread_mutex_t m;
	enum lock_rank rank;
};

#define MUTEX_INIT(rank)                        \
	{                                       \
		PTHREAD_MUTEX_INITIALIZER, rank \
	}

void mutex_init(struct mutex *m, enum lock_rank rank);
void mutex_destroy(struct mutex *m);
void mutex_lock(struct mutex *m);
/** Takes @m and returns true, or returns false at once when it is held by another thread. */
bool mutex_trylock(struct mutex *m);
void mutex_unlock(struct mutex *m);
/** Waits on @cond with @m held, as pthread_cond_wait(3). */
void mutex_wait(struct mutex *m, pthread_cond_t *cond);
/** Asserts that the calling thread holds @m (builds without NDEBUG). */
void mutex_assert_held(struct mutex *m);

static inline void cleanup_mutex_unlock(struct mutex **m)
{
	if (*m)
		mutex_unlock(*m);
}
/** Holds @m until the end of the scope. */
#define mutex_scope(mtx)                                                                          \
	struct mutex *scope_lock_ __attribute__((cleanup(cleanup_mutex_unlock), unused)) = (mtx); \
	mutex_lock(scope_lock_)
