/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The stack of arenas over one reservation.
 *
 * Addresses and what backs them are two matters. Taking addresses is arithmetic on boundary tags
 * and asks the kernel nothing; backing is the kernel's, and only for who wants it. Wired memory is
 * one span made accessible once: the kernel has one map entry for it however many allocations there
 * are, and its pages come with the first touch and stay. (docs/vmem.md shows this beside a mapping
 * an allocation and an arena that backs on import.) Volatile memory is not accessible until its
 * owner backs it.
 *
 * The tags come first: the meta part is at the start of the reservation, so that the store can be
 * made before the arena that describes it, which then takes the part out as allocated.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "mem/address_space.h"
#include "mem/vmem/vmem_private.h"

#define HUGE_PAGE     (2ull << 20)
#define LINE_IMPORT   (64ull << 10)
#define VOLATILE_SPAN (64ull << 20)
#define WIRED_MIN     (64ull << 20)
#define TRIM_MIN      (64ull << 10) /* smaller free segments are not worth a system call */
#define TRIM_BATCH    128u

struct address_space {
	uint8_t *base;
	uint64_t size, meta_size, wired_size;
	uint64_t wired_base;
	struct vmem_tag_store *tags;
	struct vmem *arena, *wired_pages, *wired_lines, *volatile_pages;
};

static int back(uint64_t addr, uint64_t size)
{
	return mprotect((void *)addr, size, PROT_READ | PROT_WRITE) < 0 ? -errno : 0;
}

int address_back(uint64_t addr, uint64_t size)
{
	int r = back(addr, size);

	if (!r)
		madvise((void *)addr, size, MADV_NOHUGEPAGE); /* a kernel without THP refuses */
	return r;
}

void address_unback(uint64_t addr, uint64_t size)
{
	madvise((void *)addr, size, MADV_DONTNEED);
	mprotect((void *)addr, size, PROT_NONE);
}

static int reserve(struct address_space *as)
{
	void *p =
		mmap(NULL, as->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	as->base = p;
	return 0;
}

/* The arena of all addresses, the part of the tags taken. */
static int make_arena(struct address_space *as)
{
	uint64_t start = (uint64_t)as->base, addr;
	int r = vmem_tag_store_create(as->base, as->meta_size, &as->tags);

	if (!r)
		r = vmem_create(
			&(struct vmem_spec){
				.name = "address",
				.store = as->tags,
				.base = start,
				.size = as->size,
				.quantum = ADDRESS_PAGE,
			},
			&as->arena);
	if (!r)
		r = vmem_xalloc(as->arena,
				&(struct vmem_request){
					.size = as->meta_size,
					.min = start,
					.max = start + as->meta_size,
				},
				0, &addr);
	return r;
}

static int make_wired(struct address_space *as)
{
	int r = -ENOMEM;

	while (as->wired_size >= WIRED_MIN) {
		r = vmem_xalloc(as->arena,
				&(struct vmem_request){.size = as->wired_size, .align = HUGE_PAGE},
				0, &as->wired_base);
		if (!r) {
			r = back(as->wired_base, as->wired_size);
			if (!r)
				break;
			vmem_xfree(as->arena, as->wired_base, as->wired_size);
			as->wired_base = 0;
		}
		as->wired_size = as->wired_size / 2 & ~(HUGE_PAGE - 1);
	}
	if (!r)
		r = vmem_create(
			&(struct vmem_spec){
				.name = "wired pages",
				.store = as->tags,
				.base = as->wired_base,
				.size = as->wired_size,
				.quantum = ADDRESS_PAGE,
				.qcache_max = VMEM_QCACHE_CLASSES * ADDRESS_PAGE,
			},
			&as->wired_pages);
	if (!r)
		r = vmem_create(
			&(struct vmem_spec){
				.name = "wired lines",
				.store = as->tags,
				.quantum = ADDRESS_LINE,
				.import = vmem_import_arena,
				.release = vmem_release_arena,
				.source = as->wired_pages,
				.import_min = LINE_IMPORT,
				.qcache_max = VMEM_QCACHE_CLASSES * ADDRESS_LINE,
			},
			&as->wired_lines);
	return r;
}

static int make_volatile(struct address_space *as)
{
	return vmem_create(
		&(struct vmem_spec){
			.name = "volatile",
			.store = as->tags,
			.quantum = ADDRESS_PAGE,
			.import = vmem_import_arena,
			.release = vmem_release_arena,
			.source = as->arena,
			.import_min = VOLATILE_SPAN,
		},
		&as->volatile_pages);
}

int address_space_create(const struct address_space_spec *spec, struct address_space **ret_as)
{
	struct address_space *as = calloc(1, sizeof(*as));
	int r = -EINVAL;

	if (!as)
		return -ENOMEM;
	as->size = spec->size ? spec->size : 1ull << 40;
	as->meta_size = spec->meta ? spec->meta : as->size / 64;
	as->wired_size = spec->wired ? spec->wired : as->size / 16;
	if ((as->size | as->meta_size | as->wired_size) & (ADDRESS_PAGE - 1) ||
	    as->meta_size > as->size || as->wired_size > as->size - as->meta_size ||
	    as->wired_size < WIRED_MIN)
		goto err;
	r = reserve(as);
	if (!r)
		r = make_arena(as);
	if (!r)
		r = make_wired(as);
	if (!r)
		r = make_volatile(as);
	if (r)
		goto err;
	*ret_as = as;
	return 0;
err:
	address_space_destroy(as);
	return r;
}

uint64_t address_space_destroy(struct address_space *as)
{
	uint64_t leaked = 0;

	if (!as)
		return 0;
	/* A leaked line keeps its pages, which must not be counted again: lines first, then what
	 * is left of the pages beyond them. */
	leaked += vmem_destroy(as->wired_lines, NULL, NULL);
	if (leaked)
		vmem_destroy(as->wired_pages, NULL, NULL);
	else
		leaked += vmem_destroy(as->wired_pages, NULL, NULL);
	leaked += vmem_destroy(as->volatile_pages, NULL, NULL);
	vmem_destroy(as->arena, NULL, NULL);
	vmem_tag_store_destroy(as->tags);
	if (as->base)
		munmap(as->base, as->size);
	free(as);
	return leaked;
}

static struct vmem *wired_arena(const struct address_space *as, size_t size)
{
	return size < ADDRESS_PAGE ? as->wired_lines : as->wired_pages;
}

void *wired_alloc(struct address_space *as, size_t size)
{
	struct vmem *vm = wired_arena(as, size);
	uint64_t addr;

	if (LIKELY(vmem_try_alloc(vm, size, &addr)))
		return (void *)addr;
	return vmem_alloc(vm, size, 0, &addr) ? NULL : (void *)addr;
}

void wired_free(struct address_space *as, void *p, size_t size)
{
	struct vmem *vm = wired_arena(as, size);

	if (p && !LIKELY(vmem_try_free(vm, (uint64_t)p, size)))
		vmem_free(vm, (uint64_t)p, size);
}

struct trim_list {
	struct {
		uint64_t addr, size;
	} seg[TRIM_BATCH];
	unsigned n;
	uint64_t from; /* collect segments above this */
};

static int trim_collect(void *arg, enum vmem_seg seg, uint64_t addr, uint64_t size)
{
	struct trim_list *l = arg;

	if (addr < l->from || size < TRIM_MIN)
		return 0;
	l->seg[l->n].addr = addr;
	l->seg[l->n++].size = size;
	return l->n == TRIM_BATCH;
}

/*
 * A free segment is taken before its pages are dropped, so that nobody else can have it; one that
 * has changed since it was seen is passed over.
 */
void wired_trim(struct address_space *as)
{
	struct trim_list l = {0};
	int more;

	vmem_reap(as->wired_lines);
	vmem_reap(as->wired_pages);
	do {
		l.n = 0;
		more = vmem_walk(as->wired_pages, VMEM_SEG_FREE, trim_collect, &l);
		for (unsigned i = 0; i < l.n; i++) {
			uint64_t addr = l.seg[i].addr, size = l.seg[i].size;

			l.from = addr + size;
			if (vmem_xalloc(as->wired_pages,
					&(struct vmem_request){
						.size = size,
						.min = addr,
						.max = addr + size,
					},
					0, &addr))
				continue;
			madvise((void *)addr, size, MADV_DONTNEED);
			vmem_xfree(as->wired_pages, addr, size);
		}
	} while (more);
}

struct vmem *address_space_arena(struct address_space *as)
{
	return as->arena;
}

struct vmem *address_space_volatile(struct address_space *as)
{
	return as->volatile_pages;
}

struct vmem *address_space_wired_pages(struct address_space *as)
{
	return as->wired_pages;
}

struct vmem *address_space_wired_lines(struct address_space *as)
{
	return as->wired_lines;
}

struct vmem_tag_store *address_space_tags(struct address_space *as)
{
	return as->tags;
}
