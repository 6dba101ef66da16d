/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "runner_config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define RETRY_MAX 86400u /* seconds */

static int set_lun(struct runner_config *c, const char *name, struct reason *why)
{
	if (!*name)
		return reason_set(why, EINVAL, "no LUN: expected %s/%s", RUNNER_SUBTYPE,
				  RUNNER_USAGE);
	if (strlen(name) >= sizeof(c->lun))
		return reason_set(why, EINVAL, "%s: longer than the name of a LUN can be", name);
	strcpy(c->lun, name);
	return 0;
}

static int set_socket(struct runner_config *c, const char *path, struct reason *why)
{
	if (*path != '/')
		return reason_set(why, EINVAL, "socket=%s: not an absolute path", path);
	if (strlen(path) >= sizeof(c->socket))
		return reason_set(why, EINVAL, "socket=%s: too long", path);
	strcpy(c->socket, path);
	return 0;
}

static int set_retry(struct runner_config *c, const char *text, struct reason *why)
{
	char *end;
	unsigned long seconds = strtoul(text, &end, 10);

	if (!isdigit((unsigned char)*text) || *end || !seconds || seconds > RETRY_MAX)
		return reason_set(why, EINVAL, "retry=%s: not from 1 to %u seconds", text,
				  RETRY_MAX);
	c->retry_ms = (unsigned)seconds * 1000;
	return 0;
}

static int set_option(struct runner_config *c, const char *word, struct reason *why)
{
	if (strncmp(word, "socket=", 7) == 0)
		return set_socket(c, word + 7, why);
	if (strncmp(word, "retry=", 6) == 0)
		return set_retry(c, word + 6, why);
	if (!*word || strncmp(word, "tcmur_", 6) == 0)
		return 0;
	return reason_set(why, EINVAL, "%s: expected %s/%s", word, RUNNER_SUBTYPE, RUNNER_USAGE);
}

int runner_config_parse(const char *cfgstring, struct runner_config *ret_config, struct reason *why)
{
	static const char prefix[] = RUNNER_SUBTYPE "/";
	struct runner_config c = {.socket = PORT_DEFAULT_SOCKET, .retry_ms = PORT_DEFAULT_RETRY_MS};
	_cleanup_free_ char *copy = NULL;
	char *rest, *word;
	int err;

	if (strncmp(cfgstring, prefix, sizeof(prefix) - 1) != 0)
		return reason_set(why, EINVAL, "%s: does not start with %s", cfgstring, prefix);
	rest = copy = strdup(cfgstring + sizeof(prefix) - 1);
	if (!copy)
		return reason_set(why, ENOMEM, "out of memory");
	err = set_lun(&c, strsep(&rest, ";"), why);
	while (!err && (word = strsep(&rest, ";")))
		err = set_option(&c, word, why);
	if (!err)
		*ret_config = c;
	return err;
}
