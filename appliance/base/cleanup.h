/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Cleanup attributes: a local is released when it leaves its scope. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_fclose(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define _cleanup_free_	 _cleanup_(cleanup_free)
#define _cleanup_close_	 _cleanup_(cleanup_close)
#define _cleanup_fclose_ _cleanup_(cleanup_fclose)

/** Hands the value of @p over to the caller and leaves @null behind, so that a cleanup finds
 * nothing. */
#define take_value(p, null)                \
	({                                 \
		__typeof__(p) took_ = (p); \
		(p) = (null);              \
		took_;                     \
	})
#define take_ptr(p) take_value(p, NULL)
#define take_fd(fd) take_value(fd, -1)
