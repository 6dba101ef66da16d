/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all commands take, and how all of them print JSON. */
#include <stdio.h>

#include "cli/cli.h"

bool cli_take_option(struct cli_options *opt, int ch, const char *arg)
{
	if (ch == CLI_JSON)
		opt->json = true;
	else if (ch == CLI_SOCKET)
		opt->socket = arg;
	return ch == CLI_JSON || ch == CLI_SOCKET;
}

void cli_print_json(json_t *o)
{
	json_dumpf(o, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
	json_decref(o);
}
