/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Targets: names, ports, and the map of LUN numbers to logical units.
 *
 * A target keeps a generation number that changes with its map. A nexus remembers, for each LUN it
 * uses, the generation it last saw: equal means that nothing has to be looked up, so the map's lock
 * is not on the data path.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "scsi/lu_index.h"
#include "scsi/target.h"

int scsi_target_create(const char *name, struct scsi_target **ret_target)
{
	struct scsi_target *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->name = strdup(name);
	if (!t->name) {
		free(t);
		return -ENOMEM;
	}
	t->refs = 1;
	t->ports = 1;
	t->map_gen = 1;
	mutex_init(&t->lock, LOCK_RANK_SCSI_TARGET);
	list_init(&t->nexuses);
	*ret_target = t;
	return 0;
}

struct scsi_target *scsi_target_ref(struct scsi_target *t)
{
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

bool scsi_target_ref_unless_zero(struct scsi_target *t)
{
	unsigned n = atomic_load_explicit(&t->refs, memory_order_relaxed);

	while (n) {
		if (atomic_compare_exchange_weak_explicit(&t->refs, &n, n + 1, memory_order_relaxed,
							  memory_order_relaxed))
			return true;
	}
	return false;
}

void scsi_target_unref(struct scsi_target *t)
{
	if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (unsigned i = 0; i < SCSI_LUNS_MAX; i++) {
		if (!t->map[i])
			continue;
		lu_index_remove(t, t->map[i]);
		scsi_lu_unref(t->map[i]);
	}
	mutex_destroy(&t->lock);
	free(t->name);
	free(t);
}

const char *scsi_target_name(const struct scsi_target *t)
{
	return t->name;
}

int scsi_target_set_ports(struct scsi_target *t, unsigned n)
{
	if (n < 1 || n > UINT16_MAX)
		return -EINVAL;
	mutex_scope(&t->lock);
	t->ports = n;
	return 0;
}

unsigned scsi_target_ports(struct scsi_target *t)
{
	mutex_scope(&t->lock);
	return t->ports;
}

/* Tells every initiator of @t, through each logical unit it has used, that the map has changed: at
 * @number. */
static void map_changed_locked(struct scsi_target *t, unsigned number)
{
	struct scsi_nexus *nx;

	mutex_assert_held(&t->lock);
	atomic_fetch_add_explicit(&t->map_gen, 1, memory_order_release);
	for (unsigned i = 0; i < SCSI_LUNS_MAX; i++) {
		struct scsi_lu *lu = t->map[i];
		struct scsi_itl *itl;

		if (!lu)
			continue;
		mutex_scope(&lu->lock);
		list_for_each_entry (itl, &lu->itls, lu_link) {
			if (itl->nexus->target == t)
				atomic_fetch_or_explicit(&itl->ua, 1u << SCSI_UA_LUNS_CHANGED,
							 memory_order_release);
		}
	}
	list_for_each_entry (nx, &t->nexuses, link) {
		if (nx->ops->event)
			nx->ops->event(nx, number, SCSI_EVENT_LUNS_CHANGED);
	}
}

int scsi_target_map(struct scsi_target *t, unsigned number, struct scsi_lu *lu)
{
	int err;

	if (number >= SCSI_LUNS_MAX)
		return -EINVAL;
	mutex_scope(&t->lock);
	if (t->map[number])
		return -EEXIST;
	err = lu_index_add(t, lu);
	if (err)
		return err;
	t->map[number] = scsi_lu_ref(lu);
	map_changed_locked(t, number);
	return 0;
}

int scsi_target_unmap(struct scsi_target *t, unsigned number)
{
	struct scsi_lu *lu;

	if (number >= SCSI_LUNS_MAX)
		return -ENOENT;
	mutex_lock(&t->lock);
	lu = t->map[number];
	if (lu) {
		lu_index_remove(t, lu);
		t->map[number] = NULL;
		map_changed_locked(t, number);
	}
	mutex_unlock(&t->lock);
	if (!lu)
		return -ENOENT;
	scsi_itl_tell_unmapped(t, lu);
	scsi_lu_unref(lu);
	return 0;
}

int scsi_lun_number(uint64_t lun)
{
	unsigned n = (lun >> 48) & 0x3fff;

	if (lun & 0xffffffffffffull)
		return -1;
	switch (lun >> 62) {
	case 0: /* peripheral device addressing: bus identifier 0 */
		return n < 256 ? (int)n : -1;
	case 1: /* flat space addressing */
		return n < SCSI_LUNS_MAX ? (int)n : -1;
	default:
		return -1;
	}
}

struct scsi_lu *scsi_target_find(struct scsi_target *t, uint64_t lun)
{
	int n = scsi_lun_number(lun);

	if (n < 0)
		return NULL;
	mutex_scope(&t->lock);
	return t->map[n] ? scsi_lu_ref(t->map[n]) : NULL;
}

unsigned scsi_target_list_luns(struct scsi_target *t, uint8_t buf[SCSI_LUNS_MAX * 8])
{
	unsigned n = 0;

	mutex_scope(&t->lock);
	for (unsigned i = 0; i < SCSI_LUNS_MAX; i++) {
		if (!t->map[i])
			continue;
		memset(buf + n * 8, 0, 8);
		buf[n * 8 + 1] = (uint8_t)i;
		n++;
	}
	return n;
}
