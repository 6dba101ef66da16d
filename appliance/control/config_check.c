/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a schema cannot say of a configuration: names, duplicates, addresses, ranges, references.
 * Duplicates are found through a sorted array of pointers, so that 65,536 LUNs stay quick.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "control/config.h"
#include "control/config_lines.h"
#include "control/config_private.h"
#include "control/size.h"
#include "event/stream.h"
#include "front/iscsi/iscsi.h"
#include "front/nbd/nbd_supervisor.h"

int config_refuse(const struct config_check *c, const struct reason *inner, const char *fmt, ...)
{
	char path[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	if (!c->lines)
		return reason_set(c->why, EINVAL, "%s: %.300s", path, inner->text);
	return reason_set(c->why, EINVAL, "%s:%u: %s: %.300s", c->name,
			  config_lines_find(c->lines, path), path, inner->text);
}

int config_check_lun_name(const char *name, struct reason *why)
{
	if (!isalnum((unsigned char)name[0]))
		return reason_set(why, EINVAL, "'%.80s': a name begins with a letter or a digit",
				  name);
	for (const char *p = name; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			return reason_set(why, EINVAL,
					  "'%.80s': a name has letters, digits, '.', '_', '-' only",
					  name);
	if (strlen(name) > LUN_NAME_MAX)
		return reason_set(why, EINVAL, "'%.80s': longer than %d characters", name,
				  LUN_NAME_MAX);
	return 0;
}

int config_check_address(const char *addr, bool unix_too, struct reason *why)
{
	struct sockaddr_storage sa;
	socklen_t len;

	if (!strncmp(addr, "unix:", 5)) {
		if (!unix_too)
			return reason_set(why, EINVAL, "'%.120s': must be ADDRESS:PORT", addr);
		if (addr[5] != '/')
			return reason_set(why, EINVAL, "'%.120s': needs an absolute path", addr);
		if (strlen(addr + 5) >= sizeof(((struct sockaddr_un *)0)->sun_path))
			return reason_set(why, EINVAL, "'%.120s': longer than a socket path may be",
					  addr);
		return 0;
	}
	return stream_parse_address(addr, &sa, &len, why);
}

void config_iqn(const char *name, char *buf, size_t size)
{
	snprintf(buf, size, "%s:%s", CONFIG_IQN_BASE, name);
	for (char *p = buf; *p; p++)
		*p = *p == '_' ? '-' : (char)tolower((unsigned char)*p);
}

static int check_uuid(const char *uuid, struct reason *why)
{
	size_t i;

	for (i = 0; uuid[i] && i < 36; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? uuid[i] != '-' : !isxdigit((unsigned char)uuid[i]))
			break;
	}
	if (i != 36 || uuid[36])
		return reason_set(why, EINVAL, "'%.60s' is no UUID", uuid);
	return 0;
}

static int check_cache(struct config_lun *l, const char **ret_key, struct reason *why)
{
	*ret_key = "cache_weight";
	if (l->cache_weight > CONFIG_WEIGHT_MAX)
		return reason_set(why, EINVAL, "%u: at most %u", l->cache_weight,
				  CONFIG_WEIGHT_MAX);
	if (l->cache_weight && l->cache == CONFIG_CACHE_NONE)
		return reason_set(why, EINVAL, "the LUN is not cached");
	*ret_key = "cache_floor";
	l->cache_floor = 0;
	if (!l->cache_floor_text)
		return 0;
	if (l->cache == CONFIG_CACHE_NONE)
		return reason_set(why, EINVAL, "the LUN is not cached");
	return size_parse(l->cache_floor_text, &l->cache_floor, why);
}

int config_check_lun(struct config_lun *l, const char **ret_key, struct reason *why)
{
	uint32_t bs = l->block_size ? l->block_size : 512;
	int ret;

	*ret_key = "name";
	ret = config_check_lun_name(l->name, why);
	if (ret)
		return ret;
	*ret_key = "path";
	if (l->path[0] != '/')
		return reason_set(why, EINVAL, "'%.200s' is no absolute path", l->path);
	*ret_key = "block_size";
	if (bs != 512 && bs != 4096)
		return reason_set(why, EINVAL, "%u: must be 512 or 4096", bs);
	*ret_key = "size";
	l->size = 0;
	if (l->size_text) {
		ret = size_parse(l->size_text, &l->size, why);
		if (ret)
			return ret;
		if (!l->size || l->size % bs)
			return reason_set(why, EINVAL, "%s: must be a multiple of %u bytes",
					  l->size_text, bs);
		if (l->size > BLOCK_SIZE_MAX)
			return reason_set(why, EINVAL, "%s: more than 64T", l->size_text);
	}
	*ret_key = "create";
	if (l->create && *l->create && !l->size)
		return reason_set(why, EINVAL, "needs a size");
	*ret_key = "uuid";
	ret = l->uuid ? check_uuid(l->uuid, why) : 0;
	return ret ? ret : check_cache(l, ret_key, why);
}

/* --- duplicates --- */

struct named {
	const char *name;
	unsigned index;
};

static int by_name(const void *a, const void *b)
{
	const struct named *x = a, *y = b;
	int d = strcmp(x->name, y->name);

	return d ? d : (int)x->index - (int)y->index;
}

/* Whether two of @n names are equal; *@ret_second is the index of the later one. Sorts @v. */
static bool find_duplicate(struct named *v, unsigned n, unsigned *ret_second)
{
	qsort(v, n, sizeof(*v), by_name);
	for (unsigned i = 1; i < n; i++) {
		if (strcmp(v[i - 1].name, v[i].name))
			continue;
		*ret_second = v[i].index;
		return true;
	}
	return false;
}

/* What LUNs keep from each other fits into all there is. */
static int check_floors(struct config_check *c, const struct config *cfg)
{
	uint64_t left = cfg->memory.max;
	struct reason inner;

	for (unsigned i = 0; i < cfg->luns_count && cfg->memory.max; i++) {
		if (cfg->luns[i].cache_floor <= left) {
			left -= cfg->luns[i].cache_floor;
			continue;
		}
		reason_set(&inner, EINVAL, "%s: with those before it more than memory.max",
			   cfg->luns[i].cache_floor_text);
		return config_refuse(c, &inner, "luns[%u].cache_floor", i);
	}
	return 0;
}

static int check_luns(struct config_check *c, struct config *cfg)
{
	_cleanup_free_ struct named *v = calloc(cfg->luns_count + 1, sizeof(*v));
	struct reason inner;
	const char *key;
	unsigned dup;

	if (!v)
		return reason_set(c->why, ENOMEM, "out of memory");
	if (cfg->luns_count > CONFIG_LUNS_MAX) {
		reason_set(&inner, EINVAL, "more than %u", CONFIG_LUNS_MAX);
		return config_refuse(c, &inner, "luns");
	}
	for (unsigned i = 0; i < cfg->luns_count; i++) {
		if (config_check_lun(&cfg->luns[i], &key, &inner))
			return config_refuse(c, &inner, "luns[%u].%s", i, key);
		v[i] = (struct named){cfg->luns[i].name, i};
	}
	if (find_duplicate(v, cfg->luns_count, &dup)) {
		reason_set(&inner, EINVAL, "'%s' is declared twice", cfg->luns[dup].name);
		return config_refuse(c, &inner, "luns[%u].name", dup);
	}
	if (check_floors(c, cfg))
		return -EINVAL;
	for (unsigned i = 0; i < cfg->luns_count; i++)
		v[i] = (struct named){cfg->luns[i].path, i};
	if (find_duplicate(v, cfg->luns_count, &dup)) {
		reason_set(&inner, EINVAL, "'%.200s' is the file of another LUN too",
			   cfg->luns[dup].path);
		return config_refuse(c, &inner, "luns[%u].path", dup);
	}
	return 0;
}

/* --- targets --- */

int config_check_user(struct config_check *c, struct config_user *u, const char *path)
{
	struct reason inner;
	size_t len;
	int ret;

	if (!u->secret == !u->secret_file) {
		reason_set(&inner, EINVAL, "needs either secret or secret_file");
		return config_refuse(c, &inner, "%s", path);
	}
	if (u->secret_file) {
		ret = file_read(AT_FDCWD, u->secret_file, 4096, &u->secret, &len);
		if (ret) {
			reason_set(&inner, EINVAL, "%.200s: %s", u->secret_file, strerror(-ret));
			return config_refuse(c, &inner, "%s.secret_file", path);
		}
		u->secret[strcspn(u->secret, "\r\n")] = '\0';
		free(u->secret_file);
		u->secret_file = NULL;
	}
	len = strlen(u->secret);
	if (len < ISCSI_SECRET_MIN || len > ISCSI_SECRET_MAX) {
		reason_set(&inner, EINVAL, "a CHAP secret has %d to %d bytes", ISCSI_SECRET_MIN,
			   ISCSI_SECRET_MAX);
		return config_refuse(c, &inner, "%s.secret", path);
	}
	if (strlen(u->user) > ISCSI_USER_MAX) {
		reason_set(&inner, EINVAL, "longer than %d bytes", ISCSI_USER_MAX);
		return config_refuse(c, &inner, "%s.user", path);
	}
	return 0;
}

static int check_chap(struct config_check *c, struct config_chap *chap, const char *path)
{
	struct reason inner;
	char sub[120];
	int ret;

	if (!chap)
		return 0;
	if (!chap->users_count) {
		reason_set(&inner, EINVAL, "needs at least one of users");
		return config_refuse(c, &inner, "%s", path);
	}
	for (unsigned i = 0; i < chap->users_count; i++) {
		snprintf(sub, sizeof(sub), "%s.users[%u]", path, i);
		ret = config_check_user(c, &chap->users[i], sub);
		if (ret)
			return ret;
	}
	if (!chap->mutual)
		return 0;
	snprintf(sub, sizeof(sub), "%s.mutual", path);
	ret = config_check_user(c, chap->mutual, sub);
	if (ret)
		return ret;
	for (unsigned i = 0; i < chap->users_count; i++) {
		if (strcmp(chap->users[i].secret, chap->mutual->secret))
			continue;
		reason_set(&inner, EINVAL, "must differ from the users' secrets (RFC 7143 12.1.3)");
		return config_refuse(c, &inner, "%s.mutual.secret", path);
	}
	return 0;
}

/* Parses "NAME" or "NUMBER=NAME"; without a number the place in the list is the number. */
static int parse_map(const char *text, unsigned place, struct config_map *ret_map,
		     struct reason *why)
{
	const char *eq = strchr(text, '=');
	unsigned long n = place;
	char *end;

	if (eq) {
		n = strtoul(text, &end, 10);
		if (end != eq || end == text || !isdigit((unsigned char)text[0]))
			return reason_set(why, EINVAL, "'%.100s': must be NAME or NUMBER=NAME",
					  text);
	}
	if (n >= SCSI_LUNS_MAX)
		return reason_set(why, EINVAL, "'%.100s': LUN numbers are 0 to %d", text,
				  SCSI_LUNS_MAX - 1);
	if (strlen(eq ? eq + 1 : text) > LUN_NAME_MAX)
		return reason_set(why, EINVAL, "no LUN is called '%.80s'", text);
	ret_map->number = (unsigned)n;
	snprintf(ret_map->name, sizeof(ret_map->name), "%s", eq ? eq + 1 : text);
	return 0;
}

int config_check_map(struct config_check *c, struct config *cfg, char *const *luns, unsigned n,
		     const char *path, struct config_map **ret_map)
{
	bool taken[SCSI_LUNS_MAX] = {false};
	struct config_map *map = calloc(n + 1, sizeof(*map));
	struct reason inner;

	if (!map)
		return reason_set(c->why, ENOMEM, "out of memory");
	*ret_map = map; /* freed with what is derived */
	for (unsigned i = 0; i < n; i++) {
		struct config_map *m = &map[i];
		int ret = parse_map(luns[i], i, m, &inner);

		if (!ret && !config_find_lun(cfg, m->name))
			ret = reason_set(&inner, EINVAL, "no LUN is called '%.80s'", luns[i]);
		if (!ret && taken[m->number])
			ret = reason_set(&inner, EINVAL, "LUN number %u is taken already",
					 m->number);
		if (ret)
			return config_refuse(c, &inner, "%s.luns[%u]", path, i);
		taken[m->number] = true;
	}
	return 0;
}

static int check_target(struct config_check *c, struct config *cfg, unsigned index)
{
	struct config_target *t = &cfg->iscsi.targets[index];
	struct reason inner;
	char path[60];
	int ret;

	if (iscsi_name_check(t->iqn, &inner))
		return config_refuse(c, &inner, "iscsi.targets[%u].iqn", index);
	for (unsigned i = 0; i < index; i++) {
		if (strcmp(cfg->iscsi.targets[i].iqn, t->iqn))
			continue;
		reason_set(&inner, EINVAL, "'%.223s' is declared twice", t->iqn);
		return config_refuse(c, &inner, "iscsi.targets[%u].iqn", index);
	}
	for (unsigned i = 0; i < t->initiators_count; i++) {
		if (strlen(t->initiators[i]) <= ISCSI_NAME_MAX)
			continue;
		reason_set(&inner, EINVAL, "longer than an iSCSI name");
		return config_refuse(c, &inner, "iscsi.targets[%u].initiators[%u]", index, i);
	}
	snprintf(path, sizeof(path), "iscsi.targets[%u].chap", index);
	ret = check_chap(c, t->chap, path);
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "iscsi.targets[%u]", index);
	return config_check_map(c, cfg, t->luns, t->luns_count, path, &t->map);
}

static int compare_strings(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted names of all LUNs that a declared target shows. NULL: no memory. */
static const char **list_shown(struct config *cfg, size_t *ret_n)
{
	const char **shown;
	size_t n = 0;

	for (unsigned i = 0; i < cfg->iscsi.targets_count; i++)
		n += cfg->iscsi.targets[i].luns_count;
	shown = calloc(n + 1, sizeof(*shown));
	if (!shown)
		return NULL;
	*ret_n = n;
	for (unsigned i = 0, k = 0; i < cfg->iscsi.targets_count; i++)
		for (unsigned j = 0; j < cfg->iscsi.targets[i].luns_count; j++)
			shown[k++] = cfg->iscsi.targets[i].map[j].name;
	qsort(shown, n, sizeof(*shown), compare_strings);
	return shown;
}

/* One automatic target for each LUN that no declared target shows. */
static int derive_targets(struct config_check *c, struct config *cfg)
{
	_cleanup_free_ const char **shown = NULL;
	_cleanup_free_ struct named *names = NULL;
	struct reason inner;
	size_t n_shown;
	unsigned dup, n = 0;

	if (cfg->iscsi.auto_targets && !*cfg->iscsi.auto_targets)
		return 0;
	shown = list_shown(cfg, &n_shown);
	cfg->auto_targets = calloc(cfg->luns_count + 1, sizeof(*cfg->auto_targets));
	names = calloc(cfg->luns_count + cfg->iscsi.targets_count + 1, sizeof(*names));
	if (!shown || !cfg->auto_targets || !names)
		return reason_set(c->why, ENOMEM, "out of memory");
	for (unsigned i = 0; i < cfg->iscsi.targets_count; i++)
		names[n++] = (struct named){cfg->iscsi.targets[i].iqn, 0};
	for (unsigned i = 0; i < cfg->luns_count; i++) {
		struct config_target *t = &cfg->auto_targets[cfg->auto_targets_count];
		const char *name = cfg->luns[i].name;
		char iqn[ISCSI_NAME_MAX + 1];

		if (bsearch(&name, shown, n_shown, sizeof(*shown), compare_strings))
			continue;
		config_iqn(name, iqn, sizeof(iqn));
		t->automatic = true;
		t->luns_count = 1;
		t->iqn = strdup(iqn);
		t->map = calloc(1, sizeof(*t->map));
		cfg->auto_targets_count++;
		if (!t->iqn || !t->map)
			return reason_set(c->why, ENOMEM, "out of memory");
		snprintf(t->map[0].name, sizeof(t->map[0].name), "%s", name);
		names[n++] = (struct named){t->iqn, i};
	}
	if (find_duplicate(names, n, &dup)) {
		reason_set(&inner, EINVAL, "'%s': another target has the iSCSI name made of it",
			   cfg->luns[dup].name);
		return config_refuse(c, &inner, "luns[%u].name", dup);
	}
	return 0;
}

static int check_iscsi(struct config_check *c, struct config *cfg)
{
	struct config_limits *l = &cfg->iscsi.limits;
	struct reason inner;
	int ret;

	for (unsigned i = 0; i < cfg->iscsi.portals_count; i++)
		if (config_check_address(cfg->iscsi.portals[i], false, &inner))
			return config_refuse(c, &inner, "iscsi.portals[%u]", i);
	if (cfg->iscsi.portals_count > ISCSI_PORTALS_MAX) {
		reason_set(&inner, EINVAL, "more than %d", ISCSI_PORTALS_MAX);
		return config_refuse(c, &inner, "iscsi.portals");
	}
	if (l->queue_depth == 1 || l->queue_depth > 1024) {
		reason_set(&inner, EINVAL, "%u: must be 2 to 1024", l->queue_depth);
		return config_refuse(c, &inner, "iscsi.limits.queue_depth");
	}
	const struct {
		const char *key;
		unsigned value;
	} seconds[] = {{"login_timeout", l->login_timeout_s},
		       {"nop_interval", l->nop_interval_s},
		       {"nop_timeout", l->nop_timeout_s}};
	for (unsigned i = 0; i < 3; i++) {
		if (seconds[i].value <= 3600)
			continue;
		reason_set(&inner, EINVAL, "%u: at most 3600 seconds", seconds[i].value);
		return config_refuse(c, &inner, "iscsi.limits.%s", seconds[i].key);
	}
	ret = check_chap(c, cfg->iscsi.discovery_chap, "iscsi.discovery_chap");
	for (unsigned i = 0; !ret && i < cfg->iscsi.targets_count; i++)
		ret = check_target(c, cfg, i);
	return ret ? ret : derive_targets(c, cfg);
}

static int check_nbd(struct config_check *c, struct config *cfg)
{
	struct config_tls_options *tls = &cfg->nbd.tls;
	struct reason inner;

	for (unsigned i = 0; i < cfg->nbd.listen_count; i++)
		if (config_check_address(cfg->nbd.listen[i], true, &inner))
			return config_refuse(c, &inner, "nbd.listen[%u]", i);
	if (cfg->nbd.listen_count > NBD_LISTEN_MAX) {
		reason_set(&inner, EINVAL, "more than %d", NBD_LISTEN_MAX);
		return config_refuse(c, &inner, "nbd.listen");
	}
	if (tls->mode != CONFIG_TLS_OFF && !tls->certificates && !tls->psk) {
		reason_set(&inner, EINVAL, "needs certificates or psk");
		return config_refuse(c, &inner, "nbd.tls.mode");
	}
	if (tls->certificates && tls->psk) {
		reason_set(&inner, EINVAL, "either certificates or psk, not both");
		return config_refuse(c, &inner, "nbd.tls.psk");
	}
	if (cfg->nbd.default_export && !config_find_lun(cfg, cfg->nbd.default_export)) {
		reason_set(&inner, EINVAL, "no LUN is called '%.80s'", cfg->nbd.default_export);
		return config_refuse(c, &inner, "nbd.default_export");
	}
	if (cfg->nbd.threads > 1024) {
		reason_set(&inner, EINVAL, "%u: at most 1024", cfg->nbd.threads);
		return config_refuse(c, &inner, "nbd.threads");
	}
	return 0;
}

/* "25%", 1 to 90: the read cache keeps the rest. */
static int parse_share(const char *text, unsigned *ret_percent, struct reason *why)
{
	unsigned n;
	char end[2];

	if (sscanf(text, "%2u%1[%]%1s", &n, end, end) != 2 || n < 1 || n > 90)
		return reason_set(why, EINVAL, "'%.40s': must be 1%% to 90%%", text);
	*ret_percent = n;
	return 0;
}

static int check_memory(struct config_check *c, struct config_memory *m)
{
	struct reason inner;

	if (m->max_text && size_parse(m->max_text, &m->max, &inner))
		return config_refuse(c, &inner, "memory.max");
	if (m->floor_text && size_parse(m->floor_text, &m->floor, &inner))
		return config_refuse(c, &inner, "memory.floor");
	m->tmem.share = CONFIG_TMEM_SHARE;
	if (m->tmem.share_text && parse_share(m->tmem.share_text, &m->tmem.share, &inner))
		return config_refuse(c, &inner, "memory.tmem.share");
	if (m->max_text && m->max < (16u << 20)) {
		reason_set(&inner, EINVAL, "%s: at least 16M", m->max_text);
		return config_refuse(c, &inner, "memory.max");
	}
	if (m->max && m->floor > m->max) {
		reason_set(&inner, EINVAL, "%s: more than memory.max", m->floor_text);
		return config_refuse(c, &inner, "memory.floor");
	}
	return 0;
}

static int check_general(struct config_check *c, struct config *cfg)
{
	const struct {
		const char *key, *path;
	} paths[] = {{"state_dir", cfg->state_dir},
		     {"runtime_dir", cfg->runtime_dir},
		     {"socket", cfg->socket}};
	struct reason inner;

	if (cfg->threads > 256) {
		reason_set(&inner, EINVAL, "%u: at most 256", cfg->threads);
		return config_refuse(c, &inner, "threads");
	}
	for (unsigned i = 0; i < 3; i++) {
		if (!paths[i].path || paths[i].path[0] == '/')
			continue;
		reason_set(&inner, EINVAL, "'%.200s' is no absolute path", paths[i].path);
		return config_refuse(c, &inner, "%s", paths[i].key);
	}
	for (unsigned i = 0; i < cfg->metrics_count; i++)
		if (config_check_address(cfg->metrics[i], true, &inner))
			return config_refuse(c, &inner, "metrics[%u]", i);
	return check_memory(c, &cfg->memory);
}

int config_check(struct config *cfg, const char *name, const struct config_lines *where,
		 struct reason *why)
{
	struct config_check c = {name, where, why};
	int ret;

	config_free_derived(cfg);
	ret = check_general(&c, cfg);
	if (!ret)
		ret = check_luns(&c, cfg);
	if (!ret)
		ret = check_iscsi(&c, cfg);
	if (!ret)
		ret = config_check_lio(&c, cfg);
	return ret ? ret : check_nbd(&c, cfg);
}
