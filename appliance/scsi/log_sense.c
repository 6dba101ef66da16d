/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * LOG SENSE (SPC-4 6.6): the lists of pages, and the logical block provisioning page (SBC-3 6.4.5)
 * of thin provisioned logical units. There is no LOG SELECT: nothing to reset, nothing to save.
 *
 * What is used is counted in threshold sets of SCSI_THRESHOLD_SET bytes, the unit that VPD page B2h
 * declares: in blocks, 32 bits would end at 2 TiB. To ask the store may block (fstat of a file on a
 * busy or remote file system), so a worker does.
 */
#include <stdlib.h>

#include "event/worker.h"
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

static void reply(struct scsi_cmd *cmd, uint8_t *page, size_t len)
{
	put_be16(page + 2, (uint16_t)len);
	scsi_reply(cmd, page, 4 + len);
}

/* --- logical block provisioning --- */

struct provisioning {
	struct worker_job job;
	struct scsi_cmd *cmd;
	struct block_info info;
};

static void provisioning_run(struct worker_job *j)
{
	struct provisioning *p = container_of(j, struct provisioning, job);

	lun_get_block_info(p->cmd->lu->lun, &p->info);
}

static void provisioning_done(struct worker_job *j)
{
	struct provisioning *p = container_of(j, struct provisioning, job);
	uint8_t page[4 + PARAM_LEN] = {LOG_PROVISIONING}, *param = page + 4;
	uint64_t sets = (p->info.allocated + SCSI_THRESHOLD_SET - 1) / SCSI_THRESHOLD_SET;

	if (p->info.allocated == UINT64_MAX) { /* the store cannot tell */
		reply(p->cmd, page, 0);
		return;
	}
	put_be16(param, PARAM_USED);
	param[2] = 0x03; /* FORMAT AND LINKING: binary list */
	param[3] = PARAM_LEN - 4;
	put_be32(param + 4, sets > UINT32_MAX ? UINT32_MAX : (uint32_t)sets);
	param[8] = 0x01; /* SCOPE: dedicated to this logical unit */
	reply(p->cmd, page, PARAM_LEN);
}

static void log_provisioning(struct scsi_cmd *cmd)
{
	struct provisioning *p;

	if (get_be16(cmd->cdb + 5) > PARAM_USED) {
		scsi_bad_cdb_field(cmd, 5, -1);
		return;
	}
	p = calloc(1, sizeof(*p));
	if (!p) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return;
	}
	p->cmd = cmd;
	p->job.run = provisioning_run;
	p->job.done = provisioning_done;
	p->job.reactor = cmd->nexus->reactor;
	cmd->priv = p;
	cmd->priv_free = free;
	worker_submit(&p->job);
}

void scsi_log_sense(struct scsi_cmd *cmd)
{
	uint8_t page = cmd->cdb[2] & 0x3f, subpage = cmd->cdb[3];
	bool provisioning = page == LOG_PROVISIONING && cmd->lu->thin;
	uint8_t buf[32] = {0};

	if (page == LOG_SUPPORTED && (subpage == 0 || subpage == 0xff)) {
		buf[0] = subpage ? 0x40 : 0; /* SPF */
		buf[1] = subpage;
		reply(cmd, buf, put_page_list(cmd->lu, subpage, buf + 4));
	} else if (provisioning && subpage == 0) {
		log_provisioning(cmd);
	} else {
		bool known = page == LOG_SUPPORTED || provisioning;

		scsi_bad_cdb_field(cmd, known ? 3 : 2, known ? -1 : 5);
	}
}
