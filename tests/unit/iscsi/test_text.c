// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "front/iscsi/text.h"

/* Parses @len bytes; returns how many pairs there were, or -errno. */
static int count_pairs(const void *bytes, size_t len, char *ret_last)
{
	char buf[512];
	struct iscsi_text_in in;
	const char *key, *value;
	int r, n = 0;

	memcpy(buf, bytes, len);
	iscsi_text_open(&in, buf, len);
	while ((r = iscsi_text_next(&in, &key, &value)) > 0) {
		n++;
		if (ret_last)
			strcpy(ret_last, value);
	}
	return r < 0 ? r : n;
}

static void pairs_are_found(void **state)
{
	char last[512];

	assert_int_equal(count_pairs("A=1\0B=2=3\0", 10, last), 2);
	assert_string_equal(last, "2=3");
	assert_int_equal(count_pairs("A=1\0\0\0B=\0", 9, last), 2); /* padding; no value */
	assert_string_equal(last, "");
	assert_int_equal(count_pairs("A=12", 4, last), 1); /* the last NUL is missing */
	assert_string_equal(last, "12");
	assert_int_equal(count_pairs("", 0, NULL), 0);
	assert_int_equal(count_pairs("\0\0\0\0", 4, NULL), 0);
}

static void what_is_no_pair_is_refused(void **state)
{
	char longest[ISCSI_KEY_MAX + 3];

	assert_int_equal(count_pairs("A", 2, NULL), -EINVAL);
	assert_int_equal(count_pairs("=1", 3, NULL), -EINVAL);
	assert_int_equal(count_pairs("A B=1", 6, NULL), -EINVAL);
	assert_int_equal(count_pairs("A=1\0\xff=2", 8, NULL), -EINVAL);
	memset(longest, 'k', sizeof(longest));
	longest[ISCSI_KEY_MAX] = '=';
	assert_int_equal(count_pairs(longest, ISCSI_KEY_MAX + 2, NULL), 1);
	longest[ISCSI_KEY_MAX] = 'k';
	longest[ISCSI_KEY_MAX + 1] = '=';
	assert_int_equal(count_pairs(longest, ISCSI_KEY_MAX + 3, NULL), -EINVAL);
}

static void numbers_have_bounds(void **state)
{
	static const struct {
		const char *text;
		int r;
		uint64_t n;
	} t[] = {
		{"0", 0, 0},
		{"262144", 0, 262144},
		{"0xFf", 0, 255},
		{"0X10", 0, 16},
		{"18446744073709551615", 0, UINT64_MAX},
		{"18446744073709551616", -ERANGE, 0},
		{"0x10000000000000000", -ERANGE, 0},
		{"", -EINVAL, 0},
		{"0x", -EINVAL, 0},
		{"-1", -EINVAL, 0},
		{" 1", -EINVAL, 0},
		{"1 ", -EINVAL, 0},
		{"12a", -EINVAL, 0},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		uint64_t n = 0;

		assert_int_equal(iscsi_text_number(t[i].text, &n), t[i].r);
		assert_int_equal(n, t[i].n);
	}
}

static void binary_values_are_decoded(void **state)
{
	uint8_t b[4];
	size_t len;

	assert_int_equal(iscsi_text_binary("0x00fFa1", b, sizeof(b), &len), 0);
	assert_int_equal(len, 3);
	assert_memory_equal(b, "\x00\xff\xa1", 3);
	assert_int_equal(iscsi_text_binary("0xfa1", b, sizeof(b), &len), 0); /* odd digits */
	assert_int_equal(len, 2);
	assert_memory_equal(b, "\x0f\xa1", 2);
	assert_int_equal(iscsi_text_binary("0bAP+h", b, sizeof(b), &len), 0);
	assert_int_equal(len, 3);
	assert_memory_equal(b, "\x00\xff\xa1", 3);
	assert_int_equal(iscsi_text_binary("0b/w==", b, sizeof(b), &len), 0);
	assert_int_equal(len, 1);
	assert_int_equal(b[0], 0xff);
	assert_int_equal(iscsi_text_binary("0x0102030405", b, sizeof(b), &len), -E2BIG);
	assert_int_equal(iscsi_text_binary("0bAAAAAAA=", b, sizeof(b), &len), -E2BIG);
	assert_int_equal(iscsi_text_binary("0x", b, sizeof(b), &len), -EINVAL);
	assert_int_equal(iscsi_text_binary("0xgg", b, sizeof(b), &len), -EINVAL);
	assert_int_equal(iscsi_text_binary("0bA", b, sizeof(b), &len), -EINVAL);
	assert_int_equal(iscsi_text_binary("0b====", b, sizeof(b), &len), -EINVAL);
	assert_int_equal(iscsi_text_binary("1234", b, sizeof(b), &len), -EINVAL);
}

static void building_stops_at_its_limit(void **state)
{
	struct iscsi_text_out out;

	iscsi_text_init(&out, 16);
	iscsi_text_add(&out, "Key", "%d", 42);
	iscsi_text_add_hex(&out, "K", (const uint8_t *)"\x01\xfe", 2);
	assert_int_equal(out.len, 16);
	assert_memory_equal(out.buf, "Key=42\0K=0x01fe\0", 16);
	assert_false(out.failed);
	iscsi_text_add(&out, "K", "%s", "");
	assert_true(out.failed);
	assert_int_equal(out.len, 16);
	iscsi_text_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pairs_are_found),
		cmocka_unit_test(what_is_no_pair_is_refused),
		cmocka_unit_test(numbers_have_bounds),
		cmocka_unit_test(binary_values_are_decoded),
		cmocka_unit_test(building_stops_at_its_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
