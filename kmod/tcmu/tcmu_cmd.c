// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * From LIO into the ring. A command is prepared (blocks, pages, data copied) without a lock, then
 * published under ring_lock. If there is no room, in the data area, the budget of all, the ring or
 * among the 65,535 ids, it waits its turn; one worker a channel tries those who wait again, first
 * come first served, and commands that come meanwhile queue up behind them.
 *
 * No wake-up is lost: whoever makes room kicks the worker if anybody is counted as waiting, the
 * worker counts those it has taken out to try as waiting still, and who joins an empty queue kicks
 * the worker itself, since room may have come up between its failure and its joining.
 *
 * The time a command may wait runs from when it first had to; trying again does not start it anew.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <scsi/scsi_common.h>
#include <scsi/scsi_proto.h>

#include "tcmu_private.h"

#define RETRY_MS 100 /* for want of memory: nobody tells us when there is some */

static struct workqueue_struct *cmd_wq;

void tcmu_cmd_forget_id_locked(struct tcmu_cmd *cmd)
{
	lockdep_assert_held(&cmd->chan->ring_lock);
	if (cmd->id)
		xa_erase(&cmd->chan->ids, cmd->id);
	cmd->id = 0;
}

void tcmu_cmd_free(struct tcmu_cmd *cmd)
{
	if (cmd->id) {
		/* Who looks an id up does so under the lock, and finds a command or nothing. */
		mutex_lock(&cmd->chan->ring_lock);
		tcmu_cmd_forget_id_locked(cmd);
		mutex_unlock(&cmd->chan->ring_lock);
	}
	tcmu_data_put(cmd);
	kvfree(cmd);
}

void tcmu_cmd_complete(struct tcmu_cmd *cmd, u8 status)
{
	struct se_cmd *se_cmd = cmd->se_cmd;

	tcmu_cmd_free(cmd);
	target_complete_cmd(se_cmd, status);
}

void tcmu_cmd_kick(struct tcmu_chan *chan)
{
	mod_delayed_work(cmd_wq, &chan->run_work, 0);
}

static void retry_later(struct tcmu_chan *chan)
{
	queue_delayed_work(cmd_wq, &chan->run_work, msecs_to_jiffies(RETRY_MS));
}

/* -- deadlines -------------------------------------------------------------------------- */

/* Sees to it that deadline_work looks at the command in time. */
static void watch_deadline_locked(const struct tcmu_cmd *cmd)
{
	struct tcmu_chan *chan = cmd->chan;

	lockdep_assert_held(&chan->ring_lock);
	if (!cmd->has_deadline || (delayed_work_pending(&chan->deadline_work) &&
				   !time_before(cmd->deadline, chan->next_deadline)))
		return;
	chan->next_deadline = cmd->deadline;
	mod_delayed_work(cmd_wq, &chan->deadline_work, max_t(long, cmd->deadline - jiffies, 1));
}

static void set_deadline_locked(struct tcmu_cmd *cmd, u32 ms)
{
	cmd->has_deadline = ms;
	cmd->deadline = jiffies + msecs_to_jiffies(ms);
	watch_deadline_locked(cmd);
}

static bool is_late(const struct tcmu_cmd *cmd)
{
	return cmd->has_deadline && time_after_eq(jiffies, cmd->deadline);
}

static void leave_waiting_locked(struct tcmu_cmd *cmd)
{
	list_del_init(&cmd->node);
	cmd->chan->nr_waiting--;
	cmd->se_cmd->priv = NULL;
}

static void expire_inflight_locked(struct tcmu_cmd *cmd)
{
	struct se_cmd *se_cmd = cmd->se_cmd;

	list_del_init(&cmd->node);
	cmd->state = TCMU_EXPIRED;
	cmd->se_cmd = NULL;
	cmd->chan->count.timeouts_cmd++;
	se_cmd->priv = NULL;
	target_complete_cmd(se_cmd, SAM_STAT_CHECK_CONDITION);
}

static void rearm_locked(struct tcmu_chan *chan, const struct list_head *list, bool *first)
{
	struct tcmu_cmd *cmd;

	list_for_each_entry(cmd, list, node) {
		if (!cmd->has_deadline)
			continue;
		if (*first || time_before(cmd->deadline, chan->next_deadline))
			chan->next_deadline = cmd->deadline;
		*first = false;
	}
}

void tcmu_cmd_deadline_work(struct work_struct *work)
{
	struct tcmu_chan *chan =
		container_of(to_delayed_work(work), struct tcmu_chan, deadline_work);
	struct tcmu_cmd *cmd, *next;
	bool none = true;
	LIST_HEAD(late);

	mutex_lock(&chan->ring_lock);
	list_for_each_entry_safe(cmd, next, &chan->inflight, node) {
		if (is_late(cmd))
			expire_inflight_locked(cmd);
	}
	list_for_each_entry_safe(cmd, next, &chan->waiting, node) {
		if (!is_late(cmd))
			continue;
		leave_waiting_locked(cmd);
		list_add_tail(&cmd->node, &late);
		chan->count.timeouts_qfull++;
	}
	rearm_locked(chan, &chan->inflight, &none);
	rearm_locked(chan, &chan->waiting, &none);
	if (!none)
		mod_delayed_work(cmd_wq, &chan->deadline_work,
				 max_t(long, chan->next_deadline - jiffies, 1));
	mutex_unlock(&chan->ring_lock);

	list_for_each_entry_safe(cmd, next, &late, node)
		tcmu_cmd_complete(cmd, SAM_STAT_TASK_SET_FULL);
	tcmu_cmd_kick(chan);
}

/* -- into the ring ---------------------------------------------------------------------- */

/* Bytes of an entry before its CDB: what is asked and what is answered share the place. */
static u32 entry_head_len(const struct tcmu_cmd *cmd)
{
	u32 iovs = cmd->iov_cnt + cmd->iov_bidi_cnt;

	return max(offsetof(struct tcmu_cmd_entry, req.iov[iovs]), sizeof(struct tcmu_cmd_entry));
}

static u32 entry_len(const struct tcmu_cmd *cmd)
{
	return entry_head_len(cmd) +
	       round_up(scsi_command_size(cmd->se_cmd->t_task_cdb), TCMU_OP_ALIGN_SIZE);
}

static void write_entry_locked(struct tcmu_cmd *cmd, u32 at, u32 len)
{
	struct tcmu_ring *ring = &cmd->chan->ring;
	u32 head_len = entry_head_len(cmd), done = offsetof(struct tcmu_cmd_entry, req.iov);
	u32 cdb_len = scsi_command_size(cmd->se_cmd->t_task_cdb);
	struct tcmu_cmd_entry entry = {};

	tcmu_hdr_set_op(&entry.hdr.len_op, TCMU_OP_CMD);
	tcmu_hdr_set_len(&entry.hdr.len_op, len);
	entry.hdr.cmd_id = cmd->id;
	entry.req.iov_cnt = cmd->iov_cnt;
	entry.req.iov_bidi_cnt = cmd->iov_bidi_cnt;
	entry.req.cdb_off = TCMU_RING_OFF + at + head_len;
	tcmu_ring_write(ring, at, &entry, done);
	done += tcmu_data_write_iovs(cmd, at + done);
	tcmu_ring_zero(ring, at + done, head_len - done);
	tcmu_ring_write(ring, at + head_len, cmd->se_cmd->t_task_cdb, cdb_len);
	tcmu_ring_zero(ring, at + head_len + cdb_len, len - head_len - cdb_len);
}

static void ring_bell_locked(struct tcmu_chan *chan)
{
	lockdep_assert_held(&chan->ring_lock);
	if (!test_bit(TCMU_DEV_PLUGGED, &chan->dev->flags))
		uio_event_notify(&chan->uio);
}

static void count_wait_locked(struct tcmu_cmd *cmd)
{
	struct tcmu_counters *count = &cmd->chan->count;
	u64 ms = jiffies_to_msecs(jiffies - cmd->since);

	count->qfull_waits++;
	count->qfull_wait_ms += ms;
	count->qfull_wait_max_ms = max(count->qfull_wait_max_ms, ms);
	cmd->chan->nr_waiting--;
}

static void publish_locked(struct tcmu_cmd *cmd, const struct tcmu_place *place, u32 len)
{
	struct tcmu_chan *chan = cmd->chan;

	write_entry_locked(cmd, place->at, len);
	tcmu_ring_publish(&chan->ring, place, len, TCMU_OP_CMD, &cmd->slot);
	cmd->state = TCMU_INFLIGHT;
	cmd->se_cmd->priv = cmd;
	list_add_tail(&cmd->node, &chan->inflight);
	if (cmd->waited)
		count_wait_locked(cmd);
	chan->count.commands++;
	set_deadline_locked(cmd, READ_ONCE(chan->dev->cmd_time_out));
	ring_bell_locked(chan);
}

/* May it go on at all? LIO marks a command aborted before it tells us which ones it aborts. */
static int check_locked(const struct tcmu_cmd *cmd)
{
	const struct tcmu_chan *chan = cmd->chan;

	if (cmd->aborted || cmd->se_cmd->transport_state & CMD_T_ABORTED)
		return -ECANCELED;
	if (chan->blocked)
		return -EBUSY;
	if (chan->broken || chan->gone)
		return -EIO;
	return 0;
}

/* -ENOSPC: no room in the ring. */
static int publish(struct tcmu_cmd *cmd)
{
	struct tcmu_chan *chan = cmd->chan;
	struct tcmu_place place;
	u32 len = entry_len(cmd);
	int err;

	if (len > chan->ring.size / 2)
		return -E2BIG;
	do {
		mutex_lock(&chan->ring_lock);
		err = check_locked(cmd);
		if (!err && !list_empty(&chan->tmrs))
			err = -ENOSPC; /* they were first */
		if (!err)
			err = tcmu_ring_place(&chan->ring, len, &place);
		if (!err)
			publish_locked(cmd, &place, len);
		if (err == -ENOSPC)
			chan->count.qfull_ring++;
		mutex_unlock(&chan->ring_lock);
		if (err != -ENOMEM)
			return err;
		err = tcmu_ring_populate(&chan->ring, &place, len);
	} while (!err);
	return err;
}

static int take_id(struct tcmu_cmd *cmd)
{
	u32 id;
	int err;

	if (cmd->id)
		return 0;
	err = xa_alloc(&cmd->chan->ids, &id, cmd, XA_LIMIT(1, U16_MAX), GFP_KERNEL);
	if (err)
		return err == -EBUSY ? -ENOSPC : err;
	cmd->id = id;
	return 0;
}

/* Once it returns 0, @cmd is userspace's, and may be gone already. */
static int start(struct tcmu_cmd *cmd)
{
	int err = tcmu_data_prepare(cmd);

	if (err == -ENOSPC) {
		mutex_lock(&cmd->chan->ring_lock);
		cmd->chan->count.qfull_data++;
		mutex_unlock(&cmd->chan->ring_lock);
	}
	if (!err)
		err = take_id(cmd);
	return err ? err : publish(cmd);
}

static bool is_full(int err)
{
	return err == -ENOSPC || err == -ENOMEM;
}

static u32 time_to_wait(const struct tcmu_dev *dev)
{
	s32 own = READ_ONCE(dev->qfull_time_out);
	u32 ms = READ_ONCE(dev->cmd_time_out);

	return own > 0 ? own : ms ?: TCMU_TIME_OUT_MS;
}

/*
 * A command that was just refused for want of room joins the queue. It gives up what blocks it has:
 * who waits before it may need them.
 */
static int wait_for_room(struct tcmu_cmd *cmd)
{
	struct tcmu_chan *chan = cmd->chan;
	int err;

	tcmu_data_put(cmd);
	mutex_lock(&chan->ring_lock);
	err = check_locked(cmd);
	if (!err && !READ_ONCE(chan->dev->qfull_time_out))
		err = -ETIMEDOUT;
	if (!err) {
		cmd->state = TCMU_WAITING;
		cmd->waited = true;
		cmd->since = jiffies;
		cmd->se_cmd->priv = cmd;
		set_deadline_locked(cmd, time_to_wait(chan->dev));
		list_add_tail(&cmd->node, &chan->waiting);
		if (!chan->nr_waiting++)
			tcmu_cmd_kick(chan);
	}
	mutex_unlock(&chan->ring_lock);
	return err;
}

static sense_reason_t reason_of(int err)
{
	switch (err) {
	case 0:
		return TCM_NO_SENSE;
	case -E2BIG:
		return TCM_INVALID_CDB_FIELD;
	case -EBUSY:
		return TCM_LUN_BUSY;
	case -ECANCELED:
		return TCM_CHECK_CONDITION_ABORT_CMD;
	case -ETIMEDOUT:
	case -ENOMEM:
		return TCM_OUT_OF_RESOURCES;
	default:
		return TCM_LOGICAL_UNIT_COMMUNICATION_FAILURE;
	}
}

static int queue(struct se_cmd *se_cmd)
{
	struct tcmu_chan *chan = to_tcmu_dev(se_cmd->se_dev)->chan;
	struct tcmu_cmd *cmd = tcmu_data_cmd_alloc(chan, se_cmd);
	int err;

	if (IS_ERR(cmd))
		return PTR_ERR(cmd);
	WRITE_ONCE(chan->last_used, jiffies);
	err = READ_ONCE(chan->nr_waiting) ? -ENOSPC : start(cmd);
	if (is_full(err)) {
		err = wait_for_room(cmd);
		if (err)
			tcmu_cmd_kick(chan); /* the core thinks that we wait */
	}
	if (err)
		tcmu_cmd_free(cmd);
	return err;
}

sense_reason_t tcmu_cmd_queue(struct se_cmd *se_cmd)
{
	/* What memory is reclaimed for us must not be written to ourselves. */
	unsigned int noio = memalloc_noio_save();
	int err = queue(se_cmd);

	memalloc_noio_restore(noio);
	return reason_of(err);
}

/* -- those who wait --------------------------------------------------------------------- */

static struct tcmu_cmd *take_waiting(struct tcmu_chan *chan)
{
	struct tcmu_cmd *cmd;

	mutex_lock(&chan->ring_lock);
	cmd = list_first_entry_or_null(&chan->waiting, struct tcmu_cmd, node);
	if (cmd) {
		list_del_init(&cmd->node); /* nr_waiting has it still */
		cmd->state = TCMU_PREPARING;
	}
	mutex_unlock(&chan->ring_lock);
	return cmd;
}

/*
 * Back to its place at the head of the queue, if it may still wait. Its deadline may have come
 * while it was on no list.
 */
static int wait_again(struct tcmu_cmd *cmd)
{
	struct tcmu_chan *chan = cmd->chan;
	int err;

	mutex_lock(&chan->ring_lock);
	err = check_locked(cmd);
	if (!err) {
		cmd->state = TCMU_WAITING;
		list_add(&cmd->node, &chan->waiting);
		watch_deadline_locked(cmd);
	}
	mutex_unlock(&chan->ring_lock);
	return err;
}

static void end_waiting(struct tcmu_cmd *cmd, int err)
{
	struct tcmu_chan *chan = cmd->chan;

	mutex_lock(&chan->ring_lock);
	chan->nr_waiting--;
	cmd->se_cmd->priv = NULL;
	mutex_unlock(&chan->ring_lock);
	tcmu_cmd_complete(cmd, err == -ECANCELED ? SAM_STAT_TASK_ABORTED
			       : err == -EBUSY	 ? SAM_STAT_BUSY
						 : SAM_STAT_CHECK_CONDITION);
}

static void run_waiting(struct tcmu_chan *chan)
{
	struct tcmu_cmd *cmd;
	int err, full;

	while ((cmd = take_waiting(chan))) {
		full = err = start(cmd);
		if (is_full(err))
			err = wait_again(cmd);
		if (err)
			end_waiting(cmd, err);
		if (!err && full == -ENOMEM)
			retry_later(chan);
		if (!err && full)
			return;
	}
	data_area_stop_waiting(chan->area);
}

void tcmu_cmd_run_work(struct work_struct *work)
{
	struct tcmu_chan *chan = container_of(to_delayed_work(work), struct tcmu_chan, run_work);
	unsigned int noio;

	/* A channel that has ended may still be waked, but its area and device may not be there. */
	if (READ_ONCE(chan->gone))
		return;
	noio = memalloc_noio_save();
	if (tcmu_tmr_push(chan) == -ENOMEM)
		retry_later(chan);
	run_waiting(chan);
	memalloc_noio_restore(noio);
}

/* -- commands from outside -------------------------------------------------------------- */

static void fail_all_waiting(struct tcmu_chan *chan, u8 status)
{
	struct tcmu_cmd *cmd, *next;
	LIST_HEAD(cmds);

	mutex_lock(&chan->ring_lock);
	list_for_each_entry_safe(cmd, next, &chan->waiting, node) {
		leave_waiting_locked(cmd);
		list_add_tail(&cmd->node, &cmds);
	}
	mutex_unlock(&chan->ring_lock);
	list_for_each_entry_safe(cmd, next, &cmds, node)
		tcmu_cmd_complete(cmd, status);
}

void tcmu_cmd_block(struct tcmu_chan *chan, bool block)
{
	if (block)
		tcmu_cmd_reap(chan); /* what was done is done */
	mutex_lock(&chan->ring_lock);
	chan->blocked = block;
	mutex_unlock(&chan->ring_lock);
	if (block)
		fail_all_waiting(chan, SAM_STAT_BUSY);
	tcmu_cmd_kick(chan);
}

/* Takes out all that is or was in the ring, into @cmds; but not what is being finished. */
static void empty_ring_locked(struct tcmu_chan *chan, struct list_head *cmds)
{
	struct tcmu_slot *slot;
	struct tcmu_cmd *cmd;
	unsigned long id;

	while ((slot = tcmu_ring_oldest(&chan->ring))) {
		tcmu_ring_pop(&chan->ring);
		if (slot->op == TCMU_OP_TMR)
			kfree(container_of(slot, struct tcmu_tmr, slot));
	}
	tcmu_tmr_drop_locked(chan);
	xa_for_each(&chan->ids, id, cmd) {
		if (cmd->state != TCMU_INFLIGHT && cmd->state != TCMU_EXPIRED &&
		    cmd->state != TCMU_KEPT)
			continue;
		if (cmd->state == TCMU_INFLIGHT)
			cmd->se_cmd->priv = NULL;
		cmd->state = TCMU_FINISHING;
		tcmu_cmd_forget_id_locked(cmd);
		list_move_tail(&cmd->node, cmds);
	}
}

void tcmu_cmd_reset(struct tcmu_chan *chan, bool hard)
{
	struct tcmu_cmd *cmd, *next;
	LIST_HEAD(cmds);

	mutex_lock(&chan->ring_lock);
	empty_ring_locked(chan, &cmds);
	tcmu_ring_restart(&chan->ring);
	chan->broken = false;
	mutex_unlock(&chan->ring_lock);
	list_for_each_entry_safe(cmd, next, &cmds, node) {
		if (cmd->se_cmd)
			tcmu_cmd_complete(cmd, hard ? SAM_STAT_CHECK_CONDITION : SAM_STAT_BUSY);
		else
			tcmu_cmd_free(cmd);
	}
	tcmu_cmd_kick(chan);
}

void tcmu_cmd_forget_all(struct tcmu_chan *chan)
{
	struct tcmu_cmd *cmd, *next;
	LIST_HEAD(cmds);

	mutex_lock(&chan->ring_lock);
	empty_ring_locked(chan, &cmds);
	WARN_ON_ONCE(chan->nr_waiting);
	mutex_unlock(&chan->ring_lock);
	list_for_each_entry_safe(cmd, next, &cmds, node) {
		WARN_ON_ONCE(cmd->se_cmd);
		tcmu_cmd_free(cmd);
	}
}

int tcmu_cmd_init(void)
{
	cmd_wq = alloc_workqueue("tcmu", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	return cmd_wq ? 0 : -ENOMEM;
}

void tcmu_cmd_exit(void)
{
	destroy_workqueue(cmd_wq);
}
