// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The map of an area: which block is in which state, and where the next one is.
 *
 * What is asked is always one of three things: the lowest cached block, the lowest empty block, the
 * highest cached block below some place. So there are two trees of bits over the blocks, one a
 * kind, in which each bit says that there is such a block below it:
 *
 *	root	    1 word			a bit a word of tops
 *	tops	    <= 64 words			a bit a node
 *	nodes	    1 a 4096 blocks: has[kind]	a bit a word of the leaf
 *	leaves	    64 words a plane		the states themselves, two bits a block
 *
 * Every question is four finds of a set bit, whatever the size of the area and wherever the block
 * is. A leaf has no tree bits of its own: cached is kept & ~held, empty is neither.
 *
 * Tables are small and made with the area (2 KiB for 256 Ki blocks). Leaves, 1 KiB each, are made
 * when the first of their blocks is taken, and go when the last of them is empty. But those of the
 * lowest blocks, one or as many as the reserve needs, are made with the area: what the reserve
 * promises must not depend on an allocation.
 *
 * The last word may have bits behind the area's end. They look empty, and nobody gets there: no
 * more empty blocks are taken than there are, and the lowest ones first.
 *
 * All changes go through set_word().
 */
#include "data_area_private.h"

static u32 lowest(u64 bits)
{
	return (u32)__builtin_ctzll(bits);
}

static u32 highest(u64 bits)
{
	return 63 - (u32)__builtin_clzll(bits);
}

/* Bits [0, n) of a word, n <= 64. */
static u64 below_bit(u32 n)
{
	return n < 64 ? (1ull << n) - 1 : ~0ull;
}

static u32 divide_up(u32 n, u32 by)
{
	return n / by + !!(n % by);
}

static u32 n_nodes(u32 blocks)
{
	return divide_up(blocks, LEAF_BLOCKS);
}

size_t map_size(u32 blocks)
{
	u32 nodes = n_nodes(blocks);

	return nodes * sizeof(struct map_node) + divide_up(nodes, 64) * sizeof(u64[MAP_KINDS]);
}

static void write_bit(u64 *word, u32 bit, bool on)
{
	*word = on ? *word | 1ull << bit : *word & ~(1ull << bit);
}

/* Carries up what has[kind] of node @index says. */
static void update_tops(struct map *m, u32 index, enum map_kind kind)
{
	u64 *top = &m->tops[index / 64][kind];

	write_bit(top, index % 64, m->nodes[index].has[kind]);
	write_bit(&m->root[kind], index / 64, *top);
}

void map_init(struct map *m, u32 blocks, u32 reserve, void *tables)
{
	m->n_nodes = n_nodes(blocks);
	m->n_fixed = n_nodes(reserve ? reserve : 1);
	m->nodes = tables;
	m->tops = (void *)(m->nodes + m->n_nodes);
	for (u32 i = 0; i < m->n_nodes; i++) {
		struct map_node *node = &m->nodes[i];
		u32 left = blocks - i * LEAF_BLOCKS;

		node->blocks = left < LEAF_BLOCKS ? left : LEAF_BLOCKS;
		node->empty = node->blocks;
		node->has[MAP_EMPTY] = below_bit(divide_up(node->blocks, WORD_BLOCKS));
		update_tops(m, i, MAP_EMPTY);
	}
}

/* The blocks of word @w of a leaf that are of @kind. */
static u64 of_kind(const struct map_leaf *leaf, u32 w, enum map_kind kind)
{
	return kind == MAP_CACHED ? leaf->kept[w] & ~leaf->held[w]
				  : ~(leaf->kept[w] | leaf->held[w]);
}

static u64 in_state(const struct map_leaf *leaf, u32 w, enum data_area_state state)
{
	u64 kept = leaf->kept[w], held = leaf->held[w];

	switch (state) {
	case DATA_AREA_EMPTY:
		return ~(kept | held);
	case DATA_AREA_CACHED:
		return kept & ~held;
	case DATA_AREA_BUSY:
		return held & ~kept;
	case DATA_AREA_RELEASING:
		return kept & held;
	}
	return 0;
}

/* The blocks @bits, @n of them, of word @w of node @index go from one state to another. */
static void set_word(struct map *m, u32 index, u32 w, u64 bits, u32 n, enum data_area_state from,
		     enum data_area_state to)
{
	struct map_node *node = &m->nodes[index];
	struct map_leaf *leaf = node->leaf;
	bool kept = to == DATA_AREA_CACHED || to == DATA_AREA_RELEASING;
	bool held = to == DATA_AREA_BUSY || to == DATA_AREA_RELEASING;

	CORE_BUG_ON(!leaf || (in_state(leaf, w, from) & bits) != bits);
	leaf->kept[w] = kept ? leaf->kept[w] | bits : leaf->kept[w] & ~bits;
	leaf->held[w] = held ? leaf->held[w] | bits : leaf->held[w] & ~bits;
	if (from == DATA_AREA_EMPTY)
		node->empty -= n;
	if (to == DATA_AREA_EMPTY)
		node->empty += n;
	for (enum map_kind kind = 0; kind < MAP_KINDS; kind++) {
		write_bit(&node->has[kind], w, of_kind(leaf, w, kind));
		update_tops(m, index, kind);
	}
}

enum data_area_state map_state(const struct map *m, u32 block)
{
	const struct map_leaf *leaf = m->nodes[block / LEAF_BLOCKS].leaf;
	u32 w = block % LEAF_BLOCKS / WORD_BLOCKS, bit = block % WORD_BLOCKS;
	bool kept, held;

	if (!leaf)
		return DATA_AREA_EMPTY;
	kept = leaf->kept[w] >> bit & 1;
	held = leaf->held[w] >> bit & 1;
	if (held)
		return kept ? DATA_AREA_RELEASING : DATA_AREA_BUSY;
	return kept ? DATA_AREA_CACHED : DATA_AREA_EMPTY;
}

/* The lowest node, @from or above, that has a block of @kind. */
static u32 next_node(const struct map *m, enum map_kind kind, u32 from)
{
	u32 t = from / 64;
	u64 bits, tops;

	if (from >= m->n_nodes)
		return NOWHERE;
	bits = m->tops[t][kind] & ~below_bit(from % 64);
	if (!bits) {
		tops = m->root[kind] & ~below_bit(t + 1);
		if (!tops)
			return NOWHERE;
		t = lowest(tops);
		bits = m->tops[t][kind];
	}
	return t * 64 + lowest(bits);
}

/* The highest node below @below that has a cached block. */
static u32 previous_node(const struct map *m, u32 below)
{
	u32 t = below / 64;
	u64 bits = below % 64 ? m->tops[t][MAP_CACHED] & below_bit(below % 64) : 0, tops;

	if (!bits) {
		tops = m->root[MAP_CACHED] & below_bit(t);
		if (!tops)
			return NOWHERE;
		t = highest(tops);
		bits = m->tops[t][MAP_CACHED];
	}
	return t * 64 + highest(bits);
}

u32 map_missing_leaf(const struct map *m, u32 n)
{
	for (u32 i = next_node(m, MAP_EMPTY, 0); n && i != NOWHERE;
	     i = next_node(m, MAP_EMPTY, i + 1)) {
		if (!m->nodes[i].leaf)
			return i;
		n -= n < m->nodes[i].empty ? n : m->nodes[i].empty;
	}
	return NOWHERE;
}

bool map_install_leaf(struct map *m, u32 index, struct map_leaf *leaf)
{
	struct map_node *node = &m->nodes[index];

	if (node->leaf)
		return false;
	node->leaf = leaf;
	return true;
}

struct map_leaf *map_remove_leaf(struct map *m, u32 block)
{
	u32 index = block / LEAF_BLOCKS;
	struct map_node *node = &m->nodes[index];
	struct map_leaf *leaf = node->leaf;

	if (index < m->n_fixed || node->empty < node->blocks)
		return NULL;
	node->leaf = NULL;
	return leaf;
}

void map_take(struct map *m, enum map_kind kind, u32 n, u32 *blocks)
{
	enum data_area_state from = kind == MAP_CACHED ? DATA_AREA_CACHED : DATA_AREA_EMPTY;

	while (n) {
		u32 index = next_node(m, kind, 0);
		u32 w = lowest(m->nodes[index].has[kind]), taken = 0;
		u64 bits = of_kind(m->nodes[index].leaf, w, kind), left = bits;

		for (; left && taken < n; left &= left - 1)
			blocks[taken++] = index * LEAF_BLOCKS + w * WORD_BLOCKS + lowest(left);
		set_word(m, index, w, bits & ~left, taken, from, DATA_AREA_BUSY);
		blocks += taken;
		n -= taken;
	}
}

void map_move(struct map *m, const u32 *blocks, u32 n, enum data_area_state from,
	      enum data_area_state to)
{
	for (u32 i = 0; i < n;) {
		u32 word = blocks[i] / WORD_BLOCKS, start = i;
		u64 bits = 0;

		CORE_BUG_ON(word / LEAF_WORDS >= m->n_nodes);
		for (; i < n && blocks[i] / WORD_BLOCKS == word; i++) {
			u64 bit = 1ull << blocks[i] % WORD_BLOCKS;

			CORE_BUG_ON(bits & bit);
			bits |= bit;
		}
		set_word(m, word / LEAF_WORDS, word % LEAF_WORDS, bits, i - start, from, to);
	}
}

void map_move_run(struct map *m, struct map_run run, enum data_area_state from,
		  enum data_area_state to)
{
	while (run.n) {
		u32 word = run.first / WORD_BLOCKS, bit = run.first % WORD_BLOCKS;
		u32 n = run.n < WORD_BLOCKS - bit ? run.n : WORD_BLOCKS - bit;

		set_word(m, word / LEAF_WORDS, word % LEAF_WORDS, below_bit(n) << bit, n, from, to);
		run.first += n;
		run.n -= n;
	}
}

/* The highest cached block below @below, or NOWHERE. */
static u32 highest_cached(const struct map *m, u32 below)
{
	u32 index = below / LEAF_BLOCKS, w = below % LEAF_BLOCKS / WORD_BLOCKS;
	const struct map_node *node;
	u64 bits;

	/* In the same word, in lower words of the same node, in lower nodes. */
	node = index < m->n_nodes ? &m->nodes[index] : NULL;
	if (node && node->leaf) {
		bits = of_kind(node->leaf, w, MAP_CACHED) & below_bit(below % WORD_BLOCKS);
		if (bits)
			return index * LEAF_BLOCKS + w * WORD_BLOCKS + highest(bits);
	}
	bits = node ? node->has[MAP_CACHED] & below_bit(w) : 0;
	if (!bits) {
		index = previous_node(m, index);
		if (index == NOWHERE)
			return NOWHERE;
		node = &m->nodes[index];
		bits = node->has[MAP_CACHED];
	}
	w = highest(bits);
	return index * LEAF_BLOCKS + w * WORD_BLOCKS + highest(of_kind(node->leaf, w, MAP_CACHED));
}

/* How many cached blocks of word @w end with @bit, going down. */
static u32 run_in_word(const struct map_leaf *leaf, u32 w, u32 bit)
{
	u64 gaps = ~of_kind(leaf, w, MAP_CACHED) & below_bit(bit + 1);

	return gaps ? bit - highest(gaps) : bit + 1;
}

struct map_run map_highest_run(const struct map *m, u32 below, u32 max)
{
	u32 last = highest_cached(m, below), n = 0, step, word, bit;
	struct map_run run = {0, 0};

	if (last == NOWHERE || !max)
		return run;
	/* It may go on in the words below, as long as they are of the same leaf. */
	word = last / WORD_BLOCKS;
	bit = last % WORD_BLOCKS;
	do {
		step = run_in_word(m->nodes[word / LEAF_WORDS].leaf, word % LEAF_WORDS, bit);
		n += step;
		if (step <= bit || word % LEAF_WORDS == 0)
			break;
		word--;
		bit = WORD_BLOCKS - 1;
	} while (n < max);
	run.n = n < max ? n : max;
	run.first = last + 1 - run.n;
	return run;
}
