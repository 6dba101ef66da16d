/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who a LUN is. One UUID, from which all other names are derived:
 *
 *   serial   the UUID in text form
 *   NAA      type 3h, locally assigned (SPC-5 7.8.6.6.3): 60 of the UUID's random bits. Type 6h
 *            would want an IEEE company identifier, which we do not pretend to have
 *   EUI-64   62 of its bits, with the local bit set and the group bit clear, for the same reason
 *
 * The UUID is drawn once (version 4, getrandom(2)) and kept in luns/NAME.json of the state
 * directory, so that it outlives moves of the backing file. Without a state directory it is made
 * from the backing file's path and inode (version 5, RFC 9562 5.5): the same file in the same place
 * is the same LUN.
 */
#include "lun/lun_private.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <nettle/sha1.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"

#define RECORD_MAX 65536

/* Drawn once at random, for version 5 UUIDs. */
static const uint8_t namespace_uuid[16] = {0x6f, 0x1c, 0x4d, 0x0e, 0x93, 0x5b, 0x4a, 0x7e,
					   0xb2, 0x58, 0x0d, 0x71, 0xe6, 0x2a, 0xc9, 0x34};

static void cleanup_json(json_t **j)
{
	json_decref(*j);
}

static void set_version(uint8_t uuid[16], uint8_t version)
{
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | version << 4);
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

static void format_uuid(const uint8_t u[16], char text[37])
{
	snprintf(text, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		 u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12],
		 u[13], u[14], u[15]);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_uuid(const char *text, uint8_t ret_uuid[16])
{
	uint8_t u[16];
	size_t at = 0;

	if (strlen(text) != 36)
		return -EINVAL;
	for (int i = 0; i < 16; i++) {
		int hi, lo;

		if ((at == 8 || at == 13 || at == 18 || at == 23) && text[at++] != '-')
			return -EINVAL;
		hi = hex_digit(text[at]);
		lo = hex_digit(text[at + 1]);
		if (hi < 0 || lo < 0)
			return -EINVAL;
		u[i] = (uint8_t)(hi << 4 | lo);
		at += 2;
	}
	memcpy(ret_uuid, u, 16);
	return 0;
}

static int draw_uuid(uint8_t ret_uuid[16])
{
	if (getrandom(ret_uuid, 16, 0) != 16)
		return -EIO;
	set_version(ret_uuid, 4);
	return 0;
}

void lun_identity_derive(const uint8_t uuid[16], struct lun_identity *ret_id)
{
	struct lun_identity *id = ret_id;
	const uint8_t *u = id->uuid;

	memmove(id->uuid, uuid, sizeof(id->uuid));
	format_uuid(u, id->serial);
	id->naa_len = 8;
	memcpy(id->naa, u, 6);
	id->naa[0] = (uint8_t)(0x30 | (u[0] & 0x0f));
	memcpy(id->naa + 6, u + 14, 2);
	memcpy(id->eui64, u, 6);
	id->eui64[0] = (uint8_t)((u[0] & 0xfc) | 0x02);
	memcpy(id->eui64 + 6, u + 14, 2);
}

static int uuid_of_path(const char *path, uint8_t ret_uuid[16])
{
	_cleanup_free_ char *real = realpath(path, NULL);
	uint8_t digest[SHA1_DIGEST_SIZE];
	struct sha1_ctx ctx;
	char inode[64];
	struct stat st;

	if (!real || stat(real, &st) < 0)
		return -errno;
	snprintf(inode, sizeof(inode), "#%llu", (unsigned long long)st.st_ino);
	sha1_init(&ctx);
	sha1_update(&ctx, sizeof(namespace_uuid), namespace_uuid);
	sha1_update(&ctx, strlen(real), (const uint8_t *)real);
	sha1_update(&ctx, strlen(inode), (const uint8_t *)inode);
	sha1_digest(&ctx, sizeof(digest), digest);
	memcpy(ret_uuid, digest, 16);
	set_version(ret_uuid, 5);
	return 0;
}

/* --- the record --- */

static int open_record_dir(int state_dirfd)
{
	int fd;

	if (mkdirat(state_dirfd, "luns", 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(state_dirfd, "luns", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

static int read_record(int dirfd, const char *name, struct lun_identity *id, struct reason *why)
{
	_cleanup_(cleanup_json) json_t *root = NULL;
	_cleanup_free_ char *text = NULL;
	const char *uuid;
	json_int_t gen;
	json_error_t je;
	size_t len;
	int err = file_read(dirfd, name, RECORD_MAX, &text, &len);

	if (err)
		return err == -ENOENT
			       ? err
			       : reason_set(why, -err, "state luns/%s: %s", name, strerror(-err));
	root = json_loadb(text, len, 0, &je);
	if (!root)
		return reason_set(why, EBADMSG, "state luns/%s:%d: %s", name, je.line, je.text);
	if (json_unpack_ex(root, &je, 0, "{s:s, s:I}", "uuid", &uuid, "generation", &gen))
		return reason_set(why, EBADMSG, "state luns/%s: %s", name, je.text);
	if (parse_uuid(uuid, id->uuid) || gen < 1 || gen > UINT32_MAX)
		return reason_set(why, EBADMSG, "state luns/%s: not a valid record", name);
	id->generation = (uint32_t)gen;
	return 0;
}

static int write_record(int dirfd, const char *name, const struct lun_identity *id,
			struct reason *why)
{
	char uuid[37], text[128];
	int n, err;

	format_uuid(id->uuid, uuid);
	n = snprintf(text, sizeof(text), "{\"uuid\": \"%s\", \"generation\": %u}\n", uuid,
		     id->generation);
	err = file_replace(dirfd, name, text, (size_t)n);
	if (err)
		return reason_set(why, -err, "state luns/%s: %s", name, strerror(-err));
	return 0;
}

/* Reads the record, or makes one; a UUID that was given is written when it is another. */
static int load_record(const struct lun_options *opt, const uint8_t *given, struct lun_identity *id,
		       struct reason *why)
{
	_cleanup_close_ int dirfd = open_record_dir(opt->state_dirfd);
	char name[LUN_NAME_MAX + 8];
	int err;

	if (dirfd < 0)
		return reason_set(why, -dirfd, "state directory luns: %s", strerror(-dirfd));
	snprintf(name, sizeof(name), "%s.json", opt->name);
	err = read_record(dirfd, name, id, why);
	if (err && err != -ENOENT)
		return err;
	if (!err && (!given || !memcmp(given, id->uuid, 16)))
		return 0;
	if (given)
		memcpy(id->uuid, given, 16);
	else if (draw_uuid(id->uuid))
		return reason_set(why, EIO, "%s: no random bytes for a UUID", opt->name);
	id->generation++;
	return write_record(dirfd, name, id, why);
}

int lun_identity_load(const struct lun_options *opt, struct lun_identity *ret_id,
		      struct reason *why)
{
	struct lun_identity id = {0};
	uint8_t given[16];
	int err = 0;

	if (opt->uuid && parse_uuid(opt->uuid, given))
		return reason_set(why, EINVAL, "%s: '%s' is no UUID", opt->name, opt->uuid);
	if (opt->state_dirfd >= 0) {
		err = load_record(opt, opt->uuid ? given : NULL, &id, why);
	} else if (opt->uuid) {
		memcpy(id.uuid, given, 16);
	} else if (!opt->path || uuid_of_path(opt->path, id.uuid)) {
		/* Not a file: a LUN for the life of the process. */
		err = draw_uuid(id.uuid);
		if (err)
			return reason_set(why, -err, "%s: no random bytes for a UUID", opt->name);
	}
	if (err)
		return err;
	lun_identity_derive(id.uuid, &id);
	*ret_id = id;
	return 0;
}

int lun_identity_forget(int state_dirfd, const char *name)
{
	_cleanup_close_ int dirfd = open_record_dir(state_dirfd);
	char file[LUN_NAME_MAX + 8];

	if (dirfd < 0)
		return dirfd;
	snprintf(file, sizeof(file), "%s.json", name);
	return file_remove(dirfd, file);
}
