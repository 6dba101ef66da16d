/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Slabs: where the objects of quantum caches come from.
 *
 * A slab is one segment of slab_size, the next power of two above 3 * qcache_max (the paper's
 * rule: little waste for every class, and slabs of all classes are alike, so that they do not
 * fragment the arena), aligned to its size. It is cut into objects of one class, (klass + 1)
 * quanta each; a bitmap of 64 tells which are free. So an object of a slab costs no tag of its own,
 * and its slab is found by masking its address. The record of a slab takes the place of a tag.
 *
 * Slabs with free objects are listed by class; one empty slab a class is kept, others are freed.
 * When no slab can be had (the arena is small, or crumbled), a single segment serves; when it is
 * freed there is no slab at its masked address - all of that would be the slab's - and it is freed
 * as a segment.
 *
 * Objects come and go in batches, one lock a batch. Finding the slabs of a batch is a chain of
 * cache misses each when many objects live; the batch makes these misses at the same time.
 */
#include "mem/vmem/vmem_private.h"

#define EMPTY_KEPT 1u

static uint64_t object_size(const struct vmem *vm, unsigned klass)
{
	return (uint64_t)(klass + 1) << vm->quantum_shift;
}

static unsigned objects_per_slab(const struct vmem *vm, unsigned klass)
{
	return (unsigned)(vm->slab_size / object_size(vm, klass));
}

static void partial_insert(struct vmem *vm, tag_id id)
{
	struct slab *s = slab_at(vm, id);

	s->prev = 0;
	s->next = vm->partial[s->klass];
	if (s->next)
		slab_at(vm, s->next)->prev = id;
	vm->partial[s->klass] = id;
}

static void partial_remove(struct vmem *vm, tag_id id)
{
	struct slab *s = slab_at(vm, id);

	if (s->next)
		slab_at(vm, s->next)->prev = s->prev;
	if (s->prev)
		slab_at(vm, s->prev)->next = s->next;
	else
		vm->partial[s->klass] = s->next;
}

/* Makes a slab. 0: @vm is locked. Else it is unlocked. */
static int slab_new(struct vmem *vm, unsigned klass)
{
	unsigned n = objects_per_slab(vm, klass);
	tag_id tag, id;
	int r = arena_take(vm,
			   &(struct vmem_request){
				   .size = vm->slab_size,
				   .align = vm->slab_size,
			   },
			   0, &tag);

	if (r)
		return r;
	id = segment_spare_pop(vm);
	*slab_at(vm, id) = (struct slab){
		.start = tag_at(vm, tag)->start,
		.free_map = n == 64 ? UINT64_MAX : (1ull << n) - 1,
		.tag = tag,
		.klass = (uint8_t)klass,
		.n_free = (uint8_t)n,
	};
	tag_at(vm, tag)->type = TAG_SLAB;
	tag_at(vm, tag)->used.slab = id;
	vm->slab_unused += vm->slab_size;
	vm->count.slabs++;
	vm->empty_slabs[klass]++;
	partial_insert(vm, id);
	return 0;
}

/* Frees an empty slab. */
static void slab_end(struct vmem *vm, tag_id id, struct span_back *ret_back)
{
	struct slab *s = slab_at(vm, id);
	tag_id tag = s->tag;

	partial_remove(vm, id);
	tag_hash_remove(vm, s->start);
	vm->slab_unused -= vm->slab_size;
	vm->count.slabs--;
	vm->empty_slabs[s->klass]--;
	vm->n_tags--;
	segment_spare_push(vm, id);
	segment_free(vm, tag, ret_back);
}

static unsigned take_partial(struct vmem *vm, unsigned klass, uint64_t *addr, unsigned n)
{
	uint64_t size = object_size(vm, klass);
	unsigned got = 0;

	while (got < n && vm->partial[klass]) {
		tag_id id = vm->partial[klass];
		struct slab *s = slab_at(vm, id);

		if (s->n_free == objects_per_slab(vm, klass))
			vm->empty_slabs[klass]--;
		while (got < n && s->free_map) {
			unsigned i = (unsigned)__builtin_ctzll(s->free_map);

			s->free_map &= s->free_map - 1;
			s->n_free--;
			addr[got++] = s->start + i * size;
		}
		if (!s->free_map)
			partial_remove(vm, id);
	}
	vm->objects_out[klass] += got;
	vm->slab_unused -= got * size;
	return got;
}

/* One object as a segment of its own. */
static unsigned take_single(struct vmem *vm, unsigned klass, uint64_t *addr)
{
	tag_id id;

	if (arena_take(vm,
		       &(struct vmem_request){
			       .size = object_size(vm, klass),
			       .align = vm->quantum,
		       },
		       0, &id))
		return 0;
	*addr = tag_at(vm, id)->start;
	vm->objects_out[klass]++;
	arena_unlock(vm);
	return 1;
}

unsigned slab_alloc(struct vmem *vm, unsigned klass, uint64_t *addr, unsigned n)
{
	unsigned got;

	mutex_lock(&vm->lock);
	got = take_partial(vm, klass, addr, n);
	while (got < (n + 1) / 2) {
		arena_unlock(vm);
		if (slab_new(vm, klass))
			return got ? got : take_single(vm, klass, addr);
		got += take_partial(vm, klass, addr + got, n - got);
	}
	arena_unlock(vm);
	return got;
}

static void free_one(struct vmem *vm, unsigned klass, uint64_t addr, struct span_back *ret_back)
{
	uint64_t size = object_size(vm, klass), base = addr & ~(vm->slab_size - 1), offset;
	tag_id tag = tag_hash_find(vm, base), id;
	struct slab *s;
	unsigned i;

	*ret_back = (struct span_back){0};
	vm->objects_out[klass]--;
	if (!tag || tag_at(vm, tag)->type != TAG_SLAB) {
		tag = tag_hash_remove(vm, addr);
		if (!tag || tag_at(vm, tag)->size != size)
			vmem_panic(vm, "freed, but not allocated so", addr, size);
		segment_free(vm, tag, ret_back);
		return;
	}
	id = tag_at(vm, tag)->used.slab;
	s = slab_at(vm, id);
	offset = addr - base;
	i = (unsigned)(offset / size);
	if (s->klass != klass || i * size != offset || i >= objects_per_slab(vm, klass))
		vmem_panic(vm, "freed with another size than allocated", addr, size);
	if (s->free_map >> i & 1)
		vmem_panic(vm, "freed twice", addr, size);
	if (!s->free_map)
		partial_insert(vm, id);
	s->free_map |= 1ull << i;
	s->n_free++;
	vm->slab_unused += size;
	if (s->n_free < objects_per_slab(vm, klass))
		return;
	if (vm->empty_slabs[klass]++ >= EMPTY_KEPT)
		slab_end(vm, id, ret_back);
}

void slab_free(struct vmem *vm, unsigned klass, const uint64_t *addr, unsigned n)
{
	uint64_t mask = ~(vm->slab_size - 1);

	mutex_lock(&vm->lock);
	for (unsigned i = 0; i < n; i++)
		tag_hash_prefetch_bucket(vm, addr[i] & mask);
	for (unsigned i = 0; i < n; i++)
		tag_hash_prefetch_tag(vm, addr[i] & mask);
	for (unsigned i = 0; i < n; i++) {
		tag_id tag = tag_hash_find(vm, addr[i] & mask);

		if (tag)
			__builtin_prefetch(slab_at(vm, tag_at(vm, tag)->used.slab));
	}
	for (unsigned i = 0; i < n; i++) {
		struct span_back back;

		free_one(vm, klass, addr[i], &back);
		if (!back.size)
			continue;
		arena_unlock(vm);
		arena_release(vm, &back, 1);
		mutex_lock(&vm->lock);
	}
	arena_unlock(vm);
}

void slab_reap(struct vmem *vm)
{
	for (unsigned klass = 0; klass < vm->n_classes; klass++) {
		struct span_back back = {0};

		mutex_lock(&vm->lock);
		for (tag_id id = vm->partial[klass]; id; id = slab_at(vm, id)->next) {
			if (slab_at(vm, id)->n_free < objects_per_slab(vm, klass))
				continue;
			slab_end(vm, id, &back); /* one is all that is kept */
			break;
		}
		arena_unlock(vm);
		arena_release(vm, &back, 1);
	}
}
