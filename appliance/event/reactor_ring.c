/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a ring, and finding out what it can do.
 *
 * Set-up flags are tried from the best combination down. Opcodes are asked for (the probe
 * register call); what is a flag of an older opcode cannot be asked for and is tried on a
 * descriptor that does not exist: a kernel that knows the flag answers -EBADF, one that does not
 * answers -EINVAL. Tables are simply registered.
 *
 * EBB_REACTOR_OFF=name,... in the environment switches features off (names as in struct
 * reactor_features), so that every fallback can be tested on a kernel that has everything.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "event/reactor_private.h"

#define CQ_FACTOR    4
#define BUFFER_SLOTS 1024u
#define RING_COMMON  (IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL)

static bool switched_off(const char *name)
{
	const char *list = getenv("EBB_REACTOR_OFF");
	size_t len = strlen(name);

	while (list && *list) {
		const char *end = strchrnul(list, ',');

		if ((size_t)(end - list) == len && !strncmp(list, name, len))
			return true;
		list = *end ? end + 1 : end;
	}
	return false;
}

static int ring_init(struct reactor *r)
{
	static const unsigned modes[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		0,
	};
	int ret = -EINVAL;

	for (unsigned i = switched_off("defer_taskrun"); i < 3 && ret == -EINVAL; i++) {
		struct io_uring_params params = {
			.flags = modes[i] | RING_COMMON,
			.cq_entries = r->entries * CQ_FACTOR,
		};

		ret = io_uring_queue_init_params(r->entries, &r->ring, &params);
		r->features.defer_taskrun = ret == 0 && i == 0;
	}
	return ret;
}

/* Submits the one SQE that was prepared and returns its result. */
static int try_one(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int ret = io_uring_submit_and_wait(ring, 1);

	if (ret < 0)
		return ret;
	ret = io_uring_peek_cqe(ring, &cqe);
	if (ret < 0)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

static bool try_multishot_accept(struct io_uring *ring)
{
	io_uring_prep_multishot_accept(io_uring_get_sqe(ring), -1, NULL, NULL, 0);
	return try_one(ring) == -EBADF;
}

static bool try_multishot_recv(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	io_uring_prep_recv_multishot(sqe, -1, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	return try_one(ring) == -EBADF;
}

static void probe_opcodes(struct reactor *r)
{
	struct io_uring_probe *p = io_uring_get_probe_ring(&r->ring);

	if (!p)
		return;
	r->features.send_zc = io_uring_opcode_supported(p, IORING_OP_SEND_ZC) &&
			      io_uring_opcode_supported(p, IORING_OP_SENDMSG_ZC) &&
			      !switched_off("send_zc");
	r->features.msg_ring = io_uring_opcode_supported(p, IORING_OP_MSG_RING) &&
			       !switched_off("msg_ring");
	io_uring_free_probe(p);
}

static void register_tables(struct reactor *r)
{
	r->features.fixed_buffers = !switched_off("fixed_buffers") &&
				    io_uring_register_buffers_sparse(&r->ring, BUFFER_SLOTS) == 0;
	r->features.buffer_ring = !switched_off("buffer_ring") &&
				  rx_ring_create(r, &r->rx_ring) == 0;
}

int reactor_ring_create(struct reactor *r)
{
	int ret = ring_init(r);

	if (ret < 0)
		return ret;
	io_uring_register_ring_fd(&r->ring); /* saves the look-up of the descriptor, 5.18 */
	r->features.multishot_accept = !switched_off("multishot_accept") &&
				       try_multishot_accept(&r->ring);
	r->features.multishot_recv = !switched_off("multishot_recv") &&
				     try_multishot_recv(&r->ring);
	probe_opcodes(r);
	register_tables(r);
	return 0;
}
