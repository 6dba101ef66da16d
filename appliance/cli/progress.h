/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far long work is: on a terminal a bar that is drawn anew, else a line for each tenth, with
 * --json a record a second.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct progress {
	/* --- the caller's --- */
	const char *what; /* in a word or two */
	bool json;
	/* --- the module's --- */
	bool bar, drawn;
	uint64_t start_ns, told_ns;
	unsigned tenth;
};

/** @p->what and @p->json are set. */
void progress_begin(struct progress *p);
/** Bytes; to be called some times a second, of which few are told. @total is above 0. */
void progress_tell(struct progress *p, uint64_t done, uint64_t total);
/** The work has ended, well or not. */
void progress_end(struct progress *p, bool well, uint64_t done, uint64_t total);
