/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Limits of the process, and memory: what is declared against what there is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "cli/doctor.h"
#include "control/appliance.h"
#include "control/size.h"
#include "mem/budget/budget.h"

#define ADDRESSES_WANTED (64ull << 30) /* what caches of a large host may come to reserve */
#define TASKS_WANTED	 64	       /* reactors, workers, nbdkit and its threads */

/* --- limits --- */

/*
 * The hard limit called @name ("Max open files") of the appliance's process, else our own: whoever
 * starts an appliance from here hands it on. RLIM_INFINITY: none.
 */
static uint64_t hard_limit(const struct doctor *d, const char *name, int resource)
{
	unsigned long long hard;
	struct rlimit own;
	char path[300], line[256];

	if (!d->pid)
		return getrlimit(resource, &own) ? RLIM_INFINITY : own.rlim_max;
	snprintf(path, sizeof(path), "%.200s/proc/%d/limits", d->root, (int)d->pid);
	_cleanup_fclose_ FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)) &&
		    sscanf(line + strlen(name), "%*s %llu", &hard) == 1)
			return hard;
	return RLIM_INFINITY;
}

static void check_open_files(struct doctor *d)
{
	uint64_t limit = hard_limit(d, "Max open files", RLIMIT_NOFILE);
	uint64_t need = appliance_files_needed(d->cfg->luns_count);
	char cure[160];

	if (limit >= need)
		return;
	snprintf(cure, sizeof(cure),
		 "LimitNOFILE=%llu in the unit (systemctl edit ebb), or ulimit -Hn %llu",
		 (unsigned long long)need, (unsigned long long)need);
	doctor_report(d, DOCTOR_FAIL, "open files", cure, "%u LUNs need %llu, the limit is %llu",
		      d->cfg->luns_count, (unsigned long long)need, (unsigned long long)limit);
}

static uint64_t size_of(const struct config_lun *l)
{
	struct stat st;

	return l->size || stat(l->path, &st) || !S_ISREG(st.st_mode) ? l->size
								     : (uint64_t)st.st_size;
}

static void check_file_size(struct doctor *d)
{
	uint64_t limit = hard_limit(d, "Max file size", RLIMIT_FSIZE);
	char size[40], most[40];

	if (limit == RLIM_INFINITY)
		return;
	size_format_about(limit, most, sizeof(most));
	for (unsigned i = 0; i < d->cfg->luns_count; i++) {
		const struct config_lun *l = &d->cfg->luns[i];

		if (size_of(l) <= limit)
			continue;
		size_format_about(size_of(l), size, sizeof(size));
		doctor_report(d, DOCTOR_FAIL, l->name,
			      "LimitFSIZE=infinity in the unit, or ulimit -Hf unlimited",
			      "writes beyond %s of its %s fail: a limit on the size of files", most,
			      size);
	}
}

static void check_address_space(struct doctor *d)
{
	uint64_t limit = hard_limit(d, "Max address space", RLIMIT_AS);
	char most[40];

	if (limit == RLIM_INFINITY || limit >= ADDRESSES_WANTED)
		return;
	size_format_about(limit, most, sizeof(most));
	doctor_report(d, DOCTOR_WARN, "address space",
		      "LimitAS=infinity in the unit, or ulimit -Hv unlimited",
		      "limited to %s: caches reserve addresses, and get fewer", most);
}

/* The control group's limit on tasks, cgroup v2. */
static void check_tasks(struct doctor *d)
{
	char own[512], path[600], line[64];
	unsigned long long max;

	snprintf(path, sizeof(path), d->pid ? "/proc/%d/cgroup" : "/proc/self/cgroup", (int)d->pid);
	if (!doctor_read_line(d, path, own, sizeof(own)) || strncmp(own, "0::", 3))
		return;
	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/pids.max", own + 3);
	if (!doctor_read_line(d, path, line, sizeof(line)) || sscanf(line, "%llu", &max) != 1 ||
	    max >= TASKS_WANTED)
		return;
	doctor_report(d, DOCTOR_FAIL, "tasks", "TasksMax=infinity in the unit",
		      "the control group may have %llu; threads and nbdkit want %d", max,
		      TASKS_WANTED);
}

void doctor_check_limits(struct doctor *d)
{
	check_open_files(d);
	check_file_size(d);
	check_address_space(d);
	check_tasks(d);
}

/* --- memory --- */

/* How much memory there is for the appliance. */
static void find_room(const struct doctor *d, struct budget_room *ret_room)
{
	json_t *b = json_object_get(d->memory, "budget"), *limit = json_object_get(b, "limit");
	char proc[300], cgroup[300];

	snprintf(proc, sizeof(proc), "%.200s/proc", d->root);
	snprintf(cgroup, sizeof(cgroup), "%.200s/sys/fs/cgroup", d->root);
	budget_look(proc, d->root[0] ? cgroup : NULL, ret_room);
	if (json_integer_value(limit) > 0 && (uint64_t)json_integer_value(limit) < ret_room->size) {
		ret_room->size = (uint64_t)json_integer_value(limit);
		ret_room->cgroup = true;
	}
}

static void check_declared(struct doctor *d, const struct budget_room *room)
{
	const struct config_memory *m = &d->cfg->memory;
	const char *whose = room->cgroup ? "the control group's limit" : "the host's memory";
	char want[40], have[40];

	size_format_about(room->size, have, sizeof(have));
	if (m->floor > room->size) {
		size_format_about(m->floor, want, sizeof(want));
		doctor_report(d, DOCTOR_FAIL, "memory.floor",
			      "lower memory.floor, or raise MemoryMax= and MemoryHigh= of the unit",
			      "%s are promised, %s is %s", want, whose, have);
	} else if (m->max > room->size) {
		size_format_about(m->max, want, sizeof(want));
		doctor_report(d, DOCTOR_WARN, "memory.max",
			      "lower memory.max, or raise MemoryMax= and MemoryHigh= of the unit",
			      "%s are declared, %s is %s", want, whose, have);
	}
}

static void check_least(struct doctor *d, const struct budget_room *room)
{
	uint64_t least = 64ull << 20;
	char have[40];

	if (room->size >= 2 * least)
		return;
	size_format_about(room->size, have, sizeof(have));
	doctor_report(d, DOCTOR_FAIL, room->cgroup ? "control group" : "host",
		      "raise MemoryMax= and MemoryHigh= of the unit to 128M at least",
		      "has %s of memory: the appliance is killed under load", have);
}

static void check_pressure(struct doctor *d)
{
	const char *source =
		json_string_value(json_object_get(json_object_get(d->memory, "budget"), "watches"));
	bool told = source ? !strstr(source, "no PSI") : doctor_exists(d, "/proc/pressure/memory");

	if (!told)
		doctor_report(d, DOCTOR_WARN, "pressure",
			      "boot with psi=1 on the kernel's command line (CONFIG_PSI)",
			      "the kernel does not tell of memory pressure: memory is given back "
			      "by a timer, later");
}

static void check_overcommit(struct doctor *d)
{
	char line[40];

	if (doctor_read_line(d, "/proc/sys/vm/overcommit_memory", line, sizeof(line)) &&
	    !strcmp(line, "2"))
		doctor_report(d, DOCTOR_WARN, "vm.overcommit_memory",
			      "sysctl vm.overcommit_memory=0",
			      "2: the kernel charges for addresses, so the cache gets fewer");
}

void doctor_check_memory(struct doctor *d)
{
	struct budget_room room;

	find_room(d, &room);
	check_declared(d, &room);
	check_least(d, &room);
	check_pressure(d);
	check_overcommit(d);
}
