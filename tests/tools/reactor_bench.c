/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the event layer costs by itself: a client of blocking sockets against an echoing stream.
 *
 *	reactor_bench [-s SECONDS] [-n BYTES] [-d DEPTH] [-p SPIN_US] [-u]
 *
 * The client keeps DEPTH messages of 48 + BYTES bytes on the way, writing and reading many a
 * system call; the server answers each with as many bytes (the payload by stream_read_into() from
 * 8 KiB, as a front would). Prints messages a second, and the CPU time of the server's thread a
 * message. -u: a Unix socket instead of TCP on loopback.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "event/iobuf.h"
#include "event/stream.h"

#define HEAD	 48u
#define INTO_MIN 8192u
#define PIECES	 4096

static size_t payload = 4096;
static uint8_t *pattern;

struct piece {
	struct stream_tx tx;
	struct piece *next;
	struct iobuf *in;
};

static struct server {
	struct reactor *r;
	struct stream *s;
	struct piece piece[PIECES], *free;
	struct iobuf *into;
	_Atomic uint64_t served, cpu_ns;
} srv;

static void piece_sent(struct stream_tx *tx, int err)
{
	struct piece *p = container_of(tx, struct piece, tx);

	iobuf_put(p->in);
	p->next = srv.free;
	srv.free = p;
}

static void answer(struct stream *s, struct iobuf *in)
{
	struct piece *p = srv.free;

	srv.free = p->next;
	p->in = in;
	p->tx.iov[0] = (struct iovec){pattern, HEAD};
	p->tx.iov[1] = (struct iovec){pattern, payload};
	p->tx.niov = payload ? 2 : 1;
	p->tx.sent = piece_sent;
	stream_send(s, &p->tx);
	atomic_store_explicit(&srv.served, srv.served + 1, memory_order_relaxed);
}

static ssize_t input(struct stream *s, void *ctx, const uint8_t *data, size_t len)
{
	size_t used = 0;

	while (len - used >= HEAD && srv.free) {
		if (payload >= INTO_MIN) {
			srv.into = iobuf_get(reactor_iobufs(srv.r), payload);
			stream_read_into(s, srv.into->data, payload);
			return (ssize_t)(used + HEAD);
		}
		if (len - used < HEAD + payload)
			break;
		used += HEAD + payload;
		answer(s, NULL);
	}
	return (ssize_t)used;
}

static int filled(struct stream *s, void *ctx)
{
	answer(s, srv.into);
	return 0;
}

static void closed(struct stream *s, void *ctx, int err)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	srv.cpu_ns = (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static const struct stream_ops ops = {.input = input, .filled = filled, .closed = closed};

static int server_fd;

static void open_run(struct reactor_msg *m)
{
	struct stream_options opt = {256 << 10, 64 << 20, 32 << 20};

	if (stream_open(srv.r, server_fd, &opt, &ops, NULL, &srv.s) < 0)
		abort();
}

static int client_connect(bool is_unix)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
	socklen_t len = sizeof(in);
	int fd[2], l, one = 1;

	if (is_unix) {
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) < 0)
			abort();
		server_fd = fd[0];
		return fd[1];
	}
	l = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (struct sockaddr *)&in, len) < 0 || listen(l, 1) < 0 ||
	    getsockname(l, (struct sockaddr *)&in, &len) < 0)
		abort();
	fd[1] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd[1], (struct sockaddr *)&in, len) < 0)
		abort();
	setsockopt(fd[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	server_fd = accept(l, NULL, NULL);
	close(l);
	return fd[1];
}

/* Sends what answers have made room for, one system call for all. */
static uint64_t client_run(int fd, unsigned depth, uint64_t until)
{
	size_t msg = HEAD + payload, room = msg * depth, got = 0;
	uint8_t *out = calloc(1, room), *in = malloc(room);
	uint64_t done = 0;
	size_t to_send = room;

	while (clock_now_ns() < until) {
		ssize_t n;

		for (size_t at = 0; at < to_send; at += (size_t)n) {
			n = send(fd, out, to_send - at, MSG_NOSIGNAL);
			if (n <= 0)
				abort();
		}
		n = recv(fd, in, room, 0);
		if (n <= 0)
			abort();
		got += (size_t)n;
		to_send = got / msg * msg;
		done += got / msg;
		got %= msg;
	}
	free(out);
	free(in);
	return done;
}

int main(int argc, char **argv)
{
	struct reactor_options ro = {.name = "bench"};
	struct reactor_msg open_msg = {.fn = open_run};
	unsigned depth = 32, seconds = 2;
	struct reactor_stats st;
	struct reactor_set *set;
	bool is_unix = false;
	uint64_t done;
	int c, fd;

	while ((c = getopt(argc, argv, "s:n:d:p:u")) >= 0) {
		switch (c) {
		case 's':
			seconds = (unsigned)atoi(optarg);
			break;
		case 'n':
			payload = (size_t)atol(optarg);
			break;
		case 'd':
			depth = (unsigned)atoi(optarg);
			break;
		case 'p':
			ro.spin_us = (unsigned)atoi(optarg);
			break;
		case 'u':
			is_unix = true;
			break;
		default:
			return 2;
		}
	}
	if (!depth || depth > PIECES || payload > IOBUF_MAX || !seconds)
		return 2;
	pattern = calloc(1, payload + HEAD);
	for (int i = 0; i < PIECES; i++)
		piece_sent(&srv.piece[i].tx, 0);
	if (reactor_set_start(1, &ro, &set) < 0)
		return 1;
	srv.r = reactor_set_get(set, 0);
	fd = client_connect(is_unix);
	reactor_post(srv.r, &open_msg);
	done = client_run(fd, depth, clock_now_ns() + seconds * NSEC_PER_SEC);
	close(fd);
	reactor_stats(srv.r, &st);
	reactor_set_stop(set);
	printf("%s payload %zu depth %u spin %u: %.0f messages/s, server %.2f us CPU/message, "
	       "%.1f messages/turn, %.2f sleeps/turn\n",
	       is_unix ? "unix" : "tcp", payload, depth, ro.spin_us, (double)done / seconds,
	       (double)srv.cpu_ns / 1e3 / (double)(srv.served ? srv.served : 1),
	       (double)srv.served / (double)st.turns, (double)st.sleeps / (double)st.turns);
	free(pattern);
	return 0;
}
