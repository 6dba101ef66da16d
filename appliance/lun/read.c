/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads through the cache, and what the other ops owe to it.
 *
 * A read within one page is tried first, with no range lock (lun_read_hit()). That is linearizable,
 * although a write may be under way:
 *
 *  - A page is dropped before the first byte of a write goes to the store, and no page is found
 *    again before the write has completed. So a hit returns a page that was whole and current
 *    either before the write's cache_write_begin(), which is before the write was acknowledged,
 *    or after its completion: the read takes effect before or after the write.
 *  - Two reads one after the other never go back in time. If the first saw the write - in the
 *    store, or in a page inserted after it - the write's cache_write_begin() had returned, so the
 *    second cannot hit a page from before, and the store has the new bytes.
 *  - An indivisible op (ATOMIC) over several pages drops them one by one, but what was dropped
 *    is then missed, and the read waits for the op at the range lock; a page that still hits is
 *    from before the op, of which nobody has seen anything yet.
 *  - A logical block lies within a page, and a page comes from the cache whole: no torn block.
 *  - The fence is asked before and again after the page was copied, so that its owner is followed
 *    by no read that came before.
 *
 * A read of several pages holds its range (SHARED), which keeps indivisible ops out, and goes
 * through its pages in order. A run of missing pages is read from the store, as a rule right into
 * the caller's memory, and offered to the cache. At most STORE_READS runs an op: the last one goes
 * to the end, whatever is cached there.
 *
 * A run goes through bounce memory when its ends are no page boundaries (then it is widened to
 * whole pages, so that readers of single sectors, and guests whose partitions are not aligned, hit
 * the next time), when it is made longer by readahead, or when others may write the caller's
 * memory (LUN_IO_UNSTABLE): what is cached must be what the store had. Without memory for it, it
 * goes without the bounce, and only what is whole and safe is kept.
 *
 * Coalescing (fills.h): a run whose first page is being read by someone else waits for that, at
 * most WAITS times an op, and looks again. No deadlock: an op that waits has no fill of its own,
 * and who has one waits for its store I/O only.
 *
 * The page that the LUN ends in, if it is not whole, is never cached: growing changes it.
 */
#include "lun/lun_private.h"

#include <errno.h>

#include "base/cursor.h"

#define STORE_READS 4
#define WAITS	    4
#define WIDEN_MAX   (64u << 10) /* longer runs keep only the pages that they cover */

#define PAGE_MASK ((uint64_t)CACHE_PAGE - 1)

enum { STEP_START, STEP_STORE };

uint64_t lun_cache_limit(const struct lun *lun)
{
	return lun_size(lun) & ~PAGE_MASK;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t page_down(uint64_t byte)
{
	return byte & ~PAGE_MASK;
}

static uint64_t page_up(uint64_t byte)
{
	return (byte + PAGE_MASK) & ~PAGE_MASK;
}

/* FUA asks for what the medium has. */
static bool uses_cache(const struct lun_io *io)
{
	return io->lun->cache && !(io->flags & LUN_IO_FUA);
}

static void note_hit(struct lun_io *io)
{
	uint64_t start = page_down(io->off), end = page_up(io->off + io->len);

	if (io->reactor && readahead_triggered(&io->lun->cache->readahead, start, end))
		readahead_note(io->lun, start, end, NULL);
}

bool lun_read_hit(struct lun_io *io)
{
	struct lun_cache *lc = io->lun->cache;
	uint64_t in_page = io->off & PAGE_MASK;

	if (io->op != LUN_READ || !uses_cache(io) || !io->len || io->niov != 1 ||
	    in_page + io->len > CACHE_PAGE)
		return false;
	io->left = fills_left(&lc->fills);
	io->missed = cache_read(lc->o, io->off / CACHE_PAGE, (uint32_t)in_page, (uint32_t)io->len,
				io->iov[0].iov_base);
	if (io->missed)
		return false;
	note_hit(io);
	return true;
}

/* Copies what the cache has of the page at byte @at of the op; returns the bytes, 0: a miss. */
static uint64_t serve(struct lun_io *io, uint64_t at)
{
	struct cache_object *o = io->lun->cache->o;
	uint64_t pos = io->off + at, page = pos / CACHE_PAGE;
	uint32_t in_page = pos & PAGE_MASK;
	uint32_t n = (uint32_t)least(CACHE_PAGE - in_page, io->len - at);
	struct cursor c = cursor_at(io->iov, io->niov, at);
	uint8_t whole[CACHE_PAGE], *to;
	size_t room;

	to = cursor_part(&c, n, &room);
	if (room == n)
		return cache_read(o, page, in_page, n, to) ? 0 : n;
	/* Segments end within: in one piece first, the page may be replaced between two reads. */
	if (cache_read(o, page, in_page, n, whole))
		return 0;
	c = cursor_at(io->iov, io->niov, at);
	cursor_put(&c, whole, n);
	return n;
}

/* --- runs --- */

/* What the next store I/O reads: bytes [lo, hi) by bounce memory, or [pos, end) without. */
struct run {
	uint64_t pos, end; /* of the LUN: what the op wants of it */
	uint64_t lo, hi;   /* the same in whole pages, readahead included */
	bool keep;	   /* offer it to the cache */
	bool bounce;
	bool last; /* to the end of the op */
};

/* The missing pages from io->progress on; the page that ends them is served: io->served. */
static struct run find_run(struct lun_io *io)
{
	uint64_t page_end = page_down(io->off + io->progress) + CACHE_PAGE - io->off;
	uint64_t at = least(page_end, io->len), limit = lun_cache_limit(io->lun);
	struct run run = {.keep = !(io->flags & LUN_IO_DPO),
			  .last = io->store_reads == STORE_READS - 1};

	io->served = 0;
	if (run.last)
		at = io->len;
	while (at < io->len) {
		io->served = serve(io, at);
		if (io->served)
			break;
		at = least(at + CACHE_PAGE, io->len);
	}
	run.pos = io->off + io->progress;
	run.end = io->off + at;
	run.lo = page_down(run.pos);
	run.hi = page_up(run.end) <= limit ? page_up(run.end) : run.end;
	return run;
}

static void cut_run(struct lun_io *io, struct run *run, uint64_t hi)
{
	run->hi = hi;
	if (run->end > hi) {
		run->end = hi;
		io->served = 0;
	}
}

/* Once an op: what a sequential reader will want next. */
static void read_ahead(struct lun_io *io, struct run *run)
{
	uint64_t end = page_up(io->off + io->len), extra = 0;

	if (io->noted || !run->keep)
		return;
	io->noted = true;
	if (io->reactor) {
		readahead_note(io->lun, run->lo, end, NULL);
		return;
	}
	/* A large read is long enough, and others run beside it: they would have to wait for more.
	 */
	if (io->len >= WIDEN_MAX)
		return;
	if (run->hi == end)
		extra = LUN_BOUNCE_MAX - (run->hi - run->lo);
	readahead_note(io->lun, run->lo, end, &extra);
	run->hi += extra;
}

static void choose_bounce(struct lun_io *io, struct run *run)
{
	bool unaligned = run->lo != run->pos || run->hi != run->end;
	bool unstable = io->flags & LUN_IO_UNSTABLE, longer = run->hi > page_up(run->end);

	if (!run->keep || !(unaligned || unstable))
		return;
	if (unstable && !run->last && run->hi - run->lo > LUN_BOUNCE_MAX)
		cut_run(io, run, run->lo + LUN_BOUNCE_MAX);
	run->bounce = run->hi - run->lo <= (unstable || longer ? LUN_BOUNCE_MAX : WIDEN_MAX);
}

/* The whole pages of the run, as the cache counts them; false: there are none. */
static bool pages_of(const struct lun_io *io, const struct run *run, uint64_t *ret_first,
		     uint64_t *ret_end)
{
	uint64_t end = least(run->bounce ? run->hi : run->end, lun_cache_limit(io->lun));

	*ret_first = page_up(run->bounce ? run->lo : run->pos) / CACHE_PAGE;
	*ret_end = end / CACHE_PAGE;
	return run->keep && *ret_first < *ret_end;
}

static void resume(struct fill_waiter *w)
{
	lun_resume(container_of(w, struct lun_io, fill_waiter));
}

static void leave(struct lun_io *io)
{
	if (io->entered)
		fills_leave(&io->lun->cache->fills, &io->fill);
	io->entered = false;
}

/* Tells others what is going to be read, if nobody else reads it. */
static enum lun_plan enter(struct lun_io *io, struct run *run)
{
	struct lun_cache *lc = io->lun->cache;
	enum fills_verdict verdict;

	if (run->last || !pages_of(io, run, &io->fill.first, &io->fill.end))
		return LUN_PLAN_IO;
	io->fill_waiter.reactor = io->reactor;
	io->fill_waiter.over = resume;
	verdict = fills_enter(&lc->fills, &io->fill, io->waits < WAITS ? &io->fill_waiter : NULL);
	if (verdict == FILLS_WAIT) {
		io->waits++;
		io->missed = false;
		metric_add(&lc->coalesced, 1);
		return LUN_PLAN_WAIT;
	}
	io->entered = verdict == FILLS_OWN;
	if (io->entered && io->fill.end * CACHE_PAGE < run->hi)
		cut_run(io, run, io->fill.end * CACHE_PAGE);
	return LUN_PLAN_IO;
}

/* Whether another's fill ended between our miss and our entry. Asked once: it is only a hint. */
static bool came_meanwhile(struct lun_io *io)
{
	struct lun_cache *lc = io->lun->cache;

	if (!io->entered || io->looked_again || io->left == fills_left(&lc->fills) ||
	    !cache_has(lc->o, io->fill.first))
		return false;
	io->looked_again = true;
	io->missed = false;
	leave(io);
	return true;
}

/*
 * Leaves the run out of the cache if its pages are not worth a place. Of others' ranges it had to
 * know before: they may be reading what it needs. A page of which a part was read is worth it: the
 * next sector follows.
 */
static void weigh(struct lun_io *io, struct run *run)
{
	if (!io->entered || run->lo != run->pos || run->hi != run->end ||
	    cache_wants(io->lun->cache->o, io->fill.first, io->fill.end - io->fill.first))
		return;
	run->keep = run->bounce = false;
	leave(io);
}

/* The last thing before the store is read. */
static void begin_fill(struct lun_io *io, const struct run *run)
{
	bool safe = run->bounce || !(io->flags & LUN_IO_UNSTABLE);
	uint64_t first, end;

	io->filling = safe && pages_of(io, run, &first, &end) &&
		      cache_fill_begin(io->lun->cache->o, &io->cache_fill, first, end - first);
	if (!io->filling)
		leave(io);
	else if (run->hi > page_up(run->end))
		io->cache_fill.ahead = page_up(run->end) / CACHE_PAGE;
}

/* The pages of the fill are in @iov, from byte @skip on (@niov 0: they could not be read). */
static void end_fill(struct lun_io *io, const struct iovec *iov, int niov, uint64_t skip)
{
	if (io->filling)
		cache_fill_end(&io->cache_fill, iov, niov, skip);
	io->filling = false;
	leave(io);
}

/* Starts to read the run at io->progress, or waits; LUN_PLAN_DONE: look into the cache again. */
static enum lun_plan start_run(struct lun_io *io)
{
	struct run run = find_run(io);

	read_ahead(io, &run);
	choose_bounce(io, &run);
	if (enter(io, &run) == LUN_PLAN_WAIT)
		return LUN_PLAN_WAIT;
	if (came_meanwhile(io))
		return LUN_PLAN_DONE;
	weigh(io, &run);
	run.bounce = run.bounce && lun_bounce_try(io, (uint32_t)(run.hi - run.lo));
	begin_fill(io, &run);
	io->store_reads++;
	io->chunk = run.end - run.pos;
	io->step = STEP_STORE;
	if (!run.bounce)
		return lun_caller_bio(io, BLOCK_READ, run.pos, io->chunk, io->progress);
	if (run.hi > page_up(run.end))
		metric_add(&io->lun->cache->readahead.pages,
			   (run.hi - page_up(run.end)) / CACHE_PAGE);
	return lun_bounce_bio(io, BLOCK_READ, run.lo, run.hi - run.lo);
}

/* A run was read. */
static void end_run(struct lun_io *io)
{
	struct cursor c;

	io->step = STEP_START;
	io->missed = false;
	if (io->bounce) {
		end_fill(io, &io->iov1, 1, 0);
		c = cursor_at(io->iov, io->niov, io->progress);
		cursor_put(&c, io->bounce + (io->off + io->progress - io->bio.off), io->chunk);
		lun_bounce_put(io);
	} else {
		end_fill(io, io->iov, io->niov, io->cache_fill.first * CACHE_PAGE - io->off);
	}
	io->progress += io->chunk + io->served;
}

/* The page at io->progress, if the cache has it. */
static bool serve_next(struct lun_io *io)
{
	uint64_t n = 0;

	if (!io->missed) {
		io->left = fills_left(&io->lun->cache->fills);
		n = serve(io, io->progress);
	}
	io->progress += n;
	return n;
}

/* Without the cache. */
static enum lun_plan plain_next(struct lun_io *io, enum block_op op, int err)
{
	if (err || io->step == STEP_STORE)
		return lun_plan_end(io, err);
	io->step = STEP_STORE;
	return lun_caller_bio(io, op, io->off, io->len, 0);
}

enum lun_plan lun_read_next(struct lun_io *io, int err)
{
	enum lun_plan plan;

	if (!uses_cache(io))
		return plain_next(io, BLOCK_READ, err);
	if (err) {
		end_fill(io, NULL, 0, 0);
		return lun_plan_end(io, err);
	}
	if (io->step == STEP_STORE)
		end_run(io);
	while (io->progress < io->len) {
		if (serve_next(io))
			continue;
		plan = start_run(io);
		if (plan != LUN_PLAN_DONE)
			return plan;
	}
	if (!io->noted)
		note_hit(io);
	return LUN_PLAN_DONE;
}

/* --- prefetch: whatever is missing, by bounce memory --- */

/* Makes the next missing pages from page @at on a fill; false: there are none left. */
static bool enter_missing(struct lun_io *io, uint64_t at, uint64_t end)
{
	struct lun_cache *lc = io->lun->cache;
	uint64_t first;

	while (at < end) {
		if (cache_has(lc->o, at++))
			continue;
		first = at - 1;
		while (at < end && at - first < io->bounce_cap / CACHE_PAGE &&
		       !cache_has(lc->o, at))
			at++;
		io->fill.first = first;
		io->fill.end = at;
		io->entered = fills_enter(&lc->fills, &io->fill, NULL) == FILLS_OWN;
		if (!io->entered) /* it comes without us */
			continue;
		io->filling = cache_fill_begin(lc->o, &io->cache_fill, first, io->fill.end - first);
		io->cache_fill.ahead = first;
		if (io->filling)
			return true;
		leave(io);
	}
	return false;
}

/* Here io->progress is the next page to look at. */
enum lun_plan lun_prefetch_next(struct lun_io *io, int err)
{
	uint64_t end, most;

	if (!io->lun->cache)
		return plain_next(io, BLOCK_PREFETCH, err);
	if (io->step == STEP_STORE)
		end_fill(io, &io->iov1, err ? 0 : 1, 0);
	else
		io->progress = io->off / CACHE_PAGE;
	if (err)
		return lun_plan_end(io, err);
	io->step = STEP_STORE;
	/* More would drive out what it has brought. */
	most = cache_target(io->lun->cache->c) / 2 / CACHE_PAGE;
	end = least(page_up(io->off + io->len), lun_cache_limit(io->lun)) / CACHE_PAGE;
	if (!enter_missing(io, io->progress, least(end, io->off / CACHE_PAGE + most)))
		return LUN_PLAN_DONE;
	io->progress = io->fill.end;
	return lun_bounce_bio(io, BLOCK_READ, io->fill.first * CACHE_PAGE,
			      (io->fill.end - io->fill.first) * CACHE_PAGE);
}

/* --- writes --- */

static bool changes_medium(enum block_op op)
{
	return op == BLOCK_WRITE || op == BLOCK_DISCARD || op == BLOCK_ZERO || op == BLOCK_COPY;
}

void lun_cache_before_io(struct lun_io *io)
{
	struct lun_cache *lc = io->lun->cache;

	if (!lc || io->writing || !changes_medium(io->bio.op))
		return;
	cache_write_begin(lc->o, &io->cache_write, io->off, io->len);
	io->writing = true;
}

void lun_cache_after_op(struct lun_io *io)
{
	bool keep = !io->err && !(io->flags & (LUN_IO_DPO | LUN_IO_UNSTABLE)) &&
		    (io->op == LUN_WRITE || io->op == LUN_COMPARE_AND_WRITE);

	if (!io->writing)
		return;
	io->writing = false;
	/* It reaches as far again. */
	if (io->off + io->len > atomic_load_explicit(&io->lun->cache->cut, memory_order_relaxed))
		atomic_store_explicit(&io->lun->cache->cut, UINT64_MAX, memory_order_relaxed);
	cache_write_end(&io->cache_write, io->iov, keep ? io->niov : 0,
			io->op == LUN_COMPARE_AND_WRITE ? io->len : 0);
}

void lun_cache_on_error(struct lun_io *io, int err)
{
	bool copy = io->op == LUN_COPY; /* it is the source that cannot be read */
	struct lun *lun = copy ? io->src : io->lun;
	uint64_t off = copy ? io->src_off : io->off, end = off + io->len, cut;
	struct cache_write drop;

	/*
	 * Somebody has made the backing object shorter: what is cached beyond has no store. All of
	 * it is dropped, once: what was dropped by an earlier error is not walked again.
	 */
	if (err != -ENODATA || !lun->cache)
		return;
	cut = atomic_load_explicit(&lun->cache->cut, memory_order_relaxed);
	while (off < cut && !atomic_compare_exchange_weak(&lun->cache->cut, &cut, off))
		;
	if (off < cut && end < cut)
		end = least(cut, lun_size(lun));
	cache_write_begin(lun->cache->o, &drop, off, end - off);
	cache_write_end(&drop, NULL, 0, 0);
}
