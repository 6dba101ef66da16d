/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "exporter/text.h"

#include <stdlib.h>
#include <jansson.h>

#include "base/clock.h"
#include "control/json_text.h"

#define FIRST_CAP 4096u

static bool grow(struct text *t, size_t n)
{
	size_t cap = t->cap ? t->cap : FIRST_CAP;
	char *data;

	while (cap - t->len < n)
		cap *= 2;
	data = realloc(t->data, cap);
	if (!data) {
		t->failed = true;
		return false;
	}
	t->data = data;
	t->cap = cap;
	return true;
}

static bool make_room(struct text *t, size_t n)
{
	return !t->failed && (t->cap - t->len >= n || grow(t, n));
}

void text_put(struct text *t, const char *bytes, size_t n)
{
	if (!n || !make_room(t, n)) /* nothing may be yet, not even a buffer */
		return;
	memcpy(t->data + t->len, bytes, n);
	t->len += n;
}

void text_put_own(struct text *t, size_t at, size_t n)
{
	if (make_room(t, n)) /* which may move it */
		text_put(t, t->data + at, n);
}

void text_put_u64(struct text *t, uint64_t v)
{
	char digits[20];
	size_t at = sizeof(digits);

	do
		digits[--at] = (char)('0' + v % 10);
	while (v /= 10);
	text_put(t, digits + at, sizeof(digits) - at);
}

void text_put_seconds(struct text *t, uint64_t ns)
{
	uint64_t part = ns % NSEC_PER_SEC;
	char digits[10] = ".";
	size_t n = sizeof(digits);

	text_put_u64(t, ns / NSEC_PER_SEC);
	if (!part)
		return;
	for (size_t i = n - 1; i; i--, part /= 10)
		digits[i] = (char)('0' + part % 10);
	while (digits[n - 1] == '0')
		n--;
	text_put(t, digits, n);
}

static void put_escaped(struct text *t, const char *s)
{
	for (size_t n; *s; s += n) {
		n = strcspn(s, "\\\"\n");
		text_put(t, s, n);
		if (!s[n])
			break;
		text_puts(t, s[n] == '\n' ? "\\n" : s[n] == '"' ? "\\\"" : "\\\\");
		n++;
	}
}

void text_put_escaped(struct text *t, const char *s)
{
	json_t *clean;

	for (const char *p = s; *p; p++) {
		if (!(*p & 0x80))
			continue;
		clean = json_text(s);
		if (clean)
			put_escaped(t, json_string_value(clean));
		else
			t->failed = true;
		json_decref(clean);
		return;
	}
	put_escaped(t, s);
}

void text_clear(struct text *t)
{
	free(t->data);
	*t = (struct text){0};
}
