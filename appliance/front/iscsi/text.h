/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Text of login and text PDUs: key=value pairs, each ended by a NUL (RFC 7143 clause 6). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ISCSI_KEY_MAX  63
#define ISCSI_TEXT_MAX (16u << 10) /* of one request, all its PDUs together */

/** A cursor over text that was received; the text is changed in place (its '=' become NULs). */
struct iscsi_text_in {
	char *pos, *end;
};

/** @text must have room for one byte behind its @len. */
void iscsi_text_open(struct iscsi_text_in *in, char *text, size_t len);
/** Returns 1 and the next pair, 0 at the end, -EINVAL when what follows is no key=value pair. */
int iscsi_text_next(struct iscsi_text_in *in, const char **ret_key, const char **ret_value);

/** Decimal or 0x hexadecimal, 0..UINT64_MAX. -EINVAL, -ERANGE. */
int iscsi_text_number(const char *value, uint64_t *ret_number);
/** A binary value: "0x" hexadecimal or "0b" base64 (RFC 7143 6.1). -EINVAL, -E2BIG over @cap. */
int iscsi_text_binary(const char *value, uint8_t *ret_buf, size_t cap, size_t *ret_len);
/** Takes the next element of a comma-separated list. False at the end. */
bool iscsi_text_list_next(const char **list, const char **ret_item, size_t *ret_len);

/** Text to send: grows up to @max; what does not fit sets @failed and is left out. */
struct iscsi_text_out {
	char *buf;
	size_t len, cap, max;
	bool failed;
};

void iscsi_text_init(struct iscsi_text_out *out, size_t max);
void iscsi_text_free(struct iscsi_text_out *out);
/** Adds key=value. */
void iscsi_text_add(struct iscsi_text_out *out, const char *key, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void iscsi_text_add_hex(struct iscsi_text_out *out, const char *key, const uint8_t *bytes,
			size_t len);
