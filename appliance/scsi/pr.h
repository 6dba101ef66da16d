/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the commands about reservations share: pr.c, pr_in.c, pr_out.c. */
#pragma once

#include "scsi/pr_core.h"
#include "scsi/scsi_internal.h"
#include "scsi/state_change.h"

#define SCSI_PR_VERDICTS 64

struct scsi_pr {
	/* --- under lu->lock --- */
	struct pr_state state;
	uint64_t legacy_holder; /* nexus id of the RESERVE(6) reservation; 0: none */
	struct state_turn turn;
	/* --- written under lu->lock, read without --- */
	_Atomic uint64_t verdicts[SCSI_PR_VERDICTS];
};

/** The name of @nx in registrations. */
void scsi_pr_nexus_name(const struct scsi_nexus *nx, struct pr_nexus *ret);
/** After each change of the state: gate, fence, and verdicts follow it. */
void scsi_pr_changed_locked(struct scsi_lu *lu);
