/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "control/json_text.h"
#include "control/protocol.h"

static void test_a_request_is_taken_apart(void **state)
{
	const char *line = "{\"v\":1,\"id\":\"x\",\"method\":\"lun.delete\","
			   "\"params\":{\"name\":\"a\",\"force\":true}}";
	struct protocol_request req;

	assert_int_equal(protocol_parse(line, strlen(line), &req, NULL), 0);
	assert_int_equal(req.method, METHOD_LUN_DELETE);
	assert_string_equal(json_string_value(req.id), "x");
	assert_string_equal(protocol_string(&req, "name"), "a");
	assert_true(protocol_flag(&req, "force"));
	assert_true(protocol_is_change(req.method));
	protocol_free(&req);
	line = "{\"v\":1,\"method\":\"status\"}";
	assert_int_equal(protocol_parse(line, strlen(line), &req, NULL), 0);
	assert_true(json_is_null(req.id));
	assert_false(protocol_is_change(req.method));
	protocol_free(&req);
}

static void test_bad_requests_get_a_reason_and_keep_their_id(void **state)
{
	static const struct {
		const char *line, *reason;
		int err;
	} bad[] = {
		{"", "not JSON", -EINVAL},
		{"{", "not JSON", -EINVAL},
		{"[1]", "a request is an object", -EINVAL},
		{"{\"v\":1,\"v\":1,\"method\":\"status\"}", "not JSON", -EINVAL},
		{"{\"id\":7,\"method\":\"status\"}", "version 1", -EPROTO},
		{"{\"id\":7,\"v\":2,\"method\":\"status\"}", "version 1", -EPROTO},
		{"{\"id\":7,\"v\":1}", "'method' is missing", -EINVAL},
		{"{\"id\":7,\"v\":1,\"method\":\"sing\"}", "unknown method 'sing'", -ENOSYS},
		{"{\"id\":7,\"v\":1,\"method\":\"status\",\"x\":1}", "unknown key 'x'", -EINVAL},
		{"{\"id\":7,\"v\":1,\"method\":\"status\",\"params\":[]}", "must be an object",
		 -EINVAL},
		{"{\"id\":7,\"v\":1,\"method\":\"lun.show\"}", "'name' is missing", -EINVAL},
		{"{\"id\":7,\"v\":1,\"method\":\"lun.show\",\"params\":{\"name\":1}}",
		 "'name' must be a string", -EINVAL},
		{"{\"id\":7,\"v\":1,\"method\":\"lun.show\",\"params\":{\"name\":\"a\",\"n\":1}}",
		 "unknown parameter 'n'", -EINVAL},
		{"{\"id\":7,\"v\":1,\"method\":\"lun.delete\",\"params\":{\"name\":\"a\","
		 "\"force\":\"yes\"}}",
		 "'force' must be true or false", -EINVAL},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct reason why = {.text = ""};
		struct protocol_request req;

		assert_int_equal(protocol_parse(bad[i].line, strlen(bad[i].line), &req, &why),
				 bad[i].err);
		if (!strstr(why.text, bad[i].reason))
			fail_msg("%s: said '%s'", bad[i].line, why.text);
		if (strstr(bad[i].line, "\"id\":7"))
			assert_int_equal(json_integer_value(req.id), 7);
		protocol_free(&req);
	}
}

static void test_answers_are_one_line(void **state)
{
	json_t *id = json_integer(7);
	size_t len = 0;
	char *line = protocol_success(id, json_pack("[s]", "two\nlines"), &len);

	assert_int_equal(len, strlen(line));
	assert_ptr_equal(strchr(line, '\n'), line + len - 1);
	assert_string_equal(line, "{\"v\":1,\"id\":7,\"ok\":true,\"result\":[\"two\\nlines\"]}\n");
	free(line);
	line = protocol_failure(id, -EBUSY, "no\xff", &len);
	assert_string_equal(line, "{\"v\":1,\"id\":7,\"ok\":false,\"error\":{\"code\":\"busy\","
				  "\"message\":\"no?\"}}\n");
	free(line);
	json_decref(id);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_request_is_taken_apart),
		cmocka_unit_test(test_bad_requests_get_a_reason_and_keep_their_id),
		cmocka_unit_test(test_answers_are_one_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
