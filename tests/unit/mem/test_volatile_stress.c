/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Losses at every moment: one thread makes pages go, another reuses and marks pages, others read
 * and pin. Whatever a successful read brought, and whatever is pinned, must be the content of its
 * ticket, whole. The same run with a part of the protocol left out must fail: that shows that it
 * would have been seen.
 *
 * Two ways to lose pages. "drop" (MADV_DONTNEED) takes a page whatever its state; so a lock keeps
 * it off pages that their owner is filling, and there are no pins. "reclaim" (MADV_PAGEOUT) is the
 * kernel's own: it takes clean lazily freed pages only, and needs no lock.
 */
#include "volatile_harness.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mem/volatile/volatile_private.h"

#define PAGES 48u
#define BATCH 8u

typedef int read_fn(struct volatile_range *r, uint32_t page, volatile_ticket ticket,
		    uint32_t offset, uint32_t len, void *dst);
typedef int pin_fn(struct volatile_range *r, uint32_t page, volatile_ticket ticket);

struct stress {
	struct volatile_range *r;
	read_fn *read;
	pin_fn *pin; /* or NULL: no pins, pages are dropped */
	bool until_wrong;
	pthread_mutex_t filling[PAGES];
	_Atomic bool stop;
	_Atomic uint64_t hits, misses, pins, wrong, injected;
};

static uint32_t next_page(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return (uint32_t)(*seed >> 20) % PAGES;
}

static void *run_reader(void *arg)
{
	struct stress *st = arg;
	uint64_t seed = (uintptr_t)&seed | 1;
	uint64_t buf[PAGE_WORDS];

	while (!st->stop) {
		uint32_t page = next_page(&seed);
		volatile_ticket t = volatile_ticket_of(st->r, page);

		if (st->read(st->r, page, t, 0, VOLATILE_PAGE, buf)) {
			st->misses++;
			sched_yield();
			continue;
		}
		st->hits++;
		if (!content_right(buf, page, t))
			st->wrong++;
	}
	return NULL;
}

static void *run_pinner(void *arg)
{
	struct stress *st = arg;
	uint64_t seed = (uintptr_t)&seed | 1;

	while (!st->stop) {
		uint32_t page = next_page(&seed);
		volatile_ticket t = volatile_ticket_of(st->r, page);
		struct volatile_item item = {.page = page};

		if (st->pin(st->r, page, t))
			continue;
		st->pins++;
		for (unsigned i = 0; i < 3; i++) {
			if (!content_right(volatile_page(st->r, page), page, t))
				st->wrong++;
			sched_yield();
		}
		if (volatile_unpin(st->r, page))
			volatile_mark(st->r, &item, 1);
	}
	return NULL;
}

static void *run_injector(void *arg)
{
	struct stress *st = arg;
	uint64_t seed = 88172645463325252ull;

	while (!st->stop) {
		uint32_t page = next_page(&seed);
		uint32_t n = st->injected % 16 ? 1 : PAGES - page;

		if (st->pin) {
			kernel_takes(st->r, page, n);
		} else if (!pthread_mutex_trylock(&st->filling[page])) {
			inject_loss(st->r, page, 1);
			pthread_mutex_unlock(&st->filling[page]);
		}
		st->injected++;
	}
	return NULL;
}

/* One step of the owner: a page that is gone, and now and then one that is not, is filled. */
static bool refill(struct stress *st, uint32_t page, bool whole_too)
{
	bool done = false;

	if (pthread_mutex_trylock(&st->filling[page]))
		return false;
	if ((whole_too || word_life(page_word(st->r, page)) == PAGE_GONE) &&
	    !volatile_take(st->r, page)) {
		content_fill(volatile_page(st->r, page), page, volatile_ticket_of(st->r, page));
		done = !volatile_publish(st->r, page);
	}
	pthread_mutex_unlock(&st->filling[page]);
	return done;
}

static void *run_owner(void *arg)
{
	struct stress *st = arg;
	struct volatile_item items[BATCH];
	uint64_t seed = 4101842887655102017ull;
	unsigned n = 0;

	while (!st->stop) {
		uint32_t page = next_page(&seed);

		if (refill(st, page, seed % 8 == 0))
			items[n++].page = page;
		if (n == BATCH || (n && seed % 64 == 0)) {
			volatile_mark(st->r, items, n);
			n = 0;
		}
		if (seed % 512 == 0)
			volatile_sweep(st->r, 0, PAGES, NULL);
	}
	return NULL;
}

static uint64_t stress_ns(void)
{
	const char *s = getenv("EBB_VOLATILE_SECONDS");

	return (s ? strtoull(s, NULL, 10) : 3) * NSEC_PER_SEC;
}

/* All that should happen has happened, were the machine ever so busy. */
static bool has_met_all(const struct stress *st)
{
	if (st->until_wrong)
		return st->wrong;
	return st->hits && st->misses && (st->pins || !st->pin);
}

/* Runs, and returns how many wrong contents were seen. */
static uint64_t run_stress(struct stress *st)
{
	void *(*runs[])(void *) = {run_reader, st->pin ? run_pinner : run_reader, run_owner,
				   run_injector};
	pthread_t threads[4];
	struct volatile_stats vs;
	uint64_t end = clock_now_ns() + (st->until_wrong ? 0 : stress_ns());
	uint64_t last = end + 60 * NSEC_PER_SEC;

	st->r = range_open(PAGES);
	for (unsigned i = 0; i < PAGES; i++)
		pthread_mutex_init(&st->filling[i], NULL);
	pages_fill_and_mark(st->r, 0, PAGES);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, runs[i], st), 0);
	while (clock_now_ns() < end || (clock_now_ns() < last && !has_met_all(st)))
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	st->stop = true;
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	volatile_stats(st->r, &vs);
	print_message("  hits %lu, misses %lu, pins %lu, losses %lu of %lu tries, marks %lu, "
		      "cancelled %lu, disturbed %lu: wrong %lu\n",
		      st->hits, st->misses, st->pins, vs.purged, st->injected, vs.marks,
		      vs.cancelled, vs.disturbed, st->wrong);
	volatile_destroy(st->r);
	return st->wrong;
}

static void test_readers_never_get_dropped_bytes(void **state)
{
	struct stress st = {.read = volatile_read};

	assert_int_equal(run_stress(&st), 0);
	assert_true(has_met_all(&st));
}

static bool reclaim_possible(void)
{
	struct volatile_range *r = range_open(64);
	bool lost;

	pages_fill_and_mark(r, 0, 64);
	lost = kernel_takes(r, 0, 64) && volatile_sweep(r, 0, 64, NULL) > 0;
	volatile_destroy(r);
	if (!lost)
		print_message("MADV_PAGEOUT takes nothing here: reclaim by the kernel not tried\n");
	return lost;
}

static void test_reclaim_spares_pins_and_fools_no_reader(void **state)
{
	struct stress st = {.read = volatile_read, .pin = volatile_pin};

	if (!reclaim_possible())
		skip();
	assert_int_equal(run_stress(&st), 0);
	assert_true(has_met_all(&st));
}

/*
 * --- protocols with a part left out ---
 *
 * They let others run at their weak moment, as preemption would, now and then: a busy machine must
 * not make the test wait for chance.
 */

static int read_checking_before(struct volatile_range *r, uint32_t page, volatile_ticket ticket,
				uint32_t offset, uint32_t len, void *dst)
{
	uint32_t s = page_word(r, page);

	if (word_ticket(s) != ticket || word_life(s) == PAGE_HELD || word_life(s) == PAGE_GONE)
		return -ESTALE;
	if (!witness_peek(r, page, s)) {
		page_lost(r, page, s);
		return -ENODATA;
	}
	sched_yield();
	memcpy(dst, (char *)volatile_page(r, page) + offset, len);
	return word_ticket(page_word(r, page)) == ticket ? 0 : -ESTALE;
}

static int read_without_second_ticket(struct volatile_range *r, uint32_t page,
				      volatile_ticket ticket, uint32_t offset, uint32_t len,
				      void *dst)
{
	uint32_t s = page_word(r, page);

	if (word_ticket(s) != ticket || word_life(s) == PAGE_HELD || word_life(s) == PAGE_GONE)
		return -ESTALE;
	memcpy(dst, (char *)volatile_page(r, page) + offset, len / 2);
	sched_yield();
	memcpy((char *)dst + len / 2, (char *)volatile_page(r, page) + offset + len / 2,
	       len - len / 2);
	if (witness_peek(r, page, s))
		return 0;
	page_lost(r, page, s);
	return -ENODATA;
}

/* Sees the witness, writes it, and believes the page that then has it. */
static int pin_without_compare(struct volatile_range *r, uint32_t page, volatile_ticket ticket)
{
	uint32_t s = page_word(r, page);
	volatile uint64_t *w;
	uint64_t seen;

	if (word_ticket(s) != ticket || word_life(s) != PAGE_VOLATILE ||
	    !page_move(r, page, &s, word_make(ticket, PAGE_PINNED, word_witness(s))))
		return -EBUSY;
	w = (volatile uint64_t *)page_witness(r, page, s);
	seen = *w;
	sched_yield();
	if (seen)
		*w = seen;
	if (*w)
		return 0;
	s = word_make(ticket, PAGE_PINNED, word_witness(s));
	page_move(r, page, &s, word_make(ticket, PAGE_GONE, word_witness(s)));
	return -ENODATA;
}

#ifndef UNDER_TSAN /* which would, rightly, speak of their races */
#define MUTANTS 1
#else
#define MUTANTS 0
#endif

/* Whether protocols that are wrong are tried here; if not, why is told. */
static bool mutants(void)
{
	if (!MUTANTS)
		print_message("TSan would report the races of wrong protocols, rightly: they are "
			      "caught in the "
			      "other builds\n");
	return MUTANTS;
}

static void test_a_check_before_the_copy_is_caught(void **state)
{
	struct stress st = {.read = read_checking_before, .until_wrong = true};

	if (!mutants())
		skip();
	assert_true(run_stress(&st) > 0);
}

static void test_a_ticket_not_looked_at_again_is_caught(void **state)
{
	struct stress st = {.read = read_without_second_ticket, .until_wrong = true};

	if (!mutants())
		skip();
	assert_true(run_stress(&st) > 0);
}

static void test_a_pin_without_compare_is_caught(void **state)
{
	struct stress st = {.read = volatile_read, .pin = pin_without_compare, .until_wrong = true};

	if (!mutants() || !reclaim_possible())
		skip();
	assert_true(run_stress(&st) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_readers_never_get_dropped_bytes),
		cmocka_unit_test(test_reclaim_spares_pins_and_fools_no_reader),
		cmocka_unit_test(test_a_check_before_the_copy_is_caught),
		cmocka_unit_test(test_a_ticket_not_looked_at_again_is_caught),
		cmocka_unit_test(test_a_pin_without_compare_is_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
