// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A row gives a key's kind of negotiation, its legal range, and where our own wish and the result
 * live. The reply follows from the kind alone (RFC 7143 6.2.1, 6.2.2):
 *
 *   LIST     the first element of the initiator's list that we take; "Reject" if there is none
 *   AND, OR  Yes/No, our wish joined with theirs
 *   MIN, MAX numbers, the smaller or larger of our wish and theirs; "Reject" outside the range
 *   DECLARE  theirs alone, no reply
 *   CONST    obsolete keys with the one answer that 13.25 leaves
 *   BURST    MIN, and no more than the MaxBurstLength that comes of the same text, before or behind
 *
 * FirstBurstLength must not exceed MaxBurstLength (13.14). When the initiator names both, the
 * answer says so; when it lowers MaxBurstLength and leaves the default of the other alone, there is
 * nothing to answer, and both sides have to take the smaller.
 *
 * A key that a discovery session has no use for is answered "Irrelevant".
 */
#include "front/iscsi/negotiate.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#define SEGMENT_MIN 512
#define SEGMENT_MAX 0xffffff

enum kind {
	KIND_LIST,
	KIND_AND,
	KIND_OR,
	KIND_MIN,
	KIND_MAX,
	KIND_DECLARE,
	KIND_CONST,
	KIND_BURST
};

#define NOWHERE	    UINT16_MAX
#define PARAM(f)    offsetof(struct iscsi_params, f)
#define OFFER(f)    offsetof(struct iscsi_offer, f)
#define NORMAL_ONLY true

struct key {
	const char *name;
	enum kind kind;
	uint32_t min, max;
	uint32_t ours;	  /* our wish, when it is no option */
	uint16_t offer;	  /* or where it is in struct iscsi_offer */
	uint16_t result;  /* in struct iscsi_params */
	bool normal_only; /* Irrelevant in discovery sessions */
	const char *text; /* CONST: the reply; LIST: the value besides None */
};

static const struct key keys[] = {
	{"HeaderDigest", KIND_LIST, 0, 0, 0, NOWHERE, PARAM(header_digest), false, "CRC32C"},
	{"DataDigest", KIND_LIST, 0, 0, 0, NOWHERE, PARAM(data_digest), false, "CRC32C"},
	{"MaxRecvDataSegmentLength", KIND_DECLARE, SEGMENT_MIN, SEGMENT_MAX, 0, NOWHERE,
	 PARAM(max_send_data_segment), false, NULL},
	{"MaxConnections", KIND_MIN, 1, 65535, 1, NOWHERE, NOWHERE, NORMAL_ONLY, NULL},
	{"InitialR2T", KIND_OR, 0, 1, 0, NOWHERE, PARAM(initial_r2t), NORMAL_ONLY, NULL},
	{"ImmediateData", KIND_AND, 0, 1, 1, NOWHERE, PARAM(immediate_data), NORMAL_ONLY, NULL},
	{"MaxBurstLength", KIND_MIN, SEGMENT_MIN, SEGMENT_MAX, 0, OFFER(max_burst),
	 PARAM(max_burst), NORMAL_ONLY, NULL},
	{"FirstBurstLength", KIND_BURST, SEGMENT_MIN, SEGMENT_MAX, 0, OFFER(first_burst),
	 PARAM(first_burst), NORMAL_ONLY, NULL},
	{"MaxOutstandingR2T", KIND_MIN, 1, 65535, 0, OFFER(max_outstanding_r2t),
	 PARAM(max_outstanding_r2t), NORMAL_ONLY, NULL},
	{"DefaultTime2Wait", KIND_MAX, 0, 3600, 0, NOWHERE, PARAM(time2wait), false, NULL},
	{"DefaultTime2Retain", KIND_MIN, 0, 3600, 0, NOWHERE, PARAM(time2retain), false, NULL},
	{"DataPDUInOrder", KIND_OR, 0, 1, 1, NOWHERE, NOWHERE, NORMAL_ONLY, NULL},
	{"DataSequenceInOrder", KIND_OR, 0, 1, 1, NOWHERE, NOWHERE, NORMAL_ONLY, NULL},
	{"ErrorRecoveryLevel", KIND_MIN, 0, 2, 0, NOWHERE, NOWHERE, false, NULL},
	{"iSCSIProtocolLevel", KIND_MIN, 0, 31, 1, NOWHERE, NOWHERE, false, NULL},
	{"TaskReporting", KIND_LIST, 0, 0, 0, NOWHERE, NOWHERE, NORMAL_ONLY, "RFC3720"},
	{"IFMarker", KIND_CONST, 0, 0, 0, NOWHERE, NOWHERE, false, "No"},
	{"OFMarker", KIND_CONST, 0, 0, 0, NOWHERE, NOWHERE, false, "No"},
	{"IFMarkInt", KIND_CONST, 0, 0, 0, NOWHERE, NOWHERE, false, "Reject"},
	{"OFMarkInt", KIND_CONST, 0, 0, 0, NOWHERE, NOWHERE, false, "Reject"},
};
#define N_KEYS (sizeof(keys) / sizeof(keys[0]))
static_assert(N_KEYS <= 32, "struct iscsi_negotiation has 32 bits");

void iscsi_params_default(struct iscsi_params *p)
{
	*p = (struct iscsi_params){
		.initial_r2t = true,
		.immediate_data = true,
		.max_recv_data_segment = 8192,
		.max_send_data_segment = 8192,
		.max_burst = 262144,
		.first_burst = 65536,
		.max_outstanding_r2t = 1,
		.time2wait = 2,
		.time2retain = 20,
	};
}

static void set_number(const struct key *k, struct iscsi_params *p, uint32_t v)
{
	if (k->result != NOWHERE)
		memcpy((char *)p + k->result, &v, sizeof(v));
}

static void set_bool(const struct key *k, struct iscsi_params *p, bool v)
{
	if (k->result != NOWHERE)
		memcpy((char *)p + k->result, &v, sizeof(v));
}

/* Whether the target insists on the digest of @k. */
static bool digest_required(const struct iscsi_negotiation *n, const struct key *k)
{
	return (k->result == PARAM(header_digest) && n->offer->require_header_digest) ||
	       (k->result == PARAM(data_digest) && n->offer->require_data_digest);
}

static void negotiate_list(struct iscsi_negotiation *n, struct iscsi_params *p, const struct key *k,
			   const char *value, struct iscsi_text_out *out)
{
	bool is_digest = k->result != NOWHERE;
	const char *item;
	size_t len;

	while (iscsi_text_list_next(&value, &item, &len)) {
		if (len == strlen(k->text) && memcmp(item, k->text, len) == 0) {
			set_bool(k, p, true);
			iscsi_text_add(out, k->name, "%s", k->text);
			return;
		}
		if (is_digest && len == 4 && memcmp(item, "None", 4) == 0 &&
		    !digest_required(n, k)) {
			set_bool(k, p, false);
			iscsi_text_add(out, k->name, "None");
			return;
		}
	}
	iscsi_text_add(out, k->name, "Reject");
}

static void negotiate_bool(struct iscsi_params *p, const struct key *k, const char *value,
			   struct iscsi_text_out *out)
{
	bool yes = strcmp(value, "Yes") == 0;

	if (!yes && strcmp(value, "No") != 0) {
		iscsi_text_add(out, k->name, "Reject");
		return;
	}
	yes = k->kind == KIND_AND ? yes && k->ours : yes || k->ours;
	set_bool(k, p, yes);
	iscsi_text_add(out, k->name, yes ? "Yes" : "No");
}

static void negotiate_number(struct iscsi_negotiation *n, struct iscsi_params *p,
			     const struct key *k, const char *value, struct iscsi_text_out *out)
{
	uint32_t ours = k->ours;
	uint64_t v;

	if (iscsi_text_number(value, &v) < 0 || v < k->min || v > k->max) {
		iscsi_text_add(out, k->name, "Reject");
		return;
	}
	if (k->offer != NOWHERE)
		memcpy(&ours, (const char *)n->offer + k->offer, sizeof(ours));
	if (k->kind == KIND_MAX || k->kind == KIND_DECLARE ? ours > v : ours < v)
		v = ours;
	if (k->kind == KIND_BURST) {
		n->first_burst = (uint32_t)v;
		return;
	}
	set_number(k, p, (uint32_t)v);
	if (k->kind != KIND_DECLARE)
		iscsi_text_add(out, k->name, "%" PRIu64, v);
}

static const struct key *find_key(const char *name)
{
	for (size_t i = 0; i < N_KEYS; i++)
		if (strcmp(keys[i].name, name) == 0)
			return &keys[i];
	return NULL;
}

int iscsi_negotiate(struct iscsi_negotiation *n, struct iscsi_params *p, const char *key,
		    const char *value, bool full_feature, struct iscsi_text_out *out)
{
	const struct key *k = find_key(key);
	uint32_t bit;

	if (!k)
		return 0;
	if (full_feature) {
		if (k->kind != KIND_DECLARE)
			return -EPROTO;
		negotiate_number(n, p, k, value, out);
		return 1;
	}
	bit = 1u << (k - keys);
	if (n->seen & bit)
		return -EPROTO;
	n->seen |= bit;
	if (k->normal_only && n->discovery) {
		iscsi_text_add(out, k->name, "Irrelevant");
		return 1;
	}
	switch (k->kind) {
	case KIND_LIST:
		negotiate_list(n, p, k, value, out);
		break;
	case KIND_AND:
	case KIND_OR:
		negotiate_bool(p, k, value, out);
		break;
	case KIND_MIN:
	case KIND_MAX:
	case KIND_DECLARE:
	case KIND_BURST:
		negotiate_number(n, p, k, value, out);
		break;
	case KIND_CONST:
		iscsi_text_add(out, k->name, "%s", k->text);
		break;
	}
	return 1;
}

void iscsi_negotiate_settle(struct iscsi_negotiation *n, struct iscsi_params *p,
			    struct iscsi_text_out *out)
{
	bool asked = n->first_burst;

	if (asked)
		p->first_burst = n->first_burst;
	n->first_burst = 0;
	if (p->first_burst > p->max_burst)
		p->first_burst = p->max_burst;
	if (asked)
		iscsi_text_add(out, "FirstBurstLength", "%" PRIu32, p->first_burst);
}

void iscsi_negotiate_declare(struct iscsi_negotiation *n, struct iscsi_params *p,
			     struct iscsi_text_out *out)
{
	if (n->declared)
		return;
	n->declared = true;
	p->max_recv_data_segment = n->offer->max_recv_data_segment;
	iscsi_text_add(out, "MaxRecvDataSegmentLength", "%" PRIu32, p->max_recv_data_segment);
}

bool iscsi_negotiate_acceptable(const struct iscsi_negotiation *n, const struct iscsi_params *p)
{
	return (!n->offer->require_header_digest || p->header_digest) &&
	       (!n->offer->require_data_digest || p->data_digest);
}
