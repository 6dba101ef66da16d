/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmem under several threads at once: every integer has one owner, and all come back. */
#include "vmem_harness.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define QUANTUM 16u
#define INTS	(1u << 22)
#define THREADS 4u
#define HELD	300u
#define LANE	1024u /* of a ring between two threads */

static struct vmem *vm, *low;
static _Atomic uint8_t owner[INTS / QUANTUM];
static _Atomic bool stop;

static void own(uint64_t addr, uint64_t size, uint8_t who)
{
	for (uint64_t i = addr / QUANTUM; i < (addr + size + QUANTUM - 1) / QUANTUM; i++) {
		uint8_t was = 0;

		if (!atomic_compare_exchange_strong(&owner[i], &was, who))
			abort();
	}
}

static void disown(uint64_t addr, uint64_t size, uint8_t who)
{
	for (uint64_t i = addr / QUANTUM; i < (addr + size + QUANTUM - 1) / QUANTUM; i++)
		if (atomic_exchange(&owner[i], 0) != who)
			abort();
}

static void *churn(void *arg)
{
	uint8_t me = (uint8_t)(uintptr_t)arg;
	uint64_t rnd = 0x1234567 * me, ops = ops_wanted(60000);
	struct {
		uint64_t addr, size;
		bool x;
	} held[HELD] = {0};

	for (uint64_t i = 0; i < ops; i++) {
		unsigned s = next_random(&rnd) % HELD;

		if (held[s].size) {
			disown(held[s].addr, held[s].size, me);
			if (held[s].x)
				vmem_xfree(vm, held[s].addr, held[s].size);
			else
				vmem_free(vm, held[s].addr, held[s].size);
			held[s].size = 0;
			continue;
		}
		held[s].size = 1 + next_random(&rnd) % 400;
		held[s].x = next_random(&rnd) % 8 == 0;
		if (held[s].x ? vmem_xalloc(vm,
					    &(struct vmem_request){
						    .size = held[s].size,
						    .align = QUANTUM << next_random(&rnd) % 5,
					    },
					    next_random(&rnd) % 3, &held[s].addr)
			      : vmem_alloc(vm, held[s].size, 0, &held[s].addr))
			held[s].size = 0;
		else
			own(held[s].addr, held[s].size, me);
		if (i % 5000 == 0)
			vmem_reap(vm);
	}
	for (unsigned s = 0; s < HELD; s++) {
		if (!held[s].size)
			continue;
		disown(held[s].addr, held[s].size, me);
		if (held[s].x)
			vmem_xfree(vm, held[s].addr, held[s].size);
		else
			vmem_free(vm, held[s].addr, held[s].size);
	}
	return NULL;
}

static void *watch(void *arg)
{
	while (!atomic_load(&stop)) {
		struct vmem_stats st;

		vmem_stats(vm, &st);
		if (st.total != st.allocated + st.free)
			abort();
		vmem_size(vm, VMEM_MAX);
	}
	return NULL;
}

static void arenas_open(struct vmem_tag_store *store, bool stack)
{
	struct vmem_spec spec = {
		.name = "low", .store = store, .size = INTS, .quantum = QUANTUM * 64};

	/* Spans of the upper arena then come from magazines of the lower one. */
	spec.qcache_max = stack ? 16 * spec.quantum : 0;

	assert_int_equal(vmem_create(&spec, &low), 0);
	spec = (struct vmem_spec){
		.name = "stress",
		.store = store,
		.quantum = QUANTUM,
		.import = stack ? vmem_import_arena : NULL,
		.release = stack ? vmem_release_arena : NULL,
		.source = low,
		.import_min = stack ? QUANTUM * 1024 : 0,
		.size = stack ? 0 : INTS,
		.qcache_max = 16 * QUANTUM,
	};
	assert_int_equal(vmem_create(&spec, &vm), 0);
	atomic_store(&stop, false);
}

static void arenas_close(void)
{
	vmem_reap(vm);
	check_arena(vm);
	assert_true(vmem_size(vm, VMEM_ALLOCATED) == 0); /* threads that ended kept nothing */
	assert_true(vmem_destroy(vm, NULL, NULL) == 0);
	assert_true(vmem_destroy(low, NULL, NULL) == 0);
}

static void run_churn(bool stack)
{
	struct vmem_tag_store *store = store_open(STORE_BYTES);
	pthread_t th[THREADS], watcher;

	arenas_open(store, stack);
	pthread_create(&watcher, NULL, watch, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&th[i], NULL, churn, (void *)(i + 1));
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
	atomic_store(&stop, true);
	pthread_join(watcher, NULL);
	for (unsigned i = 0; i < INTS / QUANTUM; i++)
		assert_int_equal(owner[i], 0);
	arenas_close();
	store_close(store, STORE_BYTES);
}

static void test_churn_in_one_arena(void **state)
{
	run_churn(false);
}

static void test_churn_in_a_stack(void **state)
{
	run_churn(true);
}

/* One allocates, another frees: magazines travel through the depot. */
static _Atomic uint64_t lane[LANE];
static _Atomic uint64_t sent, received;

static void *produce(void *arg)
{
	uint64_t n = ops_wanted(200000), addr;

	for (uint64_t i = 0; i < n; i++) {
		while (atomic_load(&sent) - atomic_load(&received) == LANE)
			sched_yield();
		while (vmem_alloc(vm, QUANTUM, 0, &addr))
			sched_yield();
		own(addr, QUANTUM, 1);
		atomic_store(&lane[i % LANE], addr);
		atomic_store(&sent, i + 1);
	}
	return NULL;
}

static void *consume(void *arg)
{
	uint64_t n = ops_wanted(200000);

	for (uint64_t i = 0; i < n; i++) {
		uint64_t addr;

		while (atomic_load(&sent) == i)
			sched_yield();
		addr = atomic_load(&lane[i % LANE]);
		atomic_store(&received, i + 1);
		disown(addr, QUANTUM, 1);
		vmem_free(vm, addr, QUANTUM);
	}
	return NULL;
}

static void test_magazines_travel(void **state)
{
	struct vmem_tag_store *store = store_open(STORE_BYTES);
	struct vmem_stats st;
	pthread_t a, b;

	arenas_open(store, false);
	pthread_create(&a, NULL, produce, NULL);
	pthread_create(&b, NULL, consume, NULL);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	vmem_stats(vm, &st);
	assert_true(st.in_use == 0 && st.allocs == st.frees);
	/* Nearly all came from magazines: a visit to the depot serves many. */
	assert_true(st.depot_visits < st.allocs / 8);
	/* In circulation are some lanes' worth, not all that ever was. */
	assert_true(st.allocated < (uint64_t)QUANTUM * LANE * 16);
	arenas_close();
	store_close(store, STORE_BYTES);
}

/* Arenas are destroyed while threads that used them live on. */
static pthread_barrier_t barrier;

static void *outlive(void *arg)
{
	for (int round = 0; round < 20; round++) {
		uint64_t a[100];

		pthread_barrier_wait(&barrier); /* made */
		for (int i = 0; i < 100; i++)
			if (vmem_alloc(vm, QUANTUM, 0, &a[i]))
				abort();
		for (int i = 0; i < 100; i++)
			vmem_free(vm, a[i], QUANTUM);
		pthread_barrier_wait(&barrier); /* used; now it is destroyed */
	}
	return NULL;
}

static void test_threads_outlive_arenas(void **state)
{
	struct vmem_tag_store *store = store_open(STORE_BYTES);
	pthread_t th[2];

	pthread_barrier_init(&barrier, NULL, 3);
	for (int i = 0; i < 2; i++)
		pthread_create(&th[i], NULL, outlive, NULL);
	for (int round = 0; round < 20; round++) {
		arenas_open(store, round % 2);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		assert_true(vmem_destroy(vm, NULL, NULL) == 0);
		assert_true(vmem_destroy(low, NULL, NULL) == 0);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(th[i], NULL);
	pthread_barrier_destroy(&barrier);
	store_close(store, STORE_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_churn_in_one_arena),
		cmocka_unit_test(test_churn_in_a_stack),
		cmocka_unit_test(test_magazines_travel),
		cmocka_unit_test(test_threads_outlive_arenas),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
