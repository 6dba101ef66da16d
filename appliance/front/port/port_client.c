/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The path of a request: take a slot, copy in, submit, ring if the daemon sleeps, wait on the
 * slot's own cell, copy out, free the slot. When the link is lost under it, the slot is freed and
 * all is done again on the next link. The rest of the client's life is the keeper's.
 */
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "front/port/port_client_private.h"

/* What a try returns when the link was lost under it; no errno of a LUN. */
#define LINK_LOST (-10000)

#define SPIN_LOOKS	200u /* some microseconds */
#define SPIN_SCORE_MAX	16u
#define SPIN_SCORE_PAYS 4u
#define SPIN_PROBE	32u /* one op in so many is tried when it does not pay */

/* --- submit and wait --- */

static void ring_doorbell(struct port_client *c)
{
	struct port_box *box = port_shm_box(c->link.shm);
	uint64_t one = 1;

	if (!atomic_load(&box->sleeping) || !atomic_exchange(&box->sleeping, 0))
		return;
	atomic_fetch_add_explicit(&c->doorbells, 1, memory_order_relaxed);
	if (write(c->link.doorbell, &one, sizeof(one)) < 0) {
		atomic_store(&c->kicked, 1);
		port_keeper_wake(c);
	}
}

void port_client_push(struct port_client *c, const struct port_cmd_image *cmd)
{
	mutex_lock(&c->ring_lock);
	port_cmd_store(port_shm_cmd(c->link.shm, c->tail), cmd);
	atomic_store(&port_shm_box(c->link.shm)->tail, ++c->tail);
	mutex_unlock(&c->ring_lock);
	ring_doorbell(c);
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/*
 * A sleep and a wake-up cost more than most requests take when the daemon is awake on another
 * processor. Where it needs ours, looking for longer would only keep it, or another thread of ours,
 * from running. So it is short, and adaptive: when it has not paid lately (a disk is slower than
 * our patience), it is tried now and then only.
 */
bool port_client_spin(struct port_client *c, bool (*ready)(void *at), void *at)
{
	uint32_t score = atomic_load_explicit(&c->spin_score, memory_order_relaxed);
	uint32_t looks = SPIN_LOOKS;

	if (score < SPIN_SCORE_PAYS &&
	    atomic_load_explicit(&c->ops, memory_order_relaxed) % SPIN_PROBE)
		looks = 1;
	for (uint32_t i = 0; i < looks; i++) {
		if (ready(at)) {
			if (i && score < SPIN_SCORE_MAX)
				atomic_store_explicit(&c->spin_score, score + 1,
						      memory_order_relaxed);
			return true;
		}
		relax();
	}
	if (looks > 1)
		atomic_store_explicit(&c->spin_score, score / 2, memory_order_relaxed);
	return false;
}

static bool is_answered(void *at)
{
	struct port_cell *cell = at;

	return atomic_load_explicit(&cell->state, memory_order_acquire) != PORT_CELL_BUSY;
}

/** Waits until the command of @tag is done. Returns its result or LINK_LOST. */
static int await(struct port_client *c, uint32_t tag)
{
	struct port_cell *cell = port_shm_cell(c->link.shm, tag);
	uint32_t state = PORT_CELL_BUSY;

	if (!port_client_spin(c, is_answered, cell)) {
		/* Failure: it has been answered meanwhile. */
		atomic_compare_exchange_strong(&cell->state, &state, PORT_CELL_WAITING);
		atomic_fetch_add_explicit(&c->sleeps, 1, memory_order_relaxed);
	}
	while ((state = atomic_load_explicit(&cell->state, memory_order_acquire)) ==
	       PORT_CELL_WAITING)
		syscall(SYS_futex, &cell->state, FUTEX_WAIT, PORT_CELL_WAITING, NULL, NULL, 0);
	if (state == PORT_CELL_DONE)
		return atomic_load_explicit(&cell->result, memory_order_relaxed);
	if (state != PORT_CELL_LOST) {
		atomic_store(&c->kicked, 1);
		port_keeper_wake(c);
	}
	return LINK_LOST;
}

void port_client_mark_replay(struct port_client *c, struct port_cmd_image *cmd)
{
	if (!port_op_changes(cmd->op) || cmd->flags & PORT_REPLAY)
		return;
	cmd->flags |= PORT_REPLAY;
	atomic_fetch_add(&c->replaying, 1);
}

void port_client_end_replay(struct port_client *c, struct port_cmd_image *cmd)
{
	if (!(cmd->flags & PORT_REPLAY))
		return;
	cmd->flags &= (uint16_t)~PORT_REPLAY;
	if (atomic_fetch_sub(&c->replaying, 1) == 1)
		port_keeper_drop_claim(c);
}

/** Carries out @cmd in slot cmd->tag, which the caller holds. Returns its result or LINK_LOST. */
static int run_in_slot(struct port_client *c, struct port_cmd_image *cmd)
{
	struct port_cell *cell = port_shm_cell(c->link.shm, cmd->tag);
	int result;

	atomic_store(&cell->state, PORT_CELL_BUSY);
	if (atomic_load(&c->state) != CLIENT_UP)
		return LINK_LOST;
	port_client_push(c, cmd);
	result = await(c, cmd->tag);
	if (result == LINK_LOST)
		port_client_mark_replay(c, cmd);
	return result;
}

void port_client_put_slot(struct port_client *c, uint32_t tag)
{
	port_slots_put(&c->slots, tag);
	if (atomic_load(&c->n_waiting))
		port_async_kick(c);
}

void port_client_arm_trim(struct port_client *c)
{
	if (!atomic_load_explicit(&c->trim_armed, memory_order_relaxed) &&
	    !atomic_exchange(&c->trim_armed, 1))
		port_keeper_wake(c);
}

/** Takes a slot of a link that is up; waits for both. Returns its number or -ESHUTDOWN. */
static int enter(struct port_client *c)
{
	for (;;) {
		uint32_t tag = port_slots_take(&c->slots);
		int state = atomic_load(&c->state);

		if (state == CLIENT_UP)
			return (int)tag;
		port_client_put_slot(c, tag);
		if (state == CLIENT_FAILED || state == CLIENT_GONE)
			return -ESHUTDOWN;
		mutex_lock(&c->state_lock);
		while (atomic_load(&c->state) == CLIENT_DOWN)
			mutex_wait(&c->state_lock, &c->state_changed);
		mutex_unlock(&c->state_lock);
	}
}

int port_client_result(int result)
{
	if (result < 0)
		return result >= -4095 ? result : -EIO;
	return result == 0 ? 0 : -EIO;
}

/**
 * Copies the answer out of the slot. @result is as the daemon gave it and may be anything. Returns
 * 0, a number of extents, or -errno.
 */
static int finish(struct port_client *c, const struct port_cmd_image *cmd, int result, void *buf)
{
	const struct port_extent_wire *wire = port_shm_data(c->link.shm, cmd->tag);
	struct port_extent *extents = buf;
	uint64_t sum = 0;

	if (cmd->op == PORT_READ && result == 0)
		memcpy(buf, wire, cmd->len);
	if (cmd->op != PORT_EXTENTS || result < 0)
		return port_client_result(result);
	if (result == 0 || (uint32_t)result > cmd->room)
		return -EIO;
	for (int i = 0; i < result; i++) {
		uint64_t len = *(const volatile uint64_t *)&wire[i].len;

		if (len == 0 || len > cmd->len - sum)
			return -EIO;
		sum += len;
		extents[i].len = len;
		extents[i].flags = (uint32_t) * (const volatile uint64_t *)&wire[i].flags &
				   (PORT_EXTENT_HOLE | PORT_EXTENT_ZERO);
	}
	return result;
}

/** One command, as often as it takes. Returns as finish(), or -ESHUTDOWN. */
static int run(struct port_client *c, struct port_cmd_image *cmd, void *buf)
{
	bool touches = cmd->op == PORT_READ || cmd->op == PORT_WRITE || cmd->op == PORT_EXTENTS;

	for (;;) {
		int tag = enter(c), result;

		if (tag < 0) {
			port_client_end_replay(c, cmd);
			return tag;
		}
		cmd->tag = (uint32_t)tag;
		if (cmd->op == PORT_WRITE)
			memcpy(port_shm_data(c->link.shm, cmd->tag), buf, cmd->len);
		result = run_in_slot(c, cmd);
		if (result != LINK_LOST)
			result = finish(c, cmd, result, buf);
		port_client_put_slot(c, cmd->tag);
		if (touches)
			port_client_arm_trim(c);
		if (result != LINK_LOST) {
			port_client_end_replay(c, cmd);
			return result;
		}
		atomic_fetch_add_explicit(&c->replays, 1, memory_order_relaxed);
	}
}

/* --- what others call --- */

int port_client_io(struct port_client *c, enum port_op op, unsigned flags, uint64_t off,
		   uint64_t len, void *buf)
{
	bool data = op == PORT_READ || op == PORT_WRITE;
	uint64_t max = data ? PORT_SLOT_SIZE : PORT_RANGE_MAX;

	atomic_fetch_add_explicit(&c->ops, 1, memory_order_relaxed);
	do {
		uint64_t n = len < max ? len : max;
		struct port_cmd_image cmd = {
			.op = (uint16_t)op,
			.flags = (uint16_t)flags,
			.off = off,
			.len = n,
		};
		int err;

		if (n == 0 && op != PORT_FLUSH)
			return 0;
		err = run(c, &cmd, buf);
		if (err)
			return err;
		off += n;
		len -= n;
		if (data)
			buf = (char *)buf + n;
	} while (len);
	return 0;
}

int port_client_extents(struct port_client *c, uint64_t off, uint64_t len,
			struct port_extent *extents, unsigned *n)
{
	struct port_cmd_image cmd = {
		.op = PORT_EXTENTS,
		.off = off,
		.len = len < PORT_RANGE_MAX ? len : PORT_RANGE_MAX,
		.room = *n < PORT_EXTENTS_MAX ? *n : PORT_EXTENTS_MAX,
	};
	int result;

	atomic_fetch_add_explicit(&c->ops, 1, memory_order_relaxed);
	result = run(c, &cmd, extents);
	if (result < 0)
		return result;
	*n = (unsigned)result;
	return 0;
}

void port_client_get_export(struct port_client *c, struct port_export *ret_export)
{
	mutex_scope(&c->state_lock);
	*ret_export = c->export;
}

void port_client_get_stats(struct port_client *c, struct port_client_stats *ret_stats)
{
	struct stat st = {0};

	*ret_stats = (struct port_client_stats){
		.ops = atomic_load(&c->ops),
		.reconnects = atomic_load(&c->reconnects),
		.replays = atomic_load(&c->replays),
		.doorbells = atomic_load(&c->doorbells),
		.sleeps = atomic_load(&c->sleeps),
	};
	/* The keeper changes the link only with all slots in hand. */
	if (!port_slots_pin(&c->slots))
		return;
	if (atomic_load(&c->state) == CLIENT_UP && fstat(c->link.memfd, &st) == 0)
		ret_stats->resident_bytes = (uint64_t)st.st_blocks * 512;
	port_slots_unpin(&c->slots);
}

static void client_free(struct port_client *c)
{
	port_link_close(&c->link);
	port_keeper_drop_claim(c);
	if (c->wake >= 0)
		close(c->wake);
	port_slots_destroy(&c->slots);
	mutex_destroy(&c->ring_lock);
	mutex_destroy(&c->state_lock);
	mutex_destroy(&c->waiting_lock);
	pthread_cond_destroy(&c->state_changed);
	free((char *)c->opt.socket);
	free((char *)c->opt.lun);
	free((char *)c->opt.name);
	free(c);
}

static struct port_client *client_new(const struct port_client_options *opt)
{
	struct port_client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->opt = *opt;
	c->opt.socket = strdup(opt->socket ? opt->socket : PORT_DEFAULT_SOCKET);
	c->opt.lun = strdup(opt->lun);
	c->opt.name = strdup(opt->name ? opt->name : "client");
	if (!c->opt.retry_ms)
		c->opt.retry_ms = PORT_DEFAULT_RETRY_MS;
	if (!c->opt.idle_ms)
		c->opt.idle_ms = PORT_DEFAULT_IDLE_MS;
	c->link = PORT_LINK_NONE;
	c->old_claim = -1;
	c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* Held while nothing else is taken, by threads that may hold locks of their own. */
	mutex_init(&c->ring_lock, LOCK_RANK_LEAF);
	mutex_init(&c->state_lock, LOCK_RANK_LEAF);
	mutex_init(&c->waiting_lock, LOCK_RANK_LEAF);
	list_init(&c->waiting);
	pthread_cond_init(&c->state_changed, NULL);
	if (!c->opt.socket || !c->opt.lun || !c->opt.name || c->wake < 0 ||
	    port_slots_init(&c->slots, c->opt.idle_ms, port_keeper_punch, c)) {
		client_free(c);
		return NULL;
	}
	return c;
}

static int start_threads(struct port_client *c)
{
	int err = port_keeper_start(c);

	if (err || !c->opt.async)
		return err;
	err = port_async_start(c);
	if (err)
		port_keeper_stop(c);
	return err;
}

int port_client_open(const struct port_client_options *opt, struct port_client **ret_client,
		     struct reason *why)
{
	struct port_client *c;
	int err;

	if (strlen(opt->lun) >= PORT_NAME_MAX)
		return reason_set(why, ENOENT, "%s: no such LUN", opt->lun);
	c = client_new(opt);
	if (!c)
		return reason_set(why, ENOMEM, "out of memory or descriptors");
	err = port_link_open(&c->link, &c->opt, why);
	if (!err) {
		c->export = c->link.export;
		err = start_threads(c);
		if (err)
			reason_set(why, -err, "cannot start a thread: %s", strerror(-err));
	}
	if (err) {
		client_free(c);
		return err;
	}
	*ret_client = c;
	return 0;
}

void port_client_close(struct port_client *c)
{
	if (!c)
		return;
	if (c->opt.async)
		port_async_stop(c);
	port_keeper_stop(c);
	client_free(c);
}
