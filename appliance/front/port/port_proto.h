/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages of the handshake: made, and checked when they come from the other side. A message is
 * checked once, in memory that the peer cannot reach; what passed has NUL-terminated strings.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "front/port/port_spec.h"

/** Fills the header of a message of @len bytes. */
void port_msg_init(void *msg, enum port_msg_type type, size_t len);
/**
 * Checks a packet of @len bytes in @buf (aligned to 8): header, length for its type, strings,
 * counts. Returns its enum port_msg_type, or -EPROTO.
 */
int port_msg_check(const void *buf, size_t len);
