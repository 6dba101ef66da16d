/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Copies what the appliance has into records. Nothing here waits for a reactor or for I/O: counters
 * are loaded as they are, lists are copied under the short locks of those who keep them.
 */
#include "exporter/metrics.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "event/iobuf.h"
#include "front/nbd/nbd_supervisor.h"
#include "front/port/port.h"
#include "front/tcmu/tcmu.h"
#include "lun/lun.h"

/* An instant of CLOCK_MONOTONIC, since the epoch; to the millisecond, so that it stays the same. */
static uint64_t since_epoch(uint64_t mono_ns)
{
	uint64_t ns = clock_get_ns(CLOCK_REALTIME) - (clock_now_ns() - mono_ns);

	return ns - ns % NSEC_PER_MSEC;
}

/* --- the process --- */

static uint64_t count_open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	uint64_t n = 0;

	if (!dir)
		return METRIC_NONE;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 3; /* "." and "..", and the folder itself */
}

/* Threads, major faults, and when it was started: /proc has it in ticks since boot. */
static void read_stat(struct process_record *r)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/stat", "re");
	uint64_t hz = (uint64_t)sysconf(_SC_CLK_TCK), up;
	unsigned long long faults, threads, ticks;
	char line[1024] = "";
	const char *p;

	r->start_ns = r->threads = r->major_faults = METRIC_NONE;
	if (!f || !fgets(line, sizeof(line), f))
		return;
	p = strrchr(line, ')'); /* behind the name, which may have spaces */
	if (!p || sscanf(p + 1,
			 " %*c %*d %*d %*d %*d %*d %*u %*u %*u %llu %*u %*u %*u %*d %*d %*d %*d "
			 "%llu %*d %llu",
			 &faults, &threads, &ticks) != 3)
		return;
	up = ticks / hz * NSEC_PER_SEC + ticks % hz * NSEC_PER_SEC / hz;
	r->start_ns = since_epoch(clock_now_ns() - (clock_get_ns(CLOCK_BOOTTIME) - up));
	r->threads = threads;
	r->major_faults = faults;
}

static void collect_process(struct metrics *m)
{
	struct process_record *r = metrics_add(m, METRIC_GROUP_process, METRICS_NO_LABELS);
	_cleanup_fclose_ FILE *f = fopen("/proc/self/statm", "re");
	unsigned long long size, resident;
	struct rlimit files;

	metrics_add(m, METRIC_GROUP_build,
		    metrics_label(m, METRICS_NO_LABELS, "version", EBB_VERSION));
	r->resident = r->virtual = r->max_files = METRIC_NONE;
	if (f && fscanf(f, "%llu %llu", &size, &resident) == 2) {
		r->virtual = size * (uint64_t)sysconf(_SC_PAGESIZE);
		r->resident = resident * (uint64_t)sysconf(_SC_PAGESIZE);
	}
	if (!getrlimit(RLIMIT_NOFILE, &files))
		r->max_files = files.rlim_cur;
	r->cpu_ns = clock_get_ns(CLOCK_PROCESS_CPUTIME_ID);
	read_stat(r);
	r->open_files = count_open_files();
}

static void collect_reactors(struct metrics *m, struct reactor_set *set)
{
	for (unsigned i = 0; i < reactor_set_count(set); i++) {
		struct reactor *reactor = reactor_set_get(set, i);
		struct reactor_record *r;
		char number[12];

		snprintf(number, sizeof(number), "%u", i);
		r = metrics_add(m, METRIC_GROUP_reactor,
				metrics_label(m, METRICS_NO_LABELS, "reactor", number));
		reactor_stats(reactor, &r->loop);
		iobuf_pool_stats(reactor_iobufs(reactor), &r->iobufs);
	}
}

/* --- LUNs --- */

/* Whose times are told: what somebody waits for, and like ops. */
static const bool timed[LUN_CLASS_COUNT] = {
	[LUN_CLASS_READ] = true,
	[LUN_CLASS_WRITE] = true,
	[LUN_CLASS_FLUSH] = true,
};

static void collect_op(struct metrics *m, size_t lun, const struct lun_counters *c, int op)
{
	struct lun_op_record *r = metrics_add(m, METRIC_GROUP_lun_op,
					      metrics_label(m, lun, "op", lun_class_name(op)));

	metrics_copy_durations(&r->latency, &c->latency[op]);
	r->latency.coarse = op == LUN_CLASS_FLUSH;
	r->ops = metrics_count_durations(&r->latency);
	r->bytes = op == LUN_CLASS_FLUSH ? METRIC_NONE : metric_read(&c->bytes[op]);
	r->errors = metric_read(&c->errors[op]);
	if (!r->ops || !timed[op])
		r->latency.sum_ns = METRIC_NONE;
}

static void collect_stages(struct metrics *m, size_t lun, struct lun *l, int op)
{
	struct lun_stages s;

	lun_get_stages(l, op, &s);
	const struct {
		const char *name;
		uint64_t ns;
	} stages[] = {{"queue", s.queue_ns}, {"cache", s.cache_ns}, {"disk", s.disk_ns}};
	size_t labels = metrics_label(m, lun, "op", lun_class_name(op));

	for (unsigned i = 0; i < sizeof(stages) / sizeof(stages[0]); i++) {
		struct lun_stage_record *r;

		if (!stages[i].ns)
			continue;
		r = metrics_add(m, METRIC_GROUP_lun_stage,
				metrics_label(m, labels, "stage", stages[i].name));
		r->ns = stages[i].ns;
	}
}

/* Labels of requests of one size and alignment. */
static size_t label_shape(struct metrics *m, size_t op, unsigned size, unsigned alignment)
{
	uint64_t most = lun_request_size(size);
	char text[24] = "+Inf";
	size_t labels;

	if (most != UINT64_MAX)
		snprintf(text, sizeof(text), "%llu", (unsigned long long)most);
	labels = metrics_label(m, op, "size", text);
	snprintf(text, sizeof(text), "%u", lun_request_alignment(alignment));
	return metrics_label(m, labels, "alignment", text);
}

static void collect_shapes(struct metrics *m, size_t lun, const struct lun_detail *d, int op)
{
	size_t labels = metrics_label(m, lun, "op", lun_class_name(op));

	for (unsigned s = 0; s < LUN_SIZES; s++)
		for (unsigned a = 0; a < LUN_ALIGNMENTS; a++) {
			uint64_t n = metric_read(&d->shapes[op][s][a]);
			struct lun_shape_record *r;

			if (!n)
				continue;
			r = metrics_add(m, METRIC_GROUP_lun_shape, label_shape(m, labels, s, a));
			r->ops = n;
		}
}

static void collect_commands(struct metrics *m, size_t lun, const struct lun_detail *d)
{
	for (int op = LUN_WRITE + 1; op < LUN_OP_COUNT; op++) {
		uint64_t n = metric_read(&d->kinds[op]);
		struct lun_command_record *r;

		if (!n || op == LUN_FLUSH || op == LUN_UNMAP) /* classes of their own */
			continue;
		r = metrics_add(m, METRIC_GROUP_lun_command,
				metrics_label(m, lun, "command", lun_op_name(op)));
		r->ops = n;
	}
}

_Static_assert((int)LUN_READ == LUN_CLASS_READ && (int)LUN_WRITE == LUN_CLASS_WRITE,
	       "shapes of an op stand beside the counters of its class");

static void collect_detail(struct metrics *m, size_t lun, struct lun *l)
{
	for (int op = LUN_CLASS_READ; op <= LUN_CLASS_WRITE; op++) {
		collect_stages(m, lun, l, op);
		collect_shapes(m, lun, lun_detail(l), op);
	}
	collect_commands(m, lun, lun_detail(l));
}

#define ONE_MORE(name, help) +1
_Static_assert(CACHE_COUNTERS(ONE_MORE) == 11, "a new counter of the cache wants a row of its own");

static void collect_cache(struct metrics *m, size_t lun, const struct lun_cache_stats *s)
{
	const struct {
		const char *name;
		uint64_t hits;
	} tiers[] = {{"memory", s->cache.hits_memory},
		     {"zero", s->cache.hits_zero},
		     {"tmem", s->cache.hits_tmem}};
	struct lun_cache_record *r = metrics_add(m, METRIC_GROUP_lun_cache, lun);
	uint64_t *const rare[] = {&r->s.cache.purged,	&r->s.cache.fills_lost,
				  &r->s.cache.demoted,	&r->s.readahead_pages,
				  &r->s.readahead_used, &r->s.coalesced};

	r->s = *s;
	/* What most LUNs never see is a seventh of a thousand LUNs' page. */
	for (unsigned i = 0; i < sizeof(rare) / sizeof(rare[0]); i++)
		*rare[i] = *rare[i] ?: METRIC_NONE;
	for (unsigned i = 0; i < sizeof(tiers) / sizeof(tiers[0]); i++) {
		size_t labels = metrics_label(m, lun, "tier", tiers[i].name);
		struct lun_tier_record *t = metrics_add(m, METRIC_GROUP_lun_tier, labels);

		t->hits = tiers[i].hits;
	}
}

struct exports {
	struct metrics *m;
	size_t lun;
};

static void collect_export(void *ctx, const struct lun_export *e)
{
	const struct exports *x = ctx;
	size_t labels = metrics_label(x->m, x->lun, "export", e->name);
	struct lun_export_record *r = metrics_add(x->m, METRIC_GROUP_lun_export, labels);

	r->sessions = metric_read(&e->sessions);
	r->ops = metric_read(&e->ops);
	r->read_bytes = metric_read(&e->read_bytes);
	r->written_bytes = metric_read(&e->written_bytes);
	r->errors = metric_read(&e->errors) ?: METRIC_NONE;
}

static void collect_lun(struct metrics *m, struct lun *lun)
{
	size_t labels = metrics_label(m, METRICS_NO_LABELS, "lun", lun_name(lun));
	const struct lun_counters *c = lun_counters(lun);
	struct lun_record *r = metrics_add(m, METRIC_GROUP_lun, labels);
	struct lun_cache_stats cache;
	size_t info;

	r->size = lun_size(lun);
	r->inflight = metric_read(&c->inflight);
	r->conflicts = metric_read(&c->conflicts);
	r->miscompares = metric_read(&lun_detail(lun)->miscompares) ?: METRIC_NONE;
	info = metrics_label(m, labels, "uuid", lun_identity(lun)->serial);
	info = metrics_label(m, info, "path", lun_path(lun));
	metrics_add(m, METRIC_GROUP_lun_info, info);
	for (int op = 0; op < LUN_CLASS_COUNT; op++)
		collect_op(m, labels, c, op);
	collect_detail(m, labels, lun);
	lun_list_exports(lun, collect_export, &(struct exports){m, labels});
	if (lun_cache_stats(lun, &cache))
		collect_cache(m, labels, &cache);
}

static void collect_luns(struct metrics *m, struct lun_table *table)
{
	struct lun **luns;
	size_t n;

	if (lun_table_list(table, &luns, &n)) {
		m->failed = true;
		return;
	}
	for (size_t i = 0; i < n; i++)
		collect_lun(m, luns[i]);
	lun_table_free_list(luns, n);
}

/* --- sessions --- */

/* Labels of a session: its name in `ebb session list`, and who it is. */
static size_t label_session(struct metrics *m, const char *protocol, uint64_t id,
			    const char *initiator)
{
	char name[40];

	snprintf(name, sizeof(name), "%s-%llu", protocol, (unsigned long long)id);
	return metrics_label(m, metrics_label(m, METRICS_NO_LABELS, "session", name), "initiator",
			     initiator);
}

static void add_session_info(struct metrics *m, const char *protocol, uint64_t id,
			     const char *export, const char *address)
{
	char name[40];
	size_t labels;

	snprintf(name, sizeof(name), "%s-%llu", protocol, (unsigned long long)id);
	labels = metrics_label(m, METRICS_NO_LABELS, "session", name);
	labels = metrics_label(m, labels, "protocol", protocol);
	labels = metrics_label(m, labels, "export", export);
	metrics_add(m, METRIC_GROUP_session_info, metrics_label(m, labels, "address", address));
}

static void add_session_stage(struct metrics *m, size_t session, const char *stage, uint64_t ns)
{
	struct session_stage_record *r = metrics_add(m, METRIC_GROUP_session_stage,
						     metrics_label(m, session, "stage", stage));

	r->ns = ns;
}

static void collect_iscsi_session(struct metrics *m, const struct iscsi_session_info *i)
{
	size_t labels = label_session(m, "iscsi", i->id, i->initiator);
	struct session_record *r = metrics_add(m, METRIC_GROUP_session, labels);

	r->since_ns = since_epoch(i->since_ns);
	r->commands = i->commands;
	r->inflight = i->inflight;
	r->read_bytes = i->read_bytes;
	r->written_bytes = i->write_bytes;
	for (int op = 0; op < LUN_CLASS_COUNT; op++)
		r->errors += i->io[op].errors;
	add_session_stage(m, labels, "receive", i->receive_ns);
	add_session_stage(m, labels, "send", i->send_ns);
	add_session_info(m, "iscsi", i->id, i->target, i->address);
}

static void collect_iscsi(struct metrics *m, struct iscsi_server *srv)
{
	const struct iscsi_counters *c = iscsi_server_counters(srv);
	struct iscsi_record *r = metrics_add(m, METRIC_GROUP_iscsi, METRICS_NO_LABELS);
	_cleanup_free_ struct iscsi_session_info *infos = NULL;
	unsigned sessions, logging_in;
	size_t n = 0;

	iscsi_server_gauges(srv, &sessions, &logging_in);
	r->sessions = sessions;
	r->logging_in = logging_in;
#define X(name, help) r->name = metric_read(&c->name);
	ISCSI_COUNTERS(X)
#undef X
	if (iscsi_server_list_sessions(srv, &infos, &n))
		m->failed = true;
	for (size_t i = 0; i < n; i++)
		collect_iscsi_session(m, &infos[i]);
}

static void collect_port_client(struct metrics *m, const struct port_client_info *i)
{
	size_t labels = label_session(m, "port", i->id, i->name);
	struct session_record *s = metrics_add(m, METRIC_GROUP_session, labels);
	struct port_client_record *r = metrics_add(m, METRIC_GROUP_port_client, labels);
	char address[24];

	s->since_ns = since_epoch(i->connected_ns);
	s->commands = i->ops;
	s->inflight = i->inflight;
	s->read_bytes = i->bytes_read;
	s->written_bytes = i->bytes_written;
	s->errors = i->errors;
	r->doorbells = i->doorbells;
	r->wakeups = i->wakeups;
	r->resident = i->resident_bytes;
	snprintf(address, sizeof(address), "pid %d", (int)i->pid);
	add_session_info(m, "port", i->id, i->lun, address);
}

static void collect_port(struct metrics *m, struct port_server *srv)
{
	struct port_record *r = metrics_add(m, METRIC_GROUP_port, METRICS_NO_LABELS);
	_cleanup_free_ struct port_client_info *infos = NULL;
	size_t n = 0;

	port_server_stats(srv, &r->s);
	if (port_server_list(srv, &infos, &n))
		m->failed = true;
	for (size_t i = 0; i < n; i++)
		if (infos[i].lun[0]) /* the others ask for lists only */
			collect_port_client(m, &infos[i]);
}

static void collect_tcmu_session(struct metrics *m, const struct tcmu_device_info *d)
{
	const struct tcmu_session_info *i = &d->session;
	char client[TCMU_BACKSTORE_MAX + 32], address[24];
	struct session_record *s;

	snprintf(client, sizeof(client), "user_%u/%s", d->name.hba, d->name.backstore);
	s = metrics_add(m, METRIC_GROUP_session, label_session(m, "tcmu", d->id, client));
	s->since_ns = since_epoch(i->since_ns);
	s->commands = i->commands;
	s->inflight = i->inflight;
	s->read_bytes = i->read_bytes;
	s->written_bytes = i->written_bytes;
	s->errors = i->errors;
	snprintf(address, sizeof(address), "/dev/uio%u", d->minor);
	add_session_info(m, "tcmu", d->id, d->name.lun, address);
}

static void collect_tcmu(struct metrics *m, struct tcmu_server *srv)
{
	_cleanup_free_ struct tcmu_device_info *infos = NULL;
	struct tcmu_record *r;
	size_t n = 0;

	if (!srv)
		return;
	r = metrics_add(m, METRIC_GROUP_tcmu, METRICS_NO_LABELS);
	if (tcmu_server_list(srv, &infos, &n))
		m->failed = true;
	r->devices = n;
	for (size_t i = 0; i < n; i++) {
		if (!infos[i].open)
			continue;
		r->open++;
		collect_tcmu_session(m, &infos[i]);
	}
}

static void collect_nbd(struct metrics *m, struct nbd_supervisor *nbd)
{
	struct nbd_supervisor_status s;
	struct nbd_record *r;

	if (!nbd)
		return;
	nbd_supervisor_get_status(nbd, &s);
	r = metrics_add(m, METRIC_GROUP_nbd, METRICS_NO_LABELS);
	r->ready = s.ready;
	r->restarts = s.restarts;
}

int metrics_collect(struct metrics *m, struct appliance *app, const struct metrics_self *self)
{
	struct exporter_record *r = metrics_add(m, METRIC_GROUP_exporter, METRICS_NO_LABELS);

	r->scrapes = self->scrapes;
	r->refused = self->refused;
	r->displaced = self->displaced;
	collect_process(m);
	collect_reactors(m, appliance_reactors(app));
	collect_luns(m, appliance_luns(app));
	collect_iscsi(m, appliance_iscsi(app));
	collect_port(m, appliance_port(app));
	collect_tcmu(m, appliance_tcmu(app));
	collect_nbd(m, appliance_nbd(app));
	metrics_collect_memory(m, appliance_memory(app));
	return m->failed || m->labels.failed ? -ENOMEM : 0;
}
