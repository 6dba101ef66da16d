/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a LUN behaves as a file: what a request on the file becomes, and what is told about it. No
 * state, no I/O.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "front/port/port_client.h"

/** Who owns the files. */
struct mount_owner {
	uid_t uid;
	gid_t gid;
	mode_t umask;
	bool read_only; /* the whole mount */
};

/** What a file system tells: @err (-errno of the port) as a positive errno; 0 stays. */
int mount_errno(int err);

/** A number that the LUN keeps, whatever it is called. */
uint64_t mount_inode(const struct port_export *e);
bool mount_read_only(const struct port_export *e, const struct mount_owner *owner);
/** @changed: seconds since the epoch. */
void mount_fill_stat(const struct port_export *e, const struct mount_owner *owner, time_t changed,
		     struct stat *ret_st);

/** How many of the @len bytes at @off are there, in a file of @size bytes. */
uint64_t mount_clip(uint64_t size, uint64_t off, uint64_t len);

/** What a request that changes a range becomes. */
struct mount_change {
	enum port_op op;
	unsigned flags;
	uint64_t off, len; /* bytes; @len 0: nothing is to be done */
};
/**
 * fallocate(2) with @mode in a file of @size bytes. -EOPNOTSUPP: the mode; -ENOSPC: it would make
 * the file longer.
 */
int mount_plan_fallocate(int mode, uint64_t off, uint64_t len, uint64_t size,
			 struct mount_change *ret_change);

enum mount_resize { MOUNT_RESIZE_NOT, MOUNT_RESIZE_GROW };
/**
 * A new size of @to bytes. @by_path: the request named no open file. Returns what is to be done, or
 * -EPERM, -EINVAL.
 */
int mount_plan_resize(const struct port_export *e, uint64_t to, bool by_path, bool can_grow);

/**
 * Looks for a hole (@hole) or for data, in @n extents that begin at *@pos. Returns whether there is
 * one; *@pos is then where it starts, else where the extents end.
 */
bool mount_seek(const struct port_extent *extents, unsigned n, bool hole, uint64_t *pos);

/** Names of all extended attributes, each with its NUL; *@ret_len: bytes. */
const char *mount_xattr_names(size_t *ret_len);
#define MOUNT_XATTR_MAX PORT_DESCRIPTION_MAX
/** The value of @name, without a NUL. Returns its length, or -ENODATA. */
int mount_xattr_value(const struct port_export *e, const char *name, char buf[MOUNT_XATTR_MAX]);
