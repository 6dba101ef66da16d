/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Work for a handler, checked: runner_load HANDLER CFGSTRING SIZE SECONDS [DEPTH]. Two kinds of
 * workers, DEPTH in all, each with one command in flight that is followed by the next out of its
 * completion, as the runner does with compound commands:
 *
 *   writers   each in a region of its own: write a pattern, now and then unmap or WRITE SAME
 *             instead, read it back, compare
 *   counters  all on a few blocks that they share: read the block, COMPARE AND WRITE it with the
 *             number in it one higher. At the end the number must be that of the commands which
 *             succeeded: none was carried out twice, none not at all
 *
 * What goes wrong in the meantime (a daemon that is killed) must not show. Prints "ready" when all
 * are at work, ends after SECONDS or by SIGTERM, and prints one line of figures. Exit status 0: no
 * error.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fake_runner.h"

#define BLOCK	   512u
#define REGION	   (64u << 10)
#define COUNTERS   4u
#define DEPTH_MAX  256u
#define CDB_READ   0x28
#define CDB_WRITE  0x2A
#define CDB_CAW	   0x89
#define CDB_OTHERS 0x42

struct worker {
	struct fake_cmd cmd;
	struct iovec iov[3];
	uint32_t index, round;
	uint8_t data[REGION], seen[REGION];
	enum { CHANGE, CHECK, LOOK, COUNT } step;
};

static struct tcmur_handler *h;
static struct tcmu_device dev;
static struct worker *workers;
static unsigned depth = 32;
static uint64_t size;
static _Atomic bool stop;
static _Atomic unsigned running;
static _Atomic uint64_t ops, errors, max_ms, counted[COUNTERS], missed;
static uint64_t began_ms[DEPTH_MAX];

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static bool is_counter(const struct worker *w)
{
	return w->index % 4 == 0;
}

static uint64_t place_of(const struct worker *w)
{
	return is_counter(w) ? size - BLOCK * (1 + w->index / 4 % COUNTERS)
			     : (uint64_t)w->index * REGION;
}

static void fail(struct worker *w, const char *what)
{
	fprintf(stderr, "worker %u round %u: %s (status %d)\n", w->index, w->round, what,
		w->cmd.status);
	atomic_fetch_add(&errors, 1);
}

static void worker_done(struct fake_cmd *c);

static void set_iov(struct worker *w, void *p, size_t len)
{
	/* In pieces, as the kernel gives it. */
	w->iov[0] = (struct iovec){p, len / 3};
	w->iov[1] = (struct iovec){(char *)p + len / 3, 0};
	w->iov[2] = (struct iovec){(char *)p + len / 3, len - len / 3};
}

static void begin(struct worker *w, uint8_t opcode)
{
	fake_cmd_init(&w->cmd, &dev, opcode);
	w->cmd.done = worker_done;
	w->cmd.ctx = w;
	began_ms[w->index] = now_ms();
	h->handle_cmd(&dev, &w->cmd.cmd);
}

static int do_read(struct worker *w, size_t len)
{
	set_iov(w, w->seen, len);
	begin(w, CDB_READ);
	return h->read(&dev, &w->cmd.cmd, w->iov, 3, len, (off_t)place_of(w));
}

static int do_change(struct worker *w)
{
	uint64_t place = place_of(w);
	struct iovec one = {w->data, BLOCK};

	w->round++;
	for (size_t i = 0; i < REGION; i++)
		w->data[i] = (uint8_t)((i % BLOCK) * 3 + w->round * 17 + w->index);
	switch (w->round % 8) {
	case 3:
		memset(w->data, 0, REGION);
		begin(w, CDB_OTHERS);
		return h->unmap(&dev, &w->cmd.cmd, place, REGION);
	case 6:
		begin(w, CDB_OTHERS);
		w->iov[0] = one;
		return h->writesame(&dev, &w->cmd.cmd, place, REGION, w->iov, 1);
	default:
		set_iov(w, w->data, REGION);
		begin(w, CDB_WRITE);
		return h->write(&dev, &w->cmd.cmd, w->iov, 3, REGION, (off_t)place);
	}
}

static int do_count(struct worker *w)
{
	uint64_t n;

	memcpy(w->data, w->seen, BLOCK);
	memcpy(w->data + BLOCK, w->seen, BLOCK);
	memcpy(&n, w->seen, sizeof(n));
	n++;
	memcpy(w->data + BLOCK, &n, sizeof(n));
	memset(w->data + BLOCK + sizeof(n), (int)w->index, BLOCK - sizeof(n));
	set_iov(w, w->data, 2 * BLOCK);
	begin(w, CDB_CAW);
	return h->caw(&dev, &w->cmd.cmd, place_of(w), BLOCK, w->iov, 3);
}

/** Sends the next command of @w, or lets it end. */
static void next(struct worker *w)
{
	int accepted;

	if (atomic_load(&stop) && (w->step == CHANGE || w->step == LOOK)) {
		atomic_fetch_sub(&running, 1);
		return;
	}
	accepted = w->step == CHANGE  ? do_change(w)
		   : w->step == CHECK ? do_read(w, REGION)
		   : w->step == LOOK  ? do_read(w, BLOCK)
				      : do_count(w);
	if (accepted != TCMU_OK) {
		w->cmd.status = accepted;
		fail(w, "refused");
		atomic_fetch_sub(&running, 1);
	}
}

static void note_time(const struct worker *w)
{
	uint64_t ms = now_ms() - began_ms[w->index], max = atomic_load(&max_ms);

	while (ms > max && !atomic_compare_exchange_weak(&max_ms, &max, ms))
		;
}

static void worker_done(struct fake_cmd *c)
{
	struct worker *w = c->ctx;
	bool miss = w->step == COUNT && c->status == TCMU_MISCOMPARE;

	note_time(w);
	atomic_fetch_add(&ops, 1);
	if (c->status != TCMU_OK && !miss)
		fail(w, "ended badly");
	else if (w->step == CHECK && memcmp(w->data, w->seen, REGION))
		fail(w, "read what was not written");
	else if (miss)
		atomic_fetch_add(&missed, 1);
	else if (w->step == COUNT)
		atomic_fetch_add(&counted[w->index / 4 % COUNTERS], 1);
	w->step = w->step == CHANGE  ? CHECK
		  : w->step == CHECK ? CHANGE
		  : w->step == LOOK  ? COUNT
				     : LOOK;
	next(w);
}

/** One command at a time. */
static void check_counters(void)
{
	for (unsigned i = 0; i < COUNTERS && i * 4 < depth; i++) {
		uint8_t block[BLOCK];
		struct iovec iov = {block, BLOCK};
		struct fake_cmd c;
		uint64_t n;

		fake_cmd_init(&c, &dev, CDB_READ);
		if (fake_wait(&c, h->read(&dev, &c.cmd, &iov, 1, BLOCK,
					  (off_t)(size - BLOCK * (1 + i)))) != TCMU_OK) {
			fprintf(stderr, "counter %u cannot be read\n", i);
			atomic_fetch_add(&errors, 1);
			continue;
		}
		memcpy(&n, block, sizeof(n));
		if (n != atomic_load(&counted[i])) {
			fprintf(stderr, "counter %u is %llu, %llu commands have succeeded\n", i,
				(unsigned long long)n, (unsigned long long)counted[i]);
			atomic_fetch_add(&errors, 1);
		}
	}
}

static int run(unsigned seconds, sigset_t term)
{
	struct timespec limit = {.tv_sec = seconds};
	uint64_t total = 0;

	atomic_store(&running, depth);
	for (unsigned i = 0; i < depth; i++) {
		workers[i].index = i;
		workers[i].step = is_counter(&workers[i]) ? LOOK : CHANGE;
		next(&workers[i]);
	}
	printf("ready\n");
	fflush(stdout);
	sigtimedwait(&term, NULL, &limit);
	atomic_store(&stop, true);
	while (atomic_load(&running))
		usleep(1000);
	check_counters();
	for (unsigned i = 0; i < COUNTERS; i++)
		total += atomic_load(&counted[i]);
	printf("ops=%llu counted=%llu missed=%llu max_ms=%llu errors=%llu\n",
	       (unsigned long long)atomic_load(&ops), (unsigned long long)total,
	       (unsigned long long)atomic_load(&missed), (unsigned long long)atomic_load(&max_ms),
	       (unsigned long long)atomic_load(&errors));
	return atomic_load(&errors) ? 1 : 0;
}

int main(int argc, char **argv)
{
	char *reason = NULL;
	sigset_t term;
	int rc;

	if (argc < 5) {
		fprintf(stderr, "usage: runner_load HANDLER CFGSTRING SIZE SECONDS [DEPTH]\n");
		return 2;
	}
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, NULL);
	size = strtoull(argv[3], NULL, 0);
	if (argc > 5)
		depth = (unsigned)atoi(argv[5]);
	h = fake_load(argv[1]);
	if (!h || depth < 1 || depth > DEPTH_MAX || size < (depth + 1) * (uint64_t)REGION)
		return 2;
	workers = calloc(depth, sizeof(*workers));
	if (!workers)
		return 2;
	if (!h->check_config(argv[2], &reason)) {
		fprintf(stderr, "refused: %s\n", reason);
		free(reason);
		return 2;
	}
	fake_device_init(&dev, argv[2], size, BLOCK);
	if (h->open(&dev, false))
		return 2;
	rc = run((unsigned)atoi(argv[4]), term);
	h->close(&dev);
	fake_device_destroy(&dev);
	free(workers);
	return rc;
}
