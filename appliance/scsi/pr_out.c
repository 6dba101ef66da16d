/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * PERSISTENT RESERVE OUT (SPC-4 6.16).
 *
 * Changes go through the LU's turnstile (state_change.h): the request is applied to a copy of the
 * state (pr_core.h); a state with APTPL is written before the copy replaces the original; then the
 * unit attentions are raised, the fence for fronts without SCSI is set, and, for PREEMPT AND
 * ABORT, the commands of the preempted nexuses are ended; then comes GOOD.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scsi/pr.h"
#include "scsi/pr_store.h"
#include "scsi/scsi_commands_b.h"

#define NAMES_MAX 32 /* initiators of which one list can register all ports */

/** An effect, found by the name of the nexus that it is on. */
struct mark {
	uint64_t hash; /* pr_nexus_hash() */
	const struct pr_effect *effect;
	uint64_t aborted; /* id of the nexus whose commands are to be ended; 0: none yet */
};

struct pr_out {
	struct state_change change;
	struct scsi_cmd *cmd;
	struct pr_nexus self;
	struct pr_nexus *others;
	size_t n_others, cap_others;
	size_t any[NAMES_MAX], n_any; /* offsets of TransportIDs that stand for all ports */
	struct pr_request rq;
	struct pr_state next;
	struct pr_effects effects;
	struct mark *marks;  /* of the effects, by hash */
	uint64_t *abort_ids; /* nexuses whose commands PREEMPT AND ABORT ends */
	size_t n_abort;
	struct preempt_wait *wait; /* NULL: PREEMPT AND ABORT does not wait (any more) */
};

/*
 * PREEMPT AND ABORT waits for the commands of the preempted. Theirs may be one that waits for ours,
 * so it must end at once when it is aborted itself: what is waited with outlives the command.
 */
struct preempt_wait {
	_Atomic unsigned left;
	struct reactor *reactor;
	struct reactor_msg msg;
	struct scsi_cmd *cmd; /* the reactor's thread only; NULL: it has ended */
};

static void pr_out_free(void *priv)
{
	struct pr_out *po = priv;

	free(po->others);
	free(po->marks);
	free(po->abort_ids);
	if (po->wait)
		free(po->wait); /* it has not begun */
	pr_state_free(&po->next);
	pr_effects_free(&po->effects);
	free(po);
}

/** Ends the command with what the state machine said. */
static void refuse(struct scsi_cmd *cmd, enum pr_verdict v)
{
	switch (v) {
	case PR_CONFLICT:
		scsi_finish(cmd, SCSI_RESERVATION_CONFLICT);
		break;
	case PR_BAD_SCOPE_OR_TYPE:
		scsi_bad_cdb_field(cmd, 2, -1);
		break;
	case PR_BAD_SA_KEY:
		scsi_bad_param_field(cmd, 8, -1);
		break;
	case PR_BAD_SPEC_I_PT:
		scsi_bad_param_field(cmd, 20, 3);
		break;
	case PR_BAD_TRANSPORT_ID:
		scsi_bad_param_field(cmd, 24, -1);
		break;
	case PR_BAD_RELEASE:
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_RELEASE_OF_RESERVATION);
		break;
	case PR_NO_RESOURCES:
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_REGISTRATION_RESOURCES);
		break;
	default:
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		break;
	}
}

/* Each port once, and no more than can be registered. */
static bool add_other(struct pr_out *po, const struct pr_nexus *n)
{
	for (size_t i = 0; i < po->n_others; i++)
		if (pr_nexus_equal(&po->others[i], n))
			return true;
	if (po->n_others == PR_REGISTRATIONS_MAX)
		return false;
	if (po->n_others == po->cap_others) {
		size_t cap = po->cap_others ? po->cap_others * 2 : 4;
		struct pr_nexus *v = realloc(po->others, cap * sizeof(*v));

		if (!v)
			return false;
		po->others = v;
		po->cap_others = cap;
	}
	po->others[po->n_others++] = *n;
	return true;
}

/**
 * A TransportID without an ISID stands for every port of that initiator that is known, that is, has
 * a session with the LU (SPC-4 7.6.4.6). Returns how many, or -ENOMEM.
 */
static int add_known_ports(struct pr_out *po, const struct pr_nexus *named)
{
	const char *want = (const char *)named->transport_id + 4;
	struct scsi_lu *lu = po->cmd->lu;
	struct scsi_itl *itl;
	int n = 0;

	mutex_scope(&lu->lock);
	list_for_each_entry (itl, &lu->itls, lu_link) {
		struct pr_nexus have;
		const char *text = (const char *)have.transport_id + 4;

		scsi_pr_nexus_name(itl->nexus, &have);
		if ((have.transport_id[0] & 0x0f) != 5 || strncmp(text, want, strlen(want)) ||
		    text[strlen(want)] != ',' || strcmp(have.target, named->target) ||
		    have.rel_port != named->rel_port)
			continue;
		if (!add_other(po, &have))
			return -ENOMEM;
		n++;
	}
	return n;
}

/**
 * Notes the name at @off that stands for all ports. 1: it is new. 0: it has been there - a list of
 * one name over and over, that stands for hundreds of sessions, costs no more than one. -ENOMEM.
 */
static int note_any(struct pr_out *po, size_t off, size_t len)
{
	const uint8_t *p = po->cmd->out->data;

	for (size_t i = 0; i < po->n_any; i++)
		if (po->any[i] + len <= off && !memcmp(p + po->any[i], p + off, len))
			return 0;
	if (po->n_any == NAMES_MAX)
		return -ENOMEM;
	po->any[po->n_any++] = off;
	return 1;
}

/** One TransportID at @off of the parameter list. Ends the command and returns 0 when it is bad. */
static size_t take_transport_id(struct pr_out *po, size_t off, size_t end, uint16_t rel_port,
				bool allow_any)
{
	struct scsi_cmd *cmd = po->cmd;
	struct pr_nexus n = {.rel_port = rel_port};
	size_t used;
	bool any;
	int ret;

	snprintf(n.target, sizeof(n.target), "%s", po->self.target);
	if (pr_transport_id_parse(cmd->out->data + off, end - off, &n, &used, &any) ||
	    (any && !allow_any)) {
		scsi_bad_param_field(cmd, (unsigned)off, -1);
		return 0;
	}
	if (any) {
		ret = note_any(po, off, used);
		if (!ret)
			return used;
		ret = ret < 0 ? ret : add_known_ports(po, &n);
	} else {
		ret = add_other(po, &n);
	}
	if (ret <= 0) {
		if (ret < 0 || !any)
			refuse(cmd, PR_NO_RESOURCES);
		else
			scsi_bad_param_field(cmd, (unsigned)off, -1);
		return 0;
	}
	return used;
}

/** SPEC_I_PT: the additional parameter data (SPC-4 table 197). False: the command has ended. */
static bool take_transport_ids(struct pr_out *po)
{
	struct scsi_cmd *cmd = po->cmd;
	size_t len, off = 28;

	if (cmd->out_len < 28) {
		scsi_bad_param_length(cmd);
		return false;
	}
	len = get_be32(cmd->out->data + 24);
	if (len > cmd->out_len - 28) {
		scsi_bad_param_length(cmd);
		return false;
	}
	while (off < 28 + len) {
		size_t used = take_transport_id(po, off, 28 + len, po->self.rel_port, true);

		if (!used)
			return false;
		off += used;
	}
	return true;
}

/** REGISTER AND MOVE has a parameter list of its own (SPC-4 table 198). */
static bool decode_move(struct pr_out *po)
{
	struct scsi_cmd *cmd = po->cmd;
	const uint8_t *p = cmd->out->data;
	size_t len = get_be32(p + 20);
	uint16_t port = get_be16(p + 18);

	po->rq.unreg = p[17] & 0x02;
	po->rq.aptpl = p[17] & 0x01;
	if (len != cmd->out_len - 24 || len < 24) {
		scsi_bad_param_length(cmd);
		return false;
	}
	if (port < 1 || port > po->rq.n_ports) {
		scsi_bad_param_field(cmd, 18, -1);
		return false;
	}
	if (po->rq.aptpl && !state_can_save(cmd->lu)) {
		scsi_bad_param_field(cmd, 17, 0);
		return false;
	}
	return take_transport_id(po, 24, cmd->out_len, port, false) != 0;
}

static bool decode_basic(struct pr_out *po)
{
	struct scsi_cmd *cmd = po->cmd;
	const uint8_t *p = cmd->out->data;
	bool registers = po->rq.action == PR_REGISTER || po->rq.action == PR_REGISTER_AND_IGNORE;

	po->rq.spec_i_pt = p[20] & 0x08;
	po->rq.all_tg_pt = registers && p[20] & 0x04;
	po->rq.aptpl = registers && p[20] & 0x01;
	if (po->rq.aptpl && !state_can_save(cmd->lu)) {
		scsi_bad_param_field(cmd, 20, 0);
		return false;
	}
	if (po->rq.spec_i_pt && po->rq.action == PR_REGISTER)
		return take_transport_ids(po);
	if (!po->rq.spec_i_pt && cmd->out_len != 24) {
		scsi_bad_param_length(cmd);
		return false;
	}
	return true;
}

/** Decodes CDB and parameter list. False: the command has ended. */
static bool decode(struct pr_out *po)
{
	struct scsi_cmd *cmd = po->cmd;

	if (get_be32(cmd->cdb + 5) < 24 || cmd->out_len < get_be32(cmd->cdb + 5)) {
		scsi_bad_param_length(cmd);
		return false;
	}
	scsi_pr_nexus_name(cmd->nexus, &po->self);
	po->rq.action = cmd->op->sa;
	po->rq.nexus = &po->self;
	po->rq.n_ports = (uint16_t)scsi_target_ports(cmd->nexus->target);
	po->rq.scope = cmd->cdb[2] >> 4;
	po->rq.type = cmd->cdb[2] & 0x0f;
	po->rq.key = get_be64(cmd->out->data);
	po->rq.sa_key = get_be64(cmd->out->data + 8);
	if (po->rq.action == PR_REGISTER_AND_MOVE ? !decode_move(po) : !decode_basic(po))
		return false;
	po->rq.others = po->others;
	po->rq.n_others = po->n_others;
	return true;
}

/* Committing: the new state in its place, and everybody told. */

static enum scsi_ua ua_of(enum pr_notice notice)
{
	switch (notice) {
	case PR_NOTICE_RESERVATIONS_RELEASED:
		return SCSI_UA_RESERVATIONS_RELEASED;
	case PR_NOTICE_REGISTRATIONS_PREEMPTED:
		return SCSI_UA_REGISTRATIONS_PREEMPTED;
	default:
		return SCSI_UA_RESERVATIONS_PREEMPTED;
	}
}

static int compare_marks(const void *a, const void *b)
{
	const struct mark *x = a, *y = b;

	return (x->hash > y->hash) - (x->hash < y->hash);
}

/** Prepares telling, before any lock is taken. False: no memory. */
static bool mark_effects(struct pr_out *po)
{
	po->marks = calloc(po->effects.n + 1, sizeof(*po->marks));
	po->abort_ids = calloc(po->effects.n + 1, sizeof(*po->abort_ids));
	po->wait = calloc(1, sizeof(*po->wait));
	if (!po->marks || !po->abort_ids || !po->wait)
		return false;
	for (size_t i = 0; i < po->effects.n; i++) {
		po->marks[i].effect = &po->effects.v[i];
		po->marks[i].hash = pr_nexus_hash(&po->effects.v[i].nexus);
	}
	qsort(po->marks, po->effects.n, sizeof(*po->marks), compare_marks);
	return true;
}

/** The first of the marks with @hash, or where it would be. */
static size_t find_mark(const struct pr_out *po, uint64_t hash)
{
	size_t low = 0, high = po->effects.n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (po->marks[mid].hash < hash)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static void tell_nexus_locked(struct pr_out *po, struct scsi_itl *itl)
{
	const struct scsi_nexus *nx = itl->nexus;
	struct pr_nexus name = {.transport_id_len = 0};

	for (size_t i = find_mark(po, nx->name_hash);
	     i < po->effects.n && po->marks[i].hash == nx->name_hash; i++) {
		struct mark *m = &po->marks[i];

		if (!name.transport_id_len)
			scsi_pr_nexus_name(nx, &name);
		if (!pr_nexus_equal(&m->effect->nexus, &name))
			continue;
		if (m->effect->notice != PR_NOTICE_NONE)
			atomic_fetch_or_explicit(&itl->ua, 1u << ua_of(m->effect->notice),
						 memory_order_release);
		/* One that sees the LU under several numbers is found several times. */
		if (m->effect->abort && m->aborted != nx->id) {
			m->aborted = nx->id;
			assert(po->n_abort < po->effects.n);
			po->abort_ids[po->n_abort++] = nx->id;
		}
	}
}

/**
 * The LU's lock is held meanwhile, so the work for a nexus that is not concerned is a search for a
 * number (find_mark), and only the names of those concerned, which are registered and so no more
 * than PR_REGISTRATIONS_MAX, are built and compared. Most changes concern nobody else.
 */
static void tell_all_locked(struct pr_out *po)
{
	struct scsi_lu *lu = po->cmd->lu;
	struct scsi_itl *itl;

	mutex_assert_held(&lu->lock);
	if (!po->effects.n)
		return;
	list_for_each_entry (itl, &lu->itls, lu_link)
		tell_nexus_locked(po, itl);
}

static void after_abort(struct reactor_msg *m)
{
	struct preempt_wait *w = container_of(m, struct preempt_wait, msg);
	struct scsi_cmd *cmd = w->cmd;

	if (cmd) {
		((struct pr_out *)cmd->priv)->wait = NULL;
		cmd->on_abort = NULL;
	}
	free(w);
	if (cmd)
		scsi_good(cmd);
}

/** Any thread. */
static void one_aborted(void *arg)
{
	struct preempt_wait *w = arg;

	if (atomic_fetch_sub(&w->left, 1) == 1) {
		w->msg.fn = after_abort;
		reactor_post(w->reactor, &w->msg);
	}
}

static void waiting_aborted(struct scsi_cmd *cmd)
{
	struct pr_out *po = cmd->priv;

	po->wait->cmd = NULL;
	po->wait = NULL;
	scsi_finish(cmd, SCSI_TASK_ABORTED);
}

/** Ends the commands of the preempted; then, or when it is aborted itself, ends the command. */
static void abort_preempted(struct pr_out *po)
{
	struct scsi_cmd *cmd = po->cmd;
	struct scsi_lu *lu = cmd->lu;
	struct preempt_wait *w = po->wait;
	bool tas = atomic_load(&lu->mode.tas);

	atomic_store(&w->left, (unsigned)po->n_abort + 1);
	w->reactor = cmd->nexus->reactor;
	w->cmd = cmd;
	for (size_t i = 0; i < po->n_abort; i++)
		scsi_nexus_abort(lu, po->abort_ids[i], tas, one_aborted, w);
	if (cmd->aborted)
		waiting_aborted(cmd);
	else
		cmd->on_abort = waiting_aborted;
	one_aborted(w); /* from here on the command may have ended */
}

static void commit(struct pr_out *po)
{
	struct scsi_cmd *cmd = po->cmd;
	struct scsi_lu *lu = cmd->lu;
	struct pr_state old;

	mutex_lock(&lu->lock);
	old = lu->pr->state;
	lu->pr->state = po->next;
	po->next = old;
	scsi_pr_changed_locked(lu);
	tell_all_locked(po);
	mutex_unlock(&lu->lock);
	state_change_leave(&po->change);
	if (po->n_abort)
		abort_preempted(po);
	else
		scsi_good(cmd);
}

static void state_saved(struct state_change *sc, int err)
{
	struct pr_out *po = container_of(sc, struct pr_out, change);

	if (!err) {
		commit(po);
		return;
	}
	state_change_leave(sc);
	/* What cannot be kept is not promised: nothing has changed. */
	scsi_check(po->cmd, SENSE_HARDWARE_ERROR, ASC_INTERNAL_TARGET_FAILURE);
}

/** Writes, or removes, the state file when the change is one that must survive. */
static void save_or_commit(struct pr_out *po)
{
	struct scsi_lu *lu = po->cmd->lu;
	const struct pr_state *cur = &lu->pr->state; /* only who has the turn changes it */

	if (pr_state_equal(cur, &po->next) || (!cur->aptpl && !po->next.aptpl)) {
		commit(po);
		return;
	}
	state_file_name(lu, "reservations", po->change.name);
	po->change.text = NULL;
	if (po->next.aptpl) {
		po->change.text = pr_store_encode(&po->next, lun_identity(lu->lun)->serial);
		if (!po->change.text) {
			state_change_leave(&po->change);
			refuse(po->cmd, PR_NO_MEMORY);
			return;
		}
	}
	state_change_save(&po->change, state_saved);
}

static void pr_out_begin(struct state_change *sc)
{
	struct pr_out *po = container_of(sc, struct pr_out, change);
	struct scsi_pr *pr = po->cmd->lu->pr;
	enum pr_verdict v = PR_NO_MEMORY;

	mutex_lock(&po->cmd->lu->lock);
	if (pr->legacy_holder)
		v = PR_CONFLICT; /* SPC-2: the two kinds exclude each other */
	else if (!pr_state_copy(&po->next, &pr->state, 1))
		v = pr_apply(&po->next, &po->rq, &po->effects);
	mutex_unlock(&po->cmd->lu->lock);
	if (v == PR_OK && !mark_effects(po))
		v = PR_NO_MEMORY;
	if (v == PR_OK) {
		save_or_commit(po);
		return;
	}
	state_change_leave(sc);
	refuse(po->cmd, v);
}

void scsi_pr_out(struct scsi_cmd *cmd)
{
	struct pr_out *po = calloc(1, sizeof(*po));

	if (!po) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return;
	}
	po->cmd = cmd;
	cmd->priv = po;
	cmd->priv_free = pr_out_free;
	if (decode(po))
		state_change_enter(&po->change, cmd, &cmd->lu->pr->turn, pr_out_begin);
}
