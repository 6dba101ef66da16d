/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sense data, and how a command ends.
 *
 * A refusal is a struct scsi_sense; its bytes are built when the command ends, in the format the
 * logical unit's control mode page asks for (D_SENSE): fixed, 18 bytes (SPC-5 4.4.3), or descriptor
 * (SPC-5 4.4.2) with an information and a sense key specific descriptor where there is something to
 * say. An information value that does not fit fixed format's 4 bytes is left out there (VALID 0).
 */
#include <errno.h>
#include <string.h>

#include "scsi/scsi_internal.h"

#define SKSV 0x80

static unsigned build_fixed(const struct scsi_sense *s, uint8_t *b)
{
	memset(b, 0, 18);
	b[0] = s->deferred ? 0x71 : 0x70;
	if (s->has_info && s->info <= UINT32_MAX) {
		b[0] |= 0x80;
		put_be32(b + 3, (uint32_t)s->info);
	}
	b[2] = s->key;
	b[7] = 18 - 8;
	put_be16(b + 12, s->asc);
	if (s->has_cmd_info)
		put_be32(b + 8, s->cmd_info);
	if (s->has_sks)
		memcpy(b + 15, s->sks, 3);
	return 18;
}

static unsigned build_descriptor(const struct scsi_sense *s, uint8_t *b)
{
	unsigned n = 8;

	memset(b, 0, SCSI_SENSE_MAX);
	b[0] = s->deferred ? 0x73 : 0x72;
	b[1] = s->key;
	put_be16(b + 2, s->asc);
	if (s->has_info) {
		b[n] = 0x00;
		b[n + 1] = 0x0a;
		b[n + 2] = 0x80;
		put_be64(b + n + 4, s->info);
		n += 12;
	}
	if (s->has_cmd_info) {
		b[n] = 0x01;
		b[n + 1] = 0x0a;
		put_be64(b + n + 4, s->cmd_info);
		n += 12;
	}
	if (s->has_sks) {
		b[n] = 0x02;
		b[n + 1] = 0x06;
		memcpy(b + n + 4, s->sks, 3);
		n += 8;
	}
	b[7] = (uint8_t)(n - 8);
	return n;
}

unsigned scsi_sense_build(const struct scsi_sense *s, bool descriptor, uint8_t *buf)
{
	return descriptor ? build_descriptor(s, buf) : build_fixed(s, buf);
}

void scsi_sense_field(struct scsi_sense *s, bool in_cdb, unsigned byte, int bit)
{
	s->has_sks = true;
	s->sks[0] = SKSV | (in_cdb ? 0x40 : 0);
	if (bit >= 0)
		s->sks[0] |= (uint8_t)(0x08 | (bit & 7));
	put_be16(s->sks + 1, (uint16_t)byte);
}

void scsi_sense_progress(struct scsi_sense *s, uint16_t part)
{
	s->has_sks = true;
	s->sks[0] = SKSV;
	put_be16(s->sks + 1, part);
}

/* While parsing there is nobody to tell yet: the front asks for data or not, then executes. */
void scsi_finish(struct scsi_cmd *cmd, enum scsi_status status)
{
	cmd->status = status;
	if (cmd->parsing) {
		cmd->refused = true;
		cmd->dir = SCSI_DIR_NONE;
		cmd->data_len = 0;
		return;
	}
	cmd->done(cmd);
}

void scsi_check_sense(struct scsi_cmd *cmd, const struct scsi_sense *s)
{
	bool desc = cmd->lu && atomic_load_explicit(&cmd->lu->mode.d_sense, memory_order_relaxed);

	cmd->sense_len = (uint8_t)scsi_sense_build(s, desc, cmd->sense);
	scsi_finish(cmd, SCSI_CHECK_CONDITION);
}

void scsi_check(struct scsi_cmd *cmd, enum scsi_sense_key key, enum scsi_asc asc)
{
	struct scsi_sense s = {.key = (uint8_t)key, .asc = (uint16_t)asc};

	scsi_check_sense(cmd, &s);
}

void scsi_bad_cdb_field(struct scsi_cmd *cmd, unsigned byte, int bit)
{
	struct scsi_sense s = {.key = SENSE_ILLEGAL_REQUEST, .asc = ASC_INVALID_FIELD_IN_CDB};

	scsi_sense_field(&s, true, byte, bit);
	scsi_check_sense(cmd, &s);
}

void scsi_bad_param_field(struct scsi_cmd *cmd, unsigned byte, int bit)
{
	struct scsi_sense s = {.key = SENSE_ILLEGAL_REQUEST,
			       .asc = ASC_INVALID_FIELD_IN_PARAMETERS};

	scsi_sense_field(&s, false, byte, bit);
	scsi_check_sense(cmd, &s);
}

void scsi_bad_param_length(struct scsi_cmd *cmd)
{
	scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
}

void scsi_reply(struct scsi_cmd *cmd, const void *buf, size_t len)
{
	if (len > cmd->data_len)
		len = cmd->data_len;
	if (!cmd->in)
		len = 0;
	else if (len > cmd->in->cap)
		len = cmd->in->cap;
	if (len && buf != cmd->in->data)
		memcpy(cmd->in->data, buf, len);
	cmd->in_len = (uint32_t)len;
	scsi_good(cmd);
}

void scsi_sense_from_errno(int err, bool write, struct scsi_sense *ret_s)
{
	struct scsi_sense s = {0};

	switch (err) {
	case -ENOSPC:
	case -EDQUOT:
		s.key = SENSE_DATA_PROTECT;
		s.asc = ASC_SPACE_ALLOCATION_FAILED;
		break;
	case -EROFS:
	case -EPERM:
	case -EACCES:
		s.key = SENSE_DATA_PROTECT;
		s.asc = ASC_WRITE_PROTECTED;
		break;
	case -EIO:
		s.key = SENSE_MEDIUM_ERROR;
		s.asc = write ? ASC_WRITE_ERROR : ASC_UNRECOVERED_READ_ERROR;
		break;
	case -ENODATA:
		s.key = SENSE_MEDIUM_ERROR;
		s.asc = ASC_UNRECOVERED_READ_ERROR;
		break;
	case -EILSEQ:
		s.key = SENSE_MISCOMPARE;
		s.asc = ASC_MISCOMPARE;
		break;
	case -EINVAL:
		s.key = SENSE_ILLEGAL_REQUEST;
		s.asc = ASC_LBA_OUT_OF_RANGE;
		break;
	case -ENOMEM:
	case -EAGAIN:
		s.key = SENSE_ABORTED_COMMAND;
		s.asc = ASC_INSUFFICIENT_RESOURCES;
		break;
	default:
		s.key = SENSE_HARDWARE_ERROR;
		s.asc = ASC_INTERNAL_TARGET_FAILURE;
		break;
	}
	*ret_s = s;
}

void scsi_fail_errno(struct scsi_cmd *cmd, int err, bool write, uint64_t info_lba)
{
	struct scsi_sense s;

	if (!err) {
		scsi_good(cmd);
		return;
	}
	if (err == -ESHUTDOWN && cmd->lu) { /* a sanitize began when the command had passed */
		scsi_sanitize_refusal(cmd->lu, &s);
		scsi_check_sense(cmd, &s);
		return;
	}
	scsi_sense_from_errno(err, write, &s);
	if (s.key == SENSE_MEDIUM_ERROR) {
		s.has_info = true;
		s.info = info_lba;
	}
	scsi_check_sense(cmd, &s);
}
