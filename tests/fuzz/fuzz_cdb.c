/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CDBs and parameter data against the device server, with a real LUN on a file in memory.
 *
 * The input is a sequence of commands: a byte of flags (see FLAG_*), two bytes of data-out length,
 * the CDB, whose length is that of its opcode group, and the data-out, filled up with zeros when
 * the input ends. They run one at a time on a reactor; targets and logical units are made anew for
 * each input, so a finding is replayed by its input alone (the LUNs' contents are carried over, but
 * only compares look at them).
 */
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scsi/scsi_internal.h"

#define SIZE	 (1u << 20)
#define COMMANDS 24

#define FLAG_NEXUS  0x01 /* the second initiator */
#define FLAG_ABSENT 0x02 /* a LUN that is not there */
#define FLAG_ABORT  0x04 /* abort it when it has not ended at once */
#define FLAG_EXCESS 0x08 /* offer more data than it asks for */
#define FLAG_ALL    0x10 /* offer all that it asks for */
#define FLAG_OTHER  0x20 /* LUN 1 */
#define FLAG_TMF    0xc0 /* both: a task management function */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct reactor_set *set;
static struct reactor *reactor;
static struct lun *lun[2];
static struct scsi_target *target;
static struct reactor_task next_input;
static const uint8_t *in;
static size_t left;
static struct scsi_nexus nexus[2];
static struct scsi_cmd cmd;
static struct scsi_tmf_req tmf;
static uint8_t cdb[16];
static unsigned n_commands, flags;
static struct iobuf *out_buf;
static bool running, ended;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

static void abort_all(struct scsi_nexus *nx, struct scsi_lu *which, bool tas,
		      void (*fin)(void *arg), void *arg)
{
	fin(arg);
}

static const struct scsi_nexus_ops ops = {.abort_all = abort_all};

static uint8_t take(void)
{
	if (!left)
		return 0;
	left--;
	return *in++;
}

static void go_on(void)
{
	reactor_defer(reactor, &next_input);
}

/* What every result must hold to, whatever was asked. */
static void check_result(const struct scsi_cmd *c)
{
	if (c->status == SCSI_CHECK_CONDITION) {
		assert(c->sense_len >= 8 && c->sense_len <= SCSI_SENSE_MAX);
		assert((c->sense[0] & 0x7f) >= 0x70 && (c->sense[0] & 0x7f) <= 0x73);
		assert(c->sense[7] + 8 == c->sense_len);
	} else {
		assert(!c->sense_len);
	}
	assert(!c->in_len || (c->in && c->in_len <= c->in->cap && c->in_len <= c->data_len));
	/* uninitialized or freed bytes would be found here by MSan or ASan */
	for (uint32_t i = 0; i < c->in_len; i++) {
		volatile uint8_t v = c->in->data[i];
		(void)v;
	}
}

static void command_done(struct scsi_cmd *c)
{
	running = false;
	check_result(c);
	scsi_cmd_release(c);
	iobuf_put(out_buf);
	out_buf = NULL;
	go_on();
}

static void tmf_done(struct scsi_tmf_req *req)
{
	go_on();
}

static unsigned cdb_length(uint8_t opcode)
{
	static const uint8_t by_group[8] = {6, 10, 10, 16, 16, 12, 10, 10};

	return by_group[opcode >> 5];
}

static void run_tmf(void)
{
	tmf = (struct scsi_tmf_req){.nexus = &nexus[flags & FLAG_NEXUS],
				    .fn = (enum scsi_tmf)(take() % 6),
				    .done = tmf_done};
	scsi_tmf(&tmf);
}

static void bring_data(uint32_t n)
{
	uint32_t have = left < n ? (uint32_t)left : n;

	cmd.out_excess = flags & FLAG_EXCESS;
	cmd.out_len = n;
	if (!n)
		return;
	out_buf = iobuf_get(reactor_iobufs(reactor), n);
	assert(out_buf);
	cmd.out = out_buf;
	memcpy(out_buf->data, in, have);
	memset(out_buf->data + have, 0, n - have);
	in += have;
	left -= have;
}

static void run_command(void)
{
	uint32_t want;
	unsigned len;

	want = (uint32_t)take() << 8;
	want |= take();
	cdb[0] = take();
	len = cdb_length(cdb[0]);
	for (unsigned i = 1; i < len; i++)
		cdb[i] = take();
	cmd = (struct scsi_cmd){
		.nexus = &nexus[flags & FLAG_NEXUS],
		.lun = flags & FLAG_ABSENT  ? 7ull << 48
		       : flags & FLAG_OTHER ? 1ull << 48
					    : 0,
		.cdb = cdb,
		.cdb_len = (uint16_t)len,
		.done = command_done,
	};
	scsi_cmd_parse(&cmd);
	assert(cmd.data_len <= IOBUF_MAX && (cmd.data_len || cmd.dir == SCSI_DIR_NONE));
	if (cmd.dir == SCSI_DIR_OUT)
		bring_data(flags & FLAG_ALL || want > cmd.data_len ? cmd.data_len : want);
	running = true;
	scsi_cmd_execute(&cmd);
	if (running && flags & FLAG_ABORT)
		scsi_cmd_abort(&cmd);
}

static void end(void)
{
	for (unsigned i = 0; i < 2; i++)
		scsi_nexus_detach(&nexus[i]);
	pthread_mutex_lock(&lock);
	ended = true;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
}

static void run_next(struct reactor_task *t)
{
	if (!left || n_commands == COMMANDS) {
		end();
		return;
	}
	n_commands++;
	flags = take();
	if ((flags & FLAG_TMF) == FLAG_TMF)
		run_tmf();
	else
		run_command();
}

static void kick(struct reactor_msg *m)
{
	for (unsigned i = 0; i < 2; i++) {
		nexus[i].protocol = "fuzz";
		scsi_nexus_attach(&nexus[i]);
	}
	run_next(&next_input);
}

static struct lun *make_lun(const char *name, bool removable)
{
	char path[64];
	struct lun_options lo = {
		.name = name,
		.path = path,
		.mode = BLOCK_MODE_BUFFERED,
		.removable = removable,
		.state_dirfd = -1,
	};
	int fd = memfd_create(name, 0);
	struct reason why = {""};
	struct lun *ret;

	if (fd < 0 || ftruncate(fd, SIZE))
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (lun_open(&lo, &ret, &why)) {
		fprintf(stderr, "%s\n", why.text);
		abort();
	}
	return ret;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const struct reactor_options ro = {.name = "fuzz"};

	lun[0] = make_lun("fuzz-disk", true);
	lun[1] = make_lun("fuzz-other", false);
	if (reactor_set_start(1, &ro, &set))
		abort();
	reactor = reactor_set_get(set, 0);
	return 0;
}

static void make_target(void)
{
	if (scsi_target_create("iqn.fuzz", &target))
		abort();
	for (unsigned i = 0; i < 2; i++) {
		struct scsi_lu *lu;

		if (scsi_lu_create(lun[i], NULL, &lu, NULL))
			abort();
		scsi_target_map(target, i, lu);
		scsi_lu_unref(lu);
	}
}

static void set_up_nexus(struct scsi_nexus *nx, unsigned i)
{
	memset(nx, 0, sizeof(*nx));
	nx->ops = &ops;
	nx->target = target;
	nx->reactor = reactor;
	nx->rel_port = 1;
	nx->transport_id[0] = 0x05;
	nx->transport_id[3] = 8;
	memcpy(nx->transport_id + 4, i ? "iqn.bbb" : "iqn.aaa", 8);
	nx->transport_id_len = 12;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reactor_msg msg = {.fn = kick};

	in = data;
	left = size;
	n_commands = 0;
	ended = false;
	make_target();
	for (unsigned i = 0; i < 2; i++)
		set_up_nexus(&nexus[i], i);
	reactor_task_init(&next_input, run_next);
	reactor_post(reactor, &msg);
	pthread_mutex_lock(&lock);
	while (!ended)
		pthread_cond_wait(&cond, &lock);
	pthread_mutex_unlock(&lock);
	scsi_target_unref(target);
	return 0;
}
