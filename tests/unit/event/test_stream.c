/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/endian.h"
#include "event/iobuf.h"
#include "event/stream.h"

/*
 * The server under test runs on a reactor of its own; the tests are its peers, with blocking
 * sockets. Its protocol: a 4-byte length, that many bytes; it answers with the same. Payloads of
 * INTO_MIN bytes and more are asked for with stream_read_into().
 */
#define MSG_MAX	 (300u << 10)
#define INTO_MIN 100u

struct server;

struct answer {
	struct stream_tx tx;
	struct server *srv;
	uint8_t head[4];
	uint8_t body[];
};

struct server {
	struct reactor_set *set;
	struct reactor *r;
	struct stream_options opt;
	struct stream *s;
	struct answer *filling;
	bool swallow;	      /* no answers */
	bool pause_when_full; /* backpressure, as a front does it */
	bool once;	      /* close with a flush after the first answer */
	atomic_uint sent, failed, inputs, closed, drained, queued, bytes_in;
	atomic_int closed_err, tx_full;
	sem_t gone;
};

static void answer_sent(struct stream_tx *tx, int err)
{
	struct answer *a = container_of(tx, struct answer, tx);

	assert_int_equal(a->srv->closed, 0);
	atomic_fetch_add(err ? &a->srv->failed : &a->srv->sent, 1);
	free(a);
}

static void answer(struct server *srv, struct answer *a, size_t len)
{
	atomic_fetch_add(&srv->queued, 1);
	a->tx.iov[0] = (struct iovec){a->head, 4};
	a->tx.iov[1] = (struct iovec){a->body, len / 2};
	a->tx.iov[2] = (struct iovec){a->body + len / 2, len - len / 2};
	a->tx.niov = 3;
	a->tx.sent = answer_sent;
	stream_send(srv->s, &a->tx);
	if (stream_tx_full(srv->s)) {
		assert_true(stream_tx_bytes(srv->s) > srv->opt.tx_low);
		srv->tx_full = 1;
		if (srv->pause_when_full)
			stream_pause(srv->s);
	}
	if (srv->once)
		stream_close(srv->s, true);
}

static struct answer *answer_new(struct server *srv, size_t len)
{
	struct answer *a = malloc(sizeof(*a) + len);

	a->srv = srv;
	put_be32(a->head, (uint32_t)len);
	return a;
}

static ssize_t srv_input(struct stream *s, void *ctx, const uint8_t *data, size_t len)
{
	struct server *srv = ctx;
	struct answer *a;
	uint32_t n;

	assert_true(len > 0);
	atomic_fetch_add(&srv->inputs, 1);
	if (srv->swallow) {
		atomic_fetch_add(&srv->bytes_in, (unsigned)len);
		return (ssize_t)len;
	}
	if (len < 4)
		return 0;
	n = get_be32(data);
	if (n > MSG_MAX)
		return -EBADMSG;
	if (n >= INTO_MIN) {
		srv->filling = answer_new(srv, n);
		stream_read_into(s, srv->filling->body, n);
		return 4;
	}
	if (len < 4 + n)
		return 0;
	a = answer_new(srv, n);
	memcpy(a->body, data + 4, n);
	answer(srv, a, n);
	return 4 + (ssize_t)n;
}

static int srv_filled(struct stream *s, void *ctx)
{
	struct server *srv = ctx;
	struct answer *a = srv->filling;

	srv->filling = NULL;
	answer(srv, a, get_be32(a->head));
	return 0;
}

static void srv_drained(struct stream *s, void *ctx)
{
	struct server *srv = ctx;

	assert_true(stream_tx_bytes(s) <= srv->opt.tx_low);
	assert_false(stream_tx_full(s));
	atomic_fetch_add(&srv->drained, 1);
	stream_resume(s);
}

static void srv_closed(struct stream *s, void *ctx, int err)
{
	struct server *srv = ctx;

	free(srv->filling);
	srv->filling = NULL;
	/* every piece has come back before */
	assert_int_equal(srv->sent + srv->failed, srv->queued);
	srv->closed_err = err;
	assert_int_equal(atomic_fetch_add(&srv->closed, 1), 0);
	srv->s = NULL;
	sem_post(&srv->gone);
}

static const struct stream_ops srv_ops = {
	.input = srv_input,
	.filled = srv_filled,
	.drained = srv_drained,
	.closed = srv_closed,
};

/* Runs a function on the server's reactor and waits for it. */
struct call {
	struct reactor_msg msg;
	void (*fn)(struct server *srv, void *arg);
	struct server *srv;
	void *arg;
	sem_t done;
};

static void call_run(struct reactor_msg *m)
{
	struct call *c = container_of(m, struct call, msg);

	c->fn(c->srv, c->arg);
	sem_post(&c->done);
}

static void on_server(struct server *srv, void (*fn)(struct server *srv, void *arg), void *arg)
{
	struct call c = {.msg.fn = call_run, .fn = fn, .srv = srv, .arg = arg};

	sem_init(&c.done, 0, 0);
	reactor_post(srv->r, &c.msg);
	while (sem_wait(&c.done) < 0)
		;
	sem_destroy(&c.done);
}

static void open_stream(struct server *srv, void *arg)
{
	assert_int_equal(stream_open(srv->r, *(int *)arg, &srv->opt, &srv_ops, srv, &srv->s), 0);
}

static void tcp_pair(int fd[2])
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
	socklen_t len = sizeof(in);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(l, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&in, &len), 0);
	fd[1] = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd[1], (struct sockaddr *)&in, sizeof(in)), 0);
	fd[0] = accept(l, NULL, NULL);
	assert_true(fd[0] >= 0);
	close(l);
}

/* Returns the peer's end. */
static int server_start(struct server *srv, bool tcp)
{
	struct reactor_options ro = {.name = "server"};
	int fd[2];

	srv->opt.rx_size = srv->opt.rx_size ? srv->opt.rx_size : 8192;
	srv->opt.tx_high = srv->opt.tx_high ? srv->opt.tx_high : 1 << 20;
	srv->opt.tx_low = srv->opt.tx_low ? srv->opt.tx_low : 256 << 10;
	sem_init(&srv->gone, 0, 0);
	if (tcp)
		tcp_pair(fd);
	else
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	assert_int_equal(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0); /* must not matter */
	assert_int_equal(reactor_set_start(1, &ro, &srv->set), 0);
	srv->r = reactor_set_get(srv->set, 0);
	on_server(srv, open_stream, &fd[0]);
	return fd[1];
}

static void server_wait_gone(struct server *srv)
{
	while (sem_wait(&srv->gone) < 0)
		;
}

static void server_end(struct server *srv)
{
	struct iobuf_stats st;

	iobuf_pool_stats(reactor_iobufs(srv->r), &st);
	assert_int_equal(st.used_bytes, 0); /* all receive buffers have come back */
	reactor_set_stop(srv->set);
	sem_destroy(&srv->gone);
}

static bool read_all(int fd, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = read(fd, p, len);

		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static bool write_all(int fd, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

/* --- echo --- */

struct script {
	uint8_t *bytes;
	size_t len;
	unsigned messages;
	int fd;
};

static struct script script_make(unsigned messages, int fd)
{
	struct script sc = {.messages = messages, .fd = fd};

	sc.bytes = malloc((size_t)messages * 20000 + MSG_MAX * 30);
	for (unsigned i = 0; i < messages; i++) {
		uint32_t n;

		switch (random() % 50) {
		case 0:
			n = (uint32_t)random() % MSG_MAX;
			break;
		case 1 ... 5:
			n = 4096;
			break;
		case 6 ... 9:
			n = (uint32_t)random() % 20000;
			break;
		default:
			n = (uint32_t)random() % 200;
		}
		if (sc.len + 4 + n > (size_t)messages * 20000 + MSG_MAX * 30)
			n = 0;
		put_be32(sc.bytes + sc.len, n);
		for (uint32_t k = 0; k < n; k++)
			sc.bytes[sc.len + 4 + k] = (uint8_t)((sc.len + k) * 2654435761u >> 11);
		sc.len += 4 + n;
	}
	return sc;
}

static void *script_write(void *arg)
{
	struct script *sc = arg;
	unsigned seed = 3;
	size_t at = 0;

	while (at < sc->len) { /* in pieces that do not respect messages */
		size_t n = 1 + (size_t)rand_r(&seed) % (rand_r(&seed) % 4 ? 100000 : 100);

		if (n > sc->len - at)
			n = sc->len - at;
		if (!write_all(sc->fd, sc->bytes + at, n))
			return (void *)1;
		at += n;
	}
	return NULL;
}

static void echo_run(struct server *srv, bool tcp)
{
	int fd = server_start(srv, tcp);
	struct script sc = script_make(3000, fd);
	uint8_t *back = malloc(sc.len);
	pthread_t t;
	void *ret;

	pthread_create(&t, NULL, script_write, &sc);
	assert_true(read_all(fd, back, sc.len));
	pthread_join(t, &ret);
	assert_null(ret);
	assert_memory_equal(back, sc.bytes, sc.len);
	close(fd);
	server_wait_gone(srv);
	assert_int_equal(srv->closed_err, 0);
	assert_int_equal(srv->sent, sc.messages);
	assert_int_equal(srv->failed, 0);
	server_end(srv);
	free(back);
	free(sc.bytes);
}

static void echo_of_random_sizes_is_exact(void **state)
{
	for (int tcp = 0; tcp < 2; tcp++) {
		struct server srv = {0};

		echo_run(&srv, tcp);
	}
}

static void echo_with_backpressure_is_exact(void **state)
{
	for (int tcp = 0; tcp < 2; tcp++) {
		struct server srv = {.pause_when_full = true,
				     .opt = {.tx_high = 30000, .tx_low = 10000}};

		echo_run(&srv, tcp);
		assert_true(srv.drained > 0);
	}
}

/* --- backpressure --- */

/** Writes until nothing more is taken for a while, and @full (or NULL) is set. */
static size_t write_until_stuck(int fd, const uint8_t *buf, size_t len, size_t max,
				const atomic_int *full)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	size_t total = 0;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (total < max && (poll(&p, 1, 300) == 1 || (full && !*full))) {
		ssize_t n = send(fd, buf + total % len, len - total % len, MSG_NOSIGNAL);

		if (n > 0)
			total += (size_t)n;
	}
	fcntl(fd, F_SETFL, 0);
	return total;
}

static void peer_that_does_not_read_is_not_read_from(void **state)
{
	struct server srv = {.pause_when_full = true, .opt = {.tx_high = 200000, .tx_low = 100000}};
	size_t len = 4 + 50, max = 64u << 20, wrote, n;
	int fd = server_start(&srv, true);
	uint8_t *msgs = malloc(len * 1000), *back = malloc(len * 1000);

	for (unsigned i = 0; i < 1000; i++) {
		put_be32(msgs + i * len, 50);
		memset(msgs + i * len + 4, (int)i, 50);
	}
	wrote = write_until_stuck(fd, msgs, len * 1000, max, &srv.tx_full);
	assert_true(wrote < max);
	assert_int_equal(srv.tx_full, 1);
	assert_int_equal(srv.drained, 0);
	wrote -= wrote % len; /* whole messages only come back */
	for (size_t at = 0; at < wrote; at += n) {
		n = wrote - at < len * 1000 ? wrote - at : len * 1000;
		assert_true(read_all(fd, back, n));
		assert_memory_equal(back, msgs, n);
	}
	assert_true(srv.drained > 0);
	close(fd);
	server_wait_gone(&srv);
	server_end(&srv);
	free(msgs);
	free(back);
}

static void pause_stream(struct server *srv, void *arg)
{
	stream_pause(srv->s);
}

static void resume_stream(struct server *srv, void *arg)
{
	unsigned before = srv->inputs;

	stream_resume(srv->s);
	assert_int_equal(srv->inputs, before); /* not from within */
}

static void paused_stream_is_not_read(void **state)
{
	struct server srv = {.swallow = true};
	int fd = server_start(&srv, true);
	uint8_t *buf = calloc(1, 1 << 20);
	size_t wrote;

	on_server(&srv, pause_stream, NULL);
	wrote = write_until_stuck(fd, buf, 1 << 20, 64u << 20, NULL);
	assert_true(wrote < 64u << 20);
	assert_int_equal(srv.inputs, 0);
	on_server(&srv, resume_stream, NULL);
	shutdown(fd, SHUT_WR);
	server_wait_gone(&srv);
	assert_int_equal(srv.bytes_in, wrote);
	close(fd);
	server_end(&srv);
	free(buf);
}

/* --- idle connections --- */

/** Waits until the server's streams hold so many bytes of buffers. */
static void used_becomes(struct server *srv, uint64_t bytes)
{
	struct iobuf_stats st;

	for (unsigned i = 0; i < 10000; i++) {
		iobuf_pool_stats(reactor_iobufs(srv->r), &st);
		if (st.used_bytes == bytes)
			return;
		usleep(1000);
	}
	assert_int_equal(st.used_bytes, bytes);
}

static void idle_connection_holds_no_buffer(void **state)
{
	struct server srv = {0};
	int fd = server_start(&srv, true);
	uint8_t msg[4 + 50] = {0, 0, 0, 50}, back[sizeof(msg)];

	for (int i = 0; i < 3; i++) {
		assert_true(write_all(fd, msg, sizeof(msg)));
		assert_true(read_all(fd, back, sizeof(back)));
		used_becomes(&srv, 0);
	}
	/* An incomplete message is kept, in a buffer of the pool. */
	assert_true(write_all(fd, msg, 20));
	used_becomes(&srv, 8192);
	assert_true(write_all(fd, msg + 20, sizeof(msg) - 20));
	assert_true(read_all(fd, back, sizeof(back)));
	assert_memory_equal(back, msg, sizeof(msg));
	close(fd);
	server_wait_gone(&srv);
	server_end(&srv);
}

/* Many connections with incomplete messages: more than the ring of buffers has. */
static void more_connections_than_ring_buffers(void **state)
{
	enum { N = 200 };
	static struct server srv[N];
	uint8_t msg[4 + 90] = {0, 0, 0, 90, 'a', 'b'}, back[sizeof(msg)];
	int fd[N][2];

	memset(srv, 0, sizeof(srv));
	fd[0][1] = server_start(&srv[0], false);
	for (int i = 1; i < N; i++) {
		srv[i].set = srv[0].set;
		srv[i].r = srv[0].r;
		srv[i].opt = srv[0].opt;
		sem_init(&srv[i].gone, 0, 0);
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd[i]), 0);
		on_server(&srv[i], open_stream, &fd[i][0]);
	}
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < N; i++)
			assert_true(write_all(fd[i][1], msg, 30));
		for (int i = 0; i < N; i++)
			assert_true(write_all(fd[i][1], msg + 30, sizeof(msg) - 30));
		for (int i = 0; i < N; i++) {
			assert_true(read_all(fd[i][1], back, sizeof(back)));
			assert_memory_equal(back, msg, sizeof(msg));
		}
	}
	for (int i = 0; i < N; i++) {
		close(fd[i][1]);
		server_wait_gone(&srv[i]);
	}
	server_end(&srv[0]);
}

/* --- without memory --- */

#define UNIT 40000u /* more than a buffer of the ring holds */

static ssize_t unit_input(struct stream *s, void *ctx, const uint8_t *data, size_t len)
{
	struct server *srv = ctx;

	if (len < UNIT)
		return 0;
	for (size_t i = 0; i < UNIT; i++)
		assert_int_equal(data[i], (uint8_t)(i * 7));
	atomic_fetch_add(&srv->inputs, 1);
	sem_post(&srv->gone);
	return UNIT;
}

static void open_units(struct server *srv, void *arg)
{
	static struct stream_ops ops;

	ops = srv_ops;
	ops.input = unit_input;
	assert_int_equal(stream_open(srv->r, *(int *)arg, &srv->opt, &ops, srv, &srv->s), 0);
}

static void take_all_memory(struct server *srv, void *arg)
{
	iobuf_pool_set_limit(reactor_iobufs(srv->r), IOBUF_MAX);
	*(struct iobuf **)arg = iobuf_get(reactor_iobufs(srv->r), IOBUF_MAX);
	assert_non_null(*(struct iobuf **)arg);
}

static void give_memory(struct server *srv, void *arg)
{
	iobuf_put(*(struct iobuf **)arg);
}

static void stream_waits_for_memory_and_goes_on(void **state)
{
	struct server srv = {.opt.rx_size = 64 << 10}, units = {0};
	struct iobuf_stats st;
	struct iobuf *all;
	uint8_t *buf = malloc(UNIT * 3);
	int fd = server_start(&srv, true), pair[2];

	units.r = srv.r;
	units.opt = srv.opt;
	sem_init(&units.gone, 0, 0);
	for (size_t i = 0; i < UNIT * 3; i++)
		buf[i] = (uint8_t)(i % UNIT * 7);
	tcp_pair(pair);
	on_server(&units, open_units, &pair[0]);
	on_server(&units, take_all_memory, &all);
	assert_true(write_all(pair[1], buf, UNIT * 3));
	do {
		usleep(1000);
		iobuf_pool_stats(reactor_iobufs(srv.r), &st);
	} while (!st.waits);
	assert_int_equal(units.inputs, 0);
	on_server(&units, give_memory, &all);
	for (int i = 0; i < 3; i++)
		server_wait_gone(&units);
	close(pair[1]);
	server_wait_gone(&units);
	assert_int_equal(units.closed_err, 0);
	close(fd);
	server_wait_gone(&srv);
	server_end(&srv);
	free(buf);
}

/* --- errors and closing --- */

static void error_of_input_closes_with_it(void **state)
{
	struct server srv = {0};
	int fd = server_start(&srv, true);
	uint8_t bad[4] = {0xff, 0xff, 0xff, 0xff};
	char c;

	assert_true(write_all(fd, bad, 4));
	server_wait_gone(&srv);
	assert_int_equal(srv.closed_err, -EBADMSG);
	assert_true(read(fd, &c, 1) <= 0);
	close(fd);
	server_end(&srv);
}

static ssize_t never_input(struct stream *s, void *ctx, const uint8_t *data, size_t len)
{
	return 0;
}

static void open_never(struct server *srv, void *arg)
{
	static struct stream_ops ops;

	ops = srv_ops;
	ops.input = never_input;
	assert_int_equal(stream_open(srv->r, *(int *)arg, &srv->opt, &ops, srv, &srv->s), 0);
}

static void unit_larger_than_rx_size_closes(void **state)
{
	struct server srv = {.opt.rx_size = 4096}, second = {0};
	uint8_t *junk = calloc(1, 1 << 20);
	int fd = server_start(&srv, true), pair[2];

	second.r = srv.r;
	second.opt = srv.opt;
	sem_init(&second.gone, 0, 0);
	tcp_pair(pair);
	on_server(&second, open_never, &pair[0]);
	write_all(pair[1], junk, 1 << 20);
	server_wait_gone(&second);
	assert_int_equal(second.closed_err, -EMSGSIZE);
	close(pair[1]);
	close(fd);
	server_wait_gone(&srv);
	server_end(&srv);
	free(junk);
}

static void close_stream(struct server *srv, void *arg)
{
	stream_close(srv->s, *(bool *)arg);
	stream_close(srv->s, *(bool *)arg);
	assert_int_equal(srv->closed, 0); /* not from within */
}

static void queue_answers(struct server *srv, void *arg)
{
	for (int i = 0; i < 100; i++) {
		struct answer *a = answer_new(srv, MSG_MAX);

		memset(a->body, i, MSG_MAX);
		answer(srv, a, MSG_MAX);
	}
}

static void close_without_flush_fails_what_is_queued(void **state)
{
	struct server srv = {0};
	int fd = server_start(&srv, true);

	on_server(&srv, queue_answers, NULL);
	on_server(&srv, close_stream, &(bool){false});
	server_wait_gone(&srv);
	assert_int_equal(srv.closed_err, -ECANCELED);
	assert_int_equal(srv.sent + srv.failed, 100);
	assert_true(srv.failed > 50);
	close(fd);
	server_end(&srv);
}

static void close_with_flush_delivers_what_is_queued(void **state)
{
	struct server srv = {0};
	int fd = server_start(&srv, true);
	uint8_t *back = malloc(4 + MSG_MAX), *junk = calloc(1, 90000);

	on_server(&srv, pause_stream, NULL);
	on_server(&srv, queue_answers, NULL);
	assert_true(write_all(fd, junk, 90000)); /* what stays unread must not cost us bytes */
	on_server(&srv, close_stream, &(bool){true});
	for (int i = 0; i < 100; i++) {
		assert_true(read_all(fd, back, 4 + MSG_MAX));
		assert_int_equal(back[4], i);
		assert_int_equal(back[3 + MSG_MAX], i);
	}
	assert_int_equal(read(fd, back, 1), 0);
	server_wait_gone(&srv);
	assert_int_equal(srv.sent, 100);
	assert_int_equal(srv.closed_err, -ECANCELED);
	close(fd);
	server_end(&srv);
	free(back);
	free(junk);
}

static void close_with_flush_is_bounded_in_time(void **state)
{
	struct server srv = {0};
	int fd = server_start(&srv, true);
	uint64_t t0 = clock_now_ns();

	on_server(&srv, queue_answers, NULL);
	on_server(&srv, close_stream, &(bool){true});
	server_wait_gone(&srv); /* we do not read */
	assert_in_range((clock_now_ns() - t0) / NSEC_PER_MSEC, 4900, 15000);
	assert_true(srv.failed > 0);
	close(fd);
	server_end(&srv);
}

static void close_from_within_a_callback(void **state)
{
	struct server srv = {.once = true};
	int fd = server_start(&srv, true);
	uint8_t msg[2 * (4 + 50)] = {0, 0, 0, 50}, back[4 + 50 + 1];

	assert_true(write_all(fd, msg, sizeof(msg)));
	assert_true(read_all(fd, back, 4 + 50));
	assert_int_equal(read(fd, back, 1), 0);
	server_wait_gone(&srv);
	assert_int_equal(srv.sent, 1);
	close(fd);
	server_end(&srv);
}

static void half_closing_peer_gets_its_answers(void **state)
{
	struct server srv = {0};
	int fd = server_start(&srv, true);
	size_t len = 4 + MSG_MAX;
	uint8_t *buf = malloc(len * 8), *back = malloc(len * 8);

	for (int i = 0; i < 8; i++) {
		put_be32(buf + (size_t)i * len, MSG_MAX);
		memset(buf + (size_t)i * len + 4, i, MSG_MAX);
	}
	assert_true(write_all(fd, buf, len * 8));
	shutdown(fd, SHUT_WR);
	assert_true(read_all(fd, back, len * 8));
	assert_memory_equal(buf, back, len * 8);
	assert_int_equal(read(fd, back, 1), 0);
	server_wait_gone(&srv);
	assert_int_equal(srv.closed_err, 0);
	close(fd);
	server_end(&srv);
	free(buf);
	free(back);
}

static void stop_of_the_reactor_closes_streams(void **state)
{
	struct server srv = {0};
	int fd = server_start(&srv, true);

	reactor_set_stop(srv.set);
	assert_int_equal(srv.closed, 1);
	assert_int_equal(srv.closed_err, -ECANCELED);
	close(fd);
	sem_destroy(&srv.gone);
}

static void open_refuses_bad_options_and_closes_the_socket(void **state)
{
	struct stream_options opt = {.rx_size = IOBUF_MAX + 1};
	struct stream *s;
	int fd[2];
	char c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	assert_int_equal(stream_open(NULL, fd[0], &opt, &srv_ops, NULL, &s), -EINVAL);
	assert_int_equal(read(fd[1], &c, 1), 0);
	close(fd[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(echo_of_random_sizes_is_exact),
		cmocka_unit_test(echo_with_backpressure_is_exact),
		cmocka_unit_test(peer_that_does_not_read_is_not_read_from),
		cmocka_unit_test(paused_stream_is_not_read),
		cmocka_unit_test(idle_connection_holds_no_buffer),
		cmocka_unit_test(more_connections_than_ring_buffers),
		cmocka_unit_test(stream_waits_for_memory_and_goes_on),
		cmocka_unit_test(error_of_input_closes_with_it),
		cmocka_unit_test(unit_larger_than_rx_size_closes),
		cmocka_unit_test(close_without_flush_fails_what_is_queued),
		cmocka_unit_test(close_with_flush_delivers_what_is_queued),
		cmocka_unit_test(close_with_flush_is_bounded_in_time),
		cmocka_unit_test(close_from_within_a_callback),
		cmocka_unit_test(half_closing_peer_gets_its_answers),
		cmocka_unit_test(stop_of_the_reactor_closes_streams),
		cmocka_unit_test(open_refuses_bad_options_and_closes_the_socket),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
