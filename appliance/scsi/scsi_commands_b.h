/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Handlers that the rows of opcodes_b.inc name, and what others of this folder ask their files. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "scsi/pr_core.h"

struct scsi_cmd;
struct scsi_lu;
struct scsi_nexus;

/* pr.c */
void scsi_pr_in(struct scsi_cmd *cmd);
void scsi_pr_out(struct scsi_cmd *cmd);
void scsi_reserve6(struct scsi_cmd *cmd);
void scsi_release6(struct scsi_cmd *cmd);
/**
 * Whether the reservations of @lu let the initiator port of @nx do a command of @cls there, through
 * whatever port of whatever target: for third-party copy, whose LUs need not be @nx's own.
 */
bool scsi_pr_initiator_allowed(struct scsi_lu *lu, struct scsi_nexus *nx, enum pr_class cls);
/** Any thread: the fence of the LUN follows the reservations and SCSI_GATE_SANITIZE. */
void scsi_pr_update_fence_locked(struct scsi_lu *lu);

/* mode.c, mode_select.c */
void scsi_mode_sense6(struct scsi_cmd *cmd);
void scsi_mode_sense10(struct scsi_cmd *cmd);
void scsi_mode_select6(struct scsi_cmd *cmd);
void scsi_mode_select10(struct scsi_cmd *cmd);

/* log_sense.c */
void scsi_log_sense(struct scsi_cmd *cmd);

/* sanitize.c */
void scsi_sanitize_overwrite(struct scsi_cmd *cmd);
void scsi_sanitize_block_erase(struct scsi_cmd *cmd);
void scsi_sanitize_crypto_erase(struct scsi_cmd *cmd);
void scsi_sanitize_exit_failure(struct scsi_cmd *cmd);

/* xcopy.c, xcopy_results.c */
#define SCSI_XCOPY_MAX_TARGETS	   32
#define SCSI_XCOPY_MAX_SEGMENTS	   64
#define SCSI_XCOPY_MAX_LIST	   (SCSI_XCOPY_MAX_TARGETS * 32 + SCSI_XCOPY_MAX_SEGMENTS * 32)
#define SCSI_XCOPY_MAX_SEGMENT_LEN (256u << 20) /* bytes */
#define SCSI_XCOPY_MAX_CONCURRENT  16		/* copies of one LU */
void scsi_extended_copy(struct scsi_cmd *cmd);
void scsi_copy_status(struct scsi_cmd *cmd);
void scsi_copy_receive_data(struct scsi_cmd *cmd);
void scsi_copy_parameters(struct scsi_cmd *cmd);
void scsi_copy_failed_details(struct scsi_cmd *cmd);
/** Drops what @lu's copies have left behind. NULL state is fine. */
void scsi_xcopy_destroy(struct scsi_lu *lu);

/* alua.c */
void scsi_report_target_port_groups(struct scsi_cmd *cmd);
