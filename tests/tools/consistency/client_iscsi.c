/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * iSCSI by libiscsi. Each client is a session of its own; the ISID is made of the client's number,
 * so that a client that comes back reinstates its session and the target ends what was left of the
 * old one.
 */
#include <errno.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

#define ASCQ_INVALID_OPCODE 0x2000
#define ASCQ_INVALID_FIELD  0x2400
#define TIMEOUT_SECONDS	    60

#ifdef __SANITIZE_ADDRESS__
/* libiscsi 1.19 forgets the state of a connection attempt that fails. */
const char *__lsan_default_options(void);
const char *__lsan_default_options(void)
{
	return "print_suppressions=0";
}

const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libiscsi.so";
}
#endif

struct iscsi_client {
	struct client client; /* first */
	struct iscsi_context *iscsi;
	int lun;
};

static struct iscsi_client *of(struct client *client)
{
	return container_of(client, struct iscsi_client, client);
}

static enum request_result classify(const struct request *q, int status,
				    const struct scsi_sense *sense)
{
	bool essential = q->kind == REQUEST_READ || q->kind == REQUEST_WRITE;

	switch (status) {
	case SCSI_STATUS_GOOD:
		return RESULT_OK;
	case SCSI_STATUS_CANCELLED:
	case SCSI_STATUS_ERROR:
		return RESULT_LOST;
	case SCSI_STATUS_BUSY:
	case SCSI_STATUS_TASK_SET_FULL:
		return RESULT_REFUSED;
	case SCSI_STATUS_CHECK_CONDITION:
		break;
	default:
		return RESULT_ERROR;
	}
	if (sense->key == SCSI_SENSE_UNIT_ATTENTION)
		return RESULT_REFUSED;
	if (sense->key == SCSI_SENSE_MISCOMPARE && q->kind == REQUEST_CAW)
		return RESULT_MISCOMPARE;
	if (sense->key == SCSI_SENSE_ILLEGAL_REQUEST && !essential &&
	    (sense->ascq == ASCQ_INVALID_OPCODE || sense->ascq == ASCQ_INVALID_FIELD))
		return RESULT_UNSUPPORTED;
	return RESULT_ERROR;
}

struct flight {
	struct iscsi_client *c;
	struct request *q;
};

static void on_answer(struct iscsi_context *iscsi, int status, void *command_data,
		      void *private_data)
{
	struct flight *flight = private_data;
	struct scsi_task *task = command_data;
	struct request *q = flight->q;
	struct client *client = &flight->c->client;
	enum request_result result = classify(q, status, &task->sense);

	if (result == RESULT_ERROR)
		snprintf(q->error, sizeof(q->error), "status %02x sense %x/%04x", (unsigned)status,
			 (unsigned)task->sense.key, (unsigned)task->sense.ascq);
	if (result == RESULT_OK && q->kind == REQUEST_READ &&
	    task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL) {
		snprintf(q->error, sizeof(q->error), "short read, residual %zu", task->residual);
		result = RESULT_ERROR;
	}
	scsi_free_scsi_task(task);
	free(flight);
	client_finish(client, q, result);
}

static struct scsi_task *start_read(struct iscsi_client *c, struct request *q, uint32_t len,
				    struct flight *flight)
{
	struct scsi_task *task = iscsi_read16_task(c->iscsi, c->lun, q->lba, len,
						   (int)c->client.block_size, 0, 0, q->fua, 0, 0,
						   on_answer, flight);

	if (task)
		scsi_task_add_data_in_buffer(task, (int)len, q->data);
	return task;
}

static struct scsi_task *start(struct iscsi_client *c, struct request *q, struct flight *flight)
{
	struct unmap_list range = {.lba = q->lba, .num = q->count};
	int bs = (int)c->client.block_size;
	uint32_t len = q->count * c->client.block_size;

	switch (q->kind) {
	case REQUEST_READ:
		return start_read(c, q, len, flight);
	case REQUEST_WRITE:
		return iscsi_write16_task(c->iscsi, c->lun, q->lba, q->data, len, bs, 0, 0, q->fua,
					  0, 0, on_answer, flight);
	case REQUEST_ATOMIC:
		return iscsi_writeatomic16_task(c->iscsi, c->lun, q->lba, q->data, len, bs, 0, 0,
						q->fua, 0, on_answer, flight);
	case REQUEST_WRITE_SAME:
		return iscsi_writesame16_task(c->iscsi, c->lun, q->lba, q->data, (uint32_t)bs,
					      q->count, 0, 0, 0, 0, on_answer, flight);
	case REQUEST_ZERO:
		memset(q->data, 0, (size_t)bs);
		return iscsi_writesame16_task(c->iscsi, c->lun, q->lba, q->data, (uint32_t)bs,
					      q->count, 0, 1, 0, 0, on_answer, flight);
	case REQUEST_UNMAP:
		return iscsi_unmap_task(c->iscsi, c->lun, 0, 0, &range, 1, on_answer, flight);
	case REQUEST_CAW:
		return iscsi_compareandwrite_task(c->iscsi, c->lun, q->lba, q->data, 2 * len, bs, 0,
						  0, q->fua, 0, 0, on_answer, flight);
	case REQUEST_FLUSH:
		return iscsi_synchronizecache16_task(c->iscsi, c->lun, 0, 0, 0, 0, on_answer,
						     flight);
	default:
		return NULL;
	}
}

static int submit(struct client *client, struct request *q)
{
	struct flight *flight = malloc(sizeof(*flight));

	if (!flight)
		return -ENOMEM;
	*flight = (struct flight){of(client), q};
	if (start(of(client), q, flight))
		return 0;
	free(flight);
	return -ENOTCONN;
}

static int read_capacity(struct iscsi_client *c)
{
	struct scsi_task *task = iscsi_readcapacity16_sync(c->iscsi, c->lun);
	struct scsi_readcapacity16 *rc =
		task && task->status == SCSI_STATUS_GOOD ? scsi_datain_unmarshall(task) : NULL;
	int r = rc ? 0 : -EIO;

	if (rc) {
		c->client.block_size = rc->block_length;
		c->client.blocks = rc->returned_lba + 1;
	}
	scsi_free_scsi_task(task);
	return r;
}

static uint32_t cap(uint64_t limit)
{
	return limit && limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX;
}

/* What the device says it takes. A kind it does not know is found out by trying. */
static void read_limits(struct iscsi_client *c)
{
	struct scsi_task *task =
		iscsi_inquiry_sync(c->iscsi, c->lun, 1, SCSI_INQUIRY_PAGECODE_BLOCK_LIMITS, 255);
	struct scsi_inquiry_block_limits *bl =
		task && task->status == SCSI_STATUS_GOOD ? scsi_datain_unmarshall(task) : NULL;
	uint32_t *max = c->client.max;

	for (int i = 0; i < REQUEST_KINDS; i++)
		max[i] = UINT32_MAX;
	max[REQUEST_CAW] = bl ? bl->max_cmp : 0;
	if (bl) {
		max[REQUEST_READ] = max[REQUEST_WRITE] = cap(bl->max_xfer_len);
		max[REQUEST_UNMAP] = cap(bl->max_unmap);
		max[REQUEST_WRITE_SAME] = max[REQUEST_ZERO] = cap(bl->max_ws_len);
		max[REQUEST_ATOMIC] =
			bl->atomic_gran > 1 || bl->atomic_align > 1 ? 0 : bl->max_atomic_xfer_len;
	}
	scsi_free_scsi_task(task);
}

static void disconnect(struct client *client)
{
	struct iscsi_client *c = of(client);

	if (c->iscsi)
		iscsi_destroy_context(c->iscsi);
	c->iscsi = NULL;
}

static int login(struct iscsi_client *c)
{
	char name[64];

	snprintf(name, sizeof(name), "iqn.2026-11.local.ebb:consistency-%d", (int)getpid());
	c->iscsi = iscsi_create_context(name);
	if (!c->iscsi)
		return -ENOMEM;
	struct iscsi_url *url = iscsi_parse_full_url(c->iscsi, c->client.url);

	if (!url) {
		fprintf(stderr, "consistency: %s\n", iscsi_get_error(c->iscsi));
		return -EINVAL;
	}
	c->lun = url->lun;
	iscsi_set_isid_random(c->iscsi, (uint32_t)getpid(), c->client.index);
	iscsi_set_targetname(c->iscsi, url->target);
	iscsi_set_session_type(c->iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_noautoreconnect(c->iscsi, 1);
	iscsi_set_timeout(c->iscsi, 5);
	int r = iscsi_full_connect_sync(c->iscsi, url->portal, url->lun) ? -ECONNREFUSED : 0;

	iscsi_destroy_url(url);
	return r;
}

static int connect_client(struct client *client)
{
	struct iscsi_client *c = of(client);
	int r = login(c);

	if (!r)
		r = read_capacity(c);
	if (r) {
		disconnect(client);
		return r;
	}
	read_limits(c);
	iscsi_set_timeout(c->iscsi, TIMEOUT_SECONDS);
	return 0;
}

static int get_fd(struct client *client)
{
	return iscsi_get_fd(of(client)->iscsi);
}

static short get_events(struct client *client)
{
	return (short)iscsi_which_events(of(client)->iscsi);
}

static int service(struct client *client, short revents)
{
	struct iscsi_client *c = of(client);
	int r = iscsi_service(c->iscsi, revents);

	return r < 0 || iscsi_get_fd(c->iscsi) < 0 || !iscsi_is_logged_in(c->iscsi) ? -ENOTCONN : 0;
}

static const struct client_ops iscsi_ops = {
	.connect = connect_client,
	.disconnect = disconnect,
	.get_fd = get_fd,
	.get_events = get_events,
	.service = service,
	.submit = submit,
};

struct client *client_new_iscsi(const char *url, unsigned index)
{
	struct client *c = client_alloc(sizeof(struct iscsi_client), &iscsi_ops, url, index);

	for (int i = 0; c && i < REQUEST_KINDS; i++)
		c->can[i] = true;
	return c;
}
