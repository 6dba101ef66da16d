// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The data area against a naive model: random calls on a few areas that share a budget, and after
 * each call everything is compared.
 *
 * The model of an area is an array of states, searched from its ends. Of the budget it knows the
 * rules only: what is charged is the reserves, what is above them, and grants; grants exist only
 * while somebody waits or was told; the limit holds; a take fails for the budget only if what it
 * needs is more than there is room; who is told, and did not put anything itself, was the head of
 * the queue, and what it waited for works now.
 *
 * EBB_DATA_AREA_SEEDS: how many sequences (default 1000); EBB_DATA_AREA_SEED: only this one.
 */
#include "data_area_harness.h"

#include <string.h>

#define AREAS	4u
#define BLOCKS	150u /* more than two words */
#define STEPS	300u
#define IDLE_MS 1000u
#define ME	7u

struct model {
	struct test_area area; /* first: the core hands it out */
	bool open, told, putting, taking;
	bool full;    /* a take found too few blocks */
	bool joining; /* its reserve is waited for */
	u64 need;     /* pages it waits for */
	u32 want;     /* blocks of the take that waits; 0: none */
	u64 waiting;  /* order in which areas began to wait */
	enum data_area_state state[BLOCKS];
	u32 most_busy, most_resident;
	u64 last_used;
};

struct world {
	struct test_host host; /* first */
	struct model m[AREAS];
	u64 rnd, now, limit, waits;
	u64 opening;		     /* the reserve of an area that is being made */
	const struct model *calling; /* its call may be what ends its waiting */
	bool lowered;		     /* the limit was, and what is charged may still be above it */
};

static u32 pick(struct world *w, u32 n)
{
	return (u32)(next_random(&w->rnd) % n);
}

static u32 count_state(const struct model *m, enum data_area_state state)
{
	u32 n = 0;

	for (u32 i = 0; i < m->area.spec.max_blocks; i++)
		n += m->state[i] == state;
	return n;
}

static u32 resident(const struct model *m)
{
	return m->area.spec.max_blocks - count_state(m, DATA_AREA_EMPTY);
}

static u64 charge_of(const struct model *m, u32 blocks)
{
	const struct data_area_spec *spec = &m->area.spec;

	return (u64)(blocks > spec->reserve ? blocks : spec->reserve) * spec->pages_per_block;
}

static u64 reserves(struct world *w)
{
	u64 sum = w->opening;

	for (u32 i = 0; i < AREAS; i++)
		sum += w->m[i].open ? charge_of(&w->m[i], 0) : 0;
	return sum;
}

/* Whether @m could have @n blocks if all others had no more than their reserves. */
static bool possible(struct world *w, const struct model *m, u32 n)
{
	return !w->limit || reserves(w) - charge_of(m, 0) + charge_of(m, n) <= w->limit;
}

static void check_area(struct model *m)
{
	struct data_area_stats st = area_stats(&m->area);

	for (u32 i = 0; i < m->area.spec.max_blocks; i++)
		REQUIRE(data_area_state(m->area.a, i) == m->state[i]);
	REQUIRE(st.busy == count_state(m, DATA_AREA_BUSY));
	REQUIRE(st.cached == count_state(m, DATA_AREA_CACHED));
	REQUIRE(st.releasing == 0);
	REQUIRE(st.high_water == m->most_busy && st.resident_high == m->most_resident);
	REQUIRE(st.pages_returned == m->area.released * m->area.spec.pages_per_block);
}

static void check(struct world *w)
{
	struct data_budget_stats st = host_stats(&w->host);
	u64 charged = 0, pages = 0;
	bool anybody = false;

	for (u32 i = 0; i < AREAS; i++) {
		struct model *m = &w->m[i];

		if (!m->open)
			continue;
		check_area(m);
		charged += charge_of(m, resident(m));
		pages += (u64)resident(m) * m->area.spec.pages_per_block;
		anybody |= m->want || m->joining;
	}
	REQUIRE(w->host.resident == pages);
	REQUIRE(st.reserved == reserves(w));
	if (anybody) /* grants, and reserves that are waited for */
		REQUIRE(st.charged >= pages);
	else
		REQUIRE(st.charged == charged);
	if (w->limit && st.charged <= w->limit)
		w->lowered = false;
	REQUIRE(!w->limit || w->lowered || st.charged <= w->limit);
}

/* --- what happens inside of calls --- */

static void on_wake(struct test_host *host, void *area)
{
	struct world *w = (struct world *)host;
	struct model *m = area;

	if (m->taking)
		return; /* who is served tells others of its area, if there are any */
	if (!m->putting && !possible(w, m, m->want))
		m->want = 0; /* it has left the queue */
	if (m->full && m->want && !m->putting) {
		/* Because there are blocks, or because it is its turn: nobody can tell. */
		m->told = true;
		m->need = 0;
	}
	if (m->putting)
		m->full = false;
	if (m->putting || m->told || (!m->want && !m->joining))
		return;
	/* By the budget: nobody else waited for longer. */
	for (u32 i = 0; i < AREAS; i++) {
		const struct model *other = &w->m[i];

		if (other != w->calling && other->open && (other->want || other->joining) &&
		    !other->told)
			REQUIRE(other->waiting >= m->waiting);
	}
	m->told = m->want;
	m->joining = false;
}

/* The model follows what the harness was asked to free. */
static void follow_releases(struct world *w)
{
	for (u32 i = 0; i < AREAS; i++) {
		struct model *m = &w->m[i];

		for (u32 b = 0; m->open && b < m->area.spec.max_blocks; b++) {
			if (m->state[b] == DATA_AREA_EMPTY || m->area.has[b])
				continue;
			REQUIRE(m->state[b] == DATA_AREA_CACHED);
			m->state[b] = DATA_AREA_EMPTY;
		}
	}
}

/* --- the calls --- */

static void expect_lowest(struct model *m, const u32 *blocks, u32 n)
{
	u32 cached = count_state(m, DATA_AREA_CACHED), next = 0;

	for (u32 i = 0; i < n; i++) {
		enum data_area_state from = i < cached ? DATA_AREA_CACHED : DATA_AREA_EMPTY;

		if (i == cached)
			next = 0;
		while (m->state[next] != from)
			next++;
		REQUIRE(blocks[i] == next);
		next++;
	}
	for (u32 i = 0; i < n; i++)
		m->state[blocks[i]] = DATA_AREA_BUSY;
}

static int take(struct world *w, struct model *m, u32 n, u32 *blocks)
{
	u64 wakes = m->area.wakes;
	int r;

	m->taking = true;
	r = area_take(&m->area, n, w->now, ME, blocks);
	m->taking = false;
	REQUIRE(r || !m->want || m->area.wakes > wakes);
	return r;
}

static void do_take(struct world *w, struct model *m)
{
	u32 max = m->area.spec.max_blocks, blocks[BLOCKS + 1];
	u32 n = m->want && pick(w, 3) ? m->want : 1 + pick(w, pick(w, 4) ? 8 : max + 1);
	u32 cached = count_state(m, DATA_AREA_CACHED), busy = count_state(m, DATA_AREA_BUSY);
	u32 grow = n > cached ? n - cached : 0, now_resident = resident(m);
	u64 need = charge_of(m, now_resident + grow) - charge_of(m, now_resident);
	struct data_budget_stats st = host_stats(&w->host);
	bool fits = n <= max && grow <= max - now_resident, told;
	int r;

	told = m->told && need <= m->need;
	r = take(w, m, n, blocks);
	if (n > max || (grow && fits && !possible(w, m, n))) {
		REQUIRE(r == -E2BIG);
		if (n <= max)
			m->want = m->told = 0;
		return;
	}
	if (r == -ENOSPC) {
		REQUIRE(!told || !fits);
		m->full |= !fits;
		if (m->joining || !fits)
			return;
		REQUIRE((w->limit && st.charged + need > w->limit) || m->want);
		if (!m->want)
			m->waiting = ++w->waits;
		m->want = n;
		m->need = need;
		m->told = false;
		return;
	}
	REQUIRE(r == 0 && fits && (!m->joining || !grow));
	expect_lowest(m, blocks, n);
	m->want = m->told = m->full = 0;
	m->last_used = w->now;
	m->most_busy = busy + n > m->most_busy ? busy + n : m->most_busy;
	m->most_resident = resident(m) > m->most_resident ? resident(m) : m->most_resident;
}

/* Some busy blocks, in no order. */
static u32 pick_busy(struct world *w, struct model *m, u32 *blocks)
{
	u32 n = 0, max = m->area.spec.max_blocks, first = pick(w, max), share = 1 + pick(w, 3);

	for (u32 i = 0; i < max; i++) {
		u32 b = (first + i * 7) % max; /* max is no multiple of 7 */

		if (m->state[b] == DATA_AREA_BUSY && pick(w, share) == 0)
			blocks[n++] = b;
	}
	return n;
}

static void put(struct model *m, const u32 *blocks, u32 n)
{
	m->putting = true;
	area_put(&m->area, blocks, n, ME);
	m->putting = false;
	for (u32 i = 0; i < n; i++)
		m->state[blocks[i]] = DATA_AREA_CACHED;
}

static void do_put(struct world *w, struct model *m)
{
	u32 blocks[BLOCKS], n = pick_busy(w, m, blocks);

	put(m, blocks, n);
}

static void do_cancel(struct world *w, struct model *m)
{
	u32 blocks[BLOCKS], n = pick_busy(w, m, blocks);

	for (u32 i = 0; i < n; i++) {
		m->area.has[blocks[i]] = 0;
		m->area.owner[blocks[i]] = 0;
		m->state[blocks[i]] = DATA_AREA_EMPTY;
	}
	w->host.resident -= (u64)n * m->area.spec.pages_per_block;
	data_area_cancel(m->area.a, blocks, n);
}

static void do_open(struct world *w, struct model *m)
{
	static const u32 sizes[] = {1, 5, 64, 100, BLOCKS};
	struct data_area_spec spec = {
		.max_blocks = sizes[pick(w, 5)],
		.pages_per_block = 1 + pick(w, 3),
		.idle_ms = pick(w, 4) ? IDLE_MS : 0,
	};
	u64 before = reserves(w), pages;
	int r;

	spec.reserve = pick(w, spec.max_blocks + 1) / (1 + pick(w, 8));
	pages = (u64)spec.reserve * spec.pages_per_block;
	*m = (struct model){0};
	w->opening = pages;
	r = area_open(&w->host, &m->area, &spec);
	w->opening = 0;
	REQUIRE(r == (w->limit && before + pages > w->limit ? -ENOSPC : 0));
	if (r)
		return;
	m->open = true;
	m->joining = w->limit && pages && host_stats(&w->host).waiting;
	m->waiting = ++w->waits;
	if (pick(w, 3) == 0)
		m->area.refuse_one_in = 4;
}

static void do_close(struct world *w, struct model *m)
{
	(void)w;
	m->open = false;
	area_close(&m->area);
}

static void do_limit(struct world *w)
{
	u64 before = w->limit;
	int r;

	w->limit = pick(w, 6) ? 1 + pick(w, 400) : 0;
	r = data_budget_set_limit(w->host.b, w->limit);
	REQUIRE(r == (w->limit && w->limit < reserves(w) ? -EINVAL : 0));
	if (r)
		w->limit = before;
	else
		w->lowered = true;
}

static void do_shrink(struct world *w, struct model *m)
{
	u32 keep = pick(w, m->area.spec.max_blocks + 1), before = resident(m), after;
	u32 busy = count_state(m, DATA_AREA_BUSY);
	u64 freed = data_area_shrink(m->area.a, keep);

	follow_releases(w);
	after = resident(m);
	REQUIRE(freed == (u64)(before - after) * m->area.spec.pages_per_block);
	REQUIRE(after >= keep || after == before);
	if (!m->area.refuse_one_in)
		REQUIRE(after <= (keep > busy ? keep : busy));
}

static void do_tick(struct world *w)
{
	data_budget_tick(w->host.b, w->now);
	follow_releases(w);
	for (u32 i = 0; i < AREAS; i++) {
		struct model *m = &w->m[i];
		u32 floor;

		if (!m->open || !m->area.spec.idle_ms || m->area.refuse_one_in ||
		    w->now - m->last_used < IDLE_MS)
			continue;
		floor = m->area.spec.reserve > count_state(m, DATA_AREA_BUSY)
				? m->area.spec.reserve
				: count_state(m, DATA_AREA_BUSY);
		REQUIRE(resident(m) <= floor);
	}
}

static void do_pressure(struct world *w)
{
	u64 shrinkable = data_budget_shrinkable(w->host.b), want = 1 + pick(w, 200);
	u64 freed = data_budget_shrink(w->host.b, want);

	follow_releases(w);
	REQUIRE(freed <= shrinkable && freed < want + 3);
}

static void step(struct world *w)
{
	struct model *m = &w->m[pick(w, AREAS)];
	u32 what = pick(w, 100);

	w->calling = m;
	w->now += pick(w, 200) ? pick(w, 60) : 3 * IDLE_MS;
	if (!m->open)
		do_open(w, m);
	else if (what < 40)
		do_take(w, m);
	else if (what < 72)
		do_put(w, m);
	else if (what < 76)
		do_cancel(w, m);
	else if (what < 80)
		do_shrink(w, m);
	else if (what < 86)
		do_tick(w);
	else if (what < 89)
		do_pressure(w);
	else if (what < 90)
		do_limit(w);
	else if (what < 91)
		do_close(w, m);
	else if (what < 93) {
		data_area_stop_waiting(m->area.a);
		m->want = m->told = m->full = 0;
	} else {
		data_budget_serve(w->host.b);
	}
	follow_releases(w);
	check(w);
}

/* All that is busy is put: everybody who waits is served, one after the other. */
static void nobody_starves(struct world *w)
{
	for (u32 round = 0; round <= 2 * AREAS; round++) {
		for (u32 i = 0; i < AREAS; i++) {
			struct model *m = &w->m[i];
			u32 blocks[BLOCKS], n = 0;

			m->area.refuse_one_in = 0;
			for (u32 b = 0; m->open && b < m->area.spec.max_blocks; b++) {
				if (m->state[b] == DATA_AREA_BUSY)
					blocks[n++] = b;
			}
			if (m->open)
				put(m, blocks, n);
		}
		data_budget_serve(w->host.b);
		follow_releases(w);
		for (u32 i = 0; i < AREAS; i++) {
			struct model *m = &w->m[i];
			u32 blocks[BLOCKS + 1];

			if (!m->open || !m->want)
				continue;
			w->calling = m;
			if (take(w, m, m->want, blocks) == 0)
				expect_lowest(m, blocks, m->want);
			else if (host_stats(&w->host).waiting)
				continue;
			m->want = m->told = 0;
		}
	}
	for (u32 i = 0; i < AREAS; i++)
		REQUIRE(!w->m[i].open || !w->m[i].want);
	REQUIRE(host_stats(&w->host).waiting == 0);
}

static void run(u64 seed)
{
	static struct world w;

	w = (struct world){.rnd = seed * 0x9e3779b97f4a7c15ull + 1, .now = 100000};
	test_seed = test_rnd = seed;
	host_open(&w.host, 0);
	w.host.on_wake = on_wake;
	w.limit = pick(&w, 4) ? 20 + pick(&w, 300) : 0;
	REQUIRE(data_budget_set_limit(w.host.b, w.limit) == 0);
	for (u32 i = 0; i < STEPS; i++)
		step(&w);
	nobody_starves(&w);
	for (u32 i = 0; i < AREAS; i++) {
		if (w.m[i].open)
			do_close(&w, &w.m[i]);
	}
	host_close(&w.host);
}

static void random_calls_do_what_the_model_does(void **state)
{
	const char *seeds = getenv("EBB_DATA_AREA_SEEDS"), *seed = getenv("EBB_DATA_AREA_SEED");
	u64 n = seeds ? strtoull(seeds, NULL, 0) : 1000;

	(void)state;
	if (seed) {
		run(strtoull(seed, NULL, 0));
		return;
	}
	for (u64 i = 1; i <= n; i++) {
		if (i % 1000 == 0)
			fprintf(stderr, "seed %llu\n", (unsigned long long)i);
		run(i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_calls_do_what_the_model_does),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
