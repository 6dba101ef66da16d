// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/metric.h"

uint64_t metric_hist_count(const struct metric_hist *h)
{
	uint64_t n = 0;

	for (int i = 0; i < METRIC_HIST_BUCKETS; i++)
		n += metric_read(&h->bucket[i]);
	return n;
}

uint64_t metric_hist_quantile_us(const struct metric_hist *h, double q)
{
	uint64_t total = metric_hist_count(h), seen = 0;

	for (int i = 0; total && i < METRIC_HIST_BUCKETS; i++) {
		seen += metric_read(&h->bucket[i]);
		if ((double)seen >= q * (double)total)
			return 1ull << i;
	}
	return 0;
}
