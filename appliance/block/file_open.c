/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Opening a backing file or device: what it is, whether it is ours, how to do I/O on it.
 *
 * The mode is found by looking, not by guessing: statx(2) says what alignment direct I/O needs
 * (STATX_DIOALIGN, Linux 6.1; on older kernels, and file systems that do not say, 512 and 4096 are
 * tried), and one direct read of the first unit must then work. tmpfs takes O_DIRECT as a courtesy;
 * there it gains nothing, and buffered is chosen.
 *
 * A file that did not exist and whose opening fails later is removed again.
 */
#include "block/file_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "base/cleanup.h"

static void set_why(struct file_store *f, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void set_why(struct file_store *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f->why, sizeof(f->why), fmt, ap);
	va_end(ap);
}

static int check_options(const struct block_open_options *opt, struct reason *why)
{
	if (!opt->path || !*opt->path)
		return reason_set(why, EINVAL, "no path");
	if (opt->create && opt->read_only)
		return reason_set(why, EINVAL, "%s: cannot create a read-only file", opt->path);
	if (opt->size > BLOCK_SIZE_MAX)
		return reason_set(why, EFBIG, "%s: larger than 64 TiB", opt->path);
	return 0;
}

/* Opens or creates; *@ret_created tells which. Nothing is changed in a file that was there. */
static int open_fd(const struct block_open_options *opt, bool *ret_created, struct reason *why)
{
	int acc = opt->read_only ? O_RDONLY : O_RDWR;
	int fd = open(opt->path, acc | O_CLOEXEC | O_NONBLOCK);

	*ret_created = false;
	if (fd >= 0 || errno != ENOENT || !opt->create)
		return fd >= 0 ? fd : reason_set(why, errno, "%s: %s", opt->path, strerror(errno));
	if (!opt->size)
		return reason_set(why, EINVAL, "%s: not there, and no size to create it with",
				  opt->path);
	fd = open(opt->path, acc | O_CLOEXEC | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		return reason_set(why, errno, "%s: cannot create: %s", opt->path, strerror(errno));
	*ret_created = true;
	return fd;
}

static int fsync_parent(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);
	char *slash = copy ? strrchr(copy, '/') : NULL;
	int ret = 0;

	if (!copy)
		return -ENOMEM;
	if (slash)
		slash[slash == copy] = '\0';
	_cleanup_close_ int fd = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		ret = -errno;
	return ret;
}

static int make_sparse(int fd, const struct block_open_options *opt, struct reason *why)
{
	int err = 0;

	if (ftruncate(fd, (off_t)opt->size) < 0 || fsync(fd) < 0)
		err = -errno;
	if (!err)
		err = fsync_parent(opt->path);
	if (err)
		return reason_set(why, -err, "%s: cannot make a file of %llu bytes: %s", opt->path,
				  (unsigned long long)opt->size, strerror(-err));
	return 0;
}

/* Reads one number of a queue attribute in sysfs; -1 when it is not to be had. */
static long queue_attr(dev_t dev, const char *name)
{
	char path[128];
	long v = -1;

	for (int i = 0; i < 2 && v < 0; i++) { /* a partition's queue is its disk's */
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(dev),
			 minor(dev), i ? "../" : "", name);
		_cleanup_fclose_ FILE *fp = fopen(path, "re");

		if (fp && fscanf(fp, "%ld", &v) != 1)
			v = -1;
	}
	return v;
}

/* A mounted or otherwise claimed device refuses O_EXCL. The new descriptor replaces the old one. */
static int claim_device(int *fd, const struct block_open_options *opt, struct reason *why)
{
	int acc = opt->read_only ? O_RDONLY : O_RDWR;
	int excl = open(opt->path, acc | O_CLOEXEC | O_EXCL);

	if (excl < 0 && errno == EBUSY)
		return reason_set(why, EBUSY, "%s: in use (mounted, or claimed by another driver)",
				  opt->path);
	if (excl < 0)
		return reason_set(why, errno, "%s: %s", opt->path, strerror(errno));
	close(*fd);
	*fd = excl;
	return 0;
}

/* Kind, size and what follows from them. */
static int examine(struct file_store *f, const struct block_open_options *opt, struct reason *why)
{
	struct stat st;
	uint64_t size;
	int err, lbs;

	if (fstat(f->fd, &st) < 0)
		return reason_set(why, errno, "%s: %s", opt->path, strerror(errno));
	f->fall_unit = 1;
	f->discard_unit = (uint32_t)st.st_blksize;
	if (S_ISREG(st.st_mode)) {
		f->base.ops = &file_ops;
		size = (uint64_t)st.st_size;
		f->rotational = queue_attr(st.st_dev, "rotational") == 1;
	} else if (S_ISBLK(st.st_mode)) {
		err = claim_device(&f->fd, opt, why);
		if (err)
			return err;
		if (ioctl(f->fd, BLKGETSIZE64, &size) < 0 || ioctl(f->fd, BLKSSZGET, &lbs) < 0)
			return reason_set(why, errno, "%s: %s", opt->path, strerror(errno));
		f->base.ops = &device_ops;
		f->device = true;
		f->fall_unit = (uint32_t)lbs;
		f->discard_unit = (uint32_t)lbs;
		f->no_punch = queue_attr(st.st_rdev, "discard_granularity") == 0;
		f->rotational = queue_attr(st.st_rdev, "rotational") == 1;
	} else {
		return reason_set(why, EINVAL, "%s: neither a regular file nor a block device",
				  opt->path);
	}
	if (size > BLOCK_SIZE_MAX)
		return reason_set(why, EFBIG, "%s: larger than 64 TiB", opt->path);
	if (opt->size && opt->size != size)
		return reason_set(why, EINVAL, "%s: has %llu bytes, not %llu", opt->path,
				  (unsigned long long)size, (unsigned long long)opt->size);
	atomic_store(&f->base.size, size);
	return 0;
}

static int set_direct(int fd, bool on)
{
	int fl = fcntl(fd, F_GETFL);

	if (fl < 0)
		return -errno;
	fl &= ~(O_DIRECT | O_NONBLOCK);
	return fcntl(fd, F_SETFL, on ? fl | O_DIRECT : fl) < 0 ? -errno : 0;
}

static bool trial_read(int fd, uint32_t off_align, uint32_t mem_align)
{
	_cleanup_free_ void *p = NULL;
	size_t align = mem_align < sizeof(void *) ? sizeof(void *) : mem_align;

	return !posix_memalign(&p, align, off_align) && pread(fd, p, off_align, 0) >= 0;
}

static bool is_power_of_two(uint32_t v)
{
	return v && !(v & (v - 1));
}

/* Finds alignments that a direct read accepts. */
static bool probe_direct(struct file_store *f)
{
	struct statx sx = {0};
	struct statfs fs;
	int err;

	if (!fstatfs(f->fd, &fs) && !f->device && fs.f_type == TMPFS_MAGIC) {
		set_why(f, "tmpfs keeps files in memory");
		return false;
	}
	err = set_direct(f->fd, true);
	if (err) {
		set_why(f, "O_DIRECT is refused: %s", strerror(-err));
		return false;
	}
	if (!statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) &&
	    (sx.stx_mask & STATX_DIOALIGN)) {
		f->off_align = sx.stx_dio_offset_align;
		f->mem_align = sx.stx_dio_mem_align;
		if (is_power_of_two(f->off_align) && is_power_of_two(f->mem_align) &&
		    trial_read(f->fd, f->off_align, f->mem_align)) {
			set_why(f,
				"statx gives an alignment of %u bytes (memory %u), and a direct "
				"read worked",
				f->off_align, f->mem_align);
			return true;
		}
		set_why(f, "the file system does no direct I/O on this file");
		return false;
	}
	for (uint32_t align = 512; align <= 4096; align *= 8) {
		f->off_align = f->mem_align = align;
		if (trial_read(f->fd, align, align)) {
			set_why(f, "a direct read of %u bytes worked", align);
			return true;
		}
	}
	set_why(f, "direct reads of 512 and 4096 bytes failed");
	return false;
}

static int choose_mode(struct file_store *f, const struct block_open_options *opt,
		       struct reason *why)
{
	uint64_t size = atomic_load(&f->base.size);

	if (opt->mode == BLOCK_MODE_BUFFERED) {
		set_why(f, "asked for");
	} else {
		f->direct = probe_direct(f);
		if (f->direct && size % f->off_align) {
			set_why(f,
				"the size is no multiple of the alignment of direct I/O, %u bytes",
				f->off_align);
			f->direct = false;
		}
		if (!f->direct && opt->mode == BLOCK_MODE_DIRECT)
			return reason_set(why, EINVAL, "%s: no direct I/O: %s", opt->path, f->why);
	}
	if (!f->direct) {
		set_direct(f->fd, false);
		f->off_align = f->mem_align = 1;
	}
	return 0;
}

/* Asks by a range behind the end of the file, which changes nothing. */
static void probe_punch(struct file_store *f)
{
	off_t end = (off_t)((atomic_load(&f->base.size) + 4095) & ~4095ull);

	if (f->device || f->base.read_only)
		return;
	if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, 4096) < 0 &&
	    (errno == EOPNOTSUPP || errno == ENOSYS))
		f->no_punch = true;
}

static int set_up(struct file_store *f, const struct block_open_options *opt, bool created,
		  struct reason *why)
{
	int err = file_lock(f->fd, opt->path, opt->read_only, why);

	if (!err && created)
		err = make_sparse(f->fd, opt, why);
	if (!err)
		err = examine(f, opt, why);
	/* A device was opened anew, and the lock went with the old descriptor. */
	if (!err && f->device)
		err = file_lock(f->fd, opt->path, opt->read_only, why);
	if (!err)
		err = choose_mode(f, opt, why);
	if (!err)
		probe_punch(f);
	return err;
}

int block_open_file(const struct block_open_options *opt, struct block_store **ret_store,
		    struct reason *why)
{
	_cleanup_free_ struct file_store *f = NULL;
	bool created;
	int err = check_options(opt, why);

	if (err)
		return err;
	f = calloc(1, sizeof(*f));
	if (!f || !(f->path = strdup(opt->path)))
		return reason_set(why, ENOMEM, "%s: no memory", opt->path);
	f->base.read_only = opt->read_only;
	f->fd = open_fd(opt, &created, why);
	err = f->fd < 0 ? f->fd : set_up(f, opt, created, why);
	if (err) {
		/* Busy: between our making and locking it, it became somebody else's. */
		if (created && f->fd >= 0 && err != -EBUSY)
			unlink(opt->path);
		if (f->fd >= 0)
			close(f->fd);
		free(f->path);
		return err;
	}
	f->base.created = created;
	*ret_store = &take_ptr(f)->base;
	return 0;
}
