/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exports of a LUN. There are as many as fronts and targets show it, a handful, so a list does. An
 * operation has a pointer to its own, which its session holds.
 */
#include <stdlib.h>
#include <string.h>

#include "lun/lun_private.h"

static struct lun_export *find_locked(struct lun *lun, const char *name)
{
	struct lun_export *e;

	mutex_assert_held(&lun->slow);
	list_for_each_entry (e, &lun->exports, link) {
		if (!strcmp(e->name, name))
			return e;
	}
	return NULL;
}

struct lun_export *lun_enter_export(struct lun *lun, const char *name)
{
	struct lun_export *e;

	mutex_scope(&lun->slow);
	e = find_locked(lun, name);
	if (!e) {
		size_t size = strlen(name) + 1;

		e = calloc(1, sizeof(*e) + size);
		if (!e)
			return NULL;
		memcpy(e->name, name, size);
		list_add_tail(&lun->exports, &e->link);
	}
	metric_add(&e->sessions, 1);
	return e;
}

void lun_leave_export(struct lun_export *e)
{
	if (e)
		metric_sub(&e->sessions, 1);
}

void lun_list_exports(struct lun *lun, void (*fn)(void *ctx, const struct lun_export *e), void *ctx)
{
	struct lun_export *e;

	mutex_scope(&lun->slow);
	list_for_each_entry (e, &lun->exports, link)
		fn(ctx, e);
}

void lun_count_export(const struct lun_io *io, enum lun_class class)
{
	struct lun_export *e = io->export;

	metric_add(&e->ops, 1);
	if (io->err && io->err != -EILSEQ) /* a miscompare is an answer */
		metric_add(&e->errors, 1);
	else if (!io->err && class == LUN_CLASS_READ)
		metric_add(&e->read_bytes, io->len);
	else if (!io->err && class == LUN_CLASS_WRITE)
		metric_add(&e->written_bytes, io->len);
}

void lun_free_exports(struct lun *lun)
{
	while (!list_empty(&lun->exports)) {
		struct lun_export *e = container_of(lun->exports.next, struct lun_export, link);

		list_del(&e->link);
		free(e);
	}
}
