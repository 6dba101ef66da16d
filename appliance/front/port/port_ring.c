/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/port/port_ring.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What each op may carry. */
static const struct op_rule {
	unsigned since;	  /* version; 0: no such op */
	uint64_t len_max; /* bytes, and 1 at least; 0: no range */
	uint32_t room_max;
	unsigned flags;
} op_rules[] = {
	[PORT_READ] = {2, PORT_SLOT_SIZE},
	[PORT_WRITE] = {2, PORT_SLOT_SIZE, .flags = PORT_FUA | PORT_REPLAY},
	[PORT_FLUSH] = {2},
	[PORT_TRIM] = {2, PORT_RANGE_MAX, .flags = PORT_FUA | PORT_REPLAY},
	[PORT_ZERO] = {2, PORT_RANGE_MAX,
		       .flags = PORT_FUA | PORT_MAY_TRIM | PORT_FAST | PORT_REPLAY},
	[PORT_EXTENTS] = {2, PORT_RANGE_MAX, PORT_EXTENTS_MAX},
	[PORT_PREFETCH] = {2, PORT_RANGE_MAX},
	[PORT_WRITE_SAME] = {3, PORT_RANGE_MAX, PORT_PATTERN_MAX, PORT_FUA | PORT_REPLAY},
	[PORT_COMPARE_AND_WRITE] = {3, PORT_COMPARE_MAX, .flags = PORT_FUA},
};

#define N_OPS (sizeof(op_rules) / sizeof(op_rules[0]))

void port_ring_init(struct port_ring *r, void *shm, unsigned version)
{
	*r = (struct port_ring){.shm = shm, .version = version};
}

/** Returns NULL when @c is a command we can carry out, else what is wrong with it. */
static const char *check_command(const struct port_ring *r, const struct port_cmd_image *c)
{
	const struct op_rule *rule;

	if (c->tag >= PORT_SLOTS)
		return "slot out of range";
	if (r->inflight & 1ull << c->tag)
		return "slot in flight already";
	if (c->op >= N_OPS || !op_rules[c->op].since || op_rules[c->op].since > r->version)
		return "unknown op";
	rule = &op_rules[c->op];
	if (c->flags & ~(rule->flags | (r->version >= 3 ? PORT_NOTIFY : 0)))
		return "flag that the op does not have";
	if (c->reserved0 || c->reserved[0] || c->reserved[1] || c->reserved[2] || c->reserved[3])
		return "reserved field in use";
	if (!rule->len_max && (c->len || c->off))
		return "range where there is none";
	if (rule->len_max && (c->len == 0 || c->len > rule->len_max))
		return "length out of range";
	if (c->off > INT64_MAX || c->off + c->len > INT64_MAX)
		return "offset out of range";
	if (c->room > rule->room_max || (rule->room_max && !c->room))
		return "room out of range";
	return NULL;
}

int port_ring_take(struct port_ring *r, struct port_request *ret_req, const char **ret_what)
{
	uint32_t tail = atomic_load_explicit(&port_shm_box(r->shm)->tail, memory_order_acquire);
	struct port_cmd_image c;
	const char *what;

	if (tail == r->head)
		return 0;
	if (tail - r->head > PORT_RING) {
		*ret_what = "tail out of range";
		return -EPROTO;
	}
	port_cmd_load(&c, port_shm_cmd(r->shm, r->head));
	what = check_command(r, &c);
	if (what) {
		*ret_what = what;
		return -EPROTO;
	}
	r->head++;
	r->inflight |= 1ull << c.tag;
	if (c.flags & PORT_NOTIFY)
		r->notify |= 1ull << c.tag;
	*ret_req = (struct port_request){
		.tag = c.tag,
		.op = (enum port_op)c.op,
		.flags = c.flags,
		.off = c.off,
		.len = c.len,
		.room = c.room,
	};
	return 1;
}

void port_ring_matched(struct port_ring *r, uint32_t tag)
{
	atomic_store(&port_shm_cell(r->shm, tag)->matched, 1);
}

bool port_ring_complete(struct port_ring *r, uint32_t tag, int32_t result)
{
	struct port_cell *cell = port_shm_cell(r->shm, tag);
	uint64_t bit = 1ull << tag;
	bool notify = r->notify & bit;
	uint32_t was;

	/* Before the client can see the result, and use the slot again. */
	r->inflight &= ~bit;
	r->notify &= ~bit;
	atomic_store_explicit(&cell->result, result, memory_order_relaxed);
	was = atomic_exchange_explicit(&cell->state, PORT_CELL_DONE, memory_order_acq_rel);
	if (notify) {
		atomic_fetch_or(&port_shm_box(r->shm)->done, bit);
		r->reaper = true;
	} else if (was == PORT_CELL_WAITING) {
		r->sleepers |= bit;
	}
	return port_ring_wake_due(r);
}

bool port_ring_wake_due(const struct port_ring *r)
{
	return r->sleepers || r->reaper;
}

static void wake_futex(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

unsigned port_ring_wake(struct port_ring *r)
{
	struct port_box *box = port_shm_box(r->shm);
	unsigned n = 0;

	for (; r->sleepers; r->sleepers &= r->sleepers - 1, n++)
		wake_futex(&port_shm_cell(r->shm, (uint32_t)__builtin_ctzll(r->sleepers))->state);
	/* Bits of `done` were set before: as in port_ring_sleep(), with the roles changed. */
	if (r->reaper && atomic_load(&box->reaper) && atomic_exchange(&box->reaper, 0)) {
		wake_futex(&box->reaper);
		n++;
	}
	r->reaper = false;
	return n;
}

bool port_ring_ready(const struct port_ring *r)
{
	return atomic_load_explicit(&port_shm_box(r->shm)->tail, memory_order_relaxed) != r->head;
}

/*
 * Here: store sleeping, load tail. Who submits: store tail, load sleeping. All four are
 * sequentially consistent, so in their one order the later of the two stores comes before both
 * loads: either we see the command, or the client sees that it must ring. Weaker orders would allow
 * both loads to be done before both stores, and the command would wait for the next one's bell.
 * Taking the request back needs no order: we look again before we ask again, and until then a
 * client that still sees it merely rings in vain.
 */
bool port_ring_sleep(struct port_ring *r)
{
	struct port_box *box = port_shm_box(r->shm);

	atomic_store_explicit(&box->sleeping, 1, memory_order_seq_cst);
	if (atomic_load_explicit(&box->tail, memory_order_seq_cst) == r->head)
		return true;
	atomic_store_explicit(&box->sleeping, 0, memory_order_relaxed);
	return false;
}
