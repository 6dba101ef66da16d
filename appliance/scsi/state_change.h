/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes of a logical unit's slow state (reservations, mode pages): one at a time and, where the
 * state outlives the process, durable before they take effect.
 *
 *   state_change_enter()  waits for the LU's turn; begin() computes the new state beside the old
 *   state_change_save()   writes a state file on a worker thread; saved() hears how that went
 *   state_change_leave()  the new state is in place, or thrown away: the next one's turn
 *
 * All callbacks run on the command's reactor, with no lock held.
 */
#pragma once

#include <stdbool.h>

#include "base/list.h"
#include "base/reason.h"
#include "event/reactor.h"
#include "event/worker.h"

struct scsi_cmd;
struct scsi_lu;

/** Whose turn it is. Under lu->lock. */
struct state_turn {
	struct list_node waiting;
	bool busy;
};

struct state_change {
	struct scsi_lu *lu;
	struct state_turn *turn;
	struct reactor *reactor;
	void (*begin)(struct state_change *sc);
	void (*saved)(struct state_change *sc, int err);
	/* the state file to write; text NULL removes it */
	char name[128];
	char *text; /* malloc'ed; freed by state_change_save() */
	/* --- private --- */
	struct worker_job job;
	struct reactor_msg msg;
	struct list_node link;
	int err;
};

void state_turn_init(struct state_turn *turn);
/** Fills @sc and calls begin(), now or later. */
void state_change_enter(struct state_change *sc, struct scsi_cmd *cmd, struct state_turn *turn,
			void (*begin)(struct state_change *sc));
/** Replaces (or removes) LU state file sc->name by sc->text durably, then calls @saved. */
void state_change_save(struct state_change *sc, void (*saved)(struct state_change *sc, int err));
/** Gives the turn to the next. @sc may be freed afterwards. */
void state_change_leave(struct state_change *sc);

/** Replaces @lu's state file @name by @text durably; NULL removes it. -errno. Blocks. */
int state_write(const struct scsi_lu *lu, const char *name, const char *text);
/** Whether @lu has a place to keep state. */
bool state_can_save(const struct scsi_lu *lu);
/** Writes the name of @lu's state file of kind @what ("reservations") to @buf of 128 bytes. */
void state_file_name(const struct scsi_lu *lu, const char *what, char *buf);
/**
 * Reads @lu's state file of kind @what. Returns 0 with a malloc'ed *@ret_text, NULL when there is
 * none; or -errno with a reason.
 */
int state_load(const struct scsi_lu *lu, const char *what, char **ret_text, struct reason *why);
