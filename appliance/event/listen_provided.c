/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "event/listen_provided.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/lock.h"
#include "event/listen_socket.h"
#include "event/stream.h"

struct entry {
	struct listen_provided socket;
	struct sockaddr_storage address;
	int type;
	bool used; /* under lock */
};

static struct mutex lock = MUTEX_INIT(LOCK_RANK_LEAF);
static struct entry entries[LISTEN_PROVIDED_MAX]; /* those that are over have the descriptor -1 */
static unsigned n_entries;

static int get_option(int fd, int option)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -errno : value;
}

int listen_provide(int fd, bool shared, struct reason *why)
{
	struct entry e = {.socket = {fd, shared}, .type = get_option(fd, SO_TYPE)};
	socklen_t len = sizeof(e.address);
	int family;

	if (e.type < 0 || getsockname(fd, (struct sockaddr *)&e.address, &len) < 0)
		return reason_set(why, errno, "descriptor %d: %s", fd, strerror(errno));
	family = e.address.ss_family;
	if (get_option(fd, SO_ACCEPTCONN) != 1)
		return reason_set(why, EINVAL, "descriptor %d: a socket that does not listen", fd);
	if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
		return reason_set(why, EAFNOSUPPORT, "descriptor %d: neither IP nor Unix socket",
				  fd);
	mutex_scope(&lock);
	if (n_entries == LISTEN_PROVIDED_MAX)
		return reason_set(why, ENOSPC, "more than %d sockets are provided",
				  LISTEN_PROVIDED_MAX);
	entries[n_entries++] = e;
	return 0;
}

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	const struct sockaddr_in *a4 = (const void *)a, *b4 = (const void *)b;
	const struct sockaddr_in6 *a6 = (const void *)a, *b6 = (const void *)b;

	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET)
		return a4->sin_port == b4->sin_port && a4->sin_addr.s_addr == b4->sin_addr.s_addr;
	if (a->ss_family == AF_INET6)
		return a6->sin6_port == b6->sin6_port && a6->sin6_scope_id == b6->sin6_scope_id &&
		       !memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(a6->sin6_addr));
	return !strcmp(((const struct sockaddr_un *)a)->sun_path,
		       ((const struct sockaddr_un *)b)->sun_path);
}

static void forget(struct entry *e)
{
	close(e->socket.fd);
	e->socket.fd = -1;
}

bool listen_provided_find(const struct sockaddr_storage *sa, int type,
			  struct listen_provided *ret_provided)
{
	mutex_scope(&lock);
	for (unsigned i = 0; i < n_entries; i++) {
		struct entry *e = &entries[i];

		if (e->socket.fd < 0 || e->type != type || !same_address(&e->address, sa))
			continue;
		if (get_option(e->socket.fd, SO_ACCEPTCONN) != 1) {
			forget(e); /* it was shut down when its address was given up */
			continue;
		}
		e->used = true;
		*ret_provided = e->socket;
		return true;
	}
	return false;
}

static bool is_any(const struct sockaddr_storage *sa)
{
	const struct sockaddr_in *a4 = (const void *)sa;
	const struct sockaddr_in6 *a6 = (const void *)sa;

	return sa->ss_family == AF_INET ? a4->sin_addr.s_addr == INADDR_ANY
					: IN6_IS_ADDR_UNSPECIFIED(&a6->sin6_addr);
}

/** One port, and one of the two is any address: they cannot both listen. */
static bool collide(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	/* sin_port and sin6_port are one place. */
	return a->ss_family == b->ss_family && a->ss_family != AF_UNIX &&
	       ((const struct sockaddr_in *)a)->sin_port ==
		       ((const struct sockaddr_in *)b)->sin_port &&
	       (is_any(a) || is_any(b));
}

static void describe(const struct entry *e, char *buf, size_t size)
{
	if (e->address.ss_family == AF_UNIX)
		snprintf(buf, size, LISTEN_UNIX "%s",
			 ((const struct sockaddr_un *)&e->address)->sun_path);
	else
		stream_format_address(&e->address, buf, size);
}

/** Ends a predecessor's. Whoever keeps copies of it sees its end, and drops them. */
static void end(struct entry *e)
{
	char address[LISTEN_ADDRESS_MAX];

	shutdown(e->socket.fd, SHUT_RDWR);
	if (e->address.ss_family == AF_UNIX) {
		describe(e, address, sizeof(address));
		unlink(address + strlen(LISTEN_UNIX));
	}
	forget(e);
}

bool listen_provided_make_way(const struct sockaddr_storage *sa)
{
	bool ended = false;

	mutex_scope(&lock);
	for (unsigned i = 0; i < n_entries; i++) {
		struct entry *e = &entries[i];

		if (e->socket.fd < 0 || e->used || e->socket.shared || !collide(&e->address, sa))
			continue;
		end(e);
		ended = true;
	}
	return ended;
}

void listen_provided_settle(void (*tell)(const char *address))
{
	char address[LISTEN_ADDRESS_MAX];

	mutex_scope(&lock);
	for (unsigned i = 0; i < n_entries; i++) {
		struct entry *e = &entries[i];

		if (e->socket.fd < 0 || e->used)
			continue;
		if (e->socket.shared) {
			describe(e, address, sizeof(address));
			tell(address);
		} else {
			end(e);
		}
	}
}
