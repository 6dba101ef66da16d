/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which request comes next. While a lane's cursor is short of the region's end it passes over the
 * region in order (the first fill, and the checks after a connection and at the end); else requests
 * are drawn at random, half of them in a small hot window, so that they overlap.
 */
#include "run_private.h"

#define CAW_BLOCKS_MAX	4u
#define HOT_BLOCKS	48u
#define VALUE_OF_NOBODY (UINT64_MAX - 1)

static uint64_t next_random(struct run *run)
{
	uint64_t x = run->random_state += 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t below(struct run *run, uint64_t limit)
{
	return next_random(run) % limit;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static const struct {
	enum request_kind kind;
	unsigned weight;
} mix[] = {
	{REQUEST_READ, 38}, {REQUEST_WRITE, 26}, {REQUEST_WRITE_SAME, 5}, {REQUEST_ZERO, 5},
	{REQUEST_UNMAP, 7}, {REQUEST_CAW, 12},	 {REQUEST_ATOMIC, 4},	  {REQUEST_FLUSH, 3},
};

static enum request_kind choose_kind(struct run *run, const struct client *client)
{
	unsigned roll = (unsigned)below(run, 100);

	for (unsigned i = 0; i < sizeof(mix) / sizeof(mix[0]); i++) {
		if (roll < mix[i].weight)
			return client->can[mix[i].kind] && client->max[mix[i].kind] ? mix[i].kind
										    : REQUEST_READ;
		roll -= mix[i].weight;
	}
	return REQUEST_READ;
}

static uint32_t choose_count(struct run *run, const struct client *client, enum request_kind kind)
{
	uint32_t most = min_u32(run->options.max_blocks, client->max[kind]);

	if (kind == REQUEST_CAW)
		most = min_u32(most, CAW_BLOCKS_MAX);
	if (below(run, 2))
		most = min_u32(most, 8);
	return 1 + (uint32_t)below(run, most);
}

static uint64_t choose_first(struct run *run, uint32_t count)
{
	uint64_t room = run->options.blocks - count + 1;

	if (room > HOT_BLOCKS && below(run, 2))
		room = HOT_BLOCKS;
	return below(run, room);
}

static void fill_data(struct run *run, const struct slot *slot, uint64_t value, uint8_t *data)
{
	const struct request *q = &slot->request;

	if (q->kind == REQUEST_WRITE_SAME) {
		stamp_fill(&run->key, STAMP_ANYWHERE, value, data);
		return;
	}
	for (uint32_t i = 0; i < q->count; i++)
		stamp_fill(&run->key, q->lba + i, value, data + (size_t)i * run->key.block_size);
}

/* Aims at what is there, as far as the model knows; now and then at what cannot be. */
static void aim_caw(struct run *run, struct slot *slot, size_t first)
{
	const struct request *q = &slot->request;
	bool miss = below(run, 8) == 0;

	for (uint32_t i = 0; i < q->count; i++) {
		enum model_kind by = MODEL_WRITE;

		if (miss || !model_guess(run->model, first + i, &slot->values[i], &by))
			slot->values[i] = VALUE_OF_NOBODY;
		stamp_fill(&run->key, by == MODEL_SAME ? STAMP_ANYWHERE : q->lba + i,
			   slot->values[i], q->data + (size_t)i * run->key.block_size);
	}
}

static enum model_kind model_kind_of(const struct run *run, enum request_kind kind)
{
	switch (kind) {
	case REQUEST_READ:
		return MODEL_READ;
	case REQUEST_WRITE_SAME:
		return MODEL_SAME;
	case REQUEST_ZERO:
		return MODEL_ZERO;
	case REQUEST_UNMAP:
		return run->options.unmap_zeroes ? MODEL_ZERO : MODEL_MAY_ZERO;
	case REQUEST_CAW:
		return MODEL_CAW;
	case REQUEST_ATOMIC:
		return MODEL_ATOMIC;
	default:
		return MODEL_WRITE;
	}
}

static bool prepare(struct run *run, struct lane *lane, struct slot *slot, enum request_kind kind,
		    uint64_t first, uint32_t count)
{
	struct request *q = &slot->request;

	q->kind = kind;
	q->lba = run->options.base + first;
	q->count = count;
	q->fua = kind != REQUEST_READ && run->phase == PHASE_LOAD && below(run, 5) == 0;
	slot->op = NULL;
	if (kind == REQUEST_FLUSH)
		return true;
	if (kind == REQUEST_CAW)
		aim_caw(run, slot, first);
	slot->op = model_begin(run->model, model_kind_of(run, kind), lane->client->index, first,
			       count, slot->values);
	if (slot->op && kind == REQUEST_CAW)
		fill_data(run, slot, model_op_value(slot->op),
			  q->data + (size_t)count * run->key.block_size);
	else if (slot->op && kind != REQUEST_READ && kind != REQUEST_UNMAP)
		fill_data(run, slot, model_op_value(slot->op), q->data);
	return slot->op;
}

static bool generate_pass(struct run *run, struct lane *lane, struct slot *slot)
{
	enum request_kind kind = run->phase == PHASE_FILL ? REQUEST_WRITE : REQUEST_READ;
	uint64_t left = run->options.blocks - lane->cursor;
	uint32_t most = min_u32(run->options.max_blocks, lane->client->max[kind]);
	uint32_t count = left < most ? (uint32_t)left : most;

	lane->cursor += count;
	return prepare(run, lane, slot, kind, lane->cursor - count, count);
}

/* The counter's slot reads, then swaps what it read for one more, and so on. */
static bool generate_counter(struct run *run, struct lane *lane, struct slot *slot)
{
	struct request *q = &slot->request;
	bool swap = run->phase == PHASE_LOAD && slot->counter_value &&
		    lane->client->can[REQUEST_CAW] && lane->client->max[REQUEST_CAW];

	slot->op = NULL;
	slot->counter_due = false;
	q->lba = run->options.base + run->options.blocks;
	q->count = 1;
	q->fua = false;
	q->kind = run->phase == PHASE_FILL ? REQUEST_WRITE : swap ? REQUEST_CAW : REQUEST_READ;
	slot->counter_least = counter_least(&run->counter);
	if (q->kind == REQUEST_WRITE)
		stamp_fill(&run->key, q->lba, counter_to_value(0), q->data);
	if (q->kind == REQUEST_CAW) {
		stamp_fill(&run->key, q->lba, slot->counter_value, q->data);
		stamp_fill(&run->key, q->lba, slot->counter_value + 1,
			   q->data + run->key.block_size);
		run->counter.pending++;
	}
	return true;
}

bool generate(struct run *run, struct lane *lane, struct slot *slot)
{
	if (slot->for_counter && (run->phase == PHASE_LOAD ? !run->stopping : slot->counter_due))
		return generate_counter(run, lane, slot);
	if (slot->for_counter)
		return false;
	if (lane->cursor < run->options.blocks)
		return generate_pass(run, lane, slot);
	if (run->phase != PHASE_LOAD || run->stopping)
		return false;
	enum request_kind kind = choose_kind(run, lane->client);
	uint32_t count = choose_count(run, lane->client, kind);

	return prepare(run, lane, slot, kind, choose_first(run, count), count);
}
