// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The calls on one area. Each takes the area's lock once, for bit operations and sums; the budget's
 * lock is taken inside it only when the number of resident blocks changes across the reserve or
 * above it, so a device that reuses its blocks touches nothing that is shared.
 *
 * Releasing is in three steps, so that no lock is held while pages are unmapped and freed: the run
 * becomes RELEASING, the host frees it, it becomes EMPTY and only then is the budget credited. What
 * is charged is therefore never less than what is resident.
 *
 * The idle policy. The pages an area keeps should be what it is going to need soon. That is guessed
 * from windows of idle_ms: at the end of one the area may keep the most blocks that were busy at
 * once in it, but at least half of what it was allowed before, so that one quiet window costs a
 * bursty device at most half of its pages. An area that was not used at all for as long is idle and
 * goes down to its reserve at once.
 */
#include "data_area_private.h"

/* Released at a time, or one block: bounds how long they are out of use. */
#define RUN_PAGES 4096u

static u64 elapsed(u64 now, u64 then)
{
	return now > then ? now - then : 0; /* threads' clocks may be read in another order */
}

static u32 larger(u32 a, u32 b)
{
	return a > b ? a : b;
}

static u32 smaller(u32 a, u32 b)
{
	return a < b ? a : b;
}

static void count(struct data_area *a, enum counter n, u64 by)
{
	a->counters[n] += by;
}

/* --- life --- */

/* Makes leaf @index if nobody has made it meanwhile. */
static int add_leaf(struct data_area *a, u32 index)
{
	struct data_budget *b = a->budget;
	struct map_leaf *leaf = b->ops->alloc(b->host, sizeof(*leaf));
	bool installed;

	if (!leaf)
		return -ENOMEM;
	core_lock(&a->lock);
	installed = map_install_leaf(&a->map, index, leaf);
	a->leaves += installed;
	core_unlock(&a->lock);
	if (!installed)
		b->ops->free(b->host, leaf, sizeof(*leaf));
	return 0;
}

static void free_area(struct data_area *a)
{
	struct data_budget *b = a->budget;

	for (u32 i = 0; i < a->map.n_nodes; i++) {
		if (a->map.nodes[i].leaf)
			b->ops->free(b->host, a->map.nodes[i].leaf, sizeof(struct map_leaf));
	}
	core_lock_destroy(&a->lock);
	b->ops->free(b->host, a, a->size);
}

int data_area_create(struct data_budget *b, const struct data_area_spec *spec, void *host,
		     struct data_area **ret_a)
{
	struct data_area *a;
	size_t size;
	int r = 0;

	if (!spec->max_blocks || spec->max_blocks > DATA_AREA_BLOCKS_MAX ||
	    !spec->pages_per_block || spec->reserve > spec->max_blocks)
		return -EINVAL;
	size = sizeof(*a) + map_size(spec->max_blocks);
	a = b->ops->alloc(b->host, size);
	if (!a)
		return -ENOMEM;
	a->budget = b;
	a->host = host;
	a->max_blocks = spec->max_blocks;
	a->pages_per_block = spec->pages_per_block;
	a->reserve = spec->reserve;
	a->size = size;
	a->idle_ms = spec->idle_ms;
	a->keep = spec->reserve;
	a->place.area = a;
	core_lock_init(&a->lock, DATA_AREA);
	core_list_init(&a->place.link);
	core_list_init(&a->queue);
	map_init(&a->map, a->max_blocks, a->reserve, a + 1);
	for (u32 i = 0; i < a->map.n_fixed && !r; i++)
		r = add_leaf(a, i);
	if (!r)
		r = budget_join(b, a);
	if (r) {
		free_area(a);
		return r;
	}
	*ret_a = a;
	return 0;
}

void data_area_destroy(struct data_area *a)
{
	if (!a)
		return;
	budget_leave(a->budget, a);
	free_area(a);
}

/* --- taking and putting --- */

/*
 * A take was served. If one was not before, it may have been another, whose place in the queue, or
 * wake, this one has used up: that one asks again.
 */
static void end_waiting_locked(struct data_area *a)
{
	if (!a->queued && !a->full)
		return;
	if (a->queued)
		budget_forget(a);
	a->queued = a->full = false;
	a->budget->ops->wake(a->host);
}

/* A take was served. */
static void note_use_locked(struct data_area *a, u64 now)
{
	a->last_used = now > a->last_used ? now : a->last_used;
	a->window_high = larger(a->window_high, a->busy);
	a->high_water = larger(a->high_water, a->busy);
	a->resident_high = larger(a->resident_high, area_resident(a));
	if (area_resident(a) > a->reserve && elapsed(now, a->listed_at) >= LIST_STEP_MS) {
		a->listed_at = now;
		budget_touch(a);
	}
}

/* -EAGAIN: *ret_leaf has to be installed first. */
static int take_locked(struct data_area *a, u32 n, u64 now, u32 *blocks, u32 *ret_reused,
		       u32 *ret_leaf)
{
	u32 reused = smaller(n, a->cached), grow = n - reused;
	int r;

	core_assert_held(&a->lock);
	if (n > a->max_blocks)
		return -E2BIG;
	if (grow > a->max_blocks - area_resident(a)) {
		count(a, COUNTER_full_area, 1);
		a->full = true;
		return -ENOSPC;
	}
	*ret_leaf = map_missing_leaf(&a->map, grow);
	if (*ret_leaf != NOWHERE)
		return -EAGAIN;
	r = grow ? budget_charge(a, n, grow) : 0;
	if (r) {
		count(a, COUNTER_full_budget, 1);
		if (r == -ENOSPC)
			a->queued = true;
		return r;
	}
	map_take(&a->map, MAP_CACHED, reused, blocks);
	map_take(&a->map, MAP_EMPTY, grow, blocks + reused);
	a->cached -= reused;
	a->busy += n;
	count(a, COUNTER_takes, 1);
	count(a, COUNTER_blocks_reused, reused);
	count(a, COUNTER_blocks_grown, grow);
	end_waiting_locked(a);
	note_use_locked(a, now);
	*ret_reused = reused;
	return 0;
}

int data_area_take(struct data_area *a, u32 n, u64 now, u32 *blocks, u32 *ret_reused)
{
	u32 leaf;
	int r;

	for (;;) {
		core_lock(&a->lock);
		r = take_locked(a, n, now, blocks, ret_reused, &leaf);
		core_unlock(&a->lock);
		if (r != -EAGAIN)
			return r;
		r = add_leaf(a, leaf);
		if (r)
			return r;
	}
}

/* Blocks are free that were not. */
static void end_full_locked(struct data_area *a)
{
	if (!a->full)
		return;
	a->full = false;
	a->budget->ops->wake(a->host);
}

void data_area_put(struct data_area *a, const u32 *blocks, u32 n)
{
	struct data_budget *b = a->budget;

	core_lock(&a->lock);
	map_move(&a->map, blocks, n, DATA_AREA_BUSY, DATA_AREA_CACHED);
	a->busy -= n;
	a->cached += n;
	a->full |= a->queued; /* who waits for the budget needs less of it now */
	end_full_locked(a);
	if (core_atomic_read(&b->shortage) && area_resident(a) > a->reserve)
		b->ops->serve_soon(b->host);
	core_unlock(&a->lock);
}

void data_area_cancel(struct data_area *a, const u32 *blocks, u32 n)
{
	u32 before;

	core_lock(&a->lock);
	before = area_resident(a);
	map_move(&a->map, blocks, n, DATA_AREA_BUSY, DATA_AREA_EMPTY);
	a->busy -= n;
	budget_uncharge(a, before);
	end_full_locked(a);
	core_unlock(&a->lock);
}

void data_area_stop_waiting(struct data_area *a)
{
	core_lock(&a->lock);
	a->queued = a->full = false;
	budget_forget(a);
	core_unlock(&a->lock);
}

/* --- releasing --- */

/* The next run to release, RELEASING by now; n is 0 when there is nothing more. */
static struct map_run begin_release(struct data_area *a, u32 below, u32 max, u32 keep)
{
	struct map_run run = {0, 0};
	u32 stay;

	core_lock(&a->lock);
	stay = a->busy + a->cached;
	if (stay > keep) {
		max = smaller(smaller(max, stay - keep), larger(RUN_PAGES / a->pages_per_block, 1));
		run = map_highest_run(&a->map, below, max);
		map_move_run(&a->map, run, DATA_AREA_CACHED, DATA_AREA_RELEASING);
		a->cached -= run.n;
		a->releasing += run.n;
	}
	core_unlock(&a->lock);
	return run;
}

/* The upper @freed blocks of @run have no pages any more. */
static void end_release(struct data_area *a, struct map_run run, u32 freed)
{
	struct map_run kept = {run.first, run.n - freed}, gone = {run.first + kept.n, freed};
	struct data_budget *b = a->budget;
	struct map_leaf *leaf = NULL;
	u32 before;

	core_lock(&a->lock);
	before = area_resident(a);
	map_move_run(&a->map, kept, DATA_AREA_RELEASING, DATA_AREA_CACHED);
	map_move_run(&a->map, gone, DATA_AREA_RELEASING, DATA_AREA_EMPTY);
	a->releasing -= run.n;
	a->cached += kept.n;
	count(a, COUNTER_pages_returned, (u64)freed * a->pages_per_block);
	count(a, COUNTER_release_failed, !!kept.n);
	if (freed) {
		leaf = map_remove_leaf(&a->map, run.first);
		a->leaves -= !!leaf;
		budget_uncharge(a, before);
	}
	end_full_locked(a);
	core_unlock(&a->lock);
	if (leaf)
		b->ops->free(b->host, leaf, sizeof(*leaf));
}

u64 area_release(struct data_area *a, u32 max, u32 keep, enum counter cause)
{
	u32 below = a->max_blocks, left = max;

	while (left) {
		struct map_run run = begin_release(a, below, left, keep);
		u32 freed;

		if (!run.n)
			break;
		freed = a->budget->ops->release(a->host, run.first, run.n);
		CORE_BUG_ON(freed > run.n);
		end_release(a, run, freed);
		left -= freed;
		/* One that cannot be freed is not tried again in this round. */
		below = run.first + (run.n - freed) - (freed < run.n);
	}
	if (left == max)
		return 0;
	core_lock(&a->lock);
	count(a, cause, 1);
	core_unlock(&a->lock);
	return (u64)(max - left) * a->pages_per_block;
}

u64 data_area_shrink(struct data_area *a, u32 keep)
{
	return area_release(a, a->max_blocks, keep, COUNTER_shrinks_asked);
}

/* --- idleness --- */

void data_area_set_idle(struct data_area *a, u32 idle_ms)
{
	core_lock(&a->lock);
	a->idle_ms = idle_ms;
	budget_want_tick(a);
	core_unlock(&a->lock);
}

u64 area_tick(struct data_area *a, u64 now)
{
	u32 keep = a->max_blocks;
	u64 wait, idle, window;

	core_lock(&a->lock);
	wait = a->idle_ms;
	idle = elapsed(now, a->last_used);
	window = elapsed(now, a->window_start);
	if (wait && idle >= wait) {
		keep = a->reserve;
	} else if (wait && window >= wait) {
		keep = larger(larger(a->window_high, a->keep / 2), a->reserve);
		wait -= idle;
	} else if (wait) {
		wait -= larger((u32)idle, (u32)window);
	}
	if (keep < a->max_blocks) {
		a->keep = keep;
		a->window_start = now;
		a->window_high = a->busy;
	}
	core_unlock(&a->lock);
	area_release(a, a->max_blocks, keep, COUNTER_shrinks_idle);
	return wait;
}

/* --- looking --- */

enum data_area_state data_area_state(struct data_area *a, u32 block)
{
	enum data_area_state state;

	CORE_BUG_ON(block >= a->max_blocks);
	core_lock(&a->lock);
	state = map_state(&a->map, block);
	core_unlock(&a->lock);
	return state;
}

void data_area_stats(struct data_area *a, struct data_area_stats *ret_stats)
{
	core_lock(&a->lock);
	*ret_stats = (struct data_area_stats){
#define X(name, help) .name = a->counters[COUNTER_##name],
		DATA_AREA_COUNTERS(X)
#undef X
			.busy = a->busy,
		.cached = a->cached,
		.releasing = a->releasing,
		.high_water = a->high_water,
		.resident_high = a->resident_high,
		.reserve = a->reserve,
		.meta_bytes = a->size + a->leaves * sizeof(struct map_leaf),
	};
	core_unlock(&a->lock);
}
