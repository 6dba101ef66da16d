// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A session: command numbering, requests that are no SCSI commands, keep-alive, reinstatement.
 *
 * Numbering (RFC 7143 4.2.2.1). ExpCmdSN is the next number to be delivered; a request that comes
 * early within the window is queued until its turn; one outside the window, or a second one of the
 * same number, is ignored. The window is ExpCmdSN .. MaxCmdSN with
 *
 *     MaxCmdSN = ExpCmdSN + depth - commands in progress - 1
 *
 * Delivering a command moves ExpCmdSN and the count of commands together, so MaxCmdSN never goes
 * back; it goes on when a status is queued. Immediate requests have no place in the window and a
 * limit of their own.
 *
 * Reinstatement (6.3.5): a login with the name, ISID and target of a living session ends that one
 * first. The new connection waits in the old one's list and is woken by a message when all of the
 * old one's commands have ended and its nexus is gone, so that the two never overlap.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "mem/budget/budget.h"

/* --- numbering --- */

uint32_t iscsi_max_cmdsn(const struct iscsi_conn *c)
{
	return c->exp_cmdsn + c->srv->opt.queue_depth - c->window_used - 1;
}

/* An answer to our ping has no CmdSN of its own, whatever its immediate bit says. */
static bool is_immediate(const struct iscsi_bhs *bhs)
{
	return bhs->opcode & ISCSI_OP_IMMEDIATE ||
	       (iscsi_op(bhs) == ISCSI_OP_NOP_OUT && iscsi_itt(bhs) == ISCSI_TAG_RESERVED);
}

bool iscsi_session_admits(const struct iscsi_conn *c, const struct iscsi_bhs *bhs)
{
	return is_immediate(bhs) ||
	       iscsi_sn_in_window(get_be32(bhs->w24), c->exp_cmdsn, iscsi_max_cmdsn(c));
}

/* Queues @t by CmdSN; false when that number is there already. */
static bool queue_early(struct iscsi_conn *c, struct iscsi_task *t)
{
	struct list_node *n;

	for (n = c->queued.prev; n != &c->queued; n = n->prev) {
		int32_t d =
			iscsi_sn_diff(t->cmdsn, container_of(n, struct iscsi_task, link)->cmdsn);

		if (d == 0)
			return false;
		if (d > 0)
			break;
	}
	if (list_empty(&c->queued))
		c->data_ns = reactor_now(c->reactor);
	list_insert_between(&t->link, n, n->next);
	return true;
}

static int execute(struct iscsi_conn *c, const struct iscsi_bhs *bhs, void **buf);

static void deliver_command(struct iscsi_conn *c, struct iscsi_task *t)
{
	t->in_window = true;
	c->window_used++;
	iscsi_task_deliver(t);
}

/* Delivers what was waiting for the number before it. */
static int drain_queue(struct iscsi_conn *c)
{
	int r = 0;

	while (r == 0 && iscsi_conn_open(c) && !list_empty(&c->queued)) {
		struct iscsi_task *t = container_of(c->queued.next, struct iscsi_task, link);

		if (t->cmdsn != c->exp_cmdsn)
			break;
		list_del(&t->link);
		c->exp_cmdsn++;
		c->data_ns = reactor_now(c->reactor);
		if (!t->skip && iscsi_op(&t->bhs) == ISCSI_OP_SCSI_CMD) {
			deliver_command(c, t);
			continue;
		}
		if (!t->skip)
			r = execute(c, &t->bhs, &t->buf);
		iscsi_task_free(t);
	}
	return r;
}

int iscsi_session_order(struct iscsi_conn *c, struct iscsi_task *t)
{
	if (t->immediate) {
		iscsi_task_deliver(t);
	} else if (t->cmdsn == c->exp_cmdsn) {
		c->exp_cmdsn++;
		deliver_command(c, t);
		return drain_queue(c);
	} else if (!queue_early(c, t)) {
		iscsi_task_free(t);
	}
	return 0;
}

/* --- requests --- */

static int nop_out(struct iscsi_conn *c, const struct iscsi_bhs *bhs, void **buf)
{
	uint32_t len = iscsi_dsl(bhs);
	struct iscsi_pdu *p;

	if (iscsi_itt(bhs) == ISCSI_TAG_RESERVED)
		return 0; /* an answer to our ping: that it came is all that counts */
	p = iscsi_pdu_get(c, ISCSI_OP_NOP_IN);
	if (!p)
		return iscsi_conn_fail(c, "too many pings unread");
	if (len > c->params.max_send_data_segment)
		len = c->params.max_send_data_segment;
	memcpy(p->bhs.lun, bhs->lun, sizeof(p->bhs.lun));
	memcpy(p->bhs.itt, bhs->itt, sizeof(p->bhs.itt));
	put_be32(p->bhs.w20, ISCSI_TAG_RESERVED);
	iscsi_conn_stamp(c, &p->bhs, true);
	p->buf = take_ptr(*buf);
	iscsi_pdu_send(p, p->buf, len);
	return 0;
}

static int logout(struct iscsi_conn *c, const struct iscsi_bhs *bhs)
{
	struct iscsi_pdu *p = iscsi_pdu_get_always(c, ISCSI_OP_LOGOUT_RSP);
	unsigned reason = ISCSI_LOGOUT_REASON(bhs->flags);
	struct iscsi_logout_rsp_bhs *h;

	if (!p)
		return -ENOMEM;
	h = (struct iscsi_logout_rsp_bhs *)&p->bhs;
	memcpy(h->itt, bhs->itt, sizeof(h->itt));
	if (reason == ISCSI_LOGOUT_RECOVERY)
		h->response = ISCSI_LOGOUT_RSP_NO_RECOVERY;
	else if (reason == ISCSI_LOGOUT_CONNECTION && get_be16(bhs->w20) != c->cid)
		h->response = ISCSI_LOGOUT_RSP_NO_CID;
	else if (reason > ISCSI_LOGOUT_RECOVERY)
		h->response = ISCSI_LOGOUT_RSP_FAILED;
	put_be16(h->time2wait, (uint16_t)c->params.time2wait);
	iscsi_conn_stamp(c, h, true);
	iscsi_pdu_send(p, NULL, 0);
	if (h->response == ISCSI_LOGOUT_RSP_CLOSED)
		iscsi_conn_close(c, true);
	return 0;
}

/* Carries out a request that is no SCSI command; may take *@buf, its data, over. */
static int execute(struct iscsi_conn *c, const struct iscsi_bhs *bhs, void **buf)
{
	switch (iscsi_op(bhs)) {
	case ISCSI_OP_NOP_OUT:
		return nop_out(c, bhs, buf);
	case ISCSI_OP_TMF:
		iscsi_tmf_request(c, (const struct iscsi_tmf_bhs *)bhs);
		return 0;
	case ISCSI_OP_TEXT:
		return iscsi_text_request(c, (const struct iscsi_text_bhs *)bhs, *buf,
					  iscsi_dsl(bhs));
	case ISCSI_OP_LOGOUT:
		return logout(c, bhs);
	default:
		return 0;
	}
}

/* Bytes that requests hold which came before their turn; SCSI commands are counted elsewhere. */
static size_t early_bytes(const struct iscsi_conn *c)
{
	struct list_node *n;
	size_t sum = 0;

	list_for_each (n, &c->queued) {
		const struct iscsi_task *t = container_of(n, struct iscsi_task, link);

		sum += t->buf ? iscsi_dsl(&t->bhs) : 0;
	}
	return sum;
}

static int other_request(struct iscsi_conn *c)
{
	struct iscsi_task *t;
	int r;

	if (is_immediate(&c->bhs))
		return execute(c, &c->bhs, &c->rx_buf);
	if (get_be32(c->bhs.w24) == c->exp_cmdsn) {
		c->exp_cmdsn++;
		r = execute(c, &c->bhs, &c->rx_buf);
		return r == 0 ? drain_queue(c) : r;
	}
	if (early_bytes(c) + iscsi_dsl(&c->bhs) > ISCSI_EARLY_MAX)
		return iscsi_conn_fail(c, "too much data of requests before their turn");
	t = iscsi_task_new(c);
	if (!t)
		return -ENOMEM;
	t->bhs = c->bhs;
	t->itt = ISCSI_TAG_RESERVED;
	t->cmdsn = get_be32(c->bhs.w24);
	t->buf = take_ptr(c->rx_buf);
	if (!queue_early(c, t))
		iscsi_task_free(t);
	return 0;
}

int iscsi_session_request(struct iscsi_conn *c)
{
	switch (iscsi_op(&c->bhs)) {
	case ISCSI_OP_SCSI_CMD:
		return c->rx_task ? iscsi_session_order(c, c->rx_task) : 0;
	case ISCSI_OP_NOP_OUT:
	case ISCSI_OP_TMF:
	case ISCSI_OP_TEXT:
	case ISCSI_OP_LOGOUT:
		return other_request(c);
	case ISCSI_OP_SNACK: /* ERL 0 has no recovery within a connection */
		iscsi_conn_reject(c, ISCSI_REJECT_SNACK, &c->bhs);
		return 0;
	default:
		iscsi_conn_reject(c, ISCSI_REJECT_NOT_SUPPORTED, &c->bhs);
		return 0;
	}
}

/* --- keep-alive and events --- */

static void ping(struct iscsi_conn *c)
{
	struct iscsi_pdu *p = iscsi_pdu_get_always(c, ISCSI_OP_NOP_IN);

	if (!p)
		return;
	put_be32(p->bhs.itt, ISCSI_TAG_RESERVED);
	put_be32(p->bhs.w20, 1);
	iscsi_conn_stamp(c, &p->bhs, false);
	iscsi_pdu_send(p, NULL, 0);
	c->ping_out = true;
}

/*
 * Buffers that were granted for data that do not come are missing elsewhere; so are those of
 * commands whose predecessor does not come (on one connection it never does: 4.2.2.1).
 */
static bool data_overdue(const struct iscsi_conn *c, uint64_t now, uint64_t limit)
{
	return (c->n_data > 0 || !list_empty(&c->queued)) && !c->paused &&
	       now >= c->data_ns + limit;
}

void iscsi_session_keep_alive(struct iscsi_conn *c)
{
	uint64_t now = reactor_now(c->reactor);
	uint64_t quiet = c->srv->opt.nop_interval_ms * NSEC_PER_MSEC;
	uint64_t patience = c->srv->opt.nop_timeout_ms * NSEC_PER_MSEC;
	char peer[ISCSI_ADDRESS_MAX];

	if (data_overdue(c, now, quiet + patience)) {
		metric_add(&c->srv->counters.data_timeouts, 1);
		stream_format_address(&c->peer, peer, sizeof(peer));
		log_warn("iscsi.data.timeout", "peer=%s initiator=%s", peer, c->initiator);
		iscsi_conn_close(c, false);
		return;
	}
	if (c->ping_out && now >= c->rx_ns + quiet + patience && !(c->paused & PAUSE_MEMORY)) {
		metric_add(&c->srv->counters.nop_timeouts, 1);
		stream_format_address(&c->peer, peer, sizeof(peer));
		log_warn("iscsi.nop.timeout", "peer=%s initiator=%s", peer, c->initiator);
		iscsi_conn_close(c, false);
		return;
	}
	if (now >= c->rx_ns + quiet) {
		iscsi_task_trim(c);
		if (!c->ping_out)
			ping(c);
		reactor_timer_arm(c->reactor, &c->timer, now + patience);
		return;
	}
	reactor_timer_arm(c->reactor, &c->timer, c->rx_ns + quiet);
}

static struct iscsi_pdu *async_pdu(struct iscsi_conn *c, enum iscsi_async event)
{
	struct iscsi_pdu *p = iscsi_pdu_get(c, ISCSI_OP_ASYNC);
	struct iscsi_async_bhs *h;

	if (!p)
		return NULL;
	h = (struct iscsi_async_bhs *)&p->bhs;
	put_be32(h->tag, ISCSI_TAG_RESERVED);
	h->event = (uint8_t)event;
	iscsi_conn_stamp(c, h, true);
	return p;
}

void iscsi_session_async(struct iscsi_conn *c, enum iscsi_async event)
{
	struct iscsi_pdu *p = async_pdu(c, event);
	struct iscsi_async_bhs *h;

	if (!p)
		return;
	h = (struct iscsi_async_bhs *)&p->bhs;
	if (event == ISCSI_ASYNC_DROP_CONNECTION)
		put_be16(h->param1, c->cid);
	if (event == ISCSI_ASYNC_DROP_CONNECTION || event == ISCSI_ASYNC_DROP_ALL)
		put_be16(h->param2, (uint16_t)c->params.time2wait);
	if (event == ISCSI_ASYNC_LOGOUT)
		put_be16(h->param3, 3); /* seconds to log out in */
	iscsi_pdu_send(p, NULL, 0);
}

/* A SCSI asynchronous event: sense data with the unit attention that is pending anyway. */
static void send_lun_event(struct iscsi_conn *c, unsigned lun, enum scsi_event ev)
{
	static const uint16_t ascs[] = {
		[SCSI_EVENT_LUNS_CHANGED] = 0x3f0e,
		[SCSI_EVENT_CAPACITY_CHANGED] = 0x2a09,
	};
	struct iscsi_pdu *p = async_pdu(c, ISCSI_ASYNC_SCSI);
	struct iscsi_async_bhs *h;
	uint8_t *data;

	if (!p)
		return;
	h = (struct iscsi_async_bhs *)&p->bhs;
	h->lun[1] = (uint8_t)lun; /* as REPORT LUNS writes it */
	data = p->buf = calloc(1, 2 + 18);
	if (data) {
		put_be16(data, 18);
		data[2] = 0x70; /* current, fixed format (SPC-4 4.5.3) */
		data[2 + 2] = 0x06;
		data[2 + 7] = 10;
		put_be16(data + 2 + 12, ascs[ev]);
	}
	iscsi_pdu_send(p, data, data ? 20 : 0);
}

void iscsi_session_lun_events(struct iscsi_conn *c)
{
	for (unsigned ev = 0; ev < SCSI_EVENT_COUNT; ev++) {
		for (unsigned i = 0; i < SCSI_LUNS_MAX / 64; i++) {
			uint64_t set = atomic_exchange(&c->lun_events[ev][i], 0);

			for (; set; set &= set - 1)
				send_lun_event(c, i * 64 + (unsigned)__builtin_ctzll(set), ev);
		}
	}
}

static void nexus_event(struct scsi_nexus *nx, unsigned lun, enum scsi_event ev)
{
	struct iscsi_conn *c = container_of(nx, struct iscsi_conn, nexus);

	atomic_fetch_or(&c->lun_events[ev][lun / 64], 1ull << lun % 64);
	iscsi_conn_ctl(c, CTL_LUN_EVENTS);
}

const struct scsi_nexus_ops iscsi_nexus_ops = {
	.abort_all = iscsi_nexus_abort_all,
	.event = nexus_event,
};

/* --- beginning and end --- */

/* iSCSI TransportID, format 01b: name and ISID (SPC-4 7.6.4.6). */
static void make_transport_id(struct iscsi_conn *c)
{
	uint8_t *id = c->nexus.transport_id;
	unsigned len;

	len = (unsigned)snprintf((char *)id + 4, sizeof(c->nexus.transport_id) - 4,
				 "%.223s,i,0x%02x%02x%02x%02x%02x%02x", c->initiator, c->isid[0],
				 c->isid[1], c->isid[2], c->isid[3], c->isid[4], c->isid[5]) +
	      1;
	len = (len + 3) & ~3u;
	if (len < 20)
		len = 20;
	id[0] = 0x45;
	put_be16(id + 2, (uint16_t)len);
	c->nexus.transport_id_len = (uint16_t)(4 + len);
}
static_assert(4 + ISCSI_NAME_MAX + 5 + 12 + 1 <= 256, "transport_id holds the longest name");

/* Third-party copy reaches only what its initiator could log in to. */
static bool may_see(struct scsi_nexus *nx, struct scsi_target *other)
{
	struct iscsi_conn *c = container_of(nx, struct iscsi_conn, nexus);
	struct iscsi_access *access;
	struct iscsi_target *t = iscsi_server_find_target(c->srv, scsi_target_name(other), &access);
	bool yes = false;

	if (!t)
		return false;
	/* a target that asks for CHAP is seen only by a session that gave it */
	if (t->scsi == other)
		yes = t == c->target ||
		      (iscsi_access_allows(access, c->initiator) && access->n_users == 0);
	iscsi_access_put(access);
	iscsi_target_put(t);
	return yes;
}

static struct iscsi_conn *find_session_locked(struct iscsi_server *srv, const struct iscsi_login *l)
{
	struct list_node *n;

	list_for_each (n, &srv->conns) {
		struct iscsi_conn *c = container_of(n, struct iscsi_conn, link);

		if (c->listed && c->target && c->target == l->target &&
		    memcmp(c->isid, l->isid, sizeof(c->isid)) == 0 &&
		    strcmp(c->initiator, l->initiator) == 0)
			return c;
	}
	return NULL;
}

static uint16_t draw_tsih_locked(struct iscsi_server *srv)
{
	struct list_node *n;

again:
	if (++srv->next_tsih == 0)
		srv->next_tsih = 1;
	list_for_each (n, &srv->conns)
		if (container_of(n, struct iscsi_conn, link)->tsih == srv->next_tsih)
			goto again;
	return srv->next_tsih;
}

/* Whether a login may become a session now; as iscsi_session_establish(). */
static int admit_locked(struct iscsi_conn *c, struct iscsi_conn **ret_old)
{
	struct iscsi_server *srv = c->srv;
	struct iscsi_login *l = c->login;
	struct iscsi_conn *old = find_session_locked(srv, l);

	if (srv->closing)
		return ISCSI_LOGIN_UNAVAILABLE;
	if (l->target && l->target->removed)
		return ISCSI_LOGIN_REMOVED;
	if (l->target && !iscsi_access_allows(l->target->access, l->initiator))
		return ISCSI_LOGIN_FORBIDDEN; /* changed since the login began */
	if (l->tsih != 0)
		return old && old->tsih == l->tsih ? ISCSI_LOGIN_TOO_MANY : ISCSI_LOGIN_NO_SESSION;
	if (old) {
		list_add_tail(&old->waiters, &c->wait_link);
		iscsi_conn_get(c);
		*ret_old = iscsi_conn_get(old);
		return -EAGAIN;
	}
	if (srv->n_sessions >= srv->opt.max_sessions ||
	    (l->target && l->target->sessions >= srv->opt.max_sessions_target))
		return ISCSI_LOGIN_RESOURCES;
	/* Last: what is promised here is given back by iscsi_session_end(). */
	if (srv->opt.budget &&
	    budget_reserve(srv->opt.budget, ISCSI_SESSION_BYTES, "a session", NULL))
		return ISCSI_LOGIN_RESOURCES;
	return 0;
}

static void enter_locked(struct iscsi_conn *c)
{
	struct iscsi_server *srv = c->srv;
	struct iscsi_login *l = c->login;

	memcpy(c->initiator, l->initiator, sizeof(c->initiator));
	memcpy(c->alias, l->alias, sizeof(c->alias));
	memcpy(c->user, l->user, sizeof(c->user));
	memcpy(c->isid, l->isid, sizeof(c->isid));
	c->cid = l->cid;
	c->params = l->params;
	c->tsih = draw_tsih_locked(srv);
	c->target = l->target ? iscsi_target_get(l->target) : NULL;
	c->listed = true;
	c->unauth = false;
	srv->n_unauth--;
	srv->n_sessions++;
	if (c->target)
		c->target->sessions++;
}

static int attach(struct iscsi_conn *c)
{
	unsigned buckets = 16;

	while (buckets < 2 * c->srv->opt.queue_depth)
		buckets *= 2;
	c->hash = calloc(buckets, sizeof(struct iscsi_task *));
	if (!c->hash)
		return -ENOMEM;
	c->hash_mask = buckets - 1;
	if (!c->target)
		return 0;
	c->nexus.ops = &iscsi_nexus_ops;
	c->nexus.protocol = "iscsi";
	c->nexus.target = c->target->scsi;
	c->nexus.reactor = c->reactor;
	c->nexus.rel_port = ISCSI_RELATIVE_PORT;
	c->nexus.may_see = may_see;
	c->nexus.counters = &c->io;
	memcpy(c->nexus.initiator_name, c->initiator, sizeof(c->initiator));
	make_transport_id(c);
	if (scsi_nexus_attach(&c->nexus) < 0)
		return -ENOMEM;
	c->attached = true;
	return 0;
}

int iscsi_session_establish(struct iscsi_conn *c)
{
	struct iscsi_conn *old = NULL;
	int r;

	mutex_lock(&c->srv->lock);
	r = admit_locked(c, &old);
	if (r == 0)
		enter_locked(c);
	mutex_unlock(&c->srv->lock);
	if (old) {
		metric_add(&c->srv->counters.reinstatements, 1);
		iscsi_conn_ctl(old, CTL_KILL);
		iscsi_conn_put(old);
	}
	if (r == 0 && attach(c) < 0)
		r = ISCSI_LOGIN_RESOURCES;
	return r;
}

void iscsi_session_end(struct iscsi_conn *c)
{
	struct iscsi_server *srv = c->srv;
	struct list_node *n;

	mutex_lock(&srv->lock);
	list_del(&c->link);
	srv->n_conns--;
	if (c->unauth)
		srv->n_unauth--;
	if (c->listed) {
		srv->n_sessions--;
		if (srv->opt.budget)
			budget_release(srv->opt.budget, ISCSI_SESSION_BYTES);
		if (c->target)
			c->target->sessions--;
	}
	c->unauth = c->listed = false;
	while ((n = list_pop(&c->waiters))) {
		struct iscsi_conn *w = container_of(n, struct iscsi_conn, wait_link);

		reactor_post(w->reactor, &w->login_msg);
	}
	pthread_cond_broadcast(&srv->changed);
	mutex_unlock(&srv->lock);
}
