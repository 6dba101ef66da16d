// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A connection: PDUs to bytes, and its life. Bytes become PDUs in conn_rx.c.
 *
 * Ends: iscsi_conn_close() closes the stream; closed() comes once, after which the tasks that run
 * are waited for (DRAINING); when the last has ended the session leaves the server and the
 * reference of the stream is dropped. At ERL 0 every error on the wire ends the connection.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <isa-l/crc.h>

#include "base/clock.h"
#include "base/log.h"

#define TX_HIGH (2u << 20)
#define TX_LOW	(512u << 10)

static void conn_gone(struct iscsi_conn *c);

struct iscsi_conn *iscsi_conn_get(struct iscsi_conn *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void iscsi_conn_put(struct iscsi_conn *c)
{
	if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return;
	iscsi_target_put(c->target);
	free(c->hash);
	free(c);
}

static void set_state(struct iscsi_conn *c, enum iscsi_conn_state to)
{
#define TO(s) (1u << CONN_##s)
	static const unsigned allowed[] = {
		[CONN_LOGIN] = TO(FULL) | TO(CLOSING),
		[CONN_FULL] = TO(CLOSING),
		[CONN_CLOSING] = TO(DRAINING),
		[CONN_DRAINING] = TO(GONE),
		[CONN_GONE] = 0,
	};
	assert(allowed[c->state] & 1u << to);
	c->state = to;
#undef TO
}

bool iscsi_conn_open(const struct iscsi_conn *c)
{
	return c->state < CONN_CLOSING;
}

uint32_t iscsi_crc32c(const void *data, size_t len)
{
	return ~crc32_iscsi((unsigned char *)(uintptr_t)data, (int)len, 0xffffffff);
}

void iscsi_put_digest(uint8_t *to, uint32_t crc)
{
	for (int i = 0; i < 4; i++)
		to[i] = (uint8_t)(crc >> 8 * i);
}

/* --- backpressure --- */

void iscsi_conn_pause(struct iscsi_conn *c, enum iscsi_pause why)
{
	if (!c->paused && c->stream)
		stream_pause(c->stream);
	c->paused |= why;
}

void iscsi_conn_resume(struct iscsi_conn *c, enum iscsi_pause why)
{
	if (!(c->paused & why))
		return;
	c->paused &= ~(unsigned)why;
	if (!c->paused && c->stream && iscsi_conn_open(c))
		stream_resume(c->stream);
}

bool iscsi_conn_sends_enough(const struct iscsi_conn *c)
{
	return stream_tx_full(c->stream) || c->pdus_busy >= ISCSI_PDUS_MANY;
}

void iscsi_conn_sends_less(struct iscsi_conn *c)
{
	if (!iscsi_conn_sends_enough(c))
		iscsi_conn_resume(c, PAUSE_TX);
}

/* --- sending --- */

void iscsi_pdu_put(struct iscsi_pdu *p)
{
	struct iscsi_conn *c = p->conn;

	free(p->buf);
	p->buf = NULL;
	list_add_head(&c->free_pdus, &p->link);
	/* Small PDUs reach this limit long before the stream is full: then nobody else wakes. */
	if (c->pdus_busy-- == ISCSI_PDUS_MANY)
		reactor_defer(c->reactor, &c->pump);
}

static void pdu_tx_sent(struct stream_tx *tx, int err)
{
	struct iscsi_pdu *p = container_of(tx, struct iscsi_pdu, tx);

	p->sent(p);
}

struct iscsi_pdu *iscsi_pdu_get_always(struct iscsi_conn *c, enum iscsi_opcode op)
{
	struct list_node *n = list_pop(&c->free_pdus);
	struct iscsi_pdu *p;

	if (n) {
		p = container_of(n, struct iscsi_pdu, link);
	} else {
		p = malloc(sizeof(*p));
		if (!p)
			return NULL;
		c->n_pdus++;
	}
	c->pdus_busy++;
	p->conn = c;
	p->sent = iscsi_pdu_put;
	p->task = NULL;
	p->buf = NULL;
	list_init(&p->link);
	memset(&p->bhs, 0, sizeof(p->bhs));
	p->bhs.opcode = (uint8_t)op;
	p->bhs.flags = ISCSI_FLAG_FINAL;
	return p;
}

struct iscsi_pdu *iscsi_pdu_get(struct iscsi_conn *c, enum iscsi_opcode op)
{
	return c->pdus_busy < ISCSI_PDUS_MAX ? iscsi_pdu_get_always(c, op) : NULL;
}

void iscsi_pdu_send(struct iscsi_pdu *p, const void *data, uint32_t len)
{
	struct iscsi_conn *c = p->conn;
	struct stream_tx *tx = &p->tx;
	uint32_t pad = iscsi_pad(len), trailer = pad;

	put_be24(p->bhs.dsl, len);
	tx->iov[0].iov_base = &p->bhs;
	tx->iov[0].iov_len = ISCSI_BHS_LEN;
	tx->niov = 1;
	tx->sent = pdu_tx_sent;
	if (c->header_digest) {
		iscsi_put_digest(p->header_digest, iscsi_crc32c(&p->bhs, ISCSI_BHS_LEN));
		tx->iov[0].iov_len += ISCSI_DIGEST_LEN;
	}
	if (len) {
		tx->iov[tx->niov].iov_base = (void *)(uintptr_t)data;
		tx->iov[tx->niov++].iov_len = len;
		memset(p->trailer, 0, pad);
		if (c->data_digest) {
			uint32_t crc =
				crc32_iscsi((unsigned char *)(uintptr_t)data, (int)len, 0xffffffff);

			iscsi_put_digest(p->trailer + pad, ~crc32_iscsi(p->trailer, (int)pad, crc));
			trailer += ISCSI_DIGEST_LEN;
		}
	}
	if (trailer) {
		tx->iov[tx->niov].iov_base = p->trailer;
		tx->iov[tx->niov++].iov_len = trailer;
	}
	if (!c->stream || !iscsi_conn_open(c)) {
		p->sent(p);
		return;
	}
	metric_add(&c->n_tx_pdus, 1);
	metric_add(&c->srv->counters.tx_bytes, tx->iov[0].iov_len + len + trailer);
	stream_send(c->stream, tx);
}

void iscsi_conn_stamp(struct iscsi_conn *c, void *bhs, bool status)
{
	struct iscsi_rsp_bhs *h = bhs;

	put_be32(h->statsn, c->statsn);
	if (status)
		c->statsn++;
	put_be32(h->expcmdsn, c->exp_cmdsn);
	put_be32(h->maxcmdsn, iscsi_max_cmdsn(c));
}

void iscsi_conn_reject(struct iscsi_conn *c, enum iscsi_reject reason, const void *bhs)
{
	struct iscsi_pdu *p = iscsi_pdu_get(c, ISCSI_OP_REJECT);
	struct iscsi_rsp_bhs *h;

	if (!p || !(p->buf = malloc(ISCSI_BHS_LEN))) {
		if (p)
			iscsi_pdu_put(p);
		iscsi_conn_close(c, false);
		return;
	}
	metric_add(&c->srv->counters.rejects, 1);
	h = (struct iscsi_rsp_bhs *)&p->bhs;
	h->response = (uint8_t)reason;
	put_be32(h->itt, ISCSI_TAG_RESERVED);
	iscsi_conn_stamp(c, h, true);
	memcpy(p->buf, bhs, ISCSI_BHS_LEN);
	iscsi_pdu_send(p, p->buf, ISCSI_BHS_LEN);
}

/* --- ends --- */

void iscsi_conn_close(struct iscsi_conn *c, bool flush)
{
	if (!iscsi_conn_open(c))
		return;
	reactor_timer_cancel(c->reactor, &c->timer);
	set_state(c, CONN_CLOSING);
	if (c->stream)
		stream_close(c->stream, flush);
}

int iscsi_conn_fail(struct iscsi_conn *c, const char *what)
{
	char peer[ISCSI_ADDRESS_MAX];

	metric_add(&c->srv->counters.protocol_errors, 1);
	stream_format_address(&c->peer, peer, sizeof(peer));
	log_warn("iscsi.protocol_error", "peer=%s opcode=0x%02x what=\"%s\"", peer, c->bhs.opcode,
		 what);
	return -EPROTO;
}

static void free_pdus(struct iscsi_conn *c)
{
	struct list_node *n;

	while ((n = list_pop(&c->free_pdus))) {
		free(container_of(n, struct iscsi_pdu, link));
		c->n_pdus--;
	}
}

/* The stream is gone. */
static void conn_closed(struct stream *s, void *ctx, int err)
{
	struct iscsi_conn *c = ctx;

	if (iscsi_conn_open(c))
		set_state(c, CONN_CLOSING);
	c->stream = NULL;
	reactor_timer_cancel(c->reactor, &c->timer);
	set_state(c, CONN_DRAINING);
	free(c->rx_buf);
	c->rx_buf = NULL;
	free(c->text_in);
	c->text_in = NULL;
	iscsi_text_free(&c->text);
	iscsi_text_free(&c->login_text);
	iscsi_login_free(c->login);
	c->login = NULL;
	iobuf_wait_cancel(&c->mem_waiter);
	iscsi_task_end_all(c);
	conn_gone(c);
}

/* Ends the connection's life when nothing of it is in progress any more. */
static void conn_gone(struct iscsi_conn *c)
{
	iscsi_task_tell_aborts(c);
	iscsi_abort_check(c);
	if (c->state != CONN_DRAINING || !list_empty(&c->live))
		return;
	set_state(c, CONN_GONE);
	iscsi_abort_check(c);
	reactor_task_cancel(&c->pump);
	iscsi_task_trim(c);
	free_pdus(c);
	if (c->attached)
		scsi_nexus_detach(&c->nexus);
	c->attached = false;
	iscsi_session_end(c);
	iscsi_conn_put(c); /* the stream's */
}

static void pump_run(struct reactor_task *t)
{
	struct iscsi_conn *c = container_of(t, struct iscsi_conn, pump);

	if (!iscsi_conn_open(c)) {
		conn_gone(c);
		return;
	}
	iscsi_task_tell_aborts(c);
	iscsi_abort_check(c);
	iscsi_task_pump(c);
}

static void memory_there(struct iobuf_waiter *w)
{
	struct iscsi_conn *c = container_of(w, struct iscsi_conn, mem_waiter);

	if (iscsi_conn_open(c))
		iscsi_task_pump(c);
}

void iscsi_task_trim(struct iscsi_conn *c)
{
	struct list_node *n;

	while ((n = list_pop(&c->free_tasks))) {
		free(container_of(n, struct iscsi_task, link));
		c->n_tasks--;
	}
	free_pdus(c);
}

/* --- login --- */

static void login_refused(struct iscsi_conn *c, unsigned status)
{
	char peer[ISCSI_ADDRESS_MAX];

	metric_add(&c->srv->counters.login_failures, 1);
	if (status == ISCSI_LOGIN_AUTH_FAILED)
		metric_add(&c->srv->counters.auth_failures, 1);
	stream_format_address(&c->peer, peer, sizeof(peer));
	log_warn("iscsi.login.refused", "peer=%s initiator=%s target=%s status=0x%04x", peer,
		 c->login->initiator, c->login->target ? c->login->target->name : "-", status);
}

static void login_answer(struct iscsi_conn *c, const struct iscsi_login_answer *a,
			 struct iscsi_text_out *text)
{
	struct iscsi_pdu *p = iscsi_pdu_get_always(c, ISCSI_OP_LOGIN_RSP);
	struct iscsi_login_rsp_bhs *h;

	if (!p) {
		iscsi_text_free(text);
		iscsi_conn_close(c, false);
		return;
	}
	h = (struct iscsi_login_rsp_bhs *)&p->bhs;
	h->flags = a->flags;
	memcpy(h->isid, c->login_bhs.isid, sizeof(h->isid));
	put_be16(h->tsih, a->done ? c->tsih : get_be16(c->login_bhs.tsih));
	memcpy(h->itt, c->login_bhs.itt, sizeof(h->itt));
	h->status_class = (uint8_t)(a->status >> 8);
	h->status_detail = (uint8_t)a->status;
	if (a->status == ISCSI_LOGIN_OK)
		iscsi_conn_stamp(c, h, true);
	p->buf = take_ptr(text->buf);
	iscsi_pdu_send(p, p->buf, (uint32_t)text->len);
	iscsi_text_free(text);
}

/* The last answer of a login: the session begins, or is refused after all. */
static void login_finish(struct iscsi_conn *c)
{
	struct iscsi_login_answer a = c->login_answer;
	int r = iscsi_session_establish(c);

	if (r == -EAGAIN) {
		iscsi_conn_pause(c, PAUSE_LOGIN);
		return;
	}
	if (r != 0) {
		a = (struct iscsi_login_answer){.status = (uint16_t)r};
		login_refused(c, a.status);
		iscsi_text_free(&c->login_text);
		login_answer(c, &a, &c->login_text);
		iscsi_conn_close(c, true);
		return;
	}
	metric_add(&c->srv->counters.logins, 1);
	set_state(c, CONN_FULL);
	login_answer(c, &a, &c->login_text);
	iscsi_login_free(c->login);
	c->login = NULL;
	c->header_digest = c->params.header_digest;
	c->data_digest = c->params.data_digest;
	iscsi_session_keep_alive(c);
	iscsi_conn_resume(c, PAUSE_LOGIN);
}

/* The session that was in the way has ended. */
static void login_again(struct reactor_msg *m)
{
	struct iscsi_conn *c = container_of(m, struct iscsi_conn, login_msg);

	if (c->state == CONN_LOGIN)
		login_finish(c);
	iscsi_conn_put(c);
}

int iscsi_conn_login(struct iscsi_conn *c)
{
	const struct iscsi_login_bhs *req = (const struct iscsi_login_bhs *)&c->bhs;
	struct iscsi_login_answer a;

	if (c->login->state == LOGIN_START && c->login->text_len == 0) {
		c->exp_cmdsn = get_be32(req->cmdsn);
		c->statsn = get_be32(req->expstatsn);
	}
	c->login_bhs = *req;
	iscsi_login_request(c->login, req, c->rx_buf, iscsi_dsl(req), &c->login_text, &a);
	if (a.done) {
		c->login_answer = a;
		login_finish(c);
		return 0;
	}
	if (a.status != ISCSI_LOGIN_OK)
		login_refused(c, a.status);
	login_answer(c, &a, &c->login_text);
	if (a.status != ISCSI_LOGIN_OK)
		iscsi_conn_close(c, true);
	return 0;
}

/* --- what the stream calls --- */

static void conn_drained(struct stream *s, void *ctx)
{
	struct iscsi_conn *c = ctx;

	if (!iscsi_conn_open(c))
		return;
	iscsi_task_pump(c);
}

static const struct stream_ops conn_ops = {
	.input = iscsi_conn_input,
	.filled = iscsi_conn_filled,
	.drained = conn_drained,
	.closed = conn_closed,
};

/* --- messages of other threads --- */

static void ctl_run(struct reactor_msg *m)
{
	struct iscsi_conn *c = container_of(m, struct iscsi_conn, ctl_msg);
	unsigned what = atomic_exchange(&c->ctl, 0);
	bool full = c->state == CONN_FULL;

	if (full && what & CTL_LUN_EVENTS)
		iscsi_session_lun_events(c);
	if (full && what & CTL_ASK_LOGOUT)
		iscsi_session_async(c, ISCSI_ASYNC_LOGOUT);
	if (full && what & CTL_DROP)
		iscsi_session_async(c, ISCSI_ASYNC_DROP_CONNECTION);
	if (what & (CTL_DROP | CTL_KILL) || (!full && what & CTL_ASK_LOGOUT))
		iscsi_conn_close(c, !(what & CTL_KILL));
	iscsi_conn_put(c);
}

void iscsi_conn_ctl(struct iscsi_conn *c, enum iscsi_ctl what)
{
	if (atomic_fetch_or(&c->ctl, what) != 0)
		return; /* the message that is on its way will see it */
	iscsi_conn_get(c);
	reactor_post(c->reactor, &c->ctl_msg);
}

/* --- life --- */

static void login_too_slow(struct iscsi_conn *c)
{
	char peer[ISCSI_ADDRESS_MAX];

	metric_add(&c->srv->counters.login_timeouts, 1);
	stream_format_address(&c->peer, peer, sizeof(peer));
	log_warn("iscsi.login.timeout", "peer=%s", peer);
	iscsi_conn_close(c, false);
}

static void timer_fired(struct reactor_timer *t)
{
	struct iscsi_conn *c = container_of(t, struct iscsi_conn, timer);

	if (c->state == CONN_LOGIN)
		login_too_slow(c);
	else if (c->state == CONN_FULL)
		iscsi_session_keep_alive(c);
}

/* On the connection's own thread. */
static void start_run(struct reactor_msg *m)
{
	static const struct stream_options so = {ISCSI_RX_SIZE, TX_HIGH, TX_LOW};
	struct iscsi_conn *c = container_of(m, struct iscsi_conn, start_msg);
	int one = 1;

	c->rx_ns = reactor_now(c->reactor);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* not TCP: no matter */
	c->login = iscsi_login_new(c->srv);
	if (!c->login) {
		close(c->fd);
		conn_closed(NULL, c, -ENOMEM);
		return;
	}
	if (stream_open(c->reactor, take_fd(c->fd), &so, &conn_ops, c, &c->stream) < 0) {
		conn_closed(NULL, c, -ENOMEM);
		return;
	}
	if (c->state != CONN_LOGIN) { /* dropped before it began */
		stream_close(c->stream, false);
		return;
	}
	reactor_timer_arm(c->reactor, &c->timer,
			  reactor_now(c->reactor) + c->srv->opt.login_timeout_ms * NSEC_PER_MSEC);
}

int iscsi_conn_start(struct iscsi_server *srv, struct reactor *r, int fd,
		     const struct sockaddr_storage *peer)
{
	struct iscsi_conn *c = calloc(1, sizeof(*c));
	socklen_t len = sizeof(c->local);

	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	c->srv = srv;
	c->reactor = r;
	c->fd = fd;
	c->peer = *peer;
	if (getsockname(fd, (struct sockaddr *)&c->local, &len) < 0)
		c->local.ss_family = AF_UNSPEC;
	c->since_ns = clock_now_ns();
	atomic_init(&c->refs, 1);
	list_init(&c->link);
	list_init(&c->waiters);
	list_init(&c->wait_link);
	list_init(&c->live);
	list_init(&c->free_tasks);
	list_init(&c->queued);
	list_init(&c->memory_wait);
	list_init(&c->ready);
	list_init(&c->sending);
	list_init(&c->aborts);
	list_init(&c->free_pdus);
	c->ctl_msg.fn = ctl_run;
	c->start_msg.fn = start_run;
	c->login_msg.fn = login_again;
	iscsi_text_init(&c->login_text, ISCSI_LOGIN_DATA);
	iscsi_text_init(&c->text, 0);
	iscsi_params_default(&c->params);
	reactor_timer_init(&c->timer, timer_fired);
	reactor_task_init(&c->pump, pump_run);
	iobuf_waiter_init(&c->mem_waiter, memory_there);

	if (!iscsi_server_enter(srv, c)) {
		close(fd);
		iscsi_conn_put(c);
		return -EMFILE;
	}
	reactor_post(r, &c->start_msg);
	return 0;
}
