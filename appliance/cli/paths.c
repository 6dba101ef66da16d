/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"

/* A directory of ours that nobody else can put things into. */
static int check_own(const char *path, struct reason *why)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return reason_set(why, errno, "%s: %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 022)
		return reason_set(why, EPERM, "%s: is not a directory of ours alone", path);
	return 0;
}

int cli_runtime_dir(char *buf, size_t size, bool make, struct reason *why)
{
	const char *base = getenv("XDG_RUNTIME_DIR");
	int n;

	if (base && base[0] == '/' && access(base, W_OK) == 0)
		n = snprintf(buf, size, "%s/ebb", base);
	else
		n = snprintf(buf, size, "/tmp/ebb-%u", (unsigned)geteuid());
	if (n >= (int)size)
		return reason_set(why, ENAMETOOLONG, "the runtime directory's name is too long");
	if (make && mkdir(buf, 0700) < 0 && errno != EEXIST)
		return reason_set(why, errno, "%s: %s", buf, strerror(errno));
	return check_own(buf, why);
}

int cli_state_dir(char *buf, size_t size, struct reason *why)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	struct passwd *pw;
	int n;

	if (!home || home[0] != '/') {
		pw = getpwuid(geteuid());
		home = pw ? pw->pw_dir : NULL;
	}
	if (state && state[0] == '/')
		n = snprintf(buf, size, "%s/ebb", state);
	else if (home)
		n = snprintf(buf, size, "%s/.local/state/ebb", home);
	else
		return reason_set(why, ENOENT, "no home directory: give --state");
	if (n >= (int)size)
		return reason_set(why, ENAMETOOLONG, "the state directory's name is too long");
	return 0;
}

char *cli_absolute(const char *path)
{
	char *cwd, *abs = NULL;

	if (path[0] == '/')
		return strdup(path);
	cwd = getcwd(NULL, 0);
	if (cwd && asprintf(&abs, "%s/%s", strcmp(cwd, "/") ? cwd : "", path) < 0)
		abs = NULL;
	free(cwd);
	return abs;
}
