// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Instances and pools. A pool id is a slot in a table: one atomic word of references and a bit
 * "live". An operation takes a reference if the bit is set; destroying a pool clears the bit, so
 * nobody enters any more, drops all objects, and gives up its own reference; the last reference
 * that goes, an object's or an operation's, frees the pool and then the slot. So no id names a new
 * pool while a page of the old one is left. Slots are taken in turn, to be reused late.
 *
 * Who may use a pool is a bit in the client, looked at with a reference on the pool in hand: the
 * bits of a pool are cleared before its last reference goes, so a set bit means this pool.
 */
#include "tmem_private.h"

static size_t pool_size(const struct tmem *t)
{
	return sizeof(struct tmem_pool) + t->shards * sizeof(struct tmem_shard);
}

static bool is_member(const struct tmem_client *c, u32 id)
{
	return core_atomic_read(&c->member[id / 64]) >> id % 64 & 1;
}

static void member_flip_locked(struct tmem_client *c, u32 id)
{
	struct core_atomic *word = &c->member[id / 64];

	core_assert_held(&c->t->lock);
	core_atomic_set(word, core_atomic_read(word) ^ 1ull << id % 64);
}

struct tmem_pool *pool_get(struct tmem_client *c, u32 id)
{
	struct tmem_slot *slot = c->t->slots + id;
	struct tmem_pool *pool;
	u64 v;

	if (id >= c->t->max_pools)
		return NULL;
	do {
		v = core_atomic_read(&slot->state);
		if (!(v & SLOT_LIVE))
			return NULL;
	} while (!core_atomic_cas(&slot->state, v, v + SLOT_REF));
	pool = slot->pool;
	if (is_member(c, id))
		return pool;
	pool_put(pool);
	return NULL;
}

void pool_hold(struct tmem_pool *pool)
{
	core_atomic_add(&pool->t->slots[pool->id].state, SLOT_REF);
}

static void shards_fini(struct tmem_pool *pool)
{
	for (u32 i = 0; i < pool->t->shards; i++) {
		struct tmem_shard *s = &pool->shards[i];

		CORE_BUG_ON(s->n_objects);
		if (s->buckets != &s->first)
			meta_drop(pool->t, pool->owner, s->buckets,
				  s->n_buckets * sizeof(*s->buckets), s->bytes);
		core_lock_destroy(&s->lock);
	}
}

static void pool_free(struct tmem_pool *pool)
{
	struct tmem_client *owner = pool->owner;

	shards_fini(pool);
	meta_drop(pool->t, owner, pool, pool_size(pool->t), pool->bytes);
	client_put(owner);
}

void pool_put(struct tmem_pool *pool)
{
	struct tmem *t = pool->t;
	struct tmem_slot *slot = &t->slots[pool->id];

	/* 0 is a free slot only with pool NULL, which is written under the lock */
	if (core_atomic_sub_release(&slot->state, SLOT_REF))
		return;
	core_lock(&t->lock);
	slot->pool = NULL;
	core_unlock(&t->lock);
	pool_free(pool);
}

static struct tmem_pool *pool_alloc(struct tmem_client *c, u32 flags, const struct tmem_uuid *uuid)
{
	struct tmem *t = c->t;
	u32 bytes;
	struct tmem_pool *pool = meta_new(t, c, pool_size(t), &bytes);

	if (!pool)
		return NULL;
	memset(pool, 0, pool_size(t));
	pool->t = t;
	pool->flags = flags;
	pool->bytes = bytes;
	if (flags & TMEM_SHARED)
		pool->uuid = *uuid;
	pool->owner = c;
	client_hold(c);
	for (u32 i = 0; i < t->shards; i++) {
		struct tmem_shard *s = &pool->shards[i];

		core_lock_init(&s->lock, TMEM_SHARD);
		s->buckets = &s->first;
		s->n_buckets = 1;
	}
	return pool;
}

/* The live shared pool of that uuid, or NULL. */
static struct tmem_pool *find_shared_locked(struct tmem *t, const struct tmem_uuid *uuid)
{
	for (u32 i = 0; i < t->max_pools; i++) {
		struct tmem_pool *pool = t->slots[i].pool;

		if (pool && core_atomic_read(&t->slots[i].state) & SLOT_LIVE &&
		    pool->flags & TMEM_SHARED && pool->uuid.id[0] == uuid->id[0] &&
		    pool->uuid.id[1] == uuid->id[1])
			return pool;
	}
	return NULL;
}

static int join_locked(struct tmem_client *c, struct tmem_pool *pool, u32 flags)
{
	if (pool->flags != flags)
		return -EEXIST;
	if (is_member(c, pool->id))
		return -EALREADY;
	pool->members++;
	member_flip_locked(c, pool->id);
	return 0;
}

/* Gives @pool the next free id. */
static int install_locked(struct tmem_client *c, struct tmem_pool *pool)
{
	struct tmem *t = c->t;

	for (u32 i = 0; i < t->max_pools; i++) {
		u32 id = (t->next_id + i) % t->max_pools;
		struct tmem_slot *slot = &t->slots[id];

		if (slot->pool)
			continue;
		CORE_BUG_ON(core_atomic_read(&slot->state));
		t->next_id = id + 1;
		pool->id = id;
		pool->members = 1;
		slot->pool = pool;
		member_flip_locked(c, id);
		return core_atomic_cas(&slot->state, 0, SLOT_LIVE | SLOT_REF) ? 0 : -EBUSY;
	}
	return -ENOSPC;
}

int tmem_pool_new(struct tmem_client *c, u32 flags, const struct tmem_uuid *uuid, u32 *ret_pool)
{
	struct tmem *t = c->t;
	struct tmem_pool *fresh, *pool = NULL;
	bool joined;
	int r;

	if (flags & ~(u32)(TMEM_PERSISTENT | TMEM_SHARED) || (flags & TMEM_SHARED && !uuid))
		return -EINVAL;
	fresh = pool_alloc(c, flags, uuid);
	if (!fresh)
		return -ENOMEM;
	core_lock(&t->lock);
	if (flags & TMEM_SHARED)
		pool = find_shared_locked(t, uuid);
	joined = pool;
	if (joined) {
		r = join_locked(c, pool, flags);
	} else {
		pool = fresh;
		r = install_locked(c, pool);
	}
	if (!r)
		*ret_pool = pool->id;
	core_unlock(&t->lock);
	if (joined || r)
		pool_free(fresh);
	return r;
}

/* Nobody enters any more. */
static void retire(struct tmem_slot *slot)
{
	u64 v;

	do
		v = core_atomic_read(&slot->state);
	while (!core_atomic_cas(&slot->state, v, v & ~(u64)SLOT_LIVE));
}

int tmem_pool_destroy(struct tmem_client *c, u32 id)
{
	struct tmem *t = c->t;
	struct tmem_pool *pool;
	bool last;

	if (id >= t->max_pools)
		return -ENOENT;
	core_lock(&t->lock);
	if (!is_member(c, id)) {
		core_unlock(&t->lock);
		return -ENOENT;
	}
	pool = t->slots[id].pool;
	member_flip_locked(c, id);
	last = !--pool->members;
	if (last)
		retire(&t->slots[id]);
	core_unlock(&t->lock);
	if (!last)
		return 0;
	pool_sweep(c, pool, true);
	pool_put(pool);
	return 0;
}

int tmem_pool_flush(struct tmem_client *c, u32 id)
{
	struct tmem_pool *pool = pool_get(c, id);

	if (!pool)
		return -ENOENT;
	pool_sweep(c, pool, false);
	pool_put(pool);
	return 0;
}

int tmem_pool_count(struct tmem_client *c, u32 id, u64 *ret_pages, u64 *ret_objects)
{
	struct tmem_pool *pool = pool_get(c, id);

	if (!pool)
		return -ENOENT;
	*ret_pages = core_atomic_read(&pool->pages);
	*ret_objects = core_atomic_read(&pool->objects);
	pool_put(pool);
	return 0;
}

int tmem_create(const struct tmem_spec *spec, struct tmem **ret_t)
{
	u32 max_pools = spec->max_pools ? spec->max_pools : TMEM_POOLS_DEFAULT;
	u32 shards = spec->shards ? spec->shards : 16, bytes;
	struct tmem *t;

	if (max_pools > TMEM_POOLS_MAX || shards & (shards - 1) || shards > 1024)
		return -EINVAL;
	t = spec->ops->meta_alloc(spec->host, sizeof(*t), &bytes);
	if (!t)
		return -ENOMEM;
	memset(t, 0, sizeof(*t));
	t->ops = spec->ops;
	t->host = spec->host;
	t->max_pools = max_pools;
	t->shards = shards;
	t->bytes = bytes;
	core_atomic_set(&t->limit, spec->limit);
	core_atomic_set(&t->used, bytes);
	core_atomic_set(&t->own, bytes);
	core_list_init(&t->clients);
	t->slots = meta_new(t, NULL, max_pools * sizeof(*t->slots), &t->slots_bytes);
	if (!t->slots) {
		spec->ops->meta_free(spec->host, t, sizeof(*t), bytes);
		return -ENOMEM;
	}
	memset(t->slots, 0, max_pools * sizeof(*t->slots));
	core_lock_init(&t->lock, TMEM_TABLE);
	*ret_t = t;
	return 0;
}

void tmem_destroy(struct tmem *t)
{
	if (!t)
		return;
	CORE_BUG_ON(!core_list_empty(&t->clients));
	core_lock_destroy(&t->lock);
	meta_drop(t, NULL, t->slots, t->max_pools * sizeof(*t->slots), t->slots_bytes);
	CORE_BUG_ON(core_atomic_read(&t->used) != t->bytes);
	t->ops->meta_free(t->host, t, sizeof(*t), t->bytes);
}

u64 tmem_room(const struct tmem *t)
{
	u64 limit = core_atomic_read(&t->limit), used = core_atomic_read(&t->used);

	if (!limit)
		return ~0ull;
	return limit > used ? limit - used : 0;
}

void tmem_set_limit(struct tmem *t, u64 bytes)
{
	core_atomic_set(&t->limit, bytes);
}
