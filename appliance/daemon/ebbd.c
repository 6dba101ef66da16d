/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ebbd: the service. Reads the configuration file, makes the directories it names, gives up root
 * when `user:` says so, and runs the appliance until it is told to end.
 */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "control/run.h"
#include "exporter/exporter.h"
#include "front/tcmu/tcmu.h"

#define DEFAULT_CONFIG "/etc/ebb/ebb.yaml"
#define PATH_SIZE      4096

static const char help[] =
	"Usage: ebbd [--config FILE] [--check | --memory-high]\n"
	"\n"
	"The Ebb block storage service.\n"
	"\n"
	"  --config FILE  what to serve, and how: ebb.yaml(5) (default: /etc/ebb/ebb.yaml)\n"
	"  --check        check FILE and exit: 0, or 1 with FILE:LINE: and the reason on stderr\n"
	"  --memory-high  print the MemoryHigh= that follows from FILE's memory.max, and exit\n"
	"  --version      print the version\n"
	"  --help         this text\n"
	"\n"
	"SIGHUP reads FILE again and applies the difference; SIGTERM ends the service in order,\n"
	"SIGUSR1 too, for the next one: clients wait.\n";

/* Makes @path (its parents too) unless it is there, and gives it to @pw. */
static int make_dir_for(const char *path, const struct passwd *pw, mode_t mode, struct reason *why)
{
	char part[PATH_SIZE];

	if (strlen(path) >= sizeof(part))
		return reason_set(why, ENAMETOOLONG, "%.200s: too long", path);
	for (const char *p = path + 1;; p++) {
		if (*p && *p != '/')
			continue;
		memcpy(part, path, (size_t)(p - path));
		part[p - path] = '\0';
		if (mkdir(part, *p ? 0755 : mode) < 0 && errno != EEXIST)
			return reason_set(why, errno, "%.200s: %s", part, strerror(errno));
		if (!*p)
			break;
	}
	if (pw && chown(path, pw->pw_uid, pw->pw_gid) < 0)
		return reason_set(why, errno, "%.200s: %s", path, strerror(errno));
	return 0;
}

/* Keeps what TCMU takes - its netlink family, its devices and configfs - and no more of root. */
static int keep_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	const uint32_t caps = 1u << CAP_NET_ADMIN | 1u << CAP_DAC_OVERRIDE;
	struct __user_cap_data_struct data[2] = {{.effective = caps, .permitted = caps}};

	return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static int become(const struct passwd *pw, bool tcmu, struct reason *why)
{
	if (tcmu) {
		tcmu_prepare_process();
		prctl(PR_SET_KEEPCAPS, 1);
	}
	if (initgroups(pw->pw_name, pw->pw_gid) < 0 ||
	    setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) < 0 ||
	    setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) < 0)
		return reason_set(why, errno, "cannot become user %s: %s", pw->pw_name,
				  strerror(errno));
	if (tcmu && keep_capabilities())
		return reason_set(why, errno, "cannot keep the capabilities for TCMU: %s",
				  strerror(errno));
	prctl(PR_SET_DUMPABLE, 1); /* so that a crash leaves a core as it would have before */
	return 0;
}

/* Directories, then the user that they are given to. */
static int prepare(const struct config *cfg, const char *state, const char *runtime,
		   struct reason *why)
{
	const struct passwd *pw = NULL;
	int ret;

	if (cfg->user) {
		errno = 0;
		pw = getpwnam(cfg->user);
		if (!pw)
			return reason_set(why, ENOENT, "user: nobody is called '%.80s'", cfg->user);
		if (pw->pw_uid == geteuid())
			pw = NULL;
		else if (geteuid() != 0)
			return reason_set(why, EPERM, "user: only root can become '%.80s'",
					  cfg->user);
	}
	ret = make_dir_for(state, pw, 0700, why);
	if (!ret)
		ret = make_dir_for(runtime, pw, 0755, why);
	if (!ret && pw)
		ret = become(pw, cfg->tcmu, why);
	if (!ret)
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return ret;
}

/*
 * Where the kernel is to begin taking memory back from the service: above its budget, with room for
 * what is not in it - code, page cache - and for the low watermark below the limit.
 */
static void print_memory_high(const struct config *cfg)
{
	uint64_t max = cfg->memory.max;

	if (max)
		printf("%llu\n", (unsigned long long)(max + max / 4 + (256ull << 20)));
	else
		puts("infinity");
}

static int started(struct appliance *app, void *ctx, struct reason *why)
{
	struct exporter **e = ctx;
	const char *url;
	int ret = exporter_start(app, e, why);

	for (unsigned i = 0; !ret && (url = exporter_url(*e, i)); i++)
		log_info("metrics.listen", "url=%s", url);
	return ret;
}

static void stopping(struct appliance *app, void *ctx)
{
	exporter_stop(*(struct exporter **)ctx);
}

static int run(const char *path, struct config *cfg, struct reason *why)
{
	const char *state = cfg->state_dir ? cfg->state_dir : CONFIG_STATE_DIR;
	const char *runtime = cfg->runtime_dir ? cfg->runtime_dir : CONFIG_RUNTIME_DIR;
	char control[PATH_SIZE], port[PATH_SIZE];
	struct exporter *exporter = NULL;
	struct run_options opt = {.control_socket = control,
				  .started = started,
				  .stopping = stopping,
				  .ctx = &exporter};
	int ret;

	snprintf(control, sizeof(control), "%s/control.sock", runtime);
	if (cfg->socket)
		snprintf(control, sizeof(control), "%s", cfg->socket);
	snprintf(port, sizeof(port), "%s/port.sock", runtime);
	ret = prepare(cfg, state, runtime, why);
	if (ret) {
		config_free(cfg);
		return ret;
	}
	umask(0077);
	opt.appliance = (struct appliance_options){.config_path = path,
						   .state_dir = strdup(state),
						   .port_socket = port,
						   .pressure = getenv("MEMORY_PRESSURE_WATCH"),
						   .lenient = true};
	if (!opt.appliance.state_dir) {
		config_free(cfg);
		return reason_set(why, ENOMEM, "out of memory");
	}
	run_prepare_signals();
	ret = run_appliance(cfg, &opt, why);
	free((char *)opt.appliance.state_dir);
	return ret;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'}, {"check", no_argument, NULL, 'k'},
		{"memory-high", no_argument, NULL, 'm'},  {"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},	  {NULL, 0, NULL, 0}};
	const char *path = DEFAULT_CONFIG;
	struct reason why = {.text = ""};
	struct config *cfg;
	bool check = false, memory_high = false;
	int c;

	while ((c = getopt_long(argc, argv, "c:h", options, NULL)) >= 0) {
		switch (c) {
		case 'c':
			path = optarg;
			break;
		case 'k':
			check = true;
			break;
		case 'm':
			memory_high = true;
			break;
		case 'V':
			puts("ebbd " EBB_VERSION);
			return 0;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "ebbd: unexpected argument '%s'\nTry 'ebbd --help'.\n",
			argv[optind]);
		return 2;
	}
	if (config_load_file(path, &cfg, &why)) {
		fprintf(stderr, "%s\n", why.text);
		return 1;
	}
	if (memory_high)
		print_memory_high(cfg);
	if (check || memory_high) {
		config_free(cfg);
		return 0;
	}
	if (run_take_sockets(&why)) {
		fprintf(stderr, "ebbd: %s\n", why.text);
		config_free(cfg);
		return 1;
	}
	if (run(path, cfg, &why)) {
		fprintf(stderr, "ebbd: %s\n", why.text);
		return 1;
	}
	return 0;
}
