/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/completion.h"
#include "base/endian.h"
#include "fake_tcmu.h"
#include "front/tcmu/tcmu_guard.h"
#include "front/tcmu/tcmu_ring.h"
#include "front/tcmu/tcmu_session.h"
#include "scsi_harness.h"

#define RING  (64u * 1024 - FAKE_CMDR_OFF)
#define DATA  (8u << 20)
#define BLOCK 512u

struct fixture {
	struct world *w;
	struct fake k;
	struct tcmu_session *s;
	struct completion over;
	const char *broken; /* written before @over */
};

static void ended(struct tcmu_session *s, const char *broken)
{
	struct fixture *f = tcmu_session_owner(s);

	f->broken = broken;
	tcmu_session_free(s);
	completion_done(&f->over);
}

static void start(struct fixture *f)
{
	const struct tcmu_session_options opt = {
		.reactor = reactor_set_get(f->w->set, 0),
		.home = reactor_set_get(f->w->set, 1),
		.name = "test",
		.lu = f->w->lu,
		.channel = fake_channel(&f->k),
		.ended = ended,
		.owner = f,
	};
	struct reason why;

	completion_init(&f->over);
	assert_int_equal(tcmu_session_start(&opt, &f->s, &why), 0);
}

static void post_stop(struct reactor_msg *m);

struct stopper {
	struct reactor_msg msg;
	struct tcmu_session *s;
};

static void post_stop(struct reactor_msg *m)
{
	tcmu_session_stop(container_of(m, struct stopper, msg)->s);
}

static void stop(struct fixture *f)
{
	struct stopper m = {.msg.fn = post_stop, .s = f->s};

	reactor_post(reactor_set_get(f->w->set, 1), &m.msg);
	completion_wait(&f->over);
	assert_null(f->broken);
}

static int setup(void **state)
{
	static struct fixture f;

	f.w = world_open(&(struct world_options){0});
	fake_open(&f.k, RING, DATA);
	start(&f);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	world_close(f->w);
	fake_close(&f->k);
	return 0;
}

static const struct fake_response *run(struct fixture *f, const uint8_t *cdb, unsigned cdb_len,
				       const struct iovec *iov, unsigned n)
{
	uint16_t id = fake_push(&f->k, cdb, cdb_len, iov, n);

	fake_notify(&f->k);
	return fake_wait(&f->k, id);
}

static void rw_cdb(uint8_t cdb[16], bool write, uint64_t lba, uint32_t blocks)
{
	memset(cdb, 0, 16);
	cdb[0] = write ? 0x8a : 0x88;
	put_be64(cdb + 2, lba);
	put_be32(cdb + 10, blocks);
}

static void the_first_command_meets_no_unit_attention(void **state)
{
	struct fixture *f = *state;
	const struct fake_response *r = run(f, CDB(0, 0, 0, 0, 0, 0), NULL, 0);

	assert_int_equal(r->status, SCSI_GOOD);
	stop(f);
}

static void data_pass_through_the_data_area(void **state)
{
	struct fixture *f = *state;
	const struct iovec out[3] = {fake_iov(&f->k, 0, 4096), fake_iov(&f->k, 40960, 4096),
				     fake_iov(&f->k, 8192, 512)};
	const struct iovec in[2] = {fake_iov(&f->k, 1u << 20, 4096),
				    fake_iov(&f->k, (1u << 20) + 8192, 4608)};
	uint8_t cdb[16];

	memset(fake_data(&f->k, 0), 'a', 4096);
	memset(fake_data(&f->k, 40960), 'b', 4096);
	memset(fake_data(&f->k, 8192), 'c', 512);
	rw_cdb(cdb, true, 100, 17);
	assert_int_equal(run(f, cdb, 16, out, 3)->status, SCSI_GOOD);
	rw_cdb(cdb, false, 100, 17);
	assert_int_equal(run(f, cdb, 16, in, 2)->status, SCSI_GOOD);
	assert_memory_equal(fake_data(&f->k, 1u << 20), fake_data(&f->k, 0), 4096);
	assert_memory_equal(fake_data(&f->k, (1u << 20) + 8192), fake_data(&f->k, 40960), 4096);
	assert_memory_equal(fake_data(&f->k, (1u << 20) + 12288), fake_data(&f->k, 8192), 512);
	stop(f);
}

static void what_is_less_than_expected_is_told(void **state)
{
	struct fixture *f = *state;
	const struct iovec in = fake_iov(&f->k, 0, 4096);
	const struct fake_response *r;

	r = run(f, CDB(0x12, 0, 0, 0, 36, 0), &in, 1);
	assert_int_equal(r->status, SCSI_GOOD);
	assert_int_equal(r->uflags, TCMU_UFLAG_READ_LEN);
	assert_int_equal(r->read_len, 36);
	assert_memory_equal(fake_data(&f->k, 8), "EBB     ", 8);
	stop(f);
}

static void where_nothing_is_read_nothing_old_is_shown(void **state)
{
	struct fixture *f = *state;
	const struct iovec in = fake_iov(&f->k, 0, 4096);
	const uint8_t zeros[4096] = {0};

	memset(fake_data(&f->k, 0), 'x', 4096);
	assert_int_equal(run(f, CDB(0x12, 0, 0, 0, 0, 0), &in, 1)->status, SCSI_GOOD);
	assert_memory_equal(fake_data(&f->k, 0), zeros, 4096);
	stop(f);
}

static void a_transfer_longer_or_shorter_than_its_data_is_cut(void **state)
{
	struct fixture *f = *state;
	const struct iovec two = fake_iov(&f->k, 0, 1024), one = fake_iov(&f->k, 4096, 512);
	const struct iovec four = fake_iov(&f->k, 8192, 2048);
	const struct fake_response *r;
	uint8_t cdb[16];

	memset(fake_data(&f->k, 0), 'k', 1024);
	rw_cdb(cdb, true, 8, 3); /* two blocks of three come */
	assert_int_equal(run(f, cdb, 16, &two, 1)->status, SCSI_GOOD);
	rw_cdb(cdb, false, 8, 2); /* there is room for one of two */
	assert_int_equal(run(f, cdb, 16, &one, 1)->status, SCSI_GOOD);
	assert_memory_equal(fake_data(&f->k, 4096), fake_data(&f->k, 0), 512);
	rw_cdb(cdb, false, 8, 2); /* there is room for four */
	r = run(f, cdb, 16, &four, 1);
	assert_int_equal(r->status, SCSI_GOOD);
	assert_int_equal(r->read_len, 1024);
	assert_memory_equal(fake_data(&f->k, 8192), fake_data(&f->k, 0), 1024);
	stop(f);
}

static void a_refusal_has_its_sense(void **state)
{
	struct fixture *f = *state;
	const struct iovec in = fake_iov(&f->k, 0, 512);
	const struct fake_response *r;
	uint8_t cdb[16];

	rw_cdb(cdb, false, 1u << 20, 1);
	r = run(f, cdb, 16, &in, 1);
	assert_int_equal(r->status, SCSI_CHECK_CONDITION);
	assert_int_equal(r->sense[0] & 0x7f, 0x70);
	assert_int_equal(r->sense[2] & 0xf, 0x5);
	assert_int_equal(get_be16(r->sense + 12), 0x2100);
	assert_int_equal(r->uflags, 0);
	stop(f);
}

/* COMPARE AND WRITE of no blocks: 256 of them do not fit into its byte. */
static void data_that_the_cdb_does_not_ask_for_are_refused(void **state)
{
	struct fixture *f = *state;
	const struct iovec out = fake_iov(&f->k, 0, 1024);
	const struct fake_response *r;
	uint8_t cdb[16] = {0x89};

	r = run(f, cdb, 16, &out, 1);
	assert_int_equal(r->status, SCSI_CHECK_CONDITION);
	assert_int_equal(get_be16(r->sense + 12), 0x2400);
	assert_int_equal(run(f, cdb, 16, NULL, 0)->status, SCSI_GOOD);
	stop(f);
}

/* A model of the medium, and many commands at once in a ring that wraps often. */
static void many_commands_keep_their_data(void **state)
{
	enum { SLOTS = 32, SLOT = 64u << 10, REGION = 128, ROUNDS = 6000 };
	struct fixture *f = *state;
	uint8_t *model = calloc(SLOTS, REGION * BLOCK);
	struct {
		uint16_t id;
		bool busy, write;
		uint32_t lba, blocks;
	} slot[SLOTS] = {0};
	unsigned seed = 7;

	for (int i = 0; i < ROUNDS + SLOTS; i++) {
		unsigned n = (unsigned)i % SLOTS;
		uint8_t *data = fake_data(&f->k, n * SLOT), *mine = model + n * REGION * BLOCK;
		struct iovec iov[2];
		uint8_t cdb[16];
		size_t len;

		if (slot[n].busy) {
			assert_int_equal(fake_wait(&f->k, slot[n].id)->status, SCSI_GOOD);
			if (!slot[n].write)
				assert_memory_equal(data, mine + slot[n].lba * BLOCK,
						    slot[n].blocks * BLOCK);
		}
		slot[n].busy = i < ROUNDS;
		if (!slot[n].busy)
			continue;
		slot[n].write = rand_r(&seed) & 1;
		slot[n].blocks = 1 + (unsigned)rand_r(&seed) % (REGION - 1);
		slot[n].lba = (unsigned)rand_r(&seed) % (REGION - slot[n].blocks);
		len = slot[n].blocks * BLOCK;
		if (slot[n].write) {
			memset(data, i, len);
			memset(mine + slot[n].lba * BLOCK, i, len);
		}
		iov[0] = fake_iov(&f->k, n * SLOT, len / 2);
		iov[1] = fake_iov(&f->k, n * SLOT + len / 2, len - len / 2);
		rw_cdb(cdb, slot[n].write, n * REGION + slot[n].lba, slot[n].blocks);
		while (!fake_has_room(&f->k, 2))
			fake_wait_kick(&f->k);
		slot[n].id = fake_push(&f->k, cdb, 16, iov, 2);
		fake_notify(&f->k);
	}
	free(model);
	stop(f);
}

/* Reads so large that another thread tells of them, and small ones among them. */
static void large_reads_and_small_ones_end_side_by_side(void **state)
{
	enum { READS = 4, LARGE = 1u << 20, SMALL = 4096, ROUNDS = 20 };
	struct fixture *f = *state;
	uint8_t cdb[16];

	for (unsigned i = 0; i < READS; i++) {
		const struct iovec out = fake_iov(&f->k, 0, LARGE);

		memset(fake_data(&f->k, 0), 'a' + (int)i, LARGE);
		rw_cdb(cdb, true, i * (LARGE / BLOCK), LARGE / BLOCK);
		assert_int_equal(run(f, cdb, 16, &out, 1)->status, SCSI_GOOD);
	}
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint16_t large[READS], small[READS];

		memset(fake_data(&f->k, 0), 0, READS * (LARGE + SMALL));
		for (unsigned i = 0; i < READS; i++) {
			const struct iovec in[2] = {
				fake_iov(&f->k, i * LARGE, LARGE),
				fake_iov(&f->k, READS * LARGE + i * SMALL, SMALL)};

			rw_cdb(cdb, false, i * (LARGE / BLOCK), LARGE / BLOCK);
			large[i] = fake_push(&f->k, cdb, 16, &in[0], 1);
			rw_cdb(cdb, false, i * (LARGE / BLOCK), SMALL / BLOCK);
			small[i] = fake_push(&f->k, cdb, 16, &in[1], 1);
			fake_notify(&f->k);
		}
		for (unsigned i = 0; i < READS; i++) {
			const uint8_t *end = fake_data(&f->k, (i + 1) * LARGE) - 1;

			assert_int_equal(fake_wait(&f->k, large[i])->status, SCSI_GOOD);
			assert_int_equal(fake_wait(&f->k, small[i])->status, SCSI_GOOD);
			assert_int_equal(*end, 'a' + i);
			assert_memory_equal(fake_data(&f->k, READS * LARGE + i * SMALL),
					    end + 1 - SMALL, SMALL);
		}
	}
	stop(f);
}

static void aborts_of_both_sides_come_through(void **state)
{
	struct fixture *f = *state;
	struct initiator *i = world_login(f->w, 1, "iqn.b");
	const uint16_t none[2] = {1000, 1001};
	const struct fake_response *r;

	assert_int_equal(run(f, CDB(0, 0, 0, 0, 0, 0), NULL, 0)->status, SCSI_GOOD);
	fake_push_tmr(&f->k, TCMU_TMR_ABORT_TASK_SET, none, 2);
	fake_push_tmr(&f->k, TCMU_TMR_LUN_RESET, NULL, 0);
	assert_int_equal(run(f, CDB(0, 0, 0, 0, 0, 0), NULL, 0)->status, SCSI_GOOD);
	/* the other side resets: all of ours have ended by then, and ours are told */
	assert_int_equal(send_tmf(i, SCSI_TMF_LUN_RESET), SCSI_TMF_COMPLETE);
	r = run(f, CDB(0, 0, 0, 0, 0, 0), NULL, 0);
	assert_int_equal(r->status, SCSI_CHECK_CONDITION);
	assert_int_equal(r->sense[2] & 0xf, 0x6);
	world_logout(i);
	stop(f);
}

/* A write to block 5 that has its blocks until it is let go. Its reactor stands still. */
struct holder {
	struct reactor_msg msg;
	struct lun *lun;
	struct lun_io io;
	struct iovec iov;
	uint8_t data[BLOCK];
	struct completion has, may_go, over;
};

static void hold(struct lun_io *io)
{
	struct holder *h = container_of(io, struct holder, io);

	completion_done(&h->has);
	completion_wait(&h->may_go);
}

static void held_write_ended(struct lun_io *io)
{
	completion_done(&container_of(io, struct holder, io)->over);
}

static void start_held_write(struct reactor_msg *m)
{
	struct holder *h = container_of(m, struct holder, msg);

	lun_submit(h->lun, &h->io);
}

static void an_entry_of_what_is_done_once_is_for_its_own_answer(void **state)
{
	struct fixture *f = *state;
	struct holder h = {.msg.fn = start_held_write, .lun = f->w->lun};
	uint8_t cdb[16] = {SCSI_COMPARE_AND_WRITE, [9] = 5, [13] = 1};
	const struct iovec out = fake_iov(&f->k, 0, 2 * BLOCK);
	uint16_t first, once, more[2];
	uint32_t at;

	h.iov = (struct iovec){h.data, BLOCK};
	h.io = (struct lun_io){.op = LUN_WRITE,
			       .off = 5 * BLOCK,
			       .len = BLOCK,
			       .iov = &h.iov,
			       .niov = 1,
			       .reg_index = -1,
			       .reactor = reactor_set_get(f->w->set, 1),
			       .settled = hold,
			       .done = held_write_ended};
	completion_init(&h.has);
	completion_init(&h.may_go);
	completion_init(&h.over);
	reactor_post(h.io.reactor, &h.msg);
	completion_wait(&h.has);

	memset(fake_data(&f->k, BLOCK), 'n', BLOCK);
	first = fake_push(&f->k, CDB(0, 0, 0, 0, 0, 0), NULL, 0);
	at = f->k.head;
	once = fake_push(&f->k, cdb, 16, &out, 1);
	more[0] = fake_push(&f->k, CDB(0, 0, 0, 0, 0, 0), NULL, 0);
	more[1] = fake_push(&f->k, CDB(0, 0, 0, 0, 0, 0), NULL, 0);
	fake_notify(&f->k);
	assert_int_equal(fake_wait(&f->k, first)->status, SCSI_GOOD);
	/* The others were taken with it and have ended, but their answers would stand there. */
	assert_false(f->k.responses[more[0]].there || f->k.responses[more[1]].there);
	completion_done(&h.may_go);
	completion_wait(&h.over);
	assert_int_equal(fake_wait(&f->k, once)->status, SCSI_GOOD);
	assert_int_equal(((struct tcmu_cmd_entry *)(f->k.map + FAKE_CMDR_OFF + at))->hdr.cmd_id,
			 once);
	assert_int_equal(f->k.responses[once].uflags, TCMU_MARK_DONE);
	assert_int_equal(fake_wait(&f->k, more[0])->status, SCSI_GOOD);
	assert_int_equal(fake_wait(&f->k, more[1])->status, SCSI_GOOD);
	stop(f);
}

/* As its own data are there already: no mark of it is told. */
static void what_does_not_compare_is_not_marked(void **state)
{
	struct fixture *f = *state;
	uint8_t cdb[16] = {SCSI_COMPARE_AND_WRITE, [9] = 5, [13] = 1};
	const struct iovec out = fake_iov(&f->k, 0, 2 * BLOCK);
	const struct fake_response *r;

	memset(fake_data(&f->k, 0), 'x', BLOCK);
	r = run(f, cdb, 16, &out, 1);
	assert_int_equal(r->status, SCSI_CHECK_CONDITION);
	assert_int_equal(r->sense[2] & 0xf, SENSE_MISCOMPARE);
	assert_int_equal(r->uflags, 0);
	stop(f);
}

static void what_was_not_taken_waits_for_the_next(void **state)
{
	struct fixture *f = *state;
	uint16_t id;

	assert_int_equal(run(f, CDB(0, 0, 0, 0, 0, 0), NULL, 0)->status, SCSI_GOOD);
	stop(f);
	id = fake_push(&f->k, CDB(0, 0, 0, 0, 0, 0), NULL, 0);
	start(f);
	assert_int_equal(fake_wait(&f->k, id)->status, SCSI_GOOD);
	stop(f);
}

static void a_broken_ring_ends_the_session(void **state)
{
	struct fixture *f = *state;

	fake_mailbox(&f->k)->cmd_head = 0x7ffffff8;
	fake_notify(&f->k);
	completion_wait(&f->over);
	assert_non_null(f->broken);
}

/* As when the kernel has unmade the device because another process has refused it. */
static void a_device_that_is_taken_away_ends_the_session(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(run(f, CDB(0, 0, 0, 0, 0, 0), NULL, 0)->status, SCSI_GOOD);
	signal(SIGPIPE, SIG_IGN); /* a UIO device sends none */
	close(f->k.fd);
	f->k.fd = -1;
	completion_wait(&f->over);
	assert_non_null(f->broken);
}

static struct sigaction guard; /* the handler, which cmocka replaces for each test */

/* As after a reset of the ring by root: the pages of the data area have gone. */
static void lost_data_end_the_session_not_the_process(void **state)
{
	struct fixture *f = *state;
	const struct iovec in = fake_iov(&f->k, 1u << 20, 4096);
	uint16_t id;

	sigaction(SIGBUS, &guard, NULL);
	assert_int_equal(run(f, CDB(0, 0, 0, 0, 0, 0), NULL, 0)->status, SCSI_GOOD);
	assert_int_equal(ftruncate(f->k.memfd, (off_t)(f->k.data_off + (1u << 20))), 0);
	id = fake_push(&f->k, CDB(0x12, 0, 0, 0, 96, 0), &in, 1);
	fake_notify(&f->k);
	assert_int_equal(fake_wait(&f->k, id)->status, SCSI_GOOD);
	fake_notify(&f->k);
	completion_wait(&f->over);
	assert_non_null(f->broken);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_first_command_meets_no_unit_attention),
		T(data_pass_through_the_data_area),
		T(what_is_less_than_expected_is_told),
		T(where_nothing_is_read_nothing_old_is_shown),
		T(a_transfer_longer_or_shorter_than_its_data_is_cut),
		T(a_refusal_has_its_sense),
		T(data_that_the_cdb_does_not_ask_for_are_refused),
		T(many_commands_keep_their_data),
		T(large_reads_and_small_ones_end_side_by_side),
		T(aborts_of_both_sides_come_through),
		T(an_entry_of_what_is_done_once_is_for_its_own_answer),
		T(what_does_not_compare_is_not_marked),
		T(what_was_not_taken_waits_for_the_next),
		T(a_broken_ring_ends_the_session),
		T(a_device_that_is_taken_away_ends_the_session),
		T(lost_data_end_the_session_not_the_process),
	};

	tcmu_guard_remove(tcmu_guard_add(&guard, sizeof(guard)));
	sigaction(SIGBUS, NULL, &guard);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
