/* SPDX-License-Identifier: GPL-2.0-or-later */
/* FNV-1a, 64 bits: for tables and fingerprints, not against who chooses what is hashed. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define HASH_START 0xcbf29ce484222325ull

/** Continues @h (HASH_START at first) with @len bytes. */
static inline uint64_t hash_add(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len--)
		h = (h ^ *p++) * 0x100000001b3ull;
	return h;
}
