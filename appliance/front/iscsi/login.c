// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The login phase (RFC 7143 clauses 6.3, 11.12, 11.13). One Login Request in, one answer out; no
 * I/O here, so that the whole phase can be fed by a test or a fuzzer.
 *
 * A request may carry its text in several PDUs (C bit): they are gathered, bounded by
 * ISCSI_TEXT_MAX, and answered by empty replies until the last. The stage moves on when the
 * initiator sets T, and, in the security stage, authentication is complete. The target never
 * starts a negotiation of its own but for what it declares.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* Security keys of one request. */
struct security_keys {
	const char *auth_method, *chap_a, *chap_n, *chap_r, *chap_i, *chap_c;
};

static void set_state(struct iscsi_login *l, enum iscsi_login_state to)
{
#define TO(s) (1u << LOGIN_##s)
	static const unsigned allowed[] = {
		[LOGIN_START] = TO(SECURITY) | TO(OPERATIONAL),
		[LOGIN_SECURITY] = TO(CHAP_ALGORITHM) | TO(AUTHENTICATED),
		[LOGIN_CHAP_ALGORITHM] = TO(CHAP_RESPONSE),
		[LOGIN_CHAP_RESPONSE] = TO(AUTHENTICATED),
		[LOGIN_AUTHENTICATED] = TO(OPERATIONAL) | TO(DONE),
		[LOGIN_OPERATIONAL] = TO(DONE),
		[LOGIN_DONE] = 0,
		[LOGIN_FAILED] = 0,
	};
	assert(to == LOGIN_FAILED || (allowed[l->state] & 1u << to));
	l->state = to;
#undef TO
}

struct iscsi_login *iscsi_login_new(struct iscsi_server *srv)
{
	struct iscsi_login *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->srv = srv;
	l->offer = srv->offer;
	l->negotiation.offer = &l->offer;
	iscsi_params_default(&l->params);
	return l;
}

void iscsi_login_free(struct iscsi_login *l)
{
	if (!l)
		return;
	iscsi_target_put(l->target);
	iscsi_access_put(l->access);
	free(l->text);
	explicit_bzero(l, sizeof(*l));
	free(l);
}

static bool in_security(const struct iscsi_login *l)
{
	return l->state >= LOGIN_SECURITY && l->state <= LOGIN_AUTHENTICATED;
}

static bool copy_name(char ret[ISCSI_NAME_MAX + 1], const char *value)
{
	size_t len = strlen(value);

	if (len == 0 || len > ISCSI_NAME_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((uint8_t)value[i] <= ' ' || value[i] == 0x7f)
			return false;
	memcpy(ret, value, len + 1);
	return true;
}

/* --- the first request: who, what, which --- */

static int find_target(struct iscsi_login *l, const char *name)
{
	if (!name)
		return ISCSI_LOGIN_MISSING_PARAM;
	l->target = iscsi_server_find_target(l->srv, name, &l->access);
	if (!l->target)
		return ISCSI_LOGIN_NOT_FOUND;
	if (!iscsi_access_allows(l->access, l->initiator))
		return ISCSI_LOGIN_FORBIDDEN;
	l->offer.require_header_digest = l->access->require_header_digest;
	l->offer.require_data_digest = l->access->require_data_digest;
	return ISCSI_LOGIN_OK;
}

static int start(struct iscsi_login *l, const struct iscsi_login_bhs *req, const char *text,
		 size_t len)
{
	char copy[ISCSI_TEXT_MAX + 1];
	struct iscsi_text_in in;
	const char *key, *value, *initiator = NULL, *target = NULL, *type = "Normal";
	unsigned stage = ISCSI_LOGIN_CSG(req->flags);
	int r;

	memcpy(copy, text, len);
	iscsi_text_open(&in, copy, len);
	while ((r = iscsi_text_next(&in, &key, &value)) > 0) {
		if (strcmp(key, "InitiatorName") == 0)
			initiator = value;
		else if (strcmp(key, "TargetName") == 0)
			target = value;
		else if (strcmp(key, "SessionType") == 0)
			type = value;
	}
	if (r < 0 || stage > ISCSI_STAGE_OPERATIONAL)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (!initiator)
		return ISCSI_LOGIN_MISSING_PARAM;
	if (!copy_name(l->initiator, initiator))
		return ISCSI_LOGIN_INITIATOR_ERROR;
	memcpy(l->isid, req->isid, sizeof(l->isid));
	l->tsih = get_be16(req->tsih);
	l->cid = get_be16(req->cid);
	if (strcmp(type, "Discovery") == 0)
		l->discovery = l->negotiation.discovery = true;
	else if (strcmp(type, "Normal") != 0)
		return ISCSI_LOGIN_SESSION_TYPE;
	if (l->discovery)
		l->access = iscsi_server_discovery_access(l->srv);
	else
		r = find_target(l, target);
	if (r != ISCSI_LOGIN_OK)
		return r;
	if (stage == ISCSI_STAGE_SECURITY)
		set_state(l, LOGIN_SECURITY);
	else if (l->access->n_users > 0)
		return ISCSI_LOGIN_AUTH_FAILED;
	else
		set_state(l, LOGIN_OPERATIONAL);
	return ISCSI_LOGIN_OK;
}

/* --- security --- */

static int choose_method(struct iscsi_login *l, const char *list, struct iscsi_text_out *out)
{
	bool want_chap = l->access->n_users > 0;
	const char *item;
	size_t len;

	while (iscsi_text_list_next(&list, &item, &len)) {
		if (want_chap && len == 4 && memcmp(item, "CHAP", 4) == 0) {
			iscsi_text_add(out, "AuthMethod", "CHAP");
			set_state(l, LOGIN_CHAP_ALGORITHM);
			return ISCSI_LOGIN_OK;
		}
		if (!want_chap && len == 4 && memcmp(item, "None", 4) == 0) {
			iscsi_text_add(out, "AuthMethod", "None");
			set_state(l, LOGIN_AUTHENTICATED);
			return ISCSI_LOGIN_OK;
		}
	}
	return ISCSI_LOGIN_AUTH_FAILED;
}

static int challenge(struct iscsi_login *l, const char *list, struct iscsi_text_out *out)
{
	enum iscsi_chap_algorithm algorithm = iscsi_chap_choose(list, l->access->algorithms);

	if (algorithm == ISCSI_CHAP_NONE)
		return ISCSI_LOGIN_AUTH_FAILED;
	if (iscsi_chap_start(&l->chap, algorithm) < 0)
		return ISCSI_LOGIN_RESOURCES;
	iscsi_text_add(out, "CHAP_A", "%d", (int)algorithm);
	iscsi_text_add(out, "CHAP_I", "%u", l->chap.id);
	iscsi_text_add_hex(out, "CHAP_C", l->chap.challenge, sizeof(l->chap.challenge));
	set_state(l, LOGIN_CHAP_RESPONSE);
	return ISCSI_LOGIN_OK;
}

/* The initiator challenges us: mutual CHAP. */
static int answer_challenge(struct iscsi_login *l, const struct security_keys *k,
			    struct iscsi_text_out *out)
{
	uint8_t bytes[ISCSI_CHAP_CHALLENGE_MAX], digest[ISCSI_CHAP_DIGEST_MAX];
	uint64_t id;
	size_t len;

	if (!k->chap_i || !k->chap_c || iscsi_text_number(k->chap_i, &id) < 0 || id > 255 ||
	    iscsi_text_binary(k->chap_c, bytes, sizeof(bytes), &len) < 0)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (!l->access->self.name || iscsi_chap_reflected(&l->chap, bytes, len))
		return ISCSI_LOGIN_AUTH_FAILED;
	len = iscsi_chap_digest(l->chap.algorithm, (uint8_t)id, l->access->self.secret, bytes, len,
				digest);
	iscsi_text_add(out, "CHAP_N", "%s", l->access->self.name);
	iscsi_text_add_hex(out, "CHAP_R", digest, len);
	return ISCSI_LOGIN_OK;
}

static int verify(struct iscsi_login *l, const struct security_keys *k, struct iscsi_text_out *out)
{
	uint8_t response[ISCSI_CHAP_DIGEST_MAX];
	const char *secret;
	size_t len;
	bool known, right;

	if (!k->chap_n || !k->chap_r)
		return ISCSI_LOGIN_MISSING_PARAM;
	if (strlen(k->chap_n) > ISCSI_USER_MAX ||
	    iscsi_text_binary(k->chap_r, response, sizeof(response), &len) < 0)
		return ISCSI_LOGIN_AUTH_FAILED;
	secret = iscsi_access_secret(l->access, k->chap_n);
	known = secret != NULL;
	right = iscsi_chap_verify(&l->chap, known ? secret : "no such user, no secret", response,
				  len);
	if (!known || !right)
		return ISCSI_LOGIN_AUTH_FAILED;
	if (k->chap_i || k->chap_c) {
		int status = answer_challenge(l, k, out);

		if (status != ISCSI_LOGIN_OK)
			return status;
	}
	memcpy(l->user, k->chap_n, strlen(k->chap_n) + 1);
	set_state(l, LOGIN_AUTHENTICATED);
	return ISCSI_LOGIN_OK;
}

static int security(struct iscsi_login *l, const struct security_keys *k, bool transit,
		    struct iscsi_text_out *out)
{
	int status = ISCSI_LOGIN_OK;

	if (l->state == LOGIN_SECURITY && k->auth_method)
		status = choose_method(l, k->auth_method, out);
	else if (l->state == LOGIN_SECURITY && transit && l->access->n_users == 0)
		set_state(l, LOGIN_AUTHENTICATED); /* nobody wants to negotiate security */
	else if (l->state == LOGIN_SECURITY && transit)
		status = ISCSI_LOGIN_AUTH_FAILED;
	else if (k->auth_method)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (status != ISCSI_LOGIN_OK)
		return status;
	if (l->state == LOGIN_CHAP_ALGORITHM && k->chap_a)
		return challenge(l, k->chap_a, out);
	if (l->state == LOGIN_CHAP_RESPONSE)
		return verify(l, k, out);
	return ISCSI_LOGIN_OK;
}

/* --- one request --- */

/* Sorts a pair: a security key into @k, an operational one to its negotiation. */
static int take_pair(struct iscsi_login *l, const char *key, const char *value,
		     struct security_keys *k, struct iscsi_text_out *out)
{
	static const char *const names[] = {"AuthMethod", "CHAP_A", "CHAP_N",
					    "CHAP_R",	  "CHAP_I", "CHAP_C"};
	const char **slot[] = {&k->auth_method, &k->chap_a, &k->chap_n,
			       &k->chap_r,	&k->chap_i, &k->chap_c};
	int r;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(key, names[i]) != 0)
			continue;
		if (!in_security(l) || *slot[i])
			return ISCSI_LOGIN_INITIATOR_ERROR;
		*slot[i] = value;
		return ISCSI_LOGIN_OK;
	}
	if (strcmp(key, "InitiatorName") == 0 || strcmp(key, "TargetName") == 0 ||
	    strcmp(key, "SessionType") == 0)
		return ISCSI_LOGIN_OK; /* read by start() */
	if (strcmp(key, "InitiatorAlias") == 0) {
		if (!copy_name(l->alias, value))
			l->alias[0] = '\0';
		return ISCSI_LOGIN_OK;
	}
	r = iscsi_negotiate(&l->negotiation, &l->params, key, value, false, out);
	if (r < 0)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (r == 0)
		iscsi_text_add(out, key, "NotUnderstood");
	return ISCSI_LOGIN_OK;
}

static int take_text(struct iscsi_login *l, uint8_t flags, struct iscsi_text_out *out)
{
	struct security_keys k = {0};
	struct iscsi_text_in in;
	const char *key, *value;
	int r, status;

	iscsi_text_open(&in, l->text, l->text_len);
	while ((r = iscsi_text_next(&in, &key, &value)) > 0) {
		status = take_pair(l, key, value, &k, out);
		if (status != ISCSI_LOGIN_OK)
			return status;
	}
	if (r < 0)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (in_security(l))
		return security(l, &k, flags & ISCSI_LOGIN_TRANSIT, out);
	return ISCSI_LOGIN_OK;
}

/* Appends the data of this PDU to the request's text. */
static bool gather(struct iscsi_login *l, const void *data, size_t len)
{
	char *text;

	if (len > ISCSI_TEXT_MAX - l->text_len)
		return false;
	text = realloc(l->text, l->text_len + len + 1);
	if (!text)
		return false;
	l->text = text;
	if (len)
		memcpy(text + l->text_len, data, len);
	l->text_len += len;
	return true;
}

/* Moves to the stage that the initiator asks for, where that may be. */
static int move_on(struct iscsi_login *l, uint8_t flags, struct iscsi_login_answer *ret)
{
	unsigned stage = ISCSI_LOGIN_CSG(flags), next = ISCSI_LOGIN_NSG(flags);

	ret->flags = (uint8_t)(stage << 2);
	if (!(flags & ISCSI_LOGIN_TRANSIT))
		return ISCSI_LOGIN_OK;
	if (next <= stage || next == 2)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (in_security(l) && l->state != LOGIN_AUTHENTICATED)
		return ISCSI_LOGIN_OK; /* not yet */
	if (next == ISCSI_STAGE_FULL && !iscsi_negotiate_acceptable(&l->negotiation, &l->params))
		return ISCSI_LOGIN_INITIATOR_ERROR;
	set_state(l, next == ISCSI_STAGE_FULL ? LOGIN_DONE : LOGIN_OPERATIONAL);
	ret->done = next == ISCSI_STAGE_FULL;
	ret->flags |= (uint8_t)(ISCSI_LOGIN_TRANSIT | next);
	return ISCSI_LOGIN_OK;
}

static int request(struct iscsi_login *l, const struct iscsi_login_bhs *req, const void *data,
		   size_t len, struct iscsi_text_out *out, struct iscsi_login_answer *ret)
{
	unsigned stage = ISCSI_LOGIN_CSG(req->flags);
	int status;

	if (l->state == LOGIN_DONE || l->state == LOGIN_FAILED)
		return ISCSI_LOGIN_INVALID;
	if (req->version_min > 0)
		return ISCSI_LOGIN_VERSION;
	if (!gather(l, data, len))
		return ISCSI_LOGIN_INITIATOR_ERROR;
	ret->flags = (uint8_t)(stage << 2);
	if (req->flags & ISCSI_TEXT_CONTINUE)
		return req->flags & ISCSI_LOGIN_TRANSIT ? ISCSI_LOGIN_INITIATOR_ERROR
							: ISCSI_LOGIN_OK;
	if (l->state == LOGIN_START)
		status = start(l, req, l->text, l->text_len);
	else if (stage != (in_security(l) ? ISCSI_STAGE_SECURITY : ISCSI_STAGE_OPERATIONAL))
		status = ISCSI_LOGIN_INVALID;
	else
		status = ISCSI_LOGIN_OK;
	if (status != ISCSI_LOGIN_OK)
		return status;
	if (l->target && !l->tpgt_sent) {
		l->tpgt_sent = true;
		iscsi_text_add(out, "TargetPortalGroupTag", "%d", ISCSI_PORTAL_GROUP);
		if (l->access->alias)
			iscsi_text_add(out, "TargetAlias", "%s", l->access->alias);
	}
	status = take_text(l, req->flags, out);
	l->text_len = 0;
	if (status != ISCSI_LOGIN_OK)
		return status;
	iscsi_negotiate_settle(&l->negotiation, &l->params, out);
	if (!in_security(l))
		iscsi_negotiate_declare(&l->negotiation, &l->params, out);
	status = move_on(l, req->flags, ret);
	if (status == ISCSI_LOGIN_OK && out->failed)
		return ISCSI_LOGIN_RESOURCES;
	return status;
}

void iscsi_login_request(struct iscsi_login *l, const struct iscsi_login_bhs *req, const void *data,
			 size_t len, struct iscsi_text_out *out, struct iscsi_login_answer *ret)
{
	*ret = (struct iscsi_login_answer){0};
	ret->status = (uint16_t)request(l, req, data, len, out, ret);
	if (ret->status != ISCSI_LOGIN_OK) {
		set_state(l, LOGIN_FAILED);
		ret->done = false;
		ret->flags = 0;
		iscsi_text_free(out);
	}
}
