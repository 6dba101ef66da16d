/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The keeper: the client's own thread, which sleeps but for three things.
 *
 * 1. The daemon says something: a changed export, the LUN's end, or nothing any more.
 * 2. The link is lost. The state becomes DOWN, every waiter finds its cell LOST and leaves, giving
 *    its slot back; with all slots in hand nobody uses the old memory, and it is unmapped. Then the
 *    keeper connects again, with backoff, puts the new link in place with all slots in hand, and
 *    lets the requests in. Each is copied from its caller's own buffer again: nothing of the old
 *    memory is needed.
 *
 *	submitter: cell = BUSY;  load state        keeper: state = DOWN;  swap cell for LOST
 *
 *    All four are sequentially consistent, so that the submitter sees DOWN, or the keeper BUSY.
 *    A cell that says DONE keeps its answer: what was answered must not be sent again.
 * 3. Pages. After a burst of work it ticks every idle_ms and has slots emptied that were not used
 *    for a whole tick (port_slots.h): their pages are punched out of the memfd. When no slot holds
 *    pages, the data area is mapped afresh, which returns the page tables too, and the keeper
 *    sleeps without a timeout.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "front/port/port_client_private.h"
#include "front/port/port_proto.h"
#include "front/port/port_socket.h"

#define BACKOFF_MIN_MS 20
#define BACKOFF_MAX_MS 1000
#define STACK_SIZE     (128u << 10)

static void set_state(struct port_client *c, enum client_state state)
{
	mutex_lock(&c->state_lock);
	atomic_store(&c->state, state);
	pthread_cond_broadcast(&c->state_changed);
	mutex_unlock(&c->state_lock);
	port_async_kick(c);
}

/** Lets all slots go, for whoever waits for one. */
static void put_all_slots(struct port_client *c)
{
	port_slots_put_all(&c->slots);
	if (atomic_load(&c->n_waiting))
		port_async_kick(c);
}

/* --- pages --- */

void port_keeper_punch(void *client, uint64_t off, uint64_t len)
{
	struct port_client *c = client;

	fallocate(c->link.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		  (off_t)(PORT_DATA_OFF + off), (off_t)len);
}

/** Drops the page tables of the data area by mapping it afresh. */
static void remap_data(struct port_client *c)
{
	if (!port_slots_try_all(&c->slots))
		return;
	if (mmap((char *)c->link.shm + PORT_DATA_OFF, PORT_SHM_SIZE - PORT_DATA_OFF,
		 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, c->link.memfd,
		 (off_t)PORT_DATA_OFF) == MAP_FAILED) {
		/* There may be no mapping now: begin anew. */
		atomic_store(&c->kicked, 1);
		port_keeper_wake(c);
	}
	put_all_slots(c);
}

static void tick(struct port_client *c)
{
	bool left;

	/* A request that ends after this finds it 0, sets it and wakes us. */
	atomic_store(&c->trim_armed, 0);
	left = port_slots_trim(&c->slots);
	/* Who found no slot while some were being emptied. */
	if (atomic_load(&c->n_waiting))
		port_async_kick(c);
	if (left)
		atomic_store(&c->trim_armed, 1);
	else
		remap_data(c);
}

/* --- the link --- */

/** Tells the waiter on @cell that there will be no answer. One that has come stands. */
static void give_up(struct port_cell *cell)
{
	uint32_t state = atomic_load(&cell->state);

	while (state != PORT_CELL_DONE &&
	       !atomic_compare_exchange_weak(&cell->state, &state, PORT_CELL_LOST))
		;
	syscall(SYS_futex, &cell->state, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void drop_claim_locked(struct port_client *c)
{
	mutex_assert_held(&c->state_lock);
	cleanup_close(&c->old_claim);
	c->old_claim = -1;
}

void port_keeper_drop_claim(struct port_client *c)
{
	mutex_scope(&c->state_lock);
	if (!atomic_load(&c->replaying))
		drop_claim_locked(c);
}

static void forget_claim(struct port_client *c)
{
	mutex_scope(&c->state_lock);
	drop_claim_locked(c);
}

/** The link is lost: its claim stays as long as there are replays. An older one does as well. */
static void keep_claim(struct port_client *c)
{
	mutex_scope(&c->state_lock);
	if (c->old_claim < 0 && atomic_load(&c->replaying))
		c->old_claim = take_fd(c->link.claim);
}

/** Sends all who use the link away from it and closes it. The state is not UP. */
static void evacuate(struct port_client *c)
{
	for (uint32_t tag = 0; tag < PORT_SLOTS; tag++)
		give_up(port_shm_cell(c->link.shm, tag));
	port_slots_wait_all(&c->slots);
	port_async_wait_outside(c);
	keep_claim(c);
	port_link_close(&c->link);
	port_slots_forget(&c->slots);
	put_all_slots(c);
}

/** Sleeps for @ms, or until the client is being closed. */
static void nap(struct port_client *c, unsigned ms)
{
	uint64_t until = clock_now_ns() + ms * NSEC_PER_MSEC;

	while (!atomic_load(&c->stopping)) {
		struct pollfd p = {.fd = c->wake, .events = POLLIN};
		uint64_t now = clock_now_ns(), count;

		if (now >= until)
			return;
		if (poll(&p, 1, (int)((until - now) / NSEC_PER_MSEC) + 1) > 0 &&
		    read(c->wake, &count, sizeof(count)) < 0)
			return;
	}
}

static bool same_lun(const struct port_export *a, const struct port_export *b)
{
	return memcmp(a->uuid, b->uuid, sizeof(a->uuid)) == 0;
}

static void link_up(struct port_client *c, const struct port_link *link)
{
	port_slots_wait_all(&c->slots);
	c->link = *link;
	c->tail = 0;
	atomic_store(&c->kicked, 0);
	atomic_fetch_add(&c->reconnects, 1);
	mutex_lock(&c->state_lock);
	c->export = link->export;
	mutex_unlock(&c->state_lock);
	set_state(c, CLIENT_UP);
	put_all_slots(c);
	if (c->opt.changed)
		c->opt.changed(c->opt.ctx);
}

/** The link is lost: connects again, until it works, the LUN is gone, or the client is closed. */
static void reconnect(struct port_client *c)
{
	uint64_t deadline = clock_now_ns() + c->opt.retry_ms * NSEC_PER_MSEC;
	unsigned backoff = BACKOFF_MIN_MS;

	set_state(c, CLIENT_DOWN);
	evacuate(c);
	while (!atomic_load(&c->stopping)) {
		struct port_link link;
		int err = port_link_open(&link, &c->opt, NULL);

		if (!err) {
			if (same_lun(&link.export, &c->export)) {
				link_up(c, &link);
				return;
			}
			/* Another LUN under the old name: its bytes are not ours to touch. */
			port_link_close(&link);
			set_state(c, CLIENT_GONE);
			return;
		}
		if (err == -ENOENT)
			forget_claim(
				c); /* nobody need wait for us: there is nothing to replay to */
		if (clock_now_ns() >= deadline && atomic_load(&c->state) == CLIENT_DOWN)
			set_state(c, CLIENT_FAILED);
		nap(c, backoff);
		backoff = backoff * 2 < BACKOFF_MAX_MS ? backoff * 2 : BACKOFF_MAX_MS;
	}
}

/** Reads one message of the daemon. Returns false when the link is lost. */
static bool hear(struct port_client *c)
{
	_Alignas(8) char buf[sizeof(struct port_msg_changed)];
	const struct port_msg_changed *changed = (const void *)buf;
	int fds[PORT_FDS_MAX];
	unsigned n_fds = 0;
	ssize_t len = port_socket_recv(c->link.sock, buf, sizeof(buf), fds, &n_fds, MSG_DONTWAIT);

	if (len == -EAGAIN)
		return true;
	while (n_fds)
		close(fds[--n_fds]);
	if (len <= 0)
		return false;
	switch (port_msg_check(buf, (size_t)len)) {
	case PORT_MSG_CHANGED:
		mutex_lock(&c->state_lock);
		port_export_from_wire(&c->export, &changed->export);
		mutex_unlock(&c->state_lock);
		if (c->opt.changed)
			c->opt.changed(c->opt.ctx);
		return true;
	case PORT_MSG_GONE:
		set_state(c, CLIENT_GONE);
		evacuate(c);
		return true;
	default:
		return false;
	}
}

static void *keeper_main(void *arg)
{
	struct port_client *c = arg;

	while (!atomic_load(&c->stopping)) {
		struct pollfd p[2] = {
			{.fd = c->wake, .events = POLLIN},
			{.fd = c->link.sock, .events = POLLIN},
		};
		bool armed = atomic_load(&c->trim_armed) && c->link.shm;
		int n = poll(p, 2, armed ? (int)c->opt.idle_ms : -1);
		uint64_t count;

		if (n < 0 && errno != EINTR)
			nap(c, BACKOFF_MAX_MS);
		if (n > 0 && p[0].revents && read(c->wake, &count, sizeof(count)) < 0)
			continue;
		if (c->link.shm && ((n > 0 && p[1].revents && !hear(c)) || atomic_load(&c->kicked)))
			reconnect(c);
		else if (n == 0 && c->link.shm)
			tick(c);
	}
	return NULL;
}

int port_thread_start(pthread_t *ret_thread, size_t stack, void *(*main)(void *), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, stack);
	/* Signals are the program's: none for a thread that it does not know of. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(ret_thread, &attr, main, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}

int port_keeper_start(struct port_client *c)
{
	return port_thread_start(&c->keeper, STACK_SIZE, keeper_main, c);
}

void port_keeper_wake(struct port_client *c)
{
	uint64_t one = 1;
	ssize_t n = write(c->wake, &one, sizeof(one));

	(void)n; /* only when the counter is full, and then it is awake */
}

void port_keeper_stop(struct port_client *c)
{
	atomic_store(&c->stopping, 1);
	port_keeper_wake(c);
	pthread_join(c->keeper, NULL);
}
