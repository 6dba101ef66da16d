// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The command ring, and our private picture of it. The ring lies in memory that userspace can
 * write, so nothing we need to know later is looked up there: where entries begin, how long they
 * are and what they are stands in a list of slots, oldest first, and head and tail are ours. Of
 * the shared memory we read the tail userspace has set, and believe it only if an entry of the
 * list ends there.
 *
 *	        tail                                head
 *	    ____|___________________________________|______________
 *	   |    | CMD 12 | CMD 40 | TMR | CMD 13 |..|             |
 *	slots:    [len]  -> [len] -> [len] -> [len]
 *
 * The slot of a command is in the command, so that an entry costs no memory of its own. Userspace
 * may finish command 13 in the entry that once announced 12: then 12 inherits 13's slot, and there
 * is one slot for each command in flight, in the right place, whatever the order (tcmu_cmd.c).
 *
 * An entry does not wrap. What is left before the end, when it does not fit there, is a PAD. Its
 * slot is a single one: two PADs at once would mean that the ring holds more than itself.
 *
 * The ring's pages come when it first reaches them. So that a ring with little in it stays within
 * its first pages instead of touching all 8 MiB in turn, one that is empty and has left them goes
 * back to its start, by a PAD: to userspace that is a wrap like any other.
 */
#include <linux/highmem.h>
#include <linux/mm.h>

#include "tcmu_private.h"

#define ALIGNED	   sizeof(u64) /* lengths are multiples of this, and so is every offset */
#define HOME_BYTES 65536u      /* an empty ring goes home from beyond */
#define HOME_PAGES (HOME_BYTES >> PAGE_SHIFT)

static unsigned long page_at(u32 at)
{
	return ((unsigned long)TCMU_RING_OFF + at) >> PAGE_SHIFT;
}

int tcmu_ring_init(struct tcmu_ring *r, struct tcmu_map *map, u32 size)
{
	int err = tcmu_map_populate(map, 0, 1);

	if (err)
		return err;
	r->map = map;
	r->mb = page_address(tcmu_map_page(map, 0));
	r->size = size;
	INIT_LIST_HEAD(&r->slots);
	INIT_LIST_HEAD(&r->pad.node);
	r->mb->version = TCMU_MAILBOX_VERSION;
	r->mb->flags = TCMU_MAILBOX_FLAG_CAP_OOOC | TCMU_MAILBOX_FLAG_CAP_READ_LEN |
		       TCMU_MAILBOX_FLAG_CAP_TMR | TCMU_MAILBOX_FLAG_CAP_KEEP_BUF;
	r->mb->cmdr_off = TCMU_RING_OFF;
	r->mb->cmdr_size = size;
	return 0;
}

static bool has_pages(struct tcmu_ring *r, u32 at, u32 len)
{
	unsigned long page = page_at(at), last = page_at(at + len - 1);

	for (; page <= last; page++) {
		if (!tcmu_map_page(r->map, page))
			return false;
	}
	return true;
}

int tcmu_ring_place(struct tcmu_ring *r, u32 len, struct tcmu_place *ret_place)
{
	u32 to_end = r->size - r->head;
	/* A full ring would look like an empty one. */
	u32 room = r->size - (r->head + r->size - r->tail) % r->size - ALIGNED;
	bool home = tcmu_ring_empty(r) && r->head >= HOME_BYTES && len + to_end <= room;

	if (len <= to_end && !home) {
		ret_place->at = r->head;
		ret_place->pad = 0;
	} else {
		ret_place->at = 0;
		ret_place->pad = to_end;
	}
	if (len + ret_place->pad > room)
		return -ENOSPC;
	if (!has_pages(r, ret_place->at, len) ||
	    (ret_place->pad && !has_pages(r, r->head, sizeof(struct tcmu_cmd_entry_hdr))))
		return -ENOMEM;
	return 0;
}

int tcmu_ring_populate(struct tcmu_ring *r, const struct tcmu_place *place, u32 len)
{
	unsigned long first = page_at(place->at), last = page_at(place->at + len - 1);
	int err = tcmu_map_populate(r->map, first, last - first + 1);

	/* A PAD begins so many bytes before the ring's end. */
	if (!err && place->pad)
		err = tcmu_map_populate(r->map, page_at(r->size - place->pad), 1);
	if (!err)
		tcmu_ring_reached(r, last);
	return err;
}

void tcmu_ring_reached(struct tcmu_ring *r, unsigned long page)
{
	if (page < HOME_PAGES || READ_ONCE(r->grown))
		return;
	WRITE_ONCE(r->grown, true);
	tcmu_shrink_tick_soon();
}

/* The memory at @at, and how much of @len lies in the same page. */
static void *piece_at(struct tcmu_ring *r, u32 at, u32 len, u32 *ret_n, struct page **ret_page)
{
	u32 offset = offset_in_page(TCMU_RING_OFF + at);

	*ret_page = tcmu_map_page(r->map, page_at(at));
	*ret_n = min_t(u32, len, PAGE_SIZE - offset);
	return page_address(*ret_page) + offset;
}

void tcmu_ring_write(struct tcmu_ring *r, u32 at, const void *from, u32 len)
{
	struct page *page;
	void *to;
	u32 n;

	for (; len; len -= n, at += n, from += n) {
		to = piece_at(r, at, len, &n, &page);
		memcpy(to, from, n);
		flush_dcache_page(page);
	}
}

void tcmu_ring_zero(struct tcmu_ring *r, u32 at, u32 len)
{
	struct page *page;
	void *to;
	u32 n;

	for (; len; len -= n, at += n) {
		to = piece_at(r, at, len, &n, &page);
		memset(to, 0, n);
		flush_dcache_page(page);
	}
}

void tcmu_ring_read(struct tcmu_ring *r, u32 at, void *to, u32 len)
{
	struct page *page;
	const void *from;
	u32 n;

	for (; len; len -= n, at += n, to += n) {
		from = piece_at(r, at, len, &n, &page);
		flush_dcache_page(page);
		memcpy(to, from, n);
	}
	barrier(); /* nobody looks there again for what we have copied */
}

static void append(struct tcmu_ring *r, struct tcmu_slot *slot, enum tcmu_opcode op, u32 len)
{
	slot->op = op;
	slot->len = len;
	list_add_tail(&slot->node, &r->slots);
}

void tcmu_ring_publish(struct tcmu_ring *r, const struct tcmu_place *place, u32 len,
		       enum tcmu_opcode op, struct tcmu_slot *slot)
{
	struct tcmu_cmd_entry_hdr pad = {};

	if (place->pad) {
		tcmu_hdr_set_op(&pad.len_op, TCMU_OP_PAD);
		tcmu_hdr_set_len(&pad.len_op, place->pad);
		tcmu_ring_write(r, r->head, &pad, sizeof(pad));
		WARN_ON_ONCE(!list_empty(&r->pad.node));
		append(r, &r->pad, TCMU_OP_PAD, place->pad);
	}
	append(r, slot, op, len);
	r->head = (place->at + len) % r->size;
	smp_store_release(&r->mb->cmd_head, r->head); /* the entry is there before it is seen */
	flush_dcache_page(virt_to_page(r->mb));
}

int tcmu_ring_finished(struct tcmu_ring *r)
{
	struct tcmu_slot *slot;
	u32 tail, at = r->tail;
	int n = 0;

	flush_dcache_page(virt_to_page(r->mb));
	tail = smp_load_acquire(&r->mb->cmd_tail); /* answers were there before it moved */
	if (tail == at)
		return 0;
	list_for_each_entry(slot, &r->slots, node) {
		at = (at + slot->len) % r->size;
		n++;
		if (at == tail)
			return n;
	}
	return -EPROTO;
}

struct tcmu_slot *tcmu_ring_oldest(struct tcmu_ring *r)
{
	return list_first_entry_or_null(&r->slots, struct tcmu_slot, node);
}

void tcmu_ring_pop(struct tcmu_ring *r)
{
	struct tcmu_slot *slot = tcmu_ring_oldest(r);

	list_del_init(&slot->node);
	r->tail = (r->tail + slot->len) % r->size;
}

void tcmu_ring_restart(struct tcmu_ring *r)
{
	WARN_ON_ONCE(!list_empty(&r->slots));
	r->head = r->tail = 0;
	WRITE_ONCE(r->mb->cmd_tail, 0);
	WRITE_ONCE(r->mb->cmd_head, 0);
	flush_dcache_page(virt_to_page(r->mb));
}

unsigned long tcmu_ring_trim(struct tcmu_ring *r)
{
	unsigned long head = page_at(r->head), first = HOME_PAGES;
	long before = atomic_long_read(&r->map->ring_resident);

	if (!tcmu_ring_empty(r))
		return 0;
	WRITE_ONCE(r->grown, false);
	/* The next PAD may have to be written at the head. */
	if (head >= first) {
		tcmu_map_release(r->map, first, head - first, 1);
		first = head + 1;
	}
	if (first < r->map->ring_pages)
		tcmu_map_release(r->map, first, r->map->ring_pages - first, 1);
	/* Userspace may have looked at one that was gone already. */
	return max(before - atomic_long_read(&r->map->ring_resident), 0L);
}
