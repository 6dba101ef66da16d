/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * REPORT TARGET PORT GROUPS (SPC-4 6.37): implicit asymmetric access with one group of all the
 * target's ports, always active/optimized. There is no SET TARGET PORT GROUPS, as TPGS in the
 * standard INQUIRY data says.
 */
#include <stdlib.h>

#include "scsi/scsi_commands_b.h"
#include "scsi/scsi_internal.h"

void scsi_report_target_port_groups(struct scsi_cmd *cmd)
{
	unsigned ports = scsi_target_ports(cmd->nexus->target);
	bool extended = cmd->cdb[1] & 0x20;
	size_t header = extended ? 8 : 4, len;
	uint8_t *buf, *group;

	if (ports > 255)
		ports = 255;
	len = header + 8 + 4 * ports;
	buf = calloc(1, len);
	if (!buf) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return;
	}
	put_be32(buf, (uint32_t)(len - 4));
	if (extended)
		buf[4] = 0x10; /* this format; IMPLICIT TRANSITION TIME 0: not given */
	group = buf + header;
	group[1] = 0x01; /* AO_SUP: active/optimized is all there is, and the state (0h) */
	put_be16(group + 2, SCSI_TPG_ID);
	group[7] = (uint8_t)ports;
	for (unsigned i = 0; i < ports; i++)
		put_be16(group + 8 + 4 * i + 2, (uint16_t)(i + 1));
	scsi_reply(cmd, buf, len);
	free(buf);
}
