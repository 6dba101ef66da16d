/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Giving pages to the kernel, in batches.
 *
 * Three passes over up to MARK_RUNS items: move ready pages to *marking*, which keeps pins, takes
 * and other marks off; hand their runs of adjacent pages to the backend; move them on to volatile.
 * Reads go on all the while. If the kernel refuses a run, the whole batch goes back to ready; those
 * that it had accepted may then be lost as ready pages, which all checks allow for.
 */
#include <errno.h>

#include "mem/volatile/volatile_private.h"

/* Moves the items that may be marked to marking, and gathers their runs. */
static unsigned gather(struct volatile_range *r, struct volatile_item *items, unsigned n,
		       struct iovec *runs)
{
	unsigned n_runs = 0;

	for (unsigned i = 0; i < n; i++) {
		uint32_t page = items[i].page;
		uint32_t s = page_word(r, page);
		uint8_t *p = volatile_page(r, page);
		struct iovec *last = n_runs ? &runs[n_runs - 1] : NULL;

		items[i].result = -EBUSY;
		if (word_life(s) != PAGE_READY ||
		    !page_move(r, page, &s,
			       word_make(word_ticket(s), PAGE_MARKING, word_witness(s))))
			continue;
		items[i].result = 0;
		if (last && (uint8_t *)last->iov_base + last->iov_len == p)
			last->iov_len += VOLATILE_PAGE;
		else
			runs[n_runs++] = (struct iovec){.iov_base = p, .iov_len = VOLATILE_PAGE};
	}
	return n_runs;
}

static unsigned settle(struct volatile_range *r, struct volatile_item *items, unsigned n, int ret)
{
	unsigned life = ret ? PAGE_READY : PAGE_VOLATILE;
	unsigned settled = 0;

	for (unsigned i = 0; i < n; i++) {
		uint32_t s = page_word(r, items[i].page);

		if (items[i].result)
			continue;
		/* Nobody else moves a page that is being marked. */
		page_move(r, items[i].page, &s, word_make(word_ticket(s), life, word_witness(s)));
		items[i].result = ret;
		settled++;
	}
	return settled;
}

static int mark_batch(struct volatile_range *r, struct volatile_item *items, unsigned n)
{
	struct iovec runs[MARK_RUNS];
	unsigned n_runs = gather(r, items, n, runs);
	unsigned calls = 0, settled;
	int ret;

	if (!n_runs)
		return 0;
	ret = r->can_lose ? r->backend->mark(runs, n_runs, &calls) : -EOPNOTSUPP;
	settled = settle(r, items, n, ret);
	metric_add(&r->mark_calls, calls);
	metric_add(ret ? &r->refused : &r->marks, settled);
	atomic_store_explicit(&r->refusal, ret, memory_order_relaxed);
	return ret;
}

int volatile_mark(struct volatile_range *r, struct volatile_item *items, unsigned n)
{
	int ret = 0;

	while (n) {
		unsigned m = n < MARK_RUNS ? n : MARK_RUNS;
		int err = mark_batch(r, items, m);

		if (err)
			ret = err;
		items += m;
		n -= m;
	}
	return ret;
}
