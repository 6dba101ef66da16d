/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The D-Bus service of user:ebb on a bus of its own (dbus-daemon): as the owner of the name, as the
 * guest of a program that has it as tcmu-runner does, and on the way from one to the other.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "front/tcmu/dbus/tcmu_service.h"
#include "scratch.h"

#define NAME	     "org.kernel.TCMUService1"
#define PATH	     "/org/kernel/TCMUService1"
#define MANAGER	     NAME ".HandlerManager1"
#define MANAGER_PATH PATH "/HandlerManager1"
#define WAIT_NS	     (60 * NSEC_PER_SEC)

/* --- a bus, and somebody on it --- */

struct world {
	char dir[200], address[250], config[250];
	pid_t bus;
	struct tcmu_service *service;
	_Atomic int state;
	char why[200]; /* of REFUSED; written before `state` */
	sd_bus *client;
	/* the program that plays tcmu-runner */
	sd_bus *runner;
	bool runner_refuses;
	unsigned registered;
};

static void write_config(struct world *w)
{
	FILE *f;

	snprintf(w->config, sizeof(w->config), "%s/bus.conf", w->dir);
	f = fopen(w->config, "w");
	assert_non_null(f);
	fprintf(f,
		"<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration "
		"1.0//EN\"\n"
		" \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n"
		"<busconfig><listen>%s</listen><auth>EXTERNAL</auth><policy context=\"default\">"
		"<allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>"
		"<allow own=\"*\"/>"
		"</policy></busconfig>\n",
		w->address);
	assert_int_equal(fclose(f), 0);
}

/* Returns once it listens. */
static void start_bus(struct world *w)
{
	char line[8], arg[300];
	int out[2];

	assert_int_equal(pipe(out), 0);
	w->bus = fork();
	assert_true(w->bus >= 0);
	if (!w->bus) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(out[0]);
		snprintf(arg, sizeof(arg), "--config-file=%s", w->config);
		dup2(out[1], 1);
		execlp("dbus-daemon", "dbus-daemon", "--nofork", "--print-address=1", arg, NULL);
		_exit(127);
	}
	close(out[1]);
	assert_true(read(out[0], line, sizeof(line)) > 0); /* else: is dbus-daemon installed? */
	close(out[0]);
}

static void stop_bus(struct world *w)
{
	kill(w->bus, SIGTERM);
	waitpid(w->bus, NULL, 0);
	w->bus = 0;
}

static sd_bus *connect_to(struct world *w)
{
	sd_bus *bus;

	assert_true(sd_bus_new(&bus) >= 0);
	assert_true(sd_bus_set_address(bus, w->address) >= 0);
	assert_true(sd_bus_set_bus_client(bus, 1) >= 0);
	assert_true(sd_bus_start(bus) >= 0);
	return bus;
}

static int check(void *ctx, const char *config, struct reason *why)
{
	if (!strcmp(config, "ebb/there"))
		return 0;
	return reason_set(why, ENOENT, "no LUN for %s", config);
}

static void told(void *ctx, enum tcmu_service_state state, const char *why)
{
	struct world *w = ctx;

	snprintf(w->why, sizeof(w->why), "%s", why);
	atomic_store(&w->state, state);
}

static void start_service(struct world *w)
{
	struct tcmu_service_options opt = {.address = w->address,
					   .handler = "ebb",
					   .description = "ebb/NAME",
					   .check = check,
					   .told = told,
					   .ctx = w};

	assert_int_equal(tcmu_service_start(&opt, &w->service, NULL), 0);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	scratch_dir("/tmp", w->dir, sizeof(w->dir));
	snprintf(w->address, sizeof(w->address), "unix:path=%s/bus", w->dir);
	write_config(w);
	atomic_init(&w->state, -1);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	tcmu_service_stop(w->service);
	sd_bus_flush_close_unref(w->client);
	sd_bus_flush_close_unref(w->runner);
	if (w->bus)
		stop_bus(w);
	free(w);
	return 0;
}

/* Lets the runner answer until the service is in @state. */
static void await(struct world *w, enum tcmu_service_state state)
{
	uint64_t end = clock_now_ns() + WAIT_NS;

	while (atomic_load(&w->state) != (int)state) {
		if (clock_now_ns() > end)
			fail_msg("the service is '%s' (%s), not '%s'",
				 tcmu_service_state_name(atomic_load(&w->state)), w->why,
				 tcmu_service_state_name(state));
		if (w->runner && sd_bus_process(w->runner, NULL) > 0)
			continue;
		usleep(2000);
	}
}

/* --- what targetcli asks --- */

static void assert_check(struct world *w, const char *path, const char *config, bool good,
			 const char *message)
{
	sd_bus_message *reply = NULL;
	const char *text;
	int ok;

	if (!w->client)
		w->client = connect_to(w);
	assert_true(sd_bus_call_method(w->client, NAME, path, NAME, "CheckConfig", NULL, &reply,
				       "s", config) >= 0);
	assert_true(sd_bus_message_read(reply, "bs", &ok, &text) >= 0);
	assert_int_equal(ok, good);
	assert_string_equal(text, message);
	sd_bus_message_unref(reply);
}

/* The paths that the manager lists, each with a blank behind it. */
static void list_handlers(struct world *w, char *buf, size_t size)
{
	sd_bus_message *reply = NULL;
	const char *path;
	size_t len = 0;

	if (!w->client)
		w->client = connect_to(w);
	assert_true(sd_bus_call_method(w->client, NAME, PATH, "org.freedesktop.DBus.ObjectManager",
				       "GetManagedObjects", NULL, &reply, "") >= 0);
	assert_true(sd_bus_message_enter_container(reply, 'a', "{oa{sa{sv}}}") > 0);
	buf[0] = '\0';
	while (sd_bus_message_enter_container(reply, 'e', "oa{sa{sv}}") > 0) {
		assert_true(sd_bus_message_read(reply, "o", &path) > 0);
		len += (size_t)snprintf(buf + len, size - len, "%s ", path);
		assert_true(sd_bus_message_skip(reply, "a{sa{sv}}") > 0);
		assert_true(sd_bus_message_exit_container(reply) >= 0);
	}
	sd_bus_message_unref(reply);
}

static void assert_serves(struct world *w)
{
	char *text = NULL, list[300];

	list_handlers(w, list, sizeof(list));
	assert_string_equal(list, PATH "/ebb ");
	assert_true(sd_bus_get_property_string(w->client, NAME, PATH "/ebb", NAME, "ConfigDesc",
					       NULL, &text) >= 0);
	assert_string_equal(text, "ebb/NAME");
	free(text);
	assert_check(w, PATH "/ebb", "ebb/there", true, "success");
	assert_check(w, PATH "/ebb", "ebb/else", false, "no LUN for ebb/else");
}

/* --- the program that plays tcmu-runner --- */

static int on_register(sd_bus_message *m, void *ctx, sd_bus_error *error)
{
	struct world *w = ctx;
	const char *handler, *description;

	assert_true(sd_bus_message_read(m, "ss", &handler, &description) > 0);
	assert_string_equal(handler, "ebb");
	assert_string_equal(description, "ebb/NAME");
	w->registered++;
	return sd_bus_reply_method_return(m, "bs", !w->runner_refuses,
					  w->runner_refuses ? "not today" : "succeeded");
}

static const sd_bus_vtable manager_vtable[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD("RegisterHandler", "ss", "bs", on_register, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_VTABLE_END,
};

static int get_nothing(sd_bus *bus, const char *path, const char *interface, const char *property,
		       sd_bus_message *reply, void *ctx, sd_bus_error *error)
{
	return sd_bus_message_append(reply, "s", "");
}

static const sd_bus_vtable handler_vtable[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_PROPERTY("ConfigDesc", "s", get_nothing, 0, 0),
	SD_BUS_VTABLE_END,
};

/* Connects; the name is asked for by the test. */
static void connect_runner(struct world *w, const char *own_handler)
{
	w->runner = connect_to(w);
	assert_true(sd_bus_add_object_manager(w->runner, NULL, PATH) >= 0);
	assert_true(sd_bus_add_object_vtable(w->runner, NULL, own_handler, NAME, handler_vtable,
					     w) >= 0);
	assert_true(sd_bus_add_object_vtable(w->runner, NULL, MANAGER_PATH, MANAGER, manager_vtable,
					     w) >= 0);
}

/* --- tests --- */

static void test_a_free_name_is_ours_and_served(void **state)
{
	struct world *w = *state;

	start_bus(w);
	start_service(w);
	await(w, TCMU_SERVICE_OWNER);
	assert_serves(w);
}

static void test_a_guest_is_registered_and_asked_under_its_own_name(void **state)
{
	struct world *w = *state;
	sd_bus_message *reply = NULL;
	const char *text;
	int ok;

	start_bus(w);
	connect_runner(w, PATH "/qcow");
	assert_true(sd_bus_request_name(w->runner, NAME, 0) >= 0);
	start_service(w);
	await(w, TCMU_SERVICE_GUEST);
	assert_int_equal(w->registered, 1);
	/* as tcmu-runner passes targetcli's question on */
	assert_true(sd_bus_call_method(w->runner, MANAGER ".ebb", MANAGER_PATH "/ebb", NAME,
				       "CheckConfig", NULL, &reply, "s", "ebb/there") >= 0);
	assert_true(sd_bus_message_read(reply, "bs", &ok, &text) >= 0);
	assert_true(ok);
	sd_bus_message_unref(reply);
	/* tcmu-runner ends */
	w->runner = sd_bus_flush_close_unref(w->runner);
	await(w, TCMU_SERVICE_OWNER);
	assert_serves(w);
	/* and its like comes back, another time */
	connect_runner(w, PATH "/qcow");
	assert_true(sd_bus_request_name(w->runner, NAME, SD_BUS_NAME_QUEUE) >= 0);
	await(w, TCMU_SERVICE_GUEST);
	assert_int_equal(w->registered, 2);
}

static void test_one_that_asks_long_after_it_came_is_found(void **state)
{
	struct world *w = *state;

	start_bus(w);
	start_service(w);
	await(w, TCMU_SERVICE_OWNER);
	connect_runner(w, PATH "/qcow");
	sleep(2); /* who waits has been asked meanwhile: nobody */
	assert_true(sd_bus_request_name(w->runner, NAME, SD_BUS_NAME_QUEUE) >= 0);
	await(w, TCMU_SERVICE_GUEST);
	assert_int_equal(w->registered, 1);
}

static void test_a_handler_of_our_name_is_left_in_its_place(void **state)
{
	struct world *w = *state;

	start_bus(w);
	connect_runner(w, PATH "/ebb");
	assert_true(sd_bus_request_name(w->runner, NAME, 0) >= 0);
	start_service(w);
	await(w, TCMU_SERVICE_TAKEN);
	assert_int_equal(w->registered, 0);
	w->runner = sd_bus_flush_close_unref(w->runner);
	await(w, TCMU_SERVICE_OWNER);
}

static void test_a_refusal_is_told_with_its_reason(void **state)
{
	struct world *w = *state;

	start_bus(w);
	w->runner_refuses = true;
	connect_runner(w, PATH "/qcow");
	assert_true(sd_bus_request_name(w->runner, NAME, 0) >= 0);
	start_service(w);
	await(w, TCMU_SERVICE_REFUSED);
	assert_string_equal(w->why, "not today");
}

static void test_a_bus_that_comes_late_or_again_is_found(void **state)
{
	struct world *w = *state;

	start_service(w);
	start_bus(w);
	await(w, TCMU_SERVICE_OWNER);
	stop_bus(w);
	await(w, TCMU_SERVICE_AWAY);
	start_bus(w);
	await(w, TCMU_SERVICE_OWNER);
	assert_serves(w);
}

static void test_it_ends_when_there_is_no_bus(void **state)
{
	start_service(*state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_free_name_is_ours_and_served, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			test_a_guest_is_registered_and_asked_under_its_own_name, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_that_asks_long_after_it_came_is_found,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_handler_of_our_name_is_left_in_its_place,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_refusal_is_told_with_its_reason, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_bus_that_comes_late_or_again_is_found, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_it_ends_when_there_is_no_bus, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
