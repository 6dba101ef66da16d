/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file store on real files: opening, modes, locks between processes, full file systems, grow.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/block.h"
#include "scratch.h"

static char dir[64];
static struct reason why;

static const char *in_dir(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static int set_up(void **state)
{
	scratch_dir("/var/tmp", dir, sizeof(dir));
	why.text[0] = '\0';
	return 0;
}

static struct block_store *open_new(uint64_t size, enum block_mode mode)
{
	struct block_open_options opt = {
		.path = in_dir("f"), .create = true, .size = size, .mode = mode};
	struct block_store *s;

	if (block_open_file(&opt, &s, &why))
		fail_msg("%s", why.text);
	return s;
}

static int rw(struct block_store *s, enum block_op op, uint64_t off, void *buf, uint64_t len)
{
	struct iovec v = {buf, len};
	struct block_io io = {
		.op = op, .off = off, .len = len, .iov = &v, .niov = 1, .reg_index = -1};

	return block_run(s, &io);
}

static void what_cannot_be_opened_is_named(void **state)
{
	struct block_open_options opt = {.path = in_dir("f")};
	struct block_store *s = NULL;

	assert_int_equal(block_open_file(&opt, &s, &why), -ENOENT);
	assert_non_null(strstr(why.text, in_dir("f")));
	opt.create = true; /* but no size */
	assert_int_equal(block_open_file(&opt, &s, &why), -EINVAL);
	opt.size = BLOCK_SIZE_MAX + 512;
	assert_int_equal(block_open_file(&opt, &s, &why), -EFBIG);
	opt.size = 4096;
	opt.read_only = true;
	assert_int_equal(block_open_file(&opt, &s, &why), -EINVAL);
	assert_int_equal(access(in_dir("f"), F_OK), -1);
	opt = (struct block_open_options){.path = dir, .read_only = true};
	assert_int_equal(block_open_file(&opt, &s, &why), -EINVAL);
	assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
	opt.path = in_dir("fifo"); /* and this does not hang */
	assert_int_equal(block_open_file(&opt, &s, &why), -EINVAL);
	opt.path = "/dev/null";
	assert_int_equal(block_open_file(&opt, &s, &why), -EINVAL);
	assert_null(s);
}

static void a_size_that_differs_is_refused(void **state)
{
	struct block_open_options opt = {.path = in_dir("f"), .create = true, .size = 8192};
	struct block_store *s;
	struct stat st;

	block_close(open_new(4096, BLOCK_MODE_AUTO));
	assert_int_equal(block_open_file(&opt, &s, &why), -EINVAL);
	assert_int_equal(stat(in_dir("f"), &st), 0);
	assert_int_equal(st.st_size, 4096);
	opt.size = 0;
	assert_int_equal(block_open_file(&opt, &s, &why), 0);
	assert_int_equal(s->size, 4096);
	block_close(s);
}

static void a_new_file_is_sparse_and_large(void **state)
{
	struct block_store *s = open_new(8ull << 40, BLOCK_MODE_AUTO);
	struct block_info info;
	uint8_t buf[513] = {1, 2, 3}, got[513];
	uint64_t last = (8ull << 40) - sizeof(buf);

	block_get_info(s, &info);
	assert_int_equal(info.size, 8ull << 40);
	assert_true(info.allocated < 1u << 20);
	assert_int_equal(rw(s, BLOCK_WRITE, last, buf, sizeof(buf)), 0);
	assert_int_equal(rw(s, BLOCK_READ, last, got, sizeof(got)), 0);
	assert_memory_equal(buf, got, sizeof(buf));
	block_close(s);
}

static void the_mode_is_told_with_its_reason(void **state)
{
	struct block_open_options opt = {.path = in_dir("f"), .mode = BLOCK_MODE_DIRECT};
	struct block_store *s = open_new(1u << 20, BLOCK_MODE_BUFFERED);
	struct block_info info;
	bool direct;

	block_get_info(s, &info);
	assert_string_equal(info.mode, "buffered");
	assert_string_equal(info.why, "asked for");
	assert_int_equal(info.write_unit, 1);
	block_close(s);
	opt.mode = BLOCK_MODE_AUTO;
	assert_int_equal(block_open_file(&opt, &s, &why), 0);
	block_get_info(s, &info);
	direct = !strcmp(info.mode, "direct");
	print_message("%s: %s\n", info.mode, info.why);
	assert_true(strlen(info.why) > 10);
	assert_int_equal(direct, info.write_unit > 1);
	block_close(s);
	/* A size that direct I/O cannot reach the end of. */
	assert_int_equal(truncate(opt.path, 100000 + 1), 0);
	assert_int_equal(block_open_file(&opt, &s, &why), 0);
	block_get_info(s, &info);
	assert_string_equal(info.mode, "buffered");
	block_close(s);
	opt.mode = BLOCK_MODE_DIRECT;
	assert_int_equal(block_open_file(&opt, &s, &why), -EINVAL);
}

static void tmpfs_is_buffered(void **state)
{
	struct block_open_options opt = {
		.path = "/dev/shm/ebb-test-block", .create = true, .size = 1u << 20};
	struct block_store *s;
	struct block_info info;
	struct statfs fs;

	if (statfs("/dev/shm", &fs) || fs.f_type != TMPFS_MAGIC) {
		print_message("needs a tmpfs on /dev/shm\n");
		skip();
	}
	assert_int_equal(block_open_file(&opt, &s, &why), 0);
	unlink(opt.path);
	block_get_info(s, &info);
	assert_string_equal(info.mode, "buffered");
	assert_non_null(strstr(info.why, "tmpfs"));
	block_close(s);
}

static void another_process_is_refused_and_told_who(void **state)
{
	struct block_open_options opt = {.path = in_dir("f")};
	struct block_store *s = open_new(4096, BLOCK_MODE_AUTO), *again;
	char pid[32];
	int status;
	pid_t child = fork();

	snprintf(pid, sizeof(pid), "pid %d", (int)(child ? getpid() : getppid()));
	if (!child) {
		struct block_store *mine;

		int err = block_open_file(&opt, &mine, &why);

		_exit(err != -EBUSY ? 1 : !strstr(why.text, opt.path) ? 2 : 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	/* In this process: a second open is refused too, and names the holder, us. */
	assert_int_equal(block_open_file(&opt, &again, &why), -EBUSY);
	assert_non_null(strstr(why.text, pid));
	block_close(s);
	assert_int_equal(block_open_file(&opt, &s, &why), 0);
	block_close(s);
}

/* --- a file system that is full --- */

static sem_t done_sem;
static int done_err;

static void on_done(struct block_io *io, int err)
{
	done_err = err;
	sem_post(&done_sem);
}

struct submit {
	struct reactor_msg msg;
	struct block_store *s;
	struct block_io *io;
};

static void on_reactor(struct reactor_msg *m)
{
	struct submit *c = container_of(m, struct submit, msg);

	block_submit(c->s, c->io);
}

static int run_async(struct block_store *s, struct block_io *io)
{
	struct reactor_options ro = {.name = "test"};
	struct submit c = {.msg.fn = on_reactor, .s = s, .io = io};
	struct reactor_set *set;

	if (reactor_set_start(1, &ro, &set))
		return 1;
	sem_init(&done_sem, 0, 0);
	io->reactor = reactor_set_get(set, 0);
	io->done = on_done;
	reactor_post(io->reactor, &c.msg);
	while (sem_wait(&done_sem))
		;
	reactor_set_stop(set);
	return done_err;
}

/* In a mount namespace of its own. Returns the exit status: 0 right, 77 no such namespace. */
static int fill_a_tmpfs(void)
{
	struct block_open_options opt = {.create = true, .size = 8u << 20};
	static uint8_t buf[4u << 20];
	struct iovec v = {buf, sizeof(buf)};
	struct block_io io = {
		.op = BLOCK_WRITE, .len = sizeof(buf), .iov = &v, .niov = 1, .reg_index = -1};
	struct block_store *s;

	if (unshare(CLONE_NEWNS | (geteuid() ? CLONE_NEWUSER : 0)) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
		return 77;
	opt.path = in_dir("full");
	memset(buf, 1, sizeof(buf));
	if (block_open_file(&opt, &s, &why))
		return 1;
	if (rw(s, BLOCK_WRITE, 0, buf, sizeof(buf)) != -ENOSPC)
		return 2;
	if (run_async(s, &io) != -ENOSPC)
		return 3;
	/* What is given back can be used again. */
	if (rw(s, BLOCK_DISCARD, 0, NULL, 8u << 20) || rw(s, BLOCK_WRITE, 0, buf, 512u << 10))
		return 4;
	block_close(s);
	return 0;
}

static void a_full_file_system_is_enospc(void **state)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(fill_a_tmpfs());
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("needs a mount namespace (root, or user namespaces)\n");
		skip();
	}
	assert_int_equal(status, 0);
}

static void it_grows_and_follows_a_file_that_has_grown(void **state)
{
	struct block_store *s = open_new(1u << 20, BLOCK_MODE_AUTO);
	uint8_t buf[512] = {5};

	assert_int_equal(rw(s, BLOCK_WRITE, 1u << 20, buf, sizeof(buf)), -EINVAL);
	assert_int_equal(block_grow(s, 2u << 20, &why), 0);
	assert_int_equal(rw(s, BLOCK_WRITE, 1u << 20, buf, sizeof(buf)), 0);
	assert_int_equal(block_grow(s, 1u << 20, &why), -EINVAL);
	assert_int_equal(block_grow(s, BLOCK_SIZE_MAX + 4096, &why), -EFBIG);
	assert_int_equal(s->size, 2u << 20);
	assert_int_equal(truncate(in_dir("f"), 3u << 20), 0);
	assert_int_equal(block_revalidate(s), 0);
	assert_int_equal(s->size, 3u << 20);
	/* One that has shrunk is not followed: reads there say so. */
	assert_int_equal(truncate(in_dir("f"), 1u << 20), 0);
	assert_int_equal(block_revalidate(s), 0);
	assert_int_equal(s->size, 3u << 20);
	assert_int_equal(rw(s, BLOCK_READ, 1u << 20, buf, sizeof(buf)), -ENODATA);
	block_close(s);
}

static void a_read_only_store_takes_no_write(void **state)
{
	struct block_open_options opt = {.path = in_dir("f"), .read_only = true};
	struct block_store *s;
	uint8_t buf[512] = {0};

	block_close(open_new(1u << 20, BLOCK_MODE_AUTO));
	assert_int_equal(block_open_file(&opt, &s, &why), 0);
	assert_int_equal(rw(s, BLOCK_WRITE, 0, buf, sizeof(buf)), -EROFS);
	assert_int_equal(rw(s, BLOCK_ZERO, 0, NULL, 512), -EROFS);
	assert_int_equal(rw(s, BLOCK_DISCARD, 0, NULL, 512), -EROFS);
	assert_int_equal(block_grow(s, 2u << 20, &why), -EROFS);
	assert_int_equal(rw(s, BLOCK_READ, 0, buf, sizeof(buf)), 0);
	assert_int_equal(rw(s, BLOCK_FLUSH, 0, NULL, 0), 0);
	block_close(s);
}

#define TEST(fn) cmocka_unit_test_setup(fn, set_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_cannot_be_opened_is_named),
		TEST(a_size_that_differs_is_refused),
		TEST(a_new_file_is_sparse_and_large),
		TEST(the_mode_is_told_with_its_reason),
		TEST(tmpfs_is_buffered),
		TEST(another_process_is_refused_and_told_who),
		TEST(a_full_file_system_is_enospc),
		TEST(it_grows_and_follows_a_file_that_has_grown),
		TEST(a_read_only_store_takes_no_write),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	worker_drain();
	return failed;
}
