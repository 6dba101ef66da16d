/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All disks at once: burst read|write BYTES ROUNDS DISK...
 *
 * Keeps one command of BYTES in flight on each DISK until each has done ROUNDS, then prints
 * "COMMANDS commands, FAILED failed, slowest N ms". Exits with 1 if any failed.
 */
#include <err.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

struct disk {
	int fd;
	int left;
	uint64_t since;
};

static struct io_uring ring;
static bool writing;
static size_t bytes;
static char *buf; /* shared by all: what is in it does not matter */

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void start(struct disk *d)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	if (!sqe)
		errx(1, "no sqe");
	if (writing)
		io_uring_prep_write(sqe, d->fd, buf, (unsigned int)bytes, 0);
	else
		io_uring_prep_read(sqe, d->fd, buf, (unsigned int)bytes, 0);
	sqe->flags |= IOSQE_ASYNC; /* a full queue of one disk must not hold up the others */
	io_uring_sqe_set_data(sqe, d);
	d->since = now_ms();
	d->left--;
}

int main(int argc, char **argv)
{
	struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
	uint64_t slowest = 0, commands = 0, failed = 0;
	int disks = argc - 4, rc;
	struct disk *all;

	if (disks < 1)
		errx(2, "usage: burst read|write BYTES ROUNDS DISK...");
	writing = !strcmp(argv[1], "write");
	bytes = strtoull(argv[2], NULL, 0);
	all = calloc((size_t)disks, sizeof(*all));
	if (!all || posix_memalign((void **)&buf, 4096, bytes))
		err(1, "memory");
	memset(buf, 0x5a, bytes);
	setrlimit(RLIMIT_NOFILE, &files);
	rc = io_uring_queue_init((unsigned int)disks, &ring, 0);
	if (rc)
		errx(1, "io_uring: %s", strerror(-rc));
	for (int i = 0; i < disks; i++) {
		all[i].left = atoi(argv[3]);
		all[i].fd =
			open(argv[4 + i], (writing ? O_WRONLY : O_RDONLY) | O_DIRECT | O_CLOEXEC);
		if (all[i].fd < 0)
			err(1, "%s", argv[4 + i]);
	}
	for (int i = 0; i < disks; i++)
		start(&all[i]);
	for (int running = disks; running;) {
		struct io_uring_cqe *cqe;
		struct disk *d;

		rc = io_uring_submit_and_wait(&ring, 1);
		if (rc < 0 && rc != -EINTR)
			errx(1, "submit: %s", strerror(-rc));
		while (io_uring_peek_cqe(&ring, &cqe) == 0) {
			d = io_uring_cqe_get_data(cqe);
			if (now_ms() - d->since > slowest)
				slowest = now_ms() - d->since;
			commands++;
			failed += cqe->res != (int)bytes;
			io_uring_cqe_seen(&ring, cqe);
			if (d->left)
				start(d);
			else
				running--;
		}
	}
	printf("%llu commands, %llu failed, slowest %llu ms\n", (unsigned long long)commands,
	       (unsigned long long)failed, (unsigned long long)slowest);
	return failed != 0;
}
