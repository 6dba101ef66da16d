/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which entry has a page.
 *
 * Lines of 15 slots, each a cache line. A page stands in the line it hashes to or, if that was
 * full, in the next one that was not; each line it had to pass counts it. So a search ends at the
 * first line that nobody passed, and removing leaves no marks: the counts go down again. A slot has
 * as many bits as it takes to number the shard's entries, and above them bits of the hash, 7 at
 * least, so that other pages' entries are seldom looked at. Nothing ever moves.
 *
 * The slots of a line are compared without a branch: where a page stands in its line cannot be
 * guessed, and a wrong guess delays the copy of its bytes.
 *
 * Changes are made under the shard's lock. Searches need none: a slot or key seen too late is a
 * miss, which is always allowed, and what is found is found by its key, which who needs more than
 * the entry's number looks at again (read.c).
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
static uint32_t slot_tag(const struct shard *s, uint64_t hash)
{
	/* Never that of an empty slot. */
	return (uint32_t)(hash >> 32 & ~s->slot_mask) | SLOT_USED;
}

/* Bit k: slot k has that tag. */
static uint32_t matches(const struct shard *s, const struct line *line, uint32_t tag)
{
	uint32_t found = 0;

	for (unsigned k = LINE_SLOTS; k-- > 0;) {
		uint32_t slot = atomic_load_explicit(&line->slot[k], memory_order_acquire);

		found = 2 * found + ((slot ^ tag) <= s->slot_mask);
	}
	return found;
}

struct index_walk index_walk(const struct shard *s, uint64_t hash)
{
	struct index_walk w = {.line = home_line(s, hash), .tag = slot_tag(s, hash)};

	w.found = matches(s, &s->line[w.line], w.tag);
	return w;
}

uint32_t index_next(const struct shard *s, struct index_walk *w)
{
	for (;;) {
		const struct line *line = &s->line[w->line];

		while (w->found) {
			unsigned k = (unsigned)__builtin_ctz(w->found);
			uint32_t slot = atomic_load_explicit(&line->slot[k], memory_order_acquire);

			w->found &= w->found - 1;
			if ((slot ^ w->tag) <= s->slot_mask) /* still */
				return (slot & s->slot_mask) - 1;
		}
		if (!atomic_load_explicit(&line->passed, memory_order_relaxed) ||
		    ++w->passed == s->lines)
			return NO_ENTRY;
		w->line = next_line(s, w->line);
		w->found = matches(s, &s->line[w->line], w->tag);
	}
}

uint32_t index_find(const struct shard *s, uint64_t key, uint64_t hash, uint64_t *ret_key)
{
	struct index_walk w = index_walk(s, hash);
	uint32_t i;

	while ((i = index_next(s, &w)) != NO_ENTRY) {
		uint64_t seen = entry_key(&s->entry[i]);

		if ((seen & ~KEY_STATE_MASK) == key) {
			*ret_key = seen;
			break;
		}
	}
	return i;
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
			atomic_store_explicit(&line->slot[k], slot_tag(s, hash) | (i + 1),
					      memory_order_release);
			return;
		}
		passed_add(line, 1);
	}
}

void index_remove_locked(struct shard *s, uint32_t i, uint64_t hash)
{
	uint32_t slot = slot_tag(s, hash) | (i + 1);

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
