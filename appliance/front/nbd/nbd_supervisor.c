/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbdkit's life, on one reactor:
 *
 *	IDLE --spawn--> STARTING --its pid file arrives--> SERVING
 *	IDLE --adopt--> ADOPTING --it has found the port--> SERVING
 *	ADOPTING --it does not find it in time--> ENDING --it ends--> WAITING
 *	STARTING, ADOPTING, SERVING --it ends--> WAITING --backoff timer--> STARTING
 *	any --stop--> STOPPING --it has ended--> gone
 *	ADOPTING, SERVING --leave--> LEAVING --nothing of ours watches it any more--> gone
 *
 * Each instance has descriptors of ours, each with one op on the ring: a pidfd (polled), the pipe
 * that the pid file is written into (not of one that was adopted), and the FIFO that is its stderr.
 * An instance is over when all have completed for good; only then is the next one started, so ops
 * are never shared.
 *
 * A process is started in two steps, so that none can live unknown: it waits at a gate until its
 * record is written, and ends when we are killed before that. The record lies there as long as the
 * process lives, whatever becomes of us; nbdkit's own end comes with our stop, or from its plugin
 * when no daemon returns. An adopted nbdkit holds listening sockets of a daemon that is dead: they
 * go with it, so its successor has to bind them anew, and tries that again with the backoff.
 *
 * A stop gives nbdkit 2 s to answer what its clients have asked for, then kills it: it would wait
 * for clients that are connected and idle for ever. What it had not answered was not acknowledged.
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
#include "base/completion.h"
#include "base/lock.h"
#include "base/log.h"
#include "front/nbd/nbd_record.h"

#define BACKOFF_MIN_MS 100u
#define BACKOFF_MAX_MS 10000u
#define STABLE_NS      (10 * NSEC_PER_SEC)
#define KILL_NS	       (2 * NSEC_PER_SEC)
#define LINE_MAX_LEN   512u
#define BACKLOG	       128
#define LOOK_NS	       (20 * NSEC_PER_MSEC) /* between looks for an adopted nbdkit at the port */
#define ADOPT_NS       (10 * NSEC_PER_SEC)  /* after which it is not going to come */

enum state { IDLE, STARTING, ADOPTING, SERVING, ENDING, WAITING, STOPPING, LEAVING };

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
	struct nbd_record_place place;
	unsigned n_listeners;

	/* owned by the reactor's thread; of the listeners, the addresses never change */
	struct listen_socket listeners[NBD_LISTEN_MAX];
	enum state state;
	struct nbd_record record; /* of the instance that runs */
	struct watch process, pidfile, errors;
	char pid_text[32], line[LINE_MAX_LEN];
	size_t line_len;
	uint64_t started_ns;
	unsigned backoff_ms;
	bool exited; /* and reaped, if it is our child */
	bool adopted;
	int exit_status;
	struct reactor_timer timer; /* backoff, or the end of patience */
	struct reactor_msg start_msg, stop_msg, leave_msg;
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
		listen_socket_close(&s->listeners[i]);
	watch_close(&s->process);
	watch_close(&s->errors);
	nbd_record_close(&s->place);
	nbd_command_free(&s->command);
	mutex_destroy(&s->lock);
	free(s);
}

static void finish(struct nbd_supervisor *s)
{
	void (*stopped)(void *ctx) = s->stopped;
	void *ctx = s->stopped_ctx;

	reactor_timer_cancel(s->reactor, &s->timer);
	supervisor_free(s);
	stopped(ctx);
}

static void finish_stop(struct nbd_supervisor *s)
{
	nbd_record_remove(&s->place);
	finish(s);
}

/** Goes on once nothing watches nbdkit, which is on record for a successor. */
static void instance_left(struct nbd_supervisor *s)
{
	if (!s->process.armed && !s->errors.armed)
		finish(s);
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
	reactor_timer_cancel(s->reactor, &s->timer);
	watch_close(&s->process);
	watch_close(&s->pidfile);
	watch_close(&s->errors);
	mutex_lock(&s->lock);
	s->status.pid = 0;
	s->status.ready = false;
	s->status.adopted = false;
	s->status.last_status = s->exit_status;
	mutex_unlock(&s->lock);
	if (s->state == STOPPING)
		finish_stop(s);
	else
		schedule(s, s->exit_status);
}

/** Reaps a child of ours; of another's there is nothing to be learnt. Returns whether it ended. */
static bool reap(struct nbd_supervisor *s)
{
	siginfo_t info = {0};

	s->exit_status = 0;
	if (s->adopted)
		return true;
	if (waitid(P_PIDFD, (id_t)s->process.fd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
		return false;
	s->exit_status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status & 0x7f;
	return true;
}

static void process_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct nbd_supervisor *s = container_of(op, struct nbd_supervisor, process.op);

	s->process.armed = false;
	if (s->state == LEAVING) {
		instance_left(s);
		return;
	}
	/* A pidfd that is readable is a process that has ended. */
	if (res < 0 || !(res & POLLIN) || !reap(s)) {
		process_arm(s);
		return;
	}
	s->exited = true;
	/* Something it has left behind may hold its pipes open: do not wait for their end. */
	if (s->pidfile.armed)
		reactor_cancel(s->reactor, &s->pidfile.op);
	if (s->errors.armed)
		reactor_cancel(s->reactor, &s->errors.op);
	instance_over(s);
}

/* --- what it says --- */

static void serve(struct nbd_supervisor *s)
{
	s->state = SERVING;
	set_status(s, s->record.pid, true);
	log_info("nbd.nbdkit.ready", "pid=%d adopted=%d", (int)s->record.pid, s->adopted);
	s->ops.ready(s->ctx);
}

static void pidfile_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct nbd_supervisor *s = container_of(op, struct nbd_supervisor, pidfile.op);

	s->pidfile.armed = false;
	if (res > 0 && s->state == STARTING)
		serve(s);
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
	if (s->state == LEAVING) {
		instance_left(s);
		return;
	}
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

/** Listens on @address; waits up to @patience_ns for who has it now. */
static int listen_on(const char *address, uint64_t patience_ns, struct listen_socket *ret_socket,
		     struct reason *why)
{
	static const struct listen_options opt = {
		.type = SOCK_STREAM, .backlog = BACKLOG, .lasting = true};
	uint64_t until = clock_now_ns() + patience_ns;
	int err;

	do
		err = listen_socket_open(address, &opt, ret_socket, why);
	while (listen_again(err, until));
	return reason_prefix(why, err, "NBD");
}

/** Binds what is not bound: the addresses of an adopted nbdkit that has ended. */
static int bind_again(struct nbd_supervisor *s, struct reason *why)
{
	for (unsigned i = 0; i < s->n_listeners; i++) {
		struct listen_socket *l = &s->listeners[i];
		int err;

		if (l->fd >= 0)
			continue;
		err = listen_on(l->address, 0, l, why);
		if (err)
			return err;
	}
	return 0;
}

/** Starts a process and lets it go once it is on record. */
static int spawn_recorded(struct nbd_supervisor *s, struct reason *why)
{
	_cleanup_close_ int errors = -1;
	struct nbd_process proc;
	int err = bind_again(s, why);

	if (err)
		return err;
	err = nbd_record_open_log(&s->place, &s->errors.fd, &errors);
	if (!err)
		err = nbd_command_spawn(&s->command, s->listeners, s->n_listeners, errors, &proc);
	if (err) {
		watch_close(&s->errors);
		return reason_set(why, -err, "%s", strerror(-err));
	}
	s->process.fd = proc.pidfd;
	s->pidfile.fd = proc.pidfile;
	err = nbd_record_identify(&s->record, proc.pid);
	if (!err)
		err = nbd_record_save(&s->place, &s->record);
	if (err) {
		/* It ends at the gate, which is noticed like any other end. */
		log_error("nbd.record", "path=\"%s\" error=\"%s\"", s->place.path, strerror(-err));
		close(proc.gate);
	} else {
		nbd_command_go(proc.gate);
	}
	return 0;
}

static void watch_instance(struct nbd_supervisor *s, enum state state, bool adopted)
{
	s->state = state;
	s->started_ns = reactor_now(s->reactor);
	s->line_len = 0;
	s->adopted = adopted;
	mutex_lock(&s->lock);
	s->status.pid = s->record.pid;
	s->status.ready = false;
	s->status.adopted = adopted;
	mutex_unlock(&s->lock);
	process_arm(s);
	errors_arm(s);
}

static void spawn(struct nbd_supervisor *s)
{
	struct reason why;

	if (spawn_recorded(s, &why)) {
		log_error("nbd.nbdkit.spawn", "error=\"%s\"", why.text);
		s->started_ns = reactor_now(s->reactor);
		schedule(s, 127 << 8);
		return;
	}
	watch_instance(s, STARTING, false);
	read_arm(s, &s->pidfile, s->pid_text, sizeof(s->pid_text));
}

/** ADOPTING: has it found the port? */
static void look_at_port(struct nbd_supervisor *s)
{
	uint64_t now = reactor_now(s->reactor);

	if (!s->ops.attached || s->ops.attached(s->ctx, s->record.pid)) {
		serve(s);
		return;
	}
	if (now - s->started_ns < ADOPT_NS) {
		reactor_timer_arm(s->reactor, &s->timer, now + LOOK_NS);
		return;
	}
	log_warn("nbd.nbdkit.lost", "pid=%d what=\"does not find the port again\"",
		 (int)s->record.pid);
	s->state = ENDING;
	pidfd_send_signal(s->process.fd, SIGTERM, NULL, 0);
	reactor_timer_arm(s->reactor, &s->timer, now + KILL_NS);
}

static void start_msg(struct reactor_msg *m)
{
	struct nbd_supervisor *s = container_of(m, struct nbd_supervisor, start_msg);

	if (s->process.fd < 0) {
		spawn(s);
		return;
	}
	watch_instance(s, ADOPTING, true);
	look_at_port(s);
}

static void timer_fired(struct reactor_timer *t)
{
	struct nbd_supervisor *s = container_of(t, struct nbd_supervisor, timer);

	if (s->state == ADOPTING) {
		look_at_port(s);
		return;
	}
	if (s->state == STOPPING || s->state == ENDING) {
		log_warn("nbd.nbdkit.kill", "pid=%d", (int)s->record.pid);
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
	bool running = s->state != IDLE && s->state != WAITING;

	s->state = STOPPING;
	reactor_timer_cancel(s->reactor, &s->timer);
	for (unsigned i = 0; i < s->n_listeners; i++)
		listen_socket_close(&s->listeners[i]);
	if (!running) {
		finish_stop(s);
		return;
	}
	if (!s->exited)
		pidfd_send_signal(s->process.fd, SIGTERM, NULL, 0);
	reactor_timer_arm(s->reactor, &s->timer, clock_now_ns() + KILL_NS);
}

static void leave_msg(struct reactor_msg *m)
{
	struct nbd_supervisor *s = container_of(m, struct nbd_supervisor, leave_msg);

	if ((s->state != SERVING && s->state != ADOPTING) || s->exited) {
		stop_msg(&s->stop_msg); /* there is none that a successor could adopt */
		return;
	}
	s->state = LEAVING;
	reactor_timer_cancel(s->reactor, &s->timer);
	log_info("nbd.nbdkit.left", "pid=%d", (int)s->record.pid);
	reactor_cancel(s->reactor, &s->process.op);
	if (s->errors.armed)
		reactor_cancel(s->reactor, &s->errors.op);
}

/**
 * Finds the nbdkit of a daemon before us. Returns whether it is to be adopted: then its process and
 * stderr are open and its addresses taken. One that was started with other options is ended.
 */
static bool find_predecessor(struct nbd_supervisor *s)
{
	struct nbd_record r;
	struct reason why;
	int err = nbd_record_load(&s->place, &r, &why), pidfd;

	if (err == -EINVAL)
		log_warn("nbd.record", "ignored=\"%s\"", why.text);
	if (err || nbd_record_find(&r, &pidfd))
		return false;
	if (r.options == s->command.fingerprint &&
	    nbd_record_open_log(&s->place, &s->errors.fd, NULL) == 0) {
		while (s->n_listeners < r.n_listen) {
			unsigned i = s->n_listeners++;

			listen_socket_adopt(r.listen[i], &s->listeners[i]);
		}
		log_info("nbd.nbdkit.adopted", "pid=%d", (int)r.pid);
		s->process.fd = pidfd;
		s->record = r;
		return true;
	}
	log_info("nbd.nbdkit.replaced", "pid=%d why=\"started with other options\"", (int)r.pid);
	nbd_record_end(&r, pidfd);
	close(pidfd);
	return false;
}

static int open_listeners(struct nbd_supervisor *s, const struct nbd_options *opt,
			  struct reason *why)
{
	while (s->n_listeners < opt->n_listen) {
		struct listen_socket *l = &s->listeners[s->n_listeners];
		int err = listen_on(opt->listen[s->n_listeners], LISTEN_IN_USE_NS, l, why);

		if (err)
			return err;
		s->n_listeners++;
	}
	for (unsigned i = 0; i < s->n_listeners; i++)
		strcpy(s->record.listen[i], s->listeners[i].address);
	s->record.n_listen = s->n_listeners;
	s->record.options = s->command.fingerprint;
	return 0;
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
	s->place.lock = -1;
	s->process = (struct watch){.op.done = process_done, .fd = -1};
	s->pidfile = (struct watch){.op.done = pidfile_done, .fd = -1};
	s->errors = (struct watch){.op.done = errors_done, .fd = -1};
	err = nbd_command_init(&s->command, opt, why);
	if (!err)
		err = nbd_record_open(&s->place, opt->port_socket, why);
	if (!err && !find_predecessor(s))
		err = open_listeners(s, opt, why);
	if (err) {
		supervisor_free(s);
		return err;
	}
	s->reactor = r;
	s->ops = *ops;
	s->ctx = ctx;
	s->backoff_ms = BACKOFF_MIN_MS;
	s->status.last_status = -1;
	s->start_msg.fn = start_msg;
	s->stop_msg.fn = stop_msg;
	s->leave_msg.fn = leave_msg;
	reactor_timer_init(&s->timer, timer_fired);
	reactor_post(r, &s->start_msg);
	*ret_supervisor = s;
	return 0;
}

void nbd_supervisor_stop(struct nbd_supervisor *s, void (*stopped)(void *ctx), void *ctx)
{
	struct completion over;

	if (!s)
		return;
	if (stopped) {
		s->stopped = stopped;
		s->stopped_ctx = ctx;
		reactor_post(s->reactor, &s->stop_msg);
		return;
	}
	completion_init(&over);
	s->stopped = completion_done;
	s->stopped_ctx = &over;
	reactor_post(s->reactor, &s->stop_msg);
	completion_wait(&over);
}

void nbd_supervisor_leave(struct nbd_supervisor *s)
{
	struct completion over;

	if (!s)
		return;
	completion_init(&over);
	s->stopped = completion_done;
	s->stopped_ctx = &over;
	reactor_post(s->reactor, &s->leave_msg);
	completion_wait(&over);
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
