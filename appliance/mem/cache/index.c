/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which entry has a page.
 *
 * Lines of 15 slots, each a cache line. A page stands in the line it hashes to or, if that was
 * full, in the next one that was not; each line it had to pass counts it. So a search ends at the
 * first line that nobody passed, and removing leaves no marks: the counts go down again. Slots hold
 * 8 bits of the hash, so that other pages' entries are rarely looked at. Nothing ever moves.
 *
 * Changes are made under the shard's lock. Searches need none: a slot or key seen too late is a
 * miss, which is always allowed, and what is found is found by its key, which the caller looks at
 * again after it has seen to what it needs the entry for.
 */
#include <assert.h>

#include "mem/cache/cache_private.h"

static uint32_t home_line(const struct shard *s, uint64_t hash)
{
	return (uint32_t)((hash & UINT32_MAX) * s->lines >> 32);
}
static uint32_t next_line(const struct shard *s, uint32_t l)
{
	return l + 1 < s->lines ? l + 1 : 0;
}
static uint32_t slot_make(uint32_t i, uint64_t hash)
{
	return (uint32_t)(hash >> 56) << 24 | (i + 1);
}

uint32_t index_find(const struct shard *s, uint64_t key, uint64_t hash, uint64_t *ret_key)
{
	uint32_t l = home_line(s, hash), tag = (uint32_t)(hash >> 56);

	for (uint32_t n = 0; n < s->lines; n++, l = next_line(s, l)) {
		struct line *line = &s->line[l];

		for (unsigned k = 0; k < LINE_SLOTS; k++) {
			uint32_t slot = atomic_load_explicit(&line->slot[k], memory_order_acquire);
			uint32_t i = (slot & NO_ENTRY) - 1;
			uint64_t seen;

			if (!slot || slot >> 24 != tag)
				continue;
			seen = entry_key(&s->entry[i]);
			if ((seen & ~KEY_STATE_MASK) != key)
				continue;
			*ret_key = seen;
			return i;
		}
		if (!atomic_load_explicit(&line->passed, memory_order_relaxed))
			break;
	}
	return NO_ENTRY;
}

static void passed_add(struct line *line, int n)
{
	uint32_t passed = atomic_load_explicit(&line->passed, memory_order_relaxed);

	atomic_store_explicit(&line->passed, passed + (uint32_t)n, memory_order_release);
}

void index_insert_locked(struct shard *s, uint32_t i, uint64_t hash)
{
	/* There are more slots than entries: this ends. */
	for (uint32_t l = home_line(s, hash);; l = next_line(s, l)) {
		struct line *line = &s->line[l];

		for (unsigned k = 0; k < LINE_SLOTS; k++) {
			if (atomic_load_explicit(&line->slot[k], memory_order_relaxed))
				continue;
			atomic_store_explicit(&line->slot[k], slot_make(i, hash),
					      memory_order_release);
			return;
		}
		passed_add(line, 1);
	}
}

void index_remove_locked(struct shard *s, uint32_t i, uint64_t hash)
{
	uint32_t slot = slot_make(i, hash);

	for (uint32_t l = home_line(s, hash), n = 0; n < s->lines; l = next_line(s, l), n++) {
		struct line *line = &s->line[l];

		for (unsigned k = 0; k < LINE_SLOTS; k++) {
			if (atomic_load_explicit(&line->slot[k], memory_order_relaxed) != slot)
				continue;
			atomic_store_explicit(&line->slot[k], 0, memory_order_release);
			return;
		}
		passed_add(line, -1);
	}
	assert(!"an entry that is not in the index");
}
