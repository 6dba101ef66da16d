/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "event/stream.h"
#include "scratch.h"

static struct reactor_set *set;
static struct listener *lis;
static atomic_int accepted;
static const char *peer_prefix; /* handed over by the call that opens */
static bool close_at_once;

static void accept_fn(void *ctx, int fd, const struct sockaddr_storage *peer)
{
	char text[64];

	stream_format_address(peer, text, sizeof(text));
	assert_memory_equal(text, peer_prefix, strlen(peer_prefix));
	atomic_fetch_add(&accepted, 1);
	send(fd, "hello", 5, MSG_NOSIGNAL); /* who only tried whether somebody listens has gone */
	close(fd);
	if (close_at_once) {
		listener_close(lis);
		lis = NULL;
	}
}

struct call {
	struct reactor_msg msg;
	const char *addr; /* NULL: close */
	int ret;
	char bound[160];
	struct reason why;
	sem_t done;
};

static void call_run(struct reactor_msg *m)
{
	struct call *c = container_of(m, struct call, msg);

	if (c->addr)
		c->ret = listener_open(reactor_self(), c->addr, accept_fn, NULL, &lis, &c->why);
	else
		listener_close(lis);
	if (c->addr && c->ret == 0)
		snprintf(c->bound, sizeof(c->bound), "%s", listener_address(lis));
	sem_post(&c->done);
}

static struct call call(const char *addr)
{
	struct call c = {.msg.fn = call_run, .addr = addr};

	sem_init(&c.done, 0, 0);
	reactor_post(reactor_set_get(set, 0), &c.msg);
	while (sem_wait(&c.done) < 0)
		;
	return c;
}

static int dial(const char *addr)
{
	struct sockaddr_storage sa = {0};
	struct sockaddr_un *un = (struct sockaddr_un *)&sa;
	socklen_t len = sizeof(*un);
	int fd;

	if (!strncmp(addr, "unix:", 5)) {
		un->sun_family = AF_UNIX;
		strcpy(un->sun_path, addr + 5);
	} else {
		assert_int_equal(stream_parse_address(addr, &sa, &len, NULL), 0);
	}
	fd = socket(sa.ss_family, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&sa, len) < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

static void expect_hello(const char *addr)
{
	char buf[8];
	int fd = dial(addr);

	assert_true(fd >= 0);
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_WAITALL), 5);
	close(fd);
}

static void opens(const char *addr, const char *prefix, char bound[160])
{
	struct call c;

	peer_prefix = prefix;
	c = call(addr);
	assert_int_equal(c.ret, 0);
	memcpy(bound, c.bound, sizeof(c.bound));
}

static void serves(const char *addr, const char *prefix)
{
	char bound[160];
	int before = accepted;

	opens(addr, prefix, bound);
	for (int i = 0; i < 50; i++)
		expect_hello(bound);
	assert_int_equal(accepted, before + 50);
	assert_int_equal(call(bound).ret, -EADDRINUSE);
	call(NULL);
	assert_true(dial(bound) < 0);
}

static void listens_on_ipv4(void **state)
{
	serves("127.0.0.1:0", "127.0.0.1:");
}

static void listens_on_ipv6(void **state)
{
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	bool none = fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0;

	if (fd >= 0)
		close(fd);
	if (none) {
		print_message("IPv6 loopback is not configured on this machine\n");
		skip();
	}
	serves("[::1]:0", "[::1]:");
}

static char dir[64];

static void listens_on_unix_and_replaces_a_stale_socket(void **state)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	char addr[128];
	int fd;

	snprintf(addr, sizeof(addr), "unix:%s/s", dir);
	serves(addr, "unix");
	assert_int_equal(access(addr + 5, F_OK), -1); /* removed by the close */
	strcpy(un.sun_path, addr + 5);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	close(fd); /* leaves the file */
	assert_int_equal(access(addr + 5, F_OK), 0);
	serves(addr, "unix");
}

static void does_not_replace_what_is_not_a_socket(void **state)
{
	struct call c;
	char addr[128];
	int fd;

	snprintf(addr, sizeof(addr), "unix:%s/file", dir);
	fd = open(addr + 5, O_CREAT | O_WRONLY, 0600);
	close(fd);
	c = call(addr);
	assert_int_equal(c.ret, -EEXIST);
	assert_non_null(strstr(c.why.text, "not a socket"));
	assert_int_equal(unlink(addr + 5), 0);
}

static void a_callback_may_close_its_listener(void **state)
{
	char bound[160];

	close_at_once = true;
	opens("127.0.0.1:0", "127.0.0.1:", bound);
	expect_hello(bound);
	call("127.0.0.1:0"); /* a turn later */
	assert_true(dial(bound) < 0);
	call(NULL);
	close_at_once = false;
}

static void survives_running_out_of_descriptors(void **state)
{
	struct rlimit old, few = {64, 0};
	struct sockaddr_storage sa;
	struct reactor_stats a, b;
	char bound[160], buf[8];
	int fd, spare[64], n = 0, before = accepted;
	uint64_t begun;
	socklen_t len;

	getrlimit(RLIMIT_NOFILE, &old);
	few.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	opens("127.0.0.1:0", "127.0.0.1:", bound);
	expect_hello(bound);
	assert_int_equal(stream_parse_address(bound, &sa, &len, NULL), 0);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	while ((spare[n] = dup(0)) >= 0)
		n++;
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
	begun = clock_now_ns();
	reactor_stats(reactor_set_get(set, 0), &a);
	do {
		usleep(50000);
		reactor_stats(reactor_set_get(set, 0), &b);
	} while (b.turns < a.turns + 10); /* tries again, does not spin */
	assert_true((b.turns - a.turns) * 10 * NSEC_PER_MSEC < clock_now_ns() - begun);
	assert_int_equal(accepted, before + 1);
	while (n)
		close(spare[--n]);
	/* the one that waited in the backlog */
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_WAITALL), 5);
	close(fd);
	expect_hello(bound);
	call(NULL);
	setrlimit(RLIMIT_NOFILE, &old);
}

static void addresses_are_parsed_and_formatted(void **state)
{
	static const char *good[] = {"127.0.0.1:3260", "0.0.0.0:0", "[::1]:65535", "[fe80::1]:1"};
	static const char *bad[] = {"",
				    "1.2.3.4",
				    "1.2.3.4:",
				    "1.2.3.4:65536",
				    "1.2.3:1",
				    "::1:5",
				    "[::1]",
				    "[::1]5:1",
				    "[1.2.3.4]:1",
				    "localhost:1",
				    "1.2.3.4:-1",
				    "1.2.3.4:1 ",
				    "[]:1",
				    ":1",
				    "[fe80::1%nosuchif]:1"};
	struct sockaddr_storage sa;
	struct reason why;
	socklen_t len;
	char buf[80];

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(stream_parse_address(good[i], &sa, &len, &why), 0);
		stream_format_address(&sa, buf, sizeof(buf));
		assert_string_equal(buf, good[i]);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		why.text[0] = 0;
		assert_int_equal(stream_parse_address(bad[i], &sa, &len, &why), -EINVAL);
		assert_true(why.text[0]);
	}
}

static int set_up(void **state)
{
	scratch_dir("/tmp", dir, sizeof(dir));
	return reactor_set_start(1, NULL, &set);
}

static int tear_down(void **state)
{
	reactor_set_stop(set);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(listens_on_ipv4),
		cmocka_unit_test(listens_on_ipv6),
		cmocka_unit_test(listens_on_unix_and_replaces_a_stale_socket),
		cmocka_unit_test(does_not_replace_what_is_not_a_socket),
		cmocka_unit_test(a_callback_may_close_its_listener),
		cmocka_unit_test(survives_running_out_of_descriptors),
		cmocka_unit_test(addresses_are_parsed_and_formatted),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
