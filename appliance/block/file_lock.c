/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One writer a backing file. An open file description lock (fcntl(2), F_OFD_SETLK) over the whole
 * file: a write lock for who writes, a read lock for who only reads. It goes with the descriptor,
 * whatever else the process opens and closes, and conflicts with the byte locks of QEMU.
 *
 * The kernel does not tell who holds such a lock (l_pid is -1). For the message only, the
 * descriptors of other processes that we may look at are searched for it in /proc/PID/fdinfo.
 */
#include "block/file_private.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define PATIENCE_NS (5 * NSEC_PER_SEC)

static void cleanup_closedir(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* Whether @path (of /proc/PID/fdinfo) shows a lock on inode @ino. */
static bool fdinfo_has_lock(int dirfd, const char *name, uint64_t ino)
{
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	_cleanup_fclose_ FILE *fp = fd < 0 ? NULL : fdopen(fd, "r");
	char line[256], want[32];

	if (!fp) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	snprintf(want, sizeof(want), ":%llu ", (unsigned long long)ino);
	while (fgets(line, sizeof(line), fp))
		if (!strncmp(line, "lock:", 5) && strstr(line, want))
			return true;
	return false;
}

static bool process_has_lock(const char *pid, uint64_t ino)
{
	char path[300];
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%s/fdinfo", pid);
	_cleanup_(cleanup_closedir) DIR *d = opendir(path);

	while (d && (e = readdir(d)))
		if (isdigit((unsigned char)e->d_name[0]) &&
		    fdinfo_has_lock(dirfd(d), e->d_name, ino))
			return true;
	return false;
}

/* The process that has the file of @fd locked; 0: none that we may look at. */
static pid_t find_holder(int fd)
{
	_cleanup_(cleanup_closedir) DIR *d = opendir("/proc");
	struct dirent *e;
	struct stat st;

	if (!d || fstat(fd, &st) < 0)
		return 0;
	while ((e = readdir(d))) {
		if (!isdigit((unsigned char)e->d_name[0]) ||
		    !process_has_lock(e->d_name, (uint64_t)st.st_ino))
			continue;
		return (pid_t)strtol(e->d_name, NULL, 10);
	}
	return 0;
}

static struct flock whole_file(bool read_only)
{
	return (struct flock){.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
}

bool block_file_user(const char *path, bool read_only, pid_t *ret_pid)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct flock fl = whole_file(read_only);

	if (fd < 0 || fcntl(fd, F_OFD_GETLK, &fl) || fl.l_type == F_UNLCK)
		return false;
	*ret_pid = find_holder(fd);
	return true;
}

/*
 * A lock that no process holds is that of an instance that was killed: the kernel keeps the open
 * file until what was in flight on its io_uring has ended. So wait for it: until then a write of
 * the dead instance may still reach the file, behind one of ours.
 */
int file_lock(int fd, const char *path, bool read_only, struct reason *why)
{
	struct flock fl = whole_file(read_only);
	uint64_t until = clock_now_ns() + PATIENCE_NS;
	char who[40] = "";
	pid_t holder;

	while (fcntl(fd, F_OFD_SETLK, &fl)) {
		if (errno != EAGAIN && errno != EACCES)
			return reason_set(why, errno, "%s: cannot lock: %s", path, strerror(errno));
		holder = find_holder(fd);
		if (holder)
			snprintf(who, sizeof(who), " (pid %d)", (int)holder);
		if (holder || clock_now_ns() > until)
			return reason_set(why, EBUSY, "%s: in use by another instance%s", path,
					  who);
		poll(NULL, 0, 10);
	}
	return 0;
}
