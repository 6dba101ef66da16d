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
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "lun/lun.h"
#include "mem/address_space.h"

#define PAGE	   4096u
#define DEPTH_MAX  256u
#define BUCKETS	   (64 * 16) /* 16 a power of two of ns */
#define SPACE_UNIT (1ull << 30)

struct slot {
	struct lun_io io;
	struct iobuf *buf;
	struct iovec iov;
	uint64_t start_ns;
	bool submitting, done;
};

static struct {
	struct lun *lun;
	struct cache *cache;
	struct reactor *reactor;
	struct reactor_msg start;
	struct reactor_timer end;
	struct slot slot[DEPTH_MAX];
	unsigned depth, running;
	uint64_t first, pages, period, at; /* of the random walk */
	uint64_t length_ns, began_ns, ended_ns, reads, hist[BUCKETS];
	bool over;
	int err;
	sem_t stopped;
} bench;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "engine_bench: %s\n", what);
	exit(1);
}

/* A linear congruential generator of full period over a power of two, those beyond the pages left
 * out (Knuth, 3.2.1.2, theorem A); its bits are mixed by a bijection, or the low ones would be as
 * regular as a counter's. */
static uint64_t next_page(void)
{
	uint64_t mask = bench.period - 1, v;

	do {
		bench.at = (bench.at * 6364136223846793005ull + 1442695040888963407ull) & mask;
		v = bench.at;
		for (int i = 0; i < 3; i++)
			v = ((v ^ v >> 7) * 0x9e3779b97f4a7c15ull) & mask;
	} while (v >= bench.pages);
	return v;
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned log = ns < 16 ? 4 : 63 - (unsigned)__builtin_clzll(ns);

	return log * 16 + (unsigned)(ns >> (log - 4) & 15);
}

static double quantile_us(double q)
{
	uint64_t seen = 0;

	for (unsigned i = 0; i < BUCKETS; i++) {
		seen += bench.hist[i];
		if ((double)seen >= q * (double)bench.reads)
			return (double)((16ull | i % 16) << (i / 16 - 4)) / 1000;
	}
	return 0;
}

static void stop(void)
{
	bench.ended_ns = clock_now_ns();
	for (unsigned i = 0; i < bench.depth; i++)
		iobuf_put(bench.slot[i].buf);
	sem_post(&bench.stopped);
}

static void done(struct lun_io *io);

/* A loop: hits are done before lun_submit() returns. */
static void go(struct slot *s)
{
	while (!bench.over) {
		s->io = (struct lun_io){.op = LUN_READ,
					.off = (bench.first + next_page()) * PAGE,
					.len = PAGE,
					.iov = &s->iov,
					.niov = 1,
					.reg_index = s->buf->reg_index,
					.reactor = bench.reactor,
					.done = done};
		s->start_ns = clock_now_ns();
		s->submitting = true;
		s->done = false;
		lun_submit(bench.lun, &s->io);
		s->submitting = false;
		if (!s->done)
			return;
		/* Nothing but hits: the timer would never fire. */
		if (s->start_ns - bench.began_ns > bench.length_ns)
			bench.over = true;
	}
	if (!--bench.running)
		stop();
}

static void done(struct lun_io *io)
{
	struct slot *s = container_of(io, struct slot, io);

	bench.hist[bucket_of(clock_now_ns() - s->start_ns)]++;
	bench.reads++;
	if (io->err) {
		bench.err = io->err;
		bench.over = true;
	}
	s->done = true;
	if (!s->submitting)
		go(s);
}

static void on_end(struct reactor_timer *t)
{
	bench.over = true;
}

static void on_start(struct reactor_msg *m)
{
	reactor_timer_init(&bench.end, on_end);
	bench.began_ns = clock_now_ns();
	reactor_timer_arm(bench.reactor, &bench.end, bench.began_ns + bench.length_ns);
	bench.running = bench.depth;
	for (unsigned i = 0; i < bench.depth; i++) {
		struct slot *s = &bench.slot[i];

		s->buf = iobuf_get(reactor_iobufs(bench.reactor), PAGE);
		if (!s->buf)
			die("no I/O buffers");
		s->iov = (struct iovec){s->buf->data, PAGE};
	}
	for (unsigned i = 0; i < bench.depth; i++)
		go(&bench.slot[i]);
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

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void report(double cpu)
{
	double seconds = (double)(bench.ended_ns - bench.began_ns) / 1e9;
	double reads = (double)bench.reads;
	struct lun_cache_stats s = {0};

	lun_cache_stats(bench.lun, &s);
	printf("{\"iops\": %.0f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"cpu_per_mio\": %.3f, "
	       "\"reads\": %" PRIu64 ", \"hits\": %" PRIu64 ", \"readahead\": %" PRIu64 "}\n",
	       reads / seconds, quantile_us(0.5), quantile_us(0.99), cpu / reads * 1e6, bench.reads,
	       s.cache.hits_memory + s.cache.hits_zero, s.readahead_pages);
}

int main(int argc, char **argv)
{
	struct reactor_options opt = {.name = "bench"};
	struct reactor_set *set;
	double cpu;

	if (argc < 5)
		die("usage: engine_bench FILE DEPTH SECONDS none|cold|hot [SEED]");
	bench.depth = (unsigned)atoi(argv[2]);
	if (bench.depth < 1 || bench.depth > DEPTH_MAX)
		die("a depth from 1 to 256");
	bench.length_ns = (uint64_t)(atof(argv[3]) * 1e9);
	open_lun(argv[1], argv[4]);
	bench.at = argc > 5 ? (uint64_t)atoll(argv[5]) : 1;
	if (reactor_set_start(1, &opt, &set))
		die("no reactor");
	bench.reactor = reactor_set_get(set, 0);
	bench.start.fn = on_start;
	sem_init(&bench.stopped, 0, 0);
	cpu = cpu_seconds();
	reactor_post(bench.reactor, &bench.start);
	while (sem_wait(&bench.stopped))
		;
	cpu = cpu_seconds() - cpu;
	if (bench.err)
		die("a read failed");
	report(cpu);
	reactor_set_stop(set);
	lun_unref(bench.lun);
	return 0;
}
