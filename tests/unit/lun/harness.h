/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of the LUN layer share: a reactor to submit on, and LUNs on temporary files. */
#pragma once

#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lun/lun.h"

/** The way an op goes in. */
enum way { WAY_SYNC, WAY_ASYNC };

/** Starts one reactor for the process at the first call. */
struct reactor *harness_reactor(void);
void harness_stop(void);
/** Does @io either way and waits for it; returns io->err. */
int do_io(struct lun *lun, struct lun_io *io, enum way way);

int do_read(struct lun *lun, enum way way, uint64_t off, void *buf, uint64_t len);
int do_write(struct lun *lun, enum way way, uint64_t off, const void *buf, uint64_t len);
int do_range(struct lun *lun, enum way way, enum lun_op op, unsigned flags, uint64_t off,
	     uint64_t len);

/** The cache of this process, made at the first call. */
struct cache *harness_cache(void);
/** Takes memory from it, or lets it grow again: one of the ways it is done, by @seed. */
void harness_squeeze(unsigned seed);
/** Whether make_lun() makes LUNs that use it; false at first. */
extern bool harness_cached;

/** A path under a directory made for this process, and removed with it. */
const char *harness_path(const char *name);
/** Makes a sparse file of @size and a LUN on it; fails the test when it cannot. */
struct lun *make_lun(const char *name, enum block_mode mode, uint64_t size);
/** Fills with bytes that depend on @seed. */
void fill(void *buf, size_t len, unsigned seed);
