/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CHAP (RFC 1994, RFC 7143 12.1), as authenticator and as peer. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ISCSI_CHAP_DIGEST_MAX	 32
#define ISCSI_CHAP_CHALLENGE_MAX 1024 /* bytes that an initiator may send */
#define ISCSI_CHAP_CHALLENGE_LEN 32   /* bytes that we send */

/** CHAP_A values: RFC 7143 12.1.4 and the IANA registry of PPP authentication algorithms. */
enum iscsi_chap_algorithm {
	ISCSI_CHAP_NONE = 0,
	ISCSI_CHAP_MD5 = 5,
	ISCSI_CHAP_SHA1 = 6,
	ISCSI_CHAP_SHA256 = 7,
	ISCSI_CHAP_SHA3_256 = 8,
};

struct iscsi_chap {
	enum iscsi_chap_algorithm algorithm;
	uint8_t id;
	uint8_t challenge[ISCSI_CHAP_CHALLENGE_LEN];
};

/**
 * The first algorithm of the initiator's list that we have and that @allowed names (1 << each; 0:
 * all), or ISCSI_CHAP_NONE. The initiator's order decides (RFC 7143 6.2.1, 12.1.3).
 */
enum iscsi_chap_algorithm iscsi_chap_choose(const char *list, unsigned allowed);
/** Draws identifier and challenge. -errno when there is no randomness. */
int iscsi_chap_start(struct iscsi_chap *c, enum iscsi_chap_algorithm algorithm);
/** H(id, secret, challenge) to @ret_digest; returns its length. */
size_t iscsi_chap_digest(enum iscsi_chap_algorithm algorithm, uint8_t id, const char *secret,
			 const uint8_t *challenge, size_t challenge_len,
			 uint8_t ret_digest[ISCSI_CHAP_DIGEST_MAX]);
/** Whether @response answers our challenge; takes the same time for every wrong answer. */
bool iscsi_chap_verify(const struct iscsi_chap *c, const char *secret, const uint8_t *response,
		       size_t len);
/** Whether @challenge is our own sent back to us (RFC 7143 12.1.3). */
bool iscsi_chap_reflected(const struct iscsi_chap *c, const uint8_t *challenge, size_t len);
