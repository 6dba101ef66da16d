/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A counter in one block that every client raises by COMPARE AND WRITE. Each success counts once,
 * whoever made it, so the block must hold exactly as many, plus at most those whose answer was lost
 * with a connection.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct counter {
	uint64_t successes; /* acknowledged */
	uint64_t pending;   /* swaps in flight */
	uint64_t lost;	    /* swaps that may have happened */
};

/** The counter's block carries a stamp of this value when the count is @count (never the value of
 * zeros). */
static inline uint64_t counter_to_value(uint64_t count)
{
	return count + 1;
}

/** The least a read that begins now must find. */
static inline uint64_t counter_least(const struct counter *c)
{
	return c->successes;
}

/** Whether a read that began when counter_least() was @least and ends now may find @value. */
static inline bool counter_may_be(const struct counter *c, uint64_t least, uint64_t value)
{
	return value >= counter_to_value(least) &&
	       value <= counter_to_value(c->successes + c->pending + c->lost);
}
