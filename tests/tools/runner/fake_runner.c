/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fake_runner.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tcmur_handler *registered;

int tcmur_register_handler(struct tcmur_handler *handler)
{
	if (registered)
		return -1;
	registered = handler;
	return 0;
}

void tcmur_cmd_complete(struct tcmu_device *dev, void *cmd, int status)
{
	struct fake_cmd *c = cmd;

	if (dev != c->dev || atomic_fetch_add(&c->completions, 1)) {
		fprintf(stderr, "a command was completed twice, or on another device\n");
		abort();
	}
	c->status = status;
	if (c->done) {
		c->done(c);
		return;
	}
	pthread_mutex_lock(&c->lock);
	c->has_ended = true;
	pthread_cond_signal(&c->ended);
	pthread_mutex_unlock(&c->lock);
}

void tcmur_dev_set_private(struct tcmu_device *dev, void *p)
{
	dev->private = p;
}

void *tcmur_dev_get_private(struct tcmu_device *dev)
{
	return dev->private;
}

int tcmur_dev_update_size(struct tcmu_device *dev, uint64_t size)
{
	dev->num_lbas = size / dev->block_size;
	atomic_fetch_add(&dev->resizes, 1);
	return 0;
}

void tcmu_notify_cmd_timed_out(struct tcmu_device *dev)
{
}

struct tcmur_handler *fake_load(const char *path)
{
	void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	int (*init)(void);

	registered = NULL;
	if (!so) {
		tcmu_err_message(NULL, __func__, __LINE__, "%s\n", dlerror());
		return NULL;
	}
	init = (int (*)(void))dlsym(so, "handler_init");
	if (!init || init()) {
		tcmu_err_message(NULL, __func__, __LINE__, "%s: no handler\n", path);
		return NULL;
	}
	return registered;
}

void fake_device_init(struct tcmu_device *dev, const char *cfgstring, uint64_t size, uint32_t bs)
{
	*dev = (struct tcmu_device){
		.cfgstring = strdup(cfgstring), .block_size = bs, .num_lbas = size / bs};
}

void fake_device_destroy(struct tcmu_device *dev)
{
	free(dev->cfgstring);
}

void fake_cmd_init(struct fake_cmd *c, struct tcmu_device *dev, uint8_t opcode)
{
	memset(c, 0, sizeof(*c));
	c->dev = dev;
	c->cdb[0] = opcode;
	c->lib.cdb = c->cdb;
	c->lib.hm_private = c;
	c->cmd.lib_cmd = &c->lib;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->ended, NULL);
}

int fake_wait(struct fake_cmd *c, int accepted)
{
	if (accepted != TCMU_OK)
		return accepted;
	pthread_mutex_lock(&c->lock);
	while (!c->has_ended)
		pthread_cond_wait(&c->ended, &c->lock);
	pthread_mutex_unlock(&c->lock);
	return c->status;
}
