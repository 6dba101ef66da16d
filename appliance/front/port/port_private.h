/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the port's daemon side share. */
#pragma once

#include "base/lock.h"
#include "base/metric.h"
#include "event/listen_socket.h"
#include "front/port/port.h"
#include "front/port/port_grace.h"
#include "front/port/port_proto.h"
#include "front/port/port_ring.h"

struct port_session;

struct port_server {
	/* constant after start */
	gid_t gid;
	unsigned max_clients;
	struct reactor_set *set;
	struct lun_table *luns;
	struct budget *budget;	 /* or NULL */
	struct reactor *reactor; /* the listener's */
	struct listen_socket socket;

	/* on the listener's reactor */
	struct reactor_op accept_op;
	struct reactor_msg start_msg, stop_msg;
	struct reactor_timer retry; /* after an accept that failed */
	bool accepting;
	bool stopping; /* stop_msg has come, the last of our messages */

	struct port_grace grace;

	/* under lock */
	struct mutex lock;
	struct list_node sessions;
	unsigned n_sessions;
	bool listener_closed;
	bool settled; /* the grace period is over */
	pthread_cond_t settled_changed;
	uint64_t next_id;
	void (*stopped)(void *ctx);
	void *stopped_ctx;

	metric_counter accepted, refused, violations, stale_replays;
};

/** What must be set before a session is made: its socket (taken over) and its peer. */
struct port_peer {
	int sock;
	pid_t pid;
	uid_t uid;
};

/**
 * Makes a session on @r and lists it; it then lives until its socket ends or it is closed. Runs on
 * the listener's reactor. -ENOMEM.
 */
int port_session_start(struct port_server *s, struct reactor *r, const struct port_peer *peer);
/** Any thread, with s->lock held (so that the session is there). */
void port_session_close(struct port_session *p);
/** Likewise: has it start what it has put off until the grace period is over. */
void port_session_resume(struct port_session *p);
/** Any thread, with s->lock held. */
void port_session_get_info(struct port_session *p, struct port_client_info *ret_info);
struct port_session *port_session_from_link(struct list_node *link);
/** Constant. */
pid_t port_session_pid(const struct port_session *p);
/** A session has left the list; frees the server when it was the last thing to wait for. */
void port_server_forget(struct port_server *s, struct list_node *link);
