/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Login and the few commands that come before the load, one blocking exchange after another.
 *
 * Login walks two stages, security (AuthMethod=None) and operation (our keys), then full feature.
 * The target's answers are folded into struct session by the result functions of RFC 7143 §13;
 * whatever it does not answer keeps its default.
 */
#include "session.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/send.h"
#include "wire.h"

#define TEXT_MAX	 8192u
#define LOGIN_ROUNDS_MAX 16

struct pdu {
	uint8_t bhs[BHS_LEN];
	uint32_t len;
	uint8_t data[TEXT_MAX + 1];
};

int target_url_parse(const char *text, struct target_url *ret_url)
{
	struct target_url url = {.port = "3260"};
	char hostport[300];
	int used = 0;

	if (sscanf(text, "iscsi://%299[^/]/%255[^/]/%u%n", hostport, url.target, &url.lun, &used) !=
		    3 ||
	    text[used] || url.lun > 16383)
		return -EINVAL;

	char *host = hostport;
	char *colon = strrchr(hostport, ':');

	if (hostport[0] == '[') {
		char *end = strchr(hostport, ']');

		if (!end)
			return -EINVAL;
		*end = 0;
		host++;
		colon = end[1] == ':' ? end + 1 : NULL;
	}
	if (colon) {
		*colon = 0;
		if (strlen(colon + 1) >= sizeof(url.port))
			return -EINVAL;
		strcpy(url.port, colon + 1);
	}
	if (strlen(host) >= sizeof(url.host))
		return -EINVAL;
	strcpy(url.host, host);
	*ret_url = url;
	return 0;
}

static int read_full(int fd, void *buf, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, buf, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (n == 0)
			return -ECONNRESET;
		buf = (uint8_t *)buf + n;
		len -= (size_t)n;
	}
	return 0;
}

static int pdu_send(struct session *s, struct pdu *p)
{
	uint32_t padded = (p->len + 3) & ~3u;

	put_be24(p->bhs + 5, p->len);
	put_be32(p->bhs + 28, s->expstatsn);
	memset(p->data + p->len, 0, padded - p->len);
	int r = send_all(s->fd, p->bhs, BHS_LEN);

	return r ? r : send_all(s->fd, p->data, padded);
}

static int pdu_recv(struct session *s, struct pdu *p)
{
	int r = read_full(s->fd, p->bhs, BHS_LEN);

	if (r)
		return r;
	p->len = get_be24(p->bhs + 5);
	if (p->len > TEXT_MAX - 3 || p->bhs[4])
		return -EMSGSIZE;
	r = read_full(s->fd, p->data, (p->len + 3) & ~3u);
	p->data[p->len] = 0;
	return r;
}

void session_take_numbers(struct session *s, const uint8_t *bhs, bool status)
{
	if (status)
		s->expstatsn = get_be32(bhs + 24) + 1;
	uint32_t max = get_be32(bhs + 32);

	if ((int32_t)(max - s->maxcmdsn) > 0)
		s->maxcmdsn = max;
}

void session_command_header(struct session *s, uint8_t *bhs, uint32_t expected_len)
{
	memset(bhs, 0, BHS_LEN);
	bhs[0] = OP_SCSI_CMD;
	memcpy(bhs + 8, s->lun, 8);
	put_be32(bhs + 20, expected_len);
	put_be32(bhs + 24, s->cmdsn++);
	put_be32(bhs + 28, s->expstatsn);
}

static int tcp_connect(const struct target_url *url)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
	int fd = -1, r = -ECONNREFUSED;

	if (getaddrinfo(url->host, url->port, &hints, &list))
		return -EHOSTUNREACH;
	for (struct addrinfo *a = list; a; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (fd < 0)
			continue;
		if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
			break;
		r = -errno;
		close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	if (fd < 0)
		return r;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 10},
		   sizeof(struct timeval));
	return fd;
}

static void text_add(struct pdu *p, const char *key, const char *value)
{
	p->len += (uint32_t)snprintf((char *)p->data + p->len, TEXT_MAX - p->len, "%s=%s", key,
				     value) +
		  1;
}

static void text_add_number(struct pdu *p, const char *key, uint32_t value)
{
	char buf[16];

	snprintf(buf, sizeof(buf), "%u", value);
	text_add(p, key, buf);
}

static void add_operational_keys(struct pdu *p, const struct session_options *o)
{
	text_add(p, "HeaderDigest", "None");
	text_add(p, "DataDigest", "None");
	text_add(p, "InitialR2T", o->initial_r2t ? "Yes" : "No");
	text_add(p, "ImmediateData", o->immediate_data ? "Yes" : "No");
	text_add_number(p, "MaxRecvDataSegmentLength", o->max_recv_segment);
	text_add_number(p, "MaxBurstLength", o->max_burst);
	text_add_number(p, "FirstBurstLength", o->first_burst);
	text_add(p, "MaxOutstandingR2T", "16");
	text_add(p, "MaxConnections", "1");
	text_add(p, "ErrorRecoveryLevel", "0");
	text_add(p, "DataPDUInOrder", "Yes");
	text_add(p, "DataSequenceInOrder", "Yes");
	text_add(p, "DefaultTime2Wait", "2");
	text_add(p, "DefaultTime2Retain", "0");
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Folds one answer of the target into what holds; @s already has what we proposed. */
static int take_key(struct session *s, const char *key, const char *value)
{
	uint32_t number = (uint32_t)strtoul(value, NULL, 0);
	bool yes = strcmp(value, "Yes") == 0;

	if (strcasecmp(key, "MaxRecvDataSegmentLength") == 0)
		s->max_send_segment = number;
	else if (strcasecmp(key, "MaxBurstLength") == 0)
		s->max_burst = min_u32(s->max_burst, number);
	else if (strcasecmp(key, "FirstBurstLength") == 0)
		s->first_burst = min_u32(s->first_burst, number);
	else if (strcasecmp(key, "InitialR2T") == 0)
		s->initial_r2t = s->initial_r2t || yes;
	else if (strcasecmp(key, "ImmediateData") == 0)
		s->immediate_data = s->immediate_data && yes;
	else if (strstr(key, "Digest") && strcasecmp(value, "None"))
		return -EPROTO;
	else if (strcasecmp(key, "AuthMethod") == 0 && strcasecmp(value, "None"))
		return -EACCES;
	return 0;
}

static int take_text(struct session *s, struct pdu *p)
{
	char *text = (char *)p->data, *end = text + p->len;

	while (text < end) {
		char *next = text + strlen(text) + 1;
		char *equals = strchr(text, '=');

		if (equals) {
			*equals = 0;
			int r = take_key(s, text, equals + 1);

			if (r) {
				fprintf(stderr, "rawinit: login: %s=%s\n", text, equals + 1);
				return r;
			}
		}
		text = next;
	}
	return 0;
}

static void login_fill(struct session *s, struct pdu *p, unsigned stage, unsigned index)
{
	memset(p->bhs, 0, BHS_LEN);
	p->len = 0;
	p->bhs[0] = OP_IMMEDIATE | OP_LOGIN;
	p->bhs[1] = (uint8_t)(LOGIN_TRANSIT | stage << 2 |
			      (stage == STAGE_SECURITY ? STAGE_OPERATION : STAGE_FULL));
	p->bhs[8] = 0x80; /* ISID of type "random" */
	put_be24(p->bhs + 9, (uint32_t)getpid());
	put_be16(p->bhs + 12, (uint16_t)index);
	put_be32(p->bhs + 16, 1);
	put_be32(p->bhs + 24, s->cmdsn);
}

/* One request and its answer. Returns the stage that follows. */
static int login_round(struct session *s, struct pdu *p, unsigned stage, bool *ret_transit)
{
	int r = pdu_send(s, p);

	if (!r)
		r = pdu_recv(s, p);
	if (r)
		return r;
	if ((p->bhs[0] & OP_MASK) != OP_LOGIN_RSP)
		return -EPROTO;
	session_take_numbers(s, p->bhs, true);
	if (p->bhs[36]) {
		fprintf(stderr, "rawinit: login refused, status %02x%02x\n", p->bhs[36],
			p->bhs[37]);
		return -EACCES;
	}
	*ret_transit = p->bhs[1] & LOGIN_TRANSIT;
	r = take_text(s, p);
	return r ? r : *ret_transit ? p->bhs[1] & 3 : (int)stage;
}

static int login(struct session *s, const struct target_url *url, const struct session_options *o,
		 unsigned index)
{
	struct pdu p;
	int stage = STAGE_SECURITY;
	bool fresh = true;

	for (int round = 0; round < LOGIN_ROUNDS_MAX && stage != STAGE_FULL; round++) {
		login_fill(s, &p, (unsigned)stage, index);
		if (fresh && stage == STAGE_SECURITY) {
			text_add(&p, "InitiatorName", o->initiator_name);
			text_add(&p, "SessionType", "Normal");
			text_add(&p, "TargetName", url->target);
			text_add(&p, "AuthMethod", "None");
		} else if (fresh) {
			add_operational_keys(&p, o);
		}
		stage = login_round(s, &p, (unsigned)stage, &fresh);
		if (stage < 0)
			return stage;
	}
	return stage == STAGE_FULL ? 0 : -EPROTO;
}

int session_open(struct session *s, const struct target_url *url, const struct session_options *o,
		 unsigned index)
{
	*s = (struct session){
		.fd = -1,
		.cmdsn = 1,
		.max_send_segment = 8192,
		.max_burst = o->max_burst,
		.first_burst = o->first_burst,
		.initial_r2t = o->initial_r2t,
		.immediate_data = o->immediate_data,
	};
	put_be16(s->lun, (uint16_t)(url->lun < 256 ? url->lun : 0x4000u | url->lun));
	int r = tcp_connect(url);

	if (r >= 0) {
		s->fd = r;
		r = login(s, url, o, index);
	}
	if (r) {
		fprintf(stderr, "rawinit: %s:%s: %s\n", url->host, url->port, strerror(-r));
		session_close(s);
		return r;
	}
	s->first_burst = min_u32(s->first_burst, s->max_burst);
	return 0;
}

void session_close(struct session *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

int session_command_read(struct session *s, const uint8_t *cdb, size_t cdb_len, void *data,
			 uint32_t len)
{
	struct pdu p = {0};

	session_command_header(s, p.bhs, len);
	p.bhs[1] = (uint8_t)(FLAG_FINAL | CMD_SIMPLE | (len ? CMD_READ : 0));
	memcpy(p.bhs + 32, cdb, cdb_len);
	int r = pdu_send(s, &p);

	for (;;) {
		if (!r)
			r = pdu_recv(s, &p);
		if (r)
			return r;
		unsigned op = p.bhs[0] & OP_MASK;
		bool status = op == OP_SCSI_RSP ||
			      (op == OP_DATA_IN && (p.bhs[1] & DATA_IN_STATUS));

		session_take_numbers(s, p.bhs, status);
		if (op == OP_DATA_IN) {
			uint32_t offset = get_be32(p.bhs + 40);

			if (offset > len || p.len > len - offset)
				return -EPROTO;
			memcpy((uint8_t *)data + offset, p.data, p.len);
		} else if (op != OP_SCSI_RSP && op != OP_NOP_IN) {
			return -EPROTO;
		}
		if (status)
			return op == OP_SCSI_RSP && p.bhs[2] ? -EIO : p.bhs[3];
	}
}

int session_probe(struct session *s, uint64_t *ret_blocks, uint32_t *ret_block_size)
{
	static const uint8_t ready[6] = {0};
	static const uint8_t capacity[16] = {0x9e, 0x10, [13] = 32};
	uint8_t data[32] = {0};
	int r = SCSI_CHECK_CONDITION;

	/* unit attentions of a new nexus come one at a time */
	for (int tries = 0; tries < 8 && r == SCSI_CHECK_CONDITION; tries++)
		r = session_command_read(s, ready, sizeof(ready), NULL, 0);
	if (r == SCSI_GOOD)
		r = session_command_read(s, capacity, sizeof(capacity), data, sizeof(data));
	if (r)
		return r < 0 ? r : -ENODEV;
	*ret_blocks = get_be64(data) + 1;
	*ret_block_size = get_be32(data + 8);
	return *ret_block_size && *ret_blocks ? 0 : -ENODEV;
}
