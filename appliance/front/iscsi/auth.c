// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The response is a hash over identifier, secret and challenge. The secret never leaves; what can
 * leak is time and our own answers: comparing takes constant time, an unknown user is verified
 * against a secret that nobody knows, and a challenge that equals ours is refused, since answering
 * it would hand the peer the answer it owes us.
 */
#include "front/iscsi/auth.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include <nettle/md5.h>
#include <nettle/memops.h>
#include <nettle/sha1.h>
#include <nettle/sha2.h>
#include <nettle/sha3.h>

#include "front/iscsi/text.h"

enum iscsi_chap_algorithm iscsi_chap_choose(const char *list, unsigned allowed)
{
	const char *item;
	char digits[4];
	uint64_t n;
	size_t len;

	while (iscsi_text_list_next(&list, &item, &len)) {
		if (len == 0 || len >= sizeof(digits))
			continue;
		memcpy(digits, item, len);
		digits[len] = '\0';
		if (iscsi_text_number(digits, &n) == 0 && n >= ISCSI_CHAP_MD5 &&
		    n <= ISCSI_CHAP_SHA3_256 && (!allowed || allowed >> n & 1))
			return (enum iscsi_chap_algorithm)n;
	}
	return ISCSI_CHAP_NONE;
}

int iscsi_chap_start(struct iscsi_chap *c, enum iscsi_chap_algorithm algorithm)
{
	uint8_t random[1 + ISCSI_CHAP_CHALLENGE_LEN];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	c->algorithm = algorithm;
	c->id = random[0];
	memcpy(c->challenge, random + 1, sizeof(c->challenge));
	return 0;
}

#define DIGEST(hash, size)                                                 \
	do {                                                               \
		struct hash##_ctx ctx;                                     \
                                                                           \
		hash##_init(&ctx);                                         \
		hash##_update(&ctx, 1, &id);                               \
		hash##_update(&ctx, strlen(secret), (const void *)secret); \
		hash##_update(&ctx, challenge_len, challenge);             \
		hash##_digest(&ctx, size, ret_digest);                     \
		return size;                                               \
	} while (0)

size_t iscsi_chap_digest(enum iscsi_chap_algorithm algorithm, uint8_t id, const char *secret,
			 const uint8_t *challenge, size_t challenge_len,
			 uint8_t ret_digest[ISCSI_CHAP_DIGEST_MAX])
{
	switch (algorithm) {
	case ISCSI_CHAP_MD5:
		DIGEST(md5, MD5_DIGEST_SIZE);
	case ISCSI_CHAP_SHA1:
		DIGEST(sha1, SHA1_DIGEST_SIZE);
	case ISCSI_CHAP_SHA256:
		DIGEST(sha256, SHA256_DIGEST_SIZE);
	case ISCSI_CHAP_SHA3_256:
		DIGEST(sha3_256, SHA3_256_DIGEST_SIZE);
	case ISCSI_CHAP_NONE:
		break;
	}
	return 0;
}

bool iscsi_chap_verify(const struct iscsi_chap *c, const char *secret, const uint8_t *response,
		       size_t len)
{
	uint8_t want[ISCSI_CHAP_DIGEST_MAX];
	size_t n = iscsi_chap_digest(c->algorithm, c->id, secret, c->challenge,
				     sizeof(c->challenge), want);

	return n > 0 && n == len && memeql_sec(want, response, n);
}

bool iscsi_chap_reflected(const struct iscsi_chap *c, const uint8_t *challenge, size_t len)
{
	return len == sizeof(c->challenge) && memcmp(challenge, c->challenge, len) == 0;
}
