// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Task management. LIO tells us of commands it gives up: those that wait for room leave at once,
 * those in flight are userspace's to stop, which is told which ones if it asked to be
 * (tmr_notification). Such a notice goes into the ring before any command that comes later; one
 * that finds no room waits for it, and has no deadline; so that a userspace that is stuck costs no
 * more and more memory, those beyond a few are dropped.
 */
#include <linux/slab.h>
#include <scsi/scsi_proto.h>

#include "tcmu_private.h"

#define WAITING_MAX 64u

static u8 type_of(enum tcm_tmreq_table tmf)
{
	switch (tmf) {
	case TMR_ABORT_TASK:
		return TCMU_TMR_ABORT_TASK;
	case TMR_ABORT_TASK_SET:
		return TCMU_TMR_ABORT_TASK_SET;
	case TMR_CLEAR_ACA:
		return TCMU_TMR_CLEAR_ACA;
	case TMR_CLEAR_TASK_SET:
		return TCMU_TMR_CLEAR_TASK_SET;
	case TMR_LUN_RESET:
		return TCMU_TMR_LUN_RESET;
	case TMR_TARGET_WARM_RESET:
		return TCMU_TMR_TARGET_WARM_RESET;
	case TMR_TARGET_COLD_RESET:
		return TCMU_TMR_TARGET_COLD_RESET;
	case TMR_LUN_RESET_PRO:
		return TCMU_TMR_LUN_RESET_PRO;
	default:
		return TCMU_TMR_UNKNOWN;
	}
}

static u32 tmr_len(const struct tcmu_tmr *tmr)
{
	return round_up(offsetof(struct tcmu_tmr_entry, cmd_ids[tmr->count]), TCMU_OP_ALIGN_SIZE);
}

static void publish_locked(struct tcmu_chan *chan, struct tcmu_tmr *tmr,
			   const struct tcmu_place *place)
{
	u32 len = tmr_len(tmr), ids = offsetof(struct tcmu_tmr_entry, cmd_ids);
	u32 done = ids + tmr->count * sizeof(tmr->ids[0]);
	struct tcmu_tmr_entry entry = {
		.tmr_type = tmr->type,
		.cmd_cnt = tmr->count,
	};

	tcmu_hdr_set_op(&entry.hdr.len_op, TCMU_OP_TMR);
	tcmu_hdr_set_len(&entry.hdr.len_op, len);
	tcmu_ring_write(&chan->ring, place->at, &entry, ids);
	tcmu_ring_write(&chan->ring, place->at + ids, tmr->ids, done - ids);
	tcmu_ring_zero(&chan->ring, place->at + done, len - done);
	list_del(&tmr->slot.node);
	chan->nr_tmrs--;
	tcmu_ring_publish(&chan->ring, place, len, TCMU_OP_TMR, &tmr->slot);
	uio_event_notify(&chan->uio);
}

static struct tcmu_tmr *first_locked(struct tcmu_chan *chan)
{
	return list_first_entry_or_null(&chan->tmrs, struct tcmu_tmr, slot.node);
}

int tcmu_tmr_push(struct tcmu_chan *chan)
{
	struct tcmu_place place;
	struct tcmu_tmr *tmr;
	u32 len = 0;
	int err;

	do {
		mutex_lock(&chan->ring_lock);
		err = chan->broken || chan->gone ? -EIO : 0;
		while (!err && (tmr = first_locked(chan))) {
			len = tmr_len(tmr);
			err = tcmu_ring_place(&chan->ring, len, &place);
			if (!err)
				publish_locked(chan, tmr, &place);
		}
		mutex_unlock(&chan->ring_lock);
	} while (err == -ENOMEM && !tcmu_ring_populate(&chan->ring, &place, len));
	return err;
}

void tcmu_tmr_drop_locked(struct tcmu_chan *chan)
{
	struct tcmu_tmr *tmr;

	lockdep_assert_held(&chan->ring_lock);
	while ((tmr = first_locked(chan))) {
		list_del(&tmr->slot.node);
		chan->nr_tmrs--;
		kfree(tmr);
	}
}

static struct tcmu_tmr *tmr_alloc(enum tcm_tmreq_table tmf, u32 max_ids)
{
	struct tcmu_tmr *tmr = kmalloc(struct_size(tmr, ids, max_ids), GFP_NOIO);

	if (!tmr)
		return NULL;
	tmr->type = type_of(tmf);
	tmr->count = 0;
	return tmr;
}

static void enqueue_locked(struct tcmu_chan *chan, struct tcmu_tmr *tmr)
{
	if (chan->broken || chan->nr_tmrs >= WAITING_MAX) {
		kfree(tmr);
		return;
	}
	list_add_tail(&tmr->slot.node, &chan->tmrs);
	chan->nr_tmrs++;
}

/* What becomes of an aborted command; @waiting gets it if it waits for room. */
static void abort_locked(struct tcmu_cmd *cmd, struct tcmu_tmr *tmr, struct list_head *waiting)
{
	switch (cmd->state) {
	case TCMU_PREPARING:
		cmd->aborted = true;
		break;
	case TCMU_WAITING:
		list_move_tail(&cmd->node, waiting);
		cmd->chan->nr_waiting--;
		cmd->se_cmd->priv = NULL;
		break;
	case TCMU_INFLIGHT:
		if (tmr)
			tmr->ids[tmr->count++] = cmd->id;
		break;
	default:
		break;
	}
}

void tcmu_tmr_notify(struct se_device *se_dev, enum tcm_tmreq_table tmf, struct list_head *cmds)
{
	struct tcmu_dev *dev = to_tcmu_dev(se_dev);
	struct tcmu_chan *chan = dev->chan;
	struct tcmu_tmr *tmr = NULL;
	struct tcmu_cmd *cmd, *next;
	struct se_cmd *se_cmd;
	LIST_HEAD(waiting);
	u32 n = 0;

	list_for_each_entry(se_cmd, cmds, state_list)
		n++;
	if (test_bit(TCMU_DEV_TMR_NOTIFY, &dev->flags))
		tmr = tmr_alloc(tmf, n);

	mutex_lock(&chan->ring_lock);
	list_for_each_entry(se_cmd, cmds, state_list) {
		if (se_cmd->priv)
			abort_locked(se_cmd->priv, tmr, &waiting);
	}
	if (tmr)
		enqueue_locked(chan, tmr);
	mutex_unlock(&chan->ring_lock);

	list_for_each_entry_safe(cmd, next, &waiting, node)
		tcmu_cmd_complete(cmd, SAM_STAT_TASK_ABORTED);
	tcmu_cmd_kick(chan);
}
