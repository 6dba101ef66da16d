/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Both sides of the port in one process: a server on reactors, clients on threads, hostile ones. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "event/worker.h"
#include "front/port/port.h"
#include "front/port/port_client_private.h"
#include "front/port/port_proto.h"
#include "front/port/port_socket.h"
#include "scratch.h"

#define SIZE (64ull << 20)

struct fixture {
	char dir[64], file[128], socket[128];
	struct reactor_set *set;
	struct lun_table *luns;
	struct lun *lun;
	struct port_server *server;
};

static void start_server(struct fixture *f)
{
	struct port_options opt = {
		.path = f->socket, .gid = (gid_t)-1, .set = f->set, .luns = f->luns};
	struct reason why;

	if (port_server_start(&opt, &f->server, &why))
		fail_msg("%s", why.text);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct reactor_options ropt = {.name = "test"};
	struct lun_options opt = {.name = "disk", .create = true, .size = SIZE, .state_dirfd = -1};
	struct reason why;

	scratch_dir("/tmp", f->dir, sizeof(f->dir));
	snprintf(f->file, sizeof(f->file), "%s/disk", f->dir);
	snprintf(f->socket, sizeof(f->socket), "%s/port.sock", f->dir);
	opt.path = f->file;
	assert_int_equal(reactor_set_start(2, &ropt, &f->set), 0);
	assert_int_equal(lun_table_create(&f->luns), 0);
	if (lun_open(&opt, &f->lun, &why))
		fail_msg("%s", why.text);
	assert_int_equal(lun_table_add(f->luns, f->lun), 0);
	start_server(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	port_server_stop(f->server, NULL, NULL);
	worker_drain();
	reactor_set_stop(f->set);
	lun_unref(f->lun);
	lun_table_destroy(f->luns);
	assert_int_equal(access(f->socket, F_OK), -1); /* the server has removed it */
	free(f);
	return 0;
}

static struct port_client *client(struct fixture *f)
{
	struct port_client_options opt = {
		.socket = f->socket, .lun = "disk", .name = "test", .idle_ms = 20};
	struct port_client *c;
	struct reason why;

	if (port_client_open(&opt, &c, &why))
		fail_msg("%s", why.text);
	return c;
}

/** Waits until @cond holds, for a minute at most. */
#define EVENTUALLY(cond)                                                \
	do {                                                            \
		uint64_t until_ = clock_now_ns() + 60 * NSEC_PER_SEC;   \
		while (!(cond)) {                                       \
			if (clock_now_ns() > until_)                    \
				fail_msg("never came true: %s", #cond); \
			usleep(1000);                                   \
		}                                                       \
	} while (0)

static uint64_t n_clients(struct fixture *f)
{
	struct port_stats st;

	port_server_stats(f->server, &st);
	return st.clients;
}

static uint64_t n_violations(struct fixture *f)
{
	struct port_stats st;

	port_server_stats(f->server, &st);
	return st.violations;
}

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)((i * 7 + seed * 31) ^ (i >> 9));
}

static void what_is_written_is_read(void **state)
{
	static const size_t lens[] = {1, 511, 4096, 5000, PORT_SLOT_SIZE, PORT_SLOT_SIZE * 2 + 777};
	struct fixture *f = *state;
	struct port_client *c = client(f);
	uint8_t *a = malloc(PORT_SLOT_SIZE * 3), *b = malloc(PORT_SLOT_SIZE * 3);

	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		fill(a, lens[i], i);
		memset(b, 0xee, lens[i]);
		assert_int_equal(
			port_client_io(c, PORT_WRITE, i & 1 ? PORT_FUA : 0, 12345, lens[i], a), 0);
		assert_int_equal(port_client_io(c, PORT_READ, 0, 12345, lens[i], b), 0);
		assert_memory_equal(a, b, lens[i]);
	}
	assert_int_equal(port_client_io(c, PORT_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(port_client_io(c, PORT_ZERO, PORT_MAY_TRIM, 12345, 4096, NULL), 0);
	assert_int_equal(port_client_io(c, PORT_PREFETCH, 0, 0, SIZE, NULL), 0);
	assert_int_equal(port_client_io(c, PORT_READ, 0, 12345, 4096, b), 0);
	memset(a, 0, 4096);
	assert_memory_equal(a, b, 4096);
	free(a);
	free(b);
	port_client_close(c);
}

static void errors_are_those_of_the_lun(void **state)
{
	struct fixture *f = *state;
	struct port_client *c = client(f);
	char buf[512] = {0};

	assert_int_equal(port_client_io(c, PORT_READ, 0, SIZE, 512, buf), -EINVAL);
	lun_set_fence(f->lun, LUN_FENCE_WRITES);
	assert_int_equal(port_client_io(c, PORT_WRITE, 0, 0, 512, buf), -EPERM);
	assert_int_equal(port_client_io(c, PORT_READ, 0, 0, 512, buf), 0);
	lun_set_fence(f->lun, LUN_FENCE_NONE);
	assert_int_equal(port_client_io(c, PORT_WRITE, 0, 0, 512, buf), 0);
	port_client_close(c);
}

static void read_only_client_cannot_change(void **state)
{
	struct fixture *f = *state;
	struct port_client_options opt = {.socket = f->socket, .lun = "disk", .read_only = true};
	struct port_client *c;
	char buf[512] = {0};

	assert_int_equal(port_client_open(&opt, &c, NULL), 0);
	assert_int_equal(port_client_io(c, PORT_READ, 0, 0, 512, buf), 0);
	assert_int_equal(port_client_io(c, PORT_WRITE, 0, 0, 512, buf), -EROFS);
	assert_int_equal(port_client_io(c, PORT_TRIM, 0, 0, 512, NULL), -EROFS);
	assert_int_equal(port_client_io(c, PORT_ZERO, 0, 0, 512, NULL), -EROFS);
	port_client_close(c);
}

static void extents_tell_holes(void **state)
{
	struct fixture *f = *state;
	struct port_client *c = client(f);
	struct port_extent e[16];
	static uint8_t data[1 << 20] = {1};
	unsigned n = 16;

	assert_int_equal(port_client_io(c, PORT_WRITE, PORT_FUA, 1 << 20, 1 << 20, data), 0);
	assert_int_equal(port_client_extents(c, 0, SIZE, e, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(e[0].len, 1 << 20);
	assert_int_equal(e[0].flags, PORT_EXTENT_HOLE | PORT_EXTENT_ZERO);
	assert_int_equal(e[1].len, 1 << 20);
	assert_int_equal(e[1].flags, 0);
	assert_int_equal(e[2].len, SIZE - (2 << 20));
	port_client_close(c);
}

static void unknown_lun_is_refused(void **state)
{
	struct fixture *f = *state;
	struct port_client_options opt = {.socket = f->socket, .lun = "nope"};
	struct port_client *c;
	struct reason why;

	assert_int_equal(port_client_open(&opt, &c, &why), -ENOENT);
	assert_non_null(strstr(why.text, "no such LUN"));
	opt.socket = "/nonexistent/socket";
	assert_int_equal(port_client_open(&opt, &c, &why), -EHOSTDOWN);
}

static void long_list_comes_whole_and_sorted(void **state)
{
	struct fixture *f = *state;
	struct port_export *exports;
	struct reason why;
	size_t n;

	for (int i = 0; i < 300; i++) {
		struct lun_options opt = {.create = true, .size = 4096, .state_dirfd = -1};
		char name[32], path[256];
		struct lun *lun;

		snprintf(name, sizeof(name), "lun%03d", 299 - i);
		snprintf(path, sizeof(path), "%s/%s", f->dir, name);
		opt.name = name;
		opt.path = path;
		if (lun_open(&opt, &lun, &why))
			fail_msg("%s", why.text);
		assert_int_equal(lun_table_add(f->luns, lun), 0);
		lun_unref(lun);
		unlink(path);
	}
	assert_int_equal(port_client_list(f->socket, &exports, &n, &why), 0);
	assert_int_equal(n, 301);
	assert_string_equal(exports[0].name, "disk");
	for (int i = 0; i < 300; i++) {
		char name[32];

		snprintf(name, sizeof(name), "lun%03d", i);
		assert_string_equal(exports[1 + i].name, name);
		assert_int_equal(exports[1 + i].size, 4096);
	}
	free(exports);
}

/* --- many threads, a daemon that goes --- */

#define THREADS 16
#define REGION	65536u

struct worker {
	struct port_client *c;
	unsigned index;
	_Atomic int *stop;
	int err;
	uint64_t rounds;
};

/** Writes, reads back and compares in a region of its own. */
static void *worker_main(void *arg)
{
	struct worker *w = arg;
	uint64_t off = w->index * (uint64_t)REGION;
	uint8_t a[8192], b[8192];

	do {
		fill(a, sizeof(a), (unsigned)(w->index + w->rounds));
		w->err = port_client_io(w->c, PORT_WRITE, 0, off, sizeof(a), a);
		if (!w->err)
			w->err = port_client_io(w->c, PORT_READ, 0, off, sizeof(b), b);
		if (!w->err && memcmp(a, b, sizeof(a)) != 0)
			w->err = -EILSEQ;
		w->rounds++;
	} while (!atomic_load(w->stop) && !w->err);
	return NULL;
}

static void crowd(struct fixture *f, struct port_client *c, void (*meanwhile)(struct fixture *f))
{
	struct worker w[THREADS] = {0};
	pthread_t t[THREADS];
	_Atomic int stop = 0;

	for (unsigned i = 0; i < THREADS; i++) {
		w[i].c = c;
		w[i].index = i;
		w[i].stop = &stop;
		assert_int_equal(pthread_create(&t[i], NULL, worker_main, &w[i]), 0);
	}
	meanwhile(f);
	atomic_store(&stop, 1);
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(w[i].err, 0);
	}
}

static void just_run(struct fixture *f)
{
	usleep(300000);
}

static void threads_do_not_mix_their_data(void **state)
{
	struct fixture *f = *state;
	struct port_client *c = client(f);

	crowd(f, c, just_run);
	port_client_close(c);
}

static void restart_server(struct fixture *f)
{
	for (int i = 0; i < 5; i++) {
		usleep(50000);
		port_server_stop(f->server, NULL, NULL);
		usleep(20000);
		start_server(f);
		EVENTUALLY(n_clients(f) == 1);
	}
}

static void requests_outlive_a_restart(void **state)
{
	struct fixture *f = *state;
	struct port_client *c = client(f);
	struct port_client_stats st;

	crowd(f, c, restart_server);
	port_client_get_stats(c, &st);
	assert_int_equal(st.reconnects, 5);
	port_client_close(c);
}

static void requests_fail_when_the_daemon_stays_away(void **state)
{
	struct fixture *f = *state;
	struct port_client_options opt = {.socket = f->socket, .lun = "disk", .retry_ms = 100};
	struct port_client *c;
	char buf[512];

	assert_int_equal(port_client_open(&opt, &c, NULL), 0);
	port_server_stop(f->server, NULL, NULL);
	assert_int_equal(port_client_io(c, PORT_READ, 0, 0, 512, buf), -ESHUTDOWN);
	start_server(f);
	EVENTUALLY(port_client_io(c, PORT_READ, 0, 0, 512, buf) == 0);
	port_client_close(c);
}

static void count_change(void *ctx)
{
	atomic_fetch_add((_Atomic int *)ctx, 1);
}

static void growth_reaches_the_client(void **state)
{
	struct fixture *f = *state;
	_Atomic int changes = 0;
	struct port_client_options opt = {
		.socket = f->socket, .lun = "disk", .changed = count_change, .ctx = &changes};
	struct port_client *c;
	struct port_export e;
	char buf[512];

	assert_int_equal(port_client_open(&opt, &c, NULL), 0);
	assert_int_equal(lun_resize(f->lun, SIZE * 2, NULL), 0);
	EVENTUALLY(atomic_load(&changes) == 1);
	port_client_get_export(c, &e);
	assert_int_equal(e.size, SIZE * 2);
	assert_int_equal(port_client_io(c, PORT_READ, 0, SIZE, 512, buf), 0);
	port_client_close(c);
}

static void removed_lun_ends_its_clients(void **state)
{
	struct fixture *f = *state;
	struct port_client *c = client(f);
	char buf[512];

	assert_int_equal(port_client_io(c, PORT_READ, 0, 0, 512, buf), 0);
	assert_int_equal(lun_table_remove(f->luns, "disk"), 0);
	EVENTUALLY(n_clients(f) == 0);
	/* What was submitted before the news came may have been served; then it is over. */
	EVENTUALLY(port_client_io(c, PORT_READ, 0, 0, 512, buf) == -ESHUTDOWN);
	port_client_close(c);
}

static void idle_client_gives_its_pages_back(void **state)
{
	struct fixture *f = *state;
	struct port_client *c = client(f);
	uint8_t *buf = malloc(PORT_SLOT_SIZE);
	struct port_client_stats st;

	memset(buf, 1, PORT_SLOT_SIZE);
	assert_int_equal(port_client_io(c, PORT_WRITE, 0, 0, PORT_SLOT_SIZE, buf), 0);
	EVENTUALLY((port_client_get_stats(c, &st), st.resident_bytes <= 16384));
	/* And it works as before. It may be idle again before it is looked at. */
	do {
		memset(buf, 0, PORT_SLOT_SIZE);
		assert_int_equal(port_client_io(c, PORT_READ, 0, 0, PORT_SLOT_SIZE, buf), 0);
		assert_int_equal(buf[0], 1);
		assert_int_equal(buf[PORT_SLOT_SIZE - 1], 1);
		port_client_get_stats(c, &st);
	} while (st.resident_bytes < PORT_SLOT_SIZE);
	free(buf);
	port_client_close(c);
}

/* --- replays --- */

static void ring(struct port_link *l)
{
	uint64_t one = 1;

	assert_int_equal(write(l->doorbell, &one, sizeof(one)), sizeof(one));
}

static struct port_link link_to(struct fixture *f, const char *name)
{
	struct port_client_options opt = {.socket = f->socket, .lun = "disk", .name = name};
	struct port_link l;

	assert_int_equal(port_link_open(&l, &opt, NULL), 0);
	return l;
}

/** Submits a write of the first 4 KiB, all @byte, in slot @tag, which is the @tag'th command. */
static void submit_write(struct port_link *l, uint32_t tag, unsigned flags, int byte)
{
	struct port_cmd_image cmd = {
		.tag = tag, .op = PORT_WRITE, .flags = (uint16_t)flags, .len = 4096};

	memset(port_shm_data(l->shm, tag), byte, 4096);
	port_cmd_store(port_shm_cmd(l->shm, tag), &cmd);
	atomic_store(&port_shm_box(l->shm)->tail, tag + 1);
	ring(l);
}

static bool is_done(struct port_link *l, uint32_t tag)
{
	return atomic_load(&port_shm_cell(l->shm, tag)->state) == PORT_CELL_DONE;
}

static int result_of(struct port_link *l, uint32_t tag)
{
	EVENTUALLY(is_done(l, tag));
	return atomic_load(&port_shm_cell(l->shm, tag)->result);
}

static int first_byte(struct fixture *f)
{
	struct port_client *c = client(f);
	uint8_t buf[4096];

	assert_int_equal(port_client_io(c, PORT_READ, 0, 0, sizeof(buf), buf), 0);
	port_client_close(c);
	return buf[0];
}

static void restart(struct fixture *f)
{
	port_server_stop(f->server, NULL, NULL);
	start_server(f);
}

static void others_wait_for_replays(void **state)
{
	struct fixture *f = *state;
	struct port_link old = link_to(f, "old"), returned, other;

	restart(f);
	other = link_to(f, "other");
	submit_write(&other, 0, 0, 'o');
	returned = link_to(f, "returned");
	submit_write(&returned, 0, 0, 'n'); /* what is new waits, whoever sends it */
	submit_write(&returned, 1, PORT_REPLAY, 'r');
	assert_int_equal(result_of(&returned, 1), 0);
	usleep(50000);
	assert_false(is_done(&other, 0) || is_done(&returned, 0));
	port_link_close(&old); /* its claim with it */
	port_server_await_replays(f->server);
	assert_int_equal(result_of(&other, 0), 0);
	assert_int_equal(result_of(&returned, 0), 0);
	assert_int_not_equal(first_byte(f), 'r');
	port_link_close(&other);
	port_link_close(&returned);
}

static void client_may_go_while_its_commands_wait(void **state)
{
	struct fixture *f = *state;
	struct port_link old = link_to(f, "old"), other;

	restart(f);
	other = link_to(f, "other");
	for (uint32_t tag = 0; tag < PORT_SLOTS; tag++)
		submit_write(&other, tag, 0, 'o');
	port_link_close(&other);
	EVENTUALLY(n_clients(f) == 0);
	port_link_close(&old);
	port_server_await_replays(f->server);
	assert_int_equal(first_byte(f), 0);
}

static void server_may_stop_while_commands_wait(void **state)
{
	struct fixture *f = *state;
	struct port_link old = link_to(f, "old"), other;

	restart(f);
	other = link_to(f, "other");
	submit_write(&other, 0, 0, 'o');
	restart(f); /* which waits for both */
	port_link_close(&old);
	assert_false(is_done(&other, 0));
	port_link_close(&other);
	port_server_await_replays(f->server);
	assert_int_equal(first_byte(f), 0);
}

/* --- a store that holds the answer to a write back --- */

struct held_store {
	struct block_store base;
	uint8_t data[4096];
	_Atomic(struct block_io *) held; /* carried out, not answered */
	struct reactor_msg answer;
};

static void held_submit(struct block_store *s, struct block_io *io)
{
	struct held_store *h = container_of(s, struct held_store, base);

	if (io->op == BLOCK_READ) {
		memcpy(io->iov[0].iov_base, h->data, io->len);
		io->done(io, 0);
	} else {
		memcpy(h->data, io->iov[0].iov_base, io->len);
		atomic_store(&h->held, io);
	}
}

static void held_answer(struct reactor_msg *m)
{
	struct block_io *io = atomic_load(&container_of(m, struct held_store, answer)->held);

	io->done(io, 0);
}

static void held_close(struct block_store *s)
{
	free(container_of(s, struct held_store, base));
}

static void held_info(struct block_store *s, struct block_info *ret_info)
{
	*ret_info = (struct block_info){
		.type = "held", .mode = "direct", .size = s->size, .write_unit = 512};
}

static const struct block_ops held_ops = {
	.type = "held", .close = held_close, .submit = held_submit, .get_info = held_info};

struct one_io {
	struct port_client *c;
	enum port_op op;
	uint8_t buf[4096];
	int err;
	_Atomic bool done;
	pthread_t thread;
};

static void *one_io_main(void *arg)
{
	struct one_io *io = arg;

	io->err = port_client_io(io->c, io->op, 0, 0, sizeof(io->buf), io->buf);
	atomic_store(&io->done, true);
	return NULL;
}

/*
 * Or who reads it may send a write over it; both unanswered when the daemon dies, the older one may
 * be replayed last.
 */
static void nobody_reads_what_is_not_answered(void **state)
{
	struct fixture *f = *state;
	struct held_store *h = calloc(1, sizeof(*h));
	struct lun_options opt = {.name = "held", .state_dirfd = -1};
	struct port_client_options copt = {.socket = f->socket, .lun = "held"};
	struct one_io w = {.op = PORT_WRITE, .buf = {1}}, r = {.op = PORT_READ};
	struct lun *lun;
	struct reason why;
	bool early;

	h->base.ops = &held_ops;
	h->base.size = sizeof(h->data);
	h->answer.fn = held_answer;
	assert_int_equal(lun_create(&opt, &h->base, &lun, &why), 0);
	assert_int_equal(lun_table_add(f->luns, lun), 0);
	assert_int_equal(port_client_open(&copt, &w.c, &why), 0);
	assert_int_equal(port_client_open(&copt, &r.c, &why), 0);
	assert_int_equal(pthread_create(&w.thread, NULL, one_io_main, &w), 0);
	EVENTUALLY(atomic_load(&h->held));
	assert_int_equal(pthread_create(&r.thread, NULL, one_io_main, &r), 0);
	EVENTUALLY(metric_read(&lun_counters(lun)->conflicts) || atomic_load(&r.done));
	early = atomic_load(&r.done);
	reactor_post(atomic_load(&h->held)->reactor, &h->answer);
	pthread_join(w.thread, NULL);
	pthread_join(r.thread, NULL);
	port_client_close(w.c);
	port_client_close(r.c);
	lun_unref(lun);
	assert_false(early);
	assert_int_equal(w.err, 0);
	assert_int_equal(r.err, 0);
	assert_int_equal(r.buf[0], 1);
}

static void replay_after_its_time_is_refused(void **state)
{
	struct fixture *f = *state;
	struct port_link l = link_to(f, "late");
	struct port_stats st;

	submit_write(&l, 0, 0, 'n');
	assert_int_equal(result_of(&l, 0), 0);
	submit_write(&l, 1, PORT_REPLAY, 'r');
	assert_int_equal(result_of(&l, 1), -EIO);
	assert_int_equal(first_byte(f), 'n');
	port_server_stats(f->server, &st);
	assert_int_equal(st.stale_replays, 1);
	port_link_close(&l);
}

/** Of each generation whose claim is held, the next daemon knows; of its own it does not wait. */
static void claims_outlive_any_number_of_daemons(void **state)
{
	struct fixture *f = *state;
	struct port_link first = link_to(f, "first"), other;

	restart(f);
	restart(f);
	restart(f);
	other = link_to(f, "other");
	submit_write(&other, 0, 0, 'o');
	usleep(50000);
	assert_false(is_done(&other, 0));
	port_link_close(&first);
	assert_int_equal(result_of(&other, 0), 0);
	port_link_close(&other);
}

/* --- hostile peers --- */

/** The daemon must end @l, and nobody else. */
static void assert_thrown_out(struct fixture *f, struct port_link *l, struct port_client *other)
{
	char buf[512];
	ssize_t n;

	n = recv(l->sock, buf, sizeof(buf), 0); /* waits 10 s at most */
	assert_int_equal(n, 0);
	assert_int_equal(port_client_io(other, PORT_READ, 0, 0, 512, buf), 0);
	port_link_close(l);
	EVENTUALLY(n_clients(f) == 1);
}

static void garbage_in_the_ring_costs_the_connection_only(void **state)
{
	struct fixture *f = *state;
	struct port_client *c = client(f);
	unsigned seed = 1;

	for (int i = 0; i < 20; i++) {
		struct port_link l = link_to(f, "hostile");
		uint32_t *p = l.shm;

		for (size_t k = 0; k < PORT_META_SIZE / sizeof(*p); k++)
			p[k] = (uint32_t)rand_r(&seed) * 2654435761u;
		if (i & 1) /* garbage behind a tail that is all right */
			atomic_store(&port_shm_box(l.shm)->tail, (uint32_t)i);
		ring(&l);
		assert_thrown_out(f, &l, c);
	}
	assert_int_equal(n_violations(f), 20);
	port_client_close(c);
}

static void ring_rewritten_while_it_is_served(void **state)
{
	struct fixture *f = *state;
	struct port_client *c = client(f);
	struct port_link l = link_to(f, "hostile");
	struct port_cmd_image good = {.op = PORT_READ, .len = 4096};
	unsigned seed = 7;

	for (int i = 0; i < 200000; i++) {
		/* Mostly good commands, changed at random after they were submitted. */
		good.tag = (uint32_t)i % PORT_SLOTS;
		port_cmd_store(port_shm_cmd(l.shm, (uint32_t)i), &good);
		atomic_fetch_add(&port_shm_box(l.shm)->tail, 1);
		atomic_store(&port_shm_cmd(l.shm, (uint32_t)i)->word[rand_r(&seed) % 8],
			     (uint64_t)rand_r(&seed) << 33);
		if (i % 4 == 0)
			ring(&l);
	}
	assert_thrown_out(f, &l, c);
	port_client_close(c);
}

static void client_that_goes_away_with_io_in_flight(void **state)
{
	struct fixture *f = *state;
	struct port_client *c = client(f);
	char buf[512];

	for (int i = 0; i < 12; i++) {
		struct port_link l = link_to(f, "hostile");

		for (uint32_t tag = 0; tag < PORT_SLOTS; tag++) {
			struct port_cmd_image cmd = {
				.tag = tag, .op = PORT_READ, .len = PORT_SLOT_SIZE};

			port_cmd_store(port_shm_cmd(l.shm, tag), &cmd);
		}
		atomic_store(&port_shm_box(l.shm)->tail, PORT_SLOTS);
		ring(&l);
		port_link_close(&l);
	}
	EVENTUALLY(n_clients(f) == 1);
	assert_int_equal(port_client_io(c, PORT_READ, 0, 0, 512, buf), 0);
	port_client_close(c);
}

static void memory_cannot_be_shrunk_under_the_daemon(void **state)
{
	struct fixture *f = *state;
	struct port_link l = link_to(f, "hostile");

	assert_int_equal(ftruncate(l.memfd, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(fcntl(l.memfd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	port_link_close(&l);
}

static int raw_socket(struct fixture *f)
{
	struct sockaddr_un sa;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_int_equal(port_socket_address(f->socket, &sa, NULL), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static void handshake_out_of_order_is_refused(void **state)
{
	struct fixture *f = *state;
	_Alignas(8) char buf[512];
	struct port_msg_attach attach;
	struct port_msg_hello hello;
	int fd = raw_socket(f);

	port_msg_init(&attach, PORT_MSG_ATTACH, sizeof(attach));
	strcpy(attach.lun, "disk");
	send(fd, &attach, sizeof(attach), 0);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 0);
	close(fd);

	fd = raw_socket(f);
	port_msg_init(&hello, PORT_MSG_HELLO, sizeof(hello));
	hello.version_min = hello.version_max = PORT_VERSION + 1;
	send(fd, &hello, sizeof(hello), 0);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), sizeof(struct port_msg_error));
	hello.version_min = PORT_VERSION;
	send(fd, &hello, sizeof(hello), 0);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), sizeof(struct port_msg_hello));
	send(fd, &hello, sizeof(hello), 0);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 0);
	close(fd);

	fd = raw_socket(f);
	memset(buf, 0x5a, sizeof(buf));
	send(fd, buf, sizeof(buf), 0);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 0);
	close(fd);
	assert_int_equal(n_violations(f), 3);
}

static void who_does_not_read_is_closed(void **state)
{
	struct fixture *f = *state;
	struct port_msg_hello hello;
	struct port_msg_list list;
	int fd = raw_socket(f), i;

	port_msg_init(&hello, PORT_MSG_HELLO, sizeof(hello));
	hello.version_min = hello.version_max = PORT_VERSION;
	send(fd, &hello, sizeof(hello), 0);
	port_msg_init(&list, PORT_MSG_LIST, sizeof(list));
	for (i = 0; i < 1000000; i++) {
		if (send(fd, &list, sizeof(list), MSG_NOSIGNAL) < 0)
			break;
	}
	assert_true(i < 1000000);
	EVENTUALLY(n_violations(f) == 1 && n_clients(f) == 0);
	close(fd);
}

static void stale_socket_is_replaced_a_live_one_is_not(void **state)
{
	struct fixture *f = *state;
	struct port_options opt = {
		.path = f->socket, .gid = (gid_t)-1, .set = f->set, .luns = f->luns};
	struct port_server *other;
	struct sockaddr_un sa;
	struct reason why;
	int fd;

	assert_int_equal(port_server_start(&opt, &other, &why), -EADDRINUSE);
	port_server_stop(f->server, NULL, NULL);
	fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	assert_int_equal(port_socket_address(f->socket, &sa, NULL), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(fd); /* the file stays */
	start_server(f);
	port_client_close(client(f));
}

static void clients_above_the_limit_are_refused(void **state)
{
	struct fixture *f = *state;
	struct port_options opt = {.path = f->socket,
				   .gid = (gid_t)-1,
				   .set = f->set,
				   .luns = f->luns,
				   .max_clients = 1};
	struct port_client_options copt = {.socket = f->socket, .lun = "disk"};
	struct port_client *c, *other;

	port_server_stop(f->server, NULL, NULL);
	assert_int_equal(port_server_start(&opt, &f->server, NULL), 0);
	c = client(f);
	assert_true(port_client_open(&copt, &other, NULL) < 0);
	port_client_close(c);
	EVENTUALLY(port_client_open(&copt, &other, NULL) == 0);
	port_client_close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(what_is_written_is_read),
		T(errors_are_those_of_the_lun),
		T(read_only_client_cannot_change),
		T(extents_tell_holes),
		T(unknown_lun_is_refused),
		T(long_list_comes_whole_and_sorted),
		T(threads_do_not_mix_their_data),
		T(requests_outlive_a_restart),
		T(requests_fail_when_the_daemon_stays_away),
		T(growth_reaches_the_client),
		T(removed_lun_ends_its_clients),
		T(idle_client_gives_its_pages_back),
		T(others_wait_for_replays),
		T(client_may_go_while_its_commands_wait),
		T(server_may_stop_while_commands_wait),
		T(nobody_reads_what_is_not_answered),
		T(replay_after_its_time_is_refused),
		T(claims_outlive_any_number_of_daemons),
		T(garbage_in_the_ring_costs_the_connection_only),
		T(ring_rewritten_while_it_is_served),
		T(client_that_goes_away_with_io_in_flight),
		T(memory_cannot_be_shrunk_under_the_daemon),
		T(handshake_out_of_order_is_refused),
		T(who_does_not_read_is_closed),
		T(stale_socket_is_replaced_a_live_one_is_not),
		T(clients_above_the_limit_are_refused),
	};

	return cmocka_run_group_tests_name("port", tests, NULL, NULL);
}
