/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel shows of TCMU devices in files: sysfs tells which UIO devices there are, configfs
 * has the attributes and actions of their backstores, /dev/uioN is the device. All block.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"
#include "front/tcmu/tcmu_check.h"

#define TCMU_UIO_NAME_MAX 1024

/** Calls @fn for each UIO device that is a backstore of ours. -errno of reading sysfs. */
int tcmu_kernel_scan(void (*fn)(void *ctx, unsigned minor, const struct tcmu_name *name),
		     void *ctx);

/** An open device. */
struct tcmu_channel {
	int fd; /* becomes readable when there are entries; a write of 4 bytes kicks the kernel */
	void *map; /* mailbox, ring and data area */
	size_t size;
	int guard; /* tcmu_guard.h */
};

/**
 * Opens and maps UIO device @minor, which must be @name's. One that is still open by a process that
 * just ended is waited for, two seconds. -EBUSY: another process has it.
 */
int tcmu_kernel_open(unsigned minor, const struct tcmu_name *name, struct tcmu_channel *ret_ch,
		     struct reason *why);
void tcmu_kernel_close(struct tcmu_channel *ch);
/** Has the kernel take what has ended. */
void tcmu_kernel_kick(const struct tcmu_channel *ch);
/**
 * Blocked, the kernel puts nothing into the ring of @name: new commands end with BUSY, so that
 * initiators send them again. What had ended has been taken.
 */
int tcmu_kernel_block(const struct tcmu_name *name, bool block, struct reason *why);
/** Ends all commands in the ring of @name with BUSY, and empties it. The device is open, by us. */
int tcmu_kernel_reset(const struct tcmu_name *name, struct reason *why);
/** The size that @name was made with, bytes; 0: not told. */
uint64_t tcmu_kernel_size(const struct tcmu_name *name);
/**
 * Lets those go who wait in the kernel for answers that nobody will send: what they asked for fails
 * (EINTR). Those too who would have got one, since the kernel has but one switch for it.
 */
void tcmu_kernel_forget_questions(void);
