/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's messages about TCMU devices: generic netlink family TCM-USER, group config.
 *
 * The kernel tells everybody of a device that comes, goes or changes, and waits for one answer.
 * What is not about a backstore of ours is neither passed on nor answered: it is another daemon's.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/reason.h"
#include "event/reactor.h"
#include "front/tcmu/tcmu_check.h"

struct tcmu_netlink;

enum tcmu_news {
	TCMU_NEWS_ADDED,
	TCMU_NEWS_REMOVED,
	TCMU_NEWS_RECONFIG,
	TCMU_NEWS_LOST, /* messages were lost: look for yourself */
};

struct tcmu_message {
	enum tcmu_news news;
	uint32_t minor, device; /* @device: for the answer */
	struct tcmu_name name;
	/* of RECONFIG, what is to change: */
	const char *config; /* NULL: not this */
	bool has_size, has_cache;
	uint64_t size;
};

/**
 * Joins the group and tells the kernel that we answer. @on_message is called on @r's thread, which
 * is to call tcmu_netlink_start(). -ENOENT: the module is not loaded; -EPERM.
 */
int tcmu_netlink_open(struct reactor *r,
		      void (*on_message)(void *ctx, const struct tcmu_message *m), void *ctx,
		      struct tcmu_netlink **ret_nl, struct reason *why);
void tcmu_netlink_start(struct tcmu_netlink *nl);
/** On @r's thread. Answers the kernel's question of that kind with 0 or -errno. */
void tcmu_netlink_answer(struct tcmu_netlink *nl, enum tcmu_news news, uint32_t device, int err);
/** On @r's thread: frees it, then calls @closed(ctx). */
void tcmu_netlink_close(struct tcmu_netlink *nl, void (*closed)(void *ctx));
