/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the read cache costs: a hit beside a bare copy of as many pages of plain memory in the same
 * random order, fills, and pages that come back from tmem. Times are of the thread's processor
 * time; copies and hits alternate in slices and are compared by their medians, as a busy machine
 * only adds; the ratio is the median of the ratios of neighbours. With two threads each has its own
 * order over the same pages.
 *
 *	cache_bench [MIB]	of pages that are read; default 256
 */
#include <err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "mem/address_space.h"
#include "mem/cache/cache.h"
#include "mem/tmem/host.h"

#define SLICE	    256u /* pages */
#define ROUNDS	    3u	 /* over all pages */
#define THREADS_MAX 2u
#define TMEM_PART   8u
#define WORDS	    (CACHE_PAGE / sizeof(uint64_t))

struct bench {
	struct address_space *as;
	struct tmem_host *tmem;
	struct cache *c;
	struct cache_object *o;
	uint8_t *plain;
	uint64_t pages;
};

struct runner {
	struct bench *b;
	uint32_t *order;
	uint64_t seed;
	uint64_t failed;
	double *copy, *hit, *ratio; /* by slice */
	unsigned slices;
	uint8_t buf[CACHE_PAGE] __attribute__((aligned(64)));
};

static uint64_t thread_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dull;
}

static void shuffle(uint32_t *order, uint64_t n, uint64_t *seed)
{
	for (uint32_t i = 0; i < n; i++)
		order[i] = i;
	for (uint64_t i = n - 1; i > 0; i--) {
		uint64_t k = next_random(seed) % (i + 1);
		uint32_t t = order[i];

		order[i] = order[k];
		order[k] = t;
	}
}

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}
static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), compare);
	return v[n / 2];
}

/* A page of which about half is noise. */
static void make_page(uint8_t *p, uint64_t page)
{
	uint64_t seed = page * 0x9e3779b97f4a7c15ull + 1, *w = (uint64_t *)p;

	for (unsigned i = 0; i < WORDS; i++)
		w[i] = i % 16 < 7 ? next_random(&seed) : i % 3;
}

/* --- hits --- */

static void copy_slice(struct runner *r, uint64_t at)
{
	size_t len = CACHE_PAGE;

	/* Both by the same function, not by what the compiler makes of a constant. */
	__asm__ volatile("" : "+r"(len));
	for (uint64_t i = at; i < at + SLICE; i++) {
		memcpy(r->buf, r->b->plain + (size_t)r->order[i] * CACHE_PAGE, len);
		__asm__ volatile("" ::"r"(r->buf) : "memory");
	}
}
static void hit_slice(struct runner *r, uint64_t at)
{
	for (uint64_t i = at; i < at + SLICE; i++)
		r->failed += cache_read(r->b->o, r->order[i], 0, CACHE_PAGE, r->buf) != 0;
}

static void *run_hits(void *arg)
{
	struct runner *r = arg;
	unsigned n = 0;

	/* Pages that were just given to the kernel are dearer once: the processor marks them. */
	for (uint64_t at = 0; at + SLICE <= r->b->pages; at += SLICE)
		hit_slice(r, at);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (uint64_t at = 0; at + 2 * SLICE <= r->b->pages; at += 2 * SLICE, n++) {
			/* What one copied in this round the other has in the next. */
			unsigned turn = (n + round) % 2;
			uint64_t mine = at + turn * SLICE, others = at + (1 - turn) * SLICE;
			uint64_t t0 = thread_ns(), t1;

			copy_slice(r, mine);
			t1 = thread_ns();
			hit_slice(r, others);
			r->copy[n] = (double)(t1 - t0) / SLICE;
			r->hit[n] = (double)(thread_ns() - t1) / SLICE;
			r->ratio[n] = r->hit[n] / r->copy[n];
		}
	}
	r->slices = n;
	return NULL;
}

static struct runner *runner_new(struct bench *b, uint64_t seed)
{
	struct runner *r = aligned_alloc(64, (sizeof(*r) + 63) & ~63ul);
	size_t slices = (b->pages / (2 * SLICE) + 1) * ROUNDS;

	if (!r)
		err(1, "memory");
	*r = (struct runner){.b = b, .seed = seed};
	r->order = calloc(b->pages, sizeof(*r->order));
	r->copy = calloc(3 * slices, sizeof(double));
	if (!r->order || !r->copy)
		err(1, "memory");
	r->hit = r->copy + slices;
	r->ratio = r->hit + slices;
	shuffle(r->order, b->pages, &r->seed);
	return r;
}
static void runner_free(struct runner *r)
{
	free(r->order);
	free(r->copy);
	free(r);
}

static void bench_hits(struct bench *b, unsigned threads)
{
	struct runner *r[THREADS_MAX];
	pthread_t t[THREADS_MAX];

	for (unsigned i = 0; i < threads; i++)
		r[i] = runner_new(b, i + 1);
	for (unsigned i = 0; i < threads; i++)
		if (pthread_create(&t[i], NULL, run_hits, r[i]))
			err(1, "thread");
	for (unsigned i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	for (unsigned i = 0; i < threads; i++) {
		printf("%u thread%s: memcpy %.0f ns, hit %.0f ns: %.2f of memcpy; %lu misses\n",
		       threads, threads > 1 ? "s" : "", median(r[i]->copy, r[i]->slices),
		       median(r[i]->hit, r[i]->slices), median(r[i]->ratio, r[i]->slices),
		       r[i]->failed);
		runner_free(r[i]);
	}
}

/* --- fills --- */

static void fill(struct bench *b, uint64_t page, unsigned n)
{
	struct iovec iov = {b->plain + page % b->pages * CACHE_PAGE, n * CACHE_PAGE};
	struct cache_fill f;

	if (cache_fill_begin(b->o, &f, page, n))
		cache_fill_end(&f, &iov, 1, 0);
}

/* Beyond the cache's pages: each evicts one. */
static void bench_fills(struct bench *b, const char *name, unsigned n, uint64_t from,
			uint64_t pages)
{
	double v[64];
	uint64_t page = from;
	double each = (double)pages / 64;

	for (unsigned k = 0; k < 64; k++) {
		uint64_t t0 = thread_ns(), first = page;

		for (; page < from + (uint64_t)(each * (k + 1)); page += n)
			fill(b, page, n);
		v[k] = (double)(thread_ns() - t0) / (double)(page - first);
	}
	printf("fill, %-34s %.0f ns a page\n", name, median(v, 64));
}

/* --- tmem --- */

/* Reads the pages of 0 to @n - 1 that are not in memory; tells what one took that was in tmem. */
static void time_tmem_hits(struct bench *b, uint64_t n, const char *name)
{
	uint64_t *away = calloc(n, sizeof(*away)), n_away = 0, t0, ns;
	struct cache_stats before, after;
	uint8_t buf[CACHE_PAGE];

	if (!away)
		err(1, "memory");
	for (uint64_t page = 0; page < n; page++)
		if (!cache_has(b->o, page))
			away[n_away++] = page;
	cache_stats(b->c, &before);
	t0 = thread_ns();
	for (uint64_t i = 0; i < n_away; i++)
		cache_read(b->o, away[i], 0, CACHE_PAGE, buf);
	ns = thread_ns() - t0;
	cache_stats(b->c, &after);
	free(away);
	after.hits_tmem -= before.hits_tmem;
	printf("tmem, hit %-35s %.2f us (%lu hits, %lu pages sent there)\n", name,
	       (double)ns / 1e3 / (double)(after.hits_tmem ? after.hits_tmem : 1), after.hits_tmem,
	       after.demoted - before.demoted);
}

static void bench_tmem(struct bench *b)
{
	uint64_t n = b->pages / TMEM_PART;
	uint8_t buf[CACHE_PAGE];
	struct cache_write w;

	cache_write_begin(b->o, &w, 0, UINT64_MAX);
	cache_write_end(&w, NULL, 0, 0);
	cache_set_target(b->c, b->pages * CACHE_PAGE, false);
	for (uint64_t page = 0; page < 2 * n; page++) {
		fill(b, page, 1);
		for (int hits = 0; hits < 2; hits++)
			cache_read(b->o, page, 0, CACHE_PAGE, buf);
	}
	cache_set_target(b->c, n * CACHE_PAGE, true);
	time_tmem_hits(b, 2 * n, "that leaves the page there");
	time_tmem_hits(b, 2 * n, "for which another page goes there");

	cache_set_target(b->c, CACHE_PAGE, true);
	cache_set_target(b->c, b->pages * CACHE_PAGE, false);
	time_tmem_hits(b, 2 * n, "that leaves the page there, again");
	time_tmem_hits(b, 2 * n, "into a frame without memory");
}

static void bench_open(struct bench *b, uint64_t mib)
{
	b->pages = mib << 8;
	b->plain = mmap(NULL, b->pages * CACHE_PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->plain == MAP_FAILED)
		err(1, "memory");
	madvise(b->plain, b->pages * CACHE_PAGE, MADV_NOHUGEPAGE);
	for (uint64_t page = 0; page < b->pages; page++)
		make_page(b->plain + page * CACHE_PAGE, page);
	if (address_space_create(&(struct address_space_spec){0}, &b->as) ||
	    tmem_host_create(&(struct tmem_host_spec){.as = b->as}, &b->tmem) ||
	    cache_create(
		    &(struct cache_spec){
			    .as = b->as,
			    /* Shards are not filled evenly: with room, all pages stay. */
			    .max = b->pages * CACHE_PAGE * 5 / 4,
			    .tmem = b->tmem},
		    &b->c) ||
	    cache_object_create(b->c, &(struct cache_object_spec){.name = "bench"}, &b->o))
		errx(1, "no cache");
}

int main(int argc, char **argv)
{
	struct bench b;
	uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : 256;

	if (mib < 4 || mib > 1 << 16)
		errx(2, "usage: cache_bench [MIB]");
	bench_open(&b, mib);
	bench_fills(&b, "first touch, one at a time", 1, 0, b.pages);
	cache_settle(b.c, 0);
	bench_hits(&b, 1);
	bench_hits(&b, 2);
	cache_set_target(b.c, b.pages / 2 * CACHE_PAGE, false);
	bench_fills(&b, "evicting, one at a time", 1, b.pages, b.pages);
	bench_fills(&b, "evicting, 16 at a time", 16, 2 * b.pages, b.pages);
	bench_tmem(&b);
	cache_object_destroy(b.o);
	cache_destroy(b.c);
	tmem_host_destroy(b.tmem);
	address_space_destroy(b.as);
	return 0;
}
