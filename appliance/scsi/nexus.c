/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * I_T nexuses, and what each knows of each logical unit (I_T_L state), and unit attentions.
 *
 * The I_T_L state is made by the first command to a LUN and is in two lists: the nexus's (its own
 * thread only, no lock, most recent first) and the logical unit's (under lu->lock, for those who
 * raise unit attentions or abort tasks). It holds a reference to the logical unit and is itself
 * held by the commands under way (a plain count: they are all on the nexus's thread), so a command
 * costs no shared reference count.
 *
 * Pending unit attentions are a bit mask in order of priority. Anybody may set bits, the nexus's
 * thread takes the lowest: no queue, so nothing can overflow, and none is reported twice. A state
 * begins with POWER ON, RESET, OR BUS DEVICE RESET OCCURRED pending, which covers whatever
 * happened before the nexus looked.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "scsi/target.h"

static _Atomic uint64_t next_nexus_id = 1;

static const uint16_t ua_ascs[] = {
#define X(name, asc, ascq) (asc) << 8 | (ascq),
	SCSI_UNIT_ATTENTIONS(X)
#undef X
};

uint16_t scsi_ua_asc(enum scsi_ua ua)
{
	return ua_ascs[ua];
}

int scsi_ua_take(struct scsi_itl *itl)
{
	uint32_t set = atomic_load_explicit(&itl->ua, memory_order_acquire);
	unsigned bit;

	if (!set)
		return -1;
	bit = (unsigned)__builtin_ctz(set);
	atomic_fetch_and_explicit(&itl->ua, ~(1u << bit), memory_order_acq_rel);
	return (int)bit;
}

void scsi_ua_raise_locked(struct scsi_lu *lu, enum scsi_ua ua, const struct scsi_nexus *except)
{
	struct scsi_itl *itl;

	mutex_assert_held(&lu->lock);
	list_for_each_entry (itl, &lu->itls, lu_link) {
		if (itl->nexus != except)
			atomic_fetch_or_explicit(&itl->ua, 1u << ua, memory_order_release);
	}
}

void scsi_ua_raise(struct scsi_lu *lu, enum scsi_ua ua, const struct scsi_nexus *except)
{
	mutex_scope(&lu->lock);
	scsi_ua_raise_locked(lu, ua, except);
}

/* --- I_T_L state --- */

void scsi_itl_allow_removal_locked(struct scsi_itl *itl)
{
	mutex_assert_held(&itl->lu->lock);
	if (!itl->prevent)
		return;
	itl->prevent = false;
	itl->lu->prevents--;
}

static void itl_free(struct scsi_itl *itl)
{
	scsi_lu_unref(itl->lu);
	free(itl);
}

/* Commands hold it, and a message on its way to it. */
static void itl_free_unless_held(struct scsi_itl *itl)
{
	if (itl->stale && !atomic_load_explicit(&itl->cmds, memory_order_relaxed) &&
	    !atomic_load_explicit(&itl->told, memory_order_acquire))
		itl_free(itl);
}

/* The nexus has lost the logical unit: what it held there goes. */
static void itl_drop(struct scsi_itl *itl)
{
	struct scsi_lu *lu = itl->lu;

	list_del(&itl->nexus_link);
	lun_leave_export(itl->export);
	mutex_lock(&lu->lock);
	scsi_itl_allow_removal_locked(itl);
	list_del(&itl->lu_link);
	mutex_unlock(&lu->lock);
	scsi_pr_nexus_loss(lu, itl->nexus);
	itl->stale = true;
	itl_free_unless_held(itl);
}

/* Only the nexus's thread writes the count, so no atomic addition is needed; others look at it. */
void scsi_itl_get(struct scsi_itl *itl)
{
	uint32_t n = atomic_load_explicit(&itl->cmds, memory_order_relaxed);

	atomic_store_explicit(&itl->cmds, n + 1, memory_order_relaxed);
}

void scsi_itl_put(struct scsi_itl *itl)
{
	uint32_t n = atomic_load_explicit(&itl->cmds, memory_order_relaxed) - 1;

	atomic_store_explicit(&itl->cmds, n, memory_order_relaxed);
	if (!n)
		itl_free_unless_held(itl);
}

/* What @nx sees as LUN @lun is one export, whoever the initiator is. */
static struct lun_export *enter_export(struct scsi_nexus *nx, struct scsi_lu *lu, uint64_t lun)
{
	char name[320];

	snprintf(name, sizeof(name), "%s/%s/%d", nx->protocol, scsi_target_name(nx->target),
		 scsi_lun_number(lun));
	return lun_enter_export(lu->lun, name);
}

static struct scsi_itl *itl_create(struct scsi_nexus *nx, uint64_t lun, uint64_t gen, int *ret_err)
{
	struct scsi_lu *lu = scsi_target_find(nx->target, lun);
	struct scsi_itl *itl;

	if (!lu)
		return NULL;
	itl = calloc(1, sizeof(*itl));
	if (!itl) {
		scsi_lu_unref(lu);
		*ret_err = -ENOMEM;
		return NULL;
	}
	itl->nexus = nx;
	itl->lu = lu;
	itl->export = enter_export(nx, lu, lun);
	itl->lun = lun;
	itl->map_gen = gen;
	itl->ua = nx->seamless ? 0 : 1u << SCSI_UA_POWER_ON;
	list_add_head(&nx->itls, &itl->nexus_link);
	mutex_scope(&lu->lock);
	list_add_tail(&lu->itls, &itl->lu_link);
	return itl;
}

/* The map has changed since @itl was last used: is it still the same logical unit? */
static bool itl_revalidate(struct scsi_itl *itl, uint64_t gen)
{
	struct scsi_lu *lu = scsi_target_find(itl->nexus->target, itl->lun);
	bool same = lu == itl->lu;

	scsi_lu_unref(lu);
	if (same)
		itl->map_gen = gen;
	else
		itl_drop(itl);
	return same;
}

static void look_again(struct reactor_msg *m)
{
	struct scsi_itl *itl = container_of(m, struct scsi_itl, look);

	atomic_exchange(&itl->told, false); /* who still saw true has changed the map before */
	if (itl->stale)			    /* its nexus may be gone */
		itl_free_unless_held(itl);
	else
		itl_revalidate(itl, atomic_load_explicit(&itl->nexus->target->map_gen,
							 memory_order_acquire));
}

void scsi_itl_tell_unmapped(struct scsi_target *t, struct scsi_lu *lu)
{
	struct scsi_itl *itl;

	/* Who is in the list has not been dropped: that happens under the same lock. */
	mutex_scope(&lu->lock);
	list_for_each_entry (itl, &lu->itls, lu_link) {
		if (itl->nexus->target != t || atomic_exchange(&itl->told, true))
			continue;
		itl->look.fn = look_again;
		reactor_post(itl->nexus->reactor, &itl->look);
	}
}

struct scsi_itl *scsi_itl_find(struct scsi_nexus *nx, uint64_t lun, int *ret_err)
{
	uint64_t gen = atomic_load_explicit(&nx->target->map_gen, memory_order_acquire);
	struct scsi_itl *itl;

	list_for_each_entry (itl, &nx->itls, nexus_link) {
		if (itl->lun != lun)
			continue;
		if (itl->map_gen != gen && !itl_revalidate(itl, gen))
			break;
		if (nx->itls.next != &itl->nexus_link) {
			list_del(&itl->nexus_link);
			list_add_head(&nx->itls, &itl->nexus_link);
		}
		return itl;
	}
	return itl_create(nx, lun, gen, ret_err);
}

/* --- nexuses --- */

int scsi_nexus_attach(struct scsi_nexus *nx)
{
	nx->id = atomic_fetch_add_explicit(&next_nexus_id, 1, memory_order_relaxed);
	list_init(&nx->itls);
	nx->name_hash = scsi_pr_name_hash(nx);
	scsi_target_ref(nx->target);
	mutex_scope(&nx->target->lock);
	list_add_tail(&nx->target->nexuses, &nx->link);
	return 0;
}

void scsi_nexus_detach(struct scsi_nexus *nx)
{
	while (!list_empty(&nx->itls))
		itl_drop(container_of(nx->itls.next, struct scsi_itl, nexus_link));
	mutex_lock(&nx->target->lock);
	list_del(&nx->link);
	mutex_unlock(&nx->target->lock);
	scsi_target_unref(nx->target);
}
