/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands that change the declaration and what runs together: a LUN is made, grown, deleted; a
 * session is ended. Each is one change (app_begin_change); what is refused leaves nothing behind.
 */
#include "control/appliance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/appliance_private.h"

/* The automatic target of LUN @name, or NULL. */
static const struct config_target *auto_target(const struct config *cfg, const char *name)
{
	for (unsigned i = 0; i < cfg->auto_targets_count; i++)
		if (!strcmp(cfg->auto_targets[i].map[0].name, name))
			return &cfg->auto_targets[i];
	return NULL;
}

/* Opens @l and its automatic target, both or none. Within a change. */
static int bring_up(struct appliance *app, const struct config_lun *l, struct reason *why)
{
	const struct config_target *t = auto_target(app->declared, l->name);
	struct plan_step s = {.kind = PLAN_CREATE_TARGET, .target = t};
	int ret = app_open_lun(app, l, why);

	if (ret || !t)
		return ret;
	snprintf(s.name, sizeof(s.name), "%s", t->iqn);
	ret = app_do_step(app, &s, why);
	if (ret)
		app_close_lun(app, l->name, NULL);
	return ret;
}

static int declare_and_open(struct appliance *app, const struct config_lun *l, struct reason *why)
{
	struct config *cfg = app->declared;
	struct config_lun *mine;
	int ret;

	if (config_find_lun(cfg, l->name))
		return reason_set(why, EEXIST, "a LUN '%s' is declared already", l->name);
	mutex_lock(&app->lock);
	mine = config_add_lun(cfg);
	if (!mine || !config_copy_lun(mine, l)) {
		cfg->luns_count -= mine != NULL;
		mutex_unlock(&app->lock);
		return reason_set(why, ENOMEM, "out of memory");
	}
	mine->by_command = true;
	ret = config_check(cfg, NULL, NULL, why);
	mutex_unlock(&app->lock);
	if (!ret)
		ret = bring_up(app, mine, why);
	if (!ret && app->config_path)
		ret = app_save_commanded(app, cfg, why);
	if (!ret)
		return 0;
	/* Refused: nothing of it stays. */
	if (app_find_lun(app, l->name)) {
		const struct config_target *t = auto_target(cfg, l->name);
		struct plan_step s = {.kind = PLAN_REMOVE_TARGET};

		if (t) {
			snprintf(s.name, sizeof(s.name), "%s", t->iqn);
			app_do_step(app, &s, NULL);
		}
		app_close_lun(app, l->name, NULL);
	}
	mutex_lock(&app->lock);
	config_remove_lun(cfg, l->name);
	config_check(cfg, NULL, NULL, NULL);
	mutex_unlock(&app->lock);
	return ret;
}

int appliance_create_lun(struct appliance *app, const struct config_lun *l, struct reason *why)
{
	int ret;

	app_begin_change(app);
	ret = declare_and_open(app, l, why);
	app_end_change(app);
	if (!ret)
		app_lio_changed(app);
	if (!ret)
		log_info("lun.created", "name=%s path=%s", l->name, l->path);
	return ret;
}

/* Writes the new size to the declaration where it is ours to write. */
static int declare_size(struct appliance *app, const char *name, uint64_t size, char *ret_note,
			struct reason *why)
{
	struct config_lun *l = config_find_lun(app->declared, name);
	char text[32], *copy;

	if (!l || !l->size)
		return 0;
	if (app->config_path && !l->by_command) {
		snprintf(ret_note, 256, "%.180s still declares size %s", app->config_path,
			 l->size_text);
		return 0;
	}
	snprintf(text, sizeof(text), "%llu", (unsigned long long)size);
	copy = strdup(text);
	if (!copy)
		return reason_set(why, ENOMEM, "out of memory");
	mutex_lock(&app->lock);
	free(l->size_text);
	l->size_text = copy;
	l->size = size;
	mutex_unlock(&app->lock);
	return app->config_path ? app_save_commanded(app, app->declared, why) : 0;
}

int appliance_resize_lun(struct appliance *app, const char *name, uint64_t size, char *ret_note,
			 struct reason *why)
{
	struct lun *lun;
	int ret;

	ret_note[0] = '\0';
	app_begin_change(app);
	lun = lun_table_find(app->table, name);
	ret = lun ? lun_resize(lun, size, why)
		  : reason_set(why, ENOENT, "no LUN is called '%.80s'", name);
	if (lun)
		lun_unref(lun);
	if (!ret)
		ret = declare_size(app, name, size, ret_note, why);
	app_end_change(app);
	if (!ret)
		app_lio_changed(app);
	if (!ret)
		log_info("lun.resized", "name=%s size=%llu", name, (unsigned long long)size);
	return ret;
}

/* --- sanitize --- */

static int check_sanitize(struct appliance *app, const char *name, bool force, struct reason *why)
{
	struct app_lun *l = app_find_lun(app, name);
	unsigned n = 0;
	int ret;

	if (!l)
		return reason_set(why, ENOENT, "no LUN is called '%.80s'", name);
	if (lun_read_only(l->lun))
		return reason_set(why, EROFS, "LUN '%s' is read-only", name);
	ret = app_count_lun_users(app, name, &n, why);
	if (ret || force)
		return ret;
	if (n)
		return reason_set(why, EBUSY,
				  "LUN '%s' is busy: %u session%s (--force takes no notice)", name,
				  n, n == 1 ? "" : "s");
	if (lun_get_fence(l->lun) == LUN_FENCE_WRITES || lun_get_fence(l->lun) == LUN_FENCE_ALL)
		return reason_set(why, EBUSY,
				  "an initiator holds a reservation of LUN '%s' (--force takes no "
				  "notice)",
				  name);
	return 0;
}

int appliance_sanitize_lun(struct appliance *app, const char *name, bool overwrite, bool force,
			   struct reason *why)
{
	int ret;

	app_begin_change(app);
	ret = check_sanitize(app, name, force, why);
	if (!ret) {
		ret = scsi_lu_sanitize(app_find_lun(app, name)->lu, overwrite);
		if (ret)
			reason_set(why, -ret, "LUN '%s': %s", name,
				   ret == -EBUSY ? "one runs" : strerror(-ret));
	}
	app_end_change(app);
	if (!ret)
		log_info("lun.sanitize", "name=%s how=%s", name, overwrite ? "overwrite" : "erase");
	return ret;
}

/* --- delete --- */

/* Refuses what must not be deleted. Within a change. */
static int check_delete(struct appliance *app, const char *name, bool force, struct reason *why)
{
	const struct config_lun *l = config_find_lun(app->declared, name);
	unsigned n = 0;
	int ret;

	if (!l && !app_find_lun(app, name))
		return reason_set(why, ENOENT, "no LUN is called '%.80s'", name);
	if (l && app->config_path && !l->by_command)
		return reason_set(why, EPERM,
				  "LUN '%s' is declared in %s: remove it there and apply", name,
				  app->config_path);
	for (unsigned i = 0; i < app->declared->iscsi.targets_count; i++) {
		const struct config_target *t = &app->declared->iscsi.targets[i];

		for (unsigned j = 0; j < t->luns_count; j++)
			if (!strcmp(t->map[j].name, name))
				return reason_set(why, EPERM, "target %s is declared to show it",
						  t->iqn);
	}
	for (unsigned i = 0; i < app->declared->lio.targets_count; i++) {
		const struct config_lio_target *t = &app->declared->lio.targets[i];

		for (unsigned j = 0; j < t->luns_count; j++)
			if (!strcmp(t->map[j].name, name))
				return reason_set(why, EPERM, "target %s is declared to show it",
						  t->iqn);
	}
	ret = app_count_lun_users(app, name, &n, why);
	if (!ret && n && !force)
		ret = reason_set(why, EBUSY, "LUN '%s' is busy: %u session%s (--force ends them)",
				 name, n, n == 1 ? "" : "s");
	return ret;
}

/*
 * A LUN made under the same name later is another one, with another file: clients must not take it
 * for this one, nor may it inherit reservations or an erasure that has not ended.
 */
static void forget_lun(struct appliance *app, const char *name)
{
	int ret = lun_identity_forget(app->state_dirfd, name);

	if (!ret)
		ret = scsi_lu_forget(app->state_dirfd, name);
	if (ret)
		log_warn("lun.forget.failed", "name=%s reason=\"%s\"", name, strerror(-ret));
}

static int delete_lun(struct appliance *app, const char *name, bool force, struct reason *why)
{
	struct plan_step s = {.kind = PLAN_REMOVE_TARGET};
	int ret = check_delete(app, name, force, why);

	if (ret)
		return ret;
	config_iqn(name, s.name, sizeof(s.name));
	for (size_t i = 0; i < app->n_targets; i++) {
		const struct config_target *t = &app->targets[i]->spec;

		if (!t->automatic || strcmp(t->iqn, s.name))
			continue;
		app_do_step(app, &s, NULL);
		break;
	}
	if (app_find_lun(app, name))
		ret = app_close_lun(app, name, why);
	mutex_lock(&app->lock);
	config_remove_lun(app->declared, name);
	mutex_unlock(&app->lock);
	if (!ret && app->config_path)
		ret = app_save_commanded(app, app->declared, why);
	if (!ret)
		forget_lun(app, name);
	return ret;
}

int appliance_delete_lun(struct appliance *app, const char *name, bool force, struct reason *why)
{
	int ret;

	app_begin_change(app);
	ret = delete_lun(app, name, force, why);
	app_end_change(app);
	if (!ret)
		app_lio_changed(app);
	if (!ret)
		log_info("lun.deleted", "name=%s", name);
	return ret;
}

int appliance_kick(struct appliance *app, const char *id, struct reason *why)
{
	unsigned long long n;
	char end;

	if (sscanf(id, "iscsi-%llu%c", &n, &end) == 1 && !iscsi_server_kick(app->iscsi, n))
		return 0;
	if (!strncmp(id, "port-", 5))
		return reason_set(why, EOPNOTSUPP,
				  "%.40s: clients of the port end with their process", id);
	return reason_set(why, ENOENT, "no session is called '%.40s'", id);
}
