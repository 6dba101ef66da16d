/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a target is shared out among pools.
 *
 * At the ceiling each pool has its floor and, of what is left, its share; a pool that could not use
 * its share leaves it to the others. Below the ceiling the missing bytes are taken from the
 * cheapest pool first, down to its floor, then from the next. So the targets follow from the
 * figures alone, whatever way led there: growing takes the way of shrinking backwards.
 */
#include "mem/budget/budget_private.h"

static uint64_t room(const struct share_pool *p)
{
	return p->max && p->max > p->target ? p->max - p->target : p->max ? 0 : UINT64_MAX;
}

/* One round: gives @left out by shares to those with room; returns what could not be used. */
static uint64_t give_round(struct share_pool *pools, size_t n, uint64_t left)
{
	uint64_t shares = 0, given = 0;

	for (size_t i = 0; i < n; i++)
		shares += room(&pools[i]) ? pools[i].share : 0;
	if (!shares)
		return 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t part = (uint64_t)((__uint128_t)left * pools[i].share / shares);

		if (!room(&pools[i]))
			continue;
		if (part > room(&pools[i]))
			part = room(&pools[i]);
		pools[i].target += part;
		given += part;
	}
	return given ? left - given : 0;
}

void share_out(struct share_pool *pools, size_t n, uint64_t ceiling, uint64_t target)
{
	uint64_t floors = 0, left, missing;

	for (size_t i = 0; i < n; i++) {
		pools[i].target = pools[i].floor;
		floors += pools[i].floor;
	}
	left = ceiling > floors ? ceiling - floors : 0;
	/* Each round but the last fills a pool, or leaves less than a byte a share. */
	for (size_t i = 0; i <= n && left; i++)
		left = give_round(pools, n, left);
	for (size_t i = 0; i < n; i++)
		pools[i].whole = pools[i].target;
	missing = ceiling > target ? ceiling - target : 0;
	for (size_t i = 0; i < n && missing; i++) {
		uint64_t spare = pools[i].target - pools[i].floor;

		if (spare > missing)
			spare = missing;
		pools[i].target -= spare;
		missing -= spare;
	}
}
