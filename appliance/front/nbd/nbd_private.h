/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the NBD supervisor share. */
#pragma once

#include <sys/stat.h>

#include "front/nbd/nbd_supervisor.h"

/** A listening socket, kept over restarts of nbdkit. */
struct nbd_listener {
	int fd;		   /* -1: closed */
	char address[128]; /* as bound */
	char *path;	   /* of a Unix socket, to be removed; else NULL */
	dev_t dev;
	ino_t ino;
};

/** Binds; waits up to @patience_ms for who has the address now. */
int nbd_listener_open(struct nbd_listener *l, const char *address, unsigned patience_ms,
		      struct reason *why);
/** Takes note of an address, as bound, that an nbdkit listens on which we did not start. */
int nbd_listener_adopt(struct nbd_listener *l, const char *address);
/** Idempotent. */
void nbd_listener_close(struct nbd_listener *l);

#define NBD_ARGS_MAX 32

/** How nbdkit is started. */
struct nbd_command {
	char *argv[NBD_ARGS_MAX + 1]; /* malloc'ed; NULL-terminated */
	unsigned argc;
	uint64_t fingerprint; /* of all that decides how nbdkit serves, certificates too */
};

/** FNV-1a, 64 bits. */
#define NBD_HASH_START 0xcbf29ce484222325ull
uint64_t nbd_hash(uint64_t h, const void *data, size_t len);

int nbd_command_init(struct nbd_command *c, const struct nbd_options *opt, struct reason *why);
void nbd_command_free(struct nbd_command *c);

struct nbd_process {
	pid_t pid;
	int pidfd, pidfile; /* the caller's; pidfile is a read end */
	int gate;	    /* the caller's, for nbd_command_go() */
};

/**
 * Starts it, with the listeners as its descriptors 3 and up and @errors as its stderr; it waits at
 * the gate. 0 or -errno.
 */
int nbd_command_spawn(const struct nbd_command *c, const struct nbd_listener *listeners,
		      unsigned n_listeners, int errors, struct nbd_process *ret_process);
/**
 * Opens the gate and closes it behind: the process becomes nbdkit. When it is closed unopened - we
 * are killed - the process ends.
 */
void nbd_command_go(int gate);
