/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Backing stores behind one table of operations.
 *
 * A store is a linear range of bytes. Any offset and length is accepted: a store with coarser
 * alignment reads, changes and writes whole units itself, relying on its caller to keep two writes
 * that share a unit of @write_unit bytes apart (the LUN's range lock does).
 * Two ways in: block_submit() (asynchronous, completion on the caller's reactor) and block_run()
 * (synchronous, on any thread without a reactor, for the engine embedded in another server).
 *
 * Errors are the store's own: -EIO medium or transport, -ENOSPC, -EROFS, -ENODATA the backing
 * object has become shorter than the store (somebody truncated it), -EOPNOTSUPP, -EINVAL a range
 * past the end. A short read or write is continued, never passed on.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"
#include "base/reason.h"
#include "event/iobuf.h"
#include "event/reactor.h"
#include "event/worker.h"

#define BLOCK_SIZE_MAX (64ull << 40) /* 64 TiB */

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,   /* all writes acknowledged before are on stable storage */
	BLOCK_DISCARD, /* deallocate what can be, write zeros elsewhere: reads return zeros */
	BLOCK_ZERO,    /* reads return zeros afterwards; BLOCK_MAY_UNMAP: may deallocate */
	BLOCK_STATUS,  /* extents of [off, off+len) */
	BLOCK_COPY,    /* from src_off of @src; -EOPNOTSUPP: the caller reads and writes itself */
	BLOCK_PREFETCH,
};

enum block_flags {
	BLOCK_FUA = 1 << 0,	  /* on stable storage before completion */
	BLOCK_MAY_UNMAP = 1 << 1, /* ZERO may deallocate */
	BLOCK_FAST = 1 << 2,	  /* ZERO, DISCARD: -EOPNOTSUPP rather than writing zeros */
};

enum block_extent_flags {
	BLOCK_EXTENT_HOLE = 1 << 0, /* not allocated */
	BLOCK_EXTENT_ZERO = 1 << 1, /* reads as zeros */
};

struct block_extent {
	uint64_t len;
	uint32_t flags;
};

struct block_store;

struct block_io {
	/* --- set by the caller, constant until done --- */
	enum block_op op;
	unsigned flags;
	uint64_t off, len;
	const struct iovec *iov; /* READ, WRITE: at least iov_off + len bytes; not changed */
	int niov;
	int reg_index;	  /* registered buffer holding iov[0] when niov == 1, else -1 */
	uint64_t iov_off; /* bytes of iov to leave out before the first */
	struct block_store *src;
	uint64_t src_off;
	struct block_extent *extents; /* STATUS: room for n_extents */
	unsigned n_extents;	      /* in: room; out: filled (they may cover less than len) */
	struct reactor *reactor;      /* block_submit: whose thread calls and completes */
	void (*done)(struct block_io *io, int err); /* err: 0 or -errno */

	/* --- the store's --- */
	struct block_store *store;
	struct reactor_op rop;
	struct worker_job job;
	uint64_t progress; /* bytes done */
	uint64_t piece;	   /* bytes of the step under way */
	int step;
	int err;
	uint8_t *bounce;	  /* aligned memory, or NULL */
	struct iobuf *bounce_buf; /* where bounce comes from; NULL: malloc */
	uint32_t bounce_cap;
	struct iovec iov1;
	void *priv;
	struct list_node link;
};

struct block_info {
	const char *type;    /* "file", "device", ... */
	const char *mode;    /* how it does I/O: "direct", "buffered" */
	const char *why;     /* why that mode was chosen, in words */
	uint64_t size;	     /* bytes */
	uint32_t read_align; /* offset and length that need no bounce on reads, bytes (>= 1) */
	uint32_t write_unit; /* smallest unit a write may change without read-modify-write (>= 1) */
	uint32_t mem_align;  /* memory alignment that needs no bounce (>= 1) */
	uint32_t discard_unit; /* granularity of DISCARD, bytes; 0: not supported */
	uint64_t allocated;    /* bytes allocated now; UINT64_MAX: unknown */
	/* A read beside a write of the same bytes may see old and new ones within one logical
	 * block: a copy from the page cache is not atomic. Who promises whole blocks keeps the two
	 * apart. */
	bool tears;
	bool read_only, can_zero_fast, can_copy, can_grow, rotational;
};

/** One kind of store. Every op but open, close, submit, run and get_info may be NULL. */
struct block_ops {
	const char *type;
	void (*close)(struct block_store *s);
	/* Starts @io; must complete it exactly once, by io->done, maybe before it returns. */
	void (*submit)(struct block_store *s, struct block_io *io);
	/* Does @io on the calling thread; returns 0 or -errno. */
	int (*run)(struct block_store *s, struct block_io *io);
	void (*get_info)(struct block_store *s, struct block_info *ret_info);
	/* Grows to @size; blocks (call from a worker). */
	int (*grow)(struct block_store *s, uint64_t size, struct reason *why);
	/* Looks whether the backing object has changed in size (a device grown by someone else). */
	int (*revalidate)(struct block_store *s);
};

struct block_store {
	const struct block_ops *ops;
	_Atomic uint64_t size; /* bytes */
	bool read_only;
	bool created; /* this open made the backing object */
};

enum block_mode { BLOCK_MODE_AUTO, BLOCK_MODE_DIRECT, BLOCK_MODE_BUFFERED };

struct block_open_options {
	const char *path;
	enum block_mode mode; /* AUTO: direct where a probe says it works, else buffered */
	bool read_only;
	bool create;   /* make a sparse file of @size when it is not there */
	uint64_t size; /* create: bytes. An existing file: 0, or must equal its size */
};

/**
 * Opens a regular file or a block device. Blocks. Errors: -EBUSY with the path in @why when another
 * instance (or anybody with a conflicting OFD lock) uses it; -ENOENT; -EINVAL (size, kind of file).
 */
int block_open_file(const struct block_open_options *opt, struct block_store **ret_store,
		    struct reason *why);
void block_close(struct block_store *s);
/**
 * Whether opening the file @path would be refused because somebody has locked it; *@ret_pid: who, 0
 * when that cannot be seen. Opens and looks, nothing more; false too when that fails. Blocks.
 */
bool block_file_user(const char *path, bool read_only, pid_t *ret_pid);
/** Range, read-only and op checks, then ops->submit. Completion may come before it returns. */
void block_submit(struct block_store *s, struct block_io *io);
/** The same, synchronously. io->reactor and io->done are not used. */
int block_run(struct block_store *s, struct block_io *io);
void block_get_info(struct block_store *s, struct block_info *ret_info);
int block_grow(struct block_store *s, uint64_t size, struct reason *why);
/** Takes over a new size of the backing object when it has grown. Blocks. */
int block_revalidate(struct block_store *s);
