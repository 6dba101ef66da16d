/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/completion.h"

void completion_init(struct completion *c)
{
	mutex_init(&c->lock, LOCK_RANK_LEAF);
	pthread_cond_init(&c->cond, NULL);
	c->done = false;
}

void completion_done(void *completion)
{
	struct completion *c = completion;

	mutex_scope(&c->lock);
	c->done = true;
	pthread_cond_signal(&c->cond);
}

void completion_wait(struct completion *c)
{
	mutex_lock(&c->lock);
	while (!c->done)
		mutex_wait(&c->lock, &c->cond);
	mutex_unlock(&c->lock);
	pthread_cond_destroy(&c->cond);
	mutex_destroy(&c->lock);
}
