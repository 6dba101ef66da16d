/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the budget's pools are in this process.
 *
 *	iobufs	 free I/O buffers of the reactors, kept for reuse; their limit too
 *	cache	 pages of the read cache, and its index
 *	tmem	 compressed pages
 *	port	 rings and data areas shared with clients of the port; they shrink by themselves
 *	process	 all other private memory: code's data, heap, stacks, connections, receive buffers
 *
 * The last is what the kernel says is resident less what the others hold, so that no byte is
 * missing from the sum.
 *
 * Life: memory is there before the first reactor and goes after the last, because LUNs (and so
 * cached objects) end with the reactors; pools that ask reactors or the port leave before those do.
 */
#include "control/memory.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "event/iobuf.h"
#include "event/reactor.h"
#include "front/iscsi/iscsi.h"
#include "front/port/port.h"
#include "mem/address_space.h"
#include "mem/budget/budget.h"
#include "mem/cache/cache.h"
#include "mem/tmem/host.h"

#define SPACE_MAX      (1ull << 40)
#define SPACE_MIN      (1ull << 30)
#define WIRED_PART     8 /* of a reservation that had to be small */
#define FLOOR_MIN      (64ull << 20)
#define FLOOR_SESSIONS 512		  /* connections that the default floor has room for */
#define IOBUF_FLOOR    (2ull * IOBUF_MAX) /* a reactor's: the longest command, and its bounce */
#define IOBUF_MOST     (128ull << 20)	  /* a reactor's */
#define IOBUF_SHARE    12		  /* percent of the budget */
#define CACHE_FLOOR    (4ull << 20)
#define INDEX_PART     64 /* of the ceiling: the index of a full cache, with room to spare */
#define SETTLE_PAGES   (1u << 18) /* looked at in one go, some 10 ms */
#define TMEM_SPARES    (1ull << 20)
#define TMEM_POOLS     8192 /* one a LUN that is cached */
#define ANSWER_MS      500  /* reactors that take longer are not waited for */

/* The limit of a reactor's I/O buffers, on its way. */
struct iobuf_order {
	struct reactor_msg msg;
	struct memory *m;
	struct reactor *r;
	_Atomic uint64_t limit;
	_Atomic bool trim;
	bool under_way; /* under m->lock */
};

struct memory {
	/* --- constant --- */
	struct address_space *space;
	struct tmem_host *tmem; /* or NULL */
	struct cache *cache;
	uint32_t settle_pages;
	struct budget *budget;
	struct config_memory declared; /* numbers only; changed between changes */
	unsigned threads, luns;	       /* declared, for the default floor */
	uint64_t started_ceiling;      /* the cache has addresses for so much */
	struct budget_pool *cache_pool, *tmem_pool, *process_pool, *iobuf_pool, *port_pool;

	/* --- set before iobuf_pool is made --- */
	struct reactor_set
		*_Atomic reactors;  /* the controller's thread sees them complete or not */
	struct iobuf_order *orders; /* one a reactor */
	/* --- set before port_pool is made --- */
	struct port_server *port;

	struct mutex lock; /* LEAF */
	pthread_cond_t answered;
	unsigned unanswered; /* under lock */
};

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* --- pool: I/O buffers --- */

static struct iobuf_stats iobuf_total(struct memory *m)
{
	struct iobuf_stats all = {0}, one;

	for (unsigned i = 0; i < reactor_set_count(m->reactors); i++) {
		iobuf_pool_stats(reactor_iobufs(reactor_set_get(m->reactors, i)), &one);
		all.mapped_bytes += one.mapped_bytes;
		all.used_bytes += one.used_bytes;
		all.returned_bytes += one.returned_bytes;
	}
	return all;
}

static void iobufs_use(void *pool, struct budget_use *ret_use)
{
	struct iobuf_stats s = iobuf_total(pool);

	*ret_use = (struct budget_use){
		.bytes = s.mapped_bytes,
		.reclaimable = less(s.mapped_bytes, s.used_bytes),
		.wired = s.used_bytes,
	};
}

/* On the reactor. */
static void obey(struct reactor_msg *msg)
{
	struct iobuf_order *o = container_of(msg, struct iobuf_order, msg);
	struct memory *m = o->m;

	iobuf_pool_set_limit(reactor_iobufs(o->r), atomic_load(&o->limit));
	if (atomic_exchange(&o->trim, false))
		iobuf_pool_trim(reactor_iobufs(o->r));
	mutex_lock(&m->lock);
	o->under_way = false;
	if (!--m->unanswered)
		pthread_cond_signal(&m->answered);
	mutex_unlock(&m->lock);
}

static void send_order(struct memory *m, struct iobuf_order *o)
{
	bool pending;

	mutex_lock(&m->lock);
	pending = o->under_way; /* it will find the new limit */
	o->under_way = true;
	m->unanswered += !pending;
	mutex_unlock(&m->lock);
	if (!pending)
		reactor_post(o->r, &o->msg);
}

/* Waits for the reactors, but not for one that is stuck. */
static void wait_answers(struct memory *m)
{
	struct timespec until;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(ANSWER_MS * NSEC_PER_MSEC);
	until.tv_sec += until.tv_nsec / (long)NSEC_PER_SEC;
	until.tv_nsec %= (long)NSEC_PER_SEC;
	mutex_lock(&m->lock);
	while (m->unanswered && !ret)
		ret = pthread_cond_timedwait(&m->answered, &m->lock.m, &until);
	mutex_unlock(&m->lock);
}

static uint64_t iobufs_set_target(void *pool, uint64_t bytes)
{
	struct memory *m = pool;
	struct iobuf_stats before = iobuf_total(m);
	unsigned n = reactor_set_count(m->reactors);

	for (unsigned i = 0; i < n; i++) {
		struct iobuf_order *o = &m->orders[i];

		if (bytes / n < atomic_load(&o->limit))
			atomic_store(&o->trim, true);
		atomic_store(&o->limit, bytes / n);
		send_order(m, o);
	}
	wait_answers(m);
	return iobuf_total(m).returned_bytes - before.returned_bytes;
}

/* --- pool: the read cache --- */

/* What the cache holds, but for what it has borrowed from tmem's part: that is in tmem's pool. */
static void cache_use(void *pool, struct budget_use *ret_use)
{
	struct memory *m = pool;
	struct cache_stats s;
	uint64_t own;

	cache_stats(m->cache, &s);
	own = s.resident < s.target ? s.resident : s.target;
	*ret_use = (struct budget_use){
		.bytes = own + s.index_resident,
		.reclaimable = own,
		.loose = less(own, s.wired_pages * CACHE_PAGE),
		.wired = s.index_resident,
	};
}

/*
 * Pages go without being compressed into tmem: when memory is short there is neither time nor
 * memory for that.
 */
static uint64_t cache_pool_set_target(void *pool, uint64_t bytes)
{
	struct memory *m = pool;
	struct cache_stats s;

	cache_stats(m->cache, &s);
	return cache_set_target(m->cache, less(bytes, s.index_bytes), false);
}

static void cache_pool_whole(void *pool, bool whole)
{
	struct memory *m = pool;

	cache_borrow(m->cache, whole);
}

static uint64_t cache_pool_settle(void *pool)
{
	struct memory *m = pool;

	return cache_settle(m->cache, m->settle_pages);
}

/* --- pool: tmem --- */

static void tmem_use(void *pool, struct budget_use *ret_use)
{
	struct memory *m = pool;
	struct tmem_host_stats s;
	struct cache_stats c;
	uint64_t lent;

	tmem_host_stats(m->tmem, &s);
	cache_stats(m->cache, &c);
	lent = less(c.resident, c.target);
	*ret_use = (struct budget_use){
		.bytes = s.resident + lent,
		.reclaimable = s.resident + lent,
		.loose = less(lent, c.wired_pages * CACHE_PAGE),
	};
}

static uint64_t tmem_set_target(void *pool, uint64_t bytes)
{
	struct memory *m = pool;
	struct tmem_host_stats s;
	uint64_t given;

	tmem_set_limit(tmem_host_instance(m->tmem), bytes ? bytes : 1); /* 0 would be no limit */
	given = cache_give_back(m->cache);
	tmem_host_stats(m->tmem, &s);
	if (s.resident > bytes)
		given += tmem_host_shrink(m->tmem, s.resident - bytes);
	return given;
}

/* --- pools that are only accounted --- */

static void port_use(void *pool, struct budget_use *ret_use)
{
	struct memory *m = pool;
	struct port_stats s;

	port_server_stats(m->port, &s);
	*ret_use = (struct budget_use){.bytes = s.resident_bytes, .wired = s.resident_bytes};
}

/* Private memory of the process that is resident, bytes, from /proc. */
static uint64_t private_bytes(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/status", "re");
	unsigned long long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %llu", &kib) == 1)
			break;
	return kib << 10;
}

static void process_use(void *pool, struct budget_use *ret_use)
{
	struct memory *m = pool;
	uint64_t bytes = private_bytes();
	struct budget_use u;

	cache_use(m, &u);
	bytes = less(bytes, u.bytes);
	if (m->tmem) {
		tmem_use(m, &u);
		bytes = less(bytes, u.bytes);
	}
	if (m->reactors) {
		iobufs_use(m, &u);
		bytes = less(bytes, u.bytes);
	}
	*ret_use = (struct budget_use){.bytes = bytes, .wired = bytes};
}

static const struct budget_pool_ops iobuf_ops = {iobufs_use, iobufs_set_target, NULL},
				    cache_ops = {cache_use, cache_pool_set_target,
						 cache_pool_settle, cache_pool_whole},
				    tmem_ops = {tmem_use, tmem_set_target, NULL},
				    port_ops = {port_use, NULL, NULL},
				    process_ops = {process_use, NULL, NULL};

/* --- life --- */

/*
 * The largest reservation that the process may have. Addresses cost nothing, but RLIMIT_AS bounds
 * them; half of what it allows is left to threads, libraries and I/O buffers.
 */
static int make_space(struct memory *m, struct reason *why)
{
	struct address_space_spec spec = {.size = SPACE_MAX};
	struct rlimit lim;
	int ret;

	if (!getrlimit(RLIMIT_AS, &lim) && lim.rlim_cur != RLIM_INFINITY)
		while (spec.size > lim.rlim_cur / 2 && spec.size > SPACE_MIN)
			spec.size /= 2;
	for (;; spec.size /= 2) {
		spec.wired = spec.size < SPACE_MAX ? spec.size / WIRED_PART : 0;
		ret = address_space_create(&spec, &m->space);
		if (!ret || spec.size <= SPACE_MIN)
			break;
	}
	if (!ret && spec.size < SPACE_MAX)
		log_info("memory.addresses", "reserved_gib=%llu reason=\"RLIMIT_AS or overcommit\"",
			 (unsigned long long)spec.size >> 30);
	return !ret ? 0
		    : reason_set(why, -ret,
				 "no room for %llu GiB of addresses: raise RLIMIT_AS (ulimit -v, "
				 "LimitAS=) or set vm.overcommit_memory to 0 or 1",
				 (unsigned long long)spec.size >> 30);
}

static int make_tmem(struct memory *m, const struct config_tmem *c, struct reason *why)
{
	struct tmem_host_spec spec = {
		.as = m->space,
		.codec.kind = c->codec == CONFIG_CODEC_ZSTD ? CODEC_ZSTD : CODEC_LZ4,
		.spares = TMEM_SPARES,
		.max_pools = TMEM_POOLS,
	};
	int ret;

	if (c->codec == CONFIG_CODEC_NONE)
		return 0;
	ret = tmem_host_create(&spec, &m->tmem);
	return ret ? reason_set(why, -ret, "second-chance cache: %s", strerror(-ret)) : 0;
}

/*
 * The cache has addresses for all that the budget may ever give it. Where the system charges for
 * them (vm.overcommit_memory 2) it has to do with fewer.
 */
static int make_cache(struct memory *m, uint64_t ceiling, struct reason *why)
{
	struct cache_spec spec = {.as = m->space, .max = ceiling, .tmem = m->tmem};
	int ret;

	while ((ret = cache_create(&spec, &m->cache)) == -ENOMEM || ret == -ENOSPC) {
		if (spec.max / 2 < 2 * CACHE_FLOOR)
			break;
		spec.max /= 2;
	}
	if (ret)
		return reason_set(why, -ret, "read cache: %s", strerror(-ret));
	if (spec.max < ceiling)
		log_warn("memory.cache",
			 "max=%llu of=%llu reason=\"RLIMIT_AS, RLIMIT_DATA or "
			 "vm.overcommit_memory\"",
			 (unsigned long long)spec.max, (unsigned long long)ceiling);
	return 0;
}

/* Floor and ceiling for what @c declares and, where it declares nothing, for this machine. */
static void find_bounds(const struct memory *m, const struct config_memory *c,
			struct budget_spec *spec)
{
	uint64_t need = FLOOR_SESSIONS * ISCSI_SESSION_BYTES + m->threads * IOBUF_FLOOR +
			2 * m->luns * MEMORY_OF_LUN;

	budget_defaults(spec);
	if (c->max)
		spec->ceiling = c->max;
	need += spec->ceiling / INDEX_PART;
	if (c->floor)
		spec->floor = c->floor;
	else
		spec->floor = need > FLOOR_MIN ? need : FLOOR_MIN;
	if (spec->floor > spec->ceiling && c->floor && !c->max)
		spec->ceiling = spec->floor;
	else if (spec->floor > spec->ceiling)
		spec->floor = spec->ceiling;
}

static int make_pools(struct memory *m, const struct config_memory *c)
{
	struct budget_pool_spec tmem = {.name = "tmem",
					.ops = &tmem_ops,
					.pool = m,
					.rank = BUDGET_TMEM,
					.share = c->tmem.share};
	struct budget_pool_spec cache = {.name = "cache",
					 .ops = &cache_ops,
					 .pool = m,
					 .rank = BUDGET_CACHE,
					 .share = 100 - c->tmem.share};
	struct cache_stats s;
	int ret;

	cache_stats(m->cache, &s);
	cache.floor = s.index_bytes + CACHE_FLOOR;
	cache.max = s.index_bytes + s.max;
	m->settle_pages = s.max / CACHE_PAGE < SETTLE_PAGES ? (uint32_t)(s.max / CACHE_PAGE)
							    : SETTLE_PAGES;
	ret = budget_add(m->budget, &cache, &m->cache_pool);
	if (!ret && m->tmem)
		ret = budget_add(m->budget, &tmem, &m->tmem_pool);
	return ret;
}

static int start(struct memory *m, const struct config *cfg, const char *pressure,
		 struct reason *why)
{
	struct budget_spec spec;
	int ret = make_space(m, why);

	if (!ret)
		ret = make_tmem(m, &cfg->memory.tmem, why);
	if (ret)
		return ret;
	find_bounds(m, &cfg->memory, &spec);
	spec.psi = pressure;
	m->started_ceiling = spec.ceiling;
	ret = make_cache(m, spec.ceiling, why);
	if (!ret)
		ret = budget_create(&spec, &m->budget, why);
	if (ret)
		return ret;
	ret = make_pools(m, &cfg->memory);
	return ret ? reason_set(why, -ret, "memory pools: %s", strerror(-ret)) : 0;
}

static void init_lock(struct memory *m)
{
	pthread_condattr_t attr;

	mutex_init(&m->lock, LOCK_RANK_LEAF);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&m->answered, &attr);
	pthread_condattr_destroy(&attr);
}

static void note_declared(struct memory *m, const struct config_memory *c)
{
	m->declared = (struct config_memory){.max = c->max, .floor = c->floor};
}

int memory_start(const struct config *cfg, const char *pressure, struct memory **ret_m,
		 struct reason *why)
{
	struct memory *m = calloc(1, sizeof(*m));
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	int ret;

	if (!m)
		return reason_set(why, ENOMEM, "out of memory");
	init_lock(m);
	m->threads = cfg->threads ? cfg->threads : cores > 0 ? (unsigned)cores : 1;
	m->luns = cfg->luns_count;
	note_declared(m, &cfg->memory);
	ret = start(m, cfg, pressure, why);
	if (ret) {
		memory_stop(m);
		return ret;
	}
	*ret_m = m;
	return 0;
}

void memory_stop(struct memory *m)
{
	if (!m)
		return;
	budget_remove(m->cache_pool);
	budget_remove(m->tmem_pool);
	budget_destroy(m->budget);
	cache_destroy(m->cache);
	tmem_host_destroy(m->tmem);
	address_space_destroy(m->space);
	free(m->orders);
	pthread_cond_destroy(&m->answered);
	mutex_destroy(&m->lock);
	free(m);
}

int memory_set(struct memory *m, const struct config_memory *c, struct reason *why)
{
	struct budget_spec spec;
	int ret;

	find_bounds(m, c, &spec);
	ret = budget_set(m->budget, spec.floor, spec.ceiling, why);
	if (!ret)
		note_declared(m, c);
	return ret;
}

const struct config_memory *memory_declared(const struct memory *m)
{
	return &m->declared;
}

uint64_t memory_cache_room(const struct memory *m, const struct config_memory *c)
{
	struct budget_spec spec;

	find_bounds(m, c, &spec);
	return spec.ceiling > m->started_ceiling ? m->started_ceiling : 0;
}

/* --- pools that come and go --- */

int memory_add_reactors(struct memory *m, struct reactor_set *set)
{
	unsigned n = reactor_set_count(set);
	struct budget_pool_spec spec = {.name = "iobufs",
					.ops = &iobuf_ops,
					.pool = m,
					.rank = BUDGET_SPARE,
					.share = IOBUF_SHARE,
					.floor = n * IOBUF_FLOOR,
					.max = n * IOBUF_MOST};
	struct budget_pool_spec process = {
		.name = "process", .ops = &process_ops, .pool = m, .rank = BUDGET_WORKING};
	struct budget_stats s;
	int ret;

	m->orders = calloc(n, sizeof(*m->orders));
	if (!m->orders)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		m->orders[i].msg.fn = obey;
		m->orders[i].m = m;
		m->orders[i].r = reactor_set_get(set, i);
	}
	m->reactors = set;
	/* In a small budget the caches must have something too. */
	budget_stats(m->budget, &s);
	if (spec.floor > s.ceiling / 4)
		spec.floor = s.ceiling / 4 > n * IOBUF_MAX ? s.ceiling / 4 : n * IOBUF_MAX;
	ret = budget_add(m->budget, &spec, &m->iobuf_pool);
	return ret ? ret : budget_add(m->budget, &process, &m->process_pool);
}

void memory_remove_reactors(struct memory *m)
{
	if (!m || !m->reactors)
		return;
	budget_remove(m->iobuf_pool);
	budget_remove(m->process_pool); /* it asks them too */
	m->iobuf_pool = m->process_pool = NULL;
	wait_answers(m);
}

int memory_add_port(struct memory *m, struct port_server *port)
{
	struct budget_pool_spec spec = {
		.name = "port", .ops = &port_ops, .pool = m, .rank = BUDGET_WORKING};

	m->port = port;
	return budget_add(m->budget, &spec, &m->port_pool);
}

void memory_remove_port(struct memory *m)
{
	if (!m)
		return;
	budget_remove(m->port_pool);
	m->port_pool = NULL;
}

/* --- promises --- */

int memory_enter_lun(struct memory *m, const char *name, struct reason *why)
{
	char what[100];

	snprintf(what, sizeof(what), "LUN '%.80s'", name);
	return budget_reserve(m->budget, MEMORY_OF_LUN, what, why);
}

void memory_leave_lun(struct memory *m)
{
	budget_release(m->budget, MEMORY_OF_LUN);
}

struct budget *memory_budget(struct memory *m)
{
	return m->budget;
}

struct address_space *memory_space(struct memory *m)
{
	return m->space;
}

struct cache *memory_cache(struct memory *m)
{
	return m->cache;
}

struct tmem_host *memory_tmem(struct memory *m)
{
	return m->tmem;
}
