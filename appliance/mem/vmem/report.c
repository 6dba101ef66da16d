/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What an arena tells about itself, and its end, which tells of leaks. */
#include <stdlib.h>

#include "mem/vmem/vmem_private.h"

const char *vmem_name(const struct vmem *vm)
{
	return vm->name;
}

static uint64_t largest_free(struct vmem *vm)
{
	uint64_t max = 0;

	if (!vm->free_map)
		return 0;
	for (tag_id id = vm->free_list[log2_floor(vm->free_map)]; id;
	     id = tag_at(vm, id)->free.next)
		if (tag_at(vm, id)->size > max)
			max = tag_at(vm, id)->size;
	return max;
}

uint64_t vmem_size(struct vmem *vm, enum vmem_what what)
{
	mutex_scope(&vm->lock);
	switch (what) {
	case VMEM_ALLOCATED:
		return vm->allocated;
	case VMEM_FREE:
		return vm->total - vm->allocated;
	case VMEM_MAX:
		return largest_free(vm);
	}
	return 0;
}

static unsigned seg_of(enum tag_type type)
{
	switch (type) {
	case TAG_SPAN:
		return VMEM_SEG_SPAN;
	case TAG_IMPORTED:
		return VMEM_SEG_IMPORTED;
	case TAG_FREE:
		return VMEM_SEG_FREE;
	case TAG_ALLOC:
		return VMEM_SEG_ALLOC;
	case TAG_SLAB:
		return VMEM_SEG_SLAB;
	default:
		return 0;
	}
}

int vmem_walk(struct vmem *vm, unsigned mask, vmem_walk_fn *fn, void *arg)
{
	mutex_scope(&vm->lock);
	for (tag_id id = tag_at(vm, vm->anchor)->next; id != vm->anchor;
	     id = tag_at(vm, id)->next) {
		const struct tag *t = tag_at(vm, id);
		unsigned seg = seg_of(t->type);
		int r = seg & mask ? fn(arg, seg, t->start, t->size) : 0;

		if (r)
			return r;
	}
	return 0;
}

static uint64_t count_free_segments(struct vmem *vm)
{
	/* Each tag is the anchor, a span, a slab's record, or a segment. */
	return vm->n_tags - 1 - vm->count.spans - vm->count.slabs - vm->count.segments_allocated;
}

static uint64_t hash_bytes(const struct tag_hash *h)
{
	uint64_t bytes = 0;

	for (unsigned k = 1; k < HASH_SEGMENTS; k++)
		if (h->segment[k])
			bytes += tag_hash_segment_bytes(k);
	return bytes;
}

void vmem_stats(struct vmem *vm, struct vmem_stats *ret_stats)
{
	uint64_t handed[VMEM_QCACHE_CLASSES] = {0}, unused;
	struct vmem_stats st = {0};

	if (vm->qcache_max)
		qcache_stats(vm, &st, handed);
	mutex_lock(&vm->lock);
	st.total = vm->total;
	st.allocated = vm->allocated;
	st.free = vm->total - vm->allocated;
	st.spans = vm->count.spans;
	st.imported = vm->count.imported;
	st.segments_allocated = vm->count.segments_allocated;
	st.segments_free = count_free_segments(vm);
	st.slabs = vm->count.slabs;
	st.allocs += vm->count.allocs;
	st.frees += vm->count.frees;
	st.fails = vm->count.fails;
	st.imports = vm->count.imports;
	st.import_fails = vm->count.import_fails;
	st.releases = vm->count.releases;
	st.looks = vm->count.looks;
	st.tags = vm->n_tags;
	st.spare_tags = vm->n_spare;
	st.hash_buckets = vm->hash.n_buckets;
	st.meta_bytes += (vm->n_tags + vm->n_spare) * sizeof(struct tag) + hash_bytes(&vm->hash);
	unused = vm->slab_unused;
	for (unsigned k = 0; k < vm->n_classes; k++) {
		uint64_t out = vm->objects_out[k];

		if (out > handed[k])
			unused += (out - handed[k]) * (k + 1) << vm->quantum_shift;
	}
	mutex_unlock(&vm->lock);
	st.cached = unused;
	st.in_use = st.allocated - unused;
	*ret_stats = st;
}

/* --- the end --- */

struct leaks {
	vmem_leak_fn *fn;
	void *arg;
	uint64_t total;
};

static void leak(struct leaks *l, uint64_t addr, uint64_t size)
{
	l->total += size;
	if (l->fn)
		l->fn(l->arg, addr, size);
}

static void leak_slab(struct vmem *vm, const struct tag *t, struct leaks *l)
{
	const struct slab *s = slab_at(vm, t->used.slab);
	uint64_t size = (uint64_t)(s->klass + 1) << vm->quantum_shift;

	for (unsigned i = 0; i < t->size / size; i++)
		if (!(s->free_map >> i & 1))
			leak(l, s->start + i * size, size);
}

/* Tells of one segment's leaks; returns the tag after it. All tags go back. */
static tag_id segment_end(struct vmem *vm, tag_id id, struct leaks *l)
{
	struct tag *t = tag_at(vm, id);
	tag_id next = t->next;

	if (t->type == TAG_ALLOC)
		leak(l, t->start, t->size);
	if (t->type == TAG_SLAB) {
		leak_slab(vm, t, l);
		segment_spare_push(vm, t->used.slab);
	}
	segment_spare_push(vm, id);
	return next;
}

/* Ends a span and its segments; an imported one without leaks is released. */
static tag_id span_end(struct vmem *vm, tag_id id, struct leaks *l)
{
	struct tag span = *tag_at(vm, id);
	uint64_t before = l->total;
	tag_id next = span.next;

	segment_spare_push(vm, id);
	while (seg_of(tag_at(vm, next)->type) & (VMEM_SEG_ALLOC | VMEM_SEG_FREE | VMEM_SEG_SLAB))
		next = segment_end(vm, next, l);
	if (span.type == TAG_IMPORTED && l->total == before && vm->release)
		vm->release(vm->source, span.start, span.size);
	return next;
}

uint64_t vmem_destroy(struct vmem *vm, vmem_leak_fn *fn, void *arg)
{
	struct leaks l = {.fn = fn, .arg = arg};

	if (!vm)
		return 0;
	qcache_fini(vm);
	if (vm->anchor) {
		tag_id id = tag_at(vm, vm->anchor)->next;

		while (id != vm->anchor)
			id = span_end(vm, id, &l);
		segment_spare_push(vm, vm->anchor);
	}
	/* The meta arena's records end with the store. */
	for (unsigned k = 1; k < HASH_SEGMENTS && !vm->is_meta; k++)
		if (vm->hash.segment[k])
			tag_store_table_free(vm->store, vm->hash.segment[k],
					     tag_hash_segment_bytes(k));
	if (vm->spare && !vm->is_meta) {
		tag_id last = vm->spare;

		while (tag_at(vm, last)->spare_next)
			last = tag_at(vm, last)->spare_next;
		tag_store_give(vm->store, vm->spare, last);
	}
	mutex_destroy(&vm->lock);
	free(vm);
	return l.total;
}
