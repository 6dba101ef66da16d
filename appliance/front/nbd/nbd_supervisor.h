/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * NBD is served by nbdkit with our plugin; this starts it, watches it and starts it again.
 *
 * The listening sockets are opened here and stay open here: nbdkit gets them by the socket
 * activation protocol (LISTEN_FDS), so a bad address is refused at once with its own reason, port 0
 * is known once it is bound, and a client that connects while nbdkit is being restarted waits in
 * the backlog instead of being refused. nbdkit says that it serves by writing its pid file into a
 * pipe of ours.
 *
 * nbdkit outlives a daemon that is killed or restarted, and its clients' requests wait in the
 * plugin. The next daemon with the same port socket adopts it when it was started with the same
 * options (else it is ended and started anew); nbd_record.h says how it is known.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/reason.h"
#include "event/reactor.h"

#define NBD_LISTEN_MAX 8

enum nbd_tls { NBD_TLS_OFF, NBD_TLS_ON, NBD_TLS_REQUIRE };

struct nbd_options {
	const char *listen[NBD_LISTEN_MAX]; /* "1.2.3.4:10809", "[::1]:10809" or "unix:PATH" */
	unsigned n_listen;		    /* at least 1 */
	const char *port_socket;	    /* the port's Unix socket (port_server_start) */
	const char *nbdkit;		    /* NULL: "nbdkit", looked up in PATH */
	const char *plugin;		    /* NULL: found by nbd_find_plugin() */
	const char *default_export;	    /* LUN of the empty export name; NULL: the only one */
	unsigned threads;		    /* of nbdkit, a connection; 0: its default (16) */
	/*
	 * Seconds that requests wait for a daemon that is gone; then they fail, and nbdkit ends. 0:
	 * the plugin's default (120).
	 */
	unsigned retry_s;

	enum nbd_tls tls;
	const char *tls_certificates; /* directory of X.509 files (nbdkit-tls(1)), or NULL */
	const char *tls_psk;	      /* file of pre-shared keys, or NULL */
	bool tls_verify_peer;	      /* ask clients for a certificate */
};

struct nbd_supervisor_ops {
	/* nbdkit accepts connections: at the first start and after each restart. */
	void (*ready)(void *ctx);
	/*
	 * nbdkit has ended; @status is as of waitpid(2), @retry_ms the delay until the next try.
	 * Optional.
	 */
	void (*died)(void *ctx, int status, unsigned retry_ms);
	/*
	 * Returns whether process @pid is connected to the port: whether an nbdkit that was adopted
	 * has found it again. Any number of calls. Optional.
	 */
	bool (*attached)(void *ctx, pid_t pid);
};

struct nbd_supervisor;

/**
 * Binds the listeners and starts nbdkit; ready() follows. Any thread; callbacks run on @r's thread.
 * @opt and its strings are copied. Errors: those of bind(2), -ENOENT (no nbdkit or no plugin),
 * -EBUSY (another daemon supervises nbdkit for this port), -EINVAL, each explained in @why. May
 * block for some seconds, for an address or an old nbdkit to become free.
 */
int nbd_supervisor_start(struct reactor *r, const struct nbd_options *opt,
			 const struct nbd_supervisor_ops *ops, void *ctx,
			 struct nbd_supervisor **ret_supervisor, struct reason *why);
/**
 * Stops listening, asks nbdkit to end (SIGTERM: it finishes what its clients have asked for), kills
 * it after 2 s, and frees. Any thread. @stopped is called at the end on the reactor's thread; when
 * it is NULL the call blocks until then (so: not on a reactor's thread). NULL supervisor: nothing.
 */
void nbd_supervisor_stop(struct nbd_supervisor *s, void (*stopped)(void *ctx), void *ctx);

/**
 * Lets nbdkit run on, with what its clients ask for waiting in the plugin, for the supervisor of
 * the next daemon to adopt, and frees. After listen_socket_leave(). Blocks; not on a reactor's
 * thread. An nbdkit that is not serving is ended. NULL: nothing.
 */
void nbd_supervisor_leave(struct nbd_supervisor *s);

/** The i-th address as bound, in the form of `listen`; valid until stop. NULL past the end. */
const char *nbd_supervisor_address(const struct nbd_supervisor *s, unsigned i);

struct nbd_supervisor_status {
	pid_t pid;	   /* 0: not running */
	bool ready;	   /* accepts connections */
	uint64_t restarts; /* times it was started again */
	bool adopted;	   /* was started by a daemon before this one */
	int last_status;   /* waitpid(2) status of the last end; -1: none; 0 if it was adopted */
};
/** Any thread. */
void nbd_supervisor_get_status(struct nbd_supervisor *s, struct nbd_supervisor_status *ret_status);

/**
 * Finds nbdkit-ebb-plugin.so: $EBB_NBDKIT_PLUGIN, the build tree next to the running executable, or
 * the directory it is installed in. Returns 0 and the path, or -ENOENT with the places looked at.
 */
int nbd_find_plugin(char *buf, size_t size, struct reason *why);
/**
 * Writes the URL that a client pastes: "nbd://1.2.3.4:10809/NAME", "nbds://" when TLS is required,
 * "nbd+unix:///NAME?socket=PATH". @addr as in nbd_options.listen.
 */
void nbd_format_url(const char *addr, enum nbd_tls tls, const char *export_name, char *buf,
		    size_t size);
