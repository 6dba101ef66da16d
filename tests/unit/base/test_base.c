// SPDX-License-Identifier: GPL-2.0-or-later
/* The base layer: lists, endian accessors, reasons, state files, lock ranks, histograms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/endian.h"
#include "base/file.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/metric.h"
#include "base/reason.h"
#include "scratch.h"

static void list_keeps_order_and_deletes_twice(void **state)
{
	struct item {
		int v;
		struct list_node link;
	} it[3] = {{.v = 1}, {.v = 2}, {.v = 3}}, *p, *tmp;
	struct list_node head, other;
	int sum = 0;

	list_init(&head);
	list_init(&other);
	for (int i = 0; i < 3; i++)
		list_add_tail(&head, &it[i].link);
	list_for_each_entry (p, &head, link)
		sum = sum * 10 + p->v;
	assert_int_equal(sum, 123);
	list_del(&it[1].link);
	list_del(&it[1].link);
	assert_true(list_empty(&it[1].link));
	list_add_head(&other, &it[1].link);
	list_splice_tail(&other, &head);
	assert_true(list_empty(&head));
	sum = 0;
	list_for_each_entry_safe (p, tmp, &other, link) {
		sum = sum * 10 + p->v;
		list_del(&p->link);
	}
	assert_int_equal(sum, 213);
	assert_null(list_pop(&other));
}

static void endian_round_trips_unaligned(void **state)
{
	uint8_t b[16] = {0};

	put_be64(b + 1, 0x0102030405060708ull);
	assert_int_equal(b[1], 1);
	assert_int_equal(b[8], 8);
	assert_int_equal(get_be64(b + 1), 0x0102030405060708ull);
	assert_int_equal(get_be32(b + 2), 0x02030405);
	assert_int_equal(get_be24(b + 1), 0x010203);
	assert_int_equal(get_be16(b + 7), 0x0708);
	put_be48(b, 0xa1a2a3a4a5a6ull);
	assert_int_equal(get_be48(b), 0xa1a2a3a4a5a6ull);
	put_be24(b, 0xc1c2c3);
	assert_int_equal(get_be32(b), 0xc1c2c3a4);
}

static void reason_names_what_and_where(void **state)
{
	struct reason why;

	assert_int_equal(reason_set(&why, EBUSY, "%s: in use", "a.img"), -EBUSY);
	assert_int_equal(reason_prefix(&why, -EBUSY, "LUN %s", "x"), -EBUSY);
	assert_string_equal(why.text, "LUN x: a.img: in use");
	assert_int_equal(reason_set(NULL, EIO, "unheard"), -EIO);
}

static int open_scratch_dir(void)
{
	char path[64];
	int fd;

	scratch_dir("/tmp", path, sizeof(path));
	fd = open(path, O_DIRECTORY | O_RDONLY);
	assert_true(fd >= 0);
	return fd;
}

static void state_file_is_replaced_whole_or_not_at_all(void **state)
{
	_cleanup_close_ int dir = open_scratch_dir();
	_cleanup_free_ char *buf = NULL;
	struct stat st;
	size_t len;

	assert_int_equal(file_read(dir, "s", 100, &buf, &len), -ENOENT);
	assert_int_equal(file_replace(dir, "s", "old", 3), 0);
	assert_int_equal(file_replace(dir, "s", "newer", 5), 0);
	assert_int_equal(file_read(dir, "s", 4, &buf, &len), -EFBIG);
	assert_null(buf);
	assert_int_equal(file_read(dir, "s", 5, &buf, &len), 0);
	assert_int_equal(len, 5);
	assert_string_equal(buf, "newer");
	assert_int_equal(fstatat(dir, "s", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* The new contents cannot be written: the old ones stay. */
	assert_int_equal(mkdirat(dir, "s.new", 0700), 0);
	assert_int_equal(file_replace(dir, "s", "x", 1), -EISDIR);
	free(take_ptr(buf));
	assert_int_equal(file_read(dir, "s", 5, &buf, &len), 0);
	assert_string_equal(buf, "newer");
	unlinkat(dir, "s.new", AT_REMOVEDIR);
	assert_int_equal(file_remove(dir, "s"), 0);
	assert_int_equal(file_remove(dir, "s"), 0);
}

static void a_line_is_read_without_its_newline(void **state)
{
	_cleanup_close_ int dir = open_scratch_dir();
	char buf[6];

	assert_int_equal(file_read_line(dir, "s", buf, sizeof(buf)), -ENOENT);
	assert_int_equal(file_replace(dir, "s", "one\ntwo\n", 8), 0);
	assert_int_equal(file_read_line(dir, "s", buf, sizeof(buf)), 0);
	assert_string_equal(buf, "one");
	assert_int_equal(file_replace(dir, "s", "longer", 6), 0);
	assert_int_equal(file_read_line(dir, "s", buf, sizeof(buf)), 0);
	assert_string_equal(buf, "longe");
	assert_int_equal(file_replace(dir, "s", "", 0), 0);
	assert_int_equal(file_read_line(dir, "s", buf, sizeof(buf)), 0);
	assert_string_equal(buf, "");
	assert_int_equal(file_remove(dir, "s"), 0);
}

static void wrong_lock_order_aborts(void **state)
{
#ifdef NDEBUG
	print_message("ranks are checked in builds with assertions only\n");
	skip();
#else
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct mutex outer, inner;

		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		mutex_init(&outer, LOCK_RANK_REGISTRY);
		mutex_init(&inner, LOCK_RANK_LEAF);
		mutex_lock(&outer);
		mutex_lock(&inner);
		mutex_unlock(&inner);
		mutex_unlock(&outer);
		mutex_lock(&inner);
		mutex_lock(&outer);
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
#endif
}

static void histogram_counts_by_powers_of_two(void **state)
{
	static struct metric_hist h;

	assert_int_equal(metric_hist_quantile_us(&h, 0.5), 0);
	for (int i = 0; i < 99; i++)
		metric_hist_add(&h, 3000); /* 3 us: the bucket below 4 us */
	metric_hist_add(&h, 3600 * 1000000000ull);
	assert_int_equal(metric_hist_count(&h), 100);
	assert_int_equal(metric_hist_quantile_us(&h, 0.5), 4);
	assert_int_equal(metric_hist_quantile_us(&h, 0.99), 4);
	assert_int_equal(metric_hist_quantile_us(&h, 1.0), 1ull << (METRIC_HIST_BUCKETS - 1));
	assert_int_equal(metric_read(&h.bucket[0]), 0);
	metric_hist_add(&h, 999);
	assert_int_equal(metric_read(&h.bucket[0]), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(list_keeps_order_and_deletes_twice),
		cmocka_unit_test(endian_round_trips_unaligned),
		cmocka_unit_test(reason_names_what_and_where),
		cmocka_unit_test(state_file_is_replaced_whole_or_not_at_all),
		cmocka_unit_test(a_line_is_read_without_its_newline),
		cmocka_unit_test(wrong_lock_order_aborts),
		cmocka_unit_test(histogram_counts_by_powers_of_two),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
