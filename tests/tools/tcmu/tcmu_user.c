/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The least userspace that target_core_user can have: disks in memory, for tests of the module.
 *
 *	tcmu_user [--hold BYTES] [--forget] PREFIX
 *
 * serves every uio device tcm-user/HBA/NAME/... whose NAME begins with PREFIX, in one thread, and
 * prints "ready N" once it has opened all N. Commands that transfer BYTES or more are not
 * answered before SIGUSR1 comes ("held N" is printed as each one comes); others overtake them
 * (completion out of order). After SIGUSR1 ("released") none is held, until SIGUSR2 ("holding").
 * SIGHUP answers one of each device's. SIGTERM ends it: what is unanswered then stays so. The
 * option --forget has a second thread take all maps out of its page tables (MADV_DONTNEED), over
 * and over, so that any access may fault.
 *
 * A request is copied out of the ring when it is seen, because answers go to whatever entry is at
 * the tail: the answer to a later command may overwrite the entry of an earlier, held one.
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/uio.h>
#include <unistd.h>

#define __LINUX_UIO_H /* struct iovec is the C library's */
#include <linux/target_core_user.h>

#include "base/endian.h"
#include "base/list.h"

enum { SENSE_INVALID_OPCODE = 0x20, SENSE_OUT_OF_RANGE = 0x21, MAX_IOV = 4096 };

struct request {
	struct list_node link; /* in disk.held */
	uint16_t id;
	uint8_t cdb[16];
	uint32_t iovs;
	struct iovec iov[]; /* iov_base: offset in the map */
};

struct disk {
	int fd;
	char *map;
	size_t map_size;
	uint32_t seen; /* ring offset of the next entry to look at */
	struct list_node held;
	char *store;
	uint64_t size;
	uint32_t block;
};

static const struct option options[] = {
	{"hold", required_argument, NULL, 'h'},
	{"forget", no_argument, NULL, 'f'},
	{0},
};

static struct {
	struct disk **disk;
	int n;
} all;

static size_t hold_from = SIZE_MAX;
static bool holding = true;
static unsigned int held;

static struct tcmu_mailbox *mailbox(struct disk *d)
{
	return (struct tcmu_mailbox *)d->map;
}

static struct tcmu_cmd_entry *entry_at(struct disk *d, uint32_t offset)
{
	return (struct tcmu_cmd_entry *)(d->map + mailbox(d)->cmdr_off + offset);
}

static uint32_t entry_after(struct disk *d, uint32_t offset)
{
	return (offset + tcmu_hdr_get_len(entry_at(d, offset)->hdr.len_op)) % mailbox(d)->cmdr_size;
}

static size_t request_bytes(const struct request *r)
{
	size_t n = 0;

	for (uint32_t i = 0; i < r->iovs; i++)
		n += r->iov[i].iov_len;
	return n;
}

/* Copies between @r's data area and @buf; @to_area says which way. */
static void copy_data(struct disk *d, const struct request *r, char *buf, size_t len, bool to_area)
{
	for (uint32_t i = 0; i < r->iovs && len; i++) {
		char *area = d->map + (uintptr_t)r->iov[i].iov_base;
		size_t n = r->iov[i].iov_len < len ? r->iov[i].iov_len : len;

		memcpy(to_area ? area : buf, to_area ? buf : area, n);
		buf += n;
		len -= n;
	}
}

/* Moves the tail over entries that want no answer: padding and task management. */
static void skip_unanswerable(struct disk *d)
{
	struct tcmu_mailbox *mb = mailbox(d);
	uint32_t tail = mb->cmd_tail;

	while (tail != d->seen && tcmu_hdr_get_op(entry_at(d, tail)->hdr.len_op) != TCMU_OP_CMD)
		tail = entry_after(d, tail);
	__atomic_store_n(&mb->cmd_tail, tail, __ATOMIC_RELEASE);
}

/* Answers command @id with @sense (an additional sense code of ILLEGAL REQUEST), 0 for GOOD. */
static void answer(struct disk *d, uint16_t id, int sense)
{
	struct tcmu_mailbox *mb = mailbox(d);
	struct tcmu_cmd_entry *e;

	skip_unanswerable(d);
	e = entry_at(d, mb->cmd_tail);
	e->hdr.cmd_id = id;
	e->hdr.uflags = 0;
	memset(&e->rsp, 0, sizeof(e->rsp));
	if (sense) {
		e->rsp.scsi_status = 0x02; /* CHECK CONDITION, fixed format, current */
		e->rsp.sense_buffer[0] = 0x70;
		e->rsp.sense_buffer[2] = 0x05;
		e->rsp.sense_buffer[7] = 10;
		e->rsp.sense_buffer[12] = (char)sense;
	}
	__atomic_store_n(&mb->cmd_tail, entry_after(d, mb->cmd_tail), __ATOMIC_RELEASE);
}

static int read_or_write(struct disk *d, const struct request *r, uint64_t lba, uint64_t blocks)
{
	bool write = (r->cdb[0] & 0x0f) == 0x0a;

	if (lba > d->size / d->block || blocks > d->size / d->block - lba)
		return SENSE_OUT_OF_RANGE;
	copy_data(d, r, d->store + lba * d->block, blocks * d->block, !write);
	return 0;
}

static int inquiry(struct disk *d, const struct request *r)
{
	uint8_t page[96] = {0};

	if (!(r->cdb[1] & 1)) {
		page[2] = 0x05;
		page[4] = sizeof(page) - 5;
		page[7] = 0x02; /* CMDQUE */
		memcpy(page + 8, "EBB     TCMU-TEST       0001", 28);
	} else if (r->cdb[2] != 0) {
		return 0x24; /* INVALID FIELD IN CDB: of VPD pages there is only their list */
	} else {
		page[3] = 1;
	}
	copy_data(d, r, (char *)page, sizeof(page), true);
	return 0;
}

/* Executes @r; 0 or an additional sense code. */
static int execute(struct disk *d, const struct request *r)
{
	const uint8_t *cdb = r->cdb;
	uint64_t last = d->size / d->block - 1;
	uint8_t buf[32] = {0};

	switch (cdb[0]) {
	case 0x00: /* TEST UNIT READY, START STOP UNIT, SYNCHRONIZE CACHE */
	case 0x1b:
	case 0x35:
	case 0x91:
		return 0;
	case 0x12:
		return inquiry(d, r);
	case 0x1a: /* MODE SENSE: no page */
		buf[0] = 3;
		copy_data(d, r, (char *)buf, 4, true);
		return 0;
	case 0x5a:
		buf[1] = 6;
		copy_data(d, r, (char *)buf, 8, true);
		return 0;
	case 0x25:
		put_be32(buf, last > UINT32_MAX ? UINT32_MAX : (uint32_t)last);
		put_be32(buf + 4, d->block);
		copy_data(d, r, (char *)buf, 8, true);
		return 0;
	case 0x9e:
		put_be64(buf, last);
		put_be32(buf + 8, d->block);
		copy_data(d, r, (char *)buf, 32, true);
		return 0;
	case 0x08:
	case 0x0a:
		return read_or_write(d, r, get_be32(cdb) & 0x1fffff, cdb[4] ? cdb[4] : 256);
	case 0x28:
	case 0x2a:
		return read_or_write(d, r, get_be32(cdb + 2), get_be16(cdb + 7));
	case 0x88:
	case 0x8a:
		return read_or_write(d, r, get_be64(cdb + 2), get_be32(cdb + 10));
	default:
		return SENSE_INVALID_OPCODE;
	}
}

static void take_command(struct disk *d, const struct tcmu_cmd_entry *e)
{
	uint32_t n = e->req.iov_cnt < MAX_IOV ? e->req.iov_cnt : MAX_IOV;
	struct request *r = malloc(sizeof(*r) + n * sizeof(r->iov[0]));

	if (!r)
		err(1, "malloc");
	r->id = e->hdr.cmd_id;
	r->iovs = n;
	memcpy(r->cdb, d->map + e->req.cdb_off, sizeof(r->cdb));
	memcpy(r->iov, e->req.iov, n * sizeof(r->iov[0]));
	if (holding && request_bytes(r) >= hold_from) {
		list_add_tail(&d->held, &r->link);
		printf("held %u\n", ++held);
		return;
	}
	answer(d, r->id, execute(d, r));
	free(r);
}

static void kick(struct disk *d)
{
	uint32_t one = 1;

	if (write(d->fd, &one, sizeof(one)) != sizeof(one))
		err(1, "uio write");
}

static void serve(struct disk *d)
{
	uint32_t count, head;

	if (read(d->fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EIO)
		err(1, "uio read");
	while (d->seen != (head = __atomic_load_n(&mailbox(d)->cmd_head, __ATOMIC_ACQUIRE))) {
		while (d->seen != head) {
			struct tcmu_cmd_entry *e = entry_at(d, d->seen);

			d->seen = entry_after(d, d->seen);
			if (tcmu_hdr_get_op(e->hdr.len_op) == TCMU_OP_CMD)
				take_command(d, e);
		}
		skip_unanswerable(d);
		kick(d);
	}
}

/* Answers up to @count held commands, the oldest first. */
static void release_held(struct disk *d, unsigned int count)
{
	struct list_node *n;

	while (count-- && (n = list_pop(&d->held))) {
		struct request *r = container_of(n, struct request, link);

		answer(d, r->id, execute(d, r));
		free(r);
	}
	kick(d);
}

static uint64_t read_number(const char *path, int base)
{
	char text[32] = "";
	FILE *f = fopen(path, "re");

	if (!f || !fgets(text, sizeof(text), f))
		err(1, "%s", path);
	fclose(f);
	return strtoull(text, NULL, base);
}

static struct disk *open_disk(const char *uio, const char *hba, const char *name)
{
	struct disk *d = calloc(1, sizeof(*d));
	char path[PATH_MAX];

	if (!d)
		err(1, "calloc");
	list_init(&d->held);
	snprintf(path, sizeof(path), "/sys/class/uio/%s/maps/map0/size", uio);
	d->map_size = read_number(path, 0);
	snprintf(path, sizeof(path), "/sys/kernel/config/target/core/user_%s/%s/attrib/dev_size",
		 hba, name);
	d->size = read_number(path, 10);
	snprintf(path, sizeof(path),
		 "/sys/kernel/config/target/core/user_%s/%s/attrib/hw_block_size", hba, name);
	d->block = (uint32_t)read_number(path, 10);
	snprintf(path, sizeof(path), "/dev/%s", uio);
	d->fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (d->fd < 0)
		err(1, "%s", path);
	d->map = mmap(NULL, d->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);
	d->store = mmap(NULL, d->size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (d->map == MAP_FAILED || d->store == MAP_FAILED)
		err(1, "mmap");
	d->seen = mailbox(d)->cmd_tail;
	return d;
}

/* Opens all devices whose name begins with @prefix. */
static void open_all(const char *prefix, int ep)
{
	DIR *dir = opendir("/sys/class/uio");
	struct dirent *de;

	if (!dir)
		err(1, "/sys/class/uio");
	while ((de = readdir(dir))) {
		char path[PATH_MAX], text[512] = "", hba[16], name[256];
		struct epoll_event ev = {.events = EPOLLIN};
		FILE *f;

		snprintf(path, sizeof(path), "/sys/class/uio/%s/name", de->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (!fgets(text, sizeof(text), f))
			text[0] = '\0';
		fclose(f);
		if (sscanf(text, "tcm-user/%15[^/]/%255[^/\n]", hba, name) != 2 ||
		    strncmp(name, prefix, strlen(prefix)) != 0)
			continue;
		all.disk = reallocarray(all.disk, (size_t)all.n + 1, sizeof(*all.disk));
		if (!all.disk)
			err(1, "reallocarray");
		ev.data.ptr = all.disk[all.n++] = open_disk(de->d_name, hba, name);
		if (epoll_ctl(ep, EPOLL_CTL_ADD, all.disk[all.n - 1]->fd, &ev))
			err(1, "epoll_ctl");
	}
	closedir(dir);
}

/* Does what a signal says; false: ends. */
static bool obey(int sig)
{
	struct signalfd_siginfo si;

	if (read(sig, &si, sizeof(si)) != sizeof(si) || si.ssi_signo == SIGTERM)
		return false;
	if (si.ssi_signo != SIGHUP)
		holding = si.ssi_signo == SIGUSR2;
	for (int i = 0; i < all.n && si.ssi_signo != SIGUSR2; i++)
		release_held(all.disk[i], holding ? 1 : UINT_MAX);
	held = 0;
	printf("%s\n", holding ? "holding" : "released");
	return true;
}

static void *forget(void *arg)
{
	for (;;) {
		for (int i = 0; i < all.n; i++)
			madvise(all.disk[i]->map, all.disk[i]->map_size, MADV_DONTNEED);
		usleep(100);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
	struct epoll_event ev = {.events = EPOLLIN};
	int ep = epoll_create1(EPOLL_CLOEXEC), sig;
	bool forgetful = false;
	pthread_t thread;
	sigset_t set;

	for (int opt; (opt = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (opt == 'h')
			hold_from = strtoull(optarg, NULL, 0);
		else if (opt == 'f')
			forgetful = true;
		else
			return 2;
	}
	if (optind != argc - 1)
		errx(2, "usage: tcmu_user [--hold BYTES] [--forget] PREFIX");
	setlinebuf(stdout);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sig = signalfd(-1, &set, SFD_CLOEXEC);
	if (ep < 0 || sig < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, sig, &ev))
		err(1, "epoll");
	setrlimit(RLIMIT_NOFILE, &files);
	open_all(argv[optind], ep);
	for (int i = 0; i < all.n; i++)
		serve(all.disk[i]);
	if (forgetful && pthread_create(&thread, NULL, forget, NULL))
		errx(1, "no thread");
	printf("ready %d\n", all.n);
	for (;;) {
		struct epoll_event evs[64];
		int got = epoll_wait(ep, evs, 64, -1);

		for (int i = 0; i < got; i++) {
			if (evs[i].data.ptr)
				serve(evs[i].data.ptr);
			else if (!obey(sig))
				return 0;
		}
	}
}
