/* SPDX-License-Identifier: GPL-2.0-or-later */
/* LUNs for the kernel's target: the devices that it makes, and user:ebb in targetcli (docs/lio.md).
 */
#include <string.h>

#include "base/log.h"
#include "control/appliance_private.h"

static int check_config(void *ctx, const char *config, struct reason *why)
{
	struct appliance *app = ctx;

	return tcmu_check_config(app->table, config, 0, why);
}

static void service_told(void *ctx, enum tcmu_service_state state, const char *why)
{
	const char *name = tcmu_service_state_name(state);

	if (state == TCMU_SERVICE_REFUSED)
		log_warn("tcmu.dbus", "state=%s reason=\"%s\"", name, why);
	else
		log_info("tcmu.dbus", "state=%s", name);
}

int app_start_tcmu(struct appliance *app, struct reason *why)
{
	const struct tcmu_options opt = {.set = app->reactors,
					 .budget = memory_budget(app->memory)};
	const struct tcmu_service_options service = {
		.handler = TCMU_HANDLER,
		.description = TCMU_HANDLER "/NAME: a LUN of the Ebb appliance (`ebb lun list`); "
					    "the size of the backstore is the LUN's",
		.check = check_config,
		.told = service_told,
		.ctx = app,
	};
	int ret = tcmu_server_start(&opt, &app->tcmu, &app->tcmu_problem);

	if (!ret)
		return tcmu_service_start(&service, &app->tcmu_service, why);
	app->tcmu = NULL;
	if (!app->lenient)
		return reason_set(why, -ret, "%s", app->tcmu_problem.text);
	log_error("tcmu.unavailable", "reason=\"%s\"", app->tcmu_problem.text);
	return 0;
}

void app_stop_tcmu(struct appliance *app)
{
	tcmu_service_stop(app->tcmu_service);
	tcmu_server_stop(app->tcmu);
}
