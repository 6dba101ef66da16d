/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "stamp.h"

#include <inttypes.h>
#include <string.h>

#include "model.h"

static uint64_t stamp_word(const struct stamp_key *key, uint64_t place, uint64_t value, uint32_t i)
{
	uint64_t x = key->nonce ^ (value + 1) * 0x9e3779b97f4a7c15ull ^
		     (place + 1) * 0xd1342543de82ef95ull;

	if (i == 0)
		return key->nonce;
	if (i == 1)
		return value;
	if (i == 2)
		return place;
	x += i * 0xbf58476d1ce4e5b9ull;
	return (x ^ (x >> 29)) * 0x94d049bb133111ebull;
}

void stamp_fill(const struct stamp_key *key, uint64_t place, uint64_t value, void *block)
{
	if (value == MODEL_VALUE_ZERO) {
		memset(block, 0, key->block_size);
		return;
	}
	for (uint32_t i = 0; i < key->block_size / 8; i++)
		memcpy((uint8_t *)block + i * 8, &(uint64_t){stamp_word(key, place, value, i)}, 8);
}

uint64_t stamp_decode(const struct stamp_key *key, uint64_t place, const void *block)
{
	uint64_t head[3], word, value;

	memcpy(head, block, sizeof(head));
	value = head[1];
	if (head[2] == STAMP_ANYWHERE)
		place = STAMP_ANYWHERE;
	for (uint32_t i = 0; i < key->block_size / 8; i++) {
		memcpy(&word, (const uint8_t *)block + i * 8, 8);
		if (word != (value == MODEL_VALUE_ZERO ? 0 : stamp_word(key, place, value, i)))
			return MODEL_VALUE_TORN;
	}
	return value;
}

void stamp_explain(const struct stamp_key *key, uint64_t place, const void *block, FILE *f)
{
	uint64_t head[3], word;

	memcpy(head, block, sizeof(head));
	fprintf(f,
		"  its first words say: %s, value #%" PRIu64 ", place %" PRIu64
		" (it is at %" PRIu64 ")\n",
		head[0] == key->nonce ? "of this run"
		: head[0]	      ? "not of this run"
				      : "zeros",
		head[1], head[2], place);
	if (head[2] == STAMP_ANYWHERE)
		place = STAMP_ANYWHERE;
	for (uint32_t i = 0; i < key->block_size / 8; i++) {
		memcpy(&word, (const uint8_t *)block + i * 8, 8);
		if (word == stamp_word(key, place, head[1], i))
			continue;
		fprintf(f, "  it departs from that value at byte %u (%016" PRIx64 ")\n", i * 8,
			word);
		return;
	}
}
