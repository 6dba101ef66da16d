/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One client, on one reactor from its first message to its last.
 *
 *	GREETING --HELLO--> READY --ATTACH--> ATTACHED
 *	    any of them --end of the socket, violation, stop--> CLOSING --> gone
 *
 * CLOSING waits for what may still call back: LUN I/O (which reads and writes the shared memory, so
 * the mapping stays until it is done), the receive and doorbell ops, messages on their way. Then
 * the socket is closed: the client has the results of all that was carried out before it sees the
 * end. The session leaves the server's list and is freed.
 *
 * The client rings once; from then on the session looks at the ring itself, in every turn of the
 * reactor, until that goes to sleep and asks for the bell again. A turn of work: take all commands
 * there are, start each. Many are done at once, inside lun_submit(). Completions go straight into
 * the cells; those who sleep on them are woken together at the end of the turn. Nothing here waits
 * for the client: answers of the handshake are sent without blocking, and a client that does not
 * read them is closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "event/worker.h"
#include "front/port/port_private.h"
#include "front/port/port_socket.h"

#define RX_SIZE	   256u /* the longest message of a client is shorter */
#define TICK_NS	   (5 * NSEC_PER_SEC)
#define IDLE_TURNS 256u /* after which the client is asked to ring again */

enum session_state { GREETING, READY, ATTACHED, CLOSING };

/** A command being carried out; one for each slot. */
struct port_io {
	struct lun_io io;
	struct iovec iov;
	struct port_session *session;
	struct port_request req;
};

struct port_session {
	/* constant */
	struct port_server *server;
	struct reactor *reactor;
	uint64_t id, connected_ns;
	pid_t pid;
	uid_t uid;
	int sock;

	/* owned by the reactor's thread */
	enum session_state state;
	struct reactor_op rx_op, bell_op;
	struct reactor_msg start_msg;
	bool rx_armed, bell_armed, watching;
	struct port_ring ring;
	unsigned version; /* of the protocol; from READY on */
	uint64_t put_off; /* bit i: the command of slot i waits for the end of the grace period */
	struct port_io *ios; /* PORT_SLOTS, mapped: pages come with use */
	unsigned read_flags; /* enum lun_io_flags, of every READ */
	int bell;
	struct reactor_poller poller; /* on while the client need not ring */
	unsigned idle_turns;	      /* how often it has found nothing in a row */
	struct reactor_task wake_task;
	struct reactor_timer tick; /* armed while there may be something to give back */
	uint64_t ops_at_tick;
	_Alignas(8) char rx[RX_SIZE];
	struct lun *releasing;
	struct worker_job release;

	/* written by the reactor's thread under server->lock, read by others under it */
	char name[PORT_CLIENT_NAME_MAX];
	struct lun *lun; /* NULL: not attached */
	struct lun_export *export;
	bool read_only;
	int memfd;
	bool shm_gone; /* or about to be */

	/* any thread */
	struct reactor_msg close_msg, event_msg;
	_Atomic bool close_posted, event_posted; /* the message is on its way */
	_Atomic bool lun_resized, lun_going;
	struct lun_watcher watcher;
	_Atomic unsigned inflight;
	metric_counter ops, bytes_read, bytes_written, errors, doorbells, wakeups;

	struct list_node link; /* under server->lock */
};

static void session_close(struct port_session *p);
static void session_try_free(struct port_session *p);

static void violate(struct port_session *p, const char *what)
{
	if (p->state == CLOSING)
		return;
	log_warn("port.violation", "client=%llu pid=%d name=\"%s\" what=\"%s\"",
		 (unsigned long long)p->id, (int)p->pid, p->name, what);
	metric_add(&p->server->violations, 1);
	session_close(p);
}

/* --- commands --- */

static int32_t put_extents(struct port_session *p, struct port_io *pio)
{
	struct port_extent_wire *wire = port_shm_data(p->ring.shm, pio->req.tag);
	const struct block_extent *e = pio->io.extents;
	unsigned n = pio->io.n_extents;

	for (unsigned i = 0; i < n; i++)
		wire[i] = (struct port_extent_wire){.len = e[i].len, .flags = e[i].flags};
	return (int32_t)n;
}

static_assert((int)PORT_EXTENT_HOLE == (int)BLOCK_EXTENT_HOLE, "same bits");
static_assert((int)PORT_EXTENT_ZERO == (int)BLOCK_EXTENT_ZERO, "same bits");

static void complete(struct port_session *p, uint32_t tag, int32_t result)
{
	if (result < 0 && result != -EILSEQ)
		metric_add(&p->errors, 1);
	if (port_ring_complete(&p->ring, tag, result))
		reactor_defer(p->reactor, &p->wake_task);
}

/**
 * Wakes those whose commands were done in this turn: not one by one as they are, because who is
 * woken takes the processor, and the rest of the batch would wait.
 */
static void wake_waiters(struct reactor_task *t)
{
	struct port_session *p = container_of(t, struct port_session, wake_task);

	metric_add(&p->wakeups, port_ring_wake(&p->ring));
	session_try_free(p);
}

/**
 * The client has the result before anybody gets the range: should we die in between, it will not
 * replay what another has overwritten.
 */
static void io_settled(struct lun_io *io)
{
	struct port_io *pio = container_of(io, struct port_io, io);
	int32_t result = io->err;

	if (pio->req.op == PORT_EXTENTS) {
		if (!result)
			result = put_extents(pio->session, pio);
		free(io->extents);
	}
	if (pio->req.op == PORT_COMPARE_AND_WRITE && result == -EILSEQ)
		memcpy(pio->iov.iov_base, &io->miscompare_off, sizeof(io->miscompare_off));
	complete(pio->session, pio->req.tag, result);
}

/** Nobody has the range until the write is done: should we die first, the client writes again. */
static void io_matched(struct lun_io *io)
{
	struct port_io *pio = container_of(io, struct port_io, io);

	port_ring_matched(&pio->session->ring, pio->req.tag);
}

static void io_done(struct lun_io *io)
{
	struct port_session *p = container_of(io, struct port_io, io)->session;

	if (atomic_fetch_sub_explicit(&p->inflight, 1, memory_order_relaxed) == 1)
		session_try_free(p);
}

static const enum lun_op lun_ops[] = {
	[PORT_READ] = LUN_READ,
	[PORT_WRITE] = LUN_WRITE,
	[PORT_FLUSH] = LUN_FLUSH,
	[PORT_TRIM] = LUN_UNMAP,
	[PORT_ZERO] = LUN_ZERO,
	[PORT_EXTENTS] = LUN_STATUS,
	[PORT_PREFETCH] = LUN_PREFETCH,
	[PORT_WRITE_SAME] = LUN_WRITE_SAME,
	[PORT_COMPARE_AND_WRITE] = LUN_COMPARE_AND_WRITE,
};

static void start(struct port_session *p, const struct port_request *req)
{
	struct port_io *pio = &p->ios[req->tag];
	struct lun_io *io = &pio->io;
	bool changes = port_op_changes(req->op);
	uint64_t data = port_data_len(req->op, req->len, req->room);

	metric_add(&p->ops, 1);
	if (p->read_only && changes) {
		complete(p, req->tag, -EROFS);
		return;
	}
	memset(io, 0, sizeof(*io));
	pio->session = p;
	pio->req = *req;
	io->op = lun_ops[req->op];
	/*
	 * The client can write its data area whenever it likes. And nobody is to read a change that
	 * is not answered yet: it may land again (docs/port.md).
	 */
	io->flags = LUN_IO_UNSTABLE | (changes ? LUN_IO_ATOMIC : 0) |
		    (req->flags & PORT_FUA ? LUN_IO_FUA : 0) |
		    (req->flags & PORT_MAY_TRIM ? LUN_IO_MAY_UNMAP : 0) |
		    (req->flags & PORT_FAST ? LUN_IO_FAST : 0);
	io->off = req->off;
	io->len = req->len;
	io->reg_index = -1;
	io->reactor = p->reactor;
	io->export = p->export;
	io->matched = io_matched;
	io->settled = io_settled;
	io->done = io_done;
	if (data) {
		pio->iov.iov_base = port_shm_data(p->ring.shm, req->tag);
		pio->iov.iov_len = data;
		io->iov = &pio->iov;
		io->niov = 1;
		if (req->op == PORT_READ)
			io->flags |= p->read_flags;
		if (req->op == PORT_WRITE_SAME)
			io->pattern_len = req->room;
		metric_add(req->op == PORT_READ ? &p->bytes_read : &p->bytes_written, req->len);
	} else if (req->op == PORT_EXTENTS) {
		io->n_extents = req->room;
		io->extents = calloc(req->room, sizeof(*io->extents));
		if (!io->extents) {
			complete(p, req->tag, -ENOMEM);
			return;
		}
	}
	atomic_fetch_add_explicit(&p->inflight, 1, memory_order_relaxed);
	lun_submit(p->lun, io);
}

/** A replay: now, or never. */
static void start_replay(struct port_session *p, const struct port_request *req)
{
	struct port_server *s = p->server;

	if (port_grace_enter(&s->grace)) {
		start(p, req);
		port_grace_leave(&s->grace);
		return;
	}
	log_warn("port.replay.refused", "client=%llu pid=%d name=\"%s\" off=%llu len=%llu",
		 (unsigned long long)p->id, (int)p->pid, p->name, (unsigned long long)req->off,
		 (unsigned long long)req->len);
	metric_add(&s->stale_replays, 1);
	complete(p, req->tag, -EIO);
}

static void admit(struct port_session *p, const struct port_request *req)
{
	if (req->flags & PORT_REPLAY) {
		start_replay(p, req);
	} else if (port_grace_is_over(&p->server->grace)) {
		start(p, req);
	} else {
		p->ios[req->tag].req = *req;
		p->put_off |= 1ull << req->tag;
	}
}

/** Starts what was put off. */
static void resume(struct port_session *p)
{
	while (p->put_off) {
		struct port_request req = p->ios[__builtin_ctzll(p->put_off)].req;

		p->put_off &= p->put_off - 1;
		start(p, &req);
	}
}

/**
 * Starts all commands there are, but no more than a ring full in a row: those that are done at once
 * let the client bring new ones meanwhile, and others want their turn too.
 */
static void work(struct reactor_poller *poller)
{
	struct port_session *p = container_of(poller, struct port_session, poller);
	struct port_request req;
	const char *what;
	unsigned n = 0;
	int got = 0;

	for (; n < PORT_RING && p->state == ATTACHED; n++) {
		got = port_ring_take(&p->ring, &req, &what);
		if (got <= 0)
			break;
		admit(p, &req);
	}
	if (got < 0)
		violate(p, what);
	if (p->state != ATTACHED)
		return;
	p->idle_turns = n ? 0 : p->idle_turns + 1;
	if (n && !p->tick.armed)
		reactor_timer_arm(p->reactor, &p->tick, reactor_now(p->reactor) + TICK_NS);
	/* Others keep the reactor from sleeping; looking for nothing would slow them. */
	if (p->idle_turns >= IDLE_TURNS && port_ring_sleep(&p->ring))
		reactor_poller_remove(poller);
}

static bool has_work(struct reactor_poller *poller)
{
	return port_ring_ready(&container_of(poller, struct port_session, poller)->ring);
}

static bool await_bell(struct reactor_poller *poller)
{
	return port_ring_sleep(&container_of(poller, struct port_session, poller)->ring);
}

/** Never read: the poll tells each ring, whatever the count is. */
static void bell_arm(struct port_session *p)
{
	p->bell_armed = true;
	io_uring_prep_poll_multishot(reactor_sqe(p->reactor, &p->bell_op), p->bell, POLLIN);
}

/** The client has rung: from now on the reactor looks at the ring. */
static void bell_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct port_session *p = container_of(op, struct port_session, bell_op);

	p->bell_armed = flags & IORING_CQE_F_MORE;
	if (p->state != ATTACHED) {
		session_try_free(p);
		return;
	}
	if (res < 0 && res != -EINTR && res != -EAGAIN) {
		violate(p, "doorbell");
		return;
	}
	metric_add(&p->doorbells, 1);
	if (!p->bell_armed)
		bell_arm(p);
	p->idle_turns = 0;
	reactor_poller_add(p->reactor, &p->poller);
}

/** Gives back what an idle client does not need: page tables of its data area, its ios. */
static void tick(struct reactor_timer *t)
{
	struct port_session *p = container_of(t, struct port_session, tick);
	uint64_t ops = metric_read(&p->ops);

	if (ops != p->ops_at_tick || atomic_load(&p->inflight) || p->put_off) {
		p->ops_at_tick = ops;
		reactor_timer_arm(p->reactor, t, reactor_now(p->reactor) + TICK_NS);
		return;
	}
	madvise(p->ios, PORT_SLOTS * sizeof(*p->ios), MADV_DONTNEED);
	if (mmap((char *)p->ring.shm + PORT_DATA_OFF, PORT_SHM_SIZE - PORT_DATA_OFF,
		 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, p->memfd,
		 (off_t)PORT_DATA_OFF) == MAP_FAILED)
		violate(p, "no memory to map its data area");
}

/* --- the handshake --- */

static void answer(struct port_session *p, const void *msg, const int *fds, unsigned n_fds)
{
	const struct port_msg *h = msg;
	int err = port_socket_send(p->sock, msg, h->len, fds, n_fds, MSG_DONTWAIT);

	if (err == -EAGAIN)
		violate(p, "does not read its messages");
	else if (err)
		session_close(p);
}

static void refuse(struct port_session *p, int err, const char *text)
{
	struct port_msg_error m;

	port_msg_init(&m, PORT_MSG_ERROR, sizeof(m));
	m.err = err;
	strncpy(m.text, text, sizeof(m.text) - 1);
	answer(p, &m, NULL, 0);
}

static void fill_export(struct port_export_wire *w, const struct lun *lun, bool read_only)
{
	const char *description = lun_description(lun);
	struct block_info info;

	lun_get_block_info(lun, &info);
	memset(w, 0, sizeof(*w));
	strncpy(w->name, lun_name(lun), sizeof(w->name) - 1);
	if (description)
		strncpy(w->description, description, sizeof(w->description) - 1);
	memcpy(w->uuid, lun_identity(lun)->uuid, sizeof(w->uuid));
	w->size = lun_size(lun);
	w->block_size = lun_block_size(lun);
	w->flags = (read_only || lun_read_only(lun) ? PORT_EXPORT_READ_ONLY : 0) |
		   (info.can_zero_fast ? PORT_EXPORT_FAST_ZERO : 0) |
		   (info.rotational ? PORT_EXPORT_ROTATIONAL : 0) |
		   (info.discard_unit ? PORT_EXPORT_TRIM : 0);
}

static void on_hello(struct port_session *p, const struct port_msg_hello *m)
{
	struct port_msg_hello a;

	if (p->state != GREETING) {
		violate(p, "second HELLO");
		return;
	}
	p->version = m->version_max < PORT_VERSION ? m->version_max : PORT_VERSION;
	if (p->version < m->version_min || p->version < PORT_VERSION_MIN) {
		refuse(p, -EPROTONOSUPPORT, "no common version of the port");
		return;
	}
	mutex_lock(&p->server->lock);
	memcpy(p->name, m->name, sizeof(p->name));
	mutex_unlock(&p->server->lock);
	p->state = READY;
	port_msg_init(&a, PORT_MSG_HELLO, sizeof(a));
	a.version_min = a.version_max = p->version;
	strncpy(a.name, "ebb", sizeof(a.name) - 1);
	answer(p, &a, NULL, 0);
}

/** Index of the first LUN whose name is above @after. The list is sorted. */
static size_t first_after(struct lun **luns, size_t n, const char *after)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (strcmp(lun_name(luns[mid]), after) > 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

static void on_list(struct port_session *p, const struct port_msg_list *m)
{
	_cleanup_free_ struct port_msg_exports *a = NULL;
	struct lun **luns;
	size_t n, first, count;

	if (lun_table_list(p->server->luns, &luns, &n)) {
		refuse(p, -ENOMEM, "out of memory");
		return;
	}
	first = first_after(luns, n, m->after);
	count = n - first < PORT_EXPORTS_MAX ? n - first : PORT_EXPORTS_MAX;
	a = malloc(sizeof(*a) + count * sizeof(a->exports[0]));
	if (a) {
		port_msg_init(a, PORT_MSG_EXPORTS, sizeof(*a) + count * sizeof(a->exports[0]));
		a->n = (uint32_t)count;
		a->more = first + count < n;
		for (size_t i = 0; i < count; i++)
			fill_export(&a->exports[i], luns[first + i], false);
	}
	lun_table_free_list(luns, n);
	if (a)
		answer(p, a, NULL, 0);
	else
		refuse(p, -ENOMEM, "out of memory");
}

/** Makes the shared memory and what goes with it. 0 or -errno, with nothing left behind. */
static int make_shm(struct port_session *p)
{
	_cleanup_close_ int memfd = memfd_create("ebb-port", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	_cleanup_close_ int bell = eventfd(0, EFD_CLOEXEC);
	void *shm, *ios;

	if (memfd < 0 || bell < 0 || ftruncate(memfd, (off_t)PORT_SHM_SIZE) < 0 ||
	    fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	ios = mmap(NULL, PORT_SLOTS * sizeof(*p->ios), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ios == MAP_FAILED)
		return -errno;
	shm = mmap(NULL, PORT_SHM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd,
		   0);
	if (shm == MAP_FAILED) {
		int err = -errno;

		munmap(ios, PORT_SLOTS * sizeof(*p->ios));
		return err;
	}
	p->ios = ios;
	p->bell = take_fd(bell);
	port_ring_init(&p->ring, shm, p->version);
	mutex_lock(&p->server->lock);
	p->memfd = take_fd(memfd);
	mutex_unlock(&p->server->lock);
	return 0;
}

static void lun_changed(struct lun_watcher *w, struct lun *lun, enum lun_event ev)
{
	struct port_session *p = container_of(w, struct port_session, watcher);

	atomic_store(ev == LUN_EVENT_RESIZED ? &p->lun_resized : &p->lun_going, true);
	if (!atomic_exchange(&p->event_posted, true))
		reactor_post(p->reactor, &p->event_msg);
}

static void on_event(struct reactor_msg *m)
{
	struct port_session *p = container_of(m, struct port_session, event_msg);

	/* First: what comes from now on is posted again. */
	atomic_store(&p->event_posted, false);
	if (p->state == ATTACHED && atomic_load(&p->lun_going)) {
		struct port_msg_gone gone;

		port_msg_init(&gone, PORT_MSG_GONE, sizeof(gone));
		answer(p, &gone, NULL, 0);
		session_close(p);
	} else if (p->state == ATTACHED && atomic_exchange(&p->lun_resized, false)) {
		struct port_msg_changed changed;

		port_msg_init(&changed, PORT_MSG_CHANGED, sizeof(changed));
		fill_export(&changed.export, p->lun, p->read_only);
		answer(p, &changed, NULL, 0);
	}
	if (p->state == ATTACHED && port_grace_is_over(&p->server->grace))
		resume(p);
	session_try_free(p);
}

/* Programs of ours by what they serve; those of others share one export. */
static const char *export_of(const char *client)
{
	static const struct {
		const char *client, *name;
	} known[] = {{"nbdkit", "nbd"}, {"ebb mount", "fuse"}, {"tcmu-runner", "tcmu-runner"}};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(client, known[i].client))
			return known[i].name;
	return "port";
}

static void attach(struct port_session *p, struct lun *lun, bool read_only, int claim)
{
	int fds[] = {p->memfd, p->bell, claim};
	struct port_msg_attached a;
	struct block_info info;

	lun_get_block_info(lun, &info);
	/* The kernel has cached what comes from a buffered store: once is enough. */
	p->read_flags = strcmp(info.mode, "buffered") == 0 ? LUN_IO_DPO : 0;
	p->export = lun_enter_export(lun, export_of(p->name));
	mutex_lock(&p->server->lock);
	p->lun = lun;
	p->read_only = read_only;
	mutex_unlock(&p->server->lock);
	p->state = ATTACHED;
	p->watching = true;
	lun_watch(lun, &p->watcher);
	port_msg_init(&a, PORT_MSG_ATTACHED, sizeof(a));
	fill_export(&a.export, lun, read_only);
	a.shm_size = PORT_SHM_SIZE;
	a.slots = PORT_SLOTS;
	a.ring = PORT_RING;
	a.slot_size = PORT_SLOT_SIZE;
	bell_arm(p);
	port_ring_sleep(&p->ring);
	answer(p, &a, fds, 3);
}

static void on_attach(struct port_session *p, const struct port_msg_attach *m)
{
	_cleanup_close_ int claim = -1; /* ours to close: the client has one of its own */
	struct lun *lun;
	int err;

	if (p->state != READY) {
		violate(p, "second ATTACH");
		return;
	}
	lun = lun_table_find(p->server->luns, m->lun);
	if (!lun) {
		refuse(p, -ENOENT, "no such LUN");
		return;
	}
	err = port_grace_claim(&p->server->grace, &claim);
	if (!err)
		err = make_shm(p);
	if (err) {
		lun_unref(lun); /* not the last: the table has one */
		refuse(p, err, "no shared memory to be had");
		return;
	}
	attach(p, lun, (m->flags & PORT_ATTACH_READ_ONLY) || lun_read_only(lun), claim);
}

static void on_message(struct port_session *p, size_t len)
{
	int type = port_msg_check(p->rx, len);

	if (type == PORT_MSG_HELLO)
		on_hello(p, (const void *)p->rx);
	else if (p->state == GREETING)
		violate(p, "no HELLO");
	else if (type == PORT_MSG_LIST)
		on_list(p, (const void *)p->rx);
	else if (type == PORT_MSG_ATTACH)
		on_attach(p, (const void *)p->rx);
	else
		violate(p, "malformed message");
}

static void rx_arm(struct port_session *p)
{
	p->rx_armed = true;
	io_uring_prep_recv(reactor_sqe(p->reactor, &p->rx_op), p->sock, p->rx, sizeof(p->rx), 0);
}

static void rx_done(struct reactor_op *op, int res, uint32_t flags)
{
	struct port_session *p = container_of(op, struct port_session, rx_op);

	p->rx_armed = false;
	if (p->state != CLOSING && res > 0)
		on_message(p, (size_t)res);
	else if (p->state != CLOSING && res != -EINTR && res != -EAGAIN)
		session_close(p);
	if (p->state == CLOSING)
		session_try_free(p);
	else
		rx_arm(p);
}

/* --- life --- */

static void session_close(struct port_session *p)
{
	if (p->state == CLOSING)
		return;
	p->state = CLOSING;
	reactor_poller_remove(&p->poller);
	reactor_timer_cancel(p->reactor, &p->tick);
	if (p->rx_armed)
		reactor_cancel(p->reactor, &p->rx_op);
	if (p->bell_armed)
		reactor_cancel(p->reactor, &p->bell_op);
	if (p->watching)
		lun_unwatch(p->lun, &p->watcher);
	p->watching = false;
}

/** What may block: unmapping, closing, and the end of a LUN that was removed. */
static void release_run(struct worker_job *j)
{
	struct port_session *p = container_of(j, struct port_session, release);

	if (p->ring.shm) {
		munmap(p->ring.shm, PORT_SHM_SIZE);
		munmap(p->ios, PORT_SLOTS * sizeof(*p->ios));
		close(p->bell);
		close(p->memfd);
	}
	close(p->sock);
	if (p->releasing)
		lun_unref(p->releasing);
}

static void release_done(struct worker_job *j)
{
	struct port_session *p = container_of(j, struct port_session, release);

	port_server_forget(p->server, &p->link);
	free(p);
}

/** Lets go of a session that is closing once nothing can call it back. */
static void session_try_free(struct port_session *p)
{
	if (p->state != CLOSING || p->rx_armed || p->bell_armed || port_ring_wake_due(&p->ring) ||
	    atomic_load(&p->inflight))
		return;
	mutex_lock(&p->server->lock);
	/* Messages on their way must have run; from now on none can be posted. */
	if (atomic_load(&p->event_posted) || atomic_exchange(&p->close_posted, true)) {
		mutex_unlock(&p->server->lock);
		return;
	}
	lun_leave_export(p->export);
	p->releasing = p->lun;
	p->lun = NULL;
	p->shm_gone = true;
	mutex_unlock(&p->server->lock);
	p->release = (struct worker_job){
		.run = release_run, .done = release_done, .reactor = p->reactor};
	worker_submit(&p->release);
}

static void on_close(struct reactor_msg *m)
{
	struct port_session *p = container_of(m, struct port_session, close_msg);

	atomic_store(&p->close_posted, false);
	session_close(p);
	session_try_free(p);
}

void port_session_close(struct port_session *p)
{
	mutex_assert_held(&p->server->lock);
	if (!atomic_exchange(&p->close_posted, true))
		reactor_post(p->reactor, &p->close_msg);
}

void port_session_resume(struct port_session *p)
{
	mutex_assert_held(&p->server->lock);
	/* One that is being let go of is in the list until it is freed. */
	if (!p->shm_gone && !atomic_exchange(&p->event_posted, true))
		reactor_post(p->reactor, &p->event_msg);
}

static void on_start(struct reactor_msg *m)
{
	struct port_session *p = container_of(m, struct port_session, start_msg);

	rx_arm(p);
}

int port_session_start(struct port_server *s, struct reactor *r, const struct port_peer *peer)
{
	struct port_session *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->server = s;
	p->reactor = r;
	p->connected_ns = clock_now_ns();
	p->pid = peer->pid;
	p->uid = peer->uid;
	p->sock = peer->sock;
	p->bell = p->memfd = -1;
	p->rx_op.done = rx_done;
	p->bell_op.done = bell_done;
	p->start_msg.fn = on_start;
	p->close_msg.fn = on_close;
	p->event_msg.fn = on_event;
	p->watcher.fn = lun_changed;
	list_init(&p->watcher.link);
	reactor_task_init(&p->wake_task, wake_waiters);
	p->poller = (struct reactor_poller){.ready = has_work, .run = work, .sleep = await_bell};
	list_init(&p->poller.link);
	reactor_timer_init(&p->tick, tick);
	mutex_lock(&s->lock);
	p->id = ++s->next_id;
	list_add_tail(&s->sessions, &p->link);
	s->n_sessions++;
	/* Before any close can be posted: messages of a sender arrive in order. */
	reactor_post(r, &p->start_msg);
	mutex_unlock(&s->lock);
	return 0;
}

struct port_session *port_session_from_link(struct list_node *link)
{
	return container_of(link, struct port_session, link);
}

pid_t port_session_pid(const struct port_session *p)
{
	return p->pid;
}

void port_session_get_info(struct port_session *p, struct port_client_info *ret_info)
{
	struct stat st = {0};

	mutex_assert_held(&p->server->lock);
	*ret_info = (struct port_client_info){
		.id = p->id,
		.pid = p->pid,
		.uid = p->uid,
		.read_only = p->read_only,
		.connected_ns = p->connected_ns,
		.inflight = atomic_load(&p->inflight),
		.ops = metric_read(&p->ops),
		.bytes_read = metric_read(&p->bytes_read),
		.bytes_written = metric_read(&p->bytes_written),
		.errors = metric_read(&p->errors),
		.doorbells = metric_read(&p->doorbells),
		.wakeups = metric_read(&p->wakeups),
	};
	memcpy(ret_info->name, p->name, sizeof(p->name));
	if (p->lun)
		strncpy(ret_info->lun, lun_name(p->lun), sizeof(ret_info->lun) - 1);
	/* Of a memfd: a look at its inode, no I/O. Those who report ask, not the reactor. */
	if (!p->shm_gone && p->memfd >= 0 && fstat(p->memfd, &st) == 0)
		ret_info->resident_bytes = (uint64_t)st.st_blocks * 512;
}
