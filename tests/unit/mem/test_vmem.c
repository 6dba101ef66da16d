/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmem, feature by feature. */
#include "vmem_harness.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct vmem_tag_store *store;

static struct vmem *arena_of(uint64_t base, uint64_t size, uint64_t quantum, uint64_t qcache_max)
{
	struct vmem *vm = NULL;

	assert_int_equal(vmem_create(
				 &(struct vmem_spec){
					 .name = "test",
					 .store = store,
					 .base = base,
					 .size = size,
					 .quantum = quantum,
					 .qcache_max = qcache_max,
				 },
				 &vm),
			 0);
	return vm;
}

static uint64_t take(struct vmem *vm, uint64_t size, unsigned flags)
{
	uint64_t addr = UINT64_MAX;

	assert_int_equal(vmem_alloc(vm, size, flags, &addr), 0);
	return addr;
}

static int xtake(struct vmem *vm, struct vmem_request req, unsigned flags, uint64_t *ret_addr)
{
	return vmem_xalloc(vm, &req, flags, ret_addr);
}

static void test_whole_range_is_usable_and_zero_is_an_integer(void **state)
{
	struct vmem *vm = arena_of(0, 8, 1, 0);
	uint64_t addr = 77;
	unsigned seen = 0;

	for (int i = 0; i < 8; i++)
		seen |= 1u << take(vm, 1, 0);
	assert_int_equal(seen, 0xff);
	assert_int_equal(vmem_alloc(vm, 1, 0, &addr), -ENOMEM);
	assert_true(addr == 77);
	for (uint64_t i = 0; i < 8; i++)
		vmem_free(vm, i, 1);
	assert_true(vmem_size(vm, VMEM_MAX) == 8);
	check_arena(vm);
	assert_true(vmem_destroy(vm, NULL, NULL) == 0);
}

static void test_top_of_the_range(void **state)
{
	uint64_t base = UINT64_MAX - 4095, addr;
	struct vmem *vm = arena_of(base - 4096, 4096, 4096, 0);

	assert_int_equal(vmem_add(vm, base, 4096), -EINVAL); /* would end beyond the integers */
	assert_int_equal(vmem_add(vm, 0, VMEM_SIZE_MAX), 0);
	addr = take(vm, VMEM_SIZE_MAX, 0);
	assert_true(addr == 0);
	assert_int_equal(vmem_alloc(vm, VMEM_SIZE_MAX + 1, 0, &addr), -EINVAL);
	assert_int_equal(vmem_alloc(vm, 0, 0, &addr), -EINVAL);
	assert_int_equal(vmem_alloc(vm, UINT64_MAX, 0, &addr), -EINVAL);
	vmem_free(vm, 0, VMEM_SIZE_MAX);
	vmem_destroy(vm, NULL, NULL);
}

static void test_sizes_are_rounded_to_the_quantum(void **state)
{
	struct vmem *vm = arena_of(0x10000, 0x10000, 0x1000, 0);
	uint64_t a = take(vm, 1, 0), b = take(vm, 0x1001, 0);

	assert_true(a % 0x1000 == 0 && b % 0x1000 == 0);
	assert_true(vmem_size(vm, VMEM_ALLOCATED) == 0x3000);
	vmem_free(vm, a, 1);
	vmem_free(vm, b, 0x2000);
	assert_true(vmem_size(vm, VMEM_ALLOCATED) == 0);
	vmem_destroy(vm, NULL, NULL);
}

static void test_specs_that_contradict_themselves(void **state)
{
	struct vmem_spec bad[] = {
		{.name = "q0", .store = store, .quantum = 0},
		{.name = "q3", .store = store, .quantum = 3},
		{.name = "base", .store = store, .quantum = 16, .base = 8, .size = 16},
		{.name = "size", .store = store, .quantum = 16, .size = 8},
		{.name = "wrap", .store = store, .quantum = 1, .base = UINT64_MAX, .size = 2},
		{.name = "cache", .store = store, .quantum = 16, .qcache_max = 17 * 16},
		{.name = "cache odd", .store = store, .quantum = 16, .qcache_max = 24},
		{.name = "release only", .store = store, .quantum = 1, .release = line_release},
		{.name = "no store", .quantum = 1},
	};
	struct vmem *vm = NULL;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(vmem_create(&bad[i], &vm), -EINVAL);
	assert_null(vm);
}

static void test_best_fit_takes_the_smallest(void **state)
{
	struct vmem *vm = arena_of(0, 1000, 1, 0);
	uint64_t addr[6];

	/* Leave holes of 40, 35 and 60 at known places. */
	addr[0] = take(vm, 40, 0);
	take(vm, 1, 0);
	addr[1] = take(vm, 35, 0);
	take(vm, 1, 0);
	addr[2] = take(vm, 60, 0);
	take(vm, 1000 - 138, 0);
	vmem_free(vm, addr[0], 40);
	vmem_free(vm, addr[2], 60);
	vmem_free(vm, addr[1], 35);
	assert_true(take(vm, 34, VMEM_BEST_FIT) == addr[1]);
	assert_true(take(vm, 38, VMEM_BEST_FIT) == addr[0]);
	check_arena(vm);
	assert_true(vmem_destroy(vm, NULL, NULL) > 0);
}

static void test_instant_fit_hardly_searches(void **state)
{
	struct vmem *vm = arena_of(0, 1 << 20, 1, 0);
	struct vmem_stats before, after;
	uint64_t hole[500];

	for (int i = 0; i < 500; i++) {
		hole[i] = take(vm, 65, 0);
		take(vm, 1, 0);
	}
	for (int i = 0; i < 500; i++)
		vmem_free(vm, hole[i], 65);
	vmem_stats(vm, &before);
	for (int i = 0; i < 100; i++)
		take(vm, 100, 0); /* 500 segments of its list do not fit */
	vmem_stats(vm, &after);
	assert_true(after.looks - before.looks <= 100 * 4);
	/* but they are found when nothing else is left, and fit */
	while (vmem_size(vm, VMEM_MAX) > 65)
		take(vm, vmem_size(vm, VMEM_MAX), 0);
	assert_true(take(vm, 65, 0) < 1 << 20);
	check_arena(vm);
	vmem_destroy(vm, NULL, NULL);
}

static void test_next_fit_goes_round_before_it_reuses(void **state)
{
	struct vmem *vm = arena_of(100, 10, 1, 0);
	uint64_t a;

	/* Taken and freed at once, each integer comes up once before any comes again. */
	for (int round = 0; round < 3; round++) {
		for (uint64_t i = 100; i < 110; i++) {
			a = take(vm, 1, VMEM_NEXT_FIT);
			assert_true(a == i);
			vmem_free(vm, a, 1);
		}
	}
	/* Around what is kept. */
	assert_true(take(vm, 1, VMEM_NEXT_FIT) == 100);
	assert_true(take(vm, 4, VMEM_NEXT_FIT) == 101);
	vmem_free(vm, 101, 4);
	assert_true(take(vm, 5, VMEM_NEXT_FIT) == 105);
	assert_true(take(vm, 3, VMEM_NEXT_FIT) == 101);
	assert_true(take(vm, 1, VMEM_NEXT_FIT) == 104);
	assert_int_equal(vmem_alloc(vm, 1, VMEM_NEXT_FIT, &a), -ENOMEM);
	check_arena(vm);
	assert_true(vmem_destroy(vm, NULL, NULL) == 10);
}

static void test_alignment_and_phase(void **state)
{
	struct vmem *vm = arena_of(0x1010, 0x8000, 0x10, 0);
	uint64_t a, b;

	assert_int_equal(xtake(vm, (struct vmem_request){.size = 0x10, .align = 0x1000}, 0, &a), 0);
	assert_true(a % 0x1000 == 0);
	assert_int_equal(xtake(vm,
			       (struct vmem_request){.size = 0x20, .align = 0x1000, .phase = 0xff0},
			       0, &b),
			 0);
	assert_true(b % 0x1000 == 0xff0);
	vmem_xfree(vm, a, 0x10);
	vmem_xfree(vm, b, 0x20);
	assert_int_equal(xtake(vm, (struct vmem_request){.size = 0x10, .align = 0x30}, 0, &a),
			 -EINVAL);
	assert_int_equal(
		xtake(vm, (struct vmem_request){.size = 0x10, .align = 0x20, .phase = 0x20}, 0, &a),
		-EINVAL);
	assert_int_equal(
		xtake(vm, (struct vmem_request){.size = 0x10, .align = 0x20, .phase = 8}, 0, &a),
		-EINVAL);
	assert_true(vmem_size(vm, VMEM_MAX) == 0x8000);
	vmem_destroy(vm, NULL, NULL);
}

static void test_no_crossing(void **state)
{
	struct vmem *vm = arena_of(0, 256, 1, 0);
	uint64_t a;

	take(vm, 60, 0);
	assert_int_equal(xtake(vm, (struct vmem_request){.size = 8, .nocross = 64}, 0, &a), 0);
	assert_true(a == 64);
	assert_int_equal(xtake(vm, (struct vmem_request){.size = 64, .nocross = 64}, 0, &a), 0);
	assert_true(a % 64 == 0);
	assert_int_equal(xtake(vm, (struct vmem_request){.size = 65, .nocross = 64}, 0, &a),
			 -EINVAL);
	/* Can never be: each place of this phase crosses. */
	assert_int_equal(
		xtake(vm, (struct vmem_request){.size = 64, .align = 8, .phase = 4, .nocross = 64},
		      0, &a),
		-ENOMEM);
	check_arena(vm);
	vmem_destroy(vm, NULL, NULL);
}

static void test_bounds(void **state)
{
	struct vmem *vm = arena_of(0, 1000, 1, 0);
	uint64_t a;

	assert_int_equal(
		xtake(vm, (struct vmem_request){.size = 10, .min = 500, .max = 510}, 0, &a), 0);
	assert_true(a == 500);
	assert_int_equal(xtake(vm, (struct vmem_request){.size = 1, .min = 500, .max = 510}, 0, &a),
			 -ENOMEM);
	assert_int_equal(
		xtake(vm, (struct vmem_request){.size = 11, .min = 600, .max = 610}, 0, &a),
		-EINVAL);
	assert_int_equal(
		xtake(vm, (struct vmem_request){.size = 490, .min = 505}, VMEM_BEST_FIT, &a), 0);
	assert_true(a == 510);
	assert_int_equal(xtake(vm, (struct vmem_request){.size = 1, .max = 500}, VMEM_NEXT_FIT, &a),
			 0);
	assert_true(a < 500);
	check_arena(vm);
	vmem_destroy(vm, NULL, NULL);
}

static void test_spans_do_not_merge(void **state)
{
	struct vmem *vm = arena_of(0, 10, 1, 0);
	uint64_t a;

	assert_int_equal(vmem_add(vm, 10, 10), 0);
	assert_int_equal(vmem_alloc(vm, 11, 0, &a), -ENOMEM);
	assert_true(vmem_size(vm, VMEM_FREE) == 20 && vmem_size(vm, VMEM_MAX) == 10);
	take(vm, 10, 0);
	take(vm, 10, 0);
	check_arena(vm);
	vmem_destroy(vm, NULL, NULL);
}

static struct vmem *stacked(struct line_source *l, uint64_t import_min, uint64_t qcache_max)
{
	struct vmem *vm = NULL;

	assert_int_equal(vmem_create(
				 &(struct vmem_spec){
					 .name = "stacked",
					 .store = store,
					 .quantum = 0x1000,
					 .import = line_import,
					 .release = line_release,
					 .source = l,
					 .import_min = import_min,
					 .qcache_max = qcache_max,
				 },
				 &vm),
			 0);
	return vm;
}

static void test_imported_spans_come_and_go(void **state)
{
	struct line_source l = {.next = 0x100000, .refuse_after = 2};
	struct vmem *vm = stacked(&l, 0x4000, 0);
	uint64_t a = take(vm, 0x1000, 0), b = take(vm, 0x3000, 0), c, none = 5;
	struct vmem_stats st;

	assert_true(l.imports == 1 && l.outstanding == 0x4000);
	c = take(vm, 0x9000, 0);
	assert_true(l.imports == 2 && l.outstanding == 0xd000);
	assert_int_equal(vmem_alloc(vm, 0x1000, 0, &none), -ENOMEM);
	assert_true(none == 5);
	vmem_free(vm, a, 0x1000);
	assert_true(l.releases == 0);
	check_arena(vm);
	vmem_free(vm, b, 0x3000);
	assert_true(l.releases == 1 && l.outstanding == 0x9000);
	vmem_free(vm, c, 0x9000);
	assert_true(l.releases == 2 && l.outstanding == 0);
	vmem_stats(vm, &st);
	assert_true(st.total == 0 && st.spans == 0 && st.imports == 2 && st.import_fails == 1 &&
		    st.releases == 2 && st.fails == 1);
	assert_true(vmem_destroy(vm, NULL, NULL) == 0);
}

static void test_aligned_request_imports_what_it_needs(void **state)
{
	struct line_source l = {.next = 0x101000, .refuse_after = 9};
	struct vmem *vm = stacked(&l, 0, 0);
	uint64_t a;

	assert_int_equal(xtake(vm, (struct vmem_request){.size = 0x2000, .align = 0x10000}, 0, &a),
			 0);
	assert_true(a % 0x10000 == 0 && l.imports == 1);
	assert_int_equal(xtake(vm, (struct vmem_request){.size = 0x1000, .max = 0x1000}, 0, &a),
			 -ENOMEM);
	assert_true(l.imports == 1);
	vmem_xfree(vm, a, 0x2000);
	assert_true(l.outstanding == 0);
	vmem_destroy(vm, NULL, NULL);
}

static void test_arenas_stack_and_give_back(void **state)
{
	struct vmem *low = arena_of(0, 1 << 24, 0x1000, 0), *high = NULL;
	uint64_t a[100];

	assert_int_equal(vmem_create(
				 &(struct vmem_spec){
					 .name = "high",
					 .store = store,
					 .quantum = 64,
					 .import = vmem_import_arena,
					 .release = vmem_release_arena,
					 .source = low,
					 .import_min = 0x4000,
					 .qcache_max = 512,
				 },
				 &high),
			 0);
	for (int i = 0; i < 100; i++)
		a[i] = take(high, 64 + (uint64_t)i * 37, 0);
	assert_true(vmem_size(low, VMEM_ALLOCATED) >= vmem_size(high, VMEM_ALLOCATED));
	check_arena(high);
	for (int i = 0; i < 100; i++)
		vmem_free(high, a[i], 64 + (uint64_t)i * 37);
	vmem_thread_flush(high);
	vmem_reap(high);
	check_arena(high);
	assert_true(vmem_size(high, VMEM_ALLOCATED) == 0);
	assert_true(vmem_size(low, VMEM_ALLOCATED) == 0);
	assert_true(vmem_destroy(high, NULL, NULL) == 0);
	assert_true(vmem_destroy(low, NULL, NULL) == 0);
}

static void test_quantum_cache_needs_few_tags(void **state)
{
	struct vmem *vm = arena_of(1 << 20, 1 << 30, 0x1000, 0x10000);
	static uint64_t a[20000];
	struct vmem_stats st;

	for (int i = 0; i < 20000; i++)
		a[i] = take(vm, 0x1000, 0);
	vmem_stats(vm, &st);
	assert_true(st.tags < 20000 / 16);
	assert_true(st.in_use == 20000ull * 0x1000);
	assert_true(st.allocated == st.in_use + st.cached);
	check_arena(vm);
	for (int i = 0; i < 20000; i++)
		vmem_free(vm, a[i], 0x1000);
	vmem_stats(vm, &st);
	assert_true(st.in_use == 0 && st.allocs == 20000 && st.frees == 20000);
	vmem_thread_flush(vm);
	vmem_reap(vm);
	vmem_stats(vm, &st);
	assert_true(st.allocated == 0 && st.slabs == 0 && st.tags == 2 + 1);
	assert_true(vmem_destroy(vm, NULL, NULL) == 0);
}

static void test_every_class_is_disjoint(void **state)
{
	struct vmem *vm = arena_of(0, 1 << 14, 1, 16);
	static uint8_t owner[1 << 14];
	uint64_t addr, taken = 0;
	unsigned klass = 0;

	memset(owner, 0, sizeof(owner));
	/* Until nothing is left: the last ones come as segments of their own. */
	while (klass < 16) {
		uint64_t size = 16 - klass;

		if (vmem_alloc(vm, size, 0, &addr)) {
			klass++;
			continue;
		}
		for (uint64_t i = addr; i < addr + size; i++) {
			assert_int_equal(owner[i], 0);
			owner[i] = (uint8_t)size;
		}
		taken += size;
	}
	assert_true(taken == 1 << 14);
	for (uint64_t i = 0; i < 1 << 14; i += owner[i])
		vmem_free(vm, i, owner[i]);
	vmem_thread_flush(vm);
	vmem_reap(vm);
	assert_true(vmem_size(vm, VMEM_MAX) == 1 << 14);
	assert_true(vmem_destroy(vm, NULL, NULL) == 0);
}

struct leaks {
	uint64_t n, addr[4], size[4];
};

static void note_leak(void *arg, uint64_t addr, uint64_t size)
{
	struct leaks *l = arg;

	assert_true(l->n < 4);
	l->addr[l->n] = addr;
	l->size[l->n++] = size;
}

static void test_destroy_tells_leaks(void **state)
{
	struct line_source l = {.next = 0x100000, .refuse_after = 9};
	struct vmem *vm = stacked(&l, 0x100000, 0x4000);
	uint64_t a = take(vm, 0x2000, 0), b = take(vm, 0x20000, 0), c = take(vm, 0x1000, 0);
	struct leaks leaks = {0};

	vmem_free(vm, c, 0x1000);
	assert_true(vmem_destroy(vm, note_leak, &leaks) == 0x22000);
	assert_true(leaks.n == 2);
	for (int i = 0; i < 2; i++)
		assert_true((leaks.addr[i] == a && leaks.size[i] == 0x2000) ||
			    (leaks.addr[i] == b && leaks.size[i] == 0x20000));
	assert_true(l.outstanding == 0x100000); /* the span with leaks stays theirs */
}

/* Runs @wrong in a child and says whether it was ended by abort(). */
static bool aborts(void (*wrong)(struct vmem *), uint64_t qcache_max)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		fclose(stderr);
		signal(SIGABRT, SIG_DFL);
		wrong(arena_of(0, 1 << 20, 16, qcache_max));
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void free_nothing(struct vmem *vm)
{
	vmem_free(vm, 0x400, 1024);
}
static void free_other_size(struct vmem *vm)
{
	vmem_free(vm, take(vm, 1024, 0), 512);
}
static void free_twice(struct vmem *vm)
{
	uint64_t a = take(vm, 16, 0);

	vmem_free(vm, a, 16);
	vmem_free(vm, a, 16);
	vmem_thread_flush(vm);
}
static void free_inside(struct vmem *vm)
{
	vmem_free(vm, take(vm, 32, 0) + 16, 32);
	vmem_thread_flush(vm);
}

static void test_wrong_frees_abort(void **state)
{
	assert_true(aborts(free_nothing, 0));
	assert_true(aborts(free_other_size, 0));
	assert_true(aborts(free_twice, 0));
	assert_true(aborts(free_twice, 256));
	assert_true(aborts(free_inside, 256));
}

static void test_tags_run_out_and_nothing_breaks(void **state)
{
	struct vmem_tag_store *big = store;
	struct vmem_stats st, after;
	struct vmem *vm;
	uint64_t n = 0, a;

	store = store_open(1 << 20); /* 32,768 tags, less what the meta arena uses */
	vm = arena_of(0, 1 << 24, 1, 0);
	while (!vmem_alloc(vm, 1, 0, &a))
		assert_true(a == n++);
	assert_true(n > 20000 && n < 32768);
	vmem_stats(vm, &st);
	assert_int_equal(vmem_alloc(vm, 1, 0, &a), -ENOMEM);
	assert_int_equal(vmem_add(vm, 1 << 25, 4096), -ENOMEM);
	vmem_stats(vm, &after);
	assert_true(st.allocated == after.allocated && st.tags == after.tags);
	/* Freeing needs none, and brings some. */
	for (uint64_t i = 0; i < n; i += 2)
		vmem_free(vm, i, 1);
	check_arena(vm);
	for (uint64_t i = 1; i < n; i += 2)
		vmem_free(vm, i, 1);
	check_arena(vm);
	assert_true(vmem_size(vm, VMEM_MAX) == 1 << 24);
	assert_int_equal(vmem_alloc(vm, 1, 0, &a), 0);
	assert_true(vmem_destroy(vm, NULL, NULL) == 1);
	check_arena(vmem_tag_store_meta(store));
	store_close(store, 1 << 20);
	store = big;
}

static void test_tags_run_out_during_import(void **state)
{
	struct vmem_tag_store *big = store;
	struct line_source l = {.next = 1 << 20, .refuse_after = UINT64_MAX};
	struct vmem *vm;
	uint64_t n = 0, a;

	store = store_open(1 << 20);
	vm = stacked(&l, 0, 0);
	while (!vmem_alloc(vm, 0x1000, 0, &a))
		n++;
	assert_true(n > 5000);
	assert_true(l.outstanding == n * 0x1000); /* what came in vain went back */
	check_arena(vm);
	assert_true(vmem_destroy(vm, NULL, NULL) == n * 0x1000);
	store_close(store, 1 << 20);
	store = big;
}

/* A source that leaves its arena without tags before it delivers. */
static struct vmem *hungry;

static int hungry_import(void *source, uint64_t size, uint64_t *ret_addr)
{
	uint64_t span = 1ull << 40;

	while (!vmem_add(hungry, span, 0x1000))
		span += 0x1000;
	return line_import(source, size, ret_addr);
}

static void test_import_in_vain_goes_back(void **state)
{
	struct vmem_tag_store *big = store;
	struct line_source l = {.next = 1 << 20, .refuse_after = 1};
	struct vmem_stats st;
	uint64_t a;

	store = store_open(1 << 20);
	assert_int_equal(vmem_create(
				 &(struct vmem_spec){
					 .name = "hungry",
					 .store = store,
					 .quantum = 0x1000,
					 .import = hungry_import,
					 .release = line_release,
					 .source = &l,
				 },
				 &hungry),
			 0);
	assert_int_equal(vmem_alloc(hungry, 0x2000, 0, &a), -ENOMEM);
	assert_true(l.imports == 1 && l.releases == 1 && l.outstanding == 0);
	vmem_stats(hungry, &st);
	assert_true(st.imported == 0 && st.import_fails == 1 && st.allocated == 0);
	check_arena(hungry);
	assert_true(vmem_destroy(hungry, NULL, NULL) == 0);
	store_close(store, 1 << 20);
	store = big;
}

static void test_hash_follows_the_load(void **state)
{
	struct vmem *vm = arena_of(0, 1 << 24, 1, 0);
	struct vmem_stats st;

	for (uint64_t i = 0; i < 300000; i++)
		assert_true(take(vm, 1, 0) == i);
	vmem_stats(vm, &st);
	assert_true(st.hash_buckets >= 290000 && st.hash_buckets <= 300000);
	for (uint64_t i = 0; i < 300000; i++)
		vmem_free(vm, (i * 7919) % 300000, 1);
	vmem_stats(vm, &st);
	assert_true(st.hash_buckets == 256 && st.tags == 3);
	vmem_reap(vm);
	vmem_stats(vm, &st);
	assert_true(st.meta_bytes < 16384);
	vmem_destroy(vm, NULL, NULL);
	check_arena(vmem_tag_store_meta(store));
}

static void test_cached_arenas_have_a_limit_and_numbers_are_reused(void **state)
{
	static struct vmem *vm[VMEM_CACHED_ARENAS];
	struct vmem *more = NULL;
	struct vmem_spec spec = {
		.name = "many", .store = store, .size = 1 << 16, .quantum = 1, .qcache_max = 16};

	for (unsigned i = 0; i < VMEM_CACHED_ARENAS; i++) {
		assert_int_equal(vmem_create(&spec, &vm[i]), 0);
		vmem_free(vm[i], take(vm[i], 3, 0), 3);
	}
	assert_int_equal(vmem_create(&spec, &more), -ENOSPC);
	vmem_destroy(vm[100], NULL, NULL);
	assert_int_equal(vmem_create(&spec, &vm[100]), 0);
	take(vm[100], 5, 0);
	for (unsigned i = 0; i < VMEM_CACHED_ARENAS; i++)
		assert_true(vmem_destroy(vm[i], NULL, NULL) == (i == 100 ? 5 : 0));
}

static int setup(void **state)
{
	store = store_open(STORE_BYTES);
	return 0;
}

static int teardown(void **state)
{
	struct vmem_stats st;

	vmem_stats(vmem_tag_store_meta(store), &st);
	assert_true(st.allocated > 0);
	store_close(store, STORE_BYTES);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole_range_is_usable_and_zero_is_an_integer),
		cmocka_unit_test(test_top_of_the_range),
		cmocka_unit_test(test_sizes_are_rounded_to_the_quantum),
		cmocka_unit_test(test_specs_that_contradict_themselves),
		cmocka_unit_test(test_best_fit_takes_the_smallest),
		cmocka_unit_test(test_instant_fit_hardly_searches),
		cmocka_unit_test(test_next_fit_goes_round_before_it_reuses),
		cmocka_unit_test(test_alignment_and_phase),
		cmocka_unit_test(test_no_crossing),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_spans_do_not_merge),
		cmocka_unit_test(test_imported_spans_come_and_go),
		cmocka_unit_test(test_aligned_request_imports_what_it_needs),
		cmocka_unit_test(test_arenas_stack_and_give_back),
		cmocka_unit_test(test_quantum_cache_needs_few_tags),
		cmocka_unit_test(test_every_class_is_disjoint),
		cmocka_unit_test(test_destroy_tells_leaks),
		cmocka_unit_test(test_wrong_frees_abort),
		cmocka_unit_test(test_tags_run_out_and_nothing_breaks),
		cmocka_unit_test(test_tags_run_out_during_import),
		cmocka_unit_test(test_import_in_vain_goes_back),
		cmocka_unit_test(test_hash_follows_the_load),
		cmocka_unit_test(test_cached_arenas_have_a_limit_and_numbers_are_reused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
