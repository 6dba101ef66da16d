/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sequential readahead.
 *
 * A read that misses and begins where an earlier one ended continues its stream. After a few such
 * reads (of large ones: after one) a window is opened behind it, of 128 KiB, and read in the
 * background; when the reader comes to the begin of that window, the next one is opened, twice as
 * large, up to 1 MiB - or twice the size of the reads, where these are large, up to 2 MiB. So there
 * is always a window being read before the one that is being used:
 *
 *	   used    |   window: being used or read   |   next window: not yet asked for
 *	-----------|--------------------------------|-----------
 *	      start, the trigger                  ahead
 *
 * Reads that hit do not come here but at a trigger, so that a hit costs a look at a few words. A
 * stream that nobody continues is forgotten when its place is needed: the least recently used one
 * goes. A random reader continues a stream by accident only, and hardly several times in a row;
 * then it reads no byte ahead. Where memory is short (no buffer, or the cache may hold little) the
 * stream is closed and has to earn its window again.
 *
 * The embedded form has no reactor: there a read that misses and continues a stream is simply made
 * longer by the window, and the next one is due at the end of that.
 *
 * Nothing here takes the range lock. What is read beside a write may be torn or old, but is then
 * not inserted: a fill is refused once a write of its range has begun.
 */
#include "lun/readahead.h"

#include <stdlib.h>

#include "lun/lun_private.h"

#define WINDOW_MIN   (128u << 10)
#define WINDOW_USUAL (1u << 20)
#define WINDOW_MAX   (2u << 20)
#define PIECE	     (256u << 10) /* of one background read: who waits, waits no longer */
#define INFLIGHT_MAX (8u << 20)	  /* of one LUN */
#define FOLLOWS_MIN  3		  /* reads that continue a stream before it gets a window ... */
#define LARGE_READ   (64u << 10)  /* ... unless they are this large */
#define NO_TRIGGER   UINT64_MAX
#define CACHE_SHARE  8 /* a window is at most such a part of the cache */

void readahead_init(struct readahead *ra)
{
	mutex_init(&ra->lock, LOCK_RANK_LEAF);
	for (unsigned i = 0; i < READAHEAD_STREAMS; i++) {
		atomic_init(&ra->trigger[i], NO_TRIGGER);
		ra->stream[i].next = UINT64_MAX;
	}
}

void readahead_destroy(struct readahead *ra)
{
	mutex_destroy(&ra->lock);
}

void readahead_stop(struct readahead *ra)
{
	atomic_store_explicit(&ra->stopped, true, memory_order_relaxed);
}

/* --- streams --- */

bool readahead_triggered(struct readahead *ra, uint64_t off, uint64_t end)
{
	bool any = false;

	if (!atomic_load_explicit(&ra->triggers, memory_order_relaxed))
		return false;
	for (unsigned i = 0; i < READAHEAD_STREAMS; i++) {
		uint64_t t = atomic_load_explicit(&ra->trigger[i], memory_order_relaxed);

		any |= t - off < end - off;
	}
	return any;
}

static void set_trigger_locked(struct readahead *ra, unsigned i, uint64_t at)
{
	uint64_t old = atomic_load_explicit(&ra->trigger[i], memory_order_relaxed);

	atomic_store_explicit(&ra->trigger[i], at, memory_order_relaxed);
	if ((old == NO_TRIGGER) != (at == NO_TRIGGER))
		atomic_fetch_add_explicit(&ra->triggers, at == NO_TRIGGER ? -1u : 1u,
					  memory_order_relaxed);
}

static void close_locked(struct readahead *ra, unsigned i)
{
	struct stream *s = &ra->stream[i];

	set_trigger_locked(ra, i, NO_TRIGGER);
	s->ahead = s->start = 0;
	s->window = 0;
	s->follows = 0;
}

/* How a read belongs to a stream. */
enum kinship { STRANGER, INSIDE, CONTINUES, TRIGGERS };

static enum kinship kinship_locked(const struct readahead *ra, unsigned i, uint64_t off,
				   uint64_t end)
{
	const struct stream *s = &ra->stream[i];
	uint64_t t = atomic_load_explicit(&ra->trigger[i], memory_order_relaxed);

	if (t - off < end - off)
		return TRIGGERS;
	if (off == s->next)
		return CONTINUES;
	/* It waits for what is being read, or found it gone. */
	if (s->ahead && off < s->ahead && off + WINDOW_MAX >= s->start)
		return INSIDE;
	return STRANGER;
}

/* The stream that the read belongs to most, or the one whose place it gets. */
static unsigned find_locked(const struct readahead *ra, uint64_t off, uint64_t end,
			    enum kinship *ret_kinship)
{
	unsigned best = 0;

	*ret_kinship = STRANGER;
	for (unsigned i = 0; i < READAHEAD_STREAMS; i++) {
		enum kinship k = kinship_locked(ra, i, off, end);

		if (k > *ret_kinship || (k == STRANGER && *ret_kinship == STRANGER &&
					 ra->stream[i].used_at < ra->stream[best].used_at)) {
			best = i;
			*ret_kinship = k;
		}
	}
	return best;
}

static uint32_t next_window(const struct stream *s, uint64_t len)
{
	uint64_t most = 2 * len > WINDOW_USUAL ? 2 * len : WINDOW_USUAL;
	uint64_t window = s->window ? 2ull * s->window : WINDOW_MIN;

	if (window > most)
		window = most;
	return (uint32_t)(window < WINDOW_MAX ? window : WINDOW_MAX);
}

/* Opens the next window of stream @i, from @from on: returns its end; 0: there is none to open. */
static uint64_t open_locked(struct readahead *ra, unsigned i, uint64_t from, uint64_t len,
			    uint64_t limit, uint64_t most)
{
	struct stream *s = &ra->stream[i];
	uint64_t window = next_window(s, len);

	if (window > most)
		window = most;
	if (from >= limit || window < WINDOW_MIN) {
		close_locked(ra, i);
		return 0;
	}
	s->window = (uint32_t)window;
	s->start = from;
	s->ahead = limit - from < window ? limit : from + window;
	s->next = s->ahead;
	return s->ahead;
}

static bool deserves_window(const struct stream *s, uint64_t len)
{
	return s->ahead || s->follows >= FOLLOWS_MIN || len >= LARGE_READ;
}

/* Takes a read into account. True: [*@ret_from, *@ret_end) is the window to read now. */
static bool note_locked(struct lun *lun, uint64_t off, uint64_t end, bool background, uint64_t most,
			uint64_t *ret_from, uint64_t *ret_end)
{
	struct readahead *ra = &lun->cache->readahead;
	uint64_t limit = lun_cache_limit(lun), from;
	enum kinship k;
	unsigned i = find_locked(ra, off, end, &k);
	struct stream *s = &ra->stream[i];

	s->used_at = ++ra->clock;
	from = end;
	*ret_from = from;
	*ret_end = s->ahead;
	if (k == INSIDE) /* in the background it is being read; else the rest of it is due */
		return !background && off >= s->start && from < s->ahead;
	if (k == STRANGER) {
		close_locked(ra, i);
		s->next = end;
		return false;
	}
	if (s->ahead)
		metric_add(&ra->used, (s->ahead - s->start) / CACHE_PAGE);
	s->follows++;
	s->next = end;
	if (!deserves_window(s, end - off))
		return false;
	if (from < s->ahead)
		from = s->ahead;
	*ret_from = from;
	*ret_end = open_locked(ra, i, from, end - off, limit, most);
	if (*ret_end && background)
		set_trigger_locked(ra, i, from);
	return *ret_end;
}

/* --- background reads --- */

struct background {
	struct lun *lun;
	struct iobuf *buf;
	struct iovec iov;
	struct fill fill;
	struct cache_fill cache_fill;
	struct block_io bio;
};

static void end_background(struct background *b, bool read)
{
	struct lun_cache *lc = b->lun->cache;

	cache_fill_end(&b->cache_fill, &b->iov, read ? 1 : 0, 0);
	fills_leave(&lc->fills, &b->fill);
	if (read)
		metric_add(&lc->readahead.pages, b->cache_fill.n);
	atomic_fetch_sub_explicit(&lc->readahead.inflight, b->iov.iov_len, memory_order_relaxed);
	iobuf_put(b->buf);
	lun_unref(b->lun);
	free(b);
}

static void on_background(struct block_io *bio, int err)
{
	end_background(container_of(bio, struct background, bio), !err);
}

/* Enters the pages for reading. False: they are cached, being read or being written. */
static bool enter(struct lun_cache *lc, struct background *b, uint64_t first, uint64_t end)
{
	while (first < end && cache_has(lc->o, first))
		first++;
	while (first < end && cache_has(lc->o, end - 1))
		end--;
	b->fill.first = first;
	b->fill.end = end;
	if (first == end || fills_enter(&lc->fills, &b->fill, NULL) != FILLS_OWN)
		return false;
	if (cache_fill_begin(lc->o, &b->cache_fill, first, b->fill.end - first)) {
		b->cache_fill.ahead = first;
		return true;
	}
	fills_leave(&lc->fills, &b->fill);
	return false;
}

/* Starts to read [from, end), one piece; false: there is no memory. */
static bool read_piece(struct lun *lun, struct reactor *r, uint64_t from, uint64_t end)
{
	struct lun_cache *lc = lun->cache;
	struct background *b = calloc(1, sizeof(*b));

	if (!b)
		return false;
	b->buf = iobuf_get(reactor_iobufs(r), end - from);
	if (!b->buf || !enter(lc, b, from / CACHE_PAGE, end / CACHE_PAGE)) {
		bool memory = b->buf;

		iobuf_put(b->buf);
		free(b);
		return memory;
	}
	b->lun = lun_ref(lun);
	b->iov.iov_base = b->buf->data;
	b->iov.iov_len = (b->fill.end - b->fill.first) * CACHE_PAGE;
	atomic_fetch_add_explicit(&lc->readahead.inflight, b->iov.iov_len, memory_order_relaxed);
	b->bio = (struct block_io){.op = BLOCK_READ,
				   .off = b->fill.first * CACHE_PAGE,
				   .len = b->iov.iov_len,
				   .iov = &b->iov,
				   .niov = 1,
				   .reg_index = b->buf->reg_index,
				   .reactor = r,
				   .done = on_background};
	block_submit(lun->store, &b->bio);
	return true;
}

/* What was opened is not read: the stream has to earn its window again. */
static void give_up(struct readahead *ra, uint64_t end)
{
	mutex_scope(&ra->lock);
	for (unsigned i = 0; i < READAHEAD_STREAMS; i++)
		if (ra->stream[i].ahead == end)
			close_locked(ra, i);
}

static void read_window(struct lun *lun, struct reactor *r, uint64_t from, uint64_t end)
{
	struct readahead *ra = &lun->cache->readahead;

	for (uint64_t at = from; at < end; at += PIECE)
		if (atomic_load_explicit(&ra->inflight, memory_order_relaxed) > INFLIGHT_MAX ||
		    !read_piece(lun, r, at, end - at < PIECE ? end : at + PIECE)) {
			give_up(ra, end);
			return;
		}
}

void readahead_note(struct lun *lun, uint64_t off, uint64_t end, uint64_t *extra)
{
	uint64_t most = cache_target(lun->cache->c) / CACHE_SHARE & ~(uint64_t)(CACHE_PAGE - 1);
	struct readahead *ra = &lun->cache->readahead;
	uint64_t from, to;
	bool due;

	if (extra && *extra < most)
		most = *extra;
	if (extra)
		*extra = 0;
	if (atomic_load_explicit(&ra->stopped, memory_order_relaxed))
		return;
	mutex_lock(&ra->lock);
	due = note_locked(lun, off, end, !extra, most, &from, &to);
	mutex_unlock(&ra->lock);
	if (due && extra)
		*extra = to - from < most ? to - from : most;
	else if (due)
		read_window(lun, reactor_self(), from, to);
}
