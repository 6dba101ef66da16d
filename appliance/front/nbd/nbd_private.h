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

int nbd_listener_open(struct nbd_listener *l, const char *address, struct reason *why);
/** Idempotent. */
void nbd_listener_close(struct nbd_listener *l);

#define NBD_ARGS_MAX 32

/** How nbdkit is started. */
struct nbd_command {
	char *argv[NBD_ARGS_MAX + 1]; /* malloc'ed; NULL-terminated */
	unsigned argc;
};

int nbd_command_init(struct nbd_command *c, const struct nbd_options *opt, struct reason *why);
void nbd_command_free(struct nbd_command *c);

struct nbd_process {
	pid_t pid;
	int pidfd, pidfile, errors; /* the caller's; pidfile and errors are read ends */
};

/** Starts it, with the listeners as its descriptors 3 and up. 0 or -errno. */
int nbd_command_spawn(const struct nbd_command *c, const struct nbd_listener *listeners,
		      unsigned n_listeners, struct nbd_process *ret_process);
