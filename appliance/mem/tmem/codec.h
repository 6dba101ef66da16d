/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page codec: a page of 4 KiB to a short record and back. A record is trusted by nobody: its
 * checksum is verified before it is decoded, and decoding never reads or writes past what it was
 * given, whatever the bytes.
 *
 *	0      4     6      7    8
 *	+------+-----+------+----+---------- - -
 *	| crc  | len | kind | 0  | payload (len bytes)
 *	+------+-----+------+----+---------- - -
 *
 * in the machine's byte order: records never leave the process. crc: CRC-32C of all after it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/lock.h"

#define TMEM_PAGE	 4096u
#define RECORD_HEADER	 8u
#define RECORD_MAX	 (RECORD_HEADER + TMEM_PAGE)
#define CODEC_LIMIT_DFLT 3584u

enum codec_kind { CODEC_RAW = 1, CODEC_LZ4, CODEC_ZSTD };

struct codec_spec {
	enum codec_kind kind; /* CODEC_LZ4 (default, also for 0) or CODEC_ZSTD */
	int level;	      /* zstd: 1..19, 0: 1; LZ4: acceleration, 0: 1 */
	uint32_t limit;	      /* longest payload worth keeping compressed; 0: CODEC_LIMIT_DFLT */
	bool keep_raw;	      /* keep what is longer as it is; otherwise refuse it */
	uint32_t works;	      /* work spaces made in advance: threads at once; 0: 2 */
};

struct codec;
struct codec_work; /* what one encoding or decoding needs */

/** -EINVAL: the spec contradicts itself; -ENOMEM. */
int codec_create(const struct codec_spec *spec, struct codec **ret_codec);
/** NULL is fine; no work space is out. */
void codec_destroy(struct codec *c);
/** A work space for one thread; NULL: more threads than foreseen and no memory. */
struct codec_work *codec_work_get(struct codec *c);
void codec_work_put(struct codec *c, struct codec_work *w);

/** Is the page one 64-bit word over and over? */
bool codec_page_is_filled(const void *page, uint64_t *ret_word);
void codec_page_fill(void *page, uint64_t word);

/** Makes a record of @page in @w's buffer. -E2BIG: incompressible, and that is refused. */
int codec_encode(struct codec *c, struct codec_work *w, const void *page, const void **ret_record,
		 size_t *ret_len, enum codec_kind *ret_kind);
/**
 * Decodes the record at the start of @record, at most @max bytes, to @page. -EBADMSG: it is
 * damaged; @page is then undefined.
 */
int codec_decode(struct codec_work *w, const void *record, size_t max, void *page);
/** Sets the checksum of a record to what its bytes say (for tests of what lies behind it). */
void codec_seal(void *record, size_t len);
