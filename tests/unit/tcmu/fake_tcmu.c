/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fake_tcmu.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "front/tcmu/tcmu_guard.h"

void fake_open(struct fake *f, uint32_t cmdr_size, size_t data_size)
{
	memset(f, 0, sizeof(*f));
	f->cmdr_size = cmdr_size;
	f->data_off = FAKE_CMDR_OFF + cmdr_size;
	f->size = f->data_off + data_size;
	f->memfd = memfd_create("fake-tcmu", MFD_CLOEXEC);
	assert_true(f->memfd >= 0);
	assert_int_equal(ftruncate(f->memfd, (off_t)f->size), 0);
	f->map = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED, f->memfd, 0);
	assert_ptr_not_equal(f->map, MAP_FAILED);
	*fake_mailbox(f) = (struct tcmu_mailbox){
		.version = TCMU_MAILBOX_VERSION,
		.flags = TCMU_MAILBOX_FLAG_CAP_OOOC | TCMU_MAILBOX_FLAG_CAP_READ_LEN,
		.cmdr_off = FAKE_CMDR_OFF,
		.cmdr_size = cmdr_size,
	};
	f->fd = f->peer = -1;
}

struct tcmu_channel fake_channel(struct fake *f)
{
	struct tcmu_channel ch = {.size = f->size};
	int pair[2];

	if (f->fd >= 0) {
		close(f->fd);
		close(f->peer);
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(fcntl(pair[1], F_SETFL, O_NONBLOCK), 0); /* as the device is opened */
	f->fd = pair[0];
	ch.fd = pair[1];
	f->peer = dup(pair[1]);
	ch.map = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED, f->memfd, 0);
	assert_ptr_not_equal(ch.map, MAP_FAILED);
	ch.guard = tcmu_guard_add(ch.map, ch.size);
	assert_true(ch.guard >= 0);
	return ch;
}

void fake_close(struct fake *f)
{
	munmap(f->map, f->size);
	close(f->memfd);
	close(f->fd);
	close(f->peer);
}

struct tcmu_mailbox *fake_mailbox(struct fake *f)
{
	return (struct tcmu_mailbox *)f->map;
}

uint8_t *fake_data(struct fake *f, size_t off)
{
	return f->map + f->data_off + off;
}

struct iovec fake_iov(struct fake *f, size_t off, size_t len)
{
	return (struct iovec){(void *)(f->data_off + off), len};
}

static void set_head(struct fake *f, uint32_t len)
{
	f->head = (f->head + len) % f->cmdr_size;
	atomic_store_explicit(
		(_Atomic uint32_t *)(f->map + offsetof(struct tcmu_mailbox, cmd_head)), f->head,
		memory_order_release);
}

static uint32_t command_size(unsigned n)
{
	size_t len = offsetof(struct tcmu_cmd_entry, req.iov) + n * sizeof(struct iovec);

	if (len < sizeof(struct tcmu_cmd_entry))
		len = sizeof(struct tcmu_cmd_entry);
	return (uint32_t)len + 264; /* room for any CDB */
}

static uint32_t room(struct fake *f)
{
	uint32_t used = (f->head - f->cleaned + f->cmdr_size) % f->cmdr_size;

	return f->cmdr_size - used - 8; /* full is not empty */
}

bool fake_has_room(struct fake *f, unsigned n)
{
	uint32_t len = command_size(n), to_end = f->cmdr_size - f->head;

	return f->n_pending + 1 < FAKE_IDS && room(f) >= (to_end < len ? to_end + len : len);
}

/* An entry of @len bytes at the head, zeroed, with its header. */
static void *new_entry(struct fake *f, enum tcmu_opcode op, uint32_t len)
{
	struct tcmu_cmd_entry_hdr *h;

	if (f->cmdr_size - f->head < len) {
		h = (void *)(f->map + FAKE_CMDR_OFF + f->head);
		memset(h, 0, sizeof(*h));
		h->len_op = f->cmdr_size - f->head; /* PAD is 0 */
		set_head(f, f->cmdr_size - f->head);
	}
	h = (void *)(f->map + FAKE_CMDR_OFF + f->head);
	memset(h, 0, len);
	h->len_op = len | op;
	return h;
}

uint16_t fake_push(struct fake *f, const uint8_t *cdb, unsigned cdb_len, const struct iovec *iov,
		   unsigned n)
{
	uint32_t len = command_size(n);
	struct tcmu_cmd_entry *e = new_entry(f, TCMU_OP_CMD, len);

	do
		f->next_id = (uint16_t)((f->next_id + 1) % FAKE_IDS);
	while (f->pending[f->next_id]);
	f->pending[f->next_id] = true;
	f->n_pending++;
	f->responses[f->next_id].there = false;
	e->hdr.cmd_id = f->next_id;
	e->req.iov_cnt = n;
	if (n)
		memcpy((uint8_t *)e + offsetof(struct tcmu_cmd_entry, req.iov), iov,
		       n * sizeof(*iov));
	e->req.cdb_off = FAKE_CMDR_OFF + f->head + len - 264;
	memcpy(f->map + e->req.cdb_off, cdb, cdb_len);
	set_head(f, len);
	return f->next_id;
}

void fake_push_tmr(struct fake *f, uint8_t type, const uint16_t *ids, unsigned n)
{
	uint32_t len = (uint32_t)(sizeof(struct tcmu_tmr_entry) + n * sizeof(*ids) + 7) & ~7u;
	struct tcmu_tmr_entry *e = new_entry(f, TCMU_OP_TMR, len);

	e->tmr_type = type;
	e->cmd_cnt = n;
	if (n)
		memcpy((uint8_t *)e + sizeof(*e), ids, n * sizeof(*ids));
	set_head(f, len);
}

static void drain(int fd)
{
	char buf[8];

	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

/* Like a UIO device, readable until it is read. */
void fake_notify(struct fake *f)
{
	drain(f->peer);
	assert_int_equal(send(f->fd, "", 1, MSG_NOSIGNAL), 1);
}

void fake_collect(struct fake *f)
{
	uint32_t tail;

	drain(f->fd); /* first: what is told from now on is waited for */
	tail = atomic_load_explicit(
		(_Atomic uint32_t *)(f->map + offsetof(struct tcmu_mailbox, cmd_tail)),
		memory_order_acquire);
	while (f->cleaned != tail) {
		const struct tcmu_cmd_entry *e = (void *)(f->map + FAKE_CMDR_OFF + f->cleaned);
		struct fake_response *r = &f->responses[e->hdr.cmd_id % FAKE_IDS];

		if (tcmu_hdr_get_op(e->hdr.len_op) == TCMU_OP_CMD) {
			assert_true(e->hdr.cmd_id < FAKE_IDS && f->pending[e->hdr.cmd_id]);
			f->pending[e->hdr.cmd_id] = false;
			f->n_pending--;
			r->there = true;
			r->status = e->rsp.scsi_status;
			r->uflags = e->hdr.uflags;
			r->read_len = e->rsp.read_len;
			memcpy(r->sense, e->rsp.sense_buffer, sizeof(r->sense));
		}
		f->cleaned = (f->cleaned + tcmu_hdr_get_len(e->hdr.len_op)) % f->cmdr_size;
	}
}

void fake_wait_kick(struct fake *f)
{
	uint32_t any;

	assert_int_equal(recv(f->fd, &any, sizeof(any), 0), sizeof(any));
	fake_collect(f);
}

const struct fake_response *fake_wait(struct fake *f, uint16_t id)
{
	fake_collect(f);
	while (!f->responses[id].there)
		fake_wait_kick(f);
	return &f->responses[id];
}
