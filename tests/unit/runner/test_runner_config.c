/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "runner_config.h"

static void name_alone_gets_the_defaults(void **state)
{
	struct runner_config c;

	assert_int_equal(runner_config_parse("ebb/disk-1.a", &c, NULL), 0);
	assert_string_equal(c.lun, "disk-1.a");
	assert_string_equal(c.socket, PORT_DEFAULT_SOCKET);
	assert_int_equal(c.retry_ms, PORT_DEFAULT_RETRY_MS);
}

static void options_come_in_any_order(void **state)
{
	struct runner_config c;

	assert_int_equal(runner_config_parse("ebb/a;retry=7;socket=/tmp/s o=c,k", &c, NULL), 0);
	assert_string_equal(c.lun, "a");
	assert_string_equal(c.socket, "/tmp/s o=c,k");
	assert_int_equal(c.retry_ms, 7000);
}

static void words_for_the_runner_are_passed_over(void **state)
{
	struct runner_config c;

	assert_int_equal(runner_config_parse("ebb/a;tcmur_cmd_time_out=90;socket=/s;", &c, NULL),
			 0);
	assert_string_equal(c.socket, "/s");
}

static void what_makes_no_sense_is_refused_with_a_reason(void **state)
{
	static const char *const bad[][2] = {
		{"file/a", "does not start with ebb/"},
		{"ebb", "does not start with ebb/"},
		{"ebb/", "no LUN"},
		{"ebb/;socket=/s", "no LUN"},
		{"ebb/0123456789012345678901234567890123456789012345678901234567890123", "longer"},
		{"ebb/a;socket=relative", "not an absolute path"},
		{"ebb/a;socket=", "not an absolute path"},
		{"ebb/a;retry=0", "not from 1"},
		{"ebb/a;retry=-1", "not from 1"},
		{"ebb/a;retry=1x", "not from 1"},
		{"ebb/a;retry=", "not from 1"},
		{"ebb/a;retry=86401", "not from 1"},
		{"ebb/a;retry=99999999999999999999999", "not from 1"},
		{"ebb/a;sockets=/s", "expected ebb/LUN"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct runner_config c = {.lun = "untouched"};
		struct reason why = {""};

		assert_int_equal(runner_config_parse(bad[i][0], &c, &why), -EINVAL);
		if (!strstr(why.text, bad[i][1]))
			fail_msg("%s: %s", bad[i][0], why.text);
		assert_string_equal(c.lun, "untouched");
	}
}

static void a_socket_may_be_as_long_as_an_address(void **state)
{
	struct runner_config c;
	char s[160];

	memset(s, 'x', sizeof(s));
	memcpy(s, "ebb/a;socket=/", 14);
	s[13 + 107] = '\0';
	assert_int_equal(runner_config_parse(s, &c, NULL), 0);
	assert_int_equal(strlen(c.socket), 107);
	s[13 + 107] = 'x';
	s[13 + 108] = '\0';
	assert_int_equal(runner_config_parse(s, &c, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(name_alone_gets_the_defaults),
		cmocka_unit_test(options_come_in_any_order),
		cmocka_unit_test(words_for_the_runner_are_passed_over),
		cmocka_unit_test(what_makes_no_sense_is_refused_with_a_reason),
		cmocka_unit_test(a_socket_may_be_as_long_as_an_address),
	};

	return cmocka_run_group_tests_name("runner_config", tests, NULL, NULL);
}
