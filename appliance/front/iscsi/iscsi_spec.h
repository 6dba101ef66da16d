/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The wire: basic header segments (RFC 7143 clause 11) as bytes, so that no compiler pads or swaps
 * them; numbers are read and written by base/endian.h. Every header is 48 bytes and shares the
 * first 20 (opcode, flags, AHS and data lengths, LUN, Initiator Task Tag).
 */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/endian.h"

#define ISCSI_BHS_LEN	   48u
#define ISCSI_AHS_MAX	   (255u * 4)
#define ISCSI_DIGEST_LEN   4u
#define ISCSI_TAG_RESERVED 0xffffffffu

/* Opcodes: 11.2.1.2 */
enum iscsi_opcode {
	ISCSI_OP_NOP_OUT = 0x00,
	ISCSI_OP_SCSI_CMD = 0x01,
	ISCSI_OP_TMF = 0x02,
	ISCSI_OP_LOGIN = 0x03,
	ISCSI_OP_TEXT = 0x04,
	ISCSI_OP_DATA_OUT = 0x05,
	ISCSI_OP_LOGOUT = 0x06,
	ISCSI_OP_SNACK = 0x10,
	ISCSI_OP_NOP_IN = 0x20,
	ISCSI_OP_SCSI_RSP = 0x21,
	ISCSI_OP_TMF_RSP = 0x22,
	ISCSI_OP_LOGIN_RSP = 0x23,
	ISCSI_OP_TEXT_RSP = 0x24,
	ISCSI_OP_DATA_IN = 0x25,
	ISCSI_OP_LOGOUT_RSP = 0x26,
	ISCSI_OP_R2T = 0x31,
	ISCSI_OP_ASYNC = 0x32,
	ISCSI_OP_REJECT = 0x3f,
};
#define ISCSI_OP_MASK	   0x3f
#define ISCSI_OP_IMMEDIATE 0x40

/* Flags, second byte; the meaning depends on the opcode. */
#define ISCSI_FLAG_FINAL	   0x80
#define ISCSI_CMD_READ		   0x40
#define ISCSI_CMD_WRITE		   0x20
#define ISCSI_CMD_ATTR_MASK	   0x07
#define ISCSI_RSP_UNDERFLOW	   0x02
#define ISCSI_RSP_OVERFLOW	   0x04
#define ISCSI_RSP_BIDI_UNDERFLOW   0x08
#define ISCSI_RSP_BIDI_OVERFLOW	   0x10
#define ISCSI_DATA_IN_STATUS	   0x01
#define ISCSI_LOGIN_TRANSIT	   0x80
#define ISCSI_TEXT_CONTINUE	   0x40 /* login and text */
#define ISCSI_LOGIN_CSG(flags)	   ((flags) >> 2 & 3)
#define ISCSI_LOGIN_NSG(flags)	   ((flags)&3)
#define ISCSI_TMF_FUNCTION(flags)  ((flags)&0x7f)
#define ISCSI_LOGOUT_REASON(flags) ((flags)&0x7f)

enum iscsi_stage { ISCSI_STAGE_SECURITY = 0, ISCSI_STAGE_OPERATIONAL = 1, ISCSI_STAGE_FULL = 3 };

/* Task management functions: 11.5.1, responses: 11.6.1 */
enum iscsi_tmf {
	ISCSI_TMF_ABORT_TASK = 1,
	ISCSI_TMF_ABORT_TASK_SET = 2,
	ISCSI_TMF_CLEAR_ACA = 3,
	ISCSI_TMF_CLEAR_TASK_SET = 4,
	ISCSI_TMF_LUN_RESET = 5,
	ISCSI_TMF_WARM_RESET = 6,
	ISCSI_TMF_COLD_RESET = 7,
	ISCSI_TMF_TASK_REASSIGN = 8,
};
enum iscsi_tmf_response {
	ISCSI_TMF_RSP_COMPLETE = 0,
	ISCSI_TMF_RSP_NO_TASK = 1,
	ISCSI_TMF_RSP_NO_LUN = 2,
	ISCSI_TMF_RSP_STILL_ALLEGIANT = 3,
	ISCSI_TMF_RSP_NO_REASSIGN = 4,
	ISCSI_TMF_RSP_NOT_SUPPORTED = 5,
	ISCSI_TMF_RSP_REJECTED = 255,
};

/* Logout: 11.14.1, 11.15.1 */
enum iscsi_logout_reason {
	ISCSI_LOGOUT_SESSION = 0,
	ISCSI_LOGOUT_CONNECTION = 1,
	ISCSI_LOGOUT_RECOVERY = 2,
};
enum iscsi_logout_response {
	ISCSI_LOGOUT_RSP_CLOSED = 0,
	ISCSI_LOGOUT_RSP_NO_CID = 1,
	ISCSI_LOGOUT_RSP_NO_RECOVERY = 2,
	ISCSI_LOGOUT_RSP_FAILED = 3,
};

/* Reject reasons: 11.17.1 */
enum iscsi_reject {
	ISCSI_REJECT_DATA_DIGEST = 0x02,
	ISCSI_REJECT_SNACK = 0x03,
	ISCSI_REJECT_PROTOCOL = 0x04,
	ISCSI_REJECT_NOT_SUPPORTED = 0x05,
	ISCSI_REJECT_TOO_MANY_IMMEDIATE = 0x06,
	ISCSI_REJECT_TASK_IN_PROGRESS = 0x07,
	ISCSI_REJECT_INVALID_DATA_ACK = 0x08,
	ISCSI_REJECT_INVALID_FIELD = 0x09,
	ISCSI_REJECT_LONG_OPERATION = 0x0a,
	ISCSI_REJECT_RESOURCES = 0x0b,
	ISCSI_REJECT_WAITING_LOGOUT = 0x0c,
};

/* Async events: 11.9.1 */
enum iscsi_async {
	ISCSI_ASYNC_SCSI = 0,
	ISCSI_ASYNC_LOGOUT = 1,
	ISCSI_ASYNC_DROP_CONNECTION = 2,
	ISCSI_ASYNC_DROP_ALL = 3,
	ISCSI_ASYNC_NEGOTIATE = 4,
};

/* Login status, class << 8 | detail: 11.13.5 */
enum iscsi_login_status {
	ISCSI_LOGIN_OK = 0x0000,
	ISCSI_LOGIN_INITIATOR_ERROR = 0x0200,
	ISCSI_LOGIN_AUTH_FAILED = 0x0201,
	ISCSI_LOGIN_FORBIDDEN = 0x0202,
	ISCSI_LOGIN_NOT_FOUND = 0x0203,
	ISCSI_LOGIN_REMOVED = 0x0204,
	ISCSI_LOGIN_VERSION = 0x0205,
	ISCSI_LOGIN_TOO_MANY = 0x0206,
	ISCSI_LOGIN_MISSING_PARAM = 0x0207,
	ISCSI_LOGIN_NO_INCLUDE = 0x0208,
	ISCSI_LOGIN_SESSION_TYPE = 0x0209,
	ISCSI_LOGIN_NO_SESSION = 0x020a,
	ISCSI_LOGIN_INVALID = 0x020b,
	ISCSI_LOGIN_TARGET_ERROR = 0x0300,
	ISCSI_LOGIN_UNAVAILABLE = 0x0301,
	ISCSI_LOGIN_RESOURCES = 0x0302,
};

/* Responses of SCSI Response: 11.4.3 */
enum iscsi_response { ISCSI_RESPONSE_COMPLETED = 0, ISCSI_RESPONSE_TARGET_FAILURE = 1 };

/* Additional header segments: 11.2.2 */
enum iscsi_ahs { ISCSI_AHS_EXTENDED_CDB = 1, ISCSI_AHS_BIDI_LENGTH = 2 };

/** What all PDUs share. */
struct iscsi_bhs {
	uint8_t opcode, flags, b2, b3, ahs_len, dsl[3];
	uint8_t lun[8];
	uint8_t itt[4];
	uint8_t w20[4], w24[4], w28[4], w32[4], w36[4], w40[4], w44[4];
};

/* Requests */
struct iscsi_scsi_cmd_bhs {
	uint8_t opcode, flags, r2[2], ahs_len, dsl[3], lun[8], itt[4];
	uint8_t edtl[4], cmdsn[4], expstatsn[4], cdb[16];
};
struct iscsi_tmf_bhs {
	uint8_t opcode, flags, r2[2], ahs_len, dsl[3], lun[8], itt[4];
	uint8_t ref_itt[4], cmdsn[4], expstatsn[4], ref_cmdsn[4], expdatasn[4], r40[8];
};
struct iscsi_data_out_bhs {
	uint8_t opcode, flags, r2[2], ahs_len, dsl[3], lun[8], itt[4];
	uint8_t ttt[4], r24[4], expstatsn[4], r32[4], datasn[4], offset[4], r44[4];
};
struct iscsi_login_bhs {
	uint8_t opcode, flags, version_max, version_min, ahs_len, dsl[3], isid[6], tsih[2], itt[4];
	uint8_t cid[2], r22[2], cmdsn[4], expstatsn[4], r32[16];
};
/* NOP-Out and Text Request; Logout Request has its CID in the first two bytes of ttt. */
struct iscsi_text_bhs {
	uint8_t opcode, flags, r2[2], ahs_len, dsl[3], lun[8], itt[4];
	uint8_t ttt[4], cmdsn[4], expstatsn[4], r32[16];
};

/* Responses */
struct iscsi_rsp_bhs {
	uint8_t opcode, flags, response, status, ahs_len, dsl[3], lun[8], itt[4];
	uint8_t ttt[4], statsn[4], expcmdsn[4], maxcmdsn[4];
	uint8_t datasn[4]; /* ExpDataSN in SCSI Response; R2TSN in R2T */
	uint8_t offset[4]; /* bidirectional read residual in SCSI Response */
	uint8_t resid[4];  /* Desired Data Transfer Length in R2T */
};
struct iscsi_login_rsp_bhs {
	uint8_t opcode, flags, version_max, version_active, ahs_len, dsl[3], isid[6], tsih[2],
		itt[4];
	uint8_t r20[4], statsn[4], expcmdsn[4], maxcmdsn[4], status_class, status_detail, r38[10];
};
struct iscsi_logout_rsp_bhs {
	uint8_t opcode, flags, response, r3, ahs_len, dsl[3], r8[8], itt[4];
	uint8_t r20[4], statsn[4], expcmdsn[4], maxcmdsn[4], r36[4], time2wait[2], time2retain[2],
		r44[4];
};
struct iscsi_async_bhs {
	uint8_t opcode, flags, r2[2], ahs_len, dsl[3], lun[8], tag[4];
	uint8_t r20[4], statsn[4], expcmdsn[4], maxcmdsn[4], event, vcode, param1[2], param2[2],
		param3[2], r44[4];
};

#define ISCSI_BHS_CHECK(t) static_assert(sizeof(struct t) == ISCSI_BHS_LEN, #t)
ISCSI_BHS_CHECK(iscsi_bhs);
ISCSI_BHS_CHECK(iscsi_scsi_cmd_bhs);
ISCSI_BHS_CHECK(iscsi_tmf_bhs);
ISCSI_BHS_CHECK(iscsi_data_out_bhs);
ISCSI_BHS_CHECK(iscsi_login_bhs);
ISCSI_BHS_CHECK(iscsi_text_bhs);
ISCSI_BHS_CHECK(iscsi_rsp_bhs);
ISCSI_BHS_CHECK(iscsi_login_rsp_bhs);
ISCSI_BHS_CHECK(iscsi_logout_rsp_bhs);
ISCSI_BHS_CHECK(iscsi_async_bhs);

static inline uint32_t iscsi_dsl(const void *bhs)
{
	return get_be24(((const struct iscsi_bhs *)bhs)->dsl);
}
static inline uint32_t iscsi_itt(const void *bhs)
{
	return get_be32(((const struct iscsi_bhs *)bhs)->itt);
}
static inline uint8_t iscsi_op(const void *bhs)
{
	return ((const struct iscsi_bhs *)bhs)->opcode & ISCSI_OP_MASK;
}
/** Bytes of padding behind @len bytes of data. */
static inline uint32_t iscsi_pad(uint32_t len)
{
	return -len & 3;
}

/* Serial number arithmetic (RFC 1982, 32 bits): the difference is a signed distance. */
static inline int32_t iscsi_sn_diff(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}
static inline bool iscsi_sn_in_window(uint32_t sn, uint32_t first, uint32_t last)
{
	return iscsi_sn_diff(sn, first) >= 0 && iscsi_sn_diff(sn, last) <= 0;
}
