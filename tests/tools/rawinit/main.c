/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rawinit: a light iSCSI initiator that measures a target. One thread, many commands a system call;
 * prints one JSON object. Exit 0 when every I/O succeeded (and matched, with --verify), 1 when not,
 * 2 on bad usage.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "cpu.h"
#include "load.h"

#define CONNECTIONS_MAX 256
#define SERVERS_MAX	8

struct options {
	struct load_config load;
	struct session_options session;
	struct target_url url;
	const char *mode;
	double seconds, warmup;
	uint64_t count;
	pid_t servers[SERVERS_MAX];
	unsigned nservers;
	bool server_children;
};

static const struct {
	const char *name;
	bool random;
	unsigned write_percent;
} modes[] = {
	{"read", false, 0},	  {"write", false, 100}, {"randread", true, 0},
	{"randwrite", true, 100}, {"randrw", true, 50},
};

static const char help[] =
	"usage: rawinit [options] iscsi://HOST[:PORT]/TARGET/LUN\n"
	"  --rw MODE           read, write, randread, randwrite, randrw (default randread)\n"
	"  --bs BYTES          of an I/O (default 4096; k and M are understood)\n"
	"  --depth N           commands in flight a connection (default 32)\n"
	"  --connections N     sessions of one connection each (default 1)\n"
	"  --seconds S         how long (default 5, or no limit with --count)\n"
	"  --count N           stop after so many I/Os\n"
	"  --warmup S          run so long before measuring (default 0)\n"
	"  --range BYTES       use only the start of the LUN\n"
	"  --fua               set FUA\n"
	"  --verify            writes stamp a pattern of place and seed, reads expect it\n"
	"  --seed N            of offsets and pattern (default 1)\n"
	"  --server-pid PID    report the CPU seconds of this process too (repeatable)\n"
	"  --server-children   and those of its descendants\n"
	"  --initiator NAME    default iqn.2026-11.local.ebb:rawinit\n"
	"  --max-recv BYTES    MaxRecvDataSegmentLength declared (default 1M)\n"
	"  --max-burst BYTES   proposed (default 1M);  --first-burst BYTES (default 256k)\n"
	"  --initial-r2t       propose InitialR2T=Yes;  --no-immediate propose ImmediateData=No\n";

static int usage(const char *why)
{
	fprintf(stderr, "rawinit: %s\n%s", why, help);
	return 2;
}

static uint64_t parse_size(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	switch (*end) {
	case 'G':
		value *= 1024;
		__attribute__((fallthrough));
	case 'M':
		value *= 1024;
		__attribute__((fallthrough));
	case 'k':
		value *= 1024;
		end++;
	}
	return *end ? 0 : value;
}

static bool set_mode(struct options *o, const char *name)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(modes[i].name, name))
			continue;
		o->mode = modes[i].name;
		o->load.random = modes[i].random;
		o->load.write_percent = modes[i].write_percent;
		return true;
	}
	return false;
}

static bool take_option(struct options *o, int opt, const char *arg)
{
	switch (opt) {
	case 'r':
		return set_mode(o, arg);
	case 'b':
		o->load.block_size = (uint32_t)parse_size(arg);
		return o->load.block_size >= 512 && o->load.block_size <= 64u << 20;
	case 'd':
		o->load.depth = (unsigned)atoi(arg);
		return o->load.depth > 0 && o->load.depth <= 4096;
	case 'c':
		o->load.connections = (unsigned)atoi(arg);
		return o->load.connections > 0 && o->load.connections <= CONNECTIONS_MAX;
	case 's':
		o->seconds = atof(arg);
		return o->seconds > 0;
	case 'n':
		o->count = strtoull(arg, NULL, 0);
		return o->count > 0;
	case 'w':
		o->warmup = atof(arg);
		return o->warmup >= 0;
	case 'R':
		o->load.region = parse_size(arg);
		return o->load.region > 0;
	case 'S':
		o->load.seed = strtoull(arg, NULL, 0);
		return true;
	case 'p':
		o->servers[o->nservers] = atoi(arg);
		return cpu_seconds_of(o->servers[o->nservers], false) >= 0 &&
		       ++o->nservers < SERVERS_MAX;
	case 'f':
		o->load.fua = true;
		return true;
	case 'v':
		o->load.verify = true;
		return true;
	case 'C':
		o->server_children = true;
		return true;
	case 'i':
		o->session.initiator_name = arg;
		return true;
	case 'm':
		o->session.max_recv_segment = (uint32_t)parse_size(arg);
		return o->session.max_recv_segment >= 512 && o->session.max_recv_segment < 1u << 24;
	case 'B':
		o->session.max_burst = (uint32_t)parse_size(arg);
		return o->session.max_burst >= 512 && o->session.max_burst < 1u << 24;
	case 'F':
		o->session.first_burst = (uint32_t)parse_size(arg);
		return o->session.first_burst >= 512 && o->session.first_burst < 1u << 24;
	case '2':
		o->session.initial_r2t = true;
		return true;
	case 'I':
		o->session.immediate_data = false;
		return true;
	}
	return false;
}

static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"rw", 1, 0, 'r'},
		{"bs", 1, 0, 'b'},
		{"depth", 1, 0, 'd'},
		{"connections", 1, 0, 'c'},
		{"seconds", 1, 0, 's'},
		{"count", 1, 0, 'n'},
		{"warmup", 1, 0, 'w'},
		{"range", 1, 0, 'R'},
		{"fua", 0, 0, 'f'},
		{"verify", 0, 0, 'v'},
		{"seed", 1, 0, 'S'},
		{"server-pid", 1, 0, 'p'},
		{"initiator", 1, 0, 'i'},
		{"server-children", 0, 0, 'C'},
		{"max-recv", 1, 0, 'm'},
		{"max-burst", 1, 0, 'B'},
		{"first-burst", 1, 0, 'F'},
		{"initial-r2t", 0, 0, '2'},
		{"no-immediate", 0, 0, 'I'},
		{"help", 0, 0, 'h'},
		{0},
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (opt == 'h') {
			fputs(help, stdout);
			exit(0);
		}
		if (opt == '?' || !take_option(o, opt, optarg))
			return usage("bad option or value");
	}
	if (optind + 1 != argc || target_url_parse(argv[optind], &o->url))
		return usage("needs one URL");
	if (o->seconds <= 0 && !o->count)
		o->seconds = 5;
	if (o->session.first_burst > o->session.max_burst)
		o->session.first_burst = o->session.max_burst;
	return 0;
}

static int open_sessions(struct options *o, struct session *sessions)
{
	uint64_t blocks, bytes;

	for (unsigned i = 0; i < o->load.connections; i++) {
		int r = session_open(&sessions[i], &o->url, &o->session, i);

		if (!r)
			r = session_probe(&sessions[i], &blocks, &o->load.lun_block_size);
		if (r) {
			fprintf(stderr, "rawinit: LUN %u is not ready: %s\n", o->url.lun,
				strerror(-r));
			return r;
		}
	}
	bytes = blocks * o->load.lun_block_size;
	if (!o->load.region || o->load.region > bytes)
		o->load.region = bytes;
	if (o->load.block_size % o->load.lun_block_size || o->load.block_size > o->load.region) {
		fprintf(stderr, "rawinit: --bs does not fit a LUN of %llu blocks of %u bytes\n",
			(unsigned long long)blocks, o->load.lun_block_size);
		return -EINVAL;
	}
	return 0;
}

static double servers_cpu(const struct options *o)
{
	double sum = 0;

	for (unsigned i = 0; i < o->nservers; i++)
		sum += cpu_seconds_of(o->servers[i], o->server_children);
	return sum;
}

static double own_cpu(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void print_result(const struct options *o, const struct load_result *r, double server,
			 double client)
{
	const struct histogram *h = &r->latency;
	double ios = r->ios ? (double)r->ios : 1;

	printf("{\"mode\": \"%s\", \"block_size\": %u, \"depth\": %u, \"connections\": %u, "
	       "\"seconds\": %.3f, "
	       "\"ios\": %llu, \"iops\": %.1f, \"mb_per_s\": %.2f,\n",
	       o->mode, o->load.block_size, o->load.depth, o->load.connections, r->seconds,
	       (unsigned long long)r->ios, (double)r->ios / r->seconds,
	       (double)r->ios * o->load.block_size / r->seconds / 1e6);
	printf(" \"latency_us\": {\"mean\": %.1f, \"p50\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f, "
	       "\"max\": %.1f},\n",
	       (double)h->sum / ios / 1e3, (double)histogram_quantile(h, 0.5) / 1e3,
	       (double)histogram_quantile(h, 0.99) / 1e3,
	       (double)histogram_quantile(h, 0.999) / 1e3, (double)h->max / 1e3);
	if (o->nservers)
		printf(" \"server_cpu_seconds\": %.2f, \"server_cpu_per_mio\": %.3f,\n", server,
		       server / ios * 1e6);
	printf(" \"client_cpu_seconds\": %.2f, \"errors\": %llu, \"mismatches\": %llu, "
	       "\"first_error\": \"%s\"}\n",
	       client, (unsigned long long)r->errors, (unsigned long long)r->mismatches,
	       r->first_error);
}

static int measure(struct options *o, struct load *load)
{
	_cleanup_free_ struct load_result *result = calloc(1, sizeof(*result));
	int r = result ? 0 : -ENOMEM;

	if (!r && o->warmup > 0)
		r = load_run(load, o->warmup, 0, result);
	double server = servers_cpu(o), client = own_cpu();

	if (!r)
		r = load_run(load, o->seconds, o->count, result);
	if (r) {
		fprintf(stderr, "rawinit: %s\n", strerror(-r));
		return 1;
	}
	print_result(o, result, servers_cpu(o) - server, own_cpu() - client);
	return result->errors || result->mismatches ? 1 : 0;
}

int main(int argc, char **argv)
{
	static struct session sessions[CONNECTIONS_MAX];
	struct options o = {
		.load = {.connections = 1,
			 .depth = 32,
			 .block_size = 4096,
			 .random = true,
			 .seed = 1},
		.session = {.max_recv_segment = 1u << 20,
			    .max_burst = 1u << 20,
			    .first_burst = 256u << 10,
			    .immediate_data = true,
			    .initiator_name = "iqn.2026-11.local.ebb:rawinit"},
		.mode = "randread",
	};
	int r = parse_options(argc, argv, &o);

	if (r)
		return r;
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		sessions[i].fd = -1;
	struct load *load = open_sessions(&o, sessions) ? NULL : load_new(&o.load, sessions);

	r = load ? measure(&o, load) : 1;
	load_free(load);
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		session_close(&sessions[i]);
	return r;
}
