/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The process's address space for its own large memory: one reservation, one allocator.
 *
 *	address arena		all of it; reserved, neither accessible nor charged
 *	 +- meta		boundary tags and hash tables of every arena
 *	 +- wired pages		accessible; page-aligned, from a page up
 *	 |   +- wired lines	line-aligned, below a page
 *	 +- volatile		addresses of cache pages: taken first, backed (and then registered
 *				for loss) only afterwards, by who took them
 *
 * Any thread may call.
 */
#pragma once

#include "mem/vmem/vmem.h"

#define ADDRESS_PAGE 4096u
#define ADDRESS_LINE 64u

struct address_space;

/** Bytes of addresses; none of them costs memory before it is used. 0 takes the default. */
struct address_space_spec {
	uint64_t size;	/* the reservation; default 1 TiB */
	uint64_t meta;	/* of it for tags; default size / 64: enough for a tag each 2 KiB */
	uint64_t wired; /* of it for wired memory; default size / 16 */
};

/**
 * Reserves. Where the system charges for what is merely accessible (vm.overcommit_memory 2), the
 * wired part is made as large as it allows. -ENOMEM, -EINVAL.
 */
int address_space_create(const struct address_space_spec *spec, struct address_space **ret_as);
/** Gives all back and returns the bytes of wired memory and addresses that nobody freed. */
uint64_t address_space_destroy(struct address_space *as);

/**
 * Takes wired memory: metadata, I/O buffers. From a page up it is page-aligned, below line-aligned,
 * contents undefined. NULL: no addresses left, or size 0.
 */
void *wired_alloc(struct address_space *as, size_t size);
/** NULL is fine; @size as it was taken. */
void wired_free(struct address_space *as, void *p, size_t size);
/** Returns the pages of free wired memory to the system; the addresses stay accessible. */
void wired_trim(struct address_space *as);

/** Arenas, to take addresses from, to stack on, and for their statistics. */
struct vmem *address_space_arena(struct address_space *as);
struct vmem *address_space_volatile(struct address_space *as);
struct vmem *address_space_wired_pages(struct address_space *as);
struct vmem *address_space_wired_lines(struct address_space *as);
struct vmem_tag_store *address_space_tags(struct address_space *as);

/** Makes whole pages of taken addresses accessible: small pages of zeros, at the first touch. */
int address_back(uint64_t addr, uint64_t size);
/** Drops them and makes the addresses inaccessible again: before the addresses are freed. */
void address_unback(uint64_t addr, uint64_t size);
