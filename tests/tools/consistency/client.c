/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client.h"

#include <stdlib.h>

struct client *client_alloc(size_t size, const struct client_ops *ops, const char *url,
			    unsigned index)
{
	struct client *c = calloc(1, size);

	if (!c)
		return NULL;
	c->ops = ops;
	c->url = url;
	c->index = index;
	list_init(&c->in_flight);
	return c;
}

void client_free(struct client *client)
{
	if (!client)
		return;
	client->ops->disconnect(client);
	free(client);
}

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
