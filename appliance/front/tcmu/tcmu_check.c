/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "front/tcmu/tcmu_check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UIO_PREFIX    "tcm-user/"
#define CONFIG_PREFIX TCMU_HANDLER "/"

const char *tcmu_config_lun(const char *config)
{
	size_t n = strlen(CONFIG_PREFIX);

	return strncmp(config, CONFIG_PREFIX, n) ? NULL : config + n;
}

/* Copies the @len bytes at @from as a string; false: empty, or longer than @size allows. */
static bool copy_part(char *to, size_t size, const char *from, size_t len)
{
	if (!len || len >= size)
		return false;
	memcpy(to, from, len);
	to[len] = '\0';
	return true;
}

bool tcmu_parse_name(const char *uio, struct tcmu_name *ret_name)
{
	const char *p, *slash, *lun;
	struct tcmu_name n;
	char *end;

	if (strncmp(uio, UIO_PREFIX, strlen(UIO_PREFIX)))
		return false;
	p = uio + strlen(UIO_PREFIX);
	if (*p < '0' || *p > '9')
		return false;
	n.hba = (unsigned)strtoul(p, &end, 10);
	slash = *end == '/' ? strchr(end + 1, '/') : NULL;
	if (!slash ||
	    !copy_part(n.backstore, sizeof(n.backstore), end + 1, (size_t)(slash - end - 1)))
		return false;
	lun = tcmu_config_lun(slash + 1);
	/* attrib/dev_config keeps the line end that a shell's echo writes. */
	if (!lun || !copy_part(n.lun, sizeof(n.lun), lun, strcspn(lun, " \t\r\n")))
		return false;
	*ret_name = n;
	return true;
}

bool tcmu_same_name(const struct tcmu_name *a, const struct tcmu_name *b)
{
	return a->hba == b->hba && !strcmp(a->backstore, b->backstore) && !strcmp(a->lun, b->lun);
}

int tcmu_check_size(const struct lun *lun, uint64_t size, struct reason *why)
{
	if (!size || size == lun_size(lun))
		return 0;
	return reason_set(why, EINVAL, "LUN '%s' has %llu bytes, the backstore is to have %llu",
			  lun_name(lun), (unsigned long long)lun_size(lun),
			  (unsigned long long)size);
}

int tcmu_check_config(struct lun_table *luns, const char *config, uint64_t size, struct reason *why)
{
	const char *name = tcmu_config_lun(config);
	struct lun *lun;
	int err;

	if (!name || !*name)
		return reason_set(why, EINVAL, "'%.80s': must be " TCMU_HANDLER "/NAME of a LUN",
				  config);
	lun = lun_table_find(luns, name);
	if (!lun)
		return reason_set(why, ENOENT, "no LUN is called '%.80s' (`ebb lun list` tells)",
				  name);
	err = tcmu_check_size(lun, size, why);
	lun_unref(lun); /* not the last: the table has one */
	return err;
}
