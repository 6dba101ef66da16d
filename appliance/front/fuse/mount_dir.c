/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The directory, and what is told of files. The kernel is told to remember nothing of it (timeouts
 * of 0): which LUNs there are, and how large they are, may change at any time. Whoever asks is told
 * what is so now, of LUNs that nobody has open what was so a moment ago (MOUNT_RECENT_MS).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "front/fuse/mount_private.h"

/* Requests that ask the daemon, or wait for it: between mount_begin_slow() and _end_slow(). */

static struct mount *of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* --- names --- */

static int list(fuse_req_t req, struct port_export **ret_exports, size_t *ret_n)
{
	int err;

	mount_begin_slow(of(req));
	err = mount_list(of(req), req, ret_exports, ret_n);
	mount_end_slow(of(req));
	return err;
}

static int find(fuse_req_t req, const char *name, struct port_export *ret_export)
{
	int err;

	mount_begin_slow(of(req));
	err = mount_find(of(req), req, name, ret_export);
	mount_end_slow(of(req));
	return err;
}

void mount_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {0};
	struct port_export e;
	struct mount_node *node;
	int err = strlen(name) < PORT_NAME_MAX ? find(req, name, &e) : -ENAMETOOLONG;

	if (err) {
		fuse_reply_err(req, mount_errno(err));
		return;
	}
	node = mount_node_find(of(req), &e);
	if (!node) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	mount_node_attached(node, &e);
	entry.ino = mount_ino_of(node);
	mount_fill_stat(&e, &of(req)->owner, (time_t)atomic_load(&node->changed_s), &entry.attr);
	if (fuse_reply_entry(req, &entry))
		mount_node_forget(node, 1); /* nobody has learnt of it */
}

void mount_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	if (ino != FUSE_ROOT_ID)
		mount_node_forget(mount_node_of(ino), n);
	fuse_reply_none(req);
}

void mount_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		if (forgets[i].ino != FUSE_ROOT_ID)
			mount_node_forget(mount_node_of(forgets[i].ino), forgets[i].nlookup);
	fuse_reply_none(req);
}

/* LUNs are made, named and removed elsewhere; the file system has no such thing. */
#define REFUSE(verb, ...)                              \
	void mount_##verb(fuse_req_t req, __VA_ARGS__) \
	{                                              \
		fuse_reply_err(req, EPERM);            \
	}

REFUSE(mknod, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
REFUSE(mkdir, fuse_ino_t parent, const char *name, mode_t mode)
REFUSE(symlink, const char *target, fuse_ino_t parent, const char *name)
REFUSE(link, fuse_ino_t ino, fuse_ino_t parent, const char *name)
REFUSE(rename, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *new_name,
       unsigned flags)
REFUSE(unlink, fuse_ino_t parent, const char *name)
REFUSE(rmdir, fuse_ino_t parent, const char *name)
#undef REFUSE

/* --- reading the directory: what there was when it was opened --- */

struct listing {
	size_t n;
	struct port_export *exports;
};

void mount_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct listing *l = calloc(1, sizeof(*l));
	int err = l ? list(req, &l->exports, &l->n) : -ENOMEM;

	if (err) {
		free(l);
		fuse_reply_err(req, mount_errno(err));
		return;
	}
	fi->fh = (uint64_t)(uintptr_t)l;
	if (fuse_reply_open(req, fi) == 0)
		return;
	free(l->exports);
	free(l);
}

static struct listing *listing_of(const struct fuse_file_info *fi)
{
	return (struct listing *)(uintptr_t)fi->fh;
}

/* Entry @i, the first two being "." and "..". NULL: there is none. */
static const char *entry_at(const struct listing *l, size_t i, struct stat *ret_st)
{
	static const char *const dots[] = {".", ".."};

	*ret_st = (struct stat){.st_ino = FUSE_ROOT_ID, .st_mode = S_IFDIR};
	if (i < 2)
		return dots[i];
	if (i - 2 >= l->n)
		return NULL;
	*ret_st = (struct stat){.st_ino = mount_inode(&l->exports[i - 2]), .st_mode = S_IFREG};
	return l->exports[i - 2].name;
}

void mount_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		   struct fuse_file_info *fi)
{
	_cleanup_free_ char *buf = malloc(size);
	size_t used = 0;
	struct stat st;
	const char *name;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	for (size_t i = (size_t)off; (name = entry_at(listing_of(fi), i, &st)); i++) {
		size_t n = fuse_add_direntry(req, buf + used, size - used, name, &st, (off_t)i + 1);

		if (n > size - used)
			break;
		used += n;
	}
	fuse_reply_buf(req, buf, used);
}

void mount_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	free(listing_of(fi)->exports);
	free(listing_of(fi));
	fuse_reply_err(req, 0);
}

/* --- attributes --- */

static int export_of(fuse_req_t req, fuse_ino_t ino, struct port_export *ret_export)
{
	int err;

	mount_begin_slow(of(req));
	err = mount_node_export(mount_node_of(ino), req, ret_export);
	mount_end_slow(of(req));
	return err;
}

static void fill_directory(const struct mount *m, struct stat *ret_st)
{
	*ret_st = (struct stat){
		.st_ino = FUSE_ROOT_ID,
		.st_mode = S_IFDIR | (0555 & ~m->owner.umask),
		.st_nlink = 2,
		.st_uid = m->owner.uid,
		.st_gid = m->owner.gid,
		.st_atim.tv_sec = m->since,
		.st_mtim.tv_sec = m->since,
		.st_ctim.tv_sec = m->since,
	};
}

void mount_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = of(req);
	struct port_export e;
	struct stat st;
	int err;

	if (ino == FUSE_ROOT_ID) {
		fill_directory(m, &st);
		fuse_reply_attr(req, &st, 0);
		return;
	}
	err = export_of(req, ino, &e);
	if (err) {
		fuse_reply_err(req, mount_errno(err));
		return;
	}
	mount_fill_stat(&e, &m->owner, (time_t)atomic_load(&mount_node_of(ino)->changed_s), &st);
	fuse_reply_attr(req, &st, 0);
}

/* A new size. Returns an errno for the kernel. */
static int resize(fuse_req_t req, fuse_ino_t ino, const struct port_export *e, uint64_t to,
		  bool by_path)
{
	struct mount *m = of(req);
	struct reason why;
	int ret = mount_plan_resize(e, to, by_path, m->opt->grow != NULL);

	if (ret != MOUNT_RESIZE_GROW)
		return -ret;
	mount_begin_slow(m);
	ret = m->opt->grow(m->opt->ctx, e->name, to, &why);
	if (ret)
		log_warn("mount.grow.refused", "lun=%s reason=%s", e->name, why.text);
	else
		mount_node_await_size(mount_node_of(ino), to);
	mount_end_slow(m);
	return -ret;
}

/*
 * Who owns files, and their modes, is decided when they are mounted. They can be set to what they
 * are, which is what programs do that copy all of a file.
 */
static bool leaves_owner_and_mode(const struct stat *st, const struct stat *attr, int to_set)
{
	return !(to_set & FUSE_SET_ATTR_MODE && (attr->st_mode ^ st->st_mode) & 07777) &&
	       !(to_set & FUSE_SET_ATTR_UID && attr->st_uid != st->st_uid) &&
	       !(to_set & FUSE_SET_ATTR_GID && attr->st_gid != st->st_gid);
}

static void set_time(struct mount_node *node, const struct stat *attr, int to_set)
{
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		mount_node_touch(node);
	else if (to_set & FUSE_SET_ATTR_MTIME)
		atomic_store(&node->changed_s, (uint64_t)attr->st_mtim.tv_sec);
}

/* Returns an errno for the kernel. */
static int set_attributes(fuse_req_t req, fuse_ino_t ino, const struct stat *attr, int to_set,
			  bool by_path)
{
	struct port_export e;
	struct stat st;
	int err;

	if (ino == FUSE_ROOT_ID)
		return EPERM;
	err = export_of(req, ino, &e);
	if (err)
		return mount_errno(err);
	mount_fill_stat(&e, &of(req)->owner, 0, &st);
	if (!leaves_owner_and_mode(&st, attr, to_set))
		return EPERM;
	if (to_set & FUSE_SET_ATTR_SIZE)
		err = resize(req, ino, &e, (uint64_t)attr->st_size, by_path);
	if (!err)
		set_time(mount_node_of(ino), attr, to_set);
	return err;
}

void mount_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		   struct fuse_file_info *fi)
{
	int err = set_attributes(req, ino, attr, to_set, fi == NULL);

	if (err)
		fuse_reply_err(req, err);
	else
		mount_getattr(req, ino, fi);
}

void mount_statfs(fuse_req_t req, fuse_ino_t ino)
{
	_cleanup_free_ struct port_export *exports = NULL;
	struct statvfs st = {.f_bsize = 4096, .f_frsize = 4096, .f_namemax = PORT_NAME_MAX - 1};
	size_t n;
	int err = list(req, &exports, &n);

	if (err) {
		fuse_reply_err(req, mount_errno(err));
		return;
	}
	st.f_files = n;
	for (size_t i = 0; i < n; i++)
		st.f_blocks += exports[i].size / st.f_frsize;
	fuse_reply_statfs(req, &st);
}

/* --- extended attributes --- */

/* Answers with @len bytes, or how many they are. */
static void answer_xattr(fuse_req_t req, const char *value, size_t len, size_t room)
{
	if (!room)
		fuse_reply_xattr(req, len);
	else if (len > room)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, len);
}

void mount_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	char value[MOUNT_XATTR_MAX];
	int n = ino == FUSE_ROOT_ID ? -ENODATA
				    : mount_xattr_value(&mount_node_of(ino)->named, name, value);

	if (n < 0)
		fuse_reply_err(req, -n);
	else
		answer_xattr(req, value, (size_t)n, size);
}

void mount_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	size_t len = 0;
	const char *names = ino == FUSE_ROOT_ID ? "" : mount_xattr_names(&len);

	answer_xattr(req, names, len, size);
}
