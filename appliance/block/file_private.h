/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file and device store, as its own files see it.
 *
 *   file_open.c   opening: kind of file, lock, probe of O_DIRECT and of hole punching
 *   file_lock.c   one writer a file: the OFD lock, and who holds it
 *   file_plan.c   an I/O as a sequence of primitives (one system call each): what is next, what
 *                 did the last one's result mean. Knows nothing of how they are carried out
 *   file_align.c  what direct I/O can take as it is, and windows of a bounce buffer for the rest
 *   file_range.c  discard and zero by fallocate, extents, copy inside the file system
 *   file_io.c     carries primitives out by io_uring
 *   file_sync.c   carries them out by plain system calls
 */
#pragma once

#include "block/block.h"

struct file_store {
	struct block_store base;
	/* --- constant after open --- */
	int fd;
	bool direct, device, rotational;
	uint32_t off_align; /* offsets and lengths of direct I/O, bytes; 1 when buffered */
	uint32_t mem_align; /* its memory; 1 when buffered */
	uint32_t fall_unit; /* fallocate's ranges: 1 for files, the logical block for devices */
	uint32_t discard_unit;
	char *path;
	char why[160]; /* why this mode */
	/* --- learnt on the way; relaxed --- */
	_Atomic bool no_punch, no_zero_range, no_copy;
	_Atomic unsigned read_misses;  /* in a row, of reads that were tried inline */
	_Atomic int write_way;	       /* enum file_write_way */
	_Atomic uint64_t inline_after; /* no inline write before this time, ns */
	_Atomic uint64_t
		inline_backoff; /* how long the next one that blocks keeps us from it, ns */
};

/** How small buffered writes go to the kernel (file_io.c). */
enum file_write_way {
	FILE_WRITE_UNKNOWN,
	FILE_WRITE_RING,   /* by io_uring, which does not need a kernel thread for them */
	FILE_WRITE_INLINE, /* by a plain call, as long as it does not block */
};

enum file_prim_kind {
	FILE_PRIM_NONE, /* nothing left: the I/O is done */
	FILE_PRIM_READ,
	FILE_PRIM_WRITE,
	FILE_PRIM_FSYNC, /* fdatasync */
	FILE_PRIM_FALLOCATE,
	FILE_PRIM_WILLNEED,
	FILE_PRIM_BLOCKING, /* file_blocking(), on a thread that may block */
};

/** One system call. */
struct file_prim {
	enum file_prim_kind kind;
	const struct iovec *iov;
	int niov;
	int reg_index;
	int rwf;  /* RWF_* */
	int mode; /* FALLOC_FL_* */
	uint64_t off, len;
};

/** Steps of a plan: which primitive is under way (block_io.step). */
enum file_step {
	FILE_STEP_START,
	FILE_STEP_RUN,	       /* data moves between the file and the caller's memory */
	FILE_STEP_BOUNCE_READ, /* a window is read into the bounce buffer */
	FILE_STEP_HEAD,	       /* read-modify-write: its first unit is read ... */
	FILE_STEP_TAIL,	       /* ... its last one ... */
	FILE_STEP_BOUNCE_WRITE,
	FILE_STEP_FALLOCATE,
	FILE_STEP_BLOCKING,
	FILE_STEP_WILLNEED,
	FILE_STEP_SYNC,
};

static inline struct file_store *file_store_of(struct block_store *s)
{
	return container_of(s, struct file_store, base);
}

/* file_plan.c */
void file_plan_start(struct block_io *io);
/** The next primitive of @io. 0 or -errno (then the I/O has failed). */
int file_plan_next(struct file_store *f, struct block_io *io, struct file_prim *ret_prim);
/** Takes the result of the last primitive (>= 0 or -errno). 0: go on; -errno: failed. */
int file_plan_result(struct file_store *f, struct block_io *io, int res);
/** Gives back what the plan holds. */
void file_plan_end(struct block_io *io);

/* file_align.c */
/** The longest run from io->progress that one call takes as it is, in bytes; 0: bounce. */
uint64_t file_align_run(const struct file_store *f, struct block_io *io,
			struct file_prim *ret_prim);
/** First primitive of a window of bounced I/O that does not reach past @end. */
int file_align_window(struct file_store *f, struct block_io *io, uint64_t end,
		      struct file_prim *ret_prim);
/** The primitive that follows RMW step @io->step. */
void file_align_next(struct file_store *f, struct block_io *io, struct file_prim *ret_prim);
int file_align_result(struct file_store *f, struct block_io *io, int res);
void file_align_free(struct block_io *io);

/* file_range.c */
int file_range_next(struct file_store *f, struct block_io *io, struct file_prim *ret_prim);
int file_range_result(struct file_store *f, struct block_io *io, int res);
/** STATUS and COPY: 0 or -errno. Blocks. */
int file_blocking(struct file_store *f, struct block_io *io);

/* file_io.c, file_sync.c */
void file_io_submit(struct block_store *s, struct block_io *io);
int file_sync_run(struct block_store *s, struct block_io *io);

/* file_lock.c */
int file_lock(int fd, const char *path, bool read_only, struct reason *why);

/* file.c */
extern const struct block_ops file_ops, device_ops;
