/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What volatile ranges cost: a hit beside a bare copy of the same pages in the same order, pins,
 * marking by batch size, first touches. Times are of the thread's processor time. Copies and hits
 * alternate in slices of a hundred microseconds or so and are compared by their medians; of the
 * others, the least of several rounds is shown (a busy machine only adds).
 *
 *	volatile_bench [MIB]	size of the range; default 64
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mem/volatile/volatile.h"

#define ROUNDS 7
#define SLICE  128u /* pages */
#define WORDS  (VOLATILE_PAGE / sizeof(uint64_t))

struct bench {
	struct volatile_range *r;
	uint32_t pages;
	uint32_t *order; /* a permutation of the pages */
	uint64_t failed;
};

typedef void work_fn(struct bench *b);

static uint64_t thread_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static double least(double a, double b)
{
	return !a || b < a ? b : a;
}
static double once(struct bench *b, work_fn *work)
{
	uint64_t t0 = thread_ns();

	work(b);
	return (double)(thread_ns() - t0) / b->pages;
}

static void shuffle(struct bench *b)
{
	uint64_t seed = 88172645463325252ull;

	for (uint32_t i = 0; i < b->pages; i++)
		b->order[i] = i;
	for (uint32_t i = b->pages - 1; i > 0; i--) {
		uint32_t k, t = b->order[i];

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		k = (uint32_t)(seed >> 20) % (i + 1);
		b->order[i] = b->order[k];
		b->order[k] = t;
	}
}

static uint64_t buf[WORDS] __attribute__((aligned(64)));

static void copy_slice(struct bench *b, uint32_t first)
{
	for (uint32_t i = first; i < first + SLICE; i++) {
		memcpy(buf, volatile_page(b->r, b->order[i]), VOLATILE_PAGE);
		__asm__ volatile("" ::"r"(buf) : "memory");
	}
}
static void read_slice(struct bench *b, uint32_t first)
{
	for (uint32_t i = first; i < first + SLICE; i++) {
		uint32_t page = b->order[i];

		b->failed += volatile_read(b->r, page, volatile_ticket_of(b->r, page), 0,
					   VOLATILE_PAGE, buf) != 0;
	}
}
static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void do_fill(struct bench *b)
{
	for (uint32_t i = 0; i < b->pages; i++) {
		volatile_take(b->r, i);
		memset(volatile_page(b->r, i), 0x5a, VOLATILE_PAGE);
	}
}
static void do_touch(struct bench *b)
{
	for (uint32_t i = 0; i < b->pages; i++)
		((uint64_t *)volatile_page(b->r, i))[0] = 1;
}
static void do_publish(struct bench *b)
{
	for (uint32_t i = 0; i < b->pages; i++)
		b->failed += volatile_publish(b->r, i) != 0;
}
static void do_pin(struct bench *b)
{
	for (uint32_t i = 0; i < b->pages; i++) {
		uint32_t page = b->order[i];

		b->failed += volatile_pin(b->r, page, volatile_ticket_of(b->r, page)) != 0;
	}
}
static void do_unpin(struct bench *b)
{
	for (uint32_t i = 0; i < b->pages; i++)
		b->failed += !volatile_unpin(b->r, b->order[i]);
}

static unsigned batch;
static bool scattered;

static void do_mark(struct bench *b)
{
	struct volatile_item items[64];

	for (uint32_t i = 0; i < b->pages; i += batch) {
		for (unsigned k = 0; k < batch; k++)
			items[k].page = scattered ? b->order[i + k] : i + k;
		b->failed += volatile_mark(b->r, items, batch) != 0;
	}
}

static void refill(struct bench *b)
{
	do_fill(b);
	do_publish(b);
}
static void refill_and_mark(struct bench *b)
{
	refill(b);
	batch = 64;
	scattered = false;
	do_mark(b);
}

static void bench_hits(struct bench *b)
{
	uint32_t slices = b->pages / SLICE, n = 0;
	double *ns[2]; /* copies, hits */

	refill_and_mark(b);
	for (unsigned k = 0; k < 2; k++)
		ns[k] = calloc((size_t)slices * ROUNDS, sizeof(double));
	if (!ns[0] || !ns[1])
		errx(1, "no memory");
	for (uint32_t i = 0; i < slices * ROUNDS; i += 2, n++)
		for (uint32_t k = 0; k < 2; k++) {
			/* In the next round each reads what the other copied. */
			uint32_t slice = (i + (k ^ (i / slices % 2))) % slices;
			uint64_t t0 = thread_ns();

			(k ? read_slice : copy_slice)(b, slice * SLICE);
			ns[k][n] = (double)(thread_ns() - t0) / SLICE;
		}
	for (unsigned k = 0; k < 2; k++)
		qsort(ns[k], n, sizeof(double), compare);
	printf("%-44s %9.0f ns/page\n", "memcpy of a page, random order", ns[0][n / 2]);
	printf("%-44s %9.0f ns/page   %.3f of memcpy (quarter: %.3f)\n",
	       "volatile_read of the same", ns[1][n / 2], ns[1][n / 2] / ns[0][n / 2],
	       ns[1][n / 4] / ns[0][n / 4]);
	free(ns[0]);
	free(ns[1]);
}

static void bench_pins(struct bench *b)
{
	double pin = 0, unpin = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		refill_and_mark(b);
		pin = least(pin, once(b, do_pin));
		unpin = least(unpin, once(b, do_unpin));
	}
	printf("%-44s %9.0f ns/page\n", "volatile_pin, random order", pin);
	printf("%-44s %9.0f ns/page\n", "volatile_unpin", unpin);
}

static void bench_marks(struct bench *b)
{
	static const unsigned sizes[] = {1, 4, 16, 64};

	for (unsigned how = 0; how < 2; how++)
		for (unsigned s = 0; s < 4; s++) {
			struct volatile_stats st0, st1;
			double ns = 0;
			char name[64];

			for (unsigned i = 0; i < ROUNDS; i++) {
				refill(b);
				batch = sizes[s];
				scattered = how;
				volatile_stats(b->r, &st0);
				ns = least(ns, once(b, do_mark));
				volatile_stats(b->r, &st1);
			}
			snprintf(name, sizeof(name), "volatile_mark, %u %s", batch,
				 scattered ? "scattered" : "adjacent");
			printf("%-44s %9.0f ns/page   %.2f calls/batch\n", name, ns,
			       (double)(st1.mark_calls - st0.mark_calls) * batch / b->pages);
		}
}

static void bench_touches(struct bench *b)
{
	double first = 0, again = 0, publish = 0, cancel = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		refill_and_mark(b);
		for (uint32_t p = 0; p < b->pages; p++)
			volatile_take(b->r, p);
		cancel = least(cancel, once(b, do_touch));
		volatile_drop(b->r, 0, b->pages);
		first = least(first, once(b, do_touch));
		again = least(again, once(b, do_touch));
		publish = least(publish, once(b, do_publish));
	}
	printf("%-44s %9.0f ns/page\n", "first touch of a fresh page", first);
	printf("%-44s %9.0f ns/page\n", "first write to a volatile page", cancel);
	printf("%-44s %9.0f ns/page\n", "write to a page at hand", again);
	printf("%-44s %9.0f ns/page\n", "volatile_publish", publish);
}

int main(int argc, char **argv)
{
	struct bench b = {.pages = 64 << 8};
	struct volatile_stats st;
	int ret;

	if (argc > 1)
		b.pages = (uint32_t)strtoul(argv[1], NULL, 10) << 8;
	ret = volatile_create(&(struct volatile_spec){.pages = b.pages}, &b.r);
	b.order = calloc(b.pages, sizeof(*b.order));
	if (ret || !b.order)
		errx(1, "no range of %u pages: %s", b.pages, strerror(-ret));
	shuffle(&b);
	refill(&b);
	bench_hits(&b);
	bench_pins(&b);
	bench_marks(&b);
	bench_touches(&b);
	volatile_stats(b.r, &st);
	printf("purged meanwhile: %lu, reads disturbed: %lu, failed: %lu\n", st.purged,
	       st.disturbed, b.failed);
	volatile_destroy(b.r);
	free(b.order);
	return b.failed && !st.purged;
}
