/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Volatile ranges: memory whose pages the kernel may take at any moment, one by one, without I/O.
 * For what can be made again: cached pages. See docs/volatile.md; the proofs are in read.c, pin.c.
 *
 * A range is an array of pages of VOLATILE_PAGE bytes, named by number. The *owner* of a page is
 * whoever may fill it; one thread at a time acts as the owner of a page (the caller sees to that).
 * Any thread may read, pin and unpin. No call takes a lock, waits for I/O or, after creation,
 * allocates.
 *
 *	held --publish--> ready --mark--> (marking) --> volatile --(the kernel)--> gone
 *	  ^                ^ \                            |   \                     |
 *	  |                |  `----------pin----------.  pin   |                    |
 *	  |                `--last unpin-- pinned <---'<--'    |                    |
 *	  `------------- take, hold --------------------------'---------------------'
 *
 * held: the owner writes it.  ready: whole and readable, not yet given to the kernel.  pinned: kept
 * whole for as long as somebody holds a pin.  gone: found to have been taken.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VOLATILE_PAGE	   4096u
#define VOLATILE_PINS_MAX  26u /* pins of a page at once */
#define VOLATILE_PAGES_MAX (1u << 31)

struct volatile_range;
struct volatile_backend;

/** Private anonymous memory and MADV_FREE: any kernel since 4.5, with or without swap. */
extern const struct volatile_backend volatile_madv_free;

struct volatile_spec {
	void *base;	/* page-aligned addresses that are the caller's to map; NULL: any */
	uint32_t pages; /* 1..VOLATILE_PAGES_MAX */
	const struct volatile_backend *backend; /* NULL: volatile_madv_free */
};

/**
 * Maps the range: accessible, zeros, never huge pages, not in children after fork(2), not in core
 * dumps, not locked in memory. All pages are held. -EINVAL, -ENOMEM, or what mapping said.
 *
 * Where losses cannot be noticed for certain (no restartable sequences: glibc.pthread.rseq=0, or an
 * old C library) the range works but nothing is ever given to the kernel: volatile_mark() refuses.
 */
int volatile_create(const struct volatile_spec *spec, struct volatile_range **ret_range);
/** Nobody uses the range any more. Addresses of the caller's are left reserved. NULL is fine. */
void volatile_destroy(struct volatile_range *r);

/** Where the page is, for its owner to fill, or for who pinned it. */
void *volatile_page(const struct volatile_range *r, uint32_t page);
uint32_t volatile_pages(const struct volatile_range *r);

/**
 * What names one content of a page: taking or holding the page makes it stale. 18 bits that wrap:
 * look up and read at once, never keep a ticket over a wait.
 */
typedef uint32_t volatile_ticket;

/**
 * Owner: the held page is filled; make it readable. Finds its witness, a word that is not zero.
 * -ENODATA: the page is all zeros, has no witness, and stays held: note that, and keep the page
 * for other contents. -EBUSY: the page is not held.
 */
int volatile_publish(struct volatile_range *r, uint32_t page);
/** The ticket of the page's present content. */
volatile_ticket volatile_ticket_of(const struct volatile_range *r, uint32_t page);

/** A page to mark, and what became of it. */
struct volatile_item {
	uint32_t page;
	/* 0; -EBUSY: not ready (pinned, say: its last unpin will tell); or the kernel's refusal */
	int32_t result;
};
/**
 * Gives the ready pages among @items to the kernel. Batches of tens are much cheaper than single
 * pages, adjacent ascending ones cheapest. Nobody writes to a page while it is being marked: this
 * excludes pins and takes meanwhile (-EBUSY). Never allocates.
 *
 * Returns 0, or the refusal of the last batch refused: -EINVAL where the process is locked in
 * memory (mlockall(2)), -EOPNOTSUPP where the range cannot be volatile at all. Pages that were
 * refused stay ready and readable: count them as wired memory.
 */
int volatile_mark(struct volatile_range *r, struct volatile_item *items, unsigned n);

/**
 * Copies @len bytes from @offset of the page into @dst, if they are whole. The hit costs no system
 * call and no write to shared memory. @dst has undefined contents unless 0 is returned.
 *
 * -ENODATA: the kernel took the page. -ESTALE: the page has other contents by now: look up again.
 * -EAGAIN: the thread was interrupted at each of several attempts: try later, or count it a miss.
 */
int volatile_read(struct volatile_range *r, uint32_t page, volatile_ticket ticket, uint32_t offset,
		  uint32_t len, void *dst);

/**
 * Makes the page stay, whole, until the same number of unpins: only pinned pages may be handed to
 * a system call or a device, and they are never written. Errors as of volatile_read(), but
 * -EBUSY: being marked just now, or VOLATILE_PINS_MAX pins: copy out instead.
 */
int volatile_pin(struct volatile_range *r, uint32_t page, volatile_ticket ticket);
/** Returns whether that was the last pin: the page is ready; have it marked in the next batch. */
bool volatile_unpin(struct volatile_range *r, uint32_t page);

/** Owner: the content is forfeit, the page held. -EBUSY: pinned, or being marked by a thread. */
int volatile_take(struct volatile_range *r, uint32_t page);

/**
 * Owner: makes pages [@first, @first + @n) non-volatile and says of each of exactly these whether
 * its content is still there. All become held, except pinned ones, which are whole and stay pinned
 * (their last unpin makes them ready, which is not volatile either). Waits for marks in progress.
 * Bit i of @purged (n bits, may be NULL) is set where page @first + i lost its content; such pages
 * read as zeros. Returns how many.
 */
uint32_t volatile_hold(struct volatile_range *r, uint32_t first, uint32_t n, uint64_t *purged);

/**
 * Looks for volatile pages of [@first, @first + @n) that the kernel took, without touching (and so
 * refreshing) those it did not. Adds the bits of @gone (n bits, may be NULL); returns how many
 * pages were found gone by this call.
 */
uint32_t volatile_sweep(struct volatile_range *r, uint32_t first, uint32_t n, uint64_t *gone);

/**
 * Owner: gives the memory of held pages back at once; they read as zeros. The next fill pays for a
 * first touch. -EBUSY: one of them is not held (nothing was done); or madvise(2)'s error.
 */
int volatile_drop(struct volatile_range *r, uint32_t first, uint32_t n);
/** The same of @n pages, ascending: much cheaper than a call for each. */
int volatile_drop_pages(struct volatile_range *r, const uint32_t *pages, uint32_t n);

struct volatile_stats {
	uint64_t pages;		 /* of the range */
	uint64_t volatile_pages; /* now; those that the kernel took unnoticed included */
	uint64_t marks;		 /* pages given to the kernel */
	uint64_t mark_calls;	 /* system calls for that */
	uint64_t refused;	 /* pages that the kernel would not have */
	uint64_t purged;	 /* pages found gone, each loss once */
	uint64_t cancelled;	 /* volatile pages made to stay: pinned or held in time */
	uint64_t disturbed;	 /* reads begun again because the thread was interrupted */
	uint64_t dropped;	 /* pages given back by volatile_drop() */
	uint64_t undropped;	 /* pages that the system would not take back: they stay resident */
	int32_t refusal;	 /* 0, or why the last mark was refused */
};
void volatile_stats(const struct volatile_range *r, struct volatile_stats *ret_stats);
const char *volatile_backend_name(const struct volatile_range *r);
