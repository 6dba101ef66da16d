/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The attached form: each NBD connection is one client of the daemon's port, with rings and a data
 * area of its own, so connections spread over the daemon's reactors and one that breaks takes no
 * other with it. Which LUN: `lun=` if given, else the export name, else `default=`, else the only
 * LUN there is.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "backend.h"
#include "base/cleanup.h"

static const struct plugin_config *config;

/*
 * With --exit-with-parent nbdkit would end in order once its daemon has gone: wait for every client
 * to leave, keeping the listening sockets that the next daemon wants. Nothing is held here that
 * could be lost - what was acknowledged is the daemon's - so it ends at once instead.
 */
static void end_with_parent(void)
{
	int sig = 0;

	if (prctl(PR_GET_PDEATHSIG, &sig) == 0 && sig)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static int attached_start(const struct plugin_config *cfg, struct reason *why)
{
	end_with_parent();
	/* The daemon need not be there yet: a LUN is looked for when a client connects. */
	config = cfg;
	return 0;
}

static void attached_stop(void)
{
}

static int attached_list(struct port_export **ret_exports, size_t *ret_n, struct reason *why)
{
	int err = port_client_list(config->socket, ret_exports, ret_n, why);

	if (err || !config->lun)
		return err;
	for (size_t i = 0; i < *ret_n; i++) {
		if (strcmp((*ret_exports)[i].name, config->lun) == 0) {
			(*ret_exports)[0] = (*ret_exports)[i];
			*ret_n = 1;
			return 0;
		}
	}
	*ret_n = 0;
	return 0;
}

/** Finds the LUN that the export name @name stands for, writing it to @buf. */
static int attached_resolve(const char *name, char buf[PORT_NAME_MAX], struct reason *why)
{
	_cleanup_free_ struct port_export *exports = NULL;
	const char *lun = config->lun ? config->lun : name[0] ? name : config->fallback;
	size_t n;
	int err;

	if (config->lun && name[0] && strcmp(name, config->lun) != 0)
		return reason_set(why, ENOENT, "no export '%s' here (only '%s')", name,
				  config->lun);
	if (!lun) {
		err = attached_list(&exports, &n, why);
		if (err)
			return err;
		if (n != 1)
			return reason_set(why, ENOENT,
					  "%zu LUNs are exported: the client must name one", n);
		lun = exports[0].name;
	}
	if (strlen(lun) >= PORT_NAME_MAX)
		return reason_set(why, ENOENT, "no export '%s' here", lun);
	strcpy(buf, lun);
	return 0;
}

static int attached_open(const char *name, bool read_only, void **ret_handle, struct reason *why)
{
	char lun[PORT_NAME_MAX];
	struct port_client_options opt = {
		.socket = config->socket,
		.lun = lun,
		.name = "nbdkit",
		.read_only = read_only,
		.retry_ms = config->retry_ms,
	};
	int err = attached_resolve(name, lun, why);

	if (err)
		return err;
	return port_client_open(&opt, (struct port_client **)ret_handle, why);
}

static void attached_close(void *handle)
{
	port_client_close(handle);
}

static void attached_get_export(void *handle, struct port_export *ret_export)
{
	port_client_get_export(handle, ret_export);
}

static int attached_io(void *handle, enum port_op op, unsigned flags, uint64_t off, uint64_t len,
		       void *buf)
{
	return port_client_io(handle, op, flags, off, len, buf);
}

static int attached_extents(void *handle, uint64_t off, uint64_t len, struct port_extent *extents,
			    unsigned *n)
{
	return port_client_extents(handle, off, len, extents, n);
}

const struct backend backend_attached = {
	.start = attached_start,
	.stop = attached_stop,
	.open = attached_open,
	.close = attached_close,
	.get_export = attached_get_export,
	.io = attached_io,
	.extents = attached_extents,
	.list = attached_list,
};
