/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the status page shows, as one JSON object: a choice of what /metrics tells, from the same
 * records, small enough to be asked for every second. Counters are as they are; the page makes
 * rates of them by the time that goes with them. docs/json.md has its members.
 */
#pragma once

#include "exporter/metrics.h"

/** Writes it. 0 or -ENOMEM. */
int status_render(const struct metrics *m, struct text *out);
