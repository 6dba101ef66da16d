/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a daemon leaves behind about its nbdkit, for the daemon that comes after it when it is
 * killed: nbdkit and its clients live on, and the next daemon finds and adopts them.
 *
 * Three files lie beside the port's socket, named after it:
 *
 *	PORT.nbdkit	 the record: text, replaced by rename(2), with a checksum in its last line
 *	PORT.nbdkit.lock flock(2)ed by the supervisor for as long as it lives: two daemons cannot
 *			 both take nbdkit for theirs
 *	PORT.nbdkit.log	 FIFO that is nbdkit's stderr: what it says while no daemon is there waits
 *			 in it, and is dropped when it is full
 *
 * A process is known by its pid, the time it was started (field 22 of /proc/PID/stat) and the boot:
 * a pid that was used again has another time. A record that cannot be understood is none.
 */
#pragma once

#include "front/nbd/nbd_private.h"

#define NBD_BOOT_LEN 36u

struct nbd_record {
	char boot[NBD_BOOT_LEN + 1]; /* boot_id of random(4) */
	pid_t pid;
	uint64_t start;	  /* ticks since boot */
	uint64_t options; /* fingerprint of how it was started (nbd_command_fingerprint) */
	unsigned n_listen;
	char listen[NBD_LISTEN_MAX][128]; /* as bound */
};

/** Where the files are. */
struct nbd_record_place {
	char *path; /* of the record; the others follow from it */
	int lock;   /* -1: not held */
};

/** Takes the lock. -EBUSY when another supervisor has it. */
int nbd_record_open(struct nbd_record_place *p, const char *port_socket, struct reason *why);
/** Lets the lock go; the files stay. Idempotent. */
void nbd_record_close(struct nbd_record_place *p);
/** 0; -ENOENT: there is none; -EINVAL: damaged, @why says how. */
int nbd_record_load(const struct nbd_record_place *p, struct nbd_record *ret_record,
		    struct reason *why);
/** Replaces the record. Does not wait for a disk: the record need not outlive the boot. */
int nbd_record_save(const struct nbd_record_place *p, const struct nbd_record *r);
/** Removes record and FIFO. */
void nbd_record_remove(const struct nbd_record_place *p);
/** Fills in who @pid is: boot, pid and start. 0 or -errno. */
int nbd_record_identify(struct nbd_record *r, pid_t pid);
/** Opens the process of @r; -ESRCH when it has ended, whoever has its pid now. */
int nbd_record_find(const struct nbd_record *r, int *ret_pidfd);
/** Ends the process: SIGTERM, after 2 s SIGKILL. Blocks until it has ended. */
void nbd_record_end(const struct nbd_record *r, int pidfd);
/**
 * Opens the FIFO, made when it is not there: the end that we read, blocking; and, unless NULL,
 * nbdkit's own, which never blocks.
 */
int nbd_record_open_log(const struct nbd_record_place *p, int *ret_read, int *ret_write);
