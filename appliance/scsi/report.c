/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands that tell about the device server itself: REPORT LUNS, REQUEST SENSE, REPORT SUPPORTED
 * OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-5 6.33, 6.39, 6.35, 6.36).
 */
#include <assert.h>
#include <string.h>

#include "scsi/scsi_commands.h"
#include "scsi/scsi_internal.h"

/* --- REPORT LUNS --- */

/* Having been told of the new list is what clears REPORTED LUNS DATA HAS CHANGED (SAM-5 5.14). */
static void luns_were_reported(struct scsi_nexus *nx)
{
	struct scsi_itl *itl;

	list_for_each_entry (itl, &nx->itls, nexus_link)
		atomic_fetch_and_explicit(&itl->ua, ~(1u << SCSI_UA_LUNS_CHANGED),
					  memory_order_acq_rel);
}

void scsi_report_luns(struct scsi_cmd *cmd)
{
	uint8_t b[8 + SCSI_LUNS_MAX * 8] = {0};
	unsigned n = 0;

	if (get_be32(cmd->cdb + 6) < 16) {
		scsi_bad_cdb_field(cmd, 6, -1);
		return;
	}
	switch (cmd->cdb[2]) {
	case 0x00:
	case 0x02:
		n = scsi_target_list_luns(cmd->nexus->target, b + 8);
		break;
	case 0x01: /* well known logical units: there are none */
		break;
	default:
		scsi_bad_cdb_field(cmd, 2, -1);
		return;
	}
	luns_were_reported(cmd->nexus);
	put_be32(b, n * 8);
	scsi_reply(cmd, b, 8 + n * 8);
}

/* --- REQUEST SENSE --- */

static void current_sense(struct scsi_cmd *cmd, struct scsi_sense *s)
{
	uint32_t gates;
	int ua;

	if (!cmd->lu) {
		s->key = SENSE_ILLEGAL_REQUEST;
		s->asc = ASC_LU_NOT_SUPPORTED;
		return;
	}
	gates = scsi_lu_gates(cmd->lu);
	ua = scsi_ua_take(cmd->itl);
	if (ua >= 0) {
		s->key = SENSE_UNIT_ATTENTION;
		s->asc = scsi_ua_asc((enum scsi_ua)ua);
	} else if (gates & SCSI_GATE_SANITIZE) {
		scsi_sanitize_refusal(cmd->lu, s);
	} else if (gates & SCSI_GATE_EJECTED) {
		s->key = SENSE_NOT_READY;
		s->asc = ASC_MEDIUM_NOT_PRESENT;
	}
}

void scsi_request_sense(struct scsi_cmd *cmd)
{
	struct scsi_sense s = {0};
	uint8_t b[SCSI_SENSE_MAX];

	current_sense(cmd, &s);
	scsi_reply(cmd, b, scsi_sense_build(&s, cmd->cdb[1] & 1, b));
}

/* --- REPORT SUPPORTED OPERATION CODES --- */

#define TIMEOUTS_LEN 12u

static bool exists(const struct scsi_lu *lu, const struct scsi_opcode *op)
{
	return lu->thin || !(op->flags & SCSI_OP_THIN);
}

/* Command timeouts descriptor: no times are reported. */
static unsigned put_timeouts(uint8_t *b)
{
	memset(b, 0, TIMEOUTS_LEN);
	put_be16(b, TIMEOUTS_LEN - 2);
	return TIMEOUTS_LEN;
}

static void report_all(struct scsi_cmd *cmd, bool rctd)
{
	uint8_t *b = cmd->in ? cmd->in->data : NULL;
	unsigned one = rctd ? 8 + TIMEOUTS_LEN : 8, n = 4;

	if (!b) {
		scsi_good(cmd);
		return;
	}
	assert(cmd->in->cap >= 4 + scsi_n_opcodes * one);
	for (unsigned i = 0; i < scsi_n_opcodes; i++) {
		const struct scsi_opcode *op = &scsi_opcodes[i];

		if (!exists(cmd->lu, op))
			continue;
		memset(b + n, 0, 8);
		b[n] = op->opcode;
		if (op->flags & SCSI_OP_SA)
			b[n + 3] = op->sa;
		b[n + 5] = (uint8_t)((rctd ? 0x02 : 0) | (op->flags & SCSI_OP_SA ? 0x01 : 0));
		b[n + 7] = op->cdb_len;
		n += 8;
		if (rctd)
			n += put_timeouts(b + n);
	}
	put_be32(b, n - 4);
	scsi_reply(cmd, b, n);
}

static void report_one(struct scsi_cmd *cmd, const struct scsi_opcode *op, bool rctd)
{
	uint8_t b[4 + sizeof(op->usage) + TIMEOUTS_LEN] = {0};
	unsigned n = 4;

	b[1] = 0x01; /* not supported */
	if (op && exists(cmd->lu, op)) {
		b[1] = 0x03;
		b[3] = op->cdb_len;
		memcpy(b + 4, op->usage, op->cdb_len);
		b[4] = op->opcode;
		if (op->flags & SCSI_OP_SA)
			b[5] |= op->sa;
		n += op->cdb_len;
		if (rctd) {
			b[1] |= 0x80;
			n += put_timeouts(b + n);
		}
	}
	scsi_reply(cmd, b, n);
}

static bool sa_fits(uint16_t sa)
{
	return sa < 0x20;
}

void scsi_report_supported_opcodes(struct scsi_cmd *cmd)
{
	bool rctd = cmd->cdb[2] & 0x80, known;
	unsigned options = cmd->cdb[2] & 7;
	uint16_t sa = get_be16(cmd->cdb + 4);
	uint8_t wanted[2] = {cmd->cdb[3], (uint8_t)(sa & 0x1f)};
	const struct scsi_opcode *op = scsi_opcode_find(wanted, 2, &known);
	bool has_sa = known && (!op || (op->flags & SCSI_OP_SA));

	switch (options) {
	case 0:
		report_all(cmd, rctd);
		return;
	case 1: /* an opcode that has no service actions */
		if (has_sa) {
			scsi_bad_cdb_field(cmd, 2, 2);
			return;
		}
		break;
	case 2: /* an opcode that has them */
		if (known && !has_sa) {
			scsi_bad_cdb_field(cmd, 2, 2);
			return;
		}
		break;
	case 3: /* either; the service action of one that has none is 0 */
		if (known && !has_sa && sa)
			op = NULL;
		break;
	default:
		scsi_bad_cdb_field(cmd, 2, 2);
		return;
	}
	if (has_sa && !sa_fits(sa))
		op = NULL;
	report_one(cmd, op, rctd);
}

/* --- REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS --- */

void scsi_report_supported_tmf(struct scsi_cmd *cmd)
{
	bool repd = cmd->cdb[2] & 0x80;
	uint8_t b[16] = {0};

	if (get_be32(cmd->cdb + 6) < 4) {
		scsi_bad_cdb_field(cmd, 6, -1);
		return;
	}
	b[0] = 0x80 | 0x40 | 0x10 | 0x08 | 0x02; /* ATS, ATSS, CTSS, LURS, TRS */
	b[3] = repd ? 0x0c : 0x00;
	scsi_reply(cmd, b, repd ? 16 : 4);
}
