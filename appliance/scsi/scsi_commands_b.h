/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Handlers that the rows of opcodes_b.inc name. */
#pragma once

struct scsi_cmd;
