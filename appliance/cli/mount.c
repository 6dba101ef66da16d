/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `ebb mount`: LUNs of an appliance as files of a directory. */
#include "front/fuse/mount.h"

#include <errno.h>
#include <getopt.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "cli/cli.h"

#define FUSE_ROOT_INODE 1

static const char help[] =
	"Usage: ebb mount DIR [OPTIONS]\n"
	"\n"
	"Mounts the LUNs of an appliance on DIR, a file DIR/NAME for each, by FUSE.\n"
	"`fusermount3 -u DIR` or `umount DIR` takes it away again.\n"
	"\n"
	"  --read-only      refuse writes\n"
	"  --grow           truncate -s SIZE DIR/NAME makes a LUN larger\n"
	"  --cached         let the kernel keep pages while a file is open: shared mappings work,\n"
	"                   what others write meanwhile is not seen\n"
	"  --allow-other    other users may come in, as far as modes let them\n"
	"  --foreground     do not go to the background; print \"ready\" when it is mounted\n"
	"  --port PATH      of the appliance's port (default: asked of the appliance)\n"
	"  --socket PATH    of the appliance\n"
	"  --help           this text\n"
	"\n"
	"Files belong to who mounts them, with the modes that the umask leaves.\n";

enum {
	OPT_READ_ONLY = 1,
	OPT_GROW,
	OPT_CACHED,
	OPT_ALLOW_OTHER,
	OPT_FOREGROUND,
	OPT_PORT,
	OPT_SOCKET
};

struct mount_command {
	struct cli_options cli;
	struct mount_options mount;
	const char *dir, *port;
	bool grow;
};

static int grow(void *ctx, const char *lun, uint64_t size, struct reason *why)
{
	const struct mount_command *c = ctx;
	char text[24];
	json_t *result;

	snprintf(text, sizeof(text), "%llu", (unsigned long long)size);
	if (cli_call(&c->cli, "lun.resize", json_pack("{s:s, s:s}", "name", lun, "size", text),
		     &result, why))
		return -EPERM;
	json_decref(result);
	return 0;
}

static void mounted(void *ctx)
{
	puts("ready");
	fflush(stdout);
}

/* Returns an exit status, or -1 to go on. */
static int parse(struct mount_command *c, int argc, char **argv)
{
	static const struct option options[] = {{"read-only", no_argument, NULL, OPT_READ_ONLY},
						{"grow", no_argument, NULL, OPT_GROW},
						{"cached", no_argument, NULL, OPT_CACHED},
						{"allow-other", no_argument, NULL, OPT_ALLOW_OTHER},
						{"foreground", no_argument, NULL, OPT_FOREGROUND},
						{"port", required_argument, NULL, OPT_PORT},
						{"socket", required_argument, NULL, OPT_SOCKET},
						{"help", no_argument, NULL, 'h'},
						{NULL, 0, NULL, 0}};
	bool *const flags[] = {[OPT_READ_ONLY] = &c->mount.read_only,
			       [OPT_GROW] = &c->grow,
			       [OPT_CACHED] = &c->mount.cached,
			       [OPT_ALLOW_OTHER] = &c->mount.allow_other,
			       [OPT_FOREGROUND] = &c->mount.foreground};
	int opt;

	optind = 0;
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
		if (opt == 'h') {
			fputs(help, stdout);
			return EXIT_DONE;
		}
		if (opt == '?')
			return EXIT_USAGE;
		if (opt == OPT_PORT)
			c->port = optarg;
		else if (opt == OPT_SOCKET)
			c->cli.socket = optarg;
		else
			*flags[opt] = true;
	}
	if (optind + 1 != argc) {
		fprintf(stderr, "ebb mount: %s\nTry 'ebb mount --help'.\n",
			optind == argc ? "no DIR given" : "too many arguments");
		return EXIT_USAGE;
	}
	c->dir = argv[optind];
	return -1;
}

/* What fusermount3 would say less well, or not at all: it mounts over what is mounted. */
static int check_dir(const char *dir, struct reason *why)
{
	struct statfs fs;
	struct stat st;

	if (stat(dir, &st))
		return errno != ENOTCONN ? 0
					 : reason_set(why, ENOTCONN,
						      "%s: nobody serves what is mounted there: "
						      "fusermount3 -u first",
						      dir);
	if (!S_ISDIR(st.st_mode))
		return reason_set(why, ENOTDIR, "%s: not a directory", dir);
	if (st.st_ino == FUSE_ROOT_INODE && !statfs(dir, &fs) && fs.f_type == FUSE_SUPER_MAGIC)
		return reason_set(why, EBUSY, "%s: something is mounted there already", dir);
	return 0;
}

static int run(struct mount_command *c, struct reason *why)
{
	_cleanup_free_ char *dir = cli_absolute(c->dir), *socket = NULL, *port = NULL;
	int err;

	if (!c->cli.socket)
		c->cli.socket = getenv("EBB_SOCKET");
	if (c->cli.socket) {
		/* The background is in another directory. */
		socket = cli_absolute(c->cli.socket);
		c->cli.socket = socket;
	}
	if (!dir || (c->cli.socket && !socket))
		return reason_set(why, ENOMEM, "out of memory");
	err = check_dir(dir, why);
	if (err)
		return err;
	port = c->port ? cli_absolute(c->port) : cli_ask_port(&c->cli, why);
	if (!port)
		return -EIO;
	c->mount.dir = dir;
	c->mount.port = port;
	c->mount.grow = c->grow ? grow : NULL;
	c->mount.mounted = mounted;
	c->mount.ctx = c;
	return mount_run(&c->mount, why);
}

int cli_mount(int argc, char **argv, const struct cli_options *global)
{
	struct mount_command c = {.cli = *global};
	struct reason why = {.text = "out of memory"};
	int status = parse(&c, argc, argv);

	if (status >= 0)
		return status;
	if (!run(&c, &why))
		return EXIT_DONE;
	fprintf(stderr, "ebb mount: %s\n", why.text);
	return EXIT_REFUSED;
}
