// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Text requests in full feature phase (RFC 7143 11.10, 11.11): SendTargets, and the one parameter
 * that may change. A reply longer than the initiator takes in one PDU is kept and sent piece by
 * piece: each piece but the last has the C bit and a Target Transfer Tag, which the initiator
 * sends back to get the next. A new request without a tag drops what was left.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REPLY_MAX (4u << 20) /* of text; some 40,000 targets */

/* What was left of a reply, or all of it, is not wanted any more. */
static void drop_reply(struct iscsi_conn *c)
{
	iscsi_text_free(&c->text);
	c->text_pos = 0;
}

/* Sends the next piece of c->text in answer to @req. */
static int send_piece(struct iscsi_conn *c, const struct iscsi_text_bhs *req)
{
	struct iscsi_pdu *p = iscsi_pdu_get(c, ISCSI_OP_TEXT_RSP);
	size_t len = c->text.len - c->text_pos;
	bool final = req->flags & ISCSI_FLAG_FINAL;

	if (!p)
		return -ENOMEM;
	if (len > c->params.max_send_data_segment) {
		len = c->params.max_send_data_segment;
		p->bhs.flags |= ISCSI_TEXT_CONTINUE;
		final = false;
	}
	if (!final)
		p->bhs.flags &= (uint8_t)~ISCSI_FLAG_FINAL;
	if (len) {
		p->buf = malloc(len);
		if (!p->buf) {
			p->sent(p);
			return -ENOMEM;
		}
		memcpy(p->buf, c->text.buf + c->text_pos, len);
	}
	c->text_pos += len;
	memcpy(p->bhs.itt, req->itt, sizeof(p->bhs.itt));
	put_be32(p->bhs.w20, final ? ISCSI_TAG_RESERVED : c->text_ttt);
	iscsi_conn_stamp(c, &p->bhs, true);
	iscsi_pdu_send(p, p->buf, (uint32_t)len);
	if (c->text_pos == c->text.len)
		drop_reply(c);
	return 0;
}

/* Appends @data to the request that is being gathered. */
static int gather(struct iscsi_conn *c, const void *data, uint32_t len)
{
	char *text;

	if (len > ISCSI_TEXT_MAX - c->text_in_len)
		return iscsi_conn_fail(c, "text too long");
	text = realloc(c->text_in, c->text_in_len + len + 1);
	if (!text)
		return -ENOMEM;
	c->text_in = text;
	if (len)
		memcpy(text + c->text_in_len, data, len);
	c->text_in_len += len;
	return 0;
}

static void send_targets(struct iscsi_conn *c, const char *value)
{
	const char *only = *value ? value : NULL;

	if (!c->target) { /* discovery: a name, or All */
		if (only && strcmp(only, "All") == 0)
			only = NULL;
	} else if (only && strcmp(only, c->target->name) != 0) {
		iscsi_text_add(&c->text, "SendTargets", "Reject");
		return;
	} else {
		only = c->target->name;
	}
	iscsi_server_send_targets(c->srv, c->initiator, only, &c->local, &c->text);
}

static void take_pair(struct iscsi_conn *c, const char *key, const char *value)
{
	struct iscsi_negotiation n = {.offer = &c->srv->offer};
	struct iscsi_params params = c->params;
	int r;

	if (strcmp(key, "SendTargets") == 0) {
		send_targets(c, value);
		return;
	}
	if (strcmp(key, "InitiatorAlias") == 0)
		return;
	r = iscsi_negotiate(&n, &params, key, value, true, &c->text);
	if (r < 0)
		iscsi_text_add(&c->text, key, "Reject");
	else if (r == 0)
		iscsi_text_add(&c->text, key, "NotUnderstood");
	mutex_scope(&c->srv->lock);
	c->params = params;
}

static int answer(struct iscsi_conn *c)
{
	struct iscsi_text_in in;
	const char *key, *value;
	int r;

	drop_reply(c);
	iscsi_text_init(&c->text, REPLY_MAX);
	iscsi_text_open(&in, c->text_in, c->text_in_len);
	while ((r = iscsi_text_next(&in, &key, &value)) > 0)
		take_pair(c, key, value);
	free(c->text_in);
	c->text_in = NULL;
	c->text_in_len = 0;
	return r;
}

int iscsi_text_request(struct iscsi_conn *c, const struct iscsi_text_bhs *req, const void *data,
		       uint32_t len)
{
	uint32_t ttt = get_be32(req->ttt);
	int r;

	if (ttt == ISCSI_TAG_RESERVED) {
		free(c->text_in);
		c->text_in = NULL;
		c->text_in_len = 0;
		drop_reply(c);
		if (++c->text_ttt == ISCSI_TAG_RESERVED)
			c->text_ttt = 0;
	} else if (ttt != c->text_ttt) {
		iscsi_conn_reject(c, ISCSI_REJECT_PROTOCOL, req);
		return 0;
	} else if (c->text.len > c->text_pos) {
		return send_piece(c, req);
	}
	r = gather(c, data, len);
	if (r < 0)
		return r;
	if (req->flags & ISCSI_TEXT_CONTINUE) {
		struct iscsi_text_bhs more = *req;

		more.flags &= (uint8_t)~ISCSI_FLAG_FINAL;
		return send_piece(c, &more);
	}
	r = answer(c);
	if (r < 0) {
		drop_reply(c);
		iscsi_conn_reject(c, ISCSI_REJECT_PROTOCOL, req);
		return 0;
	}
	if (c->text.failed) {
		drop_reply(c);
		iscsi_conn_reject(c, ISCSI_REJECT_RESOURCES, req);
		return 0;
	}
	return send_piece(c, req);
}
