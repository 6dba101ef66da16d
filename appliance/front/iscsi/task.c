// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * SCSI commands: their life, their data in, their status. Their data out is task_out.c.
 *
 *      header ── parse ──┐            ┌─ MEMORY (no buffer yet)
 *   NEW (its turn by CmdSN) ─ deliver ┼─ DATA (unsolicited, then R2Ts) ─┬─ RUN ── SEND ── free
 *                                     └─ READY (reads in progress) ─────┘
 *
 * Data-in leaves as slices of the command's buffer; GOOD status rides on the last one. Tasks with
 * data to send stand in a queue and the first sends until the stream is full.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void task_done(struct scsi_cmd *cmd);
static bool send_data(struct iscsi_task *t);

/* --- tasks --- */

static unsigned hash_of(const struct iscsi_conn *c, uint32_t itt)
{
	return itt * 0x9e3779b1u >> 16 & c->hash_mask;
}

struct iscsi_task *iscsi_task_find(struct iscsi_conn *c, uint32_t itt)
{
	struct iscsi_task *t = c->hash[hash_of(c, itt)];

	while (t && t->itt != itt)
		t = t->hash_next;
	return t;
}

static void hash_remove(struct iscsi_task *t)
{
	struct iscsi_task **p = &t->conn->hash[hash_of(t->conn, t->itt)];

	while (*p != t)
		p = &(*p)->hash_next;
	*p = t->hash_next;
}

struct iscsi_task *iscsi_task_new(struct iscsi_conn *c)
{
	struct list_node *n = list_pop(&c->free_tasks);
	struct iscsi_task *t;

	if (n) {
		t = container_of(n, struct iscsi_task, link);
		memset(t, 0, sizeof(*t));
	} else {
		t = calloc(1, sizeof(*t));
		if (!t)
			return NULL;
		c->n_tasks++;
	}
	t->conn = c;
	t->state = TASK_NEW;
	list_init(&t->link);
	list_add_tail(&c->live, &t->live);
	return t;
}

/* Its status is queued or it gets none: its place in the window is free. */
static void leave_window(struct iscsi_task *t)
{
	if (t->in_window)
		t->conn->window_used--;
	t->in_window = false;
}

void iscsi_task_set_state(struct iscsi_task *t, enum iscsi_task_state to)
{
	struct iscsi_conn *c = t->conn;

	if (t->state == TASK_DATA)
		c->n_data--;
	if (to == TASK_DATA) {
		c->n_data++;
		c->data_ns = reactor_now(c->reactor);
	}
	t->state = to;
}

/* Adds the time since the task's mark to @ns. Mostly none: what ends within a turn took no time. */
static void count_stage(const struct iscsi_task *t, metric_counter *ns)
{
	uint64_t took = reactor_now(t->conn->reactor) - t->mark_ns;

	if (took)
		metric_add(ns, took);
}

void iscsi_task_free(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;

	if (t->state == TASK_SEND)
		count_stage(t, &c->n_send_ns);
	iscsi_task_set_state(t, TASK_FREE);
	if (iscsi_op(&t->bhs) == ISCSI_OP_SCSI_CMD && t->hashed) {
		hash_remove(t);
		scsi_cmd_release(&t->cmd);
		metric_sub(&c->n_inflight, 1);
		if (t->immediate)
			c->n_immediate--;
	}
	iobuf_put(t->cmd.out);
	t->cmd.out = NULL;
	c->out_bytes -= t->out_charged;
	c->in_bytes -= t->in_charged;
	leave_window(t);
	free(t->xcdb);
	free(t->buf);
	list_del(&t->link);
	list_del(&t->live);
	list_add_head(&c->free_tasks, &t->link);
	if (t->aborted || c->paused || !iscsi_conn_open(c) || !list_empty(&c->memory_wait) ||
	    !list_empty(&c->ready))
		reactor_defer(c->reactor, &c->pump);
}

/* --- status --- */

struct iscsi_residual iscsi_residual(uint8_t flags, uint32_t edtl, uint32_t read_edtl,
				     enum scsi_dir dir, uint32_t moved)
{
	bool rd = flags & ISCSI_CMD_READ, wr = flags & ISCSI_CMD_WRITE;
	uint32_t in = dir == SCSI_DIR_IN ? moved : 0, out = dir == SCSI_DIR_OUT ? moved : 0;
	struct iscsi_residual r = {0};
	uint32_t expected, actual;

	if (rd && wr) {
		if (in != read_edtl)
			r.flags |= in > read_edtl ? ISCSI_RSP_BIDI_OVERFLOW
						  : ISCSI_RSP_BIDI_UNDERFLOW;
		r.read_count = in > read_edtl ? in - read_edtl : read_edtl - in;
		expected = edtl;
		actual = out;
	} else if ((in && !rd) || (out && !wr)) {
		expected = 0; /* nothing of it could move: all of it is too much */
		actual = moved;
	} else {
		expected = rd || wr ? edtl : 0;
		actual = in + out;
	}
	if (actual != expected)
		r.flags |= actual > expected ? ISCSI_RSP_OVERFLOW : ISCSI_RSP_UNDERFLOW;
	r.count = actual > expected ? actual - expected : expected - actual;
	return r;
}

static struct iscsi_residual task_residual(const struct iscsi_task *t)
{
	const struct scsi_cmd *cmd = &t->cmd;

	return iscsi_residual(t->bhs.flags, t->edtl, t->read_edtl, cmd->dir,
			      cmd->dir == SCSI_DIR_IN ? cmd->in_len : cmd->data_len);
}

static void task_sent(struct iscsi_pdu *p)
{
	struct iscsi_task *t = p->task;

	if (p != &t->rsp)
		iscsi_pdu_put(p);
	if (--t->pdus_out == 0 && t->state == TASK_SEND && (t->status_sent || t->aborted))
		iscsi_task_free(t);
}

static void send_of_task(struct iscsi_task *t, struct iscsi_pdu *p, const void *data, uint32_t len)
{
	p->conn = t->conn;
	p->task = t;
	p->sent = task_sent;
	t->pdus_out++;
	iscsi_pdu_send(p, data, len);
}

static void send_status(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;
	struct iscsi_rsp_bhs *h = (struct iscsi_rsp_bhs *)&t->rsp.bhs;
	struct iscsi_residual r = task_residual(t);
	uint32_t len = 0;

	memset(h, 0, sizeof(*h));
	h->opcode = ISCSI_OP_SCSI_RSP;
	h->flags = ISCSI_FLAG_FINAL | r.flags;
	h->status = (uint8_t)t->cmd.status;
	put_be32(h->itt, t->itt);
	put_be32(h->datasn, t->in_datasn + t->r2tsn);
	put_be32(h->offset, r.read_count);
	put_be32(h->resid, r.count);
	if (t->cmd.sense_len) {
		put_be16(t->sense, t->cmd.sense_len);
		memcpy(t->sense + 2, t->cmd.sense, t->cmd.sense_len);
		len = 2u + t->cmd.sense_len;
	}
	leave_window(t);
	list_del(&t->link);
	t->status_sent = true;
	iscsi_conn_stamp(c, h, true);
	send_of_task(t, &t->rsp, t->sense, len);
}

/* Queues the answer to a command that has ended. */
static void respond(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;
	struct scsi_cmd *cmd = &t->cmd;
	uint32_t room;

	if (!iscsi_conn_open(c)) {
		iscsi_task_free(t);
		return;
	}
	iscsi_task_set_state(t, TASK_SEND);
	t->mark_ns = reactor_now(c->reactor);
	list_del(&t->link);
	if (cmd->dir == SCSI_DIR_IN && cmd->in_len && t->bhs.flags & ISCSI_CMD_READ) {
		room = t->bidi ? t->read_edtl : t->edtl;
		t->in_send = cmd->in_len < room ? cmd->in_len : room;
		metric_add(&c->n_read, t->in_send);
	}
	if (!t->in_send) {
		send_status(t);
		return;
	}
	list_add_tail(&c->sending, &t->link);
	if (c->sending.next == &t->link)
		send_data(t);
}

void iscsi_task_end_aborted(struct iscsi_task *t)
{
	if (!t->tas || !iscsi_conn_open(t->conn)) {
		iscsi_task_free(t);
		return;
	}
	t->cmd.status = SCSI_TASK_ABORTED;
	t->cmd.sense_len = 0;
	t->cmd.in_len = 0;
	respond(t);
}

static void set_sense(struct iscsi_task *t, uint16_t asc)
{
	uint8_t *s = t->cmd.sense;

	memset(s, 0, 18);
	s[0] = 0x70; /* fixed format (SPC-4 4.5.3) */
	s[2] = 0x0b;
	s[7] = 10;
	put_be16(s + 12, asc);
	t->cmd.sense_len = 18;
	t->cmd.status = SCSI_CHECK_CONDITION;
}

/* --- data in --- */

/* Queues what the stream takes; true when the status is queued too. */
static bool send_data(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;
	const struct scsi_cmd *cmd = &t->cmd;
	bool good = cmd->status == SCSI_GOOD || cmd->status == SCSI_CONDITION_MET;

	while (t->in_sent < t->in_send) {
		uint32_t left = t->in_send - t->in_sent;
		uint32_t burst = c->params.max_burst - t->in_sent % c->params.max_burst;
		uint32_t len = c->params.max_send_data_segment;
		struct iscsi_rsp_bhs *h;
		struct iscsi_pdu *p;
		bool last, with_status;

		if (stream_tx_full(c->stream))
			return false;
		len = len < burst ? len : burst;
		len = len < left ? len : left;
		last = len == left;
		with_status = last && good && !t->bidi;
		p = with_status ? &t->rsp : iscsi_pdu_get(c, ISCSI_OP_DATA_IN);
		if (!p)
			return false;
		h = (struct iscsi_rsp_bhs *)&p->bhs;
		memset(h, 0, sizeof(*h));
		h->opcode = ISCSI_OP_DATA_IN;
		if (last || len == burst)
			h->flags = ISCSI_FLAG_FINAL;
		put_be32(h->itt, t->itt);
		put_be32(h->ttt, ISCSI_TAG_RESERVED);
		put_be32(h->datasn, t->in_datasn++);
		put_be32(h->offset, t->in_sent);
		if (with_status) {
			struct iscsi_residual r = task_residual(t);

			h->flags |= ISCSI_DATA_IN_STATUS | r.flags;
			h->status = (uint8_t)cmd->status;
			put_be32(h->resid, r.count);
			leave_window(t);
			list_del(&t->link);
			t->status_sent = true;
		}
		iscsi_conn_stamp(c, h, with_status);
		if (!with_status)
			put_be32(h->statsn, 0);
		t->in_sent += len;
		send_of_task(t, p, cmd->in->data + t->in_sent - len, len);
		if (with_status)
			return true;
	}
	send_status(t);
	return true;
}

/* --- execution --- */

static void run(struct iscsi_task *t)
{
	count_stage(t, &t->conn->n_receive_ns);
	iscsi_task_set_state(t, TASK_RUN);
	list_del(&t->link);
	t->cmd.out_len = t->out_got < t->out_want ? t->out_got : t->out_want;
	t->cmd.out_excess = t->bhs.flags & ISCSI_CMD_WRITE && t->edtl > t->cmd.data_len;
	metric_add(&t->conn->n_written, t->cmd.out_len);
	scsi_cmd_execute(&t->cmd);
}

/* Reads in progress are bounded by the same share as writes. */
static bool may_read(struct iscsi_conn *c, const struct iscsi_task *t)
{
	return c->in_bytes == 0 || c->in_bytes + t->cmd.data_len <= c->srv->opt.max_out_bytes;
}

static void start_read(struct iscsi_task *t)
{
	t->in_charged = t->cmd.data_len;
	t->conn->in_bytes += t->in_charged;
	run(t);
}

void iscsi_task_start(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;

	if (t->cmd.dir != SCSI_DIR_IN) {
		run(t);
	} else if (list_empty(&c->ready) && may_read(c, t)) {
		start_read(t);
	} else {
		iscsi_task_set_state(t, TASK_READY);
		list_add_tail(&c->ready, &t->link);
	}
}

static void task_done(struct scsi_cmd *cmd)
{
	struct iscsi_task *t = container_of(cmd, struct iscsi_task, cmd);

	if (t->aborted)
		iscsi_task_end_aborted(t);
	else
		respond(t);
}

void iscsi_task_advance(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;

	if (t->aborted) {
		iscsi_task_end_aborted(t);
	} else if (t->fail) {
		set_sense(t, t->fail);
		respond(t);
	} else if (t->refused) {
		t->cmd.status = SCSI_TASK_SET_FULL;
		respond(t);
	} else if (t->unsolicited) {
		iscsi_task_set_state(t, TASK_DATA);
	} else if (t->out_got >= t->out_want) {
		iscsi_task_start(t);
	} else if (!list_empty(&c->memory_wait) || !iscsi_task_grant(t)) {
		iscsi_task_set_state(t, TASK_MEMORY);
		list_del(&t->link);
		list_add_tail(&c->memory_wait, &t->link);
	}
}

void iscsi_task_deliver(struct iscsi_task *t)
{
	t->delivered = true;
	if (t->skip)
		iscsi_task_free(t);
	else
		iscsi_task_advance(t);
}

/* --- the command's header --- */

/* Reads the additional header segments: a longer CDB, the length of a bidirectional read. */
static int take_ahs(struct iscsi_task *t, const uint8_t *ahs, size_t len)
{
	while (len >= 4) {
		size_t body = get_be16(ahs), whole = (3 + body + 3) & ~(size_t)3;

		if (body == 0 || whole > len)
			return -EPROTO;
		if (ahs[2] == ISCSI_AHS_EXTENDED_CDB && !t->xcdb) {
			if (16 + body - 1 > SCSI_CDB_MAX)
				return -EPROTO;
			t->xcdb = malloc(16 + body - 1);
			if (!t->xcdb)
				return -ENOMEM;
			memcpy(t->xcdb, t->cmd.cdb, 16);
			memcpy(t->xcdb + 16, ahs + 4, body - 1);
			t->cmd.cdb = t->xcdb;
			t->cmd.cdb_len = (uint16_t)(16 + body - 1);
		} else if (ahs[2] == ISCSI_AHS_BIDI_LENGTH && body == 5) {
			t->read_edtl = get_be32(ahs + 4);
		}
		ahs += whole;
		len -= whole;
	}
	return 0;
}

static int parse_command(struct iscsi_task *t, const uint8_t *ahs)
{
	struct iscsi_conn *c = t->conn;
	struct scsi_cmd *cmd = &t->cmd;
	struct iscsi_scsi_cmd_bhs *h = (struct iscsi_scsi_cmd_bhs *)&t->bhs;
	int r;

	t->bhs = c->bhs;
	t->mark_ns = reactor_now(c->reactor);
	t->itt = get_be32(h->itt);
	t->cmdsn = get_be32(h->cmdsn);
	t->immediate = h->opcode & ISCSI_OP_IMMEDIATE;
	t->edtl = get_be32(h->edtl);
	t->bidi = (h->flags & (ISCSI_CMD_READ | ISCSI_CMD_WRITE)) ==
		  (ISCSI_CMD_READ | ISCSI_CMD_WRITE);
	cmd->nexus = &c->nexus;
	cmd->lun = get_be64(h->lun);
	cmd->cdb = h->cdb;
	cmd->cdb_len = sizeof(h->cdb);
	cmd->attr = h->flags & ISCSI_CMD_ATTR_MASK;
	cmd->done = task_done;
	r = take_ahs(t, ahs, (size_t)h->ahs_len * 4);
	if (r < 0)
		return r;
	t->hash_next = c->hash[hash_of(c, t->itt)];
	c->hash[hash_of(c, t->itt)] = t;
	t->hashed = true;
	metric_add(&c->n_inflight, 1);
	if (t->immediate)
		c->n_immediate++;
	scsi_cmd_parse(cmd);
	if (cmd->dir == SCSI_DIR_OUT && h->flags & ISCSI_CMD_WRITE)
		t->out_want = cmd->data_len < t->edtl ? cmd->data_len : t->edtl;
	return 0;
}

int iscsi_task_command(struct iscsi_conn *c, const uint8_t *ahs)
{
	uint32_t dsl = iscsi_dsl(&c->bhs);
	struct iscsi_task *t;
	int r;

	if (!c->attached)
		return iscsi_conn_fail(c, "SCSI command in a discovery session");
	if (iscsi_itt(&c->bhs) == ISCSI_TAG_RESERVED)
		return iscsi_conn_fail(c, "reserved task tag");
	if (iscsi_task_find(c, iscsi_itt(&c->bhs))) {
		iscsi_conn_reject(c, ISCSI_REJECT_TASK_IN_PROGRESS, &c->bhs);
		iscsi_conn_close(c, true);
		return 0;
	}
	if (c->bhs.opcode & ISCSI_OP_IMMEDIATE && c->n_immediate >= ISCSI_IMMEDIATE_MAX) {
		iscsi_conn_reject(c, ISCSI_REJECT_TOO_MANY_IMMEDIATE, &c->bhs);
		c->rx_drop = true;
		return 0;
	}
	t = iscsi_task_new(c);
	if (!t)
		return -ENOMEM;
	r = parse_command(t, ahs);
	if (r == 0)
		r = iscsi_task_unsolicited(t, dsl, c->bhs.flags & ISCSI_FLAG_FINAL);
	if (r < 0) {
		iscsi_task_free(t);
		if (r == -EAGAIN)
			iscsi_conn_pause(c, PAUSE_MEMORY);
		return r;
	}
	metric_add(&c->n_commands, 1);
	metric_add(&c->srv->counters.commands, 1);
	c->rx_task = t;
	return 0;
}

/* --- what waits --- */

void iscsi_task_pump(struct iscsi_conn *c)
{
	struct iscsi_task *t;

	while (iscsi_conn_open(c) && !list_empty(&c->sending)) {
		t = container_of(c->sending.next, struct iscsi_task, link);
		if (!send_data(t))
			break;
	}
	while (iscsi_conn_open(c) && !list_empty(&c->memory_wait) && !stream_tx_full(c->stream)) {
		t = container_of(c->memory_wait.next, struct iscsi_task, link);
		if (!iscsi_task_grant(t))
			break;
	}
	while (!list_empty(&c->ready)) {
		t = container_of(c->ready.next, struct iscsi_task, link);
		if (!may_read(c, t))
			break;
		start_read(t);
	}
	iscsi_conn_resume(c, PAUSE_MEMORY);
	if (iscsi_conn_open(c))
		iscsi_conn_sends_less(c);
}

/* --- aborts --- */

void iscsi_task_abort(struct iscsi_task *t, bool tas, uint32_t seq)
{
	struct iscsi_conn *c = t->conn;

	t->aborted = true;
	t->tas = tas;
	t->abort_seq = seq;
	switch (t->state) {
	case TASK_RUN:
		c->aborting = true;
		reactor_defer(c->reactor, &c->pump);
		break;
	case TASK_MEMORY:
	case TASK_DATA:
	case TASK_READY:
		if (c->rx_task != t) /* else when its data are here */
			iscsi_task_end_aborted(t);
		break;
	case TASK_SEND:
		list_del(&t->link);
		if (tas && iscsi_conn_open(c)) {
			t->cmd.status = SCSI_TASK_ABORTED;
			t->cmd.sense_len = 0;
			send_status(t);
		} else if (t->pdus_out == 0) {
			iscsi_task_free(t);
		}
		break;
	case TASK_NEW: /* when its turn has come */
	case TASK_FREE:
		break;
	}
}

void iscsi_task_tell_aborts(struct iscsi_conn *c)
{
	struct list_node *n, *next;

	if (!c->aborting)
		return;
	c->aborting = false;
	list_for_each_safe (n, next, &c->live) {
		struct iscsi_task *t = container_of(n, struct iscsi_task, live);

		if (t->state == TASK_RUN && t->aborted && !t->abort_told) {
			t->abort_told = true;
			scsi_cmd_abort(&t->cmd);
		}
	}
}

void iscsi_task_end_all(struct iscsi_conn *c)
{
	struct list_node *n, *next;

	c->rx_task = NULL;
	list_for_each_safe (n, next, &c->live) {
		struct iscsi_task *t = container_of(n, struct iscsi_task, live);

		if (t->state == TASK_RUN) {
			t->aborted = true;
			t->tas = false;
			c->aborting = true;
		} else {
			iscsi_task_free(t);
		}
	}
	iscsi_task_tell_aborts(c);
}
