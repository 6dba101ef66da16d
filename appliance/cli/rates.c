/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/rates.h"

#include <stdlib.h>
#include <string.h>

#include "lun/lun.h"

const char *const rate_words[] = {
#define X(id, word, title) word,
	RATE_KEYS(X)
#undef X
};
const char *const rate_titles[] = {
#define X(id, word, title) title,
	RATE_KEYS(X)
#undef X
};

static double number(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

/* How much @class's @key grew. What fell has begun anew: a LUN of the same name. */
static double grown(const json_t *before, const json_t *now, const char *class, const char *key)
{
	const json_t *a = class ? json_object_get(before, class) : before;
	const json_t *b = class ? json_object_get(now, class) : now;
	double d = number(b, key) - number(a, key);

	return before && d > 0 ? d : 0;
}

/* What a sum over LUNs can be made of, over the time between the answers. */
struct growth {
	double ops, transfers, busy, hits, misses;
};

static void finish(struct rate_row *r, const struct growth *g, double seconds)
{
	r->ops = g->ops / seconds;
	r->depth = g->busy / seconds;
	r->latency = g->transfers > 0 ? g->busy / g->transfers : -1;
	r->hits = g->hits + g->misses > 0 ? g->hits / (g->hits + g->misses) : -1;
}

static void add(struct growth *to, const struct growth *g)
{
	to->ops += g->ops;
	to->transfers += g->transfers;
	to->busy += g->busy;
	to->hits += g->hits;
	to->misses += g->misses;
}

static struct growth make_row(const json_t *before, const json_t *now, double seconds,
			      struct rate_row *r)
{
	struct growth g = {.hits = grown(before, now, NULL, "hits"),
			   .misses = grown(before, now, NULL, "misses")};

	for (int i = 0; i < LUN_CLASS_COUNT; i++) {
		const char *class = lun_class_name(i);
		bool transfer = i == LUN_CLASS_READ || i == LUN_CLASS_WRITE;
		double ops = grown(before, now, class, "ops");

		g.ops += ops;
		g.transfers += transfer ? ops : 0;
		g.busy += transfer ? grown(before, now, class, "seconds") : 0;
		r->errors += (uint64_t)number(json_object_get(now, class), "errors");
	}
	r->name = json_string_value(json_object_get(now, "name"));
	r->size = (uint64_t)number(now, "size");
	r->cached = (uint64_t)number(now, "cached");
	r->read = grown(before, now, "read", "bytes") / seconds;
	r->written = grown(before, now, "write", "bytes") / seconds;
	finish(r, &g, seconds);
	return g;
}

/* LUNs by name: answers have them sorted, but one may have come or gone. */
static json_t *index_by_name(const json_t *answer)
{
	json_t *o, *index = json_object();
	size_t i;

	json_array_foreach(json_object_get(answer, "luns"), i, o)
	{
		json_object_set(index, json_string_value(json_object_get(o, "name")), o);
	}
	return index;
}

void rates_make(const json_t *before, const json_t *now, struct rates *ret_rates)
{
	json_t *luns = json_object_get(now, "luns"), *o, *index = index_by_name(before);
	double seconds = number(now, "now_s") - number(before, "now_s");
	struct rates r = {.n = json_array_size(luns), .seconds = before ? seconds : 0};
	struct growth all = {0};
	size_t i;

	if (!(seconds > 0))
		seconds = 1;
	r.rows = calloc(r.n + 1, sizeof(*r.rows));
	if (!r.rows || !index)
		abort(); /* a client program: nothing to save */
	json_array_foreach(luns, i, o)
	{
		const char *name = json_string_value(json_object_get(o, "name"));
		struct growth g = make_row(json_object_get(index, name), o, seconds, &r.rows[i]);

		add(&all, &g);
		r.all.read += r.rows[i].read;
		r.all.written += r.rows[i].written;
		r.all.size += r.rows[i].size;
		r.all.cached += r.rows[i].cached;
		r.all.errors += r.rows[i].errors;
	}
	finish(&r.all, &all, seconds);
	json_decref(index);
	*ret_rates = r;
}

void rates_free(struct rates *r)
{
	free(r->rows);
	r->rows = NULL;
}

static double value_of(const struct rate_row *r, enum rate_key key)
{
	switch (key) {
	case RATE_OPS:
		return r->ops;
	case RATE_READ:
		return r->read;
	case RATE_WRITTEN:
		return r->written;
	case RATE_LATENCY:
		return r->latency;
	case RATE_DEPTH:
		return r->depth;
	case RATE_HITS:
		return r->hits;
	case RATE_CACHED:
		return (double)r->cached;
	case RATE_ERRORS:
		return (double)r->errors;
	default:
		return 0;
	}
}

struct order {
	enum rate_key key;
	int sign;
};

static int compare(const void *a, const void *b, void *ctx)
{
	const struct rate_row *x = a, *y = b;
	const struct order *o = ctx;
	double vx = value_of(x, o->key), vy = value_of(y, o->key);

	if (vx != vy)
		return (vx > vy ? -1 : 1) * o->sign;
	return strverscmp(x->name, y->name) * (o->key == RATE_NAME ? o->sign : 1);
}

void rates_sort(struct rates *r, enum rate_key key, int reverse)
{
	struct order o = {key, reverse ? -1 : 1};

	qsort_r(r->rows, r->n, sizeof(*r->rows), compare, &o);
}
