// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The life of objects, and so the concurrency of tmem.
 *
 * 1. The two walks. Puts, gets and flushes come from above: pool, then object, then page. Eviction
 *    comes from below: the least recently used page, then the object it is in. The original held
 *    one spinlock a hash bucket for both, over everything in it. Here each step has its own lock,
 *    and what one step hands to the next is a reference, not a lock:
 *
 *	pool id		an atomic word (references, live or not); no lock
 *	shard lock	the hash chains of a part of one pool's objects
 *	object lock	the object's index, page count and `dead`
 *	LRU lock	the list of one client's ephemeral pages
 *
 *    taken in this order when together, never two of a kind. The instance's lock (clients, members
 *    of pools) comes before them all and is on no path of a page. Compressing, decompressing and
 *    copying, the host's store, load and free, run under none of them. The host allocates records
 *    under them and must not sleep; nothing here does.
 *
 * 2. References. An object is kept by the hash (one reference as long as it is hashed, then its
 *    killer's), and by each operation that works on it. A page is kept by the index and by each
 *    load. A page on the LRU list is in the index of an object that is hashed or not drained yet:
 *    so who holds the LRU lock and sees a page on it may take a reference on its object. An object
 *    holds its pool and an operation holds its pool, so a pool, and with it its id, outlives its
 *    last page.
 *
 * 3. Birth, death. An object is *hashed exactly while it is not dead*: both change together, under
 *    the shard lock and the object lock. Death is final. Whoever kills an object (a flush of it, a
 *    sweep of the pool, or who took its last page) unhashes it, and alone drains its index, without
 *    a lock, since all others, once they have the object's lock, look at `dead` first and leave:
 *
 *	a get or flush	misses. (There was a moment within its run when nothing was there.)
 *	a put		begins again and finds, or makes, another object of the same id.
 *	the evictor	goes on to the next page; the killer drops this one.
 *
 *    So a page is never added to a dead object, and nobody mistakes the new object of an id for the
 *    old one: the evictor compares page addresses under the lock of the very object it came from.
 *
 * 4. Puts store first, without locks, then exchange the page at the index under the object lock. A
 *    get that has found the old page meanwhile may still return it: it runs beside the put. A put
 *    that fails drops what it would have replaced before it returns, so nothing stale remains.
 *
 * 5. Exclusive gets load first and take the page out afterwards, if it is still the one that was
 *    loaded; otherwise they begin again. A failed load so loses no page, and of several that race
 *    one wins. The page cannot have been freed and its address reused, since the load holds it.
 *
 * tests/model/tmem.pml is this file for a model checker: all interleavings of put, failing put,
 * get, flush and eviction on one id; each rule above is also broken on purpose there, and the
 * checker must object.
 */
#include "tmem_private.h"

static u64 mix(u64 x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	return x ^ x >> 32;
}

u64 oid_hash(const struct tmem_oid *oid)
{
	return mix(mix(mix(oid->id[0]) + oid->id[1]) + oid->id[2]);
}

static bool oid_equal(const struct tmem_oid *a, const struct tmem_oid *b)
{
	return a->id[0] == b->id[0] && a->id[1] == b->id[1] && a->id[2] == b->id[2];
}

static struct tmem_shard *shard_of(struct tmem_pool *pool, u64 hash)
{
	return &pool->shards[hash >> 32 & (pool->t->shards - 1)];
}

static struct tmem_object **bucket_of(struct tmem_shard *s, u64 hash)
{
	return &s->buckets[hash & (s->n_buckets - 1)];
}

static struct tmem_object *find_locked(struct tmem_shard *s, u64 hash, const struct tmem_oid *oid)
{
	struct tmem_object *o = *bucket_of(s, hash);

	while (o && (o->hash != hash || !oid_equal(&o->oid, oid)))
		o = o->next;
	if (o)
		core_atomic_add(&o->refs, 1);
	return o;
}

struct tmem_object *object_find(struct tmem_pool *pool, const struct tmem_oid *oid)
{
	u64 hash = oid_hash(oid);
	struct tmem_shard *s = shard_of(pool, hash);
	struct tmem_object *o;

	core_lock(&s->lock);
	o = find_locked(s, hash, oid);
	core_unlock(&s->lock);
	return o;
}

void object_put(struct tmem_object *o)
{
	struct tmem_pool *pool = o->pool;
	struct tmem_client *c = o->client;

	if (core_atomic_sub_release(&o->refs, 1))
		return;
	CORE_BUG_ON(!o->dead || o->pages);
	core_lock_destroy(&o->lock);
	meta_drop(pool->t, c, o, sizeof(*o), o->bytes);
	core_atomic_sub(&pool->objects, 1);
	client_put(c);
	pool_put(pool);
}

/* With two references: the hash's and the caller's. */
static struct tmem_object *object_new(struct tmem_pool *pool, struct tmem_client *c, u64 hash,
				      const struct tmem_oid *oid)
{
	u32 bytes;
	struct tmem_object *o = meta_new(pool->t, c, sizeof(*o), &bytes);

	if (!o)
		return NULL;
	memset(o, 0, sizeof(*o));
	o->oid = *oid;
	o->hash = hash;
	o->pool = pool;
	o->client = c;
	o->bytes = bytes;
	core_atomic_set(&o->refs, 2);
	core_lock_init(&o->lock, TMEM_OBJECT);
	core_atomic_add(&pool->objects, 1);
	client_hold(c);
	pool_hold(pool);
	return o;
}

/* One that was never hashed. */
static void object_discard(struct tmem_object *o)
{
	o->dead = true;
	core_atomic_set(&o->refs, 1);
	object_put(o);
}

static void rehash_locked(struct tmem_shard *s, struct tmem_object **table, u32 n)
{
	struct tmem_object **old = s->buckets;
	u32 old_n = s->n_buckets;

	memset(table, 0, n * sizeof(*table));
	s->buckets = table;
	s->n_buckets = n;
	for (u32 i = 0; i < old_n; i++) {
		struct tmem_object *o, *next;

		for (o = old[i]; o; o = next) {
			struct tmem_object **b = bucket_of(s, o->hash);

			next = o->next;
			o->next = *b;
			*b = o;
		}
	}
}

/* Doubles a table of @n buckets, if memory is there and nobody else has; chains may be long. */
static void shard_grow(struct tmem_pool *pool, struct tmem_shard *s, u32 n)
{
	struct tmem_object **old = NULL, **table;
	u32 bytes, old_bytes = 0;

	table = meta_new(pool->t, pool->owner, 2u * n * sizeof(*table), &bytes);
	if (!table)
		return;
	core_lock(&s->lock);
	if (s->n_buckets == n) {
		old = s->buckets == &s->first ? NULL : s->buckets;
		old_bytes = s->bytes;
		rehash_locked(s, table, 2 * n);
		s->bytes = bytes;
		table = NULL;
	}
	core_unlock(&s->lock);
	meta_drop(pool->t, pool->owner, table, 2u * n * sizeof(*table), bytes);
	meta_drop(pool->t, pool->owner, old, n * sizeof(*old), old_bytes);
}

int object_get(struct tmem_pool *pool, struct tmem_client *c, const struct tmem_oid *oid,
	       struct tmem_object **ret_o)
{
	u64 hash = oid_hash(oid);
	struct tmem_shard *s = shard_of(pool, hash);
	struct tmem_object *o = object_find(pool, oid), *fresh;
	u32 grow = 0;
	bool closed;

	if (o) {
		*ret_o = o;
		return 0;
	}
	fresh = object_new(pool, c, hash, oid);
	if (!fresh)
		return -ENOMEM;
	core_lock(&s->lock);
	closed = s->closed;
	o = closed ? NULL : find_locked(s, hash, oid);
	if (!o && !closed) {
		struct tmem_object **b = bucket_of(s, hash);

		fresh->next = *b;
		*b = fresh;
		if (++s->n_objects > s->n_buckets)
			grow = s->n_buckets;
		o = fresh;
	}
	core_unlock(&s->lock);
	if (o != fresh)
		object_discard(fresh);
	if (closed)
		return -ENOENT;
	if (grow)
		shard_grow(pool, s, grow);
	*ret_o = o;
	return 0;
}

static void unhash_locked(struct tmem_shard *s, struct tmem_object *o)
{
	struct tmem_object **at = bucket_of(s, o->hash);

	core_assert_held(&s->lock);
	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
	s->n_objects--;
}

void object_reap(struct tmem_object *o)
{
	struct tmem_shard *s = shard_of(o->pool, o->hash);
	bool mine;

	core_lock(&s->lock);
	core_lock(&o->lock);
	mine = !o->dead && !o->pages;
	if (mine) {
		o->dead = true;
		unhash_locked(s, o);
	}
	core_unlock(&o->lock);
	core_unlock(&s->lock);
	if (mine)
		object_put(o);
}

static void kill_locked(struct tmem_shard *s, struct tmem_object *o)
{
	core_lock(&o->lock);
	CORE_BUG_ON(o->dead);
	o->dead = true;
	unhash_locked(s, o);
	core_unlock(&o->lock);
}

static void drain_page(struct tmem_object *o, struct tmem_page *p)
{
	lru_del(p);
	o->pages--;
	core_atomic_sub(&o->pool->pages, 1);
	page_put(p);
}

/* Ends an object the caller killed, and with it the hash's reference. */
static void drain(struct tmem_client *c, struct tmem_object *o)
{
	core_atomic_add(&c->counters[TMEM_C_flushed_pages], o->pages);
	index_drain(o, drain_page);
	object_put(o);
}

bool object_flush(struct tmem_client *c, struct tmem_pool *pool, const struct tmem_oid *oid)
{
	u64 hash = oid_hash(oid);
	struct tmem_shard *s = shard_of(pool, hash);
	struct tmem_object *o;

	core_lock(&s->lock);
	o = find_locked(s, hash, oid);
	if (o)
		kill_locked(s, o);
	core_unlock(&s->lock);
	if (!o)
		return false;
	count(c, TMEM_C_flushed_objects);
	drain(c, o);
	object_put(o);
	return true;
}

/* Unhashes all of bucket @i: a chain of dead objects. Less than @i buckets: *ret_end. */
static struct tmem_object *empty_bucket(struct tmem_shard *s, u32 i, bool close, bool *ret_end)
{
	struct tmem_object *chain = NULL, *o;

	core_lock(&s->lock);
	if (close)
		s->closed = true;
	*ret_end = i >= s->n_buckets;
	while (!*ret_end && (o = s->buckets[i])) {
		kill_locked(s, o);
		o->next = chain;
		chain = o;
	}
	core_unlock(&s->lock);
	return chain;
}

/*
 * Bucket by bucket, each once. A table that doubles meanwhile moves what is in bucket i to i or to
 * i plus the old size: never behind the sweep.
 */
void pool_sweep(struct tmem_client *c, struct tmem_pool *pool, bool close)
{
	for (u32 n = 0; n < pool->t->shards; n++) {
		bool end = false;

		for (u32 i = 0; !end; i++) {
			struct tmem_object *o = empty_bucket(&pool->shards[n], i, close, &end);

			while (o) {
				struct tmem_object *next = o->next;

				drain(c, o);
				o = next;
			}
		}
	}
}

bool object_remove_page(struct tmem_object *o, struct tmem_page *p)
{
	u64 index = p->index;
	bool mine, empty;

	core_lock(&o->lock);
	mine = !o->dead && index_lookup(&o->index, index) == p;
	if (mine) {
		index_remove(o, index);
		lru_del(p);
		o->pages--;
		core_atomic_sub(&o->pool->pages, 1);
	}
	empty = mine && !o->pages;
	core_unlock(&o->lock);
	if (!mine)
		return false;
	page_put(p);
	if (empty)
		object_reap(o);
	return true;
}
