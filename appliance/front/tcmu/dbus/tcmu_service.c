/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All on the service's thread but start and stop. Every call to the bus is asynchronous: the thread
 * that would wait is the one that answers tcmu-runner's question meanwhile.
 *
 * One match decides who is what: NameOwnerChanged of the name. On the way to a state one call is
 * out at a time; a new state forgets it, so that an answer never comes too late.
 *
 * The bus does not tell an owner who else waits for its name. A program that asks for it has
 * connected before: so while we are the owner, a new connection makes us ask who waits, a second
 * later, once for all that came in between, and then at intervals that double for two minutes: on
 * a busy machine the name is asked for long after the connection is made.
 */
#include "front/tcmu/dbus/tcmu_service.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "base/clock.h"

#define NAME	     "org.kernel.TCMUService1"
#define PATH	     "/org/kernel/TCMUService1"
#define MANAGER	     NAME ".HandlerManager1"
#define MANAGER_PATH PATH "/HandlerManager1"
#define BUS	     "org.freedesktop.DBus"
#define BUS_PATH     "/org/freedesktop/DBus"
#define SYSTEM_BUS   "unix:path=/run/dbus/system_bus_socket"

#define ASK_DELAY_NS NSEC_PER_SEC
#define ASK_LAST_NS  (64 * NSEC_PER_SEC)
#define RETRY_NS     NSEC_PER_SEC
#define RETRY_MAX_NS (60 * NSEC_PER_SEC)

struct tcmu_service {
	/* --- constant after start --- */
	struct tcmu_service_options opt;
	char *guest_name, *path, *guest_path;
	pthread_t thread;
	int end; /* eventfd: readable when the thread shall end */

	/* --- the thread's --- */
	enum tcmu_service_state state;
	sd_bus *bus;		/* NULL: none */
	sd_bus_slot *call;	/* that leads to the next state, while seeking */
	sd_bus_slot *guest;	/* our object under the manager, while we are a guest */
	sd_bus_slot *newcomers; /* the match of new connections, while we are the owner */
	uint64_t ask_ns;	/* when to ask who waits; 0: not */
	uint64_t ask_delay_ns;	/* from then to the next time */
	uint64_t retry_ns;
};

static const char *const state_name[] = {"away", "seeking", "owner", "guest", "taken", "refused"};

const char *tcmu_service_state_name(enum tcmu_service_state state)
{
	return state_name[state];
}

/* Ends what belongs to the old state: but for its object, which a guest was seeking with. */
static void set_state(struct tcmu_service *s, enum tcmu_service_state state, const char *why)
{
	bool other = s->state != state;

	s->call = sd_bus_slot_unref(s->call);
	s->newcomers = sd_bus_slot_unref(s->newcomers);
	if (state != TCMU_SERVICE_GUEST)
		s->guest = sd_bus_slot_unref(s->guest);
	s->ask_ns = 0;
	s->state = state;
	if (other && s->opt.told)
		s->opt.told(s->opt.ctx, state, why);
}

static int refuse(struct tcmu_service *s, sd_bus_message *m)
{
	const sd_bus_error *e = sd_bus_message_get_error(m);

	set_state(s, TCMU_SERVICE_REFUSED, e->message ? e->message : e->name);
	return 0;
}

/* --- what others call --- */

static int on_check(sd_bus_message *m, void *ctx, sd_bus_error *error)
{
	struct tcmu_service *s = ctx;
	struct reason why = {.text = "success"};
	const char *config;
	int ret = sd_bus_message_read(m, "s", &config);

	if (ret < 0)
		return ret;
	ret = s->opt.check(s->opt.ctx, config, &why);
	return sd_bus_reply_method_return(m, "bs", ret == 0, why.text);
}

static int get_description(sd_bus *bus, const char *path, const char *interface,
			   const char *property, sd_bus_message *reply, void *ctx,
			   sd_bus_error *error)
{
	struct tcmu_service *s = ctx;

	return sd_bus_message_append(reply, "s", s->opt.description);
}

static const sd_bus_vtable handler_vtable[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD_WITH_ARGS("CheckConfig", SD_BUS_ARGS("s", configstr),
				SD_BUS_RESULT("b", is_valid, "s", message), on_check,
				SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_PROPERTY("ConfigDesc", "s", get_description, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_VTABLE_END,
};

/* --- the guest --- */

static int on_registered(sd_bus_message *m, void *ctx, sd_bus_error *error)
{
	struct tcmu_service *s = ctx;
	const char *why;
	int ok;

	if (sd_bus_message_is_method_error(m, NULL))
		return refuse(s, m);
	if (sd_bus_message_read(m, "bs", &ok, &why) < 0)
		return 0;
	set_state(s, ok ? TCMU_SERVICE_GUEST : TCMU_SERVICE_REFUSED, ok ? "" : why);
	return 0;
}

/* We have the name under which a guest is asked, or not: now tell the owner. */
static int on_guest_name(sd_bus_message *m, void *ctx, sd_bus_error *error)
{
	struct tcmu_service *s = ctx;

	if (sd_bus_message_is_method_error(m, NULL))
		return refuse(s, m);
	s->call = sd_bus_slot_unref(s->call);
	return sd_bus_call_method_async(s->bus, &s->call, NAME, MANAGER_PATH, MANAGER,
					"RegisterHandler", on_registered, s, "ss", s->opt.handler,
					s->opt.description);
}

/* Whether the reply to GetManagedObjects lists @path. */
static bool lists_path(sd_bus_message *m, const char *path)
{
	const char *found;

	if (sd_bus_message_enter_container(m, 'a', "{oa{sa{sv}}}") < 0)
		return false;
	while (sd_bus_message_enter_container(m, 'e', "oa{sa{sv}}") > 0) {
		if (sd_bus_message_read(m, "o", &found) < 0 || !strcmp(found, path))
			return true;
		if (sd_bus_message_skip(m, "a{sa{sv}}") < 0 || sd_bus_message_exit_container(m) < 0)
			break;
	}
	return false;
}

static int on_handlers(sd_bus_message *m, void *ctx, sd_bus_error *error)
{
	struct tcmu_service *s = ctx;
	int ret;

	if (sd_bus_message_is_method_error(m, NULL))
		return refuse(s, m);
	if (lists_path(m, s->path)) {
		set_state(s, TCMU_SERVICE_TAKEN, "");
		return 0;
	}
	ret = sd_bus_add_object_vtable(s->bus, &s->guest, s->guest_path, NAME, handler_vtable, s);
	if (ret < 0)
		return ret;
	s->call = sd_bus_slot_unref(s->call);
	return sd_bus_request_name_async(s->bus, &s->call, s->guest_name, 0, on_guest_name, s);
}

/* Another program has the name. */
static int become_guest(struct tcmu_service *s)
{
	set_state(s, TCMU_SERVICE_SEEKING, "");
	return sd_bus_call_method_async(s->bus, &s->call, NAME, PATH, BUS ".ObjectManager",
					"GetManagedObjects", on_handlers, s, "");
}

/* --- the owner --- */

static int on_waiting(sd_bus_message *m, void *ctx, sd_bus_error *error)
{
	struct tcmu_service *s = ctx;
	const char *name;
	unsigned n = 0;

	if (s->state != TCMU_SERVICE_OWNER || sd_bus_message_is_method_error(m, NULL) ||
	    sd_bus_message_enter_container(m, 'a', "s") < 0)
		return 0;
	while (sd_bus_message_read(m, "s", &name) > 0)
		n++;
	if (n < 2) /* but for ourselves nobody */
		return 0;
	return sd_bus_release_name_async(s->bus, NULL, NAME, NULL, NULL);
}

static int ask_who_waits(struct tcmu_service *s)
{
	s->ask_ns = s->ask_delay_ns > ASK_LAST_NS ? 0 : clock_now_ns() + s->ask_delay_ns;
	s->ask_delay_ns *= 2;
	return sd_bus_call_method_async(s->bus, NULL, BUS, BUS_PATH, BUS, "ListQueuedOwners",
					on_waiting, s, "s", NAME);
}

static int on_newcomer(sd_bus_message *m, void *ctx, sd_bus_error *error)
{
	struct tcmu_service *s = ctx;
	const char *name, *old, *owner;

	if (sd_bus_message_read(m, "sss", &name, &old, &owner) < 0)
		return 0;
	if (name[0] == ':' && owner[0] && s->ask_delay_ns > ASK_DELAY_NS) {
		s->ask_delay_ns = ASK_DELAY_NS;
		s->ask_ns = clock_now_ns() + ASK_DELAY_NS;
	}
	return 0;
}

static int become_owner(struct tcmu_service *s)
{
	int ret;

	if (s->state == TCMU_SERVICE_OWNER)
		return 0;
	set_state(s, TCMU_SERVICE_OWNER, "");
	ret = sd_bus_match_signal_async(s->bus, &s->newcomers, BUS, BUS_PATH, BUS,
					"NameOwnerChanged", on_newcomer, NULL, s);
	/* One may have come before there was the match. */
	s->ask_delay_ns = ASK_DELAY_NS;
	return ret < 0 ? ret : ask_who_waits(s);
}

/* --- who has the name --- */

static int on_name(sd_bus_message *m, void *ctx, sd_bus_error *error)
{
	struct tcmu_service *s = ctx;
	uint32_t how;

	if (sd_bus_message_is_method_error(m, NULL))
		return refuse(s, m);
	if (sd_bus_message_read(m, "u", &how) < 0)
		return 0;
	return how == 1 || how == 4 /* ours, or ours already */ ? become_owner(s) : become_guest(s);
}

static int seek(struct tcmu_service *s)
{
	set_state(s, TCMU_SERVICE_SEEKING, "");
	return sd_bus_request_name_async(s->bus, &s->call, NAME, 0, on_name, s);
}

static int on_owner_changed(sd_bus_message *m, void *ctx, sd_bus_error *error)
{
	struct tcmu_service *s = ctx;
	const char *name, *old, *owner, *self = "";

	if (sd_bus_message_read(m, "sss", &name, &old, &owner) < 0 ||
	    sd_bus_get_unique_name(s->bus, &self) < 0)
		return 0;
	if (!strcmp(owner, self))
		return become_owner(s);
	/* The name under which a guest is asked belongs to the owner that is no more. */
	if (strcmp(old, self))
		sd_bus_release_name_async(s->bus, NULL, s->guest_name, NULL, NULL);
	return owner[0] ? become_guest(s) : seek(s);
}

/* --- the connection --- */

/* Before the name is asked for all is there that its owner must have. */
static int prepare(struct tcmu_service *s)
{
	int ret = sd_bus_add_object_manager(s->bus, NULL, PATH);

	if (ret >= 0)
		ret = sd_bus_add_object_vtable(s->bus, NULL, s->path, NAME, handler_vtable, s);
	if (ret >= 0)
		ret = sd_bus_add_match_async(s->bus, NULL,
					     "type='signal',sender='" BUS "',path='" BUS_PATH
					     "',interface='" BUS
					     "',member='NameOwnerChanged',arg0='" NAME "'",
					     on_owner_changed, NULL, s);
	return ret < 0 ? ret : seek(s);
}

static int connect_bus(struct tcmu_service *s)
{
	const char *address = s->opt.address;
	int ret = sd_bus_new(&s->bus);

	if (!address)
		address = getenv("DBUS_SYSTEM_BUS_ADDRESS");
	if (ret >= 0)
		ret = sd_bus_set_address(s->bus, address ? address : SYSTEM_BUS);
	if (ret >= 0)
		ret = sd_bus_set_bus_client(s->bus, true);
	if (ret >= 0)
		ret = sd_bus_set_watch_bind(s->bus, true);
	if (ret >= 0)
		ret = sd_bus_start(s->bus);
	return ret < 0 ? ret : prepare(s);
}

static void disconnect(struct tcmu_service *s)
{
	set_state(s, TCMU_SERVICE_AWAY, "");
	s->bus = sd_bus_close_unref(s->bus);
}

/* Sleeps until the bus has something, @until_ns (0: for ever), or the end. False: the end. */
static bool sleep_until(struct tcmu_service *s, uint64_t until_ns)
{
	struct pollfd fds[2] = {{.fd = s->end, .events = POLLIN}, {.fd = -1}};
	uint64_t usec, now = clock_now_ns();
	struct timespec ts;

	if (s->bus) {
		int events = sd_bus_get_events(s->bus);

		fds[1].fd = sd_bus_get_fd(s->bus);
		fds[1].events = (short)(events < 0 ? 0 : events);
		if (sd_bus_get_timeout(s->bus, &usec) > 0 && usec != UINT64_MAX &&
		    (!until_ns || usec * NSEC_PER_USEC < until_ns))
			until_ns = usec * NSEC_PER_USEC;
	}
	if (until_ns) {
		uint64_t left = until_ns > now ? until_ns - now : 0;

		ts = (struct timespec){(time_t)(left / NSEC_PER_SEC), (long)(left % NSEC_PER_SEC)};
	}
	ppoll(fds, 2, until_ns ? &ts : NULL, NULL);
	return !fds[0].revents;
}

/* As long as the connection lives. False: the end. */
static bool serve(struct tcmu_service *s)
{
	for (;;) {
		int ret = sd_bus_process(s->bus, NULL);

		if (ret >= 0 && s->ask_ns && clock_now_ns() >= s->ask_ns)
			ret = ask_who_waits(s);
		if (ret < 0 || !sd_bus_is_open(s->bus))
			return true;
		if (s->state != TCMU_SERVICE_SEEKING)
			s->retry_ns = RETRY_NS;
		if (ret == 0 && !sleep_until(s, s->ask_ns))
			return false;
	}
}

static void *service_main(void *arg)
{
	struct tcmu_service *s = arg;

	for (bool go_on = true; go_on;) {
		if (connect_bus(s) >= 0)
			go_on = serve(s);
		disconnect(s);
		if (!go_on)
			break;
		go_on = sleep_until(s, clock_now_ns() + s->retry_ns);
		s->retry_ns = s->retry_ns * 2 < RETRY_MAX_NS ? s->retry_ns * 2 : RETRY_MAX_NS;
	}
	return NULL;
}

/* --- life --- */

static void free_service(struct tcmu_service *s)
{
	if (s->end >= 0)
		close(s->end);
	free(s->guest_name);
	free(s->path);
	free(s->guest_path);
	free(s);
}

int tcmu_service_start(const struct tcmu_service_options *opt, struct tcmu_service **ret_service,
		       struct reason *why)
{
	struct tcmu_service *s = calloc(1, sizeof(*s));
	int ret = 0;

	if (!s)
		return reason_set(why, ENOMEM, "out of memory");
	s->opt = *opt;
	s->retry_ns = RETRY_NS;
	s->end = eventfd(0, EFD_CLOEXEC);
	if (s->end < 0)
		ret = errno;
	else if (asprintf(&s->guest_name, MANAGER ".%s", opt->handler) < 0 ||
		 asprintf(&s->path, PATH "/%s", opt->handler) < 0 ||
		 asprintf(&s->guest_path, MANAGER_PATH "/%s", opt->handler) < 0)
		ret = ENOMEM;
	else
		ret = pthread_create(&s->thread, NULL, service_main, s);
	if (ret) {
		free_service(s);
		return reason_set(why, ret, "D-Bus service: %s", strerror(ret));
	}
	*ret_service = s;
	return 0;
}

void tcmu_service_stop(struct tcmu_service *s)
{
	if (!s)
		return;
	eventfd_write(s->end, 1);
	pthread_join(s->thread, NULL);
	free_service(s);
}
