// SPDX-License-Identifier: GPL-2.0-or-later
/* The calls on pages, from above. The theory stands at the head of object.c. */
#include "tmem_private.h"

/* Drops what is there for a put that failed. */
static bool forget(struct tmem_pool *pool, const struct tmem_oid *oid, u64 index)
{
	struct tmem_object *o = object_find(pool, oid);
	struct tmem_page *p = NULL;
	bool empty;

	if (!o)
		return false;
	core_lock(&o->lock);
	if (!o->dead)
		p = index_remove(o, index);
	if (p) {
		lru_del(p);
		o->pages--;
		core_atomic_sub(&pool->pages, 1);
	}
	empty = p && !o->pages;
	core_unlock(&o->lock);
	if (p)
		page_put(p);
	if (empty)
		object_reap(o);
	object_put(o);
	return p;
}

/* Puts @p into @o. -EAGAIN: the object is dead. */
static int insert(struct tmem_object *o, struct tmem_page *p, struct tmem_page **ret_old)
{
	struct tmem_pool *pool = o->pool;
	bool empty;
	int r;

	core_lock(&o->lock);
	r = o->dead ? -EAGAIN : index_set(o, p, ret_old);
	if (!r) {
		p->object = o;
		if (!(pool->flags & TMEM_PERSISTENT))
			lru_add(p);
		if (*ret_old) {
			lru_del(*ret_old);
		} else {
			o->pages++;
			core_atomic_add(&pool->pages, 1);
		}
	}
	empty = r == -ENOMEM && !o->pages;
	core_unlock(&o->lock);
	if (empty)
		object_reap(o);
	return r;
}

static int put_page(struct tmem_pool *pool, const struct tmem_oid *oid, struct tmem_page *p)
{
	struct tmem_client *c = p->client;
	struct tmem_page *old = NULL;
	struct tmem_object *o;
	int r;

	for (;;) {
		r = object_get(pool, c, oid, &o);
		if (r)
			return r;
		r = insert(o, p, &old);
		object_put(o);
		if (r != -EAGAIN)
			break;
		count(c, TMEM_C_puts_retried);
	}
	if (!r && old) {
		count(c, TMEM_C_puts_replaced);
		page_put(old);
	}
	return r;
}

/* Stores and describes; *ret_why says which counter a failure is for. */
static int make_page(struct tmem_client *c, u64 index, const void *data, struct tmem_page **ret_p,
		     enum tmem_counter *ret_why)
{
	struct tmem *t = c->t;
	u64 handle;
	u32 bytes;
	int r = t->ops->store(t->host, data, &handle, &bytes);

	*ret_why = TMEM_C_puts_refused;
	if (r)
		return r;
	r = page_new(c, index, handle, bytes, ret_p);
	if (r)
		t->ops->free(t->host, handle);
	*ret_why = r == -ENOSPC ? TMEM_C_puts_limit : TMEM_C_puts_nomem;
	return r;
}

int tmem_put(struct tmem_client *c, u32 id, const struct tmem_oid *oid, u64 index, const void *data)
{
	struct tmem_pool *pool = pool_get(c, id);
	enum tmem_counter why;
	struct tmem_page *p;
	int r;

	if (!pool)
		return -ENOENT;
	r = make_page(c, index, data, &p, &why);
	if (!r) {
		r = put_page(pool, oid, p);
		if (r)
			page_put(p);
	}
	if (!r) {
		count(c, TMEM_C_puts);
	} else {
		if (r != -ENOENT) /* the pool ended meanwhile */
			count(c, why);
		forget(pool, oid, index);
	}
	pool_put(pool);
	return r;
}

enum get_kind {
	GET,
	GET_ONCE,
	GET_EXCLUSIVE,
};

/* The page with a reference, and its object with one; or NULL. *@ret_again: it was used lately. */
static struct tmem_page *page_get(struct tmem_pool *pool, const struct tmem_oid *oid, u64 index,
				  struct tmem_object **ret_o, bool *ret_again)
{
	struct tmem_object *o = object_find(pool, oid);
	struct tmem_page *p = NULL;
	u64 v;

	if (!o)
		return NULL;
	core_lock(&o->lock);
	if (!o->dead)
		p = index_lookup(&o->index, index);
	if (p) {
		do
			v = core_atomic_read(&p->refs);
		while (!core_atomic_cas(&p->refs, v, (v + PAGE_REF) | PAGE_REFERENCED));
		*ret_again = v & PAGE_REFERENCED;
	}
	core_unlock(&o->lock);
	if (p)
		*ret_o = o;
	else
		object_put(o);
	return p;
}

/*
 * One attempt. -EAGAIN: an exclusive get found the page taken or replaced when it had loaded it.
 * Damaged pages go; what else fails leaves the page where it is.
 */
static int try_get(struct tmem_client *c, struct tmem_pool *pool, const struct tmem_oid *oid,
		   u64 index, void *data, enum get_kind kind)
{
	struct tmem *t = c->t;
	struct tmem_object *o;
	bool again;
	struct tmem_page *p = page_get(pool, oid, index, &o, &again);
	int r;

	if (!p)
		return -ENOENT;
	if (kind == GET_ONCE && again)
		r = -EALREADY;
	else
		r = t->ops->load(t->host, p->handle, data);
	if (r == -EBADMSG) {
		object_remove_page(o, p);
		count(c, TMEM_C_corrupt);
		r = pool->flags & TMEM_PERSISTENT ? -EIO : -ENOENT;
	} else if (!r && kind == GET_EXCLUSIVE && !object_remove_page(o, p)) {
		r = -EAGAIN;
	}
	page_put(p);
	object_put(o);
	return r;
}

static int get(struct tmem_client *c, u32 id, const struct tmem_oid *oid, u64 index, void *data,
	       enum get_kind kind)
{
	struct tmem_pool *pool = pool_get(c, id);
	int r;

	if (!pool)
		return -ENOENT;
	do
		r = try_get(c, pool, oid, index, data, kind);
	while (r == -EAGAIN);
	if (r != -EALREADY)
		count(c, TMEM_C_gets);
	if (!r)
		count(c, TMEM_C_hits);
	if (!r && kind == GET_EXCLUSIVE)
		count(c, TMEM_C_exclusive);
	pool_put(pool);
	return r;
}

int tmem_get(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index, void *page)
{
	return get(c, pool, oid, index, page, GET);
}

int tmem_get_once(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
		  void *page)
{
	return get(c, pool, oid, index, page, GET_ONCE);
}

int tmem_get_and_flush(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
		       void *page)
{
	return get(c, pool, oid, index, page, GET_EXCLUSIVE);
}

int tmem_flush_page(struct tmem_client *c, u32 id, const struct tmem_oid *oid, u64 index)
{
	struct tmem_pool *pool = pool_get(c, id);
	bool found;

	if (!pool)
		return -ENOENT;
	found = forget(pool, oid, index);
	if (found)
		count(c, TMEM_C_flushed_pages);
	pool_put(pool);
	return found ? 0 : -ENOENT;
}

int tmem_flush_object(struct tmem_client *c, u32 id, const struct tmem_oid *oid)
{
	struct tmem_pool *pool = pool_get(c, id);
	bool found;

	if (!pool)
		return -ENOENT;
	found = object_flush(c, pool, oid);
	pool_put(pool);
	return found ? 0 : -ENOENT;
}
