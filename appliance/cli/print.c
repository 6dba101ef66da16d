/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/print.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "control/size.h"
#include "lun/lun.h"

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static long long number(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static const char *format_bytes(const json_t *o, const char *key, char *buf, size_t size)
{
	json_t *v = json_object_get(o, key);
	uint64_t n = (uint64_t)json_integer_value(v);

	if (!v)
		return NULL;
	/* Sizes of LUNs are exact; what is measured is rounded. */
	(strcmp(key, "size") ? size_format_about : size_format)(n, buf, size);
	return buf;
}

static void format_age(const json_t *o, const char *key, char *buf, size_t size)
{
	double s = json_real_value(json_object_get(o, key));

	if (s < 120)
		snprintf(buf, size, "%.0fs", s);
	else if (s < 7200)
		snprintf(buf, size, "%.0fm", s / 60);
	else if (s < 172800)
		snprintf(buf, size, "%.0fh", s / 3600);
	else
		snprintf(buf, size, "%.0fd", s / 86400);
}

static void print_list(const char *name, const json_t *list)
{
	json_t *v;
	size_t i;

	printf("%-12s", name);
	json_array_foreach(list, i, v)
	{
		printf("%s%s", i ? " " : "", json_string_value(v));
	}
	printf("%s\n", json_array_size(list) ? "" : "-");
}

/* Backstores of LIO: how many, and what is wrong. Nothing when LUNs are not offered to it. */
static void print_tcmu(const json_t *tcmu)
{
	json_t *devices = json_object_get(tcmu, "devices"), *d;
	size_t i, open = 0;

	if (!json_is_object(tcmu))
		return;
	json_array_foreach(devices, i, d)
	{
		open += json_is_true(json_object_get(d, "open"));
	}
	if (text(tcmu, "problem")[0])
		printf("%-12s%s\n", "tcmu", text(tcmu, "problem"));
	else
		printf("%-12s%zu backstores, %zu served\n", "tcmu", json_array_size(devices), open);
	json_array_foreach(devices, i, d)
	{
		if (text(d, "problem")[0])
			printf("%-12s%s: %s\n", "", text(d, "backstore"), text(d, "problem"));
	}
}

int print_status(const json_t *r)
{
	json_t *iscsi = json_object_get(r, "iscsi"), *nbd = json_object_get(r, "nbd"), *p;
	char buf[40];
	size_t i;

	printf("%-12s%s (pid %lld)\n", "ebb", text(r, "version"), number(r, "pid"));
	format_age(r, "uptime_s", buf, sizeof(buf));
	printf("%-12s%s\n", "up", buf);
	if (text(r, "config")[0])
		printf("%-12s%s\n", "config", text(r, "config"));
	printf("%-12s%lld\n", "threads", number(r, "threads"));
	printf("%-12s%s\n", "memory", format_bytes(r, "resident_bytes", buf, sizeof(buf)));
	printf("%-12s%lld\n", "luns", number(r, "luns"));
	print_list("iscsi", json_object_get(iscsi, "portals"));
	printf("%-12s%lld sessions\n", "", number(iscsi, "sessions"));
	print_list("nbd", json_object_get(nbd, "listen"));
	if (json_array_size(json_object_get(nbd, "listen")))
		printf("%-12s%s, %lld restarts\n", "",
		       json_is_true(json_object_get(nbd, "ready")) ? "serving" : "not serving",
		       number(nbd, "restarts"));
	print_tcmu(json_object_get(r, "tcmu"));
	json_array_foreach(json_object_get(r, "problems"), i, p)
	{
		printf("%-12s%s: %s\n", i ? "" : "problems", text(p, "name"), text(p, "problem"));
	}
	return EXIT_DONE;
}

int print_luns(const json_t *r)
{
	static const char *const titles[] = {"NAME",  ">SIZE",	   ">ALLOCATED", "BLOCK", "MODE",
					     "FLAGS", ">SESSIONS", "STATE",	 "FILE"};
	struct table *t = table_new(titles, 9);
	json_t *o;
	size_t i;

	json_array_foreach(r, i, o)
	{
		char size[40], allocated[40], sessions[24], block[24], flags[24], state[400];
		bool offline = json_object_get(o, "problem") != NULL;

		snprintf(sessions, sizeof(sessions), "%lld", number(o, "sessions"));
		snprintf(block, sizeof(block), "%lld", number(o, "block_size"));
		snprintf(flags, sizeof(flags), "%s%s%s",
			 json_is_true(json_object_get(o, "read_only")) ? "ro" : "",
			 json_is_true(json_object_get(o, "read_only")) &&
					 json_is_true(json_object_get(o, "removable"))
				 ? ","
				 : "",
			 json_is_true(json_object_get(o, "removable")) ? "removable" : "");
		snprintf(state, sizeof(state), "%s%s%s", text(o, "state"), offline ? ": " : "",
			 text(o, "problem"));
		const char *cells[] = {text(o, "name"),
				       offline ? NULL : format_bytes(o, "size", size, sizeof(size)),
				       format_bytes(o, "allocated", allocated, sizeof(allocated)),
				       offline ? NULL : block,
				       text(o, "mode"),
				       flags,
				       sessions,
				       state,
				       text(o, "path")};

		table_add(t, cells);
	}
	table_print(t);
	return EXIT_DONE;
}

static void print_counters(const json_t *counters)
{
	static const char *const titles[] = {"OPERATION", ">COUNT",  ">BYTES",
					     ">ERRORS",	  ">P50_US", ">P99_US"};
	struct table *t = table_new(titles, 6);

	for (int i = 0; i < LUN_CLASS_COUNT; i++) {
		json_t *o = json_object_get(counters, lun_class_name(i));
		char v[5][32];

		snprintf(v[0], 32, "%lld", number(o, "ops"));
		snprintf(v[1], 32, "%lld", number(o, "bytes"));
		snprintf(v[2], 32, "%lld", number(o, "errors"));
		snprintf(v[3], 32, "%lld", number(o, "p50_us"));
		snprintf(v[4], 32, "%lld", number(o, "p99_us"));
		const char *cells[] = {lun_class_name(i), v[0], v[1], v[2], v[3], v[4]};

		table_add(t, cells);
	}
	table_print(t);
}

static void print_lun_cache(const json_t *r)
{
	const json_t *c = json_object_get(r, "cache");
	long long hits = number(c, "hits_memory") + number(c, "hits_zero") + number(c, "hits_tmem");
	char buf[40];

	if (!json_is_object(c)) {
		printf("%-12snone (%s)\n", "cache", text(r, "cache_reason"));
		return;
	}
	printf("%-12s%s, %lld hits (%lld compressed, %lld zeros), %lld misses\n", "cache",
	       format_bytes(c, "resident", buf, sizeof(buf)), hits, number(c, "hits_tmem"),
	       number(c, "hits_zero"), number(c, "misses"));
	printf("%-12s%lld pages, %lld of them used\n", "read ahead", number(c, "readahead_pages"),
	       number(c, "readahead_used"));
}

static void print_sanitize(const json_t *s)
{
	if (!s)
		return;
	printf("%-12s%s, %.0f %%", "sanitize", text(s, "state"),
	       100.0 * (double)number(s, "done") / (double)number(s, "total"));
	printf(json_object_get(s, "error") ? ": %s\n" : "\n", text(s, "error"));
}

int print_lun(const json_t *r)
{
	char buf[40];
	json_t *v;
	size_t i;

	printf("%-12s%s\n%-12s%s\n", "name", text(r, "name"), "file", text(r, "path"));
	if (json_object_get(r, "problem")) {
		printf("%-12s%s: %s\n", "state", text(r, "state"), text(r, "problem"));
		return EXIT_DONE;
	}
	printf("%-12s%s (%lld bytes)\n", "size", format_bytes(r, "size", buf, sizeof(buf)),
	       number(r, "size"));
	if (format_bytes(r, "allocated", buf, sizeof(buf)))
		printf("%-12s%s\n", "allocated", buf);
	printf("%-12s%lld\n", "block size", number(r, "block_size"));
	printf("%-12s%s (%s)\n", "mode", text(r, "mode"), text(r, "mode_reason"));
	printf("%-12s%s\n", "uuid", text(r, "uuid"));
	printf("%-12s%s%s\n", "access",
	       json_is_true(json_object_get(r, "read_only")) ? "read-only" : "read-write",
	       json_is_true(json_object_get(r, "removable")) ? ", removable" : "");
	print_lun_cache(r);
	printf("%-12s%lld\n", "sessions", number(r, "sessions"));
	print_sanitize(json_object_get(r, "sanitize"));
	json_array_foreach(json_object_get(r, "urls"), i, v)
	{
		printf("%-12s%s\n", i ? "" : "urls", text(v, "url"));
	}
	putchar('\n');
	print_counters(json_object_get(r, "counters"));
	return EXIT_DONE;
}

int print_created(const json_t *r)
{
	json_t *v;
	size_t i;

	json_array_foreach(json_object_get(r, "urls"), i, v)
	{
		printf("%s\n", text(v, "url"));
	}
	return EXIT_DONE;
}

int print_resized(const json_t *r)
{
	if (text(r, "note")[0])
		fprintf(stderr, "ebb lun resize: note: %s\n", text(r, "note"));
	return EXIT_DONE;
}

static const char *bytes_or_none(const json_t *o, const char *key, char *buf, size_t size)
{
	return number(o, key) < 0 ? "unknown" : format_bytes(o, key, buf, size);
}

static void print_budget(const json_t *b)
{
	const json_t *last = json_object_get(b, "last_shrink");
	char v[5][40];

	printf("%-12s%s of %s (%s; floor %s)\n", "target", format_bytes(b, "target", v[0], 40),
	       format_bytes(b, "ceiling", v[1], 40), text(b, "state"),
	       format_bytes(b, "floor", v[2], 40));
	printf("%-12s%s, of which %s can be given back now\n", "held",
	       format_bytes(b, "held", v[0], 40), format_bytes(b, "reclaimable", v[1], 40));
	printf("%-12s%s promised to LUNs and connections\n", "reserved",
	       format_bytes(b, "reserved", v[0], 40));
	printf("%-12s%s, %s of it available\n", "host", bytes_or_none(b, "limit", v[0], 40),
	       bytes_or_none(b, "available", v[1], 40));
	printf("%-12s%s\n", "watches", text(b, "watches"));
	printf("%-12s%s", "given back", format_bytes(b, "returned_bytes", v[0], 40));
	if (json_is_object(last)) {
		format_age(last, "age_s", v[2], 40);
		printf("; last %s, %s ago", format_bytes(last, "bytes", v[1], 40), v[2]);
	}
	printf("\n\n");
}

static void print_pools(const json_t *pools)
{
	static const char *const titles[] = {"POOL",	 ">HOLDS", ">RECLAIMABLE", ">VOLATILE",
					     ">TARGET",	 ">FLOOR", ">GIVEN_BACK",  ">LOST_PAGES",
					     ">SHRINKS", ">P99_US"};
	static const char *const keys[] = {"bytes",  "reclaimable", "volatile",
					   "target", "floor",	    "returned_bytes"};
	struct table *t = table_new(titles, 10);
	json_t *o;
	size_t i;

	json_array_foreach(pools, i, o)
	{
		const char *cells[10] = {text(o, "name")};
		char v[9][40];

		for (unsigned k = 0; k < 6; k++)
			cells[1 + k] = format_bytes(o, keys[k], v[k], 40);
		snprintf(v[6], 40, "%lld", number(o, "purged_pages"));
		snprintf(v[7], 40, "%lld", number(o, "shrinks"));
		snprintf(v[8], 40, "%lld", number(o, "shrink_p99_us"));
		for (unsigned k = 6; k < 9; k++)
			cells[1 + k] = v[k];
		table_add(t, cells);
	}
	table_print(t);
}

static void print_lun_memory(const json_t *luns)
{
	static const char *const titles[] = {"LUN",   ">CACHED", ">COMPRESSED",
					     ">HITS", ">MISSES", ">LOST"};
	struct table *t = table_new(titles, 6);
	json_t *o;
	size_t i;

	json_array_foreach(luns, i, o)
	{
		char v[5][40];
		long long hits =
			number(o, "hits_memory") + number(o, "hits_zero") + number(o, "hits_tmem");

		snprintf(v[2], 40, "%lld", hits);
		snprintf(v[3], 40, "%lld", number(o, "misses"));
		snprintf(v[4], 40, "%lld", number(o, "purged"));
		const char *cells[] = {text(o, "name"),
				       format_bytes(o, "resident", v[0], 40),
				       format_bytes(o, "tmem_bytes", v[1], 40),
				       v[2],
				       v[3],
				       v[4]};

		table_add(t, cells);
	}
	table_print(t);
}

int print_memory(const json_t *r)
{
	print_budget(json_object_get(r, "budget"));
	print_pools(json_object_get(r, "pools"));
	if (json_array_size(json_object_get(r, "luns"))) {
		putchar('\n');
		print_lun_memory(json_object_get(r, "luns"));
	}
	return EXIT_DONE;
}

int print_released(const json_t *r)
{
	char buf[40];

	printf("%s given back\n", format_bytes(r, "returned_bytes", buf, sizeof(buf)));
	return EXIT_DONE;
}

int print_nothing(const json_t *r)
{
	return EXIT_DONE;
}

int print_sessions(const json_t *r)
{
	static const char *const titles[] = {"SESSION", "CLIENT",    "ADDRESS", "EXPORT",
					     ">AGE",	">INFLIGHT", ">READ",	">WRITTEN"};
	struct table *t = table_new(titles, 8);
	json_t *o;
	size_t i;

	json_array_foreach(r, i, o)
	{
		char age[24], inflight[24], rd[40], wr[40];

		format_age(o, "age_s", age, sizeof(age));
		snprintf(inflight, sizeof(inflight), "%lld", number(o, "inflight"));
		const char *cells[] = {text(o, "id"),
				       text(o, "client"),
				       text(o, "address"),
				       text(o, "export"),
				       age,
				       inflight,
				       format_bytes(o, "read_bytes", rd, sizeof(rd)),
				       format_bytes(o, "write_bytes", wr, sizeof(wr))};

		table_add(t, cells);
	}
	table_print(t);
	return EXIT_DONE;
}

int print_exports(const json_t *r)
{
	static const char *const titles[] = {"LUN", "PROTOCOL", "URL"};
	struct table *t = table_new(titles, 3);
	json_t *o;
	size_t i;

	json_array_foreach(r, i, o)
	{
		const char *cells[] = {text(o, "lun"), text(o, "protocol"), text(o, "url")};

		table_add(t, cells);
	}
	table_print(t);
	return EXIT_DONE;
}

static void print_steps(const json_t *r, FILE *problems, const char *done)
{
	json_t *o;
	size_t i;

	json_array_foreach(json_object_get(r, "steps"), i, o)
	{
		const char *problem = text(o, "problem"), *detail = text(o, "detail");

		fprintf(problem[0] ? problems : stdout, "%s%s %s%s%s%s%s%s\n",
			problem[0] ? "! " : done, text(o, "action"), text(o, "name"),
			detail[0] ? " (" : "", detail, detail[0] ? ")" : "", problem[0] ? ": " : "",
			problem);
	}
	if (!json_array_size(json_object_get(r, "steps")))
		puts("nothing to do");
}

int print_plan(const json_t *r)
{
	print_steps(r, stdout, "+ ");
	return EXIT_DONE;
}

int print_applied(const json_t *r)
{
	print_steps(r, stderr, "");
	return applied_status(r);
}

int applied_status(const json_t *r)
{
	return number(r, "problems") ? EXIT_REFUSED : EXIT_DONE;
}
