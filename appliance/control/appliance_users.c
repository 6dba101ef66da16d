/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who has LUNs open: one snapshot of sessions, clients and TCMU devices, counted by name. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "control/appliance_private.h"

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct app_user *)a)->name, ((const struct app_user *)b)->name);
}

/* Sorts @n names and folds equal ones into one with their number. */
static size_t fold(struct app_user *v, size_t n)
{
	size_t kept = 0;

	qsort(v, n, sizeof(*v), by_name);
	for (size_t i = 0; i < n; i++) {
		if (kept && !strcmp(v[kept - 1].name, v[i].name))
			v[kept - 1].n += v[i].n;
		else
			v[kept++] = v[i];
	}
	return kept;
}

static void add_lun_user(struct app_users *u, const char *name)
{
	struct app_user *user = &u->luns[u->n_luns++];

	user->n = 1;
	snprintf(user->name, sizeof(user->name), "%s", name);
}

int app_count_users(struct appliance *app, struct app_users *ret_users)
{
	_cleanup_free_ struct iscsi_session_info *sessions = NULL;
	_cleanup_free_ struct port_client_info *clients = NULL;
	_cleanup_free_ struct tcmu_device_info *devices = NULL;
	struct app_users u = {0};
	size_t ns = 0, nc = 0, nd = 0;

	if (iscsi_server_list_sessions(app->iscsi, &sessions, &ns) ||
	    (app->port && port_server_list(app->port, &clients, &nc)) ||
	    (app->tcmu && tcmu_server_list(app->tcmu, &devices, &nd)))
		return -ENOMEM;
	u.targets = calloc(ns + 1, sizeof(*u.targets));
	u.luns = calloc(nc + nd + 1, sizeof(*u.luns));
	if (!u.targets || !u.luns) {
		app_free_users(&u);
		return -ENOMEM;
	}
	for (size_t i = 0; i < ns; i++) {
		if (!sessions[i].target[0])
			continue;
		u.targets[u.n_targets].n = 1;
		snprintf(u.targets[u.n_targets++].name, sizeof(u.targets[0].name), "%s",
			 sessions[i].target);
	}
	for (size_t i = 0; i < nc; i++)
		if (clients[i].lun[0])
			add_lun_user(&u, clients[i].lun);
	for (size_t i = 0; i < nd; i++)
		if (devices[i].open)
			add_lun_user(&u, devices[i].name.lun);
	u.n_targets = fold(u.targets, u.n_targets);
	u.n_luns = fold(u.luns, u.n_luns);
	*ret_users = u;
	return 0;
}

void app_free_users(struct app_users *u)
{
	free(u->targets);
	free(u->luns);
}

static unsigned find_count(const struct app_user *v, size_t n, const char *name)
{
	struct app_user key;
	const struct app_user *found;

	snprintf(key.name, sizeof(key.name), "%s", name);
	found = bsearch(&key, v, n, sizeof(*v), by_name);
	return found ? found->n : 0;
}

unsigned app_target_users(const struct app_users *u, const char *iqn)
{
	return find_count(u->targets, u->n_targets, iqn);
}

unsigned app_lun_users(struct appliance *app, const struct app_users *u, const char *name)
{
	unsigned n = find_count(u->luns, u->n_luns, name);

	for (size_t i = 0; u->n_targets && i < app->n_targets; i++) {
		const struct config_target *t = &app->targets[i]->spec;
		unsigned sessions = app_target_users(u, t->iqn);

		for (unsigned j = 0; sessions && j < t->luns_count; j++)
			if (!strcmp(t->map[j].name, name))
				n += sessions;
	}
	return n;
}

int app_count_lun_users(struct appliance *app, const char *name, unsigned *ret_n,
			struct reason *why)
{
	struct app_users users;

	if (app_count_users(app, &users))
		return reason_set(why, ENOMEM, "out of memory");
	*ret_n = app_lun_users(app, &users, name);
	app_free_users(&users);
	return 0;
}
