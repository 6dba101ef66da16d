/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the NBD supervisor share. */
#pragma once

#include "event/listen_socket.h"
#include "front/nbd/nbd_supervisor.h"

#define NBD_ARGS_MAX 32

/** How nbdkit is started. */
struct nbd_command {
	char *argv[NBD_ARGS_MAX + 1]; /* malloc'ed; NULL-terminated */
	unsigned argc;
	uint64_t fingerprint; /* of all that decides how nbdkit serves, certificates too */
};

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
int nbd_command_spawn(const struct nbd_command *c, const struct listen_socket *listeners,
		      unsigned n_listeners, int errors, struct nbd_process *ret_process);
/**
 * Opens the gate and closes it behind: the process becomes nbdkit. When it is closed unopened - we
 * are killed - the process ends.
 */
void nbd_command_go(int gate);
