/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ring of provided buffers (io_uring_register_buf_ring(3), 5.19).
 *
 * The kernel hands buffers out in ring order and connections consume and recycle nearly all of
 * them within the turn, so few serve many connections; when none is left the receive fails with
 * -ENOBUFS and the connection takes a buffer of the pool. After IDLE_NS without a receive the pages
 * are given back: they are not pinned, the next receive faults new ones in. That is safe only while
 * no completion is outstanding that names a buffer, which holds in the timer phase when the CQ is
 * empty and no buffer is taken: receives run in this thread's io_uring_enter alone.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "event/reactor_private.h"
#include "event/rx_ring.h"

#define IDLE_NS	  (5 * NSEC_PER_SEC)
#define MEM_SIZE  ((size_t)RX_RING_BUFFERS * RX_RING_BUFFER_SIZE)
#define RING_SIZE (RX_RING_BUFFERS * sizeof(struct io_uring_buf))

struct rx_ring {
	struct reactor *r;
	struct io_uring_buf_ring *br;
	uint8_t *mem;
	unsigned taken;
	bool used; /* since the idle timer was armed */
	struct reactor_timer idle;
};

uint8_t *rx_ring_buffer(struct rx_ring *x, unsigned bid)
{
	return x->mem + (size_t)bid * RX_RING_BUFFER_SIZE;
}

static void idle_fire(struct reactor_timer *t)
{
	struct rx_ring *x = container_of(t, struct rx_ring, idle);

	if (x->used || x->taken || io_uring_cq_ready(&x->r->ring)) {
		x->used = false;
		reactor_timer_arm(x->r, t, x->r->now + IDLE_NS);
		return;
	}
	madvise(x->mem, MEM_SIZE, MADV_DONTNEED);
}

void rx_ring_take(struct rx_ring *x, unsigned bid)
{
	x->taken++;
	x->used = true;
	if (!x->idle.armed)
		reactor_timer_arm(x->r, &x->idle, x->r->now + IDLE_NS);
}

static void provide(struct rx_ring *x, unsigned bid)
{
	io_uring_buf_ring_add(x->br, rx_ring_buffer(x, bid), RX_RING_BUFFER_SIZE,
			      (unsigned short)bid, io_uring_buf_ring_mask(RX_RING_BUFFERS), 0);
	io_uring_buf_ring_advance(x->br, 1);
}

void rx_ring_recycle(struct rx_ring *x, unsigned bid)
{
	x->taken--;
	provide(x, bid);
}

static void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int rx_ring_create(struct reactor *r, struct rx_ring **ret_ring)
{
	struct rx_ring *x = calloc(1, sizeof(*x));
	struct io_uring_buf_reg reg = {.ring_entries = RX_RING_BUFFERS, .bgid = RX_RING_GROUP};
	int ret = -ENOMEM;

	if (!x)
		return -ENOMEM;
	x->r = r;
	reactor_timer_init(&x->idle, idle_fire);
	x->br = map(RING_SIZE);
	x->mem = map(MEM_SIZE);
	if (!x->br || !x->mem)
		goto fail;
	reg.ring_addr = (uintptr_t)x->br;
	ret = io_uring_register_buf_ring(&r->ring, &reg, 0);
	if (ret < 0)
		goto fail;
	io_uring_buf_ring_init(x->br);
	for (unsigned bid = 0; bid < RX_RING_BUFFERS; bid++)
		provide(x, bid);
	*ret_ring = x;
	return 0;
fail:
	rx_ring_destroy(x);
	return ret;
}

void rx_ring_destroy(struct rx_ring *x)
{
	if (!x)
		return;
	reactor_timer_cancel(x->r, &x->idle);
	if (x->br)
		munmap(x->br, RING_SIZE);
	if (x->mem)
		munmap(x->mem, MEM_SIZE);
	free(x);
}
