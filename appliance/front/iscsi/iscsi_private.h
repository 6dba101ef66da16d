/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of this folder share.
 *
 *   server ── portals ── listener          one lock (server->lock) for the lists, names and counts
 *     │ └──── targets ── access            access: who may log in; immutable, counted, swapped
 *     └────── conns ──── tasks             a conn and all in it belong to one reactor's thread
 *
 * With one connection a session and ERL 0, a session lives and dies with its connection, so one
 * struct holds both. It is referenced by the server's list, by its stream, and by every message
 * and wait that names it.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/list.h"
#include "base/lock.h"
#include "event/stream.h"
#include "front/iscsi/auth.h"
#include "front/iscsi/iscsi.h"
#include "front/iscsi/iscsi_spec.h"
#include "front/iscsi/negotiate.h"
#include "front/iscsi/text.h"

#define ISCSI_IMMEDIATE_MAX 32	/* immediate requests of a session in progress */
#define ISCSI_PDUS_MAX	    256 /* outgoing PDUs of a connection beside those of its tasks */
#define ISCSI_PDUS_MANY                                                                           \
	128			    /* with so many, no request is taken: the rest is for answers \
				       to requests that waited for one before them */
#define ISCSI_EARLY_MAX	 (1u << 20) /* bytes of requests but SCSI commands before their turn */
#define ISCSI_LOGIN_DATA 8192u	    /* MaxRecvDataSegmentLength before it is negotiated */

struct iscsi_conn;
struct iscsi_task;

/* --- server --- */

struct iscsi_user {
	char *name, *secret;
};

/* Who may log in: immutable once made. */
struct iscsi_access {
	_Atomic unsigned refs;
	char *alias;
	char **acl;
	size_t n_acl;
	struct iscsi_user *users;
	size_t n_users;
	struct iscsi_user self; /* name NULL: none */
	unsigned algorithms;	/* ISCSI_CHAP_ALLOW_*; 0: all */
	bool require_header_digest, require_data_digest;
};

struct iscsi_target {
	char name[ISCSI_NAME_MAX + 1]; /* first: the key of server->by_name */
	struct scsi_target *scsi;
	_Atomic unsigned refs;
	/* under server->lock */
	struct list_node link;
	struct iscsi_access *access;
	unsigned sessions;
	bool removed;
};

struct iscsi_portal {
	struct iscsi_server *srv;
	struct reactor *reactor;
	struct listener *listener; /* that thread's */
	char given[ISCSI_ADDRESS_MAX];
	char bound[ISCSI_ADDRESS_MAX]; /* under server->lock; "" until it listens */
	struct list_node link;	       /* server->portals, under server->lock */
};

struct iscsi_server {
	struct iscsi_server_options opt;
	struct iscsi_offer offer;
	struct iscsi_counters counters;
	struct mutex lock;
	pthread_cond_t changed; /* a session ended, a connection went */
	/* under lock */
	struct list_node portals, targets, conns;
	void *by_name; /* search tree of the targets */
	unsigned n_portals, n_conns, n_unauth, n_sessions;
	struct iscsi_access *discovery;
	uint64_t next_id;
	uint16_t next_tsih;
	bool closing;
};

struct iscsi_access *iscsi_access_get(struct iscsi_access *a);
void iscsi_access_put(struct iscsi_access *a); /* NULL is fine */
bool iscsi_access_allows(const struct iscsi_access *a, const char *initiator);
/** The secret of @user, or NULL. */
const char *iscsi_access_secret(const struct iscsi_access *a, const char *user);
struct iscsi_target *iscsi_target_get(struct iscsi_target *t);
void iscsi_target_put(struct iscsi_target *t); /* NULL is fine */
/** References to the target called @name and its access, or NULL. */
struct iscsi_target *iscsi_server_find_target(struct iscsi_server *srv, const char *name,
					      struct iscsi_access **ret_access);
struct iscsi_access *iscsi_server_discovery_access(struct iscsi_server *srv);
/**
 * Adds TargetName and TargetAddress of what @initiator may see: all, or @only. @local is the
 * connection's own address, said for portals that listen on a wildcard.
 */
void iscsi_server_send_targets(struct iscsi_server *srv, const char *initiator, const char *only,
			       const struct sockaddr_storage *local, struct iscsi_text_out *out);
/** Whether @name equals @pattern with its "*" and "?". */
bool iscsi_pattern_match(const char *pattern, const char *name);
/** Counts a new connection in and lists it; false when a limit forbids it or the server closes. */
bool iscsi_server_enter(struct iscsi_server *srv, struct iscsi_conn *c);

/* --- login --- */

/*
 * START -> SECURITY | OPERATIONAL (nobody asks for authentication)
 * SECURITY -> CHAP_ALGORITHM -> CHAP_RESPONSE -> AUTHENTICATED;  SECURITY -> AUTHENTICATED
 * AUTHENTICATED -> OPERATIONAL | DONE;  OPERATIONAL -> DONE;  any -> FAILED
 */
enum iscsi_login_state {
	LOGIN_START,
	LOGIN_SECURITY,	      /* no method agreed yet */
	LOGIN_CHAP_ALGORITHM, /* CHAP agreed: CHAP_A to come */
	LOGIN_CHAP_RESPONSE,  /* challenge sent: CHAP_N, CHAP_R to come */
	LOGIN_AUTHENTICATED,  /* still in the security stage, nothing left to do there */
	LOGIN_OPERATIONAL,
	LOGIN_DONE,
	LOGIN_FAILED,
};

struct iscsi_login {
	struct iscsi_server *srv;
	enum iscsi_login_state state;
	/* what the requests say */
	bool discovery;
	char initiator[ISCSI_NAME_MAX + 1], alias[ISCSI_NAME_MAX + 1];
	char user[ISCSI_USER_MAX + 1]; /* once authenticated */
	uint8_t isid[6];
	uint16_t tsih, cid;
	/* what it is about */
	struct iscsi_target *target; /* NULL: discovery */
	struct iscsi_access *access;
	struct iscsi_offer offer;
	struct iscsi_negotiation negotiation;
	struct iscsi_params params;
	struct iscsi_chap chap;
	bool tpgt_sent;
	/* text of a request that comes in several PDUs */
	char *text; /* room for one byte more */
	size_t text_len;
};

/** What to answer to one Login Request. */
struct iscsi_login_answer {
	uint16_t status; /* enum iscsi_login_status */
	uint8_t flags;	 /* T, CSG, NSG */
	bool done;	 /* full feature phase follows */
};

struct iscsi_login *iscsi_login_new(struct iscsi_server *srv);
void iscsi_login_free(struct iscsi_login *l); /* NULL is fine */
/** One Login Request with @len bytes of @data; @out gets the text of the reply. */
void iscsi_login_request(struct iscsi_login *l, const struct iscsi_login_bhs *req, const void *data,
			 size_t len, struct iscsi_text_out *out, struct iscsi_login_answer *ret);

/* --- connection and session --- */

/*
 * LOGIN -> FULL -> CLOSING -> DRAINING -> GONE;  LOGIN -> CLOSING
 */
enum iscsi_conn_state {
	CONN_LOGIN,
	CONN_FULL,
	CONN_CLOSING,  /* the stream is being closed; nothing is sent or obeyed any more */
	CONN_DRAINING, /* the stream is gone; commands are ending */
	CONN_GONE,
};

enum iscsi_rx_state {
	RX_HEADER,
	RX_DATA,    /* into a buffer, by the stream */
	RX_SKIP,    /* bytes that nobody wants */
	RX_TRAILER, /* padding and data digest */
};

enum iscsi_pause { PAUSE_TX = 1, PAUSE_MEMORY = 2, PAUSE_LOGIN = 4 };

/* What other threads ask a connection for. */
enum iscsi_ctl {
	CTL_DROP = 1 << 0,	 /* async message 2, then close */
	CTL_ASK_LOGOUT = 1 << 1, /* async message 1 */
	CTL_LUN_EVENTS = 1 << 2, /* async messages 0: conn->lun_events */
	CTL_KILL = 1 << 3,	 /* close at once */
};

/* One PDU on its way out. */
struct iscsi_pdu {
	struct stream_tx tx;
	struct iscsi_bhs bhs;
	uint8_t header_digest[ISCSI_DIGEST_LEN]; /* right behind bhs: one piece on the wire */
	uint8_t trailer[3 + ISCSI_DIGEST_LEN];
	struct iscsi_conn *conn;
	void (*sent)(struct iscsi_pdu *p); /* the bytes and the PDU are ours again */
	struct iscsi_task *task;
	void *buf;	       /* free()d when sent */
	struct list_node link; /* conn->free_pdus */
};

enum iscsi_task_state {
	TASK_FREE,
	TASK_NEW,    /* its PDU is being received, or its CmdSN has not come round */
	TASK_MEMORY, /* waits for a buffer for its data-out */
	TASK_DATA,   /* data-out is coming */
	TASK_READY,  /* waits until reads in progress leave room */
	TASK_RUN,    /* with the device server */
	TASK_SEND,   /* data-in and status are being sent */
};

struct iscsi_task {
	struct scsi_cmd cmd;
	struct iscsi_conn *conn;
	enum iscsi_task_state state;
	struct list_node link; /* the queue that goes with the state */
	struct list_node live; /* conn->live */
	struct iscsi_task *hash_next;
	struct iscsi_bhs bhs; /* the request; its cdb is cmd.cdb unless xcdb */
	uint8_t *xcdb;	      /* extended CDB; malloc'ed */
	void *buf;	      /* data of a request that is no SCSI command; malloc'ed */
	uint64_t mark_ns;     /* when its header came, its answer was ready: the reactor's clock */
	uint32_t itt, cmdsn;
	uint32_t edtl, read_edtl; /* expected lengths: of the one direction or of write, and of
				     the read of a bidirectional command */
	bool immediate, in_window, hashed, bidi;
	bool delivered; /* its CmdSN has come */
	bool aborted;	/* ends without a response, or with TASK ABORTED when @tas */
	bool tas;
	bool abort_told;    /* the device server was asked to end it */
	bool refused;	    /* no memory: TASK SET FULL */
	uint16_t fail;	    /* ASC, ASCQ of an iSCSI condition (11.4.7.2); 0: none */
	bool skip;	    /* a CmdSN that was given up; nothing is to be done */
	uint32_t abort_seq; /* of the abort that hit it first */
	/* data-out: always in order (DataPDUInOrder, DataSequenceInOrder) */
	uint32_t out_want;    /* bytes the command takes */
	uint32_t out_got;     /* bytes received so far */
	uint32_t out_charged; /* in conn->out_bytes */
	bool unsolicited;     /* until a Data-Out with F */
	uint32_t datasn;      /* next of the current sequence */
	uint32_t r2t_next;    /* offset of the next R2T to send */
	uint32_t r2t_base;    /* offset of the first */
	uint32_t r2tsn;	      /* of the next to send */
	uint32_t r2t_done;    /* how many have been answered in full */
	uint32_t ttt_base;
	/* data-in */
	uint32_t in_send; /* bytes to send */
	uint32_t in_sent;
	uint32_t in_charged; /* in conn->in_bytes */
	uint32_t in_datasn;
	unsigned pdus_out; /* PDUs with the stream */
	bool status_sent;
	struct iscsi_pdu rsp; /* the last PDU: status, maybe with data-in */
	uint8_t sense[2 + SCSI_SENSE_MAX];
};

/* Somebody waits until the tasks that an abort hit are gone. */
struct iscsi_abort {
	struct list_node link; /* conn->aborts */
	struct iscsi_conn *conn;
	struct reactor_msg msg;
	uint32_t seq;
	struct scsi_lu *lu; /* only compared; NULL: all */
	bool one;	    /* only the task of @itt */
	uint32_t itt;
	bool tas;
	void (*done)(struct iscsi_abort *a); /* once, never from within iscsi_abort_mark() */
	void (*fin)(void *arg);		     /* of iscsi_nexus_abort_all() */
	void *arg;
};

struct iscsi_conn {
	/* --- constant --- */
	struct iscsi_server *srv;
	struct reactor *reactor;
	uint64_t id;
	uint64_t since_ns;
	struct sockaddr_storage peer, local;
	_Atomic unsigned refs;

	/* --- under server->lock --- */
	struct list_node link;	  /* server->conns */
	struct list_node waiters; /* conns whose login waits for our end */
	struct list_node wait_link;
	bool unauth, listed; /* counted in n_unauth; is a session that can be found */
	char initiator[ISCSI_NAME_MAX + 1], alias[ISCSI_NAME_MAX + 1];
	char user[ISCSI_USER_MAX + 1];
	uint8_t isid[6];
	uint16_t tsih, cid;
	struct iscsi_target *target; /* of the session; NULL: discovery */
	struct iscsi_params params;  /* written by the reactor's thread under the lock */

	/* --- any thread --- */
	_Atomic unsigned ctl;
	_Atomic uint64_t lun_events[SCSI_EVENT_COUNT][SCSI_LUNS_MAX / 64]; /* a bit a LUN */
	struct reactor_msg ctl_msg, start_msg, login_msg;
	struct lun_counters io; /* of the session, on all its LUNs */
	metric_counter n_commands, n_inflight, n_read, n_written, n_rx_pdus, n_tx_pdus;
	metric_counter n_receive_ns, n_send_ns; /* as iscsi_session_info has them */

	/* --- the reactor's thread --- */
	enum iscsi_conn_state state;
	int fd; /* until the stream is opened */
	struct stream *stream;
	struct iscsi_login *login;	  /* until full feature phase */
	struct iscsi_login_bhs login_bhs; /* answered when the old session has gone */
	struct iscsi_login_answer login_answer;
	struct iscsi_text_out login_text;
	struct reactor_timer timer; /* login time, then keep-alive */
	uint64_t rx_ns;		    /* when we last heard of the peer */
	uint64_t data_ns; /* when data-out was last asked for or came, or a CmdSN missed */
	bool ping_out, header_digest, data_digest;
	bool aborting; /* tasks in progress were aborted: tell the device server */
	unsigned paused;

	/* receiving */
	enum iscsi_rx_state rx;
	struct iscsi_bhs bhs;
	uint32_t rx_left;	    /* bytes of data segment still to skip */
	uint8_t *rx_data;	    /* where the data segment went, or NULL */
	void *rx_buf;		    /* malloc'ed rx_data of a PDU that is no data-out */
	struct iscsi_task *rx_task; /* the command or the task of the Data-Out */
	bool rx_drop;		    /* nothing is to be done with this PDU */
	bool rx_bad_digest;

	/* sequence numbers: 4.2.2 */
	uint32_t statsn, exp_cmdsn, window_used, n_immediate;

	/* tasks */
	struct scsi_nexus nexus;
	bool attached;
	struct list_node live, free_tasks, queued, memory_wait, ready, sending, aborts;
	struct iscsi_task **hash; /* by ITT */
	unsigned hash_mask, n_tasks;
	uint64_t out_bytes, in_bytes;
	unsigned n_data; /* tasks that hold a buffer and wait for data-out */
	uint32_t ttt_gen, abort_seq;
	struct iobuf_waiter mem_waiter;
	struct reactor_task pump;

	/* text response that is sent piece by piece */
	struct iscsi_text_out text;
	size_t text_pos;
	uint32_t text_ttt;
	char *text_in;
	size_t text_in_len;

	/* sending */
	struct list_node free_pdus;
	unsigned n_pdus, pdus_busy;
};

struct iscsi_conn *iscsi_conn_get(struct iscsi_conn *c);
void iscsi_conn_put(struct iscsi_conn *c);
/** Any thread. */
void iscsi_conn_ctl(struct iscsi_conn *c, enum iscsi_ctl what);
/** On the accepting thread; takes @fd over. -ENOMEM, -EMFILE: a limit was reached. */
int iscsi_conn_start(struct iscsi_server *srv, struct reactor *r, int fd,
		     const struct sockaddr_storage *peer);
/** Ends it; when @flush, what is queued is sent first. */
void iscsi_conn_close(struct iscsi_conn *c, bool flush);
/** A protocol error: counted, said, closed. Returns -EPROTO. */
int iscsi_conn_fail(struct iscsi_conn *c, const char *what);
void iscsi_conn_pause(struct iscsi_conn *c, enum iscsi_pause why);
void iscsi_conn_resume(struct iscsi_conn *c, enum iscsi_pause why);
/** Requests are taken again if what is being sent allows it. */
void iscsi_conn_sends_less(struct iscsi_conn *c);
/** Whether PDUs may be sent. */
bool iscsi_conn_open(const struct iscsi_conn *c);
/** A PDU from the connection's own stock, header zeroed; NULL when too many are on their way. */
struct iscsi_pdu *iscsi_pdu_get(struct iscsi_conn *c, enum iscsi_opcode op);
/** A PDU of that stock is not used (any more). */
void iscsi_pdu_put(struct iscsi_pdu *p);
/** The same without the limit on PDUs in flight; NULL when there is no memory. */
struct iscsi_pdu *iscsi_pdu_get_always(struct iscsi_conn *c, enum iscsi_opcode op);
/** Sends with @len bytes of @data, which stay untouched until p->sent(). Adds lengths and digests.
 */
void iscsi_pdu_send(struct iscsi_pdu *p, const void *data, uint32_t len);
/** Fills StatSN (and advances it when @status), ExpCmdSN, MaxCmdSN. */
void iscsi_conn_stamp(struct iscsi_conn *c, void *bhs, bool status);
void iscsi_conn_reject(struct iscsi_conn *c, enum iscsi_reject reason, const void *bhs);
uint32_t iscsi_crc32c(const void *data, size_t len);
/** Least significant byte first, as the examples of RFC 7143 A.4 show. */
void iscsi_put_digest(uint8_t *to, uint32_t crc);
/** Whether the peer has yet to take so much that no request is taken from it. */
bool iscsi_conn_sends_enough(const struct iscsi_conn *c);
/** The Login Request in c->bhs is complete. 0. */
int iscsi_conn_login(struct iscsi_conn *c);

/* --- conn_rx.c: bytes to PDUs --- */

#define ISCSI_RX_SIZE (32u << 10) /* of the stream's receive buffer */

/** What the stream calls (stream_ops). */
ssize_t iscsi_conn_input(struct stream *s, void *ctx, const uint8_t *data, size_t len);
int iscsi_conn_filled(struct stream *s, void *ctx);

/* --- session.c: numbers, keep-alive, requests that are no commands --- */

uint32_t iscsi_max_cmdsn(const struct iscsi_conn *c);
/** Whether a request's CmdSN is to be looked at; false: ignore the PDU (4.2.2.1). */
bool iscsi_session_admits(const struct iscsi_conn *c, const struct iscsi_bhs *bhs);
/** The request that was received is complete: now, later in CmdSN order, or never. */
int iscsi_session_request(struct iscsi_conn *c);
/** Delivers the command when its turn has come. 0 or -errno of what it let through. */
int iscsi_session_order(struct iscsi_conn *c, struct iscsi_task *t);
/** Makes the session of c->login known. 0; -EAGAIN: an older one goes first, login_msg is posted
 * then; or a positive enum iscsi_login_status. */
int iscsi_session_establish(struct iscsi_conn *c);
/** Takes the session out of the server and wakes who waits for that. */
void iscsi_session_end(struct iscsi_conn *c);
void iscsi_session_keep_alive(struct iscsi_conn *c);
void iscsi_session_async(struct iscsi_conn *c, enum iscsi_async event);
void iscsi_session_lun_events(struct iscsi_conn *c);
extern const struct scsi_nexus_ops iscsi_nexus_ops;

/* --- task.c: SCSI commands --- */

/** A free task in state TASK_NEW, or NULL. */
struct iscsi_task *iscsi_task_new(struct iscsi_conn *c);
void iscsi_task_free(struct iscsi_task *t);
struct iscsi_task *iscsi_task_find(struct iscsi_conn *c, uint32_t itt);
/** The header of a SCSI Command is in c->bhs, @ahs behind it. 0, -EAGAIN (paused), -EPROTO. */
int iscsi_task_command(struct iscsi_conn *c, const uint8_t *ahs);
/** The command's CmdSN has come: go on. */
void iscsi_task_deliver(struct iscsi_task *t);
/** Goes on with what waited: sending, memory, reads. */
void iscsi_task_pump(struct iscsi_conn *c);
/** Aborts one task: it ends now or when the device server lets go of it. */
void iscsi_task_abort(struct iscsi_task *t, bool tas, uint32_t seq);
/** Asks the device server to end what was aborted. */
void iscsi_task_tell_aborts(struct iscsi_conn *c);
/** Ends all tasks; those with the device server end when it is done. */
void iscsi_task_end_all(struct iscsi_conn *c);
/** Gives back unused tasks and PDUs. */
void iscsi_task_trim(struct iscsi_conn *c);
void iscsi_task_set_state(struct iscsi_task *t, enum iscsi_task_state to);
/** Takes a delivered task to its next step. */
void iscsi_task_advance(struct iscsi_task *t);
/** All its data are there: runs it, now or when a read may. */
void iscsi_task_start(struct iscsi_task *t);
/** Ends the task with TASK ABORTED, or with nothing. */
void iscsi_task_end_aborted(struct iscsi_task *t);

/* --- task_out.c: their data out --- */

/** Asks for the data that are missing, once there is room for them; false: there is none. */
bool iscsi_task_grant(struct iscsi_task *t);
/** A command has come with @dsl bytes, and more unasked unless @final: checks that against what was
 * negotiated and finds a place for it. 0, -EAGAIN: not now. */
int iscsi_task_unsolicited(struct iscsi_task *t, uint32_t dsl, bool final);
/** The header of a Data-Out is in c->bhs. 0. */
int iscsi_task_data_out(struct iscsi_conn *c);
/** Its data segment is there. */
void iscsi_task_data_done(struct iscsi_conn *c, bool bad_digest);

struct iscsi_residual {
	uint8_t flags;
	uint32_t count, read_count;
};
/**
 * Residuals (11.4.5): @edtl and @read_edtl as expected, @dir and @moved what the command moved or
 * would have. @flags are the command's R and W.
 */
struct iscsi_residual iscsi_residual(uint8_t flags, uint32_t edtl, uint32_t read_edtl,
				     enum scsi_dir dir, uint32_t moved);

/* --- tmf.c --- */
void iscsi_tmf_request(struct iscsi_conn *c, const struct iscsi_tmf_bhs *req);
/** Aborts what @a names; a->done() is called when all of it has ended. */
void iscsi_abort_mark(struct iscsi_conn *c, struct iscsi_abort *a);
/** A task that an abort had hit is gone. */
void iscsi_abort_check(struct iscsi_conn *c);
void iscsi_nexus_abort_all(struct scsi_nexus *nx, struct scsi_lu *lu, bool tas,
			   void (*fin)(void *arg), void *arg);

/* --- discovery: text requests --- */
int iscsi_text_request(struct iscsi_conn *c, const struct iscsi_text_bhs *req, const void *data,
		       uint32_t len);
