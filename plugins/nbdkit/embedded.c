/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The embedded form: one LUN, opened by nbdkit itself. nbdkit's own threads carry the I/O out by
 * lun_run(), which blocks, so there is no reactor, no extra thread and no copy: the store reads
 * into nbdkit's buffer and writes from it. All connections share the one LUN and its one entrance,
 * which is why multi-conn holds: what one connection was told is written, every other one reads.
 *
 * A write past RLIMIT_FSIZE raises SIGXFSZ, whose default ends the process. What the process does
 * with signals is nbdkit's to say, so the signal is blocked instead, where it is raised: in the
 * threads that carry I/O out, which are nbdkit's for connections, and around the opening on its
 * main thread. The write then fails, and that is an answer.
 *
 * The LUN has a read cache of its own (memory=), made after nbdkit has forked, in pages that the
 * kernel takes when it is short of memory: so nobody has to watch for that. Now and then a request
 * looks which pages it took.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "lun/lun.h"
#include "mem/address_space.h"

#define SETTLE_EVERY 4096u /* requests */
#define SETTLE_PAGES 1024u
#define SPACE_UNIT   (1ull << 30) /* of addresses, which cost nothing */

static struct lun *the_lun;
static uint64_t memory;
static struct address_space *space;
static struct cache *cache;
static _Atomic unsigned requests;

static_assert((int)PORT_EXTENT_HOLE == (int)BLOCK_EXTENT_HOLE, "same bits");
static_assert((int)PORT_EXTENT_ZERO == (int)BLOCK_EXTENT_ZERO, "same bits");

static sigset_t xfsz_only(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGXFSZ);
	return set;
}

/** On a thread that carries out I/O. It stays blocked, so this costs nothing but the first time. */
static void block_xfsz(void)
{
	static _Thread_local bool blocked;
	sigset_t set = xfsz_only();

	if (!blocked)
		pthread_sigmask(SIG_BLOCK, &set, NULL);
	blocked = true;
}

/** lun_open() on a thread whose mask others inherit: as it was afterwards, and nothing pending. */
static int open_lun(const struct lun_options *opt, struct reason *why)
{
	static const struct timespec at_once;
	sigset_t set = xfsz_only(), old;
	int err;

	pthread_sigmask(SIG_BLOCK, &set, &old);
	err = lun_open(opt, &the_lun, why);
	if (!sigismember(&old, SIGXFSZ))
		sigtimedwait(&set, NULL, &at_once);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

static int embedded_start(const struct plugin_config *cfg, struct reason *why)
{
	struct lun_options opt = {
		.name = "embedded",
		.path = cfg->file,
		.mode = !cfg->mode			   ? BLOCK_MODE_AUTO
			: strcmp(cfg->mode, "direct") == 0 ? BLOCK_MODE_DIRECT
							   : BLOCK_MODE_BUFFERED,
		.read_only = cfg->read_only,
		.create = cfg->size != 0,
		.size = cfg->size,
		.block_size = cfg->block_size,
		.state_dirfd = -1,
		.description = cfg->description,
	};
	struct block_info info;
	int err = open_lun(&opt, why);

	if (err)
		return err;
	lun_get_block_info(the_lun, &info);
	memory = cfg->memory;
	if (memory == MEMORY_UNSAID)
		memory = strcmp(info.mode, "buffered") == 0 ? 0 : PLUGIN_MEMORY;
	memory &= ~(uint64_t)(ADDRESS_PAGE - 1);
	return 0;
}

static int embedded_forked(struct reason *why)
{
	struct address_space_spec as = {.size = (2 * memory / SPACE_UNIT + 1) * SPACE_UNIT};
	struct cache_spec spec = {.max = memory};
	int err;

	if (!memory)
		return 0;
	err = address_space_create(&as, &space);
	if (!err) {
		spec.as = space;
		err = cache_create(&spec, &cache);
	}
	if (err)
		return reason_set(why, -err, "no cache of %llu bytes (memory=): %s",
				  (unsigned long long)memory, strerror(-err));
	return lun_set_cache(the_lun, cache, 0, 0, why);
}

static void embedded_stop(void)
{
	if (the_lun)
		lun_unref(the_lun);
	the_lun = NULL;
	cache_destroy(cache);
	cache = NULL;
	if (space)
		address_space_destroy(space);
	space = NULL;
}

static void settle_sometimes(void)
{
	unsigned n = atomic_fetch_add_explicit(&requests, 1, memory_order_relaxed);

	if (cache && n % SETTLE_EVERY == SETTLE_EVERY - 1)
		cache_settle(cache, SETTLE_PAGES);
}

static int embedded_open(const char *name, bool read_only, void **ret_handle, struct reason *why)
{
	*ret_handle = the_lun;
	return 0;
}

static void embedded_close(void *handle)
{
}

static void embedded_get_export(void *handle, struct port_export *ret_export)
{
	struct lun *lun = handle;
	struct block_info info;
	const char *description = lun_description(lun);

	lun_get_block_info(lun, &info);
	*ret_export = (struct port_export){
		.size = lun_size(lun),
		.block_size = lun_block_size(lun),
		.flags = (lun_read_only(lun) ? PORT_EXPORT_READ_ONLY : 0) |
			 (info.can_zero_fast ? PORT_EXPORT_FAST_ZERO : 0) |
			 (info.rotational ? PORT_EXPORT_ROTATIONAL : 0) |
			 (info.discard_unit ? PORT_EXPORT_TRIM : 0),
	};
	if (description)
		strncpy(ret_export->description, description, PORT_DESCRIPTION_MAX - 1);
}

static const enum lun_op lun_ops[] = {
	[PORT_READ] = LUN_READ,	 [PORT_WRITE] = LUN_WRITE, [PORT_FLUSH] = LUN_FLUSH,
	[PORT_TRIM] = LUN_UNMAP, [PORT_ZERO] = LUN_ZERO,   [PORT_PREFETCH] = LUN_PREFETCH,
};

static int embedded_io(void *handle, enum port_op op, unsigned flags, uint64_t off, uint64_t len,
		       void *buf)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct lun_io io;

	block_xfsz();
	memset(&io, 0, sizeof(io));
	io.op = lun_ops[op];
	io.flags = (flags & PORT_FUA ? LUN_IO_FUA : 0) |
		   (flags & PORT_MAY_TRIM ? LUN_IO_MAY_UNMAP : 0) |
		   (flags & PORT_FAST ? LUN_IO_FAST : 0);
	io.off = off;
	io.len = len;
	io.reg_index = -1;
	if (op == PORT_READ || op == PORT_WRITE) {
		io.iov = &iov;
		io.niov = 1;
	}
	settle_sometimes();
	return lun_run(handle, &io);
}

static int embedded_extents(void *handle, uint64_t off, uint64_t len, struct port_extent *extents,
			    unsigned *n)
{
	struct block_extent *found = calloc(*n, sizeof(*found));
	struct lun_io io;
	int err;

	if (!found)
		return -ENOMEM;
	memset(&io, 0, sizeof(io));
	io.op = LUN_STATUS;
	io.off = off;
	io.len = len;
	io.reg_index = -1;
	io.extents = found;
	io.n_extents = *n;
	err = lun_run(handle, &io);
	for (unsigned i = 0; !err && i < io.n_extents; i++)
		extents[i] = (struct port_extent){.len = found[i].len, .flags = found[i].flags};
	if (!err)
		*n = io.n_extents;
	free(found);
	return err;
}

static int embedded_list(struct port_export **ret_exports, size_t *ret_n, struct reason *why)
{
	struct port_export *e = malloc(sizeof(*e));

	if (!e)
		return reason_set(why, ENOMEM, "out of memory");
	embedded_get_export(the_lun, e);
	*ret_exports = e;
	*ret_n = 1;
	return 0;
}

const struct backend backend_embedded = {
	.start = embedded_start,
	.forked = embedded_forked,
	.stop = embedded_stop,
	.open = embedded_open,
	.close = embedded_close,
	.get_export = embedded_get_export,
	.io = embedded_io,
	.extents = embedded_extents,
	.list = embedded_list,
};
