/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command ring of a TCMU device: the memory that the kernel shares with us, and nothing else.
 *
 *	map:  | mailbox | command ring ...             | data area ...                 |
 *	      0         cmdr_off                       cmdr_off + cmdr_size         size
 *
 *	ring:   done and told | commands in flight, taken | not taken yet |
 *	        ... tail ----------------------------> next ---------> head ...
 *
 * The kernel moves head, we move tail; next is ours alone. The layout is that of
 * <linux/target_core_user.h>, version 2.
 *
 * Commands end in any order, entries are given back in order: the end of a command is written into
 * the entry at the tail, with the command's number, whichever command that entry brought. So an
 * entry may be overwritten while its own command runs: all of a command is copied when it is taken.
 *
 * A command that must not be carried out twice has its entry for itself: no other is ended there
 * before it. So what it is stays to be read, and how far it has come is marked there: in bits of
 * the entry's flags that the kernel does not look at. The memory is the kernel's, so all that
 * outlives our process. A process that comes after it finds, of each such command, one mark:
 *
 *	complete: answer, number and mark of the command into the entry at the tail
 *	          its mark in its own entry is taken away
 *	          the tail moves on
 *
 * Stopped after the first step, there are two marks with one number, the one at the tail. After the
 * second, the one at the tail says DONE. After the third, none.
 *
 * Trust: every offset, length and count is read once and checked against the map before it is used.
 * An entry that breaks the rules stays where it is; nothing is to be taken or ended after that.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define TCMU_RING_CDB_MAX   263	       /* 8 bytes and an additional length of one byte */
#define TCMU_RING_DATA_MAX  (1u << 30) /* bytes of one command; more is nonsense */
#define TCMU_RING_SENSE_MAX 96

struct tcmu_ring {
	/* constant after init */
	uint8_t *map;
	size_t size;
	uint32_t cmdr_off, cmdr_size;
	size_t data_off;
	bool read_len; /* the kernel understands short reads */
	/* the device's thread */
	uint32_t next, tail; /* offsets in the command ring */
	unsigned inflight;   /* commands taken and not ended */
	bool retaken;	     /* a command was retaken, the first has @first_id */
	uint16_t first_id;
};

/** How far a command has come that must not be carried out twice; bits of an entry's flags. */
enum tcmu_mark {
	TCMU_MARK_NONE = 0,
	TCMU_MARK_BEGUN = 0x40, /* the medium may have been changed, as the command says */
	TCMU_MARK_DONE = 0x80,	/* it has been: GOOD is the answer */
};

enum tcmu_taken { TCMU_TAKEN_NONE, TCMU_TAKEN_CMD, TCMU_TAKEN_TMR };

/** An entry that was taken. What it points to stays in the ring until the next call. */
struct tcmu_entry {
	uint16_t id; /* of the command */
	/* command: */
	uint32_t at;	     /* where its entry is, offset in the ring */
	enum tcmu_mark mark; /* of tcmu_ring_retake() */
	uint32_t n_iov;	     /* of its data, not of a bidirectional command's data-in */
	uint16_t cdb_len;
	uint8_t cdb[TCMU_RING_CDB_MAX];
	/* task management: */
	uint8_t tmr; /* TCMU_TMR_... */
	uint32_t n_ids;
	/* command: its iovecs, task management: the numbers of commands; offset in the map */
	size_t list;
};

/**
 * Looks at the mailbox of the @size bytes at @map and goes on at its tail. -EPROTO with *@ret_what
 * (constant text) when it is none that we understand.
 */
int tcmu_ring_init(struct tcmu_ring *r, void *map, size_t size, const char **ret_what);
/** Whether there is an entry to take. */
bool tcmu_ring_ready(const struct tcmu_ring *r);
/** Takes the next command or task management entry: enum tcmu_taken, or -EPROTO, *@ret_what. */
int tcmu_ring_take(struct tcmu_ring *r, struct tcmu_entry *ret_e, const char **ret_what);
/**
 * Instead of tcmu_ring_take(), in a ring that a process before us has used: passes over all entries
 * and returns those of commands with a mark, each once. Of one that is DONE only the number is
 * told.
 */
int tcmu_ring_retake(struct tcmu_ring *r, struct tcmu_entry *ret_e, const char **ret_what);
/**
 * The data of the command just taken, as pieces of the map; neighbours are joined. @iov has room
 * for e->n_iov. Returns how many pieces there are, or -EPROTO; *@ret_total: their bytes.
 */
int tcmu_ring_iovs(const struct tcmu_ring *r, const struct tcmu_entry *e, struct iovec *iov,
		   uint32_t *ret_total, const char **ret_what);
/** Number @i of the commands that a task management entry just taken is about. */
uint16_t tcmu_ring_tmr_id(const struct tcmu_ring *r, const struct tcmu_entry *e, uint32_t i);

/** Marks the entry at @at, of a command taken and not ended. */
void tcmu_ring_mark(struct tcmu_ring *r, uint32_t at, enum tcmu_mark mark);
/** Whether the entry at @at is the next that an answer will be written to. */
bool tcmu_ring_is_next(struct tcmu_ring *r, uint32_t at);

struct tcmu_result {
	uint16_t id;
	uint8_t status;
	enum tcmu_mark mark; /* of the command, NONE or DONE */
	uint32_t at;	     /* its entry, where it has that mark */
	bool has_read_len;   /* fewer bytes were read than the command has room for */
	uint32_t read_len;   /* not 0 */
	const uint8_t *sense;
	uint8_t sense_len;
};

/** Ends a command that was taken. The kernel looks when it is kicked. -EPROTO, *@ret_what. */
int tcmu_ring_complete(struct tcmu_ring *r, const struct tcmu_result *res, const char **ret_what);
