/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a schema cannot say of `lio:`: names, addresses, references, and what the kernel's target
 * cannot do. An initiator there is a name in full, has one pair of credentials, and when one has to
 * prove itself all have to. configfs takes the word NULL at the beginning of a name or secret for
 * "none", and rtslib takes blanks off its ends: such would not be what was declared.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/config_private.h"
#include "front/iscsi/iscsi.h"

char *const *config_lio_portals(const struct config_lio *lio, const struct config_lio_target *t,
				unsigned *ret_n)
{
	*ret_n = t->portals_count ? t->portals_count : lio->portals_count;
	return t->portals_count ? t->portals : lio->portals;
}

void config_free_lio_derived(struct config_lio *lio)
{
	for (unsigned i = 0; i < lio->targets_count; i++) {
		struct config_lio_target *t = &lio->targets[i];

		free(t->map);
		t->map = NULL;
		for (unsigned j = 0; j < t->acls_count; j++) {
			free(t->acls[j].map);
			t->acls[j].map = NULL;
		}
	}
}

/* --- CHAP --- */

static const char *unfit_for_configfs(const char *s)
{
	if (!*s)
		return "is empty";
	if (!strncmp(s, "NULL", 4))
		return "must not begin with NULL, which means none to the kernel";
	if (isspace((unsigned char)s[0]) || isspace((unsigned char)s[strlen(s) - 1]))
		return "must not begin or end with a blank";
	return NULL;
}

static int check_user(struct config_check *c, struct config_user *u, const char *path)
{
	int ret = config_check_user(c, u, path);
	const char *unfit = ret ? NULL : unfit_for_configfs(u->user);
	struct reason inner;

	if (unfit) {
		reason_set(&inner, EINVAL, "%s", unfit);
		return config_refuse(c, &inner, "%s.user", path);
	}
	unfit = ret ? NULL : unfit_for_configfs(u->secret);
	if (unfit) {
		reason_set(&inner, EINVAL, "%s", unfit);
		return config_refuse(c, &inner, "%s.secret", path);
	}
	return ret;
}

static int check_chap(struct config_check *c, struct config_lio_chap *chap, const char *path)
{
	struct reason inner;
	char sub[100];
	int ret;

	if (!chap)
		return 0;
	ret = check_user(c, &chap->user, path);
	if (ret || !chap->mutual)
		return ret;
	snprintf(sub, sizeof(sub), "%s.mutual", path);
	ret = check_user(c, chap->mutual, sub);
	if (ret || strcmp(chap->user.secret, chap->mutual->secret))
		return ret;
	reason_set(&inner, EINVAL, "must differ from the initiator's secret (RFC 7143 12.1.3)");
	return config_refuse(c, &inner, "%s.secret", sub);
}

/* --- initiators --- */

static bool shows(const struct config_lio_target *t, const char *lun)
{
	for (unsigned i = 0; i < t->luns_count; i++)
		if (!strcmp(t->map[i].name, lun))
			return true;
	return false;
}

static int check_acl_name(struct config_check *c, const struct config_lio_target *t, unsigned index,
			  const char *path)
{
	const char *name = t->acls[index].initiator;
	struct reason inner;
	int ret = iscsi_name_check(name, &inner);

	for (unsigned i = 0; !ret && i < index; i++)
		if (!strcmp(t->acls[i].initiator, name))
			ret = reason_set(&inner, EINVAL, "'%.223s' is declared twice", name);
	return ret ? config_refuse(c, &inner, "%s.initiator", path) : 0;
}

static int check_acl(struct config_check *c, struct config *cfg, struct config_lio_target *t,
		     unsigned index, const char *target_path)
{
	struct config_lio_acl *a = &t->acls[index];
	struct reason inner;
	char path[80], sub[90];
	int ret;

	snprintf(path, sizeof(path), "%s.acls[%u]", target_path, index);
	ret = check_acl_name(c, t, index, path);
	if (ret)
		return ret;
	snprintf(sub, sizeof(sub), "%s.chap", path);
	ret = check_chap(c, a->chap, sub);
	if (!ret)
		ret = config_check_map(c, cfg, a->luns, a->luns_count, path, &a->map);
	for (unsigned i = 0; !ret && i < a->luns_count; i++) {
		if (shows(t, a->map[i].name))
			continue;
		reason_set(&inner, EINVAL, "the target does not show '%s'", a->map[i].name);
		return config_refuse(c, &inner, "%s.luns[%u]", path, i);
	}
	return ret;
}

/* Where one initiator must prove itself, all must. */
static int check_all_prove(struct config_check *c, const struct config_lio_target *t,
			   const char *path)
{
	struct reason inner;
	bool any = false;

	for (unsigned i = 0; i < t->acls_count; i++)
		any = any || t->acls[i].chap;
	for (unsigned i = 0; any && !t->chap && i < t->acls_count; i++) {
		if (t->acls[i].chap)
			continue;
		reason_set(&inner, EINVAL,
			   "needs chap: LIO asks every initiator of a target for it, or none");
		return config_refuse(c, &inner, "%s.acls[%u]", path, i);
	}
	return 0;
}

/* --- targets --- */

static bool listed(const char *s, char *const *v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(v[i], s))
			return true;
	return false;
}

static int check_portals(struct config_check *c, const struct config *cfg, char *const *portals,
			 unsigned n, const char *path)
{
	struct reason inner;

	for (unsigned i = 0; i < n; i++) {
		int ret = config_check_address(portals[i], false, &inner);

		if (!ret && listed(portals[i], cfg->iscsi.portals, cfg->iscsi.portals_count))
			ret = reason_set(&inner, EINVAL, "'%.60s' is one of iscsi.portals already",
					 portals[i]);
		if (!ret && listed(portals[i], portals, i))
			ret = reason_set(&inner, EINVAL, "'%.60s' is declared twice", portals[i]);
		if (ret)
			return config_refuse(c, &inner, "%s.portals[%u]", path, i);
	}
	return 0;
}

static bool is_target_of(const struct config_target *v, unsigned n, const char *iqn)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(v[i].iqn, iqn))
			return true;
	return false;
}

static int check_iqn(struct config_check *c, const struct config *cfg, unsigned index,
		     const char *path)
{
	const char *iqn = cfg->lio.targets[index].iqn;
	struct reason inner;
	int ret = iscsi_name_check(iqn, &inner);

	if (!ret && (is_target_of(cfg->iscsi.targets, cfg->iscsi.targets_count, iqn) ||
		     is_target_of(cfg->auto_targets, cfg->auto_targets_count, iqn)))
		ret = reason_set(&inner, EINVAL, "'%.223s' is a target of iscsi already", iqn);
	for (unsigned i = 0; !ret && i < index; i++)
		if (!strcmp(cfg->lio.targets[i].iqn, iqn))
			ret = reason_set(&inner, EINVAL, "'%.223s' is declared twice", iqn);
	return ret ? config_refuse(c, &inner, "%s.iqn", path) : 0;
}

static int check_target(struct config_check *c, struct config *cfg, unsigned index)
{
	struct config_lio_target *t = &cfg->lio.targets[index];
	struct reason inner;
	char path[60], sub[70];
	unsigned n;
	int ret;

	snprintf(path, sizeof(path), "lio.targets[%u]", index);
	ret = check_iqn(c, cfg, index, path);
	if (!ret)
		ret = check_portals(c, cfg, t->portals, t->portals_count, path);
	config_lio_portals(&cfg->lio, t, &n);
	if (!ret && !n) {
		reason_set(&inner, EINVAL, "needs portals, its own or those of lio");
		return config_refuse(c, &inner, "%s", path);
	}
	if (!ret)
		ret = config_check_map(c, cfg, t->luns, t->luns_count, path, &t->map);
	snprintf(sub, sizeof(sub), "%s.chap", path);
	if (!ret)
		ret = check_chap(c, t->chap, sub);
	for (unsigned i = 0; !ret && i < t->acls_count; i++)
		ret = check_acl(c, cfg, t, i, path);
	return ret ? ret : check_all_prove(c, t, path);
}

int config_check_lio(struct config_check *c, struct config *cfg)
{
	int ret = check_portals(c, cfg, cfg->lio.portals, cfg->lio.portals_count, "lio");
	struct reason inner;

	if (!ret && cfg->lio.targets_count && !cfg->tcmu) {
		reason_set(&inner, EINVAL, "needs tcmu: true, which offers LUNs to the kernel");
		return config_refuse(c, &inner, "lio.targets");
	}
	for (unsigned i = 0; !ret && i < cfg->lio.targets_count; i++)
		ret = check_target(c, cfg, i);
	return ret;
}
