/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random operations on a file, each checked against what the file must hold: what fsx does for file
 * systems, for a file that is a disk. Its size is given; it may grow where that is allowed, and
 * never shrinks; past its end there is no room.
 *
 *	file_exerciser [options] FILE
 *
 * All numbers come from the seed, so the same seed and --ops give the same operations. The model is
 * the file's bytes in memory: read at the beginning, changed with each operation, compared with
 * each read, and as a whole now and then. Nobody else may write to the file.
 *
 * Exit 0: all was as it must be; 1: not, with what differs and the last operations on stderr (those
 * that touched the byte are marked); 2: bad usage.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

#define LOG_LEN	   100u
#define PAGE	   4096u
#define PAST_END   (64u << 10) /* how far ranges go past the end */
#define GROWTH_MAX (1u << 20)
#define NEARBY	   (64u << 10)
#define ZERO_KEEP  (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

static const char help[] =
	"usage: file_exerciser [options] FILE\n"
	"  --ops N        how many operations (default: no end)\n"
	"  --seconds S    how long (default 10); SIGTERM ends it early, with all checks\n"
	"  --seed N       of what is done (default 1)\n"
	"  --max-len N    bytes of an operation (default 1048576)\n"
	"  --shared       write through shared mappings, too\n"
	"  --grow-to N    truncate may grow the file up to N bytes (default: it may not)\n";

struct record {
	uint64_t number, off, len;
	const struct operation *op;
	int flags; /* that the file is open with */
};

struct exerciser {
	/* constant */
	const char *path;
	uint64_t ops, seconds, seed, max_len, max_size;
	bool shared;

	int fd, flags;
	uint64_t size;
	uint8_t *model, *buf; /* max_size and max_len bytes */
	bool dirty;	      /* written through a mapping, and not synchronized since */

	uint64_t random, last_off;
	struct record log[LOG_LEN]; /* a ring */
	uint64_t n;		    /* operations begun */
	uint64_t bytes;		    /* compared */
};

struct operation {
	const char *name;
	unsigned weight;
	void (*run)(struct exerciser *x, uint64_t off, uint64_t len);
};

static volatile sig_atomic_t ended;

static void on_term(int sig)
{
	ended = 1;
}

/* xorshift64* */
static uint64_t draw(struct exerciser *x, uint64_t below)
{
	x->random ^= x->random >> 12;
	x->random ^= x->random << 25;
	x->random ^= x->random >> 27;
	return (x->random * 2685821657736338717ull >> 16) % below;
}

/* --- when something is wrong --- */

static void print_record(const struct record *r, uint64_t at)
{
	bool touches = at >= r->off && at - r->off < r->len;

	fprintf(stderr, "%c %10" PRIu64 " %-10s %#11" PRIx64 " + %#8" PRIx64 "%s%s\n",
		touches ? '*' : ' ', r->number, r->op->name, r->off, r->len,
		r->flags & O_DIRECT ? " O_DIRECT" : "", r->flags & O_DSYNC ? " O_DSYNC" : "");
}

#define NOWHERE UINT64_MAX

/* @at: the byte that is wrong, or NOWHERE. The message has been printed. */
static _Noreturn void fail(struct exerciser *x, uint64_t at)
{
	uint64_t first = x->n > LOG_LEN ? x->n - LOG_LEN : 0;

	fprintf(stderr, "seed %" PRIu64 ", size %#" PRIx64 "; the last operations:\n", x->seed,
		x->size);
	for (uint64_t i = first; i < x->n; i++)
		print_record(&x->log[i % LOG_LEN], at);
	exit(1);
}

/* A call has returned @got; -1 with errno. */
static void expect(struct exerciser *x, const char *what, int64_t got, int64_t wanted)
{
	if (got == wanted)
		return;
	fprintf(stderr, "%s: returned %" PRId64 " (%s), not %" PRId64 "\n", what, got,
		got < 0 ? strerror(errno) : "no error", wanted);
	fail(x, NOWHERE);
}

static void expect_errno(struct exerciser *x, const char *what, int64_t got, int wanted)
{
	if (got < 0 && errno == wanted)
		return;
	fprintf(stderr, "%s: returned %" PRId64 " (%s), not %s\n", what, got,
		got < 0 ? strerror(errno) : "no error", strerror(wanted));
	fail(x, NOWHERE);
}

static void compare(struct exerciser *x, const uint8_t *got, uint64_t off, uint64_t len)
{
	const uint8_t *wanted = x->model + off;
	uint64_t first = 0, wrong = 0;

	x->bytes += len;
	if (memcmp(got, wanted, len) == 0)
		return;
	for (uint64_t i = len; i-- > 0;) {
		if (got[i] != wanted[i]) {
			first = i;
			wrong++;
		}
	}
	fprintf(stderr,
		"%" PRIu64 " bytes of %" PRIu64 " at %#" PRIx64 " are wrong; the first at %#" PRIx64
		": %#x, not %#x\n",
		wrong, len, off, off + first, got[first], wanted[first]);
	fail(x, off + first);
}

static bool is_zero(const uint8_t *p, uint64_t len)
{
	return !len || (!p[0] && memcmp(p, p + 1, len - 1) == 0);
}

/* --- operations; off + len may be past the end --- */

/* Of @len bytes at @off, those that the file has. */
static uint64_t clip(const struct exerciser *x, uint64_t off, uint64_t len)
{
	if (off >= x->size)
		return 0;
	return len < x->size - off ? len : x->size - off;
}

static void do_read(struct exerciser *x, uint64_t off, uint64_t len)
{
	uint64_t n = clip(x, off, len);

	expect(x, "read", pread(x->fd, x->buf, len, (off_t)off), (int64_t)n);
	compare(x, x->buf, off, n);
}

static void fill(struct exerciser *x, uint64_t len)
{
	for (uint64_t i = 0; i < len; i += sizeof(uint64_t)) {
		uint64_t word = draw(x, UINT64_MAX);

		memcpy(x->buf + i, &word, len - i < sizeof(word) ? len - i : sizeof(word));
	}
}

static void do_write(struct exerciser *x, uint64_t off, uint64_t len)
{
	uint64_t n = clip(x, off, len);

	/* Pages in the cache, O_DIRECT, and the end in between: Linux makes EIO of the short write.
	 */
	if (n && x->shared && x->flags & O_DIRECT)
		len = n;
	fill(x, len);
	if (!n) {
		expect_errno(x, "write past the end", pwrite(x->fd, x->buf, len, (off_t)off),
			     ENOSPC);
		return;
	}
	expect(x, "write", pwrite(x->fd, x->buf, len, (off_t)off), (int64_t)n);
	memcpy(x->model + off, x->buf, n);
}

/* The pages of a range, which is in them at *ret_at. Fresh ones each time, so that they fault. */
static uint8_t *map(struct exerciser *x, uint64_t off, uint64_t len, int prot, uint8_t **ret_at)
{
	uint64_t lead = off % PAGE;
	int kind = x->shared ? MAP_SHARED : MAP_PRIVATE;
	void *p = mmap(NULL, lead + len, prot, kind, x->fd, (off_t)(off - lead));

	if (p == MAP_FAILED)
		expect(x, "mmap", -1, 0);
	*ret_at = (uint8_t *)p + lead;
	return p;
}

static void do_map_read(struct exerciser *x, uint64_t off, uint64_t len)
{
	uint64_t n = clip(x, off, len);
	uint8_t *at, *p;

	if (!n)
		return;
	p = map(x, off, n, PROT_READ, &at);
	compare(x, at, off, n);
	munmap(p, (size_t)(at - p) + n);
}

static void do_map_write(struct exerciser *x, uint64_t off, uint64_t len)
{
	uint64_t n = clip(x, off, len);
	uint8_t *at, *p;

	if (!n || !x->shared)
		return;
	fill(x, n);
	p = map(x, off, n, PROT_READ | PROT_WRITE, &at);
	memcpy(at, x->buf, n);
	memcpy(x->model + off, x->buf, n);
	if (draw(x, 2))
		expect(x, "msync", msync(p, (size_t)(at - p) + n, MS_SYNC), 0);
	else
		x->dirty = true;
	munmap(p, (size_t)(at - p) + n);
}

static void zero(struct exerciser *x, const char *what, int mode, uint64_t off, uint64_t len)
{
	uint64_t n = clip(x, off, len);
	int r = fallocate(x->fd, mode, (off_t)off, (off_t)len);

	if (mode == FALLOC_FL_ZERO_RANGE && n < len) {
		expect_errno(x, "zero past the end", r, ENOSPC);
		return;
	}
	expect(x, what, r, 0);
	memset(x->model + off, 0, n);
}

static void do_punch(struct exerciser *x, uint64_t off, uint64_t len)
{
	zero(x, "punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
}

static void do_zero(struct exerciser *x, uint64_t off, uint64_t len)
{
	zero(x, "zero", draw(x, 2) ? FALLOC_FL_ZERO_RANGE : ZERO_KEEP, off, len);
}

static void do_sync(struct exerciser *x, uint64_t off, uint64_t len)
{
	if (draw(x, 2))
		expect(x, "fsync", fsync(x->fd), 0);
	else
		expect(x, "fdatasync", fdatasync(x->fd), 0);
	x->dirty = false;
}

/* From @off on: data, the hole after them, the data after that. What is no data is zero. */
static void do_seek(struct exerciser *x, uint64_t off, uint64_t len)
{
	int64_t data, hole, size = (int64_t)x->size;

	if (x->dirty)
		do_sync(x, 0, 0);
	if (off >= x->size) {
		expect_errno(x, "seek past the end", lseek(x->fd, (off_t)off, SEEK_DATA), ENXIO);
		return;
	}
	hole = lseek(x->fd, (off_t)off, SEEK_HOLE);
	if (hole < (int64_t)off || hole > size)
		expect(x, "hole", hole, size);
	data = lseek(x->fd, hole, SEEK_DATA);
	if (data < 0 && hole < size)
		expect_errno(x, "data", data, ENXIO);
	if (data < 0)
		data = size;
	if (data < hole || data > size || (data == hole && hole < size))
		expect(x, "data", data, size);
	if (!is_zero(x->model + hole, (uint64_t)(data - hole))) {
		fprintf(stderr, "%#" PRIx64 " to %#" PRIx64 " is a hole, but has data\n", hole,
			data);
		fail(x, (uint64_t)hole);
	}
}

static void check_size(struct exerciser *x)
{
	struct stat st;

	expect(x, "stat", fstat(x->fd, &st), 0);
	expect(x, "size", st.st_size, (int64_t)x->size);
}

static void do_truncate(struct exerciser *x, uint64_t off, uint64_t len)
{
	uint64_t to = x->size + (1 + draw(x, GROWTH_MAX / PAGE)) * PAGE;

	expect_errno(x, "shrink", ftruncate(x->fd, (off_t)draw(x, x->size)), EPERM);
	if (to <= x->max_size) {
		expect(x, "grow", ftruncate(x->fd, (off_t)to), 0);
		x->size = to;
	}
	check_size(x);
}

static void compare_all(struct exerciser *x)
{
	for (uint64_t off = 0; off < x->size; off += x->max_len)
		do_read(x, off, x->max_len);
}

static void open_file(struct exerciser *x)
{
	x->fd = open(x->path, O_RDWR | O_CLOEXEC | x->flags);
	expect(x, "open", x->fd < 0 ? -1 : 0, 0);
}

static void do_reopen(struct exerciser *x, uint64_t off, uint64_t len)
{
	static const int flags[] = {0, 0, O_DIRECT, O_DSYNC};

	expect(x, "close", close(x->fd), 0);
	x->flags = flags[draw(x, sizeof(flags) / sizeof(flags[0]))];
	open_file(x);
	check_size(x);
	if (!draw(x, 8))
		compare_all(x);
}

/* What the kernel keeps of the file is forgotten. */
static void do_drop(struct exerciser *x, uint64_t off, uint64_t len)
{
	errno = posix_fadvise(x->fd, (off_t)off, (off_t)len, POSIX_FADV_DONTNEED);
	expect(x, "fadvise", errno ? -1 : 0, 0);
}

static const struct operation operations[] = {
	{"read", 30, do_read},		{"write", 30, do_write},  {"map read", 8, do_map_read},
	{"map write", 8, do_map_write}, {"punch", 6, do_punch},	  {"zero", 6, do_zero},
	{"seek", 4, do_seek},		{"sync", 2, do_sync},	  {"drop", 2, do_drop},
	{"truncate", 1, do_truncate},	{"reopen", 3, do_reopen},
};

/* --- the run --- */

static const struct operation *draw_operation(struct exerciser *x)
{
	const struct operation *op = operations;
	unsigned total = 0, n;

	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		total += operations[i].weight;
	for (n = (unsigned)draw(x, total); n >= op->weight; op++)
		n -= op->weight;
	return op;
}

/* All lengths, short ones as often as long ones; one place in four is near the last one. */
static void draw_range(struct exerciser *x, uint64_t *ret_off, uint64_t *ret_len)
{
	uint64_t len = 1 + draw(x, x->max_len >> draw(x, 12)), off = draw(x, x->size + PAST_END);

	if (!draw(x, 4)) {
		off = x->last_off + draw(x, 2 * NEARBY);
		off = off > NEARBY ? off - NEARBY : 0;
	}
	if (draw(x, 2))
		off -= off % PAGE;
	if (draw(x, 2))
		len = (len + PAGE - 1) / PAGE * PAGE;
	x->last_off = off;
	*ret_off = off;
	*ret_len = len < x->max_len ? len : x->max_len;
}

static void run_one(struct exerciser *x)
{
	struct record *r = &x->log[x->n % LOG_LEN];

	*r = (struct record){.number = x->n++, .op = draw_operation(x), .flags = x->flags};
	draw_range(x, &r->off, &r->len);
	r->op->run(x, r->off, r->len);
}

static void prepare(struct exerciser *x)
{
	struct stat st;

	x->fd = open(x->path, O_RDWR | O_CLOEXEC);
	if (x->fd < 0 || fstat(x->fd, &st) < 0)
		err(2, "%s", x->path);
	x->size = (uint64_t)st.st_size;
	if (!x->size)
		errx(2, "%s: empty", x->path);
	if (x->max_size < x->size)
		x->max_size = x->size;
	x->random = x->seed * 0x9e3779b97f4a7c15ull + 1;
	x->model = calloc(1, x->max_size);
	x->buf = malloc(x->max_len);
	if (!x->model || !x->buf)
		errx(2, "out of memory");
	for (uint64_t off = 0; off < x->size;) {
		ssize_t n = pread(x->fd, x->model + off, x->size - off, (off_t)off);

		if (n <= 0)
			err(2, "%s: read", x->path);
		off += (uint64_t)n;
	}
}

static bool take_options(struct exerciser *x, int argc, char **argv)
{
	static const struct option options[] = {
		{"ops", required_argument, NULL, 'o'},
		{"seconds", required_argument, NULL, 's'},
		{"seed", required_argument, NULL, 'r'},
		{"max-len", required_argument, NULL, 'm'},
		{"grow-to", required_argument, NULL, 'g'},
		{"shared", no_argument, NULL, 'S'},
		{0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		uint64_t number = optarg ? strtoull(optarg, NULL, 0) : 0;

		if (c == 'o')
			x->ops = number;
		else if (c == 's')
			x->seconds = number;
		else if (c == 'r')
			x->seed = number;
		else if (c == 'm')
			x->max_len = number;
		else if (c == 'g')
			x->max_size = number;
		else if (c == 'S')
			x->shared = true;
		else
			return false;
	}
	x->path = argv[optind];
	return optind == argc - 1 && x->max_len >= PAGE;
}

int main(int argc, char **argv)
{
	struct exerciser x = {.ops = UINT64_MAX, .seconds = 10, .seed = 1, .max_len = 1u << 20};
	uint64_t end_ns;

	if (!take_options(&x, argc, argv)) {
		fputs(help, stderr);
		return 2;
	}
	signal(SIGTERM, on_term);
	prepare(&x);
	end_ns = clock_now_ns() + x.seconds * NSEC_PER_SEC;
	while (!ended && x.n < x.ops && clock_now_ns() < end_ns)
		run_one(&x);
	compare_all(&x);
	printf("seed %" PRIu64 ": %" PRIu64 " operations, %" PRIu64
	       " MiB compared: all as it must be\n",
	       x.seed, x.n, x.bytes >> 20);
	close(x.fd);
	free(x.model);
	free(x.buf);
	return 0;
}
