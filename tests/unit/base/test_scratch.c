/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Folders of tests are gone however the test program ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "scratch.h"

/* A program that makes two folders with something in them and ends by @sig; 0: by exit(3). */
static void child(int out, int sig)
{
	char dir[64], file[80];

	for (unsigned i = 0; i < 2; i++) {
		scratch_dir("/tmp", dir, sizeof(dir));
		snprintf(file, sizeof(file), "%s/file", dir);
		close(open(file, O_CREAT | O_WRONLY, 0600));
	}
	if (write(out, dir, sizeof(dir)) != sizeof(dir))
		abort();
	if (!fork())
		exit(0); /* a child of a test takes nothing with it */
	wait(NULL);
	if (access(file, F_OK) < 0)
		abort();
	if (sig)
		raise(sig);
	exit(0);
}

static void folders_go_with_the_program(void **state)
{
	static const int ways[] = {0, SIGALRM, SIGTERM, SIGINT, SIGHUP};

	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		int p[2], status;
		char dir[64];
		pid_t pid;

		assert_int_equal(pipe(p), 0);
		pid = fork();
		if (!pid)
			child(p[1], ways[i]);
		assert_int_equal(read(p[0], dir, sizeof(dir)), sizeof(dir));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (ways[i])
			assert_true(WIFSIGNALED(status) && WTERMSIG(status) == ways[i]);
		else
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
		assert_int_equal(access(dir, F_OK), -1);
		close(p[0]);
		close(p[1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(folders_go_with_the_program),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
