// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The budget: one number that many areas share, the queue of those who wait for a part of it, and
 * the list of those who have something to give.
 *
 * 1. charged = sum over the areas of (reserve + excess + grant), where excess is what an area has
 *    resident above its reserve. No change takes it above the limit; only a lowered limit leaves it
 *    there for a while, in which it can but fall.
 *
 * 2. Who needs more than there is joins the queue with what it wants. From then on all that becomes
 *    free is charged at once as the *grant* of the head of the queue, until that has all it wants
 *    and is told to try again. So while anybody waits there is no room (charged >= limit), and
 *    nobody can overtake. A new area whose reserve finds no room waits in the same queue and can
 *    be used when it has it.
 *
 *	room -> head: grant += room -> grant == want -> wake -> take: excess += want, grant = 0
 *
 *    A request that could not be served if all other areas went down to their reserves is refused
 *    (-E2BIG), also when a lowered limit makes it so while it waits. All others end: the head's,
 *    when those before it have put enough blocks, and with it the queue. And an area with no block
 *    busy needs to ask nobody for as much as its reserve.
 *
 * 3. The list has the areas with an excess, those used last first: where to steal, to shrink under
 *    pressure, and whom to look at for idleness. An area in use moves to its front every
 *    LIST_STEP_MS at most, so the order is exact to that, and an area that is busy reusing its
 *    blocks takes the budget's lock ten times a second, not for each request. Walkers keep a place
 *    of their own in the list, because they drop the lock while an area frees pages; the area is
 *    held meanwhile.
 *
 * 4. Nothing is freed here by who runs into the limit: it cannot know whether it may sleep. It asks
 *    for data_budget_serve(). As blocks are put while there is a shortage, it is asked for again. A
 *    block that could not be freed at that moment is tried again by the tick.
 */
#include "data_area_private.h"

#define NO_LIMIT     (~0ull)
#define RETRY_MS     100u  /* between attempts to end a shortage */
#define BUSY_LIST_MS 1000u /* the list changed faster than a tick could walk it */
#define SERVE_ROUNDS 16u

/* A walk over the list from those used least recently, never longer than there are areas. */
struct walk {
	struct list_place place;
	u64 left;
};

int data_budget_create(const struct data_budget_spec *spec, struct data_budget **ret_b)
{
	struct data_budget *b = spec->ops->alloc(spec->host, sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->ops = spec->ops;
	b->host = spec->host;
	b->limit = spec->limit ? spec->limit : NO_LIMIT;
	core_lock_init(&b->lock, DATA_BUDGET);
	core_list_init(&b->list);
	core_list_init(&b->queue);
	*ret_b = b;
	return 0;
}

void data_budget_destroy(struct data_budget *b)
{
	if (!b)
		return;
	CORE_BUG_ON(b->areas);
	core_lock_destroy(&b->lock);
	b->ops->free(b->host, b, sizeof(*b));
}

/* --- the tick's alarm clock --- */

/* Has data_budget_tick() called now unless that happens within @ms anyway. */
static void want_tick_locked(struct data_budget *b, u64 ms)
{
	if (b->tick_wait && b->tick_wait <= ms)
		return;
	b->tick_wait = ms;
	b->tick_asked = true;
	b->ops->tick_soon(b->host);
}

void budget_want_tick(struct data_area *a)
{
	struct data_budget *b = a->budget;

	core_lock(&b->lock);
	if (a->idle_ms && !core_list_empty(&a->place.link))
		want_tick_locked(b, a->idle_ms);
	core_unlock(&b->lock);
}

/* --- the list --- */

static void list_locked(struct data_budget *b, struct data_area *a)
{
	if (!core_list_empty(&a->place.link))
		return;
	core_list_add_head(&b->list, &a->place.link);
	b->listed++;
	if (a->idle_ms)
		want_tick_locked(b, a->idle_ms);
}

static void unlist_locked(struct data_budget *b, struct data_area *a)
{
	if (core_list_empty(&a->place.link))
		return;
	core_list_del(&a->place.link);
	b->listed--;
}

void budget_touch(struct data_area *a)
{
	struct data_budget *b = a->budget;

	core_lock(&b->lock);
	if (!core_list_empty(&a->place.link)) {
		core_list_del(&a->place.link);
		core_list_add_head(&b->list, &a->place.link);
	}
	core_unlock(&b->lock);
}

static void walk_begin_locked(struct data_budget *b, struct walk *w)
{
	w->place.area = NULL;
	w->left = b->areas;
	core_list_add_head(b->list.prev, &w->place.link);
}

static struct data_area *queue_head_locked(const struct data_budget *b)
{
	return core_list_empty(&b->queue)
		       ? NULL
		       : core_container_of(b->queue.prev, struct data_area, queue);
}

/* Who is about to use what it has is no victim. */
static bool spared_locked(const struct data_budget *b, const struct data_area *a)
{
	return a->grant || a == queue_head_locked(b);
}

/* The next area, held, or NULL. */
static struct data_area *walk_next_locked(struct data_budget *b, struct walk *w, bool steal)
{
	while (w->left && w->place.link.prev != &b->list) {
		struct core_list *next = w->place.link.prev;
		struct data_area *a = core_container_of(next, struct list_place, link)->area;

		core_list_del(&w->place.link);
		core_list_add_head(next->prev, &w->place.link);
		if (!a || (steal && spared_locked(b, a)))
			continue;
		w->left--;
		if (b->ops->hold(a->host))
			return a;
	}
	return NULL;
}

/* --- the sum --- */

/* There is room for @pages. */
static void charge_locked(struct data_budget *b, u64 pages)
{
	b->charged += pages;
	if (b->charged > b->charged_high)
		b->charged_high = b->charged;
}

/* --- the queue --- */

static u64 room_locked(const struct data_budget *b)
{
	return b->charged < b->limit ? b->limit - b->charged : 0;
}

/* Whether @a could have @total pages if all others had no more than their reserves. */
static bool possible_locked(const struct data_budget *b, const struct data_area *a, u64 total)
{
	u64 others = b->reserved - area_reserved(a);

	return total <= b->limit - others;
}

static void unqueue_locked(struct data_budget *b, struct data_area *a)
{
	core_list_del(&a->queue);
	b->waiting--;
}

static void drop_grant_locked(struct data_budget *b, struct data_area *a)
{
	b->charged -= a->grant;
	a->grant = 0;
}

/* Gives what room there is to those who wait, and brings `shortage` up to date. */
static void feed_locked(struct data_budget *b)
{
	struct data_area *a;

	core_assert_held(&b->lock);
	while ((a = queue_head_locked(b))) {
		u64 room = room_locked(b), missing = a->want - a->grant;

		if (!possible_locked(b, a, a->total)) {
			drop_grant_locked(b, a);
			a->turn = 0;
		} else {
			room = room < missing ? room : missing;
			charge_locked(b, room);
			a->grant += room;
			if (a->grant < a->want)
				break;
		}
		unqueue_locked(b, a);
		if (!a->joined) {
			a->joined = true;
			a->grant = a->turn = 0;
		}
		b->ops->wake(a->host);
	}
	core_atomic_set(&b->shortage, a || b->charged > b->limit);
}

/* There is a shortage that somebody might be able to end. */
static void call_for_help_locked(struct data_budget *b)
{
	b->ops->serve_soon(b->host);
	want_tick_locked(b, RETRY_MS);
}

/*
 * To the end, but for who had its turn already and needs more by now: its place is that of its
 * turn. A grant belongs to the head alone: of two that hold a part of what they want each might
 * wait for the other's.
 */
static void line_up_locked(struct data_budget *b, struct data_area *a)
{
	struct data_area *head = queue_head_locked(b);
	struct core_list *before = b->queue.next;

	if (!a->turn)
		a->turn = ++b->turns;
	while (before != &b->queue &&
	       core_container_of(before, struct data_area, queue)->turn > a->turn)
		before = before->next;
	core_list_add_head(before->prev, &a->queue);
	b->waiting++;
	if (!head)
		return;
	drop_grant_locked(b, queue_head_locked(b) == a ? head : a);
}

/* Returns false if @a need not wait after all. */
static bool enqueue_locked(struct data_budget *b, struct data_area *a, u64 want, u64 total)
{
	a->want = want;
	a->total = total;
	if (core_list_empty(&a->queue))
		line_up_locked(b, a);
	feed_locked(b);
	if (core_atomic_read(&b->shortage))
		call_for_help_locked(b);
	return !core_list_empty(&a->queue);
}

/* A new area goes on waiting for its reserve. */
static void forget_locked(struct data_budget *b, struct data_area *a)
{
	if (!a->joined)
		return;
	if (!core_list_empty(&a->queue))
		unqueue_locked(b, a);
	drop_grant_locked(b, a);
	a->turn = 0;
	feed_locked(b);
}

void budget_forget(struct data_area *a)
{
	struct data_budget *b = a->budget;

	core_lock(&b->lock);
	forget_locked(b, a);
	core_unlock(&b->lock);
}

/* --- charging --- */

int budget_join(struct data_budget *b, struct data_area *a)
{
	u64 pages = area_reserved(a);
	int r = -ENOSPC;

	core_lock(&b->lock);
	if (pages <= b->limit - b->reserved) {
		b->areas++;
		b->reserved += pages;
		a->joined = pages <= room_locked(b);
		if (a->joined)
			charge_locked(b, pages);
		else
			enqueue_locked(b, a, pages, pages);
		r = 0;
	}
	core_unlock(&b->lock);
	return r;
}

void budget_leave(struct data_budget *b, struct data_area *a)
{
	u64 excess = area_excess(a, area_resident(a));

	core_lock(&b->lock);
	unlist_locked(b, a);
	if (!core_list_empty(&a->queue))
		unqueue_locked(b, a);
	b->areas--;
	b->reserved -= area_reserved(a);
	b->excess -= excess;
	b->charged -= a->grant + excess;
	if (a->joined)
		b->charged -= area_reserved(a);
	feed_locked(b);
	core_unlock(&b->lock);
}

int budget_charge(struct data_area *a, u32 n, u32 grow)
{
	struct data_budget *b = a->budget;
	u32 resident = area_resident(a);
	u64 excess = area_excess(a, resident + grow);
	u64 need = excess - area_excess(a, resident), total = area_reserved(a) + area_excess(a, n);
	int r = 0;

	core_lock(&b->lock);
	if (!possible_locked(b, a, total)) {
		forget_locked(b, a);
		r = -E2BIG;
	} else if (!a->joined) {
		r = -ENOSPC;
	} else if (need > a->grant + room_locked(b) && enqueue_locked(b, a, need, total)) {
		r = -ENOSPC;
	} else {
		u64 granted = need < a->grant ? need : a->grant;

		a->grant -= granted;
		charge_locked(b, need - granted);
		b->excess += need;
		if (excess)
			list_locked(b, a);
	}
	core_unlock(&b->lock);
	return r;
}

void budget_uncharge(struct data_area *a, u32 before)
{
	struct data_budget *b = a->budget;
	u64 excess = area_excess(a, area_resident(a)), freed = area_excess(a, before) - excess;

	if (!freed)
		return;
	core_lock(&b->lock);
	b->charged -= freed;
	b->excess -= freed;
	if (!excess)
		unlist_locked(b, a);
	feed_locked(b);
	core_unlock(&b->lock);
}

int data_budget_set_limit(struct data_budget *b, u64 pages)
{
	int r = -EINVAL;

	if (!pages)
		pages = NO_LIMIT;
	core_lock(&b->lock);
	if (b->reserved <= pages) {
		b->limit = pages;
		feed_locked(b);
		if (core_atomic_read(&b->shortage))
			call_for_help_locked(b);
		r = 0;
	}
	core_unlock(&b->lock);
	return r;
}

/* --- taking back --- */

u64 budget_reclaim(struct data_budget *b, u64 pages, enum counter cause)
{
	struct data_area *a;
	struct walk walk;
	u64 freed = 0;

	core_lock(&b->lock);
	walk_begin_locked(b, &walk);
	while (freed < pages && (a = walk_next_locked(b, &walk, cause == COUNTER_shrinks_steal))) {
		u64 blocks;

		core_unlock(&b->lock);
		blocks = (pages - freed - 1) / a->pages_per_block + 1;
		if (blocks > a->max_blocks)
			blocks = a->max_blocks;
		freed += area_release(a, (u32)blocks, a->reserve, cause);
		b->ops->put(a->host);
		core_lock(&b->lock);
	}
	core_list_del(&walk.place.link);
	core_unlock(&b->lock);
	return freed;
}

void data_budget_serve(struct data_budget *b)
{
	for (u32 round = 0; round < SERVE_ROUNDS; round++) {
		u64 over, missing = 0;
		struct data_area *head;

		core_lock(&b->lock);
		over = b->charged > b->limit ? b->charged - b->limit : 0;
		head = queue_head_locked(b);
		if (head)
			missing = head->want - head->grant;
		core_unlock(&b->lock);
		if (!budget_reclaim(b, over ? over : missing,
				    over ? COUNTER_shrinks_limit : COUNTER_shrinks_steal))
			return;
	}
	b->ops->serve_soon(b->host);
}

/* Of two times to wait, where 0 is for ever. */
static u64 sooner(u64 a, u64 b)
{
	return !a || (b && b < a) ? b : a;
}

u64 data_budget_tick(struct data_budget *b, u64 now)
{
	struct data_area *a;
	struct walk walk;
	u64 wait = 0;

	if (core_atomic_read(&b->shortage))
		data_budget_serve(b);
	core_lock(&b->lock);
	b->tick_asked = false;
	walk_begin_locked(b, &walk);
	while ((a = walk_next_locked(b, &walk, false))) {
		u64 ms;

		core_unlock(&b->lock);
		ms = area_tick(a, now);
		b->ops->put(a->host);
		wait = sooner(wait, ms);
		core_lock(&b->lock);
	}
	if (walk.place.link.prev != &b->list)
		wait = sooner(wait, BUSY_LIST_MS);
	core_list_del(&walk.place.link);
	if (core_atomic_read(&b->shortage))
		wait = sooner(wait, RETRY_MS);
	if (!b->listed)
		wait = 0;
	else if (b->tick_asked)
		wait = 1;
	b->tick_wait = wait;
	core_unlock(&b->lock);
	return wait;
}

u64 data_budget_shrinkable(struct data_budget *b)
{
	u64 pages;

	core_lock(&b->lock);
	pages = b->excess;
	core_unlock(&b->lock);
	return pages;
}

u64 data_budget_shrink(struct data_budget *b, u64 pages)
{
	return budget_reclaim(b, pages, COUNTER_shrinks_pressure);
}

void data_budget_stats(struct data_budget *b, struct data_budget_stats *ret_stats)
{
	core_lock(&b->lock);
	*ret_stats = (struct data_budget_stats){
		.limit = b->limit == NO_LIMIT ? 0 : b->limit,
		.charged = b->charged,
		.charged_high = b->charged_high,
		.reserved = b->reserved,
		.areas = b->areas,
		.waiting = b->waiting,
	};
	core_unlock(&b->lock);
}
