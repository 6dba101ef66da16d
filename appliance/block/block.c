/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The door of every store: range, read-only and op checks are made here once, so that a store's
 * submit and run see only requests that make sense.
 */
#include "block/block.h"

#include <errno.h>

static bool op_writes(enum block_op op)
{
	return op == BLOCK_WRITE || op == BLOCK_DISCARD || op == BLOCK_ZERO || op == BLOCK_COPY;
}

static bool in_range(const struct block_store *s, uint64_t off, uint64_t len)
{
	uint64_t size = atomic_load_explicit(&s->size, memory_order_acquire);

	return off <= size && len <= size - off;
}

static int check(const struct block_store *s, const struct block_io *io)
{
	if (io->op == BLOCK_FLUSH)
		return 0;
	if (!in_range(s, io->off, io->len))
		return -EINVAL;
	if (!op_writes(io->op))
		return 0;
	if (s->read_only)
		return -EROFS;
	if (io->op != BLOCK_COPY)
		return 0;
	if (!in_range(io->src, io->src_off, io->len))
		return -EINVAL;
	return io->src->ops == s->ops ? 0 : -EOPNOTSUPP;
}

/** True when @io has nothing to do: *@ret_err is then its result. */
static bool done_at_once(const struct block_store *s, struct block_io *io, int *ret_err)
{
	*ret_err = check(s, io);
	if (!*ret_err && io->len == 0 && io->op == BLOCK_STATUS)
		io->n_extents = 0;
	return *ret_err || (io->len == 0 && io->op != BLOCK_FLUSH);
}

void block_submit(struct block_store *s, struct block_io *io)
{
	int err;

	io->store = s;
	if (done_at_once(s, io, &err))
		io->done(io, err);
	else
		s->ops->submit(s, io);
}

int block_run(struct block_store *s, struct block_io *io)
{
	int err;

	io->store = s;
	return done_at_once(s, io, &err) ? err : s->ops->run(s, io);
}

void block_close(struct block_store *s)
{
	if (s)
		s->ops->close(s);
}

void block_get_info(struct block_store *s, struct block_info *ret_info)
{
	s->ops->get_info(s, ret_info);
}

int block_grow(struct block_store *s, uint64_t size, struct reason *why)
{
	uint64_t old = atomic_load(&s->size);
	int err;

	if (s->read_only)
		return reason_set(why, EROFS, "the backing store is read-only");
	if (size < old)
		return reason_set(why, EINVAL, "shrinking from %llu to %llu bytes is not supported",
				  (unsigned long long)old, (unsigned long long)size);
	if (size > BLOCK_SIZE_MAX)
		return reason_set(why, EFBIG, "larger than 64 TiB");
	if (size == old)
		return 0;
	if (!s->ops->grow)
		return reason_set(why, EOPNOTSUPP, "a %s store cannot grow", s->ops->type);
	err = s->ops->grow(s, size, why);
	if (!err)
		atomic_store_explicit(&s->size, size, memory_order_release);
	return err;
}

int block_revalidate(struct block_store *s)
{
	return s->ops->revalidate ? s->ops->revalidate(s) : 0;
}
