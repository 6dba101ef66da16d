/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cpu.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

static double seconds_of_one(pid_t pid)
{
	char path[64], text[1024];
	unsigned long user, system;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	_cleanup_fclose_ FILE *f = fopen(path, "r");

	if (!f || !fgets(text, sizeof(text), f))
		return -1;
	char *after_name = strrchr(text, ')'); /* the name may hold anything */

	if (!after_name ||
	    sscanf(after_name, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
		   &system) != 2)
		return -1;
	return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double seconds_of_children(pid_t pid)
{
	char path[64];
	double sum = 0;
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	_cleanup_fclose_ FILE *f = fopen(path, "r");

	while (f && fscanf(f, "%d", &child) == 1) {
		double seconds = cpu_seconds_of(child, true);

		if (seconds > 0)
			sum += seconds;
	}
	return sum;
}

double cpu_seconds_of(pid_t pid, bool children)
{
	double seconds = seconds_of_one(pid);

	return seconds < 0 || !children ? seconds : seconds + seconds_of_children(pid);
}
