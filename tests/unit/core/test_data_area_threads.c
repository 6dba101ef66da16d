// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Threads that take from areas whose budget is far too small for all of them, threads that put what
 * they took, a worker that serves, ticks, shrinks and moves the limit, and one that makes and
 * destroys areas. The harness checks at each step that a block has one owner, that a release never
 * meets one that has, and how many pages there are at once. Who finds nothing waits for its wake,
 * without a time limit: one that is lost, or somebody who starves, hangs the test.
 *
 * EBB_DATA_AREA_OPS: takes of each taker.
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "data_area_harness.h"

#define AREAS	  6u
#define TAKERS	  3u
#define PUTTERS	  2u
#define MAX_TAKE  12u
#define IN_FLIGHT 8u /* takes of an area that have not been put */
#define LIMIT_LOW 64u
#define LIMIT	  96u
#define IDLE_MS	  3u

struct flight {
	u32 n, owner, blocks[MAX_TAKE];
};

struct place {
	struct test_area area; /* first: the core hands it out */
	pthread_mutex_t taker; /* one at a time */
	pthread_mutex_t lock;
	pthread_cond_t woken, landed;
	/* under lock */
	u64 wakes;
	struct flight flights[IN_FLIGHT];
	u32 n_flights;
};

struct world {
	struct test_host host; /* first */
	struct place places[AREAS];
	u64 ops;
	bool quiet;		/* nothing happens but what somebody asked for */
	bool stop, takers_done; /* atomic */
	u64 waits;		/* atomic */
};

static struct world w;

static u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000 + (u64)ts.tv_nsec / 1000000;
}

static bool is_set(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

static void on_wake(struct test_host *host, void *area)
{
	struct place *p = area;

	(void)host;
	if (p < w.places || p >= w.places + AREAS)
		return; /* one that comes and goes: it does not wait */
	pthread_mutex_lock(&p->lock);
	p->wakes++;
	pthread_cond_broadcast(&p->woken);
	pthread_mutex_unlock(&p->lock);
}

/* Takes, however long it takes. */
static void take(struct place *p, struct flight *f)
{
	for (;;) {
		u64 seen;
		int r;

		pthread_mutex_lock(&p->lock);
		seen = p->wakes;
		pthread_mutex_unlock(&p->lock);
		r = area_take(&p->area, f->n, now_ms(), f->owner, f->blocks);
		if (!r)
			return;
		REQUIRE(r == -ENOSPC);
		__atomic_add_fetch(&w.waits, 1, __ATOMIC_RELAXED);
		pthread_mutex_lock(&p->lock);
		while (p->wakes == seen)
			pthread_cond_wait(&p->woken, &p->lock);
		pthread_mutex_unlock(&p->lock);
	}
}

static void *taker(void *arg)
{
	u64 rnd = 1000 + (u64)(uintptr_t)arg, hot = 0;

	for (u64 i = 0; i < w.ops; i++) {
		struct place *p;
		struct flight f = {.n = 1 + (u32)(next_random(&rnd) % MAX_TAKE),
				   .owner = 1 + (u32)(uintptr_t)arg};

		if (i % 64 == 0)
			hot = next_random(&rnd) % AREAS;
		p = &w.places[i % 4 ? hot : next_random(&rnd) % AREAS];
		pthread_mutex_lock(&p->taker);
		pthread_mutex_lock(&p->lock);
		while (p->n_flights == IN_FLIGHT)
			pthread_cond_wait(&p->landed, &p->lock);
		pthread_mutex_unlock(&p->lock);
		take(p, &f);
		pthread_mutex_lock(&p->lock);
		p->flights[p->n_flights++] = f;
		pthread_mutex_unlock(&p->lock);
		pthread_mutex_unlock(&p->taker);
	}
	return NULL;
}

/* Puts one of what @p has in flight. */
static bool land(struct place *p, u64 *rnd)
{
	struct flight f;
	u32 which;

	pthread_mutex_lock(&p->lock);
	if (!p->n_flights) {
		pthread_mutex_unlock(&p->lock);
		return false;
	}
	which = (u32)(next_random(rnd) % p->n_flights);
	f = p->flights[which];
	p->flights[which] = p->flights[--p->n_flights];
	pthread_cond_broadcast(&p->landed);
	pthread_mutex_unlock(&p->lock);
	area_put(&p->area, f.blocks, f.n, f.owner);
	return true;
}

static void *putter(void *arg)
{
	u64 rnd = 2000 + (u64)(uintptr_t)arg;

	while (!is_set(&w.takers_done)) {
		if (!land(&w.places[next_random(&rnd) % AREAS], &rnd))
			sched_yield();
	}
	for (u32 i = 0; i < AREAS; i++) {
		while (land(&w.places[i], &rnd))
			;
	}
	return NULL;
}

/* What a module's work items do, and an operator, and the kernel short of memory. */
static void *worker(void *arg)
{
	u64 rnd = 3000, served = 0;

	(void)arg;
	while (!is_set(&w.stop)) {
		u64 asked = __atomic_load_n(&w.host.serve_asked, __ATOMIC_RELAXED);

		if (asked != served)
			data_budget_serve(w.host.b);
		served = asked;
		sched_yield();
		if (w.quiet)
			continue;
		switch (next_random(&rnd) % 64) {
		case 0:
			REQUIRE(data_budget_set_limit(w.host.b, LIMIT_LOW) == 0);
			break;
		case 1:
			REQUIRE(data_budget_set_limit(w.host.b, LIMIT) == 0);
			break;
		case 2:
			data_budget_shrink(w.host.b, 1 + next_random(&rnd) % 20);
			break;
		case 3:
			data_area_shrink(w.places[next_random(&rnd) % AREAS].area.a, 2);
			break;
		default:
			data_budget_tick(w.host.b, now_ms());
		}
	}
	return NULL;
}

static void *comer_and_goer(void *arg)
{
	struct data_area_spec spec = {
		.max_blocks = 5000, .pages_per_block = 1, .reserve = 2, .idle_ms = IDLE_MS};
	static struct test_area area;
	u32 blocks[MAX_TAKE];

	(void)arg;
	while (!is_set(&w.stop)) {
		REQUIRE(area_open(&w.host, &area, &spec) == 0);
		for (u32 i = 0; i < 20; i++) {
			if (area_take(&area, MAX_TAKE / 2, now_ms(), 99, blocks) == 0)
				area_put(&area, blocks, MAX_TAKE / 2, 99);
			else if (i % 2)
				data_area_stop_waiting(area.a);
			sched_yield();
		}
		area_close(&area);
	}
	return NULL;
}

static void open_places(void)
{
	for (u32 i = 0; i < AREAS; i++) {
		struct place *p = &w.places[i];
		struct data_area_spec spec = {
			.max_blocks = i == 0 ? 40 : 1000,
			.pages_per_block = 1,
			.reserve = i % 2 ? 4 : 0, /* less than what is taken: they need the queue */
			.idle_ms = i == 1 ? 0 : IDLE_MS,
		};

		REQUIRE(area_open(&w.host, &p->area, &spec) == 0);
		if (i == 3 && !w.quiet)
			p->area.refuse_one_in = 8;
		pthread_mutex_init(&p->taker, NULL);
		pthread_mutex_init(&p->lock, NULL);
		pthread_cond_init(&p->woken, NULL);
		pthread_cond_init(&p->landed, NULL);
	}
}

static void close_places(void)
{
	for (u32 i = 0; i < AREAS; i++) {
		struct place *p = &w.places[i];

		REQUIRE(area_stats(&p->area).busy == 0);
		area_close(&p->area);
		pthread_mutex_destroy(&p->taker);
		pthread_mutex_destroy(&p->lock);
		pthread_cond_destroy(&p->woken);
		pthread_cond_destroy(&p->landed);
	}
}

static void run(bool quiet)
{
	pthread_t takers[TAKERS], putters[PUTTERS], other[2];
	const char *ops = getenv("EBB_DATA_AREA_OPS");

	memset(&w, 0, sizeof(w));
	w.quiet = quiet;
	w.ops = ops ? strtoull(ops, NULL, 0) : 10000;
	host_open(&w.host, LIMIT);
	w.host.on_wake = on_wake;
	open_places();
	for (uintptr_t i = 0; i < TAKERS; i++)
		REQUIRE(pthread_create(&takers[i], NULL, taker, (void *)i) == 0);
	for (uintptr_t i = 0; i < PUTTERS; i++)
		REQUIRE(pthread_create(&putters[i], NULL, putter, (void *)i) == 0);
	REQUIRE(pthread_create(&other[0], NULL, worker, NULL) == 0);
	REQUIRE(pthread_create(&other[1], NULL, comer_and_goer, NULL) == 0);
	for (u32 i = 0; i < TAKERS; i++)
		pthread_join(takers[i], NULL);
	__atomic_store_n(&w.takers_done, true, __ATOMIC_RELEASE);
	for (u32 i = 0; i < PUTTERS; i++)
		pthread_join(putters[i], NULL);
	__atomic_store_n(&w.stop, true, __ATOMIC_RELEASE);
	for (u32 i = 0; i < 2; i++)
		pthread_join(other[i], NULL);
	REQUIRE(w.host.most_resident <= LIMIT);
	REQUIRE(w.waits); /* else this was no test */
	close_places();
	host_close(&w.host);
}

static void threads_share_a_small_budget(void **state)
{
	(void)state;
	run(false);
}

/* Whoever waits is helped by what is done for him alone: no tick comes to the rescue. */
static void no_call_for_help_is_lost(void **state)
{
	(void)state;
	run(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_share_a_small_budget),
		cmocka_unit_test(no_call_for_help_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
