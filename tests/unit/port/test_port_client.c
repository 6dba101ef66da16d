/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port's client before a daemon that the test plays by hand: what it sends again when the link
 * is lost, what it does not, and how long it keeps its claim (the test's claim is a pipe: its other
 * end tells when the last copy is closed).
 */
#include <assert.h>
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

#define LONG_MS	 60000
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

/** Accepts the client and says which version is spoken. */
static int greet(unsigned version)
{
	struct port_msg_hello m;
	int sock;

	wait_readable(listener);
	sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(sock >= 0);
	hear(sock, PORT_MSG_HELLO);
	port_msg_init(&m, PORT_MSG_HELLO, sizeof(m));
	m.version_min = m.version_max = version;
	assert_int_equal(port_socket_send(sock, &m, sizeof(m), NULL, 0, 0), 0);
	return sock;
}

/** Accepts the client and attaches it. */
static struct daemon_life begin_life(void)
{
	struct daemon_life d = {.head = 0};

	d.sock = greet(PORT_VERSION);
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

static struct port_client_options client_options; /* of the next client */

static void *open_main(void *arg)
{
	struct port_client *c;

	return port_client_open(&client_options, &c, NULL) ? NULL : c;
}

static void begin_open(pthread_t *ret_thread, bool async)
{
	client_options = (struct port_client_options){
		.socket = socket_path, .lun = "disk", .name = "test", .async = async};
	assert_int_equal(pthread_create(ret_thread, NULL, open_main, NULL), 0);
}

static struct port_client *open_with(struct daemon_life *ret_life, bool async)
{
	pthread_t t;
	void *c;

	begin_open(&t, async);
	*ret_life = begin_life();
	pthread_join(t, &c);
	assert_non_null(c);
	return c;
}

/** A client, and the daemon's first life. */
static struct port_client *open_client(struct daemon_life *ret_life)
{
	return open_with(ret_life, false);
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
	struct request q;
	int sock;

	begin(&q, c, PORT_WRITE);
	take(&d);
	end_life(&d);
	sock = greet(PORT_VERSION);
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

/* --- requests that are submitted --- */

struct submitted {
	struct port_async io;
	struct iovec iov;
	char data[1024];
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool has_ended;
	int result;
};

static void submitted_done(struct port_async *io, int result)
{
	struct submitted *s = container_of(io, struct submitted, io);

	pthread_mutex_lock(&s->lock);
	assert(!s->has_ended);
	s->has_ended = true;
	s->result = result;
	pthread_cond_signal(&s->ended);
	pthread_mutex_unlock(&s->lock);
}

static void submit(struct submitted *s, struct port_client *c, enum port_op op)
{
	*s = (struct submitted){.lock = PTHREAD_MUTEX_INITIALIZER,
				.ended = PTHREAD_COND_INITIALIZER};
	s->iov = (struct iovec){s->data, sizeof(s->data)};
	memset(s->data, 'o', 512);
	memset(s->data + 512, 'n', 512);
	s->io = (struct port_async){.op = op,
				    .len = op == PORT_FLUSH ? 0 : 512,
				    .pattern_len = 512,
				    .iov = &s->iov,
				    .niov = 1,
				    .done = submitted_done};
	port_client_submit(c, &s->io);
}

static int outcome(struct submitted *s)
{
	pthread_mutex_lock(&s->lock);
	while (!s->has_ended)
		pthread_cond_wait(&s->ended, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return s->result;
}

/** Answers in the cell alone, as a daemon that dies before it can tell. */
static void answer_untold(struct daemon_life *d, uint32_t tag, int result)
{
	struct port_cell *cell = port_shm_cell(d->shm, tag);

	atomic_store(&cell->result, result);
	atomic_store(&cell->state, PORT_CELL_DONE);
}

static void tell(struct daemon_life *d, uint64_t tags)
{
	struct port_box *box = port_shm_box(d->shm);

	atomic_fetch_or(&box->done, tags);
	if (atomic_exchange(&box->reaper, 0))
		syscall(SYS_futex, &box->reaper, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void answer_told(struct daemon_life *d, uint32_t tag, int result)
{
	answer_untold(d, tag, result);
	tell(d, 1ull << tag);
}

static void what_is_submitted_is_told_by_a_bit(void **state)
{
	struct daemon_life d;
	struct port_client *c = open_with(&d, true);
	struct submitted r, f;
	struct port_cmd_image cmd;

	submit(&r, c, PORT_READ);
	submit(&f, c, PORT_FLUSH);
	cmd = take(&d);
	assert_int_equal(cmd.op, PORT_READ);
	assert_int_equal(cmd.flags, PORT_NOTIFY);
	assert_int_equal(cmd.len, 512);
	memset(port_shm_data(d.shm, cmd.tag), 'r', 512);
	answer_told(&d, cmd.tag, 0);
	assert_int_equal(outcome(&r), 0);
	assert_int_equal(r.data[0], 'r');
	assert_int_equal(r.data[511], 'r');
	assert_int_equal(r.data[512], 'n');
	answer_told(&d, take(&d).tag, -EIO);
	assert_int_equal(outcome(&f), -EIO);
	port_client_close(c);
	end_life(&d);
	forget(&d);
}

static void more_than_there_are_slots_wait_their_turn(void **state)
{
	enum { N = 2 * PORT_SLOTS + 5 };
	struct daemon_life d;
	struct port_client *c = open_with(&d, true);
	struct submitted *s = calloc(N, sizeof(*s));

	for (unsigned i = 0; i < N; i++)
		submit(&s[i], c, PORT_WRITE);
	assert_int_equal(atomic_load(&port_shm_box(d.shm)->tail), PORT_SLOTS);
	for (unsigned i = 0; i < N; i++)
		answer_told(&d, take(&d).tag, 0);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(outcome(&s[i]), 0);
	free(s);
	port_client_close(c);
	end_life(&d);
	forget(&d);
}

static void a_long_one_goes_in_pieces(void **state)
{
	static char data[PORT_SLOT_SIZE + 512];
	struct daemon_life d;
	struct port_client *c = open_with(&d, true);
	struct iovec iov[2] = {{data, 100}, {data + 100, sizeof(data) - 100}};
	struct submitted s = {.lock = PTHREAD_MUTEX_INITIALIZER,
			      .ended = PTHREAD_COND_INITIALIZER,
			      .io = {.op = PORT_WRITE,
				     .off = 4096,
				     .len = sizeof(data),
				     .iov = iov,
				     .niov = 2,
				     .done = submitted_done}};
	struct port_cmd_image cmd;

	memset(data, 'a', PORT_SLOT_SIZE);
	memset(data + PORT_SLOT_SIZE, 'b', 512);
	port_client_submit(c, &s.io);
	cmd = take(&d);
	assert_int_equal(cmd.off, 4096);
	assert_int_equal(cmd.len, PORT_SLOT_SIZE);
	assert_memory_equal(port_shm_data(d.shm, cmd.tag), data, PORT_SLOT_SIZE);
	answer_told(&d, cmd.tag, 0);
	cmd = take(&d);
	assert_int_equal(cmd.off, 4096 + PORT_SLOT_SIZE);
	assert_int_equal(cmd.len, 512);
	assert_memory_equal(port_shm_data(d.shm, cmd.tag), data + PORT_SLOT_SIZE, 512);
	answer_told(&d, cmd.tag, 0);
	assert_int_equal(outcome(&s), 0);
	port_client_close(c);
	end_life(&d);
	forget(&d);
}

static void a_submitted_change_is_replayed_unless_it_was_answered(void **state)
{
	struct daemon_life d, next;
	struct port_client *c = open_with(&d, true);
	struct submitted w, z, r;
	unsigned ops = 0;
	uint64_t tags = 0;

	submit(&z, c, PORT_WRITE_SAME);
	answer_untold(&d, take(&d).tag, -ENOSPC);
	submit(&w, c, PORT_WRITE);
	submit(&r, c, PORT_READ);
	take(&d);
	take(&d);
	end_life(&d);
	assert_int_equal(outcome(&z), -ENOSPC);
	next = begin_life();
	for (int i = 0; i < 2; i++) { /* in whichever order */
		struct port_cmd_image cmd = take(&next);

		assert_int_equal(cmd.flags & PORT_REPLAY, cmd.op == PORT_WRITE ? PORT_REPLAY : 0);
		ops |= 1u << cmd.op;
		tags |= 1ull << cmd.tag;
		answer_untold(&next, cmd.tag, 0);
	}
	assert_int_equal(ops, 1u << PORT_WRITE | 1u << PORT_READ);
	assert_true(is_claimed(&d, QUIET_MS));
	tell(&next, tags);
	assert_int_equal(outcome(&w), 0);
	assert_int_equal(outcome(&r), 0);
	assert_false(is_claimed(&d, LONG_MS));
	port_client_close(c);
	end_life(&next);
	forget(&d);
	forget(&next);
}

/** Before the reaper, which may not have run yet, has seen the link at all. */
static void a_link_may_be_lost_at_once(void **state)
{
	for (int i = 0; i < 50; i++) {
		struct daemon_life d, next;
		struct port_client *c = open_with(&d, true);
		struct submitted s;

		submit(&s, c, PORT_FLUSH);
		end_life(&d);
		next = begin_life();
		answer_told(&next, take(&next).tag, 0);
		assert_int_equal(outcome(&s), 0);
		port_client_close(c);
		end_life(&next);
		forget(&d);
		forget(&next);
	}
}

static void what_had_not_compared_is_compared_anew(void **state)
{
	struct daemon_life d, next;
	struct port_client *c = open_with(&d, true);
	struct port_cmd_image cmd;
	struct submitted s;

	submit(&s, c, PORT_COMPARE_AND_WRITE);
	cmd = take(&d);
	assert_memory_equal(port_shm_data(d.shm, cmd.tag), s.data, 1024);
	end_life(&d);
	assert_false(is_claimed(&d, LONG_MS)); /* it has changed nothing */
	next = begin_life();
	cmd = take(&next);
	assert_int_equal(cmd.op, PORT_COMPARE_AND_WRITE);
	assert_int_equal(cmd.flags, PORT_NOTIFY);
	assert_memory_equal(port_shm_data(next.shm, cmd.tag), s.data, 1024);
	*(uint64_t *)port_shm_data(next.shm, cmd.tag) = 77;
	answer_told(&next, cmd.tag, -EILSEQ);
	assert_int_equal(outcome(&s), -EILSEQ);
	assert_int_equal(s.io.miscompare_off, 77);
	port_client_close(c);
	end_life(&next);
	forget(&d);
	forget(&next);
}

static void what_had_compared_equal_is_written_again(void **state)
{
	struct daemon_life d, next;
	struct port_client *c = open_with(&d, true);
	struct port_cmd_image cmd;
	struct submitted s;

	submit(&s, c, PORT_COMPARE_AND_WRITE);
	cmd = take(&d);
	atomic_store(&port_shm_cell(d.shm, cmd.tag)->matched, 1);
	end_life(&d);
	next = begin_life();
	cmd = take(&next);
	assert_int_equal(cmd.op, PORT_WRITE);
	assert_int_equal(cmd.flags, PORT_NOTIFY | PORT_REPLAY);
	assert_int_equal(cmd.len, 512);
	assert_memory_equal(port_shm_data(next.shm, cmd.tag), s.data + 512, 512);
	assert_true(is_claimed(&d, QUIET_MS));
	answer_told(&next, cmd.tag, 0);
	assert_int_equal(outcome(&s), 0);
	assert_false(is_claimed(&d, LONG_MS));
	port_client_close(c);
	end_life(&next);
	forget(&d);
	forget(&next);
}

static void a_bit_without_an_answer_costs_the_link(void **state)
{
	struct daemon_life d, next;
	struct port_client *c = open_with(&d, true);
	struct port_cmd_image cmd;
	struct submitted s;

	tell(&d, UINT64_MAX); /* nothing is in flight: nobody minds */
	submit(&s, c, PORT_READ);
	cmd = take(&d);
	tell(&d, 1ull << cmd.tag);
	next = begin_life();
	answer_told(&next, take(&next).tag, 0);
	assert_int_equal(outcome(&s), 0);
	port_client_close(c);
	end_life(&d);
	end_life(&next);
	forget(&d);
	forget(&next);
}

static void all_that_is_submitted_fails_when_the_lun_is_gone(void **state)
{
	struct daemon_life d;
	struct port_client *c = open_with(&d, true);
	struct port_msg_gone gone;
	struct submitted before, after;

	submit(&before, c, PORT_WRITE);
	take(&d);
	port_msg_init(&gone, PORT_MSG_GONE, sizeof(gone));
	assert_int_equal(port_socket_send(d.sock, &gone, sizeof(gone), NULL, 0, 0), 0);
	assert_int_equal(outcome(&before), -ESHUTDOWN);
	submit(&after, c, PORT_READ);
	assert_int_equal(outcome(&after), -ESHUTDOWN);
	port_client_close(c);
	end_life(&d);
	forget(&d);
}

static void a_daemon_that_cannot_tell_is_refused(void **state)
{
	pthread_t t;
	void *c;
	int sock;

	begin_open(&t, true);
	sock = greet(2);
	pthread_join(t, &c);
	assert_null(c);
	close(sock);
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
		T(what_is_submitted_is_told_by_a_bit),
		T(more_than_there_are_slots_wait_their_turn),
		T(a_long_one_goes_in_pieces),
		T(a_submitted_change_is_replayed_unless_it_was_answered),
		T(a_link_may_be_lost_at_once),
		T(what_had_not_compared_is_compared_anew),
		T(what_had_compared_equal_is_written_again),
		T(a_bit_without_an_answer_costs_the_link),
		T(all_that_is_submitted_fails_when_the_lun_is_gone),
		T(a_daemon_that_cannot_tell_is_refused),
	};

	return cmocka_run_group_tests_name("port client", tests, NULL, NULL);
}
