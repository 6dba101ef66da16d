/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "front/port/port_ring.h"

struct fixture {
	struct port_ring ring;
	void *shm;
};

static int setup(void **state)
{
	static struct fixture f;

	f.shm = mmap(NULL, PORT_META_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	assert_ptr_not_equal(f.shm, MAP_FAILED);
	port_ring_init(&f.ring, f.shm, PORT_VERSION);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	return munmap(f->shm, PORT_META_SIZE);
}

static void submit(struct fixture *f, const struct port_cmd_image *c)
{
	struct port_box *box = port_shm_box(f->shm);
	uint32_t tail = atomic_load(&box->tail);

	port_cmd_store(port_shm_cmd(f->shm, tail), c);
	atomic_store(&box->tail, tail + 1);
}

static int take(struct fixture *f, struct port_request *req)
{
	const char *what = NULL;
	int got = port_ring_take(&f->ring, req, &what);

	assert_int_equal(got < 0, what != NULL);
	return got;
}

static const struct port_cmd_image good_read = {
	.tag = 5, .op = PORT_READ, .off = 4096, .len = 8192};

static void command_is_taken_as_it_was_given(void **state)
{
	struct fixture *f = *state;
	struct port_request req;

	assert_int_equal(take(f, &req), 0);
	submit(f, &good_read);
	assert_int_equal(take(f, &req), 1);
	assert_int_equal(req.tag, 5);
	assert_int_equal(req.op, PORT_READ);
	assert_int_equal(req.off, 4096);
	assert_int_equal(req.len, 8192);
	assert_int_equal(f->ring.inflight, 1ull << 5);
	assert_int_equal(take(f, &req), 0);
}

static void slot_in_flight_cannot_be_used_again(void **state)
{
	struct fixture *f = *state;
	struct port_request req;

	submit(f, &good_read);
	submit(f, &good_read);
	assert_int_equal(take(f, &req), 1);
	assert_int_equal(take(f, &req), -EPROTO);
}

static void slot_is_free_again_once_completed(void **state)
{
	struct fixture *f = *state;
	struct port_request req;

	for (int i = 0; i < 1000; i++) {
		submit(f, &good_read);
		assert_int_equal(take(f, &req), 1);
		assert_false(port_ring_complete(&f->ring, req.tag, -EIO));
		assert_int_equal(atomic_load(&port_shm_cell(f->shm, 5)->result), -EIO);
		assert_int_equal(atomic_load(&port_shm_cell(f->shm, 5)->state), PORT_CELL_DONE);
	}
	assert_int_equal(f->ring.inflight, 0);
}

static void only_a_waiter_that_sleeps_is_woken(void **state)
{
	struct fixture *f = *state;
	struct port_request req;

	submit(f, &good_read);
	assert_int_equal(take(f, &req), 1);
	atomic_store(&port_shm_cell(f->shm, 5)->state, PORT_CELL_WAITING);
	assert_true(port_ring_complete(&f->ring, 5, 0));
	assert_int_equal(port_ring_wake(&f->ring), 1);
	assert_false(port_ring_wake_due(&f->ring));
	assert_int_equal(port_ring_wake(&f->ring), 0);
	submit(f, &good_read);
	assert_int_equal(take(f, &req), 1);
	atomic_store(&port_shm_cell(f->shm, 5)->state, PORT_CELL_BUSY);
	assert_false(port_ring_complete(&f->ring, 5, 0));
}

static void the_reaper_is_told_by_bits_and_woken_once(void **state)
{
	struct fixture *f = *state;
	struct port_box *box = port_shm_box(f->shm);
	struct port_request req;

	for (int asleep = 0; asleep < 2; asleep++) {
		for (uint32_t tag = 3; tag < 6; tag++) {
			struct port_cmd_image c = good_read;

			c.tag = tag;
			c.flags = PORT_NOTIFY;
			submit(f, &c);
			assert_int_equal(take(f, &req), 1);
		}
		atomic_store(&box->reaper, (uint32_t)asleep);
		for (uint32_t tag = 3; tag < 6; tag++) {
			assert_true(port_ring_complete(&f->ring, tag, 0));
			assert_int_equal(atomic_load(&port_shm_cell(f->shm, tag)->state),
					 PORT_CELL_DONE);
		}
		assert_int_equal(atomic_exchange(&box->done, 0), 7u << 3);
		assert_int_equal(port_ring_wake(&f->ring), asleep);
		assert_false(port_ring_wake_due(&f->ring));
		assert_int_equal(atomic_load(&box->reaper), 0);
	}
	/* Without the flag it is told in the cell alone. */
	submit(f, &good_read);
	assert_int_equal(take(f, &req), 1);
	assert_false(port_ring_complete(&f->ring, 5, 0));
	assert_int_equal(atomic_load(&box->done), 0);
}

static void version_2_has_nothing_of_version_3(void **state)
{
	static const struct port_cmd_image new[] = {
		{.op = PORT_WRITE_SAME, .len = 512, .room = 512},
		{.op = PORT_COMPARE_AND_WRITE, .len = 512},
		{.op = PORT_READ, .len = 512, .flags = PORT_NOTIFY},
	};
	struct fixture *f = *state;
	struct port_request req;

	for (size_t i = 0; i < sizeof(new) / sizeof(new[0]); i++) {
		memset(f->shm, 0, PORT_META_SIZE);
		port_ring_init(&f->ring, f->shm, 2);
		submit(f, &new[i]);
		assert_int_equal(take(f, &req), -EPROTO);
		port_ring_init(&f->ring, f->shm, 3);
		assert_int_equal(take(f, &req), 1);
	}
}

static void matched_is_a_word_of_the_cell(void **state)
{
	struct fixture *f = *state;

	port_ring_matched(&f->ring, 9);
	assert_int_equal(atomic_load(&port_shm_cell(f->shm, 9)->matched), 1);
}

static void counters_may_wrap(void **state)
{
	struct fixture *f = *state;
	struct port_request req;

	f->ring.head = UINT32_MAX - 2;
	atomic_store(&port_shm_box(f->shm)->tail, UINT32_MAX - 2);
	for (uint32_t tag = 0; tag < 8; tag++) {
		struct port_cmd_image c = {.tag = tag, .op = PORT_FLUSH};

		submit(f, &c);
	}
	for (uint32_t tag = 0; tag < 8; tag++) {
		assert_int_equal(take(f, &req), 1);
		assert_int_equal(req.tag, tag);
	}
	assert_int_equal(take(f, &req), 0);
}

static void tail_beyond_the_ring_is_refused(void **state)
{
	struct fixture *f = *state;
	struct port_request req;

	atomic_store(&port_shm_box(f->shm)->tail, PORT_RING + 1);
	assert_int_equal(take(f, &req), -EPROTO);
	atomic_store(&port_shm_box(f->shm)->tail, UINT32_MAX); /* behind the head */
	assert_int_equal(take(f, &req), -EPROTO);
	assert_int_equal(f->ring.head, 0);
}

static void sleep_is_refused_when_there_is_work(void **state)
{
	struct fixture *f = *state;
	struct port_request req;

	assert_true(port_ring_sleep(&f->ring));
	assert_int_equal(atomic_load(&port_shm_box(f->shm)->sleeping), 1);
	assert_false(port_ring_ready(&f->ring));
	submit(f, &good_read);
	assert_true(port_ring_ready(&f->ring));
	assert_false(port_ring_sleep(&f->ring));
	/* Nobody need ring for what we know of. */
	assert_int_equal(atomic_load(&port_shm_box(f->shm)->sleeping), 0);
	assert_int_equal(take(f, &req), 1);
	assert_false(port_ring_ready(&f->ring));
	assert_true(port_ring_sleep(&f->ring));
}

static void longest_of_each_kind_is_taken(void **state)
{
	static const struct port_cmd_image good[] = {
		{.op = PORT_READ, .len = PORT_SLOT_SIZE},
		{.op = PORT_WRITE, .len = PORT_SLOT_SIZE, .flags = PORT_FUA | PORT_REPLAY},
		{.op = PORT_WRITE, .len = 1, .off = INT64_MAX - 1},
		{.op = PORT_FLUSH},
		{.op = PORT_TRIM, .len = PORT_RANGE_MAX, .flags = PORT_FUA | PORT_REPLAY},
		{.op = PORT_ZERO,
		 .len = 1,
		 .flags = PORT_FUA | PORT_MAY_TRIM | PORT_FAST | PORT_REPLAY},
		{.op = PORT_EXTENTS, .len = PORT_RANGE_MAX, .room = PORT_EXTENTS_MAX},
		{.op = PORT_PREFETCH, .len = 1},
		{.op = PORT_WRITE_SAME,
		 .len = PORT_RANGE_MAX,
		 .room = PORT_PATTERN_MAX,
		 .flags = PORT_FUA | PORT_REPLAY},
		{.op = PORT_COMPARE_AND_WRITE,
		 .len = PORT_COMPARE_MAX,
		 .flags = PORT_FUA | PORT_NOTIFY},
	};
	struct fixture *f = *state;
	struct port_request req;

	for (uint32_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct port_cmd_image c = good[i];

		c.tag = PORT_SLOTS - 1 - i;
		submit(f, &c);
		assert_int_equal(take(f, &req), 1);
		assert_int_equal(req.len, c.len);
		assert_int_equal(req.room, c.room);
		assert_int_equal(req.flags, c.flags);
	}
}

static void what_is_out_of_range_is_refused(void **state)
{
	static const struct port_cmd_image bad[] = {
		{.tag = PORT_SLOTS, .op = PORT_READ, .len = 1},
		{.tag = UINT32_MAX, .op = PORT_READ, .len = 1},
		{.op = 0, .len = 1},
		{.op = PORT_COMPARE_AND_WRITE + 1, .len = 1},
		{.op = UINT16_MAX, .len = 1},
		{.op = PORT_READ, .len = 0},
		{.op = PORT_READ, .len = PORT_SLOT_SIZE + 1},
		{.op = PORT_WRITE, .len = UINT64_MAX},
		{.op = PORT_READ, .len = 1, .flags = PORT_FUA},
		{.op = PORT_WRITE, .len = 1, .flags = PORT_FAST},
		{.op = PORT_READ, .len = 1, .flags = PORT_REPLAY},
		{.op = PORT_FLUSH, .flags = PORT_REPLAY},
		{.op = PORT_ZERO, .len = 1, .flags = PORT_NOTIFY << 1},
		{.op = PORT_WRITE_SAME, .len = 1, .room = 0},
		{.op = PORT_WRITE_SAME, .len = 1, .room = PORT_PATTERN_MAX + 1},
		{.op = PORT_WRITE_SAME, .len = 0, .room = 1},
		{.op = PORT_COMPARE_AND_WRITE, .len = PORT_COMPARE_MAX + 1},
		{.op = PORT_COMPARE_AND_WRITE, .len = 1, .flags = PORT_REPLAY},
		{.op = PORT_COMPARE_AND_WRITE, .len = 1, .room = 1},
		{.op = PORT_READ, .len = 1, .off = UINT64_MAX},
		{.op = PORT_READ, .len = 1, .off = INT64_MAX},
		{.op = PORT_READ, .len = 2, .off = INT64_MAX - 1},
		{.op = PORT_TRIM, .len = PORT_RANGE_MAX + 1},
		{.op = PORT_TRIM, .len = 0},
		{.op = PORT_FLUSH, .len = 1},
		{.op = PORT_FLUSH, .off = 1},
		{.op = PORT_EXTENTS, .len = 1, .room = 0},
		{.op = PORT_EXTENTS, .len = 1, .room = PORT_EXTENTS_MAX + 1},
		{.op = PORT_READ, .len = 1, .room = 1},
		{.op = PORT_READ, .len = 1, .reserved0 = 1},
		{.op = PORT_READ, .len = 1, .reserved = {1}},
		{.op = PORT_READ, .len = 1, .reserved = {0, 0, 0, 1}},
	};
	struct fixture *f = *state;
	struct port_request req;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		port_ring_init(&f->ring, f->shm, PORT_VERSION);
		memset(f->shm, 0, PORT_META_SIZE);
		submit(f, &bad[i]);
		if (take(f, &req) != -EPROTO)
			fail_msg("command %zu was taken", i);
		assert_int_equal(f->ring.inflight, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(command_is_taken_as_it_was_given),
		T(slot_in_flight_cannot_be_used_again),
		T(slot_is_free_again_once_completed),
		T(only_a_waiter_that_sleeps_is_woken),
		T(the_reaper_is_told_by_bits_and_woken_once),
		T(version_2_has_nothing_of_version_3),
		T(matched_is_a_word_of_the_cell),
		T(counters_may_wrap),
		T(tail_beyond_the_ring_is_refused),
		T(sleep_is_refused_when_there_is_work),
		T(longest_of_each_kind_is_taken),
		T(what_is_out_of_range_is_refused),
	};

	return cmocka_run_group_tests_name("port_ring", tests, NULL, NULL);
}
