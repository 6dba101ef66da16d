/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every op at random places in a small LUN, beside a model of it in memory: each way in, each mode,
 * without the cache, with it, and with its memory being taken in between. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#define SIZE  ((1u << 20) + 1536) /* ends within a page */
#define HOT   (256u << 10)	  /* where most happens, so that ops meet each other's pages */
#define STEPS 2500
#define LONG  (96u << 10)

enum caching { UNCACHED, CACHED, SQUEEZED };

struct setup {
	enum way way;
	enum block_mode mode;
	enum caching caching;
};

struct world {
	struct setup setup;
	struct lun *lun;
	uint8_t *model, *buf, *data;
	unsigned seed;
	int step;
};

static unsigned pick(struct world *w, unsigned n)
{
	return (unsigned)rand_r(&w->seed) / 7 % n;
}

struct range {
	uint64_t off, len;
};

/* Whole pages, whole sectors, or any bytes. */
static struct range pick_range(struct world *w, uint64_t max)
{
	static const unsigned units[] = {4096, 512, 1};
	unsigned unit = units[pick(w, 3)];
	uint64_t within = pick(w, 4) ? HOT : SIZE;
	struct range r = {.off = pick(w, (unsigned)within) / unit * unit};
	unsigned few = pick(w, 2) ? 2 * unit : (unsigned)max;

	r.len = (pick(w, few) / unit + 1) * unit;
	if (r.len > SIZE - r.off)
		r.len = SIZE - r.off;
	return r;
}

static unsigned pick_flags(struct world *w)
{
	static const unsigned flags[] = {
		0, 0, 0, 0, LUN_IO_DPO, LUN_IO_FUA, LUN_IO_UNSTABLE, LUN_IO_ATOMIC};

	return flags[pick(w, sizeof(flags) / sizeof(flags[0]))];
}

/* Memory for @len bytes, aligned or not, in one to three segments. */
static int scatter(struct world *w, uint8_t *p, uint64_t len, struct iovec v[3])
{
	uint64_t a = pick(w, (unsigned)len + 1), b = a + pick(w, (unsigned)(len - a) + 1);

	if (pick(w, 2)) {
		v[0] = (struct iovec){p, len};
		return 1;
	}
	v[0] = (struct iovec){p, a};
	v[1] = (struct iovec){p + a, b - a};
	v[2] = (struct iovec){p + b, len - b};
	return 3;
}

static int run(struct world *w, struct lun_io *io, uint8_t *p, uint64_t len)
{
	struct iovec v[3];

	io->iov = v;
	io->niov = p ? scatter(w, p, len, v) : 0;
	io->reg_index = -1;
	return do_io(w->lun, io, w->setup.way);
}

static void step_read(struct world *w, struct range r)
{
	struct lun_io io = {.op = LUN_READ, .flags = pick_flags(w), .off = r.off, .len = r.len};
	uint8_t *p = w->buf + pick(w, 3) * 13;

	memset(p, 0xee, r.len);
	assert_int_equal(run(w, &io, p, r.len), 0);
	if (memcmp(p, w->model + r.off, r.len))
		fail_msg("step %d: a read of %llu at %llu is not what was written", w->step,
			 (unsigned long long)r.len, (unsigned long long)r.off);
}

static void step_write(struct world *w, struct range r)
{
	struct lun_io io = {.op = LUN_WRITE, .flags = pick_flags(w), .off = r.off, .len = r.len};

	fill(w->data, r.len, (unsigned)w->step);
	memcpy(w->model + r.off, w->data, r.len);
	assert_int_equal(run(w, &io, w->data, r.len), 0);
	memset(w->data, 0xdd, r.len); /* it was ours again */
}

static void step_zero(struct world *w, struct range r)
{
	static const enum lun_op ops[] = {LUN_UNMAP, LUN_ZERO};
	struct lun_io io = {.op = ops[pick(w, 2)],
			    .flags = pick(w, 2) ? LUN_IO_MAY_UNMAP : 0,
			    .off = r.off,
			    .len = r.len};

	memset(w->model + r.off, 0, r.len);
	assert_int_equal(run(w, &io, NULL, 0), 0);
}

static void step_write_same(struct world *w, struct range r)
{
	struct lun_io io = {
		.op = LUN_WRITE_SAME, .off = r.off, .len = r.len & ~511ull, .pattern_len = 512};

	if (pick(w, 4))
		fill(w->data, 512, (unsigned)w->step);
	else
		memset(w->data, 0, 512);
	for (uint64_t i = 0; i < io.len; i += 512)
		memcpy(w->model + r.off + i, w->data, 512);
	assert_int_equal(run(w, &io, w->data, 512), 0);
}

static void step_compare_and_write(struct world *w, struct range r)
{
	struct lun_io io = {.op = LUN_COMPARE_AND_WRITE, .off = r.off, .len = r.len};
	bool equal = pick(w, 3);

	memcpy(w->data, w->model + r.off, r.len);
	w->data[r.len - 1] ^= equal ? 0 : 1;
	fill(w->data + r.len, r.len, (unsigned)w->step);
	if (equal)
		memcpy(w->model + r.off, w->data + r.len, r.len);
	assert_int_equal(run(w, &io, w->data, 2 * r.len), equal ? 0 : -EILSEQ);
}

static void step_or_write(struct world *w, struct range r)
{
	struct lun_io io = {.op = LUN_OR_WRITE, .off = r.off, .len = r.len};

	fill(w->data, r.len, (unsigned)w->step);
	for (uint64_t i = 0; i < r.len; i++)
		w->model[r.off + i] |= w->data[i];
	assert_int_equal(run(w, &io, w->data, r.len), 0);
}

static void step_copy(struct world *w, struct range r)
{
	struct lun_io io = {.op = LUN_COPY, .off = r.off, .len = r.len, .src = w->lun};

	io.src_off = pick(w, (unsigned)(SIZE - r.len) + 1);
	memmove(w->model + r.off, w->model + io.src_off, r.len);
	assert_int_equal(run(w, &io, NULL, 0), 0);
}

static void step_look(struct world *w, struct range r)
{
	static const enum lun_op ops[] = {LUN_VERIFY, LUN_PREFETCH};
	struct lun_io io = {.op = ops[pick(w, 2)], .off = r.off, .len = r.len};

	memcpy(w->data, w->model + r.off, r.len);
	assert_int_equal(run(w, &io, io.op == LUN_VERIFY ? w->data : NULL, r.len), 0);
}

/* In order and from anywhere, so that it is read ahead. */
static void step_scan(struct world *w, struct range r)
{
	uint64_t unit = pick(w, 2) ? 4096 : 512;

	for (uint64_t at = r.off; at + unit <= SIZE && at < r.off + 20 * unit; at += unit)
		step_read(w, (struct range){at, unit});
}

static void step(struct world *w)
{
	static void (*const steps[])(struct world *, struct range) = {
		step_read,     step_read,  step_read, step_read,       step_write,
		step_write,    step_write, step_zero, step_write_same, step_compare_and_write,
		step_or_write, step_copy,  step_look, step_scan};

	steps[pick(w, sizeof(steps) / sizeof(steps[0]))](w, pick_range(w, LONG));
	if (w->setup.caching == SQUEEZED && !pick(w, 8))
		harness_squeeze(pick(w, 4));
}

static void a_lun_is_like_memory(void **state)
{
	struct world w = {.setup = *(const struct setup *)*state, .seed = 11};
	struct lun_cache_stats s;

	harness_cached = w.setup.caching != UNCACHED;
	w.lun = make_lun("model", w.setup.mode, SIZE);
	w.model = calloc(1, SIZE);
	w.buf = malloc(SIZE + 64);
	w.data = malloc(2 * SIZE);
	for (w.step = 1; w.step <= STEPS; w.step++)
		step(&w);
	step_read(&w, (struct range){0, SIZE});
	if (harness_cached) {
		harness_squeeze(2);
		assert_true(lun_cache_stats(w.lun, &s));
		assert_true(s.cache.hits_memory > 0 && s.cache.hits_zero > 0);
		assert_true(s.cache.updates > 0);
		assert_true(w.setup.caching != SQUEEZED || s.cache.hits_tmem > 0);
	}
	lun_unref(w.lun);
	free(w.model);
	free(w.buf);
	free(w.data);
}

int main(void)
{
	static const char *const way_names[] = {"by a thread", "by a reactor"};
	static const char *const caching_names[] = {"uncached", "cached", "squeezed"};
	static struct setup setups[12];
	static char names[12][64];
	struct CMUnitTest tests[12];
	int n = 0, failed;

	for (int way = WAY_SYNC; way <= WAY_ASYNC; way++)
		for (int mode = BLOCK_MODE_DIRECT; mode <= BLOCK_MODE_BUFFERED; mode++)
			for (int c = UNCACHED; c <= SQUEEZED; c++, n++) {
				setups[n] = (struct setup){(enum way)way, (enum block_mode)mode,
							   (enum caching)c};
				snprintf(names[n], sizeof(names[n]),
					 "a_lun_is_like_memory, %s, %s, %s", way_names[way],
					 mode == BLOCK_MODE_DIRECT ? "direct" : "buffered",
					 caching_names[c]);
				tests[n] = (struct CMUnitTest){
					.name = names[n],
					.test_func = a_lun_is_like_memory,
					.initial_state = &setups[n],
				};
			}
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	harness_stop();
	return failed;
}
