/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/send.h"
#include "cli/cli.h"
#include "control/config.h"
#include "control/protocol.h"

#define RESPONSE_MAX (256u << 20)

/* A connected socket, or -errno. */
static int try_connect(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = -1;

	if (strlen(path) >= sizeof(un.sun_path))
		return -ENAMETOOLONG;
	strcpy(un.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0)
		return -errno;
	return take_fd(fd);
}

/* The socket that was asked for, or the user's own appliance, or the system's. */
static int connect_daemon(const char *path, struct reason *why)
{
	char own[200];
	int fd;

	if (!path)
		path = getenv("EBB_SOCKET");
	if (!path && !cli_runtime_dir(own, sizeof(own) - 20, false, NULL)) {
		strcat(own, "/control.sock");
		fd = try_connect(own);
		if (fd >= 0)
			return fd;
	}
	if (!path)
		path = CONFIG_RUNTIME_DIR "/control.sock";
	fd = try_connect(path);
	if (fd < 0)
		reason_set(why, -fd, "no appliance answers at %s: %s", path, strerror(-fd));
	return fd;
}

/* Reads up to the newline. malloc'ed; NULL on error, with errno. */
static char *read_line(int fd, size_t *ret_len)
{
	size_t len = 0, room = 0;
	char *buf = NULL;

	for (;;) {
		ssize_t n;

		if (len == room) {
			char *bigger;

			room = room ? room * 2 : 65536;
			bigger = room <= RESPONSE_MAX ? realloc(buf, room) : NULL;
			if (!bigger) {
				errno = ENOMEM;
				break;
			}
			buf = bigger;
		}
		n = recv(fd, buf + len, room - len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			errno = n ? errno : ECONNRESET;
			break;
		}
		len += (size_t)n;
		if (buf[len - 1] == '\n') {
			*ret_len = len;
			return buf;
		}
	}
	free(buf);
	return NULL;
}

static int take_answer(json_t *top, json_t **ret_result, struct reason *why)
{
	const char *message;

	if (json_is_true(json_object_get(top, "ok"))) {
		*ret_result = json_incref(json_object_get(top, "result"));
		return 0;
	}
	message = json_string_value(json_object_get(json_object_get(top, "error"), "message"));
	reason_set(why, EIO, "%s", message ? message : "an answer that is not understood");
	return -1;
}

int cli_call(const struct cli_options *opt, const char *method, json_t *params, json_t **ret_result,
	     struct reason *why)
{
	json_t *req = json_pack("{s:i, s:i, s:s, s:o*}", "v", PROTOCOL_VERSION, "id", 1, "method",
				method, "params", params);
	_cleanup_free_ char *text = req ? json_dumps(req, JSON_COMPACT) : NULL;
	_cleanup_free_ char *line = NULL;
	_cleanup_close_ int fd = -1;
	json_t *top = NULL;
	size_t len = 0;
	int ret;

	json_decref(req);
	if (!text) {
		reason_set(why, EINVAL, "the arguments are not valid UTF-8");
		return -1;
	}
	fd = connect_daemon(opt->socket, why);
	if (fd < 0)
		return -1;
	ret = send_all(fd, text, strlen(text));
	if (!ret)
		ret = send_all(fd, "\n", 1);
	if (!ret)
		line = read_line(fd, &len);
	if (line)
		top = json_loadb(line, len, 0, NULL);
	if (!top) {
		reason_set(why, EIO, "no answer from the appliance: %s",
			   strerror(ret ? -ret : errno));
		return -1;
	}
	ret = take_answer(top, ret_result, why);
	json_decref(top);
	return ret;
}

char *cli_ask_port(const struct cli_options *opt, struct reason *why)
{
	const char *path;
	char *port = NULL;
	json_t *status;

	if (cli_call(opt, "status", NULL, &status, why))
		return NULL;
	path = json_string_value(json_object_get(json_object_get(status, "port"), "socket"));
	if (path)
		port = cli_absolute(path);
	else
		reason_set(why, EPROTO, "the appliance does not tell of its port");
	json_decref(status);
	return port;
}
