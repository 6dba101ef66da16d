// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/shrinker.h>

void fact(void);
void fact(void)
{
	struct shrinker *shrinker = shrinker_alloc(0, "fact");

	shrinker_register(shrinker);
}
