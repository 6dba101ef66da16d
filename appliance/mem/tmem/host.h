/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The userspace host of tmem: an instance of the core (kmod/core/tmem/tmem.h) whose pages of
 * 4 KiB are compressed and packed into wired memory, and whose records come from an arena of
 * their own. Any thread may call.
 */
#pragma once

#include "mem/tmem/packer.h"
#include "tmem/tmem.h"

struct tmem_host;

struct tmem_host_spec {
	struct address_space *as; /* outlives the host */
	struct codec_spec codec;
	uint64_t limit;	    /* bytes of all clients together; 0: none */
	uint64_t spares;    /* bytes of free blocks kept ready */
	uint32_t max_pools; /* 0: TMEM_POOLS_DEFAULT */
};

/** -EINVAL, -ENOMEM, -ENOSPC (no arena left). */
int tmem_host_create(const struct tmem_host_spec *spec, struct tmem_host **ret_h);
/** No client is left. NULL is fine. */
void tmem_host_destroy(struct tmem_host *h);
/** The instance: make clients of it. */
struct tmem *tmem_host_instance(struct tmem_host *h);

/** Packs sparse blocks together; returns the bytes of blocks that became free. */
uint64_t tmem_host_compact(struct tmem_host *h);
/**
 * Gives @bytes or more of memory back to the system, as far as ephemeral pages, holes and spare
 * blocks go, and returns how much it gave.
 */
uint64_t tmem_host_shrink(struct tmem_host *h, uint64_t bytes);

struct tmem_host_stats {
	struct packer_stats packer;
	uint64_t filled, lz4, zstd, raw; /* pages stored now, by kind */
	uint64_t refused;		 /* incompressible pages refused, ever */
	uint64_t damaged;		 /* records found damaged, ever */
	uint64_t record_bytes;		 /* records handed out */
	uint64_t record_kept;		 /* bytes of the arena that records come from */
	uint64_t resident;		 /* all memory of the host: blocks, spares, records */
	uint64_t returned;		 /* bytes given back by shrinks, ever */
};
void tmem_host_stats(struct tmem_host *h, struct tmem_host_stats *ret_stats);
