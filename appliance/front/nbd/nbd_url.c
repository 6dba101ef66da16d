/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <string.h>

#include "event/listen_socket.h"
#include "front/nbd/nbd_private.h"

static void append(char *buf, size_t size, const char *text)
{
	size_t len = strlen(buf);

	snprintf(buf + len, size - len, "%s", text);
}

/** Appends @text with everything but unreserved characters and '/' percent-encoded (RFC 3986). */
static void append_encoded(char *buf, size_t size, const char *text)
{
	for (; *text; text++) {
		char one[4] = {*text};

		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/",
			    *text))
			snprintf(one, sizeof(one), "%%%02X", (unsigned char)*text);
		append(buf, size, one);
	}
}

void nbd_format_url(const char *addr, enum nbd_tls tls, const char *export_name, char *buf,
		    size_t size)
{
	bool is_unix = strncmp(addr, LISTEN_UNIX, strlen(LISTEN_UNIX)) == 0;

	snprintf(buf, size, "%s%s://", tls == NBD_TLS_REQUIRE ? "nbds" : "nbd",
		 is_unix ? "+unix" : "");
	if (!is_unix)
		append(buf, size, addr);
	append(buf, size, "/");
	append_encoded(buf, size, export_name);
	if (is_unix) {
		append(buf, size, "?socket=");
		append_encoded(buf, size, addr + strlen(LISTEN_UNIX));
	}
}
