/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Deep copies of declared things: what runs keeps its own, whatever becomes of the declaration. */
#include <stdlib.h>
#include <string.h>

#include "control/config.h"

/* Copies @from to *@to; a NULL stays NULL. */
static bool copy_string(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to;
}

void config_clear_lun(struct config_lun *l)
{
	free(l->name);
	free(l->path);
	free(l->size_text);
	free(l->cache_floor_text);
	free(l->description);
	free(l->uuid);
	free(l->create);
	memset(l, 0, sizeof(*l));
}

bool config_copy_lun(struct config_lun *to, const struct config_lun *from)
{
	bool ok;

	*to = *from;
	to->create = NULL;
	ok = copy_string(&to->name, from->name);
	ok = copy_string(&to->path, from->path) && ok;
	ok = copy_string(&to->size_text, from->size_text) && ok;
	ok = copy_string(&to->cache_floor_text, from->cache_floor_text) && ok;
	ok = copy_string(&to->description, from->description) && ok;
	ok = copy_string(&to->uuid, from->uuid) && ok;
	if (from->create) {
		to->create = malloc(sizeof(*to->create));
		if (to->create)
			*to->create = *from->create;
		ok = to->create && ok;
	}
	if (!ok)
		config_clear_lun(to);
	return ok;
}

static void clear_user(struct config_user *u)
{
	free(u->user);
	free(u->secret);
	free(u->secret_file);
}

static bool copy_user(struct config_user *to, const struct config_user *from)
{
	bool ok = copy_string(&to->user, from->user);

	ok = copy_string(&to->secret, from->secret) && ok;
	return copy_string(&to->secret_file, from->secret_file) && ok;
}

static void free_chap(struct config_chap *c)
{
	if (!c)
		return;
	for (unsigned i = 0; c->users && i < c->users_count; i++)
		clear_user(&c->users[i]);
	free(c->users);
	if (c->mutual)
		clear_user(c->mutual);
	free(c->mutual);
	free(c);
}

static struct config_chap *copy_chap(const struct config_chap *from)
{
	struct config_chap *to = calloc(1, sizeof(*to));
	bool ok = true;

	if (!to)
		return NULL;
	to->users_count = from->users_count;
	to->algorithms = from->algorithms;
	to->users = calloc(from->users_count + 1, sizeof(*to->users));
	for (unsigned i = 0; to->users && i < to->users_count; i++)
		ok = copy_user(&to->users[i], &from->users[i]) && ok;
	if (from->mutual) {
		to->mutual = calloc(1, sizeof(*to->mutual));
		ok = to->mutual && copy_user(to->mutual, from->mutual) && ok;
	}
	if (to->users && ok)
		return to;
	free_chap(to);
	return NULL;
}

static void free_strings(char **v, unsigned n)
{
	for (unsigned i = 0; v && i < n; i++)
		free(v[i]);
	free(v);
}

static char **copy_strings(char *const *from, unsigned n)
{
	char **to = calloc(n + 1, sizeof(*to));

	for (unsigned i = 0; to && i < n; i++) {
		to[i] = strdup(from[i]);
		if (to[i])
			continue;
		free_strings(to, i);
		return NULL;
	}
	return to;
}

void config_clear_target(struct config_target *t)
{
	free(t->iqn);
	free(t->alias);
	free_strings(t->luns, t->luns_count);
	free_strings(t->initiators, t->initiators_count);
	free_chap(t->chap);
	free(t->map);
	memset(t, 0, sizeof(*t));
}

bool config_copy_target(struct config_target *to, const struct config_target *from)
{
	bool ok;

	*to = *from;
	to->luns = NULL; /* the map says the same */
	to->chap = from->chap ? copy_chap(from->chap) : NULL;
	to->initiators = copy_strings(from->initiators, from->initiators_count);
	to->map = calloc(from->luns_count + 1, sizeof(*to->map));
	ok = to->initiators && to->map && (!from->chap || to->chap);
	ok = copy_string(&to->iqn, from->iqn) && ok;
	ok = copy_string(&to->alias, from->alias) && ok;
	if (to->map)
		memcpy(to->map, from->map, from->luns_count * sizeof(*to->map));
	if (!ok)
		config_clear_target(to);
	return ok;
}
