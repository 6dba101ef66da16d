/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Command handlers of this folder that the opcode table names. */
#pragma once

struct scsi_cmd;

void scsi_test_unit_ready(struct scsi_cmd *cmd);
