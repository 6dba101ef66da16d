/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The few iSCSI (RFC 7143 §11) numbers an initiator without digests needs. */
#pragma once

#define BHS_LEN 48u

#define OP_IMMEDIATE 0x40
#define OP_NOP_OUT   0x00
#define OP_SCSI_CMD  0x01
#define OP_LOGIN     0x03
#define OP_DATA_OUT  0x05
#define OP_LOGOUT    0x06
#define OP_NOP_IN    0x20
#define OP_SCSI_RSP  0x21
#define OP_LOGIN_RSP 0x23
#define OP_DATA_IN   0x25
#define OP_R2T	     0x31
#define OP_ASYNC     0x32
#define OP_REJECT    0x3f
#define OP_MASK	     0x3f

#define FLAG_FINAL	0x80
#define CMD_READ	0x40
#define CMD_WRITE	0x20
#define CMD_SIMPLE	0x01 /* task attribute */
#define DATA_IN_STATUS	0x01 /* phase collapse: the status rides on the last Data-In */
#define RSP_OVERFLOW	0x04
#define RSP_UNDERFLOW	0x02
#define LOGIN_TRANSIT	0x80
#define STAGE_SECURITY	0
#define STAGE_OPERATION 1
#define STAGE_FULL	3

#define TAG_NONE 0xffffffffu

#define SCSI_GOOD	     0x00
#define SCSI_CHECK_CONDITION 0x02
