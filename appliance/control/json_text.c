/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/json_text.h"

#include <string.h>

#include "base/cleanup.h"

json_t *json_text(const char *text)
{
	_cleanup_free_ char *copy = NULL;
	json_t *s;

	if (!text)
		return json_null();
	s = json_string(text);
	if (s)
		return s;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *p = copy; *p; p++)
		if (*p & 0x80)
			*p = '?';
	return json_string(copy);
}
