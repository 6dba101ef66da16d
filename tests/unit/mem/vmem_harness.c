/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmem_harness.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Stores are closed in the reverse order. */
static void *store_base[4];
static int n_stores;

struct vmem_tag_store *store_open(size_t bytes)
{
	struct vmem_tag_store *s = NULL;

	void *base =
		mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(base, MAP_FAILED);
	assert_true(n_stores < 4);
	store_base[n_stores++] = base;
	assert_int_equal(vmem_tag_store_create(base, bytes, &s), 0);
	return s;
}

void store_close(struct vmem_tag_store *s, size_t bytes)
{
	vmem_tag_store_destroy(s);
	munmap(store_base[--n_stores], bytes);
}

uint64_t ops_wanted(uint64_t dflt)
{
	const char *s = getenv("EBB_VMEM_OPS");

	return s ? strtoull(s, NULL, 10) : dflt;
}

int line_import(void *source, uint64_t size, uint64_t *ret_addr)
{
	struct line_source *l = source;

	if (l->imports >= l->refuse_after)
		return -ENOMEM;
	l->imports++;
	l->outstanding += size;
	*ret_addr = l->next;
	l->next += size + (1 << 20); /* a hole: spans never touch */
	return 0;
}

void line_release(void *source, uint64_t addr, uint64_t size)
{
	struct line_source *l = source;

	assert_true(l->outstanding >= size);
	l->releases++;
	l->outstanding -= size;
}

struct check {
	uint64_t span_end, at, allocated, free, spans, n_alloc, n_free;
	enum vmem_seg last;
};

static int check_seg(void *arg, enum vmem_seg seg, uint64_t addr, uint64_t size)
{
	struct check *c = arg;

	assert_true(size > 0);
	if (seg == VMEM_SEG_SPAN || seg == VMEM_SEG_IMPORTED) {
		assert_true(c->at == c->span_end); /* the last span was covered */
		c->at = addr;
		c->span_end = addr + size;
		c->spans++;
		c->last = seg;
		return 0;
	}
	assert_true(addr == c->at);
	c->at += size;
	assert_true(c->at <= c->span_end);
	if (seg == VMEM_SEG_FREE) {
		assert_int_not_equal(c->last, VMEM_SEG_FREE);
		c->free += size;
		c->n_free++;
	} else {
		c->allocated += size;
		c->n_alloc++;
	}
	c->last = seg;
	return 0;
}

void check_arena(struct vmem *vm)
{
	struct check c = {0};
	struct vmem_stats st;

	assert_int_equal(vmem_walk(vm, 31, check_seg, &c), 0);
	assert_true(c.at == c.span_end);
	vmem_stats(vm, &st);
	assert_true(c.allocated == vmem_size(vm, VMEM_ALLOCATED) && c.allocated == st.allocated);
	assert_true(c.free == vmem_size(vm, VMEM_FREE) && c.free == st.free);
	assert_true(c.spans == st.spans && st.total == st.allocated + st.free);
	assert_true(c.n_alloc == st.segments_allocated && c.n_free == st.segments_free);
	assert_true(vmem_size(vm, VMEM_MAX) <= c.free);
}
