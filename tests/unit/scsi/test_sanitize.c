/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SANITIZE: what is left on the medium, who is kept out meanwhile, what happens when it fails. */
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

#define IMMED 0x80
#define AUSE  0x20

static void put(struct initiator *i, uint32_t lba, uint8_t value)
{
	uint8_t block[512];

	memset(block, value, sizeof(block));
	send_cdb(i, CDB(0x2a, 0, BE32(lba), 0, BE16(1), 0), block, sizeof(block));
	expect_good(i);
}

static void expect_bytes(struct initiator *i, uint32_t lba, const uint8_t *pattern, unsigned n)
{
	send_cdb(i, CDB(0x28, 0, BE32(lba), 0, BE16(1), 0), NULL, 0);
	expect_good(i);
	for (unsigned b = 0; b < 512; b++)
		assert_int_equal(i->r.data[b], pattern[b % n]);
}

static void overwrite(struct initiator *i, uint8_t flags, uint8_t count, const char *pattern)
{
	uint8_t list[516] = {count};
	uint16_t n = (uint16_t)strlen(pattern);

	put_be16(list + 2, n);
	memcpy(list + 4, pattern, n);
	send_cdb(i, CDB(0x48, 0x01 | flags, 0, 0, 0, 0, 0, BE16(4 + n), 0), list, 4u + n);
}

static void erase(struct initiator *i, uint8_t sa_and_flags)
{
	send_cdb(i, CDB(0x48, sa_and_flags, 0, 0, 0, 0, 0, 0, 0, 0), NULL, 0);
}

static unsigned test_unit_ready(struct initiator *i)
{
	send_cdb(i, CDB(0x00, 0, 0, 0, 0, 0), NULL, 0);
	return i->r.status == SCSI_GOOD ? 0 : sense_asc(i);
}

/** Waits, by asking, until the operation is over; returns how often it was in progress. */
static unsigned wait_over(struct initiator *i)
{
	unsigned n = 0;

	while (test_unit_ready(i) == ASC_SANITIZE_IN_PROGRESS)
		n++;
	return n;
}

static void overwrite_leaves_the_pattern(void **state)
{
	static const uint8_t abc[] = "abc", inverted[] = {0x9e, 0x9d, 0x9c};
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	uint8_t block[512];

	put(a, 0, 1);
	put(a, (8 << 20) / 512 - 1, 1);
	overwrite(a, 0, 1, "abc");
	expect_good(a);
	for (unsigned b = 0; b < 512; b++) /* the pattern begins anew with each block */
		block[b] = abc[b % 3];
	expect_bytes(a, 0, block, 512);
	expect_bytes(a, (8 << 20) / 512 - 1, block, 512);
	overwrite(a, 0, 0x80 | 2, "abc"); /* INVERT, two passes */
	expect_good(a);
	for (unsigned b = 0; b < 512; b++)
		block[b] = inverted[b % 3];
	expect_bytes(a, 7, block, 512);
	world_logout(a);
	world_close(w);
}

static void erase_leaves_nothing(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");

	for (uint8_t sa = 2; sa <= 3; sa++) {
		put(a, 0, 1);
		put(a, 5000, 1);
		erase(a, sa);
		expect_good(a);
		expect_bytes(a, 0, (const uint8_t[]){0}, 1);
		expect_bytes(a, 5000, (const uint8_t[]){0}, 1);
		/* GET LBA STATUS: all of it deallocated */
		send_cdb(a, CDB(0x9e, 0x12, BE64(0), BE32(64), 0, 0), NULL, 0);
		expect_good(a);
		assert_int_equal(a->r.data[8 + 12] & 0x0f, 1);
	}
	world_logout(a);
	world_close(w);
}

static void bad_requests_are_refused(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	uint8_t list[520] = {1, 0, 0x02, 0x00};

	put(a, 0, 1);
	send_cdb(a, CDB(0x48, 2, 0, 0, 0, 0, 0, BE16(8), 0), list, 8);
	expect_bad_cdb(a, 7, -1);
	for (unsigned n = 0; n < 5; n++) {
		send_cdb(a, CDB(0x48, 1, 0, 0, 0, 0, 0, BE16(n), 0), list, n);
		expect_bad_cdb(a, 7, -1);
	}
	send_cdb(a, CDB(0x48, 1, 0, 0, 0, 0, 0, BE16(517), 0), list, 517);
	expect_bad_cdb(a, 7, -1);
	list[0] = 0;
	send_cdb(a, CDB(0x48, 1, 0, 0, 0, 0, 0, BE16(516), 0), list, 516);
	expect_bad_param(a, 0, 4);
	list[0] = 0x21;
	send_cdb(a, CDB(0x48, 1, 0, 0, 0, 0, 0, BE16(516), 0), list, 516);
	expect_bad_param(a, 0, 6);
	list[0] = 1;
	list[3] = 4;
	send_cdb(a, CDB(0x48, 1, 0, 0, 0, 0, 0, BE16(516), 0), list, 516);
	expect_bad_param(a, 2, -1);
	send_cdb(a, CDB(0x48, 0x42, 0, 0, 0, 0, 0, 0, 0, 0), NULL, 0);
	expect_bad_cdb(a, 1, 6);
	erase(a, 4);
	expect_bad_cdb(a, 1, 4);
	erase(a, 0x1f);
	expect_good(a); /* there is no failure to leave */
	expect_bytes(a, 0, (const uint8_t[]){1}, 1);
	world_logout(a);
	world_close(w);
}

static void meanwhile_others_are_kept_out_and_see_progress(void **state)
{
	struct world *w = world_open(&(struct world_options){.size = 64 << 20});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");
	uint8_t block[512];
	struct iovec iov = {block, sizeof(block)};
	struct lun_io io = {
		.op = LUN_READ, .len = sizeof(block), .iov = &iov, .niov = 1, .reg_index = -1};
	unsigned last = 0, now;

	overwrite(a, IMMED, 31, "x"); /* two gigabytes, paced: long enough to look */
	expect_good(a);
	send_cdb(b, CDB(0x28, 0, BE32(0), 0, BE16(1), 0), NULL, 0);
	expect_sense(b, SENSE_NOT_READY, ASC_SANITIZE_IN_PROGRESS);
	send_cdb(b, CDB(0x12, 0, 0, BE16(96), 0), NULL, 0);
	expect_good(b);
	erase(b, 2);
	expect_sense(b, SENSE_NOT_READY, ASC_SANITIZE_IN_PROGRESS);
	assert_int_equal(lun_run(w->lun, &io), -EPERM);
	assert_int_equal(send_tmf(b, SCSI_TMF_LUN_RESET), SCSI_TMF_COMPLETE); /* does not stop it */
	test_unit_ready(b);
	for (int n = 0; n < 20 || (!last && n < 10000); n++) {
		assert_int_equal(test_unit_ready(b), ASC_SANITIZE_IN_PROGRESS);
		assert_true(b->r.sense[15] & 0x80);
		now = get_be16(b->r.sense + 16);
		assert_true(now >= last);
		last = now;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	assert_true(last > 0);
	world_logout(a);
	world_logout(b);
	world_close(w); /* the operation is stopped, not waited for */
}

/** With a state directory: stopped in the middle, it starts over, and ends. */
static void it_goes_on_in_the_next_process(void **state)
{
	char dir[64], path[96];
	const struct world_options opt = {.state = dir, .size = 4 << 20};
	struct world *w;
	struct initiator *a;

	scratch_dir("/tmp", dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/scsi/disk.sanitize.json", dir);
	do { /* a busy machine may stop us for so long that it ends */
		w = world_open(&opt);
		a = world_login(w, 0, "iqn.a");
		overwrite(a, IMMED, 31, "y");
		expect_good(a);
		world_logout(a);
		world_close(w);
	} while (access(path, F_OK));
	w = world_open(&opt);
	a = world_login(w, 0, "iqn.a");
	wait_over(a);
	expect_good(a);
	assert_int_equal(access(path, F_OK), -1);
	expect_bytes(a, 9, (const uint8_t[]){'y'}, 1);
	world_logout(a);
	world_close(w);
}

/** What cannot be put on record does not begin; what failed stays failed until somebody acts. */
static void failure_is_remembered_until_it_is_left(void **state)
{
	char dir[64], path[96];
	struct world *w;
	struct initiator *a;
	int fd;

	scratch_dir("/tmp", dir, sizeof(dir));
	w = world_open(&(struct world_options){.state = dir});
	a = world_login(w, 0, "iqn.a");
	snprintf(path, sizeof(path), "%s/scsi", dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600); /* its record cannot be written */
	assert_true(fd >= 0);
	close(fd);
	put(a, 0, 7);
	erase(a, 2);
	expect_sense(a, SENSE_HARDWARE_ERROR, ASC_INTERNAL_TARGET_FAILURE);
	expect_bytes(a, 0, (const uint8_t[]){7}, 1); /* so it did not begin */
	assert_int_equal(unlink(path), 0);
	world_logout(a);
	world_close(w);

	/* A record of a failed operation, as the one that failed leaves it. */
	for (int ause = 0; ause < 2; ause++) {
		FILE *f;

		w = world_open(&(struct world_options){.state = dir});
		snprintf(path, sizeof(path), "mkdir -p %s/scsi", dir);
		assert_int_equal(system(path), 0);
		snprintf(path, sizeof(path), "%s/scsi/disk.sanitize.json", dir);
		f = fopen(path, "w");
		assert_non_null(f);
		fprintf(f,
			"{\"version\": 1, \"lun\": \"%s\", \"failed\": true, \"action\": 2, "
			"\"ause\": %s, \"invert\": false, \"count\": 0, \"pattern\": \"\"}",
			lun_identity(w->lun)->serial, ause ? "true" : "false");
		fclose(f);
		world_close(w);
		w = world_open(&(struct world_options){.state = dir});
		a = world_login(w, 0, "iqn.a");
		assert_int_equal(test_unit_ready(a), ASC_SANITIZE_FAILED);
		assert_int_equal(sense_key(a), SENSE_MEDIUM_ERROR);
		erase(a, 0x1f);
		if (ause) {
			expect_good(a);
		} else {
			expect_bad_cdb(a, 1, 4);
			erase(a, 2 | AUSE); /* but another try is allowed */
			expect_good(a);
		}
		assert_int_equal(test_unit_ready(a), 0);
		assert_int_equal(access(path, F_OK), -1);
		world_logout(a);
		world_close(w);
	}
}

static void not_on_what_is_write_protected(void **state)
{
	struct world *w = world_open(&(struct world_options){.read_only = true});
	struct initiator *a = world_login(w, 0, "iqn.a");

	erase(a, 2);
	expect_sense(a, SENSE_DATA_PROTECT, ASC_WRITE_PROTECTED);
	world_logout(a);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(overwrite_leaves_the_pattern),
		cmocka_unit_test(erase_leaves_nothing),
		cmocka_unit_test(bad_requests_are_refused),
		cmocka_unit_test(meanwhile_others_are_kept_out_and_see_progress),
		cmocka_unit_test(it_goes_on_in_the_next_process),
		cmocka_unit_test(failure_is_remembered_until_it_is_left),
		cmocka_unit_test(not_on_what_is_write_protected),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
