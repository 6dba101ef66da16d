/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/tcmu/tcmu_netlink.h"

#include <errno.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <poll.h>
#include <stdlib.h>

#include "base/log.h"
#include "front/tcmu/tcmu_spec.h"

#define FAMILY	   "TCM-USER"
#define GROUP	   "config"
#define VERSION	   2
#define ERRORS_MAX 16 /* in one go: a socket that is broken is left to the next turn */

struct tcmu_netlink {
	struct reactor *reactor;
	void (*on_message)(void *ctx, const struct tcmu_message *m);
	void (*closed)(void *ctx); /* NULL: not closing */
	void *ctx;
	struct nl_sock *sock;
	int family;
	struct reactor_op op;
	bool armed;
};

static struct nla_policy policy[TCMU_ATTR_MAX + 1] = {
	[TCMU_ATTR_DEVICE] = {.type = NLA_STRING},
	[TCMU_ATTR_MINOR] = {.type = NLA_U32},
	[TCMU_ATTR_DEV_CFG] = {.type = NLA_STRING},
	[TCMU_ATTR_DEV_SIZE] = {.type = NLA_U64},
	[TCMU_ATTR_WRITECACHE] = {.type = NLA_U8},
	[TCMU_ATTR_CMD_STATUS] = {.type = NLA_S32},
	[TCMU_ATTR_DEVICE_ID] = {.type = NLA_U32},
	[TCMU_ATTR_SUPP_KERN_CMD_REPLY] = {.type = NLA_U8},
};

static const int commands[] = {
	[TCMU_NEWS_ADDED] = TCMU_CMD_ADDED_DEVICE,
	[TCMU_NEWS_REMOVED] = TCMU_CMD_REMOVED_DEVICE,
	[TCMU_NEWS_RECONFIG] = TCMU_CMD_RECONFIG_DEVICE,
};

static const int answers[] = {
	[TCMU_NEWS_ADDED] = TCMU_CMD_ADDED_DEVICE_DONE,
	[TCMU_NEWS_REMOVED] = TCMU_CMD_REMOVED_DEVICE_DONE,
	[TCMU_NEWS_RECONFIG] = TCMU_CMD_RECONFIG_DEVICE_DONE,
};

/* --- what comes --- */

static void take_change(struct nlattr **a, struct tcmu_message *m)
{
	if (a[TCMU_ATTR_DEV_CFG])
		m->config = nla_get_string(a[TCMU_ATTR_DEV_CFG]);
	m->has_size = a[TCMU_ATTR_DEV_SIZE];
	if (m->has_size)
		m->size = nla_get_u64(a[TCMU_ATTR_DEV_SIZE]);
	m->has_cache = a[TCMU_ATTR_WRITECACHE];
}

static int on_valid(struct nl_msg *msg, void *arg)
{
	struct tcmu_netlink *nl = arg;
	struct nlmsghdr *h = nlmsg_hdr(msg);
	struct tcmu_message m = {0};
	struct nlattr *a[TCMU_ATTR_MAX + 1];
	int cmd;

	if (h->nlmsg_type != nl->family || !genlmsg_valid_hdr(h, 0) ||
	    genlmsg_parse(h, 0, a, TCMU_ATTR_MAX, policy) < 0)
		return NL_SKIP;
	cmd = genlmsg_hdr(h)->cmd;
	for (m.news = TCMU_NEWS_ADDED; m.news < TCMU_NEWS_LOST && commands[m.news] != cmd; m.news++)
		;
	if (m.news == TCMU_NEWS_LOST || !a[TCMU_ATTR_DEVICE] || !a[TCMU_ATTR_MINOR] ||
	    !a[TCMU_ATTR_DEVICE_ID] ||
	    !tcmu_parse_name(nla_get_string(a[TCMU_ATTR_DEVICE]), &m.name))
		return NL_OK;
	m.minor = nla_get_u32(a[TCMU_ATTR_MINOR]);
	m.device = nla_get_u32(a[TCMU_ATTR_DEVICE_ID]);
	take_change(a, &m);
	nl->on_message(nl->ctx, &m);
	return NL_OK;
}

/*
 * Until it has been emptied, a socket that has overflowed takes nothing more, and does not tell so
 * again: what is lost is told when all has been read.
 */
static void receive(struct tcmu_netlink *nl)
{
	const struct tcmu_message lost = {.news = TCMU_NEWS_LOST};
	int err, errors = 0;

	while (errors < ERRORS_MAX && (err = nl_recvmsgs_default(nl->sock)) != -NLE_AGAIN) {
		if (err >= 0)
			continue;
		log_warn("tcmu.netlink", "error=\"%s\"", nl_geterror(err));
		errors++;
	}
	if (errors)
		nl->on_message(nl->ctx, &lost);
}

static void arm(struct tcmu_netlink *nl)
{
	nl->armed = true;
	io_uring_prep_poll_add(reactor_sqe(nl->reactor, &nl->op), nl_socket_get_fd(nl->sock),
			       POLLIN);
}

static void finish_close(struct tcmu_netlink *nl)
{
	void (*closed)(void *ctx) = nl->closed;
	void *ctx = nl->ctx;

	nl_socket_free(nl->sock);
	free(nl);
	closed(ctx);
}

static void polled(struct reactor_op *op, int res, uint32_t flags)
{
	struct tcmu_netlink *nl = container_of(op, struct tcmu_netlink, op);

	nl->armed = false;
	if (nl->closed) {
		finish_close(nl);
		return;
	}
	if (reactor_stopping(nl->reactor))
		return;
	receive(nl);
	arm(nl);
}

void tcmu_netlink_start(struct tcmu_netlink *nl)
{
	arm(nl);
}

void tcmu_netlink_close(struct tcmu_netlink *nl, void (*closed)(void *ctx))
{
	nl->closed = closed;
	if (nl->armed)
		reactor_cancel(nl->reactor, &nl->op);
	else
		finish_close(nl);
}

/* --- what goes --- */

static struct nl_msg *new_message(struct tcmu_netlink *nl, int cmd, int flags)
{
	struct nl_msg *msg = nlmsg_alloc();

	if (msg && genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, nl->family, 0, flags, (uint8_t)cmd,
			       VERSION))
		return msg;
	nlmsg_free(msg);
	return NULL;
}

void tcmu_netlink_answer(struct tcmu_netlink *nl, enum tcmu_news news, uint32_t device, int err)
{
	struct nl_msg *msg = new_message(nl, answers[news], 0);
	int ret = -NLE_NOMEM;

	if (msg && nla_put_s32(msg, TCMU_ATTR_CMD_STATUS, err) >= 0 &&
	    nla_put_u32(msg, TCMU_ATTR_DEVICE_ID, device) >= 0)
		ret = nl_send_auto(nl->sock, msg);
	nlmsg_free(msg);
	if (ret < 0)
		log_warn("tcmu.answer", "device=%u error=\"%s\"", device, nl_geterror(ret));
}

/* Asks the kernel to wait for answers. One that cannot does not mind. */
static int set_features(struct tcmu_netlink *nl)
{
	struct nl_msg *msg = new_message(nl, TCMU_CMD_SET_FEATURES, NLM_F_ACK);
	int ret;

	if (!msg)
		return -NLE_NOMEM;
	ret = nla_put_u8(msg, TCMU_ATTR_SUPP_KERN_CMD_REPLY, 1);
	if (ret < 0) {
		nlmsg_free(msg);
		return ret;
	}
	ret = nl_send_sync(nl->sock, msg); /* frees it */
	return ret == -NLE_OPNOTSUPP ? 0 : ret;
}

/* --- set-up --- */

static int refuse(int err, const char *what, struct reason *why)
{
	if (err == -NLE_OBJ_NOTFOUND)
		return reason_set(why, ENOENT,
				  "the kernel has no TCMU: module target_core_user is not loaded");
	return reason_set(why, err == -NLE_PERM ? EPERM : EIO, "TCMU: %s: %s", what,
			  nl_geterror(err));
}

static int join(struct tcmu_netlink *nl, struct reason *why)
{
	int group, err;

	nl_socket_disable_seq_check(nl->sock);
	nl_socket_modify_cb(nl->sock, NL_CB_VALID, NL_CB_CUSTOM, on_valid, nl);
	err = genl_connect(nl->sock);
	if (err < 0)
		return refuse(err, "netlink", why);
	nl->family = genl_ctrl_resolve(nl->sock, FAMILY);
	if (nl->family < 0)
		return refuse(nl->family, "family " FAMILY, why);
	group = genl_ctrl_resolve_grp(nl->sock, FAMILY, GROUP);
	if (group < 0)
		return refuse(group, "group " GROUP, why);
	err = set_features(nl);
	if (err < 0)
		return refuse(err, "cannot answer the kernel", why);
	err = nl_socket_add_membership(nl->sock, group);
	if (err >= 0)
		err = nl_socket_set_nonblocking(nl->sock);
	return err < 0 ? refuse(err, "cannot listen", why) : 0;
}

int tcmu_netlink_open(struct reactor *r,
		      void (*on_message)(void *ctx, const struct tcmu_message *m), void *ctx,
		      struct tcmu_netlink **ret_nl, struct reason *why)
{
	struct tcmu_netlink *nl = calloc(1, sizeof(*nl));
	int err;

	if (!nl)
		return reason_set(why, ENOMEM, "out of memory");
	nl->reactor = r;
	nl->on_message = on_message;
	nl->ctx = ctx;
	nl->op.done = polled;
	nl->sock = nl_socket_alloc();
	err = nl->sock ? join(nl, why) : reason_set(why, ENOMEM, "out of memory");
	if (err) {
		nl_socket_free(nl->sock);
		free(nl);
		return err;
	}
	*ret_nl = nl;
	return 0;
}
