/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port's client before a daemon that the test plays by hand: what it sends again when the link
 * is lost, what it does not, and how long it keeps its claim (the test's claim is a pipe: its other
 * end tells when the last copy is closed).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "front/port/port_client.h"
#include "front/port/port_proto.h"
#include "front/port/port_socket.h"
#include "scratch.h"

#define LONG_MS	 10000
#define QUIET_MS 50

/** One life of the daemon: a connection. */
struct daemon_life {
	int sock, claimed; /* readable end of the claim's pipe */
	void *shm;
	uint32_t head;
};

struct request {
	struct port_client *c;
	enum port_op op;
	pthread_t thread;
	int err;
	char buf[512];
};

static char socket_path[128];
static int listener;

static void wait_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, LONG_MS), 1);
}

static void hear(int sock, enum port_msg_type want)
{
	_Alignas(8) char buf[512];
	int fds[PORT_FDS_MAX];
	unsigned n;
	ssize_t len;

	wait_readable(sock);
	len = port_socket_recv(sock, buf, sizeof(buf), fds, &n, 0);
	assert_true(len > 0);
	assert_int_equal(port_msg_check(buf, (size_t)len), want);
}

static void say_attached(struct daemon_life *d)
{
	struct port_msg_attached m;
	int memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int fds[] = {memfd, eventfd(0, EFD_CLOEXEC), -1}, claim[2];

	assert_int_equal(pipe2(claim, O_CLOEXEC), 0);
	fds[2] = claim[1];
	d->claimed = claim[0];
	assert_int_equal(ftruncate(memfd, (off_t)PORT_SHM_SIZE), 0);
	assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	d->shm = mmap(NULL, PORT_SHM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
		      memfd, 0);
	assert_ptr_not_equal(d->shm, MAP_FAILED);
	port_msg_init(&m, PORT_MSG_ATTACHED, sizeof(m));
	strcpy(m.export.name, "disk");
	m.export.size = 1u << 20;
	m.export.block_size = 512;
	m.shm_size = PORT_SHM_SIZE;
	m.slots = PORT_SLOTS;
	m.ring = PORT_RING;
	m.slot_size = PORT_SLOT_SIZE;
	assert_int_equal(port_socket_send(d->sock, &m, sizeof(m), fds, 3, 0), 0);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}

/** Accepts the client and attaches it. */
static struct daemon_life begin_life(void)
{
	struct daemon_life d = {.head = 0};
	struct port_msg_hello m;

	wait_readable(listener);
	d.sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(d.sock >= 0);
	hear(d.sock, PORT_MSG_HELLO);
	port_msg_init(&m, PORT_MSG_HELLO, sizeof(m));
	m.version_min = m.version_max = PORT_VERSION;
	assert_int_equal(port_socket_send(d.sock, &m, sizeof(m), NULL, 0, 0), 0);
	hear(d.sock, PORT_MSG_ATTACH);
	say_attached(&d);
	return d;
}

/** Dies. The claim is watched further. */
static void end_life(struct daemon_life *d)
{
	close(d->sock);
}

static void forget(struct daemon_life *d)
{
	close(d->claimed);
	munmap(d->shm, PORT_SHM_SIZE);
}

/** Waits for the next command. */
static struct port_cmd_image take(struct daemon_life *d)
{
	uint64_t until = clock_now_ns() + LONG_MS * NSEC_PER_MSEC;
	struct port_cmd_image cmd;

	while (atomic_load(&port_shm_box(d->shm)->tail) == d->head) {
		assert_true(clock_now_ns() < until);
		usleep(100);
	}
	port_cmd_load(&cmd, port_shm_cmd(d->shm, d->head++));
	return cmd;
}

/** Answers, as a daemon that dies before it can wake the waiter. */
static void answer(struct daemon_life *d, uint32_t tag, int result)
{
	struct port_cell *cell = port_shm_cell(d->shm, tag);

	/* The waiter sleeps: it learns of this from the keeper, or not at all. */
	while (atomic_load(&cell->state) != PORT_CELL_WAITING)
		usleep(100);
	atomic_store(&cell->result, result);
	atomic_store(&cell->state, PORT_CELL_DONE);
}

static void wake(struct daemon_life *d, uint32_t tag)
{
	syscall(SYS_futex, &port_shm_cell(d->shm, tag)->state, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static bool is_claimed(struct daemon_life *d, int ms)
{
	struct pollfd p = {.fd = d->claimed, .events = POLLIN};

	return poll(&p, 1, ms) == 0;
}

static void *open_main(void *arg)
{
	struct port_client_options opt = {.socket = socket_path, .lun = "disk", .name = "test"};
	struct port_client *c;

	return port_client_open(&opt, &c, NULL) ? NULL : c;
}

/** A client, and the daemon's first life. */
static struct port_client *open_client(struct daemon_life *ret_life)
{
	pthread_t t;
	void *c;

	assert_int_equal(pthread_create(&t, NULL, open_main, NULL), 0);
	*ret_life = begin_life();
	pthread_join(t, &c);
	assert_non_null(c);
	return c;
}

static void *request_main(void *arg)
{
	struct request *q = arg;

	q->err =
		port_client_io(q->c, q->op, 0, 0, q->op == PORT_FLUSH ? 0 : sizeof(q->buf), q->buf);
	return NULL;
}

static void begin(struct request *q, struct port_client *c, enum port_op op)
{
	*q = (struct request){.c = c, .op = op};
	assert_int_equal(pthread_create(&q->thread, NULL, request_main, q), 0);
}

static int result_of(struct request *q)
{
	pthread_join(q->thread, NULL);
	return q->err;
}

static int setup(void **state)
{
	struct sockaddr_un sa;
	char dir[64];

	scratch_dir("/tmp", dir, sizeof(dir));
	snprintf(socket_path, sizeof(socket_path), "%s/port.sock", dir);
	assert_int_equal(port_socket_address(socket_path, &sa, NULL), 0);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return listen(listener, 4);
}

static int teardown(void **state)
{
	unlink(socket_path);
	return close(listener);
}

static void an_answer_stands_when_the_link_ends(void **state)
{
	struct daemon_life d, next;
	struct port_client *c = open_client(&d);
	struct request q;

	begin(&q, c, PORT_WRITE);
	answer(&d, take(&d).tag, -ENOSPC);
	end_life(&d);
	assert_int_equal(result_of(&q), -ENOSPC);
	assert_false(is_claimed(&d, LONG_MS));
	next = begin_life();
	port_client_close(c);
	assert_int_equal(atomic_load(&port_shm_box(next.shm)->tail), 0);
	end_life(&next);
	forget(&d);
	forget(&next);
}

static void a_change_is_replayed_and_claimed_until_it_is_answered(void **state)
{
	static const enum port_op ops[] = {PORT_WRITE, PORT_TRIM, PORT_ZERO};

	for (int i = 0; i < 3; i++) {
		struct daemon_life d, next;
		struct port_client *c = open_client(&d);
		struct port_cmd_image cmd;
		struct request q;

		begin(&q, c, ops[i]);
		cmd = take(&d);
		assert_int_equal(cmd.op, ops[i]);
		assert_int_equal(cmd.flags & PORT_REPLAY, 0);
		end_life(&d);
		next = begin_life();
		cmd = take(&next);
		assert_int_equal(cmd.op, ops[i]);
		assert_int_equal(cmd.flags & PORT_REPLAY, PORT_REPLAY);
		assert_true(is_claimed(&d, QUIET_MS));
		answer(&next, cmd.tag, 0);
		wake(&next, cmd.tag);
		assert_int_equal(result_of(&q), 0);
		assert_false(is_claimed(&d, LONG_MS));
		assert_true(is_claimed(&next, QUIET_MS));
		port_client_close(c);
		assert_false(is_claimed(&next, LONG_MS));
		end_life(&next);
		forget(&d);
		forget(&next);
	}
}

static void what_changes_nothing_is_just_asked_again(void **state)
{
	static const enum port_op ops[] = {PORT_READ, PORT_FLUSH};

	for (int i = 0; i < 2; i++) {
		struct daemon_life d, next;
		struct port_client *c = open_client(&d);
		struct port_cmd_image cmd;
		struct request q;

		begin(&q, c, ops[i]);
		take(&d);
		end_life(&d);
		assert_false(is_claimed(&d, LONG_MS));
		next = begin_life();
		cmd = take(&next);
		assert_int_equal(cmd.op, ops[i]);
		assert_int_equal(cmd.flags & PORT_REPLAY, 0);
		answer(&next, cmd.tag, 0);
		wake(&next, cmd.tag);
		assert_int_equal(result_of(&q), 0);
		port_client_close(c);
		end_life(&next);
		forget(&d);
		forget(&next);
	}
}

static void the_oldest_claim_is_kept_over_several_deaths(void **state)
{
	struct daemon_life first, second, third;
	struct port_client *c = open_client(&first);
	struct port_cmd_image cmd;
	struct request q;

	begin(&q, c, PORT_WRITE);
	take(&first);
	end_life(&first);
	second = begin_life();
	take(&second);
	end_life(&second);
	third = begin_life();
	cmd = take(&third);
	assert_int_equal(cmd.flags & PORT_REPLAY, PORT_REPLAY);
	assert_true(is_claimed(&first, QUIET_MS));
	answer(&third, cmd.tag, -EIO); /* refused: that is an answer too */
	wake(&third, cmd.tag);
	assert_int_equal(result_of(&q), -EIO);
	assert_false(is_claimed(&first, LONG_MS));
	assert_false(is_claimed(&second, LONG_MS));
	port_client_close(c);
	end_life(&third);
	forget(&first);
	forget(&second);
	forget(&third);
}

static void the_claim_goes_when_the_lun_is_not_there(void **state)
{
	struct daemon_life d;
	struct port_client *c = open_client(&d);
	struct port_msg_error no;
	struct port_msg_hello m;
	struct request q;
	int sock;

	begin(&q, c, PORT_WRITE);
	take(&d);
	end_life(&d);
	wait_readable(listener);
	sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	hear(sock, PORT_MSG_HELLO);
	port_msg_init(&m, PORT_MSG_HELLO, sizeof(m));
	m.version_min = m.version_max = PORT_VERSION;
	assert_int_equal(port_socket_send(sock, &m, sizeof(m), NULL, 0, 0), 0);
	hear(sock, PORT_MSG_ATTACH);
	assert_true(is_claimed(&d, QUIET_MS));
	port_msg_init(&no, PORT_MSG_ERROR, sizeof(no));
	no.err = -ENOENT;
	assert_int_equal(port_socket_send(sock, &no, sizeof(no), NULL, 0, 0), 0);
	assert_false(is_claimed(&d, LONG_MS));
	close(sock);
	forget(&d);
	d = begin_life(); /* it is there after all */
	assert_int_equal(take(&d).flags & PORT_REPLAY, PORT_REPLAY);
	answer(&d, 0, -EIO);
	wake(&d, 0);
	assert_int_equal(result_of(&q), -EIO);
	port_client_close(c);
	end_life(&d);
	forget(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(an_answer_stands_when_the_link_ends),
		T(a_change_is_replayed_and_claimed_until_it_is_answered),
		T(what_changes_nothing_is_just_asked_again),
		T(the_oldest_claim_is_kept_over_several_deaths),
		T(the_claim_goes_when_the_lun_is_not_there),
	};

	return cmocka_run_group_tests_name("port client", tests, NULL, NULL);
}
