/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Backing files and devices. They are opened for reading and looked at: nothing is locked, made or
 * written. What the appliance that answers serves is its own, so that its lock, and its claim of a
 * device, are no findings.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "cli/doctor.h"
#include "control/size.h"

#define PAGE 4096u

struct look {
	struct doctor *d;
	const struct config_lun *lun;
	int fd;
	struct stat st;
	uint64_t size;
};

static unsigned block_size(const struct config_lun *l)
{
	return l->block_size ? l->block_size : 512;
}

/* --- there, and ours --- */

static void report_missing(struct doctor *d, const struct config_lun *l)
{
	bool creates = l->create ? *l->create : l->size != 0;
	_cleanup_free_ char *folder = strdup(l->path);
	char *slash = folder ? strrchr(folder, '/') : NULL;

	if (!creates) {
		doctor_report(d, DOCTOR_FAIL, l->name,
			      "correct the path, or give a size to make it", "%s is not there",
			      l->path);
		return;
	}
	if (!slash)
		return;
	slash[slash == folder] = '\0';
	if (access(folder, W_OK | X_OK))
		doctor_report(d, DOCTOR_FAIL, l->name,
			      "make the folder, and give it to the service",
			      "%s cannot be made: %s: %s", l->path, folder, strerror(errno));
}

/* Opens the file as far as looking needs it. False: it has been reported. */
static bool open_file(struct look *k)
{
	const struct config_lun *l = k->lun;
	int mode = l->read_only ? R_OK : R_OK | W_OK;

	if (stat(l->path, &k->st)) {
		if (errno == ENOENT)
			report_missing(k->d, l);
		else
			doctor_report(k->d, DOCTOR_FAIL, l->name, "correct the path", "%s: %s",
				      l->path, strerror(errno));
		return false;
	}
	if (!S_ISREG(k->st.st_mode) && !S_ISBLK(k->st.st_mode)) {
		doctor_report(k->d, DOCTOR_FAIL, l->name, "name a file or a block device",
			      "%s is neither a regular file nor a block device", l->path);
		return false;
	}
	if (access(l->path, mode)) {
		doctor_report(k->d, DOCTOR_FAIL, l->name,
			      "chown it to the user of the service, or declare it read-only",
			      "%s: %s", l->path, strerror(errno));
		return false;
	}
	k->fd = open(l->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (k->fd < 0)
		doctor_report(k->d, DOCTOR_FAIL, l->name, "look into the kernel log for the device",
			      "%s cannot be opened: %s", l->path, strerror(errno));
	return k->fd >= 0;
}

static void check_user(struct look *k)
{
	const struct config_lun *l = k->lun;
	char cure[120] = "stop the other one, or serve another file";
	pid_t pid;

	if (doctor_serves(k->d, l->path) || !block_file_user(l->path, l->read_only, &pid))
		return;
	if (pid)
		snprintf(cure, sizeof(cure), "stop process %d, or serve another file", (int)pid);
	doctor_report(k->d, DOCTOR_FAIL, l->name, cure, "%s is in use by another service", l->path);
}

/* A file that a loop device shows has two writers as soon as that is mounted. */
static void check_loop(struct look *k)
{
	char sys[300], path[400], backing[PATH_MAX], *real;
	struct dirent *e;
	DIR *dir;

	snprintf(sys, sizeof(sys), "%.200s/sys/block", k->d->root);
	real = realpath(k->lun->path, NULL);
	dir = opendir(sys);
	while (real && dir && (e = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/block/%.64s/loop/backing_file", e->d_name);
		if (strncmp(e->d_name, "loop", 4) ||
		    !doctor_read_line(k->d, path, backing, sizeof(backing)) ||
		    strcmp(backing, real))
			continue;
		snprintf(path, sizeof(path), "losetup -d /dev/%.64s", e->d_name);
		doctor_report(k->d, DOCTOR_FAIL, k->lun->name, path,
			      "%s is the loop device %s as well", real, e->d_name);
	}
	if (dir)
		closedir(dir);
	free(real);
}

/* A device that is mounted, or part of LVM, md or multipath, refuses O_EXCL. */
static void check_claim(struct look *k)
{
	_cleanup_close_ int fd = -1;

	if (doctor_serves(k->d, k->lun->path))
		return;
	fd = open(k->lun->path, O_RDONLY | O_CLOEXEC | O_EXCL);
	if (fd < 0 && errno == EBUSY)
		doctor_report(k->d, DOCTOR_FAIL, k->lun->name,
			      "unmount it, or take it out of LVM, md or multipath",
			      "%s is mounted, or claimed by another driver", k->lun->path);
}

/* --- alignment --- */

static void check_size(struct look *k)
{
	unsigned unit = block_size(k->lun);
	uint64_t tail = k->size % unit;

	if (tail)
		doctor_report(k->d, DOCTOR_WARN, k->lun->name,
			      "truncate -s +N the file to a multiple of 4096",
			      "the last %llu bytes are not served: the size is no multiple of the "
			      "block size, %u",
			      (unsigned long long)tail, unit);
	else if (k->size % PAGE)
		doctor_report(k->d, DOCTOR_NOTE, k->lun->name, "make its size a multiple of 4096",
			      "the last %llu bytes are never cached: they are less than a page",
			      (unsigned long long)(k->size % PAGE));
}

static void check_partition(struct look *k)
{
	char path[120], line[40];
	unsigned long long start;
	unsigned maj = major(k->st.st_rdev), min = minor(k->st.st_rdev);

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/start", maj, min);
	if (doctor_read_line(k->d, path, line, sizeof(line)) && sscanf(line, "%llu", &start) == 1 &&
	    start % (PAGE / 512))
		doctor_report(k->d, DOCTOR_WARN, k->lun->name,
			      "make the partition anew, from a multiple of 2048 sectors on",
			      "the partition begins at sector %llu: a page of ours is never one of "
			      "the disk's",
			      start);
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/alignment_offset", maj, min);
	if (doctor_read_line(k->d, path, line, sizeof(line)) && strcmp(line, "0"))
		doctor_report(k->d, DOCTOR_WARN, k->lun->name,
			      "use the whole disk, or an aligned partition",
			      "the device is shifted by %s bytes against its physical blocks",
			      line);
}

/* What smaller writes cost: @align bytes are read, changed and written. */
static void report_coarse(struct look *k, unsigned align, const char *whose)
{
	if (align > block_size(k->lun))
		doctor_report(k->d, DOCTOR_WARN, k->lun->name,
			      "for a new LUN block_size: 4096, if initiators can take it; in one "
			      "with data partitions would not be found any more",
			      "%s writes blocks of %u bytes, the LUN has blocks of %u: smaller "
			      "writes read first",
			      whose, align, block_size(k->lun));
}

/* --- direct I/O --- */

static bool is_tmpfs(const struct look *k)
{
	struct statfs fs;

	return S_ISREG(k->st.st_mode) && !fstatfs(k->fd, &fs) && fs.f_type == TMPFS_MAGIC;
}

/* Whether direct I/O is there; *@ret_align: in what units, 0: it does not say. */
static bool find_direct(const struct look *k, unsigned *ret_align)
{
	struct statx sx = {0};
	_cleanup_close_ int fd = open(k->lun->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
	bool told = !statx(k->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) &&
		    (sx.stx_mask & STATX_DIOALIGN);

	*ret_align = told ? sx.stx_dio_offset_align : 0;
	return fd >= 0 && !(told && !sx.stx_dio_offset_align);
}

static void check_direct(struct look *k)
{
	bool wanted = k->lun->mode == BLOCK_MODE_DIRECT;
	unsigned align;

	if (k->lun->mode == BLOCK_MODE_BUFFERED)
		return;
	if (is_tmpfs(k)) {
		doctor_report(k->d, wanted ? DOCTOR_FAIL : DOCTOR_WARN, k->lun->name,
			      "keep it on a disk's file system",
			      "%s is on tmpfs, in memory: gone with the next boot", k->lun->path);
	} else if (!find_direct(k, &align)) {
		doctor_report(k->d, wanted ? DOCTOR_FAIL : DOCTOR_WARN, k->lun->name,
			      "keep it on ext4, XFS or a device; on btrfs and ZFS look at "
			      "compression and encryption",
			      "no direct I/O on %s: %s", k->lun->path,
			      wanted ? "it was asked for"
				     : "the page cache has what our own would have");
	} else if (S_ISREG(k->st.st_mode) && align) {
		report_coarse(k, align, "the file system");
	}
}

/* --- each, and all together --- */

static void check_device(struct look *k)
{
	int sector;

	check_claim(k);
	check_partition(k);
	if (!ioctl(k->fd, BLKSSZGET, &sector))
		report_coarse(k, (unsigned)sector, "the device");
}

static void check_lun(struct doctor *d, const struct config_lun *l)
{
	struct look k = {.d = d, .lun = l, .fd = -1};

	if (!open_file(&k))
		return;
	k.size = (uint64_t)k.st.st_size;
	if (S_ISBLK(k.st.st_mode)) {
		if (ioctl(k.fd, BLKGETSIZE64, &k.size))
			k.size = 0;
		check_device(&k);
	} else {
		check_loop(&k);
	}
	check_user(&k);
	check_size(&k);
	check_direct(&k);
	close(k.fd);
}

/* What tells one backing object from another, whatever path leads there. */
struct object {
	dev_t dev;
	ino_t ino;
	unsigned lun;
};

static int by_object(const void *a, const void *b)
{
	const struct object *x = a, *y = b;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->lun < y->lun ? -1 : x->lun > y->lun;
}

static void check_shared(struct doctor *d)
{
	_cleanup_free_ struct object *v = calloc(d->cfg->luns_count + 1, sizeof(*v));
	unsigned n = 0;
	struct stat st;

	for (unsigned i = 0; v && i < d->cfg->luns_count; i++) {
		if (stat(d->cfg->luns[i].path, &st))
			continue;
		if (S_ISBLK(st.st_mode))
			v[n++] = (struct object){st.st_rdev, 0, i};
		else
			v[n++] = (struct object){st.st_dev, st.st_ino, i};
	}
	if (n)
		qsort(v, n, sizeof(*v), by_object);
	for (unsigned i = 1; i < n; i++)
		if (v[i].dev == v[i - 1].dev && v[i].ino == v[i - 1].ino)
			doctor_report(d, DOCTOR_FAIL, d->cfg->luns[v[i].lun].name,
				      "one file, one LUN: it may be shown by several targets",
				      "is the same file as LUN %s: %s",
				      d->cfg->luns[v[i - 1].lun].name, d->cfg->luns[v[i].lun].path);
}

void doctor_check_files(struct doctor *d)
{
	for (unsigned i = 0; i < d->cfg->luns_count; i++)
		check_lun(d, &d->cfg->luns[i]);
	check_shared(d);
}

/* --- space --- */

struct volume {
	dev_t dev;
	uint64_t missing, free;
	unsigned luns;
	const char *path;
};

static void add_to_volume(struct volume *v, unsigned *n, const struct config_lun *l)
{
	struct statvfs fs;
	struct stat st;
	uint64_t have, size;
	unsigned i;

	if (stat(l->path, &st) || !S_ISREG(st.st_mode) || l->read_only || statvfs(l->path, &fs))
		return;
	have = (uint64_t)st.st_blocks * 512;
	size = l->size > (uint64_t)st.st_size ? l->size : (uint64_t)st.st_size;
	for (i = 0; i < *n && v[i].dev != st.st_dev; i++)
		;
	if (i == *n)
		v[(*n)++] = (struct volume){st.st_dev, 0, (uint64_t)fs.f_bavail * fs.f_frsize, 0,
					    l->path};
	v[i].missing += size > have ? size - have : 0;
	v[i].luns++;
}

void doctor_check_space(struct doctor *d)
{
	_cleanup_free_ struct volume *v = calloc(d->cfg->luns_count + 1, sizeof(*v));
	char missing[40], left[40];
	unsigned n = 0;

	for (unsigned i = 0; v && i < d->cfg->luns_count; i++)
		add_to_volume(v, &n, &d->cfg->luns[i]);
	for (unsigned i = 0; i < n; i++) {
		if (v[i].missing <= v[i].free)
			continue;
		size_format_about(v[i].missing, missing, sizeof(missing));
		size_format_about(v[i].free, left, sizeof(left));
		doctor_report(d, DOCTOR_WARN, v[i].path,
			      "watch the file system, grow it, or use thin-provisioning alerts",
			      "%u LUNs on its file system may come to write %s more, and %s are "
			      "left: then writes fail with ENOSPC",
			      v[i].luns, missing, left);
	}
}
