/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a process before us began and must not be begun again: COMPARE AND WRITE, which would find
 * its own data and miscompare. Its ring tells (tcmu_ring.h) which of them had written or were going
 * to; no others have changed anything. Those are brought to their end, and answered.
 */
#pragma once

#include <stdbool.h>

#include "front/tcmu/tcmu_kernel.h"
#include "scsi/scsi.h"

struct tcmu_redone {
	unsigned answered; /* with GOOD */
	unsigned left;	   /* their write failed, or may not be done any more */
	const char *what;  /* why the ring could not be read to its end; NULL: it was */
};

/**
 * Blocks. The kernel is blocked, so that it puts no commands into the ring. @may_write: nobody has
 * written to @lu since that process.
 */
struct tcmu_redone tcmu_redo(const struct tcmu_channel *ch, struct scsi_lu *lu, bool may_write);
