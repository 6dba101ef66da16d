/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Structured log lines to stderr, with the <N> priority prefix when stderr goes to the journal.
 * A line is an event name and key=value pairs: log_warn("iscsi.login.refused", "peer=%s", p).
 * Each call site is rate limited (a burst of 20, then 5 a second; what was dropped is counted and
 * said on the next line that passes). Only the fronts, control and the daemon log; lower layers
 * return errors.
 */
#pragma once

#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARN = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

struct log_site {
	uint64_t window_ns;
	uint32_t in_window, dropped;
};

void log_set_level(enum log_level level);
void log_emit(struct log_site *site, enum log_level level, const char *event, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#define log_at(level, event, ...)                            \
	do {                                                 \
		static struct log_site site_;                \
		log_emit(&site_, level, event, __VA_ARGS__); \
	} while (0)
#define log_error(event, ...) log_at(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_warn(event, ...)  log_at(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define log_info(event, ...)  log_at(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_debug(event, ...) log_at(LOG_LEVEL_DEBUG, event, __VA_ARGS__)
