/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the LUN layer share. */
#pragma once

#include "lun/lun.h"

struct lun {
	/* --- constant after creation --- */
	char *name, *path, *description;
	struct block_store *store;
	struct lun_identity identity;
	uint32_t block_size;
	int state_dirfd;
	bool read_only, removable;
	bool tears; /* a block could be read half written: reads and writes that overlap
		     * are kept apart */
	/* --- atomic --- */
	_Atomic uint32_t refs;
	_Atomic int fence; /* enum lun_fence */
	/* --- own locks --- */
	struct range_lock ranges;
	struct lun_counters counters;
	/* --- slow state, under @slow --- */
	struct mutex slow;
	struct list_node watchers;
	struct lun_watcher *notified; /* whose fn is running, with @slow dropped */
	pthread_t notifier;	      /* by whom, when @notifying */
	bool notifying;
	pthread_cond_t notify_cond; /* @notified or @notifying changed */
};

/** What an op is, for the range lock, the fence and the counters. */
struct lun_op_traits {
	bool writes, reads;
	bool ranged; /* off and len are looked at */
	bool locks;  /* takes the range lock, in @mode */
	enum range_lock_mode mode;
	enum lun_class class;
	uint32_t bounce; /* bytes of bounce memory at most; 0: none */
};
extern const struct lun_op_traits lun_op_traits[LUN_OP_COUNT];

/* lun.c */
void lun_notify(struct lun *lun, enum lun_event ev);

/* compound.c */
/** Checks what is particular to compound ops. 0 or -EINVAL. */
int lun_compound_check(const struct lun *lun, const struct lun_io *io);
/** Gets bounce memory if the op needs it; false: the reactor's pool has none, wait for it. */
bool lun_bounce_get(struct lun_io *io);
void lun_bounce_put(struct lun_io *io);
/** Takes the result of the last block I/O (0 the first time). True: io->bio is the next one, for
 * *@ret_store; false: done, io->err is set. */
bool lun_plan_next(struct lun_io *io, int err, struct block_store **ret_store);

/* identity.c */
int lun_identity_load(const struct lun_options *opt, struct lun_identity *ret_id,
		      struct reason *why);
