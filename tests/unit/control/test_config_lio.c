/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `lio:` declares, and its refusals by file, line and key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "control/config.h"
#include "load.h"

static const char whole[] = "tcmu: true\n"
			    "luns: [{name: a, path: /a}, {name: b, path: /b}]\n"
			    "lio:\n"
			    "  portals: ['0.0.0.0:3260', '[::]:3260']\n"
			    "  targets:\n"
			    "    - iqn: iqn.2026-11.x:t\n"
			    "      luns: [a, 7=b]\n"
			    "      chap: {user: u, secret: 123456789012}\n"
			    "      acls:\n"
			    "        - initiator: iqn.2026-11.x:i\n"
			    "          luns: [3=b]\n"
			    "          chap:\n"
			    "            user: v\n"
			    "            secret: 123456789013\n"
			    "            mutual: {user: m, secret: 210987654321}\n"
			    "        - initiator: iqn.2026-11.x:j\n"
			    "    - {iqn: iqn.2026-11.x:s, portals: ['127.0.0.1:1']}\n";

static void test_every_key_arrives(void **state)
{
	struct config *c = load(whole);
	struct config_lio_target *t = c->lio.targets;
	unsigned n;

	assert_int_equal(c->lio.targets_count, 2);
	assert_string_equal(t->iqn, "iqn.2026-11.x:t");
	assert_string_equal(config_lio_portals(&c->lio, t, &n)[1], "[::]:3260");
	assert_int_equal(n, 2);
	assert_int_equal(t->luns_count, 2);
	assert_int_equal(t->map[1].number, 7);
	assert_string_equal(t->map[1].name, "b");
	assert_string_equal(t->chap->user.user, "u");
	assert_null(t->chap->mutual);
	assert_int_equal(t->acls_count, 2);
	assert_int_equal(t->acls[0].map[0].number, 3);
	assert_string_equal(t->acls[0].chap->user.secret, "123456789013");
	assert_string_equal(t->acls[0].chap->mutual->user, "m");
	assert_null(t->acls[1].chap);
	assert_string_equal(config_lio_portals(&c->lio, t + 1, &n)[0], "127.0.0.1:1");
	assert_int_equal(n, 1);
	config_free(c);
}

#define LUNS "tcmu: true\nluns: [{name: a, path: /a}, {name: b, path: /b}]\n"
#define LIO  LUNS "lio:\n  portals: ['127.0.0.1:1']\n  targets:\n  - iqn: iqn.2026-11.x:t\n"

static void test_targets_are_checked_where_they_stand(void **state)
{
	assert_refused(LUNS "lio:\n  targets:\n  - luns: [a]\n",
		       "f:5: lio.targets[0].iqn: missing");
	assert_refused(LUNS "lio:\n  targets:\n  - iqn: iqn.2026-11.x:t\n",
		       "f:5: lio.targets[0]: needs portals");
	assert_refused(LUNS "lio:\n  portals: ['host:1']\n", "f:4: lio.portals[0]: ");
	assert_refused(LUNS "iscsi: {portals: ['127.0.0.1:1']}\nlio:\n  portals: ['127.0.0.1:1']\n",
		       "f:5: lio.portals[0]: '127.0.0.1:1' is one of iscsi.portals already");
	assert_refused(LIO "    portals: ['[::1]:1', '[::1]:1']\n",
		       "f:7: lio.targets[0].portals[1]: '[::1]:1' is declared twice");
	assert_refused(LIO "    luns: [a, c]\n",
		       "f:7: lio.targets[0].luns[1]: no LUN is called 'c'");
	assert_refused(LIO "    luns: [a, 0=b]\n",
		       "f:7: lio.targets[0].luns[1]: LUN number 0 is taken already");
	assert_refused(LIO "  - iqn: iqn.2026-11.x:t\n",
		       "f:7: lio.targets[1].iqn: 'iqn.2026-11.x:t' is declared twice");
	assert_refused(LUNS "lio:\n  portals: ['127.0.0.1:1']\n  targets:\n"
			    "  - iqn: iqn.2026-11.local.ebb:a\n",
		       "f:6: lio.targets[0].iqn: 'iqn.2026-11.local.ebb:a' is a target of iscsi");
	assert_refused("luns: []\nlio:\n  portals: ['127.0.0.1:1']\n  targets:\n"
		       "  - iqn: iqn.2026-11.x:t\n",
		       "f:4: lio.targets: needs tcmu: true");
	assert_refused(LIO "    alias: x\n", "f:7: lio.targets[0].alias: unknown key");
}

static void test_initiators_are_checked_where_they_stand(void **state)
{
	assert_refused(LIO "    acls:\n    - luns: [a]\n",
		       "f:8: lio.targets[0].acls[0].initiator: missing");
	assert_refused(LIO "    acls:\n    - initiator: 'iqn.2026-11.x:*'\n",
		       "f:8: lio.targets[0].acls[0].initiator: ");
	assert_refused(
		LIO "    acls:\n    - initiator: iqn.2026-11.x:i\n"
		    "    - initiator: iqn.2026-11.x:i\n",
		"f:9: lio.targets[0].acls[1].initiator: 'iqn.2026-11.x:i' is declared twice");
	assert_refused(LIO "    luns: [a]\n    acls:\n    - initiator: iqn.2026-11.x:i\n"
			   "      luns: [b]\n",
		       "f:10: lio.targets[0].acls[0].luns[0]: the target does not show 'b'");
	assert_refused(LIO "    acls:\n    - initiator: iqn.2026-11.x:i\n"
			   "      chap: {user: u, secret: 123456789012}\n"
			   "    - initiator: iqn.2026-11.x:j\n",
		       "f:10: lio.targets[0].acls[1]: needs chap");
}

static void test_credentials_are_checked_where_they_stand(void **state)
{
	assert_refused(LIO "    chap: {secret: 123456789012}\n",
		       "f:7: lio.targets[0].chap.user: missing");
	assert_refused(LIO "    chap:\n      user: u\n      secret: short\n",
		       "f:9: lio.targets[0].chap.secret: a CHAP secret has 12 to 255 bytes");
	assert_refused(LIO "    chap: {user: u}\n",
		       "f:7: lio.targets[0].chap: needs either secret or secret_file");
	assert_refused(LIO "    chap:\n      user: NULLO\n      secret: 123456789012\n",
		       "f:8: lio.targets[0].chap.user: must not begin with NULL");
	assert_refused(LIO "    chap:\n      user: u\n      secret: 'NULL56789012'\n",
		       "f:9: lio.targets[0].chap.secret: must not begin with NULL");
	assert_refused(LIO "    chap:\n      user: u\n      secret: '12345678901 '\n",
		       "f:9: lio.targets[0].chap.secret: must not begin or end with a blank");
	assert_refused(LIO "    chap:\n      user: u\n      secret: 123456789012\n"
			   "      mutual: {user: m, secret: 123456789012}\n",
		       "f:10: lio.targets[0].chap.mutual.secret: must differ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_key_arrives),
		cmocka_unit_test(test_targets_are_checked_where_they_stand),
		cmocka_unit_test(test_initiators_are_checked_where_they_stand),
		cmocka_unit_test(test_credentials_are_checked_where_they_stand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
