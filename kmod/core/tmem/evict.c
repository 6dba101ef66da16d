// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Eviction, from below. Each client has a list of its ephemeral pages, last used first. A put adds
 * to its head; a get only sets a bit in the page, so gets do not meet at the list's lock. Who looks
 * for a page to evict takes from the tail, gives a page whose bit is set a second chance at the
 * head, and after a bounded number of those takes the next as it is: the lock is short.
 *
 * Which client pays is decided by weight: the one with the most bytes for its weight, and first of
 * all those who left (weight 0).
 */
#include "tmem_private.h"

void lru_add(struct tmem_page *p)
{
	struct tmem_client *c = p->client;

	core_lock(&c->lru_lock);
	core_list_add_head(&c->lru, &p->lru);
	core_atomic_add(&c->lru_pages, 1);
	core_unlock(&c->lru_lock);
}

static void del_locked(struct tmem_page *p)
{
	if (core_list_empty(&p->lru))
		return;
	core_list_del(&p->lru);
	core_atomic_sub(&p->client->lru_pages, 1);
}

void lru_del(struct tmem_page *p)
{
	struct tmem_client *c = p->client;

	core_lock(&c->lru_lock);
	del_locked(p);
	core_unlock(&c->lru_lock);
}

/* Was it used since we asked last? */
static bool referenced(struct tmem_page *p)
{
	u64 v = core_atomic_read(&p->refs);

	while (v & PAGE_REFERENCED) {
		if (core_atomic_cas(&p->refs, v, v & ~(u64)PAGE_REFERENCED))
			return true;
		v = core_atomic_read(&p->refs);
	}
	return false;
}

/* The next page of @c to go, off the list, held with its object; NULL: none. */
static struct tmem_page *isolate(struct tmem_client *c)
{
	struct tmem_page *p = NULL;
	u32 chances = SECOND_CHANCES;

	core_lock(&c->lru_lock);
	while (!core_list_empty(&c->lru)) {
		p = core_container_of(c->lru.prev, struct tmem_page, lru);
		if (!chances || !referenced(p))
			break;
		chances--;
		core_list_del(&p->lru);
		core_list_add_head(&c->lru, &p->lru);
	}
	if (p) {
		del_locked(p);
		core_atomic_add(&p->refs, PAGE_REF);
		core_atomic_add(&p->object->refs, 1);
	}
	core_unlock(&c->lru_lock);
	return p;
}

/* Evicts one page of @c; false: it has none. *@freed grows by what became free. */
static bool evict_one(struct tmem_client *c, u64 *freed)
{
	struct tmem_page *p = isolate(c);
	struct tmem_object *o;

	if (!p)
		return false;
	o = p->object;
	if (object_remove_page(o, p)) {
		*freed += p->bytes + p->meta_bytes;
		count(c, TMEM_C_evicted_pages);
	}
	page_put(p);
	object_put(o);
	return true;
}

static u64 weigh(const struct tmem_client *c)
{
	return core_atomic_read(&c->page_bytes) + core_atomic_read(&c->meta_bytes);
}

/* Who is furthest above its weight among those who have something to give; held. */
static struct tmem_client *choose(struct tmem *t)
{
	struct tmem_client *best = NULL;

	core_lock(&t->lock);
	for (struct core_list *n = t->clients.next; n != &t->clients; n = n->next) {
		struct tmem_client *c = core_container_of(n, struct tmem_client, link);
		u64 refs = core_atomic_read(&c->refs);

		if (!refs || !core_atomic_read(&c->lru_pages))
			continue;
		if (best && weigh(c) * core_atomic_read(&best->weight) <=
				    weigh(best) * core_atomic_read(&c->weight))
			continue;
		best = c;
	}
	while (best) { /* it may be on its way out, waiting for our lock */
		u64 refs = core_atomic_read(&best->refs);

		if (!refs)
			best = NULL;
		else if (core_atomic_cas(&best->refs, refs, refs + 1))
			break;
	}
	core_unlock(&t->lock);
	return best;
}

u64 tmem_evict(struct tmem *t, struct tmem_client *only, u64 bytes)
{
	u64 freed = 0;
	bool more = true;

	while (freed < bytes && more) {
		struct tmem_client *c = only ? only : choose(t);

		if (!c)
			break;
		for (u32 i = 0; i < EVICT_BATCH && freed < bytes && more; i++)
			more = evict_one(c, &freed);
		if (only)
			continue;
		more = true; /* others may have some */
		client_put(c);
	}
	return freed;
}
