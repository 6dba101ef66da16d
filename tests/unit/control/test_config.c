/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every refusal names the file, the exact line, the key and the reason. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "control/config.h"
#include "control/config_lines.h"
#include "front/iscsi/iscsi.h"
#include "load.h"

static const char whole[] =
	"threads: 4\n"
	"memory: {max: 1G, floor: 64M, tmem: {codec: zstd, share: 40%}}\n"
	"state_dir: /s\n"
	"runtime_dir: /r\n"
	"socket: /r/c.sock\n"
	"log_level: debug\n"
	"luns:\n"
	"  - name: a\n"
	"    path: /a\n"
	"    size: 1.5G\n"
	"    block_size: 4096\n"
	"    mode: direct\n"
	"    cache_weight: 300\n"
	"    cache_floor: 16M\n"
	"    description: the first\n"
	"    uuid: 00112233-4455-4677-8899-aabbccddeeff\n"
	"  - {name: B_2, path: /b, read_only: true, removable: true, cache: none}\n"
	"  - {name: c, path: /c, size: 1M, create: false, cache: read}\n"
	"iscsi:\n"
	"  portals: ['127.0.0.1:3260', '[::1]:3260']\n"
	"  limits: {queue_depth: 64, login_timeout: 5}\n"
	"  discovery_chap:\n"
	"    users: [{user: d, secret: 123456789012}]\n"
	"    algorithms: [sha3-256, sha256]\n"
	"  targets:\n"
	"    - iqn: iqn.2026-11.local.ebb:t\n"
	"      alias: tea\n"
	"      luns: [a, 7=c]\n"
	"      initiators: ['iqn.1999-01.org.x:*']\n"
	"      chap:\n"
	"        users: [{user: u, secret: 123456789012}]\n"
	"        mutual: {user: m, secret: 210987654321}\n"
	"nbd:\n"
	"  listen: ['127.0.0.1:10809', 'unix:/r/nbd.sock']\n"
	"  default_export: a\n"
	"  tls: {mode: require, certificates: /c}\n"
	"metrics: ['127.0.0.1:9810']\n";

static void test_every_key_arrives(void **state)
{
	struct config *c = load(whole);
	struct config_target *t = &c->iscsi.targets[0];

	assert_int_equal(c->threads, 4);
	assert_int_equal(c->memory.max, 1 << 30);
	assert_int_equal(c->memory.floor, 64 << 20);
	assert_int_equal(c->memory.tmem.codec, CONFIG_CODEC_ZSTD);
	assert_int_equal(c->memory.tmem.share, 40);
	assert_string_equal(c->socket, "/r/c.sock");
	assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
	assert_int_equal(c->luns_count, 3);
	assert_int_equal(c->luns[0].size, 3ull << 29);
	assert_int_equal(c->luns[0].mode, BLOCK_MODE_DIRECT);
	assert_int_equal(c->luns[0].cache, CONFIG_CACHE_AUTO);
	assert_int_equal(c->luns[0].cache_weight, 300);
	assert_int_equal(c->luns[0].cache_floor, 16 << 20);
	assert_true(c->luns[1].read_only && c->luns[1].removable);
	assert_int_equal(c->luns[1].cache, CONFIG_CACHE_NONE);
	assert_int_equal(c->luns[2].cache, CONFIG_CACHE_READ);
	assert_non_null(c->luns[2].create);
	assert_false(*c->luns[2].create);
	assert_int_equal(c->iscsi.portals_count, 2);
	assert_int_equal(c->iscsi.limits.queue_depth, 64);
	assert_string_equal(c->iscsi.discovery_chap->users[0].user, "d");
	assert_int_equal(c->iscsi.discovery_chap->algorithms,
			 ISCSI_CHAP_ALLOW_SHA256 | ISCSI_CHAP_ALLOW_SHA3_256);
	assert_int_equal(t->luns_count, 2);
	assert_int_equal(t->map[0].number, 0);
	assert_string_equal(t->map[0].name, "a");
	assert_int_equal(t->map[1].number, 7);
	assert_string_equal(t->map[1].name, "c");
	assert_string_equal(t->chap->mutual->secret, "210987654321");
	/* B_2 alone is on no declared target: it gets its own, in an iSCSI name's alphabet. */
	assert_int_equal(c->auto_targets_count, 1);
	assert_string_equal(c->auto_targets[0].iqn, "iqn.2026-11.local.ebb:b-2");
	assert_int_equal(c->nbd.tls.mode, CONFIG_TLS_REQUIRE);
	config_free(c);
}

static void test_nothing_is_a_declaration_too(void **state)
{
	static const char *const texts[] = {"", "# nothing\n", "luns: []\n"};

	for (size_t i = 0; i < 3; i++) {
		struct config *c = load(texts[i]);

		assert_int_equal(c->luns_count, 0);
		assert_int_equal(c->log_level, LOG_LEVEL_INFO);
		config_free(c);
	}
}

static void test_no_automatic_targets_when_not_wanted(void **state)
{
	struct config *c = load("luns: [{name: a, path: /a}]\niscsi: {auto_targets: false}\n");

	assert_int_equal(c->auto_targets_count, 0);
	config_free(c);
}

static void test_the_schema_refuses_with_line_and_key(void **state)
{
	assert_refused("threads: 1\nthread: 2\n", "f:2: thread: unknown key");
	assert_refused("luns:\n  - name: a\n    path: /a\n    sise: 3\n",
		       "f:4: luns[0].sise: unknown key");
	assert_refused("luns:\n  - name: a\n    path: /a\n  - path: /b\n",
		       "f:4: luns[1].name: missing");
	assert_refused("luns:\n- path: /b\n  size: 1G\n", "f:2: luns[0].name: missing");
	assert_refused("\nthreads: many\n", "f:2: threads: ");
	assert_refused("threads: -1\n", "f:1: threads: ");
	assert_refused("luns:\n- {name: a, path: /a}\n- name: b\n  path: /b\n  mode: fast\n",
		       "f:5: luns[1].mode: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  read_only: [x]\n",
		       "f:4: luns[0].read_only: ");
	assert_refused("luns:\n- name: a\n  name: b\n  path: /a\n",
		       "f:3: luns[0].name: given twice");
	assert_refused("luns: 5\n", "f:1: luns: ");
	assert_refused("iscsi:\n  targets:\n  - luns: [a]\n", "f:3: iscsi.targets[0].iqn: missing");
}

static void test_what_is_no_yaml_is_refused_with_its_line(void **state)
{
	assert_refused("a: b\nb: \"x\n", "f:3: not YAML: ");
	assert_refused("threads: 1\n\tx: 2\n", "f:2: not YAML: ");
	assert_refused("luns: &x []\nmetrics: *x\n", "f:2: aliases are not supported");
	assert_refused("threads: 1\n---\nthreads: 2\n", "f:2: a second document");
	assert_refused("a: [[[[[[[[[[[[[[1]]]]]]]]]]]]]]\n", "f:1: nested too deep");
	assert_refused("? [a]\n: b\n", "f:1: a key must be a plain word");
	assert_refused("socket: \"/a\\0b\"\n", "f:1: a NUL byte in a value");
}

static void test_values_are_checked_where_they_stand(void **state)
{
	assert_refused("luns:\n- name: a\n  path: /a\n- name: .b\n  path: /b\n",
		       "f:4: luns[1].name: ");
	assert_refused("luns:\n- name: a/b\n  path: /a\n", "f:2: luns[0].name: ");
	assert_refused("luns:\n- name: a\n  path: a\n", "f:3: luns[0].path: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  size: 1000\n", "f:4: luns[0].size: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  size: 10Q\n", "f:4: luns[0].size: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  size: 65T\n", "f:4: luns[0].size: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  block_size: 1024\n",
		       "f:4: luns[0].block_size: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  create: true\n", "f:4: luns[0].create: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  uuid: 12\n", "f:4: luns[0].uuid: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  cache: write\n", "f:4: luns[0].cache: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  cache_weight: 10001\n",
		       "f:4: luns[0].cache_weight: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  cache_floor: 1Q\n",
		       "f:4: luns[0].cache_floor: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  cache: none\n  cache_weight: 5\n",
		       "f:5: luns[0].cache_weight: ");
	assert_refused("luns:\n- name: a\n  path: /a\n  cache: none\n  cache_floor: 1M\n",
		       "f:5: luns[0].cache_floor: ");
	assert_refused("memory: {max: 64M}\nluns:\n- {name: a, path: /a, cache_floor: 40M}\n"
		       "- name: b\n  path: /b\n  cache_floor: 30M\n",
		       "f:6: luns[1].cache_floor: ");
	assert_refused(
		"luns:\n- {name: a, path: /a}\n- {name: b, path: /b}\n- {name: a, path: /c}\n",
		"f:4: luns[2].name: 'a' is declared twice");
	assert_refused("luns:\n- {name: a, path: /a}\n- {name: b, path: /a}\n",
		       "f:3: luns[1].path: '/a' is the file of another LUN too");
	assert_refused("luns:\n- {name: a_b, path: /a}\n- {name: a-b, path: /b}\n",
		       "f:3: luns[1].name: ");
	assert_refused("threads: 300\n", "f:1: threads: ");
	assert_refused("memory:\n  max: 1M\n", "f:2: memory.max: ");
	assert_refused("memory:\n  floor: 1G\n  max: 64M\n", "f:2: memory.floor: ");
	assert_refused("memory:\n  tmem:\n    codec: rot13\n", "f:3: memory.tmem.codec: ");
	assert_refused("memory:\n  tmem:\n    share: 91%\n", "f:3: memory.tmem.share: ");
	assert_refused("memory:\n  tmem:\n    share: 0%\n", "f:3: memory.tmem.share: ");
	assert_refused("memory:\n  tmem:\n    share: 9\n", "f:3: memory.tmem.share: ");
	assert_refused("memory:\n  tmem:\n    share: 9%x\n", "f:3: memory.tmem.share: ");
	assert_refused("state_dir: x\n", "f:1: state_dir: ");
	assert_refused("iscsi:\n  portals:\n  - 127.0.0.1:1\n  - localhost\n",
		       "f:4: iscsi.portals[1]: ");
	assert_refused("nbd:\n  listen: ['unix:x']\n", "f:2: nbd.listen[0]: ");
	assert_refused("nbd:\n  default_export: x\n", "f:2: nbd.default_export: ");
	assert_refused("nbd:\n  tls:\n    mode: on\n", "f:3: nbd.tls.mode: ");
}

static void test_targets_are_checked_where_they_stand(void **state)
{
	assert_refused("iscsi:\n  targets:\n  - iqn: foo\n", "f:3: iscsi.targets[0].iqn: ");
	assert_refused("iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:a\n  - iqn: iqn.2026-11.x:a\n",
		       "f:4: iscsi.targets[1].iqn: ");
	assert_refused(
		"luns: [{name: a, path: /a}]\n"
		"iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:a\n    luns:\n    - a\n    - b\n",
		"f:7: iscsi.targets[0].luns[1]: no LUN is called 'b'");
	assert_refused("luns: [{name: a, path: /a}, {name: b, path: /b}]\n"
		       "iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:a\n    luns: [3=a, 3=b]\n",
		       "f:5: iscsi.targets[0].luns[1]: LUN number 3 is taken");
	assert_refused("luns: [{name: a, path: /a}]\n"
		       "iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:a\n    luns: [256=a]\n",
		       "f:5: iscsi.targets[0].luns[0]: ");
	assert_refused("iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:a\n    chap:\n"
		       "      users:\n      - user: u\n        secret: short\n",
		       "f:7: iscsi.targets[0].chap.users[0].secret: ");
	assert_refused("iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:a\n    chap:\n"
		       "      users: [{user: u, secret: 123456789012}]\n"
		       "      mutual: {user: u, secret: 123456789012}\n",
		       "f:6: iscsi.targets[0].chap.mutual.secret: ");
	assert_refused("iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:a\n    chap:\n"
		       "      algorithms: [sha256, crc32]\n"
		       "      users: [{user: u, secret: 123456789012}]\n",
		       "f:5: iscsi.targets[0].chap.algorithms");
	assert_refused("iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:a\n    chap:\n"
		       "      users: [{user: u, secret_file: /nonexistent/s}]\n",
		       "f:5: iscsi.targets[0].chap.users[0].secret_file: /nonexistent/s: No such");
	assert_refused("luns: [{name: a, path: /a}]\niscsi:\n  targets:\n"
		       "  - iqn: iqn.2026-11.local.ebb:a\n",
		       "f:1: luns[0].name: 'a': another target has the iSCSI name");
}

static void test_a_line_is_found_for_what_is_not_there(void **state)
{
	static const char text[] = "a: 1\nb:\n- c: 2\n  d: 3\n- e:\n    f: 4\n";
	struct config_lines *lines = NULL;

	assert_int_equal(config_lines_scan("f", text, strlen(text), &lines, NULL), 0);
	assert_int_equal(config_lines_find(lines, "b[0].d"), 4);
	assert_int_equal(config_lines_find(lines, "b[1].e.f"), 6);
	assert_int_equal(config_lines_find(lines, "b[1].e.g"), 5);
	assert_int_equal(config_lines_find(lines, "b[1].e[7].x"), 5);
	assert_int_equal(config_lines_find(lines, "b[2].c"), 2);
	assert_int_equal(config_lines_find(lines, "nothing.at.all"), 1);
	assert_int_equal(config_lines_find(NULL, "a"), 0);
	config_lines_free(lines);
}

static void test_secret_comes_from_a_file(void **state)
{
	char path[] = "/tmp/ebb-test-secret-XXXXXX", text[300];
	int fd = mkstemp(path);
	struct config *c;

	assert_int_equal(write(fd, "abcdefghijklmn\n", 15), 15);
	close(fd);
	snprintf(text, sizeof(text),
		 "iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:a\n    chap:\n"
		 "      users: [{user: u, secret_file: %s}]\n",
		 path);
	c = load(text);
	assert_string_equal(c->iscsi.targets[0].chap->users[0].secret, "abcdefghijklmn");
	config_free(c);
	unlink(path);
}

static void test_ten_thousand_luns_are_quick(void **state)
{
	size_t size = 10000 * 60, len = 0;
	char *text = malloc(size);
	struct config *c;

	len += (size_t)snprintf(text, size, "luns:\n");
	for (int i = 0; i < 10000; i++)
		len += (size_t)snprintf(text + len, size - len, "- {name: l%d, path: /d/%d}\n", i,
					i);
	c = load(text);
	assert_int_equal(c->luns_count, 10000);
	assert_int_equal(c->auto_targets_count, 10000);
	assert_int_equal(config_remove_lun(c, "l5000"), 0);
	assert_int_equal(config_remove_lun(c, "l5000"), -ENOENT);
	assert_int_equal(c->auto_targets_count, 9999);
	config_free(c);
	free(text);
}

static void test_a_copy_stands_on_its_own(void **state)
{
	struct config *c = load(whole);
	struct config_target t;
	struct config_lun l;

	assert_true(config_copy_lun(&l, &c->luns[2]));
	assert_true(config_copy_target(&t, &c->iscsi.targets[0]));
	config_free(c);
	assert_string_equal(l.name, "c");
	assert_false(*l.create);
	assert_string_equal(t.initiators[0], "iqn.1999-01.org.x:*");
	assert_string_equal(t.chap->users[0].secret, "123456789012");
	assert_int_equal(t.map[1].number, 7);
	config_clear_lun(&l);
	config_clear_target(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_key_arrives),
		cmocka_unit_test(test_nothing_is_a_declaration_too),
		cmocka_unit_test(test_no_automatic_targets_when_not_wanted),
		cmocka_unit_test(test_the_schema_refuses_with_line_and_key),
		cmocka_unit_test(test_what_is_no_yaml_is_refused_with_its_line),
		cmocka_unit_test(test_values_are_checked_where_they_stand),
		cmocka_unit_test(test_targets_are_checked_where_they_stand),
		cmocka_unit_test(test_a_line_is_found_for_what_is_not_there),
		cmocka_unit_test(test_secret_comes_from_a_file),
		cmocka_unit_test(test_ten_thousand_luns_are_quick),
		cmocka_unit_test(test_a_copy_stands_on_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
