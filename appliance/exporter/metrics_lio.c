/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel's target (LIO) counts of LUNs that are exported through it. All of it is in
 * configfs, where everybody may read:
 *
 *   core/user_H/NAME/attrib/dev_config            "ebb/LUN": a backstore of ours
 *                    attrib/pages_resident ...    where our target_core_user runs
 *                    statistics/scsi_tgt_dev/...
 *   FABRIC/TARGET/tpgt_N/lun/lun_N/LINK           to core/user_H/NAME
 *                                  statistics/scsi_tgt_port/...
 *   iscsi/TARGET/fabric_statistics/...
 *
 * Backstores are read first, then each fabric is walked and their LUNs are found by the links. A
 * file costs some microseconds, as configfs makes an inode for each time it is opened; so what few
 * ask for is not read. What goes away meanwhile is left out.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "exporter/metrics.h"
#include "front/tcmu/tcmu_check.h"

struct backstore {
	char place[TCMU_BACKSTORE_MAX + 16]; /* user_H/NAME */
	size_t lun;			     /* a label */
};

struct lio {
	struct metrics *m;
	struct backstore *backstores; /* sorted by place */
	size_t n, cap;
	/* Where the walk is. */
	const char *hba, *fabric, *target;
	char group[16]; /* "tpgN" */
	bool ours;	/* @target shows a LUN of ours */
};

/* --- files --- */

static uint64_t read_number(int at, const char *path)
{
	char text[32], *end;
	uint64_t n;

	if (file_read_line(at, path, text, sizeof(text)))
		return METRIC_NONE;
	n = strtoull(text, &end, 10);
	return end > text && !*end ? n : METRIC_NONE;
}

static uint64_t read_bytes(int at, const char *path, unsigned shift)
{
	uint64_t n = read_number(at, path);

	return n == METRIC_NONE ? n : n << shift;
}

/* What is told from the first on only. */
static uint64_t read_rare(int at, const char *path)
{
	return read_number(at, path) ?: METRIC_NONE;
}

/* To be asked for files: the kernel looks every name up anew while nobody holds its folder. */
static int hold_folder(int at, const char *path)
{
	return openat(at, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static DIR *open_folder(int at, const char *path)
{
	int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir && fd >= 0)
		close(fd);
	return dir;
}

/* Calls @fn for each folder in @path whose name begins with @prefix, with that folder open. */
static void walk(struct lio *l, int at, const char *path, const char *prefix,
		 void (*fn)(struct lio *l, int at, const char *name))
{
	DIR *dir = open_folder(at, path);
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		_cleanup_close_ int in = -1;

		if (e->d_name[0] == '.' || strncmp(e->d_name, prefix, strlen(prefix)))
			continue;
		in = hold_folder(dirfd(dir), e->d_name);
		if (in >= 0)
			fn(l, in, e->d_name);
	}
	if (dir)
		closedir(dir);
}

/* --- backstores --- */

static int compare_place(const void *a, const void *b)
{
	return strcmp(((const struct backstore *)a)->place, ((const struct backstore *)b)->place);
}

static struct backstore *add_backstore(struct lio *l)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 16;
		struct backstore *bigger = reallocarray(l->backstores, cap, sizeof(*bigger));

		if (!bigger) {
			l->m->failed = true;
			return NULL;
		}
		l->backstores = bigger;
		l->cap = cap;
	}
	return &l->backstores[l->n++];
}

static void collect_area(struct lio *l, int attrib, size_t labels)
{
	uint64_t pages = read_number(attrib, "pages_resident");
	struct tcmu_area_record *r;

	if (pages == METRIC_NONE)
		return; /* the kernel's own target_core_user does not tell */
	r = metrics_add(l->m, METRIC_GROUP_tcmu_area, labels);
	r->resident = pages * (uint64_t)sysconf(_SC_PAGESIZE);
	r->returned = read_number(attrib, "bytes_returned");
	r->timeouts = read_number(attrib, "timeouts_cmd");
}

static void collect_backstore(struct lio *l, int at, const char *name)
{
	static const char prefix[] = TCMU_HANDLER "/";
	_cleanup_close_ int attrib = hold_folder(at, "attrib");
	_cleanup_close_ int device = -1;
	char config[256];
	struct lio_backstore_record *r;
	struct backstore *b;
	size_t labels;

	if (file_read_line(attrib, "dev_config", config, sizeof(config)) ||
	    strncmp(config, prefix, strlen(prefix)))
		return;
	b = add_backstore(l);
	if (!b)
		return;
	snprintf(b->place, sizeof(b->place), "%s/%s", l->hba, name);
	b->lun = metrics_label(l->m, METRICS_NO_LABELS, "lun", config + strlen(prefix));
	labels = metrics_label(l->m, b->lun, "backstore", b->place);
	collect_area(l, attrib, labels);
	device = hold_folder(at, "statistics/scsi_tgt_dev");
	r = metrics_add(l->m, METRIC_GROUP_lio_backstore, labels);
	r->resets = read_rare(device, "resets");
	r->aborts = read_rare(device, "aborts_complete");
}

static void collect_hba(struct lio *l, int at, const char *name)
{
	l->hba = name;
	walk(l, at, ".", "", collect_backstore);
}

/* --- targets --- */

/* The backstore of ours that entry @name of LUN @at is a link to. */
static const struct backstore *follow(const struct lio *l, int at, const char *name)
{
	static const char core[] = "target/core/";
	char link[512], *place;
	ssize_t n = readlinkat(at, name, link, sizeof(link) - 1);
	struct backstore key;

	if (n < 0)
		return NULL;
	link[n] = '\0';
	place = strstr(link, core);
	if (!place)
		return NULL;
	snprintf(key.place, sizeof(key.place), "%s", place + strlen(core));
	return bsearch(&key, l->backstores, l->n, sizeof(key), compare_place);
}

static const struct backstore *find_backstore(const struct lio *l, int at)
{
	const struct backstore *found = NULL;
	DIR *dir = open_folder(at, ".");
	struct dirent *e;

	while (dir && !found && (e = readdir(dir)))
		if (e->d_type == DT_LNK || e->d_type == DT_UNKNOWN)
			found = follow(l, at, e->d_name);
	if (dir)
		closedir(dir);
	return found;
}

static void collect_lun(struct lio *l, int at, const char *name)
{
	const struct backstore *b = find_backstore(l, at);
	_cleanup_close_ int port = -1;
	char export[512];
	struct lio_lun_record *r;

	if (!b)
		return;
	l->ours = true;
	/* As targetcli has it, less what goes without saying. */
	snprintf(export, sizeof(export), "lio/%s/%s/%s/%s", l->fabric, l->target, l->group,
		 name + strlen("lun_"));
	r = metrics_add(l->m, METRIC_GROUP_lio_lun, metrics_label(l->m, b->lun, "export", export));
	port = hold_folder(at, "statistics/scsi_tgt_port");
	r->commands = read_number(port, "in_cmds");
	r->read_bytes = read_bytes(port, "read_mbytes", 20);
	r->written_bytes = read_bytes(port, "write_mbytes", 20);
}

static void collect_group(struct lio *l, int at, const char *name)
{
	snprintf(l->group, sizeof(l->group), "tpg%.8s", name + strlen("tpgt_"));
	walk(l, at, "lun", "lun_", collect_lun);
}

static void collect_target(struct lio *l, int at, const char *name)
{
	struct lio_target_record *r;

	l->target = name;
	l->ours = false;
	walk(l, at, ".", "tpgt_", collect_group);
	if (!l->ours || strcmp(l->fabric, "iscsi") != 0)
		return;
	r = metrics_add(l->m, METRIC_GROUP_lio_target,
			metrics_label(l->m, METRICS_NO_LABELS, "target", name));
	r->sessions = read_number(at, "fabric_statistics/iscsi_instance/sessions");
	r->logins = read_number(at, "fabric_statistics/iscsi_login_stats/accepts");
	r->login_failures = read_number(at, "fabric_statistics/iscsi_tgt_attr/login_fails");
	r->digest_errors = read_rare(at, "fabric_statistics/iscsi_sess_err/digest_errors");
	r->format_errors = read_rare(at, "fabric_statistics/iscsi_sess_err/format_errors");
	r->timeouts = read_rare(at, "fabric_statistics/iscsi_sess_err/cxn_errors");
}

static void collect_fabric(struct lio *l, int at, const char *name)
{
	if (!strcmp(name, "core"))
		return;
	l->fabric = name;
	walk(l, at, ".", "", collect_target);
}

void metrics_collect_lio(struct metrics *m, const char *root)
{
	_cleanup_close_ int at = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct lio l = {.m = m};

	if (at < 0)
		return;
	walk(&l, at, "core", "user_", collect_hba);
	if (l.n) {
		qsort(l.backstores, l.n, sizeof(l.backstores[0]), compare_place);
		walk(&l, at, ".", "", collect_fabric);
	}
	free(l.backstores);
}
