/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The controller of the budget.
 *
 * One thread sleeps on what sense.c opened. Each time it wakes it takes one *look*: pools settle
 * (find the pages that the kernel took), their use and the kernel's figures are read, and from
 * these follow how many bytes are needed by others, the new target, the next state, and when to
 * look again.
 *
 *	           need or loss                      memory is no longer short
 *	STEADY ------------------> PRESSED <------------------> RESTING
 *	   ^                          ^   need or loss              | for a while
 *	   |  target == ceiling       |                             v
 *	   `--------------------------+------------------------- GROWING
 *
 * Need. Of a place (a cgroup's limit, the host) `available` counts our volatile pages, which the
 * kernel takes without asking. What is left when they are subtracted should not fall below a low
 * watermark; when it does, we give back what is missing to the high one: so others find free memory
 * instead of having to reclaim ours, and the distance of the two keeps us from swinging. Pressure
 * that the kernel tells of our own cgroup asks for a part of what is reclaimable whatever the
 * figures say; a stall somewhere on the host only makes us look at them. Who has taken by the next
 * look what was given takes fast: each time in a row it is twice as much, so that a few looks lead
 * from ceiling to floor.
 *
 * Loss. Pages that the kernel has taken were its to take. The target falls to what is left, so that
 * misses do not fill them again at once: that would be a fight over each page.
 *
 * Growth goes by steps of 1/60 of the way from floor to ceiling, and only into what is free above
 * the high watermark; when there is none the steps come ever more seldom. At the ceiling there is
 * no timer at all. Without PSI, and between the watermarks, somebody has to look now and then, but
 * only while there is something that could be given back.
 *
 * Locking: `work` is held during looks, and so while ops of pools run, which take the locks of
 * caches and of tmem; `promise` is a leaf, so that a reservation is made from anywhere.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "mem/budget/budget_private.h"

#define FLOOR_DEFAULT	  (64ull << 20)
#define REGROW_MS_DEFAULT 60000
#define LOSS_MIN	  (1ull << 20)	/* bytes; below that it is page aging, not want */
#define STEP_MIN	  (16ull << 20) /* least that pressure asks for, where there is so much */
#define PAGE		  4096

/* Times, as parts of the time from floor to ceiling. */
#define GROW_STEPS  60	 /* steps of growth: each 1 s of 60 */
#define TICK_PART   1200 /* between looks while memory is short: 50 ms */
#define REST_PART   12	 /* from the end of pressure to growth: 5 s */
#define SLOW_PART   30	 /* between looks that replace PSI: 2 s */
#define BACKOFF_MAX 16	 /* blocked growth waits this many times longer at most */
#define URGENCY_MAX 5	 /* doublings of what is given back */
#define PACE_MAX    20	 /* ticks between looks that are told of and find nothing: 1 s */

const char *budget_cause_name(enum budget_cause cause)
{
	static const char *const names[] = {
#define X(id, name, help) name,
		BUDGET_CAUSES_TABLE(X)
#undef X
	};
	return names[cause];
}

const char *budget_state_name(enum budget_state state)
{
	static const char *const names[] = {
#define X(id, name, help) name,
		BUDGET_STATES(X)
#undef X
	};
	return names[state];
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* a - b, not below 0. */
static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

struct watermarks budget_watermarks(uint64_t size)
{
	uint64_t low = min_u64(max_u64(size / 32, min_u64(8u << 20, size / 8)), 512u << 20);

	return (struct watermarks){low, 2 * low};
}

/* --- pools --- */

#define for_each_pool(p, b)                                                                 \
	for (struct list_node *n_ = (b)->pools.next;                                        \
	     n_ != &(b)->pools && ((p) = container_of(n_, struct budget_pool, link), true); \
	     n_ = n_->next)

static bool is_shrinkable(const struct budget_pool *p)
{
	return p->spec.ops->set_target != NULL;
}

struct totals {
	uint64_t held, reclaimable, loose;
	uint64_t fixed; /* of pools that are only accounted, or what is promised if that is more */
};

static uint64_t promised(struct budget *b)
{
	uint64_t n;

	mutex_lock(&b->promise);
	n = b->reserved;
	mutex_unlock(&b->promise);
	return n;
}

static struct totals read_uses_locked(struct budget *b)
{
	struct totals t = {0};
	struct budget_pool *p;

	mutex_assert_held(&b->work);
	for_each_pool(p, b)
	{
		p->use = (struct budget_use){0};
		p->spec.ops->use(p->spec.pool, &p->use);
		t.held += p->use.bytes;
		t.reclaimable += p->use.reclaimable;
		t.loose += p->use.loose;
		t.fixed += is_shrinkable(p) ? 0 : p->use.bytes;
	}
	t.fixed = max_u64(t.fixed, promised(b));
	return t;
}

/* Returns the bytes that the kernel had taken. */
static uint64_t settle_locked(struct budget *b)
{
	uint64_t all = 0, bytes;
	struct budget_pool *p;

	for_each_pool(p, b)
	{
		bytes = p->spec.ops->settle ? p->spec.ops->settle(p->spec.pool) : 0;
		p->lost = bytes >= LOSS_MIN;
		p->purged_pages += bytes / PAGE;
		all += bytes;
	}
	return all;
}

static uint64_t set_target_locked(struct budget_pool *p, uint64_t target)
{
	uint64_t t0 = clock_now_ns(), bytes;

	bytes = p->spec.ops->set_target(p->spec.pool, target);
	p->target = target;
	if (bytes) {
		metric_hist_add(&p->shrink, clock_now_ns() - t0);
		p->returned += bytes;
	}
	return bytes;
}

/* Brings all pools to what b->target means for them, the shrinking ones first. */
static uint64_t apply_locked(struct budget *b, uint64_t fixed)
{
	struct budget_pool *p, *pools[BUDGET_POOLS_MAX];
	struct share_pool shares[BUDGET_POOLS_MAX];
	uint64_t returned = 0;
	size_t n = 0;

	mutex_assert_held(&b->work);
	for_each_pool(p, b)
	{
		if (!is_shrinkable(p))
			continue;
		shares[n] = (struct share_pool){p->spec.share, p->spec.floor, p->spec.max, 0, 0};
		pools[n++] = p;
	}
	share_out(shares, n, less(b->ceiling, fixed), less(b->target, fixed));
	for (size_t i = 0; i < n; i++)
		if (pools[i]->spec.ops->whole)
			pools[i]->spec.ops->whole(pools[i]->spec.pool,
						  shares[i].target == shares[i].whole);
	for (size_t i = 0; i < n; i++)
		if (shares[i].target < pools[i]->target || pools[i]->use.bytes > shares[i].target)
			returned += set_target_locked(pools[i], shares[i].target);
	for (size_t i = 0; i < n; i++)
		if (shares[i].target > pools[i]->target)
			returned += set_target_locked(pools[i], shares[i].target);
	return returned;
}

/* --- what follows from the figures --- */

/* Bytes that others need and do not have; *@ret_cause: where. */
static uint64_t shortage(const struct sense_place *places, unsigned n, uint64_t loose,
			 enum budget_cause *ret_cause)
{
	uint64_t need = 0;

	for (unsigned i = 0; i < n; i++) {
		struct watermarks w = budget_watermarks(places[i].size);
		uint64_t spare = less(places[i].available, loose);

		if (spare >= w.low || w.high - spare <= need)
			continue;
		need = w.high - spare;
		*ret_cause = places[i].cause;
	}
	return need;
}

/* Bytes that we could grow by without needing to shrink again. */
static uint64_t room_to_grow(const struct sense_place *places, unsigned n, uint64_t loose)
{
	uint64_t room = UINT64_MAX;

	for (unsigned i = 0; i < n; i++) {
		struct watermarks w = budget_watermarks(places[i].size);

		room = min_u64(room, less(less(places[i].available, loose), w.high));
	}
	return room;
}

/*
 * The target with which pools give @need bytes back, the cheapest first, and those that lost pages
 * keep what is left. Less than that much of a pool's target is also what it had not used: giving
 * that up alone would give nothing back.
 */
static uint64_t lowered_target(struct budget *b, uint64_t need)
{
	uint64_t target = b->target;
	struct budget_pool *p;

	for_each_pool(p, b)
	{
		uint64_t take = min_u64(need, less(p->use.bytes, p->spec.floor));

		if (!is_shrinkable(p) || (!need && !p->lost))
			continue;
		target = less(target, less(p->target, max_u64(p->spec.floor, p->use.bytes - take)));
		need -= take;
	}
	return max_u64(target, b->floor);
}

static uint64_t lower_locked(struct budget *b, uint64_t need, uint64_t fixed,
			     enum budget_cause cause)
{
	uint64_t target = lowered_target(b, need), bytes;
	bool fell = target < b->target;

	b->target = target;
	bytes = apply_locked(b, fixed);
	if (fell || bytes)
		b->shrinks[cause]++;
	if (bytes) {
		b->returned += bytes;
		b->last_shrink_bytes = bytes;
		b->last_shrink_ns = clock_now_ns();
	}
	return bytes;
}

/* --- states --- */

static void enter_locked(struct budget *b, enum budget_state state, uint64_t interval,
			 uint64_t next)
{
	b->state = state;
	b->interval_ns = interval;
	b->next_ns = next;
}

/* Memory is short, or was: @helped, something was given back or lost. */
static void press_locked(struct budget *b, uint64_t now, bool helped)
{
	uint64_t tick = b->regrow_ns / TICK_PART, longest = b->regrow_ns / REST_PART;
	bool again = b->state == BUDGET_PRESSED && !helped;

	tick = again ? min_u64(b->interval_ns * 2, longest) : tick;
	b->pressed_ns = now;
	enter_locked(b, BUDGET_PRESSED, tick, now + tick);
}

static void grow_locked(struct budget *b, uint64_t now, uint64_t room, uint64_t fixed)
{
	uint64_t pause = b->regrow_ns / GROW_STEPS;
	uint64_t step = min_u64((b->ceiling - b->floor) / GROW_STEPS + 1, b->ceiling - b->target);
	bool blocked = room < step;

	if (!blocked) {
		b->target += step;
		apply_locked(b, fixed);
	} else if (b->state == BUDGET_GROWING) {
		pause = min_u64(b->interval_ns * 2, pause * BACKOFF_MAX);
	}
	enter_locked(b, BUDGET_GROWING, pause, now + pause);
}

/* Nothing presses. @room: what could be grown by. */
static void relax_locked(struct budget *b, uint64_t now, uint64_t room, const struct totals *t)
{
	uint64_t rested = b->pressed_ns + b->regrow_ns / REST_PART;
	uint64_t slow = b->regrow_ns / SLOW_PART;
	bool told;

	if (b->target < b->ceiling && b->state == BUDGET_GROWING && now < b->next_ns)
		return;
	if (b->target < b->ceiling && now < rested)
		enter_locked(b, BUDGET_RESTING, 0, rested);
	else if (b->target < b->ceiling)
		grow_locked(b, now, room, t->fixed);
	if (b->target < b->ceiling)
		return;
	/* Without PSI nobody would tell us; nor where page cache goes instead of what is free. */
	told = sense_is_told(b->sense) && room;
	enter_locked(b, BUDGET_STEADY, 0, told || !t->reclaimable ? 0 : now + slow);
}

static void note_places_locked(struct budget *b, const struct sense_place *places, unsigned n)
{
	b->limit = b->available = UINT64_MAX;
	for (unsigned i = 0; i < n; i++) {
		b->limit = min_u64(b->limit, places[i].size);
		b->available = min_u64(b->available, places[i].available);
	}
}

/*
 * A group that is full of page cache meets its limit all the time, and tells of it: looks that find
 * nothing, one soon after the other, become rarer.
 */
static void pace_locked(struct budget *b, uint64_t now, bool in_vain)
{
	uint64_t tick = b->regrow_ns / TICK_PART;
	bool soon = now - b->looked_ns < b->pace_ns + PACE_MAX * tick;

	if (!in_vain)
		b->pace_ns = 0;
	else
		b->pace_ns = soon ? min_u64(2 * max_u64(b->pace_ns, tick), PACE_MAX * tick) : 0;
	b->looked_ns = now;
}

/* @told: SENSE_ bits. */
static void look_locked(struct budget *b, unsigned told)
{
	struct sense_place places[SENSE_PLACES];
	enum budget_cause cause = BUDGET_CAUSE_PSI;
	uint64_t now = clock_now_ns(), lost, need, bytes = 0;
	struct totals t;
	unsigned n;

	b->looks++;
	lost = settle_locked(b);
	t = read_uses_locked(b);
	n = sense_read(b->sense, places);
	note_places_locked(b, places, n);
	need = shortage(places, n, t.loose, &cause);
	if (told & SENSE_PRESSURE || (told & SENSE_STALL && !n))
		need = max_u64(need, max_u64(t.reclaimable / 4, min_u64(t.reclaimable, STEP_MIN)));
	if (told & (SENSE_PRESSURE | SENSE_STALL))
		cause = BUDGET_CAUSE_PSI;
	if (need || lost >= LOSS_MIN) {
		bytes = lower_locked(b, need << b->urgency, t.fixed,
				     need ? cause : BUDGET_CAUSE_LOSS);
		b->urgency = !bytes ? 0 : b->urgency + (b->urgency < URGENCY_MAX);
		press_locked(b, now, bytes || lost);
		pace_locked(b, now, false);
		return;
	}
	pace_locked(b, now, told != 0);
	b->urgency = 0;
	apply_locked(b, t.fixed); /* what is only accounted may have changed */
	relax_locked(b, now, room_to_grow(places, n, t.loose), &t);
}

/* --- the thread --- */

static void wake(struct budget *b)
{
	uint64_t one = 1;

	/* A full counter is a wake-up that is pending already. */
	(void)!write(b->wake_fd, &one, sizeof(one));
}

/* Polls without the lock until @deadline, 0: for good. Whether we were woken by ourselves. */
static bool poll_locked(struct budget *b, struct pollfd *fds, unsigned n, uint64_t deadline)
{
	uint64_t left = less(deadline, clock_now_ns()), drain;
	struct timespec ts = {(time_t)(left / NSEC_PER_SEC), (long)(left % NSEC_PER_SEC)};
	int ret;

	fds[n] = (struct pollfd){b->wake_fd, POLLIN, 0};
	mutex_unlock(&b->work);
	ret = ppoll(fds, n + 1, deadline ? &ts : NULL, NULL);
	mutex_lock(&b->work);
	for (unsigned i = 0; ret <= 0 && i <= n; i++)
		fds[i].revents = 0;
	return fds[n].revents && read(b->wake_fd, &drain, sizeof(drain)) > 0;
}

/* Sleeps until something is told, or a look is due or asked for. Returns SENSE_ bits. */
static unsigned sleep_locked(struct budget *b)
{
	struct pollfd fds[SENSE_FDS + 1];
	uint64_t pause = b->looked_ns + b->pace_ns;
	unsigned n;

	if (b->pace_ns && clock_now_ns() < pause && poll_locked(b, fds, 0, pause))
		return 0;
	n = sense_fds(b->sense, fds);
	poll_locked(b, fds, n, b->next_ns);
	return sense_take(b->sense, fds);
}

static void *controller_main(void *arg)
{
	struct budget *b = arg;
	unsigned told;

	pthread_setname_np(pthread_self(), "ebb-budget");
	mutex_lock(&b->work);
	while (!b->stop) {
		told = sleep_locked(b);
		if (b->stop)
			break;
		if (told || b->asked || (b->next_ns && clock_now_ns() >= b->next_ns)) {
			b->asked = false;
			look_locked(b, told);
		} else { /* what is promised has changed */
			apply_locked(b, read_uses_locked(b).fixed);
		}
	}
	mutex_unlock(&b->work);
	return NULL;
}

/* --- life --- */

void budget_look(const char *proc, const char *cgroup, struct budget_room *ret_room)
{
	struct budget_spec spec = {.proc = proc, .cgroup = cgroup};
	struct sense_place places[SENSE_PLACES];
	struct sense *s;
	unsigned n = 0;

	*ret_room = (struct budget_room){UINT64_MAX, UINT64_MAX, false};
	if (!sense_open(&spec, &s)) {
		n = sense_read(s, places);
		sense_close(s);
	}
	for (unsigned i = 0; i < n; i++)
		if (places[i].size < ret_room->size)
			*ret_room = (struct budget_room){places[i].size, places[i].available,
							 places[i].cause == BUDGET_CAUSE_CGROUP};
}

void budget_defaults(struct budget_spec *ret_spec)
{
	struct budget_spec spec = {0};
	struct budget_room room;

	budget_look(NULL, NULL, &room);
	spec.ceiling = room.size != UINT64_MAX ? room.size / 2 : 2 * FLOOR_DEFAULT;
	spec.floor = min_u64(FLOOR_DEFAULT, spec.ceiling);
	*ret_spec = spec;
}

static int check_bounds(uint64_t floor, uint64_t ceiling, struct reason *why)
{
	if (floor && floor <= ceiling)
		return 0;
	return reason_set(why, EINVAL, "a floor of %llu bytes and a ceiling of %llu",
			  (unsigned long long)floor, (unsigned long long)ceiling);
}

static void free_budget(struct budget *b)
{
	sense_close(b->sense);
	if (b->wake_fd >= 0)
		close(b->wake_fd);
	mutex_destroy(&b->work);
	mutex_destroy(&b->promise);
	free(b);
}

int budget_create(const struct budget_spec *spec, struct budget **ret_b, struct reason *why)
{
	int ret = check_bounds(spec->floor, spec->ceiling, why);
	struct budget *b;

	if (ret)
		return ret;
	b = calloc(1, sizeof(*b));
	if (!b)
		return reason_set(why, ENOMEM, "out of memory");
	mutex_init(&b->work, LOCK_RANK_BUDGET);
	mutex_init(&b->promise, LOCK_RANK_LEAF);
	list_init(&b->pools);
	b->floor = b->promised_floor = spec->floor;
	b->ceiling = b->target = spec->ceiling;
	b->regrow_ns = (spec->regrow_ms ? spec->regrow_ms : REGROW_MS_DEFAULT) * NSEC_PER_MSEC;
	b->asked = true; /* the first look */
	b->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = b->wake_fd < 0 ? -errno : sense_open(spec, &b->sense);
	if (!ret)
		ret = -pthread_create(&b->thread, NULL, controller_main, b);
	if (ret) {
		free_budget(b);
		return reason_set(why, -ret, "memory budget: %s", strerror(-ret));
	}
	wake(b);
	*ret_b = b;
	return 0;
}

void budget_destroy(struct budget *b)
{
	if (!b)
		return;
	mutex_lock(&b->work);
	b->stop = true;
	mutex_unlock(&b->work);
	wake(b);
	pthread_join(b->thread, NULL);
	free_budget(b);
}

/* The new target: at once where memory is plenty or must be given back, else by growing. */
static void change_locked(struct budget *b, uint64_t floor, uint64_t ceiling)
{
	bool steady = b->target == b->ceiling;
	struct sense_place places[SENSE_PLACES];
	struct totals t = read_uses_locked(b);
	uint64_t room, bytes;

	b->floor = floor;
	b->ceiling = ceiling;
	room = room_to_grow(places, sense_read(b->sense, places), t.loose);
	if (b->target > ceiling || (steady && room >= ceiling - b->target))
		b->target = ceiling;
	b->target = max_u64(b->target, floor);
	bytes = apply_locked(b, t.fixed);
	b->returned += bytes;
	if (!bytes)
		return;
	b->shrinks[BUDGET_CAUSE_COMMAND]++;
	b->last_shrink_bytes = bytes;
	b->last_shrink_ns = clock_now_ns();
}

int budget_set(struct budget *b, uint64_t floor, uint64_t ceiling, struct reason *why)
{
	int ret = check_bounds(floor, ceiling, why);

	if (ret)
		return ret;
	mutex_lock(&b->promise);
	if (b->reserved > floor)
		ret = reason_set(why, EBUSY, "%llu bytes are promised to LUNs and connections",
				 (unsigned long long)b->reserved);
	else
		b->promised_floor = floor;
	mutex_unlock(&b->promise);
	if (ret)
		return ret;
	mutex_lock(&b->work);
	change_locked(b, floor, ceiling);
	b->asked = true;
	mutex_unlock(&b->work);
	wake(b);
	return 0;
}

uint64_t budget_shrink(struct budget *b, uint64_t bytes)
{
	struct totals t;
	uint64_t given;

	mutex_lock(&b->work);
	settle_locked(b);
	t = read_uses_locked(b);
	given = lower_locked(b, bytes, t.fixed, BUDGET_CAUSE_COMMAND);
	press_locked(b, clock_now_ns(), true);
	b->asked = true;
	mutex_unlock(&b->work);
	wake(b);
	return given;
}

int budget_add(struct budget *b, const struct budget_pool_spec *spec, struct budget_pool **ret_p)
{
	struct budget_pool *p = calloc(1, sizeof(*p)), *other;
	struct list_node *before;
	struct totals t;

	if (!p)
		return -ENOMEM;
	p->b = b;
	p->spec = *spec;
	strncpy(p->name, spec->name, sizeof(p->name) - 1);
	p->spec.name = p->name;
	list_init(&p->link);
	mutex_scope(&b->work);
	if (b->n_pools == BUDGET_POOLS_MAX) {
		free(p);
		return -ENOMEM;
	}
	before = &b->pools;
	for_each_pool(other, b)
	{
		if (other->spec.rank > spec->rank) {
			before = &other->link;
			break;
		}
	}
	list_add_tail(before, &p->link);
	b->n_pools++;
	t = read_uses_locked(b);
	apply_locked(b, t.fixed);
	*ret_p = p;
	return 0;
}

void budget_remove(struct budget_pool *p)
{
	struct budget *b;
	struct totals t;

	if (!p)
		return;
	b = p->b;
	mutex_lock(&b->work);
	list_del(&p->link);
	b->n_pools--;
	t = read_uses_locked(b);
	apply_locked(b, t.fixed);
	mutex_unlock(&b->work);
	free(p);
}

/* --- promises --- */

int budget_reserve(struct budget *b, uint64_t bytes, const char *what, struct reason *why)
{
	int ret = 0;

	mutex_lock(&b->promise);
	if (bytes > less(b->promised_floor, b->reserved))
		ret = reason_set(why, ENOSPC,
				 "%.100s may need %llu KiB of memory: of the floor of %llu MiB "
				 "%llu KiB are promised already (raise memory.floor)",
				 what, (unsigned long long)bytes >> 10,
				 (unsigned long long)b->promised_floor >> 20,
				 (unsigned long long)b->reserved >> 10);
	else
		b->reserved += bytes;
	mutex_unlock(&b->promise);
	if (!ret)
		wake(b); /* so much less is to be shared out */
	return ret;
}

void budget_release(struct budget *b, uint64_t bytes)
{
	mutex_lock(&b->promise);
	b->reserved = less(b->reserved, bytes);
	mutex_unlock(&b->promise);
}

/* --- reports --- */

void budget_stats(struct budget *b, struct budget_stats *ret_stats)
{
	struct sense_place places[SENSE_PLACES];
	struct totals t;

	mutex_scope(&b->work);
	t = read_uses_locked(b);
	note_places_locked(b, places, sense_read(b->sense, places));
	*ret_stats = (struct budget_stats){
		.floor = b->floor,
		.ceiling = b->ceiling,
		.target = b->target,
		.held = t.held,
		.reclaimable = t.reclaimable,
		.reserved = promised(b),
		.limit = b->limit,
		.available = b->available,
		.looks = b->looks,
		.state = b->state,
		.returned = b->returned,
		.last_shrink_ns = b->last_shrink_ns,
		.last_shrink_bytes = b->last_shrink_bytes,
	};
	memcpy(ret_stats->shrinks, b->shrinks, sizeof(b->shrinks));
	sense_describe(b->sense, ret_stats->source, sizeof(ret_stats->source));
}

static void copy_hist(struct metric_hist *to, const struct metric_hist *from)
{
	for (unsigned i = 0; i < METRIC_HIST_BUCKETS; i++)
		to->bucket[i] = metric_read(&from->bucket[i]);
	to->sum_ns = metric_read(&from->sum_ns);
}

size_t budget_pools(struct budget *b, struct budget_pool_stats *ret_pools, size_t n)
{
	struct budget_pool *p;
	size_t i = 0;

	mutex_scope(&b->work);
	read_uses_locked(b);
	for_each_pool(p, b)
	{
		struct budget_pool_stats *s = &ret_pools[i];

		if (i++ >= n)
			continue;
		*s = (struct budget_pool_stats){
			.use = p->use,
			.target = is_shrinkable(p) ? p->target : p->use.bytes,
			.floor = p->spec.floor,
			.returned = p->returned,
			.purged_pages = p->purged_pages,
			.rank = p->spec.rank,
		};
		memcpy(s->name, p->name, sizeof(s->name));
		copy_hist(&s->shrink, &p->shrink);
	}
	return i;
}
