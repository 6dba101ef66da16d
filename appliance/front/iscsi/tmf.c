// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Task management (RFC 7143 11.5, 11.6) and aborts.
 *
 * An abort marks the tasks it hits - those here when it comes, not later ones - with its number,
 * and waits in conn->aborts until none of them is left: a task ends at once where only data are
 * missing, and when the device server lets go of it where it runs. Aborts come from ABORT TASK,
 * and from the device server through the nexus (LUN RESET, CLEAR TASK SET, PREEMPT AND ABORT, of
 * this session or another's). The callbacks of an abort run from the connection's deferred task,
 * never from within the call that asked for it, since that may hold locks.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

static bool abort_matches(const struct iscsi_abort *a, const struct iscsi_task *t)
{
	if (iscsi_op(&t->bhs) != ISCSI_OP_SCSI_CMD)
		return false;
	if (a->one)
		return t->itt == a->itt;
	return !a->lu || t->cmd.lu == a->lu;
}

void iscsi_abort_mark(struct iscsi_conn *c, struct iscsi_abort *a)
{
	struct list_node *n, *next;

	a->seq = ++c->abort_seq;
	list_for_each_safe (n, next, &c->live) {
		struct iscsi_task *t = container_of(n, struct iscsi_task, live);

		if (abort_matches(a, t) && !t->aborted && !t->status_sent)
			iscsi_task_abort(t, a->tas, a->seq);
	}
	list_add_tail(&c->aborts, &a->link);
	reactor_defer(c->reactor, &c->pump);
}

static bool abort_pending(const struct iscsi_conn *c, const struct iscsi_abort *a)
{
	struct list_node *n;

	list_for_each (n, &c->live) {
		const struct iscsi_task *t = container_of(n, struct iscsi_task, live);

		if (t->aborted && !t->status_sent && iscsi_sn_diff(t->abort_seq, a->seq) <= 0 &&
		    abort_matches(a, t))
			return true;
	}
	return false;
}

void iscsi_abort_check(struct iscsi_conn *c)
{
	struct list_node *n, *next;

restart:
	list_for_each_safe (n, next, &c->aborts) {
		struct iscsi_abort *a = container_of(n, struct iscsi_abort, link);

		if (abort_pending(c, a))
			continue;
		list_del(&a->link);
		a->done(a);
		goto restart; /* done() may have ended more than @a */
	}
}

/* --- for the device server --- */

static void nexus_abort_done(struct iscsi_abort *a)
{
	struct iscsi_conn *c = a->conn;

	a->fin(a->arg);
	free(a);
	iscsi_conn_put(c);
}

static void nexus_abort_run(struct reactor_msg *m)
{
	struct iscsi_abort *a = container_of(m, struct iscsi_abort, msg);

	if (a->conn->state == CONN_GONE)
		nexus_abort_done(a);
	else
		iscsi_abort_mark(a->conn, a);
}

void iscsi_nexus_abort_all(struct scsi_nexus *nx, struct scsi_lu *lu, bool tas,
			   void (*fin)(void *arg), void *arg)
{
	struct iscsi_conn *c = container_of(nx, struct iscsi_conn, nexus);
	struct iscsi_abort *a;

	/* a few bytes; there is nobody to tell that they are not to be had */
	while (!(a = calloc(1, sizeof(*a))))
		sched_yield();
	a->conn = iscsi_conn_get(c);
	a->lu = lu;
	a->tas = tas;
	a->done = nexus_abort_done;
	a->fin = fin;
	a->arg = arg;
	a->msg.fn = nexus_abort_run;
	if (reactor_self() == c->reactor && c->state != CONN_GONE)
		iscsi_abort_mark(c, a);
	else
		reactor_post(c->reactor, &a->msg);
}

/* --- requests --- */

struct tmf_op {
	struct iscsi_conn *conn;
	struct iscsi_bhs bhs;
	enum iscsi_tmf function;
	struct scsi_tmf_req req;
	struct iscsi_abort abort;
};

static void respond(struct iscsi_conn *c, const struct iscsi_bhs *bhs,
		    enum iscsi_tmf_response response)
{
	struct iscsi_pdu *p;

	if (!iscsi_conn_open(c))
		return;
	p = iscsi_pdu_get_always(c, ISCSI_OP_TMF_RSP);
	if (!p) {
		iscsi_conn_close(c, false);
		return;
	}
	p->bhs.b2 = (uint8_t)response;
	memcpy(p->bhs.itt, bhs->itt, sizeof(p->bhs.itt));
	iscsi_conn_stamp(c, &p->bhs, true);
	iscsi_pdu_send(p, NULL, 0);
}

static void op_finish(struct tmf_op *op, enum iscsi_tmf_response response)
{
	struct iscsi_conn *c = op->conn;

	respond(c, &op->bhs, response);
	c->n_immediate--;
	free(op);
	iscsi_conn_put(c);
}

/* TARGET COLD RESET ends all sessions of the target (11.5.1). */
static void drop_sessions(struct iscsi_conn *c)
{
	struct list_node *n;

	mutex_scope(&c->srv->lock);
	list_for_each (n, &c->srv->conns) {
		struct iscsi_conn *other = container_of(n, struct iscsi_conn, link);

		if (other->listed && other->target == c->target)
			iscsi_conn_ctl(other, CTL_DROP);
	}
}

static void scsi_done(struct scsi_tmf_req *req)
{
	static const enum iscsi_tmf_response response[] = {
		[SCSI_TMF_COMPLETE] = ISCSI_TMF_RSP_COMPLETE,
		[SCSI_TMF_REJECTED] = ISCSI_TMF_RSP_REJECTED,
		[SCSI_TMF_NO_LUN] = ISCSI_TMF_RSP_NO_LUN,
	};
	struct tmf_op *op = container_of(req, struct tmf_op, req);
	bool cold = op->function == ISCSI_TMF_COLD_RESET && req->result == SCSI_TMF_COMPLETE;
	struct iscsi_conn *c = iscsi_conn_get(op->conn);

	op_finish(op, response[req->result]);
	if (cold)
		drop_sessions(c);
	iscsi_conn_put(c);
}

static void abort_task_done(struct iscsi_abort *a)
{
	op_finish(container_of(a, struct tmf_op, abort), ISCSI_TMF_RSP_COMPLETE);
}

/* A number within the window that never came counts as received (11.5.5). */
static void skip_cmdsn(struct iscsi_conn *c, uint32_t cmdsn)
{
	struct iscsi_task *t = iscsi_task_new(c);

	if (!t)
		return;
	t->skip = true;
	t->itt = ISCSI_TAG_RESERVED;
	t->cmdsn = cmdsn;
	t->immediate = false;
	iscsi_session_order(c, t);
}

static void abort_task(struct tmf_op *op, const struct iscsi_tmf_bhs *req)
{
	struct iscsi_conn *c = op->conn;
	struct iscsi_task *t = iscsi_task_find(c, get_be32(req->ref_itt));
	uint32_t cmdsn = get_be32(req->cmdsn), ref = get_be32(req->ref_cmdsn);

	if (t && memcmp(t->bhs.lun, req->lun, sizeof(req->lun)) == 0 && !t->status_sent) {
		op->abort.conn = c;
		op->abort.one = true;
		op->abort.itt = t->itt;
		op->abort.done = abort_task_done;
		iscsi_abort_mark(c, &op->abort);
		return;
	}
	if (!t && iscsi_sn_diff(ref, cmdsn) < 0 &&
	    iscsi_sn_in_window(ref, c->exp_cmdsn, iscsi_max_cmdsn(c))) {
		skip_cmdsn(c, ref);
		op_finish(op, ISCSI_TMF_RSP_COMPLETE);
		return;
	}
	op_finish(op, ISCSI_TMF_RSP_NO_TASK);
}

static void to_device_server(struct tmf_op *op, const struct iscsi_tmf_bhs *req,
			     enum scsi_tmf function)
{
	op->req.nexus = &op->conn->nexus;
	op->req.fn = function;
	op->req.lun = get_be64(req->lun);
	op->req.done = scsi_done;
	scsi_tmf(&op->req);
}

static void carry_out(struct tmf_op *op, const struct iscsi_tmf_bhs *req)
{
	switch (op->function) {
	case ISCSI_TMF_ABORT_TASK:
		abort_task(op, req);
		break;
	case ISCSI_TMF_ABORT_TASK_SET:
		to_device_server(op, req, SCSI_TMF_ABORT_TASK_SET);
		break;
	case ISCSI_TMF_CLEAR_ACA:
		to_device_server(op, req, SCSI_TMF_CLEAR_ACA);
		break;
	case ISCSI_TMF_CLEAR_TASK_SET:
		to_device_server(op, req, SCSI_TMF_CLEAR_TASK_SET);
		break;
	case ISCSI_TMF_LUN_RESET:
		to_device_server(op, req, SCSI_TMF_LUN_RESET);
		break;
	case ISCSI_TMF_WARM_RESET:
		to_device_server(op, req, SCSI_TMF_TARGET_WARM_RESET);
		break;
	case ISCSI_TMF_COLD_RESET:
		to_device_server(op, req, SCSI_TMF_TARGET_COLD_RESET);
		break;
	case ISCSI_TMF_TASK_REASSIGN: /* ERL 2 */
		op_finish(op, ISCSI_TMF_RSP_NO_REASSIGN);
		break;
	default:
		op_finish(op, ISCSI_TMF_RSP_NOT_SUPPORTED);
		break;
	}
}

void iscsi_tmf_request(struct iscsi_conn *c, const struct iscsi_tmf_bhs *req)
{
	struct tmf_op *op;

	metric_add(&c->srv->counters.tmfs, 1);
	if (!c->attached) { /* a discovery session has no tasks */
		iscsi_conn_reject(c, ISCSI_REJECT_PROTOCOL, req);
		return;
	}
	if (c->n_immediate >= ISCSI_IMMEDIATE_MAX) {
		iscsi_conn_reject(c, ISCSI_REJECT_TOO_MANY_IMMEDIATE, req);
		return;
	}
	op = calloc(1, sizeof(*op));
	if (!op) {
		iscsi_conn_reject(c, ISCSI_REJECT_RESOURCES, req);
		return;
	}
	op->conn = iscsi_conn_get(c);
	op->bhs = *(const struct iscsi_bhs *)req;
	op->function = (enum iscsi_tmf)ISCSI_TMF_FUNCTION(req->flags);
	list_init(&op->abort.link);
	c->n_immediate++;
	carry_out(op, req);
}
