/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `ebb doctor`: looks for what keeps an appliance from working, or from working well, and says what
 * to do about it. It changes nothing and needs no appliance: what it looks at is
 *
 *	the FILEs that are given, as `ebb serve` would serve them; or
 *	the declaration (--config FILE, or /etc/ebb/ebb.yaml where it is); and
 *	what the appliance that answers serves, with the limits of its process.
 *
 * Checks stand in a table, from which the help comes. Each is a function over the declaration and
 * the system, in doctor_*.c. docs/doctor.md tells of each.
 */
#include "cli/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "control/json_text.h"

#define DEFAULT_CONFIG "/etc/ebb/ebb.yaml"
#define PATH_SIZE      4096

static const struct check {
	const char *name, *summary;
	void (*run)(struct doctor *d);
} checks[] = {
	{"limits", "open files, sizes of files and addresses that the process may have",
	 doctor_check_limits},
	{"memory",
	 "what is declared against the host and the control group, and who tells of pressure",
	 doctor_check_memory},
	{"files", "backing files: there, ours, served once, aligned, with direct I/O",
	 doctor_check_files},
	{"space", "whether sparse files can grow to their size", doctor_check_space},
	{"addresses", "whether portals can be bound, or are reached", doctor_check_addresses},
	{"io_uring", "whether the kernel has it and lets us", doctor_check_io_uring},
	{"nbdkit", "the server of NBD and its plugin", doctor_check_nbdkit},
	{"modules", "the kernel's target, where LUNs are exported through it",
	 doctor_check_modules},
};
#define N_CHECKS (sizeof(checks) / sizeof(checks[0]))

static const char *const level_names[DOCTOR_LEVELS] = {"note", "warning", "failure"};

/* --- what the checks share --- */

void doctor_report(struct doctor *d, enum doctor_level level, const char *subject, const char *cure,
		   const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	d->found[level]++;
	json_array_append_new(d->findings,
			      json_pack("{s:s, s:s, s:o, s:o, s:o}", "level", level_names[level],
					"check", d->check, "subject", json_text(subject), "problem",
					json_text(text), "cure", json_text(cure)));
}

bool doctor_read_line(const struct doctor *d, const char *path, char *buf, size_t size)
{
	char full[PATH_SIZE];

	snprintf(full, sizeof(full), "%s%s", d->root, path);
	return !file_read_line(AT_FDCWD, full, buf, size) && buf[0];
}

bool doctor_exists(const struct doctor *d, const char *path)
{
	char full[PATH_SIZE];

	snprintf(full, sizeof(full), "%s%s", d->root, path);
	return !access(full, F_OK);
}

bool doctor_serves(const struct doctor *d, const char *path)
{
	json_t *o;
	size_t i;

	json_array_foreach(d->luns, i, o)
	{
		const char *served = json_string_value(json_object_get(o, "path"));
		const char *state = json_string_value(json_object_get(o, "state"));

		if (served && state && !strcmp(served, path) && !strcmp(state, "online"))
			return true;
	}
	return false;
}

/* --- what is looked at --- */

/* A LUN that runs and is not declared: made by a command, or by `ebb serve`. */
static void add_running(struct doctor *d, const json_t *o)
{
	const char *name = json_string_value(json_object_get(o, "name"));
	const char *path = json_string_value(json_object_get(o, "path"));
	struct config_lun *l;

	if (!name || !path || config_find_lun(d->cfg, name))
		return;
	l = config_add_lun(d->cfg);
	if (!l)
		return;
	l->name = strdup(name);
	l->path = strdup(path);
	l->read_only = json_is_true(json_object_get(o, "read_only"));
	l->block_size = (unsigned)json_integer_value(json_object_get(o, "block_size"));
}

/* What the appliance that answers, if one does, knows better than we. */
static json_t *ask_appliance(struct doctor *d, const struct cli_options *opt)
{
	json_t *status = NULL;

	if (cli_call(opt, "status", NULL, &status, NULL))
		return NULL;
	d->pid = (pid_t)json_integer_value(json_object_get(status, "pid"));
	if (cli_call(opt, "lun.list", NULL, &d->luns, NULL))
		d->luns = NULL;
	if (cli_call(opt, "memory", NULL, &d->memory, NULL))
		d->memory = NULL;
	return status;
}

static void load_config(struct doctor *d, const char *path)
{
	struct config *cfg = NULL;
	struct reason why;

	if (config_load_file(path, &cfg, &why)) {
		d->check = "config";
		doctor_report(d, DOCTOR_FAIL, path,
			      access(path, R_OK) && errno == EACCES
				      ? "run this as root, or as the user of the service"
				      : "see ebb.yaml(5); check with ebbd --check",
			      "%s", why.text);
		return;
	}
	config_free(d->cfg);
	d->cfg = cfg;
}

static void forget_appliance(struct doctor *d)
{
	d->pid = 0;
	json_decref(d->luns);
	json_decref(d->memory);
	d->luns = d->memory = NULL;
}

/* Where the appliance listens, when no declaration says so. */
static void add_listening(char ***list, unsigned *n, const json_t *addresses)
{
	json_t *o;
	size_t i;

	if (*n || !json_array_size(addresses))
		return;
	*list = calloc(json_array_size(addresses), sizeof(**list));
	json_array_foreach(addresses, i, o)
	{
		if (*list && json_is_string(o))
			(*list)[(*n)++] = strdup(json_string_value(o));
	}
}

static void add_all_running(struct doctor *d, const json_t *status)
{
	json_t *o;
	size_t i;

	json_array_foreach(d->luns, i, o)
	{
		add_running(d, o);
	}
	add_listening(&d->cfg->iscsi.portals, &d->cfg->iscsi.portals_count,
		      json_object_get(json_object_get(status, "iscsi"), "portals"));
	add_listening(&d->cfg->nbd.listen, &d->cfg->nbd.listen_count,
		      json_object_get(json_object_get(status, "nbd"), "listen"));
}

static void report_nothing(struct doctor *d)
{
	d->check = "config";
	doctor_report(d, DOCTOR_NOTE, "appliance", "start one, or name FILEs or --config FILE",
		      "none answers, and there is no " DEFAULT_CONFIG ": no LUN was looked at");
}

/* FILEs, or another declaration, are looked at alone; else what is declared and what runs. */
static int gather(struct doctor *d, const char *config, char *const *files,
		  const struct cli_options *opt, struct reason *why)
{
	json_t *status = ask_appliance(d, opt);
	const char *path = json_string_value(json_object_get(status, "config"));
	int ret = 0;

	if (files[0] || (config && (!path || strcmp(path, config))))
		forget_appliance(d);
	for (; *files && !ret; files++)
		ret = cli_add_file(d->cfg, *files, why);
	if (!d->cfg->luns_count && !ret) {
		if (config)
			path = config;
		else if (!status && (!access(DEFAULT_CONFIG, R_OK) || errno == EACCES))
			path = DEFAULT_CONFIG;
		if (path && path[0])
			load_config(d, path);
		if (d->pid)
			add_all_running(d, status);
		else if (!path)
			report_nothing(d);
	}
	json_decref(status);
	return ret;
}

/* --- the command --- */

static void print_help(void)
{
	printf("Usage: ebb doctor [--config FILE] [FILE[,OPTION...]...]\n\n"
	       "Look for what keeps an appliance from working, or from working well: in FILEs as\n"
	       "`ebb serve` would serve them, else in what is declared and what runs. Nothing is\n"
	       "changed.\n\nChecks:\n");
	for (size_t i = 0; i < N_CHECKS; i++)
		printf("  %-10s %s\n", checks[i].name, checks[i].summary);
	printf("\n  --config FILE   the declaration (default: that of the appliance that answers, "
	       "or\n"
	       "                  " DEFAULT_CONFIG ")\n"
	       "  --root DIR      look at DIR/proc and DIR/sys, collected from another system\n"
	       "  --json          print what was found as JSON\n"
	       "  --socket PATH   of the appliance\n"
	       "  --help          this text\n\n"
	       "Exit status: 0 no failure (there may be warnings), 1 a failure was found, 2 "
	       "usage.\n");
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static void print_findings(const struct doctor *d)
{
	json_t *o;
	size_t i;

	json_array_foreach(d->findings, i, o)
	{
		printf("%s: %s: %s%s%s\n", text_of(o, "level"), text_of(o, "check"),
		       text_of(o, "subject"), text_of(o, "subject")[0] ? ": " : "",
		       text_of(o, "problem"));
		if (text_of(o, "cure")[0])
			printf("    cure: %s\n", text_of(o, "cure"));
	}
	printf("%s%zu checks of %u LUNs: %u failures, %u warnings, %u notes\n", i ? "\n" : "",
	       N_CHECKS, d->cfg->luns_count, d->found[DOCTOR_FAIL], d->found[DOCTOR_WARN],
	       d->found[DOCTOR_NOTE]);
}

static void print_json(const struct doctor *d)
{
	json_t *o = json_pack("{s:O, s:i, s:i, s:i, s:i, s:i}", "findings", d->findings, "checks",
			      (int)N_CHECKS, "luns", (int)d->cfg->luns_count, "failures",
			      (int)d->found[DOCTOR_FAIL], "warnings", (int)d->found[DOCTOR_WARN],
			      "notes", (int)d->found[DOCTOR_NOTE]);

	cli_print_json(o);
}

/* Returns an exit status, or -1 to go on. */
static int parse(int argc, char **argv, struct cli_options *opt, const char **ret_config,
		 const char **ret_root)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
						{"root", required_argument, NULL, 'r'},
						{"json", no_argument, NULL, CLI_JSON},
						{"socket", required_argument, NULL, CLI_SOCKET},
						{"help", no_argument, NULL, CLI_HELP},
						{NULL, 0, NULL, 0}};
	int ch;

	optind = 0;
	while ((ch = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
		if (cli_take_option(opt, ch, optarg))
			continue;
		switch (ch) {
		case 'c':
			*ret_config = optarg;
			break;
		case 'r':
			*ret_root = optarg;
			break;
		case CLI_HELP:
			print_help();
			return EXIT_DONE;
		default:
			fputs("Try 'ebb doctor --help'.\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (*ret_config && optind < argc) {
		fputs("ebb doctor: either --config or FILEs\n", stderr);
		return EXIT_USAGE;
	}
	return -1;
}

static void free_doctor(struct doctor *d)
{
	config_free(d->cfg);
	json_decref(d->luns);
	json_decref(d->memory);
	json_decref(d->findings);
}

int cli_doctor(int argc, char **argv, const struct cli_options *global)
{
	struct doctor d = {.root = "", .cfg = config_new(), .findings = json_array()};
	struct cli_options opt = *global;
	struct reason why = {.text = ""};
	const char *config = NULL;
	int status = parse(argc, argv, &opt, &config, &d.root);

	if (status < 0 &&
	    (!d.cfg || !d.findings || gather(&d, config, argv + optind, &opt, &why))) {
		fprintf(stderr, "ebb doctor: %s\n", why.text);
		status = EXIT_USAGE;
	}
	if (status < 0) {
		for (size_t i = 0; i < N_CHECKS; i++) {
			d.check = checks[i].name;
			checks[i].run(&d);
		}
		(opt.json ? print_json : print_findings)(&d);
		status = d.found[DOCTOR_FAIL] ? EXIT_REFUSED : EXIT_DONE;
	}
	free_doctor(&d);
	return status;
}
