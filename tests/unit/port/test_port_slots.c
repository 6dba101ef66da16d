/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include "front/port/port_slots.h"

#define IDLE_MS 20

static uint64_t punched; /* bit i: slot i has been since */

static void punch(void *ctx, uint64_t off, uint64_t len)
{
	(void)ctx;
	assert_int_equal(off % PORT_SLOT_SIZE, 0);
	assert_int_equal(len % PORT_SLOT_SIZE, 0);
	for (uint64_t tag = off / PORT_SLOT_SIZE; tag < (off + len) / PORT_SLOT_SIZE; tag++)
		punched |= 1ull << tag;
}

static void open_slots(struct port_slots *s)
{
	punched = 0;
	assert_int_equal(port_slots_init(s, IDLE_MS, punch, NULL), 0);
}

static void idle(void)
{
	struct timespec ts = {.tv_nsec = (IDLE_MS + 1) * 1000000};

	nanosleep(&ts, NULL);
}

static void lowest_free_slot_is_taken(void **state)
{
	struct port_slots s;

	(void)state;
	open_slots(&s);
	assert_int_equal(port_slots_take(&s), 0);
	assert_int_equal(port_slots_take(&s), 1);
	assert_int_equal(port_slots_take(&s), 2);
	port_slots_put(&s, 1);
	assert_int_equal(port_slots_take(&s), 1);
	assert_int_equal(port_slots_take(&s), 3);
	port_slots_destroy(&s);
}

static void all_slots_are_taken_only_while_none_is(void **state)
{
	struct port_slots s;

	(void)state;
	open_slots(&s);
	assert_int_equal(port_slots_take(&s), 0);
	assert_false(port_slots_try_all(&s));
	port_slots_put(&s, 0);
	assert_true(port_slots_pin(&s));
	port_slots_unpin(&s);
	assert_true(port_slots_try_all(&s));
	assert_false(port_slots_pin(&s));
	port_slots_put_all(&s);
	for (uint32_t tag = 0; tag < PORT_SLOTS; tag++) {
		assert_true(port_slots_any(&s));
		assert_int_equal(tag % 2 ? port_slots_take(&s) : (uint32_t)port_slots_try(&s), tag);
	}
	assert_int_equal(port_slots_try(&s), -1);
	assert_false(port_slots_any(&s));
	for (uint32_t tag = 0; tag < PORT_SLOTS; tag++)
		port_slots_put(&s, tag);
	assert_true(port_slots_any(&s));
	port_slots_trim(&s); /* they are the area's again */
	assert_true(port_slots_any(&s));
	assert_int_equal(port_slots_try(&s), 0);
	port_slots_put(&s, 0);
	port_slots_wait_all(&s);
	assert_int_equal(port_slots_try(&s), -1);
	port_slots_destroy(&s);
}

static void a_slot_not_used_for_a_tick_is_emptied(void **state)
{
	struct port_slots s;

	(void)state;
	open_slots(&s);
	for (uint32_t tag = 0; tag < 3; tag++)
		assert_int_equal(port_slots_take(&s), tag);
	port_slots_put(&s, 0);
	port_slots_put(&s, 2);
	assert_true(port_slots_trim(&s)); /* they were in use until now */
	assert_int_equal(punched, 0);
	idle();
	assert_true(port_slots_trim(&s)); /* slot 1 still is */
	assert_int_equal(punched, 1 << 0 | 1 << 2);
	port_slots_put(&s, 1);
	port_slots_trim(&s);
	assert_int_equal(port_slots_take(&s), 1); /* it has its pages */
	port_slots_put(&s, 1);
	port_slots_trim(&s);
	idle();
	assert_false(port_slots_trim(&s));
	assert_int_equal(punched, 1 << 0 | 1 << 1 | 1 << 2);
	assert_int_equal(port_slots_take(&s), 0);
	port_slots_destroy(&s);
}

static void a_slot_in_use_is_never_emptied(void **state)
{
	struct port_slots s;

	(void)state;
	open_slots(&s);
	for (int i = 0; i < 5; i++) {
		/* In use at some ticks, idle at none. */
		assert_int_equal(port_slots_take(&s), 0);
		if (i % 2)
			port_slots_put(&s, 0);
		assert_true(port_slots_trim(&s));
		if (!(i % 2))
			port_slots_put(&s, 0);
		idle();
	}
	assert_int_equal(punched, 0);
	port_slots_destroy(&s);
}

static void what_is_forgotten_has_no_pages(void **state)
{
	struct port_slots s;

	(void)state;
	open_slots(&s);
	for (uint32_t tag = 0; tag < 4; tag++)
		assert_int_equal(port_slots_take(&s), tag);
	for (uint32_t tag = 0; tag < 4; tag++)
		port_slots_put(&s, tag);
	port_slots_wait_all(&s);
	port_slots_forget(&s);
	port_slots_put_all(&s);
	assert_int_equal(punched, 15);
	assert_false(port_slots_trim(&s));
	assert_int_equal(port_slots_take(&s), 0);
	port_slots_destroy(&s);
}

#define THREADS 80 /* more than slots */
#define ROUNDS	2000

struct crowd {
	struct port_slots slots;
	_Atomic int holders[PORT_SLOTS];
	_Atomic int broken;
};

static void *crowd_main(void *arg)
{
	struct crowd *c = arg;

	for (int i = 0; i < ROUNDS; i++) {
		uint32_t tag = port_slots_take(&c->slots);

		if (atomic_fetch_add(&c->holders[tag], 1) != 0)
			atomic_store(&c->broken, 1);
		if (i % 8 == 0)
			sched_yield();
		atomic_fetch_sub(&c->holders[tag], 1);
		port_slots_put(&c->slots, tag);
	}
	return NULL;
}

static void a_crowd_shares_slots_one_holder_each(void **state)
{
	static struct crowd c;
	pthread_t t[THREADS];

	(void)state;
	open_slots(&c.slots);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, crowd_main, &c), 0);
	for (int i = 0; i < 20; i++) {
		port_slots_wait_all(&c.slots);
		for (uint32_t tag = 0; tag < PORT_SLOTS; tag++)
			assert_int_equal(atomic_load(&c.holders[tag]), 0);
		if (i % 2)
			port_slots_forget(&c.slots);
		port_slots_put_all(&c.slots);
		port_slots_trim(&c.slots);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(atomic_load(&c.broken), 0);
	assert_true(port_slots_try_all(&c.slots));
	port_slots_destroy(&c.slots);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lowest_free_slot_is_taken),
		cmocka_unit_test(all_slots_are_taken_only_while_none_is),
		cmocka_unit_test(a_slot_not_used_for_a_tick_is_emptied),
		cmocka_unit_test(a_slot_in_use_is_never_emptied),
		cmocka_unit_test(what_is_forgotten_has_no_pages),
		cmocka_unit_test(a_crowd_shares_slots_one_holder_each),
	};

	return cmocka_run_group_tests_name("port_slots", tests, NULL, NULL);
}
