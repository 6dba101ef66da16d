/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kernel's header, whose own struct iovec is left to libc; what we take for granted of it. */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <sys/uio.h>

#define __LINUX_UIO_H
#include <linux/target_core_user.h>

static_assert(sizeof(struct tcmu_cmd_entry_hdr) == 8, "the kernel's layout");
static_assert(sizeof(struct tcmu_cmd_entry) == 112, "the kernel's layout");
static_assert(offsetof(struct tcmu_cmd_entry, req.iov) == 48, "the kernel's layout");
static_assert(offsetof(struct tcmu_tmr_entry, cmd_ids) == 32, "the kernel's layout");
static_assert(sizeof(struct iovec) == 16, "iovecs of 64 bits");
