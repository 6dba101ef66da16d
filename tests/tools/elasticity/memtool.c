/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts of the elasticity measurement (tests/tools/elasticity/run has the whole):
 *
 *	memtool make FILE MIB		writes a file whose every word follows from its place
 *	memtool read URI MIB THREADS	reads all of it by NBD once, says "full", then reads random
 *					pages and looks at every word, until SIGTERM; then tells
 *	memtool take MIB		takes memory page by page, says how long that took, and
 *					keeps it until standard input ends
 *	memtool hold MIB		a plain cache: as much malloc'ed memory, filled and read
 */
#include <errno.h>
#include <libnbd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE  4096u
#define WORDS (PAGE / 8)
#define CHUNK (1u << 20)

static atomic_bool stop;

static void on_signal(int sig)
{
	atomic_store(&stop, true);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A word that cannot be compressed, from its number. */
static uint64_t word_at(uint64_t i)
{
	i += 0x9e3779b97f4a7c15ull;
	i = (i ^ i >> 30) * 0xbf58476d1ce4e5b9ull;
	i = (i ^ i >> 27) * 0x94d049bb133111ebull;
	return i ^ i >> 31;
}

static void fill(uint64_t *p, uint64_t off, size_t len)
{
	for (size_t k = 0; k < len / 8; k++)
		p[k] = word_at(off / 8 + k);
}

static bool right(const uint64_t *p, uint64_t off, size_t len)
{
	for (size_t k = 0; k < len / 8; k++)
		if (p[k] != word_at(off / 8 + k))
			return false;
	return true;
}

static int do_make(const char *path, uint64_t bytes)
{
	static uint64_t buf[CHUNK / 8];
	FILE *f = fopen(path, "w");

	if (!f)
		return perror(path), 1;
	for (uint64_t off = 0; off < bytes; off += CHUNK) {
		fill(buf, off, CHUNK);
		if (fwrite(buf, CHUNK, 1, f) != 1)
			return perror(path), 1;
	}
	return fclose(f) != 0;
}

/* --- read --- */

struct reader {
	const char *uri;
	uint64_t bytes;
	unsigned index, n;
	pthread_t thread;
	uint64_t reads, errors, wrong, worst_ns;
};

static atomic_uint full;

static struct nbd_handle *connect_to(const char *uri)
{
	struct nbd_handle *h = nbd_create();

	if (h && !nbd_connect_uri(h, uri))
		return h;
	fprintf(stderr, "%s: %s\n", uri, nbd_get_error());
	exit(1);
}

static void read_checked(struct reader *r, struct nbd_handle *h, uint64_t *buf, uint64_t off,
			 size_t len)
{
	uint64_t t0 = now_ns();

	if (nbd_pread(h, buf, len, off, 0)) {
		r->errors++;
		fprintf(stderr, "read at %lu: %s\n", off, nbd_get_error());
		return;
	}
	t0 = now_ns() - t0;
	if (t0 > r->worst_ns)
		r->worst_ns = t0;
	r->reads++;
	r->wrong += !right(buf, off, len);
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;
	struct nbd_handle *h = connect_to(r->uri);
	uint64_t *buf = malloc(CHUNK), seed = word_at(r->index);

	/* Twice: what is read once may not be kept. */
	for (uint64_t off = r->index * CHUNK; off < 2 * r->bytes && !stop; off += r->n * CHUNK)
		read_checked(r, h, buf, off % r->bytes, CHUNK);
	if (atomic_fetch_add(&full, 1) + 1 == r->n) {
		puts("full");
		fflush(stdout);
	}
	r->worst_ns = 0;
	while (!stop) {
		seed = word_at(seed);
		read_checked(r, h, buf, seed % (r->bytes / PAGE) * PAGE, PAGE);
	}
	free(buf);
	nbd_shutdown(h, 0);
	nbd_close(h);
	return NULL;
}

static int do_read(const char *uri, uint64_t bytes, unsigned n)
{
	struct reader *r = calloc(n, sizeof(*r)), all = {0};

	for (unsigned i = 0; i < n; i++) {
		r[i] = (struct reader){.uri = uri, .bytes = bytes, .index = i, .n = n};
		pthread_create(&r[i].thread, NULL, reader_main, &r[i]);
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(r[i].thread, NULL);
		all.reads += r[i].reads;
		all.errors += r[i].errors;
		all.wrong += r[i].wrong;
		if (r[i].worst_ns > all.worst_ns)
			all.worst_ns = r[i].worst_ns;
	}
	free(r);
	printf("reads=%lu errors=%lu wrong=%lu worst_ms=%.1f\n", all.reads, all.errors, all.wrong,
	       (double)all.worst_ns / 1e6);
	return all.errors || all.wrong;
}

/* --- take and hold --- */

static uint8_t *map(uint64_t bytes)
{
	uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

static double milliseconds(struct timeval tv)
{
	return (double)tv.tv_sec * 1e3 + (double)tv.tv_usec / 1e3;
}

static int do_take(uint64_t bytes)
{
	uint8_t *p = map(bytes);
	uint64_t t0 = now_ns(), last = t0, t, worst = 0;
	struct rusage use;
	char c;

	for (uint64_t off = 0; off < bytes; off += PAGE) {
		p[off] = 1;
		if (off % (16 * PAGE))
			continue;
		t = now_ns();
		if (t - last > worst)
			worst = t - last;
		last = t;
	}
	getrusage(RUSAGE_SELF, &use);
	printf("took_ms=%.1f worst_ms=%.1f cpu_ms=%.1f\n", (double)(now_ns() - t0) / 1e6,
	       (double)worst / 1e6, milliseconds(use.ru_utime) + milliseconds(use.ru_stime));
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	return 0;
}

static int do_hold(uint64_t bytes)
{
	uint64_t *p = (uint64_t *)map(bytes), seed = 1, wrong = 0, reads = 0;

	fill(p, 0, bytes);
	puts("full");
	fflush(stdout);
	for (; !stop; reads++) {
		uint64_t off;

		seed = word_at(seed);
		off = seed % (bytes / PAGE) * PAGE;
		wrong += !right(p + off / 8, off, PAGE);
	}
	printf("reads=%lu errors=0 wrong=%lu worst_ms=0\n", reads, wrong);
	return wrong != 0;
}

int main(int argc, char **argv)
{
	uint64_t last = argc > 2 ? strtoull(argv[argc - 1], NULL, 10) : 0;

	signal(SIGTERM, on_signal);
	if (argc == 4 && !strcmp(argv[1], "make"))
		return do_make(argv[2], last << 20);
	if (argc == 5 && !strcmp(argv[1], "read"))
		return do_read(argv[2], strtoull(argv[3], NULL, 10) << 20, (unsigned)last);
	if (argc == 3 && !strcmp(argv[1], "take"))
		return do_take(last << 20);
	if (argc == 3 && !strcmp(argv[1], "hold"))
		return do_hold(last << 20);
	fprintf(stderr,
		"usage: memtool make FILE MIB | read URI MIB THREADS | take MIB | hold MIB\n");
	return 2;
}
