// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * LIO's backstore, and the making and ending of its channel. LIO calls alloc when the backstore is
 * made in configfs, configure when it is enabled, destroy and free when it is removed; a configure
 * that failed is not followed by destroy, and may be called again.
 *
 * Everything of the shared memory is in the channel, which is made whole or dropped: who failed to
 * enable leaves nothing behind, although userspace may have opened and mapped it meanwhile.
 */
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "tcmu_private.h"

#define MB_PAGES(mb) ((unsigned long)(mb) << (20 - PAGE_SHIFT))

bool tcmu_chan_hold(struct tcmu_chan *chan)
{
	return kref_get_unless_zero(&chan->kref);
}

static void chan_free_work(struct work_struct *work)
{
	struct tcmu_chan *chan = container_of(work, struct tcmu_chan, free_work);

	if (chan->ring.mb)
		tcmu_cmd_forget_all(chan);
	data_area_destroy(chan->area);
	/* The area may have waked us until now. What runs sees `gone`, and does not look at it. */
	cancel_delayed_work_sync(&chan->run_work);
	tcmu_map_destroy(&chan->map);
	xa_destroy(&chan->ids);
	mutex_destroy(&chan->ring_lock);
	kfree(chan->uio.name);
	kfree_rcu(chan, rcu);
}

/* The last to let go may be who reclaims memory, or unmaps it, and hold locks of theirs. */
static void chan_release(struct kref *kref)
{
	tcmu_shrink_queue(&container_of(kref, struct tcmu_chan, kref)->free_work);
}

void tcmu_chan_put(struct tcmu_chan *chan)
{
	kref_put(&chan->kref, chan_release);
}

static char *uio_name(const struct tcmu_dev *dev)
{
	return kasprintf(GFP_KERNEL, "tcm-user/%u/%s%s%s", dev->host_id, dev->name,
			 dev->dev_config[0] ? "/" : "", dev->dev_config);
}

int tcmu_device_rename(struct tcmu_dev *dev)
{
	struct uio_info *info = &dev->chan->uio;
	char *name = uio_name(dev);
	const char *old;

	lockdep_assert_held(&dev->config_lock);
	if (!name)
		return -ENOMEM;
	mutex_lock(&info->uio_dev->info_lock); /* sysfs shows the name under it */
	old = info->name;
	info->name = name;
	mutex_unlock(&info->uio_dev->info_lock);
	kfree(old);
	return 0;
}

static struct tcmu_chan *chan_alloc(struct tcmu_dev *dev)
{
	unsigned long ring_pages = MB_PAGES(dev->ring_mb), area_pages = MB_PAGES(dev->area_mb);
	struct tcmu_chan *chan = kzalloc(sizeof(*chan), GFP_KERNEL);

	if (!chan)
		return NULL;
	kref_init(&chan->kref);
	chan->dev = dev;
	chan->pages_per_block = dev->pages_per_block;
	chan->max_blocks = area_pages / dev->pages_per_block;
	chan->last_used = jiffies;
	INIT_LIST_HEAD(&chan->node);
	INIT_LIST_HEAD(&chan->waiting);
	INIT_LIST_HEAD(&chan->inflight);
	INIT_LIST_HEAD(&chan->tmrs);
	mutex_init(&chan->ring_lock);
	xa_init_flags(&chan->ids, XA_FLAGS_ALLOC1);
	INIT_WORK(&chan->free_work, chan_free_work);
	INIT_DELAYED_WORK(&chan->run_work, tcmu_cmd_run_work);
	INIT_DELAYED_WORK(&chan->deadline_work, tcmu_cmd_deadline_work);
	tcmu_map_init(&chan->map, ring_pages + area_pages, ring_pages);
	return chan;
}

/* Blocks a device may have whatever others do. */
static u32 reserve_blocks(const struct tcmu_dev *dev, const struct tcmu_chan *chan)
{
	u64 block = (u64)chan->pages_per_block << PAGE_SHIFT;

	return min_t(u64, DIV_ROUND_UP_ULL((u64)dev->reserve_kb << 10, block), chan->max_blocks);
}

/* Everything but the uio device. */
static int chan_make(struct tcmu_dev *dev, struct tcmu_chan **ret_chan)
{
	struct tcmu_chan *chan;
	u32 ring_size = ((u32)dev->ring_mb << 20) - TCMU_RING_OFF;
	int err;

	lockdep_assert_held(&dev->config_lock);
	chan = chan_alloc(dev);
	if (!chan)
		return -ENOMEM;
	err = -ENOMEM;
	chan->uio.name = uio_name(dev);
	if (chan->uio.name)
		err = tcmu_ring_init(&chan->ring, &chan->map, ring_size);
	if (!err)
		err = tcmu_shrink_add(chan, reserve_blocks(dev, chan), dev->idle_s);
	if (err) {
		tcmu_chan_put(chan);
		return err;
	}
	*ret_chan = chan;
	return 0;
}

/*
 * Nobody is told of commands any more, and nobody works on any. That comes first: the bell is the
 * uio device's, and a notice that has waited for room would ring it.
 */
static void chan_end(struct tcmu_chan *chan, bool registered)
{
	mutex_lock(&chan->ring_lock);
	WRITE_ONCE(chan->gone, true);
	mutex_unlock(&chan->ring_lock);
	cancel_delayed_work_sync(&chan->deadline_work);
	cancel_delayed_work_sync(&chan->run_work);
	if (registered)
		uio_unregister_device(&chan->uio);
	tcmu_shrink_remove(chan);
	tcmu_chan_put(chan);
}

static void set_attrib_defaults(struct tcmu_dev *dev)
{
	struct se_dev_attrib *attrib = &dev->se_dev.dev_attrib;

	attrib->hw_block_size = attrib->hw_block_size ?: 512;
	attrib->hw_max_sectors = attrib->hw_max_sectors ?: 128;
	attrib->hw_queue_depth = 128;
}

static struct tcmu_chan *swap_chan(struct tcmu_dev *dev, struct tcmu_chan *chan)
{
	struct tcmu_chan *old;

	mutex_lock(&dev->config_lock);
	old = dev->chan;
	dev->chan = chan;
	mutex_unlock(&dev->config_lock);
	return old;
}

struct tcmu_chan *tcmu_device_chan(struct tcmu_dev *dev)
{
	struct tcmu_chan *chan;

	mutex_lock(&dev->config_lock);
	chan = dev->chan;
	if (chan)
		kref_get(&chan->kref);
	mutex_unlock(&dev->config_lock);
	return chan;
}

int tcmu_device_configure(struct se_device *se_dev)
{
	struct tcmu_dev *dev = to_tcmu_dev(se_dev);
	struct tcmu_chan *chan;
	int err;

	set_attrib_defaults(dev);
	mutex_lock(&dev->config_lock);
	err = chan_make(dev, &chan);
	mutex_unlock(&dev->config_lock);
	if (err)
		return err;
	err = tcmu_uio_register(chan);
	if (err) {
		chan_end(chan, false);
		return err;
	}
	/* Who did not say anything of its own follows what the daemon says of itself. */
	if (dev->nl_reply_supported >= 0)
		dev->nl_reply_supported = tcmu_nl_replies();
	swap_chan(dev, chan);
	err = tcmu_nl_send(dev, chan, TCMU_CMD_ADDED_DEVICE, NULL);
	if (err)
		chan_end(swap_chan(dev, NULL), true);
	return err;
}

void tcmu_device_destroy(struct se_device *se_dev)
{
	struct tcmu_dev *dev = to_tcmu_dev(se_dev);

	tcmu_nl_send(dev, dev->chan, TCMU_CMD_REMOVED_DEVICE, NULL);
	chan_end(swap_chan(dev, NULL), true);
}

struct se_device *tcmu_device_alloc(struct se_hba *hba, const char *name)
{
	struct tcmu_dev *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	dev->name = kstrdup(name, GFP_KERNEL);
	if (!dev->name) {
		kfree(dev);
		return NULL;
	}
	dev->host_id = (uintptr_t)hba->hba_ptr;
	dev->plug.se_dev = &dev->se_dev;
	mutex_init(&dev->config_lock);
	dev->area_mb = TCMU_AREA_MB_DEFAULT;
	dev->pages_per_block = 1;
	dev->ring_mb = TCMU_RING_MB_MAX;
	dev->reserve_kb = TCMU_RESERVE_KB_DEFAULT;
	dev->idle_s = -1;
	dev->cmd_time_out = TCMU_TIME_OUT_MS;
	dev->qfull_time_out = -1;
	return &dev->se_dev;
}

static void free_rcu_device(struct rcu_head *head)
{
	struct tcmu_dev *dev = to_tcmu_dev(container_of(head, struct se_device, rcu_head));

	mutex_destroy(&dev->config_lock);
	kfree(dev->name);
	kfree(dev);
}

void tcmu_device_free(struct se_device *se_dev)
{
	/* Fabrics look devices up under RCU. */
	call_rcu(&se_dev->rcu_head, free_rcu_device);
}
