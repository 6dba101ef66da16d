/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * LUNs declared by commands are kept in STATE/luns.json, so that they come back with the daemon:
 *   {"version": 1, "luns": [{"name": …, "path": …, "size": "1G", "read_only": true, …}]}
 * They are part of the declaration like those of the configuration file: a plan never removes
 * them. A name that the file declares too is the file's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "control/appliance_private.h"
#include "control/json_text.h"

#define STATE_FILE "luns.json"
#define STATE_MAX  (64u << 20)

static const char *const mode_name[] = {"auto", "direct", "buffered"};

static json_t *lun_to_json(const struct config_lun *l)
{
	json_t *o = json_pack("{s:o, s:o, s:s, s:s, s:b, s:b, s:i}", "name", json_text(l->name),
			      "path", json_text(l->path), "mode", mode_name[l->mode], "cache",
			      config_cache_name(l->cache), "read_only", l->read_only, "removable",
			      l->removable, "block_size", (int)l->block_size);

	if (o && l->size_text)
		json_object_set_new(o, "size", json_text(l->size_text));
	if (o && l->cache_weight)
		json_object_set_new(o, "cache_weight", json_integer(l->cache_weight));
	if (o && l->cache_floor_text)
		json_object_set_new(o, "cache_floor", json_text(l->cache_floor_text));
	if (o && l->description)
		json_object_set_new(o, "description", json_text(l->description));
	if (o && l->uuid)
		json_object_set_new(o, "uuid", json_text(l->uuid));
	return o;
}

int app_save_commanded(struct appliance *app, const struct config *cfg, struct reason *why)
{
	_cleanup_free_ char *text = NULL;
	json_t *list = json_array(), *top;
	int ret;

	for (unsigned i = 0; i < cfg->luns_count; i++)
		if (cfg->luns[i].by_command &&
		    json_array_append_new(list, lun_to_json(&cfg->luns[i])) < 0) {
			json_decref(list);
			return reason_set(why, ENOMEM, "out of memory");
		}
	top = json_pack("{s:i, s:o}", "version", 1, "luns", list);
	text = top ? json_dumps(top, JSON_INDENT(1)) : NULL;
	json_decref(top);
	if (!text)
		return reason_set(why, ENOMEM, "out of memory");
	ret = file_replace(app->state_dirfd, STATE_FILE, text, strlen(text));
	return ret ? reason_set(why, -ret, "%s/%s: %s", app->state_dir, STATE_FILE, strerror(-ret))
		   : 0;
}

static bool set_string(char **to, const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	*to = s ? strdup(s) : NULL;
	return !s || *to;
}

/* Adds the LUN that @o describes, unless its name is there. */
static int add_lun(struct config *cfg, const json_t *o, struct reason *why)
{
	const char *name = json_string_value(json_object_get(o, "name"));
	const char *path = json_string_value(json_object_get(o, "path"));
	const char *mode = json_string_value(json_object_get(o, "mode"));
	const char *cache = json_string_value(json_object_get(o, "cache"));
	struct config_lun *l;

	if (!name || !path)
		return reason_set(why, EINVAL, "a LUN without name or path");
	if (config_find_lun(cfg, name))
		return 0;
	l = config_add_lun(cfg);
	if (!l)
		return reason_set(why, ENOMEM, "out of memory");
	l->by_command = true;
	l->read_only = json_is_true(json_object_get(o, "read_only"));
	l->removable = json_is_true(json_object_get(o, "removable"));
	l->block_size = (unsigned)json_integer_value(json_object_get(o, "block_size"));
	l->cache_weight = (unsigned)json_integer_value(json_object_get(o, "cache_weight"));
	for (unsigned i = 0; mode && i < 3; i++)
		if (!strcmp(mode, mode_name[i]))
			l->mode = (enum block_mode)i;
	if (cache && config_read_cache(cache, &l->cache, why))
		return reason_prefix(why, -EINVAL, "cache");
	if (!set_string(&l->name, o, "name") || !set_string(&l->path, o, "path") ||
	    !set_string(&l->size_text, o, "size") ||
	    !set_string(&l->cache_floor_text, o, "cache_floor") ||
	    !set_string(&l->description, o, "description") || !set_string(&l->uuid, o, "uuid"))
		return reason_set(why, ENOMEM, "out of memory");
	return 0;
}

int app_load_commanded(struct appliance *app, struct config *cfg, struct reason *why)
{
	_cleanup_free_ char *text = NULL;
	json_error_t error;
	json_t *top, *o;
	size_t len, i;
	int ret = file_read(app->state_dirfd, STATE_FILE, STATE_MAX, &text, &len);

	if (ret == -ENOENT)
		return 0;
	if (ret)
		return reason_set(why, -ret, "%s/%s: %s", app->state_dir, STATE_FILE,
				  strerror(-ret));
	top = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	if (!top)
		return reason_set(why, EINVAL, "%s/%s:%d: %s", app->state_dir, STATE_FILE,
				  error.line, error.text);
	if (json_integer_value(json_object_get(top, "version")) != 1)
		ret = reason_set(why, EINVAL, "%s/%s: not of a version that we know",
				 app->state_dir, STATE_FILE);
	json_array_foreach(json_object_get(top, "luns"), i, o)
	{
		if (!ret)
			ret = add_lun(cfg, o, why);
	}
	json_decref(top);
	return ret ? ret : config_check(cfg, STATE_FILE, NULL, why);
}
