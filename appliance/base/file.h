/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * State files: read whole, replaced atomically (write, fsync, rename, fsync of the directory); and
 * the small files in which the kernel tells something.
 */
#pragma once

#include <stddef.h>

/** Reads DIR/NAME whole. *@ret_buf is malloc'ed and NUL-terminated behind its *@ret_len bytes. */
int file_read(int dirfd, const char *name, size_t max, char **ret_buf, size_t *ret_len);
/**
 * Replaces DIR/NAME with @len bytes so that a crash at any instant leaves the old or the new
 * contents, and a return of 0 means that the new ones are on stable storage. Mode 0600. Blocks: not
 * for a reactor's thread.
 */
int file_replace(int dirfd, const char *name, const void *buf, size_t len);
/** Removes DIR/NAME durably; 0 too when it is not there. */
int file_remove(int dirfd, const char *name);
/**
 * Reads the first line of DIR/PATH with one read(2), as much of it as @size bytes hold with a NUL;
 * the newline is left out.
 */
int file_read_line(int dirfd, const char *path, char *buf, size_t size);
