/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The store on a block device: a loop device of our own. Needs the right to set one up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "block/block.h"

#define SIZE (4u << 20)

static char path[32];
static int file_fd = -1, loop_fd = -1;
static struct reason why;

/* Attaches a file to a free loop device. False: we may not, or there is none. */
static bool attach(void)
{
	char name[] = "/var/tmp/ebb-loop-XXXXXX";
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC), n;

	if (ctl < 0)
		return false;
	file_fd = mkstemp(name);
	unlink(name);
	for (int i = 0; i < 10 && loop_fd < 0; i++) {
		struct loop_config c = {.fd = (uint32_t)file_fd, .block_size = 512};

		n = ioctl(ctl, LOOP_CTL_GET_FREE);
		if (n < 0 || ftruncate(file_fd, SIZE))
			break;
		snprintf(path, sizeof(path), "/dev/loop%d", n);
		loop_fd = open(path, O_RDWR | O_CLOEXEC);
		if (loop_fd >= 0 && ioctl(loop_fd, LOOP_CONFIGURE, &c)) {
			close(loop_fd); /* somebody was quicker */
			loop_fd = -1;
		}
	}
	close(ctl);
	return loop_fd >= 0;
}

static int tear_down(void **state)
{
	if (loop_fd >= 0) {
		ioctl(loop_fd, LOOP_CLR_FD);
		close(loop_fd);
	}
	if (file_fd >= 0)
		close(file_fd);
	return 0;
}

static void need_device(void)
{
	if (loop_fd < 0) {
		print_message("needs a loop device (root, /dev/loop-control)\n");
		skip();
	}
}

static struct block_store *open_device(enum block_mode mode)
{
	struct block_open_options opt = {.path = path, .mode = mode};
	struct block_store *s;

	if (block_open_file(&opt, &s, &why))
		fail_msg("%s", why.text);
	return s;
}

static int rw(struct block_store *s, enum block_op op, unsigned flags, uint64_t off, void *buf,
	      uint64_t len)
{
	struct iovec v = {buf, len};
	struct block_io io = {.op = op,
			      .flags = flags,
			      .off = off,
			      .len = len,
			      .iov = &v,
			      .niov = 1,
			      .reg_index = -1};

	return block_run(s, &io);
}

static void any_range_is_like_memory(void **state)
{
	uint8_t *model, *buf;

	need_device();
	model = malloc(SIZE);
	buf = aligned_alloc(4096, SIZE);
	for (int mode = BLOCK_MODE_DIRECT; mode <= BLOCK_MODE_BUFFERED; mode++) {
		struct block_store *s = open_device((enum block_mode)mode);

		memset(model, 7, SIZE);
		assert_int_equal(rw(s, BLOCK_WRITE, 0, 0, model, SIZE), 0);
		srand(3);
		for (int i = 0; i < 300; i++) {
			uint64_t off = (uint64_t)rand() % SIZE;
			uint64_t len = (uint64_t)rand() % (SIZE - off < 50000 ? SIZE - off : 50000);

			if (rand() % 3 == 0) {
				memset(model + off, rand(), len);
				assert_int_equal(rw(s, BLOCK_WRITE, 0, off, model + off, len), 0);
			} else {
				enum block_op op = rand() % 2 ? BLOCK_ZERO : BLOCK_DISCARD;

				memset(model + off, 0, len);
				assert_int_equal(
					rw(s, op, rand() % 2 ? BLOCK_MAY_UNMAP : 0, off, NULL, len),
					0);
			}
		}
		assert_int_equal(rw(s, BLOCK_FLUSH, 0, 0, NULL, 0), 0);
		assert_int_equal(rw(s, BLOCK_READ, 0, 0, buf, SIZE), 0);
		assert_memory_equal(buf, model, SIZE);
		block_close(s);
	}
	free(buf);
	free(model);
}

static void a_device_in_use_is_refused(void **state)
{
	struct block_open_options opt;
	struct block_store *s, *second;

	need_device();
	opt = (struct block_open_options){.path = path};
	s = open_device(BLOCK_MODE_AUTO);
	assert_int_equal(block_open_file(&opt, &second, &why), -EBUSY);
	assert_non_null(strstr(why.text, path));
	block_close(s);
	assert_int_equal(block_open_file(&opt, &s, &why), 0);
	block_close(s);
}

static void a_device_that_was_grown_is_followed(void **state)
{
	struct block_store *s;
	struct block_info info;
	uint8_t buf[512] = {1};

	need_device();
	s = open_device(BLOCK_MODE_AUTO);
	block_get_info(s, &info);
	assert_string_equal(info.type, "device");
	assert_int_equal(info.size, SIZE);
	assert_int_equal(block_grow(s, 2 * SIZE, &why), -ENOSPC);
	assert_int_equal(ftruncate(file_fd, 2 * SIZE), 0);
	assert_int_equal(ioctl(loop_fd, LOOP_SET_CAPACITY), 0);
	assert_int_equal(rw(s, BLOCK_WRITE, 0, SIZE, buf, 512), -EINVAL);
	assert_int_equal(block_grow(s, 2 * SIZE, &why), 0);
	assert_int_equal(rw(s, BLOCK_WRITE, BLOCK_FUA, SIZE, buf, 512), 0);
	assert_int_equal(ftruncate(file_fd, 3 * SIZE), 0);
	assert_int_equal(ioctl(loop_fd, LOOP_SET_CAPACITY), 0);
	assert_int_equal(block_revalidate(s), 0);
	assert_int_equal(s->size, 3 * SIZE);
	block_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_range_is_like_memory),
		cmocka_unit_test(a_device_in_use_is_refused),
		cmocka_unit_test(a_device_that_was_grown_is_followed),
	};
	int failed;

	attach();
	failed = cmocka_run_group_tests(tests, NULL, tear_down);
	worker_drain();
	return failed;
}
