/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Does the model see what a broken server does, and only that?
 *
 * First small made-up histories, each with one fault. Then a simulated device: a right one, which
 * must never be accused whatever the interleaving, and mutants of it, each of which must be caught.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "model.h"

#define BLOCKS 4

static struct model *model;
static uint64_t initial[BLOCKS]; /* value of each block at the start of a test */

static struct model_op *begin(enum model_kind kind, size_t first, size_t count)
{
	return model_begin(model, kind, 0, first, count, NULL);
}

static struct model_op *begin_caw(size_t first, size_t count, const uint64_t *expected)
{
	return model_begin(model, MODEL_CAW, 1, first, count, expected);
}

static int read_one(size_t block, uint64_t value)
{
	return model_end_read(model, begin(MODEL_READ, block, 1), &value);
}

/* A write that is over before anything else begins; returns its value. */
static uint64_t write_now(size_t first, size_t count)
{
	struct model_op *op = begin(MODEL_WRITE, first, count);
	uint64_t value = model_op_value(op);

	assert_int_equal(model_end(model, op, MODEL_DONE), 0);
	return value;
}

static int setup(void **state)
{
	model = model_new(&(struct model_options){.blocks = BLOCKS, .atomic_reads = true});
	uint64_t value = write_now(0, BLOCKS);

	for (size_t i = 0; i < BLOCKS; i++)
		initial[i] = value;
	return 0;
}

static int teardown(void **state)
{
	model_free(model);
	return 0;
}

static void test_a_stale_read_is_seen(void **state)
{
	uint64_t value = write_now(1, 2);

	assert_int_equal(read_one(0, initial[0]), 0);
	assert_int_equal(read_one(1, value), 0);
	assert_int_equal(read_one(2, initial[2]), -EILSEQ);
	assert_non_null(strstr(model_report(model), "block 2"));
}

static void test_a_read_beside_a_write_may_see_both(void **state)
{
	struct model_op *w = begin(MODEL_WRITE, 0, 1);
	struct model_op *early = begin(MODEL_READ, 0, 1), *late = begin(MODEL_READ, 0, 1);
	uint64_t value = model_op_value(w);

	assert_int_equal(model_end_read(model, early, &value), 0);
	assert_int_equal(model_end(model, w, MODEL_DONE), 0);
	assert_int_equal(model_end_read(model, late, &initial[0]), 0);
	assert_int_equal(read_one(0, value), 0);
}

static void test_a_seen_write_cannot_be_unseen(void **state)
{
	struct model_op *w = begin(MODEL_WRITE, 0, 1);

	assert_int_equal(read_one(0, initial[0]), 0);
	assert_int_equal(read_one(0, model_op_value(w)), 0);
	assert_int_equal(read_one(0, initial[0]), -EILSEQ);
}

static void test_concurrent_writes_settle_once(void **state)
{
	struct model_op *a = begin(MODEL_WRITE, 0, 1), *b = begin(MODEL_WRITE, 0, 1);
	uint64_t va = model_op_value(a), vb = model_op_value(b);

	model_end(model, a, MODEL_DONE);
	model_end(model, b, MODEL_DONE);
	assert_int_equal(model_possible(model, 0), 2);
	assert_int_equal(read_one(0, va), 0);
	assert_int_equal(model_possible(model, 0), 1);
	assert_int_equal(read_one(0, vb), -EILSEQ);
}

static void test_a_block_that_no_write_made_is_seen(void **state)
{
	begin(MODEL_WRITE, 0, 1);
	assert_int_equal(read_one(0, MODEL_VALUE_TORN), -EILSEQ);
}

static void test_a_torn_read_is_excused_only_beside_a_write(void **state)
{
	model_free(model);
	model = model_new(&(struct model_options){.blocks = BLOCKS, .torn_reads = true});
	write_now(0, BLOCKS);
	struct model_op *w = begin(MODEL_WRITE, 0, 1), *r = begin(MODEL_READ, 0, 1);
	uint64_t torn = MODEL_VALUE_TORN;

	assert_int_equal(model_end(model, w, MODEL_DONE), 0);
	assert_int_equal(model_end_read(model, r, &torn), 0);
	assert_int_equal(read_one(0, MODEL_VALUE_TORN), -EILSEQ);
}

static void test_an_unmap_may_keep_or_zero_but_not_both(void **state)
{
	model_end(model, begin(MODEL_MAY_ZERO, 0, 2), MODEL_DONE);
	assert_int_equal(read_one(0, MODEL_VALUE_ZERO), 0);
	assert_int_equal(read_one(1, initial[1]), 0);
	assert_int_equal(read_one(1, initial[1]), 0);
	assert_int_equal(read_one(0, initial[0]), -EILSEQ);
}

static void test_an_unmap_that_was_seen_not_to_zero_cannot_zero_later(void **state)
{
	model_end(model, begin(MODEL_MAY_ZERO, 0, 2), MODEL_DONE);
	assert_int_equal(read_one(1, initial[1]), 0);
	assert_int_equal(read_one(1, MODEL_VALUE_ZERO), -EILSEQ);
}

static void test_an_unknown_write_may_be_there_or_not(void **state)
{
	struct model_op *a = begin(MODEL_WRITE, 0, 2);
	uint64_t va = model_op_value(a);

	model_end(model, a, MODEL_UNKNOWN);
	assert_int_equal(read_one(0, va), 0);
	assert_int_equal(read_one(1, initial[1]), 0);
	assert_int_equal(read_one(1, va), -EILSEQ);
}

static void test_a_refused_write_must_not_be_seen(void **state)
{
	struct model_op *a = begin(MODEL_WRITE, 0, 1), *b = begin(MODEL_WRITE, 1, 1);
	uint64_t va = model_op_value(a), vb = model_op_value(b);

	assert_int_equal(read_one(1, vb), 0);
	assert_int_equal(model_end(model, a, MODEL_REFUSED), 0);
	assert_int_equal(model_end(model, b, MODEL_REFUSED), -EILSEQ);
	assert_int_equal(read_one(0, va), -EILSEQ);
}

static void test_a_caw_on_a_wrong_value_must_not_succeed(void **state)
{
	uint64_t old = initial[0];

	write_now(0, 1);
	assert_int_equal(model_end(model, begin_caw(0, 1, &old), MODEL_DONE), -EILSEQ);
}

static void test_two_caws_cannot_replace_one_value(void **state)
{
	struct model_op *a = begin_caw(0, 1, &initial[0]), *b = begin_caw(0, 1, &initial[0]);

	assert_int_equal(model_end(model, a, MODEL_DONE), 0);
	assert_int_equal(model_end(model, b, MODEL_DONE), -EILSEQ);
	assert_non_null(strstr(model_report(model), "two CAWs"));
}

static void test_a_caw_that_loses_a_race_may_miscompare(void **state)
{
	struct model_op *a = begin_caw(0, 1, &initial[0]), *b = begin_caw(0, 1, &initial[0]);

	assert_int_equal(model_end(model, a, MODEL_DONE), 0);
	assert_int_equal(model_end_miscompare(model, b), 0);
}

static void test_a_miscompare_without_cause_is_seen(void **state)
{
	write_now(2, 1);
	assert_int_equal(model_end_miscompare(model, begin_caw(0, 2, initial)), -EILSEQ);
}

static void test_a_torn_caw_is_seen(void **state)
{
	struct model_op *a = begin_caw(0, 2, initial), *r = begin(MODEL_READ, 0, 3);
	uint64_t values[3] = {model_op_value(a), initial[1], initial[2]};

	assert_int_equal(model_end_read(model, r, values), -EILSEQ);
	assert_non_null(strstr(model_report(model), "torn"));
}

static void test_a_caw_half_done_is_seen_after_its_end(void **state)
{
	struct model_op *a = begin_caw(0, 2, initial);
	uint64_t va = model_op_value(a);

	assert_int_equal(model_end(model, a, MODEL_DONE), 0);
	assert_int_equal(read_one(0, va), 0);
	assert_int_equal(read_one(1, initial[1]), -EILSEQ);
}

static void test_a_write_beside_a_successful_caw_comes_after_it(void **state)
{
	struct model_op *w = begin(MODEL_WRITE, 0, 1), *a = begin_caw(0, 1, &initial[0]);
	uint64_t va = model_op_value(a);

	model_end(model, w, MODEL_DONE);
	assert_int_equal(model_end(model, a, MODEL_DONE), 0);
	assert_int_equal(read_one(0, va), -EILSEQ);
}

static void test_a_write_sent_again_may_come_back(void **state)
{
	struct model_op *w = begin(MODEL_WRITE, 0, 1);
	uint64_t vw = model_op_value(w);
	struct model_op *a = begin_caw(0, 1, &vw);
	uint64_t va = model_op_value(a);

	assert_int_equal(model_end(model, a, MODEL_DONE), 0);
	assert_int_equal(read_one(0, va), 0);
	assert_true(model_retry(model, w));
	assert_int_equal(read_one(0, vw), 0);
	assert_int_equal(model_end(model, w, MODEL_DONE), 0);
	assert_int_equal(read_one(0, vw), 0);
}

/* ---- the simulated device ---- */

enum mutant {
	RIGHT,
	STALE_READ,
	LOST_WRITE,
	TORN_CAW,
	BLIND_CAW,
	SHY_CAW,
	TORN_BLOCK,
	UNMAP_COMES_BACK
};

#define SIM_BLOCKS    8
#define SIM_DEPTH_MAX 12

struct sim_op {
	struct model_op *op;
	enum model_kind kind;
	size_t first, count;
	uint64_t expected[SIM_BLOCKS];
	uint64_t seen[SIM_BLOCKS];
	size_t next; /* a plain read or write does its blocks one by one */
	bool applied, matched;
};

struct sim {
	struct model *m;
	enum mutant mutant;
	bool atomic_reads;
	unsigned depth; /* operations in flight */
	uint32_t random;
	uint64_t now[SIM_BLOCKS], before[SIM_BLOCKS];
	struct sim_op ops[SIM_DEPTH_MAX];
};

static uint32_t roll(struct sim *s, uint32_t sides)
{
	s->random = s->random * 1664525u + 1013904223u;
	return (s->random >> 8) % sides;
}

static bool misbehaves(struct sim *s, enum mutant mutant)
{
	return s->mutant == mutant && roll(s, 10) == 0;
}

static void sim_begin(struct sim *s, struct sim_op *o)
{
	memset(o, 0, sizeof(*o));
	enum model_kind by;

	o->kind = (enum model_kind)roll(s, MODEL_CAW + 1);
	o->first = roll(s, SIM_BLOCKS);
	o->count = 1 + roll(s, SIM_BLOCKS - (uint32_t)o->first);
	for (size_t i = 0; i < o->count; i++)
		if (!model_guess(s->m, o->first + i, &o->expected[i], &by))
			o->expected[i] = MODEL_VALUE_ZERO;
	o->op = model_begin(s->m, o->kind, roll(s, 3), o->first, o->count, o->expected);
}

static void sim_store(struct sim *s, size_t block, uint64_t value)
{
	if (misbehaves(s, LOST_WRITE))
		return;
	s->before[block] = s->now[block];
	s->now[block] = value;
}

static void sim_swap(struct sim *s, struct sim_op *o)
{
	o->matched = !misbehaves(s, SHY_CAW);
	for (size_t i = 0; i < o->count; i++)
		o->matched = o->matched && s->now[o->first + i] == o->expected[i];
	if (misbehaves(s, BLIND_CAW))
		o->matched = true;
	size_t n = !o->matched ? 0 : misbehaves(s, TORN_CAW) ? o->count / 2 : o->count;

	for (size_t i = 0; i < n; i++)
		sim_store(s, o->first + i, model_op_value(o->op));
}

static void sim_block(struct sim *s, struct sim_op *o, size_t i)
{
	size_t b = o->first + i;

	if (o->kind == MODEL_READ)
		o->seen[i] = misbehaves(s, STALE_READ)	 ? s->before[b]
			     : misbehaves(s, TORN_BLOCK) ? MODEL_VALUE_TORN
							 : s->now[b];
	else if (o->kind != MODEL_MAY_ZERO || roll(s, 2))
		sim_store(s, b, model_op_value(o->op));
	else if (misbehaves(s, UNMAP_COMES_BACK))
		sim_store(s, b, s->before[b]);
}

/* Some progress of one operation: all at once for what is atomic, a block for what is not. */
static void sim_step(struct sim *s, struct sim_op *o)
{
	bool whole = o->kind == MODEL_ATOMIC || (o->kind == MODEL_READ && s->atomic_reads);

	if (o->kind == MODEL_CAW) {
		sim_swap(s, o);
		o->next = o->count;
	}
	do {
		if (o->next < o->count)
			sim_block(s, o, o->next++);
	} while (whole && o->next < o->count);
	o->applied = o->next == o->count;
}

static int sim_end(struct sim *s, struct sim_op *o)
{
	struct model_op *op = o->op;

	o->op = NULL;
	if (o->kind == MODEL_READ)
		return model_end_read(s->m, op, o->seen);
	if (o->kind == MODEL_CAW && !o->matched)
		return model_end_miscompare(s->m, op);
	return model_end(s->m, op, MODEL_DONE);
}

/* Runs until the model complains; returns whether it did. */
static bool sim_run(enum mutant mutant, bool atomic_reads, unsigned depth, uint32_t seed)
{
	struct sim s = {
		.mutant = mutant, .atomic_reads = atomic_reads, .depth = depth, .random = seed};
	int r;

	s.m = model_new(
		&(struct model_options){.blocks = SIM_BLOCKS, .atomic_reads = atomic_reads});
	r = model_end(s.m, model_begin(s.m, MODEL_ZERO, 0, 0, SIM_BLOCKS, NULL), MODEL_DONE);
	for (unsigned step = 0; step < 20000 && !r; step++) {
		struct sim_op *o = &s.ops[roll(&s, depth)];

		if (!o->op)
			sim_begin(&s, o);
		else if (!o->applied)
			sim_step(&s, o);
		else
			r = sim_end(&s, o);
	}
	if (r && mutant == RIGHT)
		fprintf(stderr, "%s\n", model_report(s.m));
	model_free(s.m);
	return r != 0;
}

static void test_a_right_device_is_never_accused(void **state)
{
	for (uint32_t seed = 1; seed <= 60; seed++) {
		unsigned depth = 1 + seed % SIM_DEPTH_MAX;

		assert_false(sim_run(RIGHT, false, depth, seed));
		assert_false(sim_run(RIGHT, true, depth, seed));
	}
}

static void test_every_mutant_is_caught(void **state)
{
	for (int mutant = STALE_READ; mutant <= UNMAP_COMES_BACK; mutant++)
		for (uint32_t seed = 1; seed <= 10; seed++)
			if (!sim_run((enum mutant)mutant, false, 2 + seed % 3, seed))
				fail_msg("mutant %d lives with seed %u", mutant, seed);
}

int main(void)
{
#define HISTORY(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		HISTORY(test_a_stale_read_is_seen),
		HISTORY(test_a_read_beside_a_write_may_see_both),
		HISTORY(test_a_seen_write_cannot_be_unseen),
		HISTORY(test_concurrent_writes_settle_once),
		HISTORY(test_a_block_that_no_write_made_is_seen),
		HISTORY(test_a_torn_read_is_excused_only_beside_a_write),
		HISTORY(test_an_unmap_may_keep_or_zero_but_not_both),
		HISTORY(test_an_unmap_that_was_seen_not_to_zero_cannot_zero_later),
		HISTORY(test_an_unknown_write_may_be_there_or_not),
		HISTORY(test_a_refused_write_must_not_be_seen),
		HISTORY(test_a_caw_on_a_wrong_value_must_not_succeed),
		HISTORY(test_two_caws_cannot_replace_one_value),
		HISTORY(test_a_caw_that_loses_a_race_may_miscompare),
		HISTORY(test_a_miscompare_without_cause_is_seen),
		HISTORY(test_a_torn_caw_is_seen),
		HISTORY(test_a_caw_half_done_is_seen_after_its_end),
		HISTORY(test_a_write_beside_a_successful_caw_comes_after_it),
		HISTORY(test_a_write_sent_again_may_come_back),
		cmocka_unit_test(test_a_right_device_is_never_accused),
		cmocka_unit_test(test_every_mutant_is_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
