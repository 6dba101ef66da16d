/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the data area's tests share: a host whose pages are flags. It keeps its own idea of every
 * block, checks each release against it, and counts every byte. Atomics: threads share it.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "data_area/data_area.h"

/* For threads too, where cmocka's own asserts do not work. */
#define REQUIRE(c)                                           \
	do {                                                 \
		if (!(c))                                    \
			test_failed(__FILE__, __LINE__, #c); \
	} while (0)
_Noreturn void test_failed(const char *file, int line, const char *what);
extern _Thread_local u64 test_rnd; /* which releases are refused */
extern u64 test_seed;		   /* told in case of failure */

struct test_host {
	struct data_budget *b;
	u64 meta_bytes;	     /* that the core has */
	u64 allocs, fail_at; /* the allocation that fails, counted from 1; 0: none */
	u64 resident;	     /* pages that blocks have */
	u64 most_resident;   /* ... since it was last reset */
	u64 serve_asked, tick_asked;
	void (*on_wake)(struct test_host *host, void *area);
	void (*on_release)(struct test_host *host, void *area);
};

struct test_area {
	struct test_host *host;
	struct data_area *a;
	struct data_area_spec spec;
	u32 refs; /* 1: ours; 0: nobody may hold it any more */
	u64 wakes;
	u32 refuse;		/* a block that cannot be released, or NOTHING */
	u32 refuse_one_in;	/* of so many blocks one cannot be released; 0: none */
	u64 releases, released; /* calls, blocks */
	u8 *has;		/* a block: it has pages */
	u32 *owner;		/* a block: who has taken it, 0 nobody */
};
#define NOTHING (~0u)

/** A budget of @limit pages with @host reset. */
void host_open(struct test_host *host, u64 limit);
/** Destroys the budget; fails unless all that was allocated came back. */
void host_close(struct test_host *host);
/** As data_area_create(). */
int area_open(struct test_host *host, struct test_area *area, const struct data_area_spec *spec);
/** Waits for those who hold it, destroys it, its pages too. */
void area_close(struct test_area *area);
/** Takes for @owner (not 0), gives new blocks pages, checks all that can be checked. */
int area_take(struct test_area *area, u32 n, u64 now, u32 owner, u32 *blocks);
/** Puts what @owner has taken. */
void area_put(struct test_area *area, const u32 *blocks, u32 n, u32 owner);

struct data_area_stats area_stats(struct test_area *area);
struct data_budget_stats host_stats(struct test_host *host);

static inline u64 next_random(u64 *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}
