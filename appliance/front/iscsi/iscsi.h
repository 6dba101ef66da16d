/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The iSCSI target (RFC 7143, error recovery level 0, one connection a session).
 *
 *   iscsi_server   portals (listeners), targets by iSCSI name, sessions; any number in a process
 *   target         an iSCSI name that shows a struct scsi_target, and who may log in to it
 *   session        an initiator port logged in to a target (an I_T nexus), or a discovery session
 *
 * Threads: functions marked "control" block for a short while (a round trip to a reactor) and are
 * called from a thread that is no reactor; the others from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metric.h"
#include "base/reason.h"
#include "event/reactor.h"
#include "scsi/scsi.h"

#define ISCSI_NAME_MAX	   223 /* bytes of an iSCSI name (RFC 7143 4.2.7.1) */
#define ISCSI_SECRET_MIN   12  /* a CHAP secret has at least 96 bits (RFC 7143 12.1.3) */
#define ISCSI_SECRET_MAX   255
#define ISCSI_USER_MAX	   255
#define ISCSI_ADDRESS_MAX  64
#define ISCSI_PORTAL_GROUP 1 /* the one target portal group tag: all portals reach all LUNs */
#define ISCSI_PORTALS_MAX  64
/** What a session holds outside of the pools of I/O buffers: its structures and queues, bytes. */
#define ISCSI_SESSION_BYTES (64u << 10)
#define ISCSI_RELATIVE_PORT 1 /* relative target port identifier of that group's target port */

struct budget;
struct iscsi_server;

/** Limits and times; a field that is 0 means its default. */
struct iscsi_server_options {
	struct reactor_set *reactors;	/* connections are spread over them; outlives the server */
	unsigned max_sessions;		/* in all; default 1024 */
	unsigned max_sessions_target;	/* of one target; default 256 */
	unsigned max_unauth_address;	/* connections of one address that have not logged in; 16 */
	unsigned max_unauth;		/* of all addresses; 256 */
	unsigned login_timeout_ms;	/* from accept to full feature phase; 15000 */
	unsigned nop_interval_ms;	/* silence after which we ask "still there?"; 30000 */
	unsigned nop_timeout_ms;	/* and how long we wait for the answer; 60000 */
	unsigned queue_depth;		/* commands of a session in flight, 2..1024; default 128 */
	uint32_t max_out_bytes;		/* write buffers of one session at most; default 16 MiB */
	uint32_t max_recv_data_segment; /* what we declare, 512..; default 256 KiB */
	uint32_t first_burst;		/* 512..; default 256 KiB */
	uint32_t max_burst;		/* 512..; default 1 MiB */
	unsigned max_outstanding_r2t;	/* 1..; default 8 */
	struct budget
		*budget; /* of memory, that has room for a session or refuses it; NULL: none */
};

/** Makes a server without portals or targets. -ENOMEM, -EINVAL. */
int iscsi_server_create(const struct iscsi_server_options *opt, struct iscsi_server **ret_srv);
/**
 * Control. Stops accepting, asks initiators to log out (async message 1, then 2), lets commands in
 * flight finish, and returns when no connection is left: after @grace_ms at most they are dropped.
 * 0: nobody is asked, as before a restart, which initiators are to take for a break of the line.
 */
void iscsi_server_shutdown(struct iscsi_server *srv, unsigned grace_ms);
/** Control. After iscsi_server_shutdown(); while the reactors still run. NULL is fine. */
void iscsi_server_destroy(struct iscsi_server *srv);

/* --- portals --- */

/**
 * Control. Listens on "ADDR:PORT" or "[V6]:PORT" (numeric; wildcards 0.0.0.0 and [::], port 0 for
 * one that the kernel chooses). On success @ret_bound (may be NULL) has the address as bound.
 * Errors: -EEXIST, -ENOSPC (ISCSI_PORTALS_MAX), those of listener_open(); explained in @why.
 */
int iscsi_server_add_portal(struct iscsi_server *srv, const char *address,
			    char ret_bound[ISCSI_ADDRESS_MAX], struct reason *why);
/** Control. By the address as given or as bound; its connections live on. -ENOENT. */
int iscsi_server_remove_portal(struct iscsi_server *srv, const char *address);
/** Copies the addresses as bound of at most @n portals; returns how many there are. */
size_t iscsi_server_list_portals(struct iscsi_server *srv, char (*ret_addr)[ISCSI_ADDRESS_MAX],
				 size_t n);

/* --- targets --- */

struct iscsi_chap_user {
	const char *name;   /* 1..ISCSI_USER_MAX bytes */
	const char *secret; /* ISCSI_SECRET_MIN..ISCSI_SECRET_MAX bytes */
};

/** Algorithms of CHAP, by their numbers (RFC 7143 12.1.3 and IANA). */
#define ISCSI_CHAP_ALLOW_MD5	  (1u << 5)
#define ISCSI_CHAP_ALLOW_SHA1	  (1u << 6)
#define ISCSI_CHAP_ALLOW_SHA256	  (1u << 7)
#define ISCSI_CHAP_ALLOW_SHA3_256 (1u << 8)

/** Everything is copied; the scsi_target gets a reference. */
struct iscsi_target_config {
	const char *name;	  /* "iqn.…", "eui.…" or "naa.…"; see iscsi_name_check() */
	const char *alias;	  /* TargetAlias; may be NULL */
	struct scsi_target *scsi; /* its LU map is the caller's to change at any time */
	/* Initiator names that may log in and discover; "*" and "?" match as in a shell. None: all.
	 */
	const char *const *acl;
	size_t n_acl;
	/* CHAP: who may log in. None: no authentication is asked for. */
	const struct iscsi_chap_user *users;
	size_t n_users;
	/* Mutual CHAP: how we answer when the initiator challenges us. NULL: login is then refused.
	 */
	const struct iscsi_chap_user *self;
	unsigned algorithms; /* ISCSI_CHAP_ALLOW_*; 0: all. Others are not agreed to. */
	bool require_header_digest, require_data_digest;
};

/**
 * Whether @name is an iSCSI name in its normal form (RFC 7143 4.2.7, RFC 3722: lower case letters,
 * digits, "-.:"; iqn.YYYY-MM.naming-authority, eui.16 hex, naa.16 or 32 hex). 0 or -EINVAL.
 */
int iscsi_name_check(const char *name, struct reason *why);

/** -EEXIST, -EINVAL (name, secrets: @why says which), -ENOMEM. Initiators can log in at once. */
int iscsi_server_add_target(struct iscsi_server *srv, const struct iscsi_target_config *cfg,
			    struct reason *why);
/**
 * Replaces who may log in, alias and digests of cfg->name (cfg->scsi must be the same). Sessions
 * that the new ACL would not let in are dropped; others stay. -ENOENT, -EINVAL, -ENOMEM.
 */
int iscsi_server_update_target(struct iscsi_server *srv, const struct iscsi_target_config *cfg,
			       struct reason *why);
/** Control. Drops its sessions (async message 2 first), returns when they are gone. -ENOENT. */
int iscsi_server_remove_target(struct iscsi_server *srv, const char *name);
/** How many sessions @name has now; 0 too when it is not there. */
unsigned iscsi_server_target_sessions(struct iscsi_server *srv, const char *name);

/** Who may use discovery sessions. @users none: everybody (what they see is filtered by the ACLs).
 * @algorithms: as in iscsi_target_config. */
int iscsi_server_set_discovery_auth(struct iscsi_server *srv, const struct iscsi_chap_user *users,
				    size_t n_users, const struct iscsi_chap_user *self,
				    unsigned algorithms, struct reason *why);

/* --- sessions --- */

/** The result of negotiation, bytes and counts. */
struct iscsi_params {
	bool header_digest, data_digest; /* CRC32C; else none */
	bool initial_r2t, immediate_data;
	uint32_t max_recv_data_segment; /* ours */
	uint32_t max_send_data_segment; /* the initiator's MaxRecvDataSegmentLength */
	uint32_t max_burst, first_burst;
	uint32_t max_outstanding_r2t;
	uint32_t time2wait, time2retain; /* s */
};

struct iscsi_session_info {
	uint64_t id; /* unique in the process */
	char initiator[ISCSI_NAME_MAX + 1];
	char initiator_alias[ISCSI_NAME_MAX + 1];
	char target[ISCSI_NAME_MAX + 1]; /* "" for a discovery session */
	char address[ISCSI_ADDRESS_MAX]; /* the initiator's */
	char portal[ISCSI_ADDRESS_MAX];	 /* ours */
	char user[ISCSI_USER_MAX + 1];	 /* CHAP name, or "" */
	uint8_t isid[6];
	uint16_t tsih, cid;
	uint64_t since_ns; /* CLOCK_MONOTONIC */
	unsigned reactor;
	struct iscsi_params params;
	uint64_t commands, inflight, read_bytes, write_bytes, rx_pdus, tx_pdus;
	/* Time of commands with the socket: from the header until the command ran (its turn, its
	 * data), and from its end until the answer was with the kernel. */
	uint64_t receive_ns, send_ns;
	/* I/O on the LUNs by class (enum lun_class), with upper bounds of quantiles of latency */
	struct {
		uint64_t ops, bytes, errors, p50_us, p99_us;
	} io[LUN_CLASS_COUNT];
};

/** malloc'ed array, free() it; sorted by id. -ENOMEM. */
int iscsi_server_list_sessions(struct iscsi_server *srv, struct iscsi_session_info **ret_infos,
			       size_t *ret_n);
/** Drops session @id (async message 2, then the connection). -ENOENT. Does not wait. */
int iscsi_server_kick(struct iscsi_server *srv, uint64_t id);

/* --- counters --- */

#define ISCSI_COUNTERS(X)                                                                    \
	X(connections, "Connections accepted")                                               \
	X(refused, "Connections closed at once: a limit on connections was reached")         \
	X(logins, "Sessions that reached full feature phase")                                \
	X(login_failures, "Logins refused (names, authentication, negotiation, limits)")     \
	X(auth_failures, "Logins refused by CHAP")                                           \
	X(login_timeouts, "Connections dropped before they had logged in: too slow")         \
	X(nop_timeouts, "Sessions dropped: the initiator did not answer")                    \
	X(data_timeouts, "Sessions dropped: data, or a command before others, did not come") \
	X(reinstatements, "Sessions replaced by a new login of the same initiator port")     \
	X(protocol_errors, "Connections dropped: malformed or unexpected PDUs")              \
	X(digest_errors, "PDUs whose CRC32C was wrong")                                      \
	X(rejects, "Reject PDUs sent")                                                       \
	X(commands, "SCSI commands")                                                         \
	X(tmfs, "Task management requests")                                                  \
	X(rx_bytes, "Bytes of PDUs received")                                                \
	X(tx_bytes, "Bytes of PDUs sent")

struct iscsi_counters {
#define X(name, help) metric_counter name;
	ISCSI_COUNTERS(X)
#undef X
};

/** Any thread; lives as long as @srv. */
const struct iscsi_counters *iscsi_server_counters(const struct iscsi_server *srv);
/** Connections now: those that have logged in (sessions), and those that have not yet. */
void iscsi_server_gauges(struct iscsi_server *srv, unsigned *ret_sessions, unsigned *ret_unauth);
