/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Three ways to give pages, side by side:
 *
 *	map    a mapping an allocation: what the kernel's map entries are asked to be an allocator
 *for span   one accessible span, carved by vmem with quantum caches (wired memory works so) carve
 *the same without quantum caches back   a second arena over addresses, which makes accessible what
 *it imports and takes it back
 *
 * Each builds up n live allocations of 1..3 pages, then frees and takes at random, then frees all.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define PAGE	    4096u
#define TOUCHED_MAX 100000u /* live: more would need more memory than is asked for */

struct way {
	const char *name;
	struct address_space *as;
	struct vmem *vm, *addresses;
};

static int way_take(struct way *w, struct live *l)
{
	void *p;

	if (w->vm)
		return vmem_alloc(w->vm, l->size, 0, &l->addr);
	p = mmap(NULL, l->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	l->addr = (uint64_t)p;
	return p == MAP_FAILED ? -1 : 0;
}

static int way_give(struct way *w, const struct live *l)
{
	if (!w->vm)
		return munmap((void *)l->addr, l->size); /* splitting an entry can fail */
	vmem_free(w->vm, l->addr, l->size);
	return 0;
}

static int import_backed(void *source, uint64_t size, uint64_t *ret_addr)
{
	int r = vmem_alloc(source, size, 0, ret_addr);

	if (r)
		return r;
	r = address_back(*ret_addr, size);
	if (r)
		vmem_free(source, *ret_addr, size);
	return r;
}

static void release_backed(void *source, uint64_t addr, uint64_t size)
{
	address_unback(addr, size);
	vmem_free(source, addr, size);
}

static void way_open(struct way *w, const char *name)
{
	*w = (struct way){.name = name};
	if (!strcmp(name, "map"))
		return;
	w->as = bench_space();
	if (!strcmp(name, "span")) {
		w->vm = address_space_wired_pages(w->as);
	} else if (!strcmp(name, "carve")) {
		/* A span of the same kind, past the caches. */
		uint64_t base, size = 32ull << 30;

		must(vmem_alloc(address_space_wired_pages(w->as), size, 0, &base), "span");
		must(vmem_create(
			     &(struct vmem_spec){
				     .name = "carve",
				     .store = address_space_tags(w->as),
				     .base = base,
				     .size = size,
				     .quantum = PAGE,
			     },
			     &w->vm),
		     "carve");
	} else {
		w->addresses = address_space_arena(w->as);
		must(vmem_create(
			     &(struct vmem_spec){
				     .name = "back",
				     .store = address_space_tags(w->as),
				     .quantum = PAGE,
				     .import = import_backed,
				     .release = release_backed,
				     .source = w->addresses,
				     .qcache_max = 16 * PAGE,
			     },
			     &w->vm),
		     "back");
	}
}

static void way_close(struct way *w)
{
	if (!w->as)
		return;
	if (w->vm != address_space_wired_pages(w->as))
		vmem_destroy(w->vm, NULL, NULL);
	address_space_destroy(w->as);
}

static unsigned map_entries(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned n = 0;

	for (int c = f ? getc(f) : EOF; c != EOF; c = getc(f))
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

static void way_records(const struct way *w, uint64_t *ret_tags, uint64_t *ret_bytes)
{
	struct vmem_stats st;

	*ret_tags = *ret_bytes = 0;
	if (!w->vm)
		return;
	vmem_stats(w->vm, &st);
	*ret_tags = st.tags;
	*ret_bytes = st.meta_bytes;
	if (!w->addresses)
		return;
	vmem_stats(w->addresses, &st);
	*ret_tags += st.tags;
	*ret_bytes += st.meta_bytes;
}

/* Frees and takes @ops times at random; returns how many were refused. */
static uint64_t churn(struct way *w, struct live *l, uint64_t n, uint64_t ops, uint64_t *rnd,
		      bool touch)
{
	uint64_t refused = 0;

	for (uint64_t i = 0; i < ops; i++) {
		struct live *x = &l[next_random(rnd) % n];

		if (x->addr && way_give(w, x)) {
			refused++;
			continue;
		}
		x->size = PAGE * (1 + next_random(rnd) % 3);
		if (way_take(w, x)) {
			x->addr = 0;
			refused++;
			continue;
		}
		if (touch)
			*(volatile uint8_t *)x->addr = 1;
	}
	return refused;
}

static void one(const char *name, struct live *l, uint64_t n)
{
	uint64_t rnd = 42, ops = n < 200000 ? 200000 : n, start, built = 0, refused, tags, bytes;
	double take_ns, churn_ns, touch_ns;
	unsigned entries, before = map_entries();
	struct way w;

	way_open(&w, name);
	start = clock_now_ns();
	for (uint64_t i = 0; i < n; i++) {
		l[i].size = PAGE * (1 + next_random(&rnd) % 3);
		if (way_take(&w, &l[i]))
			l[i].addr = 0;
		else
			built++;
	}
	take_ns = ns_each(start, n);
	churn(&w, l, n, n, &rnd, false); /* into a steady state */
	start = clock_now_ns();
	refused = churn(&w, l, n, ops, &rnd, false);
	churn_ns = ns_each(start, ops);
	entries = map_entries() - before;
	way_records(&w, &tags, &bytes);
	touch_ns = 0;
	if (n <= TOUCHED_MAX) {
		churn(&w, l, n, 3 * n, &rnd, true);
		start = clock_now_ns();
		churn(&w, l, n, 20000, &rnd, true);
		touch_ns = ns_each(start, 20000);
	}
	printf("| %7llu | %-5s | %9u | %9llu | %10.1f | %8.0f | %8.0f | %8.0f | %s |\n",
	       (unsigned long long)n, name, entries, (unsigned long long)tags,
	       (double)bytes / (double)n, take_ns, churn_ns, touch_ns,
	       built < n || refused ? "refused some" : "");
	for (uint64_t i = 0; i < n; i++)
		if (l[i].addr)
			way_give(&w, &l[i]);
	way_close(&w);
	fflush(stdout);
}

/* In a process of its own: one way may use up all the map entries there are. */
static void apart(const char *name, struct live *l, uint64_t n)
{
	pid_t pid;
	int status;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		one(name, l, n);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		must(-1, name);
}

void bench_ways(uint64_t max)
{
	static const char *const names[] = {"map", "carve", "span", "back"};
	struct live *l = calloc(max, sizeof(*l));

	if (!l)
		must(-1, "memory");
	printf("| live | way | map entries | tags | tag bytes each | take ns | free+take ns "
	       "| with a touch ns | |\n|---|---|---|---|---|---|---|---|---|\n");
	for (uint64_t n = 1000; n <= max; n *= 10)
		for (unsigned i = 0; i < 4; i++)
			apart(names[i], l, n);
	free(l);
}
