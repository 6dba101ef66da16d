/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine by itself: 4 KiB random reads of a LUN in this process, direct I/O, no front.
 *
 *	engine_bench FILE DEPTH SECONDS none|cold|hot [SEED]
 *
 * none: without a cache. cold: with one of a sixteenth of the file, which is full of pages that are
 * not read again; the rest of the file is gone through in an order in which no page comes again
 * before all others have come, so no read hits, and each drives a page out. hot: with one
 * that holds the working set, an eighth of the file, which is read once before. Prints a JSON
 * object, with latencies and CPU as fio's are in scripts/bench.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lun/lun.h"
#include "mem/address_space.h"
#include "reader.h"

#define PAGE	   READER_PAGE
#define SPACE_UNIT (1ull << 30)

static struct {
	struct lun *lun;
	struct cache *cache;
	uint64_t first, pages, period, at; /* of the random walk */
	struct latency latency;
} bench;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "engine_bench: %s\n", what);
	exit(1);
}

/* A linear congruential generator of full period over a power of two, those beyond the pages left
 * out (Knuth, 3.2.1.2, theorem A); its bits are mixed by a bijection, or the low ones would be as
 * regular as a counter's. */
static uint64_t next_page(void *arg)
{
	uint64_t mask = bench.period - 1, v;

	do {
		bench.at = (bench.at * 6364136223846793005ull + 1442695040888963407ull) & mask;
		v = bench.at;
		for (int i = 0; i < 3; i++)
			v = ((v ^ v >> 7) * 0x9e3779b97f4a7c15ull) & mask;
	} while (v >= bench.pages);
	return bench.first + v;
}

static void on_read(void *arg, uint64_t ns)
{
	latency_add(&bench.latency, ns);
}

static struct cache *make_cache(uint64_t bytes)
{
	struct address_space_spec as = {.size = (2 * bytes / SPACE_UNIT + 1) * SPACE_UNIT};
	struct cache_spec spec = {.max = bytes};
	struct cache *c;

	if (address_space_create(&as, &spec.as) || cache_create(&spec, &c))
		die("no cache");
	return c;
}

static void prefetch(uint64_t bytes)
{
	for (uint64_t off = 0; off < bytes; off += PAGE << 8) {
		struct lun_io io = {.op = LUN_PREFETCH,
				    .off = off,
				    .len = bytes - off < PAGE << 8 ? bytes - off : PAGE << 8,
				    .reg_index = -1};

		if (lun_run(bench.lun, &io))
			die("cannot read the file");
	}
}

static void open_lun(const char *path, const char *how)
{
	struct lun_options opt = {
		.name = "bench", .path = path, .mode = BLOCK_MODE_DIRECT, .state_dirfd = -1};
	struct reason why = {""};

	if (lun_open(&opt, &bench.lun, &why))
		die(why.text);
	bench.pages = lun_size(bench.lun) / PAGE;
	if (!strcmp(how, "cold"))
		bench.cache = make_cache(bench.pages / 16 * PAGE);
	else if (!strcmp(how, "hot"))
		bench.cache = make_cache(bench.pages / 4 * PAGE);
	else if (strcmp(how, "none"))
		die("none, cold or hot?");
	if (bench.cache && lun_set_cache(bench.lun, bench.cache, 0, 0, &why))
		die(why.text);
	if (!strcmp(how, "hot")) {
		bench.pages /= 8;
		prefetch(bench.pages * PAGE);
	} else if (!strcmp(how, "cold")) {
		bench.first = bench.pages / 16;
		bench.pages -= bench.first;
		prefetch(bench.first * PAGE);
	}
	if (!bench.pages)
		die("the file is too small");
	for (bench.period = 1; bench.period < bench.pages;)
		bench.period *= 2;
}

static void report(const struct reader_result *r)
{
	double reads = (double)r->reads;
	struct lun_cache_stats s = {0};

	lun_cache_stats(bench.lun, &s);
	printf("{\"iops\": %.0f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"cpu_per_mio\": %.3f, "
	       "\"reads\": %" PRIu64 ", \"hits\": %" PRIu64 ", \"readahead\": %" PRIu64 "}\n",
	       reads / r->seconds, latency_quantile_us(&bench.latency, 0.5),
	       latency_quantile_us(&bench.latency, 0.99), r->cpu / reads * 1e6, r->reads,
	       s.cache.hits_memory + s.cache.hits_zero, s.readahead_pages);
}

int main(int argc, char **argv)
{
	struct reactor_options opt = {.name = "bench"};
	struct reader_spec spec = {.next = next_page, .done = on_read};
	struct reader_result result;
	struct reactor_set *set;

	if (argc < 5)
		die("usage: engine_bench FILE DEPTH SECONDS none|cold|hot [SEED]");
	spec.depth = (unsigned)atoi(argv[2]);
	if (spec.depth < 1 || spec.depth > READER_DEPTH_MAX)
		die("a depth from 1 to 256");
	spec.length_ns = (uint64_t)(atof(argv[3]) * 1e9);
	open_lun(argv[1], argv[4]);
	bench.at = argc > 5 ? (uint64_t)atoll(argv[5]) : 1;
	if (reactor_set_start(1, &opt, &set))
		die("no reactor");
	spec.lun = bench.lun;
	spec.reactor = reactor_set_get(set, 0);
	if (reader_run(&spec, &result))
		die("a read failed");
	report(&result);
	reactor_set_stop(set);
	lun_unref(bench.lun);
	return 0;
}
