/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A LUN's part of the cache: its life and its figures. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lun/lun_private.h"

int lun_set_cache(struct lun *lun, struct cache *cache, uint32_t weight, uint64_t floor,
		  struct reason *why)
{
	struct cache_object_spec spec = {.name = lun->name, .weight = weight, .floor = floor};
	struct lun_cache *lc;
	int err;

	lc = calloc(1, sizeof(*lc));
	if (!lc)
		return reason_set(why, ENOMEM, "%s: no memory", lun->name);
	err = cache_object_create(cache, &spec, &lc->o);
	if (err) {
		free(lc);
		if (err == -ENOSPC) { /* thousands of LUNs: the last ones do without */
			lun->uncached = "the index of the cache is full";
			return 0;
		}
		return reason_set(why, -err, "%s: no room in the cache's index: %s", lun->name,
				  strerror(-err));
	}
	lc->c = cache;
	atomic_init(&lc->cut, UINT64_MAX);
	fills_init(&lc->fills);
	readahead_init(&lc->readahead);
	lun->cache = lc;
	return 0;
}

void lun_cache_detach(struct lun *lun)
{
	struct lun_cache *lc = lun->cache;

	if (!lc)
		return;
	cache_object_destroy(lc->o);
	for (size_t i = 0; i < sizeof(lc->spare) / sizeof(lc->spare[0]); i++)
		free(lc->spare[i]);
	fills_destroy(&lc->fills);
	readahead_destroy(&lc->readahead);
	free(lc);
	lun->cache = NULL;
}

struct cache_object *lun_cache_object(struct lun *lun)
{
	return lun->cache ? lun->cache->o : NULL;
}

const char *lun_uncached_reason(const struct lun *lun)
{
	return lun->cache ? NULL : lun->uncached;
}

bool lun_cache_stats(struct lun *lun, struct lun_cache_stats *ret_stats)
{
	struct lun_cache *lc = lun->cache;

	if (!lc)
		return false;
	cache_object_stats(lc->o, &ret_stats->cache);
	ret_stats->readahead_pages = metric_read(&lc->readahead.pages);
	ret_stats->readahead_used = metric_read(&lc->readahead.used);
	if (ret_stats->readahead_used > ret_stats->readahead_pages)
		ret_stats->readahead_used = ret_stats->readahead_pages;
	ret_stats->coalesced = metric_read(&lc->coalesced);
	return true;
}
