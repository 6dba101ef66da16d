/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What goes when something must: S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak: FIFO queues are all you
 * need for cache eviction, SOSP 2023), a shard at a time.
 *
 * A page comes into *small*, a tenth of the frames. At its end it goes on to *main* if it was hit
 * twice meanwhile, else out, and a *ghost* (16 bits of its hash) remembers it for as long as main
 * would have kept it: a page that comes back in that time goes to main at once. At the end of main
 * a page that was hit goes round again, one use less. So a scan passes through small only.
 *
 * Objects have weights and floors. They are compared by pairs, the one that fills and the one that
 * would lose: what is idle counts for nothing, and no table of shares need be kept. An object at
 * its floor loses no page to others. One that has more than twice as much for its weight as who
 * fills goes without further chance; one with less than half gets one chance more.
 *
 * Where what comes is not asked for again, as with random reads of far more than there is room
 * for, each page that is taken in costs a copy, a page that leaves and a system call in 64, for
 * nothing. So it is put on trial: of as many pages as a quarter of the frames, that came by a ghost
 * or left small, one in TRIAL_PAYS has to have been of use, come by a ghost or read in small.
 * Otherwise the shard is *picky*: while it is full, of reads that miss only one in TRIAL_SAMPLE
 * brings pages. The others leave ghosts, and what comes back to these is taken in, and is of use:
 * when that is common again, so is the rule. At worst that costs a hit for one miss in TRIAL_PAYS.
 *
 * A ghost is a word in a bucket of eight: 16 bits of hash, 16 of the time, in units of 1/8192 of
 * the frames, when it was added, by a clock that ticks at each ghost.
 */
#include "mem/cache/cache_private.h"

#define LOOKS_MAX  1024u /* pages passed over to find a victim, before one is taken as it comes */
#define UNFAIR	   2u
#define GHOST_TIME 8192u

#define TRIAL_PART   4u
#define TRIAL_MIN    1024u
#define TRIAL_PAYS   32u
#define TRIAL_SAMPLE 8u

/* --- queues --- */

void queue_push_locked(struct shard *s, enum queue_id q, uint32_t i)
{
	struct queue *queue = &s->queue[q];
	struct entry *e = &s->entry[i];

	e->queue = q;
	e->next = NO_ENTRY;
	e->prev = queue->tail;
	if (queue->tail != NO_ENTRY)
		s->entry[queue->tail].next = i;
	else
		queue->head = i;
	queue->tail = i;
	queue->n++;
}

void queue_remove_locked(struct shard *s, uint32_t i)
{
	struct entry *e = &s->entry[i];
	struct queue *queue = &s->queue[e->queue];

	if (e->queue == QUEUE_NONE)
		return;
	if (e->prev != NO_ENTRY)
		s->entry[e->prev].next = e->next;
	else
		queue->head = e->next;
	if (e->next != NO_ENTRY)
		s->entry[e->next].prev = e->prev;
	else
		queue->tail = e->prev;
	queue->n--;
	e->queue = QUEUE_NONE;
}

uint32_t queue_pop_locked(struct shard *s, enum queue_id q)
{
	uint32_t i = s->queue[q].head;

	if (i != NO_ENTRY)
		queue_remove_locked(s, i);
	return i;
}

static void queue_move_locked(struct shard *s, uint32_t i, enum queue_id q)
{
	queue_remove_locked(s, i);
	queue_push_locked(s, q, i);
}

/* --- ghosts --- */

static uint32_t *ghost_bucket(const struct shard *s, uint64_t hash)
{
	return s->ghost + (size_t)((hash >> 32) * s->ghost_buckets >> 32) * GHOST_WAYS;
}
static uint32_t ghost_tag(uint64_t hash)
{
	return (uint32_t)(hash & 0xffff) | 1;
}
static uint32_t ghost_unit(const struct shard *s)
{
	return s->frames / GHOST_TIME + 1;
}
static uint32_t ghost_age(const struct shard *s, uint32_t word)
{
	return (uint16_t)(s->ghost_clock / ghost_unit(s) - word);
}
static bool ghost_alive(const struct shard *s, uint32_t word)
{
	return word && ghost_age(s, word) <= s->limit / 10 * 9 / ghost_unit(s);
}

/* Its word, or NULL. */
static uint32_t *ghost_find(const struct shard *s, uint64_t hash)
{
	uint32_t *word = ghost_bucket(s, hash);

	for (unsigned k = 0; k < GHOST_WAYS; k++)
		if (word[k] >> 16 == ghost_tag(hash))
			return ghost_alive(s, word[k]) ? &word[k] : NULL;
	return NULL;
}

bool ghost_take_locked(struct shard *s, uint64_t hash)
{
	uint32_t *word = ghost_find(s, hash);

	if (word)
		*word = 0;
	return word;
}

void ghost_add_locked(struct shard *s, uint64_t hash)
{
	uint32_t *word = ghost_bucket(s, hash);
	unsigned oldest = 0;

	s->ghost_clock++;
	for (unsigned k = 0; k < GHOST_WAYS; k++) {
		if (!ghost_alive(s, word[k])) {
			oldest = k;
			break;
		}
		if (ghost_age(s, word[k]) > ghost_age(s, word[oldest]))
			oldest = k;
	}
	word[oldest] = ghost_tag(hash) << 16 | (uint16_t)(s->ghost_clock / ghost_unit(s));
}

/* --- admission --- */

void policy_note_locked(struct shard *s, bool useful)
{
	uint32_t trial = s->limit / TRIAL_PART > TRIAL_MIN ? s->limit / TRIAL_PART : TRIAL_MIN;

	s->useful += useful;
	if (++s->trial < trial)
		return;
	atomic_store_explicit(&s->picky, s->useful < s->trial / TRIAL_PAYS, memory_order_relaxed);
	s->trial = s->useful = 0;
}

bool policy_wants_locked(struct shard *s, const struct place *at, uint64_t n)
{
	if (!atomic_load_explicit(&s->picky, memory_order_relaxed) || s->queue[QUEUE_FREE].n ||
	    s->held < shard_allowed(s) || s->skipped++ % TRIAL_SAMPLE == 0)
		return true;
	for (uint64_t k = 0; k < n; k++)
		if (ghost_find(s, place_after(at, k).hash))
			return true;
	for (uint64_t k = 0; k < n; k++) {
		ghost_add_locked(s, place_after(at, k).hash);
		policy_note_locked(s, false);
	}
	return false;
}

/* --- victims --- */

static bool has_more_than_fair(const struct cache_object *o, const struct cache_object *than)
{
	uint64_t mine = atomic_load_explicit(&o->pages, memory_order_relaxed);
	uint64_t others = atomic_load_explicit(&than->pages, memory_order_relaxed);

	return mine * than->weight > UNFAIR * others * o->weight;
}

static void set_use_locked(struct entry *e, unsigned use)
{
	atomic_store_explicit(&e->use, (uint8_t)use, memory_order_relaxed);
	e->ahead = 0;
}

enum verdict {
	GOES,
	STAYS, /* to the end of main */
	STAYS_FLOOR,
};

static enum verdict judge_locked(struct shard *s, struct entry *e,
				 const struct cache_object *filler)
{
	const struct cache_object *o = entry_object(s, entry_key(e));
	unsigned use = entry_uses(e);
	bool others = filler && filler != o;

	if (others && atomic_load_explicit(&o->pages, memory_order_relaxed) <= o->floor)
		return STAYS_FLOOR;
	if (others && has_more_than_fair(o, filler))
		return GOES;
	if (e->queue == QUEUE_SMALL && use > 1) {
		set_use_locked(e, 0);
		policy_note_locked(s, true);
		return STAYS;
	}
	if (e->queue == QUEUE_MAIN && use) {
		set_use_locked(e, use - 1);
		return STAYS;
	}
	if (others && !e->spared && has_more_than_fair(filler, o)) {
		e->spared = 1;
		return STAYS;
	}
	return GOES;
}

static uint32_t next_candidate_locked(const struct shard *s)
{
	const struct queue *small = &s->queue[QUEUE_SMALL], *main = &s->queue[QUEUE_MAIN];

	return main->n == 0 || (small->n && small->n >= s->limit / 10) ? small->head : main->head;
}

uint32_t policy_victim_locked(struct shard *s, const struct cache_object *filler)
{
	for (unsigned looks = 1; looks <= LOOKS_MAX; looks++) {
		uint32_t i = next_candidate_locked(s);
		struct entry *e = &s->entry[i];
		enum verdict verdict;

		if (i == NO_ENTRY)
			return i;
		verdict = judge_locked(s, e, filler);
		if (verdict == GOES || (verdict != STAYS_FLOOR && looks == LOOKS_MAX))
			return i;
		/* Pages of floors do not stay in small: they would be looked at again and again. */
		queue_move_locked(s, i, QUEUE_MAIN);
	}
	return NO_ENTRY;
}

uint32_t policy_zero_victim_locked(struct shard *s)
{
	for (uint32_t looks = 0;; looks++) {
		uint32_t i = s->queue[QUEUE_ZERO].head;

		if (i == NO_ENTRY || looks == LOOKS_MAX ||
		    !atomic_load_explicit(&s->entry[i].use, memory_order_relaxed))
			return i;
		atomic_store_explicit(&s->entry[i].use, 0, memory_order_relaxed);
		queue_move_locked(s, i, QUEUE_ZERO);
	}
}
