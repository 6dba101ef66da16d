// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Parsing takes any bytes: a pair is key, '=', value, NUL; the key has 1 to 63 characters of the
 * set that RFC 7143 6.1 gives; the value is free of NULs by construction. The last pair may lack
 * its NUL where the data segment ends (some initiators forget it). Empty strings between NULs are
 * padding. Building never writes past its limit: a reply that would is not sent at all (failed).
 */
#include "front/iscsi/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void iscsi_text_open(struct iscsi_text_in *in, char *text, size_t len)
{
	text[len] = '\0';
	in->pos = text;
	in->end = text + len;
}

static bool key_char(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
	       (c && strchr(".-+@_:/", c));
}

int iscsi_text_next(struct iscsi_text_in *in, const char **ret_key, const char **ret_value)
{
	char *key, *p;

	while (in->pos < in->end && *in->pos == '\0')
		in->pos++;
	if (in->pos == in->end)
		return 0;
	key = in->pos;
	for (p = key; key_char(*p) && p - key <= ISCSI_KEY_MAX; p++)
		;
	if (*p != '=' || p == key || p - key > ISCSI_KEY_MAX)
		return -EINVAL;
	*p++ = '\0';
	*ret_key = key;
	*ret_value = p;
	in->pos = p + strlen(p);
	return 1;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static bool has_prefix(const char *value, char letter)
{
	return value[0] == '0' && (value[1] | 0x20) == letter;
}

int iscsi_text_number(const char *value, uint64_t *ret_number)
{
	unsigned base = 10;
	uint64_t n = 0;

	if (has_prefix(value, 'x')) {
		base = 16;
		value += 2;
	}
	if (!*value)
		return -EINVAL;
	for (; *value; value++) {
		int d = hex_digit(*value);

		if (d < 0 || (unsigned)d >= base)
			return -EINVAL;
		if (n > (UINT64_MAX - (unsigned)d) / base)
			return -ERANGE;
		n = n * base + (unsigned)d;
	}
	*ret_number = n;
	return 0;
}

static int decode_hex(const char *s, uint8_t *buf, size_t cap, size_t *ret_len)
{
	size_t digits = strlen(s), n = 0;

	if (digits == 0)
		return -EINVAL;
	if ((digits + 1) / 2 > cap)
		return -E2BIG;
	for (size_t i = 0; i < digits; n++) {
		int hi = 0, lo;

		if (n > 0 || digits % 2 == 0)
			hi = hex_digit(s[i++]);
		lo = hex_digit(s[i++]);
		if (hi < 0 || lo < 0)
			return -EINVAL;
		buf[n] = (uint8_t)(hi << 4 | lo);
	}
	*ret_len = n;
	return 0;
}

static int base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static int decode_base64(const char *s, uint8_t *buf, size_t cap, size_t *ret_len)
{
	size_t len = strlen(s), n = 0;
	uint32_t acc = 0;
	int bits = 0;

	while (len > 0 && s[len - 1] == '=')
		len--;
	if (len == 0 || len % 4 == 1)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		int d = base64_digit(s[i]);

		if (d < 0)
			return -EINVAL;
		acc = acc << 6 | (uint32_t)d;
		bits += 6;
		if (bits >= 8) {
			if (n == cap)
				return -E2BIG;
			bits -= 8;
			buf[n++] = (uint8_t)(acc >> bits);
		}
	}
	*ret_len = n;
	return 0;
}

int iscsi_text_binary(const char *value, uint8_t *ret_buf, size_t cap, size_t *ret_len)
{
	if (has_prefix(value, 'x'))
		return decode_hex(value + 2, ret_buf, cap, ret_len);
	if (has_prefix(value, 'b'))
		return decode_base64(value + 2, ret_buf, cap, ret_len);
	return -EINVAL;
}

bool iscsi_text_list_next(const char **list, const char **ret_item, size_t *ret_len)
{
	const char *s = *list;
	size_t n;

	if (!s)
		return false;
	n = strcspn(s, ",");
	*ret_item = s;
	*ret_len = n;
	*list = s[n] ? s + n + 1 : NULL;
	return true;
}

void iscsi_text_init(struct iscsi_text_out *out, size_t max)
{
	*out = (struct iscsi_text_out){.max = max};
}

void iscsi_text_free(struct iscsi_text_out *out)
{
	free(out->buf);
	iscsi_text_init(out, out->max);
}

/* Returns room for @n more bytes, or NULL when that is too much. */
static char *text_reserve(struct iscsi_text_out *out, size_t n)
{
	if (out->failed || n > out->max - out->len) {
		out->failed = true;
		return NULL;
	}
	if (out->len + n > out->cap) {
		size_t cap = out->cap ? out->cap : 256;
		char *buf;

		while (cap < out->len + n)
			cap *= 2;
		buf = realloc(out->buf, cap);
		if (!buf) {
			out->failed = true;
			return NULL;
		}
		out->buf = buf;
		out->cap = cap;
	}
	return out->buf + out->len;
}

void iscsi_text_add(struct iscsi_text_out *out, const char *key, const char *fmt, ...)
{
	size_t key_len = strlen(key);
	va_list ap;
	char *p;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0) {
		out->failed = true;
		return;
	}
	p = text_reserve(out, key_len + 1 + (size_t)n + 1);
	if (!p)
		return;
	memcpy(p, key, key_len);
	p[key_len] = '=';
	va_start(ap, fmt);
	vsnprintf(p + key_len + 1, (size_t)n + 1, fmt, ap);
	va_end(ap);
	out->len += key_len + 1 + (size_t)n + 1;
}

void iscsi_text_add_hex(struct iscsi_text_out *out, const char *key, const uint8_t *bytes,
			size_t len)
{
	size_t key_len = strlen(key);
	char *p = text_reserve(out, key_len + 3 + 2 * len + 1);

	if (!p)
		return;
	p += sprintf(p, "%s=0x", key);
	for (size_t i = 0; i < len; i++)
		p += sprintf(p, "%02x", bytes[i]);
	out->len += key_len + 3 + 2 * len + 1;
}
