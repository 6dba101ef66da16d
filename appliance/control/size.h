/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes as people write them: "512", "64K", "10G", "1.5T", "10GiB"; powers of 1024. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"

/** Reads @text into *@ret_bytes. -EINVAL with the reason when it is no size, -ERANGE over 2^63. */
int size_parse(const char *text, uint64_t *ret_bytes, struct reason *why);
/** Writes @bytes with the largest unit that needs at most one decimal: "1G", "1.5G", "513". */
void size_format(uint64_t bytes, char *buf, size_t len);
/** The same, rounded to a tenth of the unit: what is measured. */
void size_format_about(uint64_t bytes, char *buf, size_t len);
