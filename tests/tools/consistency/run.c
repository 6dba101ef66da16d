/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run: phases, connections, answers. One thread and one poll(); a *lane* is a client with its
 * slots, a slot is one request at a time.
 *
 *   FILL   the first lane writes the whole region, and the counter's block
 *   LOAD   every lane reads the region once in order, then at random, until the time is over
 *   FINAL  when nothing is in flight any more every lane reads the whole region and the counter
 *
 * A request that was refused (unit attention, busy) is sent again. When a connection is lost and
 * may come back, its requests stay with the model as in flight, are sent again after the
 * reconnection, and the lane reads the whole region before it goes on; a COMPARE AND WRITE is not
 * repeated but becomes one that may have happened.
 */
#include "run.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "run_private.h"

#define RETRY_MS 20
#define STALL_MS 60000

static const char *const kind_names[REQUEST_KINDS] = {"read",  "write", "write-same", "zero",
						      "unmap", "caw",	"atomic",     "flush"};

static void slot_done(struct client *client, struct request *request);

/* ---- failure ---- */

static void fail(struct run *run, int error)
{
	if (!run->error)
		run->error = error;
}

static void print_request(const struct run *run, const struct client *client,
			  const struct request *q)
{
	fprintf(stderr, "  %s%s of client %u (%s), LBA %" PRIu64 "+%u, seed %" PRIu64 "\n",
		kind_names[q->kind], q->fua ? " (FUA)" : "", client->index, client->url, q->lba,
		q->count, run->options.seed);
}

static void explain_torn(const struct run *run, const struct slot *slot)
{
	const struct request *q = &slot->request;

	for (uint32_t i = 0; q->kind == REQUEST_READ && i < q->count; i++)
		if (slot->values[i] == MODEL_VALUE_TORN) {
			stamp_explain(&run->key, q->lba + i,
				      q->data + (size_t)i * run->key.block_size, stderr);
			return;
		}
}

static void fail_violation(struct run *run, const struct client *client, const struct slot *slot)
{
	if (run->error)
		return;
	fprintf(stderr, "VIOLATION: %s", model_report(run->model));
	print_request(run, client, &slot->request);
	explain_torn(run, slot);
	fprintf(stderr, "  block 0 of the report is LBA %" PRIu64 "\n", run->options.base);
	fail(run, -EILSEQ);
}

static void fail_request(struct run *run, const struct client *client, const struct request *q)
{
	if (run->error)
		return;
	fprintf(stderr, "FAILED: %s\n", q->error);
	print_request(run, client, q);
	fail(run, -EIO);
}

/* ---- answers ---- */

static void counter_read(struct run *run, struct client *client, struct slot *slot)
{
	const struct counter *c = &run->counter;
	uint64_t value = stamp_decode(&run->key, slot->request.lba, slot->request.data);

	slot->counter_value = value;
	if (run->error || counter_may_be(c, slot->counter_least, value))
		return;
	fprintf(stderr,
		"VIOLATION: the counter is %" PRIu64 "; acknowledged swaps: %" PRIu64
		" when the read began, %" PRIu64 " now, in flight %" PRIu64 ", unanswered %" PRIu64
		"\n",
		value - 1, slot->counter_least, c->successes, c->pending, c->lost);
	print_request(run, client, &slot->request);
	fail(run, -EILSEQ);
}

static void counter_done(struct run *run, struct client *client, struct slot *slot)
{
	const struct request *q = &slot->request;

	if (q->kind == REQUEST_READ) {
		counter_read(run, client, slot);
		return;
	}
	if (q->kind != REQUEST_CAW)
		return;
	run->counter.pending--;
	slot->counter_value = 0;
	if (q->result == RESULT_OK)
		run->counter.successes++;
}

static int tell_model(struct run *run, struct slot *slot)
{
	const struct request *q = &slot->request;

	if (!slot->op)
		return 0;
	if (q->result == RESULT_MISCOMPARE)
		return model_end_miscompare(run->model, slot->op);
	if (q->result == RESULT_UNSUPPORTED)
		return model_end(run->model, slot->op, MODEL_REFUSED);
	if (q->kind != REQUEST_READ)
		return model_end(run->model, slot->op, MODEL_DONE);
	for (uint32_t i = 0; i < q->count; i++)
		slot->values[i] = stamp_decode(&run->key, q->lba + i,
					       q->data + (size_t)i * run->key.block_size);
	return model_end_read(run->model, slot->op, slot->values);
}

static void slot_done(struct client *client, struct request *q)
{
	struct slot *slot = container_of(q, struct slot, request);
	struct run *run = slot->run;

	if (q->result == RESULT_ERROR) {
		fail_request(run, client, q);
		return;
	}
	if (q->result == RESULT_REFUSED) {
		run->refused[q->kind]++;
		slot->resend = true;
		return;
	}
	if (q->result == RESULT_UNSUPPORTED)
		client->can[q->kind] = false;
	run->done[q->kind]++;
	run->miscompares += q->result == RESULT_MISCOMPARE;
	slot->busy = false;
	if (slot->for_counter)
		counter_done(run, client, slot);
	else if (tell_model(run, slot))
		fail_violation(run, client, slot);
}

/* ---- connections ---- */

static unsigned lane_slots(const struct run *run)
{
	return run->options.depth + 1;
}

static void lane_lost(struct run *run, struct lane *lane)
{
	struct client *client = lane->client;
	struct list_node *n;

	client->ops->disconnect(client);
	client->connected = false;
	client->lost = false;
	lane->down_since_ns = clock_now_ns();
	while ((n = list_pop(&client->in_flight)))
		container_of(container_of(n, struct request, in_flight), struct slot, request)
			->resend = true;
	if (run->options.reconnect_seconds > 0 || run->error)
		return;
	fprintf(stderr, "FAILED: client %u lost its connection (%s)\n", client->index, client->url);
	fail(run, -ENOTCONN);
}

/* What was in flight when the connection went: tells the model what it is to become. */
static void slot_revive(struct run *run, struct slot *slot)
{
	if (!slot->resend)
		return;
	if (slot->request.kind != REQUEST_CAW) {
		if (slot->op && !model_retry(run->model, slot->op))
			fail(run, -ENOMEM);
		return;
	}
	slot->resend = slot->busy = false;
	if (slot->for_counter) {
		run->counter.pending--;
		run->counter.lost++;
		slot->counter_value = 0;
	} else if (model_end(run->model, slot->op, MODEL_UNKNOWN)) {
		fail(run, -EILSEQ);
	}
}

static void lane_reconnect(struct run *run, struct lane *lane)
{
	struct client *client = lane->client;
	int r = client->ops->connect(client);

	if (!r) {
		client->connected = true;
		lane->reconnects++;
		for (unsigned i = 0; i < lane_slots(run); i++)
			slot_revive(run, &lane->slots[i]);
		if (run->phase != PHASE_FILL)
			lane->cursor = 0;
	} else if ((double)(clock_now_ns() - lane->down_since_ns) / 1e9 >
		   run->options.reconnect_seconds) {
		fprintf(stderr, "FAILED: client %u cannot come back: %s (%s)\n", client->index,
			strerror(-r), client->url);
		fail(run, r);
	}
}

/* ---- the loop ---- */

static void lane_feed(struct run *run, struct lane *lane)
{
	for (unsigned i = 0; i < lane_slots(run) && lane->client->connected && !run->error; i++) {
		struct slot *slot = &lane->slots[i];

		if (slot->busy && !slot->resend)
			continue;
		if (!slot->resend && !generate(run, lane, slot))
			continue;
		slot->busy = true;
		slot->resend = false;
		if (client_submit(lane->client, &slot->request) || lane->client->lost)
			lane_lost(run, lane);
	}
}

static bool all_idle(const struct run *run)
{
	for (unsigned l = 0; l < run->nlanes; l++)
		for (unsigned i = 0; i < lane_slots(run); i++)
			if (run->lanes[l].slots[i].busy)
				return false;
	return true;
}

/* Nothing is in flight, and no pass over the region is unfinished. */
static bool phase_complete(const struct run *run)
{
	for (unsigned l = 0; l < run->nlanes; l++) {
		const struct slot *counter = &run->lanes[l].slots[run->options.depth];

		if (run->lanes[l].cursor < run->options.blocks ||
		    (counter->counter_due && run->phase != PHASE_LOAD))
			return false;
	}
	return all_idle(run);
}

static void enter_phase(struct run *run, enum phase phase)
{
	run->phase = phase;
	for (unsigned l = 0; l < run->nlanes; l++) {
		struct lane *lane = &run->lanes[l];
		bool takes_part = phase != PHASE_FILL || l == 0;

		lane->cursor = takes_part ? 0 : run->options.blocks;
		lane->slots[run->options.depth].counter_due = takes_part;
		lane->slots[run->options.depth].counter_value = 0;
	}
}

/* Returns whether the run is over. */
static bool next_phase(struct run *run)
{
	if (!phase_complete(run))
		return false;
	if (run->phase == PHASE_FILL)
		enter_phase(run, PHASE_LOAD);
	else if (run->phase == PHASE_LOAD && run->stopping)
		enter_phase(run, PHASE_FINAL);
	else if (run->phase == PHASE_FINAL)
		return true;
	return false;
}

static void service_all(struct run *run, struct pollfd *polls)
{
	bool down = false;

	for (unsigned l = 0; l < run->nlanes; l++) {
		struct client *client = run->lanes[l].client;

		down = down || !client->connected;
		polls[l] = (struct pollfd){.fd = -1};
		if (client->connected)
			polls[l] = (struct pollfd){client->ops->get_fd(client),
						   client->ops->get_events(client), 0};
	}
	int n = poll(polls, run->nlanes, down ? RETRY_MS : STALL_MS);

	if (n == 0 && !down) {
		fprintf(stderr, "FAILED: no answer for %d seconds\n", STALL_MS / 1000);
		fail(run, -ETIMEDOUT);
	}
	for (unsigned l = 0; l < run->nlanes && n > 0; l++) {
		struct client *client = run->lanes[l].client;

		if (polls[l].revents &&
		    (client->ops->service(client, polls[l].revents) || client->lost))
			lane_lost(run, &run->lanes[l]);
	}
}

static void run_loop(struct run *run, struct pollfd *polls)
{
	uint64_t deadline = 0;

	enter_phase(run, PHASE_FILL);
	while (!run->error) {
		for (unsigned l = 0; l < run->nlanes; l++) {
			if (!run->lanes[l].client->connected)
				lane_reconnect(run, &run->lanes[l]);
			lane_feed(run, &run->lanes[l]);
		}
		if (run->phase == PHASE_LOAD) {
			if (!deadline)
				deadline = clock_now_ns() + (uint64_t)(run->options.seconds * 1e9);
			run->stopping = clock_now_ns() >= deadline || *run->options.end;
		}
		if (!all_idle(run))
			service_all(run, polls);
		if (next_phase(run))
			return;
	}
}

/* ---- life ---- */

static int lane_init(struct run *run, struct lane *lane, struct client *client)
{
	size_t blocks = run->options.max_blocks < 8 ? 8 : run->options.max_blocks;

	lane->client = client;
	lane->slots = calloc(lane_slots(run), sizeof(*lane->slots));
	if (!lane->slots)
		return -ENOMEM;
	for (unsigned i = 0; i < lane_slots(run); i++) {
		struct slot *slot = &lane->slots[i];

		slot->run = run;
		slot->for_counter = i == run->options.depth;
		slot->request.done = slot_done;
		list_init(&slot->request.in_flight);
		slot->request.data = calloc(blocks, run->key.block_size);
		slot->values = calloc(blocks, sizeof(*slot->values));
		if (!slot->request.data || !slot->values)
			return -ENOMEM;
	}
	return 0;
}

static void run_free(struct run *run)
{
	for (unsigned l = 0; l < run->nlanes && run->lanes; l++) {
		struct lane *lane = &run->lanes[l];

		if (lane->client)
			lane->client->ops->disconnect(lane->client);
		for (unsigned i = 0; lane->slots && i < lane_slots(run); i++) {
			free(lane->slots[i].request.data);
			free(lane->slots[i].values);
		}
		free(lane->slots);
	}
	free(run->lanes);
	model_free(run->model);
}

static int connect_all(struct run *run, struct client **clients, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		int r = clients[i]->ops->connect(clients[i]);

		if (r) {
			fprintf(stderr, "consistency: cannot connect to %s: %s\n", clients[i]->url,
				strerror(-r));
			return r;
		}
		clients[i]->connected = true;
		if (clients[i]->block_size != clients[0]->block_size ||
		    clients[i]->blocks < run->options.base + run->options.blocks + 1) {
			fprintf(stderr,
				"consistency: %s: %" PRIu64 " blocks of %u bytes do not fit\n",
				clients[i]->url, clients[i]->blocks, clients[i]->block_size);
			return -EINVAL;
		}
	}
	return 0;
}

static int run_init(struct run *run, struct client **clients, unsigned n)
{
	int r = connect_all(run, clients, n);

	if (r)
		return r;
	run->key.nonce = run->options.seed * 0x9e3779b97f4a7c15ull ^ (clock_now_ns() | 1);
	run->key.block_size = clients[0]->block_size;
	run->random_state = run->options.seed;
	run->model = model_new(&(struct model_options){.blocks = run->options.blocks,
						       .atomic_reads = run->options.atomic_reads,
						       .torn_reads = run->options.torn_reads});
	run->lanes = calloc(n, sizeof(*run->lanes));
	if (!run->model || !run->lanes)
		return -ENOMEM;
	run->nlanes = n;
	for (unsigned i = 0; i < n && !r; i++)
		r = lane_init(run, &run->lanes[i], clients[i]);
	return r;
}

static void print_lacking(const struct client *client)
{
	bool first = true;

	for (int i = 0; i < REQUEST_KINDS; i++) {
		if (client->can[i] && client->max[i])
			continue;
		if (first)
			printf("  client %u (%s) has no", client->index, client->url);
		printf(" %s", kind_names[i]);
		first = false;
	}
	if (!first)
		printf("\n");
}

static void print_summary(const struct run *run)
{
	uint64_t total = 0, reconnects = 0;

	for (int i = 0; i < REQUEST_KINDS; i++)
		total += run->done[i];
	for (unsigned l = 0; l < run->nlanes; l++)
		reconnects += run->lanes[l].reconnects;
	printf("%s: %" PRIu64 " requests by %u clients, seed %" PRIu64 ":",
	       run->error ? "FAILED" : "consistent", total, run->nlanes, run->options.seed);
	for (int i = 0; i < REQUEST_KINDS; i++)
		printf(" %s %" PRIu64, kind_names[i], run->done[i]);
	printf("; miscompares %" PRIu64 ", counter %" PRIu64 " (unanswered %" PRIu64
	       "), reconnects %" PRIu64 "\n",
	       run->miscompares, run->counter.successes, run->counter.lost, reconnects);
	for (unsigned l = 0; l < run->nlanes; l++)
		print_lacking(run->lanes[l].client);
}

int run_check(const struct run_options *options, struct client **clients, unsigned nclients)
{
	struct run run = {.options = *options};
	struct pollfd *polls = calloc(nclients, sizeof(*polls));

	run.error = polls ? run_init(&run, clients, nclients) : -ENOMEM;
	if (!run.error) {
		run_loop(&run, polls);
		print_summary(&run);
	}
	run_free(&run);
	free(polls);
	return run.error;
}
