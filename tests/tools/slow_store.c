/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slow_store.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"

struct slow_store {
	struct block_store base;
	struct block_store *file;
	uint64_t delay_ns;
};

struct delayed {
	struct reactor_timer timer;
	struct block_io *io;
	struct block_store *file;
};

static struct slow_store *slow_of(struct block_store *s)
{
	return container_of(s, struct slow_store, base);
}

static void on_time(struct reactor_timer *t)
{
	struct delayed *d = container_of(t, struct delayed, timer);
	struct delayed due = *d;

	free(d);
	block_submit(due.file, due.io);
}

static void slow_submit(struct block_store *s, struct block_io *io)
{
	struct delayed *d = calloc(1, sizeof(*d));

	if (!d) {
		io->done(io, -ENOMEM);
		return;
	}
	d->io = io;
	d->file = slow_of(s)->file;
	reactor_timer_init(&d->timer, on_time);
	reactor_timer_arm(io->reactor, &d->timer, clock_now_ns() + slow_of(s)->delay_ns);
}

static int slow_run(struct block_store *s, struct block_io *io)
{
	return block_run(slow_of(s)->file, io);
}

static void slow_get_info(struct block_store *s, struct block_info *ret_info)
{
	block_get_info(slow_of(s)->file, ret_info);
}

static void slow_close(struct block_store *s)
{
	block_close(slow_of(s)->file);
	free(slow_of(s));
}

static const struct block_ops slow_ops = {
	.type = "slow",
	.close = slow_close,
	.submit = slow_submit,
	.run = slow_run,
	.get_info = slow_get_info,
};

int slow_store_open(const struct block_open_options *opt, uint64_t delay_ns,
		    struct block_store **ret_store, struct reason *why)
{
	struct slow_store *s = calloc(1, sizeof(*s));
	int err = s ? block_open_file(opt, &s->file, why) : -ENOMEM;

	if (err) {
		free(s);
		return err;
	}
	s->base.ops = &slow_ops;
	s->base.read_only = s->file->read_only;
	atomic_init(&s->base.size, atomic_load(&s->file->size));
	s->delay_ns = delay_ns;
	*ret_store = &s->base;
	return 0;
}
