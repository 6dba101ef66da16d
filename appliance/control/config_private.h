/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the configuration share. */
#pragma once

#include "control/config.h"

struct config_check {
	const char *name; /* of the text; NULL: the declaration is no text */
	const struct config_lines *lines;
	struct reason *why;
};

/** Frees what config_check() derives. */
void config_free_derived(struct config *cfg);
/** Refuses the value at the path of keys @fmt for the reason in @inner. -EINVAL. */
int config_refuse(const struct config_check *c, const struct reason *inner, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/** Checks a CHAP name and secret, reading secret_file into the secret. */
int config_check_user(struct config_check *c, struct config_user *u, const char *path);
/** Parses @n entries of @path.luns to *@ret_map, which is set on failure too. */
int config_check_map(struct config_check *c, struct config *cfg, char *const *luns, unsigned n,
		     const char *path, struct config_map **ret_map);
/** What is exported through the kernel's target (config_lio.c). After iSCSI. */
int config_check_lio(struct config_check *c, struct config *cfg);
void config_free_lio_derived(struct config_lio *lio);
