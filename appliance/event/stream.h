/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A byte stream (TCP or Unix socket) on one reactor, and listeners.
 *
 * Receiving: bytes are offered to input(), which consumes what it can; the rest stays and is
 * offered again with more. input() may hand over a buffer (stream_read_into) for the payload that
 * follows: the bytes already received are copied, the others are received straight into it. A
 * paused stream is not read from: the peer's window closes (backpressure). The receive buffer is
 * bounded by rx_size and, on an idle connection, not there at all. Sending: stream_send() queues;
 * all that a turn queued leaves in as few sendmsg as possible, with no copy; sent() is called when
 * the kernel has taken the whole piece (or the stream has died).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/list.h"
#include "base/reason.h"
#include "event/reactor.h"

struct stream;
struct stream_tx;

struct stream_ops {
	/* Returns the number of bytes consumed (<= @len), or -errno to close the stream with it. */
	ssize_t (*input)(struct stream *s, void *ctx, const uint8_t *data, size_t len);
	/* The buffer of stream_read_into() is full. Returns 0 or -errno to close. */
	int (*filled)(struct stream *s, void *ctx);
	/* The send queue has fallen below the low-water mark again after stream_tx_full().
	 * Optional. */
	void (*drained)(struct stream *s, void *ctx);
	/*
	 * Last call: no other callback comes after it, and @s is gone when it returns. @err is 0
	 * for the peer's orderly end, -errno otherwise (-ECANCELED: stream_close was called).
	 */
	void (*closed)(struct stream *s, void *ctx, int err);
};

struct stream_options {
	size_t rx_size; /* receive buffer; at least the largest thing input() must see whole */
	size_t tx_high, tx_low; /* send queue marks in bytes */
};

/** Takes @fd over (also on failure). Starts reading at once. */
int stream_open(struct reactor *r, int fd, const struct stream_options *opt,
		const struct stream_ops *ops, void *ctx, struct stream **ret_stream);
/** Within input() or filled() only: the next @len bytes go to @buf; then filled() is called. */
void stream_read_into(struct stream *s, void *buf, size_t len);
void stream_pause(struct stream *s);
/** What was received already is offered to input() from a deferred task, not from within. */
void stream_resume(struct stream *s);

#define STREAM_TX_IOV 4

struct stream_tx {
	struct iovec iov[STREAM_TX_IOV];
	int niov;
	void (*sent)(struct stream_tx *tx, int err);
	struct list_node link; /* the stream's */
};

/** Queues @tx behind what is queued. @tx and its bytes stay untouched until sent(). */
void stream_send(struct stream *s, struct stream_tx *tx);
/**
 * The send queue has risen above its high-water mark and not fallen to the low one since: stop
 * making more until drained().
 */
bool stream_tx_full(const struct stream *s);
/** Bytes queued and not yet taken by the kernel. */
size_t stream_tx_bytes(const struct stream *s);
/**
 * Closes: when @flush, after what is queued has been sent (bounded by 5 s), else at once.
 * All sent() callbacks run (with -ECANCELED where it applies), then closed(). Idempotent.
 */
void stream_close(struct stream *s, bool flush);
int stream_fd(const struct stream *s);
struct reactor *stream_reactor(const struct stream *s);

/* --- listeners --- */

struct listener;
/** @fd is handed over to the callee. Runs on the listener's reactor. */
typedef void (*listener_accept_fn)(void *ctx, int fd, const struct sockaddr_storage *peer);

/**
 * Listens on @addr: "1.2.3.4:3260", "[::1]:3260", or "unix:PATH" (a stale socket file that nobody
 * listens on is replaced; its mode is 0600). Port 0 lets the kernel choose. What is provided for
 * the address is taken (listen_provided.h). Errors are explained in @why.
 */
int listener_open(struct reactor *r, const char *addr, listener_accept_fn fn, void *ctx,
		  struct listener **ret_listener, struct reason *why);
/** The address as bound, in the form that listener_open takes. */
const char *listener_address(const struct listener *l);
void listener_close(struct listener *l);
/** Parses "host:port" / "[v6]:port" (numeric) to a socket address. -EINVAL with a reason. */
int stream_parse_address(const char *addr, struct sockaddr_storage *ret_sa, socklen_t *ret_len,
			 struct reason *why);
/** Writes "1.2.3.4:5" or "[::1]:5" or "unix". */
void stream_format_address(const struct sockaddr_storage *sa, char *buf, size_t size);
