/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `ebb lun sanitize`: the appliance does it, on a thread of the LUN's own, and goes on if we end;
 * here is only asked how far it is.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/progress.h"

#define ASK_NS (100 * NSEC_PER_MSEC)

static uint64_t number(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

/* 0: it has ended; 1: it runs; -1: it failed, or nobody answers. */
static int ask(const struct cli_options *opt, const char *name, uint64_t *done, uint64_t *total,
	       struct reason *why)
{
	const char *state, *error;
	json_t *lun, *s;
	int ret = 0;

	if (cli_call(opt, "lun.show", json_pack("{s:s}", "name", name), &lun, why))
		return -1;
	s = json_object_get(lun, "sanitize");
	*total = number(lun, "size") ?: 1;
	if (s) {
		*done = number(s, "done");
		*total = number(s, "total");
		state = json_string_value(json_object_get(s, "state"));
		error = json_string_value(json_object_get(s, "error"));
		ret = state && !strcmp(state, "running") ? 1 : -1;
		if (ret < 0) /* without a reason: in another life of the appliance */
			reason_set(why, EIO, "%s: %s", name, error ? error : "it has failed");
	}
	json_decref(lun);
	return ret;
}

static int watch(const struct cli_options *opt, const char *name)
{
	struct progress p = {.what = name, .json = opt->json};
	struct reason why = {.text = ""};
	uint64_t done = 0, total = 1;
	int ret;

	progress_begin(&p);
	while ((ret = ask(opt, name, &done, &total, &why)) > 0) {
		progress_tell(&p, done, total);
		clock_pause(ASK_NS);
	}
	progress_end(&p, !ret, ret ? done : total, total);
	if (!ret)
		return EXIT_DONE;
	fprintf(stderr, "ebb lun sanitize: %s\n", why.text);
	return EXIT_REFUSED;
}

int cli_sanitize(const json_t *params, const struct cli_options *opt)
{
	const char *name = json_string_value(json_object_get(params, "name"));
	json_t *asked = json_deep_copy(params), *result;
	struct reason why = {.text = "out of memory"};

	json_object_del(asked, "no_wait");
	if (cli_call(opt, "lun.sanitize", asked, &result, &why)) {
		fprintf(stderr, "ebb lun sanitize: %s\n", why.text);
		return EXIT_REFUSED;
	}
	json_decref(result);
	return json_is_true(json_object_get(params, "no_wait")) ? EXIT_DONE : watch(opt, name);
}
