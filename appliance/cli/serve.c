/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `ebb serve`: the whole appliance in the foreground, declared by the command line.
 *
 * Identities and reservations are kept by LUN name in the state directory. Without --state that is
 * one directory for each first FILE, below the user's state directory: the same command line finds
 * the same identities again, and two of them do not mix.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "cli/cli.h"
#include "control/run.h"
#include "control/size.h"
#include "exporter/exporter.h"

#define DEFAULT_ISCSI	"127.0.0.1:3260"
#define DEFAULT_NBD	"127.0.0.1:10809"
#define DEFAULT_METRICS "127.0.0.1:9810"

const char cli_serve_help[] =
	"Usage: ebb serve FILE[,OPTION...]... [OPTIONS]\n"
	"\n"
	"Serves each FILE (or block device) as a LUN over iSCSI and NBD, in the foreground, with "
	"no\n"
	"configuration file. Prints the URLs of all exports, then \"ready\".\n"
	"\n"
	"  FILE[,OPTION...]         a comma in a file's name is written twice\n"
	"    name=NAME              of the LUN; default: the file's name without its extension\n"
	"    size=SIZE              make a sparse file of SIZE when it is not there, or grow it\n"
	"    ro                     read-only\n"
	"    removable              a medium that can be ejected\n"
	"    io=auto|direct|buffered  how the file is read and written; default: auto\n"
	"    cache=auto|read|none   whether what is read is cached; default: auto, that is, where\n"
	"                           direct I/O is done and the page cache is not filled\n"
	"    bs=512|4096            logical block size; default: 512\n"
	"\n"
	"  --iscsi ADDR:PORT        listen for iSCSI; may be repeated; \"none\": do not\n"
	"                           (default 127.0.0.1:3260)\n"
	"  --nbd ADDR:PORT|unix:PATH  listen for NBD; may be repeated; \"none\": do not\n"
	"                           (default 127.0.0.1:10809)\n"
	"  --metrics ADDR:PORT|unix:PATH  serve metrics for Prometheus by HTTP; may be repeated;\n"
	"                           \"none\": do not (default 127.0.0.1:9810, if it is free)\n"
	"  --tcmu                   offer the LUNs to the kernel's LIO as well, as user "
	"backstores\n"
	"                           ebb/NAME; needs root\n"
	"  --memory MAX             memory for all caches and buffers, at most\n"
	"  --state DIR              where identities and reservations are kept\n"
	"                           (default: one for each first FILE, below ~/.local/state/ebb)\n"
	"  --threads N              reactor threads (default: one a core)\n"
	"  --socket PATH            of the control socket\n"
	"                           (default: $XDG_RUNTIME_DIR/ebb/control.sock)\n"
	"  --log-level LEVEL        error, warn, info or debug (default: warn)\n"
	"\n"
	"Sizes are powers of 1024: 512, 64K, 10G, 1.5T. SIGTERM or Ctrl-C: what is in flight is\n"
	"finished, everything is flushed, and the exit status is 0.\n";

struct serve {
	struct config *cfg;
	bool iscsi_given, nbd_given, metrics_given;
	bool passing; /* our sockets have names that no other process will */
	struct exporter *exporter;
	const char *state, *socket;
	char socket_buf[200], state_buf[4096], port_buf[220];
};

static int add_string(char ***list, unsigned *n, const char *s)
{
	char **bigger = realloc(*list, (*n + 1) * sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	*list = bigger;
	bigger[*n] = strdup(s);
	if (!bigger[*n])
		return -ENOMEM;
	++*n;
	return 0;
}

/* Cuts the next part off *@rest at a comma; two commas stand for one. NULL at the end. */
static char *next_part(char **rest)
{
	char *start = *rest, *from = start, *to = start;

	if (!start)
		return NULL;
	for (; *from; from++) {
		if (*from == ',' && from[1] != ',')
			break;
		if (*from == ',')
			from++;
		*to++ = *from;
	}
	*rest = *from ? from + 1 : NULL;
	*to = '\0';
	return start;
}

/* The LUN's name when none is given: the file's, with what a name cannot have as "-". */
static char *name_of_file(const char *path)
{
	const char *base = strrchr(path, '/'), *dot;
	char *name;

	base = base ? base + 1 : path;
	dot = strrchr(base, '.');
	name = strndup(base, dot && dot != base ? (size_t)(dot - base) : strlen(base));
	for (char *p = name; p && *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			*p = '-';
	return name;
}

static int set_option(struct config_lun *l, const char *opt, struct reason *why)
{
	static const char *const modes[] = {"auto", "direct", "buffered"};
	const char *value = strchr(opt, '=');
	size_t len = value ? (size_t)(value++ - opt) : strlen(opt);

	if (!strcmp(opt, "ro") || !strcmp(opt, "removable")) {
		*(opt[1] == 'o' ? &l->read_only : &l->removable) = true;
		return 0;
	}
	if (!value)
		return reason_set(why, EINVAL, "unknown option '%s'", opt);
	if (!strncmp(opt, "name", len) && len == 4) {
		free(l->name);
		l->name = strdup(value);
		return l->name ? 0 : -ENOMEM;
	}
	if (!strncmp(opt, "size", len) && len == 4) {
		free(l->size_text);
		l->size_text = strdup(value);
		return l->size_text ? 0 : -ENOMEM;
	}
	if (!strncmp(opt, "bs", len) && len == 2) {
		if (strcmp(value, "512") && strcmp(value, "4096"))
			return reason_set(why, EINVAL, "bs=%s: must be 512 or 4096", value);
		l->block_size = value[0] == '5' ? 512 : 4096;
		return 0;
	}
	if (!strncmp(opt, "cache", len) && len == 5) {
		int ret = config_read_cache(value, &l->cache, why);

		return ret ? reason_prefix(why, ret, "cache") : 0;
	}
	if (!strncmp(opt, "io", len) && len == 2)
		for (unsigned i = 0; i < 3; i++)
			if (!strcmp(value, modes[i])) {
				l->mode = (enum block_mode)i;
				return 0;
			}
	return reason_set(why, EINVAL, "unknown option '%s'", opt);
}

int cli_add_file(struct config *cfg, const char *arg, struct reason *why)
{
	_cleanup_free_ char *copy = strdup(arg);
	struct config_lun *l = config_add_lun(cfg);
	char *rest = copy, *part;
	const char *key;
	int ret;

	if (!copy || !l)
		return reason_set(why, ENOMEM, "out of memory");
	part = next_part(&rest);
	if (!*part)
		return reason_set(why, EINVAL, "'%s': no file", arg);
	l->path = cli_absolute(part);
	l->name = name_of_file(part);
	if (!l->path || !l->name)
		return reason_set(why, ENOMEM, "out of memory");
	while ((part = next_part(&rest))) {
		ret = set_option(l, part, why);
		if (ret)
			return reason_prefix(why, ret, "%s", arg);
	}
	ret = config_check_lun(l, &key, why);
	return ret ? reason_prefix(why, ret, "%s: %s", arg, key) : 0;
}

static int add_address(char ***list, unsigned *n, bool *given, const char *arg, bool unix_too,
		       struct reason *why)
{
	int ret;

	*given = true;
	if (!strcmp(arg, "none"))
		return 0;
	ret = config_check_address(arg, unix_too, why);
	if (ret)
		return ret;
	return add_string(list, n, arg) ? reason_set(why, ENOMEM, "out of memory") : 0;
}

static int set_log_level(struct config *cfg, const char *word, struct reason *why)
{
	static const struct {
		const char *word;
		enum log_level level;
	} levels[] = {{"error", LOG_LEVEL_ERROR},
		      {"warn", LOG_LEVEL_WARN},
		      {"info", LOG_LEVEL_INFO},
		      {"debug", LOG_LEVEL_DEBUG}};

	for (unsigned i = 0; i < 4; i++)
		if (!strcmp(word, levels[i].word)) {
			cfg->log_level = levels[i].level;
			return 0;
		}
	return reason_set(why, EINVAL, "--log-level %s: error, warn, info or debug", word);
}

enum {
	OPT_ISCSI = 1,
	OPT_NBD,
	OPT_METRICS,
	OPT_TCMU,
	OPT_MEMORY,
	OPT_STATE,
	OPT_THREADS,
	OPT_SOCKET,
	OPT_LOG
};

static int take_option(struct serve *s, int opt, const char *arg, struct reason *why)
{
	struct config *c = s->cfg;
	char *end;
	long n;

	switch (opt) {
	case OPT_ISCSI:
		return add_address(&c->iscsi.portals, &c->iscsi.portals_count, &s->iscsi_given, arg,
				   false, why);
	case OPT_NBD:
		return add_address(&c->nbd.listen, &c->nbd.listen_count, &s->nbd_given, arg, true,
				   why);
	case OPT_METRICS:
		return add_address(&c->metrics, &c->metrics_count, &s->metrics_given, arg, true,
				   why);
	case OPT_TCMU:
		c->tcmu = true;
		return 0;
	case OPT_MEMORY:
		free(c->memory.max_text);
		c->memory.max_text = strdup(arg);
		return c->memory.max_text ? 0 : -ENOMEM;
	case OPT_STATE:
		s->state = arg;
		return 0;
	case OPT_SOCKET:
		s->socket = arg;
		return 0;
	case OPT_THREADS:
		n = strtol(arg, &end, 10);
		if (*end || end == arg || n < 1 || n > 256)
			return reason_set(why, EINVAL, "--threads %s: must be 1 to 256", arg);
		c->threads = (unsigned)n;
		return 0;
	default:
		return set_log_level(c, arg, why);
	}
}

/* Parses the command line. 0, or -errno with a reason; -EAGAIN: getopt has said it already. */
static int parse(struct serve *s, int argc, char **argv, bool *ret_help, struct reason *why)
{
	static const struct option options[] = {{"iscsi", required_argument, NULL, OPT_ISCSI},
						{"nbd", required_argument, NULL, OPT_NBD},
						{"metrics", required_argument, NULL, OPT_METRICS},
						{"tcmu", no_argument, NULL, OPT_TCMU},
						{"memory", required_argument, NULL, OPT_MEMORY},
						{"state", required_argument, NULL, OPT_STATE},
						{"threads", required_argument, NULL, OPT_THREADS},
						{"socket", required_argument, NULL, OPT_SOCKET},
						{"log-level", required_argument, NULL, OPT_LOG},
						{"help", no_argument, NULL, 'h'},
						{NULL, 0, NULL, 0}};
	int opt, ret;

	optind = 0;
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
		if (opt == '?')
			return -EAGAIN;
		if (opt == 'h') {
			*ret_help = true;
			return 0;
		}
		ret = take_option(s, opt, optarg, why);
		if (ret)
			return ret;
	}
	if (optind == argc)
		return reason_set(why, EINVAL, "no FILE given");
	for (; optind < argc; optind++) {
		ret = cli_add_file(s->cfg, argv[optind], why);
		if (ret)
			return ret;
	}
	return 0;
}

/* Tells directories of state apart by the path of a file. */
static uint64_t hash_path(const char *path)
{
	return hash_add(HASH_START, path, strlen(path));
}

static int default_state(struct serve *s, struct reason *why)
{
	char base[3000];
	int ret = cli_state_dir(base, sizeof(base), why);

	if (ret)
		return ret;
	snprintf(s->state_buf, sizeof(s->state_buf), "%s/serve/%s-%016llx", base,
		 s->cfg->luns[0].name, (unsigned long long)hash_path(s->cfg->luns[0].path));
	s->state = s->state_buf;
	return 0;
}

/*
 * The user's one control socket when no other appliance has it, else one of this process. The
 * port's socket stands beside it, so that a plugin finds a restarted appliance again.
 */
static int default_socket(struct serve *s, struct reason *why)
{
	struct cli_options probe = {.socket = s->socket_buf};
	char dir[160];
	json_t *o;
	int ret = cli_runtime_dir(dir, sizeof(dir), true, why);

	if (ret)
		return ret;
	snprintf(s->socket_buf, sizeof(s->socket_buf), "%s/control.sock", dir);
	if (!cli_call(&probe, "status", NULL, &o, NULL)) {
		json_decref(o);
		snprintf(s->socket_buf, sizeof(s->socket_buf), "%s/control-%d.sock", dir,
			 (int)getpid());
		s->passing = true;
		fprintf(stderr, "ebb: another appliance runs; control socket: %s\n", s->socket_buf);
	}
	s->socket = s->socket_buf;
	return 0;
}

static int set_defaults(struct serve *s, struct reason *why)
{
	struct config *c = s->cfg;
	size_t len;
	int ret = 0;

	if (!s->iscsi_given)
		ret = add_string(&c->iscsi.portals, &c->iscsi.portals_count, DEFAULT_ISCSI);
	if (!ret && !s->nbd_given)
		ret = add_string(&c->nbd.listen, &c->nbd.listen_count, DEFAULT_NBD);
	if (!ret && !s->metrics_given)
		ret = add_string(&c->metrics, &c->metrics_count, DEFAULT_METRICS);
	if (ret)
		return reason_set(why, -ret, "out of memory");
	if (!s->state)
		ret = default_state(s, why);
	if (!ret && !s->socket)
		ret = default_socket(s, why);
	if (ret)
		return ret;
	len = strlen(s->socket);
	if (len > 5 && !strcmp(s->socket + len - 5, ".sock"))
		len -= 5;
	if (len > sizeof(s->port_buf) - 20)
		return reason_set(why, ENAMETOOLONG, "%s: too long", s->socket);
	snprintf(s->port_buf, sizeof(s->port_buf), "%.*s-port.sock", (int)len, s->socket);
	return config_check(c, NULL, NULL, why);
}

/* Another instance may have the address of metrics that nobody asked for: blocks are served. */
static int start_metrics(struct serve *s, struct appliance *app, struct reason *why)
{
	int ret = exporter_start(app, &s->exporter, why);

	if (ret != -EADDRINUSE || s->metrics_given)
		return ret;
	fprintf(stderr, "ebb: %s; none are served (see --metrics)\n", why->text);
	return 0;
}

/* One line per export with the URL to paste, one per address of metrics, then "ready". */
static int started(struct appliance *app, void *ctx, struct reason *why)
{
	struct serve *s = ctx;
	json_t *list, *o;
	const char *url;
	int ret = start_metrics(s, app, why);
	size_t i;

	if (ret)
		return ret;
	list = appliance_report_exports(app);
	json_array_foreach(list, i, o)
	{
		printf("%s\n", json_string_value(json_object_get(o, "url")));
	}
	json_decref(list);
	for (i = 0; (url = exporter_url(s->exporter, (unsigned)i)); i++)
		printf("metrics %s\n", url);
	printf("ready\n");
	fflush(stdout);
	return 0;
}

/* What the port keeps for the next one of its name. */
static void forget_port(const struct serve *s)
{
	char path[sizeof(s->port_buf) + 8];

	snprintf(path, sizeof(path), "%s.grace", s->port_buf);
	unlink(path);
}

static void stopping(struct appliance *app, void *ctx)
{
	exporter_stop(((struct serve *)ctx)->exporter);
}

int cli_serve(int argc, char **argv, const struct cli_options *global)
{
	struct serve s = {.socket = global->socket, .cfg = config_new()};
	struct reason why = {.text = ""};
	struct run_options run = {.started = started, .stopping = stopping, .ctx = &s};
	bool help = false;
	int ret;

	if (!s.cfg)
		return EXIT_REFUSED;
	s.cfg->log_level = LOG_LEVEL_WARN;
	ret = parse(&s, argc, argv, &help, &why);
	if (help || ret) {
		config_free(s.cfg);
		if (help)
			fputs(cli_serve_help, stdout);
		else if (ret != -EAGAIN)
			fprintf(stderr, "ebb serve: %s\n", why.text);
		if (ret)
			fputs("Try 'ebb serve --help'.\n", stderr);
		return help ? EXIT_DONE : EXIT_USAGE;
	}
	umask(0077);
	ret = set_defaults(&s, &why);
	if (ret) {
		config_free(s.cfg);
	} else {
		run.appliance =
			(struct appliance_options){.state_dir = s.state,
						   .port_socket = s.port_buf,
						   .pressure = getenv("MEMORY_PRESSURE_WATCH")};
		run.control_socket = s.socket;
		run_prepare_signals();
		ret = run_appliance(s.cfg, &run, &why);
		if (s.passing)
			forget_port(&s);
	}
	if (!ret)
		return EXIT_DONE;
	fprintf(stderr, "ebb serve: %s\n", why.text);
	return EXIT_REFUSED;
}
