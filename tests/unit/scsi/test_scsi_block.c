/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The block commands and the pages that describe them, against a LUN on a file. */
#include "scsi_harness.h"

#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "scsi/scsi_internal.h"

#define BS     512u
#define BLOCKS (8u * 2048)

static struct world *w;
static struct initiator *a;
static uint8_t buf[1u << 20], want[1u << 20];

static int open_with(const struct world_options *opt)
{
	w = world_open(opt);
	a = world_login(w, 0, "iqn.a");
	return 0;
}

static int open_thin(void **state)
{
	return open_with(&(struct world_options){0});
}

static int open_big(void **state)
{
	return open_with(&(struct world_options){.size = 64u << 20});
}

static int open_thick(void **state)
{
	return open_with(&(struct world_options){.thick = true});
}

static int open_4k(void **state)
{
	return open_with(&(struct world_options){.block_size = 4096});
}

static int close_world(void **state)
{
	world_logout(a);
	world_close(w);
	return 0;
}

static void fill(uint8_t *p, size_t n, unsigned seed)
{
	uint32_t x = seed * 2654435761u + 1;

	for (size_t i = 0; i < n; i++) {
		x = x * 1664525 + 1013904223;
		p[i] = (uint8_t)(x >> 24);
	}
}

static void read_blocks(uint64_t lba, uint32_t n)
{
	send_cdb(a, CDB(0x88, 0, BE64(lba), BE32(n), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, n * w->lu->block_size);
}

static void write_blocks(uint64_t lba, uint32_t n, const uint8_t *data)
{
	send_cdb(a, CDB(0x8a, 0, BE64(lba), BE32(n), 0, 0), data, n * w->lu->block_size);
	expect_good(a);
}

static bool medium_is(uint64_t lba, uint32_t n, const uint8_t *data)
{
	read_blocks(lba, n);
	return !memcmp(a->r.data, data, n * w->lu->block_size);
}

static bool medium_is_byte(uint64_t lba, uint32_t n, uint8_t byte)
{
	memset(want, byte, n * w->lu->block_size);
	return medium_is(lba, n, want);
}

/* --- READ and WRITE --- */

static void every_form_of_write_is_read_by_every_form_of_read(void **state)
{
	for (unsigned form = 0; form < 4; form++) {
		uint32_t lba = 100 + form * 7, n = 3;

		fill(buf, n * BS, form);
		switch (form) {
		case 0:
			send_cdb(a, CDB(0x0a, 0, BE16(lba), (uint8_t)n, 0), buf, n * BS);
			break;
		case 1:
			send_cdb(a, CDB(0x2a, 0, BE32(lba), 0, BE16(n), 0), buf, n * BS);
			break;
		case 2:
			send_cdb(a, CDB(0xaa, 8, BE32(lba), BE32(n), 0, 0), buf, n * BS);
			break;
		default:
			send_cdb(a, CDB(0x8a, 0x10, BE64(lba), BE32(n), 0, 0), buf, n * BS);
			break;
		}
		expect_good(a);
		assert_int_equal(a->r.dir, SCSI_DIR_OUT);
		assert_int_equal(a->r.data_len, n * BS);
		send_cdb(a, CDB(0x08, 0, BE16(lba), (uint8_t)n, 0), NULL, 0);
		expect_good(a);
		assert_memory_equal(a->r.data, buf, n * BS);
		send_cdb(a, CDB(0x28, 0x18, BE32(lba), 0, BE16(n), 0), NULL, 0);
		expect_good(a);
		assert_memory_equal(a->r.data, buf, n * BS);
		send_cdb(a, CDB(0xa8, 0, BE32(lba), BE32(n), 0, 0), NULL, 0);
		expect_good(a);
		assert_memory_equal(a->r.data, buf, n * BS);
		assert_true(medium_is(lba, n, buf));
	}
}

static void six_byte_length_zero_is_256_blocks(void **state)
{
	fill(buf, 256 * BS, 9);
	send_cdb(a, CDB(0x0a, 0, 0, 16, 0, 0), buf, 256 * BS);
	expect_good(a);
	assert_int_equal(a->r.data_len, 256 * BS);
	send_cdb(a, CDB(0x08, 0, 0, 16, 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 256 * BS);
	assert_memory_equal(a->r.data, buf, 256 * BS);
	send_cdb(a, CDB(0x08, 0x1f, 0xff, 0xff, 1, 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
}

static void short_data_out_writes_the_whole_blocks_that_came(void **state)
{
	static const struct {
		uint32_t offered, written;
	} t[] = {{0, 0}, {200, 0}, {BS, 1}, {BS + 511, 1}, {2 * BS, 2}, {3 * BS, 2}, {10000, 2}};
	static const struct {
		uint8_t cdb[16];
		unsigned len;
	} cmds[] = {
		{{0x2a, 0, 0, 0, 0, 0, 0, 0, 2}, 10},
		{{0xaa, 0, 0, 0, 0, 0, 0, 0, 0, 2}, 12},
		{{0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}, 16},
		{{0x2e, 2, 0, 0, 0, 0, 0, 0, 2}, 10},
		{{0xae, 2, 0, 0, 0, 0, 0, 0, 0, 2}, 12},
		{{0x8e, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}, 16},
		{{0x8e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}, 16},
	};

	for (unsigned c = 0; c < sizeof(cmds) / sizeof(cmds[0]); c++) {
		for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
			memset(buf, 'a', 4 * BS);
			write_blocks(0, 4, buf);
			memset(buf, 'b', 10000);
			send_cdb(a, cmds[c].cdb, cmds[c].len, buf, t[n].offered);
			expect_good(a);
			assert_int_equal(a->r.data_len, 2 * BS);
			memset(want, 'a', 4 * BS);
			memset(want, 'b', t[n].written * BS);
			assert_true(medium_is(0, 4, want));
		}
	}
}

/* --- VERIFY, WRITE AND VERIFY --- */

static void verify_compares_what_bytchk_says(void **state)
{
	static const struct {
		uint8_t opcode, cdb_len, len_off;
	} t[] = {{0x2f, 10, 8}, {0xaf, 12, 9}, {0x8f, 16, 13}};
	uint64_t info = 0;

	fill(buf, 4 * BS, 5);
	write_blocks(0, 4, buf);
	for (unsigned n = 0; n < 3; n++) {
		uint8_t cdb[16] = {t[n].opcode};

		cdb[t[n].len_off] = 4;
		send_cdb(a, cdb, t[n].cdb_len, NULL, 0);
		expect_good(a);
		assert_int_equal(a->r.dir, SCSI_DIR_NONE);
		cdb[1] = 0x02;
		send_cdb(a, cdb, t[n].cdb_len, buf, 4 * BS);
		expect_good(a);
		buf[1500] ^= 1;
		send_cdb(a, cdb, t[n].cdb_len, buf, 4 * BS);
		expect_sense(a, SENSE_MISCOMPARE, 0x1d00);
		assert_true(sense_info(a, &info));
		assert_int_equal(info, 1500);
		/* what did not come is not compared */
		send_cdb(a, cdb, t[n].cdb_len, buf, 2 * BS);
		expect_good(a);
		buf[1500] ^= 1;
		cdb[1] = 0x04;
		send_cdb(a, cdb, t[n].cdb_len, buf, BS);
		expect_bad_cdb(a, 1, 2);
	}
}

static void verify_can_compare_one_block_with_all(void **state)
{
	uint64_t info = 0;

	memset(buf, 0x5a, 300 * BS);
	write_blocks(7, 300, buf);
	send_cdb(a, CDB(0x8f, 6, BE64(7), BE32(300), 0, 0), buf, BS);
	expect_good(a);
	assert_int_equal(a->r.data_len, BS);
	send_cdb(a, CDB(0x8f, 6, BE64(7), BE32(301), 0, 0), buf, BS);
	expect_sense(a, SENSE_MISCOMPARE, 0x1d00);
	assert_true(sense_info(a, &info));
	assert_int_equal(info, 300 * BS);
	send_cdb(a, CDB(0x8f, 6, BE64(7), BE32(300), 0, 0), buf, BS - 1);
	expect_bad_cdb(a, 10, -1);
	send_cdb(a, CDB(0x8f, 6, BE64(7), BE32(0), 0, 0), NULL, 0);
	expect_good(a);
}

static void write_and_verify_knows_bytchk_0_and_1(void **state)
{
	fill(buf, 2 * BS, 77);
	send_cdb(a, CDB(0x8e, 2, BE64(9), BE32(2), 0, 0), buf, 2 * BS);
	expect_good(a);
	assert_true(medium_is(9, 2, buf));
	send_cdb(a, CDB(0x2e, 4, BE32(9), 0, BE16(2), 0), buf, 2 * BS);
	expect_bad_cdb(a, 1, 2);
	send_cdb(a, CDB(0xae, 6, BE32(9), BE32(2), 0, 0), buf, 2 * BS);
	expect_bad_cdb(a, 1, 2);
}

/* --- the indivisible ones --- */

static void compare_and_write_writes_only_on_a_match(void **state)
{
	uint64_t info = 0;

	memset(buf, 'A', 8 * BS);
	write_blocks(0, 8, buf);
	memset(buf + 4 * BS, 'B', 4 * BS);
	send_cdb(a, CDB(0x89, 0, BE64(2), 0, 0, 0, 4, 0, 0), buf, 8 * BS);
	expect_good(a);
	assert_true(medium_is_byte(0, 2, 'A'));
	assert_true(medium_is_byte(2, 4, 'B'));
	assert_true(medium_is_byte(6, 2, 'A'));
	for (unsigned at = 0; at < 4 * BS; at += 511) {
		memset(buf, 'B', 4 * BS);
		memset(buf + 4 * BS, 'C', 4 * BS);
		buf[at] = 'Z';
		send_cdb(a, CDB(0x89, 0, BE64(2), 0, 0, 0, 4, 0, 0), buf, 8 * BS);
		expect_sense(a, SENSE_MISCOMPARE, 0x1d00);
		assert_true(sense_info(a, &info));
		assert_int_equal(info, at);
		assert_true(medium_is_byte(2, 4, 'B'));
	}
	send_cdb(a, CDB(0x89, 0, BE64(2), 0, 0, 0, 0, 0, 0), NULL, 0);
	expect_good(a);
}

static void commands_that_are_all_or_nothing_want_all_their_data(void **state)
{
	static const struct {
		uint8_t cdb[16];
		unsigned len, need, byte;
	} t[] = {
		{{0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 16, 2 * BS, 13},
		{{0x41, 0, 0, 0, 0, 0, 0, 0, 1}, 10, BS, 7},
		{{0x41, 8, 0, 0, 0, 0, 0, 0, 1}, 10, BS, 7},
		{{0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 16, BS, 10},
		{{0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}, 16, 2 * BS, 12},
		{{0x8f, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}, 16, BS, 10},
	};

	memset(buf, 0, 8 * BS);
	for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		send_cdb(a, t[n].cdb, t[n].len, buf, t[n].need);
		expect_good(a);
		send_cdb(a, t[n].cdb, t[n].len, buf, t[n].need / 2);
		expect_bad_cdb(a, t[n].byte, -1);
		send_cdb(a, t[n].cdb, t[n].len, buf, t[n].need * 2);
		expect_bad_cdb(a, t[n].byte, -1);
		send_cdb(a, t[n].cdb, t[n].len, buf, 0);
		expect_bad_cdb(a, t[n].byte, -1);
	}
	/* 256 blocks do not fit the field: 0 blocks, but data */
	send_cdb(a, CDB(0x89, 0, BE64(0), 0, 0, 0, 0, 0, 0), buf, 512 * BS);
	expect_bad_cdb(a, 13, -1);
}

static void write_atomic_has_its_limits(void **state)
{
	fill(buf, 257 * BS, 4);
	send_cdb(a, CDB(0x9c, 0, BE64(1), 0, 0, BE16(256), 0, 0), buf, 256 * BS);
	expect_good(a);
	assert_true(medium_is(1, 256, buf));
	send_cdb(a, CDB(0x9c, 0, BE64(1), 0, 0, BE16(257), 0, 0), buf, 257 * BS);
	expect_bad_cdb(a, 12, -1);
	send_cdb(a, CDB(0x9c, 0, BE64(1), 0, 8, BE16(8), 0, 0), buf, 8 * BS);
	expect_bad_cdb(a, 10, -1);
	send_cdb(a, CDB(0x9c, 0, BE64(BLOCKS), 0, 0, BE16(1), 0, 0), buf, BS);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
}

static void orwrite_ors(void **state)
{
	memset(buf, 0xa5, 3 * BS);
	write_blocks(1, 3, buf);
	memset(buf, 0x5a, 2 * BS);
	send_cdb(a, CDB(0x8b, 0, BE64(1), BE32(2), 0, 0), buf, 2 * BS);
	expect_good(a);
	assert_true(medium_is_byte(1, 2, 0xff));
	assert_true(medium_is_byte(3, 1, 0xa5));
}

/* --- provisioning --- */

static void write_same_repeats_its_block(void **state)
{
	memset(buf, 0xee, 64 * BS);
	write_blocks(0, 64, buf);
	fill(buf, BS, 3);
	send_cdb(a, CDB(0x41, 0, BE32(8), 0, BE16(40), 0), buf, BS);
	expect_good(a);
	for (unsigned n = 1; n < 40; n++)
		memcpy(buf + n * BS, buf, BS);
	assert_true(medium_is(8, 40, buf));
	assert_true(medium_is_byte(7, 1, 0xee));
	assert_true(medium_is_byte(48, 1, 0xee));
	send_cdb(a, CDB(0x93, 0x01, BE64(9), BE32(3), 0, 0), NULL, 0); /* NDOB */
	expect_good(a);
	assert_true(medium_is_byte(9, 3, 0));
	assert_true(medium_is(8, 1, buf));
	assert_true(medium_is(12, 1, buf));
	send_cdb(a, CDB(0x93, 0x08, BE64(0), BE32(8), 0, 0), buf, BS); /* UNMAP, not zeros */
	expect_good(a);
	assert_true(medium_is(0, 8, buf));
	memset(want, 0, BS);
	send_cdb(a, CDB(0x93, 0x08, BE64(0), BE32(8), 0, 0), want, BS);
	expect_good(a);
	assert_true(medium_is_byte(0, 8, 0));
}

static void write_same_refuses_what_b0_does_not_offer(void **state)
{
	memset(buf, 0x77, BS);
	send_cdb(a, CDB(0x41, 0, BE32(0), 0, BE16(0), 0), buf, BS); /* to the end is too far */
	expect_bad_cdb(a, 7, -1);
	send_cdb(a, CDB(0x93, 0, BE64(8 * BLOCKS - SCSI_WS_MAX - 1), BE32(0), 0, 0), buf, BS);
	expect_bad_cdb(a, 10, -1);
	send_cdb(a, CDB(0x93, 0, BE64(8 * BLOCKS - SCSI_WS_MAX), BE32(0), 0, 0), buf, BS);
	expect_good(a);
	assert_true(medium_is_byte(8 * BLOCKS - SCSI_WS_MAX, 1, 0x77));
	assert_true(medium_is_byte(8 * BLOCKS - 1, 1, 0x77));
	assert_true(medium_is_byte(8 * BLOCKS - SCSI_WS_MAX - 1, 1, 0));
	send_cdb(a, CDB(0x93, 0, BE64(8 * BLOCKS), BE32(0), 0, 0), buf, BS);
	expect_good(a);
	send_cdb(a, CDB(0x93, 0, BE64(8 * BLOCKS + 1), BE32(0), 0, 0), buf, BS);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
	send_cdb(a, CDB(0x93, 0, BE64(0), BE32(SCSI_WS_MAX + 1), 0, 0), buf, BS);
	expect_bad_cdb(a, 10, -1);
	send_cdb(a, CDB(0x93, 0x18, BE64(0), BE32(1), 0, 0), buf, BS); /* ANCHOR */
	expect_bad_cdb(a, 1, 4);
	send_cdb(a, CDB(0x41, 0x10, BE32(0), 0, BE16(1), 0), buf, BS);
	expect_bad_cdb(a, 1, 4);
	send_cdb(a, CDB(0x93, 0, BE64(8 * BLOCKS - 1), BE32(2), 0, 0), buf, BS);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
}

static unsigned unmap_list(uint8_t *p, unsigned n)
{
	memset(p, 0, 8 + 16 * n);
	put_be16(p, (uint16_t)(6 + 16 * n));
	put_be16(p + 2, (uint16_t)(16 * n));
	return 8 + 16 * n;
}

static void unmap_range(uint8_t *p, unsigned i, uint64_t lba, uint32_t n)
{
	put_be64(p + 8 + 16 * i, lba);
	put_be32(p + 8 + 16 * i + 8, n);
}

static void send_unmap(const uint8_t *p, unsigned len)
{
	send_cdb(a, CDB(0x42, 0, 0, 0, 0, 0, 0, BE16(len), 0), p, len);
}

static void unmapped_blocks_read_as_zeros(void **state)
{
	static uint8_t p[8 + 16 * 257];
	unsigned len;

	memset(buf, 0xcc, 256 * BS);
	write_blocks(0, 256, buf);
	len = unmap_list(p, 3);
	unmap_range(p, 0, 8, 16);
	unmap_range(p, 1, 100, 0);
	unmap_range(p, 2, 101, 3);
	send_unmap(p, len);
	expect_good(a);
	assert_true(medium_is_byte(8, 16, 0));
	assert_true(medium_is_byte(101, 3, 0));
	assert_true(medium_is_byte(0, 8, 0xcc));
	assert_true(medium_is_byte(24, 77, 0xcc));
	assert_true(medium_is_byte(104, 152, 0xcc));
	send_unmap(p, 0);
	expect_good(a);
	send_unmap(p, 8);
	expect_good(a);
	for (unsigned n = 1; n < 8; n++) {
		send_unmap(p, n);
		expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x1a00);
	}
	len = unmap_list(p, 1);
	unmap_range(p, 0, BLOCKS, 0);
	send_unmap(p, len);
	expect_good(a);
	len = unmap_list(p, 256);
	for (unsigned n = 0; n < 256; n++)
		unmap_range(p, n, n, 1);
	send_unmap(p, len);
	expect_good(a);
	assert_true(medium_is_byte(0, 256, 0));
}

static void refused_unmap_lists_change_nothing(void **state)
{
	static uint8_t p[8 + 16 * 257];
	unsigned len;

	memset(buf, 0xcc, 256 * BS);
	write_blocks(0, 256, buf);
	len = unmap_list(p, 2);
	unmap_range(p, 0, 0, 8);
	unmap_range(p, 1, BLOCKS - 1, 2);
	send_unmap(p, len);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
	unmap_range(p, 1, UINT64_MAX, 1);
	send_unmap(p, len);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
	len = unmap_list(p, 257);
	for (unsigned n = 0; n < 257; n++)
		unmap_range(p, n, n, 1);
	send_unmap(p, len);
	expect_bad_param(a, 2, -1);
	assert_true(medium_is_byte(0, 256, 0xcc));
	/* half a descriptor is none */
	len = unmap_list(p, 1);
	unmap_range(p, 0, 0, 8);
	send_unmap(p, len - 1);
	expect_good(a);
	assert_true(medium_is_byte(0, 256, 0xcc));
	send_cdb(a, CDB(0x42, 1, 0, 0, 0, 0, 0, BE16(24), 0), p, 24); /* ANCHOR */
	expect_bad_cdb(a, 1, 0);
}

static void thick_units_do_not_know_unmap(void **state)
{
	send_unmap(buf, 24);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2000);
	send_cdb(a, CDB(0x93, 0x08, BE64(0), BE32(1), 0, 0), buf, BS);
	expect_bad_cdb(a, 1, 3);
	send_cdb(a, CDB(0x9e, 0x10, BE64(0), BE32(32), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[14], 0);
	send_cdb(a, CDB(0x12, 1, 0xb2, BE16(64), 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[5], 0);
	send_cdb(a, CDB(0xa3, 0x0c, 1, 0x42, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[1], 1);
}

static void lba_status_follows_unmap(void **state)
{
	uint8_t p[24];

	memset(buf, 1, 1u << 20);
	write_blocks(0, 2048, buf);
	unmap_list(p, 1);
	unmap_range(p, 0, 800, 80);
	send_unmap(p, 24);
	expect_good(a);
	send_cdb(a, CDB(0x9e, 0x12, BE64(3), BE32(4096), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(get_be32(a->r.data) + 4, a->r.len);
	assert_int_equal(a->r.len, 8 + 4 * 16);
	static const struct {
		uint32_t lba, n;
		uint8_t prov;
	} t[] = {{3, 797, 0}, {800, 80, 1}, {880, 2048 - 880, 0}, {2048, BLOCKS - 2048, 1}};

	for (unsigned n = 0; n < 4; n++) {
		const uint8_t *d = a->r.data + 8 + n * 16;

		assert_int_equal(get_be64(d), t[n].lba);
		assert_int_equal(get_be32(d + 8), t[n].n);
		assert_int_equal(d[12], t[n].prov);
	}
	send_cdb(a, CDB(0x9e, 0x12, BE64(BLOCKS), BE32(24), 0, 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
	send_cdb(a, CDB(0x9e, 0x12, BE64(BLOCKS - 1), BE32(24), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 24);
}

/* --- caches, capacity, defects --- */

static void prefetch_meets_its_condition(void **state)
{
	send_cdb(a, CDB(0x34, 0, BE32(0), 0, BE16(8), 0), NULL, 0);
	assert_int_equal(a->r.status, SCSI_CONDITION_MET);
	send_cdb(a, CDB(0x90, 2, BE64(5), BE32(0), 3, 0), NULL, 0);
	assert_int_equal(a->r.status, SCSI_CONDITION_MET);
	send_cdb(a, CDB(0x90, 0, BE64(BLOCKS - 1), BE32(2), 0, 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
	send_cdb(a, CDB(0x35, 2, BE32(0), 0, BE16(0), 0), NULL, 0);
	expect_good(a);
	send_cdb(a, CDB(0x91, 0, BE64(BLOCKS), BE32(0), 0, 0), NULL, 0);
	expect_good(a);
	send_cdb(a, CDB(0x91, 0, BE64(BLOCKS), BE32(1), 0, 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
}

static void capacity_is_told(void **state)
{
	send_cdb(a, CDB(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(get_be32(a->r.data), BLOCKS - 1);
	assert_int_equal(get_be32(a->r.data + 4), BS);
	for (unsigned n = 0; n <= 40; n++) {
		send_cdb(a, CDB(0x9e, 0x10, BE64(0), BE32(n), 0, 0), NULL, 0);
		expect_good(a);
		assert_int_equal(a->r.len, n < 32 ? n : 32);
	}
	assert_int_equal(get_be64(a->r.data), BLOCKS - 1);
	assert_int_equal(a->r.data[13], 3);
	assert_int_equal(a->r.data[14], 0xc0);
}

static void blocks_of_4096_bytes(void **state)
{
	send_cdb(a, CDB(0x9e, 0x10, BE64(0), BE32(32), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(get_be64(a->r.data), BLOCKS / 8 - 1);
	assert_int_equal(get_be32(a->r.data + 8), 4096);
	assert_int_equal(a->r.data[13], 0);
	fill(buf, 3 * 4096, 1);
	write_blocks(BLOCKS / 8 - 3, 3, buf);
	assert_true(medium_is(BLOCKS / 8 - 3, 3, buf));
	send_cdb(a, CDB(0x88, 0, BE64(BLOCKS / 8 - 1), BE32(2), 0, 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
	send_cdb(a, CDB(0x88, 0, BE64(0), BE32((IOBUF_MAX >> 12) + 1), 0, 0), NULL, 0);
	expect_bad_cdb(a, 10, -1);
	send_cdb(a, CDB(0x89, 0, BE64(0), 0, 0, 0, 255, 0, 0), NULL, 0);
	assert_int_equal(a->r.data_len, 2 * 255 * 4096);
}

static void there_are_no_defects(void **state)
{
	send_cdb(a, CDB(0x37, 0, 0x1d, 0, 0, 0, 0, BE16(32), 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 4);
	assert_int_equal(get_be32(a->r.data), 0x001d0000);
	send_cdb(a, CDB(0xb7, 0x08, BE32(0), BE32(32), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 8);
	assert_int_equal(a->r.data[1], 0x08);
	send_cdb(a, CDB(0x37, 0, 0x07, 0, 0, 0, 0, BE16(32), 0), NULL, 0);
	expect_bad_cdb(a, 2, 2);
}

/* --- pages --- */

static void page(uint8_t code)
{
	send_cdb(a, CDB(0x12, 1, code, BE16(1024), 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[1], code);
	assert_int_equal(get_be16(a->r.data + 2) + 4, a->r.len);
}

static void page_list_is_sorted_and_true(void **state)
{
	uint8_t list[64];
	unsigned n;

	page(0x00);
	n = a->r.len;
	memcpy(list, a->r.data, n);
	assert_int_equal(n, 4 + 8);
	for (unsigned i = 4; i < n; i++) {
		if (i > 4)
			assert_true(list[i] > list[i - 1]);
		page(list[i]);
	}
	send_cdb(a, CDB(0x12, 1, 0xb3, BE16(64), 0), NULL, 0);
	expect_bad_cdb(a, 2, -1);
	send_cdb(a, CDB(0x12, 0, 0x80, BE16(64), 0), NULL, 0);
	expect_bad_cdb(a, 2, -1);
}

static void identity_is_in_every_page_that_tells_it(void **state)
{
	const struct lun_identity *id = lun_identity(w->lun);
	unsigned seen = 0;

	page(0x80);
	assert_int_equal(a->r.len, 4 + 36);
	assert_memory_equal(a->r.data + 4, id->serial, 36);
	page(0x83);
	for (unsigned o = 4; o < a->r.len; o += 4 + a->r.data[o + 3]) {
		const uint8_t *d = a->r.data + o;

		assert_true(o + 4 + d[3] <= a->r.len);
		if ((d[1] & 0x3f) == 0x03) {
			assert_int_equal(d[3], id->naa_len);
			assert_memory_equal(d + 4, id->naa, d[3]);
			seen |= 1;
		} else if ((d[1] & 0x3f) == 0x02) {
			assert_memory_equal(d + 4, id->eui64, 8);
			seen |= 2;
		} else if ((d[1] & 0x3f) == 0x14) {
			assert_int_equal(get_be32(d + 4), 1);
			assert_int_equal(d[0], 0x51);
			seen |= 4;
		} else if ((d[1] & 0x3f) == 0x28) {
			assert_string_equal((const char *)d + 4, "iqn.2026-11.local.ebb:test");
			assert_int_equal(d[3] % 4, 0);
			seen |= 8;
		}
	}
	assert_int_equal(seen, 15);
}

static void block_limits_are_those_held_to(void **state)
{
	page(0xb0);
	assert_int_equal(a->r.len, 64);
	assert_int_equal(a->r.data[4], 0);
	assert_int_equal(a->r.data[5], 255);
	assert_int_equal(get_be32(a->r.data + 8), IOBUF_MAX / BS);
	assert_int_equal(get_be32(a->r.data + 20), 1u << 20);
	assert_int_equal(get_be32(a->r.data + 24), 256);
	assert_int_equal(get_be32(a->r.data + 28), 8);
	assert_int_equal(get_be32(a->r.data + 32), 0x80000000);
	assert_int_equal(get_be64(a->r.data + 36), 32768);
	assert_int_equal(get_be32(a->r.data + 44), 256);
	page(0xb1);
	assert_int_equal(a->r.data[7], 0x50);
	page(0xb2);
	assert_int_equal(a->r.data[5], 0xe4);
	assert_int_equal(a->r.data[6], 2);
}

static void third_party_copy_page_is_well_formed(void **state)
{
	unsigned types[8], n = 0, o;

	page(0x8f);
	for (o = 4; o < a->r.len; o += 4 + get_be16(a->r.data + o + 2)) {
		assert_true(n < 8);
		types[n++] = get_be16(a->r.data + o);
		assert_int_equal(get_be16(a->r.data + o + 2) % 4, 0);
	}
	assert_int_equal(o, a->r.len);
	assert_int_equal(n, 4);
	assert_int_equal(types[0], 0x0001);
	assert_int_equal(types[1], 0x0004);
	assert_int_equal(types[2], 0x0008);
	assert_int_equal(types[3], 0x8001);
	assert_int_equal(a->r.data[9], 0x83);
}

#define thin(f) cmocka_unit_test_setup_teardown(f, open_thin, close_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
		thin(every_form_of_write_is_read_by_every_form_of_read),
		thin(six_byte_length_zero_is_256_blocks),
		thin(short_data_out_writes_the_whole_blocks_that_came),
		thin(verify_compares_what_bytchk_says),
		thin(verify_can_compare_one_block_with_all),
		thin(write_and_verify_knows_bytchk_0_and_1),
		thin(compare_and_write_writes_only_on_a_match),
		thin(commands_that_are_all_or_nothing_want_all_their_data),
		thin(write_atomic_has_its_limits),
		thin(orwrite_ors),
		thin(write_same_repeats_its_block),
		cmocka_unit_test_setup_teardown(write_same_refuses_what_b0_does_not_offer, open_big,
						close_world),
		thin(unmapped_blocks_read_as_zeros),
		thin(refused_unmap_lists_change_nothing),
		cmocka_unit_test_setup_teardown(thick_units_do_not_know_unmap, open_thick,
						close_world),
		thin(lba_status_follows_unmap),
		thin(prefetch_meets_its_condition),
		thin(capacity_is_told),
		cmocka_unit_test_setup_teardown(blocks_of_4096_bytes, open_4k, close_world),
		thin(there_are_no_defects),
		thin(page_list_is_sorted_and_true),
		thin(identity_is_in_every_page_that_tells_it),
		thin(block_limits_are_those_held_to),
		thin(third_party_copy_page_is_well_formed),
	};

	return cmocka_run_group_tests_name("scsi block", tests, NULL, NULL);
}
