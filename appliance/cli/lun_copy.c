/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `ebb lun copy`: this process is a client of the port for both LUNs, as `ebb mount` is for one:
 * what it reads and writes goes through the LUNs' one entrance, so that caches, reservations and
 * other clients see it as any other I/O, and a daemon that is restarted meanwhile is waited for.
 *
 * Some threads take chunks, one after the other. A chunk of which the source has nothing becomes a
 * hole in the target.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/progress.h"
#include "front/port/port_client.h"

#define CHUNK	(1u << 20)
#define THREADS 4u
#define EXTENTS 16u
#define LOOK_NS (50 * NSEC_PER_MSEC)

struct copy {
	const char *source, *target;
	struct port_client *from, *to;
	uint64_t size;
	_Atomic uint64_t next, done; /* bytes: begun, ended */
	_Atomic int error;	     /* the first */
	_Atomic unsigned running;    /* threads */
};

/* Whether [off, off + len) of the source is all zeros, as far as it is told. */
static bool is_hole(struct copy *c, uint64_t off, uint64_t len)
{
	struct port_extent e[EXTENTS];
	unsigned n = EXTENTS;
	uint64_t sum = 0;

	if (port_client_extents(c->from, off, len, e, &n))
		return false;
	for (unsigned i = 0; i < n && e[i].flags & PORT_EXTENT_ZERO; i++)
		sum += e[i].len;
	return sum == len;
}

static int copy_chunk(struct copy *c, void *buf, uint64_t off, uint64_t len)
{
	int err;

	if (is_hole(c, off, len))
		return port_client_io(c->to, PORT_ZERO, PORT_MAY_TRIM, off, len, NULL);
	err = port_client_io(c->from, PORT_READ, 0, off, len, buf);
	return err ? err : port_client_io(c->to, PORT_WRITE, 0, off, len, buf);
}

static void *copy_chunks(void *arg)
{
	_cleanup_free_ void *buf = malloc(CHUNK);
	struct copy *c = arg;
	int err = buf ? 0 : -ENOMEM, none = 0;

	while (!err && !atomic_load(&c->error)) {
		uint64_t off = atomic_fetch_add(&c->next, CHUNK);
		uint64_t len = c->size - off < CHUNK ? c->size - off : CHUNK;

		if (off >= c->size)
			break;
		err = copy_chunk(c, buf, off, len);
		if (!err)
			atomic_fetch_add(&c->done, len);
	}
	if (err)
		atomic_compare_exchange_strong(&c->error, &none, err);
	atomic_fetch_sub(&c->running, 1);
	return NULL;
}

/* All of it, on stable storage. */
static int copy_all(struct copy *c, struct progress *p)
{
	pthread_t thread[THREADS];
	unsigned n = 0;

	for (; n < THREADS; n++) {
		atomic_fetch_add(&c->running, 1);
		if (pthread_create(&thread[n], NULL, copy_chunks, c)) {
			atomic_fetch_sub(&c->running, 1);
			break;
		}
	}
	if (!n)
		return -EAGAIN;
	while (atomic_load(&c->running)) {
		progress_tell(p, atomic_load(&c->done), c->size);
		clock_pause(LOOK_NS);
	}
	while (n)
		pthread_join(thread[--n], NULL);
	if (atomic_load(&c->error))
		return atomic_load(&c->error);
	return port_client_io(c->to, PORT_FLUSH, 0, 0, 0, NULL);
}

/* Refuses a LUN that others use. */
static int check_idle(const struct cli_options *opt, const char *name, struct reason *why)
{
	json_int_t n;
	json_t *lun;

	if (cli_call(opt, "lun.show", json_pack("{s:s}", "name", name), &lun, why))
		return -EIO;
	n = json_integer_value(json_object_get(lun, "sessions"));
	json_decref(lun);
	if (n)
		return reason_set(why, EBUSY,
				  "LUN '%s' is busy: %lld session%s (--force copies all the same)",
				  name, (long long)n, n == 1 ? "" : "s");
	return 0;
}

static int open_both(struct copy *c, const char *port, struct reason *why)
{
	const struct port_client_options from = {
		.socket = port, .lun = c->source, .name = "ebb copy", .read_only = true};
	const struct port_client_options to = {
		.socket = port, .lun = c->target, .name = "ebb copy"};
	struct port_export a, b;
	int err = port_client_open(&from, &c->from, why);

	if (!err)
		err = port_client_open(&to, &c->to, why);
	if (err)
		return err;
	port_client_get_export(c->from, &a);
	port_client_get_export(c->to, &b);
	c->size = a.size;
	if (b.flags & PORT_EXPORT_READ_ONLY)
		return reason_set(why, EROFS, "LUN '%s' is read-only", c->target);
	if (a.size > b.size)
		return reason_set(why, ENOSPC,
				  "LUN '%s' has %llu bytes, '%s' has %llu: make it as large first",
				  c->source, (unsigned long long)a.size, c->target,
				  (unsigned long long)b.size);
	return 0;
}

static int run(struct copy *c, bool force, const struct cli_options *opt, struct reason *why)
{
	struct progress p = {.what = c->target, .json = opt->json};
	_cleanup_free_ char *port = cli_ask_port(opt, why);
	int err = port ? 0 : -EIO;

	if (!err && !strcmp(c->source, c->target))
		err = reason_set(why, EINVAL, "'%s' onto itself", c->source);
	if (!err && !force)
		err = check_idle(opt, c->source, why);
	if (!err && !force)
		err = check_idle(opt, c->target, why);
	if (!err)
		err = open_both(c, port, why);
	if (err)
		return err;
	progress_begin(&p);
	err = copy_all(c, &p);
	progress_end(&p, !err, atomic_load(&c->done), c->size);
	return err ? reason_set(why, -err, "%s; '%s' has part of the copy", strerror(-err),
				c->target)
		   : 0;
}

int cli_copy(const json_t *params, const struct cli_options *opt)
{
	struct copy c = {.source = json_string_value(json_object_get(params, "source")),
			 .target = json_string_value(json_object_get(params, "target"))};
	struct reason why = {.text = ""};
	int err = run(&c, json_is_true(json_object_get(params, "force")), opt, &why);

	port_client_close(c.from);
	port_client_close(c.to);
	if (!err)
		return EXIT_DONE;
	fprintf(stderr, "ebb lun copy: %s\n", why.text);
	return EXIT_REFUSED;
}
