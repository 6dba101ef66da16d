/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A text that grows at its end. Running out of memory is noted in it, and what is put then is
 * dropped: the caller looks once, at the end.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct text {
	char *data; /* len bytes, not terminated */
	size_t len, cap;
	bool failed;
};

void text_put(struct text *t, const char *bytes, size_t n);
static inline void text_puts(struct text *t, const char *s)
{
	text_put(t, s, strlen(s));
}
static inline void text_putc(struct text *t, char c)
{
	text_put(t, &c, 1);
}
void text_put_u64(struct text *t, uint64_t v);
/** Nanoseconds as seconds, exactly: "0", "1.5", "0.000000001". */
void text_put_seconds(struct text *t, uint64_t ns);
/** Within quotes of a label: \ " and newline escaped; bytes that are no UTF-8 become '?'. */
void text_put_escaped(struct text *t, const char *s);
/** Appends a copy of its own @n bytes from @at on. */
void text_put_own(struct text *t, size_t at, size_t n);
/** Frees it; it can be used again. */
void text_clear(struct text *t);
