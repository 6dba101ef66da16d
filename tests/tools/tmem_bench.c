// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What tmem costs: tmem_bench [MIB [lz4|zstd [PERCENT [THREADS]]]]
 * Puts MIB of pages of which PERCENT is noise (default 64 lz4 35), reads them at random, takes
 * them back, and prints us an operation, the compression ratio and what packing wastes.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mem/tmem/host.h"

#define VARIANTS 256u
#define MAX_THR	 16u

struct bench {
	struct tmem_host *host;
	struct tmem_client *c;
	u32 pool, threads;
	u64 pages;
	uint8_t variant[VARIANTS][TMEM_PAGE];
};

struct runner {
	struct bench *b;
	u32 me;
	char op;
	u64 done;
};

static const struct tmem_oid oid = {{1, 2, 3}};

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static u64 next_random(u64 *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dull;
}

/* Noise in runs between words of few letters, so that both codecs have something to do. */
static void make_variants(struct bench *b, u32 percent)
{
	u64 rnd = 42;

	for (u32 v = 0; v < VARIANTS; v++) {
		u32 share = percent / 2 + (u32)(next_random(&rnd) % (percent + 1));

		for (u32 i = 0; i < TMEM_PAGE; i += 32) {
			bool noise = next_random(&rnd) % 100 < share;
			u64 letter = next_random(&rnd) % 16;

			for (u32 k = 0; k < 32; k++)
				b->variant[v][i + k] = noise ? (uint8_t)(next_random(&rnd) >> 32)
							     : (uint8_t)letter;
		}
	}
}

static void *run(void *arg)
{
	struct runner *r = arg;
	struct bench *b = r->b;
	uint8_t page[TMEM_PAGE];
	u64 rnd = r->me + 1;

	for (u64 i = r->me; i < b->pages; i += b->threads) {
		u64 at = next_random(&rnd) % b->pages;
		int rc;

		if (r->op == 'p') {
			memcpy(page, b->variant[i % VARIANTS], TMEM_PAGE);
			memcpy(page, &i, sizeof(i));
			rc = tmem_put(b->c, b->pool, &oid, i, page);
		} else if (r->op == 'g') {
			rc = tmem_get(b->c, b->pool, &oid, at, page);
		} else {
			rc = tmem_get_and_flush(b->c, b->pool, &oid, i, page);
		}
		r->done += !rc;
	}
	return NULL;
}

static void phase(struct bench *b, const char *name, char op)
{
	struct runner r[MAX_THR];
	pthread_t t[MAX_THR];
	double start = now_us(), us;
	u64 done = 0;

	for (u32 i = 0; i < b->threads; i++) {
		r[i] = (struct runner){.b = b, .me = i, .op = op};
		if (pthread_create(&t[i], NULL, run, &r[i]))
			exit(1);
	}
	for (u32 i = 0; i < b->threads; i++) {
		pthread_join(t[i], NULL);
		done += r[i].done;
	}
	us = now_us() - start;
	printf("%-24s %8.2f us an operation, %8.0f a second, %llu of %llu done\n", name,
	       us * b->threads / (double)b->pages, (double)b->pages / us * 1e6,
	       (unsigned long long)done, (unsigned long long)b->pages);
}

static void report(struct bench *b)
{
	struct tmem_host_stats s;
	struct tmem_stats t;
	double stored;

	tmem_host_stats(b->host, &s);
	tmem_stats(tmem_host_instance(b->host), &t);
	stored = (double)(s.packer.records + s.packer.words) * TMEM_PAGE;
	printf("compression of records   %8.2f : 1\n", stored / (double)s.packer.record_bytes);
	printf("with all memory it takes %8.2f : 1\n", stored / (double)s.resident);
	printf("packing: rounding        %8.2f %%\n",
	       100.0 * (double)(s.packer.slot_bytes - s.packer.record_bytes) /
		       (double)s.packer.block_bytes);
	printf("packing: unused in blocks%8.2f %%\n",
	       100.0 * (double)(s.packer.block_bytes - s.packer.slot_bytes) /
		       (double)s.packer.block_bytes);
	printf("records, bytes a page    %8.1f handed out, %.1f kept; the core's %.1f\n",
	       (double)s.record_bytes / (double)t.pages, (double)s.record_kept / (double)t.pages,
	       (double)t.meta_bytes / (double)t.pages);
}

/* Holes everywhere, then pack. */
static void compaction(struct bench *b)
{
	struct tmem_host_stats before, after;
	double start;

	for (u64 i = 0; i < b->pages; i++) {
		if (i % 3)
			tmem_flush_page(b->c, b->pool, &oid, i);
	}
	tmem_host_stats(b->host, &before);
	start = now_us();
	tmem_host_compact(b->host);
	tmem_host_stats(b->host, &after);
	printf("compaction after two thirds went: %.1f -> %.1f MiB of blocks in %.1f ms\n",
	       (double)before.packer.block_bytes / 1048576,
	       (double)after.packer.block_bytes / 1048576, (now_us() - start) / 1e3);
}

int main(int argc, char **argv)
{
	static struct bench b;
	u64 mib = argc > 1 ? strtoull(argv[1], NULL, 0) : 64;
	bool zstd = argc > 2 && !strcmp(argv[2], "zstd");
	u32 percent = argc > 3 ? (u32)strtoul(argv[3], NULL, 0) : 35;
	struct address_space *as;

	b.threads = argc > 4 ? (u32)strtoul(argv[4], NULL, 0) : 1;
	b.pages = mib << 20 >> 12;
	if (!mib || mib > 1 << 14 || percent > 100 || !b.threads || b.threads > MAX_THR) {
		fprintf(stderr, "usage: tmem_bench [MIB [lz4|zstd [PERCENT [THREADS]]]]\n");
		return 2;
	}
	if (address_space_create(&(struct address_space_spec){0}, &as) ||
	    tmem_host_create(
		    &(struct tmem_host_spec){
			    .as = as,
			    .codec = {.kind = zstd ? CODEC_ZSTD : CODEC_LZ4, .keep_raw = true},
			    .spares = 1 << 20},
		    &b.host) ||
	    tmem_client_create(tmem_host_instance(b.host), "bench", 1, 0, &b.c) ||
	    tmem_pool_new(b.c, 0, NULL, &b.pool)) {
		fprintf(stderr, "tmem_bench: no memory\n");
		return 1;
	}
	make_variants(&b, percent);
	phase(&b, "put", 'p');
	report(&b);
	phase(&b, "put again (replaces)", 'p');
	phase(&b, "get at random", 'g');
	phase(&b, "get and flush", 't');
	phase(&b, "put (blocks reused)", 'p');
	compaction(&b);
	tmem_client_destroy(b.c);
	tmem_host_destroy(b.host);
	return address_space_destroy(as) ? 1 : 0;
}
