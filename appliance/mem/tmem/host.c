// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the core asks of a host, on our memory: a handle is a packer cell; a page of one word is
 * kept in the cell itself; others are encoded in a work space, without any lock, and copied into
 * their slot. The charge for a page is its slot, its cell and its line in the block's table. The
 * parts of blocks that no record uses, spare blocks, and what the arena of records keeps for speed
 * are the host's, and are in tmem_host_stats().resident.
 */
#include <errno.h>
#include <stdlib.h>

#include "mem/tmem/host.h"

#define RECORD_QUANTUM 16u
#define RECORD_IMPORT  (64ull << 10)
#define SHRINK_ROUNDS  16
#define KINDS	       (CODEC_ZSTD + 1u)

struct tmem_host {
	/* constant */
	struct address_space *as;
	struct vmem *records;
	struct codec *codec;
	struct packer *packer;
	struct tmem *tmem;
	/* atomic */
	uint64_t kind[KINDS];
	uint64_t refused, damaged, returned;
};

static void tally(uint64_t *counter, int64_t n)
{
	__atomic_add_fetch(counter, (uint64_t)n, __ATOMIC_RELAXED);
}

static void *host_meta_alloc(void *host, size_t size, uint32_t *ret_bytes)
{
	struct tmem_host *h = host;
	uint64_t addr;

	if (vmem_alloc(h->records, size, 0, &addr))
		return NULL;
	*ret_bytes = (uint32_t)((size + RECORD_QUANTUM - 1) & ~(size_t)(RECORD_QUANTUM - 1));
	return (void *)addr;
}

static void host_meta_free(void *host, void *p, size_t size, uint32_t bytes)
{
	struct tmem_host *h = host;

	vmem_free(h->records, (uint64_t)p, size);
}

static int store_record(struct tmem_host *h, const void *page, struct packer_cell **ret_cell,
			uint32_t *ret_bytes)
{
	struct codec_work *w = codec_work_get(h->codec);
	enum codec_kind kind;
	const void *record;
	size_t len;
	int r;

	if (!w)
		return -ENOMEM;
	r = codec_encode(h->codec, w, page, &record, &len, &kind);
	if (!r)
		r = packer_put(h->packer, record, len, (uint8_t)kind, ret_cell, ret_bytes);
	codec_work_put(h->codec, w);
	if (!r)
		tally(&h->kind[kind], 1);
	if (r == -E2BIG)
		tally(&h->refused, 1);
	return r;
}

static int host_store(void *host, const void *page, uint64_t *ret_handle, uint32_t *ret_bytes)
{
	struct tmem_host *h = host;
	struct packer_cell *cell;
	uint64_t word;
	int r;

	if (codec_page_is_filled(page, &word))
		r = packer_put_word(h->packer, word, &cell, ret_bytes);
	else
		r = store_record(h, page, &cell, ret_bytes);
	if (!r)
		*ret_handle = (uint64_t)cell;
	return r;
}

static int host_load(void *host, uint64_t handle, void *page)
{
	struct tmem_host *h = host;
	struct packer_cell *cell = (struct packer_cell *)handle;
	struct codec_work *w;
	const uint8_t *record;
	size_t room;
	int r;

	if (cell->klass == PACKER_WORD) {
		codec_page_fill(page, cell->where);
		return 0;
	}
	w = codec_work_get(h->codec);
	if (!w)
		return -ENOMEM;
	record = packer_pin(h->packer, cell, &room);
	r = codec_decode(w, record, room, page);
	packer_unpin(cell);
	codec_work_put(h->codec, w);
	if (r == -EBADMSG)
		tally(&h->damaged, 1);
	return r;
}

static void host_free(void *host, uint64_t handle)
{
	struct tmem_host *h = host;
	struct packer_cell *cell = (struct packer_cell *)handle;

	if (cell->klass != PACKER_WORD)
		tally(&h->kind[cell->kind], -1);
	packer_free(h->packer, cell);
}

static const struct tmem_ops host_ops = {
	.meta_alloc = host_meta_alloc,
	.meta_free = host_meta_free,
	.store = host_store,
	.load = host_load,
	.free = host_free,
};

static int make_records(struct tmem_host *h)
{
	return vmem_create(
		&(struct vmem_spec){
			.name = "tmem records",
			.store = address_space_tags(h->as),
			.quantum = RECORD_QUANTUM,
			.import = vmem_import_arena,
			.release = vmem_release_arena,
			.source = address_space_wired_pages(h->as),
			.import_min = RECORD_IMPORT,
			.qcache_max = RECORD_QUANTUM * VMEM_QCACHE_CLASSES,
		},
		&h->records);
}

int tmem_host_create(const struct tmem_host_spec *spec, struct tmem_host **ret_h)
{
	struct tmem_host *h = calloc(1, sizeof(*h));
	int r;

	if (!h)
		return -ENOMEM;
	h->as = spec->as;
	r = codec_create(&spec->codec, &h->codec);
	if (!r)
		r = make_records(h);
	if (!r)
		r = packer_create(h->as, h->records, spec->spares, &h->packer);
	if (!r)
		r = tmem_create(&(struct tmem_spec){.ops = &host_ops,
						    .host = h,
						    .max_pools = spec->max_pools,
						    .limit = spec->limit},
				&h->tmem);
	if (r) {
		tmem_host_destroy(h);
		return r;
	}
	*ret_h = h;
	return 0;
}

void tmem_host_destroy(struct tmem_host *h)
{
	if (!h)
		return;
	tmem_destroy(h->tmem);
	packer_destroy(h->packer);
	if (h->records)
		vmem_destroy(h->records, NULL, NULL);
	codec_destroy(h->codec);
	free(h);
}

struct tmem *tmem_host_instance(struct tmem_host *h)
{
	return h->tmem;
}

uint64_t tmem_host_compact(struct tmem_host *h)
{
	return packer_compact(h->packer);
}

static uint64_t record_total(struct tmem_host *h)
{
	return vmem_size(h->records, VMEM_ALLOCATED) + vmem_size(h->records, VMEM_FREE);
}

/*
 * Evicting makes holes; only blocks that ran empty, or were emptied by compaction, are memory the
 * system gets. Without compaction a block of n records is free when all n are gone.
 */
uint64_t tmem_host_shrink(struct tmem_host *h, uint64_t bytes)
{
	uint64_t blocks = packer_returned(h->packer), records = record_total(h), given = 0;

	for (int i = 0; i < SHRINK_ROUNDS; i++) {
		uint64_t left;

		packer_trim(h->packer);
		vmem_reap(h->records);
		left = record_total(h);
		given = packer_returned(h->packer) - blocks + (left < records ? records - left : 0);
		if (given >= bytes || !tmem_evict(h->tmem, NULL, bytes - given))
			break;
		packer_compact(h->packer);
	}
	wired_trim(h->as);
	tally(&h->returned, (int64_t)given);
	return given;
}

void tmem_host_stats(struct tmem_host *h, struct tmem_host_stats *ret_stats)
{
	struct tmem_host_stats s = {
		.raw = __atomic_load_n(&h->kind[CODEC_RAW], __ATOMIC_RELAXED),
		.lz4 = __atomic_load_n(&h->kind[CODEC_LZ4], __ATOMIC_RELAXED),
		.zstd = __atomic_load_n(&h->kind[CODEC_ZSTD], __ATOMIC_RELAXED),
		.refused = __atomic_load_n(&h->refused, __ATOMIC_RELAXED),
		.damaged = __atomic_load_n(&h->damaged, __ATOMIC_RELAXED),
		.returned = __atomic_load_n(&h->returned, __ATOMIC_RELAXED),
	};
	struct vmem_stats v;

	packer_stats(h->packer, &s.packer);
	vmem_stats(h->records, &v);
	s.filled = s.packer.words;
	s.record_bytes = v.in_use;
	s.record_kept = v.total;
	s.resident = s.packer.block_bytes + s.packer.spare_bytes + v.total;
	*ret_stats = s;
}
