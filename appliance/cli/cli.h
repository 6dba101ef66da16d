/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the `ebb` command share. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <jansson.h>

#include "base/reason.h"
#include "control/config.h"

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

/** Options that come before or after the command. */
struct cli_options {
	const char *socket; /* NULL: looked for */
	bool json;
};

/** What getopt_long() gives for options that all commands take: --json, --socket, --help. */
enum { CLI_JSON = 'j', CLI_SOCKET = 's', CLI_HELP = 'h' };
/** Takes --json or --socket; false: @ch is another. */
bool cli_take_option(struct cli_options *opt, int ch, const char *arg);
/** An answer for programs: prints @o (a new reference, taken over), indented. */
void cli_print_json(json_t *o);

/** `ebb serve`; @argv[0] is "ebb serve". Returns the exit code. */
int cli_serve(int argc, char **argv, const struct cli_options *global);
/** Adds the LUN that @arg, "FILE[,OPTION...]", describes. -EINVAL or -ENOMEM with the reason. */
int cli_add_file(struct config *cfg, const char *arg, struct reason *why);
/** `ebb doctor`; as cli_serve(). */
int cli_doctor(int argc, char **argv, const struct cli_options *global);
/** `ebb top`; as cli_serve(). */
int cli_top(int argc, char **argv, const struct cli_options *global);
/** `ebb explain`; as cli_serve(). */
int cli_explain(int argc, char **argv, const struct cli_options *global);

/** `ebb mount`; @argv[0] is "ebb mount". Returns the exit code. */
int cli_mount(int argc, char **argv, const struct cli_options *global);

/* --- asking the daemon (client.c) --- */

/**
 * Sends a request and waits for the answer. @params (taken over) may be NULL. 0 with the result (a
 * new reference), or -1 when it was refused or nobody answers, with the reason.
 */
int cli_call(const struct cli_options *opt, const char *method, json_t *params, json_t **ret_result,
	     struct reason *why);

/** Where the appliance has its port; malloc'ed. NULL with the reason. */
char *cli_ask_port(const struct cli_options *opt, struct reason *why);

/* --- long work (lun_copy.c, lun_sanitize.c) --- */

/** `ebb lun copy` and `ebb lun sanitize` with @params as parsed. Return the exit status. */
int cli_copy(const json_t *params, const struct cli_options *opt);
int cli_sanitize(const json_t *params, const struct cli_options *opt);

/* --- where things are (paths.c) --- */

/**
 * $XDG_RUNTIME_DIR/ebb, or /tmp/ebb-UID; made (0700) when @make. Refused unless it is ours alone:
 * in /tmp anybody may have been the first to make it, and would answer in the place of our
 * appliance.
 */
int cli_runtime_dir(char *buf, size_t size, bool make, struct reason *why);
/** $XDG_STATE_HOME/ebb, or ~/.local/state/ebb. */
int cli_state_dir(char *buf, size_t size, struct reason *why);
/** @path, absolute; "." and ".." stay. malloc'ed. */
char *cli_absolute(const char *path);

/* --- tables for people (table.c) --- */

#define TABLE_COLUMNS 10

struct table;
/** @titles: @n of them; one that starts with '>' is aligned right (without the '>'). */
struct table *table_new(const char *const *titles, unsigned n);
/** Copies @n cells; a NULL is "-". */
void table_add(struct table *t, const char *const *cells);
/** Prints and frees. */
void table_print(struct table *t);
