/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The listener: who may connect, and the list of who has. Each client is a session on one reactor
 * of the set (port_session.c).
 *
 * The lock guards the list and the life of the server; it is held for list work only. A stop asks
 * the listener and each session to end, by message to its reactor; whoever ends last frees the
 * server.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/completion.h"
#include "base/log.h"
#include "front/port/port_private.h"
#include "mem/budget/budget.h"

#define DEFAULT_MAX_CLIENTS 1024
#define RETRY_NS	    (100 * NSEC_PER_MSEC)
#define BACKLOG		    128
#define MAX_PEER_GROUPS	    256

/* --- who may connect --- */

static bool in_groups(int fd, gid_t primary, gid_t wanted)
{
	gid_t groups[MAX_PEER_GROUPS];
	socklen_t len = sizeof(groups);

	if (wanted == (gid_t)-1)
		return false;
	if (primary == wanted)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
		return false;
	for (size_t i = 0; i < len / sizeof(groups[0]); i++) {
		if (groups[i] == wanted)
			return true;
	}
	return false;
}

/** Returns whether the peer of @fd may connect, and who it is. */
static bool check_peer(struct port_server *s, int fd, struct port_peer *ret_peer)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return false;
	*ret_peer = (struct port_peer){.sock = fd, .pid = cred.pid, .uid = cred.uid};
	return cred.uid == 0 || cred.uid == geteuid() || in_groups(fd, cred.gid, s->gid);
}

static bool is_full(struct port_server *s)
{
	mutex_scope(&s->lock);
	return s->n_sessions >= s->max_clients;
}

static int start_session(struct port_server *s, const struct port_peer *peer)
{
	int err = s->budget ? budget_reserve(s->budget, PORT_CLIENT_BYTES, "a client", NULL) : 0;

	if (err)
		return err;
	err = port_session_start(s, reactor_set_next(s->set), peer);
	if (err && s->budget)
		budget_release(s->budget, PORT_CLIENT_BYTES);
	return err;
}

/** Takes @fd over. */
static void admit(struct port_server *s, int fd)
{
	struct port_peer peer = {.sock = fd};
	const char *why = NULL;

	if (!check_peer(s, fd, &peer))
		why = "credentials";
	else if (is_full(s))
		why = "too many clients";
	else if (start_session(s, &peer) < 0)
		why = "out of memory";
	if (!why) {
		metric_add(&s->accepted, 1);
		return;
	}
	log_warn("port.refused", "pid=%d uid=%u why=\"%s\"", (int)peer.pid, (unsigned)peer.uid,
		 why);
	metric_add(&s->refused, 1);
	close(fd);
}

/* --- the listener --- */

static void accept_arm(struct port_server *s)
{
	s->accepting = true;
	io_uring_prep_accept(reactor_sqe(s->reactor, &s->accept_op), s->socket.fd, NULL, NULL,
			     SOCK_CLOEXEC);
}

/** The lock is held, and something has ended: is it the last thing? */
static bool is_over_locked(struct port_server *s)
{
	mutex_assert_held(&s->lock);
	return s->listener_closed && s->n_sessions == 0;
}

static void server_free(struct port_server *s)
{
	void (*stopped)(void *ctx) = s->stopped;
	void *ctx = s->stopped_ctx;

	port_grace_close(&s->grace);
	pthread_cond_destroy(&s->settled_changed);
	mutex_destroy(&s->lock);
	free(s);
	stopped(ctx);
}

static void listener_closed(struct port_server *s)
{
	bool over;

	reactor_timer_cancel(s->reactor, &s->retry);
	port_grace_stop(&s->grace);
	listen_socket_close(&s->socket);
	mutex_lock(&s->lock);
	/* Sessions that were admitted while the stop was on its way have missed it. */
	for (struct list_node *n = s->sessions.next; n != &s->sessions; n = n->next)
		port_session_close(port_session_from_link(n));
	s->listener_closed = true;
	over = is_over_locked(s);
	mutex_unlock(&s->lock);
	if (over)
		server_free(s);
}

static void accept_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct port_server *s = container_of(op, struct port_server, accept_op);

	s->accepting = false;
	if (res >= 0 && s->stopping)
		close(res);
	else if (res >= 0)
		admit(s, res);
	if (s->stopping)
		listener_closed(s);
	else if (res >= 0 || res == -ECONNABORTED || res == -EINTR)
		accept_arm(s);
	else {
		log_warn("port.accept", "error=\"%s\"", strerror(-res));
		reactor_timer_arm(s->reactor, &s->retry, reactor_now(s->reactor) + RETRY_NS);
	}
}

static void retry_accept(struct reactor_timer *t)
{
	accept_arm(container_of(t, struct port_server, retry));
}

static void grace_over(struct port_grace *g)
{
	struct port_server *s = container_of(g, struct port_server, grace);

	mutex_scope(&s->lock);
	s->settled = true;
	pthread_cond_broadcast(&s->settled_changed);
	for (struct list_node *n = s->sessions.next; n != &s->sessions; n = n->next)
		port_session_resume(port_session_from_link(n));
}

static void start_listening(struct reactor_msg *m)
{
	struct port_server *s = container_of(m, struct port_server, start_msg);

	port_grace_begin(&s->grace, s->reactor, grace_over);
	accept_arm(s);
}

static void stop_listening(struct reactor_msg *m)
{
	struct port_server *s = container_of(m, struct port_server, stop_msg);

	s->stopping = true;
	if (s->accepting)
		reactor_cancel(s->reactor, &s->accept_op);
	else
		listener_closed(s);
}

static int listen_on(const struct port_options *opt, struct listen_socket *ret_socket,
		     struct reason *why)
{
	bool shared = opt->gid != (gid_t)-1;
	const struct listen_options lo = {
		.type = SOCK_SEQPACKET,
		.backlog = BACKLOG,
		.mode = opt->socket_mode ? opt->socket_mode
			: shared	 ? 0660
					 : 0600,
		.gid = shared ? &opt->gid : NULL,
	};
	uint64_t until = clock_now_ns() + LISTEN_IN_USE_NS;
	char addr[LISTEN_ADDRESS_MAX];
	int err;

	if (snprintf(addr, sizeof(addr), LISTEN_UNIX "%s", opt->path) >= (int)sizeof(addr))
		return reason_set(why, ENAMETOOLONG, "%s: too long for a Unix socket", opt->path);
	do
		err = listen_socket_open(addr, &lo, ret_socket, why);
	while (listen_again(err, until));
	return err;
}

/* --- what others call --- */

int port_server_start(const struct port_options *opt, struct port_server **ret_server,
		      struct reason *why)
{
	struct port_server *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return reason_set(why, ENOMEM, "out of memory");
	err = listen_on(opt, &s->socket, why);
	if (!err) {
		err = port_grace_open(&s->grace, opt->path, why);
		if (err)
			listen_socket_close(&s->socket);
	}
	if (err) {
		free(s);
		return err;
	}
	s->gid = opt->gid;
	s->max_clients = opt->max_clients ? opt->max_clients : DEFAULT_MAX_CLIENTS;
	s->set = opt->set;
	s->luns = opt->luns;
	s->budget = opt->budget;
	s->reactor = reactor_set_next(opt->set);
	mutex_init(&s->lock, LOCK_RANK_FRONT);
	pthread_cond_init(&s->settled_changed, NULL);
	list_init(&s->sessions);
	s->accept_op.done = accept_done;
	s->start_msg.fn = start_listening;
	s->stop_msg.fn = stop_listening;
	reactor_timer_init(&s->retry, retry_accept);
	if (!opt->held)
		port_server_release(s);
	*ret_server = s;
	return 0;
}

void port_server_release(struct port_server *s)
{
	reactor_post(s->reactor, &s->start_msg);
}

void port_server_await_replays(struct port_server *s)
{
	mutex_scope(&s->lock);
	while (!s->settled)
		mutex_wait(&s->lock, &s->settled_changed);
}

static void stop_begin(struct port_server *s, void (*stopped)(void *ctx), void *ctx)
{
	mutex_scope(&s->lock);
	s->stopped = stopped;
	s->stopped_ctx = ctx;
	for (struct list_node *n = s->sessions.next; n != &s->sessions; n = n->next)
		port_session_close(port_session_from_link(n));
	/* The listener goes last: the server cannot be freed before this is posted. */
	reactor_post(s->reactor, &s->stop_msg);
}

void port_server_stop(struct port_server *s, void (*stopped)(void *ctx), void *ctx)
{
	struct completion over;

	if (!s)
		return;
	if (stopped) {
		stop_begin(s, stopped, ctx);
		return;
	}
	completion_init(&over);
	stop_begin(s, completion_done, &over);
	completion_wait(&over);
}

const char *port_server_path(const struct port_server *s)
{
	return s->socket.address + strlen(LISTEN_UNIX);
}

void port_server_forget(struct port_server *s, struct list_node *link)
{
	bool over;

	mutex_lock(&s->lock);
	list_del(link);
	s->n_sessions--;
	if (s->budget)
		budget_release(s->budget, PORT_CLIENT_BYTES);
	over = is_over_locked(s);
	mutex_unlock(&s->lock);
	if (over)
		server_free(s);
}

int port_server_list(struct port_server *s, struct port_client_info **ret_clients, size_t *ret_n)
{
	struct port_client_info *clients;
	size_t n = 0;

	mutex_scope(&s->lock);
	clients = calloc(s->n_sessions + 1, sizeof(*clients));
	if (!clients)
		return -ENOMEM;
	for (struct list_node *l = s->sessions.next; l != &s->sessions; l = l->next)
		port_session_get_info(port_session_from_link(l), &clients[n++]);
	*ret_clients = clients;
	*ret_n = n;
	return 0;
}

bool port_server_has_peer(struct port_server *s, pid_t pid)
{
	mutex_scope(&s->lock);
	for (struct list_node *l = s->sessions.next; l != &s->sessions; l = l->next) {
		if (port_session_pid(port_session_from_link(l)) == pid)
			return true;
	}
	return false;
}

void port_server_stats(struct port_server *s, struct port_stats *ret_stats)
{
	struct port_client_info info;
	uint64_t resident = 0;

	mutex_scope(&s->lock);
	for (struct list_node *l = s->sessions.next; l != &s->sessions; l = l->next) {
		port_session_get_info(port_session_from_link(l), &info);
		resident += info.resident_bytes;
	}
	*ret_stats = (struct port_stats){
		.clients = s->n_sessions,
		.accepted = metric_read(&s->accepted),
		.refused = metric_read(&s->refused),
		.violations = metric_read(&s->violations),
		.stale_replays = metric_read(&s->stale_replays),
		.resident_bytes = resident,
	};
}
