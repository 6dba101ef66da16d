/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A userspace that does everything wrong: hostile SECONDS SEED UIO...
 *
 * For each uio device a process of its own opens and maps it and, until the time is over, does at
 * random what target_core_user must stand: any tail, any id, any length and flags in the ring,
 * answers to commands nobody sent, notifications without reason, forgetting pages of the map while
 * they are in use, touching data that nobody owns (SIGBUS is an answer), forking with the map,
 * closing and opening again. Now and then it behaves for a moment, so that commands do come. The
 * kernel's silence is the test; here only the steps are counted: "N steps".
 */
#include <err.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define __LINUX_UIO_H /* struct iovec is the C library's */
#include <linux/target_core_user.h>

static const char *uio;
static size_t map_size;
static int fd = -1;
static char *map;
static uint64_t state;
static sigjmp_buf after_sigbus;

static uint64_t any(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

static void on_sigbus(int sig)
{
	siglongjmp(after_sigbus, sig);
}

static void attach(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/%s", uio);
	while ((fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0)
		usleep(1000); /* the last close may not be over yet */
	map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		err(1, "mmap %s", path);
}

static void detach(void)
{
	munmap(map, map_size);
	close(fd);
	fd = -1;
}

static void notify(void)
{
	uint32_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* the module may refuse a broken ring */
}

static struct tcmu_mailbox *mailbox(void)
{
	return (struct tcmu_mailbox *)map;
}

static struct tcmu_cmd_entry *entry_at(uint64_t offset)
{
	return (struct tcmu_cmd_entry *)(map + mailbox()->cmdr_off + offset);
}

/* Somewhere an entry might be, in or after the ring. */
static uint64_t any_place(void)
{
	return any(4) ? any(4096) * 8 : any(mailbox()->cmdr_size);
}

static void behave(void)
{
	struct tcmu_mailbox *mb = mailbox();
	uint32_t tail = mb->cmd_tail % mb->cmdr_size, head = mb->cmd_head;

	for (int i = 0; tail != head && i < 64; i++) {
		struct tcmu_cmd_entry *e = entry_at(tail);
		uint32_t len = tcmu_hdr_get_len(e->hdr.len_op);

		if (len == 0)
			break;
		if (tcmu_hdr_get_op(e->hdr.len_op) == TCMU_OP_CMD)
			memset(&e->rsp, 0, sizeof(e->rsp));
		tail = (tail + len) % mb->cmdr_size;
	}
	mb->cmd_tail = tail;
	notify();
}

static void scribble(void)
{
	struct tcmu_cmd_entry *e = entry_at(any_place());

	switch (any(5)) {
	case 0:
		e->hdr.len_op = (uint32_t)any(1u << 12);
		break;
	case 1:
		e->hdr.len_op = (uint32_t)any(UINT32_MAX);
		break;
	case 2:
		e->hdr.cmd_id = (uint16_t)any(1u << any(17));
		break;
	case 3:
		e->hdr.uflags = (uint8_t)any(256);
		e->rsp.read_len = (uint32_t)any(UINT32_MAX);
		break;
	default:
		memset(e, (int)any(256), any(512));
	}
}

static void touch_data(void)
{
	size_t data = mailbox()->cmdr_off + mailbox()->cmdr_size;
	volatile char *p = map + data + any(map_size - data) / (any(2) ? 1 : 256);

	if (any(2))
		*p = 1;
	else
		(void)*p;
}

static void forget(void)
{
	size_t from = any(map_size) & ~4095ul, len = any(1u << 20) & ~4095ul;

	madvise(map + from, len < map_size - from ? len : map_size - from, MADV_DONTNEED);
}

static void fork_and_touch(void)
{
	pid_t child = fork();

	if (child == 0) {
		signal(SIGBUS, SIG_DFL);
		for (int i = 0; i < 8; i++)
			touch_data();
		notify();
		_exit(0);
	}
	if (child > 0)
		waitpid(child, NULL, 0);
}

static void step(void)
{
	switch (any(24)) {
	case 0:
		mailbox()->cmd_tail = (uint32_t)any_place();
		notify();
		break;
	case 1:
		mailbox()->cmd_tail = (uint32_t)any(UINT32_MAX);
		notify();
		break;
	case 2:
	case 3:
		scribble();
		break;
	case 4:
		fork_and_touch();
		break;
	case 5:
		detach();
		attach();
		break;
	case 6:
	case 7:
		forget();
		break;
	case 8:
		notify();
		break;
	case 9: /* lies about the mailbox itself: the module has no need to believe it */
		mailbox()->cmd_head = (uint32_t)any_place();
		break;
	default:
		if (any(3))
			touch_data();
		else
			behave();
	}
}

static void work(unsigned int seconds)
{
	struct sigaction sa = {.sa_handler = on_sigbus};
	time_t end = time(NULL) + (time_t)seconds;
	volatile uint64_t steps = 0;

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL); /* a lied-about ring leads us outside our own map */
	attach();
	while (time(NULL) < end) {
		steps++;
		if (sigsetjmp(after_sigbus, 1) == 0)
			step();
	}
	printf("%s: %llu steps\n", uio, (unsigned long long)steps);
	exit(0);
}

static size_t read_map_size(void)
{
	char path[128], text[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/class/uio/%s/maps/map0/size", uio);
	f = fopen(path, "re");
	if (!f || !fgets(text, sizeof(text), f))
		err(1, "%s", path);
	fclose(f);
	return strtoull(text, NULL, 0);
}

int main(int argc, char **argv)
{
	int status, bad = 0;

	if (argc < 4)
		errx(2, "usage: hostile SECONDS SEED UIO...");
	for (int i = 3; i < argc; i++) {
		pid_t child = fork();

		if (child < 0)
			err(1, "fork");
		if (child == 0) {
			uio = argv[i];
			map_size = read_map_size();
			state = strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15u + (uint64_t)i;
			work((unsigned int)atoi(argv[1]));
		}
	}
	while (wait(&status) > 0)
		bad |= !WIFEXITED(status) || WEXITSTATUS(status);
	return bad;
}
