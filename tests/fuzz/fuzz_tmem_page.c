// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The decoder of stored pages. The input is a record in a slot of its own length, so that a read
 * past it is seen; it is decoded as it is and, so that what lies behind the checksum is met, with
 * the checksum set right. What an input decodes to must come back from a record made of it.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mem/tmem/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct codec *codec;
static struct codec_work *work;

static void round_trip(const uint8_t *page)
{
	uint8_t again[TMEM_PAGE];
	enum codec_kind kind;
	const void *record;
	size_t len;

	assert(!codec_encode(codec, work, page, &record, &len, &kind));
	assert(len <= RECORD_MAX);
	assert(!codec_decode(work, record, len, again));
	assert(!memcmp(page, again, TMEM_PAGE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *slot, page[TMEM_PAGE];
	uint16_t len;

	if (!codec) {
		if (codec_create(&(struct codec_spec){.keep_raw = true}, &codec))
			abort();
		work = codec_work_get(codec);
	}
	if (size > RECORD_MAX)
		return 0;
	slot = malloc(size ? size : 1);
	memcpy(slot, data, size);
	codec_decode(work, slot, size, page);
	if (size >= RECORD_HEADER) {
		memcpy(&len, slot + 4, sizeof(len));
		if (len > size - RECORD_HEADER) {
			len = (uint16_t)(size - RECORD_HEADER);
			memcpy(slot + 4, &len, sizeof(len));
		}
		slot[7] = 0;
		codec_seal(slot, RECORD_HEADER + (size_t)len);
		if (!codec_decode(work, slot, size, page))
			round_trip(page);
	}
	free(slot);
	return 0;
}
