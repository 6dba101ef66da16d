/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/tcmu/tcmu_redo.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/cursor.h"
#include "front/tcmu/tcmu_guard.h"
#include "front/tcmu/tcmu_ring.h"

/* The data of @e in one piece, malloc'ed: they are read once. */
static int copy_data(const struct tcmu_channel *ch, const struct tcmu_ring *r,
		     const struct tcmu_entry *e, uint8_t **ret_data, uint32_t *ret_len)
{
	_cleanup_free_ struct iovec *iov = calloc(e->n_iov + 1, sizeof(*iov));
	struct cursor at;
	const char *what;
	int n;

	if (!iov)
		return -ENOMEM;
	n = tcmu_ring_iovs(r, e, iov, ret_len, &what);
	if (n < 0 || *ret_len > IOBUF_MAX)
		return -EPROTO;
	*ret_data = malloc(*ret_len + 1);
	if (!*ret_data)
		return -ENOMEM;
	at = cursor_at(iov, n, 0);
	cursor_get(&at, *ret_data, *ret_len);
	return tcmu_guard_hit(ch->guard) ? -EFAULT : 0;
}

static int write_again(const struct tcmu_channel *ch, const struct tcmu_ring *r,
		       const struct tcmu_entry *e, struct scsi_lu *lu)
{
	_cleanup_free_ uint8_t *data = NULL;
	uint32_t len;
	int err = copy_data(ch, r, e, &data, &len);

	return err ? err : scsi_redo(lu, e->cdb, data, len);
}

struct tcmu_redone tcmu_redo(const struct tcmu_channel *ch, struct scsi_lu *lu, bool may_write)
{
	struct tcmu_result res = {.status = SCSI_GOOD, .mark = TCMU_MARK_DONE};
	struct tcmu_redone done = {0};
	struct tcmu_entry e;
	struct tcmu_ring r;
	int got = tcmu_ring_init(&r, ch->map, ch->size, &done.what);

	while (got >= 0) {
		got = tcmu_ring_retake(&r, &e, &done.what);
		if (got <= 0)
			break;
		if (e.mark == TCMU_MARK_BEGUN && (!may_write || write_again(ch, &r, &e, lu))) {
			done.left++;
			continue;
		}
		res.id = e.id;
		res.at = e.at;
		got = tcmu_ring_complete(&r, &res, &done.what);
		done.answered += got == 0;
	}
	if (done.answered)
		tcmu_kernel_kick(ch);
	return done;
}
