// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The pages of the shared memory. The mapping is large and userspace maps all of it at once; a
 * page comes when the kernel needs it (or, in the ring, when userspace looks there first), and
 * userspace gets it by a fault. A page leaves when its owner says that nobody needs it.
 *
 * A fault and a release of the same page must not miss each other, or userspace would keep, in its
 * page table, a page that has gone elsewhere (and later read stale data where a new page stands).
 * They meet at the page's lock:
 *
 *	fault			release
 *	F1 find page, take ref	R1 trylock page; busy: leave it
 *	F2 lock page		R2 unmap it everywhere
 *	F3 in the array still?	R3 take it out of the array; pinned: leave it
 *	   no: begin again	R4 unlock, drop the array's ref
 *	F4 enter it in the
 *	   page table, unlock
 *
 * If F2 comes first, R1 fails, or comes after F4 and R2 finds the entry. If R1 comes first, F2
 * waits until R4 and F3 sees that the page has left. In neither case does an entry stay behind.
 * F1 takes its reference under the array's lock, so the array's own is still there: the page is
 * never one that was freed and belongs to somebody else.
 *
 * A page that userspace has pinned for long (a buffer registered with io_uring) is left as well: to
 * take it would free nothing, and leave the pin behind on a page that is no longer the one here.
 * Pins are looked for when no page table has the page any more, since who pins finds it there.
 *
 * Userspace that touches a place of the data area without a page gets SIGBUS. It cannot happen to
 * who touches only what a command in flight named: those blocks have pages and are not released.
 *
 * Pages are unmapped through the address space of the file that is mapped. There is one at a time
 * (opening is exclusive), and the mappings hold the file. So we know it from the first mapping to
 * the last, whether the device is removed meanwhile or not, and forget it under mapped_lock: a
 * release runs to its end first.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "tcmu_private.h"

void tcmu_map_init(struct tcmu_map *map, unsigned long npages, unsigned long ring_pages)
{
	xa_init(&map->pages);
	map->npages = npages;
	map->ring_pages = ring_pages;
	atomic_long_set(&map->resident, 0);
	atomic_long_set(&map->ring_resident, 0);
	mutex_init(&map->mapped_lock);
	map->mapped = NULL;
	map->mappings = 0;
}

static void count_page(struct tcmu_map *map, unsigned long at, long by)
{
	atomic_long_add(by, &map->resident);
	if (at < map->ring_pages)
		atomic_long_add(by, &map->ring_resident);
}

void tcmu_map_destroy(struct tcmu_map *map)
{
	struct page *page;
	unsigned long at;

	xa_for_each(&map->pages, at, page)
		put_page(page);
	xa_destroy(&map->pages);
	mutex_destroy(&map->mapped_lock);
}

void tcmu_map_open(struct tcmu_map *map, struct address_space *mapped)
{
	mutex_lock(&map->mapped_lock);
	map->mapped = mapped;
	map->mappings++;
	mutex_unlock(&map->mapped_lock);
}

void tcmu_map_close(struct tcmu_map *map)
{
	mutex_lock(&map->mapped_lock);
	if (!--map->mappings)
		map->mapped = NULL;
	mutex_unlock(&map->mapped_lock);
}

static int populate_one(struct tcmu_map *map, unsigned long at)
{
	struct page *page, *old;

	if (xa_load(&map->pages, at))
		return 0;
	page = alloc_page(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN);
	if (!page)
		return -ENOMEM;
	count_page(map, at, 1); /* before anybody can release it */
	old = xa_cmpxchg(&map->pages, at, NULL, page, GFP_KERNEL);
	if (old) {
		count_page(map, at, -1);
		__free_page(page);
		return xa_is_err(old) ? -ENOMEM : 0;
	}
	return 0;
}

int tcmu_map_populate(struct tcmu_map *map, unsigned long first, unsigned long n)
{
	unsigned long i;
	int err = 0;

	for (i = 0; i < n && !err; i++)
		err = populate_one(map, first + i);
	return err;
}

struct page *tcmu_map_page(struct tcmu_map *map, unsigned long at)
{
	return xa_load(&map->pages, at);
}

/* Unlocks what is not among the last @taken places, rounded down to @grain, which it returns. */
static unsigned long keep_locked(unsigned long end, unsigned long taken, unsigned long grain,
				 struct list_head *locked)
{
	struct page *page, *next;

	taken -= taken % grain;
	list_for_each_entry_safe_reverse(page, next, locked, lru) {
		if (page->index >= end - taken)
			break;
		list_del(&page->lru);
		unlock_page(page);
	}
	return taken;
}

/*
 * Locks pages from the last on, into @locked, the last one first. Returns how many places were
 * empty or are locked now.
 */
static unsigned long lock_from_top(struct tcmu_map *map, unsigned long first, unsigned long n,
				   struct list_head *locked)
{
	unsigned long taken, at;
	struct page *page;

	for (taken = 0; taken < n; taken++) {
		at = first + n - 1 - taken;
		page = xa_load(&map->pages, at);
		if (!page)
			continue;
		if (folio_maybe_dma_pinned(page_folio(page)) || !trylock_page(page))
			break;
		page->index = at;
		list_add_tail(&page->lru, locked);
	}
	return taken;
}

/* How many of the last @taken places have no page that was pinned until it was unmapped. */
static unsigned long count_free(unsigned long end, unsigned long taken,
				const struct list_head *locked)
{
	struct page *page;

	list_for_each_entry(page, locked, lru) {
		if (folio_maybe_dma_pinned(page_folio(page)))
			return end - 1 - page->index;
	}
	return taken;
}

static void unmap_range(struct tcmu_map *map, unsigned long first, unsigned long n)
{
	mutex_lock(&map->mapped_lock);
	if (map->mapped)
		unmap_mapping_range(map->mapped, (loff_t)first << PAGE_SHIFT,
				    (loff_t)n << PAGE_SHIFT, 1);
	mutex_unlock(&map->mapped_lock);
}

unsigned long tcmu_map_release(struct tcmu_map *map, unsigned long first, unsigned long n,
			       unsigned long grain)
{
	unsigned long taken, end = first + n;
	struct page *page, *next;
	LIST_HEAD(locked);

	taken = keep_locked(end, lock_from_top(map, first, n, &locked), grain, &locked);
	if (list_empty(&locked))
		return taken;
	unmap_range(map, end - taken, taken);
	taken = keep_locked(end, count_free(end, taken, &locked), grain, &locked);
	list_for_each_entry_safe(page, next, &locked, lru) {
		list_del(&page->lru);
		xa_erase(&map->pages, page->index);
		count_page(map, page->index, -1);
		unlock_page(page);
		put_page(page);
	}
	return taken;
}

/* The page at @at with a reference, or NULL. */
static struct page *find_get(struct tcmu_map *map, unsigned long at)
{
	struct page *page;

	xa_lock(&map->pages);
	page = xa_load(&map->pages, at);
	if (page)
		get_page(page);
	xa_unlock(&map->pages);
	return page;
}

vm_fault_t tcmu_map_fault(struct tcmu_map *map, struct vm_fault *vmf)
{
	unsigned long at = vmf->pgoff;
	struct page *page;

	if (at >= map->npages)
		return VM_FAULT_SIGBUS;
	for (;;) {
		if (at < map->ring_pages && populate_one(map, at))
			return VM_FAULT_OOM;
		page = find_get(map, at);
		if (!page && at >= map->ring_pages)
			return VM_FAULT_SIGBUS;
		if (!page)
			continue; /* trimmed just now */
		lock_page(page);
		if (likely(xa_load(&map->pages, at) == page)) {
			vmf->page = page;
			return VM_FAULT_LOCKED;
		}
		unlock_page(page);
		put_page(page);
	}
}
