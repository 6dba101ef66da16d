/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The optimistic method: copy first, ask afterwards.
 *
 * What the kernel does when it takes a page: it clears the page table entry, later makes every
 * processor forget its cached translation, and only then frees the frame. Whoever touches the page
 * in the meantime faults a frame of zeros in. So each access of ours finds either the *old* frame,
 * unchanged, or a *fresh* one, all zeros until the owner fills it.
 *
 * Claim: if volatile_read() returns 0, every byte it copied came from the old frame, of the content
 * that the ticket names.
 *
 * 1. On one processor, a page's translation only ever goes from old to fresh: the fault that brings
 *    the fresh one has forgotten the old one there.
 * 2. The witness is loaded last: after the copy by the compiler, and after it in the processor. x86
 *    keeps loads in order towards other processors' stores, but that says nothing of a younger load
 *    that was translated before an older one. So either the witness's address is made of all that
 *    was loaded (copy_wide() returns a zero that the processor does not know before), and nothing
 *    is translated before its address is known; or a fence (lfence) is between, which waits for the
 *    copy to end and so keeps the next read from beginning meanwhile: some 5 % of a hit.
 * 3. The thread stayed on its processor, unpreempted, from the first byte to the witness (watch.c).
 *    That is needed. Between clearing entries and flushing translations the kernel works through a
 *    batch, so for a while processor A may have the fresh page and B still the old one: a thread
 *    that copies on A, is moved to B, and looks there, finds a witness over a copy of zeros.
 *    (Seen: 9 of 67,000 attempts with a purge at each, with a thread that moves itself.)
 * 4. So: the witness not zero -> its load found the old frame (or the owner's new content, 5) ->
 *    all loads before it did.
 * 5. An owner that reuses the page first gives it a new ticket, then (release fence) writes. If any
 *    byte copied, or the witness, is of the new content, the load of the ticket that follows (after
 *    the fence) finds it changed.
 *
 * A witness of zero is certain without 3: no page that has been published has one until it is
 * taken. A read that was disturbed is only begun again.
 *
 * The bytes copied may be changing: no guarantee is drawn from them before the checks. Under TSan
 * the copy is one that it does not look at, as any sequence lock's reader must be.
 */
#include <errno.h>
#include <string.h>

#include "mem/volatile/volatile_private.h"

#define READ_ATTEMPTS 4

#ifdef UNDER_TSAN
__attribute__((no_sanitize("thread"), noinline)) static void copy_out(void *dst, const void *src,
								      uint32_t len)
{
	volatile uint8_t *d = dst;
	const volatile uint8_t *s = src;

	while (len--)
		*d++ = *s++;
}

__attribute__((no_sanitize("thread"), noinline)) uint64_t witness_peek(
	const struct volatile_range *r, uint32_t page, uint32_t s)
{
	return *(const volatile uint64_t *)page_witness(r, page, s);
}
#else
static inline void copy_out(void *dst, const void *src, uint32_t len)
{
	memcpy(dst, src, len);
}

uint64_t witness_peek(const struct volatile_range *r, uint32_t page, uint32_t s)
{
	return atomic_load_explicit(page_witness(r, page, s), memory_order_acquire);
}
#endif

/* All loads before are done, and were translated, before any load after. */
static inline void fence_loads(void)
{
#if defined(__x86_64__)
	__asm__ volatile("lfence" ::: "memory");
#endif
#ifndef UNDER_TSAN
	atomic_thread_fence(memory_order_acquire);
#endif
}

#if defined(__x86_64__) && !defined(UNDER_TSAN)
#define HAVE_COPY_WIDE 1

typedef uint64_t wide __attribute__((vector_size(32), aligned(1), may_alias));

/* Copies, and returns 0, which it computes from every byte that it loaded. */
__attribute__((target("avx2"))) static uint64_t copy_wide(void *dst, const void *src, uint32_t len)
{
	wide *to = dst, all = {0}, more = {0};
	const wide *from = src;
	const uint8_t *tail;
	uint64_t zero;

	for (; len >= 4 * sizeof(wide); len -= 4 * sizeof(wide), from += 4, to += 4) {
		wide a = from[0], b = from[1], c = from[2], d = from[3];

		to[0] = a;
		to[1] = b;
		to[2] = c;
		to[3] = d;
		all |= a | b;
		more |= c | d;
	}
	all |= more;
	zero = all[0] | all[1] | all[2] | all[3];
	tail = (const uint8_t *)from;
	for (uint32_t i = 0; i < len; i++)
		zero |= ((uint8_t *)to)[i] = tail[i];
	/* That this is 0 the compiler is not told, and the processor finds out when it has it. */
	__asm__ volatile("and $0, %0" : "+r"(zero)::"memory");
	return zero;
}
#endif

/* Copies, and then loads the witness. */
static uint64_t copy_then_look(const struct volatile_range *r, uint32_t page, uint32_t s,
			       const void *src, uint32_t len, void *dst)
{
#ifdef HAVE_COPY_WIDE
	if (__builtin_cpu_supports("avx2")) {
		uintptr_t at = (uintptr_t)page_witness(r, page, s) + copy_wide(dst, src, len);

		return atomic_load_explicit((_Atomic uint64_t *)at, memory_order_acquire);
	}
#endif
	copy_out(dst, src, len);
	fence_loads();
	return witness_peek(r, page, s);
}

int volatile_read(struct volatile_range *r, uint32_t page, volatile_ticket ticket, uint32_t offset,
		  uint32_t len, void *dst)
{
	const uint8_t *src = (const uint8_t *)volatile_page(r, page) + offset;

	for (unsigned i = 0; i < READ_ATTEMPTS; i++) {
		uint32_t s = page_word(r, page);
		uint64_t witness;
		bool calm;

		if (word_ticket(s) != ticket || word_life(s) == PAGE_HELD)
			return -ESTALE;
		if (word_life(s) == PAGE_GONE)
			return -ENODATA;
		watch_begin();
		witness = copy_then_look(r, page, s, src, len, dst);
		calm = watch_end() || !r->can_lose;
		if (word_ticket(page_word(r, page)) != ticket)
			return -ESTALE;
		if (!witness) {
			page_lost(r, page, s);
			return -ENODATA;
		}
		if (calm)
			return 0;
		metric_add(&r->disturbed, 1);
	}
	return -EAGAIN;
}
