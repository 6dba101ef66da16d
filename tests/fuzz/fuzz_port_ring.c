/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port's ring and handshake against a client that does what it likes. The input is a script:
 * a byte says what happens next - shared memory is written anywhere, a command is submitted well
 * or badly, the daemon takes commands, completes one, goes to sleep, or gets a message - and the
 * bytes behind it say how. What must hold, whatever was done: a command that was taken is in range,
 * its slot was free and is in flight now, and refusals change nothing.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "front/port/port_proto.h"
#include "front/port/port_ring.h"

struct input {
	const uint8_t *p;
	size_t left;
};

static void take_bytes(struct input *in, void *buf, size_t n)
{
	size_t have = n < in->left ? n : in->left;

	memset(buf, 0, n);
	memcpy(buf, in->p, have);
	in->p += have;
	in->left -= have;
}

static uint32_t take_u32(struct input *in)
{
	uint32_t v;

	take_bytes(in, &v, sizeof(v));
	return v;
}

static void require(int cond)
{
	if (!cond)
		abort();
}

static void submit(struct input *in, void *shm)
{
	struct port_box *box = port_shm_box(shm);
	struct port_cmd_image c = {0};
	uint8_t how[4];

	take_bytes(in, how, sizeof(how));
	if (how[0] & 0x80) {
		take_bytes(in, &c, sizeof(c));
	} else {
		c.tag = how[1] % (PORT_SLOTS + 1);
		c.op = how[2] % 11;
		c.flags = how[3] & 31;
		c.len = c.op == PORT_FLUSH ? 0 : take_u32(in);
		c.off = c.op == PORT_FLUSH ? 0 : (uint64_t)take_u32(in) << (how[0] & 0x1f);
		c.room = c.op == PORT_EXTENTS || c.op == PORT_WRITE_SAME ? how[3] : 0;
	}
	port_cmd_store(port_shm_cmd(shm, atomic_load(&box->tail)), &c);
	atomic_fetch_add(&box->tail, 1);
}

static void take(struct port_ring *r)
{
	struct port_ring before = *r;
	struct port_request q;
	const char *what = NULL;
	int got = port_ring_take(r, &q, &what);

	if (got <= 0) {
		require(r->head == before.head && r->inflight == before.inflight);
		require((got < 0) == (what != NULL));
		return;
	}
	require(q.tag < PORT_SLOTS && !(before.inflight & 1ull << q.tag));
	require(r->inflight == (before.inflight | 1ull << q.tag) && r->head == before.head + 1);
	require(q.op >= PORT_READ &&
		q.op <= (r->version < 3 ? PORT_PREFETCH : PORT_COMPARE_AND_WRITE));
	require(q.off <= INT64_MAX && q.len <= INT64_MAX - q.off);
	if (q.op == PORT_READ || q.op == PORT_WRITE)
		require(q.len >= 1 && q.len <= PORT_SLOT_SIZE);
	require(port_data_len(q.op, q.len, q.room) <= PORT_SLOT_SIZE);
	if (q.op == PORT_EXTENTS)
		require(q.room >= 1 && q.room <= PORT_EXTENTS_MAX);
	else
		require(q.op == PORT_WRITE_SAME ? q.room >= 1 : q.room == 0);
}

static void message(struct input *in)
{
	size_t len = take_u32(in) % 2048, have = len < in->left ? len : in->left;
	uint64_t *copy = malloc(have + 8); /* exactly as long as needed, for the sanitizer */
	int type;

	take_bytes(in, copy, have);
	type = port_msg_check(copy, have);
	require(type < 0 || (type >= PORT_MSG_HELLO && type <= PORT_MSG_ERROR));
	if (type == PORT_MSG_HELLO)
		require(strlen(((struct port_msg_hello *)copy)->name) < PORT_CLIENT_NAME_MAX);
	if (type == PORT_MSG_ATTACH)
		require(strlen(((struct port_msg_attach *)copy)->lun) < PORT_NAME_MAX);
	if (type == PORT_MSG_EXPORTS) {
		const struct port_msg_exports *m = (const void *)copy;

		for (uint32_t i = 0; i < m->n; i++)
			require(strlen(m->exports[i].name) < PORT_NAME_MAX);
	}
	free(copy);
}

static void step(struct input *in, struct port_ring *r)
{
	uint8_t op;
	uint32_t v;

	take_bytes(in, &op, 1);
	switch (op % 8) {
	case 0:
	case 1:
		submit(in, r->shm);
		break;
	case 2:
		take(r);
		break;
	case 3: /* the daemon completes what is in flight */
		if (r->inflight) {
			uint32_t tag = (uint32_t)__builtin_ctzll(r->inflight);

			port_ring_matched(r, tag);
			port_ring_complete(r, tag, 0);
			require(!(r->inflight & 1ull << tag));
		}
		break;
	case 4:
		port_ring_sleep(r);
		break;
	case 5: /* the client writes where it likes */
		v = take_u32(in);
		*(uint32_t *)((char *)r->shm + v % (PORT_META_SIZE / 4) * 4) = take_u32(in);
		break;
	case 6:
		message(in);
		break;
	case 7:
		port_ring_wake(r);
		require(!port_ring_wake_due(r));
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static _Alignas(64) char shm[PORT_META_SIZE];
	struct input in = {data, size};
	struct port_ring r;

	memset(shm, 0, sizeof(shm));
	port_ring_init(&r, shm, size & 1 ? PORT_VERSION : PORT_VERSION_MIN);
	while (in.left)
		step(&in, &r);
	return 0;
}
