/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What tcmu-runner and a handler that it has loaded know of each other: its binary interface as of
 * versions 1.5.3 to 1.6.2, declared here because no distribution installs its headers. Only what
 * this handler uses is named; sizes and offsets are those of the 64-bit build, and checked below.
 *
 * How a command travels (handlers with nr_threads 0): the device's command thread parses the CDB,
 * checks the range and calls a callback. TCMU_OK from the callback means "accepted": the handler
 * calls tcmur_cmd_complete() later, once, from any thread; any other status refuses the command,
 * and nothing may be called for it. Compound commands (XCOPY, FORMAT UNIT, WRITE AND VERIFY) call
 * the next callback out of tcmur_cmd_complete(), on the thread that called that. Threads of the
 * runner are ended by pthread_cancel(3).
 */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct tcmu_device; /* one backstore */

/** How a command ended. The runner turns it into a SCSI status and sense data. */
enum tcmu_status {
	TCMU_NOT_HANDLED = -1, /* of handle_cmd: the runner carries the command out by callbacks */
	TCMU_OK = 0,
	TCMU_NO_RESOURCE = 1, /* TASK SET FULL */
	TCMU_SENSE_SET = 2,   /* sense_buf holds the sense data */
	TCMU_WRITE_ERROR = 4, /* MEDIUM ERROR, write error */
	TCMU_READ_ERROR = 5,
	TCMU_MISCOMPARE = 6,
	TCMU_OUT_OF_RANGE = 14,
};

/** A command as the ring gave it: one for each SCSI command. */
struct tcmulib_cmd {
	uint16_t cmd_id;
	uint8_t *cdb;
	struct iovec *iovec;
	size_t iov_cnt;
	uint8_t sense_buf[96]; /* fixed format */
	void *hm_private;
};
static_assert(sizeof(void *) == 8, "the interface is known for 64-bit builds");
static_assert(offsetof(struct tcmulib_cmd, cdb) == 8, "interface");
static_assert(offsetof(struct tcmulib_cmd, sense_buf) == 32, "interface");
static_assert(sizeof(struct tcmulib_cmd) == 136, "interface");

/** A step of a command. What follows the first field is the runner's. */
struct tcmur_cmd {
	struct tcmulib_cmd *lib_cmd;
};

enum tcmulib_cfg_type {
	TCMULIB_CFG_DEV_CFGSTR = 0,
	TCMULIB_CFG_DEV_SIZE = 1,
	TCMULIB_CFG_WRITE_CACHE = 2,
};

/** What is to change of a backstore. */
struct tcmulib_cfg_info {
	enum tcmulib_cfg_type type;
	union {
		uint64_t dev_size; /* bytes */
		char *dev_cfgstring;
		bool write_cache;
	} data;
};
static_assert(sizeof(struct tcmulib_cfg_info) == 16, "interface");

/** What a handler registers. Callbacks without a name here stay NULL. */
struct tcmur_handler {
	const char *name;
	const char *subtype;  /* what cfgstrings start with, before the first '/' */
	const char *cfg_desc; /* what stands behind it, for people */
	void *opaque;

	/* False: *ret_reason is a malloc'ed string. Asked through D-Bus by targetcli, and again
	 * before each open. */
	bool (*check_config)(const char *cfgstring, char **ret_reason);
	int (*reconfig)(struct tcmu_device *dev, struct tcmulib_cfg_info *cfg); /* 0 or -errno */
	int (*open)(struct tcmu_device *dev, bool reopen);			/* 0 or -errno */
	void (*close)(struct tcmu_device *dev); /* no command is in flight */

	int nr_threads; /* 0: callbacks do not block */

	/* Offered every command first. */
	int (*handle_cmd)(struct tcmu_device *dev, struct tcmur_cmd *cmd);
	int (*read)(struct tcmu_device *dev, struct tcmur_cmd *cmd, struct iovec *iov, size_t niov,
		    size_t len, off_t off);
	int (*write)(struct tcmu_device *dev, struct tcmur_cmd *cmd, struct iovec *iov, size_t niov,
		     size_t len, off_t off);
	int (*flush)(struct tcmu_device *dev, struct tcmur_cmd *cmd);
	int (*unmap)(struct tcmu_device *dev, struct tcmur_cmd *cmd, uint64_t off, uint64_t len);
	/* @iov: one logical block. */
	int (*writesame)(struct tcmu_device *dev, struct tcmur_cmd *cmd, uint64_t off, uint64_t len,
			 struct iovec *iov, size_t niov);
	/* @iov: 2 * @len bytes: what is compared, then what is written. */
	int (*caw)(struct tcmu_device *dev, struct tcmur_cmd *cmd, uint64_t off, uint64_t len,
		   struct iovec *iov, size_t niov);

	/* Events, and ALUA: locks of the store that go with a port group. */
	void (*unused[5])(void);
	bool internal; /* the runner's */
	void (*unused_too[3])(void);
};
static_assert(offsetof(struct tcmur_handler, check_config) == 32, "interface");
static_assert(offsetof(struct tcmur_handler, nr_threads) == 64, "interface");
static_assert(offsetof(struct tcmur_handler, read) == 80, "interface");
static_assert(offsetof(struct tcmur_handler, caw) == 120, "interface");
static_assert(offsetof(struct tcmur_handler, internal) == 168, "interface");
static_assert(sizeof(struct tcmur_handler) == 200, "interface");

/* --- the runner's own functions --- */

/** 0, or not: there is a handler of this subtype already. @handler stays the handler's memory. */
int tcmur_register_handler(struct tcmur_handler *handler);
void tcmur_cmd_complete(struct tcmu_device *dev, void *cmd, int status);
void tcmur_dev_set_private(struct tcmu_device *dev, void *p);
void *tcmur_dev_get_private(struct tcmu_device *dev);
/**
 * Makes the backstore @size bytes; the next command gets CAPACITY DATA HAS CHANGED. Writes to
 * configfs, so a command of the device must be in flight: else it may be on its way out, and the
 * kernel waits for the runner with the folder locked.
 */
int tcmur_dev_update_size(struct tcmu_device *dev, uint64_t size);
/**
 * Since 1.5.3, as are `writesame` and `caw`. Never called: whether it is there tells the layout of
 * struct tcmur_handler.
 */
void tcmu_notify_cmd_timed_out(struct tcmu_device *dev) __attribute__((weak));

/* --- of its library, libtcmu.so.2 --- */

#define RUNNER_LIBRARY "libtcmu.so.2"

char *tcmu_dev_get_cfgstring(struct tcmu_device *dev);
uint64_t tcmu_dev_get_num_lbas(struct tcmu_device *dev);
uint32_t tcmu_dev_get_block_size(struct tcmu_device *dev); /* bytes */
void tcmu_dev_set_write_cache_enabled(struct tcmu_device *dev, bool enabled);
void tcmu_dev_set_solid_state_media(struct tcmu_device *dev, bool solid_state);
void tcmu_dev_set_unmap_enabled(struct tcmu_device *dev, bool enabled);
/* Lengths in blocks. @split: the runner is to split UNMAPs at the granularity. */
void tcmu_dev_set_opt_unmap_gran(struct tcmu_device *dev, uint32_t len, bool split);
void tcmu_dev_set_unmap_gran_align(struct tcmu_device *dev, uint32_t len); /* 0 ends the runner */
void tcmu_dev_set_opt_xcopy_rw_len(struct tcmu_device *dev, uint32_t len);
/** Returns TCMU_SENSE_SET. */
int tcmu_sense_set_data(uint8_t *sense_buf, uint8_t key, uint16_t asc_ascq);
void tcmu_sense_set_info(uint8_t *sense_buf, uint32_t info);
void tcmu_err_message(struct tcmu_device *dev, const char *function, int line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void tcmu_info_message(struct tcmu_device *dev, const char *function, int line, const char *fmt,
		       ...) __attribute__((format(printf, 4, 5)));
