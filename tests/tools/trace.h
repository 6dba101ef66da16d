/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Traces of page accesses, and what simple policies and a perfect one make of them. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum trace_kind {
	TRACE_ZIPF_08,
	TRACE_ZIPF_10,
	TRACE_ZIPF_12,
	TRACE_ZIPF_SCAN, /* zipf 1.0, and every third access is of a scan of as many other pages */
	TRACE_LOOP,	 /* over three tenths of the pages, again and again */
	TRACE_UNIFORM,
	TRACE_KINDS,
};

struct trace {
	uint32_t pages; /* accesses are below */
	size_t n;
	uint32_t *access;
};

const char *trace_name(enum trace_kind kind);
/** @n accesses to @pages pages; always the same ones. Aborts without memory. */
struct trace trace_make_over(enum trace_kind kind, uint32_t pages, size_t n);
/** Some accesses for a cache of @cache pages, to four times as many. */
struct trace trace_make(enum trace_kind kind, uint32_t cache);
void trace_free(struct trace *t);

/** The first half of a trace warms the cache and is not counted. */
size_t trace_counted_from(const struct trace *t);
/** Hits of the counted accesses in a cache of @cache pages. */
size_t trace_hits_lru(const struct trace *t, uint32_t cache);
size_t trace_hits_fifo(const struct trace *t, uint32_t cache);
/** Belady's: evicts, or does not even insert, what is used last. No policy has more. */
size_t trace_hits_best(const struct trace *t, uint32_t cache);

/** The content of page @number: a 2.5th of its size when it is compressed, as is usual. */
void trace_make_page(uint8_t *page, uint64_t number);

struct cache_object;
/** Of the read cache: each miss is followed by a fill. */
size_t trace_hits_cache(const struct trace *t, struct cache_object *o);
