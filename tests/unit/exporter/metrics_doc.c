/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of metrics as docs/metrics.md has it: prints it, or, given that file, checks that the
 * table is in it as it should be (0, or 1 with what to do).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "exporter/metrics.h"

static void put_row(struct text *out, const struct metric *m)
{
	text_puts(out, "| `");
	text_puts(out, m->name);
	text_puts(out, "` | ");
	text_puts(out, metric_type_name(m->type));
	text_puts(out, " | ");
	text_puts(out, metric_unit_name(m->unit));
	text_puts(out, " | ");
	text_puts(out, metric_group_labels[m->group]);
	text_puts(out, " | ");
	text_puts(out, m->help);
	text_puts(out, " |\n");
}

/* True also when the file cannot be read: then there is nothing in it. */
static bool lacks(const char *path, const struct text *table)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	static char page[1 << 20];
	size_t n = f ? fread(page, 1, sizeof(page), f) : 0;

	return !memmem(page, n, table->data, table->len);
}

int main(int argc, char **argv)
{
	struct text table = {0};
	int ret = 0;

	text_puts(&table, "| name | type | unit | labels | |\n|---|---|---|---|---|\n");
	for (size_t i = 0; i < metrics_table_count; i++)
		put_row(&table, &metrics_table[i]);
	if (table.failed)
		return 1;
	if (argc < 2) {
		fwrite(table.data, 1, table.len, stdout);
	} else if (lacks(argv[1], &table)) {
		fprintf(stderr, "%s does not have the table that %s prints: put it there\n",
			argv[1], argv[0]);
		ret = 1;
	}
	text_clear(&table);
	return ret;
}
