/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Quantum caches: magazines of ready objects, two a thread and class, and a depot a class.
 *
 * A thread allocates from its loaded magazine and frees into it, without lock or atomic operation.
 * When that one is empty (or full) it is exchanged with the previous one; when that does not help,
 * with a full (or empty) one of the depot. So a thread that alternates between a few allocations
 * and a few frees never leaves its two magazines, and one that only frees feeds, magazine by
 * magazine, one that only allocates.
 *
 * An allocation that finds no full magazine fills its own from the slabs, and sees to it that the
 * depot has EMPTY_MIN empty ones for those who free. A free that finds no empty magazine returns
 * its loaded one's rounds to the slabs in a batch. So only allocations make magazines, their number
 * is what the exchange between threads needs, and what is not in circulation returns to the arena.
 *
 * Magazine size: small objects begin with large magazines, as these hold little back. A thread that
 * does not get the depot's lock at once counts a contention. When an eighth of a window of visits
 * were such, new magazines are twice as large, up to CAP_MAX, and visits come half as often.
 * Smaller ones leave when they come by empty.
 *
 * A thread's magazines are its own until it ends (then they are emptied) or the arena is destroyed,
 * when by contract nobody uses it. The list of threads serves these two and the counters. Emptying
 * may release spans to a source with quantum caches of its own, so it is done without locks; an
 * arena's end waits for threads that are at it.
 *
 * Arenas with quantum caches have numbers below VMEM_CACHED_ARENAS, their places in each thread.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "mem/vmem/vmem_private.h"

#define CAP_MIN	  31u
#define CAP_BEGIN 127u
#define CAP_HELD \
	8192u /* integers that a class's first magazines hold at most, if more than CAP_MIN */
#define CAP_MAX	  255u
#define WINDOW	  128u
#define EMPTY_MIN 2u

static struct mutex threads_lock = MUTEX_INIT(LOCK_RANK_VMEM_THREADS);
/* under threads_lock */
static struct list_node threads = LIST_INIT(threads);
static bool id_used[VMEM_CACHED_ARENAS];
static unsigned n_ending; /* threads that empty their magazines: no arena goes meanwhile */
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
_Thread_local struct vmem_thread *vmem_self;
static _Thread_local bool ending; /* allocates past the magazines, not to make new ones */

/* Neither full nor empty: what a class has before its first magazine. */
static struct magazine none;

static uint64_t peek(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

/* --- magazines --- */

static size_t magazine_bytes(uint32_t cap)
{
	return sizeof(struct magazine) + cap * sizeof(uint64_t);
}

static uint32_t cap_to_begin(uint64_t object)
{
	uint64_t cap = CAP_HELD / object;

	return cap < CAP_MIN ? CAP_MIN : cap > CAP_BEGIN ? CAP_BEGIN : (uint32_t)cap | 1;
}

static struct magazine *magazine_new(struct depot *d, uint32_t cap)
{
	struct magazine *m = malloc(magazine_bytes(cap));

	if (!m)
		return NULL;
	m->next = NULL;
	m->cap = cap;
	m->rounds = 0;
	mutex_scope(&d->lock);
	d->bytes += magazine_bytes(cap);
	return m;
}

/* Returns the rounds to the slabs and frees the magazine. */
static void magazine_end(struct vmem *vm, unsigned klass, struct magazine *m)
{
	struct depot *d = &vm->depot[klass];

	if (!m || m == &none)
		return;
	if (m->rounds)
		slab_free(vm, klass, m->round, m->rounds);
	mutex_lock(&d->lock);
	d->bytes -= magazine_bytes(m->cap);
	mutex_unlock(&d->lock);
	free(m);
}

static void magazines_end(struct vmem *vm, unsigned klass, struct magazine *list)
{
	while (list) {
		struct magazine *next = list->next;

		magazine_end(vm, klass, list);
		list = next;
	}
}

static void depot_lock(struct depot *d)
{
	bool contended = !mutex_trylock(&d->lock);

	if (contended)
		mutex_lock(&d->lock);
	d->visits++;
	d->contended += contended;
	d->window_contended += contended;
	if (++d->window_visits < WINDOW)
		return;
	if (d->window_contended >= WINDOW / 8 && d->cap < CAP_MAX)
		d->cap = 2 * d->cap + 1;
	d->window_visits = d->window_contended = 0;
}

static struct magazine *pop(struct magazine **list)
{
	struct magazine *m = *list;

	if (m) {
		*list = m->next;
		m->next = NULL;
	}
	return m;
}

static void push(struct magazine **list, struct magazine *m)
{
	m->next = *list;
	*list = m;
}

/* --- threads --- */

/* Empties the magazines of @tc; its thread is this one, or does not use the arena any more. */
static void cache_flush(struct thread_cache *tc)
{
	for (unsigned k = 0; k < tc->vm->n_classes; k++) {
		struct thread_class *c = &tc->klass[k];

		magazine_end(tc->vm, k, c->loaded);
		magazine_end(tc->vm, k, c->prev);
		c->loaded = c->prev = &none;
	}
}

/* Without locks: what becomes free may go back to a source that has quantum caches itself. */
static void cache_end(struct thread_cache *tc)
{
	cache_flush(tc);
	for (unsigned k = 0; k < tc->vm->n_classes; k++) {
		tc->vm->depot[k].past_allocs += peek(&tc->klass[k].allocs);
		tc->vm->depot[k].past_frees += peek(&tc->klass[k].frees);
	}
	free(tc);
}

static void thread_end(void *arg)
{
	struct vmem_thread *th = arg;

	ending = true;
	vmem_self = NULL;
	mutex_lock(&threads_lock);
	list_del(&th->link);
	n_ending++;
	mutex_unlock(&threads_lock);
	for (unsigned i = 0; i < VMEM_CACHED_ARENAS; i++)
		if (th->cache[i])
			cache_end(th->cache[i]);
	mutex_lock(&threads_lock);
	n_ending--;
	pthread_cond_broadcast(&ended);
	mutex_unlock(&threads_lock);
	free(th);
}

static void key_make(void)
{
	pthread_key_create(&key, thread_end);
}

static struct vmem_thread *thread_make(void)
{
	struct vmem_thread *th;

	pthread_once(&key_once, key_make);
	th = calloc(1, sizeof(*th));
	if (!th)
		return NULL;
	if (pthread_setspecific(key, th)) {
		free(th);
		return NULL;
	}
	mutex_scope(&threads_lock);
	list_add_tail(&threads, &th->link);
	return th;
}

/* The calling thread's cache, or NULL: then go without. */
static struct thread_cache *cache_get(struct vmem *vm)
{
	struct thread_cache *tc;

	if (ending)
		return NULL;
	if (!vmem_self)
		vmem_self = thread_make();
	if (!vmem_self)
		return NULL;
	tc = vmem_self->cache[vm->id];
	if (tc)
		return tc;
	tc = aligned_alloc(64, sizeof(*tc));
	if (!tc)
		return NULL;
	memset(tc, 0, sizeof(*tc));
	tc->vm = vm;
	for (unsigned k = 0; k < VMEM_QCACHE_CLASSES; k++)
		tc->klass[k].loaded = tc->klass[k].prev = &none;
	mutex_scope(&threads_lock);
	vmem_self->cache[vm->id] = tc;
	return tc;
}

/* --- allocating --- */

static int alloc_direct(struct vmem *vm, unsigned klass, uint64_t *ret_addr)
{
	if (!slab_alloc(vm, klass, ret_addr, 1)) {
		/* What depots hold may be all that there is. */
		vmem_reap(vm);
		if (!slab_alloc(vm, klass, ret_addr, 1))
			return -ENOMEM;
	}
	vm->depot[klass].past_allocs++;
	return 0;
}

static void swap(struct thread_class *c)
{
	struct magazine *m = c->loaded;

	c->loaded = c->prev;
	c->prev = m;
}

/* Fills the empty loaded magazine from the slabs; makes those that are wanting. */
static bool fill_from_slabs(struct vmem *vm, unsigned klass, struct thread_class *c, uint32_t cap,
			    bool want_empty)
{
	struct depot *d = &vm->depot[klass];
	struct magazine *m;

	if (c->loaded->cap < cap) {
		m = magazine_new(d, cap);
		if (m) {
			magazine_end(vm, klass, c->loaded);
			c->loaded = m;
		}
	}
	if (want_empty && (m = magazine_new(d, cap))) {
		mutex_scope(&d->lock);
		push(&d->empty, m);
		d->n_empty++;
	}
	m = c->loaded;
	if (m == &none)
		return false;
	m->rounds = slab_alloc(vm, klass, m->round, m->cap);
	return m->rounds > 0;
}

/* Has rounds in the loaded magazine, or returns false. */
static bool refill(struct vmem *vm, unsigned klass, struct thread_class *c)
{
	struct depot *d = &vm->depot[klass];
	struct magazine *m, *small = NULL;
	bool want_empty;
	uint32_t cap;

	if (c->prev->rounds) {
		swap(c);
		return true;
	}
	depot_lock(d);
	cap = d->cap;
	want_empty = d->n_empty < EMPTY_MIN;
	m = pop(&d->full);
	if (m) {
		if (c->prev->cap >= cap) {
			push(&d->empty, c->prev);
			d->n_empty++;
		} else {
			small = c->prev;
		}
		c->prev = c->loaded;
		c->loaded = m;
	}
	mutex_unlock(&d->lock);
	magazine_end(vm, klass, small);
	return m || fill_from_slabs(vm, klass, c, cap, want_empty);
}

int qcache_alloc(struct vmem *vm, uint64_t size, uint64_t *ret_addr)
{
	unsigned klass = (unsigned)((size - 1) >> vm->quantum_shift);
	struct thread_cache *tc = cache_get(vm);
	struct thread_class *c;

	if (!tc)
		return alloc_direct(vm, klass, ret_addr);
	c = &tc->klass[klass];
	if (!c->loaded->rounds && !refill(vm, klass, c))
		return alloc_direct(vm, klass, ret_addr);
	*ret_addr = c->loaded->round[--c->loaded->rounds];
	count_up(&c->allocs);
	return 0;
}

/* --- freeing --- */

/* Has room in the loaded magazine, or returns false. */
static bool make_room(struct vmem *vm, unsigned klass, struct thread_class *c)
{
	struct depot *d = &vm->depot[klass];
	struct magazine *m;

	if (c->prev->rounds < c->prev->cap) {
		swap(c);
		return true;
	}
	depot_lock(d);
	m = pop(&d->empty);
	if (m) {
		d->n_empty--;
		if (c->prev != &none)
			push(&d->full, c->prev);
		c->prev = c->loaded;
		c->loaded = m;
	}
	mutex_unlock(&d->lock);
	m = c->loaded;
	if (m == &none)
		return false;
	if (m->rounds == m->cap) {
		slab_free(vm, klass, m->round, m->rounds);
		m->rounds = 0;
	}
	return true;
}

void qcache_free(struct vmem *vm, uint64_t addr, uint64_t size)
{
	unsigned klass = (unsigned)((size - 1) >> vm->quantum_shift);
	struct thread_cache *tc = cache_get(vm);
	struct thread_class *c = tc ? &tc->klass[klass] : NULL;

	if (!c || (c->loaded->rounds == c->loaded->cap && !make_room(vm, klass, c))) {
		slab_free(vm, klass, &addr, 1);
		vm->depot[klass].past_frees++;
		return;
	}
	c->loaded->round[c->loaded->rounds++] = addr;
	count_up(&c->frees);
}

/* --- life --- */

int qcache_init(struct vmem *vm)
{
	struct depot *depot = aligned_alloc(64, vm->n_classes * sizeof(*depot));

	if (!depot)
		return -ENOMEM;
	memset(depot, 0, vm->n_classes * sizeof(*depot));
	for (unsigned k = 0; k < vm->n_classes; k++) {
		mutex_init(&depot[k].lock, LOCK_RANK_VMEM_DEPOT);
		depot[k].cap = cap_to_begin((uint64_t)(k + 1) << vm->quantum_shift);
	}
	mutex_scope(&threads_lock);
	for (unsigned i = 0; i < VMEM_CACHED_ARENAS; i++) {
		if (id_used[i])
			continue;
		id_used[i] = true;
		vm->id = i;
		vm->depot = depot;
		return 0;
	}
	free(depot);
	return -ENOSPC;
}

void qcache_reap(struct vmem *vm)
{
	for (unsigned k = 0; k < vm->n_classes; k++) {
		struct depot *d = &vm->depot[k];
		struct magazine *full, *empty;

		mutex_lock(&d->lock);
		full = d->full;
		empty = d->empty;
		d->full = d->empty = NULL;
		d->n_empty = 0;
		mutex_unlock(&d->lock);
		magazines_end(vm, k, full);
		magazines_end(vm, k, empty);
	}
}

void vmem_thread_flush(struct vmem *vm)
{
	if (vmem_self && vm->qcache_max && vmem_self->cache[vm->id])
		cache_flush(vmem_self->cache[vm->id]);
}

void qcache_fini(struct vmem *vm)
{
	struct thread_cache *caches = NULL;
	struct vmem_thread *th;

	if (!vm->depot)
		return;
	mutex_lock(&threads_lock);
	while (n_ending)
		mutex_wait(&threads_lock, &ended);
	list_for_each_entry (th, &threads, link) {
		struct thread_cache *tc = th->cache[vm->id];

		th->cache[vm->id] = NULL;
		if (!tc)
			continue;
		tc->next = caches;
		caches = tc;
	}
	id_used[vm->id] = false;
	mutex_unlock(&threads_lock);
	while (caches) {
		struct thread_cache *tc = caches;

		caches = tc->next;
		cache_end(tc);
	}
	qcache_reap(vm);
	slab_reap(vm);
	for (unsigned k = 0; k < vm->n_classes; k++)
		mutex_destroy(&vm->depot[k].lock);
	free(vm->depot);
}

void qcache_stats(struct vmem *vm, struct vmem_stats *st, uint64_t handed[])
{
	struct vmem_thread *th;

	mutex_scope(&threads_lock);
	for (unsigned k = 0; k < vm->n_classes; k++) {
		struct depot *d = &vm->depot[k];
		uint64_t allocs = d->past_allocs, frees = d->past_frees;

		list_for_each_entry (th, &threads, link) {
			if (!th->cache[vm->id])
				continue;
			allocs += peek(&th->cache[vm->id]->klass[k].allocs);
			frees += peek(&th->cache[vm->id]->klass[k].frees);
		}
		handed[k] = allocs - frees;
		st->allocs += allocs;
		st->frees += frees;
		mutex_lock(&d->lock);
		st->depot_visits += d->visits;
		st->depot_contended += d->contended;
		st->meta_bytes += d->bytes;
		if (d->cap > st->magazine_cap)
			st->magazine_cap = d->cap;
		mutex_unlock(&d->lock);
	}
}
