/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/size.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char units[] = "KMGTP";

/* The power of 1024 that the suffix at @p stands for, or -1 when it is none. */
static int parse_suffix(const char *p)
{
	const char *u;

	if (!*p)
		return 0;
	u = strchr(units, *p & ~0x20);
	if (!u || !((*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z')))
		return !strcmp(p, "B") ? 0 : -1;
	if (p[1] && strcmp(p + 1, "B") && strcmp(p + 1, "iB"))
		return -1;
	return (int)(u - units) + 1;
}

int size_parse(const char *text, uint64_t *ret_bytes, struct reason *why)
{
	uint64_t whole = 0, scale = 1, v;
	unsigned __int128 frac = 0;
	const char *p = text;
	int power;

	if (*p < '0' || *p > '9')
		return reason_set(why, EINVAL, "'%s' is no size (like 512, 64K, 10G, 1.5T)", text);
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(whole, 10, &whole) ||
		    __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
			return reason_set(why, ERANGE, "'%s' is too large", text);
	if (*p == '.') {
		if (p[1] < '0' || p[1] > '9')
			return reason_set(why, EINVAL, "'%s' is no size", text);
		for (p++; *p >= '0' && *p <= '9'; p++) {
			if (scale >= 1000000)
				return reason_set(why, EINVAL, "'%s' has too many decimals", text);
			frac = frac * 10 + (uint64_t)(*p - '0');
			scale *= 10;
		}
	}
	power = parse_suffix(p);
	if (power < 0)
		return reason_set(why, EINVAL, "'%s': unknown unit '%s' (K, M, G, T, P)", text, p);
	v = 1ull << (10 * power);
	if (frac * v % scale)
		return reason_set(why, EINVAL, "'%s' is no whole number of bytes", text);
	frac = frac * v / scale;
	if (__builtin_mul_overflow(whole, v, &whole) ||
	    __builtin_add_overflow(whole, (uint64_t)frac, &whole) || whole > INT64_MAX)
		return reason_set(why, ERANGE, "'%s' is too large", text);
	*ret_bytes = whole;
	return 0;
}

void size_format(uint64_t bytes, char *buf, size_t len)
{
	for (int power = 5; power > 0; power--) {
		uint64_t unit = 1ull << (10 * power);

		if (bytes < unit)
			continue;
		if (bytes % unit == 0) {
			snprintf(buf, len, "%llu%c", (unsigned long long)(bytes / unit),
				 units[power - 1]);
			return;
		}
		if (bytes % unit * 10 % unit == 0) {
			snprintf(buf, len, "%llu.%llu%c", (unsigned long long)(bytes / unit),
				 (unsigned long long)(bytes % unit * 10 / unit), units[power - 1]);
			return;
		}
	}
	snprintf(buf, len, "%llu", (unsigned long long)bytes);
}

void size_format_about(uint64_t bytes, char *buf, size_t len)
{
	for (int power = 5; power > 0; power--) {
		int shift = 10 * power;

		if (bytes >> shift && bytes & ((1ull << shift) - 1)) {
			snprintf(buf, len, "%.1f%c", (double)bytes / (double)(1ull << shift),
				 units[power - 1]);
			return;
		}
		if (bytes >> shift)
			break;
	}
	size_format(bytes, buf, len);
}
