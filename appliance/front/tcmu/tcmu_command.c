/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One command: from the ring to the device server and back.
 *
 * READ and WRITE use the data area itself, piece by piece as the kernel gave it: no byte is copied
 * between it and the cache or the file. Other commands, and transfers whose length the initiator
 * and the CDB see differently, go through a buffer.
 *
 * What the kernel copies to the initiator is all of the data area of a command, unless it is told
 * that less was read, or that the command ended with CHECK CONDITION. So where a command brought
 * nothing its part of the data area is cleared: it may hold what an earlier command left.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "front/tcmu/tcmu_session_private.h"

#define SPARE_MIN 8 /* kept when idle */

/* --- memory --- */

struct tcmu_cmd *tcmu_command_get(struct tcmu_session *s)
{
	struct list_node *n = list_pop(&s->spare);
	struct tcmu_cmd *c;

	if (n) {
		s->n_spare--;
		c = container_of(n, struct tcmu_cmd, link);
	} else {
		c = malloc(sizeof(*c));
		if (!c)
			return NULL;
	}
	c->session = s;
	c->seg = c->own;
	return c;
}

/* Spare ones are kept for as many as are in flight, so that an idle device has few. */
void tcmu_command_put(struct tcmu_cmd *c)
{
	struct tcmu_session *s = c->session;

	if (c->seg != c->own)
		free(c->seg);
	if (s->n_spare >= SPARE_MIN + s->n_live) {
		free(c);
		return;
	}
	s->n_spare++;
	list_add_head(&s->spare, &c->link);
}

void tcmu_command_free_spare(struct tcmu_session *s)
{
	struct list_node *n;

	while ((n = list_pop(&s->spare)))
		free(container_of(n, struct tcmu_cmd, link));
	s->n_spare = 0;
}

/* --- the end --- */

/* Clears @len bytes of the data of @c from @off on. */
static void clear_data(struct tcmu_cmd *c, uint32_t off, uint32_t len)
{
	struct cursor at = cursor_at(c->seg, c->n_seg, off);
	uint8_t *p;
	size_t n;

	for (; len && (p = cursor_part(&at, len, &n)); len -= (uint32_t)n)
		memset(p, 0, n);
}

/* Brings the data-in to where the kernel fetches it. Returns how many bytes. */
static uint32_t put_data(struct tcmu_cmd *c)
{
	struct scsi_cmd *cmd = &c->scsi;
	uint32_t len = cmd->in_len < c->total ? cmd->in_len : c->total;
	struct cursor at = cursor_at(c->seg, c->n_seg, 0);

	if (cmd->dir != SCSI_DIR_IN || c->aborted)
		return 0;
	if (!cmd->n_seg && len)
		cursor_put(&at, cmd->in->data, len);
	return len;
}

static void finish(struct tcmu_cmd *c)
{
	struct tcmu_session *s = c->session;
	struct scsi_cmd *cmd = &c->scsi;
	struct tcmu_result *r = &c->result;
	uint32_t moved = put_data(c);

	r->id = c->id;
	r->at = c->at;
	r->status = c->aborted ? SCSI_TASK_ABORTED : (uint8_t)cmd->status;
	r->sense = cmd->sense;
	r->sense_len = c->aborted ? 0 : cmd->sense_len;
	if (r->status == SCSI_CHECK_CONDITION || cmd->dir == SCSI_DIR_IN)
		r->read_len = moved;
	r->has_read_len = s->ring.read_len && r->read_len &&
			  (r->read_len < c->total || r->status == SCSI_CHECK_CONDITION);
	if (r->status != SCSI_CHECK_CONDITION && cmd->dir != SCSI_DIR_OUT && !r->has_read_len)
		clear_data(c, moved, c->total - moved);
	if (r->status != SCSI_GOOD && r->status != SCSI_CONDITION_MET)
		metric_add(&s->errors, 1);
	iobuf_put(cmd->out);
	scsi_cmd_release(cmd);
	tcmu_session_tell(c);
	tcmu_session_ended_one(s);
}

static void command_done(struct scsi_cmd *cmd)
{
	finish(container_of(cmd, struct tcmu_cmd, scsi));
}

/* Ends @c, which the device server has not got yet. */
static void finish_early(struct tcmu_cmd *c, enum scsi_status status)
{
	c->scsi.dir = SCSI_DIR_NONE;
	c->scsi.status = status;
	c->scsi.sense_len = 0;
	finish(c);
}

/* --- the start --- */

/* The command works on the data area itself. */
static void run_direct(struct tcmu_cmd *c)
{
	c->scsi.seg = c->seg;
	c->scsi.n_seg = c->n_seg;
	c->scsi.out_len = c->scsi.dir == SCSI_DIR_OUT ? c->total : 0;
	scsi_cmd_execute(&c->scsi);
}

static void memory_came(struct iobuf_waiter *w);

/* Copies the data-out from the data area to a buffer, once there is one. */
static void run_out(struct tcmu_cmd *c)
{
	struct scsi_cmd *cmd = &c->scsi;
	struct iobuf_pool *pool = reactor_iobufs(c->session->reactor);
	uint32_t len = cmd->data_len < c->total ? cmd->data_len : c->total;
	struct cursor at = cursor_at(c->seg, c->n_seg, 0);

	if (len) {
		cmd->out = iobuf_get(pool, len);
		if (!cmd->out) {
			c->waiting = true;
			iobuf_waiter_init(&c->mem_wait, memory_came);
			iobuf_wait(pool, &c->mem_wait);
			return;
		}
		cursor_get(&at, cmd->out->data, len);
		cmd->out_len = len;
	}
	scsi_cmd_execute(cmd);
}

static void memory_came(struct iobuf_waiter *w)
{
	struct tcmu_cmd *c = container_of(w, struct tcmu_cmd, mem_wait);

	c->waiting = false;
	run_out(c);
}

/* Both with the command's blocks held: nobody else can write there before it is marked. */
static void matched(struct scsi_cmd *cmd)
{
	struct tcmu_cmd *c = container_of(cmd, struct tcmu_cmd, scsi);

	tcmu_ring_mark(&c->session->ring, c->at, TCMU_MARK_BEGUN);
}

static void settled(struct scsi_cmd *cmd)
{
	struct tcmu_cmd *c = container_of(cmd, struct tcmu_cmd, scsi);

	c->result.mark = cmd->io.err ? TCMU_MARK_NONE : TCMU_MARK_DONE;
	tcmu_ring_mark(&c->session->ring, c->at, c->result.mark);
}

static void run(struct tcmu_cmd *c)
{
	struct scsi_cmd *cmd = &c->scsi;

	scsi_cmd_parse(cmd);
	if (cmd->once)
		list_add_tail(&c->session->once, &c->once_link);
	cmd->out_excess = cmd->dir != SCSI_DIR_IN && c->total > cmd->data_len;
	if (cmd->direct && c->total && c->total == cmd->data_len && c->n_seg <= IOV_MAX)
		run_direct(c);
	else if (cmd->dir == SCSI_DIR_OUT)
		run_out(c);
	else
		scsi_cmd_execute(cmd);
}

/* Copies from the ring what it says of the command. 0, -ENOMEM or -EPROTO. */
static int fill(struct tcmu_cmd *c, const struct tcmu_entry *e, const char **ret_what)
{
	struct tcmu_session *s = c->session;

	memset(c, 0, offsetof(struct tcmu_cmd, cdb));
	c->session = s;
	c->total = 0;
	c->n_seg = 0;
	list_init(&c->link);
	list_init(&c->once_link);
	memcpy(c->cdb, e->cdb, e->cdb_len);
	c->id = e->id;
	c->at = e->at;
	c->scsi.nexus = &s->nexus;
	c->scsi.cdb = c->cdb;
	c->scsi.cdb_len = e->cdb_len;
	c->scsi.attr = 1; /* simple: LIO orders the others */
	c->scsi.done = command_done;
	c->scsi.matched = matched;
	c->scsi.settled = settled;
	if (e->n_iov > TCMU_SEGS) {
		struct iovec *more = malloc(e->n_iov * sizeof(*c->seg));

		if (!more)
			return -ENOMEM;
		c->seg = more;
	}
	c->n_seg = tcmu_ring_iovs(&s->ring, e, c->seg, &c->total, ret_what);
	return c->n_seg < 0 ? c->n_seg : 0;
}

void tcmu_command_start(struct tcmu_cmd *c, const struct tcmu_entry *e)
{
	struct tcmu_session *s = c->session;
	const char *what;
	int err = fill(c, e, &what);

	if (err == -EPROTO) {
		tcmu_command_put(c);
		tcmu_session_fail(s, what);
		return;
	}
	c->seq = ++s->seq;
	list_add_tail(&s->live, &c->link);
	atomic_store_explicit(&s->inflight, ++s->n_live, memory_order_relaxed);
	metric_add(&s->commands, 1);
	if (err)
		finish_early(c, SCSI_TASK_SET_FULL);
	else
		run(c);
}

void tcmu_command_abort(struct tcmu_cmd *c)
{
	if (!c->waiting) {
		scsi_cmd_abort(&c->scsi);
		return;
	}
	iobuf_wait_cancel(&c->mem_wait);
	finish_early(c, SCSI_TASK_ABORTED);
}
