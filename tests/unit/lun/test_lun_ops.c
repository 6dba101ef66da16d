/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every op, by both ways in (on the calling thread, on a reactor) and in both modes (direct,
 * buffered), with and without the cache, against a model of the LUN in memory. */
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZE (8u << 20)

struct setup {
	enum way way;
	enum block_mode mode;
	bool cached;
};

static const struct setup setups[] = {
	{WAY_SYNC, BLOCK_MODE_BUFFERED, false},	 {WAY_SYNC, BLOCK_MODE_DIRECT, false},
	{WAY_ASYNC, BLOCK_MODE_BUFFERED, false}, {WAY_ASYNC, BLOCK_MODE_DIRECT, false},
	{WAY_SYNC, BLOCK_MODE_BUFFERED, true},	 {WAY_SYNC, BLOCK_MODE_DIRECT, true},
	{WAY_ASYNC, BLOCK_MODE_BUFFERED, true},	 {WAY_ASYNC, BLOCK_MODE_DIRECT, true},
};

struct fixture {
	enum way way;
	struct lun *lun;
	uint8_t *model, *buf;
};

static int set_up(void **state)
{
	const struct setup *s = *state;
	struct fixture *f = calloc(1, sizeof(*f));

	f->way = s->way;
	harness_cached = s->cached;
	f->lun = make_lun("ops", s->mode, SIZE);
	f->model = calloc(1, SIZE);
	f->buf = malloc(2 * SIZE);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	lun_unref(f->lun);
	free(f->model);
	free(f->buf);
	free(f);
	return 0;
}

static void check_all(struct fixture *f)
{
	memset(f->buf, 0xee, SIZE);
	assert_int_equal(do_read(f->lun, f->way, 0, f->buf, SIZE), 0);
	assert_memory_equal(f->buf, f->model, SIZE);
}

static void put(struct fixture *f, uint64_t off, size_t len, unsigned seed)
{
	fill(f->model + off, len, seed);
	assert_int_equal(do_write(f->lun, f->way, off, f->model + off, len), 0);
}

static void reads_back_what_was_written(void **state)
{
	struct fixture *f = *state;

	check_all(f);
	put(f, 4096, 4096, 1);
	put(f, 512, 512, 2);
	put(f, 100, 3, 3);
	put(f, SIZE - 5, 5, 4);
	put(f, 300001, 777777, 5);
	put(f, 0, 1, 6);
	check_all(f);
	assert_int_equal(do_range(f->lun, f->way, LUN_FLUSH, 0, 0, 0), 0);
}

static struct iovec *split(uint8_t *p, size_t len, unsigned seed, int *ret_n)
{
	struct iovec *v = calloc(64, sizeof(*v));
	int n = 0;

	srand(seed);
	while (len && n < 63) {
		size_t part = n % 5 == 4 ? 0 : (size_t)(rand() % 7000);

		if (rand() % 2)
			part &= ~(size_t)511;
		if (part > len)
			part = len;
		v[n++] = (struct iovec){p, part};
		p += part;
		len -= part;
	}
	if (len)
		v[n++] = (struct iovec){p, len};
	*ret_n = n;
	return v;
}

static void scattered_memory_is_one_range(void **state)
{
	struct fixture *f = *state;

	for (unsigned seed = 1; seed < 60; seed++) {
		uint64_t off = (uint64_t)(rand() % 100000), len = (uint64_t)(rand() % 300000) + 1;
		uint8_t *p = f->buf + rand() % 2 * 512 + rand() % 2;
		struct lun_io io = {.off = off, .len = len, .reg_index = -1};
		struct iovec *v;

		if (seed % 3 == 0)
			off = io.off &= ~511ull;
		io.op = LUN_WRITE;
		fill(f->model + off, len, seed);
		memcpy(p, f->model + off, len);
		io.iov = v = split(p, len, seed, &io.niov);
		assert_int_equal(do_io(f->lun, &io, f->way), 0);
		memset(p, 0, len);
		io.op = LUN_READ;
		assert_int_equal(do_io(f->lun, &io, f->way), 0);
		assert_memory_equal(p, f->model + off, len);
		free(v);
	}
	check_all(f);
}

static void any_range_in_any_order_is_like_memory(void **state)
{
	struct fixture *f = *state;

	srand(7);
	for (int i = 0; i < 600; i++) {
		uint64_t off = (uint64_t)rand() % SIZE;
		uint64_t max = SIZE - off < 70000 ? SIZE - off : 70000;
		uint64_t len = (uint64_t)rand() % max + 1;
		uint8_t *p = f->buf + rand() % 4096;

		switch (rand() % 5) {
		case 0:
			assert_int_equal(do_read(f->lun, f->way, off, p, len), 0);
			assert_memory_equal(p, f->model + off, len);
			break;
		case 1:
			memset(f->model + off, 0, len);
			assert_int_equal(do_range(f->lun, f->way, LUN_UNMAP, 0, off, len), 0);
			break;
		case 2:
			memset(f->model + off, 0, len);
			assert_int_equal(do_range(f->lun, f->way, LUN_ZERO,
						  rand() % 2 ? LUN_IO_MAY_UNMAP : LUN_IO_FUA, off,
						  len),
					 0);
			break;
		default:
			fill(p, len, (unsigned)i);
			memcpy(f->model + off, p, len);
			assert_int_equal(do_write(f->lun, f->way, off, p, len), 0);
		}
	}
	check_all(f);
}

static void verify_tells_where_it_differs(void **state)
{
	struct fixture *f = *state;
	struct iovec v[2] = {{f->buf, 400000}, {f->buf + 400000, 600000}};
	struct lun_io io = {.op = LUN_VERIFY,
			    .off = 1000,
			    .len = 1000000,
			    .iov = v,
			    .niov = 2,
			    .reg_index = -1};

	put(f, 0, 2000000, 9);
	memcpy(f->buf, f->model + 1000, 1000000);
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	f->buf[700001] ^= 1;
	assert_int_equal(do_io(f->lun, &io, f->way), -EILSEQ);
	assert_int_equal(io.miscompare_off, 700001);
	assert_int_equal(do_range(f->lun, f->way, LUN_VERIFY, 0, 0, SIZE), 0);
}

static void compare_and_write_writes_only_when_equal(void **state)
{
	struct fixture *f = *state;
	size_t len = 600000;
	struct iovec v[3] = {
		{f->buf, 1000}, {f->buf + 1000, len}, {f->buf + 1000 + len, len - 1000}};
	struct lun_io io = {.op = LUN_COMPARE_AND_WRITE,
			    .off = 4096,
			    .len = len,
			    .iov = v,
			    .niov = 3,
			    .reg_index = -1};

	put(f, 4096, len, 1);
	memcpy(f->buf, f->model + 4096, len);
	fill(f->buf + len, len, 2);
	f->buf[len - 1] ^= 1;
	assert_int_equal(do_io(f->lun, &io, f->way), -EILSEQ);
	assert_int_equal(io.miscompare_off, len - 1);
	f->buf[len - 1] ^= 1;
	memcpy(f->buf + 2 * len, f->buf, 2 * len);
	check_all(f); /* nothing was written */
	memcpy(f->buf, f->model + 4096, len);
	fill(f->buf + len, len, 2);
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	fill(f->model + 4096, len, 2);
	check_all(f);
}

static void or_write_ors(void **state)
{
	struct fixture *f = *state;
	struct iovec v[2] = {{f->buf, 7}, {f->buf + 7, 500000}};
	struct lun_io io = {.op = LUN_OR_WRITE,
			    .off = 512,
			    .len = 400000,
			    .iov = v,
			    .niov = 2,
			    .reg_index = -1};

	put(f, 0, 500000, 3);
	fill(f->buf, 400000, 4);
	for (size_t i = 0; i < 400000; i++)
		f->model[512 + i] |= f->buf[i];
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	check_all(f);
}

static void write_same_repeats_its_pattern(void **state)
{
	struct fixture *f = *state;
	struct iovec v = {f->buf, 512};
	struct lun_io io = {.op = LUN_WRITE_SAME,
			    .off = 1536,
			    .len = 512 * 3001,
			    .iov = &v,
			    .niov = 1,
			    .reg_index = -1,
			    .pattern_len = 512};

	put(f, 0, SIZE, 11);
	fill(f->buf, 512, 5);
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	for (size_t i = 0; i < io.len; i += 512)
		memcpy(f->model + 1536 + i, f->buf, 512);
	check_all(f);
	memset(f->buf, 0, 512);
	io.off = 4096 + 512;
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	memset(f->model + io.off, 0, io.len);
	check_all(f);
	io.pattern_len = 500;
	assert_int_equal(do_io(f->lun, &io, f->way), -EINVAL);
}

static void copies_also_onto_itself(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint64_t from, to, len;
	} t[] = {{0, 4u << 20, 3u << 20}, {1000, 2000, 3000000}, {2000, 1000, 3000000}, {5, 5, 99}};

	put(f, 0, SIZE, 21);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct lun_io io = {.op = LUN_COPY,
				    .off = t[i].to,
				    .len = t[i].len,
				    .src = f->lun,
				    .src_off = t[i].from,
				    .reg_index = -1};

		assert_int_equal(do_io(f->lun, &io, f->way), 0);
		memmove(f->model + t[i].to, f->model + t[i].from, t[i].len);
		check_all(f);
	}
}

static void copies_between_luns(void **state)
{
	struct fixture *f = *state;
	struct lun *other = make_lun("other", BLOCK_MODE_AUTO, SIZE);
	struct lun_io io = {.op = LUN_COPY,
			    .off = 512,
			    .len = 3u << 20,
			    .src = other,
			    .src_off = 1024,
			    .reg_index = -1};

	fill(f->buf, SIZE, 31);
	assert_int_equal(do_write(other, f->way, 0, f->buf, SIZE), 0);
	memcpy(f->model + 512, f->buf + 1024, 3u << 20);
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	check_all(f);
	io.src_off = SIZE - 100;
	assert_int_equal(do_io(f->lun, &io, f->way), -EINVAL);
	lun_unref(other);
}

static void status_shows_holes(void **state)
{
	struct fixture *f = *state;
	struct block_extent e[8];
	struct lun_io io = {.op = LUN_STATUS,
			    .off = 0,
			    .len = SIZE,
			    .extents = e,
			    .n_extents = 8,
			    .reg_index = -1};

	put(f, 1u << 20, 1u << 20, 1);
	put(f, 4u << 20, 4u << 20, 1);
	assert_int_equal(do_range(f->lun, f->way, LUN_UNMAP, 0, 6u << 20, 1u << 20), 0);
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	assert_int_equal(io.n_extents, 6);
	for (int i = 0; i < 6; i++) {
		static const unsigned mib[] = {1, 1, 2, 2, 1, 1};

		assert_int_equal(e[i].len, (uint64_t)mib[i] << 20);
		assert_int_equal(e[i].flags, i % 2 ? 0 : BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO);
	}
	io.off = (1u << 20) + 512;
	io.n_extents = 1;
	assert_int_equal(do_io(f->lun, &io, f->way), -EINVAL); /* past the end */
	io.len = SIZE - io.off;
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	assert_int_equal(io.n_extents, 1);
	assert_int_equal(e[0].len, (1u << 20) - 512);
	assert_int_equal(do_range(f->lun, f->way, LUN_PREFETCH, 0, 0, SIZE), 0);
}

static void unmap_gives_space_back(void **state)
{
	struct fixture *f = *state;
	struct block_info before, after;

	put(f, 0, SIZE, 1);
	assert_int_equal(do_range(f->lun, f->way, LUN_FLUSH, 0, 0, 0), 0);
	lun_get_block_info(f->lun, &before);
	assert_int_equal(do_range(f->lun, f->way, LUN_UNMAP, 0, 1, SIZE / 2), 0);
	memset(f->model + 1, 0, SIZE / 2);
	lun_get_block_info(f->lun, &after);
	assert_true(before.allocated >= SIZE);
	assert_true(after.allocated <= before.allocated - SIZE / 2 + 8192);
	check_all(f);
}

static void a_range_past_the_end_is_refused(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(do_read(f->lun, f->way, SIZE, f->buf, 1), -EINVAL);
	assert_int_equal(do_read(f->lun, f->way, SIZE - 512, f->buf, 513), -EINVAL);
	assert_int_equal(do_write(f->lun, f->way, UINT64_MAX - 10, f->buf, 512), -EINVAL);
	assert_int_equal(do_range(f->lun, f->way, LUN_UNMAP, 0, 512, UINT64_MAX), -EINVAL);
	assert_int_equal(do_read(f->lun, f->way, SIZE, f->buf, 0), 0);
	assert_int_equal(do_write(f->lun, f->way, 0, f->buf, 0), 0);
	check_all(f);
}

static void a_truncated_file_is_an_error_not_zeros(void **state)
{
	struct fixture *f = *state;

	put(f, 0, SIZE, 1);
	assert_int_equal(truncate(harness_path("ops"), SIZE / 2), 0);
	assert_int_equal(do_read(f->lun, f->way, SIZE / 2, f->buf, 4096), -ENODATA);
	assert_int_equal(do_read(f->lun, f->way, SIZE / 2 - 4096, f->buf, 8192), -ENODATA);
	assert_int_equal(do_read(f->lun, f->way, SIZE / 2 + 3, f->buf, 5), -ENODATA);
	assert_int_equal(do_read(f->lun, f->way, SIZE / 2 - 4096, f->buf, 4096), 0);
}

static void a_fence_stops_who_is_not_authorized(void **state)
{
	struct fixture *f = *state;
	struct iovec v = {f->buf, 512};
	struct lun_io io = {.op = LUN_WRITE,
			    .flags = LUN_IO_AUTHORIZED,
			    .len = 512,
			    .iov = &v,
			    .niov = 1,
			    .reg_index = -1};

	memset(f->buf, 0, 512);
	lun_set_fence(f->lun, LUN_FENCE_WRITES);
	assert_int_equal(do_write(f->lun, f->way, 0, f->buf, 512), -EPERM);
	assert_int_equal(do_range(f->lun, f->way, LUN_UNMAP, 0, 0, 512), -EPERM);
	assert_int_equal(do_read(f->lun, f->way, 0, f->buf, 512), 0);
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	lun_set_fence(f->lun, LUN_FENCE_ALL);
	assert_int_equal(do_read(f->lun, f->way, 0, f->buf, 512), -EPERM);
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	lun_set_fence(f->lun, LUN_FENCE_NONE);
	assert_int_equal(do_write(f->lun, f->way, 0, f->buf, 512), 0);
}

static void ops_are_counted(void **state)
{
	struct fixture *f = *state;
	struct lun_counters session = {0}, *c = lun_counters(f->lun);
	struct iovec v = {f->buf, 4096};
	struct lun_io io = {.op = LUN_READ,
			    .len = 4096,
			    .iov = &v,
			    .niov = 1,
			    .reg_index = -1,
			    .session = &session};

	for (int i = 0; i < 3; i++)
		assert_int_equal(do_io(f->lun, &io, f->way), 0);
	io.off = SIZE;
	assert_int_equal(do_io(f->lun, &io, f->way), -EINVAL);
	assert_int_equal(lun_counters_ops(&session, LUN_CLASS_READ), 4);
	assert_int_equal(metric_read(&session.bytes[LUN_CLASS_READ]), 3 * 4096);
	assert_int_equal(metric_read(&session.errors[LUN_CLASS_READ]), 1);
	assert_int_equal(metric_hist_count(&session.latency[LUN_CLASS_READ]), 4);
	assert_int_equal(metric_read(&session.inflight), 0);
	assert_int_equal(lun_counters_ops(c, LUN_CLASS_READ), 4);
	assert_int_equal(metric_read(&c->inflight), 0);
}

static uint64_t shape(struct lun *lun, enum lun_op op, unsigned size, unsigned alignment)
{
	return metric_read(&lun_detail(lun)->shapes[op][size][alignment]);
}

static void requests_are_counted_by_length_and_alignment(void **state)
{
	struct fixture *f = *state;
	struct {
		uint64_t off, len;
		unsigned size, alignment;
	} t[] = {
		{512, 512, 0, 0},	 {0, 4096, 0, 1},	{65536, 4096, 0, 1},
		{0, 4608, 1, 0},	 {4096, 32768, 1, 1},	{65536, 65536, 2, 2},
		{0, 32768 + 4096, 2, 1}, {0, 256u << 10, 2, 2}, {0, (256u << 10) + 512, 3, 0},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct iovec v = {f->buf, t[i].len};
		struct lun_io io = {.op = i % 2 ? LUN_READ : LUN_WRITE,
				    .off = t[i].off,
				    .len = t[i].len,
				    .iov = &v,
				    .niov = 1,
				    .reg_index = -1};
		uint64_t before = shape(f->lun, io.op, t[i].size, t[i].alignment);

		assert_int_equal(do_io(f->lun, &io, f->way), 0);
		assert_int_equal(shape(f->lun, io.op, t[i].size, t[i].alignment), before + 1);
		assert_true(t[i].len <= lun_request_size(t[i].size));
		assert_int_equal((t[i].off | t[i].len) % lun_request_alignment(t[i].alignment), 0);
	}
}

static void other_ops_are_counted_by_kind(void **state)
{
	struct fixture *f = *state;
	const struct lun_detail *d = lun_detail(f->lun);
	struct iovec v = {f->buf, 1024};
	struct lun_io io = {
		.op = LUN_COMPARE_AND_WRITE, .len = 512, .iov = &v, .niov = 1, .reg_index = -1};

	memset(f->buf, 1, 512);
	assert_int_equal(do_io(f->lun, &io, f->way), -EILSEQ);
	memset(f->buf, 0, 512);
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	io.op = LUN_UNMAP;
	assert_int_equal(do_io(f->lun, &io, f->way), 0);
	assert_int_equal(metric_read(&d->kinds[LUN_COMPARE_AND_WRITE]), 2);
	assert_int_equal(metric_read(&d->miscompares), 1);
	assert_int_equal(metric_read(&d->kinds[LUN_UNMAP]), 1);
	assert_int_equal(metric_read(&d->kinds[LUN_WRITE_SAME]), 0);
	assert_int_equal(shape(f->lun, LUN_WRITE, 0, 0), 0);
}

static void stages_make_up_the_latency(void **state)
{
	struct fixture *f = *state;
	struct iovec v = {f->buf, 65536};
	struct lun_io io = {.op = LUN_WRITE, .len = 65536, .iov = &v, .niov = 1, .reg_index = -1};
	struct lun_stages s;

	for (int i = 0; i < 8; i++)
		assert_int_equal(do_io(f->lun, &io, f->way), 0);
	lun_get_stages(f->lun, LUN_CLASS_WRITE, &s);
	assert_true(s.disk_ns > 0);
	assert_int_equal(s.queue_ns + s.cache_ns + s.disk_ns,
			 metric_read(&lun_counters(f->lun)->latency[LUN_CLASS_WRITE].sum_ns));
	lun_get_stages(f->lun, LUN_CLASS_READ, &s);
	assert_int_equal(s.queue_ns + s.cache_ns + s.disk_ns, 0);
}

#define TEST(fn)                                 \
	{                                        \
#fn, fn, set_up, tear_down, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(reads_back_what_was_written),
		TEST(scattered_memory_is_one_range),
		TEST(any_range_in_any_order_is_like_memory),
		TEST(verify_tells_where_it_differs),
		TEST(compare_and_write_writes_only_when_equal),
		TEST(or_write_ors),
		TEST(write_same_repeats_its_pattern),
		TEST(copies_also_onto_itself),
		TEST(copies_between_luns),
		TEST(status_shows_holes),
		TEST(unmap_gives_space_back),
		TEST(a_range_past_the_end_is_refused),
		TEST(a_truncated_file_is_an_error_not_zeros),
		TEST(a_fence_stops_who_is_not_authorized),
		TEST(ops_are_counted),
		TEST(requests_are_counted_by_length_and_alignment),
		TEST(other_ops_are_counted_by_kind),
		TEST(stages_make_up_the_latency),
	};
	int failed = 0;

	for (size_t i = 0; i < sizeof(setups) / sizeof(setups[0]); i++) {
		struct CMUnitTest run[sizeof(tests) / sizeof(tests[0])];

		memcpy(run, tests, sizeof(tests));
		for (size_t j = 0; j < sizeof(tests) / sizeof(tests[0]); j++)
			run[j].initial_state = (void *)(uintptr_t)&setups[i];
		print_message("%s, %s\n", setups[i].way == WAY_SYNC ? "sync" : "async",
			      setups[i].mode == BLOCK_MODE_DIRECT ? "direct" : "buffered");
		failed += _cmocka_run_group_tests("ops", run, sizeof(run) / sizeof(run[0]), NULL,
						  NULL);
	}
	harness_stop();
	return failed;
}
