/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "front/port/port_proto.h"

static struct port_export_wire some_export(void)
{
	struct port_export_wire e = {.size = 1 << 20, .block_size = 512};

	strcpy(e.name, "disk");
	return e;
}

static void hello_is_checked(void **state)
{
	struct port_msg_hello m;

	port_msg_init(&m, PORT_MSG_HELLO, sizeof(m));
	m.version_min = m.version_max = 1;
	assert_int_equal(port_msg_check(&m, sizeof(m)), PORT_MSG_HELLO);
	m.version_min = 2;
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
	m.version_min = 1;
	memset(m.name, 'x', sizeof(m.name)); /* no NUL */
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
}

static void header_is_checked(void **state)
{
	struct port_msg_list m;

	port_msg_init(&m, PORT_MSG_LIST, sizeof(m));
	assert_int_equal(port_msg_check(&m, sizeof(m)), PORT_MSG_LIST);
	assert_int_equal(port_msg_check(&m, sizeof(m) - 1), -EPROTO);
	assert_int_equal(port_msg_check(&m, 3), -EPROTO);
	assert_int_equal(port_msg_check(&m, 0), -EPROTO);
	m.h.magic ^= 1;
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
	m.h.magic ^= 1;
	m.h.reserved = 1;
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
	m.h.reserved = 0;
	m.h.type = 99;
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
}

static void attach_is_checked(void **state)
{
	struct port_msg_attach m;

	port_msg_init(&m, PORT_MSG_ATTACH, sizeof(m));
	m.flags = PORT_ATTACH_READ_ONLY;
	assert_int_equal(port_msg_check(&m, sizeof(m)), PORT_MSG_ATTACH);
	m.flags = 2;
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
	m.flags = 0;
	memset(m.lun, 'x', sizeof(m.lun));
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
}

static void layout_that_is_not_ours_is_refused(void **state)
{
	struct port_msg_attached m;

	port_msg_init(&m, PORT_MSG_ATTACHED, sizeof(m));
	m.export = some_export();
	m.shm_size = PORT_SHM_SIZE;
	m.slots = PORT_SLOTS;
	m.ring = PORT_RING;
	m.slot_size = PORT_SLOT_SIZE;
	assert_int_equal(port_msg_check(&m, sizeof(m)), PORT_MSG_ATTACHED);
	m.slots = PORT_SLOTS * 2;
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
	m.slots = PORT_SLOTS;
	m.export.block_size = 0;
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
	m.export.block_size = 512;
	m.export.size = UINT64_MAX;
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
}

static void count_of_exports_must_fit_the_length(void **state)
{
	size_t len = sizeof(struct port_msg_exports) + 2 * sizeof(struct port_export_wire);
	struct port_msg_exports *m = malloc(len);

	port_msg_init(m, PORT_MSG_EXPORTS, len);
	m->n = 2;
	m->exports[0] = m->exports[1] = some_export();
	assert_int_equal(port_msg_check(m, len), PORT_MSG_EXPORTS);
	m->n = 3;
	assert_int_equal(port_msg_check(m, len), -EPROTO);
	m->n = 1;
	assert_int_equal(port_msg_check(m, len), -EPROTO);
	m->n = 2;
	m->exports[1].name[0] = '\0';
	assert_int_equal(port_msg_check(m, len), -EPROTO);
	m->n = 0;
	m->more = 1; /* would have us ask for ever */
	m->h.len = sizeof(*m);
	assert_int_equal(port_msg_check(m, sizeof(*m)), -EPROTO);
	m->more = 0;
	assert_int_equal(port_msg_check(m, sizeof(*m)), PORT_MSG_EXPORTS);
	free(m);
}

static void error_must_be_an_errno(void **state)
{
	struct port_msg_error m;

	port_msg_init(&m, PORT_MSG_ERROR, sizeof(m));
	m.err = -ENOENT;
	assert_int_equal(port_msg_check(&m, sizeof(m)), PORT_MSG_ERROR);
	m.err = 0; /* would look like success */
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
	m.err = 5;
	assert_int_equal(port_msg_check(&m, sizeof(m)), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hello_is_checked),
		cmocka_unit_test(header_is_checked),
		cmocka_unit_test(attach_is_checked),
		cmocka_unit_test(layout_that_is_not_ours_is_refused),
		cmocka_unit_test(count_of_exports_must_fit_the_length),
		cmocka_unit_test(error_must_be_an_errno),
	};

	return cmocka_run_group_tests_name("port_proto", tests, NULL, NULL);
}
