/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The entrance for I/O. Whatever the front, an op goes through the same stations:
 *
 *   admit    range, read-only, fence; refused here, it has changed nothing. A read within one page
 *            that the cache has ends here too (read.c says why that is sound)
 *   memory   compound ops get their bounce buffer, before any lock, so that nobody waits for
 *            memory with a range in hand
 *   range    the range lock (a copy between two LUNs: both, in the order of their addresses);
 *            then the fence again, which may have come down meanwhile
 *   plan     block I/Os, one after the other (compound.c); one for plain ops. Reads look into the
 *            cache first (read.c), and may wait for another's read of the same pages
 *   finish   settled, unlock, count, done
 *
 * lun_submit() walks them as a state machine on the reactor's thread; lun_run() straight through on
 * the calling thread. A plain read costs no allocation and no system call of its own.
 *
 * Latency is taken from the reactor's clock: from the turn in which the op came in to the turn in
 * which its completion was reaped, which is what the initiator sees, at no clock read an op. Only
 * an op that ends in the turn it came in reads the clock itself.
 */
#include "lun/lun_private.h"

#include <errno.h>

#include "base/clock.h"

#define WR .writes = true, .ranged = true, .locks = true

const struct lun_op_traits lun_op_traits[LUN_OP_COUNT] = {
	[LUN_READ] = {.reads = true,
		      .ranged = true,
		      .locks = true,
		      .mode = RANGE_SHARED,
		      .class = LUN_CLASS_READ},
	[LUN_WRITE] = {WR, .mode = RANGE_EXCLUSIVE, .class = LUN_CLASS_WRITE},
	[LUN_FLUSH] = {.class = LUN_CLASS_FLUSH},
	[LUN_UNMAP] = {WR, .mode = RANGE_EXCLUSIVE, .class = LUN_CLASS_UNMAP},
	[LUN_ZERO] = {WR, .mode = RANGE_EXCLUSIVE, .class = LUN_CLASS_WRITE},
	[LUN_WRITE_SAME] = {WR, .mode = RANGE_EXCLUSIVE, .class = LUN_CLASS_WRITE,
			    .bounce = 256u << 10},
	[LUN_VERIFY] = {.reads = true,
			.ranged = true,
			.locks = true,
			.mode = RANGE_SHARED,
			.class = LUN_CLASS_OTHER,
			.bounce = 256u << 10},
	[LUN_COMPARE_AND_WRITE] = {WR, .reads = true, .mode = RANGE_ATOMIC,
				   .class = LUN_CLASS_WRITE, .bounce = 256u << 10},
	[LUN_OR_WRITE] = {WR, .reads = true, .mode = RANGE_ATOMIC, .class = LUN_CLASS_WRITE,
			  .bounce = 256u << 10},
	[LUN_COPY] = {WR, .mode = RANGE_EXCLUSIVE, .class = LUN_CLASS_OTHER, .bounce = 1u << 20},
	[LUN_STATUS] = {.reads = true, .ranged = true, .class = LUN_CLASS_OTHER},
	[LUN_PREFETCH] = {.reads = true,
			  .ranged = true,
			  .class = LUN_CLASS_OTHER,
			  .bounce = 256u << 10},
};

enum { NOT_PENDING, SUBMITTING, COMPLETED_INSIDE };

static const struct lun_op_traits *traits_of(const struct lun_io *io)
{
	return &lun_op_traits[io->op];
}

/* --- admit --- */

static bool in_range(const struct lun *lun, uint64_t off, uint64_t len)
{
	uint64_t size = lun_size(lun);

	return off <= size && len <= size - off;
}

/* 0, or what an op that reads or writes @lun under @flags is refused with. */
static int fenced(const struct lun *lun, unsigned flags, bool reads, bool writes)
{
	int fence = atomic_load_explicit((_Atomic int *)&lun->fence, memory_order_acquire);

	if (fence == LUN_FENCE_NONE || (flags & LUN_IO_OWNER))
		return 0;
	if (flags & LUN_IO_AUTHORIZED)
		return fence == LUN_FENCE_OWNER && (reads || writes) ? -ESHUTDOWN : 0;
	return writes || (reads && fence >= LUN_FENCE_ALL) ? -EPERM : 0;
}

/* Asked when the op comes, and again when it has its ranges. */
static int check_fences(const struct lun_io *io)
{
	const struct lun_op_traits *t = traits_of(io);
	int err = fenced(io->lun, io->flags, t->reads, t->writes);

	if (!err && io->op == LUN_COPY && io->src)
		err = fenced(io->src, io->flags, true, false);
	return err;
}

static int admit(struct lun *lun, const struct lun_io *io)
{
	const struct lun_op_traits *t = traits_of(io);
	int err;

	if (t->ranged && !in_range(lun, io->off, io->len))
		return -EINVAL;
	if (t->writes && lun->read_only)
		return -EROFS;
	err = check_fences(io);
	if (err)
		return err;
	if (t->bounce) {
		err = lun_compound_check(lun, io);
		if (err)
			return err;
		if (io->op == LUN_COPY && !in_range(io->src, io->src_off, io->len))
			return -EINVAL;
	}
	return 0;
}

/* --- counting --- */

static enum lun_class class_of(const struct lun_io *io)
{
	if (io->op == LUN_ZERO && (io->flags & LUN_IO_MAY_UNMAP))
		return LUN_CLASS_UNMAP;
	return traits_of(io)->class;
}

static void count_op(struct lun_counters *c, const struct lun_io *io, uint64_t ns)
{
	enum lun_class class = class_of(io);

	if (!io->err && class != LUN_CLASS_FLUSH)
		metric_add(&c->bytes[class], io->len);
	if (io->err && io->err != -EILSEQ)
		metric_add(&c->errors[class], 1);
	metric_hist_add(&c->latency[class], ns);
}

/* 0: up to 4 KiB; each further one takes three bits more. */
static unsigned size_of(uint64_t len)
{
	unsigned bits = len > 1 ? 64 - (unsigned)__builtin_clzll(len - 1) : 0;
	unsigned i = bits > 12 ? (bits - 10) / 3 : 0;

	return i < LUN_SIZES ? i : LUN_SIZES - 1;
}

static unsigned alignment_of(uint64_t ends)
{
	return ends & 4095 ? 0 : ends & 65535 ? 1 : 2;
}

static void count_kind(struct lun_detail *d, const struct lun_io *io)
{
	if (io->op <= LUN_WRITE)
		metric_add(&d->shapes[io->op][size_of(io->len)][alignment_of(io->off | io->len)],
			   1);
	else
		metric_add(&d->kinds[io->op], 1);
	if (io->err == -EILSEQ)
		metric_add(&d->miscompares, 1);
}

/*
 * Where the time went. What the store did within one turn, or for a caller without a reactor, is
 * taken to be all that was no waiting.
 */
static void count_stages(struct lun_detail *d, const struct lun_io *io, uint64_t ns)
{
	uint64_t store = io->store_ns;

	if (!store && io->store_inline && ns > io->queue_ns)
		store = ns - io->queue_ns;
	if (store)
		metric_add(&d->store_ns[class_of(io)], store);
	if (io->queue_ns)
		metric_add(&d->queue_ns[class_of(io)], io->queue_ns);
}

static void begin(struct lun *lun, struct lun_io *io, uint64_t now)
{
	io->lun = lun;
	io->start_ns = now;
	io->err = 0;
	io->miscompare_off = 0;
	io->bounce = NULL;
	io->bounce_buf = NULL;
	io->step = 0;
	io->pending = NOT_PENDING;
	io->queue_ns = io->store_ns = 0;
	io->store_inline = false;
	io->progress = 0;
	io->store_reads = io->waits = 0;
	io->missed = io->noted = io->entered = io->filling = false;
	io->writing = io->looked_again = false;
}

static void count(const struct lun_io *io, uint64_t now)
{
	uint64_t ns = now - io->start_ns;

	count_op(&io->lun->counters, io, ns);
	count_kind(&io->lun->detail, io);
	if (io->session)
		count_op(io->session, io, ns);
	if (io->export)
		lun_count_export(io, class_of(io));
}

/* Between the two an op is in flight. One that ends before the first is only counted. */
static void depart(struct lun_io *io)
{
	metric_add(&io->lun->counters.inflight, 1);
	if (io->session)
		metric_add(&io->session->inflight, 1);
}

static void arrive(struct lun_io *io, uint64_t now)
{
	count(io, now);
	count_stages(&io->lun->detail, io, now - io->start_ns);
	metric_sub(&io->lun->counters.inflight, 1);
	if (io->session)
		metric_sub(&io->session->inflight, 1);
}

static void count_conflict(struct lun_io *io)
{
	metric_add(&io->lun->counters.conflicts, 1);
	if (io->session)
		metric_add(&io->session->conflicts, 1);
}

/* --- telling --- */

static _Atomic(lun_error_fn) error_fn;

void lun_set_error_fn(lun_error_fn fn)
{
	atomic_store(&error_fn, fn);
}

const char *lun_op_name(enum lun_op op)
{
	static const char *const names[] = {
		[LUN_READ] = "read",	     [LUN_WRITE] = "write",
		[LUN_FLUSH] = "flush",	     [LUN_UNMAP] = "unmap",
		[LUN_ZERO] = "zero",	     [LUN_WRITE_SAME] = "write_same",
		[LUN_VERIFY] = "verify",     [LUN_COMPARE_AND_WRITE] = "compare_and_write",
		[LUN_OR_WRITE] = "or_write", [LUN_COPY] = "copy",
		[LUN_STATUS] = "status",     [LUN_PREFETCH] = "prefetch",
	};

	return names[op];
}

/* The plan of @io has ended with an error: unless it is an answer, the store has failed. */
static void tell_error(const struct lun_io *io)
{
	lun_error_fn fn = atomic_load(&error_fn);

	if (fn && io->err != -EILSEQ && io->err != -EOPNOTSUPP)
		fn(io->lun, io);
}

/* --- range locks --- */

static enum range_lock_mode mode_of(const struct lun_io *io)
{
	const struct lun_op_traits *t = traits_of(io);

	/* Where the store tears blocks, every write must be indivisible to reads, or a reader could
	 * see half a logical block, which no disk shows. */
	return t->writes && ((io->flags & LUN_IO_ATOMIC) || io->lun->tears) ? RANGE_ATOMIC
									    : t->mode;
}

static void unlock_ranges(struct lun_io *io)
{
	if (!traits_of(io)->locks)
		return;
	range_lock_release(&io->lun->ranges, &io->lock);
	if (io->op == LUN_COPY)
		range_lock_release(&io->src->ranges, &io->src_lock);
}

static bool lock_src(struct lun_io *io, void (*granted)(struct range_lock_req *q))
{
	return range_lock_acquire(&io->src->ranges, &io->src_lock, RANGE_SHARED, io->src_off,
				  io->len, io->reactor, granted);
}

static bool lock_own(struct lun_io *io, void (*granted)(struct range_lock_req *q))
{
	return range_lock_acquire(&io->lun->ranges, &io->lock, mode_of(io), io->off, io->len,
				  io->reactor, granted);
}

/* --- the asynchronous walk --- */

static void finish(struct lun_io *io)
{
	uint64_t now = reactor_now(io->reactor);

	lun_bounce_put(io);
	if (io->settled)
		io->settled(io);
	unlock_ranges(io);
	arrive(io, now == io->start_ns ? clock_now_ns() : now);
	io->done(io);
}

static void drive(struct lun_io *io, int err);

static void on_bio(struct block_io *bio, int err)
{
	struct lun_io *io = container_of(bio, struct lun_io, bio);

	if (io->pending == SUBMITTING) {
		io->bio_err = err;
		io->pending = COMPLETED_INSIDE;
		return;
	}
	io->store_ns += reactor_now(io->reactor) - io->mark_ns;
	drive(io, err);
}

/* The plan, and what the op owes to the cache on its way. */
static enum lun_plan plan(struct lun_io *io, int err, struct block_store **ret_store)
{
	enum lun_plan next;

	if (err)
		lun_cache_on_error(io, err);
	next = lun_plan_next(io, err, ret_store);
	if (next == LUN_PLAN_IO)
		lun_cache_before_io(io);
	else if (next == LUN_PLAN_DONE)
		lun_cache_after_op(io);
	return next;
}

/* A loop, so that a store that completes at once does not make long ops recurse. */
static void drive(struct lun_io *io, int err)
{
	struct block_store *store;
	enum lun_plan next;

	while ((next = plan(io, err, &store)) == LUN_PLAN_IO) {
		io->bio.reactor = io->reactor;
		io->bio.done = on_bio;
		io->pending = SUBMITTING;
		io->mark_ns = reactor_now(io->reactor);
		block_submit(store, &io->bio);
		if (io->pending == SUBMITTING) {
			io->pending = NOT_PENDING;
			return;
		}
		io->pending = NOT_PENDING;
		io->store_inline = true;
		err = io->bio_err;
	}
	if (next == LUN_PLAN_WAIT) {
		io->mark_ns = reactor_now(io->reactor);
		return;
	}
	if (io->err)
		tell_error(io);
	finish(io);
}

void lun_resume(struct lun_io *io)
{
	io->queue_ns += reactor_now(io->reactor) - io->mark_ns;
	drive(io, 0);
}

/* The ranges are held. */
static void start(struct lun_io *io)
{
	io->queue_ns = reactor_now(io->reactor) - io->start_ns;
	io->err = check_fences(io);
	if (io->err)
		finish(io);
	else
		drive(io, 0);
}

static void on_locked(struct range_lock_req *q)
{
	start(container_of(q, struct lun_io, lock));
}

static void on_src_locked(struct range_lock_req *q)
{
	start(container_of(q, struct lun_io, src_lock));
}

/* A copy's first of two locks in two LUNs is held: take the second. */
static void on_first_is_own(struct range_lock_req *q)
{
	struct lun_io *io = container_of(q, struct lun_io, lock);

	if (lock_src(io, on_src_locked))
		start(io);
}

static void on_first_is_src(struct range_lock_req *q)
{
	struct lun_io *io = container_of(q, struct lun_io, src_lock);

	if (lock_own(io, on_locked))
		start(io);
}

static bool lock_copy(struct lun_io *io)
{
	if (io->src == io->lun)
		return range_lock_acquire_pair(&io->lun->ranges, &io->lock, mode_of(io), io->off,
					       &io->src_lock, RANGE_SHARED, io->src_off, io->len,
					       io->reactor, on_locked);
	if (io->lun < io->src)
		return lock_own(io, on_first_is_own) && lock_src(io, on_src_locked);
	return lock_src(io, on_first_is_src) && lock_own(io, on_locked);
}

static void go(struct lun_io *io)
{
	bool held = true;

	if (io->op == LUN_COPY)
		held = lock_copy(io);
	else if (traits_of(io)->locks)
		held = lock_own(io, on_locked);
	if (held)
		start(io);
	else
		count_conflict(io);
}

static void on_memory(struct iobuf_waiter *w)
{
	struct lun_io *io = container_of(w, struct lun_io, mem_wait);

	if (lun_bounce_get(io))
		go(io);
	else
		iobuf_wait(reactor_iobufs(io->reactor), w);
}

/* Whether @io has come to its end at the door: refused, or a hit. */
static bool ends_at_the_door(struct lun_io *io)
{
	io->err = admit(io->lun, io);
	if (io->err)
		return true;
	if (!lun_read_hit(io))
		return false;
	io->err = check_fences(io);
	return true;
}

void lun_submit(struct lun *lun, struct lun_io *io)
{
	begin(lun, io, reactor_now(io->reactor));
	if (ends_at_the_door(io)) {
		if (io->settled)
			io->settled(io);
		count(io, clock_now_ns());
		io->done(io);
		return;
	}
	depart(io);
	if (traits_of(io)->bounce && !lun_bounce_get(io)) {
		iobuf_waiter_init(&io->mem_wait, on_memory);
		iobuf_wait(reactor_iobufs(io->reactor), &io->mem_wait);
		return;
	}
	go(io);
}

/* --- the synchronous walk --- */

static bool lock_src_blocking(struct lun_io *io)
{
	return range_lock_acquire_blocking(&io->src->ranges, &io->src_lock, RANGE_SHARED,
					   io->src_off, io->len);
}

static bool lock_own_blocking(struct lun_io *io)
{
	return range_lock_acquire_blocking(&io->lun->ranges, &io->lock, mode_of(io), io->off,
					   io->len);
}

static bool lock_copy_blocking(struct lun_io *io)
{
	bool a, b;

	if (io->src == io->lun)
		return range_lock_acquire_pair_blocking(&io->lun->ranges, &io->lock, mode_of(io),
							io->off, &io->src_lock, RANGE_SHARED,
							io->src_off, io->len);
	a = io->lun < io->src ? lock_own_blocking(io) : lock_src_blocking(io);
	b = io->lun < io->src ? lock_src_blocking(io) : lock_own_blocking(io);
	return a || b;
}

/* The ranges are held. */
static void run(struct lun_io *io)
{
	struct block_store *store;
	int err = 0;

	for (;;) {
		switch (plan(io, err, &store)) {
		case LUN_PLAN_DONE:
			if (io->err)
				tell_error(io);
			return;
		case LUN_PLAN_WAIT:
			fills_wait(&io->lun->cache->fills, &io->fill_waiter);
			err = 0;
			break;
		case LUN_PLAN_IO:
			io->bio.reactor = NULL;
			io->store_inline = true;
			err = block_run(store, &io->bio);
			break;
		}
	}
}

int lun_run(struct lun *lun, struct lun_io *io)
{
	bool waited = false;

	io->reactor = NULL;
	begin(lun, io, clock_now_ns());
	if (ends_at_the_door(io)) {
		count(io, clock_now_ns());
		return io->err;
	}
	depart(io);
	if (traits_of(io)->bounce && !lun_bounce_get(io)) {
		io->err = -ENOMEM;
		arrive(io, clock_now_ns());
		return io->err;
	}
	if (io->op == LUN_COPY)
		waited = lock_copy_blocking(io);
	else if (traits_of(io)->locks)
		waited = lock_own_blocking(io);
	if (waited) {
		count_conflict(io);
		io->queue_ns = clock_now_ns() - io->start_ns;
	}
	io->err = check_fences(io);
	if (!io->err)
		run(io);
	lun_bounce_put(io);
	unlock_ranges(io);
	arrive(io, clock_now_ns());
	return io->err;
}
