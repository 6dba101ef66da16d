/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The buffers that a reactor's connections receive into while they hold none of their own: the
 * kernel takes one when bytes have come, not before, so that an idle connection costs none.
 */
#pragma once

#include <stdint.h>

#include "event/reactor.h"

#define RX_RING_GROUP	    0
#define RX_RING_BUFFERS	    64u
#define RX_RING_BUFFER_SIZE (32u << 10)

struct rx_ring;

/** The memory of buffer @bid, RX_RING_BUFFER_SIZE bytes. */
uint8_t *rx_ring_buffer(struct rx_ring *x, unsigned bid);
/** A completion has handed @bid out. */
void rx_ring_take(struct rx_ring *x, unsigned bid);
/** Gives @bid back to the kernel. */
void rx_ring_recycle(struct rx_ring *x, unsigned bid);
