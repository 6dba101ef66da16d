/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opening, identity, resize, watchers, tables. */
#include "fake_store.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct reason why;

static int open_with(struct lun_options opt, struct lun **ret_lun)
{
	if (!opt.path)
		opt.path = harness_path("life");
	return lun_open(&opt, ret_lun, &why);
}

static void bad_options_are_refused(void **state)
{
	static const char *const names[] = {"", "-a", ".a", "a/b", "a b", "\xc3\xa4", NULL};
	struct lun_options opt = {.create = true, .size = 1u << 20, .state_dirfd = -1};
	char longest[LUN_NAME_MAX + 2];
	struct lun *lun = NULL;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		opt.name = names[i];
		assert_int_equal(open_with(opt, &lun), -EINVAL);
	}
	memset(longest, 'a', sizeof(longest));
	longest[LUN_NAME_MAX + 1] = '\0';
	opt.name = longest;
	assert_int_equal(open_with(opt, &lun), -EINVAL);
	opt.name = "ok";
	opt.size = 1000;
	assert_int_equal(open_with(opt, &lun), -EINVAL);
	opt.size = 512 * 3;
	opt.block_size = 4096;
	assert_int_equal(open_with(opt, &lun), -EINVAL);
	opt.block_size = 1024;
	assert_int_equal(open_with(opt, &lun), -EINVAL);
	/* What was refused made no file. */
	assert_int_equal(access(harness_path("life"), F_OK), -1);
	opt.block_size = 0;
	longest[LUN_NAME_MAX] = '\0';
	opt.name = longest;
	assert_int_equal(open_with(opt, &lun), 0);
	assert_null(strchr(lun_name(lun), '-'));
	assert_int_equal(lun_block_size(lun), 512);
	assert_int_equal(lun_size(lun), 1536);
	lun_unref(lun);
	unlink(harness_path("life"));
}

static int state_dir(void)
{
	char path[256];

	snprintf(path, sizeof(path), "%s", harness_path("state"));
	mkdir(path, 0700);
	return open(path, O_RDONLY | O_DIRECTORY);
}

static void identity_is_kept_in_state(void **state)
{
	int fd = state_dir();
	struct lun_options opt = {
		.name = "id", .create = true, .size = 1u << 20, .state_dirfd = fd};
	struct lun_identity id;
	char moved[256];
	struct lun *lun;

	assert_int_equal(open_with(opt, &lun), 0);
	id = *lun_identity(lun);
	lun_unref(lun);
	assert_int_equal(id.uuid[6] >> 4, 4);
	assert_int_equal(id.uuid[8] >> 6, 2);
	assert_int_equal(id.naa[0] >> 4, 3);
	assert_int_equal(id.naa_len, 8);
	assert_int_equal(id.eui64[0] & 3, 2);
	assert_int_equal(strlen(id.serial), 36);
	/* Also with another backing file. */
	snprintf(moved, sizeof(moved), "%s", harness_path("moved"));
	assert_int_equal(rename(harness_path("life"), moved), 0);
	opt.path = moved;
	opt.create = false;
	opt.size = 0;
	assert_int_equal(open_with(opt, &lun), 0);
	assert_memory_equal(lun_identity(lun)->uuid, id.uuid, 16);
	assert_string_equal(lun_identity(lun)->serial, id.serial);
	assert_int_equal(lun_identity(lun)->generation, id.generation);
	lun_unref(lun);
	/* A UUID that is given wins, and is kept. */
	opt.uuid = "01234567-89AB-4def-8123-456789abcdef";
	assert_int_equal(open_with(opt, &lun), 0);
	assert_string_equal(lun_identity(lun)->serial, "01234567-89ab-4def-8123-456789abcdef");
	assert_int_equal(lun_identity(lun)->generation, id.generation + 1);
	lun_unref(lun);
	opt.uuid = NULL;
	assert_int_equal(open_with(opt, &lun), 0);
	assert_string_equal(lun_identity(lun)->serial, "01234567-89ab-4def-8123-456789abcdef");
	lun_unref(lun);
	opt.uuid = "01234567-89ab-4def-8123-456789abcde";
	assert_int_equal(open_with(opt, &lun), -EINVAL);
	unlink(opt.path);
	close(fd);
}

static void a_broken_record_is_refused_by_name(void **state)
{
	static const char *const bad[] = {"", "{", "{\"uuid\": 5, \"generation\": 1}",
					  "{\"uuid\": \"x\", \"generation\": 1}",
					  "{\"uuid\": \"01234567-89ab-4def-8123-456789abcdef\"}"};
	int fd = state_dir(), rec;
	struct lun_options opt = {
		.name = "broken", .create = true, .size = 1u << 20, .state_dirfd = fd};
	struct lun *lun;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rec = openat(fd, "luns/broken.json", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		assert_int_equal(write(rec, bad[i], strlen(bad[i])), strlen(bad[i]));
		close(rec);
		assert_int_equal(open_with(opt, &lun), -EBADMSG);
		assert_non_null(strstr(why.text, "luns/broken.json"));
		/* And the file that was made for it is gone. */
		assert_int_equal(access(harness_path("life"), F_OK), -1);
	}
	close(fd);
}

static void without_state_the_file_is_the_identity(void **state)
{
	struct lun_options opt = {.name = "x", .create = true, .size = 1u << 20, .state_dirfd = -1};
	struct lun_identity id;
	struct lun *lun;

	assert_int_equal(open_with(opt, &lun), 0);
	id = *lun_identity(lun);
	assert_int_equal(id.uuid[6] >> 4, 5);
	lun_unref(lun);
	opt.name = "y";
	assert_int_equal(open_with(opt, &lun), 0);
	assert_memory_equal(lun_identity(lun)->uuid, id.uuid, 16);
	lun_unref(lun);
	unlink(harness_path("life"));
}

static void a_file_in_use_is_refused(void **state)
{
	struct lun_options opt = {.name = "x", .create = true, .size = 1u << 20, .state_dirfd = -1};
	struct lun *lun, *second = NULL, *third;

	assert_int_equal(open_with(opt, &lun), 0);
	assert_int_equal(open_with(opt, &second), -EBUSY);
	assert_non_null(strstr(why.text, harness_path("life")));
	assert_non_null(strstr(why.text, "in use"));
	opt.read_only = true;
	opt.create = false;
	opt.size = 0;
	assert_int_equal(open_with(opt, &second), -EBUSY);
	assert_null(second);
	lun_unref(lun);
	/* Readers share. */
	assert_int_equal(open_with(opt, &lun), 0);
	assert_int_equal(open_with(opt, &third), 0);
	lun_unref(third);
	lun_unref(lun);
	unlink(harness_path("life"));
}

struct seen {
	struct lun_watcher w;
	int resized, gone;
	bool leaves;
};

static void on_event(struct lun_watcher *w, struct lun *lun, enum lun_event ev)
{
	struct seen *s = container_of(w, struct seen, w);

	if (ev == LUN_EVENT_RESIZED)
		s->resized++;
	else
		s->gone++;
	if (s->leaves)
		lun_unwatch(lun, w);
}

static void resize_grows_and_tells(void **state)
{
	struct lun_options opt = {.name = "x", .create = true, .size = 1u << 20, .state_dirfd = -1};
	struct seen a = {.w.fn = on_event}, b = {.w.fn = on_event, .leaves = true}, c = a;
	struct lun *lun;
	uint8_t buf[512];

	assert_int_equal(open_with(opt, &lun), 0);
	lun_watch(lun, &a.w);
	lun_watch(lun, &b.w);
	lun_watch(lun, &c.w);
	assert_int_equal(do_read(lun, WAY_ASYNC, 1u << 20, buf, 512), -EINVAL);
	assert_int_equal(lun_resize(lun, 2u << 20, &why), 0);
	assert_int_equal(lun_size(lun), 2u << 20);
	assert_int_equal(do_read(lun, WAY_ASYNC, 1u << 20, buf, 512), 0);
	assert_int_equal(lun_resize(lun, 1u << 20, &why), -EINVAL);
	assert_int_equal(lun_resize(lun, (2u << 20) + 1, &why), -EINVAL);
	assert_int_equal(lun_resize(lun, 2u << 20, &why), 0); /* no change, nothing told */
	assert_int_equal(lun_resize(lun, 3u << 20, &why), 0);
	assert_int_equal(a.resized, 2);
	assert_int_equal(b.resized, 1);
	assert_int_equal(c.resized, 2);
	lun_unwatch(lun, &a.w);
	lun_unwatch(lun, &c.w);
	lun_unref(lun);
	opt.read_only = true;
	opt.create = false;
	opt.size = 0;
	assert_int_equal(open_with(opt, &lun), 0);
	assert_int_equal(lun_resize(lun, 4u << 20, &why), -EROFS);
	lun_unref(lun);
	unlink(harness_path("life"));
}

/* --- the last reference is a reactor's --- */

static struct block_ops noting_ops;
static void (*real_close)(struct block_store *s);
static sem_t closed;
static _Atomic bool by_reactor;

static void noting_close(struct block_store *s)
{
	by_reactor = reactor_self();
	real_close(s);
	sem_post(&closed);
}

struct unref {
	struct reactor_msg msg;
	struct lun *lun;
};

static void unref_run(struct reactor_msg *m)
{
	lun_unref(container_of(m, struct unref, msg)->lun);
}

static void a_reactor_does_not_close_it(void **state)
{
	struct unref u = {.msg.fn = unref_run};
	struct fake *f = make_fake(&u.lun, false);

	noting_ops = *f->base.ops;
	real_close = noting_ops.close;
	noting_ops.close = noting_close;
	f->base.ops = &noting_ops;
	sem_init(&closed, 0, 0);
	reactor_post(harness_reactor(), &u.msg);
	while (sem_wait(&closed))
		;
	assert_false(by_reactor);
}

/* --- unwatch against a notification that is running --- */

static sem_t inside, go_on;
static _Atomic bool returned;

static void slow_event(struct lun_watcher *w, struct lun *lun, enum lun_event ev)
{
	sem_post(&inside);
	sem_wait(&go_on);
	usleep(20000);
	returned = true;
}

static void *resizer(void *arg)
{
	assert_int_equal(lun_resize(arg, 2u << 20, NULL), 0);
	return NULL;
}

static void after_unwatch_it_is_not_running(void **state)
{
	struct lun_options opt = {.name = "x", .create = true, .size = 1u << 20, .state_dirfd = -1};
	struct lun_watcher w = {.fn = slow_event};
	struct lun *lun;
	pthread_t t;

	sem_init(&inside, 0, 0);
	sem_init(&go_on, 0, 0);
	assert_int_equal(open_with(opt, &lun), 0);
	lun_watch(lun, &w);
	assert_int_equal(pthread_create(&t, NULL, resizer, lun), 0);
	sem_wait(&inside);
	sem_post(&go_on);
	lun_unwatch(lun, &w);
	assert_true(returned);
	pthread_join(t, NULL);
	lun_unref(lun);
	unlink(harness_path("life"));
}

static void a_table_finds_by_name(void **state)
{
	struct seen s = {.w.fn = on_event};
	struct lun_table *t;
	struct lun *lun, **list;
	size_t n, before = mallinfo2().uordblks;
	char name[32];

	assert_int_equal(lun_table_create(&t), 0);
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "lun-%03d", i);
		lun = make_lun(name, BLOCK_MODE_AUTO, 1u << 20);
		assert_int_equal(lun_table_add(t, lun), 0);
		assert_int_equal(lun_table_add(t, lun), -EEXIST);
		lun_unref(lun);
	}
	assert_true((mallinfo2().uordblks - before) / 200 < 8192);
	assert_int_equal(lun_table_count(t), 200);
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "lun-%03d", i);
		lun = lun_table_find(t, name);
		assert_non_null(lun);
		assert_string_equal(lun_name(lun), name);
		lun_unref(lun);
	}
	assert_null(lun_table_find(t, "lun-200"));
	assert_int_equal(lun_table_list(t, &list, &n), 0);
	assert_int_equal(n, 200);
	for (size_t i = 1; i < n; i++)
		assert_true(strcmp(lun_name(list[i - 1]), lun_name(list[i])) < 0);
	lun_table_free_list(list, n);
	lun = lun_table_find(t, "lun-007");
	lun_watch(lun, &s.w);
	assert_int_equal(lun_table_remove(t, "lun-007"), 0);
	assert_int_equal(s.gone, 1);
	lun_unwatch(lun, &s.w);
	assert_int_equal(lun_table_remove(t, "lun-007"), -ENOENT);
	assert_null(lun_table_find(t, "lun-007"));
	assert_int_equal(lun_size(lun), 1u << 20); /* our reference holds */
	lun_unref(lun);
	lun_table_destroy(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_options_are_refused),
		cmocka_unit_test(identity_is_kept_in_state),
		cmocka_unit_test(a_broken_record_is_refused_by_name),
		cmocka_unit_test(without_state_the_file_is_the_identity),
		cmocka_unit_test(a_file_in_use_is_refused),
		cmocka_unit_test(resize_grows_and_tells),
		cmocka_unit_test(a_reactor_does_not_close_it),
		cmocka_unit_test(after_unwatch_it_is_not_running),
		cmocka_unit_test(a_table_finds_by_name),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	harness_stop();
	return failed;
}
