/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/commands.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/print.h"

const struct command commands[] = {
	{.name = "status",
	 .summary = "the appliance as a whole",
	 .method = "status",
	 .print = print_status},
	{.name = "lun list", .summary = "all LUNs", .method = "lun.list", .print = print_luns},
	{.name = "lun show",
	 .summary = "one LUN with its counters and URLs",
	 .method = "lun.show",
	 .args = {"name"},
	 .words = {"NAME"},
	 .print = print_lun},
	{.name = "lun create",
	 .summary = "serve a file (or device) as a LUN",
	 .method = "lun.create",
	 .args = {"name", "path"},
	 .words = {"NAME", "FILE"},
	 .path_second = true,
	 .options = {{"size", "size", "SIZE", false, "make a sparse file when it is not there"},
		     {"read-only", "read_only", NULL, false, "refuse writes"},
		     {"removable", "removable", NULL, false, "a medium that can be ejected"},
		     {"io", "mode", "MODE", false, "auto, direct or buffered"},
		     {"cache", "cache", "MODE", false, "auto (default), read or none"},
		     {"cache-weight", "cache_weight", "N", true,
		      "its share beside others; default 100"},
		     {"cache-floor", "cache_floor", "SIZE", false,
		      "so much is not taken for others"},
		     {"block-size", "block_size", "N", true, "512 or 4096"},
		     {"description", "description", "TEXT", false, "shown to NBD clients"}},
	 .print = print_created},
	{.name = "lun resize",
	 .summary = "grow a LUN while it is in use",
	 .method = "lun.resize",
	 .args = {"name", "size"},
	 .words = {"NAME", "SIZE"},
	 .print = print_resized},
	{.name = "lun delete",
	 .summary = "stop serving a LUN; its file stays",
	 .method = "lun.delete",
	 .args = {"name"},
	 .words = {"NAME"},
	 .options = {{"force", "force", NULL, false, "end the sessions that use it"}},
	 .print = print_nothing},
	{.name = "lun copy",
	 .summary = "copy all of a LUN over another, with its holes",
	 .args = {"source", "target"},
	 .words = {"SOURCE", "TARGET"},
	 .options = {{"force", "force", NULL, false, "though sessions use one of them"}},
	 .run = cli_copy},
	{.name = "lun sanitize",
	 .summary = "make all data of a LUN unrecoverable",
	 .args = {"name"},
	 .words = {"NAME"},
	 .options = {{"overwrite", "overwrite", NULL, false,
		      "write zeros over all of it; default: deallocate it"},
		     {"no-wait", "no_wait", NULL, false, "do not wait for its end"},
		     {"force", "force", NULL, false,
		      "though sessions use it, or one has a reservation"}},
	 .run = cli_sanitize},
	{.name = "session list",
	 .summary = "who is logged in or connected",
	 .method = "session.list",
	 .print = print_sessions},
	{.name = "session kick",
	 .summary = "end a session",
	 .method = "session.kick",
	 .args = {"session"},
	 .words = {"SESSION"},
	 .print = print_nothing},
	{.name = "export list",
	 .summary = "URLs of all exports",
	 .method = "export.list",
	 .print = print_exports},
	{.name = "memory release",
	 .summary = "give memory back to the host now; it is taken again slowly",
	 .method = "memory.release",
	 .options = {{"size", "size", "SIZE", false, "so much at least; default: all that can be"}},
	 .print = print_released},
	{.name = "memory",
	 .summary = "who holds memory, and what was given back",
	 .method = "memory",
	 .print = print_memory},
	{.name = "plan",
	 .summary = "what apply would do: the declared against the running state",
	 .method = "plan",
	 .print = print_plan},
	{.name = "apply",
	 .summary = "bring the running to the declared state",
	 .method = "apply",
	 .print = print_applied},
};
const unsigned n_commands = sizeof(commands) / sizeof(commands[0]);

static void print_help(const struct command *c)
{
	printf("Usage: ebb %s", c->name);
	for (unsigned i = 0; c->words[i]; i++)
		printf(" %s", c->words[i]);
	printf(" [OPTIONS]\n\n%c%s.\n\n", c->summary[0] & ~0x20, c->summary + 1);
	for (const struct command_option *o = c->options; o->name; o++) {
		char left[60];

		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "",
			 o->value ? o->value : "");
		printf("  %-20s %s\n", left, o->help);
	}
	printf("  %-20s %s\n", "--json", "print the answer as JSON");
	printf("  %-20s %s\n", "--socket PATH", "of the appliance");
	printf("  %-20s %s\n", "--help", "this text");
}

static json_t *option_value(const struct command_option *o, const char *text)
{
	char *end;
	long long n;

	if (!o->value)
		return json_true();
	if (!o->number)
		return json_string(text);
	n = strtoll(text, &end, 10);
	return *end || end == text ? NULL : json_integer(n);
}

static int misuse(const struct command *c, const char *what, const char *word)
{
	fprintf(stderr, "ebb %s: %s%s%s\nTry 'ebb %s --help'.\n", c->name, what, word ? ": " : "",
		word ? word : "", c->name);
	return EXIT_USAGE;
}

static void make_options(const struct command *c, struct option *out)
{
	unsigned n = 0;

	for (; c->options[n].name; n++)
		out[n] = (struct option){c->options[n].name,
					 c->options[n].value ? required_argument : no_argument,
					 NULL, 256 + (int)n};
	out[n++] = (struct option){"json", no_argument, NULL, CLI_JSON};
	out[n++] = (struct option){"socket", required_argument, NULL, CLI_SOCKET};
	out[n++] = (struct option){"help", no_argument, NULL, CLI_HELP};
	out[n] = (struct option){NULL, 0, NULL, 0};
}

/* Parses options and arguments to parameters. Returns an exit status, or -1 to go on. */
static int parse(const struct command *c, int argc, char **argv, struct cli_options *opt,
		 json_t *params)
{
	struct option options[COMMAND_OPTIONS + 4];
	unsigned n = 0;
	json_t *v;
	int ch;

	make_options(c, options);
	optind = 0;
	while ((ch = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
		if (cli_take_option(opt, ch, optarg))
			continue;
		if (ch == CLI_HELP) {
			print_help(c);
			return EXIT_DONE;
		} else if (ch < 256) {
			return EXIT_USAGE;
		} else {
			v = option_value(&c->options[ch - 256], optarg);
			if (!v)
				return misuse(c, "not a valid value", optarg);
			json_object_set_new(params, c->options[ch - 256].param, v);
		}
	}
	for (; c->args[n]; n++) {
		char *path = NULL;

		if (optind == argc)
			return misuse(c, "an argument is missing", c->words[n]);
		if (n == 1 && c->path_second)
			path = cli_absolute(argv[optind]);
		v = json_string(path ? path : argv[optind]);
		free(path);
		if (!v)
			return misuse(c, "not valid UTF-8", c->words[n]);
		json_object_set_new(params, c->args[n], v);
		optind++;
	}
	return optind < argc ? misuse(c, "too many arguments", argv[optind]) : -1;
}

int run_command(const struct command *c, int argc, char **argv, const struct cli_options *global)
{
	struct cli_options opt = *global;
	json_t *params = json_object(), *result = NULL;
	struct reason why = {.text = ""};
	int status = parse(c, argc, argv, &opt, params);

	if (status >= 0) {
		json_decref(params);
		return status;
	}
	if (c->run) {
		status = c->run(params, &opt);
		json_decref(params);
		return status;
	}
	if (cli_call(&opt, c->method, params, &result, &why)) {
		fprintf(stderr, "ebb %s: %s\n", c->name, why.text);
		return EXIT_REFUSED;
	}
	if (opt.json) {
		status = c->print == print_applied ? applied_status(result) : EXIT_DONE;
		cli_print_json(result);
	} else {
		status = c->print(result);
		json_decref(result);
	}
	return status;
}
