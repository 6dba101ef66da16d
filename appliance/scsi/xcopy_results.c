/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RECEIVE COPY RESULTS(LID1) (SPC-4 6.23 ff.) and the records it reports from.
 *
 * A record is kept for each copy in progress and, when the LIST ID USAGE field asked for it, for
 * the last ones that ended, RECORDS_MAX a logical unit: the oldest result goes first, as the
 * standard lets it when the copy manager needs the room. COPY STATUS and FAILED SEGMENT DETAILS of
 * an ended copy are given once, then the record is dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scsi/scsi_commands_b.h"
#include "scsi/xcopy.h"

#define RECORDS_MAX 64

struct scsi_xcopy {
	struct list_node records; /* under lu->lock */
	unsigned n, running;
};

/* --- records --- */

static struct scsi_xcopy *table_locked(struct scsi_lu *lu)
{
	if (lu->xcopy)
		return lu->xcopy;
	lu->xcopy = calloc(1, sizeof(*lu->xcopy));
	if (lu->xcopy)
		list_init(&lu->xcopy->records);
	return lu->xcopy;
}

static struct xcopy_record *find_locked(struct scsi_lu *lu, uint64_t nexus_id, uint8_t list_id)
{
	struct xcopy_record *rec;

	if (!lu->xcopy)
		return NULL;
	list_for_each_entry (rec, &lu->xcopy->records, link) {
		if (rec->nexus_id == nexus_id && rec->list_id == list_id)
			return rec;
	}
	return NULL;
}

static void drop_locked(struct scsi_lu *lu, struct xcopy_record *rec)
{
	list_del(&rec->link);
	lu->xcopy->n--;
	free(rec);
}

static void make_room_locked(struct scsi_lu *lu)
{
	struct xcopy_record *rec, *tmp;

	list_for_each_entry_safe (rec, tmp, &lu->xcopy->records, link) {
		if (lu->xcopy->n < RECORDS_MAX)
			return;
		if (rec->status != XCOPY_RUNNING)
			drop_locked(lu, rec);
	}
}

int xcopy_record_begin(struct scsi_lu *lu, uint64_t nexus_id, uint8_t list_id, bool keep,
		       struct xcopy_record **ret_rec)
{
	struct xcopy_record *rec;

	mutex_scope(&lu->lock);
	if (!table_locked(lu))
		return -ENOMEM;
	rec = find_locked(lu, nexus_id, list_id);
	if (rec && rec->status == XCOPY_RUNNING)
		return -EBUSY;
	if (rec)
		drop_locked(lu, rec);
	if (lu->xcopy->running >= SCSI_XCOPY_MAX_CONCURRENT)
		return -EAGAIN;
	make_room_locked(lu);
	rec = calloc(1, sizeof(*rec));
	if (!rec)
		return -ENOMEM;
	rec->nexus_id = nexus_id;
	rec->list_id = list_id;
	rec->keep = keep;
	rec->status = XCOPY_RUNNING;
	list_add_tail(&lu->xcopy->records, &rec->link);
	lu->xcopy->n++;
	lu->xcopy->running++;
	*ret_rec = rec;
	return 0;
}

void xcopy_record_progress(struct scsi_lu *lu, struct xcopy_record *rec, uint16_t segments,
			   uint64_t bytes)
{
	mutex_scope(&lu->lock);
	rec->segments = segments;
	rec->bytes = bytes;
}

void xcopy_record_end(struct scsi_lu *lu, struct xcopy_record *rec,
		      const struct scsi_sense *failure)
{
	mutex_scope(&lu->lock);
	lu->xcopy->running--;
	rec->status = failure ? XCOPY_FAILED : XCOPY_DONE;
	if (failure)
		rec->sense = *failure;
	if (!rec->keep)
		drop_locked(lu, rec);
}

void scsi_xcopy_destroy(struct scsi_lu *lu)
{
	struct list_node *n;

	if (!lu->xcopy)
		return;
	while ((n = list_pop(&lu->xcopy->records)))
		free(container_of(n, struct xcopy_record, link));
	free(lu->xcopy);
	lu->xcopy = NULL;
}

/* --- commands --- */

/** The record that the CDB names, copied; an ended one is dropped when @take. */
static bool take_record(struct scsi_cmd *cmd, bool take, struct xcopy_record *ret_rec)
{
	struct xcopy_record *rec;

	mutex_lock(&cmd->lu->lock);
	rec = find_locked(cmd->lu, cmd->nexus->id, cmd->cdb[2]);
	if (rec) {
		*ret_rec = *rec;
		if (take && rec->status != XCOPY_RUNNING)
			drop_locked(cmd->lu, rec);
	}
	mutex_unlock(&cmd->lu->lock);
	if (!rec)
		scsi_bad_cdb_field(cmd, 2, -1);
	return rec;
}

void scsi_copy_status(struct scsi_cmd *cmd)
{
	struct xcopy_record rec;
	uint8_t buf[12] = {0};
	uint64_t count;
	uint8_t units = 0;

	if (!take_record(cmd, true, &rec))
		return;
	/* TRANSFER COUNT UNITS: bytes, KiB, MiB, ...: the finest that fits. */
	for (count = rec.bytes; count > UINT32_MAX; count >>= 10)
		units++;
	put_be32(buf, sizeof(buf) - 4);
	buf[4] = (uint8_t)rec.status;
	put_be16(buf + 5, rec.segments);
	buf[7] = units;
	put_be32(buf + 8, (uint32_t)count);
	scsi_reply(cmd, buf, sizeof(buf));
}

/** No segment descriptor that we know holds data for the application client. */
void scsi_copy_receive_data(struct scsi_cmd *cmd)
{
	struct xcopy_record rec;
	uint8_t buf[4] = {0};

	if (take_record(cmd, false, &rec))
		scsi_reply(cmd, buf, sizeof(buf));
}

void scsi_copy_failed_details(struct scsi_cmd *cmd)
{
	struct xcopy_record rec;
	uint8_t buf[60 + SCSI_SENSE_MAX] = {0};
	unsigned len;

	if (!take_record(cmd, true, &rec))
		return;
	if (rec.status != XCOPY_FAILED) {
		scsi_reply(cmd, buf, 4);
		return;
	}
	len = scsi_sense_build(&rec.sense, atomic_load(&cmd->lu->mode.d_sense), buf + 60);
	buf[56] = SCSI_CHECK_CONDITION;
	put_be16(buf + 58, (uint16_t)len);
	put_be32(buf, 56 + len);
	scsi_reply(cmd, buf, 60 + len);
}

/** Segment and CSCD descriptors that xcopy.c knows, ascending. */
static const uint8_t types[] = {0x02, 0x0a, 0xe4};

/** SPC-4 table 275. */
void scsi_copy_parameters(struct scsi_cmd *cmd)
{
	uint8_t buf[44 + sizeof(types)] = {0};

	put_be32(buf, sizeof(buf) - 4);
	put_be16(buf + 8, SCSI_XCOPY_MAX_TARGETS);
	put_be16(buf + 10, SCSI_XCOPY_MAX_SEGMENTS);
	put_be32(buf + 12, SCSI_XCOPY_MAX_LIST);
	put_be32(buf + 16, SCSI_XCOPY_MAX_SEGMENT_LEN);
	put_be16(buf + 34, SCSI_XCOPY_MAX_CONCURRENT);
	buf[36] = SCSI_XCOPY_MAX_CONCURRENT;
	buf[37] = cmd->lu->block_shift; /* DATA SEGMENT GRANULARITY */
	buf[43] = sizeof(types);
	memcpy(buf + 44, types, sizeof(types));
	scsi_reply(cmd, buf, sizeof(buf));
}
