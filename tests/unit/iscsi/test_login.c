// SPDX-License-Identifier: GPL-2.0-or-later
/* The login phase without a connection: who gets in, and the stages. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "front/iscsi/iscsi_private.h"

#define IQN "iqn.2026-11.local.ebb:unit"
#define T   ISCSI_LOGIN_TRANSIT

static struct iscsi_server *srv;
static struct scsi_target *scsi;

static int add(const struct iscsi_target_config *extra)
{
	struct iscsi_target_config cfg = *extra;

	cfg.name = IQN;
	cfg.scsi = scsi;
	return iscsi_server_add_target(srv, &cfg, NULL);
}

static int setup(void **state)
{
	struct iscsi_server_options opt = {0};

	return scsi_target_create(IQN, &scsi) || iscsi_server_create(&opt, &srv);
}

static int teardown(void **state)
{
	iscsi_server_destroy(srv);
	scsi_target_unref(scsi);
	return 0;
}

/* One request; returns the status, the flags in *@ret_flags. */
static int ask(struct iscsi_login *l, uint8_t flags, const char *text, size_t len,
	       struct iscsi_text_out *out, uint8_t *ret_flags)
{
	struct iscsi_login_bhs req = {.flags = flags};
	struct iscsi_login_answer a;

	iscsi_text_free(out);
	iscsi_login_request(l, &req, text, len, out, &a);
	*ret_flags = a.flags;
	return a.status;
}

static bool reply_has(const struct iscsi_text_out *out, const char *pair)
{
	for (size_t i = 0; i < out->len; i += strlen(out->buf + i) + 1)
		if (strcmp(out->buf + i, pair) == 0)
			return true;
	return false;
}

#define NAMES		 "InitiatorName=iqn.2026-11.test:i\0TargetName=" IQN "\0"
#define ASK(flags, text) ask(l, flags, text, sizeof(text) - 1, &out, &got)

static void stages_can_be_walked(void **state)
{
	struct iscsi_login *l = iscsi_login_new(srv);
	struct iscsi_text_out out = {.max = 8192};
	uint8_t got;

	assert_int_equal(add(&(struct iscsi_target_config){.alias = "unit"}), 0);
	assert_int_equal(ASK(T | 0 << 2 | 1, NAMES "AuthMethod=CHAP,None\0"), 0);
	assert_int_equal(got, T | 0 << 2 | 1);
	assert_true(reply_has(&out, "AuthMethod=None"));
	assert_true(reply_has(&out, "TargetPortalGroupTag=1"));
	assert_true(reply_has(&out, "TargetAlias=unit"));
	assert_int_equal(ASK(1 << 2, "MaxBurstLength=1024\0"), 0);
	assert_int_equal(got, 1 << 2);
	assert_int_equal(ASK(T | 1 << 2 | 3, ""), 0);
	assert_int_equal(got, T | 1 << 2 | 3);
	assert_int_equal(l->state, LOGIN_DONE);
	assert_int_equal(l->params.max_burst, 1024);
	iscsi_text_free(&out);
	iscsi_login_free(l);
}

static void stages_cannot_be_skipped_back(void **state)
{
	static const uint8_t bad[] = {
		T | 1 << 2 | 1, /* to where it is */
		T | 1 << 2 | 0, /* back */
		T | 1 << 2 | 2, /* there is no stage 2 */
		0 << 2,		/* security again */
		3 << 2,
	};
	struct iscsi_text_out out = {.max = 8192};
	uint8_t got;

	assert_int_equal(add(&(struct iscsi_target_config){0}), 0);
	for (size_t i = 0; i < sizeof(bad); i++) {
		struct iscsi_login *l = iscsi_login_new(srv);

		assert_int_equal(ASK(1 << 2, NAMES), 0);
		assert_int_not_equal(ASK(bad[i], ""), 0);
		assert_int_equal(l->state, LOGIN_FAILED);
		assert_int_not_equal(ASK(T | 1 << 2 | 3, ""), 0); /* and stays so */
		iscsi_text_free(&out);
		iscsi_login_free(l);
	}
}

static void authentication_cannot_be_walked_around(void **state)
{
	static const struct iscsi_chap_user alice = {"alice", "alice's secret"};
	static const struct {
		uint8_t flags;
		const char *text;
		size_t len;
	} tries[] = {
#define TRY(f, t) {f, NAMES t, sizeof(NAMES t) - 1}
		TRY(T | 1 << 2 | 3, ""),
		TRY(T | 0 << 2 | 3, ""),
		TRY(T | 0 << 2 | 1, "AuthMethod=None\0"),
		TRY(T | 0 << 2 | 1, "AuthMethod=KRB5,SRP\0"),
	};
	struct iscsi_text_out out = {.max = 8192};
	struct iscsi_login *l;
	uint8_t got;

	assert_int_equal(add(&(struct iscsi_target_config){.users = &alice, .n_users = 1}), 0);
	for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		l = iscsi_login_new(srv);
		assert_int_equal(ask(l, tries[i].flags, tries[i].text, tries[i].len, &out, &got),
				 ISCSI_LOGIN_AUTH_FAILED);
		iscsi_text_free(&out);
		iscsi_login_free(l);
	}
	/* T while CHAP is under way is not granted */
	l = iscsi_login_new(srv);
	assert_int_equal(ASK(T | 0 << 2 | 3, NAMES "AuthMethod=CHAP\0"), 0);
	assert_int_equal(got, 0);
	assert_int_equal(ASK(T | 0 << 2 | 3, "CHAP_A=7\0"), 0);
	assert_int_equal(got, 0);
	assert_int_equal(ASK(T | 0 << 2 | 3, "CHAP_N=alice\0CHAP_R=0x00\0"),
			 ISCSI_LOGIN_AUTH_FAILED);
	iscsi_text_free(&out);
	iscsi_login_free(l);
}

static void targets_are_configured_with_care(void **state)
{
	static const struct iscsi_chap_user shrt = {"a", "too short"}, good = {"a", "long enough!"};
	static const struct iscsi_chap_user noname = {"", "long enough!"};

	assert_int_equal(add(&(struct iscsi_target_config){.users = &shrt, .n_users = 1}), -EINVAL);
	assert_int_equal(add(&(struct iscsi_target_config){.users = &noname, .n_users = 1}),
			 -EINVAL);
	assert_int_equal(
		add(&(struct iscsi_target_config){.users = &good, .n_users = 1, .self = &good}),
		-EINVAL); /* one secret both ways */
	assert_int_equal(add(&(struct iscsi_target_config){0}), 0);
	assert_int_equal(add(&(struct iscsi_target_config){0}), -EEXIST);
	assert_int_equal(iscsi_server_remove_target(srv, IQN), 0);
	assert_int_equal(iscsi_server_remove_target(srv, IQN), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(stages_can_be_walked, setup, teardown),
		cmocka_unit_test_setup_teardown(stages_cannot_be_skipped_back, setup, teardown),
		cmocka_unit_test_setup_teardown(authentication_cannot_be_walked_around, setup,
						teardown),
		cmocka_unit_test_setup_teardown(targets_are_configured_with_care, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
