/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One thread waits until another says that something is done. */
#pragma once

#include "base/lock.h"

struct completion {
	struct mutex lock;
	pthread_cond_t cond;
	bool done; /* under lock */
};

void completion_init(struct completion *c);
/** Any thread, once; a callback with the struct completion as its context. */
void completion_done(void *completion);
/** Waits for that. @c is over then, and may be freed or initialized again. */
void completion_wait(struct completion *c);
