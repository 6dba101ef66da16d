/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A slot is a read under way. Hits are done before lun_submit() returns, so a slot goes on in a
 * loop, and the others, and the reactor, have their turn when it misses. The slot that stops last
 * ends the run.
 */
#include "reader.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "lun/lun.h"

struct slot {
	struct lun_io io;
	struct reader *reader;
	struct iobuf *buf;
	struct iovec iov;
	uint64_t start_ns;
	bool submitting, done;
};

struct reader {
	struct reader_spec spec; /* constant */
	struct reactor_msg start;
	sem_t stopped;
	/* --- the reactor's, until stopped --- */
	struct slot slot[READER_DEPTH_MAX];
	unsigned running;
	bool over;
	int err;
	uint64_t began_ns, ended_ns, reads;
};

static void stop(struct reader *r)
{
	r->ended_ns = clock_now_ns();
	for (unsigned i = 0; i < r->spec.depth; i++)
		iobuf_put(r->slot[i].buf);
	sem_post(&r->stopped);
}

static void done(struct lun_io *io);

/* False: nothing is left to read. */
static bool begin(struct slot *s)
{
	struct reader *r = s->reader;
	uint64_t page;

	s->start_ns = clock_now_ns();
	if (r->spec.length_ns && s->start_ns - r->began_ns > r->spec.length_ns)
		r->over = true;
	page = r->over ? READER_END : r->spec.next(r->spec.arg);
	if (page == READER_END)
		return false;
	s->io = (struct lun_io){.op = LUN_READ,
				.off = page * READER_PAGE,
				.len = READER_PAGE,
				.iov = &s->iov,
				.niov = 1,
				.reg_index = s->buf->reg_index,
				.reactor = r->spec.reactor,
				.done = done};
	return true;
}

static void go(struct slot *s)
{
	struct reader *r = s->reader;

	while (begin(s)) {
		s->submitting = true;
		s->done = false;
		lun_submit(r->spec.lun, &s->io);
		s->submitting = false;
		if (!s->done)
			return;
	}
	if (!--r->running)
		stop(r);
}

static void done(struct lun_io *io)
{
	struct slot *s = container_of(io, struct slot, io);
	struct reader *r = s->reader;

	if (r->spec.done)
		r->spec.done(r->spec.arg, clock_now_ns() - s->start_ns);
	r->reads++;
	if (io->err) {
		r->err = io->err;
		r->over = true;
	}
	s->done = true;
	if (!s->submitting)
		go(s);
}

static int get_buffers(struct reader *r)
{
	for (unsigned i = 0; i < r->spec.depth; i++) {
		struct slot *s = &r->slot[i];

		s->reader = r;
		s->buf = iobuf_get(reactor_iobufs(r->spec.reactor), READER_PAGE);
		if (!s->buf)
			return -ENOMEM;
		s->iov = (struct iovec){s->buf->data, READER_PAGE};
	}
	return 0;
}

static void on_start(struct reactor_msg *m)
{
	struct reader *r = container_of(m, struct reader, start);
	unsigned depth = r->spec.depth; /* the last go() may end @r */

	r->err = get_buffers(r);
	r->began_ns = clock_now_ns();
	if (r->err) {
		stop(r);
		return;
	}
	r->running = depth;
	for (unsigned i = 0; i < depth; i++)
		go(&r->slot[i]);
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int reader_run(const struct reader_spec *spec, struct reader_result *ret_result)
{
	struct reader *r = calloc(1, sizeof(*r));
	double cpu;
	int err;

	if (!r)
		return -ENOMEM;
	r->spec = *spec;
	r->start.fn = on_start;
	sem_init(&r->stopped, 0, 0);
	cpu = cpu_seconds();
	reactor_post(spec->reactor, &r->start);
	while (sem_wait(&r->stopped))
		;
	err = r->err;
	if (!err)
		*ret_result = (struct reader_result){
			.reads = r->reads,
			.seconds = (double)(r->ended_ns - r->began_ns) / 1e9,
			.cpu = cpu_seconds() - cpu,
		};
	sem_destroy(&r->stopped);
	free(r);
	return err;
}

/* --- latencies --- */

void latency_add(struct latency *l, uint64_t ns)
{
	unsigned log = ns < 16 ? 4 : 63 - (unsigned)__builtin_clzll(ns);

	l->bucket[log * 16 + (unsigned)(ns >> (log - 4) & 15)]++;
	l->n++;
}

double latency_quantile_us(const struct latency *l, double q)
{
	uint64_t seen = 0;

	for (unsigned i = 0; l->n && i < LATENCY_BUCKETS; i++) {
		seen += l->bucket[i];
		if ((double)seen >= q * (double)l->n)
			return (double)((16ull | i % 16) << (i / 16 - 4)) / 1000;
	}
	return 0;
}
