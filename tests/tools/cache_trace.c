/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hit ratios of the read cache beside LRU, FIFO and the best there can be, on traces (trace.h).
 *
 *	cache_trace [PAGES [SHARDS [TMEM]]]	of the cache; default 16384, 1, 25
 *
 * Last, the same memory divided: TMEM % of it are tmem's, the others the cache's.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>

#include "mem/address_space.h"
#include "mem/cache/cache.h"
#include "mem/tmem/host.h"
#include "trace.h"

struct cut {
	uint64_t pages, tmem_pages;
	unsigned shards;
};

static size_t run_cache(const struct trace *t, const struct cut *cut, struct cache_stats *ret_stats)
{
	struct cache_spec spec = {.max = cut->pages * CACHE_PAGE, .shards = cut->shards};
	struct cache *c;
	struct cache_object *o;
	size_t hits;

	if (address_space_create(&(struct address_space_spec){0}, &spec.as) ||
	    (cut->tmem_pages && tmem_host_create(
					&(struct tmem_host_spec){
						.as = spec.as,
						.limit = cut->tmem_pages * CACHE_PAGE,
					},
					&spec.tmem)) ||
	    cache_create(&spec, &c) ||
	    cache_object_create(c, &(struct cache_object_spec){.name = "trace"}, &o))
		errx(1, "no cache");
	hits = trace_hits_cache(t, o);
	cache_stats(c, ret_stats);
	cache_object_destroy(o);
	cache_destroy(c);
	tmem_host_destroy(spec.tmem);
	address_space_destroy(spec.as);
	return hits;
}

static void run_trace(enum trace_kind kind, uint32_t pages, unsigned shards, unsigned tmem)
{
	struct trace t = trace_make(kind, pages);
	struct cut whole = {.pages = pages, .shards = shards};
	struct cut divided = {.tmem_pages = (uint64_t)pages * tmem / 100, .shards = shards};
	double all = (double)(t.n - trace_counted_from(&t)) / 100;
	struct cache_stats st;

	divided.pages = pages - divided.tmem_pages;
	printf("%-16s %8.2f %8.2f %8.2f %8.2f", trace_name(kind),
	       (double)trace_hits_fifo(&t, pages) / all, (double)trace_hits_lru(&t, pages) / all,
	       (double)run_cache(&t, &whole, &st) / all, (double)trace_hits_best(&t, pages) / all);
	printf(" %8.2f", (double)run_cache(&t, &divided, &st) / all);
	printf(" %6.2f %6.2f\n", (double)st.hits_tmem / (double)t.n * 100,
	       (double)st.demoted / (double)t.n * 100);
	trace_free(&t);
}

int main(int argc, char **argv)
{
	uint32_t pages = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 16384;
	unsigned shards = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1;
	unsigned tmem = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 25;

	if (pages < 64 || pages > 1 << 20 || !tmem || tmem > 90)
		errx(2, "usage: cache_trace [PAGES [SHARDS [TMEM]]]");
	printf("%-16s %8s %8s %8s %8s %8s %6s %6s\n", "hits, %", "FIFO", "LRU", "cache", "best",
	       "divided", "(tmem)", "(puts)");
	for (unsigned k = 0; k < TRACE_KINDS; k++)
		run_trace((enum trace_kind)k, pages, shards, tmem);
	return 0;
}
