// SPDX-License-Identifier: GPL-2.0-or-later
/* The userspace host: codec, packing, compaction, damage, giving memory back. */
#include <pthread.h>
#include <stdlib.h>

#include "tmem_harness.h"
#include "mem/tmem/host.h"

struct fixture {
	struct address_space *as;
	struct tmem_host *h;
	struct tmem_client *c;
	u32 pool, persistent;
};

static void open_host(struct fixture *f, struct codec_spec codec, u64 spares)
{
	struct address_space_spec small = {.size = 16ull << 30, .wired = 2ull << 30};

	assert_int_equal(address_space_create(&small, &f->as), 0);
	assert_int_equal(
		tmem_host_create(
			&(struct tmem_host_spec){.as = f->as, .codec = codec, .spares = spares},
			&f->h),
		0);
	assert_int_equal(tmem_client_create(tmem_host_instance(f->h), "c", 1, 0, &f->c), 0);
	assert_int_equal(tmem_pool_new(f->c, 0, NULL, &f->pool), 0);
	assert_int_equal(tmem_pool_new(f->c, TMEM_PERSISTENT, NULL, &f->persistent), 0);
}

static void close_host(struct fixture *f)
{
	struct tmem_host_stats s;

	tmem_pool_flush(f->c, f->pool);
	tmem_pool_flush(f->c, f->persistent);
	tmem_host_stats(f->h, &s);
	assert_int_equal(s.packer.records + s.packer.words, 0);
	assert_int_equal(s.packer.slot_bytes, 0);
	assert_int_equal(s.packer.record_bytes, 0);
	assert_int_equal(s.packer.blocks, 0);
	assert_int_equal(s.filled + s.lz4 + s.zstd + s.raw, 0);
	tmem_client_destroy(f->c);
	tmem_host_destroy(f->h);
	assert_int_equal(address_space_destroy(f->as), 0);
}

static const struct tmem_oid oid = {{1, 2, 3}};

/* About @percent of the page is noise, the rest is not; it tells @seed. */
static void make_page(uint8_t *page, u64 seed, u32 percent)
{
	u64 rnd = seed * 0x9e3779b97f4a7c15ull + 1;

	memset(page, (int)seed, TMEM_PAGE);
	memcpy(page, &seed, sizeof(seed));
	for (u32 i = 8; i + 8 <= TMEM_PAGE * percent / 100; i += 8) {
		u64 v = next_random(&rnd);

		memcpy(page + i, &v, sizeof(v));
	}
}

static int put(struct fixture *f, u64 index, u32 percent)
{
	uint8_t page[TMEM_PAGE];

	make_page(page, index, percent);
	return tmem_put(f->c, f->pool, &oid, index, page);
}

/* What is there must be that page. */
static int get(struct fixture *f, u64 index, u32 percent)
{
	uint8_t page[TMEM_PAGE], want[TMEM_PAGE];
	int r = tmem_get(f->c, f->pool, &oid, index, page);

	if (!r) {
		make_page(want, index, percent);
		assert_memory_equal(page, want, TMEM_PAGE);
	}
	return r;
}

static void test_every_length_comes_back(void **state)
{
	const struct codec_spec spec[] = {{.keep_raw = true},
					  {.kind = CODEC_ZSTD, .keep_raw = true, .level = 3}};

	for (int i = 0; i < 2; i++) {
		struct tmem_host_stats s;
		struct fixture f;

		open_host(&f, spec[i], 0);
		for (u32 n = 0; n <= 1000; n++)
			assert_int_equal(put(&f, n, n / 10), 0);
		for (u32 n = 0; n <= 1000; n++)
			assert_int_equal(get(&f, n, n / 10), 0);
		tmem_host_stats(f.h, &s);
		assert_int_equal(s.lz4 + s.zstd + s.raw + s.filled, 1001);
		assert_true(i ? s.zstd > 700 && !s.lz4 : s.lz4 > 700 && !s.zstd);
		assert_true(s.raw > 50);
		assert_int_equal(s.packer.records, 1001 - s.filled);
		close_host(&f);
	}
}

static void test_incompressible_refused(void **state)
{
	struct tmem_host_stats s;
	struct fixture f;

	open_host(&f, (struct codec_spec){0}, 0);
	assert_int_equal(put(&f, 1, 10), 0);
	assert_int_equal(put(&f, 1, 100), -E2BIG);
	assert_int_equal(get(&f, 1, 10), -ENOENT); /* what it would have replaced went */
	tmem_host_stats(f.h, &s);
	assert_int_equal(s.refused, 1);
	assert_int_equal(s.packer.blocks, 0);
	close_host(&f);
}

static void test_filled_pages_are_words(void **state)
{
	uint8_t page[TMEM_PAGE], got[TMEM_PAGE];
	struct tmem_host_stats s;
	struct fixture f;

	open_host(&f, (struct codec_spec){0}, 0);
	for (u64 i = 0; i < 100; i++) {
		codec_page_fill(page, i * 0x0123456789abcdefull);
		assert_int_equal(tmem_put(f.c, f.pool, &oid, i, page), 0);
	}
	tmem_host_stats(f.h, &s);
	assert_int_equal(s.filled, 100);
	assert_int_equal(s.packer.blocks, 0);
	for (u64 i = 0; i < 100; i++) {
		codec_page_fill(page, i * 0x0123456789abcdefull);
		assert_int_equal(tmem_get(f.c, f.pool, &oid, i, got), 0);
		assert_memory_equal(page, got, TMEM_PAGE);
	}
	page[TMEM_PAGE - 1] ^= 1; /* almost */
	assert_int_equal(tmem_put(f.c, f.pool, &oid, 0, page), 0);
	assert_int_equal(tmem_get(f.c, f.pool, &oid, 0, got), 0);
	assert_memory_equal(page, got, TMEM_PAGE);
	tmem_host_stats(f.h, &s);
	assert_int_equal(s.filled, 99);
	close_host(&f);
}

static void test_bad_specs(void **state)
{
	struct codec *c = NULL;

	assert_int_equal(codec_create(&(struct codec_spec){.kind = CODEC_RAW}, &c), -EINVAL);
	assert_int_equal(codec_create(&(struct codec_spec){.kind = 9}, &c), -EINVAL);
	assert_int_equal(codec_create(&(struct codec_spec){.level = 20}, &c), -EINVAL);
	assert_int_equal(codec_create(&(struct codec_spec){.level = -1}, &c), -EINVAL);
	assert_int_equal(codec_create(&(struct codec_spec){.limit = 4097}, &c), -EINVAL);
	assert_null(c);
	codec_destroy(NULL);
	packer_destroy(NULL);
	tmem_host_destroy(NULL);
}

/* Any change of any byte of a record is noticed; no length reads past the slot. */
static void test_damaged_records(void **state)
{
	const struct codec_spec spec[] = {{0}, {.kind = CODEC_ZSTD}};

	for (int i = 0; i < 2; i++) {
		uint8_t page[TMEM_PAGE], copy[RECORD_MAX];
		struct codec_work *w;
		enum codec_kind kind;
		const void *record;
		struct codec *c;
		size_t len;

		assert_int_equal(codec_create(&spec[i], &c), 0);
		w = codec_work_get(c);
		make_page(page, 5, 20);
		assert_int_equal(codec_encode(c, w, page, &record, &len, &kind), 0);
		memcpy(copy, record, len);
		for (size_t at = 0; at < len * 8; at++) {
			copy[at / 8] ^= (uint8_t)(1 << at % 8);
			assert_int_equal(codec_decode(w, copy, len, page), -EBADMSG);
			copy[at / 8] ^= (uint8_t)(1 << at % 8);
		}
		for (size_t max = 0; max < len; max++)
			assert_int_equal(codec_decode(w, copy, max, page), -EBADMSG);
		assert_int_equal(codec_decode(w, copy, len, page), 0);
		/* sealed again: what the checksum cannot tell, the format must */
		copy[6] = 7;
		codec_seal(copy, len);
		assert_int_equal(codec_decode(w, copy, len, page), -EBADMSG);
		copy[6] = CODEC_RAW;
		codec_seal(copy, len);
		assert_int_equal(codec_decode(w, copy, len, page), -EBADMSG);
		copy[6] = (uint8_t)kind;
		for (size_t at = RECORD_HEADER; at < len; at++) {
			copy[at] ^= 0xff;
			codec_seal(copy, len);
			codec_decode(w, copy, len, page); /* anything but a crash */
			copy[at] ^= 0xff;
		}
		codec_work_put(c, w);
		codec_destroy(c);
	}
}

/* Loads whose record is damaged in its block before it is decoded. */
static u32 damage;

int __real_codec_decode(struct codec_work *w, const void *record, size_t max, void *page);
int __wrap_codec_decode(struct codec_work *w, const void *record, size_t max, void *page);

int __wrap_codec_decode(struct codec_work *w, const void *record, size_t max, void *page)
{
	if (damage) {
		((uint8_t *)record)[damage * 7 % 40] ^= 0x10;
		damage--;
	}
	return __real_codec_decode(w, record, max, page);
}

static void test_damaged_pages_are_misses(void **state)
{
	uint8_t page[TMEM_PAGE];
	struct tmem_host_stats hs;
	struct tmem_stats s;
	struct fixture f;

	open_host(&f, (struct codec_spec){0}, 0);
	for (u64 i = 0; i < 64; i++)
		assert_int_equal(put(&f, i, 30), 0);
	make_page(page, 1, 30);
	assert_int_equal(tmem_put(f.c, f.persistent, &oid, 0, page), 0);
	damage = 31;
	assert_int_equal(tmem_get(f.c, f.persistent, &oid, 0, page), -EIO);
	for (u64 i = 0; i < 30; i++)
		assert_int_equal(get(&f, i, 30), -ENOENT);
	assert_int_equal(damage, 0);
	for (u64 i = 0; i < 64; i++)
		assert_int_equal(get(&f, i, 30), i < 30 ? -ENOENT : 0);
	tmem_host_stats(f.h, &hs);
	assert_int_equal(hs.damaged, 31);
	tmem_client_stats(f.c, &s);
	assert_int_equal(s.corrupt, 31);
	assert_int_equal(s.pages, 34);
	close_host(&f);
}

/* Overwriting blocks harms no structure of the packer. */
static void test_blocks_hold_no_structure(void **state)
{
	struct vmem *records;
	struct packer_cell *cell[64];
	struct fixture f;
	struct packer *p;
	u32 cost;
	size_t room;

	assert_int_equal(address_space_create(&(struct address_space_spec){.size = 16ull << 30,
									   .wired = 1ull << 30},
					      &f.as),
			 0);
	records = address_space_wired_lines(f.as);
	assert_int_equal(packer_create(f.as, records, 0, &p), 0);
	for (u32 i = 0; i < 64; i++) {
		uint8_t bytes[600];

		memset(bytes, (int)i, sizeof(bytes));
		assert_int_equal(packer_put(p, bytes, sizeof(bytes), CODEC_LZ4, &cell[i], &cost),
				 0);
	}
	for (u32 i = 0; i < 64; i++) {
		memset(packer_pin(p, cell[i], &room), 0xff, 600);
		packer_unpin(cell[i]);
	}
	for (u32 i = 0; i < 64; i += 2)
		packer_free(p, cell[i]);
	packer_compact(p);
	for (u32 i = 1; i < 64; i += 2)
		packer_free(p, cell[i]);
	packer_destroy(p);
	assert_int_equal(address_space_destroy(f.as), 0);
}

static void test_charges_are_what_the_packer_spends(void **state)
{
	struct tmem_host_stats s;
	struct tmem_stats t;
	struct fixture f;

	open_host(&f, (struct codec_spec){.keep_raw = true}, 0);
	for (u32 n = 0; n < 3000; n++)
		assert_int_equal(put(&f, n, n % 100), 0);
	tmem_host_stats(f.h, &s);
	tmem_client_stats(f.c, &t);
	assert_int_equal(t.page_bytes, s.packer.slot_bytes + s.packer.records * 24 +
					       s.packer.words * sizeof(struct packer_cell));
	tmem_stats(tmem_host_instance(f.h), &t);
	/* records: the core's, the cells', and the tables of blocks */
	assert_true(s.record_bytes >= t.meta_bytes + (s.packer.records + s.packer.words) * 16);
	assert_true(s.packer.slot_bytes >= s.packer.record_bytes);
	assert_true(s.packer.block_bytes >= s.packer.slot_bytes);
	/* rounding to classes */
	assert_true(s.packer.slot_bytes < s.packer.record_bytes * 106 / 100);
	close_host(&f);
}

static void test_compaction(void **state)
{
	struct tmem_host_stats before, after;
	struct fixture f;
	u64 freed;

	open_host(&f, (struct codec_spec){0}, 0);
	for (u64 i = 0; i < 4000; i++)
		assert_int_equal(put(&f, i, 30), 0);
	for (u64 i = 0; i < 4000; i++) {
		if (i % 10)
			assert_int_equal(tmem_flush_page(f.c, f.pool, &oid, i), 0);
	}
	tmem_host_stats(f.h, &before);
	freed = tmem_host_compact(f.h);
	tmem_host_stats(f.h, &after);
	assert_int_equal(freed, before.packer.block_bytes - after.packer.block_bytes);
	assert_true(after.packer.blocks * 5 < before.packer.blocks);
	assert_true(after.packer.moved > 0);
	for (u64 i = 0; i < 4000; i++)
		assert_int_equal(get(&f, i, 30), i % 10 ? -ENOENT : 0);
	assert_int_equal(tmem_host_compact(f.h), 0);
	close_host(&f);
}

static void test_shrink_gives_back(void **state)
{
	struct tmem_host_stats before, after;
	struct fixture f;
	u64 given, left = 0;

	open_host(&f, (struct codec_spec){0}, 1 << 20);
	for (u64 i = 0; i < 8000; i++)
		assert_int_equal(put(&f, i, 30), 0);
	tmem_host_stats(f.h, &before);
	given = tmem_host_shrink(f.h, 4 << 20);
	tmem_host_stats(f.h, &after);
	assert_true(given >= 4 << 20);
	assert_true(given < 6 << 20);
	assert_int_equal(before.resident - after.resident, given);
	assert_int_equal(after.packer.spare_bytes, 0);
	assert_int_equal(after.returned, given);
	for (u64 i = 0; i < 8000; i++)
		left += !get(&f, i, 30);
	assert_true(left > 1000 && left < 6500);
	assert_int_equal(get(&f, 0, 30), -ENOENT); /* the oldest went */
	assert_int_equal(get(&f, 7999, 30), 0);
	tmem_host_shrink(f.h, ~0ull >> 1);
	tmem_host_stats(f.h, &after);
	assert_int_equal(after.packer.block_bytes + after.packer.spare_bytes, 0);
	close_host(&f);
}

/* --- readers and writers while blocks are packed anew --- */

struct mover {
	struct fixture *f;
	u32 me;
	bool *stop;
};

static void *churn(void *arg)
{
	struct mover *m = arg;
	u64 rnd = m->me + 99;

	for (int n = 0; n < 6000; n++) {
		u64 r = next_random(&rnd), i = (r % 500) * 2 + m->me;

		if (r >> 32 & 1)
			put(m->f, i, (u32)(i % 80));
		else if (r >> 33 & 1)
			get(m->f, i, (u32)(i % 80));
		else
			tmem_flush_page(m->f->c, m->f->pool, &oid, i);
		get(m->f, i ^ 1, (u32)((i ^ 1) % 80));
	}
	return NULL;
}

static void *pack(void *arg)
{
	struct mover *m = arg;

	while (!__atomic_load_n(m->stop, __ATOMIC_RELAXED))
		tmem_host_compact(m->f->h);
	return NULL;
}

static void test_compaction_beside_readers(void **state)
{
	bool stop = false;
	struct tmem_host_stats s;
	struct fixture f;
	struct mover m[3];
	pthread_t t[3];

	open_host(&f, (struct codec_spec){0}, 1 << 20);
	for (u32 i = 0; i < 3; i++) {
		m[i] = (struct mover){.f = &f, .me = i, .stop = &stop};
		assert_int_equal(pthread_create(&t[i], NULL, i < 2 ? churn : pack, &m[i]), 0);
	}
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(t[2], NULL);
	tmem_host_stats(f.h, &s);
	assert_true(s.packer.moved > 0);
	assert_int_equal(s.damaged, 0);
	close_host(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_length_comes_back),
		cmocka_unit_test(test_incompressible_refused),
		cmocka_unit_test(test_filled_pages_are_words),
		cmocka_unit_test(test_bad_specs),
		cmocka_unit_test(test_damaged_records),
		cmocka_unit_test(test_damaged_pages_are_misses),
		cmocka_unit_test(test_blocks_hold_no_structure),
		cmocka_unit_test(test_charges_are_what_the_packer_spends),
		cmocka_unit_test(test_compaction),
		cmocka_unit_test(test_shrink_gives_back),
		cmocka_unit_test(test_compaction_beside_readers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
