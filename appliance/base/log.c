// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"

#define BURST	  20
#define WINDOW_NS (4 * NSEC_PER_SEC)

static struct mutex log_lock = MUTEX_INIT(LOCK_RANK_LOG);
static _Atomic int log_max = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
	atomic_store(&log_max, level);
}

/* Returns whether a line may pass, and how many were dropped since the last that did. */
static int site_admit_locked(struct log_site *site, uint32_t *ret_dropped)
{
	uint64_t now = clock_now_ns();

	if (now - site->window_ns > WINDOW_NS) {
		site->window_ns = now;
		site->in_window = 0;
	}
	if (site->in_window >= BURST) {
		site->dropped++;
		return 0;
	}
	site->in_window++;
	*ret_dropped = site->dropped;
	site->dropped = 0;
	return 1;
}

void log_emit(struct log_site *site, enum log_level level, const char *event, const char *fmt, ...)
{
	static const char *const word[] = {
		[3] = "error", [4] = "warn", [6] = "info", [7] = "debug"};
	char line[1024];
	uint32_t dropped;
	va_list ap;
	int n, admitted;

	if ((int)level > atomic_load_explicit(&log_max, memory_order_relaxed))
		return;
	mutex_lock(&log_lock);
	admitted = site_admit_locked(site, &dropped);
	mutex_unlock(&log_lock);
	if (!admitted)
		return;

	if (getenv("JOURNAL_STREAM"))
		n = snprintf(line, sizeof(line), "<%d>%s ", (int)level, event);
	else
		n = snprintf(line, sizeof(line), "ebb: %s: %s ", word[level], event);
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 32)
		n = (int)sizeof(line) - 32;
	if (dropped)
		n += snprintf(line + n, sizeof(line) - (size_t)n, " dropped=%u", dropped);
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return; /* nowhere left to say so */
}
