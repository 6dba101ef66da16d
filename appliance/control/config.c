/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The schema of ebb.yaml, and loading by it.
 *
 * libcyaml checks types, unknown and missing keys, and reports a failure as log lines: what was
 * wrong, then a backtrace of fields and sequence entries with lines. The backtrace is turned into a
 * path ("luns[2].size"); the line is then looked up in the map of lines where that is more exact
 * (libcyaml blames an unknown key on the line of the key before it).
 */
#include "control/config.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "control/config_lines.h"
#include "control/config_private.h"
#include "front/iscsi/iscsi.h"

#define OPT	CYAML_FLAG_OPTIONAL
#define OPT_PTR (CYAML_FLAG_OPTIONAL | CYAML_FLAG_POINTER)
#define STRING(key, type, member) \
	CYAML_FIELD_STRING_PTR(key, OPT_PTR, struct type, member, 1, CYAML_UNLIMITED)
#define UINT(key, type, member) CYAML_FIELD_UINT(key, OPT, struct type, member)
#define BOOL(key, type, member) CYAML_FIELD_BOOL(key, OPT, struct type, member)
#define LIST(key, type, member, entry) \
	CYAML_FIELD_SEQUENCE(key, OPT_PTR, struct type, member, entry, 0, CYAML_UNLIMITED)
#define SUB(key, type, member, fields) CYAML_FIELD_MAPPING(key, OPT, struct type, member, fields)

static const cyaml_schema_value_t string_value = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, CYAML_UNLIMITED)};

static const cyaml_strval_t modes[] = {{"auto", BLOCK_MODE_AUTO},
				       {"direct", BLOCK_MODE_DIRECT},
				       {"buffered", BLOCK_MODE_BUFFERED}};
static const cyaml_strval_t levels[] = {{"error", LOG_LEVEL_ERROR},
					{"warn", LOG_LEVEL_WARN},
					{"info", LOG_LEVEL_INFO},
					{"debug", LOG_LEVEL_DEBUG}};
static const cyaml_strval_t algorithms[] = {{"md5", ISCSI_CHAP_ALLOW_MD5},
					    {"sha1", ISCSI_CHAP_ALLOW_SHA1},
					    {"sha256", ISCSI_CHAP_ALLOW_SHA256},
					    {"sha3-256", ISCSI_CHAP_ALLOW_SHA3_256}};
static const cyaml_strval_t caches[] = {
	{"auto", CONFIG_CACHE_AUTO}, {"read", CONFIG_CACHE_READ}, {"none", CONFIG_CACHE_NONE}};
#define CACHES (sizeof(caches) / sizeof(caches[0]))
static const cyaml_strval_t codecs[] = {
	{"lz4", CONFIG_CODEC_LZ4}, {"zstd", CONFIG_CODEC_ZSTD}, {"none", CONFIG_CODEC_NONE}};
static const cyaml_strval_t tls_modes[] = {
	{"off", CONFIG_TLS_OFF}, {"on", CONFIG_TLS_ON}, {"require", CONFIG_TLS_REQUIRE}};

static const cyaml_schema_field_t lun_fields[] = {
	CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct config_lun, name, 1,
			       CYAML_UNLIMITED),
	CYAML_FIELD_STRING_PTR("path", CYAML_FLAG_POINTER, struct config_lun, path, 1,
			       CYAML_UNLIMITED),
	STRING("size", config_lun, size_text),
	CYAML_FIELD_BOOL_PTR("create", OPT_PTR, struct config_lun, create),
	BOOL("read_only", config_lun, read_only),
	BOOL("removable", config_lun, removable),
	UINT("block_size", config_lun, block_size),
	CYAML_FIELD_ENUM("mode", OPT | CYAML_FLAG_STRICT, struct config_lun, mode, modes, 3),
	CYAML_FIELD_ENUM("cache", OPT | CYAML_FLAG_STRICT, struct config_lun, cache, caches,
			 CACHES),
	UINT("cache_weight", config_lun, cache_weight),
	STRING("cache_floor", config_lun, cache_floor_text),
	STRING("description", config_lun, description),
	STRING("uuid", config_lun, uuid),
	CYAML_FIELD_END};
static const cyaml_schema_value_t lun_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_lun, lun_fields)};

static const cyaml_schema_field_t user_fields[] = {
	CYAML_FIELD_STRING_PTR("user", CYAML_FLAG_POINTER, struct config_user, user, 1,
			       CYAML_UNLIMITED),
	STRING("secret", config_user, secret), STRING("secret_file", config_user, secret_file),
	CYAML_FIELD_END};
static const cyaml_schema_value_t user_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_user, user_fields)};

static const cyaml_schema_field_t chap_fields[] = {
	LIST("users", config_chap, users, &user_value),
	CYAML_FIELD_MAPPING_PTR("mutual", OPT_PTR, struct config_chap, mutual, user_fields),
	CYAML_FIELD_FLAGS("algorithms", OPT | CYAML_FLAG_STRICT, struct config_chap, algorithms,
			  algorithms, 4),
	CYAML_FIELD_END};

static const cyaml_schema_field_t target_fields[] = {
	CYAML_FIELD_STRING_PTR("iqn", CYAML_FLAG_POINTER, struct config_target, iqn, 1,
			       CYAML_UNLIMITED),
	STRING("alias", config_target, alias),
	LIST("luns", config_target, luns, &string_value),
	LIST("initiators", config_target, initiators, &string_value),
	CYAML_FIELD_MAPPING_PTR("chap", OPT_PTR, struct config_target, chap, chap_fields),
	BOOL("header_digest", config_target, header_digest),
	BOOL("data_digest", config_target, data_digest),
	CYAML_FIELD_END};
static const cyaml_schema_value_t target_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_target, target_fields)};

static const cyaml_schema_field_t limit_fields[] = {
	UINT("max_sessions", config_limits, max_sessions),
	UINT("max_sessions_target", config_limits, max_sessions_target),
	UINT("max_unauthenticated", config_limits, max_unauthenticated),
	UINT("max_unauthenticated_address", config_limits, max_unauthenticated_address),
	UINT("login_timeout", config_limits, login_timeout_s),
	UINT("nop_interval", config_limits, nop_interval_s),
	UINT("nop_timeout", config_limits, nop_timeout_s),
	UINT("queue_depth", config_limits, queue_depth),
	CYAML_FIELD_END};

static const cyaml_schema_field_t iscsi_fields[] = {
	LIST("portals", config_iscsi, portals, &string_value),
	CYAML_FIELD_BOOL_PTR("auto_targets", OPT_PTR, struct config_iscsi, auto_targets),
	SUB("limits", config_iscsi, limits, limit_fields),
	CYAML_FIELD_MAPPING_PTR("discovery_chap", OPT_PTR, struct config_iscsi, discovery_chap,
				chap_fields),
	LIST("targets", config_iscsi, targets, &target_value),
	CYAML_FIELD_END};

static const cyaml_schema_field_t lio_chap_fields[] = {
	CYAML_FIELD_STRING_PTR("user", CYAML_FLAG_POINTER, struct config_lio_chap, user.user, 1,
			       CYAML_UNLIMITED),
	STRING("secret", config_lio_chap, user.secret),
	STRING("secret_file", config_lio_chap, user.secret_file),
	CYAML_FIELD_MAPPING_PTR("mutual", OPT_PTR, struct config_lio_chap, mutual, user_fields),
	CYAML_FIELD_END};

static const cyaml_schema_field_t lio_acl_fields[] = {
	CYAML_FIELD_STRING_PTR("initiator", CYAML_FLAG_POINTER, struct config_lio_acl, initiator, 1,
			       CYAML_UNLIMITED),
	CYAML_FIELD_MAPPING_PTR("chap", OPT_PTR, struct config_lio_acl, chap, lio_chap_fields),
	LIST("luns", config_lio_acl, luns, &string_value), CYAML_FIELD_END};
static const cyaml_schema_value_t lio_acl_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_lio_acl, lio_acl_fields)};

static const cyaml_schema_field_t lio_target_fields[] = {
	CYAML_FIELD_STRING_PTR("iqn", CYAML_FLAG_POINTER, struct config_lio_target, iqn, 1,
			       CYAML_UNLIMITED),
	LIST("portals", config_lio_target, portals, &string_value),
	LIST("luns", config_lio_target, luns, &string_value),
	CYAML_FIELD_MAPPING_PTR("chap", OPT_PTR, struct config_lio_target, chap, lio_chap_fields),
	LIST("acls", config_lio_target, acls, &lio_acl_value),
	CYAML_FIELD_END};
static const cyaml_schema_value_t lio_target_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_lio_target, lio_target_fields)};

static const cyaml_schema_field_t lio_fields[] = {
	LIST("portals", config_lio, portals, &string_value),
	LIST("targets", config_lio, targets, &lio_target_value), CYAML_FIELD_END};

static const cyaml_schema_field_t tls_fields[] = {
	CYAML_FIELD_ENUM("mode", OPT | CYAML_FLAG_STRICT, struct config_tls_options, mode,
			 tls_modes, 3),
	STRING("certificates", config_tls_options, certificates),
	STRING("psk", config_tls_options, psk),
	BOOL("verify_peer", config_tls_options, verify_peer), CYAML_FIELD_END};

static const cyaml_schema_field_t nbd_fields[] = {
	LIST("listen", config_nbd, listen, &string_value),
	STRING("nbdkit", config_nbd, nbdkit),
	STRING("default_export", config_nbd, default_export),
	UINT("threads", config_nbd, threads),
	SUB("tls", config_nbd, tls, tls_fields),
	CYAML_FIELD_END};

static const cyaml_schema_field_t tmem_fields[] = {
	CYAML_FIELD_ENUM("codec", OPT | CYAML_FLAG_STRICT, struct config_tmem, codec, codecs, 3),
	STRING("share", config_tmem, share_text), CYAML_FIELD_END};

static const cyaml_schema_field_t memory_fields[] = {
	STRING("max", config_memory, max_text), STRING("floor", config_memory, floor_text),
	SUB("tmem", config_memory, tmem, tmem_fields), CYAML_FIELD_END};

static const cyaml_schema_field_t top_fields[] = {
	UINT("threads", config, threads),
	SUB("memory", config, memory, memory_fields),
	STRING("state_dir", config, state_dir),
	STRING("runtime_dir", config, runtime_dir),
	STRING("socket", config, socket),
	STRING("user", config, user),
	CYAML_FIELD_ENUM("log_level", OPT | CYAML_FLAG_STRICT, struct config, log_level, levels, 4),
	LIST("luns", config, luns, &lun_value),
	SUB("iscsi", config, iscsi, iscsi_fields),
	SUB("nbd", config, nbd, nbd_fields),
	SUB("lio", config, lio, lio_fields),
	LIST("metrics", config, metrics, &string_value),
	BOOL("tcmu", config, tcmu),
	CYAML_FIELD_END};
static const cyaml_schema_value_t top_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct config, top_fields)};

/* --- what libcyaml says of a failure --- */

#define TRACE_MAX 16

struct failure {
	char text[200];		  /* its first line: what was wrong */
	char step[TRACE_MAX][80]; /* the backtrace, innermost first: "luns" or "[2]" */
	unsigned n_steps, line;	  /* line of the innermost */
};

static void note_log(cyaml_log_t level, void *ctx, const char *fmt, va_list ap)
	__attribute__((format(printf, 3, 0)));

static void note_log(cyaml_log_t level, void *ctx, const char *fmt, va_list ap)
{
	struct failure *f = ctx;
	unsigned entry, line = 0;
	char msg[300], name[70], *p;

	vsnprintf(msg, sizeof(msg), fmt, ap);
	p = strstr(msg, "(line: ");
	if (p)
		sscanf(p, "(line: %u", &line);
	if (!strncmp(msg, "  in ", 5)) {
		if (!f->line)
			f->line = line;
		if (f->n_steps == TRACE_MAX)
			return;
		if (sscanf(msg, "  in mapping field '%69[^']'", name) == 1)
			snprintf(f->step[f->n_steps++], sizeof(f->step[0]), "%s", name);
		else if (sscanf(msg, "  in sequence entry '%u'", &entry) == 1)
			snprintf(f->step[f->n_steps++], sizeof(f->step[0]), "[%u]", entry - 1);
		return;
	}
	if (strstr(msg, "Backtrace:") || f->text[0])
		return;
	p = strncmp(msg, "Load: ", 6) ? msg : msg + 6;
	snprintf(f->text, sizeof(f->text), "%.*s", (int)strcspn(p, "\n"), p);
}

/* The path of the value that failed, outermost key first. */
static void failure_path(const struct failure *f, unsigned skip, char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = '\0';
	for (unsigned i = f->n_steps; i > skip && len < size; i--) {
		const char *step = f->step[i - 1];

		len += (size_t)snprintf(buf + len, size - len, "%s%s",
					len && step[0] != '[' ? "." : "", step);
	}
}

/* Turns @f into words: "NAME:LINE: path: reason". */
static int explain(const struct failure *f, cyaml_err_t err, const char *name,
		   const struct config_lines *lines, struct reason *why)
{
	char path[300], full[400], key[70];

	if (err == CYAML_ERR_OOM)
		return reason_set(why, ENOMEM, "%s: out of memory", name);
	failure_path(f, 0, path, sizeof(path));
	if (sscanf(f->text, "Unexpected key: %69[^\n]", key) == 1) {
		snprintf(full, sizeof(full), "%s%s%s", path, path[0] ? "." : "", key);
		return reason_set(why, EINVAL, "%s:%u: %s: unknown key", name,
				  config_lines_find(lines, full), full);
	}
	if (sscanf(f->text, "Missing required mapping field: %69[^\n]", key) == 1) {
		/* The innermost step may be the last key of the mapping that lacks one. */
		unsigned skip = f->n_steps && f->step[0][0] != '[';

		failure_path(f, skip, path, sizeof(path));
		return reason_set(why, EINVAL, "%s:%u: %s.%s: missing", name,
				  config_lines_find(lines, path), path, key);
	}
	if (!strncmp(f->text, "Mapping field already seen", 26))
		return reason_set(why, EINVAL, "%s:%u: %s: given twice", name,
				  config_lines_find_last(lines, path), path);
	return reason_set(why, EINVAL, "%s:%u: %s%s%s", name, f->line ? f->line : 1, path,
			  path[0] ? ": " : "", f->text[0] ? f->text : cyaml_strerror(err));
}

/* --- loading --- */

static const cyaml_config_t free_config = {.mem_fn = cyaml_mem, .flags = CYAML_CFG_NO_ALIAS};

static int load_by_schema(const char *name, const char *text, size_t len,
			  const struct config_lines *lines, struct config **ret_config,
			  struct reason *why)
{
	struct failure failure = {0};
	cyaml_config_t cc = {.log_fn = note_log,
			     .log_ctx = &failure,
			     .mem_fn = cyaml_mem,
			     .log_level = CYAML_LOG_ERROR,
			     .flags = CYAML_CFG_NO_ALIAS};
	struct config *cfg = NULL;
	cyaml_err_t err = cyaml_load_data((const uint8_t *)text, len, &cc, &top_value,
					  (cyaml_data_t **)&cfg, NULL);

	if (err != CYAML_OK)
		return explain(&failure, err, name, lines, why);
	if (!cfg) /* nothing but comments */
		cfg = config_new();
	if (!cfg)
		return reason_set(why, ENOMEM, "%s: out of memory", name);
	if (!cfg->log_level)
		cfg->log_level = LOG_LEVEL_INFO;
	*ret_config = cfg;
	return 0;
}

int config_load_text(const char *name, const char *text, size_t len, struct config **ret_config,
		     struct reason *why)
{
	struct config_lines *lines = NULL;
	struct config *cfg = NULL;
	int ret;

	ret = config_lines_scan(name, text, len, &lines, why);
	if (ret)
		return ret;
	ret = load_by_schema(name, text, len, lines, &cfg, why);
	if (!ret)
		ret = config_check(cfg, name, lines, why);
	config_lines_free(lines);
	if (ret) {
		config_free(cfg);
		return ret;
	}
	*ret_config = cfg;
	return 0;
}

int config_load_file(const char *path, struct config **ret_config, struct reason *why)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int ret = file_read(AT_FDCWD, path, CONFIG_FILE_MAX, &text, &len);

	if (ret)
		return reason_set(why, -ret, "%s:0: cannot be read: %s", path, strerror(-ret));
	return config_load_text(path, text, len, ret_config, why);
}

struct config *config_new(void)
{
	struct config *cfg = calloc(1, sizeof(*cfg));

	if (cfg)
		cfg->log_level = LOG_LEVEL_INFO;
	return cfg;
}

struct config_lun *config_add_lun(struct config *cfg)
{
	struct config_lun *bigger = realloc(cfg->luns, (cfg->luns_count + 1) * sizeof(*cfg->luns));

	if (!bigger)
		return NULL;
	cfg->luns = bigger;
	bigger += cfg->luns_count++;
	memset(bigger, 0, sizeof(*bigger));
	return bigger;
}

const char *config_cache_name(enum config_cache cache)
{
	return caches[cache].str;
}

int config_read_cache(const char *word, enum config_cache *ret_cache, struct reason *why)
{
	for (size_t i = 0; i < CACHES; i++)
		if (!strcmp(word, caches[i].str)) {
			*ret_cache = (enum config_cache)caches[i].val;
			return 0;
		}
	return reason_set(why, EINVAL, "'%.40s' is none of auto, read, none", word);
}

struct config_lun *config_find_lun(struct config *cfg, const char *name)
{
	for (unsigned i = 0; i < cfg->luns_count; i++)
		if (!strcmp(cfg->luns[i].name, name))
			return &cfg->luns[i];
	return NULL;
}

static void free_auto_target(struct config_target *t)
{
	free(t->iqn);
	free(t->map);
}

int config_remove_lun(struct config *cfg, const char *name)
{
	struct config_lun *l = config_find_lun(cfg, name);

	if (!l)
		return -ENOENT;
	for (unsigned i = 0; i < cfg->auto_targets_count; i++) {
		struct config_target *t = &cfg->auto_targets[i];

		if (!t->map || strcmp(t->map[0].name, name))
			continue;
		free_auto_target(t);
		*t = cfg->auto_targets[--cfg->auto_targets_count];
		break;
	}
	config_clear_lun(l);
	memmove(l, l + 1, (size_t)(&cfg->luns[--cfg->luns_count] - l) * sizeof(*l));
	return 0;
}

void config_free_derived(struct config *cfg)
{
	for (unsigned i = 0; i < cfg->auto_targets_count; i++)
		free_auto_target(&cfg->auto_targets[i]);
	free(cfg->auto_targets);
	cfg->auto_targets = NULL;
	cfg->auto_targets_count = 0;
	for (unsigned i = 0; i < cfg->iscsi.targets_count; i++) {
		free(cfg->iscsi.targets[i].map);
		cfg->iscsi.targets[i].map = NULL;
	}
	config_free_lio_derived(&cfg->lio);
}

void config_free(struct config *cfg)
{
	if (!cfg)
		return;
	config_free_derived(cfg);
	cyaml_free(&free_config, &top_value, cfg, 0);
}
