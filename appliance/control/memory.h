/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory of the appliance: one reservation of addresses, what caches live in it, and the budget
 * over all that the process holds. docs/budget.md tells which pools there are.
 *
 * Functions may block for a short while (a round trip to the reactors, or a shrink) and are not
 * called on a reactor, but for those marked "any thread".
 */
#pragma once

#include <jansson.h>

#include "base/reason.h"
#include "control/config.h"

struct address_space;
struct budget;
struct cache;
struct memory;
struct port_server;
struct reactor_set;
struct tmem_host;

/** What a LUN may come to need outside of all pools: structures, range locks, counters. */
#define MEMORY_OF_LUN (64ull << 10)

/**
 * Makes the caches and starts the budget. @pressure: the file that tells of pressure, or NULL.
 * -ENOMEM, with what stands in the way.
 */
int memory_start(const struct config *cfg, const char *pressure, struct memory **ret_m,
		 struct reason *why);
/** No LUN, no reactor and no port is left. NULL is fine. */
void memory_stop(struct memory *m);
/** Brings max and floor into force. -EINVAL, -EBUSY. */
int memory_set(struct memory *m, const struct config_memory *c, struct reason *why);
/** What is in force: max and floor as declared. Between changes. */
const struct config_memory *memory_declared(const struct memory *m);

/** Bytes that the read cache can have until a restart, if @c declares more for all; else 0. */
uint64_t memory_cache_room(const struct memory *m, const struct config_memory *c);

/** The reactors' I/O buffers become a pool, and so does what else the process has. -ENOMEM. */
int memory_add_reactors(struct memory *m, struct reactor_set *set);
/** Before the reactors stop. */
void memory_remove_reactors(struct memory *m);
/** The data areas of the port become a pool. -ENOMEM. */
int memory_add_port(struct memory *m, struct port_server *port);
/** Before the server stops. */
void memory_remove_port(struct memory *m);

/** Any thread. Whether LUN @name fits: -ENOSPC. Undone by memory_leave_lun(). */
int memory_enter_lun(struct memory *m, const char *name, struct reason *why);
void memory_leave_lun(struct memory *m);

/* --- its parts, for those who watch --- */

struct budget *memory_budget(struct memory *m);
struct address_space *memory_space(struct memory *m);
struct cache *memory_cache(struct memory *m);
/** NULL: none is declared. */
struct tmem_host *memory_tmem(struct memory *m);

/** Statistics of the cache, or of one LUN in it. */
struct cache_stats;
json_t *memory_report_cache(const struct cache_stats *s);
/** Who holds what, as JSON: a new reference, or NULL when there is no memory. */
json_t *memory_report(struct memory *m);
