/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which TCMU backstores are ours, and whether one can be: names and configuration strings.
 *
 * LIO's configuration string of a user backstore is HANDLER/WHAT; ours are "ebb/NAME" with the name
 * of a LUN. The kernel names the UIO device of a backstore "tcm-user/HBA/BACKSTORE/ebb/NAME".
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/reason.h"
#include "lun/lun.h"

#define TCMU_HANDLER	   "ebb"
#define TCMU_BACKSTORE_MAX 255 /* a name in configfs */

struct tcmu_name {
	unsigned hba;
	char backstore[TCMU_BACKSTORE_MAX + 1];
	char lun[LUN_NAME_MAX + 1];
};

/** The LUN's name in "ebb/NAME", or NULL when @config is another handler's. */
const char *tcmu_config_lun(const char *config);
/** Takes the name of a UIO device apart; false: not a backstore of ours. */
bool tcmu_parse_name(const char *uio, struct tcmu_name *ret_name);
bool tcmu_same_name(const struct tcmu_name *a, const struct tcmu_name *b);
/**
 * Whether a backstore of @size bytes (0: not known yet) can be made with the configuration string
 * @config. Any thread. -EINVAL: malformed, or the size is not the LUN's; -ENOENT: no such LUN. The
 * reason is one sentence for whoever makes the backstore.
 */
int tcmu_check_config(struct lun_table *luns, const char *config, uint64_t size,
		      struct reason *why);
/** The same for a LUN that was found. */
int tcmu_check_size(const struct lun *lun, uint64_t size, struct reason *why);
