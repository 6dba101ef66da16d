/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The persistent reservation state machine against SPC-4 5.12 and the conflict tables. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/endian.h"
#include "scsi/pr_core.h"

/* --- a little world: a target with two ports, initiators named by a letter --- */

static struct pr_nexus nexus(char who, uint16_t port)
{
	struct pr_nexus n = {.rel_port = port, .transport_id_len = 24};

	snprintf(n.target, sizeof(n.target), "iqn.test:t");
	n.transport_id[0] = 0x06;
	n.transport_id[4] = (uint8_t)who;
	return n;
}

struct world {
	struct pr_state st;
	struct pr_effects last;
};

static int setup(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));

	pr_state_init(&w->st);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	pr_state_free(&w->st);
	pr_effects_free(&w->last);
	test_free(w);
	return 0;
}

/** As the device server does it: on a copy, which replaces the state only when it is accepted. */
static enum pr_verdict submit(struct world *w, const struct pr_request *rq)
{
	struct pr_state next;
	struct pr_effects e = {0};
	enum pr_verdict v;

	assert_int_equal(pr_state_copy(&next, &w->st, 0), 0);
	v = pr_apply(&next, rq, &e);
	pr_effects_free(&w->last);
	w->last = e;
	if (v != PR_OK) {
		pr_state_free(&next);
		return v;
	}
	pr_state_free(&w->st);
	w->st = next;
	return v;
}

static enum pr_verdict out(struct world *w, char who, enum pr_action action, uint64_t key,
			   uint64_t sa_key, uint8_t type)
{
	struct pr_nexus n = nexus(who, 1);
	struct pr_request rq = {.action = action,
				.nexus = &n,
				.n_ports = 2,
				.key = key,
				.sa_key = sa_key,
				.type = type};

	return submit(w, &rq);
}

static uint64_t key_of(struct world *w, char who)
{
	struct pr_nexus n = nexus(who, 1);
	const struct pr_registration *r = pr_find(&w->st, &n);

	return r ? r->key : 0;
}

static bool holds(struct world *w, char who)
{
	struct pr_nexus n = nexus(who, 1);

	return pr_is_holder(&w->st, pr_find(&w->st, &n));
}

static enum pr_notice told(struct world *w, char who, bool *ret_abort)
{
	struct pr_nexus n = nexus(who, 1);
	enum pr_notice notice = PR_NOTICE_NONE;
	unsigned times = 0;

	*ret_abort = false;
	for (size_t i = 0; i < w->last.n; i++) {
		if (!pr_nexus_equal(&w->last.v[i].nexus, &n))
			continue;
		notice = w->last.v[i].notice;
		*ret_abort = w->last.v[i].abort;
		times++;
	}
	assert_true(times <= 1);
	return notice;
}

#define assert_told(w, who, what)                              \
	do {                                                   \
		bool abort_;                                   \
		assert_int_equal(told(w, who, &abort_), what); \
		assert_false(abort_);                          \
	} while (0)

static void register_abc(struct world *w)
{
	assert_int_equal(out(w, 'a', PR_REGISTER, 0, 0xa, 0), PR_OK);
	assert_int_equal(out(w, 'b', PR_REGISTER, 0, 0xb, 0), PR_OK);
	assert_int_equal(out(w, 'c', PR_REGISTER, 0, 0xc, 0), PR_OK);
}

static const enum pr_type all_types[] = {PR_TYPE_WE,	PR_TYPE_EA,    PR_TYPE_WE_RO,
					 PR_TYPE_EA_RO, PR_TYPE_WE_AR, PR_TYPE_EA_AR};
#define N_TYPES (sizeof(all_types) / sizeof(all_types[0]))

/* --- the tables --- */

/* Rows: who asks; columns: class of command. 'A' allowed, 'C' conflict (SBC-3 table 13). */
static void conflict_table_is_the_standards(void **state)
{
	static const struct {
		enum pr_type type;
		const char *holder, *registrant, *stranger; /* NONE, READ, WRITE */
	} row[] = {
		{PR_TYPE_NONE, "AAA", "AAA", "AAA"},  {PR_TYPE_WE, "AAA", "AAC", "AAC"},
		{PR_TYPE_EA, "AAA", "ACC", "ACC"},    {PR_TYPE_WE_RO, "AAA", "AAA", "AAC"},
		{PR_TYPE_EA_RO, "AAA", "AAA", "ACC"}, {PR_TYPE_WE_AR, "AAA", "AAA", "AAC"},
		{PR_TYPE_EA_AR, "AAA", "AAA", "ACC"},
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		struct pr_state st = {.type = row[i].type};

		for (int cls = PR_CLASS_NONE; cls <= PR_CLASS_WRITE; cls++) {
			enum pr_class c = (enum pr_class)cls;

			assert_int_equal(pr_allows(&st, c, true, true), row[i].holder[cls] == 'A');
			assert_int_equal(pr_allows(&st, c, true, false),
					 row[i].registrant[cls] == 'A');
			assert_int_equal(pr_allows(&st, c, false, false),
					 row[i].stranger[cls] == 'A');
		}
	}
}

static void type_field_knows_six_types(void **state)
{
	unsigned valid = 0;

	for (unsigned t = 0; t < 16; t++)
		valid |= (unsigned)pr_type_valid((uint8_t)t) << t;
	assert_int_equal(valid, 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8);
}

/* --- REGISTER --- */

/* SPC-4 table 44: what REGISTER does, by registration, key and service action key. */
static void register_follows_its_table(void **state)
{
	static const struct {
		uint64_t have, key, sa_key;
		enum pr_verdict verdict;
		uint64_t after;
		unsigned generations;
	} row[] = {
		{0, 0, 0, PR_OK, 0, 0},	      {0, 0, 7, PR_OK, 7, 1},
		{0, 5, 0, PR_CONFLICT, 0, 0}, {0, 5, 7, PR_CONFLICT, 0, 0},
		{5, 5, 7, PR_OK, 7, 1},	      {5, 5, 0, PR_OK, 0, 1},
		{5, 6, 7, PR_CONFLICT, 5, 0}, {5, 0, 7, PR_CONFLICT, 5, 0},
		{5, 0, 0, PR_CONFLICT, 5, 0},
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		struct world w = {0};
		uint32_t gen;

		if (row[i].have)
			assert_int_equal(out(&w, 'a', PR_REGISTER, 0, row[i].have, 0), PR_OK);
		gen = w.st.generation;
		assert_int_equal(out(&w, 'a', PR_REGISTER, row[i].key, row[i].sa_key, 0),
				 row[i].verdict);
		assert_int_equal(key_of(&w, 'a'), row[i].after);
		assert_int_equal(w.st.generation - gen, row[i].generations);
		pr_state_free(&w.st);
		pr_effects_free(&w.last);
	}
}

static void register_and_ignore_does_not_look_at_the_key(void **state)
{
	struct world *w = *state;

	assert_int_equal(out(w, 'a', PR_REGISTER_AND_IGNORE, 99, 0xa, 0), PR_OK);
	assert_int_equal(out(w, 'a', PR_REGISTER_AND_IGNORE, 98, 0xaa, 0), PR_OK);
	assert_int_equal(key_of(w, 'a'), 0xaa);
	assert_int_equal(out(w, 'a', PR_REGISTER_AND_IGNORE, 97, 0, 0), PR_OK);
	assert_int_equal(w->st.n_regs, 0);
	assert_int_equal(w->st.generation, 3);
}

static void spec_i_pt_registers_all_or_none(void **state)
{
	struct world *w = *state;
	struct pr_nexus self = nexus('a', 1), list[2] = {nexus('b', 1), nexus('c', 1)};
	struct pr_request rq = {.action = PR_REGISTER,
				.nexus = &self,
				.n_ports = 2,
				.sa_key = 0xa,
				.spec_i_pt = true,
				.others = list,
				.n_others = 2};

	assert_int_equal(out(w, 'c', PR_REGISTER, 0, 0xc, 0), PR_OK);
	assert_int_equal(submit(w, &rq), PR_CONFLICT); /* c has another key */
	assert_int_equal(w->st.n_regs, 1);
	assert_int_equal(out(w, 'c', PR_REGISTER, 0xc, 0, 0), PR_OK);
	assert_int_equal(submit(w, &rq), PR_OK);
	assert_int_equal(key_of(w, 'a'), 0xa);
	assert_int_equal(key_of(w, 'b'), 0xa);
	assert_int_equal(key_of(w, 'c'), 0xa);
	rq.key = 0xa;
	assert_int_equal(submit(w, &rq), PR_BAD_SPEC_I_PT); /* registered already */
	rq.action = PR_REGISTER_AND_IGNORE;
	assert_int_equal(submit(w, &rq), PR_BAD_SPEC_I_PT);
}

static void all_tg_pt_registers_through_every_port(void **state)
{
	struct world *w = *state;
	struct pr_nexus a1 = nexus('a', 1), a2 = nexus('a', 2);
	struct pr_request rq = {.action = PR_REGISTER,
				.nexus = &a1,
				.n_ports = 2,
				.sa_key = 0xa,
				.all_tg_pt = true};

	assert_int_equal(submit(w, &rq), PR_OK);
	assert_int_equal(w->st.n_regs, 2);
	assert_non_null(pr_find(&w->st, &a2));
	assert_int_equal(w->st.generation, 1);
	rq.key = 0xa;
	rq.sa_key = 0;
	assert_int_equal(submit(w, &rq), PR_OK);
	assert_int_equal(w->st.n_regs, 0);
}

static void a_limit_on_registrations_is_an_error_not_a_loss(void **state)
{
	struct world *w = *state;
	struct pr_nexus one = nexus('z', 1);

	for (unsigned i = 0; i < PR_REGISTRATIONS_MAX; i++) {
		struct pr_nexus n = nexus('q', 1);

		put_be32(n.transport_id + 8, i);
		assert_int_equal(pr_state_add(&w->st, &n, 1), 0);
	}
	assert_int_equal(pr_state_add(&w->st, &one, 1), -EINVAL);
	assert_int_equal(out(w, 'z', PR_REGISTER, 0, 9, 0), PR_NO_RESOURCES);
	assert_int_equal(w->st.n_regs, PR_REGISTRATIONS_MAX);
}

/* --- RESERVE and RELEASE --- */

static void reserve_needs_the_key_and_a_known_type(void **state)
{
	struct world *w = *state;

	assert_int_equal(out(w, 'a', PR_RESERVE, 0, 0, PR_TYPE_WE), PR_CONFLICT);
	register_abc(w);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xb, 0, PR_TYPE_WE), PR_CONFLICT);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, 2), PR_BAD_SCOPE_OR_TYPE);
	assert_int_equal(w->st.type, PR_TYPE_NONE);
	for (size_t i = 0; i < N_TYPES; i++) {
		assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, all_types[i]), PR_OK);
		assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, all_types[i]), PR_OK);
		assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, all_types[(i + 1) % N_TYPES]),
				 PR_CONFLICT);
		/* Every registrant holds an all-registrants reservation, and only those. */
		assert_int_equal(out(w, 'b', PR_RESERVE, 0xb, 0, all_types[i]),
				 pr_type_all_registrants(all_types[i]) ? PR_OK : PR_CONFLICT);
		assert_int_equal(holds(w, 'b'), pr_type_all_registrants(all_types[i]));
		assert_int_equal(out(w, 'a', PR_RELEASE, 0xa, 0, all_types[i]), PR_OK);
	}
	assert_int_equal(w->st.generation, 3); /* neither RESERVE nor RELEASE counts */
}

static void release_tells_registrants_of_shared_types_only(void **state)
{
	struct world *w = *state;

	register_abc(w);
	for (size_t i = 0; i < N_TYPES; i++) {
		enum pr_type t = all_types[i];
		bool shared = pr_type_all_registrants(t) || pr_type_registrants_only(t);

		assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, t), PR_OK);
		assert_int_equal(out(w, 'a', PR_RELEASE, 0xa, 0, all_types[(i + 1) % N_TYPES]),
				 PR_BAD_RELEASE);
		assert_int_equal(w->st.type, t);
		assert_int_equal(out(w, 'a', PR_RELEASE, 0xa, 0, t), PR_OK);
		assert_int_equal(w->st.type, PR_TYPE_NONE);
		assert_told(w, 'a', PR_NOTICE_NONE);
		assert_told(w, 'b', shared ? PR_NOTICE_RESERVATIONS_RELEASED : PR_NOTICE_NONE);
	}
}

static void release_by_another_registrant_changes_nothing(void **state)
{
	struct world *w = *state;

	register_abc(w);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, PR_TYPE_WE_RO), PR_OK);
	assert_int_equal(out(w, 'b', PR_RELEASE, 0xb, 0, PR_TYPE_WE_RO), PR_OK);
	assert_true(holds(w, 'a'));
	assert_int_equal(out(w, 'b', PR_RELEASE, 0xa, 0, PR_TYPE_WE_RO), PR_CONFLICT);
	/* With all registrants, anyone may release. */
	assert_int_equal(out(w, 'a', PR_RELEASE, 0xa, 0, PR_TYPE_WE_RO), PR_OK);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, PR_TYPE_EA_AR), PR_OK);
	assert_int_equal(out(w, 'b', PR_RELEASE, 0xb, 0, PR_TYPE_EA_AR), PR_OK);
	assert_int_equal(w->st.type, PR_TYPE_NONE);
}

static void unregistering_the_holder_releases(void **state)
{
	struct world *w = *state;

	for (size_t i = 0; i < N_TYPES; i++) {
		enum pr_type t = all_types[i];

		register_abc(w);
		assert_int_equal(out(w, 'b', PR_RESERVE, 0xb, 0, t), PR_OK);
		assert_int_equal(out(w, 'a', PR_REGISTER, 0xa, 0, 0), PR_OK);
		assert_true(holds(w, 'b')); /* although its index moved */
		assert_int_equal(out(w, 'b', PR_REGISTER, 0xb, 0, 0), PR_OK);
		if (pr_type_all_registrants(t)) {
			assert_int_equal(w->st.type, t);
			assert_told(w, 'c', PR_NOTICE_NONE);
			assert_true(holds(w, 'c'));
		} else {
			assert_int_equal(w->st.type, PR_TYPE_NONE);
			assert_told(w, 'c',
				    pr_type_registrants_only(t) ? PR_NOTICE_RESERVATIONS_RELEASED
								: PR_NOTICE_NONE);
		}
		assert_int_equal(out(w, 'c', PR_REGISTER, 0xc, 0, 0), PR_OK);
		assert_int_equal(w->st.type, PR_TYPE_NONE); /* the last one takes it along */
	}
}

static void clear_removes_everything_and_tells_all(void **state)
{
	struct world *w = *state;

	register_abc(w);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, PR_TYPE_EA), PR_OK);
	assert_int_equal(out(w, 'd', PR_CLEAR, 0, 0, 0), PR_CONFLICT);
	assert_int_equal(out(w, 'b', PR_CLEAR, 0xb, 0, 0), PR_OK);
	assert_int_equal(w->st.n_regs, 0);
	assert_int_equal(w->st.type, PR_TYPE_NONE);
	assert_int_equal(w->st.generation, 4);
	assert_told(w, 'a', PR_NOTICE_RESERVATIONS_PREEMPTED);
	assert_told(w, 'b', PR_NOTICE_NONE);
	assert_told(w, 'c', PR_NOTICE_RESERVATIONS_PREEMPTED);
}

/* --- PREEMPT --- */

static void preempt_takes_over_the_reservation(void **state)
{
	struct world *w = *state;
	bool abort;

	register_abc(w);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, PR_TYPE_WE), PR_OK);
	assert_int_equal(out(w, 'b', PR_PREEMPT, 0xb, 0xa, 2), PR_BAD_SCOPE_OR_TYPE);
	assert_true(holds(w, 'a'));
	assert_int_equal(out(w, 'b', PR_PREEMPT_AND_ABORT, 0xb, 0xa, PR_TYPE_EA_RO), PR_OK);
	assert_true(holds(w, 'b'));
	assert_int_equal(w->st.type, PR_TYPE_EA_RO);
	assert_int_equal(key_of(w, 'a'), 0);
	assert_int_equal(key_of(w, 'c'), 0xc);
	assert_int_equal(told(w, 'a', &abort), PR_NOTICE_REGISTRATIONS_PREEMPTED);
	assert_true(abort);
	assert_told(w, 'c', PR_NOTICE_RESERVATIONS_RELEASED); /* the type changed */
	assert_told(w, 'b', PR_NOTICE_NONE);
	assert_int_equal(w->st.generation, 4);
}

static void preempt_with_the_same_type_is_quiet_to_the_rest(void **state)
{
	struct world *w = *state;

	register_abc(w);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, PR_TYPE_WE), PR_OK);
	assert_int_equal(out(w, 'b', PR_PREEMPT, 0xb, 0xa, PR_TYPE_WE), PR_OK);
	assert_told(w, 'a', PR_NOTICE_REGISTRATIONS_PREEMPTED);
	assert_told(w, 'c', PR_NOTICE_NONE);
}

static void preempt_of_another_key_removes_registrations_only(void **state)
{
	struct world *w = *state;

	register_abc(w);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, PR_TYPE_WE), PR_OK);
	assert_int_equal(out(w, 'b', PR_PREEMPT, 0xb, 0xc, PR_TYPE_EA), PR_OK);
	assert_true(holds(w, 'a'));
	assert_int_equal(w->st.type, PR_TYPE_WE);
	assert_int_equal(key_of(w, 'c'), 0);
	assert_told(w, 'c', PR_NOTICE_REGISTRATIONS_PREEMPTED);
	assert_told(w, 'a', PR_NOTICE_NONE);
	assert_int_equal(out(w, 'b', PR_PREEMPT, 0xb, 0x99, PR_TYPE_EA), PR_CONFLICT);
	assert_int_equal(out(w, 'b', PR_PREEMPT, 0xb, 0, PR_TYPE_EA), PR_BAD_SA_KEY);
	/* One's own registration may go that way. */
	assert_int_equal(out(w, 'b', PR_PREEMPT, 0xb, 0xb, PR_TYPE_EA), PR_OK);
	assert_int_equal(key_of(w, 'b'), 0);
	assert_told(w, 'b', PR_NOTICE_NONE);
}

static void preempting_oneself_changes_the_type_and_drops_namesakes(void **state)
{
	struct world *w = *state;

	assert_int_equal(out(w, 'a', PR_REGISTER, 0, 1, 0), PR_OK);
	assert_int_equal(out(w, 'b', PR_REGISTER, 0, 1, 0), PR_OK);
	assert_int_equal(out(w, 'a', PR_RESERVE, 1, 0, PR_TYPE_WE), PR_OK);
	assert_int_equal(out(w, 'a', PR_PREEMPT, 1, 1, PR_TYPE_EA), PR_OK);
	assert_true(holds(w, 'a'));
	assert_int_equal(w->st.type, PR_TYPE_EA);
	assert_int_equal(w->st.n_regs, 1);
	assert_told(w, 'b', PR_NOTICE_REGISTRATIONS_PREEMPTED);
}

static void preempt_of_all_registrants(void **state)
{
	struct world *w = *state;

	register_abc(w);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, PR_TYPE_WE_AR), PR_OK);
	/* A key: its registrations go, the reservation stays. */
	assert_int_equal(out(w, 'b', PR_PREEMPT, 0xb, 0xa, PR_TYPE_EA), PR_OK);
	assert_int_equal(w->st.type, PR_TYPE_WE_AR);
	assert_int_equal(key_of(w, 'a'), 0);
	assert_told(w, 'c', PR_NOTICE_NONE);
	/* Key 0: all others go, the reservation becomes what was asked. */
	assert_int_equal(out(w, 'b', PR_PREEMPT, 0xb, 0, PR_TYPE_EA), PR_OK);
	assert_int_equal(w->st.type, PR_TYPE_EA);
	assert_int_equal(w->st.n_regs, 1);
	assert_true(holds(w, 'b'));
	assert_told(w, 'c', PR_NOTICE_REGISTRATIONS_PREEMPTED);
}

/* --- REGISTER AND MOVE --- */

static enum pr_verdict move(struct world *w, char from, char to, uint64_t key, uint64_t sa_key,
			    bool unreg)
{
	struct pr_nexus f = nexus(from, 1), t = nexus(to, 1);
	struct pr_request rq = {.action = PR_REGISTER_AND_MOVE,
				.nexus = &f,
				.n_ports = 2,
				.key = key,
				.sa_key = sa_key,
				.unreg = unreg,
				.others = &t,
				.n_others = 1};

	return submit(w, &rq);
}

static void move_hands_the_reservation_over(void **state)
{
	struct world *w = *state;

	register_abc(w);
	assert_int_equal(move(w, 'a', 'd', 0xa, 0xd, false), PR_CONFLICT); /* nothing reserved */
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, PR_TYPE_EA), PR_OK);
	assert_int_equal(move(w, 'b', 'd', 0xb, 0xd, false), PR_CONFLICT); /* not the holder */
	assert_int_equal(move(w, 'a', 'd', 0xa, 0, false), PR_BAD_SA_KEY);
	assert_int_equal(move(w, 'a', 'a', 0xa, 0xd, false), PR_BAD_TRANSPORT_ID);
	assert_int_equal(move(w, 'a', 'd', 0xa, 0xd, true), PR_OK);
	assert_true(holds(w, 'd'));
	assert_int_equal(key_of(w, 'd'), 0xd);
	assert_int_equal(key_of(w, 'a'), 0);
	assert_int_equal(w->st.type, PR_TYPE_EA);
	assert_int_equal(move(w, 'd', 'b', 0xd, 0xbb, false), PR_OK);
	assert_true(holds(w, 'b'));
	assert_int_equal(key_of(w, 'b'), 0xbb);
	assert_int_equal(key_of(w, 'd'), 0xd);
	assert_int_equal(w->st.generation, 5);
}

static void move_is_not_for_all_registrants(void **state)
{
	struct world *w = *state;

	register_abc(w);
	assert_int_equal(out(w, 'a', PR_RESERVE, 0xa, 0, PR_TYPE_EA_AR), PR_OK);
	assert_int_equal(move(w, 'a', 'd', 0xa, 0xd, false), PR_CONFLICT);
}

/* --- TransportIDs --- */

static size_t iscsi_id(uint8_t *buf, unsigned format, const char *text, size_t add)
{
	memset(buf, 0, 4 + add);
	buf[0] = (uint8_t)(format << 6 | 5);
	put_be16(buf + 2, (uint16_t)add);
	memcpy(buf + 4, text, strlen(text));
	return 4 + add;
}

static void iscsi_transport_ids_compare_by_meaning(void **state)
{
	uint8_t buf[300];
	struct pr_nexus a = nexus('a', 1), b = nexus('b', 1);
	size_t len, used;
	bool any;

	len = iscsi_id(buf, 1, "iqn.2000-01.com.x:y,i,0x00023D000001", 40);
	assert_int_equal(pr_transport_id_parse(buf, len, &a, &used, &any), 0);
	assert_int_equal(used, len);
	assert_false(any);
	len = iscsi_id(buf, 1, "iqn.2000-01.com.X:Y,i,0x00023d000001", 120);
	assert_int_equal(pr_transport_id_parse(buf, len, &b, &used, &any), 0);
	assert_int_equal(used, len);
	assert_true(pr_nexus_equal(&a, &b));
	len = iscsi_id(buf, 0, "iqn.2000-01.com.x:y", 20);
	assert_int_equal(pr_transport_id_parse(buf, len, &b, &used, &any), 0);
	assert_true(any);
	assert_false(pr_nexus_equal(&a, &b));
}

static void bad_transport_ids_are_refused(void **state)
{
	static const struct {
		unsigned format;
		const char *text;
		size_t add, len;
	} bad[] = {
		{1, "iqn.x:y", 20, 24},		     /* no ISID */
		{1, "iqn.x:y,i,0x", 20, 24},	     /* an empty one */
		{0, "iqn.x:y,i,0x1", 20, 24},	     /* one too many */
		{2, "iqn.x:y,i,0x1", 20, 24},	     /* reserved format */
		{1, "", 20, 24},		     /* no name */
		{1, "iqn.x:y,i,0x1", 16, 20},	     /* too short */
		{1, "iqn.x:y,i,0x1", 22, 26},	     /* no multiple of 4 */
		{1, "iqn.x:y,i,0x1", 24, 24},	     /* truncated */
		{0, "iqn.x:yyyyyyyyyyyyyy", 20, 24}, /* no NUL */
	};
	uint8_t buf[64];
	struct pr_nexus n;
	size_t used;
	bool any;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		iscsi_id(buf, bad[i].format, bad[i].text, bad[i].add);
		assert_int_equal(pr_transport_id_parse(buf, bad[i].len, &n, &used, &any), -EINVAL);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(conflict_table_is_the_standards),
		cmocka_unit_test(type_field_knows_six_types),
		cmocka_unit_test(register_follows_its_table),
		T(register_and_ignore_does_not_look_at_the_key),
		T(spec_i_pt_registers_all_or_none),
		T(all_tg_pt_registers_through_every_port),
		T(a_limit_on_registrations_is_an_error_not_a_loss),
		T(reserve_needs_the_key_and_a_known_type),
		T(release_tells_registrants_of_shared_types_only),
		T(release_by_another_registrant_changes_nothing),
		T(unregistering_the_holder_releases),
		T(clear_removes_everything_and_tells_all),
		T(preempt_takes_over_the_reservation),
		T(preempt_with_the_same_type_is_quiet_to_the_rest),
		T(preempt_of_another_key_removes_registrations_only),
		T(preempting_oneself_changes_the_type_and_drops_namesakes),
		T(preempt_of_all_registrants),
		T(move_hands_the_reservation_over),
		T(move_is_not_for_all_registrants),
		cmocka_unit_test(iscsi_transport_ids_compare_by_meaning),
		cmocka_unit_test(bad_transport_ids_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
