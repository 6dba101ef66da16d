/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 *  { "version": 1, "lun": "<uuid>", "type": 5, "holder": 0,
 *    "registrations": [ { "key": "<16 hex>", "target": "iqn...", "port": 1,
 *                         "transport_id": "<hex>" }, ... ] }
 *
 * Only a state with APTPL is ever written, so that is not a field. PRGENERATION starts at 0 with
 * each power-on (SPC-4 6.15.2), so that is not one either.
 */
#include "scsi/pr_store.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PR_STORE_VERSION 1

static void cleanup_json(json_t **j)
{
	json_decref(*j);
}
#define _cleanup_json_ __attribute__((cleanup(cleanup_json)))

static void to_hex(const uint8_t *buf, size_t len, char *out)
{
	for (size_t i = 0; i < len; i++)
		snprintf(out + 2 * i, 3, "%02x", buf[i]);
	out[2 * len] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/** Number of bytes, or -EINVAL. */
static int from_hex(const char *s, uint8_t *buf, size_t cap)
{
	size_t len = strlen(s) / 2;

	if (strlen(s) % 2 || len > cap)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		int hi = hex_digit(s[2 * i]), lo = hex_digit(s[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		buf[i] = (uint8_t)(hi << 4 | lo);
	}
	return (int)len;
}

static json_t *encode_registration(const struct pr_registration *reg)
{
	char key[17], tid[2 * PR_TRANSPORT_ID_MAX + 1];

	snprintf(key, sizeof(key), "%016" PRIx64, reg->key);
	to_hex(reg->nexus.transport_id, reg->nexus.transport_id_len, tid);
	return json_pack("{s:s, s:s, s:i, s:s}", "key", key, "target", reg->nexus.target, "port",
			 (int)reg->nexus.rel_port, "transport_id", tid);
}

char *pr_store_encode(const struct pr_state *st, const char *lun_uuid)
{
	_cleanup_json_ json_t *list = json_array();
	_cleanup_json_ json_t *doc = NULL;
	bool indexed = st->type != PR_TYPE_NONE && !pr_type_all_registrants(st->type);

	for (size_t i = 0; i < st->n_regs; i++)
		if (json_array_append_new(list, encode_registration(&st->regs[i])))
			return NULL;
	doc = json_pack("{s:i, s:s, s:i, s:I, s:O}", "version", PR_STORE_VERSION, "lun", lun_uuid,
			"type", (int)st->type, "holder", (json_int_t)(indexed ? st->holder : 0),
			"registrations", list);
	return doc ? json_dumps(doc, JSON_INDENT(1)) : NULL;
}

static int decode_registration(json_t *j, struct pr_state *st)
{
	struct pr_nexus n = {0};
	const char *key, *target, *tid;
	uint8_t key_bytes[8];
	uint64_t k = 0;
	int port, len;

	if (json_unpack(j, "{s:s, s:s, s:i, s:s}", "key", &key, "target", &target, "port", &port,
			"transport_id", &tid))
		return -EINVAL;
	if (from_hex(key, key_bytes, sizeof(key_bytes)) != 8 || port < 1 || port > 65535 ||
	    strlen(target) >= sizeof(n.target))
		return -EINVAL;
	for (int i = 0; i < 8; i++)
		k = k << 8 | key_bytes[i];
	len = from_hex(tid, n.transport_id, sizeof(n.transport_id));
	if (len < 1)
		return -EINVAL;
	n.transport_id_len = (uint16_t)len;
	n.rel_port = (uint16_t)port;
	memcpy(n.target, target, strlen(target) + 1);
	return pr_state_add(st, &n, k);
}

static int decode(json_t *doc, const char *lun_uuid, struct pr_state *st)
{
	const char *uuid;
	json_int_t holder;
	json_t *list, *item;
	int version, type, ret;
	size_t i;

	if (json_unpack(doc, "{s:i, s:s, s:i, s:I, s:o}", "version", &version, "lun", &uuid, "type",
			&type, "holder", &holder, "registrations", &list) ||
	    version != PR_STORE_VERSION || !json_is_array(list))
		return -EINVAL;
	if (strcmp(uuid, lun_uuid))
		return 0;
	json_array_foreach(list, i, item)
	{
		ret = decode_registration(item, st);
		if (ret)
			return ret;
	}
	if (type && (type < 0 || type > 15 || !pr_type_valid((uint8_t)type) || !st->n_regs ||
		     holder < 0 || (size_t)holder >= st->n_regs))
		return -EINVAL;
	st->type = (enum pr_type)type;
	st->holder = type ? (size_t)holder : 0;
	st->aptpl = true;
	return 0;
}

int pr_store_decode(const char *text, const char *lun_uuid, struct pr_state *ret_st,
		    struct reason *why)
{
	_cleanup_json_ json_t *doc = NULL;
	struct pr_state st;
	json_error_t err;
	int ret;

	doc = json_loads(text, JSON_REJECT_DUPLICATES, &err);
	if (!doc)
		return reason_set(why, EINVAL, "saved reservations: line %d: %s", err.line,
				  err.text);
	pr_state_init(&st);
	ret = decode(doc, lun_uuid, &st);
	if (ret) {
		pr_state_free(&st);
		return reason_set(why, -ret, "saved reservations make no sense");
	}
	*ret_st = st;
	return 0;
}
