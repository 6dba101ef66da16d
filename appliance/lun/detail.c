/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the counters of a LUN mean, for those who tell of them. */
#include "lun/lun_private.h"

const char *lun_class_name(enum lun_class class)
{
	static const char *const names[LUN_CLASS_COUNT] = {
		[LUN_CLASS_READ] = "read",   [LUN_CLASS_WRITE] = "write",
		[LUN_CLASS_UNMAP] = "unmap", [LUN_CLASS_FLUSH] = "flush",
		[LUN_CLASS_OTHER] = "other",
	};

	return names[class];
}

void lun_get_stages(struct lun *lun, enum lun_class class, struct lun_stages *ret_stages)
{
	const struct lun_detail *d = &lun->detail;
	uint64_t whole = metric_read(&lun->counters.latency[class].sum_ns);
	uint64_t queue = metric_read(&d->queue_ns[class]), disk = metric_read(&d->store_ns[class]);

	*ret_stages = (struct lun_stages){
		.queue_ns = queue,
		.disk_ns = disk,
		.cache_ns = whole > queue + disk ? whole - queue - disk : 0,
	};
}

uint64_t lun_request_size(unsigned i)
{
	return i + 1 < LUN_SIZES ? 4096ull << 3 * i : UINT64_MAX;
}

uint32_t lun_request_alignment(unsigned i)
{
	static const uint32_t alignments[LUN_ALIGNMENTS] = {512, 4096, 65536};

	return alignments[i];
}
