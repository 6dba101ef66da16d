/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a process that was killed leaves in its ring, and what the next one makes of it. */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "fake_tcmu.h"
#include "front/tcmu/tcmu_redo.h"
#include "front/tcmu/tcmu_ring.h"
#include "scsi_harness.h"

#define RING  (8192u - FAKE_CMDR_OFF)
#define DATA  (64u << 10)
#define BLOCK 512u

struct fixture {
	struct world *w;
	struct initiator *i;
	struct fake k;
	struct tcmu_ring r; /* the process that is killed */
	struct tcmu_channel next;
	uint16_t id[4];
	struct tcmu_entry e[4];
};

static const uint8_t tur[6];

/*
 * Takes a TEST UNIT READY, and three times COMPARE AND WRITE of zeros with 'a', 'b', 'c' in blocks
 * 1, 2, 3, each in two pieces.
 */
static int setup(void **state)
{
	static struct fixture f;
	const char *what;

	f.w = world_open(&(struct world_options){0});
	f.i = world_login(f.w, 0, "iqn.a");
	fake_open(&f.k, RING, DATA);
	assert_int_equal(tcmu_ring_init(&f.r, f.k.map, f.k.size, &what), 0);
	f.id[0] = fake_push(&f.k, tur, 6, NULL, 0);
	for (unsigned n = 1; n < 4; n++) {
		uint8_t cdb[16] = {SCSI_COMPARE_AND_WRITE, [9] = (uint8_t)n, [13] = 1};
		const size_t at = n * 8192u;
		const struct iovec iov[2] = {fake_iov(&f.k, at, 700),
					     fake_iov(&f.k, at + 4096, 2 * BLOCK - 700)};

		memset(fake_data(&f.k, at + BLOCK), 'a' + (int)n - 1, 700 - BLOCK);
		memset(fake_data(&f.k, at + 4096), 'a' + (int)n - 1, 2 * BLOCK - 700);
		f.id[n] = fake_push(&f.k, cdb, 16, iov, 2);
	}
	for (unsigned n = 0; n < 4; n++)
		assert_int_equal(tcmu_ring_take(&f.r, &f.e[n], &what), TCMU_TAKEN_CMD);
	f.next = fake_channel(&f.k);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	tcmu_kernel_close(&f->next);
	world_logout(f->i);
	world_close(f->w);
	fake_close(&f->k);
	return 0;
}

static void expect_redone(struct fixture *f, bool may_write, unsigned answered, unsigned left)
{
	struct tcmu_redone done = tcmu_redo(&f->next, f->w->lu, may_write);

	assert_null(done.what);
	assert_int_equal(done.answered, answered);
	assert_int_equal(done.left, left);
	fake_collect(&f->k); /* which fails if one is answered twice */
}

static void expect_answered(struct fixture *f, unsigned n)
{
	assert_true(f->k.responses[f->id[n]].there);
	assert_int_equal(f->k.responses[f->id[n]].status, SCSI_GOOD);
}

static void expect_block(struct fixture *f, uint8_t lba, int byte)
{
	uint8_t same[BLOCK];

	memset(same, byte, sizeof(same));
	send_cdb(f->i, CDB(0x28, 0, 0, 0, 0, lba, 0, 0, 1, 0), NULL, 0);
	expect_good(f->i);
	assert_memory_equal(f->i->r.data, same, sizeof(same));
}

static void what_has_no_mark_is_left_alone(void **state)
{
	struct fixture *f = *state;

	expect_redone(f, true, 0, 0);
	assert_int_equal(f->k.n_pending, 4);
	expect_block(f, 1, 0);
}

static void what_was_begun_is_written_and_what_is_done_is_not(void **state)
{
	struct fixture *f = *state;

	tcmu_ring_mark(&f->r, f->e[1].at, TCMU_MARK_BEGUN);
	tcmu_ring_mark(&f->r, f->e[3].at, TCMU_MARK_DONE);
	expect_redone(f, true, 2, 0);
	expect_answered(f, 1);
	expect_answered(f, 3);
	assert_int_equal(f->k.n_pending, 2);
	expect_block(f, 1, 'a');
	expect_block(f, 2, 0);
	expect_block(f, 3, 0);
	/* killed before it had the ring reset: the next finds nothing to do */
	expect_redone(f, true, 0, 0);
}

static void what_others_may_have_overwritten_is_not_written(void **state)
{
	struct fixture *f = *state;

	tcmu_ring_mark(&f->r, f->e[1].at, TCMU_MARK_BEGUN);
	tcmu_ring_mark(&f->r, f->e[2].at, TCMU_MARK_DONE);
	expect_redone(f, false, 1, 1);
	expect_answered(f, 2);
	expect_block(f, 1, 0);
}

/* Ends command @n in the ring of the process that is killed then, but does not get to its last
 * steps: the entry at @tail has the answer, and the tail has not moved. */
static void answer_halfway(struct fixture *f, unsigned n, bool own_mark_too)
{
	const struct tcmu_result res = {.id = f->id[n], .mark = TCMU_MARK_DONE, .at = f->e[n].at};
	uint32_t tail = f->r.tail;
	const char *what;

	tcmu_ring_mark(&f->r, f->e[n].at, TCMU_MARK_DONE);
	assert_int_equal(tcmu_ring_complete(&f->r, &res, &what), 0);
	fake_mailbox(&f->k)->cmd_tail = f->r.tail = tail;
	if (own_mark_too)
		tcmu_ring_mark(&f->r, f->e[n].at, TCMU_MARK_DONE);
}

static void an_answer_that_stands_in_two_entries_is_given_once(void **state)
{
	struct fixture *f = *state;

	answer_halfway(f, 2, true);
	tcmu_ring_mark(&f->r, f->e[3].at, TCMU_MARK_BEGUN);
	expect_redone(f, true, 2, 0);
	expect_answered(f, 2);
	expect_answered(f, 3);
	expect_block(f, 2, 0);
	expect_block(f, 3, 'c');
}

static void an_answer_that_stands_in_the_last_entry_alone_is_given(void **state)
{
	struct fixture *f = *state;

	answer_halfway(f, 2, false);
	expect_redone(f, true, 1, 0);
	expect_answered(f, 2);
	expect_block(f, 2, 0);
}

static void an_answer_that_was_given_is_not_given_again(void **state)
{
	struct fixture *f = *state;
	const struct tcmu_result res = {.id = f->id[1], .mark = TCMU_MARK_DONE, .at = f->e[1].at};
	const char *what;

	tcmu_ring_mark(&f->r, f->e[1].at, TCMU_MARK_DONE);
	assert_int_equal(tcmu_ring_complete(&f->r, &res, &what), 0);
	fake_collect(&f->k);
	expect_answered(f, 1);
	expect_redone(f, true, 0, 0);
}

static void a_mark_on_another_command_changes_nothing(void **state)
{
	struct fixture *f = *state;

	tcmu_ring_mark(&f->r, f->e[0].at, TCMU_MARK_BEGUN);
	expect_redone(f, true, 0, 1);
	assert_int_equal(f->k.n_pending, 4);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_has_no_mark_is_left_alone),
		T(what_was_begun_is_written_and_what_is_done_is_not),
		T(what_others_may_have_overwritten_is_not_written),
		T(an_answer_that_stands_in_two_entries_is_given_once),
		T(an_answer_that_stands_in_the_last_entry_alone_is_given),
		T(an_answer_that_was_given_is_not_given_again),
		T(a_mark_on_another_command_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
