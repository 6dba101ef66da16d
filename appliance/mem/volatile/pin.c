/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a volatile page stay.
 *
 * A write to a lazily freed page cancels its volatility - if the page is still there. If the kernel
 * took it a moment before, the write goes to a fresh page of zeros, succeeds just as well, and
 * leaves a page with one right word in it: looking at that word afterwards proves nothing. So the
 * write has to be one that cannot succeed on a fresh page: compare the witness with its value and
 * write the same value, in one atomic operation.
 *
 * Claim: if the compare-and-swap succeeds, the page is whole and stays.
 *
 * 1. The operation reads and writes one frame: the processor holds the translation, with the right
 *    to write, across both. On a fresh frame the word is zero, the witness is not: it fails. Hence
 *    the frame is the old one, which is whole: nobody writes to a published page but us, here, what
 *    is there already.
 * 2. The right to write to a page whose entry is clean is obtained by setting the entry's dirty bit
 *    in the page table, atomically with finding it present (x86 does so itself and never from a
 *    cached translation; others fault). The kernel, taking the page, exchanges the entry for an
 *    empty one and looks at the dirty bit it got: either it was set, then it puts the page back and
 *    makes it ordinary memory; or the entry was empty before us, then we fault, get a fresh frame,
 *    and fail by 1.
 * 3. That needs a clean translation to begin with: MADV_FREE cleans the entry and flushes cached
 *    translations before it returns, but in between a processor may still write through an old,
 *    dirty one, unseen. Hence no page is pinned while it is being marked, nor marked while pinned:
 *    stages of life exclude each other, and hold from before the write to after the last unpin.
 * 4. Each pin (and hold) does its own compare-and-swap: the second must not build on the first,
 * which may be about to fail.
 *
 * The compiler must not see that the value written is the one compared with (it might drop the
 * write). The word is looked at first: a page known to be gone is not made resident by the attempt.
 */
#include <errno.h>
#include <sched.h>

#include "mem/volatile/volatile_private.h"

bool witness_keep(const struct volatile_range *r, uint32_t page, uint32_t s)
{
	_Atomic uint64_t *w = page_witness(r, page, s);
	uint64_t seen = atomic_load_explicit(w, memory_order_relaxed);
	uint64_t same = seen;

	if (!seen)
		return false;
	__asm__ volatile("" : "+r"(same));
	return atomic_compare_exchange_strong_explicit(w, &seen, same, memory_order_acq_rel,
						       memory_order_relaxed);
}

/* Takes one pin off; the last makes the page @after. Returns whether it was the last. */
static bool unpin_to(struct volatile_range *r, uint32_t page, unsigned after)
{
	uint32_t s = page_word(r, page);
	unsigned life, next;

	do {
		life = word_life(s);
		if (life < PAGE_PINNED)
			return false;
		next = life == PAGE_PINNED ? after : life - 1;
	} while (!page_move(r, page, &s, word_make(word_ticket(s), next, word_witness(s))));
	return life == PAGE_PINNED;
}

int volatile_pin(struct volatile_range *r, uint32_t page, volatile_ticket ticket)
{
	uint32_t s = page_word(r, page);
	unsigned life, next;

	do {
		life = word_life(s);
		if (word_ticket(s) != ticket || life == PAGE_HELD)
			return -ESTALE;
		if (life == PAGE_GONE)
			return -ENODATA;
		if (life == PAGE_MARKING || life >= PAGE_LIVES - 2)
			return -EBUSY;
		next = life >= PAGE_PINNED ? life + 1 : PAGE_PINNED;
	} while (!page_move(r, page, &s, word_make(ticket, next, word_witness(s))));

	if (!witness_keep(r, page, s)) {
		if (unpin_to(r, page, PAGE_GONE))
			metric_add(&r->purged, 1);
		return -ENODATA;
	}
	if (life == PAGE_VOLATILE)
		metric_add(&r->cancelled, 1);
	return 0;
}

bool volatile_unpin(struct volatile_range *r, uint32_t page)
{
	return unpin_to(r, page, PAGE_READY);
}

/* --- the explicit method --- */

/* A pinned page of @s, whose pins may be failing: pins it, too, to find out. */
static bool hold_pinned(struct volatile_range *r, uint32_t page, uint32_t s, bool *ret_lost)
{
	uint32_t more = word_make(word_ticket(s), word_life(s) + 1, word_witness(s));
	bool whole;

	if (!page_move(r, page, &s, more))
		return false;
	whole = witness_keep(r, page, s);
	if (unpin_to(r, page, whole ? PAGE_READY : PAGE_GONE)) {
		if (!whole)
			metric_add(&r->purged, 1);
		return false; /* no pins left: go on and hold it */
	}
	*ret_lost = !whole;
	return true;
}

/* Holds a page that is in nobody's hands; returns whether it did. */
static bool hold_free(struct volatile_range *r, uint32_t page, uint32_t s, bool *ret_lost)
{
	unsigned life = word_life(s);

	if (!page_move_to_held(r, page, &s))
		return false;
	*ret_lost = life == PAGE_GONE || !witness_keep(r, page, s);
	if (*ret_lost && life != PAGE_GONE)
		metric_add(&r->purged, 1);
	if (!*ret_lost && life == PAGE_VOLATILE)
		metric_add(&r->cancelled, 1);
	return true;
}

/* Returns whether the page's content is lost. */
static bool hold_page(struct volatile_range *r, uint32_t page)
{
	bool lost = false;

	for (;;) {
		uint32_t s = page_word(r, page);
		unsigned life = word_life(s);

		if (life == PAGE_HELD)
			return false;
		if (life == PAGE_MARKING)
			sched_yield(); /* another thread is inside madvise(2), no longer */
		else if (life >= PAGE_PINNED ? hold_pinned(r, page, s, &lost)
					     : hold_free(r, page, s, &lost))
			return lost;
	}
}

uint32_t volatile_hold(struct volatile_range *r, uint32_t first, uint32_t n, uint64_t *purged)
{
	uint32_t lost = 0;

	for (uint32_t i = 0; i < (n + 63) / 64 && purged; i++)
		purged[i] = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (!hold_page(r, first + i))
			continue;
		bitmap_set(purged, i);
		lost++;
	}
	return lost;
}
