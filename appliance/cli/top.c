/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `ebb top`: what LUNs do, live. A frame is made whole in memory and written at once; on a terminal
 * it takes the other screen, which is given back however the program ends, else frames follow one
 * another and the first that has rates is the last, unless --count says so.
 *
 * One loop waits for a key, the next frame or a signal, by ppoll: signals are let in only there.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/rates.h"
#include "control/size.h"

/* The other screen, without cursor; lines too long for it are cut off, not wrapped. */
#define SCREEN_ON  "\033[?1049h\033[?25l\033[?7l"
#define SCREEN_OFF "\033[?7h\033[?25h\033[?1049l"
#define HEAD_LINES 4 /* of the screen, above rows */

struct top {
	struct cli_options opt;
	double interval;
	long count; /* frames with rates; 0: until told */
	enum rate_key key;
	bool reverse, paused, terminal;
	size_t first; /* row shown at the top */
	struct termios saved;
	json_t *before, *now;
	struct rates rates;
};

static volatile sig_atomic_t ended;

static void on_signal(int sig)
{
	if (sig != SIGWINCH)
		ended = 1;
}

/* --- cells --- */

static void format_rate(double v, char *buf, size_t size)
{
	char text[32];

	size_format_about((uint64_t)v, text, sizeof(text));
	snprintf(buf, size, "%s", v >= 1 ? text : "0");
}

static void format_count(double v, char *buf, size_t size)
{
	if (v >= 1e6)
		snprintf(buf, size, "%.1fM", v / 1e6);
	else if (v >= 1e4)
		snprintf(buf, size, "%.1fk", v / 1e3);
	else
		snprintf(buf, size, "%.0f", v);
}

static void format_time(double s, char *buf, size_t size)
{
	if (s < 0)
		snprintf(buf, size, "-");
	else if (s < 1e-3)
		snprintf(buf, size, "%.0fus", s * 1e6);
	else if (s < 1)
		snprintf(buf, size, "%.1fms", s * 1e3);
	else
		snprintf(buf, size, "%.1fs", s);
}

static void format_part(double v, char *buf, size_t size)
{
	if (v < 0)
		snprintf(buf, size, "-");
	else
		snprintf(buf, size, "%.0f%%", v * 100);
}

static void put_row(FILE *f, const struct rate_row *r, const char *name, int width)
{
	char v[8][32];

	format_count(r->ops, v[0], 32);
	format_rate(r->read, v[1], 32);
	format_rate(r->written, v[2], 32);
	format_time(r->latency, v[3], 32);
	snprintf(v[4], 32, "%.2f", r->depth);
	format_part(r->hits, v[5], 32);
	size_format_about(r->cached, v[6], 32);
	snprintf(v[7], 32, "%llu", (unsigned long long)r->errors);
	fprintf(f, "%-*.*s", width, width, name);
	for (unsigned i = 0; i < 8; i++)
		fprintf(f, " %9s", v[i]);
}

/* --- a frame --- */

static void end_line(const struct top *t, FILE *f)
{
	fputs(t->terminal ? "\033[K\n" : "\n", f);
}

static void put_head(const struct top *t, FILE *f)
{
	json_t *m = json_object_get(t->now, "memory");
	static const char *const keys[] = {"held", "target", "ceiling", "reclaimable", "returned"};
	char v[5][32], read[32], written[32], ops[32], clock[16];
	time_t now = time(NULL);

	for (unsigned i = 0; i < 5; i++)
		size_format_about((uint64_t)json_integer_value(json_object_get(m, keys[i])), v[i],
				  32);
	format_count(t->rates.all.ops, ops, sizeof(ops));
	format_rate(t->rates.all.read, read, sizeof(read));
	format_rate(t->rates.all.written, written, sizeof(written));
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime(&now));
	fprintf(f, "ebb %s  %zu LUNs  %s ops/s  read %s/s  written %s/s%s", clock, t->rates.n, ops,
		read, written, t->paused ? "  (paused)" : "");
	end_line(t, f);
	fprintf(f, "memory  held %s of %s (ceiling %s)  reclaimable %s  given back %s", v[0], v[1],
		v[2], v[3], v[4]);
	end_line(t, f);
	end_line(t, f);
}

static void put_titles(const struct top *t, FILE *f, int width)
{
	if (t->terminal)
		fputs("\033[7m", f);
	fprintf(f, "%-*s", width, rate_titles[RATE_NAME]);
	for (unsigned i = RATE_OPS; i < RATE_KEYS_COUNT; i++)
		fprintf(f, " %9s", rate_titles[i]);
	if (t->terminal)
		fputs("\033[0m", f);
	end_line(t, f);
}

static int name_width(const struct rates *r, int most)
{
	int width = 12;

	for (size_t i = 0; i < r->n; i++)
		if ((int)strlen(r->rows[i].name) > width)
			width = (int)strlen(r->rows[i].name);
	return width < most ? width : most;
}

static void put_frame(struct top *t, FILE *f)
{
	struct winsize size = {.ws_row = 24, .ws_col = 100};
	size_t room = t->rates.n, most;
	int width;

	if (t->terminal) {
		ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
		room = size.ws_row > HEAD_LINES + 1 ? size.ws_row - HEAD_LINES - 1u : 1;
		fputs("\033[H", f);
	}
	most = t->rates.n > room ? t->rates.n - room : 0;
	if (t->first > most)
		t->first = most;
	width = name_width(&t->rates, size.ws_col > 100 ? size.ws_col - 80 : 20);
	put_head(t, f);
	put_titles(t, f, width);
	for (size_t i = t->first; i < t->rates.n && i < t->first + room; i++) {
		put_row(f, &t->rates.rows[i], t->rates.rows[i].name, width);
		end_line(t, f);
	}
	if (t->terminal)
		fprintf(f,
			"\033[J\033[%d;1Hq quit  s sort (%s)  r reverse  p pause  arrows, PgUp, "
			"PgDn\033[K",
			size.ws_row, rate_words[t->key]);
	else
		fputc('\n', f);
}

static void put_json_row(json_t *list, const struct rate_row *r)
{
	json_t *o = json_pack("{s:s*, s:f, s:f, s:f, s:f, s:I, s:I}", "name", r->name, "ops_s",
			      r->ops, "read_bytes_s", r->read, "written_bytes_s", r->written,
			      "depth", r->depth, "cached", (json_int_t)r->cached, "errors",
			      (json_int_t)r->errors);

	if (r->latency >= 0)
		json_object_set_new(o, "latency_s", json_real(r->latency));
	if (r->hits >= 0)
		json_object_set_new(o, "hit_ratio", json_real(r->hits));
	json_array_append_new(list, o);
}

/* One object a line. */
static void put_json(const struct top *t, FILE *f)
{
	json_t *luns = json_array(), *o;

	for (size_t i = 0; i < t->rates.n; i++)
		put_json_row(luns, &t->rates.rows[i]);
	o = json_pack("{s:f, s:o, s:O}", "seconds", t->rates.seconds, "luns", luns, "memory",
		      json_object_get(t->now, "memory"));
	json_dumpf(o, f, JSON_COMPACT);
	fputc('\n', f);
	json_decref(o);
}

static void show(struct top *t)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		abort();
	rates_sort(&t->rates, t->key, t->reverse);
	if (t->opt.json)
		put_json(t, f);
	else
		put_frame(t, f);
	fclose(f);
	fwrite(text, 1, len, stdout);
	fflush(stdout);
	free(text);
}

/* --- the loop --- */

static int look(struct top *t, struct reason *why)
{
	json_t *answer;

	if (cli_call(&t->opt, "lun.counters", NULL, &answer, why))
		return -1;
	json_decref(t->before);
	t->before = t->now;
	t->now = answer;
	rates_free(&t->rates);
	rates_make(t->before, t->now, &t->rates);
	return 0;
}

static void scroll(struct top *t, long by)
{
	if (by < 0 && t->first < (size_t)-by)
		t->first = 0;
	else
		t->first += (size_t)by;
}

static void take_keys(struct top *t, const char *keys, ssize_t n)
{
	for (ssize_t i = 0; i < n; i++) {
		if (!strncmp(keys + i, "\033[", 2) && i + 2 < n) {
			i += 2;
			scroll(t, keys[i] == 'A'   ? -1
				  : keys[i] == 'B' ? 1
				  : keys[i] == '5' ? -20
				  : keys[i] == '6' ? 20
						   : 0);
			continue;
		}
		switch (keys[i]) {
		case 'q':
		case 3: /* ^C */
			ended = 1;
			break;
		case 's':
			t->key = (t->key + 1) % RATE_KEYS_COUNT;
			t->first = 0;
			break;
		case 'r':
			t->reverse = !t->reverse;
			break;
		case 'p':
			t->paused = !t->paused;
			break;
		case 'j':
			scroll(t, 1);
			break;
		case 'k':
			scroll(t, -1);
			break;
		}
	}
}

/* Until @until_ns: takes keys, each of which shows the frame anew. */
static void pass_time(struct top *t, uint64_t until_ns, const sigset_t *mask)
{
	struct pollfd p = {.fd = t->terminal ? STDIN_FILENO : -1, .events = POLLIN};
	uint64_t now;
	char keys[33];

	while (!ended && (t->paused || (now = clock_now_ns()) < until_ns)) {
		uint64_t left = t->paused ? NSEC_PER_SEC : until_ns - now;
		struct timespec ts = {(time_t)(left / NSEC_PER_SEC), (long)(left % NSEC_PER_SEC)};
		int ret = ppoll(&p, 1, &ts, mask);
		ssize_t n;

		if (ret == 0)
			continue;
		if (ret > 0) {
			n = read(STDIN_FILENO, keys, sizeof(keys) - 1);
			if (n <= 0) { /* the terminal is gone */
				ended = 1;
				return;
			}
			keys[n] = '\0';
			take_keys(t, keys, n);
		}
		if (!ended) /* a key, or another size of the window */
			show(t);
	}
}

static int run(struct top *t, const sigset_t *mask, struct reason *why)
{
	long frames = 0;

	while (!ended) {
		if (look(t, why))
			return -1;
		if (t->before || t->terminal)
			show(t);
		if (t->before && t->count && ++frames == t->count)
			break;
		pass_time(t, clock_now_ns() + (uint64_t)(t->interval * 1e9), mask);
	}
	return 0;
}

static void prepare_signals(sigset_t *ret_mask)
{
	struct sigaction sa = {.sa_handler = on_signal};
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH};
	sigset_t block;

	sigemptyset(&block);
	for (unsigned i = 0; i < 4; i++) {
		sigaction(signals[i], &sa, NULL);
		sigaddset(&block, signals[i]);
	}
	sigprocmask(SIG_BLOCK, &block, ret_mask);
}

static void enter_screen(struct top *t)
{
	struct termios raw;

	tcgetattr(STDIN_FILENO, &t->saved);
	raw = t->saved;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	fputs(SCREEN_ON, stdout);
}

static void leave_screen(struct top *t)
{
	fputs(SCREEN_OFF, stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &t->saved);
}

/* --- the command --- */

static void print_help(void)
{
	printf("Usage: ebb top [OPTIONS]\n\n"
	       "What LUNs do, live. On a terminal keys scroll and sort; else one frame is "
	       "printed.\n\n"
	       "  --interval SECONDS  between frames, from 0.1 on; default 1\n"
	       "  --count N           end after N frames\n"
	       "  --sort KEY          ");
	for (unsigned i = 0; i < RATE_KEYS_COUNT; i++)
		printf("%s%s", rate_words[i], i + 1 < RATE_KEYS_COUNT ? ", " : "; default ops\n");
	printf("  --json              print frames as JSON, one a line\n"
	       "  --socket PATH       of the appliance\n"
	       "  --help              this text\n");
}

static int misuse(const char *what, const char *word)
{
	fprintf(stderr, "ebb top: %s: %s\nTry 'ebb top --help'.\n", what, word);
	return EXIT_USAGE;
}

static int take_option(struct top *t, int ch, const char *arg)
{
	char *end = NULL;

	if (cli_take_option(&t->opt, ch, arg))
		return -1;
	switch (ch) {
	case 'i':
		t->interval = strtod(arg, &end);
		return *end || !(t->interval >= 0.1 && t->interval <= 3600)
			       ? misuse("not 0.1 to 3600 seconds", arg)
			       : -1;
	case 'c':
		t->count = strtol(arg, &end, 10);
		return *end || t->count < 1 ? misuse("not a number of frames", arg) : -1;
	case 'o':
		for (unsigned i = 0; i < RATE_KEYS_COUNT; i++)
			if (!strcmp(arg, rate_words[i])) {
				t->key = (enum rate_key)i;
				return -1;
			}
		return misuse("no key to sort by", arg);
	case CLI_HELP:
		print_help();
		return EXIT_DONE;
	default:
		fputs("Try 'ebb top --help'.\n", stderr);
		return EXIT_USAGE;
	}
}

static int parse(struct top *t, int argc, char **argv)
{
	static const struct option options[] = {{"interval", required_argument, NULL, 'i'},
						{"count", required_argument, NULL, 'c'},
						{"sort", required_argument, NULL, 'o'},
						{"json", no_argument, NULL, CLI_JSON},
						{"socket", required_argument, NULL, CLI_SOCKET},
						{"help", no_argument, NULL, CLI_HELP},
						{NULL, 0, NULL, 0}};
	int ch, status = -1;

	optind = 0;
	while (status < 0 && (ch = getopt_long(argc, argv, "h", options, NULL)) >= 0)
		status = take_option(t, ch, optarg);
	if (status < 0 && optind < argc)
		return misuse("too many arguments", argv[optind]);
	return status;
}

int cli_top(int argc, char **argv, const struct cli_options *global)
{
	struct top t = {.opt = *global, .interval = 1, .key = RATE_OPS};
	struct reason why = {.text = ""};
	int status = parse(&t, argc, argv);
	sigset_t mask;

	if (status >= 0)
		return status;
	t.terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !t.opt.json;
	if (!t.count && !t.terminal)
		t.count = 1;
	prepare_signals(&mask);
	if (t.terminal)
		enter_screen(&t);
	status = run(&t, &mask, &why);
	if (t.terminal)
		leave_screen(&t);
	if (status)
		fprintf(stderr, "ebb top: %s\n", why.text);
	json_decref(t.before);
	json_decref(t.now);
	rates_free(&t.rates);
	return status ? EXIT_REFUSED : EXIT_DONE;
}
