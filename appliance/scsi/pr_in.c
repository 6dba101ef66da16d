/* SPDX-License-Identifier: GPL-2.0-or-later */
/* PERSISTENT RESERVE IN (SPC-4 6.15): what the state looks like from outside. */
#include <stdlib.h>
#include <string.h>

#include "scsi/pr.h"
#include "scsi/scsi_commands_b.h"

static uint8_t scope_and_type(const struct pr_state *st)
{
	return (uint8_t)st->type; /* scope 0: the logical unit */
}

/** READ KEYS; returns the length, writes when @out. */
static size_t put_keys(const struct pr_state *st, uint8_t *out)
{
	size_t len = 8 + 8 * st->n_regs;

	if (!out)
		return len;
	put_be32(out, st->generation);
	put_be32(out + 4, (uint32_t)(len - 8));
	for (size_t i = 0; i < st->n_regs; i++)
		put_be64(out + 8 + 8 * i, st->regs[i].key);
	return len;
}

static size_t put_reservation(const struct pr_state *st, uint8_t *out)
{
	size_t len = st->type == PR_TYPE_NONE ? 8 : 24;

	if (!out)
		return len;
	put_be32(out, st->generation);
	put_be32(out + 4, (uint32_t)(len - 8));
	if (len == 8)
		return len;
	if (!pr_type_all_registrants(st->type))
		put_be64(out + 8, st->regs[st->holder].key);
	out[21] = scope_and_type(st);
	return len;
}

static size_t put_full_status(const struct pr_state *st, uint8_t *out)
{
	size_t len = 8;

	for (size_t i = 0; i < st->n_regs; i++) {
		const struct pr_registration *reg = &st->regs[i];
		uint8_t *d = out ? out + len : NULL;

		len += 24 + reg->nexus.transport_id_len;
		if (!d)
			continue;
		put_be64(d, reg->key);
		if (pr_is_holder(st, reg)) {
			d[12] = 0x01; /* R_HOLDER */
			d[13] = scope_and_type(st);
		}
		put_be16(d + 18, reg->nexus.rel_port);
		put_be32(d + 20, reg->nexus.transport_id_len);
		memcpy(d + 24, reg->nexus.transport_id, reg->nexus.transport_id_len);
	}
	if (out) {
		put_be32(out, st->generation);
		put_be32(out + 4, (uint32_t)(len - 8));
	}
	return len;
}

/** SPC-4 6.15.4. */
static void reply_capabilities(struct scsi_cmd *cmd, const struct pr_state *st)
{
	uint8_t buf[8] = {0, 8};

	buf[2] = 0x10 | 0x08 | 0x04; /* CRH, SIP_C, ATP_C */
	if (state_can_save(cmd->lu))
		buf[2] |= 0x01; /* PTPL_C */
	buf[3] = 0x80 | 3 << 4; /* TMV; ALLOW COMMANDS: MODE SENSE etc. under write exclusive */
	if (st->aptpl)
		buf[3] |= 0x01; /* PTPL_A */
	buf[4] = 0xea;		/* all types but ... */
	buf[5] = 0x01;		/* ... Exclusive Access - All Registrants, here */
	scsi_reply(cmd, buf, sizeof(buf));
}

/** @st: a copy, or the state itself under the lock; @put builds the data. */
static void reply_built(struct scsi_cmd *cmd, const struct pr_state *st,
			size_t (*put)(const struct pr_state *st, uint8_t *out))
{
	size_t len = put(st, NULL);
	uint8_t *buf = calloc(1, len);

	if (!buf) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return;
	}
	put(st, buf);
	scsi_reply(cmd, buf, len);
	free(buf);
}

void scsi_pr_in(struct scsi_cmd *cmd)
{
	struct scsi_pr *pr = cmd->lu->pr;
	struct pr_state st;
	bool conflict;
	int ret = 0;

	mutex_lock(&cmd->lu->lock);
	conflict = pr->legacy_holder && pr->legacy_holder != cmd->nexus->id;
	if (!conflict)
		ret = pr_state_copy(&st, &pr->state, 0);
	mutex_unlock(&cmd->lu->lock);
	if (conflict) {
		scsi_finish(cmd, SCSI_RESERVATION_CONFLICT);
		return;
	}
	if (ret) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return;
	}
	switch (cmd->op->sa) {
	case 0:
		reply_built(cmd, &st, put_keys);
		break;
	case 1:
		reply_built(cmd, &st, put_reservation);
		break;
	case 2:
		reply_capabilities(cmd, &st);
		break;
	default:
		reply_built(cmd, &st, put_full_status);
		break;
	}
	pr_state_free(&st);
}
