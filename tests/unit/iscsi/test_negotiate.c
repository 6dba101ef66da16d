// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "front/iscsi/negotiate.h"

static const struct iscsi_offer offer = {
	.max_recv_data_segment = 262144,
	.max_burst = 1048576,
	.first_burst = 131072,
	.max_outstanding_r2t = 8,
};

/* Negotiates one key from the defaults; @want is the whole reply ("" none). */
static struct iscsi_params one(const char *key, const char *value, const char *want)
{
	struct iscsi_negotiation n = {.offer = &offer};
	struct iscsi_params p;
	struct iscsi_text_out out;
	char reply[128];

	iscsi_params_default(&p);
	iscsi_text_init(&out, 4096);
	assert_int_equal(iscsi_negotiate(&n, &p, key, value, false, &out), 1);
	iscsi_negotiate_settle(&n, &p, &out);
	if (*want) {
		snprintf(reply, sizeof(reply), "%s=%s", key, want);
		assert_int_equal(out.len, strlen(reply) + 1);
		assert_string_equal(out.buf, reply);
	} else {
		assert_int_equal(out.len, 0);
	}
	assert_int_equal(iscsi_negotiate(&n, &p, key, value, false, &out), -EPROTO); /* twice */
	iscsi_text_free(&out);
	return p;
}

static void numbers_take_the_smaller_or_larger(void **state)
{
	assert_int_equal(one("MaxBurstLength", "16776192", "1048576").max_burst, 1048576);
	assert_int_equal(one("MaxBurstLength", "512", "512").max_burst, 512);
	assert_int_equal(one("MaxBurstLength", "0x1000", "4096").max_burst, 4096);
	assert_int_equal(one("FirstBurstLength", "262144", "131072").first_burst, 131072);
	assert_int_equal(one("MaxOutstandingR2T", "16", "8").max_outstanding_r2t, 8);
	assert_int_equal(one("DefaultTime2Wait", "7", "7").time2wait, 7);
	assert_int_equal(one("DefaultTime2Retain", "20", "0").time2retain, 0);
	one("ErrorRecoveryLevel", "2", "0");
	one("MaxConnections", "8", "1");
	one("iSCSIProtocolLevel", "2", "1");
	assert_int_equal(one("MaxRecvDataSegmentLength", "65536", "").max_send_data_segment, 65536);
}

/* The pairs of @texts, each a login request of its own; the answers are in *@ret_out. */
static struct iscsi_params several(const char *const texts[][3][2], size_t n_texts,
				   struct iscsi_text_out *ret_out)
{
	struct iscsi_negotiation n = {.offer = &offer};
	struct iscsi_params p;

	iscsi_params_default(&p);
	iscsi_text_init(ret_out, 4096);
	for (size_t i = 0; i < n_texts; i++) {
		for (unsigned j = 0; texts[i][j][0]; j++)
			assert_int_equal(iscsi_negotiate(&n, &p, texts[i][j][0], texts[i][j][1],
							 false, ret_out),
					 1);
		iscsi_negotiate_settle(&n, &p, ret_out);
	}
	return p;
}

static bool says(const struct iscsi_text_out *out, const char *pair)
{
	return memmem(out->buf, out->len, pair, strlen(pair) + 1);
}

/* RFC 7143 13.14 */
static void the_first_burst_is_no_longer_than_a_burst(void **state)
{
	static const char *const MAX = "MaxBurstLength", *const FIRST = "FirstBurstLength";
	const char *const cases[][2][3][2] = {
		{{{MAX, "16384"}, {FIRST, "65536"}}},
		{{{FIRST, "65536"}, {MAX, "16384"}}},
		{{{MAX, "16384"}}, {{FIRST, "65536"}}},
		{{{MAX, "16384"}}},			/* the default of the other is 65536 */
		{{{FIRST, "65536"}}, {{MAX, "16384"}}}, /* said already */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct iscsi_text_out out;
		struct iscsi_params p = several(cases[i], 2, &out);

		assert_int_equal(p.max_burst, 16384);
		assert_int_equal(p.first_burst, 16384);
		assert_true(says(&out, "MaxBurstLength=16384"));
		assert_int_equal(says(&out, "FirstBurstLength=16384"), i < 3);
		assert_int_equal(says(&out, "FirstBurstLength=65536"), i == 4);
		iscsi_text_free(&out);
	}
}

static void values_out_of_range_are_rejected(void **state)
{
	assert_int_equal(one("MaxBurstLength", "511", "Reject").max_burst, 262144);
	assert_int_equal(one("MaxBurstLength", "16777216", "Reject").max_burst, 262144);
	assert_int_equal(one("MaxOutstandingR2T", "0", "Reject").max_outstanding_r2t, 1);
	assert_int_equal(one("MaxOutstandingR2T", "65536", "Reject").max_outstanding_r2t, 1);
	assert_int_equal(one("MaxBurstLength", "many", "Reject").max_burst, 262144);
	assert_int_equal(one("DefaultTime2Wait", "3601", "Reject").time2wait, 2);
	one("MaxRecvDataSegmentLength", "100", "Reject");
	assert_true(one("InitialR2T", "Maybe", "Reject").initial_r2t);
	assert_false(one("HeaderDigest", "MD5,crc32c", "Reject").header_digest);
}

static void booleans_are_joined(void **state)
{
	assert_true(one("InitialR2T", "Yes", "Yes").initial_r2t);
	assert_false(one("InitialR2T", "No", "No").initial_r2t);
	assert_true(one("ImmediateData", "Yes", "Yes").immediate_data);
	assert_false(one("ImmediateData", "No", "No").immediate_data);
	one("DataPDUInOrder", "No", "Yes");
	one("DataSequenceInOrder", "No", "Yes");
}

static void lists_take_the_first_that_fits(void **state)
{
	assert_true(one("HeaderDigest", "CRC32C,None", "CRC32C").header_digest);
	assert_false(one("HeaderDigest", "None,CRC32C", "None").header_digest);
	assert_true(one("DataDigest", "X,CRC32C", "CRC32C").data_digest);
	one("TaskReporting", "FastAbort,RFC3720", "RFC3720");
}

static void a_required_digest_is_insisted_on(void **state)
{
	struct iscsi_offer strict = offer;
	struct iscsi_negotiation n = {.offer = &strict};
	struct iscsi_params p;
	struct iscsi_text_out out;

	strict.require_data_digest = true;
	iscsi_params_default(&p);
	iscsi_text_init(&out, 4096);
	assert_false(iscsi_negotiate_acceptable(&n, &p));
	iscsi_negotiate(&n, &p, "DataDigest", "None,CRC32C", false, &out);
	assert_string_equal(out.buf, "DataDigest=CRC32C");
	assert_true(iscsi_negotiate_acceptable(&n, &p));
	iscsi_text_free(&out);
}

static void discovery_has_no_use_for_some_keys(void **state)
{
	struct iscsi_negotiation n = {.offer = &offer, .discovery = true};
	struct iscsi_params p;
	struct iscsi_text_out out;

	iscsi_params_default(&p);
	iscsi_text_init(&out, 4096);
	iscsi_negotiate(&n, &p, "MaxBurstLength", "512", false, &out);
	assert_string_equal(out.buf, "MaxBurstLength=Irrelevant");
	assert_int_equal(p.max_burst, 262144);
	iscsi_text_free(&out);
}

static void full_feature_phase_changes_one_key_only(void **state)
{
	struct iscsi_negotiation n = {.offer = &offer};
	struct iscsi_params p;
	struct iscsi_text_out out;

	iscsi_params_default(&p);
	iscsi_text_init(&out, 4096);
	assert_int_equal(iscsi_negotiate(&n, &p, "MaxBurstLength", "512", true, &out), -EPROTO);
	for (int i = 0; i < 2; i++)
		assert_int_equal(
			iscsi_negotiate(&n, &p, "MaxRecvDataSegmentLength", "512", true, &out), 1);
	assert_int_equal(p.max_send_data_segment, 512);
	assert_int_equal(iscsi_negotiate(&n, &p, "X-other", "1", true, &out), 0);
	iscsi_text_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_take_the_smaller_or_larger),
		cmocka_unit_test(the_first_burst_is_no_longer_than_a_burst),
		cmocka_unit_test(values_out_of_range_are_rejected),
		cmocka_unit_test(booleans_are_joined),
		cmocka_unit_test(lists_take_the_first_that_fits),
		cmocka_unit_test(a_required_digest_is_insisted_on),
		cmocka_unit_test(discovery_has_no_use_for_some_keys),
		cmocka_unit_test(full_feature_phase_changes_one_key_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
