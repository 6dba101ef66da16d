// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Out of the ring: what userspace has finished, and what becomes of the blocks of a command that
 * LIO no longer waits for.
 *
 * Userspace answers in the entry at its tail, with the id of whichever command it has finished,
 * and moves the tail on. We follow with our own tail, entry by entry of our own list, and only if
 * its tail is where an entry of the list ends. An id counts if that command is in flight at this
 * moment; everything else breaks the ring: nothing more is taken from it before reset_ring.
 *
 * Under ring_lock, answers are only read. Data are copied, blocks given back and LIO told after it
 * was left, so commands are queued meanwhile.
 */
#include <linux/slab.h>
#include <scsi/scsi_common.h>
#include <scsi/scsi_proto.h>

#include "tcmu_private.h"

static void break_ring_locked(struct tcmu_chan *chan, const char *why)
{
	lockdep_assert_held(&chan->ring_lock);
	pr_err("%s: ring broken by userspace: %s\n", chan->dev->name, why);
	chan->broken = true;
}

/*
 * @slot was the oldest entry's and has left the ring. If that entry answered @cmd, fine; else it
 * belongs to a command still in flight, for which the entry of @cmd remains to be answered in.
 */
static void swap_slots_locked(struct tcmu_slot *slot, struct tcmu_cmd *cmd)
{
	if (slot == &cmd->slot)
		return;
	slot->len = cmd->slot.len;
	list_replace_init(&cmd->slot.node, &slot->node);
}

/* Takes the answer into the command; of the entry we have a copy. */
static void take_answer_locked(struct tcmu_cmd *cmd, struct tcmu_cmd_entry *entry)
{
	struct se_cmd *se_cmd = cmd->se_cmd;

	cmd->status = entry->rsp.scsi_status;
	cmd->read_len = cmd->len;
	if (entry->hdr.uflags & TCMU_UFLAG_UNKNOWN_OP) {
		cmd->status = SAM_STAT_CHECK_CONDITION;
		return;
	}
	if (se_cmd->data_direction == DMA_FROM_DEVICE && entry->hdr.uflags & TCMU_UFLAG_READ_LEN &&
	    entry->rsp.read_len) {
		cmd->read_len_valid = true;
		cmd->read_len = min(cmd->len, entry->rsp.read_len);
	}
	cmd->has_answer_data = true;
	if (cmd->status != SAM_STAT_CHECK_CONDITION)
		return;
	transport_copy_sense_to_cmd(se_cmd, entry->rsp.sense_buffer);
	if (cmd->read_len_valid)
		se_cmd->se_cmd_flags |= SCF_TREAT_READ_AS_NORMAL;
	else
		cmd->has_answer_data = false;
}

static void finish_entry_locked(struct tcmu_chan *chan, struct tcmu_slot *slot,
				struct list_head *done)
{
	struct tcmu_cmd_entry entry;
	struct tcmu_cmd *cmd;

	tcmu_ring_read(&chan->ring, chan->ring.tail, &entry, sizeof(entry));
	cmd = xa_load(&chan->ids, entry.hdr.cmd_id);
	if (!cmd || (cmd->state != TCMU_INFLIGHT && cmd->state != TCMU_EXPIRED)) {
		break_ring_locked(chan, "it finished a command that is not in flight");
		return;
	}
	tcmu_ring_pop(&chan->ring);
	swap_slots_locked(slot, cmd);
	cmd->keep = entry.hdr.uflags & TCMU_UFLAG_KEEP_BUF;
	if (!cmd->keep)
		tcmu_cmd_forget_id_locked(cmd);
	if (cmd->se_cmd) {
		take_answer_locked(cmd, &entry);
		cmd->se_cmd->priv = NULL;
	}
	cmd->state = TCMU_FINISHING;
	list_move_tail(&cmd->node, done);
}

static void reap_locked(struct tcmu_chan *chan, struct list_head *done)
{
	struct tcmu_slot *slot;
	int n = tcmu_ring_finished(&chan->ring);

	if (n < 0)
		break_ring_locked(chan, "its tail is not at the end of an entry");
	for (; n > 0 && !chan->broken; n--) {
		slot = tcmu_ring_oldest(&chan->ring);
		if (slot->op == TCMU_OP_CMD) {
			finish_entry_locked(chan, slot, done);
			continue;
		}
		tcmu_ring_pop(&chan->ring);
		if (slot->op == TCMU_OP_TMR)
			kfree(container_of(slot, struct tcmu_tmr, slot));
	}
}

/* LIO has its answer; userspace goes on using the blocks, unless it has gone itself. */
static bool keep(struct tcmu_cmd *cmd)
{
	struct tcmu_chan *chan = cmd->chan;
	bool kept;

	mutex_lock(&chan->ring_lock);
	kept = chan->open;
	if (kept) {
		cmd->se_cmd = NULL;
		cmd->state = TCMU_KEPT;
	}
	mutex_unlock(&chan->ring_lock);
	return kept;
}

static void finish(struct tcmu_cmd *cmd)
{
	struct se_cmd *se_cmd = cmd->se_cmd;
	u32 read_len = cmd->read_len;
	bool short_read = cmd->read_len_valid;
	u8 status = cmd->status;

	if (se_cmd && cmd->has_answer_data)
		tcmu_data_finish(cmd);
	if (!cmd->keep || !keep(cmd))
		tcmu_cmd_free(cmd);
	if (!se_cmd)
		return;
	if (short_read)
		target_complete_cmd_with_length(se_cmd, status, read_len);
	else
		target_complete_cmd(se_cmd, status);
}

void tcmu_cmd_reap(struct tcmu_chan *chan)
{
	struct tcmu_cmd *cmd, *next;
	LIST_HEAD(done);

	mutex_lock(&chan->ring_lock);
	if (!chan->broken && !chan->gone)
		reap_locked(chan, &done);
	if (chan->nr_waiting || !list_empty(&chan->tmrs))
		tcmu_cmd_kick(chan);
	mutex_unlock(&chan->ring_lock);
	list_for_each_entry_safe(cmd, next, &done, node) {
		list_del_init(&cmd->node);
		finish(cmd);
	}
}

/* There are ids again, which the area knows nothing of. */
static void kick_waiting(struct tcmu_chan *chan)
{
	if (READ_ONCE(chan->nr_waiting))
		tcmu_cmd_kick(chan);
}

int tcmu_cmd_free_kept(struct tcmu_chan *chan, u16 id)
{
	struct tcmu_cmd *cmd;

	mutex_lock(&chan->ring_lock);
	cmd = xa_load(&chan->ids, id);
	if (cmd && cmd->state == TCMU_KEPT)
		tcmu_cmd_forget_id_locked(cmd);
	else
		cmd = NULL;
	mutex_unlock(&chan->ring_lock);
	if (!cmd)
		return -ENOENT;
	tcmu_cmd_free(cmd);
	kick_waiting(chan);
	return 0;
}

void tcmu_cmd_free_all_kept(struct tcmu_chan *chan)
{
	struct tcmu_cmd *cmd, *next;
	unsigned long id;
	LIST_HEAD(kept);

	mutex_lock(&chan->ring_lock);
	xa_for_each(&chan->ids, id, cmd) {
		if (cmd->state != TCMU_KEPT)
			continue;
		tcmu_cmd_forget_id_locked(cmd);
		list_add_tail(&cmd->node, &kept);
	}
	mutex_unlock(&chan->ring_lock);
	list_for_each_entry_safe(cmd, next, &kept, node)
		tcmu_cmd_free(cmd);
	kick_waiting(chan);
}
