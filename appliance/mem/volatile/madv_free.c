/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The backend that every kernel has: private anonymous memory, lazily freed.
 *
 * MADV_FREE turns pages of anonymous memory into clean ones on the list of inactive *file* pages:
 * reclaim takes them by age with the page cache, without writing, with or without swap, in every
 * memory cgroup and on the host. Once written to they are ordinary again.
 *
 * The mapping: no huge pages (one would be lost whole, and a write would keep it whole), no merging
 * of equal pages (a merged page is not lazily freed), not in children (a shared page is neither
 * marked nor kept as told here; a child that touches the range dies), not in core dumps, not locked
 * (MADV_FREE refuses locked memory). The addresses are mapped inaccessible first, so that a
 * process locked in memory (MCL_FUTURE) does not fill the range at once.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mem/volatile/volatile_private.h"

static int advise_mapping(void *base, size_t size)
{
	if (munlock(base, size))
		return -errno;
	if (madvise(base, size, MADV_DONTFORK) || madvise(base, size, MADV_DONTDUMP))
		return -errno;
	/* Kernels that have no such pages refuse to promise that there are none. */
	if (madvise(base, size, MADV_NOHUGEPAGE) && errno != EINVAL)
		return -errno;
	if (madvise(base, size, MADV_UNMERGEABLE) && errno != EINVAL)
		return -errno;
	if (mprotect(base, size, PROT_READ | PROT_WRITE))
		return -errno;
	return 0;
}

static void madv_free_unmap(void *base, size_t size, bool fixed)
{
	if (!fixed)
		munmap(base, size);
	else
		(void)mmap(base, size, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static int madv_free_map(void **base, size_t size)
{
	bool fixed = *base != NULL;
	void *p = mmap(*base, size, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (fixed ? MAP_FIXED : 0), -1,
		       0);
	int ret;

	if (p == MAP_FAILED)
		return -errno;
	ret = advise_mapping(p, size);
	if (ret) {
		madv_free_unmap(p, size, fixed);
		return ret;
	}
	*base = p;
	return 0;
}

/*
 * Newer kernels let a process give such advice about itself in one call for many runs (6.13), and
 * name itself without a descriptor: PIDFD_SELF_THREAD_GROUP. Half the cost where pages are
 * scattered. A kernel that does not know either refuses.
 */
#define SELF (-10001)

static _Atomic bool vector_refused;

static bool advise_vector(const struct iovec *runs, unsigned n, int advice)
{
	size_t size = 0;
	long done;

	for (unsigned i = 0; i < n; i++)
		size += runs[i].iov_len;
	done = syscall(SYS_process_madvise, SELF, runs, (unsigned long)n, advice, 0u);
	return done >= 0 && (size_t)done == size;
}

static int advise_runs(const struct iovec *runs, unsigned n, int advice, unsigned *ret_calls)
{
	bool try = n > 1 && !atomic_load_explicit(&vector_refused, memory_order_relaxed);
	int ret = 0;

	if (try && advise_vector(runs, n, advice)) {
		*ret_calls = 1;
		return 0;
	}

	for (unsigned i = 0; i < n && !ret; i++)
		if (madvise(runs[i].iov_base, runs[i].iov_len, advice))
			ret = -errno;
	*ret_calls = n + try;
	/* What one by one works and together does not is not tried again. */
	if (try && !ret)
		atomic_store_explicit(&vector_refused, true, memory_order_relaxed);
	return ret;
}

static int madv_free_mark(const struct iovec *runs, unsigned n, unsigned *ret_calls)
{
	return advise_runs(runs, n, MADV_FREE, ret_calls);
}

static int madv_free_drop(const struct iovec *runs, unsigned n)
{
	unsigned calls;

	return advise_runs(runs, n, MADV_DONTNEED, &calls);
}

const struct volatile_backend volatile_madv_free = {
	.name = "madv_free",
	.can_lose = watch_available,
	.map = madv_free_map,
	.unmap = madv_free_unmap,
	.mark = madv_free_mark,
	.drop = madv_free_drop,
};
