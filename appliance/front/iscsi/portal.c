// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Portals: listeners, each on one reactor; what they accept is handed to the reactors in turn.
 * Control threads open and close them by a round trip to that reactor, since a listener belongs to
 * its thread.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/completion.h"
#include "base/log.h"

/* --- a call on a reactor's thread, waited for --- */

struct call {
	struct reactor_msg msg;
	void (*fn)(struct iscsi_portal *p, struct call *k);
	struct iscsi_portal *portal;
	struct reason *why;
	int result;
	struct completion done;
};

static void call_run(struct reactor_msg *m)
{
	struct call *k = container_of(m, struct call, msg);

	k->fn(k->portal, k);
	completion_done(&k->done);
}

static int call_on(struct iscsi_portal *p, void (*fn)(struct iscsi_portal *, struct call *),
		   struct reason *why)
{
	struct call k = {.msg.fn = call_run, .fn = fn, .portal = p, .why = why};

	assert(reactor_self() == NULL);
	completion_init(&k.done);
	reactor_post(p->reactor, &k.msg);
	completion_wait(&k.done);
	return k.result;
}

/* --- listeners --- */

static void accepted(void *ctx, int fd, const struct sockaddr_storage *peer)
{
	struct iscsi_portal *p = ctx;

	if (iscsi_conn_start(p->srv, reactor_set_next(p->srv->opt.reactors), fd, peer) < 0) {
		char addr[ISCSI_ADDRESS_MAX];

		stream_format_address(peer, addr, sizeof(addr));
		log_warn("iscsi.connection.refused", "peer=%s reason=\"too many connections\"",
			 addr);
	}
}

static void open_listener(struct iscsi_portal *p, struct call *k)
{
	k->result = listener_open(p->reactor, p->given, accepted, p, &p->listener, k->why);
	if (k->result < 0)
		return;
	mutex_scope(&p->srv->lock);
	snprintf(p->bound, sizeof(p->bound), "%s", listener_address(p->listener));
}

static void close_listener(struct iscsi_portal *p, struct call *k)
{
	listener_close(p->listener);
}

static struct iscsi_portal *find_locked(struct iscsi_server *srv, const char *address)
{
	struct list_node *n;

	list_for_each (n, &srv->portals) {
		struct iscsi_portal *p = container_of(n, struct iscsi_portal, link);

		if (strcmp(p->given, address) == 0 || strcmp(p->bound, address) == 0)
			return p;
	}
	return NULL;
}

/* Enters @p before it listens, so that what it accepts first finds it. */
static int reserve(struct iscsi_server *srv, struct iscsi_portal *p, struct reason *why)
{
	mutex_scope(&srv->lock);
	if (srv->n_portals >= ISCSI_PORTALS_MAX)
		return reason_set(why, ENOSPC, "there are %d portals already", ISCSI_PORTALS_MAX);
	if (find_locked(srv, p->given))
		return reason_set(why, EEXIST, "%s: there is a portal on that address", p->given);
	list_add_tail(&srv->portals, &p->link);
	srv->n_portals++;
	return 0;
}

static void forget(struct iscsi_portal *p)
{
	mutex_scope(&p->srv->lock);
	list_del(&p->link);
	p->srv->n_portals--;
}

int iscsi_server_add_portal(struct iscsi_server *srv, const char *address,
			    char ret_bound[ISCSI_ADDRESS_MAX], struct reason *why)
{
	struct iscsi_portal *p;
	int r;

	if (strlen(address) >= ISCSI_ADDRESS_MAX || strncmp(address, "unix:", 5) == 0)
		return reason_set(why, EINVAL, "%s: a portal is ADDRESS:PORT", address);
	p = calloc(1, sizeof(*p));
	if (!p)
		return reason_set(why, ENOMEM, "out of memory");
	p->srv = srv;
	p->reactor = reactor_set_next(srv->opt.reactors);
	snprintf(p->given, sizeof(p->given), "%s", address);
	r = reserve(srv, p, why);
	if (r == 0) {
		r = call_on(p, open_listener, why);
		if (r < 0)
			forget(p);
	}
	if (r < 0) {
		free(p);
		return r;
	}
	if (ret_bound)
		memcpy(ret_bound, p->bound, sizeof(p->bound));
	return 0;
}

int iscsi_server_remove_portal(struct iscsi_server *srv, const char *address)
{
	struct iscsi_portal *p;

	mutex_lock(&srv->lock);
	p = find_locked(srv, address);
	if (p) {
		list_del(&p->link);
		srv->n_portals--;
	}
	mutex_unlock(&srv->lock);
	if (!p)
		return -ENOENT;
	call_on(p, close_listener, NULL);
	free(p);
	return 0;
}

size_t iscsi_server_list_portals(struct iscsi_server *srv, char (*ret_addr)[ISCSI_ADDRESS_MAX],
				 size_t n)
{
	struct list_node *node;
	size_t i = 0;

	mutex_scope(&srv->lock);
	list_for_each (node, &srv->portals) {
		if (i < n)
			memcpy(ret_addr[i], container_of(node, struct iscsi_portal, link)->bound,
			       ISCSI_ADDRESS_MAX);
		i++;
	}
	return i;
}

/* --- SendTargets --- */

static bool is_wildcard(const char *bound)
{
	return strncmp(bound, "0.0.0.0:", 8) == 0 || strncmp(bound, "[::]:", 5) == 0;
}

/* The connection's own address with the port of @bound. */
static void say_address(struct iscsi_text_out *out, const char *bound,
			const struct sockaddr_storage *local)
{
	struct sockaddr_storage own = *local;
	char addr[ISCSI_ADDRESS_MAX];
	uint64_t port;

	if (!is_wildcard(bound)) {
		iscsi_text_add(out, "TargetAddress", "%s,%d", bound, ISCSI_PORTAL_GROUP);
		return;
	}
	if (iscsi_text_number(strrchr(bound, ':') + 1, &port) < 0)
		return;
	if (own.ss_family == AF_INET && bound[0] != '[') {
		((struct sockaddr_in *)&own)->sin_port = htons((uint16_t)port);
	} else if (own.ss_family == AF_INET6 && bound[0] == '[') {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&own;

		in6->sin6_port = htons((uint16_t)port);
		in6->sin6_scope_id =
			0; /* the name of our interface says nothing to the initiator */
	} else {
		return; /* a wildcard of the other family: no address to say */
	}
	stream_format_address(&own, addr, sizeof(addr));
	iscsi_text_add(out, "TargetAddress", "%s,%d", addr, ISCSI_PORTAL_GROUP);
}

void iscsi_server_send_targets(struct iscsi_server *srv, const char *initiator, const char *only,
			       const struct sockaddr_storage *local, struct iscsi_text_out *out)
{
	struct list_node *n, *m;

	mutex_scope(&srv->lock);
	list_for_each (n, &srv->targets) {
		const struct iscsi_target *t = container_of(n, struct iscsi_target, link);

		if ((only && strcmp(t->name, only) != 0) ||
		    !iscsi_access_allows(t->access, initiator))
			continue;
		iscsi_text_add(out, "TargetName", "%s", t->name);
		list_for_each (m, &srv->portals) {
			const struct iscsi_portal *p = container_of(m, struct iscsi_portal, link);

			if (p->bound[0])
				say_address(out, p->bound, local);
		}
	}
}
