/* SPDX-License-Identifier: GPL-2.0-or-later */
/* handler_ebb.so, loaded as tcmu-runner loads it, before a port that this process serves. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "event/worker.h"
#include "fake_runner.h"
#include "front/port/port.h"
#include "front/port/port_proto.h"
#include "front/port/port_socket.h"
#include "scratch.h"

#define SIZE  (64ull << 20)
#define BLOCK 512u

#define CDB_TEST_UNIT_READY 0x00
#define CDB_READ	    0x28
#define CDB_WRITE	    0x2A
#define CDB_CAW		    0x89
#define CDB_OTHER	    0x42

static struct tcmur_handler *h;

struct fixture {
	char dir[64], socket[128], cfg[256];
	struct reactor_set *set;
	struct lun_table *luns;
	struct lun *lun;
	struct port_server *server;
	struct tcmu_device dev;
	bool opened;
};

static void start_server(struct fixture *f)
{
	struct port_options opt = {
		.path = f->socket, .gid = (gid_t)-1, .set = f->set, .luns = f->luns};
	struct reason why;

	if (port_server_start(&opt, &f->server, &why))
		fail_msg("%s", why.text);
}

static void add_lun(struct fixture *f, bool read_only)
{
	struct lun_options opt = {.name = "disk", .state_dirfd = -1, .read_only = read_only};
	char path[128];
	struct reason why;

	snprintf(path, sizeof(path), "%s/disk", f->dir);
	opt.path = path;
	opt.create = !read_only;
	opt.size = read_only ? 0 : SIZE;
	if (lun_open(&opt, &f->lun, &why))
		fail_msg("%s", why.text);
	assert_int_equal(lun_table_add(f->luns, f->lun), 0);
}

static void open_device(struct fixture *f, uint64_t size)
{
	fake_device_init(&f->dev, f->cfg, size, BLOCK);
	assert_int_equal(h->open(&f->dev, false), 0);
	f->opened = true;
}

static void close_device(struct fixture *f)
{
	if (!f->opened)
		return;
	h->close(&f->dev);
	fake_device_destroy(&f->dev);
	f->opened = false;
}

static int setup_daemon(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct reactor_options ropt = {.name = "test"};

	scratch_dir("/tmp", f->dir, sizeof(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/port.sock", f->dir);
	snprintf(f->cfg, sizeof(f->cfg), "ebb/disk;socket=%s", f->socket);
	assert_int_equal(reactor_set_start(2, &ropt, &f->set), 0);
	assert_int_equal(lun_table_create(&f->luns), 0);
	add_lun(f, false);
	start_server(f);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	setup_daemon(state);
	open_device(*state, SIZE);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close_device(f);
	port_server_stop(f->server, NULL, NULL);
	worker_drain();
	reactor_set_stop(f->set);
	lun_unref(f->lun);
	lun_table_destroy(f->luns);
	free(f);
	return 0;
}

/* --- commands, one at a time --- */

static struct fake_cmd last; /* with the sense data of the last one */

static void begin(struct fixture *f, uint8_t opcode)
{
	fake_cmd_init(&last, &f->dev, opcode);
	assert_int_equal(h->handle_cmd(&f->dev, &last.cmd), TCMU_NOT_HANDLED);
}

static int read_at(struct fixture *f, void *buf, size_t len, uint64_t off)
{
	struct iovec iov = {buf, len};

	begin(f, CDB_READ);
	return fake_wait(&last, h->read(&f->dev, &last.cmd, &iov, 1, len, (off_t)off));
}

static int write_at(struct fixture *f, void *buf, size_t len, uint64_t off)
{
	struct iovec iov = {buf, len};

	begin(f, CDB_WRITE);
	return fake_wait(&last, h->write(&f->dev, &last.cmd, &iov, 1, len, (off_t)off));
}

static int unmap_at(struct fixture *f, uint64_t off, uint64_t len)
{
	begin(f, CDB_OTHER);
	return fake_wait(&last, h->unmap(&f->dev, &last.cmd, off, len));
}

static int writesame_at(struct fixture *f, void *block, uint64_t off, uint64_t len)
{
	struct iovec iov = {block, BLOCK};

	begin(f, CDB_OTHER);
	return fake_wait(&last, h->writesame(&f->dev, &last.cmd, off, len, &iov, 1));
}

static int caw_at(struct fixture *f, void *expected, void *new, uint64_t off)
{
	struct iovec iov[2] = {{expected, BLOCK}, {new, BLOCK}};

	begin(f, CDB_CAW);
	return fake_wait(&last, h->caw(&f->dev, &last.cmd, off, BLOCK, iov, 2));
}

static int flush(struct fixture *f)
{
	begin(f, CDB_OTHER);
	return fake_wait(&last, h->flush(&f->dev, &last.cmd));
}

static void assert_sense(uint8_t key, uint16_t asc)
{
	assert_int_equal(last.lib.sense_buf[2] & 0xf, key);
	assert_int_equal(last.lib.sense_buf[12] << 8 | last.lib.sense_buf[13], asc);
}

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)((i * 7 + seed * 31) ^ (i >> 9));
}

static bool all_are(const uint8_t *buf, size_t len, uint8_t byte)
{
	for (size_t i = 0; i < len; i++) {
		if (buf[i] != byte)
			return false;
	}
	return true;
}

/* --- tests --- */

static void it_registers_without_locks_and_threads(void **state)
{
	assert_string_equal(h->subtype, "ebb");
	assert_int_equal(h->nr_threads, 0);
	for (int i = 0; i < 5; i++)
		assert_null((void *)h->unused[i]);
}

static void config_is_checked_against_the_daemon(void **state)
{
	struct fixture *f = *state;
	char cfg[256], *reason = NULL;

	assert_true(h->check_config(f->cfg, &reason));
	assert_null(reason);
	assert_false(h->check_config("ebb/", &reason));
	assert_non_null(strstr(reason, "no LUN"));
	free(reason);
	snprintf(cfg, sizeof(cfg), "ebb/other;socket=%s", f->socket);
	assert_false(h->check_config(cfg, &reason));
	assert_string_equal(reason, "LUN other: no such LUN");
	free(reason);
}

static void *check_main(void *arg)
{
	char *reason = NULL;
	bool ok = h->check_config(((struct fixture *)arg)->cfg, &reason);

	free(reason);
	return ok ? arg : NULL;
}

static void a_daemon_that_starts_later_is_waited_for(void **state)
{
	struct fixture *f = *state;
	pthread_t t;
	void *ok;

	port_server_stop(f->server, NULL, NULL);
	assert_int_equal(pthread_create(&t, NULL, check_main, f), 0);
	usleep(200000); /* it is likely to have asked in vain by now; if not, it passes too */
	start_server(f);
	pthread_join(t, &ok);
	assert_non_null(ok);
}

static void the_backstore_is_described(void **state)
{
	struct fixture *f = *state;

	assert_true(f->dev.write_cache);
	assert_true(f->dev.unmap);
	assert_false(f->dev.split);
	assert_int_equal(f->dev.unmap_gran, 4096 / BLOCK);
	assert_int_equal(f->dev.unmap_align, 4096 / BLOCK);
	assert_int_equal(f->dev.xcopy_len, (1 << 20) / BLOCK);
}

static void what_is_written_is_read(void **state)
{
	static const size_t lens[] = {BLOCK, 4096, 5 * BLOCK, PORT_SLOT_SIZE,
				      PORT_SLOT_SIZE * 2 + BLOCK};
	struct fixture *f = *state;
	uint8_t *a = malloc(PORT_SLOT_SIZE * 3), *b = malloc(PORT_SLOT_SIZE * 3);

	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		fill(a, lens[i], i);
		memset(b, 0xee, lens[i]);
		assert_int_equal(write_at(f, a, lens[i], 3 * BLOCK), TCMU_OK);
		assert_int_equal(read_at(f, b, lens[i], 3 * BLOCK), TCMU_OK);
		assert_memory_equal(a, b, lens[i]);
	}
	assert_int_equal(flush(f), TCMU_OK);
	assert_int_equal(read_at(f, b, 0, 0), TCMU_OK);
	free(a);
	free(b);
}

static void segments_are_walked(void **state)
{
	struct fixture *f = *state;
	static uint8_t a[8192], b[8192];
	struct iovec out[] = {{a, 1000}, {a + 1000, 0}, {a + 1000, 7000}, {a + 8000, 192}};
	struct iovec in[] = {{b, 4097}, {b + 4097, 4095}};

	fill(a, sizeof(a), 1);
	begin(f, CDB_WRITE);
	assert_int_equal(fake_wait(&last, h->write(&f->dev, &last.cmd, out, 4, sizeof(a), 0)),
			 TCMU_OK);
	begin(f, CDB_READ);
	assert_int_equal(fake_wait(&last, h->read(&f->dev, &last.cmd, in, 2, sizeof(b), 0)),
			 TCMU_OK);
	assert_memory_equal(a, b, sizeof(a));
}

static void unmap_and_writesame(void **state)
{
	struct fixture *f = *state;
	static uint8_t data[64 << 10], block[BLOCK];

	memset(data, 1, sizeof(data));
	assert_int_equal(write_at(f, data, sizeof(data), 0), TCMU_OK);
	assert_int_equal(unmap_at(f, 4096, 8192), TCMU_OK);
	assert_int_equal(read_at(f, data, sizeof(data), 0), TCMU_OK);
	assert_true(all_are(data, 4096, 1));
	assert_true(all_are(data + 4096, 8192, 0));
	assert_true(all_are(data + 12288, sizeof(data) - 12288, 1));
	fill(block, sizeof(block), 9);
	assert_int_equal(writesame_at(f, block, BLOCK, 32 << 10), TCMU_OK);
	assert_int_equal(read_at(f, data, sizeof(data), 0), TCMU_OK);
	assert_true(all_are(data, BLOCK, 1));
	for (size_t at = BLOCK; at < BLOCK + (32 << 10); at += BLOCK)
		assert_memory_equal(data + at, block, BLOCK);
	assert_true(all_are(data + BLOCK + (32 << 10), BLOCK, 1));
	memset(block, 0, sizeof(block));
	assert_int_equal(writesame_at(f, block, 0, SIZE), TCMU_OK);
	assert_int_equal(read_at(f, data, sizeof(data), 0), TCMU_OK);
	assert_true(all_are(data, sizeof(data), 0));
}

static void compare_and_write(void **state)
{
	struct fixture *f = *state;
	uint8_t old[BLOCK], new[BLOCK], seen[BLOCK];

	fill(old, BLOCK, 1);
	fill(new, BLOCK, 2);
	assert_int_equal(write_at(f, old, BLOCK, BLOCK), TCMU_OK);
	assert_int_equal(caw_at(f, old, new, BLOCK), TCMU_OK);
	assert_int_equal(read_at(f, seen, BLOCK, BLOCK), TCMU_OK);
	assert_memory_equal(seen, new, BLOCK);
	memcpy(old, new, BLOCK);
	old[300] ^= 1;
	old[301] ^= 1;
	assert_int_equal(caw_at(f, old, seen, BLOCK), TCMU_MISCOMPARE);
	assert_int_equal(last.lib.sense_buf[0] & 0x80, 0x80);
	assert_int_equal(last.lib.sense_buf[5] << 8 | last.lib.sense_buf[6], 300);
	assert_int_equal(read_at(f, seen, BLOCK, BLOCK), TCMU_OK);
	assert_memory_equal(seen, new, BLOCK);
}

static void errors_become_statuses(void **state)
{
	struct fixture *f = *state;
	uint8_t block[BLOCK] = {1};

	assert_int_equal(read_at(f, block, BLOCK, SIZE), TCMU_OUT_OF_RANGE);
	assert_int_equal(write_at(f, block, BLOCK, SIZE), TCMU_OUT_OF_RANGE);
	lun_set_fence(f->lun, LUN_FENCE_WRITES);
	assert_int_equal(write_at(f, block, BLOCK, 0), TCMU_SENSE_SET);
	assert_sense(0x5, 0x2002);
	assert_int_equal(read_at(f, block, BLOCK, 0), TCMU_OK);
	lun_set_fence(f->lun, LUN_FENCE_NONE);
	assert_int_equal(write_at(f, block, BLOCK, 0), TCMU_OK);
}

static void what_cannot_be_written_is_protected(void **state)
{
	struct fixture *f = *state;
	uint8_t block[BLOCK];

	assert_int_equal(lun_table_remove(f->luns, "disk"), 0);
	lun_unref(f->lun);
	add_lun(f, true);
	open_device(f, SIZE);
	assert_int_equal(read_at(f, block, BLOCK, 0), TCMU_OK);
	assert_int_equal(write_at(f, block, BLOCK, 0), TCMU_SENSE_SET);
	assert_sense(0x7, 0x2700);
	assert_int_equal(caw_at(f, block, block, 0), TCMU_SENSE_SET);
	assert_sense(0x7, 0x2700);
	assert_int_equal(writesame_at(f, block, 0, BLOCK), TCMU_SENSE_SET);
	assert_int_equal(unmap_at(f, 0, BLOCK), TCMU_SENSE_SET);
}

static void removed_lun_is_not_ready(void **state)
{
	struct fixture *f = *state;
	uint64_t until = clock_now_ns() + 60 * NSEC_PER_SEC;
	uint8_t block[BLOCK];
	int status;

	assert_int_equal(lun_table_remove(f->luns, "disk"), 0);
	while ((status = read_at(f, block, BLOCK, 0)) == TCMU_OK)
		assert_true(clock_now_ns() < until);
	assert_int_equal(status, TCMU_SENSE_SET);
	assert_sense(0x2, 0x0400);
}

/* --- size --- */

static void the_backstore_grows_with_the_lun(void **state)
{
	struct fixture *f = *state;
	uint64_t until = clock_now_ns() + 60 * NSEC_PER_SEC;
	uint8_t block[BLOCK];

	assert_int_equal(lun_resize(f->lun, SIZE * 2, NULL), 0);
	while (!atomic_load(&f->dev.resizes)) {
		begin(f, CDB_TEST_UNIT_READY);
		assert_true(clock_now_ns() < until);
	}
	assert_int_equal(f->dev.num_lbas, SIZE * 2 / BLOCK);
	begin(f, CDB_TEST_UNIT_READY);
	assert_int_equal(atomic_load(&f->dev.resizes), 1);
	assert_int_equal(read_at(f, block, BLOCK, SIZE), TCMU_OK);
}

static void one_saved_before_it_grew_grows_now(void **state)
{
	struct fixture *f = *state;

	open_device(f, SIZE / 2);
	assert_int_equal(f->dev.num_lbas, SIZE / 2 / BLOCK);
	begin(f, CDB_TEST_UNIT_READY);
	assert_int_equal(f->dev.num_lbas, SIZE / BLOCK);
}

static void one_larger_than_the_lun_is_refused(void **state)
{
	struct fixture *f = *state;

	fake_device_init(&f->dev, f->cfg, SIZE + BLOCK, BLOCK);
	assert_int_equal(h->open(&f->dev, false), -EINVAL);
	fake_device_destroy(&f->dev);
}

static void reconfiguration(void **state)
{
	struct fixture *f = *state;
	struct tcmulib_cfg_info size = {.type = TCMULIB_CFG_DEV_SIZE};
	struct tcmulib_cfg_info string = {.type = TCMULIB_CFG_DEV_CFGSTR};
	struct tcmulib_cfg_info cache = {.type = TCMULIB_CFG_WRITE_CACHE};
	uint8_t block[BLOCK] = {7};

	size.data.dev_size = SIZE;
	assert_int_equal(h->reconfig(&f->dev, &size), 0);
	size.data.dev_size = SIZE * 2;
	assert_int_equal(h->reconfig(&f->dev, &size), -EINVAL);
	string.data.dev_cfgstring = f->cfg;
	assert_int_equal(h->reconfig(&f->dev, &string), 0);
	string.data.dev_cfgstring = (char *)(uintptr_t) "ebb/other";
	assert_int_equal(h->reconfig(&f->dev, &string), -EBUSY);
	cache.data.write_cache = false;
	assert_int_equal(h->reconfig(&f->dev, &cache), 0);
	assert_false(f->dev.write_cache);
	assert_int_equal(write_at(f, block, BLOCK, 0), TCMU_OK);
	cache.data.write_cache = true;
	assert_int_equal(h->reconfig(&f->dev, &cache), 0);
	assert_true(f->dev.write_cache);
}

/* --- many at once --- */

#define CROWD 200u /* more than the port has slots */

struct member {
	struct fake_cmd cmd;
	struct fixture *f;
	struct iovec iov;
	uint8_t data[4096], seen[4096];
	unsigned index, round;
	bool reads;
	_Atomic bool *stop;
	_Atomic unsigned *running, *errors;
};

static void member_next(struct member *m);

static void member_done(struct fake_cmd *c)
{
	struct member *m = c->ctx;

	if (c->status != TCMU_OK || (m->reads && memcmp(m->data, m->seen, sizeof(m->data))))
		atomic_fetch_add(m->errors, 1);
	m->reads = !m->reads;
	member_next(m);
}

/** From the completion of its last command: as the runner goes on with compound ones. */
static void member_next(struct member *m)
{
	off_t off = (off_t)(m->index * sizeof(m->data));

	if (!m->reads && atomic_load(m->stop)) {
		atomic_fetch_sub(m->running, 1);
		return;
	}
	fake_cmd_init(&m->cmd, &m->f->dev, m->reads ? CDB_READ : CDB_WRITE);
	m->cmd.done = member_done;
	m->cmd.ctx = m;
	m->iov = (struct iovec){m->reads ? m->seen : m->data, sizeof(m->data)};
	if (!m->reads)
		fill(m->data, sizeof(m->data), m->index + m->round++);
	assert_int_equal((m->reads ? h->read : h->write)(&m->f->dev, &m->cmd.cmd, &m->iov, 1,
							 sizeof(m->data), off),
			 TCMU_OK);
}

static void crowd(struct fixture *f, void (*meanwhile)(struct fixture *f))
{
	struct member *m = calloc(CROWD, sizeof(*m));
	_Atomic unsigned running = CROWD, errors = 0;
	_Atomic bool stop = false;

	for (unsigned i = 0; i < CROWD; i++) {
		m[i] = (struct member){
			.f = f, .index = i, .stop = &stop, .running = &running, .errors = &errors};
		member_next(&m[i]);
	}
	meanwhile(f);
	atomic_store(&stop, true);
	while (atomic_load(&running))
		usleep(1000);
	assert_int_equal(atomic_load(&errors), 0);
	for (unsigned i = 0; i < CROWD; i++)
		assert_true(m[i].round > 0);
	free(m);
}

static void just_run(struct fixture *f)
{
	usleep(300000);
}

static void a_crowd_does_not_mix_its_data(void **state)
{
	crowd(*state, just_run);
}

static void restart_server(struct fixture *f)
{
	for (int i = 0; i < 5; i++) {
		usleep(50000);
		port_server_stop(f->server, NULL, NULL);
		usleep(20000);
		start_server(f);
	}
}

static void restarts_of_the_daemon_do_not_show(void **state)
{
	crowd(*state, restart_server);
}

/* nbdkit may still have a plugin that knows nothing of what this handler needs. */
static void clients_of_any_version_are_served_beside_it(void **state)
{
	static const unsigned ranges[][3] = {{2, 2, 2}, {2, 3, 3}, {1, 9, 3}, {3, 9, 3}, {0, 2, 2}};
	struct fixture *f = *state;
	struct sockaddr_un sa;

	assert_int_equal(port_socket_address(f->socket, &sa, NULL), 0);
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		struct port_msg_hello m, a;

		assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
		port_msg_init(&m, PORT_MSG_HELLO, sizeof(m));
		m.version_min = ranges[i][0];
		m.version_max = ranges[i][1];
		assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
		assert_int_equal(recv(fd, &a, sizeof(a), 0), sizeof(a));
		assert_int_equal(port_msg_check(&a, sizeof(a)), PORT_MSG_HELLO);
		assert_int_equal(a.version_min, ranges[i][2]);
		assert_int_equal(a.version_max, ranges[i][2]);
		close(fd);
	}
}

static void an_idle_device_can_be_closed_at_any_time(void **state)
{
	struct fixture *f = *state;
	uint8_t block[BLOCK];

	for (int i = 0; i < 20; i++) {
		open_device(f, SIZE);
		if (i & 1)
			assert_int_equal(read_at(f, block, BLOCK, 0), TCMU_OK);
		if (i == 10)
			port_server_stop(f->server, NULL, NULL);
		close_device(f);
		if (i == 10)
			start_server(f);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define D(name) cmocka_unit_test_setup_teardown(name, setup_daemon, teardown)
		/* First: for half a minute from now on. */
		D(a_daemon_that_starts_later_is_waited_for),
		cmocka_unit_test(it_registers_without_locks_and_threads),
		D(config_is_checked_against_the_daemon),
		T(the_backstore_is_described),
		T(what_is_written_is_read),
		T(segments_are_walked),
		T(unmap_and_writesame),
		T(compare_and_write),
		T(errors_become_statuses),
		D(what_cannot_be_written_is_protected),
		T(removed_lun_is_not_ready),
		T(the_backstore_grows_with_the_lun),
		D(one_saved_before_it_grew_grows_now),
		D(one_larger_than_the_lun_is_refused),
		T(reconfiguration),
		T(a_crowd_does_not_mix_its_data),
		T(restarts_of_the_daemon_do_not_show),
		T(clients_of_any_version_are_served_beside_it),
		D(an_idle_device_can_be_closed_at_any_time),
	};

	if (argc != 2 || !(h = fake_load(argv[1])))
		return 1;
	return cmocka_run_group_tests_name("handler_ebb", tests, NULL, NULL);
}
