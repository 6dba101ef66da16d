/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What xcopy.c and xcopy_results.c share. */
#pragma once

#include "scsi/scsi_internal.h"

/** COPY MANAGER STATUS of COPY STATUS (SPC-4 table 267). */
enum xcopy_status { XCOPY_RUNNING = 0, XCOPY_DONE = 1, XCOPY_FAILED = 2 };

/** What is known about a copy of a nexus, by its list identifier; in lu->xcopy, under lu->lock. */
struct xcopy_record {
	struct list_node link; /* newest last */
	uint64_t nexus_id;
	uint8_t list_id;
	bool keep; /* LIST ID USAGE asks to hold the results */
	enum xcopy_status status;
	uint16_t segments;	 /* processed */
	uint64_t bytes;		 /* written */
	struct scsi_sense sense; /* FAILED */
};

/**
 * Notes that a copy begins. -EBUSY: one with this list identifier is in progress; -EAGAIN: too many
 * are; -ENOMEM. Older results with the same identifier are dropped.
 */
int xcopy_record_begin(struct scsi_lu *lu, uint64_t nexus_id, uint8_t list_id, bool keep,
		       struct xcopy_record **ret_rec);
void xcopy_record_progress(struct scsi_lu *lu, struct xcopy_record *rec, uint16_t segments,
			   uint64_t bytes);
/** The copy has ended; @rec may be gone afterwards. @failure NULL: without an error. */
void xcopy_record_end(struct scsi_lu *lu, struct xcopy_record *rec,
		      const struct scsi_sense *failure);
