// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The login phase: text, negotiation, CHAP. The input is a row of Login Requests, each: flags,
 * version, 16 bits of length, text. Names choose
 * a target with or without CHAP users.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "front/iscsi/iscsi_private.h"

static struct iscsi_server *srv;

static void start(void)
{
	static const struct iscsi_chap_user alice = {"alice", "alice's secret"};
	static const struct iscsi_chap_user self = {"ebb", "the target's secret"};
	struct iscsi_server_options opt = {0};
	struct iscsi_target_config open = {.name = "iqn.2026-11.local.ebb:open", .alias = "open"};
	struct iscsi_target_config chap = {.name = "iqn.2026-11.local.ebb:chap",
					   .users = &alice,
					   .n_users = 1,
					   .self = &self,
					   .require_header_digest = true};

	if (iscsi_server_create(&opt, &srv) < 0 || scsi_target_create(open.name, &open.scsi) < 0)
		abort();
	chap.scsi = open.scsi;
	if (iscsi_server_add_target(srv, &open, NULL) < 0 ||
	    iscsi_server_add_target(srv, &chap, NULL) < 0)
		abort();
}

/* What must hold of every answer. */
static void check(const struct iscsi_login *l, const struct iscsi_login_answer *a,
		  const struct iscsi_text_out *out)
{
	assert(out->len <= ISCSI_LOGIN_DATA);
	assert(!a->done || (a->status == ISCSI_LOGIN_OK && l->state == LOGIN_DONE));
	assert(!a->done || !l->target || l->access->n_users == 0 || l->user[0]);
	assert(a->status == ISCSI_LOGIN_OK || l->state == LOGIN_FAILED);
	assert(l->params.max_burst >= 512 && l->params.first_burst >= 512);
	assert(l->params.max_send_data_segment >= 512);
	assert(l->params.max_outstanding_r2t >= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct iscsi_text_out out;
	struct iscsi_login *l;

	if (!srv)
		start();
	l = iscsi_login_new(srv);
	assert(l);
	iscsi_text_init(&out, ISCSI_LOGIN_DATA);
	while (size >= 4) {
		struct iscsi_login_bhs req = {.flags = data[0], .version_min = data[1] & 1};
		size_t len = get_be16(data + 2);
		struct iscsi_login_answer a;
		char *text;

		data += 4;
		size -= 4;
		len = len < size ? len : size;
		text = malloc(len ? len : 1); /* its own, so that reading past it is seen */
		memcpy(text, data, len);
		iscsi_login_request(l, &req, text, len, &out, &a);
		free(text);
		check(l, &a, &out);
		iscsi_text_free(&out);
		data += len;
		size -= len;
		if (a.done || a.status != ISCSI_LOGIN_OK)
			break;
	}
	iscsi_login_free(l);
	return 0;
}
