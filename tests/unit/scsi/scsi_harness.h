/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A front for tests of the device server: LUNs on temporary files, initiators on reactors of their
 * own, and a blocking way to send a CDB and look at what comes back.
 *
 *	struct world *w = world_open(&(struct world_options){.removable = true});
 *	struct initiator *i = world_login(w, 0, "iqn.a");
 *	send_cdb(i, CDB(0x00, 0, 0, 0, 0, 0), NULL, 0);
 *	expect_good(i);
 *
 * A login leaves POWER ON pending like any new nexus; world_login() takes it off, world_login_raw()
 * does not. The result of the last command of an initiator stays in i->r until its next.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "scsi/scsi.h"
#include "scsi/scsi_spec.h"

#define WORLD_REACTORS 2

struct world_options {
	uint64_t size;	     /* bytes; 0: 8 MiB */
	uint32_t block_size; /* 0: 512 */
	bool read_only, removable, thick;
	const char *state;	   /* directory to keep (or find again) state in; NULL: none */
	struct block_store *store; /* instead of a file; the world's from then on */
};

struct world {
	char dir[64], path[80];
	int state_dirfd;
	struct reactor_set *set;
	struct lun *lun;
	struct scsi_lu *lu;
	struct scsi_target *target; /* the LU is its LUN 0 */
};

struct result {
	enum scsi_status status;
	enum scsi_dir dir; /* as parsed */
	uint32_t data_len; /* ditto */
	uint8_t sense[SCSI_SENSE_MAX];
	unsigned sense_len;
	uint8_t *data; /* data-in */
	uint32_t len;
};

struct initiator {
	struct scsi_nexus nx;
	struct world *w;
	struct result r;
	uint64_t lun;	 /* to address; 0 */
	uint32_t expect; /* the transport's expected data length; UINT32_MAX: as the CDB says */
	unsigned aborts; /* times the device server asked to abort this nexus's commands */
	bool aborted_with_tas;
	bool keep_fin; /* do not answer: fin and fin_arg are the test's to call */
	_Atomic(void (*)(void *arg)) fin;
	void *fin_arg;
	unsigned events;
	enum scsi_event event; /* the last */
	unsigned event_lun;
	/* of a command under way */
	struct scsi_cmd cmd;
	const void *out;
	uint32_t out_len;
	struct reactor_msg msg;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
};

struct world *world_open(const struct world_options *opt);
/** Maps one more LUN of the same options on @t as @number. */
struct scsi_lu *world_add_lu(struct world *w, const struct world_options *opt, const char *name,
			     struct scsi_target *t, unsigned number);
void world_close(struct world *w);

/** Writes the TransportID of an initiator port (TPID FORMAT 01b); returns its length. */
unsigned port_id(uint8_t *buf, const char *name);
/** @reactor: 0..WORLD_REACTORS-1. */
struct initiator *world_login_raw(struct world *w, struct scsi_target *t, unsigned reactor,
				  const char *name);
struct initiator *world_login(struct world *w, unsigned reactor, const char *name);
void world_logout(struct initiator *i);

/** Sends @cdb with @out_len bytes of data-out and waits. */
void send_cdb(struct initiator *i, const uint8_t *cdb, unsigned cdb_len, const void *out,
	      uint32_t out_len);
enum scsi_tmf_result send_tmf(struct initiator *i, enum scsi_tmf fn);
/** Runs @fn(@arg) on @i's reactor and waits. */
void on_reactor(struct initiator *i, void (*fn)(void *arg), void *arg);

#define CDB(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})
#define BE16(v)	 (uint8_t)((v) >> 8), (uint8_t)(v)
#define BE32(v)	 BE16((uint32_t)(v) >> 16), BE16(v)
#define BE64(v)	 BE32((uint64_t)(v) >> 32), BE32(v)

unsigned sense_key(const struct initiator *i);
unsigned sense_asc(const struct initiator *i); /* ASC << 8 | ASCQ */
bool sense_info(const struct initiator *i, uint64_t *ret_info);
/** The field pointer: byte << 8 | C/D << 7 | BPV << 3 | bit; -1: none. */
int sense_field(const struct initiator *i);

void expect_good_at(const struct initiator *i, const char *file, int line);
void expect_sense_at(const struct initiator *i, unsigned key, unsigned asc, const char *file,
		     int line);
void expect_field_at(const struct initiator *i, unsigned asc, bool in_cdb, unsigned byte, int bit,
		     const char *file, int line);
#define expect_good(i)		  expect_good_at(i, __FILE__, __LINE__)
#define expect_sense(i, key, asc) expect_sense_at(i, key, asc, __FILE__, __LINE__)
/** 05/24/00 that points to @byte, and to @bit (-1: none) */
#define expect_bad_cdb(i, byte, bit) \
	expect_field_at(i, ASC_INVALID_FIELD_IN_CDB, true, byte, bit, __FILE__, __LINE__)
#define expect_bad_param(i, byte, bit) \
	expect_field_at(i, ASC_INVALID_FIELD_IN_PARAMETERS, false, byte, bit, __FILE__, __LINE__)
