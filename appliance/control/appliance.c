/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Life of the appliance, and changes to it.
 *
 * Start is an apply: a plan from nothing to the declaration. So a LUN that cannot be opened then is
 * the same as one that cannot be opened later: reported, tried again by the next apply, and never
 * dropped from the declaration.
 *
 * Changes hold `changing` (one at a time, they do I/O) and take `lock` only while they alter what
 * readers look at. So a report never waits for a disk.
 */
#include "control/appliance.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/appliance_private.h"
#include "event/worker.h"

#define FDS_PER_LUN  2
#define FDS_OTHER    512
#define GRACE_MS     5000
#define NBD_WAIT_S   20
#define FLUSHERS     8
#define LOCK_WAIT_NS (500 * NSEC_PER_MSEC)

void app_begin_change(struct appliance *app)
{
	mutex_lock(&app->lock);
	while (app->changing)
		mutex_wait(&app->lock, &app->changed);
	app->changing = true;
	mutex_unlock(&app->lock);
}

void app_end_change(struct appliance *app)
{
	mutex_lock(&app->lock);
	app->changing = false;
	pthread_cond_signal(&app->changed);
	mutex_unlock(&app->lock);
}

/* --- plan and apply --- */

/* What is declared now: the file read again, with what commands declared; or our own (not to be
 * freed). */
static int read_declaration(struct appliance *app, struct config **ret_config, struct reason *why)
{
	struct config *cfg;
	int ret;

	if (!app->config_path) {
		*ret_config = app->declared;
		return 0;
	}
	ret = config_load_file(app->config_path, &cfg, why);
	if (ret)
		return ret;
	ret = app_load_commanded(app, cfg, why);
	if (ret) {
		config_free(cfg);
		return ret;
	}
	*ret_config = cfg;
	return 0;
}

static void drop_declaration(struct appliance *app, struct config *cfg)
{
	if (cfg != app->declared)
		config_free(cfg);
}

static int look_at_file(void *ctx, const char *path, uint64_t *ret_size)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	*ret_size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
	return 0;
}

/* Within a change: nobody alters the arrays but us. @notes: what else needs attention. */
static int plan_to(struct appliance *app, const struct config *declared,
		   const struct plan_problem *notes, size_t n_notes, struct plan **ret_plan)
{
	_cleanup_free_ struct plan_lun *luns = calloc(app->n_luns + 1, sizeof(*luns));
	_cleanup_free_ struct plan_target *targets = calloc(app->n_targets + 1, sizeof(*targets));
	struct app_users users;
	struct plan_input in = {
		.declared = declared,
		.luns = luns,
		.n_luns = app->n_luns,
		.targets = targets,
		.n_targets = app->n_targets,
		.portals = (const char *const *)app->portals,
		.n_portals = app->n_portals,
		.lio = app->declared ? &app->declared->lio : NULL,
		.notes = notes,
		.n_notes = n_notes,
		.memory = memory_declared(app->memory),
		.cache_room = memory_cache_room(app->memory, &declared->memory),
		.started_with = app->started_with,
		.look = look_at_file,
	};
	int ret;

	if (!luns || !targets || app_count_users(app, &users))
		return -ENOMEM;
	for (size_t i = 0; i < app->n_luns; i++) {
		struct app_lun *l = app->luns[i];

		luns[i] = (struct plan_lun){&l->spec, lun_size(l->lun),
					    app_lun_users(app, &users, l->spec.name)};
	}
	for (size_t i = 0; i < app->n_targets; i++) {
		struct app_target *t = app->targets[i];

		targets[i] = (struct plan_target){&t->spec, app_target_users(&users, t->spec.iqn)};
	}
	app_free_users(&users);
	ret = plan_make(&in, ret_plan);
	return ret;
}

static void forget_declaration(struct plan_step *s)
{
	s->lun = NULL;
	s->target = NULL;
	s->memory = NULL;
}

int appliance_plan(struct appliance *app, struct plan **ret_plan, struct reason *why)
{
	_cleanup_free_ struct plan_problem *notes = NULL;
	struct config *cfg;
	size_t n;
	int ret;

	app_begin_change(app);
	ret = read_declaration(app, &cfg, why);
	if (!ret) {
		ret = app_lio_problems(app, &notes, &n);
		if (!ret)
			ret = plan_to(app, cfg, notes, n, ret_plan);
		if (ret)
			reason_set(why, -ret, "%s", strerror(-ret));
		drop_declaration(app, cfg);
	}
	app_end_change(app);
	if (!ret) /* steps point into a declaration that may be gone */
		for (size_t i = 0; i < (*ret_plan)->n; i++)
			forget_declaration(&(*ret_plan)->steps[i]);
	return ret;
}

/* Keeps the problems of @p for reports. */
static void note_problems(struct appliance *app, const struct plan *p)
{
	size_t n = plan_problems(p), k = 0;
	struct plan_problem *v = calloc(n + 1, sizeof(*v)), *old;

	for (size_t i = 0; v && i < p->n; i++) {
		if (!p->steps[i].problem[0])
			continue;
		snprintf(v[k].name, sizeof(v[k].name), "%s", p->steps[i].name);
		snprintf(v[k++].text, sizeof(v[0].text), "%s", p->steps[i].problem);
	}
	mutex_lock(&app->lock);
	old = app->problems;
	app->problems = v;
	app->n_problems = v ? n : 0;
	mutex_unlock(&app->lock);
	free(old);
}

static void log_steps(const struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct plan_step *s = &p->steps[i];

		if (s->problem[0])
			log_warn("apply.refused", "action=\"%s\" name=%s reason=\"%s\"",
				 plan_kind_name(s->kind), s->name, s->problem);
		else
			log_info("apply.done", "action=\"%s\" name=%s %s%s%s",
				 plan_kind_name(s->kind), s->name, s->detail[0] ? "detail=\"" : "",
				 s->detail, s->detail[0] ? "\"" : "");
	}
}

/* Within a change. Brings what runs to @cfg, which becomes the declaration. */
static int apply_config(struct appliance *app, struct config *cfg, struct plan **ret_done,
			struct reason *why)
{
	struct config *old;
	struct plan *p;
	int ret = plan_to(app, cfg, NULL, 0, &p);

	if (ret)
		return reason_set(why, -ret, "%s", strerror(-ret));
	mutex_lock(&app->lock);
	old = app->declared == cfg ? NULL : app->declared;
	app->declared = cfg;
	mutex_unlock(&app->lock);
	app_await_lio(app, p);
	app_do_plan(app, p);
	log_set_level(cfg->log_level);
	if (app->lenient || !app->starting) /* else the first problem is the start's reason */
		log_steps(p);
	note_problems(app, p);
	for (size_t i = 0; i < p->n; i++)
		forget_declaration(&p->steps[i]);
	app_lio_changed(app);
	config_free(old);
	*ret_done = p;
	return 0;
}

int appliance_apply(struct appliance *app, struct plan **ret_done, struct reason *why)
{
	struct config *cfg;
	int ret;

	app_begin_change(app);
	ret = read_declaration(app, &cfg, why);
	if (!ret) {
		ret = apply_config(app, cfg, ret_done, why);
		if (ret)
			drop_declaration(app, cfg);
	}
	app_end_change(app);
	return ret;
}

/* --- start --- */

/* A LUN holds its file open; a second one while it is reopened or grown. */
unsigned long long appliance_files_needed(unsigned luns)
{
	return FDS_OTHER + (unsigned long long)luns * FDS_PER_LUN;
}

static int raise_file_limit(const struct config *cfg, struct reason *why)
{
	unsigned long long need = appliance_files_needed(cfg->luns_count);
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return reason_set(why, errno, "RLIMIT_NOFILE: %s", strerror(errno));
	if (lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
		getrlimit(RLIMIT_NOFILE, &lim);
	}
	if (need > lim.rlim_cur)
		return reason_set(why, EMFILE,
				  "%u LUNs need %llu open files, the limit is %llu: raise it "
				  "(LimitNOFILE= of the service, ulimit -Hn)",
				  cfg->luns_count, need, (unsigned long long)lim.rlim_cur);
	return 0;
}

/* mkdir -p, mode 0700 for what it makes. */
static int make_dir(const char *path, struct reason *why)
{
	char part[4096];

	if (strlen(path) >= sizeof(part))
		return reason_set(why, ENAMETOOLONG, "%.200s: too long", path);
	for (const char *p = path; *p;) {
		size_t n;

		p += strspn(p, "/");
		p += strcspn(p, "/");
		n = (size_t)(p - path);
		memcpy(part, path, n);
		part[n] = '\0';
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return reason_set(why, errno, "%.200s: %s", part, strerror(errno));
	}
	return 0;
}

/* Who wrote STATE/lock, for the one who is refused; 0: not told. */
static int read_holder(int fd)
{
	char text[16] = "";

	return pread(fd, text, sizeof(text) - 1, 0) > 0 ? atoi(text) : 0;
}

/*
 * Takes STATE/lock for the life of the process: one appliance has a state directory. Two would
 * overwrite each other's reservations and draw identities twice.
 */
static int lock_state_dir(struct appliance *app, struct reason *why)
{
	uint64_t end = clock_now_ns() + LOCK_WAIT_NS;
	int fd = openat(app->state_dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return reason_set(why, errno, "%.200s/lock: %s", app->state_dir, strerror(errno));
	app->lock_fd = fd;
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return reason_set(why, errno, "%.200s/lock: %s", app->state_dir,
					  strerror(errno));
		if (clock_now_ns() >= end)
			return reason_set(why, EBUSY,
					  "%.200s: another appliance (process %d) uses this state "
					  "directory",
					  app->state_dir, read_holder(fd));
		clock_pause(20 * NSEC_PER_MSEC); /* its holder may just have been killed */
	}
	if (ftruncate(fd, 0) < 0 || dprintf(fd, "%d\n", (int)getpid()) < 0)
		log_debug("state.lock", "reason=\"%s\"", strerror(errno));
	return 0;
}

static int open_state_dir(struct appliance *app, struct reason *why)
{
	int ret = make_dir(app->state_dir, why);

	if (ret)
		return ret;
	app->state_dirfd = open(app->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (app->state_dirfd < 0)
		return reason_set(why, errno, "%s: %s", app->state_dir, strerror(errno));
	return lock_state_dir(app, why);
}

static int start_iscsi(struct appliance *app, const struct config *cfg, struct reason *why)
{
	const struct config_limits *l = &cfg->iscsi.limits;
	const struct config_chap *chap = cfg->iscsi.discovery_chap;
	struct iscsi_server_options opt = {
		.reactors = app->reactors,
		.max_sessions = l->max_sessions,
		.max_sessions_target = l->max_sessions_target,
		.max_unauth = l->max_unauthenticated,
		.max_unauth_address = l->max_unauthenticated_address,
		.login_timeout_ms = l->login_timeout_s * 1000,
		.nop_interval_ms = l->nop_interval_s * 1000,
		.nop_timeout_ms = l->nop_timeout_s * 1000,
		.queue_depth = l->queue_depth,
		.budget = memory_budget(app->memory),
	};
	_cleanup_free_ struct iscsi_chap_user *users = NULL;
	struct iscsi_chap_user self;
	int ret = iscsi_server_create(&opt, &app->iscsi);

	if (ret)
		return reason_set(why, -ret, "iSCSI server: %s", strerror(-ret));
	if (!chap)
		return 0;
	users = calloc(chap->users_count, sizeof(*users));
	if (!users)
		return reason_set(why, ENOMEM, "out of memory");
	for (unsigned i = 0; i < chap->users_count; i++)
		users[i] = (struct iscsi_chap_user){chap->users[i].user, chap->users[i].secret};
	if (chap->mutual)
		self = (struct iscsi_chap_user){chap->mutual->user, chap->mutual->secret};
	return iscsi_server_set_discovery_auth(app->iscsi, users, chap->users_count,
					       chap->mutual ? &self : NULL, chap->algorithms, why);
}

static void nbd_is_ready(void *ctx)
{
	struct appliance *app = ctx;

	mutex_lock(&app->nbd_lock);
	app->nbd_ready = true;
	pthread_cond_signal(&app->nbd_cond);
	mutex_unlock(&app->nbd_lock);
}

static void nbd_has_died(void *ctx, int status, unsigned retry_ms)
{
	log_warn("nbd.died", "status=%d retry_ms=%u", status, retry_ms);
}

static bool nbd_is_attached(void *ctx, pid_t pid)
{
	struct appliance *app = ctx;

	return port_server_has_peer(app->port, pid);
}

/* Starts nbdkit and waits until it serves (or, after a while, goes on without it). */
static int start_nbd(struct appliance *app, const struct config *cfg, struct reason *why)
{
	static const struct nbd_supervisor_ops ops = {
		.ready = nbd_is_ready, .died = nbd_has_died, .attached = nbd_is_attached};
	static const enum nbd_tls tls[] = {NBD_TLS_OFF, NBD_TLS_ON, NBD_TLS_REQUIRE};
	struct nbd_options opt = {
		.n_listen = cfg->nbd.listen_count,
		.port_socket = app->port_socket,
		.nbdkit = cfg->nbd.nbdkit,
		.default_export = cfg->nbd.default_export,
		.threads = cfg->nbd.threads,
		.tls = tls[cfg->nbd.tls.mode],
		.tls_certificates = cfg->nbd.tls.certificates,
		.tls_psk = cfg->nbd.tls.psk,
		.tls_verify_peer = cfg->nbd.tls.verify_peer,
	};
	struct timespec until;
	int ret;

	for (unsigned i = 0; i < opt.n_listen; i++)
		opt.listen[i] = cfg->nbd.listen[i];
	ret = nbd_supervisor_start(reactor_set_get(app->reactors, 0), &opt, &ops, app, &app->nbd,
				   why);
	if (ret)
		return ret;
	until = clock_deadline(NBD_WAIT_S * NSEC_PER_SEC);
	mutex_lock(&app->nbd_lock);
	while (!app->nbd_ready && !ret)
		ret = pthread_cond_timedwait(&app->nbd_cond, &app->nbd_lock.m, &until);
	mutex_unlock(&app->nbd_lock);
	if (!ret)
		return 0;
	if (!app->lenient)
		return reason_set(why, ETIMEDOUT, "nbdkit does not serve after %d s", NBD_WAIT_S);
	log_warn("nbd.late", "waited_s=%d", NBD_WAIT_S);
	return 0;
}

/* Finds the first thing that a start which must be whole could not do. */
static int check_whole(const struct plan *p, struct reason *why)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct plan_step *s = &p->steps[i];

		if (s->problem[0] && !strncmp(s->problem, s->name, strlen(s->name)))
			return reason_set(why, EIO, "%s",
					  s->problem); /* it says what it is about */
		if (s->problem[0])
			return reason_set(why, EIO, "%s: %s", s->name, s->problem);
	}
	return 0;
}

static int start_parts(struct appliance *app, struct config *cfg, const char *pressure,
		       struct reason *why)
{
	struct reactor_options ropt = {.spin_us = 20, .name = "ebb"};
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned threads = cfg->threads ? cfg->threads : cores > 0 ? (unsigned)cores : 1;
	/*
	 * Clients that come back after a restart must not find that their LUN is not there yet;
	 * initiators come after them, when portals listen (app_let_replays_in).
	 */
	struct port_options popt = {.path = app->port_socket, .gid = (gid_t)-1, .held = true};
	struct plan *done;
	int ret;

	if (cfg->tcmu)
		tcmu_prepare_process();
	ret = memory_start(cfg, pressure, &app->memory, why);
	if (ret)
		return ret;
	ret = reactor_set_start(threads, &ropt, &app->reactors);

	if (ret)
		return reason_set(why, -ret, "cannot start %u reactors: %s", threads,
				  strerror(-ret));
	ret = memory_add_reactors(app->memory, app->reactors);
	if (!ret)
		ret = lun_table_create(&app->table);
	if (ret)
		return reason_set(why, -ret, "%s", strerror(-ret));
	ret = start_iscsi(app, cfg, why);
	if (ret)
		return ret;
	popt.set = app->reactors;
	popt.luns = app->table;
	popt.budget = memory_budget(app->memory);
	ret = port_server_start(&popt, &app->port, why);
	if (ret)
		return ret;
	ret = memory_add_port(app->memory, app->port);
	if (ret)
		return reason_set(why, -ret, "out of memory");
	if (cfg->tcmu)
		ret = app_start_tcmu(app, why);
	if (!ret)
		ret = apply_config(app, cfg, &done, why);
	if (ret)
		return ret;
	if (!app->lenient)
		ret = check_whole(done, why);
	plan_free(done);
	if (ret)
		return ret;
	app_let_replays_in(app);
	if (cfg->nbd.listen_count)
		ret = start_nbd(app, cfg, why);
	return ret;
}

static void free_appliance(struct appliance *app)
{
	if (app->state_dirfd >= 0)
		close(app->state_dirfd);
	if (app->lock_fd >= 0)
		close(app->lock_fd); /* last: nothing of ours touches the directory any more */
	free(app->config_path);
	free(app->state_dir);
	free(app->port_socket);
	free(app->problems);
	mutex_destroy(&app->lock);
	mutex_destroy(&app->nbd_lock);
	mutex_destroy(&app->lio_lock);
	free(app->lio_problems);
	pthread_cond_destroy(&app->changed);
	pthread_cond_destroy(&app->nbd_cond);
	free(app);
}

/* Ends what start_parts() began, whatever it came to. */
static void stop_parts(struct appliance *app, bool successor)
{
	if (successor)
		nbd_supervisor_leave(app->nbd);
	else
		nbd_supervisor_stop(app->nbd, NULL, NULL);
	if (app->iscsi)
		iscsi_server_shutdown(app->iscsi, successor ? 0 : GRACE_MS);
	app_stop_tcmu(app);
	memory_remove_port(app->memory);
	if (app->port)
		port_server_stop(app->port, NULL, NULL);
}

static void free_parts(struct appliance *app)
{
	iscsi_server_destroy(app->iscsi);
	app_drop_all(app);
	if (app->table)
		lun_table_destroy(app->table);
	worker_drain();
	memory_remove_reactors(app->memory);
	if (app->reactors)
		reactor_set_stop(app->reactors);
	worker_drain(); /* LUNs that reactors have given up now */
	memory_stop(app->memory);
}

static struct appliance *new_appliance(const struct appliance_options *opt)
{
	struct appliance *app = calloc(1, sizeof(*app));

	if (!app)
		return NULL;
	mutex_init(&app->lock, LOCK_RANK_CONTROL);
	mutex_init(&app->nbd_lock, LOCK_RANK_LEAF);
	mutex_init(&app->lio_lock, LOCK_RANK_LEAF);
	pthread_cond_init(&app->changed, NULL);
	pthread_cond_init(&app->nbd_cond, NULL);
	app->state_dirfd = app->lock_fd = -1;
	app->lenient = opt->lenient;
	app->start_ns = clock_now_ns();
	app->config_path = opt->config_path ? strdup(opt->config_path) : NULL;
	app->state_dir = strdup(opt->state_dir);
	app->port_socket = strdup(opt->port_socket);
	if (app->state_dir && app->port_socket && (!opt->config_path || app->config_path))
		return app;
	free_appliance(app);
	return NULL;
}

int appliance_start(struct config *cfg, const struct appliance_options *opt,
		    struct appliance **ret_app, struct reason *why)
{
	struct appliance *app = new_appliance(opt);
	int ret;

	if (!app)
		return reason_set(why, ENOMEM, "out of memory");
	app->starting = true;
	ret = open_state_dir(app, why);
	if (!ret && app->config_path)
		ret = config_load_file(app->config_path, &app->started_with, why);
	if (!ret && app->config_path)
		ret = app_load_commanded(app, cfg, why);
	if (!ret)
		ret = raise_file_limit(cfg, why);
	if (!ret)
		ret = start_parts(app, cfg, opt->pressure, why);
	app->starting = false;
	if (ret) {
		stop_parts(app, false);
		free_parts(app);
		config_free(app->started_with);
		free_appliance(app);
		return ret;
	}
	*ret_app = app;
	return 0;
}

/* --- stop --- */

struct flushers {
	struct lun **luns;
	size_t n;
	_Atomic size_t next;
	_Atomic int err;
};

static void *flusher_main(void *arg)
{
	struct flushers *f = arg;
	size_t i;

	while ((i = atomic_fetch_add(&f->next, 1)) < f->n) {
		struct lun_io io = {.op = LUN_FLUSH, .reg_index = -1};
		int ret;

		if (lun_read_only(f->luns[i]))
			continue;
		io.flags = LUN_IO_AUTHORIZED;
		ret = lun_run(f->luns[i], &io);
		if (!ret)
			continue;
		log_error("lun.flush.failed", "name=%s reason=\"%s\"", lun_name(f->luns[i]),
			  strerror(-ret));
		atomic_store(&f->err, ret);
	}
	return NULL;
}

/* Flushes every LUN, several at a time. */
static int flush_all(struct appliance *app)
{
	struct flushers f = {0};
	pthread_t thread[FLUSHERS];
	unsigned started = 0;

	if (lun_table_list(app->table, &f.luns, &f.n))
		return -ENOMEM;
	while (started < FLUSHERS && started + 1 < f.n &&
	       !pthread_create(&thread[started], NULL, flusher_main, &f))
		started++;
	flusher_main(&f);
	while (started)
		pthread_join(thread[--started], NULL);
	lun_table_free_list(f.luns, f.n);
	return atomic_load(&f.err);
}

int appliance_stop(struct appliance *app, bool successor)
{
	int ret;

	app_begin_change(app);
	stop_parts(app, successor);
	ret = flush_all(app);
	free_parts(app);
	app_end_change(app);
	config_free(app->declared);
	config_free(app->started_with);
	free_appliance(app);
	return ret;
}

struct reactor *appliance_control_reactor(struct appliance *app)
{
	return reactor_set_get(app->reactors, 0);
}

struct reactor_set *appliance_reactors(struct appliance *app)
{
	return app->reactors;
}

struct memory *appliance_memory(struct appliance *app)
{
	return app->memory;
}

struct lun_table *appliance_luns(struct appliance *app)
{
	return app->table;
}

struct iscsi_server *appliance_iscsi(struct appliance *app)
{
	return app->iscsi;
}

struct port_server *appliance_port(struct appliance *app)
{
	return app->port;
}

struct nbd_supervisor *appliance_nbd(struct appliance *app)
{
	return app->nbd;
}

struct tcmu_server *appliance_tcmu(struct appliance *app)
{
	return app->tcmu;
}

const struct config *appliance_started_with(struct appliance *app)
{
	/* Where no file declares, the declaration is never replaced. */
	return app->started_with ? app->started_with : app->declared;
}
