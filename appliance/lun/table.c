/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * LUNs by name: a chained hash table that doubles when it holds as many LUNs as buckets. Each entry
 * has a reference of its own; the lock is held for the look-up only.
 */
#include "lun/lun_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"

struct entry {
	struct entry *next;
	struct lun *lun;
	uint64_t hash;
};

struct lun_table {
	struct mutex lock;
	struct entry **bucket; /* under lock, as all below */
	size_t n_buckets;      /* a power of two */
	size_t count;
};

/* Names come from the owner's configuration, not from peers. */
static uint64_t hash_name(const char *s)
{
	return hash_add(HASH_START, s, strlen(s));
}

int lun_table_create(struct lun_table **ret_table)
{
	_cleanup_free_ struct lun_table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->n_buckets = 64;
	t->bucket = calloc(t->n_buckets, sizeof(struct entry *));
	if (!t->bucket)
		return -ENOMEM;
	mutex_init(&t->lock, LOCK_RANK_REGISTRY);
	*ret_table = take_ptr(t);
	return 0;
}

void lun_table_destroy(struct lun_table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_buckets; i++) {
		struct entry *e = t->bucket[i], *next;

		for (; e; e = next) {
			next = e->next;
			lun_unref(e->lun);
			free(e);
		}
	}
	mutex_destroy(&t->lock);
	free(t->bucket);
	free(t);
}

/* Where the entry of @name hangs, or where one would be hung. */
static struct entry **find_locked(struct lun_table *t, const char *name, uint64_t hash)
{
	struct entry **pe = &t->bucket[hash & (t->n_buckets - 1)];

	mutex_assert_held(&t->lock);
	while (*pe && ((*pe)->hash != hash || strcmp(lun_name((*pe)->lun), name)))
		pe = &(*pe)->next;
	return pe;
}

/* Failure is harmless: chains are longer then. */
static void grow_locked(struct lun_table *t)
{
	size_t n = t->n_buckets * 2;
	struct entry **bucket = calloc(n, sizeof(struct entry *));

	if (!bucket)
		return;
	for (size_t i = 0; i < t->n_buckets; i++) {
		struct entry *e = t->bucket[i], *next;

		for (; e; e = next) {
			next = e->next;
			e->next = bucket[e->hash & (n - 1)];
			bucket[e->hash & (n - 1)] = e;
		}
	}
	free(t->bucket);
	t->bucket = bucket;
	t->n_buckets = n;
}

int lun_table_add(struct lun_table *t, struct lun *lun)
{
	_cleanup_free_ struct entry *e = malloc(sizeof(*e));
	struct entry **pe;

	if (!e)
		return -ENOMEM;
	e->hash = hash_name(lun_name(lun));
	mutex_scope(&t->lock);
	if (t->count >= t->n_buckets)
		grow_locked(t);
	pe = find_locked(t, lun_name(lun), e->hash);
	if (*pe)
		return -EEXIST;
	e->lun = lun_ref(lun);
	e->next = NULL;
	*pe = take_ptr(e);
	t->count++;
	return 0;
}

struct lun *lun_table_find(struct lun_table *t, const char *name)
{
	struct entry *e;

	mutex_scope(&t->lock);
	e = *find_locked(t, name, hash_name(name));
	return e ? lun_ref(e->lun) : NULL;
}

static struct entry *take_out(struct lun_table *t, const char *name)
{
	struct entry **pe, *e;

	mutex_scope(&t->lock);
	pe = find_locked(t, name, hash_name(name));
	e = *pe;
	if (e) {
		*pe = e->next;
		t->count--;
	}
	return e;
}

int lun_table_remove(struct lun_table *t, const char *name)
{
	struct entry *e = take_out(t, name);

	if (!e)
		return -ENOENT;
	lun_notify(e->lun, LUN_EVENT_GOING_AWAY);
	lun_unref(e->lun);
	free(e);
	return 0;
}

size_t lun_table_count(struct lun_table *t)
{
	mutex_scope(&t->lock);
	return t->count;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(lun_name(*(struct lun *const *)a), lun_name(*(struct lun *const *)b));
}

int lun_table_list(struct lun_table *t, struct lun ***ret_luns, size_t *ret_n)
{
	struct lun **luns;
	size_t n = 0;

	mutex_lock(&t->lock);
	luns = calloc(t->count + 1, sizeof(struct lun *));
	for (size_t i = 0; luns && i < t->n_buckets; i++)
		for (struct entry *e = t->bucket[i]; e; e = e->next)
			luns[n++] = lun_ref(e->lun);
	mutex_unlock(&t->lock);
	if (!luns)
		return -ENOMEM;
	qsort(luns, n, sizeof(struct lun *), by_name);
	*ret_luns = luns;
	*ret_n = n;
	return 0;
}

void lun_table_free_list(struct lun **luns, size_t n)
{
	for (size_t i = 0; luns && i < n; i++)
		lun_unref(luns[i]);
	free(luns);
}
