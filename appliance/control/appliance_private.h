/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the appliance share. */
#pragma once

#include "base/lock.h"
#include "control/appliance.h"
#include "control/memory.h"
#include "front/iscsi/iscsi.h"
#include "front/nbd/nbd_supervisor.h"
#include "front/port/port.h"
#include "front/tcmu/dbus/tcmu_service.h"
#include "front/tcmu/tcmu.h"
#include "lun/lun.h"
#include "scsi/scsi.h"

/** A LUN that runs. */
struct app_lun {
	struct config_lun spec; /* what it was made from */
	struct memory *memory;	/* that has a place for it; NULL: none was taken */
	struct lun *lun;
	struct scsi_lu *lu;
};

/** A target that runs; spec.map is what it shows now. */
struct app_target {
	struct config_target spec;
	struct scsi_target *scsi;
};

struct appliance {
	/* --- constant after start --- */
	struct memory *memory;
	struct reactor_set *reactors;
	struct lun_table *table;
	struct iscsi_server *iscsi;
	struct port_server *port;
	struct nbd_supervisor *nbd;	   /* NULL: nothing listens for NBD */
	struct tcmu_server *tcmu;	   /* NULL: not asked for, or not to be had */
	struct tcmu_service *tcmu_service; /* of user:ebb; NULL: no TCMU */
	struct reason tcmu_problem;	   /* why it is not to be had; "": it is */
	struct config *started_with;
	char *config_path, *state_dir, *port_socket;
	int state_dirfd, lock_fd;
	uint64_t start_ns;
	bool lenient, starting;
	bool replayed; /* what clients of an earlier appliance had in flight is done */

	/* --- under `lock`; changed only between begin_change and end_change --- */
	struct mutex lock;     /* CONTROL */
	struct app_lun **luns; /* sorted by name */
	size_t n_luns;
	struct app_target **targets; /* sorted by iqn */
	size_t n_targets;
	char **portals; /* as declared */
	char **bound;	/* the same, as bound */
	size_t n_portals;
	struct plan_problem *problems; /* of the last apply */
	size_t n_problems;
	struct config *declared; /* read and written by changes only, but for its log level */
	bool changing;
	pthread_cond_t changed;

	/* --- nbdkit's first start, under `nbd_lock` --- */
	struct mutex nbd_lock; /* LEAF */
	pthread_cond_t nbd_cond;
	bool nbd_ready;

	/* --- what ebb-lio is told and says (appliance_lio.c), under `lio_lock` --- */
	struct mutex lio_lock; /* LEAF */
	uint64_t lio_generation, lio_reported;
	struct plan_problem *lio_problems; /* of the last report */
	size_t n_lio_problems;
	void (*lio_fn)(void *ctx); /* NULL: nobody listens */
	void *lio_ctx;
};

/** Waits until no other change runs. Blocks. */
void app_begin_change(struct appliance *app);
void app_end_change(struct appliance *app);

/* --- steps (appliance_step.c); between begin_change and end_change, `lock` not held --- */

int app_open_lun(struct appliance *app, const struct config_lun *spec, struct reason *why);
int app_close_lun(struct appliance *app, const char *name, struct reason *why);
int app_do_step(struct appliance *app, const struct plan_step *s, struct reason *why);
/** Takes all steps that have no problem; those that fail get one. */
void app_do_plan(struct appliance *app, struct plan *p);
/** Has TCMU devices opened, then lets the port's clients in, those with replays first; waits for
 * what a process before us had begun to be at its end. Once; blocks. */
void app_let_replays_in(struct appliance *app);
int app_add_portal(struct appliance *app, const char *address, struct reason *why);
/** Frees what runs, sessions and clients being gone. */
void app_drop_all(struct appliance *app);

/** Under `lock` or within a change. NULL: not there. */
struct app_lun *app_find_lun(struct appliance *app, const char *name);
struct app_target *app_find_target(struct appliance *app, const char *iqn);

/* --- reports (report_lun.c) --- */

/** All that is counted of a LUN. */
json_t *app_report_lun_counters(struct lun *lun);

/* --- users of LUNs (appliance_users.c) --- */

/** Who has LUNs open: sessions by target; clients of the port, TCMU devices by LUN. Sorted. */
struct app_users {
	struct app_user {
		char name[ISCSI_NAME_MAX + 1];
		unsigned n;
	} * targets, *luns;
	size_t n_targets, n_luns;
};
int app_count_users(struct appliance *app, struct app_users *ret_users);
void app_free_users(struct app_users *u);
unsigned app_target_users(const struct app_users *u, const char *iqn);
/** Under `lock` or within a change: sessions of all targets that show @name, port clients, and
 * TCMU devices. */
unsigned app_lun_users(struct appliance *app, const struct app_users *u, const char *name);
/** The same, counted now. Within a change. */
int app_count_lun_users(struct appliance *app, const char *name, unsigned *ret_n,
			struct reason *why);

/* --- TCMU (appliance_tcmu.c) --- */

/** Its devices are opened when LUNs are there. A service without it still serves. */
int app_start_tcmu(struct appliance *app, struct reason *why);
/** What app_start_tcmu() began, whatever it came to. */
void app_stop_tcmu(struct appliance *app);

/* --- exports through LIO (appliance_lio.c) --- */

/** What LIO is to export may differ from now on. */
void app_lio_changed(struct appliance *app);
/**
 * Has LIO let go of what it has open of the LUNs that @p removes or reopens: the step of one that
 * is still in use then has that for its problem. Within a change that has declared what LIO is to
 * export. Blocks while ebb-lio is at work, 20 s at most.
 */
void app_await_lio(struct appliance *app, struct plan *p);
/** A copy of what ebb-lio complained of last, to be freed. -ENOMEM. */
int app_lio_problems(struct appliance *app, struct plan_problem **ret_problems, size_t *ret_n);

/* --- LUNs declared by commands (appliance_state.c) --- */

/** Adds the LUNs of STATE/luns.json to @cfg, but for names that it declares itself. */
int app_load_commanded(struct appliance *app, struct config *cfg, struct reason *why);
/** Writes those of @cfg to STATE/luns.json. */
int app_save_commanded(struct appliance *app, const struct config *cfg, struct reason *why);
