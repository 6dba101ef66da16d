/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stack of arenas over one reservation: alignment, cost to the kernel, and the way back. */
#include "vmem_harness.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "mem/address_space.h"

static struct address_space *space(void)
{
	struct address_space *as = NULL;

	assert_int_equal(
		address_space_create(&(struct address_space_spec){.size = 1ull << 36}, &as), 0);
	return as;
}

static unsigned map_entries(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned n = 0;

	assert_non_null(f);
	for (int c = getc(f); c != EOF; c = getc(f))
		n += c == '\n';
	fclose(f);
	return n;
}

static unsigned resident(const void *p, size_t size)
{
	static unsigned char vec[4096];
	unsigned n = 0;

	assert_true(size / ADDRESS_PAGE <= sizeof(vec));
	assert_int_equal(mincore((void *)p, size, vec), 0);
	for (size_t i = 0; i < size / ADDRESS_PAGE; i++)
		n += vec[i] & 1;
	return n;
}

static void test_wired_memory_is_aligned_as_promised(void **state)
{
	struct address_space *as = space();
	static void *p[10000];

	assert_null(wired_alloc(as, 0));
	wired_free(as, NULL, 1);
	for (size_t size = 1; size < 10000; size++) {
		p[size] = wired_alloc(as, size);
		assert_non_null(p[size]);
		memset(p[size], (int)size, size);
		assert_true((uintptr_t)p[size] % (size < ADDRESS_PAGE ? 64 : 4096) == 0);
	}
	for (size_t size = 1; size < 10000; size++) {
		const uint8_t *b = p[size];

		for (size_t i = 0; i < size; i++)
			assert_true(b[i] == (uint8_t)size);
		wired_free(as, p[size], size);
	}
	assert_true(address_space_destroy(as) == 0);
}

static void test_map_entries_do_not_grow_with_allocations(void **state)
{
	struct address_space *as = space();
	static void *p[20000];
	unsigned before = map_entries();

	for (int i = 0; i < 20000; i++)
		p[i] = wired_alloc(as, ADDRESS_PAGE * (1 + i % 3));
	assert_true(map_entries() <= before + 2); /* tags grow at the end of theirs */
	for (int i = 0; i < 20000; i++)
		wired_free(as, p[i], ADDRESS_PAGE * (1 + i % 3));
	assert_true(address_space_destroy(as) == 0);
}

static void test_trim_gives_pages_back(void **state)
{
	struct address_space *as = space();
	size_t size = 8 << 20;
	uint8_t *p = wired_alloc(as, size), *keep;

	keep = wired_alloc(as, size);
	memset(p, 1, size);
	memset(keep, 2, size);
	wired_free(as, p, size);
	assert_int_equal(resident(p, size), size / ADDRESS_PAGE);
	wired_trim(as);
	assert_int_equal(resident(p, size), 0);
	assert_int_equal(resident(keep, size), size / ADDRESS_PAGE);
	for (size_t i = 0; i < size; i++)
		assert_true(keep[i] == 2);
	assert_true(vmem_size(address_space_wired_pages(as), VMEM_ALLOCATED) == size);
	p = wired_alloc(as, size); /* accessible as ever */
	memset(p, 3, size);
	wired_free(as, p, size);
	wired_free(as, keep, size);
	assert_true(address_space_destroy(as) == 0);
}

static void test_addresses_first_backing_afterwards(void **state)
{
	struct address_space *as = space();
	struct vmem *vm = address_space_volatile(as);
	uint64_t low = vmem_size(address_space_arena(as), VMEM_ALLOCATED), a, size = 1 << 20;
	uint8_t *p;

	assert_int_equal(vmem_alloc(vm, size, 0, &a), 0);
	p = (uint8_t *)a;
	assert_int_equal(resident(p, size), 0);
	assert_int_equal(address_back(a, size), 0);
	assert_true(p[0] == 0);
	memset(p, 7, size);
	assert_int_equal(resident(p, size), size / ADDRESS_PAGE);
	address_unback(a, size);
	assert_int_equal(resident(p, size), 0);
	vmem_free(vm, a, size);
	assert_true(vmem_size(address_space_arena(as), VMEM_ALLOCATED) == low);
	assert_true(address_space_destroy(as) == 0);
}

static void test_leaks_are_counted_once(void **state)
{
	struct address_space *as = space();
	uint64_t a;

	assert_non_null(wired_alloc(as, 100));
	assert_true(address_space_destroy(as) == 128);
	as = space();
	assert_non_null(wired_alloc(as, 5000));
	assert_int_equal(vmem_alloc(address_space_volatile(as), 4096, 0, &a), 0);
	assert_true(address_space_destroy(as) == 8192 + 4096);
}

static void test_refusals(void **state)
{
	struct address_space *as = NULL;
	struct address_space_spec bad[] = {
		{.size = 4097},
		{.size = 1ull << 30, .wired = 2ull << 30},
		{.size = 1ull << 30, .meta = 4096},
		{.size = 1ull << 30, .wired = 4096},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(address_space_create(&bad[i], &as), -EINVAL);
	assert_int_equal(
		address_space_create(&(struct address_space_spec){.size = 1ull << 62}, &as),
		-ENOMEM);
	assert_null(as);
	as = space();
	assert_null(wired_alloc(as, 1ull << 40));
	assert_true(address_space_destroy(as) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wired_memory_is_aligned_as_promised),
		cmocka_unit_test(test_map_entries_do_not_grow_with_allocations),
		cmocka_unit_test(test_trim_gives_pages_back),
		cmocka_unit_test(test_addresses_first_backing_afterwards),
		cmocka_unit_test(test_leaks_are_counted_once),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
