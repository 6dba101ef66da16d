// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Receiving is a small machine over what the stream offers:
 *
 *   HEADER (48 bytes, AHS, header digest, all seen whole) -> what the opcode needs is made ready
 *     -> DATA (the stream fills the place it belongs: a write's buffer, a text's memory)
 *     or SKIP (nobody wants it) -> TRAILER (padding, data digest) -> the PDU is complete -> HEADER
 *
 * Nothing is consumed of a PDU whose processing cannot start: the header stays with the stream,
 * which is paused until memory or the send queue allows. So a peer that does not read its answers
 * is soon not read from, and what it can make us hold is the window it was given.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <isa-l/crc.h>

static_assert(ISCSI_RX_SIZE >= ISCSI_BHS_LEN + ISCSI_AHS_MAX + ISCSI_DIGEST_LEN, "a header, whole");

/* Makes memory ready for the data segment of a PDU that is no write. */
static int want_buffer(struct iscsi_conn *c, uint32_t len)
{
	if (!len)
		return 0;
	c->rx_buf = malloc(len);
	if (!c->rx_buf)
		return -ENOMEM;
	c->rx_data = c->rx_buf;
	return 0;
}

/* A header has come: finds out what to do with its data. 0, -EAGAIN: not now (paused), or -errno.
 */
static int take_header(struct iscsi_conn *c, const uint8_t *ahs)
{
	uint32_t dsl = iscsi_dsl(&c->bhs);

	if (c->state == CONN_LOGIN) {
		if (iscsi_op(&c->bhs) != ISCSI_OP_LOGIN)
			return iscsi_conn_fail(c, "not a login request");
		if (dsl > ISCSI_LOGIN_DATA)
			return iscsi_conn_fail(c, "login data too long");
		return want_buffer(c, dsl);
	}
	if (dsl > c->params.max_recv_data_segment)
		return iscsi_conn_fail(c, "data segment longer than declared");
	switch (iscsi_op(&c->bhs)) {
	case ISCSI_OP_DATA_OUT:
		return iscsi_task_data_out(c);
	case ISCSI_OP_SCSI_CMD:
		if (!iscsi_session_admits(c, &c->bhs)) {
			c->rx_drop = true;
			return 0;
		}
		return iscsi_task_command(c, ahs);
	case ISCSI_OP_NOP_OUT:
	case ISCSI_OP_TMF:
	case ISCSI_OP_TEXT:
	case ISCSI_OP_LOGOUT:
		if (!iscsi_session_admits(c, &c->bhs)) {
			c->rx_drop = true;
			return 0;
		}
		return want_buffer(c, dsl);
	case ISCSI_OP_LOGIN:
		return iscsi_conn_fail(c, "login request in full feature phase");
	default: /* SNACK and unknown ones: refused when they are complete */
		return 0;
	}
}

/* The PDU is there with all its data. */
static int pdu_complete(struct iscsi_conn *c)
{
	bool bad = c->rx_bad_digest;
	int r = 0;

	c->rx = RX_HEADER;
	metric_add(&c->n_rx_pdus, 1);
	if (c->state == CONN_LOGIN)
		r = iscsi_conn_login(c);
	else if (c->rx_drop)
		r = 0;
	else if (iscsi_op(&c->bhs) == ISCSI_OP_DATA_OUT)
		iscsi_task_data_done(c, bad);
	else if (bad) {
		/* not executed, its CmdSN not used: at ERL 0 only a new session helps */
		iscsi_conn_reject(c, ISCSI_REJECT_DATA_DIGEST, &c->bhs);
		iscsi_conn_close(c, true);
	} else
		r = iscsi_session_request(c);
	free(c->rx_buf);
	c->rx_buf = NULL;
	c->rx_data = NULL;
	c->rx_task = NULL;
	c->rx_drop = c->rx_bad_digest = false;
	return r;
}

static uint32_t trailer_len(const struct iscsi_conn *c)
{
	uint32_t dsl = iscsi_dsl(&c->bhs);

	return dsl ? iscsi_pad(dsl) + (c->data_digest ? ISCSI_DIGEST_LEN : 0) : 0;
}

/* Checks the data digest in @trailer against the data where they are. */
static void check_data_digest(struct iscsi_conn *c, const uint8_t *trailer)
{
	uint32_t dsl = iscsi_dsl(&c->bhs), pad = iscsi_pad(dsl);
	uint8_t copy[3], want[ISCSI_DIGEST_LEN];
	uint32_t crc;

	if (!c->data_digest || !c->rx_data)
		return;
	memcpy(copy, trailer, pad);
	crc = crc32_iscsi(c->rx_data, (int)dsl, 0xffffffff);
	iscsi_put_digest(want, ~crc32_iscsi(copy, (int)pad, crc));
	if (memcmp(want, trailer + pad, sizeof(want)) != 0) {
		metric_add(&c->srv->counters.digest_errors, 1);
		c->rx_bad_digest = true;
	}
}

/* Consumes a header from @data; 0: more bytes are needed, or it cannot be taken now. */
static ssize_t input_header(struct iscsi_conn *c, const uint8_t *data, size_t len)
{
	size_t need = ISCSI_BHS_LEN, ahs;
	uint8_t want[ISCSI_DIGEST_LEN];
	int r;

	if (len < need)
		return 0;
	if (iscsi_conn_sends_enough(c)) {
		iscsi_conn_pause(c, PAUSE_TX);
		return 0;
	}
	ahs = (size_t)data[4] * 4;
	need += ahs + (c->header_digest ? ISCSI_DIGEST_LEN : 0);
	if (len < need)
		return 0;
	if (c->header_digest) {
		iscsi_put_digest(want, iscsi_crc32c(data, ISCSI_BHS_LEN + ahs));
		if (memcmp(want, data + ISCSI_BHS_LEN + ahs, sizeof(want)) != 0) {
			metric_add(&c->srv->counters.digest_errors, 1);
			return -EBADMSG;
		}
	}
	memcpy(&c->bhs, data, ISCSI_BHS_LEN);
	r = take_header(c, data + ISCSI_BHS_LEN);
	if (r == -EAGAIN)
		return 0;
	if (r < 0)
		return r;
	metric_add(&c->srv->counters.rx_bytes, need + iscsi_dsl(&c->bhs));
	return (ssize_t)need;
}

/* What follows a header that was taken. 0 or -errno. */
static int after_header(struct iscsi_conn *c)
{
	uint32_t dsl = iscsi_dsl(&c->bhs);

	if (!dsl)
		return pdu_complete(c);
	if (c->rx_data) {
		c->rx = RX_DATA;
		stream_read_into(c->stream, c->rx_data, dsl);
		return 0;
	}
	c->rx = RX_SKIP;
	c->rx_left = dsl;
	return 0;
}

/* The data segment has come or been skipped. */
static int after_data(struct iscsi_conn *c)
{
	c->rx = RX_TRAILER;
	return trailer_len(c) ? 0 : pdu_complete(c);
}

/* One step of the machine: returns bytes consumed, 0 when it needs more, or -errno. */
static ssize_t input_step(struct iscsi_conn *c, const uint8_t *data, size_t len)
{
	uint32_t trailer;
	ssize_t n = 0;
	int r = 0;

	switch (c->rx) {
	case RX_HEADER:
		n = input_header(c, data, len);
		if (n > 0)
			r = after_header(c);
		break;
	case RX_SKIP:
		n = (ssize_t)(len < c->rx_left ? len : c->rx_left);
		c->rx_left -= (uint32_t)n;
		if (!c->rx_left)
			r = after_data(c);
		break;
	case RX_TRAILER:
		trailer = trailer_len(c);
		if (len < trailer)
			return 0;
		n = trailer;
		check_data_digest(c, data);
		r = pdu_complete(c);
		break;
	case RX_DATA:
		break;
	}
	return r < 0 ? r : n;
}

ssize_t iscsi_conn_input(struct stream *s, void *ctx, const uint8_t *data, size_t len)
{
	struct iscsi_conn *c = ctx;
	size_t used = 0;

	c->rx_ns = reactor_now(c->reactor);
	c->ping_out = false;
	while (used < len && iscsi_conn_open(c) && c->rx != RX_DATA && !c->paused) {
		ssize_t n = input_step(c, data + used, len - used);

		if (n < 0)
			return n;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	return iscsi_conn_open(c) ? (ssize_t)used : (ssize_t)len;
}

int iscsi_conn_filled(struct stream *s, void *ctx)
{
	struct iscsi_conn *c = ctx;

	if (!iscsi_conn_open(c))
		return 0;
	c->rx_ns = reactor_now(c->reactor);
	return after_data(c);
}
