/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of the period must not overtake a replay that was let in and has not reached the LUN:
 *
 *	replay: entering++;  load state	       reactor: state = CLOSING;  load entering
 *
 * All four are sequentially consistent, so that the replay is refused, or the reactor sees it and
 * looks again later. What has reached the LUN is ordered by its range lock.
 */
#include "front/port/port_grace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#define GRACE_NS (10 * NSEC_PER_SEC) /* a client looks for the daemon once a second at least */
#define LOOK_NS	 (5 * NSEC_PER_MSEC)

static uint64_t now_since_boot(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

int port_grace_open(struct port_grace *g, const char *port_socket, struct reason *why)
{
	char path[PATH_MAX];

	if ((size_t)snprintf(path, sizeof(path), "%s.grace", port_socket) >= sizeof(path))
		return reason_set(why, ENAMETOOLONG, "%s: too long", port_socket);
	g->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (g->fd < 0)
		return reason_set(why, errno, "%s: %s", path, strerror(errno));
	g->generation = now_since_boot();
	g->state = PORT_GRACE_REPLAYS;
	return 0;
}

void port_grace_close(struct port_grace *g)
{
	close(g->fd);
}

int port_grace_claim(const struct port_grace *g, int *ret_fd)
{
	struct flock claim = {.l_type = F_RDLCK,
			      .l_whence = SEEK_SET,
			      .l_start = (off_t)g->generation,
			      .l_len = 1};
	char path[64];
	_cleanup_close_ int fd = -1;

	/* Opened anew: another description, whose locks end with the last copy of it. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", g->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fcntl(fd, F_OFD_SETLK, &claim) < 0)
		return -errno;
	*ret_fd = take_fd(fd);
	return 0;
}

/** Whether a client of an earlier generation has not finished. */
static bool is_claimed(const struct port_grace *g)
{
	struct flock claim = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = (off_t)g->generation};

	return fcntl(g->fd, F_OFD_GETLK, &claim) == 0 && claim.l_type != F_UNLCK;
}

/** Stops letting replays in when it is time to. */
static void look_at_claims(struct port_grace *g, uint64_t waited_ns)
{
	bool claimed = is_claimed(g);

	if (claimed && waited_ns == 0)
		log_info("port.grace.wait", "what=\"clients that the daemon before had\"");
	if (claimed && waited_ns < GRACE_NS)
		return;
	if (claimed)
		log_warn("port.grace.expired", "waited_ms=%llu",
			 (unsigned long long)(waited_ns / NSEC_PER_MSEC));
	else if (waited_ns)
		log_info("port.grace.over", "waited_ms=%llu",
			 (unsigned long long)(waited_ns / NSEC_PER_MSEC));
	atomic_store(&g->state, PORT_GRACE_CLOSING);
}

static void look(struct port_grace *g)
{
	uint64_t now = reactor_now(g->reactor);

	if (atomic_load(&g->state) == PORT_GRACE_REPLAYS)
		look_at_claims(g, now - g->begun_ns);
	if (atomic_load(&g->state) == PORT_GRACE_REPLAYS || atomic_load(&g->entering)) {
		reactor_timer_arm(g->reactor, &g->timer, now + LOOK_NS);
		return;
	}
	atomic_store(&g->state, PORT_GRACE_OVER);
	g->over(g);
}

static void timer_fired(struct reactor_timer *t)
{
	look(container_of(t, struct port_grace, timer));
}

void port_grace_begin(struct port_grace *g, struct reactor *r, void (*over)(struct port_grace *g))
{
	g->reactor = r;
	g->over = over;
	g->begun_ns = reactor_now(r);
	reactor_timer_init(&g->timer, timer_fired);
	look(g);
}

void port_grace_stop(struct port_grace *g)
{
	if (g->reactor)
		reactor_timer_cancel(g->reactor, &g->timer);
}

bool port_grace_enter(struct port_grace *g)
{
	atomic_fetch_add(&g->entering, 1);
	if (atomic_load(&g->state) == PORT_GRACE_REPLAYS)
		return true;
	port_grace_leave(g);
	return false;
}

void port_grace_leave(struct port_grace *g)
{
	atomic_fetch_sub(&g->entering, 1);
}
