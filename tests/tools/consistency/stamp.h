/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bytes of a block that carries a value: a run's nonce, the value, the block's place, and words
 * mixed from all three, so that a block is only ever whole or wrong: torn, misplaced, and left-over
 * data do not decode.
 */
#pragma once

#include <stdint.h>
#include <stdio.h>

/** Fits any place: what WRITE SAME puts into many blocks. */
#define STAMP_ANYWHERE UINT64_MAX

struct stamp_key {
	uint64_t nonce;
	uint32_t block_size; /* bytes, a multiple of 32 */
};

/** Writes one block; @value 0 (MODEL_VALUE_ZERO) is all zeros. */
void stamp_fill(const struct stamp_key *key, uint64_t place, uint64_t value, void *block);

/** The value that the block at @place carries, or MODEL_VALUE_TORN. */
uint64_t stamp_decode(const struct stamp_key *key, uint64_t place, const void *block);

/** Says in words what is wrong with a block that does not decode. */
void stamp_explain(const struct stamp_key *key, uint64_t place, const void *block, FILE *f);
