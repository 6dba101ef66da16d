/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reservations as initiators see them: conflicts, unit attentions, survival, the fence. */
#include "scsi_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/endian.h"
#include "scratch.h"

#define TYPE_WE	   0x01
#define TYPE_EA	   0x03
#define TYPE_EA_RO 0x06
#define APTPL	   0x01
#define SPEC_I_PT  0x08

static void pr_out(struct initiator *i, uint8_t sa, uint8_t type, uint64_t key, uint64_t sa_key,
		   uint8_t flags)
{
	uint8_t list[24] = {0};

	put_be64(list, key);
	put_be64(list + 8, sa_key);
	list[20] = flags;
	send_cdb(i, CDB(0x5f, sa, type, 0, 0, BE32(24), 0), list, sizeof(list));
}

static unsigned keys(struct initiator *i)
{
	send_cdb(i, CDB(0x5e, 0, 0, 0, 0, 0, 0, BE16(4096), 0), NULL, 0);
	expect_good(i);
	assert_int_equal(get_be32(i->r.data + 4), i->r.len - 8);
	return get_be32(i->r.data + 4) / 8;
}

static void test_unit_ready(struct initiator *i)
{
	send_cdb(i, CDB(0x00, 0, 0, 0, 0, 0), NULL, 0);
}

static void read_block(struct initiator *i)
{
	send_cdb(i, CDB(0x28, 0, BE32(0), 0, BE16(1), 0), NULL, 0);
}

static void write_block(struct initiator *i)
{
	static const uint8_t block[512];

	send_cdb(i, CDB(0x2a, 0, BE32(0), 0, BE16(1), 0), block, sizeof(block));
}

#define expect_conflict(i) assert_int_equal((i)->r.status, SCSI_RESERVATION_CONFLICT)

static int nbd_like(struct world *w, enum lun_op op)
{
	uint8_t block[512] = {0};
	struct iovec iov = {block, sizeof(block)};
	struct lun_io io = {
		.op = op, .len = sizeof(block), .iov = &iov, .niov = 1, .reg_index = -1};

	return lun_run(w->lun, &io);
}

static void exclusive_access_keeps_others_out(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");

	pr_out(a, 0x00, 0, 0, 0xa, 0);
	expect_good(a);
	pr_out(a, 0x01, TYPE_EA, 0xa, 0, 0);
	expect_good(a);
	read_block(b);
	expect_conflict(b);
	write_block(b);
	expect_conflict(b);
	test_unit_ready(b); /* but this is allowed */
	expect_good(b);
	send_cdb(b, CDB(0x12, 0, 0, BE16(96), 0), NULL, 0);
	expect_good(b);
	read_block(a);
	expect_good(a);
	assert_int_equal(nbd_like(w, LUN_READ), -EPERM);
	pr_out(a, 0x02, TYPE_EA, 0xa, 0, 0);
	expect_good(a);
	read_block(b);
	expect_good(b);
	assert_int_equal(nbd_like(w, LUN_READ), 0);
	world_logout(a);
	world_logout(b);
	world_close(w);
}

static void write_exclusive_lets_others_read(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");

	pr_out(a, 0x00, 0, 0, 0xa, 0);
	pr_out(a, 0x01, TYPE_WE, 0xa, 0, 0);
	expect_good(a);
	read_block(b);
	expect_good(b);
	write_block(b);
	expect_conflict(b);
	write_block(a);
	expect_good(a);
	assert_int_equal(nbd_like(w, LUN_READ), 0);
	assert_int_equal(nbd_like(w, LUN_WRITE), -EPERM);
	world_logout(a);
	world_logout(b);
	world_close(w);
}

static void preempt_and_abort_tells_and_aborts_the_preempted(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b"),
			 *c = world_login(w, 0, "iqn.c");

	pr_out(a, 0x00, 0, 0, 0xa, 0);
	pr_out(b, 0x00, 0, 0, 0xb, 0);
	pr_out(c, 0x00, 0, 0, 0xc, 0);
	pr_out(a, 0x01, TYPE_WE, 0xa, 0, 0);
	expect_good(a);
	pr_out(b, 0x05, TYPE_EA_RO, 0xb, 0xa, 0);
	expect_good(b);
	assert_int_equal(a->aborts, 1);
	assert_int_equal(b->aborts, 0);
	assert_int_equal(c->aborts, 0);
	test_unit_ready(a);
	expect_sense(a, SENSE_UNIT_ATTENTION, 0x2a05);
	test_unit_ready(c);
	expect_sense(c, SENSE_UNIT_ATTENTION, 0x2a04);
	test_unit_ready(b);
	expect_good(b);
	write_block(a);
	expect_conflict(a);
	write_block(c); /* registrants only: c still is one */
	expect_good(c);
	assert_int_equal(keys(a), 2);
	world_logout(a);
	world_logout(b);
	world_logout(c);
	world_close(w);
}

static void aptpl_survives_the_process(void **state)
{
	char dir[64];
	struct world *w;
	struct initiator *a, *b;

	scratch_dir("/tmp", dir, sizeof(dir));
	w = world_open(&(struct world_options){.state = dir});
	a = world_login(w, 0, "iqn.a");
	pr_out(a, 0x00, 0, 0, 0xa, APTPL);
	expect_good(a);
	pr_out(a, 0x01, TYPE_EA, 0xa, 0, 0);
	expect_good(a);
	world_logout(a);
	world_close(w);

	w = world_open(&(struct world_options){.state = dir});
	a = world_login(w, 0, "iqn.a");
	b = world_login(w, 1, "iqn.b");
	assert_int_equal(keys(a), 1);
	assert_int_equal(get_be64(a->r.data + 8), 0xa);
	assert_int_equal(nbd_like(w, LUN_READ), -EPERM);
	read_block(b);
	expect_conflict(b);
	read_block(a); /* the same initiator port holds it */
	expect_good(a);
	/* Without APTPL, the next power-on finds nothing. */
	pr_out(a, 0x00, 0, 0xa, 0xaa, 0);
	expect_good(a);
	world_logout(a);
	world_logout(b);
	world_close(w);

	w = world_open(&(struct world_options){.state = dir});
	a = world_login(w, 0, "iqn.a");
	assert_int_equal(keys(a), 0);
	read_block(a);
	expect_good(a);
	world_logout(a);
	world_close(w);
}

static void a_state_that_cannot_be_written_changes_nothing(void **state)
{
	char dir[64], path[64];
	struct world *w;
	struct initiator *a;
	int fd;

	scratch_dir("/tmp", dir, sizeof(dir));
	w = world_open(&(struct world_options){.state = dir});
	snprintf(path, sizeof(path), "%s/scsi", dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600); /* a file where the directory should be */
	assert_true(fd >= 0);
	close(fd);
	a = world_login(w, 0, "iqn.a");
	pr_out(a, 0x00, 0, 0, 0xa, APTPL);
	expect_sense(a, SENSE_HARDWARE_ERROR, ASC_INTERNAL_TARGET_FAILURE);
	assert_int_equal(keys(a), 0);
	assert_int_equal(get_be32(a->r.data), 0); /* PRGENERATION */
	assert_int_equal(unlink(path), 0);
	pr_out(a, 0x00, 0, 0, 0xa, APTPL);
	expect_good(a);
	assert_int_equal(keys(a), 1);
	world_logout(a);
	world_close(w);
}

static void aptpl_without_a_place_for_it_is_refused(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");

	send_cdb(a, CDB(0x5e, 2, 0, 0, 0, 0, 0, BE16(8), 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[2] & 1, 0); /* PTPL_C */
	pr_out(a, 0x00, 0, 0, 0xa, APTPL);
	expect_bad_param(a, 20, 0);
	assert_int_equal(keys(a), 0);
	world_logout(a);
	world_close(w);
}

static void spec_i_pt_registers_the_listed_ports(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");
	uint8_t list[128] = {0};
	unsigned n = port_id(list + 28, "iqn.b");

	put_be64(list + 8, 0xa);
	list[20] = SPEC_I_PT;
	put_be32(list + 24, n);
	send_cdb(a, CDB(0x5f, 0, 0, 0, 0, BE32(28 + n), 0), list, 28 + n);
	expect_good(a);
	assert_int_equal(keys(a), 2);
	pr_out(b, 0x01, TYPE_EA, 0xa, 0, 0);
	expect_good(b);
	send_cdb(a, CDB(0x5e, 3, 0, 0, 0, 0, 0, BE16(4096), 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[8 + 12], 0);		 /* a does not hold it */
	assert_int_equal(a->r.data[8 + 24 + n + 12], 1); /* b does */
	assert_int_equal(a->r.data[8 + 24 + n + 13], TYPE_EA);
	/* A list that ends in the middle of a TransportID. */
	put_be32(list + 24, n - 4);
	pr_out(a, 0x00, 0, 0xa, 0, 0);
	send_cdb(a, CDB(0x5f, 0, 0, 0, 0, BE32(28 + n), 0), list, 28 + n);
	expect_bad_param(a, 28, -1);
	/* A parameter list shorter than the CDB says. */
	send_cdb(a, CDB(0x5f, 0, 0, 0, 0, BE32(28 + n), 0), list, 24);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
	world_logout(a);
	world_logout(b);
	world_close(w);
}

/** A name without an ISID stands for all its sessions, however often it is listed. */
static void spec_i_pt_counts_a_port_once(void **state)
{
	enum { TIMES = 2000, EACH = 24 };
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");
	uint8_t *list = calloc(1, 28 + TIMES * EACH);

	put_be64(list + 8, 0xa);
	list[20] = SPEC_I_PT;
	put_be32(list + 24, TIMES * EACH);
	for (unsigned i = 0; i < TIMES; i++) {
		uint8_t *id = list + 28 + i * EACH;

		id[0] = 0x05;
		put_be16(id + 2, EACH - 4);
		memcpy(id + 4, "iqn.b", 5);
	}
	send_cdb(a, CDB(0x5f, 0, 0, 0, 0, BE32(28 + TIMES * EACH), 0), list, 28 + TIMES * EACH);
	expect_good(a);
	assert_int_equal(keys(a), 2);
	free(list);
	world_logout(a);
	world_logout(b);
	world_close(w);
}

static void *preempt_main(void *arg)
{
	pr_out(arg, 0x05, TYPE_EA, 0xb, 0xa, 0);
	return NULL;
}

static void abort_command(void *arg)
{
	scsi_cmd_abort(&((struct initiator *)arg)->cmd);
}

/** Two that preempt each other would wait for each other; who is aborted waits no longer. */
static void preempt_and_abort_can_be_aborted(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");
	struct initiator *c = world_login(w, 1, "iqn.c");
	pthread_t thread;

	pr_out(a, 0x06, 0, 0, 0xa, 0);
	pr_out(b, 0x06, 0, 0, 0xb, 0);
	pr_out(a, 0x01, TYPE_EA, 0xa, 0, 0);
	expect_good(a);
	a->keep_fin = true;
	assert_int_equal(pthread_create(&thread, NULL, preempt_main, b), 0);
	while (!atomic_load(&a->fin))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	on_reactor(c, abort_command, b);
	pthread_join(thread, NULL);
	assert_int_equal(b->r.status, SCSI_TASK_ABORTED);
	a->fin(a->fin_arg); /* that comes late, to nobody */
	assert_int_equal(keys(b), 1);
	world_logout(a);
	world_logout(b);
	world_logout(c);
	world_close(w);
}

/** However many there are, each of the preempted is told and aborted, once, and nobody else. */
static void preempt_and_abort_reaches_each_of_many(void **state)
{
	enum { MANY = 100 };
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *all[MANY];
	char name[32];

	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "iqn.2000-01.test:%u", i);
		all[i] = world_login(w, i % 2, name);
		if (i % 3 == 2)
			continue; /* is not registered */
		pr_out(all[i], 0x00, 0, 0, i % 3 ? 0xb : 0xa, 0);
		expect_good(all[i]);
	}
	pr_out(all[0], 0x01, TYPE_WE, 0xa, 0, 0);
	expect_good(all[0]);
	pr_out(all[0], 0x05, TYPE_WE, 0xa, 0xb, 0);
	expect_good(all[0]);
	assert_int_equal(keys(all[0]), (MANY + 2) / 3);
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(all[i]->aborts, i % 3 == 1);
		test_unit_ready(all[i]);
		if (i % 3 == 1)
			expect_sense(all[i], SENSE_UNIT_ATTENTION, 0x2a05);
		test_unit_ready(all[i]);
		expect_good(all[i]);
	}
	for (unsigned i = 0; i < MANY; i++)
		world_logout(all[i]);
	world_close(w);
}

static void reserve6_holds_until_released_reset_or_lost(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");

	for (int how = 0; how < 3; how++) {
		send_cdb(a, CDB(0x16, 0, 0, 0, 0, 0), NULL, 0);
		expect_good(a);
		send_cdb(a, CDB(0x16, 0, 0, 0, 0, 0), NULL, 0);
		expect_good(a);
		test_unit_ready(b);
		expect_conflict(b);
		send_cdb(b, CDB(0x1a, 0, 0x3f, 0, 255, 0), NULL, 0);
		expect_conflict(b);
		send_cdb(b, CDB(0x12, 0, 0, BE16(96), 0), NULL, 0);
		expect_good(b);
		send_cdb(b, CDB(0x17, 0, 0, 0, 0, 0), NULL, 0);
		expect_good(b); /* and does nothing */
		send_cdb(b, CDB(0x16, 0, 0, 0, 0, 0), NULL, 0);
		expect_conflict(b);
		pr_out(b, 0x00, 0, 0, 0xb, 0);
		expect_conflict(b);
		assert_int_equal(nbd_like(w, LUN_READ), -EPERM);
		if (how == 0) {
			send_cdb(a, CDB(0x17, 0, 0, 0, 0, 0), NULL, 0);
			expect_good(a);
		} else if (how == 1) {
			assert_int_equal(send_tmf(b, SCSI_TMF_LUN_RESET), SCSI_TMF_COMPLETE);
			test_unit_ready(a);
			test_unit_ready(b);
		} else {
			world_logout(a);
			a = world_login(w, 0, "iqn.a");
		}
		test_unit_ready(b);
		expect_good(b);
		assert_int_equal(nbd_like(w, LUN_READ), 0);
	}
	world_logout(a);
	world_logout(b);
	world_close(w);
}

/* SPC-4 5.12.3 */
static void reserve6_beside_persistent_reservations(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");

	pr_out(a, 0x00, 0, 0, 0xa, 0);
	send_cdb(a, CDB(0x16, 0, 0, 0, 0, 0), NULL, 0);
	expect_conflict(a); /* registered, nothing reserved */
	pr_out(a, 0x01, TYPE_WE, 0xa, 0, 0);
	send_cdb(a, CDB(0x16, 0, 0, 0, 0, 0), NULL, 0);
	expect_good(a); /* has it already */
	send_cdb(a, CDB(0x17, 0, 0, 0, 0, 0), NULL, 0);
	expect_good(a);
	send_cdb(b, CDB(0x16, 0, 0, 0, 0, 0), NULL, 0);
	expect_conflict(b);
	write_block(b);
	expect_conflict(b); /* RELEASE(6) took nothing away */
	world_logout(a);
	world_logout(b);
	world_close(w);
}

static void bad_requests_point_to_what_is_bad(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	uint8_t list[25] = {0};

	pr_out(a, 0x00, 0, 0, 0xa, 0);
	pr_out(a, 0x01, 0x02, 0xa, 0, 0);
	expect_bad_cdb(a, 2, -1);
	pr_out(a, 0x01, 0x10 | TYPE_EA, 0xa, 0, 0);
	expect_bad_cdb(a, 2, -1);
	pr_out(a, 0x04, TYPE_EA, 0xa, 0, 0);
	expect_bad_param(a, 8, -1);
	pr_out(a, 0x06, 0, 0xa, 0xb, SPEC_I_PT);
	expect_bad_param(a, 20, 3);
	pr_out(a, 0x01, TYPE_EA, 0xa, 0, 0);
	pr_out(a, 0x02, TYPE_WE, 0xa, 0, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_INVALID_RELEASE_OF_RESERVATION);
	send_cdb(a, CDB(0x5f, 0x01, TYPE_EA, 0, 0, BE32(25), 0), list, 25);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
	send_cdb(a, CDB(0x5f, 0x08, 0, 0, 0, BE32(24), 0), list, 24);
	expect_bad_cdb(a, 1, 4);
	send_cdb(a, CDB(0x5e, 0x04, 0, 0, 0, 0, 0, BE16(24), 0), NULL, 0);
	expect_bad_cdb(a, 1, 4);
	world_logout(a);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exclusive_access_keeps_others_out),
		cmocka_unit_test(write_exclusive_lets_others_read),
		cmocka_unit_test(preempt_and_abort_tells_and_aborts_the_preempted),
		cmocka_unit_test(aptpl_survives_the_process),
		cmocka_unit_test(a_state_that_cannot_be_written_changes_nothing),
		cmocka_unit_test(aptpl_without_a_place_for_it_is_refused),
		cmocka_unit_test(spec_i_pt_registers_the_listed_ports),
		cmocka_unit_test(spec_i_pt_counts_a_port_once),
		cmocka_unit_test(preempt_and_abort_can_be_aborted),
		cmocka_unit_test(preempt_and_abort_reaches_each_of_many),
		cmocka_unit_test(reserve6_holds_until_released_reset_or_lost),
		cmocka_unit_test(reserve6_beside_persistent_reservations),
		cmocka_unit_test(bad_requests_point_to_what_is_bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
