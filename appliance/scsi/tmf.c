/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Task management (SAM-5 clause 7). The fronts hold the commands, so aborting is asked of them,
 * nexus by nexus; a function is complete when every one of them has answered, and only then is the
 * logical unit reset and the initiator told.
 *
 * A nexus on another thread is asked with lu->lock held, which keeps it from going away (it leaves
 * lu->itls under that lock) and is safe because the front only posts a message. A nexus on this
 * thread answers at once, running completions that may come back here, so it is asked with no lock;
 * it cannot go away meanwhile as that happens on this thread too. Those are found one by one in
 * order of their ids, because any may leave while another is asked.
 */
#include "scsi/target.h"

static struct scsi_nexus *next_on_this_thread(struct scsi_lu *lu, const struct reactor *self,
					      uint64_t last)
{
	struct scsi_nexus *best = NULL;
	struct scsi_itl *itl;

	mutex_scope(&lu->lock);
	list_for_each_entry (itl, &lu->itls, lu_link) {
		struct scsi_nexus *nx = itl->nexus;

		if (nx->reactor == self && nx->id > last && (!best || nx->id < best->id))
			best = nx;
	}
	return best;
}

static void abort_elsewhere(struct scsi_lu *lu, const struct reactor *self, bool tas,
			    void (*fin)(void *arg), void *arg, _Atomic int *pending)
{
	struct scsi_itl *itl;

	mutex_scope(&lu->lock);
	list_for_each_entry (itl, &lu->itls, lu_link) {
		if (itl->nexus->reactor == self)
			continue;
		atomic_fetch_add(pending, 1);
		itl->nexus->ops->abort_all(itl->nexus, lu, tas, fin, arg);
	}
}

void scsi_abort_commands(struct scsi_lu *lu, enum scsi_abort_whom whom, struct scsi_nexus *self,
			 bool tas, void (*fin)(void *arg), void *arg, _Atomic int *pending)
{
	const struct reactor *here = self->reactor;
	struct scsi_nexus *nx = NULL;
	uint64_t last = 0;

	if (whom == SCSI_ABORT_OWN) {
		atomic_fetch_add(pending, 1);
		self->ops->abort_all(self, lu, false, fin, arg);
		return;
	}
	abort_elsewhere(lu, here, tas, fin, arg, pending);
	while ((nx = next_on_this_thread(lu, here, last))) {
		last = nx->id;
		atomic_fetch_add(pending, 1);
		nx->ops->abort_all(nx, lu, tas && nx != self, fin, arg);
	}
}

void scsi_nexus_abort(struct scsi_lu *lu, uint64_t nexus_id, bool tas, void (*fin)(void *arg),
		      void *arg)
{
	const struct reactor *here = reactor_self();
	struct scsi_nexus *mine = NULL;
	struct scsi_itl *itl;
	bool asked = false;

	mutex_lock(&lu->lock);
	list_for_each_entry (itl, &lu->itls, lu_link) {
		if (itl->nexus->id != nexus_id)
			continue;
		if (itl->nexus->reactor == here) {
			mine = itl->nexus;
		} else {
			itl->nexus->ops->abort_all(itl->nexus, lu, tas, fin, arg);
			asked = true;
		}
		break;
	}
	mutex_unlock(&lu->lock);
	if (mine)
		mine->ops->abort_all(mine, lu, tas, fin, arg);
	else if (!asked)
		fin(arg);
}

/* --- the functions --- */

static void one_done(void *arg)
{
	struct scsi_tmf_req *req = arg;

	if (atomic_fetch_sub(&req->pending, 1) == 1)
		reactor_post(req->nexus->reactor, &req->msg);
}

static void for_each_lu(struct scsi_target *t, void (*fn)(struct scsi_lu *lu, void *arg), void *arg)
{
	for (unsigned i = 0; i < SCSI_LUNS_MAX; i++) {
		struct scsi_lu *lu = scsi_target_find(t, (uint64_t)i << 48);

		if (lu)
			fn(lu, arg);
		scsi_lu_unref(lu);
	}
}

static bool is_target_reset(const struct scsi_tmf_req *req)
{
	return req->fn == SCSI_TMF_TARGET_WARM_RESET || req->fn == SCSI_TMF_TARGET_COLD_RESET;
}

static void reset_lu(struct scsi_lu *lu, void *arg)
{
	const struct scsi_tmf_req *req = arg;

	scsi_lu_reset(lu,
		      req->fn == SCSI_TMF_TARGET_COLD_RESET ? SCSI_UA_POWER_ON : SCSI_UA_LU_RESET);
}

static void abort_on_lu(struct scsi_lu *lu, void *arg)
{
	struct scsi_tmf_req *req = arg;
	bool tas = atomic_load_explicit(&lu->mode.tas, memory_order_relaxed);

	scsi_abort_commands(lu, SCSI_ABORT_ALL, req->nexus, tas, one_done, req, &req->pending);
}

/* Nexuses whose commands vanish without a status learn of it by a unit attention (SAM-5 5.14). */
static void warn_others(struct scsi_lu *lu, const struct scsi_nexus *self)
{
	struct scsi_itl *itl;

	mutex_scope(&lu->lock);
	list_for_each_entry (itl, &lu->itls, lu_link) {
		if (itl->nexus != self && atomic_load_explicit(&itl->cmds, memory_order_relaxed))
			atomic_fetch_or_explicit(&itl->ua, 1u << SCSI_UA_COMMANDS_CLEARED,
						 memory_order_release);
	}
}

static void all_done(struct reactor_msg *m)
{
	struct scsi_tmf_req *req = container_of(m, struct scsi_tmf_req, msg);

	if (is_target_reset(req))
		for_each_lu(req->nexus->target, reset_lu, req);
	else if (req->fn == SCSI_TMF_LUN_RESET && req->lu)
		reset_lu(req->lu, req);
	scsi_lu_unref(req->lu);
	req->lu = NULL;
	req->done(req);
}

static void start(struct scsi_tmf_req *req)
{
	switch (req->fn) {
	case SCSI_TMF_ABORT_TASK_SET:
		scsi_abort_commands(req->lu, SCSI_ABORT_OWN, req->nexus, false, one_done, req,
				    &req->pending);
		break;
	case SCSI_TMF_CLEAR_TASK_SET:
		if (!atomic_load_explicit(&req->lu->mode.tas, memory_order_relaxed))
			warn_others(req->lu, req->nexus);
		abort_on_lu(req->lu, req);
		break;
	case SCSI_TMF_LUN_RESET:
		abort_on_lu(req->lu, req);
		break;
	default:
		for_each_lu(req->nexus->target, abort_on_lu, req);
		break;
	}
}

void scsi_tmf(struct scsi_tmf_req *req)
{
	req->result = SCSI_TMF_COMPLETE;
	req->lu = NULL;
	req->msg.fn = all_done;
	atomic_store(&req->pending, 1);
	if (req->fn == SCSI_TMF_CLEAR_ACA) {
		req->result = SCSI_TMF_REJECTED; /* NORMACA is 0 */
	} else if (is_target_reset(req)) {
		start(req);
	} else {
		req->lu = scsi_target_find(req->nexus->target, req->lun);
		if (req->lu)
			start(req);
		else
			req->result = SCSI_TMF_NO_LUN;
	}
	one_done(req);
}
