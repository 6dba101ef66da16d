/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * handler_ebb.so: LUNs of the daemon as backstores of tcmu-runner.
 *
 * A backstore is a client of the daemon's port (front/port/port_client.h), and this file is the
 * border between the two: callbacks of the runner (runner_abi.h) become requests that are
 * submitted, results become SCSI statuses. No callback waits for the daemon but open and
 * check_config. A daemon that goes away is the client's affair: requests wait, and the runner sees
 * slow commands.
 *
 * Threads: callbacks for commands come from the device's command thread, or from the client's
 * reaper out of tcmur_cmd_complete(); check_config, open, reconfig and close from the runner's main
 * thread. close comes when no command is in flight, and ends the client's threads: then nothing of
 * the device is in use any more. The runner ends its threads by pthread_cancel(3), maybe inside a
 * callback whose command is done already: none of them is a place where that may happen.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "front/port/port_client.h"
#include "runner_abi.h"
#include "runner_config.h"

#define err(dev, ...)  tcmu_err_message(dev, __func__, __LINE__, __VA_ARGS__)
#define info(dev, ...) tcmu_info_message(dev, __func__, __LINE__, __VA_ARGS__)

/* Started together with the daemon, the runner comes first as likely as not. */
#define START_PATIENCE_NS (30 * NSEC_PER_SEC)
#define START_PAUSE_NS	  (50 * NSEC_PER_MSEC)

#define UNMAP_GRAIN 4096u      /* bytes; what a backing store can give back */
#define COPY_CHUNK  (1u << 20) /* bytes; of an XCOPY's reads and writes */

/* Of a CDB (SBC-4). */
enum {
	CDB_WRITE_10 = 0x2A,
	CDB_WRITE_VERIFY_10 = 0x2E,
	CDB_COMPARE_AND_WRITE = 0x89,
	CDB_WRITE_16 = 0x8A,
	CDB_WRITE_VERIFY_16 = 0x8E,
	CDB_WRITE_12 = 0xAA,
	CDB_WRITE_VERIFY_12 = 0xAE,
	CDB_FUA = 1 << 3, /* of byte 1 */
};

/* Of sense data (SPC-4 4.5). */
enum {
	KEY_NOT_READY = 0x2,
	KEY_ILLEGAL_REQUEST = 0x5,
	KEY_DATA_PROTECT = 0x7,
	ASC_NOT_READY = 0x0400,	    /* cause not reportable */
	ASC_NO_ACCESS = 0x2002,	    /* access denied: no access rights */
	ASC_WRITE_PROTECT = 0x2700, /* write protected */
	ASC_NO_SPACE = 0x2707,	    /* space allocation failed: write protect */
};

/** A backstore. */
struct device {
	struct tcmu_device *dev;
	struct port_client *client;
	struct runner_config config;
	_Atomic bool write_through; /* nothing is acknowledged before it is stable */
	_Atomic bool changed;	    /* the daemon has told of a change, which may be of the size */
};

/** A command, or a step of one. */
struct request {
	struct port_async io;
	struct tcmu_device *dev;
	struct tcmur_cmd *cmd;
};

static uint64_t patience_until; /* set once, before there are devices */

/* --- threads that may be cancelled --- */

static int hold_cancel(void)
{
	int old;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
	return old;
}

static void release_cancel(int *old)
{
	pthread_setcancelstate(*old, NULL);
}

/** Until the end of the scope the thread is not cancelled. */
#define no_cancel_scope \
	int old_cancel_ __attribute__((cleanup(release_cancel), unused)) = hold_cancel()

/* --- results --- */

static int sense(struct tcmur_cmd *cmd, uint8_t key, uint16_t asc)
{
	return tcmu_sense_set_data(cmd->lib_cmd->sense_buf, key, asc);
}

/** @result of @r as the runner wants it, sense data included. */
static int status_of(const struct request *r, int result)
{
	switch (result) {
	case 0:
		return TCMU_OK;
	case -EILSEQ:
		tcmu_sense_set_info(r->cmd->lib_cmd->sense_buf, (uint32_t)r->io.miscompare_off);
		return TCMU_MISCOMPARE;
	case -EINVAL: /* the range: all else is checked */
		return TCMU_OUT_OF_RANGE;
	case -ENOMEM:
		return TCMU_NO_RESOURCE;
	case -EROFS:
		return sense(r->cmd, KEY_DATA_PROTECT, ASC_WRITE_PROTECT);
	case -ENOSPC:
	case -EDQUOT:
		return sense(r->cmd, KEY_DATA_PROTECT, ASC_NO_SPACE);
	case -EPERM: /* reserved by an initiator of the daemon's own */
		return sense(r->cmd, KEY_ILLEGAL_REQUEST, ASC_NO_ACCESS);
	case -ESHUTDOWN: /* removed, or no daemon for too long */
		return sense(r->cmd, KEY_NOT_READY, ASC_NOT_READY);
	default:
		return r->io.op == PORT_READ ? TCMU_READ_ERROR : TCMU_WRITE_ERROR;
	}
}

static void request_done(struct port_async *io, int result)
{
	struct request *r = container_of(io, struct request, io);
	int status = status_of(r, result);
	struct tcmu_device *dev = r->dev;
	struct tcmur_cmd *cmd = r->cmd;

	free(r);
	tcmur_cmd_complete(dev, cmd, status);
}

/* --- commands --- */

static struct device *device_of(struct tcmu_device *dev)
{
	return tcmur_dev_get_private(dev);
}

static int submit(struct tcmu_device *dev, struct tcmur_cmd *cmd, const struct port_async *io)
{
	no_cancel_scope;
	struct request *r;

	if (!io->len && io->op != PORT_FLUSH) {
		tcmur_cmd_complete(dev, cmd, TCMU_OK);
		return TCMU_OK;
	}
	r = malloc(sizeof(*r));
	if (!r)
		return TCMU_NO_RESOURCE;
	*r = (struct request){.io = *io, .dev = dev, .cmd = cmd};
	r->io.done = request_done;
	port_client_submit(device_of(dev)->client, &r->io);
	return TCMU_OK;
}

/** PORT_FUA if @cmd is to be stable when it is acknowledged. The runner itself knows no FUA. */
static unsigned stable(struct tcmu_device *dev, const struct tcmur_cmd *cmd)
{
	const uint8_t *cdb = cmd->lib_cmd->cdb;
	bool fua = atomic_load_explicit(&device_of(dev)->write_through, memory_order_relaxed);

	switch (cdb[0]) {
	case CDB_WRITE_10:
	case CDB_WRITE_12:
	case CDB_WRITE_16:
	case CDB_COMPARE_AND_WRITE:
		fua = fua || cdb[1] & CDB_FUA;
		break;
	case CDB_WRITE_VERIFY_10:
	case CDB_WRITE_VERIFY_12:
	case CDB_WRITE_VERIFY_16:
		fua = true;
		break;
	}
	return fua ? PORT_FUA : 0;
}

static int ebb_read(struct tcmu_device *dev, struct tcmur_cmd *cmd, struct iovec *iov, size_t niov,
		    size_t len, off_t off)
{
	struct port_async io = {
		.op = PORT_READ, .off = (uint64_t)off, .len = len, .iov = iov, .niov = (int)niov};

	return submit(dev, cmd, &io);
}

static int ebb_write(struct tcmu_device *dev, struct tcmur_cmd *cmd, struct iovec *iov, size_t niov,
		     size_t len, off_t off)
{
	struct port_async io = {.op = PORT_WRITE,
				.flags = stable(dev, cmd),
				.off = (uint64_t)off,
				.len = len,
				.iov = iov,
				.niov = (int)niov};

	return submit(dev, cmd, &io);
}

static int ebb_flush(struct tcmu_device *dev, struct tcmur_cmd *cmd)
{
	struct port_async io = {.op = PORT_FLUSH};

	return submit(dev, cmd, &io);
}

static int ebb_unmap(struct tcmu_device *dev, struct tcmur_cmd *cmd, uint64_t off, uint64_t len)
{
	struct port_async io = {.op = PORT_TRIM, .flags = stable(dev, cmd), .off = off, .len = len};

	return submit(dev, cmd, &io);
}

static int ebb_writesame(struct tcmu_device *dev, struct tcmur_cmd *cmd, uint64_t off, uint64_t len,
			 struct iovec *iov, size_t niov)
{
	struct port_async io = {.op = PORT_WRITE_SAME,
				.flags = stable(dev, cmd),
				.off = off,
				.len = len,
				.pattern_len = tcmu_dev_get_block_size(dev),
				.iov = iov,
				.niov = (int)niov};

	return submit(dev, cmd, &io);
}

static int ebb_caw(struct tcmu_device *dev, struct tcmur_cmd *cmd, uint64_t off, uint64_t len,
		   struct iovec *iov, size_t niov)
{
	struct port_async io = {.op = PORT_COMPARE_AND_WRITE,
				.flags = stable(dev, cmd),
				.off = off,
				.len = len,
				.iov = iov,
				.niov = (int)niov};

	return submit(dev, cmd, &io);
}

/* --- size --- */

/** The LUN's size in whole blocks of the backstore's, in bytes. */
static uint64_t whole_blocks(struct tcmu_device *dev, const struct port_export *e)
{
	return e->size - e->size % tcmu_dev_get_block_size(dev);
}

static uint64_t size_of(struct tcmu_device *dev)
{
	return tcmu_dev_get_num_lbas(dev) * tcmu_dev_get_block_size(dev);
}

/** On a thread of the client's, which must not wait for configfs. */
static void export_changed(void *ctx)
{
	struct device *d = ctx;

	atomic_store(&d->changed, true);
}

/**
 * Sees every command first, and handles none: it is here that a LUN that has grown becomes a larger
 * backstore, because the command in flight keeps the kernel's device from going away.
 */
static int ebb_handle_cmd(struct tcmu_device *dev, struct tcmur_cmd *cmd)
{
	struct device *d = device_of(dev);
	struct port_export e;

	if (!atomic_load_explicit(&d->changed, memory_order_relaxed))
		return TCMU_NOT_HANDLED;
	no_cancel_scope;
	atomic_store(&d->changed, false);
	port_client_get_export(d->client, &e);
	if (whole_blocks(dev, &e) != size_of(dev)) {
		info(dev, "LUN %s has %llu bytes now\n", e.name, (unsigned long long)e.size);
		if (tcmur_dev_update_size(dev, whole_blocks(dev, &e)))
			err(dev, "the size of the backstore could not be changed\n");
	}
	return TCMU_NOT_HANDLED;
}

/* --- life --- */

/** Whether to try again after @error: in the first moments of the runner, if there is no daemon. */
static bool try_again(int error)
{
	if (error != -EHOSTDOWN || clock_now_ns() >= patience_until)
		return false;
	clock_pause(START_PAUSE_NS);
	return true;
}

static struct port_client_options options(const struct runner_config *c)
{
	return (struct port_client_options){
		.socket = c->socket,
		.lun = c->lun,
		.name = "tcmu-runner",
		.async = true,
		.retry_ms = c->retry_ms,
	};
}

static bool ebb_check_config(const char *cfgstring, char **ret_reason)
{
	struct runner_config c;
	struct port_export e;
	struct reason why;
	int error = runner_config_parse(cfgstring, &c, &why);

	if (!error) {
		struct port_client_options opt = options(&c);

		do
			error = port_client_check(&opt, &e, &why);
		while (try_again(error));
		if (error)
			reason_prefix(&why, error, "LUN %s", c.lun);
	}
	if (error && asprintf(ret_reason, "%s", why.text) < 0)
		*ret_reason = NULL;
	return !error;
}

static int attach(struct device *d, struct reason *why)
{
	struct port_client_options opt = options(&d->config);
	struct port_export e;
	int error;

	opt.changed = export_changed;
	opt.ctx = d;
	do
		error = port_client_open(&opt, &d->client, why);
	while (try_again(error));
	if (error)
		return error;
	port_client_get_export(d->client, &e);
	if (size_of(d->dev) <= e.size)
		return 0;
	error = reason_set(why, EINVAL, "the LUN has %llu bytes, the backstore %llu",
			   (unsigned long long)e.size, (unsigned long long)size_of(d->dev));
	port_client_close(d->client);
	return error;
}

static void describe(struct tcmu_device *dev, struct device *d)
{
	uint32_t bs = tcmu_dev_get_block_size(dev), grain = UNMAP_GRAIN;
	struct port_export e;

	port_client_get_export(d->client, &e);
	if (grain < e.block_size)
		grain = e.block_size;
	tcmu_dev_set_write_cache_enabled(dev, true);
	tcmu_dev_set_solid_state_media(dev, !(e.flags & PORT_EXPORT_ROTATIONAL));
	tcmu_dev_set_unmap_enabled(dev, e.flags & PORT_EXPORT_TRIM);
	grain = grain > bs ? grain / bs : 1;
	tcmu_dev_set_opt_unmap_gran(dev, grain, false);
	tcmu_dev_set_unmap_gran_align(dev, grain);
	tcmu_dev_set_opt_xcopy_rw_len(dev, COPY_CHUNK / bs);
	/* A backstore that was saved before the LUN grew: as when it has grown now. */
	atomic_store(&d->changed, true);
}

static int ebb_open(struct tcmu_device *dev, bool reopen)
{
	struct device *d = calloc(1, sizeof(*d));
	struct reason why;
	int error;

	if (!d)
		return -ENOMEM;
	d->dev = dev;
	error = runner_config_parse(tcmu_dev_get_cfgstring(dev), &d->config, &why);
	if (!error)
		error = attach(d, &why);
	if (error) {
		err(dev, "%s: %s\n", tcmu_dev_get_cfgstring(dev), why.text);
		free(d);
		return error;
	}
	describe(dev, d);
	tcmur_dev_set_private(dev, d);
	return 0;
}

static void ebb_close(struct tcmu_device *dev)
{
	struct device *d = device_of(dev);

	port_client_close(d->client);
	free(d);
}

static int reconfig_size(struct tcmu_device *dev, uint64_t size)
{
	struct port_export e;

	port_client_get_export(device_of(dev)->client, &e);
	if (size == whole_blocks(dev, &e))
		return 0;
	err(dev, "the backstore is as large as LUN %s, %llu bytes: `ebb lun resize` grows both\n",
	    e.name, (unsigned long long)e.size);
	return -EINVAL;
}

/** Another LUN would be another disk under the initiators' feet. */
static int reconfig_string(struct tcmu_device *dev, const char *cfgstring)
{
	const struct runner_config *now = &device_of(dev)->config;
	struct runner_config c;
	struct reason why;
	int error = runner_config_parse(cfgstring, &c, &why);

	if (!error && (strcmp(c.lun, now->lun) || strcmp(c.socket, now->socket) ||
		       c.retry_ms != now->retry_ms))
		error = reason_set(&why, EBUSY, "make another backstore for it");
	if (error)
		err(dev, "%s: %s\n", cfgstring, why.text);
	return error;
}

static int ebb_reconfig(struct tcmu_device *dev, struct tcmulib_cfg_info *cfg)
{
	switch (cfg->type) {
	case TCMULIB_CFG_DEV_SIZE:
		return reconfig_size(dev, cfg->data.dev_size);
	case TCMULIB_CFG_DEV_CFGSTR:
		return reconfig_string(dev, cfg->data.dev_cfgstring);
	case TCMULIB_CFG_WRITE_CACHE:
		atomic_store(&device_of(dev)->write_through, !cfg->data.write_cache);
		tcmu_dev_set_write_cache_enabled(dev, cfg->data.write_cache);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static struct tcmur_handler handler = {
	.name = "Ebb",
	.subtype = RUNNER_SUBTYPE,
	.cfg_desc = RUNNER_USAGE,
	.check_config = ebb_check_config,
	.reconfig = ebb_reconfig,
	.open = ebb_open,
	.close = ebb_close,
	.handle_cmd = ebb_handle_cmd,
	.read = ebb_read,
	.write = ebb_write,
	.flush = ebb_flush,
	.unmap = ebb_unmap,
	.writesame = ebb_writesame,
	.caw = ebb_caw,
};

/** Called by the runner when it has loaded us. */
int handler_init(void);

int handler_init(void)
{
	void *library = dlopen(RUNNER_LIBRARY, RTLD_LAZY | RTLD_NOLOAD);

	if (!library || !tcmu_notify_cmd_timed_out) {
		err(NULL,
		    "handler_ebb needs tcmu-runner 1.5.3 or later, with " RUNNER_LIBRARY "\n");
		return -1;
	}
	dlclose(library);
	patience_until = clock_now_ns() + START_PATIENCE_NS;
	return tcmur_register_handler(&handler);
}
