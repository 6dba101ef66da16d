/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/fuse/mount_rules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>

#include "base/endian.h"
#include "lun/lun.h"

int mount_errno(int err)
{
	switch (err) {
	case -EPERM: /* fenced: an initiator holds a reservation, or the medium is being erased */
		return EBUSY;
	case -ESHUTDOWN: /* the LUN was removed, or the daemon stayed away */
		return EIO;
	default:
		return -err;
	}
}

/* --- attributes --- */

uint64_t mount_inode(const struct port_export *e)
{
	/* 1 is the directory. */
	return get_be64(e->uuid + 8) | 2;
}

bool mount_read_only(const struct port_export *e, const struct mount_owner *owner)
{
	return owner->read_only || e->flags & PORT_EXPORT_READ_ONLY;
}

void mount_fill_stat(const struct port_export *e, const struct mount_owner *owner, time_t changed,
		     struct stat *ret_st)
{
	mode_t mode = mount_read_only(e, owner) ? 0444 : 0666;

	*ret_st = (struct stat){
		.st_ino = mount_inode(e),
		.st_mode = S_IFREG | (mode & ~owner->umask),
		.st_nlink = 1,
		.st_uid = owner->uid,
		.st_gid = owner->gid,
		.st_size = (off_t)e->size,
		.st_blksize = 4096,
		.st_blocks = (blkcnt_t)(e->size / 512),
		.st_atim.tv_sec = changed,
		.st_mtim.tv_sec = changed,
		.st_ctim.tv_sec = changed,
	};
}

/* --- ranges --- */

uint64_t mount_clip(uint64_t size, uint64_t off, uint64_t len)
{
	if (off >= size)
		return 0;
	return len < size - off ? len : size - off;
}

int mount_plan_fallocate(int mode, uint64_t off, uint64_t len, uint64_t size,
			 struct mount_change *ret_change)
{
	struct mount_change c = {.op = PORT_ZERO, .off = off, .len = mount_clip(size, off, len)};

	switch (mode) {
	case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
		c.flags = PORT_MAY_TRIM;
		break;
	case FALLOC_FL_ZERO_RANGE:
		if (c.len < len)
			return -ENOSPC;
		break;
	case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
		break;
	default:
		return -EOPNOTSUPP;
	}
	*ret_change = c;
	return 0;
}

int mount_plan_resize(const struct port_export *e, uint64_t to, bool by_path, bool can_grow)
{
	/*
	 * open(2) with O_TRUNC arrives as this, too. Block devices take no notice of it, so that
	 * `dd of=` and cp work; neither do we.
	 */
	if (to == e->size || (to == 0 && by_path))
		return MOUNT_RESIZE_NOT;
	if (to < e->size || !can_grow)
		return -EPERM;
	return to % e->block_size ? -EINVAL : MOUNT_RESIZE_GROW;
}

bool mount_seek(const struct port_extent *extents, unsigned n, bool hole, uint64_t *pos)
{
	const uint32_t both = PORT_EXTENT_HOLE | PORT_EXTENT_ZERO;

	for (unsigned i = 0; i < n; i++) {
		if (((extents[i].flags & both) == both) == hole)
			return true;
		*pos += extents[i].len;
	}
	return false;
}

/* --- extended attributes --- */

static int put_hex(char *buf, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sprintf(buf + 2 * i, "%02x", bytes[i]);
	return (int)(2 * n);
}

static int put_text(char *buf, const char *text)
{
	return snprintf(buf, MOUNT_XATTR_MAX, "%s", text);
}

static int name_value(const struct port_export *e, const struct lun_identity *id, char *buf)
{
	return put_text(buf, e->name);
}

/* The serial number is the UUID in text form. */
static int serial_value(const struct port_export *e, const struct lun_identity *id, char *buf)
{
	return put_text(buf, id->serial);
}

static int naa_value(const struct port_export *e, const struct lun_identity *id, char *buf)
{
	return put_hex(buf, id->naa, id->naa_len);
}

static int eui64_value(const struct port_export *e, const struct lun_identity *id, char *buf)
{
	return put_hex(buf, id->eui64, sizeof(id->eui64));
}

static int block_size_value(const struct port_export *e, const struct lun_identity *id, char *buf)
{
	return sprintf(buf, "%u", e->block_size);
}

static int description_value(const struct port_export *e, const struct lun_identity *id, char *buf)
{
	return put_text(buf, e->description);
}

#define XATTRS(X)                            \
	X("user.ebb.name", name)             \
	X("user.ebb.uuid", serial)           \
	X("user.ebb.serial", serial)         \
	X("user.ebb.naa", naa)               \
	X("user.ebb.eui64", eui64)           \
	X("user.ebb.block_size", block_size) \
	X("user.ebb.description", description)

static const struct {
	const char *name;
	int (*value)(const struct port_export *e, const struct lun_identity *id, char *buf);
} xattrs[] = {
#define ENTRY(text, fn) {text, fn##_value},
	XATTRS(ENTRY)
#undef ENTRY
};

#define WITH_NUL(text, fn) text "\0"
static const char xattr_names[] = XATTRS(WITH_NUL);
#undef WITH_NUL

const char *mount_xattr_names(size_t *ret_len)
{
	*ret_len = sizeof(xattr_names) - 1;
	return xattr_names;
}

int mount_xattr_value(const struct port_export *e, const char *name, char buf[MOUNT_XATTR_MAX])
{
	struct lun_identity id;

	lun_identity_derive(e->uuid, &id);
	for (size_t i = 0; i < sizeof(xattrs) / sizeof(xattrs[0]); i++)
		if (strcmp(name, xattrs[i].name) == 0)
			return xattrs[i].value(e, &id, buf);
	return -ENODATA;
}
