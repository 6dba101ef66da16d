/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/port/port_ring.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What each op may carry. */
static const struct {
	bool known, data, range;
	unsigned flags;
} op_rules[] = {
	[PORT_READ] = {.known = true, .data = true},
	[PORT_WRITE] = {.known = true, .data = true, .flags = PORT_FUA | PORT_REPLAY},
	[PORT_FLUSH] = {.known = true},
	[PORT_TRIM] = {.known = true, .range = true, .flags = PORT_FUA | PORT_REPLAY},
	[PORT_ZERO] = {.known = true,
		       .range = true,
		       .flags = PORT_FUA | PORT_MAY_TRIM | PORT_FAST | PORT_REPLAY},
	[PORT_EXTENTS] = {.known = true, .range = true},
	[PORT_PREFETCH] = {.known = true, .range = true},
};

#define N_OPS (sizeof(op_rules) / sizeof(op_rules[0]))

void port_ring_init(struct port_ring *r, void *shm)
{
	r->shm = shm;
	r->head = 0;
	r->inflight = 0;
}

/** Returns NULL when @c is a command we can carry out, else what is wrong with it. */
static const char *check_command(const struct port_ring *r, const struct port_cmd_image *c)
{
	if (c->tag >= PORT_SLOTS)
		return "slot out of range";
	if (r->inflight & 1ull << c->tag)
		return "slot in flight already";
	if (c->op >= N_OPS || !op_rules[c->op].known)
		return "unknown op";
	if (c->flags & ~op_rules[c->op].flags)
		return "flag that the op does not have";
	if (c->reserved0 || c->reserved[0] || c->reserved[1] || c->reserved[2] || c->reserved[3])
		return "reserved field in use";
	if (op_rules[c->op].data && (c->len == 0 || c->len > PORT_SLOT_SIZE))
		return "data length out of range";
	if (op_rules[c->op].range && (c->len == 0 || c->len > PORT_RANGE_MAX))
		return "range length out of range";
	if (!op_rules[c->op].data && !op_rules[c->op].range && (c->len || c->off))
		return "range where there is none";
	if (c->off > INT64_MAX || c->off + c->len > INT64_MAX)
		return "offset out of range";
	if (c->op == PORT_EXTENTS ? c->room == 0 || c->room > PORT_EXTENTS_MAX : c->room != 0)
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

bool port_ring_complete(struct port_ring *r, uint32_t tag, int32_t result)
{
	struct port_cell *cell = port_shm_cell(r->shm, tag);

	/* Before the client can see the result, and use the slot again. */
	r->inflight &= ~(1ull << tag);
	atomic_store_explicit(&cell->result, result, memory_order_relaxed);
	return atomic_exchange_explicit(&cell->state, PORT_CELL_DONE, memory_order_acq_rel) ==
	       PORT_CELL_WAITING;
}

void port_ring_wake(struct port_ring *r, uint32_t tag)
{
	syscall(SYS_futex, &port_shm_cell(r->shm, tag)->state, FUTEX_WAKE, 1, NULL, NULL, 0);
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
