// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The index of an object: page number to page, a radix tree of 16-way nodes, as high as its
 * largest index needs. An object with only page 0 has no node at all. Narrow nodes, because a
 * second-chance cache holds scattered pages: at one page in twenty a 64-way leaf would cost more
 * than most compressed pages do.
 *
 * Every node has a used slot, and the root has another than slot 0: remove keeps the tree as low
 * as it can be. Nodes that an insertion needs are counted and allocated before the first change,
 * so that there is nothing to undo; replacing what is there needs none.
 */
#include "tmem_private.h"

static u32 slot_of(u64 index, u32 level)
{
	return index >> (NODE_SHIFT * (level - 1)) & (NODE_SLOTS - 1);
}

/* Levels of nodes that @index needs. */
static u32 height_for(u64 index)
{
	u32 h = 0;

	for (; index; index >>= NODE_SHIFT)
		h++;
	return h;
}

struct tmem_page *index_lookup(const struct tmem_index *ix, u64 index)
{
	void *p = ix->root;

	if (height_for(index) > ix->height)
		return NULL;
	for (u32 level = ix->height; level && p; level--)
		p = ((struct tmem_node *)p)->slots[slot_of(index, level)];
	return p;
}

static struct tmem_node *pop(struct tmem_node **spare)
{
	struct tmem_node *n = *spare;

	*spare = n->parent;
	return n;
}

static void node_free(struct tmem_object *o, struct tmem_node *n)
{
	meta_drop(o->pool->t, o->client, n, sizeof(*n), n->bytes);
}

/* @n nodes in a chain, or none. */
static int nodes_alloc(struct tmem_object *o, u32 n, struct tmem_node **ret_spare)
{
	struct tmem_node *spare = NULL;

	while (n--) {
		u32 bytes;
		struct tmem_node *node = meta_new(o->pool->t, o->client, sizeof(*node), &bytes);

		if (!node) {
			while (spare)
				node_free(o, pop(&spare));
			return -ENOMEM;
		}
		memset(node, 0, sizeof(*node));
		node->bytes = bytes;
		node->parent = spare;
		spare = node;
	}
	*ret_spare = spare;
	return 0;
}

/* Nodes missing on the way to @index in a tree of its present height. */
static u32 missing(const struct tmem_index *ix, u64 index)
{
	void *p = ix->root;
	u32 level = ix->height;

	for (; level && p; level--)
		p = ((struct tmem_node *)p)->slots[slot_of(index, level)];
	return p ? 0 : level;
}

static void attach(struct tmem_node *parent, u32 slot, void *child, u32 child_level)
{
	parent->slots[slot] = child;
	parent->count++;
	if (child_level) {
		struct tmem_node *n = child;

		n->parent = parent;
		n->slot = slot;
		n->level = child_level;
	}
}

/* Puts nodes on top until the tree is @height high. */
static void grow(struct tmem_index *ix, u32 height, struct tmem_node **spare)
{
	for (; ix->height < height; ix->height++) {
		struct tmem_node *n = pop(spare);

		n->parent = NULL;
		n->level = ix->height + 1;
		attach(n, 0, ix->root, ix->height);
		ix->root = n;
	}
}

/* The slot of @index, its way completed from @spare; the leaf or NULL. */
static void **way(struct tmem_index *ix, u64 index, struct tmem_node **spare,
		  struct tmem_node **ret_leaf)
{
	void **at = &ix->root;
	struct tmem_node *n = NULL;

	for (u32 level = ix->height; level; level--) {
		if (!*at) {
			struct tmem_node *child = pop(spare);

			child->parent = NULL;
			child->level = level;
			if (n)
				attach(n, slot_of(index, level + 1), child, level);
			else
				*at = child;
		}
		n = *at;
		at = &n->slots[slot_of(index, level)];
	}
	*ret_leaf = n;
	return at;
}

int index_set(struct tmem_object *o, struct tmem_page *page, struct tmem_page **ret_old)
{
	struct tmem_index *ix = &o->index;
	u32 height = height_for(page->index), need = 0;
	struct tmem_node *spare = NULL, *leaf;
	void **at;
	int r;

	core_assert_held(&o->lock);
	if (!ix->root)
		need = height;
	else if (height > ix->height)
		need = height - ix->height + height - 1;
	else
		need = missing(ix, page->index);
	r = nodes_alloc(o, need, &spare);
	if (r)
		return r;

	if (!ix->root)
		ix->height = height;
	else
		grow(ix, height, &spare);
	at = way(ix, page->index, &spare, &leaf);
	CORE_BUG_ON(spare);
	*ret_old = *at;
	if (!*at && leaf)
		leaf->count++;
	*at = page;
	return 0;
}

/* Lowers the tree while its root leads to slot 0 alone. */
static void lower(struct tmem_object *o)
{
	struct tmem_index *ix = &o->index;

	while (ix->height) {
		struct tmem_node *n = ix->root;

		if (n->count != 1 || !n->slots[0])
			return;
		ix->root = n->slots[0];
		ix->height--;
		if (ix->height)
			((struct tmem_node *)ix->root)->parent = NULL;
		node_free(o, n);
	}
}

struct tmem_page *index_remove(struct tmem_object *o, u64 index)
{
	struct tmem_index *ix = &o->index;
	struct tmem_page *page = index_lookup(ix, index);
	struct tmem_node *n = ix->root;

	core_assert_held(&o->lock);
	if (!page)
		return NULL;
	if (!ix->height) {
		ix->root = NULL;
		return page;
	}
	for (u32 level = ix->height; level > 1; level--)
		n = n->slots[slot_of(index, level)];
	n->slots[slot_of(index, 1)] = NULL;
	while (n && !--n->count) {
		struct tmem_node *parent = n->parent;

		if (parent)
			parent->slots[n->slot] = NULL;
		else
			ix->root = NULL;
		node_free(o, n);
		n = parent;
	}
	if (ix->root)
		lower(o);
	else
		ix->height = 0;
	return page;
}

void index_drain(struct tmem_object *o, void (*fn)(struct tmem_object *o, struct tmem_page *p))
{
	struct tmem_node *n = o->index.height ? o->index.root : NULL;
	u32 slot = 0;

	if (!n && o->index.root)
		fn(o, o->index.root);
	while (n) {
		void *child = slot < NODE_SLOTS ? n->slots[slot] : NULL;

		if (slot == NODE_SLOTS) { /* done with it: on with the parent */
			struct tmem_node *parent = n->parent;

			slot = n->slot + 1u;
			node_free(o, n);
			n = parent;
		} else if (!child) {
			slot++;
		} else if (n->level > 1) {
			n = child;
			slot = 0;
		} else {
			fn(o, child);
			slot++;
		}
	}
	o->index.root = NULL;
	o->index.height = 0;
}
