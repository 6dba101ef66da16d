/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each rule of a volatile range, with losses injected where a rule is about losses. */
#include "volatile_harness.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/volatile/volatile_private.h"

#define PAGES 200u

/* --- counts allocations of everything linked in --- */

static unsigned allocations;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_mmap(void *p, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t off);

void *__wrap_malloc(size_t n)
{
	allocations++;
	return __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t m)
{
	allocations++;
	return __real_calloc(n, m);
}
void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t off)
{
	allocations++;
	return __real_mmap(p, n, prot, flags, fd, off);
}

static struct volatile_stats stats_of(struct volatile_range *r)
{
	struct volatile_stats st;

	volatile_stats(r, &st);
	return st;
}

static void test_any_word_can_be_the_witness(void **state)
{
	static const unsigned at[] = {0, 1, 255, 511};
	struct volatile_range *r = range_open(4);
	uint64_t buf[PAGE_WORDS];

	for (unsigned i = 0; i < 4; i++) {
		((uint64_t *)volatile_page(r, i))[at[i]] = 1ull << 63;
		assert_int_equal(volatile_publish(r, i), 0);
	}
	pages_mark(r, 0, 4);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(
			volatile_read(r, i, volatile_ticket_of(r, i), 0, VOLATILE_PAGE, buf), 0);
		for (unsigned w = 0; w < PAGE_WORDS; w++)
			assert_int_equal(buf[w], w == at[i] ? 1ull << 63 : 0);
		inject_loss(r, i, 1);
		assert_int_equal(
			volatile_read(r, i, volatile_ticket_of(r, i), 0, VOLATILE_PAGE, buf),
			-ENODATA);
	}
	volatile_destroy(r);
}

static void test_zero_page_is_reported_and_stays_held(void **state)
{
	struct volatile_range *r = range_open(1);
	struct volatile_item item = {.page = 0};

	memset(volatile_page(r, 0), 0, VOLATILE_PAGE);
	assert_int_equal(volatile_publish(r, 0), -ENODATA);
	assert_int_equal(volatile_mark(r, &item, 1), 0);
	assert_int_equal(item.result, -EBUSY);
	page_fill(r, 0);
	assert_int_equal(page_read_calm(r, 0), 0);
	volatile_destroy(r);
}

static void test_reading_needs_a_published_page(void **state)
{
	struct volatile_range *r = range_open(1);
	uint8_t b;

	assert_int_equal(volatile_read(r, 0, volatile_ticket_of(r, 0), 0, 1, &b), -ESTALE);
	assert_int_equal(volatile_pin(r, 0, volatile_ticket_of(r, 0)), -ESTALE);
	page_fill(r, 0);
	assert_int_equal(volatile_publish(r, 0), -EBUSY);
	volatile_destroy(r);
}

static void test_part_of_a_page_is_read(void **state)
{
	struct volatile_range *r = range_open(1);
	volatile_ticket t;
	uint8_t buf[100];
	int ret;

	pages_fill_and_mark(r, 0, 1);
	t = volatile_ticket_of(r, 0);
	memset(buf, 0xee, sizeof(buf));
	do
		ret = volatile_read(r, 0, t, 4001, 95, buf);
	while (ret == -EAGAIN);
	assert_int_equal(ret, 0);
	assert_memory_equal(buf, (uint8_t *)volatile_page(r, 0) + 4001, 95);
	for (unsigned i = 95; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0xee);
	volatile_destroy(r);
}

static void test_a_loss_is_a_miss_and_counted_once(void **state)
{
	struct volatile_range *r = range_open(3);

	pages_fill_and_mark(r, 0, 3);
	assert_int_equal(stats_of(r).volatile_pages, 3);
	inject_loss(r, 1, 1);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(page_read_calm(r, 1), -ENODATA);
	assert_int_equal(volatile_pin(r, 1, volatile_ticket_of(r, 1)), -ENODATA);
	assert_int_equal(stats_of(r).purged, 1);
	assert_int_equal(stats_of(r).volatile_pages, 2);
	assert_int_equal(page_read_calm(r, 0), 0);
	assert_int_equal(page_read_calm(r, 2), 0);
	page_fill(r, 1);
	assert_int_equal(page_read_calm(r, 1), 0);
	volatile_destroy(r);
}

static void test_hold_tells_of_exactly_the_sub_range(void **state)
{
	struct volatile_range *r = range_open(PAGES);
	uint64_t purged[(PAGES + 63) / 64];

	pages_fill_and_mark(r, 0, PAGES);
	inject_loss(r, 3, 1);
	inject_loss(r, 70, 2);
	inject_loss(r, 199, 1);

	/* Losses beside a sub-range do not condemn it. */
	assert_int_equal(volatile_hold(r, 4, 66, purged), 0);
	assert_int_equal(purged[0] | purged[1], 0);
	/* Pages held already, lost ones, whole ones. */
	assert_int_equal(volatile_hold(r, 0, 130, purged), 3);
	assert_int_equal(purged[0], 1ull << 3);
	assert_int_equal(purged[1], 3ull << 6);
	assert_int_equal(purged[2], 0);
	/* The rest goes on as it was. */
	assert_int_equal(stats_of(r).volatile_pages, 70);
	assert_int_equal(page_read_calm(r, 130), 0);
	assert_int_equal(volatile_hold(r, 130, 70, NULL), 1);
	assert_int_equal(stats_of(r).purged, 4);
	assert_int_equal(stats_of(r).cancelled, PAGES - 4);
	assert_int_equal(stats_of(r).volatile_pages, 0);
	volatile_destroy(r);
}

static void test_held_pages_keep_their_content(void **state)
{
	struct volatile_range *r = range_open(2);
	volatile_ticket t;

	pages_fill_and_mark(r, 0, 2);
	t = volatile_ticket_of(r, 0);
	assert_int_equal(volatile_hold(r, 0, 2, NULL), 0);
	assert_true(content_right(volatile_page(r, 0), 0, t));
	kernel_takes(r, 0, 2); /* where it can: test_volatile_kernel.c asks for that */
	assert_true(content_right(volatile_page(r, 0), 0, t));
	assert_int_equal(volatile_read(r, 0, t, 0, 8, &(uint64_t){0}), -ESTALE);
	volatile_destroy(r);
}

static void test_pins_exclude_marks_and_takes(void **state)
{
	struct volatile_range *r = range_open(1);
	struct volatile_item item = {.page = 0};
	volatile_ticket t;

	pages_fill_and_mark(r, 0, 1);
	t = volatile_ticket_of(r, 0);
	assert_int_equal(volatile_pin(r, 0, t), 0);
	assert_int_equal(volatile_pin(r, 0, t), 0);
	assert_int_equal(stats_of(r).volatile_pages, 0);
	assert_int_equal(stats_of(r).cancelled, 1);
	assert_int_equal(volatile_take(r, 0), -EBUSY);
	assert_int_equal(volatile_drop(r, 0, 1), -EBUSY);
	assert_int_equal(volatile_mark(r, &item, 1), 0);
	assert_int_equal(item.result, -EBUSY);
	/* Holding a pinned page finds it whole and leaves it pinned. */
	assert_int_equal(volatile_hold(r, 0, 1, NULL), 0);
	assert_int_equal(page_read_calm(r, 0), 0);
	assert_false(volatile_unpin(r, 0));
	assert_true(volatile_unpin(r, 0));
	assert_int_equal(page_read_calm(r, 0), 0);
	pages_mark(r, 0, 1);
	assert_int_equal(stats_of(r).volatile_pages, 1);
	assert_int_equal(volatile_take(r, 0), 0);
	assert_int_equal(volatile_pin(r, 0, t), -ESTALE);
	volatile_destroy(r);
}

static void test_pins_are_bounded(void **state)
{
	struct volatile_range *r = range_open(1);
	volatile_ticket t;

	pages_fill_and_mark(r, 0, 1);
	t = volatile_ticket_of(r, 0);
	for (unsigned i = 0; i < VOLATILE_PINS_MAX; i++)
		assert_int_equal(volatile_pin(r, 0, t), 0);
	assert_int_equal(volatile_pin(r, 0, t), -EBUSY);
	assert_int_equal(volatile_hold(r, 0, 1, NULL), 0);
	assert_int_equal(page_read_calm(r, 0), 0);
	for (unsigned i = 1; i < VOLATILE_PINS_MAX; i++)
		assert_false(volatile_unpin(r, 0));
	assert_true(volatile_unpin(r, 0));
	assert_false(volatile_unpin(r, 0));
	volatile_destroy(r);
}

static void test_a_loss_under_a_pin_being_made_fails_all(void **state)
{
	struct volatile_range *r = range_open(1);
	uint64_t purged;
	uint32_t s;

	pages_fill_and_mark(r, 0, 1);
	/* A pin that has not come to its compare yet; then the page goes. */
	s = page_word(r, 0);
	assert_true(page_move(r, 0, &s, word_make(word_ticket(s), PAGE_PINNED, word_witness(s))));
	inject_loss(r, 0, 1);
	assert_int_equal(volatile_pin(r, 0, volatile_ticket_of(r, 0)), -ENODATA);
	assert_int_equal(volatile_hold(r, 0, 1, &purged), 1);
	assert_int_equal(purged, 1);
	assert_false(witness_keep(r, 0, s));
	volatile_destroy(r);
}

static void test_reuse_makes_tickets_stale(void **state)
{
	struct volatile_range *r = range_open(1);
	volatile_ticket t;
	uint64_t w;

	pages_fill_and_mark(r, 0, 1);
	t = volatile_ticket_of(r, 0);
	page_fill(r, 0);
	assert_int_equal(volatile_read(r, 0, t, 0, 8, &w), -ESTALE);
	assert_int_equal(volatile_pin(r, 0, t), -ESTALE);
	/* The ticket wraps without touching its neighbours in the word. */
	for (unsigned i = 0; i < 1u << 18; i++) {
		volatile_take(r, 0);
		((uint64_t *)volatile_page(r, 0))[0] = 1;
		volatile_publish(r, 0);
	}
	page_fill(r, 0);
	assert_int_equal(page_read_calm(r, 0), 0);
	assert_int_equal(stats_of(r).volatile_pages, 0);
	volatile_destroy(r);
}

static void test_marking_reports_each_page_and_never_allocates(void **state)
{
	struct volatile_range *r = range_open(PAGES);
	struct volatile_item items[PAGES];
	unsigned before;

	for (unsigned i = 0; i < PAGES; i++) {
		if (i != 77)
			page_fill(r, i);
		/* All of them, scattered: every other page, backwards, then the others. */
		items[i].page = i < PAGES / 2 ? PAGES - 2 - 2 * i : 2 * (i - PAGES / 2) + 1;
	}
	assert_int_equal(volatile_pin(r, 10, volatile_ticket_of(r, 10)), 0);
	before = allocations;
	assert_int_equal(volatile_mark(r, items, PAGES), 0);
	assert_int_equal(allocations, before);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(items[i].result,
				 items[i].page == 77 || items[i].page == 10 ? -EBUSY : 0);
	assert_int_equal(stats_of(r).marks, PAGES - 2);
	assert_int_equal(volatile_mark(r, items, 1), 0);
	assert_int_equal(items[0].result, -EBUSY);
	assert_int_equal(volatile_mark(r, items, 0), 0);
	volatile_destroy(r);
}

static void test_adjacent_pages_are_marked_in_one_call(void **state)
{
	struct volatile_range *r = range_open(64);
	struct volatile_item items[64];

	for (unsigned i = 0; i < 64; i++) {
		page_fill(r, i);
		items[i].page = i;
	}
	assert_int_equal(volatile_mark(r, items, 64), 0);
	assert_int_equal(stats_of(r).mark_calls, 1);
	assert_int_equal(stats_of(r).marks, 64);
	volatile_destroy(r);
}

/* --- a kernel that refuses --- */

static int refuse_mark(const struct iovec *runs, unsigned n, unsigned *ret_calls)
{
	*ret_calls = 1;
	return -EINVAL;
}
static bool never(void)
{
	return false;
}

static int refuse_drop(const struct iovec *runs, unsigned n)
{
	return -EINVAL;
}

static void test_what_is_not_taken_back_is_counted(void **state)
{
	struct volatile_backend keeping = volatile_madv_free;
	const uint32_t pages[] = {0, 2};
	struct volatile_range *r;

	keeping.drop = refuse_drop;
	assert_int_equal(
		volatile_create(&(struct volatile_spec){.pages = 4, .backend = &keeping}, &r), 0);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(volatile_take(r, i), 0);
	assert_int_equal(volatile_drop_pages(r, pages, 2), -EINVAL);
	assert_int_equal(stats_of(r).undropped, 2);
	assert_int_equal(volatile_drop(r, 1, 3), -EINVAL);
	assert_int_equal(stats_of(r).undropped, 5);
	assert_int_equal(stats_of(r).dropped, 0);
	volatile_destroy(r);
}

static void test_refused_pages_stay_ready(void **state)
{
	struct volatile_backend refusing = volatile_madv_free;
	struct volatile_range *r;
	struct volatile_item item = {.page = 0};

	refusing.mark = refuse_mark;
	assert_int_equal(
		volatile_create(&(struct volatile_spec){.pages = 1, .backend = &refusing}, &r), 0);
	page_fill(r, 0);
	for (unsigned i = 1; i < 3; i++) {
		assert_int_equal(volatile_mark(r, &item, 1), -EINVAL);
		assert_int_equal(item.result, -EINVAL);
		assert_int_equal(stats_of(r).refused, i);
	}
	assert_int_equal(stats_of(r).refusal, -EINVAL);
	assert_int_equal(stats_of(r).volatile_pages, 0);
	assert_int_equal(page_read_calm(r, 0), 0);
	assert_int_equal(volatile_take(r, 0), 0);
	volatile_destroy(r);
}

static void test_nothing_is_marked_where_losses_go_unnoticed(void **state)
{
	struct volatile_backend blind = volatile_madv_free;
	struct volatile_range *r;
	struct volatile_item item = {.page = 0};

	blind.can_lose = never;
	assert_int_equal(
		volatile_create(&(struct volatile_spec){.pages = 1, .backend = &blind}, &r), 0);
	assert_int_equal(stats_of(r).refusal, -EOPNOTSUPP);
	page_fill(r, 0);
	assert_int_equal(volatile_mark(r, &item, 1), -EOPNOTSUPP);
	assert_int_equal(stats_of(r).mark_calls, 0);
	assert_int_equal(page_read(r, 0), 0);
	volatile_destroy(r);
}

/* --- looking, giving back, the mapping --- */

static void test_sweep_finds_what_is_gone(void **state)
{
	struct volatile_range *r = range_open(PAGES);
	uint64_t gone[4] = {0};

	pages_fill_and_mark(r, 0, PAGES);
	inject_loss(r, 5, 1);
	inject_loss(r, 128, 2);
	assert_int_equal(volatile_sweep(r, 6, PAGES - 6, gone), 2);
	assert_int_equal(gone[0], 0);
	assert_int_equal(gone[1], 3ull << (122 - 64));
	assert_int_equal(volatile_sweep(r, 0, PAGES, NULL), 1);
	assert_int_equal(volatile_sweep(r, 0, PAGES, NULL), 0);
	assert_int_equal(stats_of(r).volatile_pages, PAGES - 3);
	volatile_destroy(r);
}

static void test_drop_gives_memory_back(void **state)
{
	struct volatile_range *r = range_open(8);
	uint8_t resident[8];

	pages_fill_and_mark(r, 0, 8);
	assert_int_equal(volatile_drop(r, 2, 4), -EBUSY);
	assert_int_equal(volatile_hold(r, 2, 4, NULL), 0);
	assert_int_equal(volatile_drop(r, 2, 4), 0);
	assert_int_equal(stats_of(r).dropped, 4);
	assert_int_equal(mincore(volatile_page(r, 0), 8 * VOLATILE_PAGE, resident), 0);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(resident[i] & 1, i < 2 || i >= 6);
	volatile_destroy(r);
}

static void test_drop_of_scattered_pages_drops_these(void **state)
{
	enum { ALL = 1024 }; /* half of them: more runs than one call takes */
	struct volatile_range *r = range_open(ALL);
	uint32_t pages[ALL / 2 + 1], n = 0;
	uint8_t resident[ALL];

	pages_fill_and_mark(r, 0, ALL);
	for (uint32_t i = 0; i < ALL; i += 2)
		pages[n++] = i;
	assert_int_equal(volatile_drop_pages(r, pages, n), -EBUSY);
	pages[n++] = ALL - 1; /* with its neighbour, a run of two */
	assert_int_equal(volatile_hold(r, 0, ALL, NULL), 0);
	assert_int_equal(volatile_drop_pages(r, pages, n), 0);
	assert_int_equal(stats_of(r).dropped, n);
	assert_int_equal(mincore(volatile_page(r, 0), ALL * VOLATILE_PAGE, resident), 0);
	for (unsigned i = 0; i < ALL; i++)
		assert_int_equal(resident[i] & 1, i % 2 && i != ALL - 1);
	volatile_destroy(r);
}

static void test_given_addresses_stay_reserved(void **state)
{
	void *base = mmap(NULL, 4 * VOLATILE_PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct volatile_spec spec = {.pages = 4, .base = base};
	struct volatile_range *r;
	uint8_t resident[4];

	assert_int_equal(volatile_create(&spec, &r), 0);
	assert_ptr_equal(volatile_page(r, 0), base);
	pages_fill_and_mark(r, 0, 4);
	volatile_destroy(r);
	assert_int_equal(mincore(base, 4 * VOLATILE_PAGE, resident), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(resident[i] & 1, 0);
	munmap(base, 4 * VOLATILE_PAGE);
}

static void test_bad_specs_are_refused(void **state)
{
	struct volatile_range *r;

	assert_int_equal(volatile_create(&(struct volatile_spec){.pages = 0}, &r), -EINVAL);
	assert_int_equal(
		volatile_create(&(struct volatile_spec){.pages = VOLATILE_PAGES_MAX + 1u}, &r),
		-EINVAL);
	assert_int_equal(
		volatile_create(&(struct volatile_spec){.pages = 1, .base = (void *)8}, &r),
		-EINVAL);
	volatile_destroy(NULL);
}

/* --- a loss in the middle of a copy --- */

static struct {
	struct volatile_range *r;
	uint8_t *guard;
} middle;

static void lose_and_let_on(int sig)
{
	inject_loss(middle.r, 0, 1);
	if (mprotect(middle.guard, VOLATILE_PAGE, PROT_READ | PROT_WRITE))
		_exit(1);
}

/* The second half of the destination cannot be written until the page is gone. Nobody else looks.
 */
static void test_a_loss_in_the_middle_of_a_copy_is_seen_by_the_witness(void **state)
{
	static const unsigned at[] = {0, 511};
	uint8_t *dst = mmap(NULL, 2 * VOLATILE_PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sigaction on = {.sa_handler = lose_and_let_on}, before;

	assert_true(dst != MAP_FAILED);
	middle.guard = dst + VOLATILE_PAGE;
	for (unsigned i = 0; i < 2; i++) {
		struct volatile_range *r = middle.r = range_open(1);

		((uint64_t *)volatile_page(r, 0))[at[i]] = 1;
		assert_int_equal(volatile_publish(r, 0), 0);
		pages_mark(r, 0, 1);
		r->can_lose =
			false; /* the signal is not to be noticed: the witness is all there is */
		assert_int_equal(mprotect(middle.guard, VOLATILE_PAGE, PROT_NONE), 0);
		assert_int_equal(sigaction(SIGSEGV, &on, &before), 0);
		assert_int_equal(volatile_read(r, 0, volatile_ticket_of(r, 0), 0, VOLATILE_PAGE,
					       dst + VOLATILE_PAGE / 2),
				 -ENODATA);
		assert_int_equal(sigaction(SIGSEGV, &before, NULL), 0);
		assert_int_equal(stats_of(r).purged, 1);
		volatile_destroy(r);
	}
	munmap(dst, 2 * VOLATILE_PAGE);
}

/* --- noticing interruptions --- */

static void handler(int sig)
{
}

static void test_a_signal_is_noticed(void **state)
{
	signal(SIGUSR1, handler);
	watch_begin();
	raise(SIGUSR1);
	assert_false(watch_end());
}

static void test_a_move_to_another_processor_is_noticed(void **state)
{
	cpu_set_t all, one;
	unsigned moved = 0;

	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	if (CPU_COUNT(&all) < 2) {
		print_message("one processor only: threads cannot be moved\n");
		skip();
	}
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all) || cpu == sched_getcpu())
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		watch_begin();
		assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
		assert_false(watch_end());
		moved++;
	}
	assert_true(moved > 0);
	sched_setaffinity(0, sizeof(all), &all);
}

static void test_being_let_alone_is_noticed(void **state)
{
	unsigned calm = 0;

	for (unsigned i = 0; i < 1000; i++) {
		watch_begin();
		calm += watch_end();
	}
	assert_true(calm > 900);
	assert_false(watch_end());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_word_can_be_the_witness),
		cmocka_unit_test(test_zero_page_is_reported_and_stays_held),
		cmocka_unit_test(test_reading_needs_a_published_page),
		cmocka_unit_test(test_part_of_a_page_is_read),
		cmocka_unit_test(test_a_loss_is_a_miss_and_counted_once),
		cmocka_unit_test(test_hold_tells_of_exactly_the_sub_range),
		cmocka_unit_test(test_held_pages_keep_their_content),
		cmocka_unit_test(test_pins_exclude_marks_and_takes),
		cmocka_unit_test(test_pins_are_bounded),
		cmocka_unit_test(test_a_loss_under_a_pin_being_made_fails_all),
		cmocka_unit_test(test_reuse_makes_tickets_stale),
		cmocka_unit_test(test_marking_reports_each_page_and_never_allocates),
		cmocka_unit_test(test_adjacent_pages_are_marked_in_one_call),
		cmocka_unit_test(test_what_is_not_taken_back_is_counted),
		cmocka_unit_test(test_refused_pages_stay_ready),
		cmocka_unit_test(test_nothing_is_marked_where_losses_go_unnoticed),
		cmocka_unit_test(test_sweep_finds_what_is_gone),
		cmocka_unit_test(test_drop_gives_memory_back),
		cmocka_unit_test(test_drop_of_scattered_pages_drops_these),
		cmocka_unit_test(test_given_addresses_stay_reserved),
		cmocka_unit_test(test_bad_specs_are_refused),
		cmocka_unit_test(test_a_loss_in_the_middle_of_a_copy_is_seen_by_the_witness),
		cmocka_unit_test(test_a_signal_is_noticed),
		cmocka_unit_test(test_a_move_to_another_processor_is_noticed),
		cmocka_unit_test(test_being_let_alone_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
