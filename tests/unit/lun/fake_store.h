/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A store in memory that counts, fails and stands still on demand. */
#pragma once

#include "harness.h"

#define FAKE_SIZE (4u << 20)

struct fake {
	struct block_store base;
	uint8_t *data;
	int err; /* what the @at-th I/O of op @on fails with */
	enum block_op on;
	int at;
	_Atomic int calls[BLOCK_PREFETCH + 1];
	_Atomic uint64_t read_bytes;
	_Atomic unsigned last_flags;
	/* Holds back the completion of the next I/O */
	bool hold;
	struct block_io *held;
	/* Reads of lun_run() wait here while it is closed. */
	struct mutex gate;
	pthread_cond_t opened;
	bool closed; /* under gate */
};

/** A LUN on such a store, whose bytes are zeros; cached if harness_cached. */
struct fake *make_fake(struct lun **ret_lun, bool read_only);
void fake_gate(struct fake *f, bool closed);
