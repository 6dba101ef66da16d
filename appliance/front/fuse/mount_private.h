/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of a mount share.
 *
 *	mount.c		the session: mounts, has requests read by threads, ends
 *	mount_node.c	files: which there are, and which are attached to their LUN
 *	mount_dir.c	requests about the directory and what is told of files
 *	mount_io.c	requests on open files
 *	mount_rules.c	what those become, without state
 */
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/lock.h"
#include "front/fuse/mount.h"
#include "front/fuse/mount_rules.h"

#define MOUNT_READERS_MAX 16u
/* More are made when more writes are in flight, which costs their first touch each time. */
#define MOUNT_BUFFERS_MAX 16u

/* How old a list of LUNs may be that tells of LUNs which are not attached. */
#define MOUNT_RECENT_MS 100u

/* How long requests wait for a daemon that is being started again, as nbdkit's plugin has it. */
#define MOUNT_PATIENCE_MS 30000u

struct mount_reader {
	struct mount *m;
	pthread_t thread;
	void *buffer; /* of the next request, or NULL */
	bool away;    /* busy with what may block for long: reads no requests */
};

enum node_state {
	NODE_DETACHED,
	NODE_BUSY, /* somebody attaches or detaches it */
	NODE_ATTACHED,
};
/* DETACHED -> BUSY -> ATTACHED | DETACHED; ATTACHED -> BUSY -> DETACHED */

/** A LUN that the kernel knows as a file. */
struct mount_node {
	/* constant */
	struct mount *m;
	struct port_export named; /* when it was found: its name and UUID */

	struct list_node link; /* of m->nodes; all these under m->lock: */
	uint64_t lookups;      /* that the kernel has not forgotten */
	unsigned opens;
	enum node_state state;
	struct port_client *client; /* ATTACHED; also used by who has it open, without the lock */

	/* Readers in port_client_submit(): it may be done, and the file closed, before that
	 * returns. */
	_Atomic unsigned submitting;
	_Atomic uint64_t size;	    /* bytes, of an attached LUN; written under m->lock */
	_Atomic uint64_t changed_s; /* when it was last written through this mount, or what
				       utimens(2) said */
};

struct mount {
	/* --- constant --- */
	const struct mount_options *opt;
	struct mount_owner owner;
	time_t since;
	struct fuse_session *se;
	pthread_t main;

	/* --- under lock --- */
	struct mutex lock;	/* FRONT */
	pthread_cond_t changed; /* of a node's state or size, of readers that end, of in_flight,
				   submitting */
	struct list_node nodes;
	struct mount_reader readers[MOUNT_READERS_MAX];
	unsigned n_readers; /* that were started */
	unsigned listening; /* of them: that read requests */
	unsigned alive;
	void *buffers[MOUNT_BUFFERS_MAX]; /* for any reader */
	unsigned n_buffers;
	struct port_export *recent; /* LUNs as they were at recent_ns; NULL: never asked */
	size_t n_recent;
	uint64_t recent_ns;

	_Atomic uint64_t in_flight; /* requests that the port has */
	_Atomic unsigned detaching; /* who waits for a node's submitting to be none */
	_Atomic bool draining;
};

/* --- mount.c --- */

/**
 * What may take long is done between these two, so that requests are read by somebody else. On a
 * reader's thread.
 */
void mount_begin_slow(struct mount *m);
void mount_end_slow(struct mount *m);
/** The calling reader's buffer, with the request in it, is the caller's until mount_put_buffer().
 */
void *mount_take_buffer(void);
/** NULL is fine. Any thread. */
void mount_put_buffer(struct mount *m, void *buffer);
/**
 * Returns whether what has failed with @err is to be tried again, after a pause: the daemon is
 * being started again, maybe. @deadline: on CLOCK_MONOTONIC, ns.
 */
bool mount_try_again(struct mount *m, fuse_req_t req, int err, uint64_t deadline);
uint64_t mount_deadline(void);

/* --- mount_node.c --- */

struct mount_node *mount_node_of(fuse_ino_t ino);
fuse_ino_t mount_ino_of(const struct mount_node *node);
/** The node of @e, made if there is none, with one more lookup. NULL: no memory. */
struct mount_node *mount_node_find(struct mount *m, const struct port_export *e);
/** The kernel has forgotten @n lookups. */
void mount_node_forget(struct mount_node *node, uint64_t n);
/** One more has it open, attached. Blocks. Errors as port_client_open(). */
int mount_node_attach(struct mount_node *node, fuse_req_t req);
/** One fewer. Blocks. */
void mount_node_detach(struct mount_node *node);
/** port_client_submit() to the LUN, which the caller's request has open. */
void mount_node_submit(struct mount_node *node, struct port_async *async);
/** What the LUN is like. Blocks. -ENOENT: it is gone; -EHOSTDOWN. */
int mount_node_export(struct mount_node *node, fuse_req_t req, struct port_export *ret_export);
/** If the LUN is attached: what it is like now. False: it is not. */
bool mount_node_attached(struct mount_node *node, struct port_export *ret_export);
/** It is written: its file has changed now. */
void mount_node_touch(struct mount_node *node);
/** Waits until an attached LUN has @size bytes at least, for a while. */
void mount_node_await_size(struct mount_node *node, uint64_t size);
/** Ends all nodes. Nobody uses any. */
void mount_node_drop_all(struct mount *m);

/** All LUNs; a malloc'ed array. Waits for a daemon that is started again. Blocks. */
int mount_list(struct mount *m, fuse_req_t req, struct port_export **ret_exports, size_t *ret_n);
/** The LUN of that name, as it was MOUNT_RECENT_MS ago at most. Likewise. -ENOENT: there is none.
 */
int mount_find(struct mount *m, fuse_req_t req, const char *name, struct port_export *ret_export);

/* --- mount_dir.c --- */

void mount_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void mount_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n);
void mount_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void mount_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void mount_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		   struct fuse_file_info *fi);
/** Refused, all seven. */
void mount_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void mount_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void mount_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void mount_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
void mount_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to,
		  const char *new_name, unsigned flags);
void mount_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void mount_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void mount_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void mount_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		   struct fuse_file_info *fi);
void mount_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void mount_statfs(fuse_req_t req, fuse_ino_t ino);
void mount_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void mount_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);

/* --- mount_io.c --- */

void mount_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void mount_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void mount_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void mount_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		 struct fuse_file_info *fi);
void mount_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void mount_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
		     struct fuse_file_info *fi);
void mount_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
/** Waits until the port has answered everything. No reader submits any more. */
void mount_drain(struct mount *m);
