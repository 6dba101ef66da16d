/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel says of memory: figures to read, and files to sleep on.
 *
 * Figures. A memory cgroup bounds its whole subtree, so every level from our own up to the root
 * counts: memory.max and memory.high (v2) or memory.limit_in_bytes (v1) against its usage, less the
 * clean pages of files in it. The host counts by MemAvailable of /proc/meminfo. Volatile pages are
 * on the kernel's list of inactive file pages, so both figures include ours.
 *
 * Files to sleep on, each where there is one:
 *
 *	pressure	a PSI trigger, which the kernel arms for us, on the cgroup's memory.pressure
 *			(v2) or /proc/pressure/memory. Without CAP_SYS_RESOURCE the window must be a
 *			multiple of 2 s (6.5; before that it is refused altogether).
 *	memory.events	v2: notified when a level's `high`, `max` or `oom` count moves
 *	threshold	v1: an eventfd, told when the usage of the narrowest level crosses the point
 *			where we want to have begun to shrink
 *
 * None of them costs a wake-up while memory is plenty. The host's PSI tells of any stall on the
 * machine, also of a foreign cgroup that chokes on its own limit: it is a reason to look at the
 * figures, not to shrink. That of our own cgroup is about us.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "mem/budget/budget_private.h"

#define PATH_SIZE 1024
#define UNLIMITED (1ull << 60) /* v1 says "none" by a number near 2^63 */

struct level {
	char dir[PATH_SIZE];
	bool v1;
	int events_fd;	 /* v2: of memory.events; or -1 */
	uint64_t events; /* its counts when last seen */
};

struct sense {
	char proc[PATH_SIZE];
	struct level level[SENSE_LEVELS];
	unsigned n_levels;
	int psi_fd;		 /* or -1 */
	bool psi_reads, psi_own; /* it is no trigger but readable; it is about our own cgroup */
	char psi_path[PATH_SIZE];
	int threshold_fd; /* v1; or -1 */
	uint64_t threshold;
	unsigned threshold_level;
};

/* --- reading small files --- */

static int open_at(const char *dir, const char *name, int flags)
{
	char path[PATH_SIZE + 64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return open(path, flags | O_CLOEXEC);
}

/* DIR/NAME as text, malloc'ed; NULL: not there. Such files do not tell their size. */
static char *read_text(const char *dir, const char *name)
{
	int fd = open_at(dir, name, O_RDONLY);
	_cleanup_fclose_ FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
	char *text = NULL;
	size_t size = 0;

	if (fd >= 0 && !f)
		close(fd);
	if (f && getdelim(&text, &size, '\0', f) >= 0)
		return text;
	free(text);
	return NULL;
}

/* A file with one number, or "max". UINT64_MAX: none, or not there. */
static uint64_t read_number(const char *dir, const char *name)
{
	_cleanup_free_ char *text = read_text(dir, name);
	unsigned long long n;

	if (!text || sscanf(text, "%llu", &n) != 1 || n >= UNLIMITED)
		return UINT64_MAX;
	return n;
}

/* The number behind @key at the start of a line; 0: not there. */
static uint64_t find_number(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, len))
			return strtoull(line + len, NULL, 10);
	}
	return 0;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* --- figures --- */

static uint64_t level_limit(const struct level *l)
{
	return l->v1 ? read_number(l->dir, "memory.limit_in_bytes")
		     : min_u64(read_number(l->dir, "memory.max"),
			       read_number(l->dir, "memory.high"));
}

static bool read_level(const struct level *l, struct sense_place *ret_place)
{
	uint64_t limit = level_limit(l), used, files = 0;
	_cleanup_free_ char *stat = NULL;

	used = read_number(l->dir, l->v1 ? "memory.usage_in_bytes" : "memory.current");
	if (limit == UINT64_MAX || used == UINT64_MAX)
		return false;
	stat = read_text(l->dir, "memory.stat");
	if (stat && l->v1)
		files = find_number(stat, "total_inactive_file ") +
			find_number(stat, "total_active_file ");
	else if (stat)
		files = find_number(stat, "inactive_file ") + find_number(stat, "active_file ");
	used -= min_u64(files, used);
	*ret_place = (struct sense_place){BUDGET_CAUSE_CGROUP, limit, limit - min_u64(used, limit)};
	return true;
}

static bool read_host(const struct sense *s, struct sense_place *ret_place)
{
	_cleanup_free_ char *text = read_text(s->proc, "meminfo");
	uint64_t total = text ? find_number(text, "MemTotal:") << 10 : 0;

	if (!total)
		return false;
	*ret_place = (struct sense_place){BUDGET_CAUSE_HOST, total,
					  find_number(text, "MemAvailable:") << 10};
	return true;
}

unsigned sense_read(struct sense *s, struct sense_place ret_places[SENSE_PLACES])
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->n_levels; i++)
		n += read_level(&s->level[i], &ret_places[n]);
	return n + read_host(s, &ret_places[n]);
}

/* --- which cgroup --- */

/* Whether the comma-separated @list has @word. */
static bool has_word(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = list; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (!strncmp(p, word, len) && (!p[len] || p[len] == ',' || p[len] == '\n'))
			return true;
	}
	return false;
}

/*
 * Where the hierarchy is mounted: the line of mountinfo(5) of type @fstype whose superblock options
 * have @option (NULL: any). *@ret_root: the cgroup that is the mount's root.
 */
static bool find_mount(const char *mountinfo, const char *fstype, const char *option,
		       char ret_dir[PATH_SIZE], char ret_root[PATH_SIZE])
{
	for (const char *line = mountinfo; line && *line; line = strchr(line, '\n')) {
		char root[512], dir[512], type[32], options[512], copy[2048];
		const char *tail;

		line += *line == '\n';
		snprintf(copy, sizeof(copy), "%.*s", (int)strcspn(line, "\n"), line);
		tail = strstr(copy, " - ");
		if (!tail || sscanf(copy, "%*s %*s %*s %511s %511s", root, dir) != 2 ||
		    sscanf(tail, " - %31s %*s %511s", type, options) != 2)
			continue;
		if (strcmp(type, fstype) || (option && !has_word(options, option)))
			continue;
		snprintf(ret_dir, PATH_SIZE, "%s", dir);
		snprintf(ret_root, PATH_SIZE, "%s", root);
		return true;
	}
	return false;
}

/* The path of the line of /proc/self/cgroup whose controllers have @controller ("": v2). */
static bool find_path(const char *cgroups, const char *controller, char ret_path[PATH_SIZE])
{
	for (const char *line = cgroups; line && *line; line = strchr(line, '\n')) {
		char controllers[256] = "", *end;
		const char *colon, *path;

		line += *line == '\n';
		colon = strchr(line, ':');
		path = colon ? strchr(colon + 1, ':') : NULL;
		if (!path)
			break;
		snprintf(controllers, sizeof(controllers), "%.*s", (int)(path - colon - 1),
			 colon + 1);
		if (controller[0] ? !has_word(controllers, controller) : controllers[0] != '\0')
			continue;
		snprintf(ret_path, PATH_SIZE, "%s", path + 1);
		end = strchr(ret_path, '\n');
		if (end)
			*end = '\0';
		return true;
	}
	return false;
}

/* The directory of the process's own memory cgroup. */
static bool find_own(const char *proc, char ret_dir[PATH_SIZE])
{
	static const struct {
		const char *fstype, *option, *controller;
	} hierarchies[] = {{"cgroup", "memory", "memory"}, {"cgroup2", NULL, ""}};
	_cleanup_free_ char *mounts = read_text(proc, "self/mountinfo");
	_cleanup_free_ char *cgroups = read_text(proc, "self/cgroup");
	char mount[PATH_SIZE], root[PATH_SIZE], path[PATH_SIZE];

	for (unsigned i = 0; mounts && cgroups && i < 2; i++) {
		const char *rest = path;
		size_t len;

		if (!find_mount(mounts, hierarchies[i].fstype, hierarchies[i].option, mount,
				root) ||
		    !find_path(cgroups, hierarchies[i].controller, path))
			continue;
		len = strcmp(root, "/") ? strlen(root) : 0;
		if (!strncmp(path, root, len) && (!path[len] || path[len] == '/'))
			rest = path + len;
		/* In a namespace of its own the path may lead out of what is mounted. */
		if (snprintf(ret_dir, PATH_SIZE, "%s%s", mount, rest) >= PATH_SIZE ||
		    access(ret_dir, F_OK))
			snprintf(ret_dir, PATH_SIZE, "%s", mount);
		return true;
	}
	return false;
}

/* --- files to sleep on --- */

/* The sum of the counts of memory.events that say that the level is full. */
static uint64_t read_events(struct level *l)
{
	char text[512];
	ssize_t n = pread(l->events_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 0;
	text[n] = '\0';
	return find_number(text, "high ") + find_number(text, "max ") + find_number(text, "oom ");
}

/* Writes a trigger to the PSI file @path: some tasks stall 5 % of the time. */
static int open_trigger(const char *path)
{
	static const char *const triggers[] = {"some 25000 500000", "some 100000 2000000"};

	for (unsigned i = 0; i < 2; i++) {
		_cleanup_close_ int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

		if (fd < 0)
			return -errno;
		if (write(fd, triggers[i], strlen(triggers[i]) + 1) > 0)
			return take_fd(fd);
	}
	return -errno;
}

static bool watch_pressure(struct sense *s, const char *path, bool own)
{
	struct stat st;

	if (stat(path, &st))
		return false;
	s->psi_reads = S_ISFIFO(st.st_mode);
	s->psi_fd = s->psi_reads ? open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC) : open_trigger(path);
	if (s->psi_fd < 0)
		return false;
	s->psi_own = own;
	snprintf(s->psi_path, sizeof(s->psi_path), "%s", path);
	return true;
}

static void open_pressure(struct sense *s, const char *given)
{
	char path[PATH_SIZE + 32];

	s->psi_fd = -1;
	if (given && watch_pressure(s, given, true))
		return;
	if (s->n_levels && !s->level[0].v1) {
		snprintf(path, sizeof(path), "%s/memory.pressure", s->level[0].dir);
		if (watch_pressure(s, path, true))
			return;
	}
	snprintf(path, sizeof(path), "%s/pressure/memory", s->proc);
	watch_pressure(s, path, false);
}

/* v1: has the kernel write to an eventfd when the usage of @l crosses @bytes. */
static int open_threshold(const struct level *l, uint64_t bytes)
{
	_cleanup_close_ int usage = open_at(l->dir, "memory.usage_in_bytes", O_RDONLY);
	_cleanup_close_ int control = open_at(l->dir, "cgroup.event_control", O_WRONLY);
	_cleanup_close_ int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	char text[80];
	int len;

	if (usage < 0 || control < 0 || fd < 0)
		return -1;
	len = snprintf(text, sizeof(text), "%d %d %llu", fd, usage, (unsigned long long)bytes);
	return write(control, text, (size_t)len) == len ? take_fd(fd) : -1;
}

/*
 * Puts the threshold where the narrowest level's shrinking should have begun: a little beyond the
 * low watermark, so that who is woken finds it passed.
 */
static void watch_threshold(struct sense *s)
{
	uint64_t least = UINT64_MAX, at;
	unsigned which = 0;

	for (unsigned i = 0; i < s->n_levels; i++) {
		uint64_t limit = s->level[i].v1 ? level_limit(&s->level[i]) : UINT64_MAX;

		if (limit >= least)
			continue;
		least = limit;
		which = i;
	}
	if (least == UINT64_MAX)
		return;
	at = least - budget_watermarks(least).low / 4 * 3;
	if (s->threshold_fd >= 0 && at == s->threshold && which == s->threshold_level)
		return;
	if (s->threshold_fd >= 0)
		close(s->threshold_fd);
	s->threshold_fd = open_threshold(&s->level[which], at);
	s->threshold = at;
	s->threshold_level = which;
}

unsigned sense_fds(struct sense *s, struct pollfd ret_fds[SENSE_FDS])
{
	unsigned n = 0;

	watch_threshold(s);
	ret_fds[n++] = (struct pollfd){s->psi_fd, s->psi_reads ? POLLIN : POLLPRI, 0};
	ret_fds[n++] = (struct pollfd){s->threshold_fd, POLLIN, 0};
	for (unsigned i = 0; i < s->n_levels; i++)
		ret_fds[n++] = (struct pollfd){s->level[i].events_fd, POLLPRI, 0};
	return n;
}

unsigned sense_take(struct sense *s, const struct pollfd *fds)
{
	unsigned bits = 0;
	char drain[256];

	if (fds[0].revents & POLLERR) { /* the cgroup is gone, or the file */
		close(s->psi_fd);
		s->psi_fd = -1;
	} else if (fds[0].revents) {
		bits |= s->psi_own ? SENSE_PRESSURE : SENSE_STALL;
		while (s->psi_reads && read(s->psi_fd, drain, sizeof(drain)) > 0)
			;
	}
	if (fds[1].revents && read(s->threshold_fd, drain, 8) > 0)
		bits |= SENSE_CGROUP;
	for (unsigned i = 0; i < s->n_levels; i++) {
		struct level *l = &s->level[i];
		uint64_t seen;

		if (!fds[2 + i].revents)
			continue;
		seen = read_events(l);
		if (seen != l->events)
			bits |= SENSE_CGROUP;
		l->events = seen;
	}
	return bits;
}

bool sense_is_told(const struct sense *s)
{
	return s->psi_fd >= 0;
}

void sense_describe(const struct sense *s, char *buf, size_t size)
{
	unsigned events = 0;

	for (unsigned i = 0; i < s->n_levels; i++)
		events += s->level[i].events_fd >= 0;
	snprintf(buf, size, "%s%.48s%s%s%s", s->psi_fd >= 0 ? "" : "no PSI, a timer",
		 s->psi_fd >= 0 ? s->psi_path : "", events ? ", memory.events" : "",
		 s->threshold_fd >= 0 ? ", usage threshold" : "",
		 s->n_levels ? (s->level[0].v1 ? ", cgroup v1" : ", cgroup v2") : ", no cgroup");
}

/* --- life --- */

/* Notes the cgroup at @dir and those above it. */
static void add_levels(struct sense *s, const char *dir)
{
	char path[PATH_SIZE], *slash;

	snprintf(path, sizeof(path), "%s", dir);
	while (s->n_levels < SENSE_LEVELS && path[0]) {
		struct level *l = &s->level[s->n_levels];
		_cleanup_close_ int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0)
			return;
		l->v1 = !faccessat(fd, "memory.limit_in_bytes", F_OK, 0);
		if (!l->v1 && faccessat(fd, "memory.current", F_OK, 0))
			return; /* the root, or above it */
		snprintf(l->dir, sizeof(l->dir), "%s", path);
		l->events_fd = l->v1 ? -1 : openat(fd, "memory.events", O_RDONLY | O_CLOEXEC);
		l->events = l->events_fd >= 0 ? read_events(l) : 0;
		s->n_levels++;
		slash = strrchr(path, '/');
		if (!slash)
			return;
		*slash = '\0';
	}
}

int sense_open(const struct budget_spec *spec, struct sense **ret_s)
{
	struct sense *s = calloc(1, sizeof(*s));
	char dir[PATH_SIZE];

	if (!s)
		return -ENOMEM;
	s->threshold_fd = -1;
	snprintf(s->proc, sizeof(s->proc), "%s", spec->proc ? spec->proc : "/proc");
	if (spec->cgroup)
		add_levels(s, spec->cgroup);
	else if (find_own(s->proc, dir))
		add_levels(s, dir);
	open_pressure(s, spec->psi);
	watch_threshold(s);
	*ret_s = s;
	return 0;
}

void sense_close(struct sense *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->n_levels; i++)
		if (s->level[i].events_fd >= 0)
			close(s->level[i].events_fd);
	if (s->psi_fd >= 0)
		close(s->psi_fd);
	if (s->threshold_fd >= 0)
		close(s->threshold_fd);
	free(s);
}
