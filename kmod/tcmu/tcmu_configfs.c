// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What configfs shows of a device and takes for it: the file `control` (words set before the
 * device is enabled), `info`, and the folders attrib and action. Names and forms are those rtslib,
 * targetcli and tcmu-runner know. Beyond theirs: idle_time_out, reserve_kb, and statistics, which
 * come from the same tables as the counters they show.
 */
#include <linux/configfs.h>
#include <linux/mm.h>
#include <linux/parser.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "tcmu_private.h"

/* -- control and info ------------------------------------------------------------------- */

/* Changes what is fixed once the device is enabled. */
static int set_geometry(struct tcmu_dev *dev, u32 area_mb, u32 pages_per_block)
{
	u64 pages = (u64)area_mb << (20 - PAGE_SHIFT);

	lockdep_assert_held(&dev->config_lock);
	if (dev->chan)
		return -EINVAL;
	if (!area_mb || !pages_per_block || pages_per_block > pages ||
	    pages_per_block > TCMU_BLOCK_PAGES_MAX ||
	    pages / pages_per_block > DATA_AREA_BLOCKS_MAX)
		return -EINVAL;
	dev->area_mb = area_mb;
	dev->pages_per_block = pages_per_block;
	return 0;
}

static int set_ring_mb(struct tcmu_dev *dev, u32 mb)
{
	if (dev->chan || !mb)
		return -EINVAL;
	dev->ring_mb = min_t(u32, mb, TCMU_RING_MB_MAX);
	return 0;
}

enum {
	OPT_DEV_CONFIG,
	OPT_DEV_SIZE,
	OPT_HW_BLOCK_SIZE,
	OPT_HW_MAX_SECTORS,
	OPT_NL_REPLY,
	OPT_AREA_MB,
	OPT_PAGES_PER_BLOCK,
	OPT_RING_MB,
	OPT_UNKNOWN
};

static const match_table_t words = {
	{OPT_DEV_CONFIG, "dev_config=%s"},
	{OPT_DEV_SIZE, "dev_size=%s"},
	{OPT_HW_BLOCK_SIZE, "hw_block_size=%d"},
	{OPT_HW_MAX_SECTORS, "hw_max_sectors=%d"},
	{OPT_NL_REPLY, "nl_reply_supported=%d"},
	{OPT_AREA_MB, "max_data_area_mb=%d"},
	{OPT_PAGES_PER_BLOCK, "data_pages_per_blk=%d"},
	{OPT_RING_MB, "cmd_ring_size_mb=%d"},
	{OPT_UNKNOWN, NULL},
};

static int set_string(struct tcmu_dev *dev, substring_t *arg)
{
	return match_strlcpy(dev->dev_config, arg, sizeof(dev->dev_config)) ? 0 : -EINVAL;
}

static int set_size(struct tcmu_dev *dev, substring_t *arg)
{
	u64 size;
	int err = match_u64(arg, &size);

	if (!err)
		WRITE_ONCE(dev->dev_size, size);
	return err;
}

static int set_number(struct tcmu_dev *dev, int word, substring_t *arg)
{
	int number, err = match_int(arg, &number);

	if (err)
		return err;
	if (word == OPT_NL_REPLY) {
		WRITE_ONCE(dev->nl_reply_supported, number);
		return 0;
	}
	if (number <= 0)
		return -EINVAL;
	switch (word) {
	case OPT_HW_BLOCK_SIZE:
		dev->se_dev.dev_attrib.hw_block_size = number;
		return 0;
	case OPT_HW_MAX_SECTORS:
		dev->se_dev.dev_attrib.hw_max_sectors = number;
		return 0;
	case OPT_AREA_MB:
		return set_geometry(dev, number, dev->pages_per_block);
	case OPT_PAGES_PER_BLOCK:
		return set_geometry(dev, dev->area_mb, number);
	default:
		return set_ring_mb(dev, number);
	}
}

static int set_word(struct tcmu_dev *dev, char *text)
{
	substring_t args[MAX_OPT_ARGS];
	int word = match_token(text, words, args);

	switch (word) {
	case OPT_UNKNOWN:
		return 0; /* of a newer or an older tool */
	case OPT_DEV_CONFIG:
		return set_string(dev, args);
	case OPT_DEV_SIZE:
		return set_size(dev, args);
	default:
		return set_number(dev, word, args);
	}
}

ssize_t tcmu_configfs_set(struct se_device *se_dev, const char *page, ssize_t count)
{
	struct tcmu_dev *dev = to_tcmu_dev(se_dev);
	char *text = kstrdup(page, GFP_KERNEL), *rest = text, *word;
	int err = 0;

	if (!text)
		return -ENOMEM;
	mutex_lock(&dev->config_lock);
	while (!err && (word = strsep(&rest, ",\n"))) {
		if (!*word)
			continue;
		err = set_word(dev, word);
		if (err)
			pr_err("%s: '%s' refused\n", dev->name, word);
	}
	mutex_unlock(&dev->config_lock);
	kfree(text);
	return err ?: count;
}

/* rtslib takes what follows the last "Size: " for the size. */
ssize_t tcmu_configfs_show(struct se_device *se_dev, char *page)
{
	struct tcmu_dev *dev = to_tcmu_dev(se_dev);
	ssize_t n;

	mutex_lock(&dev->config_lock);
	n = sprintf(
		page,
		"Config: %s Size: %llu MaxDataAreaMB: %u DataPagesPerBlk: %u CmdRingSizeMB: %u\n",
		dev->dev_config[0] ? dev->dev_config : "NULL", READ_ONCE(dev->dev_size),
		dev->area_mb, dev->pages_per_block, dev->ring_mb);
	mutex_unlock(&dev->config_lock);
	return n;
}

/* -- attrib ----------------------------------------------------------------------------- */

static struct se_dev_attrib *to_attrib(struct config_item *item)
{
	return container_of(to_config_group(item), struct se_dev_attrib, da_group);
}

static struct tcmu_dev *attrib_dev(struct config_item *item)
{
	return to_tcmu_dev(to_attrib(item)->da_dev);
}

/*
 * Tells userspace of a change before it is made, if the device is enabled; not while it is being
 * enabled, when it is userspace that sets things.
 */
static int announce(struct tcmu_dev *dev, const struct tcmu_nl_extra *extra)
{
	struct tcmu_chan *chan;
	int err;

	if (!target_dev_configured(&dev->se_dev))
		return 0;
	chan = tcmu_device_chan(dev);
	if (!chan)
		return 0;
	err = tcmu_nl_send(dev, chan, TCMU_CMD_RECONFIG_DEVICE, extra);
	tcmu_chan_put(chan);
	return err;
}

static ssize_t tcmu_cmd_time_out_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%lu\n", attrib_dev(item)->cmd_time_out / MSEC_PER_SEC);
}

static ssize_t tcmu_cmd_time_out_store(struct config_item *item, const char *page, size_t count)
{
	u32 seconds;
	int err = kstrtou32(page, 0, &seconds);

	if (err)
		return err;
	if (seconds > INT_MAX / MSEC_PER_SEC)
		return -EINVAL;
	WRITE_ONCE(attrib_dev(item)->cmd_time_out, seconds * MSEC_PER_SEC);
	return count;
}
CONFIGFS_ATTR(tcmu_, cmd_time_out);

static ssize_t tcmu_qfull_time_out_show(struct config_item *item, char *page)
{
	s32 ms = READ_ONCE(attrib_dev(item)->qfull_time_out);

	return sysfs_emit(page, "%d\n", ms <= 0 ? ms : ms / (s32)MSEC_PER_SEC);
}

static ssize_t tcmu_qfull_time_out_store(struct config_item *item, const char *page, size_t count)
{
	s32 seconds;
	int err = kstrtos32(page, 0, &seconds);

	if (err)
		return err;
	if (seconds < -1 || seconds > INT_MAX / (s32)MSEC_PER_SEC)
		return -EINVAL;
	WRITE_ONCE(attrib_dev(item)->qfull_time_out,
		   seconds < 0 ? seconds : seconds * (s32)MSEC_PER_SEC);
	return count;
}
CONFIGFS_ATTR(tcmu_, qfull_time_out);

static ssize_t tcmu_max_data_area_mb_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%u\n", attrib_dev(item)->area_mb);
}
CONFIGFS_ATTR_RO(tcmu_, max_data_area_mb);

static ssize_t tcmu_data_pages_per_blk_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%u\n", attrib_dev(item)->pages_per_block);
}
CONFIGFS_ATTR_RO(tcmu_, data_pages_per_blk);

static ssize_t tcmu_cmd_ring_size_mb_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%u\n", attrib_dev(item)->ring_mb);
}
CONFIGFS_ATTR_RO(tcmu_, cmd_ring_size_mb);

static ssize_t tcmu_dev_config_show(struct config_item *item, char *page)
{
	struct tcmu_dev *dev = attrib_dev(item);
	ssize_t n;

	mutex_lock(&dev->config_lock);
	n = sysfs_emit(page, "%s\n", dev->dev_config);
	mutex_unlock(&dev->config_lock);
	return n;
}

static ssize_t tcmu_dev_config_store(struct config_item *item, const char *page, size_t count)
{
	struct tcmu_nl_extra extra = {.attr = TCMU_ATTR_DEV_CFG, .string = page};
	struct tcmu_dev *dev = attrib_dev(item);
	size_t len = strlen(page);
	int err;

	if (!len || len >= TCMU_CONFIG_LEN)
		return -EINVAL;
	err = announce(dev, &extra);
	if (err)
		return err;
	mutex_lock(&dev->config_lock);
	strscpy(dev->dev_config, page, sizeof(dev->dev_config));
	err = dev->chan ? tcmu_device_rename(dev) : 0;
	mutex_unlock(&dev->config_lock);
	return err ?: count;
}
CONFIGFS_ATTR(tcmu_, dev_config);

static ssize_t tcmu_dev_size_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%llu\n", READ_ONCE(attrib_dev(item)->dev_size));
}

static ssize_t tcmu_dev_size_store(struct config_item *item, const char *page, size_t count)
{
	struct tcmu_nl_extra extra = {.attr = TCMU_ATTR_DEV_SIZE};
	struct tcmu_dev *dev = attrib_dev(item);
	int err = kstrtou64(page, 0, &extra.number);

	if (!err)
		err = announce(dev, &extra);
	if (!err)
		WRITE_ONCE(dev->dev_size, extra.number);
	return err ?: count;
}
CONFIGFS_ATTR(tcmu_, dev_size);

static ssize_t tcmu_emulate_write_cache_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%i\n", to_attrib(item)->emulate_write_cache);
}

static ssize_t tcmu_emulate_write_cache_store(struct config_item *item, const char *page,
					      size_t count)
{
	struct tcmu_nl_extra extra = {.attr = TCMU_ATTR_WRITECACHE};
	u8 on;
	int err = kstrtou8(page, 0, &on);

	extra.number = on;
	if (!err)
		err = announce(attrib_dev(item), &extra);
	if (!err)
		to_attrib(item)->emulate_write_cache = on;
	return err ?: count;
}
CONFIGFS_ATTR(tcmu_, emulate_write_cache);

static ssize_t tcmu_tmr_notification_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%i\n", test_bit(TCMU_DEV_TMR_NOTIFY, &attrib_dev(item)->flags));
}

static ssize_t tcmu_tmr_notification_store(struct config_item *item, const char *page, size_t count)
{
	u8 on;
	int err = kstrtou8(page, 0, &on);

	if (err)
		return err;
	if (on > 1)
		return -EINVAL;
	assign_bit(TCMU_DEV_TMR_NOTIFY, &attrib_dev(item)->flags, on);
	return count;
}
CONFIGFS_ATTR(tcmu_, tmr_notification);

static ssize_t tcmu_nl_reply_supported_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%d\n", READ_ONCE(attrib_dev(item)->nl_reply_supported));
}

static ssize_t tcmu_nl_reply_supported_store(struct config_item *item, const char *page,
					     size_t count)
{
	s8 number;
	int err = kstrtos8(page, 0, &number);

	if (err)
		return err;
	WRITE_ONCE(attrib_dev(item)->nl_reply_supported, number);
	return count;
}
CONFIGFS_ATTR(tcmu_, nl_reply_supported);

static ssize_t tcmu_idle_time_out_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%d\n", READ_ONCE(attrib_dev(item)->idle_s));
}

static ssize_t tcmu_idle_time_out_store(struct config_item *item, const char *page, size_t count)
{
	struct tcmu_dev *dev = attrib_dev(item);
	s32 seconds;
	int err = kstrtos32(page, 0, &seconds);

	if (err)
		return err;
	if (seconds < -1)
		return -EINVAL;
	mutex_lock(&dev->config_lock);
	dev->idle_s = seconds;
	if (dev->chan)
		tcmu_shrink_set_idle(dev->chan, seconds);
	mutex_unlock(&dev->config_lock);
	return count;
}
CONFIGFS_ATTR(tcmu_, idle_time_out);

static ssize_t tcmu_reserve_kb_show(struct config_item *item, char *page)
{
	return sysfs_emit(page, "%u\n", READ_ONCE(attrib_dev(item)->reserve_kb));
}

static ssize_t tcmu_reserve_kb_store(struct config_item *item, const char *page, size_t count)
{
	struct tcmu_dev *dev = attrib_dev(item);
	u32 kb;
	int err = kstrtou32(page, 0, &kb);

	if (err)
		return err;
	mutex_lock(&dev->config_lock);
	if (dev->chan)
		err = -EBUSY;
	else
		dev->reserve_kb = kb;
	mutex_unlock(&dev->config_lock);
	return err ?: count;
}
CONFIGFS_ATTR(tcmu_, reserve_kb);

/* -- statistics ------------------------------------------------------------------------- */

struct snapshot {
	struct data_area_stats area;
	struct tcmu_counters count;
	u64 pages;	/* resident, ring and mailbox included */
	u64 ring_pages; /* of these */
	u64 bytes_returned;
};

/* Of a device that is not enabled, all are 0. */
static void take_snapshot(struct tcmu_dev *dev, struct snapshot *s)
{
	struct tcmu_chan *chan = tcmu_device_chan(dev);

	memset(s, 0, sizeof(*s));
	if (!chan)
		return;
	data_area_stats(chan->area, &s->area);
	mutex_lock(&chan->ring_lock);
	s->count = chan->count;
	mutex_unlock(&chan->ring_lock);
	s->pages = atomic_long_read(&chan->map.resident);
	s->ring_pages = atomic_long_read(&chan->map.ring_resident);
	s->bytes_returned = s->area.pages_returned << PAGE_SHIFT;
	tcmu_chan_put(chan);
}

static ssize_t show_stat(struct config_item *item, char *page, size_t offset, size_t size)
{
	struct snapshot s;
	const void *field = (const char *)&s + offset;

	take_snapshot(attrib_dev(item), &s);
	return sysfs_emit(page, "%llu\n",
			  size == sizeof(u32) ? *(const u32 *)field : *(const u64 *)field);
}

#define DEFINE_STAT(name, field)                                                \
	static ssize_t tcmu_##name##_show(struct config_item *item, char *page) \
	{                                                                       \
		return show_stat(item, page, offsetof(struct snapshot, field),  \
				 sizeof_field(struct snapshot, field));         \
	}                                                                       \
	CONFIGFS_ATTR_RO(tcmu_, name)

#define GAUGES(X)                                   \
	X(blocks_busy, area.busy)                   \
	X(blocks_cached, area.cached)               \
	X(blocks_busy_high, area.high_water)        \
	X(blocks_resident_high, area.resident_high) \
	X(blocks_reserve, area.reserve)             \
	X(meta_bytes, area.meta_bytes)              \
	X(pages_resident, pages)                    \
	X(pages_ring, ring_pages)                   \
	X(bytes_returned, bytes_returned)

#define X(name, field) DEFINE_STAT(name, field);
GAUGES(X)
#undef X
#define X(name, help) DEFINE_STAT(name, area.name);
DATA_AREA_COUNTERS(X)
#undef X
#define X(name, help) DEFINE_STAT(name, count.name);
TCMU_COUNTERS(X)
#undef X

static struct configfs_attribute *attrib_attrs[] = {
	&tcmu_attr_cmd_time_out,
	&tcmu_attr_qfull_time_out,
	&tcmu_attr_max_data_area_mb,
	&tcmu_attr_data_pages_per_blk,
	&tcmu_attr_cmd_ring_size_mb,
	&tcmu_attr_dev_config,
	&tcmu_attr_dev_size,
	&tcmu_attr_emulate_write_cache,
	&tcmu_attr_tmr_notification,
	&tcmu_attr_nl_reply_supported,
	&tcmu_attr_idle_time_out,
	&tcmu_attr_reserve_kb,
#define X(name, x) &tcmu_attr_##name,
	GAUGES(X) DATA_AREA_COUNTERS(X) TCMU_COUNTERS(X)
#undef X
		NULL,
};

static size_t count_attrs(struct configfs_attribute **attrs)
{
	size_t n = 0;

	while (attrs[n])
		n++;
	return n;
}

struct configfs_attribute **tcmu_configfs_attribs(void)
{
	size_t a = count_attrs(passthrough_attrib_attrs);
	size_t b = count_attrs(passthrough_pr_attrib_attrs), c = ARRAY_SIZE(attrib_attrs);
	struct configfs_attribute **all = kcalloc(a + b + c, sizeof(*all), GFP_KERNEL);

	if (!all)
		return NULL;
	memcpy(all, passthrough_attrib_attrs, a * sizeof(*all));
	memcpy(all + a, passthrough_pr_attrib_attrs, b * sizeof(*all));
	memcpy(all + a + b, attrib_attrs, c * sizeof(*all));
	return all;
}

/* -- action ----------------------------------------------------------------------------- */

static struct tcmu_dev *action_dev(struct config_item *item)
{
	return to_tcmu_dev(container_of(to_config_group(item), struct se_device, dev_action_group));
}

static ssize_t tcmu_block_dev_show(struct config_item *item, char *page)
{
	struct tcmu_chan *chan = tcmu_device_chan(action_dev(item));
	bool blocked = false;

	if (chan) {
		blocked = READ_ONCE(chan->blocked);
		tcmu_chan_put(chan);
	}
	return sysfs_emit(page, "%s\n", blocked ? "blocked" : "unblocked");
}

/* Runs @act on the channel with the number in @page, which is at most @max and at least @min. */
static ssize_t act(struct config_item *item, const char *page, size_t count, u16 min, u16 max,
		   int (*act)(struct tcmu_chan *chan, u16 number))
{
	struct tcmu_chan *chan;
	u16 number;
	int err = kstrtou16(page, 0, &number);

	if (err)
		return err;
	if (number < min || number > max)
		return -EINVAL;
	chan = tcmu_device_chan(action_dev(item));
	if (!chan)
		return -EINVAL;
	err = act(chan, number);
	tcmu_chan_put(chan);
	return err ?: count;
}

static int act_block(struct tcmu_chan *chan, u16 number)
{
	tcmu_cmd_block(chan, number);
	return 0;
}

static int act_reset(struct tcmu_chan *chan, u16 number)
{
	tcmu_cmd_reset(chan, number == 2);
	return 0;
}

static int act_free_kept(struct tcmu_chan *chan, u16 number)
{
	return tcmu_cmd_free_kept(chan, number) ? -EINVAL : 0;
}

static ssize_t tcmu_block_dev_store(struct config_item *item, const char *page, size_t count)
{
	return act(item, page, count, 0, 1, act_block);
}
CONFIGFS_ATTR(tcmu_, block_dev);

static ssize_t tcmu_reset_ring_store(struct config_item *item, const char *page, size_t count)
{
	return act(item, page, count, 1, 2, act_reset);
}
CONFIGFS_ATTR_WO(tcmu_, reset_ring);

static ssize_t tcmu_free_kept_buf_store(struct config_item *item, const char *page, size_t count)
{
	return act(item, page, count, 0, U16_MAX, act_free_kept);
}
CONFIGFS_ATTR_WO(tcmu_, free_kept_buf);

struct configfs_attribute *tcmu_action_attrs[] = {
	&tcmu_attr_block_dev,
	&tcmu_attr_reset_ring,
	&tcmu_attr_free_kept_buf,
	NULL,
};
