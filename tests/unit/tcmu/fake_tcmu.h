/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's side of a TCMU device for tests: mailbox, ring and data area in a memfd, a socket in
 * the place of the UIO device. Not for several threads.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/tcmu/tcmu_kernel.h"
#include "front/tcmu/tcmu_spec.h"

#define FAKE_CMDR_OFF 128u
#define FAKE_IDS      1024u

struct fake_response {
	bool there;
	uint8_t status, uflags;
	uint32_t read_len;
	uint8_t sense[TCMU_SENSE_BUFFERSIZE];
};

struct fake {
	int memfd, fd, peer; /* @fd: the kernel's end, @peer: a copy of the session's */
	uint8_t *map;
	size_t size, data_off;
	uint32_t cmdr_size, head, cleaned;
	uint16_t next_id;
	bool pending[FAKE_IDS];
	unsigned n_pending;
	struct fake_response responses[FAKE_IDS];
};

/** @cmdr_size, @data_size: bytes; @cmdr_off + @cmdr_size is a multiple of the page size. */
void fake_open(struct fake *f, uint32_t cmdr_size, size_t data_size);
/** A channel for one session, which closes it. */
struct tcmu_channel fake_channel(struct fake *f);
void fake_close(struct fake *f);

struct tcmu_mailbox *fake_mailbox(struct fake *f);
uint8_t *fake_data(struct fake *f, size_t off);
/** An iovec of @len bytes at @off of the data area, as the kernel writes them. */
struct iovec fake_iov(struct fake *f, size_t off, size_t len);

/** Whether a command with @n iovecs fits in now. */
bool fake_has_room(struct fake *f, unsigned n);
/** Puts a command into the ring (a PAD before it where it must not wrap). Returns its number. */
uint16_t fake_push(struct fake *f, const uint8_t *cdb, unsigned cdb_len, const struct iovec *iov,
		   unsigned n);
void fake_push_tmr(struct fake *f, uint8_t type, const uint16_t *ids, unsigned n);
/** Tells the session. */
void fake_notify(struct fake *f);
/** Takes what has ended from the ring. */
void fake_collect(struct fake *f);
/** Waits until the session tells of something, and takes it. */
void fake_wait_kick(struct fake *f);
/** Waits for the end of command @id. */
const struct fake_response *fake_wait(struct fake *f, uint16_t id);
