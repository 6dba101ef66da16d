/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The HTTP side: addresses, connections, paths.
 *
 * Whoever reaches the address may ask, so what a client can take is bounded. Connections: the
 * library takes CONNECTIONS_MAX and leaves others in the backlog; a request line and headers fit in
 * CONNECTION_MEMORY; who is silent for IDLE_S is dropped. A client that is never silent (a byte
 * now and then) would stay, so when connections are short, the one that has gone longest without
 * being served is cut off: whoever asks and goes is always let in. Answers: at most ANSWERS_MAX
 * are held for clients that take them slowly; a scrape beyond is refused, and the connection
 * longest without being served is cut off for the next.
 *
 * Everything about the connections of an address belongs to its thread; counters are atomic.
 */
#include "exporter/exporter.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/list.h"
#include "base/metric.h"
#include "event/listen_socket.h"
#include "exporter/metrics.h"
#include "exporter/status.h"

#define CONNECTIONS_MAX	  64u
#define CONNECTIONS_SPARE 4u /* so that those cut off need not be gone before others are let in */
#define CONNECTION_MEMORY (16u << 10)
#define IDLE_S		  15u
#define ANSWERS_MAX	  8u
#define BACKLOG		  128

struct endpoint {
	/* --- constant after start --- */
	struct exporter *exporter;
	struct MHD_Daemon *daemon;
	struct listen_socket socket;
	char url[LISTEN_ADDRESS_MAX + 32];
	/* --- of its thread --- */
	struct list_node clients; /* the one longest without being served first */
	unsigned n_clients;
};

struct client {
	struct list_node link;
	int fd;
	bool cut_off; /* and in no list */
};

struct exporter {
	struct appliance *app;
	struct endpoint at[EXPORTER_LISTEN_MAX];
	unsigned n;
	metric_counter scrapes, refused, displaced;
	metric_counter answers; /* held now */
};

/* --- connections --- */

static void cut_off_oldest(struct endpoint *at)
{
	struct client *c;

	if (list_empty(&at->clients))
		return;
	c = container_of(at->clients.next, struct client, link);
	list_del(&c->link);
	c->cut_off = true;
	at->n_clients--;
	shutdown(c->fd, SHUT_RDWR); /* the library sees its end */
	metric_add(&at->exporter->displaced, 1);
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **socket_context,
			  enum MHD_ConnectionNotificationCode code)
{
	struct endpoint *at = cls;
	struct client *c = *socket_context;

	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		c = calloc(1, sizeof(*c));
		*socket_context = c;
		if (!c)
			return;
		c->fd = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD)
				->connect_fd;
		list_add_tail(&at->clients, &c->link);
		if (++at->n_clients > CONNECTIONS_MAX - CONNECTIONS_SPARE)
			cut_off_oldest(at);
	} else if (c) {
		if (!c->cut_off) {
			list_del(&c->link);
			at->n_clients--;
		}
		free(c);
		*socket_context = NULL;
	}
}

static void on_answered(void *cls, struct MHD_Connection *conn, void **request,
			enum MHD_RequestTerminationCode how)
{
	struct endpoint *at = cls;
	struct client *c =
		MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;

	if (!c || c->cut_off || how != MHD_REQUEST_TERMINATED_COMPLETED_OK)
		return;
	list_del(&c->link);
	list_add_tail(&at->clients, &c->link);
}

/* --- answers --- */

static enum MHD_Result answer(struct MHD_Connection *conn, unsigned status, const char *type,
			      struct MHD_Response *response)
{
	enum MHD_Result ret = MHD_NO;

	if (response &&
	    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type) == MHD_YES)
		ret = MHD_queue_response(conn, status, response);
	if (response)
		MHD_destroy_response(response);
	return ret;
}

static enum MHD_Result answer_text(struct MHD_Connection *conn, unsigned status, const char *type,
				   const char *text)
{
	return answer(conn, status, type,
		      MHD_create_response_from_buffer(strlen(text), (void *)text,
						      MHD_RESPMEM_PERSISTENT));
}

static enum MHD_Result answer_error(struct MHD_Connection *conn, unsigned status,
				    const char *header, const char *value, const char *text)
{
	struct MHD_Response *response =
		MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_PERSISTENT);

	if (response)
		MHD_add_response_header(response, header, value);
	return answer(conn, status, "text/plain; charset=utf-8", response);
}

/* What is made of the figures of the moment: /metrics, or what the page asks for. */
struct view {
	const char *path, *type;
	int (*render)(const struct metrics *m, struct text *out);
	bool scrape; /* counted as one */
};

static const struct view views[] = {
	{"/metrics", "text/plain; version=0.0.4; charset=utf-8", metrics_render, true},
	{"/status.json", "application/json", status_render, false},
};

static const struct view *find_view(const char *path)
{
	for (size_t i = 0; i < sizeof(views) / sizeof(views[0]); i++)
		if (!strcmp(path, views[i].path))
			return &views[i];
	return NULL;
}

struct scrape {
	struct exporter *e;
	struct text body;
};

static void free_scrape(void *cls)
{
	struct scrape *s = cls;

	metric_sub(&s->e->answers, 1);
	text_clear(&s->body);
	free(s);
}

/* What is told now, or NULL: out of memory. */
static struct scrape *take_scrape(struct exporter *e, const struct view *v)
{
	struct metrics_self self = {metric_read(&e->scrapes) + v->scrape, metric_read(&e->refused),
				    metric_read(&e->displaced)};
	struct scrape *s = calloc(1, sizeof(*s));
	struct metrics m = {0};
	int ret;

	if (!s)
		return NULL;
	s->e = e;
	metric_add(&e->answers, 1);
	ret = metrics_collect(&m, e->app, &self);
	if (!ret && v->scrape)
		metrics_collect_lio(&m, METRICS_LIO);
	if (!ret)
		ret = v->render(&m, &s->body);
	metrics_free(&m);
	if (!ret) {
		metric_add(&e->scrapes, v->scrape);
		return s;
	}
	free_scrape(s);
	return NULL;
}

static enum MHD_Result answer_scrape(struct endpoint *at, const struct view *v,
				     struct MHD_Connection *conn)
{
	struct exporter *e = at->exporter;
	struct MHD_Response *response;
	struct scrape *s;

	if (metric_read(&e->answers) >= ANSWERS_MAX) {
		metric_add(&e->refused, 1);
		cut_off_oldest(at);
		return answer_error(conn, MHD_HTTP_SERVICE_UNAVAILABLE, MHD_HTTP_HEADER_RETRY_AFTER,
				    "1", "too many scrapes at once\n");
	}
	s = take_scrape(e, v);
	if (!s)
		return answer_text(conn, MHD_HTTP_INTERNAL_SERVER_ERROR, "text/plain",
				   "out of memory\n");
	response = MHD_create_response_from_buffer_with_free_callback_cls(s->body.len, s->body.data,
									  free_scrape, s);
	if (!response)
		free_scrape(s);
	return answer(conn, MHD_HTTP_OK, v->type, response);
}

/* page/index.html: it has all it needs, and asks nobody but us. */
static const char index_page[] =
#include "index.html.inc"
	;

static enum MHD_Result answer_page(struct MHD_Connection *conn)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(
		sizeof(index_page) - 1, (void *)index_page, MHD_RESPMEM_PERSISTENT);

	if (response) {
		MHD_add_response_header(response, "Content-Security-Policy",
					"default-src 'none'; connect-src 'self'; style-src "
					"'unsafe-inline'; script-src 'unsafe-inline'; img-src "
					"data:; frame-ancestors 'none'; base-uri 'none'");
		MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
		MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
	}
	return answer(conn, MHD_HTTP_OK, "text/html; charset=utf-8", response);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *path,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_size, void **request)
{
	struct endpoint *at = cls;
	const struct view *view = find_view(path);
	bool index = !strcmp(path, "/");

	if (!view && !index && strcmp(path, "/healthz"))
		return answer_text(conn, MHD_HTTP_NOT_FOUND, "text/plain; charset=utf-8",
				   "not found; see /metrics\n");
	if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
		return answer_error(conn, MHD_HTTP_METHOD_NOT_ALLOWED, MHD_HTTP_HEADER_ALLOW,
				    "GET, HEAD", "only GET and HEAD\n");
	if (view)
		return answer_scrape(at, view, conn);
	if (index)
		return answer_page(conn);
	return answer_text(conn, MHD_HTTP_OK, "text/plain; charset=utf-8", "ok\n");
}

/* --- life --- */

static int open_endpoint(struct exporter *e, const char *address, struct reason *why)
{
	static const struct listen_options listen = {.type = SOCK_STREAM, .backlog = BACKLOG};
	struct endpoint *at = &e->at[e->n];
	struct listen_socket socket;
	int ret = listen_socket_open(address, &listen, &socket, why);

	if (ret)
		return reason_prefix(why, ret, "metrics");
	list_init(&at->clients);
	at->exporter = e;
	at->socket = socket;
	if (strncmp(socket.address, LISTEN_UNIX, strlen(LISTEN_UNIX)))
		snprintf(at->url, sizeof(at->url), "http://%s/metrics", socket.address);
	else
		snprintf(at->url, sizeof(at->url), "%s", socket.address);
	at->daemon = MHD_start_daemon(
		MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, on_request, at,
		MHD_OPTION_LISTEN_SOCKET, at->socket.fd, MHD_OPTION_CONNECTION_LIMIT,
		CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
		MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
		at, MHD_OPTION_NOTIFY_COMPLETED, on_answered, at, MHD_OPTION_END);
	if (!at->daemon) {
		listen_socket_close(&at->socket);
		return reason_set(why, ENOMEM, "metrics: %s: no HTTP server could be started",
				  address);
	}
	e->n++;
	return 0;
}

int exporter_start(struct appliance *app, struct exporter **ret_exporter, struct reason *why)
{
	const struct config *cfg = appliance_started_with(app);
	struct exporter *e = NULL;
	int ret = 0;

	if (cfg->metrics_count > EXPORTER_LISTEN_MAX)
		return reason_set(why, E2BIG, "metrics: more than %d addresses",
				  EXPORTER_LISTEN_MAX);
	if (cfg->metrics_count) {
		e = calloc(1, sizeof(*e));
		if (!e)
			return reason_set(why, ENOMEM, "metrics: out of memory");
		e->app = app;
	}
	for (unsigned i = 0; i < cfg->metrics_count && !ret; i++)
		ret = open_endpoint(e, cfg->metrics[i], why);
	if (ret) {
		exporter_stop(e);
		return ret;
	}
	*ret_exporter = e;
	return 0;
}

void exporter_stop(struct exporter *e)
{
	if (!e)
		return;
	for (unsigned i = 0; i < e->n; i++) {
		MHD_quiesce_daemon(e->at[i].daemon); /* the socket is ours again */
		MHD_stop_daemon(e->at[i].daemon);
		listen_socket_close(&e->at[i].socket);
	}
	free(e);
}

const char *exporter_url(const struct exporter *e, unsigned i)
{
	return e && i < e->n ? e->at[i].url : NULL;
}
