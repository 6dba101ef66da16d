/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "scsi/state_change.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "scsi/scsi_internal.h"

#define STATE_FILE_MAX (4u << 20)

void state_turn_init(struct state_turn *turn)
{
	list_init(&turn->waiting);
	turn->busy = false;
}

static void on_turn(struct reactor_msg *m)
{
	struct state_change *sc = container_of(m, struct state_change, msg);

	sc->begin(sc);
}

void state_change_enter(struct state_change *sc, struct scsi_cmd *cmd, struct state_turn *turn,
			void (*begin)(struct state_change *sc))
{
	bool mine;

	sc->lu = cmd->lu;
	sc->turn = turn;
	sc->reactor = cmd->nexus->reactor;
	sc->begin = begin;
	list_init(&sc->link);
	mutex_lock(&sc->lu->lock);
	mine = !turn->busy;
	turn->busy = true;
	if (!mine)
		list_add_tail(&turn->waiting, &sc->link);
	mutex_unlock(&sc->lu->lock);
	if (mine)
		begin(sc);
}

void state_change_leave(struct state_change *sc)
{
	struct state_change *next = NULL;
	struct list_node *n;

	mutex_lock(&sc->lu->lock);
	n = list_pop(&sc->turn->waiting);
	if (n)
		next = container_of(n, struct state_change, link);
	else
		sc->turn->busy = false;
	mutex_unlock(&sc->lu->lock);
	if (next) {
		next->msg.fn = on_turn;
		reactor_post(next->reactor, &next->msg);
	}
}

/** The directory of state files, made when it is not there; -errno. Blocks. */
static int open_dir(const struct scsi_lu *lu)
{
	int top = lun_state_dirfd(lu->lun), fd;

	if (top < 0)
		return -EROFS;
	if (!mkdirat(top, "scsi", 0700)) {
		if (fsync(top) < 0)
			return -errno;
	} else if (errno != EEXIST) {
		return -errno;
	}
	fd = openat(top, "scsi", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

int state_write(const struct scsi_lu *lu, const char *name, const char *text)
{
	_cleanup_close_ int dirfd = open_dir(lu);

	if (dirfd < 0)
		return dirfd;
	return text ? file_replace(dirfd, name, text, strlen(text)) : file_remove(dirfd, name);
}

static void save_run(struct worker_job *j)
{
	struct state_change *sc = container_of(j, struct state_change, job);

	sc->err = state_write(sc->lu, sc->name, sc->text);
	free(sc->text);
	sc->text = NULL;
}

static void save_done(struct worker_job *j)
{
	struct state_change *sc = container_of(j, struct state_change, job);

	sc->saved(sc, sc->err);
}

void state_change_save(struct state_change *sc, void (*saved)(struct state_change *sc, int err))
{
	sc->saved = saved;
	sc->job.run = save_run;
	sc->job.done = save_done;
	sc->job.reactor = sc->reactor;
	worker_submit(&sc->job);
}

bool state_can_save(const struct scsi_lu *lu)
{
	return lun_state_dirfd(lu->lun) >= 0;
}

void state_file_name(const struct scsi_lu *lu, const char *what, char *buf)
{
	snprintf(buf, 128, "%s.%s.json", lun_name(lu->lun), what);
}

int scsi_lu_forget(int state_dirfd, const char *lun)
{
	static const char *const kinds[] = {"reservations", "modes", "sanitize"};
	_cleanup_close_ int dirfd =
		openat(state_dirfd, "scsi", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	char name[128];
	int ret = 0;

	if (dirfd < 0)
		return errno == ENOENT ? 0 : -errno;
	for (unsigned i = 0; i < 3 && !ret; i++) {
		snprintf(name, sizeof(name), "%s.%s.json", lun, kinds[i]);
		ret = file_remove(dirfd, name);
	}
	return ret;
}

int state_load(const struct scsi_lu *lu, const char *what, char **ret_text, struct reason *why)
{
	_cleanup_close_ int dirfd = -1;
	char name[128], *text;
	size_t len;
	int ret;

	*ret_text = NULL;
	if (!state_can_save(lu))
		return 0;
	dirfd = openat(lun_state_dirfd(lu->lun), "scsi",
		       O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (dirfd < 0 && errno == ENOENT)
		return 0;
	state_file_name(lu, what, name);
	ret = dirfd < 0 ? -errno : file_read(dirfd, name, STATE_FILE_MAX, &text, &len);
	if (ret == -ENOENT)
		return 0;
	if (ret)
		return reason_set(why, -ret, "state scsi/%s: %s", name, strerror(-ret));
	*ret_text = text;
	return 0;
}
