/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A stream's insides, shared by stream.c (life, sending) and stream_rx.c (receiving). */
#pragma once

#include "event/iobuf.h"
#include "event/reactor_private.h"
#include "event/stream.h"

/*
 *	OPEN -> FLUSHING    stream_close(flush), or the peer's end: nothing more is read
 *	OPEN, FLUSHING -> ENDING    flushed, late, or broken: ops are cancelled
 *	ENDING -> gone      when no op is in flight any more
 */
enum stream_state { STREAM_OPEN, STREAM_FLUSHING, STREAM_ENDING };

/* Where the receive in flight puts its bytes. */
enum stream_rx {
	RX_NONE, /* none in flight */
	RX_RING, /* a buffer of the reactor's rx_ring, taken when bytes come */
	RX_OWN,	 /* behind what the stream's own buffer holds */
	RX_INTO, /* the buffer of stream_read_into() */
	RX_POLL, /* nowhere: readiness only, where the kernel has no buffer rings */
};

#define STREAM_FEW_IOV 8

struct stream {
	/* constant */
	struct reactor *r;
	int fd;
	struct stream_options opt;
	const struct stream_ops *ops;
	void *ctx;

	enum stream_state state;
	int err; /* for closed() */
	struct reactor_task end_task;
	struct reactor_timer flush_timer;

	/* receiving */
	enum stream_rx rx_to;
	bool paused, into_active, poll_first;
	struct reactor_op rx_op;
	struct reactor_task rx_task; /* offers what is there after stream_resume() */
	uint8_t *rx;		     /* what was received and not consumed: [rx_off, rx_end) */
	uint32_t rx_off, rx_end, rx_cap;
	int rx_bid;	      /* rx is this buffer of the rx_ring, or -1 */
	struct iobuf *rx_buf; /* rx is this buffer of the pool, or NULL */
	struct iobuf_waiter rx_wait;
	uint8_t *into;
	size_t into_left;

	/* sending */
	bool sending, full;
	struct reactor_op tx_op;
	struct reactor_task tx_task;
	struct list_node tx_queue;
	size_t tx_bytes;
	size_t tx_head_sent; /* bytes of the first that the kernel has taken */
	struct msghdr tx_msg;
	struct iovec tx_iov[STREAM_FEW_IOV]; /* when the reactor's scratch is used up */
};

/** Begins the end: cancels, then closed(@err) from a deferred task once nothing is in flight. */
void stream_end(struct stream *s, int err);
/** Reads no more; ends when what is queued has been sent, with @err. */
void stream_flush_and_end(struct stream *s, int err);

void stream_rx_init(struct stream *s);
/** Starts a receive if one should be in flight and is not. */
void stream_rx_arm(struct stream *s);
/** Stops receiving for good: cancels what is in flight. */
void stream_rx_stop(struct stream *s);
/** Gives the memory back; nothing is in flight. */
void stream_rx_release(struct stream *s);
