/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The attached form: each NBD connection is one client of the daemon's port, with rings and a data
 * area of its own, so connections spread over the daemon's reactors and one that breaks takes no
 * other with it. Which LUN: `lun=` if given, else the export name, else `default=`, else the only
 * LUN there is.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "backend.h"
#include "base/cleanup.h"
#include "base/clock.h"

static const struct plugin_config *config;

#define WATCH_MIN_MS 20u
#define WATCH_MAX_MS 250u

/* --- a daemon that goes away --- */

/* The thread that watches the daemon; readable @watcher_stop ends it. -1: there is none. */
static pthread_t watcher;
static int watcher_stop = -1;

/** Waits for an event of @sock (-1: none), @ms at most (-1: for ever); returns whether to stop. */
static bool wait_or_stop(int sock, int ms)
{
	struct pollfd p[] = {{.fd = watcher_stop, .events = POLLIN},
			     {.fd = sock, .events = POLLIN}};

	while (poll(p, 2, ms) < 0 && errno == EINTR)
		;
	return p[0].revents != 0;
}

static unsigned retry_ms(void)
{
	return config->retry_ms ? config->retry_ms : PORT_DEFAULT_RETRY_MS;
}

/**
 * Started by a daemon, we are to outlive it when it is killed, but not for ever: a thread holds a
 * connection to its port, which tells the next daemon that we have found it, and its end tells us
 * that there is none. When none returns for as long as requests wait, all requests have failed, and
 * we end at once: nbdkit's orderly end would wait for clients that are idle.
 */
static void *watch_main(void *arg)
{
	uint64_t deadline = clock_now_ns() + retry_ms() * NSEC_PER_MSEC;
	unsigned backoff = WATCH_MIN_MS;
	bool stop = false;
	int sock;

	while (!stop) {
		if (port_client_watch(config->socket, &sock) == 0) {
			/* The daemon says nothing here, so any event is its end. */
			stop = wait_or_stop(sock, -1);
			close(sock);
			deadline = clock_now_ns() + retry_ms() * NSEC_PER_MSEC;
			backoff = WATCH_MIN_MS;
		} else if (clock_now_ns() >= deadline) {
			nbdkit_error("no daemon for %u s: ending", retry_ms() / 1000);
			_exit(EXIT_FAILURE);
		}
		stop = stop || wait_or_stop(-1, (int)backoff);
		backoff = backoff * 2 < WATCH_MAX_MS ? backoff * 2 : WATCH_MAX_MS;
	}
	return NULL;
}

static int attached_start(const struct plugin_config *cfg, struct reason *why)
{
	/* The daemon need not be there yet: a LUN is looked for when a client connects. */
	config = cfg;
	/* nbdkit wants to end with its parent when its sockets come from there. */
	if (cfg->supervised)
		prctl(PR_SET_PDEATHSIG, 0);
	return 0;
}

static int attached_forked(struct reason *why)
{
	sigset_t all, old;
	int err;

	if (!config->supervised)
		return 0;
	watcher_stop = eventfd(0, EFD_CLOEXEC);
	if (watcher_stop < 0)
		return reason_set(why, errno, "eventfd: %s", strerror(errno));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&watcher, NULL, watch_main, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		close(watcher_stop);
		watcher_stop = -1;
		return reason_set(why, err, "cannot start a thread: %s", strerror(err));
	}
	return 0;
}

/** The thread uses the configuration and this code, which are about to go. */
static void attached_stop(void)
{
	if (watcher_stop < 0)
		return;
	eventfd_write(watcher_stop, 1);
	pthread_join(watcher, NULL);
	close(watcher_stop);
	watcher_stop = -1;
}

/* --- exports --- */

/*
 * A client that comes while there is no daemon waits for it, for a while: a daemon that is started
 * again is back in a moment.
 */
#define OPEN_WAIT_MS 30000u

static uint64_t patience(void)
{
	unsigned ms = retry_ms() < OPEN_WAIT_MS ? retry_ms() : OPEN_WAIT_MS;

	return clock_now_ns() + ms * NSEC_PER_MSEC;
}

/** Returns whether @err means that the daemon is not there, after a pause, until @deadline. */
static bool try_again(int err, uint64_t deadline)
{
	if (err != -EHOSTDOWN || clock_now_ns() >= deadline)
		return false;
	/* Interrupted when the client or nbdkit ends. */
	return nbdkit_nanosleep(0, WATCH_MIN_MS * NSEC_PER_MSEC) == 0;
}

static int attached_list(struct port_export **ret_exports, size_t *ret_n, struct reason *why)
{
	uint64_t deadline = patience();
	int err;

	do
		err = port_client_list(config->socket, ret_exports, ret_n, why);
	while (try_again(err, deadline));
	if (err || !config->lun)
		return err;
	for (size_t i = 0; i < *ret_n; i++) {
		if (strcmp((*ret_exports)[i].name, config->lun) == 0) {
			(*ret_exports)[0] = (*ret_exports)[i];
			*ret_n = 1;
			return 0;
		}
	}
	*ret_n = 0;
	return 0;
}

/** Finds the LUN that the export name @name stands for, writing it to @buf. */
static int attached_resolve(const char *name, char buf[PORT_NAME_MAX], struct reason *why)
{
	_cleanup_free_ struct port_export *exports = NULL;
	const char *lun = config->lun ? config->lun : name[0] ? name : config->fallback;
	size_t n;
	int err;

	if (config->lun && name[0] && strcmp(name, config->lun) != 0)
		return reason_set(why, ENOENT, "no export '%s' here (only '%s')", name,
				  config->lun);
	if (!lun) {
		err = attached_list(&exports, &n, why);
		if (err)
			return err;
		if (n != 1)
			return reason_set(why, ENOENT,
					  "%zu LUNs are exported: the client must name one", n);
		lun = exports[0].name;
	}
	if (strlen(lun) >= PORT_NAME_MAX)
		return reason_set(why, ENOENT, "no export '%s' here", lun);
	strcpy(buf, lun);
	return 0;
}

static int attached_open(const char *name, bool read_only, void **ret_handle, struct reason *why)
{
	char lun[PORT_NAME_MAX];
	struct port_client_options opt = {
		.socket = config->socket,
		.lun = lun,
		.name = "nbdkit",
		.read_only = read_only,
		.retry_ms = config->retry_ms,
	};
	uint64_t deadline = patience();
	int err = attached_resolve(name, lun, why);

	if (err)
		return err;
	do
		err = port_client_open(&opt, (struct port_client **)ret_handle, why);
	while (try_again(err, deadline));
	return err;
}

static void attached_close(void *handle)
{
	port_client_close(handle);
}

static void attached_get_export(void *handle, struct port_export *ret_export)
{
	port_client_get_export(handle, ret_export);
}

static int attached_io(void *handle, enum port_op op, unsigned flags, uint64_t off, uint64_t len,
		       void *buf)
{
	return port_client_io(handle, op, flags, off, len, buf);
}

static int attached_extents(void *handle, uint64_t off, uint64_t len, struct port_extent *extents,
			    unsigned *n)
{
	return port_client_extents(handle, off, len, extents, n);
}

const struct backend backend_attached = {
	.start = attached_start,
	.forked = attached_forked,
	.stop = attached_stop,
	.open = attached_open,
	.close = attached_close,
	.get_export = attached_get_export,
	.io = attached_io,
	.extents = attached_extents,
	.list = attached_list,
};
