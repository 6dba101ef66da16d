/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Operational keys (RFC 7143 clause 13): one table says how each is negotiated. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "front/iscsi/iscsi.h"
#include "front/iscsi/text.h"

/** What we are willing to agree to. */
struct iscsi_offer {
	uint32_t max_recv_data_segment, max_burst, first_burst, max_outstanding_r2t;
	bool require_header_digest, require_data_digest;
};

struct iscsi_negotiation {
	const struct iscsi_offer *offer;
	bool discovery;
	uint32_t seen;	      /* bit i: row i of the table was negotiated in this login */
	uint32_t first_burst; /* FirstBurstLength, to be answered at the end of the text; 0: no */
	bool declared;	      /* our MaxRecvDataSegmentLength was sent */
};

/** The values in force before any negotiation. */
void iscsi_params_default(struct iscsi_params *p);
/**
 * Handles one pair of the initiator's, adds our reply to @out (now or when it is settled), and
 * keeps the result in @p. Returns 1; 0 when @key is not an operational one; -EPROTO when it may not
 * be negotiated again.
 * @full_feature: in a Text Request, where only MaxRecvDataSegmentLength may change.
 */
int iscsi_negotiate(struct iscsi_negotiation *n, struct iscsi_params *p, const char *key,
		    const char *value, bool full_feature, struct iscsi_text_out *out);
/** At the end of each text of a login: answers what hangs on other keys. */
void iscsi_negotiate_settle(struct iscsi_negotiation *n, struct iscsi_params *p,
			    struct iscsi_text_out *out);
/** Adds what we declare ourselves, once. */
void iscsi_negotiate_declare(struct iscsi_negotiation *n, struct iscsi_params *p,
			     struct iscsi_text_out *out);
/** Whether the digests that the target insists on were agreed. */
bool iscsi_negotiate_acceptable(const struct iscsi_negotiation *n, const struct iscsi_params *p);
