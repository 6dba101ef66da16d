/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Both sides are sorted by name and walked together, so that a plan for 65,536 LUNs takes no
 * quadratic time. Steps are made in any order and sorted by kind at the end; within a kind they
 * stay in order of name.
 */
#include "control/plan.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "control/json_text.h"
#include "control/size.h"

static const char *const kind_name[] = {
#define X(name, words, why) words,
	PLAN_KINDS(X)
#undef X
};

const char *plan_kind_name(enum plan_kind kind)
{
	return kind_name[kind];
}

/* Both NULL, or equal. */
static bool same(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static bool same_strings(char *const *a, size_t na, char *const *b, size_t nb)
{
	if (na != nb)
		return false;
	for (size_t i = 0; i < na; i++)
		if (strcmp(a[i], b[i]))
			return false;
	return true;
}

static struct plan_step *add_step(struct plan *p, enum plan_kind kind, const char *name)
{
	struct plan_step *s;

	if (p->n == p->room) {
		size_t room = p->room ? p->room * 2 : 16;

		s = realloc(p->steps, room * sizeof(*s));
		if (!s)
			return NULL;
		p->steps = s;
		p->room = room;
	}
	s = &p->steps[p->n++];
	memset(s, 0, sizeof(*s));
	s->kind = kind;
	snprintf(s->name, sizeof(s->name), "%s", name);
	return s;
}

static void set_text(char *buf, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void set_text(char *buf, size_t size, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf, size, fmt, ap);
	va_end(ap);
}
#define set_problem(s, ...) set_text((s)->problem, sizeof((s)->problem), __VA_ARGS__)
#define set_detail(s, ...)  set_text((s)->detail, sizeof((s)->detail), __VA_ARGS__)

void plan_set_busy(struct plan_step *s, unsigned users)
{
	if (users)
		set_problem(s, "busy: %u session%s", users, users == 1 ? "" : "s");
}

/* --- LUNs --- */

static bool lio_shows(const struct config_lio *lio, const char *name)
{
	for (unsigned i = 0; lio && i < lio->targets_count; i++)
		for (unsigned j = 0; j < lio->targets[i].luns_count; j++)
			if (!strcmp(lio->targets[i].map[j].name, name))
				return true;
	return false;
}

/* A LUN in use is let alone; but one that LIO loses may be in use by LIO alone. */
static void mind_users(struct plan_step *s, const struct plan_input *in, unsigned users)
{
	s->after_lio = users && lio_shows(in->lio, s->name) &&
		       !lio_shows(&in->declared->lio, s->name);
	if (!s->after_lio)
		plan_set_busy(s, users);
}

static int plan_create(struct plan *p, const struct plan_input *in, const struct config_lun *d)
{
	struct plan_step *s = add_step(p, PLAN_CREATE_LUN, d->name);
	bool may_create = d->create ? *d->create : d->size != 0;
	uint64_t size = 0;
	int ret;

	if (!s)
		return -ENOMEM;
	s->lun = d;
	set_detail(s, "%.150s", d->path);
	ret = in->look(in->ctx, d->path, &size);
	if (ret == -ENOENT && may_create && !d->read_only)
		return 0;
	if (ret)
		set_problem(s, "%.200s: %s", d->path, strerror(-ret));
	return 0;
}

/* What differs between @a and @b that only opening again can change; NULL: nothing. */
static const char *reopen_reason(const struct config_lun *a, const struct config_lun *b)
{
	if (strcmp(a->path, b->path))
		return "path";
	if (a->read_only != b->read_only)
		return "read_only";
	if (a->removable != b->removable)
		return "removable";
	if ((a->block_size ? a->block_size : 512) != (b->block_size ? b->block_size : 512))
		return "block_size";
	if (a->mode != b->mode)
		return "mode";
	if (a->cache != b->cache)
		return "cache";
	if (a->cache_weight != b->cache_weight)
		return "cache_weight";
	if (a->cache_floor != b->cache_floor)
		return "cache_floor";
	if (!same(a->description, b->description))
		return "description";
	if (b->uuid && !same(a->uuid, b->uuid))
		return "uuid";
	return NULL;
}

static int plan_size(struct plan *p, const struct plan_lun *r, const struct config_lun *d)
{
	char from[32], to[32];
	struct plan_step *s;

	if (!d->size || d->size == r->size)
		return 0;
	s = add_step(p, PLAN_RESIZE_LUN, d->name);
	if (!s)
		return -ENOMEM;
	s->lun = d;
	size_format(r->size, from, sizeof(from));
	size_format(d->size, to, sizeof(to));
	set_detail(s, "%s -> %s", from, to);
	if (d->size < r->size)
		set_problem(s, "a LUN is never made smaller: declared %s, has %s", to, from);
	return 0;
}

static int plan_existing(struct plan *p, const struct plan_input *in, const struct plan_lun *r,
			 const struct config_lun *d)
{
	const char *what = reopen_reason(r->spec, d);
	struct plan_step *s;
	uint64_t size;
	int ret = in->look(in->ctx, d->path, &size);

	if (what) {
		s = add_step(p, PLAN_REOPEN_LUN, d->name);
		if (!s)
			return -ENOMEM;
		s->lun = d;
		set_detail(s, "%s differs", what);
		mind_users(s, in, r->users);
		if (ret && !s->problem[0])
			set_problem(s, "%.200s: %s", d->path, strerror(-ret));
		return 0;
	}
	if (ret) {
		s = add_step(p, PLAN_ATTENTION, d->name);
		if (!s)
			return -ENOMEM;
		set_problem(s, "runs, but its file is gone: %.200s: %s", d->path, strerror(-ret));
	}
	return plan_size(p, r, d);
}

static int plan_removal(struct plan *p, const struct plan_input *in, const struct plan_lun *r)
{
	struct plan_step *s;

	s = add_step(p, PLAN_REMOVE_LUN, r->spec->name);
	if (!s)
		return -ENOMEM;
	set_detail(s, "%.150s", r->spec->path);
	mind_users(s, in, r->users);
	return 0;
}

static int by_lun_name(const void *a, const void *b)
{
	return strcmp((*(const struct config_lun *const *)a)->name,
		      (*(const struct config_lun *const *)b)->name);
}

static int by_running_name(const void *a, const void *b)
{
	return strcmp((*(const struct plan_lun *const *)a)->spec->name,
		      (*(const struct plan_lun *const *)b)->spec->name);
}

static int plan_luns(struct plan *p, const struct plan_input *in)
{
	size_t nd = in->declared->luns_count, nr = in->n_luns, i = 0, j = 0;
	_cleanup_free_ const struct config_lun **d = calloc(nd + 1, sizeof(void *));
	_cleanup_free_ const struct plan_lun **r = calloc(nr + 1, sizeof(void *));
	int ret = 0;

	if (!d || !r)
		return -ENOMEM;
	for (size_t k = 0; k < nd; k++)
		d[k] = &in->declared->luns[k];
	for (size_t k = 0; k < nr; k++)
		r[k] = &in->luns[k];
	qsort(d, nd, sizeof(*d), by_lun_name);
	qsort(r, nr, sizeof(*r), by_running_name);
	while (!ret && (i < nd || j < nr)) {
		int order = i == nd ? 1 : j == nr ? -1 : strcmp(d[i]->name, r[j]->spec->name);

		if (order < 0)
			ret = plan_create(p, in, d[i++]);
		else if (order > 0)
			ret = plan_removal(p, in, r[j++]);
		else
			ret = plan_existing(p, in, r[j++], d[i++]);
	}
	return ret;
}

/* --- targets --- */

static bool same_user(const struct config_user *a, const struct config_user *b)
{
	return a && b ? same(a->user, b->user) && same(a->secret, b->secret) : a == b;
}

static bool same_chap(const struct config_chap *a, const struct config_chap *b)
{
	if (!a || !b)
		return a == b;
	if (a->users_count != b->users_count || !same_user(a->mutual, b->mutual) ||
	    a->algorithms != b->algorithms)
		return false;
	for (unsigned i = 0; i < a->users_count; i++)
		if (!same_user(&a->users[i], &b->users[i]))
			return false;
	return true;
}

static bool in_map(const struct config_map *m, const struct config_target *t)
{
	for (unsigned i = 0; i < t->luns_count; i++)
		if (t->map[i].number == m->number && !strcmp(t->map[i].name, m->name))
			return true;
	return false;
}

/* In any order; numbers are unique within a target. */
static bool same_map(const struct config_target *a, const struct config_target *b)
{
	if (a->luns_count != b->luns_count)
		return false;
	for (unsigned i = 0; i < a->luns_count; i++)
		if (!in_map(&a->map[i], b))
			return false;
	return true;
}

bool plan_same_target(const struct config_target *a, const struct config_target *b)
{
	if (a->initiators_count != b->initiators_count || !same(a->alias, b->alias) ||
	    a->header_digest != b->header_digest || a->data_digest != b->data_digest)
		return false;
	for (unsigned i = 0; i < a->initiators_count; i++)
		if (strcmp(a->initiators[i], b->initiators[i]))
			return false;
	return same_chap(a->chap, b->chap) && same_map(a, b);
}

static int by_iqn(const void *a, const void *b)
{
	return strcmp((*(const struct config_target *const *)a)->iqn,
		      (*(const struct config_target *const *)b)->iqn);
}

static int by_running_iqn(const void *a, const void *b)
{
	return strcmp((*(const struct plan_target *const *)a)->spec->iqn,
		      (*(const struct plan_target *const *)b)->spec->iqn);
}

static int plan_target_pair(struct plan *p, const struct config_target *d,
			    const struct plan_target *r)
{
	enum plan_kind kind = !r   ? PLAN_CREATE_TARGET
			      : !d ? PLAN_REMOVE_TARGET
				   : PLAN_CHANGE_TARGET;
	struct plan_step *s;

	if (d && r && plan_same_target(d, r->spec))
		return 0;
	s = add_step(p, kind, d ? d->iqn : r->spec->iqn);
	if (!s)
		return -ENOMEM;
	s->target = d;
	if (d)
		set_detail(s, "%u LUN%s", d->luns_count, d->luns_count == 1 ? "" : "s");
	if (!d)
		plan_set_busy(s, r->sessions);
	return 0;
}

static int plan_targets(struct plan *p, const struct plan_input *in)
{
	const struct config *c = in->declared;
	size_t nd = 0, nr = in->n_targets, i = 0, j = 0;
	_cleanup_free_ const struct config_target **d =
		calloc(c->iscsi.targets_count + c->auto_targets_count + 1, sizeof(void *));
	_cleanup_free_ const struct plan_target **r = calloc(nr + 1, sizeof(void *));
	int ret = 0;

	if (!d || !r)
		return -ENOMEM;
	for (unsigned k = 0; k < c->iscsi.targets_count; k++)
		d[nd++] = &c->iscsi.targets[k];
	for (unsigned k = 0; k < c->auto_targets_count; k++)
		d[nd++] = &c->auto_targets[k];
	for (size_t k = 0; k < nr; k++)
		r[k] = &in->targets[k];
	qsort(d, nd, sizeof(*d), by_iqn);
	qsort(r, nr, sizeof(*r), by_running_iqn);
	while (!ret && (i < nd || j < nr)) {
		int order = i == nd ? 1 : j == nr ? -1 : strcmp(d[i]->iqn, r[j]->spec->iqn);
		const struct config_target *declared = order <= 0 ? d[i++] : NULL;

		ret = plan_target_pair(p, declared, order >= 0 ? r[j++] : NULL);
	}
	return ret;
}

/* --- targets of the kernel; what is done about them is ebb-lio's --- */

static bool same_lio_chap(const struct config_lio_chap *a, const struct config_lio_chap *b)
{
	return a && b ? same_user(&a->user, &b->user) && same_user(a->mutual, b->mutual) : a == b;
}

/* In the same order, which says the numbers of LUNs that have none. */
static bool same_maps(const struct config_map *a, unsigned na, const struct config_map *b,
		      unsigned nb)
{
	if (na != nb)
		return false;
	for (unsigned i = 0; i < na; i++)
		if (a[i].number != b[i].number || strcmp(a[i].name, b[i].name))
			return false;
	return true;
}

static bool same_acl(const struct config_lio_acl *a, const struct config_lio_acl *b)
{
	return !strcmp(a->initiator, b->initiator) && same_lio_chap(a->chap, b->chap) &&
	       same_maps(a->map, a->luns_count, b->map, b->luns_count);
}

static bool same_lio_target(const struct config_lio *la, const struct config_lio_target *a,
			    const struct config_lio *lb, const struct config_lio_target *b)
{
	unsigned na, nb;
	char *const *pa = config_lio_portals(la, a, &na), *const *pb =
								  config_lio_portals(lb, b, &nb);

	if (!same_strings(pa, na, pb, nb) || !same_lio_chap(a->chap, b->chap) ||
	    !same_maps(a->map, a->luns_count, b->map, b->luns_count) ||
	    a->acls_count != b->acls_count)
		return false;
	for (unsigned i = 0; i < a->acls_count; i++)
		if (!same_acl(&a->acls[i], &b->acls[i]))
			return false;
	return true;
}

static const struct config_lio_target *find_lio(const struct config_lio *lio, const char *iqn)
{
	for (unsigned i = 0; lio && i < lio->targets_count; i++)
		if (!strcmp(lio->targets[i].iqn, iqn))
			return &lio->targets[i];
	return NULL;
}

static int plan_lio(struct plan *p, const struct plan_input *in)
{
	const struct config_lio *r = in->lio, *d = &in->declared->lio;
	const struct config_lio_target *old;
	struct plan_step *s;

	for (unsigned i = 0; r && i < r->targets_count; i++)
		if (!find_lio(d, r->targets[i].iqn) &&
		    !add_step(p, PLAN_REMOVE_LIO, r->targets[i].iqn))
			return -ENOMEM;
	for (unsigned i = 0; i < d->targets_count; i++) {
		const struct config_lio_target *t = &d->targets[i];

		old = find_lio(r, t->iqn);
		if (old && same_lio_target(r, old, d, t))
			continue;
		s = add_step(p, old ? PLAN_CHANGE_LIO : PLAN_CREATE_LIO, t->iqn);
		if (!s)
			return -ENOMEM;
		set_detail(s, "%u LUN%s", t->luns_count, t->luns_count == 1 ? "" : "s");
	}
	return 0;
}

/* --- portals, and what only a start can change --- */

static bool listed(const char *s, char *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(v[i], s))
			return true;
	return false;
}

static int plan_portals(struct plan *p, const struct plan_input *in)
{
	const struct config_iscsi *c = &in->declared->iscsi;

	for (size_t i = 0; i < in->n_portals; i++)
		if (!listed(in->portals[i], c->portals, c->portals_count) &&
		    !add_step(p, PLAN_REMOVE_PORTAL, in->portals[i]))
			return -ENOMEM;
	for (unsigned i = 0; i < c->portals_count; i++)
		if (!listed(c->portals[i], (char *const *)in->portals, in->n_portals) &&
		    !add_step(p, PLAN_ADD_PORTAL, c->portals[i]))
			return -ENOMEM;
	return 0;
}

static void format_limit(uint64_t bytes, char *buf, size_t size)
{
	if (bytes)
		size_format(bytes, buf, size);
	else
		snprintf(buf, size, "default");
}

static int plan_memory(struct plan *p, const struct plan_input *in)
{
	const struct config_memory *r = in->memory, *d = &in->declared->memory;
	char from[2][32], to[2][32];
	struct plan_step *s;

	if (!r || (r->max == d->max && r->floor == d->floor))
		return 0;
	s = add_step(p, PLAN_SET_MEMORY, "memory");
	if (!s)
		return -ENOMEM;
	s->memory = d;
	format_limit(r->max, from[0], sizeof(from[0]));
	format_limit(d->max, to[0], sizeof(to[0]));
	format_limit(r->floor, from[1], sizeof(from[1]));
	format_limit(d->floor, to[1], sizeof(to[1]));
	set_detail(s, "max %s -> %s, floor %s -> %s", from[0], to[0], from[1], to[1]);
	return 0;
}

static int plan_cache_room(struct plan *p, const struct plan_input *in)
{
	struct plan_step *s;
	char room[32];

	if (!in->cache_room)
		return 0;
	s = add_step(p, PLAN_ATTENTION, "memory.max");
	if (!s)
		return -ENOMEM;
	size_format(in->cache_room, room, sizeof(room));
	set_problem(s, "the read cache was started with room for %s: more takes a restart", room);
	return 0;
}

static int plan_settings(struct plan *p, const struct plan_input *in)
{
	const struct config *a = in->started_with, *b = in->declared;

	if (!a)
		return 0;
	const struct {
		const char *key;
		bool same;
	} settings[] = {
		{"threads", a->threads == b->threads},
		{"state_dir", same(a->state_dir, b->state_dir)},
		{"runtime_dir", same(a->runtime_dir, b->runtime_dir)},
		{"socket", same(a->socket, b->socket)},
		{"user", same(a->user, b->user)},
		{"memory.tmem", a->memory.tmem.codec == b->memory.tmem.codec &&
					a->memory.tmem.share == b->memory.tmem.share},
		{"iscsi.limits",
		 !memcmp(&a->iscsi.limits, &b->iscsi.limits, sizeof(a->iscsi.limits))},
		{"iscsi.discovery_chap",
		 same_chap(a->iscsi.discovery_chap, b->iscsi.discovery_chap)},
		{"nbd.listen", same_strings(a->nbd.listen, a->nbd.listen_count, b->nbd.listen,
					    b->nbd.listen_count)},
		{"nbd", same(a->nbd.nbdkit, b->nbd.nbdkit) &&
				same(a->nbd.default_export, b->nbd.default_export) &&
				a->nbd.threads == b->nbd.threads},
		{"nbd.tls", a->nbd.tls.mode == b->nbd.tls.mode &&
				    same(a->nbd.tls.certificates, b->nbd.tls.certificates) &&
				    same(a->nbd.tls.psk, b->nbd.tls.psk) &&
				    a->nbd.tls.verify_peer == b->nbd.tls.verify_peer},
		{"tcmu", a->tcmu == b->tcmu},
		{"metrics",
		 same_strings(a->metrics, a->metrics_count, b->metrics, b->metrics_count)},
	};
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		struct plan_step *s;

		if (settings[i].same)
			continue;
		s = add_step(p, PLAN_ATTENTION, settings[i].key);
		if (!s)
			return -ENOMEM;
		set_problem(s, "differs from what the daemon was started with: takes a restart");
	}
	return 0;
}

static int plan_notes(struct plan *p, const struct plan_input *in)
{
	for (size_t i = 0; i < in->n_notes; i++) {
		struct plan_step *s = add_step(p, PLAN_ATTENTION, in->notes[i].name);

		if (!s)
			return -ENOMEM;
		set_problem(s, "%s", in->notes[i].text);
	}
	return 0;
}

static int by_kind(const void *a, const void *b)
{
	const struct plan_step *x = a, *y = b;

	return x->kind != y->kind ? (int)x->kind - (int)y->kind : strcmp(x->name, y->name);
}

/* An automatic target waits for its LUN. */
static void hold_targets(struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		struct plan_step *s = &p->steps[i];
		struct plan_step key = {.kind = PLAN_CREATE_LUN}, *lun;

		if (s->kind != PLAN_CREATE_TARGET || !s->target->automatic)
			continue;
		snprintf(key.name, sizeof(key.name), "%s", s->target->map[0].name);
		lun = bsearch(&key, p->steps, p->n, sizeof(*p->steps), by_kind);
		if (lun && lun->problem[0])
			set_problem(s, "LUN '%.80s' cannot be created", key.name);
	}
}

int plan_make(const struct plan_input *in, struct plan **ret_plan)
{
	struct plan *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return -ENOMEM;
	ret = plan_luns(p, in);
	if (!ret)
		ret = plan_targets(p, in);
	if (!ret)
		ret = plan_lio(p, in);
	if (!ret)
		ret = plan_portals(p, in);
	if (!ret)
		ret = plan_memory(p, in);
	if (!ret)
		ret = plan_cache_room(p, in);
	if (!ret)
		ret = plan_settings(p, in);
	if (!ret)
		ret = plan_notes(p, in);
	if (ret) {
		plan_free(p);
		return ret;
	}
	if (p->n)
		qsort(p->steps, p->n, sizeof(*p->steps), by_kind);
	hold_targets(p);
	*ret_plan = p;
	return 0;
}

void plan_free(struct plan *p)
{
	if (!p)
		return;
	free(p->steps);
	free(p);
}

size_t plan_problems(const struct plan *p)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n; i++)
		n += p->steps[i].problem[0] != '\0';
	return n;
}

json_t *plan_to_json(const struct plan *p)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < p->n; i++) {
		const struct plan_step *s = &p->steps[i];
		json_t *o = json_pack("{s:s, s:o}", "action", kind_name[s->kind], "name",
				      json_text(s->name));

		if (s->detail[0])
			json_object_set_new(o, "detail", json_text(s->detail));
		if (s->problem[0])
			json_object_set_new(o, "problem", json_text(s->problem));

		if (json_array_append_new(list, o) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}
