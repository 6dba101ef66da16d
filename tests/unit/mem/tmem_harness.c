// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdio.h>
#include <stdlib.h>

#include "tmem_harness.h"

/* A stored page: freed ones are overwritten, so that a late load is seen. */
struct stored {
	uint64_t loads; /* atomic */
	uint32_t cost;
	uint8_t data[TEST_PAGE];
};

static bool fails(struct test_host *h)
{
	uint64_t n = __atomic_add_fetch(&h->calls, 1, __ATOMIC_RELAXED);

	return n == __atomic_load_n(&h->fail_at, __ATOMIC_RELAXED);
}

/* One of @budget, if there is one. */
static bool take(uint64_t *budget)
{
	uint64_t v = __atomic_load_n(budget, __ATOMIC_RELAXED);

	while (v && !__atomic_compare_exchange_n(budget, &v, v - 1, false, __ATOMIC_RELAXED,
						 __ATOMIC_RELAXED))
		;
	return v;
}

static void meanwhile(struct test_host *h)
{
	void (*fn)(void *) = h->meanwhile;

	if (!fn)
		return;
	h->meanwhile = NULL;
	fn(h->arg);
}

static void *fake_meta_alloc(void *host, size_t size, u32 *ret_bytes)
{
	struct test_host *h = host;
	void *p = fails(h) ? NULL : malloc(size);

	if (!p)
		return NULL;
	memset(p, 0xa5, size);
	*ret_bytes = (u32)size + 8;
	__atomic_add_fetch(&h->meta_bytes, *ret_bytes, __ATOMIC_RELAXED);
	return p;
}

static void fake_meta_free(void *host, void *p, size_t size, u32 bytes)
{
	struct test_host *h = host;

	if (bytes != size + 8)
		abort();
	memset(p, 0x5a, size);
	free(p);
	__atomic_sub_fetch(&h->meta_bytes, bytes, __ATOMIC_RELAXED);
}

static int fake_store(void *host, const void *page, u64 *ret_handle, u32 *ret_bytes)
{
	struct test_host *h = host;
	struct stored *s;

	meanwhile(h);
	if (take(&h->refuse))
		return -E2BIG;
	s = fails(h) ? NULL : malloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->loads = 0;
	memcpy(s->data, page, TEST_PAGE);
	s->cost = 32 + s->data[0] % 32;
	__atomic_add_fetch(&h->page_bytes, s->cost, __ATOMIC_RELAXED);
	__atomic_add_fetch(&h->pages, 1, __ATOMIC_RELAXED);
	*ret_handle = (uintptr_t)s;
	*ret_bytes = s->cost;
	return 0;
}

static int fake_load(void *host, u64 handle, void *page)
{
	struct test_host *h = host;
	struct stored *s = (struct stored *)(uintptr_t)handle;

	if (take(&h->damage))
		return -EBADMSG;
	if (take(&h->starve))
		return -ENOMEM;
	__atomic_add_fetch(&s->loads, 1, __ATOMIC_RELAXED);
	memcpy(page, s->data, TEST_PAGE);
	meanwhile(h);
	__atomic_sub_fetch(&s->loads, 1, __ATOMIC_RELAXED);
	return 0;
}

static void fake_free(void *host, u64 handle)
{
	struct test_host *h = host;
	struct stored *s = (struct stored *)(uintptr_t)handle;

	if (__atomic_load_n(&s->loads, __ATOMIC_RELAXED)) {
		fprintf(stderr, "a page is freed while it is loaded\n");
		abort();
	}
	__atomic_sub_fetch(&h->page_bytes, s->cost, __ATOMIC_RELAXED);
	__atomic_sub_fetch(&h->pages, 1, __ATOMIC_RELAXED);
	memset(s->data, 0x5a, TEST_PAGE);
	free(s);
}

const struct tmem_ops test_ops = {
	.meta_alloc = fake_meta_alloc,
	.meta_free = fake_meta_free,
	.store = fake_store,
	.load = fake_load,
	.free = fake_free,
};

struct tmem *test_open(struct test_host *host, u32 max_pools)
{
	struct tmem *t;

	memset(host, 0, sizeof(*host));
	assert_int_equal(tmem_create(&(struct tmem_spec){.ops = &test_ops,
							 .host = host,
							 .max_pools = max_pools,
							 .shards = 2},
				     &t),
			 0);
	return t;
}

void test_close(struct tmem *t, struct test_host *host)
{
	struct tmem_stats s;

	tmem_stats(t, &s);
	assert_int_equal(s.pages, 0);
	assert_int_equal(s.ephemeral_pages, 0);
	assert_int_equal(s.page_bytes, 0);
	tmem_destroy(t);
	assert_int_equal(host->meta_bytes, 0);
	assert_int_equal(host->page_bytes, 0);
	assert_int_equal(host->pages, 0);
}

void check_accounts(struct tmem *t, struct test_host *host)
{
	struct tmem_stats s;

	tmem_stats(t, &s);
	assert_int_equal(s.meta_bytes, host->meta_bytes);
	assert_int_equal(s.page_bytes, host->page_bytes);
	assert_int_equal(s.pages, host->pages);
}

void page_fill(void *page, uint64_t value)
{
	for (size_t i = 0; i < TEST_PAGE; i += sizeof(value))
		memcpy((uint8_t *)page + i, &value, sizeof(value));
}

uint64_t page_value(const void *page)
{
	uint64_t first, v;

	memcpy(&first, page, sizeof(first));
	for (size_t i = 0; i < TEST_PAGE; i += sizeof(v)) {
		memcpy(&v, (const uint8_t *)page + i, sizeof(v));
		assert_int_equal(v, first);
	}
	return first;
}
