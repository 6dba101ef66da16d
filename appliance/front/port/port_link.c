/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a socket path to an attached link: connect, HELLO, ATTACH, map. Bounded in time by the
 * socket's timeouts, so that a daemon that hangs does not hang us.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "front/port/port_client_private.h"
#include "front/port/port_proto.h"
#include "front/port/port_socket.h"

#define HANDSHAKE_SECONDS 10

/** What errors of the socket mean: most of them, that there is no daemon (any more). */
static int errno_of_link(int error)
{
	switch (error) {
	case ENOENT:
	case ECONNREFUSED:
	case ECONNRESET:
	case EPIPE:
	case EAGAIN: /* it has let us wait for too long */
		return EHOSTDOWN;
	default:
		return error;
	}
}

static int connect_socket(const char *path, int *ret_fd, struct reason *why)
{
	struct timeval tv = {.tv_sec = HANDSHAKE_SECONDS};
	_cleanup_close_ int fd = -1;
	struct sockaddr_un sa;
	int err = port_socket_address(path, &sa, why);

	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return reason_set(why, errno, "socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return reason_set(why, errno_of_link(errno), "%s: %s (is the daemon running?)",
				  path, strerror(errno));
	*ret_fd = take_fd(fd);
	return 0;
}

static void close_fds(int *fds, unsigned n)
{
	while (n)
		close(fds[--n]);
}

/**
 * Sends @msg and waits for the answer, which must be of type @want, or ERROR. The answer comes with
 * @n_fds descriptors, put in @ret_fds. @buf: PORT_MSG_MAX bytes.
 */
static int ask(int sock, const struct port_msg *msg, enum port_msg_type want, void *buf,
	       int *ret_fds, unsigned n_fds, struct reason *why)
{
	int fds[PORT_FDS_MAX], err, type;
	const struct port_msg_error *error = buf;
	unsigned n = 0;
	ssize_t len;

	err = port_socket_send(sock, msg, msg->len, NULL, 0, 0);
	if (err)
		return reason_set(why, errno_of_link(-err), "sending to the daemon: %s",
				  strerror(-err));
	len = port_socket_recv(sock, buf, PORT_MSG_MAX, fds, &n, 0);
	if (len == 0)
		return reason_set(why, EHOSTDOWN, "the daemon closed the connection");
	if (len < 0)
		return reason_set(why, errno_of_link((int)-len), "waiting for the daemon: %s",
				  strerror((int)-len));
	type = port_msg_check(buf, (size_t)len);
	if (type == (int)want && n == n_fds) {
		for (unsigned i = 0; i < n; i++)
			ret_fds[i] = fds[i];
		return 0;
	}
	close_fds(fds, n);
	if (type == PORT_MSG_ERROR)
		return reason_set(why, -error->err, "%s", error->text);
	return reason_set(why, EPROTO, "the daemon's answer makes no sense");
}

/** @version_min: of the protocol, that we can do with. */
static int say_hello(int sock, const char *name, unsigned version_min, void *buf,
		     struct reason *why)
{
	const struct port_msg_hello *answer = buf;
	struct port_msg_hello m;
	int err;

	port_msg_init(&m, PORT_MSG_HELLO, sizeof(m));
	m.version_min = version_min;
	m.version_max = PORT_VERSION;
	strncpy(m.name, name, sizeof(m.name) - 1);
	err = ask(sock, &m.h, PORT_MSG_HELLO, buf, NULL, 0, why);
	if (err)
		return err;
	if (answer->version_min != answer->version_max || answer->version_min < version_min ||
	    answer->version_max > PORT_VERSION)
		return reason_set(why, EPROTO, "the daemon speaks another version of the port");
	return 0;
}

void port_export_from_wire(struct port_export *ret_export, const struct port_export_wire *w)
{
	memcpy(ret_export->name, w->name, sizeof(w->name));
	memcpy(ret_export->description, w->description, sizeof(w->description));
	memcpy(ret_export->uuid, w->uuid, sizeof(w->uuid));
	ret_export->size = w->size;
	ret_export->block_size = w->block_size;
	ret_export->flags = w->flags;
}

/** Maps @memfd if it is as long as it must be and sealed, so that no access can fault. */
static int map_shm(int memfd, void **ret_shm, struct reason *why)
{
	int seals = fcntl(memfd, F_GET_SEALS);
	struct stat st;
	void *shm;

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(memfd, &st) < 0 ||
	    st.st_size != (off_t)PORT_SHM_SIZE)
		return reason_set(why, EPROTO, "the daemon's shared memory is not sealed");
	shm = mmap(NULL, PORT_SHM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd,
		   0);
	if (shm == MAP_FAILED)
		return reason_set(why, errno, "mmap: %s", strerror(errno));
	*ret_shm = shm;
	return 0;
}

static int attach(struct port_link *l, const struct port_client_options *opt, void *buf,
		  struct reason *why)
{
	const struct port_msg_attached *answer = buf;
	struct port_msg_attach m;
	int fds[PORT_FDS_MAX];
	int err;

	port_msg_init(&m, PORT_MSG_ATTACH, sizeof(m));
	strncpy(m.lun, opt->lun, sizeof(m.lun) - 1);
	m.flags = opt->read_only ? PORT_ATTACH_READ_ONLY : 0;
	err = ask(l->sock, &m.h, PORT_MSG_ATTACHED, buf, fds, 3, why);
	if (err)
		return err;
	l->memfd = fds[0];
	l->doorbell = fds[1];
	l->claim = fds[2];
	port_export_from_wire(&l->export, &answer->export);
	return map_shm(l->memfd, &l->shm, why);
}

int port_link_open(struct port_link *ret_link, const struct port_client_options *opt,
		   struct reason *why)
{
	_cleanup_free_ void *buf = malloc(PORT_MSG_MAX);
	struct port_link l = PORT_LINK_NONE;
	int err;

	if (!buf)
		return reason_set(why, ENOMEM, "out of memory");
	err = connect_socket(opt->socket, &l.sock, why);
	if (!err)
		err = say_hello(l.sock, opt->name,
				opt->async ? PORT_ASYNC_VERSION : PORT_VERSION_MIN, buf, why);
	if (!err)
		err = attach(&l, opt, buf, why);
	if (err) {
		port_link_close(&l);
		return err;
	}
	*ret_link = l;
	return 0;
}

void port_link_close(struct port_link *l)
{
	if (l->shm)
		munmap(l->shm, PORT_SHM_SIZE);
	if (l->sock >= 0)
		close(l->sock);
	if (l->doorbell >= 0)
		close(l->doorbell);
	if (l->memfd >= 0)
		close(l->memfd);
	if (l->claim >= 0)
		close(l->claim);
	*l = PORT_LINK_NONE;
}

int port_client_check(const struct port_client_options *opt, struct port_export *ret_export,
		      struct reason *why)
{
	struct port_client_options o = *opt;
	struct port_link l;
	int err;

	if (!o.socket)
		o.socket = PORT_DEFAULT_SOCKET;
	err = port_link_open(&l, &o, why);
	if (err)
		return err;
	*ret_export = l.export;
	port_link_close(&l);
	return 0;
}

/** Appends the exports of @m to the array. */
static int append_exports(struct port_export **exports, size_t *n, const struct port_msg_exports *m)
{
	struct port_export *more = realloc(*exports, (*n + m->n + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	*exports = more;
	for (uint32_t i = 0; i < m->n; i++)
		port_export_from_wire(&more[(*n)++], &m->exports[i]);
	return 0;
}

#define LIST_MAX 1000000u /* exports; a daemon that says it has more is not ours */

int port_client_list(const char *socket, struct port_export **ret_exports, size_t *ret_n,
		     struct reason *why)
{
	_cleanup_free_ struct port_export *exports = NULL;
	_cleanup_free_ void *buf = malloc(PORT_MSG_MAX);
	const struct port_msg_exports *answer = buf;
	_cleanup_close_ int sock = -1;
	struct port_msg_list m;
	size_t n = 0;
	int err;

	if (!buf)
		return reason_set(why, ENOMEM, "out of memory");
	err = connect_socket(socket ? socket : PORT_DEFAULT_SOCKET, &sock, why);
	if (!err)
		err = say_hello(sock, "list", PORT_VERSION_MIN, buf, why);
	if (err)
		return err;
	port_msg_init(&m, PORT_MSG_LIST, sizeof(m));
	do {
		err = ask(sock, &m.h, PORT_MSG_EXPORTS, buf, NULL, 0, why);
		if (err)
			return err;
		if (n + answer->n > LIST_MAX || append_exports(&exports, &n, answer))
			return reason_set(why, ENOMEM, "the daemon exports too much");
		if (n)
			memcpy(m.after, exports[n - 1].name, sizeof(m.after));
	} while (answer->more);
	*ret_exports = take_ptr(exports);
	*ret_n = n;
	return 0;
}

int port_client_watch(const char *socket, int *ret_sock)
{
	_cleanup_free_ void *buf = malloc(PORT_MSG_MAX);
	_cleanup_close_ int sock = -1;
	int err;

	if (!buf)
		return -ENOMEM;
	err = connect_socket(socket ? socket : PORT_DEFAULT_SOCKET, &sock, NULL);
	if (!err)
		err = say_hello(sock, "nbdkit", PORT_VERSION_MIN, buf, NULL);
	if (!err)
		*ret_sock = take_fd(sock);
	return err;
}
