/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmem_bench: what vmem costs, and what the other ways cost. The tables stand in docs/vmem.md.
 *
 *	vmem_bench ways [MAX]      three ways to give pages, to MAX live (10^6)
 *	vmem_bench flat [MAX]      ns an operation from 10^3 to MAX live segments (10^7)
 *	vmem_bench peer [THREADS]  beside malloc(3); LD_PRELOAD=libjemalloc.so.2 to have it be
 *jemalloc vmem_bench frag            fragmentation
 */
#include <pthread.h>
#include <string.h>

#include "bench.h"

#define QUANTUM 64u
#define PEERS	5u

struct address_space *bench_space(void)
{
	struct address_space *as = NULL;

	must(address_space_create(&(struct address_space_spec){0}, &as), "address space");
	return as;
}

/* --- flat --- */

static struct vmem *ids(struct address_space *as, uint64_t qcache_max)
{
	struct vmem *vm = NULL;

	must(vmem_create(
		     &(struct vmem_spec){
			     .name = "ids",
			     .store = address_space_tags(as),
			     .base = 1ull << 30,
			     .size = 1ull << 44,
			     .quantum = QUANTUM,
			     .qcache_max = qcache_max,
		     },
		     &vm),
	     "arena");
	return vm;
}

static void flat_row(struct live *l, uint64_t n, const char *what, uint64_t qcache_max,
		     uint64_t size)
{
	struct address_space *as = bench_space();
	struct vmem *vm = ids(as, qcache_max);
	uint64_t rnd = 5, ops = 1000000, start, sum = 0;
	double build, replace, pair, bare;

	start = clock_now_ns();
	for (uint64_t i = 0; i < n; i++)
		must(vmem_alloc(vm, size, 0, &l[i].addr), "alloc");
	build = ns_each(start, n);
	start = clock_now_ns();
	for (uint64_t i = 0; i < ops; i++)
		sum += l[next_random(&rnd) % n].addr;
	bare = ns_each(start, ops);
	for (uint64_t i = 0; i < n + ops; i++) {
		struct live *x = &l[next_random(&rnd) % n];

		if (i == n)
			start = clock_now_ns();
		vmem_free(vm, x->addr, size);
		must(vmem_alloc(vm, size, 0, &x->addr), "alloc");
	}
	replace = ns_each(start, 2 * ops);
	start = clock_now_ns();
	for (uint64_t i = 0; i < ops; i++) {
		uint64_t addr;

		must(vmem_alloc(vm, size, 0, &addr), "alloc");
		vmem_free(vm, addr, size);
	}
	pair = ns_each(start, 2 * ops);
	printf("| %-8llu | %-9s | %6.1f | %6.1f | %6.1f | %6.1f |%s\n", (unsigned long long)n, what,
	       build, pair, replace, bare, sum == 1 ? " " : "");
	fflush(stdout);
	for (uint64_t i = 0; i < n; i++)
		vmem_free(vm, l[i].addr, size);
	vmem_destroy(vm, NULL, NULL);
	address_space_destroy(as);
}

void bench_flat(uint64_t max)
{
	struct live *l = calloc(max, sizeof(*l));

	if (!l)
		must(-1, "memory");
	printf("| live | path | build ns | pair ns | random ns | (the pick alone) |\n"
	       "|---|---|---|---|---|---|\n");
	for (uint64_t n = 1000; n <= max; n *= 10) {
		flat_row(l, n, "cached", 16 * QUANTUM, QUANTUM);
		flat_row(l, n, "segments", 0, QUANTUM);
	}
	free(l);
}

/* --- peer --- */

#define HELD  10000u
#define ROUND 3000000u
#define BATCH 64u

struct worker {
	struct address_space *as; /* NULL: malloc */
	uint64_t seed;
	size_t size;
	double pair, batch, random; /* ns an operation */
	pthread_barrier_t *start;
};

static inline void *take(struct worker *w)
{
	return w->as ? wired_alloc(w->as, w->size) : malloc(w->size);
}

static inline void give(struct worker *w, void *p)
{
	if (w->as)
		wired_free(w->as, p, w->size);
	else
		free(p);
}

static void *peer_run(void *arg)
{
	struct worker *w = arg;
	static _Thread_local void *held[HELD];
	uint64_t rnd = w->seed, start;

	pthread_barrier_wait(w->start);
	start = clock_now_ns();
	for (unsigned i = 0; i < ROUND; i++) {
		void *p = take(w);

		__asm__ volatile("" : : "r"(p) : "memory");
		give(w, p);
	}
	w->pair = ns_each(start, 2ull * ROUND);
	pthread_barrier_wait(w->start);
	start = clock_now_ns();
	for (unsigned i = 0; i < ROUND / BATCH; i++) {
		for (unsigned k = 0; k < BATCH; k++)
			held[k] = take(w);
		for (unsigned k = 0; k < BATCH; k++)
			give(w, held[k]);
	}
	w->batch = ns_each(start, 2ull * (ROUND / BATCH * BATCH));
	for (unsigned i = 0; i < HELD; i++)
		held[i] = take(w);
	pthread_barrier_wait(w->start);
	start = clock_now_ns();
	for (unsigned i = 0; i < ROUND; i++) {
		void **p = &held[next_random(&rnd) % HELD];

		give(w, *p);
		*p = take(w);
	}
	w->random = ns_each(start, 2ull * ROUND);
	for (unsigned i = 0; i < HELD; i++)
		give(w, held[i]);
	return NULL;
}

static void peer_round(struct address_space *as, size_t size, unsigned threads, double ret[3])
{
	struct worker w[64] = {0};
	pthread_t th[64];
	pthread_barrier_t start;

	pthread_barrier_init(&start, NULL, threads);
	for (unsigned i = 0; i < threads; i++) {
		w[i] = (struct worker){.as = as, .seed = i + 1, .size = size, .start = &start};
		pthread_create(&th[i], NULL, peer_run, &w[i]);
	}
	ret[0] = ret[1] = ret[2] = 0;
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(th[i], NULL);
		ret[0] += w[i].pair / threads;
		ret[1] += w[i].batch / threads;
		ret[2] += w[i].random / threads;
	}
	pthread_barrier_destroy(&start);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Alternating rounds; medians. */
void bench_peer(unsigned threads)
{
	static const size_t sizes[] = {64, 256, 1024, 4096, 16384};
	struct address_space *as = bench_space();

	printf("| bytes | threads | pair: vmem, malloc, ratio | batch of 64 | random of %u |\n"
	       "|---|---|---|---|---|\n",
	       HELD);
	for (unsigned s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		double ours[3][PEERS], theirs[3][PEERS], r[3];

		for (unsigned i = 0; i < PEERS; i++) {
			peer_round(as, sizes[s], threads, r);
			for (unsigned k = 0; k < 3; k++)
				ours[k][i] = r[k];
			peer_round(NULL, sizes[s], threads, r);
			for (unsigned k = 0; k < 3; k++)
				theirs[k][i] = r[k];
		}
		printf("| %zu | %u |", sizes[s], threads);
		for (unsigned k = 0; k < 3; k++) {
			qsort(ours[k], PEERS, sizeof(double), by_value);
			qsort(theirs[k], PEERS, sizeof(double), by_value);
			printf(" %.1f, %.1f, %.2f |", ours[k][PEERS / 2], theirs[k][PEERS / 2],
			       ours[k][PEERS / 2] / theirs[k][PEERS / 2]);
		}
		printf("\n");
		fflush(stdout);
	}
	address_space_destroy(as);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	uint64_t n = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;

	if (!strcmp(what, "ways"))
		bench_ways(n ? n : 1000000);
	else if (!strcmp(what, "flat"))
		bench_flat(n ? n : 10000000);
	else if (!strcmp(what, "peer") && n <= 64)
		bench_peer(n ? (unsigned)n : 1);
	else if (!strcmp(what, "frag"))
		bench_frag();
	else
		return fprintf(stderr,
			       "usage: vmem_bench ways|flat [MAX] | peer [THREADS] | frag\n"),
		       2;
	return 0;
}
