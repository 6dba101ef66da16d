/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "event/reactor.h"

/* Runs fn(arg) as the first message of a reactor on this thread, until it stops itself. */
struct boot {
	struct reactor_msg msg;
	void (*fn)(struct reactor *r, void *arg);
	void *arg;
};

static void boot_fn(struct reactor_msg *m)
{
	struct boot *b = container_of(m, struct boot, msg);

	b->fn(reactor_self(), b->arg);
}

static void run_with(const struct reactor_options *opt, void (*fn)(struct reactor *r, void *arg),
		     void *arg)
{
	struct boot b = {.msg.fn = boot_fn, .fn = fn, .arg = arg};
	struct reactor *r;

	assert_int_equal(reactor_create(opt, &r), 0);
	reactor_post(r, &b.msg);
	assert_int_equal(reactor_run(r), 0);
	assert_null(reactor_self());
	reactor_destroy(r);
}

/* --- timers --- */

#define N_TIMERS 2000

struct timers {
	struct tick {
		struct reactor_timer t;
		struct timers *all;
		bool cancelled, fired;
	} tick[N_TIMERS];
	struct reactor_timer end;
	struct reactor *r;
	uint64_t last;
	unsigned fired;
};

static void tick_fire(struct reactor_timer *t)
{
	struct tick *k = container_of(t, struct tick, t);
	struct timers *all = k->all;

	assert_false(k->cancelled);
	assert_false(k->fired);
	assert_false(t->armed);
	assert_true(t->deadline_ns >= all->last);
	assert_true(clock_now_ns() >= t->deadline_ns);
	all->last = t->deadline_ns;
	k->fired = true;
	all->fired++;
}

static void timers_end(struct reactor_timer *t)
{
	reactor_stop(container_of(t, struct timers, end)->r);
}

static void timers_begin(struct reactor *r, void *arg)
{
	struct timers *all = arg;
	uint64_t now = reactor_now(r);

	all->r = r;
	for (int i = 0; i < N_TIMERS; i++) {
		all->tick[i].all = all;
		reactor_timer_init(&all->tick[i].t, tick_fire);
		reactor_timer_arm(r, &all->tick[i].t, now + (uint64_t)(random() % 40000000));
	}
	for (int i = 0; i < N_TIMERS; i += 3) {
		all->tick[i].cancelled = true;
		reactor_timer_cancel(r, &all->tick[i].t);
		reactor_timer_cancel(r, &all->tick[i].t);
	}
	for (int i = 1; i < N_TIMERS; i += 3) /* moved while armed */
		reactor_timer_arm(r, &all->tick[i].t, now + (uint64_t)(random() % 40000000));
	reactor_timer_init(&all->end, timers_end);
	reactor_timer_arm(r, &all->end, now + 45 * NSEC_PER_MSEC);
}

static void timers_fire_in_order_unless_cancelled(void **state)
{
	struct timers *all = calloc(1, sizeof(*all));
	unsigned cancelled = 0;

	srandom(7);
	run_with(NULL, timers_begin, all);
	for (int i = 0; i < N_TIMERS; i++) {
		cancelled += all->tick[i].cancelled;
		assert_true(all->tick[i].fired != all->tick[i].cancelled);
	}
	assert_int_equal(all->fired + cancelled, N_TIMERS);
	free(all);
}

/* A timer that is always due must not keep completions and messages from running. */
struct greedy {
	struct reactor_timer t;
	struct reactor_op op;
	struct reactor *r;
};

static void greedy_fire(struct reactor_timer *t)
{
	reactor_timer_arm(container_of(t, struct greedy, t)->r, t, 0);
}

static void greedy_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct greedy *g = container_of(op, struct greedy, op);

	assert_int_equal(res, 0);
	reactor_timer_cancel(g->r, &g->t);
	reactor_stop(g->r);
}

static void greedy_begin(struct reactor *r, void *arg)
{
	struct greedy *g = arg;

	g->r = r;
	g->op.done = greedy_done;
	reactor_timer_init(&g->t, greedy_fire);
	reactor_timer_arm(r, &g->t, 0);
	io_uring_prep_nop(reactor_sqe(r, &g->op));
}

static void timer_due_for_ever_starves_nothing(void **state)
{
	struct greedy g;

	run_with(NULL, greedy_begin, &g);
}

/* --- messages --- */

#define SENDERS	 4
#define MESSAGES 20000

struct note {
	struct reactor_msg msg;
	struct mailbox *box;
	unsigned sender, seq;
};

struct mailbox {
	struct reactor *r;
	unsigned next[SENDERS], total;
	struct note *notes[SENDERS];
};

static void note_run(struct reactor_msg *m)
{
	struct note *n = container_of(m, struct note, msg);
	struct mailbox *box = n->box;

	assert_ptr_equal(reactor_self(), box->r);
	assert_int_equal(n->seq, box->next[n->sender]);
	box->next[n->sender]++;
	if (++box->total == SENDERS * MESSAGES)
		reactor_stop(box->r);
}

static void *sender_main(void *arg)
{
	struct note *notes = arg;

	for (unsigned i = 0; i < MESSAGES; i++) {
		reactor_post(notes[i].box->r, &notes[i].msg);
		if (i % 1000 == 999) /* lets the reactor fall asleep */
			usleep(2000);
	}
	return NULL;
}

static void messages_of_many_senders_arrive_once_in_order(void **state)
{
	struct reactor_options spin = {.spin_us = 50};

	for (int spinning = 0; spinning < 2; spinning++) {
		struct mailbox box = {0};
		pthread_t thread[SENDERS];

		assert_int_equal(reactor_create(spinning ? &spin : NULL, &box.r), 0);
		for (unsigned s = 0; s < SENDERS; s++) {
			box.notes[s] = calloc(MESSAGES, sizeof(struct note));
			for (unsigned i = 0; i < MESSAGES; i++)
				box.notes[s][i] = (struct note){
					.msg.fn = note_run, .box = &box, .sender = s, .seq = i};
			pthread_create(&thread[s], NULL, sender_main, box.notes[s]);
		}
		assert_int_equal(reactor_run(box.r), 0);
		assert_int_equal(box.total, SENDERS * MESSAGES);
		for (unsigned s = 0; s < SENDERS; s++) {
			pthread_join(thread[s], NULL);
			free(box.notes[s]);
		}
		reactor_destroy(box.r);
	}
}

/* One message bounced between two sleeping reactors: a lost wake-up would hang this. */
struct ball {
	struct reactor_msg msg;
	struct reactor_set *set;
	unsigned left, at;
	pthread_mutex_t lock;
	pthread_cond_t done;
};

static void ball_run(struct reactor_msg *m)
{
	struct ball *b = container_of(m, struct ball, msg);

	assert_int_equal(reactor_index(reactor_self()), b->at);
	if (!--b->left) {
		pthread_mutex_lock(&b->lock);
		pthread_cond_signal(&b->done);
		pthread_mutex_unlock(&b->lock);
		return;
	}
	b->at = !b->at;
	reactor_post(reactor_set_get(b->set, b->at), m);
}

static void ball_between_reactors_is_never_lost(void **state)
{
	struct ball b = {.msg.fn = ball_run,
			 .left = 5000,
			 .lock = PTHREAD_MUTEX_INITIALIZER,
			 .done = PTHREAD_COND_INITIALIZER};

	assert_int_equal(reactor_set_start(2, NULL, &b.set), 0);
	assert_int_equal(reactor_set_count(b.set), 2);
	assert_ptr_not_equal(reactor_set_next(b.set), reactor_set_next(b.set));
	pthread_mutex_lock(&b.lock);
	reactor_post(reactor_set_get(b.set, 0), &b.msg);
	pthread_cond_wait(&b.done, &b.lock);
	pthread_mutex_unlock(&b.lock);
	assert_int_equal(b.left, 0);
	reactor_set_stop(b.set);
}

static void count_run(struct reactor_msg *m)
{
	struct note *n = container_of(m, struct note, msg);

	n->box->total++;
}

static void messages_before_the_stop_run(void **state)
{
	struct mailbox box = {0};
	struct note n[10];

	assert_int_equal(reactor_create(NULL, &box.r), 0);
	for (int i = 0; i < 10; i++) {
		n[i] = (struct note){.msg.fn = count_run, .box = &box};
		reactor_post(box.r, &n[i].msg);
	}
	reactor_stop(box.r);
	reactor_stop(box.r);
	assert_int_equal(reactor_run(box.r), 0);
	assert_int_equal(box.total, 10);
	reactor_destroy(box.r);
}

/* --- deferred tasks --- */

struct tasks {
	struct reactor_task a, b, c;
	struct reactor *r;
	struct reactor_op op;
	char trace[16];
};

static void trace(struct tasks *t, char c)
{
	t->trace[strlen(t->trace)] = c;
}

static void task_c(struct reactor_task *task)
{
	trace(container_of(task, struct tasks, c), 'c');
}

static void task_b(struct reactor_task *task)
{
	trace(container_of(task, struct tasks, b), 'b');
}

static void task_a(struct reactor_task *task)
{
	struct tasks *t = container_of(task, struct tasks, a);

	trace(t, 'a');
	reactor_defer(t->r, &t->b); /* from within: the same turn still, before submission */
}

static void tasks_op_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct tasks *t = container_of(op, struct tasks, op);

	trace(t, 'o');
	reactor_stop(t->r);
}

static void tasks_begin(struct reactor *r, void *arg)
{
	struct tasks *t = arg;

	t->r = r;
	t->op.done = tasks_op_done;
	reactor_task_init(&t->a, task_a);
	reactor_task_init(&t->b, task_b);
	reactor_task_init(&t->c, task_c);
	reactor_sqe(r, &t->op);
	reactor_defer(r, &t->a);
	reactor_defer(r, &t->a);
	reactor_defer(r, &t->c);
	reactor_task_cancel(&t->c);
	trace(t, 'm');
}

static void deferred_tasks_run_once_at_the_end_of_the_turn(void **state)
{
	struct tasks t = {0};

	run_with(NULL, tasks_begin, &t);
	assert_string_equal(t.trace, "mabo");
}

/* --- ops --- */

struct recvs {
	struct reactor *r;
	int fd[2];
	char byte;
	struct reactor_op op[8];
	struct reactor_timer cancel;
	int n_done, n_wanted, res;
};

static void recv_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct recvs *x = container_of(op, struct recvs, op[0]);

	x->res = res;
	x->n_done++;
	reactor_stop(x->r);
}

static void recv_cancel(struct reactor_timer *t)
{
	struct recvs *x = container_of(t, struct recvs, cancel);

	reactor_cancel(x->r, &x->op[0]);
}

static void recv_begin(struct reactor *r, void *arg)
{
	struct recvs *x = arg;

	x->r = r;
	x->op[0].done = recv_done;
	io_uring_prep_recv(reactor_sqe(r, &x->op[0]), x->fd[0], &x->byte, 1, 0);
	reactor_timer_init(&x->cancel, recv_cancel);
	reactor_timer_arm(r, &x->cancel, reactor_now(r) + 5 * NSEC_PER_MSEC);
}

static void cancelled_op_completes_with_ecanceled(void **state)
{
	struct recvs x = {0};

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, x.fd), 0);
	run_with(NULL, recv_begin, &x);
	assert_int_equal(x.n_done, 1);
	assert_int_equal(x.res, -ECANCELED);
	close(x.fd[0]);
	close(x.fd[1]);
}

static void drained_done(struct reactor_op *op, int res, uint32_t flags);

struct drained {
	struct reactor_op op;
	struct recvs *x;
};
static struct drained drained[8];

static void drained_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct drained *d = container_of(op, struct drained, op);

	assert_int_equal(res, -ECANCELED);
	assert_true(reactor_stopping(reactor_self()));
	d->x->n_done++;
}

static void drained_begin(struct reactor *r, void *arg)
{
	struct recvs *x = arg;

	for (int i = 0; i < 8; i++) {
		drained[i] = (struct drained){{drained_done}, x};
		if (i % 2)
			io_uring_prep_recv(reactor_sqe(r, &drained[i].op), x->fd[0], &x->byte, 1,
					   0);
		else
			io_uring_prep_poll_add(reactor_sqe(r, &drained[i].op), x->fd[0], 1);
	}
	reactor_stop(r);
}

static void stop_waits_for_all_ops_in_flight(void **state)
{
	struct recvs x = {0};

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, x.fd), 0);
	run_with(NULL, drained_begin, &x);
	assert_int_equal(x.n_done, 8);
	close(x.fd[0]);
	close(x.fd[1]);
}

/* More requests than the ring has entries, made in one turn. */
struct flood {
	struct reactor_op op;
	struct reactor *r;
	unsigned done;
};
#define FLOOD 10000

static void flood_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct flood *f = container_of(op, struct flood, op);

	assert_int_equal(res, 0);
	if (++f->done == FLOOD)
		reactor_stop(f->r);
}

static void flood_begin(struct reactor *r, void *arg)
{
	struct flood *f = arg;

	f->r = r;
	f->op.done = flood_done;
	for (int i = 0; i < FLOOD; i++)
		io_uring_prep_nop(reactor_sqe(r, &f->op));
}

static void more_requests_than_entries_all_complete(void **state)
{
	struct reactor_options opt = {.entries = 16};
	struct flood f = {0};

	run_with(&opt, flood_begin, &f);
	assert_int_equal(f.done, FLOOD);
}

/* --- pollers --- */

#define POLLED 100000u

/* A queue of which only the length matters, filled by a thread that is no reactor. */
struct polled {
	struct reactor *r;
	struct reactor_poller poller;
	struct reactor_op bell_op;
	int bell;
	pthread_t peer;
	_Atomic uint32_t tail, sleeping;
	uint32_t head;	       /* the reactor's */
	uint64_t rings, asked; /* the peer's, the reactor's */
};

static void *peer_main(void *arg)
{
	struct polled *p = arg;
	uint64_t one = 1;
	unsigned seed = 1;

	for (uint32_t i = 1; i <= POLLED; i++) {
		atomic_store(&p->tail, i);
		if (atomic_load(&p->sleeping) && atomic_exchange(&p->sleeping, 0)) {
			p->rings++;
			if (write(p->bell, &one, sizeof(one)) < 0)
				abort();
		}
		if (rand_r(&seed) % 64 == 0)
			sched_yield(); /* it may well fall asleep here */
	}
	return NULL;
}

static bool polled_ready(struct reactor_poller *poller)
{
	struct polled *p = container_of(poller, struct polled, poller);

	return atomic_load(&p->tail) != p->head;
}

static void polled_run(struct reactor_poller *poller)
{
	struct polled *p = container_of(poller, struct polled, poller);

	p->head = atomic_load(&p->tail);
	if (p->head == POLLED)
		reactor_stop(p->r);
}

static bool polled_sleep(struct reactor_poller *poller)
{
	struct polled *p = container_of(poller, struct polled, poller);

	atomic_store(&p->sleeping, 1);
	p->asked++;
	return !polled_ready(poller);
}

static void polled_bell(struct reactor_op *op, int res, uint32_t flags)
{
	struct polled *p = container_of(op, struct polled, bell_op);

	if (res >= 0)
		reactor_poller_add(p->r, &p->poller);
}

static void polled_begin(struct reactor *r, void *arg)
{
	struct polled *p = arg;

	p->r = r;
	io_uring_prep_poll_multishot(reactor_sqe(r, &p->bell_op), p->bell, POLLIN);
	reactor_poller_add(r, &p->poller);
	assert_int_equal(pthread_create(&p->peer, NULL, peer_main, p), 0);
}

/* Without a bell of need the reactor would sleep for ever, and the test with it. */
static void polled_queue_is_served_to_its_end(void **state)
{
	for (unsigned spin_us = 0; spin_us <= 50; spin_us += 50) {
		struct reactor_options opt = {.spin_us = spin_us};
		struct polled p = {
			.poller = {.ready = polled_ready, .run = polled_run, .sleep = polled_sleep},
			.bell_op = {.done = polled_bell},
			.bell = eventfd(0, EFD_CLOEXEC),
		};

		list_init(&p.poller.link);
		run_with(&opt, polled_begin, &p);
		pthread_join(p.peer, NULL);
		assert_int_equal(p.head, POLLED);
		assert_true(p.rings <= p.asked);
		close(p.bell);
	}
}

/* --- idleness --- */

static void idle_reactor_makes_no_turn(void **state)
{
	struct reactor_options spin = {.spin_us = 50};
	struct reactor_stats a, b;
	struct reactor_set *set;

	assert_int_equal(reactor_set_start(2, &spin, &set), 0);
	for (unsigned i = 0; i < 2; i++) {
		unsigned tries = 10; /* the first may see it set up */

		do {
			reactor_stats(reactor_set_get(set, i), &a);
			usleep(300000);
			reactor_stats(reactor_set_get(set, i), &b);
		} while (--tries && b.turns != a.turns);
		assert_int_equal(b.turns, a.turns);
		assert_int_equal(b.sleeps, a.sleeps);
	}
	reactor_set_stop(set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(timers_fire_in_order_unless_cancelled),
		cmocka_unit_test(timer_due_for_ever_starves_nothing),
		cmocka_unit_test(messages_of_many_senders_arrive_once_in_order),
		cmocka_unit_test(ball_between_reactors_is_never_lost),
		cmocka_unit_test(messages_before_the_stop_run),
		cmocka_unit_test(deferred_tasks_run_once_at_the_end_of_the_turn),
		cmocka_unit_test(cancelled_op_completes_with_ecanceled),
		cmocka_unit_test(stop_waits_for_all_ops_in_flight),
		cmocka_unit_test(more_requests_than_entries_all_complete),
		cmocka_unit_test(polled_queue_is_served_to_its_end),
		cmocka_unit_test(idle_reactor_makes_no_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
