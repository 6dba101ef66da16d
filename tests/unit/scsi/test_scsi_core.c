/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dispatch: the opcode table, refusals and their sense, unit attentions, maps, task management. */
#include "scsi_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/endian.h"
#include "base/file.h"
#include "scsi/scsi_internal.h"

#define BLOCKS (8u * 2048) /* 512 byte blocks in 8 MiB */

static struct world *w;
static struct initiator *a;

static int open_thin(void **state)
{
	w = world_open(&(struct world_options){0});
	a = world_login(w, 0, "iqn.a");
	return 0;
}

static int open_removable(void **state)
{
	w = world_open(&(struct world_options){.removable = true});
	a = world_login(w, 0, "iqn.a");
	return 0;
}

static int open_read_only(void **state)
{
	w = world_open(&(struct world_options){.read_only = true});
	a = world_login(w, 0, "iqn.a");
	return 0;
}

static int close_world(void **state)
{
	world_logout(a);
	world_close(w);
	return 0;
}

static void tur(struct initiator *i)
{
	send_cdb(i, CDB(0, 0, 0, 0, 0, 0), NULL, 0);
}

/* --- the table --- */

static void table_is_sane(void **state)
{
	assert_in_range(scsi_n_opcodes, 30, 4092 / 20); /* REPORT ... fits an I/O buffer */
	for (unsigned n = 0; n < scsi_n_opcodes; n++) {
		const struct scsi_opcode *op = &scsi_opcodes[n];
		uint8_t cdb[2] = {op->opcode, op->flags & SCSI_OP_SA ? op->sa : 0};
		bool known;

		assert_non_null(op->exec);
		assert_non_null(op->name);
		assert_true(op->cdb_len == 6 || op->cdb_len == 10 || op->cdb_len == 12 ||
			    op->cdb_len == 16);
		assert_ptr_equal(scsi_opcode_find(cdb, 2, &known), op);
		assert_true(known);
		assert_true(op->sa < 0x20);
		for (unsigned b = op->cdb_len; b < 16; b++)
			assert_int_equal(op->usage[b], 0);
		if (op->lba_len && op->len_len) {
			assert_true(op->flags & SCSI_OP_MEDIUM);
			assert_true(op->lba_off + op->lba_len <= op->cdb_len);
		}
		assert_true(op->len_off + op->len_len <= op->cdb_len);
		/* what changes the medium is kept from a write exclusive reservation's holder */
		if (op->flags & SCSI_OP_WRITES)
			assert_true(op->resv == SCSI_RESV_WRITE || op->resv == SCSI_RESV_OWN);
		if (op->len_kind == SCSI_LEN_FN)
			assert_non_null(op->length);
	}
}

/* docs/scsi.md lists what the table has; with EBB_UPDATE_DOCS set, it is made to. */
static void docs_list_the_table(void **state)
{
	static const char begin[] = "<!-- opcodes -->\n", end[] = "<!-- end -->\n";
	_cleanup_free_ char *doc = NULL, *list = NULL;
	size_t len, list_len;
	FILE *f = open_memstream(&list, &list_len);
	char *from, *to;

	fprintf(f, "| opcode | command | changes the medium |\n|---|---|---|\n");
	for (unsigned n = 0; n < scsi_n_opcodes; n++) {
		const struct scsi_opcode *op = &scsi_opcodes[n];
		char sa[8] = "";

		if (op->flags & SCSI_OP_SA)
			snprintf(sa, sizeof(sa), "/%02Xh", op->sa);
		fprintf(f, "| %02Xh%s | %s | %s |\n", op->opcode, sa, op->name,
			op->flags & SCSI_OP_WRITES ? "yes" : "");
	}
	fclose(f);
	assert_int_equal(file_read(AT_FDCWD, DOC, 1 << 20, &doc, &len), 0);
	from = strstr(doc, begin);
	assert_non_null(from);
	from += strlen(begin);
	to = strstr(from, end);
	assert_non_null(to);
	if (getenv("EBB_UPDATE_DOCS")) {
		f = fopen(DOC, "w");
		assert_non_null(f);
		fprintf(f, "%.*s%s%s", (int)(from - doc), doc, list, to);
		fclose(f);
		return;
	}
	assert_int_equal(to - from, list_len);
	assert_memory_equal(from, list, list_len);
}

/* Each reserved bit of each row, set alone, is refused with a pointer to that very bit. */
static void every_reserved_bit_is_pointed_at(void **state)
{
	for (unsigned n = 0; n < scsi_n_opcodes; n++) {
		const struct scsi_opcode *op = &scsi_opcodes[n];

		for (unsigned bit = 8; bit < op->cdb_len * 8u; bit++) {
			uint8_t cdb[16] = {op->opcode}, known = op->usage[bit / 8];

			if (op->flags & SCSI_OP_SA) {
				cdb[1] = op->sa;
				if (bit / 8 == 1)
					known |= 0x1f;
			}
			if (known & 1u << bit % 8)
				continue;
			cdb[bit / 8] |= (uint8_t)(1u << bit % 8);
			send_cdb(a, cdb, op->cdb_len, NULL, 0);
			expect_bad_cdb(a, bit / 8, (int)(bit % 8));
			assert_int_equal(a->r.dir, SCSI_DIR_NONE);
			assert_int_equal(a->r.data_len, 0);
		}
	}
}

static void unknown_opcodes_are_refused(void **state)
{
	unsigned refused = 0;

	for (unsigned op = 0; op < 256; op++) {
		uint8_t cdb[16] = {(uint8_t)op};
		bool known;

		scsi_opcode_find(cdb, 16, &known);
		if (known)
			continue;
		refused++;
		send_cdb(a, cdb, 16, NULL, 0);
		expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2000);
		assert_int_equal(sense_field(a), -1);
	}
	assert_in_range(refused, 100, 255);
	/* a CDB cut short is no command */
	send_cdb(a, CDB(0x28, 0, 0, 0, 0, 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2000);
}

static void unknown_service_actions_point_at_it(void **state)
{
	send_cdb(a, CDB(0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), NULL, 0);
	expect_bad_cdb(a, 1, 4);
	send_cdb(a, CDB(0xa3, 0x1e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), NULL, 0);
	expect_bad_cdb(a, 1, 4);
}

static void supported_opcodes_match_the_table(void **state)
{
	unsigned seen = 0;
	uint8_t *all;
	uint32_t len;

	send_cdb(a, CDB(0xa3, 0x0c, 0, 0, 0, 0, BE32(8192), 0, 0), NULL, 0);
	expect_good(a);
	len = get_be32(a->r.data) + 4;
	assert_int_equal(len, a->r.len);
	all = malloc(len);
	memcpy(all, a->r.data, len);
	for (uint32_t o = 4; o < len; o += 8, seen++) {
		const uint8_t *d = all + o;
		bool sa = d[5] & 1;

		send_cdb(a, CDB(0xa3, 0x0c, 0x83, d[0], d[2], d[3], BE32(64), 0, 0), NULL, 0);
		expect_good(a);
		assert_int_equal(a->r.data[1], 0x83);
		assert_int_equal(get_be16(a->r.data + 2), get_be16(d + 6));
		assert_int_equal(a->r.data[4], d[0]);
		assert_int_equal(a->r.len, 4 + get_be16(d + 6) + 12);
		/* asked for with the wrong kind of opcode */
		send_cdb(a, CDB(0xa3, 0x0c, sa ? 1 : 2, d[0], d[2], d[3], BE32(64), 0, 0), NULL, 0);
		expect_bad_cdb(a, 2, 2);
	}
	assert_int_equal(seen, scsi_n_opcodes);
	free(all);
	send_cdb(a, CDB(0xa3, 0x0c, 0x80, 0, 0, 0, BE32(8192), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 4 + 20 * scsi_n_opcodes);
	send_cdb(a, CDB(0xa3, 0x0c, 1, 0x04, 0, 0, BE32(64), 0, 0), NULL, 0); /* FORMAT UNIT */
	expect_good(a);
	assert_int_equal(a->r.data[1], 1);
	send_cdb(a, CDB(0xa3, 0x0c, 4, 0, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_bad_cdb(a, 2, 2);
}

/* --- lengths and ranges --- */

static void ranges_end_with_the_medium(void **state)
{
	static const struct {
		uint64_t lba;
		uint32_t n;
		bool good;
	} t[] = {
		{0, 1, true},		{BLOCKS - 1, 1, true},	{BLOCKS, 0, true},
		{BLOCKS, 1, false},	{BLOCKS - 1, 2, false}, {BLOCKS + 1, 0, false},
		{UINT64_MAX, 1, false}, {UINT64_MAX, 0, false}, {1ull << 63, 1, false},
	};

	for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		send_cdb(a, CDB(0x88, 0, BE64(t[n].lba), BE32(t[n].n), 0, 0), NULL, 0);
		if (t[n].good) {
			expect_good(a);
			assert_int_equal(a->r.len, t[n].n * 512);
		} else {
			expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
			assert_int_equal(a->r.data_len, 0);
		}
	}
}

static void transfers_longer_than_a_buffer_point_at_the_length(void **state)
{
	static const struct {
		uint8_t opcode, byte;
	} t[] = {{0x88, 10}, {0x8a, 10}, {0x8b, 10}, {0x8e, 10}, {0x8f, 10}};

	for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		send_cdb(a, CDB(t[n].opcode, 0, BE64(0), BE32((IOBUF_MAX >> 9) + 1), 0, 0), NULL,
			 0);
		expect_bad_cdb(a, t[n].byte, -1);
	}
	send_cdb(a, CDB(0x88, 0, BE64(0), BE32(IOBUF_MAX >> 9), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, IOBUF_MAX);
}

static void allocation_length_cuts_the_reply(void **state)
{
	uint8_t whole[96];

	send_cdb(a, CDB(0x12, 0, 0, BE16(255), 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 96);
	memcpy(whole, a->r.data, 96);
	for (unsigned n = 0; n <= 100; n++) {
		send_cdb(a, CDB(0x12, 0, 0, BE16(n), 0), NULL, 0);
		expect_good(a);
		assert_int_equal(a->r.len, n < 96 ? n : 96);
		if (n)
			assert_memory_equal(a->r.data, whole, a->r.len);
	}
	send_cdb(a, CDB(0x9e, 0x10, BE64(0), BE32(UINT32_MAX), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 32);
}

/* --- logical units --- */

static void absent_luns_answer_what_they_must(void **state)
{
	a->lun = 5ull << 48;
	tur(a);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2500);
	send_cdb(a, CDB(0x12, 0, 0, BE16(96), 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[0], 0x7f);
	send_cdb(a, CDB(0x12, 1, 0x83, BE16(96), 0), NULL, 0);
	expect_bad_cdb(a, 2, -1);
	send_cdb(a, CDB(0x12, 1, 0x00, BE16(96), 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 5);
	send_cdb(a, CDB(0x03, 0, 0, 0, 252, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[2], SENSE_ILLEGAL_REQUEST);
	assert_int_equal(get_be16(a->r.data + 12), 0x2500);
	send_cdb(a, CDB(0xa0, 0, 0, 0, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 16);
	send_cdb(a, CDB(0xa0, 0, 1, 0, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 8);
	send_cdb(a, CDB(0xa0, 0, 0x10, 0, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_bad_cdb(a, 2, -1);
	send_cdb(a, CDB(0xa0, 0, 0, 0, 0, 0, BE32(15), 0, 0), NULL, 0);
	expect_bad_cdb(a, 6, -1);
	a->lun = 0;
}

static void lun_fields_are_decoded(void **state)
{
	static const struct {
		uint64_t lun;
		bool there;
	} t[] = {
		{0, true},
		{0x4000ull << 48, true}, /* flat space, 0 */
		{0x0001ull << 48, false},
		{0x0100ull << 48, false}, /* bus 1 */
		{0x8000ull << 48, false}, /* logical unit addressing */
		{0xc101ull << 48, false}, /* well known: REPORT LUNS */
		{1, false},		  /* a second level */
		{0x4100ull << 48, false}, /* flat space, 256 */
	};

	for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		a->lun = t[n].lun;
		tur(a);
		if (a->r.status && sense_key(a) == SENSE_UNIT_ATTENTION)
			tur(a);
		if (t[n].there)
			expect_good(a);
		else
			expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2500);
	}
	a->lun = 0;
}

static void maps_change_under_running_nexuses(void **state)
{
	struct scsi_lu *lu2 = world_add_lu(w, &(struct world_options){0}, "two", w->target, 3);

	tur(a);
	expect_sense(a, SENSE_UNIT_ATTENTION, 0x3f0e);
	tur(a);
	expect_good(a);
	assert_int_equal(a->events, 1);
	assert_int_equal(a->event, SCSI_EVENT_LUNS_CHANGED);
	assert_int_equal(a->event_lun, 3);
	assert_int_equal(scsi_target_map(w->target, 3, lu2), -EEXIST);
	a->lun = 3ull << 48;
	tur(a);
	expect_sense(a, SENSE_UNIT_ATTENTION, 0x2900);
	tur(a);
	expect_good(a);
	assert_int_equal(scsi_target_unmap(w->target, 3), 0);
	assert_int_equal(scsi_target_unmap(w->target, 3), -ENOENT);
	tur(a);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2500);
	a->lun = 0;
	/* REPORT LUNS tells, so the attention has nothing left to say */
	send_cdb(a, CDB(0xa0, 0, 0, 0, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 16);
	tur(a);
	expect_good(a);
	/* the same number, another logical unit */
	assert_int_equal(scsi_target_map(w->target, 7, lu2), 0);
	a->lun = 7ull << 48;
	tur(a);
	expect_sense(a, SENSE_UNIT_ATTENTION, 0x2900);
	scsi_lu_unref(lu2);
	a->lun = 0;
}

static void one_lu_in_two_targets(void **state)
{
	struct scsi_target *t2;
	struct initiator *b;

	assert_int_equal(scsi_target_create("iqn.2026-11.local.ebb:second", &t2), 0);
	assert_int_equal(scsi_target_map(t2, 9, w->lu), 0);
	b = world_login_raw(w, t2, 1, "iqn.b");
	b->lun = 9ull << 48;
	tur(b);
	expect_sense(b, SENSE_UNIT_ATTENTION, 0x2900);
	scsi_ua_raise(w->lu, SCSI_UA_MODE_CHANGED, &a->nx);
	tur(a);
	expect_good(a);
	tur(b);
	expect_sense(b, SENSE_UNIT_ATTENTION, 0x2a01);
	/* who asks by designator sees his own target's LUs only, unless told otherwise */
	uint8_t naa[4 + 16] = {1, 3, 0, lun_identity(w->lun)->naa_len};
	struct scsi_lu *found;

	memcpy(naa + 4, lun_identity(w->lun)->naa, naa[3]);
	found = scsi_lu_find_designator(&b->nx, naa, 4u + naa[3]);
	assert_ptr_equal(found, w->lu);
	scsi_lu_unref(found);
	assert_int_equal(scsi_target_unmap(t2, 9), 0);
	assert_null(scsi_lu_find_designator(&b->nx, naa, 4u + naa[3]));
	assert_null(scsi_lu_find_designator(&b->nx, naa, 3));
	assert_null(scsi_lu_find_designator(&b->nx, naa, 3u + naa[3]));
	world_logout(b);
	scsi_target_unref(t2);
}

/* --- unit attentions --- */

static void attentions_come_in_order_of_priority_once(void **state)
{
	struct initiator *b = world_login_raw(w, w->target, 1, "iqn.b");
	static const unsigned want[] = {0x2900, 0x2a03, 0x2a09, 0x2a01, 0x3f0e};

	send_cdb(b, CDB(0x12, 0, 0, BE16(96), 0), NULL, 0); /* makes the I_T_L state */
	expect_good(b);
	scsi_ua_raise(w->lu, SCSI_UA_LUNS_CHANGED, &a->nx);
	scsi_ua_raise(w->lu, SCSI_UA_MODE_CHANGED, &a->nx);
	scsi_ua_raise(w->lu, SCSI_UA_CAPACITY_CHANGED, &a->nx);
	scsi_ua_raise(w->lu, SCSI_UA_RESERVATIONS_PREEMPTED, &a->nx);
	scsi_ua_raise(w->lu, SCSI_UA_MODE_CHANGED, &a->nx);
	for (unsigned n = 0; n < 5; n++) {
		send_cdb(b, CDB(0x12, 0, 0, BE16(96), 0), NULL, 0); /* leaves it pending */
		expect_good(b);
		send_cdb(b, CDB(0x28, 0, BE32(0), 0, BE16(1), 0), NULL, 0);
		expect_sense(b, SENSE_UNIT_ATTENTION, want[n]);
	}
	tur(b);
	expect_good(b);
	tur(a);
	expect_good(a);
	/* REQUEST SENSE reports and clears, in either format */
	scsi_ua_raise(w->lu, SCSI_UA_MODE_CHANGED, NULL);
	send_cdb(b, CDB(0x03, 1, 0, 0, 252, 0), NULL, 0);
	expect_good(b);
	assert_int_equal(b->r.data[0], 0x72);
	assert_int_equal(get_be16(b->r.data + 2), 0x2a01);
	send_cdb(b, CDB(0x03, 0, 0, 0, 252, 0), NULL, 0);
	expect_good(b);
	assert_int_equal(b->r.data[0], 0x70);
	assert_int_equal(b->r.data[2], 0);
	tur(a);
	expect_sense(a, SENSE_UNIT_ATTENTION, 0x2a01);
	world_logout(b);
}

static void growth_names_each_lun_that_was_used(void **state)
{
	assert_int_equal(scsi_target_map(w->target, 200, w->lu), 0);
	a->lun = 0x40c8ull << 48; /* 200, in flat space addressing */
	tur(a);
	assert_int_equal(lun_resize(w->lun, 16u << 20, NULL), 0);
	assert_int_equal(a->events, 3);
	assert_int_equal(a->event, SCSI_EVENT_CAPACITY_CHANGED);
	assert_int_equal(a->event_lun, 200);
	assert_int_equal(scsi_target_unmap(w->target, 200), 0);
	assert_int_equal(a->event, SCSI_EVENT_LUNS_CHANGED);
	assert_int_equal(a->event_lun, 200);
	a->lun = 0;
}

static void growth_is_told_to_all(void **state)
{
	assert_int_equal(lun_resize(w->lun, 16u << 20, NULL), 0);
	tur(a);
	expect_sense(a, SENSE_UNIT_ATTENTION, 0x2a09);
	assert_int_equal(a->events, 1);
	send_cdb(a, CDB(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(get_be32(a->r.data), 2 * BLOCKS - 1);
	send_cdb(a, CDB(0x28, 0, BE32(2 * BLOCKS - 1), 0, BE16(1), 0), NULL, 0);
	expect_good(a);
}

/* --- sense formats --- */

static void descriptor_sense_says_the_same(void **state)
{
	atomic_store(&w->lu->mode.d_sense, true);
	send_cdb(a, CDB(0x28, 0x20, BE32(0), 0, BE16(1), 0), NULL, 0);
	assert_int_equal(a->r.sense[0], 0x72);
	assert_int_equal(a->r.sense_len, 16);
	expect_bad_cdb(a, 1, 5);
	send_cdb(a, CDB(0x28, 0, BE32(UINT32_MAX), 0, BE16(1), 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x2100);
	assert_int_equal(a->r.sense_len, 8);
	atomic_store(&w->lu->mode.d_sense, false);
}

static void information_needs_room_for_its_value(void **state)
{
	struct scsi_sense s = {.key = 3, .asc = 0x1100, .has_info = true, .info = 1ull << 32};
	uint8_t b[SCSI_SENSE_MAX];

	assert_int_equal(scsi_sense_build(&s, false, b), 18);
	assert_int_equal(b[0], 0x70);
	assert_int_equal(scsi_sense_build(&s, true, b), 20);
	assert_int_equal(b[10], 0x80);
	assert_true(get_be64(b + 12) == 1ull << 32);
	s.info = UINT32_MAX;
	scsi_sense_build(&s, false, b);
	assert_int_equal(b[0], 0xf0);
	assert_int_equal(get_be32(b + 3), UINT32_MAX);
}

static void errors_of_the_store_have_their_sense(void **state)
{
	static const struct {
		int err;
		bool write;
		unsigned key, asc;
	} t[] = {
		{-ENOSPC, true, 7, 0x2707},    {-EIO, false, 3, 0x1100},
		{-EIO, true, 3, 0x0c00},       {-ENODATA, false, 3, 0x1100},
		{-EROFS, true, 7, 0x2700},     {-EPERM, true, 7, 0x2700},
		{-EILSEQ, false, 0xe, 0x1d00}, {-EINVAL, true, 5, 0x2100},
		{-ENOMEM, false, 0xb, 0x5503}, {-EBADF, true, 4, 0x4400},
	};

	for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		struct scsi_sense s;

		scsi_sense_from_errno(t[n].err, t[n].write, &s);
		assert_int_equal(s.key, t[n].key);
		assert_int_equal(s.asc, t[n].asc);
	}
}

/* A backing file cut short by somebody else is a medium error at the LBA, not zeros. */
static void truncated_backing_is_a_medium_error(void **state)
{
	uint64_t info;

	char path[96];

	snprintf(path, sizeof(path), "%s/disk", w->dir);
	assert_int_equal(truncate(path, 4u << 20), 0);
	send_cdb(a, CDB(0x28, 0, BE32(BLOCKS - 8), 0, BE16(8), 0), NULL, 0);
	expect_sense(a, SENSE_MEDIUM_ERROR, 0x1100);
	assert_true(sense_info(a, &info));
	assert_int_equal(info, BLOCKS - 8);
	assert_int_equal(a->r.len, 0);
}

/* --- read-only, removable --- */

static void read_only_refuses_before_data(void **state)
{
	static const uint8_t writes[] = {0x0a, 0x2a, 0x2e, 0x41, 0x42, 0x89, 0x8a,
					 0x8b, 0x8e, 0x93, 0x9c, 0xaa, 0xae};
	/* READ(6) layout has its length in byte 4, the others mind no 0 or a 1 there */
	for (unsigned n = 0; n < sizeof(writes); n++) {
		uint8_t cdb[16] = {writes[n]};
		bool known;
		const struct scsi_opcode *op = scsi_opcode_find(cdb, 16, &known);

		cdb[op->len_off + op->len_len - 1] = writes[n] == 0x42 ? 24 : 1;
		send_cdb(a, cdb, op->cdb_len, NULL, 0);
		expect_sense(a, SENSE_DATA_PROTECT, 0x2700);
		assert_int_equal(a->r.dir, SCSI_DIR_NONE);
	}
	send_cdb(a, CDB(0x28, 0, BE32(0), 0, BE16(1), 0), NULL, 0);
	expect_good(a);
	send_cdb(a, CDB(0x35, 0, BE32(0), 0, BE16(0), 0), NULL, 0);
	expect_good(a);
}

static void ejecting_is_for_all_unless_prevented(void **state)
{
	struct initiator *b = world_login(w, 1, "iqn.b");

	send_cdb(b, CDB(0x1e, 0, 0, 0, 1, 0), NULL, 0);
	expect_good(b);
	send_cdb(a, CDB(0x1b, 0, 0, 0, 2, 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x5302);
	send_cdb(b, CDB(0x1e, 0, 0, 0, 1, 0), NULL, 0); /* once more is still once */
	send_cdb(b, CDB(0x1e, 0, 0, 0, 0, 0), NULL, 0);
	send_cdb(a, CDB(0x1b, 0, 0, 0, 2, 0), NULL, 0);
	expect_good(a);
	tur(a);
	expect_sense(a, SENSE_NOT_READY, 0x3a00);
	send_cdb(b, CDB(0x28, 0, BE32(0), 0, BE16(1), 0), NULL, 0);
	expect_sense(b, SENSE_NOT_READY, 0x3a00);
	send_cdb(b, CDB(0x12, 0, 0, BE16(96), 0), NULL, 0);
	expect_good(b);
	send_cdb(b, CDB(0x03, 0, 0, 0, 252, 0), NULL, 0);
	assert_int_equal(get_be16(b->r.data + 12), 0x3a00);
	send_cdb(b, CDB(0x1e, 0, 0, 0, 1, 0), NULL, 0);
	send_cdb(a, CDB(0x1b, 0, 0, 0, 3, 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, 0x5302);
	/* a nexus that goes takes its say with it */
	world_logout(b);
	send_cdb(a, CDB(0x1b, 0, 0, 0, 3, 0), NULL, 0);
	expect_good(a);
	tur(a);
	expect_good(a);
	for (unsigned pc = 1; pc < 16; pc++) {
		send_cdb(a, CDB(0x1b, 1, 0, 0, (uint8_t)(pc << 4 | 2), 0), NULL, 0);
		expect_good(a);
		tur(a);
		expect_good(a);
	}
}

static void loading_is_a_medium_change_to_others(void **state)
{
	struct initiator *b = world_login(w, 1, "iqn.b");

	send_cdb(a, CDB(0x1b, 0, 0, 0, 2, 0), NULL, 0);
	expect_good(a);
	send_cdb(a, CDB(0x1b, 0, 0, 0, 3, 0), NULL, 0);
	expect_good(a);
	tur(a);
	expect_good(a);
	tur(b);
	expect_sense(b, SENSE_UNIT_ATTENTION, 0x2800);
	send_cdb(a, CDB(0x1b, 0, 0, 0, 3, 0), NULL, 0); /* it was there */
	tur(b);
	expect_good(b);
	world_logout(b);
}

static void fixed_media_cannot_be_ejected(void **state)
{
	send_cdb(a, CDB(0x1b, 0, 0, 0, 2, 0), NULL, 0);
	expect_bad_cdb(a, 4, 1);
	send_cdb(a, CDB(0x1b, 0, 0, 0, 0, 0), NULL, 0);
	expect_good(a);
	tur(a);
	expect_good(a);
}

/* --- task management --- */

static void task_management_reaches_whom_it_should(void **state)
{
	struct initiator *b = world_login(w, 1, "iqn.b"), *c = world_login(w, 0, "iqn.c");

	assert_int_equal(send_tmf(a, SCSI_TMF_ABORT_TASK_SET), SCSI_TMF_COMPLETE);
	assert_int_equal(a->aborts, 1);
	assert_int_equal(b->aborts + c->aborts, 0);
	atomic_store(&w->lu->mode.tas, true);
	assert_int_equal(send_tmf(a, SCSI_TMF_CLEAR_TASK_SET), SCSI_TMF_COMPLETE);
	assert_int_equal(a->aborts, 2);
	assert_int_equal(b->aborts, 1);
	assert_int_equal(c->aborts, 1);
	assert_true(b->aborted_with_tas);
	assert_true(c->aborted_with_tas);
	assert_false(a->aborted_with_tas);
	atomic_store(&w->lu->mode.tas, false);
	assert_int_equal(send_tmf(a, SCSI_TMF_CLEAR_ACA), SCSI_TMF_REJECTED);
	a->lun = 77ull << 48;
	assert_int_equal(send_tmf(a, SCSI_TMF_LUN_RESET), SCSI_TMF_NO_LUN);
	a->lun = 0;
	tur(b);
	expect_good(b);
	assert_int_equal(send_tmf(a, SCSI_TMF_LUN_RESET), SCSI_TMF_COMPLETE);
	assert_int_equal(b->aborts, 2);
	assert_int_equal(c->aborts, 2);
	for (unsigned n = 0; n < 3; n++) {
		struct initiator *i = (struct initiator *[]){a, b, c}[n];

		tur(i);
		expect_sense(i, SENSE_UNIT_ATTENTION, 0x2903);
		tur(i);
		expect_good(i);
	}
	assert_int_equal(send_tmf(b, SCSI_TMF_TARGET_COLD_RESET), SCSI_TMF_COMPLETE);
	tur(a);
	expect_sense(a, SENSE_UNIT_ATTENTION, 0x2900);
	world_logout(b);
	world_logout(c);
}

static void resets_allow_medium_removal(void **state)
{
	static const enum scsi_tmf fns[] = {SCSI_TMF_LUN_RESET, SCSI_TMF_TARGET_WARM_RESET};

	for (unsigned n = 0; n < 2; n++) {
		send_cdb(a, CDB(0x1e, 0, 0, 0, 1, 0), NULL, 0);
		expect_good(a);
		assert_int_equal(send_tmf(a, fns[n]), SCSI_TMF_COMPLETE);
		tur(a);
		expect_sense(a, SENSE_UNIT_ATTENTION, 0x2903);
		send_cdb(a, CDB(0x1b, 0, 0, 0, 2, 0), NULL, 0);
		expect_good(a);
		send_cdb(a, CDB(0x1b, 0, 0, 0, 3, 0), NULL, 0);
		expect_good(a);
	}
}

static void supported_tmf_are_told(void **state)
{
	send_cdb(a, CDB(0xa3, 0x0d, 0, 0, 0, 0, BE32(4), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 4);
	assert_int_equal(a->r.data[0], 0xda);
	send_cdb(a, CDB(0xa3, 0x0d, 0x80, 0, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 16);
	send_cdb(a, CDB(0xa3, 0x0d, 0, 0, 0, 0, BE32(3), 0, 0), NULL, 0);
	expect_bad_cdb(a, 6, -1);
}

#define thin(f)	     cmocka_unit_test_setup_teardown(f, open_thin, close_world)
#define removable(f) cmocka_unit_test_setup_teardown(f, open_removable, close_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_is_sane),
		cmocka_unit_test(docs_list_the_table),
		thin(every_reserved_bit_is_pointed_at),
		thin(unknown_opcodes_are_refused),
		thin(unknown_service_actions_point_at_it),
		thin(supported_opcodes_match_the_table),
		thin(ranges_end_with_the_medium),
		thin(transfers_longer_than_a_buffer_point_at_the_length),
		thin(allocation_length_cuts_the_reply),
		thin(absent_luns_answer_what_they_must),
		thin(lun_fields_are_decoded),
		thin(maps_change_under_running_nexuses),
		thin(one_lu_in_two_targets),
		thin(attentions_come_in_order_of_priority_once),
		thin(growth_is_told_to_all),
		thin(growth_names_each_lun_that_was_used),
		thin(descriptor_sense_says_the_same),
		cmocka_unit_test(information_needs_room_for_its_value),
		cmocka_unit_test(errors_of_the_store_have_their_sense),
		thin(truncated_backing_is_a_medium_error),
		cmocka_unit_test_setup_teardown(read_only_refuses_before_data, open_read_only,
						close_world),
		removable(ejecting_is_for_all_unless_prevented),
		removable(loading_is_a_medium_change_to_others),
		thin(fixed_media_cannot_be_ejected),
		thin(task_management_reaches_whom_it_should),
		removable(resets_allow_medium_removal),
		thin(supported_tmf_are_told),
	};

	return cmocka_run_group_tests_name("scsi core", tests, NULL, NULL);
}
