/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/port/port_slots.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "data_area/data_area.h"

/* --- the area's host --- */

static void *op_alloc(void *host, size_t size)
{
	(void)host;
	return calloc(1, size);
}

static void op_free(void *host, void *p, size_t size)
{
	(void)host;
	(void)size;
	free(p);
}

static u32 op_release(void *area_host, u32 first, u32 n)
{
	struct port_slots *s = area_host;

	s->punch(s->ctx, (uint64_t)first * PORT_SLOT_SIZE, (uint64_t)n * PORT_SLOT_SIZE);
	return n;
}

/* The area lives as long as who calls it. */
static bool op_hold(void *area_host)
{
	(void)area_host;
	return true;
}

/*
 * Nothing of this is needed: the keeper ticks anyway, and wakes those who wait when it has; the
 * budget has no limit.
 */
static void op_nothing(void *host)
{
	(void)host;
}

static const struct data_area_ops ops = {
	.alloc = op_alloc,
	.free = op_free,
	.release = op_release,
	.hold = op_hold,
	.put = op_nothing,
	.wake = op_nothing,
	.serve_soon = op_nothing,
	.tick_soon = op_nothing,
};

static u64 now_ms(void)
{
	return clock_now_ns() / NSEC_PER_MSEC;
}

int port_slots_init(struct port_slots *s, uint32_t idle_ms, port_punch *punch, void *ctx)
{
	struct data_budget_spec budget = {.ops = &ops};
	struct data_area_spec area = {
		.max_blocks = PORT_SLOTS,
		.pages_per_block = PORT_SLOT_SIZE / 4096,
		.idle_ms = idle_ms,
	};
	int err;

	*s = (struct port_slots){.punch = punch, .ctx = ctx, .more = true};
	err = data_budget_create(&budget, &s->budget);
	if (err)
		return err;
	err = data_area_create(s->budget, &area, s, &s->area);
	if (err) {
		data_budget_destroy(s->budget);
		s->budget = NULL;
		return err;
	}
	mutex_init(&s->lock, LOCK_RANK_PORT_SLOTS);
	pthread_cond_init(&s->freed, NULL);
	return 0;
}

void port_slots_destroy(struct port_slots *s)
{
	if (!s->area)
		return;
	data_area_destroy(s->area);
	data_budget_destroy(s->budget);
	pthread_cond_destroy(&s->freed);
	mutex_destroy(&s->lock);
	s->area = NULL;
}

/* --- taking and putting --- */

/** Returns the lowest slot of ours that nobody uses, taken, or -1. */
static int take_ready(struct port_slots *s)
{
	uint64_t free = atomic_load(&s->free);

	while (free) {
		uint64_t bit = free & -free;

		if (atomic_compare_exchange_weak(&s->free, &free, free & ~bit))
			return __builtin_ctzll(bit);
	}
	return -1;
}

/** As take_ready(), and if there is none, one from the area. */
static int take_locked(struct port_slots *s)
{
	int tag = take_ready(s);
	u32 slot, reused;

	if (tag >= 0)
		return tag;
	/* It can fail only because the area has no more: a small one allocates nothing. */
	if (s->closed || data_area_take(s->area, 1, now_ms(), &slot, &reused)) {
		atomic_store(&s->more, false);
		return -1;
	}
	s->ours |= 1ull << slot;
	return (int)slot;
}

uint32_t port_slots_take(struct port_slots *s)
{
	int tag = take_ready(s);

	if (tag >= 0)
		return (uint32_t)tag;
	mutex_scope(&s->lock);
	/* Who frees a slot looks at `waiters` afterwards, we look for a slot after counting. */
	atomic_fetch_add(&s->waiters, 1);
	while ((tag = take_locked(s)) < 0)
		mutex_wait(&s->lock, &s->freed);
	atomic_fetch_sub(&s->waiters, 1);
	return (uint32_t)tag;
}

int port_slots_try(struct port_slots *s)
{
	int tag = take_ready(s);

	if (tag >= 0 || !atomic_load(&s->more))
		return tag;
	mutex_scope(&s->lock);
	return take_locked(s);
}

bool port_slots_any(struct port_slots *s)
{
	return atomic_load(&s->free) || atomic_load(&s->more);
}

void port_slots_put(struct port_slots *s, uint32_t tag)
{
	atomic_fetch_or(&s->free, 1ull << tag);
	if (atomic_load(&s->waiters)) {
		mutex_scope(&s->lock);
		pthread_cond_broadcast(&s->freed);
	}
}

/* --- all slots --- */

/** While the lock is held nothing becomes ours: if all that is ours is free, nothing is in use. */
static bool close_locked(struct port_slots *s)
{
	uint64_t ours = s->ours;

	s->closed = atomic_compare_exchange_strong(&s->free, &ours, 0);
	return s->closed;
}

bool port_slots_try_all(struct port_slots *s)
{
	mutex_scope(&s->lock);
	return close_locked(s);
}

void port_slots_wait_all(struct port_slots *s)
{
	mutex_scope(&s->lock);
	atomic_fetch_add(&s->waiters, 1);
	while (!close_locked(s))
		mutex_wait(&s->lock, &s->freed);
	atomic_fetch_sub(&s->waiters, 1);
}

void port_slots_put_all(struct port_slots *s)
{
	mutex_scope(&s->lock);
	s->closed = false;
	atomic_store(&s->free, s->ours);
	atomic_store(&s->more, true);
	pthread_cond_broadcast(&s->freed);
}

/* --- pages --- */

/** The slots @mask are ours no more. */
static void give_back_locked(struct port_slots *s, uint64_t mask)
{
	u32 slots[PORT_SLOTS], n = 0;

	mutex_assert_held(&s->lock);
	s->ours &= ~mask;
	for (; mask; mask &= mask - 1)
		slots[n++] = (u32)__builtin_ctzll(mask);
	data_area_put(s->area, slots, n);
}

bool port_slots_trim(struct port_slots *s)
{
	struct data_area_stats st;

	data_budget_tick(s->budget, now_ms());
	mutex_scope(&s->lock);
	give_back_locked(s, atomic_exchange(&s->free, 0));
	atomic_store(&s->more, true);
	/* They may have waited for a slot that was being emptied, too. */
	pthread_cond_broadcast(&s->freed);
	data_area_stats(s->area, &st);
	return st.busy || st.cached;
}

void port_slots_forget(struct port_slots *s)
{
	mutex_lock(&s->lock);
	give_back_locked(s, s->ours);
	mutex_unlock(&s->lock);
	data_area_shrink(s->area, 0);
}

bool port_slots_pin(struct port_slots *s)
{
	mutex_lock(&s->lock);
	if (!s->closed)
		return true;
	mutex_unlock(&s->lock);
	return false;
}

void port_slots_unpin(struct port_slots *s)
{
	mutex_unlock(&s->lock);
}
