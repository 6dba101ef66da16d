/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "scsi_harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "event/worker.h"
#include "scratch.h"

/* --- worlds --- */

static struct lun *open_lun(struct world *w, const struct world_options *opt, const char *name)
{
	char path[sizeof(w->path) + 16];
	struct reason why = {""};
	struct lun *lun;

	snprintf(path, sizeof(path), "%s/%s", w->dir, name);
	struct lun_options lo = {
		.name = name,
		.path = path,
		.mode = BLOCK_MODE_BUFFERED,
		.removable = opt->removable,
		.create = true,
		.size = opt->size ? opt->size : 8u << 20,
		.block_size = opt->block_size,
		.state_dirfd = w->state_dirfd,
	};

	if (opt->store) {
		if (lun_create(&lo, opt->store, &lun, &why))
			fail_msg("lun_create: %s", why.text);
		return lun;
	}
	if (opt->read_only) {
		int fd = open(path, O_CREAT | O_RDWR, 0600);

		assert_true(fd >= 0 && !ftruncate(fd, (off_t)lo.size));
		close(fd);
		lo.create = false;
		lo.size = 0;
		lo.read_only = true;
	}
	if (lun_open(&lo, &lun, &why))
		fail_msg("lun_open: %s", why.text);
	return lun;
}

struct scsi_lu *world_add_lu(struct world *w, const struct world_options *opt, const char *name,
			     struct scsi_target *t, unsigned number)
{
	struct scsi_lu_options so = {.thin = !opt->thick};
	struct lun *lun = open_lun(w, opt, name);
	struct reason why = {""};
	struct scsi_lu *lu;

	if (scsi_lu_create(lun, &so, &lu, &why))
		fail_msg("scsi_lu_create: %s", why.text);
	lun_unref(lun);
	assert_int_equal(scsi_target_map(t, number, lu), 0);
	return lu;
}

struct world *world_open(const struct world_options *opt)
{
	struct world *w = calloc(1, sizeof(*w));
	const struct reactor_options ro = {.name = "test"};

	scratch_dir("/tmp", w->dir, sizeof(w->dir));
	w->state_dirfd = opt->state ? open(opt->state, O_RDONLY | O_DIRECTORY) : -1;
	assert_int_equal(reactor_set_start(WORLD_REACTORS, &ro, &w->set), 0);
	assert_int_equal(scsi_target_create("iqn.2026-11.local.ebb:test", &w->target), 0);
	w->lu = world_add_lu(w, opt, "disk", w->target, 0);
	w->lun = scsi_lu_lun(w->lu);
	return w;
}

void world_close(struct world *w)
{
	scsi_lu_unref(w->lu);
	scsi_target_unref(w->target);
	worker_drain(); /* its threads tell reactors */
	reactor_set_stop(w->set);
	if (w->state_dirfd >= 0)
		close(w->state_dirfd);
	free(w);
}

/* --- initiators --- */

static void abort_all(struct scsi_nexus *nx, struct scsi_lu *lu, bool tas, void (*fin)(void *arg),
		      void *arg)
{
	struct initiator *i = container_of(nx, struct initiator, nx);

	i->aborts++;
	i->aborted_with_tas = tas;
	if (!i->keep_fin) {
		fin(arg);
		return;
	}
	i->fin_arg = arg;
	atomic_store(&i->fin, fin);
}

static void event(struct scsi_nexus *nx, unsigned lun, enum scsi_event ev)
{
	struct initiator *i = container_of(nx, struct initiator, nx);

	i->events++;
	i->event = ev;
	i->event_lun = lun;
}

static const struct scsi_nexus_ops ops = {.abort_all = abort_all, .event = event};

struct call {
	struct reactor_msg msg;
	struct initiator *i;
	void (*fn)(void *arg);
	void *arg;
};

static void finished(struct initiator *i)
{
	pthread_mutex_lock(&i->lock);
	i->done = true;
	pthread_cond_signal(&i->cond);
	pthread_mutex_unlock(&i->lock);
}

static void wait_finished(struct initiator *i)
{
	pthread_mutex_lock(&i->lock);
	while (!i->done)
		pthread_cond_wait(&i->cond, &i->lock);
	i->done = false;
	pthread_mutex_unlock(&i->lock);
}

static void run_call(struct reactor_msg *m)
{
	struct call *c = container_of(m, struct call, msg);

	c->fn(c->arg);
	finished(c->i);
}

void on_reactor(struct initiator *i, void (*fn)(void *arg), void *arg)
{
	struct call c = {.msg.fn = run_call, .i = i, .fn = fn, .arg = arg};

	reactor_post(i->nx.reactor, &c.msg);
	wait_finished(i);
}

static void attach(void *arg)
{
	struct initiator *i = arg;

	i->nx.protocol = "test";
	scsi_nexus_attach(&i->nx);
}

static void detach(void *arg)
{
	struct initiator *i = arg;

	scsi_nexus_detach(&i->nx);
}

unsigned port_id(uint8_t *buf, const char *name)
{
	char text[64];
	unsigned len;

	snprintf(text, sizeof(text), "%s,i,0x00023d000001", name);
	len = ((unsigned)strlen(text) + 4) & ~3u;
	if (len < 20)
		len = 20;
	memset(buf, 0, 4 + len);
	buf[0] = 0x45;
	put_be16(buf + 2, (uint16_t)len);
	memcpy(buf + 4, text, strlen(text));
	return 4 + len;
}

struct initiator *world_login_raw(struct world *w, struct scsi_target *t, unsigned reactor,
				  const char *name)
{
	struct initiator *i = calloc(1, sizeof(*i));

	i->w = w;
	i->expect = UINT32_MAX;
	i->nx.ops = &ops;
	i->nx.target = t;
	i->nx.reactor = reactor_set_get(w->set, reactor);
	i->nx.rel_port = 1;
	i->nx.transport_id_len = (uint16_t)port_id(i->nx.transport_id, name);
	snprintf(i->nx.initiator_name, sizeof(i->nx.initiator_name), "%s", name);
	pthread_mutex_init(&i->lock, NULL);
	pthread_cond_init(&i->cond, NULL);
	on_reactor(i, attach, i);
	return i;
}

struct initiator *world_login(struct world *w, unsigned reactor, const char *name)
{
	struct initiator *i = world_login_raw(w, w->target, reactor, name);

	send_cdb(i, CDB(0x00, 0, 0, 0, 0, 0), NULL, 0);
	expect_sense(i, SENSE_UNIT_ATTENTION, 0x2900);
	return i;
}

void world_logout(struct initiator *i)
{
	on_reactor(i, detach, i);
	free(i->r.data);
	pthread_mutex_destroy(&i->lock);
	pthread_cond_destroy(&i->cond);
	free(i);
}

/* --- commands --- */

static void command_done(struct scsi_cmd *cmd)
{
	struct initiator *i = container_of(cmd, struct initiator, cmd);

	i->r.status = cmd->status;
	i->r.sense_len = cmd->sense_len;
	memcpy(i->r.sense, cmd->sense, sizeof(i->r.sense));
	i->r.len = cmd->in_len;
	if (cmd->in_len) {
		i->r.data = malloc(cmd->in_len);
		memcpy(i->r.data, cmd->in->data, cmd->in_len);
	}
	scsi_cmd_release(cmd);
	iobuf_put(cmd->out);
	cmd->out = NULL;
	finished(i);
}

static void start_command(struct reactor_msg *m)
{
	struct initiator *i = container_of(m, struct initiator, msg);
	struct scsi_cmd *cmd = &i->cmd;
	uint32_t offered = i->expect == UINT32_MAX ? i->out_len : i->expect;

	scsi_cmd_parse(cmd);
	i->r.dir = cmd->dir;
	i->r.data_len = cmd->data_len;
	cmd->out_excess = offered > cmd->data_len;
	if (cmd->dir == SCSI_DIR_OUT) {
		cmd->out_len = offered < cmd->data_len ? offered : cmd->data_len;
		if (cmd->out_len) {
			cmd->out = iobuf_get(reactor_iobufs(i->nx.reactor), cmd->out_len);
			memcpy(cmd->out->data, i->out, cmd->out_len);
		}
	}
	scsi_cmd_execute(cmd);
}

void send_cdb(struct initiator *i, const uint8_t *cdb, unsigned cdb_len, const void *out,
	      uint32_t out_len)
{
	free(i->r.data);
	memset(&i->r, 0, sizeof(i->r));
	memset(&i->cmd, 0, sizeof(i->cmd));
	i->cmd.nexus = &i->nx;
	i->cmd.lun = i->lun;
	i->cmd.cdb = cdb;
	i->cmd.cdb_len = (uint16_t)cdb_len;
	i->cmd.attr = 1;
	i->cmd.done = command_done;
	i->out = out;
	i->out_len = out_len;
	i->msg.fn = start_command;
	reactor_post(i->nx.reactor, &i->msg);
	wait_finished(i);
}

struct tmf_call {
	struct scsi_tmf_req req;
	struct reactor_msg msg;
	struct initiator *i;
};

static void tmf_done(struct scsi_tmf_req *req)
{
	finished(container_of(req, struct tmf_call, req)->i);
}

static void start_tmf(struct reactor_msg *m)
{
	scsi_tmf(&container_of(m, struct tmf_call, msg)->req);
}

enum scsi_tmf_result send_tmf(struct initiator *i, enum scsi_tmf fn)
{
	struct tmf_call c = {
		.req = {.nexus = &i->nx, .fn = fn, .lun = i->lun, .done = tmf_done},
		.msg.fn = start_tmf,
		.i = i,
	};

	reactor_post(i->nx.reactor, &c.msg);
	wait_finished(i);
	return c.req.result;
}

/* --- what came back --- */

static bool fixed_format(const struct initiator *i)
{
	return (i->r.sense[0] & 0x7f) < 0x72;
}

unsigned sense_key(const struct initiator *i)
{
	return i->r.sense[fixed_format(i) ? 2 : 1] & 0x0f;
}

unsigned sense_asc(const struct initiator *i)
{
	return get_be16(i->r.sense + (fixed_format(i) ? 12 : 2));
}

/* The first sense descriptor of @type, or NULL. */
static const uint8_t *descriptor(const struct initiator *i, unsigned type)
{
	for (unsigned n = 8; n + 2 <= i->r.sense_len; n += 2 + i->r.sense[n + 1]) {
		if (i->r.sense[n] == type)
			return i->r.sense + n;
	}
	return NULL;
}

bool sense_info(const struct initiator *i, uint64_t *ret_info)
{
	const uint8_t *d;

	if (fixed_format(i)) {
		*ret_info = get_be32(i->r.sense + 3);
		return i->r.sense[0] & 0x80;
	}
	d = descriptor(i, 0);
	if (d)
		*ret_info = get_be64(d + 4);
	return d;
}

int sense_field(const struct initiator *i)
{
	const uint8_t *d = i->r.sense + 15;

	if (!fixed_format(i)) {
		d = descriptor(i, 2);
		d = d ? d + 4 : NULL;
	}
	if (!d || !(d[0] & 0x80))
		return -1;
	return get_be16(d + 1) << 8 | (d[0] & 0x40) << 1 | (d[0] & 0x0f);
}

static void wrong(const struct initiator *i, const char *what, const char *file, int line)
{
	print_error("%s:%d: CDB %02x %02x: %s, got status %02x key %x asc %04x field %x\n", file,
		    line, i->cmd.cdb[0], i->cmd.cdb[1], what, i->r.status,
		    i->r.sense_len ? sense_key(i) : 0, i->r.sense_len ? sense_asc(i) : 0,
		    i->r.sense_len ? (unsigned)sense_field(i) : 0);
	_fail(file, line);
}

void expect_good_at(const struct initiator *i, const char *file, int line)
{
	if (i->r.status != SCSI_GOOD || i->r.sense_len)
		wrong(i, "GOOD expected", file, line);
}

void expect_sense_at(const struct initiator *i, unsigned key, unsigned asc, const char *file,
		     int line)
{
	char what[64];

	snprintf(what, sizeof(what), "key %x asc %04x expected", key, asc);
	if (i->r.status != SCSI_CHECK_CONDITION || sense_key(i) != key || sense_asc(i) != asc)
		wrong(i, what, file, line);
}

void expect_field_at(const struct initiator *i, unsigned asc, bool in_cdb, unsigned byte, int bit,
		     const char *file, int line)
{
	int want = (int)(byte << 8 | (in_cdb ? 0x80 : 0) | (bit >= 0 ? 8u | (unsigned)bit : 0));
	char what[64];

	expect_sense_at(i, SENSE_ILLEGAL_REQUEST, asc, file, line);
	snprintf(what, sizeof(what), "field pointer %x expected", (unsigned)want);
	if (sense_field(i) != want)
		wrong(i, what, file, line);
}
