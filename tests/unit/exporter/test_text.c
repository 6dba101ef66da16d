/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "exporter/text.h"

static void assert_text(struct text *t, const char *want)
{
	assert_false(t->failed);
	text_putc(t, '\0');
	assert_string_equal(t->data, want);
	text_clear(t);
}

static void test_numbers_are_exact(void **state)
{
	static const struct {
		uint64_t ns;
		const char *seconds;
	} cases[] = {{0, "0"},
		     {1, "0.000000001"},
		     {1500000000, "1.5"},
		     {1000000000, "1"},
		     {123456789, "0.123456789"},
		     {100, "0.0000001"},
		     {UINT64_MAX, "18446744073.709551615"}};
	struct text t = {0};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		text_put_seconds(&t, cases[i].ns);
		assert_text(&t, cases[i].seconds);
	}
	text_put_u64(&t, 0);
	text_putc(&t, ' ');
	text_put_u64(&t, UINT64_MAX);
	assert_text(&t, "0 18446744073709551615");
}

static void test_label_values_cannot_leave_their_quotes(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {{"", ""},
		     {"plain", "plain"},
		     {"a\"b", "a\\\"b"},
		     {"\\", "\\\\"},
		     {"a\nb\n", "a\\nb\\n"},
		     {"\"} 1\nevil 2", "\\\"} 1\\nevil 2"},
		     {"d\xc3\xa9j\xc3\xa0 \"vu\"", "d\xc3\xa9j\xc3\xa0 \\\"vu\\\""},
		     {"bad\xff\xfe\"", "bad?\?\\\""},
		     {"cut off \xe2\x82", "cut off ?\?"},
		     {"overlong \xc0\xaf", "overlong ?\?"}};
	struct text t = {0};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		text_put_escaped(&t, cases[i].in);
		assert_text(&t, cases[i].out);
	}
}

static void test_it_grows(void **state)
{
	struct text t = {0};

	text_puts(&t, "0123456789");
	for (int i = 0; i < 12; i++)
		text_put_own(&t, 0,
			     t.len); /* doubles it: its own bytes move while they are copied */
	assert_false(t.failed);
	assert_int_equal(t.len, 40960);
	for (size_t i = 0; i < t.len; i++)
		assert_int_equal(t.data[i], '0' + i % 10);
	text_clear(&t);
	assert_int_equal(t.len, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers_are_exact),
		cmocka_unit_test(test_label_values_cannot_leave_their_quotes),
		cmocka_unit_test(test_it_grows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
