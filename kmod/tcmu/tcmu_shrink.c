// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The memory of all channels together. The core (data_area.h) has the accounts: one budget that is
 * never exceeded, areas that have a reserve in it and, beyond that, what they use. Here is who
 * calls it, and when:
 *
 *	idle	one delayed work for all devices. It runs only while some device has more than it
 *		should keep, and then at the moment that device is due: an idle machine is woken
 *		a few times after its last command, and no more. (A deferrable work would wait for
 *		somebody else to wake the machine, and keep its memory until then.)
 *	memory	a shrinker: the kernel asks, and blocks nobody uses go, least recently used device
 *		first.
 *	limit	who needs blocks steals them on the spot; what could not be had at once (the limit
 *		was lowered, somebody waits) is a work of its own.
 *
 * Rings are not in the budget: one has at most 8 MiB, and those that grew beyond what an idle one
 * needs are trimmed, once they are empty, on the first two occasions.
 *
 * Locks: chans_lock (the list of channels) -> ring_lock. The shrinker only tries them.
 */
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

#include "tcmu_private.h"

#define MB_TO_PAGES(mb)	   ((u64)(mb) << (20 - PAGE_SHIFT))
#define PAGES_TO_KB(pages) ((u64)(pages) << (PAGE_SHIFT - 10))
#define TICK_MS		   1000 /* the first look at a device that has grown */

static DEFINE_MUTEX(chans_lock);
static LIST_HEAD(chans);

static struct data_budget *budget; /* read by parameters under kernel_param_lock */
static struct workqueue_struct *shrink_wq;
static uint limit_mb = 2048; /* under kernel_param_lock */
static uint idle_s = 10;     /* under chans_lock */

static void serve_work_fn(struct work_struct *work);
static void tick_work_fn(struct work_struct *work);
static DECLARE_WORK(serve_work, serve_work_fn);
static DECLARE_DELAYED_WORK(tick_work, tick_work_fn);

u64 tcmu_shrink_now(void)
{
	return jiffies64_to_msecs(get_jiffies_64());
}

/* -- what the core asks of us ----------------------------------------------------------- */

static void *budget_alloc(void *host, size_t size)
{
	return kvzalloc(size, GFP_KERNEL);
}

static void budget_free(void *host, void *p, size_t size)
{
	kvfree(p);
}

static u32 area_release(void *area_host, u32 first, u32 n)
{
	return tcmu_data_release(area_host, first, n);
}

static bool area_hold(void *area_host)
{
	return tcmu_chan_hold(area_host);
}

static void area_put(void *area_host)
{
	tcmu_chan_put(area_host);
}

static void area_wake(void *area_host)
{
	tcmu_cmd_kick(area_host);
}

static void serve_soon(void *host)
{
	queue_work(shrink_wq, &serve_work);
}

static void tick_soon(void *host)
{
	tcmu_shrink_tick_soon();
}

static const struct data_area_ops area_ops = {
	.alloc = budget_alloc,
	.free = budget_free,
	.release = area_release,
	.hold = area_hold,
	.put = area_put,
	.wake = area_wake,
	.serve_soon = serve_soon,
	.tick_soon = tick_soon,
};

/* -- when ------------------------------------------------------------------------------- */

static void serve_work_fn(struct work_struct *work)
{
	data_budget_serve(budget);
}

void tcmu_shrink_serve(void)
{
	data_budget_serve(budget);
}

void tcmu_shrink_queue(struct work_struct *work)
{
	queue_work(shrink_wq, work);
}

void tcmu_shrink_tick_soon(void)
{
	mod_delayed_work(shrink_wq, &tick_work, msecs_to_jiffies(TICK_MS));
}

static u32 idle_ms_locked(s32 own)
{
	u64 seconds = own < 0 ? idle_s : own;

	lockdep_assert_held(&chans_lock);
	return min_t(u64, seconds * MSEC_PER_SEC, U32_MAX);
}

/* Trims the ring if it is idle. Returns after how many milliseconds to look again; 0: no more. */
static u64 trim_ring_locked(struct tcmu_chan *chan)
{
	unsigned long last_used = READ_ONCE(chan->last_used);
	u32 idle = idle_ms_locked(chan->idle_s), unused = jiffies_to_msecs(jiffies - last_used);

	if (!idle || !READ_ONCE(chan->ring.grown))
		return 0;
	if (unused < idle)
		return idle - unused;
	mutex_lock(&chan->ring_lock);
	tcmu_ring_trim(&chan->ring);
	mutex_unlock(&chan->ring_lock);
	return READ_ONCE(chan->ring.grown) ? idle : 0;
}

/* As trim_ring_locked(), for all. */
static u64 trim_rings(void)
{
	struct tcmu_chan *chan;
	u64 ms = 0;

	mutex_lock(&chans_lock);
	list_for_each_entry(chan, &chans, node)
		ms = min_not_zero(ms, trim_ring_locked(chan));
	mutex_unlock(&chans_lock);
	return ms;
}

static void tick_work_fn(struct work_struct *work)
{
	u64 ms = data_budget_tick(budget, tcmu_shrink_now());

	ms = min_not_zero(ms, trim_rings());
	if (ms)
		queue_delayed_work(shrink_wq, &tick_work,
				   msecs_to_jiffies(min_t(u64, ms, U32_MAX)));
}

/* At most so many pages has trim_rings_now(). */
static unsigned long trimmable(void)
{
	struct tcmu_chan *chan;
	unsigned long pages = 0;

	if (!mutex_trylock(&chans_lock))
		return 0;
	list_for_each_entry(chan, &chans, node) {
		if (READ_ONCE(chan->ring.grown))
			pages += atomic_long_read(&chan->map.ring_resident);
	}
	mutex_unlock(&chans_lock);
	return pages;
}

/* Trims rings until so many pages are free, or no more is empty. */
static unsigned long trim_rings_now(unsigned long pages)
{
	struct tcmu_chan *chan;
	unsigned long freed = 0;

	if (!mutex_trylock(&chans_lock))
		return 0;
	list_for_each_entry(chan, &chans, node) {
		if (freed >= pages)
			break;
		if (!READ_ONCE(chan->ring.grown) || !mutex_trylock(&chan->ring_lock))
			continue;
		freed += tcmu_ring_trim(&chan->ring);
		mutex_unlock(&chan->ring_lock);
	}
	mutex_unlock(&chans_lock);
	return freed;
}

static unsigned long shrinker_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	return min_t(u64, data_budget_shrinkable(budget) + trimmable(), LONG_MAX);
}

static unsigned long shrinker_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	unsigned long freed = data_budget_shrink(budget, sc->nr_to_scan);

	if (freed < sc->nr_to_scan)
		freed += trim_rings_now(sc->nr_to_scan - freed);
	return freed ?: SHRINK_STOP;
}

static struct compat_shrinker shrinker;

/* -- channels come and go --------------------------------------------------------------- */

/* A reserve the budget has no room for is made smaller until it fits. */
static int create_area(struct tcmu_chan *chan, struct data_area_spec *spec)
{
	int err;

	while ((err = data_area_create(budget, spec, chan, &chan->area)) == -ENOSPC &&
	       spec->reserve)
		spec->reserve /= 2;
	return err;
}

int tcmu_shrink_add(struct tcmu_chan *chan, u32 reserve_blocks, s32 own_idle_s)
{
	struct data_area_spec spec = {
		.max_blocks = chan->max_blocks,
		.pages_per_block = chan->pages_per_block,
		.reserve = reserve_blocks,
	};
	int err = create_area(chan, &spec);

	if (err)
		return err;
	mutex_lock(&chans_lock);
	list_add_tail(&chan->node, &chans);
	mutex_unlock(&chans_lock);
	tcmu_shrink_set_idle(chan, own_idle_s);
	return 0;
}

void tcmu_shrink_remove(struct tcmu_chan *chan)
{
	mutex_lock(&chans_lock);
	list_del_init(&chan->node);
	mutex_unlock(&chans_lock);
	data_area_stop_waiting(chan->area);
	data_area_shrink(chan->area, 0);
}

void tcmu_shrink_set_idle(struct tcmu_chan *chan, s32 own_idle_s)
{
	mutex_lock(&chans_lock);
	chan->idle_s = own_idle_s;
	data_area_set_idle(chan->area, idle_ms_locked(own_idle_s));
	mutex_unlock(&chans_lock);
}

/* -- module parameters ------------------------------------------------------------------ */

static int limit_set(const char *text, const struct kernel_param *kp)
{
	uint mb;
	int err = kstrtouint(text, 10, &mb);

	if (err || !mb || mb > INT_MAX)
		return -EINVAL;
	err = budget ? data_budget_set_limit(budget, MB_TO_PAGES(mb)) : 0;
	if (!err)
		limit_mb = mb;
	return err;
}

static const struct kernel_param_ops limit_ops = {.set = limit_set, .get = param_get_uint};

module_param_cb(global_max_data_area_mb, &limit_ops, &limit_mb, 0644);
MODULE_PARM_DESC(global_max_data_area_mb, "MiB of memory all data areas together may have");

static int idle_set(const char *text, const struct kernel_param *kp)
{
	struct tcmu_chan *chan;
	uint seconds;
	int err = kstrtouint(text, 10, &seconds);

	if (err)
		return err;
	mutex_lock(&chans_lock);
	idle_s = seconds;
	list_for_each_entry(chan, &chans, node)
		data_area_set_idle(chan->area, idle_ms_locked(chan->idle_s));
	mutex_unlock(&chans_lock);
	return 0;
}

static const struct kernel_param_ops idle_ops = {.set = idle_set, .get = param_get_uint};

module_param_cb(idle_time_out, &idle_ops, &idle_s, 0644);
MODULE_PARM_DESC(idle_time_out, "seconds after which an unused data area shrinks, 0: never");

static struct data_budget_stats budget_stats(void)
{
	struct data_budget_stats stats = {};

	if (budget)
		data_budget_stats(budget, &stats);
	return stats;
}

static int charged_get(char *text, const struct kernel_param *kp)
{
	return sysfs_emit(text, "%llu\n", PAGES_TO_KB(budget_stats().charged));
}

static int charged_high_get(char *text, const struct kernel_param *kp)
{
	return sysfs_emit(text, "%llu\n", PAGES_TO_KB(budget_stats().charged_high));
}

static const struct kernel_param_ops charged_ops = {.get = charged_get};
static const struct kernel_param_ops charged_high_ops = {.get = charged_high_get};

module_param_cb(data_area_kb, &charged_ops, NULL, 0444);
MODULE_PARM_DESC(data_area_kb, "KiB of the limit that are reserved or in use");
module_param_cb(data_area_high_kb, &charged_high_ops, NULL, 0444);
MODULE_PARM_DESC(data_area_high_kb, "the most that ever were");

/* Parameters can be read and written for as long as the module's text is there. */
static void forget_budget(void)
{
	struct data_budget *b;

	kernel_param_lock(THIS_MODULE);
	b = budget;
	budget = NULL;
	kernel_param_unlock(THIS_MODULE);
	data_budget_destroy(b);
}

int tcmu_shrink_init(void)
{
	struct data_budget_spec spec = {.ops = &area_ops, .limit = MB_TO_PAGES(limit_mb)};
	int err = -ENOMEM;

	shrink_wq = alloc_workqueue("tcmu_shrink", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!shrink_wq)
		return err;
	err = data_budget_create(&spec, &budget);
	if (err)
		goto out_wq;
	err = compat_shrinker_register(&shrinker, "tcmu", shrinker_count, shrinker_scan);
	if (err)
		goto out_budget;
	return 0;

out_budget:
	forget_budget();
out_wq:
	destroy_workqueue(shrink_wq);
	return err;
}

void tcmu_shrink_exit(void)
{
	compat_shrinker_unregister(&shrinker);
	cancel_delayed_work_sync(&tick_work);
	cancel_work_sync(&serve_work);
	destroy_workqueue(shrink_wq);
	forget_budget();
}
