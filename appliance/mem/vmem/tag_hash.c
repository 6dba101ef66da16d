/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of allocated segments, by start: linear hashing (Litwin, VLDB 1980).
 *
 * A table of n buckets, round <= n < 2 * round, puts hash h into bucket h % (2 * round) if that is
 * below n, else into h % round. An insert that makes the load exceed one splits bucket n - round
 * into itself and the new bucket n; a removal that makes it fall below a quarter undoes the last
 * splits, four at most. So the table follows the load bucket by bucket, and no operation ever waits
 * for a rehash.
 *
 * Buckets lie in segments, each as large as all before it, which never move. A segment is allocated
 * before the arena is locked (tag_hash_wants); when there is no memory for it, splits wait and
 * chains grow. The first segment is in the arena itself.
 */
#include <assert.h>

#include "mem/vmem/vmem_private.h"

static uint32_t hash(const struct vmem *vm, uint64_t start)
{
	/* Fibonacci hashing: strides of any power of two spread over the high half. */
	return (uint32_t)(((start >> vm->quantum_shift) * 0x9e3779b97f4a7c15ull) >> 32);
}

static tag_id *bucket_at(const struct tag_hash *h, uint32_t i)
{
	unsigned k;

	if (i < HASH_FIRST)
		return (tag_id *)&h->first[i];
	k = log2_floor(i / HASH_FIRST) + 1;
	return &h->segment[k][i - (HASH_FIRST << (k - 1))];
}

static tag_id *bucket_of(const struct vmem *vm, uint64_t start)
{
	const struct tag_hash *h = &vm->hash;
	uint32_t i = hash(vm, start) & (2 * h->round - 1);

	return bucket_at(h, i < h->n_buckets ? i : i & (h->round - 1));
}

void tag_hash_init(struct tag_hash *h)
{
	*h = (struct tag_hash){.n_buckets = HASH_FIRST, .round = HASH_FIRST};
}

size_t tag_hash_segment_bytes(unsigned k)
{
	return ((size_t)HASH_FIRST << (k - 1)) * sizeof(tag_id);
}

/* The segment that holds bucket @i >= HASH_FIRST. */
static unsigned segment_of(uint32_t i)
{
	return log2_floor(i / HASH_FIRST) + 1;
}

unsigned tag_hash_wants(const struct tag_hash *h)
{
	unsigned k = segment_of(h->n_buckets);

	if (h->n_tags < h->n_buckets || k >= HASH_SEGMENTS || h->segment[k])
		return 0;
	return k;
}

void *tag_hash_shed(struct tag_hash *h, unsigned *ret_k)
{
	for (unsigned k = HASH_SEGMENTS - 1; k > segment_of(h->n_buckets); k--) {
		void *p = h->segment[k];

		if (!p)
			continue;
		h->segment[k] = NULL;
		*ret_k = k;
		return p;
	}
	return NULL;
}

static void split(struct vmem *vm)
{
	struct tag_hash *h = &vm->hash;
	uint32_t n = h->n_buckets;
	tag_id *from, *to, id;
	unsigned k = segment_of(n);

	if (k >= HASH_SEGMENTS || !h->segment[k])
		return;
	from = bucket_at(h, n - h->round);
	to = bucket_at(h, n);
	id = *from;
	*from = *to = 0;
	while (id) {
		struct tag *t = tag_at(vm, id);
		tag_id next = t->used.hash_next;
		tag_id *b = (hash(vm, t->start) & (2 * h->round - 1)) == n ? to : from;

		t->used.hash_next = *b;
		*b = id;
		id = next;
	}
	if (++h->n_buckets == 2 * h->round)
		h->round *= 2;
}

static void unsplit(struct vmem *vm)
{
	struct tag_hash *h = &vm->hash;
	tag_id *from, *to;

	if (h->n_buckets == h->round)
		h->round /= 2;
	h->n_buckets--;
	from = bucket_at(h, h->n_buckets);
	to = bucket_at(h, h->n_buckets - h->round);
	while (*to)
		to = &tag_at(vm, *to)->used.hash_next;
	*to = *from;
	*from = 0;
}

void tag_hash_insert(struct vmem *vm, tag_id id)
{
	struct tag *t = tag_at(vm, id);
	tag_id *b;

	if (++vm->hash.n_tags > vm->hash.n_buckets)
		split(vm);
	b = bucket_of(vm, t->start);
	t->used.hash_next = *b;
	*b = id;
}

tag_id tag_hash_find(const struct vmem *vm, uint64_t start)
{
	tag_id id = *bucket_of(vm, start);

	while (id && tag_at(vm, id)->start != start)
		id = tag_at(vm, id)->used.hash_next;
	return id;
}

tag_id tag_hash_remove(struct vmem *vm, uint64_t start)
{
	struct tag_hash *h = &vm->hash;
	tag_id *b = bucket_of(vm, start), id;

	while (*b && tag_at(vm, *b)->start != start)
		b = &tag_at(vm, *b)->used.hash_next;
	id = *b;
	if (!id)
		return 0;
	*b = tag_at(vm, id)->used.hash_next;
	h->n_tags--;
	for (int i = 0; i < 4 && h->n_buckets > HASH_FIRST && h->n_tags < h->n_buckets / 4; i++)
		unsplit(vm);
	return id;
}

void tag_hash_prefetch_bucket(const struct vmem *vm, uint64_t start)
{
	__builtin_prefetch(bucket_of(vm, start));
}

void tag_hash_prefetch_tag(const struct vmem *vm, uint64_t start)
{
	__builtin_prefetch(tag_at(vm, *bucket_of(vm, start)));
}
