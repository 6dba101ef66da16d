/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The running appliance: reactors, LUNs, SCSI targets, the iSCSI server, the port, nbdkit.
 *
 * It is made from a declaration and changed by applying another. Functions marked "blocks" do I/O
 * and may wait for another change to end: they are called from the main thread or a worker, never
 * from a reactor. Changes happen one at a time; readers are never kept waiting by one.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "base/reason.h"
#include "control/config.h"
#include "control/plan.h"
#include "event/reactor.h"

struct appliance;
struct iscsi_server;
struct lun_table;
struct memory;
struct nbd_supervisor;
struct port_server;
struct tcmu_server;

struct appliance_options {
	/* The file that declares; read again by plan and apply. NULL: the declaration is ours. */
	const char *config_path;
	const char *state_dir;	 /* made when it is not there (0700) */
	const char *port_socket; /* of the port */
	const char *pressure;	 /* the file that tells of memory pressure; NULL: the kernel's */
	/*
	 * What cannot be opened is reported and left for the next apply. Otherwise the start fails.
	 */
	bool lenient;
};

/** How many files an appliance with @luns LUNs must be allowed to open (RLIMIT_NOFILE). */
unsigned long long appliance_files_needed(unsigned luns);
/**
 * Takes @cfg over on success. Blocks until LUNs are open, portals listen and nbdkit serves.
 * Raises RLIMIT_NOFILE to its hard limit; -EMFILE when the declared LUNs do not fit in it.
 */
int appliance_start(struct config *cfg, const struct appliance_options *opt,
		    struct appliance **ret_app, struct reason *why);
/**
 * Blocks: stops accepting, lets what is in flight finish, flushes every LUN, frees. Returns 0, or
 * the first error of a flush. @successor, after listen_socket_leave(): the next daemon follows at
 * once, so nbdkit runs on, and initiators are cut off without being asked to log out: all of them
 * wait instead of giving up.
 */
int appliance_stop(struct appliance *app, bool successor);

/** The reactor on which the control socket lives. */
struct reactor *appliance_control_reactor(struct appliance *app);
struct reactor_set *appliance_reactors(struct appliance *app);
/** Its budget, caches and addresses (control/memory.h), there as long as it runs. */
struct memory *appliance_memory(struct appliance *app);

/* --- its parts, there as long as it runs, for those who watch --- */

struct lun_table *appliance_luns(struct appliance *app);
struct iscsi_server *appliance_iscsi(struct appliance *app);
struct port_server *appliance_port(struct appliance *app);
/** NULL: nothing listens for NBD. */
struct nbd_supervisor *appliance_nbd(struct appliance *app);
/** NULL: LUNs are not offered to LIO. */
struct tcmu_server *appliance_tcmu(struct appliance *app);
/**
 * The declaration it was started with. Only what takes a restart to change may be looked at: the
 * rest may be changing.
 */
const struct config *appliance_started_with(struct appliance *app);

/* --- changes; all block --- */

/** What apply would do now. Reads the file of the declaration again. */
int appliance_plan(struct appliance *app, struct plan **ret_plan, struct reason *why);
/** Does it; steps that failed carry the problem afterwards. -errno only when nothing was tried. */
int appliance_apply(struct appliance *app, struct plan **ret_done, struct reason *why);
/** Declares and opens a LUN. Fields of @l are copied. -EEXIST, -EINVAL, those of lun_open(). */
int appliance_create_lun(struct appliance *app, const struct config_lun *l, struct reason *why);
/** Grows to @size bytes. @ret_note (256 bytes): what else should be changed, or "". */
int appliance_resize_lun(struct appliance *app, const char *name, uint64_t size, char *ret_note,
			 struct reason *why);
/**
 * Begins to make all of a LUN's data unrecoverable (scsi_lu_sanitize()); `lun show` tells how far
 * it is. -EBUSY with sessions or a reservation unless @force, or while one runs; -EROFS, -ENOENT.
 */
int appliance_sanitize_lun(struct appliance *app, const char *name, bool overwrite, bool force,
			   struct reason *why);
/** Removes the LUN, never its file. -EBUSY with sessions unless @force, -EPERM: the file declares
 * it. */
int appliance_delete_lun(struct appliance *app, const char *name, bool force, struct reason *why);
/** Ends session @id: "iscsi-N" or "port-N". -ENOENT. */
int appliance_kick(struct appliance *app, const char *id, struct reason *why);

/* --- exports through the kernel's target: what ebb-lio(8) is told and says --- */

/** Another number after each change of what appliance_report_lio() says. Any thread. */
uint64_t appliance_lio_generation(struct appliance *app);
/**
 * @fn is called after such a change, on any thread and under a lock: it must not call back. One
 * listener; NULL: none, and when this has returned none is running.
 */
void appliance_on_lio_change(struct appliance *app, void (*fn)(void *ctx), void *ctx);
/** What became of @generation: [{"name", "problem"}]. -EINVAL. */
int appliance_note_lio(struct appliance *app, uint64_t generation, const json_t *problems,
		       struct reason *why);

/* --- reports: new references, or NULL when there is no memory; any thread but a reactor's --- */

json_t *appliance_report_status(struct appliance *app);
json_t *appliance_report_luns(struct appliance *app);
/** Who holds memory, and what was given back: see docs/budget.md. */
json_t *appliance_report_memory(struct appliance *app);
json_t *appliance_report_lun(struct appliance *app, const char *name);
/** Counters of all LUNs, and the budget, with the time: what rates are made of. */
json_t *appliance_report_counters(struct appliance *app);
json_t *appliance_report_sessions(struct appliance *app);
/** What the kernel's target is to export, secrets included: docs/lio.md tells its form. */
json_t *appliance_report_lio(struct appliance *app);
/** [{"lun", "protocol", "url"}], sorted by LUN. */
json_t *appliance_report_exports(struct appliance *app);
