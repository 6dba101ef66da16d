/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pass keeps a stack of the open mappings and sequences. Each frame knows the length of its
 * path in the one buffer that all share; a scalar in key position of a mapping extends it and is
 * recorded with its line, an entry of a sequence extends it by its index.
 */
#include "control/config_lines.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX   12
#define ENTRIES_MAX 1000000
#define PATH_SIZE   256

struct entry {
	char *path;
	unsigned line;
};

struct config_lines {
	struct entry *entries;
	size_t n, room;
};

struct frame {
	bool mapping, have_key;
	unsigned index;
	size_t base; /* length of the path of the container itself */
};

struct scan {
	const char *name;
	struct config_lines *lines;
	struct frame stack[DEPTH_MAX];
	int depth;
	char path[PATH_SIZE];
	size_t len; /* of the path of the value that comes next */
	struct reason *why;
};

static int add_entry(struct scan *s, unsigned line)
{
	struct config_lines *l = s->lines;
	struct entry *bigger;
	size_t room;

	if (l->n >= ENTRIES_MAX)
		return reason_set(s->why, EINVAL, "%s:%u: too many values", s->name, line);
	if (l->n == l->room) {
		room = l->room ? l->room * 2 : 256;
		bigger = realloc(l->entries, room * sizeof(*bigger));
		if (!bigger)
			return reason_set(s->why, ENOMEM, "%s: out of memory", s->name);
		l->entries = bigger;
		l->room = room;
	}
	l->entries[l->n].path = strdup(s->path);
	if (!l->entries[l->n].path)
		return reason_set(s->why, ENOMEM, "%s: out of memory", s->name);
	l->entries[l->n++].line = line;
	return 0;
}

static void set_path(struct scan *s, size_t base, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The path is its first @base bytes and then what is printed; cut where it does not fit. */
static void set_path(struct scan *s, size_t base, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(s->path + base, sizeof(s->path) - base, fmt, ap);
	va_end(ap);
	s->len = base + (size_t)n;
	if (s->len >= sizeof(s->path))
		s->len = sizeof(s->path) - 1;
}

/* A value (or, in a mapping, a key: a @scalar) begins at @line. */
static int begin_node(struct scan *s, const char *scalar, unsigned line)
{
	struct frame *f = s->depth ? &s->stack[s->depth - 1] : NULL;

	if (!f)
		return 0;
	if (!f->mapping) {
		set_path(s, f->base, "[%u]", f->index++);
		return add_entry(s, line);
	}
	if (f->have_key) {
		f->have_key = false;
		return 0;
	}
	if (!scalar)
		return reason_set(s->why, EINVAL, "%s:%u: a key must be a plain word", s->name,
				  line);
	f->have_key = true;
	set_path(s, f->base, "%s%.64s", f->base ? "." : "", scalar);
	return add_entry(s, line);
}

static int open_container(struct scan *s, bool mapping, unsigned line)
{
	int ret = begin_node(s, NULL, line);

	if (ret)
		return ret;
	if (s->depth == DEPTH_MAX)
		return reason_set(s->why, EINVAL, "%s:%u: nested too deep", s->name, line);
	s->stack[s->depth++] = (struct frame){.mapping = mapping, .base = s->len};
	return 0;
}

static int take_event(struct scan *s, const yaml_event_t *ev, unsigned *documents)
{
	unsigned line = (unsigned)ev->start_mark.line + 1;

	switch (ev->type) {
	case YAML_DOCUMENT_START_EVENT:
		if ((*documents)++)
			return reason_set(s->why, EINVAL, "%s:%u: a second document", s->name,
					  line);
		return 0;
	case YAML_ALIAS_EVENT:
		return reason_set(s->why, EINVAL, "%s:%u: aliases are not supported", s->name,
				  line);
	case YAML_SCALAR_EVENT:
		if (strlen((const char *)ev->data.scalar.value) != ev->data.scalar.length)
			return reason_set(s->why, EINVAL, "%s:%u: a NUL byte in a value", s->name,
					  line);
		return begin_node(s, (const char *)ev->data.scalar.value, line);
	case YAML_MAPPING_START_EVENT:
		return open_container(s, true, line);
	case YAML_SEQUENCE_START_EVENT:
		return open_container(s, false, line);
	case YAML_MAPPING_END_EVENT:
	case YAML_SEQUENCE_END_EVENT:
		s->len = s->stack[--s->depth].base;
		s->path[s->len] = '\0';
		return 0;
	default:
		return 0;
	}
}

static int scan_all(struct scan *s, yaml_parser_t *parser)
{
	unsigned documents = 0;

	for (;;) {
		yaml_event_t ev;
		yaml_event_type_t type;
		int ret;

		if (!yaml_parser_parse(parser, &ev))
			return reason_set(s->why, EINVAL, "%s:%zu: not YAML: %s%s%s", s->name,
					  (parser->problem_mark.line ? parser->problem_mark.line
								     : parser->context_mark.line) +
						  1,
					  parser->problem ? parser->problem : "cannot be read",
					  parser->context ? " " : "",
					  parser->context ? parser->context : "");
		type = ev.type;
		ret = take_event(s, &ev, &documents);
		yaml_event_delete(&ev);
		if (ret)
			return ret;
		if (type == YAML_STREAM_END_EVENT)
			return 0;
	}
}

int config_lines_scan(const char *name, const char *text, size_t len,
		      struct config_lines **ret_lines, struct reason *why)
{
	struct scan s = {.name = name, .why = why};
	yaml_parser_t parser;
	int ret;

	s.lines = calloc(1, sizeof(*s.lines));
	if (!s.lines || !yaml_parser_initialize(&parser)) {
		free(s.lines);
		return reason_set(why, ENOMEM, "%s: out of memory", name);
	}
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	ret = scan_all(&s, &parser);
	yaml_parser_delete(&parser);
	if (ret) {
		config_lines_free(s.lines);
		return ret;
	}
	*ret_lines = s.lines;
	return 0;
}

static unsigned find_exact(const struct config_lines *lines, const char *path, size_t len)
{
	for (size_t i = 0; i < lines->n; i++)
		if (!strncmp(lines->entries[i].path, path, len) && !lines->entries[i].path[len])
			return lines->entries[i].line;
	return 0;
}

unsigned config_lines_find(const struct config_lines *lines, const char *path)
{
	size_t len = strlen(path);

	if (!lines)
		return 0;
	while (len) {
		unsigned line = find_exact(lines, path, len);

		if (line)
			return line;
		for (len--; len && path[len] != '.' && path[len] != '['; len--)
			;
	}
	return 1;
}

unsigned config_lines_find_last(const struct config_lines *lines, const char *path)
{
	for (size_t i = lines->n; i; i--)
		if (!strcmp(lines->entries[i - 1].path, path))
			return lines->entries[i - 1].line;
	return 1;
}

void config_lines_free(struct config_lines *lines)
{
	if (!lines)
		return;
	for (size_t i = 0; i < lines->n; i++)
		free(lines->entries[i].path);
	free(lines->entries);
	free(lines);
}
