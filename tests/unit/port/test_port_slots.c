/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "front/port/port_slots.h"

static void lowest_free_slot_is_taken(void **state)
{
	struct port_slots s;

	port_slots_init(&s);
	assert_int_equal(port_slots_take(&s), 0);
	assert_int_equal(port_slots_take(&s), 1);
	assert_int_equal(port_slots_take(&s), 2);
	port_slots_put(&s, 1);
	assert_int_equal(port_slots_take(&s), 1);
	assert_int_equal(port_slots_take(&s), 3);
	port_slots_destroy(&s);
}

static void a_slot_taken_cannot_be_taken(void **state)
{
	struct port_slots s;

	port_slots_init(&s);
	assert_true(port_slots_try(&s, 63));
	assert_false(port_slots_try(&s, 63));
	assert_false(port_slots_try_all(&s));
	port_slots_put(&s, 63);
	assert_true(port_slots_try_all(&s));
	assert_false(port_slots_try(&s, 0));
	port_slots_put_all(&s);
	assert_true(port_slots_try(&s, 0));
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
		port_slots_touch(&c->slots, tag, tag + 1);
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

	port_slots_init(&c.slots);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, crowd_main, &c), 0);
	for (int i = 0; i < 20; i++) {
		port_slots_wait_all(&c.slots);
		for (uint32_t tag = 0; tag < PORT_SLOTS; tag++)
			assert_int_equal(atomic_load(&c.holders[tag]), 0);
		port_slots_put_all(&c.slots);
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
		cmocka_unit_test(a_slot_taken_cannot_be_taken),
		cmocka_unit_test(a_crowd_shares_slots_one_holder_each),
	};

	return cmocka_run_group_tests_name("port_slots", tests, NULL, NULL);
}
