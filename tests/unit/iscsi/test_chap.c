// SPDX-License-Identifier: GPL-2.0-or-later
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "front/iscsi/auth.h"
#include "front/iscsi/iscsi.h"
#include "front/iscsi/text.h"

/* H(0xa7, "correct horse battery", 1..24), as Python's hashlib says. */
static const struct {
	enum iscsi_chap_algorithm algorithm;
	const char *hex;
} vectors[] = {
	{ISCSI_CHAP_MD5, "0x639f4e76f86c023c1eb088628bf03a2c"},
	{ISCSI_CHAP_SHA1, "0x70c71c3f302a56234966d6a0928e1dea2bc72349"},
	{ISCSI_CHAP_SHA256, "0xf404db07ca763bed4f9ac55bd503256fd3f54facda2ae19052f2fdbdd26f10fd"},
	{ISCSI_CHAP_SHA3_256, "0xfb63a23422fd476d1e059c80e93dbb299f639a5bd51c24d2e829cc2ba981d2e2"},
};

static void digests_are_the_standards(void **state)
{
	uint8_t challenge[24], got[ISCSI_CHAP_DIGEST_MAX], want[ISCSI_CHAP_DIGEST_MAX];
	size_t len;

	for (unsigned i = 0; i < sizeof(challenge); i++)
		challenge[i] = (uint8_t)(i + 1);
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		assert_int_equal(iscsi_text_binary(vectors[i].hex, want, sizeof(want), &len), 0);
		assert_int_equal(iscsi_chap_digest(vectors[i].algorithm, 0xa7,
						   "correct horse battery", challenge,
						   sizeof(challenge), got),
				 len);
		assert_memory_equal(got, want, len);
	}
}

static void only_the_right_response_is_taken(void **state)
{
	uint8_t r[ISCSI_CHAP_DIGEST_MAX + 1] = {0};
	struct iscsi_chap c;
	size_t len;

	for (int a = ISCSI_CHAP_MD5; a <= ISCSI_CHAP_SHA3_256; a++) {
		assert_int_equal(iscsi_chap_start(&c, (enum iscsi_chap_algorithm)a), 0);
		len = iscsi_chap_digest(c.algorithm, c.id, "a secret of mine", c.challenge,
					sizeof(c.challenge), r);
		assert_true(iscsi_chap_verify(&c, "a secret of mine", r, len));
		assert_false(iscsi_chap_verify(&c, "a secret of mind", r, len));
		assert_false(iscsi_chap_verify(&c, "a secret of mine", r, len - 1));
		assert_false(iscsi_chap_verify(&c, "a secret of mine", r, len + 1));
		assert_false(iscsi_chap_verify(&c, "a secret of mine", r, 0));
		r[len - 1] ^= 1;
		assert_false(iscsi_chap_verify(&c, "a secret of mine", r, len));
	}
}

static void challenges_differ_and_reflections_are_seen(void **state)
{
	struct iscsi_chap a, b;

	assert_int_equal(iscsi_chap_start(&a, ISCSI_CHAP_MD5), 0);
	assert_int_equal(iscsi_chap_start(&b, ISCSI_CHAP_MD5), 0);
	assert_memory_not_equal(a.challenge, b.challenge, sizeof(a.challenge));
	assert_true(iscsi_chap_reflected(&a, a.challenge, sizeof(a.challenge)));
	assert_false(iscsi_chap_reflected(&a, b.challenge, sizeof(b.challenge)));
	assert_false(iscsi_chap_reflected(&a, a.challenge, sizeof(a.challenge) - 1));
}

static void the_first_known_algorithm_is_chosen(void **state)
{
	assert_int_equal(iscsi_chap_choose("7,5", 0), ISCSI_CHAP_SHA256);
	assert_int_equal(iscsi_chap_choose("99,,4,6,8", 0), ISCSI_CHAP_SHA1);
	assert_int_equal(iscsi_chap_choose("0x8", 0), ISCSI_CHAP_SHA3_256);
	assert_int_equal(iscsi_chap_choose("5 ", 0), ISCSI_CHAP_NONE);
	assert_int_equal(iscsi_chap_choose("55,66666", 0), ISCSI_CHAP_NONE);
	assert_int_equal(iscsi_chap_choose("", 0), ISCSI_CHAP_NONE);
}

static void only_what_is_allowed_is_chosen(void **state)
{
	const unsigned strong = ISCSI_CHAP_ALLOW_SHA256 | ISCSI_CHAP_ALLOW_SHA3_256;

	assert_int_equal(iscsi_chap_choose("5,6,7,8", strong), ISCSI_CHAP_SHA256);
	assert_int_equal(iscsi_chap_choose("5,8,7", strong), ISCSI_CHAP_SHA3_256);
	assert_int_equal(iscsi_chap_choose("5,6", strong), ISCSI_CHAP_NONE);
	assert_int_equal(iscsi_chap_choose("8,5", ISCSI_CHAP_ALLOW_MD5), ISCSI_CHAP_MD5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(digests_are_the_standards),
		cmocka_unit_test(only_the_right_response_is_taken),
		cmocka_unit_test(challenges_differ_and_reflections_are_seen),
		cmocka_unit_test(the_first_known_algorithm_is_chosen),
		cmocka_unit_test(only_what_is_allowed_is_chosen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
