/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the second-chance cache pays: 4 KiB reads of a LUN in this process, direct I/O, no front,
 * by traces (trace.h) of three times as many pages as fit in the memory, which compress 2.5 : 1.
 *
 *	tmem_gain FILE MIB ROUNDS [US]	FILE is overwritten, with six times MIB
 *
 * US: by so many microseconds each read of the store takes longer (slow_store.h).
 *
 * Two ways to use MIB of memory, each with a LUN of its own on the file: all is the read cache's
 * ("plain"), or it is divided between that and tmem as the appliance does where nothing is declared
 * ("tmem"). Budget and pools are the appliance's, so the index of the cache and all that tmem needs
 * for itself is in the MIB; with a floor as high as the ceiling nothing is given back meanwhile.
 *
 * Both are warmed by the same reads. Then they take turns, in slices of the same reads for both, at
 * each depth; who begins changes from round to round. A JSON object a slice is printed, and one a
 * way: what it held in the end, and what reads took by the tier that they were served from, which
 * is asked for after each read in slices of their own.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/config.h"
#include "control/memory.h"
#include "lun/lun.h"
#include "mem/budget/budget.h"
#include "mem/tmem/host.h"
#include "reader.h"
#include "slow_store.h"
#include "trace.h"

#define DATA	    3u /* times the memory */
#define WARM	    40.0 /* reads a page of the memory, before anything is measured: tmem fills slowly */
#define WARM_DEPTH  32u
#define CHUNK_PAGES 256u

static const enum trace_kind kinds[] = {TRACE_ZIPF_08, TRACE_ZIPF_10, TRACE_ZIPF_12,
					TRACE_ZIPF_SCAN, TRACE_UNIFORM};

/* A slice of a round: how many reads of a page of the memory there are. */
static const struct slice {
	unsigned depth;
	double reads;
} slices[] = {{32, 1}, {1, 0.25}};

#define SLICES	    (sizeof(slices) / sizeof(slices[0]))
#define SLICE_TIERS 0.5 /* reads a page of the memory, to tell the tiers by */

enum tier { TIER_MEMORY, TIER_ZERO, TIER_TMEM, TIER_STORE, TIERS };

struct hits {
	uint64_t of[TIER_STORE]; /* the store has the rest */
};

struct way {
	const char *name;
	struct memory *memory;
	struct lun *lun;
	const struct trace *trace;
	size_t at, end; /* accesses that are to come */
	struct hits seen;
	struct latency latency[TIERS];
};

static struct {
	const char *path;
	uint64_t pages;	   /* of the memory */
	uint64_t delay_ns; /* of the store */
	unsigned rounds;
	struct reactor *reactor;
} bench;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "tmem_gain: %s\n", what);
	exit(1);
}

/* --- the file --- */

static void write_file(uint64_t pages)
{
	static uint8_t chunk[CHUNK_PAGES][READER_PAGE];
	int fd = open(bench.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		die("cannot make the file");
	for (uint64_t page = 0; page < pages; page += CHUNK_PAGES) {
		for (unsigned i = 0; i < CHUNK_PAGES; i++)
			trace_make_page(chunk[i], page + i);
		if (write(fd, chunk, sizeof(chunk)) != sizeof(chunk))
			die("cannot write the file");
	}
	if (fsync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) || close(fd))
		die("cannot write the file");
}

/* --- a way --- */

static void way_open(struct way *w, bool tmem, const struct trace *trace)
{
	struct lun_options opt = {
		.name = w->name, .path = bench.path, .read_only = true, .state_dirfd = -1};
	struct block_open_options store_opt = {
		.path = bench.path, .mode = BLOCK_MODE_DIRECT, .read_only = true};
	struct block_store *store;
	int err;
	uint64_t mib = bench.pages * READER_PAGE >> 20;
	struct reason why = {""};
	struct config *cfg;
	char text[160];

	snprintf(text, sizeof(text), "memory:\n  max: %" PRIu64 "M\n  floor: %" PRIu64 "M\n%s", mib,
		 mib, tmem ? "" : "  tmem:\n    codec: none\n");
	if (config_load_text(w->name, text, strlen(text), &cfg, &why) ||
	    memory_start(cfg, NULL, &w->memory, &why))
		die(why.text);
	config_free(cfg);
	opt.cache = memory_cache(w->memory);
	err = bench.delay_ns ? slow_store_open(&store_opt, bench.delay_ns, &store, &why)
			     : block_open_file(&store_opt, &store, &why);
	if (err || lun_create(&opt, store, &w->lun, &why))
		die(why.text);
	w->trace = trace;
	w->at = w->end = 0;
	memset(w->latency, 0, sizeof(w->latency));
}

static uint64_t held(const struct way *w)
{
	struct budget_stats s;

	budget_stats(memory_budget(w->memory), &s);
	return s.held;
}

/* What a way holds above the memory - tmem's limit is for records, not for the unused parts of its
 * blocks - comes off its ceiling. */
static void way_fit(struct way *w)
{
	uint64_t all = bench.pages * READER_PAGE, over = held(w) > all ? held(w) - all : 0;
	struct config_memory less = {.max = all - over, .floor = all - over};
	struct reason why = {""};

	if (over && memory_set(w->memory, &less, &why))
		die(why.text);
}

static void way_close(struct way *w)
{
	lun_unref(w->lun);
	memory_stop(w->memory);
}

static struct hits hits_now(const struct way *w)
{
	struct lun_cache_stats s;

	if (!lun_cache_stats(w->lun, &s))
		die("the LUN has no cache");
	return (struct hits){{[TIER_MEMORY] = s.cache.hits_memory,
			      [TIER_ZERO] = s.cache.hits_zero,
			      [TIER_TMEM] = s.cache.hits_tmem}};
}

static uint64_t next_page(void *arg)
{
	struct way *w = arg;

	return w->at < w->end ? w->trace->access[w->at++] : READER_END;
}

/* One read at a time: whatever counter moved is its tier's. */
static void note_tier(void *arg, uint64_t ns)
{
	struct way *w = arg;
	struct hits now = hits_now(w);
	enum tier tier = TIER_MEMORY;

	while (tier < TIER_STORE && now.of[tier] == w->seen.of[tier])
		tier++;
	latency_add(&w->latency[tier], ns);
	w->seen = now;
}

/* The next @reads of the trace. */
static void way_read(struct way *w, unsigned depth, size_t reads,
		     void (*done)(void *arg, uint64_t ns), struct reader_result *ret_result)
{
	struct reader_spec spec = {.lun = w->lun,
				   .reactor = bench.reactor,
				   .depth = depth,
				   .next = next_page,
				   .done = done,
				   .arg = w};

	w->end = w->at + reads;
	w->seen = hits_now(w);
	if (w->end > w->trace->n || reader_run(&spec, ret_result))
		die("a read failed");
}

static void report_slice(const struct way *w, const char *trace, unsigned depth,
			 const struct reader_result *r)
{
	double reads = (double)r->reads;
	struct hits now = hits_now(w);

	for (unsigned i = 0; i < TIER_STORE; i++)
		now.of[i] -= w->seen.of[i];
	printf("{\"trace\": \"%s\", \"way\": \"%s\", \"depth\": %u, \"reads\": %" PRIu64
	       ", \"iops\": %.0f, \"cpu_per_mio\": %.3f, \"memory\": %.5f, \"zero\": %.5f, "
	       "\"tmem\": %.5f}\n",
	       trace, w->name, depth, r->reads, reads / r->seconds, r->cpu / reads * 1e6,
	       (double)now.of[TIER_MEMORY] / reads, (double)now.of[TIER_ZERO] / reads,
	       (double)now.of[TIER_TMEM] / reads);
}

static void report_way(const struct way *w, const char *trace)
{
	struct tmem_host *tmem = memory_tmem(w->memory);
	struct tmem_host_stats t = {0};
	struct cache_stats c;

	cache_stats(memory_cache(w->memory), &c);
	if (tmem)
		tmem_host_stats(tmem, &t);
	printf("{\"trace\": \"%s\", \"way\": \"%s\", \"held\": %" PRIu64 ", \"index\": %" PRIu64
	       ", \"cache_pages\": %" PRIu64 ", \"tmem_pages\": %" PRIu64
	       ", \"tmem_resident\": %" PRIu64 ", \"us\": "
	       "{\"memory\": %.2f, \"tmem\": %.2f, \"tmem_p99\": %.2f, \"store\": %.2f}}\n",
	       trace, w->name, held(w), c.index_resident, c.pages, c.tmem_pages, t.resident,
	       latency_quantile_us(&w->latency[TIER_MEMORY], 0.5),
	       latency_quantile_us(&w->latency[TIER_TMEM], 0.5),
	       latency_quantile_us(&w->latency[TIER_TMEM], 0.99),
	       latency_quantile_us(&w->latency[TIER_STORE], 0.5));
}

/* --- a trace --- */

static size_t reads_of(double per_page)
{
	return (size_t)(per_page * (double)bench.pages);
}

static size_t reads_of_all(void)
{
	size_t round = 0;

	for (unsigned i = 0; i < SLICES; i++)
		round += reads_of(slices[i].reads);
	return reads_of(WARM) + bench.rounds * round + reads_of(SLICE_TIERS);
}

static void run_round(struct way *ways, unsigned round, const char *trace)
{
	struct reader_result r;

	for (unsigned i = 0; i < SLICES; i++) {
		for (unsigned k = 0; k < 2; k++) {
			struct way *w = &ways[(k + round) % 2];

			way_read(w, slices[i].depth, reads_of(slices[i].reads), NULL, &r);
			report_slice(w, trace, slices[i].depth, &r);
		}
	}
}

static void run_trace(enum trace_kind kind)
{
	struct trace t = trace_make_over(kind, (uint32_t)(DATA * bench.pages), reads_of_all());
	struct way ways[2] = {{.name = "plain"}, {.name = "tmem"}};
	const char *name = trace_name(kind);
	struct reader_result r;

	for (unsigned k = 0; k < 2; k++) {
		way_open(&ways[k], k == 1, &t);
		way_read(&ways[k], WARM_DEPTH, reads_of(WARM / 2), NULL, &r);
		way_fit(&ways[k]);
		way_read(&ways[k], WARM_DEPTH, reads_of(WARM / 2), NULL, &r);
	}
	for (unsigned round = 0; round < bench.rounds; round++)
		run_round(ways, round, name);
	for (unsigned k = 0; k < 2; k++) {
		way_read(&ways[k], 1, reads_of(SLICE_TIERS), note_tier, &r);
		report_way(&ways[k], name);
		way_close(&ways[k]);
	}
	trace_free(&t);
}

int main(int argc, char **argv)
{
	struct reactor_options opt = {.name = "bench"};
	struct reactor_set *set;
	uint64_t mib = argc == 4 || argc == 5 ? strtoull(argv[2], NULL, 10) : 0;

	if (mib < 16 || mib > 65536)
		die("usage: tmem_gain FILE MIB ROUNDS [US] (16 MiB at least)");
	bench.delay_ns = argc == 5 ? strtoull(argv[4], NULL, 10) * 1000 : 0;
	bench.path = argv[1];
	bench.pages = (mib << 20) / READER_PAGE;
	bench.rounds = (unsigned)atoi(argv[3]);
	write_file(2 * DATA * bench.pages); /* as many again for scans */
	if (reactor_set_start(1, &opt, &set))
		die("no reactor");
	bench.reactor = reactor_set_get(set, 0);
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		run_trace(kinds[i]);
	reactor_set_stop(set);
	return 0;
}
