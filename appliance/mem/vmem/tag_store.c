/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store of boundary tags, and the meta arena below it.
 *
 * A store rules one reserved range of addresses. Tags are numbered from the start of the range, so
 * that four bytes name one; a chunk of tags may lie anywhere in the range, beside hash tables. Who
 * lies where is decided by the meta arena, a vmem of the same range. It needs tags itself, to
 * describe chunks of tags; the circle is broken twice:
 *
 * - the first chunk is at the start of the range and needs no arena;
 * - the meta arena takes tags only from its own spare ones, META_SPARE of them, and each growth
 *   fills these up first, before anyone else sees a tag of the new chunk. One growth uses at most
 *   TAGS_NEEDED, so they are always there for the next.
 *
 * Growth is one at a time (grow); the free list has a short lock of its own (lock). A store gives
 * pages of hash tables back to the system, those of tags not before its end: freed tags are reused.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "mem/vmem/vmem_private.h"

#define PAGE	   4096u
#define CHUNK_MIN  (64u << 10)
#define CHUNK_MAX  (2u << 20)
#define META_SPARE 64u

struct vmem_tag_store {
	/* constant */
	uint8_t *base;
	size_t size;
	struct vmem *meta;

	struct mutex grow; /* held while tags are made */
	uint64_t made;	   /* under grow: bytes of tags */

	struct mutex lock;
	tag_id free; /* under lock */
	uint64_t n_free;
};

size_t vmem_tag_size(void)
{
	return sizeof(struct tag);
}

struct tag *tag_store_base(struct vmem_tag_store *s)
{
	return (struct tag *)s->base;
}

struct vmem *vmem_tag_store_meta(struct vmem_tag_store *s)
{
	return s->meta;
}

/* Makes tags of [@mem, @mem + @bytes), the meta arena's share first. */
static void chunk_add(struct vmem_tag_store *s, uint8_t *mem, size_t bytes)
{
	struct tag *tags = tag_store_base(s);
	tag_id first = (tag_id)((mem - s->base) / sizeof(struct tag));
	tag_id end = first + (tag_id)(bytes / sizeof(struct tag));

	if (!first)
		first = 1; /* 0 means none */
	if (s->meta) {
		mutex_scope(&s->meta->lock);
		while (s->meta->n_spare < META_SPARE && first < end)
			segment_spare_push(s->meta, first++);
	}
	if (first == end)
		return;
	for (tag_id i = first; i < end; i++) {
		tags[i].type = TAG_SPARE;
		tags[i].spare_next = i + 1 < end ? i + 1 : 0;
	}
	mutex_scope(&s->lock);
	tags[end - 1].spare_next = s->free;
	s->free = first;
	s->n_free += end - first;
}

static int pages_open(void *p, size_t size)
{
	return mprotect(p, size, PROT_READ | PROT_WRITE) < 0 ? -ENOMEM : 0;
}

/* Takes accessible pages. */
static int range_take(struct vmem_tag_store *s, size_t bytes, uint64_t *ret_addr)
{
	uint64_t addr;
	int r = vmem_alloc(s->meta, bytes, 0, &addr);

	if (r)
		return r;
	r = pages_open((void *)addr, bytes);
	if (r) {
		vmem_free(s->meta, addr, bytes);
		return r;
	}
	*ret_addr = addr;
	return 0;
}

static int store_grow(struct vmem_tag_store *s, unsigned n)
{
	mutex_scope(&s->grow);
	uint64_t bytes = s->made / 8 / CHUNK_MIN * CHUNK_MIN, addr;
	bool enough;
	int r;

	mutex_lock(&s->lock);
	enough = s->n_free >= n; /* somebody else grew it meanwhile */
	mutex_unlock(&s->lock);
	if (enough)
		return 0;
	if (bytes < CHUNK_MIN)
		bytes = CHUNK_MIN;
	if (bytes > CHUNK_MAX)
		bytes = CHUNK_MAX;
	r = range_take(s, bytes, &addr);
	if (r && bytes > CHUNK_MIN) {
		bytes = CHUNK_MIN;
		r = range_take(s, bytes, &addr);
	}
	if (r)
		return r;
	s->made += bytes;
	chunk_add(s, (uint8_t *)addr, bytes);
	return 0;
}

static bool try_take(struct vmem_tag_store *s, unsigned n, tag_id *ret_list)
{
	struct tag *tags = tag_store_base(s);
	tag_id last;

	mutex_scope(&s->lock);
	if (s->n_free < n)
		return false;
	*ret_list = last = s->free;
	for (unsigned i = 1; i < n; i++)
		last = tags[last].spare_next;
	s->free = tags[last].spare_next;
	tags[last].spare_next = 0;
	s->n_free -= n;
	return true;
}

int tag_store_take(struct vmem_tag_store *s, unsigned n, tag_id *ret_list)
{
	while (!try_take(s, n, ret_list)) {
		int r = store_grow(s, n);

		if (r)
			return r;
	}
	return 0;
}

void tag_store_give(struct vmem_tag_store *s, tag_id list, tag_id last)
{
	struct tag *tags = tag_store_base(s);
	uint64_t n = 1;

	for (tag_id i = list; i != last; i = tags[i].spare_next)
		n++;
	mutex_scope(&s->lock);
	tags[last].spare_next = s->free;
	s->free = list;
	s->n_free += n;
}

static size_t table_pages(size_t size)
{
	return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

void *tag_store_table_alloc(struct vmem_tag_store *s, size_t size)
{
	uint64_t addr;

	return range_take(s, table_pages(size), &addr) ? NULL : (void *)addr;
}

void tag_store_table_free(struct vmem_tag_store *s, void *p, size_t size)
{
	size = table_pages(size);
	/* Free tables read as zeros when they are taken again. */
	madvise(p, size, MADV_DONTNEED);
	vmem_free(s->meta, (uint64_t)p, size);
}

static int meta_create(struct vmem_tag_store *s)
{
	struct vmem_spec spec = {
		.name = "meta",
		.store = s,
		.base = (uint64_t)s->base,
		.size = s->size,
		.quantum = PAGE,
	};
	struct vmem *meta = NULL;
	uint64_t addr;
	int r = vmem_create(&spec, &meta);

	if (r)
		return r;
	meta->is_meta = true;
	for (unsigned i = 0; i < META_SPARE; i++) {
		tag_id id;

		if (!try_take(s, 1, &id))
			break;
		mutex_lock(&meta->lock);
		segment_spare_push(meta, id);
		mutex_unlock(&meta->lock);
	}
	s->meta = meta;
	/* The first chunk, which is in use already. */
	return vmem_xalloc(meta,
			   &(struct vmem_request){
				   .size = CHUNK_MIN,
				   .min = spec.base,
				   .max = spec.base + CHUNK_MIN,
			   },
			   0, &addr);
}

int vmem_tag_store_create(void *base, size_t size, struct vmem_tag_store **ret_store)
{
	struct vmem_tag_store *s;
	int r;

	if ((uint64_t)base % PAGE || size % PAGE || size < (1u << 20) ||
	    size / sizeof(struct tag) > UINT32_MAX)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->base = base;
	s->size = size;
	mutex_init(&s->grow, LOCK_RANK_VMEM_GROW);
	mutex_init(&s->lock, LOCK_RANK_VMEM_TAGS);
	r = pages_open(base, CHUNK_MIN);
	if (!r) {
		s->made = CHUNK_MIN;
		chunk_add(s, base, CHUNK_MIN);
		r = meta_create(s);
	}
	if (r) {
		vmem_tag_store_destroy(s);
		return r;
	}
	*ret_store = s;
	return 0;
}

void vmem_tag_store_destroy(struct vmem_tag_store *s)
{
	if (!s)
		return;
	vmem_destroy(s->meta, NULL, NULL);
	madvise(s->base, s->size, MADV_DONTNEED);
	mprotect(s->base, s->size, PROT_NONE);
	mutex_destroy(&s->grow);
	mutex_destroy(&s->lock);
	free(s);
}
