// SPDX-License-Identifier: GPL-2.0-or-later
/* The rules of tmem, one by one, and random operations against a simple model. */
#include <stdlib.h>

#include "tmem_harness.h"

struct fixture {
	struct test_host host;
	struct tmem *t;
	struct tmem_client *a, *b;
	u32 eph, per; /* private pools of a */
};

static const struct tmem_oid oid1 = {{1, 2, 3}}, oid2 = {{1, 2, 4}}, oid3 = {{9, 2, 3}};
static const struct tmem_uuid uuid1 = {{7, 7}};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->t = test_open(&f->host, 8);
	assert_int_equal(tmem_client_create(f->t, "a", 1, 0, &f->a), 0);
	assert_int_equal(tmem_client_create(f->t, "b", 1, 0, &f->b), 0);
	assert_int_equal(tmem_pool_new(f->a, 0, NULL, &f->eph), 0);
	assert_int_equal(tmem_pool_new(f->a, TMEM_PERSISTENT, NULL, &f->per), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	check_accounts(f->t, &f->host);
	tmem_client_destroy(f->a);
	tmem_client_destroy(f->b);
	test_close(f->t, &f->host);
	free(f);
	return 0;
}

static int put(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index, u64 value)
{
	uint8_t page[TEST_PAGE];

	page_fill(page, value);
	return tmem_put(c, pool, oid, index, page);
}

/* The value there, or -errno. */
static int64_t get(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index)
{
	uint8_t page[TEST_PAGE];
	int r = tmem_get(c, pool, oid, index, page);

	return r ? r : (int64_t)page_value(page);
}

static int64_t take(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index)
{
	uint8_t page[TEST_PAGE];
	int r = tmem_get_and_flush(c, pool, oid, index, page);

	return r ? r : (int64_t)page_value(page);
}

static void test_put_get_flush(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f->a, f->eph, &oid1, 5), -ENOENT);
	assert_int_equal(put(f->a, f->eph, &oid1, 5, 50), 0);
	assert_int_equal(get(f->a, f->eph, &oid1, 5), 50);
	assert_int_equal(get(f->a, f->eph, &oid1, 5), 50); /* not exclusive */
	assert_int_equal(get(f->a, f->eph, &oid1, 6), -ENOENT);
	assert_int_equal(get(f->a, f->eph, &oid2, 5), -ENOENT);
	assert_int_equal(get(f->a, f->eph, &oid3, 5), -ENOENT);
	assert_int_equal(get(f->a, f->per, &oid1, 5), -ENOENT);
	assert_int_equal(tmem_flush_page(f->a, f->eph, &oid1, 5), 0);
	assert_int_equal(tmem_flush_page(f->a, f->eph, &oid1, 5), -ENOENT);
	assert_int_equal(get(f->a, f->eph, &oid1, 5), -ENOENT);
}

static void test_exclusive_get_takes(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(put(f->a, f->per, &oid1, 0, 1), 0);
	assert_int_equal(take(f->a, f->per, &oid1, 0), 1);
	assert_int_equal(take(f->a, f->per, &oid1, 0), -ENOENT);
	assert_int_equal(get(f->a, f->per, &oid1, 0), -ENOENT);
}

static int64_t once(struct tmem_client *c, u32 pool, const struct tmem_oid *oid, u64 index)
{
	uint8_t page[TEST_PAGE];
	int r = tmem_get_once(c, pool, oid, index, page);

	return r ? r : (int64_t)page_value(page);
}

static void test_a_page_is_got_once_until_eviction_has_passed_it(void **state)
{
	struct fixture *f = *state;
	struct tmem_stats s;

	assert_int_equal(once(f->a, f->eph, &oid1, 5), -ENOENT);
	assert_int_equal(put(f->a, f->eph, &oid1, 5, 50), 0);
	assert_int_equal(put(f->a, f->eph, &oid1, 6, 60), 0);
	assert_int_equal(once(f->a, f->eph, &oid1, 5), 50);
	assert_int_equal(once(f->a, f->eph, &oid1, 5), -EALREADY);
	assert_int_equal(once(f->a, f->eph, &oid1, 5), -EALREADY);
	tmem_client_stats(f->a, &s);
	assert_int_equal(s.gets, 2);
	assert_int_equal(s.hits, 1);
	/* Page 6 goes, and 5, which was to go first, has had its second chance. */
	assert_int_not_equal(tmem_evict(f->t, f->a, 1), 0);
	assert_int_equal(once(f->a, f->eph, &oid1, 6), -ENOENT);
	assert_int_equal(once(f->a, f->eph, &oid1, 5), 50);
	assert_int_equal(take(f->a, f->eph, &oid1, 5), 50);
	assert_int_equal(put(f->a, f->eph, &oid1, 5, 51), 0);
	assert_int_equal(once(f->a, f->eph, &oid1, 5), 51);
}

static void test_put_replaces(void **state)
{
	struct fixture *f = *state;
	struct tmem_stats s;

	assert_int_equal(put(f->a, f->eph, &oid1, 5, 50), 0);
	assert_int_equal(put(f->a, f->eph, &oid1, 5, 51), 0);
	assert_int_equal(get(f->a, f->eph, &oid1, 5), 51);
	tmem_client_stats(f->a, &s);
	assert_int_equal(s.pages, 1);
	assert_int_equal(s.ephemeral_pages, 1);
	assert_int_equal(s.puts_replaced, 1);
	assert_int_equal(f->host.pages, 1);
}

static void test_failed_replace_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	u32 pools[] = {f->eph, f->per};

	for (int i = 0; i < 2; i++) {
		assert_int_equal(put(f->a, pools[i], &oid1, 5, 50), 0);
		assert_int_equal(put(f->a, pools[i], &oid1, 6, 60), 0);
		f->host.refuse = 1;
		assert_int_equal(put(f->a, pools[i], &oid1, 5, 51), -E2BIG);
		assert_int_equal(get(f->a, pools[i], &oid1, 5), -ENOENT);
		assert_int_equal(get(f->a, pools[i], &oid1, 6), 60);
	}
}

static void test_flush_object(void **state)
{
	struct fixture *f = *state;

	for (u64 i = 0; i < 100; i++)
		assert_int_equal(put(f->a, f->eph, &oid1, i * i * 977, i), 0);
	assert_int_equal(put(f->a, f->eph, &oid2, 0, 7), 0);
	assert_int_equal(tmem_flush_object(f->a, f->eph, &oid1), 0);
	assert_int_equal(tmem_flush_object(f->a, f->eph, &oid1), -ENOENT);
	for (u64 i = 0; i < 100; i++)
		assert_int_equal(get(f->a, f->eph, &oid1, i * i * 977), -ENOENT);
	assert_int_equal(get(f->a, f->eph, &oid2, 0), 7);
	assert_int_equal(put(f->a, f->eph, &oid1, 0, 8), 0);
	assert_int_equal(get(f->a, f->eph, &oid1, 0), 8);
}

static void test_flush_without_destroy(void **state)
{
	struct fixture *f = *state;
	u64 pages, objects;

	for (u64 i = 0; i < 200; i++)
		assert_int_equal(put(f->a, f->per, &(struct tmem_oid){{i, 0, i}}, i, i), 0);
	assert_int_equal(put(f->a, f->eph, &oid1, 0, 7), 0);
	assert_int_equal(tmem_pool_count(f->a, f->per, &pages, &objects), 0);
	assert_int_equal(pages, 200);
	assert_int_equal(objects, 200);
	assert_int_equal(tmem_pool_flush(f->a, f->per), 0);
	assert_int_equal(tmem_pool_count(f->a, f->per, &pages, &objects), 0);
	assert_int_equal(pages, 0);
	assert_int_equal(objects, 0);
	assert_int_equal(put(f->a, f->per, &oid1, 0, 8), 0); /* it is still a pool */
	assert_int_equal(get(f->a, f->eph, &oid1, 0), 7);
}

static void test_empty_objects_cost_nothing(void **state)
{
	struct fixture *f = *state;
	u64 before = f->host.meta_bytes;

	for (u64 i = 0; i < 64; i++)
		assert_int_equal(put(f->a, f->eph, &oid1, i << 20, i), 0);
	for (u64 i = 0; i < 64; i++)
		assert_int_equal(take(f->a, f->eph, &oid1, i << 20), i);
	assert_int_equal(f->host.meta_bytes, before);
}

static void test_private_pools_are_private(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(put(f->a, f->eph, &oid1, 0, 7), 0);
	assert_int_equal(get(f->b, f->eph, &oid1, 0), -ENOENT);
	assert_int_equal(put(f->b, f->eph, &oid1, 0, 8), -ENOENT);
	assert_int_equal(tmem_flush_page(f->b, f->eph, &oid1, 0), -ENOENT);
	assert_int_equal(tmem_flush_object(f->b, f->eph, &oid1), -ENOENT);
	assert_int_equal(tmem_pool_flush(f->b, f->eph), -ENOENT);
	assert_int_equal(tmem_pool_destroy(f->b, f->eph), -ENOENT);
	assert_int_equal(tmem_pool_destroy(f->b, 8), -ENOENT);
	assert_int_equal(get(f->b, 1u << 31, &oid1, 0), -ENOENT);
	assert_int_equal(get(f->a, f->eph, &oid1, 0), 7);
}

static void test_shared_pool(void **state)
{
	struct fixture *f = *state;
	struct tmem_stats s;
	u32 pa, pb;

	assert_int_equal(tmem_pool_new(f->a, TMEM_SHARED, NULL, &pa), -EINVAL);
	assert_int_equal(tmem_pool_new(f->a, 4, NULL, &pa), -EINVAL);
	assert_int_equal(tmem_pool_new(f->a, TMEM_SHARED, &uuid1, &pa), 0);
	assert_int_equal(tmem_pool_new(f->a, TMEM_SHARED, &uuid1, &pb), -EALREADY);
	assert_int_equal(tmem_pool_new(f->b, TMEM_SHARED | TMEM_PERSISTENT, &uuid1, &pb), -EEXIST);
	assert_int_equal(tmem_pool_new(f->b, TMEM_SHARED, &uuid1, &pb), 0);
	assert_int_equal(pa, pb);
	assert_int_equal(put(f->a, pa, &oid1, 0, 1), 0);
	assert_int_equal(get(f->b, pb, &oid1, 0), 1);
	assert_int_equal(put(f->b, pb, &oid1, 0, 2), 0);
	assert_int_equal(get(f->a, pa, &oid1, 0), 2);
	assert_int_equal(put(f->a, pa, &oid1, 1, 3), 0);
	assert_int_equal(tmem_pool_destroy(f->a, pa), 0);
	assert_int_equal(get(f->a, pa, &oid1, 0), -ENOENT); /* left */
	assert_int_equal(get(f->b, pb, &oid1, 1), 3);	    /* still there */
	tmem_client_stats(f->b, &s);
	assert_int_equal(s.pages, 1); /* page 0; page 1 is charged to a */
	tmem_client_stats(f->a, &s);
	assert_int_equal(s.pages, 1);
	assert_int_equal(tmem_pool_destroy(f->b, pb), 0);
	tmem_client_stats(f->a, &s);
	assert_int_equal(s.pages, 0);
}

static void test_client_that_left_is_accounted_and_evicted_first(void **state)
{
	struct fixture *f = *state;
	struct tmem_client *c;
	struct tmem_stats s;
	u32 pool;

	assert_int_equal(tmem_client_create(f->t, "c", 9, 0, &c), 0);
	assert_int_equal(tmem_pool_new(c, TMEM_SHARED, &uuid1, &pool), 0);
	assert_int_equal(tmem_pool_new(f->b, TMEM_SHARED, &uuid1, &pool), 0);
	assert_int_equal(put(c, pool, &oid1, 0, 1), 0);
	for (u64 i = 1; i < 50; i++)
		assert_int_equal(put(f->b, pool, &oid1, i, i), 0);
	tmem_client_destroy(c);
	assert_int_equal(get(f->b, pool, &oid1, 0), 1);
	check_accounts(f->t, &f->host);
	tmem_evict(f->t, NULL, 1);
	assert_int_equal(get(f->b, pool, &oid1, 0), -ENOENT);
	assert_int_equal(get(f->b, pool, &oid1, 1), 1);
	tmem_stats(f->t, &s);
	assert_int_equal(s.puts, 50); /* those of who left are not forgotten */
	assert_int_equal(s.evicted_pages, 1);
}

static void test_pool_ids_run_out_and_come_back(void **state)
{
	struct fixture *f = *state;
	u32 pool[6], more;

	for (int i = 0; i < 6; i++)
		assert_int_equal(tmem_pool_new(f->b, 0, NULL, &pool[i]), 0);
	assert_int_equal(tmem_pool_new(f->b, 0, NULL, &more), -ENOSPC);
	assert_int_equal(put(f->b, pool[3], &oid1, 0, 1), 0);
	assert_int_equal(tmem_pool_destroy(f->b, pool[3]), 0);
	assert_int_equal(tmem_pool_new(f->b, 0, NULL, &more), 0);
	assert_int_equal(more, pool[3]);
	assert_int_equal(get(f->b, more, &oid1, 0), -ENOENT);
}

static void test_eviction_in_order_of_use(void **state)
{
	struct fixture *f = *state;

	for (u64 i = 0; i < 10; i++)
		assert_int_equal(put(f->a, f->eph, &oid1, i, i), 0);
	assert_int_equal(put(f->a, f->per, &oid1, 0, 99), 0);
	assert_int_equal(get(f->a, f->eph, &oid1, 0), 0); /* used again: a second chance */
	assert_int_equal(get(f->a, f->eph, &oid1, 2), 2);
	for (int i = 0; i < 3; i++)
		assert_true(tmem_evict(f->t, NULL, 1) > 0);
	for (u64 i = 0; i < 10; i++) {
		bool gone = i == 1 || i == 3 || i == 4;

		assert_int_equal(get(f->a, f->eph, &oid1, i), gone ? -ENOENT : (int64_t)i);
	}
	assert_true(tmem_evict(f->t, NULL, ~0ull) > 0);
	for (u64 i = 0; i < 10; i++)
		assert_int_equal(get(f->a, f->eph, &oid1, i), -ENOENT);
	assert_int_equal(get(f->a, f->per, &oid1, 0), 99); /* persistent ones stay */
	assert_int_equal(tmem_evict(f->t, NULL, 1), 0);
	assert_int_equal(tmem_evict(f->t, f->b, 1), 0);
}

static void test_eviction_by_weight(void **state)
{
	struct fixture *f = *state;
	struct tmem_stats sa, sb;
	u32 pool;

	assert_int_equal(tmem_pool_new(f->b, 0, NULL, &pool), 0);
	assert_int_equal(tmem_client_set(f->b, 3, 0), 0);
	assert_int_equal(tmem_client_set(f->b, 0, 0), -EINVAL);
	for (u64 i = 0; i < 2000; i++) {
		assert_int_equal(put(f->a, f->eph, &oid1, i, 1), 0);
		assert_int_equal(put(f->b, pool, &oid1, i, 1), 0);
	}
	tmem_evict(f->t, NULL, (f->host.meta_bytes + f->host.page_bytes) / 2);
	tmem_client_stats(f->a, &sa);
	tmem_client_stats(f->b, &sb);
	assert_true(sb.pages > sa.pages * 5 / 2 && sb.pages < sa.pages * 7 / 2);
	assert_true(tmem_evict(f->t, f->b, ~0ull) > 0); /* only from b */
	tmem_client_stats(f->b, &sb);
	assert_int_equal(sb.pages, 0);
	tmem_client_stats(f->a, &sb);
	assert_int_equal(sb.pages, sa.pages);
}

static u64 used(struct tmem_client *c)
{
	struct tmem_stats s;

	tmem_client_stats(c, &s);
	return s.page_bytes + s.meta_bytes;
}

static void test_client_limit(void **state)
{
	struct fixture *f = *state;
	u64 limit = used(f->a) + 20000, spare = 24 * 200;
	struct tmem_stats s;

	assert_int_equal(tmem_client_set(f->a, 1, limit), 0);
	for (u64 i = 0; i < 2000; i++) {
		assert_int_equal(put(f->a, f->eph, &oid1, i, i), 0);
		assert_true(used(f->a) <= limit + spare);
	}
	assert_int_equal(get(f->a, f->eph, &oid1, 1999), 1999);
	assert_int_equal(get(f->a, f->eph, &oid1, 0), -ENOENT);
	tmem_pool_flush(f->a, f->eph);
	for (u64 i = 0; i < 2000; i++) { /* persistent pages cannot make room */
		int r = put(f->a, f->per, &oid1, i, i);

		assert_true(r == 0 || r == -ENOSPC);
		assert_true(used(f->a) <= limit + spare);
		assert_int_equal(get(f->a, f->per, &oid1, i), r ? -ENOENT : (int64_t)i);
	}
	assert_int_equal(put(f->a, f->per, &oid1, 0, 5), -ENOSPC);
	assert_int_equal(get(f->a, f->per, &oid1, 0), -ENOENT); /* a failed replace */
	tmem_client_stats(f->a, &s);
	assert_true(s.puts_limit > 1000);
	assert_int_equal(get(f->a, f->per, &oid1, 1), 1);
}

static void test_instance_limit(void **state)
{
	struct fixture *f = *state;
	u64 limit = f->host.meta_bytes + 30000;
	u32 pool;

	assert_int_equal(tmem_pool_new(f->b, 0, NULL, &pool), 0);
	tmem_set_limit(f->t, limit);
	for (u64 i = 0; i < 3000; i++) {
		assert_int_equal(put(f->a, f->eph, &oid1, i, i), 0);
		assert_int_equal(put(f->b, pool, &oid1, i, i), 0);
		assert_true(f->host.meta_bytes + f->host.page_bytes <= limit + 24 * 200);
	}
	assert_int_equal(get(f->a, f->eph, &oid1, 2999), 2999);
	assert_int_equal(get(f->b, pool, &oid1, 2999), 2999);
}

static void test_damage_is_a_miss(void **state)
{
	struct fixture *f = *state;
	struct tmem_stats s;

	assert_int_equal(put(f->a, f->eph, &oid1, 0, 1), 0);
	assert_int_equal(put(f->a, f->eph, &oid1, 1, 1), 0);
	assert_int_equal(put(f->a, f->per, &oid1, 0, 1), 0);
	f->host.damage = 3;
	assert_int_equal(get(f->a, f->eph, &oid1, 0), -ENOENT);
	assert_int_equal(take(f->a, f->eph, &oid1, 1), -ENOENT);
	assert_int_equal(get(f->a, f->per, &oid1, 0), -EIO); /* it was promised */
	assert_int_equal(get(f->a, f->eph, &oid1, 0), -ENOENT);
	assert_int_equal(get(f->a, f->per, &oid1, 0), -ENOENT);
	tmem_client_stats(f->a, &s);
	assert_int_equal(s.corrupt, 3);
	assert_int_equal(s.pages, 0);
	assert_int_equal(f->host.pages, 0);
}

static void test_failed_exclusive_get_loses_nothing(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(put(f->a, f->per, &oid1, 0, 1), 0);
	f->host.starve = 1;
	assert_int_equal(take(f->a, f->per, &oid1, 0), -ENOMEM);
	assert_int_equal(take(f->a, f->per, &oid1, 0), 1);
}

static void test_indices_of_all_sizes(void **state)
{
	struct fixture *f = *state;
	u64 before = f->host.meta_bytes;

	for (int way = 0; way < 2; way++) {
		for (int i = 0; i < 64; i++) {
			int at = way ? 63 - i : i;

			assert_int_equal(put(f->a, f->per, &oid1, 1ull << at, at), 0);
			assert_int_equal(put(f->a, f->per, &oid1, ~(1ull << at), 100 + at), 0);
		}
		assert_int_equal(put(f->a, f->per, &oid1, 0, 500), 0);
		for (int i = 0; i < 64; i++) {
			assert_int_equal(get(f->a, f->per, &oid1, 1ull << i), i);
			assert_int_equal(get(f->a, f->per, &oid1, ~(1ull << i)), 100 + i);
			if (i > 1 && i < 60)
				assert_int_equal(get(f->a, f->per, &oid1, 5ull << i), -ENOENT);
		}
		if (way) {
			assert_int_equal(tmem_flush_object(f->a, f->per, &oid1), 0);
		} else {
			assert_int_equal(take(f->a, f->per, &oid1, 0), 500);
			for (int i = 0; i < 64; i++) {
				assert_int_equal(take(f->a, f->per, &oid1, 1ull << i), i);
				assert_int_equal(take(f->a, f->per, &oid1, ~(1ull << i)), 100 + i);
			}
		}
		assert_int_equal(f->host.meta_bytes, before);
	}
}

/* --- what happens in the middle of a load or a store --- */

static void replace_it(void *arg)
{
	struct fixture *f = arg;

	assert_int_equal(put(f->a, f->per, &oid1, 0, 2), 0);
}

static void take_it(void *arg)
{
	struct fixture *f = arg;

	assert_int_equal(take(f->a, f->per, &oid1, 0), 1);
}

static void destroy_pool(void *arg)
{
	struct fixture *f = arg;
	u32 id;

	assert_int_equal(tmem_pool_destroy(f->a, f->per), 0);
	while (!tmem_pool_new(f->a, 0, NULL, &id)) /* every id that is free */
		assert_int_not_equal(id, f->per);
}

static void test_exclusive_get_beside_others(void **state)
{
	struct fixture *f = *state;

	f->host.arg = f;
	assert_int_equal(put(f->a, f->per, &oid1, 0, 1), 0);
	f->host.meanwhile = take_it;
	assert_int_equal(take(f->a, f->per, &oid1, 0), -ENOENT); /* the other has it */
	assert_int_equal(put(f->a, f->per, &oid1, 0, 1), 0);
	f->host.meanwhile = replace_it;
	assert_int_equal(take(f->a, f->per, &oid1, 0), 2); /* what is taken is what was there */
	assert_int_equal(get(f->a, f->per, &oid1, 0), -ENOENT);
}

static void test_pool_destroyed_beside_a_get(void **state)
{
	struct fixture *f = *state;
	u32 id;

	f->host.arg = f;
	assert_int_equal(put(f->a, f->per, &oid1, 0, 1), 0);
	f->host.meanwhile = destroy_pool;
	assert_int_equal(get(f->a, f->per, &oid1, 0), 1);
	assert_int_equal(tmem_pool_new(f->a, 0, NULL, &id), 0);
	assert_int_equal(id, f->per); /* now it is free */
}

static void test_pool_destroyed_beside_a_put(void **state)
{
	struct fixture *f = *state;

	f->host.arg = f;
	f->host.meanwhile = destroy_pool;
	assert_int_equal(put(f->a, f->per, &oid1, 0, 1), -ENOENT);
	assert_int_equal(f->host.pages, 0);
}

static void test_index_gets_low_again(void **state)
{
	struct fixture *f = *state;
	u64 one;

	assert_int_equal(put(f->a, f->per, &oid1, 0, 1), 0);
	one = f->host.meta_bytes;
	assert_int_equal(put(f->a, f->per, &oid1, 1ull << 40, 2), 0);
	assert_true(f->host.meta_bytes > one + 10 * 100);
	assert_int_equal(tmem_flush_page(f->a, f->per, &oid1, 1ull << 40), 0);
	assert_int_equal(f->host.meta_bytes, one);
	assert_int_equal(get(f->a, f->per, &oid1, 0), 1);
}

/* --- random operations against a model --- */

#define M_OIDS	  6u
#define M_INDICES 40u
#define M_POOLS	  3u /* ephemeral, persistent, shared ephemeral */

struct model {
	u64 value[M_POOLS][M_OIDS][M_INDICES]; /* 0: not there */
};

static u64 index_at(u32 i)
{
	return i < 20 ? i : (u64)i * i * i * 0x10001ull;
}

struct world {
	struct fixture f;
	struct model m;
	u32 pool[M_POOLS];
	u64 rnd, next_value;
	bool evictions; /* ephemeral pages may be gone */
};

static void world_open(struct world *w, u64 seed)
{
	struct fixture *f = &w->f;

	memset(w, 0, sizeof(*w));
	w->rnd = seed;
	f->t = test_open(&f->host, 8);
	assert_int_equal(tmem_client_create(f->t, "a", 1, 0, &f->a), 0);
	assert_int_equal(tmem_client_create(f->t, "b", 1, 0, &f->b), 0);
	assert_int_equal(tmem_pool_new(f->a, 0, NULL, &w->pool[0]), 0);
	assert_int_equal(tmem_pool_new(f->a, TMEM_PERSISTENT, NULL, &w->pool[1]), 0);
	assert_int_equal(tmem_pool_new(f->a, TMEM_SHARED, &uuid1, &w->pool[2]), 0);
	assert_int_equal(tmem_pool_new(f->b, TMEM_SHARED, &uuid1, &w->pool[2]), 0);
}

static void world_close(struct world *w)
{
	check_accounts(w->f.t, &w->f.host);
	tmem_client_destroy(w->f.a);
	tmem_client_destroy(w->f.b);
	test_close(w->f.t, &w->f.host);
}

static void expect(struct world *w, u32 p, u64 *model, int64_t got, bool exclusive)
{
	if (p != 1 && w->evictions && got == -ENOENT)
		*model = 0;
	assert_int_equal(got, *model ? (int64_t)*model : -ENOENT);
	if (exclusive)
		*model = 0;
}

/* One random operation; with failures injected, a put may fail and then must leave nothing. */
static void step(struct world *w)
{
	u64 r = next_random(&w->rnd);
	u32 p = r % M_POOLS, o = (r >> 8) % M_OIDS, i = (r >> 16) % M_INDICES, op = (r >> 32) % 100;
	struct tmem_client *c = p == 2 && r >> 60 & 1 ? w->f.b : w->f.a;
	struct tmem_oid oid = {{o & 1, 5, o >> 1}};
	u64 *m = &w->m.value[p][o][i];

	if (op < 45) {
		int rc = put(c, w->pool[p], &oid, index_at(i), ++w->next_value);

		assert_true(rc == 0 || (w->f.host.fail_at && rc == -ENOMEM));
		*m = rc ? 0 : w->next_value;
	} else if (op < 65) {
		expect(w, p, m, get(c, w->pool[p], &oid, index_at(i)), false);
	} else if (op < 80) {
		expect(w, p, m, take(c, w->pool[p], &oid, index_at(i)), true);
	} else if (op < 94) {
		int rc = tmem_flush_page(c, w->pool[p], &oid, index_at(i));

		assert_true(w->evictions || rc == (*m ? 0 : -ENOENT));
		*m = 0;
	} else if (op < 97) {
		tmem_flush_object(c, w->pool[p], &oid);
		memset(w->m.value[p][o], 0, sizeof(w->m.value[p][o]));
	} else if (op < 98) {
		assert_int_equal(tmem_pool_flush(c, w->pool[p]), 0);
		memset(w->m.value[p], 0, sizeof(w->m.value[p]));
	} else if (w->evictions) {
		tmem_evict(w->f.t, r >> 61 & 1 ? w->f.a : NULL, r >> 40 & 1023);
	}
}

static void compare_all(struct world *w)
{
	for (u32 p = 0; p < M_POOLS; p++) {
		for (u32 n = 0; n < M_OIDS * M_INDICES; n++) {
			u32 o = n / M_INDICES, i = n % M_INDICES;
			struct tmem_oid oid = {{o & 1, 5, o >> 1}};

			expect(w, p, &w->m.value[p][o][i],
			       get(w->f.a, w->pool[p], &oid, index_at(i)), false);
		}
	}
	check_accounts(w->f.t, &w->f.host);
}

static void test_random_against_model(void **state)
{
	static struct world w;

	for (u64 seed = 1; seed <= 20; seed++) {
		world_open(&w, seed * 0x9e3779b97f4a7c15ull);
		w.evictions = seed & 1;
		for (int n = 0; n < 5000; n++) {
			step(&w);
			if (n % 500 == 0)
				compare_all(&w);
		}
		compare_all(&w);
		world_close(&w);
	}
}

/* The n-th allocation or store fails, for every n that the run has. */
static void test_every_allocation_fails_once(void **state)
{
	static struct world w;
	u64 calls;

	world_open(&w, 77);
	calls = w.f.host.calls;
	for (int n = 0; n < 300; n++)
		step(&w);
	calls = w.f.host.calls - calls;
	world_close(&w);
	assert_true(calls > 200);
	for (u64 at = 1; at <= calls; at++) {
		world_open(&w, 77);
		w.f.host.fail_at = w.f.host.calls + at;
		for (int n = 0; n < 300; n++)
			step(&w);
		compare_all(&w);
		world_close(&w);
	}
}

static void test_setting_up_fails_cleanly(void **state)
{
	struct test_host h = {0};
	struct tmem_spec spec = {.ops = &test_ops, .host = &h};
	struct tmem_client *c = NULL;
	struct tmem *t = NULL;
	u32 pool;

	for (u64 at = 1; at <= 4; at++) {
		h = (struct test_host){.fail_at = at};
		if (at <= 2) {
			assert_int_equal(tmem_create(&spec, &t), -ENOMEM);
			assert_null(t);
			assert_int_equal(h.meta_bytes, 0);
			continue;
		}
		assert_int_equal(tmem_create(&spec, &t), 0);
		assert_int_equal(tmem_client_create(t, "c", 1, 0, &c), at == 3 ? -ENOMEM : 0);
		if (at == 4) {
			assert_int_equal(tmem_pool_new(c, 0, NULL, &pool), -ENOMEM);
			tmem_client_destroy(c);
		}
		test_close(t, &h);
		t = NULL;
	}
	spec.shards = 3;
	assert_int_equal(tmem_create(&spec, &t), -EINVAL);
	tmem_destroy(NULL);
	tmem_client_destroy(NULL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_put_get_flush),
		T(test_exclusive_get_takes),
		T(test_a_page_is_got_once_until_eviction_has_passed_it),
		T(test_put_replaces),
		T(test_failed_replace_leaves_nothing),
		T(test_flush_object),
		T(test_flush_without_destroy),
		T(test_empty_objects_cost_nothing),
		T(test_private_pools_are_private),
		T(test_shared_pool),
		T(test_client_that_left_is_accounted_and_evicted_first),
		T(test_pool_ids_run_out_and_come_back),
		T(test_eviction_in_order_of_use),
		T(test_eviction_by_weight),
		T(test_client_limit),
		T(test_instance_limit),
		T(test_damage_is_a_miss),
		T(test_failed_exclusive_get_loses_nothing),
		T(test_indices_of_all_sizes),
		T(test_exclusive_get_beside_others),
		T(test_pool_destroyed_beside_a_get),
		T(test_pool_destroyed_beside_a_put),
		T(test_index_gets_low_again),
		cmocka_unit_test(test_random_against_model),
		cmocka_unit_test(test_every_allocation_fails_once),
		cmocka_unit_test(test_setting_up_fails_cleanly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
