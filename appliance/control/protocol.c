/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/protocol.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/json_text.h"

enum kind { KIND_END, KIND_STRING, KIND_FLAG, KIND_NUMBER, KIND_LIST };

struct param {
	const char *key;
	enum kind kind;
	bool required;
};

struct method {
	const char *name;
	bool change;
	struct param params[PROTOCOL_PARAMS_MAX + 1];
};

static const struct method methods[METHOD_COUNT] = {
	[METHOD_STATUS] = {"status", false, {{NULL}}},
	[METHOD_LUN_LIST] = {"lun.list", false, {{NULL}}},
	[METHOD_LUN_SHOW] = {"lun.show", false, {{"name", KIND_STRING, true}}},
	[METHOD_LUN_COUNTERS] = {"lun.counters", false, {{NULL}}},
	[METHOD_LUN_CREATE] = {"lun.create",
			       true,
			       {{"name", KIND_STRING, true},
				{"path", KIND_STRING, true},
				{"size", KIND_STRING, false},
				{"read_only", KIND_FLAG, false},
				{"removable", KIND_FLAG, false},
				{"block_size", KIND_NUMBER, false},
				{"mode", KIND_STRING, false},
				{"cache", KIND_STRING, false},
				{"cache_weight", KIND_NUMBER, false},
				{"cache_floor", KIND_STRING, false},
				{"description", KIND_STRING, false}}},
	[METHOD_LUN_RESIZE] = {"lun.resize",
			       true,
			       {{"name", KIND_STRING, true}, {"size", KIND_STRING, true}}},
	[METHOD_LUN_DELETE] = {"lun.delete",
			       true,
			       {{"name", KIND_STRING, true}, {"force", KIND_FLAG, false}}},
	[METHOD_LUN_SANITIZE] = {"lun.sanitize",
				 true,
				 {{"name", KIND_STRING, true},
				  {"overwrite", KIND_FLAG, false},
				  {"force", KIND_FLAG, false}}},
	[METHOD_SESSION_LIST] = {"session.list", false, {{NULL}}},
	[METHOD_SESSION_KICK] = {"session.kick", true, {{"session", KIND_STRING, true}}},
	[METHOD_EXPORT_LIST] = {"export.list", false, {{NULL}}},
	[METHOD_MEMORY] = {"memory", false, {{NULL}}},
	[METHOD_MEMORY_RELEASE] = {"memory.release", true, {{"size", KIND_STRING, false}}},
	[METHOD_PLAN] = {"plan", true, {{NULL}}},
	[METHOD_APPLY] = {"apply", true, {{NULL}}},
	[METHOD_LIO_DESIRED] = {"lio.desired", false, {{NULL}}},
	[METHOD_LIO_WAIT] = {"lio.wait", false, {{"generation", KIND_NUMBER, true}}},
	[METHOD_LIO_REPORT] = {"lio.report",
			       false,
			       {{"generation", KIND_NUMBER, true}, {"problems", KIND_LIST, true}}},
};

bool protocol_is_change(enum protocol_method m)
{
	return methods[m].change;
}

const char *protocol_method_name(enum protocol_method m)
{
	return methods[m].name;
}

static bool of_kind(const json_t *v, enum kind kind)
{
	switch (kind) {
	case KIND_STRING:
		return json_is_string(v);
	case KIND_FLAG:
		return json_is_boolean(v);
	case KIND_NUMBER:
		return json_is_integer(v);
	case KIND_LIST:
		return json_is_array(v);
	case KIND_END:
		break;
	}
	return false;
}

static const struct param *find_param(const struct method *m, const char *key)
{
	for (const struct param *p = m->params; p->key; p++)
		if (!strcmp(p->key, key))
			return p;
	return NULL;
}

static int check_params(const struct method *m, json_t *params, struct reason *why)
{
	static const char *const words[] = {"", "a string", "true or false", "a whole number",
					    "a list"};
	const char *key;
	json_t *v;

	if (params && !json_is_object(params))
		return reason_set(why, EINVAL, "params must be an object");
	json_object_foreach(params, key, v)
	{
		const struct param *p = find_param(m, key);

		if (!p)
			return reason_set(why, EINVAL, "%s: unknown parameter '%.60s'", m->name,
					  key);
		if (!of_kind(v, p->kind))
			return reason_set(why, EINVAL, "%s: '%s' must be %s", m->name, key,
					  words[p->kind]);
	}
	for (const struct param *p = m->params; p->key; p++)
		if (p->required && !json_object_get(params, p->key))
			return reason_set(why, EINVAL, "%s: '%s' is missing", m->name, p->key);
	return 0;
}

static int check_request(json_t *top, struct protocol_request *req, struct reason *why)
{
	json_t *version = json_object_get(top, "v"), *params = json_object_get(top, "params");
	const char *name, *key;
	json_t *v;
	int m, ret;

	if (!json_is_object(top))
		return reason_set(why, EINVAL, "a request is an object");
	v = json_object_get(top, "id");
	if (v && !json_is_object(v) && !json_is_array(v)) {
		json_decref(req->id);
		req->id = json_incref(v);
	}
	json_object_foreach(top, key, v)
	{
		if (strcmp(key, "v") && strcmp(key, "id") && strcmp(key, "method") &&
		    strcmp(key, "params"))
			return reason_set(why, EINVAL, "unknown key '%.60s'", key);
	}
	if (!json_is_integer(version) || json_integer_value(version) != PROTOCOL_VERSION)
		return reason_set(why, EPROTO, "this daemon speaks version %d of the protocol",
				  PROTOCOL_VERSION);
	name = json_string_value(json_object_get(top, "method"));
	if (!name)
		return reason_set(why, EINVAL, "'method' is missing");
	for (m = 0; m < METHOD_COUNT && strcmp(methods[m].name, name); m++)
		;
	if (m == METHOD_COUNT)
		return reason_set(why, ENOSYS, "unknown method '%.60s'", name);
	ret = check_params(&methods[m], params, why);
	if (ret)
		return ret;
	req->method = (enum protocol_method)m;
	req->params = json_incref(params);
	return 0;
}

int protocol_parse(const char *line, size_t len, struct protocol_request *req, struct reason *why)
{
	json_error_t error;
	json_t *top;
	int ret;

	*req = (struct protocol_request){.id = json_null()};
	top = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	if (!top)
		return reason_set(why, EINVAL, "not JSON: %s", error.text);
	ret = check_request(top, req, why);
	json_decref(top);
	return ret;
}

void protocol_free(struct protocol_request *req)
{
	json_decref(req->id);
	json_decref(req->params);
	*req = (struct protocol_request){0};
}

const char *protocol_string(const struct protocol_request *req, const char *key)
{
	return json_string_value(json_object_get(req->params, key));
}

bool protocol_flag(const struct protocol_request *req, const char *key)
{
	return json_is_true(json_object_get(req->params, key));
}

const char *protocol_code(int err)
{
	switch (-err) {
	case ENOENT:
		return "not-found";
	case EEXIST:
		return "exists";
	case EBUSY:
	case EADDRINUSE:
		return "busy";
	case EINVAL:
	case ERANGE:
		return "invalid";
	case ENOSYS:
		return "unknown-method";
	case EPROTO:
		return "version";
	case EPERM:
	case EACCES:
	case EROFS:
		return "denied";
	case ENOMEM:
		return "no-memory";
	case ENOSPC:
		return "no-space";
	case EMSGSIZE:
		return "too-large";
	default:
		return "failed";
	}
}

/* Dumps @o (taken over) as a line. */
static char *dump_line(json_t *o, size_t *ret_len)
{
	size_t len = o ? json_dumpb(o, NULL, 0, JSON_COMPACT) : 0;
	char *line = len ? malloc(len + 2) : NULL;

	if (line) {
		json_dumpb(o, line, len, JSON_COMPACT);
		line[len] = '\n';
		line[len + 1] = '\0';
		*ret_len = len + 1;
	}
	json_decref(o);
	return line;
}

char *protocol_success(const json_t *id, json_t *result, size_t *ret_len)
{
	return dump_line(json_pack("{s:i, s:O, s:b, s:o}", "v", PROTOCOL_VERSION, "id",
				   (json_t *)id, "ok", 1, "result", result),
			 ret_len);
}

char *protocol_failure(const json_t *id, int err, const char *message, size_t *ret_len)
{
	return dump_line(json_pack("{s:i, s:O, s:b, s:{s:s, s:o}}", "v", PROTOCOL_VERSION, "id",
				   (json_t *)id, "ok", 0, "error", "code", protocol_code(err),
				   "message", json_text(message)),
			 ret_len);
}
