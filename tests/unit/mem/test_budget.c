/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The budget against a kernel made of files: meminfo, the files of memory cgroups, and a FIFO for
 * pressure; and against pools made of numbers. Times are a hundredth of the real ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "mem/budget/budget_private.h"

#define M	  (UINT64_C(1) << 20)
#define REGROW_MS 600
#define PATIENCE  (60 * NSEC_PER_SEC)

/* --- the kernel --- */

static char dir[64];

static void put(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Replaces DIR/NAME at once, so that nobody reads half of it. */
static void put(const char *name, const char *fmt, ...)
{
	char path[256], temp[256];
	va_list ap;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	snprintf(temp, sizeof(temp), "%s/temp", dir);
	f = fopen(temp, "w");
	assert_non_null(f);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fclose(f);
	assert_int_equal(rename(temp, path), 0);
}

static const char *at(const char *name)
{
	static char path[16][256];
	static unsigned i;

	i = (i + 1) % 16;
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static void host_has(uint64_t total, uint64_t available)
{
	put("proc/meminfo", "MemTotal:  %lu kB\nMemFree: 1 kB\nMemAvailable: %lu kB\n", total >> 10,
	    available >> 10);
}

static void group_v2(const char *name, const char *max, const char *high, uint64_t current,
		     uint64_t files)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/memory.max", name);
	put(path, "%s\n", max);
	snprintf(path, sizeof(path), "%s/memory.high", name);
	put(path, "%s\n", high);
	snprintf(path, sizeof(path), "%s/memory.stat", name);
	put(path, "anon 1\ninactive_file %lu\nactive_file %lu\n", files / 2, files - files / 2);
	snprintf(path, sizeof(path), "%s/memory.events", name);
	put(path, "low 0\nhigh 0\nmax 0\noom 0\n");
	snprintf(path, sizeof(path), "%s/memory.current", name);
	put(path, "%lu\n", current);
}

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/ebb-budget-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mkdir(at("proc"), 0700) | mkdir(at("proc/self"), 0700) |
				 mkdir(at("proc/pressure"), 0700) | mkdir(at("cg"), 0700) |
				 mkdir(at("cg/a"), 0700) | mkdir(at("cg/a/b"), 0700) |
				 mkfifo(at("proc/pressure/memory"), 0600) | mkfifo(at("own"), 0600),
			 0);
	host_has(4096 * M, 4096 * M);
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	return system(cmd);
}

/* --- a pool --- */

struct fake {
	_Atomic uint64_t held, index, lost, target;
	_Atomic unsigned uses, shrinks, order;
	bool loose;
	struct budget_pool *pool;
};

static _Atomic unsigned sequence;

static void fake_use(void *pool, struct budget_use *ret_use)
{
	struct fake *f = pool;
	uint64_t held = f->held;

	f->uses++;
	*ret_use = (struct budget_use){held + f->index, held, f->loose ? held : 0, f->index};
}

static uint64_t fake_set_target(void *pool, uint64_t bytes)
{
	struct fake *f = pool;
	uint64_t held = f->held, keep = bytes > f->index ? bytes - f->index : 0;

	f->target = bytes;
	if (held <= keep)
		return 0;
	f->held = keep;
	f->shrinks++;
	f->order = ++sequence;
	return held - keep;
}

static uint64_t fake_settle(void *pool)
{
	struct fake *f = pool;
	uint64_t lost = atomic_exchange(&f->lost, 0);

	f->held -= lost;
	return lost;
}

static const struct budget_pool_ops fake_ops = {fake_use, fake_set_target, fake_settle};
static const struct budget_pool_ops counted_ops = {fake_use, NULL, NULL};

/* --- the budget under test --- */

static struct budget *make(struct budget_spec spec)
{
	struct reason why = {""};
	struct budget *b;

	if (!spec.proc)
		spec.proc = at("proc");
	if (!spec.cgroup)
		spec.cgroup = at("none");
	if (!spec.regrow_ms)
		spec.regrow_ms = REGROW_MS;
	assert_int_equal(budget_create(&spec, &b, &why), 0);
	return b;
}

static void add(struct budget *b, struct fake *f, const char *name, enum budget_rank rank,
		uint32_t share, uint64_t floor)
{
	struct budget_pool_spec spec = {.name = name,
					.ops = share ? &fake_ops : &counted_ops,
					.pool = f,
					.rank = rank,
					.share = share,
					.floor = floor};

	assert_int_equal(budget_add(b, &spec, &f->pool), 0);
}

static struct budget_stats stats(struct budget *b)
{
	struct budget_stats s;

	budget_stats(b, &s);
	return s;
}

/* Waits until the condition holds of the stats `s`. */
#define wait_until(b, condition)                                                                 \
	do {                                                                                     \
		uint64_t end_ = clock_now_ns() + PATIENCE;                                       \
		struct budget_stats s = stats(b);                                                \
		while (!(condition) && clock_now_ns() < end_) {                                  \
			nanosleep(&(struct timespec){.tv_nsec = NSEC_PER_MSEC}, NULL);           \
			s = stats(b);                                                            \
		}                                                                                \
		if (!(condition))                                                                \
			fail_msg("never: %s (target %lu M, state %s)", #condition, s.target / M, \
				 budget_state_name(s.state));                                    \
	} while (0)

/* Says that memory is short, and returns when somebody has looked. */
static void tell(struct budget *b, const char *fifo)
{
	int fd = open(at(fifo), O_RDWR | O_NONBLOCK);
	uint64_t looks = stats(b).looks;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, "x", 1), 1);
	wait_until(b, s.looks > looks);
	close(fd);
}

/* Waits for @n more looks. */
static void wait_looks(struct budget *b, uint64_t n)
{
	uint64_t from = stats(b).looks;

	wait_until(b, s.looks >= from + n);
}

static void pause_ms(unsigned ms)
{
	nanosleep(&(struct timespec){.tv_nsec = (long)(ms * NSEC_PER_MSEC)}, NULL);
}

/* Lets @ms pass, or what becomes of them; in it there is a look in each @every_ms at most, but for
 * @more. */
static void expect_few_looks(struct budget *b, unsigned ms, unsigned every_ms, unsigned more)
{
	uint64_t begun = clock_now_ns(), looks = stats(b).looks, most;

	pause_ms(ms);
	looks = stats(b).looks - looks;
	most = more + (clock_now_ns() - begun) / (every_ms * NSEC_PER_MSEC);
	assert_in_range(looks, 0, most);
}

/* Waits until there is no look for @ms. */
static void wait_for_quiet(struct budget *b, unsigned ms)
{
	uint64_t end = clock_now_ns() + PATIENCE, looks;

	do {
		looks = stats(b).looks;
		pause_ms(ms);
	} while (stats(b).looks != looks && clock_now_ns() < end);
	assert_int_equal(stats(b).looks, looks);
}

/* --- sharing out --- */

static void test_shares_at_the_ceiling_and_ranks_below_it(void **state)
{
	struct share_pool p[3] = {{1, 4, 20, 0}, {6, 10, 0, 0}, {2, 0, 0, 0}};

	/* 200 - 14 for floors; the first has room for 16 of its 20 only. */
	share_out(p, 3, 200, 200);
	assert_int_equal(p[0].target, 20);
	assert_in_range(p[1].target, 10 + 126, 10 + 128);
	assert_in_range(p[2].target, 41, 43);
	/* Missing bytes come from the first rank, then the second. */
	share_out(p, 3, 200, 190);
	assert_int_equal(p[0].target, 10);
	assert_int_equal(p[0].whole, 20);
	assert_in_range(p[1].target, 136, 138);
	assert_int_equal(p[1].whole, p[1].target);
	share_out(p, 3, 200, 100);
	assert_int_equal(p[0].target, 4);
	assert_in_range(p[1].target, 52, 54);
	assert_in_range(p[2].target, 41, 43);
	/* Never below the floors. */
	share_out(p, 3, 200, 0);
	assert_int_equal(p[0].target + p[1].target + p[2].target, 14);
	share_out(p, 3, 5, 5);
	assert_int_equal(p[0].target + p[1].target + p[2].target, 14);
}

static void test_shares_of_pools_that_need_little_go_to_others(void **state)
{
	struct share_pool p[2] = {{1, 0, 10, 0}, {1, 0, 30, 0}};

	share_out(p, 2, 1000, 1000);
	assert_int_equal(p[0].target, 10);
	assert_int_equal(p[1].target, 30);
}

/* --- steady --- */

static void test_without_pressure_the_target_is_the_ceiling_and_nothing_wakes(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct fake cache = {.held = 150 * M}, heap = {.index = 20 * M};

	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	add(b, &heap, "heap", BUDGET_WORKING, 0, 0);
	assert_int_equal(cache.target, 180 * M);
	wait_until(b, s.looks >= 1 && s.state == BUDGET_STEADY);
	wait_for_quiet(b, 200); /* as 20 s */
	assert_int_equal(stats(b).target, 200 * M);
	assert_int_equal(stats(b).held, 170 * M);
	assert_int_equal(stats(b).reclaimable, 150 * M);
	budget_remove(cache.pool);
	budget_remove(heap.pool);
	budget_destroy(b);
}

static void test_without_psi_it_looks_while_there_is_something_to_give(void **state)
{
	struct budget *b;
	struct fake cache = {.held = 150 * M};

	unlink(at("proc/pressure/memory"));
	b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	assert_non_null(strstr(stats(b).source, "timer"));
	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	budget_set(b, 10 * M, 200 * M, NULL); /* a look, with the pool */
	wait_looks(b, 3);
	host_has(4096 * M, 0);
	wait_until(b, s.shrinks[BUDGET_CAUSE_HOST] >= 1);
	cache.held = 0;
	host_has(4096 * M, 4096 * M);
	wait_until(b, s.state == BUDGET_STEADY);
	wait_for_quiet(b, 100);
	budget_remove(cache.pool);
	budget_destroy(b);
}

/* --- pressure --- */

static void test_a_stall_of_others_is_a_reason_to_look_only(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct fake cache = {.held = 150 * M};

	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	wait_until(b, s.looks >= 1);
	tell(b, "proc/pressure/memory");
	assert_int_equal(cache.held, 150 * M);
	assert_int_equal(stats(b).target, 200 * M);
	budget_remove(cache.pool);
	budget_destroy(b);
}

static void test_what_is_told_in_vain_all_the_time_is_looked_at_now_and_then(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct fake cache = {.held = 150 * M};
	uint64_t looks, begun;
	int fd = open(at("proc/pressure/memory"), O_RDWR | O_NONBLOCK);

	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	wait_until(b, s.looks >= 1);
	begun = clock_now_ns();
	looks = stats(b).looks;
	for (unsigned i = 0; i < 250 || stats(b).looks < looks + 10; i++) {
		assert_true(write(fd, "x", 1) == 1 || errno == EAGAIN);
		pause_ms(1);
	}
	/* 0.5 ms, 1, 2, ... 10 ms between them. */
	looks = stats(b).looks - looks;
	assert_in_range(looks, 10, 10 + (clock_now_ns() - begun) / (5 * NSEC_PER_MSEC));
	/* What is not in vain is not made to wait for long. */
	host_has(4096 * M, 0);
	tell(b, "proc/pressure/memory");
	wait_until(b, s.target < s.ceiling);
	close(fd);
	budget_remove(cache.pool);
	budget_destroy(b);
}

static void test_a_short_host_gets_what_is_missing_and_the_target_grows_again(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct watermarks w = budget_watermarks(4096 * M);
	struct fake cache = {.held = 150 * M};
	struct budget_pool_stats ps;
	uint64_t t0;

	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	wait_until(b, s.looks >= 1);
	host_has(4096 * M, w.high - 40 * M); /* above low: nothing yet */
	tell(b, "proc/pressure/memory");
	assert_int_equal(cache.held, 150 * M);

	t0 = clock_now_ns();
	host_has(4096 * M, w.low - 10 * M);
	tell(b, "proc/pressure/memory");
	wait_until(b, s.target < s.ceiling);
	host_has(4096 * M, w.high - 40 * M); /* no reason to give, none to grow */
	wait_until(b, s.state == BUDGET_GROWING);
	assert_int_equal(cache.held % M, 0);
	assert_in_range(cache.held, 8 * M, 150 * M - (w.high - w.low));
	assert_in_range(stats(b).target, cache.held, 200 * M - 1);
	assert_true(stats(b).shrinks[BUDGET_CAUSE_PSI] + stats(b).shrinks[BUDGET_CAUSE_HOST] >= 1);
	assert_int_equal(stats(b).returned, 150 * M - cache.held);
	assert_int_equal(budget_pools(b, &ps, 1), 1);
	assert_int_equal(ps.returned, 150 * M - cache.held);
	assert_true(metric_hist_count(&ps.shrink) >= 1);
	assert_string_equal(ps.name, "cache");

	host_has(4096 * M, 4096 * M);
	wait_until(b, s.state == BUDGET_STEADY);
	assert_int_equal(stats(b).target, 200 * M);
	assert_int_equal(cache.target, 200 * M);
	/* Rest, then steps: half of it were more than a third of the way. */
	assert_true(clock_now_ns() - t0 > REGROW_MS / 6 * NSEC_PER_MSEC);
	budget_remove(cache.pool);
	budget_destroy(b);
}

/* Volatile pages count as available to the kernel; others do not find them free. */
static void test_own_volatile_pages_are_not_taken_for_free_memory(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 400 * M});
	struct watermarks w = budget_watermarks(4096 * M);
	struct fake cache = {.held = 300 * M, .loose = true};

	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	host_has(4096 * M, 300 * M + w.high);
	tell(b, "proc/pressure/memory");
	assert_int_equal(cache.held, 300 * M);
	host_has(4096 * M, 300 * M + w.low - M);
	tell(b, "proc/pressure/memory");
	wait_until(b, s.target < s.ceiling);
	/* What it gave back is available still, and free now: so once was enough. */
	wait_looks(b, 2);
	assert_int_equal(cache.held, 300 * M - (w.high - w.low + M));
	budget_remove(cache.pool);
	budget_destroy(b);
}

static void test_pressure_of_the_own_cgroup_leads_to_the_floor(void **state)
{
	struct budget_spec spec = {
		.floor = 30 * M, .ceiling = 200 * M, .psi = at("own"), .regrow_ms = 60000};
	struct budget *b = make(spec);
	struct fake cache = {.held = 150 * M}, tmem = {.held = 40 * M};

	add(b, &tmem, "tmem", BUDGET_TMEM, 1, 10 * M);
	add(b, &cache, "cache", BUDGET_CACHE, 3, 20 * M);
	wait_until(b, s.looks >= 1);
	tell(b, "own");
	wait_until(b, s.shrinks[BUDGET_CAUSE_PSI] == 1);
	assert_true(cache.held < 150 * M && cache.held >= 90 * M);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t tmem_held = tmem.held;

		assert_true(cache.held == 20 * M || tmem_held == 40 * M); /* in order of rank */
		tell(b, "own");
	}
	assert_int_equal(cache.held, 20 * M);
	assert_int_equal(tmem.held, 10 * M);
	assert_int_equal(stats(b).target, 30 * M);
	budget_remove(cache.pool);
	budget_remove(tmem.pool);
	budget_destroy(b);
}

static void test_pressure_at_the_floor_makes_the_looks_rarer(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct fake cache = {.held = 150 * M};

	add(b, &cache, "cache", BUDGET_CACHE, 1, 10 * M);
	host_has(4096 * M, 0);
	tell(b, "proc/pressure/memory");
	wait_until(b, s.target == s.floor);
	wait_looks(b, 8); /* 1 ms, 2, 4 ... 50 */
	expect_few_looks(b, 200, 40, 2);
	assert_int_equal(stats(b).state, BUDGET_PRESSED);
	budget_remove(cache.pool);
	budget_destroy(b);
}

/* --- cgroups --- */

static void test_limits_of_a_v2_group_and_of_those_above_it_count(void **state)
{
	struct budget *b;
	struct fake cache = {.held = 150 * M};
	struct watermarks w = budget_watermarks(512 * M);

	group_v2("cg/a", "536870912", "max", 100 * M, 0);
	group_v2("cg/a/b", "max", "max", 100 * M, 0);
	b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M, .cgroup = at("cg/a/b")});
	assert_non_null(strstr(stats(b).source, "cgroup v2"));
	assert_int_equal(stats(b).limit, 512 * M);
	assert_int_equal(stats(b).available, 412 * M);
	add(b, &cache, "cache", BUDGET_CACHE, 1, 10 * M);
	/* Clean pages of files are as good as free. */
	group_v2("cg/a", "536870912", "max", 512 * M, 100 * M);
	tell(b, "proc/pressure/memory");
	assert_int_equal(cache.held, 150 * M);
	group_v2("cg/a", "536870912", "max", 512 * M, w.low / 2);
	tell(b, "proc/pressure/memory");
	assert_true(stats(b).shrinks[BUDGET_CAUSE_PSI] == 1);
	assert_true(cache.held <= 150 * M - w.low);
	/* memory.high is a limit too, and may be the narrower one. */
	group_v2("cg/a/b", "419430400", "268435456", 0, 0);
	assert_int_equal(stats(b).limit, 256 * M);
	budget_remove(cache.pool);
	budget_destroy(b);
}

static void test_a_v1_group_tells_when_its_usage_comes_near_the_limit(void **state)
{
	struct fake cache = {.held = 150 * M};
	struct budget *b;
	char text[80] = "";
	uint64_t one = 1;
	int control, event, usage;
	unsigned long long bytes;

	put("cg/a/memory.limit_in_bytes", "9223372036854771712\n");
	put("cg/a/memory.usage_in_bytes", "0\n");
	put("cg/a/b/memory.limit_in_bytes", "%lu\n", 512 * M);
	put("cg/a/b/memory.usage_in_bytes", "%lu\n", 100 * M);
	put("cg/a/b/memory.stat", "inactive_file 7\ntotal_inactive_file %lu\n", 50 * M);
	put("cg/a/b/cgroup.event_control", "%s", "");
	b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M, .cgroup = at("cg/a/b")});
	assert_int_equal(stats(b).available, 462 * M);
	assert_non_null(strstr(stats(b).source, "threshold"));
	assert_non_null(strstr(stats(b).source, "cgroup v1"));
	add(b, &cache, "cache", BUDGET_CACHE, 1, 10 * M);
	wait_until(b, s.looks >= 1);

	control = open(at("cg/a/b/cgroup.event_control"), O_RDONLY);
	assert_true(read(control, text, sizeof(text) - 1) > 0);
	close(control);
	assert_int_equal(sscanf(text, "%d %d %llu", &event, &usage, &bytes), 3);
	assert_in_range(bytes, 512 * M - budget_watermarks(512 * M).low + 1, 512 * M - 1);
	put("cg/a/b/memory.usage_in_bytes", "%lu\n", 512 * M);
	put("cg/a/b/memory.stat", "total_inactive_file 0\n");
	assert_int_equal(write(event, &one, 8), 8);
	wait_until(b, s.shrinks[BUDGET_CAUSE_CGROUP] >= 1);
	assert_true(cache.held < 150 * M);
	budget_remove(cache.pool);
	budget_destroy(b);
}

static void expect_own(const char *mountinfo, const char *cgroup, const char *source,
		       uint64_t limit)
{
	struct budget_spec spec = {.proc = at("proc"), .floor = M, .ceiling = M};
	struct sense_place places[SENSE_PLACES];
	struct sense *s;
	char text[96];

	put("proc/self/mountinfo", "%s", mountinfo);
	put("proc/self/cgroup", "%s", cgroup);
	assert_int_equal(sense_open(&spec, &s), 0);
	sense_describe(s, text, sizeof(text));
	assert_non_null(strstr(text, source));
	assert_true(sense_read(s, places) >= 1);
	assert_int_equal(places[0].size, limit);
	sense_close(s);
}

static void test_the_own_cgroup_is_found(void **state)
{
	char mounts[512];

	group_v2("cg/a/b", "1048576", "max", 0, 0);
	put("cg/a/memory.limit_in_bytes", "2097152\n");
	put("cg/a/memory.usage_in_bytes", "0\n");
	snprintf(mounts, sizeof(mounts),
		 "22 1 0:20 / /proc rw - proc proc rw\n"
		 "30 1 0:21 / %s/cg rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
		 dir);
	expect_own(mounts, "0::/a/b\n", "cgroup v2", M);
	/* The own cgroup is the root of what is mounted: a container. */
	snprintf(mounts, sizeof(mounts), "30 1 0:21 /x/y %s/cg/a/b rw - cgroup2 cgroup2 rw\n", dir);
	expect_own(mounts, "0::/x/y\n", "cgroup v2", M);
	expect_own(mounts, "0::/\n", "cgroup v2", M);
	/* v1 where the memory controller is there. */
	snprintf(mounts, sizeof(mounts),
		 "29 1 0:22 / /none rw - cgroup2 cgroup2 rw\n"
		 "30 1 0:21 / %s/cg/cpu rw - cgroup cgroup rw,cpu\n"
		 "31 1 0:21 / %s/cg rw - cgroup cgroup rw,memory\n",
		 dir, dir);
	expect_own(mounts, "9:cpu:/\n4:memory:/a\n0::/\n", "cgroup v1", 2 * M);
	expect_own("", "", "no cgroup", 4096 * M);
}

/* --- loss --- */

static void test_what_the_kernel_took_is_not_filled_again_at_once(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct watermarks w = budget_watermarks(4096 * M);
	struct fake cache = {.held = 150 * M, .index = 2 * M, .loose = true};
	uint64_t no_room = 150 * M + w.low + M; /* for growth, that we may look in peace */
	struct budget_pool_stats ps;

	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	wait_until(b, s.looks >= 1);
	host_has(4096 * M, no_room);
	cache.lost = 100 * M;
	tell(b, "proc/pressure/memory");
	wait_until(b, s.shrinks[BUDGET_CAUSE_LOSS] == 1);
	assert_int_equal(cache.held, 50 * M);
	assert_int_equal(cache.target, 52 * M);
	assert_int_equal(stats(b).target, 52 * M);
	assert_int_equal(budget_pools(b, &ps, 1), 1);
	assert_int_equal(ps.purged_pages, 100 * M / 4096);
	wait_until(b, s.state == BUDGET_GROWING);
	host_has(4096 * M, 4096 * M);
	wait_until(b, s.target > 58 * M);
	/* Another loss: down again, and no growth meanwhile. */
	host_has(4096 * M, no_room);
	cache.lost = 20 * M;
	wait_until(b, s.shrinks[BUDGET_CAUSE_LOSS] == 2);
	assert_int_equal(cache.held, 30 * M);
	assert_in_range(stats(b).target, 32 * M, 33 * M);
	budget_remove(cache.pool);
	budget_destroy(b);
}

static void test_few_lost_pages_are_no_want(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct fake cache = {.held = 150 * M, .lost = 8192};

	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	tell(b, "proc/pressure/memory");
	assert_int_equal(cache.lost, 0);
	assert_int_equal(stats(b).target, 200 * M);
	budget_remove(cache.pool);
	budget_destroy(b);
}

static void test_growth_waits_for_room(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct watermarks w = budget_watermarks(4096 * M);
	struct fake cache = {.held = 150 * M};
	uint64_t target;

	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	host_has(4096 * M, 0);
	tell(b, "proc/pressure/memory");
	wait_until(b, s.target < s.ceiling);
	host_has(4096 * M, (w.low + w.high) / 2); /* neither short nor plenty */
	wait_until(b, s.state == BUDGET_GROWING);
	target = stats(b).target;
	expect_few_looks(b, 200, 160, 6); /* 10 ms, 20 ... 160 */
	assert_int_equal(stats(b).target, target);
	host_has(4096 * M, 4096 * M);
	wait_until(b, s.state == BUDGET_STEADY);
	budget_remove(cache.pool);
	budget_destroy(b);
}

/* --- commands --- */

static void test_a_lower_ceiling_holds_when_the_command_returns(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct fake spare = {.held = 20 * M}, cache = {.held = 150 * M};
	struct reason why = {""};

	add(b, &cache, "cache", BUDGET_CACHE, 9, 8 * M);
	add(b, &spare, "spare", BUDGET_SPARE, 1, 2 * M);
	assert_int_equal(budget_set(b, 10 * M, 50 * M, &why), 0);
	assert_true(cache.held + spare.held <= 50 * M);
	assert_int_equal(stats(b).target, 50 * M);
	assert_int_equal(stats(b).shrinks[BUDGET_CAUSE_COMMAND], 1);
	assert_true(stats(b).last_shrink_ns && stats(b).last_shrink_bytes >= 120 * M);
	/* With plenty of memory a higher one holds at once too. */
	assert_int_equal(budget_set(b, 10 * M, 300 * M, &why), 0);
	assert_int_equal(stats(b).target, 300 * M);
	assert_int_equal(budget_set(b, 0, 300 * M, &why), -EINVAL);
	assert_int_equal(budget_set(b, 400 * M, 300 * M, &why), -EINVAL);
	assert_int_equal(stats(b).ceiling, 300 * M);
	budget_remove(cache.pool);
	budget_remove(spare.pool);
	budget_destroy(b);
}

static void test_memory_is_given_back_by_command_the_cheapest_first(void **state)
{
	struct budget *b =
		make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M, .regrow_ms = 60000});
	struct fake spare = {.held = 10 * M}, cache = {.held = 100 * M}, tmem = {.held = 30 * M};

	add(b, &tmem, "tmem", BUDGET_TMEM, 4, 0);
	add(b, &spare, "spare", BUDGET_SPARE, 1, 2 * M);
	add(b, &cache, "cache", BUDGET_CACHE, 10, 8 * M);
	assert_int_equal(budget_shrink(b, 20 * M), 20 * M);
	assert_int_equal(spare.held, 2 * M);
	assert_int_equal(cache.held, 88 * M);
	assert_true(spare.order < cache.order);
	/* More than there is: down to the floors. */
	assert_int_equal(budget_shrink(b, 1000 * M), 110 * M);
	assert_int_equal(tmem.held, 0);
	assert_int_equal(cache.held, 8 * M);
	assert_true(cache.order < tmem.order);
	budget_remove(cache.pool);
	budget_remove(spare.pool);
	budget_remove(tmem.pool);
	budget_destroy(b);
}

static void test_promises_end_at_the_floor_and_are_set_aside(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct fake cache = {.held = 200 * M};
	struct reason why = {""};

	add(b, &cache, "cache", BUDGET_CACHE, 1, M);
	assert_int_equal(budget_reserve(b, 8 * M, "LUN 'a'", &why), 0);
	wait_until(b, cache.held == 192 * M);
	assert_int_equal(budget_reserve(b, 3 * M, "LUN 'b'", &why), -ENOSPC);
	assert_non_null(strstr(why.text, "LUN 'b'"));
	assert_int_equal(stats(b).reserved, 8 * M);
	assert_int_equal(budget_set(b, 7 * M, 200 * M, &why), -EBUSY);
	budget_release(b, 4 * M);
	assert_int_equal(budget_reserve(b, 3 * M, "LUN 'b'", &why), 0);
	assert_int_equal(budget_set(b, 7 * M, 200 * M, &why), 0);
	budget_remove(cache.pool);
	budget_destroy(b);
}

static void test_a_removed_pool_is_left_alone(void **state)
{
	struct budget *b = make((struct budget_spec){.floor = 10 * M, .ceiling = 200 * M});
	struct fake one = {.held = 50 * M}, two = {.held = 50 * M};
	unsigned uses;

	add(b, &one, "one", BUDGET_CACHE, 1, M);
	add(b, &two, "two", BUDGET_CACHE, 1, M);
	budget_remove(one.pool);
	uses = one.uses;
	budget_shrink(b, 300 * M);
	stats(b);
	assert_int_equal(one.uses, uses);
	assert_int_equal(one.held, 50 * M);
	assert_int_equal(two.held, 10 * M);
	budget_remove(two.pool);
	budget_destroy(b);
}

static void test_bad_bounds_and_defaults(void **state)
{
	struct budget_spec spec = {.floor = 2, .ceiling = 1};
	struct reason why = {""};
	struct budget *b;

	assert_int_equal(budget_create(&spec, &b, &why), -EINVAL);
	budget_defaults(&spec);
	assert_true(spec.floor && spec.floor <= spec.ceiling);
	assert_true(spec.floor == 64 * M || spec.floor == spec.ceiling);
}

/* --- everything at once --- */

struct storm {
	struct budget *b;
	_Atomic bool stop;
};

static void *storm_promises(void *arg)
{
	struct storm *s = arg;

	while (!s->stop)
		if (!budget_reserve(s->b, 64 << 10, "a LUN", NULL))
			budget_release(s->b, 64 << 10);
	return NULL;
}

static void *storm_pools(void *arg)
{
	struct storm *s = arg;

	while (!s->stop) {
		struct fake f = {.held = 20 * M, .lost = 2 * M};

		add(s->b, &f, "comes and goes", BUDGET_CACHE, 1, M);
		budget_remove(f.pool);
		stats(s->b);
	}
	return NULL;
}

static void test_everything_at_once(void **state)
{
	struct budget *b = make((struct budget_spec){
		.floor = 10 * M, .ceiling = 200 * M, .psi = at("own"), .regrow_ms = 60});
	struct fake cache = {.held = 150 * M};
	struct storm storm = {.b = b};
	pthread_t threads[3];

	add(b, &cache, "cache", BUDGET_CACHE, 1, 8 * M);
	pthread_create(&threads[0], NULL, storm_promises, &storm);
	pthread_create(&threads[1], NULL, storm_promises, &storm);
	pthread_create(&threads[2], NULL, storm_pools, &storm);
	for (unsigned i = 0; i < 200; i++) {
		tell(b, "own");
		budget_set(b, 10 * M, (100 + i % 100) * M, NULL);
		budget_shrink(b, M);
	}
	storm.stop = true;
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(stats(b).reserved, 0);
	wait_until(b, s.state == BUDGET_STEADY && s.target == 199 * M);
	budget_remove(cache.pool);
	budget_destroy(b);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shares_at_the_ceiling_and_ranks_below_it),
		cmocka_unit_test(test_shares_of_pools_that_need_little_go_to_others),
		TEST(test_without_pressure_the_target_is_the_ceiling_and_nothing_wakes),
		TEST(test_without_psi_it_looks_while_there_is_something_to_give),
		TEST(test_a_stall_of_others_is_a_reason_to_look_only),
		TEST(test_what_is_told_in_vain_all_the_time_is_looked_at_now_and_then),
		TEST(test_a_short_host_gets_what_is_missing_and_the_target_grows_again),
		TEST(test_own_volatile_pages_are_not_taken_for_free_memory),
		TEST(test_pressure_of_the_own_cgroup_leads_to_the_floor),
		TEST(test_pressure_at_the_floor_makes_the_looks_rarer),
		TEST(test_limits_of_a_v2_group_and_of_those_above_it_count),
		TEST(test_a_v1_group_tells_when_its_usage_comes_near_the_limit),
		TEST(test_the_own_cgroup_is_found),
		TEST(test_what_the_kernel_took_is_not_filled_again_at_once),
		TEST(test_few_lost_pages_are_no_want),
		TEST(test_growth_waits_for_room),
		TEST(test_a_lower_ceiling_holds_when_the_command_returns),
		TEST(test_memory_is_given_back_by_command_the_cheapest_first),
		TEST(test_promises_end_at_the_floor_and_are_set_aside),
		TEST(test_a_removed_pool_is_left_alone),
		TEST(test_bad_bounds_and_defaults),
		TEST(test_everything_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
