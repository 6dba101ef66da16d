/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests that nobody waits for: the caller goes on, and a thread of the client's, the reaper,
 * tells it the result.
 *
 * 1. A request that finds a free slot and a link that is up is sent by its caller at once. Else it
 *    waits in a list, and the reaper sends it when it can. One that is longer than a command is
 *    sent in pieces, each as if it were a new request at the head of the list.
 * 2. Its command has PORT_NOTIFY, so that its end is a bit of port_box.done. The reaper takes all
 *    bits at once, and sleeps on one futex however many are in flight; the daemon wakes it once a
 *    turn of its reactor at most.
 * 3. Who sends a command may still be ringing the bell when it is done. So its slot has two holds,
 *    and whoever drops the second lets the slot go. The bit in c->in_flight is the request itself:
 *    who clears it has taken the request back.
 * 4. The link. Who holds a slot may use it (port_client_private.h). The reaper sleeps on it without
 *    one, so it is *inside*: it enters when it sees UP (or requests in flight) under state_lock,
 *    leaves when it sees another state, and the keeper waits for that too before it unmaps.
 *
 *	sender: set bit of in_flight;  load state      keeper: state = DOWN;  wake the reaper
 *						       reaper: load state;  load in_flight
 *
 *    All of them are sequentially consistent: the sender sees DOWN, or the reaper the bit.
 * 5. When the link is lost, a request whose cell says DONE has its answer; all others go to the
 *    head of the list, changes as replays. COMPARE_AND_WRITE must not be compared again when it has
 *    written: its cell says whether it had compared equal (`matched`). If so it is a WRITE that is
 *    replayed, if not it has changed nothing and is sent as new.
 */
#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cursor.h"
#include "front/port/port_client_private.h"

/* What requests' callbacks may use; pages come when they are touched. */
#define STACK_SIZE (1u << 20)

static bool is_up(struct port_client *c)
{
	return atomic_load(&c->state) == CLIENT_UP;
}

/* --- the list of those that have no slot --- */

static void list_at_tail(struct port_client *c, struct port_async *a)
{
	mutex_scope(&c->waiting_lock);
	list_add_tail(&c->waiting, &a->link);
	atomic_fetch_add(&c->n_waiting, 1);
}

static void list_at_head(struct port_client *c, struct port_async *a)
{
	mutex_scope(&c->waiting_lock);
	list_add_head(&c->waiting, &a->link);
	atomic_fetch_add(&c->n_waiting, 1);
}

static struct port_async *pop(struct port_client *c)
{
	mutex_scope(&c->waiting_lock);
	struct list_node *n = list_pop(&c->waiting);

	if (!n)
		return NULL;
	atomic_fetch_sub(&c->n_waiting, 1);
	return container_of(n, struct port_async, link);
}

/* --- a request and its slot --- */

/** The next piece of @a, or the one that is to be sent again. */
static void next_piece(struct port_async *a)
{
	bool data = a->cmd.op == PORT_READ || a->cmd.op == PORT_WRITE;
	uint64_t max = data ? PORT_SLOT_SIZE : PORT_RANGE_MAX, left = a->len - a->pos;

	a->cmd.off = a->off + a->pos;
	a->cmd.len = left < max ? left : max;
	if (a->cmd.op == PORT_WRITE_SAME)
		a->cmd.len -= a->cmd.len % a->pattern_len;
}

/** Where in the caller's memory the data of the piece are. */
static struct cursor data_of(const struct port_async *a)
{
	bool moves = a->cmd.op == PORT_READ || a->cmd.op == PORT_WRITE;

	return cursor_at(a->iov, a->niov, a->skip + (moves ? a->pos : 0));
}

static uint64_t piece_data(const struct port_async *a)
{
	return port_data_len(a->cmd.op, a->cmd.len, a->cmd.room);
}

static void copy_in(struct port_client *c, struct port_async *a)
{
	struct cursor from = data_of(a);
	bool enough;

	if (a->cmd.op == PORT_READ)
		return;
	enough = cursor_get(&from, port_shm_data(c->link.shm, a->cmd.tag), piece_data(a));
	assert(enough);
	(void)enough;
}

/** Takes the request of slot @tag back. False: somebody else has. */
static bool take_back(struct port_client *c, uint32_t tag)
{
	uint64_t bit = 1ull << tag;

	return atomic_fetch_and(&c->in_flight, ~bit) & bit;
}

/** Drops one hold of two. */
static void drop_hold(struct port_client *c, uint32_t tag)
{
	if (atomic_fetch_sub(&c->holds[tag], 1) == 1)
		port_client_put_slot(c, tag);
}

/**
 * Sends the next piece of @a if a slot is free and the link is up. Once it is sent @a may be done
 * with, and gone.
 */
static bool send_piece(struct port_client *c, struct port_async *a)
{
	int got = port_slots_try(&c->slots);
	uint32_t tag = (uint32_t)got;
	struct port_cmd_image cmd;
	struct port_cell *cell;
	bool sent = true;

	if (got < 0)
		return false;
	if (!is_up(c)) {
		port_client_put_slot(c, tag);
		return false;
	}
	next_piece(a);
	a->cmd.tag = tag;
	copy_in(c, a);
	cell = port_shm_cell(c->link.shm, tag);
	atomic_store(&cell->matched, 0);
	atomic_store(&cell->state, PORT_CELL_BUSY);
	cmd = a->cmd;
	c->in_slot[tag] = a;
	atomic_store(&c->holds[tag], 2);
	/* From here on @a may be taken back by the reaper. */
	atomic_fetch_or(&c->in_flight, 1ull << tag);
	if (is_up(c)) {
		port_client_push(c, &cmd);
	} else if (take_back(c, tag)) {
		sent = false;
		drop_hold(c, tag);
	}
	drop_hold(c, tag);
	return sent;
}

static void end(struct port_client *c, struct port_async *a, int result)
{
	port_client_end_replay(c, &a->cmd);
	a->done(a, result);
}

/** Carries the answer, which is in the slot, over to @a. Returns the result of the piece. */
static int take_answer(struct port_client *c, struct port_async *a)
{
	uint32_t tag = a->cmd.tag;
	int result = port_client_result(atomic_load_explicit(
		&port_shm_cell(c->link.shm, tag)->result, memory_order_relaxed));
	void *data = port_shm_data(c->link.shm, tag);

	if (a->cmd.op == PORT_READ && result == 0 && a->view) {
		a->view(a, data, a->cmd.len);
	} else if (a->cmd.op == PORT_READ && result == 0) {
		struct cursor to = data_of(a);

		cursor_put(&to, data, a->cmd.len);
	}
	if (a->cmd.op == PORT_COMPARE_AND_WRITE && result == -EILSEQ)
		a->miscompare_off = *(volatile uint64_t *)data;
	return result;
}

/** The command of slot @tag is answered. */
static void reap(struct port_client *c, uint32_t tag)
{
	struct port_async *a = c->in_slot[tag];
	int result;

	if (!take_back(c, tag))
		return;
	result = take_answer(c, a);
	if (piece_data(a))
		port_client_arm_trim(c);
	drop_hold(c, tag);
	a->pos += a->cmd.len;
	if (result || a->pos == a->len) {
		end(c, a, result);
		return;
	}
	port_client_end_replay(c, &a->cmd);
	list_at_head(c, a);
}

/** The link is lost, and the command of slot @tag was not answered. */
static void lose(struct port_client *c, uint32_t tag)
{
	struct port_async *a = c->in_slot[tag];

	if (!take_back(c, tag))
		return;
	if (a->cmd.op == PORT_COMPARE_AND_WRITE &&
	    atomic_load(&port_shm_cell(c->link.shm, tag)->matched)) {
		a->cmd.op = PORT_WRITE;
		a->skip = a->len;
	}
	if (a->cmd.op != PORT_COMPARE_AND_WRITE)
		port_client_mark_replay(c, &a->cmd);
	atomic_fetch_add_explicit(&c->replays, 1, memory_order_relaxed);
	list_at_head(c, a);
	drop_hold(c, tag);
}

/* --- the reaper --- */

static bool can_send(struct port_client *c)
{
	return atomic_load(&c->n_waiting) && port_slots_any(&c->slots);
}

static void send_waiting(struct port_client *c)
{
	struct port_async *a;

	while (can_send(c) && (a = pop(c))) {
		if (!send_piece(c, a)) {
			list_at_head(c, a);
			return;
		}
	}
}

static void fail_waiting(struct port_client *c)
{
	struct port_async *a;

	while (!is_up(c) && (a = pop(c)))
		end(c, a, -ESHUTDOWN);
}

/**
 * Waits for a link that is up, or that was lost with requests in flight before we came to it, and
 * enters it. False: the client is being closed.
 */
static bool enter_link(struct port_client *c)
{
	mutex_scope(&c->state_lock);
	while (!atomic_load(&c->reaper_stops)) {
		/* A request in flight holds a slot, and so the link, also when that is lost. */
		if (is_up(c) || atomic_load(&c->in_flight)) {
			c->reaper_inside = true;
			return true;
		}
		/* Without a link for too long, or for good. */
		if (atomic_load(&c->state) != CLIENT_DOWN && atomic_load(&c->n_waiting)) {
			mutex_unlock(&c->state_lock);
			fail_waiting(c);
			mutex_lock(&c->state_lock);
		} else {
			mutex_wait(&c->state_lock, &c->state_changed);
		}
	}
	return false;
}

static bool stays(struct port_client *c)
{
	return is_up(c) && !atomic_load(&c->reaper_stops);
}

static bool has_done(void *at)
{
	return atomic_load_explicit(&((struct port_box *)at)->done, memory_order_acquire);
}

/** Sleeps until the daemon, the keeper or somebody who submits has something for us. */
static void doze(struct port_client *c, struct port_box *box)
{
	if (has_done(box) || (atomic_load(&c->in_flight) && port_client_spin(c, has_done, box)))
		return;
	atomic_store(&box->reaper, 1);
	if (!atomic_load(&box->done) && stays(c) && !can_send(c)) {
		atomic_fetch_add_explicit(&c->sleeps, 1, memory_order_relaxed);
		syscall(SYS_futex, &box->reaper, FUTEX_WAIT, 1, NULL, NULL, 0);
	}
	atomic_store(&box->reaper, 0);
}

static void serve(struct port_client *c)
{
	struct port_box *box = port_shm_box(c->link.shm);

	while (stays(c)) {
		uint64_t bits = atomic_exchange(&box->done, 0) & atomic_load(&c->in_flight);

		for (; bits; bits &= bits - 1) {
			uint32_t tag = (uint32_t)__builtin_ctzll(bits);

			if (atomic_load(&port_shm_cell(c->link.shm, tag)->state) !=
			    PORT_CELL_DONE) {
				atomic_store(&c->kicked, 1);
				port_keeper_wake(c);
				break;
			}
			reap(c, tag);
		}
		send_waiting(c);
		doze(c, box);
	}
}

/** Whether the cell has its answer; if not, none will be looked at any more. */
static bool answer_stands(struct port_cell *cell)
{
	uint32_t state = atomic_load(&cell->state);

	while (state != PORT_CELL_DONE &&
	       !atomic_compare_exchange_weak(&cell->state, &state, PORT_CELL_LOST))
		;
	return state == PORT_CELL_DONE;
}

static void leave_link(struct port_client *c)
{
	uint64_t bits = atomic_load(&c->in_flight);

	for (; bits; bits &= bits - 1) {
		uint32_t tag = (uint32_t)__builtin_ctzll(bits);

		if (answer_stands(port_shm_cell(c->link.shm, tag)))
			reap(c, tag);
		else
			lose(c, tag);
	}
	mutex_scope(&c->state_lock);
	c->reaper_inside = false;
	pthread_cond_broadcast(&c->state_changed);
}

static void *reaper_main(void *arg)
{
	struct port_client *c = arg;

	while (enter_link(c)) {
		serve(c);
		leave_link(c);
	}
	return NULL;
}

/* --- what others call --- */

void port_client_submit(struct port_client *c, struct port_async *a)
{
	assert(c->opt.async && (a->op == PORT_FLUSH ? !a->len : a->len > 0));
	atomic_fetch_add_explicit(&c->ops, 1, memory_order_relaxed);
	a->pos = a->skip = 0;
	a->cmd = (struct port_cmd_image){
		.op = (uint16_t)a->op,
		.flags = (uint16_t)(a->flags | PORT_NOTIFY),
		.room = a->op == PORT_WRITE_SAME ? a->pattern_len : 0,
	};
	/* Who came before goes first. */
	if (!atomic_load(&c->n_waiting) && send_piece(c, a))
		return;
	list_at_tail(c, a);
	/* The end of one that is in flight brings the reaper here anyway. */
	if (!atomic_load(&c->in_flight))
		port_async_kick(c);
}

void port_async_kick(struct port_client *c)
{
	mutex_scope(&c->state_lock);
	if (c->reaper_inside) {
		struct port_box *box = port_shm_box(c->link.shm);

		atomic_store(&box->reaper, 0);
		syscall(SYS_futex, &box->reaper, FUTEX_WAKE, 1, NULL, NULL, 0);
	} else {
		pthread_cond_broadcast(&c->state_changed);
	}
}

void port_async_wait_outside(struct port_client *c)
{
	mutex_scope(&c->state_lock);
	while (c->reaper_inside)
		mutex_wait(&c->state_lock, &c->state_changed);
}

int port_async_start(struct port_client *c)
{
	return port_thread_start(&c->reaper, STACK_SIZE, reaper_main, c);
}

void port_async_stop(struct port_client *c)
{
	atomic_store(&c->reaper_stops, true);
	port_async_kick(c);
	pthread_join(c->reaper, NULL);
}
