/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is declared: the contents of ebb.yaml, or of the command line of `ebb serve`.
 *
 * One schema (config.c) describes every key; libcyaml fills these structs from it. Fields below
 * "derived" are computed by config_check(), which also finds what a schema cannot say: names,
 * duplicates, addresses, ranges, references. Every refusal reads "FILE:LINE: key: reason".
 * All strings and arrays are malloc'ed and the struct's own; config_free() frees all of it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "base/reason.h"
#include "block/block.h"
#include "lun/lun.h"

#define CONFIG_IQN_BASE	   "iqn.2026-11.local.ebb"
#define CONFIG_FILE_MAX	   (8u << 20) /* bytes of a configuration file */
#define CONFIG_LUNS_MAX	   65536
#define CONFIG_TMEM_SHARE  25
#define CONFIG_WEIGHT_MAX  10000
#define CONFIG_STATE_DIR   "/var/lib/ebb"
#define CONFIG_RUNTIME_DIR "/run/ebb"

/* AUTO: read where the store does direct I/O; what is buffered has the page cache */
enum config_cache { CONFIG_CACHE_AUTO, CONFIG_CACHE_READ, CONFIG_CACHE_NONE };

struct config_lun {
	char *name, *path;
	char *size_text;
	char *description, *uuid;
	bool *create; /* NULL: create when `size` is given */
	bool read_only, removable;
	unsigned block_size;
	enum block_mode mode;
	enum config_cache cache;
	unsigned cache_weight; /* 0: default */
	char *cache_floor_text;
	/* derived */
	uint64_t size;	      /* bytes, or 0 when none was declared */
	uint64_t cache_floor; /* bytes */
	bool by_command;      /* declared by a command (`ebb lun create`), not by the file */
};

struct config_user {
	char *user, *secret, *secret_file; /* one of the two; derived: secret is filled in */
};

struct config_chap {
	struct config_user *users;
	unsigned users_count;
	struct config_user *mutual; /* may be NULL */
	unsigned algorithms;	    /* ISCSI_CHAP_ALLOW_*; 0: all */
};

struct config_map {
	unsigned number;	     /* LUN number */
	char name[LUN_NAME_MAX + 1]; /* of the LUN */
};

struct config_target {
	char *iqn, *alias;
	char **luns; /* "NAME" or "NUMBER=NAME" */
	unsigned luns_count;
	char **initiators;
	unsigned initiators_count;
	struct config_chap *chap;
	bool header_digest, data_digest;
	/* derived */
	bool automatic;		/* made for one LUN that no declared target shows */
	struct config_map *map; /* luns_count entries */
};

struct config_limits {
	unsigned max_sessions, max_sessions_target, max_unauthenticated,
		max_unauthenticated_address;
	unsigned login_timeout_s, nop_interval_s, nop_timeout_s, queue_depth;
};

struct config_iscsi {
	char **portals;
	unsigned portals_count;
	bool *auto_targets;
	struct config_limits limits;
	struct config_chap *discovery_chap;
	struct config_target *targets;
	unsigned targets_count;
};

/** Credentials of an initiator at LIO, which knows one pair. */
struct config_lio_chap {
	struct config_user user;
	struct config_user *mutual; /* may be NULL */
};

/** An initiator that may log in, and what it is shown. */
struct config_lio_acl {
	char *initiator;
	struct config_lio_chap *chap; /* NULL: the target's */
	char **luns;		      /* "NAME" or "NUMBER=NAME", of the target's; none: all */
	unsigned luns_count;
	/* derived */
	struct config_map *map; /* luns_count entries */
};

/** A target of the kernel (LIO), brought up by ebb-lio(8). */
struct config_lio_target {
	char *iqn;
	char **portals; /* none: those of `lio.portals` */
	unsigned portals_count;
	char **luns;
	unsigned luns_count;
	struct config_lio_chap *chap;
	struct config_lio_acl *acls; /* none: every initiator may log in */
	unsigned acls_count;
	/* derived */
	struct config_map *map; /* luns_count entries */
};

struct config_lio {
	char **portals;
	unsigned portals_count;
	struct config_lio_target *targets;
	unsigned targets_count;
};

enum config_tls { CONFIG_TLS_OFF, CONFIG_TLS_ON, CONFIG_TLS_REQUIRE };

struct config_tls_options {
	enum config_tls mode;
	char *certificates, *psk;
	bool verify_peer;
};

struct config_nbd {
	char **listen;
	unsigned listen_count;
	char *nbdkit, *default_export;
	unsigned threads;
	struct config_tls_options tls;
};

enum config_codec { CONFIG_CODEC_LZ4, CONFIG_CODEC_ZSTD, CONFIG_CODEC_NONE };

struct config_tmem {
	enum config_codec codec; /* NONE: no second-chance cache */
	char *share_text;
	/* derived: percent of what caches may have; CONFIG_TMEM_SHARE when none was declared */
	unsigned share;
};

struct config_memory {
	char *max_text, *floor_text;
	struct config_tmem tmem;
	/* derived, bytes; 0: not declared */
	uint64_t max, floor;
};

struct config {
	unsigned threads; /* 0: one a core */
	struct config_memory memory;
	char *state_dir, *runtime_dir, *socket, *user;
	enum log_level log_level;
	struct config_lun *luns;
	unsigned luns_count;
	struct config_iscsi iscsi;
	struct config_nbd nbd;
	struct config_lio lio;
	char **metrics;
	unsigned metrics_count;
	bool tcmu; /* LUNs are offered to LIO as user backstores "ebb/NAME" */
	/* derived: one automatic target for each LUN that no declared one shows */
	struct config_target *auto_targets;
	unsigned auto_targets_count;
};

/** Reads, parses and checks @path. The reason reads "PATH:LINE: key: reason". */
int config_load_file(const char *path, struct config **ret_config, struct reason *why);
/** The same for @len bytes of text that are called @name in reasons. */
int config_load_text(const char *name, const char *text, size_t len, struct config **ret_config,
		     struct reason *why);
/** An empty declaration (defaults), for config_add_lun() and config_check(). NULL: no memory. */
struct config *config_new(void);
/** Adds an empty LUN, to be filled by the caller. NULL: no memory. */
struct config_lun *config_add_lun(struct config *cfg);
/** Removes the LUN called @name, and its automatic target. -ENOENT. */
int config_remove_lun(struct config *cfg, const char *name);
struct config_lun *config_find_lun(struct config *cfg, const char *name);
/**
 * Checks what the schema cannot, and fills what is derived; may be called again after a change.
 * @where tells the line of a path of keys ("luns[2].size") for reasons; may be NULL.
 */
struct config_lines;
int config_check(struct config *cfg, const char *name, const struct config_lines *where,
		 struct reason *why);
void config_free(struct config *cfg); /* NULL is fine */

/** Deep copies, each to be freed by the function beside it. false: no memory, nothing kept. */
bool config_copy_lun(struct config_lun *to, const struct config_lun *from);
void config_clear_lun(struct config_lun *l);
bool config_copy_target(struct config_target *to, const struct config_target *from);
void config_clear_target(struct config_target *t);

/* --- the pieces, also for the control socket --- */

int config_check_lun_name(const char *name, struct reason *why);
/** "1.2.3.4:5", "[::1]:5", or when @unix_too "unix:PATH". */
int config_check_address(const char *addr, bool unix_too, struct reason *why);
/** Where target @t listens: its own portals or the common ones. */
char *const *config_lio_portals(const struct config_lio *lio, const struct config_lio_target *t,
				unsigned *ret_n);
/** The default iSCSI name of LUN @name: lower case, with "_" as "-" (RFC 7143 4.2.7.2). */
void config_iqn(const char *name, char *buf, size_t size);
const char *config_cache_name(enum config_cache cache);
/** "auto", "read" or "none". */
int config_read_cache(const char *word, enum config_cache *ret_cache, struct reason *why);
/** Checks one LUN's own fields and fills its derived ones. *@ret_key: the key to blame. */
int config_check_lun(struct config_lun *l, const char **ret_key, struct reason *why);
