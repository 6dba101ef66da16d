/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Aborts. Those of LIO's initiators come through the ring, with the numbers of the commands: LIO
 * has answered or will answer the initiators itself and only waits for us to let go of them. Those
 * of other nexuses on the same LUN (iSCSI sessions of ours) come from the device server, and hit
 * all commands that are here by then: they are waited for in order of arrival.
 */
#include <sched.h>
#include <stdlib.h>

#include "front/tcmu/tcmu_session_private.h"
#include "front/tcmu/tcmu_spec.h"

struct tcmu_abort {
	struct tcmu_session *session;
	struct reactor_msg msg;
	struct list_node link; /* session->aborts */
	uint64_t seq;	       /* the last command that it hits */
	void (*fin)(void *arg);
	void *arg;
};

void tcmu_abort_check(struct tcmu_session *s)
{
	struct list_node *n;
	uint64_t first = UINT64_MAX; /* of those still here */

	if (!list_empty(&s->live))
		first = container_of(s->live.next, struct tcmu_cmd, link)->seq;
	while ((n = s->aborts.next) != &s->aborts) {
		struct tcmu_abort *a = container_of(n, struct tcmu_abort, link);

		if (a->seq >= first) /* so have those behind it */
			break;
		list_del(&a->link);
		a->fin(a->arg);
		free(a);
	}
}

/* Aborting one command may end others: they are found anew, in order. */
static void abort_up_to(struct tcmu_session *s, uint64_t last)
{
	uint64_t done = 0;

	for (;;) {
		struct tcmu_cmd *c, *next = NULL;

		list_for_each_entry (c, &s->live, link) {
			if (c->seq <= done)
				continue;
			next = c;
			break;
		}
		if (!next || next->seq > last)
			return;
		done = next->seq;
		next->aborted = true;
		tcmu_command_abort(next);
	}
}

static void abort_run(struct reactor_msg *m)
{
	struct tcmu_abort *a = container_of(m, struct tcmu_abort, msg);
	struct tcmu_session *s = a->session;

	a->seq = s->seq;
	list_add_tail(&s->aborts, &a->link);
	abort_up_to(s, a->seq);
	atomic_fetch_sub(&s->aborts_posted, 1);
	tcmu_session_ended_one(s);
}

/*
 * By message even on our own thread: the caller may hold locks. All commands are on the one LU of
 * the session. The kernel wants an answer to each command, so none ends silently.
 */
static void abort_all(struct scsi_nexus *nx, struct scsi_lu *lu, bool tas, void (*fin)(void *arg),
		      void *arg)
{
	struct tcmu_session *s = container_of(nx, struct tcmu_session, nexus);
	struct tcmu_abort *a;

	/* a few bytes; there is nobody to tell that they are not to be had */
	while (!(a = calloc(1, sizeof(*a))))
		sched_yield();
	*a = (struct tcmu_abort){.session = s, .fin = fin, .arg = arg, .msg.fn = abort_run};
	list_init(&a->link);
	atomic_fetch_add(&s->aborts_posted, 1);
	reactor_post(s->reactor, &a->msg);
}

const struct scsi_nexus_ops tcmu_nexus_ops = {.abort_all = abort_all};

/* --- from the ring --- */

struct tmf {
	struct tcmu_session *session;
	struct scsi_tmf_req req;
};

static void reset_done(struct scsi_tmf_req *req)
{
	struct tmf *t = container_of(req, struct tmf, req);
	struct tcmu_session *s = t->session;

	free(t);
	s->n_tmfs--;
	tcmu_session_ended_one(s);
}

/* Resets the logical unit for all who use it. */
static void reset_lun(struct tcmu_session *s)
{
	struct tmf *t = calloc(1, sizeof(*t));

	if (!t)
		return; /* LIO has aborted what there was */
	t->session = s;
	t->req.nexus = &s->nexus;
	t->req.fn = SCSI_TMF_LUN_RESET;
	t->req.done = reset_done;
	s->n_tmfs++;
	scsi_tmf(&t->req);
}

static struct tcmu_cmd *find(struct tcmu_session *s, uint16_t id)
{
	struct tcmu_cmd *c;

	list_for_each_entry (c, &s->live, link)
		if (c->id == id)
			return c;
	return NULL;
}

void tcmu_abort_take(struct tcmu_session *s, const struct tcmu_entry *e)
{
	for (uint32_t i = 0; i < e->n_ids && i < TCMU_DEPTH; i++) {
		struct tcmu_cmd *c = find(s, tcmu_ring_tmr_id(&s->ring, e, i));

		if (c)
			tcmu_command_abort(c);
	}
	if (e->tmr == TCMU_TMR_LUN_RESET || e->tmr == TCMU_TMR_TARGET_WARM_RESET ||
	    e->tmr == TCMU_TMR_TARGET_COLD_RESET)
		reset_lun(s);
}
