/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line of nbdkit, and the start of a process from it. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "front/nbd/nbd_private.h"

#define PLUGIN_FILE  "nbdkit-ebb-plugin.so"
#define FIRST_LISTEN 3 /* SD_LISTEN_FDS_START */
#define FIRST_SPARE  64

extern char **environ;

/* --- finding things --- */

/** Returns whether @name can be run: a path, or found in PATH. */
static bool find_program(const char *name)
{
	_cleanup_free_ char *path = NULL;
	const char *env = getenv("PATH");
	char *save = NULL, file[PATH_MAX];

	if (strchr(name, '/'))
		return access(name, X_OK) == 0;
	path = strdup(env ? env : "/usr/sbin:/usr/bin:/sbin:/bin");
	for (char *dir = path ? strtok_r(path, ":", &save) : NULL; dir;
	     dir = strtok_r(NULL, ":", &save)) {
		snprintf(file, sizeof(file), "%s/%s", dir, name);
		if (access(file, X_OK) == 0)
			return true;
	}
	return false;
}

static int take_if_there(const char *file, char *buf, size_t size)
{
	if (access(file, R_OK) < 0 || strlen(file) >= size)
		return -ENOENT;
	strcpy(buf, file);
	return 0;
}

/** Looks in the build tree that the running executable lies in. */
static int find_in_build_tree(char *buf, size_t size)
{
	char dir[PATH_MAX], file[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);

	if (n < 0)
		return -ENOENT;
	dir[n] = '\0';
	for (int up = 0; up < 4; up++) {
		char *slash = strrchr(dir, '/');

		if (!slash || slash == dir)
			break;
		*slash = '\0';
		snprintf(file, sizeof(file), "%s/plugins/nbdkit/" PLUGIN_FILE, dir);
		if (take_if_there(file, buf, size) == 0)
			return 0;
	}
	return -ENOENT;
}

int nbd_find_plugin(char *buf, size_t size, struct reason *why)
{
	const char *env = getenv("EBB_NBDKIT_PLUGIN");

	if (env && env[0]) {
		if (take_if_there(env, buf, size) == 0)
			return 0;
		return reason_set(why, ENOENT, "%s: no such plugin (EBB_NBDKIT_PLUGIN)", env);
	}
	if (find_in_build_tree(buf, size) == 0 ||
	    take_if_there(NBDKIT_PLUGIN_DIR "/" PLUGIN_FILE, buf, size) == 0)
		return 0;
	return reason_set(why, ENOENT,
			  "%s: neither near the executable nor in %s (set EBB_NBDKIT_PLUGIN)",
			  PLUGIN_FILE, NBDKIT_PLUGIN_DIR);
}

/* --- the command line --- */

static int add(struct nbd_command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int add(struct nbd_command *c, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (c->argc == NBD_ARGS_MAX)
		return -E2BIG;
	va_start(ap, fmt);
	n = vasprintf(&c->argv[c->argc], fmt, ap);
	va_end(ap);
	if (n < 0) {
		c->argv[c->argc] = NULL;
		return -ENOMEM;
	}
	c->argc++;
	return 0;
}

static int add_tls(struct nbd_command *c, const struct nbd_options *opt)
{
	static const char *const words[] = {
		[NBD_TLS_OFF] = "off", [NBD_TLS_ON] = "on", [NBD_TLS_REQUIRE] = "require"};
	int err = add(c, "--tls=%s", words[opt->tls]);

	if (!err && opt->tls_certificates)
		err = add(c, "--tls-certificates=%s", opt->tls_certificates);
	if (!err && opt->tls_psk)
		err = add(c, "--tls-psk=%s", opt->tls_psk);
	if (!err && opt->tls_verify_peer)
		err = add(c, "--tls-verify-peer");
	return err;
}

#if defined(__SANITIZE_ADDRESS__)
extern void __asan_init(void);
#define SANITIZER ((void *)__asan_init)
#elif defined(__SANITIZE_THREAD__)
extern void __tsan_init(void);
#define SANITIZER ((void *)__tsan_init)
#endif

/* The runtime is for nbdkit alone: with ThreadSanitizer's, a shell does not start. */
#ifdef SANITIZER
#define PRELOAD \
	"LD_PRELOAD=$EBB_PRELOAD ASAN_OPTIONS=detect_leaks=0; export LD_PRELOAD ASAN_OPTIONS; "
#else
#define PRELOAD
#endif

/*
 * LISTEN_PID must be the pid of the process that becomes nbdkit; the shell knows it, we do not. It
 * waits for a line on stdin, the gate, which comes once we have recorded who it is.
 */
#define SCRIPT                                                                       \
	"read -r go || exit 1; LISTEN_PID=$$; export LISTEN_PID; unset go; " PRELOAD \
	"exec \"$0\" \"$@\" </dev/null"

static int add_all(struct nbd_command *c, const struct nbd_options *opt, const char *plugin)
{
	int err = add(c, "/bin/sh") ?: add(c, "-c") ?: add(c, SCRIPT);

	if (!err)
		err = add(c, "%s", opt->nbdkit ? opt->nbdkit : "nbdkit");
	if (!err)
		err = add(c, "--foreground");
	if (!err)
		err = add(c, "--pidfile=/proc/self/fd/%u", FIRST_LISTEN + opt->n_listen);
	if (!err && opt->threads)
		err = add(c, "--threads=%u", opt->threads);
	if (!err)
		err = add_tls(c, opt);
	if (!err)
		err = add(c, "%s", plugin) ?: add(c, "socket=%s", opt->port_socket);
	if (!err && opt->default_export)
		err = add(c, "default=%s", opt->default_export);
	if (!err && opt->retry_s)
		err = add(c, "retry=%u", opt->retry_s);
	return err ? err : add(c, "supervised=true");
}

static uint64_t hash_file(uint64_t h, const char *path)
{
	struct stat st;
	struct {
		uint64_t dev, ino, size, seconds, nanoseconds;
	} who = {0};

	if (stat(path, &st) == 0) {
		who.dev = st.st_dev;
		who.ino = st.st_ino;
		who.size = (uint64_t)st.st_size;
		who.seconds = (uint64_t)st.st_mtim.tv_sec;
		who.nanoseconds = (uint64_t)st.st_mtim.tv_nsec;
	}
	return hash_add(h, &who, sizeof(who));
}

/**
 * The command line, the addresses, and which files nbdkit has read. Not the plugin: an upgrade
 * replaces it while clients are connected, and the port tells versions apart.
 */
static uint64_t fingerprint(const struct nbd_command *c, const struct nbd_options *opt)
{
	static const char *const certificates[] = {"ca-cert.pem", "ca-crl.pem", "server-cert.pem",
						   "server-key.pem"};
	uint64_t h = HASH_START;
	char path[PATH_MAX];

	for (unsigned i = 0; i < c->argc; i++)
		h = hash_add(h, c->argv[i], strlen(c->argv[i]) + 1);
	for (unsigned i = 0; i < opt->n_listen; i++)
		h = hash_add(h, opt->listen[i], strlen(opt->listen[i]) + 1);
	if (opt->tls_psk)
		h = hash_file(h, opt->tls_psk);
	for (size_t i = 0; opt->tls_certificates && i < 4; i++) {
		snprintf(path, sizeof(path), "%s/%s", opt->tls_certificates, certificates[i]);
		h = hash_file(h, path);
	}
	return h;
}

static int check_options(const struct nbd_options *opt, struct reason *why)
{
	if (!opt->port_socket)
		return reason_set(why, EINVAL, "NBD: no socket of the port given");
	if (!find_program(opt->nbdkit ? opt->nbdkit : "nbdkit"))
		return reason_set(why, ENOENT, "NBD: %s not found (install nbdkit)",
				  opt->nbdkit ? opt->nbdkit : "nbdkit");
	if (opt->tls != NBD_TLS_OFF && !opt->tls_certificates && !opt->tls_psk)
		return reason_set(why, EINVAL, "NBD: TLS needs certificates or a PSK file");
	if (opt->tls_certificates && access(opt->tls_certificates, R_OK | X_OK) < 0)
		return reason_set(why, errno, "NBD: %s: %s", opt->tls_certificates,
				  strerror(errno));
	if (opt->tls_psk && access(opt->tls_psk, R_OK) < 0)
		return reason_set(why, errno, "NBD: %s: %s", opt->tls_psk, strerror(errno));
	return 0;
}

int nbd_command_init(struct nbd_command *c, const struct nbd_options *opt, struct reason *why)
{
	char found[PATH_MAX];
	const char *plugin = opt->plugin;
	int err = check_options(opt, why);

	memset(c, 0, sizeof(*c));
	if (!err && !plugin) {
		err = nbd_find_plugin(found, sizeof(found), why);
		plugin = found;
	} else if (!err && access(plugin, R_OK) < 0) {
		err = reason_set(why, errno, "NBD: %s: %s", plugin, strerror(errno));
	}
	if (err)
		return err;
	err = add_all(c, opt, plugin);
	if (!err)
		c->fingerprint = fingerprint(c, opt);
	if (err) {
		nbd_command_free(c);
		return reason_set(why, -err, "NBD: %s", strerror(-err));
	}
	return 0;
}

void nbd_command_free(struct nbd_command *c)
{
	while (c->argc)
		free(c->argv[--c->argc]);
	memset(c, 0, sizeof(*c));
}

/* --- starting it --- */

/**
 * The plugin of a sanitized build needs the sanitizer's runtime to be there first, in an nbdkit
 * that knows nothing of it: the one that runs us. Leaks of nbdkit's are not ours. Returns how many
 * strings were added to @env.
 */
static size_t add_sanitizer(char **env)
{
#ifdef SANITIZER
	static char preload[PATH_MAX + 20];
	Dl_info info;

	if (!dladdr(SANITIZER, &info))
		return 0;
	snprintf(preload, sizeof(preload), "EBB_PRELOAD=%s", info.dli_fname);
	env[0] = preload;
	return 1;
#else
	return 0;
#endif
}

/** Our environment and LISTEN_FDS; the strings are not copied but for the last. */
static char **make_environment(unsigned n_fds)
{
	size_t n = 0, k;
	char **env;

	while (environ[n])
		n++;
	env = calloc(n + 4, sizeof(*env));
	if (!env)
		return NULL;
	k = add_sanitizer(env);
	for (size_t i = 0; i < n; i++) {
		if (strncmp(environ[i], "LISTEN_", 7) != 0)
			env[k++] = environ[i];
	}
	if (asprintf(&env[k], "LISTEN_FDS=%u", n_fds) < 0) {
		free(env);
		return NULL;
	}
	return env;
}

static void free_environment(char **env)
{
	size_t n = 0;

	while (env[n])
		n++;
	free(env[n - 1]);
	free(env);
}

/** Where the child's descriptors come from; all above those that they become. */
struct sources {
	int fd[NBD_LISTEN_MAX + 3]; /* listeners, pid file, stderr, stdin */
	unsigned n;
};

static int sources_add(struct sources *s, int fd)
{
	int dup = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_SPARE);

	if (dup < 0)
		return -errno;
	s->fd[s->n++] = dup;
	return 0;
}

static void sources_close(struct sources *s)
{
	while (s->n)
		close(s->fd[--s->n]);
}

static int run(const struct nbd_command *c, const struct sources *s, unsigned n_listeners,
	       pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	char **env = make_environment(n_listeners);
	int err;

	if (!env)
		return -ENOMEM;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
						POSIX_SPAWN_SETPGROUP);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawn_file_actions_init(&actions);
	err = posix_spawn_file_actions_adddup2(&actions, s->fd[s->n - 1], 0);
	for (unsigned i = 0; !err && i < s->n - 2; i++)
		err = posix_spawn_file_actions_adddup2(&actions, s->fd[i], FIRST_LISTEN + (int)i);
	for (int fd = 1; !err && fd <= 2; fd++)
		err = posix_spawn_file_actions_adddup2(&actions, s->fd[s->n - 2], fd);
	if (!err)
		err = posix_spawn(ret_pid, c->argv[0], &actions, &attr, c->argv, env);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	free_environment(env);
	return -err;
}

int nbd_command_spawn(const struct nbd_command *c, const struct listen_socket *listeners,
		      unsigned n_listeners, int errors, struct nbd_process *ret_process)
{
	int pidfile[2] = {-1, -1}, gate[2] = {-1, -1};
	struct sources s = {.n = 0};
	struct nbd_process p = {.pidfd = -1};
	int err = 0;

	if (pipe2(pidfile, O_CLOEXEC) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gate) < 0)
		err = -errno;
	for (unsigned i = 0; !err && i < n_listeners; i++)
		err = sources_add(&s, listeners[i].fd);
	if (!err)
		err = sources_add(&s, pidfile[1]) ?: sources_add(&s, errors);
	if (!err)
		err = sources_add(&s, gate[1]);
	if (!err)
		err = run(c, &s, n_listeners, &p.pid);
	sources_close(&s);
	cleanup_close(&pidfile[1]);
	cleanup_close(&gate[1]);
	if (!err && (p.pidfd = pidfd_open(p.pid, 0)) < 0) {
		err = -errno;
		kill(p.pid, SIGKILL);
		waitpid(p.pid, NULL, 0);
	}
	if (err) {
		cleanup_close(&pidfile[0]);
		cleanup_close(&gate[0]);
		return err;
	}
	p.pidfile = pidfile[0];
	p.gate = gate[0];
	*ret_process = p;
	return 0;
}

void nbd_command_go(int gate)
{
	/* One that has ended meanwhile is noticed by its end. */
	(void)!send(gate, "\n", 1, MSG_NOSIGNAL);
	close(gate);
}
