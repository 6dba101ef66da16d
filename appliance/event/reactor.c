/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The loop.
 *
 * A turn runs messages, completions, timers, then deferred tasks, and ends in one io_uring_enter
 * that submits what the turn prepared and waits for the next event; a turn that prepares more than
 * a few requests submits as it goes, lest the disk idle until its end. Deferred tasks run last so
 * that what a turn produced piecemeal (responses on a connection) leaves as one.
 *
 * Messages. The inbox is a stack pushed to with compare-and-swap by any thread and taken whole with
 * one exchange by the reactor, which reverses it: order of each sender is kept, there is no ABA
 * (nodes are never popped singly), and a batch costs one atomic on the consumer's side. Whether the
 * reactor sleeps is part of the same word: before sleeping it swaps NULL for the mark ASLEEP, which
 * fails when a message is there. A sender that replaces ASLEEP is the one to write the eventfd; so
 * there is no flag to order against the queue, no lost wake-up, and one system call at most for
 * any number of messages to a sleeping reactor, none to a running one. The eventfd is watched by a
 * multishot poll, which is edge-triggered: it is never read.
 *
 * Pollers. Who fills a queue in shared memory cannot be watched by the ring, but for a doorbell,
 * and ringing costs a system call and a wake-up. So while the reactor is awake it looks for itself;
 * before it sleeps each poller asks to be rung for and looks once more (sleep()), which decides.
 *
 * Spinning. A sleep costs some microseconds to come back from, a spin costs a core. As KVM does for
 * halted vCPUs, the spin grows when a sleep proved shorter than the longest spin allowed, and drops
 * to nothing when one proved longer; a process that is idle for once does not spin again before
 * work comes back in quick succession.
 * Where those who make the work need the processor that spins, a spin finds nothing although the
 * sleep after it is short; so spins that found nothing are counted, and left out but for a few.
 *
 * Stop is a message, hence runs behind all posted before it. The loop then cancels what is in
 * flight (one cancel matching any) and goes on until every op has completed: the memory behind an
 * op is its owner's again only after done(). Timers do not run in this phase.
 *
 * Failure: io_uring_enter may fail for want of memory (-EAGAIN) or be interrupted; SQEs stay queued
 * and the next turn tries again. Any other error would repeat for ever, so it ends the loop.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <poll.h>

#include "base/clock.h"
#include "event/reactor_private.h"

#define DEFAULT_ENTRIES	    1024u
#define DEFAULT_IOBUF_LIMIT (128ull << 20)
#define DEFERRED_ROUNDS	    8  /* a task that defers a task is served in the same turn so often */
#define CQES_A_STEP	    64 /* CQ entries are given back to the kernel in such steps */
#define DRAIN_WAIT_NS	    (10 * NSEC_PER_MSEC)
#define SPIN_LOOKS_A_CLOCK  16
#define SPIN_SCORE_MAX	    16u
#define SPIN_SCORE_PAYS	    4u
#define SUBMIT_EARLY	    4u	/* a disk that waits for the end of a turn idles meanwhile */
#define SPIN_PROBE	    16u /* one in so many is tried when it does not pay */

static __thread struct reactor *self;
static struct reactor_msg asleep;
#define ASLEEP (&asleep)

/* --- submission --- */

static void note_error(struct reactor *r, int ret)
{
	switch (ret) {
	case -EINTR:
	case -ETIME:
	case -EAGAIN:
	case -EBUSY:
	case -EBADR: /* completions were dropped for want of memory: nothing better to do */
		return;
	default:
		if (ret < 0)
			r->err = ret;
	}
}

static struct io_uring_sqe *sqe_get(struct reactor *r)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&r->ring))) {
		/* -EBUSY and -EAGAIN pass when the kernel has completed something. */
		if (io_uring_submit(&r->ring) < 0)
			sched_yield();
	}
	return sqe;
}

struct io_uring_sqe *reactor_sqe(struct reactor *r, struct reactor_op *op)
{
	struct io_uring_sqe *sqe;

	if (io_uring_sq_ready(&r->ring) >= SUBMIT_EARLY)
		note_error(r, io_uring_submit(&r->ring));
	sqe = sqe_get(r);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, op);
	r->issued++;
	r->inflight++;
	return sqe;
}

/* A request whose completion nobody waits for. */
static struct io_uring_sqe *sqe_quiet(struct reactor *r)
{
	struct io_uring_sqe *sqe = sqe_get(r);

	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	return sqe;
}

void reactor_cancel(struct reactor *r, struct reactor_op *op)
{
	struct io_uring_sqe *sqe = sqe_quiet(r);

	io_uring_prep_cancel(sqe, op, IORING_ASYNC_CANCEL_ALL);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

struct iovec *reactor_scratch(struct reactor *r, unsigned n)
{
	struct iovec *iov;

	if (r->scratch_used + n > REACTOR_SCRATCH_IOV) {
		io_uring_submit(&r->ring);
		if (io_uring_sq_ready(&r->ring) || n > REACTOR_SCRATCH_IOV)
			return NULL;
		r->scratch_used = 0;
	}
	iov = r->scratch + r->scratch_used;
	r->scratch_used += n;
	return iov;
}

void reactor_scratch_trim(struct reactor *r, unsigned n)
{
	r->scratch_used -= n;
}

/* --- messages --- */

static void wake(struct reactor *r)
{
	uint64_t one = 1;

	/* Cannot fail but for an interrupted call: the counter does not reach its limit. */
	while (write(r->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void reactor_post(struct reactor *r, struct reactor_msg *m)
{
	struct reactor_msg *old = atomic_load_explicit(&r->inbox, memory_order_relaxed);

	do {
		atomic_store_explicit(&m->next, old == ASLEEP ? NULL : old, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(&r->inbox, &old, m, memory_order_release,
							memory_order_relaxed));
	if (old == ASLEEP)
		wake(r);
}

static bool inbox_empty(struct reactor *r)
{
	return !atomic_load_explicit(&r->inbox, memory_order_relaxed);
}

/* Marks the reactor asleep; false when a message has come. */
static bool inbox_sleep(struct reactor *r)
{
	struct reactor_msg *none = NULL;

	return atomic_compare_exchange_strong_explicit(&r->inbox, &none, ASLEEP,
						       memory_order_acq_rel, memory_order_relaxed);
}

static void inbox_run(struct reactor *r)
{
	struct reactor_msg *m, *next, *fifo = NULL;
	uint64_t n = 0;

	if (inbox_empty(r))
		return;
	m = atomic_exchange_explicit(&r->inbox, NULL, memory_order_acquire);
	if (m == ASLEEP)
		return;
	for (; m; m = next) {
		next = atomic_load_explicit(&m->next, memory_order_relaxed);
		atomic_store_explicit(&m->next, fifo, memory_order_relaxed);
		fifo = m;
	}
	for (m = fifo; m; m = next, n++) {
		next = atomic_load_explicit(&m->next, memory_order_relaxed);
		m->fn(m); /* @m may be gone */
	}
	reactor_count(&r->count.messages, n);
}

static void wake_arm(struct reactor *r)
{
	io_uring_prep_poll_multishot(reactor_sqe(r, &r->wake_op), r->wake_fd, POLLIN);
	r->wake_armed = true;
}

static void wake_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct reactor *r = container_of(op, struct reactor, wake_op);

	if (flags & IORING_CQE_F_MORE)
		return;
	r->wake_armed = false;
	if (!r->stopping)
		wake_arm(r);
}

/* --- completions, deferred tasks --- */

static void cqes_run(struct reactor *r)
{
	unsigned ready = io_uring_cq_ready(&r->ring), n = 0, head;
	struct io_uring_cqe *cqe;

	reactor_count(&r->count.cqes, ready);
	while (ready) {
		n = 0;
		io_uring_for_each_cqe(&r->ring, head, cqe)
		{
			struct reactor_op *op = io_uring_cqe_get_data(cqe);

			if (op) {
				if (!(cqe->flags & IORING_CQE_F_MORE))
					r->inflight--;
				op->done(op, cqe->res, cqe->flags);
			}
			if (++n == ready || n == CQES_A_STEP)
				break;
		}
		io_uring_cq_advance(&r->ring, n);
		ready -= n;
	}
}

void reactor_task_init(struct reactor_task *t, void (*fn)(struct reactor_task *t))
{
	t->fn = fn;
	list_init(&t->link);
}

void reactor_defer(struct reactor *r, struct reactor_task *t)
{
	if (list_empty(&t->link))
		list_add_tail(&r->deferred, &t->link);
}

void reactor_task_cancel(struct reactor_task *t)
{
	list_del(&t->link);
}

static void deferred_run(struct reactor *r)
{
	for (int round = 0; round < DEFERRED_ROUNDS && !list_empty(&r->deferred); round++) {
		struct list_node now, *n;

		list_init(&now);
		list_splice_tail(&now, &r->deferred);
		while ((n = list_pop(&now))) {
			struct reactor_task *t = container_of(n, struct reactor_task, link);

			t->fn(t);
		}
	}
}

/* --- pollers --- */

void reactor_poller_add(struct reactor *r, struct reactor_poller *p)
{
	if (list_empty(&p->link))
		list_add_tail(&r->pollers, &p->link);
}

void reactor_poller_remove(struct reactor_poller *p)
{
	list_del(&p->link);
}

static void pollers_run(struct reactor *r)
{
	struct reactor_poller *p, *next;

	list_for_each_entry_safe (p, next, &r->pollers, link)
		p->run(p);
}

static bool pollers_ready(const struct reactor *r)
{
	struct reactor_poller *p;

	list_for_each_entry (p, &r->pollers, link)
		if (p->ready(p))
			return true;
	return false;
}

/* Takes off all that will be rung for; false when one has work. */
static bool pollers_sleep(struct reactor *r)
{
	struct reactor_poller *p, *next;

	list_for_each_entry_safe (p, next, &r->pollers, link) {
		if (!p->sleep(p))
			return false;
		list_del(&p->link);
	}
	return true;
}

/* --- waiting --- */

static bool kernel_has_work(struct reactor *r)
{
	unsigned flags =
		atomic_load_explicit((_Atomic unsigned *)r->ring.sq.kflags, memory_order_relaxed);

	return flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void submit_now(struct reactor *r)
{
	if (io_uring_sq_ready(&r->ring) || kernel_has_work(r))
		note_error(r, io_uring_submit_and_get_events(&r->ring));
	if (!io_uring_sq_ready(&r->ring))
		r->scratch_used = 0;
}

static void submit_and_sleep(struct reactor *r, uint64_t timeout_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;

	ts.tv_sec = (long long)(timeout_ns / NSEC_PER_SEC);
	ts.tv_nsec = (long long)(timeout_ns % NSEC_PER_SEC);
	reactor_count(&r->count.sleeps, 1);
	note_error(r, io_uring_submit_and_wait_timeout(
			      &r->ring, &cqe, 1, timeout_ns == UINT64_MAX ? NULL : &ts, NULL));
	if (!io_uring_sq_ready(&r->ring))
		r->scratch_used = 0;
}

static bool spin_pays(struct reactor *r)
{
	return r->spin_score >= SPIN_SCORE_PAYS || ++r->spins_left_out % SPIN_PROBE == 0;
}

/* Looks for work until spin_ns have passed; true when there is some. */
static bool spin(struct reactor *r, uint64_t next_timer)
{
	uint64_t until = clock_now_ns() + r->spin_ns;

	if (next_timer < until)
		until = next_timer;
	do {
		for (int i = 0; i < SPIN_LOOKS_A_CLOCK; i++) {
			if (!inbox_empty(r) || kernel_has_work(r) || io_uring_cq_ready(&r->ring) ||
			    pollers_ready(r)) {
				reactor_count(&r->count.spins, 1);
				r->spin_score += r->spin_score < SPIN_SCORE_MAX;
				return true;
			}
#if defined(__x86_64__) || defined(__i386__)
			__builtin_ia32_pause();
#elif defined(__aarch64__)
			__asm__ volatile("yield");
#endif
		}
	} while (clock_now_ns() < until);
	r->spin_score /= 2;
	return false;
}

/* A sleep lasted @ns: would a spin have caught it? */
static void spin_adapt(struct reactor *r, uint64_t ns)
{
	if (ns > r->spin_max_ns)
		r->spin_ns = 0;
	else if (!r->spin_ns)
		r->spin_ns = r->spin_max_ns / 4;
	else if (r->spin_ns < r->spin_max_ns)
		r->spin_ns *= 2;
}

static void wait_for_work(struct reactor *r)
{
	uint64_t next = reactor_timers_next(r), before = 0, timeout = UINT64_MAX;

	if (!list_empty(&r->deferred) || next <= r->now || !inbox_empty(r)) {
		submit_now(r);
		return;
	}
	if (r->spin_ns) {
		submit_now(r);
		if (io_uring_cq_ready(&r->ring) || (spin_pays(r) && spin(r, next))) {
			submit_now(r);
			return;
		}
	}
	if (!pollers_sleep(r) || !inbox_sleep(r)) {
		submit_now(r);
		return;
	}
	if (r->spin_max_ns || next != UINT64_MAX)
		before = clock_now_ns();
	if (next != UINT64_MAX)
		timeout = next > before ? next - before : 0;
	submit_and_sleep(r, timeout);
	r->now = clock_now_ns();
	if (r->spin_max_ns)
		spin_adapt(r, r->now - before);
}

static void turn(struct reactor *r)
{
	r->now = clock_now_ns();
	reactor_count(&r->count.turns, 1);
	inbox_run(r);
	cqes_run(r);
	pollers_run(r);
	if (!r->stopping)
		reactor_timers_run(r);
	deferred_run(r);
}

static void cancel_all(struct reactor *r)
{
	struct io_uring_sqe *sqe = sqe_quiet(r);

	io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

static void drain(struct reactor *r)
{
	uint64_t cancelled_at = 0, cancelled_issued = UINT64_MAX;

	for (;;) {
		turn(r);
		if (!r->inflight && inbox_empty(r) && list_empty(&r->deferred))
			break;
		if (r->err) /* the ring does not work any more */
			break;
		if (r->inflight &&
		    (cancelled_issued != r->issued || r->now - cancelled_at >= DRAIN_WAIT_NS)) {
			cancelled_issued = r->issued;
			cancelled_at = r->now;
			cancel_all(r);
		}
		if (inbox_empty(r) && list_empty(&r->deferred))
			submit_and_sleep(r, DRAIN_WAIT_NS);
		else
			submit_now(r);
	}
}

/* --- life --- */

static void stop_run(struct reactor_msg *m)
{
	struct reactor *r = container_of(m, struct reactor, stop_msg);

	r->stopping = true;
}

int reactor_create(const struct reactor_options *opt, struct reactor **ret_reactor)
{
	static const struct reactor_options defaults;
	struct reactor *r;
	int ret = -ENOMEM;

	if (!opt)
		opt = &defaults;
	r = aligned_alloc(alignof(struct reactor), sizeof(*r));
	if (!r)
		return -ENOMEM;
	memset(r, 0, sizeof(*r));
	list_init(&r->deferred);
	list_init(&r->pollers);
	r->entries = opt->entries ? opt->entries : DEFAULT_ENTRIES;
	r->spin_max_ns = opt->spin_us * NSEC_PER_USEC;
	strncpy(r->name, opt->name ? opt->name : "reactor", sizeof(r->name) - 1);
	r->wake_op.done = wake_done;
	r->stop_msg.fn = stop_run;
	r->wake_fd = -1;
	r->now = clock_now_ns();
	r->scratch = calloc(REACTOR_SCRATCH_IOV, sizeof(*r->scratch));
	if (!r->scratch)
		goto fail;
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->wake_fd < 0) {
		ret = -errno;
		goto fail;
	}
	ret = iobuf_pool_create(r, opt->iobuf_limit ? opt->iobuf_limit : DEFAULT_IOBUF_LIMIT,
				&r->iobufs);
	if (ret < 0)
		goto fail;
	*ret_reactor = r;
	return 0;
fail:
	reactor_destroy(r);
	return ret;
}

void reactor_destroy(struct reactor *r)
{
	if (!r)
		return;
	iobuf_pool_destroy(r->iobufs);
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	free(r->scratch);
	free(r);
}

int reactor_setup(struct reactor *r)
{
	int ret;

	if (sysconf(_SC_NPROCESSORS_ONLN) == 1)
		r->spin_max_ns = 0; /* nobody could make work while we spin */
	ret = reactor_ring_create(r);
	if (ret < 0)
		return ret;
	r->ring_up = true;
	self = r;
	wake_arm(r);
	return 0;
}

int reactor_loop(struct reactor *r)
{
	while (!r->err) {
		turn(r);
		if (r->stopping)
			break;
		wait_for_work(r);
	}
	r->stopping = true;
	drain(r);
	io_uring_queue_exit(&r->ring);
	rx_ring_destroy(r->rx_ring);
	r->rx_ring = NULL;
	r->ring_up = false;
	self = NULL;
	return r->err;
}

int reactor_run(struct reactor *r)
{
	int ret = reactor_setup(r);

	return ret < 0 ? ret : reactor_loop(r);
}

void reactor_stop(struct reactor *r)
{
	if (!atomic_exchange(&r->stop_asked, true))
		reactor_post(r, &r->stop_msg);
}

struct reactor *reactor_self(void)
{
	return self;
}

uint64_t reactor_now(const struct reactor *r)
{
	return r->now;
}

const struct reactor_features *reactor_features(const struct reactor *r)
{
	return &r->features;
}

struct io_uring *reactor_ring(struct reactor *r)
{
	return &r->ring;
}

struct iobuf_pool *reactor_iobufs(struct reactor *r)
{
	return r->iobufs;
}

unsigned reactor_index(const struct reactor *r)
{
	return r->index;
}

bool reactor_stopping(const struct reactor *r)
{
	return r->stopping;
}

void reactor_stats(const struct reactor *r, struct reactor_stats *ret_stats)
{
	const struct reactor_counters *c = &r->count;

	*ret_stats = (struct reactor_stats){
		.turns = atomic_load_explicit(&c->turns, memory_order_relaxed),
		.sleeps = atomic_load_explicit(&c->sleeps, memory_order_relaxed),
		.spins = atomic_load_explicit(&c->spins, memory_order_relaxed),
		.completions = atomic_load_explicit(&c->cqes, memory_order_relaxed),
		.messages = atomic_load_explicit(&c->messages, memory_order_relaxed),
		.timers = atomic_load_explicit(&c->timers, memory_order_relaxed),
	};
}
