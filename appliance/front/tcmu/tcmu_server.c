/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The devices there are, and which of them are open.
 *
 * All decisions are made on one reactor, the server's home: messages of the kernel, of control, of
 * sessions that ended and of workers arrive there. They only note what has changed; reconcile()
 * then looks at what a device is and what it should be, and starts the one step that leads there:
 *
 *	WAITING --opening: a worker--> OPENING --session--> OPEN --stop--> CLOSING --> WAITING
 *
 * A device should be open while the kernel has it, its LUN is offered (by the same scsi_lu), and
 * the server neither waits for its release nor stops. One that could not be opened, or whose ring
 * broke as soon as it was, has a problem and stays closed until its LUN is offered anew.
 *
 * A device that the kernel had before we came may have commands in its ring that a process before
 * us took and did not end. Which, the ring does not say: entries are given back in any order. So
 * the kernel is asked to end all of them with BUSY, and initiators send them again - all but those
 * that must not be carried out twice, which are brought to their end (tcmu_redo.h). By then nothing
 * of that process is under way any more: its locks on the LUN's file have been waited for. And
 * nobody else has written to the LUN since: others are let in after that (tcmu_server_release).
 *
 * The lock guards what others look at: the list of devices with their states, the list of LUNs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "base/completion.h"
#include "base/hash.h"
#include "base/log.h"
#include "front/tcmu/tcmu.h"
#include "front/tcmu/tcmu_kernel.h"
#include "front/tcmu/tcmu_netlink.h"
#include "front/tcmu/tcmu_redo.h"
#include "mem/budget/budget.h"

#define STABLE_NS (10 * NSEC_PER_SEC) /* a session that lasted is worth another one */
#define BUCKETS	  256u		      /* of offers, some thousands at most */

enum device_state { WAITING, OPENING, OPEN, CLOSING };

struct device {
	/* constant */
	struct tcmu_server *srv;
	uint64_t id;
	unsigned minor;
	struct tcmu_name name;

	/* home; those marked L are written under srv->lock too */
	enum device_state state;    /* L */
	bool removed;		    /* the kernel takes it away, or has */
	bool fresh;		    /* just made: nobody had it before */
	unsigned born;		    /* the scan before which it was known */
	bool asked[TCMU_NEWS_LOST]; /* the kernel waits for an answer to this */
	uint32_t device;	    /* for answers */
	char problem[200];	    /* L */
	struct scsi_lu *lu;	    /* from OPENING to CLOSING */
	uint64_t offer, failed; /* numbers: of @lu, and the one with which it could not be opened */
	struct tcmu_session *session; /* L; in OPEN and CLOSING */
	struct list_node link;	      /* srv->devices; L */

	/* the worker's, in OPENING */
	struct worker_job job;
	struct tcmu_channel channel;
	struct reason why;
	int err;
};

struct offer {
	struct list_node link;
	uint64_t id; /* never used again, unlike addresses */
	struct scsi_lu *lu;
};

struct found {
	unsigned minor;
	struct tcmu_name name;
};

struct tcmu_server {
	/* constant */
	struct reactor_set *set;
	struct reactor *home;
	struct budget *budget;

	/* home */
	struct tcmu_netlink *netlink;
	bool released, stopping, scanning, scan_again;
	bool lost; /* messages of the kernel's, maybe questions; until the next scan */
	unsigned n_scans;
	uint64_t next_id;
	struct worker_job scan;
	bool forget; /* the scan's, as what follows: let those go whose question was lost */
	struct found *found;
	size_t n_found;
	int scan_err;

	/* any thread */
	atomic_bool caught_up; /* what a process before us left has been seen to; home sets it */
	struct completion all_caught_up;
	struct mutex lock;
	struct list_node devices, offers[BUCKETS]; /* by the LUN's name */
	uint64_t next_offer;
	struct reactor_msg start_msg, release_msg, look_msg, stop_msg;
	atomic_bool look_posted;
	struct completion stopped;
};

static void reconcile(struct device *d);
static void scan(struct tcmu_server *srv);
static void check_stopped(struct tcmu_server *srv);
static void check_caught_up(struct tcmu_server *srv);

/* --- devices --- */

static void set_state(struct device *d, enum device_state state)
{
	mutex_scope(&d->srv->lock);
	d->state = state;
}

static void set_problem(struct device *d, const char *problem)
{
	mutex_scope(&d->srv->lock);
	snprintf(d->problem, sizeof(d->problem), "%s", problem);
}

static void answer(struct device *d, enum tcmu_news news, int err)
{
	if (!d->asked[news])
		return;
	d->asked[news] = false;
	tcmu_netlink_answer(d->srv->netlink, news, d->device, err);
}

static struct device *find_device(struct tcmu_server *srv, unsigned minor)
{
	struct device *d;

	list_for_each_entry (d, &srv->devices, link)
		if (d->minor == minor && !d->removed)
			return d;
	return NULL;
}

static struct device *add_device(struct tcmu_server *srv, unsigned minor,
				 const struct tcmu_name *name)
{
	struct device *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->srv = srv;
	d->id = ++srv->next_id;
	d->minor = minor;
	d->name = *name;
	d->born = srv->n_scans;
	mutex_scope(&srv->lock);
	list_add_tail(&srv->devices, &d->link);
	return d;
}

/* It is closed, and nobody wants it. */
static void drop_device(struct device *d)
{
	struct tcmu_server *srv = d->srv;

	answer(d, TCMU_NEWS_ADDED, -ENODEV);
	answer(d, TCMU_NEWS_REMOVED, 0);
	mutex_lock(&srv->lock);
	list_del(&d->link);
	mutex_unlock(&srv->lock);
	free(d);
}

static void reconcile_all(struct tcmu_server *srv)
{
	struct device *d, *next;

	list_for_each_entry_safe (d, next, &srv->devices, link)
		reconcile(d);
	check_caught_up(srv);
	check_stopped(srv);
}

/* --- opening --- */

static void warn_of_size(const struct device *d)
{
	struct reason why;

	if (tcmu_check_size(scsi_lu_lun(d->lu), tcmu_kernel_size(&d->name), &why))
		log_warn("tcmu.size", "backstore=%s reason=\"%s\"", d->name.backstore, why.text);
}

static void redo(struct device *d)
{
	struct tcmu_redone done = tcmu_redo(&d->channel, d->lu, !atomic_load(&d->srv->caught_up));

	if (done.what)
		log_error("tcmu.redo", "backstore=%s reason=\"its ring: %s\"", d->name.backstore,
			  done.what);
	if (done.answered || done.left)
		log_info("tcmu.redo", "backstore=%s answered=%u left=%u", d->name.backstore,
			 done.answered, done.left);
}

/* Ends what a process before us took from the ring. */
static int take_over(struct device *d)
{
	int err = tcmu_kernel_block(&d->name, true, &d->why), unblock;

	if (err)
		return err;
	redo(d);
	err = tcmu_kernel_reset(&d->name, &d->why);
	unblock = tcmu_kernel_block(&d->name, false, err ? NULL : &d->why);
	return err ? err : unblock;
}

static int try_open(struct device *d)
{
	int err = 0;

	if (d->fresh)
		err = tcmu_check_size(scsi_lu_lun(d->lu), tcmu_kernel_size(&d->name), &d->why);
	if (!err)
		err = tcmu_kernel_open(d->minor, &d->name, &d->channel, &d->why);
	if (err || d->fresh)
		return err;
	warn_of_size(d); /* its LUN may have grown since it was made */
	err = take_over(d);
	if (err)
		tcmu_kernel_close(&d->channel);
	return err;
}

static void open_run(struct worker_job *j)
{
	struct device *d = container_of(j, struct device, job);

	d->err = try_open(d);
}

static void session_ended(struct tcmu_session *s, const char *broken);

static int start_session(struct device *d)
{
	struct tcmu_server *srv = d->srv;
	char name[TCMU_BACKSTORE_MAX + 32];
	struct tcmu_session_options opt = {
		.reactor = reactor_set_next(srv->set),
		.home = srv->home,
		.name = name,
		.lu = d->lu,
		.channel = d->channel,
		.ended = session_ended,
		.owner = d,
	};
	struct tcmu_session *s;
	int err;

	snprintf(name, sizeof(name), "user_%u/%s", d->name.hba, d->name.backstore);
	err = tcmu_session_start(&opt, &s, &d->why);
	if (err) {
		tcmu_kernel_close(&d->channel);
		return err;
	}
	mutex_scope(&srv->lock);
	d->session = s;
	return 0;
}

/* A device that was open, or to be opened, is not. */
static void closed(struct device *d)
{
	scsi_lu_unref(d->lu);
	d->lu = NULL;
	if (d->srv->budget)
		budget_release(d->srv->budget, TCMU_DEVICE_BYTES);
	set_state(d, WAITING);
}

/* It cannot be opened now. The kernel unmakes a device that is refused as it is made. */
static void fail(struct device *d, int err, const char *problem)
{
	log_error("tcmu.refused", "backstore=%s lun=%s reason=\"%s\"", d->name.backstore,
		  d->name.lun, problem);
	set_problem(d, problem);
	d->failed = d->offer;
	d->removed |= d->asked[TCMU_NEWS_ADDED];
	answer(d, TCMU_NEWS_ADDED, err);
}

static void open_done(struct worker_job *j)
{
	struct device *d = container_of(j, struct device, job);
	struct tcmu_server *srv = d->srv;

	if (!d->err)
		d->err = start_session(d);
	d->fresh = false; /* what comes into its ring is there when it is opened again */
	if (d->err) {
		closed(d);
		fail(d, d->err, d->why.text);
	} else {
		set_problem(d, "");
		set_state(d, OPEN);
		log_info("tcmu.open", "backstore=%s lun=%s uio=%u", d->name.backstore, d->name.lun,
			 d->minor);
		answer(d, TCMU_NEWS_ADDED, 0);
	}
	reconcile(d);
	check_caught_up(srv);
	check_stopped(srv);
}

static void open_device(struct device *d, struct scsi_lu *lu)
{
	struct budget *b = d->srv->budget;

	d->why.text[0] = '\0';
	if (b && budget_reserve(b, TCMU_DEVICE_BYTES, "a TCMU device", &d->why)) {
		fail(d, -ENOMEM, d->why.text);
		scsi_lu_unref(lu);
		return;
	}
	d->lu = lu;
	set_state(d, OPENING);
	d->job = (struct worker_job){.run = open_run, .done = open_done, .reactor = d->srv->home};
	worker_submit(&d->job);
}

static void session_ended(struct tcmu_session *s, const char *broken)
{
	struct device *d = tcmu_session_owner(s);
	struct tcmu_server *srv = d->srv;
	struct tcmu_session_info info;

	tcmu_session_get_info(s, &info);
	mutex_lock(&srv->lock);
	d->session = NULL;
	mutex_unlock(&srv->lock);
	tcmu_session_free(s);
	closed(d);
	if (broken && clock_now_ns() - info.since_ns < STABLE_NS)
		fail(d, -EPROTO, broken);
	if (broken && !srv->stopping)
		scan(srv); /* it may not be there any more */
	log_info("tcmu.closed", "backstore=%s lun=%s", d->name.backstore, d->name.lun);
	reconcile(d);
	check_stopped(srv);
}

/* --- what a device should be --- */

static const char *offer_name(const struct offer *o)
{
	return lun_name(scsi_lu_lun(o->lu));
}

static struct list_node *bucket_of(struct tcmu_server *srv, const char *name)
{
	return &srv->offers[hash_add(HASH_START, name, strlen(name)) % BUCKETS];
}

static struct offer *find_offer_locked(struct tcmu_server *srv, const char *name)
{
	struct offer *o;

	list_for_each_entry (o, bucket_of(srv, name), link)
		if (!strcmp(offer_name(o), name))
			return o;
	return NULL;
}

/* A new reference, or NULL. */
static struct scsi_lu *get_offer(struct tcmu_server *srv, const char *name, uint64_t *ret_id)
{
	struct offer *o;

	mutex_scope(&srv->lock);
	o = find_offer_locked(srv, name);
	if (!o)
		return NULL;
	*ret_id = o->id;
	return scsi_lu_ref(o->lu);
}

static void refuse_unknown(struct device *d)
{
	char text[LUN_NAME_MAX + 40];

	snprintf(text, sizeof(text), "no LUN is called '%s'", d->name.lun);
	set_problem(d, text);
	if (!d->asked[TCMU_NEWS_ADDED])
		return;
	log_error("tcmu.refused", "backstore=%s reason=\"%s\"", d->name.backstore, text);
	answer(d, TCMU_NEWS_ADDED, -ENOENT);
	d->removed = true;
}

/* Starts the step that @d needs; may free it. */
static void reconcile(struct device *d)
{
	struct tcmu_server *srv = d->srv;
	struct scsi_lu *lu = NULL;
	uint64_t offer = 0;

	if (srv->released && !srv->stopping && !d->removed)
		lu = get_offer(srv, d->name.lun, &offer);
	if (d->state == WAITING && lu && offer != d->failed) {
		d->offer = offer;
		open_device(d, lu);
		lu = NULL;
	} else if (d->state == WAITING && !lu && srv->released && !srv->stopping && !d->removed) {
		refuse_unknown(d);
	} else if (d->state == OPEN && offer != d->offer) {
		set_state(d, CLOSING);
		tcmu_session_stop(d->session);
	}
	scsi_lu_unref(lu);
	if (d->state == WAITING && (d->removed || srv->stopping))
		drop_device(d);
}

/* --- what the kernel has --- */

static void note_found(void *ctx, unsigned minor, const struct tcmu_name *name)
{
	struct tcmu_server *srv = ctx;
	struct found *bigger = realloc(srv->found, (srv->n_found + 1) * sizeof(*bigger));

	if (!bigger) {
		srv->scan_err = -ENOMEM;
		return;
	}
	srv->found = bigger;
	bigger[srv->n_found++] = (struct found){minor, *name};
}

static void scan_run(struct worker_job *j)
{
	struct tcmu_server *srv = container_of(j, struct tcmu_server, scan);
	int err;

	if (srv->forget)
		tcmu_kernel_forget_questions();
	srv->found = NULL;
	srv->n_found = 0;
	srv->scan_err = 0;
	err = tcmu_kernel_scan(note_found, srv);
	if (err)
		srv->scan_err = err;
}

static bool was_found(const struct tcmu_server *srv, const struct device *d)
{
	for (size_t i = 0; i < srv->n_found; i++)
		if (srv->found[i].minor == d->minor &&
		    tcmu_same_name(&srv->found[i].name, &d->name))
			return true;
	return false;
}

static void scan_done(struct worker_job *j)
{
	struct tcmu_server *srv = container_of(j, struct tcmu_server, scan);
	struct device *d;

	srv->scanning = false;
	if (srv->scan_err)
		log_error("tcmu.scan", "reason=\"%s\"", strerror(-srv->scan_err));
	list_for_each_entry (d, &srv->devices, link)
		if (!srv->scan_err && d->born < srv->n_scans && !was_found(srv, d))
			d->removed = true;
	for (size_t i = 0; i < srv->n_found; i++)
		if (!find_device(srv, srv->found[i].minor) &&
		    !add_device(srv, srv->found[i].minor, &srv->found[i].name))
			log_error("tcmu.scan", "reason=\"%s\"", strerror(ENOMEM));
	free(srv->found);
	srv->found = NULL;
	if (srv->scan_again && !srv->stopping)
		scan(srv);
	reconcile_all(srv);
}

static void scan(struct tcmu_server *srv)
{
	srv->scan_again = srv->scanning;
	if (srv->scanning)
		return;
	srv->scanning = true;
	srv->n_scans++;
	srv->forget = srv->lost;
	srv->lost = false;
	srv->scan = (struct worker_job){.run = scan_run, .done = scan_done, .reactor = srv->home};
	worker_submit(&srv->scan);
}

static void on_added(struct tcmu_server *srv, const struct tcmu_message *m)
{
	struct device *d = find_device(srv, m->minor);

	if (d) { /* its end has escaped us */
		d->removed = true;
		reconcile(d);
	}
	d = add_device(srv, m->minor, &m->name);
	if (!d) {
		tcmu_netlink_answer(srv->netlink, m->news, m->device, -ENOMEM);
		return;
	}
	d->fresh = true;
	d->device = m->device;
	d->asked[TCMU_NEWS_ADDED] = true;
	reconcile(d);
}

static void on_removed(struct tcmu_server *srv, const struct tcmu_message *m)
{
	struct device *d = find_device(srv, m->minor);

	if (!d) {
		tcmu_netlink_answer(srv->netlink, m->news, m->device, 0);
		return;
	}
	d->device = m->device;
	d->removed = true;
	d->asked[TCMU_NEWS_REMOVED] = true;
	/* Who opens it may wait in configfs, for a folder that is locked until this is answered. */
	if (d->state == OPENING)
		answer(d, TCMU_NEWS_REMOVED, 0);
	reconcile(d);
}

/* Nothing can be changed here, but what the LUN is already may be declared. */
static int check_change(const struct device *d, const struct tcmu_message *m, struct reason *why)
{
	const char *lun = m->config ? tcmu_config_lun(m->config) : NULL;
	size_t len = strlen(d->name.lun);

	if (m->config && (!lun || strncmp(lun, d->name.lun, len) || lun[len] > ' '))
		return reason_set(why, EBUSY, "the LUN of a backstore in use cannot be changed");
	if (m->has_cache)
		return reason_set(why, EOPNOTSUPP,
				  "the write cache is set by MODE SELECT of an initiator");
	if (m->has_size && d->lu && tcmu_check_size(scsi_lu_lun(d->lu), m->size, why))
		return reason_prefix(why, -EINVAL, "grow the LUN first");
	return 0;
}

static void on_reconfig(struct tcmu_server *srv, const struct tcmu_message *m)
{
	struct device *d = find_device(srv, m->minor);
	struct reason why = {.text = ""};
	int err = d ? check_change(d, m, &why) : -ENODEV;

	if (err)
		log_warn("tcmu.reconfig.refused", "backstore=%s reason=\"%s\"", m->name.backstore,
			 why.text);
	tcmu_netlink_answer(srv->netlink, m->news, m->device, err);
}

static void on_message(void *ctx, const struct tcmu_message *m)
{
	struct tcmu_server *srv = ctx;

	switch (m->news) {
	case TCMU_NEWS_ADDED:
		on_added(srv, m);
		break;
	case TCMU_NEWS_REMOVED:
		on_removed(srv, m);
		break;
	case TCMU_NEWS_RECONFIG:
		on_reconfig(srv, m);
		break;
	case TCMU_NEWS_LOST:
		srv->lost = true;
		if (!srv->stopping)
			scan(srv);
		break;
	}
}

/* --- LUNs --- */

static void look(struct reactor_msg *m)
{
	struct tcmu_server *srv = container_of(m, struct tcmu_server, look_msg);

	/* First: what changes from now on is posted again. */
	atomic_store(&srv->look_posted, false);
	reconcile_all(srv);
}

static void post_look(struct tcmu_server *srv)
{
	if (!atomic_exchange(&srv->look_posted, true))
		reactor_post(srv->home, &srv->look_msg);
}

int tcmu_server_add_lun(struct tcmu_server *srv, struct scsi_lu *lu)
{
	struct offer *o = malloc(sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->lu = scsi_lu_ref(lu);
	mutex_lock(&srv->lock);
	o->id = ++srv->next_offer;
	list_add_tail(bucket_of(srv, offer_name(o)), &o->link);
	mutex_unlock(&srv->lock);
	post_look(srv);
	return 0;
}

void tcmu_server_remove_lun(struct tcmu_server *srv, const char *name)
{
	struct offer *o;

	mutex_lock(&srv->lock);
	o = find_offer_locked(srv, name);
	if (o)
		list_del(&o->link);
	mutex_unlock(&srv->lock);
	if (!o)
		return;
	scsi_lu_unref(o->lu);
	free(o);
	post_look(srv);
}

/* --- life --- */

static void netlink_closed(void *ctx)
{
	struct tcmu_server *srv = ctx;

	completion_done(&srv->stopped);
}

static void check_stopped(struct tcmu_server *srv)
{
	struct tcmu_netlink *nl = srv->netlink;

	if (!srv->stopping || srv->scanning || !list_empty(&srv->devices) ||
	    atomic_load(&srv->look_posted) || !nl)
		return;
	srv->netlink = NULL;
	tcmu_netlink_close(nl, netlink_closed);
}

/* Whether all devices that we found when we were released are open, or cannot be opened. */
static void check_caught_up(struct tcmu_server *srv)
{
	struct device *d;

	if (!srv->released || srv->scanning || atomic_load(&srv->caught_up))
		return;
	list_for_each_entry (d, &srv->devices, link)
		if (d->state == OPENING)
			return;
	atomic_store(&srv->caught_up, true);
	completion_done(&srv->all_caught_up);
}

static void start_run(struct reactor_msg *m)
{
	tcmu_netlink_start(container_of(m, struct tcmu_server, start_msg)->netlink);
}

static void release_run(struct reactor_msg *m)
{
	struct tcmu_server *srv = container_of(m, struct tcmu_server, release_msg);

	srv->released = true;
	scan(srv);
	reconcile_all(srv);
}

static void stop_run(struct reactor_msg *m)
{
	struct tcmu_server *srv = container_of(m, struct tcmu_server, stop_msg);

	srv->stopping = true;
	reconcile_all(srv);
}

void tcmu_prepare_process(void)
{
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

int tcmu_server_start(const struct tcmu_options *opt, struct tcmu_server **ret_srv,
		      struct reason *why)
{
	struct tcmu_server *srv = calloc(1, sizeof(*srv));
	int err;

	if (!srv)
		return reason_set(why, ENOMEM, "out of memory");
	srv->set = opt->set;
	srv->budget = opt->budget;
	srv->home = reactor_set_next(opt->set);
	mutex_init(&srv->lock, LOCK_RANK_FRONT);
	list_init(&srv->devices);
	for (unsigned i = 0; i < BUCKETS; i++)
		list_init(&srv->offers[i]);
	srv->start_msg.fn = start_run;
	srv->release_msg.fn = release_run;
	srv->look_msg.fn = look;
	srv->stop_msg.fn = stop_run;
	completion_init(&srv->stopped);
	completion_init(&srv->all_caught_up);
	/* Those who wait for a process before us would wait for ever. */
	tcmu_kernel_forget_questions();
	err = tcmu_netlink_open(srv->home, on_message, srv, &srv->netlink, why);
	if (err) {
		mutex_destroy(&srv->lock);
		free(srv);
		return err;
	}
	reactor_post(srv->home, &srv->start_msg);
	*ret_srv = srv;
	return 0;
}

void tcmu_server_release(struct tcmu_server *srv)
{
	reactor_post(srv->home, &srv->release_msg);
	completion_wait(&srv->all_caught_up);
}

void tcmu_server_stop(struct tcmu_server *srv)
{
	struct offer *o, *next;

	if (!srv)
		return;
	reactor_post(srv->home, &srv->stop_msg);
	completion_wait(&srv->stopped);
	for (unsigned i = 0; i < BUCKETS; i++)
		list_for_each_entry_safe (o, next, &srv->offers[i], link) {
			scsi_lu_unref(o->lu);
			free(o);
		}
	mutex_destroy(&srv->lock);
	free(srv);
}

/* --- for those who watch --- */

static void fill_info_locked(const struct device *d, struct tcmu_device_info *i)
{
	*i = (struct tcmu_device_info){
		.id = d->id, .name = d->name, .minor = d->minor, .open = d->state == OPEN};
	memcpy(i->problem, d->problem, sizeof(i->problem));
	if (d->session)
		tcmu_session_get_info(d->session, &i->session);
}

int tcmu_server_list(struct tcmu_server *srv, struct tcmu_device_info **ret_devices, size_t *ret_n)
{
	struct tcmu_device_info *v;
	struct device *d;
	size_t n = 0;

	mutex_scope(&srv->lock);
	list_for_each_entry (d, &srv->devices, link)
		n++;
	v = calloc(n + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	n = 0;
	list_for_each_entry (d, &srv->devices, link)
		fill_info_locked(d, &v[n++]);
	*ret_devices = v;
	*ret_n = n;
	return 0;
}
