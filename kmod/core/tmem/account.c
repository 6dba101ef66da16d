// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who pays. Every byte the host gave, for a page or for a record, is charged at what the host says
 * it costs: to one client, or to the instance for its own tables and the clients' own records. A
 * page is charged to who put it, an object and its index nodes to who made the object, a pool and
 * its hash tables to who made the pool. Each of these holds a reference on the client it is charged
 * to, so a client that left is accounted for until its last byte is gone.
 *
 * Limits are looked at before a put is inserted; the object and index nodes it may need then are
 * charged but never refused, so a limit may be passed by those of the puts in flight, and the next
 * put settles it.
 */
#include "tmem_private.h"

void *meta_new(struct tmem *t, struct tmem_client *c, size_t size, u32 *ret_bytes)
{
	void *p = t->ops->meta_alloc(t->host, size, ret_bytes);

	if (!p)
		return NULL;
	core_atomic_add(&t->used, *ret_bytes);
	core_atomic_add(c ? &c->meta_bytes : &t->own, *ret_bytes);
	return p;
}

void meta_drop(struct tmem *t, struct tmem_client *c, void *p, size_t size, u32 bytes)
{
	if (!p)
		return;
	t->ops->meta_free(t->host, p, size, bytes);
	core_atomic_sub(c ? &c->meta_bytes : &t->own, bytes);
	core_atomic_sub(&t->used, bytes);
}

void client_hold(struct tmem_client *c)
{
	core_atomic_add(&c->refs, 1);
}

static size_t client_size(const struct tmem *t)
{
	return sizeof(struct tmem_client) + (t->max_pools + 63) / 64 * sizeof(struct core_atomic);
}

void client_put(struct tmem_client *c)
{
	struct tmem *t = c->t;

	if (core_atomic_sub_release(&c->refs, 1))
		return;
	CORE_BUG_ON(core_atomic_read(&c->meta_bytes) || core_atomic_read(&c->page_bytes));
	core_lock(&t->lock);
	core_list_del(&c->link);
	for (u32 i = 0; i < TMEM_N_COUNTERS; i++)
		t->gone[i] += core_atomic_read(&c->counters[i]);
	core_unlock(&t->lock);
	core_lock_destroy(&c->lru_lock);
	meta_drop(t, NULL, c, client_size(t), c->bytes);
}

int tmem_client_set(struct tmem_client *c, u32 weight, u64 limit)
{
	if (!weight || weight > WEIGHT_MAX)
		return -EINVAL;
	core_atomic_set(&c->weight, weight);
	core_atomic_set(&c->limit, limit);
	return 0;
}

int tmem_client_create(struct tmem *t, const char *name, u32 weight, u64 limit,
		       struct tmem_client **ret_c)
{
	struct tmem_client *c;
	u32 bytes;

	if (!weight || weight > WEIGHT_MAX)
		return -EINVAL;
	c = meta_new(t, NULL, client_size(t), &bytes);
	if (!c)
		return -ENOMEM;
	memset(c, 0, client_size(t));
	c->t = t;
	c->bytes = bytes;
	for (u32 i = 0; i + 1 < TMEM_CLIENT_NAME && name[i]; i++)
		c->name[i] = name[i];
	core_atomic_set(&c->refs, 1);
	tmem_client_set(c, weight, limit);
	core_lock_init(&c->lru_lock, TMEM_LRU);
	core_list_init(&c->lru);
	core_lock(&t->lock);
	core_list_add_head(&t->clients, &c->link);
	core_unlock(&t->lock);
	*ret_c = c;
	return 0;
}

void tmem_client_destroy(struct tmem_client *c)
{
	if (!c)
		return;
	for (u32 i = 0; i < c->t->max_pools; i++) {
		if (core_atomic_read(&c->member[i / 64]) >> i % 64 & 1)
			tmem_pool_destroy(c, i);
	}
	core_atomic_set(&c->weight, 0);
	client_put(c);
}

static u64 client_used(const struct tmem_client *c)
{
	return core_atomic_read(&c->page_bytes) + core_atomic_read(&c->meta_bytes);
}

static bool over(u64 used, u64 limit, u64 *ret_by)
{
	if (!limit || used <= limit)
		return false;
	*ret_by = used - limit;
	return true;
}

/* True: both limits hold, @c's own and everybody's, after eviction if need be. */
static bool settle(struct tmem_client *c)
{
	struct tmem *t = c->t;
	u64 by;

	if (over(client_used(c), core_atomic_read(&c->limit), &by))
		tmem_evict(t, c, by);
	if (over(core_atomic_read(&t->used), core_atomic_read(&t->limit), &by))
		tmem_evict(t, NULL, by);
	return !over(client_used(c), core_atomic_read(&c->limit), &by) &&
	       !over(core_atomic_read(&t->used), core_atomic_read(&t->limit), &by);
}

static void page_charge(struct tmem_client *c, u32 bytes)
{
	core_atomic_add(&c->t->used, bytes);
	core_atomic_add(&c->page_bytes, bytes);
	core_atomic_add(&c->pages, 1);
}

/* The descriptor, and the charge for the page. */
static void page_free(struct tmem_page *p)
{
	struct tmem_client *c = p->client;

	core_atomic_sub(&c->pages, 1);
	core_atomic_sub(&c->page_bytes, p->bytes);
	core_atomic_sub(&c->t->used, p->bytes);
	meta_drop(c->t, c, p, sizeof(*p), p->meta_bytes);
	client_put(c);
}

int page_new(struct tmem_client *c, u64 index, u64 handle, u32 bytes, struct tmem_page **ret_page)
{
	u32 meta_bytes;
	struct tmem_page *p = meta_new(c->t, c, sizeof(*p), &meta_bytes);

	if (!p)
		return -ENOMEM;
	memset(p, 0, sizeof(*p));
	core_list_init(&p->lru);
	client_hold(c);
	p->client = c;
	p->index = index;
	p->handle = handle;
	p->bytes = bytes;
	p->meta_bytes = meta_bytes;
	core_atomic_set(&p->refs, PAGE_REF);
	page_charge(c, bytes);
	if (!settle(c)) {
		page_free(p);
		return -ENOSPC;
	}
	*ret_page = p;
	return 0;
}

void page_put(struct tmem_page *p)
{
	struct tmem *t = p->client->t;

	if (core_atomic_sub_release(&p->refs, PAGE_REF) >= PAGE_REF)
		return;
	t->ops->free(t->host, p->handle);
	page_free(p);
}

static void add_client(struct tmem_client *c, struct tmem_stats *s)
{
#define X(name, help) s->name += core_atomic_read(&c->counters[TMEM_C_##name]);
	TMEM_COUNTERS(X)
#undef X
	s->pages += core_atomic_read(&c->pages);
	s->ephemeral_pages += core_atomic_read(&c->lru_pages);
	s->page_bytes += core_atomic_read(&c->page_bytes);
	s->meta_bytes += core_atomic_read(&c->meta_bytes);
}

void tmem_client_stats(struct tmem_client *c, struct tmem_stats *ret_stats)
{
	memset(ret_stats, 0, sizeof(*ret_stats));
	add_client(c, ret_stats);
}

void tmem_stats(struct tmem *t, struct tmem_stats *ret_stats)
{
	memset(ret_stats, 0, sizeof(*ret_stats));
	core_lock(&t->lock);
#define X(name, help) ret_stats->name = t->gone[TMEM_C_##name];
	TMEM_COUNTERS(X)
#undef X
	for (struct core_list *n = t->clients.next; n != &t->clients; n = n->next)
		add_client(core_container_of(n, struct tmem_client, link), ret_stats);
	core_unlock(&t->lock);
	ret_stats->meta_bytes += core_atomic_read(&t->own);
}

const char *tmem_client_name(const struct tmem_client *c)
{
	return c->name;
}
