/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "harness.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/address_space.h"
#include "mem/tmem/host.h"
#include "scratch.h"

#define CACHE_MAX (64u << 20)

bool harness_cached;

static struct reactor_set *set;
static struct address_space *space;
static struct tmem_host *second;
static struct cache *cache;
static char dir[64];

struct reactor *harness_reactor(void)
{
	struct reactor_options opt = {.name = "test"};

	if (!set)
		assert_int_equal(reactor_set_start(1, &opt, &set), 0);
	return reactor_set_get(set, 0);
}

struct cache *harness_cache(void)
{
	struct address_space_spec as = {.size = 1ull << 30};
	struct tmem_host_spec tmem = {.limit = CACHE_MAX};
	struct cache_spec spec = {.max = CACHE_MAX};

	if (cache)
		return cache;
	assert_int_equal(address_space_create(&as, &space), 0);
	tmem.as = spec.as = space;
	assert_int_equal(tmem_host_create(&tmem, &second), 0);
	spec.tmem = second;
	assert_int_equal(cache_create(&spec, &cache), 0);
	return cache;
}

static int page_out(void *arg, enum vmem_seg seg, uint64_t addr, uint64_t size)
{
	madvise((void *)addr, size, MADV_PAGEOUT);
	return 0;
}

void harness_squeeze(unsigned seed)
{
	struct cache *c = harness_cache();

	switch (seed % 4) {
	case 0: /* the kernel takes what it may */
		vmem_walk(address_space_volatile(space), VMEM_SEG_ALLOC, page_out, NULL);
		break;
	case 1: /* the budget takes, a part of it to the second chance */
		cache_set_target(c, CACHE_PAGE * 16, true);
		break;
	case 2:
		cache_set_target(c, CACHE_MAX, false);
		break;
	default:
		cache_settle(c, 1u << 20);
		break;
	}
}

void harness_stop(void)
{
	worker_drain(); /* first: a worker's last message goes to a reactor */
	if (set)
		reactor_set_stop(set);
	worker_drain(); /* and again: LUNs that reactors gave up */
	set = NULL;
	cache_destroy(cache);
	cache = NULL;
	tmem_host_destroy(second);
	second = NULL;
	if (space)
		assert_int_equal(address_space_destroy(space), 0);
	space = NULL;
}

struct call {
	struct reactor_msg msg;
	struct lun *lun;
	struct lun_io *io;
	sem_t sem;
};

static struct call *call_of; /* one at a time */

static void on_done(struct lun_io *io)
{
	assert_ptr_equal(reactor_self(), io->reactor);
	sem_post(&call_of->sem);
}

static void on_reactor(struct reactor_msg *m)
{
	struct call *c = container_of(m, struct call, msg);

	lun_submit(c->lun, c->io);
}

int do_io(struct lun *lun, struct lun_io *io, enum way way)
{
	struct call c = {.msg.fn = on_reactor, .lun = lun, .io = io};

	if (way == WAY_SYNC)
		return lun_run(lun, io);
	io->reactor = harness_reactor();
	io->done = on_done;
	sem_init(&c.sem, 0, 0);
	call_of = &c;
	reactor_post(io->reactor, &c.msg);
	while (sem_wait(&c.sem))
		;
	return io->err;
}

int do_read(struct lun *lun, enum way way, uint64_t off, void *buf, uint64_t len)
{
	struct iovec v = {buf, len};
	struct lun_io io = {
		.op = LUN_READ, .off = off, .len = len, .iov = &v, .niov = 1, .reg_index = -1};

	return do_io(lun, &io, way);
}

int do_write(struct lun *lun, enum way way, uint64_t off, const void *buf, uint64_t len)
{
	struct iovec v = {(void *)(uintptr_t)buf, len};
	struct lun_io io = {
		.op = LUN_WRITE, .off = off, .len = len, .iov = &v, .niov = 1, .reg_index = -1};

	return do_io(lun, &io, way);
}

int do_range(struct lun *lun, enum way way, enum lun_op op, unsigned flags, uint64_t off,
	     uint64_t len)
{
	struct lun_io io = {.op = op, .flags = flags, .off = off, .len = len, .reg_index = -1};

	return do_io(lun, &io, way);
}

const char *harness_path(const char *name)
{
	static char path[PATH_MAX];

	if (!dir[0])
		scratch_dir("/var/tmp", dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

struct lun *make_lun(const char *name, enum block_mode mode, uint64_t size)
{
	struct lun_options opt = {.name = name,
				  .path = harness_path(name),
				  .mode = mode,
				  .create = true,
				  .size = size,
				  .state_dirfd = -1,
				  .cache = harness_cached ? harness_cache() : NULL};
	struct reason why = {""};
	struct lun *lun;

	unlink(opt.path);
	if (lun_open(&opt, &lun, &why))
		fail_msg("%s", why.text);
	return lun;
}

void fill(void *buf, size_t len, unsigned seed)
{
	uint8_t *p = buf;
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (uint8_t)x;
	}
}
