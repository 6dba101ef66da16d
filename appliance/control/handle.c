/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each method of the control socket does, on worker threads; but for lio.wait, which the
 * server answers itself.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/json_text.h"
#include "control/memory.h"
#include "control/protocol.h"
#include "control/server.h"
#include "control/size.h"
#include "mem/budget/budget.h"

/* Each returns 0 and a new reference in *@ret_result, or -errno and the reason. */
typedef int (*handler_fn)(struct appliance *app, const struct protocol_request *req,
			  json_t **ret_result, struct reason *why);

static int give(json_t *result, json_t **ret_result, struct reason *why)
{
	if (!result)
		return reason_set(why, ENOMEM, "out of memory");
	*ret_result = result;
	return 0;
}

static int do_status(struct appliance *app, const struct protocol_request *req, json_t **ret_result,
		     struct reason *why)
{
	return give(appliance_report_status(app), ret_result, why);
}

static int do_lun_list(struct appliance *app, const struct protocol_request *req,
		       json_t **ret_result, struct reason *why)
{
	return give(appliance_report_luns(app), ret_result, why);
}

static int do_lun_show(struct appliance *app, const struct protocol_request *req,
		       json_t **ret_result, struct reason *why)
{
	json_t *o = appliance_report_lun(app, protocol_string(req, "name"));

	if (json_is_null(o))
		return reason_set(why, ENOENT, "no LUN is called '%.80s'",
				  protocol_string(req, "name"));
	return give(o, ret_result, why);
}

static int do_lun_counters(struct appliance *app, const struct protocol_request *req,
			   json_t **ret_result, struct reason *why)
{
	return give(appliance_report_counters(app), ret_result, why);
}

static int read_mode(const struct protocol_request *req, enum block_mode *ret_mode,
		     struct reason *why)
{
	static const char *const names[] = {"auto", "direct", "buffered"};
	const char *mode = protocol_string(req, "mode");

	if (!mode)
		return 0;
	for (unsigned i = 0; i < 3; i++) {
		if (strcmp(mode, names[i]))
			continue;
		*ret_mode = (enum block_mode)i;
		return 0;
	}
	return reason_set(why, EINVAL, "mode: '%.40s' is none of auto, direct, buffered", mode);
}

static int read_cache(const struct protocol_request *req, enum config_cache *ret_cache,
		      struct reason *why)
{
	const char *word = protocol_string(req, "cache");
	int ret = word ? config_read_cache(word, ret_cache, why) : 0;

	return ret ? reason_prefix(why, ret, "cache") : 0;
}

static int do_lun_create(struct appliance *app, const struct protocol_request *req,
			 json_t **ret_result, struct reason *why)
{
	json_int_t bs = json_integer_value(json_object_get(req->params, "block_size"));
	json_int_t weight = json_integer_value(json_object_get(req->params, "cache_weight"));
	struct config_lun l = {
		.name = (char *)protocol_string(req, "name"),
		.path = (char *)protocol_string(req, "path"),
		.size_text = (char *)protocol_string(req, "size"),
		.description = (char *)protocol_string(req, "description"),
		.read_only = protocol_flag(req, "read_only"),
		.removable = protocol_flag(req, "removable"),
		.block_size = bs >= 0 && bs <= 4096 ? (unsigned)bs : 1,
		.cache_weight = weight >= 0 && weight <= CONFIG_WEIGHT_MAX ? (unsigned)weight
									   : UINT_MAX,
		.cache_floor_text = (char *)protocol_string(req, "cache_floor"),
	};
	const char *key;
	int ret = read_mode(req, &l.mode, why);

	if (!ret)
		ret = read_cache(req, &l.cache, why);
	if (ret)
		return ret;
	ret = config_check_lun(&l, &key, why);
	if (ret)
		return reason_prefix(why, ret, "%s", key);
	ret = appliance_create_lun(app, &l, why);
	return ret ? ret : give(appliance_report_lun(app, l.name), ret_result, why);
}

static int do_lun_resize(struct appliance *app, const struct protocol_request *req,
			 json_t **ret_result, struct reason *why)
{
	const char *name = protocol_string(req, "name");
	char note[256];
	uint64_t size;
	int ret = size_parse(protocol_string(req, "size"), &size, why);

	if (!ret)
		ret = appliance_resize_lun(app, name, size, note, why);
	if (ret)
		return ret;
	return give(json_pack("{s:o, s:I, s:o}", "name", json_text(name), "size", (json_int_t)size,
			      "note", json_text(note)),
		    ret_result, why);
}

static int do_lun_delete(struct appliance *app, const struct protocol_request *req,
			 json_t **ret_result, struct reason *why)
{
	const char *name = protocol_string(req, "name");
	int ret = appliance_delete_lun(app, name, protocol_flag(req, "force"), why);

	return ret ? ret : give(json_pack("{s:o}", "name", json_text(name)), ret_result, why);
}

static int do_lun_sanitize(struct appliance *app, const struct protocol_request *req,
			   json_t **ret_result, struct reason *why)
{
	const char *name = protocol_string(req, "name");
	int ret = appliance_sanitize_lun(app, name, protocol_flag(req, "overwrite"),
					 protocol_flag(req, "force"), why);

	return ret ? ret : give(json_pack("{s:o}", "name", json_text(name)), ret_result, why);
}

static int do_session_list(struct appliance *app, const struct protocol_request *req,
			   json_t **ret_result, struct reason *why)
{
	return give(appliance_report_sessions(app), ret_result, why);
}

static int do_session_kick(struct appliance *app, const struct protocol_request *req,
			   json_t **ret_result, struct reason *why)
{
	const char *id = protocol_string(req, "session");
	int ret = appliance_kick(app, id, why);

	return ret ? ret : give(json_pack("{s:o}", "session", json_text(id)), ret_result, why);
}

static int do_export_list(struct appliance *app, const struct protocol_request *req,
			  json_t **ret_result, struct reason *why)
{
	return give(appliance_report_exports(app), ret_result, why);
}

static int do_memory(struct appliance *app, const struct protocol_request *req, json_t **ret_result,
		     struct reason *why)
{
	return give(appliance_report_memory(app), ret_result, why);
}

static int do_memory_release(struct appliance *app, const struct protocol_request *req,
			     json_t **ret_result, struct reason *why)
{
	const char *size = protocol_string(req, "size");
	uint64_t bytes = UINT64_MAX;
	int ret = size ? size_parse(size, &bytes, why) : 0;

	if (ret)
		return reason_prefix(why, ret, "size");
	bytes = budget_shrink(memory_budget(appliance_memory(app)), bytes);
	return give(json_pack("{s:I}", "returned_bytes", (json_int_t)bytes), ret_result, why);
}

static int give_plan(struct plan *p, json_t **ret_result, struct reason *why)
{
	json_t *o = json_pack("{s:I, s:o}", "problems", (json_int_t)plan_problems(p), "steps",
			      plan_to_json(p));

	plan_free(p);
	return give(o, ret_result, why);
}

static int do_plan(struct appliance *app, const struct protocol_request *req, json_t **ret_result,
		   struct reason *why)
{
	struct plan *p;
	int ret = appliance_plan(app, &p, why);

	return ret ? ret : give_plan(p, ret_result, why);
}

static int do_apply(struct appliance *app, const struct protocol_request *req, json_t **ret_result,
		    struct reason *why)
{
	struct plan *p;
	int ret = appliance_apply(app, &p, why);

	return ret ? ret : give_plan(p, ret_result, why);
}

static int do_lio_desired(struct appliance *app, const struct protocol_request *req,
			  json_t **ret_result, struct reason *why)
{
	return give(appliance_report_lio(app), ret_result, why);
}

static int do_lio_report(struct appliance *app, const struct protocol_request *req,
			 json_t **ret_result, struct reason *why)
{
	json_t *generation = json_object_get(req->params, "generation");
	int ret = appliance_note_lio(app, (uint64_t)json_integer_value(generation),
				     json_object_get(req->params, "problems"), why);

	return ret ? ret : give(json_object(), ret_result, why);
}

static const handler_fn handlers[METHOD_COUNT] = {
	[METHOD_STATUS] = do_status,
	[METHOD_LUN_LIST] = do_lun_list,
	[METHOD_LUN_SHOW] = do_lun_show,
	[METHOD_LUN_COUNTERS] = do_lun_counters,
	[METHOD_LUN_CREATE] = do_lun_create,
	[METHOD_LUN_RESIZE] = do_lun_resize,
	[METHOD_LUN_DELETE] = do_lun_delete,
	[METHOD_LUN_SANITIZE] = do_lun_sanitize,
	[METHOD_SESSION_LIST] = do_session_list,
	[METHOD_SESSION_KICK] = do_session_kick,
	[METHOD_EXPORT_LIST] = do_export_list,
	[METHOD_MEMORY] = do_memory,
	[METHOD_MEMORY_RELEASE] = do_memory_release,
	[METHOD_PLAN] = do_plan,
	[METHOD_APPLY] = do_apply,
	[METHOD_LIO_DESIRED] = do_lio_desired,
	[METHOD_LIO_REPORT] = do_lio_report,
};

char *control_handle(struct appliance *app, const struct protocol_request *req, size_t *ret_len)
{
	struct reason why = {.text = ""};
	json_t *result = NULL;
	int ret = handlers[req->method](app, req, &result, &why);

	if (ret)
		return protocol_failure(req->id, ret, why.text[0] ? why.text : strerror(-ret),
					ret_len);
	return protocol_success(req->id, result, ret_len);
}
