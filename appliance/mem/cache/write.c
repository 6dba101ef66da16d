/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fills and writes, and what keeps the first from bringing back what the second replaced.
 *
 * Regions are dealt out over a table of cells, 256 a shard. A cell counts the writes that are under
 * way in its regions, and has the time, by the cache's clock of writes, when one last began. All
 * changes are made under the shard's lock, where pages are inserted too.
 *
 *	cache_write_begin	writers++, then last = ++clock, then drop the pages; flush tmem
 *	the store is written
 *	cache_write_end		insert the new pages if last is what it was set to; writers--
 *
 *	cache_fill_begin	ticket = clock, then refuse if there are writers
 *	the store is read
 *	cache_fill_end		insert the pages if last <= ticket
 *
 * Claim: a fill inserts no page of which a write was under way when the fill began, or began
 * before the page was inserted. The first kind is seen by its writers++, or was not there yet when
 * the fill looked; then its clock tick, which comes after, came after the fill read the clock, too
 * (operations on both are sequentially consistent: cache_fill_begin() takes no lock), hence last >
 * ticket, and it is of the second kind. And a write that begins after the insertion drops the
 * page. Collisions in a cell make fills useless, never wrong.
 *
 * A write inserts by the same rule, unless another was under way when it began.
 *
 * A range with more regions than there are cells counts in each of them, once.
 */
#include <errno.h>

#include "base/cursor.h"
#include "mem/cache/cache_private.h"

#define FILL_RUN  16u /* frames in hand at once */
#define WALK_STEP 4096u
#define HAD_PAGES 64u

/* --- ranges --- */

/* The part of [*@page, @end) that is in one region; moves on to the next. */
static uint64_t region_step(uint64_t *page, uint64_t end)
{
	uint64_t next = (*page | (REGION_PAGES - 1)) + 1, n;

	n = (next < end ? next : end) - *page;
	*page += n;
	return n;
}

static bool range_is_wide(const struct cache *c, uint64_t n)
{
	return (n >> REGION_SHIFT) >= (uint64_t)c->n_shards * CELLS;
}

/* --- inserting --- */

/* What it takes to insert pages of a region, under its lock. */
struct admission {
	uint64_t ticket;      /* no write began since */
	uint64_t ahead;	      /* from this page on they were read ahead */
	enum counter counter; /* of what was inserted */
};

static bool admitted_locked(const struct cell *cell, const struct admission *ad)
{
	return atomic_load(&cell->last) <= ad->ticket;
}

/* Neighbours, all of one region, on their way in. */
struct run {
	struct cache_object *o;
	struct place at; /* of the first */
	unsigned n;
	uint32_t frame[FILL_RUN]; /* NO_ENTRY: the page stays out */
	bool zero[FILL_RUN];
	unsigned inserted, lost;
};

static bool present_locked(const struct place *at)
{
	uint64_t seen;

	return index_find(at->s, at->key, at->hash, &seen) != NO_ENTRY;
}

/* Frames for those of the pages that are @wanted (bits) and may come in. */
static void run_reserve(struct run *run, uint64_t wanted, const struct admission *ad)
{
	struct shard *s = run->at.s;

	mutex_scope(&s->lock);
	for (unsigned k = 0; k < run->n; k++) {
		struct place at = place_after(&run->at, k);

		run->frame[k] = NO_ENTRY;
		if (!(wanted >> k & 1) || present_locked(&at))
			continue;
		if (admitted_locked(at.cell, ad))
			run->frame[k] = frame_get_locked(s, run->o);
		else
			run->lost++;
	}
}

/* Copies the bytes of all the pages, wanted or not, and publishes. */
static bool run_copy(struct run *run, struct cursor *cur)
{
	struct shard *s = run->at.s;
	struct volatile_range *r = s->c->range;

	for (unsigned k = 0; k < run->n; k++) {
		uint32_t frame = s->first + run->frame[k];
		bool in = run->frame[k] != NO_ENTRY;

		if (!cursor_get(cur, in ? volatile_page(r, frame) : NULL, CACHE_PAGE))
			return false;
		run->zero[k] = in && volatile_publish(r, frame) == -ENODATA;
	}
	return true;
}

static void run_insert_locked(struct run *run, const struct admission *ad)
{
	struct shard *s = run->at.s;

	for (unsigned k = 0; k < run->n; k++) {
		struct place at = place_after(&run->at, k);
		uint32_t i = run->frame[k];
		bool ok, back;

		if (i == NO_ENTRY)
			continue;
		ok = admitted_locked(at.cell, ad);
		run->lost += !ok;
		ok = ok && !present_locked(&at);
		run->inserted += ok;
		if (ok && run->zero[k])
			page_zero_locked(s, &at);
		if (!ok || run->zero[k]) {
			frame_put_locked(s, i);
			continue;
		}
		entry_enter_locked(s, i, &at, ENTRY_READY);
		s->entry[i].ahead = key_page(at.key) >= ad->ahead;
		back = ghost_take_locked(s, at.hash);
		if (back)
			policy_note_locked(s, true);
		page_ready_locked(s, i, back);
	}
}

static void run_give_up_locked(struct run *run)
{
	for (unsigned k = 0; k < run->n; k++)
		if (run->frame[k] != NO_ENTRY)
			frame_put_locked(run->at.s, run->frame[k]);
}

/* Inserts those of @n pages from @first on, all of one region, that are @wanted. */
static void insert_region(struct cache_object *o, uint64_t first, uint64_t n, uint64_t wanted,
			  const struct admission *ad, struct cursor *cur)
{
	struct run run = {.o = o, .at = place_of(o, first)};
	struct shard *s = run.at.s;
	struct batch b;

	for (; n; wanted = wanted >> (run.n - 1) >> 1, n -= run.n) {
		bool whole, over;

		run.n = n < FILL_RUN ? (unsigned)n : FILL_RUN;
		run_reserve(&run, wanted, ad);
		whole = run_copy(&run, cur);
		mutex_lock(&s->lock);
		if (whole)
			run_insert_locked(&run, ad);
		else
			run_give_up_locked(&run);
		batch_take_locked(s, &b, false);
		over = shard_is_over_locked(s);
		mutex_unlock(&s->lock);
		batch_mark(o->c, &b);
		if (over)
			shard_shrink(s, true);
		run.at = place_after(&run.at, run.n);
	}
	tally_add(o, ad->counter, run.inserted);
	tally_add(o, COUNT_fills_lost, run.lost);
}

/* --- fills --- */

bool cache_wants(struct cache_object *o, uint64_t first, uint64_t n)
{
	uint64_t page = first, end = first + n;
	bool wanted = false;

	if (!atomic_load_explicit(&place_of(o, first).s->picky, memory_order_relaxed))
		return true;
	while (page < end) {
		struct place at = place_of(o, page);
		uint64_t part = region_step(&page, end);

		mutex_scope(&at.s->lock);
		wanted |= policy_wants_locked(at.s, &at, part);
	}
	return wanted;
}

bool cache_fill_begin(struct cache_object *o, struct cache_fill *f, uint64_t first, uint64_t n)
{
	uint64_t page = first, end = first + n;

	if (end > PAGE_MAX + 1 || end < first)
		return false;
	*f = (struct cache_fill){
		.o = o, .first = first, .n = n, .ticket = atomic_load(&o->c->clock), .ahead = end};
	while (page < end) {
		if (atomic_load(&place_of(o, page).cell->writers)) {
			tally_add(o, COUNT_fills_lost, n);
			return false;
		}
		region_step(&page, end);
	}
	return true;
}

void cache_fill_end(struct cache_fill *f, const struct iovec *iov, int niov, uint64_t skip)
{
	struct admission ad = {.ticket = f->ticket, .ahead = f->ahead, .counter = COUNT_fills};
	struct cursor cur = cursor_at(iov, niov, skip);
	uint64_t page = f->first, end = f->first + f->n;

	if (!cur.n)
		return;
	while (page < end) {
		uint64_t first = page, n = region_step(&page, end);

		insert_region(f->o, first, n, UINT64_MAX, &ad, &cur);
	}
}

/* --- writes --- */

/* Whether the page was there. */
static bool drop_locked(struct shard *s, uint32_t i, uint64_t key)
{
	switch (key_state(key)) {
	case ENTRY_READY:
		page_drop_locked(s, i);
		return true;
	case ENTRY_LEAVING:
	case ENTRY_COMING:
		entry_set_state_locked(s, i, ENTRY_DOOMED);
		return true;
	case ENTRY_DOOMED:
		break;
	}
	return false;
}

/* Returns a bit for each of the pages that was dropped. */
static uint64_t drop_region_locked(struct cache_object *o, uint64_t first, uint64_t n)
{
	uint64_t dropped = 0;

	if (!atomic_load_explicit(&o->entries, memory_order_relaxed))
		return 0;
	for (uint64_t k = 0; k < n; k++) {
		struct place at = place_of(o, first + k);
		uint64_t seen;
		uint32_t i = index_find(at.s, at.key, at.hash, &seen);

		if (i != NO_ENTRY && drop_locked(at.s, i, seen))
			dropped |= 1ull << k;
	}
	return dropped;
}

/* Drops what entries [@i, @end) have of the range; returns how many pages. */
static uint64_t drop_entries_locked(struct shard *s, uint32_t i, uint32_t end,
				    const struct cache_object *o, uint64_t first, uint64_t n)
{
	uint64_t dropped = 0;

	for (; i < end; i++) {
		uint64_t key = entry_key(&s->entry[i]);

		if (key && key_object(key) == o->id && key_page(key) - first < n)
			dropped += drop_locked(s, i, key);
	}
	return dropped;
}

/* Looks at all entries. None of the range comes in meanwhile: its cells have writers. */
static void drop_by_walk(struct cache_object *o, uint64_t first, uint64_t n)
{
	uint64_t dropped = 0;

	for (unsigned k = 0; k < o->c->n_shards; k++) {
		struct shard *s = &o->c->shards[k];
		uint32_t end = s->frames + s->zeros;

		for (uint32_t i = 0; i < end; i += WALK_STEP) {
			mutex_scope(&s->lock);
			if (i >= s->fresh && i + WALK_STEP <= s->frames)
				continue;
			if (i >= s->fresh_zero)
				break;
			dropped += drop_entries_locked(
				s, i, i + WALK_STEP < end ? i + WALK_STEP : end, o, first, n);
		}
	}
	tally_add(o, COUNT_invalidated, dropped);
}

/* Returns the time of this write in the cell, or 0 if another one is under way there. */
static uint64_t cell_enter_locked(struct cache *c, struct cell *cell)
{
	uint32_t others = atomic_fetch_add(&cell->writers, 1);
	uint64_t now = atomic_fetch_add(&c->clock, 1) + 1;

	atomic_store(&cell->last, now);
	return others ? 0 : now;
}

static void cells_enter_all(struct cache *c)
{
	for (unsigned k = 0; k < c->n_shards; k++) {
		mutex_scope(&c->shards[k].lock);
		for (unsigned i = 0; i < CELLS; i++)
			cell_enter_locked(c, &c->shards[k].cell[i]);
	}
}

static void cells_leave_all(struct cache *c)
{
	for (unsigned k = 0; k < c->n_shards; k++)
		for (unsigned i = 0; i < CELLS; i++)
			atomic_fetch_sub(&c->shards[k].cell[i].writers, 1);
}

struct pages {
	uint64_t first, end;
};
static struct pages pages_of(const struct cache_write *w)
{
	uint64_t last = w->off + (w->len - 1);
	struct pages p;

	if (!w->len || w->off >= (PAGE_MAX + 1) * CACHE_PAGE)
		return (struct pages){0};
	if (last < w->off || last / CACHE_PAGE > PAGE_MAX)
		last = PAGE_MAX * CACHE_PAGE;
	p.first = w->off / CACHE_PAGE;
	p.end = last / CACHE_PAGE + 1;
	return p;
}

/* A region at a time: enters its cell and, if @drop, drops its pages of the range. */
static void regions_enter(struct cache_write *w, struct pages p, bool drop)
{
	uint64_t page = p.first, dropped = 0;

	for (unsigned k = 0; page < p.end; k++) {
		uint64_t first = page, n = region_step(&page, p.end), bits = 0, seen;
		struct place at = place_of(w->o, first);

		mutex_scope(&at.s->lock);
		seen = cell_enter_locked(w->o->c, at.cell);
		if (drop)
			bits = drop_region_locked(w->o, first, n);
		dropped += (unsigned)__builtin_popcountll(bits);
		if (first - p.first < HAD_PAGES)
			w->had |= bits << (first - p.first);
		if (k < CACHE_WRITE_REGIONS)
			w->seen[k] = seen;
	}
	tally_add(w->o, COUNT_invalidated, dropped);
}

static void regions_leave(struct cache_write *w, struct pages p)
{
	for (uint64_t page = p.first; page < p.end;) {
		struct cell *cell = place_of(w->o, page).cell;

		atomic_fetch_sub(&cell->writers, 1);
		region_step(&page, p.end);
	}
}

void cache_write_begin(struct cache_object *o, struct cache_write *w, uint64_t off, uint64_t len)
{
	struct pages p;
	uint64_t n;
	bool wide, walk;

	*w = (struct cache_write){.o = o, .off = off, .len = len};
	p = pages_of(w);
	n = p.end - p.first;
	wide = range_is_wide(o->c, n);
	/* Only a walk drops what a wide range has: its cells are entered without a look at pages.
	 */
	walk = wide ||
	       (n > HAD_PAGES && n > atomic_load_explicit(&o->entries, memory_order_relaxed));
	if (wide)
		cells_enter_all(o->c);
	else
		regions_enter(w, p, !walk);
	if (walk && atomic_load_explicit(&o->entries, memory_order_acquire))
		drop_by_walk(o, p.first, n);
	demote_flush(o, p.first, n);
}

/* The pages that were there when the write began and of which it wrote every byte. */
static void update(struct cache_write *w, struct pages p, struct cursor *cur)
{
	uint64_t whole = (w->off + CACHE_PAGE - 1) / CACHE_PAGE;
	uint64_t end = (w->off + w->len) / CACHE_PAGE, page = whole;
	/* The region that a page is in, counted from the first of the range. */
	uint64_t region = p.first >> REGION_SHIFT;

	if (end > p.end)
		end = p.end;
	if (!cursor_get(cur, NULL, whole * CACHE_PAGE - w->off))
		return;
	while (page < end) {
		uint64_t first = page, n = region_step(&page, end);
		struct admission ad = {
			.ticket = w->seen[(first >> REGION_SHIFT) - region],
			.ahead = UINT64_MAX,
			.counter = COUNT_updates,
		};

		insert_region(w->o, first, n, w->had >> (first - p.first), &ad, cur);
	}
}

void cache_write_end(struct cache_write *w, const struct iovec *iov, int niov, uint64_t skip)
{
	struct pages p = pages_of(w);
	struct cursor cur = cursor_at(iov, niov, skip);

	if (cur.n && w->had && p.end - p.first <= HAD_PAGES)
		update(w, p, &cur);
	if (range_is_wide(w->o->c, p.end - p.first))
		cells_leave_all(w->o->c);
	else
		regions_leave(w, p);
}
