/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Handlers that the opcode table names: what a command does, and the odd ones' lengths. */
#pragma once

#include <stdbool.h>

struct scsi_cmd;

void scsi_compare_and_write(struct scsi_cmd *cmd);
void scsi_get_lba_status(struct scsi_cmd *cmd);
void scsi_inquiry(struct scsi_cmd *cmd);
void scsi_orwrite(struct scsi_cmd *cmd);
void scsi_prefetch(struct scsi_cmd *cmd);
void scsi_prevent_allow(struct scsi_cmd *cmd);
void scsi_read(struct scsi_cmd *cmd);
void scsi_read_capacity_10(struct scsi_cmd *cmd);
void scsi_read_capacity_16(struct scsi_cmd *cmd);
void scsi_read_defect_data_10(struct scsi_cmd *cmd);
void scsi_read_defect_data_12(struct scsi_cmd *cmd);
void scsi_report_luns(struct scsi_cmd *cmd);
void scsi_report_supported_opcodes(struct scsi_cmd *cmd);
void scsi_report_supported_tmf(struct scsi_cmd *cmd);
void scsi_request_sense(struct scsi_cmd *cmd);
void scsi_start_stop_unit(struct scsi_cmd *cmd);
void scsi_synchronize_cache(struct scsi_cmd *cmd);
void scsi_test_unit_ready(struct scsi_cmd *cmd);
void scsi_unmap(struct scsi_cmd *cmd);
void scsi_verify(struct scsi_cmd *cmd);
void scsi_write(struct scsi_cmd *cmd);
void scsi_write_atomic(struct scsi_cmd *cmd);
void scsi_write_same(struct scsi_cmd *cmd);
void scsi_write_verify(struct scsi_cmd *cmd);

bool scsi_compare_and_write_length(struct scsi_cmd *cmd);
bool scsi_read_capacity_10_length(struct scsi_cmd *cmd);
bool scsi_verify_length(struct scsi_cmd *cmd);
bool scsi_write_atomic_length(struct scsi_cmd *cmd);
bool scsi_write_same_length(struct scsi_cmd *cmd);
bool scsi_write_verify_length(struct scsi_cmd *cmd);
