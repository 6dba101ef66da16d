// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A whole iSCSI connection fed with arbitrary bytes: real reactor, real LUN, a socket pair. The
 * first byte of the input says what goes before the rest: nothing, a login to the target, one with
 * digests, or a discovery login. The connection must end by itself once the input has ended.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "front/iscsi/iscsi_private.h"

#define IQN "iqn.2026-11.local.ebb:fuzz"

static struct iscsi_server *srv;
static struct reactor_set *reactors;

static void must(int r, const char *what, const struct reason *why)
{
	if (r >= 0)
		return;
	fprintf(stderr, "%s: %d %s\n", what, r, why->text);
	abort();
}

static void start(void)
{
	struct reactor_options ro = {0};
	struct iscsi_server_options opt = {
		.nop_interval_ms = 100000, .queue_depth = 16, .max_out_bytes = 1 << 20};
	char path[] = "/tmp/fuzz-iscsi-XXXXXX";
	struct lun_options lo = {.name = "fuzz", .path = path, .state_dirfd = -1};
	struct iscsi_target_config cfg = {.name = IQN};
	struct reason why = {0};
	struct scsi_lu *lu;
	struct lun *lun;
	int fd = mkstemp(path);

	signal(SIGPIPE, SIG_IGN);
	log_set_level(0);
	assert(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	close(fd);
	must(reactor_set_start(1, &ro, &reactors), "reactors", &why);
	must(lun_open(&lo, &lun, &why), "lun", &why);
	unlink(path);
	must(scsi_lu_create(lun, &(struct scsi_lu_options){.thin = true}, &lu, &why), "lu", &why);
	must(scsi_target_create(IQN, &cfg.scsi), "target", &why);
	must(scsi_target_map(cfg.scsi, 0, lu), "map", &why);
	opt.reactors = reactors;
	must(iscsi_server_create(&opt, &srv), "server", &why);
	must(iscsi_server_add_target(srv, &cfg, &why), "target", &why);
}

/* Appends a login request with @text; returns the new length. */
static size_t put_login(uint8_t *buf, const char *text, size_t len)
{
	struct iscsi_login_bhs h = {.opcode = ISCSI_OP_LOGIN | ISCSI_OP_IMMEDIATE,
				    .flags = ISCSI_LOGIN_TRANSIT | 1 << 2 | 3};

	put_be24(h.dsl, (uint32_t)len);
	memcpy(buf, &h, sizeof(h));
	memset(buf + sizeof(h), 0, (len + 3) & ~(size_t)3);
	memcpy(buf + sizeof(h), text, len);
	return sizeof(h) + ((len + 3) & ~(size_t)3);
}

#define COMMON	  "InitiatorName=iqn.2026-11.test:fuzz\0"
#define NORMAL	  COMMON "TargetName=" IQN "\0InitialR2T=No\0FirstBurstLength=8192\0"
#define DIGESTS	  NORMAL "HeaderDigest=None\0DataDigest=CRC32C\0"
#define DISCOVERY COMMON "SessionType=Discovery\0"

static size_t prologue(uint8_t kind, uint8_t *buf)
{
	switch (kind & 3) {
	case 1:
		return put_login(buf, NORMAL, sizeof(NORMAL) - 1);
	case 2:
		return put_login(buf, DIGESTS, sizeof(DIGESTS) - 1);
	case 3:
		return put_login(buf, DISCOVERY, sizeof(DISCOVERY) - 1);
	default:
		return 0;
	}
}

/* Writes everything, reads everything, until the other side has closed. */
static void exchange(int fd, const uint8_t *data, size_t len)
{
	static uint8_t sink[1 << 16];

	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (;;) {
		struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (len ? POLLOUT : 0))};
		int r = poll(&p, 1, 20000);

		if (r < 0 && errno == EINTR)
			continue; /* the fuzzer's own timer */
		if (r <= 0)
			abort(); /* it hangs */
		ssize_t n;
		if (len && p.revents & POLLOUT) {
			n = write(fd, data, len);
			if (n > 0) {
				data += n;
				len -= (size_t)n;
			}
			if (!len || (n < 0 && errno != EAGAIN)) {
				len = 0;
				shutdown(fd, SHUT_WR);
			}
		}
		n = read(fd, sink, sizeof(sink));
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t buf[(1 << 17) + 1024];
	struct sockaddr_storage peer = {.ss_family = AF_UNIX};
	int fds[2];
	size_t n;

	if (!srv)
		start();
	if (size < 2 || size > 1 << 17)
		return 0;
	n = prologue(data[0], buf);
	memcpy(buf + n, data + 1, size - 1);
	n += size - 1;
	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	assert(iscsi_conn_start(srv, reactor_set_get(reactors, 0), fds[0], &peer) == 0);
	exchange(fds[1], buf, n);
	close(fds[1]);
	mutex_lock(&srv->lock);
	while (srv->n_conns > 0)
		mutex_wait(&srv->lock, &srv->changed);
	mutex_unlock(&srv->lock);
	return 0;
}
