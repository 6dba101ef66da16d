/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/tcmu/tcmu_kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "front/tcmu/tcmu_guard.h"

#define UIO_CLASS  "/sys/class/uio"
#define CONFIGFS   "/sys/kernel/config/target/core"
#define PARAMETERS "/sys/module/target_core_user/parameters"

#define BUSY_NS	      (2 * NSEC_PER_SEC)
#define BUSY_PAUSE_NS (20 * NSEC_PER_MSEC)

static int write_text(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return -errno;
	return 0;
}

static int uio_name(unsigned minor, char *buf, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), UIO_CLASS "/uio%u/name", minor);
	return file_read_line(AT_FDCWD, path, buf, size);
}

static void item_path(const struct tcmu_name *n, const char *item, char *buf, size_t size)
{
	snprintf(buf, size, CONFIGFS "/user_%u/%s/%s", n->hba, n->backstore, item);
}

int tcmu_kernel_scan(void (*fn)(void *ctx, unsigned minor, const struct tcmu_name *name), void *ctx)
{
	char text[TCMU_UIO_NAME_MAX];
	struct tcmu_name name;
	struct dirent *e;
	unsigned minor;
	char end;
	DIR *d = opendir(UIO_CLASS);

	if (!d)
		return errno == ENOENT ? 0 : -errno;
	while ((e = readdir(d)))
		if (sscanf(e->d_name, "uio%u%c", &minor, &end) == 1 &&
		    !uio_name(minor, text, sizeof(text)) && tcmu_parse_name(text, &name))
			fn(ctx, minor, &name);
	closedir(d);
	return 0;
}

static int map_size(unsigned minor, size_t *ret_size)
{
	char path[80], text[32];
	int err;

	snprintf(path, sizeof(path), UIO_CLASS "/uio%u/maps/map0/size", minor);
	err = file_read_line(AT_FDCWD, path, text, sizeof(text));
	if (!err)
		*ret_size = strtoull(text, NULL, 0);
	return err;
}

static int open_patiently(const char *path)
{
	uint64_t end = clock_now_ns() + BUSY_NS;
	int fd;

	while ((fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK)) < 0 && errno == EBUSY &&
	       clock_now_ns() < end)
		clock_pause(BUSY_PAUSE_NS);
	return fd < 0 ? -errno : fd;
}

static bool same_name(unsigned minor, const struct tcmu_name *name)
{
	char text[TCMU_UIO_NAME_MAX];
	struct tcmu_name now;

	return !uio_name(minor, text, sizeof(text)) && tcmu_parse_name(text, &now) &&
	       tcmu_same_name(&now, name);
}

int tcmu_kernel_open(unsigned minor, const struct tcmu_name *name, struct tcmu_channel *ret_ch,
		     struct reason *why)
{
	_cleanup_close_ int fd = -1;
	struct tcmu_channel ch;
	char path[32];
	int err;

	snprintf(path, sizeof(path), "/dev/uio%u", minor);
	fd = open_patiently(path);
	if (fd < 0)
		return reason_set(why, -fd, "%s: %s", path, strerror(-fd));
	if (!same_name(minor, name))
		return reason_set(why, ENODEV, "%s: has become another device", path);
	err = map_size(minor, &ch.size);
	if (err)
		return reason_set(why, -err, "the map of %s: %s", path, strerror(-err));
	ch.map = mmap(NULL, ch.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ch.map == MAP_FAILED)
		return reason_set(why, errno, "%s: cannot be mapped: %s", path, strerror(errno));
	ch.guard = tcmu_guard_add(ch.map, ch.size);
	if (ch.guard < 0) {
		munmap(ch.map, ch.size);
		return reason_set(why, ENOSPC, "%s: more than %d devices", path, TCMU_GUARDS);
	}
	ch.fd = take_fd(fd);
	*ret_ch = ch;
	return 0;
}

void tcmu_kernel_close(struct tcmu_channel *ch)
{
	tcmu_guard_remove(ch->guard);
	munmap(ch->map, ch->size);
	close(ch->fd);
}

static int action(const struct tcmu_name *name, const char *what, const char *value,
		  struct reason *why)
{
	char path[TCMU_BACKSTORE_MAX + 100];
	int err;

	item_path(name, what, path, sizeof(path));
	err = write_text(path, value);
	return err ? reason_set(why, -err, "%.400s: %s", path, strerror(-err)) : 0;
}

void tcmu_kernel_kick(const struct tcmu_channel *ch)
{
	static const uint32_t any = 0;

	while (write(ch->fd, &any, sizeof(any)) < 0 && errno == EINTR)
		;
}

int tcmu_kernel_block(const struct tcmu_name *name, bool block, struct reason *why)
{
	return action(name, "action/block_dev", block ? "1" : "0", why);
}

int tcmu_kernel_reset(const struct tcmu_name *name, struct reason *why)
{
	return action(name, "action/reset_ring", "1", why);
}

uint64_t tcmu_kernel_size(const struct tcmu_name *name)
{
	char path[TCMU_BACKSTORE_MAX + 100], text[32];

	item_path(name, "attrib/dev_size", path, sizeof(path));
	return file_read_line(AT_FDCWD, path, text, sizeof(text)) ? 0 : strtoull(text, NULL, 10);
}

void tcmu_kernel_forget_questions(void)
{
	/* Only while it is blocked, and asks nothing, does it let go. */
	if (write_text(PARAMETERS "/block_netlink", "1"))
		return;
	write_text(PARAMETERS "/reset_netlink", "1");
	write_text(PARAMETERS "/block_netlink", "0");
}
