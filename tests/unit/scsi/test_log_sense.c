/* SPDX-License-Identifier: GPL-2.0-or-later */
/* LOG SENSE, over a store that claims to have used as much as a test likes. */
#include "scsi_harness.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/endian.h"

#define TIB (1ull << 40)

struct fake {
	struct block_store base;
	_Atomic uint64_t allocated;
	_Atomic unsigned asked_on_reactor;
};

static int fake_run(struct block_store *s, struct block_io *io)
{
	return -EIO;
}

static void fake_submit(struct block_store *s, struct block_io *io)
{
	io->done(io, -EIO);
}

static void fake_close(struct block_store *s)
{
	free(container_of(s, struct fake, base));
}

static void fake_info(struct block_store *s, struct block_info *ret_info)
{
	struct fake *f = container_of(s, struct fake, base);

	if (reactor_self())
		atomic_fetch_add(&f->asked_on_reactor, 1);
	*ret_info = (struct block_info){.type = "fake",
					.size = f->base.size,
					.write_unit = 512,
					.discard_unit = 512,
					.allocated = atomic_load(&f->allocated)};
}

static const struct block_ops fake_ops = {.type = "fake",
					  .close = fake_close,
					  .submit = fake_submit,
					  .run = fake_run,
					  .get_info = fake_info};

static struct world *open_world(uint32_t block_size, struct fake **ret_fake)
{
	struct fake *f = calloc(1, sizeof(*f));

	f->base.ops = &fake_ops;
	f->base.size = 64 * TIB;
	*ret_fake = f;
	return world_open(&(struct world_options){.store = &f->base, .block_size = block_size});
}

static void log_sense(struct initiator *i, uint8_t page, uint8_t subpage, uint16_t first)
{
	send_cdb(i, CDB(0x4d, 0, page, subpage, 0, BE16(first), BE16(64), 0), NULL, 0);
}

static void pages_are_listed_and_others_refused(void **state)
{
	struct fake *f;
	struct world *w = open_world(512, &f);
	struct initiator *a = world_login(w, 0, "iqn.a");

	log_sense(a, 0x00, 0, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 4 + get_be16(a->r.data + 2));
	assert_int_equal(a->r.data[4], 0x00);
	assert_int_equal(a->r.data[5], 0x0c);
	log_sense(a, 0x00, 0xff, 0);
	expect_good(a);
	assert_int_equal(a->r.data[0], 0x40);
	assert_int_equal(get_be16(a->r.data + 2), 6);
	log_sense(a, 0x0d, 0, 0);
	expect_bad_cdb(a, 2, 5);
	log_sense(a, 0x0c, 1, 0);
	expect_bad_cdb(a, 3, -1);
	log_sense(a, 0x0c, 0, 3);
	expect_bad_cdb(a, 5, -1);
	world_logout(a);
	world_close(w);
}

/* What an initiator makes of page and VPD page: used bytes. */
static uint64_t used(struct initiator *i, uint32_t block_size)
{
	uint8_t exponent;

	send_cdb(i, CDB(0x12, 1, 0xb2, BE16(64), 0), NULL, 0);
	expect_good(i);
	exponent = i->r.data[4];
	assert_in_range(exponent, 1, 31);
	assert_true(64 * TIB / block_size >> exponent < 1ull << 32); /* SBC-4 6.6.6 */
	log_sense(i, 0x0c, 0, 2);
	expect_good(i);
	assert_int_equal(i->r.len, 16);
	assert_int_equal(get_be16(i->r.data + 4), 0x0002);
	return (uint64_t)get_be32(i->r.data + 8) * block_size << exponent;
}

static void what_is_used_fits_up_to_64_tib(void **state)
{
	static const uint32_t block_sizes[] = {512, 4096};

	for (unsigned i = 0; i < 2; i++) {
		struct fake *f;
		struct world *w = open_world(block_sizes[i], &f);
		struct initiator *a = world_login(w, 0, "iqn.a");

		assert_int_equal(used(a, block_sizes[i]), 0);
		f->allocated = 4096;
		assert_in_range(used(a, block_sizes[i]), 4096, 64 << 10); /* not nothing */
		f->allocated = 3 * TIB;
		assert_true(used(a, block_sizes[i]) == 3 * TIB);
		f->allocated = 64 * TIB;
		assert_true(used(a, block_sizes[i]) == 64 * TIB);
		world_logout(a);
		world_close(w);
	}
}

static void a_store_that_cannot_tell_gives_an_empty_page(void **state)
{
	struct fake *f;
	struct world *w = open_world(512, &f);
	struct initiator *a = world_login(w, 0, "iqn.a");

	f->allocated = UINT64_MAX;
	log_sense(a, 0x0c, 0, 0);
	expect_good(a);
	assert_int_equal(a->r.len, 4);
	assert_int_equal(a->r.data[0], 0x0c);
	world_logout(a);
	world_close(w);
}

static void the_store_is_not_asked_on_a_reactor(void **state)
{
	struct fake *f;
	struct world *w = open_world(512, &f);
	struct initiator *a = world_login(w, 0, "iqn.a");

	log_sense(a, 0x0c, 0, 0);
	expect_good(a);
	assert_int_equal(f->asked_on_reactor, 0);
	world_logout(a);
	world_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_listed_and_others_refused),
		cmocka_unit_test(what_is_used_fits_up_to_64_tib),
		cmocka_unit_test(a_store_that_cannot_tell_gives_an_empty_page),
		cmocka_unit_test(the_store_is_not_asked_on_a_reactor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
