/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reservations of a logical unit: whether a command may run, RESERVE(6) and RELEASE(6) (SPC-2, with
 * the exceptions of SPC-4 5.12.3), and the fence for fronts without SCSI. PERSISTENT RESERVE IN is
 * pr_in.c, PERSISTENT RESERVE OUT pr_out.c.
 *
 * The hot path: without any reservation SCSI_GATE_RESERVED is clear and nothing here is called.
 * With one, the answer for a nexus is found in a small direct-mapped table of (nexus id, what it
 * may do), one relaxed load and no lock; the table is emptied whenever the state changes.
 *
 * A RESERVE(6) reservation lives beside the persistent state: it exists only while there are no
 * registrations, belongs to a session, and goes with it or with a reset.
 */
#include "scsi/pr.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scsi/pr_store.h"
#include "scsi/scsi_commands_b.h"

/* What a nexus may do, beside its id << 8. */
enum { VERDICT_VALID = 1, VERDICT_READ = 2, VERDICT_WRITE = 4, VERDICT_LEGACY = 8 };

/* --- names of nexuses --- */

void scsi_pr_nexus_name(const struct scsi_nexus *nx, struct pr_nexus *ret)
{
	size_t used;
	bool any;

	memset(ret, 0, sizeof(*ret));
	if (pr_transport_id_parse(nx->transport_id, nx->transport_id_len, ret, &used, &any)) {
		/* Not of a form we know: compared byte by byte. */
		ret->transport_id_len = nx->transport_id_len;
		memcpy(ret->transport_id, nx->transport_id, sizeof(ret->transport_id));
	}
	ret->rel_port = nx->rel_port;
	snprintf(ret->target, sizeof(ret->target), "%s", scsi_target_name(nx->target));
}

uint64_t scsi_pr_name_hash(const struct scsi_nexus *nx)
{
	struct pr_nexus name;

	scsi_pr_nexus_name(nx, &name);
	return pr_nexus_hash(&name);
}

/* --- what is allowed --- */

static void forget_verdicts_locked(struct scsi_lu *lu)
{
	mutex_assert_held(&lu->lock);
	for (unsigned i = 0; i < SCSI_PR_VERDICTS; i++)
		atomic_store_explicit(&lu->pr->verdicts[i], 0, memory_order_release);
}

static uint64_t judge_locked(struct scsi_lu *lu, struct scsi_nexus *nx)
{
	struct scsi_pr *pr = lu->pr;
	const struct pr_registration *reg;
	struct pr_nexus name;
	uint64_t v = nx->id << 8 | VERDICT_VALID;
	bool holder;

	if (pr->legacy_holder && pr->legacy_holder != nx->id)
		return v;
	v |= VERDICT_LEGACY;
	if (pr->legacy_holder)
		return v | VERDICT_READ | VERDICT_WRITE;
	scsi_pr_nexus_name(nx, &name);
	reg = pr_find(&pr->state, &name);
	holder = pr_is_holder(&pr->state, reg);
	if (pr_allows(&pr->state, PR_CLASS_READ, reg, holder))
		v |= VERDICT_READ;
	if (pr_allows(&pr->state, PR_CLASS_WRITE, reg, holder))
		v |= VERDICT_WRITE;
	return v;
}

static uint64_t verdict_of(struct scsi_lu *lu, struct scsi_nexus *nx)
{
	_Atomic uint64_t *slot = &lu->pr->verdicts[nx->id % SCSI_PR_VERDICTS];
	uint64_t v = atomic_load_explicit(slot, memory_order_acquire);

	if (v >> 8 == nx->id && v & VERDICT_VALID)
		return v;
	mutex_lock(&lu->lock);
	v = judge_locked(lu, nx);
	atomic_store_explicit(slot, v, memory_order_release);
	mutex_unlock(&lu->lock);
	return v;
}

/** Commands whose class depends on a bit of the CDB (SBC-3 table 13). */
static bool allowed_by_cdb(const struct scsi_cmd *cmd, uint64_t verdict)
{
	switch (cmd->cdb[0]) {
	case 0x1e: /* PREVENT ALLOW MEDIUM REMOVAL: allowing is always allowed */
		return (cmd->cdb[4] & 3) == 0;
	case 0x1b: /* START STOP UNIT: START 1, POWER CONDITION 0 */
		return verdict & VERDICT_LEGACY && (cmd->cdb[4] & 0xf1) == 0x01;
	default:
		return false;
	}
}

bool scsi_pr_check(struct scsi_cmd *cmd)
{
	uint64_t v = verdict_of(cmd->lu, cmd->nexus);

	switch (cmd->op->resv) {
	case SCSI_RESV_LEGACY:
		return v & VERDICT_LEGACY;
	case SCSI_RESV_READ:
		return v & VERDICT_READ || allowed_by_cdb(cmd, v);
	default:
		return v & VERDICT_WRITE || allowed_by_cdb(cmd, v);
	}
}

bool scsi_pr_initiator_allowed(struct scsi_lu *lu, struct scsi_nexus *nx, enum pr_class cls)
{
	struct pr_state *st = &lu->pr->state;
	struct pr_nexus name;
	bool registered = false, holder = false;

	if (!(scsi_lu_gates(lu) & SCSI_GATE_RESERVED))
		return true;
	scsi_pr_nexus_name(nx, &name);
	mutex_scope(&lu->lock);
	if (lu->pr->legacy_holder)
		return lu->pr->legacy_holder == nx->id;
	for (size_t i = 0; i < st->n_regs; i++) {
		const struct pr_nexus *n = &st->regs[i].nexus;

		if (n->transport_id_len != name.transport_id_len ||
		    memcmp(n->transport_id, name.transport_id, n->transport_id_len))
			continue;
		registered = true;
		holder = holder || pr_is_holder(st, &st->regs[i]);
	}
	return pr_allows(st, cls, registered, holder);
}

/* --- the fence for other fronts --- */

static enum lun_fence fence_locked(struct scsi_lu *lu)
{
	struct scsi_pr *pr = lu->pr;

	if (scsi_lu_gates(lu) & SCSI_GATE_SANITIZE)
		return LUN_FENCE_OWNER;
	if (pr->legacy_holder)
		return LUN_FENCE_ALL;
	if (pr->state.type == PR_TYPE_NONE)
		return LUN_FENCE_NONE;
	return pr_type_write_exclusive(pr->state.type) ? LUN_FENCE_WRITES : LUN_FENCE_ALL;
}

void scsi_pr_changed_locked(struct scsi_lu *lu)
{
	mutex_assert_held(&lu->lock);
	scsi_lu_set_gate(lu, SCSI_GATE_RESERVED,
			 lu->pr->legacy_holder || lu->pr->state.type != PR_TYPE_NONE);
	forget_verdicts_locked(lu);
	lun_set_fence(lu->lun, fence_locked(lu));
}

void scsi_pr_update_fence_locked(struct scsi_lu *lu)
{
	mutex_assert_held(&lu->lock);
	lun_set_fence(lu->lun, fence_locked(lu));
}
/* --- RESERVE(6), RELEASE(6) --- */

/**
 * SPC-4 5.12.3: to a registrant whose persistent reservation already gives it what RESERVE would,
 * both commands are GOOD and do nothing.
 */
static bool covered_locked(struct scsi_lu *lu, struct scsi_nexus *nx)
{
	const struct pr_state *st = &lu->pr->state;
	const struct pr_registration *reg;
	struct pr_nexus name;

	if (st->type == PR_TYPE_NONE)
		return false;
	scsi_pr_nexus_name(nx, &name);
	reg = pr_find(st, &name);
	return reg && (pr_is_holder(st, reg) || pr_type_registrants_only(st->type));
}

void scsi_reserve6(struct scsi_cmd *cmd)
{
	struct scsi_lu *lu = cmd->lu;
	struct scsi_pr *pr = lu->pr;
	bool ok;

	mutex_lock(&lu->lock);
	if (pr->state.n_regs) {
		ok = covered_locked(lu, cmd->nexus);
	} else {
		/* A PERSISTENT RESERVE OUT that is being written counts as done already. */
		ok = (!pr->legacy_holder || pr->legacy_holder == cmd->nexus->id) && !pr->turn.busy;
		if (ok && !pr->legacy_holder) {
			pr->legacy_holder = cmd->nexus->id;
			scsi_pr_changed_locked(lu);
		}
	}
	mutex_unlock(&lu->lock);
	scsi_finish(cmd, ok ? SCSI_GOOD : SCSI_RESERVATION_CONFLICT);
}

/** Lets go of the RESERVE(6) reservation of nexus @id (0: of anybody). */
static void drop_legacy(struct scsi_lu *lu, uint64_t id)
{
	mutex_scope(&lu->lock);
	if (!lu->pr->legacy_holder || (id && lu->pr->legacy_holder != id))
		return;
	lu->pr->legacy_holder = 0;
	scsi_pr_changed_locked(lu);
}

void scsi_release6(struct scsi_cmd *cmd)
{
	struct scsi_lu *lu = cmd->lu;
	bool ok;

	mutex_lock(&lu->lock);
	ok = !lu->pr->state.n_regs || covered_locked(lu, cmd->nexus);
	mutex_unlock(&lu->lock);
	if (ok)
		drop_legacy(lu, cmd->nexus->id); /* not the holder: GOOD all the same */
	scsi_finish(cmd, ok ? SCSI_GOOD : SCSI_RESERVATION_CONFLICT);
}

/* --- life --- */

int scsi_pr_create(struct scsi_lu *lu, struct reason *why)
{
	struct scsi_pr *pr = calloc(1, sizeof(*pr));
	char *text = NULL;
	int ret;

	if (!pr)
		return reason_set(why, ENOMEM, "no memory for reservations");
	pr_state_init(&pr->state);
	state_turn_init(&pr->turn);
	ret = state_load(lu, "reservations", &text, why);
	if (!ret && text)
		ret = pr_store_decode(text, lun_identity(lu->lun)->serial, &pr->state, why);
	free(text);
	if (ret) {
		free(pr);
		return reason_prefix(why, ret, "%s", lun_name(lu->lun));
	}
	lu->pr = pr;
	mutex_lock(&lu->lock);
	scsi_pr_changed_locked(lu);
	mutex_unlock(&lu->lock);
	return 0;
}

void scsi_pr_destroy(struct scsi_lu *lu)
{
	if (!lu->pr)
		return;
	assert(!lu->pr->turn.busy);
	pr_state_free(&lu->pr->state);
	free(lu->pr);
	lu->pr = NULL;
	lun_set_fence(lu->lun, LUN_FENCE_NONE);
}

void scsi_pr_nexus_loss(struct scsi_lu *lu, struct scsi_nexus *nx)
{
	drop_legacy(lu, nx->id);
}

void scsi_pr_reset(struct scsi_lu *lu)
{
	drop_legacy(lu, 0);
}
