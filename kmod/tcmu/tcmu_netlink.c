// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What userspace is told of devices, and what it answers: the generic netlink family TCM-USER.
 *
 * Three events go to the group `config`: a device was added, is being removed, is to be configured
 * anew. A daemon that said so (SET_FEATURES) answers each with the DONE of its kind, and who caused
 * the event waits for that answer. The wait lives on the waiter's stack and in one list:
 *
 *	- it is entered before the event is sent, so that no answer comes too early;
 *	- only an answer that fits, device and kind, is taken; any other changes nothing;
 *	- it is left by whoever waits, and by nobody else: an answer is written into it and
 *	  signalled under the list's lock, and the waiter takes that lock before it leaves;
 *	- it ends, by an answer, a fatal signal, reset_netlink or netlink_timeout.
 *
 * Locks: nl_lock is a leaf.
 */
#include <linux/completion.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <net/genetlink.h>

#include "tcmu_private.h"

struct nl_wait {
	struct list_head node; /* in nl_waits, under nl_lock as all below */
	struct completion done;
	u32 device_id;
	int event;  /* enum tcmu_genl_cmd; TCMU_CMD_UNSPEC once it is answered */
	int status; /* of the answer: 0 or -errno */
};

static DEFINE_MUTEX(nl_lock);
static LIST_HEAD(nl_waits);
static bool nl_blocked; /* under nl_lock */
static bool nl_replies; /* the daemon answers; written under nl_lock */
static uint nl_timeout_s = 300;

static struct genl_family nl_family;

static struct nl_wait *find_wait_locked(u32 device_id)
{
	struct nl_wait *w;

	lockdep_assert_held(&nl_lock);
	list_for_each_entry(w, &nl_waits, node) {
		if (w->device_id == device_id)
			return w;
	}
	return NULL;
}

static void end_wait_locked(struct nl_wait *w, int status)
{
	if (w->event == TCMU_CMD_UNSPEC)
		return;
	w->event = TCMU_CMD_UNSPEC; /* a second answer does not fit */
	w->status = status;
	complete(&w->done);
}

static int enter_wait(struct nl_wait *w, u32 device_id, int event)
{
	int err = 0;

	init_completion(&w->done);
	w->device_id = device_id;
	w->event = event;
	w->status = 0;
	mutex_lock(&nl_lock);
	if (nl_blocked)
		err = -EAGAIN;
	else if (find_wait_locked(device_id))
		err = -EBUSY;
	else
		list_add_tail(&w->node, &nl_waits);
	mutex_unlock(&nl_lock);
	return err;
}

/* What was answered, or @unanswered. */
static int leave_wait(struct nl_wait *w, int unanswered)
{
	mutex_lock(&nl_lock);
	list_del(&w->node);
	mutex_unlock(&nl_lock);
	return w->event == TCMU_CMD_UNSPEC ? w->status : unanswered;
}

static int await_answer(struct nl_wait *w, const char *name)
{
	unsigned int seconds = READ_ONCE(nl_timeout_s);
	u64 limit = seconds ? min_t(u64, (u64)seconds * HZ, LONG_MAX) : MAX_SCHEDULE_TIMEOUT;
	long left = wait_for_completion_killable_timeout(&w->done, limit);

	if (!left)
		pr_warn("%s: no answer from userspace in %u s\n", name, seconds);
	return leave_wait(w, left < 0 ? -EINTR : -ETIMEDOUT);
}

static int put_name(struct sk_buff *skb, struct tcmu_dev *dev, struct tcmu_chan *chan)
{
	int err;

	mutex_lock(&dev->config_lock);
	err = nla_put_string(skb, TCMU_ATTR_DEVICE, chan->uio.name);
	mutex_unlock(&dev->config_lock);
	return err;
}

static int put_extra(struct sk_buff *skb, const struct tcmu_nl_extra *extra)
{
	if (!extra)
		return 0;
	switch (extra->attr) {
	case TCMU_ATTR_DEV_CFG:
		return nla_put_string(skb, extra->attr, extra->string);
	case TCMU_ATTR_DEV_SIZE:
		return nla_put_u64_64bit(skb, extra->attr, extra->number, TCMU_ATTR_PAD);
	default:
		return nla_put_u8(skb, extra->attr, extra->number);
	}
}

static struct sk_buff *make_event(struct tcmu_dev *dev, struct tcmu_chan *chan, int event,
				  const struct tcmu_nl_extra *extra)
{
	struct sk_buff *skb = genlmsg_new(NLMSG_GOODSIZE, GFP_KERNEL);
	void *msg;

	if (!skb)
		return NULL;
	msg = genlmsg_put(skb, 0, 0, &nl_family, 0, event);
	if (!msg || put_name(skb, dev, chan) ||
	    nla_put_u32(skb, TCMU_ATTR_MINOR, chan->uio.uio_dev->minor) ||
	    nla_put_u32(skb, TCMU_ATTR_DEVICE_ID, dev->se_dev.dev_index) || put_extra(skb, extra)) {
		nlmsg_free(skb);
		return NULL;
	}
	genlmsg_end(skb, msg);
	return skb;
}

int tcmu_nl_send(struct tcmu_dev *dev, struct tcmu_chan *chan, int event,
		 const struct tcmu_nl_extra *extra)
{
	bool replies = READ_ONCE(nl_replies) && READ_ONCE(dev->nl_reply_supported) > 0;
	struct sk_buff *skb = make_event(dev, chan, event, extra);
	struct nl_wait wait;
	int err;

	if (!skb)
		return -ENOMEM;
	if (replies) {
		err = enter_wait(&wait, dev->se_dev.dev_index, event);
		if (err) {
			pr_warn("%s: event %d not sent: %s\n", dev->name, event,
				err == -EAGAIN ? "netlink is blocked" : "another is under way");
			nlmsg_free(skb);
			return err;
		}
	}
	err = compat_genlmsg_multicast_allns(&nl_family, skb, 0, 0);
	/* Whoever serves a new device may not listen yet: it finds the device when it starts. */
	if (err == -ESRCH && event == TCMU_CMD_ADDED_DEVICE)
		err = 0;
	if (!replies)
		return err;
	if (err) {
		leave_wait(&wait, err);
		return err;
	}
	return await_answer(&wait, dev->name);
}

bool tcmu_nl_replies(void)
{
	return READ_ONCE(nl_replies);
}

static int take_answer(struct genl_info *info, int event)
{
	struct nl_wait *w;
	u32 device_id;
	int status, err = 0;

	if (!info->attrs[TCMU_ATTR_CMD_STATUS] || !info->attrs[TCMU_ATTR_DEVICE_ID])
		return -EINVAL;
	device_id = nla_get_u32(info->attrs[TCMU_ATTR_DEVICE_ID]);
	status = nla_get_s32(info->attrs[TCMU_ATTR_CMD_STATUS]);
	if (status > 0 || status < -MAX_ERRNO)
		status = -EIO; /* what a write(2) to configfs returns is no number of userspace's */

	mutex_lock(&nl_lock);
	w = find_wait_locked(device_id);
	if (!w)
		err = -ENODEV;
	else if (w->event != event)
		err = -EINVAL;
	else
		end_wait_locked(w, status);
	mutex_unlock(&nl_lock);
	if (err)
		pr_warn_ratelimited("nobody waits for answer %d of device %u\n", event, device_id);
	return err;
}

static int added_done(struct sk_buff *skb, struct genl_info *info)
{
	return take_answer(info, TCMU_CMD_ADDED_DEVICE);
}

static int removed_done(struct sk_buff *skb, struct genl_info *info)
{
	return take_answer(info, TCMU_CMD_REMOVED_DEVICE);
}

static int reconfig_done(struct sk_buff *skb, struct genl_info *info)
{
	return take_answer(info, TCMU_CMD_RECONFIG_DEVICE);
}

static int set_features(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *attr = info->attrs[TCMU_ATTR_SUPP_KERN_CMD_REPLY];

	if (attr)
		WRITE_ONCE(nl_replies, nla_get_u8(attr) != 0);
	return 0;
}

static const struct nla_policy nl_policy[TCMU_ATTR_MAX + 1] = {
	[TCMU_ATTR_DEVICE] = {.type = NLA_STRING},
	[TCMU_ATTR_MINOR] = {.type = NLA_U32},
	[TCMU_ATTR_CMD_STATUS] = {.type = NLA_S32},
	[TCMU_ATTR_DEVICE_ID] = {.type = NLA_U32},
	[TCMU_ATTR_SUPP_KERN_CMD_REPLY] = {.type = NLA_U8},
};

/* Clients in the field fill the headers as they did before the kernel looked at every bit. */
#define NL_OP(_cmd, _doit)                                                       \
	{                                                                        \
		.cmd = (_cmd), .doit = (_doit), .flags = GENL_ADMIN_PERM,        \
		.validate = GENL_DONT_VALIDATE_STRICT | GENL_DONT_VALIDATE_DUMP, \
	}

static const struct genl_small_ops nl_ops[] = {
	NL_OP(TCMU_CMD_SET_FEATURES, set_features),
	NL_OP(TCMU_CMD_ADDED_DEVICE_DONE, added_done),
	NL_OP(TCMU_CMD_REMOVED_DEVICE_DONE, removed_done),
	NL_OP(TCMU_CMD_RECONFIG_DEVICE_DONE, reconfig_done),
};

static const struct genl_multicast_group nl_groups[] = {
	{.name = "config"},
};

static struct genl_family nl_family __ro_after_init = {
	.module = THIS_MODULE,
	.name = "TCM-USER",
	.version = 2,
	.maxattr = TCMU_ATTR_MAX,
	.policy = nl_policy,
	.netnsok = true,
	.mcgrps = nl_groups,
	.n_mcgrps = ARRAY_SIZE(nl_groups),
	.small_ops = nl_ops,
	.n_small_ops = ARRAY_SIZE(nl_ops),
	.resv_start_op = TCMU_CMD_SET_FEATURES + 1,
};

int tcmu_nl_init(void)
{
	return genl_register_family(&nl_family);
}

void tcmu_nl_exit(void)
{
	genl_unregister_family(&nl_family);
}

/* -- module parameters ------------------------------------------------------------------ */

static int block_set(const char *text, const struct kernel_param *kp)
{
	bool blocked;
	u8 number;
	int err = kstrtou8(text, 0, &number);

	if (err)
		return err;
	if (number > 1)
		return -EINVAL;
	blocked = number;
	mutex_lock(&nl_lock);
	nl_blocked = blocked;
	mutex_unlock(&nl_lock);
	return 0;
}

static int block_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%s\n", READ_ONCE(nl_blocked) ? "blocked" : "unblocked");
}

static int reset_set(const char *text, const struct kernel_param *kp)
{
	struct nl_wait *w;
	u8 number;
	int err = kstrtou8(text, 0, &number);

	if (err)
		return err;
	if (number != 1)
		return -EINVAL;
	mutex_lock(&nl_lock);
	if (!nl_blocked)
		err = -EBUSY; /* else a new wait could slip in behind */
	else
		list_for_each_entry(w, &nl_waits, node)
			end_wait_locked(w, -EINTR);
	mutex_unlock(&nl_lock);
	return err;
}

static const struct kernel_param_ops block_ops = {.set = block_set, .get = block_get};
static const struct kernel_param_ops reset_ops = {.set = reset_set};

module_param_cb(block_netlink, &block_ops, NULL, 0644);
MODULE_PARM_DESC(block_netlink, "1: fail events that would wait for an answer");
module_param_cb(reset_netlink, &reset_ops, NULL, 0200);
MODULE_PARM_DESC(reset_netlink, "1: end all waits for answers, while netlink is blocked");
module_param_named(netlink_timeout, nl_timeout_s, uint, 0644);
MODULE_PARM_DESC(netlink_timeout, "seconds to wait for an answer of userspace, 0: for ever");
