/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The steps of a plan, one function each. A step either happens or changes nothing, and says why.
 *
 * Opening a LUN is the slow one (locks, probes, an fsync of its identity): neighbouring
 * CREATE_LUN steps are taken by a few threads side by side, which end with them.
 *
 * A killed instance may hold its files and ports for an instant longer than its process: the kernel
 * ends its io_uring requests in the background. So "in use" is believed only after a short while.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "control/appliance_private.h"
#include "event/listen_socket.h"

#define IN_USE_PAUSE_NS (20 * NSEC_PER_MSEC)
#define OPENERS		8

/* --- the sorted arrays --- */

static const char *lun_name_at(struct appliance *app, size_t i)
{
	return app->luns[i]->spec.name;
}

static const char *target_name_at(struct appliance *app, size_t i)
{
	return app->targets[i]->spec.iqn;
}

/* Where @name is, or belongs, among the @n that @name_at tells in order. */
static size_t place(struct appliance *app, size_t n,
		    const char *(*name_at)(struct appliance *app, size_t i), const char *name,
		    bool *ret_found)
{
	size_t lo = 0, hi = n;

	*ret_found = false;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int d = strcmp(name_at(app, mid), name);

		*ret_found |= !d;
		if (d < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static size_t lun_place(struct appliance *app, const char *name, bool *ret_found)
{
	return place(app, app->n_luns, lun_name_at, name, ret_found);
}

static size_t target_place(struct appliance *app, const char *iqn, bool *ret_found)
{
	return place(app, app->n_targets, target_name_at, iqn, ret_found);
}

struct app_lun *app_find_lun(struct appliance *app, const char *name)
{
	bool found;
	size_t i = lun_place(app, name, &found);

	return found ? app->luns[i] : NULL;
}

struct app_target *app_find_target(struct appliance *app, const char *iqn)
{
	bool found;
	size_t i = target_place(app, iqn, &found);

	return found ? app->targets[i] : NULL;
}

/* Makes room for one more pointer in *@array of @n. */
static int grow_array(void *array, size_t n)
{
	void **v = realloc(*(void ***)array, (n + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	*(void ***)array = v;
	return 0;
}

static void insert_pointer(void *array, size_t *n, size_t at, void *p)
{
	void **v = *(void ***)array;

	memmove(v + at + 1, v + at, (*n - at) * sizeof(*v));
	v[at] = p;
	++*n;
}

static void erase_pointer(void *array, size_t *n, size_t at)
{
	void **v = *(void ***)array;

	--*n;
	memmove(v + at, v + at + 1, (*n - at) * sizeof(*v));
}

/* --- LUNs --- */

static void free_lun(struct app_lun *l)
{
	if (!l)
		return;
	if (l->lu)
		scsi_lu_unref(l->lu);
	if (l->lun)
		lun_unref(l->lun);
	if (l->memory)
		memory_leave_lun(l->memory);
	config_clear_lun(&l->spec);
	free(l);
}

/*
 * lun_open(), believing -EBUSY after a while only: an instance that was killed may have the file
 * still, and so may a LUN that was deleted, which somebody else closes.
 */
static int open_patiently(const struct lun_options *opt, struct lun **ret_lun, struct reason *why)
{
	uint64_t end = clock_now_ns() + LISTEN_IN_USE_NS;
	int ret;

	while ((ret = lun_open(opt, ret_lun, why)) == -EBUSY && clock_now_ns() < end)
		clock_pause(IN_USE_PAUSE_NS);
	return ret;
}

/* A declared weight or floor asks for it too. */
static bool asks_for_cache(const struct config_lun *l)
{
	return l->cache == CONFIG_CACHE_READ || l->cache_weight || l->cache_floor;
}

static int make_lun(struct appliance *app, const struct config_lun *spec, struct app_lun **ret_lun,
		    struct reason *why)
{
	struct lun_options opt = {
		.name = spec->name,
		.path = spec->path,
		.mode = spec->mode,
		.read_only = spec->read_only,
		.removable = spec->removable,
		.create = spec->create ? *spec->create : spec->size != 0,
		.block_size = spec->block_size,
		.state_dirfd = app->state_dirfd,
		.uuid = spec->uuid,
		.description = spec->description,
		.cache = spec->cache == CONFIG_CACHE_NONE ? NULL : memory_cache(app->memory),
		.cache_direct_only = !asks_for_cache(spec),
		.cache_weight = spec->cache_weight,
		.cache_floor = spec->cache_floor,
	};
	struct scsi_lu_options lu_opt = {.thin = true};
	struct app_lun *l = calloc(1, sizeof(*l));
	int ret;

	if (!l || !config_copy_lun(&l->spec, spec)) {
		free(l);
		return reason_set(why, ENOMEM, "out of memory");
	}
	if (opt.create && access(spec->path, F_OK) == 0)
		opt.create = false; /* what is there keeps its size; a larger one is grown to */
	opt.size = opt.create ? spec->size : 0;
	ret = memory_enter_lun(app->memory, spec->name, why);
	if (!ret) {
		l->memory = app->memory;
		ret = open_patiently(&opt, &l->lun, why);
	}
	if (!ret && spec->size > lun_size(l->lun) && !spec->read_only)
		ret = lun_resize(l->lun, spec->size, why);
	if (!ret)
		ret = scsi_lu_create(l->lun, &lu_opt, &l->lu, why);
	if (ret) {
		free_lun(l);
		return ret;
	}
	*ret_lun = l;
	return 0;
}

/* LIO is not offered LUN @name any more. */
static void withdraw_lun(struct appliance *app, const char *name)
{
	if (app->tcmu)
		tcmu_server_remove_lun(app->tcmu, name);
}

static int enter_lun(struct appliance *app, struct app_lun *l, struct reason *why)
{
	bool found;
	size_t at;

	mutex_scope(&app->lock);
	at = lun_place(app, l->spec.name, &found);
	if (found)
		return reason_set(why, EEXIST, "a LUN '%s' is there already", l->spec.name);
	if (grow_array(&app->luns, app->n_luns) ||
	    (app->tcmu && tcmu_server_add_lun(app->tcmu, l->lu)))
		return reason_set(why, ENOMEM, "out of memory");
	if (lun_table_add(app->table, l->lun)) {
		withdraw_lun(app, l->spec.name);
		return reason_set(why, ENOMEM, "out of memory");
	}
	insert_pointer(&app->luns, &app->n_luns, at, l);
	return 0;
}

int app_open_lun(struct appliance *app, const struct config_lun *spec, struct reason *why)
{
	struct app_lun *l = NULL;
	int ret = make_lun(app, spec, &l, why);

	if (ret)
		return ret;
	ret = enter_lun(app, l, why);
	if (ret)
		free_lun(l);
	return ret;
}

/* Takes LUN @name off every target; the places are noted nowhere: the declaration has them. */
static void unmap_lun_locked(struct appliance *app, const char *name)
{
	mutex_assert_held(&app->lock);
	for (size_t i = 0; i < app->n_targets; i++) {
		struct config_target *t = &app->targets[i]->spec;

		for (unsigned j = 0; j < t->luns_count;) {
			if (strcmp(t->map[j].name, name)) {
				j++;
				continue;
			}
			scsi_target_unmap(app->targets[i]->scsi, t->map[j].number);
			memmove(&t->map[j], &t->map[j + 1],
				(--t->luns_count - j) * sizeof(t->map[0]));
		}
	}
}

int app_close_lun(struct appliance *app, const char *name, struct reason *why)
{
	struct app_lun *l;
	bool found;
	size_t at;

	mutex_lock(&app->lock);
	at = lun_place(app, name, &found);
	if (!found) {
		mutex_unlock(&app->lock);
		return reason_set(why, ENOENT, "no LUN is called '%.80s'", name);
	}
	l = app->luns[at];
	unmap_lun_locked(app, name);
	erase_pointer(&app->luns, &app->n_luns, at);
	mutex_unlock(&app->lock);
	withdraw_lun(app, name);
	lun_table_remove(app->table, name);
	free_lun(l);
	return 0;
}

static int grow_lun(struct appliance *app, const struct plan_step *s, struct reason *why)
{
	struct lun *lun = lun_table_find(app->table, s->name);
	int ret;

	if (!lun)
		return reason_set(why, ENOENT, "no LUN is called '%.80s'", s->name);
	ret = lun_resize(lun, s->lun->size, why);
	lun_unref(lun);
	return ret;
}

/* --- targets --- */

static int map_lun(struct appliance *app, struct app_target *t, const struct config_map *m,
		   struct reason *why)
{
	struct app_lun *l = app_find_lun(app, m->name);
	int ret;

	if (!l)
		return reason_set(why, ENOENT, "LUN '%s' is not there", m->name);
	ret = scsi_target_map(t->scsi, m->number, l->lu);
	if (ret)
		return reason_set(why, -ret, "LUN '%s' as number %u: %s", m->name, m->number,
				  strerror(-ret));
	t->spec.map[t->spec.luns_count++] = *m;
	return 0;
}

static bool shows(const struct config_target *t, const struct config_map *m)
{
	for (unsigned i = 0; i < t->luns_count; i++)
		if (t->map[i].number == m->number && !strcmp(t->map[i].name, m->name))
			return true;
	return false;
}

/*
 * Brings what @t shows to what @d declares: first what goes, then what comes, so that a number may
 * pass from one LUN to another. What cannot be shown is left out, and the last such is the reason.
 */
static int change_map_locked(struct appliance *app, struct app_target *t,
			     const struct config_target *d, struct reason *why)
{
	struct config_map *bigger;
	int ret = 0, err;

	mutex_assert_held(&app->lock);
	bigger = realloc(t->spec.map,
			 (t->spec.luns_count + d->luns_count + 1) * sizeof(*t->spec.map));
	if (!bigger)
		return reason_set(why, ENOMEM, "out of memory");
	t->spec.map = bigger;
	for (unsigned i = 0; i < t->spec.luns_count;) {
		if (shows(d, &bigger[i])) {
			i++;
			continue;
		}
		scsi_target_unmap(t->scsi, bigger[i].number);
		memmove(&bigger[i], &bigger[i + 1], (--t->spec.luns_count - i) * sizeof(*bigger));
	}
	for (unsigned i = 0; i < d->luns_count; i++) {
		if (shows(&t->spec, &d->map[i]))
			continue;
		err = map_lun(app, t, &d->map[i], why);
		if (err)
			ret = err;
	}
	return ret;
}

static void free_target(struct app_target *t)
{
	if (!t)
		return;
	if (t->scsi) {
		for (unsigned i = 0; i < t->spec.luns_count; i++)
			scsi_target_unmap(t->scsi, t->spec.map[i].number);
		scsi_target_unref(t->scsi);
	}
	config_clear_target(&t->spec);
	free(t);
}

struct server_config {
	struct iscsi_target_config cfg;
	struct iscsi_chap_user self, *users;
};

/* What the iSCSI server wants to know of @d. The strings stay @d's. */
static int fill_server_config(struct server_config *sc, const struct config_target *d,
			      struct scsi_target *scsi)
{
	memset(sc, 0, sizeof(*sc));
	sc->cfg = (struct iscsi_target_config){
		.name = d->iqn,
		.alias = d->alias,
		.scsi = scsi,
		.acl = (const char *const *)d->initiators,
		.n_acl = d->initiators_count,
		.require_header_digest = d->header_digest,
		.require_data_digest = d->data_digest,
	};
	if (!d->chap)
		return 0;
	sc->users = calloc(d->chap->users_count, sizeof(*sc->users));
	if (!sc->users)
		return -ENOMEM;
	for (unsigned i = 0; i < d->chap->users_count; i++)
		sc->users[i] =
			(struct iscsi_chap_user){d->chap->users[i].user, d->chap->users[i].secret};
	sc->cfg.users = sc->users;
	sc->cfg.n_users = d->chap->users_count;
	sc->cfg.algorithms = d->chap->algorithms;
	if (d->chap->mutual) {
		sc->self = (struct iscsi_chap_user){d->chap->mutual->user, d->chap->mutual->secret};
		sc->cfg.self = &sc->self;
	}
	return 0;
}

static int enter_target(struct appliance *app, struct app_target *t, struct reason *why)
{
	struct server_config sc;
	bool found;
	size_t at;
	int ret;

	ret = fill_server_config(&sc, &t->spec, t->scsi);
	if (!ret)
		ret = iscsi_server_add_target(app->iscsi, &sc.cfg, why);
	free(sc.users);
	if (ret)
		return ret;
	mutex_scope(&app->lock);
	at = target_place(app, t->spec.iqn, &found);
	insert_pointer(&app->targets, &app->n_targets, at, t);
	return 0;
}

static int create_target(struct appliance *app, const struct config_target *d, struct reason *why)
{
	struct app_target *t = calloc(1, sizeof(*t));
	int ret, unshown;

	if (!t || !config_copy_target(&t->spec, d)) {
		free(t);
		return reason_set(why, ENOMEM, "out of memory");
	}
	t->spec.luns_count = 0;
	ret = scsi_target_create(d->iqn, &t->scsi);
	if (!ret)
		ret = scsi_target_set_ports(t->scsi, 1);
	if (ret) {
		free_target(t);
		return reason_set(why, -ret, "%s: %s", d->iqn, strerror(-ret));
	}
	mutex_lock(&app->lock);
	unshown = change_map_locked(app, t, d, why);
	ret = grow_array(&app->targets, app->n_targets);
	mutex_unlock(&app->lock);
	if (!ret && !(unshown && d->automatic))
		ret = enter_target(app, t, why);
	else if (!ret)
		ret = unshown;
	if (ret)
		free_target(t);
	return ret ? ret : unshown;
}

static int change_target(struct appliance *app, const struct config_target *d, struct reason *why)
{
	struct app_target *t = app_find_target(app, d->iqn);
	struct config_target fresh;
	struct server_config sc;
	int ret;

	if (!t)
		return reason_set(why, ENOENT, "no target is called '%.223s'", d->iqn);
	if (!config_copy_target(&fresh, d))
		return reason_set(why, ENOMEM, "out of memory");
	ret = fill_server_config(&sc, &fresh, t->scsi);
	if (!ret)
		ret = iscsi_server_update_target(app->iscsi, &sc.cfg, why);
	free(sc.users);
	if (ret) {
		config_clear_target(&fresh);
		return ret;
	}
	mutex_scope(&app->lock);
	ret = change_map_locked(app, t, d, why);
	if (!ret) { /* all of it is shown */
		config_clear_target(&t->spec);
		t->spec = fresh;
		return 0;
	}
	/* The map stays what is shown; the rest is what was declared. */
	free(fresh.map);
	fresh.map = t->spec.map;
	fresh.luns_count = t->spec.luns_count;
	t->spec.map = NULL;
	config_clear_target(&t->spec);
	t->spec = fresh;
	return ret;
}

static int remove_target(struct appliance *app, const char *iqn)
{
	struct app_target *t;
	bool found;
	size_t at;

	iscsi_server_remove_target(app->iscsi, iqn);
	mutex_lock(&app->lock);
	at = target_place(app, iqn, &found);
	t = found ? app->targets[at] : NULL;
	if (found)
		erase_pointer(&app->targets, &app->n_targets, at);
	mutex_unlock(&app->lock);
	free_target(t);
	return 0;
}

/* --- reopening --- */

/* Shows LUN @name again where targets @saved showed it. */
static int remap(struct appliance *app, const char *name, const struct config_map *places,
		 const size_t *targets, size_t n, struct reason *why)
{
	int ret = 0;

	mutex_scope(&app->lock);
	for (size_t i = 0; i < n && !ret; i++)
		ret = map_lun(app, app->targets[targets[i]], &places[i], why);
	return ret;
}

/* Closes the LUN and opens it as declared now; when that fails, as it was. */
static int reopen_lun(struct appliance *app, const struct config_lun *d, struct reason *why)
{
	struct app_lun *old = app_find_lun(app, d->name);
	_cleanup_free_ struct config_map *places = NULL;
	_cleanup_free_ size_t *targets = NULL;
	struct config_lun before;
	size_t n = 0;
	int ret, again;

	if (!old)
		return reason_set(why, ENOENT, "no LUN is called '%.80s'", d->name);
	for (size_t i = 0; i < app->n_targets; i++)
		n += app->targets[i]->spec.luns_count;
	places = calloc(n + 1, sizeof(*places));
	targets = calloc(n + 1, sizeof(*targets));
	if (!places || !targets || !config_copy_lun(&before, &old->spec))
		return reason_set(why, ENOMEM, "out of memory");
	n = 0;
	for (size_t i = 0; i < app->n_targets; i++) {
		const struct config_target *t = &app->targets[i]->spec;

		for (unsigned j = 0; j < t->luns_count; j++) {
			if (strcmp(t->map[j].name, d->name))
				continue;
			places[n] = t->map[j];
			targets[n++] = i;
		}
	}
	ret = app_close_lun(app, d->name, why);
	if (!ret) {
		ret = app_open_lun(app, d, why);
		again = ret ? app_open_lun(app, &before, NULL) : 0;
		if (again)
			reason_prefix(why, ret, "the LUN is closed now");
		else
			again = remap(app, d->name, places, targets, n, ret ? NULL : why);
		ret = ret ? ret : again;
	}
	config_clear_lun(&before);
	return ret;
}

/* --- portals --- */

void app_let_replays_in(struct appliance *app)
{
	if (app->replayed)
		return;
	if (app->tcmu)
		tcmu_server_release(app->tcmu);
	port_server_release(app->port);
	port_server_await_replays(app->port);
	app->replayed = true;
}

int app_add_portal(struct appliance *app, const char *address, struct reason *why)
{
	uint64_t end = clock_now_ns() + (app->starting ? LISTEN_IN_USE_NS : 0);
	char bound[ISCSI_ADDRESS_MAX];
	char *a = NULL, *b = NULL;
	int ret;

	do
		ret = iscsi_server_add_portal(app->iscsi, address, bound, why);
	while (listen_again(ret, end));
	if (ret)
		return ret;
	a = strdup(address);
	b = strdup(bound);
	mutex_lock(&app->lock);
	if (!a || !b || grow_array(&app->portals, app->n_portals) ||
	    grow_array(&app->bound, app->n_portals)) {
		mutex_unlock(&app->lock);
		free(a);
		free(b);
		iscsi_server_remove_portal(app->iscsi, address);
		return reason_set(why, ENOMEM, "out of memory");
	}
	app->portals[app->n_portals] = a;
	app->bound[app->n_portals++] = b;
	mutex_unlock(&app->lock);
	return 0;
}

static int remove_portal(struct appliance *app, const char *address, struct reason *why)
{
	int ret = iscsi_server_remove_portal(app->iscsi, address);

	if (ret)
		return reason_set(why, -ret, "%s: %s", address, strerror(-ret));
	mutex_scope(&app->lock);
	for (size_t i = 0; i < app->n_portals; i++) {
		size_t n = app->n_portals;

		if (strcmp(app->portals[i], address))
			continue;
		free(app->portals[i]);
		free(app->bound[i]);
		erase_pointer(&app->portals, &n, i);
		erase_pointer(&app->bound, &app->n_portals, i);
		break;
	}
	return 0;
}

/* --- plans --- */

int app_do_step(struct appliance *app, const struct plan_step *s, struct reason *why)
{
	switch (s->kind) {
	case PLAN_SET_MEMORY:
		return memory_set(app->memory, s->memory, why);
	case PLAN_REMOVE_TARGET:
		return remove_target(app, s->name);
	case PLAN_REMOVE_LUN:
		return app_close_lun(app, s->name, why);
	case PLAN_REOPEN_LUN:
		return reopen_lun(app, s->lun, why);
	case PLAN_RESIZE_LUN:
		return grow_lun(app, s, why);
	case PLAN_CREATE_LUN:
		return app_open_lun(app, s->lun, why);
	case PLAN_CHANGE_TARGET:
		return change_target(app, s->target, why);
	case PLAN_CREATE_TARGET:
		return create_target(app, s->target, why);
	case PLAN_REMOVE_PORTAL:
		return remove_portal(app, s->name, why);
	case PLAN_ADD_PORTAL:
		return app_add_portal(app, s->name, why);
	case PLAN_REMOVE_LIO: /* of these ebb-lio is told when all else is done */
	case PLAN_CHANGE_LIO:
	case PLAN_CREATE_LIO:
	case PLAN_ATTENTION:
	case PLAN_KIND_COUNT:
		break;
	}
	return 0;
}

static void take_step(struct appliance *app, struct plan_step *s)
{
	struct reason why = {.text = ""};
	int ret;

	if (s->problem[0])
		return;
	ret = app_do_step(app, s, &why);
	if (ret)
		snprintf(s->problem, sizeof(s->problem), "%.290s",
			 why.text[0] ? why.text : strerror(-ret));
}

struct openers {
	struct appliance *app;
	struct plan_step *steps;
	size_t n;
	_Atomic size_t next;
};

static void *opener_main(void *arg)
{
	struct openers *o = arg;
	size_t i;

	while ((i = atomic_fetch_add(&o->next, 1)) < o->n)
		take_step(o->app, &o->steps[i]);
	return NULL;
}

/* Takes @n steps that do not depend on one another, several at a time. */
static void take_steps(struct appliance *app, struct plan_step *steps, size_t n)
{
	struct openers o = {.app = app, .steps = steps, .n = n};
	pthread_t thread[OPENERS];
	unsigned started = 0;

	while (started < OPENERS && started + 1 < n &&
	       !pthread_create(&thread[started], NULL, opener_main, &o))
		started++;
	opener_main(&o);
	while (started)
		pthread_join(thread[--started], NULL);
}

/* A start that must be whole ends at the first step that cannot be taken. */
static bool may_go_on(const struct appliance *app, const struct plan_step *taken, size_t n)
{
	while (app->starting && !app->lenient && n)
		if (taken[--n].problem[0])
			return false;
	return true;
}

void app_do_plan(struct appliance *app, struct plan *p)
{
	for (size_t i = 0; i < p->n && may_go_on(app, p->steps, i);) {
		size_t n = 1;

		if (p->steps[i].kind == PLAN_ADD_PORTAL)
			app_let_replays_in(app);
		if (p->steps[i].kind == PLAN_CREATE_LUN)
			while (i + n < p->n && p->steps[i + n].kind == PLAN_CREATE_LUN)
				n++;
		take_steps(app, &p->steps[i], n);
		i += n;
	}
}

void app_drop_all(struct appliance *app)
{
	for (size_t i = 0; i < app->n_targets; i++)
		free_target(app->targets[i]);
	for (size_t i = 0; i < app->n_luns; i++)
		free_lun(app->luns[i]);
	for (size_t i = 0; i < app->n_portals; i++) {
		free(app->portals[i]);
		free(app->bound[i]);
	}
	free(app->targets);
	free(app->luns);
	free(app->portals);
	free(app->bound);
	app->n_targets = app->n_luns = app->n_portals = 0;
}
