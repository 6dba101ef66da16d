/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Walking the caller's segments of memory from any byte on, and never past the last. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

struct cursor {
	const struct iovec *v;
	int n;	     /* segments from *v on; 0: at the end */
	size_t skip; /* bytes of *v that lie behind */
};

/** At byte @off of the segments, or at their end. */
static inline struct cursor cursor_at(const struct iovec *iov, int niov, uint64_t off)
{
	struct cursor c = {iov, niov, 0};

	for (; c.n && off && off >= c.v->iov_len; c.v++, c.n--)
		off -= c.v->iov_len;
	c.skip = c.n ? off : 0;
	return c;
}

/** The next contiguous part, of at most @max bytes; empty segments are passed over. NULL: none. */
static inline uint8_t *cursor_part(struct cursor *c, size_t max, size_t *ret_len)
{
	uint8_t *p;

	while (c->n && c->skip == c->v->iov_len) {
		c->v++;
		c->n--;
		c->skip = 0;
	}
	*ret_len = 0;
	if (!c->n)
		return NULL;
	p = (uint8_t *)c->v->iov_base + c->skip;
	*ret_len = c->v->iov_len - c->skip < max ? c->v->iov_len - c->skip : max;
	c->skip += *ret_len;
	return p;
}

/** Copies @len bytes to the caller's memory, of which there is enough. */
static inline void cursor_put(struct cursor *c, const uint8_t *from, size_t len)
{
	size_t n;

	for (; len; from += n, len -= n) {
		uint8_t *to = cursor_part(c, len, &n);

		if (!to)
			return;
		memcpy(to, from, n);
	}
}

/** Copies @len bytes of the caller's to @to, or passes over them (NULL). False: there are fewer. */
static inline bool cursor_get(struct cursor *c, uint8_t *to, size_t len)
{
	size_t n;

	for (; len; len -= n) {
		const uint8_t *from = cursor_part(c, len, &n);

		if (!from)
			return false;
		if (to) {
			memcpy(to, from, n);
			to += n;
		}
	}
	return true;
}
