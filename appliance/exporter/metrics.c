/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Records and their labels. */
#include "exporter/metrics.h"

#include <errno.h>
#include <stdlib.h>

static const size_t record_size[METRIC_GROUPS_COUNT] = {
#define X(group, labels) sizeof(struct group##_record),
	METRIC_GROUPS(X)
#undef X
};

#define X(group, names)                                                                         \
	_Static_assert(sizeof(struct group##_record) <= sizeof(((struct metrics *)0)->spare) && \
			       !offsetof(struct group##_record, labels),                        \
		       "a spare record serves " #group);
METRIC_GROUPS(X)
#undef X

size_t metrics_label(struct metrics *m, size_t base, const char *name, const char *value)
{
	struct text *t = &m->labels;
	size_t at = t->len;

	if (base != METRICS_NO_LABELS && !t->failed) {
		text_put_own(t, base, strlen(t->data + base));
		text_putc(t, ',');
	}
	text_puts(t, name);
	text_puts(t, "=\"");
	text_put_escaped(t, value);
	text_put(t, "\"", 2); /* with its end */
	return at;
}

void *metrics_add(struct metrics *m, enum metric_group group, size_t labels)
{
	size_t size = record_size[group];
	size_t *rec = (size_t *)&m->spare;

	if (m->group[group].n == m->group[group].cap) {
		size_t cap = m->group[group].cap ? 2 * m->group[group].cap : 8;
		char *bigger = realloc(m->group[group].records, cap * size);

		if (bigger) {
			m->group[group].records = bigger;
			m->group[group].cap = cap;
		}
	}
	if (m->group[group].n < m->group[group].cap)
		rec = (size_t *)(m->group[group].records + size * m->group[group].n++);
	else
		m->failed = true;
	memset(rec, 0, size);
	*rec = labels;
	return rec;
}

void metrics_copy_durations(struct metric_durations *to, const struct metric_hist *from)
{
	for (int i = 0; i < METRIC_HIST_BUCKETS; i++)
		to->bucket[i] = metric_read(&from->bucket[i]);
	to->sum_ns = metric_read(&from->sum_ns);
}

uint64_t metrics_count_durations(const struct metric_durations *d)
{
	uint64_t n = 0;

	for (int i = 0; i < METRIC_HIST_BUCKETS; i++)
		n += d->bucket[i];
	return n;
}

void metrics_free(struct metrics *m)
{
	for (int g = 0; g < METRIC_GROUPS_COUNT; g++)
		free(m->group[g].records);
	text_clear(&m->labels);
	*m = (struct metrics){0};
}

/* --- rendering --- */

/*
 * Bounds of the buckets of histograms. Each costs a line for every LUN and op, and a thousand LUNs
 * are to fit in 5 MB: so few, closer together where memory is told from flash and flash from disks.
 */
static const struct {
	unsigned bucket; /* the last one of struct metric_hist that belongs */
	const char *le;	 /* 2^bucket us */
	bool coarse;	 /* told of coarse histograms too */
} bounds[] = {
	{6, "6.4e-05", false},	{8, "0.000256", false}, {10, "0.001024", false},
	{13, "0.008192", true}, {16, "0.065536", true},
};

/* NAME[SUFFIX]{LABELS[,le="LE"]} and a space; @labels may be NULL. */
static void put_name(struct text *out, const char *name, const char *suffix, const char *labels,
		     const char *le)
{
	text_puts(out, name);
	text_puts(out, suffix);
	if (labels || le) {
		text_putc(out, '{');
		if (labels)
			text_puts(out, labels);
		if (labels && le)
			text_putc(out, ',');
		if (le) {
			text_puts(out, "le=\"");
			text_puts(out, le);
			text_putc(out, '"');
		}
		text_putc(out, '}');
	}
	text_putc(out, ' ');
}

static void put_histogram(struct text *out, const struct metric *row, const char *labels,
			  const struct metric_durations *d)
{
	uint64_t seen = 0;
	unsigned next = 0;

	if (d->sum_ns == METRIC_NONE)
		return;
	for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
		while (next <= bounds[i].bucket)
			seen += d->bucket[next++];
		if (d->coarse && !bounds[i].coarse)
			continue;
		put_name(out, row->name, "_bucket", labels, bounds[i].le);
		text_put_u64(out, seen);
		text_putc(out, '\n');
	}
	while (next < METRIC_HIST_BUCKETS)
		seen += d->bucket[next++];
	put_name(out, row->name, "_bucket", labels, "+Inf");
	text_put_u64(out, seen);
	text_putc(out, '\n');
	put_name(out, row->name, "_sum", labels, NULL);
	text_put_seconds(out, d->sum_ns);
	text_putc(out, '\n');
	put_name(out, row->name, "_count", labels, NULL);
	text_put_u64(out, seen);
	text_putc(out, '\n');
}

static void put_value(struct text *out, const struct metric *row, const char *labels, uint64_t v)
{
	if (v == METRIC_NONE)
		return;
	put_name(out, row->name, "", labels, NULL);
	if (row->unit == METRIC_SECONDS)
		text_put_seconds(out, v);
	else
		text_put_u64(out, v);
	text_putc(out, '\n');
}

static void put_family(struct text *out, const struct metrics *m, const struct metric *row)
{
	const char *rec = m->group[row->group].records;

	text_puts(out, "# HELP ");
	text_puts(out, row->name);
	text_putc(out, ' ');
	text_puts(out, row->help);
	text_puts(out, "\n# TYPE ");
	text_puts(out, row->name);
	text_putc(out, ' ');
	text_puts(out, metric_type_name(row->type));
	text_putc(out, '\n');
	for (size_t i = 0; i < m->group[row->group].n; i++, rec += record_size[row->group]) {
		size_t at = *(const size_t *)rec;
		const char *labels = at == METRICS_NO_LABELS ? NULL : m->labels.data + at;
		const void *value = rec + row->offset;

		if (row->type == METRIC_HISTOGRAM)
			put_histogram(out, row, labels, value);
		else
			put_value(out, row, labels,
				  row->type == METRIC_INFO ? 1 : *(const uint64_t *)value);
	}
}

int metrics_render(const struct metrics *m, struct text *out)
{
	if (m->failed || m->labels.failed)
		return -ENOMEM;
	for (size_t i = 0; i < metrics_table_count; i++)
		put_family(out, m, &metrics_table[i]);
	return out->failed ? -ENOMEM : 0;
}
