/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of tmem share. The theory stands at the head of object.c. */
#pragma once

#include "tmem.h"

#define NODE_SHIFT     4u
#define NODE_SLOTS     (1u << NODE_SHIFT)
#define INDEX_DEPTH    (64u / NODE_SHIFT)
#define WEIGHT_MAX     65535u
#define EVICT_BATCH    16u
#define SECOND_CHANCES 64u /* pages passed over while one is looked for */

enum tmem_counter {
#define X(name, help) TMEM_C_##name,
	TMEM_COUNTERS(X)
#undef X
		TMEM_N_COUNTERS
};

/* One inner node of an object's index. Under the object's lock. */
struct tmem_node {
	struct tmem_node *parent;
	u32 bytes;	       /* its cost */
	u8 count, slot, level; /* used slots; its slot in the parent; 1: slots are pages */
	void *slots[NODE_SLOTS];
};

/* A radix tree over 64-bit indices, as high as its largest index needs; height 0: root is 0's. */
struct tmem_index {
	void *root;
	u32 height;
};

/* A page that is stored. Constant after it is in an index but for: */
struct tmem_page {
	struct core_list lru; /* under client->lru_lock; unlinked: persistent, or off the index */
	struct tmem_object *object; /* valid while on the LRU list */
	struct tmem_client *client; /* charged; holds a reference */
	u64 index, handle;
	struct core_atomic refs; /* bit 0: used lately; above: the index's, and each load's */
	u32 bytes, meta_bytes;
};

#define PAGE_REFERENCED 1u
#define PAGE_REF	2u

struct tmem_object {
	/* constant */
	struct tmem_oid oid;
	struct tmem_pool *pool;	    /* holds a reference */
	struct tmem_client *client; /* charged for it and its nodes; holds a reference */
	u64 hash;
	u32 bytes;
	struct core_atomic refs;
	/* under the shard's lock while hashed, then its killer's */
	struct tmem_object *next;
	/* under lock; when dead, its killer's alone */
	struct core_lock lock;
	bool dead; /* written under the shard's lock too */
	u64 pages;
	struct tmem_index index;
};

/* A part of a pool's objects. */
struct tmem_shard {
	struct core_lock lock;
	/* under lock */
	bool closed; /* the pool is being destroyed: no more objects */
	u32 n_buckets, n_objects, bytes;
	struct tmem_object **buckets;
	struct tmem_object *first; /* the table of one bucket */
};

struct tmem_pool {
	/* constant */
	struct tmem *t;
	u32 id, flags, bytes;
	struct tmem_uuid uuid;
	struct tmem_client *owner; /* charged for the pool and its tables; holds a reference */
	struct core_atomic pages, objects;
	u32 members; /* under t->lock */
	struct tmem_shard shards[];
};

/* A pool id. state 0: free; bit 0: live; above: references. pool: valid for who holds one. */
struct tmem_slot {
	struct core_atomic state;
	struct tmem_pool *pool; /* written under t->lock */
};

#define SLOT_LIVE 1u
#define SLOT_REF  2u

struct tmem_client {
	/* constant */
	struct tmem *t;
	char name[TMEM_CLIENT_NAME];
	u32 bytes;
	struct core_atomic refs;
	struct core_atomic weight, limit;
	struct core_atomic page_bytes, meta_bytes, pages;
	struct core_atomic counters[TMEM_N_COUNTERS];
	struct core_list link; /* under t->lock */
	struct core_lock lru_lock;
	struct core_list lru;	      /* under lru_lock; head: used last */
	struct core_atomic lru_pages; /* written under lru_lock */
	struct core_atomic member[];  /* a bit a pool id; written under t->lock */
};

struct tmem {
	/* constant */
	const struct tmem_ops *ops;
	void *host;
	u32 max_pools, shards;
	u32 bytes, slots_bytes; /* own records */
	struct core_atomic limit;
	struct core_atomic used; /* bytes of everything */
	struct core_atomic own;	 /* of them no client's */
	struct core_lock lock;
	/* under lock */
	struct core_list clients;
	u32 next_id;
	u64 gone[TMEM_N_COUNTERS]; /* what clients counted that are no more */
	struct tmem_slot *slots;
};

/* account.c */
/** A record charged to @c (NULL: the instance). meta_drop() takes it back; NULL is fine. */
void *meta_new(struct tmem *t, struct tmem_client *c, size_t size, u32 *ret_bytes);
void meta_drop(struct tmem *t, struct tmem_client *c, void *p, size_t size, u32 bytes);
void client_hold(struct tmem_client *c);
/** Without locks held. */
void client_put(struct tmem_client *c);
static inline void count(struct tmem_client *c, enum tmem_counter n)
{
	core_atomic_add(&c->counters[n], 1);
}
/**
 * A descriptor for what the host stores as @handle, charged with it to @c, with one reference.
 * Evicts to keep the limits. -ENOMEM, -ENOSPC: @handle remains the caller's.
 */
int page_new(struct tmem_client *c, u64 index, u64 handle, u32 bytes, struct tmem_page **ret_page);
/** Drops a reference; the last one frees page and descriptor. Without locks held. */
void page_put(struct tmem_page *p);

/* index.c: all under the object's lock, or by the killer of a dead object */
struct tmem_page *index_lookup(const struct tmem_index *ix, u64 index);
/**
 * Puts @page at its index; *ret_old is what was there or NULL. -ENOMEM: nothing changed, and
 * nothing was there.
 */
int index_set(struct tmem_object *o, struct tmem_page *page, struct tmem_page **ret_old);
/** Removes and returns what is at @index, or NULL. */
struct tmem_page *index_remove(struct tmem_object *o, u64 index);
/** Empties the index, handing each page to @fn. */
void index_drain(struct tmem_object *o, void (*fn)(struct tmem_object *o, struct tmem_page *p));

/* object.c */
u64 oid_hash(const struct tmem_oid *oid);
struct tmem_object *object_find(struct tmem_pool *pool, const struct tmem_oid *oid);
/** Found or new, with a reference. -ENOMEM; -ENOENT: the pool is closed. */
int object_get(struct tmem_pool *pool, struct tmem_client *c, const struct tmem_oid *oid,
	       struct tmem_object **ret_o);
/** Drops a reference. Without locks held. */
void object_put(struct tmem_object *o);
/** Unhashes @o if it is alive and empty. The caller has a reference and no locks. */
void object_reap(struct tmem_object *o);
/** Drops an object with its pages; false: there was none. */
bool object_flush(struct tmem_client *c, struct tmem_pool *pool, const struct tmem_oid *oid);
/** Drops all objects; @close: for ever. */
void pool_sweep(struct tmem_client *c, struct tmem_pool *pool, bool close);
/** Takes @p out of the index if it is what @o has there; the index's reference goes with it. */
bool object_remove_page(struct tmem_object *o, struct tmem_page *p);

/* pool.c */
/** The pool of that id if @c is a member, with a reference. */
struct tmem_pool *pool_get(struct tmem_client *c, u32 id);
void pool_hold(struct tmem_pool *pool);
/** Without locks held. */
void pool_put(struct tmem_pool *pool);

/* evict.c */
/** On and off the list of its client; the page's object is locked, or dead and the caller's. */
void lru_add(struct tmem_page *p);
void lru_del(struct tmem_page *p);
