/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmem: a general allocator of integers, after Bonwick and Adams (USENIX 2001).
 *
 * 1. What there is. An arena owns spans of integers. A span is cut into segments, each allocated or
 *    free, each described by a boundary tag:
 *
 *	anchor - span - seg - seg - seg - span - seg - (anchor)	segment list, by address
 *	free_list[i]: free segments of [2^i, 2^(i+1))			segment.c
 *	hash: allocated segments by start				tag_hash.c
 *	slabs: allocated segments cut into equal small objects		slab.c
 *	magazines: stacks of such objects, two a thread and class	qcache.c
 *
 *    Small sizes pass through magazines without a lock; the rest, and magazines by the batch, come
 *    to the arena, under its one lock.
 *
 * 2. Stacking. An arena that finds nothing imports a span from its source, and returns it as soon
 *    as all of it is free. The source may be another arena, so arenas form a tree; or any function,
 *    which may map memory or ask another machine. The arena's lock is not held across it. The
 *    allocation that imported takes its part before others see the span.
 *
 * 3. Memory for memory. Records never lie in what an arena hands out. They are tags of a store
 *    (tag_store.c), taken before the lock, TAGS_NEEDED at least, so that an operation that has
 *begun can be finished. Freeing needs no tag, no table and no magazine that is not there: it cannot
 *    fail. What grows (hash table, magazines) grows when an allocation comes by and there is memory
 *    for it; without, it is slower and right.
 *
 * 4. Locks, outermost first: threads (who has magazines) - depot (a class of one arena) - grow (a
 *    store makes tags) - arena - tags (a store's free list). Two arenas are never locked at once.
 *
 * 5. Errors. -ENOMEM: nothing fits and the source gave nothing, or no tags. A wrong free is a
 *    programmer's error and ends the process, for the arena would hand one integer to two owners.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "mem/vmem/vmem_private.h"

/* Free segments to look at before importing is thought cheaper. */
#define LOOKS_BEFORE_IMPORT 64u

_Noreturn void vmem_panic(const struct vmem *vm, const char *what, uint64_t addr, uint64_t size)
{
	fprintf(stderr, "vmem %s: %s: address 0x%llx size 0x%llx\n", vm->name, what,
		(unsigned long long)addr, (unsigned long long)size);
	abort();
}

static bool is_pow2(uint64_t n)
{
	return n && !(n & (n - 1));
}

static uint64_t round_up(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) & ~(unit - 1);
}

/* --- locking with tags at hand --- */

static int spare_fill(struct vmem *vm)
{
	tag_id list;

	if (tag_store_take(vm->store, TAG_BATCH, &list) &&
	    tag_store_take(vm->store, TAGS_NEEDED, &list))
		return -ENOMEM;
	mutex_lock(&vm->lock);
	while (list) {
		tag_id next = tag_at(vm, list)->spare_next;

		segment_spare_push(vm, list);
		list = next;
	}
	mutex_unlock(&vm->lock);
	return 0;
}

/* Brings the hash segment @k, which was wanted. Without memory the table stays as it is. */
static bool hash_fill(struct vmem *vm, unsigned k)
{
	size_t bytes = tag_hash_segment_bytes(k);
	void *p = tag_store_table_alloc(vm->store, bytes);

	if (!p)
		return false;
	mutex_lock(&vm->lock);
	if (tag_hash_wants(&vm->hash) == k)
		vm->hash.segment[k] = take_ptr(p);
	mutex_unlock(&vm->lock);
	if (p)
		tag_store_table_free(vm->store, p, bytes);
	return true;
}

int arena_lock(struct vmem *vm)
{
	bool may_fill = !vm->is_meta;

	for (;;) {
		unsigned k;

		mutex_lock(&vm->lock);
		if (UNLIKELY(vm->n_spare < TAGS_NEEDED)) {
			mutex_unlock(&vm->lock);
			if (vm->is_meta || spare_fill(vm))
				return -ENOMEM;
			continue;
		}
		k = may_fill ? tag_hash_wants(&vm->hash) : 0;
		if (LIKELY(!k))
			return 0;
		mutex_unlock(&vm->lock);
		may_fill = hash_fill(vm, k);
	}
}

void arena_unlock(struct vmem *vm)
{
	tag_id list = 0, last = 0;

	if (UNLIKELY(vm->n_spare > 3 * TAG_BATCH) && !vm->is_meta) {
		list = last = vm->spare;
		for (unsigned i = 1; i < TAG_BATCH; i++)
			last = tag_at(vm, last)->spare_next;
		vm->spare = tag_at(vm, last)->spare_next;
		vm->n_spare -= TAG_BATCH;
	}
	mutex_unlock(&vm->lock);
	if (list)
		tag_store_give(vm->store, list, last);
}

/* --- import and release --- */

void arena_release(struct vmem *vm, const struct span_back *back, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (back[i].size)
			vm->release(vm->source, back[i].addr, back[i].size);
}

/* Enters unlocked. 0: locked, *ret_tag is the new span's free segment. Else unlocked. */
static int import_span(struct vmem *vm, const struct vmem_request *req, tag_id *ret_tag)
{
	uint64_t size = req->size, addr;
	int r;

	if (!vm->import || req->nocross || req->min || req->max)
		return -ENOMEM;
	size += req->align - vm->quantum;
	if (size < vm->import_min)
		size = vm->import_min;
	if (size > VMEM_SIZE_MAX)
		return -ENOMEM;
	r = vm->import(vm->source, size, &addr);
	if (!r) {
		r = arena_lock(vm);
		if (r && vm->release)
			vm->release(vm->source, addr, size);
		else if (r)
			vmem_add(vm, addr, size); /* it cannot go back; tags may be there yet */
	}
	if (r) {
		mutex_scope(&vm->lock);
		vm->count.import_fails++;
		return r;
	}
	vm->count.imports++;
	*ret_tag = segment_add_span(vm, TAG_IMPORTED, addr, size);
	return 0;
}

int arena_take(struct vmem *vm, const struct vmem_request *req, unsigned flags, tag_id *ret_tag)
{
	uint64_t start = 0;
	tag_id id;
	int r = arena_lock(vm);

	if (r)
		return r;
	id = segment_find(vm, req, flags, vm->import ? LOOKS_BEFORE_IMPORT : UINT64_MAX, &start);
	if (!id && vm->import) {
		arena_unlock(vm);
		r = import_span(vm, req, &id);
		if (!r) {
			if (!segment_fit(vm, id, req, 0, &start))
				vmem_panic(vm, "the source gave what does not fit",
					   tag_at(vm, id)->start, tag_at(vm, id)->size);
		} else {
			r = arena_lock(vm);
			if (r)
				return r;
			id = segment_find(vm, req, flags, UINT64_MAX, &start);
		}
	}
	if (!id) {
		vm->count.fails++;
		arena_unlock(vm);
		return -ENOMEM;
	}
	*ret_tag = segment_carve(vm, id, start, req->size);
	if (flags & VMEM_NEXT_FIT) {
		vm->rotor = *ret_tag;
		vm->rotor_addr = start + req->size;
	}
	return 0;
}

int vmem_import_arena(void *source, uint64_t size, uint64_t *ret_addr)
{
	return vmem_alloc(source, size, 0, ret_addr);
}

void vmem_release_arena(void *source, uint64_t addr, uint64_t size)
{
	vmem_free(source, addr, size);
}

int vmem_add(struct vmem *vm, uint64_t addr, uint64_t size)
{
	int r;

	if (!size || size > VMEM_SIZE_MAX || (addr | size) & (vm->quantum - 1) ||
	    addr + size < addr)
		return -EINVAL;
	r = arena_lock(vm);
	if (r)
		return r;
	segment_add_span(vm, TAG_SPAN, addr, size);
	arena_unlock(vm);
	return 0;
}

/* --- allocating and freeing --- */

static int take(struct vmem *vm, const struct vmem_request *req, unsigned flags, uint64_t *ret_addr)
{
	tag_id id;
	int r = arena_take(vm, req, flags, &id);

	if (r)
		return r;
	*ret_addr = tag_at(vm, id)->start;
	vm->count.allocs++;
	arena_unlock(vm);
	return 0;
}

int vmem_alloc(struct vmem *vm, uint64_t size, unsigned flags, uint64_t *ret_addr)
{
	if (LIKELY(vmem_try_alloc(vm, size, ret_addr)))
		return 0;
	if (size - 1 < vm->qcache_max)
		return qcache_alloc(vm, size, ret_addr);
	if (!size || size > VMEM_SIZE_MAX)
		return -EINVAL;
	return take(vm,
		    &(struct vmem_request){
			    .size = round_up(size, vm->quantum),
			    .align = vm->quantum,
		    },
		    flags, ret_addr);
}

int vmem_xalloc(struct vmem *vm, const struct vmem_request *req, unsigned flags, uint64_t *ret_addr)
{
	struct vmem_request q = *req;
	uint64_t mask = vm->quantum - 1;

	if (!q.size || q.size > VMEM_SIZE_MAX || (q.align && !is_pow2(q.align)) ||
	    (q.nocross && !is_pow2(q.nocross)))
		return -EINVAL;
	q.size = round_up(q.size, vm->quantum);
	if (q.align < vm->quantum)
		q.align = vm->quantum;
	if (q.align > VMEM_SIZE_MAX || q.phase & mask || q.phase >= q.align ||
	    (q.nocross && q.nocross < q.size) || q.min > UINT64_MAX - mask)
		return -EINVAL;
	q.min = round_up(q.min, vm->quantum);
	if (q.max) {
		q.max &= ~mask;
		if (q.max < q.min || q.max - q.min < q.size)
			return -EINVAL;
	}
	return take(vm, &q, flags, ret_addr);
}

void vmem_xfree(struct vmem *vm, uint64_t addr, uint64_t size)
{
	struct span_back back;
	tag_id id;

	mutex_lock(&vm->lock);
	id = tag_hash_remove(vm, addr);
	if (!id)
		vmem_panic(vm, "freed, but not allocated", addr, size);
	if (tag_at(vm, id)->type != TAG_ALLOC ||
	    tag_at(vm, id)->size != round_up(size, vm->quantum))
		vmem_panic(vm, "freed with another size than allocated", addr, size);
	segment_free(vm, id, &back);
	vm->count.frees++;
	arena_unlock(vm);
	arena_release(vm, &back, 1);
}

void vmem_free(struct vmem *vm, uint64_t addr, uint64_t size)
{
	if (LIKELY(vmem_try_free(vm, addr, size)))
		return;
	if (size - 1 < vm->qcache_max)
		qcache_free(vm, addr, size);
	else
		vmem_xfree(vm, addr, size);
}

/* --- life --- */

static bool spec_valid(const struct vmem_spec *s)
{
	uint64_t mask = s->quantum - 1;

	return s->name && s->store && is_pow2(s->quantum) && s->quantum <= VMEM_SIZE_MAX &&
	       !((s->base | s->size | s->import_min | s->qcache_max) & mask) &&
	       s->size <= VMEM_SIZE_MAX && s->base + s->size >= s->base &&
	       s->import_min <= VMEM_SIZE_MAX &&
	       s->qcache_max / s->quantum <= VMEM_QCACHE_CLASSES && (s->import || !s->release);
}

/* The tag of the anchor, and all else that may fail. */
static int arena_begin(struct vmem *vm, const struct vmem_spec *spec)
{
	int r = spare_fill(vm);

	if (!r) {
		mutex_scope(&vm->lock);
		segment_init(vm, segment_spare_pop(vm));
	}
	if (!r && spec->size)
		r = vmem_add(vm, spec->base, spec->size);
	if (!r && vm->qcache_max)
		r = qcache_init(vm);
	return r;
}

int vmem_create(const struct vmem_spec *spec, struct vmem **ret_vm)
{
	struct vmem *vm;
	int r;

	if (!spec_valid(spec))
		return -EINVAL;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return -ENOMEM;
	snprintf(vm->name, sizeof(vm->name), "%s", spec->name);
	vm->store = spec->store;
	vm->tags = tag_store_base(spec->store);
	vm->quantum = spec->quantum;
	vm->quantum_shift = log2_floor(spec->quantum);
	vm->import = spec->import;
	vm->release = spec->release;
	vm->source = spec->source;
	vm->import_min = spec->import_min;
	vm->qcache_max = spec->qcache_max;
	vm->n_classes = (unsigned)(spec->qcache_max >> vm->quantum_shift);
	vm->slab_size = spec->qcache_max ? 1ull << log2_ceil(3 * spec->qcache_max + 1) : 0;
	mutex_init(&vm->lock, LOCK_RANK_VMEM_ARENA);
	tag_hash_init(&vm->hash);
	r = arena_begin(vm, spec);
	if (r) {
		vmem_destroy(vm, NULL, NULL);
		return r;
	}
	*ret_vm = vm;
	return 0;
}

void vmem_reap(struct vmem *vm)
{
	void *p;
	unsigned k;

	if (vm->qcache_max) {
		qcache_reap(vm);
		slab_reap(vm);
	}
	do {
		mutex_lock(&vm->lock);
		p = vm->is_meta ? NULL : tag_hash_shed(&vm->hash, &k);
		arena_unlock(vm);
		if (p)
			tag_store_table_free(vm->store, p, tag_hash_segment_bytes(k));
	} while (p);
}
