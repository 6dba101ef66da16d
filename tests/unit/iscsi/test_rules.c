// SPDX-License-Identifier: GPL-2.0-or-later
/* Rules that are plain functions: serial numbers, the window, residuals, digests, names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "front/iscsi/iscsi_private.h"

static void serial_numbers_wrap(void **state)
{
	assert_true(iscsi_sn_diff(0, 0xffffffff) > 0);
	assert_true(iscsi_sn_diff(0xfffffff0, 5) < 0);
	assert_int_equal(iscsi_sn_diff(3, 0xfffffffe), 5);
	assert_true(iscsi_sn_in_window(0xffffffff, 0xfffffffe, 1));
	assert_true(iscsi_sn_in_window(1, 0xfffffffe, 1));
	assert_false(iscsi_sn_in_window(2, 0xfffffffe, 1));
	assert_false(iscsi_sn_in_window(0xfffffffd, 0xfffffffe, 1));
	assert_false(iscsi_sn_in_window(10, 10, 9)); /* closed */
}

static void the_window_shrinks_with_commands_in_progress(void **state)
{
	struct iscsi_server srv = {.opt.queue_depth = 4};
	struct iscsi_conn c = {.srv = &srv, .exp_cmdsn = 0xfffffffe};

	assert_int_equal(iscsi_max_cmdsn(&c), 1);
	c.exp_cmdsn++; /* delivering one moves both: MaxCmdSN stays */
	c.window_used++;
	assert_int_equal(iscsi_max_cmdsn(&c), 1);
	c.window_used = 4;
	c.exp_cmdsn = 2;
	assert_int_equal(iscsi_max_cmdsn(&c), 1);
	c.window_used--;
	assert_int_equal(iscsi_max_cmdsn(&c), 2);
}

static void only_what_is_in_the_window_is_admitted(void **state)
{
	struct iscsi_server srv = {.opt.queue_depth = 4};
	struct iscsi_conn c = {.srv = &srv, .exp_cmdsn = 100};
	struct iscsi_bhs b = {.opcode = ISCSI_OP_SCSI_CMD};

	for (uint32_t sn = 95; sn < 110; sn++) {
		put_be32(b.w24, sn);
		assert_int_equal(iscsi_session_admits(&c, &b), sn >= 100 && sn <= 103);
	}
	b.opcode |= ISCSI_OP_IMMEDIATE;
	assert_true(iscsi_session_admits(&c, &b));
	b.opcode = ISCSI_OP_NOP_OUT; /* the answer to a ping has no number */
	put_be32(b.itt, ISCSI_TAG_RESERVED);
	assert_true(iscsi_session_admits(&c, &b));
}

static void residuals_follow_the_table(void **state)
{
	enum { R = ISCSI_CMD_READ, W = ISCSI_CMD_WRITE, RW = R | W };
	enum { O = ISCSI_RSP_OVERFLOW, U = ISCSI_RSP_UNDERFLOW };
	enum { BO = ISCSI_RSP_BIDI_OVERFLOW, BU = ISCSI_RSP_BIDI_UNDERFLOW };
	enum { NONE = SCSI_DIR_NONE, OUT = SCSI_DIR_OUT, IN = SCSI_DIR_IN };
	static const struct {
		uint8_t flags;
		uint32_t edtl, read_edtl;
		int dir;
		uint32_t moved;
		uint8_t want;
		uint32_t count, read_count;
	} t[] = {
		{R, 512, 0, IN, 512, 0, 0, 0},
		{R, 512, 0, IN, 100, U, 412, 0},
		{R, 512, 0, IN, 1024, O, 512, 0},
		{R, 0, 0, IN, 512, O, 512, 0},
		{R, 512, 0, NONE, 0, U, 512, 0},
		{W, 512, 0, OUT, 512, 0, 0, 0},
		{W, 1024, 0, OUT, 512, U, 512, 0},
		{W, 512, 0, OUT, 4096, O, 3584, 0},
		{W, 512, 0, NONE, 0, U, 512, 0},
		{0, 0, 0, NONE, 0, 0, 0, 0},
		{0, 512, 0, NONE, 0, 0, 0, 0}, /* neither R nor W: nothing is expected */
		{0, 0, 0, IN, 512, O, 512, 0},
		{R, 512, 0, OUT, 512, O, 512, 0}, /* directions differ */
		{W, 512, 0, IN, 512, O, 512, 0},
		{W, 512, 0, IN, 0, U, 512, 0},
		{RW, 512, 256, IN, 256, U, 512, 0},
		{RW, 512, 256, OUT, 512, BU, 0, 256},
		{RW, 512, 256, IN, 1024, U | BO, 512, 768},
		{RW, 512, 256, OUT, 4096, O | BU, 3584, 256},
		{R, 0xffffffff, 0, IN, 0, U, 0xffffffff, 0},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct iscsi_residual r = iscsi_residual(t[i].flags, t[i].edtl, t[i].read_edtl,
							 (enum scsi_dir)t[i].dir, t[i].moved);

		if (r.flags != t[i].want || r.count != t[i].count ||
		    r.read_count != t[i].read_count)
			fail_msg("row %zu: flags %#x count %u read %u", i, r.flags, r.count,
				 r.read_count);
	}
}

static void crc32c_is_the_standards(void **state)
{
	uint8_t b[32] = {0};

	assert_int_equal(iscsi_crc32c(b, 32), 0x8a9136aa); /* RFC 7143 A.4 */
	memset(b, 0xff, 32);
	assert_int_equal(iscsi_crc32c(b, 32), 0x62a8ab43);
	for (unsigned i = 0; i < 32; i++)
		b[i] = (uint8_t)i;
	assert_int_equal(iscsi_crc32c(b, 32), 0x46dd794e);
}

static void names_are_checked(void **state)
{
	static const char *const good[] = {
		"iqn.2026-11.local.ebb:disk-1.a", "iqn.1992-01.com.example", "eui.02004567a425678d",
		"naa.52004567ba64678d", "naa.62004567ba64678d0123456789abcdef"};
	static const char *const bad[] = {"",
					  "iqn.2026-13.local:x",
					  "iqn.2026-00.local:x",
					  "iqn.26-11.local",
					  "iqn.2026-11.",
					  "iqn.2026-11.local:A",
					  "iqn.2026-11.lo cal",
					  "eui.02004567a425678",
					  "naa.1234",
					  "disk"};
	char longest[ISCSI_NAME_MAX + 2];

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(iscsi_name_check(good[i], NULL), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_true(iscsi_name_check(bad[i], NULL) < 0);
	memset(longest, 'a', sizeof(longest));
	memcpy(longest, "iqn.2026-11.", 12);
	longest[ISCSI_NAME_MAX] = '\0';
	assert_int_equal(iscsi_name_check(longest, NULL), 0);
	longest[ISCSI_NAME_MAX] = 'a';
	longest[ISCSI_NAME_MAX + 1] = '\0';
	assert_true(iscsi_name_check(longest, NULL) < 0);
}

static void patterns_match_as_in_a_shell(void **state)
{
	assert_true(iscsi_pattern_match("iqn.a:*", "iqn.a:"));
	assert_true(iscsi_pattern_match("iqn.a:*z", "iqn.a:bz:z"));
	assert_true(iscsi_pattern_match("*", ""));
	assert_true(iscsi_pattern_match("a?c", "abc"));
	assert_true(iscsi_pattern_match("*a*b*", "xxaxxbxx"));
	assert_false(iscsi_pattern_match("a?c", "ac"));
	assert_false(iscsi_pattern_match("abc", "abcd"));
	assert_false(iscsi_pattern_match("abcd", "abc"));
	assert_false(iscsi_pattern_match("", "a"));
	assert_false(iscsi_pattern_match("*a*b*", "xxbxxaxx"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(serial_numbers_wrap),
		cmocka_unit_test(the_window_shrinks_with_commands_in_progress),
		cmocka_unit_test(only_what_is_in_the_window_is_admitted),
		cmocka_unit_test(residuals_follow_the_table),
		cmocka_unit_test(crc32c_is_the_standards),
		cmocka_unit_test(names_are_checked),
		cmocka_unit_test(patterns_match_as_in_a_shell),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
