/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Segments: the list in address order, the free lists, and the three ways to choose from them.
 *
 * Free list i holds the free segments of size [2^i, 2^(i+1)); free_map has a bit for each list
 * that is not empty. A request of size s that any segment of list i fits (2^i >= s) is served by
 * the head of the first such list: a bit search - instant fit. Before a larger list is opened, a
 * few of list log2(s) are tried, which keeps large segments whole at a bounded price; only if no
 * larger list has any is all of it looked through. An aligned request counts as one of s + align -
 * quantum, which fits wherever the segment starts; other constraints always look.
 *
 * Freeing merges with both neighbours, which are known by the segment list; span tags stand between
 * the segments of different spans and end every merge.
 */
#include <assert.h>

#include "mem/vmem/vmem_private.h"

#define NO_LIST	   64u
#define NEAR_LOOKS 4u

/* --- spare tags --- */

tag_id segment_spare_pop(struct vmem *vm)
{
	tag_id id = vm->spare;

	assert(vm->n_spare > 0);
	vm->spare = tag_at(vm, id)->spare_next;
	vm->n_spare--;
	vm->n_tags++;
	return id;
}

static void spare_put(struct vmem *vm, tag_id id)
{
	tag_at(vm, id)->type = TAG_SPARE;
	tag_at(vm, id)->spare_next = vm->spare;
	vm->spare = id;
	vm->n_spare++;
}

void segment_spare_push(struct vmem *vm, tag_id id)
{
	spare_put(vm, id);
}

static void tag_done(struct vmem *vm, tag_id id)
{
	vm->n_tags--;
	spare_put(vm, id);
}

/* --- the segment list --- */

void segment_init(struct vmem *vm, tag_id anchor)
{
	*tag_at(vm, anchor) = (struct tag){.type = TAG_ANCHOR, .prev = anchor, .next = anchor};
	vm->anchor = anchor;
	vm->rotor = anchor;
}

static void list_insert_after(struct vmem *vm, tag_id prev, tag_id id)
{
	tag_id next = tag_at(vm, prev)->next;

	tag_at(vm, id)->prev = prev;
	tag_at(vm, id)->next = next;
	tag_at(vm, prev)->next = id;
	tag_at(vm, next)->prev = id;
}

/* Unlinks @id and makes it spare; what knew it knows @heir now. */
static void list_remove(struct vmem *vm, tag_id id, tag_id heir)
{
	struct tag *t = tag_at(vm, id);

	tag_at(vm, t->prev)->next = t->next;
	tag_at(vm, t->next)->prev = t->prev;
	if (vm->rotor == id)
		vm->rotor = heir;
	tag_done(vm, id);
}

/* --- free lists --- */

static void free_insert(struct vmem *vm, tag_id id)
{
	struct tag *t = tag_at(vm, id);
	unsigned i = log2_floor(t->size);

	t->type = TAG_FREE;
	t->free.prev = 0;
	t->free.next = vm->free_list[i];
	if (t->free.next)
		tag_at(vm, t->free.next)->free.prev = id;
	vm->free_list[i] = id;
	vm->free_map |= 1ull << i;
}

static void free_remove(struct vmem *vm, tag_id id)
{
	struct tag *t = tag_at(vm, id);
	unsigned i = log2_floor(t->size);

	if (t->free.next)
		tag_at(vm, t->free.next)->free.prev = t->free.prev;
	if (t->free.prev)
		tag_at(vm, t->free.prev)->free.next = t->free.next;
	else
		vm->free_list[i] = t->free.next;
	if (!vm->free_list[i])
		vm->free_map &= ~(1ull << i);
}

/* Gives a free segment other bounds, moving it to another list only when it must. */
static void free_resize(struct vmem *vm, tag_id id, uint64_t start, uint64_t size)
{
	struct tag *t = tag_at(vm, id);
	bool moves = log2_floor(t->size) != log2_floor(size);

	if (moves)
		free_remove(vm, id);
	t->start = start;
	t->size = size;
	if (moves)
		free_insert(vm, id);
}

/* --- choosing --- */

static uint64_t align_up(uint64_t x, uint64_t align, uint64_t phase)
{
	return x + ((phase - x) & (align - 1));
}

static bool crosses(uint64_t start, uint64_t size, uint64_t nocross)
{
	return nocross && ((start ^ (start + size - 1)) & ~(nocross - 1));
}

bool segment_fit(const struct vmem *vm, tag_id id, const struct vmem_request *req, uint64_t from,
		 uint64_t *ret_start)
{
	const struct tag *t = tag_at(vm, id);
	uint64_t end = t->start + t->size, low = t->start, start;

	if (req->min > low)
		low = req->min;
	if (from > low)
		low = from;
	if (req->max && req->max < end)
		end = req->max;
	start = align_up(low, req->align, req->phase);
	if (start < low || start >= end || end - start < req->size)
		return false;
	if (crosses(start, req->size, req->nocross)) {
		/* The first candidate after the boundary: if it crosses too, so do all others. */
		low = align_up(start, req->nocross, 0);
		start = align_up(low, req->align, req->phase);
		if (start < low || start >= end || end - start < req->size ||
		    crosses(start, req->size, req->nocross))
			return false;
	}
	*ret_start = start;
	return true;
}

/* The first list of which every segment fits @req, or NO_LIST. */
static unsigned sure_list(const struct vmem *vm, const struct vmem_request *req)
{
	uint64_t sure = req->size + (req->align - vm->quantum), map;
	unsigned i;

	if (req->nocross || req->min || req->max || sure > VMEM_SIZE_MAX)
		return NO_LIST;
	i = log2_ceil(sure);
	map = vm->free_map >> i << i;
	return map ? (unsigned)__builtin_ctzll(map) : NO_LIST;
}

static tag_id find_first(struct vmem *vm, const struct vmem_request *req, uint64_t budget,
			 uint64_t *ret_start)
{
	for (unsigned i = log2_floor(req->size); i < CLASS_LISTS; i++) {
		for (tag_id id = vm->free_list[i]; id; id = tag_at(vm, id)->free.next) {
			if (!budget--)
				return 0;
			vm->count.looks++;
			if (segment_fit(vm, id, req, 0, ret_start))
				return id;
		}
	}
	return 0;
}

/*
 * A few looks into the list of the request's own size, some of whose segments fit: they keep larger
 * segments whole.
 */
static tag_id find_near(struct vmem *vm, const struct vmem_request *req, uint64_t *ret_start)
{
	tag_id id = vm->free_list[log2_floor(req->size)];

	for (unsigned n = 0; id && n < NEAR_LOOKS; n++) {
		vm->count.looks++;
		if (segment_fit(vm, id, req, 0, ret_start))
			return id;
		id = tag_at(vm, id)->free.next;
	}
	return 0;
}

/* The first list with any that fits has the smallest that fits. */
static tag_id find_best(struct vmem *vm, const struct vmem_request *req, uint64_t *ret_start)
{
	tag_id best = 0;

	for (unsigned i = log2_floor(req->size); i < CLASS_LISTS && !best; i++) {
		for (tag_id id = vm->free_list[i]; id; id = tag_at(vm, id)->free.next) {
			uint64_t start;

			vm->count.looks++;
			if (best && tag_at(vm, id)->size >= tag_at(vm, best)->size)
				continue;
			if (!segment_fit(vm, id, req, 0, &start))
				continue;
			best = id;
			*ret_start = start;
			if (tag_at(vm, id)->size == req->size)
				return id;
		}
	}
	return best;
}

static tag_id find_next(struct vmem *vm, const struct vmem_request *req, uint64_t *ret_start)
{
	tag_id id = vm->rotor;
	const struct tag *t = tag_at(vm, id);

	if (!(vm->free_map >> log2_floor(req->size)))
		return 0;
	/* The rotor's own segment from the rotor on, the others, and at last its beginning. */
	if (t->type == TAG_FREE && vm->rotor_addr > t->start &&
	    vm->rotor_addr < t->start + t->size &&
	    segment_fit(vm, id, req, vm->rotor_addr, ret_start))
		return id;
	if (t->type == TAG_FREE && vm->rotor_addr <= t->start &&
	    segment_fit(vm, id, req, 0, ret_start))
		return id;
	do {
		id = tag_at(vm, id)->next;
		vm->count.looks++;
		if (tag_at(vm, id)->type == TAG_FREE && segment_fit(vm, id, req, 0, ret_start))
			return id;
	} while (id != vm->rotor);
	return 0;
}

tag_id segment_find(struct vmem *vm, const struct vmem_request *req, unsigned flags,
		    uint64_t budget, uint64_t *ret_start)
{
	unsigned i;

	if (flags & VMEM_NEXT_FIT)
		return find_next(vm, req, ret_start);
	if (flags & VMEM_BEST_FIT)
		return find_best(vm, req, ret_start);
	i = sure_list(vm, req);
	if (i != NO_LIST) {
		tag_id id = i > log2_floor(req->size) ? find_near(vm, req, ret_start) : 0;

		if (id)
			return id;
		id = vm->free_list[i];
		*ret_start = align_up(tag_at(vm, id)->start, req->align, req->phase);
		return id;
	}
	return find_first(vm, req, budget, ret_start);
}

/* --- taking and freeing --- */

static tag_id add_after(struct vmem *vm, tag_id prev, enum tag_type type, uint64_t start,
			uint64_t size)
{
	tag_id id = segment_spare_pop(vm);

	*tag_at(vm, id) = (struct tag){.start = start, .size = size, .type = type};
	list_insert_after(vm, prev, id);
	return id;
}

tag_id segment_add_span(struct vmem *vm, enum tag_type type, uint64_t addr, uint64_t size)
{
	tag_id last = tag_at(vm, vm->anchor)->prev;
	tag_id span = add_after(vm, last, type, addr, size);
	tag_id seg = add_after(vm, span, TAG_FREE, addr, size);

	free_insert(vm, seg);
	vm->total += size;
	vm->count.spans++;
	if (type == TAG_IMPORTED)
		vm->count.imported++;
	return seg;
}

tag_id segment_carve(struct vmem *vm, tag_id id, uint64_t start, uint64_t size)
{
	struct tag *t = tag_at(vm, id);
	uint64_t end = t->start + t->size;
	tag_id taken = id;

	assert(t->type == TAG_FREE && start >= t->start && end - start >= size);
	if (start == t->start && t->size == size) {
		free_remove(vm, id);
		t->type = TAG_ALLOC;
	} else if (start == t->start) {
		taken = add_after(vm, t->prev, TAG_ALLOC, start, size);
		free_resize(vm, id, start + size, end - start - size);
	} else {
		taken = add_after(vm, id, TAG_ALLOC, start, size);
		if (end > start + size)
			free_insert(vm, add_after(vm, taken, TAG_FREE, start + size,
						  end - start - size));
		free_resize(vm, id, t->start, start - t->start);
	}
	tag_at(vm, taken)->used.slab = 0;
	tag_hash_insert(vm, taken);
	vm->allocated += size;
	vm->count.segments_allocated++;
	return taken;
}

/* Takes the span out if @id is all of it, and it was imported and can go back. */
static void span_leave(struct vmem *vm, tag_id id, struct span_back *ret_back)
{
	tag_id span = tag_at(vm, id)->prev;
	struct tag *s = tag_at(vm, span);

	if (s->type != TAG_IMPORTED || s->size != tag_at(vm, id)->size || !vm->release)
		return;
	*ret_back = (struct span_back){s->start, s->size};
	vm->total -= s->size;
	vm->count.spans--;
	vm->count.imported--;
	vm->count.releases++;
	free_remove(vm, id);
	list_remove(vm, id, vm->anchor);
	list_remove(vm, span, vm->anchor);
}

void segment_free(struct vmem *vm, tag_id id, struct span_back *ret_back)
{
	struct tag *t = tag_at(vm, id);
	tag_id next = t->next, prev = t->prev;

	__builtin_prefetch(tag_at(vm, prev)); /* both misses at once */
	*ret_back = (struct span_back){0};
	vm->allocated -= t->size;
	vm->count.segments_allocated--;
	if (tag_at(vm, next)->type == TAG_FREE) {
		free_remove(vm, next);
		t->size += tag_at(vm, next)->size;
		list_remove(vm, next, id);
	}
	if (tag_at(vm, prev)->type == TAG_FREE) {
		free_resize(vm, prev, tag_at(vm, prev)->start, tag_at(vm, prev)->size + t->size);
		list_remove(vm, id, prev);
		id = prev;
	} else {
		free_insert(vm, id);
	}
	span_leave(vm, id, ret_back);
}
