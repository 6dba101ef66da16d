/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of volatile share: the page word and its one setter, the backend table. */
#pragma once

#include <stdatomic.h>
#include <sys/uio.h>

#include "base/metric.h"
#include "mem/volatile/volatile.h"

#define PAGE_WORDS (VOLATILE_PAGE / sizeof(uint64_t))
#define MARK_RUNS  64u	/* runs of adjacent pages that one batch may have */
#define DROP_RUNS  256u /* at most IOV_MAX */

/*
 * One word a page:
 *	31..14 ticket	counts contents
 *	13..9  life	enum page_life; PAGE_PINNED + n - 1: n pins
 *	8..0   witness	which 64-bit word of the page is not zero
 */
enum page_life {
	PAGE_HELD,
	PAGE_READY,
	PAGE_MARKING,
	PAGE_VOLATILE,
	PAGE_GONE,
	PAGE_PINNED,					  /* and above */
	PAGE_LIVES = PAGE_PINNED + VOLATILE_PINS_MAX + 1, /* one more: volatile_hold()'s */
};
#define LIFE_SHIFT   9u
#define TICKET_SHIFT 14u

_Static_assert(PAGE_LIVES == 1u << (TICKET_SHIFT - LIFE_SHIFT), "lives fill their field");
_Static_assert(PAGE_WORDS == 1u << LIFE_SHIFT, "a witness is any word");

/* TSan knows no fences, and refuses them; what they order is hidden from it (read.c). */
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif

static inline void fence_release(void)
{
#ifndef UNDER_TSAN
	atomic_thread_fence(memory_order_release);
#endif
}

static inline unsigned word_witness(uint32_t s)
{
	return s & (PAGE_WORDS - 1);
}
static inline unsigned word_life(uint32_t s)
{
	return (s >> LIFE_SHIFT) & (PAGE_LIVES - 1);
}
static inline volatile_ticket word_ticket(uint32_t s)
{
	return s >> TICKET_SHIFT;
}
static inline uint32_t word_make(volatile_ticket ticket, unsigned life, unsigned witness)
{
	return ticket << TICKET_SHIFT | life << LIFE_SHIFT | witness;
}

/**
 * How a kernel takes pages. Whatever the way: a page that was taken reads as zeros, a write to a
 * page cancels its volatility, and a fresh page that replaces one that was taken holds nothing of
 * the old one. For a device, too: that is all that volatile_read() and volatile_pin() build on.
 */
struct volatile_backend {
	const char *name;
	/* Whether readers may meet a loss at all: the range cares for none of it otherwise. */
	bool (*can_lose)(void);
	/* Maps @size bytes at *@base (fixed), or anywhere if that is NULL: 0, or -errno. */
	int (*map)(void **base, size_t size);
	/* Back to inaccessible addresses if they were given (@fixed), else to nothing. */
	void (*unmap)(void *base, size_t size, bool fixed);
	/* Gives runs of pages to the kernel, and counts system calls: 0, or -errno for any. */
	int (*mark)(const struct iovec *runs, unsigned n, unsigned *ret_calls);
	/* Returns the memory of runs at once: 0, or -errno for any. */
	int (*drop)(const struct iovec *runs, unsigned n);
};

struct volatile_range {
	/* constant */
	uint8_t *base;
	uint32_t pages;
	bool fixed;    /* base was the caller's */
	bool can_lose; /* else nothing is ever marked */
	const struct volatile_backend *backend;
	_Atomic uint32_t *word; /* by page; only page_move() and publishing owners change it */

	_Atomic int32_t refusal;
	metric_counter n_volatile, marks, mark_calls, refused, purged, cancelled, disturbed,
		dropped, undropped;
};

static inline _Atomic uint64_t *page_witness(const struct volatile_range *r, uint32_t page,
					     uint32_t s)
{
	return (_Atomic uint64_t *)(r->base + (size_t)page * VOLATILE_PAGE) + word_witness(s);
}
static inline uint32_t page_word(const struct volatile_range *r, uint32_t page)
{
	return atomic_load_explicit(&r->word[page], memory_order_acquire);
}

/* The one setter. Moves the page from word *@s to @to, or updates *@s and returns false. */
bool page_move(struct volatile_range *r, uint32_t page, uint32_t *s, uint32_t to);
/* Moves the page on to its next content, held: its owner may write when this has returned. */
bool page_move_to_held(struct volatile_range *r, uint32_t page, uint32_t *s);
/* The page with word @s has lost its content: say so unless somebody else did or acts on it. */
bool page_lost(struct volatile_range *r, uint32_t page, uint32_t s);

/* The witness now. What it races with is hidden from TSan, as the copy is (read.c). */
uint64_t witness_peek(const struct volatile_range *r, uint32_t page, uint32_t s);
/*
 * Rewrites the witness of a page that this thread keeps from being marked (its life is pinned, or
 * the thread owns it). True: the page is whole and stays. False: it has been taken.
 */
bool witness_keep(const struct volatile_range *r, uint32_t page, uint32_t s);

/* --- watch.c: whether this thread ran from begin to end on one processor, undisturbed --- */

bool watch_available(void);
void watch_begin(void);
bool watch_end(void);

static inline void bitmap_set(uint64_t *map, uint32_t i)
{
	if (map)
		map[i / 64] |= 1ull << (i % 64);
}
