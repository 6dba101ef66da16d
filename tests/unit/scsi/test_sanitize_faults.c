/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SANITIZE on a store that fails, and against commands that were under way when it began. */
#include "scsi_harness.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SIZE  (4u << 20)
#define IMMED 0x80
#define AUSE  0x20

/* A store in memory. */
struct fake {
	struct block_store base;
	uint8_t *data;
	_Atomic int fail_writes; /* errno of every write; 0: none */
	_Atomic int discards;
	/* Holds back the completion of the next submitted op until release() */
	_Atomic bool hold;
	_Atomic(struct block_io *) held;
};

static int fake_run(struct block_store *s, struct block_io *io)
{
	struct fake *f = container_of(s, struct fake, base);
	uint64_t done = 0;

	if (io->op == BLOCK_DISCARD)
		atomic_fetch_add(&f->discards, 1);
	if (io->op == BLOCK_WRITE && atomic_load(&f->fail_writes))
		return atomic_load(&f->fail_writes);
	if (io->op == BLOCK_ZERO || io->op == BLOCK_DISCARD)
		memset(f->data + io->off, 0, io->len);
	if (io->op != BLOCK_READ && io->op != BLOCK_WRITE)
		return 0;
	for (int i = 0; i < io->niov && done < io->len; i++) {
		size_t left = io->len - done;
		size_t n = io->iov[i].iov_len < left ? io->iov[i].iov_len : left;
		uint8_t *p = f->data + io->off + done;

		if (io->op == BLOCK_READ)
			memcpy(io->iov[i].iov_base, p, n);
		else
			memcpy(p, io->iov[i].iov_base, n);
		done += n;
	}
	return 0;
}

static void fake_submit(struct block_store *s, struct block_io *io)
{
	struct fake *f = container_of(s, struct fake, base);

	if (atomic_exchange(&f->hold, false))
		atomic_store(&f->held, io);
	else
		io->done(io, fake_run(s, io));
}

static void fake_close(struct block_store *s)
{
	struct fake *f = container_of(s, struct fake, base);

	free(f->data);
	free(f);
}

static void fake_info(struct block_store *s, struct block_info *ret_info)
{
	*ret_info = (struct block_info){
		.type = "fake", .size = SIZE, .write_unit = 512, .discard_unit = 512};
}

static const struct block_ops fake_ops = {.type = "fake",
					  .close = fake_close,
					  .submit = fake_submit,
					  .run = fake_run,
					  .get_info = fake_info};

static struct world *open_world(struct fake **ret_fake)
{
	struct fake *f = calloc(1, sizeof(*f));

	f->base.ops = &fake_ops;
	f->base.size = SIZE;
	f->data = calloc(1, SIZE);
	*ret_fake = f;
	return world_open(&(struct world_options){.store = &f->base});
}

static void overwrite(struct initiator *i, uint8_t flags, uint8_t value)
{
	const uint8_t list[] = {1, 0, 0, 1, value};

	send_cdb(i, CDB(0x48, 0x01 | flags, 0, 0, 0, 0, 0, BE16(5), 0), list, sizeof(list));
}

static void exit_failure(struct initiator *i)
{
	send_cdb(i, CDB(0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0), NULL, 0);
}

static unsigned test_unit_ready(struct initiator *i)
{
	send_cdb(i, CDB(0x00, 0, 0, 0, 0, 0), NULL, 0);
	return i->r.status == SCSI_GOOD ? 0 : sense_asc(i);
}

static void wait_over(struct initiator *i)
{
	while (test_unit_ready(i) == ASC_SANITIZE_IN_PROGRESS)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void an_error_of_the_medium_fails_it_until_somebody_acts(void **state)
{
	struct fake *f;
	struct world *w = open_world(&f);
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");
	uint8_t block[512];
	struct iovec iov = {block, sizeof(block)};
	struct lun_io io = {
		.op = LUN_READ, .len = sizeof(block), .iov = &iov, .niov = 1, .reg_index = -1};

	for (int immed = 0; immed < 2; immed++) {
		atomic_store(&f->fail_writes, -EIO);
		overwrite(a, immed ? IMMED : 0, 'x');
		if (immed)
			expect_good(a);
		else
			expect_sense(a, SENSE_MEDIUM_ERROR, ASC_SANITIZE_FAILED);
		wait_over(b);
		expect_sense(b, SENSE_MEDIUM_ERROR, ASC_SANITIZE_FAILED);
		send_cdb(b, CDB(0x28, 0, BE32(0), 0, BE16(1), 0), NULL, 0);
		expect_sense(b, SENSE_MEDIUM_ERROR, ASC_SANITIZE_FAILED);
		assert_int_equal(lun_run(w->lun, &io), -EPERM);
		exit_failure(b); /* without AUSE there is no way out but another try */
		expect_bad_cdb(b, 1, 4);
		overwrite(b, AUSE, 'x');
		expect_sense(b, SENSE_MEDIUM_ERROR, ASC_SANITIZE_FAILED);
		exit_failure(a);
		expect_good(a);
		assert_int_equal(test_unit_ready(b), 0);
		assert_int_equal(lun_run(w->lun, &io), 0);
		overwrite(a, 0, 'x'); /* and the same failure does not stick */
		expect_sense(a, SENSE_MEDIUM_ERROR, ASC_SANITIZE_FAILED);
		atomic_store(&f->fail_writes, 0);
		overwrite(a, 0, 'y');
		expect_good(a);
		assert_int_equal(lun_run(w->lun, &io), 0);
		assert_int_equal(block[0], 'y');
	}
	world_logout(a);
	world_logout(b);
	world_close(w);
}

/* --- commands under way --- */

struct sender {
	pthread_t thread;
	struct initiator *i;
	const uint8_t *cdb, *out;
	unsigned cdb_len, out_len;
};

static void *sender_main(void *arg)
{
	struct sender *s = arg;

	send_cdb(s->i, s->cdb, s->cdb_len, s->out, s->out_len);
	return NULL;
}

static void begin(struct sender *s, struct initiator *i, const uint8_t *cdb, unsigned cdb_len,
		  const uint8_t *out, unsigned out_len)
{
	*s = (struct sender){
		.i = i, .cdb = cdb, .cdb_len = cdb_len, .out = out, .out_len = out_len};
	assert_int_equal(pthread_create(&s->thread, NULL, sender_main, s), 0);
}

static void wait_held(struct fake *f)
{
	while (!atomic_load(&f->held))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static void release(void *arg)
{
	struct fake *f = arg;
	struct block_io *io = atomic_exchange(&f->held, NULL);

	io->done(io, fake_run(&f->base, io));
}

static void a_list_of_unmaps_ends_where_it_stands(void **state)
{
	static const uint8_t cdb[] = {0x42, 0, 0, 0, 0, 0, 0, BE16(8 + 3 * 16), 0};
	static const uint8_t list[8 + 3 * 16] = {
		BE16(6 + 3 * 16), BE16(3 * 16), 0, 0, 0, 0, BE64(0),	BE32(8), 0, 0, 0, 0,
		BE64(4096),	  BE32(8),	0, 0, 0, 0, BE64(5000), BE32(8), 0, 0, 0, 0};
	struct fake *f;
	struct world *w = open_world(&f);
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 0, "iqn.b");
	struct sender s;

	atomic_store(&f->hold, true);
	begin(&s, a, cdb, sizeof(cdb), list, sizeof(list));
	wait_held(f);
	overwrite(b, IMMED, 'z');
	expect_good(b);
	on_reactor(b, release, f); /* the first range; two are left */
	pthread_join(s.thread, NULL);
	expect_sense(a, SENSE_NOT_READY, ASC_SANITIZE_IN_PROGRESS);
	assert_int_equal(atomic_load(&f->discards), 1);
	wait_over(a);
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(f->data[i], 'z');
	world_logout(a);
	world_logout(b);
	world_close(w);
}

static void a_write_that_waits_for_its_range_does_not_follow(void **state)
{
	static const uint8_t cdb[] = {0x2a, 0, BE32(0), 0, BE16(1), 0};
	static const uint8_t block[512] = {1};
	struct fake *f;
	struct world *w = open_world(&f);
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 0, "iqn.b");
	struct initiator *c = world_login(w, 0, "iqn.c");
	struct lun_counters *n = lun_counters(w->lun);
	struct sender first, second;

	atomic_store(&f->hold, true);
	begin(&first, a, cdb, sizeof(cdb), block, sizeof(block));
	wait_held(f);
	begin(&second, b, cdb, sizeof(cdb), block, sizeof(block));
	while (!metric_read(&n->conflicts))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	overwrite(c, IMMED, 'z');
	expect_good(c);
	on_reactor(c, release, f);
	pthread_join(first.thread, NULL);
	pthread_join(second.thread, NULL);
	expect_good(a);
	expect_sense(b, SENSE_NOT_READY, ASC_SANITIZE_IN_PROGRESS);
	wait_over(c);
	assert_int_equal(f->data[0], 'z');
	world_logout(a);
	world_logout(b);
	world_logout(c);
	world_close(w);
}

/** Operations that follow each other at once: none loses its waiter, or ends before it is done. */
static void one_after_the_other(void **state)
{
	struct fake *f;
	struct world *w = open_world(&f);
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");

	for (int n = 0; n < 200; n++) {
		send_cdb(n % 2 ? a : b,
			 CDB(0x48, 0x02 | (n % 3 ? IMMED : 0), 0, 0, 0, 0, 0, 0, 0, 0), NULL, 0);
		expect_good(n % 2 ? a : b);
		if (n % 3 == 0)
			assert_int_equal(test_unit_ready(n % 2 ? b : a), 0);
		else
			wait_over(n % 2 ? b : a);
	}
	world_logout(a);
	world_logout(b);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_error_of_the_medium_fails_it_until_somebody_acts),
		cmocka_unit_test(a_list_of_unmaps_ends_where_it_stands),
		cmocka_unit_test(a_write_that_waits_for_its_range_does_not_follow),
		cmocka_unit_test(one_after_the_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
