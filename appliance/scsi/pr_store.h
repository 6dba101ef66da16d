/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Registrations and reservation as text, for the state file behind APTPL (SPC-4 5.12.5). */
#pragma once

#include "base/reason.h"
#include "scsi/pr_core.h"

/**
 * The state as a JSON document; @lun_uuid (text) tells whose it is. Malloc'ed, NULL without memory.
 */
char *pr_store_encode(const struct pr_state *st, const char *lun_uuid);
/**
 * Fills @ret_st (which holds nothing) from @text. A document of another LUN - one of the same name
 * that was deleted - yields an empty state. -EINVAL with a reason when it makes no sense: a
 * reservation that cannot be understood must not be ignored. -ENOMEM.
 */
int pr_store_decode(const char *text, const char *lun_uuid, struct pr_state *ret_st,
		    struct reason *why);
