/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A plan: the steps that lead from the running state to the declared one, in an order that works.
 * Making one is a pure function of its input (files are looked at through a callback), so that
 * `plan` prints exactly what `apply` will do, and tests need no daemon.
 *
 * A step that cannot be taken now carries the problem in words and is skipped by apply: a LUN with
 * sessions, a file that is missing, a size that shrinks. It comes back in the next plan, because
 * the declaration is never changed by trying.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "control/config.h"

#define PLAN_NAME_SIZE 256

/** In the order in which steps are taken. */
#define PLAN_KINDS(X)                                                               \
	X(SET_MEMORY, "set memory", "what memory may be taken differs")             \
	X(REMOVE_LIO, "remove lio target", "is not declared (any more)")            \
	X(REMOVE_TARGET, "remove target", "is not declared (any more)")             \
	X(REMOVE_LUN, "remove lun", "is not declared (any more)")                   \
	X(REOPEN_LUN, "reopen lun", "an attribute that only opening sets differs")  \
	X(RESIZE_LUN, "grow lun", "the declared size is larger")                    \
	X(CREATE_LUN, "create lun", "is declared and not there")                    \
	X(CHANGE_TARGET, "change target", "who may log in, or what it shows")       \
	X(CREATE_TARGET, "create target", "is declared and not there")              \
	X(REMOVE_PORTAL, "remove portal", "is not declared (any more)")             \
	X(ADD_PORTAL, "add portal", "is declared and not listened on")              \
	X(CHANGE_LIO, "change lio target", "portals, initiators, or what it shows") \
	X(CREATE_LIO, "create lio target", "is declared and not there")             \
	X(ATTENTION, "attention", "something that no step puts right")

enum plan_kind {
#define X(name, words, why) PLAN_##name,
	PLAN_KINDS(X)
#undef X
		PLAN_KIND_COUNT
};

struct plan_step {
	enum plan_kind kind;
	char name[PLAN_NAME_SIZE]; /* of the LUN, target or portal */
	char detail[160];	   /* what changes: "1G -> 2G" */
	char problem[300];	   /* why it cannot be done now; "" when it can */
	bool after_lio; /* in use, perhaps by LIO alone, which loses the LUN: to be waited for */
	const struct config_lun *lun;	    /* declared, for the LUN steps that make or change */
	const struct config_target *target; /* likewise */
	const struct config_memory *memory; /* likewise */
};

struct plan {
	struct plan_step *steps;
	size_t n, room;
};

/** A LUN that runs. */
struct plan_lun {
	const struct config_lun *spec; /* what it was made from */
	uint64_t size;		       /* bytes, now */
	unsigned users;		       /* sessions and clients that have it open */
};

struct plan_target {
	const struct config_target *spec;
	unsigned sessions;
};

/** Something declared that does not run, and why. */
struct plan_problem {
	char name[PLAN_NAME_SIZE];
	char text[300];
};

struct plan_input {
	const struct config *declared;
	const struct plan_lun *luns; /* running */
	size_t n_luns;
	const struct plan_target *targets;
	size_t n_targets;
	const char *const *portals; /* as declared when they were opened */
	size_t n_portals;
	const struct config_lio *lio; /* what ebb-lio was last told to bring up; NULL: nothing */
	const struct plan_problem *notes; /* what needs attention, from elsewhere */
	size_t n_notes;
	const struct config_memory *memory; /* of which max and floor are in force; NULL: any */
	uint64_t cache_room; /* bytes the read cache can have, where more is declared; else 0 */
	const struct config *started_with; /* settings that only a start reads; NULL: any */
	/* Whether @path is there: 0, with its size in bytes (0: not known), or -errno. */
	int (*look)(void *ctx, const char *path, uint64_t *ret_size);
	void *ctx;
};

/** -ENOMEM. */
int plan_make(const struct plan_input *in, struct plan **ret_plan);
void plan_free(struct plan *p); /* NULL is fine */
/** That @s cannot be taken with @users there; none: nothing. */
void plan_set_busy(struct plan_step *s, unsigned users);
/** How many of its steps cannot be taken. */
size_t plan_problems(const struct plan *p);
const char *plan_kind_name(enum plan_kind kind);
/** New reference to [{"action", "name", "detail", "problem"}], or NULL. */
json_t *plan_to_json(const struct plan *p);
/** Whether two declared targets would make the same thing. */
bool plan_same_target(const struct config_target *a, const struct config_target *b);
