/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "scsi/lu_index.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "scsi/target.h"

#define KEY_MAX	    24
#define DESIGNATORS 3 /* of a logical unit: EUI-64, NAA, UUID */

/** A designator from its code set on, in the form of VPD page 83h; zeros behind. */
struct key {
	uint8_t b[KEY_MAX];
};

struct name {
	struct key key;
	struct list_node places;
};

struct place {
	struct list_node link;
	struct scsi_target *target; /* in whose map it is, so it is not freed */
	struct scsi_lu *lu;	    /* ditto */
};

static struct mutex lock = MUTEX_INIT(LOCK_RANK_LEAF);
static void *names; /* tree of struct name; under lock */

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct key)); /* a name begins with its key */
}

static struct key make_key(uint8_t type, const void *head, size_t head_len, const void *id,
			   size_t len)
{
	struct key k = {{1 /* binary */, type, 0, (uint8_t)(head_len + len)}};

	memcpy(k.b + 4, head, head_len);
	memcpy(k.b + 4 + head_len, id, len);
	return k;
}

static void keys_of(const struct scsi_lu *lu, struct key keys[DESIGNATORS])
{
	const struct lun_identity *id = lun_identity(lu->lun);

	keys[0] = make_key(0x2, "", 0, id->eui64, sizeof(id->eui64));
	keys[1] = make_key(0x3, "", 0, id->naa, id->naa_len);
	keys[2] = make_key(0xa, "\x10", 2, id->uuid, sizeof(id->uuid));
}

static struct name *find_locked(const struct key *k)
{
	struct name **n = tfind(k, &names, compare);

	mutex_assert_held(&lock);
	return n ? *n : NULL;
}

static int add_locked(const struct key *k, struct scsi_target *t, struct scsi_lu *lu)
{
	struct place *p = malloc(sizeof(*p));
	struct name *n = find_locked(k);
	bool new = !n;

	if (new) {
		n = malloc(sizeof(*n));
		if (n) {
			n->key = *k;
			list_init(&n->places);
		}
	}
	if (!p || !n || (new && !tsearch(n, &names, compare))) {
		free(p);
		free(new ? n : NULL);
		return -ENOMEM;
	}
	p->target = t;
	p->lu = lu;
	list_add_tail(&n->places, &p->link);
	return 0;
}

static void remove_locked(const struct key *k, const struct scsi_target *t,
			  const struct scsi_lu *lu)
{
	struct name *n = find_locked(k);
	struct place *p;

	list_for_each_entry (p, &n->places, link) {
		if (p->target == t && p->lu == lu)
			break;
	}
	list_del(&p->link);
	free(p);
	if (list_empty(&n->places)) {
		tdelete(n, &names, compare);
		free(n);
	}
}

int lu_index_add(struct scsi_target *t, struct scsi_lu *lu)
{
	struct key keys[DESIGNATORS];
	unsigned n = 0;
	int err = 0;

	keys_of(lu, keys);
	mutex_scope(&lock);
	while (!err && n < DESIGNATORS)
		err = add_locked(&keys[n++], t, lu);
	for (n--; err && n > 0; n--)
		remove_locked(&keys[n - 1], t, lu);
	return err;
}

void lu_index_remove(struct scsi_target *t, struct scsi_lu *lu)
{
	struct key keys[DESIGNATORS];

	keys_of(lu, keys);
	mutex_scope(&lock);
	for (unsigned i = 0; i < DESIGNATORS; i++)
		remove_locked(&keys[i], t, lu);
}

/* --- looking up --- */

/** False: it cannot be the designator of a logical unit of ours. */
static bool parse(const uint8_t *d, unsigned len, struct key *ret_key)
{
	/* PROTOCOL IDENTIFIER is of no matter, nor PIV; ASSOCIATION must be the logical unit. */
	if (len < 4 || d[3] > len - 4 || d[3] > KEY_MAX - 4 || d[1] & 0x30)
		return false;
	*ret_key = (struct key){{d[0] & 0x0f, d[1] & 0x0f, 0, d[3]}};
	memcpy(ret_key->b + 4, d + 4, d[3]);
	if (ret_key->b[1] == 0xa && d[3] >= 2) { /* UUID: low half of byte 4, byte 5: reserved */
		ret_key->b[4] &= 0xf0;
		ret_key->b[5] = 0;
	}
	return true;
}

/** References to the targets but @own that show a logical unit of that name; NULL: no memory. */
static struct scsi_target **others_locked(const struct name *n, const struct scsi_target *own,
					  size_t *ret_n)
{
	struct scsi_target **others;
	struct place *p;
	size_t count = 0;

	list_for_each_entry (p, &n->places, link)
		count++;
	others = calloc(count, sizeof(struct scsi_target *));
	if (!others)
		return NULL;
	count = 0;
	list_for_each_entry (p, &n->places, link) {
		if (p->target != own && scsi_target_ref_unless_zero(p->target))
			others[count++] = p->target;
	}
	*ret_n = count;
	return others;
}

/** A reference to what @t shows under that name, or NULL. */
static struct scsi_lu *at_locked(const struct name *n, const struct scsi_target *t)
{
	struct place *p;

	list_for_each_entry (p, &n->places, link) {
		if (p->target == t)
			return scsi_lu_ref(p->lu);
	}
	return NULL;
}

static struct scsi_lu *find_at(const struct key *k, const struct scsi_target *t)
{
	struct name *n;

	mutex_scope(&lock);
	n = find_locked(k);
	return n ? at_locked(n, t) : NULL;
}

struct scsi_lu *scsi_lu_find_designator(struct scsi_nexus *nx, const uint8_t *desig, unsigned len)
{
	struct scsi_target **others = NULL;
	struct scsi_lu *lu = NULL;
	struct name *n;
	size_t n_others = 0;
	struct key k;

	if (!parse(desig, len, &k))
		return NULL;
	mutex_lock(&lock);
	n = find_locked(&k);
	if (n)
		lu = at_locked(n, nx->target);
	if (n && !lu && nx->may_see)
		others = others_locked(n, nx->target, &n_others);
	mutex_unlock(&lock);
	/* Who may see what is asked without the lock: a front takes locks of its own for it. */
	for (size_t i = 0; i < n_others; i++) {
		if (!lu && nx->may_see(nx, others[i]))
			lu = find_at(&k, others[i]);
		scsi_target_unref(others[i]);
	}
	free(others);
	return lu;
}
