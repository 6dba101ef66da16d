/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a request on the file of a LUN becomes, and what is told of it. */
#include <errno.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "front/fuse/mount_rules.h"

#define SIZE (1u << 20)

static const struct port_export lun = {
	.name = "disk",
	.description = "of tests",
	.uuid = {0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0x4d, 0xef, 0x80, 1, 2, 3, 4, 5, 6, 7},
	.size = SIZE,
	.block_size = 512,
};

static void test_errors_are_those_of_files(void **state)
{
	assert_int_equal(mount_errno(0), 0);
	assert_int_equal(mount_errno(-EPERM), EBUSY);
	assert_int_equal(mount_errno(-ESHUTDOWN), EIO);
	assert_int_equal(mount_errno(-ENOSPC), ENOSPC);
	assert_int_equal(mount_errno(-EROFS), EROFS);
}

static mode_t mode_of(uint32_t flags, bool read_only, mode_t mask)
{
	struct mount_owner owner = {.uid = 7, .gid = 8, .umask = mask, .read_only = read_only};
	struct port_export e = lun;
	struct stat st;

	e.flags = flags;
	mount_fill_stat(&e, &owner, 99, &st);
	assert_int_equal(st.st_uid, 7);
	assert_int_equal(st.st_gid, 8);
	assert_int_equal(st.st_size, SIZE);
	assert_int_equal(st.st_blocks, SIZE / 512);
	assert_int_equal(st.st_mtim.tv_sec, 99);
	assert_int_equal(st.st_ino, mount_inode(&e));
	assert_true(S_ISREG(st.st_mode));
	return st.st_mode & 07777;
}

static void test_modes(void **state)
{
	assert_int_equal(mode_of(0, false, 0), 0666);
	assert_int_equal(mode_of(0, false, 022), 0644);
	assert_int_equal(mode_of(0, true, 022), 0444);
	assert_int_equal(mode_of(PORT_EXPORT_READ_ONLY, false, 0), 0444);
	assert_int_equal(mode_of(PORT_EXPORT_READ_ONLY, false, 077), 0400);
}

static void test_an_inode_is_of_the_uuid(void **state)
{
	struct port_export e = lun;

	strcpy(e.name, "renamed");
	assert_int_equal(mount_inode(&e), mount_inode(&lun));
	e.uuid[12]++;
	assert_int_not_equal(mount_inode(&e), mount_inode(&lun));
	memset(e.uuid, 0, sizeof(e.uuid));
	assert_true(mount_inode(&e) > 1); /* the directory's */
}

static void test_clip(void **state)
{
	assert_int_equal(mount_clip(SIZE, 0, SIZE), SIZE);
	assert_int_equal(mount_clip(SIZE, SIZE - 1, 4096), 1);
	assert_int_equal(mount_clip(SIZE, SIZE, 4096), 0);
	assert_int_equal(mount_clip(SIZE, UINT64_MAX, 4096), 0);
	assert_int_equal(mount_clip(SIZE, 1, UINT64_MAX), SIZE - 1);
}

static void test_fallocate(void **state)
{
	struct mount_change c = {0};

	assert_int_equal(mount_plan_fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096,
					      SIZE, SIZE, &c),
			 0);
	assert_int_equal(c.op, PORT_ZERO);
	assert_int_equal(c.flags, PORT_MAY_TRIM);
	assert_int_equal(c.off, 4096);
	assert_int_equal(c.len, SIZE - 4096);
	assert_int_equal(
		mount_plan_fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SIZE, 1, SIZE, &c),
		0);
	assert_int_equal(c.len, 0);
	assert_int_equal(mount_plan_fallocate(FALLOC_FL_ZERO_RANGE, 0, SIZE, SIZE, &c), 0);
	assert_int_equal(c.flags, 0);
	assert_int_equal(c.len, SIZE);
	assert_int_equal(mount_plan_fallocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, SIZE - 8,
					      16, SIZE, &c),
			 0);
	assert_int_equal(c.len, 8);
	/* What was refused leaves nothing behind. */
	assert_int_equal(mount_plan_fallocate(FALLOC_FL_ZERO_RANGE, 0, SIZE + 1, SIZE, &c),
			 -ENOSPC);
	assert_int_equal(mount_plan_fallocate(0, 0, 512, SIZE, &c), -EOPNOTSUPP);
	assert_int_equal(mount_plan_fallocate(FALLOC_FL_COLLAPSE_RANGE, 0, 512, SIZE, &c),
			 -EOPNOTSUPP);
	assert_int_equal(c.len, 8);
}

static void test_resize(void **state)
{
	for (int grow = 0; grow < 2; grow++) {
		assert_int_equal(mount_plan_resize(&lun, SIZE, false, grow), MOUNT_RESIZE_NOT);
		assert_int_equal(mount_plan_resize(&lun, 0, true, grow), MOUNT_RESIZE_NOT);
		assert_int_equal(mount_plan_resize(&lun, 0, false, grow), -EPERM);
		assert_int_equal(mount_plan_resize(&lun, SIZE - 512, true, grow), -EPERM);
	}
	assert_int_equal(mount_plan_resize(&lun, SIZE + 512, true, false), -EPERM);
	assert_int_equal(mount_plan_resize(&lun, SIZE + 512, true, true), MOUNT_RESIZE_GROW);
	assert_int_equal(mount_plan_resize(&lun, SIZE + 511, true, true), -EINVAL);
}

static void test_seek(void **state)
{
	const uint32_t hole = PORT_EXTENT_HOLE | PORT_EXTENT_ZERO;
	/* Zeros that are allocated are data, and so is what merely is not allocated. */
	const struct port_extent x[] = {
		{10, hole}, {20, PORT_EXTENT_ZERO}, {30, PORT_EXTENT_HOLE}, {40, hole}};
	uint64_t pos = 1000;

	assert_true(mount_seek(x, 4, true, &pos));
	assert_int_equal(pos, 1000);
	assert_true(mount_seek(x, 4, false, &pos));
	assert_int_equal(pos, 1010);
	pos = 1010;
	assert_true(mount_seek(x + 1, 3, true, &pos));
	assert_int_equal(pos, 1060);
	pos = 1060;
	assert_false(mount_seek(x + 3, 1, false, &pos));
	assert_int_equal(pos, 1100);
	assert_false(mount_seek(x, 0, true, &pos));
	assert_int_equal(pos, 1100);
}

static void check_xattr(const char *name, const char *want)
{
	char value[MOUNT_XATTR_MAX];
	int n = mount_xattr_value(&lun, name, value);

	assert_int_equal(n, strlen(want));
	assert_memory_equal(value, want, (size_t)n);
}

static void test_xattrs(void **state)
{
	char value[MOUNT_XATTR_MAX];
	size_t len, at = 0;
	const char *names = mount_xattr_names(&len);
	unsigned n = 0;

	for (; at < len; at += strlen(names + at) + 1, n++)
		assert_true(mount_xattr_value(&lun, names + at, value) > 0);
	assert_int_equal(at, len);
	assert_int_equal(n, 7);
	check_xattr("user.ebb.name", "disk");
	check_xattr("user.ebb.uuid", "12345678-9abc-4def-8001-020304050607");
	check_xattr("user.ebb.serial", "12345678-9abc-4def-8001-020304050607");
	check_xattr("user.ebb.naa", "323456789abc0607");
	check_xattr("user.ebb.eui64", "123456789abc0607");
	check_xattr("user.ebb.block_size", "512");
	check_xattr("user.ebb.description", "of tests");
	assert_int_equal(mount_xattr_value(&lun, "user.ebb", value), -ENODATA);
	assert_int_equal(mount_xattr_value(&lun, "security.selinux", value), -ENODATA);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors_are_those_of_files),
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_an_inode_is_of_the_uuid),
		cmocka_unit_test(test_clip),
		cmocka_unit_test(test_fallocate),
		cmocka_unit_test(test_resize),
		cmocka_unit_test(test_seek),
		cmocka_unit_test(test_xattrs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
