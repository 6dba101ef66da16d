// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The data out of SCSI commands.
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
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <string.h>

/* iSCSI conditions as additional sense (11.4.7.2). */
#define ASC_UNEXPECTED_DATA 0x0c0c
#define ASC_WRONG_AMOUNT    0x0c0d
#define ASC_CRC_ERROR	    0x4705
#define ASC_DATA_PHASE	    0x4b00

#define R2TSN_BITS 13
static_assert(IOBUF_MAX / 512 <= 1u << R2TSN_BITS, "an R2TSN fits its part of the tag");

/* The data phase went wrong: CHECK CONDITION, now or when its turn has come. */
static void fail_data(struct iscsi_task *t, uint16_t asc)
{
	t->unsolicited = false;
	t->fail = asc;
	if (t->delivered)
		iscsi_task_advance(t);
}

/* --- solicited --- */

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

bool iscsi_task_grant(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;
	int r = 0;

	if (!t->cmd.out || t->cmd.out->cap < t->out_want)
		r = get_buffer(t, t->out_want, 0);
	if (r == -ENOMEM && t->cmd.out) { /* who holds memory does not wait for more */
		refuse(t);
		iscsi_task_advance(t);
		return true;
	}
	if (r < 0)
		return false;
	list_del(&t->link);
	iscsi_task_set_state(t, TASK_DATA);
	if (++c->ttt_gen >= (1u << (32 - R2TSN_BITS)) - 1)
		c->ttt_gen = 1;
	t->ttt_base = c->ttt_gen << R2TSN_BITS;
	t->r2t_base = t->r2t_next = t->out_got;
	t->datasn = 0;
	send_r2ts(t);
	return true;
}

/* --- unsolicited --- */

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

/* Finds a place for them. 0 or -EAGAIN. */
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

int iscsi_task_unsolicited(struct iscsi_task *t, uint32_t dsl, bool final)
{
	check_unsolicited(t, dsl, final);
	return place_unsolicited(t, dsl);
}

/* --- as they arrive --- */

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
			iscsi_task_end_aborted(t);
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
			iscsi_task_advance(t);
		return;
	}
	t->r2t_done++;
	if (t->out_got == t->out_want)
		iscsi_task_start(t);
	else
		send_r2ts(t);
}
