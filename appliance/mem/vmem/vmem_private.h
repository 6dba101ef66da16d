/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of vmem share. The theory stands at the head of arena.c. */
#pragma once

#include <stdatomic.h>

#include "base/list.h"
#include "base/lock.h"
#include "mem/vmem/vmem.h"

#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Tags that one operation may use: an imported span (2), a carve in the middle (2), a slab (1). */
#define TAGS_NEEDED 6u
#define TAG_BATCH   32u
#define CLASS_LISTS 61u

enum tag_type { TAG_SPARE, TAG_ANCHOR, TAG_SPAN, TAG_IMPORTED, TAG_FREE, TAG_ALLOC, TAG_SLAB };

/* A tag's number in its store; 0 is none. */
typedef uint32_t tag_id;

/* A boundary tag: one segment. Under the lock of the arena that has it (TAG_SPARE: of the store).
 */
struct tag {
	uint64_t start;
	uint64_t size : 61, type : 3;
	tag_id prev, next; /* circular list of all segments of the arena; a span precedes its own */
	union {
		struct {
			tag_id prev, next; /* list of its power of two; 0 ends it */
		} free;
		struct {
			tag_id hash_next;
			tag_id slab; /* TAG_SLAB: its struct slab */
		} used;
		tag_id spare_next;
	};
};

/* A slab, in the place of a tag: one allocation cut into equal objects of a quantum cache. */
struct slab {
	uint64_t start;
	uint64_t free_map; /* bit i: object i is free */
	tag_id prev, next; /* slabs of the class with free objects; 0 ends it */
	tag_id tag;
	uint8_t klass, n_free;
};

_Static_assert(sizeof(struct tag) == 32 && sizeof(struct slab) <= 32, "two tags a cache line");

/* Linear hashing of allocated segments by start; see tag_hash.c. */
#define HASH_FIRST    256u
#define HASH_SEGMENTS 22u
struct tag_hash {
	uint32_t n_buckets; /* in use */
	uint32_t round;	    /* HASH_FIRST << k, <= n_buckets < 2 * round */
	uint64_t n_tags;
	tag_id *segment[HASH_SEGMENTS]; /* [0]: first; [k]: HASH_FIRST << (k - 1) buckets */
	tag_id first[HASH_FIRST];
};

struct magazine {
	struct magazine *next;
	uint32_t cap, rounds;
	uint64_t round[];
};

struct depot {
	struct mutex lock;
	/* under lock */
	struct magazine *full, *empty;
	uint32_t n_empty;
	uint32_t cap; /* of new magazines: grows with contention */
	uint32_t window_visits, window_contended;
	uint64_t visits, contended;
	uint64_t bytes; /* of all magazines of this class, wherever they are */
	_Atomic uint64_t past_allocs, past_frees; /* of threads that ended or had no magazines */
} __attribute__((aligned(64)));

/* One thread's part of one class. Written by its owner; the counts are read by others. */
struct thread_class {
	struct magazine *loaded, *prev;
	_Atomic uint64_t allocs, frees;
};
struct thread_cache {
	struct vmem *vm;
	struct thread_cache *next; /* of those taken from their threads */
	struct thread_class klass[VMEM_QCACHE_CLASSES];
} __attribute__((aligned(64)));

struct vmem {
	/* constant */
	char name[32];
	struct vmem_tag_store *store;
	uint64_t quantum;
	unsigned quantum_shift;
	vmem_import_fn *import;
	vmem_release_fn *release;
	void *source;
	uint64_t import_min;
	uint64_t qcache_max;
	unsigned n_classes, id;
	uint64_t slab_size;
	struct tag *tags; /* the store's, by number */
	bool is_meta;	  /* the store's own arena: takes its tags only from what it has at hand */
	struct depot *depot;

	struct mutex lock;
	/* under lock */
	tag_id anchor, spare;
	uint32_t n_spare, n_tags; /* n_tags: in use, spare ones not counted */
	uint64_t free_map;	  /* bit i: free_list[i] is not empty */
	tag_id free_list[CLASS_LISTS];
	tag_id rotor;	     /* where the next fit starts: this tag, */
	uint64_t rotor_addr; /* at this integer if it lies inside */
	struct tag_hash hash;
	tag_id partial[VMEM_QCACHE_CLASSES];
	uint32_t empty_slabs[VMEM_QCACHE_CLASSES];
	uint64_t objects_out[VMEM_QCACHE_CLASSES]; /* left the slab layer */
	uint64_t slab_unused;			   /* bytes of slabs, objects out subtracted */
	uint64_t total, allocated;
	struct vmem_stats count; /* the counters only */
};

static inline struct tag *tag_at(const struct vmem *vm, tag_id id)
{
	return &vm->tags[id];
}
static inline struct slab *slab_at(const struct vmem *vm, tag_id id)
{
	return (struct slab *)&vm->tags[id];
}
static inline unsigned log2_floor(uint64_t n)
{
	return 63u - (unsigned)__builtin_clzll(n);
}
static inline unsigned log2_ceil(uint64_t n)
{
	return n <= 1 ? 0 : 64u - (unsigned)__builtin_clzll(n - 1);
}

/* Ends the process: a caller freed what it does not have. */
_Noreturn void vmem_panic(const struct vmem *vm, const char *what, uint64_t addr, uint64_t size);

/* --- tag_store.c --- */

/* Makes a list of @n tags. -ENOMEM: none. Takes no lock of an arena. */
int tag_store_take(struct vmem_tag_store *s, unsigned n, tag_id *ret_list);
/* Takes back a list of tags; @last is its end. */
void tag_store_give(struct vmem_tag_store *s, tag_id list, tag_id last);
struct tag *tag_store_base(struct vmem_tag_store *s);
/* Zeroed memory for a table, whole pages; NULL when there is none. */
void *tag_store_table_alloc(struct vmem_tag_store *s, size_t size);
void tag_store_table_free(struct vmem_tag_store *s, void *p, size_t size);

/* --- tag_hash.c; all under the arena's lock --- */

void tag_hash_init(struct tag_hash *h);
void tag_hash_insert(struct vmem *vm, tag_id id);
/* Finds the tag that starts at @start, or 0. */
tag_id tag_hash_find(const struct vmem *vm, uint64_t start);
/* Finds and removes. */
tag_id tag_hash_remove(struct vmem *vm, uint64_t start);
/* Index of the segment that is needed to grow on, or 0. */
unsigned tag_hash_wants(const struct tag_hash *h);
size_t tag_hash_segment_bytes(unsigned k);
/* Takes out the highest segment that is not used nor soon to be, or returns NULL. */
void *tag_hash_shed(struct tag_hash *h, unsigned *ret_k);
/* For a batch of searches: bring the bucket, then its first tag, into the processor's cache. */
void tag_hash_prefetch_bucket(const struct vmem *vm, uint64_t start);
void tag_hash_prefetch_tag(const struct vmem *vm, uint64_t start);

/* --- segment.c; all under the arena's lock --- */

/* Has all of the segment list's ends tied: an arena of no span. */
void segment_init(struct vmem *vm, tag_id anchor);
tag_id segment_spare_pop(struct vmem *vm);
void segment_spare_push(struct vmem *vm, tag_id id);
/* Makes a span with one free segment, whose tag is returned. Uses two spare tags. */
tag_id segment_add_span(struct vmem *vm, enum tag_type type, uint64_t addr, uint64_t size);
/*
 * Chooses a free segment, looking at no more than @budget of them, and the place in it. 0: none.
 */
tag_id segment_find(struct vmem *vm, const struct vmem_request *req, unsigned flags,
		    uint64_t budget, uint64_t *ret_start);
/* Whether @req fits into the free segment @id, at or after @from; where. */
bool segment_fit(const struct vmem *vm, tag_id id, const struct vmem_request *req, uint64_t from,
		 uint64_t *ret_start);
/* Cuts [@start, @start + @size) out of the free segment @id. Uses up to two spare tags. */
tag_id segment_carve(struct vmem *vm, tag_id id, uint64_t start, uint64_t size);
/* An imported span that has become free, on its way back to the source. */
struct span_back {
	uint64_t addr, size; /* size 0: none */
};
/* Frees the allocated segment @id, already out of the hash. May take its span out (*@ret_back). */
void segment_free(struct vmem *vm, tag_id id, struct span_back *ret_back);

/* --- arena.c --- */

/* Locks @vm with TAGS_NEEDED tags at hand, or returns -ENOMEM unlocked. */
int arena_lock(struct vmem *vm);
/* Unlocks and hands what is too much at hand back to the store. */
void arena_unlock(struct vmem *vm);
/* Takes a segment. 0: @vm is locked, *@ret_tag is allocated and hashed; else it is unlocked. */
int arena_take(struct vmem *vm, const struct vmem_request *req, unsigned flags, tag_id *ret_tag);
/* Gives spans back to the source; unlocked. */
void arena_release(struct vmem *vm, const struct span_back *back, unsigned n);

/* --- slab.c --- */

/* Fills @addr with up to @n objects of @klass; returns how many. 0 is -ENOMEM. Unlocked. */
unsigned slab_alloc(struct vmem *vm, unsigned klass, uint64_t *addr, unsigned n);
/* Frees @n objects. Unlocked. Never allocates. */
void slab_free(struct vmem *vm, unsigned klass, const uint64_t *addr, unsigned n);
/* Frees the empty slabs that are kept. Unlocked. */
void slab_reap(struct vmem *vm);

/* --- qcache.c --- */

int qcache_init(struct vmem *vm);
/* Empties all magazines of all threads and the depots, and forgets them. */
void qcache_fini(struct vmem *vm);
void qcache_reap(struct vmem *vm);
/* A cached size, whatever it takes. */
int qcache_alloc(struct vmem *vm, uint64_t size, uint64_t *ret_addr);
void qcache_free(struct vmem *vm, uint64_t addr, uint64_t size);
/* Adds the quantum caches' counts. */
void qcache_stats(struct vmem *vm, struct vmem_stats *st, uint64_t handed[]);

/* A thread's places, one an arena with quantum caches. */
struct vmem_thread {
	struct thread_cache
		*cache[VMEM_CACHED_ARENAS]; /* owner's; removed under the threads' lock */
	struct list_node link;		    /* under the threads' lock */
};
extern _Thread_local struct vmem_thread *vmem_self;

/* The calling thread's part of the class of @size, or NULL when it has none yet. */
static inline struct thread_class *qcache_class(const struct vmem *vm, uint64_t size)
{
	struct vmem_thread *th = vmem_self;
	struct thread_cache *tc = LIKELY(th) ? th->cache[vm->id] : NULL;

	return LIKELY(tc) ? &tc->klass[(size - 1) >> vm->quantum_shift] : NULL;
}

static inline void count_up(_Atomic uint64_t *v)
{
	atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

/** Where the calling thread keeps addresses of @size; NULL: nowhere. */
static inline struct thread_class *vmem_class(const struct vmem *vm, uint64_t size)
{
	return UNLIKELY(size - 1 >= vm->qcache_max) ? NULL : qcache_class(vm, size);
}

/*
 * What vmem_alloc() and vmem_free() begin with, inline: the loaded magazine or nothing. True: done.
 */
static inline bool vmem_try_alloc(const struct vmem *vm, uint64_t size, uint64_t *ret_addr)
{
	struct thread_class *c = vmem_class(vm, size);
	struct magazine *m;

	if (UNLIKELY(!c))
		return false;
	m = c->loaded;
	if (UNLIKELY(!m->rounds))
		return false;
	*ret_addr = m->round[--m->rounds];
	count_up(&c->allocs);
	return true;
}

static inline bool vmem_try_free(const struct vmem *vm, uint64_t addr, uint64_t size)
{
	struct thread_class *c = vmem_class(vm, size);
	struct magazine *m;

	if (UNLIKELY(!c))
		return false;
	m = c->loaded;
	if (UNLIKELY(m->rounds == m->cap))
		return false;
	m->round[m->rounds++] = addr;
	count_up(&c->frees);
	return true;
}
