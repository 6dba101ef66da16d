/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "control/size.h"

static void test_sizes_are_powers_of_1024(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0},
		    {"512", 512},
		    {"512B", 512},
		    {"64K", 65536},
		    {"64k", 65536},
		    {"10G", 10ull << 30},
		    {"10GiB", 10ull << 30},
		    {"10GB", 10ull << 30},
		    {"1.5T", 3ull << 39},
		    {"0.5K", 512},
		    {"4095P", 4095ull << 50}};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		uint64_t v = 77;

		assert_int_equal(size_parse(good[i].text, &v, NULL), 0);
		assert_int_equal(v, good[i].bytes);
	}
}

static void test_what_is_no_size_is_refused_and_changes_nothing(void **state)
{
	static const char *const bad[] = {"",
					  "x",
					  "-1",
					  "1X",
					  "1KK",
					  "1 K",
					  "1.K",
					  "1.5",
					  "K",
					  "1Ki",
					  "1e9",
					  "0x10",
					  "1.3K",
					  "8192P",
					  "+1",
					  "1BB",
					  "99999999999999999999",
					  " 1",
					  "1G ",
					  "1.0000001G"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct reason why = {.text = ""};
		uint64_t v = 77;

		assert_int_not_equal(size_parse(bad[i], &v, &why), 0);
		assert_int_equal(v, 77);
		assert_true(why.text[0] != '\0');
	}
}

static void test_formatted_sizes_parse_to_themselves(void **state)
{
	static const uint64_t sizes[] = {
		0, 1, 513, 1024, 1536, 1048576 * 3, 10ull << 30, 3ull << 39, 64ull << 40, 12345678};
	char buf[32];

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t v = 77;

		size_format(sizes[i], buf, sizeof(buf));
		assert_int_equal(size_parse(buf, &v, NULL), 0);
		assert_int_equal(v, sizes[i]);
	}
	size_format(3ull << 39, buf, sizeof(buf));
	assert_string_equal(buf, "1.5T");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes_are_powers_of_1024),
		cmocka_unit_test(test_what_is_no_size_is_refused_and_changes_nothing),
		cmocka_unit_test(test_formatted_sizes_parse_to_themselves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
