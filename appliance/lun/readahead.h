/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sequential readahead of one LUN: which reads are parts of streams, and what to read before they
 * ask for it. The theory is in readahead.c. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "base/metric.h"

#define READAHEAD_STREAMS 16u

struct lun;

struct stream {
	uint64_t next;	  /* byte at which a miss would continue it */
	uint64_t start;	  /* byte: of the window opened last ... */
	uint64_t ahead;	  /* ... and its end; 0: none was opened */
	uint32_t window;  /* bytes: of that window */
	uint32_t follows; /* reads that continued it, one after the other */
	uint64_t used_at; /* readahead.clock when a read last belonged to it */
};

struct readahead {
	/* Byte at which a reader that comes there has the next window opened; UINT64_MAX: none.
	 * Written under lock, read without. */
	_Atomic uint64_t trigger[READAHEAD_STREAMS];
	_Atomic unsigned triggers; /* how many there are */
	_Atomic bool stopped;
	_Atomic uint64_t inflight; /* bytes of background reads */
	metric_counter pages;	   /* read ahead, ever */
	metric_counter used;	   /* of them: in windows whose reader came */
	struct mutex lock;
	struct stream stream[READAHEAD_STREAMS]; /* under lock */
	uint64_t clock;				 /* under lock: of reads looked at */
};

void readahead_init(struct readahead *ra);
void readahead_destroy(struct readahead *ra);
/** No background read is started from now on. */
void readahead_stop(struct readahead *ra);

/** Whether a read of bytes [off, end), here and below whole pages, has come to where the next
 * window is to be opened. Cheap. */
bool readahead_triggered(struct readahead *ra, uint64_t off, uint64_t end);

/**
 * Tells of a read that missed at @off, or that readahead_triggered(). With @extra NULL the calling
 * reactor reads ahead in the background where a stream asks for that. Else *@extra is, in: how many
 * bytes behind @end the caller could read too; out: how many it had better read.
 */
void readahead_note(struct lun *lun, uint64_t off, uint64_t end, uint64_t *extra);
