/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What tmem's tests share: a host of bare memory that counts every byte and fails when told to. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "tmem/tmem.h"

#define TEST_PAGE 64u /* the core does not look at pages */

struct test_host {
	/* atomic: threads share it */
	uint64_t meta_bytes, page_bytes, pages;
	uint64_t calls;	  /* of meta_alloc and store */
	uint64_t fail_at; /* the call that fails, counted from 1; 0: none */
	uint64_t refuse;  /* stores to refuse with -E2BIG */
	uint64_t damage;  /* loads that find their page damaged */
	uint64_t starve;  /* loads that fail with -ENOMEM */
	/* called once in the middle of a load or store, without locks: another's operation */
	void (*meanwhile)(void *arg);
	void *arg;
};

extern const struct tmem_ops test_ops;

/** An instance with @host reset. */
struct tmem *test_open(struct test_host *host, u32 max_pools);
/** Destroys it and fails unless every byte came back. */
void test_close(struct tmem *t, struct test_host *host);
/** Fails unless the core's accounts are what the host gave. */
void check_accounts(struct tmem *t, struct test_host *host);
/** A page whose contents say @value, everywhere. */
void page_fill(void *page, uint64_t value);
/** What page_fill() put there; fails if the page is not whole. */
uint64_t page_value(const void *page);

static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}
