/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Socket addresses in words: "1.2.3.4:5", "[::1]:5". Numeric only: nothing here asks a resolver. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event/stream.h"

static int parse_port(const char *s, uint16_t *ret_port)
{
	unsigned long port = 0;

	if (!*s || strlen(s) > 5)
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -EINVAL;
		port = port * 10 + (unsigned long)(*s - '0');
	}
	if (port > UINT16_MAX)
		return -EINVAL;
	*ret_port = (uint16_t)port;
	return 0;
}

static int parse_v6(const char *host, uint16_t port, struct sockaddr_storage *sa, socklen_t *len)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)sa;
	char plain[INET6_ADDRSTRLEN + IF_NAMESIZE + 2];
	char *scope;

	if (strlen(host) >= sizeof(plain))
		return -EINVAL;
	strcpy(plain, host);
	scope = strchr(plain, '%');
	if (scope) {
		*scope++ = 0;
		in6->sin6_scope_id = if_nametoindex(scope);
		if (!in6->sin6_scope_id)
			return -EINVAL;
	}
	if (inet_pton(AF_INET6, plain, &in6->sin6_addr) != 1)
		return -EINVAL;
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	*len = sizeof(*in6);
	return 0;
}

static int parse_v4(const char *host, uint16_t port, struct sockaddr_storage *sa, socklen_t *len)
{
	struct sockaddr_in *in = (struct sockaddr_in *)sa;

	if (inet_pton(AF_INET, host, &in->sin_addr) != 1)
		return -EINVAL;
	in->sin_family = AF_INET;
	in->sin_port = htons(port);
	*len = sizeof(*in);
	return 0;
}

int stream_parse_address(const char *addr, struct sockaddr_storage *ret_sa, socklen_t *ret_len,
			 struct reason *why)
{
	struct sockaddr_storage sa = {0};
	const char *colon = strrchr(addr, ':');
	size_t host_len = colon ? (size_t)(colon - addr) : 0;
	bool v6 = host_len > 2 && addr[0] == '[' && addr[host_len - 1] == ']';
	char host[128];
	socklen_t len;
	uint16_t port;

	if (!colon || host_len >= sizeof(host))
		return reason_set(why, EINVAL, "%.100s: not of the form ADDRESS:PORT", addr);
	if (parse_port(colon + 1, &port) < 0)
		return reason_set(why, EINVAL, "%.100s: the port is not a number up to 65535",
				  addr);
	snprintf(host, sizeof(host), "%.*s", (int)host_len - 2 * v6, addr + v6);
	if ((v6 ? parse_v6 : parse_v4)(host, port, &sa, &len) < 0)
		return reason_set(why, EINVAL,
				  "%.100s: not a numeric IPv4 address or [IPv6] address", addr);
	*ret_sa = sa;
	*ret_len = len;
	return 0;
}

void stream_format_address(const struct sockaddr_storage *sa, char *buf, size_t size)
{
	char host[INET6_ADDRSTRLEN], scope[IF_NAMESIZE + 1] = "", name[IF_NAMESIZE];

	if (sa->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)sa;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(buf, size, "%s:%u", host, ntohs(in->sin_port));
	} else if (sa->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;

		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		if (in6->sin6_scope_id && if_indextoname(in6->sin6_scope_id, name))
			snprintf(scope, sizeof(scope), "%%%s", name);
		snprintf(buf, size, "[%s%s]:%u", host, scope, ntohs(in6->sin6_port));
	} else {
		snprintf(buf, size, "unix");
	}
}
