/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a backstore's configuration string says: ebb/LUN[;socket=PATH][;retry=SECONDS]. */
#pragma once

#include "base/reason.h"
#include "front/port/port_client.h"

#define RUNNER_SUBTYPE "ebb"
#define RUNNER_USAGE   "LUN[;socket=PATH][;retry=SECONDS], LUN being the name of a LUN of ebbd"

struct runner_config {
	char lun[PORT_NAME_MAX];
	char socket[108]; /* as long as an address may be */
	unsigned retry_ms;
};

/** Fills @ret_config, defaults included. Words for tcmu-runner itself are passed over. -EINVAL. */
int runner_config_parse(const char *cfgstring, struct runner_config *ret_config,
			struct reason *why);
