/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the cache share.
 *
 * A *shard* is a cache by itself: frames, entries, index, queues, ghosts, one leaf lock. Pages are
 * dealt out to shards by *region*, 64 consecutive pages of an object, so that a range meets few
 * locks. Entry i of a shard is frame i for as long as the cache lives, so neither names the other;
 * entries past the frames are for pages of zeros, which need none.
 *
 * An entry's key is one word that says whose page it is and how it stands:
 *	63..62 enum entry_state   59..48 object   47..0 page       0: nobody's
 *
 *	          fill                evict          put to tmem ended
 *	nobody's ------> ready ----------> leaving ------------------> nobody's
 *	   |              ^  `-- write, purge, evict: nobody's  |          ^
 *	   | promote      | got from tmem                       | write    | flushed there
 *	   `-----------> coming --- write ---> doomed <---------'          |
 *	                     `---- not there --> nobody's   doomed --------'
 */
#pragma once

#include <stdatomic.h>

#include "base/lock.h"
#include "mem/address_space.h"
#include "mem/cache/cache.h"
#include "mem/tmem/host.h"
#include "mem/volatile/volatile.h"

#define REGION_SHIFT  6u
#define REGION_PAGES  (1u << REGION_SHIFT)
#define CELLS	      256u /* write counters of a shard, a power of two */
#define BATCH	      64u  /* pages that are given to the kernel together */
#define FILL_RUN      16u  /* pages that are inserted together */
#define LINE_SLOTS    15u
#define SLOT_USED     (1u << 31) /* of every slot that is */
#define GHOST_WAYS    8u
#define TALLIES	      16u /* of the first threads one each, the last of all others */
#define OBJECTS_MAX   4096u
#define PAGE_MAX      ((1ull << 48) - 1)
#define NO_ENTRY      0xffffffu
#define SHARD_ENTRIES (NO_ENTRY - 1) /* what 24 bits name, plus one, 0 being an empty slot */
#define TMEM_CHUNK    12u	     /* a tmem object has 2^12 pages of ours */
#define USE_MAX	      3u

enum entry_state {
	ENTRY_READY,
	ENTRY_LEAVING, /* a copy is on its way to tmem; still readable */
	ENTRY_COMING,  /* being fetched from tmem */
	ENTRY_DOOMED,  /* leaving or coming, and written meanwhile */
};
#define KEY_STATE_SHIFT 62u
#define KEY_STATE_MASK	(3ull << KEY_STATE_SHIFT)

static inline uint64_t key_make(uint32_t object, uint64_t page)
{
	return (uint64_t)object << 48 | page;
}
static inline uint32_t key_object(uint64_t key)
{
	return (key >> 48) & (OBJECTS_MAX - 1);
}
static inline uint64_t key_page(uint64_t key)
{
	return key & PAGE_MAX;
}
static inline enum entry_state key_state(uint64_t key)
{
	return (enum entry_state)(key >> KEY_STATE_SHIFT);
}
static inline uint64_t key_mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	return x ^ x >> 32;
}

enum queue_id {
	QUEUE_NONE, /* in some thread's hands, or never used */
	QUEUE_SMALL,
	QUEUE_MAIN,
	QUEUE_ZERO,
	QUEUE_FREE, /* no page, but memory */
	QUEUE_BARE, /* neither */
	QUEUE_ZERO_FREE,
	QUEUES,
};

struct entry {
	_Atomic uint64_t key;	       /* changed under the shard's lock, read by anybody */
	uint32_t next : 24, queue : 6; /* under the lock, as the next three */
	uint32_t spared : 1;
	uint32_t ahead : 1; /* read ahead: the first read is what it came for, no sign of use */
	uint32_t prev : 24;
	_Atomic uint8_t use; /* reads, up to USE_MAX; written by readers */
};
_Static_assert(sizeof(struct entry) == 16, "an entry is 16 bytes");

/* A cache line of the index. Slots: SLOT_USED, bits of the hash, and entry plus one; 0: empty. */
struct line {
	_Atomic uint32_t slot[LINE_SLOTS];
	_Atomic uint32_t passed; /* pages that hash to here or before, and stand further on */
};
_Static_assert(sizeof(struct line) == 64, "a line is a cache line");

struct queue {
	uint32_t head, tail, n;
};

/* The write counter of some regions. Changed under the lock; fills look without (write.c). */
struct cell {
	_Atomic uint64_t last; /* the cache's clock when a write began here last */
	_Atomic uint32_t writers;
};

struct shard {
	struct mutex lock; /* a leaf */
	/* constant */
	struct cache *c;
	uint32_t first;		/* frame of entry 0 */
	uint32_t frames, zeros; /* entries with and without frame */
	uint32_t lines, ghost_buckets;
	uint32_t slot_mask; /* of the part of a slot that is the entry */
	struct entry *entry;
	struct line *line;
	uint32_t *ghost; /* buckets of GHOST_WAYS words: under the lock */
	struct cell *cell;
	/* under the lock */
	struct queue queue[QUEUES];
	uint32_t fresh, fresh_zero; /* entries from here on were never used */
	uint32_t limit, held;	    /* frames that may have memory at any time; that have */
	uint32_t pages, zero_pages; /* in the index */
	uint32_t ghost_clock;
	uint32_t trial, useful, skipped;	   /* policy.c: admission */
	_Atomic bool picky;			   /* read by anybody */
	uint32_t batch[BATCH + FILL_RUN], n_batch; /* frames of fresh pages */
} __attribute__((aligned(64)));

enum counter {
#define X(name, help) COUNT_##name,
	CACHE_COUNTERS(X)
#undef X
		COUNTERS
};
struct tally {
	metric_counter n[COUNTERS];
} __attribute__((aligned(64)));

struct cache_object {
	/* constant */
	struct cache *c;
	uint32_t id, weight;
	uint64_t floor; /* pages */
	struct tmem_client *client;
	uint32_t pool;
	/* Changed under the lock of a page's shard; read by anybody. */
	_Atomic uint64_t entries; /* in the index, in any state */
	_Atomic uint64_t pages, zero_pages;
	/*
	 * What may be in tmem: nothing, if puts_begun is empty_at. puts_done <= puts_begun; a put
	 * is begun before its entry is seen leaving.
	 */
	_Atomic uint64_t puts_begun, puts_done, empty_at;
	_Atomic uint32_t tmem_misses;
	struct tally tally[TALLIES];
};

struct cache {
	/* constant */
	struct address_space *as;
	struct tmem *tmem;
	struct volatile_range *range;
	uint64_t frames; /* all shards together */
	uint64_t frames_addr, frames_size, tables_addr, tables_size;
	unsigned n_shards;
	struct shard *shards;

	_Atomic bool borrows;				     /* what tmem may have and has not */
	_Atomic uint64_t clock __attribute__((aligned(64))); /* of writes */
	_Atomic uint64_t target __attribute__((aligned(64)));
	_Atomic uint64_t found;	   /* frames found taken, since cache_settle() */
	metric_counter returned;   /* bytes */
	_Atomic uint64_t sweep_at; /* frame */
	struct mutex objects_lock; /* a leaf: the table's slots and the tally of former objects */
	struct cache_object *objects[OBJECTS_MAX]; /* 0 is nobody */
	struct tally former;
};

/** Counts for the object, in the thread's own cell. */
void tally_add(struct cache_object *o, enum counter what, uint64_t n);

/** Where a page belongs. */
struct place {
	struct shard *s;
	struct cell *cell;
	uint64_t key, hash; /* state 0 */
};
struct place place_of(const struct cache_object *o, uint64_t page);
/** Of the page @k after @first, in the same region. */
static inline struct place place_after(const struct place *first, uint64_t k)
{
	struct place at = *first;

	at.key += k;
	at.hash = key_mix(at.key);
	return at;
}
static inline struct cache_object *entry_object(const struct shard *s, uint64_t key)
{
	return s->c->objects[key_object(key)];
}
static inline uint64_t entry_key(const struct entry *e)
{
	return atomic_load_explicit(&e->key, memory_order_acquire);
}
/* How often the page was asked for beyond what it came for. Under the lock. */
static inline unsigned entry_uses(const struct entry *e)
{
	unsigned use = atomic_load_explicit(&e->use, memory_order_relaxed);

	return use - (use && e->ahead);
}
static inline bool entry_has_frame(const struct shard *s, uint32_t i)
{
	return i < s->frames;
}

/* --- index.c --- */

/** The page's entry, or NO_ENTRY. *@ret_key: its key as it was seen. Needs no lock, see there. */
uint32_t index_find(const struct shard *s, uint64_t key, uint64_t hash, uint64_t *ret_key);
/** The entries that might have a page, by the hash alone, until NO_ENTRY. */
struct index_walk {
	uint32_t line, tag, passed;
	uint32_t found; /* slots of the line that are still to be looked at */
};
struct index_walk index_walk(const struct shard *s, uint64_t hash);
uint32_t index_next(const struct shard *s, struct index_walk *w);
void index_insert_locked(struct shard *s, uint32_t i, uint64_t hash);
void index_remove_locked(struct shard *s, uint32_t i, uint64_t hash);

/* --- policy.c --- */

void queue_push_locked(struct shard *s, enum queue_id q, uint32_t i);
uint32_t queue_pop_locked(struct shard *s, enum queue_id q); /* NO_ENTRY: empty */
void queue_remove_locked(struct shard *s, uint32_t i);

/** Whether the page was let go a while ago; forgets it. */
bool ghost_take_locked(struct shard *s, uint64_t hash);
void ghost_add_locked(struct shard *s, uint64_t hash);
/** A page came, or was kept out, or left small: whether it had been of use. */
void policy_note_locked(struct shard *s, bool useful);
/** Whether the @n pages from @at on, of one region, are worth a place; if not, ghosts remember. */
bool policy_wants_locked(struct shard *s, const struct place *at, uint64_t n);
/** The page that goes next, still queued. @filler: who wants a frame; NULL: nobody, memory is. */
uint32_t policy_victim_locked(struct shard *s, const struct cache_object *filler);
uint32_t policy_zero_victim_locked(struct shard *s);

/* --- frame.c --- */

/**
 * A frame for a page of @o, held and in nobody's hands but the caller's; NO_ENTRY: none may be had.
 * May evict, and then releases the lock and takes it again: what was seen under it may have
 * changed.
 */
uint32_t frame_get_locked(struct shard *s, struct cache_object *o);
/** Frames that the shard may hold now: its own, and its part of what is lent to the cache. */
uint32_t shard_allowed(const struct shard *s);
/** Whether it holds so much more that giving back is due: shard_shrink(), without the lock. */
bool shard_is_over_locked(const struct shard *s);
/** Gives back a frame; its memory stays. */
void frame_put_locked(struct shard *s, uint32_t i);
/** Gives back a frame that has no memory any more. */
void frame_put_bare_locked(struct shard *s, uint32_t i);

/** The entry, keyed, enters the index and the accounts, in no queue; or leaves all of them. */
void entry_enter_locked(struct shard *s, uint32_t i, const struct place *at,
			enum entry_state state);
void entry_leave_locked(struct shard *s, uint32_t i);
void entry_set_state_locked(struct shard *s, uint32_t i, enum entry_state state);
/** A page of @at, published in frame @i, is there from now on. */
void page_ready_locked(struct shard *s, uint32_t i, bool hot);
/** Notes the page of @at, of which there is no entry, as zeros. */
void page_zero_locked(struct shard *s, const struct place *at);
/** Drops a ready page of which the frame stays with us. */
void page_drop_locked(struct shard *s, uint32_t i);
/** The kernel took the page's memory: forgets it. */
void page_purged_locked(struct shard *s, uint32_t i);
bool frame_gone(const struct shard *s, uint32_t i);

struct batch {
	struct volatile_item item[BATCH + FILL_RUN];
	unsigned n;
};
/** Takes the frames that wait to be given to the kernel, if they are a batch, or @all. */
void batch_take_locked(struct shard *s, struct batch *b, bool all);
/** Without the lock. */
void batch_mark(struct cache *c, struct batch *b);
/** Down to the shard's limit: returns the frames whose memory went back. Without the lock. */
uint64_t shard_shrink(struct shard *s, bool demote);

/* --- demote.c: the way to tmem and back --- */

static inline bool demote_may_have(const struct cache_object *o)
{
	return o->client && atomic_load_explicit(&o->puts_begun, memory_order_acquire) !=
				    atomic_load_explicit(&o->empty_at, memory_order_acquire);
}
/** A ready page out of its queue goes to tmem, then its frame is put. Releases the lock meanwhile.
 */
void demote_locked(struct shard *s, uint32_t i);
/** 0: the page was in tmem and @dst has the bytes; -ENODATA. */
/* Of a page that the index did not have when this read looked. */
int recall(struct cache_object *o, const struct place *at, uint32_t off, uint32_t len, void *dst);
void demote_flush(struct cache_object *o, uint64_t first, uint64_t n);
/** Asks tmem whether it still has pages of the object. */
void demote_look(struct cache_object *o);
