/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who holds what, as JSON. Keys and units: docs/budget.md. */
#include <string.h>

#include "base/clock.h"
#include "control/json_text.h"
#include "control/memory.h"
#include "mem/address_space.h"
#include "mem/budget/budget.h"
#include "mem/cache/cache.h"
#include "mem/tmem/host.h"

#define INT(v) json_integer((v) == UINT64_MAX ? -1 : (json_int_t)(v))

static const char *rank_name(enum budget_rank rank)
{
	static const char *const names[] = {[BUDGET_SPARE] = "spare",
					    [BUDGET_CACHE] = "cache",
					    [BUDGET_TMEM] = "tmem",
					    [BUDGET_WORKING] = "working"};

	return names[rank];
}

static json_t *report_budget(const struct budget_stats *s)
{
	json_t *shrinks = json_object(), *last = json_null();

	for (unsigned i = 0; i < BUDGET_CAUSES; i++)
		json_object_set_new(shrinks, budget_cause_name((enum budget_cause)i),
				    INT(s->shrinks[i]));
	if (s->last_shrink_ns)
		last = json_pack("{s:f, s:o}", "age_s",
				 (double)(clock_now_ns() - s->last_shrink_ns) / NSEC_PER_SEC,
				 "bytes", INT(s->last_shrink_bytes));
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o}",
			 "floor", INT(s->floor), "ceiling", INT(s->ceiling), "target",
			 INT(s->target), "held", INT(s->held), "reclaimable", INT(s->reclaimable),
			 "reserved", INT(s->reserved), "limit", INT(s->limit), "available",
			 INT(s->available), "state", budget_state_name(s->state), "watches",
			 json_text(s->source), "looks", INT(s->looks), "returned_bytes",
			 INT(s->returned), "shrinks", shrinks, "last_shrink", last);
}

static json_t *report_pool(const struct budget_pool_stats *p)
{
	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:o, s:o}",
			 "name", p->name, "rank", rank_name(p->rank), "bytes", INT(p->use.bytes),
			 "reclaimable", INT(p->use.reclaimable), "volatile", INT(p->use.loose),
			 "wired", INT(p->use.wired), "target", INT(p->target), "floor",
			 INT(p->floor), "returned_bytes", INT(p->returned), "purged_pages",
			 INT(p->purged_pages), "shrinks", INT(metric_hist_count(&p->shrink)),
			 "shrink_seconds", (double)metric_read(&p->shrink.sum_ns) / NSEC_PER_SEC,
			 "shrink_p50_us", INT(metric_hist_quantile_us(&p->shrink, 0.5)),
			 "shrink_p99_us", INT(metric_hist_quantile_us(&p->shrink, 0.99)));
}

static json_t *report_pools(struct budget *b)
{
	struct budget_pool_stats pools[BUDGET_POOLS_MAX];
	size_t n = budget_pools(b, pools, BUDGET_POOLS_MAX);
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, report_pool(&pools[i]));
	return list;
}

static json_t *report_arena(struct vmem *vm)
{
	struct vmem_stats s;

	vmem_stats(vm, &s);
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
			 vmem_name(vm), "total", INT(s.total), "allocated", INT(s.allocated),
			 "in_use", INT(s.in_use), "cached", INT(s.cached), "segments",
			 INT(s.segments_allocated + s.segments_free), "allocs", INT(s.allocs),
			 "frees", INT(s.frees), "fails", INT(s.fails), "tags", INT(s.tags),
			 "meta_bytes", INT(s.meta_bytes));
}

static json_t *report_arenas(struct address_space *as)
{
	struct vmem *arenas[] = {address_space_arena(as), address_space_wired_pages(as),
				 address_space_wired_lines(as), address_space_volatile(as),
				 vmem_tag_store_meta(address_space_tags(as))};
	json_t *list = json_array();

	for (unsigned i = 0; i < sizeof(arenas) / sizeof(arenas[0]); i++)
		json_array_append_new(list, report_arena(arenas[i]));
	return list;
}

json_t *memory_report_cache(const struct cache_stats *s)
{
	json_t *o = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "pages",
			      INT(s->pages), "zero_pages", INT(s->zero_pages), "wired_pages",
			      INT(s->wired_pages), "resident", INT(s->resident), "index_bytes",
			      INT(s->index_resident), "tmem_pages", INT(s->tmem_pages),
			      "tmem_bytes", INT(s->tmem_bytes), "target", INT(s->target),
			      "returned_bytes", INT(s->returned));

#define X(name, help) json_object_set_new(o, #name, INT(s->name));
	CACHE_COUNTERS(X)
#undef X
	return o;
}

static json_t *report_tmem(struct tmem_host *h)
{
	struct tmem_host_stats hs;
	struct tmem_stats ts;
	json_t *o;

	if (!h)
		return json_null();
	tmem_host_stats(h, &hs);
	tmem_stats(tmem_host_instance(h), &ts);
	o = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "pages", INT(ts.pages),
		      "page_bytes", INT(ts.page_bytes), "meta_bytes", INT(ts.meta_bytes),
		      "resident", INT(hs.resident), "filled", INT(hs.filled), "lz4", INT(hs.lz4),
		      "zstd", INT(hs.zstd), "raw", INT(hs.raw), "refused", INT(hs.refused));
#define X(name, help) json_object_set_new(o, #name, INT(ts.name));
	TMEM_COUNTERS(X)
#undef X
	return o;
}

json_t *memory_report(struct memory *m)
{
	struct cache_stats cs;
	struct budget_stats s;

	cache_stats(memory_cache(m), &cs);
	budget_stats(memory_budget(m), &s);
	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "budget", report_budget(&s), "pools",
			 report_pools(memory_budget(m)), "arenas", report_arenas(memory_space(m)),
			 "cache", memory_report_cache(&cs), "tmem", report_tmem(memory_tmem(m)));
}
