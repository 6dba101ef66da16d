/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packs records of 1..RECORD_MAX bytes into blocks of 64 KiB with low waste, and packs them anew
 * when blocks become sparse. A record is named by a cell that stays where it is; the record moves.
 * Any thread may call.
 */
#pragma once

#include "mem/address_space.h"
#include "mem/tmem/codec.h"

struct packer;

/** Names a record, or holds a word in its place. */
struct packer_cell {
	uint64_t where; /* the word, or the struct block: under the class lock, or pinned */
	uint16_t pins;	/* readers; PACKER_MOVING: the record is on its way (atomic) */
	uint16_t slot;	/* as where */
	uint16_t len;	/* of the record; constant */
	uint8_t klass;	/* constant; PACKER_WORD: a word */
	uint8_t kind;	/* constant: the enum codec_kind, for the statistics */
};
#define PACKER_MOVING 0x8000u
#define PACKER_WORD   0xffu
#define PACKER_BLOCK  (64u << 10)

/** @spares: bytes of free blocks kept ready. Memory comes from @as, which outlives the packer. */
int packer_create(struct address_space *as, struct vmem *records, uint64_t spares,
		  struct packer **ret_p);
/** No record is left. NULL is fine. */
void packer_destroy(struct packer *p);

/** Copies a record in. *@ret_cost: bytes of its slot and of what names it. -ENOMEM. */
int packer_put(struct packer *p, const void *record, size_t len, uint8_t kind,
	       struct packer_cell **ret_cell, uint32_t *ret_cost);
/** A cell for a word: same-filled pages. */
int packer_put_word(struct packer *p, uint64_t word, struct packer_cell **ret_cell,
		    uint32_t *ret_cost);
/** No pin may be left. */
void packer_free(struct packer *p, struct packer_cell *cell);

/** The record, which stays where it is until packer_unpin(); *@ret_room: bytes of its slot. */
uint8_t *packer_pin(struct packer *p, struct packer_cell *cell, size_t *ret_room);
void packer_unpin(struct packer_cell *cell);

/** Moves records from sparse blocks to fuller ones; returns the bytes of blocks it emptied. */
uint64_t packer_compact(struct packer *p);
/** Gives the spare blocks back to the system; returns their bytes. */
uint64_t packer_trim(struct packer *p);
/** Bytes of blocks given back to the system, ever. */
uint64_t packer_returned(struct packer *p);

struct packer_stats {
	uint64_t records, words;
	uint64_t slot_bytes;   /* of used slots: record_bytes and what rounding to classes adds */
	uint64_t record_bytes; /* of the records themselves */
	uint64_t block_bytes;  /* of blocks in use */
	uint64_t spare_bytes;  /* of free blocks kept ready */
	uint64_t blocks, classes;
	uint64_t moved, emptied; /* records moved and blocks emptied by compaction */
};
void packer_stats(struct packer *p, struct packer_stats *ret_stats);
