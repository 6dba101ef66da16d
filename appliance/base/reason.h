/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A reason in words, beside the -errno that a function returns: what was wrong and where, for a
 * person. Filled by the function that refuses; untouched on success.
 */
#pragma once

#include <stddef.h>

struct reason {
	char text[512];
};

/**
 * Writes the reason and returns -@err, so that a refusal is one statement:
 * `return reason_set(why, EBUSY, "%s: in use by another instance", path);`
 * @why may be NULL.
 */
int reason_set(struct reason *why, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/** Puts "@fmt: " before the reason that is there. Returns @err unchanged (a -errno or 0). */
int reason_prefix(struct reason *why, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
