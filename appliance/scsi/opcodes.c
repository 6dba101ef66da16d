/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The opcode table. One row a command (with service actions: one row each) says everything that
 * can be said without running it: what it moves, what reservations and states it runs under, which
 * CDB bits it knows. Dispatch, the checks before dispatch, REPORT SUPPORTED OPERATION CODES and the
 * list in docs/scsi.md are all read from it.
 */
#include <pthread.h>
#include <stddef.h>

#include "scsi/scsi_commands.h"
#include "scsi/scsi_commands_b.h"
#include "scsi/scsi_internal.h"

const struct scsi_opcode scsi_opcodes[] = {
	{
		.name = "TEST UNIT READY",
		.opcode = 0x00,
		.cdb_len = 6,
		.flags = SCSI_OP_MEDIUM,
		.resv = SCSI_RESV_READ,
		.exec = scsi_test_unit_ready,
	},
#include "scsi/opcodes_b.inc"
};
const unsigned scsi_n_opcodes = sizeof(scsi_opcodes) / sizeof(scsi_opcodes[0]);

static uint8_t first_row[256]; /* 1 + index of the first row of an opcode; 0: none */
static pthread_once_t index_once = PTHREAD_ONCE_INIT;

static void build_index(void)
{
	for (unsigned i = scsi_n_opcodes; i-- > 0;)
		first_row[scsi_opcodes[i].opcode] = (uint8_t)(i + 1);
}

const struct scsi_opcode *scsi_opcode_find(const uint8_t *cdb, unsigned len, bool *ret_known)
{
	pthread_once(&index_once, build_index);

	unsigned i = len ? first_row[cdb[0]] : 0;

	*ret_known = i != 0;
	if (!i--)
		return NULL;
	if (!(scsi_opcodes[i].flags & SCSI_OP_SA))
		return &scsi_opcodes[i];
	for (; i < scsi_n_opcodes; i++) {
		if (scsi_opcodes[i].opcode == cdb[0] && len > 1 &&
		    scsi_opcodes[i].sa == (cdb[1] & 0x1f))
			return &scsi_opcodes[i];
	}
	return NULL;
}
