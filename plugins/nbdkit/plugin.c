/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbdkit-ebb-plugin: LUNs of Ebb as NBD exports.
 *
 * This file is the border to nbdkit: configuration, and the translation of its callbacks (API
 * version 2) and of our -errno. Two backends stand behind it (backend.h); which one is used follows
 * from the configuration: `file=` means embedded, anything else attached.
 *
 * Every callback may run on any of nbdkit's threads, many at once (NBDKIT_THREAD_MODEL_PARALLEL).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "backend.h"
#include "base/cleanup.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define MAX_REQUEST (32u << 20) /* bytes; what we advertise as NBD's maximum payload */
#define MAX_EXTENTS 2048u	/* of one answer */
#define MEMORY_MIN  (1ll << 20) /* bytes of a cache that is one */
#define MEMORY_MAX  (1ll << 40)

static struct plugin_config config = {.memory = MEMORY_UNSAID};
static const struct backend *backend;

/** One NBD connection. */
struct connection {
	void *handle;		   /* the backend's */
	struct port_export export; /* as it was when the client connected */
	bool read_only;
};

/* --- configuration --- */

static int set_string(char **ret_value, const char *key, const char *value)
{
	if (*ret_value) {
		nbdkit_error("%s: given twice", key);
		return -1;
	}
	*ret_value = strdup(value);
	if (!*ret_value) {
		nbdkit_error("strdup: %m");
		return -1;
	}
	return 0;
}

static int set_path(char **ret_value, const char *key, const char *value)
{
	_cleanup_free_ char *path = nbdkit_absolute_path(value);

	return path ? set_string(ret_value, key, path) : -1;
}

static int config_size(const char *value)
{
	int64_t size = nbdkit_parse_size(value);

	if (size == -1)
		return -1;
	if (size == 0) {
		nbdkit_error("size: must be above 0");
		return -1;
	}
	config.size = (uint64_t)size;
	return 0;
}

static int config_memory(const char *value)
{
	int64_t size = nbdkit_parse_size(value);

	if (size == -1)
		return -1;
	if (size && (size < MEMORY_MIN || size > MEMORY_MAX)) {
		nbdkit_error("memory: 0, or from 1M to 1T");
		return -1;
	}
	config.memory = (uint64_t)size;
	return 0;
}

static int config_retry(const char *value)
{
	unsigned seconds;

	if (nbdkit_parse_unsigned("retry", value, &seconds) == -1)
		return -1;
	if (seconds < 1 || seconds > 86400) {
		nbdkit_error("retry: from 1 to 86400 seconds");
		return -1;
	}
	config.retry_ms = seconds * 1000;
	return 0;
}

static int config_mode(const char *value)
{
	if (strcmp(value, "direct") != 0 && strcmp(value, "buffered") != 0) {
		nbdkit_error("mode: '%s' is neither direct nor buffered", value);
		return -1;
	}
	return set_string(&config.mode, "mode", value);
}

static int config_bool(bool *ret_value, const char *value)
{
	int b = nbdkit_parse_bool(value);

	if (b == -1)
		return -1;
	*ret_value = b;
	return 0;
}

/* A bare word is read as word=WORD: `ro`, or else a file. */
#define MAGIC_KEY "word"

static int ebb_config(const char *key, const char *value)
{
	if (strcmp(key, MAGIC_KEY) == 0 && strcmp(value, "ro") == 0)
		return config_bool(&config.read_only, "true");
	if (strcmp(key, "file") == 0 || strcmp(key, MAGIC_KEY) == 0)
		return set_path(&config.file, "file", value);
	if (strcmp(key, "socket") == 0)
		return set_path(&config.socket, key, value);
	if (strcmp(key, "lun") == 0)
		return set_string(&config.lun, key, value);
	if (strcmp(key, "default") == 0)
		return set_string(&config.fallback, key, value);
	if (strcmp(key, "description") == 0)
		return set_string(&config.description, key, value);
	if (strcmp(key, "mode") == 0)
		return config_mode(value);
	if (strcmp(key, "size") == 0)
		return config_size(value);
	if (strcmp(key, "memory") == 0)
		return config_memory(value);
	if (strcmp(key, "retry") == 0)
		return config_retry(value);
	if (strcmp(key, "ro") == 0)
		return config_bool(&config.read_only, value);
	if (strcmp(key, "supervised") == 0)
		return config_bool(&config.supervised, value);
	if (strcmp(key, "block-size") == 0) {
		if (strcmp(value, "512") != 0 && strcmp(value, "4096") != 0) {
			nbdkit_error("block-size: 512 or 4096");
			return -1;
		}
		config.block_size = (uint32_t)atoi(value);
		return 0;
	}
	nbdkit_error("unknown parameter '%s'", key);
	return -1;
}

static int ebb_config_complete(void)
{
	bool attached = config.socket || config.lun || config.fallback || config.retry_ms ||
			config.supervised;
	bool embedded = config.mode || config.size || config.block_size || config.description ||
			config.memory != MEMORY_UNSAID;

	if (config.file && attached) {
		nbdkit_error("file= (the engine in nbdkit) excludes lun=, default=, socket=, "
			     "retry= and supervised= (the daemon)");
		return -1;
	}
	if (!config.file && embedded) {
		nbdkit_error("mode=, size=, block-size=, memory= and description= need file=");
		return -1;
	}
	backend = config.file ? &backend_embedded : &backend_attached;
	return 0;
}

#define EBB_CONFIG_HELP                                                                       \
	"The engine inside nbdkit, no daemon:\n"                                              \
	"file=PATH            (required) File or block device to serve.\n"                    \
	"size=SIZE            Create the file, sparse, when it is not there.\n"               \
	"mode=direct|buffered How to do I/O (default: direct where it works).\n"              \
	"block-size=512|4096  Logical block size (default: 512).\n"                           \
	"memory=SIZE          For a cache of what is read; 0: none (direct: 64M).\n"          \
	"description=TEXT     Description of the export.\n"                                   \
	"A LUN of the daemon:\n"                                                              \
	"lun=NAME             The LUN (default: the one that the client's export name is).\n" \
	"default=NAME         The LUN for clients that name none.\n"                          \
	"socket=PATH          Socket of the daemon (default: " PORT_DEFAULT_SOCKET ").\n"     \
	"retry=SECONDS        How long requests wait for a daemon that is gone (120).\n"      \
	"supervised=BOOL      End when there is no daemon for that long (false).\n"           \
	"Both:\n"                                                                             \
	"ro[=BOOL]            Read-only."

static void ebb_dump_plugin(void)
{
	printf("ebb_version=%s\n", EBB_VERSION);
	printf("ebb_port_version=%u\n", PORT_VERSION);
	printf("ebb_embedded=yes\n");
	printf("ebb_default_socket=%s\n", PORT_DEFAULT_SOCKET);
}

static int ebb_get_ready(void)
{
	struct reason why;
	int err = backend->start(&config, &why);

	if (err) {
		errno = -err;
		nbdkit_error("%s", why.text);
		return -1;
	}
	return 0;
}

static int ebb_after_fork(void)
{
	struct reason why;

	if (backend->forked(&why)) {
		nbdkit_error("%s", why.text);
		return -1;
	}
	return 0;
}

static void ebb_cleanup(void)
{
	if (backend)
		backend->stop();
}

static void ebb_unload(void)
{
	free(config.file);
	free(config.mode);
	free(config.description);
	free(config.socket);
	free(config.lun);
	free(config.fallback);
}

/* --- exports and connections --- */

static int ebb_list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
	_cleanup_free_ struct port_export *found = NULL;
	struct reason why;
	size_t n;
	int err = backend->list(&found, &n, &why);

	if (err) {
		nbdkit_error("%s", why.text);
		return -1;
	}
	for (size_t i = 0; i < n; i++) {
		const char *text = found[i].description[0] ? found[i].description : NULL;

		if (nbdkit_add_export(exports, found[i].name, text) == -1)
			return -1;
	}
	return 0;
}

static const char *ebb_default_export(int readonly, int is_tls)
{
	_cleanup_free_ struct port_export *found = NULL;
	struct reason why;
	size_t n;

	if (backend == &backend_embedded)
		return "";
	if (config.lun)
		return config.lun;
	if (config.fallback)
		return config.fallback;
	if (backend->list(&found, &n, &why))
		return NULL;
	return n == 1 ? nbdkit_strdup_intern(found[0].name) : NULL;
}

static void *ebb_open(int readonly)
{
	struct connection *c = calloc(1, sizeof(*c));
	const char *name = nbdkit_export_name();
	struct reason why;
	int err;

	if (!c) {
		nbdkit_error("calloc: %m");
		return NULL;
	}
	c->read_only = readonly || config.read_only;
	err = backend->open(name ? name : "", c->read_only, &c->handle, &why);
	if (err) {
		nbdkit_error("%s", why.text);
		nbdkit_set_error(-err);
		free(c);
		return NULL;
	}
	backend->get_export(c->handle, &c->export);
	if (c->export.flags & PORT_EXPORT_READ_ONLY)
		c->read_only = true;
	return c;
}

static void ebb_close(void *handle)
{
	struct connection *c = handle;

	backend->close(c->handle);
	free(c);
}

static int64_t ebb_get_size(void *handle)
{
	struct connection *c = handle;

	return (int64_t)c->export.size;
}

static const char *ebb_export_description(void *handle)
{
	struct connection *c = handle;

	return c->export.description[0] ? c->export.description : NULL;
}

static int ebb_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
	struct connection *c = handle;

	/* Any offset and length works, but what is not a whole block costs a read. */
	*minimum = 1;
	*preferred = c->export.block_size > 4096 ? c->export.block_size : 4096;
	*maximum = MAX_REQUEST;
	return 0;
}

static int ebb_can_write(void *handle)
{
	struct connection *c = handle;

	return !c->read_only;
}

static int ebb_yes(void *handle)
{
	return 1;
}

static int ebb_can_fast_zero(void *handle)
{
	/* Honest either way: a fast zero that would be slow is refused, not carried out. */
	return 1;
}

static int ebb_is_rotational(void *handle)
{
	struct connection *c = handle;

	return !!(c->export.flags & PORT_EXPORT_ROTATIONAL);
}

static int ebb_can_fua(void *handle)
{
	return NBDKIT_FUA_NATIVE;
}

static int ebb_can_cache(void *handle)
{
	return NBDKIT_CACHE_NATIVE;
}

/* --- requests --- */

/** What NBD can say of -errno: EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN.
 */
static int nbd_errno(int err)
{
	switch (-err) {
	case EPERM:
	case EACCES:
		return EPERM;
	case EROFS:
		return EROFS;
	case ENOSPC:
	case EDQUOT:
		return ENOSPC;
	case ENOMEM:
	case EINVAL:
	case ESHUTDOWN:
		return -err;
	case EOPNOTSUPP:
		return EOPNOTSUPP;
	default:
		return EIO;
	}
}

static const char *const op_names[] = {
	[PORT_READ] = "read",	   [PORT_WRITE] = "write", [PORT_FLUSH] = "flush",
	[PORT_TRIM] = "trim",	   [PORT_ZERO] = "zero",   [PORT_EXTENTS] = "extents",
	[PORT_PREFETCH] = "cache",
};

static int fail(enum port_op op, int err, uint64_t off, uint64_t len)
{
	/* EOPNOTSUPP is an answer (fast zero), not a failure worth a line in the log. */
	if (err != -EOPNOTSUPP)
		nbdkit_error("%s of %llu bytes at %llu: %s", op_names[op], (unsigned long long)len,
			     (unsigned long long)off, strerror(-err));
	nbdkit_set_error(nbd_errno(err));
	return -1;
}

static int request(void *handle, enum port_op op, uint32_t flags, uint64_t off, uint32_t len,
		   void *buf)
{
	struct connection *c = handle;
	unsigned pflags = (flags & NBDKIT_FLAG_FUA ? PORT_FUA : 0) |
			  (flags & NBDKIT_FLAG_MAY_TRIM ? PORT_MAY_TRIM : 0) |
			  (flags & NBDKIT_FLAG_FAST_ZERO ? PORT_FAST : 0);
	int err = backend->io(c->handle, op, pflags, off, len, buf);

	return err ? fail(op, err, off, len) : 0;
}

static int ebb_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
	return request(handle, PORT_READ, flags, offset, count, buf);
}

static int ebb_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset,
		      uint32_t flags)
{
	return request(handle, PORT_WRITE, flags, offset, count, (void *)buf);
}

static int ebb_flush(void *handle, uint32_t flags)
{
	return request(handle, PORT_FLUSH, 0, 0, 0, NULL);
}

static int ebb_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	return request(handle, PORT_TRIM, flags, offset, count, NULL);
}

static int ebb_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	return request(handle, PORT_ZERO, flags, offset, count, NULL);
}

static int ebb_cache(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	return request(handle, PORT_PREFETCH, 0, offset, count, NULL);
}

static int ebb_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
		       struct nbdkit_extents *extents)
{
	struct connection *c = handle;
	unsigned n = flags & NBDKIT_FLAG_REQ_ONE ? 8 : MAX_EXTENTS;
	_cleanup_free_ struct port_extent *found = malloc(n * sizeof(*found));
	int err;

	if (!found)
		return fail(PORT_EXTENTS, -ENOMEM, offset, count);
	err = backend->extents(c->handle, offset, count, found, &n);
	if (err)
		return fail(PORT_EXTENTS, err, offset, count);
	for (unsigned i = 0; i < n; i++) {
		uint32_t type = (found[i].flags & PORT_EXTENT_HOLE ? NBDKIT_EXTENT_HOLE : 0) |
				(found[i].flags & PORT_EXTENT_ZERO ? NBDKIT_EXTENT_ZERO : 0);

		if (nbdkit_add_extent(extents, offset, found[i].len, type) == -1)
			return -1;
		offset += found[i].len;
	}
	return 0;
}

static struct nbdkit_plugin plugin = {
	.name = "ebb",
	.longname = "Ebb LUNs",
	.version = EBB_VERSION,
	.description = "Serve LUNs of the Ebb block storage appliance, or a file by its engine",
	.unload = ebb_unload,
	.config = ebb_config,
	.config_complete = ebb_config_complete,
	.config_help = EBB_CONFIG_HELP,
	.magic_config_key = MAGIC_KEY,
	.dump_plugin = ebb_dump_plugin,
	.get_ready = ebb_get_ready,
	.after_fork = ebb_after_fork,
	.cleanup = ebb_cleanup,
	.list_exports = ebb_list_exports,
	.default_export = ebb_default_export,
	.open = ebb_open,
	.close = ebb_close,
	.export_description = ebb_export_description,
	.get_size = ebb_get_size,
	.block_size = ebb_block_size,
	.can_write = ebb_can_write,
	.can_flush = ebb_yes,
	.is_rotational = ebb_is_rotational,
	.can_trim = ebb_yes,
	.can_zero = ebb_yes,
	.can_fast_zero = ebb_can_fast_zero,
	.can_extents = ebb_yes,
	.can_fua = ebb_can_fua,
	.can_multi_conn = ebb_yes,
	.can_cache = ebb_can_cache,
	.pread = ebb_pread,
	.pwrite = ebb_pwrite,
	.flush = ebb_flush,
	.trim = ebb_trim,
	.zero = ebb_zero,
	.cache = ebb_cache,
	.extents = ebb_extents,
	.errno_is_preserved = 0,
};

/* The macro defines this without declaring it. */
struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(plugin)
