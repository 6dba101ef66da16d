/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Logical units: one for each LUN that is shown over SCSI, however many targets map it, with what
 * all its nexuses share. Constant facts (block size, identity strings) are laid down at creation;
 * conditions that come and go are bits of lu->gates.
 *
 * The last reference may be dropped on a reactor's thread (a nexus that used an unmapped LUN ends),
 * where closing a store must not block: it is then done by a worker.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event/worker.h"
#include "scsi/scsi_commands_b.h"
#include "scsi/target.h"

#define PHYSICAL_BLOCK 4096u

struct lu_holder {
	struct scsi_lu lu;
	struct worker_job job;
};

static void pad(char *dst, const char *src, size_t n)
{
	size_t len = strnlen(src, n);

	memset(dst, ' ', n);
	memcpy(dst, src, len);
	dst[n] = '\0';
}

static void capacity_changed(struct scsi_lu *lu)
{
	struct scsi_itl *itl;

	atomic_store_explicit(&lu->blocks, lun_size(lu->lun) >> lu->block_shift,
			      memory_order_relaxed);
	mutex_scope(&lu->lock);
	scsi_ua_raise_locked(lu, SCSI_UA_CAPACITY_CHANGED, NULL);
	list_for_each_entry (itl, &lu->itls, lu_link) {
		int number = scsi_lun_number(itl->lun);

		if (itl->nexus->ops->event)
			itl->nexus->ops->event(itl->nexus, (unsigned)number,
					       SCSI_EVENT_CAPACITY_CHANGED);
	}
}

static void lun_event(struct lun_watcher *w, struct lun *lun, enum lun_event ev)
{
	struct scsi_lu *lu = container_of(w, struct scsi_lu, watcher);

	if (ev == LUN_EVENT_RESIZED)
		capacity_changed(lu);
}

static void set_facts(struct scsi_lu *lu, const struct scsi_lu_options *opt)
{
	struct block_info info;

	lun_get_block_info(lu->lun, &info);
	lu->block_size = lun_block_size(lu->lun);
	lu->block_shift = (uint8_t)__builtin_ctz(lu->block_size);
	lu->blocks = lun_size(lu->lun) >> lu->block_shift;
	lu->read_only = lun_read_only(lu->lun);
	lu->removable = lun_removable(lu->lun);
	lu->thin = opt->thin && info.discard_unit;
	lu->rotational = info.rotational;
	if (lu->block_size < PHYSICAL_BLOCK)
		lu->physical_shift = (uint32_t)__builtin_ctz(PHYSICAL_BLOCK) - lu->block_shift;
	if (lu->read_only)
		lu->gates = SCSI_GATE_READ_ONLY;
	pad(lu->vendor, opt->vendor ? opt->vendor : "EBB", 8);
	pad(lu->product, opt->product ? opt->product : "VIRTUAL-DISK", 16);
	pad(lu->revision, opt->revision ? opt->revision : EBB_VERSION, 4);
}

static void lu_clear(struct scsi_lu *lu)
{
	scsi_sanitize_destroy(lu);
	scsi_xcopy_destroy(lu);
	scsi_mode_destroy(lu);
	scsi_pr_destroy(lu);
	lun_unref(lu->lun);
	mutex_destroy(&lu->lock);
}

int scsi_lu_create(struct lun *lun, const struct scsi_lu_options *opt, struct scsi_lu **ret_lu,
		   struct reason *why)
{
	static const struct scsi_lu_options defaults = {.thin = true};
	struct lu_holder *h = calloc(1, sizeof(*h));
	struct scsi_lu *lu;
	int err;

	if (!h)
		return -ENOMEM;
	lu = &h->lu;
	lu->lun = lun_ref(lun);
	lu->refs = 1;
	mutex_init(&lu->lock, LOCK_RANK_SCSI_LU);
	list_init(&lu->itls);
	set_facts(lu, opt ? opt : &defaults);
	err = scsi_mode_create(lu, why);
	if (!err)
		err = scsi_pr_create(lu, why);
	if (!err)
		err = scsi_sanitize_create(lu, why);
	if (err) {
		lu_clear(lu);
		free(h);
		return err;
	}
	lu->watcher.fn = lun_event;
	list_init(&lu->watcher.link);
	lun_watch(lun, &lu->watcher);
	atomic_store_explicit(&lu->blocks, lun_size(lun) >> lu->block_shift, memory_order_relaxed);
	*ret_lu = lu;
	return 0;
}

struct scsi_lu *scsi_lu_ref(struct scsi_lu *lu)
{
	atomic_fetch_add_explicit(&lu->refs, 1, memory_order_relaxed);
	return lu;
}

static void run_free(struct worker_job *j)
{
	struct lu_holder *h = container_of(j, struct lu_holder, job);

	lun_unwatch(h->lu.lun, &h->lu.watcher);
	lu_clear(&h->lu);
}

static void free_holder(struct worker_job *j)
{
	free(container_of(j, struct lu_holder, job));
}

void scsi_lu_unref(struct scsi_lu *lu)
{
	struct lu_holder *h;

	if (!lu || atomic_fetch_sub_explicit(&lu->refs, 1, memory_order_acq_rel) != 1)
		return;
	h = container_of(lu, struct lu_holder, lu);
	h->job.run = run_free;
	h->job.done = free_holder;
	h->job.reactor = reactor_self();
	if (h->job.reactor) {
		worker_submit(&h->job);
		return;
	}
	run_free(&h->job);
	free(h);
}

struct lun *scsi_lu_lun(struct scsi_lu *lu)
{
	return lu->lun;
}

void scsi_lu_set_gate(struct scsi_lu *lu, enum scsi_gate gate, bool on)
{
	if (on)
		atomic_fetch_or_explicit(&lu->gates, gate, memory_order_acq_rel);
	else
		atomic_fetch_and_explicit(&lu->gates, ~(uint32_t)gate, memory_order_acq_rel);
}

void scsi_lu_reset(struct scsi_lu *lu, enum scsi_ua ua)
{
	struct scsi_itl *itl;

	scsi_pr_reset(lu);
	scsi_mode_reset(lu);
	mutex_scope(&lu->lock);
	list_for_each_entry (itl, &lu->itls, lu_link)
		scsi_itl_allow_removal_locked(itl);
	scsi_ua_raise_locked(lu, ua, NULL);
}
