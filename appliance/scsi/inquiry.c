/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * INQUIRY: standard data (SPC-5 6.7) and vital product data. Each page is a function that fills a
 * zeroed buffer behind the four byte header and returns its length; the list of pages is the table
 * at the end, from which page 00h is made.
 */
#include <string.h>

#include "scsi/scsi_commands.h"
#include "scsi/scsi_commands_b.h"
#include "scsi/scsi_internal.h"

#define PAGE_MAX 512u /* the longest page with its header; designators of a long name included */

/* Version descriptors (SPC-5 6.7.2 table 150): what the device server follows. */
static const uint16_t versions[] = {
	0x00a0, /* SAM-5 */
	0x0460, /* SPC-4 */
	0x04c0, /* SBC-3 */
	0x0960, /* iSCSI */
};

static void standard_data(struct scsi_cmd *cmd)
{
	const struct scsi_lu *lu = cmd->lu;
	uint8_t b[96] = {0};

	b[0] = lu ? 0x00 : 0x7f;
	b[1] = lu && lu->removable ? 0x80 : 0;
	b[2] = 0x06;	    /* SPC-4 */
	b[3] = 0x10 | 0x02; /* HISUP, response data format */
	b[4] = sizeof(b) - 5;
	b[5] = 0x10 | 0x08; /* TPGS: implicit, 3PC */
	b[6] = 0x10;	    /* MULTIP */
	b[7] = 0x02;	    /* CMDQUE */
	memcpy(b + 8, lu ? lu->vendor : "EBB     ", 8);
	memcpy(b + 16, lu ? lu->product : "NO LOGICAL UNIT ", 16);
	memcpy(b + 32, lu ? lu->revision : "0   ", 4);
	for (unsigned i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
		put_be16(b + 58 + 2 * i, versions[i]);
	scsi_reply(cmd, b, sizeof(b));
}

/* --- vital product data; @b points behind the header --- */

static unsigned page_serial(struct scsi_cmd *cmd, uint8_t *b)
{
	const char *serial = lun_identity(cmd->lu->lun)->serial;
	size_t n = strlen(serial);

	memcpy(b, serial, n);
	return (unsigned)n;
}

enum { CODE_BINARY = 1, CODE_ASCII = 2, CODE_UTF8 = 3 };
enum { ASSOC_LU = 0, ASSOC_PORT = 1, ASSOC_TARGET = 2 };

/* One identification descriptor (SPC-5 7.7.6). @protocol: -1 when it has none (PIV 0). */
static unsigned designator(uint8_t *b, unsigned code_set, unsigned assoc, unsigned type,
			   int protocol, const void *data, unsigned n)
{
	unsigned padded = type == 8 ? (n + 4) & ~3u : n; /* SCSI names end with zeros */

	b[0] = (uint8_t)code_set;
	b[1] = (uint8_t)(assoc << 4 | type);
	if (protocol >= 0) {
		b[0] |= (uint8_t)(protocol << 4);
		b[1] |= 0x80;
	}
	b[3] = (uint8_t)padded;
	memset(b + 4, 0, padded);
	memcpy(b + 4, data, n);
	return 4 + padded;
}

static unsigned page_identification(struct scsi_cmd *cmd, uint8_t *b)
{
	const struct lun_identity *id = lun_identity(cmd->lu->lun);
	const char *name = scsi_target_name(cmd->nexus->target);
	int protocol = cmd->nexus->transport_id_len ? cmd->nexus->transport_id[0] & 0x0f : -1;
	uint8_t t10[8 + sizeof(id->serial)], uuid[18] = {0x10}, rel[4] = {0}, group[4] = {0};
	size_t serial_len = strlen(id->serial), name_len = strnlen(name, 223);
	unsigned n = 0;

	memcpy(t10, cmd->lu->vendor, 8);
	memcpy(t10 + 8, id->serial, serial_len);
	memcpy(uuid + 2, id->uuid, 16);
	put_be16(rel + 2, cmd->nexus->rel_port);
	put_be16(group + 2, SCSI_TPG_ID);
	n += designator(b + n, CODE_BINARY, ASSOC_LU, 3, -1, id->naa, id->naa_len);
	n += designator(b + n, CODE_BINARY, ASSOC_LU, 2, -1, id->eui64, 8);
	n += designator(b + n, CODE_ASCII, ASSOC_LU, 1, -1, t10, 8 + (unsigned)serial_len);
	n += designator(b + n, CODE_BINARY, ASSOC_LU, 0xa, -1, uuid, 18);
	n += designator(b + n, CODE_BINARY, ASSOC_PORT, 4, protocol, rel, 4);
	n += designator(b + n, CODE_BINARY, ASSOC_PORT, 5, protocol, group, 4);
	n += designator(b + n, CODE_UTF8, ASSOC_TARGET, 8, protocol, name, (unsigned)name_len);
	return n;
}

static unsigned page_extended(struct scsi_cmd *cmd, uint8_t *b)
{
	b[1] = 0x07; /* HEADSUP, ORDSUP, SIMPSUP */
	b[2] = 0x01; /* V_SUP: a volatile cache may hold writes */
	b[9] = SCSI_SENSE_MAX;
	return 0x3c;
}

/* Block limits (SBC-4 6.6.4). The offsets are those of the page less its header of 4. */
static unsigned page_block_limits(struct scsi_cmd *cmd, uint8_t *b)
{
	const struct scsi_lu *lu = cmd->lu;

	b[1] = SCSI_CAW_MAX;
	put_be16(b + 2, (uint16_t)(1u << lu->physical_shift));
	put_be32(b + 4, scsi_max_transfer(lu));
	put_be32(b + 8, scsi_max_transfer(lu) < 512 ? scsi_max_transfer(lu) : 512);
	if (lu->thin) {
		put_be32(b + 16, SCSI_UNMAP_MAX_BLOCKS);
		put_be32(b + 20, SCSI_UNMAP_MAX_DESC);
		put_be32(b + 24, 1u << lu->physical_shift);
		put_be32(b + 28, 0x80000000); /* UGAVALID, alignment 0 */
	}
	put_be64(b + 32, SCSI_WS_MAX);
	put_be32(b + 40, SCSI_ATOMIC_MAX);
	return 0x3c;
}

static unsigned page_characteristics(struct scsi_cmd *cmd, uint8_t *b)
{
	put_be16(b, cmd->lu->rotational ? 0 : 1); /* not reported : non-rotating medium */
	b[3] = 0x50; /* WABEREQ, WACEREQ: after an erase, reads are good and return what was left */
	return 0x3c;
}

static unsigned page_provisioning(struct scsi_cmd *cmd, uint8_t *b)
{
	if (cmd->lu->thin) {
		b[0] = (uint8_t)(__builtin_ctz(SCSI_THRESHOLD_SET) - cmd->lu->block_shift);
		b[1] = 0x80 | 0x40 | 0x20 | 0x04; /* LBPU, LBPWS, LBPWS10, LBPRZ */
		b[2] = 0x02;			  /* thin */
	}
	return 4;
}

/* --- third-party copy (SPC-5 7.7.18) --- */

enum {
	TPC_COMMANDS = 0x0001,
	TPC_PARAMETERS = 0x0004,
	TPC_DESCRIPTORS = 0x0008,
	TPC_GENERAL = 0x8001,
};

/* Ends the descriptor of @type whose contents are the @n bytes at @b + 4, padded to fours. */
static unsigned tpc_end(uint8_t *b, unsigned type, unsigned n)
{
	n = (n + 3) & ~3u;
	put_be16(b, (uint16_t)type);
	put_be16(b + 2, (uint16_t)n);
	return 4 + n;
}

/* The service actions of EXTENDED COPY and RECEIVE COPY RESULTS, from the opcode table. */
static unsigned tpc_commands(uint8_t *b)
{
	unsigned n = 5;

	for (unsigned opcode = 0x83; opcode <= 0x84; opcode++) {
		unsigned head = n;

		b[n] = (uint8_t)opcode;
		n += 2;
		for (unsigned i = 0; i < scsi_n_opcodes; i++) {
			if (scsi_opcodes[i].opcode == opcode)
				b[n++] = scsi_opcodes[i].sa;
		}
		b[head + 1] = (uint8_t)(n - head - 2);
	}
	b[4] = (uint8_t)(n - 5);
	return tpc_end(b, TPC_COMMANDS, n - 4);
}

static unsigned page_third_party_copy(struct scsi_cmd *cmd, uint8_t *b)
{
	static const uint8_t types[] = {0x02, 0x0a, 0xe4}; /* segments, CSCD; ascending */
	unsigned n = tpc_commands(b);

	put_be16(b + n + 8, SCSI_XCOPY_MAX_TARGETS);
	put_be16(b + n + 10, SCSI_XCOPY_MAX_SEGMENTS);
	put_be32(b + n + 12, SCSI_XCOPY_MAX_LIST);
	n += tpc_end(b + n, TPC_PARAMETERS, 0x1c);
	b[n + 4] = sizeof(types);
	memcpy(b + n + 5, types, sizeof(types));
	n += tpc_end(b + n, TPC_DESCRIPTORS, 1 + sizeof(types));
	put_be32(b + n + 4, SCSI_XCOPY_MAX_CONCURRENT);
	put_be32(b + n + 8, SCSI_XCOPY_MAX_CONCURRENT);
	put_be32(b + n + 12, SCSI_XCOPY_MAX_SEGMENT_LEN);
	n += tpc_end(b + n, TPC_GENERAL, 0x20);
	return n;
}

static unsigned page_list(struct scsi_cmd *cmd, uint8_t *b);

static const struct vpd_page {
	uint8_t code;
	bool without_lu;
	unsigned (*fill)(struct scsi_cmd *cmd, uint8_t *b);
} pages[] = {
	{0x00, true, page_list},
	{0x80, false, page_serial},
	{0x83, false, page_identification},
	{0x86, false, page_extended},
	{0x8f, false, page_third_party_copy},
	{0xb0, false, page_block_limits},
	{0xb1, false, page_characteristics},
	{0xb2, false, page_provisioning},
};

#define N_PAGES (sizeof(pages) / sizeof(pages[0]))

static unsigned page_list(struct scsi_cmd *cmd, uint8_t *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < N_PAGES; i++) {
		if (cmd->lu || pages[i].without_lu)
			b[n++] = pages[i].code;
	}
	return n;
}

void scsi_inquiry(struct scsi_cmd *cmd)
{
	uint8_t b[4 + PAGE_MAX] = {0};

	if (!(cmd->cdb[1] & 1)) {
		if (cmd->cdb[2])
			scsi_bad_cdb_field(cmd, 2, -1);
		else
			standard_data(cmd);
		return;
	}
	for (unsigned i = 0; i < N_PAGES; i++) {
		const struct vpd_page *p = &pages[i];
		unsigned n;

		if (p->code != cmd->cdb[2] || (!cmd->lu && !p->without_lu))
			continue;
		n = p->fill(cmd, b + 4);
		b[0] = cmd->lu ? 0x00 : 0x7f;
		b[1] = p->code;
		put_be16(b + 2, (uint16_t)n);
		scsi_reply(cmd, b, 4 + n);
		return;
	}
	scsi_bad_cdb_field(cmd, 2, -1);
}
