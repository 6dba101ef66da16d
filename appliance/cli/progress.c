/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/progress.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "control/size.h"

#define RECORD_NS NSEC_PER_SEC
#define BAR_NS	  (NSEC_PER_SEC / 10)
#define BAR_MAX	  40u

static double seconds_of(const struct progress *p)
{
	return (double)(clock_now_ns() - p->start_ns) / (double)NSEC_PER_SEC;
}

static unsigned columns(void)
{
	struct winsize w;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) || !w.ws_col ? 80 : w.ws_col;
}

/* "42 %  1.2G of 3G  160M/s  0:12 left" */
static void describe(const struct progress *p, uint64_t done, uint64_t total, char *buf,
		     size_t size)
{
	double s = seconds_of(p), rate = s > 0 ? (double)done / s : 0;
	unsigned left = rate > 0 ? (unsigned)((double)(total - done) / rate) : 0;
	char have[40], all[40], speed[40];

	size_format_about(done, have, sizeof(have));
	size_format_about(total, all, sizeof(all));
	size_format_about((uint64_t)rate, speed, sizeof(speed));
	snprintf(buf, size, "%3.0f %%  %s of %s  %s/s  %u:%02u %s",
		 100.0 * (double)done / (double)total, have, all, speed,
		 done < total ? left / 60 : (unsigned)s / 60,
		 done < total ? left % 60 : (unsigned)s % 60, done < total ? "left" : "in all");
}

/* Over the last one; a narrow terminal gets the words alone. */
static void draw(struct progress *p, uint64_t done, uint64_t total)
{
	char words[160], bar[BAR_MAX + 1] = "";
	unsigned width = columns(), used;

	describe(p, done, total, words, sizeof(words));
	used = (unsigned)(strlen(p->what) + strlen(words) + 6);
	if (width > used + 10) {
		unsigned n = width - used < BAR_MAX ? width - used : BAR_MAX;
		unsigned full = (unsigned)((double)n * (double)done / (double)total);

		memset(bar, '-', n);
		memset(bar, '#', full);
		bar[n] = '\0';
		printf("\r%s [%s] %s\033[K", p->what, bar, words);
	} else {
		printf("\r%.*s\033[K", (int)width - 1, words);
	}
	p->drawn = true;
}

static void print_record(const struct progress *p, const char *state, uint64_t done, uint64_t total)
{
	json_t *o = json_pack("{s:s, s:I, s:I, s:f}", "state", state, "done", (json_int_t)done,
			      "total", (json_int_t)total, "seconds", seconds_of(p));

	json_dumpf(o, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(o);
}

static void print_line(const struct progress *p, uint64_t done, uint64_t total)
{
	char words[160];

	describe(p, done, total, words, sizeof(words));
	printf("%s %s\n", p->what, words);
}

void progress_begin(struct progress *p)
{
	p->bar = !p->json && isatty(STDOUT_FILENO);
	p->start_ns = clock_now_ns();
	p->told_ns = 0;
	p->tenth = 0;
	p->drawn = false;
}

void progress_tell(struct progress *p, uint64_t done, uint64_t total)
{
	uint64_t now = clock_now_ns();
	unsigned tenth = (unsigned)((double)done / (double)total * 10);

	if (p->json || p->bar) {
		if (p->told_ns && now - p->told_ns < (p->json ? RECORD_NS : BAR_NS))
			return;
		p->told_ns = now;
	} else if (tenth == p->tenth || done >= total) {
		return;
	}
	p->tenth = tenth;
	if (p->json)
		print_record(p, "running", done, total);
	else if (p->bar)
		draw(p, done, total);
	else
		print_line(p, done, total);
	fflush(stdout);
}

void progress_end(struct progress *p, bool well, uint64_t done, uint64_t total)
{
	if (p->json)
		print_record(p, well ? "done" : "failed", done, total);
	else if (p->bar && well)
		draw(p, done, total);
	else if (well)
		print_line(p, done, total);
	if (p->drawn)
		putchar('\n');
	fflush(stdout);
}
