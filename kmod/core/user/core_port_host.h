/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The world of kmod/core in the daemon: see core_port.h. Locks have the appliance's ranks. */
#pragma once

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/lock.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

struct core_lock {
	struct mutex m;
};

#define core_lock_init(lock, class) mutex_init(&(lock)->m, LOCK_RANK_##class)
#define core_lock_destroy(lock)	    mutex_destroy(&(lock)->m)
#define core_lock(lock)		    mutex_lock(&(lock)->m)
#define core_unlock(lock)	    mutex_unlock(&(lock)->m)
#define core_assert_held(lock)	    mutex_assert_held(&(lock)->m)
#ifdef NDEBUG
#define CORE_BUG_ON(condition) ((void)sizeof(condition)) /* compiled, not run */
#else
#define CORE_BUG_ON(condition) assert(!(condition))
#endif

struct core_atomic {
	u64 v;
};

static inline void core_atomic_set(struct core_atomic *a, u64 v)
{
	__atomic_store_n(&a->v, v, __ATOMIC_RELAXED);
}

static inline u64 core_atomic_read(const struct core_atomic *a)
{
	return __atomic_load_n(&a->v, __ATOMIC_RELAXED);
}

static inline u64 core_atomic_read_acquire(const struct core_atomic *a)
{
	return __atomic_load_n(&a->v, __ATOMIC_ACQUIRE);
}

static inline u64 core_atomic_add(struct core_atomic *a, u64 n)
{
	return __atomic_add_fetch(&a->v, n, __ATOMIC_RELAXED);
}

static inline u64 core_atomic_sub(struct core_atomic *a, u64 n)
{
	return __atomic_sub_fetch(&a->v, n, __ATOMIC_RELAXED);
}

static inline u64 core_atomic_sub_release(struct core_atomic *a, u64 n)
{
	return __atomic_sub_fetch(&a->v, n, __ATOMIC_ACQ_REL);
}

static inline bool core_atomic_cas(struct core_atomic *a, u64 old, u64 val)
{
	return __atomic_compare_exchange_n(&a->v, &old, val, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}
