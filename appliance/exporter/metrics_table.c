/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of metrics. Names: ebb_, the thing, what is measured, the base unit, and _total on
 * counters, as promtool checks. A name that has been published keeps its meaning.
 */
#include "exporter/metrics.h"

/* Where a field is in the record of a group, checked to be of type @type. */
#define AT(group, field, type)                    \
	(offsetof(struct group##_record, field) + \
	 0 * sizeof(char[_Generic(((struct group##_record *)0)->field, type : 1)]))

#define ROW(type, unit, value, group, field, name, help)                        \
	{                                                                       \
		name, help, METRIC_##type, METRIC_##unit, METRIC_GROUP_##group, \
			AT(group, field, value)                                 \
	}
#define COUNTER(unit, ...) ROW(COUNTER, unit, uint64_t, __VA_ARGS__)
#define GAUGE(unit, ...)   ROW(GAUGE, unit, uint64_t, __VA_ARGS__)
#define HISTOGRAM(...)	   ROW(HISTOGRAM, SECONDS, struct metric_durations, __VA_ARGS__)
#define INFO(group, ...)   ROW(INFO, PLAIN, size_t, group, labels, __VA_ARGS__)

/* The unit of a counter of somebody else's table: its name is all there is. */
#define SUFFIX_AT(name, suffix) (sizeof(name) > sizeof(suffix) ? sizeof(name) - sizeof(suffix) : 0)
#define UNIT_OF(field)                                                                      \
	(!__builtin_strcmp(&(#field)[SUFFIX_AT(#field, "_bytes")], "_bytes") ? METRIC_BYTES \
									     : METRIC_PLAIN)

#define COUNTER_OF(group, at, field, help)                                               \
	{                                                                                \
		"ebb_" #group "_" #field "_total", help, METRIC_COUNTER, UNIT_OF(field), \
			METRIC_GROUP_##group, AT(group, at, uint64_t)                    \
	}

const struct metric metrics_table[] = {
	INFO(build, "ebb_build_info", "The version that runs; always 1"),
	GAUGE(SECONDS, process, start_ns, "ebb_process_start_time_seconds",
	      "When the process began, since the epoch"),
	COUNTER(SECONDS, process, cpu_ns, "ebb_process_cpu_seconds_total",
		"User and system time of the process"),
	GAUGE(BYTES, process, resident, "ebb_process_resident_memory_bytes",
	      "Memory that the process has resident"),
	GAUGE(BYTES, process, virtual, "ebb_process_virtual_memory_bytes",
	      "Addresses that the process has mapped or reserved"),
	GAUGE(PLAIN, process, open_files, "ebb_process_open_fds", "Open file descriptors"),
	GAUGE(PLAIN, process, max_files, "ebb_process_max_fds", "File descriptors it may open"),
	GAUGE(PLAIN, process, threads, "ebb_process_threads", "Threads"),
	COUNTER(PLAIN, process, major_faults, "ebb_process_major_page_faults_total",
		"Page faults that took I/O: memory of the process was taken that is no cache"),

	COUNTER(PLAIN, reactor, loop.turns, "ebb_reactor_turns_total",
		"Turns of the loop; an idle reactor makes none"),
	COUNTER(PLAIN, reactor, loop.sleeps, "ebb_reactor_sleeps_total",
		"System calls that may have slept"),
	COUNTER(PLAIN, reactor, loop.spins, "ebb_reactor_spins_total",
		"Spins before sleeping that found work"),
	COUNTER(PLAIN, reactor, loop.completions, "ebb_reactor_completions_total",
		"Completions of io_uring"),
	COUNTER(PLAIN, reactor, loop.messages, "ebb_reactor_messages_total",
		"Messages from other threads"),
	COUNTER(PLAIN, reactor, loop.timers, "ebb_reactor_timers_total", "Timers that fired"),
	GAUGE(BYTES, reactor, iobufs.mapped_bytes, "ebb_iobuf_mapped_bytes",
	      "Memory held for I/O buffers, in use or kept for reuse"),
	GAUGE(BYTES, reactor, iobufs.used_bytes, "ebb_iobuf_used_bytes", "I/O buffers in use"),
	GAUGE(BYTES, reactor, iobufs.limit_bytes, "ebb_iobuf_limit_bytes", "I/O buffers at most"),
	GAUGE(BYTES, reactor, iobufs.registered_bytes, "ebb_iobuf_registered_bytes",
	      "I/O buffers registered with io_uring"),
	COUNTER(PLAIN, reactor, iobufs.waits, "ebb_iobuf_waits_total",
		"Requests that waited for an I/O buffer"),
	COUNTER(BYTES, reactor, iobufs.returned_bytes, "ebb_iobuf_returned_bytes_total",
		"I/O buffers given back to the system"),

	GAUGE(BYTES, lun, size, "ebb_lun_size_bytes", "Size of the LUN"),
	GAUGE(PLAIN, lun, inflight, "ebb_lun_inflight_operations", "Operations that have begun"),
	COUNTER(PLAIN, lun, conflicts, "ebb_lun_conflicts_total",
		"Operations that waited for one that overlaps"),
	COUNTER(PLAIN, lun, miscompares, "ebb_lun_miscompares_total",
		"Operations that found other data than they were to compare with; from the first "
		"on"),
	INFO(lun_info, "ebb_lun_info", "Identity and backing file of the LUN; always 1"),
	COUNTER(PLAIN, lun_op, ops, "ebb_lun_operations_total", "Operations that have ended"),
	COUNTER(BYTES, lun_op, bytes, "ebb_lun_bytes_total", "Bytes of operations without error"),
	COUNTER(PLAIN, lun_op, errors, "ebb_lun_errors_total", "Operations that failed"),
	HISTOGRAM(lun_op, latency, "ebb_lun_latency_seconds",
		  "How long reads, writes and flushes took; of each from its first use on"),
	COUNTER(SECONDS, lun_stage, ns, "ebb_lun_stage_seconds_total",
		"Where the time of reads and writes went: queue, disk, cache (the rest); of each "
		"from its first use on"),
	COUNTER(PLAIN, lun_shape, ops, "ebb_lun_requests_total",
		"Plain reads and writes by length (at most size bytes) and by what both their ends "
		"are multiples of; of each from its first use on"),
	COUNTER(PLAIN, lun_command, ops, "ebb_lun_commands_total",
		"Operations of other kinds than read, write, flush, unmap; of each from its first "
		"use on"),

	COUNTER(PLAIN, lun_tier, hits, "ebb_lun_cache_hits_total",
		"Reads of a page that the cache answered, by where it was"),
	COUNTER(PLAIN, lun_cache, s.cache.misses, "ebb_lun_cache_misses_total",
		"Reads of a page that was not in the cache"),
	COUNTER(PLAIN, lun_cache, s.cache.purged, "ebb_lun_cache_purged_total",
		"Of the misses: the kernel had taken the page; from the first on"),
	COUNTER(PLAIN, lun_cache, s.cache.fills, "ebb_lun_cache_fills_total",
		"Pages inserted after a read"),
	COUNTER(PLAIN, lun_cache, s.cache.fills_lost, "ebb_lun_cache_fills_lost_total",
		"Pages read but not inserted: a write overlapped; from the first on"),
	COUNTER(PLAIN, lun_cache, s.cache.updates, "ebb_lun_cache_updates_total",
		"Pages inserted after a write"),
	COUNTER(PLAIN, lun_cache, s.cache.invalidated, "ebb_lun_cache_invalidated_total",
		"Pages dropped because they were written"),
	COUNTER(PLAIN, lun_cache, s.cache.evicted, "ebb_lun_cache_evicted_total",
		"Pages dropped for capacity"),
	COUNTER(PLAIN, lun_cache, s.cache.demoted, "ebb_lun_cache_demoted_total",
		"Of the evicted pages: tmem took them; from the first on"),
	COUNTER(PLAIN, lun_cache, s.readahead_pages, "ebb_lun_cache_readahead_pages_total",
		"Pages read before they were asked for; from the first on"),
	COUNTER(PLAIN, lun_cache, s.readahead_used, "ebb_lun_cache_readahead_used_pages_total",
		"Of them: in windows whose reader came; from the first on"),
	COUNTER(PLAIN, lun_cache, s.coalesced, "ebb_lun_cache_coalesced_total",
		"Reads that waited for another's read of the same pages; from the first on"),
	GAUGE(BYTES, lun_cache, s.cache.resident, "ebb_lun_cache_resident_bytes",
	      "Pages of the LUN in memory, those included that the kernel took unnoticed"),
	GAUGE(BYTES, lun_cache, s.cache.tmem_bytes, "ebb_lun_cache_tmem_bytes",
	      "Memory of the LUN's pages and their records in the second-chance cache"),

	GAUGE(PLAIN, lun_export, sessions, "ebb_export_sessions",
	      "Sessions that use the LUN through the export; once it has been used"),
	COUNTER(PLAIN, lun_export, ops, "ebb_export_operations_total",
		"Operations through the export that have ended"),
	COUNTER(BYTES, lun_export, read_bytes, "ebb_export_read_bytes_total",
		"Bytes read through the export"),
	COUNTER(BYTES, lun_export, written_bytes, "ebb_export_written_bytes_total",
		"Bytes written through the export"),
	COUNTER(PLAIN, lun_export, errors, "ebb_export_errors_total",
		"Operations through the export that failed; from the first on"),

	GAUGE(SECONDS, session, since_ns, "ebb_session_start_time_seconds",
	      "When the session began, since the epoch"),
	COUNTER(PLAIN, session, commands, "ebb_session_commands_total", "Commands of the session"),
	GAUGE(PLAIN, session, inflight, "ebb_session_inflight_commands",
	      "Commands that have not been answered"),
	COUNTER(BYTES, session, read_bytes, "ebb_session_read_bytes_total",
		"Bytes read by the session"),
	COUNTER(BYTES, session, written_bytes, "ebb_session_written_bytes_total",
		"Bytes written by the session"),
	COUNTER(PLAIN, session, errors, "ebb_session_errors_total",
		"Operations of the session that failed"),
	COUNTER(SECONDS, session_stage, ns, "ebb_session_stage_seconds_total",
		"Time of commands with the socket: receive (their turn, their data), send (until "
		"the "
		"answer was with the kernel)"),
	INFO(session_info, "ebb_session_info", "What the session is to, and from where; always 1"),

	GAUGE(PLAIN, iscsi, sessions, "ebb_iscsi_sessions", "iSCSI sessions"),
	GAUGE(PLAIN, iscsi, logging_in, "ebb_iscsi_unauthenticated_connections",
	      "Connections that have not logged in yet"),
#define X(field, help) COUNTER_OF(iscsi, field, field, help),
	ISCSI_COUNTERS(X)
#undef X

		GAUGE(PLAIN, port, s.clients, "ebb_port_clients", "Clients of the port"),
	COUNTER(PLAIN, port, s.accepted, "ebb_port_accepted_total", "Clients let in"),
	COUNTER(PLAIN, port, s.refused, "ebb_port_refused_total",
		"Clients refused: not allowed, or too many"),
	COUNTER(PLAIN, port, s.violations, "ebb_port_violations_total",
		"Clients dropped: they broke the protocol"),
	GAUGE(BYTES, port, s.resident_bytes, "ebb_port_resident_bytes",
	      "Memory shared with clients: rings and data areas"),
	COUNTER(PLAIN, port_client, doorbells, "ebb_port_session_doorbells_total",
		"Wake-ups of the daemon by the client"),
	COUNTER(PLAIN, port_client, wakeups, "ebb_port_session_wakeups_total",
		"Wake-ups of the client by the daemon"),
	GAUGE(BYTES, port_client, resident, "ebb_port_session_resident_bytes",
	      "Memory shared with the client"),

	GAUGE(PLAIN, nbd, ready, "ebb_nbd_ready", "Whether nbdkit serves"),
	COUNTER(PLAIN, nbd, restarts, "ebb_nbd_restarts_total", "Times nbdkit was started again"),

	GAUGE(PLAIN, tcmu, devices, "ebb_tcmu_devices", "Backstores that LIO has of our LUNs"),
	GAUGE(PLAIN, tcmu, open, "ebb_tcmu_open_devices", "Of them: those that are served"),
	GAUGE(BYTES, tcmu_area, resident, "ebb_tcmu_area_resident_bytes",
	      "Memory that the kernel has for the ring and data area of the backstore"),
	COUNTER(BYTES, tcmu_area, returned, "ebb_tcmu_area_returned_bytes_total",
		"Bytes of the data area given back to the system"),
	COUNTER(PLAIN, tcmu_area, timeouts, "ebb_tcmu_timeouts_total",
		"Commands of the backstore that were not served in time"),

	COUNTER(PLAIN, lio_lun, commands, "ebb_lio_commands_total",
		"Commands that LIO has taken for the LUN"),
	COUNTER(BYTES, lio_lun, read_bytes, "ebb_lio_read_bytes_total",
		"Bytes that LIO has sent to initiators, as it tells them: in whole MiB"),
	COUNTER(BYTES, lio_lun, written_bytes, "ebb_lio_written_bytes_total",
		"Bytes that LIO has taken from initiators, likewise"),
	COUNTER(PLAIN, lio_backstore, resets, "ebb_lio_resets_total",
		"Resets of the LUN by initiators; from the first on"),
	COUNTER(PLAIN, lio_backstore, aborts, "ebb_lio_aborts_total",
		"Commands that initiators have aborted; from the first on"),
	GAUGE(PLAIN, lio_target, sessions, "ebb_lio_sessions",
	      "Sessions of the kernel's iSCSI target"),
	COUNTER(PLAIN, lio_target, logins, "ebb_lio_logins_total",
		"Logins to the kernel's iSCSI target"),
	COUNTER(PLAIN, lio_target, login_failures, "ebb_lio_login_failures_total",
		"Logins that it refused"),
	COUNTER(PLAIN, lio_target, digest_errors, "ebb_lio_digest_errors_total",
		"PDUs that came to it damaged; from the first on"),
	COUNTER(PLAIN, lio_target, format_errors, "ebb_lio_format_errors_total",
		"PDUs that came to it malformed; from the first on"),
	COUNTER(PLAIN, lio_target, timeouts, "ebb_lio_timeouts_total",
		"Connections that it gave up on; from the first on"),

	GAUGE(BYTES, budget, s.floor, "ebb_memory_floor_bytes",
	      "What all pools together are not shrunk below"),
	GAUGE(BYTES, budget, s.ceiling, "ebb_memory_ceiling_bytes",
	      "What all pools together may hold at most"),
	GAUGE(BYTES, budget, s.target, "ebb_memory_target_bytes",
	      "What they may hold now: between floor and ceiling, as the host can spare"),
	GAUGE(BYTES, budget, s.held, "ebb_memory_held_bytes", "What they hold"),
	GAUGE(BYTES, budget, s.reclaimable, "ebb_memory_reclaimable_bytes",
	      "Of it: could be given back right now"),
	GAUGE(BYTES, budget, s.reserved, "ebb_memory_reserved_bytes",
	      "Set aside, out of the floor, for what LUNs and sessions may come to need"),
	GAUGE(BYTES, budget, s.limit, "ebb_memory_limit_bytes", "The limit of the cgroup"),
	GAUGE(BYTES, budget, s.available, "ebb_memory_available_bytes",
	      "What the host or the cgroup has available"),
	COUNTER(BYTES, budget, s.returned, "ebb_memory_returned_bytes_total",
		"Bytes given back on demand"),
	COUNTER(PLAIN, shrink, count, "ebb_memory_shrinks_total",
		"Times that memory was given back on demand, by cause"),
	GAUGE(BYTES, pool, s.use.bytes, "ebb_memory_pool_bytes", "What the pool holds"),
	GAUGE(BYTES, pool, s.target, "ebb_memory_pool_target_bytes", "What it may hold now"),
	GAUGE(BYTES, pool, s.floor, "ebb_memory_pool_floor_bytes", "What it is not shrunk below"),
	GAUGE(BYTES, pool, s.use.reclaimable, "ebb_memory_pool_reclaimable_bytes",
	      "Of what it holds: could be given back right now"),
	GAUGE(BYTES, pool, s.use.loose, "ebb_memory_pool_volatile_bytes",
	      "Of the reclaimable: the kernel may take it at any moment"),
	GAUGE(BYTES, pool, s.use.wired, "ebb_memory_pool_wired_bytes",
	      "Of what it holds: can not be given back now"),
	COUNTER(BYTES, pool, s.returned, "ebb_memory_pool_returned_bytes_total",
		"Bytes given back on demand"),
	COUNTER(PLAIN, pool, s.purged_pages, "ebb_memory_pool_purged_pages_total",
		"Pages that the kernel took"),
	HISTOGRAM(pool, shrink, "ebb_memory_pool_shrink_seconds",
		  "How long it took the pool to shrink"),

	GAUGE(PLAIN, cache, s.pages, "ebb_cache_pages", "Pages in the read cache that have memory"),
	GAUGE(PLAIN, cache, s.zero_pages, "ebb_cache_zero_pages",
	      "Pages of zeros, which are only noted"),
	GAUGE(PLAIN, cache, s.wired_pages, "ebb_cache_wired_pages",
	      "Of the pages: not given to the kernel, or not yet"),
	GAUGE(BYTES, cache, s.resident, "ebb_cache_resident_bytes",
	      "Memory of pages, those included that the kernel took unnoticed"),
	GAUGE(BYTES, cache, s.index_bytes, "ebb_cache_index_bytes", "Memory of the index"),
	GAUGE(BYTES, cache, s.target, "ebb_cache_target_bytes", "Memory of pages at most, now"),
	GAUGE(BYTES, cache, s.max, "ebb_cache_max_bytes", "Memory of pages at most, ever"),
	COUNTER(BYTES, cache, s.returned, "ebb_cache_returned_bytes_total",
		"Bytes given back when the target fell"),
	GAUGE(PLAIN, volatile, s.volatile_pages, "ebb_volatile_pages",
	      "Pages that the kernel may take, or took unnoticed"),
	COUNTER(PLAIN, volatile, s.marks, "ebb_volatile_marks_total", "Pages given to the kernel"),
	COUNTER(PLAIN, volatile, s.mark_calls, "ebb_volatile_mark_calls_total",
		"System calls for that"),
	COUNTER(PLAIN, volatile, s.refused, "ebb_volatile_refused_total",
		"Pages that the kernel would not have"),
	COUNTER(PLAIN, volatile, s.purged, "ebb_volatile_purged_total",
		"Pages that were found taken"),
	COUNTER(PLAIN, volatile, s.cancelled, "ebb_volatile_cancelled_total",
		"Volatile pages that were pinned or held in time"),
	COUNTER(PLAIN, volatile, s.disturbed, "ebb_volatile_disturbed_total",
		"Reads of a page begun again because the thread was interrupted"),
	COUNTER(PLAIN, volatile, s.dropped, "ebb_volatile_dropped_total",
		"Pages whose memory was given back"),
	COUNTER(PLAIN, volatile, s.undropped, "ebb_volatile_undropped_total",
		"Pages whose memory the system would not take back: it stays resident"),

	GAUGE(BYTES, arena, s.total, "ebb_vmem_size_bytes", "Addresses that the arena has"),
	GAUGE(BYTES, arena, s.allocated, "ebb_vmem_allocated_bytes",
	      "Of them: not free, those in quantum caches included"),
	GAUGE(BYTES, arena, s.in_use, "ebb_vmem_in_use_bytes",
	      "Of the allocated: handed to who asked"),
	GAUGE(BYTES, arena, s.cached, "ebb_vmem_cached_bytes",
	      "Of the allocated: in quantum caches, ready"),
	GAUGE(PLAIN, arena, s.spans, "ebb_vmem_spans", "Spans, added and imported"),
	GAUGE(PLAIN, arena, s.segments_allocated, "ebb_vmem_allocated_segments",
	      "Allocated segments"),
	GAUGE(PLAIN, arena, s.segments_free, "ebb_vmem_free_segments", "Free segments"),
	GAUGE(PLAIN, arena, s.tags, "ebb_vmem_tags", "Boundary tags in use"),
	GAUGE(BYTES, arena, s.meta_bytes, "ebb_vmem_metadata_bytes",
	      "Memory of boundary tags, hash tables and magazines"),
	COUNTER(PLAIN, arena, s.allocs, "ebb_vmem_allocs_total", "Allocations"),
	COUNTER(PLAIN, arena, s.frees, "ebb_vmem_frees_total", "Frees"),
	COUNTER(PLAIN, arena, s.fails, "ebb_vmem_failures_total",
		"Allocations for which there was no room"),
	COUNTER(PLAIN, arena, s.imports, "ebb_vmem_imports_total", "Spans imported"),
	COUNTER(PLAIN, arena, s.releases, "ebb_vmem_releases_total", "Imported spans given back"),
	COUNTER(PLAIN, arena, s.depot_visits, "ebb_vmem_depot_visits_total",
		"Exchanges of magazines with depots"),
	COUNTER(PLAIN, arena, s.depot_contended, "ebb_vmem_depot_contended_total",
		"Of them: waited for another thread"),

	GAUGE(PLAIN, tmem_kind, pages, "ebb_tmem_pages",
	      "Pages in the second-chance cache, by how they are kept"),
	GAUGE(PLAIN, tmem, s.ephemeral_pages, "ebb_tmem_ephemeral_pages",
	      "Of them: may be dropped at any time"),
	GAUGE(BYTES, tmem, s.page_bytes, "ebb_tmem_stored_bytes", "Memory of pages as kept"),
	GAUGE(BYTES, tmem, s.meta_bytes, "ebb_tmem_metadata_bytes", "Memory of records"),
	GAUGE(BYTES, tmem, host.resident, "ebb_tmem_resident_bytes",
	      "All memory of it: pages, records, holes and spare blocks"),
	COUNTER(BYTES, tmem, host.returned, "ebb_tmem_returned_bytes_total",
		"Bytes given back by shrinks"),
#define X(field, help) COUNTER_OF(tmem, s.field, field, help),
	TMEM_COUNTERS(X)
#undef X

		COUNTER(PLAIN, exporter, scrapes, "ebb_exporter_scrapes_total",
			"Scrapes answered, this one included"),
	COUNTER(PLAIN, exporter, refused, "ebb_exporter_refused_total",
		"Scrapes refused: too many at once"),
	COUNTER(PLAIN, exporter, displaced, "ebb_exporter_displaced_total",
		"Connections cut off in favour of others: too many at once"),
};
const size_t metrics_table_count = sizeof(metrics_table) / sizeof(metrics_table[0]);

const char *const metric_group_labels[METRIC_GROUPS_COUNT] = {
#define X(group, labels) labels,
	METRIC_GROUPS(X)
#undef X
};

const char *metric_type_name(enum metric_type type)
{
	static const char *const names[] = {"counter", "gauge", "histogram", "gauge"};

	return names[type];
}

const char *metric_unit_name(enum metric_unit unit)
{
	static const char *const names[] = {"", "bytes", "seconds"};

	return names[unit];
}
