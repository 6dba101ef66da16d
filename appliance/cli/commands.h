/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of commands, from which help and parsing come. */
#pragma once

#include "cli/cli.h"

#define COMMAND_OPTIONS 9

struct command_option {
	const char *name;  /* without "--" */
	const char *param; /* of the request */
	const char *value; /* its name in help; NULL: a flag */
	bool number;
	const char *help;
};

struct command {
	const char *name;    /* one or two words */
	const char *summary; /* for the list */
	const char *method;
	const char *args[3];  /* parameters that are arguments, in order */
	const char *words[3]; /* their names in help */
	bool path_second;     /* the second argument is a path, to be made absolute */
	struct command_option options[COMMAND_OPTIONS + 1];
	/* Prints the result for people; returns the exit status. */
	int (*print)(const json_t *result);
	/* Instead of one question (and @method, @print): all of it; likewise. */
	int (*run)(const json_t *params, const struct cli_options *opt);
};

extern const struct command commands[];
extern const unsigned n_commands;

/** @argv[0] is "ebb" and the command. Returns the exit status. */
int run_command(const struct command *c, int argc, char **argv, const struct cli_options *global);
