/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any bytes as ebb.yaml: a declaration, or a reason that names the text and a line. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "control/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct reason why = {.text = ""};
	struct config *cfg = NULL;

	/* Secrets in files would have the fuzzer open whatever it can name. */
	if (len > 65536 || memmem(data, len, "secret_file", 11))
		return 0;
	if (!config_load_text("f", (const char *)data, len, &cfg, &why)) {
		assert(cfg && !why.text[0]);
		config_free(cfg);
		return 0;
	}
	assert(!cfg && !strncmp(why.text, "f:", 2));
	return 0;
}
