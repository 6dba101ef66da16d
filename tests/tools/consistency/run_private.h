/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What run.c (phases, connections, answers) and generate.c (which request comes next) share. */
#pragma once

#include "counter.h"
#include "model.h"
#include "run.h"
#include "stamp.h"

enum phase {
	PHASE_FILL, /* the first client writes the region once */
	PHASE_LOAD,
	PHASE_FINAL, /* every client reads the region once more */
};

/* One request at a time of one client, again and again. */
struct slot {
	struct request request; /* first: the request's done() gets the slot from it */
	struct run *run;
	struct model_op *op; /* what the model knows of it; NULL for the counter and for flushes */
	uint64_t *values;    /* of a read; expected ones of a CAW */
	bool busy;
	bool resend;		/* waits for its client to come back */
	bool for_counter;	/* this slot only works on the counter */
	bool counter_due;	/* outside of the load: once more */
	uint64_t counter_least; /* of its read */
	uint64_t counter_value; /* last read; 0: read first */
};

struct lane {
	struct client *client;
	struct slot *slots; /* depth and one for the counter */
	uint64_t cursor;    /* next block of the region to pass over in order; region's end: done */
	uint64_t down_since_ns;
	uint64_t reconnects;
};

struct run {
	struct run_options options;
	struct stamp_key key;
	struct model *model;
	struct lane *lanes;
	unsigned nlanes;
	enum phase phase;
	bool stopping; /* the load is over, but for what is in flight */
	struct counter counter;
	uint64_t random_state;
	uint64_t done[REQUEST_KINDS], refused[REQUEST_KINDS];
	uint64_t miscompares;
	int error;
};

/** Chooses and prepares the next request of @slot, data included. Returns false when there is
 * nothing to do. */
bool generate(struct run *run, struct lane *lane, struct slot *slot);
