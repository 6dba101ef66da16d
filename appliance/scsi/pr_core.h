/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Persistent reservations as a pure state machine (SPC-4 5.12, 6.15, 6.16): no I/O, no locks, no
 * clock. A caller copies the state, applies one PERSISTENT RESERVE OUT to the copy, makes the copy
 * durable when it has to be, and only then puts it in the place of the old one; so a request that
 * is refused, or a state that cannot be written, has changed nothing.
 *
 * A registration belongs to an I_T nexus, named by the initiator port's TransportID, the target
 * device and the relative identifier of the target port. It outlives sessions.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PR_TRANSPORT_ID_MAX  256
#define PR_TARGET_MAX	     224
#define PR_REGISTRATIONS_MAX 512 /* of one logical unit */

/** SPC-4 table 52: the TYPE field. */
enum pr_type {
	PR_TYPE_NONE = 0x0,
	PR_TYPE_WE = 0x1,    /* Write Exclusive */
	PR_TYPE_EA = 0x3,    /* Exclusive Access */
	PR_TYPE_WE_RO = 0x5, /* Write Exclusive - Registrants Only */
	PR_TYPE_EA_RO = 0x6, /* Exclusive Access - Registrants Only */
	PR_TYPE_WE_AR = 0x7, /* Write Exclusive - All Registrants */
	PR_TYPE_EA_AR = 0x8, /* Exclusive Access - All Registrants */
};

/** Service actions of PERSISTENT RESERVE OUT (SPC-4 table 192). */
enum pr_action {
	PR_REGISTER = 0x00,
	PR_RESERVE = 0x01,
	PR_RELEASE = 0x02,
	PR_CLEAR = 0x03,
	PR_PREEMPT = 0x04,
	PR_PREEMPT_AND_ABORT = 0x05,
	PR_REGISTER_AND_IGNORE = 0x06,
	PR_REGISTER_AND_MOVE = 0x07,
	PR_ACTION_COUNT
};

struct pr_nexus {
	char target[PR_TARGET_MAX]; /* SCSI device name of the target */
	uint16_t rel_port;
	uint16_t transport_id_len;
	uint8_t transport_id[PR_TRANSPORT_ID_MAX]; /* in the form of pr_transport_id_parse() */
};

struct pr_registration {
	uint64_t key; /* never 0 */
	struct pr_nexus nexus;
};

struct pr_state {
	uint32_t generation; /* PRGENERATION */
	bool aptpl;	     /* the last valid APTPL bit: survives loss of power */
	enum pr_type type;   /* PR_TYPE_NONE: not reserved */
	size_t holder;	     /* index in regs; meaningless for all-registrants types and NONE */
	struct pr_registration *regs; /* malloc'ed, in order of registration */
	size_t n_regs, cap;
};

/** One PERSISTENT RESERVE OUT, decoded. */
struct pr_request {
	enum pr_action action;
	const struct pr_nexus *nexus; /* that it came through */
	uint16_t n_ports;	      /* of its target; for ALL_TG_PT */
	uint8_t scope, type;
	uint64_t key, sa_key;
	bool aptpl, all_tg_pt, spec_i_pt, unreg;
	const struct pr_nexus
		*others; /* SPEC_I_PT: the listed nexuses; REGISTER AND MOVE: the one */
	size_t n_others;
};

enum pr_verdict {
	PR_OK,
	PR_CONFLICT,	      /* RESERVATION CONFLICT status */
	PR_BAD_SCOPE_OR_TYPE, /* INVALID FIELD IN CDB, byte 2 */
	PR_BAD_SA_KEY,	      /* INVALID FIELD IN PARAMETER LIST, byte 8 */
	PR_BAD_SPEC_I_PT,     /* INVALID FIELD IN PARAMETER LIST, byte 20 bit 3 */
	PR_BAD_TRANSPORT_ID,  /* INVALID FIELD IN PARAMETER LIST, byte 24 */
	PR_BAD_RELEASE,	      /* INVALID RELEASE OF PERSISTENT RESERVATION */
	PR_NO_RESOURCES,      /* INSUFFICIENT REGISTRATION RESOURCES */
	PR_NO_MEMORY,
};

/** What a nexus, other than the one that asked, is to be told. */
enum pr_notice {
	PR_NOTICE_NONE,
	PR_NOTICE_RESERVATIONS_PREEMPTED, /* 2A/03 */
	PR_NOTICE_RESERVATIONS_RELEASED,  /* 2A/04 */
	PR_NOTICE_REGISTRATIONS_PREEMPTED /* 2A/05 */
};

struct pr_effect {
	struct pr_nexus nexus;
	enum pr_notice notice;
	bool abort; /* PREEMPT AND ABORT: end its commands */
};

struct pr_effects {
	struct pr_effect *v; /* malloc'ed; pr_effects_free() */
	size_t n;
};

void pr_state_init(struct pr_state *st);
void pr_state_free(struct pr_state *st);
/** Makes @dst, which holds nothing, a copy with room for @extra more registrations. -ENOMEM. */
int pr_state_copy(struct pr_state *dst, const struct pr_state *src, size_t extra);
bool pr_state_equal(const struct pr_state *a, const struct pr_state *b);

/**
 * Applies @rq to @st. On anything but PR_OK the contents of @st are undefined: throw the copy away.
 * @ret_effects is filled (free it) only with PR_OK.
 */
enum pr_verdict pr_apply(struct pr_state *st, const struct pr_request *rq,
			 struct pr_effects *ret_effects);
void pr_effects_free(struct pr_effects *e);

/** The registration of @nexus, or NULL. O(n). */
const struct pr_registration *pr_find(const struct pr_state *st, const struct pr_nexus *nexus);
/** Whether @reg (of @st) is a persistent reservation holder (SPC-4 5.12.10). */
bool pr_is_holder(const struct pr_state *st, const struct pr_registration *reg);
/** Equal for equal ones. */
uint64_t pr_nexus_hash(const struct pr_nexus *n);
bool pr_nexus_equal(const struct pr_nexus *a, const struct pr_nexus *b);
/** Registers out of the order of commands, when a saved state is loaded. -EINVAL, -ENOMEM. */
int pr_state_add(struct pr_state *st, const struct pr_nexus *nexus, uint64_t key);

static inline bool pr_type_valid(uint8_t type)
{
	return type == PR_TYPE_WE || type == PR_TYPE_EA ||
	       (type >= PR_TYPE_WE_RO && type <= PR_TYPE_EA_AR);
}
static inline bool pr_type_all_registrants(enum pr_type t)
{
	return t == PR_TYPE_WE_AR || t == PR_TYPE_EA_AR;
}
static inline bool pr_type_registrants_only(enum pr_type t)
{
	return t == PR_TYPE_WE_RO || t == PR_TYPE_EA_RO;
}
static inline bool pr_type_write_exclusive(enum pr_type t)
{
	return t == PR_TYPE_WE || t == PR_TYPE_WE_RO || t == PR_TYPE_WE_AR;
}

/**
 * The columns of SBC-3 table 13 and SPC-4 table 66 that exist: what a command does to the medium,
 * as far as reservations care.
 */
enum pr_class {
	PR_CLASS_NONE,	/* allowed to everybody: "A A A A A" */
	PR_CLASS_READ,	/* "A C A A C" */
	PR_CLASS_WRITE, /* "C C A C C" */
};

/**
 * Whether @st lets a nexus do a command of @cls. @registered: it has a registration; @holder: and
 * holds the reservation.
 */
bool pr_allows(const struct pr_state *st, enum pr_class cls, bool registered, bool holder);

/**
 * Brings the TransportID at @buf (SPC-4 7.6.4; at most @len bytes) into the one form in which they
 * are compared: iSCSI names in lower case, padding zeros, shortest length. @ret->target and
 * rel_port are not touched. *@ret_used: bytes it occupies in @buf. *@ret_any_port: an iSCSI name
 * without an ISID (TPID FORMAT 00b), which stands for every port of that initiator.
 * Returns 0 or -EINVAL.
 */
int pr_transport_id_parse(const uint8_t *buf, size_t len, struct pr_nexus *ret, size_t *ret_used,
			  bool *ret_any_port);
