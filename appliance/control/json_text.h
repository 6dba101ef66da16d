/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

#include <jansson.h>

/** A JSON string of @text; bytes that are no UTF-8 (paths may hold any) become '?'. NULL: null. */
json_t *json_text(const char *text);
