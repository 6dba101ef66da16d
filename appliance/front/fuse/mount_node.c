/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files. A node is what the kernel knows a LUN by: its address is the inode number of the protocol
 * (what stat(2) shows is mount_inode()). It is there as long as the kernel remembers it or has it
 * open. A LUN is told from others by its UUID, so one that was removed and made anew under the old
 * name is another file.
 *
 * A node is attached to its LUN (a client of the port) from the first open to the last close. What
 * attaches or detaches it blocks, and so has it BUSY meanwhile, not locked. Who has it open may use
 * the client without the lock: it stays until he closes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "front/fuse/mount_private.h"

#define GROW_WAIT_S 10

struct mount_node *mount_node_of(fuse_ino_t ino)
{
	return (struct mount_node *)(uintptr_t)ino;
}

fuse_ino_t mount_ino_of(const struct mount_node *node)
{
	return (fuse_ino_t)(uintptr_t)node;
}

static bool is_same(const struct port_export *a, const struct port_export *b)
{
	return memcmp(a->uuid, b->uuid, sizeof(a->uuid)) == 0 && strcmp(a->name, b->name) == 0;
}

static struct mount_node *find_locked(struct mount *m, const struct port_export *e)
{
	struct mount_node *node;

	list_for_each_entry (node, &m->nodes, link) {
		if (is_same(&node->named, e))
			return node;
	}
	node = calloc(1, sizeof(*node));
	if (!node)
		return NULL;
	node->m = m;
	node->named = *e;
	atomic_init(&node->changed_s, (uint64_t)m->since);
	list_add_tail(&m->nodes, &node->link);
	return node;
}

struct mount_node *mount_node_find(struct mount *m, const struct port_export *e)
{
	mutex_scope(&m->lock);
	struct mount_node *node = find_locked(m, e);

	if (node)
		node->lookups++;
	return node;
}

static void drop_if_unused_locked(struct mount_node *node)
{
	if (node->lookups || node->opens || node->state != NODE_DETACHED)
		return;
	list_del(&node->link);
	free(node);
}

void mount_node_forget(struct mount_node *node, uint64_t n)
{
	mutex_scope(&node->m->lock);
	node->lookups -= n;
	drop_if_unused_locked(node);
}

/* --- attached --- */

/* On a thread of the client's: the LUN has grown, or the link is there again. */
static void export_changed(void *ctx)
{
	struct mount_node *node = ctx;
	struct port_export e;

	mutex_scope(&node->m->lock);
	if (!node->client)
		return; /* being attached: the size is looked at afterwards */
	port_client_get_export(node->client, &e);
	atomic_store(&node->size, e.size);
	pthread_cond_broadcast(&node->m->changed);
}

static int open_client(struct mount_node *node, fuse_req_t req, struct port_client **ret_client)
{
	struct port_client_options opt = {
		.socket = node->m->opt->port,
		.lun = node->named.name,
		.name = "ebb mount",
		.read_only = node->m->opt->read_only,
		.async = true,
		.changed = export_changed,
		.ctx = node,
	};
	uint64_t deadline = mount_deadline();
	struct port_client *client;
	struct port_export e;
	int err;

	do
		err = port_client_open(&opt, &client, NULL);
	while (mount_try_again(node->m, req, err, deadline));
	if (err)
		return err;
	port_client_get_export(client, &e);
	if (!is_same(&e, &node->named)) {
		port_client_close(client);
		return -ESTALE;
	}
	*ret_client = client;
	return 0;
}

/* Ends a BUSY state. */
static void settle_locked(struct mount_node *node, struct port_client *client)
{
	node->client = client;
	node->state = client ? NODE_ATTACHED : NODE_DETACHED;
	pthread_cond_broadcast(&node->m->changed);
}

int mount_node_attach(struct mount_node *node, fuse_req_t req)
{
	struct mount *m = node->m;
	struct port_client *client = NULL;
	struct port_export e;
	int err = 0;

	mutex_scope(&m->lock);
	while (node->state == NODE_BUSY)
		mutex_wait(&m->lock, &m->changed);
	if (node->state == NODE_DETACHED) {
		node->state = NODE_BUSY;
		mutex_unlock(&m->lock);
		err = open_client(node, req, &client);
		mutex_lock(&m->lock);
		settle_locked(node, client);
	}
	if (err)
		return err;
	node->opens++;
	if (client) {
		port_client_get_export(client, &e);
		atomic_store(&node->size, e.size);
	}
	return 0;
}

void mount_node_detach(struct mount_node *node)
{
	struct mount *m = node->m;

	mutex_scope(&m->lock);
	if (--node->opens)
		return;
	struct port_client *client = take_ptr(node->client);

	node->state = NODE_BUSY;
	atomic_fetch_add(&m->detaching, 1);
	while (atomic_load(&node->submitting))
		mutex_wait(&m->lock, &m->changed);
	atomic_fetch_sub(&m->detaching, 1);
	mutex_unlock(&m->lock);
	port_client_close(client);
	mutex_lock(&m->lock);
	settle_locked(node, NULL);
	m->recent_ns = 0; /* what was told of it until now may be newer */
	drop_if_unused_locked(node);
}

void mount_node_submit(struct mount_node *node, struct port_async *async)
{
	struct mount *m = node->m;

	atomic_fetch_add(&node->submitting, 1);
	port_client_submit(node->client, async);
	/* With the last of them the node may go. */
	if (atomic_fetch_sub(&node->submitting, 1) > 1 || !atomic_load(&m->detaching))
		return;
	mutex_scope(&m->lock);
	pthread_cond_broadcast(&m->changed);
}

void mount_node_touch(struct mount_node *node)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	atomic_store_explicit(&node->changed_s, (uint64_t)now.tv_sec, memory_order_relaxed);
}

void mount_node_await_size(struct mount_node *node, uint64_t size)
{
	struct timespec until = clock_deadline(GROW_WAIT_S * NSEC_PER_SEC);

	mutex_scope(&node->m->lock);
	node->m->recent_ns = 0;
	while (node->client && atomic_load(&node->size) < size)
		if (pthread_cond_timedwait(&node->m->changed, &node->m->lock.m, &until) ==
		    ETIMEDOUT)
			return;
}

void mount_node_drop_all(struct mount *m)
{
	struct list_node *n;

	while ((n = list_pop(&m->nodes))) {
		struct mount_node *node = container_of(n, struct mount_node, link);

		port_client_close(node->client);
		free(node);
	}
}

/* --- what the daemon says of LUNs --- */

int mount_list(struct mount *m, fuse_req_t req, struct port_export **ret_exports, size_t *ret_n)
{
	uint64_t deadline = mount_deadline();
	int err;

	do
		err = port_client_list(m->opt->port, ret_exports, ret_n, NULL);
	while (mount_try_again(m, req, err, deadline));
	return err;
}

static const struct port_export *find_name(const struct port_export *exports, size_t n,
					   const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(exports[i].name, name) == 0)
			return &exports[i];
	return NULL;
}

/* Who lists a directory with all attributes asks for each of its files. */
static bool find_recent(struct mount *m, const char *name, struct port_export *ret_export)
{
	mutex_scope(&m->lock);
	const struct port_export *e = find_name(m->recent, m->n_recent, name);

	if (!e || clock_now_ns() - m->recent_ns > MOUNT_RECENT_MS * NSEC_PER_MSEC)
		return false;
	*ret_export = *e;
	return true;
}

int mount_find(struct mount *m, fuse_req_t req, const char *name, struct port_export *ret_export)
{
	_cleanup_free_ struct port_export *exports = NULL, *old = NULL;
	const struct port_export *e;
	uint64_t asked_ns;
	size_t n;
	int err;

	if (find_recent(m, name, ret_export))
		return 0;
	asked_ns = clock_now_ns();
	err = mount_list(m, req, &exports, &n);
	if (err)
		return err;
	e = find_name(exports, n, name);
	if (e)
		*ret_export = *e;
	mutex_scope(&m->lock);
	old = m->recent;
	m->recent = take_ptr(exports);
	m->n_recent = n;
	m->recent_ns = asked_ns;
	return e ? 0 : -ENOENT;
}

bool mount_node_attached(struct mount_node *node, struct port_export *ret_export)
{
	mutex_scope(&node->m->lock);
	if (node->client)
		port_client_get_export(node->client, ret_export);
	return node->client;
}

int mount_node_export(struct mount_node *node, fuse_req_t req, struct port_export *ret_export)
{
	struct port_export e;
	int err;

	if (mount_node_attached(node, ret_export))
		return 0;
	err = mount_find(node->m, req, node->named.name, &e);
	if (err)
		return err;
	if (!is_same(&e, &node->named))
		return -ENOENT;
	*ret_export = e;
	return 0;
}
