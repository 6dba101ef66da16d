/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A file as a store whose every I/O takes some time longer: what a disk or a network adds. */
#pragma once

#include <stdint.h>

#include "block/block.h"

/** As block_open_file(); I/Os by block_submit() wait @delay_ns first, any number side by side. */
int slow_store_open(const struct block_open_options *opt, uint64_t delay_ns,
		    struct block_store **ret_store, struct reason *why);
