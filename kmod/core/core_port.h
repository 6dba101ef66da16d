/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All that the pure cores below this folder ask of the world around them.
 *
 * The includer's search path decides which world that is: core_port_host.h is found in
 * kmod/core/user for the daemon, and in a module's own folder for the kernel. It provides
 *
 *	u8 u16 u32 u64 size_t bool, NULL, errno values, memcpy memset memcmp
 *	struct core_lock, core_lock_init(lock, CLASS), core_lock_destroy(lock),
 *	core_lock(lock), core_unlock(lock), core_assert_held(lock)
 *		short exclusive sections that never sleep: a spinlock, or a mutex where the
 *		caller may be preempted. CLASS names a rank (a lockdep class).
 *	struct core_atomic, a u64:
 *	core_atomic_set, core_atomic_read (relaxed),
 *	core_atomic_read_acquire,
 *	core_atomic_add, core_atomic_sub: relaxed, return the new value
 *	core_atomic_sub_release: as sub, ordered after all before it and, when it reaches 0,
 *		before all after it
 *	core_atomic_cas(a, old, new): full barrier; true if it was @old and is now @new
 *	CORE_BUG_ON(condition): a programmer's error; may compile to nothing
 *
 * The rest of this header is the same in all worlds.
 */
#pragma once

#include "core_port_host.h"

#define core_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* A circular list; an unlinked node points at itself. Callers lock. */
struct core_list {
	struct core_list *prev, *next;
};

static inline void core_list_init(struct core_list *n)
{
	n->prev = n->next = n;
}

static inline bool core_list_empty(const struct core_list *n)
{
	return n->next == n;
}

static inline void core_list_add_head(struct core_list *head, struct core_list *n)
{
	n->prev = head;
	n->next = head->next;
	head->next->prev = n;
	head->next = n;
}

/** Unlinks @n; harmless when it is not linked. */
static inline void core_list_del(struct core_list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	core_list_init(n);
}
