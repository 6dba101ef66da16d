/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads for work that blocks (fsync of state files, lseek SEEK_HOLE, copy_file_range, opening
 * files): started when there is work, ended when idle, never more than WORKER_MAX.
 */
#pragma once

#include "base/list.h"
#include "event/reactor.h"

struct worker_job {
	void (*run)(struct worker_job *j);  /* on a worker thread */
	void (*done)(struct worker_job *j); /* afterwards, on @reactor's thread */
	struct reactor *reactor;	    /* NULL: nobody is told, and run() may free the job */
	/* the pool's: */
	struct list_node link;
	struct reactor_msg msg;
};

#define WORKER_MAX 16

/** Any thread. Jobs run in any order and side by side. Never fails (a job may have to wait). */
void worker_submit(struct worker_job *j);
/** Waits until all jobs have run, and ends the threads. For the end of the process. */
void worker_drain(void);
