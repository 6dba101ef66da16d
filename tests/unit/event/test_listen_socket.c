/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "event/listen_provided.h"
#include "event/listen_socket.h"
#include "event/stream.h"
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

/* --- sockets that others listen on too --- */

static const struct listen_options lasting = {.type = SOCK_STREAM, .backlog = 4, .lasting = true};

/* Listens on a port of loopback as a service manager does; its address is in @buf. */
static int listen_elsewhere(char *buf, size_t size)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	stream_format_address(&sa, buf, size);
	return fd;
}

static int open_at(const char *address, struct listen_socket *s)
{
	struct reason why = {""};
	int err = listen_socket_open(address, &lasting, s, &why);

	assert_int_equal(!err, !why.text[0]);
	return err;
}

/* Whether who connects to @address gets a place in a backlog. */
static bool takes_connections(const char *address)
{
	struct sockaddr_storage sa;
	struct reason why;
	socklen_t len;
	int fd, err;

	assert_int_equal(stream_parse_address(address, &sa, &len, &why), 0);
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	err = connect(fd, (struct sockaddr *)&sa, len);
	close(fd);
	return !err;
}

static void unexpected(const char *address)
{
	fail_msg("%s was used", address);
}

static void a_shared_socket_is_used_and_outlives_us(void **state)
{
	struct reason why = {""};
	struct listen_socket s, again;
	char at[LISTEN_ADDRESS_MAX];
	int theirs = listen_elsewhere(at, sizeof(at));

	assert_int_equal(open_at(at, &s), -EADDRINUSE); /* it is not provided yet */
	assert_int_equal(listen_provide(fcntl(theirs, F_DUPFD_CLOEXEC, 0), true, &why), 0);
	for (int i = 0; i < 3; i++) { /* it can be opened again and again */
		assert_int_equal(open_at(at, &s), 0);
		assert_string_equal(s.address, at);
		assert_true(s.shared);
		listen_socket_shut(&s);
		assert_true(takes_connections(at));
		listen_socket_close(&s);
	}
	assert_int_equal(listen_socket_open(at, &stream, &again, &why),
			 -EADDRINUSE); /* not asked for */
	listen_provided_settle(unexpected);
	assert_true(takes_connections(at));
	close(theirs);
}

static void a_predecessor_s_socket_is_ours_to_end(void **state)
{
	struct reason why = {""};
	struct listen_socket s;
	char at[LISTEN_ADDRESS_MAX];
	int kept = listen_elsewhere(at, sizeof(at));
	struct pollfd p = {.fd = kept};

	assert_int_equal(listen_provide(fcntl(kept, F_DUPFD_CLOEXEC, 0), false, &why), 0);
	assert_int_equal(open_at(at, &s), 0);
	assert_false(s.shared);
	assert_int_equal(poll(&p, 1, 0), 0);
	listen_socket_shut(&s);
	assert_int_equal(poll(&p, 1, 0), 1); /* whoever keeps a copy is told */
	assert_true(p.revents & POLLHUP);
	listen_socket_close(&s);
	close(kept);
	assert_int_equal(open_at(at, &s), 0); /* bound anew, not the dead one */
	assert_true(takes_connections(at));
	listen_socket_close(&s);
}

static char told[LISTEN_ADDRESS_MAX];

static void tell(const char *address)
{
	assert_string_equal(told, "");
	snprintf(told, sizeof(told), "%s", address);
}

static void what_nobody_uses_is_ended_or_told(void **state)
{
	struct reason why = {""};
	char shared[LISTEN_ADDRESS_MAX], kept[LISTEN_ADDRESS_MAX];
	int a = listen_elsewhere(shared, sizeof(shared)), b = listen_elsewhere(kept, sizeof(kept));

	assert_int_equal(listen_provide(a, true, &why), 0);
	assert_int_equal(listen_provide(fcntl(b, F_DUPFD_CLOEXEC, 0), false, &why), 0);
	listen_provided_settle(tell);
	assert_string_equal(told, shared);
	assert_true(takes_connections(shared));
	assert_false(takes_connections(kept));
	close(b);
}

static void what_nobody_uses_makes_way(void **state)
{
	struct reason why = {""};
	struct listen_socket old, s;
	char at[LISTEN_ADDRESS_MAX];
	int kept;

	assert_int_equal(open_at("127.0.0.1:0", &old), 0);
	snprintf(at, sizeof(at), "0.0.0.0%s", strrchr(old.address, ':'));
	kept = fcntl(old.fd, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(listen_provide(fcntl(kept, F_DUPFD_CLOEXEC, 0), false, &why), 0);
	die(&old);
	assert_int_equal(open_at(at, &s), 0);
	assert_true(takes_connections(at));
	listen_socket_close(&s);
	close(kept);
}

static void what_does_not_listen_is_refused(void **state)
{
	struct reason why = {""};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), null = open("/dev/null", O_RDONLY);

	assert_int_equal(listen_provide(fd, true, &why), -EINVAL);
	assert_non_null(strstr(why.text, "does not listen"));
	assert_int_equal(listen_provide(null, true, &why), -ENOTSOCK);
	close(fd);
	close(null);
}

static int n_kept;

static void keep(int fd)
{
	int on = 0;
	socklen_t len = sizeof(on);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len), 0);
	assert_int_equal(on, 1);
	n_kept++;
}

static void lasting_sockets_are_kept_once(void **state)
{
	struct reason why = {""};
	struct listen_socket s;
	char at[LISTEN_ADDRESS_MAX];
	int theirs = listen_elsewhere(at, sizeof(at));

	assert_int_equal(listen_provide(theirs, true, &why), 0);
	listen_socket_set_keeper(keep);
	assert_int_equal(open_at(at, &s), 0);
	listen_socket_close(&s);
	assert_int_equal(n_kept, 0); /* somebody has it already */
	assert_int_equal(open_it(&stream, &s), 0);
	listen_socket_close(&s);
	assert_int_equal(n_kept, 0);
	assert_int_equal(open_it(&lasting, &s), 0);
	listen_socket_close(&s);
	assert_int_equal(n_kept, 1);
	listen_socket_set_keeper(NULL);
}

static void a_successor_finds_all_as_it_was(void **state)
{
	struct listen_socket tcp, un;
	int copy;

	assert_int_equal(open_at("127.0.0.1:0", &tcp), 0);
	assert_int_equal(open_it(&lasting, &un), 0);
	copy = fcntl(tcp.fd, F_DUPFD_CLOEXEC, 0);
	listen_socket_leave(); /* for the rest of the process: the last test */
	listen_socket_shut(&tcp);
	listen_socket_close(&tcp);
	listen_socket_close(&un);
	assert_true(takes_connections(tcp.address));
	assert_int_equal(access(path(), F_OK), 0);
	close(copy);
	unlink(path());
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
		cmocka_unit_test(a_shared_socket_is_used_and_outlives_us),
		cmocka_unit_test(a_predecessor_s_socket_is_ours_to_end),
		cmocka_unit_test(what_nobody_uses_is_ended_or_told),
		cmocka_unit_test(what_nobody_uses_makes_way),
		cmocka_unit_test(what_does_not_listen_is_refused),
		cmocka_unit_test(lasting_sockets_are_kept_once),
		cmocka_unit_test(a_successor_finds_all_as_it_was),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
