/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/port/port_slots.h"

#include <string.h>

void port_slots_init(struct port_slots *s)
{
	memset(s, 0, sizeof(*s));
	atomic_init(&s->free, PORT_SLOTS_ALL);
	mutex_init(&s->lock, LOCK_RANK_LEAF);
	pthread_cond_init(&s->freed, NULL);
}

void port_slots_destroy(struct port_slots *s)
{
	pthread_cond_destroy(&s->freed);
	mutex_destroy(&s->lock);
}

int port_slots_try_lowest(struct port_slots *s)
{
	uint64_t free = atomic_load(&s->free);

	while (free) {
		uint64_t bit = free & -free;

		if (atomic_compare_exchange_weak(&s->free, &free, free & ~bit))
			return __builtin_ctzll(bit);
	}
	return -1;
}

uint32_t port_slots_take(struct port_slots *s)
{
	int tag = port_slots_try_lowest(s);

	if (tag >= 0)
		return (uint32_t)tag;
	mutex_scope(&s->lock);
	/* Who frees a slot looks at `waiters` afterwards, we look for a slot after counting. */
	atomic_fetch_add(&s->waiters, 1);
	while ((tag = port_slots_try_lowest(s)) < 0)
		mutex_wait(&s->lock, &s->freed);
	atomic_fetch_sub(&s->waiters, 1);
	return (uint32_t)tag;
}

bool port_slots_try(struct port_slots *s, uint32_t tag)
{
	uint64_t free = atomic_load(&s->free);

	while (free & 1ull << tag) {
		if (atomic_compare_exchange_weak(&s->free, &free, free & ~(1ull << tag)))
			return true;
	}
	return false;
}

bool port_slots_try_all(struct port_slots *s)
{
	uint64_t all = PORT_SLOTS_ALL;

	return atomic_compare_exchange_strong(&s->free, &all, 0);
}

static void put_mask(struct port_slots *s, uint64_t mask)
{
	atomic_fetch_or(&s->free, mask);
	if (atomic_load(&s->waiters)) {
		mutex_scope(&s->lock);
		pthread_cond_broadcast(&s->freed);
	}
}

void port_slots_put(struct port_slots *s, uint32_t tag)
{
	put_mask(s, 1ull << tag);
}

void port_slots_put_all(struct port_slots *s)
{
	put_mask(s, PORT_SLOTS_ALL);
}

void port_slots_wait_all(struct port_slots *s)
{
	mutex_scope(&s->lock);
	atomic_fetch_add(&s->waiters, 1);
	while (!port_slots_try_all(s))
		mutex_wait(&s->lock, &s->freed);
	atomic_fetch_sub(&s->waiters, 1);
}

void port_slots_touch(struct port_slots *s, uint32_t tag, uint32_t bytes)
{
	if (s->touched[tag] < bytes)
		s->touched[tag] = bytes;
	s->last_tick[tag] = atomic_load_explicit(&s->tick, memory_order_relaxed);
}
