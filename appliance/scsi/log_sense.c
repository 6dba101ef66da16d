/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * LOG SENSE (SPC-4 6.6): the lists of pages, and the logical block provisioning page (SBC-3 6.4.5)
 * of thin provisioned logical units. There is no LOG SELECT: nothing to reset, nothing to save.
 */
#include "scsi/scsi_commands_b.h"
#include "scsi/scsi_internal.h"

#define LOG_SUPPORTED	 0x00
#define LOG_PROVISIONING 0x0c
#define PARAM_USED	 0x0002
#define PARAM_LEN	 12

/** Pages of @lu, ascending. */
static size_t log_pages(const struct scsi_lu *lu, uint8_t out[2])
{
	out[0] = LOG_SUPPORTED;
	out[1] = LOG_PROVISIONING;
	return lu->thin ? 2 : 1;
}

/** How much is used, in blocks; false: the store cannot tell. */
static bool used_blocks(const struct scsi_lu *lu, uint32_t *ret_used)
{
	struct block_info info;
	uint64_t blocks;

	lun_get_block_info(lu->lun, &info);
	if (info.allocated == UINT64_MAX)
		return false;
	blocks = info.allocated >> lu->block_shift;
	*ret_used = blocks > UINT32_MAX ? UINT32_MAX : (uint32_t)blocks;
	return true;
}

static size_t put_provisioning(const struct scsi_lu *lu, uint8_t *out)
{
	uint32_t used;

	if (!used_blocks(lu, &used))
		return 0;
	put_be16(out, PARAM_USED);
	out[2] = 0x03; /* FORMAT AND LINKING: binary list */
	out[3] = PARAM_LEN - 4;
	put_be32(out + 4, used);
	out[8] = 0x01; /* SCOPE: dedicated to this logical unit */
	return PARAM_LEN;
}

static size_t put_page_list(const struct scsi_lu *lu, bool subpages, uint8_t *out)
{
	uint8_t pages[2];
	size_t n = log_pages(lu, pages), len = 0;

	for (size_t i = 0; i < n; i++) {
		out[len++] = pages[i];
		if (!subpages)
			continue;
		out[len++] = 0x00;
		if (pages[i] == LOG_SUPPORTED) { /* this list is a page too */
			out[len++] = LOG_SUPPORTED;
			out[len++] = 0xff;
		}
	}
	return len;
}

void scsi_log_sense(struct scsi_cmd *cmd)
{
	uint8_t page = cmd->cdb[2] & 0x3f, subpage = cmd->cdb[3];
	uint16_t first = get_be16(cmd->cdb + 5);
	uint8_t buf[32] = {0};
	size_t len;

	if (page == LOG_SUPPORTED && (subpage == 0 || subpage == 0xff)) {
		len = put_page_list(cmd->lu, subpage, buf + 4);
	} else if (page == LOG_PROVISIONING && subpage == 0 && cmd->lu->thin) {
		if (first > PARAM_USED) {
			scsi_bad_cdb_field(cmd, 5, -1);
			return;
		}
		len = put_provisioning(cmd->lu, buf + 4);
	} else {
		bool known = page == LOG_SUPPORTED || (page == LOG_PROVISIONING && cmd->lu->thin);

		scsi_bad_cdb_field(cmd, known ? 3 : 2, known ? -1 : 5);
		return;
	}
	buf[0] = (uint8_t)(page | (subpage ? 0x40 : 0)); /* SPF */
	buf[1] = subpage;
	put_be16(buf + 2, (uint16_t)len);
	scsi_reply(cmd, buf, 4 + len);
}
