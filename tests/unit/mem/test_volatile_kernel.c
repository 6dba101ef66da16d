/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel does with volatile pages: losses of its own making, in reclaim and in a memory
 * cgroup squeezed below its working set; and each way in which a page meets the kernel otherwise:
 * system calls, io_uring's fixed buffers, fork(2), mlock(2).
 */
#include "volatile_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "mem/volatile/volatile_private.h"

#define PAGES 64u

static uint64_t count_right(struct volatile_range *r, uint32_t first, uint32_t n)
{
	uint64_t right = 0;

	for (uint32_t i = first; i < first + n; i++)
		right += page_read_calm(r, i) == 0;
	return right;
}

static cpu_set_t all_processors;

static void bind_to(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/*
 * Marked pages wait in a batch of the processor that marked them, out of reach of a reclaim that
 * is asked for on another one.
 */
static int stay_here(void **state)
{
	sched_getaffinity(0, sizeof(all_processors), &all_processors);
	bind_to(sched_getcpu());
	return 0;
}

/* A range of marked pages, or a skip where MADV_PAGEOUT does not take such. */
static struct volatile_range *range_to_reclaim(void)
{
	struct volatile_range *r = range_open(PAGES);

	pages_fill_and_mark(r, 0, PAGES);
	if (kernel_takes(r, 0, PAGES) && volatile_sweep(r, 0, PAGES, NULL) == PAGES) {
		pages_fill_and_mark(r, 0, PAGES);
		return r;
	}
	print_message("MADV_PAGEOUT does not take volatile pages here: nothing shown\n");
	volatile_destroy(r);
	skip();
	return NULL;
}

static void test_reclaim_takes_volatile_pages_only(void **state)
{
	struct volatile_range *r = range_to_reclaim();

	volatile_hold(r, 10, 10, NULL);
	for (uint32_t i = 30; i < 40; i++)
		assert_int_equal(volatile_pin(r, i, volatile_ticket_of(r, i)), 0);
	page_fill(r, 50); /* ready, not marked */
	assert_true(kernel_takes(r, 0, PAGES));
	assert_int_equal(volatile_sweep(r, 0, PAGES, NULL), PAGES - 21);
	for (uint32_t i = 10; i < 20; i++)
		assert_true(content_right(volatile_page(r, i), i, volatile_ticket_of(r, i) - 1));
	assert_int_equal(count_right(r, 30, 10), 10);
	assert_int_equal(count_right(r, 50, 1), 1);
	/* Unpinned and not marked again, they stay; marked, they go. */
	for (uint32_t i = 30; i < 40; i++)
		assert_true(volatile_unpin(r, i));
	pages_mark(r, 30, 5);
	assert_true(kernel_takes(r, 0, PAGES));
	assert_int_equal(volatile_sweep(r, 0, PAGES, NULL), 5);
	assert_int_equal(count_right(r, 35, 5), 5);
	volatile_destroy(r);
}

static void test_reading_leaves_pages_volatile(void **state)
{
	struct volatile_range *r = range_to_reclaim();

	assert_int_equal(count_right(r, 0, PAGES), PAGES);
	assert_true(kernel_takes(r, 0, PAGES));
	assert_int_equal(count_right(r, 0, PAGES), 0);
	volatile_destroy(r);
}

/* --- system calls --- */

static void through_pipe(const void *from, void *to)
{
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	assert_int_equal(write(fd[1], from, VOLATILE_PAGE), VOLATILE_PAGE);
	assert_int_equal(read(fd[0], to, VOLATILE_PAGE), VOLATILE_PAGE);
	close(fd[0]);
	close(fd[1]);
}

static void test_a_system_call_reads_a_lost_page_as_zeros(void **state)
{
	struct volatile_range *r = range_to_reclaim();
	static const uint8_t zeros[VOLATILE_PAGE];
	uint8_t buf[VOLATILE_PAGE];

	assert_true(kernel_takes(r, 0, 1));
	through_pipe(volatile_page(r, 0), buf);
	assert_memory_equal(buf, zeros, VOLATILE_PAGE);
	assert_int_equal(page_read_calm(r, 0), -ENODATA);
	/* Hence pages are pinned before they are handed over. */
	assert_int_equal(volatile_pin(r, 1, volatile_ticket_of(r, 1)), 0);
	assert_true(kernel_takes(r, 0, PAGES));
	through_pipe(volatile_page(r, 1), buf);
	assert_true(content_right(buf, 1, volatile_ticket_of(r, 1)));
	volatile_unpin(r, 1);
	volatile_destroy(r);
}

static void test_a_system_call_that_writes_cancels_volatility(void **state)
{
	struct volatile_range *r = range_to_reclaim();
	volatile_ticket t = volatile_ticket_of(r, 7);
	uint64_t word[PAGE_WORDS];
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	content_fill(word, 7, t);
	assert_int_equal(write(fd[1], word, 512), 512);
	assert_int_equal(read(fd[0], volatile_page(r, 7), 512), 512);
	assert_true(kernel_takes(r, 0, PAGES));
	assert_int_equal(page_read_calm(r, 7), 0);
	assert_int_equal(page_read_calm(r, 8), -ENODATA);
	close(fd[0]);
	close(fd[1]);
	volatile_destroy(r);
}

static void test_a_frame_in_flight_outlives_its_pin(void **state)
{
	struct volatile_range *r = range_to_reclaim();
	volatile_ticket t = volatile_ticket_of(r, 3);
	struct iovec iov = {.iov_base = volatile_page(r, 3), .iov_len = VOLATILE_PAGE};
	uint8_t buf[VOLATILE_PAGE];
	int fd[2];

	/* The pipe refers to the frame, as a socket does to what is sent without a copy. */
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(volatile_pin(r, 3, t), 0);
	assert_int_equal(vmsplice(fd[1], &iov, 1, 0), VOLATILE_PAGE);
	assert_true(volatile_unpin(r, 3));
	pages_mark(r, 3, 1);
	assert_true(kernel_takes(r, 0, PAGES));
	assert_int_equal(read(fd[0], buf, VOLATILE_PAGE), VOLATILE_PAGE);
	assert_true(content_right(buf, 3, t));
	close(fd[0]);
	close(fd[1]);
	volatile_destroy(r);
}

static void test_fixed_buffers_hold_frames(void **state)
{
	struct volatile_range *r = range_to_reclaim();
	struct iovec iov = {.iov_base = volatile_page(r, 0), .iov_len = 8 * VOLATILE_PAGE};
	uint8_t buf[VOLATILE_PAGE];
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	int fd[2], ret = io_uring_queue_init(4, &ring, 0);

	if (ret || (ret = io_uring_register_buffers(&ring, &iov, 1))) {
		print_message("io_uring: %s\n", strerror(-ret));
		volatile_destroy(r);
		skip();
	}
	/* A device may be at them: the kernel takes none of the eight, all of the others. */
	assert_true(kernel_takes(r, 0, PAGES));
	assert_int_equal(count_right(r, 0, 8), 8);
	assert_int_equal(count_right(r, 8, PAGES - 8), 0);
	assert_int_equal(pipe(fd), 0);
	io_uring_prep_write_fixed(io_uring_get_sqe(&ring), fd[1], volatile_page(r, 5),
				  VOLATILE_PAGE, 0, 0);
	assert_int_equal(io_uring_submit_and_wait(&ring, 1), 1);
	assert_int_equal(io_uring_peek_cqe(&ring, &cqe), 0);
	assert_int_equal(cqe->res, VOLATILE_PAGE);
	assert_int_equal(read(fd[0], buf, VOLATILE_PAGE), VOLATILE_PAGE);
	assert_true(content_right(buf, 5, volatile_ticket_of(r, 5)));
	io_uring_queue_exit(&ring);
	close(fd[0]);
	close(fd[1]);
	volatile_destroy(r);
}

/* --- fork, lock --- */

static void test_children_do_not_have_the_range(void **state)
{
	struct volatile_range *r = range_to_reclaim();
	volatile uint8_t *p = volatile_page(r, 2);
	int status;
	pid_t pid = fork();

	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		setrlimit(RLIMIT_CORE, &(struct rlimit){0});
		_exit(*p != 0); /* does not come so far */
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
#ifdef __SANITIZE_ADDRESS__
	assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) > 1);
#else
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
#endif
	/* The parent has lost nothing by it, and its pages are still the kernel's to take. */
	assert_int_equal(count_right(r, 0, PAGES), PAGES);
	assert_true(kernel_takes(r, 0, PAGES));
	assert_int_equal(count_right(r, 0, PAGES), 0);
	volatile_destroy(r);
}

static void test_locked_memory_is_refused_and_works_on(void **state)
{
	struct volatile_range *r = range_open(PAGES);
	struct volatile_item item = {.page = 3};
	size_t size = PAGES * VOLATILE_PAGE;

	for (uint32_t i = 0; i < PAGES; i++)
		page_fill(r, i);
	/* Not by the C library's name: the sanitizers make that do nothing. */
	if (syscall(SYS_mlock, volatile_page(r, 0), size)) {
		print_message("mlock: %s\n", strerror(errno));
		volatile_destroy(r);
		skip();
	}
	assert_int_equal(volatile_mark(r, &item, 1), -EINVAL);
	assert_int_equal(item.result, -EINVAL);
	assert_int_equal(count_right(r, 0, PAGES), PAGES);
	assert_int_equal(volatile_pin(r, 3, volatile_ticket_of(r, 3)), 0);
	assert_true(volatile_unpin(r, 3));
	assert_int_equal(syscall(SYS_munlock, volatile_page(r, 0), size), 0);
	pages_mark(r, 0, PAGES);
	volatile_destroy(r);
}

static void test_a_range_made_in_a_locked_process_is_not_locked(void **state)
{
	struct volatile_range *r;
	uint8_t resident[PAGES];

	if (mlockall(MCL_FUTURE)) {
		print_message("mlockall: %s\n", strerror(errno));
		skip();
	}
	r = range_open(PAGES);
	munlockall();
	assert_int_equal(mincore(volatile_page(r, 0), PAGES * VOLATILE_PAGE, resident), 0);
	for (uint32_t i = 0; i < PAGES; i++)
		assert_int_equal(resident[i] & 1, 0);
	pages_fill_and_mark(r, 0, PAGES);
	volatile_destroy(r);
}

/* --- a reader that is moved in the middle --- */

struct moved {
	struct volatile_range *r;
	int cpus[2];
	_Atomic bool stop;
	_Atomic unsigned phase; /* odd: marked, being taken */
};

static void run_on(int cpu, int nice_value)
{
	bind_to(cpu);
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), nice_value);
}

/* Keeps the second processor's translations of some pages fresh. */
static void *run_looker(void *arg)
{
	struct moved *m = arg;

	run_on(m->cpus[1], 10);
	while (!m->stop)
		for (uint32_t p = 0; p < volatile_pages(m->r) && !m->stop; p += 64)
			for (unsigned k = 0; k < 200; k++)
				witness_peek(m->r, p, 511);
	return NULL;
}

static void *run_taker(void *arg)
{
	struct moved *m = arg;
	uint32_t n = volatile_pages(m->r);
	uint8_t *base = volatile_page(m->r, 0);

	run_on(m->cpus[0], 19);
	while (!m->stop) {
		memset(base, 0x11, (size_t)n * VOLATILE_PAGE);
		madvise(base, (size_t)n * VOLATILE_PAGE, MADV_FREE);
		m->phase++;
		madvise(base, (size_t)n * VOLATILE_PAGE, MADV_PAGEOUT);
		m->phase++;
	}
	return NULL;
}

/* The first two processors that the process may use. */
static bool two_processors(int cpus[2])
{
	int n = 0;

	for (int cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++)
		if (CPU_ISSET(cpu, &all_processors))
			cpus[n++] = cpu;
	return n == 2;
}

/*
 * Reads a word on one processor and the witness on the other while the kernel, starved of time,
 * is between taking pages and making processors forget them. Some such reads may find a witness
 * over zeros (how many is the machine's luck, and told only); the watch must tell of every move.
 */
static void test_a_reader_moved_in_the_middle_is_not_fooled(void **state)
{
	struct moved m = {0};
	uint64_t end = clock_now_ns() + 2 * NSEC_PER_SEC;
	uint64_t tries = 0, met = 0, fooled = 0, unnoticed = 0;
	pthread_t looker, taker;

	if (!two_processors(m.cpus)) {
		print_message("needs two processors\n");
		skip();
	}
	m.r = range_open(512);
	pthread_create(&looker, NULL, run_looker, &m);
	pthread_create(&taker, NULL, run_taker, &m);
	do {
		uint32_t page = 64 * (uint32_t)(tries++ % 8);
		unsigned phase = m.phase;
		uint64_t first, last;

		run_on(m.cpus[0], 0);
		watch_begin();
		first = witness_peek(m.r, page, 0);
		run_on(m.cpus[1], 0);
		last = witness_peek(m.r, page, 511);
		unnoticed += watch_end();
		if (phase % 2 == 0 || m.phase != phase)
			continue;
		met++;
		fooled += !first && last;
	} while (clock_now_ns() < end && fooled < 3);
	m.stop = true;
	pthread_join(looker, NULL);
	pthread_join(taker, NULL);
	print_message("  %lu reads, %lu while pages were taken, %lu with a witness over zeros; "
		      "%lu moves unnoticed\n",
		      tries, met, fooled, unnoticed);
	volatile_destroy(m.r);
	assert_true(tries > 0);
	assert_int_equal(unnoticed, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reclaim_takes_volatile_pages_only),
		cmocka_unit_test(test_reading_leaves_pages_volatile),
		cmocka_unit_test(test_a_system_call_reads_a_lost_page_as_zeros),
		cmocka_unit_test(test_a_system_call_that_writes_cancels_volatility),
		cmocka_unit_test(test_a_frame_in_flight_outlives_its_pin),
		cmocka_unit_test(test_fixed_buffers_hold_frames),
		cmocka_unit_test(test_children_do_not_have_the_range),
		cmocka_unit_test(test_locked_memory_is_refused_and_works_on),
		cmocka_unit_test(test_a_range_made_in_a_locked_process_is_not_locked),
		cmocka_unit_test(test_a_reader_moved_in_the_middle_is_not_fooled),
	};

	return cmocka_run_group_tests(tests, stay_here, NULL);
}
