/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>

#include "fake_tcmu.h"
#include "front/tcmu/tcmu_ring.h"

#define RING (4096u - FAKE_CMDR_OFF)
#define DATA (64u << 10)

struct fixture {
	struct fake k;
	struct tcmu_ring r;
};

static const uint8_t tur[6];

static int setup(void **state)
{
	static struct fixture f;
	const char *what;

	fake_open(&f.k, RING, DATA);
	assert_int_equal(tcmu_ring_init(&f.r, f.k.map, f.k.size, &what), 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fake_close(&((struct fixture *)*state)->k);
	return 0;
}

static int take(struct fixture *f, struct tcmu_entry *e)
{
	const char *what = NULL;
	int got = tcmu_ring_take(&f->r, e, &what);

	assert_int_equal(got < 0, what != NULL);
	return got;
}

static void take_command(struct fixture *f, struct tcmu_entry *e)
{
	assert_int_equal(take(f, e), TCMU_TAKEN_CMD);
}

static int end(struct fixture *f, uint16_t id, uint8_t status)
{
	const struct tcmu_result res = {.id = id, .status = status};
	const char *what = NULL;
	int err = tcmu_ring_complete(&f->r, &res, &what);

	assert_int_equal(err < 0, what != NULL);
	return err;
}

static struct tcmu_cmd_entry *entry(struct fixture *f, uint32_t off)
{
	return (void *)(f->k.map + FAKE_CMDR_OFF + off);
}

static void a_mailbox_that_is_none_is_refused(void **state)
{
	struct fixture *f = *state;
	struct tcmu_mailbox *mb = fake_mailbox(&f->k), good = *mb;
	const char *what;

	mb->version = 1;
	assert_int_equal(tcmu_ring_init(&f->r, f->k.map, f->k.size, &what), -EPROTO);
	*mb = good;
	mb->flags = 0;
	assert_int_equal(tcmu_ring_init(&f->r, f->k.map, f->k.size, &what), -EPROTO);
	*mb = good;
	mb->cmdr_size = (uint32_t)f->k.size;
	assert_int_equal(tcmu_ring_init(&f->r, f->k.map, f->k.size, &what), -EPROTO);
	*mb = good;
	mb->cmdr_off = 8;
	assert_int_equal(tcmu_ring_init(&f->r, f->k.map, f->k.size, &what), -EPROTO);
	*mb = good;
	mb->cmd_tail = RING;
	assert_int_equal(tcmu_ring_init(&f->r, f->k.map, f->k.size, &what), -EPROTO);
	assert_int_equal(tcmu_ring_init(&f->r, f->k.map, 8, &what), -EPROTO);
}

static void a_command_is_copied_whole(void **state)
{
	struct fixture *f = *state;
	const uint8_t cdb[16] = {0x8a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	const struct iovec in[3] = {fake_iov(&f->k, 0, 4096), fake_iov(&f->k, 4096, 4096),
				    fake_iov(&f->k, 16384, 512)};
	struct iovec iov[3];
	struct tcmu_entry e;
	const char *what;
	uint32_t total;
	uint16_t id;

	assert_false(tcmu_ring_ready(&f->r));
	assert_int_equal(take(f, &e), TCMU_TAKEN_NONE);
	id = fake_push(&f->k, cdb, 16, in, 3);
	assert_true(tcmu_ring_ready(&f->r));
	take_command(f, &e);
	assert_int_equal(e.id, id);
	assert_int_equal(e.cdb_len, 16);
	assert_memory_equal(e.cdb, cdb, 16);
	assert_int_equal(e.n_iov, 3);
	/* neighbours are one piece */
	assert_int_equal(tcmu_ring_iovs(&f->r, &e, iov, &total, &what), 2);
	assert_int_equal(total, 8704);
	assert_ptr_equal(iov[0].iov_base, f->k.map + f->k.data_off);
	assert_int_equal(iov[0].iov_len, 8192);
	assert_int_equal(iov[1].iov_len, 512);
	assert_false(tcmu_ring_ready(&f->r));
}

static void cdbs_have_the_length_their_first_bytes_say(void **state)
{
	struct fixture *f = *state;
	const struct {
		uint8_t op, additional;
		unsigned len;
	} cdbs[] = {{0x12, 0, 6},  {0x28, 0, 10},  {0x5e, 0, 10},    {0xa8, 0, 12},
		    {0x88, 0, 16}, {0x7f, 24, 32}, {0x7f, 252, 260}, {0x7f, 0, 8}};

	for (size_t i = 0; i < sizeof(cdbs) / sizeof(cdbs[0]); i++) {
		uint8_t cdb[260] = {cdbs[i].op, [7] = cdbs[i].additional};
		struct tcmu_entry e;

		fake_push(&f->k, cdb, sizeof(cdb), NULL, 0);
		take_command(f, &e);
		assert_int_equal(e.cdb_len, cdbs[i].len);
		assert_int_equal(end(f, e.id, 0), 0);
		fake_collect(&f->k);
	}
}

static void commands_end_in_any_order(void **state)
{
	struct fixture *f = *state;
	struct tcmu_entry e;
	uint16_t id[3];

	for (int i = 0; i < 3; i++) {
		id[i] = fake_push(&f->k, tur, 6, NULL, 0);
		take_command(f, &e);
	}
	assert_int_equal(end(f, id[2], 2), 0);
	fake_collect(&f->k);
	assert_true(f->k.responses[id[2]].there);
	assert_false(f->k.responses[id[0]].there);
	assert_int_equal(f->k.responses[id[2]].status, 2);
	assert_int_equal(end(f, id[0], 8), 0);
	assert_int_equal(end(f, id[1], 0), 0);
	fake_collect(&f->k);
	assert_int_equal(f->k.responses[id[0]].status, 8);
	assert_int_equal(f->k.n_pending, 0);
	assert_int_equal(f->k.cleaned, f->k.head);
	assert_int_equal(f->r.inflight, 0);
}

static void the_ring_goes_round(void **state)
{
	struct fixture *f = *state;
	struct tcmu_entry e;

	for (int i = 0; i < 500; i++) {
		uint16_t held[2];

		for (int k = 0; k < 2; k++) {
			assert_true(fake_has_room(&f->k, 1));
			held[k] = fake_push(&f->k, tur, 6, NULL, 0);
			take_command(f, &e);
			assert_int_equal(e.id, held[k]);
		}
		for (int k = 1; k >= 0; k--)
			assert_int_equal(end(f, held[k], (uint8_t)(i & 8)), 0);
		fake_collect(&f->k);
		assert_int_equal(f->k.responses[held[0]].status, i & 8);
		assert_int_equal(f->k.n_pending, 0);
	}
}

static void task_management_goes_between_commands(void **state)
{
	struct fixture *f = *state;
	const uint16_t ids[3] = {7, 8, 900};
	struct tcmu_entry e;
	uint16_t a, b;

	a = fake_push(&f->k, tur, 6, NULL, 0);
	take_command(f, &e);
	fake_push_tmr(&f->k, TCMU_TMR_ABORT_TASK, ids, 3);
	assert_int_equal(take(f, &e), TCMU_TAKEN_TMR);
	assert_int_equal(e.tmr, TCMU_TMR_ABORT_TASK);
	assert_int_equal(e.n_ids, 3);
	assert_int_equal(tcmu_ring_tmr_id(&f->r, &e, 2), 900);
	b = fake_push(&f->k, tur, 6, NULL, 0);
	take_command(f, &e);
	assert_int_equal(end(f, b, 0), 0);
	assert_int_equal(end(f, a, 0), 0);
	fake_collect(&f->k);
	assert_int_equal(f->k.n_pending, 0);
	/* one that nothing follows is given back too */
	fake_push_tmr(&f->k, TCMU_TMR_LUN_RESET, NULL, 0);
	assert_int_equal(take(f, &e), TCMU_TAKEN_TMR);
	assert_int_equal(take(f, &e), TCMU_TAKEN_NONE);
	fake_collect(&f->k);
	assert_int_equal(f->k.cleaned, f->k.head);
}

static void unknown_entries_are_marked_and_passed(void **state)
{
	struct fixture *f = *state;
	struct tcmu_entry e;

	fake_push_tmr(&f->k, 0, NULL, 0);
	entry(f, 0)->hdr.len_op |= 5;
	fake_push(&f->k, tur, 6, NULL, 0);
	take_command(f, &e);
	assert_int_equal(end(f, e.id, 0), 0);
	assert_int_equal(entry(f, 0)->hdr.uflags, TCMU_UFLAG_UNKNOWN_OP);
	fake_collect(&f->k);
	assert_int_equal(f->k.n_pending, 0);
}

/* Takes the entry at 0 after @spoil has changed it; what was taken must be refused. */
static void expect_broken(struct fixture *f, void (*spoil)(struct fixture *f))
{
	const struct iovec iov = fake_iov(&f->k, 0, 4096);
	struct iovec out[1];
	struct tcmu_entry e;
	const char *what;
	uint32_t total;
	int got;

	fake_push(&f->k, tur, 6, &iov, 1);
	spoil(f);
	got = take(f, &e);
	if (got == TCMU_TAKEN_CMD)
		got = tcmu_ring_iovs(&f->r, &e, out, &total, &what);
	assert_int_equal(got, -EPROTO);
}

static void no_length(struct fixture *f)
{
	entry(f, 0)->hdr.len_op = TCMU_OP_CMD;
}
static void long_length(struct fixture *f)
{
	entry(f, 0)->hdr.len_op = RING | TCMU_OP_CMD;
}
static void short_length(struct fixture *f)
{
	entry(f, 0)->hdr.len_op = 64 | TCMU_OP_CMD;
}
static void many_iovecs(struct fixture *f)
{
	entry(f, 0)->req.iov_cnt = 0xffffffff;
}
static void many_bidi(struct fixture *f)
{
	entry(f, 0)->req.iov_bidi_cnt = 0xffffffff;
}
static void cdb_outside(struct fixture *f)
{
	entry(f, 0)->req.cdb_off = f->k.size - 4;
}
static void cdb_in_mailbox(struct fixture *f)
{
	entry(f, 0)->req.cdb_off = 0;
}
static void head_outside(struct fixture *f)
{
	fake_mailbox(&f->k)->cmd_head = 0x7ffffff8;
}
static void set_iov(struct fixture *f, uint64_t base, uint64_t len)
{
	const uint64_t v[2] = {base, len};

	memcpy((uint8_t *)entry(f, 0) + 48, v, sizeof(v));
}
static void data_in_ring(struct fixture *f)
{
	set_iov(f, FAKE_CMDR_OFF, 8);
}
static void data_behind(struct fixture *f)
{
	set_iov(f, f->k.size - 8, 16);
}
static void data_wraps(struct fixture *f)
{
	set_iov(f, f->k.data_off, UINT64_MAX - 8);
}

static void nonsense_is_refused(void **state)
{
	void (*const spoils[])(struct fixture * f) = {
		no_length,	long_length,  short_length, many_iovecs, many_bidi, cdb_outside,
		cdb_in_mailbox, head_outside, data_in_ring, data_behind, data_wraps};

	for (size_t i = 0; i < sizeof(spoils) / sizeof(spoils[0]); i++) {
		struct fixture f;
		const char *what;

		fake_open(&f.k, RING, DATA);
		assert_int_equal(tcmu_ring_init(&f.r, f.k.map, f.k.size, &what), 0);
		expect_broken(&f, spoils[i]);
		fake_close(&f.k);
	}
}

static void an_entry_that_changes_later_is_noticed(void **state)
{
	struct fixture *f = *state;
	struct tcmu_entry e;

	fake_push(&f->k, tur, 6, NULL, 0);
	take_command(f, &e);
	entry(f, 0)->hdr.len_op = RING | TCMU_OP_CMD;
	assert_int_equal(end(f, e.id, 0), -EPROTO);
}

static void a_reset_under_us_is_noticed(void **state)
{
	struct fixture *f = *state;
	struct tcmu_entry e;

	fake_push(&f->k, tur, 6, NULL, 0);
	take_command(f, &e);
	assert_int_equal(end(f, e.id, 0), 0);
	fake_push(&f->k, tur, 6, NULL, 0);
	take_command(f, &e);
	fake_mailbox(&f->k)->cmd_head = fake_mailbox(&f->k)->cmd_tail = 0;
	assert_int_equal(end(f, e.id, 0), -EPROTO);
	assert_int_equal(take(f, &e), -EPROTO); /* and not what the ring held before */
}

static void a_reset_of_a_ring_that_stands_at_its_start_is_noticed(void **state)
{
	struct fixture *f = *state;
	struct tcmu_entry e, old;

	fake_push(&f->k, tur, 6, NULL, 0);
	take_command(f, &e);
	do { /* round once: then commands of before stand behind the one that is taken */
		assert_int_equal(end(f, e.id, 0), 0);
		fake_collect(&f->k);
		fake_push(&f->k, tur, 6, NULL, 0);
		take_command(f, &e);
	} while (e.at);
	assert_int_equal(take(f, &old), TCMU_TAKEN_NONE);
	assert_int_equal(f->r.tail, 0);
	fake_mailbox(&f->k)->cmd_head = 0;
	assert_int_equal(take(f, &old), -EPROTO);
	assert_int_equal(end(f, e.id, 0), -EPROTO);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_mailbox_that_is_none_is_refused),
		T(a_command_is_copied_whole),
		T(cdbs_have_the_length_their_first_bytes_say),
		T(commands_end_in_any_order),
		T(the_ring_goes_round),
		T(task_management_goes_between_commands),
		T(unknown_entries_are_marked_and_passed),
		T(nonsense_is_refused),
		T(an_entry_that_changes_later_is_noticed),
		T(a_reset_under_us_is_noticed),
		T(a_reset_of_a_ring_that_stands_at_its_start_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
