/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/**
 * CPU seconds (user and system) that process @pid has used, with those of its living descendants if
 * @children. Returns a negative number if there is no such process.
 */
double cpu_seconds_of(pid_t pid, bool children);
