/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The appliance as the userspace of the kernel's TCMU (target_core_user): every LUN is offered to
 * LIO as a user backstore with the configuration string "ebb/NAME". docs/tcmu-front.md tells why
 * and how; whether a backstore can be made, tcmu_check.h.
 *
 * Needs root, or the capabilities that tcmu_server_start() names.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"
#include "event/reactor.h"
#include "front/tcmu/tcmu_check.h"
#include "front/tcmu/tcmu_session.h"
#include "scsi/scsi.h"

/** What a device costs when it is idle, bytes. */
#define TCMU_DEVICE_BYTES (64u << 10)

struct budget;
struct tcmu_server;

struct tcmu_options {
	struct reactor_set *set; /* devices are spread over it */
	struct budget *budget; /* of memory, that has room for a device or refuses it; NULL: none */
};

/**
 * For a process that is to serve TCMU, before it makes threads, with CAP_SYS_RESOURCE: its threads'
 * allocations never wait for file systems and disks, which may be ours (PR_SET_IO_FLUSHER). Without
 * the capability nothing changes.
 */
void tcmu_prepare_process(void);
/**
 * Listens to what the kernel tells of devices; answers wait for tcmu_server_release(). Blocks for
 * a short while. -ENOENT: the kernel has no TCMU; -EPERM: needs CAP_NET_ADMIN (and, to open
 * devices, CAP_DAC_OVERRIDE or their ownership).
 */
int tcmu_server_start(const struct tcmu_options *opt, struct tcmu_server **ret_srv,
		      struct reason *why);
/**
 * All LUNs that there are going to be at first have been added: devices may be opened. Once. Blocks
 * until those are that the kernel has already: what a process before us began is at its end then,
 * and other fronts may be let in. Not on a reactor's thread.
 */
void tcmu_server_release(struct tcmu_server *srv);
/**
 * Closes all devices - what was taken from their rings is finished, what comes waits in the kernel
 * for the next process - and frees. Blocks: not on a reactor's thread. NULL is fine.
 */
void tcmu_server_stop(struct tcmu_server *srv);

/** Offers the LUN of @lu (takes a reference); a device that waits for it is opened. -ENOMEM. */
int tcmu_server_add_lun(struct tcmu_server *srv, struct scsi_lu *lu);
/**
 * Takes the offer back: the LUN's device is closed when what is in flight has ended, and waits for
 * a LUN of that name to come back. Harmless when there is no offer.
 */
void tcmu_server_remove_lun(struct tcmu_server *srv, const char *name);

struct tcmu_device_info {
	uint64_t id; /* unique in this server */
	struct tcmu_name name;
	unsigned minor;
	bool open;
	char problem[200];		  /* why it is not; "": it is, or is about to be */
	struct tcmu_session_info session; /* while it is open */
};
/** Any thread. malloc'ed array, to be freed by the caller. -ENOMEM. */
int tcmu_server_list(struct tcmu_server *srv, struct tcmu_device_info **ret_devices, size_t *ret_n);
