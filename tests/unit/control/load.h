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
