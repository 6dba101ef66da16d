/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages of the control socket: one JSON object a line, each request with one response.
 *
 *   {"v": 1, "id": ANY, "method": "lun.resize", "params": {"name": "a", "size": "2G"}}
 *   {"v": 1, "id": ANY, "ok": true, "result": …}
 *   {"v": 1, "id": ANY, "ok": false, "error": {"code": "busy", "message": "…"}}
 *
 * A line is at most PROTOCOL_REQUEST_MAX bytes. "id" comes back as it was. Methods and their
 * parameters stand in one table (protocol.c); what is not in it is refused by name. Parsing is
 * pure: it touches nothing but its own memory.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <jansson.h>

#include "base/reason.h"

#define PROTOCOL_VERSION     1
#define PROTOCOL_REQUEST_MAX 65536
#define PROTOCOL_PARAMS_MAX  11

enum protocol_method {
	METHOD_STATUS,
	METHOD_LUN_LIST,
	METHOD_LUN_SHOW,
	METHOD_LUN_COUNTERS,
	METHOD_LUN_CREATE,
	METHOD_LUN_RESIZE,
	METHOD_LUN_DELETE,
	METHOD_LUN_SANITIZE,
	METHOD_SESSION_LIST,
	METHOD_SESSION_KICK,
	METHOD_EXPORT_LIST,
	METHOD_MEMORY,
	METHOD_MEMORY_RELEASE,
	METHOD_PLAN,
	METHOD_APPLY,
	METHOD_LIO_DESIRED,
	METHOD_LIO_WAIT,
	METHOD_LIO_REPORT,
	METHOD_COUNT
};

struct protocol_request {
	enum protocol_method method;
	json_t *id;	/* never NULL after parsing; JSON null when none was given */
	json_t *params; /* an object with known keys of the right types; or NULL */
};

/**
 * Parses a line of @len bytes. On error @req->id is still set where it could be read, so that the
 * refusal reaches who asked. -EINVAL, -ENOSYS for an unknown method, -EPROTO for a wrong version.
 */
int protocol_parse(const char *line, size_t len, struct protocol_request *req, struct reason *why);
void protocol_free(struct protocol_request *req);
/** Whether the method changes anything: such are carried out one at a time. */
bool protocol_is_change(enum protocol_method m);
const char *protocol_method_name(enum protocol_method m);

/** The value of a string or boolean parameter; NULL or false when it was not given. */
const char *protocol_string(const struct protocol_request *req, const char *key);
bool protocol_flag(const struct protocol_request *req, const char *key);

/** The response line, newline included, malloc'ed, of *@ret_len bytes; takes @result over. NULL: no
 * memory. */
char *protocol_success(const json_t *id, json_t *result, size_t *ret_len);
char *protocol_failure(const json_t *id, int err, const char *message, size_t *ret_len);
/** The word for @err (-errno) in "code": "busy", "not-found", … */
const char *protocol_code(int err);
