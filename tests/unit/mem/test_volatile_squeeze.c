/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A memory cgroup (v1 or v2, whichever can be written) squeezed below the working set of a process
 * that reads volatile pages: the kernel takes them, no wrong byte is read, pins hold, nobody is
 * killed. Without swap or with.
 */
#include "volatile_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "mem/volatile/volatile_private.h"

#define PAGES	16384u /* 64 MiB */
#define PINNED	64u
#define READERS 2
#define WIDE	(256ull << 20)
#define NARROW	(24ull << 20)

struct group {
	char dir[128];
	const char *limit; /* file */
	const char *version;
};

static bool group_write(const struct group *g, const char *file, uint64_t n)
{
	char path[256], text[32];
	int len = snprintf(text, sizeof(text), "%lu", n);
	int fd;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", g->dir, file);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return false;
	ok = write(fd, text, (size_t)len) == len;
	close(fd);
	return ok;
}

static bool group_try(struct group *g, const char *root, const char *limit, const char *version)
{
	snprintf(g->dir, sizeof(g->dir), "%s/ebb-volatile-%d", root, getpid());
	g->limit = limit;
	g->version = version;
	if (mkdir(g->dir, 0755))
		return false;
	if (group_write(g, limit, WIDE))
		return true;
	rmdir(g->dir);
	return false;
}

static bool group_open(struct group *g)
{
	return group_try(g, "/sys/fs/cgroup", "memory.max", "v2") ||
	       group_try(g, "/sys/fs/cgroup/unified", "memory.max", "v2") ||
	       group_try(g, "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "v1");
}

static void group_close(struct group *g)
{
	for (unsigned i = 0; i < 200 && rmdir(g->dir) && errno == EBUSY; i++)
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

/* What the child saw; shared with the parent. */
struct report {
	_Atomic uint64_t hits, misses, wrong, refills;
	uint64_t pins_broken, held_broken, still_there;
	struct volatile_stats stats;
	uint64_t squeeze_ns;
	int failed; /* line */
};

struct squeeze {
	struct volatile_range *r;
	struct report *report;
	_Atomic bool stop;
};

static void *run_reader(void *arg)
{
	struct squeeze *q = arg;
	uint64_t seed = (uintptr_t)&seed | 1;
	uint64_t buf[PAGE_WORDS];

	while (!q->stop) {
		uint32_t page;
		volatile_ticket t;

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		page = (uint32_t)(seed >> 20) % PAGES;
		t = volatile_ticket_of(q->r, page);
		if (volatile_read(q->r, page, t, 0, VOLATILE_PAGE, buf)) {
			q->report->misses++;
			continue;
		}
		q->report->hits++;
		if (!content_right(buf, page, t))
			q->report->wrong++;
	}
	return NULL;
}

/* Without assertions: this is a child. */
static bool fill_and_mark(struct volatile_range *r, uint32_t page)
{
	struct volatile_item item = {.page = page};

	if (volatile_take(r, page))
		return false;
	content_fill(volatile_page(r, page), page, volatile_ticket_of(r, page));
	return !volatile_publish(r, page) && !volatile_mark(r, &item, 1);
}

/* All that should happen has happened, were the machine ever so busy. */
static bool has_met_all(const struct report *rep)
{
	return rep->hits && rep->misses && rep->refills;
}

/* Fills what was lost again, at the pace of a cache that misses, while the group stays narrow. */
static void refill_for(struct squeeze *q, uint64_t ns)
{
	uint64_t end = clock_now_ns() + ns, last = end + 60 * NSEC_PER_SEC;

	for (uint32_t page = PINNED;
	     clock_now_ns() < end || (clock_now_ns() < last && !has_met_all(q->report));
	     page = page + 1 < PAGES ? page + 1 : PINNED)
		if (word_life(page_word(q->r, page)) == PAGE_GONE && fill_and_mark(q->r, page))
			q->report->refills++;
}

static void inspect(struct squeeze *q)
{
	static uint64_t purged[PAGES / 64];
	struct report *rep = q->report;

	for (uint32_t i = 0; i < PINNED; i++)
		rep->pins_broken +=
			!content_right(volatile_page(q->r, i), i, volatile_ticket_of(q->r, i));
	volatile_sweep(q->r, 0, PAGES, NULL);
	volatile_stats(q->r, &rep->stats);
	/* Each page by the explicit method: what is said to be there must be. */
	for (uint32_t i = PINNED; i < PAGES; i += 64) {
		volatile_ticket t[64];

		for (uint32_t k = 0; k < 64; k++)
			t[k] = volatile_ticket_of(q->r, i + k);
		volatile_hold(q->r, i, 64, purged);
		for (uint32_t k = 0; k < 64; k++) {
			if (purged[0] >> k & 1)
				continue;
			rep->still_there++;
			rep->held_broken += !content_right(volatile_page(q->r, i + k), i + k, t[k]);
		}
		/* No more room for ordinary pages than the group has. */
		for (uint32_t k = 0; k < 64; k++)
			volatile_take(q->r, i + k);
		volatile_drop(q->r, i, 64);
	}
}

#define NEED(x)                                 \
	do {                                    \
		if (!(x)) {                     \
			rep->failed = __LINE__; \
			return;                 \
		}                               \
	} while (0)

static void run_child(const struct group *g, struct report *rep)
{
	struct squeeze q = {.report = rep};
	pthread_t threads[READERS];
	uint64_t t0;

	NEED(group_write(g, "cgroup.procs", (uint64_t)getpid()));
	NEED(!volatile_create(&(struct volatile_spec){.pages = PAGES}, &q.r));
	for (uint32_t i = 0; i < PAGES; i++)
		NEED(fill_and_mark(q.r, i));
	for (uint32_t i = 0; i < PINNED; i++)
		NEED(!volatile_pin(q.r, i, volatile_ticket_of(q.r, i)));
	for (unsigned i = 0; i < READERS; i++)
		pthread_create(&threads[i], NULL, run_reader, &q);

	t0 = clock_now_ns();
	for (uint64_t limit = WIDE / 4; limit >= NARROW; limit -= 4ull << 20)
		NEED(group_write(g, g->limit, limit));
	rep->squeeze_ns = clock_now_ns() - t0;
	refill_for(&q, 2 * NSEC_PER_SEC);
	q.stop = true;
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	inspect(&q);
	volatile_destroy(q.r);
}

static void test_a_squeezed_group_loses_pages_and_no_bytes(void **state)
{
	struct report *rep =
		mmap(NULL, sizeof(*rep), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct group g;
	int status;
	pid_t pid;

#ifdef UNDER_TSAN
	print_message("TSan's own memory does not fit into a squeezed group: not shown here\n");
	skip();
#endif
	if (!group_open(&g)) {
		print_message("no memory cgroup can be written here (v1 or v2; needs root): real "
			      "squeezes are NOT shown; other tests inject losses\n");
		skip();
	}
	pid = fork();
	if (!pid) {
		run_child(&g, rep);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	group_close(&g);
	print_message("  cgroup %s, %llu -> %llu MiB in %.1f ms: hits %lu, misses %lu, wrong %lu; "
		      "lost %lu, refilled %lu, still there %lu, disturbed %lu\n",
		      g.version, WIDE >> 20, NARROW >> 20, (double)rep->squeeze_ns / 1e6, rep->hits,
		      rep->misses, rep->wrong, rep->stats.purged, rep->refills, rep->still_there,
		      rep->stats.disturbed);
	assert_true(WIFEXITED(status));
	assert_int_equal(rep->failed, 0);
	assert_int_equal(rep->wrong, 0);
	assert_int_equal(rep->pins_broken, 0);
	assert_int_equal(rep->held_broken, 0);
	assert_true(has_met_all(rep) && rep->stats.purged > PAGES / 4);
	munmap(rep, sizeof(*rep));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_squeezed_group_loses_pages_and_no_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
