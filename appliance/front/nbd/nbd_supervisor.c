/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbdkit's life, on one reactor:
 *
 *	IDLE --spawn--> STARTING --its pid file arrives--> SERVING
 *	STARTING, SERVING --it ends--> WAITING --backoff timer--> STARTING
 *	any --stop--> STOPPING --it has ended--> gone
 *
 * Each instance has three descriptors of ours, each with one op on the ring: a pidfd (polled), the
 * pipe that the pid file is written into, and the pipe that is its stderr. An instance is over when
 * all three have completed for good; only then is the next one started, so ops are never shared.
 *
 * A stop gives nbdkit 2 s to answer what its clients have asked for, then kills it: it would wait
 *for clients that are connected and idle for ever. What it had not answered was not acknowledged.
 *
 * The backoff starts at 100 ms and doubles up to 10 s; an instance that served for 10 s resets it.
 * The child is started through sh, because LISTEN_PID must hold the pid of the process that
 * becomes nbdkit; it has a process group of its own, so that a terminal's ^C reaches the daemon
 * alone, and the daemon ends it in order.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "front/nbd/nbd_private.h"

#define BACKOFF_MIN_MS 100u
#define BACKOFF_MAX_MS 10000u
#define STABLE_NS      (10 * NSEC_PER_SEC)
#define KILL_NS	       (2 * NSEC_PER_SEC)
#define LINE_MAX_LEN   512u

enum state { IDLE, STARTING, SERVING, WAITING, STOPPING };

/** A descriptor that is read or polled on the ring. */
struct watch {
	struct reactor_op op;
	int fd; /* -1: none */
	bool armed;
};

struct nbd_supervisor {
	/* constant after start */
	struct reactor *reactor;
	struct nbd_supervisor_ops ops;
	void *ctx;
	struct nbd_command command;
	struct nbd_listener listeners[NBD_LISTEN_MAX];
	unsigned n_listeners;

	/* owned by the reactor's thread */
	enum state state;
	struct watch process, pidfile, errors;
	char pid_text[32], line[LINE_MAX_LEN];
	size_t line_len;
	uint64_t started_ns;
	unsigned backoff_ms;
	bool exited; /* reaped */
	int exit_status;
	struct reactor_timer timer; /* backoff, or the end of patience */
	struct reactor_msg start_msg, stop_msg;
	void (*stopped)(void *ctx);
	void *stopped_ctx;

	/* under lock */
	struct mutex lock;
	struct nbd_supervisor_status status;
};

static void spawn(struct nbd_supervisor *s);

static void set_status(struct nbd_supervisor *s, pid_t pid, bool ready)
{
	mutex_scope(&s->lock);
	s->status.pid = pid;
	s->status.ready = ready;
}

/* --- watches --- */

static void watch_close(struct watch *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

static void read_arm(struct nbd_supervisor *s, struct watch *w, char *buf, size_t size)
{
	w->armed = true;
	io_uring_prep_read(reactor_sqe(s->reactor, &w->op), w->fd, buf, (unsigned)size, 0);
}

static void process_arm(struct nbd_supervisor *s)
{
	s->process.armed = true;
	io_uring_prep_poll_add(reactor_sqe(s->reactor, &s->process.op), s->process.fd, POLLIN);
}

/* --- the end of an instance --- */

static void supervisor_free(struct nbd_supervisor *s)
{
	for (unsigned i = 0; i < s->n_listeners; i++)
		nbd_listener_close(&s->listeners[i]);
	nbd_command_free(&s->command);
	mutex_destroy(&s->lock);
	free(s);
}

static void finish_stop(struct nbd_supervisor *s)
{
	void (*stopped)(void *ctx) = s->stopped;
	void *ctx = s->stopped_ctx;

	reactor_timer_cancel(s->reactor, &s->timer);
	supervisor_free(s);
	stopped(ctx);
}

static void schedule(struct nbd_supervisor *s, int status)
{
	unsigned ms;

	if (reactor_now(s->reactor) - s->started_ns > STABLE_NS)
		s->backoff_ms = BACKOFF_MIN_MS;
	ms = s->backoff_ms;
	s->backoff_ms = ms * 2 < BACKOFF_MAX_MS ? ms * 2 : BACKOFF_MAX_MS;
	s->state = WAITING;
	reactor_timer_arm(s->reactor, &s->timer, clock_now_ns() + ms * NSEC_PER_MSEC);
	log_warn("nbd.nbdkit.ended", "%s=%d retry_ms=%u", WIFSIGNALED(status) ? "signal" : "exit",
		 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), ms);
	if (s->ops.died)
		s->ops.died(s->ctx, status, ms);
}

/** Goes on once the process has been reaped and its pipes have been read to their ends. */
static void instance_over(struct nbd_supervisor *s)
{
	if (!s->exited || s->process.armed || s->pidfile.armed || s->errors.armed)
		return;
	s->exited = false;
	watch_close(&s->process);
	watch_close(&s->pidfile);
	watch_close(&s->errors);
	mutex_lock(&s->lock);
	s->status.pid = 0;
	s->status.ready = false;
	s->status.last_status = s->exit_status;
	mutex_unlock(&s->lock);
	if (s->state == STOPPING)
		finish_stop(s);
	else
		schedule(s, s->exit_status);
}

static void process_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct nbd_supervisor *s = container_of(op, struct nbd_supervisor, process.op);
	siginfo_t info = {0};

	s->process.armed = false;
	if (waitid(P_PIDFD, (id_t)s->process.fd, &info, WEXITED | WNOHANG) < 0 ||
	    info.si_pid == 0) {
		process_arm(s);
		return;
	}
	s->exit_status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status & 0x7f;
	s->exited = true;
	/* Something it has left behind may hold its pipes open: do not wait for their end. */
	if (s->pidfile.armed)
		reactor_cancel(s->reactor, &s->pidfile.op);
	if (s->errors.armed)
		reactor_cancel(s->reactor, &s->errors.op);
	instance_over(s);
}

/* --- what it says --- */

static void pidfile_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct nbd_supervisor *s = container_of(op, struct nbd_supervisor, pidfile.op);

	s->pidfile.armed = false;
	if (res > 0 && s->state == STARTING) {
		s->state = SERVING;
		set_status(s, s->status.pid, true);
		log_info("nbd.nbdkit.ready", "pid=%d", (int)s->status.pid);
		s->ops.ready(s->ctx);
	}
	instance_over(s);
}

static void log_line(struct nbd_supervisor *s, const char *line)
{
	static const char prefix[] = "nbdkit: ";

	if (strncmp(line, prefix, sizeof(prefix) - 1) == 0)
		line += sizeof(prefix) - 1;
	if (line[0])
		log_warn("nbd.nbdkit", "pid=%d says=\"%s\"", (int)s->status.pid, line);
}

/** Logs the complete lines in s->line, and one that fills it, and keeps the rest. */
static void log_lines(struct nbd_supervisor *s)
{
	char *line = s->line, *end;

	s->line[s->line_len] = '\0';
	while ((end = strchr(line, '\n'))) {
		*end = '\0';
		log_line(s, line);
		line = end + 1;
	}
	if (line == s->line && s->line_len == sizeof(s->line) - 1) {
		log_line(s, line);
		line += s->line_len;
	}
	s->line_len -= (size_t)(line - s->line);
	memmove(s->line, line, s->line_len);
}

static void errors_arm(struct nbd_supervisor *s)
{
	read_arm(s, &s->errors, s->line + s->line_len, sizeof(s->line) - 1 - s->line_len);
}

static void errors_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct nbd_supervisor *s = container_of(op, struct nbd_supervisor, errors.op);

	s->errors.armed = false;
	if (res > 0) {
		char *nul;

		/* A NUL would hide what comes behind it. */
		while ((nul = memchr(s->line + s->line_len, '\0', (size_t)res)))
			*nul = '?';
		s->line_len += (size_t)res;
		log_lines(s);
		errors_arm(s);
		if (s->exited)
			reactor_cancel(s->reactor, &s->errors.op);
		return;
	}
	instance_over(s);
}

/* --- start and stop --- */

static void spawn(struct nbd_supervisor *s)
{
	struct nbd_process proc;
	int err = nbd_command_spawn(&s->command, s->listeners, s->n_listeners, &proc);

	if (err) {
		log_error("nbd.nbdkit.spawn", "error=\"%s\"", strerror(-err));
		s->started_ns = reactor_now(s->reactor);
		schedule(s, 127 << 8);
		return;
	}
	s->state = STARTING;
	s->started_ns = reactor_now(s->reactor);
	s->line_len = 0;
	set_status(s, proc.pid, false);
	s->process.fd = proc.pidfd;
	s->pidfile.fd = proc.pidfile;
	s->errors.fd = proc.errors;
	process_arm(s);
	read_arm(s, &s->pidfile, s->pid_text, sizeof(s->pid_text));
	errors_arm(s);
}

static void start_msg(struct reactor_msg *m)
{
	spawn(container_of(m, struct nbd_supervisor, start_msg));
}

static void timer_fired(struct reactor_timer *t)
{
	struct nbd_supervisor *s = container_of(t, struct nbd_supervisor, timer);

	if (s->state == STOPPING) {
		log_warn("nbd.nbdkit.kill", "pid=%d", (int)s->status.pid);
		pidfd_send_signal(s->process.fd, SIGKILL, NULL, 0);
		return;
	}
	mutex_lock(&s->lock);
	s->status.restarts++;
	mutex_unlock(&s->lock);
	spawn(s);
}

static void stop_msg(struct reactor_msg *m)
{
	struct nbd_supervisor *s = container_of(m, struct nbd_supervisor, stop_msg);
	bool running = s->state == STARTING || s->state == SERVING;

	s->state = STOPPING;
	reactor_timer_cancel(s->reactor, &s->timer);
	for (unsigned i = 0; i < s->n_listeners; i++)
		nbd_listener_close(&s->listeners[i]);
	if (!running) {
		finish_stop(s);
		return;
	}
	if (!s->exited)
		pidfd_send_signal(s->process.fd, SIGTERM, NULL, 0);
	reactor_timer_arm(s->reactor, &s->timer, clock_now_ns() + KILL_NS);
}

int nbd_supervisor_start(struct reactor *r, const struct nbd_options *opt,
			 const struct nbd_supervisor_ops *ops, void *ctx,
			 struct nbd_supervisor **ret_supervisor, struct reason *why)
{
	struct nbd_supervisor *s;
	int err;

	if (opt->n_listen < 1 || opt->n_listen > NBD_LISTEN_MAX)
		return reason_set(why, EINVAL, "NBD: from 1 to %d addresses", NBD_LISTEN_MAX);
	s = calloc(1, sizeof(*s));
	if (!s)
		return reason_set(why, ENOMEM, "out of memory");
	mutex_init(&s->lock, LOCK_RANK_FRONT);
	err = nbd_command_init(&s->command, opt, why);
	while (!err && s->n_listeners < opt->n_listen) {
		err = nbd_listener_open(&s->listeners[s->n_listeners], opt->listen[s->n_listeners],
					why);
		s->n_listeners += !err;
	}
	if (err) {
		supervisor_free(s);
		return err;
	}
	s->reactor = r;
	s->ops = *ops;
	s->ctx = ctx;
	s->backoff_ms = BACKOFF_MIN_MS;
	s->status.last_status = -1;
	s->process = (struct watch){.op.done = process_done, .fd = -1};
	s->pidfile = (struct watch){.op.done = pidfile_done, .fd = -1};
	s->errors = (struct watch){.op.done = errors_done, .fd = -1};
	s->start_msg.fn = start_msg;
	s->stop_msg.fn = stop_msg;
	reactor_timer_init(&s->timer, timer_fired);
	/* nbdkit ends with the thread that started it, so it is started by one that stays. */
	reactor_post(r, &s->start_msg);
	*ret_supervisor = s;
	return 0;
}

struct stop_waiter {
	struct mutex lock;
	pthread_cond_t cond;
	bool done;
};

static void stop_wake(void *ctx)
{
	struct stop_waiter *w = ctx;

	mutex_scope(&w->lock);
	w->done = true;
	pthread_cond_signal(&w->cond);
}

void nbd_supervisor_stop(struct nbd_supervisor *s, void (*stopped)(void *ctx), void *ctx)
{
	struct stop_waiter w = {.cond = PTHREAD_COND_INITIALIZER};

	if (!s)
		return;
	if (stopped) {
		s->stopped = stopped;
		s->stopped_ctx = ctx;
		reactor_post(s->reactor, &s->stop_msg);
		return;
	}
	mutex_init(&w.lock, LOCK_RANK_LEAF);
	s->stopped = stop_wake;
	s->stopped_ctx = &w;
	reactor_post(s->reactor, &s->stop_msg);
	mutex_lock(&w.lock);
	while (!w.done)
		mutex_wait(&w.lock, &w.cond);
	mutex_unlock(&w.lock);
	mutex_destroy(&w.lock);
}

const char *nbd_supervisor_address(const struct nbd_supervisor *s, unsigned i)
{
	return i < s->n_listeners ? s->listeners[i].address : NULL;
}

void nbd_supervisor_get_status(struct nbd_supervisor *s, struct nbd_supervisor_status *ret_status)
{
	mutex_scope(&s->lock);
	*ret_status = s->status;
}
