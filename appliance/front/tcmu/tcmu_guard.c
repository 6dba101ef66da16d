/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A table without locks, since a signal handler reads it: a slot is taken by its @taken, and is
 * looked at by the handler once its @base is set, behind its @size.
 */
#include "front/tcmu/tcmu_guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

struct guard {
	atomic_bool taken, hit;
	_Atomic uintptr_t base; /* 0: none */
	_Atomic size_t size;
};

static struct guard guards[TCMU_GUARDS];
static atomic_uint used; /* no slot from here on was ever taken */
static struct sigaction before;
static uintptr_t page_mask;

static struct guard *find(uintptr_t addr)
{
	unsigned n = atomic_load_explicit(&used, memory_order_acquire);

	for (unsigned i = 0; i < n; i++) {
		uintptr_t base = atomic_load_explicit(&guards[i].base, memory_order_acquire);

		if (base && addr >= base &&
		    addr - base < atomic_load_explicit(&guards[i].size, memory_order_relaxed))
			return &guards[i];
	}
	return NULL;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	uintptr_t addr = (uintptr_t)info->si_addr;
	struct guard *g = find(addr);
	int err = errno;

	/* mmap(2) is a mere system call: safe here. */
	if (g && mmap((void *)(addr & page_mask), ~page_mask + 1, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
		atomic_store_explicit(&g->hit, true, memory_order_relaxed);
	else
		sigaction(SIGBUS, &before, NULL); /* the access is tried again, and kills */
	errno = err;
}

static void install(void)
{
	struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

	page_mask = ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
	sigaction(SIGBUS, &sa, &before);
}

int tcmu_guard_add(void *map, size_t size)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, install);
	for (unsigned i = 0; i < TCMU_GUARDS; i++) {
		unsigned n = atomic_load(&used);

		if (atomic_exchange(&guards[i].taken, true))
			continue;
		while (n <= i && !atomic_compare_exchange_weak(&used, &n, i + 1))
			;
		atomic_store(&guards[i].hit, false);
		atomic_store(&guards[i].size, size);
		atomic_store(&guards[i].base, (uintptr_t)map);
		return (int)i;
	}
	return -ENOSPC;
}

void tcmu_guard_remove(int guard)
{
	atomic_store(&guards[guard].base, 0);
	atomic_store(&guards[guard].taken, false);
}

bool tcmu_guard_hit(int guard)
{
	return atomic_load_explicit(&guards[guard].hit, memory_order_relaxed);
}
