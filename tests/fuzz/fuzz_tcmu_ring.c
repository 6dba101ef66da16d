/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ring of a TCMU device whose other side writes what it likes. The input is a script: a byte
 * says what happens next - memory is written anywhere, an entry is put in well or badly, we take
 * entries or end commands - and the bytes behind it say how. What must hold, whatever was done:
 * data lie in the data area, what is taken was copied from the map, and nothing is ended that was
 * not taken.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "front/tcmu/tcmu_ring.h"
#include "front/tcmu/tcmu_spec.h"

#define CMDR_OFF  128u
#define CMDR_SIZE (2048u - CMDR_OFF)
#define DATA_SIZE 2048u
#define MAP_SIZE  (CMDR_OFF + CMDR_SIZE + DATA_SIZE)

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

/* An entry that is right but for what the input says of it. */
static void push(struct input *in, struct tcmu_mailbox *mb)
{
	uint8_t *map = (uint8_t *)mb, how[6];
	uint32_t head = mb->cmd_head % CMDR_SIZE & ~7u, len;
	struct tcmu_cmd_entry e = {0};
	uint64_t iov[2];

	take_bytes(in, how, sizeof(how));
	len = 128 + how[0] % 16 * 8;
	if (CMDR_SIZE - head < len)
		len = CMDR_SIZE - head;
	e.hdr.len_op = (how[2] & 0x80 ? how[2] * 8u : len) | how[1] % 4;
	e.hdr.cmd_id = how[3];
	e.req.iov_cnt = how[4] % 5;
	e.req.cdb_off = CMDR_OFF + head + (how[5] & 0x80 ? take_u32(in) : 112u);
	if (how[1] % 4 == TCMU_OP_TMR)
		((struct tcmu_tmr_entry *)&e)->cmd_cnt = how[4];
	memcpy(map + CMDR_OFF + head, &e, len < sizeof(e) ? len : sizeof(e));
	for (unsigned i = 0; i < e.req.iov_cnt && 48 + (i + 1) * 16 <= len; i++) {
		iov[0] = how[5] & 0x40 ? take_u32(in) : CMDR_OFF + CMDR_SIZE + i * 256u;
		iov[1] = how[5] & 0x20 ? take_u32(in) : 256;
		memcpy(map + CMDR_OFF + head + 48 + i * 16, iov, 16);
	}
	mb->cmd_head = (head + len) % CMDR_SIZE;
}

static void check_data(struct tcmu_ring *r, const struct tcmu_entry *e)
{
	struct iovec *iov = malloc((e->n_iov + 1) * sizeof(*iov));
	const char *what = NULL;
	uint32_t total;
	uint64_t sum = 0;
	int n = tcmu_ring_iovs(r, e, iov, &total, &what);

	require((n < 0) == (what != NULL));
	for (int i = 0; i < n; i++) {
		uint8_t *p = iov[i].iov_base;

		require(p >= r->map + CMDR_OFF + CMDR_SIZE && iov[i].iov_len &&
			iov[i].iov_len <= (size_t)(r->map + MAP_SIZE - p));
		p[0] = p[iov[i].iov_len - 1] = 1;
		sum += iov[i].iov_len;
	}
	require(n < 0 || sum == total);
	free(iov);
}

static void take(struct tcmu_ring *r)
{
	struct tcmu_ring before = *r;
	struct tcmu_entry e;
	const char *what = NULL;
	int got = tcmu_ring_take(r, &e, &what);

	require((got < 0) == (what != NULL));
	require(r->inflight == before.inflight + (got == TCMU_TAKEN_CMD));
	if (got == TCMU_TAKEN_CMD) {
		require(e.cdb_len >= 6 && e.cdb_len <= TCMU_RING_CDB_MAX);
		check_data(r, &e);
	} else if (got == TCMU_TAKEN_TMR) {
		for (uint32_t i = 0; i < e.n_ids; i++)
			tcmu_ring_tmr_id(r, &e, i);
	}
}

static void end(struct input *in, struct tcmu_ring *r)
{
	static const uint8_t sense[TCMU_RING_SENSE_MAX] = {0x70};
	uint32_t v = take_u32(in);
	struct tcmu_result res = {.id = (uint16_t)v,
				  .status = (uint8_t)(v >> 16),
				  .has_read_len = v >> 31,
				  .read_len = v,
				  .sense = sense,
				  .sense_len = (uint8_t)((v >> 24) % (sizeof(sense) + 1))};
	unsigned before = r->inflight;
	const char *what = NULL;
	int err;

	if (!before)
		return;
	err = tcmu_ring_complete(r, &res, &what);
	require((err < 0) == (what != NULL));
	require(r->inflight == before - (r->inflight != before) && (err || r->inflight < before));
	require(r->tail < CMDR_SIZE);
}

static void step(struct input *in, struct tcmu_ring *r)
{
	uint32_t v;
	uint8_t op;

	take_bytes(in, &op, 1);
	switch (op % 6) {
	case 0:
	case 1:
		push(in, (struct tcmu_mailbox *)r->map);
		break;
	case 2:
	case 3:
		take(r);
		break;
	case 4:
		end(in, r);
		break;
	case 5: /* the other side writes where it likes */
		v = take_u32(in);
		*(uint32_t *)(r->map + v % (MAP_SIZE / 4) * 4) = take_u32(in);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *map =
		aligned_alloc(64, MAP_SIZE); /* exactly as long as needed, for the sanitizer */
	struct tcmu_mailbox *mb = (struct tcmu_mailbox *)map;
	struct input in = {data, size};
	struct tcmu_ring r;
	const char *what;
	uint8_t how;

	memset(map, 0, MAP_SIZE);
	*mb = (struct tcmu_mailbox){.version = TCMU_MAILBOX_VERSION,
				    .flags = TCMU_MAILBOX_FLAG_CAP_OOOC,
				    .cmdr_off = CMDR_OFF,
				    .cmdr_size = CMDR_SIZE};
	take_bytes(&in, &how, 1);
	if (how & 1)
		take_bytes(&in, mb, 16);
	if (tcmu_ring_init(&r, map, MAP_SIZE, &what) == 0 && !(how & 1))
		while (in.left)
			step(&in, &r);
	free(map);
	return 0;
}
