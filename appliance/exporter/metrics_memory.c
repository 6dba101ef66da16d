/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is told of memory: the budget and its pools, arenas of addresses, the second-chance cache.
 */
#include "control/memory.h"
#include "exporter/metrics.h"
#include "mem/address_space.h"

static void collect_budget(struct metrics *m, struct budget *b)
{
	struct budget_record *r = metrics_add(m, METRIC_GROUP_budget, METRICS_NO_LABELS);

	budget_stats(b, &r->s); /* UINT64_MAX is METRIC_NONE: unknown */
	for (unsigned i = 0; i < BUDGET_CAUSES; i++) {
		const char *cause = budget_cause_name((enum budget_cause)i);
		size_t labels = metrics_label(m, METRICS_NO_LABELS, "cause", cause);
		struct shrink_record *c = metrics_add(m, METRIC_GROUP_shrink, labels);

		c->count = r->s.shrinks[i];
	}
}

static void collect_pool(struct metrics *m, const struct budget_pool_stats *s)
{
	size_t labels = metrics_label(m, METRICS_NO_LABELS, "pool", s->name);
	struct pool_record *r = metrics_add(m, METRIC_GROUP_pool, labels);

	r->s = *s;
	metrics_copy_durations(&r->shrink, &s->shrink);
}

static void collect_cache(struct metrics *m, struct cache *c)
{
	struct volatile_record *v = metrics_add(m, METRIC_GROUP_volatile, METRICS_NO_LABELS);
	struct cache_record *r = metrics_add(m, METRIC_GROUP_cache, METRICS_NO_LABELS);

	cache_stats(c, &r->s);
	cache_volatile_stats(c, &v->s);
}

static void collect_arena(struct metrics *m, struct vmem *vm)
{
	size_t labels = metrics_label(m, METRICS_NO_LABELS, "arena", vmem_name(vm));
	struct arena_record *r = metrics_add(m, METRIC_GROUP_arena, labels);

	vmem_stats(vm, &r->s);
}

static void collect_tmem(struct metrics *m, struct tmem_host *h)
{
	struct tmem_record *r = metrics_add(m, METRIC_GROUP_tmem, METRICS_NO_LABELS);

	tmem_host_stats(h, &r->host);
	tmem_stats(tmem_host_instance(h), &r->s);
	const struct {
		const char *name;
		uint64_t pages;
	} kinds[] = {{"filled", r->host.filled},
		     {"lz4", r->host.lz4},
		     {"zstd", r->host.zstd},
		     {"raw", r->host.raw}};

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
