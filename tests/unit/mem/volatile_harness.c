/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "volatile_harness.h"

#include <errno.h>
#include <sys/mman.h>

#define WORDS (VOLATILE_PAGE / sizeof(uint64_t))

struct volatile_range *range_open(uint32_t pages)
{
	struct volatile_range *r = NULL;

	assert_int_equal(volatile_create(&(struct volatile_spec){.pages = pages}, &r), 0);
	return r;
}

static uint64_t content_word(uint32_t page, volatile_ticket ticket, size_t i)
{
	return (((uint64_t)ticket << 40 | (uint64_t)page << 10 | i) * 0x9e3779b97f4a7c15ull) | 1;
}

void content_fill(void *page_memory, uint32_t page, volatile_ticket ticket)
{
	uint64_t *w = page_memory;

	for (size_t i = 0; i < WORDS; i++)
		w[i] = content_word(page, ticket, i);
}

bool content_right(const void *buf, uint32_t page, volatile_ticket ticket)
{
	const uint64_t *w = buf;

	for (size_t i = 0; i < WORDS; i++)
		if (w[i] != content_word(page, ticket, i))
			return false;
	return true;
}

void page_fill(struct volatile_range *r, uint32_t page)
{
	assert_int_equal(volatile_take(r, page), 0);
	content_fill(volatile_page(r, page), page, volatile_ticket_of(r, page));
	assert_int_equal(volatile_publish(r, page), 0);
}

void pages_mark(struct volatile_range *r, uint32_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct volatile_item item = {.page = first + i};

		assert_int_equal(volatile_mark(r, &item, 1), 0);
		assert_int_equal(item.result, 0);
	}
}

void pages_fill_and_mark(struct volatile_range *r, uint32_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		page_fill(r, first + i);
	pages_mark(r, first, n);
}

int page_read(struct volatile_range *r, uint32_t page)
{
	volatile_ticket ticket = volatile_ticket_of(r, page);
	uint64_t buf[WORDS];
	int ret = volatile_read(r, page, ticket, 0, VOLATILE_PAGE, buf);

	if (!ret)
		assert_true(content_right(buf, page, ticket));
	return ret;
}

int page_read_calm(struct volatile_range *r, uint32_t page)
{
	int ret;

	do
		ret = page_read(r, page);
	while (ret == -EAGAIN);
	return ret;
}

void inject_loss(struct volatile_range *r, uint32_t first, uint32_t n)
{
	assert_int_equal(madvise(volatile_page(r, first), (size_t)n * VOLATILE_PAGE, MADV_DONTNEED),
			 0);
}

bool kernel_takes(struct volatile_range *r, uint32_t first, uint32_t n)
{
	return madvise(volatile_page(r, first), (size_t)n * VOLATILE_PAGE, MADV_PAGEOUT) == 0;
}
