/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A plan is a function of what is declared, what runs, and which files are there. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "control/plan.h"
#include "load.h"

/* Every path that begins with /no is not there; the others have 1 MiB. */
static int look(void *ctx, const char *path, uint64_t *ret_size)
{
	if (!strncmp(path, "/no", 3))
		return -ENOENT;
	*ret_size = 1 << 20;
	return 0;
}

/* A running state made from all that @r declares, every LUN of @size bytes with @users. */
struct state {
	struct plan_lun luns[16];
	struct plan_target targets[16];
	struct plan_input in;
};

static void run_all(struct state *s, struct config *r, uint64_t size, unsigned users)
{
	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; r && i < r->luns_count; i++)
		s->luns[s->in.n_luns++] = (struct plan_lun){
			&r->luns[i], r->luns[i].size ? r->luns[i].size : size, users};
	for (unsigned i = 0; r && i < r->iscsi.targets_count; i++)
		s->targets[s->in.n_targets++] = (struct plan_target){&r->iscsi.targets[i], users};
	for (unsigned i = 0; r && i < r->auto_targets_count; i++)
		s->targets[s->in.n_targets++] = (struct plan_target){&r->auto_targets[i], users};
	s->in.luns = s->luns;
	s->in.targets = s->targets;
	s->in.look = look;
	if (r) {
		s->in.portals = (const char *const *)r->iscsi.portals;
		s->in.n_portals = r->iscsi.portals_count;
		s->in.lio = &r->lio;
	}
}

/* The plan as lines "action name" from @running (all up) to @declared; !: not now, ~: after LIO. */
static char *plan_text(const char *running, const char *declared, unsigned users)
{
	static char buf[4096];
	struct config *r = running ? load(running) : NULL, *d = load(declared);
	struct plan *p = NULL;
	struct state s;
	size_t len = 0;

	run_all(&s, r, 1 << 20, users);
	s.in.declared = d;
	assert_int_equal(plan_make(&s.in, &p), 0);
	buf[0] = '\0';
	for (size_t i = 0; i < p->n; i++)
		len += (size_t)snprintf(buf + len, sizeof(buf) - len, "%s %s%s\n",
					plan_kind_name(p->steps[i].kind), p->steps[i].name,
					p->steps[i].problem[0]	? "!"
					: p->steps[i].after_lio ? "~"
								: "");
	plan_free(p);
	config_free(r);
	config_free(d);
	return buf;
}

#define IQN "iqn.2026-11.local.ebb:"

static void test_no_difference_is_an_empty_plan(void **state)
{
	const char *same = "luns:\n- {name: a, path: /a}\n- {name: b, path: /b, size: 1G}\n"
			   "iscsi:\n  portals: ['127.0.0.1:3260']\n  targets:\n"
			   "  - iqn: iqn.2026-11.x:t\n    luns: [2=a, 1=b]\n"
			   "    chap: {users: [{user: u, secret: 123456789012}]}\n";

	assert_string_equal(plan_text(same, same, 0), "");
	assert_string_equal(plan_text(same, same, 3), "");
}

static void test_from_nothing_all_is_created_luns_before_targets(void **state)
{
	assert_string_equal(plan_text(NULL,
				      "luns: [{name: b, path: /b}, {name: a, path: /a}]\n"
				      "iscsi: {portals: ['127.0.0.1:3260']}\n",
				      0),
			    "create lun a\ncreate lun b\ncreate target " IQN "a\ncreate target " IQN
			    "b\nadd portal 127.0.0.1:3260\n");
}

static void test_what_is_not_declared_goes_targets_before_luns(void **state)
{
	assert_string_equal(plan_text("luns: [{name: a, path: /a}, {name: b, path: /b}]\n"
				      "iscsi: {portals: ['127.0.0.1:3260']}\n",
				      "luns: [{name: b, path: /b}]\n", 0),
			    "remove target " IQN "a\nremove lun a\nremove portal 127.0.0.1:3260\n");
}

static void test_busy_is_reported_and_others_are_not_touched(void **state)
{
	assert_string_equal(plan_text("luns: [{name: a, path: /a}, {name: b, path: /b}]\n",
				      "luns: [{name: b, path: /b}, {name: c, path: /c}]\n", 2),
			    "remove target " IQN "a!\nremove lun a!\ncreate lun c\n"
			    "create target " IQN "c\n");
}

static void test_a_missing_file_is_reported_and_its_target_waits(void **state)
{
	assert_string_equal(
		plan_text(NULL, "luns: [{name: a, path: /no/a}, {name: b, path: /b}]\n", 0),
		"create lun a!\ncreate lun b\ncreate target " IQN "a!\ncreate target " IQN "b\n");
	/* With a size it is made; unless that is not wanted. */
	assert_string_equal(plan_text(NULL, "luns: [{name: a, path: /no/a, size: 1M}]\n", 0),
			    "create lun a\ncreate target " IQN "a\n");
	assert_string_equal(
		plan_text(NULL, "luns: [{name: a, path: /no/a, size: 1M, create: false}]\n", 0),
		"create lun a!\ncreate target " IQN "a!\n");
	/* It runs, but the file is gone: told, and nothing is done to it. */
	assert_string_equal(plan_text("luns: [{name: a, path: /no/a}]\n",
				      "luns: [{name: a, path: /no/a}]\n", 1),
			    "attention a!\n");
}

static void test_sizes_grow_and_never_shrink(void **state)
{
	assert_string_equal(plan_text("luns: [{name: a, path: /a, size: 1G}]\n",
				      "luns: [{name: a, path: /a, size: 2G}]\n", 5),
			    "grow lun a\n");
	assert_string_equal(plan_text("luns: [{name: a, path: /a, size: 2G}]\n",
				      "luns: [{name: a, path: /a, size: 1G}]\n", 0),
			    "grow lun a!\n");
	assert_string_equal(plan_text("luns: [{name: a, path: /a, size: 2G}]\n",
				      "luns: [{name: a, path: /a}]\n", 0),
			    "");
}

static void test_attributes_that_opening_sets_reopen_an_idle_lun(void **state)
{
	static const char *const changes[] = {"path: /b",
					      "path: /a, read_only: true",
					      "path: /a, removable: true",
					      "path: /a, block_size: 4096",
					      "path: /a, mode: direct",
					      "path: /a, cache: none",
					      "path: /a, cache_weight: 5",
					      "path: /a, cache_floor: 1M",
					      "path: /a, description: x"};

	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		char text[120];

		snprintf(text, sizeof(text), "luns: [{name: a, %s}]\n", changes[i]);
		assert_string_equal(plan_text("luns: [{name: a, path: /a}]\n", text, 0),
				    "reopen lun a\n");
		assert_string_equal(plan_text("luns: [{name: a, path: /a}]\n", text, 1),
				    "reopen lun a!\n");
	}
	assert_string_equal(plan_text("luns: [{name: a, path: /a}]\n",
				      "luns: [{name: a, path: /a, block_size: 512}]\n", 0),
			    "");
}

static void test_targets_change_in_place(void **state)
{
	static const char base[] =
		"luns: [{name: a, path: /a}, {name: b, path: /b}]\n"
		"iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:t\n    luns: [a, b]\n";
	static const char *const changed[] = {
		"    luns: [b, a]\n",
		"    luns: [a, 3=b]\n",
		"    luns: [a, b]\n    alias: x\n",
		"    luns: [a, b]\n    initiators: [x]\n",
		"    luns: [a, b]\n    header_digest: true\n",
		("    luns: [a, b]\n    chap: {users: [{user: u, secret: "
		 "123456789012}]}\n")};

	for (size_t i = 0; i < sizeof(changed) / sizeof(changed[0]); i++) {
		char text[500];

		snprintf(text, sizeof(text), "%.*s%s",
			 (int)(strstr(base, "    luns: [a, b]") - base), base, changed[i]);
		assert_string_equal(plan_text(base, text, 4), "change target iqn.2026-11.x:t\n");
	}
	/* A LUN that leaves it gets its own target back. */
	assert_string_equal(
		plan_text(base,
			  "luns: [{name: a, path: /a}, {name: b, path: /b}]\n"
			  "iscsi:\n  targets:\n  - iqn: iqn.2026-11.x:t\n    luns: [a]\n",
			  1),
		"change target iqn.2026-11.x:t\ncreate target " IQN "b\n");
}

#define LUNS                                                                                   \
	"tcmu: true\nluns: [{name: a, path: /a}, {name: b, path: /b}]\niscsi: {auto_targets: " \
	"false}\n"
#define LIO LUNS "lio:\n  portals: ['127.0.0.1:1']\n  targets:\n  - iqn: iqn.2026-11.x:t\n"

static void test_targets_of_the_kernel(void **state)
{
	const char *chap = LIO "    luns: [a]\n    chap: {user: u, secret: 123456789012}\n";

	assert_string_equal(plan_text(LUNS, LIO "    luns: [a]\n", 0),
			    "create lio target iqn.2026-11.x:t\n");
	assert_string_equal(plan_text(LIO "    luns: [a]\n", LUNS, 0),
			    "remove lio target iqn.2026-11.x:t\n");
	assert_string_equal(plan_text(LIO "    luns: [a]\n", LIO "    luns: [a, b]\n", 0),
			    "change lio target iqn.2026-11.x:t\n");
	assert_string_equal(plan_text(LIO "    luns: [a]\n", LIO "    luns: [1=a]\n", 0),
			    "change lio target iqn.2026-11.x:t\n");
	assert_string_equal(plan_text(LIO, LIO "    portals: ['127.0.0.1:2']\n", 0),
			    "change lio target iqn.2026-11.x:t\n");
	assert_string_equal(plan_text(LIO, LIO "    portals: ['127.0.0.1:1']\n", 0), "");
	assert_string_equal(plan_text(LIO "    luns: [a]\n", chap, 0),
			    "change lio target iqn.2026-11.x:t\n");
	assert_string_equal(plan_text(chap, chap, 0), "");
	assert_string_equal(plan_text(LIO, LIO "    acls: [{initiator: iqn.2026-11.x:i}]\n", 0),
			    "change lio target iqn.2026-11.x:t\n");
}

static void test_what_the_kernel_loses_is_waited_for(void **state)
{
	const char *only_b = "tcmu: true\nluns: [{name: b, path: /b}]\niscsi: {auto_targets: "
			     "false}\n";
	const char *other_a = "tcmu: true\nluns: [{name: a, path: /c}, {name: b, path: /b}]\n"
			      "iscsi: {auto_targets: false}\n";

	assert_string_equal(plan_text(LIO "    luns: [a]\n", only_b, 1),
			    "remove lio target iqn.2026-11.x:t\nremove lun a~\n");
	assert_string_equal(plan_text(LIO "    luns: [a]\n", other_a, 1),
			    "remove lio target iqn.2026-11.x:t\nreopen lun a~\n");
	/* Not in use; or in use by others alone. */
	assert_string_equal(plan_text(LIO "    luns: [a]\n", only_b, 0),
			    "remove lio target iqn.2026-11.x:t\nremove lun a\n");
	assert_string_equal(plan_text(LIO "    luns: [b]\n", only_b, 1),
			    "remove lio target iqn.2026-11.x:t\nremove lun a!\n");
}

static void test_a_lun_that_the_kernel_keeps_is_busy(void **state)
{
	const char *other_path = "tcmu: true\nluns: [{name: a, path: /c}, {name: b, path: /b}]\n"
				 "iscsi: {auto_targets: false}\nlio:\n  portals: ['127.0.0.1:1']\n"
				 "  targets:\n  - iqn: iqn.2026-11.x:t\n    luns: [a]\n";

	assert_string_equal(plan_text(LIO "    luns: [a]\n", other_path, 1), "reopen lun a!\n");
}

static void test_what_others_found_needs_attention(void **state)
{
	struct config *d = load("{}\n");
	struct plan_problem note = {"iqn.x", "the kernel says no"};
	struct plan *p = NULL;
	struct state s;

	run_all(&s, NULL, 0, 0);
	s.in.declared = d;
	s.in.notes = &note;
	s.in.n_notes = 1;
	assert_int_equal(plan_make(&s.in, &p), 0);
	assert_int_equal(p->n, 1);
	assert_int_equal(p->steps[0].kind, PLAN_ATTENTION);
	assert_string_equal(p->steps[0].name, "iqn.x");
	assert_string_equal(p->steps[0].problem, "the kernel says no");
	plan_free(p);
	config_free(d);
}

static void test_what_takes_a_restart_is_told(void **state)
{
	struct config *a = load("threads: 2\n"), *b = load("threads: 3\nnbd: {threads: 4}\n");
	struct plan *p = NULL;
	struct state s;

	run_all(&s, a, 0, 0);
	s.in.declared = b;
	s.in.started_with = a;
	assert_int_equal(plan_make(&s.in, &p), 0);
	assert_int_equal(p->n, 2);
	assert_int_equal(plan_problems(p), 2);
	assert_string_equal(p->steps[0].name, "nbd");
	assert_string_equal(p->steps[1].name, "threads");
	plan_free(p);
	config_free(a);
	config_free(b);
}

static void test_changed_memory_is_a_step(void **state)
{
	struct config *d = load("memory: {max: 2G}\n");
	struct config_memory runs = {.floor = 64 << 20};
	struct plan *p = NULL;
	struct state s;

	run_all(&s, NULL, 0, 0);
	s.in.declared = d;
	s.in.memory = &runs;
	assert_int_equal(plan_make(&s.in, &p), 0);
	assert_int_equal(p->n, 1);
	assert_int_equal(p->steps[0].kind, PLAN_SET_MEMORY);
	assert_ptr_equal(p->steps[0].memory, &d->memory);
	assert_string_equal(p->steps[0].detail, "max default -> 2G, floor 64M -> default");
	plan_free(p);
	runs = (struct config_memory){.max = 2ull << 30};
	assert_int_equal(plan_make(&s.in, &p), 0);
	assert_int_equal(p->n, 0);
	plan_free(p);
	s.in.cache_room = 1ull << 30;
	assert_int_equal(plan_make(&s.in, &p), 0);
	assert_int_equal(p->n, 1);
	assert_string_equal(p->steps[0].name, "memory.max");
	assert_non_null(strstr(p->steps[0].problem, "room for 1G"));
	plan_free(p);
	config_free(d);
}

static void test_json_says_the_same(void **state)
{
	struct config *d = load("luns: [{name: a, path: /no/a}]\n");
	struct plan *p = NULL;
	struct state s;
	json_t *list, *o;

	run_all(&s, NULL, 0, 0);
	s.in.declared = d;
	assert_int_equal(plan_make(&s.in, &p), 0);
	list = plan_to_json(p);
	o = json_array_get(list, 0);
	assert_string_equal(json_string_value(json_object_get(o, "action")), "create lun");
	assert_string_equal(json_string_value(json_object_get(o, "name")), "a");
	assert_non_null(strstr(json_string_value(json_object_get(o, "problem")), "No such file"));
	json_decref(list);
	plan_free(p);
	config_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_difference_is_an_empty_plan),
		cmocka_unit_test(test_from_nothing_all_is_created_luns_before_targets),
		cmocka_unit_test(test_what_is_not_declared_goes_targets_before_luns),
		cmocka_unit_test(test_busy_is_reported_and_others_are_not_touched),
		cmocka_unit_test(test_a_missing_file_is_reported_and_its_target_waits),
		cmocka_unit_test(test_sizes_grow_and_never_shrink),
		cmocka_unit_test(test_attributes_that_opening_sets_reopen_an_idle_lun),
		cmocka_unit_test(test_targets_change_in_place),
		cmocka_unit_test(test_targets_of_the_kernel),
		cmocka_unit_test(test_what_the_kernel_loses_is_waited_for),
		cmocka_unit_test(test_a_lun_that_the_kernel_keeps_is_busy),
		cmocka_unit_test(test_what_others_found_needs_attention),
		cmocka_unit_test(test_what_takes_a_restart_is_told),
		cmocka_unit_test(test_changed_memory_is_a_step),
		cmocka_unit_test(test_json_says_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
