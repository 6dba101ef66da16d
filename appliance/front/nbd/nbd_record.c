/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/nbd/nbd_record.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/hash.h"

#define RECORD_MAX  4096u
#define HEADING	    "ebb-nbdkit 1"
#define PATIENCE_NS (2 * NSEC_PER_SEC)
#define END_MS	    2000

static bool suffixed(const struct nbd_record_place *p, const char *suffix, char *buf, size_t size)
{
	return (size_t)snprintf(buf, size, "%s%s", p->path, suffix) < size;
}

static int read_whole(const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) != 0) {
		if (n < 0)
			return -errno;
		len += (size_t)n;
	}
	buf[len] = '\0';
	return (int)len;
}

/* --- the lock --- */

int nbd_record_open(struct nbd_record_place *p, const char *port_socket, struct reason *why)
{
	uint64_t until = clock_now_ns() + PATIENCE_NS;
	char lock[PATH_MAX];

	*p = (struct nbd_record_place){.lock = -1};
	if (asprintf(&p->path, "%s.nbdkit", port_socket) < 0) {
		p->path = NULL;
		return reason_set(why, ENOMEM, "out of memory");
	}
	if (!suffixed(p, ".lock", lock, sizeof(lock)))
		return reason_set(why, ENAMETOOLONG, "%s: too long", p->path);
	p->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (p->lock < 0)
		return reason_set(why, errno, "%s: %s", lock, strerror(errno));
	/* A daemon that was killed a moment ago lets go of it soon. */
	while (flock(p->lock, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return reason_set(why, errno, "%s: %s", lock, strerror(errno));
		if (clock_now_ns() > until)
			return reason_set(why, EBUSY, "%s: another daemon looks after nbdkit here",
					  lock);
		poll(NULL, 0, 20);
	}
	return 0;
}

void nbd_record_close(struct nbd_record_place *p)
{
	cleanup_close(&p->lock);
	p->lock = -1;
	free(take_ptr(p->path));
}

/* --- who a process is --- */

static int read_boot(char buf[NBD_BOOT_LEN + 1])
{
	char text[NBD_BOOT_LEN + 8];
	int n = read_whole("/proc/sys/kernel/random/boot_id", text, sizeof(text));

	if (n < (int)NBD_BOOT_LEN)
		return n < 0 ? n : -EINVAL;
	memcpy(buf, text, NBD_BOOT_LEN);
	buf[NBD_BOOT_LEN] = '\0';
	return 0;
}

/** Reads field 22 of /proc/PID/stat. The name in field 2 may hold anything, ')' and blanks too. */
static int read_start(pid_t pid, uint64_t *ret_start)
{
	char path[64], text[1024];
	const char *p;
	int n;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	n = read_whole(path, text, sizeof(text));
	if (n < 0)
		return n == -ENOENT ? -ESRCH : n;
	p = strrchr(text, ')');
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (!p || !isdigit((unsigned char)p[1]))
		return -EINVAL;
	*ret_start = strtoull(p + 1, NULL, 10);
	return 0;
}

int nbd_record_identify(struct nbd_record *r, pid_t pid)
{
	int err = read_boot(r->boot);

	r->pid = pid;
	return err ? err : read_start(pid, &r->start);
}

static bool has_ended(int pidfd, int ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, ms) > 0;
}

int nbd_record_find(const struct nbd_record *r, int *ret_pidfd)
{
	_cleanup_close_ int fd = pidfd_open(r->pid, 0);
	char boot[NBD_BOOT_LEN + 1];
	uint64_t start;
	int err;

	if (fd < 0)
		return -errno;
	err = read_boot(boot);
	if (err)
		return err;
	if (strcmp(boot, r->boot) != 0)
		return -ESRCH;
	/*
	 * Looked at after it was opened: a process that started before the record was written and
	 * still has the pid is the one that the pidfd means.
	 */
	err = read_start(r->pid, &start);
	if (err)
		return err;
	if (start != r->start || has_ended(fd, 0))
		return -ESRCH;
	*ret_pidfd = take_fd(fd);
	return 0;
}

void nbd_record_end(const struct nbd_record *r, int pidfd)
{
	if (pidfd_send_signal(pidfd, SIGTERM, NULL, 0) < 0 || has_ended(pidfd, END_MS))
		return;
	pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	has_ended(pidfd, END_MS);
}

/* --- the record --- */

static size_t format(const struct nbd_record *r, char *buf, size_t size)
{
	int n = snprintf(buf, size,
			 HEADING "\nboot %s\npid %d\nstart %" PRIu64 "\noptions %016" PRIx64 "\n",
			 r->boot, (int)r->pid, r->start, r->options);

	for (unsigned i = 0; i < r->n_listen; i++)
		n += snprintf(buf + n, size - (size_t)n, "listen %s\n", r->listen[i]);
	n += snprintf(buf + n, size - (size_t)n, "sum %016" PRIx64 "\n",
		      hash_add(HASH_START, buf, (size_t)n));
	return (size_t)n;
}

int nbd_record_save(const struct nbd_record_place *p, const struct nbd_record *r)
{
	char text[RECORD_MAX], tmp[PATH_MAX];
	_cleanup_close_ int fd = -1;
	size_t len = format(r, text, sizeof(text));

	if (!suffixed(p, ".new", tmp, sizeof(tmp)))
		return -ENAMETOOLONG;
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, text, len) != (ssize_t)len)
		return -ENOSPC;
	return rename(tmp, p->path) < 0 ? -errno : 0;
}

/** Takes the line "@key VALUE" at *@text. Returns the value, or NULL. */
static char *take_line(char **text, const char *key)
{
	size_t len = strlen(key);
	char *line = *text, *end = strchr(line, '\n');

	if (!end || strncmp(line, key, len) != 0 || line[len] != ' ')
		return NULL;
	*end = '\0';
	*text = end + 1;
	return line + len + 1;
}

static bool parse_number(const char *text, int base, uint64_t max, uint64_t *ret_n)
{
	char *end;

	if (!text || !isxdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	*ret_n = strtoull(text, &end, base);
	return !errno && !*end && *ret_n <= max;
}

/** Checks the last line, and cuts it off. */
static bool check_sum(char *text)
{
	char *last = strstr(text, "\nsum "), *value;
	uint64_t sum;

	if (!last)
		return false;
	value = ++last;
	if (!parse_number(take_line(&value, "sum"), 16, UINT64_MAX, &sum) || *value ||
	    hash_add(HASH_START, text, (size_t)(last - text)) != sum)
		return false;
	*last = '\0';
	return true;
}

/** Returns NULL, or what is wrong. @text is changed. */
static const char *parse(char *text, struct nbd_record *r)
{
	const char *value;
	uint64_t pid;

	if (!check_sum(text))
		return "checksum";
	value = take_line(&text, "ebb-nbdkit");
	if (!value || strcmp(value, "1") != 0)
		return "version";
	value = take_line(&text, "boot");
	if (!value || strlen(value) != NBD_BOOT_LEN)
		return "boot";
	strcpy(r->boot, value);
	if (!parse_number(take_line(&text, "pid"), 10, INT32_MAX, &pid) || pid < 2)
		return "pid";
	r->pid = (pid_t)pid;
	if (!parse_number(take_line(&text, "start"), 10, UINT64_MAX, &r->start))
		return "start";
	if (!parse_number(take_line(&text, "options"), 16, UINT64_MAX, &r->options))
		return "options";
	while (*text) {
		value = take_line(&text, "listen");
		if (!value || r->n_listen == NBD_LISTEN_MAX ||
		    strlen(value) >= sizeof(r->listen[0]))
			return "addresses";
		strcpy(r->listen[r->n_listen++], value);
	}
	return r->n_listen ? NULL : "addresses";
}

int nbd_record_load(const struct nbd_record_place *p, struct nbd_record *ret_record,
		    struct reason *why)
{
	struct nbd_record r = {.pid = 0};
	char text[RECORD_MAX];
	const char *wrong;
	int n = read_whole(p->path, text, sizeof(text));

	if (n == -ENOENT)
		return -ENOENT;
	if (n < 0)
		return reason_set(why, EINVAL, "%s: %s", p->path, strerror(-n));
	wrong = parse(text, &r);
	if (wrong)
		return reason_set(why, EINVAL, "%s: damaged (%s)", p->path, wrong);
	*ret_record = r;
	return 0;
}

void nbd_record_remove(const struct nbd_record_place *p)
{
	char log[PATH_MAX];

	unlink(p->path);
	if (suffixed(p, ".log", log, sizeof(log)))
		unlink(log);
}

/* --- what nbdkit says --- */

int nbd_record_open_log(const struct nbd_record_place *p, int *ret_read, int *ret_write)
{
	_cleanup_close_ int in = -1, out = -1;
	char log[PATH_MAX];
	struct stat st;

	if (!suffixed(p, ".log", log, sizeof(log)))
		return -ENAMETOOLONG;
	if (mkfifo(log, 0600) < 0 && errno != EEXIST)
		return -errno;
	/* Without O_NONBLOCK it would wait for a writer; with it the ring would not wait for data.
	 */
	in = open(log, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (in < 0 || fstat(in, &st) < 0)
		return -errno;
	if (!S_ISFIFO(st.st_mode))
		return -EEXIST;
	if (fcntl(in, F_SETFL, 0) < 0)
		return -errno;
	if (ret_write) {
		/* A reader too, so that there always is one and what is said is kept. */
		out = open(log, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
		if (out < 0)
			return -errno;
		*ret_write = take_fd(out);
	}
	*ret_read = take_fd(in);
	return 0;
}
