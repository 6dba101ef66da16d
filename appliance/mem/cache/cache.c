/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cache as a whole: its tables, its objects, its size.
 *
 * All wired memory is one span of addresses, cut into the shards' tables; the system backs it as it
 * is used, so a large maximum costs nothing before pages come. Frames are another span, taken as
 * volatile addresses. Of max / 4 KiB frames each shard has the same number and, of the target, the
 * same part.
 *
 * An entry is 16 bytes, an eighth as many are for zeros, a slot for each in lines filled to 4/5,
 * and 9/10 of a ghost: 28 bytes a page.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/cache/cache_private.h"

#define SHARD_FRAMES_MIN 16384u /* of a shard that is not asked for */
#define SHARDS_MAX	 1024u
#define ZERO_PART	 8u
#define LINE_LOAD	 12u /* of LINE_SLOTS */
#define WEIGHT_DEFAULT	 100u

/* --- tables --- */

static uint64_t whole_lines(uint64_t bytes)
{
	return (bytes + 63) & ~63ull;
}
static uint64_t whole_pages(uint64_t bytes)
{
	return (bytes + CACHE_PAGE - 1) & ~(uint64_t)(CACHE_PAGE - 1);
}

/* Cuts @bytes of whole lines off the span; while it is only measured, *@at is an offset. */
static void *carve(uint64_t *at, uint64_t bytes)
{
	void *p = (void *)*at;

	*at += whole_lines(bytes);
	return p;
}

static void shard_carve(struct shard *s, uint64_t *at)
{
	s->entry = carve(at, (uint64_t)(s->frames + s->zeros) * sizeof(struct entry));
	s->line = carve(at, (uint64_t)s->lines * sizeof(struct line));
	s->ghost = carve(at, (uint64_t)s->ghost_buckets * GHOST_WAYS * sizeof(uint32_t));
	s->cell = carve(at, CELLS * sizeof(struct cell));
}

static void shard_init(struct cache *c, struct shard *s, uint32_t first, uint32_t frames)
{
	mutex_init(&s->lock, LOCK_RANK_LEAF);
	s->c = c;
	s->first = first;
	s->frames = frames;
	s->zeros = frames / ZERO_PART + 1;
	s->lines = (frames + s->zeros) / LINE_LOAD + 1;
	s->ghost_buckets = frames / 10 * 9 / GHOST_WAYS + 1;
	s->slot_mask = UINT32_MAX >> __builtin_clz(frames + s->zeros);
	s->fresh_zero = frames;
	for (unsigned q = 0; q < QUEUES; q++)
		s->queue[q] = (struct queue){.head = NO_ENTRY, .tail = NO_ENTRY};
}

static unsigned choose_shards(const struct cache_spec *spec, uint64_t frames)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n = 1;

	if (spec->shards)
		return spec->shards;
	while (n < 4 * cpus && n < SHARDS_MAX && frames / (2 * n) >= SHARD_FRAMES_MIN)
		n *= 2;
	/* Entries have numbers of 24 bits. */
	while (n < SHARDS_MAX && frames / n > SHARD_ENTRIES / 4 * 3)
		n *= 2;
	return n;
}

static int make_shards(struct cache *c, uint64_t frames)
{
	uint64_t per = (frames + c->n_shards - 1) / c->n_shards, at = 0;
	int ret;

	if (per > SHARD_ENTRIES / 4 * 3 || per * c->n_shards > VOLATILE_PAGES_MAX)
		return -EINVAL;
	c->shards = aligned_alloc(64, c->n_shards * sizeof(struct shard));
	if (!c->shards)
		return -ENOMEM;
	c->frames = per * c->n_shards;
	for (unsigned k = 0; k < c->n_shards; k++) {
		c->shards[k] = (struct shard){0};
		shard_init(c, &c->shards[k], (uint32_t)(k * per), (uint32_t)per);
		shard_carve(&c->shards[k], &at);
	}
	c->tables_size = whole_pages(at);
	ret = vmem_alloc(address_space_arena(c->as), c->tables_size, 0, &c->tables_addr);
	if (ret) {
		c->tables_addr = 0;
		return ret;
	}
	at = c->tables_addr;
	for (unsigned k = 0; k < c->n_shards; k++)
		shard_carve(&c->shards[k], &at);
	return address_back(c->tables_addr, c->tables_size);
}

static int make_frames(struct cache *c)
{
	int ret;

	c->frames_size = c->frames * CACHE_PAGE;
	ret = vmem_alloc(address_space_volatile(c->as), c->frames_size, 0, &c->frames_addr);
	if (ret) {
		c->frames_addr = 0;
		return ret;
	}
	return volatile_create(
		&(struct volatile_spec){
			.base = (void *)c->frames_addr,
			.pages = (uint32_t)c->frames,
		},
		&c->range);
}

int cache_create(const struct cache_spec *spec, struct cache **ret_c)
{
	uint64_t frames = spec->max / CACHE_PAGE;
	struct cache *c;
	int ret;

	if (!frames || spec->target > spec->max || spec->shards > SHARDS_MAX ||
	    (spec->shards & (spec->shards - 1)))
		return -EINVAL;
	c = aligned_alloc(64, whole_lines(sizeof(*c)));
	if (!c)
		return -ENOMEM;
	*c = (struct cache){.as = spec->as};
	if (spec->tmem)
		c->tmem = tmem_host_instance(spec->tmem);
	mutex_init(&c->objects_lock, LOCK_RANK_LEAF);
	c->n_shards = choose_shards(spec, frames);
	ret = make_shards(c, frames);
	if (!ret)
		ret = make_frames(c);
	if (ret) {
		cache_destroy(c);
		return ret;
	}
	cache_set_target(c, spec->target ? spec->target : spec->max, false);
	*ret_c = c;
	return 0;
}

void cache_destroy(struct cache *c)
{
	if (!c)
		return;
	volatile_destroy(c->range);
	if (c->frames_addr)
		vmem_free(address_space_volatile(c->as), c->frames_addr, c->frames_size);
	if (c->tables_addr) {
		address_unback(c->tables_addr, c->tables_size);
		vmem_free(address_space_arena(c->as), c->tables_addr, c->tables_size);
	}
	for (unsigned k = 0; c->shards && k < c->n_shards; k++)
		mutex_destroy(&c->shards[k].lock);
	free(c->shards);
	mutex_destroy(&c->objects_lock);
	free(c);
}

struct place place_of(const struct cache_object *o, uint64_t page)
{
	const struct cache *c = o->c;
	uint64_t region = key_mix(~key_make(o->id, page >> REGION_SHIFT));
	struct shard *s = &c->shards[region & (c->n_shards - 1)];
	uint64_t key = key_make(o->id, page);

	return (struct place){
		.s = s,
		.cell = &s->cell[region >> 32 & (CELLS - 1)],
		.key = key,
		.hash = key_mix(key),
	};
}

/* --- objects --- */

static int object_enter_tmem(struct cache_object *o, const struct cache_object_spec *spec)
{
	int ret;

	if (!o->c->tmem)
		return 0;
	ret = tmem_client_create(o->c->tmem, spec->name, o->weight, 0, &o->client);
	if (ret)
		return ret;
	ret = tmem_pool_new(o->client, 0, NULL, &o->pool);
	if (ret) {
		tmem_client_destroy(o->client);
		o->client = NULL;
	}
	return ret;
}

static int object_enter_table(struct cache_object *o)
{
	struct cache *c = o->c;

	mutex_scope(&c->objects_lock);
	for (uint32_t id = 1; id < OBJECTS_MAX; id++) {
		if (c->objects[id])
			continue;
		o->id = id;
		c->objects[id] = o;
		return 0;
	}
	return -ENOSPC;
}

int cache_object_create(struct cache *c, const struct cache_object_spec *spec,
			struct cache_object **ret_o)
{
	struct cache_object *o = aligned_alloc(64, whole_lines(sizeof(*o)));
	int ret;

	if (!o)
		return -ENOMEM;
	*o = (struct cache_object){
		.c = c,
		.weight = spec->weight ? spec->weight : WEIGHT_DEFAULT,
		.floor = spec->floor / CACHE_PAGE,
	};
	ret = object_enter_tmem(o, spec);
	if (!ret) {
		ret = object_enter_table(o);
		if (ret)
			tmem_client_destroy(o->client);
	}
	if (ret) {
		free(o);
		return ret;
	}
	*ret_o = o;
	return 0;
}

void cache_object_destroy(struct cache_object *o)
{
	struct cache_write w;
	struct cache *c;

	if (!o)
		return;
	c = o->c;
	cache_write_begin(o, &w, 0, UINT64_MAX);
	/* Others' fills may have evicted pages of ours that are on their way to tmem. */
	while (atomic_load_explicit(&o->puts_done, memory_order_acquire) !=
	       atomic_load_explicit(&o->puts_begun, memory_order_acquire))
		sched_yield();
	cache_write_end(&w, NULL, 0, 0);
	tmem_client_destroy(o->client);
	mutex_lock(&c->objects_lock);
	c->objects[o->id] = NULL;
	for (unsigned t = 0; t < TALLIES; t++)
		for (unsigned k = 0; k < COUNTERS; k++)
			metric_add(&c->former.n[k], metric_read(&o->tally[t].n[k]));
	mutex_unlock(&c->objects_lock);
	free(o);
}

/* --- size --- */

uint64_t cache_set_target(struct cache *c, uint64_t bytes, bool demote)
{
	uint64_t frames = bytes / CACHE_PAGE, given = 0;

	if (frames > c->frames)
		frames = c->frames;
	atomic_store_explicit(&c->target, bytes, memory_order_relaxed);
	for (unsigned k = 0; k < c->n_shards; k++) {
		struct shard *s = &c->shards[k];

		mutex_lock(&s->lock);
		s->limit = (uint32_t)(frames / c->n_shards + (k < frames % c->n_shards));
		mutex_unlock(&s->lock);
	}
	for (unsigned k = 0; k < c->n_shards; k++)
		given += shard_shrink(&c->shards[k], demote) * CACHE_PAGE;
	metric_add(&c->returned, given);
	return given;
}

void cache_borrow(struct cache *c, bool may)
{
	atomic_store_explicit(&c->borrows, may && c->tmem, memory_order_relaxed);
}

uint64_t cache_give_back(struct cache *c)
{
	uint64_t given = 0;

	for (unsigned k = 0; k < c->n_shards; k++)
		given += shard_shrink(&c->shards[k], false) * CACHE_PAGE;
	metric_add(&c->returned, given);
	return given;
}

uint64_t cache_target(const struct cache *c)
{
	return atomic_load_explicit(&c->target, memory_order_relaxed);
}

#define SWEEP_STEP 1024u

/* Frames of one shard, from @i on; returns how many it looked at. */
static uint32_t sweep(struct shard *s, uint32_t i, uint32_t max)
{
	uint64_t gone[SWEEP_STEP / 64] = {0};
	uint32_t n = s->frames - i;

	if (n > SWEEP_STEP)
		n = SWEEP_STEP;
	if (n > max)
		n = max;
	if (!volatile_sweep(s->c->range, s->first + i, n, gone))
		return n;
	mutex_scope(&s->lock);
	for (uint32_t k = 0; k < n; k++) {
		uint32_t e = i + k;
		enum queue_id q = (enum queue_id)s->entry[e].queue;

		if ((gone[k / 64] >> k % 64 & 1) &&
		    (q == QUEUE_SMALL || q == QUEUE_MAIN || q == QUEUE_FREE) && frame_gone(s, e))
			page_purged_locked(s, e);
	}
	return n;
}

uint64_t cache_settle(struct cache *c, uint32_t max_pages)
{
	uint64_t per = c->frames / c->n_shards, given = 0;

	for (unsigned k = 0; k < c->n_shards; k++) {
		struct batch b;

		mutex_lock(&c->shards[k].lock);
		batch_take_locked(&c->shards[k], &b, true);
		mutex_unlock(&c->shards[k].lock);
		batch_mark(c, &b);
		/* Frames that were being marked when the target was set could not go then. */
		given += shard_shrink(&c->shards[k], false) * CACHE_PAGE;
	}
	metric_add(&c->returned, given);
	while (max_pages) {
		uint64_t at = atomic_load_explicit(&c->sweep_at, memory_order_relaxed);
		uint32_t n = sweep(&c->shards[at / per], (uint32_t)(at % per), max_pages);

		atomic_store_explicit(&c->sweep_at, (at + n) % c->frames, memory_order_relaxed);
		max_pages -= n;
	}
	return atomic_exchange_explicit(&c->found, 0, memory_order_relaxed) * CACHE_PAGE;
}

/* --- counting --- */

void tally_add(struct cache_object *o, enum counter what, uint64_t n)
{
	static _Atomic unsigned threads;
	static _Thread_local unsigned me; /* plus one; 0: not counted yet */
	metric_counter *cell;

	if (!n)
		return;
	if (!me)
		me = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) + 1;
	if (me < TALLIES) {
		/* Nobody else's: no need of an operation that waits for the bytes just copied. */
		cell = &o->tally[me - 1].n[what];
		atomic_store_explicit(cell, metric_read(cell) + n, memory_order_relaxed);
	} else {
		metric_add(&o->tally[TALLIES - 1].n[what], n);
	}
}

static void stats_add(struct cache_stats *st, const struct tally *t)
{
#define X(name, help) st->name += metric_read(&t->n[COUNT_##name]);
	CACHE_COUNTERS(X)
#undef X
}

static void stats_add_object(struct cache_stats *st, const struct cache_object *o)
{
	for (unsigned t = 0; t < TALLIES; t++)
		stats_add(st, &o->tally[t]);
}

static void stats_set_tmem(struct cache_stats *st, const struct tmem_stats *ts)
{
	st->tmem_pages = ts->pages;
	st->tmem_bytes = ts->page_bytes + ts->meta_bytes;
}

void cache_object_stats(struct cache_object *o, struct cache_stats *ret_stats)
{
	struct tmem_stats ts;

	*ret_stats = (struct cache_stats){
		.pages = atomic_load_explicit(&o->pages, memory_order_relaxed),
		.zero_pages = atomic_load_explicit(&o->zero_pages, memory_order_relaxed),
		.index_bytes = sizeof(*o),
		.target = o->floor * CACHE_PAGE,
	};
	ret_stats->resident = ret_stats->pages * CACHE_PAGE;
	if (o->client) {
		tmem_client_stats(o->client, &ts);
		stats_set_tmem(ret_stats, &ts);
	}
	stats_add_object(ret_stats, o);
}

/* Bytes of the pages of private memory at @addr that have been touched. */
static uint64_t resident_of(uint64_t addr, uint64_t size)
{
	unsigned char there[4096];
	uint64_t n = 0;

	for (uint64_t step; size; addr += step, size -= step) {
		step = size < sizeof(there) * CACHE_PAGE ? size : sizeof(there) * CACHE_PAGE;
		if (mincore((void *)addr, step, there))
			return 0;
		for (uint64_t i = 0; i < step / CACHE_PAGE; i++)
			n += there[i] & 1;
	}
	return n * CACHE_PAGE;
}

void cache_stats(struct cache *c, struct cache_stats *ret_stats)
{
	struct cache_stats st = {
		.index_bytes = sizeof(*c) + c->n_shards * sizeof(struct shard) + c->tables_size,
		.index_resident = resident_of(c->tables_addr, c->tables_size),
		.target = cache_target(c),
		.max = c->frames * CACHE_PAGE,
		.returned = metric_read(&c->returned),
	};
	struct volatile_stats vs;
	struct tmem_stats ts;

	for (unsigned k = 0; k < c->n_shards; k++) {
		struct shard *s = &c->shards[k];

		mutex_scope(&s->lock);
		st.pages += s->pages;
		st.zero_pages += s->zero_pages;
		st.resident += (uint64_t)s->held * CACHE_PAGE;
	}
	if (c->tmem) {
		tmem_stats(c->tmem, &ts);
		stats_set_tmem(&st, &ts);
	}
	volatile_stats(c->range, &vs);
	st.wired_pages = st.pages > vs.volatile_pages ? st.pages - vs.volatile_pages : 0;
	mutex_lock(&c->objects_lock);
	stats_add(&st, &c->former);
	for (uint32_t id = 1; id < OBJECTS_MAX; id++) {
		if (!c->objects[id])
			continue;
		st.index_bytes += sizeof(struct cache_object);
		stats_add_object(&st, c->objects[id]);
	}
	mutex_unlock(&c->objects_lock);
	*ret_stats = st;
}

void cache_volatile_stats(struct cache *c, struct volatile_stats *ret_stats)
{
	volatile_stats(c->range, ret_stats);
}
