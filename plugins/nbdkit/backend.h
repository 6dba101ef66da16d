/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stands behind the plugin's callbacks: the engine inside nbdkit (embedded.c), or the daemon's
 * through the port (attached.c). Ops, flags and extents are named as the port names them.
 */
#pragma once

#include "base/reason.h"
#include "front/port/port_client.h"

/*
 * Of the embedded form, when nothing is said and I/O is direct. What is buffered has the kernel's
 * cache: a second one would cost more to fill than it saves.
 */
#define PLUGIN_MEMORY (64ull << 20)
#define MEMORY_UNSAID UINT64_MAX

struct plugin_config {
	/* embedded */
	char *file;
	char *mode;    /* "direct", "buffered" or NULL */
	uint64_t size; /* bytes; with it the file is created when it is not there */
	uint32_t block_size;
	uint64_t memory; /* bytes of cached pages; 0: none; or MEMORY_UNSAID */
	char *description;
	/* attached */
	char *socket;
	char *lun;	/* the only one that is exported, or NULL: any, by export name */
	char *fallback; /* what the empty export name stands for, or NULL */
	unsigned retry_ms;
	bool supervised; /* a daemon has started us: end when none has been there for retry_ms */
	/* both */
	bool read_only;
};

struct backend {
	/* Before nbdkit forks and drops privileges. */
	int (*start)(const struct plugin_config *cfg, struct reason *why);
	/* After the fork: threads may be started. */
	int (*forked)(struct reason *why);
	void (*stop)(void);
	/* @name: as the client asked for it. */
	int (*open)(const char *name, bool read_only, void **ret_handle, struct reason *why);
	void (*close)(void *handle);
	void (*get_export)(void *handle, struct port_export *ret_export);
	/* 0 or -errno. */
	int (*io)(void *handle, enum port_op op, unsigned flags, uint64_t off, uint64_t len,
		  void *buf);
	int (*extents)(void *handle, uint64_t off, uint64_t len, struct port_extent *extents,
		       unsigned *n);
	/* malloc'ed array. */
	int (*list)(struct port_export **ret_exports, size_t *ret_n, struct reason *why);
};

extern const struct backend backend_embedded;
extern const struct backend backend_attached;
