/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What runs, as JSON. A report takes references and copies under the lock, and looks at files
 * (allocated bytes) without it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "control/appliance_private.h"
#include "control/json_text.h"

/* "iscsi://…" of LUN @number of @iqn at a portal; a wildcard is reached on loopback. */
static void format_iscsi_url(const char *portal, const char *iqn, unsigned number, char *buf,
			     size_t size)
{
	if (!strncmp(portal, "0.0.0.0:", 8))
		snprintf(buf, size, "iscsi://127.0.0.1:%s/%s/%u", portal + 8, iqn, number);
	else if (!strncmp(portal, "[::]:", 5))
		snprintf(buf, size, "iscsi://[::1]:%s/%s/%u", portal + 5, iqn, number);
	else
		snprintf(buf, size, "iscsi://%s/%s/%u", portal, iqn, number);
}

/* --- where LUNs are shown --- */

struct shown {
	const char *name; /* the list's LUN */
	char iqn[ISCSI_NAME_MAX + 1];
	unsigned number;
};

static int by_shown_name(const void *a, const void *b)
{
	const struct shown *x = a, *y = b;
	int d = strcmp(x->name, y->name);

	return d ? d : strcmp(x->iqn, y->iqn);
}

struct snapshot {
	struct lun **luns; /* sorted by name */
	size_t n_luns;
	struct shown *shown; /* sorted by name */
	size_t n_shown;
	char (*portals)[ISCSI_ADDRESS_MAX];
	size_t n_portals;
	struct app_users users;
	struct plan_problem *problems;
	size_t n_problems;
};

static void free_snapshot(struct snapshot *s)
{
	if (s->luns)
		lun_table_free_list(s->luns, s->n_luns);
	free(s->shown);
	free(s->portals);
	free(s->problems);
	app_free_users(&s->users);
}

static int by_lun(const void *key, const void *elem)
{
	return strcmp(key, lun_name(*(struct lun *const *)elem));
}

static int copy_locked(struct appliance *app, struct snapshot *s)
{
	size_t n = 0;

	mutex_assert_held(&app->lock);
	for (size_t i = 0; i < app->n_targets; i++)
		n += app->targets[i]->spec.luns_count;
	s->shown = calloc(n + 1, sizeof(*s->shown));
	s->portals = calloc(app->n_portals + 1, sizeof(*s->portals));
	s->problems = calloc(app->n_problems + 1, sizeof(*s->problems));
	if (!s->shown || !s->portals || !s->problems)
		return -ENOMEM;
	for (size_t i = 0; i < app->n_targets; i++) {
		const struct config_target *t = &app->targets[i]->spec;

		for (unsigned j = 0; j < t->luns_count; j++) {
			struct lun **l = bsearch(t->map[j].name, s->luns, s->n_luns,
						 sizeof(*s->luns), by_lun);
			struct shown *e = &s->shown[s->n_shown];

			if (!l) /* closed since the list was made */
				continue;
			e->name = lun_name(*l);
			e->number = t->map[j].number;
			snprintf(e->iqn, sizeof(e->iqn), "%s", t->iqn);
			s->n_shown++;
		}
	}
	for (size_t i = 0; i < app->n_portals; i++)
		snprintf(s->portals[s->n_portals++], ISCSI_ADDRESS_MAX, "%s", app->bound[i]);
	for (size_t i = 0; i < app->n_problems; i++)
		s->problems[s->n_problems++] = app->problems[i];
	return 0;
}

static int take_snapshot(struct appliance *app, struct snapshot *s)
{
	int ret;

	memset(s, 0, sizeof(*s));
	ret = lun_table_list(app->table, &s->luns, &s->n_luns);
	if (!ret)
		ret = app_count_users(app, &s->users);
	if (!ret) {
		mutex_lock(&app->lock);
		ret = copy_locked(app, s);
		mutex_unlock(&app->lock);
	}
	if (ret)
		free_snapshot(s);
	else
		qsort(s->shown, s->n_shown, sizeof(*s->shown), by_shown_name);
	return ret;
}

/* The first entry for LUN @name; those of one LUN are neighbours. */
static const struct shown *first_shown(const struct snapshot *s, const char *name)
{
	size_t lo = 0, hi = s->n_shown;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (strcmp(s->shown[mid].name, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->n_shown && !strcmp(s->shown[lo].name, name) ? &s->shown[lo] : NULL;
}

static bool same_lun(const struct snapshot *s, const struct shown *e, const char *name)
{
	return e && e < s->shown + s->n_shown && !strcmp(e->name, name);
}

/* Sessions on the LUN's targets; clients of the port and TCMU devices that have it open. */
static unsigned count_sessions(const struct snapshot *s, const char *name)
{
	unsigned n = 0;

	for (const struct shown *e = first_shown(s, name); same_lun(s, e, name); e++)
		n += app_target_users(&s->users, e->iqn);
	for (size_t i = 0; i < s->users.n_luns; i++)
		if (!strcmp(s->users.luns[i].name, name))
			n += s->users.luns[i].n;
	return n;
}

/* --- LUNs --- */

static json_t *lun_summary(const struct snapshot *s, struct lun *lun)
{
	const char *name = lun_name(lun);
	struct block_info info;
	json_t *o, *targets = json_array();

	lun_get_block_info(lun, &info);
	for (const struct shown *e = first_shown(s, name); same_lun(s, e, name); e++)
		json_array_append_new(targets, json_pack("{s:s, s:i}", "target", e->iqn, "number",
							 (int)e->number));
	o = json_pack("{s:o, s:o, s:I, s:i, s:b, s:b, s:s, s:s, s:s, s:o, s:i, s:s}", "name",
		      json_text(name), "path", json_text(lun_path(lun)), "size",
		      (json_int_t)lun_size(lun), "block_size", (int)lun_block_size(lun),
		      "read_only", lun_read_only(lun), "removable", lun_removable(lun), "store",
		      info.type, "mode", info.mode, "uuid", lun_identity(lun)->serial, "targets",
		      targets, "sessions", (int)count_sessions(s, name), "state", "online");
	if (o && info.allocated != UINT64_MAX)
		json_object_set_new(o, "allocated", json_integer((json_int_t)info.allocated));
	if (o && lun_description(lun))
		json_object_set_new(o, "description", json_text(lun_description(lun)));
	return o;
}

/* Declared LUNs that do not run, with the reason. */
static int add_offline(struct appliance *app, const struct snapshot *s, json_t *list)
{
	mutex_scope(&app->lock);
	for (unsigned i = 0; app->declared && i < app->declared->luns_count; i++) {
		const struct config_lun *l = &app->declared->luns[i];
		const char *why = "not applied yet";

		if (app_find_lun(app, l->name))
			continue;
		for (size_t k = 0; k < s->n_problems; k++)
			if (!strcmp(s->problems[k].name, l->name))
				why = s->problems[k].text;
		if (json_array_append_new(list,
					  json_pack("{s:o, s:o, s:i, s:i, s:s, s:o}", "name",
						    json_text(l->name), "path", json_text(l->path),
						    "size", 0, "sessions", 0, "state", "offline",
						    "problem", json_text(why))) < 0)
			return -ENOMEM;
	}
	return 0;
}

json_t *appliance_report_luns(struct appliance *app)
{
	json_t *list = json_array();
	struct snapshot s;
	int ret;

	if (!list || take_snapshot(app, &s)) {
		json_decref(list);
		return NULL;
	}
	ret = 0;
	for (size_t i = 0; i < s.n_luns && !ret; i++)
		ret = json_array_append_new(list, lun_summary(&s, s.luns[i]));
	if (!ret)
		ret = add_offline(app, &s, list);
	free_snapshot(&s);
	if (!ret)
		return list;
	json_decref(list);
	return NULL;
}

static void add_urls(struct appliance *app, const struct snapshot *s, const char *name,
		     json_t *list)
{
	static const enum nbd_tls tls[] = {NBD_TLS_OFF, NBD_TLS_ON, NBD_TLS_REQUIRE};
	enum nbd_tls mode;
	const char *addr;
	char url[1024];

	for (const struct shown *e = first_shown(s, name); same_lun(s, e, name); e++)
		for (size_t i = 0; i < s->n_portals; i++) {
			format_iscsi_url(s->portals[i], e->iqn, e->number, url, sizeof(url));
			json_array_append_new(list, json_pack("{s:o, s:s, s:o}", "lun",
							      json_text(name), "protocol", "iscsi",
							      "url", json_text(url)));
		}
	if (app->tcmu) {
		snprintf(url, sizeof(url), TCMU_HANDLER "/%s", name);
		json_array_append_new(list, json_pack("{s:o, s:s, s:o}", "lun", json_text(name),
						      "protocol", "tcmu", "url", json_text(url)));
	}
	if (!app->nbd)
		return;
	mutex_lock(&app->lock);
	mode = tls[app->declared->nbd.tls.mode];
	mutex_unlock(&app->lock);
	for (unsigned i = 0; (addr = nbd_supervisor_address(app->nbd, i)); i++) {
		nbd_format_url(addr, mode, name, url, sizeof(url));
		json_array_append_new(list, json_pack("{s:o, s:s, s:o}", "lun", json_text(name),
						      "protocol", "nbd", "url", json_text(url)));
	}
}

/* What a LUN holds; JSON null: it is not cached. */
static json_t *report_lun_cache(struct lun *lun)
{
	struct lun_cache_stats s;
	json_t *o;

	if (!lun_cache_stats(lun, &s))
		return json_null();
	o = memory_report_cache(&s.cache);
	json_object_set_new(o, "readahead_pages", json_integer((json_int_t)s.readahead_pages));
	json_object_set_new(o, "readahead_used", json_integer((json_int_t)s.readahead_used));
	json_object_set_new(o, "coalesced", json_integer((json_int_t)s.coalesced));
	return o;
}

/* Of one that runs, or went wrong. */
static void add_sanitize(struct appliance *app, const char *name, json_t *o)
{
	struct scsi_sanitize_status s = {.running = false};
	struct app_lun *l;
	json_t *member;

	mutex_lock(&app->lock);
	l = app_find_lun(app, name);
	if (l && l->lu)
		scsi_lu_sanitize_status(l->lu, &s);
	mutex_unlock(&app->lock);
	if (!s.running && !s.failed && !s.error)
		return;
	member = json_pack("{s:s, s:I, s:I}", "state", s.running ? "running" : "failed", "done",
			   (json_int_t)s.done, "total", (json_int_t)s.total);
	if (s.error && !s.running)
		json_object_set_new(member, "error", json_string(strerror(-s.error)));
	json_object_set_new(o, "sanitize", member);
}

json_t *appliance_report_lun(struct appliance *app, const char *name)
{
	struct snapshot s;
	json_t *o = NULL, *urls, *offline;
	const char *why;
	size_t i;

	if (take_snapshot(app, &s))
		return NULL;
	for (i = 0; i < s.n_luns && strcmp(lun_name(s.luns[i]), name); i++)
		;
	if (i < s.n_luns) {
		struct block_info info;

		lun_get_block_info(s.luns[i], &info);
		o = lun_summary(&s, s.luns[i]);
		urls = json_array();
		add_urls(app, &s, name, urls);
		json_object_set_new(o, "mode_reason", json_text(info.why ? info.why : ""));
		json_object_set_new(o, "urls", urls);
		json_object_set_new(o, "counters", app_report_lun_counters(s.luns[i]));
		json_object_set_new(o, "cache", report_lun_cache(s.luns[i]));
		why = lun_uncached_reason(s.luns[i]);
		if (why)
			json_object_set_new(o, "cache_reason", json_string(why));
		add_sanitize(app, name, o);
	} else {
		offline = json_array();
		add_offline(app, &s, offline);
		json_array_foreach(offline, i, urls)
		{
			if (!strcmp(json_string_value(json_object_get(urls, "name")), name))
				o = json_incref(urls);
		}
		json_decref(offline);
		if (!o)
			o = json_null();
	}
	free_snapshot(&s);
	return o;
}

json_t *appliance_report_exports(struct appliance *app)
{
	json_t *list = json_array();
	struct snapshot s;

	if (!list || take_snapshot(app, &s)) {
		json_decref(list);
		return NULL;
	}
	for (size_t i = 0; i < s.n_luns; i++)
		add_urls(app, &s, lun_name(s.luns[i]), list);
	free_snapshot(&s);
	return list;
}

/* --- sessions --- */

static json_t *iscsi_session(const struct iscsi_session_info *i)
{
	char id[32];

	snprintf(id, sizeof(id), "iscsi-%llu", (unsigned long long)i->id);
	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:f, s:I, s:I, s:I, s:I, s:f, s:f, "
			 "s:b, s:b}",
			 "id", id, "protocol", "iscsi", "client", json_text(i->initiator), "export",
			 json_text(i->target), "address", json_text(i->address), "portal",
			 json_text(i->portal), "user", json_text(i->user), "age_s",
			 (double)(clock_now_ns() - i->since_ns) / (double)NSEC_PER_SEC, "commands",
			 (json_int_t)i->commands, "inflight", (json_int_t)i->inflight, "read_bytes",
			 (json_int_t)i->read_bytes, "write_bytes", (json_int_t)i->write_bytes,
			 "receive_s", (double)i->receive_ns / (double)NSEC_PER_SEC, "send_s",
			 (double)i->send_ns / (double)NSEC_PER_SEC, "header_digest",
			 i->params.header_digest, "data_digest", i->params.data_digest);
}

static json_t *port_session(const struct port_client_info *c)
{
	char id[32], address[40];

	snprintf(id, sizeof(id), "port-%llu", (unsigned long long)c->id);
	snprintf(address, sizeof(address), "pid %d", (int)c->pid);
	return json_pack(
		"{s:s, s:s, s:o, s:o, s:s, s:f, s:I, s:I, s:I, s:I, s:I}", "id", id, "protocol",
		"port", "client", json_text(c->name), "export", json_text(c->lun), "address",
		address, "age_s", (double)(clock_now_ns() - c->connected_ns) / (double)NSEC_PER_SEC,
		"commands", (json_int_t)c->ops, "inflight", (json_int_t)c->inflight, "read_bytes",
		(json_int_t)c->bytes_read, "write_bytes", (json_int_t)c->bytes_written,
		"resident_bytes", (json_int_t)c->resident_bytes);
}

static json_t *tcmu_session(const struct tcmu_device_info *d)
{
	const struct tcmu_session_info *i = &d->session;
	char id[32], client[TCMU_BACKSTORE_MAX + 32], address[32];

	snprintf(id, sizeof(id), "tcmu-%llu", (unsigned long long)d->id);
	snprintf(client, sizeof(client), "user_%u/%s", d->name.hba, d->name.backstore);
	snprintf(address, sizeof(address), "/dev/uio%u", d->minor);
	return json_pack("{s:s, s:s, s:o, s:s, s:s, s:f, s:I, s:I, s:I, s:I}", "id", id, "protocol",
			 "tcmu", "client", json_text(client), "export", d->name.lun, "address",
			 address, "age_s",
			 (double)(clock_now_ns() - i->since_ns) / (double)NSEC_PER_SEC, "commands",
			 (json_int_t)i->commands, "inflight", (json_int_t)i->inflight, "read_bytes",
			 (json_int_t)i->read_bytes, "write_bytes", (json_int_t)i->written_bytes);
}

json_t *appliance_report_sessions(struct appliance *app)
{
	_cleanup_free_ struct iscsi_session_info *sessions = NULL;
	_cleanup_free_ struct port_client_info *clients = NULL;
	_cleanup_free_ struct tcmu_device_info *devices = NULL;
	size_t ns = 0, nc = 0, nd = 0;
	json_t *list;

	if (iscsi_server_list_sessions(app->iscsi, &sessions, &ns) ||
	    port_server_list(app->port, &clients, &nc) ||
	    (app->tcmu && tcmu_server_list(app->tcmu, &devices, &nd)))
		return NULL;
	list = json_array();
	for (size_t i = 0; i < ns; i++)
		json_array_append_new(list, iscsi_session(&sessions[i]));
	for (size_t i = 0; i < nc; i++)
		if (clients[i].lun[0])
			json_array_append_new(list, port_session(&clients[i]));
	for (size_t i = 0; i < nd; i++)
		if (devices[i].open)
			json_array_append_new(list, tcmu_session(&devices[i]));
	return list;
}

json_t *appliance_report_memory(struct appliance *app)
{
	json_t *o = memory_report(app->memory), *list = json_array();
	struct lun **luns;
	size_t n;

	if (!o || !list || lun_table_list(app->table, &luns, &n)) {
		json_decref(o);
		json_decref(list);
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		json_t *l = report_lun_cache(luns[i]);

		if (json_is_object(l)) {
			json_object_set_new(l, "name", json_text(lun_name(luns[i])));
			json_array_append(list, l);
		}
		json_decref(l);
	}
	lun_table_free_list(luns, n);
	json_object_set_new(o, "luns", list);
	return o;
}

/* --- the whole --- */

static json_t *report_nbd(struct appliance *app)
{
	struct nbd_supervisor_status st;
	json_t *listen = json_array(), *o;
	const char *addr;

	if (!app->nbd)
		return json_pack("{s:o, s:b}", "listen", listen, "ready", 0);
	nbd_supervisor_get_status(app->nbd, &st);
	for (unsigned i = 0; (addr = nbd_supervisor_address(app->nbd, i)); i++)
		json_array_append_new(listen, json_text(addr));
	o = json_pack("{s:o, s:b, s:i, s:I}", "listen", listen, "ready", st.ready, "nbdkit_pid",
		      (int)st.pid, "restarts", (json_int_t)st.restarts);
	return o;
}

static json_t *report_iscsi(struct appliance *app, const struct snapshot *s)
{
	const struct iscsi_counters *c = iscsi_server_counters(app->iscsi);
	json_t *portals = json_array(), *counters = json_object();
	unsigned sessions, unauth;

	for (size_t i = 0; i < s->n_portals; i++)
		json_array_append_new(portals, json_text(s->portals[i]));
#define X(name, help) \
	json_object_set_new(counters, #name, json_integer((json_int_t)metric_read(&c->name)));
	ISCSI_COUNTERS(X)
#undef X
	iscsi_server_gauges(app->iscsi, &sessions, &unauth);
	return json_pack("{s:o, s:i, s:i, s:o}", "portals", portals, "sessions", (int)sessions,
			 "unauthenticated", (int)unauth, "counters", counters);
}

/* Backstores that LIO has of our LUNs; JSON null: LUNs are not offered to it. */
static json_t *report_tcmu(struct appliance *app)
{
	_cleanup_free_ struct tcmu_device_info *v = NULL;
	json_t *list = json_array(), *o;
	size_t n = 0;

	if (!app->tcmu && !app->tcmu_problem.text[0]) {
		json_decref(list);
		return json_null();
	}
	if (app->tcmu && tcmu_server_list(app->tcmu, &v, &n))
		n = 0;
	for (size_t i = 0; i < n; i++) {
		o = json_pack("{s:o, s:s, s:b}", "backstore", json_text(v[i].name.backstore), "lun",
			      v[i].name.lun, "open", v[i].open);
		if (v[i].problem[0])
			json_object_set_new(o, "problem", json_text(v[i].problem));
		json_array_append_new(list, o);
	}
	o = json_pack("{s:o}", "devices", list);
	if (!app->tcmu)
		json_object_set_new(o, "problem", json_text(app->tcmu_problem.text));
	return o;
}

/* Bytes that the process has resident, from /proc. */
static json_int_t resident_bytes(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/statm", "re");
	long long pages = 0;

	if (!f || fscanf(f, "%*d %lld", &pages) != 1)
		return 0;
	return (json_int_t)pages * sysconf(_SC_PAGESIZE);
}

static void add_problems(json_t *list, const struct plan_problem *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_pack("{s:o, s:o}", "name", json_text(p[i].name),
						      "problem", json_text(p[i].text)));
}

json_t *appliance_report_status(struct appliance *app)
{
	_cleanup_free_ struct plan_problem *lio = NULL;
	json_t *problems = json_array(), *o;
	struct port_stats ps;
	struct snapshot s;
	size_t n_lio;

	if (!problems || app_lio_problems(app, &lio, &n_lio) || take_snapshot(app, &s)) {
		json_decref(problems);
		return NULL;
	}
	port_server_stats(app->port, &ps);
	add_problems(problems, s.problems, s.n_problems);
	add_problems(problems, lio, n_lio);
	o = json_pack("{s:s, s:i, s:f, s:i, s:I, s:i, s:o, s:o, s:o, s:{s:o, s:I, s:I, s:I}, s:o, "
		      "s:o}",
		      "version", EBB_VERSION, "pid", (int)getpid(), "uptime_s",
		      (double)(clock_now_ns() - app->start_ns) / (double)NSEC_PER_SEC, "threads",
		      (int)reactor_set_count(app->reactors), "resident_bytes", resident_bytes(),
		      "luns", (int)s.n_luns, "iscsi", report_iscsi(app, &s), "nbd", report_nbd(app),
		      "tcmu", report_tcmu(app), "port", "socket", json_text(app->port_socket),
		      "clients", (json_int_t)ps.clients, "resident_bytes",
		      (json_int_t)ps.resident_bytes, "violations", (json_int_t)ps.violations,
		      "config", json_text(app->config_path), "problems", problems);
	free_snapshot(&s);
	return o;
}
