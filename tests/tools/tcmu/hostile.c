/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A userspace that does everything wrong: hostile SECONDS SEED UIO[=BACKSTORE]...
 *
 * For each uio device a process of its own opens and maps it and, until the time is over, does at
 * random what target_core_user must stand: any tail, any id, any length and flags in the ring,
 * answers to commands nobody sent, notifications without reason, forgetting pages of the map while
 * they are in use, touching data that nobody owns (SIGBUS is an answer), forking with the map,
 * having its pages in a pipe, closing and opening again. A ring that was broken once is not read
 * any more, so with the BACKSTORE's folder in configfs it is reset soon after; buffers that were
 * kept are freed, and the device is blocked for moments. Most of the time it behaves almost:
 * answers what there is, out of order, some of it twice, with flags of any kind. The kernel's
 * silence is the test; here only steps and answers are counted: "N steps, N answers".
 */
#include <err.h>
#include <errno.h>
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
static char *backstore; /* its folder, or NULL */
static uint64_t state, answers;
static volatile uint64_t steps;
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

static void finish(void)
{
	printf("%s: %llu steps, %llu answers\n", uio, (unsigned long long)steps,
	       (unsigned long long)answers);
	exit(0);
}

static void attach(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/%s", uio);
	while ((fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0) {
		if (errno != EBUSY) /* the device was removed under us, as it may be */
			finish();
		usleep(1000); /* the last close may not be over yet */
	}
	map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED && errno == EINVAL) /* removed since it was opened */
		finish();
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

/* Writes @value to action/@name, which may well be refused. */
static void act(const char *name, unsigned int value)
{
	char path[256];
	int action;

	if (!backstore)
		return;
	snprintf(path, sizeof(path), "%s/action/%s", backstore, name);
	action = open(path, O_WRONLY | O_CLOEXEC);
	if (action < 0)
		return; /* it is being removed */
	dprintf(action, "%u", value);
	close(action);
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

/*
 * Answers what is in the ring, as one may: each entry with the id of any of them, and with any
 * flags that are allowed; or, not quite, one id twice.
 */
static void answer_in_any_order(void)
{
	struct tcmu_mailbox *mb = mailbox();
	uint32_t tail = mb->cmd_tail % mb->cmdr_size, head = mb->cmd_head, n = 0, places[32];
	uint16_t ids[32];

	while (tail != head && n < 32) {
		struct tcmu_cmd_entry *e = entry_at(tail);
		uint32_t len = tcmu_hdr_get_len(e->hdr.len_op);

		if (len == 0)
			break;
		if (tcmu_hdr_get_op(e->hdr.len_op) == TCMU_OP_CMD) {
			places[n] = tail;
			ids[n++] = e->hdr.cmd_id;
		}
		tail = (tail + len) % mb->cmdr_size;
	}
	for (uint32_t i = 0; i < n; i++) {
		struct tcmu_cmd_entry *e = entry_at(places[i]);
		uint32_t other = i + (uint32_t)any(n - i);

		e->hdr.cmd_id = ids[other];
		if (any(200))
			ids[other] = ids[i];
		memset(&e->rsp, 0, sizeof(e->rsp));
		e->hdr.uflags = any(4) ? 0 : TCMU_UFLAG_READ_LEN | TCMU_UFLAG_KEEP_BUF;
		e->rsp.read_len = (uint32_t)any(1u << 20);
		e->rsp.scsi_status = any(8) ? 0 : (uint8_t)any(256);
	}
	answers += n;
	mb->cmd_tail = tail;
	notify();
}

/* Pages of the map stay in a pipe for a while: they are ours then, whoever gives them back. */
static void pipe_pages(void)
{
	static int p[2] = {-1, -1};
	size_t data = mailbox()->cmdr_off + mailbox()->cmdr_size;
	struct iovec v = {map + ((data + any(map_size - data) / 64) & ~4095ul), 16384};

	if (p[0] >= 0) {
		close(p[0]);
		close(p[1]);
	}
	if (pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		p[0] = -1;
	else if (vmsplice(p[1], &v, 1, SPLICE_F_NONBLOCK) < 0)
		return; /* EFAULT: nothing there */
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
	switch (any(48)) {
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
	case 10:
	case 11:
		pipe_pages();
		break;
	case 12:
		act("reset_ring", 1 + (unsigned int)any(2));
		break;
	case 13:
		act("block_dev", 1);
		act("block_dev", 0);
		break;
	case 14:
	case 15:
		for (int i = 0; i < 16; i++)
			act("free_kept_buf", (unsigned int)any(64));
		break;
	default:
		if (any(3) == 0)
			touch_data();
		else if (any(4))
			answer_in_any_order();
		else
			behave();
	}
}

static void work(unsigned int seconds)
{
	struct sigaction sa = {.sa_handler = on_sigbus};
	time_t end = time(NULL) + (time_t)seconds;

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL); /* a lied-about ring leads us outside our own map */
	attach();
	while (time(NULL) < end) {
		steps++;
		if (sigsetjmp(after_sigbus, 1) == 0)
			step();
	}
	finish();
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
			uio = strsep(&argv[i], "=");
			backstore = argv[i];
			map_size = read_map_size();
			state = strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15u + (uint64_t)i;
			work((unsigned int)atoi(argv[1]));
		}
	}
	while (wait(&status) > 0)
		bad |= !WIFEXITED(status) || WEXITSTATUS(status);
	return bad;
}
