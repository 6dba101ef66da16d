/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Each block is a register. Every write gives it a value used only once (the operation's id), so a
 *value that is read names the write it came from. For each block we keep the *candidates*: the
 *writes whose value a read may still see.
 *
 * Times are ticks of the model's clock; it ticks at each begin and each end. A candidate has
 *
 *   order_end   any write that begins after it comes after this one. At first never; when the write
 *is answered, that moment; for a successful CAW that replaced X, X's order_end if earlier, for
 *nothing comes between X and the CAW (but not before X's start, so that in a chain of CAWs none
 *seems later than its successor). effective   it surely happened: acknowledged, or seen by someone.
 *   dead_at     the moment from which a read that begins later cannot see it; never, while alive.
 *
 * A read that ran from s to now may see a candidate that is alive or died after s. What we learn,
 *and what kills:
 *
 *   1. W is known to have happened (acknowledged, or read): every C with C.order_end < W.start was
 *overwritten by W.
 *   2. A read, or the comparison of a CAW, that began at s saw W: every other C answered before s
 *came before that sight and was not there any more, so it came before W.
 *   3. A CAW that replaced X: X is dead, and no second CAW may ever replace that same X. If V,
 *known to have happened, began after the CAW's order_end, it overwrote the CAW too.
 *
 * Each rule only removes what no order of the operations can show, so the model accuses no correct
 *server; concurrent writes may land in any order and both stay until something tells them apart. A
 *hint that may zero is a candidate that never becomes effective by its acknowledgement. Zero is
 *written by many operations: a zero that was read may come from any of the zero candidates, and the
 *rules apply as far as they hold for all of them.
 *
 * A write that is sent again (its connection was lost) may land twice, so a CAW that replaced it in
 *between does not bury it.
 *
 * Dead candidates leave when every operation in flight began after their death. Each block keeps
 *its last operations for the report.
 */
#include "model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/list.h"

#define NEVER	    UINT64_MAX
#define HISTORY_LEN 24u

struct model_op {
	struct list_node in_flight;
	uint64_t id, start, end;
	size_t first, count;
	enum model_kind kind;
	unsigned client;
	unsigned refs; /* the driver's and one a candidate */
	uint64_t expected[];
};

struct candidate {
	struct model_op *op;
	uint64_t value;
	uint64_t order_end;
	uint64_t dead_at;
	bool effective;
	bool replaced; /* by a successful CAW */
};

struct past {
	uint64_t id, start, end, value;
	size_t first, count;
	enum model_kind kind;
	unsigned client;
	const char *outcome;
};

struct block {
	struct candidate *candidates;
	unsigned n, room;
	struct past history[HISTORY_LEN];
	unsigned history_next;
};

struct model {
	struct model_options options;
	struct list_node in_flight; /* by start, the oldest first */
	uint64_t clock;
	uint64_t next_id;
	struct block *blocks;
	char *report;
};

static const char *const kind_names[] = {
	[MODEL_READ] = "read",
	[MODEL_WRITE] = "write",
	[MODEL_SAME] = "write same",
	[MODEL_ATOMIC] = "atomic write",
	[MODEL_ZERO] = "zero",
	[MODEL_MAY_ZERO] = "unmap",
	[MODEL_CAW] = "compare and write",
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* ---- life ---- */

struct model *model_new(const struct model_options *options)
{
	struct model *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->options = *options;
	m->next_id = 1;
	list_init(&m->in_flight);
	m->blocks = calloc(options->blocks, sizeof(*m->blocks));
	if (!m->blocks) {
		free(m);
		return NULL;
	}
	return m;
}

static void op_unref(struct model_op *op)
{
	if (--op->refs == 0)
		free(op);
}

void model_free(struct model *m)
{
	struct list_node *n, *next;

	if (!m)
		return;
	list_for_each_safe (n, next, &m->in_flight)
		op_unref(container_of(n, struct model_op, in_flight));
	for (size_t b = 0; b < m->options.blocks; b++) {
		for (unsigned i = 0; i < m->blocks[b].n; i++)
			op_unref(m->blocks[b].candidates[i].op);
		free(m->blocks[b].candidates);
	}
	free(m->blocks);
	free(m->report);
	free(m);
}

const char *model_report(const struct model *m)
{
	return m->report ? m->report : "";
}

uint64_t model_op_value(const struct model_op *op)
{
	return op->kind == MODEL_ZERO || op->kind == MODEL_MAY_ZERO ? MODEL_VALUE_ZERO : op->id;
}

/* ---- report ---- */

static void print_time(FILE *f, uint64_t t)
{
	if (t == NEVER)
		fputs("-", f);
	else
		fprintf(f, "%" PRIu64, t);
}

static void print_value(FILE *f, uint64_t value)
{
	if (value == MODEL_VALUE_ZERO)
		fputs("zeros", f);
	else if (value == MODEL_VALUE_TORN)
		fputs("no whole value", f);
	else
		fprintf(f, "#%" PRIu64, value);
}

static void print_op(FILE *f, const struct model_op *op)
{
	fprintf(f, "#%" PRIu64 " %s by client %u, blocks %zu+%zu, from %" PRIu64 " to ", op->id,
		kind_names[op->kind], op->client, op->first, op->count, op->start);
	print_time(f, op->end);
}

static void print_candidates(FILE *f, const struct block *block, uint64_t since)
{
	for (unsigned i = 0; i < block->n; i++) {
		const struct candidate *c = &block->candidates[i];

		fputs(c->dead_at > since ? "    may be   " : "    overwritten ", f);
		print_value(f, c->value);
		fputs(": ", f);
		print_op(f, c->op);
		if (c->dead_at != NEVER)
			fprintf(f, ", overwritten by %" PRIu64, c->dead_at);
		fputs(c->replaced ? ", taken by a CAW\n" : "\n", f);
	}
}

static void print_history(FILE *f, const struct block *block)
{
	unsigned first = block->history_next > HISTORY_LEN ? block->history_next - HISTORY_LEN : 0;

	for (unsigned i = first; i < block->history_next; i++) {
		const struct past *p = &block->history[i % HISTORY_LEN];

		fprintf(f,
			"    #%" PRIu64 " %s by client %u, blocks %zu+%zu, from %" PRIu64
			" to %" PRIu64 ": %s",
			p->id, kind_names[p->kind], p->client, p->first, p->count, p->start, p->end,
			p->outcome);
		if (p->kind == MODEL_READ) {
			fputs(" ", f);
			print_value(f, p->value);
		}
		fputs("\n", f);
	}
}

static int violation(struct model *m, const struct model_op *op, size_t b, uint64_t seen,
		     const char *what)
{
	size_t len;

	if (m->report)
		return -EILSEQ;
	FILE *f = open_memstream(&m->report, &len);

	if (!f)
		return -EILSEQ;
	fprintf(f, "%s\n  block %zu, seen ", what, b);
	print_value(f, seen);
	fputs(", by ", f);
	print_op(f, op);
	fprintf(f, "\n  candidates of the block (now %" PRIu64 "):\n", m->clock);
	print_candidates(f, &m->blocks[b], op->start);
	fputs("  last operations on the block:\n", f);
	print_history(f, &m->blocks[b]);
	fclose(f);
	return -EILSEQ;
}

static void remember(struct model *m, const struct model_op *op, const char *outcome,
		     const uint64_t *values)
{
	for (size_t i = 0; i < op->count; i++) {
		struct block *block = &m->blocks[op->first + i];

		block->history[block->history_next++ % HISTORY_LEN] = (struct past){
			.id = op->id,
			.start = op->start,
			.end = op->end,
			.value = values ? values[i] : model_op_value(op),
			.first = op->first,
			.count = op->count,
			.kind = op->kind,
			.client = op->client,
			.outcome = outcome,
		};
	}
}

/* ---- candidates ---- */

static void collect_garbage(struct model *m, struct block *block)
{
	const struct list_node *oldest = m->in_flight.next;
	uint64_t horizon = m->clock;
	unsigned kept = 0;

	if (oldest != &m->in_flight)
		horizon = container_of(oldest, struct model_op, in_flight)->start;
	for (unsigned i = 0; i < block->n; i++) {
		if (block->candidates[i].dead_at < horizon)
			op_unref(block->candidates[i].op);
		else
			block->candidates[kept++] = block->candidates[i];
	}
	block->n = kept;
}

static bool candidate_add(struct model *m, struct block *block, struct model_op *op)
{
	collect_garbage(m, block);
	if (block->n == block->room) {
		unsigned room = block->room ? block->room * 2 : 4;
		struct candidate *grown = reallocarray(block->candidates, room, sizeof(*grown));

		if (!grown)
			return false;
		block->candidates = grown;
		block->room = room;
	}
	block->candidates[block->n++] = (struct candidate){
		.op = op, .value = model_op_value(op), .order_end = NEVER, .dead_at = NEVER};
	op->refs++;
	return true;
}

static struct candidate *candidate_of(struct block *block, const struct model_op *op)
{
	for (unsigned i = 0; i < block->n; i++)
		if (block->candidates[i].op == op)
			return &block->candidates[i];
	return NULL;
}

static void kill(struct model *m, struct candidate *c)
{
	if (c->dead_at == NEVER)
		c->dead_at = m->clock;
}

/* What a reader from @since found at one block: the candidates of that value. */
struct match {
	unsigned n;
	struct candidate *only; /* when there is just one */
	uint64_t min_start;	/* over them all */
	uint64_t max_order_end;
	bool all_replaced;
};

static bool is_match(const struct candidate *c, const struct model_op *reader, uint64_t value)
{
	return c->op != reader && c->value == value && c->dead_at > reader->start;
}

static struct match find_match(struct block *block, const struct model_op *reader, uint64_t value)
{
	struct match match = {.min_start = NEVER, .all_replaced = true};

	for (unsigned i = 0; i < block->n; i++) {
		struct candidate *c = &block->candidates[i];

		if (!is_match(c, reader, value))
			continue;
		match.only = match.n++ ? NULL : c;
		match.all_replaced = match.all_replaced && c->replaced;
		match.min_start = min_u64(match.min_start, c->op->start);
		match.max_order_end = max_u64(match.max_order_end, c->order_end);
	}
	return match;
}

/* Rules 1 and 2 for what @reader saw. */
static void learn_from_sight(struct model *m, struct block *block, const struct model_op *reader,
			     uint64_t value, const struct match *match)
{
	if (match->only)
		match->only->effective = true;
	for (unsigned i = 0; i < block->n; i++) {
		struct candidate *c = &block->candidates[i];

		if (c->op == reader || is_match(c, reader, value))
			continue;
		if (c->order_end < match->min_start || c->op->end < reader->start)
			kill(m, c);
	}
}

/* Rule 1 for an acknowledged write. */
static void supersede_older(struct model *m, struct block *block, struct candidate *w)
{
	w->effective = true;
	for (unsigned i = 0; i < block->n; i++)
		if (&block->candidates[i] != w && block->candidates[i].order_end < w->op->start)
			kill(m, &block->candidates[i]);
}

/* Rule 3, second half. */
static void supersede_by_later(struct model *m, struct block *block, struct candidate *w)
{
	for (unsigned i = 0; i < block->n; i++) {
		const struct candidate *v = &block->candidates[i];

		if (v != w && v->effective && v->op->start > w->order_end)
			kill(m, w);
	}
}

/* ---- checks ---- */

/*
 * Values seen at one moment: if one came from an atomic write A, then no block that A wrote may
 * show what is surely older than A.
 */
static int check_whole(struct model *m, const struct model_op *reader, const uint64_t *values,
		       size_t at, const struct model_op *atomic)
{
	size_t from = reader->first > atomic->first ? reader->first : atomic->first;
	size_t reader_end = reader->first + reader->count,
	       atomic_end = atomic->first + atomic->count;
	size_t to = reader_end < atomic_end ? reader_end : atomic_end;

	for (size_t b = from; b < to; b++) {
		uint64_t value = values[b - reader->first];
		struct match match = find_match(&m->blocks[b], reader, value);

		if (value != atomic->id && match.n && match.max_order_end < atomic->start) {
			char what[160];

			snprintf(what, sizeof(what),
				 "torn: block %zu shows #%" PRIu64
				 ", which wrote this block in the same breath",
				 reader->first + at, atomic->id);
			return violation(m, reader, b, value, what);
		}
	}
	return 0;
}

static int check_all_whole(struct model *m, const struct model_op *reader, const uint64_t *values)
{
	const struct model_op *last = NULL;

	if (!m->options.atomic_reads || reader->count < 2)
		return 0;
	for (size_t i = 0; i < reader->count; i++) {
		struct match match = find_match(&m->blocks[reader->first + i], reader, values[i]);
		const struct model_op *op = match.only ? match.only->op : NULL;

		if (!op || op == last || op->count < 2 ||
		    (op->kind != MODEL_CAW && op->kind != MODEL_ATOMIC))
			continue;
		last = op;
		int r = check_whole(m, reader, values, i, op);

		if (r)
			return r;
	}
	return 0;
}

/* Was some write to @block in flight while @reader was? */
static bool is_contended(const struct block *block, const struct model_op *reader)
{
	for (unsigned i = 0; i < block->n; i++)
		if (block->candidates[i].op != reader &&
		    block->candidates[i].op->end > reader->start)
			return true;
	return false;
}

static int check_values(struct model *m, const struct model_op *reader, const uint64_t *values)
{
	for (size_t i = 0; i < reader->count; i++) {
		size_t b = reader->first + i;
		struct match match = find_match(&m->blocks[b], reader, values[i]);

		if (values[i] == MODEL_VALUE_TORN && m->options.torn_reads &&
		    is_contended(&m->blocks[b], reader))
			continue;
		if (!match.n)
			return violation(m, reader, b, values[i],
					 values[i] == MODEL_VALUE_TORN
						 ? "a block that no write made"
					 : reader->kind == MODEL_CAW
						 ? "CAW succeeded on a value that was not there"
						 : "a value that cannot be there");
		if (reader->kind == MODEL_CAW && match.all_replaced)
			return violation(m, reader, b, values[i],
					 "two CAWs replaced the same value");
	}
	return check_all_whole(m, reader, values);
}

/* ---- operations ---- */

static void op_abandon(struct model_op *op)
{
	list_del(&op->in_flight);
	op_unref(op);
}

struct model_op *model_begin(struct model *m, enum model_kind kind, unsigned client, size_t first,
			     size_t count, const uint64_t *expected)
{
	size_t extra = kind == MODEL_CAW ? count * sizeof(uint64_t) : 0;
	struct model_op *op = calloc(1, sizeof(*op) + extra);

	if (!op)
		return NULL;
	op->id = m->next_id++;
	op->kind = kind;
	op->client = client;
	op->first = first;
	op->count = count;
	op->start = ++m->clock;
	op->end = NEVER;
	op->refs = 1;
	if (extra)
		memcpy(op->expected, expected, extra);
	list_add_tail(&m->in_flight, &op->in_flight);
	for (size_t i = 0; i < count && kind != MODEL_READ; i++) {
		if (!candidate_add(m, &m->blocks[first + i], op)) {
			op_abandon(op);
			return NULL;
		}
	}
	return op;
}

static void op_finish(struct model *m, struct model_op *op)
{
	op->end = ++m->clock;
	list_del(&op->in_flight);
}

int model_end_read(struct model *m, struct model_op *op, const uint64_t *values)
{
	op_finish(m, op);
	int r = check_values(m, op, values);

	for (size_t i = 0; i < op->count && !r; i++) {
		struct block *block = &m->blocks[op->first + i];
		struct match match = find_match(block, op, values[i]);

		if (match.n)
			learn_from_sight(m, block, op, values[i], &match);
	}
	remember(m, op, "saw", values);
	op_unref(op);
	return r;
}

bool model_retry(struct model *m, struct model_op *op)
{
	for (size_t i = 0; i < op->count && op->kind != MODEL_READ; i++) {
		struct block *block = &m->blocks[op->first + i];
		struct candidate *c = candidate_of(block, op);

		if (!c && !candidate_add(m, block, op))
			return false;
		if (c) {
			c->dead_at = NEVER;
			c->replaced = false;
		}
	}
	return true;
}

/* One block of a CAW that succeeded: it saw @value, and replaced it. */
static void learn_from_swap(struct model *m, struct block *block, struct model_op *op,
			    uint64_t value)
{
	struct match match = find_match(block, op, value);
	struct candidate *own = candidate_of(block, op);

	learn_from_sight(m, block, op, value, &match);
	own->order_end = m->clock;
	if (match.only) {
		own->order_end =
			max_u64(match.only->op->start, min_u64(match.only->order_end, m->clock));
		match.only->replaced = true;
		kill(m, match.only);
	}
	supersede_older(m, block, own);
	supersede_by_later(m, block, own);
}

static int end_swap(struct model *m, struct model_op *op)
{
	int r = check_values(m, op, op->expected);

	for (size_t i = 0; i < op->count && !r; i++)
		learn_from_swap(m, &m->blocks[op->first + i], op, op->expected[i]);
	return r;
}

static void end_write(struct model *m, struct model_op *op, bool surely)
{
	for (size_t i = 0; i < op->count; i++) {
		struct block *block = &m->blocks[op->first + i];
		struct candidate *c = candidate_of(block, op);

		/* gone: a CAW replaced it before it was answered */
		if (!c)
			continue;
		c->order_end = m->clock;
		if (surely)
			supersede_older(m, block, c);
	}
}

/* It did not happen: its candidates go, and nobody may have seen them. */
static int end_refused(struct model *m, struct model_op *op)
{
	for (size_t i = 0; i < op->count; i++) {
		struct block *block = &m->blocks[op->first + i];
		struct candidate *c = candidate_of(block, op);

		if (!c)
			continue;
		if (c->effective)
			return violation(m, op, op->first + i, c->value,
					 "what was refused was seen");
		*c = block->candidates[--block->n];
		op->refs--; /* never the last: the driver's is still there */
	}
	return 0;
}

int model_end(struct model *m, struct model_op *op, enum model_outcome outcome)
{
	static const char *const names[] = {
		[MODEL_DONE] = "done", [MODEL_REFUSED] = "refused", [MODEL_UNKNOWN] = "unknown"};
	int r = 0;

	op_finish(m, op);
	if (op->kind == MODEL_READ)
		outcome = MODEL_UNKNOWN;
	else if (outcome == MODEL_REFUSED)
		r = end_refused(m, op);
	else if (outcome == MODEL_DONE && op->kind == MODEL_CAW)
		r = end_swap(m, op);
	else
		end_write(m, op, outcome == MODEL_DONE && op->kind != MODEL_MAY_ZERO);
	remember(m, op, names[outcome], NULL);
	op_unref(op);
	return r;
}

/* May @block, at some moment since @op began, have held anything but @value? */
static bool may_differ(const struct block *block, const struct model_op *op, uint64_t value)
{
	for (unsigned i = 0; i < block->n; i++) {
		const struct candidate *c = &block->candidates[i];

		if (c->op != op && c->value != value && c->dead_at > op->start)
			return true;
	}
	return false;
}

int model_end_miscompare(struct model *m, struct model_op *op)
{
	bool excused = false;

	op_finish(m, op);
	for (size_t i = 0; i < op->count; i++)
		excused = excused || may_differ(&m->blocks[op->first + i], op, op->expected[i]);
	int r = excused ? end_refused(m, op)
			: violation(m, op, op->first, op->expected[0],
				    "MISCOMPARE though every block must have matched");

	remember(m, op, "miscompare", NULL);
	op_unref(op);
	return r;
}

/* ---- questions ---- */

bool model_guess(const struct model *m, size_t block, uint64_t *ret_value,
		 enum model_kind *ret_kind)
{
	const struct block *b = &m->blocks[block];

	for (unsigned i = b->n; i > 0; i--) {
		const struct candidate *c = &b->candidates[i - 1];

		if (c->dead_at == NEVER && c->effective) {
			*ret_value = c->value;
			*ret_kind = c->op->kind;
			return true;
		}
	}
	return false;
}

size_t model_possible(const struct model *m, size_t block)
{
	size_t n = 0;

	for (unsigned i = 0; i < m->blocks[block].n; i++)
		n += m->blocks[block].candidates[i].dead_at == NEVER;
	return n;
}
