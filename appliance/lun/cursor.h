/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Walking the caller's segments of memory from any byte on. */
#pragma once

#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

struct cursor {
	const struct iovec *v;
	size_t skip; /* bytes of *v that lie behind */
};

/** At byte @off, which is before the end of the segments. */
static inline struct cursor cursor_at(const struct iovec *iov, uint64_t off)
{
	struct cursor c = {iov, 0};

	for (; off && off >= c.v->iov_len; c.v++)
		off -= c.v->iov_len;
	c.skip = off;
	return c;
}

/** The next contiguous part, of at most @max bytes; empty segments are passed over. */
static inline uint8_t *cursor_part(struct cursor *c, size_t max, size_t *ret_len)
{
	uint8_t *p;

	while (c->skip == c->v->iov_len) {
		c->v++;
		c->skip = 0;
	}
	p = (uint8_t *)c->v->iov_base + c->skip;
	*ret_len = c->v->iov_len - c->skip < max ? c->v->iov_len - c->skip : max;
	c->skip += *ret_len;
	return p;
}

/** Copies @len bytes to the caller's memory. */
static inline void cursor_put(struct cursor *c, const uint8_t *from, size_t len)
{
	size_t n;

	for (; len; from += n, len -= n) {
		uint8_t *to = cursor_part(c, len, &n);

		memcpy(to, from, n);
	}
}
