/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * consistency: overlapping requests from several iSCSI and NBD connections to one device, and to
 * the file that it is to others, checked against a model of what a device may answer. Exit 0:
 * consistent; 1: not, with a report on stderr; 2: bad usage.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"

#define CLIENTS_MAX 64

static const char help[] =
	"usage: consistency [options] (--iscsi URL | --nbd URI | --file PATH)...\n"
	"  --iscsi URL        a connection to iscsi://HOST:PORT/TARGET/LUN (repeatable)\n"
	"  --nbd URI          a connection to an NBD URI (repeatable)\n"
	"  --file PATH        a file (repeatable); every other client has it open with O_DIRECT\n"
	"  --connections N    each of the above so many times (default 1)\n"
	"  --base LBA         first block in use (default 0)\n"
	"  --blocks N         blocks in use, but for one more, the counter's (default 1024)\n"
	"  --depth N          requests in flight a connection (default 8)\n"
	"  --max-blocks N     of a request (default 64)\n"
	"  --block-size N     when there are no iSCSI connections (default 512)\n"
	"  --seconds S        how long (default 10); SIGTERM ends it early, with all checks\n"
	"  --seed N           of what is sent (default 1)\n"
	"  --reconnect[=S]    a lost connection may take so many seconds (30) to come back\n"
	"  --unmap-zeroes     UNMAP and TRIM must zero (else each block may also stay)\n"
	"  --atomic-reads     a read must see a CAW or an atomic write wholly or not at all\n"
	"  --torn-reads       a block that is read while it is written may be a mixture\n";

static volatile sig_atomic_t end;

static void on_term(int sig)
{
	end = 1;
}

struct options {
	struct run_options run;
	const char *iscsi[CLIENTS_MAX], *nbd[CLIENTS_MAX], *file[CLIENTS_MAX];
	unsigned niscsi, nnbd, nfile, connections;
	uint32_t block_size;
};

static bool add_url(const char **list, unsigned *n, const char *url)
{
	if (*n == CLIENTS_MAX)
		return false;
	list[(*n)++] = url;
	return true;
}

static bool take_option(struct options *o, int opt, const char *arg)
{
	switch (opt) {
	case 'i':
		return add_url(o->iscsi, &o->niscsi, arg);
	case 'n':
		return add_url(o->nbd, &o->nnbd, arg);
	case 'f':
		return add_url(o->file, &o->nfile, arg);
	case 'c':
		o->connections = (unsigned)atoi(arg);
		return o->connections > 0;
	case 'B':
		o->run.base = strtoull(arg, NULL, 0);
		return true;
	case 'b':
		o->run.blocks = strtoull(arg, NULL, 0);
		return o->run.blocks > 0;
	case 'd':
		o->run.depth = (unsigned)atoi(arg);
		return o->run.depth > 0 && o->run.depth <= 1024;
	case 'm':
		o->run.max_blocks = (uint32_t)atoi(arg);
		return o->run.max_blocks > 0;
	case 'z':
		o->block_size = (uint32_t)atoi(arg);
		return o->block_size >= 512 && o->block_size % 512 == 0;
	case 's':
		o->run.seconds = atof(arg);
		return o->run.seconds > 0;
	case 'S':
		o->run.seed = strtoull(arg, NULL, 0);
		return true;
	case 'r':
		o->run.reconnect_seconds = arg ? atof(arg) : 30;
		return o->run.reconnect_seconds > 0;
	case 'u':
		o->run.unmap_zeroes = true;
		return true;
	case 't':
		o->run.torn_reads = true;
		return true;
	case 'a':
		o->run.atomic_reads = true;
		return true;
	}
	return false;
}

static bool parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"iscsi", 1, 0, 'i'},
		{"nbd", 1, 0, 'n'},
		{"file", 1, 0, 'f'},
		{"connections", 1, 0, 'c'},
		{"base", 1, 0, 'B'},
		{"blocks", 1, 0, 'b'},
		{"depth", 1, 0, 'd'},
		{"max-blocks", 1, 0, 'm'},
		{"block-size", 1, 0, 'z'},
		{"seconds", 1, 0, 's'},
		{"seed", 1, 0, 'S'},
		{"reconnect", 2, 0, 'r'},
		{"unmap-zeroes", 0, 0, 'u'},
		{"atomic-reads", 0, 0, 'a'},
		{"torn-reads", 0, 0, 't'},
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
			return false;
	}
	if (o->run.max_blocks > o->run.blocks)
		o->run.max_blocks = (uint32_t)o->run.blocks;
	unsigned clients = (o->niscsi + o->nnbd + o->nfile) * o->connections;

	return optind == argc && clients > 0 && clients <= CLIENTS_MAX;
}

static unsigned make_clients(const struct options *o, struct client **clients)
{
	unsigned n = 0;

	for (unsigned c = 0; c < o->connections; c++) {
		for (unsigned i = 0; i < o->niscsi; i++, n++)
			clients[n] = client_new_iscsi(o->iscsi[i], n);
		for (unsigned i = 0; i < o->nnbd; i++, n++)
			clients[n] = client_new_nbd(o->nbd[i], n, o->block_size);
		for (unsigned i = 0; i < o->nfile; i++, n++)
			clients[n] = client_new_file(o->file[i], n, o->block_size);
	}
	return n;
}

int main(int argc, char **argv)
{
	static struct client *clients[CLIENTS_MAX];
	struct options o = {
		.run = {.blocks = 1024,
			.depth = 8,
			.max_blocks = 64,
			.seconds = 10,
			.seed = 1,
			.end = &end},
		.connections = 1,
		.block_size = 512,
	};

	if (!parse_options(argc, argv, &o)) {
		fputs(help, stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN); /* a lost connection is an answer, not an end */
	signal(SIGTERM, on_term);
	unsigned n = make_clients(&o, clients);
	int r = -1;

	for (unsigned i = 0; i < n; i++)
		if (!clients[i])
			goto out;
	r = run_check(&o.run, clients, n);
out:
	for (unsigned i = 0; i < n; i++)
		client_free(clients[i]);
	return r ? 1 : 0;
}
