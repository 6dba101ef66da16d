/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Configurations from text, for tests. Behind cmocka.h. */
#pragma once

#include <string.h>

#include "control/config.h"

/** The configuration that @text declares; fails the test when it is refused. */
static inline struct config *load(const char *text)
{
	struct reason why = {.text = ""};
	struct config *cfg = NULL;

	if (config_load_text("f", text, strlen(text), &cfg, &why))
		fail_msg("refused: %s", why.text);
	return cfg;
}

/* Refused, with a reason that begins with @expected, and no configuration made. */
static inline void assert_refused(const char *text, const char *expected)
{
	struct config *cfg = (struct config *)&cfg;
	struct reason why = {.text = ""};

	assert_int_not_equal(config_load_text("f", text, strlen(text), &cfg, &why), 0);
	assert_ptr_equal(cfg, &cfg); /* untouched */
	if (strncmp(why.text, expected, strlen(expected)))
		fail_msg("said '%s', expected '%s'", why.text, expected);
}
