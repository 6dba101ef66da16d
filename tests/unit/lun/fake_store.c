/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fake_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void pass_gate(struct fake *f)
{
	mutex_scope(&f->gate);
	while (f->closed)
		mutex_wait(&f->gate, &f->opened);
}

void fake_gate(struct fake *f, bool closed)
{
	mutex_scope(&f->gate);
	f->closed = closed;
	pthread_cond_broadcast(&f->opened);
}

static int fake_run(struct block_store *s, struct block_io *io)
{
	struct fake *f = container_of(s, struct fake, base);
	uint64_t skip = io->iov_off, left = io->len;
	uint8_t *p = f->data + io->off;

	f->last_flags = io->flags;
	f->calls[io->op]++;
	if (io->op == BLOCK_READ)
		f->read_bytes += io->len;
	if (f->err && io->op == f->on && f->at-- == 0)
		return f->err;
	if (io->op == BLOCK_READ)
		pass_gate(f);
	if (io->op == BLOCK_COPY)
		return -EOPNOTSUPP;
	if (io->op == BLOCK_ZERO || io->op == BLOCK_DISCARD)
		memset(p, 0, io->len);
	if (io->op != BLOCK_READ && io->op != BLOCK_WRITE)
		return 0;
	for (int i = 0; i < io->niov && left; i++) {
		size_t n = io->iov[i].iov_len;
		uint8_t *q = io->iov[i].iov_base;

		if (skip >= n) {
			skip -= n;
			continue;
		}
		q += skip;
		n -= skip;
		skip = 0;
		if (n > left)
			n = left;
		if (io->op == BLOCK_READ)
			memcpy(q, p, n);
		else
			memcpy(p, q, n);
		p += n;
		left -= n;
	}
	return 0;
}

static void fake_submit(struct block_store *s, struct block_io *io)
{
	struct fake *f = container_of(s, struct fake, base);
	int err = fake_run(s, io);

	if (f->hold) {
		f->hold = false;
		f->held = io;
	} else {
		io->done(io, err);
	}
}

static void fake_close(struct block_store *s)
{
	struct fake *f = container_of(s, struct fake, base);

	mutex_destroy(&f->gate);
	pthread_cond_destroy(&f->opened);
	free(f->data);
	free(f);
}

static void fake_info(struct block_store *s, struct block_info *ret_info)
{
	*ret_info = (struct block_info){.type = "fake", .size = FAKE_SIZE, .write_unit = 512};
}

static const struct block_ops fake_ops = {.type = "fake",
					  .close = fake_close,
					  .submit = fake_submit,
					  .run = fake_run,
					  .get_info = fake_info};

struct fake *make_fake(struct lun **ret_lun, bool read_only)
{
	struct lun_options opt = {.name = "fake",
				  .state_dirfd = -1,
				  .cache = harness_cached ? harness_cache() : NULL};
	struct fake *f = calloc(1, sizeof(*f));
	struct reason why = {""};

	f->base.ops = &fake_ops;
	f->base.size = FAKE_SIZE;
	f->base.read_only = read_only;
	mutex_init(&f->gate, LOCK_RANK_STORE);
	pthread_cond_init(&f->opened, NULL);
	f->data = calloc(1, FAKE_SIZE);
	assert_int_equal(lun_create(&opt, &f->base, ret_lun, &why), 0);
	return f;
}
