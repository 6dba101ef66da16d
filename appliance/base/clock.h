/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

#include <stdint.h>
#include <time.h>

#define NSEC_PER_USEC 1000ull
#define NSEC_PER_MSEC 1000000ull
#define NSEC_PER_SEC  1000000000ull

/** A clock that the system has, in nanoseconds. */
static inline uint64_t clock_get_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/** CLOCK_MONOTONIC in nanoseconds. */
static inline uint64_t clock_now_ns(void)
{
	return clock_get_ns(CLOCK_MONOTONIC);
}

/** Blocks for @ns, or until a signal has been handled. */
static inline void clock_pause(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / NSEC_PER_SEC), (long)(ns % NSEC_PER_SEC)};

	nanosleep(&ts, NULL);
}

/** The instant @ns from now, as pthread_cond_timedwait() wants it. */
static inline struct timespec clock_deadline(uint64_t ns)
{
	uint64_t at = clock_get_ns(CLOCK_REALTIME) + ns;

	return (struct timespec){(time_t)(at / NSEC_PER_SEC), (long)(at % NSEC_PER_SEC)};
}
