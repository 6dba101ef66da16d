/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plans against a file in memory that is as nasty as a kernel may be: every primitive must be
 * aligned, transfers fall short by any number of units, calls are interrupted, fallocate may not be
 * known.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "block/file_private.h"

#define SIZE (1u << 20)

static uint8_t *disk, *model;
static unsigned seed;
static uint64_t end_of_file; /* the file may have become shorter than the store */
static int syncs, dsyncs;
static bool no_fallocate, short_transfers;

static unsigned pick(unsigned n)
{
	return (unsigned)rand_r(&seed) % n;
}

static void check_aligned(const struct file_store *f, const struct file_prim *p)
{
	uint64_t total = 0;

	assert_int_equal(p->off % f->off_align, 0);
	for (int i = 0; i < p->niov; i++) {
		assert_int_equal((uintptr_t)p->iov[i].iov_base % f->mem_align, 0);
		assert_int_equal(p->iov[i].iov_len % f->off_align, 0);
		total += p->iov[i].iov_len;
	}
	assert_int_equal(total, p->len);
	assert_true(p->off + p->len <= SIZE);
}

static int move(const struct file_store *f, const struct file_prim *p)
{
	uint64_t left = p->len, off = p->off, done = 0;

	if (p->kind == FILE_PRIM_READ && off + left > end_of_file)
		left = off < end_of_file ? end_of_file - off : 0;
	if (short_transfers && left >= 2 * f->off_align && pick(2))
		left = (pick((unsigned)(left / f->off_align) - 1) + 1) * f->off_align;
	for (int i = 0; i < p->niov && left; i++) {
		size_t n = p->iov[i].iov_len < left ? p->iov[i].iov_len : left;

		if (p->kind == FILE_PRIM_READ)
			memcpy(p->iov[i].iov_base, disk + off, n);
		else
			memcpy(disk + off, p->iov[i].iov_base, n);
		off += n;
		left -= n;
		done += n;
	}
	return (int)done;
}

static int carry_out(const struct file_store *f, const struct file_prim *p)
{
	switch (p->kind) {
	case FILE_PRIM_READ:
	case FILE_PRIM_WRITE:
		check_aligned(f, p);
		dsyncs += p->rwf == RWF_DSYNC;
		return short_transfers && !pick(10) ? -EINTR : move(f, p);
	case FILE_PRIM_FALLOCATE:
		assert_int_equal((p->off | p->len) % f->fall_unit, 0);
		assert_true(p->mode & FALLOC_FL_KEEP_SIZE);
		if (no_fallocate)
			return -EOPNOTSUPP;
		if (!pick(10))
			return -EINTR;
		memset(disk + p->off, 0, p->len);
		return 0;
	case FILE_PRIM_FSYNC:
		if (!pick(3))
			return -EINTR;
		syncs++;
		return 0;
	default:
		return 0;
	}
}

static int run_plan(struct file_store *f, struct block_io *io)
{
	struct file_prim p;
	int err, rounds = 0;

	io->reactor = NULL;
	file_plan_start(io);
	for (;;) {
		err = file_plan_next(f, io, &p);
		if (err || p.kind == FILE_PRIM_NONE)
			break;
		err = file_plan_result(f, io, carry_out(f, &p));
		if (err)
			break;
		assert_true(++rounds < 100000);
	}
	file_plan_end(io);
	return err;
}

static int set_up(void **state)
{
	disk = calloc(1, SIZE);
	model = calloc(1, SIZE);
	end_of_file = SIZE;
	seed = 1;
	no_fallocate = false;
	short_transfers = true;
	syncs = dsyncs = 0;
	return 0;
}

static int tear_down(void **state)
{
	free(disk);
	free(model);
	return 0;
}

static struct file_store store_with(uint32_t off_align, uint32_t mem_align, uint32_t fall_unit)
{
	return (struct file_store){.fd = -1,
				   .direct = off_align > 1,
				   .device = fall_unit > 1,
				   .off_align = off_align,
				   .mem_align = mem_align,
				   .fall_unit = fall_unit};
}

/* Cuts @len bytes at @p into segments, some odd, some aligned, some empty. */
static int cut(uint8_t *p, size_t len, struct iovec *v, int room)
{
	int n = 0;

	while (len && n < room - 1) {
		size_t part = pick(4) ? pick(3) * 4096 : pick(5000);

		if (part > len)
			part = len;
		v[n++] = (struct iovec){p, part};
		p += part;
		len -= part;
	}
	v[n++] = (struct iovec){p, len};
	return n;
}

static void one_random_io(struct file_store *f, uint8_t *buf)
{
	uint64_t off = pick(SIZE), len, skip = pick(2) ? 0 : pick(6000);
	uint8_t *p = buf + (pick(2) ? 0 : pick(5000));
	struct iovec v[16];
	struct block_io io = {.iov = v, .reg_index = -1, .iov_off = skip};

	if (pick(2))
		off &= ~4095ull;
	len = pick((unsigned)(SIZE - off < 300000 ? SIZE - off : 300000)) + 1;
	if (pick(2) && len > 4096)
		len &= ~4095ull;
	io.off = off;
	io.len = len;
	io.niov = cut(p, skip + len + pick(2) * 100, v, 16);
	switch (pick(6)) {
	case 0:
	case 1:
		io.op = BLOCK_READ;
		memset(p, 0xdd, skip + len + 100);
		assert_int_equal(run_plan(f, &io), 0);
		assert_memory_equal(p + skip, model + off, len);
		for (uint64_t i = 0; i < skip; i++)
			assert_int_equal(p[i], 0xdd);
		for (uint64_t i = 0; i < 100; i++)
			assert_int_equal(p[skip + len + i], 0xdd);
		return;
	case 2:
	case 3:
		io.op = BLOCK_WRITE;
		for (uint64_t i = 0; i < len; i++)
			p[skip + i] = (uint8_t)pick(256);
		memcpy(model + off, p + skip, len);
		break;
	case 4:
		io.op = BLOCK_ZERO;
		io.flags = pick(2) ? BLOCK_MAY_UNMAP : 0;
		memset(model + off, 0, len);
		break;
	default:
		io.op = BLOCK_DISCARD;
		memset(model + off, 0, len);
		break;
	}
	assert_int_equal(run_plan(f, &io), 0);
	assert_memory_equal(disk, model, SIZE);
}

static void torture(struct file_store f)
{
	uint8_t *buf = aligned_alloc(4096, SIZE);

	assert_non_null(buf);
	memset(buf, 0, SIZE);
	for (int i = 0; i < 1500; i++)
		one_random_io(&f, buf);
	free(buf);
}

static void unaligned_io_on_4096_byte_units(void **state)
{
	torture(store_with(4096, 4096, 1));
}

static void unaligned_io_on_512_byte_units_with_easy_memory(void **state)
{
	torture(store_with(512, 4, 1));
}

static void buffered_io(void **state)
{
	torture(store_with(1, 1, 1));
}

static void a_device_without_fallocate(void **state)
{
	no_fallocate = true;
	torture(store_with(4096, 512, 4096));
}

static void a_device_zeroes_its_edges_by_writing(void **state)
{
	torture(store_with(512, 512, 4096));
}

static void aligned_io_is_one_call_without_bounce(void **state)
{
	struct file_store f = store_with(512, 512, 1);
	struct iovec v = {NULL, 65536};
	struct block_io io = {.op = BLOCK_READ, .len = 65536, .iov = &v, .niov = 1, .reg_index = 3};
	struct file_prim p;

	assert_int_equal(posix_memalign(&v.iov_base, 4096, 65536), 0);
	file_plan_start(&io);
	assert_int_equal(file_plan_next(&f, &io, &p), 0);
	assert_int_equal(p.len, 65536);
	assert_int_equal(p.reg_index, 3);
	assert_ptr_equal(p.iov[0].iov_base, v.iov_base);
	assert_null(io.bounce);
	assert_int_equal(file_plan_result(&f, &io, 65536), 0);
	assert_int_equal(file_plan_next(&f, &io, &p), 0);
	assert_int_equal(p.kind, FILE_PRIM_NONE);
	free(v.iov_base);
}

static void fua_is_dsync_or_a_sync_at_the_end(void **state)
{
	struct file_store f = store_with(512, 512, 1);
	uint8_t *buf = aligned_alloc(4096, 8192);
	struct iovec v = {buf, 8192};
	struct block_io io = {.op = BLOCK_WRITE,
			      .flags = BLOCK_FUA,
			      .len = 8000,
			      .iov = &v,
			      .niov = 1,
			      .reg_index = -1};

	memset(buf, 0, 8192);
	short_transfers = false;
	assert_int_equal(run_plan(&f, &io), 0);
	assert_int_equal(dsyncs, 2); /* the aligned part, the odd tail */
	assert_int_equal(syncs, 0);
	io.op = BLOCK_ZERO;
	assert_int_equal(run_plan(&f, &io), 0);
	assert_int_equal(syncs, 1);
	io.op = BLOCK_DISCARD;
	io.flags = 0;
	assert_int_equal(run_plan(&f, &io), 0);
	assert_int_equal(syncs, 1);
	io.op = BLOCK_FLUSH;
	assert_int_equal(run_plan(&f, &io), 0);
	assert_int_equal(syncs, 2);
	free(buf);
}

static void fast_zero_does_not_write(void **state)
{
	struct file_store f = store_with(512, 512, 1);
	struct block_io io = {.op = BLOCK_ZERO,
			      .flags = BLOCK_FAST | BLOCK_MAY_UNMAP,
			      .len = SIZE,
			      .reg_index = -1};

	memset(disk, 1, SIZE);
	no_fallocate = true;
	assert_int_equal(run_plan(&f, &io), -EOPNOTSUPP);
	assert_int_equal(disk[0], 1);
	assert_int_equal(disk[SIZE - 1], 1);
}

static void a_shorter_file_is_nodata(void **state)
{
	struct file_store f = store_with(4096, 4096, 1);
	uint8_t *buf = aligned_alloc(4096, SIZE);
	struct iovec v = {buf, SIZE};
	struct block_io io = {.op = BLOCK_READ, .len = SIZE, .iov = &v, .niov = 1, .reg_index = -1};

	for (end_of_file = 0; end_of_file < SIZE; end_of_file += 50001)
		assert_int_equal(run_plan(&f, &io), -ENODATA);
	/* Nor does read-modify-write make up what is not there. */
	end_of_file = 4096 + 100;
	io.op = BLOCK_WRITE;
	io.off = 4096 + 50;
	io.len = 10;
	assert_int_equal(run_plan(&f, &io), -ENODATA);
	free(buf);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(unaligned_io_on_4096_byte_units),
		TEST(unaligned_io_on_512_byte_units_with_easy_memory),
		TEST(buffered_io),
		TEST(a_device_without_fallocate),
		TEST(a_device_zeroes_its_edges_by_writing),
		TEST(aligned_io_is_one_call_without_bounce),
		TEST(fua_is_dsync_or_a_sync_at_the_end),
		TEST(fast_zero_does_not_write),
		TEST(a_shorter_file_is_nodata),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
