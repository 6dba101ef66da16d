/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hot pages are scattered over the numbers by a permutation. Simulated caches keep an array by
 * page; LRU and FIFO are one list, moved on a hit or not; the best policy keeps a heap of pages by
 * their next use, stale elements of which are passed over.
 */
#include "trace.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "mem/cache/cache.h"

#define ACCESSES 40u /* for each page of the cache */
#define NEVER	 UINT32_MAX

static void *need(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p)
		abort();
	return p;
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dull;
}

/* --- making --- */

static double *zipf_sums(uint32_t n, double alpha)
{
	double *sum = need(n, sizeof(*sum)), total = 0;

	for (uint32_t i = 0; i < n; i++)
		sum[i] = total += 1 / pow(i + 1, alpha);
	for (uint32_t i = 0; i < n; i++)
		sum[i] /= total;
	return sum;
}

static uint32_t zipf_pick(const double *sum, uint32_t n, uint64_t *seed)
{
	double x = (double)(next_random(seed) >> 11) / (double)(1ull << 53);
	uint32_t low = 0, high = n - 1;

	while (low < high) {
		uint32_t mid = (low + high) / 2;

		if (sum[mid] < x)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static uint32_t *permutation(uint32_t n, uint64_t *seed)
{
	uint32_t *p = need(n, sizeof(*p));

	for (uint32_t i = 0; i < n; i++)
		p[i] = i;
	for (uint32_t i = n - 1; i > 0; i--) {
		uint32_t k = (uint32_t)(next_random(seed) % (i + 1)), t = p[i];

		p[i] = p[k];
		p[k] = t;
	}
	return p;
}

static void make_zipf(struct trace *t, uint32_t pages, double alpha, uint64_t *seed)
{
	double *sum = zipf_sums(pages, alpha);
	uint32_t *scatter = permutation(pages, seed);

	for (size_t i = 0; i < t->n; i++)
		t->access[i] = scatter[zipf_pick(sum, pages, seed)];
	free(sum);
	free(scatter);
}

/* One access in three goes on with a scan of pages that come in scans only. */
static void add_scan(struct trace *t, uint32_t first, uint32_t pages)
{
	uint32_t at = 0;

	for (size_t i = 0; i < t->n; i += 3)
		t->access[i] = first + at++ % pages;
}

const char *trace_name(enum trace_kind kind)
{
	static const char *const names[] = {"zipf 0.8",	       "zipf 1.0", "zipf 1.2",
					    "zipf 1.0 + scan", "loop",	   "uniform"};

	return names[kind];
}

struct trace trace_make_over(enum trace_kind kind, uint32_t pages, size_t n)
{
	struct trace t = {.pages = pages, .n = n};
	uint64_t seed = 88172645463325252ull;

	t.access = need(t.n, sizeof(*t.access));
	switch (kind) {
	case TRACE_ZIPF_08:
		make_zipf(&t, t.pages, 0.8, &seed);
		break;
	case TRACE_ZIPF_12:
		make_zipf(&t, t.pages, 1.2, &seed);
		break;
	case TRACE_ZIPF_SCAN:
		make_zipf(&t, t.pages, 1.0, &seed);
		add_scan(&t, t.pages, t.pages);
		t.pages *= 2;
		break;
	case TRACE_LOOP:
		for (size_t i = 0; i < t.n; i++)
			t.access[i] = (uint32_t)(i % (pages / 10 * 3));
		break;
	case TRACE_UNIFORM:
		for (size_t i = 0; i < t.n; i++)
			t.access[i] = (uint32_t)(next_random(&seed) % t.pages);
		break;
	default:
		make_zipf(&t, t.pages, 1.0, &seed);
	}
	return t;
}

struct trace trace_make(enum trace_kind kind, uint32_t cache)
{
	return trace_make_over(kind, 4 * cache, (size_t)ACCESSES * cache);
}

void trace_free(struct trace *t)
{
	free(t->access);
}

size_t trace_counted_from(const struct trace *t)
{
	return t->n / 2;
}

/* --- LRU and FIFO --- */

struct node {
	uint32_t next, prev;
	bool in;
};

static void node_unlink(struct node *v, uint32_t i)
{
	v[v[i].prev].next = v[i].next;
	v[v[i].next].prev = v[i].prev;
}
static void node_append(struct node *v, uint32_t head, uint32_t i)
{
	v[i] = (struct node){.next = head, .prev = v[head].prev, .in = true};
	v[v[head].prev].next = i;
	v[head].prev = i;
}

static size_t hits_of_list(const struct trace *t, uint32_t cache, bool lru)
{
	uint32_t head = t->pages, held = 0;
	struct node *v = need((size_t)t->pages + 1, sizeof(*v));
	size_t hits = 0;

	v[head] = (struct node){.next = head, .prev = head};
	for (size_t i = 0; i < t->n; i++) {
		uint32_t page = t->access[i];

		if (v[page].in) {
			hits += i >= trace_counted_from(t);
			if (!lru)
				continue;
			node_unlink(v, page);
		} else if (held++ == cache) {
			uint32_t first = v[head].next;

			node_unlink(v, first);
			v[first].in = false;
			held--;
		}
		node_append(v, head, page);
	}
	free(v);
	return hits;
}

size_t trace_hits_lru(const struct trace *t, uint32_t cache)
{
	return hits_of_list(t, cache, true);
}
size_t trace_hits_fifo(const struct trace *t, uint32_t cache)
{
	return hits_of_list(t, cache, false);
}

/* --- the best --- */

struct use {
	uint32_t at, page;
};

/* A heap, the latest use on top. */
static void heap_push(struct use *h, size_t *n, struct use u)
{
	size_t i = (*n)++;

	for (; i && h[(i - 1) / 2].at < u.at; i = (i - 1) / 2)
		h[i] = h[(i - 1) / 2];
	h[i] = u;
}
static void heap_pop(struct use *h, size_t *n)
{
	struct use u = h[--*n];
	size_t i = 0;

	for (size_t k = 1; k < *n; k = 2 * i + 1) {
		if (k + 1 < *n && h[k + 1].at > h[k].at)
			k++;
		if (h[k].at <= u.at)
			break;
		h[i] = h[k];
		i = k;
	}
	h[i] = u;
}

static uint32_t *next_uses(const struct trace *t)
{
	uint32_t *next = need(t->n, sizeof(*next)), *seen = need(t->pages, sizeof(*seen));

	memset(seen, 0xff, t->pages * sizeof(*seen));
	for (size_t i = t->n; i-- > 0;) {
		next[i] = seen[t->access[i]];
		seen[t->access[i]] = (uint32_t)i;
	}
	free(seen);
	return next;
}

size_t trace_hits_best(const struct trace *t, uint32_t cache)
{
	uint32_t *next = next_uses(t), held = 0;
	/* By page: its next use if it is held, else 0. */
	uint32_t *due = need(t->pages, sizeof(*due));
	struct use *heap = need(t->n, sizeof(*heap));
	size_t n = 0, hits = 0;

	for (size_t i = 0; i < t->n; i++) {
		uint32_t page = t->access[i];

		if (due[page])
			hits += i >= trace_counted_from(t);
		else
			held++;
		due[page] = next[i];
		heap_push(heap, &n, (struct use){next[i], page});
		while (held > cache) {
			struct use u = heap[0];

			heap_pop(heap, &n);
			if (due[u.page] != u.at)
				continue; /* used since */
			due[u.page] = 0;
			held--;
		}
	}
	free(next);
	free(due);
	free(heap);
	return hits;
}

/* --- the cache itself --- */

void trace_make_page(uint8_t *page, uint64_t number)
{
	uint64_t seed = number * 0x9e3779b97f4a7c15ull + 1;
	uint64_t word[CACHE_PAGE / sizeof(uint64_t)];

	for (unsigned i = 0; i < sizeof(word) / sizeof(word[0]); i++)
		word[i] = i % 16 < 6 ? next_random(&seed) : number;
	memcpy(page, word, sizeof(word));
}

size_t trace_hits_cache(const struct trace *t, struct cache_object *o)
{
	uint8_t page[CACHE_PAGE], word[8];
	size_t hits = 0;

	for (size_t i = 0; i < t->n; i++) {
		struct cache_fill f;

		if (!cache_read(o, t->access[i], 0, sizeof(word), word)) {
			hits += i >= trace_counted_from(t);
			continue;
		}
		if (!cache_wants(o, t->access[i], 1))
			continue;
		trace_make_page(page, t->access[i]);
		if (cache_fill_begin(o, &f, t->access[i], 1))
			cache_fill_end(&f, &(struct iovec){page, sizeof(page)}, 1, 0);
	}
	return hits;
}
