/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a block device that is accessed by many at once may answer. See model.c for the theory.
 *
 * A driver tells the model of every operation twice: when it is about to be sent and when its
 * answer has come. The driver is one thread, so the order of these calls is the model's clock.
 * Whatever cannot be explained by some order of the operations that respects this clock is a
 * violation: the call returns -EILSEQ and model_report() says what was expected and what was seen.
 * After a violation the model is only good for its report.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum model_kind {
	MODEL_READ,
	MODEL_WRITE,	/* every block gets the operation's value */
	MODEL_SAME,	/* so here; told apart for whoever encodes values into blocks */
	MODEL_ATOMIC,	/* a write whose blocks change together */
	MODEL_ZERO,	/* every block becomes zero */
	MODEL_MAY_ZERO, /* a hint: each block becomes zero or stays (UNMAP, TRIM) */
	MODEL_CAW,	/* COMPARE AND WRITE */
};

enum model_outcome {
	MODEL_DONE,    /* acknowledged */
	MODEL_REFUSED, /* answered with an error that says it did not happen */
	MODEL_UNKNOWN, /* may have happened, wholly or in part, but no longer will */
};

/** The value of a block of zeros; others are the ids of the operations that wrote them. */
#define MODEL_VALUE_ZERO 0
/** What a reader reports for a block that holds no whole value. */
#define MODEL_VALUE_TORN UINT64_MAX

struct model;
struct model_op;

struct model_options {
	size_t blocks;
	bool atomic_reads; /* a concurrent read must see a CAW or an atomic write wholly or not at
			      all */
	bool torn_reads;   /* a block that is read while it is written may be a mixture */
};

struct model *model_new(const struct model_options *options);
/** Frees the model and every operation that has not ended. */
void model_free(struct model *m);

/**
 * An operation on @count blocks from @first is about to be sent by @client. For MODEL_CAW @expected
 * gives the value each block is compared with (copied). The operation stays the caller's until one
 * of the model_end calls.
 */
struct model_op *model_begin(struct model *m, enum model_kind kind, unsigned client, size_t first,
			     size_t count, const uint64_t *expected);

/** The value that this operation writes; unique in the model's life. */
uint64_t model_op_value(const struct model_op *op);

/**
 * The operation, still without an answer, is about to be sent once more, so that it may land again
 * (never a COMPARE AND WRITE). Returns false without memory.
 */
bool model_retry(struct model *m, struct model_op *op);

/** The answer to anything but a read has come. Consumes @op. Returns 0 or -EILSEQ. */
int model_end(struct model *m, struct model_op *op, enum model_outcome outcome);

/** A read returned @values, one a block. Consumes @op. Returns 0 or -EILSEQ. */
int model_end_read(struct model *m, struct model_op *op, const uint64_t *values);

/** A COMPARE AND WRITE answered MISCOMPARE. Consumes @op. Returns 0 or -EILSEQ. */
int model_end_miscompare(struct model *m, struct model_op *op);

/** A value that @block may well hold now (to aim a CAW with) and what wrote it; false if none is
 * known. */
bool model_guess(const struct model *m, size_t block, uint64_t *ret_value,
		 enum model_kind *ret_kind);

/** How many values @block may hold for a read that begins now. */
size_t model_possible(const struct model *m, size_t block);

/** The first violation, in words; empty before it. */
const char *model_report(const struct model *m);
