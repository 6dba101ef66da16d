/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The world of kmod/core in the kernel: see core_port.h. Every class of lock is a lockdep class. */
#ifndef CORE_PORT_HOST_H
#define CORE_PORT_HOST_H

#include <linux/atomic.h>
#include <linux/bug.h>
#include <linux/errno.h>
#include <linux/lockdep.h>
#include <linux/spinlock.h>
#include <linux/stddef.h>
#include <linux/string.h>
#include <linux/types.h>

struct core_lock {
	spinlock_t spin;
};

#define core_lock_init(lock, class) spin_lock_init(&(lock)->spin)
#define core_lock_destroy(lock)	    ((void)(lock))
#define core_lock(lock)		    spin_lock(&(lock)->spin)
#define core_unlock(lock)	    spin_unlock(&(lock)->spin)
#define core_assert_held(lock)	    lockdep_assert_held(&(lock)->spin)
#define CORE_BUG_ON(condition)	    WARN_ON_ONCE(condition)

struct core_atomic {
	atomic64_t v;
};

static inline void core_atomic_set(struct core_atomic *a, u64 v)
{
	atomic64_set(&a->v, v);
}

static inline u64 core_atomic_read(const struct core_atomic *a)
{
	return atomic64_read(&a->v);
}

static inline u64 core_atomic_read_acquire(const struct core_atomic *a)
{
	return atomic64_read_acquire(&a->v);
}

static inline u64 core_atomic_add(struct core_atomic *a, u64 n)
{
	return atomic64_add_return_relaxed(n, &a->v);
}

static inline u64 core_atomic_sub(struct core_atomic *a, u64 n)
{
	return atomic64_sub_return_relaxed(n, &a->v);
}

static inline u64 core_atomic_sub_release(struct core_atomic *a, u64 n)
{
	return atomic64_sub_return(n, &a->v);
}

static inline bool core_atomic_cas(struct core_atomic *a, u64 old, u64 val)
{
	return atomic64_cmpxchg(&a->v, old, val) == (s64)old;
}

#endif
