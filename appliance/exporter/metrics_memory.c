/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is told of memory: the budget and its pools, arenas of addresses, the second-chance cache.
 */
#include "control/memory.h"
#include "exporter/metrics.h"
#include "mem/address_space.h"
#include "mem/budget/budget.h"
#include "mem/cache/cache.h"
#include "mem/tmem/host.h"
#include "mem/volatile/volatile.h"

static void collect_budget(struct metrics *m, struct budget *b)
{
	struct budget_record *r = metrics_add(m, METRIC_GROUP_budget, METRICS_NO_LABELS);
	struct budget_stats s;

	budget_stats(b, &s);
	r->floor = s.floor;
	r->ceiling = s.ceiling;
	r->target = s.target;
	r->held = s.held;
	r->reclaimable = s.reclaimable;
	r->reserved = s.reserved;
	r->limit = s.limit; /* UINT64_MAX is METRIC_NONE: unknown */
	r->available = s.available;
	r->returned = s.returned;
	for (unsigned i = 0; i < BUDGET_CAUSES; i++) {
		const char *cause = budget_cause_name((enum budget_cause)i);
		size_t labels = metrics_label(m, METRICS_NO_LABELS, "cause", cause);
		struct shrink_record *c = metrics_add(m, METRIC_GROUP_shrink, labels);

		c->count = s.shrinks[i];
	}
}

static void collect_pool(struct metrics *m, const struct budget_pool_stats *s)
{
	size_t labels = metrics_label(m, METRICS_NO_LABELS, "pool", s->name);
	struct pool_record *r = metrics_add(m, METRIC_GROUP_pool, labels);

	r->bytes = s->use.bytes;
	r->reclaimable = s->use.reclaimable;
	r->loose = s->use.loose;
	r->wired = s->use.wired;
	r->target = s->target;
	r->floor = s->floor;
	r->returned = s->returned;
	r->purged_pages = s->purged_pages;
	metrics_copy_durations(&r->shrink, &s->shrink);
}

static void collect_cache(struct metrics *m, struct cache *c)
{
	struct volatile_record *v = metrics_add(m, METRIC_GROUP_volatile, METRICS_NO_LABELS);
	struct cache_record *r = metrics_add(m, METRIC_GROUP_cache, METRICS_NO_LABELS);
	struct volatile_stats vs;
	struct cache_stats s;

	cache_stats(c, &s);
	r->pages = s.pages;
	r->zero_pages = s.zero_pages;
	r->wired_pages = s.wired_pages;
	r->resident = s.resident;
	r->index = s.index_bytes;
	r->target = s.target;
	r->max = s.max;
	r->returned = s.returned;
	cache_volatile_stats(c, &vs);
	v->pages = vs.volatile_pages;
	v->marks = vs.marks;
	v->mark_calls = vs.mark_calls;
	v->refused = vs.refused;
	v->purged = vs.purged;
	v->cancelled = vs.cancelled;
	v->disturbed = vs.disturbed;
	v->dropped = vs.dropped;
}

static void collect_arena(struct metrics *m, struct vmem *vm)
{
	size_t labels = metrics_label(m, METRICS_NO_LABELS, "arena", vmem_name(vm));
	struct arena_record *r = metrics_add(m, METRIC_GROUP_arena, labels);
	struct vmem_stats s;

	vmem_stats(vm, &s);
	r->size = s.total;
	r->allocated = s.allocated;
	r->in_use = s.in_use;
	r->cached = s.cached;
	r->spans = s.spans;
	r->segments = s.segments_allocated;
	r->free_segments = s.segments_free;
	r->metadata = s.meta_bytes;
	r->tags = s.tags;
	r->allocs = s.allocs;
	r->frees = s.frees;
	r->fails = s.fails;
	r->imports = s.imports;
	r->releases = s.releases;
	r->depot_visits = s.depot_visits;
	r->depot_contended = s.depot_contended;
}

static void collect_tmem(struct metrics *m, struct tmem_host *h)
{
	struct tmem_record *r = metrics_add(m, METRIC_GROUP_tmem, METRICS_NO_LABELS);
	struct tmem_host_stats hs;
	struct tmem_stats ts;

	tmem_host_stats(h, &hs);
	tmem_stats(tmem_host_instance(h), &ts);
	r->ephemeral_pages = ts.ephemeral_pages;
	r->page_bytes = ts.page_bytes;
	r->meta_bytes = ts.meta_bytes;
	r->resident = hs.resident;
	r->returned = hs.returned;
#define X(name, help) r->name = ts.name;
	TMEM_COUNTERS(X)
#undef X
	const struct {
		const char *name;
		uint64_t pages;
	} kinds[] = {{"filled", hs.filled}, {"lz4", hs.lz4}, {"zstd", hs.zstd}, {"raw", hs.raw}};

	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t labels = metrics_label(m, METRICS_NO_LABELS, "kind", kinds[i].name);
		struct tmem_kind_record *k = metrics_add(m, METRIC_GROUP_tmem_kind, labels);

		k->pages = kinds[i].pages;
	}
}

void metrics_collect_memory(struct metrics *m, struct memory *memory)
{
	struct address_space *as = memory_space(memory);
	struct vmem *arenas[] = {address_space_arena(as), address_space_wired_pages(as),
				 address_space_wired_lines(as), address_space_volatile(as),
				 vmem_tag_store_meta(address_space_tags(as))};
	struct budget_pool_stats pools[BUDGET_POOLS_MAX];
	size_t n = budget_pools(memory_budget(memory), pools, BUDGET_POOLS_MAX);

	collect_budget(m, memory_budget(memory));
	for (size_t i = 0; i < n && i < BUDGET_POOLS_MAX; i++)
		collect_pool(m, &pools[i]);
	for (size_t i = 0; i < sizeof(arenas) / sizeof(arenas[0]); i++)
		collect_arena(m, arenas[i]);
	if (memory_cache(memory))
		collect_cache(m, memory_cache(memory));
	if (memory_tmem(memory))
		collect_tmem(m, memory_tmem(memory));
}
