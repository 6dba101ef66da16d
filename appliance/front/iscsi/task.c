// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * SCSI commands: their data out, their data in, their status.
 *
 *      header ── parse ──┐            ┌─ MEMORY (no buffer yet)
 *   NEW (its turn by CmdSN) ─ deliver ┼─ DATA (unsolicited, then R2Ts) ─┬─ RUN ── SEND ── free
 *                                     └─ READY (reads in progress) ─────┘
 *
 * Data-out goes from the socket into the command's buffer; an R2T is sent only when that buffer is
 * there. Unsolicited data come unasked, so their command needs a buffer at once: where there is
 * none, the connection is paused, unless tasks of it wait for data, or for a command before them,
 * that would then never come - such a command gets TASK SET FULL. When the session's share of
 * buffers is used up, unsolicited data go to a small buffer and move to the full one when that is
 * granted.
 *
 * Sequences and PDUs arrive in order (DataSequenceInOrder, DataPDUInOrder), so one offset tells
 * all that has come; R2T n asks for bytes from r2t_base + n * MaxBurstLength. A tag of an R2T is
 * the task's generation and n, so that a late Data-Out of a task that is gone fits nobody.
 *
 * Data-in leaves as slices of the command's buffer; GOOD status rides on the last one. Tasks with
 * data to send stand in a queue and the first sends until the stream is full.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* iSCSI conditions as additional sense (11.4.7.2); sense key ABORTED COMMAND. */
#define ASC_UNEXPECTED_DATA 0x0c0c
#define ASC_WRONG_AMOUNT    0x0c0d
#define ASC_CRC_ERROR	    0x4705
#define ASC_DATA_PHASE	    0x4b00

#define R2TSN_BITS 13
static_assert(IOBUF_MAX / 512 <= 1u << R2TSN_BITS, "an R2TSN fits its part of the tag");

static void task_done(struct scsi_cmd *cmd);
static void task_advance(struct iscsi_task *t);
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

static void set_task_state(struct iscsi_task *t, enum iscsi_task_state to)
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

void iscsi_task_free(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;

	set_task_state(t, TASK_FREE);
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
	set_task_state(t, TASK_SEND);
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

/* Ends the task with TASK ABORTED, or with nothing. */
static void end_aborted(struct iscsi_task *t)
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

/* The data phase went wrong: CHECK CONDITION, now or when its turn has come. */
static void fail_data(struct iscsi_task *t, uint16_t asc)
{
	t->unsolicited = false;
	t->fail = asc;
	if (t->delivered)
		task_advance(t);
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
	set_task_state(t, TASK_RUN);
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

static void start(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;

	if (t->cmd.dir != SCSI_DIR_IN) {
		run(t);
	} else if (list_empty(&c->ready) && may_read(c, t)) {
		start_read(t);
	} else {
		set_task_state(t, TASK_READY);
		list_add_tail(&c->ready, &t->link);
	}
}

static void task_done(struct scsi_cmd *cmd)
{
	struct iscsi_task *t = container_of(cmd, struct iscsi_task, cmd);

	if (t->aborted)
		end_aborted(t);
	else
		respond(t);
}

/* --- data out --- */

static void send_r2ts(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;

	while (t->r2tsn - t->r2t_done < c->params.max_outstanding_r2t &&
	       t->r2t_next < t->out_want) {
		struct iscsi_pdu *p = iscsi_pdu_get_always(c, ISCSI_OP_R2T);
		uint32_t len = t->out_want - t->r2t_next;
		struct iscsi_rsp_bhs *h;

		if (!p) {
			iscsi_conn_close(c, false);
			return;
		}
		if (len > c->params.max_burst)
			len = c->params.max_burst;
		h = (struct iscsi_rsp_bhs *)&p->bhs;
		memcpy(h->lun, t->bhs.lun, sizeof(h->lun));
		put_be32(h->itt, t->itt);
		put_be32(h->ttt, t->ttt_base | t->r2tsn);
		iscsi_conn_stamp(c, h, false);
		put_be32(h->datasn, t->r2tsn++);
		put_be32(h->offset, t->r2t_next);
		put_be32(h->resid, len);
		t->r2t_next += len;
		iscsi_pdu_send(p, NULL, 0);
	}
}

/*
 * Gives @t a buffer of @len bytes, or of @least (0: no) where the session's share does not allow
 * that. -EDQUOT: the share is used up; -ENOMEM: the pool is, and will call when it is not.
 */
static int get_buffer(struct iscsi_task *t, uint32_t len, uint32_t least)
{
	struct iscsi_conn *c = t->conn;
	uint64_t others = c->out_bytes - t->out_charged;
	struct iobuf *b;

	if (others > 0 && others + len > c->srv->opt.max_out_bytes) {
		if (!least)
			return -EDQUOT;
		len = least;
	}
	b = iobuf_get(reactor_iobufs(c->reactor), len);
	if (!b) {
		if (list_empty(&c->mem_waiter.link))
			iobuf_wait(reactor_iobufs(c->reactor), &c->mem_waiter);
		return -ENOMEM;
	}
	if (t->cmd.out) {
		memcpy(b->data, t->cmd.out->data, t->out_got);
		iobuf_put(t->cmd.out);
	}
	t->cmd.out = b;
	c->out_bytes += b->cap - t->out_charged;
	t->out_charged = b->cap;
	return 0;
}

/* There is no memory and waiting for it may be for ever: the initiator may try again. */
static void refuse(struct iscsi_task *t)
{
	t->refused = true;
	t->out_want = 0;
	t->unsolicited = false;
}

/* Asks for the data that are missing, once there is room for them. */
static bool grant(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;
	int r = 0;

	if (!t->cmd.out || t->cmd.out->cap < t->out_want)
		r = get_buffer(t, t->out_want, 0);
	if (r == -ENOMEM && t->cmd.out) { /* who holds memory does not wait for more */
		refuse(t);
		task_advance(t);
		return true;
	}
	if (r < 0)
		return false;
	list_del(&t->link);
	set_task_state(t, TASK_DATA);
	if (++c->ttt_gen >= (1u << (32 - R2TSN_BITS)) - 1)
		c->ttt_gen = 1;
	t->ttt_base = c->ttt_gen << R2TSN_BITS;
	t->r2t_base = t->r2t_next = t->out_got;
	t->datasn = 0;
	send_r2ts(t);
	return true;
}

/* Takes a delivered task to its next step. */
static void task_advance(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;

	if (t->aborted) {
		end_aborted(t);
	} else if (t->fail) {
		set_sense(t, t->fail);
		respond(t);
	} else if (t->refused) {
		t->cmd.status = SCSI_TASK_SET_FULL;
		respond(t);
	} else if (t->unsolicited) {
		set_task_state(t, TASK_DATA);
	} else if (t->out_got >= t->out_want) {
		start(t);
	} else if (!list_empty(&c->memory_wait) || !grant(t)) {
		set_task_state(t, TASK_MEMORY);
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
		task_advance(t);
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

/* Checks the unsolicited data that the header announces against what was negotiated. */
static void check_unsolicited(struct iscsi_task *t, uint32_t dsl, bool final)
{
	const struct iscsi_params *p = &t->conn->params;
	bool wr = t->bhs.flags & ISCSI_CMD_WRITE;

	if (dsl && (!wr || !p->immediate_data || dsl > p->first_burst || dsl > t->edtl))
		t->fail = ASC_UNEXPECTED_DATA;
	else if (!final && (!wr || p->initial_r2t))
		t->fail = ASC_UNEXPECTED_DATA;
	else
		t->unsolicited = !final;
}

/* Finds a place for the data that come unasked. 0 or -EAGAIN. */
static int place_unsolicited(struct iscsi_task *t, uint32_t dsl)
{
	struct iscsi_conn *c = t->conn;
	uint32_t first = c->params.first_burst < t->edtl ? c->params.first_burst : t->edtl;
	uint32_t least = t->unsolicited ? first : dsl;
	uint32_t len = least > t->out_want ? least : t->out_want;

	if (t->fail)
		return 0;
	t->out_got = dsl;
	if (t->out_want == 0 || least == 0)
		return 0;
	if (get_buffer(t, len, least) < 0) {
		if (c->n_data == 0 && list_empty(&c->queued))
			return -EAGAIN;
		refuse(t);
		return 0;
	}
	if (dsl)
		c->rx_data = t->cmd.out->data;
	return 0;
}

static int parse_command(struct iscsi_task *t, const uint8_t *ahs)
{
	struct iscsi_conn *c = t->conn;
	struct scsi_cmd *cmd = &t->cmd;
	struct iscsi_scsi_cmd_bhs *h = (struct iscsi_scsi_cmd_bhs *)&t->bhs;
	int r;

	t->bhs = c->bhs;
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
	if (r == 0) {
		check_unsolicited(t, dsl, c->bhs.flags & ISCSI_FLAG_FINAL);
		r = place_unsolicited(t, dsl);
	}
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

/* --- Data-Out --- */

/* What is wrong with a Data-Out for @t, as additional sense; 0: nothing. */
static uint16_t check_data_out(const struct iscsi_task *t, const struct iscsi_data_out_bhs *h)
{
	const struct iscsi_params *p = &t->conn->params;
	uint32_t dsl = iscsi_dsl(h), end, limit;
	bool final = h->flags & ISCSI_FLAG_FINAL;

	if (get_be32(h->datasn) != t->datasn || get_be32(h->offset) != t->out_got)
		return ASC_DATA_PHASE;
	if (t->unsolicited) {
		limit = p->first_burst < t->edtl ? p->first_burst : t->edtl;
		return dsl > limit - t->out_got ? ASC_UNEXPECTED_DATA : 0;
	}
	end = t->r2t_base + (t->r2t_done + 1) * p->max_burst;
	limit = end < t->out_want ? end : t->out_want;
	if (dsl > limit - t->out_got || final != (t->out_got + dsl == limit))
		return ASC_WRONG_AMOUNT;
	return 0;
}

int iscsi_task_data_out(struct iscsi_conn *c)
{
	const struct iscsi_data_out_bhs *h = (const struct iscsi_data_out_bhs *)&c->bhs;
	struct iscsi_task *t = iscsi_task_find(c, iscsi_itt(h));
	uint32_t ttt = get_be32(h->ttt);
	uint16_t asc;

	c->rx_drop = true;
	if (!t || t->aborted || t->fail || (t->state != TASK_DATA && t->state != TASK_NEW))
		return 0; /* of a task that has ended: nobody's */
	if (ttt != (t->unsolicited ? ISCSI_TAG_RESERVED : (t->ttt_base | t->r2t_done)))
		return 0;
	if (!t->unsolicited && t->state == TASK_NEW)
		return 0;
	asc = check_data_out(t, h);
	if (asc) {
		fail_data(t, asc);
		return 0;
	}
	c->rx_drop = false;
	c->rx_task = t;
	c->data_ns = reactor_now(c->reactor);
	if (t->out_want && iscsi_dsl(h))
		c->rx_data = t->cmd.out->data + t->out_got;
	return 0;
}

void iscsi_task_data_done(struct iscsi_conn *c, bool bad_digest)
{
	struct iscsi_task *t = c->rx_task;

	c->rx_task = NULL;
	if (bad_digest)
		iscsi_conn_reject(c, ISCSI_REJECT_DATA_DIGEST, &c->bhs);
	if (t->aborted) {
		if (t->delivered)
			end_aborted(t);
		return;
	}
	if (bad_digest) {
		fail_data(t, ASC_CRC_ERROR);
		return;
	}
	t->out_got += iscsi_dsl(&c->bhs);
	t->datasn++;
	if (!(c->bhs.flags & ISCSI_FLAG_FINAL))
		return;
	t->datasn = 0;
	if (t->unsolicited) {
		t->unsolicited = false;
		if (t->delivered)
			task_advance(t);
		return;
	}
	t->r2t_done++;
	if (t->out_got == t->out_want)
		start(t);
	else
		send_r2ts(t);
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
		if (!grant(t))
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
			end_aborted(t);
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
