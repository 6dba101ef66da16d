/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One table says what metrics there are: name, type, unit, help, labels, and where the value is
 * found. /metrics and docs/metrics.md are made from it.
 *
 *	appliance --metrics_collect--> records, by group --metrics_render + table--> text
 *
 * A *group* is a kind of thing that has values: a LUN, a session. Collecting copies what each has
 * into a *record*, so that a LUN is held for microseconds, not for a scrape: one that is deleted
 * meanwhile closes at once. Rendering looks at records only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metric.h"
#include "control/appliance.h"
#include "event/iobuf.h"
#include "event/reactor.h"
#include "exporter/text.h"
#include "front/iscsi/iscsi.h"
#include "front/port/port.h"
#include "lun/lun.h"
#include "mem/budget/budget.h"
#include "mem/cache/cache.h"
#include "mem/tmem/host.h"
#include "mem/vmem/vmem.h"
#include "mem/volatile/volatile.h"

/* Kinds of things, and the labels that tell one from another. */
#define METRIC_GROUPS(X)                                      \
	X(build, "version")                                   \
	X(process, "")                                        \
	X(reactor, "reactor")                                 \
	X(lun, "lun")                                         \
	X(lun_info, "lun, uuid, path")                        \
	X(lun_op, "lun, op")                                  \
	X(lun_stage, "lun, op, stage")                        \
	X(lun_shape, "lun, op, size, alignment")              \
	X(lun_command, "lun, command")                        \
	X(lun_cache, "lun")                                   \
	X(lun_tier, "lun, tier")                              \
	X(lun_export, "lun, export")                          \
	X(session, "session, initiator")                      \
	X(session_stage, "session, initiator, stage")         \
	X(session_info, "session, protocol, export, address") \
	X(iscsi, "")                                          \
	X(port, "")                                           \
	X(port_client, "session, initiator")                  \
	X(nbd, "")                                            \
	X(tcmu, "")                                           \
	X(tcmu_area, "lun, backstore")                        \
	X(lio_backstore, "lun, backstore")                    \
	X(lio_lun, "lun, export")                             \
	X(lio_target, "target")                               \
	X(budget, "")                                         \
	X(shrink, "cause")                                    \
	X(pool, "pool")                                       \
	X(cache, "")                                          \
	X(volatile, "")                                       \
	X(arena, "arena")                                     \
	X(tmem, "")                                           \
	X(tmem_kind, "kind")                                  \
	X(exporter, "")

enum metric_group {
#define X(group, labels) METRIC_GROUP_##group,
	METRIC_GROUPS(X)
#undef X
		METRIC_GROUPS_COUNT
};

/** A value that is not there: no sample is written. */
#define METRIC_NONE UINT64_MAX

/** What was counted of durations; sum_ns METRIC_NONE: no sample is written. */
struct metric_durations {
	uint64_t bucket[METRIC_HIST_BUCKETS];
	uint64_t sum_ns;
	bool coarse; /* half as many bounds are told */
};
/** How many durations were counted. */
uint64_t metrics_count_durations(const struct metric_durations *d);

/*
 * --- records: each begins with its labels, as metrics_label() made them ---
 *
 * Where a module tells its figures in one struct, that is the record, and the table picks from it.
 */

struct build_record {
	size_t labels;
};

struct process_record {
	size_t labels;
	uint64_t resident, virtual, cpu_ns, start_ns, open_files, max_files, threads, major_faults;
};

struct reactor_record {
	size_t labels;
	struct reactor_stats loop;
	struct iobuf_stats iobufs;
};

struct lun_record {
	size_t labels;
	uint64_t size, inflight, conflicts, miscompares;
};

struct lun_info_record {
	size_t labels;
};

struct lun_op_record {
	size_t labels;
	uint64_t ops, bytes, errors;
	struct metric_durations latency;
};

struct lun_stage_record {
	size_t labels;
	uint64_t ns;
};

struct lun_shape_record {
	size_t labels;
	uint64_t ops;
};

struct lun_command_record {
	size_t labels;
	uint64_t ops;
};

struct lun_cache_record {
	size_t labels;
	struct lun_cache_stats s;
};

struct lun_tier_record {
	size_t labels;
	uint64_t hits;
};

struct lun_export_record {
	size_t labels;
	uint64_t sessions, ops, read_bytes, written_bytes, errors;
};

struct session_record {
	size_t labels;
	uint64_t since_ns, commands, inflight, read_bytes, written_bytes, errors;
};

struct session_stage_record {
	size_t labels;
	uint64_t ns;
};

struct session_info_record {
	size_t labels;
};

struct iscsi_record {
	size_t labels;
	uint64_t sessions, logging_in;
#define X(name, help) uint64_t name;
	ISCSI_COUNTERS(X)
#undef X
};

struct port_record {
	size_t labels;
	struct port_stats s;
};

struct port_client_record {
	size_t labels;
	uint64_t doorbells, wakeups, resident;
};

struct nbd_record {
	size_t labels;
	uint64_t ready, restarts;
};

struct tcmu_record {
	size_t labels;
	uint64_t devices, open;
};

struct tcmu_area_record {
	size_t labels;
	uint64_t resident, returned, timeouts;
};

struct lio_backstore_record {
	size_t labels;
	uint64_t resets, aborts;
};

struct lio_lun_record {
	size_t labels;
	uint64_t commands, read_bytes, written_bytes;
};

struct lio_target_record {
	size_t labels;
	uint64_t sessions, logins, login_failures, digest_errors, format_errors, timeouts;
};

struct budget_record {
	size_t labels;
	struct budget_stats s;
};

struct shrink_record {
	size_t labels;
	uint64_t count;
};

struct pool_record {
	size_t labels;
	struct budget_pool_stats s;
	struct metric_durations shrink; /* for that of @s */
};

struct cache_record {
	size_t labels;
	struct cache_stats s;
};

struct volatile_record {
	size_t labels;
	struct volatile_stats s;
};

struct arena_record {
	size_t labels;
	struct vmem_stats s;
};

struct tmem_record {
	size_t labels;
	struct tmem_stats s;
	struct tmem_host_stats host;
};

struct tmem_kind_record {
	size_t labels;
	uint64_t pages;
};

struct exporter_record {
	size_t labels;
	uint64_t scrapes, refused, displaced;
};

/* --- the table --- */

enum metric_type {
	METRIC_COUNTER,
	METRIC_GAUGE,
	METRIC_HISTOGRAM, /* of durations: a struct metric_durations */
	METRIC_INFO,	  /* a gauge that is always 1: what matters is in the labels */
};

enum metric_unit {
	METRIC_PLAIN,
	METRIC_BYTES,
	METRIC_SECONDS, /* records have nanoseconds */
};

struct metric {
	const char *name;
	const char *help;
	enum metric_type type;
	enum metric_unit unit;
	enum metric_group group;
	size_t offset; /* of the value in the group's record */
};
extern const struct metric metrics_table[];
extern const size_t metrics_table_count;
/** Of each group: its labels, as in METRIC_GROUPS. */
extern const char *const metric_group_labels[METRIC_GROUPS_COUNT];
/** "counter", "gauge" or "histogram". */
const char *metric_type_name(enum metric_type type);
/** "", "bytes" or "seconds". */
const char *metric_unit_name(enum metric_unit unit);

/* --- a scrape --- */

struct metrics {
	struct text labels; /* terminated strings */
	struct {
		char *records;
		size_t n, cap;
	} group[METRIC_GROUPS_COUNT];
	struct pool_record spare; /* as large as any */
	bool failed;		  /* out of memory: some are missing */
};

/** What the HTTP side counts about itself. */
struct metrics_self {
	uint64_t scrapes, refused, displaced;
};

/**
 * Copies what @app has now to @m, which is zeroed. Any thread but a reactor's. 0 or -ENOMEM;
 * metrics_free() in either case.
 */
int metrics_collect(struct metrics *m, struct appliance *app, const struct metrics_self *self);
/** Its part for the budget, arenas and tmem. */
void metrics_collect_memory(struct metrics *m, struct memory *memory);
/** Where the kernel shows its target. */
#define METRICS_LIO "/sys/kernel/config/target"
/**
 * Its part for what the kernel's target counts of our LUNs that it exports, as @root shows it; none
 * where there is no such folder. May wait while the target is changed.
 */
void metrics_collect_lio(struct metrics *m, const char *root);
/** Writes all that was collected in the order of the table. 0 or -ENOMEM. */
int metrics_render(const struct metrics *m, struct text *out);
void metrics_free(struct metrics *m);

#define METRICS_NO_LABELS SIZE_MAX
/** Labels for metrics_add(): those of @base and one more. */
size_t metrics_label(struct metrics *m, size_t base, const char *name, const char *value);
/**
 * A new record of zeros, valid until the next one of its group. Never NULL: without memory it is a
 * spare one, and m->failed is set.
 */
void *metrics_add(struct metrics *m, enum metric_group group, size_t labels);
void metrics_copy_durations(struct metric_durations *to, const struct metric_hist *from);
