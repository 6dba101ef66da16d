/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Survival of a data area that loses pages under us.
 *
 * The kernel keeps the blocks of a command in flight, so their pages are there. But root may reset
 * the ring of a device that is in use (action/reset_ring), and then touching a block that was given
 * back raises SIGBUS: in whichever thread, in the middle of a copy. The handler puts a page of
 * zeros in its place and notes that the map has been hurt; the copy goes on, and the device - whose
 * commands the kernel has ended by itself - is closed and opened anew by its owner. A SIGBUS
 * anywhere else kills the process as ever.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define TCMU_GUARDS 4096

/** Watches [@map, @map + @size). Any thread. Returns a number for the others, or -ENOSPC. */
int tcmu_guard_add(void *map, size_t size);
/** Before the map goes. */
void tcmu_guard_remove(int guard);
/** Whether a page had to be replaced. */
bool tcmu_guard_hit(int guard);
