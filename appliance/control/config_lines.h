/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where in a YAML text a key stands: a map from paths ("luns[2].size") to lines, made by one pass
 * over the events of libyaml. It exists for error messages, and refuses early what the loader would
 * spend much memory on: deep nesting, too many values, aliases, a second document.
 */
#pragma once

#include <stddef.h>

#include "base/reason.h"

struct config_lines;

/** The reason reads "NAME:LINE: reason". -EINVAL, -ENOMEM. */
int config_lines_scan(const char *name, const char *text, size_t len,
		      struct config_lines **ret_lines, struct reason *why);
/** Line (1..) of @path, or of the closest enclosing value that is there; 1 at last. NULL map: 0. */
unsigned config_lines_find(const struct config_lines *lines, const char *path);
/** The line where @path stands for the last time (a key may be there twice); 1 when it is not. */
unsigned config_lines_find_last(const struct config_lines *lines, const char *path);
void config_lines_free(struct config_lines *lines);
