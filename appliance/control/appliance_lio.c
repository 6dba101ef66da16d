/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exports through the kernel's target (LIO).
 *
 * The appliance has no rights in configfs. It tells ebb-lio(8), which has, what is declared, and
 * keeps what that says became of it for `ebb status` and `ebb plan`. A generation counts the
 * changes: who has seen one and waits for another is woken by the listener.
 *
 * A LUN that goes together with its export is still open, in a device of the kernel, when the
 * change begins. So ebb-lio is told first, and the change waits until the device is gone.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "control/appliance_private.h"
#include "control/json_text.h"

#define PROBLEMS_MAX   1000
#define LIO_ANSWERS_NS (20 * NSEC_PER_SEC) /* where no ebb-lio runs, all of it is waited */
#define DEVICE_GOES_NS (5 * NSEC_PER_SEC)
#define LOOK_NS	       (20 * NSEC_PER_MSEC)

void app_lio_changed(struct appliance *app)
{
	mutex_scope(&app->lio_lock);
	app->lio_generation++;
	if (app->lio_fn)
		app->lio_fn(app->lio_ctx);
}

uint64_t appliance_lio_generation(struct appliance *app)
{
	mutex_scope(&app->lio_lock);
	return app->lio_generation;
}

void appliance_on_lio_change(struct appliance *app, void (*fn)(void *ctx), void *ctx)
{
	mutex_scope(&app->lio_lock);
	app->lio_fn = fn;
	app->lio_ctx = ctx;
}

/* --- LUNs that it is to lose --- */

static bool lio_has_answered(struct appliance *app)
{
	mutex_scope(&app->lio_lock);
	return app->lio_reported == app->lio_generation;
}

/*
 * How many still use LUN @name at *@end, or none as soon as none does. When ebb-lio has answered,
 * all that is left to wait for is that we see devices go: *@end comes nearer.
 */
static int await_lun(struct appliance *app, const char *name, uint64_t *end, unsigned *ret_n,
		     struct reason *why)
{
	uint64_t now;
	int ret;

	while (!(ret = app_count_lun_users(app, name, ret_n, why)) && *ret_n) {
		now = clock_now_ns();
		if (lio_has_answered(app) && *end > now + DEVICE_GOES_NS)
			*end = now + DEVICE_GOES_NS;
		if (now >= *end)
			break;
		clock_pause(LOOK_NS);
	}
	return ret;
}

void app_await_lio(struct appliance *app, struct plan *p)
{
	uint64_t end = 0; /* for all of them together */

	for (size_t i = 0; i < p->n; i++) {
		struct plan_step *s = &p->steps[i];
		struct reason why = {.text = ""};
		unsigned n;

		if (!s->after_lio || s->problem[0])
			continue;
		if (!end) {
			app_lio_changed(app);
			end = clock_now_ns() + LIO_ANSWERS_NS;
		}
		if (await_lun(app, s->name, &end, &n, &why))
			snprintf(s->problem, sizeof(s->problem), "%s", why.text);
		else
			plan_set_busy(s, n);
	}
}

/* --- what is declared --- */

static void add_chap(json_t *o, const struct config_lio_chap *chap)
{
	json_t *c;

	if (!chap)
		return;
	c = json_pack("{s:o, s:o}", "user", json_text(chap->user.user), "secret",
		      json_text(chap->user.secret));
	if (chap->mutual)
		json_object_set_new(c, "mutual",
				    json_pack("{s:o, s:o}", "user", json_text(chap->mutual->user),
					      "secret", json_text(chap->mutual->secret)));
	json_object_set_new(o, "chap", c);
}

static json_t *map_to_json(const struct config_map *map, unsigned n)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(list, json_pack("{s:i, s:s}", "number", (int)map[i].number,
						      "lun", map[i].name));
	return list;
}

/* An initiator has what the target has where nothing is declared for it. */
static json_t *acl_to_json(const struct config_lio_target *t, const struct config_lio_acl *a)
{
	json_t *luns = a->luns_count ? map_to_json(a->map, a->luns_count)
				     : map_to_json(t->map, t->luns_count);
	json_t *o = json_pack("{s:o, s:o}", "initiator", json_text(a->initiator), "luns", luns);

	add_chap(o, a->chap ? a->chap : t->chap);
	return o;
}

static json_t *target_to_json(const struct config_lio *lio, const struct config_lio_target *t)
{
	json_t *portals = json_array(), *acls = json_array(), *o;
	unsigned n;
	char *const *portal = config_lio_portals(lio, t, &n);

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(portals, json_text(portal[i]));
	for (unsigned i = 0; i < t->acls_count; i++)
		json_array_append_new(acls, acl_to_json(t, &t->acls[i]));
	o = json_pack("{s:o, s:o, s:o, s:o}", "iqn", json_text(t->iqn), "portals", portals, "luns",
		      map_to_json(t->map, t->luns_count), "acls", acls);
	add_chap(o, t->chap);
	return o;
}

/* What a backstore of each LUN that @t shows is made with. A LUN that does not run is left out. */
static void add_luns(struct appliance *app, json_t *luns, const struct config_lio_target *t)
{
	for (unsigned i = 0; i < t->luns_count; i++) {
		const char *name = t->map[i].name;
		struct lun *lun = lun_table_find(app->table, name);

		if (!lun)
			continue;
		json_object_set_new(luns, name,
				    json_pack("{s:I, s:i, s:s}", "size", (json_int_t)lun_size(lun),
					      "block_size", (int)lun_block_size(lun), "uuid",
					      lun_identity(lun)->serial));
		lun_unref(lun);
	}
}

json_t *appliance_report_lio(struct appliance *app)
{
	/* Taken first: a change that comes meanwhile is told of again. */
	json_int_t generation = (json_int_t)appliance_lio_generation(app);
	json_t *targets = json_array(), *luns = json_object();

	mutex_scope(&app->lock);
	for (unsigned i = 0; app->declared && i < app->declared->lio.targets_count; i++) {
		const struct config_lio_target *t = &app->declared->lio.targets[i];

		json_array_append_new(targets, target_to_json(&app->declared->lio, t));
		add_luns(app, luns, t);
	}
	return json_pack("{s:I, s:o, s:o}", "generation", generation, "targets", targets, "luns",
			 luns);
}

/* --- what became of it --- */

int appliance_note_lio(struct appliance *app, uint64_t generation, const json_t *problems,
		       struct reason *why)
{
	size_t n = json_array_size(problems);
	struct plan_problem *v;

	if (n > PROBLEMS_MAX)
		n = PROBLEMS_MAX;
	v = calloc(n + 1, sizeof(*v));
	if (!v)
		return reason_set(why, ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		const json_t *o = json_array_get(problems, i);
		const char *name = json_string_value(json_object_get(o, "name"));
		const char *text = json_string_value(json_object_get(o, "problem"));

		if (!name || !text) {
			free(v);
			return reason_set(why, EINVAL,
					  "problems[%zu]: needs name and problem, as strings", i);
		}
		snprintf(v[i].name, sizeof(v[i].name), "%s", name);
		snprintf(v[i].text, sizeof(v[i].text), "%s", text);
	}
	mutex_scope(&app->lio_lock);
	free(app->lio_problems);
	app->lio_problems = v;
	app->n_lio_problems = n;
	app->lio_reported = generation;
	return 0;
}

static bool declares_lio(struct appliance *app)
{
	mutex_scope(&app->lock);
	return app->declared && app->declared->lio.targets_count;
}

int app_lio_problems(struct appliance *app, struct plan_problem **ret_problems, size_t *ret_n)
{
	bool declared = declares_lio(app);
	struct plan_problem *v;
	size_t n;

	mutex_scope(&app->lio_lock);
	n = app->n_lio_problems;
	v = calloc(n + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	if (n)
		memcpy(v, app->lio_problems, n * sizeof(*v));
	if (declared && app->lio_reported != app->lio_generation) {
		snprintf(v[n].name, sizeof(v[n].name), "lio");
		snprintf(v[n++].text, sizeof(v[0].text),
			 "ebb-lio has not answered yet: does its service run?");
	}
	*ret_problems = v;
	*ret_n = n;
	return 0;
}
