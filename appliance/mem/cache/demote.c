/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages on their way to tmem and back.
 *
 * tmem has locks of its own and compresses for microseconds, so it is called with no lock of ours
 * held. What keeps the page's place meanwhile is its entry, *leaving* or *coming*:
 *
 * - A write that finds it makes it *doomed*, and goes on to flush tmem. Whichever comes last, that
 *   flush or the put, the one who put sees the doom under the lock and flushes again; only then
 *   does the entry go. A page that was fetched is not inserted.
 * - No reader hits a doomed entry nor asks tmem for its page, no fill inserts beside it.
 * - Nobody asks tmem while a write of the region is under way: the place is made coming under the
 *   lock, where the region's writers are looked at.
 *
 * So when cache_write_begin() has returned, tmem has nothing of the range that a reader would ask
 * for.
 *
 * A page that is asked for in tmem is copied out and stays: it costs no frame, so nothing need be
 * evicted and compressed for it. Only what is asked for again comes back to memory (promote()).
 * Copying out makes no place, so there is nothing that a write could doom. It needs none. Who reads
 * has looked at the index first and found no entry. What he then finds in tmem was put from a page
 * that was evicted after that look, and was current then; or before, and then its put had ended, as
 * its entry was gone, and tmem has had it since, unflushed: no write of it that was over at the
 * time of the look came after that put. Either way it was current at a moment of this read.
 *
 * An object is asked about only if it may have pages there: puts are numbered; if at a time
 * when none was under way its pool was empty, nothing is there but by later puts.
 */
#include <errno.h>
#include <string.h>

#include "mem/cache/cache_private.h"

#define FLUSH_PAGES  1024u /* a longer range is flushed by whole chunks */
#define FLUSH_CHUNKS 4096u /* a longer one with all of its object's pages */
#define LOOK_EACH    16u

static struct tmem_oid oid_of(uint64_t page)
{
	return (struct tmem_oid){{page >> TMEM_CHUNK}};
}
static uint64_t index_of(uint64_t page)
{
	return page & ((1ull << TMEM_CHUNK) - 1);
}

static int put(struct shard *s, uint32_t i, struct cache_object *o, uint64_t page)
{
	struct volatile_range *r = s->c->range;
	struct tmem_oid oid = oid_of(page);
	uint8_t copy[CACHE_PAGE];
	/* The frame is ours: its content does not change, though the kernel may take it. */
	int ret = volatile_read(r, s->first + i, volatile_ticket_of(r, s->first + i), 0, CACHE_PAGE,
				copy);

	return ret ? ret : tmem_put(o->client, o->pool, &oid, index_of(page), copy);
}

void demote_locked(struct shard *s, uint32_t i)
{
	uint64_t key = entry_key(&s->entry[i]), page = key_page(key);
	struct cache_object *o = entry_object(s, key);
	int ret;

	queue_remove_locked(s, i);
	atomic_fetch_add_explicit(&o->puts_begun, 1, memory_order_release);
	entry_set_state_locked(s, i, ENTRY_LEAVING);
	mutex_unlock(&s->lock);
	ret = put(s, i, o, page);
	if (!ret)
		tally_add(o, COUNT_demoted, 1);
	mutex_lock(&s->lock);
	if (key_state(entry_key(&s->entry[i])) == ENTRY_DOOMED) {
		struct tmem_oid oid = oid_of(page);

		mutex_unlock(&s->lock);
		tmem_flush_page(o->client, o->pool, &oid, index_of(page));
		mutex_lock(&s->lock);
	}
	entry_leave_locked(s, i);
	frame_put_locked(s, i);
	/* The last that this does to the object: who destroys it waits for it. */
	atomic_fetch_add_explicit(&o->puts_done, 1, memory_order_release);
}

void demote_look(struct cache_object *o)
{
	/* In this order: equal, no put was under way when the first was read. */
	uint64_t done = atomic_load_explicit(&o->puts_done, memory_order_acquire);
	uint64_t begun = atomic_load_explicit(&o->puts_begun, memory_order_acquire);
	uint64_t seen = atomic_load_explicit(&o->empty_at, memory_order_relaxed);
	uint64_t pages, objects;

	if (!demote_may_have(o) || done != begun ||
	    tmem_pool_count(o->client, o->pool, &pages, &objects) || pages)
		return;
	while (seen < begun &&
	       !atomic_compare_exchange_weak_explicit(&o->empty_at, &seen, begun,
						      memory_order_release, memory_order_relaxed))
		;
}

/*
 * 0: the page was in tmem, stays there, and @dst has the bytes. -EALREADY: it should come back.
 * -ENODATA.
 */
static int copy_out(struct cache_object *o, const struct place *at, uint32_t off, uint32_t len,
		    void *dst)
{
	uint64_t page = key_page(at->key);
	struct tmem_oid oid = oid_of(page);
	uint8_t whole[CACHE_PAGE];
	void *to = len == CACHE_PAGE ? dst : whole;
	int ret = tmem_get_once(o->client, o->pool, &oid, index_of(page), to);

	if (!ret && to != dst)
		memcpy(dst, whole + off, len);
	return !ret || ret == -EALREADY ? ret : -ENODATA;
}

/* Makes a place for the page: NO_ENTRY if it has one, is being written, or no frame may be had. */
static uint32_t prepare(struct cache_object *o, const struct place *at)
{
	struct shard *s = at->s;
	uint64_t seen;
	uint32_t i;

	mutex_scope(&s->lock);
	i = frame_get_locked(s, o);
	if (i == NO_ENTRY)
		return i;
	if (index_find(s, at->key, at->hash, &seen) != NO_ENTRY ||
	    atomic_load_explicit(&at->cell->writers, memory_order_relaxed)) {
		frame_put_locked(s, i);
		return NO_ENTRY;
	}
	entry_enter_locked(s, i, at, ENTRY_COMING);
	return i;
}

static void arrive(const struct place *at, uint32_t i, int ret)
{
	struct shard *s = at->s;
	struct batch b;

	mutex_lock(&s->lock);
	if (ret || key_state(entry_key(&s->entry[i])) == ENTRY_DOOMED) {
		entry_leave_locked(s, i);
		frame_put_locked(s, i);
	} else {
		entry_set_state_locked(s, i, ENTRY_READY);
		page_ready_locked(s, i, true);
	}
	batch_take_locked(s, &b, false);
	mutex_unlock(&s->lock);
	batch_mark(s->c, &b);
}

/* As recall(), and the page is in memory afterwards. */
static int promote(struct cache_object *o, const struct place *at, uint32_t off, uint32_t len,
		   void *dst)
{
	uint64_t page = key_page(at->key);
	struct tmem_oid oid = oid_of(page);
	uint32_t i = prepare(o, at);
	uint8_t *frame;
	int ret, published = -ENODATA;

	if (i == NO_ENTRY)
		return -ENODATA;
	frame = volatile_page(o->c->range, at->s->first + i);
	ret = tmem_get_and_flush(o->client, o->pool, &oid, index_of(page), frame);
	if (!ret) {
		memcpy(dst, frame + off, len);
		published = volatile_publish(o->c->range, at->s->first + i);
	}
	arrive(at, i, published);
	return ret ? -ENODATA : 0;
}

int recall(struct cache_object *o, const struct place *at, uint32_t off, uint32_t len, void *dst)
{
	int ret = copy_out(o, at, off, len, dst);

	if (ret == -EALREADY)
		ret = promote(o, at, off, len, dst);
	if (!ret)
		return 0;
	if (atomic_fetch_add_explicit(&o->tmem_misses, 1, memory_order_relaxed) % LOOK_EACH == 0)
		demote_look(o);
	return -ENODATA;
}

static void flush_chunks(struct cache_object *o, uint64_t first, uint64_t last)
{
	if (last - first >= FLUSH_CHUNKS) {
		tmem_pool_flush(o->client, o->pool);
		return;
	}
	for (uint64_t chunk = first; chunk <= last; chunk++) {
		struct tmem_oid oid = {{chunk}};

		tmem_flush_object(o->client, o->pool, &oid);
	}
}

void demote_flush(struct cache_object *o, uint64_t first, uint64_t n)
{
	if (!demote_may_have(o))
		return;
	if (n > FLUSH_PAGES) {
		/* Pages beside the range in its first and last chunk go too. */
		flush_chunks(o, first >> TMEM_CHUNK, (first + n - 1) >> TMEM_CHUNK);
		return;
	}
	for (uint64_t page = first; page < first + n; page++) {
		struct tmem_oid oid = oid_of(page);

		tmem_flush_page(o->client, o->pool, &oid, index_of(page));
	}
}
