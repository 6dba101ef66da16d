/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/port/port_proto.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

void port_msg_init(void *msg, enum port_msg_type type, size_t len)
{
	memset(msg, 0, len);
	*(struct port_msg *)msg = (struct port_msg){
		.magic = PORT_MAGIC,
		.type = type,
		.len = (uint32_t)len,
	};
}

static bool is_string(const char *s, size_t room)
{
	return memchr(s, '\0', room) != NULL;
}

static bool check_export(const struct port_export_wire *e)
{
	return is_string(e->name, sizeof(e->name)) && e->name[0] &&
	       is_string(e->description, sizeof(e->description)) && e->size <= INT64_MAX &&
	       e->block_size >= 1 && e->block_size <= PORT_SLOT_SIZE;
}

static bool check_exports(const struct port_msg_exports *m, size_t len)
{
	if (len < sizeof(*m) || m->n > PORT_EXPORTS_MAX || m->more > 1 || (m->more && m->n == 0))
		return false;
	if (len != sizeof(*m) + m->n * sizeof(m->exports[0]))
		return false;
	for (uint32_t i = 0; i < m->n; i++) {
		if (!check_export(&m->exports[i]))
			return false;
	}
	return true;
}

static bool check_attached(const struct port_msg_attached *m)
{
	return check_export(&m->export) && m->shm_size == PORT_SHM_SIZE && m->slots == PORT_SLOTS &&
	       m->ring == PORT_RING && m->slot_size == PORT_SLOT_SIZE;
}

static bool check_body(const void *buf, size_t len, uint32_t type)
{
	const struct port_msg_hello *hello = buf;
	const struct port_msg_list *list = buf;
	const struct port_msg_attach *attach = buf;
	const struct port_msg_changed *changed = buf;
	const struct port_msg_error *error = buf;

	switch (type) {
	case PORT_MSG_HELLO:
		return len == sizeof(*hello) && hello->version_min <= hello->version_max &&
		       is_string(hello->name, sizeof(hello->name));
	case PORT_MSG_LIST:
		return len == sizeof(*list) && is_string(list->after, sizeof(list->after));
	case PORT_MSG_EXPORTS:
		return check_exports(buf, len);
	case PORT_MSG_ATTACH:
		return len == sizeof(*attach) && is_string(attach->lun, sizeof(attach->lun)) &&
		       !(attach->flags & ~(uint32_t)PORT_ATTACH_READ_ONLY) && !attach->reserved;
	case PORT_MSG_ATTACHED:
		return len == sizeof(struct port_msg_attached) && check_attached(buf);
	case PORT_MSG_CHANGED:
		return len == sizeof(*changed) && check_export(&changed->export);
	case PORT_MSG_GONE:
		return len == sizeof(struct port_msg_gone);
	case PORT_MSG_ERROR:
		return len == sizeof(*error) && error->err < 0 && error->err >= -4095 &&
		       is_string(error->text, sizeof(error->text));
	default:
		return false;
	}
}

int port_msg_check(const void *buf, size_t len)
{
	const struct port_msg *h = buf;

	if (len < sizeof(*h) || len > PORT_MSG_MAX || h->magic != PORT_MAGIC || h->len != len ||
	    h->reserved)
		return -EPROTO;
	return check_body(buf, len, h->type) ? (int)h->type : -EPROTO;
}
