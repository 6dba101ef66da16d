// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A command's part of the data area: which blocks it has, what is copied into and out of them, and
 * how userspace is told of them. Which block is free, what may grow and what is to be given back is
 * decided by the core (data_area.h); here is what it has no idea of, the pages.
 *
 * The data of a command stand in its blocks in order; the blocks themselves need not be adjacent.
 * Userspace is given one vector for each run of adjacent ones. Of a command that both sends and
 * receives (BIDI) the blocks sent come first, then those received, each with vectors of its own.
 *
 * Everything here runs without ring_lock: the blocks are the command's alone from the moment they
 * are taken, so that the copying of several commands goes on side by side.
 */
#include <linux/highmem.h>
#include <linux/scatterlist.h>

#include "tcmu_private.h"

static u32 block_bytes(const struct tcmu_chan *chan)
{
	return chan->pages_per_block << PAGE_SHIFT;
}

static u32 blocks_for(const struct tcmu_chan *chan, u32 len)
{
	return DIV_ROUND_UP_ULL(len, block_bytes(chan));
}

/* The place in the mapping where @block begins. */
static unsigned long block_page(const struct tcmu_chan *chan, u32 block)
{
	return chan->map.ring_pages + data_area_page(block, chan->pages_per_block);
}

static u32 sg_bytes(struct scatterlist *sgl, unsigned int n)
{
	struct scatterlist *sg;
	u64 bytes = 0;
	int i;

	for_each_sg(sgl, sg, n, i)
		bytes += sg->length;
	return min_t(u64, bytes, U32_MAX);
}

struct tcmu_cmd *tcmu_data_cmd_alloc(struct tcmu_chan *chan, struct se_cmd *se_cmd)
{
	u32 len = se_cmd->data_length, bidi_len = 0;
	struct tcmu_cmd *cmd;
	u64 blocks;

	if (se_cmd->se_cmd_flags & SCF_BIDI)
		bidi_len = sg_bytes(se_cmd->t_bidi_data_sg, se_cmd->t_bidi_data_nents);
	blocks = (u64)blocks_for(chan, len) + blocks_for(chan, bidi_len);
	if (blocks > chan->max_blocks)
		return ERR_PTR(-E2BIG);
	cmd = kvmalloc(struct_size(cmd, blocks, blocks), GFP_KERNEL);
	if (!cmd)
		return ERR_PTR(-ENOMEM);
	memset(cmd, 0, sizeof(*cmd));
	INIT_LIST_HEAD(&cmd->node);
	INIT_LIST_HEAD(&cmd->slot.node);
	cmd->chan = chan;
	cmd->se_cmd = se_cmd;
	cmd->state = TCMU_PREPARING;
	cmd->len = len;
	cmd->bidi_len = bidi_len;
	cmd->nr = blocks_for(chan, len);
	cmd->nr_bidi = blocks_for(chan, bidi_len);
	return cmd;
}

/* The length of the run of adjacent blocks that begins with @blocks[0]. */
static u32 run_length(const u32 *blocks, u32 n)
{
	u32 i = 1;

	while (i < n && blocks[i] == blocks[i - 1] + 1)
		i++;
	return i;
}

static u32 count_runs(const u32 *blocks, u32 n)
{
	u32 runs = 0, run;

	for (; n; blocks += run, n -= run, runs++)
		run = run_length(blocks, n);
	return runs;
}

enum copy_direction { TO_AREA, FROM_AREA };

static void copy_in_page(struct page *page, u32 offset, void *memory, u32 n,
			 enum copy_direction dir)
{
	void *address;

	if (dir == FROM_AREA)
		flush_dcache_page(page);
	address = kmap_local_page(page) + offset;
	if (dir == TO_AREA)
		memcpy(address, memory, n);
	else
		memcpy(memory, address, n);
	kunmap_local(address);
	if (dir == TO_AREA)
		flush_dcache_page(page);
}

/* Copies @n bytes between @memory and what stands at @at of the data in @blocks. */
static void copy_piece(struct tcmu_chan *chan, const u32 *blocks, u32 at, void *memory, u32 n,
		       enum copy_direction dir)
{
	u32 bytes = block_bytes(chan), in_block, piece;
	unsigned long place;

	for (; n; n -= piece, at += piece, memory += piece) {
		in_block = at % bytes;
		place = block_page(chan, blocks[at / bytes]) + (in_block >> PAGE_SHIFT);
		piece = min_t(u32, n, PAGE_SIZE - offset_in_page(in_block));
		copy_in_page(tcmu_map_page(&chan->map, place), offset_in_page(in_block), memory,
			     piece, dir);
	}
}

static void copy_data(struct tcmu_chan *chan, const u32 *blocks, u32 len, struct scatterlist *sgl,
		      unsigned int nents, enum copy_direction dir)
{
	struct sg_mapping_iter it;
	u32 at = 0, n;

	sg_miter_start(&it, sgl, nents, dir == TO_AREA ? SG_MITER_FROM_SG : SG_MITER_TO_SG);
	while (at < len && sg_miter_next(&it)) {
		n = min_t(u32, it.length, len - at);
		copy_piece(chan, blocks, at, it.addr, n, dir);
		it.consumed = n;
		at += n;
	}
	sg_miter_stop(&it);
}

/* Pages for blocks[from..n), which have none. On failure all n go back to the core. */
static int fill_blocks(struct tcmu_cmd *cmd, u32 from, u32 n)
{
	struct tcmu_chan *chan = cmd->chan;
	u32 pages = chan->pages_per_block, i;

	for (i = from; i < n; i++) {
		if (!tcmu_map_populate(&chan->map, block_page(chan, cmd->blocks[i]), pages))
			continue;
		/* A page that userspace, unasked, looks at just now stays for the next taker. */
		tcmu_map_release(&chan->map, block_page(chan, cmd->blocks[i]), pages, 1);
		data_area_cancel(chan->area, cmd->blocks + i, n - i);
		data_area_put(chan->area, cmd->blocks, i);
		return -ENOMEM;
	}
	return 0;
}

int tcmu_data_prepare(struct tcmu_cmd *cmd)
{
	struct tcmu_chan *chan = cmd->chan;
	struct se_cmd *se_cmd = cmd->se_cmd;
	u32 n = cmd->nr + cmd->nr_bidi, reused;
	int err = 0;

	if (cmd->has_data)
		return 0;
	if (n) {
		err = data_area_take(chan->area, n, tcmu_shrink_now(), cmd->blocks, &reused);
		if (err == -ENOSPC) {
			tcmu_shrink_serve();
			err = data_area_take(chan->area, n, tcmu_shrink_now(), cmd->blocks,
					     &reused);
		}
		if (!err)
			err = fill_blocks(cmd, reused, n);
		if (err)
			return err;
	}
	cmd->iov_cnt = count_runs(cmd->blocks, cmd->nr);
	cmd->iov_bidi_cnt = count_runs(cmd->blocks + cmd->nr, cmd->nr_bidi);
	if (se_cmd->data_direction == DMA_TO_DEVICE || cmd->nr_bidi)
		copy_data(chan, cmd->blocks, cmd->len, se_cmd->t_data_sg, se_cmd->t_data_nents,
			  TO_AREA);
	cmd->has_data = true;
	return 0;
}

void tcmu_data_finish(struct tcmu_cmd *cmd)
{
	struct se_cmd *se_cmd = cmd->se_cmd;

	if (cmd->nr_bidi)
		copy_data(cmd->chan, cmd->blocks + cmd->nr, cmd->bidi_len, se_cmd->t_bidi_data_sg,
			  se_cmd->t_bidi_data_nents, FROM_AREA);
	else if (se_cmd->data_direction == DMA_FROM_DEVICE)
		copy_data(cmd->chan, cmd->blocks, cmd->read_len, se_cmd->t_data_sg,
			  se_cmd->t_data_nents, FROM_AREA);
}

void tcmu_data_put(struct tcmu_cmd *cmd)
{
	if (cmd->has_data && cmd->nr + cmd->nr_bidi)
		data_area_put(cmd->chan->area, cmd->blocks, cmd->nr + cmd->nr_bidi);
	cmd->has_data = false;
}

static u32 write_runs(struct tcmu_chan *chan, const u32 *blocks, u32 n, u32 len, u32 at)
{
	u32 bytes = block_bytes(chan), run, written = 0;
	struct iovec iov;

	for (; n; blocks += run, n -= run, written += sizeof(iov)) {
		run = run_length(blocks, n);
		iov.iov_base =
			(void __user *)(uintptr_t)((u64)block_page(chan, blocks[0]) << PAGE_SHIFT);
		iov.iov_len = min_t(u64, len, (u64)run * bytes);
		len -= iov.iov_len;
		tcmu_ring_write(&chan->ring, at + written, &iov, sizeof(iov));
	}
	return written;
}

u32 tcmu_data_write_iovs(struct tcmu_cmd *cmd, u32 at)
{
	u32 written = write_runs(cmd->chan, cmd->blocks, cmd->nr, cmd->len, at);

	return written + write_runs(cmd->chan, cmd->blocks + cmd->nr, cmd->nr_bidi, cmd->bidi_len,
				    at + written);
}

u32 tcmu_data_release(struct tcmu_chan *chan, u32 first, u32 n)
{
	u32 pages = chan->pages_per_block;

	return tcmu_map_release(&chan->map, block_page(chan, first), (unsigned long)n * pages,
				pages) /
	       pages;
}
