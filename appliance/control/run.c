/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/run.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/server.h"
#include "event/listen_provided.h"
#include "event/listen_socket.h"
#include "lun/lun.h"

/* By this name the service manager knows the sockets that are ours from one daemon to the next. */
#define KEPT "ebb-kept"

/* A message that a reactor answers by running it. */
struct ping {
	struct reactor_msg msg;
	atomic_bool answered;
};

struct watchdog {
	uint64_t interval_us; /* 0: none asked for */
	struct ping *pings;   /* one a reactor */
	unsigned n;
};

static void ping_answer(struct reactor_msg *m)
{
	atomic_store(&container_of(m, struct ping, msg)->answered, true);
}

static void watchdog_init(struct watchdog *w, struct appliance *app)
{
	memset(w, 0, sizeof(*w));
	if (sd_watchdog_enabled(0, &w->interval_us) <= 0) {
		w->interval_us = 0;
		return;
	}
	w->interval_us /= 3;
	w->n = reactor_set_count(appliance_reactors(app));
	w->pings = calloc(w->n, sizeof(*w->pings));
	if (!w->pings) {
		w->n = 0;
		return;
	}
	for (unsigned i = 0; i < w->n; i++) {
		w->pings[i].msg.fn = ping_answer;
		w->pings[i].answered = true;
	}
}

/* Tells the manager that all is well if every reactor has answered, and asks them again. */
static void watchdog_turn(struct watchdog *w, struct appliance *app)
{
	for (unsigned i = 0; i < w->n; i++)
		if (!atomic_load(&w->pings[i].answered))
			return;
	sd_notify(0, "WATCHDOG=1");
	for (unsigned i = 0; i < w->n; i++) {
		atomic_store(&w->pings[i].answered, false);
		reactor_post(reactor_set_get(appliance_reactors(app), i), &w->pings[i].msg);
	}
}

static void keep_socket(int fd)
{
	sd_pid_notify_with_fds(0, 0, "FDSTORE=1\nFDNAME=" KEPT, &fd, 1);
}

/* Takes the @i-th socket, called @name, over. One that we kept and that has ended is no error. */
static int take_socket(int i, const char *name, struct reason *why)
{
	int fd = SD_LISTEN_FDS_START + i;
	bool kept = !strcmp(name, KEPT);
	int ret = listen_provide(fd, !kept, kept ? NULL : why);

	if (ret && kept)
		close(fd);
	return kept ? 0 : reason_prefix(why, ret, "socket '%s' of the service manager", name);
}

int run_take_sockets(struct reason *why)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names), ret = 0;

	if (n < 0)
		return reason_set(why, -n, "LISTEN_FDS: %s", strerror(-n));
	for (int i = 0; i < n; i++) {
		if (!ret)
			ret = take_socket(i, names[i], why);
		free(names[i]);
	}
	free(names);
	listen_socket_set_keeper(keep_socket);
	return ret;
}

static void tell_unused(const char *address)
{
	log_warn("socket.unused", "address=%s reason=\"a socket unit that nothing declares\"",
		 address);
}

static sigset_t our_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	return set;
}

void run_prepare_signals(void)
{
	sigset_t set = our_signals();

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is one LUN's error, not our end */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void reload(struct appliance *app)
{
	struct reason why = {.text = ""};
	struct plan *done;

	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
		   (unsigned long long)(clock_now_ns() / NSEC_PER_USEC));
	if (appliance_apply(app, &done, &why))
		log_error("reload.refused", "reason=\"%s\"", why.text);
	else
		log_info("reload.done", "steps=%zu problems=%zu", done->n, plan_problems(done));
	if (!why.text[0])
		plan_free(done);
	sd_notify(0, "READY=1");
}

/* Answers signals until one says to end. Returns whether a successor follows. */
static bool serve_signals(struct appliance *app, struct watchdog *w)
{
	sigset_t set = our_signals();

	watchdog_init(w, app);
	for (;;) {
		struct timespec ts = {(time_t)(w->interval_us / 1000000),
				      (long)(w->interval_us % 1000000) * 1000};
		int sig = w->interval_us ? sigtimedwait(&set, NULL, &ts) : sigwaitinfo(&set, NULL);

		if (sig < 0 && errno == EAGAIN)
			watchdog_turn(w, app);
		else if (sig == SIGHUP)
			reload(app);
		else if (sig == SIGTERM || sig == SIGINT || sig == SIGUSR1)
			return sig == SIGUSR1;
	}
}

static void log_io_error(const struct lun *lun, const struct lun_io *io)
{
	log_error("lun.io_error", "lun=%s op=%s offset=%llu length=%llu errno=%d error=\"%s\"",
		  lun_name(lun), lun_op_name(io->op), (unsigned long long)io->off,
		  (unsigned long long)io->len, -io->err, strerror(-io->err));
}

int run_appliance(struct config *cfg, const struct run_options *opt, struct reason *why)
{
	struct control_server *srv = NULL;
	struct watchdog watchdog = {0};
	struct appliance *app;
	bool started, successor = false;
	int ret, err;

	log_set_level(cfg->log_level);
	lun_set_error_fn(log_io_error);
	ret = appliance_start(cfg, &opt->appliance, &app, why);
	if (ret) {
		config_free(cfg);
		return ret;
	}
	ret = control_server_start(app, opt->control_socket, &srv, why);
	started = !ret;
	if (started && opt->started)
		ret = opt->started(app, opt->ctx, why);
	if (!ret) {
		listen_provided_settle(tell_unused);
		log_info("started", "version=%s control=%s", EBB_VERSION, opt->control_socket);
		sd_notify(0, "READY=1");
		successor = serve_signals(app, &watchdog);
		sd_notify(0, "STOPPING=1");
		log_info("stopping", "version=%s successor=%d", EBB_VERSION, successor);
	}
	if (successor)
		listen_socket_leave();
	if (started && opt->stopping)
		opt->stopping(app, opt->ctx);
	control_server_stop(srv);
	err = appliance_stop(app, successor);
	free(watchdog.pings); /* only now: one may have been on its way to a reactor */
	if (err && !ret)
		ret = reason_set(why, -err, "a LUN could not be flushed: %s", strerror(-err));
	return ret;
}
