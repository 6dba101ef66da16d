// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A bare iSCSI target for tests of the front alone: files become LUNs of one target.
 *
 *   iscsi_serve [-p ADDR:PORT]... [-n IQN] [-r REACTORS] [-u USER:SECRET] [-U USER:SECRET]
 *               [-a ACL]... [-d USER:SECRET] [-o KEY=N]... [-m BYTES] [-HDRV] FILE...
 *
 * -u/-U who may log in, and how we answer a challenge; -d the same for discovery sessions; -H/-D
 * digests are required; -R read-only; -V removable; -o sets a limit of struct
 * iscsi_server_options; -m bounds the I/O buffers of a reactor. Prints one line for each portal,
 * then "ready"; ends on SIGTERM or SIGINT; on SIGUSR1 prints the sessions, on SIGUSR2 drops them.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "event/worker.h"
#include "front/iscsi/iscsi.h"

#define MAX 16

static struct iscsi_chap_user split(char *arg)
{
	char *colon = strchr(arg, ':');

	if (!colon) {
		fprintf(stderr, "%s: USER:SECRET\n", arg);
		exit(2);
	}
	*colon = '\0';
	return (struct iscsi_chap_user){arg, colon + 1};
}

static void set_option(struct iscsi_server_options *o, const char *arg)
{
	static const struct {
		const char *name;
		size_t off;
	} table[] = {
#define O(f) {#f, offsetof(struct iscsi_server_options, f)}
		O(max_sessions),	O(max_sessions_target),
		O(max_unauth_address),	O(max_unauth),
		O(login_timeout_ms),	O(nop_interval_ms),
		O(nop_timeout_ms),	O(queue_depth),
		O(max_out_bytes),	O(max_recv_data_segment),
		O(first_burst),		O(max_burst),
		O(max_outstanding_r2t),
	};
	size_t len = strcspn(arg, "=");

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (strlen(table[i].name) == len && memcmp(arg, table[i].name, len) == 0 &&
		    arg[len]) {
			*(unsigned *)((char *)o + table[i].off) =
				(unsigned)strtoul(arg + len + 1, NULL, 0);
			return;
		}
	}
	fprintf(stderr, "%s: no such option\n", arg);
	exit(2);
}

static void die(const char *what, const struct reason *why)
{
	fprintf(stderr, "iscsi_serve: %s: %s\n", what, why->text);
	exit(1);
}

static void add_lun(struct scsi_target *target, unsigned number, const char *path, bool ro,
		    bool removable)
{
	char name[16];
	struct lun_options lo = {
		.name = name,
		.path = path,
		.read_only = ro,
		.removable = removable,
		.state_dirfd = -1,
	};
	struct scsi_lu_options so = {.thin = true};
	struct reason why = {0};
	struct lun *lun;
	struct scsi_lu *lu;

	snprintf(name, sizeof(name), "lun%u", number);
	if (lun_open(&lo, &lun, &why) < 0)
		die(path, &why);
	if (scsi_lu_create(lun, &so, &lu, &why) < 0)
		die(path, &why);
	if (scsi_target_map(target, number, lu) < 0)
		die(path, &why);
	scsi_lu_unref(lu);
	lun_unref(lun);
}

static void list_sessions(struct iscsi_server *srv, bool drop)
{
	_cleanup_free_ struct iscsi_session_info *infos = NULL;
	unsigned sessions, waiting;
	size_t n = 0;

	if (iscsi_server_list_sessions(srv, &infos, &n) < 0)
		return;
	for (size_t i = 0; i < n; i++) {
		if (drop)
			iscsi_server_kick(srv, infos[i].id);
		printf("session %llu %s %s %s user=%s digests=%d%d commands=%llu read=%llu "
		       "written=%llu\n",
		       (unsigned long long)infos[i].id, infos[i].initiator, infos[i].address,
		       infos[i].target, infos[i].user, infos[i].params.header_digest,
		       infos[i].params.data_digest, (unsigned long long)infos[i].commands,
		       (unsigned long long)infos[i].read_bytes,
		       (unsigned long long)infos[i].write_bytes);
	}
	iscsi_server_gauges(srv, &sessions, &waiting);
	printf("sessions %u waiting %u\n", sessions, waiting);
	fflush(stdout);
}

static void serve(struct iscsi_server *srv)
{
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	printf("ready\n");
	fflush(stdout);
	while (sigwait(&set, &sig) == 0 && (sig == SIGUSR1 || sig == SIGUSR2))
		list_sessions(srv, sig == SIGUSR2);
}

int main(int argc, char **argv)
{
	const char *portals[MAX] = {"127.0.0.1:0"}, *acl[MAX], *iqn = "iqn.2026-11.local.ebb:test";
	struct iscsi_chap_user user, self, discovery;
	struct iscsi_server_options opt = {0};
	struct reactor_options ro = {.spin_us = 20};
	struct iscsi_target_config cfg = {.alias = "test", .acl = acl};
	unsigned n_portals = 0, n_reactors = 1, n = 0;
	bool read_only = false, removable = false, has_discovery = false;
	char bound[ISCSI_ADDRESS_MAX];
	struct scsi_target *target;
	struct iscsi_server *srv;
	struct reason why = {0};
	sigset_t set;
	int c;

	while ((c = getopt(argc, argv, "p:n:r:u:U:a:d:o:m:HDRV")) != -1) {
		switch (c) {
		case 'p':
			if (n_portals < MAX)
				portals[n_portals++] = optarg;
			break;
		case 'n':
			iqn = optarg;
			break;
		case 'r':
			n_reactors = (unsigned)atoi(optarg);
			break;
		case 'u':
			user = split(optarg);
			cfg.users = &user;
			cfg.n_users = 1;
			break;
		case 'U':
			self = split(optarg);
			cfg.self = &self;
			break;
		case 'a':
			if (cfg.n_acl < MAX)
				acl[cfg.n_acl++] = optarg;
			break;
		case 'd':
			discovery = split(optarg);
			has_discovery = true;
			break;
		case 'o':
			set_option(&opt, optarg);
			break;
		case 'm':
			ro.iobuf_limit = strtoull(optarg, NULL, 0);
			break;
		case 'H':
			cfg.require_header_digest = true;
			break;
		case 'D':
			cfg.require_data_digest = true;
			break;
		case 'R':
			read_only = true;
			break;
		case 'V':
			removable = true;
			break;
		default:
			return 2;
		}
	}
	sigfillset(&set);
	sigdelset(&set, SIGSEGV);
	sigdelset(&set, SIGABRT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (reactor_set_start(n_reactors, &ro, &opt.reactors) < 0)
		die("reactors", &why);
	if (scsi_target_create(iqn, &target) < 0)
		die("target", &why);
	for (int i = optind; i < argc; i++)
		add_lun(target, n++, argv[i], read_only, removable);
	if (iscsi_server_create(&opt, &srv) < 0)
		die("options", &why);
	cfg.name = iqn;
	cfg.scsi = target;
	if (iscsi_server_add_target(srv, &cfg, &why) < 0)
		die("target", &why);
	if (has_discovery &&
	    iscsi_server_set_discovery_auth(srv, &discovery, 1, cfg.self, 0, &why) < 0)
		die("discovery", &why);
	for (unsigned i = 0; i < (n_portals ? n_portals : 1); i++) {
		if (iscsi_server_add_portal(srv, portals[i], bound, &why) < 0)
			die("portal", &why);
		printf("iscsi://%s/%s/0\n", bound, iqn);
	}
	serve(srv);
	iscsi_server_shutdown(srv, 2000);
	iscsi_server_destroy(srv);
	for (unsigned i = 0; i < n; i++)
		scsi_target_unmap(target, i);
	scsi_target_unref(target);
	worker_drain();
	reactor_set_stop(opt.reactors);
	return 0;
}
