/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/tcmu/tcmu_ring.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "front/tcmu/tcmu_spec.h"

#define HDR_SIZE sizeof(struct tcmu_cmd_entry_hdr)
#define CMD_SIZE sizeof(struct tcmu_cmd_entry) /* with room for the response */
#define IOVS_OFF offsetof(struct tcmu_cmd_entry, req.iov)
#define IDS_OFF	 offsetof(struct tcmu_tmr_entry, cmd_ids)

static_assert(TCMU_RING_SENSE_MAX == TCMU_SENSE_BUFFERSIZE, "the kernel's room for sense data");

static _Atomic uint32_t *head_of(const struct tcmu_ring *r)
{
	return (_Atomic uint32_t *)(r->map + offsetof(struct tcmu_mailbox, cmd_head));
}

static _Atomic uint32_t *tail_of(const struct tcmu_ring *r)
{
	return (_Atomic uint32_t *)(r->map + offsetof(struct tcmu_mailbox, cmd_tail));
}

static uint8_t *entry_at(const struct tcmu_ring *r, uint32_t off)
{
	return r->map + r->cmdr_off + off;
}

static int broken(const char **ret_what, const char *what)
{
	*ret_what = what;
	return -EPROTO;
}

/* Bytes from the tail to @off, going round. */
static uint32_t from_tail(const struct tcmu_ring *r, uint32_t off)
{
	return off >= r->tail ? off - r->tail : off + r->cmdr_size - r->tail;
}

/*
 * Nobody but us moves the tail, and the head never goes back behind what we have taken, unless root
 * has the kernel empty the ring under us: then both are 0, as our tail may have been.
 */
static bool was_reset(const struct tcmu_ring *r)
{
	uint32_t head = atomic_load_explicit(head_of(r), memory_order_relaxed);

	return atomic_load_explicit(tail_of(r), memory_order_relaxed) != r->tail ||
	       from_tail(r, head) < from_tail(r, r->next);
}

int tcmu_ring_init(struct tcmu_ring *r, void *map, size_t size, const char **ret_what)
{
	struct tcmu_mailbox mb;

	if (size < sizeof(mb))
		return broken(ret_what, "too small for a mailbox");
	memcpy(&mb, map, sizeof(mb));
	if (mb.version != TCMU_MAILBOX_VERSION)
		return broken(ret_what, "unknown version of the mailbox");
	if (!(mb.flags & TCMU_MAILBOX_FLAG_CAP_OOOC))
		return broken(ret_what, "commands cannot end in any order");
	if (mb.cmdr_off < sizeof(mb) || mb.cmdr_off > size || mb.cmdr_off % TCMU_OP_ALIGN_SIZE ||
	    mb.cmdr_size < CMD_SIZE || mb.cmdr_size > size - mb.cmdr_off ||
	    mb.cmdr_size % TCMU_OP_ALIGN_SIZE)
		return broken(ret_what, "the command ring does not lie in the map");
	if (mb.cmd_tail >= mb.cmdr_size || mb.cmd_tail % TCMU_OP_ALIGN_SIZE)
		return broken(ret_what, "the tail does not lie in the ring");
	*r = (struct tcmu_ring){
		.map = map,
		.size = size,
		.cmdr_off = mb.cmdr_off,
		.cmdr_size = mb.cmdr_size,
		.data_off = (size_t)mb.cmdr_off + mb.cmdr_size,
		.read_len = mb.flags & TCMU_MAILBOX_FLAG_CAP_READ_LEN,
		.next = mb.cmd_tail,
		.tail = mb.cmd_tail,
	};
	return 0;
}

bool tcmu_ring_ready(const struct tcmu_ring *r)
{
	return atomic_load_explicit(head_of(r), memory_order_acquire) != r->next;
}

static uint32_t after(const struct tcmu_ring *r, uint32_t off, uint32_t len)
{
	return off + len == r->cmdr_size ? 0 : off + len;
}

/*
 * Reads the operation and length of the entry at @off, which lies before @end. Whole entries never
 * wrap: the kernel fills the rest of the ring with a PAD.
 */
static int look(const struct tcmu_ring *r, uint32_t off, uint32_t end, uint32_t *ret_len)
{
	uint32_t len_op =
		atomic_load_explicit((_Atomic uint32_t *)entry_at(r, off), memory_order_relaxed);
	uint32_t len = tcmu_hdr_get_len(len_op);
	uint32_t room = end > off ? end - off : r->cmdr_size - off;

	if (len < HDR_SIZE || len > room)
		return -EPROTO;
	*ret_len = len;
	return (int)tcmu_hdr_get_op(len_op);
}

static void set_tail(struct tcmu_ring *r, uint32_t tail)
{
	r->tail = tail;
	atomic_store_explicit(tail_of(r), tail, memory_order_release);
}

/* Gives back the entries at the tail that are no commands. */
static int skip(struct tcmu_ring *r)
{
	uint32_t tail = r->tail, len;
	int op;

	while (tail != r->next) {
		op = look(r, tail, r->next, &len);
		if (op < 0)
			return op;
		if (op == TCMU_OP_CMD)
			break;
		if (op != TCMU_OP_PAD && op != TCMU_OP_TMR)
			((struct tcmu_cmd_entry_hdr *)entry_at(r, tail))->uflags =
				TCMU_UFLAG_UNKNOWN_OP;
		tail = after(r, tail, len);
	}
	if (tail != r->tail)
		set_tail(r, tail);
	return 0;
}

/* Copies the CDB: how long it is, its first bytes tell (SPC-4 4.2.5). */
static bool take_cdb(const struct tcmu_ring *r, uint64_t off, struct tcmu_entry *e)
{
	static const uint8_t group_len[8] = {6, 10, 10, 16, 16, 12, 10, 10};
	size_t end = (size_t)r->cmdr_off + r->cmdr_size, have = 8;

	if (off < r->cmdr_off || off > end - have)
		return false;
	memcpy(e->cdb, r->map + off, have);
	e->cdb_len = e->cdb[0] == 0x7f ? (uint16_t)(8 + e->cdb[7]) : group_len[e->cdb[0] >> 5];
	if (e->cdb_len <= have)
		return true;
	if (e->cdb_len > end - off)
		return false;
	memcpy(e->cdb + have, r->map + off + have, e->cdb_len - have);
	return true;
}

static int read_cmd(struct tcmu_ring *r, uint32_t len, struct tcmu_entry *e, const char **ret_what)
{
	size_t at = (size_t)r->cmdr_off + r->next;
	struct tcmu_cmd_entry c;
	uint64_t iovs;

	if (len < CMD_SIZE)
		return broken(ret_what, "a command is too short for its response");
	memcpy(&c, r->map + at, sizeof(c));
	iovs = (uint64_t)c.req.iov_cnt + c.req.iov_bidi_cnt + c.req.iov_dif_cnt;
	if (iovs > (len - IOVS_OFF) / sizeof(struct iovec))
		return broken(ret_what, "more iovecs than the command has room for");
	if (!take_cdb(r, c.req.cdb_off, e))
		return broken(ret_what, "a CDB does not lie in the ring");
	e->id = c.hdr.cmd_id;
	e->at = r->next;
	e->n_iov = c.req.iov_cnt;
	e->list = at + IOVS_OFF;
	return TCMU_TAKEN_CMD;
}

static int take_tmr(struct tcmu_ring *r, uint32_t len, struct tcmu_entry *e, const char **ret_what)
{
	size_t at = (size_t)r->cmdr_off + r->next;
	struct tcmu_tmr_entry t;

	if (len < IDS_OFF)
		return broken(ret_what, "a task management entry is too short");
	memcpy(&t, r->map + at, sizeof(t));
	if (t.cmd_cnt > (len - IDS_OFF) / sizeof(uint16_t))
		return broken(ret_what, "more numbers than the entry has room for");
	e->tmr = t.tmr_type;
	e->n_ids = t.cmd_cnt;
	e->list = at + IDS_OFF;
	return TCMU_TAKEN_TMR;
}

/* The operation of the entry at next, and its length; 0: there is none. */
static int look_at_next(struct tcmu_ring *r, uint32_t *ret_len, const char **ret_what)
{
	uint32_t head = atomic_load_explicit(head_of(r), memory_order_acquire);
	int op;

	*ret_len = 0;
	if (head == r->next)
		return 0;
	if (head >= r->cmdr_size)
		return broken(ret_what, "the head does not lie in the ring");
	op = look(r, r->next, head, ret_len);
	return op < 0 ? broken(ret_what, "the length of an entry") : op;
}

/* Takes what an entry of @len bytes at next is: enum tcmu_taken, or -EPROTO, *@ret_what. */
typedef int take_fn(struct tcmu_ring *r, uint32_t len, struct tcmu_entry *e, const char **ret_what);

/* Goes on until something is taken; @tmr may be NULL: those are passed over. */
static int take_next(struct tcmu_ring *r, take_fn *cmd, take_fn *tmr, struct tcmu_entry *e,
		     const char **ret_what)
{
	int op, got = TCMU_TAKEN_NONE;
	uint32_t len;

	while (got == TCMU_TAKEN_NONE) {
		op = look_at_next(r, &len, ret_what);
		if (op < 0)
			return op;
		if (!len)
			break;
		if (op == TCMU_OP_CMD)
			got = cmd(r, len, e, ret_what);
		else if (op == TCMU_OP_TMR && tmr)
			got = tmr(r, len, e, ret_what);
		if (got < 0)
			return got;
		r->inflight += got == TCMU_TAKEN_CMD;
		r->next = after(r, r->next, len);
	}
	return got;
}

int tcmu_ring_take(struct tcmu_ring *r, struct tcmu_entry *ret_e, const char **ret_what)
{
	if (was_reset(r))
		return broken(ret_what, "the ring was reset");
	if (skip(r) < 0)
		return broken(ret_what, "an entry changed after it was taken");
	return take_next(r, read_cmd, take_tmr, ret_e, ret_what);
}

/* The flags of the entry at @off: the last that is written of a mark, and read by whom it is for.
 */
static _Atomic uint8_t *flags_at(const struct tcmu_ring *r, uint32_t off)
{
	return (_Atomic uint8_t *)(entry_at(r, off) + offsetof(struct tcmu_cmd_entry_hdr, uflags));
}

static enum tcmu_mark mark_at(const struct tcmu_ring *r, uint32_t off)
{
	uint8_t flags = atomic_load_explicit(flags_at(r, off), memory_order_acquire);

	return flags & TCMU_MARK_DONE ? TCMU_MARK_DONE : flags & TCMU_MARK_BEGUN;
}

void tcmu_ring_mark(struct tcmu_ring *r, uint32_t at, enum tcmu_mark mark)
{
	if (!was_reset(r))
		atomic_store_explicit(flags_at(r, at), (uint8_t)mark, memory_order_release);
}

bool tcmu_ring_is_next(struct tcmu_ring *r, uint32_t at)
{
	return !was_reset(r) && skip(r) == 0 && r->tail == at;
}

static uint16_t id_at(const struct tcmu_ring *r, uint32_t off)
{
	uint16_t id;

	memcpy(&id, entry_at(r, off) + offsetof(struct tcmu_cmd_entry_hdr, cmd_id), sizeof(id));
	return id;
}

/* Takes the entry at next if it has a mark. */
static int retake_cmd(struct tcmu_ring *r, uint32_t len, struct tcmu_entry *e,
		      const char **ret_what)
{
	int got;

	e->mark = mark_at(r, r->next);
	if (e->mark == TCMU_MARK_NONE)
		return TCMU_TAKEN_NONE;
	got = TCMU_TAKEN_CMD;
	e->id = id_at(r, r->next);
	e->at = r->next;
	/* Its answer may stand where the command was. */
	if (e->mark == TCMU_MARK_BEGUN)
		got = read_cmd(r, len, e, ret_what);
	if (got != TCMU_TAKEN_CMD)
		return got;
	if (r->retaken && e->id == r->first_id)
		return TCMU_TAKEN_NONE;
	if (!r->retaken) {
		r->retaken = true;
		r->first_id = e->id;
	}
	return got;
}

int tcmu_ring_retake(struct tcmu_ring *r, struct tcmu_entry *ret_e, const char **ret_what)
{
	return take_next(r, retake_cmd, NULL, ret_e, ret_what);
}

int tcmu_ring_iovs(const struct tcmu_ring *r, const struct tcmu_entry *e, struct iovec *iov,
		   uint32_t *ret_total, const char **ret_what)
{
	uint64_t total = 0;
	int n = 0;

	for (uint32_t i = 0; i < e->n_iov; i++) {
		uint64_t v[2]; /* offset in the map, length */
		uint8_t *base;

		memcpy(v, r->map + e->list + i * sizeof(v), sizeof(v));
		if (v[0] < r->data_off || v[0] > r->size || v[1] > r->size - v[0])
			return broken(ret_what, "data that do not lie in the data area");
		if (!v[1])
			continue;
		total += v[1];
		if (total > TCMU_RING_DATA_MAX)
			return broken(ret_what, "too many data for one command");
		base = r->map + v[0];
		if (n && (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == base)
			iov[n - 1].iov_len += v[1];
		else
			iov[n++] = (struct iovec){base, v[1]};
	}
	*ret_total = (uint32_t)total;
	return n;
}

uint16_t tcmu_ring_tmr_id(const struct tcmu_ring *r, const struct tcmu_entry *e, uint32_t i)
{
	uint16_t id;

	memcpy(&id, r->map + e->list + i * sizeof(id), sizeof(id));
	return id;
}

/* Bit fields of the response, in the entry whose command's number becomes @res->id. */
static void put_response(uint8_t *at, const struct tcmu_result *res)
{
	struct tcmu_cmd_entry *c = (struct tcmu_cmd_entry *)at;

	c->hdr.cmd_id = res->id;
	atomic_store_explicit((_Atomic uint8_t *)&c->hdr.uflags,
			      (uint8_t)(res->mark | (res->has_read_len ? TCMU_UFLAG_READ_LEN : 0)),
			      memory_order_release);
	memset(&c->rsp, 0, sizeof(c->rsp));
	c->rsp.scsi_status = res->status;
	c->rsp.read_len = res->has_read_len ? res->read_len : 0;
	if (res->sense_len)
		memcpy(c->rsp.sense_buffer, res->sense, res->sense_len);
}

int tcmu_ring_complete(struct tcmu_ring *r, const struct tcmu_result *res, const char **ret_what)
{
	uint32_t len;

	assert(r->inflight && res->sense_len <= TCMU_RING_SENSE_MAX);
	if (was_reset(r))
		return broken(ret_what, "the ring was reset");
	if (skip(r) < 0 || r->tail == r->next || look(r, r->tail, r->next, &len) != TCMU_OP_CMD ||
	    len < CMD_SIZE)
		return broken(ret_what, "an entry changed after it was taken");
	put_response(entry_at(r, r->tail), res);
	if (res->mark && res->at != r->tail)
		tcmu_ring_mark(r, res->at, TCMU_MARK_NONE);
	r->inflight--;
	set_tail(r, after(r, r->tail, len));
	if (skip(r) < 0)
		return broken(ret_what, "an entry changed after it was taken");
	return 0;
}
