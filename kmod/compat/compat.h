/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What differs between the kernels we build for, and nothing else. facts.h says what this kernel
 * has; see Kbuild.facts.
 */
#ifndef COMPAT_H
#define COMPAT_H

#include <linux/mm.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <net/genetlink.h>

#include "facts.h"

static inline void compat_vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
#ifdef FACT_VM_FLAGS_ARE_SET_BY_CALL
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

static inline int compat_genlmsg_multicast_allns(const struct genl_family *family,
						 struct sk_buff *skb, u32 portid,
						 unsigned int group)
{
#ifdef FACT_GENL_MULTICAST_ALLNS_TAKES_GFP
	return genlmsg_multicast_allns(family, skb, portid, group, GFP_KERNEL);
#else
	return genlmsg_multicast_allns(family, skb, portid, group);
#endif
}

/* A shrinker: ours to keep in some kernels, the kernel's in others. */
struct compat_shrinker {
#ifdef FACT_SHRINKER_IS_ALLOCATED
	struct shrinker *shrinker;
#else
	struct shrinker shrinker;
#endif
};

typedef unsigned long (*compat_shrinker_fn)(struct shrinker *shrinker, struct shrink_control *sc);

static inline int compat_shrinker_register(struct compat_shrinker *s, const char *name,
					   compat_shrinker_fn count, compat_shrinker_fn scan)
{
#ifdef FACT_SHRINKER_IS_ALLOCATED
	s->shrinker = shrinker_alloc(0, "%s", name);
	if (!s->shrinker)
		return -ENOMEM;
	s->shrinker->count_objects = count;
	s->shrinker->scan_objects = scan;
	shrinker_register(s->shrinker);
	return 0;
#else
	s->shrinker.count_objects = count;
	s->shrinker.scan_objects = scan;
	s->shrinker.seeks = DEFAULT_SEEKS;
	return register_shrinker(&s->shrinker, "%s", name);
#endif
}

static inline void compat_shrinker_unregister(struct compat_shrinker *s)
{
#ifdef FACT_SHRINKER_IS_ALLOCATED
	shrinker_free(s->shrinker);
#else
	unregister_shrinker(&s->shrinker);
#endif
}

#endif
