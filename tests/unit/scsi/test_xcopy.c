/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Third-party copy: what is copied, what is refused, and who may see what. */
#include "scsi_harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "scsi/scsi_internal.h"

struct list {
	uint8_t b[16 + 40 * 32 + 70 * 32];
	unsigned targets, segments, len;
};

static void list_init_(struct list *l, uint8_t id, uint8_t usage)
{
	memset(l, 0, sizeof(*l));
	l->b[0] = id;
	l->b[1] = (uint8_t)(usage << 3);
	l->len = 16;
}

static void add_target(struct list *l, struct scsi_lu *lu)
{
	const struct lun_identity *id = lun_identity(scsi_lu_lun(lu));
	uint8_t *d = l->b + l->len;

	d[0] = 0xe4;
	d[4] = 1; /* binary */
	d[5] = 3; /* NAA */
	d[7] = id->naa_len;
	memcpy(d + 8, id->naa, id->naa_len);
	put_be24(d + 29, 512);
	l->targets += 32;
	l->len += 32;
	put_be16(l->b + 2, (uint16_t)l->targets);
}

static uint8_t *add_blocks(struct list *l, uint16_t src, uint16_t dst, uint16_t n, uint64_t from,
			   uint64_t to)
{
	uint8_t *d = l->b + l->len;

	d[0] = 0x02;
	put_be16(d + 2, 24);
	put_be16(d + 4, src);
	put_be16(d + 6, dst);
	put_be16(d + 10, n);
	put_be64(d + 12, from);
	put_be64(d + 20, to);
	l->segments += 28;
	l->len += 28;
	put_be32(l->b + 8, l->segments);
	return d;
}

static void xcopy(struct initiator *i, const struct list *l)
{
	send_cdb(i, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, BE32(l->len), 0, 0), l->b, l->len);
}

static void copy_results(struct initiator *i, uint8_t sa, uint8_t id)
{
	send_cdb(i, CDB(0x84, sa, id, 0, 0, 0, 0, 0, 0, 0, BE32(512), 0, 0), NULL, 0);
}

static void put(struct initiator *i, uint64_t lba, const char *text)
{
	uint8_t block[512] = {0};

	memcpy(block, text, strlen(text));
	send_cdb(i, CDB(0x2a, 0, BE32((uint32_t)lba), 0, BE16(1), 0), block, sizeof(block));
	expect_good(i);
}

static void expect_block(struct initiator *i, uint64_t lba, const char *text)
{
	send_cdb(i, CDB(0x28, 0, BE32((uint32_t)lba), 0, BE16(1), 0), NULL, 0);
	expect_good(i);
	assert_int_equal(memcmp(i->r.data, text, strlen(text) + 1), 0);
}

static void copies_within_and_between_logical_units(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct scsi_lu *two = world_add_lu(w, &(struct world_options){0}, "two", w->target, 1);
	struct initiator *a = world_login(w, 0, "iqn.a");
	struct list l;

	put(a, 0, "zero");
	put(a, 1, "one");
	list_init_(&l, 7, 0);
	add_target(&l, w->lu);
	add_target(&l, two);
	add_blocks(&l, 0, 0, 2, 0, 100);
	add_blocks(&l, 0, 1, 2, 0, 8);
	add_blocks(&l, 0, 1, 0, 0, 8); /* nothing is no error */
	xcopy(a, &l);
	expect_good(a);
	expect_block(a, 100, "zero");
	expect_block(a, 101, "one");
	copy_results(a, 0, 7);
	expect_good(a);
	assert_int_equal(get_be32(a->r.data), 8);
	assert_int_equal(a->r.data[4], 1);
	assert_int_equal(get_be16(a->r.data + 5), 3);
	assert_int_equal(get_be32(a->r.data + 8), 4 * 512);
	copy_results(a, 0, 7); /* told once */
	expect_bad_cdb(a, 2, -1);
	a->lun = 1ull << 48;
	send_cdb(a, CDB(0x00, 0, 0, 0, 0, 0), NULL, 0); /* its unit attention */
	expect_block(a, 8, "zero");
	expect_block(a, 9, "one");
	world_logout(a);
	scsi_lu_unref(two);
	world_close(w);
}

static void overlapping_ranges_are_copied_as_if_at_once(void **state)
{
	static const char *const text[] = {"0", "1", "2", "3", "4"};
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	struct list l;

	for (unsigned i = 0; i < 5; i++)
		put(a, 10 + i, text[i]);
	list_init_(&l, 0, 3);
	add_target(&l, w->lu);
	add_blocks(&l, 0, 0, 5, 10, 11);
	xcopy(a, &l);
	expect_good(a);
	for (unsigned i = 0; i < 5; i++)
		expect_block(a, 11 + i, text[i]);
	add_blocks(&l, 0, 0, 5, 11, 10); /* first again, then back */
	xcopy(a, &l);
	expect_good(a);
	expect_block(a, 10, "0");
	expect_block(a, 14, "3");
	world_logout(a);
	world_close(w);
}

static void byte_offsets(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	struct list l;
	uint8_t *d;

	put(a, 3, "three");
	list_init_(&l, 0, 3);
	add_target(&l, w->lu);
	d = add_blocks(&l, 0, 0, 0, 2, 40);
	d[0] = 0x0a;
	put_be16(d + 2, 28);
	put_be32(d + 8, 512);
	put_be16(d + 28, 512);
	put_be16(d + 30, 1024);
	l.len += 4;
	put_be32(l.b + 8, l.segments + 4);
	xcopy(a, &l);
	expect_good(a);
	expect_block(a, 42, "three");
	put_be32(d + 8, 513);
	xcopy(a, &l);
	expect_sense(a, SENSE_COPY_ABORTED, ASC_COPY_SEGMENT_GRANULARITY);
	world_logout(a);
	world_close(w);
}

static bool see_nothing_more(struct scsi_nexus *nx, struct scsi_target *other)
{
	return false;
}

static bool see_everything(struct scsi_nexus *nx, struct scsi_target *other)
{
	return true;
}

static void what_the_initiator_may_not_see_does_not_exist(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct scsi_target *elsewhere;
	struct scsi_lu *hidden;
	struct initiator *a, *b;
	struct list l;

	assert_int_equal(scsi_target_create("iqn.2026-11.local.ebb:other", &elsewhere), 0);
	hidden = world_add_lu(w, &(struct world_options){0}, "hidden", elsewhere, 0);
	a = world_login(w, 0, "iqn.a");
	b = world_login_raw(w, elsewhere, 1, "iqn.b");
	send_cdb(b, CDB(0x00, 0, 0, 0, 0, 0), NULL, 0);
	put(b, 5, "secret");
	list_init_(&l, 1, 0);
	add_target(&l, hidden);
	add_target(&l, w->lu);
	add_blocks(&l, 1, 1, 1, 0, 50); /* this one is fine */
	add_blocks(&l, 0, 1, 1, 5, 5);
	xcopy(a, &l);
	expect_sense(a, SENSE_COPY_ABORTED, ASC_UNREACHABLE_COPY_TARGET);
	a->nx.may_see = see_nothing_more;
	xcopy(a, &l);
	expect_sense(a, SENSE_COPY_ABORTED, ASC_UNREACHABLE_COPY_TARGET);
	expect_block(a, 5, "");
	copy_results(a, 4, 1); /* where and why */
	expect_good(a);
	assert_int_equal(a->r.data[56], SCSI_CHECK_CONDITION);
	assert_int_equal(a->r.data[60 + 2] & 0x0f, SENSE_COPY_ABORTED);
	assert_int_equal(get_be32(a->r.data + 60 + 8) & 0xffff, 1); /* the second segment */
	a->nx.may_see = see_everything;
	xcopy(a, &l);
	expect_good(a);
	expect_block(a, 5, "secret");
	world_logout(a);
	world_logout(b);
	scsi_lu_unref(hidden);
	scsi_target_unref(elsewhere);
	world_close(w);
}

static unsigned times_asked;

static bool count_and_refuse(struct scsi_nexus *nx, struct scsi_target *other)
{
	times_asked++;
	return false;
}

static void find_none(struct initiator *i, struct scsi_lu *lu, unsigned asked)
{
	const uint8_t *naa = lun_identity(scsi_lu_lun(lu))->naa;
	uint8_t d[12] = {1, 3, 0, 8};

	memcpy(d + 4, naa, 8);
	times_asked = 0;
	assert_null(scsi_lu_find_designator(&i->nx, d, sizeof(d)));
	assert_int_equal(times_asked, asked);
}

/** Only those are asked about that show the logical unit, however many targets there are. */
static void a_look_up_does_not_grow_with_the_targets(void **state)
{
	enum { TARGETS = 200 };
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	struct scsi_target *t[TARGETS];
	struct scsi_lu *lu[2];
	char name[64];

	for (unsigned i = 0; i < TARGETS; i++) {
		snprintf(name, sizeof(name), "iqn.2026-11.local.ebb:t%u", i);
		assert_int_equal(scsi_target_create(name, &t[i]), 0);
	}
	lu[0] = world_add_lu(w, &(struct world_options){0}, "one", t[7], 3);
	lu[1] = world_add_lu(w, &(struct world_options){0}, "many", t[0], 0);
	for (unsigned i = 1; i < TARGETS; i++)
		assert_int_equal(scsi_target_map(t[i], 0, lu[1]), 0);
	a->nx.may_see = count_and_refuse;
	find_none(a, lu[0], 1);
	find_none(a, lu[1], TARGETS);
	assert_int_equal(scsi_target_unmap(t[7], 3), 0);
	find_none(a, lu[0], 0);
	for (unsigned i = 0; i < TARGETS; i++)
		scsi_target_unref(t[i]);
	find_none(a, lu[1], 0);
	world_logout(a);
	scsi_lu_unref(lu[0]);
	scsi_lu_unref(lu[1]);
	world_close(w);
}

/** EUI-64, NAA and UUID name it, with the association of a logical unit only. */
static void every_designator_names_its_logical_unit(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct scsi_lu *two = world_add_lu(w, &(struct world_options){0}, "two", w->target, 1);
	struct initiator *a = world_login(w, 0, "iqn.a");
	unsigned found = 0;
	uint8_t *d;

	a->lun = 1ull << 48;
	send_cdb(a, CDB(0x12, 1, 0x83, BE16(512), 0), NULL, 0);
	expect_good(a);
	for (unsigned at = 4; at < a->r.len; at += 4 + d[3]) {
		bool of_lu, known;
		struct scsi_lu *lu;

		d = a->r.data + at;
		lu = scsi_lu_find_designator(&a->nx, d, a->r.len - at);
		of_lu = !(d[1] & 0x30);
		known = of_lu && ((d[1] & 0x0f) == 2 || (d[1] & 0x0f) == 3 || (d[1] & 0x0f) == 0xa);
		assert_ptr_equal(lu, known ? two : NULL);
		assert_null(scsi_lu_find_designator(&a->nx, d, 3 + d[3])); /* cut short */
		found += known;
		scsi_lu_unref(lu);
	}
	assert_int_equal(found, 3);
	world_logout(a);
	scsi_lu_unref(two);
	world_close(w);
}

static void reservations_and_write_protection_hold(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct scsi_lu *ro =
		world_add_lu(w, &(struct world_options){.read_only = true}, "ro", w->target, 1);
	struct scsi_lu *held = world_add_lu(w, &(struct world_options){0}, "held", w->target, 2);
	struct initiator *a = world_login(w, 0, "iqn.a"), *b = world_login(w, 1, "iqn.b");
	struct list l;

	list_init_(&l, 0, 3);
	add_target(&l, w->lu);
	add_target(&l, ro);
	add_blocks(&l, 0, 1, 1, 0, 0);
	xcopy(a, &l);
	expect_sense(a, SENSE_COPY_ABORTED, ASC_THIRD_PARTY_DEVICE_FAILURE);
	b->lun = 2ull << 48;
	send_cdb(b, CDB(0x00, 0, 0, 0, 0, 0), NULL, 0);
	send_cdb(b, CDB(0x16, 0, 0, 0, 0, 0), NULL, 0);
	expect_good(b);
	list_init_(&l, 0, 3);
	add_target(&l, w->lu);
	add_target(&l, held);
	add_blocks(&l, 0, 1, 1, 0, 0);
	xcopy(a, &l);
	expect_sense(a, SENSE_COPY_ABORTED, ASC_THIRD_PARTY_DEVICE_FAILURE);
	send_cdb(b, CDB(0x17, 0, 0, 0, 0, 0), NULL, 0);
	xcopy(a, &l);
	expect_good(a);
	world_logout(a);
	world_logout(b);
	scsi_lu_unref(ro);
	scsi_lu_unref(held);
	world_close(w);
}

static void bad_lists_are_refused_before_anything_is_copied(void **state)
{
	struct world *w = world_open(&(struct world_options){0});
	struct initiator *a = world_login(w, 0, "iqn.a");
	struct list l;
	uint8_t *d;

	list_init_(&l, 1, 0);
	add_target(&l, w->lu);
	add_blocks(&l, 0, 0, 1, 0, 1);
	l.len--;
	xcopy(a, &l);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
	l.len++;
	d = add_blocks(&l, 0, 0, 1, 0, 1);
	d[0] = 0x03;
	xcopy(a, &l);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_UNSUPPORTED_SEGMENT_DESCRIPTOR);
	d[0] = 0x02;
	l.b[16] = 0xe0;
	xcopy(a, &l);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_UNSUPPORTED_TARGET_DESCRIPTOR);
	l.b[16] = 0xe4;
	l.b[16 + 7] = 21; /* a designator longer than its field */
	xcopy(a, &l);
	expect_bad_param(a, 16 + 7, -1);

	list_init_(&l, 1, 0);
	for (unsigned i = 0; i < 33; i++)
		add_target(&l, w->lu);
	add_blocks(&l, 0, 0, 1, 0, 1);
	xcopy(a, &l);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_TOO_MANY_TARGET_DESCRIPTORS);
	list_init_(&l, 1, 0);
	add_target(&l, w->lu);
	for (unsigned i = 0; i < 65; i++)
		add_blocks(&l, 0, 0, 1, 0, 1);
	xcopy(a, &l);
	expect_sense(a, SENSE_ILLEGAL_REQUEST, ASC_TOO_MANY_SEGMENT_DESCRIPTORS);

	list_init_(&l, 1, 0);
	add_target(&l, w->lu);
	add_blocks(&l, 0, 1, 1, 0, 1); /* no such target */
	xcopy(a, &l);
	expect_sense(a, SENSE_COPY_ABORTED, ASC_UNREACHABLE_COPY_TARGET);
	list_init_(&l, 1, 0);
	add_target(&l, w->lu);
	add_blocks(&l, 0, 0, 2, 0, (8 << 20) / 512 - 1);
	xcopy(a, &l);
	expect_sense(a, SENSE_COPY_ABORTED, 0);
	put_be64(l.b + 48 + 20, UINT64_MAX);
	xcopy(a, &l);
	expect_sense(a, SENSE_COPY_ABORTED, 0);
	send_cdb(a, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, BE32(0), 0, 0), NULL, 0);
	expect_good(a);
	copy_results(a, 3, 0);
	expect_good(a);
	assert_int_equal(get_be16(a->r.data + 8), 32);
	assert_int_equal(get_be16(a->r.data + 10), 64);
	world_logout(a);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_within_and_between_logical_units),
		cmocka_unit_test(overlapping_ranges_are_copied_as_if_at_once),
		cmocka_unit_test(byte_offsets),
		cmocka_unit_test(what_the_initiator_may_not_see_does_not_exist),
		cmocka_unit_test(a_look_up_does_not_grow_with_the_targets),
		cmocka_unit_test(every_designator_names_its_logical_unit),
		cmocka_unit_test(reservations_and_write_protection_hold),
		cmocka_unit_test(bad_lists_are_refused_before_anything_is_copied),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
