/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file and device store: its life after open, and its tables of operations. */
#include "block/file_private.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static void file_close(struct block_store *s)
{
	struct file_store *f = file_store_of(s);

	close(f->fd); /* and with it goes the lock */
	free(f->path);
	free(f);
}

static void file_get_info(struct block_store *s, struct block_info *ret_info)
{
	struct file_store *f = file_store_of(s);
	struct stat st;

	*ret_info = (struct block_info){
		.type = s->ops->type,
		.mode = f->direct ? "direct" : "buffered",
		.why = f->why,
		.size = atomic_load(&s->size),
		.read_align = f->off_align,
		.write_unit = f->off_align,
		.mem_align = f->mem_align,
		.discard_unit = atomic_load(&f->no_punch) ? 0 : f->discard_unit,
		.allocated = UINT64_MAX,
		.tears = !f->direct,
		.read_only = s->read_only,
		.can_zero_fast = !s->read_only && (!atomic_load(&f->no_punch) ||
						   (!f->device && !atomic_load(&f->no_zero_range))),
		.can_copy = !f->device && !atomic_load(&f->no_copy),
		.can_grow = !s->read_only,
		.rotational = f->rotational,
	};
	if (!f->device && !fstat(f->fd, &st))
		ret_info->allocated = (uint64_t)st.st_blocks * 512;
}

static int file_grow(struct block_store *s, uint64_t size, struct reason *why)
{
	struct file_store *f = file_store_of(s);

	if (size % f->off_align)
		return reason_set(why, EINVAL,
				  "%s: direct I/O needs a size that is a multiple of %u bytes",
				  f->path, f->off_align);
	if (ftruncate(f->fd, (off_t)size) < 0)
		return reason_set(why, errno, "%s: cannot grow to %llu bytes: %s", f->path,
				  (unsigned long long)size, strerror(errno));
	/* The new size must survive a crash as the writes into it do. */
	if (fsync(f->fd) < 0)
		return reason_set(why, errno, "%s: fsync: %s", f->path, strerror(errno));
	return 0;
}

static int file_revalidate(struct block_store *s)
{
	struct file_store *f = file_store_of(s);
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size > atomic_load(&s->size) && st.st_size % f->off_align == 0)
		atomic_store_explicit(&s->size, (uint64_t)st.st_size, memory_order_release);
	return 0;
}

static int device_revalidate(struct block_store *s)
{
	uint64_t size;

	if (ioctl(file_store_of(s)->fd, BLKGETSIZE64, &size) < 0)
		return -errno;
	if (size > atomic_load(&s->size))
		atomic_store_explicit(&s->size, size, memory_order_release);
	return 0;
}

static int device_grow(struct block_store *s, uint64_t size, struct reason *why)
{
	struct file_store *f = file_store_of(s);
	uint64_t now;

	if (ioctl(f->fd, BLKGETSIZE64, &now) < 0)
		return reason_set(why, errno, "%s: %s", f->path, strerror(errno));
	if (now < size)
		return reason_set(why, ENOSPC, "%s: the device has %llu bytes only", f->path,
				  (unsigned long long)now);
	return 0;
}

const struct block_ops file_ops = {
	.type = "file",
	.close = file_close,
	.submit = file_io_submit,
	.run = file_sync_run,
	.get_info = file_get_info,
	.grow = file_grow,
	.revalidate = file_revalidate,
};

const struct block_ops device_ops = {
	.type = "device",
	.close = file_close,
	.submit = file_io_submit,
	.run = file_sync_run,
	.get_info = file_get_info,
	.grow = device_grow,
	.revalidate = device_revalidate,
};
