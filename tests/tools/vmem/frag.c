/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fragmentation, at its worst and on average, by policy.
 *
 * Robson's adversary (J. ACM 1971): with at most M live, ask for all of M in pieces of 1; then for
 * i = 1, 2, ... keep one small piece in the way of each place of 2^i, free the rest, and take as
 * many pieces of 2^i as M allows. No policy needs less than M(1 + log2(n) / 2) for pieces up to n
 * against the best adversary; a good one comes near it.
 *
 * Random: pieces of random sizes are freed and taken at a growing fill; how full is the arena when
 * it first refuses?
 */
#include <string.h>

#include "bench.h"

static const struct {
	const char *name;
	unsigned flags;
} policies[] = {{"instant", 0}, {"best", VMEM_BEST_FIT}, {"next", VMEM_NEXT_FIT}};

static struct vmem *arena(struct address_space *as, uint64_t size, uint64_t qcache_max)
{
	struct vmem *vm;

	must(vmem_create(
		     &(struct vmem_spec){
			     .name = "fragmented",
			     .store = address_space_tags(as),
			     .size = size,
			     .quantum = 1,
			     .qcache_max = qcache_max,
		     },
		     &vm),
	     "arena");
	return vm;
}

/* Whether the piece has an integer that is @f modulo @unit. */
static bool in_the_way(const struct live *l, uint64_t f, uint64_t unit)
{
	return ((f - l->addr) & (unit - 1)) < l->size;
}

static uint64_t weight(const struct live *l, uint64_t n, uint64_t f, uint64_t unit)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < n; i++)
		if (in_the_way(&l[i], f, unit))
			sum += unit - l[i].size;
	return sum;
}

/* Returns the highest integer used, over M. */
static double robson(struct address_space *as, unsigned flags, uint64_t m, unsigned steps)
{
	struct vmem *vm = arena(as, m * 16, 0);
	struct live *l = calloc(m, sizeof(*l));
	uint64_t n = 0, live = 0, top = 0, f = 0;

	for (unsigned i = 0; i <= steps; i++) {
		uint64_t unit = 1ull << i, kept = 0;

		if (i && weight(l, n, f + unit / 2, unit) > weight(l, n, f, unit))
			f += unit / 2;
		for (uint64_t k = 0; i && k < n; k++) {
			if (in_the_way(&l[k], f, unit)) {
				l[kept++] = l[k];
				continue;
			}
			live -= l[k].size;
			vmem_free(vm, l[k].addr, l[k].size);
		}
		if (i)
			n = kept;
		for (; live + unit <= m; live += unit) {
			l[n].size = unit;
			must(vmem_alloc(vm, unit, flags, &l[n].addr), "piece");
			if (l[n].addr + unit > top)
				top = l[n].addr + unit;
			n++;
		}
	}
	for (uint64_t k = 0; k < n; k++)
		vmem_free(vm, l[k].addr, l[k].size);
	vmem_destroy(vm, NULL, NULL);
	free(l);
	return (double)top / (double)m;
}

/* Fill at the first refusal. */
static double fill(struct address_space *as, unsigned flags, uint64_t max_size, uint64_t qcache_max)
{
	uint64_t size = 1 << 20, live = 0, rnd = 99, n = 0, target = size / 2, turns = 0;
	struct vmem *vm = arena(as, size, qcache_max);
	struct live *l = calloc(size, sizeof(*l)), x;

	for (;;) {
		x.size = 1 + next_random(&rnd) % max_size;
		if (live + x.size > target) {
			uint64_t i = next_random(&rnd) % n;

			vmem_free(vm, l[i].addr, l[i].size);
			live -= l[i].size;
			l[i] = l[--n];
			if (++turns % 50000 == 0) /* long at each fill, then fuller by 1/256 */
				target += size / 256;
			continue;
		}
		if (vmem_alloc(vm, x.size, flags, &x.addr))
			break;
		live += x.size;
		l[n++] = x;
	}
	for (uint64_t i = 0; i < n; i++)
		vmem_free(vm, l[i].addr, l[i].size);
	vmem_destroy(vm, NULL, NULL);
	free(l);
	return (double)live / (double)size;
}

void bench_frag(void)
{
	struct address_space *as = bench_space();

	printf("| policy | Robson, to 16 (bound 3.0) | to 256 (bound 5.0) | fill at refusal: sizes "
	       "to 16 | to 256 | to 4096 |\n|---|---|---|---|---|---|\n");
	for (unsigned i = 0; i < 3; i++) {
		unsigned flags = policies[i].flags;

		printf("| %s | %.2f | %.2f | %.1f %% | %.1f %% | %.1f %% |\n", policies[i].name,
		       robson(as, flags, 1 << 16, 4), robson(as, flags, 1 << 16, 8),
		       100 * fill(as, flags, 16, 0), 100 * fill(as, flags, 256, 0),
		       100 * fill(as, flags, 4096, 0));
		fflush(stdout);
	}
	printf("| quantum caches to 16 | | | %.1f %% | %.1f %% | %.1f %% |\n",
	       100 * fill(as, 0, 16, 16), 100 * fill(as, 0, 256, 16), 100 * fill(as, 0, 4096, 16));
	address_space_destroy(as);
}
