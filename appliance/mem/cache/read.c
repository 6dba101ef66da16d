/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading, without a lock.
 *
 *	find the entry by the index			key seen: the page's, ready or leaving
 *	load its frame's ticket
 *	load the key again				the same: the ticket is of this content,
 *							or of an older one
 *	volatile_read() with that ticket		0: of this content, whole
 *
 * A frame gets another page in this order: its key is cleared, the ticket moves (volatile_take()),
 * the bytes change, the new key is set. If the ticket loaded were of a later content, the key would
 * be seen cleared or another's by the second load; if it is of an earlier one, volatile_read()
 * says so (-ESTALE).
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

/*
 * 0: a hit, *@ret_zero tells of which kind. -ENOENT: not in the index. -EBUSY: of no use now.
 * -ENODATA: the kernel took it. -ESTALE, -EAGAIN: look again.
 */
static int read_memory(const struct place *at, uint32_t off, uint32_t len, void *dst,
		       bool *ret_zero)
{
	struct shard *s = at->s;
	uint64_t seen;
	uint32_t i = index_find(s, at->key, at->hash, &seen);
	struct entry *e = &s->entry[i];
	volatile_ticket ticket;
	int ret;

	if (i == NO_ENTRY)
		return -ENOENT;
	if (!readable(seen))
		return -EBUSY;
	*ret_zero = !entry_has_frame(s, i);
	if (*ret_zero) {
		memset(dst, 0, len);
		mark_used(e);
		return 0;
	}
	ticket = volatile_ticket_of(s->c->range, s->first + i);
	if (entry_key(e) != seen)
		return -ESTALE;
	ret = volatile_read(s->c->range, s->first + i, ticket, off, len, dst);
	if (!ret)
		mark_used(e);
	return ret;
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
	if (ret == -ENOENT && demote_may_have(o) && !promote(o, &at, off, len, dst)) {
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
