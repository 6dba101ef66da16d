/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * user:ebb in targetcli: the D-Bus service org.kernel.TCMUService1.
 *
 * targetcli asks the object manager of that name which handlers of user backstores there are, and
 * each of them (CheckConfig) whether a configuration string is good. The name is tcmu-runner's by
 * custom. So:
 *
 *	               name is free                 somebody waits for it
 *	  SEEKING ------------------> OWNER ----------------------------------.
 *	    |  ^                        \                                      |
 *	    |  '------ owner is gone ----'------ another owner <---------------'
 *	    '--- another owner ---> GUEST, or TAKEN
 *
 * An OWNER serves targetcli itself, and steps back when tcmu-runner is started, which would wait
 * for the name for ever (and its service with it). A GUEST is an external handler of tcmu-runner,
 * which shows it and passes questions on. TAKEN: the owner has a handler of our name already, the
 * plugin handler_ebb.so; registering a second one would take that away when we end.
 *
 * The service has a thread, which sleeps unless somebody asks. Where there is no bus yet it waits
 * for one; when the bus ends it waits for the next.
 */
#pragma once

#include "base/reason.h"

struct tcmu_service;

enum tcmu_service_state {
	TCMU_SERVICE_AWAY,    /* there is no bus */
	TCMU_SERVICE_SEEKING, /* it is being found out who has the name */
	TCMU_SERVICE_OWNER,
	TCMU_SERVICE_GUEST,
	TCMU_SERVICE_TAKEN,
	TCMU_SERVICE_REFUSED, /* by the bus or by the owner; the reason says why */
};

struct tcmu_service_options {
	const char *address;	 /* of the bus; NULL: the system's */
	const char *handler;	 /* "ebb" */
	const char *description; /* of the configuration string, for people */
	/* Whether "ebb/NAME" is good: 0, or -errno and a sentence. On the service's thread. */
	int (*check)(void *ctx, const char *config, struct reason *why);
	/* A new state; @why is "" but for REFUSED. On the service's thread. May be NULL. */
	void (*told)(void *ctx, enum tcmu_service_state state, const char *why);
	void *ctx;
};

/** Strings of @opt are to stay. -errno of making a thread. */
int tcmu_service_start(const struct tcmu_service_options *opt, struct tcmu_service **ret_service,
		       struct reason *why);
/** Blocks until the thread has ended; nothing of @opt is called after. NULL is fine. */
void tcmu_service_stop(struct tcmu_service *s);
/** "owner", … */
const char *tcmu_service_state_name(enum tcmu_service_state state);
