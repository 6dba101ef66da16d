/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cache_harness.h"

#include <string.h>
#include <sys/mman.h>

#define WORDS (CACHE_PAGE / sizeof(uint64_t))

void rig_open(struct rig *rig, uint64_t pages, unsigned shards, uint64_t tmem_bytes)
{
	*rig = (struct rig){0};
	assert_int_equal(address_space_create(&(struct address_space_spec){0}, &rig->as), 0);
	if (tmem_bytes)
		assert_int_equal(tmem_host_create(
					 &(struct tmem_host_spec){
						 .as = rig->as,
						 .limit = tmem_bytes,
					 },
					 &rig->tmem),
				 0);
	assert_int_equal(cache_create(
				 &(struct cache_spec){
					 .as = rig->as,
					 .max = pages * CACHE_PAGE,
					 .shards = shards,
					 .tmem = rig->tmem,
				 },
				 &rig->c),
			 0);
}

void rig_close(struct rig *rig)
{
	cache_destroy(rig->c);
	tmem_host_destroy(rig->tmem);
	assert_int_equal(address_space_destroy(rig->as), 0);
}

struct cache_object *rig_object(struct rig *rig, uint32_t weight, uint64_t floor_pages)
{
	struct cache_object *o = NULL;

	assert_int_equal(cache_object_create(rig->c,
					     &(struct cache_object_spec){
						     .name = "test",
						     .weight = weight,
						     .floor = floor_pages * CACHE_PAGE,
					     },
					     &o),
			 0);
	return o;
}

static uint64_t stamp_word(uint64_t page, uint32_t version, size_t i)
{
	if (i % 2)
		return 0;
	return (page << 24 | version) * 0x9e3779b97f4a7c15ull + i;
}

void stamp(void *buf, uint64_t page, uint32_t version)
{
	uint64_t *w = buf;

	for (size_t i = 0; i < WORDS; i++)
		w[i] = version ? stamp_word(page, version, i) : 0;
	if (version)
		w[1] = version;
}

uint32_t stamp_version(const void *buf, uint64_t page)
{
	const uint64_t *w = buf;
	uint64_t want[WORDS];

	stamp(want, page, (uint32_t)w[1]);
	assert_memory_equal(want, w, CACHE_PAGE);
	return (uint32_t)w[1];
}

bool fill(struct cache_object *o, uint64_t first, uint64_t n, uint32_t version)
{
	uint8_t buf[CACHE_PAGE];
	struct cache_fill f;

	for (uint64_t page = first; page < first + n; page++) {
		if (!cache_fill_begin(o, &f, page, 1))
			return false;
		stamp(buf, page, version);
		cache_fill_end(&f, &(struct iovec){buf, CACHE_PAGE}, 1, 0);
	}
	return true;
}

int64_t get(struct cache_object *o, uint64_t page)
{
	uint64_t buf[WORDS];

	return cache_read(o, page, 0, CACHE_PAGE, buf) ? -1 : (int64_t)stamp_version(buf, page);
}

struct cache_stats stats_of(struct cache *c)
{
	struct cache_stats st;

	cache_stats(c, &st);
	return st;
}

bool inject_purge(struct cache_object *o, uint64_t page)
{
	struct place at = place_of(o, page);
	uint64_t seen;
	uint32_t i = index_find(at.s, at.key, at.hash, &seen);

	if (i == NO_ENTRY || !entry_has_frame(at.s, i))
		return false;
	return madvise(volatile_page(o->c->range, at.s->first + i), CACHE_PAGE, MADV_DONTNEED) == 0;
}
