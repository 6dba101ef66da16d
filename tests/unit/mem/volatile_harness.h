/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of volatile ranges share: contents that tell whose they are, and losses. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "mem/volatile/volatile.h"

struct volatile_range *range_open(uint32_t pages);

/* Every word of a page tells the page, the ticket and the word; none is zero. */
void content_fill(void *page_memory, uint32_t page, volatile_ticket ticket);
/** Whether @buf is all of the page's content of that ticket. */
bool content_right(const void *buf, uint32_t page, volatile_ticket ticket);

/** Takes, fills and publishes: the page is ready. */
void page_fill(struct volatile_range *r, uint32_t page);
/** Marks [first, first + n), which must be ready. */
void pages_mark(struct volatile_range *r, uint32_t first, uint32_t n);
/** page_fill() and pages_mark(). */
void pages_fill_and_mark(struct volatile_range *r, uint32_t first, uint32_t n);

/** Reads the whole page under its present ticket and checks what a success brought. */
int page_read(struct volatile_range *r, uint32_t page);
/** page_read(), again if interrupted. */
int page_read_calm(struct volatile_range *r, uint32_t page);

/** Does to pages what a purge does, at once and whatever state they are in. */
void inject_loss(struct volatile_range *r, uint32_t first, uint32_t n);
/** Has the kernel reclaim pages: it takes the volatile ones and no others. False: not possible. */
bool kernel_takes(struct volatile_range *r, uint32_t first, uint32_t n);
