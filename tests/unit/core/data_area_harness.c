// SPDX-License-Identifier: GPL-2.0-or-later
#include "data_area_harness.h"

#include <sched.h>

u64 test_seed;
_Thread_local u64 test_rnd = 1;

_Noreturn void test_failed(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: %s (seed %llu)\n", file, line, what, (unsigned long long)test_seed);
	abort();
}

static void *op_alloc(void *host_, size_t size)
{
	struct test_host *host = host_;
	u64 nr = __atomic_add_fetch(&host->allocs, 1, __ATOMIC_RELAXED);

	if (nr == host->fail_at)
		return NULL;
	__atomic_add_fetch(&host->meta_bytes, size, __ATOMIC_RELAXED);
	return calloc(1, size);
}

static void op_free(void *host_, void *p, size_t size)
{
	struct test_host *host = host_;

	__atomic_sub_fetch(&host->meta_bytes, size, __ATOMIC_RELAXED);
	free(p);
}

static bool refuses(struct test_area *area, u32 block)
{
	return block == area->refuse ||
	       (area->refuse_one_in && next_random(&test_rnd) % area->refuse_one_in == 0);
}

static u32 op_release(void *area_, u32 first, u32 n)
{
	struct test_area *area = area_;
	struct test_host *host = area->host;
	u32 freed = 0;

	REQUIRE(n && first < area->spec.max_blocks && n <= area->spec.max_blocks - first);
	REQUIRE(__atomic_load_n(&area->refs, __ATOMIC_RELAXED));
	if (host->on_release)
		host->on_release(host, area);
	for (u32 block = first + n; block-- > first && !refuses(area, block); freed++) {
		REQUIRE(!__atomic_load_n(&area->owner[block], __ATOMIC_RELAXED));
		REQUIRE(__atomic_exchange_n(&area->has[block], 0, __ATOMIC_RELAXED));
		__atomic_sub_fetch(&host->resident, area->spec.pages_per_block, __ATOMIC_RELAXED);
	}
	__atomic_add_fetch(&area->releases, 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(&area->released, freed, __ATOMIC_RELAXED);
	return freed;
}

static bool op_hold(void *area_)
{
	struct test_area *area = area_;
	u32 refs = __atomic_load_n(&area->refs, __ATOMIC_RELAXED);

	while (refs && !__atomic_compare_exchange_n(&area->refs, &refs, refs + 1, false,
						    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		;
	return refs;
}

static void op_put(void *area_)
{
	struct test_area *area = area_;

	REQUIRE(__atomic_sub_fetch(&area->refs, 1, __ATOMIC_RELEASE) < 1u << 30);
}

static void op_wake(void *area_)
{
	struct test_area *area = area_;

	__atomic_add_fetch(&area->wakes, 1, __ATOMIC_RELAXED);
	if (area->host->on_wake)
		area->host->on_wake(area->host, area);
}

static void op_serve_soon(void *host_)
{
	struct test_host *host = host_;

	__atomic_add_fetch(&host->serve_asked, 1, __ATOMIC_RELAXED);
}

static void op_tick_soon(void *host_)
{
	struct test_host *host = host_;

	__atomic_add_fetch(&host->tick_asked, 1, __ATOMIC_RELAXED);
}

static const struct data_area_ops ops = {
	.alloc = op_alloc,
	.free = op_free,
	.release = op_release,
	.hold = op_hold,
	.put = op_put,
	.wake = op_wake,
	.serve_soon = op_serve_soon,
	.tick_soon = op_tick_soon,
};

void host_open(struct test_host *host, u64 limit)
{
	struct data_budget_spec spec = {.ops = &ops, .host = host, .limit = limit};

	*host = (struct test_host){0};
	REQUIRE(data_budget_create(&spec, &host->b) == 0);
}

void host_close(struct test_host *host)
{
	struct data_budget_stats st = host_stats(host);

	REQUIRE(st.charged == 0 && st.reserved == 0 && st.areas == 0 && st.waiting == 0);
	REQUIRE(host->resident == 0);
	data_budget_destroy(host->b);
	REQUIRE(host->meta_bytes == 0);
}

int area_open(struct test_host *host, struct test_area *area, const struct data_area_spec *spec)
{
	int r;

	*area = (struct test_area){.host = host, .spec = *spec, .refs = 1, .refuse = NOTHING};
	area->has = calloc(spec->max_blocks, sizeof(*area->has));
	area->owner = calloc(spec->max_blocks, sizeof(*area->owner));
	REQUIRE(area->has && area->owner);
	r = data_area_create(host->b, spec, area, &area->a);
	if (r) {
		free(area->has);
		free(area->owner);
	}
	return r;
}

void area_close(struct test_area *area)
{
	u32 one = 1;

	while (!__atomic_compare_exchange_n(&area->refs, &one, 0, false, __ATOMIC_ACQUIRE,
					    __ATOMIC_RELAXED)) {
		one = 1;
		sched_yield();
	}
	for (u32 i = 0; i < area->spec.max_blocks; i++) {
		if (area->has[i])
			__atomic_sub_fetch(&area->host->resident, area->spec.pages_per_block,
					   __ATOMIC_RELAXED);
	}
	data_area_destroy(area->a);
	free(area->has);
	free(area->owner);
	area->a = NULL;
}

/* Pages are there from now on: the moment at which a limit would be exceeded. */
static void add_pages(struct test_host *host, u64 pages)
{
	u64 now = __atomic_add_fetch(&host->resident, pages, __ATOMIC_RELAXED);
	u64 most = __atomic_load_n(&host->most_resident, __ATOMIC_RELAXED);

	while (now > most && !__atomic_compare_exchange_n(&host->most_resident, &most, now, false,
							  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

int area_take(struct test_area *area, u32 n, u64 now, u32 owner, u32 *blocks)
{
	u32 reused = NOTHING;
	int r = data_area_take(area->a, n, now, blocks, &reused);

	if (r) {
		REQUIRE(reused == NOTHING);
		return r;
	}
	REQUIRE(reused <= n);
	for (u32 i = 0; i < n; i++) {
		u32 nobody = 0;

		REQUIRE(blocks[i] < area->spec.max_blocks);
		REQUIRE(i == 0 || i == reused || blocks[i] > blocks[i - 1]);
		/* Who else has it, or frees it, has not let go of it yet. */
		REQUIRE(__atomic_compare_exchange_n(&area->owner[blocks[i]], &nobody, owner, false,
						    __ATOMIC_RELAXED, __ATOMIC_RELAXED));
		if (i < reused) {
			REQUIRE(__atomic_load_n(&area->has[blocks[i]], __ATOMIC_RELAXED));
		} else {
			REQUIRE(!__atomic_exchange_n(&area->has[blocks[i]], 1, __ATOMIC_RELAXED));
			add_pages(area->host, area->spec.pages_per_block);
		}
	}
	return 0;
}

void area_put(struct test_area *area, const u32 *blocks, u32 n, u32 owner)
{
	for (u32 i = 0; i < n; i++) {
		u32 o = owner;

		REQUIRE(__atomic_load_n(&area->has[blocks[i]], __ATOMIC_RELAXED));
		REQUIRE(__atomic_compare_exchange_n(&area->owner[blocks[i]], &o, 0, false,
						    __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	}
	data_area_put(area->a, blocks, n);
}

struct data_area_stats area_stats(struct test_area *area)
{
	struct data_area_stats st;

	data_area_stats(area->a, &st);
	return st;
}

struct data_budget_stats host_stats(struct test_host *host)
{
	struct data_budget_stats st;

	data_budget_stats(host->b, &st);
	return st;
}
