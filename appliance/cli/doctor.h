/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `ebb doctor`: what the checks share. A check looks at one kind of thing and reports what it
 * finds; one that reports nothing has found nothing wrong.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <jansson.h>

#include "cli/cli.h"
#include "control/config.h"

enum doctor_level {
	DOCTOR_NOTE, /* works; good to know */
	DOCTOR_WARN, /* works, slower or not for ever */
	DOCTOR_FAIL, /* does not work */
	DOCTOR_LEVELS
};

struct doctor {
	struct config *cfg; /* what is declared or runs */
	const char *root;   /* the folder that has proc and sys; "": this system's */
	/* --- of the appliance that answers --- */
	pid_t pid; /* 0: none does */
	json_t *luns, *memory;
	/* --- what was found --- */
	const char *check; /* the one that is running */
	json_t *findings;
	unsigned found[DOCTOR_LEVELS];
};

/**
 * Reports that @subject (a LUN, an address, a limit) is wrong in the way that @fmt says, and the
 * @cure.
 */
void doctor_report(struct doctor *d, enum doctor_level level, const char *subject, const char *cure,
		   const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/** The first line of a file below the root, without its newline. False: it is not there. */
bool doctor_read_line(const struct doctor *d, const char *path, char *buf, size_t size);
bool doctor_exists(const struct doctor *d, const char *path);
/** Whether the appliance that answers serves @path as a LUN. */
bool doctor_serves(const struct doctor *d, const char *path);

/* --- checks --- */

void doctor_check_limits(struct doctor *d); /* doctor_limits.c */
void doctor_check_memory(struct doctor *d);
void doctor_check_files(struct doctor *d); /* doctor_files.c */
void doctor_check_space(struct doctor *d);
void doctor_check_addresses(struct doctor *d); /* doctor_system.c */
void doctor_check_io_uring(struct doctor *d);
void doctor_check_nbdkit(struct doctor *d);
void doctor_check_modules(struct doctor *d);
