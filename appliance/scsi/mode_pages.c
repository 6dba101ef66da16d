/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One table says what each page holds by default and which bits may change; everything else -
 * MODE SENSE's four page controls, MODE SELECT's refusals, the state file - is read from it. Pages
 * are kept as the bytes they are on the wire, without the PS bit.
 */
#include "scsi/mode_pages.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/endian.h"

const struct mode_page mode_pages[MODE_PAGE_COUNT] = {
	[MODE_RW_ERROR_RECOVERY] =
		{
			/* All zeros: retries and reallocation are the backing store's business. */
			.code = 0x01,
			.len = 12,
			.preset = {0x01, 10},
		},
	[MODE_CACHING] =
		{
			.code = 0x08,
			.len = 20,
			.preset = {0x08, 18, [MODE_CACHING_BYTE_WCE] = MODE_CACHING_WCE},
			.changeable = {[MODE_CACHING_BYTE_WCE] = MODE_CACHING_WCE},
		},
	[MODE_CONTROL] =
		{
			.code = 0x0a,
			.len = 12,
			.preset =
				{
					0x0a,
					10, [2] = 0x02, /* GLTSD: log parameters are not saved */
					[3] = 0x10,	/* QUEUE ALGORITHM MODIFIER: unrestricted
							   reordering */
					[8] = 0xff, [9] = 0xff, /* BUSY TIMEOUT PERIOD: unlimited */
				},
			.changeable =
				{
					[MODE_CONTROL_BYTE_D_SENSE] = MODE_CONTROL_D_SENSE,
					[MODE_CONTROL_BYTE_SWP] = MODE_CONTROL_SWP,
					[MODE_CONTROL_BYTE_TAS] = MODE_CONTROL_TAS,
				},
		},
	[MODE_CONTROL_EXT] =
		{
			.code = 0x0a,
			.subpage = 0x01,
			.len = 32,
			.preset = {0x4a, 0x01, 0, 28, [4] = 0x01}, /* IALUAE: implicit ALUA */
		},
	[MODE_INFO_EXCEPTIONS] =
		{
			.code = 0x1c,
			.len = 12,
			.preset = {0x1c, 10, [2] = 0x08}, /* DEXCPT: nothing to report */
		},
	[MODE_PROVISIONING] =
		{
			/* It goes with the threshold exponent of VPD page B2h, by which LOG SENSE
			 * counts. No descriptors: there is no threshold to arm. */
			.code = 0x1c,
			.subpage = 0x02,
			.len = 16,
			.preset = {0x5c, 0x02, 0, 12},
		},
};

void mode_values_preset(struct mode_values *ret)
{
	for (int i = 0; i < MODE_PAGE_COUNT; i++)
		memcpy(ret->page[i], mode_pages[i].preset, MODE_PAGE_MAX);
}

bool mode_page_wanted(enum mode_page_id id, uint8_t code, uint8_t subpage)
{
	const struct mode_page *p = &mode_pages[id];

	if (code != 0x3f && p->code != code)
		return false;
	return p->subpage == subpage || subpage == 0xff;
}

static const struct mode_page *find_page(uint8_t code, uint8_t subpage)
{
	for (int i = 0; i < MODE_PAGE_COUNT; i++)
		if (mode_pages[i].code == code && mode_pages[i].subpage == subpage)
			return &mode_pages[i];
	return NULL;
}

static int refuse(struct mode_refusal *ret_why, unsigned byte, int bit)
{
	*ret_why = (struct mode_refusal){.byte = byte, .bit = bit};
	return -EINVAL;
}

/** Bits of @p that would change although they must not: the first of them is pointed to. */
static int check_unchangeable(const struct mode_page *p, const uint8_t *cur, const uint8_t *buf,
			      unsigned base, struct mode_refusal *ret_why)
{
	unsigned header = p->subpage ? 4 : 2;

	for (unsigned i = header; i < p->len; i++) {
		uint8_t bad = (uint8_t)((cur[i] ^ buf[i]) & ~p->changeable[i]);

		if (bad)
			return refuse(ret_why, base + i, 31 - __builtin_clz(bad));
	}
	return 0;
}

/** One page at @buf; returns its length or -EINVAL. */
static int select_page(struct mode_values *v, const uint8_t *buf, size_t len, unsigned base,
		       struct mode_refusal *ret_why)
{
	bool spf = len && buf[0] & 0x40;
	size_t header = spf ? 4 : 2;
	const struct mode_page *p;
	uint8_t *cur;
	int ret;

	if (len < header) {
		ret_why->length = true;
		return -EINVAL;
	}
	if (buf[0] & 0x80)
		return refuse(ret_why, base, 7); /* PS: reserved here */
	p = find_page(buf[0] & 0x3f, spf ? buf[1] : 0);
	if (!p || (spf && !p->subpage))
		return refuse(ret_why, base, 5);
	if (spf ? get_be16(buf + 2) != p->len - 4 : buf[1] != p->len - 2)
		return refuse(ret_why, base + (spf ? 2 : 1), -1);
	if (len < p->len) {
		ret_why->length = true;
		return -EINVAL;
	}
	cur = v->page[p - mode_pages];
	ret = check_unchangeable(p, cur, buf, base, ret_why);
	if (ret)
		return ret;
	memcpy(cur + header, buf + header, p->len - header);
	return p->len;
}

int mode_values_select(struct mode_values *v, const uint8_t *buf, size_t len, unsigned base,
		       struct mode_refusal *ret_why)
{
	size_t off = 0;

	ret_why->length = false;
	while (off < len) {
		int n = select_page(v, buf + off, len - off, base + (unsigned)off, ret_why);

		if (n < 0)
			return n;
		off += (size_t)n;
	}
	return 0;
}

/*
 * { "version": 1, "lun": "<uuid>", "pages": { "08.00": "<hex of the page>", ... } }
 */
#define MODE_STORE_VERSION 1

static void page_name(const struct mode_page *p, char name[6])
{
	snprintf(name, 6, "%02x.%02x", p->code, p->subpage);
}

char *mode_values_encode(const struct mode_values *v, const char *lun_uuid)
{
	json_t *pages = json_object(), *doc;
	char *text;

	for (int i = 0; i < MODE_PAGE_COUNT; i++) {
		char name[6], hex[2 * MODE_PAGE_MAX + 1] = "";

		page_name(&mode_pages[i], name);
		for (int b = 0; b < mode_pages[i].len; b++)
			snprintf(hex + 2 * b, 3, "%02x", v->page[i][b]);
		json_object_set_new(pages, name, json_string(hex));
	}
	doc = json_pack("{s:i, s:s, s:o}", "version", MODE_STORE_VERSION, "lun", lun_uuid, "pages",
			pages);
	text = doc ? json_dumps(doc, JSON_INDENT(1) | JSON_SORT_KEYS) : NULL;
	json_decref(doc);
	return text;
}

/** The saved bits that may change; the others are this version's. */
static int decode_page(const char *hex, const struct mode_page *p, uint8_t *ret)
{
	if (strlen(hex) != 2u * p->len)
		return -EINVAL;
	for (unsigned b = 0; b < p->len; b++) {
		unsigned value;

		if (sscanf(hex + 2 * b, "%2x", &value) != 1)
			return -EINVAL;
		ret[b] = (uint8_t)((p->preset[b] & ~p->changeable[b]) | (value & p->changeable[b]));
	}
	return 0;
}

int mode_values_decode(const char *text, const char *lun_uuid, struct mode_values *ret,
		       struct reason *why)
{
	json_error_t err;
	json_t *doc = json_loads(text, JSON_REJECT_DUPLICATES, &err), *pages;
	struct mode_values v;
	const char *uuid;
	int version, ret_code = 0;

	mode_values_preset(&v);
	if (!doc ||
	    json_unpack(doc, "{s:i, s:s, s:o}", "version", &version, "lun", &uuid, "pages", &pages))
		ret_code = -EINVAL;
	else if (version != MODE_STORE_VERSION)
		ret_code = -EINVAL;
	for (int i = 0; !ret_code && !strcmp(uuid, lun_uuid) && i < MODE_PAGE_COUNT; i++) {
		const char *hex;
		char name[6];

		page_name(&mode_pages[i], name);
		hex = json_string_value(json_object_get(pages, name));
		if (hex)
			ret_code = decode_page(hex, &mode_pages[i], v.page[i]);
	}
	json_decref(doc);
	if (ret_code)
		return reason_set(why, EINVAL, "saved mode pages make no sense");
	*ret = v;
	return 0;
}
