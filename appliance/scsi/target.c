/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Targets: names, ports, and the map of LUN numbers to logical units.
 *
 * A target keeps a generation number that changes with its map. A nexus remembers, for each LUN it
 * uses, the generation it last saw: equal means that nothing has to be looked up, so the map's lock
 * is not on the data path. All targets are in one list, for those who look for a logical unit by
 * its designator (third-party copy).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "scsi/target.h"

static struct mutex all_lock = MUTEX_INIT(LOCK_RANK_REGISTRY);
static struct list_node all_targets = LIST_INIT(all_targets); /* under all_lock */
static uint64_t next_id = 1;				      /* ditto */
static size_t n_targets;				      /* ditto */

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
	mutex_lock(&all_lock);
	t->id = next_id++;
	list_add_tail(&all_targets, &t->link);
	n_targets++;
	mutex_unlock(&all_lock);
	*ret_target = t;
	return 0;
}

struct scsi_target *scsi_target_ref(struct scsi_target *t)
{
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

/* For those who found @t in the list: it may be on its way out. */
static bool ref_unless_zero(struct scsi_target *t)
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
	mutex_lock(&all_lock);
	list_del(&t->link);
	n_targets--;
	mutex_unlock(&all_lock);
	for (unsigned i = 0; i < SCSI_LUNS_MAX; i++)
		scsi_lu_unref(t->map[i]);
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

/* Tells every initiator of @t, through each logical unit it has used, that the map has changed. */
static void map_changed_locked(struct scsi_target *t)
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
			nx->ops->event(nx, NULL, 0x3f, 0x0e);
	}
}

int scsi_target_map(struct scsi_target *t, unsigned number, struct scsi_lu *lu)
{
	if (number >= SCSI_LUNS_MAX)
		return -EINVAL;
	mutex_scope(&t->lock);
	if (t->map[number])
		return -EEXIST;
	t->map[number] = scsi_lu_ref(lu);
	map_changed_locked(t);
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
		t->map[number] = NULL;
		map_changed_locked(t);
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

/* --- logical units by designator --- */

static bool designator_is(const struct lun_identity *id, const uint8_t *d, unsigned len)
{
	unsigned code_set = d[0] & 0x0f, type = d[1] & 0x0f, assoc = d[1] >> 4 & 3, n = d[3];

	if (n > len - 4 || assoc != 0)
		return false;
	switch (type) {
	case 0x2:
		return code_set == 1 && n == 8 && !memcmp(d + 4, id->eui64, 8);
	case 0x3:
		return code_set == 1 && n == id->naa_len && !memcmp(d + 4, id->naa, n);
	case 0xa:
		return code_set == 1 && n == 18 && d[4] >> 4 == 1 && !memcmp(d + 6, id->uuid, 16);
	default:
		return false;
	}
}

static struct scsi_lu *find_in_target(struct scsi_target *t, const uint8_t *d, unsigned len)
{
	mutex_scope(&t->lock);
	for (unsigned i = 0; i < SCSI_LUNS_MAX; i++) {
		if (t->map[i] && designator_is(lun_identity(t->map[i]->lun), d, len))
			return scsi_lu_ref(t->map[i]);
	}
	return NULL;
}

/* References to all targets that live; NULL when there is no memory. */
static struct scsi_target **snapshot(size_t *ret_n)
{
	struct scsi_target **all, *t;
	size_t n = 0;

	mutex_scope(&all_lock);
	all = calloc(n_targets + 1, sizeof(struct scsi_target *));
	if (!all)
		return NULL;
	list_for_each_entry (t, &all_targets, link) {
		if (ref_unless_zero(t))
			all[n++] = t;
	}
	*ret_n = n;
	return all;
}

struct scsi_lu *scsi_lu_find_designator(struct scsi_nexus *nx, const uint8_t *desig, unsigned len)
{
	struct scsi_target **all = NULL;
	struct scsi_lu *lu;
	size_t n = 0;

	if (len < 4)
		return NULL;
	lu = find_in_target(nx->target, desig, len);
	if (lu || !nx->may_see)
		return lu;
	all = snapshot(&n);
	for (size_t i = 0; i < n; i++) {
		if (!lu && all[i] != nx->target) {
			lu = find_in_target(all[i], desig, len);
			if (lu && !nx->may_see(nx, all[i])) {
				scsi_lu_unref(lu);
				lu = NULL;
			}
		}
		scsi_target_unref(all[i]);
	}
	free(all);
	return lu;
}
