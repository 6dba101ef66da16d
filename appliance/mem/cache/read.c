/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading, without a lock.
 *
 *	for each entry that might have the page, by its hash:
 *	load its frame's ticket
 *	volatile_read() with that ticket	0: the bytes are of one content, whole
 *	load the entry's key			the page's, and readable; else it is another's
 *	load the ticket again			the same: it was the page's content
 *
 * A frame gets another page in this order: its key is cleared, the ticket moves (volatile_take()),
 * the bytes change, the new key is set. So between two loads of one ticket the frame had one
 * content, and a key that was seen in between is of that content.
 *
 * The key is looked at after the copy because its line is then there: it is fetched while bytes are
 * copied, and what the bits of the hash promise is nearly always so.
 *
 * A write clears the key of a page, or makes it doomed, before cache_write_begin() returns: a read
 * that starts after that finds no key that it would read by.
 */
#include <errno.h>
#include <string.h>

#include "mem/cache/cache_private.h"

#define READ_ATTEMPTS 3

static bool readable(uint64_t key)
{
	return key_state(key) == ENTRY_READY || key_state(key) == ENTRY_LEAVING;
}

static void mark_used(struct entry *e)
{
	uint8_t use = atomic_load_explicit(&e->use, memory_order_relaxed);

	if (use < USE_MAX)
		atomic_store_explicit(&e->use, use + 1, memory_order_relaxed);
}

/* A page of zeros has no frame: only its key tells. */
static int read_zeros(struct entry *e, uint64_t key, uint32_t len, void *dst)
{
	uint64_t seen = entry_key(e);

	if ((seen & ~KEY_STATE_MASK) != key)
		return -ENOENT;
	memset(dst, 0, len);
	return 0;
}

static int read_frame(struct shard *s, uint32_t i, uint64_t key, uint32_t off, uint32_t len,
		      void *dst)
{
	struct volatile_range *r = s->c->range;
	volatile_ticket ticket = volatile_ticket_of(r, s->first + i);
	uint64_t seen;
	int ret;

	__builtin_prefetch(&s->entry[i]);
	ret = volatile_read(r, s->first + i, ticket, off, len, dst);
	seen = entry_key(&s->entry[i]);
	if ((seen & ~KEY_STATE_MASK) != key)
		return -ENOENT;
	if (!readable(seen))
		return -EBUSY;
	if (!ret && volatile_ticket_of(r, s->first + i) != ticket)
		return -ESTALE;
	return ret;
}

/*
 * 0: a hit, *@ret_zero tells of which kind. -ENOENT: not in the index. -EBUSY: of no use now.
 * -ENODATA: the kernel took it. -ESTALE, -EAGAIN: look again.
 */
static int read_memory(const struct place *at, uint32_t off, uint32_t len, void *dst,
		       bool *ret_zero)
{
	struct shard *s = at->s;
	struct index_walk w = index_walk(s, at->hash);
	uint32_t i;

	while ((i = index_next(s, &w)) != NO_ENTRY) {
		int ret;

		*ret_zero = !entry_has_frame(s, i);
		ret = *ret_zero ? read_zeros(&s->entry[i], at->key, len, dst)
				: read_frame(s, i, at->key, off, len, dst);
		if (!ret)
			mark_used(&s->entry[i]);
		if (ret != -ENOENT)
			return ret;
	}
	return -ENOENT;
}

static void forget_purged(struct cache_object *o, const struct place *at)
{
	struct shard *s = at->s;
	uint64_t seen;
	uint32_t i;

	mutex_scope(&s->lock);
	i = index_find(s, at->key, at->hash, &seen);
	/* Leaving, it goes by itself. */
	if (i == NO_ENTRY || !entry_has_frame(s, i) || key_state(seen) != ENTRY_READY ||
	    !frame_gone(s, i))
		return;
	page_purged_locked(s, i);
	tally_add(o, COUNT_purged, 1);
}

int cache_read(struct cache_object *o, uint64_t page, uint32_t off, uint32_t len, void *dst)
{
	struct place at = place_of(o, page);
	bool zero = false;
	int ret = -ENOENT;

	if (page > PAGE_MAX)
		return -ENODATA;
	for (unsigned i = 0; i < READ_ATTEMPTS; i++) {
		ret = read_memory(&at, off, len, dst, &zero);
		if (ret != -ESTALE && ret != -EAGAIN)
			break;
	}
	if (!ret) {
		tally_add(o, zero ? COUNT_hits_zero : COUNT_hits_memory, 1);
		return 0;
	}
	if (ret == -ENODATA)
		forget_purged(o, &at);
	if (ret == -ENOENT && demote_may_have(o) && !recall(o, &at, off, len, dst)) {
		tally_add(o, COUNT_hits_tmem, 1);
		return 0;
	}
	tally_add(o, COUNT_misses, 1);
	return -ENODATA;
}

bool cache_has(struct cache_object *o, uint64_t page)
{
	struct place at = place_of(o, page);
	uint64_t seen;

	return page <= PAGE_MAX && index_find(at.s, at.key, at.hash, &seen) != NO_ENTRY &&
	       readable(seen);
}
