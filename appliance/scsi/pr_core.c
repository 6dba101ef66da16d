/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory
 *
 * The state of a logical unit is a list of registrations (nexus, key) and at most one reservation:
 * a type, and - unless the type is one of the two "all registrants", where every registrant holds
 * it - the index of the registration that holds it.
 *
 * Invariants, true before and after every pr_apply() that returns PR_OK:
 *   1. no key is 0, no nexus is registered twice;
 *   2. type != NONE and not all-registrants: holder < n_regs;
 *   3. type all-registrants: n_regs > 0 (the last registrant takes the reservation along).
 *
 * pr_apply() works in two steps: one function for each service action changes the state and notes
 * which registrations went; whoever is to be told is computed from the state as it was, since a
 * nexus that lost its registration is no longer found in the new one. Effects name nexuses, not
 * sessions: the caller finds the sessions that are there now.
 */
#include "scsi/pr_core.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* --- the state --- */

void pr_state_init(struct pr_state *st)
{
	memset(st, 0, sizeof(*st));
}

void pr_state_free(struct pr_state *st)
{
	free(st->regs);
	pr_state_init(st);
}

int pr_state_copy(struct pr_state *dst, const struct pr_state *src, size_t extra)
{
	size_t cap = src->n_regs + extra;
	struct pr_registration *regs = malloc((cap ? cap : 1) * sizeof(*regs));

	if (!regs)
		return -ENOMEM;
	*dst = *src;
	dst->regs = regs;
	dst->cap = cap;
	if (src->n_regs)
		memcpy(regs, src->regs, src->n_regs * sizeof(*regs));
	return 0;
}

uint64_t pr_nexus_hash(const struct pr_nexus *n)
{
	uint64_t h = hash_add(HASH_START, n->target, strlen(n->target));

	h = hash_add(h, &n->rel_port, sizeof(n->rel_port));
	return hash_add(h, n->transport_id, n->transport_id_len);
}

bool pr_nexus_equal(const struct pr_nexus *a, const struct pr_nexus *b)
{
	return a->rel_port == b->rel_port && a->transport_id_len == b->transport_id_len &&
	       !memcmp(a->transport_id, b->transport_id, a->transport_id_len) &&
	       !strcmp(a->target, b->target);
}

bool pr_state_equal(const struct pr_state *a, const struct pr_state *b)
{
	bool indexed = a->type != PR_TYPE_NONE && !pr_type_all_registrants(a->type);

	if (a->aptpl != b->aptpl || a->type != b->type || a->n_regs != b->n_regs ||
	    (indexed && a->holder != b->holder))
		return false;
	for (size_t i = 0; i < a->n_regs; i++)
		if (a->regs[i].key != b->regs[i].key ||
		    !pr_nexus_equal(&a->regs[i].nexus, &b->regs[i].nexus))
			return false;
	return true;
}

static struct pr_registration *find_registration(const struct pr_state *st,
						 const struct pr_nexus *nexus)
{
	for (size_t i = 0; i < st->n_regs; i++)
		if (pr_nexus_equal(&st->regs[i].nexus, nexus))
			return &st->regs[i];
	return NULL;
}

const struct pr_registration *pr_find(const struct pr_state *st, const struct pr_nexus *nexus)
{
	return find_registration(st, nexus);
}

bool pr_is_holder(const struct pr_state *st, const struct pr_registration *reg)
{
	if (!reg || st->type == PR_TYPE_NONE)
		return false;
	return pr_type_all_registrants(st->type) || (size_t)(reg - st->regs) == st->holder;
}

static enum pr_verdict add_registration(struct pr_state *st, const struct pr_nexus *nexus,
					uint64_t key)
{
	if (st->n_regs >= PR_REGISTRATIONS_MAX)
		return PR_NO_RESOURCES;
	if (st->n_regs == st->cap) {
		size_t cap = st->cap ? st->cap * 2 : 4;
		struct pr_registration *regs = realloc(st->regs, cap * sizeof(*regs));

		if (!regs)
			return PR_NO_MEMORY;
		st->regs = regs;
		st->cap = cap;
	}
	st->regs[st->n_regs].key = key;
	st->regs[st->n_regs++].nexus = *nexus;
	return PR_OK;
}

int pr_state_add(struct pr_state *st, const struct pr_nexus *nexus, uint64_t key)
{
	if (!key || find_registration(st, nexus))
		return -EINVAL;
	switch (add_registration(st, nexus, key)) {
	case PR_OK:
		return 0;
	case PR_NO_MEMORY:
		return -ENOMEM;
	default:
		return -EINVAL;
	}
}

/** Removes one registration; a reservation that only it held goes with it (SPC-4 5.12.11.2.3). */
static void remove_registration(struct pr_state *st, size_t i)
{
	bool indexed = st->type != PR_TYPE_NONE && !pr_type_all_registrants(st->type);

	if (indexed && st->holder == i)
		st->type = PR_TYPE_NONE;
	else if (indexed && st->holder > i)
		st->holder--;
	memmove(&st->regs[i], &st->regs[i + 1], (st->n_regs - i - 1) * sizeof(st->regs[0]));
	st->n_regs--;
	if (!st->n_regs)
		st->type = PR_TYPE_NONE;
}

/* --- who is told --- */

void pr_effects_free(struct pr_effects *e)
{
	free(e->v);
	e->v = NULL;
	e->n = 0;
}

/** At most one effect for a nexus: an array as long as the registrations before can take them all.
 */
static void add_effect(struct pr_effects *e, const struct pr_nexus *nexus, enum pr_notice notice,
		       bool abort)
{
	e->v[e->n].nexus = *nexus;
	e->v[e->n].notice = notice;
	e->v[e->n++].abort = abort;
}

/** Every registrant but @self is told @notice. */
static void tell_others(struct pr_effects *e, const struct pr_state *st,
			const struct pr_nexus *self, enum pr_notice notice)
{
	for (size_t i = 0; i < st->n_regs; i++)
		if (!pr_nexus_equal(&st->regs[i].nexus, self))
			add_effect(e, &st->regs[i].nexus, notice, false);
}

/* --- REGISTER, REGISTER AND IGNORE EXISTING KEY (SPC-4 5.12.7) --- */

static enum pr_verdict unregister(struct pr_state *st, const struct pr_nexus *nexus,
				  struct pr_effects *e, const struct pr_nexus *self)
{
	struct pr_registration *reg = find_registration(st, nexus);
	enum pr_type before = st->type;

	if (!reg)
		return PR_OK;
	remove_registration(st, (size_t)(reg - st->regs));
	/* 5.12.11.2.3: the holder of a registrants-only reservation unregistered. */
	if (pr_type_registrants_only(before) && st->type == PR_TYPE_NONE)
		tell_others(e, st, self, PR_NOTICE_RESERVATIONS_RELEASED);
	return PR_OK;
}

static enum pr_verdict register_one(struct pr_state *st, const struct pr_request *rq,
				    const struct pr_nexus *nexus, struct pr_effects *e)
{
	struct pr_registration *reg = find_registration(st, nexus);

	if (reg && rq->action == PR_REGISTER && reg->key != rq->key)
		return PR_CONFLICT;
	if (!rq->sa_key)
		return unregister(st, nexus, e, rq->nexus);
	if (!reg)
		return add_registration(st, nexus, rq->sa_key);
	reg->key = rq->sa_key;
	return PR_OK;
}

/** On one nexus, or through every port of its target with ALL_TG_PT. */
static enum pr_verdict register_ports(struct pr_state *st, const struct pr_request *rq,
				      const struct pr_nexus *nexus, struct pr_effects *e)
{
	enum pr_verdict v = PR_OK;

	if (!rq->all_tg_pt)
		return register_one(st, rq, nexus, e);
	for (uint16_t port = 1; port <= rq->n_ports && v == PR_OK; port++) {
		struct pr_nexus n = *nexus;

		n.rel_port = port;
		v = register_one(st, rq, &n, e);
	}
	return v;
}

static enum pr_verdict do_register(struct pr_state *st, const struct pr_request *rq,
				   struct pr_effects *e)
{
	struct pr_registration *reg = find_registration(st, rq->nexus);
	enum pr_verdict v;

	if (rq->action == PR_REGISTER_AND_IGNORE && rq->spec_i_pt)
		return PR_BAD_SPEC_I_PT;
	if (rq->action == PR_REGISTER && rq->key != (reg ? reg->key : 0))
		return PR_CONFLICT;
	if (reg && rq->spec_i_pt)
		return PR_BAD_SPEC_I_PT;
	if (!reg && !rq->sa_key && !rq->all_tg_pt)
		return PR_OK; /* nothing to take away: GOOD, and no new generation */
	v = register_ports(st, rq, rq->nexus, e);
	for (size_t i = 0; rq->spec_i_pt && rq->sa_key && i < rq->n_others && v == PR_OK; i++)
		if (!pr_nexus_equal(&rq->others[i], rq->nexus))
			v = register_ports(st, rq, &rq->others[i], e);
	if (v != PR_OK)
		return v;
	st->aptpl = rq->aptpl;
	st->generation++;
	return PR_OK;
}

/* --- RESERVE, RELEASE, CLEAR --- */

static enum pr_verdict do_reserve(struct pr_state *st, const struct pr_request *rq,
				  struct pr_registration *reg)
{
	if (rq->scope || !pr_type_valid(rq->type))
		return PR_BAD_SCOPE_OR_TYPE;
	if (st->type != PR_TYPE_NONE)
		return pr_is_holder(st, reg) && st->type == rq->type ? PR_OK : PR_CONFLICT;
	st->type = rq->type;
	st->holder = (size_t)(reg - st->regs);
	return PR_OK;
}

static enum pr_verdict do_release(struct pr_state *st, const struct pr_request *rq,
				  struct pr_registration *reg, struct pr_effects *e)
{
	enum pr_type before = st->type;

	if (!pr_is_holder(st, reg))
		return PR_OK; /* 5.12.11.2.2: not an error */
	if (rq->scope || rq->type != st->type)
		return PR_BAD_RELEASE;
	st->type = PR_TYPE_NONE;
	if (pr_type_registrants_only(before) || pr_type_all_registrants(before))
		tell_others(e, st, rq->nexus, PR_NOTICE_RESERVATIONS_RELEASED);
	return PR_OK;
}

static enum pr_verdict do_clear(struct pr_state *st, const struct pr_request *rq,
				struct pr_effects *e)
{
	tell_others(e, st, rq->nexus, PR_NOTICE_RESERVATIONS_PREEMPTED);
	st->type = PR_TYPE_NONE;
	st->n_regs = 0;
	st->generation++;
	return PR_OK;
}

/* --- PREEMPT, PREEMPT AND ABORT (SPC-4 5.12.11.2.4 to 2.6) --- */

/** Whether @rq takes over the reservation, rather than only removing registrations. */
static bool preempts_reservation(const struct pr_state *st, const struct pr_request *rq)
{
	if (st->type == PR_TYPE_NONE)
		return false;
	if (pr_type_all_registrants(st->type))
		return rq->sa_key == 0;
	return st->regs[st->holder].key == rq->sa_key;
}

/**
 * Removes the registrations with the key that is preempted (all, with key 0) and says so. With
 * @keep_self the nexus that asked stays. Returns how many matched.
 */
static size_t preempt_registrations(struct pr_state *st, const struct pr_request *rq,
				    bool keep_self, struct pr_effects *e)
{
	bool abort = rq->action == PR_PREEMPT_AND_ABORT;
	size_t matched = 0;

	for (size_t i = 0; i < st->n_regs;) {
		const struct pr_nexus *n = &st->regs[i].nexus;
		bool self = pr_nexus_equal(n, rq->nexus);

		if (rq->sa_key && st->regs[i].key != rq->sa_key) {
			i++;
			continue;
		}
		matched++;
		if (self && keep_self) {
			i++;
			continue;
		}
		if (!self)
			add_effect(e, n, PR_NOTICE_REGISTRATIONS_PREEMPTED, abort);
		remove_registration(st, i);
	}
	return matched;
}

static enum pr_verdict preempt_reservation(struct pr_state *st, const struct pr_request *rq,
					   struct pr_effects *e)
{
	enum pr_type before = st->type;

	if (rq->scope || !pr_type_valid(rq->type))
		return PR_BAD_SCOPE_OR_TYPE;
	st->type = PR_TYPE_NONE;
	preempt_registrations(st, rq, true, e);
	st->type = rq->type;
	st->holder = (size_t)(find_registration(st, rq->nexus) - st->regs);
	if (before != st->type)
		tell_others(e, st, rq->nexus, PR_NOTICE_RESERVATIONS_RELEASED);
	st->generation++;
	return PR_OK;
}

static enum pr_verdict do_preempt(struct pr_state *st, const struct pr_request *rq,
				  struct pr_effects *e)
{
	if (preempts_reservation(st, rq))
		return preempt_reservation(st, rq, e);
	if (!rq->sa_key)
		return PR_BAD_SA_KEY;
	if (!preempt_registrations(st, rq, false, e))
		return PR_CONFLICT;
	st->generation++;
	return PR_OK;
}

/* --- REGISTER AND MOVE (SPC-4 5.12.8) --- */

static enum pr_verdict do_move(struct pr_state *st, const struct pr_request *rq,
			       struct pr_registration *reg)
{
	const struct pr_nexus *to = &rq->others[0];
	struct pr_registration *dst;
	enum pr_verdict v;

	if (!pr_is_holder(st, reg) || pr_type_all_registrants(st->type))
		return PR_CONFLICT;
	if (!rq->sa_key)
		return PR_BAD_SA_KEY;
	if (rq->n_others != 1 || pr_nexus_equal(to, rq->nexus))
		return PR_BAD_TRANSPORT_ID;
	dst = find_registration(st, to);
	if (dst) {
		dst->key = rq->sa_key;
	} else {
		v = add_registration(st, to, rq->sa_key);
		if (v != PR_OK)
			return v;
		dst = &st->regs[st->n_regs - 1];
	}
	st->holder = (size_t)(dst - st->regs);
	if (rq->unreg)
		remove_registration(st, (size_t)(find_registration(st, rq->nexus) - st->regs));
	st->aptpl = rq->aptpl;
	st->generation++;
	return PR_OK;
}

static enum pr_verdict apply(struct pr_state *st, const struct pr_request *rq, struct pr_effects *e)
{
	struct pr_registration *reg;

	if (rq->action == PR_REGISTER || rq->action == PR_REGISTER_AND_IGNORE)
		return do_register(st, rq, e);
	if (rq->spec_i_pt)
		return PR_BAD_SPEC_I_PT;
	/* All others are for registrants that name their key (SPC-4 5.12.1). */
	reg = find_registration(st, rq->nexus);
	if (!reg || reg->key != rq->key)
		return PR_CONFLICT;
	switch (rq->action) {
	case PR_RESERVE:
		return do_reserve(st, rq, reg);
	case PR_RELEASE:
		return do_release(st, rq, reg, e);
	case PR_CLEAR:
		return do_clear(st, rq, e);
	case PR_PREEMPT:
	case PR_PREEMPT_AND_ABORT:
		return do_preempt(st, rq, e);
	default:
		return do_move(st, rq, reg);
	}
}

enum pr_verdict pr_apply(struct pr_state *st, const struct pr_request *rq,
			 struct pr_effects *ret_effects)
{
	struct pr_effects e = {.v = calloc(st->n_regs + 1, sizeof(*e.v))};
	enum pr_verdict v;

	if (!e.v)
		return PR_NO_MEMORY;
	v = apply(st, rq, &e);
	if (v != PR_OK) {
		pr_effects_free(&e);
		return v;
	}
	assert(st->type == PR_TYPE_NONE || st->n_regs);
	*ret_effects = e;
	return PR_OK;
}

/* --- what is allowed (SPC-4 table 66, SBC-3 table 13) --- */

bool pr_allows(const struct pr_state *st, enum pr_class cls, bool registered, bool holder)
{
	if (st->type == PR_TYPE_NONE || cls == PR_CLASS_NONE || holder)
		return true;
	if (registered && (pr_type_registrants_only(st->type) || pr_type_all_registrants(st->type)))
		return true;
	return cls == PR_CLASS_READ && pr_type_write_exclusive(st->type);
}

/* --- TransportIDs (SPC-4 7.6.4) --- */

#define PROTOCOL_ISCSI	   0x5
#define TRANSPORT_ID_FIXED 24 /* bytes of one of any other protocol */
#define ISCSI_TEXT_OFFSET  4
#define ISCSI_TEXT_MAX	   (PR_TRANSPORT_ID_MAX - ISCSI_TEXT_OFFSET - 4)

static int lower_char(int c)
{
	return c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c;
}

/** Length of @text up to its NUL, or -EINVAL: no NUL, empty, or too long. */
static int text_length(const uint8_t *text, size_t room)
{
	const uint8_t *end = memchr(text, 0, room);

	if (!end || end == text || (size_t)(end - text) > ISCSI_TEXT_MAX)
		return -EINVAL;
	return (int)(end - text);
}

static int parse_iscsi(const uint8_t *buf, size_t len, struct pr_nexus *ret, size_t *ret_used,
		       bool *ret_any_port)
{
	unsigned format = buf[0] >> 6;
	size_t add = (size_t)buf[2] << 8 | buf[3], padded;
	uint8_t *out = ret->transport_id;
	const char *sep;
	int n;

	if (format > 1 || add < 20 || add % 4 || ISCSI_TEXT_OFFSET + add > len)
		return -EINVAL;
	n = text_length(buf + ISCSI_TEXT_OFFSET, add);
	if (n < 0)
		return n;
	padded = ((size_t)n + 1 + 3) & ~(size_t)3;
	if (padded < 20)
		padded = 20;
	memset(out, 0, PR_TRANSPORT_ID_MAX);
	out[0] = buf[0] & 0xcf;
	out[3] = (uint8_t)padded;
	for (int i = 0; i < n; i++)
		out[ISCSI_TEXT_OFFSET + i] = (uint8_t)lower_char(buf[ISCSI_TEXT_OFFSET + i]);
	sep = strstr((const char *)out + ISCSI_TEXT_OFFSET, ",i,0x");
	if (format == 1 ? !sep || !sep[5] : !!sep)
		return -EINVAL;
	ret->transport_id_len = (uint16_t)(ISCSI_TEXT_OFFSET + padded);
	*ret_used = ISCSI_TEXT_OFFSET + add;
	*ret_any_port = format == 0;
	return 0;
}

int pr_transport_id_parse(const uint8_t *buf, size_t len, struct pr_nexus *ret, size_t *ret_used,
			  bool *ret_any_port)
{
	if (len < TRANSPORT_ID_FIXED)
		return -EINVAL;
	if ((buf[0] & 0x0f) == PROTOCOL_ISCSI)
		return parse_iscsi(buf, len, ret, ret_used, ret_any_port);
	memset(ret->transport_id, 0, sizeof(ret->transport_id));
	memcpy(ret->transport_id, buf, TRANSPORT_ID_FIXED);
	ret->transport_id_len = TRANSPORT_ID_FIXED;
	*ret_used = TRANSPORT_ID_FIXED;
	*ret_any_port = false;
	return 0;
}
