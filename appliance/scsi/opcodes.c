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

/*
 * The CDB of a command on a range of blocks: LBA, GROUP NUMBER, how many. @options are the bits of
 * byte 1 that it knows.
 */
#define CDB_10(options)                                                        \
	.cdb_len = 10, .lba_off = 2, .lba_len = 4, .len_off = 7, .len_len = 2, \
	.usage = {[1] = (options), [2 ... 5] = 0xff, [6] = 0x1f, [7 ... 8] = 0xff}
#define CDB_12(options)                                                        \
	.cdb_len = 12, .lba_off = 2, .lba_len = 4, .len_off = 6, .len_len = 4, \
	.usage = {[1] = (options), [2 ... 9] = 0xff, [10] = 0x1f}
#define CDB_16(options)                                                         \
	.cdb_len = 16, .lba_off = 2, .lba_len = 8, .len_off = 10, .len_len = 4, \
	.usage = {[1] = (options), [2 ... 13] = 0xff, [14] = 0x1f}

const struct scsi_opcode scsi_opcodes[] = {
	{
		.name = "TEST UNIT READY",
		.opcode = 0x00,
		.cdb_len = 6,
		.flags = SCSI_OP_MEDIUM,
		.resv = SCSI_RESV_LEGACY,
		.exec = scsi_test_unit_ready,
	},
	{
		.name = "REQUEST SENSE",
		.opcode = 0x03,
		.cdb_len = 6,
		.flags = SCSI_OP_NO_UA | SCSI_OP_NO_LU | SCSI_OP_SANITIZE,
		.resv = SCSI_RESV_ANY,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BYTES,
		.len_off = 4,
		.len_len = 1,
		.usage = {[1] = 0x01, [4] = 0xff},
		.exec = scsi_request_sense,
	},
	{
		.name = "READ(6)",
		.opcode = 0x08,
		.cdb_len = 6,
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA | SCSI_OP_SIX | SCSI_OP_DIRECT,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BLOCKS,
		.lba_off = 1,
		.lba_len = 3,
		.len_off = 4,
		.len_len = 1,
		.usage = {[1] = 0x1f, [2 ... 4] = 0xff},
		.exec = scsi_read,
	},
	{
		.name = "WRITE(6)",
		.opcode = 0x0a,
		.cdb_len = 6,
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA | SCSI_OP_SIX |
			 SCSI_OP_DIRECT,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_BLOCKS,
		.lba_off = 1,
		.lba_len = 3,
		.len_off = 4,
		.len_len = 1,
		.usage = {[1] = 0x1f, [2 ... 4] = 0xff},
		.exec = scsi_write,
	},
	{
		.name = "INQUIRY",
		.opcode = 0x12,
		.cdb_len = 6,
		.flags = SCSI_OP_NO_UA | SCSI_OP_NO_LU | SCSI_OP_SANITIZE,
		.resv = SCSI_RESV_ANY,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BYTES,
		.len_off = 3,
		.len_len = 2,
		.usage = {[1] = 0x01, [2 ... 4] = 0xff},
		.exec = scsi_inquiry,
	},
	{
		.name = "START STOP UNIT",
		.opcode = 0x1b,
		.cdb_len = 6,
		.resv = SCSI_RESV_WRITE,
		.usage = {[1] = 0x01, [3] = 0x0f, [4] = 0xf7},
		.exec = scsi_start_stop_unit,
	},
	{
		.name = "PREVENT ALLOW MEDIUM REMOVAL",
		.opcode = 0x1e,
		.cdb_len = 6,
		.resv = SCSI_RESV_LEGACY,
		.usage = {[4] = 0x01},
		.exec = scsi_prevent_allow,
	},
	{
		.name = "READ CAPACITY(10)",
		.opcode = 0x25,
		.cdb_len = 10,
		.flags = SCSI_OP_MEDIUM,
		.resv = SCSI_RESV_LEGACY,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_FN,
		.length = scsi_read_capacity_10_length,
		.exec = scsi_read_capacity_10,
	},
	{
		.name = "READ(10)",
		.opcode = 0x28,
		CDB_10(0x18),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA | SCSI_OP_DIRECT,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BLOCKS,
		.exec = scsi_read,
	},
	{
		.name = "WRITE(10)",
		.opcode = 0x2a,
		CDB_10(0x18),
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA | SCSI_OP_DIRECT,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_BLOCKS,
		.exec = scsi_write,
	},
	{
		.name = "WRITE AND VERIFY(10)",
		.opcode = 0x2e,
		CDB_10(0x16),
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.length = scsi_write_verify_length,
		.exec = scsi_write_verify,
	},
	{
		.name = "VERIFY(10)",
		.opcode = 0x2f,
		CDB_10(0x16),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.length = scsi_verify_length,
		.exec = scsi_verify,
	},
	{
		.name = "PRE-FETCH(10)",
		.opcode = 0x34,
		CDB_10(0x02),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_READ,
		.exec = scsi_prefetch,
	},
	{
		.name = "SYNCHRONIZE CACHE(10)",
		.opcode = 0x35,
		CDB_10(0x06),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_WRITE,
		.exec = scsi_synchronize_cache,
	},
	{
		.name = "READ DEFECT DATA(10)",
		.opcode = 0x37,
		.cdb_len = 10,
		.flags = SCSI_OP_MEDIUM,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BYTES,
		.len_off = 7,
		.len_len = 2,
		.usage = {[2] = 0x1f, [7 ... 8] = 0xff},
		.exec = scsi_read_defect_data_10,
	},
	{
		.name = "WRITE SAME(10)",
		.opcode = 0x41,
		CDB_10(0x08),
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.length = scsi_write_same_length,
		.exec = scsi_write_same,
	},
	{
		.name = "UNMAP",
		.opcode = 0x42,
		.cdb_len = 10,
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_THIN,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_BYTES,
		.len_off = 7,
		.len_len = 2,
		.data_max = 65535,
		.usage = {[6] = 0x1f, [7 ... 8] = 0xff},
		.exec = scsi_unmap,
	},
	{
		.name = "READ(16)",
		.opcode = 0x88,
		CDB_16(0x18),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA | SCSI_OP_DIRECT,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BLOCKS,
		.exec = scsi_read,
	},
	{
		.name = "COMPARE AND WRITE",
		.opcode = SCSI_COMPARE_AND_WRITE,
		.cdb_len = 16,
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA | SCSI_OP_ONCE,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.lba_off = 2,
		.lba_len = 8,
		.len_off = 13,
		.len_len = 1,
		.usage = {[1] = 0x18, [2 ... 9] = 0xff, [13] = 0xff, [14] = 0x1f},
		.length = scsi_compare_and_write_length,
		.exec = scsi_compare_and_write,
	},
	{
		.name = "WRITE(16)",
		.opcode = 0x8a,
		CDB_16(0x18),
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA | SCSI_OP_DIRECT,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_BLOCKS,
		.exec = scsi_write,
	},
	{
		.name = "ORWRITE(16)",
		.opcode = 0x8b,
		CDB_16(0x18),
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_BLOCKS,
		.exec = scsi_orwrite,
	},
	{
		.name = "WRITE AND VERIFY(16)",
		.opcode = 0x8e,
		CDB_16(0x16),
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.length = scsi_write_verify_length,
		.exec = scsi_write_verify,
	},
	{
		.name = "VERIFY(16)",
		.opcode = 0x8f,
		CDB_16(0x16),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.length = scsi_verify_length,
		.exec = scsi_verify,
	},
	{
		.name = "PRE-FETCH(16)",
		.opcode = 0x90,
		CDB_16(0x02),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_READ,
		.exec = scsi_prefetch,
	},
	{
		.name = "SYNCHRONIZE CACHE(16)",
		.opcode = 0x91,
		CDB_16(0x06),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_WRITE,
		.exec = scsi_synchronize_cache,
	},
	{
		.name = "WRITE SAME(16)",
		.opcode = 0x93,
		CDB_16(0x09),
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.length = scsi_write_same_length,
		.exec = scsi_write_same,
	},
	{
		.name = "WRITE ATOMIC(16)",
		.opcode = 0x9c,
		.cdb_len = 16,
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.lba_off = 2,
		.lba_len = 8,
		.len_off = 12,
		.len_len = 2,
		.usage = {[1] = 0x18, [2 ... 13] = 0xff, [14] = 0x1f},
		.length = scsi_write_atomic_length,
		.exec = scsi_write_atomic,
	},
	{
		.name = "READ CAPACITY(16)",
		.opcode = 0x9e,
		.sa = 0x10,
		.cdb_len = 16,
		.flags = SCSI_OP_SA | SCSI_OP_MEDIUM,
		.resv = SCSI_RESV_LEGACY,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BYTES,
		.len_off = 10,
		.len_len = 4,
		.usage = {[10 ... 13] = 0xff},
		.exec = scsi_read_capacity_16,
	},
	{
		.name = "GET LBA STATUS",
		.opcode = 0x9e,
		.sa = 0x12,
		.cdb_len = 16,
		.flags = SCSI_OP_SA | SCSI_OP_MEDIUM,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BYTES,
		.lba_off = 2,
		.lba_len = 8,
		.len_off = 10,
		.len_len = 4,
		.usage = {[2 ... 13] = 0xff},
		.exec = scsi_get_lba_status,
	},
	{
		.name = "REPORT LUNS",
		.opcode = 0xa0,
		.cdb_len = 12,
		.flags = SCSI_OP_NO_UA | SCSI_OP_NO_LU | SCSI_OP_SANITIZE,
		.resv = SCSI_RESV_ANY,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BYTES,
		.len_off = 6,
		.len_len = 4,
		.usage = {[2] = 0xff, [6 ... 9] = 0xff},
		.exec = scsi_report_luns,
	},
	{
		.name = "REPORT SUPPORTED OPERATION CODES",
		.opcode = 0xa3,
		.sa = 0x0c,
		.cdb_len = 12,
		.flags = SCSI_OP_SA | SCSI_OP_SANITIZE,
		.resv = SCSI_RESV_ANY,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BYTES,
		.len_off = 6,
		.len_len = 4,
		.usage = {[2] = 0x87, [3 ... 9] = 0xff},
		.exec = scsi_report_supported_opcodes,
	},
	{
		.name = "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
		.opcode = 0xa3,
		.sa = 0x0d,
		.cdb_len = 12,
		.flags = SCSI_OP_SA | SCSI_OP_SANITIZE,
		.resv = SCSI_RESV_ANY,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BYTES,
		.len_off = 6,
		.len_len = 4,
		.usage = {[2] = 0x80, [6 ... 9] = 0xff},
		.exec = scsi_report_supported_tmf,
	},
	{
		.name = "READ(12)",
		.opcode = 0xa8,
		CDB_12(0x18),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA | SCSI_OP_DIRECT,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BLOCKS,
		.exec = scsi_read,
	},
	{
		.name = "WRITE(12)",
		.opcode = 0xaa,
		CDB_12(0x18),
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA | SCSI_OP_DIRECT,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_BLOCKS,
		.exec = scsi_write,
	},
	{
		.name = "WRITE AND VERIFY(12)",
		.opcode = 0xae,
		CDB_12(0x16),
		.flags = SCSI_OP_WRITES | SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_WRITE,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.length = scsi_write_verify_length,
		.exec = scsi_write_verify,
	},
	{
		.name = "VERIFY(12)",
		.opcode = 0xaf,
		CDB_12(0x16),
		.flags = SCSI_OP_MEDIUM | SCSI_OP_LBA,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_OUT,
		.len_kind = SCSI_LEN_FN,
		.length = scsi_verify_length,
		.exec = scsi_verify,
	},
	{
		.name = "READ DEFECT DATA(12)",
		.opcode = 0xb7,
		.cdb_len = 12,
		.flags = SCSI_OP_MEDIUM,
		.resv = SCSI_RESV_READ,
		.dir = SCSI_DIR_IN,
		.len_kind = SCSI_LEN_BYTES,
		.len_off = 6,
		.len_len = 4,
		.usage = {[1] = 0x1f, [2 ... 9] = 0xff},
		.exec = scsi_read_defect_data_12,
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
