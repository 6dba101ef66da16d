/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The range and its pages' lives.
 *
 * The truth about a page is in the page: its witness is there or it is not. All that is kept beside
 * it is one word a page - which word is the witness, in which stage of life the page is, which
 * content it has - in an array as long as the range, made and ended with it. There is no list of
 * volatile sub-ranges to split, merge or outlive the memory, and a sub-range is nothing but the
 * pages in it.
 *
 * A page's word changes by compare-and-swap only, in page_move(), which also keeps the gauge of
 * volatile pages. Who moves a page to a stage in which others keep off (held, marking, pinned)
 * acquires what they did to it; whoever moves it out releases.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "mem/volatile/volatile_private.h"

int volatile_create(const struct volatile_spec *spec, struct volatile_range **ret_range)
{
	const struct volatile_backend *backend = spec->backend ? spec->backend
							       : &volatile_madv_free;
	struct volatile_range *r;
	void *base = spec->base;
	void *word;
	int ret;

	if (!spec->pages || spec->pages > VOLATILE_PAGES_MAX || (uintptr_t)base % VOLATILE_PAGE)
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	word = mmap(NULL, (size_t)spec->pages * sizeof(uint32_t), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (word == MAP_FAILED) {
		free(r);
		return -ENOMEM;
	}
	ret = backend->map(&base, (size_t)spec->pages * VOLATILE_PAGE);
	if (ret) {
		munmap(word, (size_t)spec->pages * sizeof(uint32_t));
		free(r);
		return ret;
	}
	r->base = base;
	r->pages = spec->pages;
	r->fixed = spec->base != NULL;
	r->backend = backend;
	r->can_lose = backend->can_lose();
	r->word = word;
	atomic_init(&r->refusal, r->can_lose ? 0 : -EOPNOTSUPP);
	*ret_range = r;
	return 0;
}

void volatile_destroy(struct volatile_range *r)
{
	if (!r)
		return;
	r->backend->unmap(r->base, (size_t)r->pages * VOLATILE_PAGE, r->fixed);
	munmap((void *)r->word, (size_t)r->pages * sizeof(uint32_t));
	free(r);
}

void *volatile_page(const struct volatile_range *r, uint32_t page)
{
	return r->base + (size_t)page * VOLATILE_PAGE;
}

uint32_t volatile_pages(const struct volatile_range *r)
{
	return r->pages;
}

volatile_ticket volatile_ticket_of(const struct volatile_range *r, uint32_t page)
{
	return word_ticket(page_word(r, page));
}

bool page_move(struct volatile_range *r, uint32_t page, uint32_t *s, uint32_t to)
{
	uint32_t from = *s;

	if (!atomic_compare_exchange_strong_explicit(&r->word[page], s, to, memory_order_acq_rel,
						     memory_order_acquire))
		return false;
	if (word_life(to) == PAGE_VOLATILE)
		metric_add(&r->n_volatile, 1);
	if (word_life(from) == PAGE_VOLATILE)
		metric_sub(&r->n_volatile, 1);
	return true;
}

bool page_move_to_held(struct volatile_range *r, uint32_t page, uint32_t *s)
{
	if (!page_move(r, page, s, word_make(word_ticket(*s) + 1, PAGE_HELD, word_witness(*s))))
		return false;
	/* Readers that see what the owner writes from now on will see the new ticket after it. */
	fence_release();
	return true;
}

bool page_lost(struct volatile_range *r, uint32_t page, uint32_t s)
{
	if (word_life(s) != PAGE_VOLATILE && word_life(s) != PAGE_READY)
		return false;
	if (!page_move(r, page, &s, word_make(word_ticket(s), PAGE_GONE, word_witness(s))))
		return false;
	metric_add(&r->purged, 1);
	return true;
}

/* --- filling --- */

/* The word that was the witness last is tried first: a page marked again is not searched. */
static int find_witness(const uint64_t *p, unsigned hint)
{
	if (p[hint])
		return (int)hint;
	for (unsigned i = 0; i < PAGE_WORDS; i++)
		if (p[i])
			return (int)i;
	return -ENODATA;
}

int volatile_publish(struct volatile_range *r, uint32_t page)
{
	uint32_t s = page_word(r, page);
	int witness;

	if (word_life(s) != PAGE_HELD)
		return -EBUSY;
	witness = find_witness(volatile_page(r, page), word_witness(s));
	if (witness < 0)
		return witness;
	return page_move(r, page, &s, word_make(word_ticket(s), PAGE_READY, (unsigned)witness))
		       ? 0
		       : -EBUSY;
}

int volatile_take(struct volatile_range *r, uint32_t page)
{
	uint32_t s = page_word(r, page);

	for (;;) {
		switch (word_life(s)) {
		case PAGE_HELD:
			return 0;
		case PAGE_READY:
		case PAGE_VOLATILE:
		case PAGE_GONE:
			break;
		default:
			return -EBUSY;
		}
		if (page_move_to_held(r, page, &s))
			return 0;
	}
}

/* --- looking, and giving back --- */

#define SWEEP_PAGES 1024u

/* Bit 0 of each byte of @resident says whether the page is in memory at all. */
static uint32_t sweep_chunk(struct volatile_range *r, uint32_t first, uint32_t n,
			    const uint8_t *resident, uint64_t *gone, uint32_t bit)
{
	uint32_t found = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t s = page_word(r, first + i);

		if (word_life(s) != PAGE_VOLATILE || (resident[i] & 1))
			continue;
		/* Not in memory may also mean: on swap, since volatility was cancelled. */
		if (witness_peek(r, first + i, s))
			continue;
		if (!page_lost(r, first + i, s))
			continue;
		bitmap_set(gone, bit + i);
		found++;
	}
	return found;
}

uint32_t volatile_sweep(struct volatile_range *r, uint32_t first, uint32_t n, uint64_t *gone)
{
	uint8_t resident[SWEEP_PAGES];
	uint32_t found = 0;

	for (uint32_t done = 0; done < n; done += SWEEP_PAGES) {
		uint32_t m = n - done < SWEEP_PAGES ? n - done : SWEEP_PAGES;

		if (mincore(volatile_page(r, first + done), (size_t)m * VOLATILE_PAGE, resident))
			break;
		found += sweep_chunk(r, first + done, m, resident, gone, done);
	}
	return found;
}

static bool page_is_held(const struct volatile_range *r, uint32_t page)
{
	return word_life(page_word(r, page)) == PAGE_HELD;
}

int volatile_drop(struct volatile_range *r, uint32_t first, uint32_t n)
{
	struct iovec run = {volatile_page(r, first), (size_t)n * VOLATILE_PAGE};
	int ret;

	for (uint32_t i = 0; i < n; i++)
		if (!page_is_held(r, first + i))
			return -EBUSY;
	ret = r->backend->drop(&run, 1);
	metric_add(ret ? &r->undropped : &r->dropped, n);
	return ret;
}

/* Gathers the runs of a first part of @pages; returns how many pages that is. */
static uint32_t gather_runs(const struct volatile_range *r, const uint32_t *pages, uint32_t n,
			    struct iovec *runs, unsigned *ret_runs)
{
	unsigned n_runs = 0;
	uint32_t i;

	for (i = 0; i < n; i++) {
		if (i && pages[i] == pages[i - 1] + 1) {
			runs[n_runs - 1].iov_len += VOLATILE_PAGE;
			continue;
		}
		if (n_runs == DROP_RUNS)
			break;
		runs[n_runs++] = (struct iovec){volatile_page(r, pages[i]), VOLATILE_PAGE};
	}
	*ret_runs = n_runs;
	return i;
}

int volatile_drop_pages(struct volatile_range *r, const uint32_t *pages, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!page_is_held(r, pages[i]))
			return -EBUSY;
	for (uint32_t done = 0; done < n;) {
		struct iovec runs[DROP_RUNS];
		unsigned n_runs;
		uint32_t part = gather_runs(r, pages + done, n - done, runs, &n_runs);
		int ret = r->backend->drop(runs, n_runs);

		if (ret) {
			metric_add(&r->undropped, n - done);
			return ret;
		}
		metric_add(&r->dropped, part);
		done += part;
	}
	return 0;
}

void volatile_stats(const struct volatile_range *r, struct volatile_stats *ret_stats)
{
	*ret_stats = (struct volatile_stats){
		.pages = r->pages,
		.volatile_pages = metric_read(&r->n_volatile),
		.marks = metric_read(&r->marks),
		.mark_calls = metric_read(&r->mark_calls),
		.refused = metric_read(&r->refused),
		.purged = metric_read(&r->purged),
		.cancelled = metric_read(&r->cancelled),
		.disturbed = metric_read(&r->disturbed),
		.dropped = metric_read(&r->dropped),
		.undropped = metric_read(&r->undropped),
		.refusal = atomic_load_explicit(&r->refusal, memory_order_relaxed),
	};
}

const char *volatile_backend_name(const struct volatile_range *r)
{
	return r->backend->name;
}
