/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port on the wire and in shared memory: the one file that both sides must agree on.
 *
 * 1. A Unix SOCK_SEQPACKET socket carries the handshake: one packet is one message, native byte
 *    order (both ends are on one host), every message starting with struct port_msg.
 *
 *	client				daemon
 *	HELLO {versions, name}	  ->
 *				  <-	HELLO {version}
 *	LIST {after}		  ->			(any number of times)
 *				  <-	EXPORTS {n, more, export...}
 *	ATTACH {name, flags}	  ->			(once)
 *				  <-	ATTACHED {export, layout} + memfd, doorbell, claim
 *				  <-	CHANGED {export}	(whenever it has)
 *				  <-	GONE			(the LUN was removed)
 *
 *    A refusal is ERROR {errno, text}. A closed socket ends everything.
 *
 * 2. The memfd, PORT_SHM_SIZE bytes, sealed against any change of its size:
 *
 *	0	  +---------------------------+
 *		  | mailbox: struct port_box  |	tail, doorbell flag, what is done, each on a line
 *	4096	  +---------------------------+
 *		  | submission ring:          |	PORT_RING commands, written by the client
 *		  | struct port_cmd [128]     |
 *	12288	  +---------------------------+
 *		  | completion table:         |	one cell a slot, written by the daemon; each
 *		  | struct port_cell [64]     |	waiter sleeps on the state of its own
 *	16384	  +---------------------------+
 *		  | (unused)                  |
 *	4 MiB	  +---------------------------+
 *		  | slot 0: 4 MiB             |	a command's data lies at the start of its slot;
 *		  | slot 1: 4 MiB             |	addresses are plenty, pages come when touched
 *		  | ... slot 63               |	and leave by FALLOC_FL_PUNCH_HOLE
 *		  +---------------------------+
 *
 * 3. The ring has one consumer. Its head is the daemon's own affair and is not shared: a slot holds
 *    at most one command that is not completed, there are more entries than slots, so the ring
 *    cannot overflow as long as the client keeps to that.
 *
 * 4. Version 3 added what is marked so below: ops, PORT_NOTIFY, fields that were padding. HELLO
 *    settles on the highest version that both speak, and a client of version 2 finds version 2.
 */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PORT_VERSION	 3u
#define PORT_VERSION_MIN 2u
#define PORT_MAGIC	 0x42624574u

#define PORT_SLOTS     64u
#define PORT_RING      128u /* entries; a power of two, more than PORT_SLOTS */
#define PORT_SLOT_SIZE (4u << 20)

#define PORT_BOX_OFF   0u
#define PORT_RING_OFF  4096u
#define PORT_CELLS_OFF 12288u
#define PORT_META_SIZE 16384u
#define PORT_DATA_OFF  ((uint64_t)PORT_SLOT_SIZE)
#define PORT_SHM_SIZE  (PORT_DATA_OFF + (uint64_t)PORT_SLOTS * PORT_SLOT_SIZE)

/* --- shared memory --- */

/** The mailbox. The client writes tail; both change the others. */
struct port_box {
	_Atomic uint32_t tail; /* commands ever submitted, modulo 2^32 */
	uint8_t pad0[60];
	/*
	 * 1: the daemon looks at the ring only when the doorbell rings. It is set by the daemon,
	 * which looks at the ring once more afterwards; who submits clears it, and rings if it was
	 * set. Store tail / load sleeping here and store sleeping / load tail there are all
	 * sequentially consistent: at least one side sees the other.
	 */
	_Atomic uint32_t sleeping;
	uint8_t pad1[60];
	/*
	 * Version 3. Bit i: the command of slot i, sent with PORT_NOTIFY, is done, and its cell
	 * says so. The daemon sets bits, the client takes them all at once.
	 */
	_Atomic uint64_t done;
	/*
	 * Version 3; a futex. 1: who takes `done` sleeps, or is about to. He sets it and looks at
	 * `done` once more; the daemon sets bits, looks, clears it and wakes: as with `sleeping`.
	 */
	_Atomic uint32_t reaper;
	uint8_t pad2[52];
};
static_assert(sizeof(struct port_box) == 192, "layout");

enum port_op {
	PORT_READ = 1,
	PORT_WRITE = 2,
	PORT_FLUSH = 3,
	PORT_TRIM = 4,
	PORT_ZERO = 5,
	PORT_EXTENTS = 6, /* reply: struct port_extent_wire[] in the slot, result: their number */
	PORT_PREFETCH = 7,
	/* Version 3: */
	PORT_WRITE_SAME = 8, /* `room` bytes at the start of the slot, repeated over the range */
	/*
	 * The slot holds 2 * len bytes: what is compared, then what is written. -EILSEQ: it
	 * differs, and the slot starts with the offset (uint64_t) of the first byte that does.
	 */
	PORT_COMPARE_AND_WRITE = 9,
};

enum port_flags {
	PORT_FUA = 1 << 0,	/* what changes */
	PORT_MAY_TRIM = 1 << 1, /* ZERO */
	PORT_FAST = 1 << 2,	/* ZERO: -EOPNOTSUPP rather than slow */
	/*
	 * WRITE, TRIM, ZERO, WRITE_SAME: sent before, on a link that was lost; nobody knows what
	 * came of it
	 */
	PORT_REPLAY = 1 << 3,
	/* Version 3. Its end is told in port_box.done; nobody sleeps on the cell. */
	PORT_NOTIFY = 1 << 4,
};

/** A command. Its data lie at the start of slot `tag`. */
struct port_cmd {
	_Atomic uint64_t word[8];
};
static_assert(sizeof(struct port_cmd) == 64, "layout");
static_assert(PORT_RING_OFF + PORT_RING * sizeof(struct port_cmd) == PORT_CELLS_OFF, "layout");

/** The same, as each side holds it in memory of its own. */
struct port_cmd_image {
	uint32_t tag; /* 0 .. PORT_SLOTS - 1 */
	uint16_t op, flags;
	uint64_t off, len;    /* bytes */
	uint32_t room;	      /* EXTENTS: how many may be returned; WRITE_SAME: bytes; else 0 */
	uint32_t reserved0;   /* 0 */
	uint64_t reserved[4]; /* 0 */
};
static_assert(sizeof(struct port_cmd_image) == sizeof(struct port_cmd), "layout");

enum port_cell_state {
	PORT_CELL_IDLE = 0,
	PORT_CELL_BUSY = 1,    /* submitted; the waiter is not asleep */
	PORT_CELL_WAITING = 2, /* submitted; the waiter sleeps (futex) on the state */
	PORT_CELL_DONE = 3,    /* result is valid */
	PORT_CELL_LOST = 4,    /* set by the client itself: the connection has ended */
};

struct port_cell {
	_Atomic uint32_t state; /* the futex; shared, so not FUTEX_PRIVATE */
	_Atomic int32_t result; /* 0, a count, or -errno */
	/*
	 * Version 3. COMPARE_AND_WRITE: 0 when it is submitted; the daemon sets 1 when all has
	 * compared equal, before it writes. Unanswered, it has changed nothing at 0, and is a write
	 * at 1.
	 */
	_Atomic uint32_t matched;
	uint8_t pad[52];
};
static_assert(sizeof(struct port_cell) == 64, "layout");
static_assert(PORT_CELLS_OFF + PORT_SLOTS * sizeof(struct port_cell) <= PORT_META_SIZE, "layout");

enum port_extent_flags {
	PORT_EXTENT_HOLE = 1 << 0,
	PORT_EXTENT_ZERO = 1 << 1,
};

struct port_extent_wire {
	uint64_t len;
	uint64_t flags; /* PORT_EXTENT_* */
};
#define PORT_EXTENTS_MAX 2048u	      /* of one command */
#define PORT_RANGE_MAX	 (4ull << 30) /* bytes; of a command that carries no data, or a pattern */
#define PORT_PATTERN_MAX (64u << 10)  /* bytes; of WRITE_SAME */
#define PORT_COMPARE_MAX (PORT_SLOT_SIZE / 2) /* bytes; of COMPARE_AND_WRITE */
static_assert(PORT_EXTENTS_MAX * sizeof(struct port_extent_wire) <= PORT_SLOT_SIZE, "layout");

/** Whether @op changes the LUN. */
static inline bool port_op_changes(unsigned op)
{
	return op == PORT_WRITE || op == PORT_TRIM || op == PORT_ZERO || op == PORT_WRITE_SAME ||
	       op == PORT_COMPARE_AND_WRITE;
}

/** How many bytes at the start of its slot are a command's data, whichever way they go. */
static inline uint64_t port_data_len(unsigned op, uint64_t len, uint32_t room)
{
	switch (op) {
	case PORT_READ:
	case PORT_WRITE:
		return len;
	case PORT_WRITE_SAME:
		return room;
	case PORT_COMPARE_AND_WRITE:
		return 2 * len;
	default:
		return 0;
	}
}

/** One load a word: whatever is decided about the image stays true of it. */
static inline void port_cmd_load(struct port_cmd_image *ret_image, const struct port_cmd *cmd)
{
	uint64_t w[8];

	for (int i = 0; i < 8; i++)
		w[i] = atomic_load_explicit((_Atomic uint64_t *)&cmd->word[i],
					    memory_order_relaxed);
	__builtin_memcpy(ret_image, w, sizeof(w));
}

static inline void port_cmd_store(struct port_cmd *cmd, const struct port_cmd_image *image)
{
	uint64_t w[8];

	__builtin_memcpy(w, image, sizeof(w));
	for (int i = 0; i < 8; i++)
		atomic_store_explicit(&cmd->word[i], w[i], memory_order_relaxed);
}

static inline struct port_box *port_shm_box(void *shm)
{
	return (struct port_box *)((char *)shm + PORT_BOX_OFF);
}

static inline struct port_cmd *port_shm_cmd(void *shm, uint32_t index)
{
	return (struct port_cmd *)((char *)shm + PORT_RING_OFF) + (index & (PORT_RING - 1));
}

/** @tag below PORT_SLOTS. */
static inline struct port_cell *port_shm_cell(void *shm, uint32_t tag)
{
	return (struct port_cell *)((char *)shm + PORT_CELLS_OFF) + tag;
}

/** @tag below PORT_SLOTS. */
static inline void *port_shm_data(void *shm, uint32_t tag)
{
	return (char *)shm + PORT_DATA_OFF + (uint64_t)tag * PORT_SLOT_SIZE;
}

/* --- handshake --- */

#define PORT_MSG_MAX	     65536u /* bytes of a packet */
#define PORT_NAME_MAX	     64u    /* with the terminating NUL */
#define PORT_DESCRIPTION_MAX 192u
#define PORT_CLIENT_NAME_MAX 32u

enum port_msg_type {
	PORT_MSG_HELLO = 1,
	PORT_MSG_LIST = 2,
	PORT_MSG_EXPORTS = 3,
	PORT_MSG_ATTACH = 4,
	PORT_MSG_ATTACHED = 5,
	PORT_MSG_CHANGED = 6,
	PORT_MSG_GONE = 7,
	PORT_MSG_ERROR = 8,
};

struct port_msg {
	uint32_t magic; /* PORT_MAGIC */
	uint32_t type;	/* enum port_msg_type */
	uint32_t len;	/* of the whole message, bytes */
	uint32_t reserved;
};
static_assert(sizeof(struct port_msg) == 16, "layout");

/** Client: the range it speaks. Daemon: the one chosen, twice. */
struct port_msg_hello {
	struct port_msg h;
	uint32_t version_min, version_max;
	char name[PORT_CLIENT_NAME_MAX];
};
static_assert(sizeof(struct port_msg_hello) == 56, "layout");

enum port_export_flags {
	PORT_EXPORT_READ_ONLY = 1 << 0,
	PORT_EXPORT_FAST_ZERO = 1 << 1,
	PORT_EXPORT_ROTATIONAL = 1 << 2,
	PORT_EXPORT_TRIM = 1 << 3,
};

struct port_export_wire {
	char name[PORT_NAME_MAX];
	char description[PORT_DESCRIPTION_MAX];
	uint8_t uuid[16]; /* who it is, whatever it is called */
	uint64_t size;	  /* bytes */
	uint32_t block_size;
	uint32_t flags; /* PORT_EXPORT_* */
};
static_assert(sizeof(struct port_export_wire) == 288, "layout");

/** Exports in the order of their names, those behind `after` ("": from the start). */
struct port_msg_list {
	struct port_msg h;
	char after[PORT_NAME_MAX];
};
static_assert(sizeof(struct port_msg_list) == 80, "layout");

#define PORT_EXPORTS_MAX 128u /* in one message */

struct port_msg_exports {
	struct port_msg h;
	uint32_t n;
	uint32_t more; /* 1: ask again, after the last one's name */
	struct port_export_wire exports[];
};
static_assert(sizeof(struct port_msg_exports) == 24, "layout");
static_assert(sizeof(struct port_msg_exports) +
			      PORT_EXPORTS_MAX * sizeof(struct port_export_wire) <=
		      PORT_MSG_MAX,
	      "layout");

enum port_attach_flags { PORT_ATTACH_READ_ONLY = 1 << 0 };

struct port_msg_attach {
	struct port_msg h;
	char lun[PORT_NAME_MAX];
	uint32_t flags; /* PORT_ATTACH_* */
	uint32_t reserved;
};
static_assert(sizeof(struct port_msg_attach) == 88, "layout");

/**
 * Comes with three descriptors: the memfd, the eventfd that is the daemon's doorbell, and a claim.
 * As long as the client holds the claim, the daemon after this one waits for its replays, for a
 * while. When the link is lost, a client keeps the claim until all that it replays is answered.
 */
struct port_msg_attached {
	struct port_msg h;
	struct port_export_wire export;
	uint64_t shm_size; /* PORT_SHM_SIZE */
	uint32_t slots, ring, slot_size, reserved;
};
static_assert(sizeof(struct port_msg_attached) == 328, "layout");

struct port_msg_changed {
	struct port_msg h;
	struct port_export_wire export;
};
static_assert(sizeof(struct port_msg_changed) == 304, "layout");

struct port_msg_gone {
	struct port_msg h;
};

struct port_msg_error {
	struct port_msg h;
	int32_t err; /* -errno */
	uint32_t reserved;
	char text[200];
};
static_assert(sizeof(struct port_msg_error) == 224, "layout");
