/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transcendent memory: a store of pages that may not be there, reached only by copying. A page is
 * named by (pool, object, index). What is put into an *ephemeral* pool may vanish at any time, so
 * a get may miss; what is put into a *persistent* pool stays until it is flushed. After Dan
 * Magenheimer's tmem; docs/tmem.md says what is different here and why.
 *
 * The core owns names, lifetimes, order of eviction and the accounts. Where records and pages live
 * is the host's matter (struct tmem_ops). Nothing here sleeps, and no host function that touches a
 * page is called with a lock held. All functions may be called by any thread unless said otherwise;
 * errors are negative errno values:
 *	-ENOENT	no such page, pool or client; a miss
 *	-ENOMEM	no memory for a record; -ENOSPC over a limit and nothing to evict
 *	other	as the host's store and load said
 */
#pragma once

#include "core_port.h"

struct tmem;
struct tmem_client;

/** Names an object within a pool: 192 bits, meaning nothing here. */
struct tmem_oid {
	u64 id[3];
};

struct tmem_ops {
	/**
	 * A record of @size bytes, aligned for a pointer, contents undefined, or NULL. Called with
	 * locks held: must not sleep nor call the core. @ret_bytes: what it truly costs.
	 */
	void *(*meta_alloc)(void *host, size_t size, u32 *ret_bytes);
	/** @bytes as meta_alloc() said. */
	void (*meta_free)(void *host, void *p, size_t size, u32 bytes);

	/**
	 * Keeps a copy of @page (the caller's, not looked at here) and says under which handle and
	 * what it truly costs. An error refuses the page: it is handed to who puts.
	 */
	int (*store)(void *host, const void *page, u64 *ret_handle, u32 *ret_bytes);
	/**
	 * Copies a stored page to @page. -EBADMSG: what is stored is damaged; the page is then
	 * dropped and @page's contents are undefined.
	 */
	int (*load)(void *host, u64 handle, void *page);
	/** Not while a load of the same handle runs; must not fail. */
	void (*free)(void *host, u64 handle);
};

struct tmem_spec {
	const struct tmem_ops *ops; /* outlives the instance */
	void *host;		    /* handed to ops */
	u32 max_pools;		    /* at once, <= TMEM_POOLS_MAX; 0: TMEM_POOLS_DEFAULT */
	u32 shards;		    /* of a pool's objects, a power of two; 0: 16 */
	u64 limit;		    /* bytes of all clients together; 0: none */
};

#define TMEM_POOLS_DEFAULT 1024u
#define TMEM_POOLS_MAX	   65536u
#define TMEM_CLIENT_NAME   32u

/** -EINVAL: the spec contradicts itself. -ENOMEM. */
int tmem_create(const struct tmem_spec *spec, struct tmem **ret_t);
/** Drops everything. No other call may run, no client may remain. NULL is fine. */
void tmem_destroy(struct tmem *t);
/** 0: none. Takes effect with the next put; tmem_evict() to enforce it now. */
void tmem_set_limit(struct tmem *t, u64 bytes);
/** Bytes that are left of the limit; without one more than there are. */
u64 tmem_room(const struct tmem *t);

/**
 * Somebody whose memory is accounted. @limit in bytes, metadata included, 0: none. @weight: its
 * share, relative to other clients', of what is left when the instance must evict; >= 1.
 */
int tmem_client_create(struct tmem *t, const char *name, u32 weight, u64 limit,
		       struct tmem_client **ret_c);
/**
 * Leaves all its pools; its pages in shared pools that others still use stay, evicted before
 * anybody else's. None of the client's calls may be running. NULL is fine.
 */
void tmem_client_destroy(struct tmem_client *c);
int tmem_client_set(struct tmem_client *c, u32 weight, u64 limit);

enum tmem_pool_flags {
	TMEM_PERSISTENT = 1, /* otherwise ephemeral */
	TMEM_SHARED = 2,     /* with every client that names the same uuid and kind */
};
struct tmem_uuid {
	u64 id[2];
};

/**
 * Makes a pool or, when a shared one of that uuid exists, joins it. @uuid: ignored for private
 * pools. An id is not used again before the last page of its last pool is gone.
 * -ENOSPC: max_pools exist. -EEXIST: one of that uuid exists of the other kind.
 * -EALREADY: the client is in it.
 */
int tmem_pool_new(struct tmem_client *c, u32 flags, const struct tmem_uuid *uuid, u32 *ret_pool);
/** Leaves a pool; the last to leave destroys it with its pages. */
int tmem_pool_destroy(struct tmem_client *c, u32 pool);
/** Drops every page that was there when it was called, and keeps the pool. */
int tmem_pool_flush(struct tmem_client *c, u32 pool);

/**
 * Keeps a copy of @page, in place of what was there. On any error nothing is there afterwards,
 * neither new nor old, but for -ENOENT (no such pool).
 */
int tmem_put(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
	     const void *page);
/**
 * Copies a page out; it stays. On an error @page is undefined. -EIO: a page of a persistent pool
 * was damaged (in an ephemeral one that is a miss); any other but -ENOENT: it is still there.
 */
int tmem_get(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index, void *page);
/**
 * As tmem_get(), but -EALREADY, with nothing copied nor counted, for a page that was got since it
 * was put, or since eviction last passed it over: it is wanted more than once, and whoever has a
 * better place for it takes it there (tmem_get_and_flush()).
 */
int tmem_get_once(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
		  void *page);
/** As tmem_get(), and the page is gone: of several that race for it, exactly one gets it. */
int tmem_get_and_flush(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index,
		       void *page);
/** Drops a page. -ENOENT: it was not there (which is what the caller wants). */
int tmem_flush_page(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index);
/** Drops an object's pages. -ENOENT: there were none. */
int tmem_flush_object(struct tmem_client *c, u32 pool, const struct tmem_oid *oid);

/**
 * Drops ephemeral pages until @bytes (records included) are free or none is left, and returns
 * what it freed. Takes from the client furthest above its weight, there the least recently used
 * first. @only: from that client, or NULL.
 */
u64 tmem_evict(struct tmem *t, struct tmem_client *only, u64 bytes);

/* One table makes struct tmem_stats and its export. */
#define TMEM_COUNTERS(X)                                                 \
	X(puts, "pages put")                                             \
	X(puts_replaced, "puts that replaced a page")                    \
	X(puts_refused, "puts refused by the host, e.g. incompressible") \
	X(puts_nomem, "puts failed for want of memory for records")      \
	X(puts_limit, "puts refused by a limit")                         \
	X(puts_retried, "puts that met an object on its way out")        \
	X(gets, "gets, exclusive ones included")                         \
	X(hits, "gets that found their page")                            \
	X(exclusive, "pages taken by an exclusive get")                  \
	X(flushed_pages, "pages dropped by flushes")                     \
	X(flushed_objects, "objects dropped by a flush of theirs")       \
	X(evicted_pages, "pages dropped for memory")                     \
	X(corrupt, "stored pages found damaged and dropped")

/* Counters and charges of a client, or of all. Charges are exact when nobody runs. */
struct tmem_stats {
#define X(name, help) u64 name;
	TMEM_COUNTERS(X)
#undef X
	u64 pages, ephemeral_pages;
	u64 page_bytes; /* of stored pages */
	u64 meta_bytes; /* of records: pools, objects, index nodes, page descriptors */
};
void tmem_client_stats(struct tmem_client *c, struct tmem_stats *ret_stats);
/** All clients, those that left included; meta_bytes has the instance's own records too. */
void tmem_stats(struct tmem *t, struct tmem_stats *ret_stats);
const char *tmem_client_name(const struct tmem_client *c);
/** Pages and objects of a pool the client is in. */
int tmem_pool_count(struct tmem_client *c, u32 pool, u64 *ret_pages, u64 *ret_objects);
