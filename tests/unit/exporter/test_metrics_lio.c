/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Figures of the kernel's target, from a folder as configfs would have it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "exporter/metrics.h"
#include "scratch.h"

static char root[128];

/* FOLDER/FILE=VALUE makes a file with its folders, PATH->PLACE a link to core/PLACE. */
static void plant(const char *const *what)
{
	for (; *what; what++) {
		char path[512], cmd[2048];
		const char *value = strchr(*what, '='), *link = strstr(*what, "->");

		snprintf(path, sizeof(path), "%s/%.*s", root, (int)((link ? link : value) - *what),
			 *what);
		if (link)
			snprintf(cmd, sizeof(cmd),
				 "mkdir -p $(dirname %s) && ln -s ../../../../../../target/core/%s "
				 "%s",
				 path, link + 2, path);
		else
			snprintf(cmd, sizeof(cmd), "mkdir -p $(dirname %s) && echo '%s' > %s", path,
				 value + 1, path);
		assert_int_equal(system(cmd), 0);
	}
}

static int begin(void **state)
{
	char dir[64];

	scratch_dir("/tmp", dir, sizeof(dir));
	snprintf(root, sizeof(root), "%s/target", dir);
	return 0;
}

/* The lines of samples, without those of families. */
static char *collected(void)
{
	struct metrics m = {0};
	struct text t = {0};
	char *line, *rest, *out = calloc(1, 1 << 16);

	metrics_collect_lio(&m, root);
	assert_int_equal(metrics_render(&m, &t), 0);
	text_putc(&t, '\0');
	for (line = strtok_r(t.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		if (line[0] != '#')
			strcat(strcat(out, line), "\n");
	text_clear(&t);
	metrics_free(&m);
	return out;
}

static void expect(const char *want)
{
	char *got = collected();

	assert_string_equal(got, want);
	free(got);
}

#define USER_0 "core/user_0/disk0/"
#define LUN_0  "iscsi/iqn.2026-11.local.ebb:data/tpgt_1/lun/lun_0/"
#define STATS  "iscsi/iqn.2026-11.local.ebb:data/fabric_statistics/"

static void a_host_without_a_target_has_none(void **state)
{
	expect("");
}

static void what_others_export_is_not_told(void **state)
{
	plant((const char *const[]){
		"core/iblock_1/fast/statistics/scsi_tgt_dev/resets=3",
		"core/user_3/foreign/attrib/dev_config=rbd/pool/image", "core/user_3/half/enable=0",
		"iscsi/iqn.2003-01.org.x:1/tpgt_1/lun/lun_0/l->iblock_1/fast",
		"iscsi/iqn.2003-01.org.x:1/tpgt_1/lun/lun_1/l->user_3/foreign", NULL});
	expect("");
}

static void a_lun_of_ours_is_found_by_its_link(void **state)
{
	plant((const char *const[]){
		USER_0 "attrib/dev_config=ebb/data", USER_0 "statistics/scsi_tgt_dev/resets=0",
		USER_0 "statistics/scsi_tgt_dev/aborts_complete=2", LUN_0 "alua_tg_pt_gp=x",
		LUN_0 "0a1b2c3d4e->user_0/disk0", LUN_0 "statistics/scsi_tgt_port/in_cmds=1000",
		LUN_0 "statistics/scsi_tgt_port/read_mbytes=3",
		LUN_0 "statistics/scsi_tgt_port/write_mbytes=5", STATS "iscsi_instance/sessions=2",
		STATS "iscsi_login_stats/accepts=7", STATS "iscsi_tgt_attr/login_fails=1",
		STATS "iscsi_sess_err/digest_errors=0", STATS "iscsi_sess_err/format_errors=0",
		STATS "iscsi_sess_err/cxn_errors=4", NULL});
#define LABELS "{lun=\"data\",export=\"lio/iscsi/iqn.2026-11.local.ebb:data/tpg1/0\"} "
#define TARGET "{target=\"iqn.2026-11.local.ebb:data\"} "
#define OURS                                                                \
	"ebb_lio_commands_total" LABELS "1000\n"                            \
	"ebb_lio_read_bytes_total" LABELS "3145728\n"                       \
	"ebb_lio_written_bytes_total" LABELS "5242880\n"                    \
	"ebb_lio_aborts_total{lun=\"data\",backstore=\"user_0/disk0\"} 2\n" \
	"ebb_lio_sessions" TARGET "2\n"                                     \
	"ebb_lio_logins_total" TARGET "7\n"                                 \
	"ebb_lio_login_failures_total" TARGET "1\n"                         \
	"ebb_lio_timeouts_total" TARGET "4\n"
	expect(OURS);
}

static void a_data_area_that_grows_tells_more(void **state)
{
	char want[2048];

	plant((const char *const[]){USER_0 "attrib/pages_resident=17",
				    USER_0 "attrib/bytes_returned=81920",
				    USER_0 "attrib/timeouts_cmd=0", NULL});
#define AREA "{lun=\"data\",backstore=\"user_0/disk0\"} "
	snprintf(want, sizeof(want),
		 "ebb_tcmu_area_resident_bytes" AREA "%ld\n"
		 "ebb_tcmu_area_returned_bytes_total" AREA "81920\n"
		 "ebb_tcmu_timeouts_total" AREA "0\n" OURS,
		 17 * sysconf(_SC_PAGESIZE));
	expect(want);
}

static void what_cannot_be_read_is_left_out(void **state)
{
	plant((const char *const[]){LUN_0 "statistics/scsi_tgt_port/in_cmds=nonsense",
				    LUN_0 "statistics/scsi_tgt_port/read_mbytes=",
				    USER_0 "statistics/scsi_tgt_dev/aborts_complete=-", NULL});
	char *got = collected();

	assert_null(strstr(got, "ebb_lio_commands_total{"));
	assert_null(strstr(got, "ebb_lio_read_bytes_total{"));
	assert_null(strstr(got, "ebb_lio_aborts_total{"));
	assert_non_null(strstr(got, "ebb_lio_written_bytes_total" LABELS "5242880\n"));
	free(got);
}

int main(void)
{
	/* Each adds to what those before it have planted. */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_host_without_a_target_has_none),
		cmocka_unit_test(what_others_export_is_not_told),
		cmocka_unit_test(a_lun_of_ours_is_found_by_its_link),
		cmocka_unit_test(a_data_area_that_grows_tells_more),
		cmocka_unit_test(what_cannot_be_read_is_left_out),
	};

	return cmocka_run_group_tests(tests, begin, NULL);
}
