/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `ebb explain LUN`: where the time of its reads and writes goes, and what that points to. Two
 * answers of lun.show, some seconds apart, are subtracted; with --seconds 0 there is one, and all
 * since the LUN was opened counts. What is with the socket comes from the sessions on targets that
 * show the LUN.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "control/size.h"

#define SECONDS_DEFAULT 5.0
#define MOST		0.5  /* of the time: that is what to look at */
#define MUCH		0.25 /* worth a word */

/* What happened to reads, or writes. */
struct flow {
	double ops, bytes, seconds;
	double queue, cache, disk; /* of the seconds */
};

struct story {
	struct flow read, write;
	double took; /* seconds between the answers; 0: since it was opened */
	double receive, send;
	unsigned sessions;
	double hits, misses, unaligned, requests, conflicts, miscompares;
	const char *uncached; /* why; NULL: it is cached */
	json_t *advice;
};

/* Both answers, of which @before may be NULL. */
struct pair {
	json_t *before, *now;
};

/* How much the number at @path, three keys or fewer, grew. */
static double grown(const struct pair *p, const char *a, const char *b, const char *c)
{
	const json_t *sides[2] = {p->before, p->now};
	double v[2];

	for (int i = 0; i < 2; i++) {
		const json_t *o = json_object_get(sides[i], a);

		o = b ? json_object_get(o, b) : o;
		o = c ? json_object_get(o, c) : o;
		v[i] = json_number_value(o);
	}
	return v[1] > v[0] ? v[1] - v[0] : 0;
}

static void read_flow(const struct pair *p, const char *class, struct flow *f)
{
	struct pair stages = {json_object_get(p->before, "stages"),
			      json_object_get(p->now, "stages")};

	f->ops = grown(p, class, "ops", NULL);
	f->bytes = grown(p, class, "bytes", NULL);
	f->seconds = grown(p, class, "seconds", NULL);
	f->queue = grown(&stages, class, "queue_s", NULL);
	f->cache = grown(&stages, class, "cache_s", NULL);
	f->disk = grown(&stages, class, "disk_s", NULL);
}

/* Requests in all, and those that begin or end within a page. */
static void count_requests(const json_t *counters, double sign, struct story *s)
{
	json_t *o;
	size_t i;

	json_array_foreach(json_object_get(counters, "requests"), i, o)
	{
		double n = sign * json_number_value(json_object_get(o, "ops"));

		s->requests += n;
		if (json_integer_value(json_object_get(o, "alignment")) < 4096)
			s->unaligned += n;
	}
}

static void read_cache(const struct pair *shown, struct story *s)
{
	s->hits = grown(shown, "cache", "hits_memory", NULL) +
		  grown(shown, "cache", "hits_zero", NULL) +
		  grown(shown, "cache", "hits_tmem", NULL);
	s->misses = grown(shown, "cache", "misses", NULL);
	s->uncached = json_string_value(json_object_get(shown->now, "cache_reason"));
}

/* --- sessions --- */

static bool shows(const json_t *lun, const char *target)
{
	json_t *o;
	size_t i;

	json_array_foreach(json_object_get(lun, "targets"), i, o)
	{
		const char *iqn = json_string_value(json_object_get(o, "target"));

		if (iqn && target && !strcmp(iqn, target))
			return true;
	}
	return false;
}

static const json_t *find_session(const json_t *list, const char *id)
{
	json_t *o;
	size_t i;

	json_array_foreach(list, i, o)
	{
		const char *have = json_string_value(json_object_get(o, "id"));

		if (have && id && !strcmp(have, id))
			return o;
	}
	return NULL;
}

static void read_sessions(const json_t *lun, const struct pair *lists, struct story *s)
{
	json_t *o;
	size_t i;

	json_array_foreach(lists->now, i, o)
	{
		const char *export = json_string_value(json_object_get(o, "export"));
		const char *id = json_string_value(json_object_get(o, "id"));
		struct pair p = {(json_t *)find_session(lists->before, id), o};

		if (!json_object_get(o, "send_s") || !shows(lun, export))
			continue;
		s->sessions++;
		s->receive += grown(&p, "receive_s", NULL, NULL);
		s->send += grown(&p, "send_s", NULL, NULL);
	}
}

/* --- what it points to --- */

static void advise(struct story *s, bool when, const char *text)
{
	if (when)
		json_array_append_new(s->advice, json_string(text));
}

static void conclude(struct story *s)
{
	double lun = s->read.seconds + s->write.seconds, whole = lun + s->receive + s->send;
	double queue = s->read.queue + s->write.queue;
	double looked = s->hits + s->misses, hit = looked > 0 ? s->hits / looked : 0;

	advise(s, !(s->read.ops + s->write.ops), "nothing was read or written");
	advise(s, s->read.disk > MOST * whole && s->uncached,
	       "reads wait for the disk, and are not cached: see cache_reason of lun show");
	advise(s, s->read.disk > MOST * whole && !s->uncached && hit < MOST,
	       "reads wait for the disk: most of what is read is not in the cache. More memory "
	       "(memory.max), a larger cache_weight, or a faster disk");
	advise(s, s->read.disk > MOST * whole && !s->uncached && hit >= MOST,
	       "reads wait for the disk, for the few pages that the cache has not: a faster disk");
	advise(s, s->write.disk > MOST * whole,
	       "writes wait for the disk: a faster one, or one with a write cache that survives "
	       "power loss");
	advise(s, queue > MUCH * lun && s->conflicts > 0,
	       "operations wait for others on the same blocks: several hosts, or many threads, "
	       "write the same place");
	advise(s, queue > MUCH * lun && !s->conflicts,
	       "operations wait for memory or for the reads of others: see ebb memory");
	advise(s, s->receive > MUCH * whole,
	       "commands wait for data of the initiator: the network, or the initiator's bursts "
	       "(ImmediateData, FirstBurstLength)");
	advise(s, s->send > MUCH * whole,
	       "answers wait for the network, or for an initiator that takes them slowly");
	advise(s, s->requests > 0 && s->unaligned > 0.2 * s->requests,
	       "much of the I/O is not aligned to 4 KiB: partitions of the guest that do not begin "
	       "at a multiple of 8 sectors");
	advise(s, s->miscompares > 0.1 * (s->read.ops + s->write.ops),
	       "COMPARE AND WRITE fails often: hosts contend for locks");
	advise(s, !json_array_size(s->advice), "nothing stands out");
}

/* --- asking --- */

static int ask(const struct cli_options *opt, const char *name, json_t **ret_lun, json_t **ret_list,
	       struct reason *why)
{
	json_t *params = json_pack("{s:s}", "name", name);

	if (!params)
		return reason_set(why, EINVAL, "not valid UTF-8: %.80s", name);
	if (cli_call(opt, "lun.show", params, ret_lun, why))
		return -1;
	if (!json_object_get(*ret_lun, "counters"))
		return reason_set(why, ENODEV, "%s is offline", name);
	return cli_call(opt, "session.list", NULL, ret_list, why);
}

static void nap(double seconds)
{
	struct timespec ts = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts))
		;
}

static int watch(const struct cli_options *opt, const char *name, double seconds, struct pair *luns,
		 struct pair *lists, struct story *s, struct reason *why)
{
	uint64_t began = clock_now_ns();

	if (seconds > 0) {
		if (ask(opt, name, &luns->before, &lists->before, why))
			return -1;
		nap(seconds);
		s->took = (double)(clock_now_ns() - began) / 1e9;
	}
	return ask(opt, name, &luns->now, &lists->now, why);
}

static void tell_story(const struct pair *luns, const struct pair *lists, struct story *s)
{
	struct pair counters = {json_object_get(luns->before, "counters"),
				json_object_get(luns->now, "counters")};

	read_flow(&counters, "read", &s->read);
	read_flow(&counters, "write", &s->write);
	count_requests(counters.now, 1, s);
	count_requests(counters.before, -1, s);
	s->conflicts = grown(&counters, "conflicts", NULL, NULL);
	s->miscompares = grown(&counters, "miscompares", NULL, NULL);
	read_cache(luns, s);
	read_sessions(luns->now, lists, s);
	s->advice = json_array();
	conclude(s);
}

/* --- printing --- */

static void print_part(const char *name, const char *help, double read, double write,
		       const struct story *s)
{
	const double v[2] = {read, write}, ops[2] = {s->read.ops, s->write.ops};
	const double whole[2] = {s->read.seconds, s->write.seconds};

	printf("  %-8s", name);
	for (int i = 0; i < 2; i++)
		if (ops[i] > 0 && whole[i] > 0)
			printf("  %9.1f us %4.0f %%", v[i] / ops[i] * 1e6, v[i] / whole[i] * 100);
		else
			printf("  %19s", "-");
	printf("   %s\n", help);
}

static void print_flow(const char *name, const struct flow *f, double took)
{
	char bytes[40];

	size_format_about((uint64_t)(took > 0 ? f->bytes / took : f->bytes), bytes, sizeof(bytes));
	printf("%-6s  %.0f operations", name, f->ops);
	if (took > 0)
		printf(", %.0f a second, %s/s, %.2f under way\n", f->ops / took, bytes,
		       f->seconds / took);
	else
		printf(", %s\n", bytes);
}

static void print_people(const char *name, const struct story *s)
{
	double looked = s->hits + s->misses, ops = s->read.ops + s->write.ops;
	json_t *v;
	size_t i;

	if (s->took > 0)
		printf("LUN %s, for %.1f s\n", name, s->took);
	else
		printf("LUN %s, since it was opened\n", name);
	print_flow("reads", &s->read, s->took);
	print_flow("writes", &s->write, s->took);
	printf("\n  %-8s  %19s  %19s\n", "", "a read", "a write");
	print_part("queue", "waits: overlapping operations, memory, others' reads", s->read.queue,
		   s->write.queue, s);
	print_part("cache", "hits, filling, work on data", s->read.cache, s->write.cache, s);
	print_part("disk", "the backing file or device", s->read.disk, s->write.disk, s);
	if (s->sessions && ops > 0)
		printf("  %-8s  %9.1f us in, %.1f us out an operation, over %u sessions\n",
		       "socket", s->receive / ops * 1e6, s->send / ops * 1e6, s->sessions);
	if (looked > 0)
		printf("\ncache   %.1f %% of %.0f pages\n", s->hits / looked * 100, looked);
	else if (s->uncached)
		printf("\ncache   none: %s\n", s->uncached);
	if (s->requests > 0)
		printf("aligned %.1f %% of requests, to 4 KiB\n",
		       100 - s->unaligned / s->requests * 100);
	putchar('\n');
	json_array_foreach(s->advice, i, v)
	{
		printf("=> %s\n", json_string_value(v));
	}
}

static json_t *flow_to_json(const struct flow *f)
{
	return json_pack("{s:f, s:f, s:f, s:{s:f, s:f, s:f}}", "ops", f->ops, "bytes", f->bytes,
			 "seconds", f->seconds, "stages", "queue_s", f->queue, "cache_s", f->cache,
			 "disk_s", f->disk);
}

static void print_json(const char *name, const struct story *s)
{
	double looked = s->hits + s->misses;
	json_t *o = json_pack("{s:s, s:f, s:o, s:o, s:{s:i, s:f, s:f}, s:f, s:f, s:O}", "lun", name,
			      "seconds", s->took, "read", flow_to_json(&s->read), "write",
			      flow_to_json(&s->write), "socket", "sessions", (int)s->sessions,
			      "receive_s", s->receive, "send_s", s->send, "conflicts", s->conflicts,
			      "miscompares", s->miscompares, "advice", s->advice);

	if (looked > 0)
		json_object_set_new(o, "hit_ratio", json_real(s->hits / looked));
	if (s->requests > 0)
		json_object_set_new(o, "unaligned_ratio", json_real(s->unaligned / s->requests));
	cli_print_json(o);
}

/* --- the command --- */

static void print_help(void)
{
	printf("Usage: ebb explain LUN [OPTIONS]\n\n"
	       "Where the time of a LUN's reads and writes goes, and what that points to.\n\n"
	       "  --seconds N    watch it for so long; default 5; 0: all since it was opened\n"
	       "  --json         print the answer as JSON\n"
	       "  --socket PATH  of the appliance\n"
	       "  --help         this text\n");
}

static int misuse(const char *what)
{
	fprintf(stderr, "ebb explain: %s\nTry 'ebb explain --help'.\n", what);
	return EXIT_USAGE;
}

/* Returns an exit status, or -1 to go on. */
static int parse(int argc, char **argv, struct cli_options *opt, double *ret_seconds)
{
	static const struct option options[] = {{"seconds", required_argument, NULL, 'n'},
						{"json", no_argument, NULL, CLI_JSON},
						{"socket", required_argument, NULL, CLI_SOCKET},
						{"help", no_argument, NULL, CLI_HELP},
						{NULL, 0, NULL, 0}};
	char *end;
	int ch;

	optind = 0;
	while ((ch = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
		if (cli_take_option(opt, ch, optarg))
			continue;
		switch (ch) {
		case 'n':
			*ret_seconds = strtod(optarg, &end);
			if (*end || end == optarg || !(*ret_seconds >= 0 && *ret_seconds <= 86400))
				return misuse("--seconds is 0 to 86400");
			break;
		case CLI_HELP:
			print_help();
			return EXIT_DONE;
		default:
			return misuse("see its options");
		}
	}
	return argc - optind == 1 ? -1 : misuse("name one LUN");
}

int cli_explain(int argc, char **argv, const struct cli_options *global)
{
	struct pair luns = {NULL, NULL}, lists = {NULL, NULL};
	struct cli_options opt = *global;
	struct reason why = {.text = ""};
	double seconds = SECONDS_DEFAULT;
	struct story s = {0};
	int status = parse(argc, argv, &opt, &seconds);

	if (status >= 0)
		return status;
	if (watch(&opt, argv[optind], seconds, &luns, &lists, &s, &why)) {
		fprintf(stderr, "ebb explain: %s\n", why.text);
		status = EXIT_REFUSED;
	} else {
		tell_story(&luns, &lists, &s);
		(opt.json ? print_json : print_people)(argv[optind], &s);
		status = EXIT_DONE;
	}
	json_decref(luns.before);
	json_decref(luns.now);
	json_decref(lists.before);
	json_decref(lists.now);
	json_decref(s.advice);
	return status;
}
