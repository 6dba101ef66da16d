/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel notifies for each command. The first notification has the reactor look at the ring in
 * every turn, until it goes to sleep, and only then the device is watched again: who is awake finds
 * commands by looking, and neither side pays for a notification that nobody needs.
 *
 * All that ended in a turn is told with one kick. A kick makes the kernel copy what was read, on
 * the thread that kicks. Where that is much, another thread does it, and the next commands are
 * carried out meanwhile.
 *
 * A command that must not be carried out twice keeps its entry until it has ended (tcmu_ring.h). If
 * that is the next to be given back, what else has ended waits. It does not wait for others itself:
 * its answer, too, goes into whatever entry is next.
 */
#include "front/tcmu/tcmu_session_private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "front/tcmu/tcmu_guard.h"

#define BATCH	   64u		/* commands taken in a row: others want their turn too */
#define ASIDE	   (128u << 10) /* bytes that are worth another thread to copy them */
#define IDLE_TURNS 256u /* after which the ring is not looked at before the next notification */

static void try_end(struct tcmu_session *s);

void tcmu_session_fail(struct tcmu_session *s, const char *what)
{
	if (s->broken)
		return;
	log_error("tcmu.broken", "device=%s reason=\"%s\"", s->name, what);
	s->broken = what;
	reactor_poller_remove(&s->poller);
	if (s->state == TCMU_RUNNING)
		s->state = TCMU_DRAINING;
	if (s->armed)
		reactor_cancel(s->reactor, &s->poll_op);
	reactor_defer(s->reactor, &s->kick); /* which goes on with the end */
}

/* --- telling the kernel --- */

static void aside_run(struct worker_job *j)
{
	tcmu_kernel_kick(&container_of(j, struct tcmu_session, aside)->channel);
}

static void aside_done(struct worker_job *j)
{
	struct tcmu_session *s = container_of(j, struct tcmu_session, aside);

	s->kicking = false;
	reactor_defer(s->reactor, &s->kick); /* what has ended meanwhile */
}

static void kick(struct reactor_task *t)
{
	struct tcmu_session *s = container_of(t, struct tcmu_session, kick);

	if (s->kicking)
		return;
	s->kicking = s->owed && s->owed_bytes >= ASIDE;
	if (s->kicking)
		worker_submit(&s->aside);
	else if (s->owed)
		tcmu_kernel_kick(&s->channel);
	s->owed = false;
	s->owed_bytes = 0;
	try_end(s);
}

/* Whose answer may go into the next entry; NULL: nobody's. */
static struct tcmu_cmd *next_to_tell(struct tcmu_session *s)
{
	struct tcmu_cmd *first;

	if (!s->broken && !list_empty(&s->once)) {
		first = container_of(s->once.next, struct tcmu_cmd, once_link);
		if (tcmu_ring_is_next(&s->ring, first->at))
			return first->ended ? first : NULL;
	}
	return list_empty(&s->untold) ? NULL : container_of(s->untold.next, struct tcmu_cmd, link);
}

static void tell(struct tcmu_cmd *c)
{
	struct tcmu_session *s = c->session;
	const char *what;

	if (!s->broken && tcmu_ring_complete(&s->ring, &c->result, &what))
		tcmu_session_fail(s, what);
	s->owed = true;
	s->owed_bytes += c->result.read_len;
	list_del(&c->link);
	list_del(&c->once_link);
	atomic_store_explicit(&s->inflight, --s->n_live, memory_order_relaxed);
	tcmu_command_put(c);
	reactor_defer(s->reactor, &s->kick);
}

void tcmu_session_tell(struct tcmu_cmd *c)
{
	struct tcmu_session *s = c->session;

	c->ended = true;
	list_del(&c->link);
	list_add_tail(&s->untold, &c->link);
	while ((c = next_to_tell(s)))
		tell(c);
}

void tcmu_session_ended_one(struct tcmu_session *s)
{
	tcmu_abort_check(s);
	if (s->state == TCMU_RUNNING) {
		if (tcmu_ring_ready(&s->ring))
			reactor_poller_add(s->reactor, &s->poller);
	} else if (list_empty(&s->live)) {
		reactor_defer(s->reactor, &s->kick); /* not here: the caller is not through */
	}
}

/* --- taking commands --- */

static bool has_work(struct reactor_poller *p)
{
	const struct tcmu_session *s = container_of(p, struct tcmu_session, poller);

	return (s->n_live < TCMU_DEPTH && tcmu_ring_ready(&s->ring)) ||
	       tcmu_guard_hit(s->channel.guard);
}

/*
 * Has the device watched: what comes from now on is told. A device that is not read stays readable,
 * so it is read first; then the ring is looked at once more, by the caller.
 */
static void watch(struct tcmu_session *s)
{
	uint32_t count;

	if (s->armed)
		return;
	while (read(s->channel.fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
	s->armed = true;
	io_uring_prep_poll_add(reactor_sqe(s->reactor, &s->poll_op), s->channel.fd, POLLIN);
}

static bool may_sleep(struct reactor_poller *p)
{
	watch(container_of(p, struct tcmu_session, poller));
	return !has_work(p);
}

static void work(struct reactor_poller *p)
{
	struct tcmu_session *s = container_of(p, struct tcmu_session, poller);
	const char *what = NULL;
	struct tcmu_entry e;
	bool starved = false;
	struct tcmu_cmd *c;
	unsigned n = 0;
	int got = 0;

	if (tcmu_guard_hit(s->channel.guard))
		tcmu_session_fail(s, "the kernel took back data that were in use");
	for (; n < BATCH && s->state == TCMU_RUNNING && s->n_live < TCMU_DEPTH; n++) {
		c = tcmu_command_get(s);
		starved = !c; /* then commands wait in the ring, and we look again */
		if (starved)
			break;
		got = tcmu_ring_take(&s->ring, &e, &what);
		if (got == TCMU_TAKEN_CMD)
			tcmu_command_start(c, &e);
		else
			tcmu_command_put(c);
		if (got == TCMU_TAKEN_TMR)
			tcmu_abort_take(s, &e);
		else if (got != TCMU_TAKEN_CMD)
			break;
	}
	if (got < 0)
		tcmu_session_fail(s, what);
	s->idle_turns = n || starved ? 0 : s->idle_turns + 1;
	if (s->idle_turns >= IDLE_TURNS && s->state == TCMU_RUNNING && may_sleep(p))
		reactor_poller_remove(p);
}

static void notified(struct reactor_op *op, int res, uint32_t flags)
{
	struct tcmu_session *s = container_of(op, struct tcmu_session, poll_op);

	s->armed = false;
	if (s->state == TCMU_RUNNING && res < 0 && res != -EINTR && res != -EAGAIN &&
	    res != -ECANCELED)
		tcmu_session_fail(s, "its device cannot be watched");
	else if (s->state == TCMU_RUNNING && res > 0 && res & (POLLERR | POLLHUP))
		tcmu_session_fail(s, "the kernel has taken the device away");
	if (s->state != TCMU_RUNNING) {
		try_end(s);
		return;
	}
	s->idle_turns = 0;
	reactor_poller_add(s->reactor, &s->poller);
}

/* --- life --- */

static void session_free(struct reactor_msg *m)
{
	struct tcmu_session *s = container_of(m, struct tcmu_session, free_msg);

	free(s->name);
	free(s);
}

static void tell_owner(struct reactor_msg *m)
{
	struct tcmu_session *s = container_of(m, struct tcmu_session, ended_msg);

	s->ended(s, s->broken);
}

/* What may block: unmapping, closing, and the end of a LUN that was removed. */
static void release_run(struct worker_job *j)
{
	struct tcmu_session *s = container_of(j, struct tcmu_session, release);

	tcmu_kernel_close(&s->channel);
	scsi_target_unmap(s->target, 0);
	scsi_target_unref(s->target);
}

static void release_done(struct worker_job *j)
{
	struct tcmu_session *s = container_of(j, struct tcmu_session, release);

	s->state = TCMU_ENDED;
	reactor_post(s->home, &s->ended_msg);
}

/* Goes on with the end of a session that drains, once nothing can call it back. */
static void try_end(struct tcmu_session *s)
{
	if (s->state != TCMU_DRAINING || !list_empty(&s->live) || s->n_tmfs || s->armed ||
	    s->kicking || !list_empty(&s->kick.link))
		return;
	if (s->attached)
		scsi_nexus_detach(&s->nexus);
	s->attached = false;
	/* From now on no abort comes; those on their way are waited for. */
	if (atomic_load(&s->aborts_posted))
		return;
	s->state = TCMU_RELEASING;
	tcmu_command_free_spare(s);
	s->release = (struct worker_job){
		.run = release_run, .done = release_done, .reactor = s->reactor};
	worker_submit(&s->release);
}

static void stop_run(struct reactor_msg *m)
{
	struct tcmu_session *s = container_of(m, struct tcmu_session, stop_msg);

	if (s->state != TCMU_RUNNING)
		return;
	s->state = TCMU_DRAINING;
	reactor_poller_remove(&s->poller);
	if (s->armed)
		reactor_cancel(s->reactor, &s->poll_op);
	try_end(s);
}

static void start_run(struct reactor_msg *m)
{
	struct tcmu_session *s = container_of(m, struct tcmu_session, start_msg);

	scsi_nexus_attach(&s->nexus);
	s->attached = true;
	/* What an earlier process has ended, the kernel may not have seen. */
	s->owed = true;
	reactor_defer(s->reactor, &s->kick);
	reactor_poller_add(s->reactor, &s->poller);
}

static int make_target(struct tcmu_session *s, struct scsi_lu *lu)
{
	int err = scsi_target_create(s->name, &s->target);

	if (!err)
		err = scsi_target_map(s->target, 0, lu);
	if (err)
		return err;
	s->nexus.ops = &tcmu_nexus_ops;
	s->nexus.protocol = "tcmu";
	s->nexus.target = s->target;
	s->nexus.reactor = s->reactor;
	s->nexus.rel_port = 1;
	s->nexus.counters = &s->counters;
	s->nexus.seamless = true;
	return 0;
}

static void init(struct tcmu_session *s, const struct tcmu_session_options *opt)
{
	s->reactor = opt->reactor;
	s->home = opt->home;
	s->channel = opt->channel;
	s->ended = opt->ended;
	s->owner = opt->owner;
	s->since_ns = clock_now_ns();
	s->poll_op.done = notified;
	s->poller = (struct reactor_poller){.ready = has_work, .run = work, .sleep = may_sleep};
	list_init(&s->poller.link);
	reactor_task_init(&s->kick, kick);
	s->aside = (struct worker_job){.run = aside_run, .done = aside_done, .reactor = s->reactor};
	list_init(&s->live);
	list_init(&s->spare);
	list_init(&s->untold);
	list_init(&s->once);
	list_init(&s->aborts);
	s->start_msg.fn = start_run;
	s->stop_msg.fn = stop_run;
	s->ended_msg.fn = tell_owner;
	s->free_msg.fn = session_free;
}

int tcmu_session_start(const struct tcmu_session_options *opt, struct tcmu_session **ret_s,
		       struct reason *why)
{
	struct tcmu_session *s = calloc(1, sizeof(*s));
	const char *what;
	int err;

	if (!s)
		return reason_set(why, ENOMEM, "out of memory");
	init(s, opt);
	s->name = strdup(opt->name);
	err = s->name ? make_target(s, opt->lu) : -ENOMEM;
	if (err)
		reason_set(why, -err, "%s", strerror(-err));
	else if (tcmu_ring_init(&s->ring, opt->channel.map, opt->channel.size, &what))
		err = reason_set(why, EPROTO, "its ring: %s", what);
	if (err) {
		scsi_target_unref(s->target);
		free(s->name);
		free(s);
		return err;
	}
	*ret_s = s;
	reactor_post(s->reactor, &s->start_msg);
	return 0;
}

void tcmu_session_stop(struct tcmu_session *s)
{
	reactor_post(s->reactor, &s->stop_msg);
}

void tcmu_session_free(struct tcmu_session *s)
{
	/* Behind a stop that is on its way: messages of one sender arrive in order. */
	reactor_post(s->reactor, &s->free_msg);
}

void *tcmu_session_owner(const struct tcmu_session *s)
{
	return s->owner;
}

void tcmu_session_get_info(const struct tcmu_session *s, struct tcmu_session_info *ret_info)
{
	const struct lun_counters *c = &s->counters;

	*ret_info = (struct tcmu_session_info){
		.since_ns = s->since_ns,
		.commands = metric_read(&s->commands),
		.errors = metric_read(&s->errors),
		.read_bytes = metric_read(&c->bytes[LUN_CLASS_READ]),
		.written_bytes = metric_read(&c->bytes[LUN_CLASS_WRITE]),
		.inflight = atomic_load_explicit(&s->inflight, memory_order_relaxed),
	};
}
