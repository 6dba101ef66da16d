/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The inside of a SCSI target, for target.c, nexus.c and tmf.c. */
#pragma once

#include "scsi/scsi_internal.h"

struct scsi_target {
	/* constant */
	char *name;
	_Atomic unsigned refs;

	struct mutex lock; /* rank SCSI_TARGET: everything below */
	struct list_node nexuses;
	unsigned ports;
	struct scsi_lu *map[SCSI_LUNS_MAX]; /* referenced */
	_Atomic uint64_t map_gen;	    /* changes with the map; read without the lock */
};

/** For those who found @t where it is listed: it may be on its way out. */
bool scsi_target_ref_unless_zero(struct scsi_target *t);
/** The LUN number that an 8 byte LUN field addresses (peripheral or flat method), or -1. */
int scsi_lun_number(uint64_t lun);
/** Which nexuses of a logical unit a task management function is about. */
enum scsi_abort_whom { SCSI_ABORT_OWN, SCSI_ABORT_ALL };

/**
 * Has the commands on @lu aborted: @self's own, or those of all nexuses. @pending is raised by one
 * before each nexus is asked, fin(arg) is called once for each, from any thread. @tas: those of
 * others end with TASK ABORTED.
 */
void scsi_abort_commands(struct scsi_lu *lu, enum scsi_abort_whom whom, struct scsi_nexus *self,
			 bool tas, void (*fin)(void *arg), void *arg, _Atomic int *pending);
