// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compression is of single pages, so the contexts of the libraries are what costs: they are made
 * once, a work space for each thread that is in here at once, and kept in a list. LZ4 is told how
 * much room there is and gives up early when a page does not fit, so incompressible pages are
 * cheaper to refuse than others are to compress.
 */
#include <errno.h>
#include <isa-l/crc.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/list.h"
#include "mem/tmem/codec.h"

#define LEVEL_MAX 19

struct codec {
	struct codec_spec spec; /* constant */
	struct mutex lock;
	struct list_node idle; /* under lock */
};

struct codec_work {
	struct list_node link; /* under the codec's lock while idle */
	void *lz4;
	ZSTD_CCtx *cctx;
	ZSTD_DCtx *dctx;
	uint8_t record[RECORD_MAX];
};

struct record_header {
	uint32_t crc;
	uint16_t len;
	uint8_t kind, zero;
};
_Static_assert(sizeof(struct record_header) == RECORD_HEADER, "layout of the record");

static void work_free(struct codec_work *w)
{
	if (!w)
		return;
	free(w->lz4);
	ZSTD_freeCCtx(w->cctx);
	ZSTD_freeDCtx(w->dctx);
	free(w);
}

static struct codec_work *work_new(const struct codec_spec *spec)
{
	struct codec_work *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	list_init(&w->link);
	w->lz4 = malloc(LZ4_sizeofState());
	w->dctx = ZSTD_createDCtx();
	if (spec->kind == CODEC_ZSTD)
		w->cctx = ZSTD_createCCtx();
	if (w->lz4 && w->dctx && (w->cctx || spec->kind != CODEC_ZSTD))
		return w;
	work_free(w);
	return NULL;
}

int codec_create(const struct codec_spec *spec, struct codec **ret_codec)
{
	struct codec *c;

	if ((spec->kind && spec->kind != CODEC_LZ4 && spec->kind != CODEC_ZSTD) ||
	    spec->level < 0 || spec->level > LEVEL_MAX || spec->limit > TMEM_PAGE)
		return -EINVAL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->spec = *spec;
	c->spec.kind = spec->kind ? spec->kind : CODEC_LZ4;
	c->spec.level = spec->level ? spec->level : 1;
	c->spec.limit = spec->limit ? spec->limit : CODEC_LIMIT_DFLT;
	mutex_init(&c->lock, LOCK_RANK_LEAF);
	list_init(&c->idle);
	for (uint32_t i = 0; i < (spec->works ? spec->works : 2); i++) {
		struct codec_work *w = work_new(&c->spec);

		if (!w) {
			codec_destroy(c);
			return -ENOMEM;
		}
		list_add_head(&c->idle, &w->link);
	}
	*ret_codec = c;
	return 0;
}

void codec_destroy(struct codec *c)
{
	struct list_node *n;

	if (!c)
		return;
	while ((n = list_pop(&c->idle)))
		work_free(container_of(n, struct codec_work, link));
	mutex_destroy(&c->lock);
	free(c);
}

struct codec_work *codec_work_get(struct codec *c)
{
	struct list_node *n;

	mutex_lock(&c->lock);
	n = list_pop(&c->idle);
	mutex_unlock(&c->lock);
	return n ? container_of(n, struct codec_work, link) : work_new(&c->spec);
}

void codec_work_put(struct codec *c, struct codec_work *w)
{
	mutex_scope(&c->lock);
	list_add_head(&c->idle, &w->link);
}

bool codec_page_is_filled(const void *page, uint64_t *ret_word)
{
	uint64_t first;

	memcpy(&first, page, sizeof(first));
	if (memcmp(page, (const uint8_t *)page + sizeof(first), TMEM_PAGE - sizeof(first)) != 0)
		return false;
	*ret_word = first;
	return true;
}

void codec_page_fill(void *page, uint64_t word)
{
	for (size_t i = 0; i < TMEM_PAGE; i += sizeof(word))
		memcpy((uint8_t *)page + i, &word, sizeof(word));
}

static uint32_t record_crc(const uint8_t *record, size_t len)
{
	return crc32_iscsi((unsigned char *)record + 4, (int)(len - 4), ~0u);
}

void codec_seal(void *record, size_t len)
{
	uint32_t crc = record_crc(record, len);

	memcpy(record, &crc, sizeof(crc));
}

/* Bytes of the payload, 0: it does not fit into @room. */
static size_t compress(struct codec *c, struct codec_work *w, const void *page, uint8_t *to,
		       size_t room)
{
	size_t n;
	int len;

	if (c->spec.kind == CODEC_ZSTD) {
		n = ZSTD_compressCCtx(w->cctx, to, room, page, TMEM_PAGE, c->spec.level);
		return ZSTD_isError(n) ? 0 : n;
	}
	len = LZ4_compress_fast_extState(w->lz4, page, (char *)to, TMEM_PAGE, (int)room,
					 c->spec.level);
	return len > 0 ? (size_t)len : 0;
}

int codec_encode(struct codec *c, struct codec_work *w, const void *page, const void **ret_record,
		 size_t *ret_len, enum codec_kind *ret_kind)
{
	struct record_header h = {.kind = (uint8_t)c->spec.kind};
	size_t n = compress(c, w, page, w->record + RECORD_HEADER, c->spec.limit);

	if (!n) {
		if (!c->spec.keep_raw)
			return -E2BIG;
		memcpy(w->record + RECORD_HEADER, page, TMEM_PAGE);
		n = TMEM_PAGE;
		h.kind = CODEC_RAW;
	}
	h.len = (uint16_t)n;
	memcpy(w->record, &h, sizeof(h));
	codec_seal(w->record, RECORD_HEADER + n);
	*ret_record = w->record;
	*ret_len = RECORD_HEADER + n;
	*ret_kind = h.kind;
	return 0;
}

int codec_decode(struct codec_work *w, const void *record, size_t max, void *page)
{
	const uint8_t *payload = (const uint8_t *)record + RECORD_HEADER;
	struct record_header h;
	size_t n = 0;

	if (max < RECORD_HEADER)
		return -EBADMSG;
	memcpy(&h, record, sizeof(h));
	if (h.len > max - RECORD_HEADER || h.zero ||
	    h.crc != record_crc(record, RECORD_HEADER + (size_t)h.len))
		return -EBADMSG;
	switch (h.kind) {
	case CODEC_RAW:
		n = h.len;
		if (n == TMEM_PAGE)
			memcpy(page, payload, TMEM_PAGE);
		break;
	case CODEC_LZ4:
		n = (size_t)LZ4_decompress_safe((const char *)payload, page, h.len, TMEM_PAGE);
		break;
	case CODEC_ZSTD:
		n = ZSTD_decompressDCtx(w->dctx, page, TMEM_PAGE, payload, h.len);
		break;
	default:
		break;
	}
	return n == TMEM_PAGE ? 0 : -EBADMSG;
}
