/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a handler finds when tcmu-runner has loaded it, without a kernel: the functions of
 * runner_abi.h, devices that are only numbers, and commands that the test sends. Two parts, as
 * there: libtcmu.so.2, and the program's own functions.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "runner_abi.h"

struct tcmu_device {
	char *cfgstring;
	uint64_t num_lbas;
	uint32_t block_size;
	void *private;
	/* as the handler has set them */
	bool write_cache, solid_state, unmap, split;
	uint32_t unmap_gran, unmap_align, xcopy_len;
	_Atomic unsigned resizes;
};

/** A command. */
struct fake_cmd {
	struct tcmur_cmd cmd; /* first: what the handler gets */
	void *runners[16];    /* what the runner keeps there */
	struct tcmulib_cmd lib;
	uint8_t cdb[16];
	struct tcmu_device *dev;
	/* Called instead of waking fake_wait(); may send the next. May be NULL. */
	void (*done)(struct fake_cmd *c);
	void *ctx;
	int status;
	_Atomic unsigned completions;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool has_ended; /* under lock */
};

/** Loads a handler as the runner does. NULL, said on stderr: it is none, or it refuses. */
struct tcmur_handler *fake_load(const char *path);
void fake_device_init(struct tcmu_device *dev, const char *cfgstring, uint64_t size, uint32_t bs);
void fake_device_destroy(struct tcmu_device *dev);
void fake_cmd_init(struct fake_cmd *c, struct tcmu_device *dev, uint8_t opcode);
/** Waits for the command, of which a callback has just returned @accepted. Returns its status. */
int fake_wait(struct fake_cmd *c, int accepted);
