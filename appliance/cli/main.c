/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The `ebb` command: a table of commands, each of which asks the daemon through its control socket
 * and prints the answer for people, or as it is with --json. Exit status: 0 done, 1 refused (the
 * reason on stderr, nothing changed), 2 usage.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"

/* Commands that are no question to the daemon alone. */
static const struct {
	const char *name, *summary;
	int (*run)(int argc, char **argv, const struct cli_options *global);
	bool answers; /* what it prints is what it was asked for */
} own[] = {
	{"serve", "serve files in the foreground, with no configuration", cli_serve, false},
	{"mount", "LUNs as files of a directory", cli_mount, false},
	{"top", "what LUNs do, live", cli_top, true},
	{"explain", "where the time of a LUN goes", cli_explain, true},
	{"doctor", "what keeps an appliance from working, with the cures", cli_doctor, true},
};
#define N_OWN (sizeof(own) / sizeof(own[0]))

static const char help_head[] = "Usage: ebb [--json] [--socket PATH] COMMAND [ARGUMENTS]\n"
				"\n"
				"Commands:\n";
static const char help_tail[] =
	"\n"
	"  --json          print the answer as JSON\n"
	"  --socket PATH   of the appliance (default: $EBB_SOCKET, or the user's own appliance in\n"
	"                  $XDG_RUNTIME_DIR/ebb/control.sock, or /run/ebb/control.sock)\n"
	"  --version       print the version\n"
	"  --help          this text; `ebb COMMAND --help` tells of one command\n"
	"\n"
	"Exit status: 0 done, 1 refused (the reason on stderr, nothing changed), 2 usage.\n";

static void print_general_help(FILE *f)
{
	fputs(help_head, f);
	for (unsigned i = 0; i < N_OWN; i++)
		fprintf(f, "  %-15s %s\n", own[i].name, own[i].summary);
	for (unsigned i = 0; i < n_commands; i++)
		fprintf(f, "  %-15s %s\n", commands[i].name, commands[i].summary);
	fputs(help_tail, f);
}

/* How many words of @argv name @c: 0 when they do not. */
static int match(const struct command *c, int argc, char **argv)
{
	const char *space = strchr(c->name, ' ');

	if (!space)
		return argc >= 1 && !strcmp(argv[0], c->name);
	return argc >= 2 && strlen(argv[0]) == (size_t)(space - c->name) &&
			       !strncmp(argv[0], c->name, strlen(argv[0])) &&
			       !strcmp(argv[1], space + 1)
		       ? 2
		       : 0;
}

static int usage(const char *what, const char *word)
{
	fprintf(stderr, "ebb: %s%s%s\nTry 'ebb --help'.\n", what, word ? ": " : "",
		word ? word : "");
	return EXIT_USAGE;
}

/* Takes the options of the whole command off the front. Returns an exit status, or -1 to go on. */
static int take_globals(int argc, char **argv, struct cli_options *opt)
{
	static const struct option options[] = {{"json", no_argument, NULL, CLI_JSON},
						{"socket", required_argument, NULL, CLI_SOCKET},
						{"version", no_argument, NULL, 'V'},
						{"help", no_argument, NULL, CLI_HELP},
						{NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "+h", options, NULL)) >= 0) {
		if (cli_take_option(opt, c, optarg))
			continue;
		switch (c) {
		case 'V':
			puts("ebb " EBB_VERSION);
			return EXIT_DONE;
		case CLI_HELP:
			print_general_help(stdout);
			return EXIT_DONE;
		default:
			return EXIT_USAGE;
		}
	}
	return -1;
}

/* @argv with "ebb NAME" for its first word, which is who getopt says it is. */
static char **as(char **argv, const char *name)
{
	static char program[40];

	snprintf(program, sizeof(program), "ebb %s", name);
	argv[0] = program;
	return argv;
}

/* An answer that could not be written is no success. */
static int written(int status)
{
	if ((!fflush(stdout) && !ferror(stdout)) || status != EXIT_DONE)
		return status;
	fputs("ebb: not all could be written to standard output\n", stderr);
	return EXIT_REFUSED;
}

int main(int argc, char **argv)
{
	struct cli_options opt = {0};
	int status = take_globals(argc, argv, &opt);

	if (status >= 0)
		return status;
	argc -= optind;
	argv += optind;
	if (!argc)
		return usage("no command given", NULL);
	for (unsigned i = 0; i < N_OWN; i++)
		if (!strcmp(argv[0], own[i].name)) {
			status = own[i].run(argc, as(argv, own[i].name), &opt);
			return own[i].answers ? written(status) : status;
		}
	for (unsigned i = 0; i < n_commands; i++) {
		int words = match(&commands[i], argc, argv);

		if (words)
			return written(run_command(&commands[i], argc - words + 1,
						   as(argv + words - 1, commands[i].name), &opt));
	}
	return usage("unknown command", argv[0]);
}
