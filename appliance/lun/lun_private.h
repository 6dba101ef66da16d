/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the LUN layer share. */
#pragma once

#include "event/worker.h"
#include "lun/lun.h"
#include "lun/readahead.h"

#define LUN_BOUNCE_MAX (1u << 20) /* of a read, readahead included */

/** What a LUN whose reads are cached has; lock order and lives: in the files named. */
struct lun_cache {
	struct cache *c;
	struct cache_object *o;
	struct fills fills;	    /* fills.h */
	struct readahead readahead; /* readahead.h */
	metric_counter coalesced;   /* reads that waited for another's */
	_Atomic uint64_t cut;	    /* from here on the store was found to have ended */
	/* Large bounce memory of ops without a reactor, for the next: mapping it anew costs more
	 * than the copy. Each of LUN_BOUNCE_MAX bytes, or NULL. */
	_Atomic(void *) spare[2];
};

struct lun {
	/* --- constant after creation --- */
	char *name, *path, *description;
	struct block_store *store;
	struct lun_cache *cache; /* NULL: reads are not cached, ... */
	const char *uncached;	 /* ... and why, in words */
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
	struct lun_detail detail;
	/* --- slow state, under @slow --- */
	struct mutex slow;
	struct list_node watchers;
	struct list_node exports;     /* grows only */
	struct lun_watcher *notified; /* whose fn is running, with @slow dropped */
	pthread_t notifier;	      /* by whom, when @notifying */
	bool notifying;
	pthread_cond_t notify_cond; /* @notified or @notifying changed */
	/* --- of who gave up the last reference --- */
	struct worker_job closing;
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

/* export.c */
void lun_count_export(const struct lun_io *io, enum lun_class class);
/** Nobody uses the LUN any more. */
void lun_free_exports(struct lun *lun);

/* io.c */
/** An op that waited (LUN_PLAN_WAIT) goes on. */
void lun_resume(struct lun_io *io);

/** What an op does next. */
enum lun_plan {
	LUN_PLAN_DONE, /* io->err is its result */
	LUN_PLAN_IO,   /* io->bio */
	LUN_PLAN_WAIT, /* for io->fill_waiter, then the plan is asked again with no error */
};

/* compound.c */
/** Checks what is particular to compound ops. 0 or -EINVAL. */
int lun_compound_check(const struct lun *lun, const struct lun_io *io);
/** Gets bounce memory if the op needs it; false: the reactor's pool has none, wait for it. */
bool lun_bounce_get(struct lun_io *io);
/** Gets @want bytes of bounce memory if they are to be had without waiting. */
bool lun_bounce_try(struct lun_io *io, uint32_t want);
void lun_bounce_put(struct lun_io *io);
/**
 * Takes the result of the last block I/O (0 the first time). LUN_PLAN_IO: io->bio is for
 * *@ret_store.
 */
enum lun_plan lun_plan_next(struct lun_io *io, int err, struct block_store **ret_store);
enum lun_plan lun_plan_end(struct lun_io *io, int err);
/** Both prepare io->bio, of the caller's memory from byte @iov_off on, or of the bounce memory. */
enum lun_plan lun_caller_bio(struct lun_io *io, enum block_op op, uint64_t off, uint64_t len,
			     uint64_t iov_off);
enum lun_plan lun_bounce_bio(struct lun_io *io, enum block_op op, uint64_t off, uint64_t len);

/* read.c */
/** The first byte that is not cached: whole pages only. */
uint64_t lun_cache_limit(const struct lun *lun);
/** Carries out @io if it is a read within one page that hits. */
bool lun_read_hit(struct lun_io *io);
enum lun_plan lun_read_next(struct lun_io *io, int err);
enum lun_plan lun_prefetch_next(struct lun_io *io, int err);
/** What an op owes to the cache: before each block I/O, on an error of one, and at its end. */
void lun_cache_before_io(struct lun_io *io);
void lun_cache_on_error(struct lun_io *io, int err);
void lun_cache_after_op(struct lun_io *io);

/* lun_cache.c */
void lun_cache_detach(struct lun *lun);

/* identity.c */
int lun_identity_load(const struct lun_options *opt, struct lun_identity *ret_id,
		      struct reason *why);
