/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cache_harness.h"

#include <string.h>
#include <sys/mman.h>

#define WORDS (CACHE_PAGE / sizeof(uint64_t))

void rig_open(struct rig *rig, uint64_t pages, unsigned shards, uint64_t tmem_bytes)
{
	*rig = (struct rig){0};
	assert_int_equal(
		address_space_create(&(struct address_space_spec){.size = 64ull << 30}, &rig->as),
		0);
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
	uint64_t w[WORDS] = {0};

	for (size_t i = 0; version && i < WORDS; i++)
		w[i] = stamp_word(page, version, i);
	w[1] = version;
	memcpy(buf, w, CACHE_PAGE);
}

bool stamp_read(const void *buf, uint64_t page, uint32_t *ret_version)
{
	uint64_t want[WORDS], word;

	memcpy(&word, (const uint8_t *)buf + sizeof(word), sizeof(word));
	*ret_version = (uint32_t)word;
	stamp(want, page, *ret_version);
	return memcmp(want, buf, CACHE_PAGE) == 0;
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
	uint32_t version;

	if (cache_read(o, page, 0, CACHE_PAGE, buf))
		return -1;
	assert_true(stamp_read(buf, page, &version));
	return version;
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

/* Walks a queue; marks its entries. */
static void check_queue(struct shard *s, enum queue_id q, uint8_t *seen)
{
	uint32_t n = 0, prev = NO_ENTRY;

	for (uint32_t i = s->queue[q].head; i != NO_ENTRY; i = s->entry[i].next) {
		bool keyed = q == QUEUE_SMALL || q == QUEUE_MAIN || q == QUEUE_ZERO;
		bool frame = q != QUEUE_ZERO && q != QUEUE_ZERO_FREE;

		assert_int_equal(s->entry[i].queue, q);
		assert_int_equal(s->entry[i].prev, prev);
		assert_int_equal(entry_key(&s->entry[i]) != 0, keyed);
		assert_int_equal(entry_has_frame(s, i), frame);
		assert_int_equal(seen[i], 0);
		seen[i] = 1;
		prev = i;
		n++;
	}
	assert_int_equal(s->queue[q].tail, prev);
	assert_int_equal(s->queue[q].n, n);
}

static void check_shard(struct shard *s)
{
	uint8_t *seen = test_calloc(s->frames + s->zeros, 1);
	uint32_t slots = 0, passed = 0;

	for (unsigned q = QUEUE_SMALL; q < QUEUES; q++)
		check_queue(s, (enum queue_id)q, seen);
	for (uint32_t i = 0; i < s->frames + s->zeros; i++) {
		uint64_t key = entry_key(&s->entry[i]), found;

		assert_int_equal(seen[i], i < s->frames ? i < s->fresh : i < s->fresh_zero);
		if (!key)
			continue;
		assert_int_equal(key_state(key), ENTRY_READY);
		assert_int_equal(index_find(s, key, key_mix(key), &found), i);
	}
	for (uint32_t l = 0; l < s->lines; l++)
		for (unsigned k = 0; k < LINE_SLOTS; k++)
			slots += s->line[l].slot[k] != 0;
	for (uint32_t l = 0; l < s->lines; l++)
		passed += s->line[l].passed;
	assert_int_equal(slots, s->pages + s->zero_pages);
	assert_true(slots || !passed);
	assert_int_equal(s->pages, s->queue[QUEUE_SMALL].n + s->queue[QUEUE_MAIN].n);
	assert_int_equal(s->zero_pages, s->queue[QUEUE_ZERO].n);
	assert_int_equal(s->held, s->pages + s->queue[QUEUE_FREE].n);
	for (unsigned k = 0; k < CELLS; k++)
		assert_int_equal(s->cell[k].writers, 0);
	test_free(seen);
}

void check_consistency(struct cache *c)
{
	uint64_t pages = 0, zeros = 0, shards = 0, shards_zero = 0;

	for (unsigned k = 0; k < c->n_shards; k++) {
		check_shard(&c->shards[k]);
		shards += c->shards[k].pages;
		shards_zero += c->shards[k].zero_pages;
	}
	for (unsigned id = 1; id < OBJECTS_MAX; id++) {
		struct cache_object *o = c->objects[id];

		if (!o)
			continue;
		assert_int_equal(o->entries, o->pages + o->zero_pages);
		assert_int_equal(o->puts_begun, o->puts_done);
		pages += o->pages;
		zeros += o->zero_pages;
	}
	assert_int_equal(pages, shards);
	assert_int_equal(zeros, shards_zero);
}
