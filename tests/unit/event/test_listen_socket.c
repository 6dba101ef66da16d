/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "event/listen_socket.h"
#include "scratch.h"

static const struct listen_options stream = {.type = SOCK_STREAM, .backlog = 1};
static const struct listen_options packets = {.type = SOCK_SEQPACKET, .backlog = 1, .mode = 0640};
static char addr[64];

static const char *path(void)
{
	return addr + strlen(LISTEN_UNIX);
}

static int open_it(const struct listen_options *opt, struct listen_socket *s)
{
	struct reason why = {""};
	int err = listen_socket_open(addr, opt, s, &why);

	assert_int_equal(!err, !why.text[0]);
	return err;
}

/* Ends as a killed process does: the file stays. */
static void die(struct listen_socket *s)
{
	close(s->fd);
	s->fd = -1;
}

static void a_stale_file_is_replaced_whatever_its_type(void **state)
{
	const struct listen_options *kinds[] = {&stream, &packets};
	struct listen_socket a, b;

	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(open_it(kinds[i / 2], &a), 0);
		die(&a);
		assert_int_equal(access(path(), F_OK), 0);
		assert_int_equal(open_it(kinds[i % 2], &b), 0);
		listen_socket_close(&b);
		assert_int_equal(access(path(), F_OK), -1);
	}
}

static void a_file_in_use_is_refused_whatever_its_type(void **state)
{
	const struct listen_options *kinds[] = {&stream, &packets};
	struct listen_socket a, b = {.fd = 77};

	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(open_it(kinds[i / 2], &a), 0);
		for (unsigned j = 0; j < 4; j++) /* its backlog fills up */
			assert_int_equal(open_it(kinds[i % 2], &b), -EADDRINUSE);
		assert_int_equal(b.fd, 77);
		listen_socket_close(&a);
	}
}

static void what_is_no_socket_is_left_alone(void **state)
{
	struct listen_socket s;
	int fd = open(path(), O_CREAT | O_WRONLY, 0600);

	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(open_it(&stream, &s), -EEXIST);
	assert_int_equal(unlink(path()), 0);
}

static void the_file_has_its_mode_from_the_start(void **state)
{
	mode_t old = umask(0);
	struct listen_socket s;
	struct stat st;

	assert_int_equal(open_it(&packets, &s), 0);
	umask(old);
	assert_int_equal(stat(path(), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	listen_socket_close(&s);
}

static void close_removes_no_other_s_file(void **state)
{
	struct listen_socket old, new;

	assert_int_equal(open_it(&stream, &old), 0);
	unlink(path());
	assert_int_equal(open_it(&stream, &new), 0);
	listen_socket_close(&old);
	assert_int_equal(access(path(), F_OK), 0);
	listen_socket_close(&new);
	listen_socket_close(&new);
	assert_int_equal(access(path(), F_OK), -1);
}

static void an_adopted_socket_s_file_is_removed(void **state)
{
	struct listen_socket other, s;

	assert_int_equal(open_it(&stream, &other), 0);
	listen_socket_adopt(other.address, &s);
	assert_int_equal(s.fd, -1);
	assert_string_equal(s.address, addr);
	listen_socket_close(&s);
	assert_int_equal(access(path(), F_OK), -1);
	close(other.fd);
}

static void patience_ends_with_the_address_or_the_time(void **state)
{
	uint64_t until = clock_now_ns() + 50 * NSEC_PER_MSEC;
	unsigned naps = 0;

	assert_false(listen_again(0, UINT64_MAX));
	assert_false(listen_again(-EACCES, UINT64_MAX));
	assert_true(listen_again(-EADDRINUSE, UINT64_MAX));
	while (listen_again(-EADDRINUSE, until))
		naps++;
	assert_in_range(naps, 0, 10);
	assert_true(clock_now_ns() >= until);
}

static int set_up(void **state)
{
	char dir[48];

	scratch_dir("/tmp", dir, sizeof(dir));
	snprintf(addr, sizeof(addr), LISTEN_UNIX "%s/s", dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stale_file_is_replaced_whatever_its_type),
		cmocka_unit_test(a_file_in_use_is_refused_whatever_its_type),
		cmocka_unit_test(what_is_no_socket_is_left_alone),
		cmocka_unit_test(the_file_has_its_mode_from_the_start),
		cmocka_unit_test(close_removes_no_other_s_file),
		cmocka_unit_test(an_adopted_socket_s_file_is_removed),
		cmocka_unit_test(patience_ends_with_the_address_or_the_time),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
