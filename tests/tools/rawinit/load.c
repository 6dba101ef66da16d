/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The load: one thread, `connections` sockets, `depth` tasks on each.
 *
 * What is measured is the target, so the client does little per command. A recv() takes whatever
 * has come, the bytes go through a streaming parser (a PDU may be split anywhere, payloads are
 * never assembled), every completion at once issues the next command into the out queue, and one
 * sendmsg() at the end of the batch sends them all.
 *
 *   recv -> [header 48] -> payload bytes -> end of PDU -> task done -> next command -> out queue ->
 * sendmsg
 *
 * A task's tag is its index. The out queue is a ring of entries, each a header and the data that
 * follows it; it is large enough for every PDU that `depth` tasks can have queued, so it never
 * grows. With one connection and nothing left to send the thread sleeps in recv() itself, else in
 * poll().
 *
 * The pattern for --verify is a function of the byte offset and the seed alone, so that overlapping
 * writes agree.
 */
#include "load.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/endian.h"
#include "wire.h"

#define RX_SIZE	   (256u << 10)
#define IOV_BATCH  256
#define SENSE_KEEP 64u
#define STALL_MS   30000

struct task {
	uint64_t start_ns;
	uint64_t offset; /* bytes into the LUN */
	uint32_t received;
	bool write;
	bool busy;
	uint8_t *data; /* block_size bytes, what a write sends */
};

struct out {
	uint8_t bhs[BHS_LEN];
	const uint8_t *data;
	uint32_t len;
};

struct connection {
	struct session session;
	struct load *load;
	struct task *tasks;
	unsigned *idle; /* indices of tasks not in flight */
	unsigned nidle;

	struct out *out; /* ring, out_mask + 1 entries */
	unsigned out_mask, out_head, out_tail;
	uint32_t out_sent; /* bytes of the head entry already sent */

	uint8_t bhs[BHS_LEN];
	uint32_t bhs_have;
	uint32_t data_len; /* of the PDU being received, without padding */
	uint32_t data_have;
	uint32_t data_padded;
	uint8_t sense[SENSE_KEEP];
};

struct load {
	struct load_config config;
	struct connection *connections;
	struct pollfd *polls;
	uint8_t *rx;
	uint8_t *data; /* of all tasks */
	uint64_t random_state;
	uint64_t next_offset; /* sequential */

	/* of the run */
	struct load_result *result;
	uint64_t now, deadline;
	uint64_t count_left;
	unsigned in_flight;
};

static uint64_t mix64(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t next_random(struct load *load)
{
	return mix64(load->random_state += 0x9e3779b97f4a7c15ull);
}

static uint64_t pattern_word(uint64_t seed, uint64_t offset)
{
	return mix64(seed ^ (offset / 8 + 1) * 0x9e3779b97f4a7c15ull);
}

static void pattern_fill(uint64_t seed, uint64_t offset, uint8_t *data, uint32_t len)
{
	for (uint32_t i = 0; i < len; i += 8)
		memcpy(data + i, &(uint64_t){pattern_word(seed, offset + i)}, 8);
}

/* @offset and @len need no alignment: a payload arrives in any pieces. */
static bool pattern_matches(uint64_t seed, uint64_t offset, const uint8_t *data, uint32_t len)
{
	while (len) {
		uint64_t word = pattern_word(seed, offset);
		uint32_t skip = offset % 8, n = 8 - skip < len ? 8 - skip : len;

		if (memcmp((uint8_t *)&word + skip, data, n))
			return false;
		offset += n;
		data += n;
		len -= n;
	}
	return true;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* ---- sending ---- */

static struct out *out_push(struct connection *c, const uint8_t *data, uint32_t len)
{
	struct out *o = &c->out[c->out_tail++ & c->out_mask];

	o->data = data;
	o->len = len;
	return o;
}

static bool out_has_room(const struct connection *c, unsigned entries)
{
	return c->out_mask + 1 - (c->out_tail - c->out_head) >= entries;
}

static void queue_data_out(struct connection *c, uint32_t tag, uint32_t ttt, uint32_t offset,
			   uint32_t len)
{
	uint32_t datasn = 0;

	while (len) {
		uint32_t n = min_u32(len, c->session.max_send_segment);
		struct out *o = out_push(c, c->tasks[tag].data + offset, n);

		memset(o->bhs, 0, BHS_LEN);
		o->bhs[0] = OP_DATA_OUT;
		o->bhs[1] = n == len ? FLAG_FINAL : 0;
		put_be24(o->bhs + 5, n);
		memcpy(o->bhs + 8, c->session.lun, 8);
		put_be32(o->bhs + 16, tag);
		put_be32(o->bhs + 20, ttt);
		put_be32(o->bhs + 28, c->session.expstatsn);
		put_be32(o->bhs + 36, datasn++);
		put_be32(o->bhs + 40, offset);
		offset += n;
		len -= n;
	}
}

static void queue_command(struct connection *c, uint32_t tag)
{
	const struct load_config *cfg = &c->load->config;
	struct session *s = &c->session;
	struct task *t = &c->tasks[tag];
	uint32_t len = cfg->block_size, immediate = 0, unsolicited = 0;

	if (t->write && s->immediate_data)
		immediate = min_u32(len, min_u32(s->first_burst, s->max_send_segment));
	if (t->write && !s->initial_r2t)
		unsolicited = min_u32(len, s->first_burst) - immediate;

	struct out *o = out_push(c, t->data, immediate);

	session_command_header(s, o->bhs, len);
	o->bhs[1] = (uint8_t)(CMD_SIMPLE | (t->write ? CMD_WRITE : CMD_READ) |
			      (unsolicited ? 0 : FLAG_FINAL));
	put_be24(o->bhs + 5, immediate);
	put_be32(o->bhs + 16, tag);
	uint8_t *cdb = o->bhs + 32;

	cdb[0] = t->write ? 0x8a : 0x88;
	cdb[1] = cfg->fua ? 0x08 : 0;
	put_be64(cdb + 2, t->offset / cfg->lun_block_size);
	put_be32(cdb + 10, len / cfg->lun_block_size);
	if (unsolicited)
		queue_data_out(c, tag, TAG_NONE, immediate, unsolicited);
}

static uint64_t next_offset(struct load *load)
{
	const struct load_config *cfg = &load->config;
	uint64_t slots = cfg->region / cfg->block_size;

	if (cfg->random)
		return (uint64_t)(((unsigned __int128)next_random(load) * slots) >> 64) *
		       cfg->block_size;
	uint64_t offset = load->next_offset;

	load->next_offset =
		offset + cfg->block_size >= slots * cfg->block_size ? 0 : offset + cfg->block_size;
	return offset;
}

static void issue_more(struct connection *c)
{
	struct load *load = c->load;
	const struct load_config *cfg = &load->config;

	while (c->nidle && load->count_left && load->now < load->deadline &&
	       (int32_t)(c->session.maxcmdsn - c->session.cmdsn) >= 0) {
		uint32_t tag = c->idle[--c->nidle];
		struct task *t = &c->tasks[tag];

		t->write = cfg->write_percent == 100 ||
			   (cfg->write_percent && next_random(load) % 100 < cfg->write_percent);
		t->offset = next_offset(load);
		t->received = 0;
		t->busy = true;
		t->start_ns = load->now;
		if (t->write && cfg->verify)
			pattern_fill(cfg->seed, t->offset, t->data, cfg->block_size);
		queue_command(c, tag);
		load->count_left--;
		load->in_flight++;
	}
}

static unsigned out_gather(struct connection *c, struct iovec *iov)
{
	unsigned n = 0;
	uint32_t skip = c->out_sent;

	for (unsigned i = c->out_head; i != c->out_tail && n + 2 <= IOV_BATCH; i++) {
		struct out *o = &c->out[i & c->out_mask];

		if (skip < BHS_LEN)
			iov[n++] = (struct iovec){o->bhs + skip, BHS_LEN - skip};
		uint32_t data_skip = skip > BHS_LEN ? skip - BHS_LEN : 0;

		if (o->len > data_skip)
			iov[n++] = (struct iovec){(uint8_t *)(uintptr_t)o->data + data_skip,
						  o->len - data_skip};
		skip = 0;
	}
	return n;
}

static void out_advance(struct connection *c, size_t sent)
{
	while (sent) {
		uint32_t left = BHS_LEN + c->out[c->out_head & c->out_mask].len - c->out_sent;

		if (sent < left) {
			c->out_sent += (uint32_t)sent;
			return;
		}
		sent -= left;
		c->out_sent = 0;
		c->out_head++;
	}
}

/* Sends what it can without waiting. */
static int flush_out(struct connection *c)
{
	struct iovec iov[IOV_BATCH];

	while (c->out_head != c->out_tail) {
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = out_gather(c, iov)};
		ssize_t n = sendmsg(c->session.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0)
			return -errno;
		out_advance(c, (size_t)n);
	}
	return 0;
}

/* ---- receiving ---- */

static int protocol_error(struct connection *c, const char *what)
{
	fprintf(stderr, "rawinit: protocol: %s (opcode %02x)\n", what, c->bhs[0]);
	return -EPROTO;
}

static struct task *task_of_pdu(struct connection *c)
{
	uint32_t tag = get_be32(c->bhs + 16);

	return tag < c->load->config.depth && c->tasks[tag].busy ? &c->tasks[tag] : NULL;
}

static void note_error(struct connection *c, struct task *t, uint8_t status)
{
	struct load_result *result = c->load->result;
	const uint8_t *sense = c->sense + 2; /* after SenseLength */

	if (result->errors++ == 0)
		snprintf(result->first_error, sizeof(result->first_error),
			 "%s at byte %llu: response %02x status %02x sense %x/%02x/%02x",
			 t->write ? "write" : "read", (unsigned long long)t->offset, c->bhs[2],
			 status, sense[2] & 15, sense[12], sense[13]);
}

static void note_mismatch(struct connection *c, uint64_t offset, const char *what)
{
	struct load_result *result = c->load->result;

	if (result->mismatches++ == 0 && !result->errors)
		snprintf(result->first_error, sizeof(result->first_error), "%s at byte %llu", what,
			 (unsigned long long)offset);
}

static void task_done(struct connection *c, struct task *t, uint8_t status)
{
	struct load *load = c->load;
	bool response = (c->bhs[0] & OP_MASK) == OP_SCSI_RSP;

	if (status != SCSI_GOOD || (response && c->bhs[2]))
		note_error(c, t, status);
	else if (!t->write && t->received != load->config.block_size)
		note_mismatch(c, t->offset, "short read");
	load->result->ios++;
	histogram_add(&load->result->latency, load->now - t->start_ns);
	t->busy = false;
	c->idle[c->nidle++] = (unsigned)(t - c->tasks);
	load->in_flight--;
}

static int take_r2t(struct connection *c)
{
	struct task *t = task_of_pdu(c);
	uint32_t offset = get_be32(c->bhs + 40), len = get_be32(c->bhs + 44);
	uint32_t size = c->load->config.block_size;

	if (!t || !t->write || offset > size || !len || len > size - offset)
		return protocol_error(c, "R2T for no data of ours");
	if (!out_has_room(c, len / c->session.max_send_segment + 1))
		return protocol_error(c, "more R2Ts than data");
	queue_data_out(c, get_be32(c->bhs + 16), get_be32(c->bhs + 20), offset, len);
	return 0;
}

static int answer_nop(struct connection *c)
{
	if (!out_has_room(c, 1))
		return protocol_error(c, "flood of NOPs");
	struct out *o = out_push(c, NULL, 0);

	memset(o->bhs, 0, BHS_LEN);
	o->bhs[0] = OP_IMMEDIATE | OP_NOP_OUT;
	o->bhs[1] = FLAG_FINAL;
	memcpy(o->bhs + 8, c->bhs + 8, 8);
	put_be32(o->bhs + 16, TAG_NONE);
	memcpy(o->bhs + 20, c->bhs + 20, 4);
	put_be32(o->bhs + 24, c->session.cmdsn);
	put_be32(o->bhs + 28, c->session.expstatsn);
	return 0;
}

/* The header is whole: checks what the payload must obey. */
static int begin_pdu(struct connection *c)
{
	c->data_len = get_be24(c->bhs + 5);
	c->data_padded = (c->data_len + 3) & ~3u;
	c->data_have = 0;
	memset(c->sense, 0, sizeof(c->sense));
	if (c->bhs[4])
		return protocol_error(c, "additional header segment");
	if ((c->bhs[0] & OP_MASK) != OP_DATA_IN)
		return 0;
	struct task *t = task_of_pdu(c);
	uint32_t offset = get_be32(c->bhs + 40), size = c->load->config.block_size;

	if (!t || t->write || offset > size || c->data_len > size - offset)
		return protocol_error(c, "Data-In for no read of ours");
	return 0;
}

static int end_pdu(struct connection *c)
{
	unsigned op = c->bhs[0] & OP_MASK;
	bool status = op == OP_SCSI_RSP || (op == OP_DATA_IN && (c->bhs[1] & DATA_IN_STATUS));
	struct task *t = task_of_pdu(c);

	session_take_numbers(&c->session, c->bhs, status);
	switch (op) {
	case OP_DATA_IN:
		t->received += c->data_len;
		if (status)
			task_done(c, t, c->bhs[3]);
		return 0;
	case OP_SCSI_RSP:
		if (!t)
			return protocol_error(c, "response for no task of ours");
		task_done(c, t, c->bhs[3]);
		return 0;
	case OP_R2T:
		return take_r2t(c);
	case OP_NOP_IN:
		return get_be32(c->bhs + 20) == TAG_NONE ? 0 : answer_nop(c);
	default:
		return protocol_error(c, op == OP_REJECT ? "rejected" : "unexpected PDU");
	}
}

static void take_payload(struct connection *c, const uint8_t *p, uint32_t n)
{
	unsigned op = c->bhs[0] & OP_MASK;

	if (op == OP_SCSI_RSP && c->data_have < SENSE_KEEP)
		memcpy(c->sense + c->data_have, p, min_u32(n, SENSE_KEEP - c->data_have));
	if (op != OP_DATA_IN || !c->load->config.verify || c->data_have >= c->data_len)
		return;
	uint64_t offset =
		c->tasks[get_be32(c->bhs + 16)].offset + get_be32(c->bhs + 40) + c->data_have;

	if (!pattern_matches(c->load->config.seed, offset, p,
			     min_u32(n, c->data_len - c->data_have)))
		note_mismatch(c, offset, "wrong data in or after the piece");
}

static int parse(struct connection *c, const uint8_t *p, size_t len)
{
	while (len) {
		uint32_t n;
		int r = 0;

		if (c->bhs_have < BHS_LEN) {
			n = min_u32(BHS_LEN - c->bhs_have, (uint32_t)len);
			memcpy(c->bhs + c->bhs_have, p, n);
			c->bhs_have += n;
			if (c->bhs_have == BHS_LEN)
				r = begin_pdu(c);
		} else {
			n = min_u32(c->data_padded - c->data_have, (uint32_t)len);
			take_payload(c, p, n);
			c->data_have += n;
		}
		p += n;
		len -= n;
		if (!r && c->bhs_have == BHS_LEN && c->data_have == c->data_padded) {
			r = end_pdu(c);
			c->bhs_have = 0;
		}
		if (r)
			return r;
	}
	return 0;
}

/* One batch: what has come, the commands that follow from it, one send. */
static int receive(struct connection *c, int flags)
{
	ssize_t n = recv(c->session.fd, c->load->rx, RX_SIZE, flags);

	if (n < 0)
		return errno == EINTR || (errno == EAGAIN && flags) ? 0
		       : errno == EAGAIN			    ? -ETIMEDOUT
								    : -errno;
	if (n == 0)
		return -ECONNRESET;
	c->load->now = clock_now_ns();
	int r = parse(c, c->load->rx, (size_t)n);

	if (r)
		return r;
	issue_more(c);
	return flush_out(c);
}

static int wait_and_receive(struct load *load)
{
	unsigned n = load->config.connections;
	struct connection *c = load->connections;

	if (n == 1 && c->out_head == c->out_tail)
		return receive(c, 0);
	for (unsigned i = 0; i < n; i++) {
		load->polls[i].fd = c[i].session.fd;
		load->polls[i].events =
			(short)(POLLIN | (c[i].out_head != c[i].out_tail ? POLLOUT : 0));
	}
	int r = poll(load->polls, n, STALL_MS);

	if (r <= 0)
		return r < 0 && errno == EINTR ? 0 : -ETIMEDOUT;
	for (unsigned i = 0; i < n; i++) {
		r = 0;
		if (load->polls[i].revents & POLLOUT)
			r = flush_out(&c[i]);
		if (!r && (load->polls[i].revents & ~POLLOUT))
			r = receive(&c[i], MSG_DONTWAIT);
		if (r)
			return r;
	}
	return 0;
}

int load_run(struct load *load, double seconds, uint64_t count, struct load_result *result)
{
	uint64_t start = clock_now_ns();
	int r = 0;

	memset(result, 0, sizeof(*result));
	load->result = result;
	load->now = start;
	load->deadline = seconds > 0 ? start + (uint64_t)(seconds * 1e9) : UINT64_MAX;
	load->count_left = count ? count : UINT64_MAX;
	for (unsigned i = 0; i < load->config.connections && !r; i++) {
		issue_more(&load->connections[i]);
		r = flush_out(&load->connections[i]);
	}
	while (load->in_flight && !r)
		r = wait_and_receive(load);
	result->seconds = (double)(clock_now_ns() - start) / 1e9;
	return r;
}

/* Enough entries for all the PDUs that every task can have queued at once, and for a few answers to
 * NOPs. */
static unsigned out_ring_size(const struct load_config *cfg, const struct session *s)
{
	unsigned need =
		cfg->depth * (2 + cfg->block_size / s->max_send_segment + cfg->block_size / 512) +
		64;
	unsigned size = 1;

	while (size < need)
		size *= 2;
	return size;
}

static int connection_init(struct connection *c, struct load *load, const struct session *s,
			   unsigned index)
{
	const struct load_config *cfg = &load->config;

	c->session = *s;
	c->load = load;
	c->session.max_send_segment &= ~3u; /* Data-Outs in the middle need no padding then */
	if (c->session.max_send_segment < 512)
		return -EPROTO;
	unsigned ring = out_ring_size(cfg, &c->session);

	c->tasks = calloc(cfg->depth, sizeof(*c->tasks));
	c->idle = calloc(cfg->depth, sizeof(*c->idle));
	c->out = calloc(ring, sizeof(*c->out));
	c->out_mask = ring - 1;
	if (!c->tasks || !c->idle || !c->out)
		return -ENOMEM;
	for (unsigned i = 0; i < cfg->depth; i++) {
		c->tasks[i].data = load->data + (size_t)(index * cfg->depth + i) * cfg->block_size;
		c->idle[c->nidle++] = i;
	}
	return 0;
}

struct load *load_new(const struct load_config *config, struct session *sessions)
{
	struct load *load = calloc(1, sizeof(*load));

	if (!load)
		return NULL;
	size_t data_len = (size_t)config->connections * config->depth * config->block_size;

	load->config = *config;
	load->random_state = mix64(config->seed + 1);
	load->connections = calloc(config->connections, sizeof(*load->connections));
	load->polls = calloc(config->connections, sizeof(*load->polls));
	load->rx = malloc(RX_SIZE);
	load->data = malloc(data_len);
	if (!load->connections || !load->polls || !load->rx || !load->data)
		goto fail;
	pattern_fill(config->seed, 0, load->data,
		     (uint32_t)(data_len < UINT32_MAX ? data_len : UINT32_MAX & ~7u));
	for (unsigned i = 0; i < config->connections; i++)
		if (connection_init(&load->connections[i], load, &sessions[i], i))
			goto fail;
	return load;
fail:
	load_free(load);
	return NULL;
}

void load_free(struct load *load)
{
	if (!load)
		return;
	for (unsigned i = 0; load->connections && i < load->config.connections; i++) {
		free(load->connections[i].tasks);
		free(load->connections[i].idle);
		free(load->connections[i].out);
	}
	free(load->connections);
	free(load->polls);
	free(load->rx);
	free(load->data);
	free(load);
}
