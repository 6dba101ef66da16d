/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port and little else: port_serve SOCKET [--nbd ADDRESS]... FILE[=NAME]... exports files
 * through the port until SIGTERM or SIGINT, for tests of the port, of the nbdkit plugin and of the
 * supervisor. Lines on stdin are commands: "resize NAME BYTES", "remove NAME", "fence NAME
 * none|writes|all", "clients", "nbd". Each is answered by one line. Prints "ready" once it listens,
 * and "nbd ADDRESS" each time that nbdkit does.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "event/worker.h"
#include "front/nbd/nbd_supervisor.h"
#include "front/port/port.h"

static struct lun_table *table;
static struct port_server *server;
static struct nbd_supervisor *nbd; /* set under nbd_lock: ready() may come before start returns */
static pthread_mutex_t nbd_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nbd_options nbd_opt;

static int add_lun(char *arg, bool direct)
{
	char *name = strchr(arg, '=');
	struct lun_options opt = {.state_dirfd = -1};
	struct reason why;
	struct lun *lun;

	if (name)
		*name++ = '\0';
	else
		name = strrchr(arg, '/') ? strrchr(arg, '/') + 1 : arg;
	opt.name = name;
	opt.path = arg;
	opt.mode = direct ? BLOCK_MODE_DIRECT : BLOCK_MODE_AUTO;
	opt.description = "a LUN for tests";
	if (!direct && getenv("PORT_SERVE_BUFFERED"))
		opt.mode = BLOCK_MODE_BUFFERED;
	if (lun_open(&opt, &lun, &why)) {
		fprintf(stderr, "port_serve: %s\n", why.text);
		return -1;
	}
	lun_table_add(table, lun);
	lun_unref(lun);
	return 0;
}

static void print_clients(void)
{
	struct port_client_info *c;
	size_t n;

	if (port_server_list(server, &c, &n)) {
		printf("error\n");
		return;
	}
	printf("clients=%zu", n);
	for (size_t i = 0; i < n; i++)
		printf(" %s:%s:ops=%llu:resident=%llu:doorbells=%llu:wakeups=%llu:inflight=%u",
		       c[i].name, c[i].lun, (unsigned long long)c[i].ops,
		       (unsigned long long)c[i].resident_bytes, (unsigned long long)c[i].doorbells,
		       (unsigned long long)c[i].wakeups, c[i].inflight);
	printf("\n");
	free(c);
}

static void print_nbd(void)
{
	struct nbd_supervisor_status st;

	nbd_supervisor_get_status(nbd, &st);
	printf("pid=%d ready=%d restarts=%llu adopted=%d\n", (int)st.pid, st.ready,
	       (unsigned long long)st.restarts, st.adopted);
}

static void nbd_ready(void *ctx)
{
	pthread_mutex_lock(&nbd_lock);
	printf("nbd %s\n", nbd_supervisor_address(nbd, 0));
	pthread_mutex_unlock(&nbd_lock);
}

static bool nbd_attached(void *ctx, pid_t pid)
{
	return port_server_has_peer(server, pid);
}

static int start_nbd(struct reactor *r, const char *port_socket)
{
	static const struct nbd_supervisor_ops ops = {.ready = nbd_ready, .attached = nbd_attached};
	const char *retry = getenv("PORT_SERVE_RETRY");
	struct reason why;
	int err;

	nbd_opt.port_socket = port_socket;
	nbd_opt.retry_s = retry ? (unsigned)atoi(retry) : 0;
	nbd_opt.tls_certificates = getenv("PORT_SERVE_TLS");
	nbd_opt.tls = nbd_opt.tls_certificates ? NBD_TLS_REQUIRE : NBD_TLS_OFF;
	pthread_mutex_lock(&nbd_lock);
	err = nbd_supervisor_start(r, &nbd_opt, &ops, NULL, &nbd, &why);
	if (!err)
		printf("ready\n"); /* before "nbd ...", which an nbdkit that still runs brings about
				      at once */
	pthread_mutex_unlock(&nbd_lock);
	if (err) {
		fprintf(stderr, "port_serve: %s\n", why.text);
		return -1;
	}
	return 0;
}

static void command(const char *line)
{
	char name[LUN_NAME_MAX + 1], word[16];
	unsigned long long size;
	struct reason why = {"refused"};
	struct lun *lun;
	int err = -1;

	if (strcmp(line, "clients\n") == 0) {
		print_clients();
		return;
	}
	if (strcmp(line, "nbd\n") == 0 && nbd) {
		print_nbd();
		return;
	}
	if (sscanf(line, "resize %63s %llu", name, &size) == 2 &&
	    (lun = lun_table_find(table, name))) {
		err = lun_resize(lun, size, &why);
		lun_unref(lun);
	} else if (sscanf(line, "fence %63s %15s", name, word) == 2 &&
		   (lun = lun_table_find(table, name))) {
		lun_set_fence(lun, strcmp(word, "all") == 0	 ? LUN_FENCE_ALL
				   : strcmp(word, "writes") == 0 ? LUN_FENCE_WRITES
								 : LUN_FENCE_NONE);
		lun_unref(lun);
		err = 0;
	} else if (sscanf(line, "remove %63s", name) == 1) {
		err = lun_table_remove(table, name);
	}
	printf("%s\n", err ? why.text : "ok");
}

static void serve(int sigfd)
{
	struct pollfd p[2] = {{.fd = sigfd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
	char line[256];

	while (poll(p, 2, -1) >= 0 && !p[0].revents) {
		if (!p[1].revents)
			continue;
		if (fgets(line, sizeof(line), stdin))
			command(line);
		else
			p[1].fd = -1;
	}
}

int main(int argc, char **argv)
{
	struct port_options opt = {.gid = (gid_t)-1};
	const char *threads = getenv("PORT_SERVE_THREADS");
	struct reactor_options ropt = {.name = "port"};
	struct reason why;
	sigset_t set;

	if (argc < 3) {
		fprintf(stderr, "usage: port_serve SOCKET FILE[=NAME]...\n");
		return 2;
	}
	if (getenv("PORT_SERVE_SPIN"))
		ropt.spin_us = (unsigned)atoi(getenv("PORT_SERVE_SPIN"));
	setvbuf(stdout, NULL, _IOLBF, 0);
	setvbuf(stdin, NULL, _IONBF, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (lun_table_create(&table) ||
	    reactor_set_start(threads ? (unsigned)atoi(threads) : 2, &ropt, &opt.set))
		return 1;
	for (int i = 2; i < argc; i++) {
		if (strcmp(argv[i], "--nbd") == 0 && nbd_opt.n_listen < NBD_LISTEN_MAX)
			nbd_opt.listen[nbd_opt.n_listen++] = argv[++i];
		else if (add_lun(argv[i], getenv("PORT_SERVE_DIRECT") != NULL))
			return 1;
	}
	opt.path = argv[1];
	opt.luns = table;
	if (port_server_start(&opt, &server, &why)) {
		fprintf(stderr, "port_serve: %s\n", why.text);
		return 1;
	}
	if (!nbd_opt.n_listen)
		printf("ready\n");
	else if (start_nbd(reactor_set_get(opt.set, 0), opt.path))
		return 1;
	serve(signalfd(-1, &set, SFD_CLOEXEC));
	nbd_supervisor_stop(nbd, NULL, NULL);
	port_server_stop(server, NULL, NULL);
	worker_drain();
	reactor_set_stop(opt.set);
	lun_table_destroy(table);
	return 0;
}
