/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Noticing, without a system call, that the thread was moved or preempted.
 *
 * restartable sequences (rseq(2), registered for every thread by the C library) have a word in
 * which a thread announces the critical section that it is about to enter. The kernel looks at it
 * whenever it returns to a thread that it preempted, moved to another processor, or delivers a
 * signal to: inside the section it jumps to the abort handler; *outside, it clears the word* (so
 * linux/rseq.h says of the field). We announce a section in which no thread ever is. If the word
 * still stands at the end, nothing of all that has happened in between.
 *
 * The section is one byte of constant data; its abort handler, that no one jumps to, is constant
 * data too, preceded by the signature that the kernel insists on.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <sys/rseq.h>

#include "mem/volatile/volatile_private.h"

#if defined(RSEQ_SIG) && (defined(__x86_64__) || defined(__aarch64__))

static const uint32_t abort_handler[2] = {RSEQ_SIG, RSEQ_SIG};
static const uint8_t nowhere[8];
static const struct rseq_cs section = {
	.start_ip = (uintptr_t)nowhere,
	.post_commit_offset = 1,
	.abort_ip = (uintptr_t)&abort_handler[1],
};

static inline char *thread_rseq(void)
{
	char *thread;

#if defined(__x86_64__)
	__asm__("mov %%fs:0, %0" : "=r"(thread));
#else
	__asm__("mrs %0, tpidr_el0" : "=r"(thread));
#endif
	return thread + __rseq_offset;
}
static inline volatile uint64_t *thread_section(void)
{
	return (volatile uint64_t *)(thread_rseq() + offsetof(struct rseq, rseq_cs));
}
static inline bool thread_registered(void)
{
	return *(volatile int32_t *)(thread_rseq() + offsetof(struct rseq, cpu_id)) >= 0;
}

bool watch_available(void)
{
	return __rseq_size > 0 && thread_registered();
}

void watch_begin(void)
{
	if (__rseq_size > 0 && thread_registered())
		*thread_section() = (uintptr_t)&section;
	atomic_signal_fence(memory_order_seq_cst);
}

bool watch_end(void)
{
	bool stands;

	atomic_signal_fence(memory_order_seq_cst);
	if (__rseq_size == 0)
		return false;
	stands = *thread_section() == (uintptr_t)&section;
	/* Our data may be unloaded before the thread is preempted next. */
	*thread_section() = 0;
	return stands;
}

#else

bool watch_available(void)
{
	return false;
}
void watch_begin(void)
{
}
bool watch_end(void)
{
	return false;
}

#endif
