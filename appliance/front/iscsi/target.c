// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The server: targets, who may log in to them, and the list of connections.
 *
 * One lock covers the lists, the names and the counts; it is taken at login, at the end of a
 * connection and by reports, never for a command. Who may log in is an immutable struct that is
 * swapped as a whole: a login in progress keeps the one it began with. A target that was removed
 * leaves the list at once; its memory stays until its last session and login let go of it.
 */
#include "front/iscsi/iscsi_private.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <netinet/in.h>

#include "base/clock.h"
#include "base/log.h"

/* --- names --- */

bool iscsi_pattern_match(const char *pattern, const char *name)
{
	const char *star = NULL, *from = NULL;

	while (*name) {
		if (*pattern == '*') {
			star = ++pattern;
			from = name;
		} else if (*pattern == '?' || *pattern == *name) {
			pattern++;
			name++;
		} else if (star) { /* let the last star take one more */
			pattern = star;
			name = ++from;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

static bool all_hex(const char *s, size_t n)
{
	return strlen(s) == n && strspn(s, "0123456789abcdefABCDEF") == n;
}

static bool iqn_date(const char *s)
{
	static const char form[] = "dddd-dd.";

	for (size_t i = 0; form[i]; i++)
		if (form[i] == 'd' ? s[i] < '0' || s[i] > '9' : s[i] != form[i])
			return false;
	return s[8] && (s[5] != '0' || s[6] != '0') && (s[5] == '0' || (s[5] == '1' && s[6] < '3'));
}

int iscsi_name_check(const char *name, struct reason *why)
{
	size_t len = strlen(name);

	if (len > ISCSI_NAME_MAX)
		return reason_set(why, EINVAL, "iSCSI name is longer than %d bytes",
				  ISCSI_NAME_MAX);
	if (strncmp(name, "eui.", 4) == 0) {
		if (!all_hex(name + 4, 16))
			return reason_set(why, EINVAL, "%s: eui. wants 16 hexadecimal digits",
					  name);
		return 0;
	}
	if (strncmp(name, "naa.", 4) == 0) {
		if (!all_hex(name + 4, 16) && !all_hex(name + 4, 32))
			return reason_set(why, EINVAL, "%s: naa. wants 16 or 32 hexadecimal digits",
					  name);
		return 0;
	}
	if (strncmp(name, "iqn.", 4) != 0 || !iqn_date(name + 4))
		return reason_set(why, EINVAL,
				  "%s: no iSCSI name (iqn.YYYY-MM.NAMING-AUTHORITY, eui., naa.)",
				  name);
	for (size_t i = 0; i < len; i++) {
		char c = name[i];

		if ((c < 'a' || c > 'z') && (c < '0' || c > '9') && !strchr("-.:", c) &&
		    !(c & 0x80))
			return reason_set(why, EINVAL,
					  "%s: '%c' may not be in an iSCSI name (small letters, "
					  "digits, '-', '.', ':')",
					  name, c);
	}
	return 0;
}

/* --- access --- */

static void free_user(struct iscsi_user *u)
{
	if (u->secret)
		explicit_bzero(u->secret, strlen(u->secret));
	free(u->secret);
	free(u->name);
}

struct iscsi_access *iscsi_access_get(struct iscsi_access *a)
{
	atomic_fetch_add(&a->refs, 1);
	return a;
}

void iscsi_access_put(struct iscsi_access *a)
{
	if (!a || atomic_fetch_sub(&a->refs, 1) != 1)
		return;
	for (size_t i = 0; i < a->n_acl; i++)
		free(a->acl[i]);
	for (size_t i = 0; i < a->n_users; i++)
		free_user(&a->users[i]);
	free_user(&a->self);
	free(a->acl);
	free(a->users);
	free(a->alias);
	free(a);
}

bool iscsi_access_allows(const struct iscsi_access *a, const char *initiator)
{
	for (size_t i = 0; i < a->n_acl; i++)
		if (iscsi_pattern_match(a->acl[i], initiator))
			return true;
	return a->n_acl == 0;
}

const char *iscsi_access_secret(const struct iscsi_access *a, const char *user)
{
	for (size_t i = 0; i < a->n_users; i++)
		if (strcmp(a->users[i].name, user) == 0)
			return a->users[i].secret;
	return NULL;
}

static int copy_user(struct iscsi_user *to, const struct iscsi_chap_user *from, struct reason *why)
{
	size_t name = strlen(from->name), secret = strlen(from->secret);

	if (name == 0 || name > ISCSI_USER_MAX)
		return reason_set(why, EINVAL, "a CHAP name has 1 to %d bytes", ISCSI_USER_MAX);
	if (secret < ISCSI_SECRET_MIN || secret > ISCSI_SECRET_MAX)
		return reason_set(why, EINVAL, "CHAP user %s: a secret has %d to %d bytes",
				  from->name, ISCSI_SECRET_MIN, ISCSI_SECRET_MAX);
	to->name = strdup(from->name);
	to->secret = strdup(from->secret);
	return to->name && to->secret ? 0 : reason_set(why, ENOMEM, "out of memory");
}

static int copy_users(struct iscsi_access *a, const struct iscsi_chap_user *users, size_t n,
		      const struct iscsi_chap_user *self, struct reason *why)
{
	int r;

	a->users = calloc(n ? n : 1, sizeof(*a->users));
	if (!a->users)
		return reason_set(why, ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		a->n_users++;
		r = copy_user(&a->users[i], &users[i], why);
		if (r < 0)
			return r;
		/* one secret both ways would let a peer have us answer for it */
		if (self && strcmp(users[i].secret, self->secret) == 0)
			return reason_set(why, EINVAL,
					  "CHAP user %s: the secret is the same in both directions",
					  users[i].name);
	}
	return self ? copy_user(&a->self, self, why) : 0;
}

static int make_access(const struct iscsi_target_config *cfg, struct iscsi_access **ret,
		       struct reason *why)
{
	struct iscsi_access *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return reason_set(why, ENOMEM, "out of memory");
	atomic_init(&a->refs, 1);
	a->require_header_digest = cfg->require_header_digest;
	a->require_data_digest = cfg->require_data_digest;
	a->algorithms = cfg->algorithms;
	r = copy_users(a, cfg->users, cfg->n_users, cfg->self, why);
	if (r < 0)
		goto fail;
	r = -ENOMEM;
	if (cfg->alias && strlen(cfg->alias) > ISCSI_USER_MAX) {
		r = reason_set(why, EINVAL, "an alias has at most %d bytes", ISCSI_USER_MAX);
		goto fail;
	}
	if (cfg->alias && !(a->alias = strdup(cfg->alias)))
		goto fail;
	a->acl = calloc(cfg->n_acl ? cfg->n_acl : 1, sizeof(*a->acl));
	if (!a->acl)
		goto fail;
	for (; a->n_acl < cfg->n_acl; a->n_acl++)
		if (!(a->acl[a->n_acl] = strdup(cfg->acl[a->n_acl])))
			goto fail;
	*ret = a;
	return 0;
fail:
	iscsi_access_put(a);
	return r;
}

/* --- targets --- */

struct iscsi_target *iscsi_target_get(struct iscsi_target *t)
{
	atomic_fetch_add(&t->refs, 1);
	return t;
}

void iscsi_target_put(struct iscsi_target *t)
{
	if (!t || atomic_fetch_sub(&t->refs, 1) != 1)
		return;
	iscsi_access_put(t->access);
	scsi_target_unref(t->scsi);
	free(t);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b); /* a target begins with its name */
}

static struct iscsi_target *find_locked(struct iscsi_server *srv, const char *name)
{
	struct iscsi_target **t = tfind(name, &srv->by_name, compare_names);

	return t ? *t : NULL;
}

/** False: no memory. */
static bool list_locked(struct iscsi_server *srv, struct iscsi_target *t)
{
	if (!tsearch(t, &srv->by_name, compare_names))
		return false;
	list_add_tail(&srv->targets, &t->link);
	return true;
}

static void unlist_locked(struct iscsi_server *srv, struct iscsi_target *t)
{
	tdelete(t, &srv->by_name, compare_names);
	list_del(&t->link);
}

struct iscsi_target *iscsi_server_find_target(struct iscsi_server *srv, const char *name,
					      struct iscsi_access **ret_access)
{
	struct iscsi_target *t;

	mutex_scope(&srv->lock);
	t = find_locked(srv, name);
	if (!t)
		return NULL;
	*ret_access = iscsi_access_get(t->access);
	return iscsi_target_get(t);
}

struct iscsi_access *iscsi_server_discovery_access(struct iscsi_server *srv)
{
	mutex_scope(&srv->lock);
	return iscsi_access_get(srv->discovery);
}

int iscsi_server_add_target(struct iscsi_server *srv, const struct iscsi_target_config *cfg,
			    struct reason *why)
{
	struct iscsi_access *a;
	struct iscsi_target *t;
	int r = 0;

	r = iscsi_name_check(cfg->name, why);
	if (r < 0)
		return r;
	r = make_access(cfg, &a, why);
	if (r < 0)
		return r;
	t = calloc(1, sizeof(*t));
	if (!t) {
		iscsi_access_put(a);
		return reason_set(why, ENOMEM, "out of memory");
	}
	strcpy(t->name, cfg->name);
	atomic_init(&t->refs, 1);
	t->access = a;
	t->scsi = scsi_target_ref(cfg->scsi);
	scsi_target_set_ports(t->scsi, 1);
	mutex_lock(&srv->lock);
	if (find_locked(srv, cfg->name))
		r = reason_set(why, EEXIST, "%s: there is a target of that name", cfg->name);
	else if (!list_locked(srv, t))
		r = reason_set(why, ENOMEM, "out of memory");
	mutex_unlock(&srv->lock);
	if (r)
		iscsi_target_put(t);
	return r;
}

/* Asks the sessions of @t that @keep does not let in (NULL: all) to go. */
static void drop_sessions_locked(struct iscsi_server *srv, const struct iscsi_target *t,
				 const struct iscsi_access *keep)
{
	struct list_node *n;

	list_for_each (n, &srv->conns) {
		struct iscsi_conn *c = container_of(n, struct iscsi_conn, link);

		if (c->listed && c->target == t &&
		    !(keep && iscsi_access_allows(keep, c->initiator)))
			iscsi_conn_ctl(c, CTL_DROP);
	}
}

int iscsi_server_update_target(struct iscsi_server *srv, const struct iscsi_target_config *cfg,
			       struct reason *why)
{
	struct iscsi_access *a, *old = NULL;
	struct iscsi_target *t;
	int r;

	r = make_access(cfg, &a, why);
	if (r < 0)
		return r;
	mutex_lock(&srv->lock);
	t = find_locked(srv, cfg->name);
	if (t && t->scsi == cfg->scsi) {
		old = t->access;
		t->access = a;
		drop_sessions_locked(srv, t, a);
	} else {
		old = a;
		r = reason_set(why, t ? EINVAL : ENOENT, "%s: %s", cfg->name,
			       t ? "shows another SCSI target" : "no such target");
	}
	mutex_unlock(&srv->lock);
	iscsi_access_put(old);
	return r;
}

int iscsi_server_remove_target(struct iscsi_server *srv, const char *name)
{
	struct iscsi_target *t;

	mutex_lock(&srv->lock);
	t = find_locked(srv, name);
	if (!t) {
		mutex_unlock(&srv->lock);
		return -ENOENT;
	}
	unlist_locked(srv, t);
	t->removed = true;
	drop_sessions_locked(srv, t, NULL);
	while (t->sessions > 0)
		mutex_wait(&srv->lock, &srv->changed);
	mutex_unlock(&srv->lock);
	iscsi_target_put(t);
	return 0;
}

unsigned iscsi_server_target_sessions(struct iscsi_server *srv, const char *name)
{
	struct iscsi_target *t;

	mutex_scope(&srv->lock);
	t = find_locked(srv, name);
	return t ? t->sessions : 0;
}

int iscsi_server_set_discovery_auth(struct iscsi_server *srv, const struct iscsi_chap_user *users,
				    size_t n_users, const struct iscsi_chap_user *self,
				    unsigned algorithms, struct reason *why)
{
	struct iscsi_target_config cfg = {
		.users = users, .n_users = n_users, .self = self, .algorithms = algorithms};
	struct iscsi_access *a, *old;
	int r = make_access(&cfg, &a, why);

	if (r < 0)
		return r;
	mutex_lock(&srv->lock);
	old = srv->discovery;
	srv->discovery = a;
	mutex_unlock(&srv->lock);
	iscsi_access_put(old);
	return 0;
}

/* --- sessions --- */

static void fill_info_locked(const struct iscsi_conn *c, struct iscsi_session_info *i)
{
	*i = (struct iscsi_session_info){
		.id = c->id,
		.tsih = c->tsih,
		.cid = c->cid,
		.since_ns = c->since_ns,
		.reactor = reactor_index(c->reactor),
		.params = c->params,
		.commands = metric_read(&c->n_commands),
		.inflight = metric_read(&c->n_inflight),
		.read_bytes = metric_read(&c->n_read),
		.write_bytes = metric_read(&c->n_written),
		.rx_pdus = metric_read(&c->n_rx_pdus),
		.tx_pdus = metric_read(&c->n_tx_pdus),
		.receive_ns = metric_read(&c->n_receive_ns),
		.send_ns = metric_read(&c->n_send_ns),
	};
	for (unsigned k = 0; k < LUN_CLASS_COUNT; k++) {
		i->io[k].ops = lun_counters_ops(&c->io, k);
		i->io[k].bytes = metric_read(&c->io.bytes[k]);
		i->io[k].errors = metric_read(&c->io.errors[k]);
		i->io[k].p50_us = metric_hist_quantile_us(&c->io.latency[k], 0.5);
		i->io[k].p99_us = metric_hist_quantile_us(&c->io.latency[k], 0.99);
	}
	memcpy(i->initiator, c->initiator, sizeof(i->initiator));
	memcpy(i->initiator_alias, c->alias, sizeof(i->initiator_alias));
	memcpy(i->user, c->user, sizeof(i->user));
	memcpy(i->isid, c->isid, sizeof(i->isid));
	if (c->target)
		memcpy(i->target, c->target->name, sizeof(i->target));
	stream_format_address(&c->peer, i->address, sizeof(i->address));
	stream_format_address(&c->local, i->portal, sizeof(i->portal));
}

int iscsi_server_list_sessions(struct iscsi_server *srv, struct iscsi_session_info **ret_infos,
			       size_t *ret_n)
{
	struct iscsi_session_info *infos;
	struct list_node *n;
	size_t used = 0;

	mutex_scope(&srv->lock);
	infos = calloc(srv->n_sessions + 1, sizeof(*infos));
	if (!infos)
		return -ENOMEM;
	list_for_each (n, &srv->conns) { /* the list is in order of id */
		const struct iscsi_conn *c = container_of(n, struct iscsi_conn, link);

		if (c->listed)
			fill_info_locked(c, &infos[used++]);
	}
	*ret_infos = infos;
	*ret_n = used;
	return 0;
}

int iscsi_server_kick(struct iscsi_server *srv, uint64_t id)
{
	struct list_node *n;

	mutex_scope(&srv->lock);
	list_for_each (n, &srv->conns) {
		struct iscsi_conn *c = container_of(n, struct iscsi_conn, link);

		if (c->listed && c->id == id) {
			iscsi_conn_ctl(c, CTL_DROP);
			return 0;
		}
	}
	return -ENOENT;
}

const struct iscsi_counters *iscsi_server_counters(const struct iscsi_server *srv)
{
	return &srv->counters;
}

void iscsi_server_gauges(struct iscsi_server *srv, unsigned *ret_sessions, unsigned *ret_unauth)
{
	mutex_scope(&srv->lock);
	*ret_sessions = srv->n_sessions;
	*ret_unauth = srv->n_unauth;
}

/* --- life --- */

static uint32_t or_default(uint32_t v, uint32_t dflt)
{
	return v ? v : dflt;
}

int iscsi_server_create(const struct iscsi_server_options *opt, struct iscsi_server **ret_srv)
{
	struct iscsi_server *srv;
	struct iscsi_server_options *o;

	srv = calloc(1, sizeof(*srv));
	if (!srv)
		return -ENOMEM;
	o = &srv->opt;
	*o = *opt;
	o->max_sessions = or_default(o->max_sessions, 1024);
	o->max_sessions_target = or_default(o->max_sessions_target, 256);
	o->max_unauth_address = or_default(o->max_unauth_address, 16);
	o->max_unauth = or_default(o->max_unauth, 256);
	o->login_timeout_ms = or_default(o->login_timeout_ms, 15000);
	o->nop_interval_ms = or_default(o->nop_interval_ms, 30000);
	o->nop_timeout_ms = or_default(o->nop_timeout_ms, 60000);
	o->queue_depth = or_default(o->queue_depth, 128);
	o->max_out_bytes = or_default(o->max_out_bytes, 16u << 20);
	o->max_recv_data_segment = or_default(o->max_recv_data_segment, 256u << 10);
	o->first_burst = or_default(o->first_burst, 256u << 10);
	o->max_burst = or_default(o->max_burst, 1u << 20);
	o->max_outstanding_r2t = or_default(o->max_outstanding_r2t, 8);
	if (o->queue_depth < 2 || o->queue_depth > 1024 || o->max_recv_data_segment < 512 ||
	    o->max_recv_data_segment > 0xffffff || o->first_burst < 512 || o->max_burst < 512 ||
	    o->max_burst > 0xffffff || o->first_burst > o->max_burst ||
	    o->first_burst > IOBUF_MAX || o->max_outstanding_r2t > 65535 ||
	    o->max_sessions > 60000) {
		free(srv);
		return -EINVAL;
	}
	srv->offer = (struct iscsi_offer){
		.max_recv_data_segment = o->max_recv_data_segment,
		.max_burst = o->max_burst,
		.first_burst = o->first_burst,
		.max_outstanding_r2t = o->max_outstanding_r2t,
	};
	mutex_init(&srv->lock, LOCK_RANK_FRONT);
	pthread_cond_init(&srv->changed, NULL);
	list_init(&srv->portals);
	list_init(&srv->targets);
	list_init(&srv->conns);
	if (iscsi_server_set_discovery_auth(srv, NULL, 0, NULL, 0, NULL) < 0) {
		iscsi_server_destroy(srv);
		return -ENOMEM;
	}
	*ret_srv = srv;
	return 0;
}

static bool same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)b)->sin_addr.s_addr;
	if (a->ss_family == AF_INET6)
		return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
			      &((const struct sockaddr_in6 *)b)->sin6_addr, 16) == 0;
	return true;
}

bool iscsi_server_enter(struct iscsi_server *srv, struct iscsi_conn *c)
{
	unsigned same = 0;
	struct list_node *n;
	bool ok;

	mutex_scope(&srv->lock);
	metric_add(&srv->counters.connections, 1);
	if (srv->n_unauth < srv->opt.max_unauth) {
		list_for_each (n, &srv->conns) {
			const struct iscsi_conn *other = container_of(n, struct iscsi_conn, link);

			same += other->unauth && same_host(&other->peer, &c->peer);
		}
	}
	ok = !srv->closing && srv->n_unauth < srv->opt.max_unauth &&
	     same < srv->opt.max_unauth_address &&
	     srv->n_conns < srv->opt.max_sessions + srv->opt.max_unauth;
	if (!ok) {
		metric_add(&srv->counters.refused, 1);
		return false;
	}
	c->id = ++srv->next_id;
	c->unauth = true;
	srv->n_unauth++;
	srv->n_conns++;
	list_add_tail(&srv->conns, &c->link);
	return true;
}

static void tell_all_locked(struct iscsi_server *srv, enum iscsi_ctl what)
{
	struct list_node *n;

	list_for_each (n, &srv->conns)
		iscsi_conn_ctl(container_of(n, struct iscsi_conn, link), what);
}

/* Waits until no connection is left, for @ms at most. */
static bool wait_gone_locked(struct iscsi_server *srv, unsigned ms)
{
	struct timespec until = clock_deadline(ms * NSEC_PER_MSEC);
	int r = 0;

	while (srv->n_conns > 0 && r == 0)
		r = pthread_cond_timedwait(&srv->changed, &srv->lock.m, &until);
	return srv->n_conns == 0;
}

void iscsi_server_shutdown(struct iscsi_server *srv, unsigned grace_ms)
{
	char addr[ISCSI_ADDRESS_MAX];

	mutex_lock(&srv->lock);
	srv->closing = true;
	mutex_unlock(&srv->lock);
	while (iscsi_server_list_portals(srv, &addr, 1) > 0)
		if (iscsi_server_remove_portal(srv, addr) < 0)
			break;
	mutex_lock(&srv->lock);
	if (grace_ms)
		tell_all_locked(srv, CTL_ASK_LOGOUT);
	if (!wait_gone_locked(srv, grace_ms)) {
		tell_all_locked(srv, CTL_DROP);
		if (!wait_gone_locked(srv, 1000)) {
			tell_all_locked(srv, CTL_KILL);
			/* what runs in the store ends by itself */
			while (srv->n_conns > 0)
				mutex_wait(&srv->lock, &srv->changed);
		}
	}
	mutex_unlock(&srv->lock);
}

void iscsi_server_destroy(struct iscsi_server *srv)
{
	if (!srv)
		return;
	while (!list_empty(&srv->targets)) {
		struct iscsi_target *t = container_of(srv->targets.next, struct iscsi_target, link);

		unlist_locked(srv, t); /* nobody else is left */
		iscsi_target_put(t);
	}
	iscsi_access_put(srv->discovery);
	pthread_cond_destroy(&srv->changed);
	mutex_destroy(&srv->lock);
	free(srv);
}
