/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pool of I/O buffers.
 *
 * A chunk is IOBUF_MAX bytes, aligned to 2 MiB and asked for in huge pages (one fault where there
 * would be 512), and registered with the ring as one buffer while RLIMIT_MEMLOCK lasts. Within a
 * chunk buffers are split and merged by the buddy scheme (Knowlton 1965): a block of order k is
 * IOBUF_MIN << k bytes, at an index that is a multiple of 1 << k pages; its buddy is at index ^ (1
 * << k). The descriptor of a block is that of its first page, in an array beside the chunk, so that
 * a get or a put touches no foreign memory and allocates nothing.
 *
 *	BUSY    the caller's
 *	CACHED  put, kept whole on a stack of its order: the next get of that size takes it, hot in
 *	        the CPU's cache, without a split or a merge
 *	FREE    on the free list of its order, available to the buddy scheme
 *	INNER   not the head of a block
 *
 * The stacks hold CACHE_BYTES an order at most; they are emptied (and their blocks merged) when a
 * get finds nothing else, and by the idle timer. The smallest fitting block is split first, so that
 * whole chunks stay whole and can be given back.
 *
 * Idle timer: each IDLE_NS, while something is free, the chunks that were whole during the entire
 * period are given back. With nothing free, or nothing mapped, it is not armed.
 *
 * Waiters are tried in order after every put. One whose request is no smaller than one that has
 * just failed is passed over and keeps its place; smaller ones may pass it, since one of these may
 * hold the memory that it waits for. Who comes while others wait gets less than the least that is
 * waited for, or nothing: what was put in this turn is theirs.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "event/iobuf.h"
#include "event/reactor_private.h"

#define ORDERS	    11 /* 4 KiB .. 4 MiB */
#define PAGES	    (IOBUF_MAX / IOBUF_MIN)
#define CHUNK_ALIGN (2u << 20)
#define CACHE_BYTES (512u << 10)
#define IDLE_NS	    (5 * NSEC_PER_SEC)
#define RETRY_NS    (10 * NSEC_PER_MSEC)

_Static_assert(IOBUF_MIN << (ORDERS - 1) == IOBUF_MAX, "the largest block is a chunk");

enum { BUSY, CACHED, FREE, INNER };

struct chunk {
	uint8_t *mem;
	int slot; /* in the ring's buffer table, or -1 */
	struct list_node link;
	struct iobuf page[PAGES];
};

struct iobuf_pool {
	struct reactor *r;
	bool tried_in_vain;   /* to register: not again before a slot was given up */
	uint32_t last_failed; /* bytes of the get that failed last */
	uint64_t slots[16];   /* bitmap */
	struct list_node chunks, free[ORDERS], cache[ORDERS], waiters;
	unsigned cached[ORDERS];
	unsigned whole, whole_low; /* whole chunks: now, least of this period */
	bool quiet;		   /* no get in this period */
	bool serving;		   /* waiters have their turn */
	uint32_t least_want;	   /* bytes: of the waiters, or of one that has gone since */
	struct reactor_timer idle, retry;
	struct reactor_task wake;
	/* written here, read by any thread */
	_Atomic uint64_t mapped, used, limit, registered, waits, returned;
};

#define SLOTS (sizeof(((struct iobuf_pool *)0)->slots) * 8)

static uint64_t peek(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

static void add(_Atomic uint64_t *v, uint64_t n)
{
	atomic_store_explicit(v, peek(v) + n, memory_order_relaxed);
}

static unsigned order_of(size_t len)
{
	return len <= IOBUF_MIN ? 0 : 64 - (unsigned)__builtin_clzll((len - 1) / IOBUF_MIN);
}

/* --- chunks --- */

static void chunk_register(struct iobuf_pool *p, struct chunk *c)
{
	struct iovec iov = {c->mem, IOBUF_MAX};
	unsigned slot = 0;

	c->slot = -1;
	if (!p->r->ring_up || !p->r->features.fixed_buffers || p->tried_in_vain)
		return;
	while (slot < SLOTS && p->slots[slot / 64] >> (slot % 64) & 1)
		slot++;
	if (slot == SLOTS)
		return;
	if (io_uring_register_buffers_update_tag(&p->r->ring, slot, &iov, NULL, 1) < 0) {
		p->tried_in_vain = true;
		return;
	}
	p->slots[slot / 64] |= 1ull << (slot % 64);
	c->slot = (int)slot;
	add(&p->registered, IOBUF_MAX);
}

static void chunk_unregister(struct iobuf_pool *p, struct chunk *c)
{
	struct iovec none = {NULL, 0};

	if (c->slot < 0)
		return;
	if (p->r->ring_up)
		io_uring_register_buffers_update_tag(&p->r->ring, (unsigned)c->slot, &none, NULL,
						     1);
	p->slots[c->slot / 64] &= ~(1ull << (c->slot % 64));
	p->tried_in_vain = false;
	c->slot = -1;
	add(&p->registered, -(uint64_t)IOBUF_MAX);
}

static uint8_t *map_aligned(size_t size, size_t align)
{
	uint8_t *p = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t head;

	if (p == MAP_FAILED)
		return NULL;
	head = -(uintptr_t)p & (align - 1);
	if (head)
		munmap(p, head);
	munmap(p + head + size, align - head);
	return p + head;
}

static void block_free(struct iobuf_pool *p, struct iobuf *b)
{
	b->state = FREE;
	list_add_head(&p->free[b->order], &b->link);
	if (b->order == ORDERS - 1)
		p->whole++;
}

static void block_unfree(struct iobuf_pool *p, struct iobuf *b)
{
	list_del(&b->link);
	if (b->order == ORDERS - 1) {
		p->whole--;
		if (p->whole < p->whole_low)
			p->whole_low = p->whole;
	}
}

static int chunk_add(struct iobuf_pool *p)
{
	struct chunk *c;

	if (peek(&p->mapped) + IOBUF_MAX > peek(&p->limit))
		return -ENOBUFS;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->mem = map_aligned(IOBUF_MAX, CHUNK_ALIGN);
	if (!c->mem) {
		free(c);
		return -ENOMEM;
	}
	madvise(c->mem, IOBUF_MAX, MADV_HUGEPAGE);
	chunk_register(p, c);
	for (unsigned i = 0; i < PAGES; i++) {
		struct iobuf *b = &c->page[i];

		b->data = c->mem + (size_t)i * IOBUF_MIN;
		b->pool = p;
		b->chunk = c;
		b->reg_index = c->slot;
		b->state = INNER;
		list_init(&b->link);
	}
	list_add_tail(&p->chunks, &c->link);
	add(&p->mapped, IOBUF_MAX);
	c->page[0].order = ORDERS - 1;
	block_free(p, &c->page[0]);
	return 0;
}

static void chunk_remove(struct iobuf_pool *p, struct chunk *c)
{
	chunk_unregister(p, c);
	munmap(c->mem, IOBUF_MAX);
	list_del(&c->link);
	add(&p->mapped, -(uint64_t)IOBUF_MAX);
	add(&p->returned, IOBUF_MAX);
	free(c);
}

/* --- the buddy scheme --- */

static struct iobuf *block_split(struct iobuf_pool *p, unsigned order)
{
	struct iobuf *b;
	unsigned have = order;

	while (have < ORDERS && list_empty(&p->free[have]))
		have++;
	if (have == ORDERS)
		return NULL;
	b = container_of(p->free[have].next, struct iobuf, link);
	block_unfree(p, b);
	while (have > order) {
		struct iobuf *half = b + (1u << --have);

		half->order = (uint8_t)have;
		block_free(p, half);
	}
	b->order = (uint8_t)order;
	return b;
}

static void block_merge(struct iobuf_pool *p, struct iobuf *b)
{
	struct chunk *c = b->chunk;
	unsigned i = (unsigned)(b - c->page), order = b->order;

	while (order < ORDERS - 1) {
		struct iobuf *buddy = &c->page[i ^ 1u << order];

		if (buddy->state != FREE || buddy->order != order)
			break;
		block_unfree(p, buddy);
		buddy->state = INNER;
		c->page[i].state = INNER;
		i &= ~(1u << order);
		order++;
	}
	c->page[i].order = (uint8_t)order;
	block_free(p, &c->page[i]);
}

static bool caches_flush(struct iobuf_pool *p)
{
	struct list_node *n;
	bool any = false;

	for (unsigned o = 0; o < ORDERS; o++) {
		while ((n = list_pop(&p->cache[o]))) {
			block_merge(p, container_of(n, struct iobuf, link));
			any = true;
		}
		p->cached[o] = 0;
	}
	return any;
}

static struct iobuf *block_get(struct iobuf_pool *p, unsigned order)
{
	struct iobuf *b;

	if (p->cached[order]) {
		p->cached[order]--;
		return container_of(list_pop(&p->cache[order]), struct iobuf, link);
	}
	b = block_split(p, order);
	if (!b && caches_flush(p))
		b = block_split(p, order);
	if (!b && chunk_add(p) == 0)
		b = block_split(p, order);
	return b;
}

/* --- giving back --- */

static uint64_t give_back(struct iobuf_pool *p, unsigned n)
{
	uint64_t bytes = 0;

	while (n-- && p->whole) {
		struct iobuf *b = container_of(p->free[ORDERS - 1].prev, struct iobuf, link);

		block_unfree(p, b);
		chunk_remove(p, b->chunk);
		bytes += IOBUF_MAX;
	}
	return bytes;
}

static bool something_free(const struct iobuf_pool *p)
{
	/* Parts of chunks that are in use cannot be given back: only these can. */
	bool any = p->whole;

	for (unsigned o = 0; o < ORDERS; o++)
		any |= p->cached[o] != 0;
	return any;
}

static void idle_arm(struct iobuf_pool *p)
{
	if (p->idle.armed || !something_free(p))
		return;
	p->quiet = true;
	p->whole_low = p->whole;
	reactor_timer_arm(p->r, &p->idle, reactor_now(p->r) + IDLE_NS);
}

static void idle_fire(struct reactor_timer *t)
{
	struct iobuf_pool *p = container_of(t, struct iobuf_pool, idle);

	if (p->quiet) {
		caches_flush(p);
		p->whole_low = p->whole;
	}
	give_back(p, p->whole_low);
	idle_arm(p);
}

uint64_t iobuf_pool_trim(struct iobuf_pool *p)
{
	caches_flush(p);
	return give_back(p, p->whole);
}

void iobuf_pool_set_limit(struct iobuf_pool *p, uint64_t bytes)
{
	atomic_store_explicit(&p->limit, bytes, memory_order_relaxed);
	if (peek(&p->mapped) > bytes) {
		caches_flush(p);
		while (p->whole && peek(&p->mapped) > bytes)
			give_back(p, 1);
	} else if (!list_empty(&p->waiters)) {
		reactor_defer(p->r, &p->wake);
	}
}

/* --- get and put --- */

/* Whether what a newcomer asks for is for those who wait. */
static bool is_wanted(const struct iobuf_pool *p, size_t len)
{
	return !list_empty(&p->waiters) && !p->serving && len >= p->least_want;
}

struct iobuf *iobuf_get(struct iobuf_pool *p, size_t len)
{
	struct iobuf *b;

	if (len > IOBUF_MAX)
		return NULL;
	b = is_wanted(p, len) ? NULL : block_get(p, order_of(len));
	if (!b) {
		p->last_failed = (uint32_t)len;
		return NULL;
	}
	b->state = BUSY;
	b->cap = IOBUF_MIN << b->order;
	p->quiet = false;
	add(&p->used, b->cap);
	return b;
}

void iobuf_put(struct iobuf *b)
{
	struct iobuf_pool *p;

	if (!b)
		return;
	p = b->pool;
	add(&p->used, -(uint64_t)b->cap);
	if ((p->cached[b->order] + 1) * b->cap <= CACHE_BYTES && list_empty(&p->waiters)) {
		b->state = CACHED;
		list_add_head(&p->cache[b->order], &b->link);
		p->cached[b->order]++;
	} else {
		block_merge(p, b);
		if (p->whole && peek(&p->mapped) > peek(&p->limit))
			give_back(p, 1);
	}
	idle_arm(p);
	if (!list_empty(&p->waiters))
		reactor_defer(p->r, &p->wake);
}

/* --- waiters --- */

void iobuf_waiter_init(struct iobuf_waiter *w, void (*fn)(struct iobuf_waiter *w))
{
	w->fn = fn;
	w->want = 0;
	list_init(&w->link);
}

static void enqueue(struct iobuf_pool *p, struct iobuf_waiter *w)
{
	if (list_empty(&p->waiters) || w->want < p->least_want)
		p->least_want = w->want;
	list_add_tail(&p->waiters, &w->link);
}

void iobuf_wait(struct iobuf_pool *p, struct iobuf_waiter *w)
{
	if (!list_empty(&w->link))
		return;
	w->want = p->last_failed;
	enqueue(p, w);
	add(&p->waits, 1);
	/* It was the system that refused, and no put will come: ask again later. */
	if (!peek(&p->used) && !p->retry.armed)
		reactor_timer_arm(p->r, &p->retry, reactor_now(p->r) + RETRY_NS);
}

void iobuf_wait_cancel(struct iobuf_waiter *w)
{
	list_del(&w->link);
}

static void waiters_run(struct reactor_task *t)
{
	struct iobuf_pool *p = container_of(t, struct iobuf_pool, wake);
	struct list_node turn, *n;
	uint32_t failed = UINT32_MAX;

	list_init(&turn);
	list_splice_tail(&turn, &p->waiters);
	p->serving = true;
	while ((n = list_pop(&turn))) {
		struct iobuf_waiter *w = container_of(n, struct iobuf_waiter, link);

		if (w->want >= failed) {
			enqueue(p, w);
			continue;
		}
		p->last_failed = 0;
		w->fn(w); /* @w may be gone, or wait again */
		if (p->last_failed && p->last_failed < failed)
			failed = p->last_failed;
	}
	p->serving = false;
}

static void retry_fire(struct reactor_timer *t)
{
	struct iobuf_pool *p = container_of(t, struct iobuf_pool, retry);

	reactor_defer(p->r, &p->wake);
}

/* --- life --- */

int iobuf_pool_create(struct reactor *r, uint64_t limit, struct iobuf_pool **ret_pool)
{
	struct iobuf_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->r = r;
	atomic_store(&p->limit, limit);
	list_init(&p->chunks);
	list_init(&p->waiters);
	for (unsigned o = 0; o < ORDERS; o++) {
		list_init(&p->free[o]);
		list_init(&p->cache[o]);
	}
	reactor_timer_init(&p->idle, idle_fire);
	reactor_timer_init(&p->retry, retry_fire);
	reactor_task_init(&p->wake, waiters_run);
	*ret_pool = p;
	return 0;
}

void iobuf_pool_destroy(struct iobuf_pool *p)
{
	struct list_node *n, *tmp;

	if (!p)
		return;
	list_for_each_safe (n, tmp, &p->chunks)
		chunk_remove(p, container_of(n, struct chunk, link));
	free(p);
}

void iobuf_pool_stats(const struct iobuf_pool *p, struct iobuf_stats *ret_stats)
{
	*ret_stats = (struct iobuf_stats){
		.mapped_bytes = peek(&p->mapped),
		.used_bytes = peek(&p->used),
		.limit_bytes = peek(&p->limit),
		.registered_bytes = peek(&p->registered),
		.waits = peek(&p->waits),
		.returned_bytes = peek(&p->returned),
	};
}
