/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client.h"

int client_submit(struct client *client, struct request *request)
{
	request->error[0] = 0;
	list_add_tail(&client->in_flight, &request->in_flight);
	return client->ops->submit(client, request);
}

void client_finish(struct client *client, struct request *request, enum request_result result)
{
	request->result = result;
	if (result == RESULT_LOST) {
		client->lost = true; /* the request stays in flight: the owner sweeps the list */
		return;
	}
	list_del(&request->in_flight);
	request->done(client, request);
}
