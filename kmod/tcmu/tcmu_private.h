/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TCMU: LIO hands SCSI commands to a process, through memory both see. docs/tcmu.md says what is
 * different here from the module of the same name in the kernel, and why.
 *
 * Two objects. A *device* (tcmu_dev) is LIO's backstore: names, settings, se_device. Enabling it
 * makes a *channel* (tcmu_chan): the shared memory, the commands in it, the uio device userspace
 * opens. The channel is what userspace can hold on to (a mapping outlives a removed device), so it
 * is counted: by the device, by each mapping, and by the core while it shrinks it. A device that
 * could not be enabled drops its channel and can be enabled again with a new one.
 *
 *	tcmu_main	module, parameters, the table of LIO's calls
 *	tcmu_device	LIO's calls on a device; making and ending a channel
 *	tcmu_configfs	what configfs shows and takes
 *	tcmu_netlink	what userspace is told of devices
 *	tcmu_uio	open, close, mmap and the bell
 *	tcmu_map	the pages of the shared memory; faults; taking pages away
 *	tcmu_ring	the command ring and our private picture of it
 *	tcmu_data	blocks of the data area for a command; copying
 *	tcmu_cmd	commands from LIO into the ring; waiting for room; deadlines
 *	tcmu_finish	commands out of the ring
 *	tcmu_tmr	task management
 *	tcmu_shrink	one budget for all data areas; idle, pressure, limit
 *
 * The shared memory, one mapping:
 *
 *	0        128              data_off                               map_pages
 *	| mailbox | command ring ... | data area: blocks 0, 1, 2 ...        |
 *
 * Userspace is not trusted. Of what it can write we use: cmd_tail, and of a finished entry cmd_id,
 * uflags and rsp; each is read once, into memory of ours, and checked against what we know.
 *
 * Locks, outermost first; who holds one may take those to its right:
 *
 *	config_lock -> chans_lock -> ring_lock
 *	config_lock -> uio's info_lock -> ring_lock
 *	ring_lock -> the map's mapped_lock -> i_mmap_rwsem	(trimming an empty ring)
 *	mmap_lock -> page lock -> the map's xarray lock		(faults)
 *	mmap_lock -> mapped_lock				(mapping)
 *	mmap_lock -> uio's info_lock				(uio's own order)
 *	page lock, by trylock only -> mapped_lock		(releasing)
 *
 * ring_lock and the data area are apart: a command has its blocks, and the data in them, before it
 * takes ring_lock, and gives them back after it left it. The core's locks (data area, budget) are
 * leaves. But for config_lock, nothing allocates memory under any of these, so memory may be
 * reclaimed from us wherever somebody waits for it.
 */
#ifndef TCMU_PRIVATE_H
#define TCMU_PRIVATE_H

#undef pr_fmt
#define pr_fmt(fmt) "tcmu: " fmt

#include <linux/completion.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include <linux/uio_driver.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <target/target_core_base.h>
#include <target/target_core_backend.h>
#include <linux/target_core_user.h>

#include "compat.h"
#include "data_area/data_area.h"

#define TCMU_CONFIG_LEN		256 /* of dev_config, with its end */
#define TCMU_RING_OFF		((u32)sizeof(struct tcmu_mailbox))
#define TCMU_RING_MB_MAX	8
#define TCMU_AREA_MB_DEFAULT	1024
#define TCMU_BLOCK_PAGES_MAX	(U32_MAX >> PAGE_SHIFT) /* a block's bytes fit into a u32 */
#define TCMU_RESERVE_KB_DEFAULT 128
#define TCMU_TIME_OUT_MS	30000

/* Events of a channel that are counted; under ring_lock. One table makes struct and attributes. */
#define TCMU_COUNTERS(X)                                                     \
	X(commands, "commands put into the ring")                            \
	X(qfull_data, "times that a command found no room in the data area") \
	X(qfull_ring, "times that a command found no room in the ring")      \
	X(qfull_waits, "commands that waited for room and got it")           \
	X(qfull_wait_ms, "milliseconds they waited, in all")                 \
	X(qfull_wait_max_ms, "milliseconds the longest of them waited")      \
	X(timeouts_cmd, "commands that userspace did not finish in time")    \
	X(timeouts_qfull, "commands that found no room in time")

struct tcmu_counters {
#define X(name, help) u64 name;
	TCMU_COUNTERS(X)
#undef X
};

/* --- the mapping (tcmu_map.c) --- */

/* Pages by their place in the mapping. A page is in the array or it is not ours. */
struct tcmu_map {
	struct xarray pages;
	unsigned long npages;	     /* of address space; constant */
	unsigned long ring_pages;    /* the first so many make mailbox and ring; constant */
	atomic_long_t resident;	     /* pages in the array */
	atomic_long_t ring_resident; /* of these, those of mailbox and ring */
	struct mutex mapped_lock;
	/* Under mapped_lock. */
	struct address_space *mapped; /* the file's that is; NULL: none */
	unsigned int mappings;	      /* of it */
};

void tcmu_map_init(struct tcmu_map *map, unsigned long npages, unsigned long ring_pages);
/** Frees all pages. Nobody maps them. */
void tcmu_map_destroy(struct tcmu_map *map);
/** There is a mapping more, of @mapped, which lives until it is closed. */
void tcmu_map_open(struct tcmu_map *map, struct address_space *mapped);
void tcmu_map_close(struct tcmu_map *map);
/**
 * Sees to it that there are pages at [first, first + n), new ones zeroed. Sleeps. -ENOMEM: some may
 * be missing.
 */
int tcmu_map_populate(struct tcmu_map *map, unsigned long first, unsigned long n);
/** The page at @at, or NULL. It stays for as long as the caller knows that nobody releases it. */
struct page *tcmu_map_page(struct tcmu_map *map, unsigned long at);
/**
 * Takes pages [first, first + n) away, from the last on: out of the array, out of userspace's page
 * tables, freed. Stops before a page that is pinned, or being faulted in just now, at a multiple of
 * @grain pages from the end. Returns the number of places, from the last on, that are empty now.
 * Sleeps.
 */
unsigned long tcmu_map_release(struct tcmu_map *map, unsigned long first, unsigned long n,
			       unsigned long grain);
vm_fault_t tcmu_map_fault(struct tcmu_map *map, struct vm_fault *vmf);

/* --- the ring (tcmu_ring.c) --- */

/*
 * An entry of the ring as we know it. Of commands in flight each has one; which command has the
 * slot of which entry is not fixed, since userspace may finish them in any order.
 */
struct tcmu_slot {
	struct list_head node; /* in ring->slots */
	u32 len;	       /* bytes in the ring */
	u8 op;		       /* enum tcmu_opcode */
};

/* Under ring_lock, but for what is constant. Offsets count from the ring's start. */
struct tcmu_ring {
	struct tcmu_map *map;	 /* constant */
	struct tcmu_mailbox *mb; /* page 0, which never leaves; constant */
	u32 size;		 /* cmdr_size; constant */
	u32 head, tail;		 /* ours; the mailbox has copies */
	struct list_head slots;	 /* from tail to head */
	struct tcmu_slot pad;	 /* there is never more than one */
	bool grown;		 /* it may have more pages than an idle one needs; a hint */
};

/* Where an entry would go. */
struct tcmu_place {
	u32 at;	 /* offset of the entry */
	u32 pad; /* bytes to skip before it, to the ring's end */
};

int tcmu_ring_init(struct tcmu_ring *r, struct tcmu_map *map, u32 size);
/**
 * Finds room for @len bytes. -ENOSPC: full. -ENOMEM: the pages of @ret_place are not there:
 * tcmu_ring_populate() without the lock, then again.
 */
int tcmu_ring_place(struct tcmu_ring *r, u32 len, struct tcmu_place *ret_place);
int tcmu_ring_populate(struct tcmu_ring *r, const struct tcmu_place *place, u32 len);
/** Writes at @at. Reads from there into memory of ours, each byte once. */
void tcmu_ring_write(struct tcmu_ring *r, u32 at, const void *from, u32 len);
void tcmu_ring_read(struct tcmu_ring *r, u32 at, void *to, u32 len);
void tcmu_ring_zero(struct tcmu_ring *r, u32 at, u32 len);
/** Shows userspace the entry of @len bytes written at @place; @slot is it from now on. */
void tcmu_ring_publish(struct tcmu_ring *r, const struct tcmu_place *place, u32 len,
		       enum tcmu_opcode op, struct tcmu_slot *slot);
/** How many entries userspace has finished. -EPROTO: its tail is not where an entry ends. */
int tcmu_ring_finished(struct tcmu_ring *r);
/** The oldest entry, which begins at ring->tail; NULL: there is none. */
struct tcmu_slot *tcmu_ring_oldest(struct tcmu_ring *r);
/** The oldest entry is done with: its slot leaves. */
void tcmu_ring_pop(struct tcmu_ring *r);
/** Begins anew at 0, once all slots have left. */
void tcmu_ring_restart(struct tcmu_ring *r);
/** Page @page has come: beyond what an empty ring needs, it is to leave again some day. */
void tcmu_ring_reached(struct tcmu_ring *r, unsigned long page);
/** Gives back the pages an empty ring does not need; returns how many. */
unsigned long tcmu_ring_trim(struct tcmu_ring *r);
static inline bool tcmu_ring_empty(const struct tcmu_ring *r)
{
	return r->head == r->tail;
}

/* --- commands (tcmu_cmd.c, tcmu_data.c) --- */

/*
 *	           room                published
 *	(new) -> PREPARING -----------------------> INFLIGHT -> FINISHING -> (freed)
 *	           |   ^                              |  |          |
 *	   no room |   | worker             timed out |  |          | KEEP_BUF
 *	           v   |                              v  |          v
 *	          WAITING -> (freed: aborted,       EXPIRED ----> KEPT -> (freed)
 *	                      timed out)
 *
 * INFLIGHT and EXPIRED commands have an entry in the ring. EXPIRED and KEPT ones have no se_cmd:
 *LIO knows them no more, but userspace may still use their blocks.
 */
enum tcmu_cmd_state {
	TCMU_PREPARING, /* belongs to the thread that works on it */
	TCMU_WAITING,	/* in chan->waiting */
	TCMU_INFLIGHT,	/* in chan->inflight and chan->ids */
	TCMU_FINISHING, /* belongs to the thread that reaped it; if it is to be kept, in ids */
	TCMU_EXPIRED,	/* in ids */
	TCMU_KEPT,	/* in ids */
};

struct tcmu_cmd {
	struct tcmu_chan *chan;
	struct se_cmd *se_cmd; /* NULL once LIO has its answer */
	struct list_head node; /* in the list of its state */
	struct tcmu_slot slot;
	unsigned long deadline; /* jiffies; of WAITING and INFLIGHT */
	unsigned long since;	/* jiffies; when it began to wait */
	enum tcmu_cmd_state state;
	bool aborted; /* while PREPARING */
	bool has_deadline, waited, keep;
	bool has_data; /* blocks are ours, and hold what is to be written */
	u16 id;	       /* 0: none */
	u8 status;     /* SAM, of the answer */
	bool read_len_valid, has_answer_data;
	u32 read_len;
	u32 len, bidi_len;	   /* bytes of data; bidi: those coming back, of both directions */
	u32 nr, nr_bidi;	   /* blocks for them: blocks[0..nr), then nr_bidi */
	u32 iov_cnt, iov_bidi_cnt; /* runs of adjacent blocks; with has_data */
	u32 blocks[];
};

struct tcmu_cmd *tcmu_data_cmd_alloc(struct tcmu_chan *chan, struct se_cmd *se_cmd);
/**
 * Blocks with pages for the command, filled with what is to be written. Sleeps. -ENOSPC, -ENOMEM,
 * -E2BIG: none were taken.
 */
int tcmu_data_prepare(struct tcmu_cmd *cmd);
/** Copies what was read to LIO. */
void tcmu_data_finish(struct tcmu_cmd *cmd);
/** Gives the blocks back. */
void tcmu_data_put(struct tcmu_cmd *cmd);
/** Writes the io vectors into the ring from @at on; returns the bytes written. */
u32 tcmu_data_write_iovs(struct tcmu_cmd *cmd, u32 at);
u32 tcmu_data_release(struct tcmu_chan *chan, u32 first, u32 n);

sense_reason_t tcmu_cmd_queue(struct se_cmd *se_cmd);
/** Nobody finds it by its id any more. */
void tcmu_cmd_forget_id_locked(struct tcmu_cmd *cmd);
/** Frees a command that is on no list, with its blocks. ring_lock is not held. */
void tcmu_cmd_free(struct tcmu_cmd *cmd);
/** As tcmu_cmd_free(), and LIO gets @status (SAM). */
void tcmu_cmd_complete(struct tcmu_cmd *cmd, u8 status);
/** Tries the waiting commands again, soon. Any context. */
void tcmu_cmd_kick(struct tcmu_chan *chan);
void tcmu_cmd_run_work(struct work_struct *work);
void tcmu_cmd_deadline_work(struct work_struct *work);
void tcmu_cmd_block(struct tcmu_chan *chan, bool block);
/** Ends all that is in the ring, with BUSY or (@hard) an error. */
void tcmu_cmd_reset(struct tcmu_chan *chan, bool hard);
/** The channel goes, with what only userspace still knew. */
void tcmu_cmd_forget_all(struct tcmu_chan *chan);
int tcmu_cmd_init(void);
void tcmu_cmd_exit(void);

/* --- out of the ring (tcmu_finish.c) --- */

/** Takes what userspace has finished. */
void tcmu_cmd_reap(struct tcmu_chan *chan);
/** -ENOENT: no such command, or it keeps nothing. */
int tcmu_cmd_free_kept(struct tcmu_chan *chan, u16 id);
/** Userspace is gone, and what it kept with it. */
void tcmu_cmd_free_all_kept(struct tcmu_chan *chan);

/* --- task management (tcmu_tmr.c) --- */

/* slot.node: in chan->tmrs until there is room in the ring */
struct tcmu_tmr {
	struct tcmu_slot slot;
	u8 type;
	u32 count;
	u16 ids[];
};

/** LIO gives up @cmds. */
void tcmu_tmr_notify(struct se_device *se_dev, enum tcm_tmreq_table tmf, struct list_head *cmds);
/** Puts notices that wait into the ring. -ENOSPC, -ENOMEM: some wait still. */
int tcmu_tmr_push(struct tcmu_chan *chan);
/** Forgets notices that wait. */
void tcmu_tmr_drop_locked(struct tcmu_chan *chan);

/* --- the channel and the device --- */

struct tcmu_chan {
	struct kref kref;
	struct rcu_head rcu;
	struct list_head node; /* in the list of all; this and the next under its lock */
	s32 idle_s;	       /* seconds; -1: the module's */

	/* Constant once it is made. */
	struct tcmu_dev *dev; /* which outlives the uio device, not the mappings */
	struct uio_info uio;  /* uio.name: under config_lock and uio's info_lock */
	struct data_area *area;
	u64 data_off; /* bytes, from the mapping's start */
	u32 pages_per_block, max_blocks;
	struct tcmu_map map;

	struct mutex ring_lock;
	/* Under ring_lock. */
	struct tcmu_ring ring;
	struct list_head waiting, inflight; /* of tcmu_cmd, oldest first */
	struct list_head tmrs;
	u32 nr_waiting, nr_tmrs; /* commands that wait, tried ones included; notices in tmrs */
	bool open, blocked, broken, gone;
	unsigned long next_deadline; /* what deadline_work is set to; jiffies */
	struct tcmu_counters count;

	struct xarray ids; /* of commands; entries change under ring_lock, but for allocation */
	unsigned long last_used; /* jiffies; a hint */
	struct work_struct free_work;
	struct delayed_work run_work;	   /* tries waiting commands */
	struct delayed_work deadline_work; /* ends those that are late */
};

struct tcmu_dev {
	struct se_device se_dev;
	char *name;
	u32 host_id;
	struct se_dev_plug plug;
	unsigned long flags;
#define TCMU_DEV_PLUGGED    0 /* the bell waits for the end of a batch */
#define TCMU_DEV_TMR_NOTIFY 1

	struct mutex config_lock;
	/* Under config_lock. */
	struct tcmu_chan *chan; /* commands use it without: they come between enable and removal */
	char dev_config[TCMU_CONFIG_LEN];
	u32 area_mb, pages_per_block, ring_mb; /* fixed once enabled */
	u32 reserve_kb;
	s32 idle_s; /* -1: the module's */

	/* Single words, read without a lock. */
	u64 dev_size;
	int nl_reply_supported;
	u32 cmd_time_out;   /* ms; 0: none */
	s32 qfull_time_out; /* ms; -1: as cmd_time_out; 0: do not wait */
};

static inline struct tcmu_dev *to_tcmu_dev(struct se_device *se_dev)
{
	return container_of(se_dev, struct tcmu_dev, se_dev);
}

struct se_device *tcmu_device_alloc(struct se_hba *hba, const char *name);
int tcmu_device_configure(struct se_device *se_dev);
void tcmu_device_destroy(struct se_device *se_dev);
void tcmu_device_free(struct se_device *se_dev);
/** The channel of an enabled device, counted; NULL: it is not enabled. */
struct tcmu_chan *tcmu_device_chan(struct tcmu_dev *dev);
/** Makes the uio device's name anew after dev_config has changed. config_lock is held. */
int tcmu_device_rename(struct tcmu_dev *dev);
bool tcmu_chan_hold(struct tcmu_chan *chan);
/** Any context. */
void tcmu_chan_put(struct tcmu_chan *chan);

/* --- userspace's door (tcmu_uio.c) --- */

int tcmu_uio_register(struct tcmu_chan *chan);
int tcmu_uio_init(void);
void tcmu_uio_exit(void);

/* --- netlink --- */

/* What an event tells beyond which device. */
struct tcmu_nl_extra {
	u16 attr; /* TCMU_ATTR_DEV_CFG, _DEV_SIZE or _WRITECACHE */
	const char *string;
	u64 number;
};

/**
 * Sends an event of @dev and, where userspace answers, waits for its answer and returns it.
 * -EAGAIN: netlink is blocked. -EBUSY: another event of the device is under way. -ETIMEDOUT,
 * -EINTR.
 */
int tcmu_nl_send(struct tcmu_dev *dev, struct tcmu_chan *chan, int event,
		 const struct tcmu_nl_extra *extra);
/** Has userspace said that it answers? */
bool tcmu_nl_replies(void);
int tcmu_nl_init(void);
void tcmu_nl_exit(void);

/* --- configfs --- */

extern struct configfs_attribute *tcmu_action_attrs[];
ssize_t tcmu_configfs_set(struct se_device *se_dev, const char *page, ssize_t count);
ssize_t tcmu_configfs_show(struct se_device *se_dev, char *page);
/** All attributes: LIO's for passthrough, and ours. NULL: no memory. kfree() it. */
struct configfs_attribute **tcmu_configfs_attribs(void);

/* --- memory of all channels (tcmu_shrink.c) --- */

int tcmu_shrink_init(void);
void tcmu_shrink_exit(void);
/** Makes the channel's data area, and has it shrink with the others. */
int tcmu_shrink_add(struct tcmu_chan *chan, u32 reserve_blocks, s32 idle_s);
/** Nobody uses it any more. The area stays until the channel does. */
void tcmu_shrink_remove(struct tcmu_chan *chan);
void tcmu_shrink_set_idle(struct tcmu_chan *chan, s32 idle_s);
/** Steals for those who wait. Sleeps. */
void tcmu_shrink_serve(void);
/** Has @work done, at the latest before the module goes. */
void tcmu_shrink_queue(struct work_struct *work);
/** A ring has more pages than an idle one needs. */
void tcmu_shrink_tick_soon(void);
u64 tcmu_shrink_now(void);

#endif
