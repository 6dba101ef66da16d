/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * LUNs as files: a FUSE file system with one file a LUN, served by a process of the user's own,
 * which is a client of the daemon's port. docs/fuse.md tells why and how.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/reason.h"

struct mount_options {
	const char *dir;  /* an absolute path */
	const char *port; /* of the port's socket; likewise */
	bool read_only;
	bool allow_other; /* other users than ours, as far as the modes of the files let them */
	bool cached;	  /* the kernel keeps pages from an open() to the next */
	bool foreground;
	/*
	 * NULL: files do not grow. Grows @lun to @size bytes; returns 0 or -errno with a reason.
	 * Any thread; it may block.
	 */
	int (*grow)(void *ctx, const char *lun, uint64_t size, struct reason *why);
	/* May be NULL. The file system is there; in the foreground only. */
	void (*mounted)(void *ctx);
	void *ctx;
};

/**
 * Mounts and serves until it is unmounted, or a SIGTERM, SIGINT or SIGHUP comes. Without
 * @foreground the calling process ends (status 0) as soon as it is mounted, and a child of it
 * returns from here. 0 or -errno with a reason.
 */
int mount_run(const struct mount_options *opt, struct reason *why);
