/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

struct table {
	const char *const *titles;
	unsigned n;
	size_t rows, room;
	char **cells; /* rows * n; NULL where there was no memory */
	size_t width[TABLE_COLUMNS];
};

static const char *title(const struct table *t, unsigned i)
{
	return t->titles[i] + (t->titles[i][0] == '>');
}

/* A copy without control characters: clients choose names, and a terminal obeys it. */
static char *copy_plain(const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		abort();
	for (unsigned char *p = (unsigned char *)copy; *p; p++) {
		bool c1 = *p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;

		if (*p < ' ' || *p == 0x7f || c1)
			*p = '?';
		if (c1)
			*++p = '?';
	}
	return copy;
}

struct table *table_new(const char *const *titles, unsigned n)
{
	struct table *t = calloc(1, sizeof(*t));

	assert(n <= TABLE_COLUMNS);
	if (!t)
		abort(); /* a client program: nothing to save */
	t->titles = titles;
	t->n = n;
	for (unsigned i = 0; i < n; i++)
		t->width[i] = strlen(title(t, i));
	return t;
}

void table_add(struct table *t, const char *const *cells)
{
	if (t->rows == t->room) {
		t->room = t->room ? t->room * 2 : 16;
		t->cells = realloc(t->cells, t->room * t->n * sizeof(char *));
		if (!t->cells)
			abort();
	}
	for (unsigned i = 0; i < t->n; i++) {
		const char *text = cells[i] && *cells[i] ? cells[i] : "-";

		if (strlen(text) > t->width[i])
			t->width[i] = strlen(text);
		t->cells[t->rows * t->n + i] = copy_plain(text);
	}
	t->rows++;
}

static void print_cell(const struct table *t, unsigned i, const char *text)
{
	bool last = i + 1 == t->n;

	if (t->titles[i][0] == '>')
		printf("%*s%s", (int)t->width[i], text, last ? "\n" : "  ");
	else if (last)
		printf("%s\n", text);
	else
		printf("%-*s  ", (int)t->width[i], text);
}

void table_print(struct table *t)
{
	for (unsigned i = 0; i < t->n; i++)
		print_cell(t, i, title(t, i));
	for (size_t r = 0; r < t->rows; r++)
		for (unsigned i = 0; i < t->n; i++) {
			print_cell(t, i, t->cells[r * t->n + i]);
			free(t->cells[r * t->n + i]);
		}
	free(t->cells);
	free(t);
}
