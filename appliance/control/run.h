/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main loop of a program that is the appliance: start, answer signals, stop.
 *
 * SIGTERM and SIGINT end it in order; SIGUSR1 too, for a successor that follows at once, so that
 * clients wait for it; SIGHUP applies the declaration again. The service manager is
 * told by sd_notify(3) (READY, RELOADING, STOPPING, and WATCHDOG when every reactor has answered
 * since the last time); without one that does nothing.
 */
#pragma once

#include "base/reason.h"
#include "control/appliance.h"

struct run_options {
	struct appliance_options appliance;
	const char *control_socket;
	/* Once all of it runs; a -errno, with the reason, ends it. May be NULL. */
	int (*started)(struct appliance *app, void *ctx, struct reason *why);
	/* After started(), whatever it returned, while all of it still runs. May be NULL. */
	void (*stopping)(struct appliance *app, void *ctx);
	void *ctx;
};

/**
 * Blocks SIGTERM, SIGINT, SIGUSR1 and SIGHUP in the calling thread, to be called before any other
 * thread is started, and ignores SIGPIPE.
 */
void run_prepare_signals(void);
/**
 * Takes over the sockets that the service manager listens on for us (sd_listen_fds(3)), and has it
 * keep those that we open, if it keeps any, for the next daemon. Before any thread is started.
 */
int run_take_sockets(struct reason *why);
/** Takes @cfg over. Returns 0 after an orderly end, or -errno with the reason. */
int run_appliance(struct config *cfg, const struct run_options *opt, struct reason *why);
