/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Answers of the daemon, for people. Each returns the exit status. */
#pragma once

#include <jansson.h>

int print_status(const json_t *r);
int print_luns(const json_t *r);
int print_lun(const json_t *r);
int print_created(const json_t *r);
int print_resized(const json_t *r);
int print_memory(const json_t *r);
int print_released(const json_t *r);
int print_nothing(const json_t *r);
int print_sessions(const json_t *r);
int print_exports(const json_t *r);
int print_plan(const json_t *r);
int print_applied(const json_t *r);
/** EXIT_REFUSED when a step of an apply could not be taken. */
int applied_status(const json_t *r);
