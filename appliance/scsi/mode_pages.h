/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mode pages as data (SPC-4 7.5, SBC-3 6.5): what they hold, what of it may be changed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"

#define MODE_PAGE_MAX 32 /* bytes of the longest page, header included */

enum mode_page_id {
	MODE_RW_ERROR_RECOVERY, /* 01h */
	MODE_CACHING,		/* 08h */
	MODE_CONTROL,		/* 0Ah */
	MODE_CONTROL_EXT,	/* 0Ah/01h */
	MODE_INFO_EXCEPTIONS,	/* 1Ch */
	MODE_PROVISIONING,	/* 1Ch/02h */
	MODE_PAGE_COUNT
};

struct mode_page {
	uint8_t code, subpage;		   /* subpage 0: page_0 format */
	uint8_t len;			   /* bytes, header included */
	uint8_t preset[MODE_PAGE_MAX];	   /* default values; PS bit clear */
	uint8_t changeable[MODE_PAGE_MAX]; /* bits that MODE SELECT may change */
};

/** In the order of MODE SENSE (ascending page codes, subpages after their page). */
extern const struct mode_page mode_pages[MODE_PAGE_COUNT];

/** Values of all pages. */
struct mode_values {
	uint8_t page[MODE_PAGE_COUNT][MODE_PAGE_MAX];
};

/* Fields that others obey: byte and bit of their pages. */
#define MODE_CACHING_BYTE_WCE	  2
#define MODE_CACHING_WCE	  0x04
#define MODE_CONTROL_BYTE_D_SENSE 2
#define MODE_CONTROL_D_SENSE	  0x04
#define MODE_CONTROL_BYTE_SWP	  4
#define MODE_CONTROL_SWP	  0x08
#define MODE_CONTROL_BYTE_TAS	  5
#define MODE_CONTROL_TAS	  0x40

void mode_values_preset(struct mode_values *ret);

/** Why a parameter list is refused: the byte of the list, and the bit or -1; or its length. */
struct mode_refusal {
	bool length; /* PARAMETER LIST LENGTH ERROR */
	unsigned byte;
	int bit;
};

/**
 * Applies the mode pages at @buf (@len bytes, block descriptors skipped; @base: their offset in
 * the parameter list, for @ret_why) to @v, which is undefined when they are refused. Returns 0 or
 * -EINVAL.
 */
int mode_values_select(struct mode_values *v, const uint8_t *buf, size_t len, unsigned base,
		       struct mode_refusal *ret_why);

/** Whether MODE SENSE for page @code/@subpage returns page @id (3Fh, FFh: all). */
bool mode_page_wanted(enum mode_page_id id, uint8_t code, uint8_t subpage);

/** As a JSON document for the state file; malloc'ed, NULL without memory. */
char *mode_values_encode(const struct mode_values *v, const char *lun_uuid);
/** Fills @ret from @text, as far as it is about this LUN and changeable. -EINVAL with a reason. */
int mode_values_decode(const char *text, const char *lun_uuid, struct mode_values *ret,
		       struct reason *why);
