/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the budget share: the controller, what it senses, how it shares out. */
#pragma once

#include <poll.h>

#include "base/list.h"
#include "base/lock.h"
#include "mem/budget/budget.h"

/* --- sense.c: what the kernel says --- */

struct sense;

#define SENSE_LEVELS 16			/* cgroups from the own one up */
#define SENSE_PLACES (SENSE_LEVELS + 1) /* and the host */
#define SENSE_FDS    (SENSE_LEVELS + 2)

/** A place that memory is short in, or not. */
struct sense_place {
	enum budget_cause cause; /* CGROUP or HOST */
	uint64_t size;		 /* all of it, bytes: the limit, the host's memory */
	/*
	 * What could be had without swapping: free memory and clean pages of files, which our
	 * volatile pages are to the kernel.
	 */
	uint64_t available;
};

#define SENSE_PRESSURE 1u /* pressure of our own cgroup, or told to us by name */
#define SENSE_STALL    2u /* of the host: perhaps in a cgroup that is none of ours */
#define SENSE_CGROUP   4u /* a limit was met or came near */

/** Opens what there is to be watched. Never fails for want of it. -ENOMEM. */
int sense_open(const struct budget_spec *spec, struct sense **ret_s);
void sense_close(struct sense *s); /* NULL is fine */
/** Reads the figures; returns the number of places. */
unsigned sense_read(struct sense *s, struct sense_place ret_places[SENSE_PLACES]);
/** What to poll; returns how many. */
unsigned sense_fds(struct sense *s, struct pollfd ret_fds[SENSE_FDS]);
/** What happened, SENSE_ bits, from the same array after poll. */
unsigned sense_take(struct sense *s, const struct pollfd *fds);
/** Whether the kernel will tell of a shortage on the host; otherwise somebody has to look. */
bool sense_is_told(const struct sense *s);
void sense_describe(const struct sense *s, char *buf, size_t size);

/* --- share.c: a target shared out among pools; pure --- */

struct share_pool {
	uint32_t share;
	uint64_t floor, max; /* max 0: any */
	uint64_t target;     /* out */
	uint64_t whole;	     /* out: what it is at the ceiling */
};

/**
 * Sets the targets of @n pools, sorted by rank: in all @target bytes, as far as the floors allow.
 * At @ceiling each has its share; what is missing below that is taken from the lowest ranks first.
 */
void share_out(struct share_pool *pools, size_t n, uint64_t ceiling, uint64_t target);

/* --- budget.c --- */

/* Pressed: the space that should be free beside us. Below `low` we shrink, above `high` we grow. */
struct watermarks {
	uint64_t low, high;
};
struct watermarks budget_watermarks(uint64_t size);

struct budget_pool {
	struct budget *b;
	struct list_node link; /* of b->pools, by rank */
	struct budget_pool_spec spec;
	char name[32];
	/* under b->work */
	struct budget_use use; /* at the last look */
	uint64_t target;       /* of those that are only accounted: 0 */
	bool lost;	       /* the last settling found much gone */
	uint64_t returned, purged_pages;
	struct metric_hist shrink;
};

struct budget {
	/* --- constant --- */
	struct sense *sense;
	pthread_t thread;
	int wake_fd;
	uint64_t regrow_ns;

	struct mutex work; /* BUDGET: held while pools' ops run */
	/* --- under `work` --- */
	struct list_node pools;
	size_t n_pools;
	uint64_t floor, ceiling, target;
	enum budget_state state;
	uint64_t next_ns;     /* of the next look that nobody asked for; 0: none */
	uint64_t pressed_ns;  /* when memory was short last */
	uint64_t interval_ns; /* between looks of this state; grows while they find nothing */
	unsigned urgency;     /* looks in a row that met a need, and gave */
	uint64_t shrinks[BUDGET_CAUSES], returned, looks;
	uint64_t last_shrink_ns, last_shrink_bytes;
	uint64_t limit, available; /* at the last look */
	uint64_t looked_ns;	   /* when the last look was */
	uint64_t pace_ns;	   /* that the next one has to wait for */
	bool asked;		   /* a look is wanted whatever is told */
	bool stop;

	struct mutex promise; /* LEAF */
	/* --- under `promise` --- */
	uint64_t reserved, promised_floor; /* bytes; a copy of floor */
};
