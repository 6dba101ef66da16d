/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A LUN: a backing store, a geometry, an identity, a range lock, counters - and the one entrance
 * for I/O, whatever the front. Everything the fronts promise about ordering is promised here:
 *
 *  - two writes (WRITE, UNMAP, ZERO, WRITE_SAME, COMPARE_AND_WRITE, OR_WRITE, COPY's destination)
 * that overlap - or share a write unit of the store - never run side by side;
 *  - COMPARE_AND_WRITE, OR_WRITE and writes with LUN_IO_ATOMIC are indivisible to reads too;
 *  - no read sees a part of a logical block from before and a part from after a write: where the
 *    store cannot promise it (block_info.tears), reads wait for writes that overlap them;
 *  - waiters are served first come, first served among those that overlap, so nobody starves;
 *  - an op is acknowledged (done) only when its effect is visible to every later op.
 *
 * Ops work in bytes; fronts that speak blocks multiply. An unaligned range is carried out by the
 * store.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"
#include "base/lock.h"
#include "base/metric.h"
#include "base/reason.h"
#include "block/block.h"
#include "event/iobuf.h"
#include "event/reactor.h"
#include "lun/fills.h"
#include "lun/range_lock.h"
#include "mem/cache/cache.h"

#define LUN_NAME_MAX 63 /* [A-Za-z0-9][A-Za-z0-9._-]* */

enum lun_op {
	LUN_READ,
	LUN_WRITE,
	LUN_FLUSH,
	LUN_UNMAP,	       /* deallocate; reads as zeros afterwards */
	LUN_ZERO,	       /* reads as zeros; LUN_IO_MAY_UNMAP, LUN_IO_FAST */
	LUN_WRITE_SAME,	       /* the pattern in iov (pattern_len bytes) repeated over len */
	LUN_VERIFY,	       /* iov holds len bytes to compare; niov 0: only read (media check) */
	LUN_COMPARE_AND_WRITE, /* iov holds 2*len bytes: compare, then write */
	LUN_OR_WRITE,	       /* iov holds len bytes, ORed into the medium */
	LUN_COPY,	       /* from src_off of @src */
	LUN_STATUS,	       /* extents */
	LUN_PREFETCH,
	LUN_OP_COUNT
};

enum lun_io_flags {
	LUN_IO_FUA = 1 << 0, /* READ: from the store, not from the cache */
	LUN_IO_MAY_UNMAP = 1 << 1,
	LUN_IO_FAST = 1 << 2,	    /* ZERO: -EOPNOTSUPP rather than slow */
	LUN_IO_ATOMIC = 1 << 3,	    /* WRITE: all or nothing to every reader */
	LUN_IO_AUTHORIZED = 1 << 4, /* the caller has checked reservations itself (SCSI) */
	LUN_IO_DPO = 1 << 5,	    /* do not keep in the cache */
	LUN_IO_OWNER = 1 << 6,	    /* of whom LUN_FENCE_OWNER lets through */
	LUN_IO_UNSTABLE = 1 << 7,   /* others may write iov's memory: nothing is cached from it */
};

/** Counters of one LUN, or of one session on it. The op classes of reports. */
enum lun_class {
	LUN_CLASS_READ,
	LUN_CLASS_WRITE,
	LUN_CLASS_UNMAP,
	LUN_CLASS_FLUSH,
	LUN_CLASS_OTHER,
	LUN_CLASS_COUNT
};
/** "read", "write", "unmap", "flush", "other". */
const char *lun_class_name(enum lun_class class);

struct lun_counters {
	metric_counter bytes[LUN_CLASS_COUNT];
	metric_counter errors[LUN_CLASS_COUNT];
	struct metric_hist latency[LUN_CLASS_COUNT]; /* of every op: their number is its count */
	metric_counter inflight;
	metric_counter conflicts; /* ops that had to wait for an overlapping one */
};

/** How many ops of a class have ended. */
static inline uint64_t lun_counters_ops(const struct lun_counters *c, enum lun_class class)
{
	return metric_hist_count(&c->latency[class]);
}

/* Plain reads and writes by length: up to 4 KiB, 32 KiB, 256 KiB, more. */
#define LUN_SIZES 4
/* And by what both ends are multiples of: less than 4 KiB, 4 KiB, 64 KiB. */
#define LUN_ALIGNMENTS 3

/**
 * More about a LUN's ops. Their time is what they waited for (ranges, memory, another's read), what
 * the store took, and the rest: hits, and the work on data. A hit adds nothing here but its shape.
 */
struct lun_detail {
	metric_counter shapes[LUN_WRITE + 1][LUN_SIZES][LUN_ALIGNMENTS];
	metric_counter kinds[LUN_OP_COUNT]; /* of what is no plain read or write */
	metric_counter miscompares;	    /* VERIFY, COMPARE_AND_WRITE */
	metric_counter queue_ns[LUN_CLASS_COUNT], store_ns[LUN_CLASS_COUNT];
};

/**
 * What fronts show a LUN as, and how it is used through each: an iSCSI target's LUN, NBD. Made by
 * the first session, counts on when sessions end, and lives as long as the LUN.
 */
struct lun_export {
	struct list_node link; /* the LUN's own */
	metric_counter sessions;
	metric_counter ops, errors, read_bytes, written_bytes;
	char name[]; /* begins with the protocol: "iscsi/IQN/0", "nbd" */
};

struct lun;

struct lun_io {
	/* --- set by the caller, constant until done --- */
	enum lun_op op;
	unsigned flags;
	uint64_t off, len; /* bytes */
	const struct iovec
		*iov; /* see the op; the caller's memory, untouched by others until done */
	int niov;
	int reg_index;	      /* registered buffer of iov[0] when niov == 1; else -1 */
	uint32_t pattern_len; /* WRITE_SAME: bytes, divides len */
	struct lun *src;      /* COPY */
	uint64_t src_off;
	struct block_extent *extents; /* STATUS */
	unsigned n_extents;	      /* in: room, out: filled */
	struct reactor *reactor; /* lun_submit: calls and completes on this thread; lun_run: NULL */
	struct lun_counters *session; /* also counted here; may be NULL */
	struct lun_export *export;    /* and here; likewise */
	/*
	 * COMPARE_AND_WRITE; may be NULL: all has compared equal, and the write comes next. The
	 * range is held until it is done. It must not block.
	 */
	void (*matched)(struct lun_io *io);
	/*
	 * lun_submit; may be NULL: the result is known, and no other op has got the range yet. What
	 * is told here is told before anybody can overwrite the op. It must not block; done
	 * follows.
	 */
	void (*settled)(struct lun_io *io);
	void (*done)(struct lun_io *io);

	/* --- result --- */
	int err; /* 0 or -errno: the store's, -EILSEQ: VERIFY/CAW miscompare, -EROFS: the LUN is
		    read-only, -EPERM: fenced, -ESHUTDOWN: fenced though authorized, -EINVAL: a
		    range past the end or a malformed op */
	uint64_t miscompare_off; /* byte offset in the range, with -EILSEQ */

	/* --- the LUN's --- */
	struct lun *lun;
	uint64_t start_ns;
	struct range_lock_req lock, src_lock;
	struct block_io bio;
	uint8_t *bounce;	  /* NULL: none */
	struct iobuf *bounce_buf; /* where it comes from; NULL: malloc */
	uint32_t bounce_cap;
	uint8_t step;	 /* of a compound op */
	uint8_t pending; /* whether the store's completion came inside block_submit() */
	int bio_err;
	uint64_t queue_ns, store_ns; /* as struct lun_detail has them, so far */
	uint64_t mark_ns;	     /* when the block I/O, or the wait, began */
	bool store_inline;	     /* the store has answered at once: the clock did not move */
	uint64_t progress, chunk;
	struct iovec iov1;
	struct iobuf_waiter mem_wait;
	/* of the cache: */
	uint64_t served; /* bytes behind the chunk that came from the cache */
	uint64_t left;	 /* fills_left() before the page was missed */
	struct fill fill;
	struct fill_waiter fill_waiter;
	union {
		struct cache_fill cache_fill;	/* READ, PREFETCH; if @filling */
		struct cache_write cache_write; /* what changes the medium; if @writing */
	};
	uint8_t store_reads, waits;
	bool missed;  /* the first page was looked for in vain */
	bool noted;   /* readahead knows of the op */
	bool entered; /* @fill is in the LUN's table */
	bool filling, writing, looked_again;
};

/** Starts @io; done() is called exactly once on io->reactor's thread, maybe before this returns. */
void lun_submit(struct lun *lun, struct lun_io *io);
/** Does @io on the calling thread (which may block); returns and sets io->err. No reactor needed.
 */
int lun_run(struct lun *lun, struct lun_io *io);

/** "read", "compare_and_write", ... */
const char *lun_op_name(enum lun_op op);

/**
 * Has @fn (NULL: nobody) called whenever an op ends with an error of its store - not when it was
 * refused, nor when data did not compare - before done(), on the thread where it ended, with its
 * ranges held: @fn must not block on LUN I/O. For the log of the process; set before there are
 * LUNs.
 */
typedef void (*lun_error_fn)(const struct lun *lun, const struct lun_io *io);
void lun_set_error_fn(lun_error_fn fn);

/* --- identity --- */

struct lun_identity {
	uint8_t uuid[16]; /* random (version 4), drawn once, kept in the state directory */
	uint8_t naa[16]; /* NAA 6h, locally derived from the UUID (SPC-4 7.8.6.6: type 3h would be 8
			    bytes) */
	uint8_t naa_len; /* 8 (NAA 3h, locally assigned) or 16 */
	uint8_t eui64[8];    /* EUI-64 form of the same */
	char serial[37];     /* the UUID in text form; unit serial number */
	uint32_t generation; /* of the state record */
};

/** Fills in @uuid and the names that follow from it. */
void lun_identity_derive(const uint8_t uuid[16], struct lun_identity *ret_id);
/** Forgets the identity kept for @name: a LUN made under that name later is another one. Blocks. */
int lun_identity_forget(int state_dirfd, const char *name);

/* --- life --- */

struct lun_options {
	const char *name;
	const char *path; /* backing file or device */
	enum block_mode mode;
	bool read_only, removable;
	bool create;
	uint64_t size;	     /* with create; bytes */
	uint32_t block_size; /* 512 (default when 0) or 4096 */
	int state_dirfd;  /* where identities are kept; -1: derive the UUID from the path and inode
			   */
	const char *uuid; /* text; NULL: from state or drawn */
	const char *description; /* NBD export description etc.; may be NULL */
	/* Of reads; outlives the LUN. NULL: none; nor where its index has no place for the LUN. */
	struct cache *cache;
	bool cache_direct_only; /* not where the store is buffered: the page cache serves it */
	uint32_t cache_weight;	/* as cache_object_spec has them */
	uint64_t cache_floor;
};

/** Opens the store and makes the LUN, with one reference. Blocks. Errors as block_open_file(). */
int lun_open(const struct lun_options *opt, struct lun **ret_lun, struct reason *why);
/** Makes a LUN on a store that is open already (taken over on success). For other kinds of store
 * and tests. */
int lun_create(const struct lun_options *opt, struct block_store *store, struct lun **ret_lun,
	       struct reason *why);
struct lun *lun_ref(struct lun *lun);
/** Drops a reference; the last one closes the store, which blocks: on a reactor's thread a worker
 * is left to do it (so worker_drain() before what the LUN uses goes). */
void lun_unref(struct lun *lun);

const char *lun_name(const struct lun *lun);
const char *lun_path(const struct lun *lun);
const char *lun_description(const struct lun *lun);
const struct lun_identity *lun_identity(const struct lun *lun);
uint64_t lun_size(const struct lun *lun); /* bytes, a multiple of the block size */
uint32_t lun_block_size(const struct lun *lun);
bool lun_read_only(const struct lun *lun);
bool lun_removable(const struct lun *lun);
void lun_get_block_info(const struct lun *lun, struct block_info *ret_info);
struct lun_counters *lun_counters(struct lun *lun);
/**
 * A session begins to use @lun through export @name, and ends. NULL, which lun_leave_export() and
 * lun_io.export take: there is no memory to count in. Any thread; valid while the LUN is there.
 */
struct lun_export *lun_enter_export(struct lun *lun, const char *name);
void lun_leave_export(struct lun_export *e);
/** Calls @fn for each export that was ever used, in that order, with a lock of the LUN held. */
void lun_list_exports(struct lun *lun, void (*fn)(void *ctx, const struct lun_export *e),
		      void *ctx);
const struct lun_detail *lun_detail(const struct lun *lun);

/** Where the time of a class of ops went, all told; cache: what is neither of the others. */
struct lun_stages {
	uint64_t queue_ns, cache_ns, disk_ns;
};
void lun_get_stages(struct lun *lun, enum lun_class class, struct lun_stages *ret_stages);
/** The upper bound of the i-th of LUN_SIZES, bytes; UINT64_MAX: none. */
uint64_t lun_request_size(unsigned i);
/** What both ends are multiples of in the i-th of LUN_ALIGNMENTS; 512 stands for any. */
uint32_t lun_request_alignment(unsigned i);
int lun_state_dirfd(const struct lun *lun);

/**
 * Has the LUN's reads cached, where lun_options could not say so yet (a cache does not survive a
 * fork). Before its first op. -ENOMEM; -ENOSPC: the cache has too many objects.
 */
int lun_set_cache(struct lun *lun, struct cache *cache, uint32_t weight, uint64_t floor,
		  struct reason *why);

struct lun_cache_stats {
	struct cache_stats cache;
	uint64_t readahead_pages; /* read before they were asked for */
	uint64_t readahead_used;  /* of them: in windows whose reader came */
	uint64_t coalesced;	  /* reads that waited for another's read of the same pages */
};
/** The LUN's object in the cache; NULL: its reads are not cached. */
struct cache_object *lun_cache_object(struct lun *lun);
/** Why reads of the LUN are not cached, in words; NULL: they are. */
const char *lun_uncached_reason(const struct lun *lun);
/** False: reads of the LUN are not cached. Any thread. */
bool lun_cache_stats(struct lun *lun, struct lun_cache_stats *ret_stats);

/**
 * Grows the LUN while it is in use; watchers are told. Blocks. -EINVAL when @size is smaller or no
 * multiple of the block size; -EROFS; the store's errors.
 */
int lun_resize(struct lun *lun, uint64_t size, struct reason *why);

/* --- who wants to know --- */

enum lun_event { LUN_EVENT_RESIZED, LUN_EVENT_GOING_AWAY };

struct lun_watcher {
	/* On the thread that made the change, with no lock held. */
	void (*fn)(struct lun_watcher *w, struct lun *lun, enum lun_event ev);
	struct list_node link;
};

void lun_watch(struct lun *lun, struct lun_watcher *w);
/** After return fn is not running and will not run again. */
void lun_unwatch(struct lun *lun, struct lun_watcher *w);

/**
 * What fronts without SCSI reservations (NBD, FUSE) may do: set by the SCSI side as reservations
 * come and go. I/O without LUN_IO_AUTHORIZED that is fenced fails with -EPERM.
 *
 * LUN_FENCE_OWNER keeps out authorized I/O too, which fails with -ESHUTDOWN; only LUN_IO_OWNER
 * passes. It is looked at again when an op has its range, so that the owner, who takes ranges like
 * everybody, is sure that what it has done to one is not followed by an op that came before.
 */
enum lun_fence { LUN_FENCE_NONE, LUN_FENCE_WRITES, LUN_FENCE_ALL, LUN_FENCE_OWNER };
void lun_set_fence(struct lun *lun, enum lun_fence fence);
enum lun_fence lun_get_fence(const struct lun *lun);

/* --- tables of LUNs by name --- */

struct lun_table;
int lun_table_create(struct lun_table **ret_table);
void lun_table_destroy(struct lun_table *t); /* drops its references */
/** Takes a reference of its own. -EEXIST. */
int lun_table_add(struct lun_table *t, struct lun *lun);
/** A new reference, or NULL. O(1). */
struct lun *lun_table_find(struct lun_table *t, const char *name);
/** Removes it from the table, tells watchers LUN_EVENT_GOING_AWAY, drops the table's reference.
 * -ENOENT. */
int lun_table_remove(struct lun_table *t, const char *name);
size_t lun_table_count(struct lun_table *t);
/** malloc'ed array of new references, sorted by name; free with lun_table_free_list(). */
int lun_table_list(struct lun_table *t, struct lun ***ret_luns, size_t *ret_n);
void lun_table_free_list(struct lun **luns, size_t n);
