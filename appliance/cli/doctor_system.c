/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addresses, io_uring, nbdkit, and the modules of the kernel. */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/doctor.h"
#include "event/listen_socket.h"
#include "event/stream.h"
#include "front/nbd/nbd_supervisor.h"

#define REACH_MS 2000

/* --- addresses --- */

static bool parse_unix(const char *path, struct sockaddr_storage *ret_sa, socklen_t *ret_len)
{
	struct sockaddr_un *un = (struct sockaddr_un *)ret_sa;

	if (strlen(path) >= sizeof(un->sun_path))
		return false;
	memset(ret_sa, 0, sizeof(*ret_sa));
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path, path);
	*ret_len = sizeof(*un);
	return true;
}

static bool parse(const char *address, struct sockaddr_storage *ret_sa, socklen_t *ret_len)
{
	if (!strncmp(address, LISTEN_UNIX, strlen(LISTEN_UNIX)))
		return parse_unix(address + strlen(LISTEN_UNIX), ret_sa, ret_len);
	return !stream_parse_address(address, ret_sa, ret_len, NULL);
}

/* Connects within REACH_MS. 0 or an errno. */
static int reach(const struct sockaddr_storage *sa, socklen_t len)
{
	_cleanup_close_ int fd =
		socket(sa->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	socklen_t size = sizeof(int);
	int err = 0;

	if (fd < 0)
		return errno;
	if (!connect(fd, (const struct sockaddr *)sa, len))
		return 0;
	if (errno != EINPROGRESS)
		return errno;
	if (poll(&p, 1, REACH_MS) <= 0)
		return ETIMEDOUT;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) ? errno : err;
}

/* Somebody listens: the appliance that answers, for all we can see. */
static void check_reached(struct doctor *d, const char *address, const struct sockaddr_storage *sa,
			  socklen_t len)
{
	int err = reach(sa, len);

	if (err == ETIMEDOUT)
		doctor_report(d, DOCTOR_FAIL, address,
			      "allow the port in the firewall (nft list ruleset, firewall-cmd)",
			      "connections get no answer: a firewall drops them");
	else if (err)
		doctor_report(d, DOCTOR_FAIL, address, "ebb status; journalctl -u ebb",
			      "cannot be reached: %s", strerror(err));
}

/* Nobody of ours listens yet: would we be let? */
static void check_bound(struct doctor *d, const char *address, const struct sockaddr_storage *sa,
			socklen_t len)
{
	_cleanup_close_ int fd = socket(sa->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const char *cure = "see ip address, sysctl net.ipv6";
	int on = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	    !bind(fd, (const struct sockaddr *)sa, len))
		return;
	if (errno == EADDRINUSE)
		cure = "another program has it: ss -ltnp; stop it, or choose another port";
	else if (errno == EADDRNOTAVAIL)
		cure = "no interface has this address: see ip address";
	else if (errno == EACCES)
		cure = "a port from 1024 on, or sysctl net.ipv4.ip_unprivileged_port_start (for "
		       "IPv6 too): the service has no capability";
	doctor_report(d, DOCTOR_FAIL, address, cure, "cannot be listened on: %s", strerror(errno));
}

/* A Unix socket would be made: its folder has to be there, and a live one is somebody else's. */
static void check_unix(struct doctor *d, const char *address, const struct sockaddr_storage *sa,
		       socklen_t len)
{
	_cleanup_free_ char *folder = strdup(address + strlen(LISTEN_UNIX));
	char *slash = folder ? strrchr(folder, '/') : NULL;

	if (!slash)
		return;
	slash[slash == folder] = '\0';
	if (access(folder, W_OK | X_OK))
		doctor_report(d, DOCTOR_FAIL, address,
			      "make the folder, and give it to the service", "%s: %s", folder,
			      strerror(errno));
	else if (!reach(sa, len))
		doctor_report(d, DOCTOR_FAIL, address,
			      "stop the other program, or choose another path",
			      "cannot be listened on: somebody does already");
}

static bool is_loopback(const char *address)
{
	return !strncmp(address, "127.", 4) || !strncmp(address, "[::1]", 5) ||
	       !strncmp(address, LISTEN_UNIX, strlen(LISTEN_UNIX));
}

/* Returns how many of @list other hosts could reach. */
static unsigned check_list(struct doctor *d, char *const *list, unsigned n)
{
	struct sockaddr_storage sa;
	unsigned open = 0;
	socklen_t len;

	for (unsigned i = 0; i < n; i++) {
		if (!parse(list[i], &sa, &len))
			continue;
		open += !is_loopback(list[i]);
		if (d->pid)
			check_reached(d, list[i], &sa, len);
		else if (sa.ss_family == AF_UNIX)
			check_unix(d, list[i], &sa, len);
		else
			check_bound(d, list[i], &sa, len);
	}
	return open;
}

void doctor_check_addresses(struct doctor *d)
{
	const struct config *c = d->cfg;
	unsigned open = check_list(d, c->iscsi.portals, c->iscsi.portals_count) +
			check_list(d, c->nbd.listen, c->nbd.listen_count);

	check_list(d, c->metrics, c->metrics_count);
	if (!open && c->iscsi.portals_count + c->nbd.listen_count)
		doctor_report(d, DOCTOR_NOTE, "portals",
			      "iscsi.portals: ['0.0.0.0:3260'] with CHAP or initiators: declared",
			      "all on loopback: other hosts cannot reach them");
}

/* --- io_uring --- */

static void report_refused(struct doctor *d, int err)
{
	char line[40] = "";
	const char *cure = "allow io_uring_setup, _enter and _register in the seccomp profile "
			   "(containers: --security-opt seccomp=…)";

	if (err == ENOSYS)
		cure = "a kernel from 5.15 on with CONFIG_IO_URING, or a seccomp profile that "
		       "allows it";
	else if (err == ENOMEM)
		cure = "LimitMEMLOCK=64M in the unit, or ulimit -Hl 65536";
	else if (doctor_read_line(d, "/proc/sys/kernel/io_uring_disabled", line, sizeof(line)) &&
		 strcmp(line, "0"))
		cure = "sysctl kernel.io_uring_disabled=0";
	doctor_report(d, DOCTOR_FAIL, "io_uring", cure, "the kernel refuses it: %s", strerror(err));
}

void doctor_check_io_uring(struct doctor *d)
{
	struct io_uring_probe *p;
	struct io_uring ring;
	int ret = io_uring_queue_init(8, &ring, 0);

	if (ret) {
		report_refused(d, -ret);
		return;
	}
	p = io_uring_get_probe_ring(&ring);
	if (!p || !io_uring_opcode_supported(p, IORING_OP_SEND_ZC))
		doctor_report(d, DOCTOR_NOTE, "kernel", "a kernel from 6.1 on",
			      "io_uring is older than 6.0: works, at more system calls an I/O");
	io_uring_free_probe(p);
	io_uring_queue_exit(&ring);
}

/* --- nbdkit --- */

/* Whether @name, a path or in $PATH, can be executed. */
static bool can_execute(const char *name)
{
	const char *path = getenv("PATH");
	char file[4096];

	if (strchr(name, '/'))
		return !access(name, X_OK);
	for (size_t n; path && *path; path += n + (path[n] == ':')) {
		n = strcspn(path, ":");
		snprintf(file, sizeof(file), "%.*s/%s", (int)n, path, name);
		if (!access(file, X_OK))
			return true;
	}
	return false;
}

void doctor_check_nbdkit(struct doctor *d)
{
	const char *program = d->cfg->nbd.nbdkit ? d->cfg->nbd.nbdkit : "nbdkit";
	struct reason why;
	char plugin[4096];

	if (!d->cfg->nbd.listen_count)
		return;
	if (!can_execute(program))
		doctor_report(d, DOCTOR_FAIL, program, "install nbdkit, or correct nbd.nbdkit",
			      "cannot be executed: NBD is not served");
	if (nbd_find_plugin(plugin, sizeof(plugin), &why))
		doctor_report(d, DOCTOR_FAIL, "plugin", "install nbdkit-plugin-ebb", "%s",
			      why.text);
}

/* --- modules --- */

static void want_module(struct doctor *d, const char *name)
{
	char path[120], cure[120];

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	snprintf(cure, sizeof(cure), "modprobe %s (and /etc/modules-load.d)", name);
	if (!doctor_exists(d, path))
		doctor_report(d, DOCTOR_FAIL, name, cure,
			      "is not loaded, and LUNs are declared for the kernel's target");
}

void doctor_check_modules(struct doctor *d)
{
	if (!d->cfg->tcmu)
		return;
	want_module(d, "target_core_mod");
	want_module(d, "target_core_user");
	if (d->cfg->lio.targets_count)
		want_module(d, "iscsi_target_mod");
	if (!doctor_exists(d, "/sys/kernel/config/target"))
		doctor_report(d, DOCTOR_FAIL, "configfs",
			      "mount -t configfs configfs /sys/kernel/config",
			      "/sys/kernel/config/target is not there");
	if (d->cfg->user == NULL && !d->pid && geteuid())
		doctor_report(d, DOCTOR_WARN, "privileges", "start the service as root, with user:",
			      "devices of TCMU belong to root");
}
