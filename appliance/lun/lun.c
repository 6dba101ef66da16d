/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A LUN's life: open or create, references, resize, watchers.
 *
 * Watchers are called with no lock held, one after the other, by whoever made the change; one such
 * walk at a time. The walker marks its place with a node of its own in the list, and says whose
 * turn it is, so that lun_unwatch() can wait until that one has returned (unless it is called from
 * inside it).
 */
#include "lun/lun_private.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool name_is_valid(const char *name)
{
	size_t len = name ? strlen(name) : 0;

	if (!len || len > LUN_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

static int check_options(const struct lun_options *opt, struct reason *why)
{
	if (!name_is_valid(opt->name))
		return reason_set(why, EINVAL,
				  "'%s' is no LUN name (1 to %d of A-Za-z0-9._-, a letter or digit "
				  "first)",
				  opt->name ? opt->name : "", LUN_NAME_MAX);
	if (opt->block_size && opt->block_size != 512 && opt->block_size != 4096)
		return reason_set(why, EINVAL, "%s: block size %u is neither 512 nor 4096",
				  opt->name, opt->block_size);
	return 0;
}

static int check_size(const char *name, uint64_t size, uint32_t block_size, struct reason *why)
{
	if (!size || size % block_size)
		return reason_set(why, EINVAL,
				  "%s: the size, %llu bytes, is no multiple of the block size, %u",
				  name, (unsigned long long)size, block_size);
	return 0;
}

static bool is_buffered(const struct block_info *info)
{
	return info->mode && !strcmp(info->mode, "buffered");
}

static void free_names(struct lun *lun)
{
	free(lun->name);
	free(lun->path);
	free(lun->description);
}

static void destroy(struct lun *lun)
{
	lun_cache_detach(lun);
	lun_free_exports(lun);
	block_close(lun->store);
	range_lock_destroy(&lun->ranges);
	mutex_destroy(&lun->slow);
	pthread_cond_destroy(&lun->notify_cond);
	free_names(lun);
	free(lun);
}

static void closing_run(struct worker_job *j)
{
	destroy(container_of(j, struct lun, closing));
}

int lun_create(const struct lun_options *opt, struct block_store *store, struct lun **ret_lun,
	       struct reason *why)
{
	uint32_t block_size = opt->block_size ? opt->block_size : 512;
	struct block_info info;
	struct lun_identity id;
	struct lun *lun;
	int err = check_options(opt, why);

	if (err)
		return err;
	block_get_info(store, &info);
	err = check_size(opt->name, info.size, block_size, why);
	if (!err)
		err = lun_identity_load(opt, &id, why);
	if (err)
		return err;
	lun = calloc(1, sizeof(*lun));
	if (!lun)
		return reason_set(why, ENOMEM, "%s: no memory", opt->name);
	lun->name = strdup(opt->name);
	lun->path = strdup(opt->path ? opt->path : "");
	lun->description = opt->description ? strdup(opt->description) : NULL;
	if (!lun->name || !lun->path || (opt->description && !lun->description))
		err = reason_set(why, ENOMEM, "%s: no memory", opt->name);
	else if (!opt->cache)
		lun->uncached = "declared so";
	else if (opt->cache_direct_only && is_buffered(&info))
		lun->uncached = "buffered: the page cache serves it";
	else
		err = lun_set_cache(lun, opt->cache, opt->cache_weight, opt->cache_floor, why);
	if (err) {
		free_names(lun);
		free(lun);
		return err;
	}
	lun->store = store;
	lun->identity = id;
	lun->block_size = block_size;
	lun->state_dirfd = opt->state_dirfd;
	lun->read_only = opt->read_only || store->read_only;
	lun->removable = opt->removable;
	lun->refs = 1;
	lun->tears = info.tears || block_size > (info.write_unit ? info.write_unit : 1);
	range_lock_init(&lun->ranges, info.write_unit ? info.write_unit : 1);
	mutex_init(&lun->slow, LOCK_RANK_LUN_SLOW);
	pthread_cond_init(&lun->notify_cond, NULL);
	list_init(&lun->watchers);
	list_init(&lun->exports);
	*ret_lun = lun;
	return 0;
}

int lun_open(const struct lun_options *opt, struct lun **ret_lun, struct reason *why)
{
	struct block_open_options bopt = {
		.path = opt->path,
		.mode = opt->mode,
		.read_only = opt->read_only,
		.create = opt->create,
		.size = opt->size,
	};
	struct block_store *store;
	int err = check_options(opt, why);

	if (!err && opt->create)
		err = check_size(opt->name, opt->size, opt->block_size ? opt->block_size : 512,
				 why);
	if (!err)
		err = block_open_file(&bopt, &store, why);
	if (err)
		return err;
	err = lun_create(opt, store, ret_lun, why);
	if (err) {
		if (store->created)
			unlink(opt->path);
		block_close(store);
	}
	return err;
}

struct lun *lun_ref(struct lun *lun)
{
	atomic_fetch_add_explicit(&lun->refs, 1, memory_order_relaxed);
	return lun;
}

void lun_unref(struct lun *lun)
{
	if (!lun || atomic_fetch_sub_explicit(&lun->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (!reactor_self()) {
		destroy(lun);
		return;
	}
	/* The cache is walked for its pages, and the close may have to wait for a file system. */
	lun->closing = (struct worker_job){.run = closing_run};
	worker_submit(&lun->closing);
}

const char *lun_name(const struct lun *lun)
{
	return lun->name;
}

const char *lun_path(const struct lun *lun)
{
	return lun->path;
}

const char *lun_description(const struct lun *lun)
{
	return lun->description;
}

const struct lun_identity *lun_identity(const struct lun *lun)
{
	return &lun->identity;
}

uint64_t lun_size(const struct lun *lun)
{
	return atomic_load_explicit(&lun->store->size, memory_order_acquire);
}

uint32_t lun_block_size(const struct lun *lun)
{
	return lun->block_size;
}

bool lun_read_only(const struct lun *lun)
{
	return lun->read_only;
}

bool lun_removable(const struct lun *lun)
{
	return lun->removable;
}

void lun_get_block_info(const struct lun *lun, struct block_info *ret_info)
{
	block_get_info(lun->store, ret_info);
}

struct lun_counters *lun_counters(struct lun *lun)
{
	return &lun->counters;
}

const struct lun_detail *lun_detail(const struct lun *lun)
{
	return &lun->detail;
}

int lun_state_dirfd(const struct lun *lun)
{
	return lun->state_dirfd;
}

void lun_set_fence(struct lun *lun, enum lun_fence fence)
{
	atomic_store_explicit(&lun->fence, (int)fence, memory_order_release);
}

enum lun_fence lun_get_fence(const struct lun *lun)
{
	return (enum lun_fence)atomic_load_explicit(&lun->fence, memory_order_acquire);
}

int lun_resize(struct lun *lun, uint64_t size, struct reason *why)
{
	uint64_t old = lun_size(lun);
	int err;

	if (lun->read_only)
		return reason_set(why, EROFS, "%s: the LUN is read-only", lun->name);
	err = check_size(lun->name, size, lun->block_size, why);
	if (!err)
		err = block_grow(lun->store, size, why);
	if (err)
		return reason_prefix(why, err, "%s", lun->name);
	if (size != old)
		lun_notify(lun, LUN_EVENT_RESIZED);
	return 0;
}

void lun_watch(struct lun *lun, struct lun_watcher *w)
{
	mutex_scope(&lun->slow);
	list_add_tail(&lun->watchers, &w->link);
}

void lun_unwatch(struct lun *lun, struct lun_watcher *w)
{
	mutex_scope(&lun->slow);
	list_del(&w->link);
	while (lun->notified == w && !pthread_equal(lun->notifier, pthread_self()))
		mutex_wait(&lun->slow, &lun->notify_cond);
}

void lun_notify(struct lun *lun, enum lun_event ev)
{
	struct list_node place;

	if (ev == LUN_EVENT_GOING_AWAY && lun->cache)
		readahead_stop(&lun->cache->readahead);
	mutex_lock(&lun->slow);
	while (lun->notifying)
		mutex_wait(&lun->slow, &lun->notify_cond);
	lun->notifying = true;
	lun->notifier = pthread_self();
	list_add_head(&lun->watchers, &place);
	while (place.next != &lun->watchers) {
		struct lun_watcher *w = container_of(place.next, struct lun_watcher, link);

		list_del(&place);
		list_add_head(&w->link, &place);
		lun->notified = w;
		mutex_unlock(&lun->slow);
		w->fn(w, lun, ev);
		mutex_lock(&lun->slow);
		lun->notified = NULL;
		pthread_cond_broadcast(&lun->notify_cond);
	}
	list_del(&place);
	lun->notifying = false;
	pthread_cond_broadcast(&lun->notify_cond);
	mutex_unlock(&lun->slow);
}
