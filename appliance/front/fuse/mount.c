/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The session: mounted by fusermount3 (so no rights are needed), served by a few readers, ended by
 * a signal or because it was unmounted.
 *
 * Readers. A request is read, handed to the port and forgotten, so two readers keep two processors
 * busy; more would only be woken in turn. What may block for long (a LUN is attached, the daemon is
 * waited for) is announced, and when nobody would listen any more another reader is started.
 *
 * Buffers. A request is received into the reader's buffer, which a write takes along until it is
 * done. Such buffers have room for the largest write, so they are kept, a few, for whoever needs
 * the next; of a large one only the pages that were touched cost memory. They are placed so that
 * what is written begins with a page: the kernel, whose source is pages, copies whole ones then.
 *
 * The end. Unmounted: the kernel has nothing open any more, and a reader is told ENODEV. A signal:
 * readers are interrupted (again and again, as a signal between the look and the read(2) does
 * nothing), what the port has is waited for and answered, and only then is the mount taken away;
 * what is still asked of open files then fails.
 */
#include "front/fuse/mount_private.h"

#include <errno.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define READERS_MIN   2u
#define STACK_SIZE    (256u << 10)
#define WAKE_SIGNAL   SIGUSR1
#define WAKE_AGAIN_MS 10u
#define RETRY_MS      20u

/* As many requests as the port carries out at a time, of those that nobody waits for. */
#define BACKGROUND_MAX PORT_SLOTS

#define PAGE	  4096u
#define WRITE_MAX (1u << 20)
/* What comes before the data of a write. */
#define WRITE_HEAD (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

static _Thread_local struct mount_reader *current;

/* --- buffers --- */

void *mount_take_buffer(void)
{
	return take_ptr(current->buffer);
}

void mount_put_buffer(struct mount *m, void *buffer)
{
	if (!buffer)
		return;
	mutex_lock(&m->lock);
	if (m->n_buffers < MOUNT_BUFFERS_MAX)
		m->buffers[m->n_buffers++] = take_ptr(buffer);
	mutex_unlock(&m->lock);
	free(buffer);
}

/* NULL: no memory. */
static void *get_buffer(struct mount *m)
{
	void *buffer = NULL;

	mutex_lock(&m->lock);
	if (m->n_buffers)
		buffer = m->buffers[--m->n_buffers];
	mutex_unlock(&m->lock);
	return buffer ? buffer : aligned_alloc(PAGE, PAGE + WRITE_MAX);
}

/* --- readers --- */

static void *reader_main(void *arg);

static int start_reader_locked(struct mount *m)
{
	struct mount_reader *r = &m->readers[m->n_readers];
	pthread_attr_t attr;
	int err;

	if (m->n_readers == MOUNT_READERS_MAX)
		return -EAGAIN;
	r->m = m;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	err = pthread_create(&r->thread, &attr, reader_main, r);
	pthread_attr_destroy(&attr);
	if (err)
		return -err;
	m->n_readers++;
	m->listening++;
	m->alive++;
	return 0;
}

void mount_begin_slow(struct mount *m)
{
	mutex_scope(&m->lock);
	/* Where none can be started the others wait for us. */
	if (--m->listening == 0 && !fuse_session_exited(m->se))
		start_reader_locked(m);
}

void mount_end_slow(struct mount *m)
{
	mutex_scope(&m->lock);
	m->listening++;
}

/* Returns whether there will be more. */
static bool serve_one(struct mount_reader *r)
{
	struct mount *m = r->m;
	struct fuse_buf buf = {0};
	ssize_t n;

	if (!r->buffer)
		r->buffer = get_buffer(m);
	if (!r->buffer)
		return false;
	buf.mem = (char *)r->buffer + PAGE - WRITE_HEAD;
	n = read(fuse_session_fd(m->se), buf.mem, WRITE_HEAD + WRITE_MAX);
	/* ENOENT: who asked has been interrupted meanwhile. */
	if (n <= 0)
		return n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT);
	buf.size = (size_t)n;
	fuse_session_process_buf(m->se, &buf);
	return true;
}

static void *reader_main(void *arg)
{
	struct mount_reader *r = arg;
	struct mount *m = r->m;
	sigset_t wake;

	current = r;
	sigemptyset(&wake);
	sigaddset(&wake, WAKE_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &wake, NULL);
	while (!fuse_session_exited(m->se) && serve_one(r))
		;
	/* Unmounted, or of no more use: the others are to end as well. */
	fuse_session_exit(m->se);
	pthread_kill(m->main, SIGTERM);
	mutex_scope(&m->lock);
	m->alive--;
	pthread_cond_broadcast(&m->changed);
	return NULL;
}

static void on_wake(int sig)
{
}

/* Interrupts whoever reads, until nobody does. */
static void stop_readers(struct mount *m)
{
	fuse_session_exit(m->se);
	mutex_lock(&m->lock);
	while (m->alive) {
		struct timespec until = clock_deadline(WAKE_AGAIN_MS * NSEC_PER_MSEC);

		for (unsigned i = 0; i < m->n_readers; i++)
			pthread_kill(m->readers[i].thread, WAKE_SIGNAL);
		pthread_cond_timedwait(&m->changed, &m->lock.m, &until);
	}
	mutex_unlock(&m->lock);
	for (unsigned i = 0; i < m->n_readers; i++)
		pthread_join(m->readers[i].thread, NULL);
}

uint64_t mount_deadline(void)
{
	return clock_now_ns() + MOUNT_PATIENCE_MS * NSEC_PER_MSEC;
}

bool mount_try_again(struct mount *m, fuse_req_t req, int err, uint64_t deadline)
{
	if (err != -EHOSTDOWN || clock_now_ns() >= deadline || fuse_session_exited(m->se) ||
	    fuse_req_interrupted(req))
		return false;
	clock_pause(RETRY_MS * NSEC_PER_MSEC);
	return true;
}

/* --- the session --- */

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
	const struct mount *m = userdata;

	/* Pages of pipes are of no use to what goes into shared memory. */
	conn->want &=
		~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	if (conn->max_write > WRITE_MAX)
		conn->max_write = WRITE_MAX;
	conn->max_background = BACKGROUND_MAX;
	conn->congestion_threshold = BACKGROUND_MAX * 3 / 4;
	if (m->opt->cached)
		conn->max_readahead = conn->max_write;
}

static const struct fuse_lowlevel_ops ops = {
	.init = on_init,
	.lookup = mount_lookup,
	.forget = mount_forget,
	.forget_multi = mount_forget_multi,
	.getattr = mount_getattr,
	.setattr = mount_setattr,
	.mknod = mount_mknod,
	.mkdir = mount_mkdir,
	.symlink = mount_symlink,
	.link = mount_link,
	.rename = mount_rename,
	.unlink = mount_unlink,
	.rmdir = mount_rmdir,
	.opendir = mount_opendir,
	.readdir = mount_readdir,
	.releasedir = mount_releasedir,
	.statfs = mount_statfs,
	.getxattr = mount_getxattr,
	.listxattr = mount_listxattr,
	.open = mount_open,
	.release = mount_release,
	.read = mount_read,
	.write = mount_write,
	.fsync = mount_fsync,
	.fallocate = mount_fallocate,
	.lseek = mount_lseek,
};

static int new_session(struct mount *m, struct reason *why)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	char options[128];

	snprintf(options, sizeof(options), "-ofsname=ebb,subtype=ebb,default_permissions%s%s",
		 m->opt->allow_other ? ",allow_other" : "", m->opt->read_only ? ",ro" : "");
	if (fuse_opt_add_arg(&args, "ebb") == 0 && fuse_opt_add_arg(&args, options) == 0)
		m->se = fuse_session_new(&args, &ops, sizeof(ops), m);
	fuse_opt_free_args(&args);
	if (!m->se)
		return reason_set(why, ENOMEM, "cannot make a FUSE session");
	return 0;
}

/* From here on signals wait for serve(), but for what ends a read. */
static void prepare_signals(void)
{
	struct sigaction wake = {.sa_handler = on_wake};
	sigset_t set;

	sigaction(WAKE_SIGNAL, &wake, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, WAKE_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static int serve(struct mount *m, struct reason *why)
{
	sigset_t set;
	int sig, err = 0;

	m->main = pthread_self();
	mutex_lock(&m->lock);
	while (!err && m->n_readers < READERS_MIN)
		err = start_reader_locked(m);
	mutex_unlock(&m->lock);
	if (err) {
		reason_set(why, -err, "cannot start a thread: %s", strerror(-err));
	} else {
		if (m->opt->foreground && m->opt->mounted)
			m->opt->mounted(m->opt->ctx);
		sigemptyset(&set);
		sigaddset(&set, SIGTERM);
		sigaddset(&set, SIGINT);
		sigaddset(&set, SIGHUP);
		sigwait(&set, &sig);
	}
	stop_readers(m);
	mount_drain(m);
	return err;
}

static int mount_and_serve(struct mount *m, struct reason *why)
{
	int err;

	if (fuse_session_mount(m->se, m->opt->dir))
		return reason_set(why, EIO, "%s: cannot mount there", m->opt->dir);
	prepare_signals();
	if (fuse_daemonize(m->opt->foreground))
		err = reason_set(why, errno, "cannot go to the background: %s", strerror(errno));
	else
		err = serve(m, why);
	fuse_session_unmount(m->se);
	return err;
}

/* A mount of LUNs that nobody serves would only be found out later. */
static int check_daemon(const struct mount_options *opt, struct reason *why)
{
	_cleanup_free_ struct port_export *exports = NULL;
	size_t n;

	return port_client_list(opt->port, &exports, &n, why);
}

static void mount_free(struct mount *m)
{
	mount_node_drop_all(m);
	if (m->se)
		fuse_session_destroy(m->se);
	for (unsigned i = 0; i < m->n_buffers; i++)
		free(m->buffers[i]);
	for (unsigned i = 0; i < m->n_readers; i++)
		free(m->readers[i].buffer);
	free(m->recent);
	pthread_cond_destroy(&m->changed);
	mutex_destroy(&m->lock);
	free(m);
}

int mount_run(const struct mount_options *opt, struct reason *why)
{
	struct mount *m;
	int err = check_daemon(opt, why);

	if (err)
		return err;
	m = calloc(1, sizeof(*m));
	if (!m)
		return reason_set(why, ENOMEM, "out of memory");
	m->opt = opt;
	m->since = time(NULL);
	m->owner = (struct mount_owner){geteuid(), getegid(), umask(0077), opt->read_only};
	mutex_init(&m->lock, LOCK_RANK_FRONT);
	pthread_cond_init(&m->changed, NULL);
	list_init(&m->nodes);
	err = new_session(m, why);
	if (!err)
		err = mount_and_serve(m, why);
	mount_free(m);
	return err;
}
