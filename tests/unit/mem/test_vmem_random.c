/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmem against a model: an array with an owner for each integer. Random operations of all kinds, in
 * the arena and in its source; after each allocation the model says that the integers were nobody's
 * and that every constraint holds, and of the refusals each 32nd is checked by a search for a place
 * that was there. EBB_VMEM_OPS sets the number of operations, EBB_VMEM_SEED the seed.
 */
#include "vmem_harness.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE  (1u << 16) /* integers of the model */
#define SLOTS 2000u

struct model {
	struct vmem *vm;
	uint64_t rnd;
	uint64_t quantum, qcache_max;
	uint16_t owner[LINE]; /* slot + 1; 0: nobody's */
	bool owned[LINE];     /* the arena has it: in a span of its own or an imported one */
	struct {
		uint64_t addr, size;
		bool x;
	} slot[SLOTS];
	unsigned span_end; /* spans below are added */
	uint64_t refused;
};

static uint64_t rnd_below(struct model *m, uint64_t n)
{
	return next_random(&m->rnd) % n;
}

static uint64_t rounded(const struct model *m, uint64_t size)
{
	return (size + m->quantum - 1) / m->quantum * m->quantum;
}

static void own(struct model *m, unsigned slot, uint64_t addr, uint64_t size)
{
	unsigned wrong = 0;

	size = rounded(m, size);
	assert_true(addr % m->quantum == 0 && addr + size <= LINE);
	for (uint64_t i = addr; i < addr + size; i++) {
		wrong |= !m->owned[i] | (m->owner[i] != 0);
		m->owner[i] = (uint16_t)(slot + 1);
	}
	assert_false(wrong);
}

static void disown(struct model *m, unsigned slot)
{
	uint64_t addr = m->slot[slot].addr, size = rounded(m, m->slot[slot].size);
	unsigned wrong = 0;

	for (uint64_t i = addr; i < addr + size; i++) {
		wrong |= m->owner[i] != slot + 1;
		m->owner[i] = 0;
	}
	assert_false(wrong);
	m->slot[slot].size = 0;
}

/* Whether @req holds at @a. */
static bool holds(const struct vmem_request *req, uint64_t size, uint64_t a)
{
	if (req->align && a % req->align != req->phase)
		return false;
	if (req->nocross && a / req->nocross != (a + size - 1) / req->nocross)
		return false;
	return a >= req->min && (!req->max || a + size <= req->max);
}

/* Whether the model has a place for @req within a span. Spans are SPAN long at multiples of it. */
#define SPAN 4096u
static bool place_exists(const struct model *m, const struct vmem_request *req)
{
	uint64_t size = rounded(m, req->size), run = 0;

	for (uint64_t i = 0; i < m->span_end; i++) {
		if (i % SPAN == 0)
			run = 0;
		run = m->owner[i] || !m->owned[i] ? 0 : run + 1;
		if (run >= size && (i + 1 - size) % m->quantum == 0 &&
		    holds(req, size, i + 1 - size))
			return true;
	}
	return false;
}

static uint64_t random_size(struct model *m)
{
	switch (rnd_below(m, 8)) {
	case 0:
		return 1 + rnd_below(m, 600);
	case 1:
		return m->quantum << rnd_below(m, 6);
	default:
		return 1 + rnd_below(m, m->quantum * 16);
	}
}

static void random_request(struct model *m, struct vmem_request *req)
{
	*req = (struct vmem_request){.size = random_size(m)};
	if (rnd_below(m, 2))
		req->align = m->quantum << rnd_below(m, 7);
	if (req->align && rnd_below(m, 3) == 0)
		req->phase = rnd_below(m, req->align / m->quantum) * m->quantum;
	if (rnd_below(m, 3) == 0)
		req->nocross = m->quantum << (4 + rnd_below(m, 7));
	if (rnd_below(m, 3) == 0)
		req->min = rnd_below(m, LINE);
	if (rnd_below(m, 3) == 0)
		req->max = 1 + rnd_below(m, LINE);
}

static bool request_valid(const struct model *m, const struct vmem_request *req)
{
	uint64_t size = rounded(m, req->size), min = rounded(m, req->min);
	uint64_t max = req->max / m->quantum * m->quantum;

	if (req->nocross && req->nocross < size)
		return false;
	return !req->max || (max >= min && max - min >= size);
}

static void do_alloc(struct model *m, unsigned slot)
{
	struct vmem_request req = {.size = random_size(m)};
	uint64_t addr = 0;
	unsigned flags = (unsigned)rnd_below(m, 3);
	bool x = rnd_below(m, 2);
	int r;

	if (x) {
		random_request(m, &req);
		r = vmem_xalloc(m->vm, &req, flags, &addr);
		assert_int_equal(r == -EINVAL, !request_valid(m, &req));
	} else {
		r = vmem_alloc(m->vm, req.size, flags, &addr);
	}
	if (r == -EINVAL)
		return;
	if (r) {
		/* Quantum caches may sit on what the model calls free. A search is long: each 32nd.
		 */
		assert_int_equal(r, -ENOMEM);
		if (m->refused++ % 32 == 0 && !m->qcache_max)
			assert_false(place_exists(m, &req));
		return;
	}
	assert_true(!x || holds(&req, rounded(m, req.size), addr));
	own(m, slot, addr, req.size);
	m->slot[slot].addr = addr;
	m->slot[slot].size = req.size;
	m->slot[slot].x = x;
}

static void do_free(struct model *m, unsigned slot)
{
	uint64_t addr = m->slot[slot].addr, size = m->slot[slot].size;

	disown(m, slot);
	if (m->slot[slot].x)
		vmem_xfree(m->vm, addr, size);
	else
		vmem_free(m->vm, addr, size);
}

/* The source: SPANs of the line, in a random order. */
static int span_import(void *source, uint64_t size, uint64_t *ret_addr)
{
	struct model *m = source;
	unsigned from = (unsigned)rnd_below(m, LINE / SPAN);

	if (size > SPAN || rnd_below(m, 8) == 0)
		return -ENOMEM;
	for (unsigned i = 0; i < LINE / SPAN; i++) {
		unsigned span = (from + i) % (LINE / SPAN) * SPAN;

		if (m->owned[span])
			continue;
		memset(&m->owned[span], 1, SPAN);
		*ret_addr = span;
		return 0;
	}
	return -ENOMEM;
}

static void span_release(void *source, uint64_t addr, uint64_t size)
{
	struct model *m = source;

	assert_int_equal(size, SPAN);
	for (uint64_t i = addr; i < addr + size; i++) {
		assert_true(m->owned[i]);
		assert_int_equal(m->owner[i], 0);
		m->owned[i] = false;
	}
}

static void run(struct model *m, struct vmem_tag_store *store, uint64_t quantum,
		uint64_t qcache_max, bool imports, uint64_t ops)
{
	const char *seed = getenv("EBB_VMEM_SEED");

	memset(m, 0, sizeof(*m));
	m->rnd = seed ? strtoull(seed, NULL, 0) : 0x5eed;
	m->quantum = quantum;
	m->qcache_max = qcache_max;
	assert_int_equal(vmem_create(
				 &(struct vmem_spec){
					 .name = "random",
					 .store = store,
					 .quantum = quantum,
					 .qcache_max = qcache_max,
					 .import = imports ? span_import : NULL,
					 .release = imports ? span_release : NULL,
					 .source = m,
					 .import_min = imports ? SPAN : 0,
				 },
				 &m->vm),
			 0);
	for (uint64_t op = 0; op < ops; op++) {
		unsigned slot = (unsigned)rnd_below(m, SLOTS);

		if (!imports && m->span_end < LINE && (op == 0 || rnd_below(m, 4000) == 0)) {
			assert_int_equal(vmem_add(m->vm, m->span_end, SPAN), 0);
			memset(&m->owned[m->span_end], 1, SPAN);
			m->span_end += SPAN;
		}
		if (m->slot[slot].size)
			do_free(m, slot);
		else if (rnd_below(m, 100) < 60 + 30 * (op / 50000 % 2))
			do_alloc(m, slot);
		if (op % 20011 == 0)
			check_arena(m->vm);
		if (op % 100003 == 0)
			vmem_reap(m->vm);
	}
	check_arena(m->vm);
	for (unsigned i = 0; i < SLOTS; i++)
		if (m->slot[i].size)
			do_free(m, i);
	vmem_thread_flush(m->vm);
	vmem_reap(m->vm);
	check_arena(m->vm);
	assert_true(vmem_size(m->vm, VMEM_ALLOCATED) == 0);
	assert_true(m->refused > 0);
	assert_true(vmem_destroy(m->vm, NULL, NULL) == 0);
	for (unsigned i = 0; imports && i < LINE; i++)
		assert_false(m->owned[i]);
}

static struct model model;

static void test_against_the_model(void **state)
{
	struct vmem_tag_store *store = store_open(STORE_BYTES);
	uint64_t ops = ops_wanted(300000);

	run(&model, store, 1, 0, false, ops);
	run(&model, store, 16, 0, false, ops);
	run(&model, store, 8, 0, true, ops);
	run(&model, store, 8, 128, false, ops);
	run(&model, store, 8, 64, true, ops);
	store_close(store, STORE_BYTES);
}

/* The arena has many more segments than the model's line could show: sizes and sums only. */
static void test_many_segments_and_an_even_end(void **state)
{
	struct vmem_tag_store *store = store_open(STORE_BYTES);
	uint64_t rnd = 7, n = ops_wanted(300000), live = 0;
	struct vmem *vm = NULL;
	static struct {
		uint64_t addr, size;
	} seg[100000];

	assert_int_equal(vmem_create(
				 &(struct vmem_spec){
					 .name = "large",
					 .store = store,
					 .base = 1 << 20,
					 .size = 1ull << 40,
					 .quantum = 64,
					 .qcache_max = 1024,
				 },
				 &vm),
			 0);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t s = next_random(&rnd) % 100000;

		if (seg[s].size) {
			vmem_free(vm, seg[s].addr, seg[s].size);
			live -= (seg[s].size + 63) / 64 * 64;
			seg[s].size = 0;
			continue;
		}
		seg[s].size = 1 + next_random(&rnd) % 3000;
		assert_int_equal(vmem_alloc(vm, seg[s].size, 0, &seg[s].addr), 0);
		live += (seg[s].size + 63) / 64 * 64;
		if (i % 50000 == 0) {
			struct vmem_stats st;

			vmem_stats(vm, &st);
			assert_true(st.in_use == live);
			check_arena(vm);
		}
	}
	for (unsigned s = 0; s < 100000; s++)
		if (seg[s].size)
			vmem_free(vm, seg[s].addr, seg[s].size);
	vmem_thread_flush(vm);
	vmem_reap(vm);
	assert_true(vmem_size(vm, VMEM_MAX) == 1ull << 40);
	assert_true(vmem_destroy(vm, NULL, NULL) == 0);
	store_close(store, STORE_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_the_model),
		cmocka_unit_test(test_many_segments_and_an_even_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
