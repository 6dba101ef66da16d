/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any bytes as a request of the control socket: taken apart, or refused with an answer of a line.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "control/config.h"
#include "control/json_text.h"
#include "control/protocol.h"
#include "control/size.h"

/* What the handlers do with strings before they touch the appliance. */
static void use_params(const struct protocol_request *req)
{
	const char *size = protocol_string(req, "size"), *name = protocol_string(req, "name");
	uint64_t bytes;
	char iqn[224];

	if (size && !size_parse(size, &bytes, NULL)) {
		char text[32];

		size_format(bytes, text, sizeof(text));
		assert(text[0]);
	}
	if (name && !config_check_lun_name(name, NULL))
		config_iqn(name, iqn, sizeof(iqn));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct protocol_request req;
	struct reason why = {.text = ""};
	size_t out_len = 0;
	char *out;
	int ret;

	if (len > PROTOCOL_REQUEST_MAX)
		return 0;
	ret = protocol_parse((const char *)data, len, &req, &why);
	assert(req.id);
	if (ret) {
		out = protocol_failure(req.id, ret, why.text, &out_len);
	} else {
		use_params(&req);
		out = protocol_success(req.id, json_null(), &out_len);
	}
	assert(out && memchr(out, '\n', out_len) == out + out_len - 1);
	free(out);
	protocol_free(&req);
	return 0;
}
