/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mode pages and target port groups. */
#include "scsi_harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "scratch.h"

#define CURRENT	   0x00
#define CHANGEABLE 0x40
#define DEFAULT	   0x80
#define SAVED	   0xc0

static void mode_sense(struct initiator *i, uint8_t page)
{
	send_cdb(i, CDB(0x1a, 0x08, page, 0, 255, 0), NULL, 0);
}

/** Sets @bits of byte @byte of @page to @value; @flags: byte 1 of the CDB. */
static void mode_change(struct initiator *i, uint8_t page, unsigned byte, uint8_t bits, bool value,
			uint8_t flags)
{
	uint8_t list[64];
	uint32_t len;

	mode_sense(i, page);
	expect_good(i);
	len = i->r.len;
	memcpy(list, i->r.data, len);
	memset(list, 0, 4);
	list[4] &= 0x7f;
	if (value)
		list[4 + byte] |= bits;
	else
		list[4 + byte] &= (uint8_t)~bits;
	send_cdb(i, CDB(0x15, flags, 0, 0, (uint8_t)len, 0), list, len);
}

static void write_block(struct initiator *i)
{
	static const uint8_t block[512];

	send_cdb(i, CDB(0x2a, 0, BE32(0), 0, BE16(1), 0), block, sizeof(block));
}

static void all_pages_are_there_in_order(void **state)
{
	static const uint8_t codes[] = {0x01, 0x08, 0x0a, 0x1c};
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	unsigned off = 4 + 8;

	send_cdb(a, CDB(0x1a, 0, 0x3f, 0, 255, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[0], a->r.len - 1);
	assert_int_equal(a->r.data[2], 0x10); /* DPOFUA, not write protected */
	assert_int_equal(a->r.data[3], 8);
	assert_int_equal(get_be32(a->r.data + 4), (8 << 20) / 512);
	assert_int_equal(get_be24(a->r.data + 9), 512);
	for (unsigned p = 0; p < sizeof(codes); p++) {
		assert_int_equal(a->r.data[off], codes[p]);
		off += 2u + a->r.data[off + 1];
	}
	assert_int_equal(off, a->r.len);
	/* With subpages, and with a long LBA block descriptor. */
	send_cdb(a, CDB(0x5a, 0x10, 0x3f, 0xff, 0, 0, 0, BE16(512), 0), NULL, 0);
	expect_good(a);
	assert_int_equal(get_be16(a->r.data), a->r.len - 2);
	assert_int_equal(a->r.data[4], 1);
	assert_int_equal(get_be16(a->r.data + 6), 16);
	assert_int_equal(get_be64(a->r.data + 8), (8 << 20) / 512);
	assert_int_equal(a->r.len, 8 + 16 + 12 + 20 + 12 + 32 + 12 + 16);
	/* No threshold to arm, though LOG SENSE counts in threshold sets. */
	send_cdb(a, CDB(0x1a, 0x08, 0x1c, 0x02, 255, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 4 + 16);
	assert_int_equal(a->r.data[4], 0x5c);
	assert_int_equal(get_be16(a->r.data + 4 + 2), 12);
	mode_sense(a, 0x02);
	expect_bad_cdb(a, 2, 5);
	send_cdb(a, CDB(0x1a, 0, 0x08, 0x05, 255, 0), NULL, 0);
	expect_bad_cdb(a, 3, -1);
	mode_sense(a, SAVED | 0x08);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_SAVING_NOT_SUPPORTED);
	world_logout(a);
	world_close(w);
}

static void changeable_is_exactly_what_can_be_changed(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	static const uint8_t pages[] = {0x01, 0x08, 0x0a, 0x1c};

	for (unsigned p = 0; p < sizeof(pages); p++) {
		uint8_t mask[32], len;

		mode_sense(a, CHANGEABLE | pages[p]);
		expect_good(a);
		len = (uint8_t)(a->r.len - 4);
		memcpy(mask, a->r.data + 4, len);
		for (unsigned byte = 2; byte < len; byte++) {
			for (int bit = 7; bit >= 0; bit--) {
				uint8_t bits = (uint8_t)(1 << bit);
				bool on;

				mode_sense(a, pages[p]);
				on = a->r.data[4 + byte] & bits;
				mode_change(a, pages[p], byte, bits, !on, 0x10);
				if (!(mask[byte] & bits)) {
					expect_bad_param(a, 4 + byte, bit);
					continue;
				}
				expect_good(a);
				mode_sense(a, pages[p]);
				assert_int_equal(!!(a->r.data[4 + byte] & bits), !on);
				mode_change(a, pages[p], byte, bits, on, 0x10);
				expect_good(a);
			}
		}
	}
	world_logout(a);
	world_close(w);
}

static void swp_refuses_writes_and_others_are_told(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");

	mode_change(a, 0x0a, 4, 0x08, true, 0x10);
	expect_good(a);
	send_cdb(b, CDB(0x00, 0, 0, 0, 0, 0), NULL, 0);
	expect_sense(b, SENSE_UNIT_ATTENTION, 0x2a01);
	write_block(b);
	expect_sense(b, SENSE_DATA_PROTECT, ASC_SOFTWARE_WRITE_PROTECTED);
	mode_sense(a, 0x0a);
	assert_int_equal(a->r.data[2] & 0x80, 0x80); /* WP */
	send_cdb(a, CDB(0x28, 0, BE32(0), 0, BE16(1), 0), NULL, 0);
	expect_good(a);
	/* A reset brings the saved value back. */
	assert_int_equal(send_tmf(a, SCSI_TMF_LUN_RESET), SCSI_TMF_COMPLETE);
	write_block(b);
	expect_sense(b, SENSE_UNIT_ATTENTION, 0x2903);
	write_block(b);
	expect_good(b);
	world_logout(a);
	world_logout(b);
	world_close(w);
}

static void d_sense_changes_the_format(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");

	mode_change(a, 0x0a, 2, 0x04, true, 0x10);
	expect_good(a);
	send_cdb(a, CDB(0x28, 0, BE32(0xffffffff), 0, BE16(1), 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
	assert_int_equal(a->r.sense[0], 0x72);
	world_logout(a);
	world_close(w);
}

static void saved_pages_survive_the_process(void **state)
{
	char dir[64];
	struct world *w;
	struct initiator *a;

	scratch_dir("/tmp", dir, sizeof(dir));
	w = world_open(&(struct world_options){.state = dir});
	a = world_login(w, 0, "iqn.a");
	mode_change(a, 0x08, 2, 0x04, false, 0x11);
	expect_good(a);
	mode_change(a, 0x0a, 4, 0x08, true, 0x10); /* not saved */
	expect_good(a);
	mode_sense(a, SAVED | 0x0a);
	assert_int_equal(a->r.data[4 + 4] & 0x08, 0);
	world_logout(a);
	world_close(w);
	w = world_open(&(struct world_options){.state = dir});
	a = world_login(w, 0, "iqn.a");
	mode_sense(a, CURRENT | 0x08);
	assert_int_equal(a->r.data[4] & 0x80, 0x80);	 /* PS */
	assert_int_equal(a->r.data[4 + 2] & 0x04, 0x00); /* WCE */
	mode_sense(a, DEFAULT | 0x08);
	assert_int_equal(a->r.data[4 + 2] & 0x04, 0x04);
	write_block(a);
	expect_good(a);
	world_logout(a);
	world_close(w);
}

static void a_refused_list_changes_nothing(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	uint8_t list[4 + 12 + 20] = {0};

	mode_sense(a, 0x0a);
	memcpy(list + 4, a->r.data + 4, 12);
	list[4 + 4] |= 0x08; /* SWP: good */
	mode_sense(a, 0x08);
	memcpy(list + 16, a->r.data + 4, 20);
	list[16 + 3] = 1; /* not changeable */
	send_cdb(a, CDB(0x15, 0x10, 0, 0, sizeof(list), 0), list, sizeof(list));
	expect_bad_param(a, 16 + 3, 0);
	write_block(a);
	expect_good(a);
	list[16 + 3] = 0;
	send_cdb(a, CDB(0x15, 0x10, 0, 0, sizeof(list) - 1, 0), list, sizeof(list) - 1);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
	list[16] |= 0x80; /* PS is reserved in MODE SELECT */
	send_cdb(a, CDB(0x15, 0x10, 0, 0, sizeof(list), 0), list, sizeof(list));
	expect_bad_param(a, 16, 7);
	send_cdb(a, CDB(0x15, 0x11, 0, 0, sizeof(list), 0), list, sizeof(list));
	expect_bad_cdb(a, 1, 0); /* SP, and nowhere to save */
	send_cdb(a, CDB(0x15, 0x00, 0, 0, sizeof(list), 0), list, sizeof(list));
	expect_bad_cdb(a, 1, 4); /* PF 0 */
	send_cdb(a, CDB(0x15, 0x10, 0, 0, 0, 0), NULL, 0);
	expect_good(a);
	write_block(a);
	expect_good(a);
	world_logout(a);
	world_close(w);
}

static void one_target_port_group_with_all_ports(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");

	assert_int_equal(scsi_target_set_ports(w->target, 3), 0);
	send_cdb(a, CDB(0xa3, 0x0a, 0, 0, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(get_be32(a->r.data), 8 + 3 * 4);
	assert_int_equal(a->r.data[4] & 0x0f, 0); /* active/optimized */
	assert_int_equal(a->r.data[4 + 7], 3);
	assert_int_equal(get_be16(a->r.data + 12 + 2 * 4 + 2), 3);
	send_cdb(a, CDB(0xa3, 0x2a, 0, 0, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_good(a);
	assert_int_equal(a->r.data[4], 0x10);
	assert_int_equal(get_be32(a->r.data), 4 + 8 + 3 * 4);
	send_cdb(a, CDB(0xa3, 0x4a, 0, 0, 0, 0, BE32(64), 0, 0), NULL, 0);
	expect_bad_cdb(a, 1, 6);
	send_cdb(a, CDB(0xa4, 0x0a, 0, 0, 0, 0, BE32(0), 0, 0), NULL, 0);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
	world_logout(a);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_pages_are_there_in_order),
		cmocka_unit_test(changeable_is_exactly_what_can_be_changed),
		cmocka_unit_test(swp_refuses_writes_and_others_are_told),
		cmocka_unit_test(d_sense_changes_the_format),
		cmocka_unit_test(saved_pages_survive_the_process),
		cmocka_unit_test(a_refused_list_changes_nothing),
		cmocka_unit_test(one_target_port_group_with_all_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
