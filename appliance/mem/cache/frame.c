/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames, and the pages in them.
 *
 * A frame is in the index with a page, or in a thread's hands, or in one of two queues: *free*, its
 * memory kept for the next page, or *bare*, without. Whoever drops a page only clears its key; the
 * frame still has the old bytes, and may even be volatile, until it is taken for another page
 * (which waits for nobody: a frame that is just being marked goes to the end of its queue). A
 * reader that had found the old key reads the old page or is told that it is stale.
 *
 * So addresses are never unmapped, frames with memory are used before bare ones, and bare ones only
 * while the shard's limit allows - or while tmem has not got what it may have, as long as it is
 * empty, or for good where pages do not compress: then the cache borrows that, and gives it back,
 * BORROW_STEP frames a shard at a time, as tmem fills.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "mem/cache/cache_private.h"

#define GET_ATTEMPTS  8u
#define TAKE_ATTEMPTS 4u
#define ROOM_MIN      (256u << 10) /* bytes of tmem's limit that are not used, for it to be empty */
#define BORROW_MARGIN 8u
#define BORROW_KEEP                                                                        \
	(1u << 20)	/* bytes of tmem's that are not borrowed: blocks that are not full \
			 */
#define BORROW_STEP 64u /* frames that are given back together */

/* --- entries in and out of the index --- */

void entry_set_state_locked(struct shard *s, uint32_t i, enum entry_state state)
{
	struct entry *e = &s->entry[i];
	uint64_t key = entry_key(e) & ~KEY_STATE_MASK;

	atomic_store_explicit(&e->key, key | (uint64_t)state << KEY_STATE_SHIFT,
			      memory_order_release);
}

/* What leaves is counted off its object last: who destroys the object may wait for that only. */
static void account_locked(struct shard *s, uint32_t i, struct cache_object *o, int n)
{
	uint64_t add = (uint64_t)(int64_t)n;

	if (entry_has_frame(s, i)) {
		atomic_fetch_add_explicit(&o->pages, add, memory_order_relaxed);
		s->pages += (uint32_t)n;
	} else {
		atomic_fetch_add_explicit(&o->zero_pages, add, memory_order_relaxed);
		s->zero_pages += (uint32_t)n;
	}
	atomic_fetch_add_explicit(&o->entries, add, memory_order_release);
}

void entry_enter_locked(struct shard *s, uint32_t i, const struct place *at, enum entry_state state)
{
	struct entry *e = &s->entry[i];

	atomic_store_explicit(&e->use, 0, memory_order_relaxed);
	e->spared = e->ahead = 0;
	atomic_store_explicit(&e->key, at->key | (uint64_t)state << KEY_STATE_SHIFT,
			      memory_order_release);
	index_insert_locked(s, i, at->hash);
	account_locked(s, i, entry_object(s, at->key), 1);
}

void entry_leave_locked(struct shard *s, uint32_t i)
{
	struct entry *e = &s->entry[i];
	uint64_t key = entry_key(e) & ~KEY_STATE_MASK;

	queue_remove_locked(s, i);
	index_remove_locked(s, i, key_mix(key));
	atomic_store_explicit(&e->key, 0, memory_order_release);
	account_locked(s, i, entry_object(s, key), -1);
}

/* --- frames --- */

void frame_put_locked(struct shard *s, uint32_t i)
{
	queue_push_locked(s, QUEUE_FREE, i);
}

void frame_put_bare_locked(struct shard *s, uint32_t i)
{
	queue_push_locked(s, QUEUE_BARE, i);
	s->held--;
}

static uint32_t take_from_locked(struct shard *s, enum queue_id q)
{
	for (unsigned n = 0; n < TAKE_ATTEMPTS; n++) {
		uint32_t i = queue_pop_locked(s, q);

		if (i == NO_ENTRY || !volatile_take(s->c->range, s->first + i))
			return i;
		queue_push_locked(s, q, i);
	}
	return NO_ENTRY;
}

static uint32_t take_bare_locked(struct shard *s)
{
	uint32_t i = take_from_locked(s, QUEUE_BARE);

	if (i == NO_ENTRY && s->fresh < s->frames)
		i = s->fresh++; /* held since the range was made */
	if (i != NO_ENTRY)
		s->held++;
	return i;
}

/*
 * What came once and was not asked for again is not - unless nothing else would use the memory:
 * much of that comes back later, too. What was read ahead and passed by is not in any case.
 */
static bool worth_compressing(const struct shard *s, const struct entry *e, bool used)
{
	/* Apart: of one expression gcc makes one load, which takes in e->use, and that is the
	 * readers'. */
	bool wanted = e->queue == QUEUE_MAIN;
	bool ahead = e->ahead;

	return wanted || used || (!ahead && tmem_room(s->c->tmem) > ROOM_MIN);
}

static void evict_locked(struct shard *s, uint32_t i, bool may_demote)
{
	struct entry *e = &s->entry[i];
	struct cache_object *o = entry_object(s, entry_key(e));
	bool used = entry_uses(e);

	tally_add(o, COUNT_evicted, 1);
	if (e->queue == QUEUE_SMALL) {
		ghost_add_locked(s, key_mix(entry_key(e)));
		if (!e->ahead)
			policy_note_locked(s, used);
	}
	if (may_demote && o->client && worth_compressing(s, e, used)) {
		demote_locked(s, i);
		return;
	}
	entry_leave_locked(s, i);
	frame_put_locked(s, i);
}

uint32_t shard_allowed(const struct shard *s)
{
	const struct cache *c = s->c;
	uint64_t room = 0, frames = s->limit;

	if (atomic_load_explicit(&c->borrows, memory_order_relaxed))
		room = tmem_room(c->tmem);
	/* tmem's blocks take more than its pages are charged with. */
	room -= room / BORROW_MARGIN;
	if (room > BORROW_KEEP)
		frames += (room - BORROW_KEEP) / CACHE_PAGE / c->n_shards;
	return (uint32_t)(frames < s->frames ? frames : s->frames);
}

bool shard_is_over_locked(const struct shard *s)
{
	return s->held > s->limit + BORROW_STEP && s->held > shard_allowed(s) + BORROW_STEP;
}

uint32_t frame_get_locked(struct shard *s, struct cache_object *o)
{
	mutex_assert_held(&s->lock);
	for (unsigned n = 0; n < GET_ATTEMPTS; n++) {
		uint32_t i = take_from_locked(s, QUEUE_FREE);

		if (i == NO_ENTRY && s->held < shard_allowed(s))
			i = take_bare_locked(s);
		if (i != NO_ENTRY)
			return i;
		i = policy_victim_locked(s, o);
		if (i == NO_ENTRY)
			break;
		evict_locked(s, i, true);
	}
	return NO_ENTRY;
}

/* --- pages --- */

static void batch_add_locked(struct shard *s, uint32_t i)
{
	/* There is room: whoever adds, a run at most, takes a full batch before it unlocks. */
	assert(s->n_batch < BATCH + FILL_RUN);
	s->batch[s->n_batch++] = s->first + i;
}

void page_ready_locked(struct shard *s, uint32_t i, bool hot)
{
	queue_push_locked(s, hot ? QUEUE_MAIN : QUEUE_SMALL, i);
	batch_add_locked(s, i);
}

void page_zero_locked(struct shard *s, const struct place *at)
{
	uint32_t i = queue_pop_locked(s, QUEUE_ZERO_FREE);

	if (i == NO_ENTRY && s->fresh_zero < s->frames + s->zeros)
		i = s->fresh_zero++;
	if (i == NO_ENTRY) {
		i = policy_zero_victim_locked(s);
		if (i == NO_ENTRY)
			return;
		entry_leave_locked(s, i);
	}
	entry_enter_locked(s, i, at, ENTRY_READY);
	queue_push_locked(s, QUEUE_ZERO, i);
}

void page_drop_locked(struct shard *s, uint32_t i)
{
	struct entry *e = &s->entry[i];

	if (e->queue == QUEUE_MAIN)
		ghost_add_locked(s, key_mix(entry_key(e)));
	entry_leave_locked(s, i);
	queue_push_locked(s, entry_has_frame(s, i) ? QUEUE_FREE : QUEUE_ZERO_FREE, i);
}

bool frame_gone(const struct shard *s, uint32_t i)
{
	struct volatile_range *r = s->c->range;
	uint8_t nothing;

	return volatile_read(r, s->first + i, volatile_ticket_of(r, s->first + i), 0, 0,
			     &nothing) == -ENODATA;
}

void page_purged_locked(struct shard *s, uint32_t i)
{
	struct entry *e = &s->entry[i];

	if (e->queue == QUEUE_MAIN)
		ghost_add_locked(s, key_mix(entry_key(e)));
	if (e->queue != QUEUE_FREE)
		entry_leave_locked(s, i);
	else
		queue_remove_locked(s, i);
	frame_put_bare_locked(s, i);
	atomic_fetch_add_explicit(&s->c->found, 1, memory_order_relaxed);
}

/* --- giving pages to the kernel --- */

void batch_take_locked(struct shard *s, struct batch *b, bool all)
{
	b->n = all ? s->n_batch : s->n_batch < BATCH ? 0 : BATCH;
	s->n_batch -= b->n;
	for (unsigned k = 0; k < b->n; k++)
		b->item[k].page = s->batch[s->n_batch + k];
}

static int compare_items(const void *a, const void *b)
{
	const struct volatile_item *x = a, *y = b;

	return (x->page > y->page) - (x->page < y->page);
}

void batch_mark(struct cache *c, struct batch *b)
{
	if (!b->n)
		return;
	qsort(b->item, b->n, sizeof(b->item[0]), compare_items);
	/* Refused, pages stay readable and count as wired; reused meanwhile, they come again. */
	volatile_mark(c->range, b->item, b->n);
}

/* --- less memory --- */

#define SHRINK_STEP 128u  /* frames gathered in one hold of the lock */
#define SHRINK_RUN  4096u /* frames sorted and dropped together */

/* One frame of those that must go, held; NO_ENTRY: none is left, or they are being marked. */
static uint32_t shed_locked(struct shard *s, bool demote)
{
	uint32_t i;

	if (s->held <= shard_allowed(s))
		return NO_ENTRY;
	i = take_from_locked(s, QUEUE_FREE);
	if (i != NO_ENTRY)
		return i;
	i = policy_victim_locked(s, NULL);
	if (i == NO_ENTRY)
		return NO_ENTRY;
	evict_locked(s, i, demote);
	return take_from_locked(s, QUEUE_FREE);
}

static int compare_frames(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint32_t shed_run(struct shard *s, bool demote)
{
	uint32_t frame[SHRINK_RUN], n = 0; /* of the range */
	bool more = true;

	while (more && n < SHRINK_RUN) {
		mutex_scope(&s->lock);
		for (unsigned k = 0; k < SHRINK_STEP && more; k++) {
			uint32_t i = shed_locked(s, demote);

			more = i != NO_ENTRY;
			if (more) {
				frame[n++] = s->first + i;
				s->held--;
			}
		}
	}
	qsort(frame, n, sizeof(frame[0]), compare_frames);
	volatile_drop_pages(s->c->range, frame, n);
	mutex_scope(&s->lock);
	for (uint32_t k = 0; k < n; k++)
		queue_push_locked(s, QUEUE_BARE, frame[k] - s->first);
	return n;
}

uint64_t shard_shrink(struct shard *s, bool demote)
{
	uint64_t total = 0;
	uint32_t n;

	do {
		n = shed_run(s, demote);
		total += n;
	} while (n);
	return total;
}
