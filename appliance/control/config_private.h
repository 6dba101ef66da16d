/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the configuration share. */
#pragma once

#include "control/config.h"

/** Frees what config_check() derives. */
void config_free_derived(struct config *cfg);
