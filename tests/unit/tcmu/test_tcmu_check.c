/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>

#include "front/tcmu/tcmu_check.h"
#include "scsi_harness.h"

static void names_of_ours_are_taken_apart(void **state)
{
	struct tcmu_name n;

	assert_true(tcmu_parse_name("tcm-user/12/a.b/ebb/data", &n));
	assert_int_equal(n.hba, 12);
	assert_string_equal(n.backstore, "a.b");
	assert_string_equal(n.lun, "data");
	assert_true(tcmu_parse_name("tcm-user/0/x/ebb/data\n", &n));
	assert_string_equal(n.lun, "data");
}

static void other_names_are_not_ours(void **state)
{
	static const char *const names[] = {"",
					    "uio_pci",
					    "tcm-user/",
					    "tcm-user/0",
					    "tcm-user/0/x",
					    "tcm-user/0/x/ebb",
					    "tcm-user/0/x/ebb/",
					    "tcm-user/0//ebb/data",
					    "tcm-user/0/x/qcow//a.img",
					    "tcm-user/0/x/ebbs/data",
					    "tcm-user/x/x/ebb/data",
					    "tcm-user//x/ebb/data"};
	struct tcmu_name n;
	char longer[200];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_false(tcmu_parse_name(names[i], &n));
	memset(longer, 'a', sizeof(longer));
	memcpy(longer, "tcm-user/0/x/ebb/", 17);
	longer[sizeof(longer) - 1] = '\0';
	assert_false(tcmu_parse_name(longer, &n));
}

static void names_are_compared_by_what_they_name(void **state)
{
	static const char *const others[] = {"tcm-user/1/x/ebb/data", "tcm-user/0/y/ebb/data",
					     "tcm-user/0/x/ebb/more"};
	struct tcmu_name n, o;

	assert_true(tcmu_parse_name("tcm-user/0/x/ebb/data", &n));
	assert_true(tcmu_parse_name("tcm-user/0/x/ebb/data\n", &o));
	assert_true(tcmu_same_name(&n, &o));
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		assert_true(tcmu_parse_name(others[i], &o));
		assert_false(tcmu_same_name(&n, &o));
	}
}

static void a_configuration_names_a_lun_of_its_size(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct reason why = {""};
	struct lun_table *t;

	assert_int_equal(lun_table_create(&t), 0);
	assert_int_equal(lun_table_add(t, w->lun), 0);
	assert_int_equal(tcmu_check_config(t, "ebb/disk", 0, &why), 0);
	assert_int_equal(tcmu_check_config(t, "ebb/disk", 8u << 20, &why), 0);
	assert_int_equal(tcmu_check_config(t, "ebb/disk", 9u << 20, &why), -EINVAL);
	assert_non_null(strstr(why.text, "8388608"));
	assert_int_equal(tcmu_check_config(t, "ebb/disc", 0, &why), -ENOENT);
	assert_non_null(strstr(why.text, "disc"));
	assert_int_equal(tcmu_check_config(t, "qcow/disk", 0, &why), -EINVAL);
	assert_int_equal(tcmu_check_config(t, "ebb/", 0, &why), -EINVAL);
	lun_table_destroy(t);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_of_ours_are_taken_apart),
		cmocka_unit_test(other_names_are_not_ours),
		cmocka_unit_test(names_are_compared_by_what_they_name),
		cmocka_unit_test(a_configuration_names_a_lun_of_its_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
