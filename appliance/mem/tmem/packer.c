// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A store of short records, after zsmalloc.
 *
 * 1. Classes. A block of 64 KiB is cut into equal slots. The sizes of slots are 64 KiB / n, rounded
 *    down to 8: no other size makes better use of a block, so a block has no tail to speak of and
 *    all that is lost is a record's distance to the next class, about len^2 / 128 KiB. Where that
 *    would make steps of less than 32 bytes, steps are 32: more classes would lose more in blocks
 *    that are not full.
 *
 * 2. Blocks know their slots' cells in a table beside them, so the block itself holds records and
 *    nothing else: damage to it can spoil a record, which its checksum tells, but no structure.
 *    Free slots are chained through that table; slots never used are above a watermark, so that a
 *    new block's pages are touched only as they fill.
 *
 * 3. Blocks of a class with room stand in four lists by how full they are. A record goes to the
 *    fullest; so the emptiest run empty by themselves if records are short-lived.
 *
 * 4. Compaction moves the records of the emptiest block into fuller ones, as long as these have
 *    room for all of them. A reader pins a cell (a count in it) and reads without a lock. A move
 *    claims the cell by turning its count from 0 to MOVING; a pinned record stays and so does its
 *    block. Who meets MOVING waits for the class lock, which the move holds, and looks again.
 *
 * Locks: one a class, and one for the spare blocks (LEAF); records are copied under the class lock
 * only when they move.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/list.h"
#include "mem/tmem/packer.h"

#define GROUPS	    4u
#define STEP_MIN    32u
#define CLASSES_MAX 160u
#define NO_SLOT	    UINT32_MAX
#define OWNER_FREE  1u /* owner: next free slot << 1 | this */

struct block {
	struct list_node link; /* in its group, or alone when full */
	uint8_t *data;	       /* constant */
	uint32_t used, fresh;  /* slots; never used from fresh on */
	uint32_t free;	       /* first of the chain */
	uintptr_t owner[];     /* a slot's cell, or OWNER_FREE */
};

struct size_class {
	/* constant */
	uint32_t size, slots;
	uint8_t id;
	/* under lock */
	struct mutex lock;
	struct list_node group[GROUPS];
	uint64_t blocks, used, bytes; /* bytes: of records */
	uint64_t moved, emptied;
};

struct spare_block {
	struct list_node link;
};

struct packer {
	/* constant */
	struct address_space *as;
	struct vmem *records;
	uint32_t n_classes;
	uint64_t spares_max; /* blocks */
	struct mutex lock;
	/* under lock */
	struct list_node spare; /* in the blocks themselves */
	uint64_t n_spare;
	uint64_t words, returned;	      /* atomic */
	uint8_t class_of[RECORD_MAX / 8 + 2]; /* constant, by (len + 7) / 8 */
	struct size_class class[CLASSES_MAX];
};

static size_t block_size(const struct size_class *k)
{
	return sizeof(struct block) + k->slots * sizeof(uintptr_t);
}

static void *record_alloc(struct packer *p, size_t size)
{
	uint64_t addr;

	return vmem_alloc(p->records, size, 0, &addr) ? NULL : (void *)addr;
}

static void record_free(struct packer *p, void *r, size_t size)
{
	vmem_free(p->records, (uint64_t)r, size);
}

/* A spare block, or NULL. */
static struct list_node *spare_pop(struct packer *p)
{
	struct list_node *n;

	mutex_scope(&p->lock);
	n = list_pop(&p->spare);
	if (n)
		p->n_spare--;
	return n;
}

/* A spare block or a new one. */
static void *data_alloc(struct packer *p)
{
	struct list_node *n = spare_pop(p);

	return n ? (void *)n : wired_alloc(p->as, PACKER_BLOCK);
}

static void data_return(struct packer *p, void *data)
{
	madvise(data, PACKER_BLOCK, MADV_DONTNEED);
	wired_free(p->as, data, PACKER_BLOCK);
	__atomic_add_fetch(&p->returned, PACKER_BLOCK, __ATOMIC_RELAXED);
}

uint64_t packer_returned(struct packer *p)
{
	return __atomic_load_n(&p->returned, __ATOMIC_RELAXED);
}

static void data_free(struct packer *p, void *data)
{
	bool keep;

	mutex_lock(&p->lock);
	keep = p->n_spare < p->spares_max;
	if (keep) {
		struct spare_block *s = data;

		list_add_head(&p->spare, &s->link);
		p->n_spare++;
	}
	mutex_unlock(&p->lock);
	if (!keep)
		data_return(p, data);
}

static struct block *block_new(struct packer *p, struct size_class *k)
{
	struct block *b = record_alloc(p, block_size(k));

	if (!b)
		return NULL;
	memset(b, 0, sizeof(*b));
	list_init(&b->link);
	b->free = NO_SLOT;
	b->data = data_alloc(p);
	if (b->data)
		return b;
	record_free(p, b, block_size(k));
	return NULL;
}

static void block_free(struct packer *p, struct size_class *k, struct block *b)
{
	data_free(p, b->data);
	record_free(p, b, block_size(k));
}

/* Puts @b where it belongs after a slot came or went. */
static void regroup_locked(struct size_class *k, struct block *b)
{
	list_del(&b->link);
	if (b->used < k->slots)
		list_add_head(&k->group[b->used * GROUPS / k->slots], &b->link);
}

/* A block of the fullest group that has one with room, but not @but; NULL: none. */
static struct block *fullest_locked(struct size_class *k, const struct block *but)
{
	for (uint32_t g = GROUPS; g-- > 0;) {
		struct block *b;

		list_for_each_entry (b, &k->group[g], link) {
			if (b != but)
				return b;
		}
	}
	return NULL;
}

static uint32_t slot_take_locked(struct size_class *k, struct block *b, struct packer_cell *cell)
{
	uint32_t slot = b->free;

	mutex_assert_held(&k->lock);
	if (slot == NO_SLOT) {
		slot = b->fresh++;
	} else {
		uint32_t next = (uint32_t)(b->owner[slot] >> 1);

		b->free = next == NO_SLOT >> 1 ? NO_SLOT : next;
	}
	b->owner[slot] = (uintptr_t)cell;
	b->used++;
	regroup_locked(k, b);
	return slot;
}

static void slot_drop_locked(struct size_class *k, struct block *b, uint32_t slot)
{
	mutex_assert_held(&k->lock);
	b->owner[slot] = (uintptr_t)(b->free & NO_SLOT >> 1) << 1 | OWNER_FREE;
	b->free = slot;
	b->used--;
	regroup_locked(k, b);
}

static uint8_t *slot_data(const struct size_class *k, const struct block *b, uint32_t slot)
{
	return b->data + (size_t)slot * k->size;
}

static struct packer_cell *cell_new(struct packer *p, uint8_t klass, uint8_t kind)
{
	struct packer_cell *cell = record_alloc(p, sizeof(*cell));

	if (cell)
		*cell = (struct packer_cell){.klass = klass, .kind = kind};
	return cell;
}

int packer_put_word(struct packer *p, uint64_t word, struct packer_cell **ret_cell,
		    uint32_t *ret_cost)
{
	struct packer_cell *cell = cell_new(p, PACKER_WORD, 0);

	if (!cell)
		return -ENOMEM;
	cell->where = word;
	__atomic_add_fetch(&p->words, 1, __ATOMIC_RELAXED);
	*ret_cell = cell;
	*ret_cost = sizeof(*cell);
	return 0;
}

int packer_put(struct packer *p, const void *record, size_t len, uint8_t kind,
	       struct packer_cell **ret_cell, uint32_t *ret_cost)
{
	struct size_class *k;
	struct packer_cell *cell;
	struct block *b, *fresh = NULL;

	assert(len >= RECORD_HEADER && len <= RECORD_MAX);
	k = &p->class[p->class_of[(len + 7) / 8]];
	cell = cell_new(p, k->id, kind);
	if (!cell)
		return -ENOMEM;
	mutex_lock(&k->lock);
	b = fullest_locked(k, NULL);
	if (!b) {
		mutex_unlock(&k->lock);
		fresh = block_new(p, k);
		mutex_lock(&k->lock);
		b = fullest_locked(k, NULL);
		if (!b && fresh) {
			b = fresh;
			fresh = NULL;
			k->blocks++;
		}
	}
	if (b) {
		cell->slot = (uint16_t)slot_take_locked(k, b, cell);
		cell->where = (uintptr_t)b;
		cell->len = (uint16_t)len;
		cell->pins = 1; /* nobody moves it before it is copied */
		k->used++;
		k->bytes += len;
	}
	mutex_unlock(&k->lock);
	if (fresh)
		block_free(p, k, fresh);
	if (!b) {
		record_free(p, cell, sizeof(*cell));
		return -ENOMEM;
	}
	memcpy(slot_data(k, b, cell->slot), record, len);
	packer_unpin(cell);
	*ret_cell = cell;
	*ret_cost = k->size + (uint32_t)(sizeof(*cell) + sizeof(uintptr_t));
	return 0;
}

void packer_free(struct packer *p, struct packer_cell *cell)
{
	struct size_class *k;
	struct block *b;

	if (cell->klass == PACKER_WORD) {
		__atomic_sub_fetch(&p->words, 1, __ATOMIC_RELAXED);
		record_free(p, cell, sizeof(*cell));
		return;
	}
	k = &p->class[cell->klass];
	mutex_lock(&k->lock);
	assert(!__atomic_load_n(&cell->pins, __ATOMIC_ACQUIRE));
	b = (struct block *)cell->where;
	k->used--;
	k->bytes -= cell->len;
	slot_drop_locked(k, b, cell->slot);
	if (!b->used) {
		list_del(&b->link);
		k->blocks--;
	} else {
		b = NULL;
	}
	mutex_unlock(&k->lock);
	if (b)
		block_free(p, k, b);
	record_free(p, cell, sizeof(*cell));
}

uint8_t *packer_pin(struct packer *p, struct packer_cell *cell, size_t *ret_room)
{
	struct size_class *k = &p->class[cell->klass];
	uint16_t v = __atomic_load_n(&cell->pins, __ATOMIC_RELAXED);

	for (;;) {
		if (v & PACKER_MOVING) {
			mutex_lock(&k->lock);
			v = __atomic_load_n(&cell->pins, __ATOMIC_RELAXED);
			mutex_unlock(&k->lock);
		} else if (__atomic_compare_exchange_n(&cell->pins, &v, (uint16_t)(v + 1), false,
						       __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
			break;
		}
	}
	*ret_room = k->size;
	return slot_data(k, (struct block *)cell->where, cell->slot);
}

void packer_unpin(struct packer_cell *cell)
{
	__atomic_sub_fetch(&cell->pins, 1, __ATOMIC_RELEASE);
}

/* Moves one record into @to, unless it is being read. */
static bool move_locked(struct size_class *k, struct block *from, uint32_t slot, struct block *to)
{
	struct packer_cell *cell = (struct packer_cell *)from->owner[slot];
	uint16_t none = 0;
	uint32_t at;

	if (!__atomic_compare_exchange_n(&cell->pins, &none, PACKER_MOVING, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_RELAXED))
		return false;
	at = slot_take_locked(k, to, cell);
	memcpy(slot_data(k, to, at), slot_data(k, from, slot), k->size);
	cell->where = (uintptr_t)to;
	cell->slot = (uint16_t)at;
	__atomic_store_n(&cell->pins, 0, __ATOMIC_RELEASE);
	slot_drop_locked(k, from, slot);
	k->moved++;
	return true;
}

/* The emptiest block with room; NULL: none. */
static struct block *emptiest_locked(struct size_class *k)
{
	struct block *best = NULL, *b;

	for (uint32_t g = 0; g < GROUPS && !best; g++) {
		list_for_each_entry (b, &k->group[g], link) {
			if (!best || b->used < best->used)
				best = b;
		}
	}
	return best;
}

/* Empties one block of @k into others; NULL: no block can be emptied now. */
static struct block *empty_one_locked(struct size_class *k)
{
	struct block *from = emptiest_locked(k), *to;

	/* all other blocks together have room for it? */
	if (!from || k->blocks * k->slots - k->used - (k->slots - from->used) < from->used)
		return NULL;
	for (uint32_t slot = 0; slot < from->fresh && from->used; slot++) {
		if (from->owner[slot] & OWNER_FREE)
			continue;
		to = fullest_locked(k, from);
		if (!to || !move_locked(k, from, slot, to))
			return NULL;
	}
	list_del(&from->link);
	k->blocks--;
	k->emptied++;
	return from;
}

uint64_t packer_compact(struct packer *p)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < p->n_classes; i++) {
		struct size_class *k = &p->class[i];
		struct block *b;

		do {
			mutex_lock(&k->lock);
			b = empty_one_locked(k);
			mutex_unlock(&k->lock);
			if (b) {
				block_free(p, k, b);
				bytes += PACKER_BLOCK;
			}
		} while (b);
	}
	return bytes;
}

uint64_t packer_trim(struct packer *p)
{
	uint64_t bytes = 0;

	for (;;) {
		struct list_node *n = spare_pop(p);

		if (!n)
			return bytes;
		data_return(p, n);
		bytes += PACKER_BLOCK;
	}
}

void packer_stats(struct packer *p, struct packer_stats *ret_stats)
{
	struct packer_stats s = {.classes = p->n_classes};

	for (uint32_t i = 0; i < p->n_classes; i++) {
		struct size_class *k = &p->class[i];

		mutex_lock(&k->lock);
		s.records += k->used;
		s.slot_bytes += k->used * k->size;
		s.record_bytes += k->bytes;
		s.blocks += k->blocks;
		s.moved += k->moved;
		s.emptied += k->emptied;
		mutex_unlock(&k->lock);
	}
	s.block_bytes = s.blocks * PACKER_BLOCK;
	s.words = __atomic_load_n(&p->words, __ATOMIC_RELAXED);
	mutex_lock(&p->lock);
	s.spare_bytes = p->n_spare * PACKER_BLOCK;
	mutex_unlock(&p->lock);
	*ret_stats = s;
}

static void class_add(struct packer *p, uint32_t size)
{
	struct size_class *k = &p->class[p->n_classes];

	assert(p->n_classes < CLASSES_MAX);
	k->size = size;
	k->slots = PACKER_BLOCK / size;
	k->id = (uint8_t)p->n_classes++;
	mutex_init(&k->lock, LOCK_RANK_TMEM_CLASS);
	for (uint32_t g = 0; g < GROUPS; g++)
		list_init(&k->group[g]);
}

/* Sizes from small to large; see 1. above. */
static void classes_init(struct packer *p)
{
	uint32_t size = STEP_MIN, i = 0;

	while (size < RECORD_MAX) {
		uint32_t slots = PACKER_BLOCK / (size + STEP_MIN);

		class_add(p, size);
		size = PACKER_BLOCK / slots / 8 * 8;
	}
	class_add(p, size);
	for (uint32_t n = 0; n < sizeof(p->class_of); n++) {
		while (i + 1 < p->n_classes && p->class[i].size < n * 8)
			i++;
		p->class_of[n] = (uint8_t)i;
	}
}

int packer_create(struct address_space *as, struct vmem *records, uint64_t spares,
		  struct packer **ret_p)
{
	struct packer *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->as = as;
	p->records = records;
	p->spares_max = spares / PACKER_BLOCK;
	mutex_init(&p->lock, LOCK_RANK_LEAF);
	list_init(&p->spare);
	classes_init(p);
	*ret_p = p;
	return 0;
}

void packer_destroy(struct packer *p)
{
	if (!p)
		return;
	packer_trim(p);
	for (uint32_t i = 0; i < p->n_classes; i++) {
		assert(!p->class[i].blocks);
		mutex_destroy(&p->class[i].lock);
	}
	mutex_destroy(&p->lock);
	free(p);
}
