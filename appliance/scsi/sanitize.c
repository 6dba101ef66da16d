/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SANITIZE (SBC-4 4.12, 5.31): every byte of the medium is made unrecoverable.
 *
 *   OVERWRITE     a pattern is written, durably, chunk by chunk, paced, COUNT times over
 *   BLOCK ERASE   the backing store is told to deallocate everything (zeros where it cannot)
 *   CRYPTO ERASE  the same: data are not encrypted by us, so there is no key to throw away
 *
 * The operation belongs to the logical unit, not to the command: resets, aborts and the loss of the
 * nexus do not stop it, and - its state file is written first - neither does the end of the
 * process: it starts over with the next. So it has a thread of its own, which blocks; the command,
 * unless IMMED, is a waiter that is told. While it runs, or after it failed, SCSI_GATE_SANITIZE
 * keeps other commands out, and LUN_FENCE_OWNER keeps out the fronts without SCSI and what is left
 * to do of commands that came before: nothing is written behind the operation's back.
 *
 *      IDLE --SANITIZE--> RUNNING --done--> IDLE
 *                            |
 *                          error --> FAILED --SANITIZE--> RUNNING
 *                                      |
 *                                      +--EXIT FAILURE MODE (only after AUSE)--> IDLE
 */
#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "scsi/scsi_commands_b.h"
#include "scsi/scsi_internal.h"
#include "scsi/state_change.h"

#define OVERWRITE_CHUNK (1u << 20)
#define ERASE_CHUNK	(64u << 20)
/* Bytes a second that OVERWRITE writes at most, about what one hard disk does: it runs for hours on
 * large LUNs, and the others on the same disks have to live with it. */
#define OVERWRITE_PACE (160ull << 20)
#define PATTERN_MAX    4096 /* the largest block */

enum sanitize_state { SANITIZE_IDLE, SANITIZE_RUNNING, SANITIZE_FAILED };
enum sanitize_kind { SANITIZE_OVERWRITE = 1, SANITIZE_BLOCK_ERASE, SANITIZE_CRYPTO_ERASE };

struct sanitize_job {
	enum sanitize_kind kind;
	bool ause, invert;
	uint8_t count; /* passes */
	uint16_t pattern_len;
	uint8_t pattern[PATTERN_MAX];
};

/** A command that is told when the operation ends (or, IMMED, when it has begun). */
struct sanitize_wait {
	struct scsi_cmd *cmd;
	struct reactor_msg msg;
	struct sanitize_job job;
	bool immed, exit_failure;
	int err;	/* of the operation */
	bool not_begun; /* err is why it did not even start */
};

struct scsi_sanitize {
	struct scsi_lu *lu;
	/* --- under lu->lock --- */
	enum sanitize_state state, before; /* before: the one that RUNNING came from */
	struct sanitize_wait *waiter;
	int error; /* of the last operation */
	/* --- under @starting: the thread may be at its end before who started it knows it --- */
	struct mutex starting; /* LEAF */
	bool thread_used;      /* to be joined */
	pthread_t thread;
	/* --- the thread's while it runs --- */
	struct sanitize_job job;
	/* --- any thread --- */
	_Atomic bool stop;
	_Atomic uint64_t done, total; /* bytes */
};

/* --- the state file --- */

static char *encode(const struct sanitize_job *job, bool failed, const char *uuid)
{
	char hex[2 * PATTERN_MAX + 1] = "", *text;
	json_t *doc;

	for (unsigned i = 0; i < job->pattern_len; i++)
		snprintf(hex + 2 * i, 3, "%02x", job->pattern[i]);
	doc = json_pack("{s:i, s:s, s:b, s:i, s:b, s:b, s:i, s:s}", "version", 1, "lun", uuid,
			"failed", failed, "action", (int)job->kind, "ause", job->ause, "invert",
			job->invert, "count", job->count, "pattern", hex);
	text = doc ? json_dumps(doc, JSON_INDENT(1)) : NULL;
	json_decref(doc);
	return text;
}

static int decode(const char *text, const char *uuid, struct sanitize_job *job, bool *ret_failed)
{
	json_t *doc = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	int version, failed, kind, ause, invert, count, ret = -EINVAL;
	const char *lun, *hex;
	size_t len;

	if (!doc || json_unpack(doc, "{s:i, s:s, s:b, s:i, s:b, s:b, s:i, s:s}", "version",
				&version, "lun", &lun, "failed", &failed, "action", &kind, "ause",
				&ause, "invert", &invert, "count", &count, "pattern", &hex))
		goto out;
	if (strcmp(lun, uuid)) {
		ret = -ENOENT;
		goto out;
	}
	len = strlen(hex) / 2;
	if (version != 1 || kind < SANITIZE_OVERWRITE || kind > SANITIZE_CRYPTO_ERASE ||
	    len > PATTERN_MAX || (kind == SANITIZE_OVERWRITE && (!len || count < 1 || count > 31)))
		goto out;
	*job = (struct sanitize_job){.kind = kind,
				     .ause = ause,
				     .invert = invert,
				     .count = (uint8_t)count,
				     .pattern_len = (uint16_t)len};
	ret = 0;
	for (size_t i = 0; i < len; i++) {
		unsigned v;

		if (sscanf(hex + 2 * i, "%2x", &v) != 1)
			ret = -EINVAL;
		else
			job->pattern[i] = (uint8_t)v;
	}
	*ret_failed = failed;
out:
	json_decref(doc);
	return ret;
}

/** Blocks. Without a place to keep state, the operation just does not survive the process. */
static int save(struct scsi_sanitize *sz, bool failed)
{
	_cleanup_free_ char *text = NULL;
	char name[128];

	if (!state_can_save(sz->lu))
		return 0;
	state_file_name(sz->lu, "sanitize", name);
	text = encode(&sz->job, failed, lun_identity(sz->lu->lun)->serial);
	return text ? state_write(sz->lu, name, text) : -ENOMEM;
}

static int forget(struct scsi_sanitize *sz)
{
	char name[128];

	if (!state_can_save(sz->lu))
		return 0;
	state_file_name(sz->lu, "sanitize", name);
	return state_write(sz->lu, name, NULL);
}

/* --- the work, on the thread --- */

static int do_io(struct scsi_sanitize *sz, enum lun_op op, unsigned flags, uint64_t off,
		 uint64_t len, struct iovec *iov)
{
	struct lun_io io = {
		.op = op,
		.flags = flags | LUN_IO_AUTHORIZED | LUN_IO_OWNER,
		.off = off,
		.len = len,
		.iov = iov,
		.niov = iov ? 1 : 0,
		.reg_index = -1,
	};

	return lun_run(sz->lu->lun, &io);
}

/** Fills @buf with blocks of the pattern, repeated within each (SBC-4 5.31.2.2). */
static void fill_pattern(struct scsi_sanitize *sz, uint8_t *buf, size_t len, bool inverted)
{
	uint32_t block = sz->lu->block_size;

	for (size_t i = 0; i < len; i++) {
		uint8_t v = sz->job.pattern[i % block % sz->job.pattern_len];

		buf[i] = inverted ? (uint8_t)~v : v;
	}
}

/** Waits until @done bytes are not ahead of the pace that began at @start_ns. */
static void keep_pace(uint64_t start_ns, uint64_t done)
{
	uint64_t due = (uint64_t)((double)done / (double)OVERWRITE_PACE * (double)NSEC_PER_SEC);
	uint64_t now = clock_now_ns() - start_ns;

	if (due > now)
		clock_pause(due - now);
}

static int overwrite_pass(struct scsi_sanitize *sz, uint8_t *buf, uint64_t size)
{
	uint64_t start_ns = clock_now_ns();

	for (uint64_t off = 0; off < size;) {
		uint64_t len = size - off < OVERWRITE_CHUNK ? size - off : OVERWRITE_CHUNK;
		struct iovec iov = {buf, len};
		int err;

		if (atomic_load(&sz->stop))
			return -ECANCELED;
		/* Durable before it counts as progress, and never a cache full of dirty pages. */
		err = do_io(sz, LUN_WRITE, LUN_IO_FUA | LUN_IO_DPO, off, len, &iov);
		if (err)
			return err;
		off += len;
		atomic_fetch_add(&sz->done, len);
		keep_pace(start_ns, off);
	}
	return 0;
}

static int overwrite(struct scsi_sanitize *sz, uint64_t size)
{
	_cleanup_free_ uint8_t *buf = aligned_alloc(4096, OVERWRITE_CHUNK);
	int err = 0;

	if (!buf)
		return -ENOMEM;
	for (unsigned pass = 0; pass < sz->job.count && !err; pass++) {
		fill_pattern(sz, buf, OVERWRITE_CHUNK, sz->job.invert && pass % 2);
		err = overwrite_pass(sz, buf, size);
	}
	return err;
}

static int erase(struct scsi_sanitize *sz, uint64_t size)
{
	enum lun_op op = LUN_UNMAP;

	for (uint64_t off = 0; off < size;) {
		uint64_t len = size - off < ERASE_CHUNK ? size - off : ERASE_CHUNK;
		int err;

		if (atomic_load(&sz->stop))
			return -ECANCELED;
		err = do_io(sz, op, op == LUN_ZERO ? LUN_IO_MAY_UNMAP : 0, off, len, NULL);
		if (err == -EOPNOTSUPP && op == LUN_UNMAP) {
			op = LUN_ZERO;
			continue;
		}
		if (err)
			return err;
		off += len;
		atomic_fetch_add(&sz->done, len);
	}
	return 0;
}

static int work(struct scsi_sanitize *sz)
{
	uint64_t size = lun_size(sz->lu->lun);
	bool over = sz->job.kind == SANITIZE_OVERWRITE;
	int err;

	atomic_store(&sz->done, 0);
	atomic_store(&sz->total, size * (over ? sz->job.count : 1));
	err = over ? overwrite(sz, size) : erase(sz, size);
	return err ? err : do_io(sz, LUN_FLUSH, 0, 0, 0, NULL);
}

/* --- states and waiters --- */

/* State, gate and fence change as one: the next operation may begin right behind the lock. */
static void set_state_locked(struct scsi_sanitize *sz, enum sanitize_state state)
{
	mutex_assert_held(&sz->lu->lock);
	sz->state = state;
	scsi_lu_set_gate(sz->lu, SCSI_GATE_SANITIZE, state != SANITIZE_IDLE);
	if (sz->lu->pr)
		scsi_pr_update_fence_locked(sz->lu);
}

static void tell(struct reactor_msg *m)
{
	struct sanitize_wait *w = container_of(m, struct sanitize_wait, msg);

	if (!w->err)
		scsi_good(w->cmd);
	else if (w->not_begun)
		scsi_check(w->cmd, SENSE_HARDWARE_ERROR, ASC_INTERNAL_TARGET_FAILURE);
	else
		scsi_check(w->cmd, SENSE_MEDIUM_ERROR, ASC_SANITIZE_FAILED);
}

static struct sanitize_wait *take_waiter_locked(struct scsi_sanitize *sz)
{
	struct sanitize_wait *w = sz->waiter;

	sz->waiter = NULL;
	return w;
}

/** Sends @w (NULL: it did not wait so long) home. */
static void tell_waiter(struct sanitize_wait *w, int err, bool not_begun)
{
	if (!w)
		return;
	w->err = err;
	w->not_begun = not_begun;
	w->msg.fn = tell;
	reactor_post(w->cmd->nexus->reactor, &w->msg);
}

/** The operation, or the attempt at one, is over: its last act that others see. */
static void leave_running(struct scsi_sanitize *sz, enum sanitize_state state, int err,
			  bool not_begun)
{
	struct sanitize_wait *w;

	mutex_lock(&sz->lu->lock);
	w = take_waiter_locked(sz);
	sz->error = err;
	set_state_locked(sz, state);
	mutex_unlock(&sz->lu->lock);
	tell_waiter(w, err, not_begun);
}

static void run_to_end(struct scsi_sanitize *sz)
{
	int err = work(sz);

	if (err == -ECANCELED)
		return; /* the process ends; the next one starts over */
	if (!err)
		err = forget(sz);
	else
		save(sz, true);
	leave_running(sz, err ? SANITIZE_FAILED : SANITIZE_IDLE, err, false);
}

static void *resume_main(void *arg)
{
	run_to_end(arg);
	return NULL;
}

/** A new operation: on record first. */
static void *start_main(void *arg)
{
	struct scsi_sanitize *sz = arg;
	struct sanitize_wait *w = NULL;
	int err = save(sz, false);

	if (err) {
		leave_running(sz, sz->before, err, true);
		return NULL;
	}
	mutex_lock(&sz->lu->lock);
	if (sz->waiter && sz->waiter->immed)
		w = take_waiter_locked(sz);
	mutex_unlock(&sz->lu->lock);
	tell_waiter(w, 0, false);
	run_to_end(sz);
	return NULL;
}

static void *exit_failure_main(void *arg)
{
	struct scsi_sanitize *sz = arg;
	int err = forget(sz);

	leave_running(sz, err ? SANITIZE_FAILED : SANITIZE_IDLE, err, true);
	return NULL;
}

/** Starts @main on a thread. lu->lock not held; the caller has made the state RUNNING. */
static int start_thread(struct scsi_sanitize *sz, void *(*main)(void *))
{
	mutex_scope(&sz->starting);
	if (sz->thread_used)
		pthread_join(sz->thread, NULL); /* it has made its state public: it is over */
	sz->thread_used = !pthread_create(&sz->thread, NULL, main, sz);
	return sz->thread_used ? 0 : -EAGAIN;
}

/* --- commands --- */

/** The command no longer waits; the operation goes on. On the command's thread. */
static void wait_aborted(struct scsi_cmd *cmd)
{
	struct scsi_sanitize *sz = cmd->lu->sanitize;
	struct sanitize_wait *w = cmd->priv;
	bool mine;

	mutex_lock(&cmd->lu->lock);
	mine = sz->waiter == w;
	if (mine)
		sz->waiter = NULL;
	mutex_unlock(&cmd->lu->lock);
	if (mine)
		scsi_finish(cmd, SCSI_TASK_ABORTED);
}

/** From now on @job (NULL: an end of failure mode) has the LU; @w, which may be NULL, is told. */
static void enter_running_locked(struct scsi_sanitize *sz, const struct sanitize_job *job,
				 struct sanitize_wait *w)
{
	sz->before = sz->state;
	sz->waiter = w;
	if (job)
		sz->job = *job;
	atomic_store(&sz->done, 0);
	atomic_store(&sz->total, 1);
	set_state_locked(sz, SANITIZE_RUNNING);
}

/** Takes the state from @w's point of view; false: the command has ended. */
static bool enter_running(struct scsi_sanitize *sz, struct sanitize_wait *w)
{
	struct scsi_cmd *cmd = w->cmd;
	enum sanitize_state state;
	struct scsi_sense s;
	bool ause;

	mutex_lock(&sz->lu->lock);
	state = sz->state;
	ause = sz->job.ause;
	if (state != SANITIZE_RUNNING && (!w->exit_failure || (state == SANITIZE_FAILED && ause))) {
		enter_running_locked(sz, w->exit_failure ? NULL : &w->job, w);
		mutex_unlock(&sz->lu->lock);
		return true;
	}
	mutex_unlock(&sz->lu->lock);
	if (state == SANITIZE_RUNNING) {
		scsi_sanitize_refusal(sz->lu, &s);
		scsi_check_sense(cmd, &s);
	} else if (state == SANITIZE_IDLE) {
		scsi_good(cmd); /* EXIT FAILURE MODE, and there is none */
	} else {
		scsi_bad_cdb_field(cmd, 1, 4); /* the failed one did not allow this exit */
	}
	return false;
}

static void start(struct scsi_cmd *cmd, const struct sanitize_job *job)
{
	struct scsi_sanitize *sz = cmd->lu->sanitize;
	struct sanitize_wait *w = calloc(1, sizeof(*w));

	if (!w) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return;
	}
	w->cmd = cmd;
	w->immed = cmd->cdb[1] & 0x80;
	w->exit_failure = !job;
	if (job)
		w->job = *job;
	cmd->priv = w;
	cmd->priv_free = free;
	if (!enter_running(sz, w))
		return;
	cmd->on_abort = wait_aborted;
	if (start_thread(sz, job ? start_main : exit_failure_main))
		leave_running(sz, sz->before, -EAGAIN, true);
}

/** The parameter list of OVERWRITE (SBC-4 table 121). False: the command has ended. */
static bool take_overwrite(struct scsi_cmd *cmd, struct sanitize_job *job)
{
	uint32_t len = get_be16(cmd->cdb + 7);
	const uint8_t *p;

	if (len <= 4 || len > cmd->lu->block_size + 4) {
		scsi_bad_cdb_field(cmd, 7, -1);
		return false;
	}
	if (cmd->out_len < len) {
		scsi_bad_param_length(cmd);
		return false;
	}
	p = cmd->out->data;
	job->invert = p[0] & 0x80;
	job->count = p[0] & 0x1f;
	job->pattern_len = get_be16(p + 2);
	if (p[0] & 0x60) { /* TEST: of a vendor's own kind only */
		scsi_bad_param_field(cmd, 0, 6);
		return false;
	}
	if (!job->count) {
		scsi_bad_param_field(cmd, 0, 4);
		return false;
	}
	if (p[1]) {
		scsi_bad_param_field(cmd, 1, -1);
		return false;
	}
	if (job->pattern_len != len - 4) {
		scsi_bad_param_field(cmd, 2, -1);
		return false;
	}
	memcpy(job->pattern, p + 4, job->pattern_len);
	return true;
}

static void start_erase(struct scsi_cmd *cmd, enum sanitize_kind kind)
{
	struct sanitize_job job = {.kind = kind, .ause = cmd->cdb[1] & 0x20};

	if (get_be16(cmd->cdb + 7))
		scsi_bad_cdb_field(cmd, 7, -1);
	else
		start(cmd, &job);
}

void scsi_sanitize_overwrite(struct scsi_cmd *cmd)
{
	struct sanitize_job job = {.kind = SANITIZE_OVERWRITE, .ause = cmd->cdb[1] & 0x20};

	if (take_overwrite(cmd, &job))
		start(cmd, &job);
}

void scsi_sanitize_block_erase(struct scsi_cmd *cmd)
{
	start_erase(cmd, SANITIZE_BLOCK_ERASE);
}

void scsi_sanitize_crypto_erase(struct scsi_cmd *cmd)
{
	start_erase(cmd, SANITIZE_CRYPTO_ERASE);
}

void scsi_sanitize_exit_failure(struct scsi_cmd *cmd)
{
	if (get_be16(cmd->cdb + 7))
		scsi_bad_cdb_field(cmd, 7, -1);
	else
		start(cmd, NULL);
}

void scsi_sanitize_refusal(struct scsi_lu *lu, struct scsi_sense *ret_s)
{
	struct scsi_sanitize *sz = lu->sanitize;
	uint64_t done, total;
	bool failed;

	mutex_lock(&lu->lock);
	failed = sz->state == SANITIZE_FAILED;
	mutex_unlock(&lu->lock);
	if (failed) {
		*ret_s = (struct scsi_sense){.key = SENSE_MEDIUM_ERROR, .asc = ASC_SANITIZE_FAILED};
		return;
	}
	*ret_s = (struct scsi_sense){.key = SENSE_NOT_READY, .asc = ASC_SANITIZE_IN_PROGRESS};
	done = atomic_load(&sz->done);
	total = atomic_load(&sz->total);
	if (done >= total)
		scsi_sense_progress(ret_s, 0xffff);
	else
		scsi_sense_progress(ret_s, (uint16_t)((double)done / (double)total * 65535.0));
}

/* --- on behalf of the owner --- */

int scsi_lu_sanitize(struct scsi_lu *lu, bool overwrite)
{
	/* Without AUSE: who has been promised that data are gone is not to get at them by a
	 * failure. */
	const struct sanitize_job job = {
		.kind = overwrite ? SANITIZE_OVERWRITE : SANITIZE_BLOCK_ERASE,
		.count = overwrite,
		.pattern_len = overwrite,
	};
	struct scsi_sanitize *sz = lu->sanitize;

	mutex_lock(&lu->lock);
	if (sz->state == SANITIZE_RUNNING) {
		mutex_unlock(&lu->lock);
		return -EBUSY;
	}
	enter_running_locked(sz, &job, NULL);
	mutex_unlock(&lu->lock);
	if (!start_thread(sz, start_main))
		return 0;
	leave_running(sz, sz->before, -EAGAIN, true);
	return -EAGAIN;
}

void scsi_lu_sanitize_status(struct scsi_lu *lu, struct scsi_sanitize_status *ret_status)
{
	struct scsi_sanitize *sz = lu->sanitize;

	mutex_scope(&lu->lock);
	*ret_status = (struct scsi_sanitize_status){
		.running = sz->state == SANITIZE_RUNNING,
		.failed = sz->state == SANITIZE_FAILED,
		.error = sz->error,
		.done = atomic_load(&sz->done),
		.total = atomic_load(&sz->total),
	};
}

/* --- life --- */

int scsi_sanitize_create(struct scsi_lu *lu, struct reason *why)
{
	struct scsi_sanitize *sz = calloc(1, sizeof(*sz));
	_cleanup_free_ char *text = NULL;
	bool failed = false;
	int ret;

	if (!sz)
		return reason_set(why, ENOMEM, "no memory");
	sz->lu = lu;
	mutex_init(&sz->starting, LOCK_RANK_LEAF);
	atomic_init(&sz->total, 1);
	ret = state_load(lu, "sanitize", &text, why);
	if (!ret && text) {
		ret = decode(text, lun_identity(lu->lun)->serial, &sz->job, &failed);
		if (ret == -EINVAL)
			reason_set(why, EINVAL, "%s: saved sanitize state makes no sense",
				   lun_name(lu->lun));
	} else if (!ret) {
		ret = -ENOENT;
	}
	if (ret && ret != -ENOENT) {
		mutex_destroy(&sz->starting);
		free(sz);
		return ret;
	}
	lu->sanitize = sz;
	if (ret == -ENOENT)
		return 0; /* nothing, or of another LUN of that name */
	mutex_lock(&lu->lock);
	set_state_locked(sz, failed ? SANITIZE_FAILED : SANITIZE_RUNNING);
	mutex_unlock(&lu->lock);
	if (!failed && start_thread(sz, resume_main))
		leave_running(sz, SANITIZE_FAILED, -EAGAIN, true);
	return 0;
}

void scsi_sanitize_destroy(struct scsi_lu *lu)
{
	struct scsi_sanitize *sz = lu->sanitize;

	if (!sz)
		return;
	atomic_store(&sz->stop, true);
	if (sz->thread_used)
		pthread_join(sz->thread, NULL);
	assert(!sz->waiter);
	mutex_destroy(&sz->starting);
	free(sz);
	lu->sanitize = NULL;
}
