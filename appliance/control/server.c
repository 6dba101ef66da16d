/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything here but control_handle() and the two functions of the header runs on the reactor's
 * thread, so there are no locks. A connection lives until its stream has closed *and* its request
 * is done, whichever is later.
 *
 *   READING --line--> WORKING --worker done--> SENDING --sent--> READING
 *   READING --lio.wait--> WAITING --a change--> SENDING
 *
 * Who waits costs nothing but the connection, which is read from meanwhile so that its end is
 * noticed. The next request stays there until the answer is out.
 */
#include "control/server.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/completion.h"
#include "base/list.h"
#include "base/log.h"
#include "control/protocol.h"
#include "event/listen_socket.h"
#include "event/reactor.h"
#include "event/stream.h"
#include "event/worker.h"

#define CONNECTIONS_MAX 64

struct control_server {
	struct appliance *app;
	struct reactor *reactor;
	struct listener *listener;
	struct list_node conns;
	unsigned n_conns;
	struct list_node changes; /* connections whose change waits for its turn */
	bool change_at_work, stopping;
	struct list_node waiters; /* connections that wait for a change of what LIO exports */
	struct reactor_msg lio_msg;
	atomic_bool lio_posted; /* lio_msg is on its way */

	/* calls from another thread, one at a time: run fn on the reactor, wait until it is done */
	struct reactor_msg msg;
	const char *path;
	struct reason *why;
	struct completion done;
	int ret;
};

struct conn {
	struct control_server *srv;
	struct list_node link, change_link, wait_link;
	struct stream *stream; /* NULL: closed */
	struct protocol_request req;
	bool working, waiting;
	char *response;
	size_t response_len;
	struct stream_tx tx;
	struct worker_job job;
};

static void finish_call(struct control_server *srv, int ret)
{
	srv->ret = ret;
	completion_done(&srv->done);
}

static int call(struct control_server *srv, void (*fn)(struct reactor_msg *m))
{
	completion_init(&srv->done);
	srv->msg.fn = fn;
	reactor_post(srv->reactor, &srv->msg);
	completion_wait(&srv->done);
	return srv->ret;
}

/* --- a connection --- */

static void conn_release(struct conn *c)
{
	struct control_server *srv = c->srv;

	if (c->stream || c->working)
		return;
	list_del(&c->link);
	list_del(&c->change_link);
	list_del(&c->wait_link);
	srv->n_conns--;
	protocol_free(&c->req);
	free(c->response);
	free(c);
	if (srv->stopping && !srv->n_conns)
		finish_call(srv, 0);
}

static void response_sent(struct stream_tx *tx, int err)
{
	struct conn *c = container_of(tx, struct conn, tx);

	free(c->response);
	c->response = NULL;
	if (!err && c->stream)
		stream_resume(c->stream);
}

static void send_response(struct conn *c)
{
	if (!c->stream)
		return;
	if (!c->response) {
		stream_close(c->stream, false);
		return;
	}
	c->tx.iov[0] = (struct iovec){c->response, c->response_len};
	c->tx.niov = 1;
	c->tx.sent = response_sent;
	stream_send(c->stream, &c->tx);
}

static void start_next_change(struct control_server *srv);

static void work_run(struct worker_job *j)
{
	struct conn *c = container_of(j, struct conn, job);

	c->response = control_handle(c->srv->app, &c->req, &c->response_len);
}

static void work_done(struct worker_job *j)
{
	struct conn *c = container_of(j, struct conn, job);
	struct control_server *srv = c->srv;
	bool change = protocol_is_change(c->req.method);

	c->working = false;
	protocol_free(&c->req);
	send_response(c);
	conn_release(c);
	if (change) {
		srv->change_at_work = false;
		start_next_change(srv);
	}
}

static void start_next_change(struct control_server *srv)
{
	struct list_node *n;

	while (!srv->change_at_work && (n = list_pop(&srv->changes))) {
		struct conn *c = container_of(n, struct conn, change_link);

		srv->change_at_work = true;
		worker_submit(&c->job);
	}
}

static void refuse(struct conn *c, int err, const char *message)
{
	json_t *null = json_null();

	c->response =
		protocol_failure(c->req.id ? c->req.id : null, err, message, &c->response_len);
	protocol_free(&c->req);
	send_response(c);
}

/* --- those who wait --- */

static void answer_waiter(struct conn *c)
{
	uint64_t now = appliance_lio_generation(c->srv->app);

	list_del(&c->wait_link);
	c->waiting = false;
	stream_pause(c->stream);
	c->response = protocol_success(c->req.id, json_pack("{s:I}", "generation", (json_int_t)now),
				       &c->response_len);
	protocol_free(&c->req);
	send_response(c);
}

static void wait_for_lio(struct conn *c)
{
	json_t *seen = json_object_get(c->req.params, "generation");

	c->waiting = true;
	list_add_tail(&c->srv->waiters, &c->wait_link);
	if ((uint64_t)json_integer_value(seen) != appliance_lio_generation(c->srv->app))
		answer_waiter(c);
}

static void answer_waiters(struct reactor_msg *m)
{
	struct control_server *srv = container_of(m, struct control_server, lio_msg);
	struct conn *c, *next;

	atomic_store(&srv->lio_posted, false);
	list_for_each_entry_safe (c, next, &srv->waiters, wait_link)
		answer_waiter(c);
}

/* On any thread. */
static void lio_changed(void *ctx)
{
	struct control_server *srv = ctx;

	if (!atomic_exchange(&srv->lio_posted, true))
		reactor_post(srv->reactor, &srv->lio_msg);
}

/* --- requests --- */

static void take_line(struct conn *c, const char *line, size_t len)
{
	struct reason why = {.text = ""};
	int ret = protocol_parse(line, len, &c->req, &why);

	if (!ret && c->req.method == METHOD_LIO_WAIT) {
		wait_for_lio(c);
		return;
	}
	stream_pause(c->stream); /* until this one is answered */
	if (ret) {
		refuse(c, ret, why.text);
		return;
	}
	c->working = true;
	c->job =
		(struct worker_job){.run = work_run, .done = work_done, .reactor = c->srv->reactor};
	if (!protocol_is_change(c->req.method)) {
		worker_submit(&c->job);
		return;
	}
	list_add_tail(&c->srv->changes, &c->change_link);
	start_next_change(c->srv);
}

static ssize_t conn_input(struct stream *s, void *ctx, const uint8_t *data, size_t len)
{
	const uint8_t *end = memchr(data, '\n', len);
	struct conn *c = ctx;

	if (c->waiting)
		stream_pause(s); /* what is there already is offered again after the answer */
	if (c->working || c->response || c->waiting)
		return 0;
	if (!end && len < PROTOCOL_REQUEST_MAX)
		return 0;
	if (!end || (size_t)(end - data) > PROTOCOL_REQUEST_MAX) {
		stream_pause(s);
		refuse(c, -EMSGSIZE, "a request is at most 65536 bytes");
		stream_close(s, true);
		return (ssize_t)len;
	}
	take_line(c, (const char *)data, (size_t)(end - data));
	return end - data + 1;
}

static int conn_filled(struct stream *s, void *ctx)
{
	return -EPROTO; /* no read into a buffer is ever asked for */
}

static void conn_closed(struct stream *s, void *ctx, int err)
{
	struct conn *c = ctx;

	c->stream = NULL;
	if (c->working && !list_empty(&c->change_link)) {
		/* It waits for its turn, and nobody waits for it: it never happens. */
		list_del(&c->change_link);
		c->working = false;
	}
	conn_release(c);
}

static const struct stream_ops conn_ops = {
	.input = conn_input, .filled = conn_filled, .closed = conn_closed};

static void accepted(void *ctx, int fd, const struct sockaddr_storage *peer)
{
	static const struct stream_options opt = {
		.rx_size = PROTOCOL_REQUEST_MAX + 1, .tx_high = 1 << 20, .tx_low = 1 << 18};
	struct control_server *srv = ctx;
	struct conn *c = NULL;

	if (srv->n_conns < CONNECTIONS_MAX && !srv->stopping)
		c = calloc(1, sizeof(*c));
	if (!c) {
		log_warn("control.refused", "connections=%u", srv->n_conns);
		close(fd);
		return;
	}
	c->srv = srv;
	list_init(&c->change_link);
	list_init(&c->wait_link);
	list_add_tail(&srv->conns, &c->link);
	srv->n_conns++;
	if (stream_open(srv->reactor, fd, &opt, &conn_ops, c, &c->stream))
		conn_release(c);
}

/* --- life --- */

static void start_on_reactor(struct reactor_msg *m)
{
	struct control_server *srv = container_of(m, struct control_server, msg);
	char addr[200];
	int ret;

	snprintf(addr, sizeof(addr), "unix:%s", srv->path);
	ret = listener_open(srv->reactor, addr, accepted, srv, &srv->listener, srv->why);
	finish_call(srv, ret);
}

static void stop_on_reactor(struct reactor_msg *m)
{
	struct control_server *srv = container_of(m, struct control_server, msg);
	struct conn *c, *next;

	srv->stopping = true;
	listener_close(srv->listener);
	if (!srv->n_conns) {
		finish_call(srv, 0);
		return;
	}
	srv->n_conns++; /* so that closing the last one does not finish under the loop */
	list_for_each_entry_safe (c, next, &srv->conns, link) {
		if (c->stream)
			stream_close(c->stream, true);
	}
	if (!--srv->n_conns)
		finish_call(srv, 0);
}

int control_server_start(struct appliance *app, const char *path, struct control_server **ret_srv,
			 struct reason *why)
{
	struct control_server *srv = calloc(1, sizeof(*srv));
	uint64_t end = clock_now_ns() + LISTEN_IN_USE_NS;
	int ret;

	if (!srv)
		return reason_set(why, ENOMEM, "out of memory");
	srv->app = app;
	srv->reactor = appliance_control_reactor(app);
	srv->path = path;
	srv->why = why;
	list_init(&srv->conns);
	list_init(&srv->changes);
	list_init(&srv->waiters);
	srv->lio_msg.fn = answer_waiters;
	do
		ret = call(srv, start_on_reactor);
	while (listen_again(ret, end));
	if (ret) {
		free(srv);
		return ret;
	}
	appliance_on_lio_change(app, lio_changed, srv);
	*ret_srv = srv;
	return 0;
}

void control_server_stop(struct control_server *srv)
{
	if (!srv)
		return;
	appliance_on_lio_change(srv->app, NULL, NULL);
	call(srv, stop_on_reactor);
	free(srv);
}
